//! An engine that answers every request with 404 and carries no bytes: what there is until there is a better one.

use std::rc::Rc;

use http::{Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::accepted::{Accepted, Alpn, HttpConnection, Serve, Thread};
use crate::l7::io::Io;

/// See the module.
pub(super) fn engine(_: &Thread) -> Serve {
    Rc::new(|accepted| {
        Box::pin(async move {
            let Accepted::Http(connection) = accepted else { return };
            let HttpConnection { io, alpn, drain, .. } = connection;
            tokio::select! {
                () = serve(io, alpn) => {}
                () = drain.graceful() => {}
            }
        })
    })
}

async fn serve(io: Io, alpn: Option<Alpn>) {
    if alpn == Some(Alpn::H2) {
        return serve_h2(io).await;
    }
    let answer = |_| async {
        let mut answer = Response::new(Empty::<Bytes>::new());
        *answer.status_mut() = StatusCode::NOT_FOUND;
        Ok::<_, std::convert::Infallible>(answer)
    };
    // What goes wrong is the client's own affair.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(io), service_fn(answer)).await;
}

async fn serve_h2(io: Io) {
    let Ok(mut connection) = h2::server::handshake(io).await else { return };
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let mut answer = Response::new(());
        *answer.status_mut() = StatusCode::NOT_FOUND;
        // A client that is gone needs no answer.
        let _ = respond.send_response(answer, true);
    }
}
