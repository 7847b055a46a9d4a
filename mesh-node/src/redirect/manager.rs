//! Keeps capture equal to enrolment: pods that should be captured and are not yet, pods that should no longer be.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_common::{ListenerKey, NodeConfig};
use mesh_core::model::{Snapshot, Workload};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tracing::{info, warn};

use self::follow::{follow_dns, follow_interfaces, follow_probes};
use super::{
    Inbound, LocalPod, Machine, Overruled, Programs, RedirectError, TcHook, address,
    cgroup::{self, Group},
    express::{CutFlows, Express},
    maps::ControlMaps,
    pins::{PinnedPod, Pins},
    pod::{PodSockets, Ports, ThreadListeners},
    sandbox::{Progress, Sandbox, Sandboxes},
    shortcut,
};
use crate::{
    admin::{PodState, PodStatus},
    dns,
    report::{Event, Reporter},
    sys::{diag, links, netns::NetNs},
};

mod follow;
mod host;

/// What capture needs to know about this node.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to pin.
    pub pins: Pins,
    /// Cgroup that holds everything of this node: its pods and its own processes. The root of cgroup v2 in a cluster.
    pub scope: PathBuf,
    /// How inbound connections are steered.
    pub inbound: Inbound,
    /// How the guard is attached.
    pub hook: TcHook,
    /// Id of the cgroup of this process.
    pub agent_cgroup: u64,
    /// Whether a predecessor still serves its pods.
    pub beside: bool,
    /// Whether the kernel decides by itself what it can.
    pub express: bool,
    /// Pods that a container runtime has told of, where the CNI plugin is served.
    pub sandboxes: Option<Arc<Sandboxes>>,
    /// The machine itself, in place of pods.
    pub machine: Option<Machine>,
}

/// What a reconciliation looks at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Look {
    /// Every pod.
    Thorough,
    /// Pods that are not captured yet.
    Waiting,
}

/// Owner of the kernel objects and of the set of captured pods.
pub struct Manager {
    options: Options,
    host: NetNs,
    programs: Programs,
    maps: ControlMaps,
    express: Express,
    /// Whether nothing of another version is left.
    alone: bool,
    threads: Vec<mpsc::Sender<PodSockets>>,
    captured: HashMap<Arc<str>, Captured>,
    waiting: BTreeMap<Arc<str>, PodStatus>,
    /// What this process has attached to on the machine itself.
    attached: BTreeSet<PinnedPod>,
    /// What was said last to be wrong with it.
    complaint: Option<String>,
    status: watch::Sender<Option<Arc<Vec<PodStatus>>>>,
    reporter: Arc<Reporter>,
}

struct Captured {
    pod: Arc<LocalPod>,
    ports: Ports,
    /// Whether its queries of DNS are captured as well.
    dns: bool,
    status: PodStatus,
    probe_ports: BTreeSet<u16>,
    /// Those that have a guard.
    interfaces: Vec<String>,
    /// Of its interface, for the shortcut.
    ends: Option<shortcut::Ends>,
    release: watch::Sender<bool>,
}

type ByPodUid = BTreeMap<Arc<str>, Arc<Workload>>;

impl Manager {
    /// Loads the programs, or takes over what a predecessor left, and attaches what serves the whole node.
    pub fn start(
        options: Options,
        threads: Vec<mpsc::Sender<PodSockets>>,
        reporter: &Arc<Reporter>,
    ) -> Result<Self, RedirectError> {
        let host = NetNs::own()?;
        let mut programs = Programs::load(&options.pins, options.inbound, options.hook)?;
        let mut maps = ControlMaps::open(&options.pins)?;
        let before = maps.node().ok();
        let log_level = before.map_or(mesh_common::LOG_OFF, |node| node.log_level);
        let predecessor = before.map(|node| node.agent_cgroups[0]).filter(|it| *it != options.agent_cgroup);
        let predecessor = predecessor.filter(|_| options.beside).unwrap_or_default();
        maps.set_node(NodeConfig {
            agent_cgroups: [options.agent_cgroup, predecessor],
            host_netns: host.cookie(),
            log_level,
            shortcut: u32::from(options.express),
        })?;
        if options.machine.is_none() {
            programs.attach_node(&options.scope, &cgroup::pods_cgroup(&options.scope))?;
        }
        let express = Express::open(&options.pins, options.express)?;
        let captured = HashMap::new();
        let status = watch::Sender::new(None);
        Ok(Self {
            options,
            host,
            programs,
            maps,
            express,
            alone: false,
            threads,
            captured,
            waiting: BTreeMap::new(),
            attached: BTreeSet::new(),
            complaint: None,
            status,
            reporter: Arc::clone(reporter),
        })
    }

