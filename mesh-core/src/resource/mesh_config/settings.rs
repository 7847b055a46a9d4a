//! The messages of `MeshConfig` but for providers and proxies.

use serde::Deserialize;

use super::super::LabelSelector;
use super::super::networking::destination_rule::{ClientTls, ConnectionPool, OutlierDetection};
use super::super::strict::Invalid;
use super::super::value::Duration;

/// Which Ingress objects count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum IngressMode {
    /// As [`Self::Strict`].
    Unspecified,
    /// None.
    Off,
    /// Those of the class, and those without one.
    Default,
    /// Those of the class.
    #[default]
    Strict,
}

/// What an access-log line is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum AccessLogEncoding {
    /// Text.
    #[default]
    Text,
    /// A JSON object.
    Json,
}

/// What becomes of traffic to places that the mesh does not know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct OutboundTrafficPolicy {
    /// Absent means [`OutboundMode::AllowAny`].
    pub mode: OutboundMode,
    /// TLS for [`OutboundMode::AllowAnyDynamicDns`].
    pub tls: Option<ClientTls>,
}

/// Whether unknown destinations can be reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundMode {
    /// Only what is known to the mesh.
    RegistryOnly,
    /// Everything.
    #[default]
    AllowAny,
    /// Everything, and HTTP by the name in the request.
    #[serde(rename = "ALLOW_ANY_DYNAMIC_DNS")]
    AllowAnyDynamicDns,
}

/// Where traffic to ports that no service has goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct InboundTrafficPolicy {
    /// Absent means [`InboundMode::Passthrough`].
    pub mode: InboundMode,
}

/// To which address of a pod inbound traffic is passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum InboundMode {
    /// The one that it was sent to.
    #[default]
    Passthrough,
    /// 127.0.0.1.
    Localhost,
}

/// A server of configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigSource {
    /// For example `xds://10.0.0.1:15010` or `fs:///dir`.
    pub address: String,
    /// How it is spoken to.
    pub tls_settings: Option<ClientTls>,
    /// What it is asked for.
    pub subscribed_resources: Vec<SubscribedResource>,
}

/// What a server of configuration is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SubscribedResource {
    /// Services and endpoints.
    ServiceRegistry,
}

/// An authority to trust.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawCertificateData")]
pub struct CertificateAuthority {
    /// Its certificate.
    pub source: CertificateSource,
    /// The Kubernetes signers it is the authority of.
    pub cert_signers: Vec<String>,
    /// The trust domains it is the authority of; none means this mesh's.
    pub trust_domains: Vec<String>,
}

/// Where a certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    /// It stands here, as PEM.
    Pem(String),
    /// It is fetched as a SPIFFE bundle from this URL, which begins with `https://`.
    BundleUrl(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawCertificateData {
    pem: Option<String>,
    spiffe_bundle_url: Option<String>,
    #[serde(default)]
    cert_signers: Vec<String>,
    #[serde(default)]
    trust_domains: Vec<String>,
}

impl TryFrom<RawCertificateData> for CertificateAuthority {
    type Error = Invalid;

    fn try_from(raw: RawCertificateData) -> Result<Self, Invalid> {
        let source = match (raw.pem, raw.spiffe_bundle_url) {
            (Some(_), Some(_)) => {
                return Err(Invalid::new("cannot be combined with pem").field("spiffeBundleUrl"));
            }
            (Some(pem), None) if pem.contains("-----BEGIN CERTIFICATE-----") => CertificateSource::Pem(pem),
            (Some(_), None) => return Err(Invalid::new("is not a certificate in PEM").field("pem")),
            (None, Some(url)) if url.starts_with("https://") => CertificateSource::BundleUrl(url),
            (None, Some(_)) => {
                return Err(Invalid::new("does not begin with https://").field("spiffeBundleUrl"));
            }
            (None, None) => return Err(Invalid::new("pem or spiffeBundleUrl is required")),
        };
        Ok(Self { source, cert_signers: raw.cert_signers, trust_domains: raw.trust_domains })
    }
}

/// Whether HTTP/1.1 is made HTTP/2 between proxies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum H2Upgrade {
    /// No.
    #[default]
    DoNotUpgrade,
    /// Yes.
    Upgrade,
}

/// A certificate for DNS names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DnsCertificate {
    /// The Secret to put it into.
    pub secret_name: String,
    /// The names.
    pub dns_names: Vec<String>,
}

/// Settings of services by host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServiceSettings {
    /// The settings.
    pub settings: ServiceSetting,
    /// Hosts; `*.` at the start stands for any.
    pub hosts: Vec<String>,
}

