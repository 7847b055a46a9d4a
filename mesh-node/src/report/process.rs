//! What the kernel says about this process, under the names every Prometheus client library uses.

use std::fs;

/// Figures of `/proc/self`. What cannot be read is absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ProcessFigures {
    /// User and system time, seconds.
    pub(super) cpu_seconds: Option<f64>,
    /// Seconds since 1970.
    pub(super) start_seconds: Option<f64>,
    /// Bytes.
    pub(super) resident: Option<u64>,
    /// Bytes.
    pub(super) virtual_memory: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) open_fds: Option<u64>,
    /// The soft limit.
    pub(super) max_fds: Option<u64>,
}

impl ProcessFigures {
    /// Reads them now.
    pub(super) fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/stat").unwrap_or_default();
        let mut figures = parse(&stat, &status, &limits);
        let boot = line_number(&kernel, "btime ");
        figures.start_seconds =
            boot.zip(stat_field(&stat, START_TIME)).map(|(boot, ticks)| float(boot) + seconds(ticks));
        figures.open_fds = open_fds();
        figures
    }
}

fn parse(stat: &str, status: &str, limits: &str) -> ProcessFigures {
    let cpu =
        stat_field(stat, USER_TIME).zip(stat_field(stat, SYSTEM_TIME)).map(|(user, system)| user + system);
    ProcessFigures {
        cpu_seconds: cpu.map(seconds),
        start_seconds: None,
        resident: line_number(status, "VmRSS:").map(|kib| kib * 1024),
        virtual_memory: line_number(status, "VmSize:").map(|kib| kib * 1024),
        threads: line_number(status, "Threads:"),
        open_fds: None,
        max_fds: line_number(limits, "Max open files"),
    }
}

/// Entries of the descriptor table, without the one that counting opens.
fn open_fds() -> Option<u64> {
    let entries = fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(entries).ok()?.checked_sub(1)
}

/// A field of `/proc/self/stat`, numbered from 1 as in its manual page; only fields behind the process name, which may
/// itself hold spaces and brackets.
fn stat_field(stat: &str, number: usize) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

/// The first number on the first line that starts with `label`.
fn line_number(text: &str, label: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(label))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

fn seconds(ticks: u64) -> f64 {
    float(ticks) / TICKS_PER_SECOND
}

#[expect(clippy::cast_precision_loss, reason = "tick counts stay far below 2^52")]
fn float(value: u64) -> f64 {
    value as f64
}

const USER_TIME: usize = 14;
const SYSTEM_TIME: usize = 15;
const START_TIME: usize = 22;
/// `USER_HZ`: part of the kernel's interface, 100 on every architecture this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_what_the_kernel_writes() {
        let stat = "77 (a) b (c) S 1 77 77 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 3 0 4321 10000 200 184467";
        let status = "Name:\tx\nVmSize:\t  2048 kB\nVmRSS:\t  1024 kB\nThreads:\t3\n";
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024  4096  files\n";
        let figures = parse(stat, status, limits);
        assert_eq!(figures.cpu_seconds, Some(2.0));
        assert_eq!((figures.resident, figures.virtual_memory), (Some(1 << 20), Some(2 << 20)));
        assert_eq!((figures.threads, figures.max_fds), (Some(3), Some(1024)));
        assert_eq!(stat_field(stat, START_TIME), Some(4321));
        assert_eq!(parse("", "", "Max open files unlimited"), ProcessFigures::default());
    }

    #[test]
    fn this_process_has_figures() {
        let figures = ProcessFigures::read();
        assert!(figures.open_fds.is_some_and(|open| open >= 3));
        assert!(figures.resident.is_some_and(|bytes| bytes > 100_000));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(figures.start_seconds.is_some_and(|start| start <= now + 1.0 && start > now - 3_600.0));
    }
}
