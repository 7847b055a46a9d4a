//! The loop that makes the bed what the manifests say, and the published objects what the bed is.
//!
//! One thread owns all of it. Others tell it that something happened ([`Event`]) and read the [`Status`] that it
//! leaves behind after each step.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::addr::PodAddresses;
use super::agent::Agent;
use super::desired::{Desired, desired, uid};
use super::error::Result;
use super::layout::{Layout, netns_path};
use super::manifests::{Input, Key, Objects};
use super::network::{self, Network, NodeNet, PodNet};
use super::objects::{self, Publisher};
use super::place::Tools;
use super::pod::{Facts, Health, Running, Sandbox};
use super::probe::Prober;
use super::services::ServiceAddresses;
use super::status::Status;
use super::stop::lock;

/// What wakes the controller.
pub(crate) enum Event {
    /// A pod or an agent is not as it was.
    Changed,
    /// A pod has ended; its UID.
    Gone(String),
    /// Read the directory now, and say when the bed follows it.
    Sync(Sender<()>),
    /// End the loop; the bed itself stays as it is.
    Quit,
}

/// What the controller leaves for others to read.
#[derive(Debug)]
pub(crate) struct Shared {
    status: Mutex<Status>,
    moved: Condvar,
}

impl Shared {
    pub(crate) fn new(status: Status) -> Self {
        Self { status: Mutex::new(status), moved: Condvar::new() }
    }

    pub(crate) fn read(&self) -> Status {
        lock(&self.status).clone()
    }

    /// Waits for the status to change, `patience` at most.
    pub(crate) fn wait(&self, patience: Duration) {
        let status = lock(&self.status);
        let seen = status.clone();
        drop(self.moved.wait_timeout_while(status, patience, |now| *now == seen));
    }

    /// Answers whether anything changed.
    pub(super) fn replace(&self, status: Status) -> bool {
        let mut current = lock(&self.status);
        let changed = *current != status;
        *current = status;
        self.moved.notify_all();
        changed
    }
}

/// A node with its helpers.
#[derive(Debug)]
pub(crate) struct BedNode {
    pub(crate) net: NodeNet,
    pub(crate) prober: Arc<Prober>,
    pub(crate) agent: Option<Arc<Agent>>,
    pub(crate) admin: Option<String>,
}

/// Everything the controller needs, fixed for its life.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) layout: Layout,
    pub(crate) tools: Tools,
    pub(crate) network: Network,
    pub(crate) nodes: Arc<Vec<BedNode>>,
    pub(crate) wire: String,
    /// The user's directory.
    pub(crate) source: PathBuf,
    pub(crate) shared: Arc<Shared>,
    pub(crate) events: Sender<Event>,
}

/// A pod that exists.
pub(super) struct Record {
    pub(super) facts: Facts,
    spec_digest: u64,
    deployment: Option<Key>,
    node: usize,
    /// Its host number; pods in the node's network have none.
    host: Option<u8>,
    netns: Option<String>,
    pub(super) stage: Stage,
    pub(super) created: Timestamp,
    pub(super) terminating: Option<Timestamp>,
    /// What its hosts file says.
    pub(super) hosts: String,
}

/// How far a pod has come.
pub(super) enum Stage {
    /// It has a network and nothing else yet; why, if that is not as it should be.
    Bare(Option<String>),
    /// Its namespaces exist, nothing runs.
    Prepared(Box<Sandbox>),
    /// Its containers have been started.
    Running(Arc<Running>),
}

impl Record {
    pub(super) fn health(&self) -> Health {
        match &self.stage {
            Stage::Running(running) => running.health(),
            Stage::Prepared(_) => Health { phase: "Pending", ..Health::default() },
            Stage::Bare(reason) => Health { phase: "Pending", message: reason.clone(), ..Health::default() },
        }
    }
}

/// The controller's own state.
pub(crate) struct Controller {
    pub(super) setting: Setting,
    pub(super) input: Input,
    pub(super) objects: Objects,
    pub(super) wanted: Vec<Desired>,
    addresses: Vec<PodAddresses>,
    pub(super) services: ServiceAddresses,
    /// Running and ending pods; a pod and its successor of the same name are never both here.
    pub(super) pods: BTreeMap<Key, Record>,
    /// Pods that can be placed nowhere, and why.
    pub(super) unplaced: BTreeMap<Key, String>,
    pub(super) publisher: Publisher,
    /// The service tables of each node, by the node's network namespace.
    pub(super) tables: BTreeMap<String, (String, String)>,
    /// What went wrong in the bed itself, for the status.
    pub(super) trouble: Option<String>,
    generation: u64,
}

impl Controller {
    pub(crate) fn new(setting: Setting) -> Result<Self> {
        let publisher = Publisher::new(setting.layout.objects(), setting.layout.state.join("prepared"))?;
        let addresses = setting.nodes.iter().map(|_| PodAddresses::default()).collect();
        Ok(Self {
            setting,
            input: Input::default(),
            objects: Objects::default(),
            wanted: Vec::new(),
            addresses,
            services: ServiceAddresses::default(),
            pods: BTreeMap::new(),
            unplaced: BTreeMap::new(),
            publisher,
            tables: BTreeMap::new(),
            trouble: None,
            generation: 0,
        })
    }

