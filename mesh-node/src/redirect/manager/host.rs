//! Capture of processes of the machine that the node runs on, in place of pods.
//!
//! The kernel programs are attached to the control groups of enrolled processes and to nothing else, so that no other
//! process of the machine is touched. Fail closed: once they are attached they stay, whatever becomes of this process, the
//! control plane or the WorkloadEntry; what is captured and cannot be served is refused.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use mesh_common::{DOMAIN, TUNNEL_PORT};
use mesh_core::model::{Snapshot, Workload};
use tracing::{info, warn};

use super::{Captured, Manager, status_of};
use crate::{
    admin::PodState,
    redirect::{LocalPod, RedirectError, machine::Unit, pins::PinnedPod},
    sys::{diag, netns::NetNs},
};

impl Manager {
    /// Brings capture in line with the units that run and the workload that the machine is.
    pub(super) async fn reconcile_host(&mut self, snapshot: &Arc<Snapshot>) {
        let Some(machine) = self.options.machine.clone() else { return };
        let units = machine.enrolled();
        let workload = snapshot.local_pods().find(|workload| workload.enrolled).cloned();
        self.waiting.clear();
        if let Some(workload) = workload.filter(|_| snapshot.is_loaded()) {
            if let Err(state) = self.ensure_host(&workload, &units).await {
                self.waiting.insert(HOST.into(), status_of(&workload, state));
            }
            self.take_over();
        } else if let Err(error) = self.follow_units(&units) {
            // Not told yet, or not any more: what was captured stays so.
            warn!(%error, "Enrolled processes cannot be captured.");
        }
        if snapshot.is_loaded() {
            self.tell_status();
        }
    }

    async fn ensure_host(
        &mut self,
        workload: &Arc<Workload>,
        units: &BTreeSet<Unit>,
    ) -> Result<(), PodState> {
        if let Some(foreign) = workload.ips.iter().find(|ip| !is_local(**ip)) {
            let reason = format!(
                "the WorkloadEntry has the address {foreign}, which is none of this machine (write the one that \
                 connections arrive at)"
            );
            return Err(PodState::Failed(reason));
        }
        if workload.ips.is_empty() {
            return Err(PodState::Pending("the WorkloadEntry has no address".into()));
        }
        let is_same = |known: &Captured| known.pod.workload == workload.uid && known.pod.ips == workload.ips;
        let known = self.captured.get(HOST);
        if !known.is_some_and(is_same) {
            self.capture_host(workload).await.map_err(|error| failed(workload, &error))?;
        }
        self.follow_units(units)
            .and_then(|()| self.follow_ports(workload, units))
            .map_err(|error| failed(workload, &error))
    }

    /// Makes the listeners and tells the kernel of them. Whatever of before leads to others leads to these from then on.
    async fn capture_host(&mut self, workload: &Arc<Workload>) -> Result<(), RedirectError> {
        let pod = Arc::new(LocalPod {
            uid: HOST.into(),
            workload: workload.uid.clone(),
            netns: NetNs::own()?,
            ips: workload.ips.clone(),
            open: Some(Arc::default()),
        });
        if let Some(old) = self.captured.remove(HOST) {
            for ip in &old.pod.ips {
                self.maps.remove_listeners(*ip)?;
            }
            old.release.send_replace(true);
        }
        let (ports, release) = self.listen(&pod, true).await?;
        let dns = !workload.dns_bypass;
        self.maps.put_pod(pod.netns.cookie(), pod.entry(ports, dns))?;
        self.captured.insert(
            HOST.into(),
            Captured {
                pod,
                ports,
                dns,
                status: status_of(workload, PodState::Captured),
                probe_ports: BTreeSet::new(),
                interfaces: Vec::new(),
                ends: None,
                release,
            },
        );
        info!(
            workload = %workload.name, namespace = %workload.namespace, identity = %workload.identity,
            "Serving processes of this machine."
        );
        Ok(())
    }

