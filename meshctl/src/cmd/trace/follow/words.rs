//! How things are said.

use std::sync::Arc;

use mesh_core::cluster::ClusterPolicy;
use mesh_core::model::{Endpoint, Service};
use mesh_core::resource::networking::virtual_service::AbortError;
use mesh_core::resource::value::Percent;
use mesh_core::route::{ClusterRef, Fault, Route};

/// The service itself.
pub(super) fn own(service: &Service, port: u16) -> ClusterRef {
    ClusterRef { host: Arc::clone(&service.hostname), subset: None, port: Some(port) }
}

/// What a rule is, and what it does besides.
pub(super) fn rule(route: &Route, matched: &str) -> String {
    let of = route
        .virtual_service
        .as_ref()
        .map_or_else(|| "a route".to_owned(), |it| format!("VirtualService {it}"));
    let mut told = if matched.is_empty() { of } else { format!("{of}, {matched:?}") };
    let mut add = |text: String| told.extend(["; ", &text]);
    if let Some(timeout) = route.timeout {
        add(format!("at most {timeout:?}"));
    }
    if route.retries.is_some() {
        add("tried again".to_owned());
    }
    if route.rewrite.is_some() {
        add("with another path".to_owned());
    }
    for mirror in &route.mirrors {
        add(format!("copies to {}", mirror.to.host));
    }
    told
}

/// What is known of a destination.
pub(super) fn described(to: &ClusterRef, policy: &ClusterPolicy, port: u16) -> String {
    let subset = to.subset.as_ref().map(|subset| format!(", subset {subset}")).unwrap_or_default();
    let rules: Vec<_> = policy.rules.iter().map(|it| format!("{}/{}", it.namespace, it.name)).collect();
    let rules =
        if rules.is_empty() { String::new() } else { format!(", DestinationRule {}", rules.join(", ")) };
    format!(" port {port}{subset}{rules}")
}

/// Whether the endpoint is of the subset.
pub(super) fn selects(policy: &ClusterPolicy, endpoint: &Endpoint) -> bool {
    endpoint.workload.as_ref().is_none_or(|it| policy.selects(&it.labels))
}

/// What a fault does to requests; and whether it lets any through.
pub(super) fn fault(fault: &Fault) -> (String, bool) {
    let delay = fault.delay().map(|(delay, share)| format!("{} wait {delay:?}", of_them(share)));
    let abort = fault.abort().map(|(error, share)| {
        let answered = match error {
            AbortError::Http(status) => status.get().to_string(),
            AbortError::Grpc(status) => format!("gRPC status {status:?}"),
        };
        format!("{} are answered with {answered}, flag FI, and not sent", of_them(share))
    });
    let lets_some = fault.abort().is_none_or(|(_, share)| Percent::whole(100) != Some(share));
    (delay.into_iter().chain(abort).collect::<Vec<_>>().join("; "), lets_some)
}

fn of_them(share: Percent) -> String {
    let millionths = share.parts_per_million();
    let (whole, rest) = (millionths / 10_000, millionths % 10_000);
    match (whole, rest) {
        (100, 0) => "all".to_owned(),
        (_, 0) => format!("{whole} %"),
        _ => format!("{whole}.{} %", format!("{rest:04}").trim_end_matches('0')),
    }
}
