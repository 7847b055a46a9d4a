//! External authorizers, for tests: one that is asked by Envoy's protocol, and one that is asked with the request itself. Both do
//! what the request's header `x-order` says, and remember what they were asked.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_proto::authz::authorization_server::{Authorization, AuthorizationServer};
use mesh_proto::authz::check_response::HttpResponse;
use mesh_proto::authz::{
    self, BoolValue, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValueOption, HttpStatus,
    OkHttpResponse, RpcStatus,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// A server, until the process ends. Orders are `allow`, `deny`, `slow` (an answer after two seconds), and `broken`; without one
/// it allows.
#[derive(Debug, Clone)]
pub struct Authorizer {
    address: SocketAddr,
    asked: Arc<Asked>,
}

/// What it was asked: lines of text, headers in order.
#[derive(Debug, Default)]
struct Asked(Mutex<Vec<String>>);

impl Asked {
    fn note(&self, text: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
}

impl Authorizer {
    /// One that speaks gRPC.
    pub fn grpc() -> Result<Self> {
        let (listener, asked) = (listen()?, Arc::<Asked>::default());
        let address = listener.local_addr()?;
        let service = AuthorizationServer::from_arc(Arc::clone(&asked));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::spawn(move || {
            runtime.block_on(async {
                let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener)?);
                Server::builder().add_service(service).serve_with_incoming(incoming).await.context("serving")
            })
        });
        Ok(Self { address, asked })
    }

    /// One that speaks HTTP.
    pub fn http() -> Result<Self> {
        let (listener, asked) = (listen()?, Arc::<Asked>::default());
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let notes = Arc::clone(&asked);
        thread::spawn(move || tokio::task::LocalSet::new().block_on(&runtime, serve_http(listener, notes)));
        Ok(Self { address, asked })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked, one text for each question: `METHOD HOST PATH BODY`, then each header as `NAME=VALUE`.
    pub fn asked(&self) -> Vec<String> {
        self.asked.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve_http(listener: TcpListener, notes: Arc<Asked>) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (tcp, _) = listener.accept().await?;
        let notes = Arc::clone(&notes);
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| by_http(request, Arc::clone(&notes)));
            let _ =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service).await;
        });
    }
}

fn listen() -> Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port")?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn line(words: [&str; 4], mut headers: Vec<String>) -> String {
    headers.sort();
    format!("{} {}", words.join(" "), headers.join(" "))
}

async fn by_http(
    request: http::Request<hyper::body::Incoming>,
    asked: Arc<Asked>,
) -> Result<http::Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let text = |name: &str| head.headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value.as_bytes())));
    let path = head.uri.path_and_query().map_or("", |it| it.as_str());
    let words = [head.method.as_str(), text("host"), path, &String::from_utf8_lossy(&body)];
    asked.note(line(words, headers.collect()));
    let order = text("x-order");
    if order == "slow" {
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let answer = http::Response::builder().header("x-from", "authorizer").header("x-user", "ann");
    let answer = match order {
        "deny" => answer.status(418).header("x-why", "because").header("location", "/login"),
        "broken" => answer.status(503),
        _ => answer.header("x-envoy-auth-headers-to-remove", "x-secret").header("content-length", "0"),
    };
    let body = if order == "deny" { "not you" } else { "" };
    Ok(answer.body(Full::new(Bytes::from_static(body.as_bytes())))?)
}

fn option(key: &str, value: &str, append: Option<bool>) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(authz::HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            raw_value: Bytes::new(),
        }),
        append: append.map(|value| BoolValue { value }),
        append_action: 0,
    }
}

#[tonic::async_trait]
impl Authorization for Asked {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let principal = attributes.source.map(|it| it.principal).unwrap_or_default();
        let http = attributes.request.and_then(|it| it.http).unwrap_or_default();
        let headers = http.headers.iter().map(|(name, value)| format!("{name}={value}"));
        let mut headers: Vec<_> = headers.collect();
        headers.push(format!("principal={principal}"));
        let body = if http.raw_body.is_empty() { http.body.clone() } else { format!("{:?}", http.raw_body) };
        self.note(line([&http.method, &http.host, &http.path, &body], headers));
        let order = http.headers.get("x-order").map(String::as_str).unwrap_or_default();
        if order == "slow" {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        let (code, response) = match order {
            "broken" => return Err(Status::unavailable("out of order")),
            "deny" => (
                7,
                HttpResponse::DeniedResponse(DeniedHttpResponse {
                    status: Some(HttpStatus { code: 418 }),
                    headers: vec![option("x-why", "because", None)],
                    body: "not you".to_owned(),
                }),
            ),
            _ => (
                0,
                HttpResponse::OkResponse(OkHttpResponse {
                    // One that is out of its mind must not break the message.
                    headers: vec![option("x-user", "ann", None), option("content-length", "1", None)],
                    headers_to_remove: vec!["x-secret".to_owned()],
                    response_headers_to_add: vec![option("x-from", "authorizer", Some(true))],
                }),
            ),
        };
        let status = Some(RpcStatus { code, message: String::new() });
        Ok(Response::new(CheckResponse { status, http_response: Some(response) }))
    }
}
