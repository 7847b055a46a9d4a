//! A mesh of a given size, served to all of its nodes.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    Crowd, Part,
    fleet::Fleet,
    part::{Process, Resident},
    plane::Cluster,
};
use crate::bench::{
    figures::{Metric, Sample},
    output,
    stand::System,
};

/// Measures once: the mesh, then the baseline with messages of the size that the mesh's had.
pub(super) fn run(crowd: Crowd, lasting: Duration) -> Result<Vec<(System, Sample)>> {
    let (mesh, bytes) = mesh(crowd, lasting)?;
    let direct = direct(crowd, bytes, lasting)?;
    Ok(vec![(System::Direct, direct), (System::Mesh, mesh)])
}

/// A process that tells nodes of changes.
pub(super) trait Server {
    /// Makes a pod ready, or lets it be so no more.
    fn change(&mut self, index: u32, ready: bool) -> Result<()>;
    /// Processor seconds since its start.
    fn cpu_seconds(&self) -> Result<f64>;
    /// Its memory.
    fn resident(&self) -> Result<Resident>;
}

impl Server for Process {
    fn change(&mut self, index: u32, ready: bool) -> Result<()> {
        self.tell(&format!("change {index} {ready}"))
    }

    fn cpu_seconds(&self) -> Result<f64> {
        Self::cpu_seconds(self)
    }

    fn resident(&self) -> Result<Resident> {
        Self::resident(self)
    }
}

fn mesh(crowd: Crowd, lasting: Duration) -> Result<(Sample, usize)> {
    let cluster = Cluster::new(crowd)?;
    let started = Instant::now();
    let mut server = cluster.control()?;
    server.wait_ready(PATIENCE)?;
    let ready = started.elapsed();
    let mut fleet = Fleet::start(server.address(), crowd.nodes, true)?;
    fleet.wait_synced(PATIENCE)?;
    let cold = started.elapsed();
    let cpu = server.cpu_seconds()?;
    let told = fleet.received_each();
    thread::sleep(SETTLING);
    let changes = Changes::run(crowd, (&mut server, &mut fleet), lasting)?;
    let control = server.resident()?;
    let node = fleet.whole().context("one was started")?.resident()?;
    let mut sample = changes.sample;
    sample.extend([
        (Metric::ReadyS, ready.as_secs_f64()),
        (Metric::ColdS, cold.as_secs_f64()),
        (Metric::ColdCpuS, cpu),
        (Metric::MbPerNode, told / f64::from(1 << 20)),
        (Metric::RssMb, control.now),
        (Metric::PeakRssMb, control.peak),
        (Metric::NodeRssMb, node.now),
        (Metric::NodePeakRssMb, node.peak),
    ]);
    Ok((sample, changes.bytes))
}

fn direct(crowd: Crowd, bytes: usize, lasting: Duration) -> Result<Sample> {
    let mut server = Process::start(&Part::Direct(bytes))?;
    let address = address(&mut server)?;
    server.expect("ready")?;
    let mut fleet = Fleet::start(address, crowd.nodes, false)?;
    fleet.wait_synced(PATIENCE)?;
    Ok(Changes::run(crowd, (&mut server, &mut fleet), lasting)?.sample)
}

fn address(server: &mut Process) -> Result<SocketAddr> {
    server.expect("listening")?.parse().context("the server's address")
}

/// What changes have cost.
struct Changes {
    sample: Sample,
    /// Of the resource that told of one.
    bytes: usize,
}

impl Changes {
    /// One change after the other, each when all nodes have heard of the one before.
    fn run(crowd: Crowd, (server, fleet): (&mut dyn Server, &mut Fleet), lasting: Duration) -> Result<Self> {
        let (started, before, cpu) = (Instant::now(), fleet.received_each(), server.cpu_seconds()?);
        let (mut times, mut bytes) = (Vec::new(), 0);
        for number in 0_u32.. {
            if started.elapsed() >= lasting && times.len() >= FEWEST {
                break;
            }
            // Down, and up again, all over the mesh.
            let index = (number / 2).wrapping_mul(STRIDE) % crowd.pods;
            let change = Instant::now();
            server.change(index, number % 2 == 1)?;
            bytes = fleet.wait_told(&Crowd::uid(index), PATIENCE)?;
            times.push(change.elapsed().as_secs_f64() * 1e3);
        }
        let count = output::count(u64::try_from(times.len())?);
        times.sort_unstable_by(f64::total_cmp);
        let sample = vec![
            (Metric::P50Ms, rank(&times, 0.5)?),
            (Metric::P99Ms, rank(&times, 0.99)?),
            (Metric::BytesPerChange, (fleet.received_each() - before) / count),
            (Metric::CpuMsPerChange, (server.cpu_seconds()? - cpu) * 1e3 / count),
        ];
        Ok(Self { sample, bytes })
    }
}

/// The smallest value that a part of all does not exceed.
fn rank(sorted: &[f64], part: f64) -> Result<f64> {
    let count = output::count(u64::try_from(sorted.len())?);
    let below = sorted.iter().zip(1_u32..).find(|(_, position)| f64::from(*position) >= part * count);
    below.map(|(value, _)| *value).context("there was no change")
}

/// Neighbours are pods of one service, and of other nodes.
const STRIDE: u32 = 7919;
/// Changes that a 99th percentile takes.
const FEWEST: usize = 100;
/// What comes in the wake of the beginning is over.
const SETTLING: Duration = Duration::from_secs(1);
/// Then something is broken.
const PATIENCE: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        let rank = |part| rank(&hundred, part).unwrap();
        assert!((rank(0.5) - 50.0).abs() < 1e-9 && (rank(0.99) - 99.0).abs() < 1e-9);
        assert!(super::rank(&[], 0.5).is_err());
    }
}
