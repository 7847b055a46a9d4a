//! A request that is sent on: endpoints are chosen, tried, tried again, and one answer is passed back.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{HeaderName, StatusCode};
use mesh_core::balance::{Affinity, hash_key};
use mesh_core::cluster::{Outcome, Resource, Ticket};
use mesh_core::model::EndpointId;
use mesh_core::resource::rate_limit::BodyLimit;
use mesh_core::retry::{self, Answer, Attempt, Failure, RetryDecision, should_retry};
use mesh_core::route::{Forward, MatchInfo, Route, Weighted};

use super::cluster::{Busy, Choice, Cluster, Member, untried};
use super::connect::{BeginError, Server};
use super::deadline::Deadline;
use super::edge;
use super::exchange::{CorsGrant, Ended, Stage, deadline, is_idempotent, pause};
use super::h1::{Authority, Framing};
use super::kept::{Kept, Replay};
use super::limit;
use super::message::{Broken, GRPC_STATUS, Piece, RequestHead, ResponseHead, grpc_status};
use super::mirror;
use super::record::Record;
use super::reply::Refusal;
use super::session::{self, Hashed};
use super::site::DialError;
use super::transfer::{Body, Downstream, Either, Flow, Upstream};
use super::upload::Upload;
use super::wishes::{retriable_headers, time_of};
use crate::report::Flags;

/// What a rule wants done with a request.
pub struct Job<'a> {
    /// The rule.
    pub route: &'a Arc<Route>,
    /// Its destinations.
    pub forward: &'a Forward,
    /// The match.
    pub matched: &'a MatchInfo,
    /// What the answer gets because of the page that asks.
    pub cors: Option<CorsGrant>,
    /// Whether limits are for it. They are not for copies, nor for the proxy's own questions.
    pub limited: bool,
}

/// A request on its way.
struct Journey<'a, 'r, D> {
    stage: &'a Stage<'a>,
    job: &'a Job<'a>,
    cluster: Rc<Cluster>,
    head: &'a mut RequestHead,
    client: &'a mut D,
    record: &'r mut Record,
    kept: Kept,
    until: Option<tokio::time::Instant>,
    set_cookie: Option<String>,
    session: Option<session::Known<'a>>,
    /// Leave to be a retry.
    retry: Option<Ticket>,
    /// Headers of an answer for which the client wants another.
    retriable: Vec<HeaderName>,
}

/// How one try ended without an answer that is passed on.
enum Try {
    /// There was no answer.
    Failed(Failure, Refusal, String),
    /// There was one, and the rule wants another, after a pause.
    Again(Duration),
    /// It is over.
    Ended(Ended),
}

/// Sends a request where the rule says, and its answer back.
pub async fn run<D: Downstream>(
    stage: &Stage<'_>,
    job: Job<'_>,
    head: &mut RequestHead,
    client: &mut D,
    record: &mut Record,
) -> Result<(), Ended> {
    let session = session::of(stage, job.route, &head.headers);
    let held = session.as_ref().and_then(|it| it.destination(stage, job.forward));
    let weighted = held.unwrap_or_else(|| job.forward.choose(stage.engine.random()));
    prepare(stage, &job, weighted, head, record)?;
    let found = stage.engine.cluster(&weighted.to, stage.site.port());
    let cluster = found.map_err(|_| {
        Ended::Refused(Refusal::NoCluster(job.route.no_cluster), weighted.to.host.to_string())
    })?;
    record.cluster(&cluster);
    if job.limited {
        limit::request_to_service(stage, &cluster.service, (head, job.matched), record).await?;
    }
    let body = if job.limited { body_limit(stage, &cluster, head)? } else { None };
    let mut client = mirror::Teed::new(client, mirror::start(stage, &job, head));
    let limits = cluster.policy.pool.limits;
    // Counting what has no limit would cost every request two atomic operations.
    let counted = limits.requests != u32::MAX || cluster.policy.retry_budget.is_some();
    let _request = match counted.then(|| cluster.shared.admission.ticket(Resource::Request)).transpose() {
        Ok(ticket) => ticket,
        Err(overflow) => return Err(Ended::Refused(Refusal::Overflow, overflow.to_string())),
    };
    if let Some(interval) = cluster.policy.retry_budget.as_ref().and_then(|budget| budget.interval) {
        cluster.shared.count_request(interval, record.start());
    }
    let keeps = head.framing.has_body() && job.route.retries.is_some();
    let retriable = retriable_headers(head, job.route.retries.as_deref());
    let grpc = head.is_grpc();
    let mut journey = Journey {
        stage,
        retriable,
        job: &job,
        until: deadline(record.start(), time_of(job.route, head)),
        head,
        client: &mut client,
        record,
        kept: Kept::new(keeps, body).counting(grpc),
        cluster,
        set_cookie: None,
        session,
        retry: None,
    };
    let ended = match journey.gather().await {
        Ok(()) => journey.travel(weighted).await,
        Err(ended) => Err(ended),
    };
    journey.record.received(journey.kept.received());
    journey.record.asked(journey.kept.messages());
    ended
}

