//! The origin's HTTP/2.

use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::orders::Orders;
use super::{EMPTY, Seen, Shared, h1};

pub(super) async fn serve(
    stream: TcpStream,
    (pod, connection): (Arc<str>, u64),
    shared: Arc<Shared>,
) -> std::io::Result<()> {
    let handshake = h2::server::Builder::new().enable_connect_protocol().handshake::<_, Bytes>(stream);
    let mut streams = handshake.await.map_err(std::io::Error::other)?;
    let mut requests = JoinSet::new();
    while let Some(accepted) = streams.accept().await {
        let (request, respond) = accepted.map_err(std::io::Error::other)?;
        while requests.try_join_next().is_some() {}
        requests.spawn(answer(request, respond, (pod.to_string(), connection), Arc::clone(&shared)));
    }
    Ok(())
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    at: (String, u64),
    shared: Arc<Shared>,
) -> Result<(), h2::Error> {
    let (parts, mut body) = request.into_parts();
    let mut seen = head(&parts, at);
    let kept = shared.keep(seen.clone());
    let orders = shared.orders(&seen);
    if parts.method == http::Method::CONNECT && !orders.has("status") {
        return echo(body, respond).await;
    }
    if !orders.has("early") {
        while let Some(data) = body.data().await {
            let data = data?;
            seen.take(&data);
            body.flow_control().release_capacity(data.len())?;
        }
        seen.trailers = fields(&body.trailers().await?.unwrap_or_default());
        seen.complete = true;
        shared.update(kept, &seen);
    }
    orders.wait("delay").await;
    if orders.has("reset") {
        let reason = if orders.get("reset") == Some("refused") {
            h2::Reason::REFUSED_STREAM
        } else {
            h2::Reason::INTERNAL_ERROR
        };
        respond.send_reset(reason);
        return Ok(());
    }
    send(&seen, &orders, &mut respond).await
}

fn head(parts: &http::request::Parts, (pod, connection): (String, u64)) -> Seen {
    let authority = parts.uri.authority().map(|it| it.as_str().to_owned());
    let target = parts.uri.path_and_query().map(|it| it.as_str().to_owned());
    Seen {
        pod,
        connection,
        version: "HTTP/2".to_owned(),
        method: parts.method.to_string(),
        target: target.unwrap_or_default(),
        authority: authority.unwrap_or_default(),
        headers: fields(&parts.headers),
        hash: EMPTY,
        ..Seen::default()
    }
}

async fn send(seen: &Seen, orders: &Orders, respond: &mut SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut response = Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(orders.status()).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert("x-pod", HeaderValue::from_str(&seen.pod).unwrap_or(HeaderValue::from_static("")));
    add(headers, orders.fields("header"));
    let mut trailers = HeaderMap::new();
    add(&mut trailers, orders.fields("trailer"));
    if let Some(status) = orders.get("grpc") {
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        // Without a body the status is in the head, as gRPC has it.
        let to = if orders.has("body") { &mut trailers } else { headers };
        add(to, [("grpc-status", status)].into_iter());
        if !orders.has("body") {
            respond.send_response(response, true)?;
            return Ok(());
        }
    }
    let mut stream = respond.send_response(response, false)?;
    orders.wait("pause").await;
    let mut body = Bytes::from(h1::body(seen, orders));
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let Some(room) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return Ok(()) };
        stream.send_data(body.split_to(room?.min(body.len())), false)?;
    }
    if orders.has("partial") {
        stream.send_reset(h2::Reason::INTERNAL_ERROR);
        return Ok(());
    }
    if trailers.is_empty() { stream.send_data(Bytes::new(), true) } else { stream.send_trailers(trailers) }
}

async fn echo(mut body: h2::RecvStream, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut stream = respond.send_response(Response::new(()), false)?;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        stream.send_data(data, false)?;
    }
    stream.send_data(Bytes::new(), true)
}

fn add<'f>(headers: &mut HeaderMap, fields: impl Iterator<Item = (&'f str, &'f str)>) {
    for (name, value) in fields {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
}

fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}
