//! Asks a rate limit service, by Envoy's protocol, over the engine's own connections: it is a service like any other, with
//! its endpoints, its mutual TLS and its DestinationRule.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use mesh_core::limit::{Call, Descriptor, Global, Standing};
use mesh_core::route::{Action, Route};
use mesh_proto::ratelimit::rate_limit_response::{Code, DescriptorStatus};
use mesh_proto::ratelimit::{self, RateLimitResponse};

use super::super::exchange::{Ended, Stage};
use super::super::forward;
use super::super::h1::{Authority, Framing, Target};
use super::super::message::{Broken, Piece, RequestHead, ResponseHead, Version, grpc_status};
use super::super::record::Record;
use super::super::reply::Refusal;
use super::super::transfer::{Body, Downstream, Sink};
use crate::report::Event;

/// Asks about a request, one service after the other.
pub(super) async fn ask(
    stage: &Stage<'_>,
    questions: Vec<(Arc<Global>, Vec<Descriptor>)>,
    head: &mut RequestHead,
    record: &mut Record,
) -> Result<(), Ended> {
    for (global, descriptors) in questions {
        let asked = tokio::time::timeout(global.timeout, question(stage, &global, descriptors));
        // Boxed: it is a whole exchange of its own, inside of another.
        let answer = match (Box::pin(asked) as Pin<Box<dyn Future<Output = _> + '_>>).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} ms", global.timeout.as_millis())),
        };
        match answer {
            Ok(answer) => verdict(&answer, head, record)?,
            Err(reason) => failed(stage, &global, &reason)?,
        }
    }
    Ok(())
}

/// What is asked about a request, by the limits that are for it.
pub(super) fn questions<'a>(
    limits: impl Iterator<Item = &'a Arc<Global>>,
    call: &Call<'_>,
) -> Vec<(Arc<Global>, Vec<Descriptor>)> {
    let asked = limits.map(|global| (Arc::clone(global), global.descriptors(call)));
    asked.filter(|(_, descriptors)| !descriptors.is_empty()).collect()
}

fn failed(stage: &Stage<'_>, global: &Global, reason: &str) -> Result<(), Ended> {
    stage.engine.reporter.count(if global.denies {
        Event::LimitServiceDenied
    } else {
        Event::LimitServicePassed
    });
    let reason = format!("the rate limit service {} does not answer: {reason}", global.to);
    if global.denies {
        return Err(Ended::Refused(Refusal::RateLimitService, reason));
    }
    tracing::debug!(%reason, "A request passes of which a rate limit service says nothing.");
    Ok(())
}

fn verdict(answer: &RateLimitResponse, head: &mut RequestHead, record: &mut Record) -> Result<(), Ended> {
    let is_over = answer.overall_code() == Code::OverLimit;
    record.add_to_answer(headers(&answer.response_headers_to_add));
    if let Some((standing, over)) = nearest(&answer.statuses) {
        if over { record.limited(standing) } else { record.stands(standing) }
    }
    if is_over {
        record.add_to_answer([(ENVOY_RATELIMITED, HeaderValue::from_static("true"))].into_iter());
        return Err(Ended::Refused(Refusal::GloballyLimited, "the rate limit service says so".to_owned()));
    }
    for (name, value) in headers(&answer.request_headers_to_add) {
        head.headers.append(name, value);
    }
    Ok(())
}

/// The status that is nearest to its end, and whether it is over.
fn nearest(statuses: &[DescriptorStatus]) -> Option<(Standing, bool)> {
    let known = statuses.iter().filter_map(|status| {
        let over = status.code() == Code::OverLimit;
        let reset = status.duration_until_reset.as_ref();
        let next =
            reset.and_then(|it| Some(Duration::new(it.seconds.try_into().ok()?, it.nanos.try_into().ok()?)));
        let standing = Standing {
            limit: status.current_limit.as_ref()?.requests_per_unit,
            remaining: if over { 0 } else { status.limit_remaining },
            next: next.unwrap_or_default(),
        };
        Some((standing, over))
    });
    known.min_by_key(|(standing, over)| (!over, standing.remaining))
}

fn headers(given: &[ratelimit::HeaderValue]) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    given.iter().take(MAX_HEADERS).filter_map(|header| {
        let name = HeaderName::from_bytes(header.key.as_bytes()).ok().filter(may_be_added)?;
        let raw = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        Some((name, HeaderValue::from_bytes(raw).ok()?))
    })
}

/// What frames a message is not for others to say.
fn may_be_added(name: &HeaderName) -> bool {
    ![header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, header::HOST, header::UPGRADE]
        .contains(name)
}

