//! What processes have used, from `/proc` and their cgroups.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};

use crate::sys::clock::processor_time;

/// Processor time of some processes since their start, all their threads, in seconds (user and system).
pub(super) fn cpu_seconds(pids: &[u32]) -> Result<f64> {
    // Not from `/proc`: ticks of 10 ms are more than what turns of a few seconds are compared by.
    let of = |pid: &u32| {
        processor_time(*pid).with_context(|| format!("cannot read the processor time of process {pid}"))
    };
    pids.iter().map(|pid| Ok(of(pid)?.as_secs_f64())).sum()
}

/// Processor time of this process and of those of its children, and theirs, that have been waited for, in seconds.
pub(super) fn family_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/self/stat").context("cannot read /proc/self/stat")?;
    let ticks = fields(&text, 4).with_context(|| format!("/proc/self/stat is not understood: {text}"))?;
    Ok(ticks / TICKS_PER_SECOND)
}

/// Seconds that all processors have spent on processes, and on other machines on the same hardware. Interrupts are
/// left out: the network's are on nobody's account, so that their share could not be told.
pub(super) fn task_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    columns(&text, |column| matches!(column, 0..=2 | 7)).context("/proc/stat is not understood")
}

/// Resident memory of a process in KiB.
pub(super) fn rss_kb(pid: u32) -> Result<f64> {
    status_kb(pid, "VmRSS:")
}

/// The most resident memory that a process ever had, in KiB.
pub(super) fn peak_kb(pid: u32) -> Result<f64> {
    status_kb(pid, "VmHWM:")
}

/// Watches what the rest of the machine does while something is measured.
#[derive(Debug)]
pub(super) struct Disturbance {
    ours: Vec<PathBuf>,
    since: Instant,
    others: f64,
}

impl Disturbance {
    /// Begins to watch; `ours` are the cgroups whose work is not a disturbance.
    pub(super) fn watch(ours: Vec<PathBuf>) -> Result<Self> {
        let others = others(&ours)?;
        Ok(Self { ours, since: Instant::now(), others })
    }

    /// How many processors were busy with something else on average, other machines on the same hardware included.
    pub(super) fn cores(&self) -> Result<f64> {
        let used = others(&self.ours)? - self.others;
        // The two clocks have different grain, so that a little less than nothing is possible.
        Ok((used / self.since.elapsed().as_secs_f64()).max(0.0))
    }
}

/// Processor seconds that were spent outside of some cgroups.
fn others(ours: &[PathBuf]) -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let mut others = busy(&text).context("/proc/stat is not understood")?;
    for group in ours {
        others -= group_seconds(group)?;
    }
    Ok(others)
}

fn group_seconds(group: &Path) -> Result<f64> {
    let path = group.join("cpu.stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse::<f64>().ok());
    Ok(usage.with_context(|| format!("{} has no usage_usec", path.display()))? / 1e6)
}

/// Seconds of all processors that were not idle: user, nice, system, (idle, iowait,) irq, softirq, steal.
fn busy(stat: &str) -> Option<f64> {
    columns(stat, |column| !matches!(column, 3..=4))
}

fn columns(stat: &str, wanted: impl Fn(usize) -> bool) -> Option<f64> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<f64> = all.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let wanted = ticks.iter().take(8).enumerate().filter(|(column, _)| wanted(*column));
    Some(wanted.map(|(_, ticks)| ticks).sum::<f64>() / TICKS_PER_SECOND)
}

/// The sum of some fields from the 14th on: `utime` and `stime`, and `cutime` and `cstime`, those of children. The second field is the
/// name, in parentheses and with any character in it.
fn fields(stat: &str, count: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<f64> =
        rest.split_whitespace().skip(11).take(count).map(str::parse).collect::<Result<_, _>>().ok()?;
    (fields.len() == count).then(|| fields.iter().sum())
}

fn status_kb(pid: u32, field: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    kilobytes(&text, field).with_context(|| format!("{path} has no {field}"))
}

fn kilobytes(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// What Linux shows to user space on every architecture we run on (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time() {
        let stat =
            "4711 (mesh) node :) S 1 4711 4711 0 -1 4194560 900 0 0 0 250 150 7 9 20 0 4 0 8868 31 512 184";
        assert_eq!((fields(stat, 2), fields(stat, 4)), (Some(400.0), Some(416.0)));
        assert_eq!(fields("4711 (mesh-node) S 1", 4), None);
        let own = || cpu_seconds(&[std::process::id()]).unwrap();
        let before = own();
        let since = Instant::now();
        while own() - before < 0.001 {
            assert!(since.elapsed().as_secs() < 10, "nothing is counted");
        }
        assert!(cpu_seconds(&[u32::MAX]).is_err());
    }

    #[test]
    fn the_rest_of_the_machine() {
        assert_eq!(busy("cpu  100 20 30 9999 999 5 6 39 7 7\ncpu0 1 1\n"), Some(2.0));
        assert_eq!(busy("intr 1\n"), None);
        assert!(task_seconds().is_ok_and(|all| all >= family_seconds().unwrap()));
        assert!(
            Disturbance::watch(Vec::new()).and_then(|watch| watch.cores()).is_ok_and(|cores| cores >= 0.0)
        );
    }

    #[test]
    fn memory() {
        let status = "VmHWM:\t   99 kB\nVmRSS:\t   15360 kB\n";
        assert_eq!(kilobytes(status, "VmRSS:"), Some(15_360.0));
        assert_eq!(kilobytes(status, "VmHWM:"), Some(99.0));
        assert_eq!(kilobytes("Name:\tx\n", "VmRSS:"), None);
        assert!(rss_kb(std::process::id()).is_ok_and(|kb| kb > 100.0));
    }
}
