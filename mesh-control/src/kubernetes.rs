//! The control plane in a cluster: what it asks the API server for besides resources, and what it writes back.
//!
//! Any number of replicas may run. All of them read, serve and answer; what is written for others to read (statuses,
//! root certificates, what runs Gateways, the trust of the webhook) is written by the one that leads. What must be the same for all, the
//! certificate authority and the join tokens, is in Secrets that are changed on the condition that they are still what
//! was read.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use aws_lc_rs::rand;
use mesh_ca::Ca;
use mesh_core::gateway_api::Settings;
use mesh_core::model::CompileOptions;
use mesh_core::resource::{Finding, ObjectKey};
use mesh_source::Change;
use mesh_source::kubernetes::leader::{Candidate, Election, Terms};
use mesh_source::kubernetes::status::Rate;
use mesh_source::kubernetes::{Client, Kubernetes, Options as Source, Wanted, connect};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::classes::Classes;
use self::deployer::{Deployer, Told};
use self::gateway_api::GatewayApi;
use self::marks::Marks;
use self::review::Reviewer;
use self::roots::Roots;
use self::statuses::Reports;
use self::validator::Validator;
use self::vault::SecretVault;
use crate::feed::{self, Findings, Observe};
use crate::hub::Hub;
use crate::tasks;
use crate::tls::Serving;
use crate::topology::Traffic;

mod admission;
mod classes;
mod deployer;
mod gateway_api;
pub mod machines;
mod marks;
mod review;
mod roots;
mod statuses;
mod validator;
mod vault;
mod webhook;

/// A cluster, and the namespace of it that is the mesh's own.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    root_namespace: String,
}

/// Everything that runs because there is a cluster. Its tasks end with the process.
#[derive(Debug)]
pub struct Membership {
    end: oneshot::Sender<()>,
    election: JoinHandle<()>,
}

/// Why the API server did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
enum CallError {
    /// It says no.
    #[error("{code}: {message}")]
    Refused { code: u16, message: String },
    /// It was not reached, or what it said was not understood.
    #[error("{0}")]
    Failed(String),
    /// It has not answered within [`ANSWER`].
    #[error("the API server does not answer")]
    Silent,
}

impl Cluster {
    /// The cluster that `KUBECONFIG` or the service account of this pod names. Does not connect yet: an API server that
    /// cannot be reached now may come.
    pub async fn find(root_namespace: &str) -> anyhow::Result<Self> {
        Ok(Self { client: connect().await?, root_namespace: root_namespace.to_owned() })
    }

    /// Where the certificate authority is kept.
    pub fn ca_vault(&self) -> SecretVault {
        SecretVault::ca(self.client.clone(), &self.root_namespace)
    }

    /// Where join tokens are kept.
    pub fn join_vault(&self) -> SecretVault {
        SecretVault::join(self.client.clone(), &self.root_namespace)
    }

    /// Asks this cluster who holds a token that was made for one of `audiences`.
    pub fn reviewer(&self, audiences: &[String]) -> Reviewer {
        Reviewer::new(self.client.clone(), audiences.to_vec())
    }

    /// Follows the cluster into `hub`, takes part in the election of a leader, and writes what a leader writes. What runs
    /// Gateways is made with `settings`.
    pub fn join(
        &self,
        ca: Arc<Ca>,
        (compile, settings): (CompileOptions, Settings),
        (hub, findings): (Arc<Hub>, Arc<Findings>),
        registered: mpsc::Receiver<Change>,
    ) -> Membership {
        let candidate = Candidate {
            namespace: self.root_namespace.clone(),
            name: LEASE.to_owned(),
            identity: identity(),
            terms: Terms::default(),
        };
        let (election, leadership) = Election::new(self.client.clone(), candidate);
        let source = Source { root_namespace: self.root_namespace.clone(), ..Source::default() };
        let (source, changes) = Kubernetes::new(self.client.clone(), source);
        let (writer, statuses) = source.status_writer(leadership.clone(), Rate::default());
        let (namespaces, known) = watch::channel(Arc::new(BTreeSet::new()));
        let gateway_api = Arc::new(Mutex::new(GatewayApi::new(settings)));
        let told = Told { gateway_api: Arc::clone(&gateway_api), statuses: statuses.clone() };
        let deployer = Deployer::new(self.client.clone(), leadership.clone(), told);
        let reports = Reports::new(statuses, namespaces, &self.root_namespace, gateway_api);
        let following = Following { reports, wanted: source.wanted() };
        let following = Some(Box::new(following) as Box<dyn Observe>);
        let roots = Roots::new(self.client.clone(), Arc::clone(&ca), leadership.clone(), known);
        let classes = Classes::new(self.client.clone(), leadership.clone());
        let validator = Validator::new(self.client.clone(), ca, leadership);
        let (end, ended) = oneshot::channel::<()>();
        drop(tasks::spawn("source", source.run()));
        let following = (following, registered);
        drop(tasks::spawn("compile", feed::run(changes, compile, (hub, findings), following)));
        drop(tasks::spawn("statuses", writer.run()));
        drop(tasks::spawn("root certificates", roots.run()));
        drop(tasks::spawn("webhook's trust", validator.run()));
        drop(tasks::spawn("what runs Gateways", deployer.run()));
        drop(tasks::spawn("classes of Gateways", classes.run()));
        let election = tasks::spawn("election", async move {
            // Whoever drops the other end ends the process, and with it this task.
            election.run(async { drop(ended.await) }).await;
        });
        Membership { end, election }
    }

