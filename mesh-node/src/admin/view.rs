//! What the page, `/state.json` and `/connections` show: a small extract of the node's state, as JSON and as text.

use std::fmt::Write;
use std::time::SystemTime;

use serde::Serialize;

use super::{Admin, PodStatus, table};
use crate::identity::CertificateStatus;
use crate::report::{CheckedEndpoint, ConnView, Event, Party, Refusal, Rfc3339};

/// The node at a glance.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    node: String,
    version: String,
    uptime_seconds: u64,
    ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_for: Option<String>,
    config_loaded: bool,
    workloads: usize,
    services: usize,
    pods: Vec<Pod>,
    open_connections: usize,
    /// The newest [`MAX_CONNECTIONS`] of them.
    connections: Vec<Connection>,
    refused: Vec<Refused>,
    /// The last that policy has refused, the oldest first.
    denials: Vec<Refusal>,
    /// Endpoints that are left out because of their health checks.
    unhealthy: Vec<CheckedEndpoint>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Pod {
    namespace: String,
    name: String,
    ips: Vec<String>,
    identity: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    since: String,
    certificate: Option<CertificateView>,
}

/// A certificate without its key, which is nowhere in this module's reach.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CertificateView {
    pub(super) identity: String,
    pub(super) state: &'static str,
    /// Lower-case hex.
    pub(super) serial: Option<String>,
    #[serde(serialize_with = "time_or_null")]
    pub(super) not_before: Option<SystemTime>,
    #[serde(serialize_with = "time_or_null")]
    pub(super) not_after: Option<SystemTime>,
    pub(super) last_error: Option<String>,
}

/// A live connection.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Connection {
    id: u64,
    direction: &'static str,
    source: End,
    destination: End,
    /// Where the tunnel ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    hbone_addr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    encrypted: bool,
    /// The kernel carries it, past the proxy.
    express: bool,
    established: bool,
    /// Bytes the local pod has sent.
    sent: u64,
    /// Bytes the local pod has received.
    received: u64,
    age_seconds: u64,
}

#[derive(Debug, Serialize)]
struct End {
    addr: String,
    /// `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
}

#[derive(Debug, Serialize)]
struct Refused {
    what: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'static str,
    count: u64,
}

impl State {
    /// The state now.
    pub(super) fn of(admin: &Admin) -> Self {
        let snapshot = admin.state.snapshot();
        let certificates: Vec<_> = admin.state.certificates().iter().map(certificate).collect();
        let pods = admin.state.pods();
        let live = admin.reporter.connections();
        let waiting_for = admin.state.ready().err();
        Self {
            node: admin.state.node().to_owned(),
            version: admin.reporter.version().to_owned(),
            uptime_seconds: admin.started.elapsed().as_secs(),
            ready: waiting_for.is_none(),
            waiting_for,
            config_loaded: snapshot.is_loaded(),
            workloads: snapshot.workload_count(),
            services: snapshot.service_count(),
            pods: pods.iter().map(|status| pod(status, &certificates)).collect(),
            open_connections: live.len(),
            connections: live.iter().rev().take(MAX_CONNECTIONS).map(connection).collect(),
            refused: refused(admin),
            denials: admin.reporter.refusals(),
            unhealthy: admin
                .reporter
                .checked_endpoints()
                .into_iter()
                .filter(CheckedEndpoint::is_unhealthy)
                .take(MAX_UNHEALTHY)
                .collect(),
        }
    }

    /// The same for a terminal.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        let ready = self.waiting_for.as_ref().map_or("ready".to_owned(), |why| format!("NOT READY: {why}"));
        let (node, version, uptime) = (&self.node, &self.version, self.uptime_seconds);
        let (workloads, services, open) = (self.workloads, self.services, self.open_connections);
        writeln!(out, "Node {node}, version {version}, up {uptime} s, {ready}").expect("a String takes all");
        writeln!(out, "{workloads} workloads, {services} services, {open} open connections\n")
            .expect("as above");
        let pods: Vec<_> = self.pods.iter().map(Pod::row).collect();
        out += &table::render(&["POD", "IP", "CAPTURE", "IDENTITY", "CERTIFICATE", "EXPIRES"], &pods);
        out.push('\n');
        out += &connections_text(&self.connections);
        if open > self.connections.len() {
            writeln!(out, "... and {} older ones: see /connections", open - self.connections.len())
                .expect("as above");
        }
        out.push('\n');
        let refused: Vec<_> = self.refused.iter().map(Refused::row).collect();
        out += &table::render(&["REFUSED OR LOST", "REASON", "COUNT"], &refused);
        if !self.denials.is_empty() {
            out.push('\n');
            let rows: Vec<_> = self.denials.iter().rev().take(MAX_DENIALS).map(denial_row).collect();
            out += &table::render(&["DENIED AT", "FROM", "TO", "REQUEST", "WHY"], &rows);
        }
        if !self.unhealthy.is_empty() {
            out.push('\n');
            let rows: Vec<_> = self.unhealthy.iter().map(unhealthy_row).collect();
            out += &table::render(&["LEFT OUT", "OF", "FOR", "CHECK", "REASON"], &rows);
        }
        out
    }
}

/// All live connections, oldest first.
pub(super) fn connections(admin: &Admin) -> Vec<Connection> {
    admin.reporter.connections().iter().map(connection).collect()
}

/// A table of connections.
pub(super) fn connections_text(connections: &[Connection]) -> String {
    let rows: Vec<_> = connections.iter().map(Connection::row).collect();
    let head = [
        "DIRECTION",
        "SOURCE",
        "SOURCE IDENTITY",
        "DESTINATION",
        "DESTINATION IDENTITY",
        "SERVICE",
        "SECURITY",
    ];
    table::render(&[&head[..], &["SENT", "RECEIVED", "AGE"]].concat(), &rows)
}

