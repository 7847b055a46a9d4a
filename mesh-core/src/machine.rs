//! Machines outside of Kubernetes that register themselves: who may, what WorkloadEntry a WorkloadGroup makes of one, and
//! when it goes.
//!
//! The rules are Istio's: a machine registers with a group whose namespace and service account it has proven to be of; its
//! WorkloadEntry has the group's template, its own address, and a name that two machines share only if they share that
//! address; it goes when the machine has been gone for some time.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value, json};

pub use self::registry::{Attendance, Registry};
pub use self::standing::Standing;
use crate::id::{IdError, SpiffeId, TrustDomain};
use crate::resource::networking::WorkloadEntrySpec;
use crate::resource::networking::workload::Address;
use crate::resource::{Meta, WorkloadGroupSpec, is_subdomain};

mod registry;
mod standing;

/// What a machine says of itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The namespace of its WorkloadGroup.
    pub namespace: Arc<str>,
    /// The name of that.
    pub group: Arc<str>,
    /// Where others reach it.
    pub address: IpAddr,
    /// The network of its address; empty where there is only one.
    pub network: Arc<str>,
}

/// Why a machine is not registered. Tells nothing but what the machine has said itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such group, or it is another identity's.
    #[error(
        "{caller} may not join the WorkloadGroup {group}: there is none, or its serviceAccount is another"
    )]
    NotYours {
        /// Who asks.
        caller: SpiffeId,
        /// For what.
        group: String,
    },
    /// Nobody reaches anybody there.
    #[error("{0} is no address that others reach a machine at")]
    Address(IpAddr),
    /// It is the address of another workload, or of a service.
    #[error("the address {0} is another workload's")]
    Taken(IpAddr),
    /// No object in Kubernetes can be called so.
    #[error(
        "{0:?} is no name of a WorkloadEntry: the network, or the end of the address, does not fit into one"
    )]
    Name(String),
    /// There are too many machines of the group.
    #[error("the WorkloadGroup {0} has as many machines as a group may have")]
    Full(String),
    /// The template's account cannot be part of an identity.
    #[error("the WorkloadGroup's serviceAccount {0}")]
    Account(IdError),
}

impl Claim {
    /// The name of the machine's WorkloadEntry.
    pub fn entry_name(&self) -> String {
        registered_name(&self.group, self.address, &self.network)
    }

    /// What the machine said that has this WorkloadEntry, if it has registered itself.
    pub fn of_entry(meta: &Meta, spec: &WorkloadEntrySpec) -> Option<Self> {
        let Some(Address::Ip(address)) = spec.address else { return None };
        let group: Arc<str> = meta.annotations.get(GROUP)?.as_str().into();
        let of = |network: &str| Self {
            namespace: Arc::clone(&meta.namespace),
            group: Arc::clone(&group),
            address,
            network: network.into(),
        };
        // The network may be the machine's own word, or the group's.
        ["", &spec.network].into_iter().map(of).find(|claim| claim.entry_name() == *meta.name)
    }

    /// Checks that `caller` may be a machine of the group, of which there is `spec`.
    pub fn admit(
        &self,
        caller: &SpiffeId,
        spec: Option<&WorkloadGroupSpec>,
        domain: &TrustDomain,
    ) -> Result<(), Refusal> {
        let not_yours = || Refusal::NotYours { caller: caller.clone(), group: self.to_string() };
        let spec = spec.ok_or_else(not_yours)?;
        let own = SpiffeId::new(domain, &self.namespace, account_of(&spec.template));
        if *caller != own.map_err(Refusal::Account)? {
            return Err(not_yours());
        }
        if !is_of_others_use(self.address) {
            return Err(Refusal::Address(self.address));
        }
        let name = self.entry_name();
        if is_subdomain(&name) { Ok(()) } else { Err(Refusal::Name(name)) }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.group)
    }
}

/// Whether others may reach a machine at this address, whichever way it is written.
fn is_of_others_use(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let is_near = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_near)
}

