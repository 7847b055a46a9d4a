//! The server's end of a tunnel.

use std::pin::pin;

use http::{HeaderMap, HeaderValue};

use super::super::ServeError;
use super::super::pool::{BAGGAGE, FORWARDED, TRACEPARENT};
use super::super::serve::{Answer, Caller, Server};
use super::{Fault, Link, Open, Rc, Side, StatusCode, Stream, TlsStream};

/// Serves one tunnel until it ends.
pub(crate) async fn serve(server: &Server, tls: TlsStream, caller: Caller) -> Result<(), ServeError> {
    let (link, driver) = Link::new(Side::Server, tls);
    let spent = tokio::sync::Notify::new();
    let driven = driver.run(|(id, open)| {
        if caller.resets.is_spent() {
            return spent.notify_one();
        }
        begin(server, &caller, Stream::new(Rc::clone(&link), id), open);
    });
    tokio::select! {
        result = driven => result.map_err(ServeError::from),
        () = spent.notified() => Err(ServeError::ResetFlood),
        () = leaving(server, &caller, &link) => Ok(()),
        () = link.silence() => Err(ServeError::PeerDead),
        () = server.drain.forced() => Err(ServeError::Forced),
    }
}

/// Says goodbye when it is time; resolves when the peer has had the time to go and has not.
async fn leaving(server: &Server, caller: &Caller, link: &Link) {
    let mut leave = pin!(server.leave(&caller.peer));
    let mut idle_for_a_while = pin!(async {
        loop {
            tokio::time::sleep(server.limits.idle).await;
            if link.is_empty() {
                return;
            }
        }
    });
    tokio::select! {
        () = &mut leave => {}
        () = &mut idle_for_a_while => {}
    }
    link.leave();
    loop {
        tokio::time::sleep(PARTING).await;
        if link.is_empty() {
            return;
        }
    }
}

/// Checks a request and hands it on.
fn begin(server: &Server, caller: &Caller, stream: Stream, open: &[u8]) {
    if let Ok(open) = Open::parse(open) {
        return server.hand_on(caller, open.authority, claims(&open), Answer::Mux(stream));
    }
    (server.on_refused)("bad_authority");
    // If the stream is gone already, nobody is waiting for the answer.
    let _ = stream.reject(StatusCode::BAD_REQUEST);
}

/// What it claims, in HBONE's words.
fn claims(open: &Open<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in
        [(FORWARDED, open.forwarded), (BAGGAGE, open.baggage), (TRACEPARENT, open.traceparent)]
    {
        if let Some(value) = value.and_then(|it| HeaderValue::from_bytes(it).ok()) {
            headers.insert(name, value);
        }
    }
    headers
}

impl From<Fault> for ServeError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Lost(error) => Self::Lost(error),
            Fault::Protocol(why) => Self::Protocol(why),
            Fault::Flood => Self::Flood,
        }
    }
}

/// How long a peer that was told to go may take to hang up when nothing is left.
const PARTING: std::time::Duration = std::time::Duration::from_millis(500);
