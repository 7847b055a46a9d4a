//! What `mesh-node` has to live with under somebody else's control plane: one that speaks Istio's own two types and
//! nothing of ours, takes only Istio's kinds of proxies, knows callers by the token of their service account, and names
//! its roots in the answers of its CA. It takes the model from a `mesh-control` beside it and leaves out what is ours.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use bytes::Bytes;
use mesh_ca::authorize::{Caller, NodeName, Placement, Request as Wanted, Rules};
use mesh_ca::{Ca, Csr, FileVault, Limits, bundle::pem, issue};
use mesh_control::tasks;
use mesh_core::id::{SpiffeId, TrustDomain};
use mesh_proto::ca::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use mesh_proto::ca::{IstioCertificateRequest, IstioCertificateResponse};
use mesh_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use mesh_proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use mesh_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use mesh_proto::names::ResourceType;
use mesh_proto::workload::{Address, address};
use prost::Message;
use prost_types::value::Kind;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::tool;

/// What it needs.
#[derive(Debug, Clone)]
pub struct Place {
    /// Where to listen, with TLS.
    pub listen: SocketAddr,
    /// The plain port of a `mesh-control`.
    pub upstream: SocketAddr,
    /// The directory of its state, with the CA.
    pub state: PathBuf,
    /// The token that callers show.
    pub token: String,
}

/// Serves until the process ends.
pub fn serve(place: Place) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(place))
}

async fn run(place: Place) -> Result<()> {
    let domain = TrustDomain::default();
    let ca = open_ca(&place.state, &domain).await?;
    let id = SpiffeId::new(&domain, "istio-system", "istiod").context("an identity")?;
    let names = vec![place.listen.ip().to_string()];
    let serving = mesh_control::tls::Serving::new(Arc::clone(&ca), id, names)?;
    let upstream = Channel::from_shared(format!("http://{}", place.upstream))?.connect_lazy();
    let token = format!("Bearer {}", place.token);
    let discovery = Discovery { upstream, token: token.clone() };
    let certificates = Certificates { ca, rules: Arc::new(Rules::new(domain, "istio-system")), token };
    let listener = TcpListener::bind(place.listen).await?;
    tool::say(&format!("LISTENING {}", listener.local_addr()?));
    let (connections, accepted) = mpsc::channel(16);
    let acceptor = TlsAcceptor::from(serving.config());
    drop(tasks::spawn("connections", async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, connections) = (acceptor.clone(), connections.clone());
            drop(tasks::spawn("connection", async move {
                let Ok(mut stream) = acceptor.accept(tcp).await else { return };
                let (near, mut far) = tokio::io::duplex(64 << 10);
                if connections.send(Ok::<_, std::io::Error>(near)).await.is_ok() {
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut far).await;
                }
            }));
        }
    }));
    Server::builder()
        .add_service(AggregatedDiscoveryServiceServer::new(discovery))
        .add_service(IstioCertificateServiceServer::new(certificates))
        .serve_with_incoming(ReceiverStream::new(accepted))
        .await?;
    Ok(())
}

async fn open_ca(directory: &Path, domain: &TrustDomain) -> Result<Arc<Ca>> {
    let vault = Arc::new(FileVault::ca(directory));
    Ok(Arc::new(Ca::open(vault, domain, Limits::default(), SystemTime::now()).await?))
}

fn check<T>(request: &Request<T>, token: &str) -> Result<(), Status> {
    let shown = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    if shown == Some(token) { Ok(()) } else { Err(Status::unauthenticated("authentication failure")) }
}

struct Discovery {
    upstream: Channel,
    token: String,
}

