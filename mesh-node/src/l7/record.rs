//! What is known of one request, gathered while it is served.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use mesh_core::dynamodb;
use mesh_core::http::messages::Messages;
use mesh_core::id::SpiffeId;
use mesh_core::limit::Standing;
use mesh_core::model::{Endpoint, Workload};
use mesh_core::policy::Denied;
use mesh_core::route::MatchInfo;

use super::cluster::Cluster;
use super::exchange::Stage;
use super::h1::{Authority, Target};
use super::limit::Quota;
use super::logs;
use super::message::{Broken, Piece, RequestHead, Version, grpc_status};
use super::reply::Refusal;
use super::site::{Clients, Facts, Link};
use super::trace;
use crate::report::{Flags, Operation, Perspective, RequestFacts, RequestHeaderFacts, TlsFacts, Told};

/// What an answer said, as it was sent on.
#[derive(Debug, Default)]
struct Shown {
    headers: HeaderMap,
    trailers: HeaderMap,
}

/// See the module.
pub struct Record {
    start: Instant,
    wall: SystemTime,
    version: Version,
    grpc: bool,
    bodiless: bool,
    target: Target,
    authority: Option<Authority>,
    route: Option<Arc<MatchInfo>>,
    cluster: Option<Rc<Cluster>>,
    endpoint: Option<Endpoint>,
    link: Link,
    status: Option<StatusCode>,
    grpc_status: Option<u32>,
    flags: Flags,
    details: Cow<'static, str>,
    reason: String,
    sent: u64,
    received: u64,
    service_time: Option<Duration>,
    until_answer: Option<Duration>,
    attempts: u32,
    quota: Option<Quota>,
    /// What a rate limit service wants the answer to say.
    extra: Vec<(HeaderName, HeaderValue)>,
    /// A request to `DynamoDB`: its operation, and what the server calls what went wrong.
    dynamodb: Option<(&'static str, Option<&'static str>)>,
    /// What is told about it; nothing is set of requests of the proxy's own.
    told: Option<Arc<Told>>,
    /// Messages of a gRPC request.
    asked: u64,
    /// Those of the response.
    answers: Messages,
    /// The answer's headers and trailers, if anybody asks for them by name.
    shown: Option<Box<Shown>>,
    /// Why the client's connection was cut.
    termination: bool,
    active: Option<trace::Active>,
}

impl Record {
    /// A request has come.
    pub fn begin(_: &Stage<'_>, head: &RequestHead) -> Self {
        Self {
            start: Instant::now(),
            wall: SystemTime::now(),
            version: head.version,
            grpc: head.is_grpc(),
            bodiless: head.method == Method::HEAD,
            target: head.target.clone(),
            authority: head.authority.clone(),
            route: None,
            cluster: None,
            endpoint: None,
            link: Link::default(),
            status: None,
            grpc_status: None,
            flags: Flags::NONE,
            details: Cow::Borrowed("via_upstream"),
            reason: String::new(),
            sent: 0,
            received: 0,
            service_time: None,
            until_answer: None,
            attempts: 0,
            quota: None,
            extra: Vec::new(),
            dynamodb: head
                .headers
                .get(TARGET)
                .and_then(|it| dynamodb::operation(it.as_bytes()))
                .map(|it| (it, None)),
            told: None,
            asked: 0,
            answers: Messages::default(),
            shown: None,
            termination: false,
            active: None,
        }
    }

    /// What is told about it, and its span if it is traced. Whatever `others` want as well: headers of the answer are kept only
    /// where somebody asks for them.
    pub fn told(&mut self, told: Arc<Told>, active: Option<trace::Active>, others: bool) {
        self.shown = (others || told.reads_answers()).then(Box::default);
        (self.told, self.active) = (Some(told), active);
    }

    /// When it came.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Whether the answer has no body, whatever its head says.
    pub fn is_bodiless(&self) -> bool {
        self.bodiless
    }

    /// The rule that is used, and its match: their names are one in the log.
    pub fn route(&mut self, matched: &Arc<MatchInfo>) {
        self.route = Some(Arc::clone(matched));
    }

    /// The cluster it goes to.
    pub fn cluster(&mut self, cluster: &Rc<Cluster>) {
        self.cluster = Some(Rc::clone(cluster));
    }

    /// The endpoint that is tried, for the how-manieth time.
    pub fn upstream(&mut self, endpoint: &Endpoint, tries: u32) {
        self.attempts = tries;
        self.endpoint = Some(endpoint.clone());
    }

