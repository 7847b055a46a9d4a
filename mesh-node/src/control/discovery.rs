//! Follows what the control plane tells.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use mesh_ca::Bundle;
use mesh_core::model::{Mirror, Record, RecordKey};
use mesh_proto::{
    decode::Decoder,
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Status as Rejection,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    encode,
    names::{self, ResourceType},
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::{info, warn};

use super::{
    credential::{Link, LinkError},
    journal::{Entry, Journal},
    subscriber::Subscriber,
    trust::Trust,
};
use crate::{
    probe::Health,
    report::Event,
    run::{
        names::{Answer, Names},
        publish::Publisher,
    },
    tls::config::random,
};

/// Keeps the node's model as the control plane tells it.
pub struct Discovery {
    subscriber: Subscriber,
    link: Arc<Link>,
    trust: Arc<Trust>,
    publisher: Publisher,
    journal: Option<Journal>,
    decoder: Decoder,
    mirror: Mirror,
    /// What is there is all of what was told at some time, not a part of what is being told.
    whole: bool,
    /// Versions of what is in force, to say so after a reconnect.
    known: HashMap<RecordKey, Arc<str>>,
    /// Types of which everything that exists has been told on this connection.
    complete: BTreeMap<ResourceType, bool>,
    /// Addresses that pods want to reach and nobody has.
    demands: mpsc::Receiver<IpAddr>,
    names: Names,
    /// What a machine's own probe says.
    health: watch::Receiver<Health>,
    /// Those that were asked for lately.
    asked: HashMap<IpAddr, Instant>,
    status: Arc<ArcSwap<Status>>,
}

/// How it stands with the control plane.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether there is a connection.
    pub connected: bool,
    /// Why the last attempt or connection ended.
    pub last_error: Option<String>,
    /// Connections since the start.
    pub connections: u64,
    /// Responses that were accepted as a whole.
    pub accepted: u64,
    /// Responses of which something was rejected.
    pub rejected: u64,
}

impl Discovery {
    /// Follows over `link`. What `journal` remembers is in force at once, before any connection.
    pub async fn start(
        (subscriber, health): (Subscriber, watch::Receiver<Health>),
        (link, trust): (Arc<Link>, Arc<Trust>),
        (publisher, demands, names): (Publisher, mpsc::Receiver<IpAddr>, Names),
        (journal, remembered): (Journal, Vec<Entry>),
    ) -> Self {
        let mut discovery = Self {
            link,
            trust,
            publisher,
            journal: Some(journal),
            decoder: Decoder::new(subscriber.node()),
            mirror: Mirror::new(subscriber.node()),
            whole: false,
            subscriber,
            known: HashMap::new(),
            complete: BTreeMap::new(),
            demands,
            names,
            health,
            asked: HashMap::new(),
            status: Arc::default(),
        };
        let count = remembered.len();
        for entry in remembered {
            match entry {
                Entry::Put(kind, bytes) => drop(discovery.put(kind, bytes)),
                Entry::Remove(kind, name) => discovery.remove(kind, &name),
            }
        }
        if count > 0 {
            info!(resources = discovery.known.len(), "Serving what the control plane told last.");
            discovery.publish().await;
        }
        discovery
    }

    /// How it stands with the control plane, now and later.
    pub fn status(&self) -> Arc<ArcSwap<Status>> {
        Arc::clone(&self.status)
    }

