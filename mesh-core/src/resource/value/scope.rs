//! Names that carry a namespace: hosts of Gateways and Sidecars, and the gateways of a VirtualService.

use std::sync::Arc;

use super::super::tree::quote;
use super::super::validate::is_dns_label;
use super::{FromText, Host, Refusal, text_value};

/// Which namespaces a host is looked for in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamespaceScope {
    /// `*`.
    All,
    /// `.`: the namespace of the object.
    Own,
    /// One namespace.
    Named(Arc<str>),
}

/// A host of a Gateway's server, `[NAMESPACE/]HOST`: the namespace says whose routes may use it, all if there is none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopedHost {
    /// Whose routes may use it.
    pub namespace: NamespaceScope,
    /// The host; never a short name.
    pub host: Host,
}

/// A host of a Sidecar's egress listener, `NAMESPACE/HOST`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EgressHost {
    /// `~/*`: no namespace at all.
    Nothing,
    /// Hosts that are exported by these namespaces.
    Include(NamespaceScope, Host),
    /// `~NAMESPACE/HOST`: taken out of what the others include.
    Exclude(NamespaceScope, Host),
}

/// An entry of `gateways` of a VirtualService.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GatewayName {
    /// `mesh`: all clients in the mesh.
    Mesh,
    /// A Gateway.
    Gateway {
        /// Absent means the namespace of the VirtualService.
        namespace: Option<Arc<str>>,
        /// Its name there.
        name: Arc<str>,
        /// Whether it was written as `NAME.NAMESPACE[.svc…]`, which Istio has long replaced by `NAMESPACE/NAME`.
        legacy: bool,
    },
}

impl NamespaceScope {
    /// Whether `namespace` belongs to it, for an object of namespace `own`.
    pub fn contains(&self, namespace: &str, own: &str) -> bool {
        match self {
            Self::All => true,
            Self::Own => namespace == own,
            Self::Named(name) => **name == *namespace,
        }
    }

    fn parse(text: &str) -> Result<Self, Refusal> {
        match text {
            "*" => Ok(Self::All),
            "." => Ok(Self::Own),
            name if is_dns_label(name) => Ok(Self::Named(Arc::from(name))),
            other => {
                let reason = format!("{} is not a namespace", quote(other));
                Err(Refusal::with_hint(reason, "write a namespace, . for this one, or * for all"))
            }
        }
    }
}

impl GatewayName {
    /// Namespace and name of the Gateway, for a VirtualService of namespace `own`; `None` for the mesh.
    pub fn resolve<'a>(&'a self, own: &'a str) -> Option<(&'a str, &'a str)> {
        match self {
            Self::Mesh => None,
            Self::Gateway { namespace, name, .. } => Some((namespace.as_deref().unwrap_or(own), name)),
        }
    }
}

impl FromText for ScopedHost {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        let (namespace, host) = text.split_once('/').unwrap_or(("*", text));
        let namespace = NamespaceScope::parse(namespace)?;
        Ok(Self { namespace, host: listener_host(host)? })
    }
}

impl FromText for EgressHost {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        let Some((namespace, host)) = text.split_once('/') else {
            let reason = format!("{} names no namespace", quote(text));
            return Err(Refusal::with_hint(reason, format!("write \"*/{text}\" or NAMESPACE/HOST")));
        };
        let host = listener_host(host)?;
        if let Host::Address(_) = host {
            let reason = format!("{} is an address; only names can be imported", quote(text));
            return Err(Refusal::new(reason));
        }
        match namespace.strip_prefix('~') {
            Some("") => Ok(Self::Nothing),
            Some(excluded) => NamespaceScope::parse(excluded).map(|namespace| Self::Exclude(namespace, host)),
            None => NamespaceScope::parse(namespace).map(|namespace| Self::Include(namespace, host)),
        }
    }
}

impl FromText for GatewayName {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        if text == "mesh" {
            return Ok(Self::Mesh);
        }
        let refused = || {
            let hint = if text.contains('#') {
                "a comment begins with a space and #"
            } else {
                "write mesh, NAME or NAMESPACE/NAME"
            };
            Refusal::with_hint(format!("{} is not the name of a gateway", quote(text)), hint)
        };
        let (namespace, name, legacy) = match (text.split_once('/'), text.split_once('.')) {
            (Some((".", name)), _) => (None, name, false),
            (Some((namespace, name)), _) => (Some(namespace), name, false),
            (None, Some((name, rest))) => (rest.split('.').next(), name, true),
            (None, None) => (None, text, false),
        };
        if !is_dns_label(name) || !namespace.is_none_or(is_dns_label) {
            return Err(refused());
        }
        Ok(Self::Gateway { namespace: namespace.map(Arc::from), name: Arc::from(name), legacy })
    }
}

text_value!(ScopedHost, {"type": "string"});
text_value!(EgressHost, {"type": "string"});
text_value!(GatewayName, {"type": "string"});

/// A host that a listener is for: no short name, and a star only for whole labels.
fn listener_host(text: &str) -> Result<Host, Refusal> {
    let host = Host::parse(text)?;
    match &host {
        Host::Suffix(suffix) if !suffix.starts_with('.') => {
            let reason = format!("the * of {} stands for a part of a label", quote(text));
            Err(Refusal::with_hint(reason, "write *.DOMAIN"))
        }
        Host::Name(_) if host.is_short() => {
            let reason = format!("{} is a short name", quote(text));
            Err(Refusal::with_hint(reason, "write the full name, NAME.NAMESPACE.svc.cluster.local"))
        }
        _ => Ok(host),
    }
}
