//! Pods that a container runtime has told of through the CNI plugin, before they have a process or, for the API server, an
//! address. What was told is kept in files, so that an agent that is started anew knows it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mesh_core::{cni::Question, model::Workload};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::sys::netns::NetNs;

/// One sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The runtime's id of it.
    pub container: String,
    /// The interface that it was told of with.
    pub interface: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid, where the runtime tells.
    pub uid: Option<String>,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    netns: PathBuf,
    /// Of the network namespace; of this boot.
    #[serde(skip)]
    cookie: u64,
}

impl Sandbox {
    /// Its network namespace, while it is the one that was told of.
    pub fn netns(&self) -> Option<NetNs> {
        NetNs::open(&self.netns).ok().filter(|ns| ns.cookie() == self.cookie)
    }

    /// What the kernel programs know it by.
    pub const fn cookie(&self) -> u64 {
        self.cookie
    }

    fn is_of(&self, uid: &str, workload: &Workload) -> bool {
        let named = || *self.name == *workload.name && *self.namespace == *workload.namespace;
        self.uid.as_ref().map_or_else(named, |own| own == uid)
    }
}

/// How far capture has come, for whoever waits for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Network namespaces of captured pods.
    pub captured: BTreeSet<u64>,
    /// Why others are not, by namespace and name.
    pub waiting: BTreeMap<(Arc<str>, Arc<str>), String>,
}

/// The sandboxes of this node.
#[derive(Debug)]
pub struct Sandboxes {
    directory: PathBuf,
    host: NetNs,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<String, Sandbox>,
    /// Network namespaces whose end was told; their numbers never come again.
    ended: BTreeSet<u64>,
}

impl Sandboxes {
    /// Those that `directory` tells of and that are still there.
    pub fn open(directory: PathBuf) -> io::Result<Arc<Self>> {
        fs::create_dir_all(&directory)?;
        let mut known = BTreeMap::new();
        for entry in fs::read_dir(&directory)?.flatten() {
            match read(&entry.path()) {
                Some(sandbox) => drop(known.insert(sandbox.container.clone(), sandbox)),
                // Of before a reboot, or of a pod that has ended while nobody was here.
                None => drop(fs::remove_file(entry.path())),
            }
        }
        let state = Mutex::new(State { known, ended: BTreeSet::new() });
        let (changes, progress) = (watch::Sender::new(0), watch::Sender::new(Progress::default()));
        Ok(Arc::new(Self { directory, host: NetNs::own()?, state, changes, progress }))
    }

    /// Takes note of a sandbox, instead of others of the same pod.
    ///
    /// # Errors
    /// What is wrong with what was told, for the container runtime.
    pub fn announce(&self, question: &Question) -> Result<Sandbox, String> {
        let pod = question.pod.as_ref().ok_or("no pod was named")?;
        let told = question.netns.as_deref().ok_or("no network namespace was named")?;
        if !is_id(&question.container) {
            return Err("the container's id is none that CNI allows".to_owned());
        }
        let (netns, ns) = visible(told).map_err(|error| {
            format!("the network namespace {told} cannot be opened by the agent: {error} (it needs /run/netns of the host, or hostPID)")
        })?;
        if ns.inode() == self.host.inode() {
            return Err(format!("{told} is the network of the node itself"));
        }
        let sandbox = Sandbox {
            container: question.container.clone(),
            interface: question.interface.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            ips: question.ips.clone(),
            netns,
            cookie: ns.cookie(),
        };
        self.write(&sandbox).map_err(|error| format!("the agent cannot keep what it was told: {error}"))?;
        let mut state = self.state();
        let (uid, name) = (&sandbox.uid, (&sandbox.namespace, &sandbox.name));
        let replaced = |it: &Sandbox| it.uid == *uid && (&it.namespace, &it.name) == name;
        let old: Vec<_> = state.known.values().filter(|it| replaced(it)).cloned().collect();
        old.iter().filter(|it| it.container != sandbox.container).for_each(|it| self.forget(&mut state, it));
        state.ended.remove(&sandbox.cookie);
        state.known.insert(sandbox.container.clone(), sandbox.clone());
        drop(state);
        self.changes.send_modify(|count| *count += 1);
        Ok(sandbox)
    }

    /// A sandbox has ended, if it was told of with that interface.
    pub fn end(&self, container: &str, interface: &str) {
        self.end_all(|it| it.container == container && it.interface == interface);
    }

