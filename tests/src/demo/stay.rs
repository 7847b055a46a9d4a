//! After the steps: what there is to look at and to try, and the end of it all.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::tour::Tour;
use crate::bed::{Layout, Process};
use crate::bookinfo;

/// Prints the addresses and some commands to try.
pub(super) fn invite(tour: &mut Tour) -> Result<()> {
    let status = tour.bed.status();
    let page = tour.page.context("the page has no address on the machine")?;
    let (name, manifests) = (tour.bed.name().clone(), tour.bed.layout().state.join("manifests"));
    let node = status.nodes.first().context("no node")?;
    tour.console.title("The bed stays up until you press Ctrl-C");
    let mut rows = vec![vec!["the page".to_owned(), format!("http://{page}/productpage")]];
    if let Some(dashboard) = &status.dashboard {
        rows.push(vec!["the mesh: what flows, live".to_owned(), format!("http://{dashboard}/")]);
    }
    for node in &status.nodes {
        let admin = node.admin.clone().unwrap_or_default();
        rows.push(vec![format!("admin page of {}", node.name), format!("http://{admin}/")]);
    }
    tour.console.table(&["WHAT", "WHERE"], &rows);
    tour.console.say("To try, from another terminal in the same directory:");
    let admin = node.admin.clone().unwrap_or_default();
    let log = node.log.as_deref().unwrap_or(Path::new("")).display().to_string();
    for command in [
        format!("cargo xtask testbed status --name {name}"),
        format!("curl -s http://{admin}/connections"),
        format!("tail -f {log}"),
        format!("cp {}/policies/*.yaml {}/", tour.samples_shown(), manifests.display()),
        format!("rm {}/strict.yaml", manifests.display()),
    ] {
        tour.console.command(&[&command]);
    }
    tour.show_command("default/sleep", &format!("curl -sS {}", super::page::PAGE));
    let service = status.service_ip("default/productpage")?;
    tour.show_command("outside/client", &format!("curl -sS http://{service}:9080/productpage"));
    tour.console.space();
    Ok(())
}

/// Requests the page a few times a second until the answer is dropped, so that there is something to see on the mesh page;
/// and has nodes look at requests, which they do where there are rules for them.
pub(super) fn keep_busy(tour: &mut Tour) -> Result<Process> {
    tour.bed.apply(&bookinfo::routes())?;
    let sleep = tour.pod("default/sleep")?;
    Ok(sleep.spawn(&["sh", "-c", &bookinfo::traffic(super::page::PAGE)])?)
}

/// The last lines of every node's log, for the reader of a failure: the files go with the bed.
pub(super) fn logs(tour: &mut Tour) {
    for node in tour.bed.status().nodes {
        let Some(log) = node.log else { continue };
        let text = fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default();
        tour.console.title(&format!("The last lines of {}'s log", node.name));
        for line in tail {
            tour.console.quote(line);
        }
    }
}

/// What is left of a bed that has ended; empty if all is well.
pub(super) fn leftovers(layout: &Layout) -> Vec<String> {
    let places = [&layout.state, &layout.cgroup, &layout.pins];
    let mut left: Vec<String> =
        places.into_iter().filter(|path| path.exists()).map(|path| path.display().to_string()).collect();
    let ours = format!("mesh-{}-", layout.name);
    let namespaces = fs::read_dir("/run/netns").into_iter().flatten().filter_map(Result::ok);
    let names = namespaces.map(|entry| entry.file_name().to_string_lossy().into_owned());
    left.extend(names.filter(|name| name.starts_with(&ours)).map(|name| format!("network namespace {name}")));
    left
}

/// Lines of a log that are shown.
const TAIL: usize = 8;
