//! Network set-up through iproute2 and iptables, many lines to a process.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use super::error::{BedError, Doing, Result};
use super::layout::netns_path;
use crate::sys;

/// Runs lines such as `link set lo up` in order, in the network namespace of that name or in the current one. The
/// first failure ends it.
pub(crate) fn batch(netns: Option<&str>, lines: &[String]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("ip");
    if let Some(netns) = netns {
        command.args(["-n", netns]);
    }
    command.args(["-batch", "-"]);
    feed(command, &format!("{}\n", lines.join("\n")))
}

/// Replaces the tables that `v4` and `v6` hold in a network namespace.
pub(crate) fn restore_tables(netns: &str, v4: &str, v6: &str) -> Result<()> {
    for (tool, text) in [("iptables-restore", v4), ("ip6tables-restore", v6)] {
        let mut command = Command::new(tool);
        // iptables keeps a lock in the file system that processes of other beds would wait for.
        command.arg("-w");
        let netns = fs::File::open(netns_path(netns)).at("open", &netns_path(netns))?;
        sys::enter(&mut command, sys::Enter { network: Some(netns), ..sys::Enter::default() });
        feed(command, text)?;
    }
    Ok(())
}

/// Sets kernel parameters such as `net/ipv4/ip_forward` in a network namespace. Those that the kernel does not have
/// and that end in `?` are passed over.
pub(crate) fn sysctls(netns: &str, settings: &[(&str, &str)]) -> Result<()> {
    let set = || {
        for (name, value) in settings {
            let optional = name.ends_with('?');
            let path = format!("/proc/sys/{}", name.trim_end_matches('?'));
            match fs::write(&path, value) {
                Err(e) if !(optional && e.kind() == std::io::ErrorKind::NotFound) => {
                    return Err(e).doing(|| format!("set {path} to {value}"));
                }
                _ => {}
            }
        }
        Ok(())
    };
    sys::in_network(&netns_path(netns), set).doing(|| format!("enter {netns}"))?
}

fn feed(mut command: Command, input: &str) -> Result<()> {
    let name = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().doing(|| format!("run {name}"))?;
    // A tool that fails early closes its input: its own words are the better message.
    let fed = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().doing(|| format!("wait for {name}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(BedError::Tool { command: name, output: format!("{said} (input: {input})") });
    }
    fed.transpose().doing(|| format!("write to {name}")).map(drop)
}
