//! Where the model and the certificates come from: a control plane inside this process, or one outside.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use mesh_ca::{Bundle, Ca, FileVault, Limits};
use mesh_core::{
    id::TrustDomain,
    model::{CompileOptions, CredentialScope},
};
use mesh_source::{
    Changes, Directory, DirectoryFeed,
    keys::{KeyFeed, KeyOptions, Schedule},
};
use tokio::sync::{mpsc, watch};
use tracing::warn;

use super::{
    drain::Drain,
    embedded::{self, Observe},
    lookup::Lookups,
    names::Names,
    publish::Publisher,
    tasks,
};
use crate::{
    config::{MachineOptions, NodeOptions},
    control::{
        Captures, Discovery, Endpoint, Entry, Journal, Link, Machine, Own, RemoteCa, Subscriber, Teller,
        Trust, connect,
    },
    identity::{self, IdentityStore, Sign, cache::Cache},
    probe,
    report::Reporter,
    tls::Protocols,
};

/// What to follow, and as whom.
#[derive(Clone, Debug)]
pub struct Place {
    /// Who follows.
    pub subscriber: Subscriber,
    /// A directory, or…
    pub config: Option<PathBuf>,
    /// …a control plane.
    pub control: Option<String>,
    /// Its roots.
    pub control_ca: Option<PathBuf>,
    /// What is shown to it.
    pub token: Option<PathBuf>,
    /// Where certificates outlive the process.
    pub svid_cache: Option<PathBuf>,
    /// Where other things do.
    pub state: PathBuf,
    /// The trust domain unless the configuration names one.
    pub trust_domain: TrustDomain,
    /// Lifetime of certificates.
    pub svid_lifetime: Duration,
    /// What tunnels may speak.
    pub protocols: Protocols,
    /// Where the servers of DNS are written.
    pub resolv_conf: PathBuf,
    /// The certificates with keys that are needed of those that Gateways name.
    pub credentials: CredentialScope,
}

/// Where the model comes from.
pub enum Source {
    /// A control plane inside this process.
    Embedded(Box<(DirectoryFeed, Changes)>),
    /// One outside.
    Control(Box<Control>),
}

/// The way to a control plane, and what it told last.
pub struct Control {
    link: Arc<Link>,
    trust: Arc<Trust>,
    journal: (Journal, Vec<Entry>),
}

impl Place {
    /// Where a node's come from.
    ///
    /// # Errors
    /// If the control plane's URL leads nowhere. That its name is not known yet is waited for: a machine that has just started
    /// may ask before anybody can answer.
    pub async fn of_node(options: &NodeOptions) -> anyhow::Result<Self> {
        Ok(Self {
            subscriber: subscriber(options).await?,
            config: options.config.clone(),
            control: options.control.clone(),
            control_ca: options.control_ca.clone(),
            token: options.token.clone(),
            svid_cache: options.svid_cache.clone(),
            state: options.state.clone(),
            trust_domain: options.trust_domain.clone(),
            svid_lifetime: options.svid_lifetime,
            protocols: options.tunnel_protocol,
            resolv_conf: options.resolv_conf.clone(),
            credentials: CredentialScope::Nobody,
        })
    }
}

async fn subscriber(options: &NodeOptions) -> anyhow::Result<Subscriber> {
    let MachineOptions { workload_entry, workload_group, address, network, .. } = &options.machine;
    if let Some(entry) = workload_entry {
        return Ok(Subscriber::Machine(Machine::of_entry(entry.clone())));
    }
    let Some(group) = workload_group else { return Ok(Subscriber::Node(options.node.clone())) };
    let address = if let Some(address) = address {
        *address
    } else {
        let (host, port) = control_of(options)?;
        own_address(|| (host.as_str(), port).to_socket_addrs()?.next().map(source_to).transpose()).await
    };
    let network = network.as_deref().unwrap_or_default();
    Ok(Subscriber::Machine(Machine::of_group(group, address, network)))
}

/// Host and port of the control plane.
fn control_of(options: &NodeOptions) -> anyhow::Result<(String, u16)> {
    let url = options.control.as_deref().context("--control is needed")?;
    let uri: http::Uri = url.parse().context("--control")?;
    let host = uri.host().context("--control has no host")?.trim_matches(['[', ']']);
    Ok((host.to_owned(), uri.port_u16().unwrap_or(15012)))
}

