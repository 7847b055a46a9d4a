//! Certificates with their keys, on their way from Secrets to the gateways that show them.

use std::fmt;
use std::sync::Arc;

use crate::resource::Secret;

/// A Secret that a Gateway or a DestinationRule names. Told to gateways of its namespace, which are meant to have it, and to nobody else.
///
/// Invariant: what is in it is shown nowhere; `Debug` tells lengths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// What makes it unique.
    pub name: Arc<CredentialName>,
    /// What is in it.
    pub secret: Arc<Secret>,
}

/// A Secret's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CredentialName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// Whose credentials a compiler makes records of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CredentialScope {
    /// Nobody's: whoever is told by it is no gateway.
    #[default]
    Nobody,
    /// Those of one namespace, for the one gateway that is told.
    Namespace(String),
    /// Everybody's, for a control plane that looks who asks.
    Everybody,
}

impl CredentialScope {
    /// Whether those of `namespace` are among them.
    pub fn includes(&self, namespace: &str) -> bool {
        match self {
            Self::Nobody => false,
            Self::Namespace(one) => one == namespace,
            Self::Everybody => true,
        }
    }
}

impl fmt::Display for CredentialName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
