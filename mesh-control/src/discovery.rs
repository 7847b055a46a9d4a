//! The discovery service: streams of differences.

use std::net::{IpAddr, Ipv4Addr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use mesh_ca::authorize::Rules;
use mesh_core::id::SpiffeId;
use mesh_core::machine::Claim;
use mesh_proto::discovery::aggregated_discovery_service_server::AggregatedDiscoveryService;
use mesh_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use mesh_proto::names;
use mesh_proto::protocol;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::authn::Authenticator;
use crate::gate::Gate;
use crate::histogram::Histogram;
use crate::hub::{Client, Hub, Registration, Stranger};
use crate::intake::Intake;
use crate::machines::{Attending, Machines};
use crate::peer::{Connection, Proven};
use crate::session::{Session, View};
use crate::tasks;

/// Serves subscribers.
#[derive(Debug, Clone)]
pub struct Discovery {
    hub: Arc<Hub>,
    authenticator: Arc<Authenticator>,
    rules: Arc<Rules>,
    machines: Arc<Machines>,
    /// For lines about those that are turned away, or that reject something.
    complaints: Arc<Gate>,
    /// For lines about those that come.
    arrivals: Arc<Gate>,
}

impl Discovery {
    /// Serves what `hub` has; those who register themselves are `machines`.
    pub fn new(
        hub: Arc<Hub>,
        (authenticator, rules): (Arc<Authenticator>, Arc<Rules>),
        machines: Arc<Machines>,
    ) -> Self {
        Self { hub, authenticator, rules, machines, complaints: Arc::default(), arrivals: Arc::default() }
    }
}

type Responses = Pin<Box<dyn tokio_stream::Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream = Responses;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let refuse = |status: Status| {
            self.hub.counters.refused.fetch_add(1, Ordering::Relaxed);
            if let Some(muted) = self.complaints.pass() {
                tracing::warn!(reason = status.message(), muted, "A subscriber was refused.");
            }
            status
        };
        let proven = self.authenticator.authenticate(&request).await.map_err(refuse)?;
        let connection = request.extensions().get::<Connection>().cloned();
        // Every call has one; a call that had not could not be read.
        let intake = request.extensions().get::<Intake>().cloned().unwrap_or_default();
        let (responses, receiver) = mpsc::channel(BUFFERED);
        let stream = Stream {
            hub: Arc::clone(&self.hub),
            rules: Arc::clone(&self.rules),
            machines: Arc::clone(&self.machines),
            attending: None,
            standing_in: None,
            complaints: Arc::clone(&self.complaints),
            arrivals: Arc::clone(&self.arrivals),
            proven,
            connection,
            intake,
            requests: request.into_inner(),
            responses,
        };
        drop(tasks::spawn("discovery stream", stream.serve()));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// One subscriber's stream.
struct Stream {
    hub: Arc<Hub>,
    rules: Arc<Rules>,
    machines: Arc<Machines>,
    /// Of a machine that has registered itself, for as long as it is here.
    attending: Option<Attending>,
    /// Who is told as the machine of a WorkloadEntry that somebody has written, and of which.
    standing_in: Option<(SpiffeId, Arc<str>)>,
    complaints: Arc<Gate>,
    arrivals: Arc<Gate>,
    proven: Proven,
    connection: Option<Connection>,
    intake: Intake,
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

impl Stream {
    async fn serve(mut self) {
        let responses = self.responses.clone();
        let Err(status) = self.talk().await else { return };
        if status.code() != Code::Ok {
            self.hub.counters.refused.fetch_add(1, Ordering::Relaxed);
            if let Some(muted) = self.complaints.pass() {
                tracing::warn!(peer = %self.proven.describe(), reason = status.message(), muted, "A stream was ended.");
            }
            let _ = timeout(GOODBYE, responses.send(Err(status))).await;
        }
    }

    /// Ends when the subscriber goes, or with the reason why it has to.
    async fn talk(&mut self) -> Result<(), Status> {
        self.hub.until_ready().await;
        let mut changes = self.hub.changes();
        let Some((mut session, registration)) = self.greet().await? else { return Ok(()) };
        let mut more = true;
        // Runs from the first response that is not answered.
        let mut awaits_answer = false;
        let mut lag = Lag::default();
        let mut overdue = pin!(sleep(MAX_SILENCE));
        loop {
            registration.update(&session);
            let mut large = false;
            tokio::select! {
                request = self.requests.message() => {
                    let Some(request) = heard(request)? else { return Ok(()) };
                    self.intake.grant(MAX_WITHOUT_TURN);
                    self.take(&mut session, request)?;
                    (more, awaits_answer) = (true, false);
                }
                () = self.intake.used_up() => large = true,
                slot = self.responses.reserve(), if more => {
                    let Ok(slot) = slot else { return Ok(()) };
                    if let Some(response) = self.compose(&mut session)? {
                        lag.is_told = true;
                        slot.send(Ok(response));
                        if !awaits_answer {
                            overdue.as_mut().reset(Instant::now() + MAX_SILENCE);
                            awaits_answer = true;
                        }
                    } else {
                        more = false;
                        if session.is_settled() {
                            lag.ends(&self.hub.counters.convergence);
                        }
                    }
                }
                changed = changes.changed(), if !more => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.check_machine()?;
                    more = true;
                    lag.begins();
                }
                () = overdue.as_mut(), if awaits_answer => {
                    return Err(Status::deadline_exceeded("responses were not answered for too long"));
                }
            }
            if large {
                let Some(request) = self.hear_much().await? else { return Ok(()) };
                self.take(&mut session, request)?;
                (more, awaits_answer) = (true, false);
            }
        }
    }

    /// What is to be told next, counted; nothing if all is told.
    fn compose(&self, session: &mut Session) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        let begun = Instant::now();
        let next = session.next(&self.hub.shelf()).map_err(|refusal| {
            self.hub.counters.internal_errors.fetch_add(1, Ordering::Relaxed);
            Status::aborted(refusal.to_string())
        })?;
        self.note_withheld(session.take_withheld());
        if let Some(response) = &next {
            let bytes = response.resources.iter().map(bytes::Bytes::len).sum();
            self.hub.counters.responded(&response.type_url, bytes, begun.elapsed());
        }
        Ok(next)
    }

    fn note_withheld(&self, keys: u64) {
        if keys == 0 {
            return;
        }
        self.hub.counters.keys_withheld.fetch_add(keys, Ordering::Relaxed);
        if let Some(muted) = self.complaints.pass() {
            let reason = "no Gateway that names them selects its pod";
            let (peer, stage) = (self.proven.describe(), "keys");
            tracing::warn!(%peer, stage, reason, keys, muted, "Keys of its namespace are not told to a gateway.");
        }
    }

    /// Reads what the subscriber says at first: who it is, what it wants and what it has. `None` if it says nothing.
    async fn greet(&mut self) -> Result<Option<(Session, Registration)>, Status> {
        let hub = Arc::clone(&self.hub);
        let _turn = hub.greetings.take(self.machine()).await;
        let deadline = Instant::now() + GREETING;
        self.intake.grant(MAX_REQUEST);
        let first = timeout_at(deadline, self.requests.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("nothing was asked for"))?;
        let Some(first) = heard(first)? else { return Ok(None) };
        let (mut session, registration) = self.admit(first.node.as_ref())?;
        self.take(&mut session, first)?;
        // Its other types follow at once; what they have to say is read in the same turn.
        while !session.has_asked_for_all() && Instant::now() < deadline {
            self.intake.grant(MAX_REQUEST);
            match timeout(PAUSE, self.requests.message()).await {
                Err(_) => break,
                Ok(request) => match heard(request)? {
                    Some(request) => self.take(&mut session, request)?,
                    None => return Ok(None),
                },
            }
        }
        self.intake.grant(MAX_WITHOUT_TURN);
        Ok(Some((session, registration)))
    }

    /// Reads the rest of a large request, in a turn.
    async fn hear_much(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        let _turn = self.hub.greetings.take(self.machine()).await;
        self.intake.grant(MAX_REQUEST);
        let request = timeout(GREETING, self.requests.message()).await;
        self.intake.grant(MAX_WITHOUT_TURN);
        heard(request.map_err(|_| Status::deadline_exceeded("a request took too long"))?)
    }

    fn machine(&self) -> IpAddr {
        self.connection.as_ref().map_or(Ipv4Addr::UNSPECIFIED.into(), |one| one.address.ip())
    }

    fn admit(&mut self, node: Option<&Node>) -> Result<(Session, Registration), Status> {
        let id: Arc<str> =
            node.map(|node| node.id.chars().take(MAX_ID).collect::<String>()).unwrap_or_default().into();
        let skew = protocol::skew(node.and_then(|node| metadata(node, protocol::FIELD)));
        let skew = skew.map_err(|error| {
            let (identity, reason, since) =
                (self.proven.describe(), error.to_string().into(), SystemTime::now());
            self.hub.turned_away(Arc::clone(&id), Stranger { identity, reason, since });
            Status::failed_precondition(error.to_string())
        })?;
        let claimed = node.and_then(|node| metadata(node, "NODE_NAME"));
        let proven = self.proven.node(&self.rules);
        let node_name = match (&self.proven, proven, claimed) {
            (_, None, Some(claimed)) if claimed.contains('/') => Some(self.attend(node, claimed)?),
            (Proven::Nobody, _, claimed) => claimed.map(Arc::from),
            (_, Some(proven), Some(claimed)) if *proven != *claimed => {
                let text = format!("you are {}, not a proxy of node {claimed}", self.proven.describe());
                return Err(Status::permission_denied(text));
            }
            (_, proven, _) => proven,
        };
        let view = match node.and_then(|node| metadata(node, names::GATEWAY)) {
            Some(gateway) => self.gateway(gateway)?,
            None => View::of(node_name.clone()),
        };
        let client = Client {
            id,
            node: node_name,
            identity: self.proven.describe(),
            address: self.connection.as_ref().map(|connection| connection.address),
            since: SystemTime::now(),
            types: Vec::new(),
        };
        if let Some(muted) = self.arrivals.pass() {
            tracing::info!(
                id = &*client.id,
                node = client.node.as_deref().unwrap_or("-"),
                identity = &*client.identity,
                protocol = ?skew,
                muted,
                "A subscriber has come."
            );
        }
        Ok((Session::new(view), self.hub.register(client)))
    }

    /// The name of the node of a machine, which is that of its WorkloadEntry. Whoever wants to be told as that machine has
    /// proven to have its identity; one that names a WorkloadGroup is registered.
    fn attend(&mut self, node: Option<&Node>, claimed: &str) -> Result<Arc<str>, Status> {
        let refuse = |error: &dyn std::fmt::Display| Status::permission_denied(error.to_string());
        let described = self.proven.describe();
        let Some(identity) = self.proven.identity(&self.rules) else {
            let text = format!("you are {described}, which is no machine's identity");
            return Err(Status::permission_denied(text));
        };
        let claim = node.map(claim_of).transpose().map_err(Status::invalid_argument)?.flatten();
        match claim {
            None => {
                self.machines.check(&identity, claimed).map_err(|error| refuse(&error))?;
                self.standing_in = Some((identity, claimed.into()));
            }
            Some(claim) if format!("{}/{}", claim.namespace, claim.entry_name()) != claimed => {
                return Err(Status::invalid_argument("NODE_NAME is not what the machine is registered as"));
            }
            Some(claim) => {
                let attending = self.machines.register(&identity, claim).map_err(|error| refuse(&error))?;
                self.attending = Some(attending);
            }
        }
        Ok(claimed.into())
    }

    /// What a machine is may come to be another's, and a WorkloadEntry that was not there yet may come.
    fn check_machine(&self) -> Result<(), Status> {
        let standing_in = self.standing_in.as_ref();
        let told_as = standing_in.map_or(Ok(()), |(identity, entry)| self.machines.check(identity, entry));
        told_as.map_err(|error| Status::permission_denied(error.to_string()))?;
        let registered = self.attending.as_ref().map_or(Ok(()), Attending::check);
        registered.map_err(|error| Status::permission_denied(error.to_string()))
    }

    /// What a gateway of this name, `NAMESPACE/NAME`, may know. Keys of its namespace are told to who has proven to be
    /// one of the pods that are to have them; who need not prove anything is told none.
    fn gateway(&self, name: &str) -> Result<View, Status> {
        let (namespace, called) = name.split_once('/').unwrap_or((name, ""));
        match (&self.proven, self.proven.asker(&self.rules, called)) {
            (_, Some(asker)) if *asker.namespace == *namespace => Ok(View::of_gateway(asker)),
            (Proven::Nobody, _) => Ok(View::default()),
            _ => {
                let namespace: String = namespace.chars().take(MAX_ID).collect();
                let text = format!("you are {}, not a gateway of {namespace}", self.proven.describe());
                Err(Status::permission_denied(text))
            }
        }
    }

    fn take(&self, session: &mut Session, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        if request.type_url == names::HEALTH {
            if let Some(attending) = &self.attending {
                attending.report(request.error_detail.as_ref().map(|error| &*error.message));
            }
            return Ok(());
        }
        if let Some(error) = &request.error_detail {
            self.hub.counters.rejected(&request.type_url);
            let text: String = error.message.chars().take(MAX_LOGGED).collect();
            if let Some(muted) = self.complaints.pass() {
                let kind: String = request.type_url.chars().take(MAX_LOGGED).collect();
                tracing::warn!(peer = %self.proven.describe(), kind, error = text, muted, "A subscriber rejected something.");
            }
        }
        session
            .request(request, &self.hub.shelf())
            .map_err(|refusal| Status::resource_exhausted(refusal.to_string()))
    }
}

