//! What of the mesh the pods of a node can see, and which policies decide about them, so that the node need not be told
//! the rest.
//!
//! `Sidecar` resources narrow what their workloads see, `exportTo` narrows who sees a service. What a node's pods
//! cannot see is no secret: whoever is asked for by address is told all the same. Policies are enforced where their
//! workloads run, and nowhere else.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::record::Record;
use super::{Service, ServiceKey};
use crate::policy::{Policy, PolicyName, Scope};
use crate::resource::value::EgressHost;

/// What the pods of one node see together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// What different pods see; a node without pods sees everything.
    views: BTreeSet<View>,
    needs: Needs,
}

/// The policies that decide about the pods of one node, besides those of the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Whose own policies do.
    pub(super) namespaces: BTreeSet<Arc<str>>,
    /// Those that select any of the pods.
    pub(super) listed: BTreeSet<Arc<PolicyName>>,
}

/// What some pods of a namespace see.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct View {
    pub(super) namespace: Arc<str>,
    /// Hosts of a `Sidecar`; without one, everything.
    pub(super) hosts: Option<Arc<[EgressHost]>>,
}

/// Who sees a service: `networking.istio.io/exportTo`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Exported {
    /// Everybody.
    #[default]
    Everywhere,
    /// These namespaces.
    To(BTreeSet<Arc<str>>),
}

impl Reach {
    pub(super) fn of(views: BTreeSet<View>, needs: Needs) -> Self {
        Self { views, needs }
    }

    /// Whether services, workloads and endpoints are in view of one of the two exactly if they are of the other.
    pub fn sees_like(&self, other: &Self) -> bool {
        self.views == other.views
    }

    /// Whether the same policies decide about the pods of both.
    pub fn needs_like(&self, other: &Self) -> bool {
        self.needs == other.needs
    }

    /// Whether a node with this reach is told of `record`.
    pub fn includes(&self, record: &Record) -> bool {
        if let Record::Policy(policy) = record {
            return self.needs.include(policy);
        }
        if self.views.is_empty() {
            return true;
        }
        match record {
            Record::Service(service) => self.sees_service(service),
            Record::Workload(workload) => {
                // A workload without services is reached by its address, if at all.
                self.sees_any_host() || workload.services.iter().any(|one| self.sees(&one.service))
            }
            Record::StaticEndpoint(endpoint) => endpoint.services.iter().any(|one| self.sees(&one.service)),
            _ => true,
        }
    }

    fn sees_service(&self, service: &Service) -> bool {
        let key = service.key();
        self.views.iter().any(|view| service.exported.is_to(&view.namespace) && view.sees(&key))
    }

    fn sees(&self, key: &ServiceKey) -> bool {
        self.views.iter().any(|view| view.sees(key))
    }

    fn sees_any_host(&self) -> bool {
        self.views.iter().any(|view| view.hosts.is_none())
    }
}

impl Needs {
    fn include(&self, policy: &Policy) -> bool {
        match policy.scope {
            Scope::Mesh => true,
            Scope::Namespace => self.namespaces.contains(&policy.name.namespace),
            Scope::Listed => self.listed.contains(&policy.key()),
        }
    }
}

impl View {
    fn sees(&self, key: &ServiceKey) -> bool {
        let Some(hosts) = &self.hosts else { return true };
        let covers = |host: &EgressHost, excluding: bool| match host {
            EgressHost::Include(scope, host) if !excluding => {
                scope.contains(&key.namespace, &self.namespace) && host.matches(&key.hostname)
            }
            EgressHost::Exclude(scope, host) if excluding => {
                scope.contains(&key.namespace, &self.namespace) && host.matches(&key.hostname)
            }
            _ => false,
        };
        hosts.iter().any(|host| covers(host, false)) && !hosts.iter().any(|host| covers(host, true))
    }
}

impl Exported {
    /// Whether pods of `namespace` see it.
    pub fn is_to(&self, namespace: &str) -> bool {
        match self {
            Self::Everywhere => true,
            Self::To(namespaces) => namespaces.contains(namespace),
        }
    }

    /// What an annotation says on an object of namespace `own`: namespaces, `.` and `*`, separated by commas. Nothing,
    /// or nothing that can be read, means everybody, as it does for Istio.
    pub(super) fn parse(text: &str, own: &Arc<str>) -> Self {
        let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
        if parts.is_empty() || parts.contains(&"*") {
            return Self::Everywhere;
        }
        let namespace = |part: &&str| match *part {
            "." => Some(Arc::clone(own)),
            "~" => None,
            name => Some(name.into()),
        };
        Self::To(parts.iter().filter_map(namespace).collect())
    }
}
