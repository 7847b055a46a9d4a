//! The server's end of an HTTP/2 connection.

use std::pin::pin;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::{Method, Request, Response, StatusCode};
use mesh_core::net::authority::parse_connect_authority;
use tokio::time::Instant;

use super::super::serve::{self, Caller, Server};
use super::super::{ServeError, StreamError};
use super::{
    CONNECTION_WINDOW, FRAME, MAX_PEER_ERRORS, REMEMBERED_FOR, REMEMBERED_RESETS, SEND_BUFFER, STREAM_WINDOW,
    Stream, silence,
};
use crate::frames::{Guarded, dismiss};
use crate::tls::TlsStream;

/// Serves one tunnel until it ends.
pub(crate) async fn serve(server: &Server, tls: TlsStream, caller: Caller) -> Result<(), ServeError> {
    let (io, watch) = Guarded::server(tls);
    let handshake = tokio::time::timeout(server.limits.preface, builder(server).handshake(io));
    let mut conn = match handshake.await {
        Err(_) => return Err(ServeError::PrefaceDeadline),
        Ok(Err(e)) => return Err(ServeError::Handshake(e)),
        Ok(Ok(conn)) => conn,
    };
    let pings = conn.ping_pong().expect("taken once per connection");
    let result = tokio::select! {
        result = streams(server, &mut conn, &caller) => result,
        () = watch.enough() => Err(ServeError::Flood),
        () = silence(pings) => Err(ServeError::PeerDead),
        () = server.drain.forced() => Err(ServeError::Forced),
    };
    if matches!(result, Err(ServeError::Flood | ServeError::ResetFlood)) {
        dismiss(&mut conn).await;
    }
    result
}

fn builder(server: &Server) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(server.limits.streams)
        .max_header_list_size(server.limits.header_list)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .reset_stream_duration(REMEMBERED_FOR)
        .max_local_error_reset_streams(Some(MAX_PEER_ERRORS));
    builder
}

async fn streams(
    server: &Server,
    conn: &mut Connection<Guarded<TlsStream>, Bytes>,
    caller: &Caller,
) -> Result<(), ServeError> {
    let mut idle = pin!(tokio::time::sleep(server.limits.idle));
    let mut leave = pin!(server.leave(&caller.peer));
    let mut leaving = false;
    loop {
        let mut leave_now = false;
        tokio::select! {
            next = conn.accept() => match next {
                None => return Ok(()),
                // Many peers hang up without a goodbye; if nothing was under way, nothing was lost.
                Some(Err(e)) if e.is_io() && !conn.has_streams() => return Ok(()),
                Some(Err(e)) => return Err(ServeError::Connection(e)),
                Some(Ok(_)) if caller.resets.is_spent() => return Err(ServeError::ResetFlood),
                Some(Ok((request, respond))) => begin(server, request, respond, caller),
            },
            () = &mut leave, if !leaving => leave_now = true,
            () = &mut idle, if !leaving => {
                leave_now = !conn.has_streams();
                idle.as_mut().reset(Instant::now() + server.limits.idle);
            }
        }
        if leave_now {
            leaving = true;
            conn.graceful_shutdown();
        }
    }
}

/// Checks a request and hands it on.
fn begin(server: &Server, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, caller: &Caller) {
    let (head, recv) = request.into_parts();
    let target = match head.uri.authority() {
        _ if head.method != Method::CONNECT => Err("not_connect"),
        Some(authority) => parse_connect_authority(authority.as_str()).map_err(|_| "bad_authority"),
        None => Err("bad_authority"),
    };
    match target {
        Ok(authority) => {
            let answer = serve::Answer::Hbone(Answer { respond, recv });
            server.hand_on(caller, authority, head.headers, answer);
        }
        Err(reason) => {
            (server.on_refused)(reason);
            // If the stream is gone already, nobody is waiting for the answer.
            let _ = respond.send_response(status(StatusCode::BAD_REQUEST), true);
        }
    }
}

/// A request that waits for its answer.
pub(crate) struct Answer {
    respond: SendResponse<Bytes>,
    recv: RecvStream,
}

impl Answer {
    pub(crate) fn accept(mut self) -> Result<Stream, StreamError> {
        let send = self.respond.send_response(status(StatusCode::OK), false)?;
        Ok(Stream::new(send, self.recv))
    }

    pub(crate) fn reject(mut self, code: StatusCode) -> Result<(), StreamError> {
        self.respond.send_response(status(code), true)?;
        Ok(())
    }

    /// Resolves when the peer gives up.
    pub(crate) async fn gone(&mut self) {
        let _ = std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }
}

fn status(code: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = code;
    response
}
