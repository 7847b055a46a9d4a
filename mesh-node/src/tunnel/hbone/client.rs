//! The client's end of an HTTP/2 connection.

use std::cell::RefCell;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, Reason};
use http::{Method, Request, Version};

use super::super::client::{Timing, Tunnel};
use super::super::{Carrier, ConnectRequest, OpenError, Stage};
use super::{
    CONNECTION_WINDOW, FRAME, MAX_PEER_ERRORS, REMEMBERED_FOR, REMEMBERED_RESETS, SEND_BUFFER, STREAM_WINDOW,
    Stream, silence,
};
use crate::frames::Guarded;
use crate::tls::TlsStream;

/// What must be driven.
pub(crate) type Connection = h2::client::Connection<Guarded<TlsStream>, Bytes>;

/// Starts HTTP/2 on a TLS connection.
pub(crate) async fn start(tls: TlsStream) -> Result<(SendRequest<Bytes>, Connection), OpenError> {
    let (io, _) = Guarded::client(tls);
    let started = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(MAX_RESPONSE_HEADERS)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .reset_stream_duration(REMEMBERED_FOR)
        .max_local_error_reset_streams(Some(MAX_PEER_ERRORS))
        .enable_push(false)
        .handshake(io)
        .await;
    started.map_err(|error| OpenError::H2Handshake(error.to_string().into()))
}

/// Sends CONNECT and waits for the answer.
pub(crate) async fn connect(
    tunnel: &Tunnel,
    sender: &RefCell<Option<SendRequest<Bytes>>>,
    request: &ConnectRequest,
) -> Result<Carrier, OpenError> {
    let sender = sender.borrow().clone();
    let Some(sender) = sender else {
        return Err(OpenError::TunnelLost("it was retired".into()));
    };
    let mut sender = sender.ready().await.map_err(|e| lost(tunnel, &e))?;
    let (response, send) = sender.send_request(head(request), false).map_err(|e| lost(tunnel, &e))?;
    // A clone that lives on would keep a retired tunnel from ending.
    drop(sender);
    let response = response.await.map_err(|e| lost(tunnel, &e))?;
    if !response.status().is_success() {
        return Err(OpenError::Refused { status: response.status() });
    }
    Ok(Carrier::Hbone(Stream::new(send, response.into_body())))
}

/// Sorts an error before the answer; one that concerns the whole tunnel retires it.
fn lost(tunnel: &Tunnel, error: &h2::Error) -> OpenError {
    match error.reason() {
        Some(Reason::REFUSED_STREAM) if error.is_reset() && error.is_remote() => OpenError::NotTaken,
        Some(reason) if error.is_reset() && error.is_remote() => OpenError::Reset(reason.to_string().into()),
        _ => {
            tunnel.retire();
            let text = error.to_string().into();
            if tunnel.settled.get() { OpenError::TunnelLost(text) } else { OpenError::H2Handshake(text) }
        }
    }
}

/// Runs a connection to its end. `settled` is called once: when the peer's settings are in, or with the reason why they
/// never will be.
pub(crate) async fn drive(
    tunnel: &Tunnel,
    mut connection: Connection,
    timing: Timing,
    settled: impl FnOnce(Result<(), OpenError>),
) {
    let mut pings = connection.ping_pong().expect("taken once per connection");
    let mut connection = std::pin::pin!(connection);

    // The answer to a ping comes after the peer's settings, whatever else it does meanwhile.
    let first = tokio::select! {
        ended = connection.as_mut() => {
            let why = ended.err().map_or_else(|| "it was closed".to_owned(), |e| e.to_string());
            Err(OpenError::H2Handshake(why.into()))
        }
        answer = tokio::time::timeout(timing.settle, pings.ping(Ping::opaque())) => match answer {
            Err(_) => Err(OpenError::Deadline(Stage::H2Handshake)),
            Ok(Err(e)) => Err(OpenError::H2Handshake(e.to_string().into())),
            Ok(Ok(_)) if tunnel.peer_limit() == 0 => Err(OpenError::H2Handshake("no streams allowed".into())),
            Ok(Ok(_)) => Ok(()),
        },
    };
    let failed = first.is_err();
    tunnel.settled.set(!failed);
    if failed {
        tunnel.retire();
    }
    settled(first);
    if failed {
        return;
    }

    let until_unused = async {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = tunnel.unused(timing.idle) => tunnel.retire(),
        }
        // Ends with the last stream. How is each stream's own business.
        let _ = connection.as_mut().await;
    };
    tokio::select! {
        () = until_unused => {}
        () = silence(pings) => tracing::debug!(identity = %tunnel.svid.id(), "Tunnel peer no longer answers."),
    }
}

fn head(request: &ConnectRequest) -> Request<()> {
    let uri = http::Uri::builder()
        .authority(request.authority.to_string())
        .build()
        .expect("an address and a port are an authority");
    let mut head = Request::new(());
    *head.method_mut() = Method::CONNECT;
    *head.version_mut() = Version::HTTP_2;
    *head.uri_mut() = uri;
    for (name, value) in request.claims() {
        if let Some(value) = value {
            head.headers_mut().insert(name, value.clone());
        }
    }
    head
}

/// Bytes of a response's headers, decoded.
const MAX_RESPONSE_HEADERS: u32 = 16 << 10;