    /// Who writes the `WorkloadEntries` of machines.
    pub fn machines(&self) -> machines::Written {
        machines::Written::new(self.client.clone(), self.root_namespace.clone(), identity())
    }

    /// Writes on pods what their nodes tell of them to `traffic`.
    pub fn mark_pods(&self, hub: Arc<Hub>, traffic: Arc<Traffic>) {
        let marks = Marks::new(self.client.clone(), hub, traffic);
        drop(tasks::spawn("what nodes say of pods", marks.run()));
    }

    /// Serves the admission webhook with the certificate of `serving`.
    pub async fn serve_webhook(
        &self,
        address: SocketAddr,
        serving: &Arc<Serving>,
        hub: &Arc<Hub>,
    ) -> anyhow::Result<()> {
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("listening on {address}"))?;
        drop(tasks::spawn("webhook", webhook::serve(listener, Arc::clone(serving), Arc::clone(hub))));
        Ok(())
    }
}

/// What is made of the resources beside what is told: statuses, and which Secrets are to be read.
struct Following {
    reports: Reports,
    wanted: Wanted,
}

impl Observe for Following {
    fn saw(&mut self, batch: &[Change]) {
        self.reports.saw(batch);
    }

    fn conclude(&mut self) -> Vec<Finding> {
        self.reports.conclude()
    }

    fn compiled(&mut self, findings: &mut dyn Iterator<Item = &Finding>) {
        self.reports.compiled(findings);
    }

    fn needs(&mut self, mut secrets: BTreeSet<ObjectKey>) {
        secrets.extend(self.reports.needs());
        self.wanted.set(secrets);
    }
}

impl Membership {
    /// Gives up leading, so that another replica need not wait for the lease to run out.
    pub async fn leave(self) {
        // If the election has ended already, there is nothing to give up.
        let _ = self.end.send(());
        if timeout(LEAVE, self.election).await.is_err() {
            tracing::info!("The lease could not be given up in time; it will run out.");
        }
    }
}

impl CallError {
    /// The status code of the answer, if there was one.
    fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Failed(_) | Self::Silent => None,
        }
    }
}

impl From<kube::Error> for CallError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused { code: status.code, message: status.message },
            error => {
                let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
                let deepest = causes.last().map(ToString::to_string);
                Self::Failed(deepest.map_or_else(|| error.to_string(), |why| format!("{error}: {why}")))
            }
        }
    }
}

/// One call, which must not take longer than [`ANSWER`].
async fn call<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
    match timeout(ANSWER, call).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(CallError::Silent),
    }
}

/// The pod's name and something random, as a pod that starts anew in its old place must not take itself for the old one.
fn identity() -> String {
    let mut random = [0; 8];
    // Without random numbers there would be no CA either; the name alone tells replicas apart.
    let _ = rand::fill(&mut random);
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| MANAGER.to_owned());
    format!("{host}_{:016x}", u64::from_be_bytes(random))
}

/// As whom fields are owned.
const MANAGER: &str = "mesh-control";
/// The Lease by which one of several leads.
const LEASE: &str = "mesh-control";
/// An API server answers a small request within milliseconds, or is in trouble.
const ANSWER: Duration = Duration::from_secs(10);
/// How long leaving may take: well within what a pod is given to end.
const LEAVE: Duration = Duration::from_secs(3);