    /// Connects, follows, and connects again, for ever.
    pub async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let ended = self.session().await;
            if matches!(ended, Err(LinkError::Refused(_))) {
                self.link.doubt();
            }
            let was_connected = self.status.load().connected;
            self.publisher.reporter.count(match ended {
                Ok(()) => Event::ControlEnded,
                Err(_) if was_connected => Event::ControlLost,
                Err(_) => Event::ControlUnreached,
            });
            let reason = ended
                .err()
                .map_or_else(|| "the control plane ended the stream".to_owned(), |error| error.to_string());
            if was_connected {
                pause = FIRST_PAUSE;
            }
            warn!(%reason, retry_ms = pause.as_millis(), "Not connected to the control plane; what it told stays in force.");
            self.note(|status| {
                status.connected = false;
                status.last_error = Some(reason.clone());
            });
            let again = tokio::time::sleep(scattered(pause));
            tokio::pin!(again);
            loop {
                tokio::select! {
                    () = &mut again => break,
                    answer = self.names.next() => self.resolved(answer).await,
                }
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn session(&mut self) -> Result<(), LinkError> {
        self.complete.clear();
        self.asked.clear();
        let opened = timeout(OPENING, self.link.open()).await;
        let opened = opened.map_err(|_| LinkError::Unavailable("no connection in time".to_owned()))??;
        let (requests, receiver) = mpsc::channel(REQUESTS);
        for kind in self.subscriber.kinds() {
            // There is room for all of them.
            let _ = requests.try_send(self.initial(kind));
        }
        self.tell_health(&requests);
        let mut client = AggregatedDiscoveryServiceClient::new(opened.channel.clone())
            .max_decoding_message_size(MAX_RESPONSE);
        let call = client.delta_aggregated_resources(opened.request(ReceiverStream::new(receiver)));
        let mut responses = timeout(OPENING, call)
            .await
            .map_err(|_| LinkError::Unavailable("no answer in time".to_owned()))??
            .into_inner();
        loop {
            let response = tokio::select! {
                response = responses.message() => response?,
                Some(ip) = self.demands.recv() => {
                    self.ask_for(ip, &requests);
                    continue;
                }
                answer = self.names.next() => {
                    self.resolved(answer).await;
                    continue;
                }
                Ok(()) = self.health.changed() => {
                    self.tell_health(&requests);
                    continue;
                }
            };
            let Some(response) = response else { return Ok(()) };
            if !self.status.load().connected {
                info!("Connected to the control plane.");
                self.publisher.identities.hurry();
                self.note(|status| (status.connected, status.connections) = (true, status.connections + 1));
            }
            self.take(response, &requests).await?;
            // What is there already belongs to the same change, or is newer.
            self.take_waiting(&mut responses, &requests).await?;
            self.publish_if_complete().await;
        }
    }

    /// Says how the machine is, if that is known.
    fn tell_health(&mut self, requests: &mpsc::Sender<DeltaDiscoveryRequest>) {
        let Some(health) = self.health.borrow_and_update().clone() else { return };
        let error_detail = health.err().map(|message| Rejection { code: UNAVAILABLE, message });
        let type_url = names::HEALTH.to_owned();
        let request = DeltaDiscoveryRequest { type_url, error_detail, ..DeltaDiscoveryRequest::default() };
        // A queue that is full is that of a connection about to end; the next one begins with it.
        let _ = requests.try_send(request);
    }

    /// Asks for whatever has an address that a pod wants to reach and nothing that was told has. Its pods may see less
    /// than the mesh has.
    fn ask_for(&mut self, ip: IpAddr, requests: &mpsc::Sender<DeltaDiscoveryRequest>) {
        let now = Instant::now();
        self.asked.retain(|_, at| now.duration_since(*at) < ASK_AGAIN);
        if self.asked.len() >= MAX_ASKED || self.asked.contains_key(&ip) {
            return;
        }
        let request = DeltaDiscoveryRequest {
            type_url: ResourceType::Address.url().to_owned(),
            resource_names_subscribe: vec![format!("/{ip}")],
            ..DeltaDiscoveryRequest::default()
        };
        // A queue that is full is that of a connection about to end.
        if requests.try_send(request).is_ok() {
            self.asked.insert(ip, now);
        }
    }

    async fn take_waiting(
        &mut self,
        responses: &mut Streaming<DeltaDiscoveryResponse>,
        requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    ) -> Result<(), LinkError> {
        for _ in 0..MAX_TOGETHER {
            match timeout(TOGETHER, responses.message()).await {
                Ok(Ok(Some(response))) => self.take(response, requests).await?,
                Ok(Err(status)) => return Err(status.into()),
                Ok(Ok(None)) | Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Applies a response and answers it.
    async fn take(
        &mut self,
        response: DeltaDiscoveryResponse,
        requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    ) -> Result<(), LinkError> {
        let DeltaDiscoveryResponse { system_version_info, resources, type_url, nonce, removed_resources } =
            response;
        self.whole = false;
        let mut problems = Vec::new();
        match ResourceType::of_url(&type_url) {
            None => problems.push(format!("the type {type_url} was not asked for")),
            Some(kind) => {
                self.publisher.reporter.count(Event::message(kind));
                for bytes in resources {
                    if let Err(problem) = self.put(kind, bytes) {
                        problems.push(problem);
                    }
                }
                removed_resources.iter().for_each(|name| self.remove(kind, name));
                self.complete.insert(kind, system_version_info != names::PARTIAL);
            }
        }
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.flush()
        {
            warn!(%error, "What the control plane tells cannot be kept on disk any more.");
            self.journal = None;
        }
        let error_detail = self.judge(problems);
        let answer = DeltaDiscoveryRequest {
            type_url,
            response_nonce: nonce,
            error_detail,
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(answer).await.map_err(|_| LinkError::Unavailable("the stream is closed".to_owned()))
    }

    fn judge(&self, mut problems: Vec<String>) -> Option<Rejection> {
        self.note(|status| {
            *(if problems.is_empty() { &mut status.accepted } else { &mut status.rejected }) += 1;
        });
        problems
            .iter()
            .for_each(|problem| warn!(problem, "Something that the control plane told is rejected."));
        let more = problems.len().saturating_sub(MAX_PROBLEMS);
        problems.truncate(MAX_PROBLEMS);
        if more > 0 {
            problems.push(format!("and {more} more"));
        }
        (!problems.is_empty()).then(|| Rejection { code: INVALID_ARGUMENT, message: problems.join("; ") })
    }

    fn put(&mut self, kind: ResourceType, bytes: bytes::Bytes) -> Result<(), String> {
        let named = self.decoder.resource(kind, bytes.clone()).map_err(|error| error.to_string())?;
        let record = named.record.map_err(|error| format!("{}: {error}", named.name))?;
        if let Record::Trust(trust) = &record {
            let bundle = Bundle::parse(trust.roots.as_bytes(), trust.crls.as_bytes());
            let bundle = bundle.map_err(|error| format!("{}: {error}", named.name))?;
            self.trust.told(bundle);
        }
        self.known.insert(record.key(), named.version);
        self.mirror.apply(record);
        self.remember(&Entry::Put(kind, bytes));
        Ok(())
    }

    fn remove(&mut self, kind: ResourceType, name: &str) {
        let Some(key) = names::key(kind, name).filter(|key| self.known.remove(key).is_some()) else { return };
        self.mirror.remove(&key);
        self.remember(&Entry::Remove(kind, name.to_owned()));
    }

    /// Keeps what was told, but for keys, which must not be on a disk.
    fn remember(&mut self, entry: &Entry) {
        if let Entry::Put(ResourceType::Credential, _) | Entry::Remove(ResourceType::Credential, _) = entry {
            return;
        }
        let Some(journal) = &mut self.journal else { return };
        let written = journal.append(entry).and_then(|()| {
            if !journal.is_bloated() {
                return Ok(());
            }
            let known = &self.known;
            let live = self.mirror.records().filter_map(|record| {
                let key = record.key();
                let kind = ResourceType::of(&key);
                let version = known.get(&key)?;
                Some(Entry::Put(
                    kind,
                    encode::resource(&names::name(&key), version, kind, encode::payload(&record)),
                ))
            });
            journal.rewrite(live)
        });
        if let Err(error) = written {
            warn!(%error, "What the control plane tells cannot be kept on disk any more.");
            self.journal = None;
        }
    }

    /// A new connection tells in parts; the model is whole again when all parts have come. Workloads and policies are
    /// what every control plane has.
    async fn publish_if_complete(&mut self) {
        let whole = [ResourceType::Address, ResourceType::Authorization];
        if whole.iter().all(|kind| self.complete.get(kind) == Some(&true)) {
            self.publish().await;
        }
    }

    /// A name leads elsewhere. In the middle of a change that comes in parts it takes effect with that.
    async fn resolved(&mut self, (name, addresses): Answer) {
        if self.mirror.resolved(&name, addresses) && self.whole {
            self.publish().await;
        }
    }

    async fn publish(&mut self) {
        self.whole = true;
        self.names.want(self.mirror.hostnames());
        let snapshot = self.mirror.snapshot();
        self.publisher.publish(snapshot).await;
    }

    fn initial(&self, kind: ResourceType) -> DeltaDiscoveryRequest {
        let has = self.known.iter().filter(|(key, _)| ResourceType::of(key) == kind);
        DeltaDiscoveryRequest {
            node: Some(self.subscriber.describe()),
            type_url: kind.url().to_owned(),
            initial_resource_versions: has
                .map(|(key, version)| (names::name(key).to_string(), version.to_string()))
                .collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn note(&self, change: impl FnOnce(&mut Status)) {
        let mut status = Status::clone(&self.status.load());
        change(&mut status);
        self.status.store(Arc::new(status));
    }
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery").field("subscriber", &self.subscriber).finish_non_exhaustive()
    }
}

/// `pause` and up to as much again, so that a thousand nodes do not come back in one moment.
fn scattered(pause: Duration) -> Duration {
    let [byte] = random::<1>();
    pause + pause.mul_f64(f64::from(byte) / 255.0)
}

/// An address that nobody has may have somebody after so long.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Addresses asked for in that time.
const MAX_ASKED: usize = 1000;
/// gRPC's codes.
const INVALID_ARGUMENT: i32 = 3;
const UNAVAILABLE: i32 = 14;
/// Problems named in one answer.
const MAX_PROBLEMS: usize = 10;
/// Requests that wait to be sent: one of each type at first, and then answers.
const REQUESTS: usize = 64;
/// Bytes of a response. Other control planes send a whole mesh in one.
const MAX_RESPONSE: usize = 200 << 20;
/// Responses applied before the next snapshot.
const MAX_TOGETHER: usize = 64;
/// How long to wait for one that belongs to the last.
const TOGETHER: Duration = Duration::from_millis(1);
/// What a connection and its first answer may take.
const OPENING: Duration = Duration::from_secs(10);
/// Between attempts, the first and the longest, as long again by chance. A control plane that is back is to be noticed
/// within two seconds, one of which may go to an attempt that was lost just before; and a thousand nodes are not to
/// come all at once.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(300);
