//! `mesh-node cleanup`: takes everything of one node out of the kernel, the plugin out of its CNI configuration, and what the
//! node process has kept for its next start.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::{
    node::MEETING,
    source::{KEYS, RUN},
};
use crate::{
    cni,
    config::CleanupOptions,
    control::Journal,
    redirect::{cgroup, detach_clsact, pins::Pins},
    sys::netns::NetNs,
};

/// Removes pins, and with them links, programs and maps; says what it removed.
pub fn run(options: &CleanupOptions) -> anyhow::Result<()> {
    // First: a pod that starts meanwhile must not wait for an agent that will not come.
    if let Some(conf) = &options.cni_conf_dir {
        let changed = cni::install::remove(conf, options.cni_bin_dir.as_deref())
            .with_context(|| format!("taking the CNI plugin out of {}", conf.display()))?;
        say(&format!("took the CNI plugin out of {changed} network configurations"));
    }
    let pins = Pins::new(&options.pin_root, &options.node);
    detach_filters(options, &pins);
    let removed = pins.remove_all().with_context(|| format!("removing the pins of node {}", options.node))?;
    say(&format!("removed {removed} kernel objects of node {}", options.node));
    let cache = options.svid_cache.clone().unwrap_or_else(|| PathBuf::from(RUN).join(&options.node));
    if forget(&cache).with_context(|| format!("removing certificates and keys in {}", cache.display()))? {
        say(&format!("removed certificates and keys in {}", cache.display()));
    }
    let journal = was_there(Journal::remove(&options.state));
    if journal
        .with_context(|| format!("removing what a control plane told, in {}", options.state.display()))?
    {
        say(&format!("removed what a control plane told, in {}", options.state.display()));
    }
    // Only where no other node of this machine has anything there.
    let _ = fs::remove_dir(&options.pin_root);
    Ok(())
}

/// Removes what a node process keeps in a directory in memory, which may be others' as well; whether there were any keys.
fn forget(cache: &Path) -> io::Result<bool> {
    let mut found = false;
    for keys in KEYS {
        found |= was_there(fs::remove_dir_all(cache.join(keys)))?;
    }
    was_there(fs::remove_file(cache.join(MEETING)))?;
    // What others have there stays.
    let _ = fs::remove_dir(cache);
    Ok(found)
}

fn was_there(removed: io::Result<()>) -> io::Result<bool> {
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Filters of the clsact qdisc are the one thing that does not go with its pin. Where there are none this finds none.
fn detach_filters(options: &CleanupOptions, pins: &Pins) {
    let Ok(host) = NetNs::own() else { return };
    let scope = options.cgroup.clone().map_or_else(cgroup::cgroup2_mount, Ok);
    let groups = scope.map(|scope| cgroup::pods(&cgroup::pods_cgroup(&scope))).unwrap_or_default();
    for pod in pins.pods().unwrap_or_default() {
        if let Some(ns) = groups.get(&pod.uid).and_then(|group| cgroup::netns_of(group, &host, None)) {
            let _ = detach_clsact(&ns);
        }
    }
}

#[expect(clippy::print_stdout, reason = "the result of the command")]
fn say(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_keep_beside_it_stays() {
        let place = tempfile::tempdir().unwrap();
        let cache = place.path().join("mesh");
        assert!(!forget(&cache).unwrap(), "nothing was there");
        for kept in ["node", "pods", "shop.db"] {
            fs::create_dir_all(cache.join(kept)).unwrap();
            fs::write(cache.join(kept).join("key"), "secret").unwrap();
        }
        fs::write(cache.join(MEETING), "").unwrap();
        assert!(forget(&cache).unwrap());
        let left: Vec<_> = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["shop.db"]);
        fs::remove_dir_all(cache.join("shop.db")).unwrap();
        fs::create_dir_all(cache.join("pods")).unwrap();
        assert!(forget(&cache).unwrap() && !cache.exists());
    }

    #[test]
    fn what_cannot_be_removed_is_said() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("pods"), "a file").unwrap();
        assert!(forget(place.path()).is_err());
    }
}
