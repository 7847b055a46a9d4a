//! Where what is to be told meets those who are to be told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, SystemTime};

use mesh_core::model::{Reach, Record, RecordKey};
use mesh_proto::names::ResourceType;
use tokio::sync::watch;

use crate::allotment::Allotment;
use crate::events::Events;
use crate::histogram::Histogram;
use crate::session::{Progress, Session};
use crate::shelf::Shelf;
use crate::turns::Turns;

/// The shelf, and all who subscribe to it.
#[derive(Debug)]
pub struct Hub {
    shelf: RwLock<Shelf>,
    /// The sequence of the shelf's last change.
    changed: watch::Sender<u64>,
    /// Whether the sources have told everything that exists: before that, nobody is told anything.
    ready: watch::Sender<bool>,
    clients: Mutex<BTreeMap<u64, Client>>,
    next_client: AtomicU64,
    /// Those that were sent away because of what they speak, by what they call themselves, until they come back.
    strangers: Mutex<BTreeMap<Arc<str>, Stranger>>,
    /// Subscribers that may say at the same time what they have.
    pub(crate) greetings: Turns,
    /// How much of the certificate service is left, whichever port it is asked on.
    pub(crate) certificates: Arc<Allotment>,
    /// Totals.
    pub counters: Counters,
}

/// Totals since the start.
#[derive(Debug)]
pub struct Counters {
    /// Streams that were opened.
    pub streams: AtomicU64,
    /// Streams that were refused or ended by us, for cause.
    pub refused: AtomicU64,
    /// Responses sent, in the order of [`ResourceType::ALL`].
    pub responses: [AtomicU64; ResourceType::ALL.len()],
    /// What subscribers took for changes.
    pub convergence: Histogram,
    /// How long responses took to make, in the order of [`ResourceType::ALL`].
    pub push_times: [Histogram; ResourceType::ALL.len()],
    /// How large they were, in the same order.
    pub sizes: [Histogram; ResourceType::ALL.len()],
    /// Responses that could not be made.
    pub internal_errors: AtomicU64,
    /// Keys that gateways of their namespace were not told, as no Gateway that names them selects these.
    pub keys_withheld: AtomicU64,
    /// What came from the sources.
    pub events: Events,
    /// Objects that the webhook has let in.
    pub reviews_passed: AtomicU64,
    /// Objects that it has refused.
    pub reviews_failed: AtomicU64,
    /// Bytes of resources sent.
    pub bytes: AtomicU64,
    /// Answers that rejected something, in the same order; the last are of a type that is not served.
    pub rejections: [AtomicU64; ResourceType::ALL.len() + 1],
    /// Certificates issued.
    pub certificates: AtomicU64,
    /// Requests for certificates that were refused or failed.
    pub certificate_failures: AtomicU64,
    /// Requests of the monitoring port for what its caller may not see.
    pub debug_refused: AtomicU64,
    /// Connections to the monitoring port that there was no room for.
    pub debug_crowded: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            streams: AtomicU64::default(),
            refused: AtomicU64::default(),
            responses: Default::default(),
            convergence: Histogram::of_convergence(),
            push_times: ResourceType::ALL.map(|_| Histogram::of_pushes()),
            sizes: ResourceType::ALL.map(|_| Histogram::of_sizes()),
            internal_errors: AtomicU64::default(),
            keys_withheld: AtomicU64::default(),
            events: Events::default(),
            reviews_passed: AtomicU64::default(),
            reviews_failed: AtomicU64::default(),
            bytes: AtomicU64::default(),
            rejections: Default::default(),
            certificates: AtomicU64::default(),
            certificate_failures: AtomicU64::default(),
            debug_refused: AtomicU64::default(),
            debug_crowded: AtomicU64::default(),
        }
    }
}

impl Counters {
    /// A subscriber has rejected something of this type.
    pub fn rejected(&self, type_url: &str) {
        let place = ResourceType::ALL.iter().position(|kind| kind.url() == type_url);
        if let Some(count) = self.rejections.get(place.unwrap_or(ResourceType::ALL.len())) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A response of this type was made, of so many bytes, in this time.
    pub fn responded(&self, type_url: &str, bytes: usize, took: Duration) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let place = ResourceType::ALL.iter().position(|kind| kind.url() == type_url);
        let Some(place) = place else { return };
        if let Some(count) = self.responses.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.push_times.get(place).into_iter().for_each(|it| it.took(took));
        self.sizes.get(place).into_iter().for_each(|it| it.record(bytes));
    }
}

