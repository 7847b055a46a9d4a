//! What services of access logs are told about requests and connections: entries, written at once and delivered later.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use mesh_core::log_service::{LogService, Takes};
use mesh_core::telemetry::{Attributes, ToService};
use mesh_core::trace::cut;
use mesh_proto::logs::{Common, Record, Request, http_entry, record, tcp_entry};
use tokio::sync::mpsc;
use tracing::warn;

use super::request::attributes::View;
use super::request::{AccessFormat, RequestFacts};
use super::told::{ANSWER, name_unknown};
use super::{AccessLogFormat, Perspective, Told};

/// The way for the entry of a connection to wherever entries are delivered from.
#[derive(Clone, Debug)]
pub struct Post {
    client: Arc<str>,
    sender: mpsc::Sender<Mail>,
}

/// An entry on its way.
#[derive(Debug)]
pub struct Mail {
    /// Who tells it: the uid of a pod, or what stands for a gateway.
    pub client: Arc<str>,
    /// Who is told.
    pub service: Arc<LogService>,
    /// The entry.
    pub entry: Vec<u8>,
}

impl Post {
    /// Of this client, to whoever holds the other end.
    pub fn new(client: &Arc<str>, sender: mpsc::Sender<Mail>) -> Self {
        Self { client: Arc::clone(client), sender }
    }

    /// Sends an entry off, unless there is no room; says which.
    pub(super) fn send(&self, service: &Arc<LogService>, entry: Vec<u8>) -> bool {
        let (client, service) = (Arc::clone(&self.client), Arc::clone(service));
        self.sender.try_send(Mail { client, service, entry }).is_ok()
    }
}

/// A service of access logs, and its formats if it takes records.
#[derive(Debug)]
pub(super) struct Ledger {
    to: ToService,
    body: Option<AccessFormat>,
    attributes: Vec<(String, AccessFormat)>,
}

impl Ledger {
    /// Of a service. A format that cannot be read is left out, Envoy's own stands in for that of a body.
    pub(super) fn new(to: &ToService) -> Self {
        let read = |name: &str, format: &str| {
            let read = AccessFormat::parse(format).inspect(|it| name_unknown(it, &to.service.to.name));
            let provider = &to.service.to.name;
            read.inspect_err(|error| warn!(%provider, name, %error, "A format of access logs is not used."))
                .ok()
        };
        let (body, attributes) = match &to.service.takes {
            Takes::Records { body, attributes } => {
                let all = attributes.iter().filter_map(|(name, it)| Some((name.clone(), read(name, it)?)));
                (body.as_deref().and_then(|body| read("text", body)), all.collect())
            }
            Takes::Requests { .. } | Takes::Connections => (None, Vec::new()),
        };
        Self { to: to.clone(), body, attributes }
    }

    /// Whether it is about headers or trailers of answers.
    pub(super) fn reads_answers(&self) -> bool {
        let formats = self.body.iter().chain(self.attributes.iter().map(|(_, format)| format));
        formats.into_iter().any(AccessFormat::reads_answers)
            || self.to.filter.as_ref().is_some_and(|it| it.mentions(ANSWER))
    }

    fn wants(&self, about: &dyn Attributes) -> bool {
        self.to.filter.as_ref().is_none_or(|filter| filter.holds(about))
    }

    fn record(&self, facts: &RequestFacts<'_>, trace: Option<(u128, u64)>) -> Vec<u8> {
        let start = facts.start.duration_since(UNIX_EPOCH).unwrap_or_default();
        let usual = AccessFormat::standard(AccessLogFormat::Text);
        record(&Record {
            time: u64::try_from(start.as_nanos()).unwrap_or(u64::MAX),
            body: self.body.as_ref().unwrap_or(usual).text(facts),
            attributes: self.attributes.iter().map(|(name, it)| (name.clone(), it.text(facts))).collect(),
            trace,
        })
    }
}

impl Told {
    /// Whether any service is told about connections.
    pub fn tells_of_connections(&self) -> bool {
        self.ledgers.iter().any(|it| it.to.service.takes_connections())
    }

