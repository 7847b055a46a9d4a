//! `mesh-node enrolled`: waits until whoever runs it is captured, so that what is started next never sends a byte in the clear.

use std::{
    io::{self, Write},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;

use crate::{
    config::EnrolledOptions,
    redirect::{cgroup, pins::Pins},
};

/// Waits until the control group of this process, or one around it, is captured.
///
/// # Errors
/// If that takes longer than it may, or cannot be found out.
pub fn run(options: &EnrolledOptions) -> anyhow::Result<()> {
    let pins = Pins::new(&options.pin_root, &options.node);
    let mount = cgroup::cgroup2_mount()?;
    let own = cgroup::own(&mount).context("finding the control group of this process")?;
    let begun = Instant::now();
    let mut said = false;
    while !is_captured(&pins, &mount, &own)? {
        let reason = format!("{} is not captured by the node {}", own.display(), options.node);
        if options.patience.is_some_and(|patience| begun.elapsed() >= patience) {
            anyhow::bail!(reason);
        }
        if !said {
            let _ = writeln!(io::stderr(), "mesh-node: {reason} yet; waiting for it");
            said = true;
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// The guard is attached last, and is there as long as its pin is.
fn is_captured(pins: &Pins, mount: &Path, own: &Path) -> io::Result<bool> {
    let guarded = pins.guarded_groups()?;
    let around = own.ancestors().take_while(|group| group.starts_with(mount));
    Ok(around.filter_map(|group| cgroup::id(group).ok()).any(|id| guarded.contains(&id)))
}

const LOOK: Duration = Duration::from_millis(50);