/// A subscriber, as it is shown.
#[derive(Debug, Clone)]
pub struct Client {
    /// What it calls itself.
    pub id: Arc<str>,
    /// The node that it is the proxy of.
    pub node: Option<Arc<str>>,
    /// How it has proven who it is.
    pub identity: Arc<str>,
    /// Where it connects from.
    pub address: Option<SocketAddr>,
    /// When it came.
    pub since: SystemTime,
    /// How far it is with each type, and what it said when it last rejected something.
    pub types: Vec<(ResourceType, Progress, Option<Arc<str>>)>,
}

/// Somebody whose version of the protocol is too far from ours.
#[derive(Debug, Clone)]
pub struct Stranger {
    /// How it has proven who it is.
    pub identity: Arc<str>,
    /// What it was told.
    pub reason: Arc<str>,
    /// When it was here last.
    pub since: SystemTime,
}

impl Stranger {
    fn is_recent(&self) -> bool {
        self.since.elapsed().is_ok_and(|age| age < MEMORY)
    }
}

/// Takes a subscriber off the list when it goes.
#[derive(Debug)]
pub struct Registration {
    hub: Arc<Hub>,
    number: u64,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            shelf: RwLock::default(),
            changed: watch::Sender::new(0),
            ready: watch::Sender::new(false),
            clients: Mutex::default(),
            next_client: AtomicU64::new(0),
            strangers: Mutex::default(),
            greetings: Turns::default(),
            certificates: Arc::default(),
            counters: Counters::default(),
        }
    }
}

impl Hub {
    /// Takes in what a compilation came to, and has everybody told.
    pub fn publish(&self, news: Vec<(RecordKey, Option<Record>)>) {
        self.publish_with(news, Vec::new());
    }

    /// As [`Self::publish`], with what the pods of some nodes see from now on; whether there was anything.
    pub fn publish_with(
        &self,
        news: Vec<(RecordKey, Option<Record>)>,
        reaches: Vec<(Arc<str>, Arc<Reach>)>,
    ) -> bool {
        if news.is_empty() && reaches.is_empty() {
            return false;
        }
        let sequence = {
            let mut shelf = self.shelf.write().unwrap_or_else(PoisonError::into_inner);
            reaches.into_iter().for_each(|(node, reach)| shelf.set_reach(node, reach));
            shelf.apply(news);
            shelf.sequence()
        };
        self.changed.send_replace(sequence);
        true
    }

    /// Everything that exists has been published.
    pub fn set_ready(&self) {
        self.ready.send_replace(true);
    }

    /// Whether everything that exists has been published.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// What there is now.
    pub fn shelf(&self) -> RwLockReadGuard<'_, Shelf> {
        self.shelf.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears of every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Resolves when everything that exists has been published.
    pub async fn until_ready(&self) {
        // The sender lives as long as the hub.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// All subscribers, in the order in which they came.
    pub fn clients(&self) -> Vec<Client> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Those that were sent away lately because of what they speak, by what they call themselves.
    pub fn strangers(&self) -> BTreeMap<Arc<str>, Stranger> {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        strangers.retain(|_, it| it.is_recent());
        strangers.clone()
    }

    /// Notes that somebody was sent away because of what it speaks.
    pub fn turned_away(&self, id: Arc<str>, stranger: Stranger) {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if strangers.len() >= MAX_STRANGERS {
            // Nobody may ever have asked for them, and those of today are to find room.
            strangers.retain(|_, it| it.is_recent());
        }
        if strangers.len() < MAX_STRANGERS || strangers.contains_key(&id) {
            strangers.insert(id, stranger);
        }
    }

    /// Puts a subscriber on the list.
    pub fn register(self: &Arc<Self>, client: Client) -> Registration {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner).remove(&client.id);
        let number = self.next_client.fetch_add(1, Ordering::Relaxed);
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).insert(number, client);
        self.counters.streams.fetch_add(1, Ordering::Relaxed);
        Registration { hub: Arc::clone(self), number }
    }
}

impl Registration {
    /// Notes how far the subscriber is.
    pub fn update(&self, session: &Session) {
        let types = session.progress().map(|(kind, progress, error)| (kind, progress, error.cloned()));
        let types = types.collect();
        let mut clients = self.hub.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get_mut(&self.number) {
            client.types = types;
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.hub.clients.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// For so long one that was sent away is remembered; it comes again every few seconds.
const MEMORY: Duration = Duration::from_secs(120);
/// Of how many that is remembered: as many as a mesh has nodes.
const MAX_STRANGERS: usize = 5_000;
