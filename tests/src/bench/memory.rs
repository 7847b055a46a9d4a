//! What proxies take of memory. Each run starts with new processes: what one has freed, the next would use again.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    case::{Load, Memory, Place, Traffic},
    figures::{Metric, Sample},
    manifests, output,
    stand::{Port, Stand, System},
};
use crate::scenario;

/// Whether a question can be asked of a system.
pub(super) fn applies(system: System, memory: Memory) -> bool {
    match memory {
        Memory::Idle | Memory::HeldConnections => system.has_nodes(),
        // The peer reads its workloads once, from a file.
        Memory::PerPod => system == System::Mesh,
    }
}

/// Measures once.
pub(super) fn run(stand: &mut Stand, system: System, memory: Memory) -> Result<Sample> {
    stand.restart(system)?;
    match memory {
        Memory::Idle => {
            thread::sleep(SETTLING);
            Ok(vec![(Metric::RssMb, first(&stand.resident(system)?)? / 1024.0)])
        }
        Memory::PerPod => per_pod(stand, system),
        Memory::HeldConnections => held(stand, system),
    }
}

/// What those cost that come after others: the first ones bring in code as well.
fn per_pod(stand: &Stand, system: System) -> Result<Sample> {
    let bed = stand.bed(system);
    let pods = || bed.status().pods.len();
    let without = pods();
    thread::sleep(SETTLING);
    let with = |crowd: usize| {
        bed.apply(&manifests::crowd(system, crowd))?;
        bed.wait("many pods", Duration::from_secs(60), |_| pods() == without + crowd)?;
        bed.wait_ready(Duration::from_secs(60), |_| ())?;
        // The node hears of pods on its own time; those that it has not heard of are not missed.
        thread::sleep(SETTLING);
        scenario::captured(bed, Duration::from_secs(60))?;
        first(&stand.resident(system)?)
    };
    let (before, after) = (with(CROWD)?, with(2 * CROWD)?);
    bed.delete("Deployment", system.name(), manifests::CROWD)?;
    bed.wait("the end of many pods", Duration::from_secs(60), |_| pods() == without)?;
    Ok(vec![(Metric::KbPerPod, (after - before) / output::count(CROWD as u64))])
}

/// As [`per_pod`]: what the second thousand costs.
fn held(stand: &Stand, system: System) -> Result<Sample> {
    thread::sleep(SETTLING);
    stand.warm_up(system, Traffic { place: Place::CrossNode, load: Load::Connect, concurrency: 3 })?;
    let server = stand.servers(system, Place::CrossNode, (Port::Hold, 1))?;
    let server = server.first().context("there is no server")?;
    let resident = || anyhow::Ok(stand.resident(system)?.iter().sum::<f64>());
    let _first = Holder::start(stand, system, server)?;
    let before = resident()?;
    let _second = Holder::start(stand, system, server)?;
    Ok(vec![(Metric::KbPerConn, (resident()? - before) / output::count(HELD as u64))])
}

fn first(resident: &[f64]) -> Result<f64> {
    resident.first().copied().context("there is no proxy")
}

/// A process that holds connections; dropping it ends it.
struct Holder(Child);

impl Holder {
    /// Opens them, and waits until they are open and have been for a while.
    fn start(stand: &Stand, system: System, server: &SocketAddr) -> Result<Self> {
        let script = format!("ulimit -n 65536; exec netprobe hold --count {HELD} {server}");
        let mut command = stand.client(system)?.command(&["sh", "-c", &script])?;
        // The connections last as long as the standard input.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = Self(command.spawn().context("cannot run netprobe")?);
        holder.wait_for_all()?;
        thread::sleep(SETTLING);
        Ok(holder)
    }

    fn wait_for_all(&mut self) -> Result<()> {
        let output = self.0.stdout.take().context("netprobe has no output")?;
        let mut said = String::new();
        for line in BufReader::new(output).lines() {
            let line = line?;
            if line == format!("holding {HELD}") {
                return Ok(());
            }
            said = said + &line + "\n";
        }
        let errors = self.0.stderr.take().map(std::io::read_to_string).transpose()?.unwrap_or_default();
        bail!("netprobe does not hold {HELD} connections:\n{said}{errors}")
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Connections that are held.
const HELD: usize = 1000;

/// Pods that come at once.
const CROWD: usize = 50;

/// Until what has to be done once is done, and what is not needed is given back.
const SETTLING: Duration = Duration::from_secs(8);
