//! What runs a Gateway: the objects that a cluster is to have because there is one, named and shaped as Istio's, so that
//! whatever selects or patches those finds these.
//!
//! A [`Plan`] follows from the Gateway, its class, the listeners that it has and the parameters that it names, and from
//! nothing else: who acts on it may do so as often as he likes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

pub use self::parameters::Fault as ParametersFault;
use self::template::Template;
use super::{CLASS, CONTROLLER, Facts, Gateway, REMOTE_CLASS, REMOTE_CONTROLLER, Resources};
use crate::resource::ObjectKey;
use crate::resource::gateway_api::{AddressKind, GatewaySpec};
use crate::service_host::{service_of, variable_of};
use crate::waypoint::{WAYPOINT_CLASS, WAYPOINT_CONTROLLER};

mod parameters;
mod patch;
mod template;

/// What all pods of Gateways have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The image of `mesh-node`.
    pub image: String,
    /// The control plane that they follow, a URL.
    pub control: String,
    /// The trust domain of all identities.
    pub trust_domain: String,
}

/// What there is to do about a Gateway.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// There are to be these objects, in this order, and no others that were made for it: none at all where its user
    /// deploys it, or somebody else does.
    Objects(Vec<Generated>),
    /// What it asks for makes no sense; what there is stays as it is.
    Invalid(ParametersFault),
    /// Nothing can be made for it, for this reason.
    Impossible(String),
}

/// An object to make.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// Its kind.
    pub kind: GeneratedKind,
    /// Its namespace, that of the Gateway.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: String,
    /// Whether one of this name that somebody else has made does as well: the user has named it.
    pub may_be_foreign: bool,
    /// As server-side apply takes it.
    pub object: Value,
}

/// The kinds of objects that are made for a Gateway, in the order in which they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GeneratedKind {
    /// Who its pods are.
    ServiceAccount,
    /// Its pods.
    Deployment,
    /// How they are reached.
    Service,
    /// How many they are; only where the parameters have one.
    HorizontalPodAutoscaler,
    /// How many of them have to be left; only where the parameters have one.
    PodDisruptionBudget,
}

/// What the process of a Gateway does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It stands at the edge.
    Gateway,
    /// It enforces rules of services and workloads.
    Waypoint,
}

impl<'a> Resources<'a> {
    /// What there is to do about each Gateway that a cluster holds. Those of a class that does not exist are passed over: it
    /// may be about to.
    pub fn plans(&self, facts: &Facts, settings: &Settings) -> BTreeMap<ObjectKey, Plan> {
        let known = self.gateways.values().filter(|it| {
            let class = &*it.spec.gateway_class_name;
            it.object.meta.uid.is_some() && (self.role(class).is_some() || self.classes.contains_key(class))
        });
        known.map(|it| (it.object.key(), self.plan(it, facts, settings))).collect()
    }

    /// What there is to do about a Gateway.
    pub(super) fn plan(&self, gateway: &Gateway<'a>, facts: &Facts, settings: &Settings) -> Plan {
        let Some(role) = self.role(&gateway.spec.gateway_class_name) else {
            return Plan::Objects(Vec::new());
        };
        let made = Template::new(self, gateway, role).and_then(|template| {
            let class = self.classes.get(&*gateway.spec.gateway_class_name);
            let parameters = parameters::of(class, gateway, facts)?;
            let template = template.knowing(control_plane(facts, settings));
            GeneratedKind::ALL.into_iter().map(|kind| template.make(kind, settings, &parameters)).collect()
        });
        let made: Vec<Option<Generated>> = match made {
            Ok(made) => made,
            Err(fault) => return Plan::Invalid(fault),
        };
        if !is_managed(gateway.spec) {
            return Plan::Objects(Vec::new());
        }
        match check_name(gateway) {
            Ok(()) => Plan::Objects(made.into_iter().flatten().collect()),
            Err(why) => Plan::Impossible(why),
        }
    }

    /// What processes of Gateways of a class do; `None` if the class is not ours. Istio's classes need not exist to be.
    pub fn role(&self, class: &str) -> Option<Role> {
        match self.classes.get(class) {
            Some(spec) if *spec.controller_name == *CONTROLLER => Some(Role::Gateway),
            Some(spec) if *spec.controller_name == *WAYPOINT_CONTROLLER => Some(Role::Waypoint),
            Some(_) => None,
            None if class == CLASS => Some(Role::Gateway),
            None => (class == WAYPOINT_CLASS).then_some(Role::Waypoint),
        }
    }