/// What can be set for a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSetting {
    /// Whether clients of other clusters do not see it.
    pub cluster_local: bool,
}

/// Which services other clusters see.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceScopeConfig {
    /// Of which namespaces.
    pub namespace_selector: LabelSelector,
    /// Which ones.
    pub services_selector: LabelSelector,
    /// Absent means [`ServiceScope::Local`].
    pub scope: ServiceScope,
}

/// Who sees a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ServiceScope {
    /// Its own cluster.
    #[default]
    Local,
    /// All clusters.
    Global,
}

/// The certificate authority.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CaSettings {
    /// Its address, host and port.
    pub address: String,
    /// How it is spoken to.
    pub tls_settings: Option<ClientTls>,
    /// How long to wait for it; absent means 10 s.
    pub request_timeout: Option<Duration>,
    /// Whether the control plane asks it, not the proxies.
    pub istiod_side: bool,
}

/// Providers that Telemetry uses where it names none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefaultProviders {
    /// Of spans.
    pub tracing: Vec<String>,
    /// Of metrics.
    pub metrics: Vec<String>,
    /// Of access logs.
    pub access_logging: Vec<String>,
}

/// Whether connections between pods of one node that need nothing but layer 4 may pass the proxy by. A setting of this mesh;
/// Istio has nothing like it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExpressPath {
    /// Where a node was started with it.
    #[default]
    Enabled,
    /// Nowhere.
    Disabled,
}

/// How paths are made normal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "RawPathNormalization")]
pub enum PathNormalization {
    /// Not at all.
    None,
    /// By RFC 3986, and `\` becomes `/`.
    #[default]
    Base,
    /// As [`Self::Base`], and several slashes become one.
    MergeSlashes,
    /// As [`Self::MergeSlashes`], after encoded slashes are decoded.
    DecodeAndMergeSlashes,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPathNormalization {
    normalization: RawNormalization,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum RawNormalization {
    #[default]
    Default,
    None,
    Base,
    MergeSlashes,
    DecodeAndMergeSlashes,
}

impl From<RawPathNormalization> for PathNormalization {
    fn from(raw: RawPathNormalization) -> Self {
        match raw.normalization {
            RawNormalization::Default | RawNormalization::Base => Self::Base,
            RawNormalization::None => Self::None,
            RawNormalization::MergeSlashes => Self::MergeSlashes,
            RawNormalization::DecodeAndMergeSlashes => Self::DecodeAndMergeSlashes,
        }
    }
}

/// What TLS may be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsConfig {
    /// Absent leaves it to the implementation.
    pub min_protocol_version: TlsVersion,
    /// Curves by the names that OpenSSL has for them; empty leaves them to the implementation.
    pub ecdh_curves: Vec<String>,
    /// Cipher suites by the names that OpenSSL has for them; empty leaves them to the implementation.
    pub cipher_suites: Vec<String>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
pub enum TlsVersion {
    /// Whatever the implementation thinks right.
    #[default]
    #[serde(rename = "TLS_AUTO")]
    Auto,
    /// 1.2.
    #[serde(rename = "TLSV1_2")]
    V1_2,
    /// 1.3.
    #[serde(rename = "TLSV1_3")]
    V1_3,
}

/// What every DestinationRule starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefaultTrafficPolicy {
    /// Limits of connections.
    pub connection_pool: Option<ConnectionPool>,
    /// When an endpoint is left alone for a while.
    pub outlier_detection: Option<OutlierDetection>,
}

/// Which namespaces see a ServiceEntry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntryVisibility {
    /// Where no policy matches.
    pub default_visibility: Visibility,
    /// Whether it holds for sidecars as well.
    pub apply_to_sidecars: bool,
    /// The first that matches counts.
    pub policies: Vec<VisibilityPolicy>,
}

/// Who sees a ServiceEntry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Visibility {
    /// As [`Self::Public`].
    #[serde(rename = "VISIBILITY_UNSPECIFIED")]
    Unspecified,
    /// Nobody.
    None,
    /// Its own namespace.
    Namespace,
    /// Everybody.
    #[default]
    Public,
}

/// Who sees each ServiceEntry of some namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VisibilityPolicy {
    /// Who sees them.
    pub visibility: Visibility,
    /// One of them must match.
    pub matching_rules: Vec<VisibilityRule>,
}

/// Matches namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VisibilityRule {
    /// By their labels.
    pub namespace_selector: Option<LabelSelector>,
}
