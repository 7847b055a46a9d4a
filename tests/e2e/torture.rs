//! The torture suite over every way in which the mesh carries TCP. What it asks for is in `mesh_tests::torture`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::bed::{Bed, Builder, PodHandle, Process};
use mesh_tests::scenario::{at, manifests, pod, start};
use mesh_tests::torture::{self, CROWD, Case, End, FILLED, Got, Path, Report, To, judge};

use crate::express as express_path;
use crate::scrape::Scrape;

/// A bed with a client and a torture server at the two ends of a path.
struct Stage {
    bed: Bed,
    path: Path,
    client: PodHandle,
    server: PodHandle,
    serving: Process,
    /// What the server has said of flows that nobody has asked for yet.
    heard: BTreeMap<u32, Report>,
    /// Number of the next flow.
    next: u32,
}

/// One flow by its case, with what its client and its server say of it.
type Flow = (Case, Report, Option<Report>);

fn stage(path: Path) -> Result<Stage> {
    stage_on(path, Bed::builder())
}

fn stage_on(path: Path, builder: Builder) -> Result<Stage> {
    let all = manifests() + &pod("outside", "plain", "node-1", &["sleep", "infinity"]);
    let mut builder = builder.nodes(2).manifests(all);
    if path == Path::Proxied {
        builder = express_path::disabled(builder);
    }
    let bed = start(builder)?;
    let (client, server) = match path {
        Path::Direct => ("outside/stranger", "outside/plain"),
        Path::Proxied | Path::Express => ("mesh/client", "mesh/near"),
        Path::CrossNode => ("mesh/client", "mesh/far"),
    };
    let (client, server) = (bed.pod(client)?, bed.pod(server)?);
    let mut serving = server.spawn(&["torture", "serve"])?;
    let ready = serving.line(Duration::from_secs(10))?;
    ensure!(ready == "ready", "the server says {ready:?}: {}", serving.errors());
    let stage = Stage { bed, path, client, server, serving, heard: BTreeMap::new(), next: 1 };
    if path == Path::Express {
        express_path::until_taken(&stage.bed, &stage.client, &at(&stage.server))?;
    }
    Ok(stage)
}

impl Stage {
    /// A counter of the kernel programs at the client's node.
    fn stat(&self, event: &str) -> Result<i64> {
        Ok(Scrape::of(&self.bed.node("node-1")?)?.count("mesh_ebpf_events_total", &[("event", event)]))
    }

    /// Plays these cases, all of them in each round, and asks of every flow what its case says, and that it took the path.
    fn play(&mut self, cases: &[String], (repeat, at_once): (u32, u32)) -> Result<Vec<Flow>> {
        self.play_at(self.server.ip(), cases, (repeat, at_once))
    }

    fn play_at(&mut self, to: IpAddr, cases: &[String], (repeat, at_once): (u32, u32)) -> Result<Vec<Flow>> {
        let before = (self.stat("express")?, self.stat("captured")?);
        let client = self.begin(to, cases, (repeat, at_once))?;
        let flows = self.end(client, cases.len() * usize::try_from(repeat)?)?;
        let count = i64::try_from(flows.len())?;
        let taken = (self.stat("express")? - before.0, self.stat("captured")? - before.1);
        let as_planned = match self.path {
            Path::Express => taken.0 == count,
            Path::Proxied | Path::CrossNode => taken.0 == 0 && taken.1 >= count,
            Path::Direct => taken.0 == 0,
        };
        ensure!(as_planned, "of {count} flows {taken:?} were (express, captured) on the path {}", self.path);
        Ok(flows)
    }

    /// Starts the client's end.
    fn begin(&mut self, to: IpAddr, cases: &[String], (repeat, at_once): (u32, u32)) -> Result<Process> {
        let first = self.next.to_string();
        self.next += u32::try_from(cases.len())? * repeat;
        let [to, repeat, at_once] = [to.to_string(), repeat.to_string(), at_once.to_string()];
        let names: Vec<&str> = cases.iter().map(String::as_str).collect();
        let words = ["--repeat", &repeat, "--at-once", &at_once, "--first", &first];
        Ok(self.client.spawn(&[&["torture", "run", &to][..], &names, &words].concat())?)
    }

    /// Waits for that end and for what the server says of its flows, and judges them.
    fn end(&mut self, mut client: Process, count: usize) -> Result<Vec<Flow>> {
        let mut flows = Vec::new();
        while flows.len() < count {
            let line = client.line(SILENCE).with_context(|| format!("{} of {count} flows", flows.len()))?;
            let client = report(&line)?;
            let case = torture::find(&client.case).with_context(|| client.case.clone())?;
            flows.push((case, client, None));
        }
        let (status, _) = client.wait(SILENCE)?;
        ensure!(status.success(), "the client: {status}");
        self.hear(&mut flows)?;
        let judged =
            flows.iter().map(|(case, client, server)| judge(case, self.path, client, server.as_ref()));
        let wrong: Vec<String> = judged.filter_map(Result::err).collect();
        if wrong.is_empty() {
            return Ok(flows);
        }
        let shown = wrong.iter().take(20).fold(String::new(), |all, one| all + "\n" + one);
        bail!("{} of {count} flows:{shown}", wrong.len());
    }

