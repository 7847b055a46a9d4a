//! What one subscriber has asked for, and what it is to be told next. Pure: a stream is this and two queues.
//!
//! Invariants: a subscriber's state does not grow with the mesh; what it is told is always the newest, however long it
//! took to ask; nothing that it rejected is sent again until it changes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use mesh_core::model::{Asker, Reach, Record};
use mesh_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use mesh_proto::names::{self, ResourceType};

use self::batch::Batch;
use self::complaint::Complaint;
use crate::shelf::{Entry, Shelf, Store};

mod batch;
mod complaint;

/// One subscriber.
#[derive(Debug)]
pub struct Session {
    view: View,
    subscriptions: BTreeMap<ResourceType, Subscription>,
    nonce: u64,
    /// Keys of its namespace that it was not told, and that nobody has been told of yet.
    withheld: u64,
}

/// What a subscriber may know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The node that it is the proxy of.
    node: Option<Arc<str>>,
    /// What the pods of that node see; what is not known yet is everything.
    reach: Option<Arc<Reach>>,
    /// Whose keys it is told, if it is a gateway and has proven who.
    gateway: Option<Arc<Asker>>,
}

/// Why a request ends its stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A subscriber that asks for so many names wants everything.
    #[error("more than {MAX_NAMES} names are subscribed to; subscribe to all of them instead")]
    TooManyNames,
    /// A name longer than any that exists.
    #[error("a name has more than {MAX_NAME} bytes")]
    NameTooLong,
    /// It is so far behind that what went away meanwhile is not known any more.
    #[error("too far behind; connect again and say what is there")]
    TooFarBehind,
}

/// How far a subscriber is with one type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// All changes up to this sequence were sent.
    pub sent: u64,
    /// All changes up to this sequence were answered.
    pub acknowledged: u64,
    /// Responses that were not answered yet.
    pub in_flight: usize,
    /// Responses that were accepted.
    pub accepted: u64,
    /// Responses of which something was rejected.
    pub rejected: u64,
}

#[derive(Debug, Default)]
struct Subscription {
    wildcard: bool,
    names: BTreeSet<Arc<str>>,
    /// To be told whether they changed or not: newly asked for, or different from what the subscriber had.
    backlog: VecDeque<Arc<str>>,
    /// What of the backlog was asked for by name: to ask again before the answer is to have asked once.
    asked: HashSet<Arc<str>>,
    /// To be taken back without having gone: first of all, or last if it is what others are decided by.
    removals: Vec<String>,
    /// Changes up to here were told.
    told: u64,
    /// Removals up to here were told.
    withdrawn: u64,
    /// Responses that were not answered.
    in_flight: VecDeque<Flight>,
    /// The last response said that more follows.
    unfinished: bool,
    progress: Progress,
    complaint: Complaint,
}

/// A response on its way.
#[derive(Debug)]
struct Flight {
    nonce: u64,
    /// How far it goes.
    told: u64,
    /// What it tells, or takes back.
    names: Vec<Arc<str>>,
}

impl Session {
    /// Has asked for nothing yet.
    pub fn new(view: View) -> Self {
        Self { view, subscriptions: BTreeMap::new(), nonce: 0, withheld: 0 }
    }

