//! `MeshConfig`, the settings of the mesh as a whole, and `ProxyConfig`, those of its proxies.
//!
//! There is no second chance to write them: a field that cannot be used is a finding and leaves its default in force, an
//! item of a list that cannot be used is left out, and everything else applies. So each value is valid by itself, and
//! parsing always gives a configuration.

use std::sync::Arc;

use serde::{Deserialize, Deserializer};

pub use self::provider::ExtensionProvider;
pub use self::proxy::ProxyConfig;
use self::settings::{
    AccessLogEncoding, CaSettings, CertificateAuthority, ConfigSource, DefaultProviders,
    DefaultTrafficPolicy, DnsCertificate, ExpressPath, H2Upgrade, InboundTrafficPolicy, IngressMode,
    OutboundTrafficPolicy, PathNormalization, ServiceEntryVisibility, ServiceScopeConfig, ServiceSettings,
    TlsConfig,
};
use super::networking::destination_rule::{LocalityLbSetting, TcpKeepalive, ZoneAwareLbSetting};
use super::networking::virtual_service::Retries;
use super::tree::{MAX_PROBLEMS, Path, Problem, Tree};
use super::value::{Duration, DurationOrZero, ExportTo, Port};
use super::{Finding, LabelSelector, Origin, document, strict};
use crate::id::TrustDomain;

pub mod provider;
pub mod proxy;
pub mod settings;
mod support;
mod validate;

/// The settings of a mesh, with Istio's defaults where nothing is given.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "they are the message's own")]
pub struct MeshConfig {
    /// Where proxies capture what leaves a pod; 15001.
    pub proxy_listen_port: Port,
    /// Where proxies capture what enters a pod; 15006.
    pub proxy_inbound_listen_port: Port,
    /// Where proxies serve HTTP clients that know them as a proxy; absent for nowhere.
    #[serde(deserialize_with = "port_or_zero")]
    pub proxy_http_port: Option<Port>,
    /// How long to wait for a connection to an endpoint; 10 s.
    pub connect_timeout: Duration,
    /// When an idle tunnel is closed; 1 h.
    pub hbone_idle_timeout: DurationOrZero,
    /// How long to wait for a client's first bytes to tell its protocol; zero waits for ever.
    pub protocol_detection_timeout: DurationOrZero,
    /// Keepalive of connections to endpoints.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// The class of Ingress objects; `istio`.
    pub ingress_class: String,
    /// The Service whose address Ingress objects get; `istio-ingressgateway`.
    pub ingress_service: String,
    /// Which Ingress objects count; [`IngressMode::Strict`].
    pub ingress_controller_mode: IngressMode,
    /// The label `istio` of the pods that serve Ingress objects; `ingressgateway`.
    pub ingress_selector: String,
    /// Whether spans are made at all; yes.
    pub enable_tracing: bool,
    /// Where access logs go, for example `/dev/stdout`; absent for nowhere.
    #[serde(deserialize_with = "unless_empty")]
    pub access_log_file: Option<Arc<str>>,
    /// The format of a line; empty means the default one.
    pub access_log_format: String,
    /// Whether a line is text or JSON; text.
    pub access_log_encoding: AccessLogEncoding,
    /// Whether access logs go to the service that the proxy's settings name; no.
    pub enable_envoy_access_log_service: bool,
    /// Whether connections that no listener wanted are not logged; no.
    pub disable_envoy_listener_log: bool,
    /// What proxies are set to unless a pod's annotation says otherwise.
    pub default_config: ProxyConfig,
    /// What becomes of traffic to places that the mesh does not know.
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// Where traffic to ports that no service has goes.
    pub inbound_traffic_policy: InboundTrafficPolicy,
    /// Where configuration comes from besides Kubernetes.
    pub config_sources: Vec<ConfigSource>,
    /// Whether mTLS is used without a DestinationRule saying so; yes.
    pub enable_auto_mtls: bool,
    /// Whose identities this mesh's are; absent if `MeshConfig` does not say.
    #[serde(deserialize_with = "trust_domain")]
    pub trust_domain: Option<TrustDomain>,
    /// Other trust domains whose identities count as this mesh's.
    pub trust_domain_aliases: Vec<TrustDomainAlias>,
    /// Authorities to trust besides the mesh's own.
    pub ca_certificates: Vec<CertificateAuthority>,
    /// Who sees a Service or ServiceEntry that does not say; empty means everybody.
    pub default_service_export_to: Vec<ExportTo>,
    /// Who sees a VirtualService that does not say; empty means everybody.
    pub default_virtual_service_export_to: Vec<ExportTo>,
    /// Who sees a DestinationRule that does not say; empty means everybody.
    pub default_destination_rule_export_to: Vec<ExportTo>,
    /// The namespace of mesh-wide policies; empty if `MeshConfig` does not say.
    pub root_namespace: String,
    /// How near endpoints are preferred.
    pub locality_lb_setting: Option<LocalityLbSetting>,
    /// How endpoints of the own zone are preferred.
    pub zone_aware_lb_setting: Option<ZoneAwareLbSetting>,
    /// How often a name that failed to resolve is asked for again; 60 s.
    pub dns_refresh_rate: Duration,
    /// Whether HTTP/1.1 is made HTTP/2 between proxies; no.
    pub h2_upgrade_policy: H2Upgrade,
    /// How Envoy names statistics of inbound clusters.
    pub inbound_cluster_stat_name: String,
    /// How Envoy names statistics of outbound clusters.
    pub outbound_cluster_stat_name: String,
    /// Certificates for DNS names, a feature that Istio has given up.
    pub certificates: Vec<DnsCertificate>,
    /// Settings of services by host.
    pub service_settings: Vec<ServiceSettings>,
    /// Which services other clusters see.
    pub service_scope_configs: Vec<ServiceScopeConfig>,
    /// Whether the proxy's metrics and the application's are served together; yes.
    pub enable_prometheus_merge: bool,
    /// Whether certificates of origins are verified by default; yes.
    pub verify_certificate_at_client: bool,
    /// The certificate authority.
    pub ca: Option<CaSettings>,
    /// Authorizers, tracing backends, log services and metrics sinks by name.
    pub extension_providers: Vec<ExtensionProvider>,
    /// Providers that Telemetry uses where it names none.
    pub default_providers: DefaultProviders,
    /// The namespaces that belong to the mesh, if one of them selects it; empty means all.
    pub discovery_selectors: Vec<LabelSelector>,
    /// How paths are made normal before anything looks at them.
    pub path_normalization: PathNormalization,
    /// How requests are retried where no VirtualService says so.
    pub default_http_retry_policy: Option<Retries>,
    /// TLS between workloads.
    #[serde(rename = "meshMTLS")]
    pub mesh_mtls: TlsConfig,
    /// TLS with others.
    pub tls_defaults: TlsConfig,
    /// What every DestinationRule starts from.
    pub default_traffic_policy: DefaultTrafficPolicy,
    /// Which namespaces see a ServiceEntry.
    pub service_entry_visibility: ServiceEntryVisibility,
    /// Whether connections may take the express path; where a node was started with it.
    pub express_path: ExpressPath,
}