    /// Reads what the server says of these flows.
    fn hear(&mut self, flows: &mut [Flow]) -> Result<()> {
        // Those that may never be seen are looked for when all others have been.
        flows.sort_by_key(|(case, ..)| case.on(self.path).server.got == Got::Perhaps);
        let mut silent = false;
        for (case, client, server) in flows {
            let turned_away = case.to == To::Crowded && client.end == End::Reset;
            if case.to == To::Nobody || client.end == End::Refused || turned_away {
                continue;
            }
            let perhaps = case.on(self.path).server.got == Got::Perhaps;
            let patience = if silent || perhaps { MOMENT } else { SILENCE };
            while !self.heard.contains_key(&client.flow) {
                // What is missing is what `judge` will say.
                let Ok(line) = self.serving.line(patience) else { break };
                let one = report(&line)?;
                self.heard.insert(one.flow, one);
            }
            *server = self.heard.remove(&client.flow);
            silent |= server.is_none();
        }
        Ok(())
    }
}

fn report(line: &str) -> Result<Report> {
    serde_json::from_str(line).with_context(|| format!("no report: {line:?}"))
}

fn names(which: impl Fn(&Case) -> bool) -> Vec<String> {
    torture::all().into_iter().filter(|case| which(case)).map(|case| case.name).collect()
}

/// Every case, three times, with others at the same time, and once over IPv6; one that is large; and connections without a
/// word.
fn every_case(path: Path) -> Result<()> {
    every_case_on(&mut stage(path)?)
}

/// Nodes that speak HBONE with each other, as they do with others; otherwise they prefer `mesh/1`.
fn stage_over_hbone() -> Result<Stage> {
    stage_on(Path::CrossNode, Bed::builder().mesh_arg("--tunnel-protocol").mesh_arg("hbone"))
}

/// Tunnels that the server's node has taken: of HBONE, of `mesh/1`.
fn tunnels(stage: &Stage) -> Result<(i64, i64)> {
    let scrape = Scrape::of(&stage.bed.node("node-2")?)?;
    Ok((
        scrape.count("mesh_tunnels_taken_hbone_total", &[]),
        scrape.count("mesh_tunnels_taken_mesh_total", &[]),
    ))
}

fn every_case_on(stage: &mut Stage) -> Result<()> {
    let cases = names(|case| case.to != To::Crowded);
    stage.play(&cases, (3, 24))?;
    let v6 = stage.server.ip6().context("the server has no IPv6 address")?;
    stage.play_at(v6, &cases, (1, 24)).context("over IPv6")?;
    stage.play(&[format!("bulk-{}", bulk()?)], (1, 1)).context("in bulk")?;
    crowd(stage).context("a crowd")?;
    knock(stage, 100).context("without a word")
}

/// Of more connections than the queue of a server that does not accept has room for, those that the kernel does not forget
/// are served in the end. Who waits is another matter: between two sockets the client's `connect`, through a proxy what was
/// sent.
fn crowd(stage: &mut Stage) -> Result<()> {
    let crowd = CROWD * 3;
    let flows = stage.play(&["crowded".to_owned()], (crowd, crowd))?;
    let at_once = flows.iter().filter(|(_, client, _)| client.connected_ms < 700).count();
    let as_expected = match stage.path {
        Path::Direct | Path::Express => at_once < flows.len(),
        Path::Proxied | Path::CrossNode => at_once == flows.len(),
    };
    ensure!(as_expected, "{at_once} of {} connected at once", flows.len());
    let served = flows.iter().filter(|(_, _, server)| server.is_some()).count();
    ensure!(served > usize::try_from(CROWD)?, "only {served} of {} were served", flows.len());
    Ok(())
}

/// A connection that ends before its first byte is seen by the server, once, as one that ends.
fn knock(stage: &mut Stage, times: u32) -> Result<()> {
    let (count, to) = (times.to_string(), stage.server.ip().to_string());
    let knocking = stage.client.spawn(&["torture", "knock", &to, "--times", &count])?;
    let mut seen = 0;
    while seen < times {
        let line = stage.serving.line(SILENCE).with_context(|| format!("after {seen} of {times}"))?;
        let one = report(&line)?;
        // One that was reset before its first byte is left from what was before.
        ensure!(one.flow == 0, "after {seen}: {one:?}");
        seen += u32::from(one.end == End::Fin);
    }
    let (status, _) = knocking.wait(SILENCE)?;
    ensure!(status.success(), "{status}");
    Ok(())
}

/// Thousands of them, each with its own bytes, many at a time.
fn short_connections(path: Path) -> Result<()> {
    short_connections_on(&mut stage(path)?)
}

fn short_connections_on(stage: &mut Stage) -> Result<()> {
    let sizes: Vec<String> = (0..40).map(|step| format!("bytes-{}", 1 + step * 37)).collect();
    stage.play(&sizes, (50, 16)).map(drop)
}