/// How long the body may be; a request that says that it is longer is refused at once.
fn body_limit(stage: &Stage<'_>, cluster: &Cluster, head: &RequestHead) -> Result<Option<BodyLimit>, Ended> {
    let limit = limit::body_to_service(stage, &cluster.service).filter(|_| !head.leaves_http());
    match (&limit, head.framing) {
        (Some(limit), Framing::Length(length)) if length > u64::from(limit.max_bytes) => {
            let reason = format!("a body of {length} bytes, of at most {}", limit.max_bytes);
            Err(Ended::Refused(Refusal::BodyTooLong, reason))
        }
        _ => Ok(limit),
    }
}

/// Makes the request what the endpoint is to see.
fn prepare(
    stage: &Stage<'_>,
    job: &Job<'_>,
    weighted: &Weighted,
    head: &mut RequestHead,
    record: &Record,
) -> Result<(), Ended> {
    let wrong = |reason: super::h1::Reason| {
        Ended::Refused(Refusal::BadRequest(StatusCode::BAD_REQUEST), reason.to_string())
    };
    if let Some(rewrite) = &job.route.rewrite {
        let path = rewrite.path(head.target.path(), job.matched);
        edge::note_original(head);
        head.target = head.target.with_path(&path).map_err(wrong)?;
    }
    if !weighted.headers.request.is_empty() {
        weighted
            .headers
            .request
            .apply(&mut head.headers, |name, request| record.variable(stage, name, (request, None)));
    }
    if let Some(host) = &weighted.host {
        head.authority = Some(Authority::parse(host.as_bytes().to_vec().into()).map_err(wrong)?);
    }
    edge::forward(stage, job.route, head);
    Ok(())
}

impl<D: Downstream> Journey<'_, '_, D> {
    /// Waits for all of the body, where it is to be there before the request is sent.
    async fn gather(&mut self) -> Result<(), Ended> {
        if !self.kept.is_buffered() || !self.head.framing.has_body() {
            return Ok(());
        }
        let (client, kept) = (&mut *self.client, &mut self.kept);
        let mut position = 0;
        loop {
            let piece = poll_fn(|cx| Replay { source: client, kept, position: &mut position }.poll_piece(cx));
            match piece.await {
                Ok(Piece::Data(_)) => {}
                Ok(Piece::End(_)) => return Ok(()),
                Err(broken) => return Err(of_client(broken)),
            }
        }
    }

