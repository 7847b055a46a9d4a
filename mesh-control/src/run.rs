//! What starts, in which order, and how it stops.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use mesh_ca::authority::Limits;
use mesh_ca::authorize::{Binding, Rules};
use mesh_ca::join::{JoinTokens, Terms};
use mesh_ca::rotation::{self, Dwell};
use mesh_ca::{Bundle, Ca, Material};
use mesh_core::id::SpiffeId;
use mesh_core::model::{CompileOptions, CredentialScope, Record, RecordKey, TrustBundle};
use mesh_proto::ca::istio_certificate_service_server::IstioCertificateServiceServer;
use mesh_proto::discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use mesh_proto::topology::topology_server::TopologyServer;
use mesh_source::{Change, Directory};
use rustls_pki_types::ServerName;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tracing::info;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::authn::{Authenticator, ReviewToken};
use crate::certificates::Certificates;
use crate::config::{Keep, Options, RotateOptions, RotateStep, TokenTerms};
use crate::dashboard::Dashboard;
use crate::debug::guard::Doorkeeper;
use crate::debug::{self, Debug};
use crate::discovery::{Discovery, MAX_REQUEST};
use crate::feed::{self, Findings};
use crate::hub::Hub;
use crate::intake::Metered;
use crate::kubernetes::Cluster;
use crate::listen::{self, Stream};
use crate::machines::Machines;
use crate::replicas::Replicas;
use crate::tasks;
use crate::tls::Serving;
use crate::topology::{MAX_REPORT, Relay, Topology, Traffic};
use crate::vaults::{self, Vaults};

/// Serves until told to stop.
pub fn serve(options: Options) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&options.log).context("--log")?;
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(options))
}

async fn run(options: Options) -> anyhow::Result<()> {
    info!(version = env!("CARGO_PKG_VERSION"), "Starting.");
    let limits = Limits::up_to(options.max_svid_lifetime);
    let Vaults { ca, join, cluster } = Vaults::find(&options.keep()).await?;
    let ca = vaults::open(ca, &options.trust_domain, limits).await;
    let ca = Arc::new(ca.context("opening the certificate authority")?);
    let rules = Arc::new(Rules::new(options.trust_domain.clone(), &options.root_namespace));
    let reviewer = cluster.as_ref().map(|cluster| cluster.reviewer(&rules.audiences));
    let reviewer = reviewer.map(|reviewer| Arc::new(reviewer) as Arc<dyn ReviewToken>);
    let authenticator = Arc::new(Authenticator::new(Some(JoinTokens::new(join)), reviewer));
    let hub = Arc::new(Hub::default());
    let findings = Arc::new(Findings::default());
    let trust = Trust::begin(&hub, &ca);

    let serving = Arc::new(serving(&options, &ca)?);
    let told = (Arc::clone(&hub), Arc::clone(&findings));
    let (machines, registered) = follow_machines(&options, cluster.as_ref(), (&hub, &findings));
    let membership = match &cluster {
        None => follow(&options, told, registered).map(|()| None)?,
        Some(cluster) => {
            cluster.serve_webhook(options.webhook, &serving, &hub).await?;
            let made = (compile_options(&options), options.gateways());
            Some(cluster.join(Arc::clone(&ca), made, told, registered))
        }
    };
    let traffic = Arc::<Traffic>::default();
    if let Some(cluster) = &cluster {
        cluster.mark_pods(Arc::clone(&hub), Arc::clone(&traffic));
    }
    let services = Services {
        hub: Arc::clone(&hub),
        ca: Arc::clone(&ca),
        authenticator: Arc::clone(&authenticator),
        rules,
        traffic: Arc::clone(&traffic),
        relay: cluster.is_some().then(|| relay(&options, &hub, &serving)).transpose()?,
        machines,
    };
    services.open(&options, &serving).await?;
    let dashboard = Arc::new(Dashboard {
        hub: Arc::clone(&hub),
        findings,
        traffic,
        options: options.page.clone(),
        cluster: options.cluster.clone(),
        root_namespace: options.root_namespace.clone(),
        config: options.config.as_deref().map(|path| path.canonicalize().unwrap_or_else(|_| path.to_owned())),
    });
    let doorkeeper = Doorkeeper::new(authenticator, &options.root_namespace);
    let turns = Semaphore::new(debug::TURNS);
    let debug = Arc::new(Debug { hub, ca: Arc::clone(&ca), dashboard, turns, doorkeeper });
    drop(tasks::spawn("monitoring", debug.serve(bind(options.monitoring).await?)));
    drop(tasks::spawn("certificates", keep_certificates(ca, serving, trust)));
    info!(grpc = %options.grpc, plain = %options.plain, monitoring = %options.monitoring, "Serving.");

    stop_signal().await?;
    if let Some(membership) = membership {
        membership.leave().await;
    }
    info!("Stopped; nodes go on with what they know.");
    Ok(())
}

