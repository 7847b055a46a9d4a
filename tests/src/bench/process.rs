//! What processes have used, from `/proc`.

use std::fs;

use anyhow::{Context, Result};

/// Processor time of some processes since their start, all their threads, in seconds (user and system).
pub(super) fn cpu_seconds(pids: &[u32]) -> Result<f64> {
    let mut sum = 0.0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        sum += ticks(&text).with_context(|| format!("{path} is not understood: {text}"))? / TICKS_PER_SECOND;
    }
    Ok(sum)
}

/// Resident memory of a process in KiB.
pub(super) fn rss_kb(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    rss(&text).with_context(|| format!("{path} has no VmRSS"))
}

/// `utime` and `stime`, the 14th and 15th field. The second is the name, in parentheses and with any character in it.
fn ticks(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn rss(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
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
        assert_eq!(ticks(stat), Some(400.0));
        assert_eq!(ticks("4711 (mesh-node) S 1"), None);
        assert!(cpu_seconds(&[std::process::id()]).is_ok());
    }

    #[test]
    fn memory() {
        assert_eq!(rss("VmHWM:\t   99 kB\nVmRSS:\t   15360 kB\n"), Some(15_360.0));
        assert_eq!(rss("Name:\tx\n"), None);
        assert!(rss_kb(std::process::id()).is_ok_and(|kb| kb > 100.0));
    }
}
