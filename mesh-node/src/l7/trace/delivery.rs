//! How spans are delivered, by who takes them.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use mesh_core::addressee::Addressee;
use mesh_core::route::ClusterRef;
use mesh_core::trace::{Collector, Span, Speaks, zipkin_list, zipkin_span};

use super::super::call::{Answer, Call, grpc_head};
use super::super::h1::{Authority, Target};
use super::super::message::{RequestHead, Version};
use super::super::outbox::{Counted, Lanes, MAX_ANSWER, Outbox, Recipient};
use crate::report::Event;

/// A span in the words of its collector.
pub(in crate::l7) struct Written {
    service: Arc<str>,
    text: Vec<u8>,
}

impl Written {
    /// Writes one of a service down.
    pub(super) fn new(span: &Span<'_>, service: &Arc<str>, speaks: &Speaks) -> Self {
        let text = match speaks {
            Speaks::Zipkin { short, .. } => zipkin_span(span, *short),
            Speaks::OtlpGrpc | Speaks::OtlpHttp { .. } => mesh_proto::spans::encode(span),
        };
        Self { service: Arc::clone(service), text }
    }
}

impl Recipient for Arc<Collector> {
    type Item = Written;
    const COUNTED: Counted =
        Counted { sent: Event::SpanSent, no_room: Event::SpanNoRoom, undelivered: Event::SpanUndelivered };
    const TASK: &'static str = "spans";

    fn lanes(outbox: &Outbox) -> &Lanes<Self> {
        &outbox.spans
    }

    fn to(&self) -> &Addressee {
        &self.to
    }

    fn size(span: &Written) -> usize {
        FRAME + span.text.len()
    }

    fn question(&self, spans: &[Written], to: &ClusterRef) -> Result<(Call, RequestHead), String> {
        let all = || spans.iter().map(|span| (&*span.service, &*span.text));
        let export = || mesh_proto::spans::export(all(), env!("CARGO_PKG_VERSION"));
        let (body, kind, path) = match &self.speaks {
            Speaks::OtlpGrpc => {
                let call = Call::of_message(&export(), MAX_ANSWER)?;
                let head = grpc_head(to, METHOD, call.framing())?;
                return Ok((call, head));
            }
            Speaks::Zipkin { path, .. } => {
                (zipkin_list(all().map(|(_, text)| text)), "application/json", path)
            }
            Speaks::OtlpHttp { path } => (export(), "application/x-protobuf", path),
        };
        let call = Call::new(Bytes::from(body), MAX_ANSWER);
        let head = http_head(to, (kind, path), &call)?;
        Ok((call, head))
    }

    fn took(&self, answer: Answer) -> Result<(), String> {
        match &self.speaks {
            Speaks::OtlpGrpc => answer.succeeded(),
            _ if answer.status.is_success() => Ok(()),
            _ => Err(format!("status {}", answer.status.as_u16())),
        }
    }
}

/// Bytes that frame a span in a delivery, and what it takes to keep it.
const FRAME: usize = 64;

fn http_head(
    to: &ClusterRef,
    (kind, path): (&'static str, &str),
    call: &Call,
) -> Result<RequestHead, String> {
    let authority = format!("{}:{}", to.host, to.port.unwrap_or_default());
    let mut headers = http::HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(RequestHead {
        method: Method::POST,
        secure: false,
        authority: Some(Authority::parse(authority.into()).map_err(|_| format!("{} is no host", to.host))?),
        target: Target::origin(path.as_bytes().to_vec().into()).map_err(|_| format!("{path} is no path"))?,
        client: None,
        version: Version::Http11,
        headers,
        framing: call.framing(),
        upgrade: None,
        expects_continue: false,
        claims: None,
    })
}

const METHOD: &[u8] = b"/opentelemetry.proto.collector.trace.v1.TraceService/Export";
