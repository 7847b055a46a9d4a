//! Connections of clients: which HTTP they speak, one request after the other, or many at once.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio_util::io::poll_read_buf;

use super::down::h1::{H1Downstream, Timeouts};
use super::down::h2::H2Downstream;
use super::engine::Engine;
use super::exchange::{self, Stage};
use super::h1::{Limits, Underscores, looks_like_h2_preface};
use super::io::Io;
use super::message::{Broken, RequestHead, Version};
use super::record::Record;
use super::reply::{Refusal, Reply};
use super::site::{Facts, Site};
use super::transfer::{Downstream, Sink};
use crate::run::{drain::Drain, tasks};

/// A connection to serve.
pub struct Connection {
    /// Its bytes.
    pub io: Io,
    /// What was read of it already.
    pub input: BytesMut,
    /// What is known of it.
    pub facts: Facts,
    /// The listener.
    pub site: Rc<dyn Site>,
    /// What TLS has agreed on; without it the first bytes tell.
    pub protocol: Option<Protocol>,
}

/// A version of HTTP, as far as a connection has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Serves a connection to its end.
pub async fn connection(engine: Rc<Engine>, mut connection: Connection, drain: Drain) {
    let protocol = if let Some(protocol) = connection.protocol {
        protocol
    } else {
        let Ok(Some(protocol)) = tokio::time::timeout(HEAD, sniff(&mut connection)).await else { return };
        protocol
    };
    match protocol {
        Protocol::Http1 => http1(engine, connection, drain).await,
        Protocol::Http2 => http2(engine, connection, drain).await,
    }
}

/// Reads until the bytes tell; `None` if none comes.
async fn sniff(connection: &mut Connection) -> Option<Protocol> {
    loop {
        match looks_like_h2_preface(&connection.input) {
            Some(true) => return Some(Protocol::Http2),
            Some(false) => return Some(Protocol::Http1),
            None => {}
        }
        connection.input.reserve(FIRST_READ);
        let (io, input) = (&mut connection.io, &mut connection.input);
        let read = poll_fn(|cx| poll_read_buf(std::pin::Pin::new(&mut *io), cx, input)).await;
        if read.unwrap_or(0) == 0 {
            return None;
        }
    }
}

async fn http1(engine: Rc<Engine>, connection: Connection, drain: Drain) {
    let Connection { io, input, facts, site, .. } = connection;
    let mut client = H1Downstream::new(io, input, facts.secure, limits_of(&*site), timeouts_of(&*site));
    client.close_with(drain.clone());
    let stage = Stage { engine: &engine, site: &*site, facts: &facts };
    let mut first = true;
    let mut graceful = std::pin::pin!(drain.graceful());
    loop {
        let request = tokio::select! {
            biased;
            request = poll_fn(|cx| client.poll_request(cx)) => request,
            () = &mut graceful, if !first => return client.close().await,
        };
        first = false;
        match request {
            Ok(Some(head)) => {
                let (headers, ended) = exchange::serve(&stage, head, &mut client).await;
                client.reuse(headers);
                if client.is_cut() {
                    return client.abort();
                }
                if !client.is_reusable() {
                    return client.close().await;
                }
                client.rest(ended);
            }
            Ok(None) => return client.close().await,
            Err(broken) => return refuse(&stage, client, &broken).await,
        }
    }
}

fn limits_of(site: &dyn Site) -> Limits {
    let underscores = if site.is_edge() { Underscores::Refuse } else { Underscores::DropTwins };
    Limits { underscores, ..Limits::default() }
}

fn timeouts_of(site: &dyn Site) -> Timeouts {
    if site.is_edge() { EDGE_TIMEOUTS } else { TIMEOUTS }
}

