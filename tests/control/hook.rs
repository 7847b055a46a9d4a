//! A validating webhook for tests: HTTPS on loopback, and a function that decides.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Decides: `Err` is the message of a refusal.
pub(crate) type Decide = fn(&Value) -> Result<(), String>;

/// A webhook that answers until it is dropped.
pub(crate) struct Hook {
    pub(crate) address: SocketAddr,
    /// The certificate to trust, as configurations spell it.
    pub(crate) ca_bundle: String,
    asked: Arc<Mutex<Vec<Value>>>,
    _serving: JoinSet<()>,
}

impl Hook {
    /// `name` is the host that its certificate is for, besides 127.0.0.1.
    pub(crate) async fn start(name: &str, decide: Decide) -> Self {
        let names = vec![name.to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a matching key");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut serving = JoinSet::new();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        serving.spawn(serve(listener, acceptor, decide, Arc::clone(&asked)));
        Self { address, ca_bundle: STANDARD.encode(made.cert.pem()), asked, _serving: serving }
    }

    /// What it was asked so far: the `request` of each review.
    pub(crate) fn asked(&self) -> Vec<Value> {
        self.asked.lock().expect("no panic").clone()
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, decide: Decide, asked: Arc<Mutex<Vec<Value>>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, asked) = (acceptor.clone(), Arc::clone(&asked));
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service =
                service_fn(|request| async { Ok::<_, Infallible>(answer(request, decide, &asked).await) });
            // The client may close as it likes.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    decide: Decide,
    asked: &Mutex<Vec<Value>>,
) -> Response<Full<Bytes>> {
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    let review: Value = serde_json::from_slice(&body).expect("JSON");
    let request = &review["request"];
    asked.lock().expect("no panic").push(request.clone());
    let mut response = json!({"uid": request["uid"], "allowed": true});
    if let Err(message) = decide(request) {
        response["allowed"] = json!(false);
        response["status"] = json!({"message": message, "code": 403});
    }
    let answer = json!({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response});
    Response::new(Full::new(Bytes::from(answer.to_string())))
}
