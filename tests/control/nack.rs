//! A real node that is told what it cannot read: it says so, goes on with everything else, and the control plane shows
//! it for as long as it is so. Between the two stands a proxy that spoils what passes; nothing else here is not real.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use mesh_proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use mesh_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use mesh_tests::http::{Request, fetch};
use prost::Message as _;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::{Endpoint, Server};
use tonic::{Response, Status, Streaming};

use crate::control::program_at;
use crate::discovery::{app, over, service};
use crate::plane::{MONITORING, PLAIN, Plane, until};

/// What passes between a node and its control plane.
#[derive(Default)]
struct Wire {
    /// Of the resource whose name ends like this, nothing can be made.
    spoilt: Option<String>,
    /// What the node has said of what it rejects.
    rejections: Vec<String>,
    /// How often the spoilt one was told.
    told: usize,
}

/// Passes on what both have to say.
struct Between {
    control: SocketAddr,
    wire: Arc<Mutex<Wire>>,
}

type Responses = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Between {
    type DeltaAggregatedResourcesStream = Responses;

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.control)).expect("an address");
        let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let (sender, receiver) = mpsc::channel(16);
        let (mut requests, wire) = (request.into_inner(), Arc::clone(&self.wire));
        let forward = async move {
            while let Ok(Some(request)) = requests.message().await {
                if let Some(error) = &request.error_detail {
                    wire.lock().expect("no panic").rejections.push(error.message.clone());
                }
                if sender.send(request).await.is_err() {
                    return;
                }
            }
        };
        drop(mesh_control::tasks::spawn("requests", forward));
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let answers = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await?.into_inner();
        let wire = Arc::clone(&self.wire);
        let spoilt =
            answers.map(move |answer| answer.map(|answer| wire.lock().expect("no panic").pass(answer)));
        Ok(Response::new(Box::pin(spoilt)))
    }
}

impl Wire {
    fn pass(&mut self, mut response: DeltaDiscoveryResponse) -> DeltaDiscoveryResponse {
        let Some(spoilt) = &self.spoilt else { return response };
        for bytes in &mut response.resources {
            let mut resource = Resource::decode(bytes.clone()).expect("a resource");
            if resource.name.ends_with(spoilt)
                && let Some(content) = &mut resource.resource
            {
                self.told += 1;
                // A field of a kind that there is not.
                content.value = vec![0xff; 7];
                *bytes = resource.encode_to_vec().into();
            }
        }
        response
    }
}

/// A gateway: a node that needs no privilege.
struct Node {
    child: Child,
    admin: SocketAddr,
    log: PathBuf,
}