/// Answers what is no request, as far as it can be answered.
async fn refuse(stage: &Stage<'_>, mut client: H1Downstream, broken: &Broken) {
    let refusal = match broken {
        Broken::Refused(refused) => Refusal::BadRequest(refused.status()),
        Broken::TimedOut(_) => Refusal::RequestTimeout,
        _ => return,
    };
    client.close_after();
    let reply = refused(stage, refusal, &broken.to_string(), Version::Http11);
    let answered =
        client.respond(reply.head).and_then(|()| client.push(reply.body)).and_then(|()| client.end(None));
    if answered.is_ok() {
        client.close().await;
    }
}

/// The answer to what is no request; it is counted and logged like any other.
fn refused(stage: &Stage<'_>, refusal: Refusal, reason: &str, version: Version) -> Reply {
    stage.engine.reporter.count(crate::report::Event::GarbageRequest);
    let mut reply = Reply::refuse(refusal, false);
    super::edge::answer_alone(stage, &mut reply.head.headers);
    let head = RequestHead::unread(version, stage.facts.secure);
    let mut record = Record::begin(stage, &head);
    record.refused(refusal, reason);
    record.answered(reply.head.status, &reply.head.headers);
    record.sent(reply.body.len());
    record.finish(stage, &head);
    reply
}

async fn http2(engine: Rc<Engine>, connection: Connection, drain: Drain) {
    let Connection { io, input, facts, site, .. } = connection;
    let handshake = h2_settings().handshake::<_, Bytes>(io.with_prefix(input.freeze()));
    let Ok(Ok(mut connection)) = tokio::time::timeout(HEAD, handshake).await else { return };
    let facts = Rc::new(facts);
    let (secure, limits) = (facts.secure, limits_of(&*site));
    let requests = Cell::new(0);
    // Each request holds the facts.
    let mut idle = std::pin::pin!(idle(&requests, || Rc::strong_count(&facts) > 1));
    let mut draining = false;
    loop {
        let ends = async {
            tokio::select! {
                () = drain.graceful() => {}
                () = &mut idle => {}
            }
        };
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = ends, if !draining => {
                draining = true;
                connection.graceful_shutdown();
                continue;
            }
            () = drain.forced() => return,
        };
        requests.set(requests.get() + 1);
        let (request, respond) = match accepted {
            Some(Ok(accepted)) => accepted,
            Some(Err(error)) => {
                tracing::debug!(peer = %facts.peer, %error, "An HTTP/2 connection broke.");
                return;
            }
            None => return,
        };
        let (mut client, head) = H2Downstream::accept(request, respond, (secure, &limits, TIMEOUTS.body));
        let (engine, site, facts) = (Rc::clone(&engine), Rc::clone(&site), Rc::clone(&facts));
        tasks::spawn_local("request", async move {
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
        });
    }
}

fn h2_settings() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_concurrent_reset_streams(PENDING_RESETS)
        .enable_connect_protocol();
    builder
}

/// Resolves when a connection has had no request for as long as it may.
async fn idle(requests: &Cell<u64>, busy: impl Fn() -> bool) {
    let (mut before, mut quiet) = (requests.get(), Duration::ZERO);
    while quiet < TIMEOUTS.idle {
        tokio::time::sleep(IDLE_LOOK).await;
        let now = requests.get();
        quiet = if now == before && !busy() { quiet + IDLE_LOOK } else { Duration::ZERO };
        before = now;
    }
}

/// How long a client may take for the head of its first request, or for the handshake of HTTP/2.
const HEAD: Duration = Duration::from_secs(10);
/// What clients of the mesh get, who are known.
const TIMEOUTS: Timeouts = Timeouts {
    head: HEAD,
    idle: Duration::from_secs(3600),
    body: Duration::from_secs(300),
    enough: 1,
    answer: Duration::from_secs(300),
};
/// What strangers get: a body comes with 240 bytes a second at least.
const EDGE_TIMEOUTS: Timeouts = Timeouts { body: Duration::from_secs(60), enough: 240 * 60, ..TIMEOUTS };
/// How often it is looked whether a connection of HTTP/2 has requests.
const IDLE_LOOK: Duration = Duration::from_secs(60);
const FIRST_READ: usize = 8 << 10;
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
