//! Machines that register themselves: while one is connected, and for a while after, it has a WorkloadEntry that its
//! WorkloadGroup makes. The rules are those of [`mesh_core::machine`].
//!
//! With a directory as source the WorkloadEntry is in this process alone and is compiled like those of the directory; a
//! machine that is connected is registered anew within moments after a restart. In a cluster it is written there, and comes
//! back from there to be compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_core::id::{SpiffeId, TrustDomain};
use mesh_core::machine::{self, Attendance, Claim, Refusal, Registry};
use mesh_core::model::{Record, RecordKey};
use mesh_core::resource::{Object, ObjectKey, Origin, ServedKind, Spec, WorkloadGroupSpec, from_json};
use mesh_proto::names::ResourceType;
use mesh_source::Change;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use crate::config::Options;
use crate::feed::Findings;
use crate::hub::Hub;
use crate::kubernetes::machines::Written;

/// All of them.
#[derive(Debug)]
pub struct Machines {
    hub: Arc<Hub>,
    findings: Arc<Findings>,
    domain: TrustDomain,
    grace: Duration,
    started: Instant,
    registry: Mutex<Registry>,
    /// Who has been a machine since this process started.
    identities: Mutex<BTreeSet<SpiffeId>>,
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
    caller: SpiffeId,
    claim: Claim,
}

/// A WorkloadEntry that there should be.
struct Wanted {
    /// As JSON.
    text: String,
    /// Whether its machine is connected here, and not just expected back.
    is_here: bool,
    /// How often it has come.
    arrivals: u64,
}

