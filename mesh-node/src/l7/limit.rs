//! Where limits are asked: for what comes in at a gateway's door, and for what is sent on to a service.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use mesh_core::limit::{self, Call, Caller, Full, Held, Outcome, Over, Policy, Standing};
use mesh_core::model::Service;
use mesh_core::resource::rate_limit::BodyLimit;
use mesh_core::route::MatchInfo;

use super::engine::Engine;
use super::exchange::{Ended, Stage, view};
use super::message::RequestHead;
use super::record::{Record, client_of};
use super::reply::Refusal;
use super::site::Facts;
use crate::report::Event;

mod global;

/// Why a connection may not come in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TooMany {
    /// In too short a time.
    #[error("{0}")]
    Rate(Over),
    /// Beside those that are open.
    #[error("{0}")]
    Open(Full),
}

/// Whether a connection may come in; one that may not is counted. What comes back stays with it to its end.
pub(crate) fn at_door(engine: &Engine, facts: &Facts) -> Result<Held, TooMany> {
    let (door, caller) = (engine.door(), caller(facts));
    // Who finds no place has not come in, and so takes nothing of what may come in.
    let held = limit::open(&door, &caller).map_err(|full| {
        engine.reporter.count(Event::ShedOpen);
        TooMany::Open(full)
    })?;
    let asked = limit::connection(&door, &caller, Instant::now());
    passed(engine, asked).map_err(TooMany::Rate)?;
    Ok(held)
}

/// Whether a connection to a service may be; one that may not is counted.
pub(crate) fn to_service(engine: &Engine, service: &Service, facts: &Facts) -> Result<(), Over> {
    if engine.client.passes_on(service) {
        return Ok(());
    }
    let asked = limit::connection(engine.limits().of_service(service), &caller(facts), Instant::now());
    passed(engine, asked)
}

fn passed(engine: &Engine, asked: Outcome) -> Result<(), Over> {
    match asked {
        Outcome::Free | Outcome::Within(_) => Ok(()),
        Outcome::Over(over) => {
            engine.reporter.count(Event::ShedRate);
            Err(over)
        }
    }
}

fn caller(facts: &Facts) -> Caller<'_> {
    Caller::new(facts.identity.as_ref(), facts.peer.ip())
}

/// Asks for a request that has come in.
pub(super) async fn request_at_door(
    stage: &Stage<'_>,
    request: (&mut RequestHead, &MatchInfo),
    record: &mut Record,
) -> Result<(), Ended> {
    let policies = stage.engine.door();
    if policies.is_empty() {
        return Ok(());
    }
    admit(stage, &policies, request, record).await
}

/// Asks for a request that is to go to a service.
pub(super) async fn request_to_service(
    stage: &Stage<'_>,
    service: &Service,
    request: (&mut RequestHead, &MatchInfo),
    record: &mut Record,
) -> Result<(), Ended> {
    let limits = stage.engine.limits();
    let policies = limits.of_service(service);
    if policies.is_empty() || stage.engine.client.passes_on(service) {
        return Ok(());
    }
    admit(stage, policies, request, record).await
}

/// How long the body may be of a request that goes to a service.
pub(super) fn body_to_service(stage: &Stage<'_>, service: &Service) -> Option<BodyLimit> {
    let (door, limits) = (stage.engine.door(), stage.engine.limits());
    let own = limits.of_service(service).iter().filter(|_| !stage.engine.client.passes_on(service));
    limit::body(door.iter().chain(own))
}

async fn admit(
    stage: &Stage<'_>,
    policies: &[Arc<Policy>],
    (head, matched): (&mut RequestHead, &MatchInfo),
    record: &mut Record,
) -> Result<(), Ended> {
    head.complete();
    let call = call(stage, head, matched);
    decide(limit::request(policies, &call, record.start()), record)?;
    let questions = global::questions(limit::globals(policies), &call);
    if questions.is_empty() {
        return Ok(());
    }
    // Boxed: few requests need it, and all have room for it otherwise.
    Box::pin(global::ask(stage, questions, head, record)).await
}

fn call<'a>(stage: &'a Stage<'_>, head: &'a RequestHead, matched: &'a MatchInfo) -> Call<'a> {
    let address = client_of(stage.facts, head).ip();
    let caller = Caller::new(stage.facts.identity.as_ref(), address);
    Call { view: view(stage, head), route: &matched.name, caller }
}

fn decide(outcome: Outcome, record: &mut Record) -> Result<(), Ended> {
    match outcome {
        Outcome::Free => Ok(()),
        Outcome::Within(standing) => {
            record.stands(standing);
            Ok(())
        }
        Outcome::Over(over) => {
            record.limited(over.standing);
            Err(Ended::Refused(Refusal::RateLimited, over.to_string()))
        }
    }
}

/// How a request stands with the limits that are for it, as its answer is to say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quota {
    /// The limit that is nearest to its end.
    pub(super) standing: Standing,
    /// Whether it is over.
    pub(super) over: bool,
}

impl Quota {
    /// Says it: in Envoy's words, and when it is over in those of RFC 9110.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        let Standing { limit, remaining, .. } = self.standing;
        headers.insert(LIMIT, limit.into());
        headers.insert(REMAINING, remaining.into());
        let next = HeaderValue::from(self.standing.next_seconds().max(1));
        if self.over {
            headers.insert(header::RETRY_AFTER, next.clone());
        }
        headers.insert(RESET, next);
    }
}

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