/// The name that Istio gives to the WorkloadEntry of a machine: `GROUP-ADDRESS[-NETWORK]`, of which the last 253 bytes.
pub fn registered_name(group: &str, address: IpAddr, network: &str) -> String {
    let mut name = format!("{group}-{}", address.to_string().replace(':', "-"));
    if !network.is_empty() {
        name = format!("{name}-{network}");
    }
    let mut from = name.len().saturating_sub(MAX_NAME);
    while !name.is_char_boundary(from) {
        from += 1;
    }
    name.split_off(from)
}

/// The WorkloadEntry of a machine, as Kubernetes takes it. `health` is what its own probe says; without an answer yet it is
/// not sent to.
pub fn entry(claim: &Claim, (group, spec): (&Meta, &WorkloadGroupSpec), health: Option<bool>) -> Value {
    let WorkloadGroupSpec { metadata, template, probe } = spec;
    let mut labels = metadata.labels.clone();
    labels.extend(template.labels.clone());
    labels.insert(TUNNEL.to_owned(), "http".to_owned());
    let mut annotations = metadata.annotations.clone();
    annotations.insert(GROUP.to_owned(), claim.group.to_string());
    if probe.is_some() {
        annotations.insert(HEALTH_CHECKED.to_owned(), "true".to_owned());
    }
    let mut meta = json!({
        "name": claim.entry_name(),
        "namespace": &*claim.namespace,
        "labels": labels,
        "annotations": annotations,
    });
    if let Some(uid) = &group.uid {
        meta["ownerReferences"] = json!([{
            "apiVersion": API_VERSION, "kind": "WorkloadGroup", "name": &*claim.group, "uid": &**uid,
            "controller": true,
        }]);
    }
    let mut entry = json!({
        "apiVersion": API_VERSION,
        "kind": "WorkloadEntry",
        "metadata": meta,
        "spec": spec_of(claim, template),
    });
    if let Some(status) = condition(health).filter(|_| probe.is_some()) {
        entry["status"] = status;
    }
    entry
}

/// The status that tells of a machine's health, if it is known.
pub fn condition(health: Option<bool>) -> Option<Value> {
    let status = if health? { "True" } else { "False" };
    Some(json!({"conditions": [{"type": crate::resource::status::HEALTHY, "status": status}]}))
}

fn spec_of(claim: &Claim, template: &WorkloadEntrySpec) -> Value {
    let mut spec = Map::new();
    let ports: Map<_, _> =
        template.ports.iter().map(|(name, port)| (name.clone(), json!(port.get()))).collect();
    let network = Some(&*claim.network).filter(|name| !name.is_empty()).unwrap_or(&template.network);
    spec.insert("address".to_owned(), json!(claim.address.to_string()));
    spec.insert("serviceAccount".to_owned(), json!(account_of(template)));
    let optional = [
        ("ports", (!ports.is_empty()).then_some(Value::Object(ports))),
        ("labels", (!template.labels.is_empty()).then(|| json!(template.labels))),
        ("network", (!network.is_empty()).then(|| json!(network))),
        ("locality", (!template.locality.is_empty()).then(|| json!(template.locality))),
        ("weight", (template.weight > 0).then(|| json!(template.weight))),
    ];
    spec.extend(optional.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?))));
    Value::Object(spec)
}

/// Whose identity the machines of a group have.
pub fn account_of(template: &WorkloadEntrySpec) -> &str {
    Some(template.service_account.as_str()).filter(|name| !name.is_empty()).unwrap_or("default")
}

/// Says on a WorkloadEntry which WorkloadGroup made it; the name is Istio's.
pub const GROUP: &str = "istio.io/autoRegistrationGroup";
/// The label by which Istio knows that somebody on a machine ends tunnels.
pub const TUNNEL: &str = "networking.istio.io/tunnel";
/// Istio's annotation of a WorkloadEntry: what its status says about its health counts.
pub const HEALTH_CHECKED: &str = "proxy.istio.io/health-checks-enabled";
const API_VERSION: &str = "networking.istio.io/v1";
/// Bytes of a name in Kubernetes.
const MAX_NAME: usize = 253;

#[cfg(test)]
mod tests;