/// One call.
async fn question(
    stage: &Stage<'_>,
    global: &Global,
    descriptors: Vec<Descriptor>,
) -> Result<RateLimitResponse, String> {
    let message = mesh_proto::limit::question(&global.domain, descriptors);
    let mut body = BytesMut::with_capacity(message.len() + PREFIX);
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).map_err(|_| "the question is too long".to_owned())?);
    body.put_slice(&message);
    let mut call = CallOf::new(body.freeze());
    let mut head = head_of(global, call.length())?;
    let route = Arc::new(Route { retries: None, ..Route::to(global.to.clone()) });
    let Action::Forward(forward) = &route.action else { return Err("there is nowhere to ask".to_owned()) };
    let matched = route.unmatched();
    let job = forward::Job { route: &route, forward, matched: &matched, cors: None, limited: false };
    let mut record = Record::begin(stage, &head);
    let sent = forward::run(stage, job, &mut head, &mut call, &mut record).await;
    match sent {
        Ok(()) => call.answer(),
        Err(Ended::Refused(refusal, reason)) => Err(format!("{} {reason}", refusal.text())),
        Err(Ended::Gone(broken) | Ended::Cut(broken)) => Err(broken.to_string()),
    }
}

fn head_of(global: &Global, length: u64) -> Result<RequestHead, String> {
    let wrong = |_| format!("{} is no host", global.to.host);
    let authority = format!("{}:{}", global.to.host, global.to.port.unwrap_or_default());
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    Ok(RequestHead {
        method: Method::POST,
        secure: false,
        authority: Some(Authority::parse(authority.into()).map_err(wrong)?),
        target: Target::origin(Bytes::from_static(METHOD)).map_err(wrong)?,
        client: None,
        version: Version::Http2,
        headers,
        framing: Framing::Length(length),
        upgrade: None,
        expects_continue: false,
        claims: None,
    })
}

/// A call of gRPC with one message each way, as the client that makes it.
struct CallOf {
    pieces: VecDeque<Piece>,
    length: usize,
    status: Option<StatusCode>,
    grpc: Option<u32>,
    heard: BytesMut,
}

impl CallOf {
    fn new(body: Bytes) -> Self {
        let length = body.len();
        let pieces = [Piece::Data(body), Piece::End(None)].into();
        Self { pieces, length, status: None, grpc: None, heard: BytesMut::new() }
    }

    fn length(&self) -> u64 {
        u64::try_from(self.length).unwrap_or(u64::MAX)
    }

    fn answer(self) -> Result<RateLimitResponse, String> {
        match (self.status, self.grpc) {
            (Some(StatusCode::OK), Some(0)) => {}
            (Some(StatusCode::OK), Some(code)) => return Err(format!("gRPC status {code}")),
            (status, _) => return Err(format!("status {}", status.map_or(0, |status| status.as_u16()))),
        }
        let (prefix, message) = self.heard.split_at_checked(PREFIX).ok_or("no message")?;
        let length = prefix.get(1..).and_then(|it| Some(u32::from_be_bytes(it.try_into().ok()?)));
        let whole = length.and_then(|it| usize::try_from(it).ok()) == Some(message.len());
        if prefix.first() != Some(&0) || !whole {
            return Err("what came back is no message of gRPC".to_owned());
        }
        mesh_proto::limit::answer(message).map_err(|error| error.to_string())
    }
}

impl Body for CallOf {
    fn poll_piece(&mut self, _: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        Poll::Ready(Ok(self.pieces.pop_front().unwrap_or(Piece::End(None))))
    }
}

impl Sink for CallOf {
    fn poll_room(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn push(&mut self, data: Bytes) -> Result<(), Broken> {
        if self.heard.len().saturating_add(data.len()) > MAX_ANSWER {
            return Err(Broken::Protocol("the answer of the rate limit service is too long".to_owned()));
        }
        self.heard.put(data);
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        self.grpc = trailers.as_ref().and_then(grpc_status).or(self.grpc);
        Ok(())
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }
}

impl Downstream for CallOf {
    fn inform(&mut self, _: ResponseHead) {}

    fn respond(&mut self, head: ResponseHead) -> Result<(), Broken> {
        self.grpc = grpc_status(&head.headers);
        self.status = Some(head.status);
        Ok(())
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<Broken> {
        Poll::Pending
    }

    fn leave_http(&mut self, _: ResponseHead) -> Result<(), Broken> {
        Err(Broken::Protocol("the rate limit service wants to leave HTTP".to_owned()))
    }
}

/// The flag of compression and the length before each message of gRPC.
const PREFIX: usize = 5;
/// An answer is a verdict and a few headers.
const MAX_ANSWER: usize = 64 * 1024;
/// Headers that an answer may add.
const MAX_HEADERS: usize = 32;
const METHOD: &[u8] = b"/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
const ENVOY_RATELIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
