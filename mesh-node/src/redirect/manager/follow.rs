//! What changes about a captured pod while it is captured.

use std::collections::BTreeSet;

use mesh_core::model::Workload;

use super::Captured;
use crate::{
    redirect::{Programs, RedirectError, maps::ControlMaps},
    sys::links,
};

pub(super) fn follow_probes(
    maps: &mut ControlMaps,
    captured: &mut Captured,
    workload: &Workload,
) -> Result<(), RedirectError> {
    let wanted: BTreeSet<u16> = workload.probe_ports.iter().copied().collect();
    for ip in &captured.pod.ips {
        for port in wanted.difference(&captured.probe_ports) {
            maps.put_probe_port((*ip, *port).into())?;
        }
        for port in captured.probe_ports.difference(&wanted) {
            maps.remove_probe_port((*ip, *port).into())?;
        }
    }
    captured.probe_ports = wanted;
    Ok(())
}

/// What puts more interfaces into a pod does so after the network that it starts with.
pub(super) fn follow_interfaces(
    programs: &mut Programs,
    known: &mut Captured,
    workload: &Workload,
) -> Result<(), RedirectError> {
    let names = known.pod.netns.run(links::names).and_then(|names| names)?;
    if names != known.interfaces && !workload.inbound_bypass {
        programs.attach_guard(&known.pod.pinned(), &known.pod.netns)?;
        known.interfaces = names;
    }
    Ok(())
}

/// The resolver is there in any case; this decides whether queries come to it.
pub(super) fn follow_dns(
    maps: &mut ControlMaps,
    captured: &mut Captured,
    workload: &Workload,
) -> Result<(), RedirectError> {
    let wanted = !workload.dns_bypass;
    if captured.dns != wanted {
        maps.put_pod(captured.pod.netns.cookie(), captured.pod.entry(captured.ports, wanted))?;
        captured.dns = wanted;
    }
    Ok(())
}