/// However many readers stall, what they do not read is in the buffers of sockets, and no more than `each` KiB of a flow are
/// in any proxy.
fn stalled_readers(path: Path, each: u64) -> Result<()> {
    stalled_readers_on(&mut stage(path)?, each)
}

fn stalled_readers_on(stage: &mut Stage, each: u64) -> Result<()> {
    let count = 16;
    // What is made once is there before.
    stage.play(&["bytes-65536".to_owned()], (count * 2, count))?;
    let before = resident_kib(&stage.bed)?;
    let client = stage.begin(stage.server.ip(), &["stalled-server".to_owned()], (count, count))?;
    let (begun, mut most) = (Instant::now(), before.clone());
    while begun.elapsed() < Duration::from_secs(3) {
        most = most.into_iter().zip(resident_kib(&stage.bed)?).map(|(most, now)| most.max(now)).collect();
        std::thread::sleep(Duration::from_millis(50));
    }
    let flows = stage.end(client, usize::try_from(count)?)?;
    for (_, client, _) in &flows {
        ensure!(client.sent.bytes < FILLED, "a flow that nobody read took {} bytes", client.sent.bytes);
    }
    let bound = u64::from(count) * each + SLACK_KIB;
    for (before, most) in before.iter().zip(&most) {
        ensure!(most - before < bound, "{before} KiB grew to {most} KiB: {bound} KiB is the bound");
    }
    Ok(())
}

/// Resident memory of every node's process.
fn resident_kib(bed: &Bed) -> Result<Vec<u64>> {
    let mut all = Vec::new();
    for node in bed.status().nodes {
        let pid = bed.node(&node.name)?.pid()?.context("mesh-node does not run")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        all.push(resident.context("no VmRSS")?.parse()?);
    }
    Ok(all)
}

/// Bytes of the largest flow. The suite is for every change; whoever has the time says
/// `MESH_TORTURE_BULK=1073741824`.
fn bulk() -> Result<u64> {
    match std::env::var("MESH_TORTURE_BULK") {
        Ok(bytes) => {
            bytes.parse().with_context(|| format!("MESH_TORTURE_BULK={bytes:?} is no number of bytes"))
        }
        Err(_) => Ok(256 << 20),
    }
}

mod direct {
    use super::{Path, Result, every_case, short_connections};

    #[test]
    fn every_case_is_what_this_kernel_does() -> Result<()> {
        every_case(Path::Direct)
    }

    #[test]
    fn thousands_of_short_connections() -> Result<()> {
        short_connections(Path::Direct)
    }
}

mod proxied {
    use super::{Path, Result, every_case, short_connections, stalled_readers};

    #[test]
    fn every_case_comes_out_as_it_should() -> Result<()> {
        every_case(Path::Proxied)
    }

    #[test]
    fn thousands_of_short_connections() -> Result<()> {
        short_connections(Path::Proxied)
    }

    /// A read and what is left of the one before, in each direction.
    #[test]
    fn stalled_readers_cost_a_bounded_amount_of_memory() -> Result<()> {
        stalled_readers(Path::Proxied, 256)
    }
}

mod cross_node {
    use super::{Path, Result, ensure, every_case_on, short_connections, stage, stalled_readers, tunnels};

    #[test]
    fn every_case_comes_out_as_it_should() -> Result<()> {
        let mut stage = stage(Path::CrossNode)?;
        every_case_on(&mut stage)?;
        let (hbone, mesh) = tunnels(&stage)?;
        ensure!(hbone == 0 && mesh > 0, "{hbone} tunnels of HBONE, {mesh} of mesh/1");
        Ok(())
    }

    #[test]
    fn thousands_of_short_connections() -> Result<()> {
        short_connections(Path::CrossNode)
    }

    /// Besides those the window of a stream, a mebibyte, at one of the two ends.
    #[test]
    fn stalled_readers_cost_a_bounded_amount_of_memory() -> Result<()> {
        stalled_readers(Path::CrossNode, 1280)
    }
}

mod over_hbone {
    use super::{
        Result, ensure, every_case_on, short_connections_on, stage_over_hbone, stalled_readers_on, tunnels,
    };

    #[test]
    fn every_case_comes_out_as_it_should() -> Result<()> {
        let mut stage = stage_over_hbone()?;
        every_case_on(&mut stage)?;
        let (hbone, mesh) = tunnels(&stage)?;
        ensure!(hbone > 0 && mesh == 0, "{hbone} tunnels of HBONE, {mesh} of mesh/1");
        Ok(())
    }

    #[test]
    fn thousands_of_short_connections() -> Result<()> {
        short_connections_on(&mut stage_over_hbone()?)
    }

    #[test]
    fn stalled_readers_cost_a_bounded_amount_of_memory() -> Result<()> {
        stalled_readers_on(&mut stage_over_hbone()?, 1280)
    }
}

mod express;

/// What the allocator keeps, whatever it is asked for.
const SLACK_KIB: u64 = 6 << 10;
/// Until what may never come does not come.
const MOMENT: Duration = Duration::from_millis(500);
/// Until whoever says nothing has nothing more to say: a flow in which nothing moves is given up before.
const SILENCE: Duration = Duration::from_secs(45);