impl Node {
    fn start(plane: &Plane, control: SocketAddr) -> Result<Self> {
        let admin = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let log = plane.scratch().join("node.log");
        let mut command = Command::new(program_at("mesh-node"));
        command.args(["gateway", "--name", "istio-system/edge", "--bind", &plane.at(0).ip().to_string()]);
        command.args(["--admin-port", &admin.port().to_string(), "--control", &format!("http://{control}")]);
        command.arg("--control-ca").arg(plane.state().join("ca/root-cert.pem"));
        command.arg("--state").arg(plane.scratch().join("node"));
        command.arg("--svid-cache").arg(plane.scratch().join("cache"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        Ok(Self { child: command.spawn().context("mesh-node")?, admin, log })
    }

    /// Ports of a service as the node's dump has them; none if it does not know it.
    fn ports(&self, app: &str) -> Option<String> {
        let answer = fetch(self.admin, &Request::get("/config_dump"), Duration::from_secs(2)).ok()?;
        let dump: Value = serde_json::from_str(&answer.text()).ok()?;
        let services = dump["services"].as_array()?;
        let (_, hostname) = service(app).split_once('/').map(|(a, b)| (a.to_owned(), b.to_owned()))?;
        let one = services.iter().find(|one| one["hostname"] == *hostname)?;
        Some(one["ports"].to_string())
    }

    async fn has(&self, app: &str, port: &str) -> Result<()> {
        let shows = || self.ports(app).is_some_and(|ports| ports.contains(port));
        until(Duration::from_secs(10), shows).await.with_context(|| {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            format!("{app} with port {port}: {:?}\n{log}", self.ports(app))
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the control plane shows of the node's addresses.
fn shown(plane: &Plane) -> Result<Value> {
    let syncz = plane.subscribers()?;
    let types = syncz["subscribers"][0]["types"].as_array().context("types")?.clone();
    types.into_iter().find(|one| one["type"] == "Address").context("addresses")
}

/// What a user sees.
fn proxy_status(plane: &Plane) -> Result<String> {
    let control = format!("http://{}", plane.at(MONITORING));
    let output =
        Command::new(program_at("meshctl")).args(["proxy-status", "--control", &control]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_cannot_read_is_rejected_alone_and_shown_until_it_is_good() -> Result<()> {
    let files = [
        ("a.yaml", app("a", "n1", "10.1.0.1", 8001)),
        ("b.yaml", app("b", "n2", "10.2.0.2", 8001)),
        ("c.yaml", app("c", "n2", "10.2.0.3", 8001)),
    ];
    let plane = over(&files)?;
    let wire = Arc::new(Mutex::new(Wire { spoilt: Some(service("b")), ..Wire::default() }));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let between = Between { control: plane.at(PLAIN), wire: Arc::clone(&wire) };
    let mut serving = JoinSet::new();
    let server = Server::builder().add_service(AggregatedDiscoveryServiceServer::new(between));
    serving.spawn(async move { server.serve_with_incoming(TcpListenerStream::new(listener)).await });
    let node = Node::start(&plane, address)?;

    // The rest of the same response is in force.
    node.has("a", "8001").await?;
    node.has("c", "8001").await?;
    ensure!(node.ports("b").is_none(), "what cannot be read was taken: {:?}", node.ports("b"));
    let rejected = || shown(&plane).is_ok_and(|one| one["rejected"] == 1);
    until(Duration::from_secs(5), rejected).await.with_context(|| format!("{:?}", shown(&plane)))?;
    let said = shown(&plane)?["lastRejection"].as_str().context("no reason")?.to_owned();
    ensure!(said.contains(&service("b")) && said.len() > service("b").len() + 5, "by name, and why: {said}");
    let table = proxy_status(&plane)?;
    ensure!(table.contains(&service("b")) && table.contains("SYNCED"), "{table}");

    // No loop: it is told once, and rejected once, whatever else happens.
    plane.write("a.yaml", &app("a", "n1", "10.1.0.1", 8002))?;
    node.has("a", "8002").await?;
    sleep(Duration::from_secs(3)).await;
    {
        let wire = wire.lock().expect("no panic");
        ensure!((wire.told, wire.rejections.len()) == (1, 1), "{} times: {:?}", wire.told, wire.rejections);
        ensure!(wire.rejections[0] == said, "another reason than the node gave: {:?}", wire.rejections);
    }
    ensure!(shown(&plane)?["lastRejection"] == *said, "it is still so: {}", shown(&plane)?);

    // A newer one that is as bad is rejected as well; the next good one ends it.
    plane.write("b.yaml", &app("b", "n2", "10.2.0.2", 8003))?;
    let again = || shown(&plane).is_ok_and(|one| one["rejected"] == 2);
    until(Duration::from_secs(5), again).await.with_context(|| format!("{:?}", shown(&plane)))?;
    wire.lock().expect("no panic").spoilt = None;
    plane.write("b.yaml", &app("b", "n2", "10.2.0.2", 8004))?;
    node.has("b", "8004").await?;
    let settled = || shown(&plane).is_ok_and(|one| one["lastRejection"].is_null());
    until(Duration::from_secs(5), settled).await.with_context(|| format!("{:?}", shown(&plane)))?;
    let table = proxy_status(&plane)?;
    ensure!(!table.contains(&service("b")), "{table}");
    ensure!(shown(&plane)?["rejected"] == 2, "it is still counted: {}", shown(&plane)?);
    ensure!(plane.metric("pilot_total_xds_rejects")? == 2, "and in the metrics");
    Ok(())
}
