//! Capture of processes of the machine that the node runs on, in place of pods.
//!
//! The kernel programs are attached to the control groups of enrolled processes and to nothing else, so that no other
//! process of the machine is touched. Fail closed: once they are attached they stay, whatever becomes of this process, the
//! control plane or the WorkloadEntry; what is captured and cannot be served is refused.

use std::{
    collections::BTreeSet,
    io,
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
    redirect::{
        LocalPod, Machine, RedirectError,
        machine::Unit,
        pins::{PinnedPod, UNIT},
    },
    report::Event,
    sys::{diag, netns::NetNs},
};

/// What there is to capture on the machine.
struct Seen {
    units: BTreeSet<Unit>,
    /// Where enrolled processes listen.
    ports: io::Result<BTreeSet<u16>>,
}

impl Manager {
    /// Brings capture in line with the units that run and the workload that the machine is.
    pub(super) async fn reconcile_host(&mut self, snapshot: &Arc<Snapshot>) {
        let Some(machine) = self.options.machine.clone() else { return };
        // The process ends, or the next look finds out.
        let Some(seen) = look(machine).await else { return };
        let workload = snapshot.local_pods().find(|workload| workload.enrolled).cloned();
        let workload = workload.filter(|_| snapshot.is_loaded());
        let ensured = match &workload {
            Some(workload) => self.ensure_host(workload).await,
            // Not told yet, or not any more: what was captured stays so.
            None => Ok(()),
        };
        // Whatever is wrong with the workload, what is enrolled and starts anew has to be closed.
        let followed = self.follow_units(&seen.units).map_err(|error| failed(&error));
        let followed = ensured.and(followed);
        let outcome = match (&workload, followed) {
            (Some(workload), Ok(())) => self.follow_ports(workload, seen.ports),
            (_, followed) => followed,
        };
        self.note_host(workload.as_deref(), outcome);
        if snapshot.is_loaded() {
            self.tell_status();
        }
    }

    /// Says what has come of it, where that is news.
    fn note_host(&mut self, workload: Option<&Workload>, outcome: Result<(), PodState>) {
        self.waiting.clear();
        let reason = outcome.as_ref().err().and_then(PodState::reason).map(str::to_owned);
        if let Some(reason) = reason.as_ref().filter(|reason| self.complaint.as_ref() != Some(*reason)) {
            warn!(reason, "Enrolled processes cannot be served; will retry.");
        }
        self.complaint = reason;
        match (workload, outcome) {
            // Before that, what another version has left is all that keeps enrolled processes closed.
            (Some(_), Ok(())) => self.take_over(),
            (Some(workload), Err(state)) => {
                self.waiting.insert(HOST.into(), status_of(workload, state));
            }
            (None, _) => {}
        }
    }