    /// The connection to the server that it goes by.
    pub fn reached(&mut self, link: Link) {
        self.link = link;
    }

    /// From sending it to the head of the answer, which came at `answered`.
    pub fn service_time(&mut self, took: Duration, answered: Instant) {
        self.until_answer = Some(answered.saturating_duration_since(self.start));
        self.service_time = Some(took);
    }

    /// A limit let it pass, and stands like this: of several the one is told of that is nearest to its end.
    pub fn stands(&mut self, standing: Standing) {
        if self.quota.is_none_or(|before| standing.remaining < before.standing.remaining) {
            self.quota = Some(Quota { standing, over: false });
        }
    }

    /// A limit did not let it pass.
    pub fn limited(&mut self, standing: Standing) {
        self.quota = Some(Quota { standing, over: true });
    }

    /// Adds headers to the answer, whoever gives it.
    pub fn add_to_answer(&mut self, headers: impl Iterator<Item = (HeaderName, HeaderValue)>) {
        self.extra.extend(headers);
    }

    /// Tells the client how limits stand, if any is for its request.
    pub fn tell_quota(&self, headers: &mut HeaderMap) {
        if let Some(quota) = &self.quota {
            quota.tell(headers);
        }
        self.extra.iter().for_each(|(name, value)| _ = headers.append(name, value.clone()));
    }

    /// A response flag.
    pub fn flag(&mut self, flag: Flags) {
        self.flags.insert(flag);
    }

    /// How the answer came to be.
    pub fn details(&mut self, details: &'static str) {
        self.details = Cow::Borrowed(details);
    }

    /// The proxy answers.
    pub fn refused(&mut self, refusal: Refusal, reason: &str) {
        self.flag(refusal.flag());
        // What policy says is more than what all refusals of it have in common.
        if refusal != Refusal::Denied || !self.details.starts_with(refusal.details()) {
            self.details = Cow::Borrowed(refusal.details());
        }
        reason.clone_into(&mut self.reason);
    }

    /// Policy denies it; the log says by which policy, the client does not.
    pub fn denied_by(&mut self, denied: &Denied) {
        self.details = Cow::Owned(denied.by.details());
    }

    /// Whether an answer has begun.
    pub fn is_answered(&self) -> bool {
        self.status.is_some()
    }

    /// The client went away.
    pub fn gone(&mut self, broken: &Broken) {
        self.flag(Flags::DC);
        self.details = Cow::Borrowed("downstream_remote_disconnect");
        self.reason = broken.to_string();
    }

    /// The answer was not complete.
    pub fn cut(&mut self, broken: &Broken) {
        self.flag(match broken {
            Broken::TimedOut(_) => Flags::SI,
            Broken::Overdue => Flags::UT,
            Broken::Refused(_) | Broken::Protocol(_) | Broken::Length(_) | Broken::TooLong => Flags::UPE,
            Broken::Reset(_) => Flags::UR,
            Broken::Io(_) | Broken::Closed(_) => Flags::UC,
        });
        self.details = Cow::Borrowed("upstream_reset_after_response_started");
        self.termination = true;
        self.reason = broken.to_string();
    }