    async fn travel(&mut self, weighted: &Weighted) -> Result<(), Ended> {
        let hash = self.affinity();
        let policy = self.job.route.retries.as_ref();
        let mut tried: Vec<EndpointId> = Vec::new();
        let asked = self.head.authority.as_ref().map(Authority::host);
        let found = self.stage.engine.look_up(&self.cluster, asked).await;
        let mut tries = 0;
        loop {
            tries += 1;
            let now = if tries == 1 { self.record.start() } else { Instant::now() };
            if tries > 1 {
                edge::count_try(self.head, tries);
            }
            // Whom a hash leads to an endpoint belongs there, also with another try.
            let ignores = self.cluster.policy.balance.hash_source().is_none()
                && policy.is_none_or(|policy| policy.ignore_previous_hosts);
            let choice = Choice {
                seed: self.stage.engine.random(),
                hash,
                session: self.session.as_ref().filter(|_| tries == 1).and_then(session::Known::mark),
                found: untried(&found, &tried),
                wanted: self.stage.site.wanted(self.stage.facts),
                tried: if ignores { &tried } else { &[] },
                remote: policy.is_some_and(|policy| policy.remote_localities),
                now,
            };
            let Some(member) = self.cluster.pick(&choice) else {
                return Err(Ended::Refused(Refusal::NoHealthyUpstream, String::new()));
            };
            tried.push(member.endpoint.id);
            self.record.upstream(&member.endpoint, tries);
            let busy = Busy::new(&member);
            let tried_out = self.attempt(&member, tries, (now, weighted)).await;
            drop(busy);
            let backoff = match tried_out {
                Ok(()) => return Ok(()),
                Err(Try::Ended(ended)) => return Err(ended),
                Err(Try::Again(backoff)) => backoff,
                Err(Try::Failed(failure, refusal, reason)) => {
                    self.note(&member, failure);
                    match self.decide(&Attempt::Failed(failure), tries) {
                        Some(backoff) => backoff,
                        None => return Err(Ended::Refused(refusal, reason)),
                    }
                }
            };
            pause(backoff, self.head, self.client).await?;
            if self.until.is_some_and(|until| until <= tokio::time::Instant::now()) {
                return Err(Ended::Refused(Refusal::Timeout, String::new()));
            }
        }
    }

    /// Whether, and when, there is another try.
    fn decide(&mut self, attempt: &Attempt, tries: u32) -> Option<Duration> {
        let policy = self.job.route.retries.as_ref()?;
        let request = retry::Request {
            idempotent: is_idempotent(&self.head.method),
            body: if self.kept.is_whole() { retry::Body::Replayable } else { retry::Body::Consumed },
            sent: !matches!(attempt, Attempt::Failed(Failure::Connect | Failure::Refused)),
            answered: false,
        };
        if self.head.leaves_http() {
            return None;
        }
        match should_retry(policy, attempt, tries, request, self.stage.engine.random()) {
            RetryDecision::Retry(backoff) => {
                let budget = self.cluster.policy.retry_budget.as_ref();
                // Given back first: a second retry of one request takes the place of its first.
                self.retry = None;
                let interval = budget.and_then(|budget| budget.interval);
                let recent = interval.map_or(0, |it| self.cluster.shared.recent_requests(it, Instant::now()));
                self.retry = self.cluster.shared.admission.retry_ticket(budget, recent).ok();
                if self.retry.is_none() {
                    self.record.flag(Flags::UO);
                }
                self.retry.is_some().then_some(backoff)
            }
            RetryDecision::Give(retry::Reason::Exhausted) => {
                self.record.flag(Flags::URX);
                None
            }
            RetryDecision::Give(_) => None,
        }
    }

