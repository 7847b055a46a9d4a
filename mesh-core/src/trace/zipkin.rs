//! Spans as Zipkin reads them: its format 2, in JSON.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use super::{Kind, Span};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    trace_id: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<String>,
    kind: &'static str,
    name: &'a str,
    timestamp: u64,
    duration: u64,
    local_endpoint: Endpoint<'a>,
    tags: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint<'a> {
    service_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6: Option<String>,
}

/// The body of a `POST` of spans. Trace ids have 64 bits if they are to be `short`.
pub fn zipkin_json(spans: &[Span], short: bool) -> Vec<u8> {
    let rows: Vec<_> = spans.iter().map(|span| Row::of(span, short)).collect();
    serde_json::to_vec(&rows).expect("texts and numbers are JSON")
}

impl<'a> Row<'a> {
    fn of(span: &'a Span, short: bool) -> Self {
        let (v4, v6) = match span.address.map(|ip| ip.to_canonical()) {
            Some(IpAddr::V4(ip)) => (Some(ip.to_string()), None),
            Some(IpAddr::V6(ip)) => (None, Some(ip.to_string())),
            None => (None, None),
        };
        let trace = span.own.at.trace;
        Self {
            trace_id: if short {
                format!("{:016x}", trace & u128::from(u64::MAX))
            } else {
                format!("{trace:032x}")
            },
            id: format!("{:016x}", span.own.at.span),
            parent_id: span.own.parent.map(|parent| format!("{parent:016x}")),
            kind: match span.kind {
                Kind::Client => "CLIENT",
                Kind::Server => "SERVER",
            },
            name: &span.name,
            timestamp: span.start,
            // Zipkin takes 0 for nothing.
            duration: span.duration.max(1),
            local_endpoint: Endpoint { service_name: &span.service, ipv4: v4, ipv6: v6 },
            tags: span.tags.iter().map(|(name, value)| (&**name, value.as_str())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Own, Parent};
    use super::*;

    #[test]
    fn a_span_is_what_zipkin_reads() {
        let own = Own { at: Parent { trace: (1 << 64) + 2, span: 3 }, parent: Some(4), sampled: true };
        let span = Span {
            own,
            kind: Kind::Server,
            name: "reviews:9080/*".to_owned(),
            service: "reviews.default".to_owned(),
            address: Some("10.0.0.1".parse().unwrap()),
            start: 5,
            duration: 0,
            tags: vec![("a".into(), "1".to_owned()), ("a".into(), "\"2\"".to_owned())],
            failed: false,
        };
        let text = |short| String::from_utf8(zipkin_json(std::slice::from_ref(&span), short)).unwrap();
        assert_eq!(
            text(false),
            r#"[{"traceId":"00000000000000010000000000000002","id":"0000000000000003","parentId":"0000000000000004","kind":"SERVER","name":"reviews:9080/*","timestamp":5,"duration":1,"localEndpoint":{"serviceName":"reviews.default","ipv4":"10.0.0.1"},"tags":{"a":"\"2\""}}]"#
        );
        assert!(text(true).contains(r#""traceId":"0000000000000002""#));
    }
}
