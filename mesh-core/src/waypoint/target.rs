//! Targets of policies: where they are looked for, and what a policy comes to that has several.

use std::sync::Arc;

use super::{Attachments, Binding, Name, Verdict, WAYPOINT_CONTROLLER};
use crate::resource::security::PolicyTargetReference;
use crate::resource::{ObjectKey, Spec};

/// What a policy is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    kind: TargetKind,
    name: Name,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TargetKind {
    Service,
    ServiceEntry,
    Gateway,
    GatewayClass,
}

/// The references to targets that an object has, of a kind that may have some.
pub fn targets(spec: &Spec) -> impl Iterator<Item = &PolicyTargetReference> {
    let (single, several) = match spec {
        Spec::AuthorizationPolicy(spec) => (spec.target_ref.as_ref(), spec.target_refs.as_slice()),
        Spec::RequestAuthentication(spec) => (spec.target_ref.as_ref(), spec.target_refs.as_slice()),
        Spec::Telemetry(spec) => (spec.target_ref.as_ref(), spec.target_refs.as_slice()),
        _ => (None, &[][..]),
    };
    single.into_iter().chain(several)
}

impl Target {
    /// What a valid policy of `namespace` names. No other namespace may be named, so it is the policy's.
    pub(super) fn new(reference: &PolicyTargetReference, namespace: &Arc<str>) -> Self {
        let kind = match reference.kind.as_str() {
            "GatewayClass" => TargetKind::GatewayClass,
            "Gateway" => TargetKind::Gateway,
            "ServiceEntry" => TargetKind::ServiceEntry,
            _ => TargetKind::Service,
        };
        let name = Name { namespace: Arc::clone(namespace), name: reference.name.as_str().into() };
        Self { kind, name }
    }

    /// The service that it is, if it is one.
    pub(super) fn service_key(&self) -> Option<ObjectKey> {
        let kind = match self.kind {
            TargetKind::Service => "Service",
            TargetKind::ServiceEntry => "ServiceEntry",
            TargetKind::Gateway | TargetKind::GatewayClass => return None,
        };
        let Name { namespace, name } = self.name.clone();
        Some(ObjectKey { kind, namespace, name })
    }
}

impl Attachments {
    /// Whether something enforces a policy for this target of it.
    pub(super) fn target(&self, target: &Target) -> Verdict {
        match target.kind {
            TargetKind::GatewayClass => self.class(&target.name),
            TargetKind::Gateway => self.gateway(&target.name),
            TargetKind::Service | TargetKind::ServiceEntry => {
                let key = target.service_key().expect("it is a service");
                self.service(&key)
            }
        }
    }

    fn class(&self, Name { namespace, name }: &Name) -> Verdict {
        if *namespace != self.root_namespace {
            let root = &self.root_namespace;
            return no(
                INVALID,
                format!("only policies of the root namespace {root} may target a GatewayClass"),
            );
        }
        match self.classes.get(name) {
            None => no(NOT_FOUND, format!("there is no GatewayClass {name}")),
            Some(class) if *class.controller != *WAYPOINT_CONTROLLER => {
                let message = format!(
                    "GatewayClass {name} is not of waypoints: its controller is not {WAYPOINT_CONTROLLER}"
                );
                no(INVALID, message)
            }
            Some(_) => yes(name),
        }
    }

    fn gateway(&self, name: &Name) -> Verdict {
        match self.gateways.get(name) {
            None => no(NOT_FOUND, format!("there is no Gateway {name}")),
            Some(gateway) if self.is_of_waypoints(&gateway.class) => yes(&name.to_string()),
            Some(gateway) => {
                let message =
                    format!("Gateway {name} of class {} is not served by this mesh yet", gateway.class);
                no(UNSUPPORTED, message)
            }
        }
    }

    fn service(&self, key: &ObjectKey) -> Verdict {
        if !self.services.contains_key(key) {
            return no(NOT_FOUND, format!("there is no {key}"));
        }
        match self.binding(key) {
            Binding::Bound(bound) => yes(&bound.waypoint.to_string()),
            Binding::None => no(NOT_BOUND, format!("{key} is not bound to a waypoint")),
            Binding::Refused(refusal, _) => {
                no(NOT_BOUND, format!("{key} is not bound to a waypoint: {}", refusal.message))
            }
        }
    }
}

/// What a policy comes to whose targets, at least one, come to `each`. One that is enforced for some of them is accepted.
pub(super) fn summary(each: Vec<Verdict>) -> Verdict {
    let accepted = each.iter().filter(|verdict| verdict.holds).count();
    let first = each.first().map_or(INVALID, |verdict| verdict.reason);
    let same = each.iter().all(|verdict| verdict.reason == first);
    let reason = match accepted {
        0 if same => first,
        0 => INVALID,
        some if some == each.len() => ACCEPTED,
        _ => "PartiallyInvalid",
    };
    let messages = each.into_iter().map(|verdict| verdict.message).collect::<Vec<_>>().join("; ");
    let message = if accepted == 0 { format!("not enforced: {messages}") } else { messages };
    Verdict { holds: accepted > 0, reason, message }
}

/// Policies of this kind are not enforced by waypoints yet.
pub(super) fn not_enforced(kind: &str) -> Verdict {
    no(UNSUPPORTED, format!("waypoints do not enforce a {kind} yet"))
}

fn yes(to: &str) -> Verdict {
    Verdict { holds: true, reason: ACCEPTED, message: format!("bound to {to}") }
}

fn no(reason: &'static str, message: String) -> Verdict {
    Verdict { holds: false, reason, message }
}

/// Reasons, as Istio spells them.
const ACCEPTED: &str = "Accepted";
const INVALID: &str = "Invalid";
const NOT_BOUND: &str = "AncestorNotBound";
const NOT_FOUND: &str = "TargetNotFound";
const UNSUPPORTED: &str = "UnsupportedValue";