    /// One try, up to the end of the answer if that is passed on.
    async fn attempt(
        &mut self,
        member: &Rc<Member>,
        tries: u32,
        (begun, weighted): (Instant, &Weighted),
    ) -> Result<(), Try> {
        let per_try = self.job.route.retries.as_ref().and_then(|policy| policy.per_try_timeout);
        let until = match (self.until, per_try.map(|limit| tokio::time::Instant::now() + limit)) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let mut server = match within(until, self.begin(member, begun)).await {
            None => return Err(self.late()),
            Some(server) => server?,
        };
        self.record.reached(server.link);
        let mut upload = Upload::new(self.head, &mut server);
        let answer = within(until, self.await_head(&mut server, &mut upload)).await;
        let answer = match answer {
            None => return Err(self.late()),
            Some(Ok(answer)) => answer,
            Some(Err(Waited::Gone(broken))) => return Err(Try::Ended(of_client(broken))),
            Some(Err(Waited::Broken(broken))) => return Err(broken_before_head(&server, &broken)),
        };
        let answered = Instant::now();
        self.judge(member, &answer, answered);
        if let Some(backoff) = self.again(&answer, tries) {
            return Err(Try::Again(backoff));
        }
        self.kept.forget();
        let mut answer = answer;
        if let Some(session) = &self.session {
            session.tell(member.endpoint.id, &mut answer.headers);
        }
        self.pass_back(
            answer,
            server,
            upload,
            (answered, answered.saturating_duration_since(begun), weighted),
        )
        .await
        .map_err(Try::Ended)
    }

    /// Begins the request at an endpoint, unless the client goes away meanwhile.
    async fn begin(&mut self, member: &Rc<Member>, begun: Instant) -> Result<Server, Try> {
        let facts = (begun, self.stage.facts);
        let client = &mut *self.client;
        tokio::select! {
            biased;
            server = self.stage.engine.begin(&self.cluster, member, self.head, facts) => {
                server.map_err(|error| not_begun(&error))
            }
            broken = poll_fn(|cx| client.poll_gone(cx)) => Err(Try::Ended(Ended::Gone(broken))),
        }
    }

