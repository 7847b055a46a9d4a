//! The trace that a request is part of: read when it comes, carried on with our own span in it, told when it is over.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use mesh_core::model::{Snapshot, Workload};
use mesh_core::own::Own as GatewayOwn;
use mesh_core::resource::mesh_config::proxy::TracingServiceName;
use mesh_core::resource::telemetry::CustomTag;
use mesh_core::telemetry::Tracing;
use mesh_core::trace::{
    Incoming, Istio, Own, Parent, Received, TraceWord, Wish, cut, drawn_by, is_drawn, is_traced, mark,
    random_id,
};
use mesh_proto::logs::Teller as LogTeller;

use super::engine::Engine;
use super::exchange::Stage;
use super::message::RequestHead;
use super::outbox;
use super::record::sent;
use super::site::Client;
use crate::report::{Perspective, RequestFacts, Told};

use self::noted::Noted;

mod delivery;
mod noted;

/// A request that is traced: it has a span.
#[derive(Debug, Clone, Copy)]
pub struct Active(Own);

impl Active {
    /// The trace.
    pub fn trace(self) -> u128 {
        self.0.at.trace
    }

    /// The trace, and the request's own span in it.
    pub fn place(self) -> (u128, u64) {
        (self.0.at.trace, self.0.at.span)
    }
}

/// On whose behalf spans and access logs are told: the same for all requests of an engine.
#[derive(Debug, Default)]
pub(super) struct Teller {
    service: Arc<str>,
    node: String,
    address: Option<IpAddr>,
    workload: Option<Arc<Workload>>,
    mesh: String,
    /// The canonical service and its revision, and the namespace, where there is no workload.
    names: [String; 3],
    /// Whether variables are those of this process.
    reads_environment: bool,
    /// What a gateway was known as.
    own: Option<Arc<GatewayOwn>>,
    /// Who tells, in the words of access logs.
    logs: Arc<LogTeller>,
    /// Room for texts of spans. They are kept for a second each: new memory for every one would be scattered among that of requests.
    room: RefCell<Vec<String>>,
}

/// Reads the trace of a request, decides whether it is traced, and has the request carry it on. `made` is the number that its id
/// begins with if it was made here, so that it may say whether it is traced.
pub(super) fn begin(
    stage: &Stage<'_>,
    head: &mut RequestHead,
    told: &Told,
    made: Option<u32>,
) -> Option<Active> {
    if head.trace.is_behind() {
        // It stays as it is. Nearly every request that another proxy has sent says so: nothing else is looked at.
        return None;
    }
    let tracing = told.effective.tracing.as_ref()?;
    // Who tells nobody has no place in the trace: it goes on as it came.
    tracing.collector.as_ref()?;
    let by_own_id = made.filter(|_| tracing.by_id);
    let says_nothing = head.trace == TraceWord::Nothing;
    let is_left = |number| !is_drawn(drawn_by(number), tracing.sampling);
    if says_nothing && tracing.forms.is_several() && by_own_id.is_some_and(is_left) {
        // Nearly every request that comes from an application.
        return leave(head, tracing);
    }
    let received = if says_nothing {
        let id = if made.is_none() { head.headers.get(X_REQUEST_ID) } else { None };
        Received::nothing(id.map(HeaderValue::as_bytes))
    } else {
        Received::read(&head.headers, tracing.forms)
    };
    let incoming = received.incoming;
    if incoming.decided == Some(false) {
        return None;
    }
    let forced = received.forced && !stage.site.is_edge();
    let request_id = received.request_id.filter(|_| tracing.by_id && made.is_none());
    let (sampling, draw) = (tracing.sampling, by_own_id.map_or_else(|| stage.engine.random(), drawn_by));
    let sampled = is_traced(&Wish { incoming: &incoming, forced, request_id, sampling, draw });
    if sampled && by_own_id.is_some() {
        note_in_id(head);
    }
    if !sampled && tracing.forms.is_several() && says_nothing {
        return leave(head, tracing);
    }
    let own = span(stage.engine, &incoming, (tracing, sampled));
    if tracing.passes_on {
        incoming.pass_on(&mut head.headers, &own, tracing.forms);
    }
    sampled.then_some(Active(own))
}