    /// Attaches to the units that have come, and forgets those that have gone. For those that have come the order is that of
    /// a pod: outbound capture, reset of older connections, guard.
    fn follow_units(&mut self, units: &BTreeSet<Unit>) -> Result<(), RedirectError> {
        let host = NetNs::own()?;
        // Without its entry the hooks would let everything pass.
        let Some(captured) = self.captured.get(HOST) else { return Ok(()) };
        let cookie = captured.pod.netns.cookie();
        let place = PinnedPod { cookie, uid: HOST.to_owned() };
        let agent = PinnedPod { cookie: self.options.agent_cgroup, uid: AGENT.to_owned() };
        let pinned = self.options.pins.pods()?;
        let own = self.options.machine.as_ref().map(|machine| machine.own().to_owned());
        if !self.attached.contains(&agent) {
            if let Some(own) = own {
                self.programs.attach_agent(&own, &agent)?;
            }
            self.programs.attach_host_lookup(&place, &host)?;
            self.attached.extend([agent.clone(), place.clone()]);
        }
        let mut wanted = BTreeSet::from([agent, place]);
        for unit in units {
            let name = PinnedPod { cookie: unit.id, uid: UNIT.to_owned() };
            wanted.insert(name.clone());
            if self.attached.contains(&name) {
                continue;
            }
            let adopted = pinned.contains(&name);
            self.programs.attach_unit(&unit.path, &name)?;
            let mut reset = 0;
            if !adopted {
                reset = diag::reset_connections_of(&unit.ids()).unwrap_or_else(|error| {
                    warn!(%error, "Older connections cannot be reset; the guard stops them.");
                    0
                });
            }
            self.programs.attach_unit_guard(&unit.path, &name)?;
            info!(group = %unit.path.display(), adopted, reset, "Captured a control group of this machine.");
            self.attached.insert(name);
        }
        self.attached.retain(|name| wanted.contains(name));
        for gone in pinned.iter().filter(|name| !wanted.contains(name)) {
            self.unhook(gone, None);
        }
        Ok(())
    }

    /// Has what comes to the machine's ports go through the node: those of services, those that enrolled processes listen at,
    /// and the tunnel's. All others are of processes that are not in the mesh, and no tunnel leads to them.
    fn follow_ports(&mut self, workload: &Workload, units: &BTreeSet<Unit>) -> Result<(), RedirectError> {
        let Some(captured) = self.captured.get_mut(HOST) else { return Ok(()) };
        let declared = workload.services.iter().flat_map(|one| one.ports.iter().map(|(_, own)| *own));
        let mut ports: BTreeSet<u16> = declared.collect();
        let groups: BTreeSet<u64> = units.iter().flat_map(Unit::ids).collect();
        ports.extend(diag::listening_ports(&groups)?);
        // A name server on the machine is asked by the machine.
        ports.remove(&DOMAIN);
        ports.remove(&TUNNEL_PORT);
        let steered = ports.iter().copied().chain([TUNNEL_PORT]);
        let all = steered.flat_map(|port| workload.ips.iter().map(move |ip| SocketAddr::new(*ip, port)));
        self.maps.set_host_ports(&all.collect())?;
        if let Some(open) = &captured.pod.open
            && **open.load() != ports
        {
            info!(?ports, "Ports of this machine that are in the mesh.");
            open.store(Arc::new(ports));
        }
        captured.status.ips.clone_from(&workload.ips);
        Ok(())
    }
}

fn failed(workload: &Workload, error: &RedirectError) -> PodState {
    warn!(workload = %workload.name, namespace = %workload.namespace, %error, "Capture failed; will retry.");
    PodState::Failed(error.to_string())
}

/// Whether connections to this address arrive here.
fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// How often units are looked for: one that is started outside of an enrolled slice sends as it likes until then.
pub(super) const LOOK: Duration = Duration::from_millis(250);
/// In place of the uid of a pod, in status and in the names of pins.
const HOST: &str = "host";
const AGENT: &str = "agent";
const UNIT: &str = "unit";