    /// Runs until [`Event::Quit`].
    pub(crate) fn run(mut self, events: &Receiver<Event>) {
        let mut dirty = true;
        loop {
            let mut waiting = Vec::new();
            let first = if dirty {
                events.try_recv().map_err(|_| RecvTimeoutError::Timeout)
            } else {
                events.recv_timeout(POLL)
            };
            for event in first.into_iter().chain(events.try_iter()) {
                dirty = true;
                match event {
                    Event::Changed => {}
                    Event::Gone(uid) => self.forget(&uid),
                    Event::Sync(done) => waiting.push(done),
                    Event::Quit => return self.quit(),
                }
            }
            match self.step(dirty) {
                Ok(()) => self.trouble = None,
                Err(e) => self.trouble = Some(e.to_string()),
            }
            // Failed set-up is tried again at the next look; everything else waits for a reason.
            dirty = false;
            for done in waiting {
                // The one who asked may have given up.
                let _ = done.send(());
            }
        }
    }

    fn quit(self) {
        for record in self.pods.values() {
            if let Stage::Running(running) = &record.stage {
                running.abandon();
            }
        }
    }

    fn step(&mut self, mut dirty: bool) -> Result<()> {
        if self.input.refresh(&self.setting.source)? {
            self.objects = self.input.objects();
            self.wanted = desired(&self.objects);
            self.services.update(&self.objects.services);
            dirty = true;
        }
        if !dirty && self.trouble.is_none() {
            return Ok(());
        }
        self.end_unwanted();
        self.adopt_metadata();
        let prepared = self.prepare_missing();
        // Nodes hear of a pod before its first process runs.
        let published = self.publish();
        self.start_prepared();
        prepared.and(published)
    }

    /// Ends pods that nobody wants any more, or wants otherwise.
    fn end_unwanted(&mut self) {
        let wanted: BTreeMap<&Key, &Desired> = self.wanted.iter().map(|d| (&d.key, d)).collect();
        let mut ending = Vec::new();
        for (key, record) in &self.pods {
            let same = wanted.get(key).is_some_and(|d| d.spec_digest == record.spec_digest);
            if record.terminating.is_none() && !same && !self.awaits_successors(record) {
                ending.push(key.clone());
            }
        }
        for key in ending {
            let Some(record) = self.pods.get_mut(&key) else { continue };
            record.terminating = Some(objects::now());
            let uid = record.facts.uid.clone();
            let events = self.setting.events.clone();
            let Stage::Running(running) = &record.stage else {
                self.forget(&uid);
                continue;
            };
            let running = Arc::clone(running);
            thread::spawn(move || {
                // Time for nodes to learn that it takes no new connections, as a cluster would give them.
                thread::sleep(GOODBYE);
                running.end();
                // The controller may be gone, and the pod with it.
                let _ = events.send(Event::Gone(uid));
            });
        }
    }

    /// A replica of an older template stays until all replicas of the newer one are ready.
    fn awaits_successors(&self, record: &Record) -> bool {
        let Some(deployment) = &record.deployment else { return false };
        let successors = || self.wanted.iter().filter(|d| d.deployment.as_ref() == Some(deployment));
        let replaced = successors().any(|d| d.spec_digest != record.spec_digest);
        let ready = |d: &Desired| self.pods.get(&d.key).is_some_and(|r| r.health().ready);
        replaced && !successors().all(ready)
    }

    /// Labels and annotations change without a restart.
    fn adopt_metadata(&mut self) {
        for wanted in &self.wanted {
            if let Some(record) = self.pods.get_mut(&wanted.key).filter(|r| r.terminating.is_none()) {
                record.facts.manifest.metadata = wanted.manifest.metadata.clone();
            }
        }
    }

    /// Makes namespaces for pods that have none yet.
    fn prepare_missing(&mut self) -> Result<()> {
        let missing: Vec<Desired> =
            self.wanted.iter().filter(|d| !self.pods.contains_key(&d.key)).cloned().collect();
        self.unplaced.clear();
        let mut by_node: BTreeMap<usize, Vec<(Desired, Record)>> = BTreeMap::new();
        for pod in missing {
            let loads: Vec<usize> = (0..self.setting.nodes.len())
                .map(|n| {
                    self.pods.values().filter(|r| r.node == n).count() + by_node.get(&n).map_or(0, Vec::len)
                })
                .collect();
            match self.choose_node(&pod, &loads) {
                Ok(node) => {
                    let record = self.record(&pod, node)?;
                    by_node.entry(node).or_default().push((pod, record));
                }
                Err(reason) => drop(self.unplaced.insert(pod.key, reason)),
            }
        }
        for (node, pods) in by_node {
            let nets: Vec<PodNet> = pods.iter().filter_map(|(_, record)| self.pod_net(record)).collect();
            let net = self.setting.nodes.get(node).map(|n| &n.net).expect("the node was chosen among these");
            let attached = network::attach_pods(net, self.setting.network, &nets);
            for (pod, record) in pods {
                self.pods.insert(pod.key, record);
            }
            if attached.is_err() {
                // Half a network is worse than none: the next step makes these pods from scratch.
                for net in nets {
                    self.forget_netns(&net.netns);
                }
                return attached;
            }
        }
        Ok(())
    }

