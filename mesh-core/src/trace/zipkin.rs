//! Spans as Zipkin reads them: its format 2, in JSON.

use std::fmt;
use std::net::IpAddr;

use serde::{Serialize, Serializer};

use super::{Kind, Span, Tag};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    trace_id: Digits,
    id: Digits,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<Digits>,
    kind: &'static str,
    name: &'a str,
    timestamp: u64,
    duration: u64,
    local_endpoint: Endpoint<'a>,
    tags: Tags<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint<'a> {
    service_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6: Option<IpAddr>,
}

/// A number in hexadecimal: so many digits.
struct Digits(u128, usize);

/// No two of one name.
struct Tags<'a>(&'a [Tag<'a>]);

/// The body of a `POST` of spans, written one behind the other.
#[derive(Debug)]
pub struct ZipkinList {
    body: Vec<u8>,
    short: bool,
}

impl ZipkinList {
    /// For about so many spans. Trace ids have 64 bits if they are to be `short`.
    pub fn new(count: usize, short: bool) -> Self {
        let mut body = Vec::with_capacity(count * TYPICAL);
        body.push(b'[');
        Self { body, short }
    }

    /// Adds a span.
    pub fn add(&mut self, span: &Span<'_>) {
        if self.body.len() > 1 {
            self.body.push(b',');
        }
        serde_json::to_writer(&mut self.body, &Row::of(span, self.short))
            .expect("texts and numbers are JSON");
    }

    /// All of them.
    pub fn end(mut self) -> Vec<u8> {
        self.body.push(b']');
        self.body
    }
}

impl<'a> Row<'a> {
    fn of(span: &Span<'a>, short: bool) -> Self {
        let (v4, v6) = match span.address.map(|ip| ip.to_canonical()) {
            Some(ip @ IpAddr::V4(_)) => (Some(ip), None),
            ip => (None, ip),
        };
        let trace = span.own.at.trace;
        Self {
            trace_id: if short { Digits::of_64(trace) } else { Digits(trace, 32) },
            id: Digits::of_64(span.own.at.span.into()),
            parent_id: span.own.parent.map(|parent| Digits::of_64(parent.into())),
            kind: match span.kind {
                Kind::Client => "CLIENT",
                Kind::Server => "SERVER",
            },
            name: span.name,
            timestamp: span.start,
            // Zipkin takes 0 for nothing.
            duration: span.duration.max(1),
            local_endpoint: Endpoint { service_name: span.service, ipv4: v4, ipv6: v6 },
            tags: Tags(span.tags),
        }
    }
}

impl Digits {
    /// The lower half of a number.
    fn of_64(number: u128) -> Self {
        Self(number & u128::from(u64::MAX), 16)
    }
}

impl fmt::Display for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0width$x}", self.0, width = self.1)
    }
}

impl Serialize for Digits {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl Serialize for Tags<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// Bytes of a span, as most are.
const TYPICAL: usize = 1_024;

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
            name: "reviews:9080/*",
            service: "reviews.default",
            address: Some("10.0.0.1".parse().unwrap()),
            start: 5,
            duration: 0,
            tags: &[("b", "1".into()), ("a", "\"2\"".into())],
            failed: false,
        };
        let text = |short| {
            let mut list = ZipkinList::new(2, short);
            list.add(&span);
            list.add(&Span { tags: &[], ..span });
            String::from_utf8(list.end()).unwrap()
        };
        assert_eq!(
            text(false),
            r#"[{"traceId":"00000000000000010000000000000002","id":"0000000000000003","parentId":"0000000000000004","kind":"SERVER","name":"reviews:9080/*","timestamp":5,"duration":1,"localEndpoint":{"serviceName":"reviews.default","ipv4":"10.0.0.1"},"tags":{"b":"1","a":"\"2\""}},{"traceId":"00000000000000010000000000000002","id":"0000000000000003","parentId":"0000000000000004","kind":"SERVER","name":"reviews:9080/*","timestamp":5,"duration":1,"localEndpoint":{"serviceName":"reviews.default","ipv4":"10.0.0.1"},"tags":{}}]"#
        );
        assert!(text(true).contains(r#""traceId":"0000000000000002""#));
    }
}