/// What this process has brought about last of a WorkloadEntry.
struct Kept {
    text: String,
    arrivals: u64,
    at: Instant,
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
        (hub, findings): (Arc<Hub>, Arc<Findings>),
        options: &Options,
        written: Option<Written>,
    ) -> (Arc<Self>, mpsc::Receiver<Change>) {
        let (compiled, registered) = mpsc::channel(WAITING);
        let machines = Self {
            hub,
            findings,
            domain: options.trust_domain.clone(),
            grace: options.machine_grace,
            started: Instant::now(),
            registry: Mutex::default(),
            identities: Mutex::default(),
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
        self.admit(caller, &claim)?;
        if self.is_taken(&claim) {
            return Err(Refusal::Taken(claim.address));
        }
        let mut registry = self.registry();
        if !registry.has_room(&claim) {
            return Err(Refusal::Full(claim.to_string()));
        }
        registry.connected(&claim);
        drop(registry);
        self.note(caller);
        tracing::info!(machine = claim.entry_name(), group = %claim, identity = %caller, "A machine has registered.");
        self.moved.notify_one();
        Ok(Attending { machines: Arc::clone(self), caller: caller.clone(), claim })
    }

    fn admit(&self, caller: &SpiffeId, claim: &Claim) -> Result<(), Refusal> {
        claim.admit(caller, self.group(claim).as_deref().and_then(spec_of), &self.domain)
    }

    /// Whether the machine's address is known to be another's. An address that a ServiceEntry lists without saying who is there
    /// may be the machine's.
    fn is_taken(&self, claim: &Claim) -> bool {
        let own = format!("/networking.istio.io/WorkloadEntry/{}/{}", claim.namespace, claim.entry_name());
        match self.hub.shelf().at(claim.address) {
            Some(RecordKey::Workload(uid) | RecordKey::LocalPod(uid)) => !uid.ends_with(&own),
            Some(RecordKey::Service(_)) => true,
            _ => false,
        }
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
        if is_it {
            self.note(caller);
        }
        is_it.then_some(()).ok_or_else(not_it)
    }

    fn note(&self, caller: &SpiffeId) {
        self.identities.lock().unwrap_or_else(PoisonError::into_inner).insert(caller.clone());
    }

    /// Whether a certificate of `id` may renew itself: there is a workload of this identity, or a WorkloadGroup whose machines
    /// have it. A directory need not say what a gateway's pod is, so with one this is asked about machines alone: about
    /// identities that have been a machine's since this process started. Looks at everything there is.
    pub fn is_somebody(&self, id: &SpiffeId) -> bool {
        let has_account = |object: &Object| {
            let template = match &object.spec {
                Spec::WorkloadGroup(group) => &group.template,
                Spec::WorkloadEntry(entry) => entry,
                _ => return false,
            };
            *object.meta.namespace == *id.namespace() && machine::account_of(template) == id.service_account()
        };
        if *id.trust_domain() == self.domain && !self.findings.catalog.objects(has_account).is_empty() {
            self.note(id);
            return true;
        }
        let was_machine = self.identities.lock().unwrap_or_else(PoisonError::into_inner).contains(id);
        let is_asked = self.written.is_some() || was_machine;
        !is_asked
            || self
                .hub
                .shelf()
                .store(ResourceType::Address)
                .iter()
                .any(|entry| matches!(&entry.record, Record::Workload(workload) if workload.identity == *id))
    }

    /// Keeps the `WorkloadEntries` as the machines are, for ever, as soon as it is known what there is.
    pub async fn run(self: Arc<Self>) {
        self.hub.until_ready().await;
        let mut kept = BTreeMap::new();
        let mut seen = None;
        let mut complaints = BTreeSet::new();
        let mut is_settled = true;
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
            if !moved && !changed && gone.is_empty() && is_settled {
                continue;
            }
            let errors;
            (errors, is_settled) = self.settle(&mut kept, self.wanted()).await;
            for error in errors.difference(&complaints).take(MAX_SAID) {
                tracing::warn!(
                    error,
                    "The WorkloadEntry of a machine cannot be written; that will be tried again."
                );
            }
            complaints = errors;
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

    /// The `WorkloadEntries` that there should be.
    fn wanted(&self) -> BTreeMap<ObjectKey, Wanted> {
        let machines: Vec<_> = self.registry().all().map(|(claim, one)| (claim.clone(), *one)).collect();
        let entry = |(claim, one): &(Claim, Attendance)| {
            let group = self.group(claim)?;
            let text = machine::entry(claim, (&group.meta, spec_of(&group)?), one.health).to_string();
            let wanted = Wanted { text, is_here: one.connections > 0, arrivals: one.arrivals };
            Some((key("WorkloadEntry", &claim.namespace, &claim.entry_name()), wanted))
        };
        machines.iter().filter_map(entry).collect()
    }

    /// Brings what there is in line with what there should be. `kept` is what has been brought about. What fails keeps nothing
    /// else from being done: why, by the names of the `WorkloadEntries`, and whether all is as it should be.
    async fn settle(
        &self,
        kept: &mut BTreeMap<ObjectKey, Kept>,
        wanted: BTreeMap<ObjectKey, Wanted>,
    ) -> (BTreeSet<String>, bool) {
        let (mut errors, mut is_settled) = (BTreeSet::new(), true);
        let gone: Vec<_> = kept.keys().filter(|key| !wanted.contains_key(key)).cloned().collect();
        for key in gone {
            match self.remove(&key).await {
                Ok(()) => drop(kept.remove(&key)),
                Err(error) => drop(errors.insert(format!("{key}: {error}"))),
            }
        }
        for (key, wanted) in wanted {
            match self.is_kept(&key, &wanted) {
                Ok(true) => continue,
                Ok(false) => is_settled = false,
                Err(error) => {
                    errors.insert(format!("{key}: {error}"));
                    continue;
                }
            }
            // Others may want it otherwise, or the word that it is there is on its way.
            let is_news = |kept: &Kept| {
                kept.text != wanted.text || kept.arrivals != wanted.arrivals || kept.at.elapsed() > AGAIN
            };
            if !kept.get(&key).is_none_or(is_news) {
                continue;
            }
            match self.put(&key, &wanted.text).await {
                Ok(()) => {
                    let Wanted { text, arrivals, .. } = wanted;
                    kept.insert(key, Kept { text, arrivals, at: Instant::now() });
                }
                Err(error) => drop(errors.insert(format!("{key}: {error}"))),
            }
        }
        let is_settled = is_settled && errors.is_empty();
        (errors, is_settled)
    }

    /// Whether a WorkloadEntry is as it should be, or somebody else's to write: one that is not connected here may be to another.
    fn is_kept(&self, key: &ObjectKey, wanted: &Wanted) -> Result<bool, String> {
        let own = object_of(key, &wanted.text).ok_or("what its group makes of it is no WorkloadEntry")?;
        let found = self.findings.catalog.get(key);
        let Some(found) = found else { return Ok(!wanted.is_here && self.written.is_some()) };
        let is_other = self.written.as_ref().is_some_and(|written| !written.is_own(&found));
        let is_left =
            || self.written.as_ref().is_some_and(|written| written.is_orphan(&found, &self.findings.catalog));
        if is_other {
            return Ok(!wanted.is_here && !is_left());
        }
        Ok(has_all(&found, &own))
    }

    async fn put(&self, key: &ObjectKey, text: &str) -> Result<(), String> {
        let Some(written) = &self.written else {
            let object = object_of(key, text).ok_or("it is no WorkloadEntry")?;
            return self.compile(Change::Apply(Arc::new(object))).await;
        };
        let value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        written.put(key, &value).await
    }

    async fn remove(&self, key: &ObjectKey) -> Result<(), String> {
        match &self.written {
            Some(written) => written.remove(key).await,
            None => self.compile(Change::Delete(key.clone())).await,
        }
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

/// Whether an object has everything that is written of it. Others may have given it more.
fn has_all(found: &Object, own: &Object) -> bool {
    let pairs = |own: &BTreeMap<String, String>, found: &BTreeMap<String, String>| {
        own.iter().all(|(key, value)| found.get(key) == Some(value))
    };
    let health = own.status.is_healthy;
    let is_same = match (&found.spec, &own.spec) {
        (Spec::WorkloadEntry(found), Spec::WorkloadEntry(own)) => found == own,
        _ => false,
    };
    is_same
        && pairs(&own.meta.labels, &found.meta.labels)
        && pairs(&own.meta.annotations, &found.meta.annotations)
        && (health.is_none() || found.status.is_healthy == health)
}

impl Attending {
    /// Checks that the machine may still be what it is registered as: its group may have become another identity's.
    ///
    /// # Errors
    /// If not.
    pub fn check(&self) -> Result<(), Refusal> {
        self.machines.admit(&self.caller, &self.claim)
    }

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
/// How soon what was written and is not there is written again.
const AGAIN: Duration = Duration::from_secs(10);
/// What is said at a time of `WorkloadEntries` that cannot be written.
const MAX_SAID: usize = 10;
/// Characters of what a machine says is wrong with it, in the log.
const MAX_REASON: usize = 200;
