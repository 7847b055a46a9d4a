//! The admission webhook: reviews come in over HTTPS, answers go out. What is no review is a bad request, and what takes
//! too long or is too large is given up.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::admission;
use crate::hub::Hub;
use crate::listen::{self, Stream, Tls};
use crate::tasks;
use crate::tls::Serving;

/// Answers for ever, with the certificate that `serving` has at the moment; `hub` counts the answers.
pub(super) async fn serve(listener: TcpListener, serving: Arc<Serving>, hub: Arc<Hub>) {
    let tls: Tls = Arc::new(move || tls(&serving.config()));
    let mut connections = listen::accept(listener, Some(tls));
    let reviews = Arc::new(Reviews { places: Semaphore::new(AT_ONCE), hub });
    while let Some(connection) = connections.recv().await {
        let Ok(stream) = connection else { continue };
        drop(tasks::spawn("webhook connection", converse(stream, Arc::clone(&reviews))));
    }
}

/// The certificate and key of `discovery`, for clients that speak HTTP/1.1 and show no certificate: an API server may
/// have one, but not one of ours.
fn tls(discovery: &Arc<ServerConfig>) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions();
    let mut config = match config {
        Ok(config) => config.with_no_client_auth().with_cert_resolver(Arc::clone(&discovery.cert_resolver)),
        // It cannot be: `discovery` was made with the same provider and versions.
        Err(_) => return Arc::clone(discovery),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Room for reviews, and where they are counted.
struct Reviews {
    places: Semaphore,
    hub: Arc<Hub>,
}

async fn converse(stream: Stream, reviews: Arc<Reviews>) {
    let service = service_fn(move |request| {
        let reviews = Arc::clone(&reviews);
        async move {
            let answered = timeout(DEADLINE, answer(request, &reviews)).await;
            let late = || text(StatusCode::GATEWAY_TIMEOUT, "the review took too long");
            Ok::<_, Infallible>(answered.unwrap_or_else(|_| late()))
        }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(IDLE);
    // A client that goes away has lost nothing.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, reviews: &Reviews) -> Response<Full<Bytes>> {
    if request.uri().path() != "/validate" {
        return text(StatusCode::NOT_FOUND, "only /validate");
    }
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only POST");
    }
    let sort = request.headers().get(header::CONTENT_TYPE).and_then(|sort| sort.to_str().ok());
    if sort.and_then(|sort| sort.split(';').next()).map(str::trim) != Some(JSON) {
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "only application/json");
    }
    // It is never closed.
    let Ok(_place) = reviews.places.acquire().await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "closed");
    };
    let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "at most 3 MiB");
        }
        Err(_) => return text(StatusCode::BAD_REQUEST, "the request breaks off"),
    };
    let reviewed = tokio::task::spawn_blocking(move || {
        let answer = admission::review(&body)?;
        let bytes = serde_json::to_vec(&answer)?;
        Ok::<_, admission::Malformed>((answer.response.allowed, bytes))
    });
    match reviewed.await {
        Ok(Ok((allowed, bytes))) => {
            let counters = &reviews.hub.counters;
            let count = if allowed { &counters.reviews_passed } else { &counters.reviews_failed };
            count.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(allowed, "An object was reviewed.");
            respond(StatusCode::OK, JSON, bytes)
        }
        Ok(Err(malformed)) => text(StatusCode::BAD_REQUEST, &malformed.to_string()),
        Err(error) => {
            tracing::error!(%error, "A review failed.");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the review failed")
        }
    }
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", format!("{text}\n").into_bytes())
}

fn respond(status: StatusCode, sort: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(sort));
    response
}

const JSON: &str = "application/json";
/// Bytes of a review: the old and the new version of an object, of which etcd takes 1.5 MiB each.
const MAX_BODY: usize = 3 << 20;
/// Reviews at once; each may take [`MAX_BODY`] and a multiple of that while it is read.
const AT_ONCE: usize = 16;
/// From the request to its answer; API servers wait for ten seconds by default.
const DEADLINE: Duration = Duration::from_secs(8);
/// A connection that asks nothing for so long is closed; API servers keep theirs for the next question.
const IDLE: Duration = Duration::from_secs(90);
