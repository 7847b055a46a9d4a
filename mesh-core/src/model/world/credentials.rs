//! Secrets that Gateways name for their clients, and those that a DestinationRule names for the servers that gateways
//! send to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::readers::Choice;
use super::selector::selects;
use super::{Name, World, forget};
use crate::model::{CredentialName, CredentialScope};
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
    /// Which of these name them.
    used: BTreeMap<Arc<str>, BTreeSet<ObjectKey>>,
    /// Whom Gateways select, those that name no Secret as well.
    selectors: HashMap<ObjectKey, Arc<BTreeMap<String, String>>>,
    /// What is told, by namespace.
    pub(super) told: HashMap<Arc<str>, BTreeSet<Arc<CredentialName>>>,
}

/// What a Gateway or a rule says about Secrets.
#[derive(Debug, Default)]
struct Naming {
    names: BTreeSet<Arc<str>>,
    /// Of the pods that need them; none for a rule that is for all.
    selector: Option<Arc<BTreeMap<String, String>>>,
}

impl Credentials {
    /// The Secret of this name.
    pub(super) fn secret(&self, name: &Name) -> Option<&Arc<Secret>> {
        self.secrets.get(name)
    }

    /// Whom those that name a Secret are about.
    pub(super) fn choices(&self, name: &str) -> impl Iterator<Item = Choice> {
        let namings = self.used.get(name).into_iter().flatten().filter_map(|key| self.named.get(key));
        namings.map(|naming| match &naming.selector {
            Some(selector) => Choice::Selected(Arc::clone(selector)),
            None => Choice::AnyGateway,
        })
    }

    /// What rules name that are for all gateways.
    pub(super) fn for_any_gateway(&self) -> BTreeSet<&Arc<str>> {
        let rules = self.named.values().filter(|naming| naming.selector.is_none());
        rules.flat_map(|naming| &naming.names).collect()
    }

    /// Whom Gateways select.
    pub(super) fn selectors(&self) -> impl Iterator<Item = Arc<BTreeMap<String, String>>> {
        self.selectors.values().cloned()
    }
}

impl World {
    /// The Secrets that gateways need, whether they exist or not: a pod that a Gateway selects needs those of its own
    /// namespace. For a source that reads no others.
    pub fn wanted_secrets(&self) -> BTreeSet<ObjectKey> {
        let mut wanted = BTreeSet::new();
        // Whoever reads by name alone cannot tell in which namespaces there are gateways that a rule is for.
        let gateways = self.credentials.named.iter().filter(|(key, _)| key.kind == "Gateway");
        for Naming { names, selector } in gateways.map(|(_, naming)| naming) {
            let Some(selector) = selector.as_deref().filter(|selector| !selector.is_empty()) else {
                continue;
            };
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
            Some(Spec::Gateway(gateway)) => {
                (names_of_gateway(gateway), Some(Arc::new(gateway.selector.clone())))
            }
            Some(Spec::DestinationRule(rule)) => {
                let selected = rule.workload_selector.as_ref();
                let labels = selected.map(|selector| &selector.match_labels).filter(|all| !all.is_empty());
                (names_of_rule(rule), labels.map(|labels| Arc::new(labels.clone())))
            }
            _ => Default::default(),
        };
        if key.kind == "Gateway" {
            self.note_selector(key, selector.as_ref());
        }
        let known = &mut self.credentials;
        let old = if names.is_empty() {
            known.named.remove(key)
        } else {
            known.named.insert(key.clone(), Naming { names: names.clone(), selector })
        };
        let old = old.unwrap_or_default().names;
        for name in &names {
            known.used.entry(Arc::clone(name)).or_default().insert(key.clone());
        }
        for name in old.difference(&names) {
            if let Some(users) = known.used.get_mut(name) {
                users.remove(key);
                if users.is_empty() {
                    known.used.remove(name);
                }
            }
        }
        // Of those that it goes on to name, others may be the readers.
        for name in names.union(&old) {
            for secret in self.credentials.by_name.get(name).cloned().unwrap_or_default() {
                self.commit_credential(&secret);
            }
        }
    }

    fn note_selector(&mut self, key: &ObjectKey, selector: Option<&Arc<BTreeMap<String, String>>>) {
        let known = &mut self.credentials.selectors;
        let old = match selector {
            Some(selector) => known.insert(key.clone(), Arc::clone(selector)),
            None => known.remove(key),
        };
        if old.as_ref() != selector {
            self.commit_readers_of_rules();
        }
    }

    pub(super) fn commit_credential(&mut self, name: &Name) {
        let Name { namespace, name: own } = name;
        let key = CredentialName { namespace: Arc::clone(namespace), name: Arc::clone(own) };
        let key = Arc::new(key);
        let is_used = self.credentials.used.contains_key(own) || self.is_wanted_by_gateway(&key);
        let is_told = is_used && self.options.credentials.includes(namespace);
        let secret = self.credentials.secrets.get(name).filter(|_| is_told).cloned();
        self.tell_credential(&key, secret);
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