    /// `spec.nodeName`, else what `spec.nodeSelector` allows; of several the one with the fewest pods.
    fn choose_node(&self, pod: &Desired, loads: &[usize]) -> Result<usize, String> {
        let spec = pod.manifest.spec.as_ref();
        let named = spec.and_then(|s| s.node_name.as_deref());
        let selector = spec.and_then(|s| s.node_selector.clone()).unwrap_or_default();
        let fits = |node: &&(usize, &BedNode)| {
            let net = &node.1.net;
            let labels = objects::node_labels(net, self.objects.nodes.get(&net.name));
            named.is_none_or(|name| name == net.name)
                && (named.is_some() || selector.iter().all(|(name, value)| labels.get(name) == Some(value)))
        };
        let nodes: Vec<(usize, &BedNode)> = self.setting.nodes.iter().enumerate().collect();
        let best = nodes.iter().filter(fits).min_by_key(|(index, _)| (loads.get(*index).copied(), *index));
        best.map(|(index, _)| *index).ok_or_else(|| match named {
            Some(name) => format!("there is no node {name} (`--nodes` makes more)"),
            None => format!("no node has the labels {selector:?}"),
        })
    }

    fn record(&mut self, pod: &Desired, node: usize) -> Result<Record> {
        let layout = &self.setting.layout;
        let net = self.setting.nodes.get(node).map(|n| &n.net).expect("the node was chosen among these");
        self.generation += 1;
        let uid = uid(&(layout.name.as_str(), pod.key.to_string(), self.generation));
        let in_node = pod.manifest.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        let (mut host, mut netns, mut ips) = (None, None, net.address.both().to_vec());
        if !in_node {
            let number = self.addresses.get_mut(node).expect("one for each node").allocate()?;
            host = Some(number);
            netns = Some(layout.reserve_netns(&[&pod.key.namespace, &pod.key.name])?);
            ips = super::addr::pod(net.number, number).both().to_vec();
        }
        let facts = Facts {
            key: pod.key.clone(),
            manifest: pod.manifest.clone(),
            node: net.name.clone(),
            ips,
            host_ip: net.address.v4.into(),
            netns: netns_path(netns.as_ref().unwrap_or(&net.netns)),
            cgroup: layout.pod_cgroup(&net.name, &uid),
            files: layout.state.join("pods").join(&uid),
            logs: layout.logs(),
            uid,
        };
        Ok(Record {
            spec_digest: pod.spec_digest,
            deployment: pod.deployment.clone(),
            node,
            host,
            netns,
            stage: Stage::Bare(None),
            created: objects::now(),
            terminating: None,
            hosts: String::new(),
            facts,
        })
    }

    fn pod_net(&self, record: &Record) -> Option<PodNet> {
        let net = &self.setting.nodes.get(record.node)?.net;
        let address = super::addr::pod(net.number, record.host?);
        Some(PodNet::new(record.netns.clone()?, address, &record.facts.uid))
    }

    fn forget_netns(&mut self, netns: &str) {
        let with = self.pods.values().find(|r| r.netns.as_deref() == Some(netns));
        if let Some(uid) = with.map(|r| r.facts.uid.clone()) {
            self.forget(&uid);
        }
    }

    /// Removes what a pod leaves behind.
    fn forget(&mut self, uid: &str) {
        let Some(key) = self.pods.iter().find(|(_, r)| r.facts.uid == uid).map(|(key, _)| key.clone()) else {
            return;
        };
        let Some(record) = self.pods.remove(&key) else { return };
        super::cgroup::kill(&record.facts.cgroup, Duration::from_secs(1));
        super::cgroup::remove(&record.facts.cgroup);
        if let Some(netns) = &record.netns {
            // A failure leaves a name behind that the end of the bed removes.
            let _ = network::remove_namespace(netns);
        }
        let _ = fs::remove_dir_all(&record.facts.files);
        if let (Some(host), Some(addresses)) = (record.host, self.addresses.get_mut(record.node)) {
            addresses.free(host);
        }
    }

    fn start_prepared(&mut self) {
        let Setting { tools, nodes, events, .. } = &self.setting;
        for record in self.pods.values_mut() {
            let stage = std::mem::replace(&mut record.stage, Stage::Bare(None));
            record.stage = match (stage, nodes.get(record.node)) {
                (Stage::Prepared(sandbox), Some(node)) => {
                    let events = events.clone();
                    // Nobody listens once the bed ends.
                    let changed = Arc::new(move || drop(events.send(Event::Changed)));
                    Stage::Running(Running::start(*sandbox, tools, &node.prober, changed))
                }
                (other, _) => other,
            };
        }
    }
}

/// How often the user's directory is looked at: an edit has to take effect within a second.
const POLL: Duration = Duration::from_millis(200);

/// Between a pod's leaving its services and the signal to its processes.
const GOODBYE: Duration = Duration::from_millis(300);
