//! A real `mesh-control` over a mesh of a given size: its own process, which follows the suite's API server as it would
//! follow a cluster's.

use std::{
    env,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use super::{Crowd, part::Resident, scale::Server};
use crate::{
    apiserver::{ApiServer, Resource, Settings},
    bench::process,
    http::{Request, fetch},
};

/// A cluster with everything in it, before anybody has looked.
pub(super) struct Cluster {
    server: ApiServer,
    crowd: Crowd,
    directory: PathBuf,
}

/// The control plane; dropping it ends it.
pub(super) struct Plane<'a> {
    cluster: &'a Cluster,
    child: Child,
    discovery: SocketAddr,
    monitoring: SocketAddr,
}

impl Cluster {
    /// One that `crowd` lives in.
    pub(super) fn new(crowd: Crowd) -> Result<Self> {
        let settings = Settings { bookmark_interval: Duration::from_secs(5), ..Settings::default() };
        let server = ApiServer::start(&settings)?;
        let security = |kind: &str, plural: &str| {
            server.define(Resource::custom("security.istio.io", &["v1"], kind, plural));
        };
        security("PeerAuthentication", "peerauthentications");
        security("AuthorizationPolicy", "authorizationpolicies");
        for object in crowd.manifests() {
            server.put(&object);
        }
        // Nobody asks how it has come to this.
        server.compact();
        let directory = env::temp_dir().join(format!("bench-control-{}", std::process::id()));
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        Ok(Self { server, crowd, directory })
    }

    /// Starts a control plane that follows it.
    pub(super) fn control(&self) -> Result<Plane<'_>> {
        let kubeconfig = self.directory.join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": self.server.url()}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        fs::write(&kubeconfig, config.to_string()).with_context(|| kubeconfig.display().to_string())?;
        let own = env::current_exe().context("where is this program?")?;
        let beside = own.ancestors().skip(1).take(2).map(|place| place.join("mesh-control"));
        let program = beside.clone().find(|path| path.is_file());
        let program = program.context("there is no mesh-control beside the bench")?;
        let [discovery, grpc, monitoring, webhook] = addresses()?;
        // It ends with the bench, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program);
        command.env("KUBECONFIG", &kubeconfig).env_remove("RUST_LOG").args(["--kubernetes", "--log", "warn"]);
        for (option, address) in
            [("--plain", discovery), ("--grpc", grpc), ("--monitoring", monitoring), ("--webhook", webhook)]
        {
            command.arg(option).arg(address.to_string());
        }
        let log = File::create(self.log()).context("a log")?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.context("mesh-control does not start")?;
        Ok(Plane { cluster: self, child, discovery, monitoring })
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // What is left of it in the directory for temporary files is small.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Plane<'_> {
    /// Where it serves discovery.
    pub(super) fn address(&self) -> SocketAddr {
        self.discovery
    }

    /// Waits until it has read the cluster, and serves.
    pub(super) fn wait_ready(&mut self, within: Duration) -> Result<()> {
        let end = Instant::now() + within;
        let request = Request::get("/healthz/ready");
        loop {
            let answer = fetch(self.monitoring, &request, Duration::from_secs(1));
            if answer.is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("mesh-control has ended ({status}): {}", self.said());
            }
            ensure!(Instant::now() < end, "mesh-control is not ready within {within:?}: {}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.cluster.log()).unwrap_or_default()
    }
}

impl Server for Plane<'_> {
    fn change(&mut self, index: u32, ready: bool) -> Result<()> {
        self.cluster.server.put(&self.cluster.crowd.slice_manifest(index, ready));
        Ok(())
    }

    fn cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds(&[self.child.id()])
    }

    fn resident(&self) -> Result<Resident> {
        Resident::of(self.child.id())
    }
}

impl Drop for Plane<'_> {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Addresses that were free a moment ago.
fn addresses() -> Result<[SocketAddr; 4]> {
    let [a, b, c, d] = [(); 4].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    // All at once, or the same port might come twice.
    let listeners = [a?, b?, c?, d?];
    let [a, b, c, d] = listeners.each_ref().map(TcpListener::local_addr);
    Ok([a?, b?, c?, d?])
}
