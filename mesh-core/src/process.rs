//! What the kernel says about a process in `/proc`, under the names every Prometheus client library uses. Whoever has the
//! files reads them; here they are understood.

/// Figures of a process. What could not be read is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessFigures {
    /// User and system time, seconds.
    pub cpu_seconds: Option<f64>,
    /// Seconds since 1970.
    pub start_seconds: Option<f64>,
    /// Bytes.
    pub resident: Option<u64>,
    /// Bytes.
    pub virtual_memory: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// The soft limit of them.
    pub max_fds: Option<u64>,
}

/// What the files of a process say, each as it was read, or empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcFiles<'a> {
    /// `/proc/PID/stat`.
    pub stat: &'a str,
    /// `/proc/PID/status`.
    pub status: &'a str,
    /// `/proc/PID/limits`.
    pub limits: &'a str,
    /// `/proc/stat`, of the machine.
    pub machine: &'a str,
    /// Entries of `/proc/PID/fd`, without the one that counting them opens.
    pub open_fds: Option<u64>,
}

impl ProcessFigures {
    /// The figures of the process that asks: `read` gives the text of a file, `count` how many entries a directory has.
    pub fn of_itself(read: impl Fn(&str) -> Option<String>, count: impl Fn(&str) -> Option<usize>) -> Self {
        let text = |path: &str| read(path).unwrap_or_default();
        let entries = count("/proc/self/fd").and_then(|entries| u64::try_from(entries).ok());
        Self::parse(&ProcFiles {
            stat: &text("/proc/self/stat"),
            status: &text("/proc/self/status"),
            limits: &text("/proc/self/limits"),
            machine: &text("/proc/stat"),
            open_fds: entries.and_then(|entries| entries.checked_sub(1)),
        })
    }

    /// Understands the files.
    pub fn parse(files: &ProcFiles<'_>) -> Self {
        let ProcFiles { stat, status, limits, machine, open_fds } = *files;
        let cpu = stat_field(stat, USER_TIME).zip(stat_field(stat, SYSTEM_TIME));
        let start = line_number(machine, "btime ").zip(stat_field(stat, START_TIME));
        Self {
            cpu_seconds: cpu.map(|(user, system)| seconds(user + system)),
            start_seconds: start.map(|(boot, ticks)| float(boot) + seconds(ticks)),
            resident: line_number(status, "VmRSS:").map(|kib| kib * 1024),
            virtual_memory: line_number(status, "VmSize:").map(|kib| kib * 1024),
            threads: line_number(status, "Threads:"),
            open_fds,
            max_fds: line_number(limits, "Max open files"),
        }
    }
}

/// A field of `/proc/PID/stat`, numbered from 1 as in its manual page; only fields behind the process name, which may
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
        let files = ProcFiles { stat, status, limits, machine: "cpu 1\nbtime 1000\n", open_fds: Some(7) };
        let figures = ProcessFigures::parse(&files);
        assert_eq!((figures.cpu_seconds, figures.start_seconds), (Some(2.0), Some(1043.21)));
        assert_eq!((figures.resident, figures.virtual_memory), (Some(1 << 20), Some(2 << 20)));
        assert_eq!((figures.threads, figures.open_fds, figures.max_fds), (Some(3), Some(7), Some(1024)));
        let unlimited = ProcFiles { limits: "Max open files unlimited", ..ProcFiles::default() };
        assert_eq!(ProcessFigures::parse(&unlimited), ProcessFigures::default());
    }
}
