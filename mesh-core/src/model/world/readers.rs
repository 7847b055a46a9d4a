//! Which pods and machines are meant to have a credential: those that run the gateways which name it. Whoever else is of
//! the same namespace, or has the same service account, is told nothing.
//!
//! A Gateway without a selector names no pods, so nobody has a credential because of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::entries::WorkloadEntry;
use super::pods::PodFacts;
use super::selector::selects;
use super::{Name, World};
use crate::model::{Credential, CredentialName, CredentialScope, Reader, Record, RecordKey};
use crate::resource::Secret;
use crate::resource::gateway_api::AddressKind;
use crate::waypoint::GATEWAY_NAME;

/// How something that names credentials says which pods it is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Choice {
    /// Those with these labels; an empty selector chooses none.
    Selected(Arc<BTreeMap<String, String>>),
    /// Those of a Gateway of the Gateway API in the namespace of the credential.
    Gateway(Arc<str>),
    /// Whatever runs any Gateway.
    AnyGateway,
}

impl World {
    /// Tells a credential to its readers, or takes it back.
    pub(super) fn tell_credential(&mut self, name: &Arc<CredentialName>, secret: Option<Arc<Secret>>) {
        let record = secret.map(|secret| {
            self.credentials.told.entry(Arc::clone(&name.namespace)).or_default().insert(Arc::clone(name));
            let readers = self.readers(name);
            Record::Credential(Arc::new(Credential { name: Arc::clone(name), secret, readers }))
        });
        if record.is_none() {
            super::forget(&mut self.credentials.told, &name.namespace, name);
        }
        self.emit(RecordKey::Credential(Arc::clone(name)), record);
    }

    /// Works out again who reads the credentials of namespaces in which a pod, a machine or a Service has changed.
    pub(super) fn commit_readers(&mut self) {
        let dirty = &self.dirty;
        let names = dirty.pods.iter().chain(&dirty.services).chain(&dirty.workload_entries);
        let namespaces: BTreeSet<_> = names.map(|name| &name.namespace).collect();
        let told = namespaces.into_iter().filter_map(|namespace| self.credentials.told.get(namespace));
        let names: Vec<_> = told.flatten().cloned().collect();
        self.tell_credentials_again(&names);
    }

    /// Works out again who reads these credentials, as far as they are told.
    pub(super) fn tell_credentials_again<'n>(
        &mut self,
        names: impl IntoIterator<Item = &'n Arc<CredentialName>>,
    ) {
        for name in names {
            let told = self.told.get(&RecordKey::Credential(Arc::clone(name)));
            let Some(Record::Credential(told)) = told else { continue };
            let secret = Arc::clone(&told.secret);
            self.tell_credential(name, Some(secret));
        }
    }

    /// Works out again who reads what is told to any gateway: there is another Gateway, or one is gone.
    pub(super) fn commit_readers_of_rules(&mut self) {
        let named = self.credentials.for_any_gateway();
        if named.is_empty() {
            return;
        }
        let told = self.credentials.told.values().flatten();
        let names: Vec<_> = told.filter(|told| named.contains(&told.name)).cloned().collect();
        self.tell_credentials_again(&names);
    }

    /// Who is meant to have a credential; by name, each once. Where there is one subscriber, who reads everything himself,
    /// that is nobody's business.
    fn readers(&self, name: &CredentialName) -> Arc<[Reader]> {
        if self.options.credentials != CredentialScope::Everybody {
            return Arc::default();
        }
        let gateways = self.gateway_api.users(name).cloned().map(Choice::Gateway);
        let choices: BTreeSet<_> = self.credentials.choices(&name.name).chain(gateways).collect();
        let any = choices.contains(&Choice::AnyGateway);
        let others = any.then(|| {
            let gateways = self.gateway_api.names_in(&name.namespace).cloned().map(Choice::Gateway);
            self.credentials.selectors().map(Choice::Selected).chain(gateways)
        });
        let choices: BTreeSet<_> = choices.into_iter().chain(others.into_iter().flatten()).collect();
        let mut readers = BTreeMap::new();
        for choice in &choices {
            match choice {
                Choice::Selected(selector) => self.select_readers(&name.namespace, selector, &mut readers),
                Choice::Gateway(gateway) => self.gateway_readers((&name.namespace, gateway), &mut readers),
                Choice::AnyGateway => {}
            }
        }
        readers.into_values().collect()
    }

    fn select_readers(
        &self,
        namespace: &str,
        selector: &BTreeMap<String, String>,
        readers: &mut BTreeMap<(bool, Name), Reader>,
    ) {
        if selector.is_empty() {
            return;
        }
        let pods = self.pods_by_label.candidates(Some(namespace), selector);
        let pods = pods.filter_map(|name| Some((name, self.pods.get(name)?)));
        for (name, pod) in pods.filter(|(_, pod)| selects(selector, &pod.labels)) {
            readers.insert((true, name.clone()), of_pod(name, pod));
        }
        for (name, machine) in self.machines_with(namespace, selector) {
            readers.insert((false, name.clone()), of_machine(name, machine));
        }
    }

    /// The pods that are labelled with a Gateway, the one of its name, and those behind the Service whose name it asks for as
    /// its address.
    fn gateway_readers(
        &self,
        (namespace, gateway): (&Arc<str>, &Arc<str>),
        readers: &mut BTreeMap<(bool, Name), Reader>,
    ) {
        let label = BTreeMap::from([(GATEWAY_NAME.to_owned(), gateway.to_string())]);
        self.select_readers(namespace, &label, readers);
        let namesake = Name { namespace: Arc::clone(namespace), name: Arc::clone(gateway) };
        if let Some(pod) = self.pods.get(&namesake) {
            readers.insert((true, namesake.clone()), of_pod(&namesake, pod));
        }
        let addresses =
            self.gateway_api.spec((namespace, gateway)).into_iter().flat_map(|spec| &spec.addresses);
        for address in addresses.filter(|address| address.kind == AddressKind::Hostname) {
            let (service, rest) = address.value.split_once('.').unwrap_or((&address.value, ""));
            let is_here =
                rest.is_empty() || *rest == **namespace || rest.starts_with(&format!("{namespace}.svc"));
            let name = Name { namespace: Arc::clone(namespace), name: service.into() };
            let service = self.services.get(&name).filter(|_| is_here);
            if let Some(selector) = service.and_then(|service| service.selector.as_ref()) {
                self.select_readers(namespace, selector, readers);
            }
        }
    }
}

fn of_pod(name: &Name, pod: &PodFacts) -> Reader {
    Reader {
        name: Arc::clone(&name.name),
        uid: pod.uid().cloned(),
        service_account: Arc::clone(pod.account()),
        workload: Arc::clone(pod.owner()),
        gateway: pod.labels.get(GATEWAY_NAME).map(|name| name.as_str().into()),
    }
}

fn of_machine(name: &Name, machine: &WorkloadEntry) -> Reader {
    Reader {
        name: Arc::clone(&name.name),
        uid: None,
        service_account: machine.account().into(),
        workload: Arc::clone(&name.name),
        gateway: None,
    }
}

#[cfg(test)]
mod tests;
