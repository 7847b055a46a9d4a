//! Machines that register themselves: while one is connected, and for a while after, it has a WorkloadEntry that its
//! WorkloadGroup makes. The rules are those of [`mesh_core::machine`].
//!
//! With a directory as source the WorkloadEntry is in this process alone and is compiled like those of the directory; a
//! machine that is connected is registered anew within moments after a restart. In a cluster it is written there, and comes
//! back from there to be compiled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_core::id::{SpiffeId, TrustDomain};
use mesh_core::machine::{self, Claim, Refusal, Registry};
use mesh_core::resource::{Object, ObjectKey, Origin, ServedKind, Spec, WorkloadGroupSpec, from_json};
use mesh_source::Change;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use crate::config::Options;
use crate::feed::Findings;
use crate::kubernetes::machines::Written;

/// All of them.
#[derive(Debug)]
pub struct Machines {
    findings: Arc<Findings>,
    domain: TrustDomain,
    grace: Duration,
    started: Instant,
    registry: Mutex<Registry>,
    /// A machine has come, gone, or said how it is.
    moved: Notify,
    compiled: mpsc::Sender<Change>,
    /// Where there is a cluster.
    written: Option<Written>,
}

/// A machine that is connected; dropping it is to note that it has gone.
#[derive(Debug)]
pub struct Attending {
    machines: Arc<Machines>,
    claim: Claim,
}

/// Why somebody is not told what the node of a WorkloadEntry is told. Says nothing of what is in the WorkloadEntry.
#[derive(Debug, thiserror::Error)]
#[error(
    "{caller} is not the machine of the WorkloadEntry {entry}: its namespace or serviceAccount is another"
)]
pub struct NotTheMachine {
    caller: SpiffeId,
    entry: String,
}

impl Machines {
    /// None yet. What comes of them is for the compiler.
    pub fn new(
        findings: Arc<Findings>,
        options: &Options,
        written: Option<Written>,
    ) -> (Arc<Self>, mpsc::Receiver<Change>) {
        let (compiled, registered) = mpsc::channel(WAITING);
        let machines = Self {
            findings,
            domain: options.trust_domain.clone(),
            grace: options.machine_grace,
            started: Instant::now(),
            registry: Mutex::default(),
            moved: Notify::new(),
            compiled,
            written,
        };
        (Arc::new(machines), registered)
    }

    /// Registers a machine that has proven to be `caller`.
    ///
    /// # Errors
    /// If it may not be what it says it is.
    pub fn register(self: &Arc<Self>, caller: &SpiffeId, claim: Claim) -> Result<Attending, Refusal> {
        let group = self.group(&claim);
        claim.admit(caller, group.as_deref().and_then(spec_of), &self.domain)?;
        self.registry().connected(&claim);
        tracing::info!(machine = claim.entry_name(), group = %claim, identity = %caller, "A machine has registered.");
        self.moved.notify_one();
        Ok(Attending { machines: Arc::clone(self), claim })
    }

    /// Checks that `caller` may be told as the machine of `entry`, `NAMESPACE/NAME`, which somebody has written. One that is
    /// not there yet may come.
    pub fn check(&self, caller: &SpiffeId, entry: &str) -> Result<(), NotTheMachine> {
        let not_it = || NotTheMachine { caller: caller.clone(), entry: entry.to_owned() };
        let (namespace, name) = entry.split_once('/').ok_or_else(not_it)?;
        let key = key("WorkloadEntry", namespace, name);
        let known = self.findings.catalog.get(&key);
        let account = match known.as_deref().map(|object| &object.spec) {
            Some(Spec::WorkloadEntry(spec)) => machine::account_of(spec),
            _ => caller.service_account(),
        };
        let is_it = *caller.trust_domain() == self.domain
            && caller.namespace() == namespace
            && caller.service_account() == account;
        is_it.then_some(()).ok_or_else(not_it)
    }