    /// The head of the answer, while the request goes up.
    async fn await_head(&mut self, server: &mut Server, upload: &mut Upload) -> Result<ResponseHead, Waited> {
        let mut informed = 0;
        loop {
            let head = poll_fn(|cx| {
                if informed > 0
                    && let Poll::Ready(Err(broken)) = self.client.poll_flush(cx)
                {
                    return Poll::Ready(Err(Waited::Gone(broken)));
                }
                if let Poll::Ready(Err(broken)) = upload.poll(cx, self.client, &mut self.kept, server) {
                    return Poll::Ready(Err(Waited::Gone(broken)));
                }
                if let Poll::Ready(head) = server.poll_head(cx) {
                    return Poll::Ready(head.map_err(Waited::Broken));
                }
                if let Poll::Ready(broken) = self.client.poll_gone(cx) {
                    return Poll::Ready(Err(Waited::Gone(broken)));
                }
                Poll::Pending
            });
            let head = head.await?;
            if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
                // Whoever has nothing else to say is not listened to for ever.
                if informed < MAX_INTERIM {
                    self.client.inform(head);
                    informed += 1;
                }
                continue;
            }
            return Ok(head);
        }
    }

    /// Passes the answer back; from here on there is no other.
    async fn pass_back(
        &mut self,
        mut answer: ResponseHead,
        mut server: Server,
        mut upload: Upload,
        (answered, took, weighted): (Instant, Duration, &Weighted),
    ) -> Result<(), Ended> {
        let stage = self.stage;
        self.record.service_time(took, answered);
        edge::answer(stage, &mut answer.headers, took);
        if let Some(cookie) = self.set_cookie.take().and_then(|cookie| cookie.parse().ok()) {
            answer.headers.append(http::header::SET_COOKIE, cookie);
        }
        if !weighted.headers.response.is_empty() {
            let (record, request) = (&*self.record, &self.head.headers);
            weighted.headers.response.apply(&mut answer.headers, |name, answer| {
                record.variable(stage, name, (request, Some(answer)))
            });
        }
        if let Some(cors) = &self.job.cors {
            cors.apply(&mut answer.headers);
        }
        self.record.tell_quota(&mut answer.headers);
        self.record.answered(answer.status, &answer.headers);
        let leaves = leaves_http(self.head, &answer);
        if leaves {
            answer.framing = Framing::None;
            self.client.leave_http(answer).map_err(Ended::Gone)?;
            server.leave_http();
            upload = Upload::raw();
        } else {
            self.client.respond(answer).map_err(Ended::Gone)?;
        }
        let result = self.stream(&mut server, &mut upload).await;
        if result.is_ok() {
            server.release(&self.cluster, self.client.spare(), answered);
        }
        result
    }

    /// Both bodies, until the answer has ended.
    async fn stream(&mut self, server: &mut Server, upload: &mut Upload) -> Result<(), Ended> {
        let mut download = Flow::default();
        let mut idle = Deadline::default();
        let mut overall = self.until.map(|until| Box::pin(tokio::time::sleep_until(until)));
        let tunnels = upload.is_raw();
        poll_fn(|cx| {
            let up = upload.poll(cx, self.client, &mut self.kept, server);
            if let Poll::Ready(Err(broken)) = up {
                return Poll::Ready(Err(Ended::Gone(broken)));
            }
            let mut moved = false;
            let record = &mut *self.record;
            let down = download.poll(cx, server, self.client, |piece| {
                moved = true;
                record.piece(piece);
            });
            match down {
                Poll::Ready(Ok(())) if !tunnels || upload.is_done() => return Poll::Ready(Ok(())),
                Poll::Ready(Err(Either::Sink(broken))) => return Poll::Ready(Err(Ended::Gone(broken))),
                Poll::Ready(Err(Either::Body(broken))) => return Poll::Ready(Err(Ended::Cut(broken))),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            if moved || !idle.is_set() {
                idle.set(Some(STREAM_IDLE));
            }
            let late = overall.as_mut().is_some_and(|it| it.as_mut().poll(cx).is_ready());
            if !tunnels && late {
                return Poll::Ready(Err(Ended::Cut(Broken::Overdue)));
            }
            if !tunnels && idle.poll(cx).is_ready() {
                return Poll::Ready(Err(Ended::Cut(Broken::TimedOut("in the body of the response"))));
            }
            Poll::Pending
        })
        .await
    }

    /// What the answer says about the endpoint.
    fn judge(&self, member: &Member, answer: &ResponseHead, now: Instant) {
        let grpc = grpc_status(&answer.headers);
        let outcome = grpc.map_or(Outcome::Status(answer.status.as_u16()), Outcome::grpc);
        self.cluster.record(member.endpoint.id, outcome, now);
    }

    fn note(&self, member: &Member, failure: Failure) {
        let outcome = match failure {
            Failure::Connect => Outcome::ConnectFailure,
            Failure::PerTryTimeout => Outcome::Timeout,
            Failure::Refused | Failure::Stale | Failure::Overflow | Failure::NoEndpoint => return,
            Failure::Reset => Outcome::Reset,
        };
        self.cluster.record(member.endpoint.id, outcome, Instant::now());
    }

    /// Whether the rule wants another answer than this, and when.
    fn again(&mut self, answer: &ResponseHead, tries: u32) -> Option<Duration> {
        let status = answer.status.as_u16();
        if status < 400 && !answer.headers.contains_key(GRPC_STATUS) && self.retriable.is_empty() {
            return None;
        }
        let grpc_status = grpc_status(&answer.headers);
        let rate_limited = answer.headers.contains_key("x-envoy-ratelimited");
        let retriable_header = self.retriable.iter().any(|name| answer.headers.contains_key(name));
        let facts = Answer { status, grpc_status, rate_limited, retriable_header };
        self.decide(&Attempt::Answer(facts), tries)
    }

    fn late(&mut self) -> Try {
        let whole = self.until.is_some_and(|until| until <= tokio::time::Instant::now());
        if whole {
            return Try::Ended(Ended::Refused(Refusal::Timeout, String::new()));
        }
        Try::Failed(Failure::PerTryTimeout, Refusal::Timeout, String::new())
    }

    /// Where the request belongs, with consistent hashing.
    fn affinity(&mut self) -> Option<u64> {
        let source = self.cluster.policy.balance.hash_source()?;
        let input = Hashed { head: self.head, ip: self.head.client.unwrap_or(self.stage.facts.peer.ip()) };
        match hash_key(source, &input) {
            Affinity::Hash(hash) => Some(hash),
            Affinity::None => None,
            Affinity::Issue => match source {
                mesh_core::balance::HashSource::Cookie(cookie) => {
                    let issued = cookie.issue(self.stage.engine.random());
                    self.set_cookie = Some(issued.set_cookie);
                    Some(issued.hash)
                }
                _ => None,
            },
        }
    }
}

