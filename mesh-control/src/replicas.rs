//! Replicas of the control plane tell each other what proxies have told them: a proxy is connected to one, and the mesh page of
//! each shows the whole mesh.
//!
//! Each finds the others as pods of its own service account, and they recognise each other by their certificates. What cannot
//! be told is lost, as what a proxy tells nobody is.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mesh_core::model::Record;
use mesh_proto::names::ResourceType;
use mesh_proto::topology::TopologyReport;
use mesh_proto::topology::topology_client::TopologyClient;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use crate::hub::Hub;
use crate::tasks;
use crate::tls::Serving;

/// Tells the other replicas.
#[derive(Debug)]
pub struct Replicas {
    hub: Arc<Hub>,
    serving: Arc<Serving>,
    /// A name that all of them answer to.
    name: ServerName<'static>,
    port: u16,
    reports: mpsc::Receiver<TopologyReport>,
    others: BTreeMap<IpAddr, mpsc::Sender<Arc<TopologyReport>>>,
}

impl Replicas {
    /// Passes on `reports` to those that `hub` knows of, at their `port`.
    pub fn new(
        hub: Arc<Hub>,
        serving: Arc<Serving>,
        (name, port): (ServerName<'static>, u16),
        reports: mpsc::Receiver<TopologyReport>,
    ) -> Self {
        Self { hub, serving, name, port, reports, others: BTreeMap::new() }
    }

    /// Works until nobody tells anything any more.
    pub async fn run(mut self) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                report = self.reports.recv() => match report {
                    Some(report) => self.tell(&Arc::new(report)),
                    None => return,
                },
                _ = look.tick() => self.look(),
            }
        }
    }

    fn tell(&self, report: &Arc<TopologyReport>) {
        for other in self.others.values() {
            // One that is slow misses it.
            let _ = other.try_send(Arc::clone(report));
        }
    }

    /// Finds out who is there.
    fn look(&mut self) {
        let there = self.there();
        self.others.retain(|ip, _| there.contains(ip));
        for ip in there {
            self.others.entry(ip).or_insert_with(|| {
                let (sender, reports) = mpsc::channel(PENDING);
                let other = Other {
                    at: SocketAddr::new(ip, self.port),
                    serving: Arc::clone(&self.serving),
                    name: self.name.clone(),
                };
                drop(tasks::spawn("replica", other.run(reports)));
                sender
            });
        }
    }

    /// Addresses of all replicas, this one's among them.
    fn there(&self) -> BTreeSet<IpAddr> {
        let own = self.serving.id();
        let shelf = self.hub.shelf();
        let all = shelf.store(ResourceType::Address).iter().filter_map(|entry| match &entry.record {
            Record::Workload(workload) if workload.identity == *own => workload.ips.first().copied(),
            _ => None,
        });
        all.collect()
    }
}

/// What a connection to a replica leads to.
enum Way {
    /// Another one.
    Other(TopologyClient<Channel>),
    /// This process.
    Itself,
}

/// Another replica.
struct Other {
    at: SocketAddr,
    serving: Arc<Serving>,
    name: ServerName<'static>,
}

impl Other {
    /// Tells it everything until it is gone, unless it turns out to be this process.
    async fn run(self, mut reports: mpsc::Receiver<Arc<TopologyReport>>) {
        let mut client: Option<TopologyClient<Channel>> = None;
        while let Some(report) = reports.recv().await {
            // Nobody counts on it any more: what still waits is for a pod that is gone.
            if reports.is_closed() {
                return;
            }
            let known = match client.take() {
                Some(known) => Ok(Way::Other(known)),
                None => self.connect().await,
            };
            match known {
                Ok(Way::Itself) => return idle(reports).await,
                Ok(Way::Other(mut known)) => {
                    match timeout(ANSWER, known.report(TopologyReport::clone(&report))).await {
                        Ok(Err(status)) if !is_of_the_way(&status) => {
                            tracing::debug!(replica = %self.at, reason = status.message(), "A replica refuses a report.");
                            client = Some(known);
                        }
                        Ok(Ok(_)) => client = Some(known),
                        Ok(Err(_)) | Err(_) => {}
                    }
                }
                Err(error) => {
                    tracing::debug!(replica = %self.at, %error, "A replica is not reached.");
                    // What has come meanwhile would fail in the same way, one after the other.
                    while reports.try_recv().is_ok() {}
                }
            }
        }
    }

