//! TLS towards a service, as data: who is trusted, and what is shown.

use std::sync::Arc;

use crate::id::SpiffeId;
use crate::resource::networking::destination_rule::{ClientTls, ClientTlsMode};

/// TLS towards a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TlsPolicy {
    /// No rule says anything: the mesh's own where the endpoint takes it, else none.
    #[default]
    Mesh,
    /// None.
    Disable,
    /// Made here. Within the mesh it goes through the tunnel like everything else.
    Originate(Box<TlsOrigination>),
    /// With the mesh's identities.
    IstioMutual {
        /// The name to ask for; absent means the mesh's usual one.
        sni: Option<Arc<str>>,
        /// Names of which the server's certificate must have one; none means the identities of the service's workloads.
        subject_alt_names: Arc<[Arc<str>]>,
    },
}

/// A client's side of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOrigination {
    /// What the client shows; absent for `SIMPLE`.
    pub certificate: Option<ClientCertificate>,
    /// Whom it trusts.
    pub trust: Trust,
    /// A file of revoked certificates.
    pub crl: Option<Arc<str>>,
    /// The name to ask for; absent means the host of the request as the server gets to see it, without its port, or the
    /// service's host where there is no request. An address is not asked for (RFC 6066, 3).
    pub sni: Option<Arc<str>>,
    /// Names of which the server's certificate must have one; none means the name that is asked for.
    pub subject_alt_names: Arc<[Arc<str>]>,
}

/// Where a client's certificate and key come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCertificate {
    /// Files of the client.
    Files {
        /// The chain, as PEM.
        certificate: Arc<str>,
        /// Its key, as PEM.
        key: Arc<str>,
    },
    /// A Secret.
    Credential(Credential),
}

/// Whose certificates are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Those of authorities that the system trusts.
    System,
    /// Those of authorities in this file, as PEM.
    File(Arc<str>),
    /// Those of authorities in a Secret or ConfigMap.
    Credential(Credential),
    /// Those of these authorities, as PEM.
    Authorities(Arc<str>),
    /// Everybody's: `insecureSkipVerify`.
    Anybody,
    /// Nobody's.
    Nobody,
}

/// What `credentialName` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A Secret in the namespace of the client.
    Secret(Arc<str>),
    /// A ConfigMap, which has authorities only.
    ConfigMap {
        /// The namespace of the rule.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
}

impl TlsPolicy {
    /// Of a rule in `namespace`.
    pub(super) fn new(tls: Option<&ClientTls>, namespace: &Arc<str>) -> Self {
        let Some(tls) = tls else { return Self::Mesh };
        let sni = text(&tls.sni);
        let subject_alt_names = tls.subject_alt_names.iter().map(|name| name.as_str().into()).collect();
        match tls.mode {
            ClientTlsMode::Disable => Self::Disable,
            ClientTlsMode::IstioMutual => Self::IstioMutual { sni, subject_alt_names },
            ClientTlsMode::Simple | ClientTlsMode::Mutual => Self::Originate(Box::new(TlsOrigination {
                certificate: certificate(tls, namespace),
                trust: trust(tls, namespace),
                crl: text(&tls.ca_crl),
                sni,
                subject_alt_names,
            })),
        }
    }
}

impl TlsPolicy {
    /// As this, but where it asks for no names these are asked for: the `subjectAltNames` of a ServiceEntry.
    #[must_use]
    pub fn or_names(self, names: &[Arc<str>]) -> Self {
        let or = |own: Arc<[Arc<str>]>| if own.is_empty() { names.into() } else { own };
        match self {
            Self::Originate(mut rule) => {
                rule.subject_alt_names = or(std::mem::take(&mut rule.subject_alt_names));
                Self::Originate(rule)
            }
            Self::IstioMutual { sni, subject_alt_names } => {
                Self::IstioMutual { sni, subject_alt_names: or(subject_alt_names) }
            }
            other => other,
        }
    }

    /// Whether a server with this identity of the mesh is one of those that are asked for.
    pub fn admits(&self, identity: &SpiffeId) -> bool {
        match self {
            Self::IstioMutual { subject_alt_names: names, .. } if !names.is_empty() => {
                names.iter().any(|name| **name == *identity.uri())
            }
            _ => true,
        }
    }
}

impl Credential {
    fn new(name: &str, namespace: &Arc<str>) -> Option<Self> {
        match name.strip_prefix(CONFIG_MAP) {
            None => text(name).map(Self::Secret),
            // The parser refuses other namespaces than the rule's.
            Some(name) => {
                let name = name.split_once('/').map_or(name, |(_, name)| name).into();
                Some(Self::ConfigMap { namespace: Arc::clone(namespace), name })
            }
        }
    }
}

fn certificate(tls: &ClientTls, namespace: &Arc<str>) -> Option<ClientCertificate> {
    if tls.mode != ClientTlsMode::Mutual {
        return None;
    }
    if let Some(credential) = Credential::new(&tls.credential_name, namespace) {
        return Some(ClientCertificate::Credential(credential));
    }
    let (certificate, key) = (tls.client_certificate.as_str().into(), tls.private_key.as_str().into());
    Some(ClientCertificate::Files { certificate, key })
}

fn trust(tls: &ClientTls, namespace: &Arc<str>) -> Trust {
    if tls.insecure_skip_verify == Some(true) {
        return Trust::Anybody;
    }
    let credential = Credential::new(&tls.credential_name, namespace).map(Trust::Credential);
    let file = || match tls.ca_certificates.as_str() {
        SYSTEM => None,
        file => text(file).map(Trust::File),
    };
    credential.or_else(file).unwrap_or(Trust::System)
}

fn text(text: &str) -> Option<Arc<str>> {
    Some(text).filter(|text| !text.is_empty()).map(Arc::from)
}

/// What the name of a ConfigMap begins with.
const CONFIG_MAP: &str = "configmap://";
/// What some write for the authorities of the system.
const SYSTEM: &str = "system";
