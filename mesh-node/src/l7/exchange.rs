//! The life of one request: rules, then the acts they ask for, then an answer, whatever happens.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use mesh_core::authn::Claims;
use mesh_core::resource::networking::virtual_service::AbortError;
use mesh_core::route::{Action, Cors, CorsAnswer, Picked, RequestView, Route, https_location};

use super::ahead::Ahead;
use super::authn;
use super::authorize::{self, Revoked};
use super::edge;
use super::engine::Engine;
use super::forward;
use super::h1::Framing;
use super::limit;
use super::message::{Broken, RequestHead};
use super::record::Record;
use super::reply::{Refusal, Reply};
use super::session;
use super::site::{Chosen, Facts, Site};
use super::trace;
use super::transfer::Downstream;
use crate::report::{Event, Flags, Perspective};

/// What a request is served with.
pub struct Stage<'a> {
    /// The engine of the client.
    pub engine: &'a Rc<Engine>,
    /// The listener.
    pub site: &'a dyn Site,
    /// The connection.
    pub facts: &'a Facts,
}

/// How a request ended that has no whole answer of a server.
#[derive(Debug)]
pub enum Ended {
    /// The proxy answers.
    Refused(Refusal, String),
    /// Somebody else has answered in the proxy's place.
    Answered(Box<Reply>),
    /// The client has gone, or its request broke: there is nobody to answer.
    Gone(Broken),
    /// The answer had begun and could not be ended.
    Cut(Broken),
}

/// Serves one request. Whatever happens is in the report when this returns; a client that got no complete answer has been
/// cut off.
///
/// Returns the headers of the request, to be used again, and the time.
pub async fn serve<D: Downstream>(
    stage: &Stage<'_>,
    mut head: RequestHead,
    client: &mut D,
) -> (HeaderMap, Instant) {
    let mut record = Record::begin(stage, &head);
    let grpc = head.is_grpc();
    let ended = match run(stage, &mut head, client, &mut record).await {
        Ok(()) => None,
        Err(Ended::Refused(refusal, reason)) => {
            record.refused(refusal, &reason);
            send(stage, client, Reply::refuse(refusal, grpc), &mut record).await.err()
        }
        Err(Ended::Answered(reply)) => send(stage, client, *reply, &mut record).await.err(),
        Err(ended) => Some(ended),
    };
    match ended {
        // Nothing that sends an answer asks for another.
        None | Some(Ended::Answered(_)) => {}
        Some(Ended::Gone(broken)) => record.gone(&broken),
        Some(Ended::Cut(broken)) => record.cut(&broken),
        Some(Ended::Refused(refusal, reason)) => record.refused(refusal, &reason),
    }
    let ended = record.finish(stage, &head);
    (head.headers, ended)
}

async fn run<D: Downstream>(
    stage: &Stage<'_>,
    head: &mut RequestHead,
    client: &mut D,
    record: &mut Record,
) -> Result<(), Ended> {
    let told = stage.site.told().unwrap_or_else(|| stage.engine.told());
    let received = edge::receive(stage, head).map_err(|wrong| {
        Ended::Refused(Refusal::BadRequest(StatusCode::BAD_REQUEST), wrong.as_str().to_owned())
    });
    let active = received.as_ref().ok().and_then(|made| trace::begin(stage, head, &told, *made));
    record.told(told, active, stage.engine.reporter.reads_answers());
    received?;
    if stage.engine.client.perspective() != Perspective::Destination {
        // Rules ask about headers in many places. Where requests are taken in few have any, and those complete them.
        head.complete();
    }
    if stage.site.is_edge() && edge::is_looping(head) {
        let reason = "more proxies have passed it on than there can be, by its x-forwarded-for";
        return Err(Ended::Refused(Refusal::Loop, reason.to_owned()));
    }
    let shown = authn::request(stage, head, record)?;
    let mut client = Ahead::new(client);
    let mut asked = authorize::request(stage, (head, shown), &mut client, record).await?;
    let revoked = tokio::select! {
        biased;
        followed = follow(stage, head, &mut client, record) => return followed,
        revoked = authorize::revoked(stage, &mut asked) => revoked,
    };
    stage.engine.reporter.count(Event::DeniedLater);
    Err(cut(stage, head, record, revoked))
}

