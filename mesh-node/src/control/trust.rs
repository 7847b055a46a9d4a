//! What peers are checked against: read by everybody, and whoever has to pass it on hears of it at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use mesh_ca::Bundle;
use tokio::sync::watch;
use tracing::{info, warn};

/// The bundle of the moment. A control plane of ours tells it; Istio's has its roots in a file, and in the answers of
/// its CA.
#[derive(Debug)]
pub struct Trust {
    bundle: ArcSwap<Bundle>,
    news: watch::Sender<()>,
    /// Whether it was told. Held while anything changes it.
    told: Mutex<bool>,
}

impl Trust {
    /// Begins with these, which may come from a file.
    pub fn new(bundle: Bundle) -> Self {
        Self { bundle: ArcSwap::from_pointee(bundle), news: watch::Sender::new(()), told: Mutex::new(false) }
    }

    /// What is trusted now.
    pub fn bundle(&self) -> Arc<Bundle> {
        self.bundle.load_full()
    }

    /// Changes whenever something else is trusted from now on.
    pub fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// These and no others, from now on.
    pub fn told(&self, bundle: Bundle) {
        let mut told = self.lock();
        *told = true;
        self.replace(bundle);
    }

    /// The CA trusts these as well. Where all of them are told, an answer may be older than that.
    pub(super) fn answered(&self, roots: &str) {
        let told = self.lock();
        if *told {
            return;
        }
        let old = self.bundle();
        match Bundle::parse(format!("{}{roots}", old.roots_pem()).as_bytes(), &[]) {
            Ok(both) if both.roots().len() > old.roots().len() => {
                info!(roots = both.roots().len(), "The CA has named a root that was not known.");
                self.replace(both);
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "The roots that the CA has answered with are of no use."),
        }
    }

    fn replace(&self, bundle: Bundle) {
        self.bundle.store(Arc::new(bundle));
        self.news.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(name: &str) -> Bundle {
        let root = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        Bundle::parse(root.cert.pem().as_bytes(), &[]).unwrap()
    }

    #[test]
    fn an_answer_adds_roots_until_all_of_them_are_told() {
        let (file, answer, told) = (bundle("file"), bundle("answer"), bundle("told"));
        let trust = Trust::new(file.clone());
        let mut news = trust.news();
        trust.answered("no certificates");
        trust.answered(&file.roots_pem());
        assert!(!news.has_changed().unwrap() && *trust.bundle() == file);
        trust.answered(&answer.roots_pem());
        assert!(news.has_changed().unwrap());
        assert_eq!(trust.bundle().roots(), [file.roots(), answer.roots()].concat());
        trust.told(told.clone());
        news.mark_unchanged();
        trust.answered(&answer.roots_pem());
        assert!(!news.has_changed().unwrap() && *trust.bundle() == told);
    }
}
