//! Whether a Gateway is taken, and whether and where it is reached.

use std::net::IpAddr;
use std::sync::Arc;

use super::deploy::is_managed;
use super::status::{ACCEPTED, LISTENERS_INVALID, PROGRAMMED, RESOLVED};
use super::{Condition, Facts, Gateway, GatewayStatus, ListenerStatus, Plan, Resources, Role, Settings};
use crate::model::WAYPOINT_PORT;
use crate::resource::gateway_api::{AddressKind, Listener, Protocol};

/// A condition, and the addresses that there are.
type Reached = (Condition, Vec<Arc<str>>);

impl<'a> Resources<'a> {
    /// What is told of a waypoint. Rules are attached to what is bound to it, so nothing is attached to its listeners.
    pub(super) fn status_of_waypoint(&self, gateway: &Gateway<'a>, facts: &Facts) -> GatewayStatus {
        let listeners: Vec<_> = gateway.spec.listeners.iter().map(of_tunnels).collect();
        let (conditions, addresses) = self.taken_and_reached(gateway, &listeners, facts);
        GatewayStatus { conditions: conditions.into(), listeners, addresses, sets: 0 }
    }

    /// Whether a Gateway with these listeners is taken, whether it is reached, and where.
    pub(super) fn taken_and_reached(
        &self,
        gateway: &Gateway<'a>,
        listeners: &[ListenerStatus],
        facts: &Facts,
    ) -> ([Condition; 2], Vec<Arc<str>>) {
        let plan = self.plan(gateway, facts, &Settings::default());
        let accepted = gateway_accepted(gateway, listeners, &plan);
        let (programmed, addresses) = self.gateway_programmed(gateway, (&accepted, &plan), facts);
        ([accepted, programmed], addresses)
    }

    /// Whether it is reached anywhere, and where.
    fn gateway_programmed(
        &self,
        gateway: &Gateway<'a>,
        (accepted, plan): (&Condition, &Plan),
        facts: &Facts,
    ) -> Reached {
        if !accepted.holds {
            return refuse("Invalid", "it is not accepted");
        }
        if let Plan::Impossible(why) = plan {
            return refuse(NO_RESOURCES, why);
        }
        let reached = self.reached(gateway, facts);
        // Where it is reached all the same, by what others have deployed, that is what counts.
        match (facts.obstacle(gateway.name()), reached) {
            (Some(why), (condition, addresses)) if condition.holds => {
                let message = format!("{}; {why}", condition.message);
                (Condition { message, ..condition }, addresses)
            }
            (Some(why), (condition, addresses)) => {
                let (reason, message) = (NO_RESOURCES, why.to_owned());
                (Condition { reason, message, ..condition }, addresses)
            }
            (None, reached) => reached,
        }
    }

    fn reached(&self, gateway: &Gateway<'a>, facts: &Facts) -> Reached {
        let (object, spec) = (gateway.object, gateway.spec);
        let namespace = gateway.name().0;
        let named = spec.addresses.iter().find(|it| it.kind == AddressKind::Hostname && !it.value.is_empty());
        let made = facts.service_made_for(namespace, object.meta.uid.as_deref()).filter(|_| is_managed(spec));
        let found = match named {
            Some(address) => {
                let (first, rest) = address.value.split_once('.').unwrap_or((&address.value, ""));
                let of = rest.split('.').next().filter(|it| !it.is_empty()).unwrap_or(namespace);
                facts.service((of, first)).map(|service| (first, service))
            }
            None => made.or_else(|| facts.service_of(gateway.name())),
        };
        let Some((name, service)) = found else {
            return refuse("AddressNotAssigned", "no Service leads to it yet");
        };
        if service.addresses.is_empty() {
            return refuse("AddressNotAssigned", format!("Service {name} has no address yet"));
        }
        let asked = spec.addresses.iter().filter_map(|it| match it.kind {
            AddressKind::Ip(Some(ip)) => Some(ip),
            _ => None,
        });
        let has = |ip: &IpAddr| service.addresses.iter().any(|it| it.parse() == Ok(*ip));
        if let Some(missing) = asked.clone().find(|ip| !has(ip)) {
            return refuse("AddressNotUsable", format!("Service {name} does not have the address {missing}"));
        }
        let asked: Vec<Arc<str>> = asked.map(|ip| ip.to_string().into()).collect();
        let addresses = if asked.is_empty() { service.addresses.clone() } else { asked };
        // What users deploy is theirs to watch over.
        if made.is_some() && !facts.is_ready(gateway.name()) {
            // Who is bound to a waypoint is told that it is there once it has had an address, see [`crate::waypoint`].
            let is_waypoint = self.role(&spec.gateway_class_name) == Some(Role::Waypoint);
            let shown = if is_waypoint && !object.status.is_served { Vec::new() } else { addresses };
            let (condition, _) = refuse("Pending", "none of its pods is ready");
            return (condition, shown);
        }
        let message = format!("gateways are told of it, and reached by Service {name}");
        (Condition::new(PROGRAMMED, true, "Programmed", message), addresses)
    }
}