enum Waited {
    Gone(Broken),
    Broken(Broken),
}

/// What becomes of a request that its client has broken, before there is an answer.
fn of_client(broken: Broken) -> Ended {
    match broken {
        Broken::TimedOut(what) => Ended::Refused(Refusal::Timeout, what.to_owned()),
        Broken::TooLong => Ended::Refused(Refusal::BodyTooLong, broken.to_string()),
        broken => Ended::Gone(broken),
    }
}

fn leaves_http(head: &RequestHead, answer: &ResponseHead) -> bool {
    answer.status == StatusCode::SWITCHING_PROTOCOLS
        || (head.leaves_http() && answer.status.is_success() && head.framing == Framing::None)
            && (head.method == http::Method::CONNECT || answer.upgrade.is_some() || is_extended(answer))
}

/// An HTTP/2 server says 200 to what is a 101 elsewhere.
fn is_extended(answer: &ResponseHead) -> bool {
    answer.status == StatusCode::OK && answer.framing == Framing::Chunked
}

fn not_begun(error: &BeginError) -> Try {
    let reason = error.to_string();
    match error {
        BeginError::Overflow(_) => Try::Failed(Failure::Overflow, Refusal::Overflow, reason),
        BeginError::Dial(DialError::Connect(_)) => {
            Try::Failed(Failure::Connect, Refusal::ConnectFailure, reason)
        }
        BeginError::Dial(DialError::Tls(_)) => Try::Failed(Failure::Connect, Refusal::TlsFailure, reason),
        BeginError::Dial(DialError::Denied(_)) => Try::Ended(Ended::Refused(Refusal::ConnectFailure, reason)),
        BeginError::Broken(_) => Try::Failed(Failure::Refused, Refusal::ConnectFailure, reason),
    }
}

fn broken_before_head(server: &Server, broken: &Broken) -> Try {
    let reason = broken.to_string();
    let stale = server.reused && server.is_unheard();
    match broken {
        Broken::Reset(h2::Reason::REFUSED_STREAM) => {
            Try::Failed(Failure::Refused, Refusal::RemoteReset, reason)
        }
        Broken::Reset(_) => Try::Failed(Failure::Reset, Refusal::RemoteReset, reason),
        Broken::Refused(_) | Broken::Protocol(_) => {
            server.retire();
            Try::Failed(Failure::Reset, Refusal::ProtocolError, reason)
        }
        _ if stale => Try::Failed(Failure::Stale, Refusal::Terminated, reason),
        _ => {
            server.retire();
            Try::Failed(Failure::Reset, Refusal::Terminated, reason)
        }
    }
}

async fn within<T>(until: Option<tokio::time::Instant>, work: impl Future<Output = T>) -> Option<T> {
    match until {
        None => Some(work.await),
        Some(until) => tokio::time::timeout_at(until, work).await.ok(),
    }
}

/// Interim answers that are passed on; nobody sends more than a few.
const MAX_INTERIM: u32 = 16;
/// How long an answer may stand still: Envoy's default for streams.
const STREAM_IDLE: Duration = Duration::from_secs(300);
