//! Time for everybody who wants to run.

use std::fs;

use crate::shell;

/// While it lives, the kernel gives out time by task and not by session. Dropping it puts back what was before.
///
/// With sessions (`autogroup`) Linux 6.18 was seen to leave a task that could run waiting for a minute while others had both
/// processors, and each pod of a test bed is a session.
#[derive(Debug)]
pub(super) struct Even(());

impl Even {
    /// Begins; `None` where there is nothing to be changed, or nobody who may.
    pub(super) fn begin() -> Option<Self> {
        let groups = fs::read_to_string(SETTING).is_ok_and(|text| text.trim() == "1");
        (groups && set("0").is_some()).then_some(Self(()))
    }
}

impl Drop for Even {
    fn drop(&mut self) {
        set("1");
    }
}

fn set(value: &str) -> Option<()> {
    let mut command = shell::as_root("sh").ok()?;
    command.args(["-c", &format!("echo {value} > {SETTING}")]);
    command.status().ok().filter(std::process::ExitStatus::success).map(|_| ())
}

const SETTING: &str = "/proc/sys/kernel/sched_autogroup_enabled";