/// Ends a request that may not go on: with an answer, if none has begun.
fn cut(stage: &Stage<'_>, head: &RequestHead, record: &mut Record, revoked: Revoked) -> Ended {
    match revoked {
        Revoked::Denied(denied) => {
            record.denied_by(&denied);
            if record.is_answered() {
                return Ended::Cut(Broken::Closed("because policy has changed"));
            }
            Ended::Refused(Refusal::Denied, format!("cut after a policy change: {denied}"))
        }
        Revoked::Token(_) if record.is_answered() => {
            stage.engine.reporter.count(Event::TokenRefused);
            Ended::Cut(Broken::Closed("because its token is no longer accepted"))
        }
        Revoked::Token(invalid) => authn::refuse(stage, head, record, invalid),
    }
}

/// What rules say of a request that may be.
async fn follow<D: Downstream>(
    stage: &Stage<'_>,
    head: &mut RequestHead,
    client: &mut D,
    record: &mut Record,
) -> Result<(), Ended> {
    let Some((route, matched)) = pick(stage, head)? else {
        let location = https_location(&view(stage, head));
        let reply = redirect(StatusCode::MOVED_PERMANENTLY, &location);
        return send(stage, client, reply, record).await;
    };
    let route = match &route.action {
        Action::Split(split) => {
            let held = session::of(stage, &route, &head.headers).and_then(|it| it.branch(stage, split));
            Arc::clone(held.unwrap_or_else(|| split.choose(stage.engine.random())))
        }
        _ => route,
    };
    record.route(&matched);
    let cors = match answer_cors(stage, &route, head) {
        CorsStep::Answer(reply) => return send(stage, client, reply, record).await,
        CorsStep::Go(cors) => cors,
    };
    limit::request_at_door(stage, (head, &matched), record).await?;
    if let Some(reply) = inject(stage, &route, head, client, record).await? {
        return send(stage, client, reply, record).await;
    }
    let reply = match &route.action {
        Action::Forward(forward) => {
            let job = forward::Job { route: &route, forward, matched: &matched, cors, limited: true };
            return forward::run(stage, job, head, client, record).await;
        }
        Action::Redirect(to) => {
            let location = to.location(&view(stage, head), &matched);
            record.details("direct_response");
            redirect(to.status, &location)
        }
        Action::Respond(response) => {
            record.details("direct_response");
            Reply::new(response.status, "text/plain", Bytes::copy_from_slice(&response.body))
        }
        // No split has another one inside.
        Action::Split(_) => return Err(Ended::Refused(Refusal::NoRoute, String::new())),
    };
    let mut reply = reply;
    route.headers.response.apply(&mut reply.head.headers, |name, answer| {
        record.variable(stage, name, (&head.headers, Some(answer)))
    });
    if let Some(cors) = &cors {
        cors.apply(&mut reply.head.headers);
    }
    send(stage, client, reply, record).await
}

/// The rule for a request; `Ok(None)` sends it to https.
fn pick(stage: &Stage<'_>, head: &RequestHead) -> Result<Option<Chosen>, Ended> {
    let table = stage.site.routes();
    let picked = table.as_deref().map_or(Picked::NoHost, |table| table.pick(&view(stage, head)));
    match picked {
        Picked::Route(route, matched) => Ok(Some((Arc::clone(route), Arc::clone(matched)))),
        Picked::ToHttps => Ok(None),
        Picked::NoRoute => Err(Ended::Refused(Refusal::NoRoute, String::new())),
        Picked::Misdirected => Err(Ended::Refused(Refusal::Misdirected, String::new())),
        Picked::NoHost => match stage.site.fallback() {
            Some(chosen) => Ok(Some(chosen)),
            None => Err(Ended::Refused(Refusal::NoRoute, String::new())),
        },
    }
}

/// A request as rules see it.
pub fn view<'a>(stage: &Stage<'_>, head: &'a RequestHead) -> RequestView<'a> {
    RequestView {
        method: &head.method,
        scheme: if head.secure { "https" } else { "http" },
        authority: head.authority.as_ref().map_or("", |it| it.as_str()),
        path: head.target.path(),
        query: head.target.query(),
        headers: &head.headers,
        port: stage.site.port(),
        claims: head.claims.as_deref().map(Claims::all),
    }
}

/// What is added to the answer because of the page that asks.
pub struct CorsGrant {
    route: Arc<Route>,
    origin: HeaderValue,
}

impl CorsGrant {
    /// Adds it.
    pub fn apply(&self, headers: &mut HeaderMap) {
        if let Some(cors) = &self.route.cors {
            cors.actual(&self.origin, headers);
        }
    }
}