    /// Makes sure that the listeners are there, for the addresses that the workload has now.
    async fn ensure_host(&mut self, workload: &Arc<Workload>) -> Result<(), PodState> {
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
        if !self.captured.get(HOST).is_some_and(is_same) {
            self.capture_host(workload).await.map_err(|error| failed(&error))?;
        }
        Ok(())
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
            self.reporter.count(Event::ProxyStopped);
        }
        let (ports, release) = self.listen(&pod).await?;
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
        self.reporter.count(Event::ProxyStarted);
        info!(
            workload = %workload.name, namespace = %workload.namespace, identity = %workload.identity,
            "Serving processes of this machine."
        );
        Ok(())
    }

    /// Attaches to the units that have come, and forgets those that have gone. One that fails keeps none of the others open; the
    /// first error is told.
    fn follow_units(&mut self, units: &BTreeSet<Unit>) -> Result<(), RedirectError> {
        let cookie = self.host.cookie();
        // Without its entry the hooks would let everything pass. With that of a process before this one, whose listeners are
        // gone, they close what they are attached to.
        if !self.maps.pods()?.contains(&cookie) {
            return Ok(());
        }
        let pinned = self.options.pins.pods()?;
        let place = PinnedPod { cookie, uid: HOST.to_owned() };
        let agent = PinnedPod { cookie: self.options.agent_cgroup, uid: AGENT.to_owned() };
        let mut outcome = self.follow_machine(&agent, &place);
        let mut wanted = BTreeSet::from([agent, place]);
        for unit in units {
            let name = PinnedPod { cookie: unit.id, uid: UNIT.to_owned() };
            if !self.attached.contains(&name) {
                outcome = outcome.and(self.capture_unit(unit, &name, pinned.contains(&name)));
            }
            wanted.insert(name);
        }
        self.attached.retain(|name| wanted.contains(name));
        for gone in pinned.iter().filter(|name| !wanted.contains(name)) {
            self.unhook(gone, None);
        }
        outcome
    }

    /// Attaches what is there once: to the group of this process, and to the machine's network namespace.
    fn follow_machine(&mut self, agent: &PinnedPod, place: &PinnedPod) -> Result<(), RedirectError> {
        if self.attached.contains(agent) {
            return Ok(());
        }
        if let Some(machine) = &self.options.machine {
            self.programs.attach_agent(machine.own(), agent)?;
        }
        self.programs.attach_host_lookup(place, &self.host)?;
        self.attached.extend([agent.clone(), place.clone()]);
        Ok(())
    }

    /// Attaches to one unit. The order is that of a pod: outbound capture, reset of older connections, guard.
    fn capture_unit(&mut self, unit: &Unit, name: &PinnedPod, adopted: bool) -> Result<(), RedirectError> {
        self.programs.attach_unit(&unit.path, name)?;
        let mut reset = 0;
        if !adopted {
            reset = diag::reset_connections_of(&unit.ids()).unwrap_or_else(|error| {
                warn!(%error, "Older connections cannot be reset; the guard stops them.");
                0
            });
        }
        self.programs.attach_unit_guard(&unit.path, name)?;
        info!(group = %unit.path.display(), adopted, reset, "Captured a control group of this machine.");
        self.attached.insert(name.clone());
        Ok(())
    }

    /// Has what comes to the machine's ports go through the node: those of services, those that enrolled processes listen at,
    /// and the tunnel's. All others are of processes that are not in the mesh, and no tunnel leads to them.
    fn follow_ports(
        &mut self,
        workload: &Workload,
        listening: io::Result<BTreeSet<u16>>,
    ) -> Result<(), PodState> {
        let Some(captured) = self.captured.get_mut(HOST) else { return Ok(()) };
        let declared = workload.services.iter().flat_map(|one| one.ports.iter().map(|(_, own)| *own));
        let mut ports: BTreeSet<u16> = declared.collect();
        ports.extend(listening.map_err(|error| failed(&error.into()))?);
        // A name server on the machine is asked by the machine.
        ports.remove(&DOMAIN);
        ports.remove(&TUNNEL_PORT);
        let steered = ports.iter().copied().chain([TUNNEL_PORT]);
        let all = steered.flat_map(|port| workload.ips.iter().map(move |ip| SocketAddr::new(*ip, port)));
        self.maps.set_host_ports(&all.collect()).map_err(|error| failed(&error.into()))?;
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

/// Looks at control groups and sockets, of which there may be many, on a thread that nobody waits for.
async fn look(machine: Machine) -> Option<Seen> {
    let look = move || {
        let units = machine.enrolled();
        let groups: BTreeSet<u64> = units.iter().flat_map(Unit::ids).collect();
        Seen { ports: diag::listening_ports(&groups), units }
    };
    tokio::task::spawn_blocking(look).await.ok()
}

/// Whether a pinned link is of a control group: its number is none of a network namespace.
pub(super) fn is_of_group(pinned: &PinnedPod) -> bool {
    [AGENT, UNIT].contains(&pinned.uid.as_str())
}

fn failed(error: &RedirectError) -> PodState {
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
