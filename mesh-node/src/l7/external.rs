//! Asks authorizers outside of the mesh's own rules about a request: by Envoy's protocol, or with the request itself.

use std::future::Future;
use std::pin::Pin;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use mesh_core::external::{Asked, Authorizer, ByHttp, Denial, Verdict};
use mesh_core::trace::TraceWord;

use super::ahead::Ahead;
use super::call::{Call, grpc_head};
use super::exchange::{Ended, Stage};
use super::h1::{Authority, Framing, Target};
use super::message::{Broken, RequestHead};
use super::record::{Record, client_of};
use super::reply::{Refusal, Reply, grpc_status};
use super::transfer::Downstream;
use crate::report::{Event, Flags};

/// The authorizer that policies call so, by the configuration as it is now.
pub fn find(stage: &Stage<'_>, provider: &str) -> Option<Authorizer> {
    Authorizer::find(stage.engine.snapshot().mesh(), provider)
}

/// Asks an authorizer about a request. `None` lets it pass, as the authorizer has changed it; a reply is the authorizer's answer to
/// a request that does not.
///
/// # Errors
/// If it cannot be asked, and requests are not to pass then.
pub async fn ask<D: Downstream>(
    stage: &Stage<'_>,
    authorizer: &Authorizer,
    head: &mut RequestHead,
    client: &mut Ahead<'_, D>,
    record: &mut Record,
) -> Result<Option<Reply>, Ended> {
    let body = read_body(authorizer, head, client).await?;
    let asked = question(stage, authorizer, head, body.as_ref());
    // Boxed: it is a whole exchange of its own, inside of another.
    let asked = tokio::time::timeout(authorizer.timeout, asked);
    let answer = match (Box::pin(asked) as Pin<Box<dyn Future<Output = _> + '_>>).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} ms", authorizer.timeout.as_millis())),
    };
    match answer {
        Ok(Verdict::Allowed(changes)) => {
            changes.apply(&mut head.headers);
            record.add_to_answer(changes.answer.into_iter());
            Ok(None)
        }
        Ok(Verdict::Denied(denial)) => {
            record.flag(Flags::UAEX);
            record.details("ext_authz_denied");
            Ok(Some(reply(denial, head.is_grpc())))
        }
        Err(reason) => failed(stage, authorizer, &reason).map(|()| None),
    }
}

fn failed(stage: &Stage<'_>, authorizer: &Authorizer, reason: &str) -> Result<(), Ended> {
    let reason = format!("the authorizer {} does not answer: {reason}", authorizer.name);
    if authorizer.fails_open {
        stage.engine.reporter.count(Event::AuthorizerPassed);
        tracing::debug!(%reason, "A request passes of which an authorizer says nothing.");
        return Ok(());
    }
    stage.engine.reporter.count(Event::AuthorizerDenied);
    Err(Ended::Refused(Refusal::Authorizer(authorizer.status_on_error), reason))
}

fn reply(denial: Denial, grpc: bool) -> Reply {
    let Denial { status, headers, body } = denial;
    let mut reply = if grpc {
        Reply::grpc(grpc_status(status), &String::from_utf8_lossy(&body))
    } else {
        Reply::new(status, "text/plain", Bytes::from(body))
    };
    let mut last = None;
    for (name, value) in headers {
        // The first of a name replaces ours.
        if last.as_ref() == Some(&name) {
            reply.head.headers.append(&name, value);
        } else {
            reply.head.headers.insert(&name, value);
        }
        last = Some(name);
    }
    reply
}

/// The part of the body that is shown, and whether it is all of it.
struct Shown {
    bytes: Bytes,
    is_whole: bool,
}

async fn read_body<D: Downstream>(
    authorizer: &Authorizer,
    head: &RequestHead,
    client: &mut Ahead<'_, D>,
) -> Result<Option<Shown>, Ended> {
    let wanted = authorizer.body.filter(|wanted| wanted.max_request_bytes > 0);
    let Some(wanted) = wanted.filter(|_| head.framing.has_body() && !head.leaves_http()) else {
        return Ok(None);
    };
    let too_long = || {
        let reason = format!("a body of more than {} bytes is not shown", wanted.max_request_bytes);
        Ended::Refused(Refusal::BodyTooLong, reason)
    };
    let partial = wanted.allow_partial_message;
    match head.framing {
        Framing::Length(length) if length > u64::from(wanted.max_request_bytes) && !partial => {
            return Err(too_long());
        }
        _ => {}
    }
    let most = usize::try_from(wanted.max_request_bytes).unwrap_or(usize::MAX).min(MAX_BODY);
    let (bytes, is_whole) = client.read(most).await.map_err(|broken| match broken {
        Broken::TimedOut(_) => Ended::Refused(Refusal::RequestTimeout, broken.to_string()),
        broken => Ended::Gone(broken),
    })?;
    if is_whole || partial { Ok(Some(Shown { bytes, is_whole })) } else { Err(too_long()) }
}

