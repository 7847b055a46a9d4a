//! A port of a pod, as a kubelet forwards it by way of the API server: the first version of Kubernetes' channels over a web socket.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::request::Call;
use super::state::Shared;
use super::status::Refusal;
use super::store::Key;

/// Of the channels' versions, the one that is spoken here.
pub(super) const PROTOCOL: &str = "v4.channel.k8s.io";

/// Begins to forward the one port that is asked for; what the client wants to see of its key. A pod is where its status says.
pub(super) fn open(shared: &Arc<Shared>, call: &Call, head: &Parts) -> Result<String, Refusal> {
    let key = head.headers.get("sec-websocket-key").and_then(|key| key.to_str().ok());
    let upgrade = head.extensions.get::<OnUpgrade>().cloned();
    let (Some(key), Some(upgrade)) = (key, upgrade) else {
        return Err(Refusal::bad_request("Upgrade request required"));
    };
    let wanted = call.query.number("ports")?.and_then(|port| u16::try_from(port).ok());
    let port = wanted.ok_or_else(|| Refusal::bad_request("query parameter \"ports\" is required"))?;
    let pod = Key { resource: "pods".into(), namespace: call.namespace.clone(), name: call.name.clone() };
    let state = shared.lock();
    let object = state.store.get(&pod).ok_or_else(|| Refusal::not_found("pods", &call.name))?;
    let address = address(object).ok_or_else(|| Refusal::bad_request("the pod is not running"))?;
    // It ends with the client's connection.
    drop(mesh_control::tasks::spawn("forwarded port", async move {
        if let Ok(upgraded) = upgrade.await {
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
            forward(socket, SocketAddr::new(address, port)).await;
        }
    }));
    Ok(derive_accept_key(key.as_bytes()))
}

fn address(pod: &Value) -> Option<IpAddr> {
    pod["status"]["podIP"].as_str()?.parse().ok()
}

async fn forward<S>(mut socket: WebSocketStream<S>, to: SocketAddr)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    // Each channel begins with its port.
    for channel in [DATA, ERROR] {
        if socket.send(message(channel, &to.port().to_le_bytes())).await.is_err() {
            return;
        }
    }
    let mut pod = match TcpStream::connect(to).await {
        Ok(pod) => pod,
        Err(error) => {
            let text = format!("error forwarding port {} to pod: {error}", to.port());
            let _ = socket.send(message(ERROR, text.as_bytes())).await;
            let _ = socket.close(None).await;
            return;
        }
    };
    let mut chunk = vec![0; 16 << 10];
    loop {
        tokio::select! {
            read = pod.read(&mut chunk) => match read {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    if socket.send(message(DATA, &chunk[..count])).await.is_err() {
                        return;
                    }
                }
            },
            come = socket.next() => match come {
                Some(Ok(Message::Binary(bytes))) if bytes.first() == Some(&DATA) => {
                    if pod.write_all(&bytes[1..]).await.is_err() {
                        break;
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_))) => {}
                _ => return,
            },
        }
    }
    let _ = socket.close(None).await;
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut framed = BytesMut::with_capacity(bytes.len() + 1);
    framed.put_u8(channel);
    framed.put_slice(bytes);
    Message::Binary(Bytes::from(framed))
}

const DATA: u8 = 0;
const ERROR: u8 = 1;
