//! A subscriber of discovery that keeps what it is told.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use mesh_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use mesh_proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource, Status as Rejection,
};
use mesh_proto::names::ResourceType;
use prost::Message as _;
use prost_types::{Struct, Value, value::Kind};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use crate::caller;
use crate::plane::Plane;

/// One stream.
pub(crate) struct Subscriber {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    node: Option<Node>,
    /// What is there, by type and name.
    pub(crate) held: BTreeMap<(ResourceType, String), Resource>,
    /// Bytes of resources that have come.
    pub(crate) bytes: usize,
}

impl Subscriber {
    /// A stream on the plain port, of a proxy of `node`, from the usual address.
    pub(crate) async fn plain(plane: &Plane, node: &str) -> Result<Self> {
        Self::open(caller::plain(plane, Ipv4Addr::LOCALHOST).await?, Some(node)).await
    }

    /// A stream on `channel`. A `node` is what the subscriber says of itself.
    pub(crate) async fn open(channel: Channel, node: Option<&str>) -> Result<Self> {
        let (requests, receiver) = mpsc::channel(64);
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let call = client.delta_aggregated_resources(Request::new(ReceiverStream::new(receiver)));
        let responses = timeout(PATIENCE, call).await.context("no stream")??.into_inner();
        Ok(Self { requests, responses, node: node.map(describe), held: BTreeMap::new(), bytes: 0 })
    }

    /// The same, of a program that says that it speaks a version of the mesh's protocol.
    pub(crate) fn speaking(mut self, version: &str) -> Self {
        let version = Value { kind: Some(Kind::StringValue(version.to_owned())) };
        let metadata = self.node.as_mut().and_then(|node| node.metadata.as_mut()).expect("it is described");
        metadata.fields.insert(mesh_proto::protocol::FIELD.to_owned(), version);
        self
    }

    /// Asks for everything of these types, and says which of it is there.
    pub(crate) async fn ask(&mut self, kinds: &[ResourceType]) -> Result<()> {
        for kind in kinds {
            let held = self.held.iter().filter(|((of, _), _)| of == kind);
            let versions: HashMap<_, _> =
                held.map(|((_, name), resource)| (name.clone(), resource.version.clone())).collect();
            self.send(DeltaDiscoveryRequest { initial_resource_versions: versions, ..request(*kind) })
                .await?;
        }
        Ok(())
    }

    /// Says what it is, and something.
    pub(crate) async fn send(&mut self, mut request: DeltaDiscoveryRequest) -> Result<()> {
        // A proxy describes itself once.
        request.node = self.node.take().or(request.node);
        self.requests.send(request).await.context("the stream is closed")
    }

    /// The next response, without an answer to it.
    pub(crate) async fn next(&mut self) -> Result<DeltaDiscoveryResponse> {
        let response = timeout(PATIENCE, self.responses.message()).await.context("no response")??;
        response.context("the stream has ended")
    }

    /// Answers a response, with what is wrong with it if something is.
    pub(crate) async fn answer(
        &mut self,
        response: &DeltaDiscoveryResponse,
        wrong: Option<&str>,
    ) -> Result<()> {
        let error_detail = wrong.map(|text| Rejection { code: 3, message: text.to_owned() });
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail,
            ..DeltaDiscoveryRequest::default()
        };
        self.send(answer).await
    }

    /// Takes in what comes until nothing has come for [`QUIET`], and answers it; what was told, as `+name` and `-name`
    /// in the order in which it came.
    pub(crate) async fn told(&mut self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        while let Ok(response) = timeout(QUIET, self.responses.message()).await {
            let response = response?.context("the stream has ended")?;
            all.extend(self.take(&response)?);
            self.answer(&response, None).await?;
        }
        Ok(all)
    }

    /// [`Self::told`] as soon as something with this text in its name has come.
    pub(crate) async fn hear(&mut self, wanted: &str) -> Result<Vec<String>> {
        self.hear_within(wanted, PATIENCE).await
    }

    /// [`Self::hear`] with a limit of its own.
    pub(crate) async fn hear_within(&mut self, wanted: &str, limit: Duration) -> Result<Vec<String>> {
        let (mut all, end) = (Vec::new(), Instant::now() + limit);
        while !all.iter().any(|one: &String| one.contains(wanted)) {
            let Ok(response) = timeout_at(end, self.responses.message()).await else {
                bail!("nothing about {wanted} within {limit:?}, but {all:?}");
            };
            let response = response?.context("the stream has ended")?;
            all.extend(self.take(&response)?);
            self.answer(&response, None).await?;
        }
        Ok(all)
    }

    /// Keeps what a response says, and says what that is.
    pub(crate) fn take(&mut self, response: &DeltaDiscoveryResponse) -> Result<Vec<String>> {
        let kind = ResourceType::of_url(&response.type_url).context("a type that was not asked for")?;
        let mut told = Vec::new();
        for bytes in &response.resources {
            self.bytes += bytes.len();
            let resource = Resource::decode(bytes.clone())?;
            ensure!(!resource.version.is_empty(), "{} has no version", resource.name);
            told.push(format!("+{}", resource.name));
            self.held.insert((kind, resource.name.clone()), resource);
        }
        for name in &response.removed_resources {
            told.push(format!("-{name}"));
            self.held.remove(&(kind, name.clone()));
        }
        Ok(told)
    }

    /// The content of what is there under a name.
    pub(crate) fn content(&self, kind: ResourceType, name: &str) -> Result<Bytes> {
        let resource = self.held.get(&(kind, name.to_owned())).with_context(|| format!("no {name}"))?;
        Ok(resource.resource.clone().context("an empty resource")?.value.into())
    }

    /// How the stream ends: what the control plane has against it.
    pub(crate) async fn end(&mut self) -> Result<tonic::Status> {
        let end = Instant::now() + Duration::from_secs(15);
        loop {
            match timeout_at(end, self.responses.message()).await.context("it goes on")? {
                Ok(Some(_)) => {}
                Ok(None) => bail!("it has ended without a reason"),
                Err(status) => return Ok(status),
            }
        }
    }
}

/// Asks for everything of a type.
pub(crate) fn request(kind: ResourceType) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: kind.url().to_owned(), ..DeltaDiscoveryRequest::default() }
}

/// Asks for and gives up names of a type.
pub(crate) fn named(kind: ResourceType, more: &[&str], less: &[&str]) -> DeltaDiscoveryRequest {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    DeltaDiscoveryRequest {
        resource_names_subscribe: names(more),
        resource_names_unsubscribe: names(less),
        ..request(kind)
    }
}

/// As a ztunnel describes itself.
fn describe(node: &str) -> Node {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    Node {
        id: "ztunnel~10.0.0.1~ztunnel-abcde.istio-system~istio-system.svc.cluster.local".to_owned(),
        cluster: String::new(),
        metadata: Some(Struct { fields: [("NODE_NAME".to_owned(), text(node))].into() }),
    }
}

/// What a control plane that is not asked too much may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Nothing more comes after so long without anything.
const QUIET: Duration = Duration::from_millis(600);
