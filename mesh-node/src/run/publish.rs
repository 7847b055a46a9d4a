//! How a new model takes effect.

use std::{collections::BTreeSet, fmt, sync::Arc};

use mesh_core::{
    id::{SpiffeId, TrustDomain},
    model::Snapshot,
};
use tokio::sync::watch;

use super::state::Findings;
use crate::{identity::IdentityStore, report::Reporter};

/// Puts snapshots into force, wherever they come from.
pub struct Publisher {
    /// What the data plane decides with.
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    /// The certificates that follow the pods.
    pub identities: Arc<IdentityStore>,
    /// What there is to say about the configuration.
    pub findings: watch::Sender<Findings>,
    /// Whose certificates a model asks for.
    pub wanted: Wanted,
    /// Where it is counted what was heard.
    pub reporter: Arc<Reporter>,
}

/// The identities that a process needs certificates of under a model.
pub type Wanted = Box<dyn Fn(&Snapshot) -> BTreeSet<SpiffeId> + Send + Sync>;

impl Publisher {
    /// One that says what is in force and what there is to say about it, and has certificates follow whom they are `wanted` for.
    pub fn new(
        (snapshots, findings): (watch::Sender<Arc<Snapshot>>, watch::Sender<Findings>),
        (identities, wanted): (Arc<IdentityStore>, Wanted),
        reporter: &Arc<Reporter>,
    ) -> Self {
        Self { snapshots, identities, findings, wanted, reporter: Arc::clone(reporter) }
    }

    /// Puts `snapshot` into force: pods are captured when their certificates are there, and certificates go when their
    /// pods have been let go of.
    pub async fn publish(&self, snapshot: Snapshot) {
        let wanted = (self.wanted)(&snapshot);
        self.identities.set_trust_domains(accepted_domains(&snapshot));
        self.identities.prepare(&wanted).await;
        self.snapshots.send_replace(Arc::new(snapshot));
        self.identities.want(&wanted);
    }

    /// Whether anything has been published.
    pub fn has_published(&self) -> bool {
        self.snapshots.borrow().is_loaded()
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

fn accepted_domains(snapshot: &Snapshot) -> Vec<TrustDomain> {
    let own = std::iter::once(snapshot.trust_domain());
    own.chain(snapshot.trust_domain_aliases()).cloned().collect()
}

/// Those of the enrolled pods of this node.
pub fn local_identities(snapshot: &Snapshot) -> BTreeSet<SpiffeId> {
    snapshot.local_pods().filter(|pod| pod.enrolled).map(|pod| pod.identity.clone()).collect()
}