/// Starts to tell other replicas what this one is told.
fn relay(options: &Options, hub: &Arc<Hub>, serving: &Arc<Serving>) -> anyhow::Result<Relay> {
    let name = format!("mesh-control.{}.svc", options.root_namespace);
    let name = ServerName::try_from(name).context("--root-namespace")?;
    let (sender, reports) = mpsc::channel(REPORTS);
    let way = (name, options.grpc.port());
    let replicas = Replicas::new(Arc::clone(hub), Arc::clone(serving), way, reports);
    drop(tasks::spawn("replicas", replicas.run()));
    Ok(Relay { own: serving.id().clone(), reports: sender })
}

fn compile_options(options: &Options) -> CompileOptions {
    CompileOptions {
        node: String::new(),
        trust_domain: Some(options.trust_domain.clone()),
        root_namespace: options.root_namespace.clone(),
        cluster: options.cluster.clone(),
        credentials: CredentialScope::Everybody,
    }
}

/// Starts to keep the `WorkloadEntries` of machines that register themselves.
fn follow_machines(
    options: &Options,
    cluster: Option<&Cluster>,
    (hub, findings): (&Arc<Hub>, &Arc<Findings>),
) -> (Arc<Machines>, mpsc::Receiver<Change>) {
    let written = cluster.map(Cluster::machines);
    let (machines, registered) = Machines::new((Arc::clone(hub), Arc::clone(findings)), options, written);
    drop(tasks::spawn("machines", Arc::clone(&machines).run()));
    (machines, registered)
}

/// Starts to follow a directory.
fn follow(
    options: &Options,
    told: (Arc<Hub>, Arc<Findings>),
    registered: mpsc::Receiver<Change>,
) -> anyhow::Result<()> {
    let path = options.config.as_ref().context("there is nothing to follow")?;
    let (source, changes) =
        Directory::changes(path).with_context(|| format!("opening the configuration {}", path.display()))?;
    drop(tasks::spawn("source", source.run()));
    drop(tasks::spawn("compile", feed::run(changes, compile_options(options), told, (None, registered))));
    Ok(())
}

fn serving(options: &Options, ca: &Arc<Ca>) -> anyhow::Result<Serving> {
    let id = SpiffeId::new(&options.trust_domain, &options.root_namespace, "mesh-control")?;
    Serving::new(Arc::clone(ca), id, options.serving_names())
        .context("making the control plane's certificate")
}

async fn bind(address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))
}

/// What is served on both ports.
#[derive(Clone)]
struct Services {
    hub: Arc<Hub>,
    ca: Arc<Ca>,
    authenticator: Arc<Authenticator>,
    rules: Arc<Rules>,
    traffic: Arc<Traffic>,
    /// Where there may be other replicas.
    relay: Option<Relay>,
    machines: Arc<Machines>,
}

impl Services {
    /// On both ports.
    async fn open(&self, options: &Options, serving: &Arc<Serving>) -> anyhow::Result<()> {
        let listener = bind(options.grpc).await?;
        let tls = Arc::clone(serving);
        self.serve(listen::accept(listener, Some(Arc::new(move || tls.config()))), "tls port");
        self.serve(listen::accept(bind(options.plain).await?, None), "plain port");
        Ok(())
    }

