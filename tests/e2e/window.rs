//! No policy is out of force for a moment: a crowd that may not get anywhere tries all the time, while nodes start, stop, are killed,
//! forget what they knew and take pods in; and nothing of what the mesh carries meanwhile is readable on the wire.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle, Process};
use mesh_tests::probe::Probed;
use mesh_tests::scenario::{Dialled, at, dial, eventually, manifests, pod, start};

use crate::enrol::{capture_of, label};

/// Those who may not, each with all that it has come to.
struct Crowd(Vec<Process>);

impl Crowd {
    /// `client`, whom a policy names, and `stranger`, who has proven nothing, try both servers.
    fn gather(bed: &Bed) -> Result<Self> {
        let (near, far) = (at(&bed.pod("mesh/near")?), at(&bed.pod("mesh/far")?));
        let words = ["netprobe", "probe", &near, &far, "--threads", "12", "--seconds", "300"];
        let try_from = |name: &str| Ok::<_, anyhow::Error>(bed.pod(name)?.spawn(&words)?);
        Ok(Self(vec![try_from("mesh/client")?, try_from("outside/stranger")?]))
    }

    /// What has come of it so far, in all.
    fn so_far(&mut self) -> Result<Probed> {
        let mut all = Probed::default();
        for process in &mut self.0 {
            let mut line = process.line(Duration::from_secs(10))?;
            while let Ok(newer) = process.line(Duration::from_millis(1)) {
                line = newer;
            }
            let one: Probed = serde_json::from_str(&line).with_context(|| line.clone())?;
            all.tried += one.tried;
            all.served += one.served;
        }
        Ok(all)
    }

    /// Has them try while something is done, and for as long afterwards as it takes for [`ENOUGH`] attempts, or [`LONGEST`].
    fn try_during(&mut self, what: &str, act: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.so_far()?;
        let begun = Instant::now();
        act().with_context(|| what.to_owned())?;
        let mut now = self.so_far()?;
        while now.tried - before.tried < ENOUGH && begun.elapsed() < LONGEST {
            std::thread::sleep(Duration::from_millis(100));
            now = self.so_far()?;
        }
        let tried = now.tried - before.tried;
        ensure!(now.served == 0, "{what}: {} of {tried} attempts came through", now.served);
        ensure!(tried >= LEAST, "{what}: only {tried} attempts");
        Ok(())
    }
}

const POLICIES: &str = "\
    {apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: mesh}, \
     spec: {mtls: {mode: STRICT}}}\n---\n\
    {apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: closed, namespace: mesh}, \
     spec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/mesh/sa/client]}}]}]}}\n---\n";

#[test]
fn no_policy_is_out_of_force_for_a_moment() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    bed.apply(POLICIES)?;
    let (client, stranger) = (bed.pod("mesh/client")?, bed.pod("outside/stranger")?);
    for server in ["mesh/near", "mesh/far"] {
        for from in [&client, &stranger] {
            eventually(&bed, from, &at(&bed.pod(server)?), Dialled::refused)?;
        }
    }
    let mut crowd = Crowd::gather(&bed)?;
    let patience = Duration::from_secs(20);
    let back = |node: &str| bed.node(node)?.wait_ready(patience).context("it does not come back");
    for node in ["node-1", "node-2"] {
        crowd.try_during(&format!("{node} is killed and starts"), || {
            bed.node(node)?.kill9()?;
            std::thread::sleep(Duration::from_millis(500));
            bed.node(node)?.start()?;
            back(node)
        })?;
    }
    crowd.try_during("node-2 is replaced", || {
        bed.node("node-2")?.restart()?;
        back("node-2")
    })?;
    crowd.try_during("node-2 has forgotten all it knew", || {
        bed.node("node-2")?.kill9()?;
        forget(&bed, "node-2")?;
        bed.node("node-2")?.start()?;
        back("node-2")
    })?;
    crowd.try_during("nodes start without a control plane", || {
        let control = bed.control()?;
        control.kill9()?;
        for node in ["node-1", "node-2"] {
            bed.node(node)?.kill9()?;
            bed.node(node)?.start()?;
        }
        std::thread::sleep(Duration::from_secs(1));
        control.start()?;
        ["node-1", "node-2"].into_iter().try_for_each(back)
    })?;
    // Policy is in force, and not just everything broken.
    eventually(&bed, &bed.pod("mesh/near")?, &at(&bed.pod("mesh/far")?), Dialled::served)?;
    Ok(())
}

/// Takes from a node all that it has kept, but what it joins with.
fn forget(bed: &Bed, node: &str) -> Result<()> {
    let kept = bed.layout().state.join("nodes").join(node);
    for entry in std::fs::read_dir(kept)? {
        let path = entry?.path();
        if path.is_dir() {
            std::fs::remove_dir_all(path)?;
        } else if !path.ends_with("token") {
            std::fs::remove_file(path)?;
        }
    }
    // There may be nothing.
    let _ = std::fs::remove_dir_all(bed.layout().memory().join(node));
    Ok(())
}

