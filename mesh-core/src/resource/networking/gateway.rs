//! `Gateway.spec`: what the edge of the mesh listens to.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::resource::value::{self, Bind, Protocol, ScopedHost};

/// `Gateway.spec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    /// Labels of the gateway's pods, in any namespace; none selects every workload.
    pub selector: BTreeMap<String, String>,
    /// What they listen to; never empty. Names of ports are unique.
    pub servers: Vec<Server>,
}

/// A port of a gateway, and whom it is for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// The port.
    pub port: ServerPort,
    /// Where to listen; absent means on all addresses.
    #[serde(default, deserialize_with = "value::unless_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub bind: Option<Bind>,
    /// Hosts that are served; never empty.
    pub hosts: Vec<ScopedHost>,
    /// Always there for HTTPS and TLS; for plain HTTP only with [`ServerTls::https_redirect`].
    #[serde(default)]
    pub tls: Option<ServerTls>,
    /// Documented by Istio, implemented by nobody.
    #[serde(default)]
    pub default_endpoint: String,
    /// For logs and metrics.
    #[serde(default)]
    pub name: String,
}

/// A port of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ServerPort {
    /// A port of the gateway's Service, which may lead to another of the pod; or of the pod itself if the Service has no
    /// such port. 0 only together with a Unix domain socket.
    #[serde(default)]
    pub number: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// Unique in the Gateway; never empty.
    pub name: String,
    /// Has no meaning here; anything but 0 is refused.
    #[serde(default)]
    pub target_port: u32,
}

/// TLS of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("allOf" = [{"not": {"required": ["credentialNames", "tlsCertificates"]}}, {"not": {"required": ["credentialName", "credentialNames"]}}, {"not": {"required": ["credentialName", "tlsCertificates"]}}])))]
#[serde(rename_all = "camelCase", default)]
pub struct ServerTls {
    /// Whether plain HTTP is answered with 301 and the same address in https.
    pub https_redirect: bool,
    /// Absent means [`ServerTlsMode::Passthrough`].
    pub mode: ServerTlsMode,
    /// File of the certificate. [`ServerTls::certificates`] has all ways to give one.
    pub server_certificate: String,
    /// File of its key.
    pub private_key: String,
    /// File of the authorities that clients must be certified by.
    pub ca_certificates: String,
    /// File of revoked certificates.
    pub ca_crl: String,
    /// Names of which a client's certificate must have one; none means any.
    pub subject_alt_names: Vec<String>,
    /// A Secret with certificate and key, and the authorities for clients.
    pub credential_name: String,
    /// At most two Secrets, for certificates of different kinds.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 2)))]
    pub credential_names: Vec<String>,
    /// A Secret or `configmap://` with the authorities for clients only.
    pub ca_cert_credential_name: String,
    /// At most two pairs of files, for certificates of different kinds.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 2)))]
    pub tls_certificates: Vec<TlsCertificate>,
    /// SHA-256 of SubjectPublicKeyInfo in base64, of which a client's certificate must have one.
    pub verify_certificate_spki: Vec<String>,
    /// SHA-256 in hexadecimal, of which a client's certificate must have one.
    pub verify_certificate_hash: Vec<String>,
    /// Oldest version that is spoken; automatic means 1.2.
    pub min_protocol_version: TlsVersion,
    /// Newest version that is spoken; automatic means 1.3.
    pub max_protocol_version: TlsVersion,
    /// Names of OpenSSL for 1.2 and older; unknown ones are ignored.
    pub cipher_suites: Vec<String>,
    /// Whether any client certificate is taken; absent means no.
    pub insecure_skip_verify: Option<bool>,
}

/// How a server does TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServerTlsMode {
    /// It does not open it; VirtualServices route by server name.
    #[default]
    Passthrough,
    /// With a certificate.
    Simple,
    /// Also asks clients for theirs.
    Mutual,
    /// It does not open it; the server name itself names the destination.
    AutoPassthrough,
    /// With its identity in the mesh.
    IstioMutual,
    /// As MUTUAL, but clients may have none.
    OptionalMutual,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum TlsVersion {
    /// The default of the field.
    #[default]
    #[serde(rename = "TLS_AUTO")]
    Auto,
    /// 1.0.
    #[serde(rename = "TLSV1_0")]
    V1_0,
    /// 1.1.
    #[serde(rename = "TLSV1_1")]
    V1_1,
    /// 1.2.
    #[serde(rename = "TLSV1_2")]
    V1_2,
    /// 1.3.
    #[serde(rename = "TLSV1_3")]
    V1_3,
}

/// A certificate in files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct TlsCertificate {
    /// File of the certificate.
    pub server_certificate: String,
    /// File of its key.
    pub private_key: String,
    /// File of authorities.
    pub ca_certificates: String,
}

/// Where a server's certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificates<'a> {
    /// It needs none, or uses its identity in the mesh.
    None,
    /// These Secrets, in the namespace of the gateway's pod; never empty.
    Secrets(&'a [String]),
    /// This Secret.
    Secret(&'a str),
    /// Files: certificate and key.
    Files(&'a str, &'a str),
    /// More than one pair of files; never empty.
    FilePairs(&'a [TlsCertificate]),
}

impl ServerTls {
    /// Whether the server opens TLS and so needs a certificate.
    pub fn is_terminating(&self) -> bool {
        !matches!(self.mode, ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough)
    }

    /// Where the certificate comes from.
    pub fn certificates(&self) -> Certificates<'_> {
        if !self.is_terminating() || self.mode == ServerTlsMode::IstioMutual {
            Certificates::None
        } else if !self.credential_name.is_empty() {
            Certificates::Secret(&self.credential_name)
        } else if !self.credential_names.is_empty() {
            Certificates::Secrets(&self.credential_names)
        } else if !self.tls_certificates.is_empty() {
            Certificates::FilePairs(&self.tls_certificates)
        } else {
            Certificates::Files(&self.server_certificate, &self.private_key)
        }
    }
}
