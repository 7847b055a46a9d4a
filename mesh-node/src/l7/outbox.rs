//! What waits to be told to services: spans for their collectors, entries of access logs for theirs. They go out as requests of
//! the client that they are about, over its own connections: whoever takes them is a service like any other, with its
//! endpoints, its mutual TLS and its policies.
//!
//! Invariant: whoever serves requests never waits here. What finds no room, or nobody who takes it, is dropped and counted.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use mesh_core::addressee::Addressee;
use mesh_core::route::{ClusterRef, RouteTable};
use mesh_core::trace::Collector;
use tokio::sync::{Notify, mpsc};

use super::call::{Answer, Call};
use super::engine::Engine;
use super::exchange::Stage;
use super::logs::{self, Journal};
use super::message::RequestHead;
use super::site::{Chosen, Clients, Facts, Site};
use crate::report::{ConnReport, Event, Mail, Post, Reporter, Told};
use crate::run::tasks;

/// Of one client on one data thread.
#[derive(Debug, Default)]
pub struct Outbox {
    pub(super) spans: Lanes<Arc<Collector>>,
    pub(super) entries: Lanes<Journal>,
    post: OnceCell<Post>,
    /// Who sends what is told here, once it was asked for.
    sender: RefCell<Weak<Engine>>,
}

/// Somebody who is told things.
pub(super) trait Recipient: Clone + PartialEq + 'static {
    /// A thing that is told.
    type Item: 'static;
    /// How deliveries are counted.
    const COUNTED: Counted;
    /// What the task is called that delivers.
    const TASK: &'static str;

    /// Where things wait that are for somebody like this.
    fn lanes(outbox: &Outbox) -> &Lanes<Self>;

    /// Where it is found.
    fn to(&self) -> &Addressee;

    /// About how many bytes a thing has when it is told.
    fn size(item: &Self::Item) -> usize;

    /// What delivers things to it, as the service that it is.
    fn question(&self, items: &[Self::Item], to: &ClusterRef) -> Result<(Call, RequestHead), String>;

    /// Whether it has taken what was delivered; if not, why.
    fn took(&self, answer: Answer) -> Result<(), String>;
}

/// The events that deliveries are counted by.
pub(super) struct Counted {
    pub(super) sent: Event,
    pub(super) no_room: Event,
    pub(super) undelivered: Event,
}

/// What waits, by who it is for.
#[derive(Debug)]
pub(super) struct Lanes<R: Recipient>(RefCell<Vec<Rc<Lane<R>>>>);

impl<R: Recipient> Default for Lanes<R> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

/// What waits for one recipient. Lives as long as something does, and one pause more.
struct Lane<R: Recipient> {
    recipient: R,
    waiting: RefCell<Waiting<R::Item>>,
    /// There is enough for a delivery.
    full: Notify,
}

/// Things that wait, with what they have in bytes.
struct Waiting<T> {
    things: VecDeque<(usize, T)>,
    bytes: usize,
}

impl<R: Recipient> std::fmt::Debug for Lane<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("to", &self.recipient.to().name).finish_non_exhaustive()
    }
}

/// Has something delivered.
pub(super) fn put<R: Recipient>(engine: &Rc<Engine>, recipient: &R, item: R::Item) {
    let engine = sender(engine);
    let lane = lane(&engine, recipient);
    let size = R::size(&item);
    if !lane.waiting.borrow_mut().put(size, item) {
        return engine.reporter.count(R::COUNTED.no_room);
    }
    if lane.waiting.borrow().is_enough() {
        lane.full.notify_one();
    }
}

/// The lane of a recipient, which somebody sees to.
fn lane<R: Recipient>(engine: &Rc<Engine>, recipient: &R) -> Rc<Lane<R>> {
    let mut lanes = R::lanes(engine.outbox()).0.borrow_mut();
    if let Some(lane) = lanes.iter().find(|lane| lane.recipient == *recipient) {
        return Rc::clone(lane);
    }
    let waiting = RefCell::new(Waiting { things: VecDeque::new(), bytes: 0 });
    let recipient = recipient.clone();
    let lane = Rc::new(Lane { recipient, waiting, full: Notify::new() });
    lanes.push(Rc::clone(&lane));
    tasks::spawn_local(R::TASK, attend(Rc::clone(engine), Rc::clone(&lane)));
    lane
}

