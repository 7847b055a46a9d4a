//! BackendTLSPolicy: TLS from the mesh to a Service that speaks it by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::super::strict::Invalid;
use super::super::tree::quote;
use super::reference::LocalRef;
use super::value::{
    GroupName, Hostname, KindName, ObjectName, PreciseHostname, SectionName, Text4096, is_dns_name,
};

/// `BackendTLSPolicy.spec`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTlsPolicySpec {
    /// The Services it is for, 1 to 16.
    pub target_refs: Vec<LocalPolicyTarget>,
    /// Who the backend must prove to be.
    pub validation: Validation,
    /// Settings of an implementation's own, at most 16.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// An object of the policy's namespace, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalPolicyTarget {
    /// Empty for Kubernetes' core group.
    pub group: GroupName,
    /// `Service`.
    pub kind: KindName,
    /// Its name.
    pub name: ObjectName,
    /// The name of one port; absent means all ports.
    pub section_name: Option<SectionName>,
}

impl LocalPolicyTarget {
    /// Whether it is a Kubernetes Service.
    pub fn is_service(&self) -> bool {
        self.group.is_empty() && *self.kind == *"Service"
    }
}

/// How the backend's certificate is checked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawValidation")]
pub struct Validation {
    /// Who must have signed it.
    pub ca: CaSource,
    /// The SNI to send, and the name the certificate must be for unless there are alternative names.
    pub hostname: PreciseHostname,
    /// One of them must be in the certificate, at most 5.
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// Where trusted authorities come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaSource {
    /// ConfigMaps or Secrets with key `ca.crt`, 1 to 8.
    Refs(Vec<LocalRef>),
    /// Those of the system that the proxy runs on.
    System,
    /// A set of an implementation's own, `DOMAIN/NAME`.
    Named(Arc<str>),
}

/// A name in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "RawSubjectAltName")]
pub enum SubjectAltName {
    /// A DNS name; a wildcard is compared as it is.
    Hostname(Hostname),
    /// A URI, `spiffe://` ones included, at most 253 characters.
    Uri(Arc<str>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawValidation {
    #[serde(default, rename = "caCertificateRefs")]
    ca_certificate_refs: Vec<LocalRef>,
    #[serde(rename = "wellKnownCACertificates")]
    well_known: Option<Text4096>,
    hostname: PreciseHostname,
    #[serde(default)]
    subject_alt_names: Vec<SubjectAltName>,
}

impl TryFrom<RawValidation> for Validation {
    type Error = Invalid;

    fn try_from(raw: RawValidation) -> Result<Self, Invalid> {
        let RawValidation { ca_certificate_refs: refs, well_known, hostname, subject_alt_names } = raw;
        let ca = match well_known {
            Some(_) if !refs.is_empty() => {
                let reason = "cannot be combined with caCertificateRefs";
                return Err(Invalid::new(reason).field("wellKnownCACertificates"));
            }
            Some(name) => well_known_ca(&name)?,
            None if refs.is_empty() => {
                let hint = "write \"wellKnownCACertificates: System\" to trust the system's authorities";
                return Err(
                    Invalid::new("caCertificateRefs or wellKnownCACertificates is required").hint(hint)
                );
            }
            None => CaSource::Refs(refs),
        };
        Ok(Self { ca, hostname, subject_alt_names })
    }
}

/// `System`, or `DOMAIN/NAME`.
fn well_known_ca(text: &str) -> Result<CaSource, Invalid> {
    let own = text.split_once('/').is_some_and(|(domain, name)| {
        let ends = |c: char| c.is_ascii_alphanumeric();
        is_dns_name(domain)
            && name.len() <= 63
            && name.starts_with(ends)
            && name.ends_with(ends)
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    });
    match text {
        "System" => Ok(CaSource::System),
        _ if own && text.len() <= 253 => Ok(CaSource::Named(text.into())),
        _ => Err(Invalid::new(format!("unknown value {}", quote(text)))
            .field("wellKnownCACertificates")
            .hint("write System")),
    }
}

#[derive(Deserialize)]
struct RawSubjectAltName {
    #[serde(rename = "type")]
    kind: SubjectAltNameKind,
    hostname: Option<Hostname>,
    uri: Option<String>,
}

#[derive(Deserialize)]
enum SubjectAltNameKind {
    Hostname,
    #[serde(rename = "URI")]
    Uri,
}

impl TryFrom<RawSubjectAltName> for SubjectAltName {
    type Error = Invalid;

    fn try_from(raw: RawSubjectAltName) -> Result<Self, Invalid> {
        // As in the API, an empty text is as good as none.
        let uri = raw.uri.filter(|uri| !uri.is_empty());
        match (raw.kind, raw.hostname, uri) {
            (SubjectAltNameKind::Hostname, Some(hostname), None) => Ok(Self::Hostname(hostname)),
            (SubjectAltNameKind::Uri, None, Some(uri)) => self::uri(&uri),
            (SubjectAltNameKind::Hostname, _, Some(_)) => {
                Err(Invalid::new("is not for type Hostname").field("uri"))
            }
            (SubjectAltNameKind::Hostname, None, None) => {
                Err(Invalid::new("hostname is required for type Hostname"))
            }
            (SubjectAltNameKind::Uri, Some(_), _) => {
                Err(Invalid::new("is not for type URI").field("hostname"))
            }
            (SubjectAltNameKind::Uri, None, None) => Err(Invalid::new("uri is required for type URI")),
        }
    }
}

/// `SCHEME://AUTHORITY` and any path, query and fragment.
fn uri(text: &str) -> Result<SubjectAltName, Invalid> {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    if text.chars().count() > 253 {
        return Err(Invalid::new("has more than 253 characters").field("uri"));
    }
    if scheme.is_some_and(|scheme| !scheme.is_empty() && !scheme.contains([':', '/', '?', '#'])) {
        return Ok(SubjectAltName::Uri(text.into()));
    }
    Err(Invalid::new(format!("{} is not a URI", quote(text)))
        .field("uri")
        .hint("write SCHEME://AUTHORITY/PATH"))
}
