//! The HTTP of it: a thread with connections, and from each request to its answer.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::authn::User;
use super::logs::Reading;
use super::read::{self, Watch};
use super::request::{Call, Path, Verb};
use super::state::Shared;
use super::status::Refusal;
use super::write::{self, Plan};
use super::{discovery, forward, rbac, webhook};

/// Where the server is, and whether it should be there.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) shared: Arc<Shared>,
}

/// Serves as long as `wanted` says so, and again when it says so again; ends when nobody can say it any more. Says in
/// `there` whether it does. `first` is a listener that is open already.
pub(super) async fn serve(
    place: Place,
    first: std::net::TcpListener,
    mut wanted: watch::Receiver<bool>,
    there: watch::Sender<bool>,
) {
    let mut ready = Some(first);
    loop {
        if *wanted.borrow_and_update() {
            let listener = match ready.take() {
                Some(listener) => TcpListener::from_std(listener),
                None => TcpListener::bind(place.address).await,
            };
            let listener = listener.expect("nobody else takes the port");
            there.send_replace(true);
            tokio::select! {
                () = accept(&place, listener) => {}
                _ = wanted.changed() => {}
            }
            there.send_replace(false);
        } else if wanted.changed().await.is_err() {
            return;
        }
        if wanted.has_changed().is_err() {
            return;
        }
    }
}

/// Takes connections for ever. Whoever drops it breaks them off.
async fn accept(place: &Place, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(connection(place.clone(), stream));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(place: Place, stream: TcpStream) {
    // Small answers are not held back to travel with later ones.
    let _ = stream.set_nodelay(true);
    let shared = &place.shared;
    let service = service_fn(|request| async { Ok::<_, Infallible>(answer(shared, request).await) });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(hyper_util::rt::TokioTimer::new());
    // A client that breaks off is a client that has what it wants.
    let _ = match place.tls {
        None => http.serve_connection(TokioIo::new(stream), service).with_upgrades().await,
        Some(acceptor) => {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            http.serve_connection(TokioIo::new(stream), service).with_upgrades().await
        }
    };
}

/// A body that is there, or one that comes bit by bit.
pub(super) enum Answer {
    Whole(Full<Bytes>),
    /// Of JSON.
    Lines(Option<Step>),
    /// Of nothing in particular.
    Text(Option<Step>),
    /// None: the connection is for something else from here on, which the client knows by this key.
    Upgraded(String),
}

/// What comes next, and how it goes on then.
pub(super) struct Step(Next);

type Next = Pin<Box<dyn Future<Output = Option<(Bytes, Step)>> + Send>>;

fn watching(mut watch: Watch) -> Step {
    Step(Box::pin(async move {
        let lines = watch.next().await?;
        Some((lines, watching(watch)))
    }))
}

fn reading(mut log: Reading) -> Step {
    Step(Box::pin(async move {
        let lines = log.next().await?;
        Some((lines, reading(log)))
    }))
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(body) => Pin::new(body).poll_frame(context),
            Self::Upgraded(_) => Poll::Ready(None),
            Self::Lines(next) | Self::Text(next) => {
                let Some(Step(future)) = next else { return Poll::Ready(None) };
                let come = std::task::ready!(future.as_mut().poll(context));
                let (lines, step) = come.unzip();
                *next = step;
                Poll::Ready(lines.map(|lines| Ok(Frame::data(lines))))
            }
        }
    }
}

async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Answer> {
    let (head, body) = request.into_parts();
    let mut warnings = Vec::new();
    let result = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => handle(shared, &head, &body.to_bytes(), &mut warnings).await,
        Err(error) => Err(Refusal::bad_request(error.to_string())),
    };
    let (code, body, retry_after) = match result {
        Ok((code, body)) => (code, body, None),
        Err(refusal) => (refusal.code, whole(&refusal.to_json()), refusal.retry_after),
    };
    if let Answer::Upgraded(key) = &body {
        return upgraded(key.clone());
    }
    let kind = if matches!(body, Answer::Text(_)) { "text/plain" } else { "application/json" };
    let mut response = Response::new(body);
    *response.status_mut() =
        http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    for warning in warnings {
        let text = format!("299 - \"{}\"", warning.replace('"', "'"));
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.append(header::WARNING, value);
        }
    }
    response
}

/// The answer to who wants a web socket.
fn upgraded(key: String) -> Response<Answer> {
    let response = Response::builder().status(http::StatusCode::SWITCHING_PROTOCOLS);
    let response = response.header(header::CONNECTION, "Upgrade").header(header::UPGRADE, "websocket");
    let response = response.header(header::SEC_WEBSOCKET_ACCEPT, &key);
    let response = response.header(header::SEC_WEBSOCKET_PROTOCOL, forward::PROTOCOL);
    response.body(Answer::Upgraded(key)).expect("good headers")
}

