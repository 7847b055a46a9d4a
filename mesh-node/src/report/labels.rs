//! The label set of the connection metrics.
//!
//! Values come from configuration (workloads, services) and from verified identities only; whatever is not known
//! is `unknown`, so that a peer cannot make label sets up.

use std::sync::{Arc, LazyLock};

use mesh_core::model::Service;

use super::{ConnInfo, Direction, Party};

/// The names of all labels but `response_flags`, which varies within one [`Labels`].
pub(super) const NAMES: [&str; COUNT] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_region",
    "source_zone",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_region",
    "destination_zone",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "request_protocol",
    "connection_security_policy",
];

/// The label whose value is a [`super::Flag`].
pub(super) const FLAGS: &str = "response_flags";

/// What a connection is counted under.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Labels {
    /// The values of [`NAMES`], in its order; empty for those that are changed.
    usual: [Arc<str>; COUNT],
    changes: Changes,
}

/// Labels that a Telemetry changes or adds, with their values, and those that it removes; each name once, in order.
pub(super) type Changes = Vec<(Arc<str>, Option<Arc<str>>)>;

impl Labels {
    /// The label set of a connection.
    pub(super) fn of(info: &ConnInfo, changes: Changes) -> Self {
        let mut values = Vec::with_capacity(COUNT);
        values.push(Arc::from(info.direction.reporter()));
        values.extend(party(&info.source));
        values.extend(party(&info.destination));
        values.extend(service(info));
        values.push(Arc::from(if info.datagrams { "udp" } else { "tcp" }));
        values.push(Arc::from(security(info)));
        // What is not shown must not tell label sets apart.
        for (name, value) in NAMES.iter().zip(&mut values) {
            if is_changed(&changes, name) {
                *value = Arc::from("");
            }
        }
        Self { usual: values.try_into().expect("one value for each of NAMES"), changes }
    }

    /// What a connection counts as when there are too many label sets to tell it apart.
    pub(super) fn unknown(direction: Direction) -> Self {
        let mut values: [Arc<str>; COUNT] = std::array::from_fn(|_| UNKNOWN.clone());
        if let Some(reporter) = values.first_mut() {
            *reporter = Arc::from(direction.reporter());
        }
        Self { usual: values, changes: Changes::new() }
    }

    /// Whether a Telemetry has changed any.
    pub(super) fn are_changed(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Names and values, and one more pair for the flag.
    pub(super) fn pairs<'a>(&'a self, flag: &'static str) -> Vec<(&'a str, &'a str)> {
        let own = NAMES.into_iter().zip(self.usual.iter().map(AsRef::as_ref));
        let own = own.filter(|(name, _)| !is_changed(&self.changes, name));
        let changed = self.changes.iter().filter_map(|(name, value)| Some((&**name, value.as_deref()?)));
        own.chain([(FLAGS, flag)]).chain(changed).collect()
    }
}

fn is_changed(changes: &Changes, name: &str) -> bool {
    changes.iter().any(|(changed, _)| **changed == *name)
}

/// The ten labels of one end, in the order of [`NAMES`].
fn party(party: &Party) -> [Arc<str>; 10] {
    let Some(workload) = party.workload.as_deref() else {
        let mut values: [Arc<str>; 10] = std::array::from_fn(|_| UNKNOWN.clone());
        if let (Some(principal), Some(identity)) = (values.get_mut(PRINCIPAL), &party.identity) {
            *principal = Arc::from(identity.uri());
        }
        return values;
    };
    let principal = party.identity.as_ref().map_or(UNKNOWN.clone(), |identity| Arc::from(identity.uri()));
    [
        text(&workload.workload_name),
        text(&workload.canonical_name),
        text(&workload.canonical_revision),
        text(&workload.namespace),
        principal,
        text(&workload.app),
        text(&workload.version),
        text(&workload.cluster),
        text(&workload.region),
        text(&workload.zone),
    ]
}

/// Host name, namespace and short name of the service asked for.
fn service(info: &ConnInfo) -> [Arc<str>; 3] {
    match (&info.service, info.pseudo_service) {
        (Some(service), _) => known_service(service),
        (None, Some(pseudo)) => [Arc::from(pseudo.name()), UNKNOWN.clone(), Arc::from(pseudo.name())],
        (None, None) => std::array::from_fn(|_| UNKNOWN.clone()),
    }
}

fn known_service(service: &Service) -> [Arc<str>; 3] {
    [text(&service.hostname), text(&service.namespace), text(&service.name)]
}

/// `mutual_tls` where it is; a server knows that plaintext is plaintext, a client's proxy does not know what the
/// application itself does inside the bytes.
fn security(info: &ConnInfo) -> &'static str {
    match (info.encrypted, info.direction) {
        (true, _) => "mutual_tls",
        (false, Direction::Inbound) => "none",
        (false, Direction::Outbound | Direction::Through) => "unknown",
    }
}

fn text(value: &str) -> Arc<str> {
    if value.is_empty() { UNKNOWN.clone() } else { Arc::from(value) }
}

/// Labels but for the flag: reporter, ten for each end, three for the service, protocol, security.
const COUNT: usize = 26;
/// Where the principal stands among the labels of an end.
const PRINCIPAL: usize = 4;
static UNKNOWN: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("unknown"));
