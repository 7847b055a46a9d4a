//! The origin of gRPC: answers every call with what it was sent, and status 0.
//!
//! It knows nothing of messages; to a proxy, this is a unary call like any other.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Serves on loopback addresses until the process ends.
pub fn run(listen: &[SocketAddr]) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut listeners = JoinSet::new();
        for address in listen {
            let listener = TcpListener::bind(address).await?;
            listeners.spawn(serve(listener));
        }
        while listeners.join_next().await.is_some() {}
        Ok(())
    })
}

async fn serve(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // Without it the last frame of an answer would wait for the one before.
        if stream.set_nodelay(true).is_ok() {
            connections.spawn(connection(stream));
        }
        while connections.try_join_next().is_some() {}
    }
}

/// What goes wrong with one connection ends it, and its client counts it.
async fn connection(stream: TcpStream) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1024).initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let mut calls = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        calls.spawn(call(request, respond));
        while calls.try_join_next().is_some() {}
    }
}

async fn call(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Option<()> {
    let mut body = request.into_body();
    let mut message = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        body.flow_control().release_capacity(data.len()).ok()?;
        message.extend_from_slice(&data);
    }
    let mut response = Response::new(());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut answer = respond.send_response(response, false).ok()?;
    answer.send_data(message.freeze(), false).ok()?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    answer.send_trailers(trailers).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_are_echoed_with_a_status() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener));
        let (mut client, connection) =
            h2::client::handshake(TcpStream::connect(address).await.unwrap()).await.unwrap();
        tasks.spawn(async { connection.await.unwrap_or_default() });
        let request = Request::post("http://bench/bench.Echo/Call").body(()).unwrap();
        let (response, mut send) = client.send_request(request, false).unwrap();
        send.send_data(Bytes::from_static(b"\0\0\0\0\x02hi"), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), &b"\0\0\0\0\x02hi"[..]);
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    }
}