async fn question(
    stage: &Stage<'_>,
    authorizer: &Authorizer,
    head: &RequestHead,
    body: Option<&Shown>,
) -> Result<Verdict, String> {
    match &authorizer.asked {
        Asked::Grpc => {
            let message = mesh_proto::check::question(attributes(stage, authorizer, head, body));
            let call = Call::of_message(&message, MAX_ANSWER)?;
            let mut head = grpc_head(&authorizer.to, METHOD, call.framing())?;
            let answer = call.ask(stage, &authorizer.to, &mut head).await?;
            mesh_proto::check::answer(&answer.into_message()?).map_err(|error| error.to_string())
        }
        Asked::Http(how) => {
            let call = Call::new(body.map(|body| body.bytes.clone()).unwrap_or_default(), MAX_ANSWER);
            let mut head = http_head(how, head, (body, &call))?;
            let answer = call.ask(stage, &authorizer.to, &mut head).await?;
            let verdict = how.verdict(answer.status, &answer.headers, answer.body.to_vec());
            verdict.ok_or_else(|| format!("status {}", answer.status.as_u16()))
        }
    }
}

fn http_head(
    how: &ByHttp,
    head: &RequestHead,
    (body, call): (Option<&Shown>, &Call),
) -> Result<RequestHead, String> {
    let target = how.target(head.target.as_str());
    let mut headers = how.headers(&head.headers);
    if let Some(shown) = body {
        let value = http::HeaderValue::from_static(if shown.is_whole { "false" } else { "true" });
        headers.insert("x-envoy-auth-partial-body", value);
    }
    let authority = head.authority.as_ref().map_or("", Authority::as_str).to_owned();
    Ok(RequestHead {
        method: head.method.clone(),
        secure: false,
        authority: Some(Authority::parse(authority.into()).map_err(|_| "the request is for no host")?),
        target: Target::origin(target.into()).map_err(|_| "the path cannot be asked about")?,
        client: None,
        version: head.version,
        headers,
        framing: call.framing(),
        upgrade: None,
        expects_continue: false,
        claims: None,
        trace: TraceWord::Nothing,
    })
}

/// A request as Envoy describes it.
fn attributes(
    stage: &Stage<'_>,
    authorizer: &Authorizer,
    head: &RequestHead,
    body: Option<&Shown>,
) -> mesh_proto::authz::AttributeContext {
    use mesh_proto::authz::attribute_context::{Peer, Request, TlsSession};
    let facts = stage.facts;
    let peer = |address: Option<std::net::SocketAddr>, principal: String| Peer {
        address: address.map(|at| mesh_proto::authz::Address {
            socket_address: Some(mesh_proto::authz::SocketAddress {
                address: at.ip().to_canonical().to_string(),
                port_value: at.port().into(),
            }),
        }),
        principal,
    };
    let principal = facts.identity.as_ref().map(ToString::to_string).unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = prost_types::Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(now.subsec_nanos()).unwrap_or(0),
    };
    mesh_proto::authz::AttributeContext {
        source: Some(peer(Some(client_of(facts, head)), principal)),
        destination: Some(peer(facts.local, String::new())),
        request: Some(Request { time: Some(time), http: Some(http_request(authorizer, head, body)) }),
        context_extensions: std::collections::HashMap::default(),
        tls_session: facts.sni.as_ref().map(|sni| TlsSession { sni: sni.to_string() }),
    }
}

fn http_request(
    authorizer: &Authorizer,
    head: &RequestHead,
    body: Option<&Shown>,
) -> mesh_proto::authz::attribute_context::HttpRequest {
    let scheme = if head.secure { "https" } else { "http" };
    let host = head.authority.as_ref().map_or("", Authority::as_str);
    let mut headers = std::collections::HashMap::new();
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let all = headers.entry(name.as_str().to_owned()).or_insert_with(String::new);
        if !all.is_empty() {
            all.push(',');
        }
        all.push_str(&value);
    }
    let pseudo = [
        (":method", head.method.as_str()),
        (":path", head.target.as_str()),
        (":authority", host),
        (":scheme", scheme),
    ];
    headers.extend(pseudo.map(|(name, value)| (name.to_owned(), value.to_owned())));
    if let Some(shown) = body {
        let partial = if shown.is_whole { "false" } else { "true" };
        headers.insert("x-envoy-auth-partial-body".to_owned(), partial.to_owned());
    }
    let bytes = body.map(|shown| shown.bytes.clone()).unwrap_or_default();
    let raw = authorizer.body.is_some_and(|wanted| wanted.pack_as_bytes);
    let text = if raw { String::new() } else { String::from_utf8_lossy(&bytes).into_owned() };
    mesh_proto::authz::attribute_context::HttpRequest {
        id: headers.get("x-request-id").cloned().unwrap_or_default(),
        method: head.method.as_str().to_owned(),
        path: head.target.as_str().to_owned(),
        host: host.to_owned(),
        scheme: scheme.to_owned(),
        size: match head.framing {
            Framing::Length(length) => i64::try_from(length).unwrap_or(i64::MAX),
            Framing::None => 0,
            _ => -1,
        },
        protocol: head.version.name().to_owned(),
        body: text,
        raw_body: if raw { bytes } else { Bytes::new() },
        headers,
    }
}

const METHOD: &[u8] = b"/envoy.service.auth.v3.Authorization/Check";
/// Bytes of an answer: some headers, and a page for those who are refused.
const MAX_ANSWER: usize = 256 << 10;
/// Bytes of a body that are shown, whatever a provider says.
const MAX_BODY: usize = 8 << 20;

#[cfg(test)]
mod tests;
