//! A real API server for the tests that can do with any: the one of `KUBECONFIG`, or one started from the programs
//! `etcd` and `kube-apiserver` in the directory `KUBEBUILDER_ASSETS`. With neither, the suite's own is used.
//!
//! A cluster of `KUBECONFIG` is one for tests: a control plane of theirs leaves its roots in all namespaces while it runs,
//! and the API server must reach webhooks at 127.0.0.1 of this machine. What tests make there they take away again, but
//! for the definitions of kinds. `testbed tool apiserver FILE` is such a cluster, and writes the kubeconfig.

use std::env;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

/// The way to it, if there is one. It is started once for all tests of this program.
pub(crate) async fn config() -> Option<Config> {
    if let Some(assets) = env::var_os("KUBEBUILDER_ASSETS") {
        static STARTED: OnceCell<Real> = OnceCell::const_new();
        let real = STARTED.get_or_init(|| Real::start(PathBuf::from(assets))).await;
        return Some(real.config.clone());
    }
    env::var_os("KUBECONFIG")?;
    let config = Config::from_kubeconfig(&KubeConfigOptions::default()).await;
    Some(once(config.expect("KUBECONFIG names a cluster")))
}

/// The way that a kubeconfig names.
pub(crate) async fn config_of(kubeconfig: &Path) -> Config {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    once(config.expect("it names a cluster"))
}

/// Without attempts of its own: tests look at every answer.
fn once(mut config: Config) -> Config {
    config.default_retry = false;
    config
}

/// Two processes that live as long as this one.
struct Real {
    config: Config,
    _directory: TempDir,
    _processes: [Child; 2],
}

impl Real {
    async fn start(assets: PathBuf) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let [peer, store, port] = ports();
        let path = directory.path();
        let store = format!("http://127.0.0.1:{store}");
        let etcd = spawn(
            &assets.join("etcd"),
            path,
            &[
                format!("--data-dir={}", path.join("etcd").display()),
                format!("--listen-client-urls={store}"),
                format!("--advertise-client-urls={store}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
                "--unsafe-no-fsync".into(),
            ],
        );
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        std::fs::write(path.join("sa.key"), key.serialize_pem()).expect("written");
        // Of a private key it reads the older form alone to verify with.
        std::fs::write(path.join("sa.pub"), key.public_key_pem()).expect("written");
        std::fs::write(path.join("tokens"), "admin,admin,admin,system:masters\n").expect("written");
        let file = |name: &str| path.join(name).display().to_string();
        let server = spawn(
            &assets.join("kube-apiserver"),
            path,
            &[
                format!("--etcd-servers={store}"),
                format!("--secure-port={port}"),
                "--bind-address=127.0.0.1".into(),
                "--advertise-address=127.0.0.1".into(),
                format!("--cert-dir={}", file("certs")),
                format!("--token-auth-file={}", file("tokens")),
                format!("--service-account-key-file={}", file("sa.pub")),
                format!("--service-account-signing-key-file={}", file("sa.key")),
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
                "--authorization-mode=RBAC".into(),
                "--service-cluster-ip-range=10.0.0.0/24".into(),
                "--disable-admission-plugins=ServiceAccount".into(),
                "--endpoint-reconciler-type=none".into(),
            ],
        );
        let mut config = Config::new(format!("https://127.0.0.1:{port}").parse().expect("a URL"));
        // Its certificate is one that it made for itself, a moment ago.
        config.accept_invalid_certs = true;
        config.default_retry = false;
        config.auth_info = AuthInfo { token: Some("admin".to_owned().into()), ..AuthInfo::default() };
        wait(&config, path).await;
        Self { config, _directory: directory, _processes: [etcd, server] }
    }
}

async fn wait(config: &Config, logs: &Path) {
    let client = Client::try_from(config.clone()).expect("a client");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let request = http::Request::get("/readyz").body(Vec::new()).expect("a request");
        if client.request_text(request).await.is_ok() {
            return;
        }
        let said = || std::fs::read_to_string(logs.join("kube-apiserver.log")).unwrap_or_default();
        let last = || said().lines().next_back().unwrap_or_default().to_owned();
        assert!(
            Instant::now() < deadline,
            "the API server does not become ready; its last words: {}",
            last()
        );
        sleep(Duration::from_millis(300)).await;
    }
}

/// Starts a program that is ended when this one ends, however it ends: a shell waits for the pipe between them to close.
fn spawn(program: &Path, directory: &Path, arguments: &[String]) -> Child {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let log = File::create(directory.join(format!("{name}.log"))).expect("a file");
    let mut command = Command::new("sh");
    command.args(["-c", KEEPER, "sh"]).arg(program).args(arguments).stdin(Stdio::piped());
    command.stdout(log.try_clone().expect("a file")).stderr(log);
    command.spawn().expect("a shell")
}

/// Ports that were free a moment ago.
fn ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}

const KEEPER: &str = "exec 3<&0; \"$@\" </dev/null & read -r _ <&3; kill -9 $!";
