//! Who signs: a CA of this node's own, or one elsewhere, behind one trait.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_ca::{Bundle, Ca, CaError, Csr, CsrError, Grant};
use mesh_core::id::SpiffeId;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use tokio::sync::watch;

/// The answer of a CA, which may be on another machine.
pub type Signing<'a, T> = Pin<Box<dyn Future<Output = Result<T, SignError>> + Send + 'a>>;

/// Signs certificates for identities of this node.
///
/// Who implements it need not limit how long an answer takes or try again: [`super::IdentityStore`] does both.
pub trait Sign: Send + Sync {
    /// Certifies the key of `csr` (whose own names are ignored) as `id` for at most `lifetime`.
    fn sign<'a>(
        &'a self,
        id: &'a SpiffeId,
        csr: CertificateSigningRequestDer<'static>,
        lifetime: Duration,
    ) -> Signing<'a, IssuedChain>;

    /// What peers are to be checked against, as far as it is known now. Cheap.
    fn bundle(&self) -> Arc<Bundle>;

    /// Brings [`Sign::bundle`] up to date. Called at least once a minute; on an error the last good one stays.
    fn refresh(&self) -> Signing<'_, ()>;

    /// Changes when [`Sign::bundle`] has, where that comes by itself: peers are checked against it within moments.
    fn news(&self) -> Option<watch::Receiver<()>> {
        None
    }

    /// How often [`Sign::refresh`] should be called: what it costs, and who else tells of a change, make the difference.
    fn pace(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// What a CA returns.
#[derive(Debug, Clone)]
pub struct IssuedChain {
    /// Leaf first, then intermediates; no root.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Why a CA did not sign.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Our own CA failed.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Our own CA did not take the request.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// A CA elsewhere says no, for the reason that follows.
    #[error("the CA refused: {0}")]
    Refused(String),
    /// A CA elsewhere cannot be reached or failed.
    #[error("the CA is unavailable: {0}")]
    Unavailable(String),
    /// No answer in time.
    #[error("the CA did not answer within {} s", .0.as_secs())]
    Deadline(Duration),
}

impl SignError {
    /// Stable token for metrics and logs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Ca(e) => e.reason(),
            Self::Csr(e) => e.reason(),
            Self::Refused(_) => "ca_refused",
            Self::Unavailable(_) => "ca_unavailable",
            Self::Deadline(_) => "ca_timeout",
        }
    }
}

/// The embedded CA. Its futures are ready at once; a signature takes some ten microseconds.
impl Sign for Ca {
    fn sign<'a>(
        &'a self,
        id: &'a SpiffeId,
        csr: CertificateSigningRequestDer<'static>,
        lifetime: Duration,
    ) -> Signing<'a, IssuedChain> {
        let sign = || {
            let grant = Grant::embedded(id.clone(), Csr::parse(&csr)?, lifetime);
            let signed = self.authority().sign(&grant, SystemTime::now())?;
            Ok(IssuedChain { certificates: signed.certificates })
        };
        Box::pin(ready(sign()))
    }

    fn bundle(&self) -> Arc<Bundle> {
        self.authority().bundle().clone()
    }

    fn refresh(&self) -> Signing<'_, ()> {
        Box::pin(async { Ok(self.refresh(SystemTime::now()).await.map(|_| ())?) })
    }

    /// Files of this machine, which nobody tells of: what they revoke is over within a second.
    fn pace(&self) -> Duration {
        Duration::from_millis(500)
    }
}
