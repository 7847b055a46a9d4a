//! What peers are checked against, as the control plane told it last: read by everybody, and whoever has to pass it on
//! hears of it at once.

use std::sync::Arc;

use arc_swap::ArcSwap;
use mesh_ca::Bundle;
use tokio::sync::watch;

/// The bundle of the moment.
#[derive(Debug)]
pub struct Told {
    bundle: ArcSwap<Bundle>,
    news: watch::Sender<()>,
}

impl Told {
    /// `bundle` until something else is told.
    pub fn new(bundle: Arc<Bundle>) -> Self {
        Self { bundle: ArcSwap::new(bundle), news: watch::Sender::new(()) }
    }

    /// What was told last.
    pub fn bundle(&self) -> Arc<Bundle> {
        self.bundle.load_full()
    }

    /// Takes what was told now.
    pub fn tell(&self, bundle: Bundle) {
        self.bundle.store(Arc::new(bundle));
        self.news.send_replace(());
    }

    /// Changes whenever something is told from now on.
    pub fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }
}