type Responses = Pin<Box<dyn tokio_stream::Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream = Responses;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        check(&request, &self.token)?;
        let (responses, receiver) = mpsc::channel(16);
        let (requests, upstream) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(self.upstream.clone());
        let mut asked = request.into_inner();
        drop(tasks::spawn("subscriber", async move {
            let refused = responses.clone();
            let forward = async {
                while let Ok(Some(request)) = asked.message().await {
                    if let Some(status) = request.node.as_ref().and_then(|node| refusal(&node.id)) {
                        let _ = refused.send(Err(status)).await;
                        return;
                    }
                    // Of types that it does not have, it says nothing at all.
                    if is_istios(&request.type_url) && requests.send(request).await.is_err() {
                        return;
                    }
                }
            };
            let answer = async {
                let call = client.delta_aggregated_resources(ReceiverStream::new(upstream)).await;
                let Ok(mut told) = call.map(Response::into_inner) else { return };
                while let Ok(Some(response)) = told.message().await {
                    if responses.send(stripped(response)).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = forward => {}
                () = answer => {}
            }
        }));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn is_istios(url: &str) -> bool {
    [ResourceType::Address, ResourceType::Authorization].iter().any(|kind| kind.url() == url)
}

/// Why a caller with this node id is turned away: Istio parses `TYPE~IP~NAME.NAMESPACE~DOMAIN`.
fn refusal(id: &str) -> Option<Status> {
    let parts: Vec<_> = id.split('~').collect();
    let good = matches!(parts.as_slice(), [kind, ip, _, _]
        if ["sidecar", "router", "waypoint", "ztunnel"].contains(kind) && ip.parse::<IpAddr>().is_ok());
    (!good).then(|| Status::invalid_argument(format!("invalid service node {id:?}")))
}

fn stripped(mut response: DeltaDiscoveryResponse) -> Result<DeltaDiscoveryResponse, Status> {
    // It tells of everything at once, and of no more to come.
    response.system_version_info.clear();
    if response.type_url == ResourceType::Address.url() {
        let all = response
            .resources
            .into_iter()
            .map(|bytes| strip(bytes).map_err(|error| Status::internal(error.to_string())));
        response.resources = all.collect::<Result<_, _>>()?;
    }
    Ok(response)
}

fn strip(bytes: Bytes) -> Result<Bytes> {
    let mut resource = Resource::decode(bytes)?;
    let payload = resource.resource.as_mut().context("a resource without content")?;
    let mut address = Address::decode(payload.value.as_slice())?;
    match address.r#type.as_mut().context("an address of no kind")? {
        address::Type::Workload(workload) => workload.extensions.clear(),
        address::Type::Service(service) => service.extensions.clear(),
    }
    payload.value = address.encode_to_vec();
    Ok(resource.encode_to_vec().into())
}

struct Certificates {
    ca: Arc<Ca>,
    rules: Arc<Rules>,
    token: String,
}

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        check(&request, &self.token)?;
        let request = request.into_inner();
        let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
        let csr = Csr::parse_pem(request.csr.as_bytes()).map_err(|error| invalid(&error))?;
        let fields = request.metadata.unwrap_or_default().fields;
        let field = fields.get("ImpersonatedIdentity").and_then(|it| it.kind.as_ref());
        let Some(Kind::StringValue(id)) = field else { return Err(invalid(&"whose certificate?")) };
        let id = SpiffeId::parse(id).map_err(|error| invalid(&error))?;
        let seconds = u64::try_from(request.validity_duration).map_err(|error| invalid(&error))?;
        let wanted = Wanted { impersonated: Some(id), csr, ttl: Some(Duration::from_secs(seconds)) };
        let authority = self.ca.authority();
        let granted = (&*self.rules, &Anywhere as &dyn Placement);
        let signed = issue(&authority, &ztunnel(), wanted, granted, SystemTime::now());
        let signed = signed.map_err(|error| Status::permission_denied(error.to_string()))?;
        let chain = signed.certificates.iter().map(|der| pem("CERTIFICATE", der));
        Ok(Response::new(IstioCertificateResponse {
            cert_chain: chain.chain([authority.bundle().roots_pem()]).collect(),
        }))
    }
}

/// Whom every caller with the token is taken for.
fn ztunnel() -> Caller {
    Caller::ServiceAccountToken {
        namespace: "istio-system".to_owned(),
        service_account: "ztunnel".to_owned(),
        audiences: vec!["istio-ca".to_owned()],
        pod: None,
        node: NodeName::parse("any").ok(),
    }
}

/// Which pods run where is not what is tried here.
struct Anywhere;

impl Placement for Anywhere {
    fn is_somebody(&self, _: &SpiffeId) -> bool {
        true
    }

    fn runs_on(&self, _: &NodeName, _: &SpiffeId) -> bool {
        true
    }
}
