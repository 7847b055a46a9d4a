//! What is wrong with a CA.

use crate::vault::VaultError;

/// What is wrong with a CA or its files.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The vault cannot be read or changed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// Some files of the CA are there and this one is not.
    #[error("{place}: missing, although other files of the CA are there")]
    Missing {
        /// The file.
        place: String,
    },
    /// A file does not hold what it should.
    #[error("{place}: {reason}")]
    Malformed {
        /// The file.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The chain from the signing certificate to a root is broken, expired or not allowed to sign.
    #[error("{place}: certificates it signs are not accepted under its roots: {reason}")]
    Chain {
        /// The signing certificate.
        place: String,
        /// What the check said.
        reason: String,
    },
    /// A certificate could not be signed.
    #[error("the certificate could not be signed: {0}")]
    Sign(#[from] rcgen::Error),
    /// The CA's own certificate has ended, or not begun.
    #[error("the CA's own certificate is not valid now")]
    Expired,
}

impl CaError {
    /// Stable token for metrics and logs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Vault(e) => e.reason(),
            Self::Missing { .. } => "ca_file_missing",
            Self::Malformed { .. } => "ca_file_malformed",
            Self::Chain { .. } => "ca_chain_broken",
            Self::Sign(_) => "ca_sign_failed",
            Self::Expired => "ca_expired",
        }
    }
}
