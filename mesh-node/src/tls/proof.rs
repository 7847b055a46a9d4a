//! What a peer has proven, kept to be judged again: by other roots, by a revocation list that has come since.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use webpki::KeyUsage;

use super::leaf::Leaf;
use super::verify::{PeerError, Trust};

/// The certificates of a peer, when it has shown them, and whom they were judged by.
#[derive(Clone)]
pub struct Proof {
    trust: Arc<Trust>,
    /// What has changed about `trust` since before the handshake.
    news: watch::Receiver<()>,
    chain: Arc<[CertificateDer<'static>]>,
    role: Role,
    at: UnixTime,
}

/// Which end of a handshake a peer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

impl Role {
    pub(super) fn usage(self) -> KeyUsage {
        match self {
            Self::Client => KeyUsage::client_auth(),
            Self::Server => KeyUsage::server_auth(),
        }
    }
}

impl Proof {
    /// What `chain` (leaf first) has proven in a handshake that `trust` has accepted. `news` is [`Trust::news`] from before
    /// that handshake: what has changed meanwhile counts.
    pub(crate) fn new(
        (trust, news): (Arc<Trust>, watch::Receiver<()>),
        chain: &[CertificateDer<'_>],
        role: Role,
    ) -> Self {
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        Self { trust, news, chain, role, at: UnixTime::now() }
    }

    /// The certificate that has proven it.
    pub fn leaf(&self) -> Option<Leaf> {
        Leaf::of(&self.chain)
    }

    /// Resolves when what was proven would not be accepted any more, and says why.
    ///
    /// That a certificate has ended since then is no reason. Nor is it then that its root is gone: one that is replaced stays
    /// until all that it has issued has ended.
    pub async fn refuted(&self) -> PeerError {
        let mut news = self.news.clone();
        loop {
            if news.changed().await.is_err() {
                return std::future::pending().await;
            }
            if let Err(error) = self.judge() {
                return error;
            }
        }
    }

    fn judge(&self) -> Result<(), PeerError> {
        match self.trust.judge(&self.chain, self.at, self.role) {
            Err(PeerError::Untrusted) if self.has_ended() => Ok(()),
            other => other,
        }
    }

    fn has_ended(&self) -> bool {
        let end = self.chain.first().and_then(|leaf| super::verify::not_after(leaf).ok());
        end.is_none_or(|end| end < SystemTime::now())
    }
}

impl PartialEq for Proof {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain && self.role == other.role && self.at == other.at
    }
}

impl Eq for Proof {}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof").field("role", &self.role).field("at", &self.at).finish_non_exhaustive()
    }
}
