//! What the kernel says about this process.

use std::fs;

use mesh_core::process::{ProcFiles, ProcessFigures};

/// Reads the figures now.
pub(crate) fn read() -> ProcessFigures {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    ProcessFigures::parse(&ProcFiles {
        stat: &text("/proc/self/stat"),
        status: &text("/proc/self/status"),
        limits: &text("/proc/self/limits"),
        machine: &text("/proc/stat"),
        open_fds: open_fds(),
    })
}

/// Entries of the descriptor table, without the one that counting opens.
fn open_fds() -> Option<u64> {
    let entries = fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(entries).ok()?.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_figures() {
        let figures = read();
        assert!(figures.open_fds.is_some_and(|open| open >= 3));
        assert!(figures.resident.is_some_and(|bytes| bytes > 100_000));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(figures.start_seconds.is_some_and(|start| start <= now + 1.0 && start > now - 3_600.0));
    }
}