    async fn connect(&self) -> io::Result<Way> {
        let stream = timeout(ANSWER, self.dial()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        if stream.is_none() {
            return Ok(Way::Itself);
        }
        let mut stream = stream;
        // A connection that is lost is made anew from the start: the replica may be another process by then.
        let once = tower::service_fn(move |_: Uri| {
            let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
            async move { stream.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://mesh-control");
        let channel = endpoint.connect_with_connector(once).await.map_err(io::Error::other)?;
        Ok(Way::Other(TopologyClient::new(channel)))
    }

    /// `None` if it is this machine that answers.
    async fn dial(&self) -> io::Result<Option<TlsStream<TcpStream>>> {
        let stream = TcpStream::connect(self.at).await?;
        if stream.local_addr()?.ip() == self.at.ip() {
            return Ok(None);
        }
        let connector = TlsConnector::from(self.serving.client_config());
        connector.connect(self.name.clone(), stream).await.map(Some)
    }
}

/// Takes what there is nobody for, so that nobody looks for this address again.
async fn idle(mut reports: mpsc::Receiver<Arc<TopologyReport>>) {
    while reports.recv().await.is_some() {}
}

fn is_of_the_way(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Unauthenticated)
}

/// Between two looks for others.
const LOOK: Duration = Duration::from_secs(5);
/// How long another may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Reports that wait for another: as many as some hundred nodes have in five seconds.
const PENDING: usize = 512;

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use mesh_ca::{Ca, FileVault, Limits};
    use mesh_core::id::{SpiffeId, TrustDomain};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;

    /// Whoever is to be told at `at`, with reports that wait already.
    async fn other(at: SocketAddr, waiting: usize) -> (mpsc::Sender<Arc<TopologyReport>>, JoinHandle<()>) {
        let place = tempfile::tempdir().unwrap();
        let domain = TrustDomain::default();
        let vault = Arc::new(FileVault::ca(place.path()));
        let limits = Limits::up_to(Duration::from_secs(3600));
        let ca = Arc::new(Ca::open(vault, &domain, limits, SystemTime::now()).await.unwrap());
        let id = SpiffeId::new(&domain, "istio-system", "mesh-control").unwrap();
        let serving = Serving::new(ca, id, vec!["mesh-control".to_owned()]).unwrap();
        let name = ServerName::try_from("mesh-control").unwrap();
        let (sender, reports) = mpsc::channel(PENDING);
        for _ in 0..waiting {
            sender.try_send(Arc::default()).unwrap();
        }
        let other = Other { at, serving: Arc::new(serving), name };
        (sender, tasks::spawn("replica", other.run(reports)))
    }

    #[tokio::test]
    async fn what_waits_for_a_replica_that_is_gone_is_forgotten() {
        // It takes connections and says nothing: each attempt lasts five seconds.
        let silent = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let (sender, run) = other(silent.local_addr().unwrap(), PENDING).await;
        drop(sender);
        timeout(Duration::from_secs(3), run).await.expect("an end").unwrap();
    }

    #[tokio::test]
    async fn one_failure_is_not_repeated_for_all_that_waits() {
        let closed = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let at = closed.local_addr().unwrap();
        drop(closed);
        let (sender, run) = other(at, PENDING).await;
        let room = async {
            while sender.capacity() < PENDING {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(3), room).await.expect("there is room again");
        drop(sender);
        timeout(Duration::from_secs(3), run).await.expect("an end").unwrap();
    }

    #[tokio::test]
    async fn a_replica_knows_itself() {
        // Whoever connects to 127.0.0.1 does so from there.
        let own = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (sender, run) = other(own.local_addr().unwrap(), 1).await;
        own.accept().await.unwrap();
        sender.send(Arc::default()).await.unwrap();
        assert!(timeout(Duration::from_millis(300), own.accept()).await.is_err(), "it looked again");
        drop(sender);
        timeout(Duration::from_secs(3), run).await.expect("an end").unwrap();
    }
}
