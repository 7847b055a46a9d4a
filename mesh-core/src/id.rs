//! Identities: trust domains and SPIFFE ids, parsed once and compared as values ever after.
//!
//! Invariant: whatever is held by these types obeys the SPIFFE grammar, so that nobody has to think about NUL bytes,
//! percent encoding, dot segments or wildcards again. No other module takes an identity apart as text.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// The name space that a certificate authority vouches for, for example `cluster.local`.
///
/// Lower-case letters, digits, `.`, `-` and `_` (SPIFFE-ID §2.1); 1 to 255 bytes; no empty label. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// A workload's identity: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`. Cheap to clone.
///
/// Equality is equality of the text: there is exactly one spelling of every identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain: TrustDomain,
    /// Length of the namespace in bytes; with the trust domain's it fixes where every part stands.
    namespace_len: usize,
}

/// Why a text is not an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// More than [`MAX_URI_BYTES`].
    #[error("is longer than 2048 bytes")]
    TooLong,
    /// Another scheme, or `spiffe` in capitals: certificates carry the canonical form.
    #[error("does not start with spiffe://")]
    Scheme,
    /// Empty, too long, upper case, a port, user information, a wildcard, …
    #[error("has a trust domain that is not 1 to 255 of a-z, 0-9, '.', '-' and '_' without empty labels")]
    TrustDomain,
    /// A path of another shape: missing or extra parts, a trailing slash, other keywords.
    #[error("has a path that is not /ns/<namespace>/sa/<service account>")]
    Path,
    /// Empty, dots only, or a character outside of letters, digits, '.', '-' and '_'.
    #[error(
        "has a namespace or service account that is empty, contains '..' or a character not allowed there"
    )]
    Segment,
}

/// The longest identity accepted, in bytes (SPIFFE-ID §2.3 asks implementations to support exactly this much).
pub const MAX_URI_BYTES: usize = 2048;

impl TrustDomain {
    /// Takes `text` if it is a trust domain in its canonical form, which is lower case.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if is_trust_domain(text) { Ok(Self(text.into())) } else { Err(IdError::TrustDomain) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    /// `cluster.local`, as Istio's default is.
    fn default() -> Self {
        Self("cluster.local".into())
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl SpiffeId {
    /// The identity of a service account. The names must be what SPIFFE allows in a path, which is wider than what
    /// Kubernetes allows as names.
    pub fn new(trust_domain: &TrustDomain, namespace: &str, service_account: &str) -> Result<Self, IdError> {
        if !is_segment(namespace) || !is_segment(service_account) {
            return Err(IdError::Segment);
        }
        let uri = format!("{SCHEME}{trust_domain}{NAMESPACE_KEY}{namespace}{ACCOUNT_KEY}{service_account}");
        if uri.len() > MAX_URI_BYTES {
            return Err(IdError::TooLong);
        }
        Ok(Self { uri: uri.into(), trust_domain: trust_domain.clone(), namespace_len: namespace.len() })
    }

    /// Takes exactly the canonical form. Certificates of peers are read with this, so it forgives nothing.
    pub fn parse(uri: &str) -> Result<Self, IdError> {
        if uri.len() > MAX_URI_BYTES {
            return Err(IdError::TooLong);
        }
        let rest = uri.strip_prefix(SCHEME).ok_or(IdError::Scheme)?;
        let (trust_domain, path) = rest.split_once('/').unwrap_or((rest, ""));
        let trust_domain = TrustDomain::parse(trust_domain)?;
        let mut parts = path.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                Self::new(&trust_domain, namespace, account)
            }
            _ => Err(IdError::Path),
        }
    }

    /// Who vouches for it.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        let range = self.namespace_range();
        &self.uri[range]
    }

    /// The Kubernetes service account's name.
    pub fn service_account(&self) -> &str {
        &self.uri[self.namespace_range().end + ACCOUNT_KEY.len()..]
    }

    /// The form that policies use: without `spiffe://`.
    pub fn principal(&self) -> &str {
        &self.uri[SCHEME.len()..]
    }

    /// The form that certificates use.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    fn namespace_range(&self) -> Range<usize> {
        let start = SCHEME.len() + self.trust_domain.0.len() + NAMESPACE_KEY.len();
        start..start + self.namespace_len
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.uri)
    }
}

fn is_trust_domain(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    text.len() <= MAX_TRUST_DOMAIN_BYTES
        && text.bytes().all(allowed)
        && text.split('.').all(|label| !label.is_empty())
}

/// SPIFFE-ID §2.2, and no `..` anywhere: no Kubernetes name has it, and software that normalises paths trips over it.
fn is_segment(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !text.is_empty() && text != "." && !text.contains("..") && text.bytes().all(allowed)
}

const SCHEME: &str = "spiffe://";
const NAMESPACE_KEY: &str = "/ns/";
const ACCOUNT_KEY: &str = "/sa/";
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

#[cfg(test)]
mod tests;
