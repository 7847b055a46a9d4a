//! What a request says about how it is to be served, beside its rule.

use std::time::Duration;

use http::HeaderName;
use mesh_core::resource::networking::virtual_service::RetryOn;
use mesh_core::retry::RetryPolicy;
use mesh_core::route::Route;

use super::message::RequestHead;

/// Takes from a request the names of headers for which an answer is tried again, if the rule has `retriable-headers`; they
/// are for the proxy alone.
pub fn retriable_headers(head: &mut RequestHead, policy: Option<&RetryPolicy>) -> Vec<HeaderName> {
    let wanted = policy.is_some_and(|policy| policy.on.contains(RetryOn::RetriableHeaders));
    let Some(names) = wanted.then(|| head.headers.remove(RETRIABLE_HEADERS)).flatten() else {
        return Vec::new();
    };
    let names = names.to_str().unwrap_or_default();
    names.split(',').filter_map(|name| name.trim().parse().ok()).take(MAX_RETRIABLE).collect()
}

/// How long a request may take: as the rule says, and not longer than a gRPC client wants to wait.
pub fn time_of(route: &Route, head: &RequestHead) -> Option<Duration> {
    let asked = head.is_grpc().then(|| head.headers.get("grpc-timeout")).flatten();
    let asked = asked.and_then(|value| grpc_timeout(value.as_bytes()));
    match (route.timeout, asked) {
        (Some(rule), Some(asked)) => Some(rule.min(asked)),
        (rule, asked) => rule.or(asked),
    }
}

/// A `grpc-timeout`: at most eight digits and a unit.
fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.len() <= 8)?;
    let number = digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse::<u64>().ok())??;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The header that Envoy reads them from.
const RETRIABLE_HEADERS: &str = "x-envoy-retriable-header-names";
/// More names are not looked at.
const MAX_RETRIABLE: usize = 16;