/// The address that this machine reaches the control plane from, as soon as `find` finds one.
async fn own_address(find: impl Fn() -> io::Result<Option<IpAddr>>) -> IpAddr {
    let mut said = None;
    loop {
        let reason = match find() {
            Ok(Some(address)) => return address,
            Ok(None) => "its name has no address".to_owned(),
            Err(error) => error.to_string(),
        };
        if said.as_ref() != Some(&reason) {
            warn!(
                reason,
                "The control plane cannot be reached yet, so this machine's own address is not known (--address \
                 names it); will retry."
            );
            said = Some(reason);
        }
        tokio::time::sleep(LOOK_UP).await;
    }
}

/// The address that this machine would reach another from. Nothing is sent.
fn source_to(to: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

impl Source {
    /// Opens what `place` names, and the CA that belongs to it.
    pub async fn open(place: &Place) -> anyhow::Result<(Self, Arc<IdentityStore>)> {
        let (source, signer, cache): (_, Arc<dyn Sign>, _) = match (&place.config, &place.control) {
            (Some(path), _) => {
                let ca = embedded_ca(place).await?;
                (Self::embedded(path)?, Arc::new(ca), None)
            }
            (None, Some(url)) => {
                let cache = open_cache(place, KEYS[0]);
                let control = Control::open(place, url)?;
                let signer = RemoteCa::new(control.link.clone(), control.trust.clone());
                (Self::Control(Box::new(control)), Arc::new(signer), cache)
            }
            (None, None) => anyhow::bail!("--config or --control is needed"),
        };
        let store = IdentityStore::new(signer, place.identities());
        Ok((
            source,
            Arc::new(match cache {
                Some(cache) => store.with_cache(cache),
                None => store,
            }),
        ))
    }

    /// Opens a directory, without any CA.
    pub fn embedded(path: &Path) -> anyhow::Result<Self> {
        let (feed, changes) = Directory::changes(path)
            .with_context(|| format!("opening the configuration {}", path.display()))?;
        Ok(Self::Embedded(Box::new((feed, changes))))
    }

    /// Starts to tell of traffic where there is somebody to be told: a control plane outside has a page that shows it.
    pub fn tell(&self, place: &Place, reporter: &Arc<Reporter>, captures: Captures, on_duty: &Drain) {
        if let Self::Control(control) = self {
            let link = Arc::clone(&control.link);
            let teller = Teller::new(link, place.subscriber.clone(), Arc::clone(reporter), captures);
            tasks::spawn_local("teller", on_duty.clone().during(teller.run()));
        }
    }

    /// Starts to follow it. `demands` are addresses that pods want to reach and nobody has that is known; `observer` sees
    /// the resources themselves where they are compiled here. `lookups` are names that clients ask for.
    pub fn follow(
        self,
        place: &Place,
        publisher: Publisher,
        (demands, lookups): (mpsc::Receiver<IpAddr>, Lookups),
        (observer, on_duty): (Option<Box<dyn Observe>>, Drain),
    ) {
        let names = Names::follow(place.resolv_conf.clone());
        lookups.serve(place.resolv_conf.clone());
        match self {
            Self::Embedded(source) => {
                let (feed, changes) = *source;
                let compile = CompileOptions {
                    node: place.subscriber.node().to_owned(),
                    trust_domain: Some(place.trust_domain.clone()),
                    credentials: place.credentials.clone(),
                    ..CompileOptions::default()
                };
                tasks::spawn_local("source", feed.run());
                let snapshots = publisher.snapshots.clone();
                let (keys, follower) = KeyFeed::new(KeyOptions {
                    surroundings: Arc::new(move || snapshots.borrow().clone()),
                    // Whoever writes the directory of a process owns the machine that it runs on.
                    local: true,
                    schedule: Schedule::default(),
                });
                tasks::spawn_local("keys", follower.run());
                let published = (publisher, names, keys);
                tasks::spawn_local("compile", embedded::follow(changes, compile, published, observer));
            }
            Self::Control(control) => {
                let Control { link, trust, journal } = *control;
                let (told, health) = watch::channel(None);
                if let Subscriber::Machine(machine) = &place.subscriber {
                    let snapshots = publisher.snapshots.subscribe();
                    let probe = probe::run(machine.clone(), snapshots, told);
                    tasks::spawn_local("probe", on_duty.clone().during(probe));
                }
                let subscriber = (place.subscriber.clone(), health);
                let discovery = async move {
                    let told = (publisher, demands, names);
                    Discovery::start(subscriber, (link, trust), told, journal).await.run().await;
                };
                tasks::spawn_local("discovery", on_duty.during(discovery));
            }
        }
    }
}

impl Place {
    /// Whether what it names is there, without opening anything that only one process may have.
    ///
    /// # Errors
    /// If a file or directory cannot be read, or is not what it should be.
    pub fn check(&self) -> anyhow::Result<()> {
        if let Some(path) = &self.config {
            std::fs::read_dir(path)
                .with_context(|| format!("opening the configuration {}", path.display()))?;
            return Ok(());
        }
        let trust = Arc::new(Trust::new(self.roots()?));
        if let Some(url) = &self.control {
            Endpoint::parse(url, self.control_ca.clone(), trust).context("--control")?;
        }
        Ok(())
    }

    /// What the control plane is checked against, and peers as well until something is told.
    fn roots(&self) -> anyhow::Result<Bundle> {
        let path = self.control_ca.as_ref();
        let path = path.context("--control-ca is needed: without roots nobody can be recognised")?;
        Ok(connect::read_roots(path)?)
    }

    /// How its certificates are issued.
    pub fn identities(&self) -> identity::Options {
        let domain = self.trust_domain.clone();
        identity::Options {
            lifetime: self.svid_lifetime,
            protocols: self.protocols,
            ..identity::Options::new(vec![domain])
        }
    }
}

impl Control {
    fn open(place: &Place, url: &str) -> anyhow::Result<Self> {
        let (journal, remembered) = Journal::open(&place.state)
            .with_context(|| format!("opening the state in {}", place.state.display()))?;
        let trust = Arc::new(Trust::new(place.roots()?));
        let endpoint = Endpoint::parse(url, place.control_ca.clone(), trust.clone()).context("--control")?;
        let own = place.subscriber.identity(&place.trust_domain).map_err(anyhow::Error::msg)?;
        let exchanges = place.subscriber.exchanges_tokens();
        let own = Own { id: own, cache: open_cache(place, KEYS[1]), exchanges };
        let link = Arc::new(Link::new(endpoint, place.token.clone(), own));
        Ok(Self { link, trust, journal: (journal, remembered) })
    }
}

/// Where keys may be kept in memory; nothing where there is no such place.
fn open_cache(place: &Place, of: &str) -> Option<Cache> {
    let directory =
        place.svid_cache.clone().unwrap_or_else(|| Path::new(RUN).join(place.subscriber.file_name()));
    let opened = Cache::open(&directory.join(of));
    let reason = "Certificates will not outlive this process: after a restart it needs the control plane.";
    opened.inspect_err(|error| warn!(%error, "{reason}")).ok()
}

/// The certificate authority in the state directory, made if there is none yet.
pub async fn embedded_ca(place: &Place) -> anyhow::Result<Ca> {
    let vault = Arc::new(FileVault::ca(&place.state));
    let limits = Limits::up_to(place.svid_lifetime);
    let ca = Ca::open(vault, &place.trust_domain, limits, SystemTime::now());
    ca.await.context("opening the certificate authority")
}

/// In memory on every distribution that has systemd, and most others.
pub(super) const RUN: &str = "/run/mesh";
/// Directories of keys below: of pods, and the process's own.
pub(super) const KEYS: [&str; 2] = ["pods", "node"];
/// How often a name that nobody can answer for yet is asked for.
const LOOK_UP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_name_that_nobody_knows_yet_is_asked_for_again() {
        let asked = Cell::new(0);
        let find = || {
            asked.set(asked.get() + 1);
            match asked.get() {
                1..=3 => Err(io::Error::other("no resolver yet")),
                4 => Ok(None),
                _ => source_to(SocketAddr::from((Ipv4Addr::LOCALHOST, 15012))).map(Some),
            }
        };
        assert_eq!((own_address(find).await, asked.get()), (Ipv4Addr::LOCALHOST.into(), 5));
    }
}
