//! The source in a cluster that behaves, which can be any (see [`crate::real`]), and in one that does not.

mod faults;
mod news;
mod scale;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::resource::{Object, ObjectKey};
use mesh_source::kubernetes::leader::{Candidate, Election, Terms};
use mesh_source::kubernetes::status::{Rate, Statuses};
use mesh_source::kubernetes::{Kubernetes, Options, Pace, Wanted, client};
use mesh_source::{About, Change, Changes};
use mesh_tests::apiserver::{ApiServer, Settings};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::api::{Cluster, authorized};

/// A cluster with a source that follows it, and what the source has told so far.
struct Follower<C = ApiServer> {
    server: C,
    changes: Changes,
    wanted: Wanted,
    statuses: Statuses,
    election: Option<Election>,
    seen: Seen,
    running: JoinSet<()>,
}

/// All that was told.
#[derive(Default)]
struct Seen {
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    findings: BTreeMap<About, Vec<String>>,
    /// In order: `+`, `-` or `?` and the key, or `synced`.
    log: Vec<String>,
    /// The namespaces of the test, if others use the cluster, too: what is elsewhere is none of its business.
    only: Option<Vec<String>>,
}

/// How patient these tests make the source: everything takes a tenth of a second where it takes seconds in life.
fn hasty() -> Pace {
    Pace {
        least_backoff: Duration::from_millis(50),
        most_backoff: Duration::from_millis(400),
        watch: Duration::from_secs(60),
        silence: Duration::from_secs(20),
        answer: Duration::from_secs(10),
        discovery: Duration::from_millis(150),
        gone: Duration::from_millis(600),
    }
}

fn server() -> ApiServer {
    let settings = Settings { bookmark_interval: Duration::from_millis(200), ..Settings::default() };
    ApiServer::start(&settings).expect("a server")
}

impl Follower {
    fn new(server: ApiServer) -> Self {
        Self::with(server, hasty())
    }

    /// Follows the suite's own server from now on.
    fn with(server: ApiServer, pace: Pace) -> Self {
        let mut config = kube::Config::new(server.url().parse().expect("a URL"));
        let roots = server.certificate().map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()));
        config.root_cert = roots.map(|roots| roots.map(|root| root.expect("PEM").to_vec()).collect());
        Self::follow(server, config, "istio-system", pace)
    }
}

impl Follower<Cluster> {
    /// Follows any cluster from now on, and looks at these namespaces of it; in somebody's name if there is a token.
    fn of(cluster: Cluster, namespaces: &[&str], token: Option<&str>) -> Self {
        let config = match token {
            None => cluster.admin(),
            Some(token) => authorized(&cluster.config, token),
        };
        let root = cluster.root.clone();
        let only = namespaces.iter().copied().chain([root.as_str()]).map(str::to_owned).collect();
        let mut follower = Self::follow(cluster, config, &root, hasty());
        follower.seen.only = Some(only);
        follower
    }
}

impl<C> Follower<C> {
    fn follow(server: C, config: kube::Config, root: &str, pace: Pace) -> Self {
        let client = client(config).expect("a client");
        let candidate = Candidate {
            namespace: root.into(),
            name: "mesh-control".into(),
            identity: "this".into(),
            terms: Terms::default(),
        };
        let (election, leadership) = Election::new(client.clone(), candidate);
        let (source, changes) = Kubernetes::new(client, Options { pace, root_namespace: root.into() });
        let (writer, statuses) = source.status_writer(leadership, Rate::default());
        let wanted = source.wanted();
        let mut running = JoinSet::new();
        running.spawn(source.run());
        running.spawn(writer.run());
        let election = Some(election);
        Self { server, changes, wanted, statuses, election, seen: Seen::default(), running }
    }

    /// Wants to lead from now on, and so to write statuses.
    fn lead(&mut self) {
        if let Some(election) = self.election.take() {
            self.running.spawn(election.run(std::future::pending()));
        }
    }