/// A [`MeshConfig`] as it travels: the text that its author wrote, by which two are compared, and what it says.
#[derive(Debug, Clone, Default)]
pub struct MeshText {
    config: Arc<MeshConfig>,
    text: Arc<str>,
}

impl MeshText {
    /// Reads it again where it has arrived: what is wrong with it was said where it was written, and counts for nothing.
    pub fn read(text: &str) -> Self {
        let origin = Origin { file: "MeshConfig".into(), document: usize::MAX };
        Self::new(MeshConfig::parse(text, &origin).0, text)
    }

    /// What was read from `text`.
    pub fn new(config: MeshConfig, text: &str) -> Self {
        Self { config: Arc::new(config), text: text.into() }
    }

    /// What it says.
    pub fn config(&self) -> &Arc<MeshConfig> {
        &self.config
    }

    /// What was written; empty where nothing was.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl PartialEq for MeshText {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for MeshText {}

/// An entry of `trustDomainAliases`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrustDomainAlias(pub TrustDomain);

impl MeshConfig {
    /// Reads the text of key `mesh` of the ConfigMap at `origin`. What is wrong with it, and what in it the mesh
    /// does not act on, are the findings; their fields begin with `data.mesh`.
    pub fn parse(text: &str, origin: &Origin) -> (Self, Vec<Finding>) {
        let (config, problems) = read::<Self>(text, FIELD, |tree, config, problems| {
            support::mesh(tree, problems);
            validate::mesh(config, problems);
        });
        (config, findings(problems, origin))
    }
}

impl ProxyConfig {
    /// The annotation of a pod that has its own, as YAML.
    pub const ANNOTATION: &'static str = "proxy.istio.io/config";

    /// Reads the text of annotation `proxy.istio.io/config` of an object at `origin`. As [`MeshConfig::parse`].
    pub fn parse_annotation(text: &str, origin: &Origin) -> (Self, Vec<Finding>) {
        let (config, problems) = Self::read_annotation(text);
        (config, findings(problems, origin))
    }

    /// Reads it where all there is to say about it has been said: what is wrong does not count.
    pub fn of_annotation(text: &str) -> Self {
        Self::read_annotation(text).0
    }

