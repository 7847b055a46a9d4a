//! A new process of a node beside the old one, as rolling updates have it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::bed::{Bed, NodeHandle, PodHandle, Process};
use mesh_tests::scenario::{at, dial, manifests, start};

use crate::express::disabled;

/// Starts what runs on a node a second time, in a cgroup of its own; with these `options` in place of its own.
fn another(node: &NodeHandle<'_>, options: &[(&str, &str)]) -> Result<Process> {
    let pid = node.pid()?.context("it does not run")?;
    let line = fs::read(format!("/proc/{pid}/cmdline"))?;
    let words: Vec<_> =
        line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let mut words: Vec<&str> = words.iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
    for (option, value) in options {
        match words.iter().position(|word| word == option) {
            Some(at) => words[at + 1] = value,
            None => words.extend([*option, *value]),
        }
    }
    Ok(node.spawn(&words)?)
}

/// Connects again and again; how often, and what went wrong.
fn connect_until(is_over: &AtomicBool, client: &PodHandle, to: &str) -> Result<(usize, Vec<String>)> {
    let (mut count, mut wrong) = (0, Vec::new());
    while !is_over.load(Ordering::Relaxed) {
        let seen = dial(client, &[to])?;
        count += 1;
        if !seen.served() {
            wrong.push(format!("{seen:?}"));
        }
    }
    Ok((count, wrong))
}

/// Does something while connections are made on some ways, one after the other on each: many are, and none fails.
fn while_connecting<T>(ways: &[(&PodHandle, &str)], act: impl FnOnce() -> Result<T>) -> Result<T> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let connect = |(from, to): &(&'_ PodHandle, &'_ str)| connect_until(&is_over, from, to);
        let streams: Vec<_> = ways.iter().map(|way| scope.spawn(move || connect(way))).collect();
        let done = act();
        is_over.store(true, Ordering::Relaxed);
        for stream in streams {
            let (count, wrong) = stream.join().expect("a thread")?;
            ensure!(wrong.is_empty(), "{} of {count} failed: {wrong:?}", wrong.len());
            ensure!(count > 20, "only {count} connections were made");
        }
        done
    })
}

