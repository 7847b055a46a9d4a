//! Services of type `ExternalName`: names of the cluster that are other names.
//!
//! As Istio has it since 1.21 (`ENABLE_EXTERNAL_NAME_ALIAS`), such a Service is no service of its own: whoever asks for it
//! means what it leads to, and gets the rules and policies of that. Its ports have no meaning.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as kube;

use super::{Config, Exported, Service, Snapshot};
use crate::resource::{Object, Spec};

/// Where an alias leads, which is a name that another may lead on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alias {
    namespace: Arc<str>,
    /// `None` for digits that look like an address: there is no such name.
    real: Option<Arc<str>>,
    /// Who sees it; `None` leaves that to `defaultServiceExportTo`.
    exported: Option<Exported>,
}

/// What a name is an alias of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lead {
    /// Each of these is an alias of the next, but for the last. Never empty.
    To(Vec<Arc<str>>),
    /// Of itself in the end, or of more than [`MAX_ALIASES`] one after the other.
    Round,
    /// Of something that is no name.
    Nowhere,
}

/// As many aliases lead from one to the next: as many as `CoreDNS` follows.
pub const MAX_ALIASES: usize = 8;

/// Annotation: the namespaces that see a Service.
pub(crate) const EXPORT_TO: &str = "networking.istio.io/exportTo";

impl Alias {
    /// The full name of the Service and what it leads to; `None` for any other resource.
    pub(super) fn of(config: &Config) -> Option<(Arc<str>, Self)> {
        let Object { meta, spec: Spec::Service(service), .. } = config.object() else { return None };
        let real = real_name(service)?;
        let exported = meta.annotations.get(EXPORT_TO).map(|text| Exported::parse(text, &meta.namespace));
        let real = Some(real).filter(|real| real.parse::<IpAddr>().is_err()).map(Arc::from);
        let hostname = super::world::hostname(&meta.name, &meta.namespace);
        Some((hostname, Self { namespace: Arc::clone(&meta.namespace), real, exported }))
    }
}

/// `spec.externalName` without a dot at the end, if that is what the Service is.
pub(crate) fn real_name(service: &kube::Service) -> Option<&str> {
    let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() == Some("ExternalName"))?;
    let name = spec.external_name.as_deref()?;
    Some(name.strip_suffix('.').unwrap_or(name))
}

impl Snapshot {
    /// Where `host` leads for a client of `namespace`, if it is the full name of an alias that it sees. A host that somebody
    /// has is none, whatever else is said about it.
    pub fn follow(&self, host: &str, namespace: &str) -> Option<Lead> {
        let mut here = self.alias(host, namespace)?;
        let mut names = Vec::new();
        loop {
            let Some(real) = &here.real else { return Some(Lead::Nowhere) };
            if names.len() == MAX_ALIASES || **real == *host || names.contains(real) {
                return Some(Lead::Round);
            }
            names.push(Arc::clone(real));
            match self.alias(real, namespace) {
                Some(next) => here = next,
                None => return Some(Lead::To(names)),
            }
        }
    }

    fn alias(&self, host: &str, namespace: &str) -> Option<&Alias> {
        let alias = self.aliases.get(host)?;
        let sees = match &alias.exported {
            Some(exported) => exported.is_to(namespace),
            None => {
                Exported::of(&[], &self.mesh.default_service_export_to, &alias.namespace).is_to(namespace)
            }
        };
        let is_taken = || self.service_named(&host.into(), namespace).is_some();
        (sees && !is_taken()).then_some(alias)
    }

    /// The last name that an alias leads to.
    fn real(&self, host: &str, namespace: &str) -> Option<Arc<str>> {
        match self.follow(host, namespace)? {
            Lead::To(names) => names.last().cloned(),
            Lead::Round | Lead::Nowhere => None,
        }
    }

    /// The service that an alias leads to.
    pub(super) fn service_by_alias(&self, host: &str, namespace: &str) -> Option<&Arc<Service>> {
        self.service_named(&self.real(host, namespace)?, namespace)
    }

    /// All aliases that a client of `namespace` sees and the hosts that they lead to in the end, sorted.
    pub(super) fn aliases_seen_by(&self, namespace: &str) -> Vec<(Arc<str>, Arc<str>)> {
        let real = |alias: &Arc<str>| Some((Arc::clone(alias), self.real(alias, namespace)?));
        let mut all: Vec<_> = self.aliases.keys().filter_map(real).collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests;