    pub(super) fn read_annotation(text: &str) -> (Self, Vec<Problem>) {
        read::<Self>(text, ANNOTATION_FIELD, |tree, config, problems| {
            support::proxy(tree, Path::Root(ANNOTATION_FIELD), problems);
            validate::proxy(config, ANNOTATION_FIELD, problems);
        })
    }
}

impl Default for MeshConfig {
    fn default() -> Self {
        let port = |number| Port::new(number).expect("the defaults are not 0");
        let time = |text| Duration::parse(text).expect("the defaults are durations");
        Self {
            proxy_listen_port: port(15001),
            proxy_inbound_listen_port: port(15006),
            proxy_http_port: None,
            connect_timeout: time("10s"),
            hbone_idle_timeout: DurationOrZero::parse("1h").expect("the default is a duration"),
            protocol_detection_timeout: DurationOrZero::default(),
            tcp_keepalive: None,
            ingress_class: "istio".to_owned(),
            ingress_service: "istio-ingressgateway".to_owned(),
            ingress_controller_mode: IngressMode::default(),
            ingress_selector: "ingressgateway".to_owned(),
            enable_tracing: true,
            access_log_file: None,
            access_log_format: String::new(),
            access_log_encoding: AccessLogEncoding::default(),
            enable_envoy_access_log_service: false,
            disable_envoy_listener_log: false,
            default_config: ProxyConfig::default(),
            outbound_traffic_policy: OutboundTrafficPolicy::default(),
            inbound_traffic_policy: InboundTrafficPolicy::default(),
            config_sources: Vec::new(),
            enable_auto_mtls: true,
            trust_domain: None,
            trust_domain_aliases: Vec::new(),
            ca_certificates: Vec::new(),
            default_service_export_to: Vec::new(),
            default_virtual_service_export_to: Vec::new(),
            default_destination_rule_export_to: Vec::new(),
            root_namespace: String::new(),
            locality_lb_setting: None,
            zone_aware_lb_setting: None,
            dns_refresh_rate: time("60s"),
            h2_upgrade_policy: H2Upgrade::default(),
            inbound_cluster_stat_name: String::new(),
            outbound_cluster_stat_name: String::new(),
            certificates: Vec::new(),
            service_settings: Vec::new(),
            service_scope_configs: Vec::new(),
            enable_prometheus_merge: true,
            verify_certificate_at_client: true,
            ca: None,
            extension_providers: Vec::new(),
            default_providers: DefaultProviders::default(),
            discovery_selectors: Vec::new(),
            path_normalization: PathNormalization::default(),
            default_http_retry_policy: None,
            mesh_mtls: TlsConfig::default(),
            tls_defaults: TlsConfig::default(),
            default_traffic_policy: DefaultTrafficPolicy::default(),
            service_entry_visibility: ServiceEntryVisibility::default(),
            express_path: ExpressPath::default(),
        }
    }
}

impl<'de> Deserialize<'de> for TrustDomainAlias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_trust_domain(&text).map(Self)
    }
}

/// Reads `text` as a `T`, and has `check` look at what came of it.
fn read<T>(text: &str, field: &str, check: impl FnOnce(&Tree, &mut T, &mut Vec<Problem>)) -> (T, Vec<Problem>)
where
    T: Default + for<'de> Deserialize<'de>,
{
    let (tree, mut problems) = match document::yaml_tree(text) {
        Ok((tree, problems)) => (tree, problems),
        Err(problem) => return (T::default(), vec![Problem { field: field.to_owned(), ..problem }]),
    };
    for problem in &mut problems {
        problem.field = match problem.field.as_str() {
            "" => field.to_owned(),
            inner => format!("{field}.{inner}"),
        };
    }
    if tree == Tree::Null {
        return (T::default(), problems);
    }
    let decoded = strict::salvage::<T>(&tree, field);
    problems.extend(decoded.problems);
    let mut value = decoded.value.unwrap_or_default();
    check(&tree, &mut value, &mut problems);
    problems.truncate(MAX_PROBLEMS);
    (value, problems)
}

fn findings(problems: Vec<Problem>, origin: &Origin) -> Vec<Finding> {
    problems
        .into_iter()
        .map(|Problem { level, field, reason, hint }| Finding {
            origin: origin.clone(),
            level,
            field,
            reason,
            hint,
        })
        .collect()
}

fn parse_trust_domain<E: serde::de::Error>(text: &str) -> Result<TrustDomain, E> {
    TrustDomain::parse(text).map_err(|error| E::custom(format_args!("\"{text}\" {error}")))
}

fn trust_domain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TrustDomain>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() { Ok(None) } else { parse_trust_domain(&text).map(Some) }
}

fn unless_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<str>>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(Some(text).filter(|text| !text.is_empty()).map(Arc::from))
}

/// Protocol Buffers cannot tell 0 from nothing.
fn port_or_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Port>, D::Error> {
    u16::deserialize(deserializer).map(Port::new)
}

/// Where `MeshConfig` stands in its ConfigMap.
const FIELD: &str = "data.mesh";
/// Where a pod's own `ProxyConfig` stands.
const ANNOTATION_FIELD: &str = "metadata.annotations[\"proxy.istio.io/config\"]";

#[cfg(test)]
mod tests;
