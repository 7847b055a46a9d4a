//! Connections of HTTP/2: many requests at once, and what their clients may do besides.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mesh_core::http::frames::ResetBudget;
use mesh_core::limit;

use super::{Connection, HEAD, TIMEOUTS, ends, limits_of, refused};
use crate::frames::{Guarded, Watch, dismiss};
use crate::l7::down::h2::H2Downstream;
use crate::l7::engine::Engine;
use crate::l7::exchange::{self, Stage};
use crate::l7::message::Version;
use crate::l7::reply::Refusal;
use crate::l7::site::{Facts, Site};
use crate::l7::transfer::{Downstream, Sink};
use crate::report::Event;
use crate::run::{drain::Drain, tasks};

/// What the requests of a connection share.
#[derive(Clone)]
struct Shared {
    engine: Rc<Engine>,
    site: Rc<dyn Site>,
    facts: Rc<Facts>,
    watch: Watch,
}

pub(super) async fn http2(engine: Rc<Engine>, connection: Connection, drain: Drain) {
    let Connection { io, input, facts, site, .. } = connection;
    let (io, watch) = Guarded::server(io.with_prefix(input.freeze()));
    let each = limit::each(&engine.door());
    let streams = each.streams.unwrap_or(STREAMS);
    let handshake = settings(streams).handshake::<_, Bytes>(io);
    let Ok(Ok(mut connection)) = tokio::time::timeout(HEAD, handshake).await else { return };
    let until = each.duration.map(|life| Instant::now() + life);
    let shared = Shared { engine, site, facts: Rc::new(facts), watch };
    let requests = Cell::new(0);
    // Each request holds the facts.
    let busy = || Rc::strong_count(&shared.facts) > 1;
    let mut idle = std::pin::pin!(idle(&requests, each.idle.unwrap_or(TIMEOUTS.idle), busy));
    let mut ends = std::pin::pin!(ends(&drain, until));
    let last = each.requests.map(u64::from);
    let mut draining = false;
    loop {
        let over = async {
            tokio::select! {
                () = &mut ends => {}
                () = &mut idle => {}
            }
        };
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = over, if !draining => {
                draining = true;
                connection.graceful_shutdown();
                continue;
            }
            () = shared.watch.enough() => {
                shared.misbehaves("It sends too much besides requests, or takes too many back.");
                return dismiss(&mut connection).await;
            }
            () = drain.forced() => return,
        };
        requests.set(requests.get() + 1);
        match last {
            // Those that are on their way when it is told to go are all that an honest client still sends.
            Some(last) if requests.get() > last + u64::from(streams) => {
                shared.misbehaves("It goes on with requests although it was told to go.");
                return dismiss(&mut connection).await;
            }
            Some(last) if requests.get() >= last && !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
            _ => {}
        }
        match accepted {
            Some(Ok((request, respond))) => {
                tasks::spawn_local("request", serve(shared.clone(), request, respond));
            }
            Some(Err(error)) if error.is_library() => return shared.misbehaves(&error.to_string()),
            Some(Err(error)) => {
                tracing::debug!(peer = %shared.facts.peer, %error, "An HTTP/2 connection broke.");
                return;
            }
            None => return,
        }
    }
}

impl Shared {
    fn misbehaves(&self, reason: &str) {
        self.engine.reporter.count(Event::GarbageProtocol);
        tracing::debug!(peer = %self.facts.peer, reason, "A client was sent away that does not keep to HTTP/2.");
    }
}

async fn serve(
    shared: Shared,
    request: http::Request<h2::RecvStream>,
    respond: h2::server::SendResponse<Bytes>,
) {
    let Shared { engine, site, facts, watch } = shared;
    let (begun, limits) = (Instant::now(), limits_of(&*site));
    let (mut client, head) = H2Downstream::accept(request, respond, (facts.secure, &limits, TIMEOUTS.body));
    let stage = Stage { engine: &engine, site: &*site, facts: &facts };
    match head {
        Ok(head) => drop(exchange::serve(&stage, head, &mut client).await),
        Err(reason) => {
            let refusal = Refusal::BadRequest(reason.status());
            let reply = refused(&stage, refusal, reason.as_str(), Version::Http2);
            let answered = client.respond(reply.head).and_then(|()| client.push(reply.body));
            // A client that is gone needs no answer.
            let _ = answered.and_then(|()| client.end(None));
        }
    }
    watch.request_ended(client.is_taken_back() && begun.elapsed() < ResetBudget::EARLY);
}

fn settings(streams: u32) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(streams)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_concurrent_reset_streams(PENDING_RESETS)
        .enable_connect_protocol();
    builder
}

/// Resolves when a connection has had no request for `limit`.
async fn idle(requests: &Cell<u64>, limit: Duration, busy: impl Fn() -> bool) {
    let look = IDLE_LOOK.min(limit / 4);
    let (mut before, mut quiet) = (requests.get(), Duration::ZERO);
    while quiet < limit {
        tokio::time::sleep(look).await;
        let now = requests.get();
        quiet = if now == before && !busy() { quiet + look } else { Duration::ZERO };
        before = now;
    }
}

/// How often it is looked at least whether a connection of HTTP/2 has requests.
const IDLE_LOOK: Duration = Duration::from_secs(60);
/// Unread bytes of one request.
const WINDOW: u32 = 256 << 10;
/// Unread bytes of all requests of a connection.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Requests at a time on one connection: what RFC 9113 asks for at least.
const STREAMS: u32 = 100;
/// Bytes of the head of a request, by the measure of HTTP/2; the same as for HTTP/1.
const MAX_HEADERS: u32 = 60 << 10;
/// Bytes of one response that wait in HTTP/2 for the socket.
const SEND_BUFFER: usize = 256 << 10;
/// Streams that a client has reset and that are still known; more at once is an attack (CVE-2023-44487).
const PENDING_RESETS: usize = 50;