/// Certificates as a table.
pub(super) fn certificates_text(certificates: &[CertificateView]) -> String {
    let cell = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let time = |at: Option<SystemTime>| cell(at.map(|at| Rfc3339(at).to_string()));
    let rows: Vec<_> = certificates
        .iter()
        .map(|it| {
            let state = match &it.last_error {
                Some(error) => format!("{}: {error}", it.state),
                None => it.state.to_owned(),
            };
            vec![it.identity.clone(), state, time(it.not_before), time(it.not_after), cell(it.serial.clone())]
        })
        .collect();
    table::render(&["IDENTITY", "STATE", "NOT BEFORE", "NOT AFTER", "SERIAL"], &rows)
}

/// The view of a certificate.
pub(super) fn certificate(status: &CertificateStatus) -> CertificateView {
    CertificateView {
        identity: status.id.uri().to_owned(),
        state: status.state.as_str(),
        serial: Some(status.serial.clone()).filter(|serial| !serial.is_empty()),
        not_before: status.not_before,
        not_after: status.not_after,
        last_error: status.last_error.as_deref().map(str::to_owned),
    }
}

impl Pod {
    fn row(&self) -> Vec<String> {
        let capture =
            self.reason.as_ref().map_or(self.state.to_owned(), |why| format!("{}: {why}", self.state));
        let certificate = self.certificate.as_ref();
        let state = certificate.map_or("none", |certificate| certificate.state);
        let expires =
            certificate.and_then(|certificate| certificate.not_after).map(|time| Rfc3339(time).to_string());
        vec![
            format!("{}/{}", self.namespace, self.name),
            self.ips.join(","),
            capture,
            self.identity.clone(),
            state.to_owned(),
            expires.unwrap_or_else(|| "-".to_owned()),
        ]
    }
}

impl Connection {
    fn row(&self) -> Vec<String> {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let security = match (self.express, self.encrypted) {
            (true, _) => "express",
            (_, true) => "mutual_tls",
            (_, false) => "plaintext",
        };
        vec![
            self.direction.to_owned(),
            self.source.name(),
            or_dash(&self.source.identity),
            self.destination.name(),
            or_dash(&self.destination.identity),
            or_dash(&self.service),
            security.to_owned(),
            self.sent.to_string(),
            self.received.to_string(),
            format!("{}s", self.age_seconds),
        ]
    }
}

impl End {
    fn name(&self) -> String {
        self.pod.as_ref().map_or(self.addr.clone(), |pod| format!("{pod} ({})", self.addr))
    }
}

impl Refused {
    fn row(&self) -> Vec<String> {
        vec![self.what.clone(), self.reason.to_owned(), self.count.to_string()]
    }
}

fn unhealthy_row(it: &CheckedEndpoint) -> Vec<String> {
    let texts = [&it.cluster, &it.client, &it.check, &it.reason].map(ToString::to_string);
    [vec![it.endpoint.to_string()], texts.to_vec()].concat()
}

fn pod(status: &PodStatus, certificates: &[CertificateView]) -> Pod {
    let identity = status.identity.uri().to_owned();
    Pod {
        namespace: status.namespace.to_string(),
        name: status.name.to_string(),
        ips: status.ips.iter().map(ToString::to_string).collect(),
        state: status.state.name(),
        reason: status.state.reason().map(str::to_owned),
        since: Rfc3339(status.since).to_string(),
        certificate: certificates.iter().find(|certificate| certificate.identity == identity).cloned(),
        identity,
    }
}

fn connection(view: &ConnView) -> Connection {
    let info = &view.info;
    let service = info.service.as_ref().map(|service| service.hostname.to_string());
    Connection {
        id: view.id,
        direction: info.direction.name(),
        source: end(&info.source),
        destination: end(&info.destination),
        hbone_addr: info.hbone_addr.map(|addr| addr.to_string()),
        service: service.or_else(|| info.pseudo_service.map(|pseudo| pseudo.name().to_owned())),
        encrypted: info.encrypted,
        express: view.express,
        established: view.established,
        sent: view.sent,
        received: view.received,
        age_seconds: view.age.as_secs(),
    }
}

fn end(party: &Party) -> End {
    End {
        addr: party.addr.to_string(),
        pod: party.workload.as_ref().map(|workload| format!("{}/{}", workload.namespace, workload.name)),
        identity: party.identity.as_ref().map(|identity| identity.uri().to_owned()),
    }
}

/// The events that have happened at all.
fn denial_row(denial: &Refusal) -> Vec<String> {
    let Refusal { time, source, source_address, destination, request, reason } = denial;
    let from = source.as_ref().unwrap_or(source_address);
    [&**time, &**from, &**destination, request.as_deref().unwrap_or("-"), &**reason].map(str::to_owned).into()
}

fn refused(admin: &Admin) -> Vec<Refused> {
    let counted = Event::ALL.into_iter().map(|event| (event, admin.reporter.counted(event)));
    let happened = counted.filter(|(_, count)| *count > 0);
    happened
        .map(|(event, count)| Refused { what: event.family().help.to_owned(), reason: event.reason(), count })
        .collect()
}

#[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
fn time_or_null<S: serde::Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| Rfc3339(time).to_string()).serialize(serializer)
}

/// Connections on the page. More would be neither read nor cheap every two seconds.
const MAX_CONNECTIONS: usize = 200;
/// Refusals that are shown to a terminal; all that are kept are on the page.
const MAX_DENIALS: usize = 20;
/// Endpoints on the page that are left out; all of them are in the dump.
const MAX_UNHEALTHY: usize = 200;
