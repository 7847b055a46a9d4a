//! The label set of the request metrics, as the text between the braces of a sample.
//!
//! Values come from configuration, from verified identities and from closed sets; an unknown one is `unknown`. Of what
//! peers choose only status codes get in, and of those of gRPC only the ones that it defines.

use std::fmt::Display;
use std::fmt::Write as _;
use std::sync::Arc;

use mesh_core::id::SpiffeId;
use mesh_core::model::Workload;

use super::shape::Shape;
use super::{Perspective, RequestFacts};

/// The label set of a request, each label followed by a comma, so that one more may be appended.
pub(super) fn render(facts: &RequestFacts<'_>, shape: Option<&Shape<'_>>) -> String {
    let mut labels = Labels { text: String::with_capacity(TYPICAL), shape };
    labels.push("reporter", facts.reporter.reporter());
    labels.party(&SOURCE, facts.source, facts.source_identity);
    labels.party(&DESTINATION, facts.destination, facts.destination_identity);
    labels.service(facts);
    labels.push("request_protocol", if facts.grpc { "grpc" } else { "http" });
    match Outcome::of(facts) {
        Outcome { code: Some(code), .. } => labels.show("response_code", code),
        Outcome { code: None, .. } => labels.push("response_code", UNKNOWN),
    }
    match Outcome::of(facts).grpc_status {
        GrpcStatus::Absent => labels.show("grpc_response_status", ""),
        GrpcStatus::Known(status) => labels.show("grpc_response_status", status),
        GrpcStatus::Unknown => labels.push("grpc_response_status", UNKNOWN),
    }
    labels.show("response_flags", facts.flags);
    labels.push("connection_security_policy", security(facts));
    let added = shape.into_iter().flat_map(Shape::added);
    added.for_each(|(name, value)| labels.add(name, value));
    labels.text
}

/// What a request counts as when there are too many label sets to tell it apart.
pub(super) fn render_unknown(reporter: Perspective) -> String {
    let mut labels = Labels { text: String::with_capacity(TYPICAL), shape: None };
    labels.push("reporter", reporter.reporter());
    for name in SOURCE.into_iter().chain(DESTINATION).chain(SERVICE).chain(REQUEST) {
        labels.push(name, UNKNOWN);
    }
    labels.text
}

/// What labels tell of a response.
pub(super) struct Outcome {
    /// The status, if it is one that HTTP can carry, or 0 if there is none.
    pub(super) code: Option<u16>,
    pub(super) grpc_status: GrpcStatus,
}

/// The status of a gRPC call, as far as labels tell it.
pub(super) enum GrpcStatus {
    /// It is no gRPC call, or one without a status.
    Absent,
    /// One that gRPC defines.
    Known(u8),
    /// A number of somebody's own.
    Unknown,
}

impl Outcome {
    pub(super) fn of(facts: &RequestFacts<'_>) -> Self {
        let grpc_status = match facts.grpc_status.filter(|_| facts.grpc).map(u8::try_from) {
            None => GrpcStatus::Absent,
            Some(Ok(status)) if status <= LAST_GRPC_STATUS => GrpcStatus::Known(status),
            Some(_) => GrpcStatus::Unknown,
        };
        Self { code: Some(facts.code).filter(|code| *code <= LAST_CODE), grpc_status }
    }
}

struct Labels<'a> {
    text: String,
    shape: Option<&'a Shape<'a>>,
}

impl Labels<'_> {
    /// One whose value may hold anything, unless a Telemetry has another or none; an empty one is unknown.
    fn push(&mut self, name: &str, value: &str) {
        if !self.is_changed(name) {
            self.add(name, value);
        }
    }

    fn is_changed(&self, name: &str) -> bool {
        self.shape.is_some_and(|shape| shape.changes(name))
    }

    /// One that is there whatever Telemetries say.
    fn add(&mut self, name: &str, value: &str) {
        self.text.extend([name, "=\""]);
        for c in if value.is_empty() { UNKNOWN } else { value }.chars() {
            match c {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                c => self.text.push(c),
            }
        }
        self.text.push_str("\",");
    }

    /// One whose value needs no escaping, and may be empty.
    fn show(&mut self, name: &str, value: impl Display) {
        if self.is_changed(name) {
            return;
        }
        write!(self.text, "{name}=\"{value}\",").expect("a String takes all");
    }

    fn party(&mut self, names: &[&str; 8], workload: Option<&Arc<Workload>>, identity: Option<&SpiffeId>) {
        let workload = workload.map(AsRef::as_ref);
        let of = |field: fn(&Workload) -> &Arc<str>| workload.map_or("", |workload| field(workload));
        let values = [
            of(|it| &it.workload_name),
            of(|it| &it.canonical_name),
            of(|it| &it.canonical_revision),
            of(|it| &it.namespace),
            identity.map_or("", SpiffeId::uri),
            of(|it| &it.app),
            of(|it| &it.version),
            of(|it| &it.cluster),
        ];
        names.iter().zip(values).for_each(|(name, value)| self.push(name, value));
    }

    fn service(&mut self, facts: &RequestFacts<'_>) {
        let values = match (facts.service, facts.pseudo_service) {
            (Some(service), _) => [&*service.hostname, &service.namespace, &service.name],
            (None, Some(pseudo)) => [pseudo.name(), "", pseudo.name()],
            (None, None) => [""; 3],
        };
        SERVICE.into_iter().zip(values).for_each(|(name, value)| self.push(name, value));
    }
}

/// `mutual_tls` where it is. Who ends a connection knows that plaintext is plaintext; a client's proxy does not know what
/// happens to the bytes behind the next proxy.
fn security(facts: &RequestFacts<'_>) -> &'static str {
    match (facts.encrypted, facts.reporter) {
        (true, _) => "mutual_tls",
        (false, Perspective::Destination | Perspective::Waypoint) => "none",
        (false, Perspective::Source) => UNKNOWN,
    }
}

const SOURCE: [&str; 8] = [
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
];
const DESTINATION: [&str; 8] = [
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
];
const SERVICE: [&str; 3] =
    ["destination_service", "destination_service_namespace", "destination_service_name"];
const REQUEST: [&str; 5] = [
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
];
const UNKNOWN: &str = "unknown";
/// The highest status of three digits.
const LAST_CODE: u16 = 999;
/// `UNAUTHENTICATED`.
const LAST_GRPC_STATUS: u8 = 16;
/// Bytes of a label set with names of usual length.
const TYPICAL: usize = 1_024;