    /// Takes changes until `done` is satisfied; fails after 20 s.
    async fn until(&mut self, what: &str, done: impl Fn(&Seen) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done(&self.seen) {
            let next = timeout_at(deadline, self.changes.next()).await;
            let Ok(Some(batch)) = next else {
                let log = self.seen.log.join("\n");
                assert!(done(&self.seen), "{what} did not come; what came is:\n{log}");
                return;
            };
            self.seen.take(batch);
        }
    }

    async fn synced(&mut self) {
        self.until("the end of the beginning", |seen| seen.log.iter().any(|line| line == "synced")).await;
    }

    /// Takes what comes within a moment.
    async fn for_a_moment(&mut self) {
        while let Ok(Some(batch)) = timeout(Duration::from_millis(700), self.changes.next()).await {
            self.seen.take(batch);
        }
    }

    /// What came since the last time.
    fn log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.seen.log)
    }
}

impl Seen {
    fn take(&mut self, batch: Vec<Change>) {
        assert!(!batch.is_empty(), "an empty batch");
        for change in batch {
            if !self.concerns(&change) {
                continue;
            }
            match change {
                Change::Apply(object) => {
                    let key = object.key();
                    self.log.push(format!("+{key}"));
                    self.objects.insert(key, object);
                }
                Change::Delete(key) => {
                    self.log.push(format!("-{key}"));
                    self.findings.remove(&About::Object(key.clone()));
                    self.objects.remove(&key);
                }
                Change::Findings(about, findings) => {
                    let About::Object(key) = &about else {
                        unreachable!("a cluster's findings are about objects")
                    };
                    self.log.push(format!("?{key}"));
                    let texts: Vec<_> = findings.iter().map(ToString::to_string).collect();
                    if texts.is_empty() {
                        self.findings.remove(&about);
                    } else {
                        self.findings.insert(about, texts);
                    }
                }
                Change::Synced => {
                    assert!(!self.log.iter().any(|line| line == "synced"), "synced twice");
                    self.log.push("synced".into());
                }
            }
        }
    }

    fn concerns(&self, change: &Change) -> bool {
        let Some(only) = &self.only else { return true };
        let key = match change {
            Change::Apply(object) => object.key(),
            Change::Delete(key) | Change::Findings(About::Object(key), _) => key.clone(),
            Change::Findings(..) | Change::Synced => return true,
        };
        only.iter().any(|it| [&*key.namespace, &*key.name].contains(&it.as_str()))
    }

    fn has(&self, kind: &'static str, namespace: &str, name: &str) -> bool {
        self.get(kind, namespace, name).is_some()
    }

    fn get(&self, kind: &'static str, namespace: &str, name: &str) -> Option<&Object> {
        self.objects.get(&key(kind, namespace, name)).map(AsRef::as_ref)
    }

    /// The label `l` of an object.
    fn label(&self, kind: &'static str, namespace: &str, name: &str) -> Option<&str> {
        self.get(kind, namespace, name)?.meta.labels.get("l").map(String::as_str)
    }
}

fn key(kind: &'static str, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey { kind, namespace: namespace.into(), name: name.into() }
}

fn keys(keys: &[ObjectKey]) -> BTreeSet<ObjectKey> {
    keys.iter().cloned().collect()
}

fn pod(namespace: &str, name: &str, label: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"l": label}},
        "spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "B"}]}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1"},
    })
}

fn policy(namespace: &str, name: &str, mode: &str) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": name, "namespace": namespace}, "spec": {"mtls": {"mode": mode}},
    })
}

/// The policies of Istio, served in these versions, by the suite's own server.
fn define_policies(server: &ApiServer, versions: &[&str]) {
    use mesh_tests::apiserver::Resource;
    let group = "security.istio.io";
    server.define(Resource::custom(group, versions, "PeerAuthentication", "peerauthentications"));
    server.define(Resource::custom(group, versions, "AuthorizationPolicy", "authorizationpolicies"));
}
