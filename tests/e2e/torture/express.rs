//! The express path besides: a node that is dead or starts anew, changes of policy, maps without room.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_common::{ABI, maps};
use mesh_tests::bed::{Bed, Inbound, Network};
use mesh_tests::foreign;
use mesh_tests::scenario::{Dialled, at, captured, dial, eventually, pod};
use mesh_tests::torture::Path;

use crate::express as express_path;

use super::{Stage, every_case, every_case_on, knock, short_connections, stage, stage_on, stalled_readers};

#[test]
fn every_case_comes_out_as_it_should() -> Result<()> {
    every_case(Path::Express)
}

/// As the other kind of CNI joins pods, and with the other way to steer what arrives.
#[test]
fn the_same_over_a_bridge_with_steering_by_tc() -> Result<()> {
    let builder = Bed::builder().network(Network::Bridged).inbound(Inbound::Tc);
    every_case_on(&mut stage_on(Path::Express, builder)?)
}

#[test]
fn thousands_of_short_connections() -> Result<()> {
    short_connections(Path::Express)
}

/// No process of ours has any of it.
#[test]
fn stalled_readers_cost_no_memory_of_the_node() -> Result<()> {
    stalled_readers(Path::Express, 0)
}

fn deny(port: u16) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: closed, namespace: mesh}}, \
         spec: {{selector: {{matchLabels: {{app: near}}}}, action: DENY, \
         rules: [{{to: [{{operation: {{ports: ['{port}']}}}}]}}]}}}}"
    )
}

/// Policies come and go, and the node's process dies and starts anew, while flows run: not one of them notices, and new
/// ones are decided by what was said last.
#[test]
fn flows_survive_changes_and_a_dead_node() -> Result<()> {
    let mut stage = stage(Path::Express)?;
    let names =
        ["slow-server", "slow-client", "turn-by-turn", "both-stall-in-turn", "keepalive", "stalled-client"];
    let cases: Vec<String> = names.iter().map(ToString::to_string).collect();
    let (rounds, at_once) = (10, 12);
    let before = stage.stat("express")?;
    let running = stage.begin(stage.server.ip(), &cases, (rounds, at_once))?;
    for port in [9, 10] {
        stage.bed.apply(&deny(port))?;
        std::thread::sleep(Duration::from_millis(700));
    }
    stage.bed.node("node-1")?.kill9()?;
    let to = at(&stage.server);
    for _ in 0..10 {
        let seen = dial(&stage.client, &[&to])?;
        ensure!(seen.served(), "with a dead node: {seen:?}");
    }
    let closed = dial(&stage.client, &[&format!("{}:10", stage.server.ip())])?;
    ensure!(closed.error.as_deref() == Some("ConnectionRefused"), "what was refused still is: {closed:?}");
    stage.bed.node("node-1")?.restart()?;
    stage.bed.delete("AuthorizationPolicy", "mesh", "closed")?;
    let flows = stage.end(running, cases.len() * usize::try_from(rounds)?)?;
    let taken = stage.stat("express")? - before;
    ensure!(taken >= i64::try_from(flows.len())? + 10, "{taken} took the path");
    Ok(())
}

/// Nobody reads what the kernel tells of flows: it tells no more, says how much that was, and no flow is harmed.
#[test]
fn what_finds_no_room_in_the_ring_is_counted() -> Result<()> {
    let mut stage = stage(Path::Express)?;
    stage.bed.node("node-1")?.kill9()?;
    // An event of 112 bytes has a header of 8 in the ring.
    let room = maps::MAX_EVENT_BYTES / 120;
    knock(&mut stage, u32::try_from(room)? + 500)?;
    stage.bed.node("node-1")?.restart()?;
    let lost = stage.stat("express_events_lost")?;
    ensure!((400..700).contains(&lost), "{lost} were lost");
    stage.play(&["bytes-65536".to_owned()], (10, 2)).map(drop)
}

/// When as many flows are open as may be, further ones go through the proxy, are counted, and come out as they should. Those
/// that have ended make room again, and a count that is wrong is corrected.
#[test]
fn beyond_the_last_flow_the_proxy_takes_over() -> Result<()> {
    let mut stage = stage(Path::Express)?;
    let (case, count) = (["both-ways".to_owned()], 40_u32);
    stage.play(&case, (count, 4))?;
    let map = format!("/sys/fs/bpf/mesh-{}/node-1/{ABI}/map/{}", stage.bed.name(), maps::EXPRESS_OPEN);
    let open = foreign::counter(map.as_ref())?;
    ensure!(open < 2, "{open} flows are counted as open");
    let (before, done) = (stage.stat("express_full")?, AtomicBool::new(false));
    let flows = std::thread::scope(|scope| {
        // The node corrects it each second.
        let filling = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                foreign::set_counter(map.as_ref(), maps::MAX_EXPRESS_FLOWS)?;
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok::<_, anyhow::Error>(())
        });
        let client = stage.begin(stage.server.ip(), &case, (count, 2));
        let flows = client.and_then(|client| stage.end(client, usize::try_from(count)?));
        done.store(true, Ordering::Relaxed);
        filling.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        flows
    })?;
    let full = stage.stat("express_full")? - before;
    ensure!(full * 2 > i64::from(count), "of {} flows {full} found no room", flows.len());
    express_path::until_taken(&stage.bed, &stage.client, &at(&stage.server))?;
    stage.play(&case, (4, 2)).map(drop)
}

/// Verdicts that find no room are the proxy's to give. None that was given says more than the policy does.
#[test]
fn without_room_for_verdicts_the_proxy_decides() -> Result<()> {
    let mut stage = stage(Path::Express)?;
    let map = format!("/sys/fs/bpf/mesh-{}/node-1/{ABI}/map/{}", stage.bed.name(), maps::VERDICTS);
    let filled = foreign::fill_verdicts(map.as_ref()).context(map)?;
    ensure!(filled > 1000, "there was room for {filled} only");
    stage.bed.apply(&pod("mesh", "late", "node-1", &["sleep", "infinity"]))?;
    stage.bed.wait_ready(Duration::from_secs(20), |_| ())?;
    captured(&stage.bed, Duration::from_secs(10))?;
    let late = stage.bed.pod("mesh/late")?;
    eventually(&stage.bed, &late, &at(&stage.server), Dialled::served)?;
    // Those that have their verdicts keep them.
    stage.play(&["both-ways".to_owned()], (4, 2))?;
    let known = std::mem::replace(&mut stage.client, late);
    stage.path = Path::Proxied;
    stage.play(&["both-ways".to_owned(), "client-resets".to_owned()], (4, 2)).context("the late pod")?;
    stage.client = known;
    closed_all_the_same(&stage)
}

/// A port that is closed now is one that the kernel was told nothing about, for want of room.
fn closed_all_the_same(stage: &Stage) -> Result<()> {
    stage.bed.apply(&deny(7000))?;
    let (to, known) = (at(&stage.server), &stage.client);
    eventually(&stage.bed, known, &to, |seen| !seen.served()).context("a policy that found no room")?;
    ensure!(!dial(known, &[&to])?.served(), "it was refused once only");
    Ok(())
}
