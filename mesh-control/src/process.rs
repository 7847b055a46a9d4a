//! What the kernel says about this process.

use std::fs;

use mesh_core::process::ProcessFigures;

/// Reads the figures now.
pub(crate) fn read() -> ProcessFigures {
    ProcessFigures::of_itself(
        |file| fs::read_to_string(file).ok(),
        |directory| Some(fs::read_dir(directory).ok()?.count()),
    )
}

/// What this machine is called, which in a cluster is the pod's name; nothing if it has no name.
pub(crate) fn host_name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
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
