//! GatewayClass and Gateway: where traffic enters.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use super::super::LabelSelector;
use super::super::strict::Invalid;
use super::super::tree::quote;
use super::super::value::Port;
use super::reference::{LocalRef, ObjectRef, ParametersRef, SecretRef};
use super::value::{
    ControllerName, GroupName, Hostname, KindName, ObjectName, SectionName, is_dns_name, is_domain_path,
};

/// `GatewayClass.spec`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayClassSpec {
    /// Who takes care of Gateways of this class.
    pub controller_name: ControllerName,
    /// How it does so.
    pub parameters_ref: Option<ParametersRef>,
    /// For people, at most 64 characters.
    #[serde(default)]
    pub description: String,
}

/// `Gateway.spec`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// The GatewayClass.
    pub gateway_class_name: ObjectName,
    /// 1 to 64, no name twice, no port, protocol and host twice.
    pub listeners: Vec<Listener>,
    /// The addresses asked for, at most 16; none leaves them to the implementation.
    #[serde(default)]
    pub addresses: Vec<GatewayAddress>,
    /// For what is created to run it.
    #[serde(default)]
    pub infrastructure: Infrastructure,
    /// Who may add listeners.
    #[serde(default)]
    pub allowed_listeners: AllowedListeners,
    /// For all listeners.
    #[serde(default)]
    pub tls: GatewayTls,
    /// Experimental: whether routes that name no parent attach to it.
    pub default_scope: Option<super::reference::DefaultGateways>,
}

/// A port, a protocol and a host.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Unique within the Gateway.
    pub name: SectionName,
    /// Only for this host, by SNI and Host header; absent means every host.
    pub hostname: Option<Hostname>,
    /// Where it listens.
    pub port: Port,
    /// What it speaks.
    pub protocol: Protocol,
    /// Absent for protocols without TLS.
    pub tls: Option<ListenerTls>,
    /// Which routes may attach.
    #[serde(default)]
    pub allowed_routes: AllowedRoutes,
}

/// What a listener speaks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum Protocol {
    /// `HTTP`, HTTP/2 in plaintext included.
    Http,
    /// `HTTPS`.
    Https,
    /// `TLS`.
    Tls,
    /// `TCP`.
    Tcp,
    /// `UDP`.
    Udp,
    /// `HBONE`, of waypoints and east-west gateways.
    Hbone,
    /// One of an implementation's own.
    Other(Arc<str>),
}

/// The TLS of a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerTls {
    /// Absent means [`TlsMode::Terminate`].
    pub mode: TlsMode,
    /// Certificates to choose from by SNI, at most 64. Needed to terminate, unless [`Self::options`] say otherwise.
    pub certificate_refs: Vec<SecretRef>,
    /// Settings of an implementation's own, at most 16.
    pub options: BTreeMap<String, String>,
}

/// Where TLS ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
pub enum TlsMode {
    /// At the gateway.
    #[default]
    Terminate,
    /// At the backend.
    Passthrough,
}

/// Which routes may attach to a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AllowedRoutes {
    /// Of which kinds, at most 8; none means those that fit the protocol.
    pub kinds: Vec<RouteGroupKind>,
    /// Of which namespaces.
    pub namespaces: RouteNamespaces,
}

/// A kind of route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct RouteGroupKind {
    /// Absent means `gateway.networking.k8s.io`.
    #[serde(default = "GroupName::gateway_api")]
    pub group: GroupName,
    /// For example `HTTPRoute`.
    pub kind: KindName,
}

/// The namespaces whose routes may attach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RouteNamespaces {
    /// Absent means [`RouteNamespacesFrom::Same`].
    pub from: RouteNamespacesFrom,
    /// Counts only for [`RouteNamespacesFrom::Selector`]; absent, it selects none.
    pub selector: Option<LabelSelector>,
}

/// How namespaces of routes are chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
pub enum RouteNamespacesFrom {
    /// Every namespace.
    All,
    /// Those that the selector selects.
    Selector,
    /// That of the Gateway.
    #[default]
    Same,
}

/// Who may add listeners to a Gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AllowedListeners {
    /// ListenerSets of which namespaces.
    pub namespaces: ListenerNamespaces,
}

/// The namespaces whose ListenerSets may attach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ListenerNamespaces {
    /// Absent means [`ListenerNamespacesFrom::None`].
    pub from: ListenerNamespacesFrom,
    /// Counts only for [`ListenerNamespacesFrom::Selector`]; absent, it selects none.
    pub selector: Option<LabelSelector>,
}

/// How namespaces of ListenerSets are chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
pub enum ListenerNamespacesFrom {
    /// Every namespace.
    All,
    /// Those that the selector selects.
    Selector,
    /// That of the Gateway.
    Same,
    /// No namespace.
    #[default]
    None,
}

/// An address that a Gateway asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "RawAddress")]
pub struct GatewayAddress {
    /// What it is.
    pub kind: AddressKind,
    /// As it was written; empty asks for any address of that kind.
    pub value: Arc<str>,
}

/// What an address is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AddressKind {
    /// An IP address; `None` where the value is empty.
    Ip(Option<IpAddr>),
    /// A DNS name. Istio takes that of a Service for a gateway that users deploy by themselves.
    Hostname,
    /// A name that means something to the implementation only.
    Named,
    /// A kind of an implementation's own, `DOMAIN/PATH`.
    Other(Arc<str>),
}