/// From the moment in which a pod is told to be captured, nobody gets to it whom policy does not let.
#[test]
fn a_pod_that_is_taken_in_is_open_to_nobody_afterwards() -> Result<()> {
    let mut all = manifests() + "{apiVersion: v1, kind: Namespace, metadata: {name: late}}\n---\n";
    all += &pod("late", "server", "node-2", &["netprobe", "serve", "--port", "7000"]);
    all += &POLICIES.replace("namespace: mesh", "namespace: late");
    let bed = start(Bed::builder().nodes(2).manifests(all))?;
    let to = at(&bed.pod("late/server")?);
    let spawn = |from: &str| -> Result<Process> {
        Ok(bed.pod(from)?.spawn(&["netprobe", "probe", &to, "--threads", "12", "--seconds", "120"])?)
    };
    let mut crowd = Crowd(vec![spawn("mesh/client")?, spawn("outside/stranger")?]);
    ensure!(crowd.so_far()?.tried > 0, "nobody tries");
    bed.wait("that it is open before", Duration::from_secs(10), |_| {
        crowd.so_far().is_ok_and(|it| it.served > 0)
    })?;
    bed.apply(&label("late", "ambient"))?;
    bed.wait("that it is captured", Duration::from_secs(10), |bed| {
        capture_of(bed, "node-2", "late/server") == "captured"
    })?;
    // Whatever had begun before is over by now.
    std::thread::sleep(Duration::from_millis(300));
    let before = crowd.so_far()?;
    let begun = Instant::now();
    let mut now = before;
    while now.tried - before.tried < ENOUGH && begun.elapsed() < LONGEST {
        std::thread::sleep(Duration::from_millis(100));
        now = crowd.so_far()?;
    }
    ensure!(now.served == before.served, "{} came through afterwards", now.served - before.served);
    ensure!(now.tried - before.tried >= LEAST, "only {} attempts", now.tried - before.tried);
    Ok(())
}

/// While pods come, go and are taken in, and their nodes are replaced, what the mesh carries between two nodes is not readable
/// there; the same bytes of a pod outside of it are.
#[test]
fn nothing_is_readable_on_the_wire_while_pods_come_and_go() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let far = bed.pod("mesh/far")?;
    let wire = bed.capture("wire")?;
    let says = |from: &PodHandle, marker: &str| {
        dial(from, &[&at(&far), "--marker", marker, "--bytes", "2000", "--timeout", "1500"])
    };
    let client = bed.pod("mesh/client")?;
    let mut served = 0;
    for round in 0..6 {
        let name = format!("brief-{round}");
        bed.apply(&pod("mesh", &name, "node-1", &["sleep", "infinity"]))?;
        match round % 3 {
            0 => bed.node("node-1")?.kill9().and_then(|()| bed.node("node-1")?.start())?,
            1 => bed.node("node-2")?.restart()?,
            _ => {}
        }
        let until = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < until {
            served += u32::from(says(&client, MARKER)?.served());
            // One that is not captured yet is not of the mesh.
            if capture_of(&bed, "node-1", &format!("mesh/{name}")) == "captured" {
                let brief = bed.pod(&format!("mesh/{name}"))?;
                served += says(&brief, BRIEF).map_or(0, |seen| u32::from(seen.served()));
            }
        }
        bed.delete("Pod", "mesh", &name)?;
    }
    ensure!(served > 20, "only {served} connections were served");
    let stranger = bed.pod("outside/stranger")?;
    bed.wait("a connection from outside", Duration::from_secs(5), |_| {
        says(&stranger, STRANGER).is_ok_and(|seen| seen.served())
    })?;
    ensure!(!wire.overflowed(), "the capture has lost packets");
    let packets = wire.stop();
    let seen = |marker: &str| {
        packets.iter().any(|packet| packet.windows(marker.len()).any(|window| window == marker.as_bytes()))
    };
    ensure!(seen(STRANGER), "the control experiment: this capture cannot see plaintext");
    ensure!(!seen(MARKER), "plaintext of an enrolled pod on the wire");
    ensure!(!seen(BRIEF), "plaintext of a pod that has just been taken in on the wire");
    Ok(())
}

const MARKER: &str = "churn-marker-2203";
const BRIEF: &str = "brief-marker-2203";
const STRANGER: &str = "stranger-marker-2203";
/// Attempts for each thing that is done; as many of them as fit into [`LONGEST`].
const ENOUGH: u64 = 100_000;
const LONGEST: Duration = Duration::from_secs(10);
/// Fewer show nothing.
const LEAST: u64 = 2_000;