/// What is told of one that runs somewhere else: it is where it says that it is.
pub(super) fn status_of_remote(gateway: &Gateway<'_>) -> GatewayStatus {
    let taken = "it runs somewhere else: nothing is deployed or configured for it here";
    let accepted = Condition::new(ACCEPTED, true, "Accepted", taken);
    let addresses: Vec<Arc<str>> = gateway.spec.addresses.iter().map(|it| Arc::from(&*it.value)).collect();
    let programmed = if addresses.is_empty() {
        refuse("AddressNotAssigned", "spec.addresses of a Gateway that runs somewhere else says where").0
    } else {
        Condition::new(PROGRAMMED, true, "Programmed", "it is reached where spec.addresses says")
    };
    let listeners = gateway.spec.listeners.iter().map(elsewhere).collect();
    GatewayStatus { conditions: [accepted, programmed].into(), listeners, addresses, sets: 0 }
}

fn elsewhere(listener: &Listener) -> ListenerStatus {
    let held = [
        (ACCEPTED, true, "Accepted"),
        ("Conflicted", false, "NoConflicts"),
        (RESOLVED, true, "ResolvedRefs"),
        (PROGRAMMED, true, "Programmed"),
    ];
    let conditions =
        held.map(|(sort, holds, reason)| Condition::new(sort, holds, reason, "is served somewhere else"));
    ListenerStatus {
        name: Arc::from(&*listener.name),
        kinds: Vec::new(),
        attached: 0,
        conditions: conditions.into(),
    }
}

/// Whether a Gateway is taken that has these listeners.
fn gateway_accepted(gateway: &Gateway<'_>, listeners: &[ListenerStatus], plan: &Plan) -> Condition {
    let refuse = |reason, message: String| Condition::new(ACCEPTED, false, reason, message);
    if let Plan::Invalid(fault) = plan {
        return refuse("InvalidParameters", fault.to_string());
    }
    let odd = |kind: &AddressKind| matches!(kind, AddressKind::Named | AddressKind::Other(_));
    if let Some(odd) = gateway.spec.addresses.iter().find(|it| odd(&it.kind)) {
        let message = format!("address {} is of a type that is not supported", odd.value);
        return refuse("UnsupportedAddress", message);
    }
    match listeners.iter().filter(|it| !it.holds(ACCEPTED)).count() {
        0 if !listeners.is_empty() => Condition::new(ACCEPTED, true, "Accepted", "the Gateway is served"),
        bad if bad < listeners.len() => {
            let message = format!("{bad} of its listeners are not served, see their conditions");
            Condition::new(ACCEPTED, true, LISTENERS_INVALID, message)
        }
        _ => refuse(LISTENERS_INVALID, "none of its listeners is served, see their conditions".to_owned()),
    }
}

fn refuse(reason: &'static str, message: impl Into<String>) -> Reached {
    (Condition::new(PROGRAMMED, false, reason, message), Vec::new())
}

/// What is told of a listener of a waypoint.
fn of_tunnels(listener: &Listener) -> ListenerStatus {
    let fault = match (&listener.protocol, listener.port.get()) {
        (Protocol::Hbone, WAYPOINT_PORT) => None,
        (Protocol::Hbone, port) => {
            Some(("PortUnavailable", format!("waypoints listen at port {WAYPOINT_PORT}, not at {port}")))
        }
        (other, _) => Some(("UnsupportedProtocol", format!("waypoints speak HBONE, not {}", other.as_str()))),
    };
    let (accepted, programmed) = match fault {
        None => (
            Condition::new(ACCEPTED, true, "Accepted", "the listener is served"),
            Condition::new(PROGRAMMED, true, "Programmed", "waypoints are told of it"),
        ),
        Some((reason, message)) => (
            Condition::new(ACCEPTED, false, reason, message),
            Condition::new(PROGRAMMED, false, "Invalid", "it serves nothing, see the other conditions"),
        ),
    };
    let conflicted = Condition::new("Conflicted", false, "NoConflicts", "no other listener is in its way");
    let resolved = Condition::new(RESOLVED, true, "ResolvedRefs", "all that it refers to is there");
    ListenerStatus {
        name: Arc::from(&*listener.name),
        kinds: Vec::new(),
        attached: 0,
        conditions: vec![accepted, conflicted, resolved, programmed],
    }
}

const NO_RESOURCES: &str = "NoResources";