    fn serve(&self, connections: mpsc::Receiver<io::Result<Stream>>, name: &'static str) {
        let Self { hub, ca, authenticator, rules, traffic, relay, machines } = self.clone();
        let told = (Arc::clone(&authenticator), Arc::clone(&rules));
        let discovery = Discovery::new(Arc::clone(&hub), told, Arc::clone(&machines));
        let discovery =
            AggregatedDiscoveryServiceServer::new(discovery).max_decoding_message_size(MAX_REQUEST);
        let told = (Arc::clone(&hub), Arc::clone(&authenticator), Arc::clone(&rules));
        let topology = Topology::new(traffic, told.0, told.1, told.2, relay);
        let topology = TopologyServer::new(topology).max_decoding_message_size(MAX_REPORT);
        let certificates = Certificates::new((ca, hub), (authenticator, rules), machines);
        let certificates =
            IstioCertificateServiceServer::new(certificates).max_decoding_message_size(MAX_CSR);
        let router = listen::server().add_service(Metered(discovery));
        let router = router.add_service(certificates).add_service(topology);
        drop(tasks::spawn(name, async move {
            if let Err(error) = router.serve_with_incoming(ReceiverStream::new(connections)).await {
                // Without its ports the process is of no use; a new one starts clean.
                tracing::error!(%error, "A port cannot be served.");
                std::process::exit(1);
            }
        }));
    }
}

/// Tells subscribers what to trust.
struct Trust {
    hub: Arc<Hub>,
    told: Option<Arc<Bundle>>,
}

impl Trust {
    /// Tells those of `hub` to trust `ca` as it is.
    fn begin(hub: &Arc<Hub>, ca: &Ca) -> Self {
        let mut trust = Self { hub: Arc::clone(hub), told: None };
        trust.tell(ca.authority().bundle());
        trust
    }

    /// Unless it is what was told last.
    fn tell(&mut self, bundle: &Arc<Bundle>) {
        if self.told.as_ref() == Some(bundle) {
            return;
        }
        let trust = TrustBundle { roots: bundle.roots_pem().into(), crls: bundle.crls().to_pem().into() };
        self.hub.publish(vec![(RecordKey::Trust, Some(Record::Trust(Arc::new(trust))))]);
        self.told = Some(Arc::clone(bundle));
    }
}

/// Looks after the CA and the own certificate, and tells everybody what to trust.
async fn keep_certificates(ca: Arc<Ca>, serving: Arc<Serving>, mut trust: Trust) {
    let mut complaint = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let error = ca.refresh(SystemTime::now()).await.err().map(|error| error.to_string());
        if let Some(error) = error.as_ref().filter(|error| complaint.as_ref() != Some(*error)) {
            tracing::error!(
                error,
                "The certificate authority cannot be read again; the last state stays in force."
            );
        }
        complaint = error;
        if let Err(error) = serving.refresh(SystemTime::now()) {
            tracing::error!(%error, "The control plane's certificate cannot be renewed.");
        }
        trust.tell(ca.authority().bundle());
    }
}

async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// `mesh-control ca rotate`.
pub fn rotate(options: &RotateOptions) -> anyhow::Result<()> {
    let RotateOptions { keep, step, trust_domain, max_svid_lifetime, propagation } = options;
    let dwell = Dwell { longest_leaf: *max_svid_lifetime, propagation: *propagation };
    let now = SystemTime::now();
    let status = block_on(async {
        let vault = &*Vaults::find(keep).await?.ca;
        match step {
            RotateStep::Begin => {
                let next = Material::self_made(trust_domain, now)?;
                Ok(rotation::begin(vault, trust_domain, &next, dwell, now).await?)
            }
            RotateStep::Switch => Ok(rotation::switch(vault, trust_domain, dwell, now).await?),
            RotateStep::Finish => Ok(rotation::finish(vault, trust_domain, dwell, now).await?),
            RotateStep::Abort => Ok(rotation::abort(vault, trust_domain, dwell, now).await?),
            RotateStep::Status => Ok(rotation::status(vault, trust_domain, dwell, now).await?),
        }
    })?;
    let status = status.map_err(|error: anyhow::Error| error.context("changing the root"))?;
    print(&format!("{} (next step in {} s)", status.phase, status.left.as_secs()));
    for root in &status.roots {
        let signs = if root.signs { "signs" } else { "trusted" };
        print(&format!("{signs:<8} {} {}", root.fingerprint.get(..16).unwrap_or_default(), root.subject));
    }
    Ok(())
}