    /// Takes in a request. Requests of types that are not known are passed over, as xDS asks.
    pub fn request(&mut self, request: DeltaDiscoveryRequest, shelf: &Shelf) -> Result<(), Refusal> {
        let Some(kind) = ResourceType::of_url(&request.type_url) else { return Ok(()) };
        self.look_again(shelf);
        let first = !self.subscriptions.contains_key(&kind);
        let store = shelf.store(kind);
        let subscription = self.subscriptions.entry(kind).or_default();
        if !request.response_nonce.is_empty() {
            subscription.answered(&request);
        }
        if first {
            // To ask for nothing in particular at first is to ask for everything.
            subscription.wildcard = request.resource_names_subscribe.is_empty();
        }
        for name in request.resource_names_subscribe {
            subscription.subscribe(name)?;
        }
        for name in &request.resource_names_unsubscribe {
            subscription.unsubscribe(name);
        }
        if !first {
            return Ok(());
        }
        // It knows nothing that could be taken back.
        subscription.withdrawn = shelf.sequence();
        let has = request.initial_resource_versions;
        if !subscription.wildcard {
            // Nothing is wanted that is not asked for by name or was there already.
            subscription.told = shelf.sequence();
            return subscription.resume_named(has, store, &self.view);
        }
        if kind == ResourceType::LocalPod && has.is_empty() {
            // A node's pods are few, and found without looking at everybody's.
            subscription.backlog.extend(shelf.pods_of(self.view.node.as_deref()).cloned());
            subscription.told = shelf.sequence();
        }
        if !has.is_empty() {
            self.withheld += store.iter().map(|it| u64::from(self.view.withholds(&it.record))).sum::<u64>();
            subscription.resume(has, shelf.sequence(), store, &self.view);
        }
        Ok(())
    }

