//! Time for everybody who wants to run.

use std::{fs, path::PathBuf};

/// While it lives, the kernel gives out time by task and not by session. Dropping it puts back what was before.
///
/// With sessions (`autogroup`) Linux 6.18 was seen to leave a task that could run waiting for a minute while others of many short
/// turns had both processors: their virtual time stood still, so that it was never the turn of anybody else. Each pod of a bed is a
/// session. Containers of a cluster are not affected: they are in cgroups.
#[derive(Debug)]
pub(super) struct Even {
    setting: PathBuf,
    before: Option<String>,
}

impl Even {
    /// Begins, where the kernel has sessions and groups by them.
    pub(super) fn begin() -> Self {
        Self::at(SETTING.into())
    }

    fn at(setting: PathBuf) -> Self {
        let before = fs::read_to_string(&setting).ok().filter(|text| text.trim() == "1");
        let before = before.filter(|_| fs::write(&setting, "0").is_ok());
        Self { setting, before }
    }
}

impl Drop for Even {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = fs::write(&self.setting, before.trim());
        }
    }
}

const SETTING: &str = "/proc/sys/kernel/sched_autogroup_enabled";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_before_is_back_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let setting = dir.path().join("setting");
        for (before, meanwhile) in [("1\n", "0"), ("0\n", "0\n")] {
            fs::write(&setting, before).unwrap();
            let even = Even::at(setting.clone());
            assert_eq!(fs::read_to_string(&setting).unwrap(), meanwhile);
            drop(even);
            assert_eq!(fs::read_to_string(&setting).unwrap().trim(), before.trim());
        }
        drop(Even::at(dir.path().join("nowhere")));
    }
}
