//! Spans as Zipkin reads them: its format 2, in JSON.
//!
//! They are written by hand, since most of what they say is the same for many and needs no escape; what does is left to `serde_json`.

use std::io::Write as _;
use std::net::IpAddr;

use super::{Kind, Span, hex};

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
        self.ids(span);
        self.put(match span.kind {
            Kind::Client => br#"","kind":"CLIENT","name":"#,
            Kind::Server => br#"","kind":"SERVER","name":"#,
        });
        self.quote(span.name);
        // Zipkin takes 0 for nothing.
        let (start, duration) = (span.start, span.duration.max(1));
        self.print(format_args!(r#","timestamp":{start},"duration":{duration}"#));
        self.put(br#","localEndpoint":{"serviceName":"#);
        self.quote(span.service);
        match span.address.map(|ip| ip.to_canonical()) {
            Some(IpAddr::V4(ip)) => self.print(format_args!(r#","ipv4":"{ip}""#)),
            Some(IpAddr::V6(ip)) => self.print(format_args!(r#","ipv6":"{ip}""#)),
            None => {}
        }
        self.put(br#"},"tags":{"#);
        let mut separator: &[u8] = b"";
        for (name, value) in span.tags.iter() {
            self.put(separator);
            self.quote(name);
            self.put(b":");
            self.quote(value);
            separator = b",";
        }
        self.put(b"}}");
    }

    /// All of them.
    pub fn end(mut self) -> Vec<u8> {
        self.put(b"]");
        self.body
    }

    /// The span's numbers, up to the quote that ends the last one.
    fn ids(&mut self, span: &Span<'_>) {
        let trace = hex::of_128(span.own.at.trace);
        let (_, half) = trace.split_at(trace.len() / 2);
        self.put(br#"{"traceId":""#);
        self.put(if self.short { half } else { &trace });
        self.put(br#"","id":""#);
        self.put(&hex::of_64(span.own.at.span));
        if let Some(parent) = span.own.parent {
            self.put(br#"","parentId":""#);
            self.put(&hex::of_64(parent));
        }
    }

    fn put(&mut self, text: &[u8]) {
        self.body.extend_from_slice(text);
    }

    fn print(&mut self, text: std::fmt::Arguments<'_>) {
        self.body.write_fmt(text).expect("memory takes what is written");
    }

    fn quote(&mut self, text: &str) {
        if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
            self.put(b"\"");
            self.put(text.as_bytes());
            self.put(b"\"");
        } else {
            serde_json::to_writer(&mut self.body, text).expect("a text is JSON");
        }
    }
}

/// Bytes of a span, as most are.
const TYPICAL: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::super::{Own, Parent, Tags};
    use super::*;

    #[test]
    fn a_span_is_what_zipkin_reads() {
        let own = Own { at: Parent { trace: (1 << 64) + 2, span: 3 }, parent: Some(4), sampled: true };
        let [mut tags, none] = [Tags::default(), Tags::default()];
        tags.set("b", "1");
        tags.set("a", "\"2\"\n");
        let span = Span {
            own,
            kind: Kind::Server,
            name: "reviews:9080/*",
            service: "reviews.default",
            address: Some("10.0.0.1".parse().unwrap()),
            start: 5,
            duration: 0,
            tags: &tags,
            failed: false,
        };
        let text = |short| {
            let mut list = ZipkinList::new(2, short);
            list.add(&span);
            list.add(&Span { tags: &none, address: None, ..span });
            String::from_utf8(list.end()).unwrap()
        };
        assert_eq!(
            text(false),
            r#"[{"traceId":"00000000000000010000000000000002","id":"0000000000000003","parentId":"0000000000000004","kind":"SERVER","name":"reviews:9080/*","timestamp":5,"duration":1,"localEndpoint":{"serviceName":"reviews.default","ipv4":"10.0.0.1"},"tags":{"b":"1","a":"\"2\"\n"}},{"traceId":"00000000000000010000000000000002","id":"0000000000000003","parentId":"0000000000000004","kind":"SERVER","name":"reviews:9080/*","timestamp":5,"duration":1,"localEndpoint":{"serviceName":"reviews.default"},"tags":{}}]"#
        );
        assert!(text(true).contains(r#""traceId":"0000000000000002""#));
    }
}