fn eventually(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(40);
    while !holds()? {
        ensure!(Instant::now() < end, "{what}: not in time");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Connections from a pod, to a pod, and within the node find somebody at any moment; the new process follows the
/// configuration, and the old one waits for its end without doing anything.
#[test]
fn a_node_is_replaced_and_no_connection_finds_nobody() -> Result<()> {
    let bed = start(disabled(Bed::builder().nodes(2).manifests(manifests())))?;
    let (client, near, far) = (bed.pod("mesh/client")?, bed.pod("mesh/near")?, bed.pod("mesh/far")?);
    let (to_near, to_far) = (at(&near), at(&far));
    let node = bed.node("node-1")?;
    let ways = [(&client, &*to_near), (&client, &*to_far), (&far, &*to_near)];
    let new = while_connecting(&ways, || replace(&node))?;
    // The two had the objects of one node, and the new one has them alone now.
    bed.apply(
        "{apiVersion: v1, kind: Namespace, metadata: {name: mesh, labels: {istio.io/dataplane-mode: none}}}",
    )?;
    eventually("the new process lets go of pods", || Ok(new.errors().contains("Released a pod.")))?;
    eventually("pods talk without the mesh", || Ok(dial(&far, &[&to_near])?.served()))
}

/// Has a new process take over, and ends the old one when it has nothing left to do.
fn replace(node: &NodeHandle<'_>) -> Result<Process> {
    thread::sleep(Duration::from_millis(300));
    let new = another(node, &[])?;
    eventually("the old process has nothing left to do", || {
        Ok(node.log()?.contains("Nothing is left to do"))
    })
    .with_context(|| new.errors())?;
    let said = new.errors();
    ensure!(said.contains("Taking over from the process before this one"), "{said}");
    ensure!(said.contains("adopted=true"), "{said}");
    node.stop(Duration::from_secs(3))?;
    thread::sleep(Duration::from_millis(300));
    Ok(new)
}

/// Whoever updates nodes tells the old process to end as soon as the new one is ready: what the old one carries has its time all
/// the same.
#[test]
fn what_a_replaced_process_carries_outlasts_the_wish_that_it_stop() -> Result<()> {
    let bed = start(disabled(Bed::builder().nodes(2).manifests(manifests())))?;
    let (client, node) = (bed.pod("mesh/client")?, bed.node("node-1")?);
    let to_far = at(&bed.pod("mesh/far")?);
    let mut held = client.spawn(&["netprobe", "hold", &to_far, "--count", "1"])?;
    ensure!(held.line(Duration::from_secs(5))? == "holding 1");
    let old = node.pid()?.context("it does not run")?.to_string();
    let new = another(&node, &[])?;
    eventually("the new process serves", || Ok(node.log()?.contains("Draining")))
        .with_context(|| new.errors())?;
    ensure!(Command::new("kill").arg(&old).status()?.success());
    let ended = held.line(Duration::from_secs(2));
    ensure!(ended.is_err(), "its connection ended: {ended:?}");
    ensure!(Path::new("/proc").join(&old).exists(), "it has ended before its connections");
    // A second wish ends what is left.
    ensure!(Command::new("kill").arg(&old).status()?.success());
    held.line(Duration::from_secs(3)).context("the end of its connection")?;
    Ok(())
}

/// Somebody who takes over and dies at once leaves the old process, which serves on until another takes over: no connection finds nobody,
/// and what the old one carries has its time.
#[test]
fn a_successor_that_dies_at_once_changes_nothing() -> Result<()> {
    let bed = start(disabled(Bed::builder().nodes(2).manifests(manifests())))?;
    let (client, near, node) = (bed.pod("mesh/client")?, bed.pod("mesh/near")?, bed.node("node-1")?);
    let (far, to_near, to_far) = (bed.pod("mesh/far")?, at(&near), at(&bed.pod("mesh/far")?));
    let mut held = client.spawn(&["netprobe", "hold", &to_far, "--count", "1"])?;
    ensure!(held.line(Duration::from_secs(5))? == "holding 1");
    let before = node.pid()?;
    let ways = [(&client, &*to_near), (&client, &*to_far), (&far, &*to_near)];
    drop(while_connecting(&ways, || fail_and_replace(&node))?);
    let ended = held.line(Duration::from_millis(100));
    ensure!(ended.is_err(), "its connection ended: {ended:?}");
    ensure!(node.pid()? == before, "it has ended before its connections");
    Ok(())
}

/// Two processes after each other fail to take over, and then one does.
fn fail_and_replace(node: &NodeHandle<'_>) -> Result<Process> {
    for time in 1..=2 {
        let new = another(node, &[("--cgroup", NOWHERE)])?;
        eventually("the old process notices", || {
            Ok(node.log()?.matches("serving on as things were").count() == time)
        })
        .with_context(|| new.errors())?;
        ensure!(new.errors().contains("Taking over from the process before this one"), "{}", new.errors());
        // Connections are made meanwhile.
        thread::sleep(Duration::from_millis(500));
    }
    let new = another(node, &[])?;
    eventually("the old process is replaced", || Ok(node.log()?.contains("Draining")))
        .with_context(|| new.errors())?;
    Ok(new)
}

/// Where nobody takes over after one that has failed to, nobody follows the configuration: the old process ends, so that whoever looks
/// after it starts it anew. What it carries has its time before.
#[test]
fn a_successor_that_dies_is_not_waited_for_for_ever() -> Result<()> {
    let bed = start(disabled(Bed::builder().nodes(2).manifests(manifests())))?;
    let (client, near, node) = (bed.pod("mesh/client")?, bed.pod("mesh/near")?, bed.node("node-1")?);
    let to_far = at(&bed.pod("mesh/far")?);
    let mut held = client.spawn(&["netprobe", "hold", &to_far, "--count", "1"])?;
    ensure!(held.line(Duration::from_secs(5))? == "holding 1");
    let before = node.pid()?;
    let _new = another(&node, &[("--cgroup", NOWHERE)])?;
    eventually("the old process waits", || Ok(node.log()?.contains("serving on as things were")))?;
    eventually("the old process gives up", || Ok(node.log()?.contains("has not begun to serve")))?;
    let ended = held.line(Duration::from_secs(2));
    ensure!(ended.is_err(), "its connection ended: {ended:?}");
    ensure!(node.pid()? == before, "it has ended before its connections");
    held.kill();
    eventually("the node serves again", || Ok(node.pid()?.is_some_and(|pid| Some(pid) != before)))?;
    node.wait_ready(Duration::from_secs(10))?;
    eventually("connections", || Ok(dial(&client, &[&at(&near)])?.served()))
}

/// What a new process can find out about itself it does before anybody steps aside for it: nothing is lost, nothing waits.
#[test]
fn a_successor_that_cannot_begin_changes_nothing() -> Result<()> {
    let bed = start(disabled(Bed::builder().nodes(2).manifests(manifests())))?;
    let (client, node) = (bed.pod("mesh/client")?, bed.node("node-1")?);
    let to_far = at(&bed.pod("mesh/far")?);
    let before = node.pid()?;
    let is_over = AtomicBool::new(false);
    let said = thread::scope(|scope| -> Result<String> {
        let stream = scope.spawn(|| connect_until(&is_over, &client, &to_far));
        let new = another(&node, &[("--control-ca", NOWHERE)])?;
        let ended = eventually("it gives up", || Ok(new.errors().contains("mesh-node: ")));
        let said = new.errors();
        ended.with_context(|| said.clone())?;
        ensure!(!new.wait(Duration::from_secs(5))?.0.success(), "{said}");
        // Whoever had stepped aside would be about to end by now.
        thread::sleep(Duration::from_secs(1));
        is_over.store(true, Ordering::Relaxed);
        let (count, wrong) = stream.join().expect("a thread")?;
        ensure!(wrong.is_empty(), "{} of {count} failed: {wrong:?}", wrong.len());
        Ok(said)
    })?;
    ensure!(said.contains("the process before this one serves on") && said.contains(NOWHERE), "{said}");
    ensure!(node.pid()? == before, "the old process has ended");
    let log = node.log()?;
    ensure!(!log.contains("Another process takes over"), "{log}");
    Ok(())
}

/// A process that was replaced is not lost with its successor: it ends, and whoever looks after it starts it anew.
#[test]
fn a_replaced_process_comes_back_when_its_successor_is_gone() -> Result<()> {
    let bed = start(disabled(Bed::builder().nodes(2).manifests(manifests())))?;
    let (client, near, node) = (bed.pod("mesh/client")?, bed.pod("mesh/near")?, bed.node("node-1")?);
    let before = node.pid()?;
    let mut new = another(&node, &[])?;
    eventually("the old process has nothing left to do", || {
        Ok(node.log()?.contains("Nothing is left to do"))
    })
    .with_context(|| new.errors())?;
    ensure!(dial(&client, &[&at(&near)])?.served(), "by the new one");
    new.kill();
    eventually("the old one comes back", || Ok(node.pid()?.is_some_and(|pid| Some(pid) != before)))?;
    node.wait_ready(Duration::from_secs(10))?;
    eventually("connections", || Ok(dial(&client, &[&at(&near)])?.served()))
}

/// A process that beside another asks for its own readiness is not told of the other's.
#[test]
fn readiness_is_of_the_process_that_is_asked_for() -> Result<()> {
    let bed = start(disabled(Bed::builder().nodes(2).manifests(manifests())))?;
    let node = bed.node("node-1")?;
    ensure!(node.exec(&["mesh-node", "ready"])?.status.success(), "whichever it is");
    let output = node.exec(&["env", "MESH_INSTANCE=another", "mesh-node", "ready"])?;
    ensure!(!output.status.success(), "another is not: {output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(text.contains("another process of this node answers here"), "{text}");
    Ok(())
}

/// What a version before this one with other maps has left goes when the new one has every pod, though the old one still runs.
#[test]
fn a_process_of_another_version_is_replaced() -> Result<()> {
    let bed = start(disabled(Bed::builder().nodes(2).manifests(manifests())))?;
    let (client, node) = (bed.pod("mesh/client")?, bed.node("node-1")?);
    let (near, far) = (at(&bed.pod("mesh/near")?), at(&bed.pod("mesh/far")?));
    ensure!(dial(&client, &[&near])?.served());
    let pins = bed.layout().pins.join("node-1");
    fs::rename(pins.join(mesh_common::ABI), pins.join("v0"))?;
    let new = another(&node, &[])?;
    eventually("the new process has all pods", || Ok(node.log()?.contains("Draining")))
        .with_context(|| new.errors())?;
    ensure!(!pins.join("v0").exists(), "{}", new.errors());
    // The ports that the old process has are its own until it ends.
    let listeners = client.exec(&["ss", "-Htlnp"])?;
    let text = String::from_utf8_lossy(&listeners.stdout).into_owned();
    let at_usual = text.lines().filter(|line| line.contains("127.0.0.1:15001 "));
    let pid = format!("pid={},", node.pid()?.context("it does not run")?);
    ensure!(at_usual.clone().all(|line| line.contains(&pid)), "{text}");
    for to in [near, far] {
        eventually("connections", || Ok(dial(&client, &[&to])?.served())).with_context(|| new.errors())?;
    }
    Ok(())
}

const NOWHERE: &str = "/nowhere/at/all";