    /// The programs, for the reader of their messages.
    pub fn programs(&mut self) -> &mut Programs {
        &mut self.programs
    }

    /// Flows of the express path that this ended, and those that are to be ended, for whoever reports them.
    pub fn ended_flows(&self) -> (CutFlows, Overruled) {
        (self.express.cut_flows(), self.express.overruled())
    }

    /// The state of every enrolled local pod, as it changes; `None` before the first look.
    pub fn status(&self) -> watch::Receiver<Option<Arc<Vec<PodStatus>>>> {
        self.status.subscribe()
    }

    /// Works until the snapshot's sender is gone.
    pub async fn run(mut self, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        let mut look = Look::Thorough;
        let mut pause = RETRY;
        let mut thorough = Instant::now();
        // Without a plugin nobody announces anything, ever.
        let (_nobody, nothing) = watch::channel(0);
        let mut announced = self.options.sandboxes.as_ref().map_or(nothing, |all| all.changes());
        loop {
            announced.borrow_and_update();
            let snapshot = snapshots.borrow_and_update().clone();
            // A pod may wait for long, for an image for instance, and is looked for less often then.
            let longest = if self.options.machine.is_some() { host::LOOK } else { IDLE };
            if self.options.machine.is_some() {
                self.reconcile_host(&snapshot).await;
            } else if snapshot.is_loaded() {
                self.reconcile(&snapshot, look).await;
            }
            pause = if self.waiting.is_empty() { longest } else { pause.min(LONG_WAIT) };
            tokio::select! {
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    (look, pause) = (Look::Thorough, RETRY);
                }
                // Its sender lives as long as the sandboxes.
                _ = announced.changed() => (look, pause) = (Look::Waiting, RETRY),
                () = tokio::time::sleep(pause) => {
                    // A pod that waits for ever must not keep the others from being looked at.
                    look = if thorough.elapsed() < IDLE { Look::Waiting } else { Look::Thorough };
                    pause *= 2;
                }
            }
            if look == Look::Thorough {
                thorough = Instant::now();
            }
        }
    }

    async fn reconcile(&mut self, snapshot: &Arc<Snapshot>, look: Look) {
        let mut groups = cgroup::pods(&cgroup::pods_cgroup(&self.options.scope));
        if look == Look::Thorough {
            self.add_by_processes(snapshot, &mut groups);
        }
        let (wanted, missing) = self.wanted(snapshot, &groups);
        self.release_others(&wanted);
        self.waiting.clear();
        for workload in missing {
            let state = PodState::Pending("no pod with its address is running yet".into());
            self.waiting.insert(workload.uid.clone(), status_of(workload, state));
        }
        for (uid, workload) in &wanted {
            if look == Look::Waiting && self.captured.contains_key(uid) {
                continue;
            }
            let (workload, ns) = self.place_of(uid, workload, &groups);
            if let Err(state) = self.ensure(uid, &workload, ns).await {
                self.waiting.insert(uid.clone(), status_of(&workload, state));
            }
        }
        if look == Look::Thorough || self.captured.values().any(|it| it.status.shortcut.is_none()) {
            self.shorten();
        }
        self.decide(snapshot);
        self.take_over();
        self.tell_runtimes();
        self.tell_status();
    }

    fn tell_status(&self) {
        // Of what is captured and cannot be kept in step, the trouble is what counts.
        let well = self.captured.iter().filter(|(uid, _)| !self.waiting.contains_key(*uid));
        let mut all: Vec<PodStatus> = well.map(|(_, pod)| pod.status.clone()).collect();
        all.extend(self.waiting.values().cloned());
        all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        self.status.send_replace(Some(Arc::new(all)));
    }

    /// Pods of which cgroup v2 knows nothing, if there are any: of runtimes that only use v1.
    fn add_by_processes(&self, snapshot: &Snapshot, groups: &mut HashMap<String, Group>) {
        let unseen = |uid: &Arc<str>| !groups.contains_key(&**uid) && !self.captured.contains_key(uid);
        let mut uids =
            snapshot.local_pods().filter(|pod| pod.enrolled).filter_map(|pod| pod.pod_uid.as_ref());
        if uids.any(unseen) {
            for (uid, group) in cgroup::pods_by_processes() {
                groups.entry(uid).or_insert(group);
            }
        }
    }

    /// A pod as it is on this machine, and its network namespace. The runtime's word comes first: it is there before the pod
    /// has a process, and before the API server is told its address.
    fn place_of(
        &self,
        uid: &Arc<str>,
        workload: &Arc<Workload>,
        groups: &HashMap<String, Group>,
    ) -> (Arc<Workload>, Option<NetNs>) {
        let sandbox = self.options.sandboxes.as_ref().and_then(|all| all.of(uid, workload));
        let told = sandbox.as_ref().and_then(Sandbox::netns);
        let known = self.captured.get(uid).map(|known| &known.pod.netns);
        let has_ended = |ns: &NetNs| self.has_ended(ns.cookie());
        let found = || groups.get(&**uid).and_then(|group| cgroup::netns_of(group, &self.host, known));
        let ns = told.or_else(|| found().filter(|ns| !has_ended(ns)));
        let workload = match sandbox {
            Some(sandbox) if workload.ips.is_empty() => {
                Arc::new(Workload { ips: sandbox.ips, ..Workload::clone(workload) })
            }
            _ => workload.clone(),
        };
        (workload, ns)
    }

    fn has_ended(&self, cookie: u64) -> bool {
        self.options.sandboxes.as_ref().is_some_and(|all| all.has_ended(cookie))
    }

    /// Lets pods start that wait for their capture.
    fn tell_runtimes(&self) {
        let Some(sandboxes) = &self.options.sandboxes else { return };
        let captured = self.captured.values().map(|it| it.pod.netns.cookie()).collect();
        let why =
            |it: &PodStatus| Some(((it.namespace.clone(), it.name.clone()), it.state.reason()?.to_owned()));
        let waiting = self.waiting.values().filter_map(why).collect();
        sandboxes.tell(Progress { captured, waiting });
    }

    /// Removes what a node of another version has left, once every pod that runs is captured by this one: until then both
    /// kinds of hooks stand, and nothing gets through between them. A pod whose capture fails keeps its old guard, which is all
    /// that closes it.
    fn take_over(&mut self) {
        if self.alone {
            return;
        }
        let is_failed = |(_, status): &(&Arc<str>, &PodStatus)| matches!(status.state, PodState::Failed(_));
        let failed: BTreeSet<&str> = self.waiting.iter().filter(is_failed).map(|(uid, _)| &**uid).collect();
        match self.options.pins.remove_others(&failed) {
            Ok(0) => {}
            Ok(removed) => info!(removed, "Took over from a node of another version."),
            Err(error) => {
                return warn!(%error, "What a node of another version has left cannot be removed yet.");
            }
        }
        self.alone = failed.is_empty();
    }

    /// Tells the kernel what it may decide by itself. A predecessor's word stands until all its pods are captured again.
    fn decide(&mut self, snapshot: &Arc<Snapshot>) {
        let workload = |it: &Captured| snapshot.workload_by_uid(&it.pod.workload).cloned();
        let mut pods: Vec<_> =
            self.captured.values().filter_map(|it| Some((it.pod.clone(), workload(it)?))).collect();
        pods.sort_by(|(a, _), (b, _)| a.uid.cmp(&b.uid));
        self.express.update(snapshot, &pods);
    }

    /// The pods that should be captured, by uid, and those of which nobody knows which they are.
    fn wanted<'s>(
        &self,
        snapshot: &'s Snapshot,
        groups: &HashMap<String, Group>,
    ) -> (ByPodUid, Vec<&'s Arc<Workload>>) {
        let mut wanted = BTreeMap::new();
        let mut unnamed = Vec::new();
        for pod in snapshot.local_pods().filter(|pod| pod.enrolled) {
            // Captured before, it stays what it is while it exists.
            let is_it = |uid: &Arc<str>, it: &Captured| {
                it.pod.workload == pod.uid && it.pod.ips == pod.ips && groups.contains_key(&**uid)
            };
            let known = || self.captured.iter().find(|(uid, it)| is_it(uid, it));
            let told = || self.options.sandboxes.as_ref()?.uid_of(pod);
            let uid = pod.pod_uid.clone().or_else(told);
            match uid.or_else(|| known().map(|(uid, _)| uid.clone())) {
                Some(uid) => drop(wanted.insert(uid, pod.clone())),
                None => unnamed.push(pod),
            }
        }
        if unnamed.is_empty() {
            return (wanted, unnamed);
        }
        let free = groups.iter().filter(|(uid, _)| !wanted.contains_key(uid.as_str()));
        let owners = address::uids(free, &self.host);
        unnamed.retain(|pod| match pod.ips.iter().find_map(|ip| owners.get(ip)) {
            Some(uid) => wanted.insert((*uid).into(), Arc::clone(pod)).is_some(),
            None => true,
        });
        (wanted, unnamed)
    }

    /// Makes sure that one enrolled pod is captured; the error is the state it is in instead.
    async fn ensure(
        &mut self,
        uid: &Arc<str>,
        workload: &Arc<Workload>,
        ns: Option<NetNs>,
    ) -> Result<(), PodState> {
        let Some(ns) = ns else {
            if self.captured.contains_key(uid) {
                return Ok(());
            }
            return Err(PodState::Pending("no process of the pod is running yet".into()));
        };
        if workload.ips.is_empty() {
            return Err(PodState::Pending("the pod has no address yet".into()));
        }
        if let Some(known) = self.captured.get_mut(uid) {
            if known.pod.netns.cookie() == ns.cookie() && same_addresses(&known.pod.ips, &workload.ips) {
                return follow_probes(&mut self.maps, known, workload)
                    .and_then(|()| follow_dns(&mut self.maps, known, workload))
                    .and_then(|()| follow_interfaces(&mut self.programs, known, workload))
                    .map_err(|error| PodState::Failed(error.to_string()));
            }
            self.release(uid);
        }
        let workload_uid = workload.uid.clone();
        let pod = LocalPod {
            uid: uid.clone(),
            workload: workload_uid,
            netns: ns,
            ips: workload.ips.clone(),
            open: None,
        };
        self.capture(workload, Arc::new(pod)).await.map_err(|error| {
            warn!(pod = %workload.name, namespace = %workload.namespace, %error, "Capture failed; will retry.");
            PodState::Failed(error.to_string())
        })
    }

    /// Captures a pod. The order matters: whatever step fails or is interrupted, the pod's traffic is either still
    /// untouched or ends at the node. Outbound comes first, so that new connections are never caught between; the
    /// guard comes last, so that it never meets a connection that could not know of it.
    async fn capture(&mut self, workload: &Arc<Workload>, pod: Arc<LocalPod>) -> Result<(), RedirectError> {
        let started = std::time::Instant::now();
        let inside = |source| RedirectError::Namespace { uid: pod.uid.to_string(), source };
        let pinned = pod.pinned();
        let adopted = !self.options.pins.links_of(&pinned)?.is_empty();
        let (ports, release) = self.listen(&pod).await?;
        let mut captured = Captured {
            pod: pod.clone(),
            ports,
            dns: !workload.dns_bypass,
            status: status_of(workload, PodState::Captured),
            probe_ports: BTreeSet::new(),
            interfaces: pod.netns.run(links::names).and_then(|names| names).map_err(inside)?,
            ends: if self.options.express { shortcut::ends(&pod).map_err(inside)? } else { None },
            release,
        };
        follow_probes(&mut self.maps, &mut captured, workload)?;
        self.maps.put_pod(pod.netns.cookie(), pod.entry(captured.ports, captured.dns))?;
        if !workload.inbound_bypass {
            self.programs.attach_lookup(&pinned, &pod.netns)?;
        }
        let mut reset = 0;
        if !adopted {
            reset = pod.netns.run(diag::reset_connections).map_err(inside)?.unwrap_or_else(|error| {
                warn!(pod = %workload.name, %error, "Older connections cannot be reset; the guard stops them.");
                0
            });
        }
        // A pod that takes inbound connections as they are has to answer them, which no guard could tell apart.
        if !workload.inbound_bypass {
            self.programs.attach_guard(&pinned, &pod.netns)?;
        }
        info!(
            pod = %workload.name, namespace = %workload.namespace, identity = %workload.identity, adopted, reset,
            took_ms = started.elapsed().as_millis(), "Captured a pod."
        );
        self.captured.insert(pod.uid.clone(), captured);
        self.reporter.count(Event::ProxyStarted);
        Ok(())
    }

    /// Opens the listeners of a pod and has the data threads accept from them.
    async fn listen(&mut self, pod: &Arc<LocalPod>) -> Result<(Ports, watch::Sender<bool>), RedirectError> {
        let inside = |source| RedirectError::Namespace { uid: pod.uid.to_string(), source };
        // A predecessor, of whatever version, has the usual ports; sharing them would share its connections.
        let usual = !self.options.beside;
        let listeners = pod.listen(self.threads.len(), usual).map_err(inside)?;
        for thread in &listeners.threads {
            for listener in thread.plaintext.iter().chain(&thread.tunnel) {
                self.maps.own(listener)?;
            }
            if pod.is_machine() {
                thread.outbound.iter().chain(&thread.dns).try_for_each(|it| self.maps.own(it))?;
                thread.dns_packets.iter().try_for_each(|it| self.maps.own(it))?;
            }
        }
        if let Some(first) = listeners.threads.first() {
            self.publish_listeners(pod, first)?;
        }
        let (release, released) = watch::channel(false);
        let queries = dns::places();
        for (thread, listeners) in self.threads.iter().zip(listeners.threads) {
            let (pod, queries, released) = (pod.clone(), queries.clone(), released.clone());
            let sockets = PodSockets { pod, listeners, queries, released };
            // A thread that is gone takes the process down; there is nobody to tell here.
            let _ = thread.send(sockets).await;
        }
        Ok((listeners.ports, release))
    }

    /// Lets express flows of a pod go straight into other pods, and theirs into it, where nothing stands in the way.
    fn shorten(&mut self) {
        if !self.options.express {
            return;
        }
        let queues = links::queues();
        for captured in self.captured.values_mut() {
            let (pod, ends) = (&captured.pod, captured.ends.as_ref());
            let outcome = match &queues {
                Ok(queues) => {
                    let programs = (&mut self.programs, &mut self.maps);
                    shortcut::follow(programs, (pod, ends), queues, captured.status.shortcut.as_ref())
                }
                Err(error) => Err(format!("queueing disciplines of the host cannot be listed: {error}")),
            };
            if captured.status.shortcut.as_ref() != Some(&outcome) {
                let PodStatus { name, namespace, .. } = &captured.status;
                match &outcome {
                    Ok(()) => info!(pod = %name, %namespace, "Express flows take the shortcut."),
                    Err(why) => info!(pod = %name, %namespace, why, "Express flows keep the long way."),
                }
                captured.status.shortcut = Some(outcome);
            }
        }
    }

    fn publish_listeners(&mut self, pod: &LocalPod, first: &ThreadListeners) -> Result<(), RedirectError> {
        for ip in &pod.ips {
            let same_family = |listener: &&std::net::TcpListener| {
                listener.local_addr().is_ok_and(|at| at.is_ipv4() == ip.is_ipv4())
            };
            if let Some(listener) = first.plaintext.iter().find(same_family) {
                self.maps.put_listener(*ip, ListenerKey::PLAINTEXT, listener)?;
            }
            if let Some(listener) = first.tunnel.iter().find(same_family) {
                self.maps.put_listener(*ip, ListenerKey::TUNNEL, listener)?;
            }
        }
        Ok(())
    }

    /// Lets go of pods that are captured, by this process or a predecessor, and should not be.
    fn release_others(&mut self, wanted: &ByPodUid) {
        let is_gone = |(uid, it): &(&Arc<str>, &Captured)| {
            !wanted.contains_key(*uid) || self.has_ended(it.pod.netns.cookie())
        };
        let gone: Vec<Arc<str>> = self.captured.iter().filter(is_gone).map(|(uid, _)| uid.clone()).collect();
        for uid in gone {
            self.release(&uid);
        }
        let pinned = self.options.pins.pods().unwrap_or_default();
        for pod in pinned {
            let same = |known: &Captured| known.pod.netns.cookie() == pod.cookie;
            let kept = wanted.contains_key(&*pod.uid) && self.captured.get(&*pod.uid).is_none_or(same);
            if !kept {
                self.unhook(&pod, None);
            }
        }
    }

    fn release(&mut self, uid: &Arc<str>) {
        let Some(captured) = self.captured.remove(uid) else { return };
        self.unhook(&captured.pod.pinned(), Some(&captured));
        self.reporter.count(Event::ProxyStopped);
        info!(pod = %captured.status.name, namespace = %captured.status.namespace, "Released a pod.");
    }

    /// Takes the hooks off a pod: the guard first, so that it never meets a connection that capture let go.
    fn unhook(&mut self, pod: &PinnedPod, captured: Option<&Captured>) {
        let mut errors = Vec::new();
        let mut note = |what: &str, result: Result<(), RedirectError>| {
            if let Err(error) = result {
                errors.push(format!("{what}: {error}"));
            }
        };
        for path in self.options.pins.links_of(pod).unwrap_or_default() {
            note("link", std::fs::remove_file(&path).map_err(RedirectError::from));
        }
        if !host::is_of_group(pod) {
            note("pod entry", self.maps.remove_pod(pod.cookie).map_err(RedirectError::from));
        }
        if let Some(captured) = captured {
            let _ = detach_where_needed(self.options.hook, &captured.pod.netns);
            // An address may be another pod's by now.
            let is_free = |ip: &&IpAddr| !self.captured.values().any(|other| other.pod.ips.contains(ip));
            for ip in captured.pod.ips.iter().filter(is_free) {
                note("listener", self.maps.remove_listeners(*ip).map_err(RedirectError::from));
                note("shortcut", self.maps.remove_shortcut(*ip).map_err(RedirectError::from));
                for port in &captured.probe_ports {
                    let at = (*ip, *port).into();
                    note("probe port", self.maps.remove_probe_port(at).map_err(RedirectError::from));
                }
            }
            captured.release.send_replace(true);
        }
        if !errors.is_empty() {
            warn!(pod = %pod.uid, errors = %errors.join("; "), "A pod was not released cleanly.");
        }
    }
}

/// Runtimes and the API server may tell them in another order.
fn same_addresses(one: &[IpAddr], other: &[IpAddr]) -> bool {
    one.len() == other.len() && one.iter().all(|ip| other.contains(ip))
}

fn detach_where_needed(hook: TcHook, ns: &NetNs) -> std::io::Result<()> {
    if hook == TcHook::Tcx { Ok(()) } else { super::detach_clsact(ns) }
}

fn status_of(workload: &Workload, state: PodState) -> PodStatus {
    PodStatus {
        uid: workload.uid.clone(),
        name: workload.name.clone(),
        namespace: workload.namespace.clone(),
        ips: workload.ips.clone(),
        identity: workload.identity.clone(),
        state,
        since: SystemTime::now(),
        shortcut: None,
    }
}

/// How soon a pod that could not be captured is tried again, at first.
const RETRY: Duration = Duration::from_millis(50);
/// How soon at last.
const LONG_WAIT: Duration = Duration::from_millis(400);
/// How often all is looked over without cause: a sandbox may have been replaced.
const IDLE: Duration = Duration::from_secs(2);
