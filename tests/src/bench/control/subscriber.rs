//! A node's side of the stream, without the node: asks for everything, as nodes do, and answers what comes.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::Uri;
use hyper_util::rt::TokioIo;
use mesh_proto::{
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    names::{PARTIAL, ResourceType},
};
use prost::Message as _;
use prost_types::{Struct, Value, value::Kind};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

/// A stream of differences.
#[derive(Debug)]
pub(super) struct Subscriber {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    /// Types of which everything that exists was not told yet.
    incomplete: BTreeSet<&'static str>,
}

impl Subscriber {
    /// Connects over plain TCP on loopback as the proxy of `node` and asks for all types. Every byte that arrives is added
    /// to `received`.
    pub(super) async fn open(address: SocketAddr, node: &str, received: Arc<AtomicU64>) -> Result<Self> {
        let channel = connect(address, machine(node), received).await?;
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        for kind in ResourceType::ALL {
            let request = DeltaDiscoveryRequest {
                node: Some(describe(node)),
                type_url: kind.url().to_owned(),
                ..DeltaDiscoveryRequest::default()
            };
            requests.try_send(request).context("there is room for one request of each type")?;
        }
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE);
        let call = client.delta_aggregated_resources(ReceiverStream::new(outgoing));
        let responses = call.await.context("the stream is refused")?.into_inner();
        let incomplete = ResourceType::ALL.into_iter().map(ResourceType::url).collect();
        Ok(Self { requests, responses, incomplete })
    }

    /// The next response.
    pub(super) async fn next(&mut self) -> Result<DeltaDiscoveryResponse> {
        self.responses.message().await?.context("the control plane has ended the stream")
    }

    /// Accepts a response. After the first of which everything that exists has been told, says so, and from then on.
    pub(super) async fn accept(&mut self, response: &DeltaDiscoveryResponse) -> Result<bool> {
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.context("the stream is closed")?;
        if response.system_version_info != PARTIAL {
            self.incomplete.remove(&*response.type_url);
        }
        Ok(self.incomplete.is_empty())
    }
}

/// The name of a resource, of which nothing else is looked at.
pub(super) fn name(resource: Bytes) -> Result<String> {
    Ok(Resource::decode(resource).context("a resource cannot be decoded")?.name)
}

/// An address of loopback that is the node's alone, or nearly: a control plane counts the connections of each machine, and
/// the nodes of a cluster are as many machines.
fn machine(node: &str) -> Ipv4Addr {
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    let [.., high, low] = hasher.finish().to_be_bytes();
    Ipv4Addr::new(127, 1, high, low)
}

/// As nodes connect, but for TLS.
async fn connect(address: SocketAddr, from: Ipv4Addr, received: Arc<AtomicU64>) -> Result<Channel> {
    let connector = tower::service_fn(move |_: Uri| {
        let received = Arc::clone(&received);
        async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind((from, 0).into())?;
            let io = socket.connect(address).await?;
            io.set_nodelay(true)?;
            io::Result::Ok(TokioIo::new(Counted { io, received }))
        }
    });
    let endpoint = Endpoint::from_static("http://mesh-control")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    endpoint.connect_with_connector(connector).await.with_context(|| format!("no connection to {address}"))
}

fn describe(node: &str) -> Node {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields = [("NODE_NAME".to_owned(), text(node)), ("GENERATOR".to_owned(), text("ambient"))];
    Node {
        id: format!("mesh-node~{node}"),
        cluster: String::new(),
        metadata: Some(Struct { fields: fields.into() }),
    }
}

/// A connection that counts what arrives, frames of HTTP/2 included.
struct Counted {
    io: TcpStream,
    received: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.io).poll_read(context, buffer);
        let arrived = u64::try_from(buffer.filled().len() - before).unwrap_or_default();
        self.received.fetch_add(arrived, Ordering::Relaxed);
        poll
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// One request of each type, and answers.
const REQUESTS: usize = 64;
/// As nodes have it.
const MAX_RESPONSE: usize = 200 << 20;
/// As nodes have it.
const WINDOW: u32 = 4 << 20;
