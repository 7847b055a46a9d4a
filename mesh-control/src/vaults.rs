//! Where the certificate authority and the join tokens are: in files, or in a cluster.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_ca::authority::Limits;
use mesh_ca::{Ca, CaError, FileVault, Vault, VaultError};
use mesh_core::id::TrustDomain;
use tokio::time::sleep;

use crate::config::Keep;
use crate::kubernetes::Cluster;

/// The two vaults, and the cluster they are in, if it is one.
pub struct Vaults {
    /// The certificate authority's.
    pub ca: Arc<dyn Vault>,
    /// That of join tokens.
    pub join: Arc<dyn Vault>,
    /// Where they are, unless they are files.
    pub cluster: Option<Cluster>,
}

impl Vaults {
    /// Those that the command line names. Nothing is opened yet.
    pub async fn find(keep: &Keep) -> anyhow::Result<Self> {
        if keep.kubernetes {
            let cluster = Cluster::find(&keep.root_namespace).await?;
            let (ca, join) = (Arc::new(cluster.ca_vault()), Arc::new(cluster.join_vault()));
            return Ok(Self { ca, join, cluster: Some(cluster) });
        }
        let (ca, join) = (Arc::new(FileVault::ca(&keep.state)), Arc::new(FileVault::join(&keep.state)));
        Ok(Self { ca, join, cluster: None })
    }
}

/// Opens the CA of `vault`, and makes it if there is none. A vault elsewhere that cannot be reached is asked again until
/// it can: to end would be to be started again at once, and to say less.
pub async fn open(vault: Arc<dyn Vault>, domain: &TrustDomain, limits: Limits) -> Result<Ca, CaError> {
    let mut wait = LEAST_WAIT;
    loop {
        match Ca::open(Arc::clone(&vault), domain, limits, SystemTime::now()).await {
            Err(CaError::Vault(error @ VaultError::Elsewhere { .. })) => {
                tracing::warn!(%error, seconds = wait.as_secs(), "There is no certificate authority yet; trying again.");
                sleep(wait).await;
                wait = (wait * 2).min(MOST_WAIT);
            }
            outcome => return outcome,
        }
    }
}

/// After the first failure…
const LEAST_WAIT: Duration = Duration::from_secs(1);
/// …and after many: an API server that is back should not wait for us.
const MOST_WAIT: Duration = Duration::from_secs(8);