/// Has a request that says nothing say that it is not traced.
fn leave(head: &mut RequestHead, tracing: &Tracing) -> Option<Active> {
    if tracing.passes_on {
        head.trace = TraceWord::Unwritten;
    }
    None
}

fn span(engine: &Engine, incoming: &Incoming, (tracing, sampled): (&Tracing, bool)) -> Own {
    let fresh = || {
        let high =
            if tracing.collector.as_ref().is_some_and(|it| it.has_short_ids()) { 0 } else { engine.random() };
        (u128::from(high) << 64) | u128::from(random_id(engine.random()))
    };
    let trace = incoming.parent.map_or_else(fresh, |parent| parent.trace);
    let at = Parent { trace, span: random_id(engine.random()) };
    Own { at, parent: incoming.parent.map(|parent| parent.span), sampled }
}

fn note_in_id(head: &mut RequestHead) {
    let Some(id) = head.headers.get_mut(X_REQUEST_ID) else { return };
    let Ok(mut text) = <[u8; UUID]>::try_from(id.as_bytes()) else { return };
    mark(&mut text);
    if let Ok(marked) = HeaderValue::from_bytes(&text) {
        *id = marked;
    }
}

/// Has the span of a request that is over told.
pub(super) fn tell(
    stage: &Stage<'_>,
    active: Active,
    (told, facts): (&Arc<Told>, &RequestFacts<'_>),
    head: &RequestHead,
) {
    let Some(tracing) = &told.effective.tracing else { return };
    let Some(collector) = &tracing.collector else { return };
    let teller = stage.engine.teller();
    let own = tracing.tags.iter().filter_map(|(name, tag)| {
        let value = teller.tag((name, tag), (told, facts), head)?;
        Some((name.clone(), cut(&value, collector.most).to_owned()))
    });
    let own = (head.secure, own.collect());
    outbox::put(stage.engine, collector, Noted::new(active.0, (teller, told), facts, own));
}

impl Teller {
    /// Of a client of whose requests no spans are told.
    pub(super) fn nobody(client: &dyn Client) -> Self {
        Self { own: client.own(), ..Self::default() }
    }

    /// Whether this is what the gateway is known as.
    pub(super) fn is_of(&self, own: Option<&Arc<GatewayOwn>>) -> bool {
        self.own.as_ref() == own
    }

    /// Who tells the spans of a client.
    pub(super) fn of(client: &dyn Client, snapshot: &Snapshot) -> Self {
        let workload = client.observed(snapshot);
        let proxy = &snapshot.mesh().default_config;
        let (namespace, labels) = match &workload {
            Some(it) => (Arc::clone(&it.namespace), it.labels.clone()),
            None => client.namespace_and_labels(snapshot),
        };
        let label = |name: &str| labels.get(name).map(String::as_str);
        let own_name = client.own().map(|own| own.name.to_string()).unwrap_or_default();
        let canonical = match &workload {
            Some(it) => it.canonical_name.to_string(),
            None => label("service.istio.io/canonical-name").or(label("app")).unwrap_or(&own_name).to_owned(),
        };
        let app = match &workload {
            Some(it) => label("app").unwrap_or(&it.workload_name).to_owned(),
            None => label("app").unwrap_or(&own_name).to_owned(),
        };
        let service = match proxy.tracing_service_name.unwrap_or_default() {
            TracingServiceName::AppLabelAndNamespace => format!("{app}.{namespace}"),
            TracingServiceName::CanonicalNameOnly => canonical.clone(),
            TracingServiceName::CanonicalNameAndNamespace => format!("{canonical}.{namespace}"),
        };
        let address = workload.as_ref().and_then(|it| it.ips.first().copied());
        let role = match (client.perspective(), client.own()) {
            (Perspective::Waypoint, _) => "waypoint",
            (_, Some(_)) => "router",
            _ => "sidecar",
        };
        let named = workload.as_ref().map_or(own_name.as_str(), |it| &it.name);
        let place = |of: fn(&Workload) -> &Arc<str>| {
            workload.as_deref().map(|it| of(it).to_string()).unwrap_or_default()
        };
        let (region, zone) = (place(|it| &it.region), place(|it| &it.zone));
        let shown = address.map(|ip| ip.to_string()).unwrap_or_default();
        let revision = workload.as_ref().map_or("latest", |it| &it.canonical_revision).to_owned();
        let node = format!("{role}~{shown}~{named}.{namespace}~{namespace}.svc.cluster.local");
        let cluster = format!("{canonical}.{namespace}");
        Self {
            logs: Arc::new(LogTeller { node: node.clone(), cluster, region, zone }),
            service: service.into(),
            node,
            address,
            mesh: proxy
                .mesh_id
                .clone()
                .filter(|id| !id.is_empty())
                .unwrap_or_else(|| snapshot.trust_domain().to_string()),
            names: [canonical, revision, namespace.to_string()],
            reads_environment: client.reads_files(),
            own: client.own(),
            workload,
            room: RefCell::default(),
        }
    }

    /// Room for the texts of a span, with nothing in it.
    fn text(&self) -> String {
        self.room.borrow_mut().pop().unwrap_or_default()
    }

    /// Keeps the room of a span that was told.
    fn take_back(&self, mut text: String) {
        let mut room = self.room.borrow_mut();
        if room.len() < MAX_ROOM && text.capacity() <= MAX_TEXT {
            text.clear();
            room.push(text);
        }
    }

    /// Who tells, in the words of access logs.
    pub(super) fn logs(&self) -> Arc<LogTeller> {
        Arc::clone(&self.logs)
    }

    fn istio(&self) -> Istio<'_> {
        let [service, revision, namespace] = &self.names;
        let cluster = self.workload.as_ref().map_or(CLUSTER, |it| &it.cluster);
        Istio { service, revision, mesh: &self.mesh, namespace, cluster }
    }

    /// The value of a tag of somebody's own.
    fn tag(
        &self,
        (name, tag): (&str, &CustomTag),
        (told, facts): (&Told, &RequestFacts<'_>),
        head: &RequestHead,
    ) -> Option<String> {
        let or = |default: &String| Some(default.clone()).filter(|default| !default.is_empty());
        match tag {
            CustomTag::Literal(text) => Some(text.clone()),
            CustomTag::Environment { name, default_value } => {
                self.variable(name).or_else(|| or(default_value))
            }
            CustomTag::Header { name, default_value } => {
                let value = sent(head, name.as_str());
                value.map(|it| String::from_utf8_lossy(it).into_owned()).or_else(|| or(default_value))
            }
            CustomTag::Formatter(_) => told.formatted(name, facts),
            CustomTag::Unset => None,
        }
    }

    /// A variable of the proxy's environment. A node's proxy serves many pods, whose owners have no business with its own: what a
    /// sidecar of the pod would have is what counts.
    fn variable(&self, name: &str) -> Option<String> {
        if self.reads_environment {
            return std::env::var(name).ok();
        }
        let workload = self.workload.as_ref()?;
        Some(match name {
            "POD_NAME" => workload.name.to_string(),
            "POD_NAMESPACE" => workload.namespace.to_string(),
            "SERVICE_ACCOUNT" => workload.service_account.to_string(),
            "ISTIO_META_CLUSTER_ID" => workload.cluster.to_string(),
            "ISTIO_META_WORKLOAD_NAME" => workload.workload_name.to_string(),
            "ISTIO_META_MESH_ID" => self.mesh.clone(),
            "ISTIO_META_NODE_NAME" => workload.node.as_ref()?.to_string(),
            "INSTANCE_IP" => workload.ips.first()?.to_string(),
            _ => return None,
        })
    }
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of an id that is made here.
const UUID: usize = 36;
/// Spans of a delivery or two.
const MAX_ROOM: usize = 256;
/// Bytes of a span's texts for which room is kept.
const MAX_TEXT: usize = 2_048;
/// Where nobody says what the cluster is called: Istio's.
const CLUSTER: &str = "Kubernetes";