/// How far a subscriber is behind a change.
#[derive(Debug, Default)]
struct Lag {
    /// When the oldest change was heard of that it may not have answered.
    since: Option<Instant>,
    /// Whether it was about the subscriber at all.
    is_told: bool,
}

impl Lag {
    fn begins(&mut self) {
        if self.since.is_none() {
            *self = Self { since: Some(Instant::now()), is_told: false };
        }
    }

    fn ends(&mut self, convergence: &Histogram) {
        if let Some(since) = self.since.take().filter(|_| self.is_told) {
            convergence.took(since.elapsed());
        }
    }
}

/// What a subscriber has said; `None` if it has gone, and why it has to go if what it says is too much or no message.
fn heard(
    request: Result<Option<DeltaDiscoveryRequest>, Status>,
) -> Result<Option<DeltaDiscoveryRequest>, Status> {
    match request {
        Ok(request) => Ok(request),
        Err(status)
            if matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted | Code::Internal) =>
        {
            Err(Status::new(status.code(), format!("the request cannot be read: {}", status.message())))
        }
        Err(_) => Ok(None),
    }
}

/// What a machine says of itself to be registered; nothing, if it names no group.
fn claim_of(node: &Node) -> Result<Option<Claim>, &'static str> {
    let Some(group) = metadata(node, names::GROUP) else { return Ok(None) };
    let namespace = metadata(node, "NAMESPACE").ok_or("a WorkloadGroup without NAMESPACE")?;
    // There may be several, of which the first is the machine's.
    let first = |all: &str| all.split(',').next()?.parse::<IpAddr>().ok();
    let address = metadata(node, names::INSTANCE_IPS).and_then(first).map(|address| address.to_canonical());
    let network = metadata(node, names::NETWORK).unwrap_or_default();
    let texts = [namespace, group, network];
    if texts.iter().any(|text| text.len() > MAX_ID || text.contains('/')) {
        return Err("a name of a machine's is none");
    }
    let [namespace, group, network] = texts.map(Into::into);
    let address = address.ok_or("INSTANCE_IPS has no address")?;
    Ok(Some(Claim { namespace, group, address, network }))
}

fn metadata<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    match &node.metadata.as_ref()?.fields.get(key)?.kind {
        Some(prost_types::value::Kind::StringValue(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// Bytes of a request: what a node of a mesh of 200,000 resources has to say when it comes back.
pub const MAX_REQUEST: usize = 32 << 20;
/// Bytes of a request that are read before it has a turn: those that answer have some hundreds.
const MAX_WITHOUT_TURN: usize = 16 << 10;
/// Responses between a session and its connection.
const BUFFERED: usize = 2;
/// What a subscriber has to begin to speak, and to say what it has.
const GREETING: Duration = Duration::from_secs(10);
/// A subscriber that says nothing for so long has said at first what it wanted to say.
const PAUSE: Duration = Duration::from_millis(50);
/// After so long without an answer to anything a subscriber is not alive.
const MAX_SILENCE: Duration = Duration::from_secs(300);
/// What a refused subscriber has to take the reason.
const GOODBYE: Duration = Duration::from_secs(5);
/// Characters of what a subscriber calls itself.
const MAX_ID: usize = 256;
/// Characters of what a subscriber says in the log.
const MAX_LOGGED: usize = 500;
