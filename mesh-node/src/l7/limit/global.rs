//! Asks a rate limit service, by Envoy's protocol, over the engine's own connections: it is a service like any other, with
//! its endpoints, its mutual TLS and its DestinationRule.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, header};
use mesh_core::limit::{Call, Descriptor, Global, Standing};
use mesh_proto::ratelimit::rate_limit_response::{Code, DescriptorStatus};
use mesh_proto::ratelimit::{self, RateLimitResponse};

use super::super::call::{self, grpc_head};
use super::super::exchange::{Ended, Stage};
use super::super::message::RequestHead;
use super::super::record::Record;
use super::super::reply::Refusal;
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
    let call = call::Call::of_message(&message, MAX_ANSWER)?;
    let mut head = grpc_head(&global.to, METHOD, call.framing())?;
    let answer = call.ask(stage, &global.to, &mut head).await?;
    mesh_proto::limit::answer(&answer.into_message()?).map_err(|error| error.to_string())
}

/// An answer is a verdict and a few headers.
const MAX_ANSWER: usize = 64 * 1024;
/// Headers that an answer may add.
const MAX_HEADERS: usize = 32;
const METHOD: &[u8] = b"/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
const ENVOY_RATELIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