    /// The next response, if there is anything to be told that may be told now. Additions of all types come before
    /// removals of any, so that whatever is referred to is there.
    pub fn next(&mut self, shelf: &Shelf) -> Result<Option<DeltaDiscoveryResponse>, Refusal> {
        self.look_again(shelf);
        for kind in ResourceType::ALL {
            if let Some(response) = self.additions(kind, shelf) {
                return Ok(Some(response));
            }
            // A type that waits for answers must not be overtaken by removals of what it refers to.
            let waits = self.subscriptions.get(&kind).is_some_and(|one| one.is_behind(shelf.store(kind)));
            if waits {
                return Ok(None);
            }
        }
        for kind in ResourceType::ALL.into_iter().rev() {
            if let Some(response) = self.withdrawals(kind, shelf)? {
                return Ok(Some(response));
            }
            // Nor by those of what it may still refer to.
            if self.subscriptions.get(&kind).is_some_and(|one| !one.may_send()) {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// How many keys of its namespace it was not told since this was asked last.
    pub fn take_withheld(&mut self) -> u64 {
        std::mem::take(&mut self.withheld)
    }

    /// Whether it has answered everything that it was told.
    pub fn is_settled(&self) -> bool {
        self.subscriptions.values().all(|one| one.in_flight.is_empty())
    }

    /// Whether it has asked for every type there is for it.
    pub fn has_asked_for_all(&self) -> bool {
        let is_for_it =
            |kind: &ResourceType| *kind != ResourceType::Credential || self.view.gateway.is_some();
        ResourceType::ALL
            .iter()
            .filter(|kind| is_for_it(kind))
            .all(|kind| self.subscriptions.contains_key(kind))
    }

    /// How far the subscriber is with each type that it asked for, and what it said when it last rejected something.
    pub fn progress(&self) -> impl Iterator<Item = (ResourceType, Progress, Option<&Arc<str>>)> {
        self.subscriptions.iter().map(|(kind, one)| {
            let progress = Progress { sent: one.told, in_flight: one.in_flight.len(), ..one.progress };
            (*kind, progress, one.complaint.text())
        })
    }

    /// Follows what the pods of the subscriber's node see: what has come into view is told, what has gone out of it is
    /// taken back.
    fn look_again(&mut self, shelf: &Shelf) {
        let reach = self.view.node.as_ref().and_then(|node| shelf.reach(node));
        let same = match (reach, &self.view.reach) {
            (Some(new), Some(old)) => Arc::ptr_eq(new, old),
            (new, old) => new.is_none() && old.is_none(),
        };
        if same {
            return;
        }
        let view = View { reach: reach.cloned(), ..self.view.clone() };
        let before = std::mem::replace(&mut self.view, view);
        for (kind, subscription) in &mut self.subscriptions {
            if self.view.differs(&before, *kind) {
                subscription.look_again(shelf.store(*kind), &before, &self.view);
            }
        }
    }

    fn additions(&mut self, kind: ResourceType, shelf: &Shelf) -> Option<DeltaDiscoveryResponse> {
        let subscription = self.subscriptions.get_mut(&kind).filter(|one| one.may_send())?;
        let mut batch = Batch::default();
        if !goes_last(kind) {
            batch.removed = subscription.take_removals(shelf.store(kind), &self.view);
        }
        let store = shelf.store(kind);
        while let Some(name) = subscription.backlog.front().filter(|_| !batch.is_full()).cloned() {
            subscription.backlog.pop_front();
            let asked = subscription.asked.remove(&name);
            if !subscription.wants(&name) {
                continue;
            }
            if !asked && goes_last(kind) && store.get(&name).is_none() {
                // It has gone since it was found to have changed, and goes in its turn.
                subscription.removals.push(name.to_string());
                continue;
            }
            if let Some(other) = batch.answer(&name, shelf, kind, &self.view) {
                // Asked for by its address, it is wanted by its name from now on.
                subscription.names.insert(other);
            }
        }
        let mut told = subscription.told;
        for (sequence, entry) in store.after(subscription.told) {
            if batch.is_full() {
                break;
            }
            told = sequence;
            self.withheld += u64::from(self.view.withholds(&entry.record));
            if subscription.hears_of(entry, &self.view) {
                batch.tell(&entry.name, entry.bytes.clone());
            }
        }
        if !batch.is_full() && subscription.backlog.is_empty() {
            told = shelf.sequence();
        }
        subscription.told = told;
        batch.partial = batch.is_full();
        let first = !subscription.progress.was_sent();
        let continued = std::mem::replace(&mut subscription.unfinished, batch.partial);
        // A type of which there is nothing is answered as well, and so is one whose last part was full: the subscriber
        // waits for the end.
        (first || continued || !batch.is_empty()).then(|| self.respond(kind, batch))
    }

    fn withdrawals(
        &mut self,
        kind: ResourceType,
        shelf: &Shelf,
    ) -> Result<Option<DeltaDiscoveryResponse>, Refusal> {
        let Some(subscription) = self.subscriptions.get_mut(&kind).filter(|one| one.may_send()) else {
            return Ok(None);
        };
        let store = shelf.store(kind);
        let Some(gone) = store.gone_after(subscription.withdrawn) else { return Err(Refusal::TooFarBehind) };
        let mut removed = Vec::new();
        if goes_last(kind) {
            removed = subscription.take_removals(store, &self.view);
        }
        let mut withdrawn = subscription.withdrawn;
        for (sequence, name, record) in gone.take_while(|(sequence, ..)| *sequence <= subscription.told) {
            if removed.len() >= MAX_REMOVED {
                break;
            }
            withdrawn = sequence;
            let still = store.get(name).is_some_and(|entry| self.view.includes(&entry.record));
            if !still && subscription.wants(name) && self.view.includes(record) {
                removed.push(name.to_string());
            }
        }
        if removed.len() < MAX_REMOVED {
            withdrawn = subscription.told;
        }
        subscription.withdrawn = withdrawn;
        if removed.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.respond(kind, Batch { removed, ..Batch::default() })))
    }

    fn respond(&mut self, kind: ResourceType, batch: Batch) -> DeltaDiscoveryResponse {
        self.nonce += 1;
        if let Some(subscription) = self.subscriptions.get_mut(&kind) {
            let mut names = batch.names;
            names.extend(batch.removed.iter().map(|name| Arc::from(name.as_str())));
            let flight = Flight { nonce: self.nonce, told: subscription.told, names };
            subscription.in_flight.push_back(flight);
            subscription.progress.sent = subscription.progress.sent.max(1);
        }
        DeltaDiscoveryResponse {
            system_version_info: if batch.partial { names::PARTIAL.to_owned() } else { String::new() },
            resources: batch.resources,
            type_url: kind.url().to_owned(),
            nonce: self.nonce.to_string(),
            removed_resources: batch.removed,
        }
    }
}

impl View {
    /// The view of the proxy of `node`, or of somebody else.
    pub fn of(node: Option<Arc<str>>) -> Self {
        Self { node, ..Self::default() }
    }

    /// The view of a gateway, which has proven who it is: it is told of the certificates with their keys that it is to have.
    pub fn of_gateway(asker: Asker) -> Self {
        Self { gateway: Some(Arc::new(asker)), ..Self::default() }
    }