/// Delivers until nothing waits. After one that fails the next waits longer and longer.
async fn attend<R: Recipient>(engine: Rc<Engine>, lane: Rc<Lane<R>>) {
    let mut failures = 0;
    loop {
        let _ = tokio::time::timeout(PAUSE, lane.full.notified()).await;
        let was_empty = lane.waiting.borrow().things.is_empty();
        // What comes while a delivery is under way waits for company as well.
        let mut is_due = true;
        while is_due && let Some(items) = lane.take() {
            let count = u64::try_from(items.len()).unwrap_or(u64::MAX);
            match deliver(&engine, &lane.recipient, &items).await {
                Ok(()) => {
                    failures = 0;
                    engine.reporter.count_several(R::COUNTED.sent, count);
                }
                Err(reason) => {
                    engine.reporter.count_several(R::COUNTED.undelivered, count);
                    let (client, to) = (engine.client.key(), &lane.recipient.to().name);
                    tracing::debug!(%client, %to, reason, task = R::TASK, "A delivery failed.");
                    if reason.starts_with(NO_SERVICE) && is_news(&reason) {
                        tracing::warn!(%client, %to, reason, task = R::TASK, "Nothing can be delivered.");
                    }
                    tokio::time::sleep(PAUSE * (1 << failures.min(MOST_DOUBLINGS))).await;
                    failures += 1;
                }
            }
            is_due = lane.waiting.borrow().is_enough();
        }
        // A lane that something came by lately is not taken down, since more is to be expected.
        if was_empty && lane.waiting.borrow().things.is_empty() {
            R::lanes(engine.outbox()).0.borrow_mut().retain(|known| !Rc::ptr_eq(known, &lane));
            return;
        }
    }
}

impl<R: Recipient> Lane<R> {
    fn take(&self) -> Option<Vec<R::Item>> {
        let items = self.waiting.borrow_mut().take();
        (!items.is_empty()).then_some(items)
    }
}

impl<T> Waiting<T> {
    /// Takes in a thing, if there is room for it; one that no delivery has room for is not taken in either.
    fn put(&mut self, size: usize, item: T) -> bool {
        let has_room = self.things.len() < MAX_WAITING && self.bytes + size <= MAX_WAITING_BYTES;
        if !has_room || size > BATCH_BYTES {
            return false;
        }
        self.bytes += size;
        self.things.push_back((size, item));
        true
    }

    /// Whether there is enough for a delivery.
    fn is_enough(&self) -> bool {
        self.things.len() >= BATCH || self.bytes >= BATCH_BYTES
    }

    /// The things of the next delivery.
    fn take(&mut self) -> Vec<T> {
        let (mut items, mut bytes) = (Vec::with_capacity(self.things.len().min(BATCH)), 0);
        while let Some((size, _)) = self.things.front() {
            if items.len() >= BATCH || bytes + size > BATCH_BYTES {
                break;
            }
            bytes += size;
            items.extend(self.things.pop_front().map(|(_, item)| item));
        }
        self.bytes -= bytes;
        items
    }
}

/// Whether nobody of this process has said that yet. Every client and thread would otherwise.
fn is_news(reason: &str) -> bool {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    said.len() < MAX_SAID && said.insert(reason.to_owned())
}

async fn deliver<R: Recipient>(engine: &Rc<Engine>, recipient: &R, items: &[R::Item]) -> Result<(), String> {
    let snapshot = engine.snapshot();
    let (namespace, _) = engine.client.namespace_and_labels(&snapshot);
    let addressee = recipient.to();
    let host = addressee.hosts.iter().find(|host| snapshot.service_by_host(host, &namespace).is_some());
    let host = host.ok_or_else(|| format!("{NO_SERVICE} {}", addressee.hosts.first().map_or("", |it| it)))?;
    let to = ClusterRef { host: Arc::clone(host), subset: None, port: Some(addressee.port) };
    let (facts, site) = (Facts::stranger(([127, 0, 0, 1], 0).into(), None), Delivery(addressee.port));
    let stage = Stage { engine, site: &site, facts: &facts };
    let (call, mut head) = recipient.question(items, &to)?;
    let given = addressee.headers.iter().map(|(name, value)| (name, value.clone()));
    let variables = addressee.variables.iter().filter(|_| engine.client.reads_files());
    let variables =
        variables.filter_map(|(name, variable)| Some((name, std::env::var(variable).ok()?.parse().ok()?)));
    given.chain(variables).for_each(|(name, value)| _ = head.headers.insert(name, value));
    // Whoever reads requests to the recipient does not tell it of these.
    head.headers.insert(B3, HeaderValue::from_static("0"));
    let answer = call.ask(&stage, &to, &mut head);
    let patience = addressee.timeout.min(MAX_TIMEOUT);
    let answer = tokio::time::timeout(patience, Box::pin(answer)).await;
    let answer = answer.map_err(|_| format!("no answer within {patience:?}"))??;
    recipient.took(answer)
}

