//! The real `mesh-control --kubernetes`, in a cluster that grants it what its manifest says and nothing else.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mesh_proto::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use mesh_proto::ca::{IstioCertificateRequest, IstioCertificateResponse};
use mesh_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use mesh_proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource as Sent, Status as Rejection,
};
use mesh_proto::names::{self, ResourceType};
use mesh_proto::topology::TopologyReport;
use mesh_proto::topology::topology_client::TopologyClient;
use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{Struct, Value as ProtoValue};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::api::Cluster;
use crate::caller::{self, Svid, Wish};

/// A process that is killed when it is dropped.
pub(crate) struct Control {
    child: Child,
    grpc: SocketAddr,
    plain: SocketAddr,
    monitoring: SocketAddr,
    pub(crate) webhook: SocketAddr,
    kubeconfig: PathBuf,
    root: String,
    directory: TempDir,
}

/// Takes whoever answers for the server.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Somebody who follows discovery.
pub(crate) struct Subscriber {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    /// What it has by name.
    pub(crate) has: BTreeMap<String, Vec<u8>>,
    /// What it was told to forget, in order.
    pub(crate) removed: Vec<String>,
}

/// The documents of a file of `deploy`.
pub(crate) fn manifests(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    let text = fs::read_to_string(path).expect("a manifest");
    serde_yaml_ng::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).expect("YAML"))
        .collect()
}

/// A pod that runs.
pub(crate) fn pod((namespace, name): (&str, &str), (node, ip): (&str, &str), account: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "nodeName": node, "serviceAccountName": account, "containers": [{"name": "c", "image": "i"}],
        },
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// Waits for something to come true; fails after a minute.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not come");
        sleep(Duration::from_millis(50)).await;
    }
}

impl Control {
    /// Starts one, which has the token of its service account; it need not have come far yet.
    pub(crate) async fn start(cluster: &Cluster) -> Self {
        let token = cluster.token(&cluster.root, "mesh-control", &json!({})).await;
        Self::start_with(cluster, &token)
    }

    /// [`Self::start`] where the API server may not be there yet.
    pub(crate) fn start_with(cluster: &Cluster, token: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let kubeconfig = directory.path().join("kubeconfig");
        fs::write(&kubeconfig, cluster.kubeconfig(Some(token)).to_string()).expect("written");
        let root = cluster.root.clone();
        let [grpc, plain, monitoring, webhook] = addresses();
        let log = File::create(directory.path().join("log")).expect("a file");
        let mut command = program(&kubeconfig);
        command.args(["--kubernetes", "--log", "info,mesh_source=debug", "--root-namespace", &root]);
        command.stderr(log).stdin(Stdio::null());
        for (option, address) in
            [("--grpc", grpc), ("--plain", plain), ("--monitoring", monitoring), ("--webhook", webhook)]
        {
            command.arg(option).arg(address.to_string());
        }
        let child = command.spawn().expect("mesh-control starts");
        Self { child, grpc, plain, monitoring, webhook, kubeconfig, root, directory }
    }

    /// Starts one and waits until it has read the cluster.
    pub(crate) async fn ready(cluster: &Cluster) -> Self {
        let mut control = Self::start(cluster).await;
        control.until_ready().await;
        control
    }