    /// Whether a subscriber with this view is told of `record`.
    pub fn includes(&self, record: &Record) -> bool {
        match record {
            Record::LocalPod(_) | Record::Credential(_) => self.may_ask_for(record),
            Record::Workload(workload) if workload.node.is_some() && workload.node == self.node => true,
            record => self.reach.as_ref().is_none_or(|reach| reach.includes(record)),
        }
    }
}

impl View {
    /// Whether what is in view of one of the two need not be in view of the other.
    fn differs(&self, other: &Self, kind: ResourceType) -> bool {
        let (Some(reach), Some(other)) = (&self.reach, &other.reach) else { return true };
        match kind {
            ResourceType::Authorization => !reach.needs_like(other),
            ResourceType::Address => !reach.sees_like(other),
            ResourceType::Config => !reach.follows_like(other),
            ResourceType::Trust | ResourceType::Mesh | ResourceType::Credential | ResourceType::LocalPod => {
                false
            }
        }
    }

    fn may_ask_for(&self, record: &Record) -> bool {
        match record {
            Record::LocalPod(pod) => self.node.as_ref() == Some(&pod.node),
            Record::Credential(credential) => {
                self.gateway.as_ref().is_some_and(|asker| credential.is_for(asker))
            }
            _ => true,
        }
    }

    /// Whether it is a key that a gateway of its namespace might have, and this one is not to.
    fn withholds(&self, record: &Record) -> bool {
        let (Some(asker), Record::Credential(one)) = (&self.gateway, record) else { return false };
        asker.namespace == one.name.namespace && !one.is_for(asker)
    }
}

impl Progress {
    fn was_sent(&self) -> bool {
        self.sent > 0
    }
}

impl Subscription {
    fn answered(&mut self, request: &DeltaDiscoveryRequest) {
        let Ok(nonce) = request.response_nonce.parse::<u64>() else { return };
        let mut names = Vec::new();
        while self.in_flight.front().is_some_and(|oldest| oldest.nonce <= nonce) {
            let Some(oldest) = self.in_flight.pop_front() else { break };
            self.progress.acknowledged = oldest.told;
            if oldest.nonce == nonce {
                names = oldest.names;
                break;
            }
        }
        if let Some(error) = &request.error_detail {
            self.progress.rejected += 1;
            self.complaint.take(&error.message, &names);
        } else {
            self.progress.accepted += 1;
            self.complaint.settle(&names);
        }
    }

    /// Works out what has come into view, and what has gone out of it.
    fn look_again(&mut self, store: &Store, before: &View, now: &View) {
        for entry in store.until(self.told) {
            match (before.includes(&entry.record), now.includes(&entry.record)) {
                (false, true) => self.backlog.push_back(Arc::clone(&entry.name)),
                (true, false) => self.take_back(&entry.name),
                _ => {}
            }
        }
        // What has changed, or gone, at the same moment; nothing of it is in view any more to be noticed there.
        if before.reach.is_some() {
            let left = |record: &Record| before.includes(record) && !now.includes(record);
            let changed = store.after(self.told).map(|(_, entry)| (&entry.name, &entry.record));
            let gone = store
                .gone_after(self.withdrawn)
                .into_iter()
                .flatten()
                .map(|(_, name, record)| (name, record));
            for (name, _) in changed.chain(gone).filter(|(_, record)| left(record)) {
                self.take_back(name);
            }
        }
        self.backlog.make_contiguous().sort_unstable();
        self.removals.sort_unstable();
        self.removals.dedup();
    }

    /// What was asked for by name stays.
    fn take_back(&mut self, name: &Arc<str>) {
        if !self.names.contains(name) {
            self.removals.push(name.to_string());
        }
    }

