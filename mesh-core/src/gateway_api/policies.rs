//! What users are told of their `BackendTLSPolicies`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::status::{ACCEPTED, RESOLVED, Reference, Report, references};
use super::{BackendPolicy, CaFault, Condition, Facts, GROUP, Name, Resources, Route, RouteBackends};
use crate::resource::gateway_api::CaSource;

/// What is told of a policy with regard to something that it makes a difference to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AncestorStatus {
    /// A Gateway, or the Service itself where no Gateway of ours sends to it.
    pub ancestor: Ancestor,
    /// `Accepted` and `ResolvedRefs`.
    pub conditions: Vec<Condition>,
}

/// What a policy makes a difference to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ancestor {
    /// Its API group.
    pub group: &'static str,
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// The Gateways that send to each Service.
pub(super) type Senders<'a> = BTreeMap<Name<'a>, BTreeSet<Name<'a>>>;

/// A Service and a port of it, and the namespace of both.
type Target<'a> = (&'a str, &'a str, Option<&'a str>);

impl<'a> Resources<'a> {
    /// Takes note that a Gateway sends to the Services of a route.
    pub(super) fn note_senders(&self, route: &Route<'a>, gateway: Name<'a>, senders: &mut Senders<'a>) {
        let backends =
            RouteBackends { grants: self.grants(), kind: route.kind(), namespace: route.namespace() };
        for reference in references(route) {
            let Reference::Backend(backend) = reference else { continue };
            if backend.is_service() && backends.resolve(backend).is_ok() {
                let namespace = backend.namespace.as_deref().unwrap_or(route.namespace());
                senders.entry((namespace, &backend.name)).or_default().insert(gateway);
            }
        }
    }

    /// Adds what there is to tell of all policies.
    pub(super) fn report_policies(&self, senders: &Senders<'a>, facts: &Facts, report: &mut Report<'a>) {
        let mut first: BTreeMap<Target<'a>, usize> = BTreeMap::new();
        // The oldest come first.
        for (number, policy) in self.policies.iter().enumerate() {
            for target in targets(policy) {
                first.entry(target).or_insert(number);
            }
        }
        for (number, policy) in self.policies.iter().enumerate() {
            let rival = |target: Target<'a>| first.get(&target).filter(|it| **it != number);
            let rivals: Option<Vec<_>> = targets(policy).map(rival).collect();
            let rival = rivals.and_then(|rivals| self.policies.get(**rivals.first()?));
            let conditions = conditions(policy, rival, facts);
            let ancestors = ancestors(policy, senders).into_iter();
            let statuses = ancestors
                .map(|ancestor| AncestorStatus { ancestor, conditions: conditions.clone() })
                .take(MAX_ANCESTORS);
            report.policies.insert(policy.object.key(), statuses.collect());
        }
    }
}

fn targets<'a>(policy: &BackendPolicy<'a>) -> impl Iterator<Item = Target<'a>> + use<'a> {
    let namespace: &'a str = &policy.object.meta.namespace;
    policy.targets().map(move |(service, port)| (namespace, service, port))
}

fn ancestors(policy: &BackendPolicy<'_>, senders: &Senders<'_>) -> BTreeSet<Ancestor> {
    let mut all = BTreeSet::new();
    for (namespace, service, _) in targets(policy) {
        let gateways = senders.get(&(namespace, service)).into_iter().flatten();
        let ancestor = |group, kind, (namespace, name): Name<'_>| Ancestor {
            group,
            kind,
            namespace: namespace.into(),
            name: name.into(),
        };
        let before = all.len();
        all.extend(gateways.map(|gateway| ancestor(GROUP, "Gateway", *gateway)));
        if all.len() == before {
            all.insert(ancestor("", "Service", (namespace, service)));
        }
    }
    all
}

fn conditions(
    policy: &BackendPolicy<'_>,
    rival: Option<&BackendPolicy<'_>>,
    facts: &Facts,
) -> Vec<Condition> {
    let refuse = |reason, message: String| Condition::new(ACCEPTED, false, reason, message);
    let namespace = &policy.object.meta.namespace;
    let usable = |key: &_| facts.has_authorities(key);
    let authorities = policy.authorities().map(|(name, key)| match key {
        Ok(key) if usable(&key) => Ok(()),
        Ok(_) => Err((CaFault::InvalidCaCertificateRef, name)),
        Err(fault) => Err((fault, name)),
    });
    let authorities: Vec<_> = authorities.collect();
    let fault = authorities.iter().find_map(|it| it.err());
    let is_trusting = authorities.is_empty() || authorities.iter().any(Result::is_ok);
    let accepted = if let Some(rival) = rival {
        let meta = &rival.object.meta;
        let message = format!("{}/{} is for the same, and comes before it", meta.namespace, meta.name);
        refuse("Conflicted", message)
    } else if let CaSource::Named(name) = &policy.spec.validation.ca {
        refuse("Invalid", format!("wellKnownCACertificates: {name} is nothing that is known here"))
    } else if !is_trusting {
        let message = "none of its caCertificateRefs has an authority: nothing is sent to the Service";
        refuse("NoValidCACertificate", message.to_owned())
    } else if !policy.targets().any(|(service, port)| has_port(facts, (namespace, service), port)) {
        refuse(
            "TargetNotFound",
            "none of its targetRefs is a Service, or a port of one, that is there".to_owned(),
        )
    } else {
        Condition::new(ACCEPTED, true, "Accepted", "whoever sends to the Service is told of it")
    };
    let resolved = match fault {
        None => Condition::new(RESOLVED, true, "ResolvedRefs", "all that it refers to is there"),
        Some((CaFault::InvalidKind, name)) => {
            let message = format!("{name} is neither a ConfigMap nor a Secret");
            Condition::new(RESOLVED, false, "InvalidKind", message)
        }
        Some((CaFault::InvalidCaCertificateRef, name)) => {
            let message = format!("{name} is not there, or has no certificate in ca.crt");
            Condition::new(RESOLVED, false, "InvalidCACertificateRef", message)
        }
    };
    vec![accepted, resolved]
}

fn has_port(facts: &Facts, service: Name<'_>, port: Option<&str>) -> bool {
    let found = facts.service(service);
    found.is_some_and(|it| port.is_none_or(|port| it.port_names.iter().any(|name| **name == *port)))
}

/// What the API allows a status.
const MAX_ANCESTORS: usize = 16;