    /// All have ended but these.
    pub fn keep_only(&self, containers: &[String]) {
        self.end_all(|it| !containers.contains(&it.container));
    }

    fn end_all(&self, is_one: impl Fn(&Sandbox) -> bool) {
        let mut state = self.state();
        let ended: Vec<_> = state.known.values().filter(|it| is_one(it)).cloned().collect();
        ended.iter().for_each(|it| self.forget(&mut state, it));
        drop(state);
        if !ended.is_empty() {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    fn forget(&self, state: &mut State, sandbox: &Sandbox) {
        state.known.remove(&sandbox.container);
        state.ended.insert(sandbox.cookie);
        if state.ended.len() > MAX_ENDED {
            state.ended.pop_first();
        }
        let _ = fs::remove_file(self.directory.join(&sandbox.container));
    }

    /// The sandbox of a pod.
    pub fn of(&self, uid: &str, workload: &Workload) -> Option<Sandbox> {
        self.state().known.values().find(|it| it.is_of(uid, workload)).cloned()
    }

    /// The uid of a pod that a runtime has told of by this name.
    pub fn uid_of(&self, workload: &Workload) -> Option<Arc<str>> {
        let state = self.state();
        let mut named = state
            .known
            .values()
            .filter(|it| *it.name == *workload.name && *it.namespace == *workload.namespace);
        named.find_map(|it| it.uid.as_deref().map(Arc::from))
    }

    /// Whether the end of the network namespace with this cookie was told.
    pub fn has_ended(&self, cookie: u64) -> bool {
        self.state().ended.contains(&cookie)
    }

    /// Changes whenever a sandbox comes or goes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How far capture has come.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Tells how far capture has come.
    pub fn tell(&self, progress: Progress) {
        self.progress.send_if_modified(|told| {
            let is_new = *told != progress;
            *told = progress;
            is_new
        });
    }

    /// Whole or not at all: a file that breaks off would be a pod that nobody knows.
    fn write(&self, sandbox: &Sandbox) -> io::Result<()> {
        let path = self.directory.join(&sandbox.container);
        let prepared = self.directory.join(format!(".{}", sandbox.container));
        fs::write(&prepared, serde_json::to_vec(sandbox)?)?;
        fs::rename(prepared, path)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> Option<Sandbox> {
    let mut sandbox: Sandbox = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    sandbox.cookie = NetNs::open(&sandbox.netns).ok()?.cookie();
    Some(sandbox)
}

/// A path of the host as this process can open it: the agent's container may have the host's files elsewhere.
fn visible(path: &str) -> io::Result<(PathBuf, NetNs)> {
    let short = path.strip_prefix("/var/run/").map(|rest| PathBuf::from(format!("/run/{rest}")));
    let of_host = PathBuf::from(format!("/proc/1/root{path}"));
    let first = PathBuf::from(path);
    NetNs::open(&first).map(|ns| (first, ns)).or_else(|failed| {
        let mut others = short.into_iter().chain([of_host]);
        others.find_map(|path| Some((path.clone(), NetNs::open(&path).ok()?))).ok_or(failed)
    })
}

/// What CNI allows as the id of a container; such a name leads to no other directory.
fn is_id(text: &str) -> bool {
    let is_fit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    text.len() <= 128
        && text.bytes().all(is_fit)
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

/// More pods than a node starts between two looks at them.
const MAX_ENDED: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_lead_nowhere_else() {
        for good in ["0c929c26a1f0", "a", "A_b.c-1"] {
            assert!(is_id(good), "{good}");
        }
        for bad in ["", ".", "..", "../a", "a/b", ".a", "-a", "a b", &"a".repeat(129)] {
            assert!(!is_id(bad), "{bad}");
        }
    }

    #[test]
    fn what_no_namespace_is_known_of_is_forgotten() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("c1");
        let gone = r#"{"container":"c1","interface":"eth0","namespace":"a","name":"b","uid":null,"ips":[],"netns":"/nowhere"}"#;
        for text in [gone, "{", ""] {
            fs::write(&path, text).expect("written");
            let sandboxes = Sandboxes::open(directory.path().to_owned());
            assert!(sandboxes.is_ok_and(|it| it.state().known.is_empty()) && !path.exists(), "{text}");
        }
    }
}