/// `mesh-control join create`.
pub fn create_token(keep: &Keep, terms: &TokenTerms) -> anyhow::Result<()> {
    let TokenTerms { node, identity, uses, lifetime } = terms;
    let binding = match (node, identity) {
        (_, Some(identity)) => Binding::Identity(identity.clone()),
        (Some(node), None) => Binding::Node(node.clone()),
        (None, None) => anyhow::bail!("--node or --identity is needed"),
    };
    let terms = Terms { binding, uses: *uses, lifetime: *lifetime };
    let token = block_on(async {
        let tokens = JoinTokens::new(Vaults::find(keep).await?.join);
        anyhow::Ok(tokens.create(terms, SystemTime::now()).await?)
    })??;
    print(&token.text());
    Ok(())
}

/// `mesh-control join list`.
pub fn list_tokens(keep: &Keep) -> anyhow::Result<()> {
    let now = SystemTime::now();
    let tokens = block_on(async {
        let tokens = JoinTokens::new(Vaults::find(keep).await?.join);
        anyhow::Ok(tokens.list(now).await?)
    })??;
    print(&format!("{:<18} {:<30} {:>9} {:>12}", "ID", "FOR", "USES LEFT", "EXPIRES IN"));
    for token in tokens {
        let left = token.expires.duration_since(now).unwrap_or_default().as_secs();
        let binding = token.binding.to_string();
        print(&format!("{:<18} {binding:<30} {:>9} {:>11}s", token.id, token.uses_left, left));
    }
    Ok(())
}

/// `mesh-control join revoke`.
pub fn revoke_token(keep: &Keep, id: &str) -> anyhow::Result<()> {
    block_on(async {
        let tokens = JoinTokens::new(Vaults::find(keep).await?.join);
        tokens.revoke(id, SystemTime::now()).await.with_context(|| format!("revoking {id}"))
    })?
}

fn block_on<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}

#[expect(clippy::print_stdout, reason = "the result of the command")]
fn print(text: &str) {
    println!("{text}");
}

/// Bytes of a request for a certificate.
const MAX_CSR: usize = 64 << 10;
/// Reports that wait to be passed on to other replicas.
const REPORTS: usize = 512;
/// How often the CA's files, or its Secret, are looked at: what a revocation list names is out within a second.
const LOOK: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use mesh_proto::names::ResourceType;

    use super::*;

    fn bundle(name: &str) -> Arc<Bundle> {
        let root = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        Arc::new(Bundle::parse(root.cert.pem().as_bytes(), b"").expect("a bundle"))
    }

    #[test]
    fn trust_is_told_at_once_and_again_when_it_differs() {
        let hub = Arc::new(Hub::default());
        let mut trust = Trust { hub: Arc::clone(&hub), told: None };
        let (one, two) = (bundle("one"), bundle("two"));
        trust.tell(&one);
        trust.tell(&Arc::new(Bundle::clone(&one)));
        assert_eq!(hub.shelf().sequence(), 1);
        trust.tell(&two);
        assert_eq!(hub.shelf().sequence(), 2);
        let told: Vec<_> =
            hub.shelf().store(ResourceType::Trust).iter().map(|entry| entry.record.clone()).collect();
        assert!(matches!(&told[..], [Record::Trust(told)] if *told.roots == *two.roots_pem()), "{told:?}");
    }
}