    /// The head of the answer.
    pub fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = Some(status);
        if self.grpc {
            self.grpc_status = grpc_status(headers);
        }
        if let Some((_, error)) = &mut self.dynamodb {
            *error = headers.get(ERROR_TYPE).map(|it| dynamodb::error(it.as_bytes()));
        }
        if let Some(shown) = &mut self.shown {
            shown.headers = headers.clone();
        }
    }

    /// A piece of the answer.
    pub fn piece(&mut self, piece: &Piece) {
        if let (Piece::End(Some(trailers)), Some(shown)) = (piece, &mut self.shown) {
            shown.trailers = trailers.clone();
        }
        match piece {
            Piece::Data(data) => {
                self.sent(data.len());
                if self.grpc {
                    self.answers.pass(data);
                }
            }
            Piece::End(Some(trailers)) if self.grpc => {
                self.grpc_status = grpc_status(trailers).or(self.grpc_status);
            }
            Piece::End(_) => {}
        }
    }

    /// Messages of a gRPC request.
    pub fn asked(&mut self, messages: u64) {
        self.asked = messages;
    }

    /// Bytes of the request.
    pub fn received(&mut self, bytes: usize) {
        self.received = self.received.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Bytes of the answer.
    pub fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// The value of a variable in a header that a rule sets, such as `DOWNSTREAM_REMOTE_ADDRESS` or `REQ(x-id)`. `headers`
    /// are those of the request and, once there is one, of the answer.
    pub fn variable(
        &self,
        stage: &Stage<'_>,
        name: &str,
        headers: (&HeaderMap, Option<&HeaderMap>),
    ) -> Option<String> {
        if let Some(names) = argument(name, "REQ(") {
            return names.split('?').find_map(|name| match name.to_ascii_lowercase().as_str() {
                ":path" => Some(self.target.as_str().to_owned()),
                ":authority" => Some(self.authority.as_ref()?.as_str().to_owned()),
                name => text(headers.0, name),
            });
        }
        if let Some(names) = argument(name, "RESP(") {
            return names.split('?').find_map(|name| text(headers.1?, name));
        }
        Some(match name {
            "DOWNSTREAM_REMOTE_ADDRESS" => stage.facts.peer.to_string(),
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => stage.facts.peer.ip().to_string(),
            "DOWNSTREAM_LOCAL_ADDRESS" => stage.facts.local?.to_string(),
            "PROTOCOL" => self.version.name().to_owned(),
            "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => self.endpoint.as_ref()?.addr.to_string(),
            "UPSTREAM_LOCAL_ADDRESS" => self.link.local?.to_string(),
            "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => self.cluster.as_ref()?.name.to_string(),
            "ROUTE_NAME" => self.route.as_ref()?.name.to_string(),
            "RESPONSE_CODE" => self.status?.as_u16().to_string(),
            "RESPONSE_FLAGS" => self.flags.to_string(),
            "RESPONSE_CODE_DETAILS" => self.details.to_string(),
            "START_TIME" => crate::report::Rfc3339(self.wall).to_string(),
            "REQUESTED_SERVER_NAME" => stage.facts.sni.as_ref()?.to_string(),
            _ => return None,
        })
    }

    /// Counts what a request to `DynamoDB` was about.
    fn count_operation(&self, stage: &Stage<'_>, reporter: Perspective) {
        if let Some((name, error)) = self.dynamodb {
            let code = self.status.map_or(0, |status| status.as_u16());
            let service = self.cluster.as_ref().map(|it| &it.service);
            stage.engine.reporter.dynamodb(reporter, service, Operation { name, code, error });
        }
    }

    /// The request is over.
    pub fn finish(self, stage: &Stage<'_>, head: &RequestHead) -> Instant {
        let now = Instant::now();
        let header_of = |name: HeaderName| head.headers.get(name).map(HeaderValue::as_bytes);
        let request = |name: &str| sent(head, name);
        let shown = |of: fn(&Shown) -> &HeaderMap| self.shown.as_deref().map(of);
        let response = |name: &str| shown(|it| &it.headers)?.get(name).map(HeaderValue::as_bytes);
        let trailer = |name: &str| shown(|it| &it.trailers)?.get(name).map(HeaderValue::as_bytes);
        let headers = RequestHeaderFacts {
            x_forwarded_for: header_of(X_FORWARDED_FOR),
            user_agent: header_of(header::USER_AGENT),
            request_id: header_of(X_REQUEST_ID),
            request: &request,
            response: &response,
            trailer: &trailer,
        };
        let own = stage.engine.client_workload();
        let facts = self.facts(stage, (head, headers), own.as_ref());
        let told = RequestFacts { duration: now.saturating_duration_since(self.start), ..facts };
        self.count_operation(stage, told.reporter);
        self.tell(stage, head, &told);
        now
    }

    /// What is known of it, but how long it took: above all who took part.
    fn facts<'a>(
        &'a self,
        stage: &'a Stage<'_>,
        (head, headers): (&'a RequestHead, RequestHeaderFacts<'a>),
        own: Option<&'a Arc<Workload>>,
    ) -> RequestFacts<'a> {
        let facts = stage.facts;
        let reporter = stage.engine.client.perspective();
        // A waypoint sends what others have sent.
        let source = own.filter(|_| reporter != Perspective::Waypoint);
        let source_identity = self.sender(stage, source);
        let destination = self.endpoint.as_ref().and_then(|it| it.workload.as_ref());
        let sender = if reporter == Perspective::Waypoint { facts.tls.own.as_ref() } else { source_identity };
        RequestFacts {
            reporter,
            source: facts.source.as_ref().or(source),
            source_identity,
            client_identity: facts.identity.as_ref(),
            destination,
            destination_identity: destination.filter(|_| self.link.encrypted).map(|it| &it.identity),
            service: self.cluster.as_ref().map(|it| &it.service),
            pseudo_service: match (&self.cluster, &self.route) {
                (None, Some(route)) => stage.site.nobody(route),
                _ => None,
            },
            downstream_local: facts.local,
            downstream_remote: client_of(facts, head),
            downstream_direct: facts.peer,
            sni: facts.sni.as_deref().unwrap_or_default(),
            method: head.method.as_str(),
            headers,
            tls: TlsFacts {
                mutual: self.is_mutual(stage),
                downstream: facts.tls.agreed,
                upstream: self.link.agreed,
                leaf: facts.tls.leaf.as_ref(),
                own: facts.tls.own.as_ref(),
                sender: sender.filter(|_| self.link.encrypted),
            },
            ..self.outcome(facts.peer)
        }
    }

    /// What has become of it, whoever took part.
    fn outcome(&self, peer: SocketAddr) -> RequestFacts<'_> {
        RequestFacts {
            start: self.wall,
            encrypted: self.link.encrypted,
            grpc: self.grpc,
            protocol: self.version.name(),
            path: self.target.as_str(),
            authority: self.authority.as_ref().map_or("", |it| it.as_str()),
            code: self.status.map_or(0, |status| status.as_u16()),
            grpc_status: self.grpc_status,
            flags: self.flags,
            details: &self.details,
            termination_details: if self.termination { &self.reason } else { "" },
            upstream_failure: &self.reason,
            bytes_received: self.received,
            bytes_sent: self.sent,
            request_messages: self.asked,
            response_messages: self.answers.count(),
            until_answer: self.until_answer,
            attempts: self.attempts,
            upstream_service_time: self.service_time,
            upstream_host: self.endpoint.as_ref().map(|it| it.addr),
            upstream_cluster: self.cluster.as_ref().map_or("", |it| &it.name),
            upstream_local: self.link.local,
            route_name: self.route.as_ref().map_or("", |it| &it.name),
            trace: self.active.map(trace::Active::trace),
            told: self.told.as_ref(),
            ..RequestFacts::nothing(peer)
        }
    }

    /// Whether the client has proven who it is; where it is a pod of this node, whether the request went on under mutual TLS.
    fn is_mutual(&self, stage: &Stage<'_>) -> bool {
        match stage.site.clients() {
            Clients::Strangers => stage.facts.tls.leaf.is_some(),
            Clients::Callers => stage.facts.identity.is_some(),
            Clients::Own => self.link.encrypted,
        }
    }

    /// The proven identity of whoever sends the request on: a gateway does so as itself, whoever its client is.
    fn sender<'a>(&self, stage: &'a Stage<'_>, own: Option<&'a Arc<Workload>>) -> Option<&'a SpiffeId> {
        if stage.site.is_edge() && stage.facts.source.is_none() {
            return own.filter(|_| self.link.encrypted).map(|it| &it.identity);
        }
        stage.facts.identity.as_ref()
    }

    /// Tells whoever is to know.
    fn tell(&self, stage: &Stage<'_>, head: &RequestHead, facts: &RequestFacts<'_>) {
        stage.engine.reporter.request(facts);
        let Some(told) = &self.told else { return };
        let place = self.active.map(trace::Active::place);
        for (service, entry) in told.entries(facts, (place, head.secure)) {
            logs::put(stage.engine, service, entry);
        }
        if let Some(active) = self.active {
            trace::tell(stage, active, (told, facts), head);
        }
    }
}

/// A header of a request as it was sent on, with what HTTP/2 has among them.
pub(super) fn sent<'h>(head: &'h RequestHead, name: &str) -> Option<&'h [u8]> {
    match name {
        ":path" => Some(head.target.as_bytes()),
        ":authority" => Some(head.authority.as_ref()?.as_str().as_bytes()),
        ":method" => Some(head.method.as_str().as_bytes()),
        ":scheme" => Some(if head.secure { b"https" } else { b"http" }),
        "x-b3-sampled" if head.trace.is_behind() => Some(b"0"),
        name => head.headers.get(name).map(HeaderValue::as_bytes),
    }
}

/// As logs have it: a client that a proxy names has no port.
pub(super) fn client_of(facts: &Facts, head: &RequestHead) -> SocketAddr {
    head.client.map_or(facts.peer, |ip| SocketAddr::new(ip, 0))
}

/// What stands in the parentheses of a variable that begins like this.
fn argument<'n>(name: &'n str, start: &str) -> Option<&'n str> {
    name.strip_prefix(start)?.strip_suffix(')')
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// What a request to a service of Amazon asks for.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TARGET: HeaderName = HeaderName::from_static("x-amz-target");
/// What it calls what went wrong.
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