    /// What services are told of a request: the trace and the span that it is part of, and whether it came by TLS, are not
    /// among its facts.
    pub fn entries<'a>(
        &'a self,
        facts: &'a RequestFacts<'_>,
        (trace, secure): (Option<(u128, u64)>, bool),
    ) -> impl Iterator<Item = (&'a Arc<LogService>, Vec<u8>)> {
        let ledgers =
            self.ledgers.iter().filter(|it| it.to.service.takes_requests() && it.wants(&View(facts)));
        ledgers.map(move |it| {
            let service = &it.to.service;
            let entry = match &service.takes {
                Takes::Requests { headers } => http_entry(&common(facts), &request(facts, headers, secure)),
                Takes::Connections | Takes::Records { .. } => it.record(facts, trace),
            };
            (service, entry)
        })
    }

    /// What services are told of a connection that is over, of which filters see what `about` does.
    pub(super) fn entries_of_connection<'a>(
        &'a self,
        facts: &'a RequestFacts<'_>,
        about: &'a dyn Attributes,
    ) -> impl Iterator<Item = (&'a Arc<LogService>, Vec<u8>)> {
        let ledgers = self.ledgers.iter().filter(|it| it.to.service.takes_connections() && it.wants(about));
        ledgers.map(|it| {
            let service = &it.to.service;
            let entry = match &service.takes {
                Takes::Records { .. } => it.record(facts, None),
                _ => tcp_entry(&common(facts), facts.bytes_received, facts.bytes_sent),
            };
            (service, entry)
        })
    }
}

fn common<'a>(facts: &RequestFacts<'a>) -> Common<'a> {
    // At a server's node the client was shown the server's.
    let of_server = facts.destination_identity.filter(|_| facts.reporter == Perspective::Destination);
    let own = facts.tls.own.or(of_server);
    // On a client's node nobody has shown anything: the pod is known.
    let has_shown = facts.tls.leaf.is_some() || facts.reporter != Perspective::Source;
    let peer = facts.client_identity.filter(|_| facts.tls.mutual && has_shown);
    Common {
        start: facts.start.duration_since(UNIX_EPOCH).unwrap_or_default(),
        duration: facts.duration,
        client: facts.downstream_remote,
        local: facts.downstream_local,
        upstream: facts.upstream_host,
        upstream_local: facts.upstream_local,
        cluster: facts.upstream_cluster,
        flags: facts.flags.bits(),
        failure: cut(facts.upstream_failure, MAX_VALUE),
        route: facts.route_name,
        termination: facts.termination_details,
        sni: facts.sni,
        peer: peer.map_or("", |it| it.uri()),
        own: own.map_or("", |it| it.uri()),
    }
}

fn request<'a>(facts: &RequestFacts<'a>, headers: &[String], secure: bool) -> Request<'a> {
    let text =
        |value: Option<&[u8]>| cut(&String::from_utf8_lossy(value.unwrap_or_default()), MAX_VALUE).to_owned();
    let sent = |name, asked: &str| text((facts.headers.request)(name).or(Some(asked.as_bytes())));
    let known = |name: &String| Some((name.clone(), text(Some((facts.headers.request)(name)?))));
    Request {
        protocol: facts.protocol,
        method: facts.method,
        scheme: if secure { "https" } else { "http" },
        authority: sent(":authority", facts.authority),
        path: sent(":path", facts.path),
        original_path: text((facts.headers.request)("x-envoy-original-path")),
        user_agent: text(facts.headers.user_agent),
        referer: text((facts.headers.request)("referer")),
        forwarded_for: text(facts.headers.x_forwarded_for),
        id: text(facts.headers.request_id),
        headers: headers.iter().filter_map(known).collect(),
        received: facts.bytes_received,
        code: facts.code,
        sent: facts.bytes_sent,
        details: facts.details,
    }
}

/// Most bytes of a value, as in the proxy's own log.
const MAX_VALUE: usize = 2_048;
