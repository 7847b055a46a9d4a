//! Certificates with their keys, on their way from Secrets to the gateways that show them.

use std::fmt;
use std::sync::Arc;

use crate::id::SpiffeId;
use crate::resource::Secret;

/// A Secret that a Gateway or a DestinationRule names. Told to the gateways of its namespace that are meant to have it, and to nobody else.
///
/// Invariant: what is in it is shown nowhere; `Debug` tells lengths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// What makes it unique.
    pub name: Arc<CredentialName>,
    /// What is in it.
    pub secret: Arc<Secret>,
    /// Who is meant to have it, by name. Not told to anybody, and known where everybody is told.
    pub readers: Arc<[Reader]>,
}

/// A pod, or a machine, that runs a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// Its name.
    pub name: Arc<str>,
    /// Its UID, if it is a pod that an API server knows.
    pub uid: Option<Arc<str>>,
    /// Its service account.
    pub service_account: Arc<str>,
    /// What runs it, for example a Deployment; itself if nothing does.
    pub workload: Arc<str>,
    /// The Gateway of the Gateway API that its label names.
    pub gateway: Option<Arc<str>>,
}

/// Who asks for credentials, as far as it has proven who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Who it is there.
    pub proof: AskerProof,
}

/// What an asker has proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskerProof {
    /// That it is this very pod, by a token that is bound to it.
    Pod {
        /// Its name.
        name: Arc<str>,
        /// Its UID.
        uid: Arc<str>,
    },
    /// Its service account, and nothing more: outside of Kubernetes there is no more to be had. It says what it is called.
    Account {
        /// The account.
        service_account: Arc<str>,
        /// Its own name, or that of what runs it. Its word.
        called: Arc<str>,
    },
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

impl Credential {
    /// Whether `asker` is meant to have it.
    pub fn is_for(&self, asker: &Asker) -> bool {
        asker.namespace == self.name.namespace && self.readers.iter().any(|reader| reader.is(&asker.proof))
    }
}

impl Reader {
    /// Whether it is the one that has proven this. Of several pods of one account, one that has proven no more than the account
    /// may be any that is called as it says.
    fn is(&self, proof: &AskerProof) -> bool {
        match proof {
            AskerProof::Pod { name, uid } => self.name == *name && self.uid.as_ref() == Some(uid),
            AskerProof::Account { service_account, called } => {
                let names = [Some(&self.name), Some(&self.workload), self.gateway.as_ref()];
                self.service_account == *service_account && names.contains(&Some(called))
            }
        }
    }
}

impl Asker {
    /// Who has proven to be `id`, and says that it is called so.
    pub fn of_account(id: &SpiffeId, called: &str) -> Self {
        let proof =
            AskerProof::Account { service_account: id.service_account().into(), called: called.into() };
        Self { namespace: id.namespace().into(), proof }
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespace = &self.namespace;
        match &self.proof {
            AskerProof::Pod { name, .. } => write!(f, "pod {namespace}/{name}"),
            AskerProof::Account { service_account, called } => {
                write!(f, "{namespace}/{called} of service account {service_account}")
            }
        }
    }
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
