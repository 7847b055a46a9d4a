//! Secrets that Gateways name for their clients, and those that a DestinationRule names for the servers that gateways
//! send to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::selector::selects;
use super::{Name, World, forget};
use crate::model::{Credential, CredentialName, CredentialScope, Record, RecordKey};
use crate::resource::networking::gateway::ServerTls;
use crate::resource::{DestinationRuleSpec, GatewaySpec, Object, ObjectKey, Secret, Spec};

/// Secrets, and by whom they are named. Only the namespace of a gateway's pods says which Secret is meant by a name, so
/// those of all namespaces are.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    secrets: HashMap<Name, Arc<Secret>>,
    by_name: HashMap<Arc<str>, BTreeSet<Name>>,
    /// The Gateways and `DestinationRules` that have names for Secrets.
    named: HashMap<ObjectKey, Naming>,
    /// How many of these name them.
    used: BTreeMap<Arc<str>, usize>,
}

/// What a Gateway says about Secrets.
#[derive(Debug, Default)]
struct Naming {
    names: BTreeSet<Arc<str>>,
    /// Of the pods that need them.
    selector: BTreeMap<String, String>,
}

impl Credentials {
    /// The Secret of this name.
    pub(super) fn secret(&self, name: &Name) -> Option<&Arc<Secret>> {
        self.secrets.get(name)
    }
}

impl World {
    /// The Secrets that gateways need, whether they exist or not: a pod that a Gateway selects needs those of its own
    /// namespace. For a source that reads no others.
    pub fn wanted_secrets(&self) -> BTreeSet<ObjectKey> {
        let mut wanted = BTreeSet::new();
        for Naming { names, selector } in self.credentials.named.values().filter(|it| !it.selector.is_empty())
        {
            let candidates = self.pods_by_label.candidates(None, selector);
            let selected = candidates
                .filter(|name| self.pods.get(*name).is_some_and(|pod| selects(selector, &pod.labels)))
                .filter(|name| self.options.credentials.includes(&name.namespace));
            let namespaces: BTreeSet<&Arc<str>> = selected.map(|pod| &pod.namespace).collect();
            for namespace in namespaces {
                wanted.extend(names.iter().map(|name| ObjectKey {
                    kind: "Secret",
                    namespace: Arc::clone(namespace),
                    name: Arc::clone(name),
                }));
            }
        }
        wanted.extend(self.wanted_by_gateways());
        wanted
    }

    /// Takes note of a Secret, or that it is gone. Where nobody is to be told of any, none is even kept; others may be told
    /// to Gateways of other namespaces.
    pub(super) fn put_secret(&mut self, name: &Name, secret: Option<&Secret>) {
        let keeps = self.options.credentials != CredentialScope::Nobody;
        let kept = secret.filter(|it| !it.is_empty() && keeps);
        let known = &mut self.credentials;
        if let Some(secret) = kept {
            known.secrets.insert(name.clone(), Arc::new(secret.clone()));
            known.by_name.entry(Arc::clone(&name.name)).or_default().insert(name.clone());
        } else {
            known.secrets.remove(name);
            forget(&mut known.by_name, &name.name, name);
        }
        self.commit_credential(name);
        self.commit_aliases(name);
    }

    /// Takes note of the Secrets that a Gateway or a DestinationRule names.
    pub(super) fn note_credentials(&mut self, key: &ObjectKey, object: Option<&Object>) {
        let (names, selector) = match object.map(|object| &object.spec) {
            Some(Spec::Gateway(gateway)) => (names_of_gateway(gateway), gateway.selector.clone()),
            // Whoever reads by name alone cannot tell in which namespaces there are gateways that a rule is for.
            Some(Spec::DestinationRule(rule)) => (names_of_rule(rule), BTreeMap::new()),
            _ => Default::default(),
        };
        let known = &mut self.credentials;
        let old = if names.is_empty() {
            known.named.remove(key)
        } else {
            known.named.insert(key.clone(), Naming { names: names.clone(), selector })
        };
        let old = old.unwrap_or_default().names;
        for name in names.difference(&old) {
            *known.used.entry(Arc::clone(name)).or_default() += 1;
        }
        for name in old.difference(&names) {
            if let Some(count) = known.used.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    known.used.remove(name);
                }
            }
        }
        for name in names.symmetric_difference(&old) {
            for secret in self.credentials.by_name.get(name).cloned().unwrap_or_default() {
                self.commit_credential(&secret);
            }
        }
    }

    pub(super) fn commit_credential(&mut self, name: &Name) {
        let Name { namespace, name: own } = name;
        let key = CredentialName { namespace: Arc::clone(namespace), name: Arc::clone(own) };
        let key = Arc::new(key);
        let is_used = self.credentials.used.contains_key(own) || self.is_wanted_by_gateway(&key);
        let is_told = is_used && self.options.credentials.includes(namespace);
        let secret = self.credentials.secrets.get(name).filter(|_| is_told);
        let credential =
            secret.map(|secret| Credential { name: Arc::clone(&key), secret: Arc::clone(secret) });
        self.emit(RecordKey::Credential(key), credential.map(|one| Record::Credential(Arc::new(one))));
    }
}

/// The names that a Gateway has for Secrets, with those of the Secrets that may add authorities to them.
fn names_of_gateway(gateway: &GatewaySpec) -> BTreeSet<Arc<str>> {
    let tls = gateway.servers.iter().filter_map(|server| server.tls.as_ref());
    let mut names = BTreeSet::new();
    for ServerTls { credential_name, credential_names, ca_cert_credential_name, .. } in tls {
        for name in credential_names.iter().chain([credential_name]).filter(|name| !name.is_empty()) {
            names.extend(with_authorities(name));
        }
        if !ca_cert_credential_name.is_empty() {
            names.insert(ca_cert_credential_name.as_str().into());
        }
    }
    names
}

/// The names that a DestinationRule has for Secrets, with those of the Secrets that may add authorities to them.
fn names_of_rule(rule: &DestinationRuleSpec) -> BTreeSet<Arc<str>> {
    let of_subsets = rule.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref());
    let policies = rule.traffic_policy.iter().chain(of_subsets);
    let tls = policies.flat_map(|policy| {
        let of_ports = policy.port_level_settings.iter().filter_map(|port| port.tls.as_ref());
        policy.tls.iter().chain(of_ports)
    });
    let names = tls.map(|tls| tls.credential_name.as_str());
    let secrets = names.filter(|name| !name.is_empty() && !name.starts_with(CONFIG_MAP));
    secrets.flat_map(with_authorities).collect()
}

fn with_authorities(name: &str) -> [Arc<str>; 2] {
    [format!("{name}{CA_SUFFIX}").into(), name.into()]
}

/// What names an object that holds no Secret.
const CONFIG_MAP: &str = "configmap://";
/// What the name of a Secret ends with that adds authorities to another.
const CA_SUFFIX: &str = "-cacert";

#[cfg(test)]
mod tests;
