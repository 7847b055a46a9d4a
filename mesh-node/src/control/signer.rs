//! The control plane as the CA of this node's pods.

use std::{sync::Arc, time::Duration};

use mesh_ca::{Bundle, bundle::pem};
use mesh_core::id::SpiffeId;
use rustls_pki_types::CertificateSigningRequestDer;
use tokio::sync::{Mutex, watch};

use super::credential::{Link, LinkError, Opened};
use super::trust::Trust;
use crate::identity::{IssuedChain, Sign, SignError, Signing};

/// Signs by asking the control plane.
#[derive(Debug)]
pub struct RemoteCa {
    link: Arc<Link>,
    trust: Arc<Trust>,
    /// Kept between requests, and let go of when one fails.
    opened: Mutex<Option<Opened>>,
}

impl RemoteCa {
    /// Asks over `link`, and adds the roots that it is answered to `trust`.
    pub fn new(link: Arc<Link>, trust: Arc<Trust>) -> Self {
        Self { link, trust, opened: Mutex::default() }
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
        self.trust.bundle()
    }

    fn refresh(&self) -> Signing<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn news(&self) -> Option<watch::Receiver<()>> {
        Some(self.trust.news())
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
