//! HealthCheck: ranges, and what makes sense together.

use std::time::Duration;

use super::super::Meta;
use super::super::health_check::{HealthCheckSpec, HttpCheck};
use super::super::value::Host;
use super::Report;
use super::security::{at_most, targets};

pub(super) fn health_check(spec: &HealthCheckSpec, meta: &Meta, report: &mut Report<'_>) {
    targets(None, None, &spec.target_refs, meta, report);
    let gateways =
        spec.target_refs.iter().enumerate().filter(|(_, it)| matches!(&*it.kind, "Gateway" | "GatewayClass"));
    for (index, target) in gateways {
        let reason = format!("a {} has no endpoints", target.kind);
        let hint = "name the Services or ServiceEntries";
        report.error_with(format_args!("spec.targetRefs[{index}].kind"), reason, hint);
    }
    if spec.target_refs.is_empty() {
        let hint = "give a Service or a ServiceEntry";
        report.error_with("spec.targetRefs", "says nobody's endpoints", hint);
    }
    let ways = [spec.http.is_some(), spec.grpc.is_some(), spec.tcp.is_some()];
    if ways.into_iter().filter(|given| *given).count() != 1 {
        report.error_with("spec", "must have exactly one of http, grpc and tcp", "tcp: {} only connects");
    }
    if let Some(http) = &spec.http {
        self::http(http, report);
    }
    if let Some(grpc) = &spec.grpc
        && (grpc.service.len() > MOST_NAME || !grpc.service.bytes().all(|b| b.is_ascii_graphic()))
    {
        let reason = format!("must be at most {MOST_NAME} printable characters without a space");
        report.error("spec.grpc.service", reason);
    }
    if let Some(interval) = spec.interval {
        within("spec.interval", interval.get(), (LEAST_INTERVAL, "100ms"), (MOST_INTERVAL, "1h"), report);
    }
    if let Some(timeout) = spec.timeout {
        within("spec.timeout", timeout.get(), (LEAST_TIMEOUT, "1ms"), (MOST_TIMEOUT, "1m"), report);
    }
    let thresholds = [
        ("spec.healthyThreshold", spec.healthy_threshold),
        ("spec.unhealthyThreshold", spec.unhealthy_threshold),
    ];
    for (field, value) in thresholds {
        if let Some(value) = value.filter(|value| !(1..=MOST_IN_A_ROW).contains(value)) {
            report.error(field, format!("{value} is not between 1 and {MOST_IN_A_ROW}"));
        }
    }
}

fn http(http: &HttpCheck, report: &mut Report<'_>) {
    let field = "spec.http.path";
    if !http.path.is_empty() && !http.path.starts_with('/') {
        report.error(field, "must begin with /");
    }
    if http.path.len() > MOST_NAME || !http.path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        let reason = format!("must be at most {MOST_NAME} bytes, without a space, a # or what is not ASCII");
        report.error_with(field, reason, "encode others by %XX");
    }
    if matches!(http.host, Some(Host::Any | Host::Suffix(_))) {
        report.error("spec.http.host", "is no name of one host");
    }
    at_most(16, "spec.http.expectedStatuses", http.expected_statuses.len(), report);
    for (index, range) in http.expected_statuses.iter().enumerate() {
        if range.first < 200 {
            let reason = format!("{range}: a status below 200 is never the last word of a server");
            report.error(format_args!("spec.http.expectedStatuses[{index}]"), reason);
        }
    }
}

/// `least` and `most` with how they are written.
fn within(
    field: &str,
    value: Duration,
    (least, short): (Duration, &str),
    (most, long): (Duration, &str),
    report: &mut Report<'_>,
) {
    if value < least {
        report.error(field, format!("is shorter than {short}"));
    } else if value > most {
        report.error(field, format!("is longer than {long}"));
    }
}

/// More often, questions would be load of their own.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);
/// An endpoint that is asked less often is not watched.
const MOST_INTERVAL: Duration = Duration::from_secs(60 * 60);
const LEAST_TIMEOUT: Duration = Duration::from_millis(1);
/// Each question that is under way takes one of a few places.
const MOST_TIMEOUT: Duration = Duration::from_secs(60);
const MOST_IN_A_ROW: u32 = 100;
/// Bytes of a path, or of the name of a service.
const MOST_NAME: usize = 1_024;
