//! Where the model and the certificates come from: a control plane inside this process, or one outside.

use std::{net::IpAddr, path::Path, sync::Arc, time::SystemTime};

use anyhow::Context;
use arc_swap::ArcSwap;
use mesh_ca::{
    Bundle, Ca, FileVault, Limits,
    authorize::{NodeName, node_identity},
};
use mesh_core::model::CompileOptions;
use mesh_source::{Changes, Directory, DirectoryFeed};
use tokio::sync::mpsc;

use super::{embedded, publish::Publisher, tasks};
use crate::{
    config::NodeOptions,
    control::{Discovery, Endpoint, Entry, Journal, Link, RemoteCa, connect},
    identity::{self, IdentityStore, Sign, cache::Cache},
};

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
    bundle: Arc<ArcSwap<Bundle>>,
    journal: (Journal, Vec<Entry>),
}

impl Source {
    /// Opens what `options` name, and the CA that belongs to it.
    pub async fn open(options: &NodeOptions) -> anyhow::Result<(Self, Arc<IdentityStore>)> {
        let mut cache = None;
        let (source, signer): (_, Arc<dyn Sign>) = match (&options.config, &options.control) {
            (Some(path), _) => {
                let ca = embedded_ca(options).await?;
                let (feed, changes) = Directory::changes(path)
                    .with_context(|| format!("opening the configuration {}", path.display()))?;
                (Self::Embedded(Box::new((feed, changes))), Arc::new(ca))
            }
            (None, Some(url)) => {
                cache = open_cache(options, "pods");
                let control = Control::open(options, url)?;
                let signer = RemoteCa::new(control.link.clone(), control.bundle.clone());
                (Self::Control(Box::new(control)), Arc::new(signer))
            }
            (None, None) => anyhow::bail!("--config or --control is needed"),
        };
        let domain = options.trust_domain.clone();
        let identity =
            identity::Options { lifetime: options.svid_lifetime, ..identity::Options::new(vec![domain]) };
        let store = IdentityStore::new(signer, identity);
        Ok((
            source,
            Arc::new(match cache {
                Some(cache) => store.with_cache(cache),
                None => store,
            }),
        ))
    }

    /// Starts to follow it. `demands` are addresses that pods want to reach and nobody has that is known.
    pub fn follow(self, options: &NodeOptions, publisher: Publisher, demands: mpsc::Receiver<IpAddr>) {
        let node = options.node.clone();
        match self {
            Self::Embedded(source) => {
                let (feed, changes) = *source;
                let compile = CompileOptions {
                    node,
                    trust_domain: options.trust_domain.clone(),
                    ..CompileOptions::default()
                };
                tasks::spawn_local("source", feed.run());
                tasks::spawn_local("compile", embedded::follow(changes, compile, publisher));
            }
            Self::Control(control) => {
                let Control { link, bundle, journal } = *control;
                tasks::spawn_local("discovery", async move {
                    let told = (publisher, demands);
                    Discovery::start(&node, (link, bundle), told, journal).await.run().await;
                });
            }
        }
    }
}

impl Control {
    fn open(options: &NodeOptions, url: &str) -> anyhow::Result<Self> {
        let (journal, remembered) = Journal::open(&options.state)
            .with_context(|| format!("opening the state in {}", options.state.display()))?;
        // Until something is told, peers are checked against the roots that the control plane is checked against.
        let bundle = match &options.control_ca {
            Some(path) => connect::read_roots(path)?,
            None => anyhow::bail!("--control-ca is needed: without roots nobody can be recognised"),
        };
        let bundle = Arc::new(ArcSwap::from_pointee(bundle));
        let endpoint =
            Endpoint::parse(url, options.control_ca.clone(), bundle.clone()).context("--control")?;
        let name = NodeName::parse(&options.node).context("--node")?;
        let own = (node_identity(&options.trust_domain, &name), open_cache(options, "node"));
        let link = Arc::new(Link::new(endpoint, options.token.clone(), own));
        Ok(Self { link, bundle, journal: (journal, remembered) })
    }
}

/// Where keys may be kept in memory; nothing where there is no such place.
fn open_cache(options: &NodeOptions, of: &str) -> Option<Cache> {
    let directory = options.svid_cache.clone().unwrap_or_else(|| Path::new(RUN).join(&options.node));
    let opened = Cache::open(&directory.join(of));
    let reason = "Certificates will not outlive this process: after a restart it needs the control plane.";
    opened.inspect_err(|error| tracing::warn!(%error, "{reason}")).ok()
}

async fn embedded_ca(options: &NodeOptions) -> anyhow::Result<Ca> {
    let vault = Arc::new(FileVault::ca(&options.state));
    let limits = Limits::up_to(options.svid_lifetime);
    let ca = Ca::open(vault, &options.trust_domain, limits, SystemTime::now());
    ca.await.context("opening the certificate authority")
}

/// In memory on every distribution that has systemd, and most others.
const RUN: &str = "/run/mesh";
