//! Spans as a collector of OpenTelemetry reads them.

use mesh_core::trace::{Kind, Span};
use prost::Message as _;

use crate::otlp::{self, any_value};

/// The body of a request that delivers spans, each beside its service: every service's are under a resource of its own. `version` is
/// that of whoever sends it.
pub fn export<'s>(spans: impl Iterator<Item = (&'s str, &'s [u8])>, version: &str) -> Vec<u8> {
    let mut all: Vec<(&str, otlp::ScopeSpans)> = Vec::new();
    for (service, span) in spans {
        let place = all.iter().position(|(known, _)| *known == service).unwrap_or_else(|| {
            let scope = otlp::Scope { name: "mesh-node".to_owned(), version: version.to_owned() };
            all.push((service, otlp::ScopeSpans { scope: Some(scope), spans: Vec::new() }));
            all.len() - 1
        });
        if let Some((_, scope)) = all.get_mut(place) {
            scope.spans.push(span.to_vec().into());
        }
    }
    let resource_spans = all.into_iter().map(|(service, scope)| {
        let attributes = vec![pair("service.name", service)];
        otlp::ResourceSpans { resource: Some(otlp::Resource { attributes }), scope_spans: vec![scope] }
    });
    otlp::ExportRequest { resource_spans: resource_spans.collect() }.encode_to_vec()
}

/// A span by itself; its service is for [`export`].
pub fn encode(span: &Span<'_>) -> Vec<u8> {
    let span = otlp::Span {
        trace_id: span.own.at.trace.to_be_bytes().to_vec().into(),
        span_id: span.own.at.span.to_be_bytes().to_vec().into(),
        trace_state: String::new(),
        parent_span_id: span.own.parent.map(|it| it.to_be_bytes().to_vec().into()).unwrap_or_default(),
        name: span.name.to_owned(),
        kind: match span.kind {
            Kind::Server => SERVER,
            Kind::Client => CLIENT,
        },
        start_time_unix_nano: span.start.saturating_mul(NANOS),
        end_time_unix_nano: span.start.saturating_add(span.duration).saturating_mul(NANOS),
        attributes: span.tags.iter().map(|(name, value)| pair(name, value)).collect(),
        status: span.failed.then(|| otlp::Status { message: String::new(), code: ERROR }),
    };
    span.encode_to_vec()
}

pub(crate) fn pair(key: &str, value: &str) -> otlp::KeyValue {
    let value = otlp::AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    otlp::KeyValue { key: key.to_owned(), value: Some(value) }
}

const SERVER: i32 = 2;
const CLIENT: i32 = 3;
/// `STATUS_CODE_ERROR`.
const ERROR: i32 = 2;
/// Nanoseconds of a microsecond.
const NANOS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use mesh_core::trace::{Own, Parent, Tags};

    use super::*;

    #[test]
    fn spans_are_kept_apart_by_service() {
        let own = Own { at: Parent { trace: 2, span: 3 }, parent: None, sampled: true };
        let span = |service: &'static str, failed| {
            let mut tags = Tags::default();
            tags.set("a", "1");
            let (kind, name, address) = (Kind::Client, "n", None);
            let span = Span { own, kind, name, service, address, start: 5, duration: 2, tags: &tags, failed };
            (service, encode(&span))
        };
        let spans = [span("a", false), span("b", true), span("a", false)];
        let body = export(spans.iter().map(|(service, span)| (*service, &**span)), "1");
        let read = otlp::ExportRequest::decode(&*body).unwrap();
        assert_eq!(read.resource_spans.len(), 2);
        let first = &read.resource_spans[0];
        assert_eq!(first.resource.as_ref().unwrap().attributes[0], pair("service.name", "a"));
        assert_eq!(first.scope_spans[0].spans.len(), 2);
        let failed = &read.resource_spans[1].scope_spans[0].spans[0];
        let failed = otlp::Span::decode(&**failed).unwrap();
        assert_eq!(failed.attributes, [pair("a", "1")]);
        assert_eq!((failed.kind, failed.status.as_ref().unwrap().code), (3, 2));
        assert_eq!((failed.start_time_unix_nano, failed.end_time_unix_nano), (5_000, 7_000));
        assert_eq!(failed.trace_id.len() + failed.span_id.len(), 24);
        assert!(failed.parent_span_id.is_empty());
    }
}