    /// Works out what differs from what the subscriber says it has.
    fn resume(&mut self, has: HashMap<String, String>, sequence: u64, store: &Store, view: &View) {
        for entry in store.iter().filter(|entry| view.includes(&entry.record)) {
            if has.get(&*entry.name).is_none_or(|version| !entry.version.is(version)) {
                self.backlog.push_back(Arc::clone(&entry.name));
            }
        }
        let exists = |name: &String| store.get(name).is_some_and(|entry| view.includes(&entry.record));
        self.removals = has.into_keys().filter(|name| !exists(name)).collect();
        // The order of a map is nobody's business.
        self.backlog.make_contiguous().sort_unstable();
        self.removals.sort_unstable();
        (self.told, self.withdrawn) = (sequence, sequence);
    }

    /// [`Self::resume`] for a subscriber that does not want everything: what it has is what it wants to hear of.
    fn resume_named(
        &mut self,
        has: HashMap<String, String>,
        store: &Store,
        view: &View,
    ) -> Result<(), Refusal> {
        for (name, version) in has {
            let entry = store.get(&name).filter(|entry| view.may_ask_for(&entry.record));
            match entry {
                None => self.removals.push(name),
                Some(entry) if entry.version.is(&version) => self.want(name.into())?,
                Some(_) => self.subscribe(name)?,
            }
        }
        self.backlog.make_contiguous().sort_unstable();
        self.removals.sort_unstable();
        Ok(())
    }

    fn subscribe(&mut self, name: String) -> Result<(), Refusal> {
        if name == WILDCARD {
            if !std::mem::replace(&mut self.wildcard, true) {
                (self.told, self.withdrawn) = (0, self.withdrawn);
            }
            return Ok(());
        }
        let name: Arc<str> = name.into();
        self.want(Arc::clone(&name))?;
        if self.asked.len() >= MAX_ASKED {
            return Err(Refusal::TooManyNames);
        }
        if self.asked.insert(Arc::clone(&name)) {
            self.backlog.push_back(name);
        }
        Ok(())
    }

    fn want(&mut self, name: Arc<str>) -> Result<(), Refusal> {
        if name.len() > MAX_NAME {
            return Err(Refusal::NameTooLong);
        }
        if self.names.len() >= MAX_NAMES && !self.names.contains(&name) {
            return Err(Refusal::TooManyNames);
        }
        self.names.insert(name);
        Ok(())
    }

    fn unsubscribe(&mut self, name: &str) {
        if name == WILDCARD {
            self.wildcard = false;
        } else {
            self.names.remove(name);
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Whether it is told when this changes.
    fn hears_of(&self, entry: &Entry, view: &View) -> bool {
        let named = self.names.contains(&entry.name) && view.may_ask_for(&entry.record);
        named || self.wildcard && view.includes(&entry.record)
    }

    /// What is to be taken back. What has come again since it was missed is told, and a response that took it back as well would
    /// leave the subscriber without it.
    fn take_removals(&mut self, store: &Store, view: &View) -> Vec<String> {
        let mut removed = std::mem::take(&mut self.removals);
        removed.retain(|name| !store.get(name).is_some_and(|entry| self.hears_of(entry, view)));
        removed
    }

    fn may_send(&self) -> bool {
        self.in_flight.len() < MAX_IN_FLIGHT
    }

    fn is_behind(&self, store: &Store) -> bool {
        !self.may_send()
            && (self.unfinished || !self.backlog.is_empty() || store.after(self.told).next().is_some())
    }
}

/// Whether resources of this type, when they go out of view, go after everything else: a workload must not be there a
/// moment longer than what decides about it.
fn goes_last(kind: ResourceType) -> bool {
    kind == ResourceType::Authorization
}

/// In place of a name: all of them.
const WILDCARD: &str = "*";
/// Names that a subscriber may ask for one by one.
const MAX_NAMES: usize = 20_000;
/// Names that may wait for their answer, with those that were asked for and given up again.
const MAX_ASKED: usize = 2 * MAX_NAMES;
/// Bytes of a name; a uid has a namespace and a name of 253 bytes each.
const MAX_NAME: usize = 1024;
/// Names taken back in one response.
const MAX_REMOVED: usize = 10_000;
/// Responses of one type that may wait for their answer. Whoever is slower than that is told of the newest state when
/// it comes to it, and of nothing in between.
const MAX_IN_FLIGHT: usize = 8;

#[cfg(test)]
mod tests;