enum CorsStep {
    Answer(Reply),
    Go(Option<CorsGrant>),
}

fn answer_cors(stage: &Stage<'_>, route: &Arc<Route>, head: &RequestHead) -> CorsStep {
    let Some(cors): Option<&Cors> = route.cors.as_deref() else { return CorsStep::Go(None) };
    let mut reply = Reply::new(StatusCode::OK, "text/plain", Bytes::new());
    match cors.decide(&view(stage, head)) {
        CorsAnswer::None => CorsStep::Go(None),
        CorsAnswer::Refused => CorsStep::Answer(reply),
        CorsAnswer::Preflight(origin) => {
            cors.preflight(origin, &head.headers, &mut reply.head.headers);
            CorsStep::Answer(reply)
        }
        CorsAnswer::Actual(origin) => {
            CorsStep::Go(Some(CorsGrant { route: Arc::clone(route), origin: origin.clone() }))
        }
    }
}

/// Makes the faults that the rule asks for; an answer is all that the client gets.
async fn inject<D: Downstream>(
    stage: &Stage<'_>,
    route: &Route,
    head: &RequestHead,
    client: &mut D,
    record: &mut Record,
) -> Result<Option<Reply>, Ended> {
    let Some(fault) = &route.fault else { return Ok(None) };
    let injection = fault.decide(stage.engine.random(), stage.engine.random());
    if let Some(delay) = injection.delay {
        record.flag(Flags::DI);
        pause(delay, head, client).await?;
    }
    if injection.abort.is_some() {
        meant_for(stage, route, record);
    }
    match injection.abort {
        None => Ok(None),
        Some(AbortError::Http(status)) => {
            let status = StatusCode::from_u16(status.get()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Err(Ended::Refused(Refusal::Fault(status), String::new()))
        }
        Some(AbortError::Grpc(status)) => {
            record.flag(Flags::FI);
            record.details("fault_filter_abort");
            Ok(Some(Reply::grpc(status.code(), "fault filter abort")))
        }
    }
}

/// What is aborted was meant for somebody: metrics, logs and the mesh page tell for whom.
fn meant_for(stage: &Stage<'_>, route: &Route, record: &mut Record) {
    if let Action::Forward(forward) = &route.action {
        let to = &forward.choose(stage.engine.random()).to;
        if let Ok(cluster) = stage.engine.cluster(to, stage.site.port()) {
            record.cluster(&cluster);
        }
    }
}

/// Waits, unless the client goes away.
pub async fn pause<D: Downstream>(delay: Duration, head: &RequestHead, client: &mut D) -> Result<(), Ended> {
    let watches = !head.framing.has_body();
    let gone = poll_fn(|cx| if watches { client.poll_gone(cx) } else { std::task::Poll::Pending });
    tokio::select! {
        () = tokio::time::sleep(delay) => Ok(()),
        broken = gone => Err(Ended::Gone(broken)),
    }
}

fn redirect(status: StatusCode, location: &str) -> Reply {
    let mut reply = Reply::new(status, "text/plain", Bytes::new());
    if let Ok(location) = HeaderValue::from_str(location) {
        reply.head.headers.insert(header::LOCATION, location);
    }
    reply
}

/// Sends an answer of the proxy's own.
pub async fn send<D: Downstream>(
    stage: &Stage<'_>,
    client: &mut D,
    reply: Reply,
    record: &mut Record,
) -> Result<(), Ended> {
    let Reply { mut head, mut body } = reply;
    if record.is_bodiless() {
        head.headers.insert(header::CONTENT_LENGTH, body.len().into());
        head.framing = Framing::None;
        body.clear();
    }
    edge::answer_alone(stage, &mut head.headers);
    record.tell_quota(&mut head.headers);
    record.answered(head.status, &head.headers);
    record.sent(body.len());
    let begun = client.respond(head).and_then(|()| {
        if !body.is_empty() {
            client.push(body)?;
        }
        client.end(None)
    });
    begun.map_err(Ended::Gone)?;
    poll_fn(|cx| client.poll_flush(cx)).await.map_err(Ended::Gone)
}

/// Whether doing it twice is as good as once (RFC 9110, 9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// When a request that began at `start` has to be answered.
pub fn deadline(start: Instant, timeout: Option<Duration>) -> Option<tokio::time::Instant> {
    timeout.map(|timeout| tokio::time::Instant::from_std(start + timeout))
}
