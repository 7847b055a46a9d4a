//! Connecting from inside a pod. Every function here that reaches a workload takes the permit for it.

use std::{
    io,
    net::{SocketAddr, TcpStream as StdStream},
    sync::Arc,
    time::Duration,
};

use mesh_core::policy::Permit;
use tokio::net::TcpStream;

use crate::{l7::site::Tls, redirect::LocalPod, run::worker::Worker, sys::sockopt};

/// Whose connection it is that is taken on to an application.
#[derive(Clone)]
pub(super) struct Origin {
    /// The address that the application is shown as its peer's.
    pub(super) client: SocketAddr,
    /// The pod that opened it, if that is one of this node.
    pub(super) pod: Option<Arc<LocalPod>>,
    /// What there is to tell of its tunnel's TLS.
    pub(super) tls: Tls,
}

impl Origin {
    /// One from elsewhere, which has come to the pod through its own network already.
    pub(super) fn elsewhere(client: SocketAddr) -> Self {
        Self { client, pod: None, tls: Tls::default() }
    }
}

/// Connects to an application of `pod`, which sees the client as its peer: from inside of it, but from the client's pod if that
/// is another one of this node. The packets of the latter take the way that they would without the mesh, so that a
/// `NetworkPolicy` sees both ends and the port.
pub(super) async fn application(
    worker: &Worker,
    pod: &LocalPod,
    permit: Permit,
    origin: &Origin,
) -> io::Result<TcpStream> {
    let to = permit.into_destination();
    let source = origin.pod.as_deref().filter(|source| source.uid != pod.uid);
    let from = source.and_then(|source| Some((source, source.address_like(to)?)));
    if let Some((source, own)) = from {
        let to = source.on_link(to);
        let socket =
            worker.descriptors.allow_dial(source.netns.run(|| sockopt::tcp_socket(to.is_ipv6()))??)?;
        worker.own(&socket)?;
        worker.carry(&socket, source.netns.cookie(), origin.client)?;
        sockopt::bind_address_only(&socket, own)?;
        sockopt::start_connect(&socket, to)?;
        return connected(StdStream::from(socket)).await;
    }
    let socket = worker.descriptors.allow_dial(pod.netns.run(|| sockopt::tcp_socket(to.is_ipv6()))??)?;
    if origin.client.is_ipv4() == to.is_ipv4() {
        worker.act_for(&socket, origin.client)?;
    }
    sockopt::start_connect(&socket, to)?;
    connected(StdStream::from(socket)).await
}

/// Connects out of the mesh from inside the pod `source`, as the pod itself would.
pub(super) async fn outside(worker: &Worker, source: &LocalPod, permit: Permit) -> io::Result<TcpStream> {
    plain(worker, source, permit.into_destination()).await
}

/// Connects to the tunnel listener of another pod from inside the pod `source`. No permit: what leaves is
/// encrypted, and the other node decides.
pub(super) async fn tunnel(worker: &Worker, source: &LocalPod, to: SocketAddr) -> io::Result<TcpStream> {
    plain(worker, source, to).await
}

async fn plain(worker: &Worker, source: &LocalPod, to: SocketAddr) -> io::Result<TcpStream> {
    let to = source.on_link(to);
    let socket = worker.descriptors.allow_dial(source.netns.run(|| sockopt::tcp_socket(to.is_ipv6()))??)?;
    worker.own(&socket)?;
    if let Some(own) = source.address_like(to) {
        sockopt::bind_address_only(&socket, own)?;
    }
    sockopt::start_connect(&socket, to)?;
    connected(StdStream::from(socket)).await
}

/// Waits for a connect that is under way.
async fn connected(stream: StdStream) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(stream)?;
    sockopt::set_nodelay(&stream)?;
    match tokio::time::timeout(CONNECT_TIMEOUT, stream.writable()).await {
        Ok(ready) => ready?,
        Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 s")),
    }
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

/// As Istio's default `connectTimeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