/// For the objects that are created to run a Gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Infrastructure {
    /// To put on all of them, at most 8.
    pub labels: BTreeMap<String, String>,
    /// To put on all of them, at most 16.
    pub annotations: BTreeMap<String, String>,
    /// Settings of an implementation's own; Istio takes a ConfigMap.
    pub parameters_ref: Option<LocalRef>,
}

/// TLS of a Gateway as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GatewayTls {
    /// Towards backends.
    pub backend: Option<GatewayBackendTls>,
    /// Towards clients.
    pub frontend: Option<GatewayFrontendTls>,
}

/// TLS from a Gateway to backends.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayBackendTls {
    /// The certificate to show.
    pub client_certificate_ref: Option<SecretRef>,
}

/// TLS from clients to a Gateway.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayFrontendTls {
    /// For ports that [`Self::per_port`] does not name.
    pub default: FrontendTls,
    /// At most 64, no port twice.
    #[serde(default)]
    pub per_port: Vec<PortTls>,
}

/// What clients must show.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FrontendTls {
    /// Absent means nothing.
    pub validation: Option<ClientValidation>,
}

/// What clients of one port must show.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PortTls {
    /// The listeners' port.
    pub port: Port,
    /// Counts in place of the default.
    pub tls: FrontendTls,
}

/// How clients' certificates are checked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientValidation {
    /// Who must have signed them: ConfigMaps or Secrets with key `ca.crt`, 1 to 16.
    pub ca_certificate_refs: Vec<ObjectRef>,
    /// Absent means [`CertificateMode::AllowValidOnly`].
    #[serde(default)]
    pub mode: CertificateMode,
}

/// What becomes of clients without a valid certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
pub enum CertificateMode {
    /// They are refused.
    #[default]
    AllowValidOnly,
    /// They are let in; whoever is behind has to look.
    AllowInsecureFallback,
}

impl Protocol {
    /// As users write it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Hbone => "HBONE",
            Self::Other(name) => name,
        }
    }
}

impl TryFrom<String> for Protocol {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        // The schema's pattern: a word, or DOMAIN/WORD.
        let word = |text: &str| {
            text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        };
        let own = |text: &str| {
            text.split_once('/').is_some_and(|(domain, name)| {
                is_dns_name(domain) && !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric())
            })
        };
        Ok(match text.as_str() {
            "HTTP" => Self::Http,
            "HTTPS" => Self::Https,
            "TLS" => Self::Tls,
            "TCP" => Self::Tcp,
            "UDP" => Self::Udp,
            "HBONE" => Self::Hbone,
            other if other.len() <= 255 && (word(other) || own(other)) => Self::Other(text.into()),
            other => {
                let hint = "one of HTTP, HTTPS, TLS, TCP";
                return Err(Invalid::new(format!("{} is not a protocol", quote(other))).hint(hint));
            }
        })
    }
}

impl RouteNamespaces {
    /// Whether routes of a namespace with these labels may attach; `same` if it is that of the Gateway.
    pub fn admit(&self, same: bool, labels: &BTreeMap<String, String>) -> bool {
        match self.from {
            RouteNamespacesFrom::All => true,
            RouteNamespacesFrom::Same => same,
            RouteNamespacesFrom::Selector => {
                self.selector.as_ref().is_some_and(|selector| selector.selects(labels))
            }
        }
    }
}

impl ListenerNamespaces {
    /// Whether ListenerSets of a namespace with these labels may add listeners; `same` if it is that of the Gateway.
    pub fn admit(&self, same: bool, labels: &BTreeMap<String, String>) -> bool {
        match self.from {
            ListenerNamespacesFrom::All => true,
            ListenerNamespacesFrom::Same => same,
            ListenerNamespacesFrom::Selector => {
                self.selector.as_ref().is_some_and(|selector| selector.selects(labels))
            }
            ListenerNamespacesFrom::None => false,
        }
    }
}

impl GatewayFrontendTls {
    /// What clients of `port` must show.
    pub fn of_port(&self, port: Port) -> &FrontendTls {
        self.per_port.iter().find(|it| it.port == port).map_or(&self.default, |it| &it.tls)
    }
}

#[derive(Deserialize)]
struct RawAddress {
    r#type: Option<String>,
    #[serde(default)]
    value: String,
}

impl TryFrom<RawAddress> for GatewayAddress {
    type Error = Invalid;

    fn try_from(RawAddress { r#type, value }: RawAddress) -> Result<Self, Invalid> {
        let wrong = |what: &str| Err(Invalid::new(format!("{} is not {what}", quote(&value))).field("value"));
        if value.chars().count() > 253 {
            return Err(Invalid::new("has more than 253 characters").field("value"));
        }
        let kind = match r#type.as_deref() {
            None | Some("IPAddress") if value.is_empty() => AddressKind::Ip(None),
            None | Some("IPAddress") => match value.parse() {
                Ok(address) => AddressKind::Ip(Some(address)),
                Err(_) => return wrong("an IP address"),
            },
            Some("Hostname") if value.is_empty() || Hostname::try_from(value.clone()).is_ok() => {
                AddressKind::Hostname
            }
            Some("Hostname") => return wrong("a host name"),
            Some("NamedAddress") => AddressKind::Named,
            Some(own) if own.len() <= 253 && is_domain_path(own) => AddressKind::Other(own.into()),
            Some(other) => {
                let reason = format!("unknown type {}", quote(other));
                return Err(Invalid::new(reason).hint("one of IPAddress, Hostname, NamedAddress"));
            }
        };
        Ok(Self { kind, value: value.into() })
    }
}
