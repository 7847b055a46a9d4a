//! How spans are delivered, by who takes them.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use mesh_core::addressee::Addressee;
use mesh_core::route::ClusterRef;
use mesh_core::trace::{Collector, Speaks, Tags, TraceWord, ZipkinList};
use mesh_proto::spans as otlp;

use super::super::call::{Answer, Call, grpc_head};
use super::super::h1::{Authority, Target};
use super::super::message::{RequestHead, Version};
use super::super::outbox::{Counted, Lanes, MAX_ANSWER, Outbox, Recipient};
use super::noted::Noted;
use crate::report::Event;

impl Recipient for Arc<Collector> {
    type Item = Noted;
    const COUNTED: Counted =
        Counted { sent: Event::SpanSent, no_room: Event::SpanNoRoom, undelivered: Event::SpanUndelivered };
    const TASK: &'static str = "spans";

    fn lanes(outbox: &Outbox) -> &Lanes<Self> {
        &outbox.spans
    }

    fn to(&self) -> &Addressee {
        &self.to
    }

    fn size(span: &Noted) -> usize {
        span.size()
    }

    fn question(&self, spans: &[Noted], to: &ClusterRef) -> Result<(Call, RequestHead), String> {
        let (body, kind, path) = match &self.speaks {
            Speaks::OtlpGrpc => {
                let call = Call::of_message(&export(spans), MAX_ANSWER)?;
                let head = grpc_head(to, METHOD, call.framing())?;
                return Ok((call, head));
            }
            Speaks::Zipkin { path, short } => (zipkin(spans, *short), "application/json", path),
            Speaks::OtlpHttp { path } => (export(spans), "application/x-protobuf", path),
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

fn zipkin(spans: &[Noted], short: bool) -> Vec<u8> {
    let mut list = ZipkinList::new(spans.len(), short);
    let mut room = Tags::default();
    spans.iter().for_each(|span| span.tell(&mut room, |span| list.add(span)));
    list.end()
}

fn export(spans: &[Noted]) -> Vec<u8> {
    let mut room = Tags::default();
    let written = spans.iter().map(|span| (span.service(), span.tell(&mut room, otlp::encode)));
    let written: Vec<_> = written.collect();
    otlp::export(written.iter().map(|(service, text)| (*service, &**text)), env!("CARGO_PKG_VERSION"))
}

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
        trace: TraceWord::Nothing,
    })
}

const METHOD: &[u8] = b"/opentelemetry.proto.collector.trace.v1.TraceService/Export";