async fn handle(
    shared: &Arc<Shared>,
    head: &Parts,
    body: &[u8],
    warnings: &mut Vec<String>,
) -> Result<(u16, Answer), Refusal> {
    let path = Path::parse(head.uri.path());
    let call = {
        let state = shared.lock();
        let header = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let user = state.tokens.authenticate(header, &state.store);
        match &path {
            Path::Other(_) => user.map(|user| (user, None)),
            Path::Objects { group, version, rest } => {
                let what = (group.as_str(), version.as_str(), rest.as_slice());
                let call = |user: User| Call::new(what, head, body, user.clone(), &state.registry);
                match (group.as_str(), rest.first().map(String::as_str)) {
                    ("authentication.k8s.io", Some("tokenreviews")) => user.map(|user| (user, None)),
                    _ => user.and_then(|user| Ok((user.clone(), Some(call(user)?)))),
                }
            }
        }
    };
    let shown = match &call {
        Ok((_, Some(call))) => describe(call),
        _ => format!("{} {}", head.method, head.uri.path()),
    };
    let fault = shared.lock().note(shown);
    if let Some(fault) = fault {
        sleep(fault.delay).await;
        fault.refusal.map_or(Ok(()), Err)?;
    }
    let (user, call) = call?;
    if shared.lock().private && user == User::anonymous() {
        return Err(Refusal::new(401, "Unauthorized", "Unauthorized"));
    }
    match (call, path) {
        (Some(call), _) if call.subresource == "portforward" => {
            rbac::authorize(&shared.lock(), &call)?;
            Ok((101, Answer::Upgraded(forward::open(shared, &call, head)?)))
        }
        (Some(call), _) => objects(shared, call, warnings).await,
        (None, Path::Objects { .. }) => review_token(shared, head, body, &user),
        (None, Path::Other(parts)) => {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            if let ["healthz" | "livez" | "readyz", ..] = parts.as_slice() {
                return Ok((200, Answer::Whole(Full::new(Bytes::from_static(b"ok")))));
            }
            Ok((200, whole(&discovery::describe(&shared.lock().registry, &parts)?)))
        }
    }
}

/// What was asked, as the log of requests shows it.
fn describe(call: &Call) -> String {
    let verb = call.verb.name();
    let what = call.resource_name();
    match (call.namespace.as_str(), call.name.as_str()) {
        ("", "") => format!("{verb} {what}"),
        ("", name) => format!("{verb} {what} {name}"),
        (namespace, name) => format!("{verb} {what} {namespace}/{name}"),
    }
}

fn review_token(
    shared: &Arc<Shared>,
    head: &Parts,
    body: &[u8],
    user: &User,
) -> Result<(u16, Answer), Refusal> {
    if head.method != http::Method::POST {
        return Err(Refusal::method_not_allowed());
    }
    let state = shared.lock();
    let may = !state.rbac || user.groups.iter().any(|group| group == "system:masters");
    if !may && !rbac::may_review_tokens(&state, user) {
        return Err(Refusal::forbidden(format!("User \"{}\" cannot create tokenreviews", user.name)));
    }
    let review: Value =
        serde_json::from_slice(body).map_err(|error| Refusal::bad_request(error.to_string()))?;
    Ok((201, whole(&state.tokens.review(&review, &state.store))))
}

async fn objects(
    shared: &Arc<Shared>,
    call: Call,
    warnings: &mut Vec<String>,
) -> Result<(u16, Answer), Refusal> {
    rbac::authorize(&shared.lock(), &call)?;
    match call.verb {
        Verb::Get if call.subresource == "log" => {
            Ok((200, Answer::Text(Some(reading(Reading::new(shared, &call)?)))))
        }
        Verb::Get => Ok((200, whole(&read::get(&shared.lock(), &call)?))),
        Verb::List => Ok((200, whole(&read::list(&shared.lock(), &call)?))),
        Verb::Watch => Ok((200, Answer::Lines(Some(watching(Watch::new(shared, call)?))))),
        Verb::DeleteCollection => {
            let list = read::list(&shared.lock(), &call)?;
            for item in list["items"].as_array().into_iter().flatten() {
                let mut one = call.clone();
                one.verb = Verb::Delete;
                one.name = item["metadata"]["name"].as_str().unwrap_or_default().into();
                one.namespace = item["metadata"]["namespace"].as_str().unwrap_or_default().into();
                write(shared, &one, warnings).await?;
            }
            Ok((200, whole(&list)))
        }
        Verb::Create if call.subresource == "token" => {
            let mut state = shared.lock();
            let state = &mut *state;
            Ok((201, whole(&state.tokens.request(&call, &state.store)?)))
        }
        _ => {
            let (created, object) = write(shared, &call, warnings).await?;
            Ok((if created { 201 } else { 200 }, whole(&object)))
        }
    }
}

/// Plans, asks, and stores; from the start if somebody else was faster. Returns whether it has created.
async fn write(
    shared: &Arc<Shared>,
    call: &Call,
    warnings: &mut Vec<String>,
) -> Result<(bool, Value), Refusal> {
    let dry = call.query.text("dryRun").is_some();
    loop {
        let (plan, hooks) = {
            let state = shared.lock();
            let plan = write::plan(&state, call)?;
            let hooks = webhook::hooks(&state, call, &plan);
            (plan, hooks)
        };
        if !hooks.is_empty() {
            let review = webhook::review(call, &plan);
            for hook in &hooks {
                warnings.extend(webhook::ask(hook, &review).await?);
            }
        }
        let stored = if dry {
            plan.after.clone().or_else(|| plan.before.as_deref().cloned())
        } else {
            write::commit(&mut shared.lock(), call, &plan).map(|object| object.as_ref().clone())
        };
        if let Some(object) = stored {
            return Ok((plan.before.is_none(), shown(call, &plan, &object)));
        }
    }
}

/// What a write answers: the object, or that it is gone.
fn shown(call: &Call, plan: &Plan, object: &Value) -> Value {
    if plan.after.is_some() {
        return call.present(object);
    }
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {
            "name": plan.key.name, "group": call.resource.group, "kind": call.resource.plural,
            "uid": object["metadata"]["uid"],
        },
    })
}

fn whole(value: &Value) -> Answer {
    Answer::Whole(Full::new(Bytes::from(value.to_string())))
}

/// Bytes of a request; etcd takes no larger objects.
const MAX_BODY: usize = 3 << 20;
