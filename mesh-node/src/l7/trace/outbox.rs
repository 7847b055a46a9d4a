//! Spans that wait for their collector. They go out as requests of the client that they are about, over its own connections: the
//! collector is a service like any other, with its endpoints, its mutual TLS and its policies.
//!
//! Invariant: whoever serves requests never waits here. What finds no room, or no collector, is dropped and counted.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header};
use mesh_core::route::{ClusterRef, RouteTable};
use mesh_core::trace::{Collector, Span, Speaks, zipkin_json};
use tokio::sync::Notify;

use super::super::call::{Call, grpc_head};
use super::super::engine::Engine;
use super::super::exchange::Stage;
use super::super::h1::{Authority, Target};
use super::super::message::{RequestHead, Version};
use super::super::site::{Chosen, Clients, Facts, Site};
use crate::report::Event;
use crate::run::tasks;

/// Of one client on one data thread.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: RefCell<VecDeque<(Arc<Collector>, Span)>>,
    /// Whether somebody sees to it.
    is_attended: Cell<bool>,
    /// There is enough for a delivery.
    full: Notify,
}

/// Has a span delivered.
pub(super) fn put(engine: &Rc<Engine>, collector: &Arc<Collector>, span: Span) {
    let engine = super::sender(engine);
    let outbox = engine.outbox();
    let mut waiting = outbox.waiting.borrow_mut();
    if waiting.len() >= MAX_WAITING {
        return engine.reporter.count(Event::SpanNoRoom);
    }
    waiting.push_back((Arc::clone(collector), span));
    if waiting.len() >= BATCH {
        outbox.full.notify_one();
    }
    if !outbox.is_attended.replace(true) {
        drop(waiting);
        tasks::spawn_local("spans", attend(engine));
    }
}

/// Delivers until nothing waits.
async fn attend(engine: Rc<Engine>) {
    let outbox = engine.outbox();
    loop {
        let _ = tokio::time::timeout(PAUSE, outbox.full.notified()).await;
        while let Some((collector, spans)) = outbox.take() {
            let count = u64::try_from(spans.len()).unwrap_or(u64::MAX);
            match deliver(&engine, &collector, &spans).await {
                Ok(()) => engine.reporter.count_several(Event::SpanSent, count),
                Err(reason) => {
                    engine.reporter.count_several(Event::SpanUndelivered, count);
                    let (client, collector) = (engine.client.key(), &collector.name);
                    tracing::debug!(%client, %collector, reason, "Spans were not delivered.");
                }
            }
        }
        if outbox.waiting.borrow().is_empty() {
            outbox.is_attended.set(false);
            return;
        }
    }
}

impl Outbox {
    /// The next ones that are for one collector.
    fn take(&self) -> Option<(Arc<Collector>, Vec<Span>)> {
        let mut waiting = self.waiting.borrow_mut();
        let collector = Arc::clone(&waiting.front()?.0);
        let same = waiting.iter().take(BATCH).take_while(|(it, _)| *it == collector).count();
        Some((collector, waiting.drain(..same).map(|(_, span)| span).collect()))
    }
}

async fn deliver(engine: &Rc<Engine>, collector: &Collector, spans: &[Span]) -> Result<(), String> {
    let snapshot = engine.snapshot();
    let (namespace, _) = engine.client.namespace_and_labels(&snapshot);
    let host = collector.hosts.iter().find(|host| snapshot.service_by_host(host, &namespace).is_some());
    let host =
        host.ok_or_else(|| format!("there is no service {}", collector.hosts.first().map_or("", |it| it)))?;
    let to = ClusterRef { host: Arc::clone(host), subset: None, port: Some(collector.port) };
    let (facts, site) = (Facts::stranger(([127, 0, 0, 1], 0).into(), None), Delivery(collector.port));
    let stage = Stage { engine, site: &site, facts: &facts };
    let (call, mut head) = question(collector, spans, &to)?;
    let given = collector.headers.iter().map(|(name, value)| (name, value.clone()));
    let variables = collector.variables.iter().filter(|_| engine.client.reads_files());
    let variables =
        variables.filter_map(|(name, variable)| Some((name, std::env::var(variable).ok()?.parse().ok()?)));
    given.chain(variables).for_each(|(name, value)| _ = head.headers.insert(name, value));
    // Whoever reads requests to the collector does not tell it of these.
    head.headers.insert(B3, HeaderValue::from_static("0"));
    let answer = call.ask(&stage, &to, &mut head);
    let answer = tokio::time::timeout(collector.timeout.min(MAX_TIMEOUT), Box::pin(answer)).await;
    let answer = answer.map_err(|_| format!("no answer within {:?}", collector.timeout))??;
    match &collector.speaks {
        Speaks::OtlpGrpc => answer.into_message().map(drop),
        _ if answer.status.is_success() => Ok(()),
        _ => Err(format!("status {}", answer.status.as_u16())),
    }
}

fn question(collector: &Collector, spans: &[Span], to: &ClusterRef) -> Result<(Call, RequestHead), String> {
    let export = || mesh_proto::spans::export(spans, &[], env!("CARGO_PKG_VERSION"));
    let (body, kind, path) = match &collector.speaks {
        Speaks::OtlpGrpc => {
            let call = Call::of_message(&export(), MAX_ANSWER)?;
            let head = grpc_head(to, METHOD, call.framing())?;
            return Ok((call, head));
        }
        Speaks::Zipkin { path, short } => (zipkin_json(spans, *short), "application/json", path),
        Speaks::OtlpHttp { path } => (export(), "application/x-protobuf", path),
    };
    let call = Call::new(Bytes::from(body), MAX_ANSWER);
    let authority = format!("{}:{}", to.host, collector.port);
    let mut headers = http::HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    let head = RequestHead {
        method: Method::POST,
        secure: false,
        authority: Some(Authority::parse(authority.into()).map_err(|_| format!("{} is no host", to.host))?),
        target: Target::origin(path.as_bytes().to_vec().into()).map_err(|_| format!("{path} is no path"))?,
        client: None,
        version: Version::Http11,
        headers,
        framing: call.framing(),
        upgrade: None,
        expects_continue: false,
        claims: None,
    };
    Ok((call, head))
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

const METHOD: &[u8] = b"/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const B3: HeaderName = HeaderName::from_static("b3");
/// Spans of one delivery.
const BATCH: usize = 128;
/// Spans that wait, some 2 KB each; more are dropped.
const MAX_WAITING: usize = 1_024;
/// How long spans wait for company.
const PAUSE: Duration = Duration::from_secs(1);
/// However long a collector may take by its provider.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer, which nobody reads.
const MAX_ANSWER: usize = 64 << 10;
