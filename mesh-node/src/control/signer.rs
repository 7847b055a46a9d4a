//! The control plane as the CA of this node's pods.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh_ca::{Bundle, bundle::pem};
use mesh_core::id::SpiffeId;
use rustls_pki_types::CertificateSigningRequestDer;
use tokio::sync::watch;
use tracing::{info, warn};

use super::credential::{Link, LinkError, Opened};
use super::told::Told;
use crate::identity::{IssuedChain, Sign, SignError, Signing};

/// What peers are checked against. A control plane of ours tells it; Istio's has its roots in a file, and in the answers
/// of its CA.
#[derive(Debug)]
pub struct Trust {
    bundle: Arc<Told>,
    /// Held while either changes it.
    told: Mutex<bool>,
}

impl Trust {
    /// Begins with these, which may come from a file.
    pub fn new(bundle: Bundle) -> Self {
        Self { bundle: Arc::new(Told::new(Arc::new(bundle))), told: Mutex::new(false) }
    }

    /// What is trusted, now and later.
    pub fn bundle(&self) -> &Arc<Told> {
        &self.bundle
    }

    /// These and no others, from now on.
    pub fn told(&self, bundle: Bundle) {
        let mut told = self.lock();
        *told = true;
        self.bundle.tell(bundle);
    }

    /// The CA trusts these as well. Where all of them are told, an answer may be older than that.
    fn answered(&self, roots: &str) {
        let told = self.lock();
        if *told {
            return;
        }
        let old = self.bundle.bundle();
        match Bundle::parse(format!("{}{roots}", old.roots_pem()).as_bytes(), &[]) {
            Ok(both) if both.roots().len() > old.roots().len() => {
                info!(roots = both.roots().len(), "The CA has named a root that was not known.");
                self.bundle.tell(both);
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "The roots that the CA has answered with are of no use."),
        }
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Signs by asking the control plane.
#[derive(Debug)]
pub struct RemoteCa {
    link: Arc<Link>,
    trust: Arc<Trust>,
    /// Kept between requests, and let go of when one fails.
    opened: tokio::sync::Mutex<Option<Opened>>,
}

impl RemoteCa {
    /// Asks over `link`, and adds the roots that it is answered to `trust`.
    pub fn new(link: Arc<Link>, trust: Arc<Trust>) -> Self {
        Self { link, trust, opened: tokio::sync::Mutex::default() }
    }

    async fn opened(&self) -> Result<Opened, LinkError> {
        let mut held = self.opened.lock().await;
        if let Some(opened) = &*held {
            return Ok(opened.clone());
        }
        Ok(held.insert(self.link.open().await?).clone())
    }
}

impl Sign for RemoteCa {
    fn sign<'a>(
        &'a self,
        id: &'a SpiffeId,
        csr: CertificateSigningRequestDer<'static>,
        lifetime: Duration,
    ) -> Signing<'a, IssuedChain> {
        Box::pin(async move {
            let opened = self.opened().await?;
            let csr = pem("CERTIFICATE REQUEST", &csr);
            match opened.certify(csr, Some(id), Some(lifetime)).await {
                Ok(answer) => {
                    self.trust.answered(&answer.roots);
                    Ok(IssuedChain { certificates: answer.certificates })
                }
                Err(error) => {
                    // Another connection may reach another replica, or show a newer token.
                    self.opened.lock().await.take();
                    Err(error.into())
                }
            }
        })
    }

    fn bundle(&self) -> Arc<Bundle> {
        self.trust.bundle.bundle()
    }

    fn refresh(&self) -> Signing<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn news(&self) -> Option<watch::Receiver<()>> {
        Some(self.trust.bundle().news())
    }
}

impl From<LinkError> for SignError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Refused(text) => Self::Refused(text),
            other => Self::Unavailable(other.to_string()),
        }
    }
}
