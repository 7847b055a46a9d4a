//! Which cluster is asked, and as whom: what `kubectl` would ask, unless a flag says otherwise.

use std::path::PathBuf;

use anyhow::Result;
use mesh_source::kubernetes::{Client, connect_to};

/// Flags that name a cluster.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Kubeconfig {
    /// Kubeconfig to find the cluster in [default: the one that kubectl takes].
    #[arg(short = 'c', long, value_name = "FILE", global = true)]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig.
    #[arg(long, value_name = "NAME", global = true)]
    context: Option<String>,
}

impl Kubeconfig {
    /// Whether a cluster was asked for by name.
    pub(crate) fn is_said(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some()
    }

    /// The cluster, and where it is, for people.
    ///
    /// # Errors
    /// If there is no kubeconfig that can be read, or no such context in it.
    pub(crate) async fn connect(&self) -> Result<(Client, String)> {
        Ok(connect_to(self.kubeconfig.as_deref(), self.context.as_deref()).await?)
    }
}