/// The way to the outbox from wherever a connection of the client ends.
pub fn post(engine: &Rc<Engine>) -> Post {
    let open = || {
        let (sender, mail) = mpsc::channel(MAX_WAITING);
        let reporter = Arc::clone(&engine.reporter);
        tasks::spawn_local("post", collect((Rc::downgrade(engine), reporter), mail));
        Post::new(engine.client.key(), sender)
    };
    engine.outbox().post.get_or_init(open).clone()
}

/// States what a Telemetry says is told about a connection of the client, and the way to services that are told.
pub fn tell(engine: &Rc<Engine>, report: &ConnReport, told: Arc<Told>) {
    if told.tells_of_connections() {
        report.post(post(engine));
    }
    report.tell(Some(told));
}

/// Takes the entries of connections in, until nobody can send any more.
async fn collect((engine, reporter): (Weak<Engine>, Arc<Reporter>), mut mail: mpsc::Receiver<Mail>) {
    while let Some(Mail { service, entry, .. }) = mail.recv().await {
        match engine.upgrade() {
            Some(engine) => logs::put(&engine, &service, entry),
            // Nobody is left on whose behalf it could be told.
            None => reporter.count(Event::LogUndelivered),
        }
    }
}

/// The engine by which `engine` tells things: who only takes in for an application sends as that would.
fn sender(engine: &Rc<Engine>) -> Rc<Engine> {
    let known = &engine.outbox().sender;
    if let Some(sender) = known.borrow().upgrade() {
        return sender;
    }
    let sender = engine.client.outbound().unwrap_or_else(|| Rc::clone(engine));
    known.replace(Rc::downgrade(&sender));
    sender
}

/// The listener that deliveries come by.
struct Delivery(u16);

impl Site for Delivery {
    fn routes(&self) -> Option<Arc<RouteTable>> {
        None
    }

    fn fallback(&self) -> Option<Chosen> {
        None
    }

    fn port(&self) -> u16 {
        self.0
    }

    fn clients(&self) -> Clients {
        Clients::Own
    }
}

const B3: HeaderName = HeaderName::from_static("b3");
/// Things of one delivery.
const BATCH: usize = 128;
/// Things that wait for one recipient, 1 KB each or so; more are dropped.
const MAX_WAITING: usize = 1_024;
/// Bytes of these.
const MAX_WAITING_BYTES: usize = 4 << 20;
/// Bytes of one delivery: gRPC's usual limit is 4 MiB.
const BATCH_BYTES: usize = 1 << 20;
/// How the reason begins where the recipient is not known.
const NO_SERVICE: &str = "there is no service";
/// Recipients of which it is said that they are not known.
const MAX_SAID: usize = 64;
/// How long things wait for company, and after the first delivery that fails.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the wait after failures doubles: up to 8 s.
const MOST_DOUBLINGS: u32 = 3;
/// However long a recipient may take by its provider.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer, which nobody reads.
pub(super) const MAX_ANSWER: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting() -> Waiting<usize> {
        Waiting { things: VecDeque::new(), bytes: 0 }
    }

    #[test]
    fn deliveries_are_bounded_by_number_and_by_bytes() {
        let mut small = waiting();
        assert!((0..MAX_WAITING).all(|it| small.put(100, it)) && !small.put(100, 0));
        assert!(small.is_enough());
        assert_eq!(small.take(), (0..BATCH).collect::<Vec<_>>());
        assert_eq!(small.bytes, (MAX_WAITING - BATCH) * 100);
        let mut large = waiting();
        assert!(!large.put(BATCH_BYTES + 1, 0), "no delivery has room for it");
        assert!((0..4).all(|it| large.put(BATCH_BYTES, it)) && !large.put(1, 4));
        assert_eq!((large.take(), large.take()), (vec![0], vec![1]));
        let mut few = waiting();
        assert!(few.put(1, 7) && !few.is_enough());
        assert_eq!((few.take(), few.take(), few.bytes), (vec![7], Vec::new(), 0));
    }

    #[test]
    fn what_is_missing_is_said_once() {
        assert!(is_news("there is no service a") && !is_news("there is no service a"));
        assert!(is_news("there is no service b"));
    }
}
