//! What waits to be told to services: spans for their collectors, entries of access logs for theirs. They go out as requests of
//! the client that they are about, over its own connections: whoever takes them is a service like any other, with its
//! endpoints, its mutual TLS and its policies.
//!
//! Invariant: whoever serves requests never waits here. What finds no room, or nobody who takes it, is dropped and counted.

use std::cell::{OnceCell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use mesh_core::addressee::Addressee;
use mesh_core::log_service::LogService;
use mesh_core::route::{ClusterRef, RouteTable};
use mesh_core::trace::Collector;
use tokio::sync::{Notify, mpsc};

use super::call::{Answer, Call};
use super::engine::Engine;
use super::exchange::Stage;
use super::logs::{self, Journal};
use super::message::RequestHead;
use super::site::{Chosen, Clients, Facts, Site};
use crate::report::{Event, Post};
use crate::run::tasks;

/// Of one client on one data thread.
#[derive(Debug, Default)]
pub struct Outbox {
    pub(super) spans: Lanes<Arc<Collector>>,
    pub(super) entries: Lanes<Journal>,
    post: OnceCell<Post>,
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

/// What waits for one recipient. Lives as long as something does.
struct Lane<R: Recipient> {
    recipient: R,
    waiting: RefCell<VecDeque<R::Item>>,
    /// There is enough for a delivery.
    full: Notify,
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
    let mut waiting = lane.waiting.borrow_mut();
    if waiting.len() >= MAX_WAITING {
        return engine.reporter.count(R::COUNTED.no_room);
    }
    waiting.push_back(item);
    if waiting.len() >= BATCH {
        lane.full.notify_one();
    }
}

/// The lane of a recipient, which somebody sees to.
fn lane<R: Recipient>(engine: &Rc<Engine>, recipient: &R) -> Rc<Lane<R>> {
    let mut lanes = R::lanes(engine.outbox()).0.borrow_mut();
    if let Some(lane) = lanes.iter().find(|lane| lane.recipient == *recipient) {
        return Rc::clone(lane);
    }
    let (recipient, waiting) = (recipient.clone(), RefCell::default());
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
        while let Some(items) = lane.take() {
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
                    tokio::time::sleep(PAUSE * (1 << failures.min(MOST_DOUBLINGS))).await;
                    failures += 1;
                }
            }
        }
        if lane.waiting.borrow().is_empty() {
            R::lanes(engine.outbox()).0.borrow_mut().retain(|known| !Rc::ptr_eq(known, &lane));
            return;
        }
    }
}

impl<R: Recipient> Lane<R> {
    fn take(&self) -> Option<Vec<R::Item>> {
        let mut waiting = self.waiting.borrow_mut();
        let count = waiting.len().min(BATCH);
        (count > 0).then(|| waiting.drain(..count).collect())
    }
}

async fn deliver<R: Recipient>(engine: &Rc<Engine>, recipient: &R, items: &[R::Item]) -> Result<(), String> {
    let snapshot = engine.snapshot();
    let (namespace, _) = engine.client.namespace_and_labels(&snapshot);
    let addressee = recipient.to();
    let host = addressee.hosts.iter().find(|host| snapshot.service_by_host(host, &namespace).is_some());
    let host =
        host.ok_or_else(|| format!("there is no service {}", addressee.hosts.first().map_or("", |it| it)))?;
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
    let answer = tokio::time::timeout(addressee.timeout.min(MAX_TIMEOUT), Box::pin(answer)).await;
    let answer = answer.map_err(|_| format!("no answer within {:?}", addressee.timeout))??;
    recipient.took(answer)
}

/// The way to the outbox from wherever a connection of the client ends.
pub fn post(engine: &Rc<Engine>) -> Post {
    let open = || {
        let (sender, mail) = mpsc::channel(MAX_WAITING);
        tasks::spawn_local("post", collect(Rc::downgrade(engine), mail));
        Post::new(sender)
    };
    engine.outbox().post.get_or_init(open).clone()
}

/// Takes the entries of connections in, until nobody can send any more.
async fn collect(engine: Weak<Engine>, mut mail: mpsc::Receiver<(Arc<LogService>, Vec<u8>)>) {
    while let Some((service, entry)) = mail.recv().await {
        // Nobody is left on whose behalf it could be told.
        let Some(engine) = engine.upgrade() else { continue };
        logs::put(&engine, &service, entry);
    }
}

/// The engine by which `engine` tells things: who only takes in for an application sends as that would.
fn sender(engine: &Rc<Engine>) -> Rc<Engine> {
    engine.client.outbound().unwrap_or_else(|| Rc::clone(engine))
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
/// Things that wait for one recipient, some 2 KB each; more are dropped.
const MAX_WAITING: usize = 1_024;
/// How long things wait for company, and after the first delivery that fails.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the wait after failures doubles: up to 8 s.
const MOST_DOUBLINGS: u32 = 3;
/// However long a recipient may take by its provider.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer, which nobody reads.
pub(super) const MAX_ANSWER: usize = 64 << 10;