    /// The Gateways that run somewhere else: nothing is deployed or configured for them.
    pub fn remotes(&self) -> impl Iterator<Item = &Gateway<'a>> {
        self.gateways.values().filter(|it| match self.classes.get(&*it.spec.gateway_class_name) {
            Some(class) => *class.controller_name == *REMOTE_CONTROLLER,
            None => *it.spec.gateway_class_name == *REMOTE_CLASS,
        })
    }

    /// The Gateways that are waypoints of ours, by namespace and name.
    pub fn waypoints(&self) -> impl Iterator<Item = &Gateway<'a>> {
        self.gateways.values().filter(|it| self.role(&it.spec.gateway_class_name) == Some(Role::Waypoint))
    }
}

impl GeneratedKind {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [
        Self::ServiceAccount,
        Self::Deployment,
        Self::Service,
        Self::HorizontalPodAutoscaler,
        Self::PodDisruptionBudget,
    ];

    /// As `kind:` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ServiceAccount => "ServiceAccount",
            Self::Deployment => "Deployment",
            Self::Service => "Service",
            Self::HorizontalPodAutoscaler => "HorizontalPodAutoscaler",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
        }
    }

    /// As paths spell it.
    pub fn plural(self) -> &'static str {
        match self {
            Self::ServiceAccount => "serviceaccounts",
            Self::Deployment => "deployments",
            Self::Service => "services",
            Self::HorizontalPodAutoscaler => "horizontalpodautoscalers",
            Self::PodDisruptionBudget => "poddisruptionbudgets",
        }
    }

    /// Its API group, empty for Kubernetes' core, and the version.
    pub fn group_version(self) -> (&'static str, &'static str) {
        match self {
            Self::ServiceAccount | Self::Service => ("", "v1"),
            Self::Deployment => ("apps", "v1"),
            Self::HorizontalPodAutoscaler => ("autoscaling", "v2"),
            Self::PodDisruptionBudget => ("policy", "v1"),
        }
    }

    /// As `apiVersion:` spells it.
    pub fn api_version(self) -> String {
        match self.group_version() {
            ("", version) => version.to_owned(),
            (group, version) => format!("{group}/{version}"),
        }
    }
}

impl Role {
    /// What the program calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Waypoint => "waypoint",
        }
    }

    /// Who takes care of Deployments for it, as Istio's label has it.
    fn managed_by(self) -> &'static str {
        match self {
            Self::Gateway => "istio.io-gateway-controller",
            Self::Waypoint => "istio.io-mesh-controller",
        }
    }
}

impl fmt::Display for Generated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.name(), self.namespace, self.name)
    }
}

/// The variable that tells pods where the control plane is, and its value: pods of other namespaces are not told by
/// Kubernetes, and would need the cluster's DNS to find what the mesh cannot do without.
fn control_plane(facts: &Facts, settings: &Settings) -> Option<(String, IpAddr)> {
    let (_, authority) = settings.control.split_once("://")?;
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let (namespace, name) = service_of(host)?;
    let address = facts.service((namespace, name))?.cluster_ip?;
    Some((variable_of(name), address))
}

/// Whether a Gateway is deployed for its user. One that asks for a host name is deployed by whoever has made the Service of
/// that name; Istio's rule, with which an address of IP is a wish for the Service that is made.
pub(super) fn is_managed(spec: &GatewaySpec) -> bool {
    match spec.addresses.as_slice() {
        [] => true,
        [address] => matches!(address.kind, AddressKind::Ip(_)),
        _ => false,
    }
}

/// A Gateway's name is the value of a label of all that is made for it.
fn check_name(gateway: &Gateway<'_>) -> Result<(), String> {
    let (_, name) = gateway.name();
    if name.len() > MAX_LABEL {
        let length = name.len();
        return Err(format!(
            "its name has {length} characters, and the label of its pods takes {MAX_LABEL}: nothing can be deployed for it"
        ));
    }
    Ok(())
}

/// Characters of the value of a label, and of the name of a Service.
const MAX_LABEL: usize = 63;

#[cfg(test)]
mod tests;
