//! Secrets that Gateways name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::selector::selects;
use super::{Name, World, forget};
use crate::model::{Credential, CredentialName, Record, RecordKey};
use crate::resource::networking::gateway::ServerTls;
use crate::resource::{GatewaySpec, Object, ObjectKey, Secret, Spec};

/// Secrets, and by whom they are named. Only the namespace of a gateway's pods says which Secret is meant by a name, so
/// those of all namespaces are.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    secrets: HashMap<Name, Arc<Secret>>,
    by_name: HashMap<Arc<str>, BTreeSet<Name>>,
    /// The Gateways that have names for Secrets.
    named: HashMap<ObjectKey, Naming>,
    /// How many Gateways name them.
    used: BTreeMap<Arc<str>, usize>,
}

/// What a Gateway says about Secrets.
#[derive(Debug, Default)]
struct Naming {
    names: BTreeSet<Arc<str>>,
    /// Of the pods that need them.
    selector: BTreeMap<String, String>,
}

impl World {
    /// The Secrets that gateways need, whether they exist or not: a pod that a Gateway selects needs those of its own
    /// namespace. For a source that reads no others.
    pub fn wanted_secrets(&self) -> BTreeSet<ObjectKey> {
        let mut wanted = BTreeSet::new();
        for Naming { names, selector } in self.credentials.named.values().filter(|it| !it.selector.is_empty()) {
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
        wanted
    }

    /// Takes note of a Secret, or that it is gone. Those that nobody is to be told of are not even kept.
    pub(super) fn put_secret(&mut self, name: &Name, secret: Option<&Secret>) {
        let kept = secret.filter(|it| !it.is_empty() && self.options.credentials.includes(&name.namespace));
        let known = &mut self.credentials;
        match kept {
            Some(secret) => {
                known.secrets.insert(name.clone(), Arc::new(secret.clone()));
                known.by_name.entry(Arc::clone(&name.name)).or_default().insert(name.clone());
            }
            None => {
                known.secrets.remove(name);
                forget(&mut known.by_name, &name.name, name);
            }
        }
        self.commit_credential(name);
    }

    /// Takes note of the Secrets that a Gateway names.
    pub(super) fn note_credentials(&mut self, key: &ObjectKey, object: Option<&Object>) {
        let (names, selector) = match object.map(|object| &object.spec) {
            Some(Spec::Gateway(gateway)) => (credential_names(gateway), gateway.selector.clone()),
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

    fn commit_credential(&mut self, name: &Name) {
        let Name { namespace, name: own } = name;
        let key = CredentialName { namespace: Arc::clone(namespace), name: Arc::clone(own) };
        let key = Arc::new(key);
        let secret = self.credentials.secrets.get(name).filter(|_| self.credentials.used.contains_key(own));
        let credential =
            secret.map(|secret| Credential { name: Arc::clone(&key), secret: Arc::clone(secret) });
        self.emit(RecordKey::Credential(key), credential.map(|one| Record::Credential(Arc::new(one))));
    }
}

/// The names that a Gateway has for Secrets, with those of the Secrets that may add authorities to them.
fn credential_names(gateway: &GatewaySpec) -> BTreeSet<Arc<str>> {
    let tls = gateway.servers.iter().filter_map(|server| server.tls.as_ref());
    let mut names = BTreeSet::new();
    for ServerTls { credential_name, credential_names, ca_cert_credential_name, .. } in tls {
        for name in credential_names.iter().chain([credential_name]).filter(|name| !name.is_empty()) {
            names.insert(format!("{name}{CA_SUFFIX}").into());
            names.insert(name.as_str().into());
        }
        if !ca_cert_credential_name.is_empty() {
            names.insert(ca_cert_credential_name.as_str().into());
        }
    }
    names
}

/// What the name of a Secret ends with that adds authorities to another.
const CA_SUFFIX: &str = "-cacert";

#[cfg(test)]
mod tests;
