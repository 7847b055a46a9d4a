//! Two versions of the mesh next to each other, as every rolling update has them. There is one version of the programs here: which one
//! of the protocol they speak is said by their environment.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_proto::protocol::VERSION;
use mesh_tests::bed::{Bed, NodeHandle, Process};
use mesh_tests::scenario::{at, manifests, start};

use crate::control::{churn, churned, traffic};
use crate::express::disabled;

/// The words that a process was started with.
fn words_of(pid: u32) -> Result<Vec<String>> {
    let line = fs::read(format!("/proc/{pid}/cmdline"))?;
    let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    Ok(words.filter(|word| !word.is_empty()).collect())
}

/// Starts a program on a node as if it were of the version that speaks `protocol`.
fn speaking(node: &NodeHandle<'_>, words: &[String], protocol: u32) -> Result<Process> {
    let protocol = format!("MESH_PROTOCOL={protocol}");
    let words: Vec<&str> = ["env", &protocol].into_iter().chain(words.iter().map(String::as_str)).collect();
    Ok(node.spawn(&words)?)
}

/// What `meshctl proxy-status` prints.
fn status(node: &NodeHandle<'_>) -> Result<String> {
    let told = node.exec(&["meshctl", "proxy-status", "--control", "http://127.0.0.1:15014"])?;
    Ok(String::from_utf8_lossy(&told.stdout).into_owned())
}

/// An edit that these nodes have to hear of.
fn edit(bed: &Bed, number: u32, nodes: &[&str]) -> Result<()> {
    bed.apply(&churn(number))?;
    let has = |node: &&str| churned(bed, node).is_ok_and(|has| has == Some(number));
    let heard = bed.wait("an edit on the nodes", Duration::from_secs(20), |_| nodes.iter().all(&has));
    heard.with_context(|| format!("edit {number} on {nodes:?}"))
}

/// A node is replaced by the next version and the control plane follows it; connections of all pods go on all the while. One that is
/// two versions away is refused by name, and goes on with what it has until it is understood again.
#[test]
fn versions_next_to_each_other_carry_traffic_and_others_keep_what_they_have() -> Result<()> {
    let bed = start(disabled(Bed::builder().nodes(2).manifests(manifests())))?;
    let (client, near, far) = (bed.pod("mesh/client")?, bed.pod("mesh/near")?, bed.pod("mesh/far")?);
    let (to_near, to_far) = (at(&near), at(&far));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let streams = [(&client, &to_far), (&far, &to_near)]
            .map(|(from, to)| scope.spawn(|| traffic(from, to, &is_over)));
        // Its process carries connections until they are over.
        let outcome = update(&bed);
        is_over.store(true, Ordering::Relaxed);
        let streams = streams.map(|stream| stream.join().expect("a thread"));
        let _new = outcome?;
        for (served, failures) in streams {
            ensure!(failures.is_empty(), "{} of {served} failed: {:?}", failures.len(), failures.first());
            ensure!(served > 20, "only {served} connections");
        }
        Ok(())
    })
}

fn update(bed: &Bed) -> Result<Process> {
    let (node, control) = (bed.node("node-1")?, bed.control()?);
    edit(bed, 1, &["node-1", "node-2"])?;

    // The new node under the old control plane.
    let new = speaking(&node, &words_of(node.pid()?.context("it does not run")?)?, VERSION + 1)?;
    bed.wait("the old process has nothing left to do", Duration::from_secs(60), |_| {
        node.log().is_ok_and(|log| log.contains("Nothing is left to do"))
    })
    .with_context(|| new.errors())?;
    node.stop(Duration::from_secs(3))?;
    edit(bed, 2, &["node-1", "node-2"])?;

    // The new control plane over the old node, which is the other one.
    let plane = words_of(control.pid().context("it does not run")?)?;
    control.kill9()?;
    let mut next = speaking(&node, &plane, VERSION + 1)?;
    edit(bed, 3, &["node-1", "node-2"]).with_context(|| next.errors())?;

    // Back by two at once: the node is told why it is not served, and so is who asks.
    next.kill();
    let mut older = speaking(&node, &plane, VERSION - 1)?;
    edit(bed, 4, &["node-2"]).with_context(|| older.errors())?;
    let reason = format!(
        "you speak version {} of the mesh's protocol, and this is version {}",
        VERSION + 1,
        VERSION - 1
    );
    bed.wait("the reason", Duration::from_secs(20), |_| new.errors().contains(&reason))
        .with_context(|| new.errors())?;
    let told = status(&node)?;
    ensure!(told.contains("REFUSED node-1") && told.contains(&reason), "{told}");
    ensure!(churned(bed, "node-1")? == Some(3), "it has what it had");

    // Understood again, it hears of everything.
    older.kill();
    control.start()?;
    edit(bed, 5, &["node-1", "node-2"])?;
    let told = status(&node)?;
    ensure!(!told.contains("REFUSED"), "{told}");
    Ok(new)
}
