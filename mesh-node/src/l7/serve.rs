//! Connections of clients: which HTTP they speak, one request after the other, or many at once.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mesh_core::limit::{self, Each};
use tokio_util::io::poll_read_buf;

use super::down::h1::{H1Downstream, Timeouts};
use super::engine::Engine;
use super::exchange::{self, Stage};
use super::h1::{Limits, Underscores, looks_like_h2_preface};
use super::io::Io;
use super::message::{Broken, RequestHead, Version};
use super::record::Record;
use super::reply::{Refusal, Reply};
use super::site::{Facts, Site};
use super::transfer::{Downstream, Sink};
use crate::run::drain::Drain;

mod multiplexed;

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
        Protocol::Http2 => multiplexed::http2(engine, connection, drain).await,
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
    let each = limit::each(&engine.door());
    let timeouts = timeouts_of(&*site, &each);
    let mut client = H1Downstream::new(io, input, facts.secure, limits_of(&*site), timeouts);
    let until = each.duration.map(|life| Instant::now() + life);
    client.close_with(drain.clone());
    client.end_after(each.requests, until);
    let stage = Stage { engine: &engine, site: &*site, facts: &facts };
    let mut first = true;
    let mut ends = std::pin::pin!(ends(&drain, until));
    loop {
        let request = tokio::select! {
            biased;
            request = poll_fn(|cx| client.poll_request(cx)) => request,
            () = &mut ends, if !first => return client.close().await,
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

fn timeouts_of(site: &dyn Site, each: &Each) -> Timeouts {
    let timeouts = if site.is_edge() { EDGE_TIMEOUTS } else { TIMEOUTS };
    Timeouts { idle: each.idle.unwrap_or(timeouts.idle), ..timeouts }
}

/// Resolves when a connection should have no further request.
async fn ends(drain: &Drain, until: Option<Instant>) {
    match until {
        None => drain.graceful().await,
        Some(until) => tokio::select! {
            () = drain.graceful() => {}
            () = tokio::time::sleep_until(until.into()) => {}
        },
    }
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
const FIRST_READ: usize = 8 << 10;