    pub(crate) async fn until_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.get("/healthz/ready").await.is_none_or(|answer| !answer.contains(" 200 ")) {
            let ended = self.child.try_wait().expect("a child");
            let late = Instant::now() >= deadline;
            assert!(ended.is_none() && !late, "it does not become ready ({ended:?}):\n{}", self.log());
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).expect("a log")
    }

    /// Another command of the same program, about what the same cluster keeps.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = program(&self.kubeconfig);
        command.args(arguments).args(["--kubernetes", "--root-namespace", &self.root]);
        command.output().expect("mesh-control runs")
    }

    /// Asks it to end, and waits until it has.
    pub(crate) async fn terminate(&mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().expect("kill runs").success());
        let child = &mut self.child;
        until("the end of the process", || child.try_wait().expect("a child").is_some()).await;
    }

    /// Asks for a certificate with a token.
    pub(crate) async fn certificate(
        &self,
        token: &str,
        identity: Option<&str>,
    ) -> Result<IstioCertificateResponse, Status> {
        let key = rcgen::KeyPair::generate().expect("a key");
        let csr = rcgen::CertificateParams::default().serialize_request(&key).expect("a request");
        let field = identity.map(|id| {
            let value = ProtoValue { kind: Some(Kind::StringValue(id.to_owned())) };
            ("ImpersonatedIdentity".to_owned(), value)
        });
        let metadata = Some(Struct { fields: field.into_iter().collect() });
        let csr = csr.pem().expect("PEM");
        let mut request = Request::new(IstioCertificateRequest { csr, validity_duration: 600, metadata });
        let token = format!("Bearer {token}").parse().expect("a header");
        request.metadata_mut().insert("authorization", token);
        let answer = IstioCertificateServiceClient::new(self.secure_channel(None).await)
            .create_certificate(request)
            .await;
        answer.map(tonic::Response::into_inner)
    }

    /// Asks for a certificate with a token, or with the one before it.
    pub(crate) async fn certify(&self, svid: Option<&Svid>, token: Option<&str>) -> Result<Svid, Status> {
        caller::certify(self.secure_channel(svid).await, &Wish { token, ..Wish::default() }).await
    }

    /// Follows all services and workloads.
    pub(crate) async fn subscribe(&self) -> Subscriber {
        let node = Node { id: "test".to_owned(), ..Node::default() };
        Subscriber::begin(self.channel().await, ResourceType::Address, node, None).await
    }

    /// The same as a machine that says this of itself, with a token.
    pub(crate) async fn attend(&self, said: &[(&str, &str)], token: &str) -> Subscriber {
        self.follow(ResourceType::Address, said, token).await
    }

    /// Follows one type as somebody who says this of itself, with a token.
    pub(crate) async fn follow(&self, kind: ResourceType, said: &[(&str, &str)], token: &str) -> Subscriber {
        let value = |text: &str| ProtoValue { kind: Some(Kind::StringValue(text.to_owned())) };
        let fields = said.iter().map(|(name, text)| ((*name).to_owned(), value(text))).collect();
        let node = Node { id: "machine".to_owned(), metadata: Some(Struct { fields }), ..Node::default() };
        Subscriber::begin(self.secure_channel(None).await, kind, node, Some(token)).await
    }

    /// Tells it what a proxy tells.
    pub(crate) async fn report(&self, report: TopologyReport) {
        let mut client = TopologyClient::new(self.channel().await);
        client.report(report).await.expect("it is taken");
    }

    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.plain)).expect("an address");
        endpoint.connect().await.expect("a connection")
    }

    /// Certificates are given over TLS only. Whether the server is who it says is not what these tests are about.
    async fn secure_channel(&self, svid: Option<&Svid>) -> Channel {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let anybody = Arc::new(Anybody(Arc::clone(&provider)));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(anybody);
        let mut config = match svid {
            None => builder.with_no_client_auth(),
            Some(svid) => svid.show(builder),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (to, config) = (self.grpc, Arc::new(config));
        let connector = tower::service_fn(move |_| {
            let config = Arc::clone(&config);
            async move { caller::handshake(to, config).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://mesh-control");
        endpoint.connect_with_connector(connector).await.expect("a connection")
    }

    /// The answer of the monitoring port, head and all; none if there is none.
    pub(crate) async fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.monitoring).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Subscriber {
    async fn begin(channel: Channel, kind: ResourceType, node: Node, token: Option<&str>) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let kind = kind.url().to_owned();
        let first = DeltaDiscoveryRequest { node: Some(node), type_url: kind, ..Default::default() };
        requests.send(first).await.expect("room");
        let mut call = Request::new(ReceiverStream::new(receiver));
        if let Some(token) = token {
            let token = format!("Bearer {token}").parse().expect("a header");
            call.metadata_mut().insert("authorization", token);
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client.delta_aggregated_resources(call).await;
        let responses = responses.expect("a stream").into_inner();
        Self { requests, responses, has: BTreeMap::new(), removed: Vec::new() }
    }

    /// Says how the machine is: well, or why not.
    pub(crate) async fn say_health(&self, wrong: Option<&str>) {
        let error_detail = wrong.map(|text| Rejection { code: 14, message: text.to_owned() });
        let type_url = names::HEALTH.to_owned();
        let request = DeltaDiscoveryRequest { type_url, error_detail, ..Default::default() };
        self.requests.send(request).await.expect("somebody listens");
    }

    /// Why the stream ends, within ten seconds.
    pub(crate) async fn refusal(&mut self) -> Status {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match timeout_at(deadline, self.responses.message()).await.expect("an end") {
                Err(status) => return status,
                Ok(response) => assert!(response.is_some(), "it ended without a reason"),
            }
        }
    }

    /// Takes what comes until `done` is satisfied; fails after a minute.
    pub(crate) async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !done(self) {
            let next = timeout_at(deadline, self.responses.message()).await;
            let names: Vec<_> = self.has.keys().collect();
            assert!(next.is_ok(), "{what} did not come; there is {names:?}");
            let response = next.expect("in time").expect("an unbroken stream").expect("no end");
            self.take(response).await;
        }
    }

    /// Takes what comes within this time.
    pub(crate) async fn listen(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while let Ok(next) = timeout_at(deadline, self.responses.message()).await {
            let response = next.expect("an unbroken stream").expect("no end");
            self.take(response).await;
        }
    }

    /// Whether something is there whose name ends like this.
    pub(crate) fn knows(&self, end: &str) -> bool {
        self.has.keys().any(|name| name.ends_with(end))
    }

    async fn take(&mut self, response: DeltaDiscoveryResponse) {
        for bytes in &response.resources {
            let sent = Sent::decode(bytes.as_ref()).expect("a resource");
            self.has.insert(sent.name, sent.resource.expect("content").value);
        }
        for name in response.removed_resources {
            self.has.remove(&name);
            self.removed.push(name);
        }
        let DeltaDiscoveryResponse { type_url, nonce, .. } = response;
        let acknowledged = DeltaDiscoveryRequest { type_url, response_nonce: nonce, ..Default::default() };
        self.requests.send(acknowledged).await.expect("somebody listens");
    }
}

/// The program, which stands beside the directory of this one.
fn program(kubeconfig: &Path) -> Command {
    let mut command = Command::new(program_at("mesh-control"));
    command.env("KUBECONFIG", kubeconfig).env_remove("RUST_LOG");
    command
}

/// Where a program of ours is.
pub(crate) fn program_at(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a program");
    let path = own.ancestors().nth(2).expect("a target directory").join(name);
    assert!(path.is_file(), "there is no {} (`cargo build -p {name}` makes it)", path.display());
    path
}

/// Addresses that were free a moment ago.
fn addresses() -> [SocketAddr; 4] {
    let listeners = [(); 4].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("an address"))
}