    /// Keeps the `WorkloadEntries` as the machines are, for ever.
    pub async fn run(self: Arc<Self>) {
        let mut kept = BTreeMap::new();
        let mut seen = None;
        let mut complaint = None;
        loop {
            // Machines that have gone are looked for now and then; a group may have changed meanwhile.
            let moved = timeout(LOOK, self.moved.notified()).await.is_ok();
            let version = self.findings.catalog.version();
            let changed = seen.replace(version) != Some(version);
            if changed {
                self.adopt_orphans();
            }
            let gone = self.registry().sweep(self.started.elapsed(), self.grace);
            for claim in &gone {
                tracing::info!(machine = claim.entry_name(), group = %claim, "A machine has been gone for too long.");
            }
            if !moved && !changed && gone.is_empty() && complaint.is_none() {
                continue;
            }
            let error = self.settle(&mut kept, self.wanted()).await.err();
            if let Some(error) = error.as_ref().filter(|error| complaint.as_ref() != Some(*error)) {
                tracing::warn!(
                    error,
                    "WorkloadEntries of machines cannot be written; that will be tried again."
                );
            }
            complaint = error;
        }
    }

    fn adopt_orphans(&self) {
        let Some(written) = &self.written else { return };
        for object in written.orphans(&self.findings.catalog) {
            let Spec::WorkloadEntry(spec) = &object.spec else { continue };
            if let Some(claim) = Claim::of_entry(&object.meta, spec) {
                self.registry().adopt(claim, self.started.elapsed());
            }
        }
    }

    /// The `WorkloadEntries` that there should be, as JSON.
    fn wanted(&self) -> BTreeMap<ObjectKey, String> {
        let machines: Vec<_> =
            self.registry().all().map(|(claim, one)| (claim.clone(), one.health)).collect();
        let entry = |(claim, health): &(Claim, Option<bool>)| {
            let group = self.group(claim)?;
            let value = machine::entry(claim, (&group.meta, spec_of(&group)?), *health);
            Some((key("WorkloadEntry", &claim.namespace, &claim.entry_name()), value.to_string()))
        };
        machines.iter().filter_map(entry).collect()
    }

    /// Brings what there is in line with what there should be. `kept` is what has been brought about.
    async fn settle(
        &self,
        kept: &mut BTreeMap<ObjectKey, String>,
        wanted: BTreeMap<ObjectKey, String>,
    ) -> Result<(), String> {
        let gone: Vec<_> = kept.keys().filter(|key| !wanted.contains_key(key)).cloned().collect();
        for key in gone {
            match &self.written {
                Some(written) => written.remove(&key).await?,
                None => self.compile(Change::Delete(key.clone())).await?,
            }
            kept.remove(&key);
        }
        for (key, text) in wanted {
            if kept.get(&key) == Some(&text) {
                continue;
            }
            let object = object_of(&key, &text);
            let object =
                object.ok_or_else(|| format!("what its group makes of {key} is no WorkloadEntry"))?;
            match &self.written {
                Some(written) => {
                    let value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
                    written.put(&key, &value).await?;
                }
                None => self.compile(Change::Apply(Arc::new(object))).await?,
            }
            kept.insert(key, text);
        }
        Ok(())
    }

    async fn compile(&self, change: Change) -> Result<(), String> {
        self.compiled.send(change).await.map_err(|_| "nobody compiles any more".to_owned())
    }

    fn group(&self, claim: &Claim) -> Option<Arc<Object>> {
        self.findings.catalog.get(&key("WorkloadGroup", &claim.namespace, &claim.group))
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attending {
    /// The machine's own probe says this: nothing, or what is wrong.
    pub fn report(&self, wrong: Option<&str>) {
        if self.machines.registry().reported(&self.claim, wrong.is_none()) {
            let (machine, healthy) = (self.claim.entry_name(), wrong.is_none());
            let reason: String = wrong.unwrap_or_default().chars().take(MAX_REASON).collect();
            tracing::info!(machine, healthy, reason, "A machine says how it is.");
            self.machines.moved.notify_one();
        }
    }
}

impl Drop for Attending {
    fn drop(&mut self) {
        self.machines.registry().disconnected(&self.claim, self.machines.started.elapsed());
    }
}

fn spec_of(object: &Object) -> Option<&WorkloadGroupSpec> {
    match &object.spec {
        Spec::WorkloadGroup(spec) => Some(spec),
        _ => None,
    }
}

fn key(kind: &'static str, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey { kind, namespace: namespace.into(), name: name.into() }
}

fn object_of(key: &ObjectKey, text: &str) -> Option<Object> {
    let kind = ServedKind::all().find(|kind| kind.key() == key.kind)?;
    from_json(kind, text, &Origin::in_cluster(key)).object
}

/// Changes that wait for the compiler.
const WAITING: usize = 1024;
/// How often machines that have gone are looked for.
const LOOK: Duration = Duration::from_millis(500);
/// Characters of what a machine says is wrong with it, in the log.
const MAX_REASON: usize = 200;
