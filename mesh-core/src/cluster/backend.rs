//! TLS that the owner of a service asks of all clients, with a BackendTLSPolicy.

use std::sync::Arc;

use serde::Serialize;

use super::tls::{ClientCertificate, TlsOrigination, TlsPolicy, Trust};

/// What a BackendTLSPolicy says of a port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct BackendTls {
    /// The name to ask for, which the certificate has to be for unless [`Self::subject_alt_names`] are given.
    pub hostname: Arc<str>,
    /// Names and URIs of which the certificate has to have one.
    pub subject_alt_names: Vec<Arc<str>>,
    /// Who has to have signed it.
    pub trust: BackendTrust,
}

/// Whose certificates clients accept.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum BackendTrust {
    /// Those of authorities that the system trusts.
    System,
    /// Those of these authorities, PEM.
    Authorities(Arc<str>),
    /// Nobody's: the policy names no authority that is there, and nothing may be sent.
    Nobody,
}

impl BackendTls {
    /// What clients do because of it that show no certificate.
    pub fn policy(&self) -> TlsPolicy {
        self.policy_with(None)
    }

    /// What a client does because of it that shows `certificate`.
    pub fn policy_with(&self, certificate: Option<ClientCertificate>) -> TlsPolicy {
        TlsPolicy::Originate(Box::new(TlsOrigination {
            certificate,
            trust: match &self.trust {
                BackendTrust::System => Trust::System,
                BackendTrust::Authorities(text) => Trust::Authorities(Arc::clone(text)),
                BackendTrust::Nobody => Trust::Nobody,
            },
            crl: None,
            sni: Some(Arc::clone(&self.hostname)),
            subject_alt_names: self.subject_alt_names.iter().cloned().collect(),
        }))
    }
}
