//! Kubernetes Secrets, as far as they hold certificates and keys.
//!
//! Invariant: no key material leaves this module but through [`Material::expose`]. It is not in `Debug` output, not in
//! findings, and values that the mesh has no use for are not kept at all.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::strict;
use super::tree::{Path, Problem, Tree};

/// What the mesh reads of a Secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secret {
    /// What it says it is.
    pub kind: SecretKind,
    /// The certificate chain, PEM: `tls.crt`, or `cert` in Istio's own layout.
    pub certificate: Option<Material>,
    /// Its private key, PEM: `tls.key` or `key`.
    pub key: Option<Material>,
    /// Who peers must be signed by, PEM: `ca.crt` or `cacert`.
    pub ca: Option<Material>,
    /// Revoked certificates, PEM: `ca.crl` or `crl`.
    pub crl: Option<Material>,
    /// The OCSP response to staple, DER: `tls.ocsp-staple`.
    pub ocsp_staple: Option<Material>,
}

/// The type of a Secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SecretKind {
    /// `kubernetes.io/tls`: has certificate and key.
    Tls,
    /// `Opaque`, which an absent type means as well.
    #[default]
    Opaque,
    /// Something else, which is not read: service account tokens, registry credentials.
    Other(Arc<str>),
}

/// Bytes that must not be seen by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Material(Arc<[u8]>);

impl Secret {
    /// Whether there is anything in it for the mesh.
    pub fn is_empty(&self) -> bool {
        let Self { kind: _, certificate, key, ca, crl, ocsp_staple } = self;
        [certificate, key, ca, crl, ocsp_staple].into_iter().all(Option::is_none)
    }
}

impl Material {
    /// Hides `bytes`, which have come from where Secrets travel.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The bytes themselves. Whoever calls it answers for where they go.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether a PEM block begins in it that is called `label`, with whatever before that (`EC PRIVATE KEY`).
    pub fn is_pem(&self, label: &str) -> bool {
        let text = String::from_utf8_lossy(&self.0);
        text.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(label))
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

/// Reads a Secret. Problems name fields, never what stands in them.
pub(super) fn read(tree: &Tree, prefix: &str) -> (Option<(ObjectMeta, Secret)>, Vec<Problem>) {
    let decoded = strict::decode::<Document>(tree, prefix);
    let mut problems: Vec<_> = decoded.problems.into_iter().map(|problem| redact(problem, prefix)).collect();
    let Some(document) = decoded.value else { return (None, problems) };
    let Document { mut metadata, r#type, data, string_data, .. } = document;
    // kubectl keeps a copy of the whole object, values included, in this annotation.
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
    let kind = match r#type.as_deref() {
        None | Some("" | "Opaque") => SecretKind::Opaque,
        Some("kubernetes.io/tls") => SecretKind::Tls,
        Some(other) => SecretKind::Other(other.into()),
    };
    let mut values = Values { data, string_data, prefix, problems: &mut problems };
    // A pair is never put together from two layouts. As in Istio, its own comes before Kubernetes'.
    let own = kind == SecretKind::Opaque && values.has("cert") && values.has("key");
    let (certificate, key) = if own { ("cert", "key") } else { ("tls.crt", "tls.key") };
    let secret = match kind {
        SecretKind::Other(_) => Secret { kind, ..Secret::default() },
        SecretKind::Tls | SecretKind::Opaque => Secret {
            kind,
            certificate: values.pem(&[certificate], "CERTIFICATE"),
            key: values.pem(&[key], "PRIVATE KEY"),
            ca: values.pem(&["cacert", "ca.crt"], "CERTIFICATE"),
            crl: values.pem(&["crl", "ca.crl"], "X509 CRL"),
            ocsp_staple: values.take("tls.ocsp-staple"),
        },
    };
    if secret.kind == SecretKind::Tls {
        for (key, missing) in [("tls.crt", secret.certificate.is_none()), ("tls.key", secret.key.is_none())] {
            if missing && !problems.iter().any(|problem| problem.field.contains(key)) {
                let field = at(prefix, "data", Some(key));
                problems.push(Problem::error(field, "required for type kubernetes.io/tls, but missing"));
            }
        }
    }
    (Some((metadata, secret)), problems)
}

/// A Secret as users write it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(rename = "apiVersion")]
    _api_version: Option<serde::de::IgnoredAny>,
    #[serde(rename = "kind")]
    _kind: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    metadata: ObjectMeta,
    r#type: Option<String>,
    #[serde(rename = "immutable")]
    _immutable: Option<bool>,
    #[serde(default)]
    data: BTreeMap<String, String>,
    #[serde(default)]
    string_data: BTreeMap<String, String>,
}

/// The values of a Secret while it is read.
struct Values<'a> {
    data: BTreeMap<String, String>,
    string_data: BTreeMap<String, String>,
    prefix: &'a str,
    problems: &'a mut Vec<Problem>,
}

impl Values<'_> {
    fn has(&self, key: &str) -> bool {
        self.data.contains_key(key) || self.string_data.contains_key(key)
    }

    /// The value of the first of `keys` that has one. `label` is what its PEM blocks should be called.
    fn pem(&mut self, keys: &[&str], label: &str) -> Option<Material> {
        let key = keys.iter().find(|key| self.has(key))?;
        let value = self.take(key)?;
        if !value.is_pem(label) {
            let reason =
                format!("has no line \"-----BEGIN {label}-----\": it is not PEM, or not what belongs here");
            self.problems.push(Problem::warning(at(self.prefix, "data", Some(key)), reason));
        }
        Some(value)
    }

    /// The value of `key`. As with an API server, `stringData` counts before `data`.
    fn take(&mut self, key: &str) -> Option<Material> {
        if let Some(text) = self.string_data.remove(key) {
            return Some(Material(text.into_bytes().into()));
        }
        // Encoders break lines.
        let text: String = self.data.remove(key)?.split_ascii_whitespace().collect();
        if let Ok(bytes) = STANDARD.decode(text) {
            return Some(Material(bytes.into()));
        }
        let problem = Problem::error(at(self.prefix, "data", Some(key)), "is not base64");
        self.problems.push(problem.hint("plain text belongs in stringData"));
        None
    }
}

/// Takes out of a problem what might be a value of the Secret.
fn redact(problem: Problem, prefix: &str) -> Problem {
    let within = |field: &str| {
        let rest = problem.field.strip_prefix(&at(prefix, field, None));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    if within("data") || within("stringData") {
        let reason = problem.reason.split(", found ").next().unwrap_or_default().to_owned();
        Problem { reason, hint: None, ..problem }
    } else {
        problem
    }
}

fn at(prefix: &str, field: &str, key: Option<&str>) -> String {
    let root = Path::Root(prefix);
    let field = Path::Key(&root, field);
    match key {
        Some(key) => Path::Key(&field, key).to_string(),
        None => field.to_string(),
    }
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[cfg(test)]
mod tests;
