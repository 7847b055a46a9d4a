//! Resources of the Gateway API that mean something only together with others, on their way to gateways.
//!
//! A gateway is not told of namespaces: selectors of them are told as the names that they select. And it is told of
//! Secrets of other namespaces only if these have permitted its Gateway to use them, under names of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::{Name, World};
use crate::gateway_api::{Gateway, Owner, Resources, authorities_in};
use crate::model::{Config, CredentialName, Record, RecordKey};
use crate::resource::gateway_api::{
    GatewaySpec, ListenerNamespacesFrom, RouteNamespacesFrom, SecretRef, TlsMode,
};
use crate::resource::{LabelSelector, Material, Object, ObjectKey, Operator, Requirement, Secret, Spec};

/// What is kept of it.
#[derive(Debug, Default)]
pub(super) struct GatewayApi {
    /// Gateways, ListenerSets and `ReferenceGrants`, as they were written.
    objects: BTreeMap<ObjectKey, Object>,
    /// The Secrets that Gateways may use: which they mean, by what they are told as.
    wanted: BTreeMap<Arc<CredentialName>, Name>,
    /// The Gateways that may use them, and the authorities, of the namespace that the name says.
    users: BTreeMap<Arc<CredentialName>, BTreeSet<Arc<str>>>,
    /// The ConfigMaps and Secrets with the authorities of clients, by what all of a port are told as.
    authorities: BTreeMap<Arc<CredentialName>, Vec<ObjectKey>>,
    /// What ConfigMaps have of these.
    maps: BTreeMap<Name, Arc<str>>,
    /// ConfigMaps that Gateways name as their parameters: whether they exist is told in statuses.
    parameters: BTreeSet<ObjectKey>,
}

impl GatewayApi {
    /// The Gateways that use what is told by this name.
    pub(super) fn users(&self, name: &CredentialName) -> impl Iterator<Item = &Arc<str>> {
        self.users.get(name).into_iter().flatten()
    }

    /// The names of the Gateways of a namespace.
    pub(super) fn names_in(&self, namespace: &str) -> impl Iterator<Item = &Arc<str>> {
        let gateways = self.objects.keys().filter(|key| key.kind == "KubernetesGateway");
        gateways.filter(move |key| *key.namespace == *namespace).map(|key| &key.name)
    }

    /// What a Gateway says.
    pub(super) fn spec(&self, (namespace, name): (&Arc<str>, &Arc<str>)) -> Option<&GatewaySpec> {
        let (namespace, name) = (Arc::clone(namespace), Arc::clone(name));
        match &self.objects.get(&ObjectKey { kind: "KubernetesGateway", namespace, name })?.spec {
            Spec::KubernetesGateway(spec) => Some(spec),
            _ => None,
        }
    }
}

impl World {
    /// Takes note of a Gateway, a ListenerSet or a ReferenceGrant, or that it is gone.
    pub(super) fn put_gateway_resource(&mut self, key: &ObjectKey, object: Option<&Object>) {
        match object {
            Some(object) => drop(self.gateway_api.objects.insert(key.clone(), object.clone())),
            None => drop(self.gateway_api.objects.remove(key)),
        }
        match object.filter(|object| selectors(&object.spec).next().is_some()) {
            Some(object) => self.tell_with_names(vec![(key.clone(), self.with_names(object))]),
            None => self.put_config(key, object),
        }
        self.settle_credentials();
        if key.kind == "KubernetesGateway" {
            self.commit_readers_of_rules();
        }
    }

    /// Tells Gateways again that select namespaces by labels.
    pub(super) fn select_namespaces(&mut self) {
        let all = self.gateway_api.objects.iter();
        let selecting = all.filter(|(_, object)| selectors(&object.spec).next().is_some());
        let selecting = selecting.map(|(key, object)| (key.clone(), self.with_names(object))).collect();
        self.tell_with_names(selecting);
        self.settle_credentials();
    }

    fn tell_with_names(&mut self, configs: Vec<(ObjectKey, Option<Config>)>) {
        for (key, config) in configs {
            let record = config.map(|config| Record::Config(Arc::new(config)));
            self.emit(RecordKey::Config(Arc::new(key)), record);
        }
    }

    /// Tells, or takes back, what Gateways know a Secret by.
    pub(super) fn commit_aliases(&mut self, secret: &Name) {
        let aliases = self.gateway_api.wanted.iter().filter(|(_, meant)| *meant == secret);
        for alias in aliases.map(|(alias, _)| Arc::clone(alias)).collect::<Vec<_>>() {
            self.commit_alias(&alias);
        }
        self.commit_authorities_in("Secret", secret);
    }

    /// Takes note of a ConfigMap, or that it is gone.
    pub(super) fn put_authorities(&mut self, name: &Name, map: Option<&ConfigMap>) {
        match map.and_then(authorities_in) {
            Some(text) => drop(self.gateway_api.maps.insert(name.clone(), text.into())),
            None => drop(self.gateway_api.maps.remove(name)),
        }
        self.commit_authorities_in("ConfigMap", name);
    }

    fn commit_authorities_in(&mut self, kind: &str, name: &Name) {
        let is_it =
            |it: &ObjectKey| it.kind == kind && it.namespace == name.namespace && it.name == name.name;
        let using = self.gateway_api.authorities.iter().filter(|(_, objects)| objects.iter().any(is_it));
        for alias in using.map(|(alias, _)| Arc::clone(alias)).collect::<Vec<_>>() {
            self.commit_authorities(&alias);
        }
        self.mark_backends_trusting(kind, name);
    }

    /// All authorities of a port are told as one Secret, if all are there: with a part of them, clients would be refused
    /// that are to be let in.
    fn commit_authorities(&mut self, alias: &Arc<CredentialName>) {
        let objects = self.gateway_api.authorities.get(alias);
        let objects = objects.filter(|_| self.options.credentials.includes(&alias.namespace));
        let text = |key: &ObjectKey| self.authorities_of(key);
        let all = objects.and_then(|objects| objects.iter().map(text).collect::<Option<Vec<_>>>());
        let secret = all
            .map(|all| Arc::new(Secret { ca: Some(Material::new(&all.join(&b'\n'))), ..Secret::default() }));
        self.tell_credential(alias, secret);
    }

    /// The authorities in a ConfigMap or a Secret, PEM.
    pub(super) fn authorities_of(&self, key: &ObjectKey) -> Option<Vec<u8>> {
        let name = Name { namespace: Arc::clone(&key.namespace), name: Arc::clone(&key.name) };
        if key.kind == "Secret" {
            return Some(self.credentials.secret(&name)?.ca.as_ref()?.expose().to_vec());
        }
        self.gateway_api.maps.get(&name).map(|text| text.as_bytes().to_vec())
    }

    /// Whether a Gateway of the Gateway API means the Secret of its own namespace by this name.
    pub(super) fn is_wanted_by_gateway(&self, name: &CredentialName) -> bool {
        self.gateway_api.wanted.contains_key(name)
    }

    /// The Secrets and ConfigMaps that Gateways of the Gateway API may use, as far as somebody is told of them, and those
    /// with the authorities of servers.
    pub(super) fn wanted_by_gateways(&self) -> impl Iterator<Item = ObjectKey> {
        let told = |alias: &CredentialName| self.options.credentials.includes(&alias.namespace);
        let secrets = self.gateway_api.wanted.iter().filter(move |(alias, _)| told(alias));
        let secrets = secrets.map(|(_, Name { namespace, name })| ObjectKey {
            kind: "Secret",
            namespace: Arc::clone(namespace),
            name: Arc::clone(name),
        });
        let authorities = self.gateway_api.authorities.iter().filter(move |(alias, _)| told(alias));
        let authorities = authorities.flat_map(|(_, objects)| objects.iter().cloned());
        let parameters = self.gateway_api.parameters.iter().cloned();
        secrets.chain(authorities).chain(parameters).chain(self.wanted_by_backends())
    }

    /// The object with the names of namespaces in place of their labels.
    fn with_names(&self, object: &Object) -> Option<Config> {
        let mut text: Value = serde_json::from_str(object.spec_json.as_deref()?).ok()?;
        let mut spec = object.spec.clone();
        let places: Vec<String> = selectors(&spec).map(|(place, _)| place).collect();
        for (place, selector) in places.iter().zip(selectors_mut(&mut spec)) {
            let names = selector.as_ref().map(|selector| self.names_of(selector)).unwrap_or_default();
            let place = text.pointer_mut(place)?;
            if names.is_empty() {
                *selector = None;
                place.as_object_mut()?.remove("selector");
                continue;
            }
            let requirement = json!({"key": NAME_LABEL, "operator": "In", "values": names});
            place["selector"] = json!({"matchExpressions": [requirement]});
            let requirement = Requirement { key: NAME_LABEL.to_owned(), operator: Operator::In(names) };
            *selector =
                Some(LabelSelector { match_labels: BTreeMap::new(), match_expressions: vec![requirement] });
        }
        Some(Config::with(object, spec, text.to_string().into()))
    }

    fn names_of(&self, selector: &LabelSelector) -> Vec<String> {
        let selected = self.namespaces.iter().filter(|(name, facts)| {
            let mut labels = facts.labels.clone();
            labels.insert(NAME_LABEL.to_owned(), name.to_string());
            selector.selects(&labels)
        });
        let names: BTreeSet<String> = selected.map(|(name, _)| name.to_string()).collect();
        names.into_iter().collect()
    }

    /// Works out which Secrets Gateways may use. Classes make no difference: whoever is told asks for its own namespace.
    fn settle_credentials(&mut self) {
        let namespaces = self.namespaces.iter().map(|(name, facts)| (&**name, &facts.labels));
        let resources = Resources::of(self.gateway_api.objects.values()).with_namespaces(namespaces);
        let (mut wanted, mut authorities) = (BTreeMap::new(), BTreeMap::new());
        let mut users: BTreeMap<_, BTreeSet<Arc<str>>> = BTreeMap::new();
        let mut parameters = BTreeSet::new();
        for object in self.gateway_api.objects.values() {
            let Spec::KubernetesGateway(spec) = &object.spec else { continue };
            let (namespace, name) = (&object.meta.namespace, &object.meta.name);
            let gateway = Gateway { object, spec };
            let mut want = |owner: Owner<'_>, secret: &SecretRef| {
                let Ok(known) = resources.credential(owner, namespace, secret) else { return };
                let of = secret.namespace.as_deref().unwrap_or(owner.name.0);
                let alias = Arc::new(CredentialName { namespace: Arc::clone(namespace), name: known.into() });
                users.entry(Arc::clone(&alias)).or_default().insert(Arc::clone(name));
                wanted.insert(alias, Name { namespace: of.into(), name: Arc::from(&*secret.name) });
            };
            if let Some(secret) = gateway.client_certificate() {
                want(gateway.owner(), secret);
            }
            let mut clients = Vec::new();
            for listener in resources.listeners(&gateway) {
                if let Some(Ok(it)) = resources.authorities((namespace, name), spec, listener.spec.port) {
                    let alias = CredentialName { namespace: Arc::clone(namespace), name: it.name.into() };
                    let alias = Arc::new(alias);
                    clients.push(Arc::clone(&alias));
                    authorities.insert(alias, it.objects);
                }
                let tls = listener.spec.tls.iter().filter(|tls| tls.mode == TlsMode::Terminate);
                tls.flat_map(|tls| &tls.certificate_refs).for_each(|secret| want(listener.owner, secret));
            }
            for alias in clients {
                users.entry(alias).or_default().insert(Arc::clone(name));
            }
            parameters.extend(spec.infrastructure.parameters_ref.as_ref().map(|it| ObjectKey {
                kind: "ConfigMap",
                namespace: Arc::clone(namespace),
                name: Arc::from(&*it.name),
            }));
        }
        self.gateway_api.parameters = parameters;
        self.gateway_api.users = users;
        let before = std::mem::replace(&mut self.gateway_api.authorities, authorities);
        let changed: BTreeSet<_> =
            before.keys().chain(self.gateway_api.authorities.keys()).cloned().collect();
        changed.iter().for_each(|alias| self.commit_authorities(alias));
        let before = std::mem::replace(&mut self.gateway_api.wanted, wanted);
        let now = self.gateway_api.wanted.keys();
        let changed: BTreeSet<_> = before.keys().chain(now).cloned().collect();
        changed.iter().for_each(|alias| self.commit_alias(alias));
    }

    fn commit_alias(&mut self, alias: &Arc<CredentialName>) {
        if !alias.name.contains('/') {
            let (namespace, name) = (Arc::clone(&alias.namespace), Arc::clone(&alias.name));
            return self.commit_credential(&Name { namespace, name });
        }
        let meant = self.gateway_api.wanted.get(alias);
        let meant = meant.filter(|_| self.options.credentials.includes(&alias.namespace));
        let secret = meant.and_then(|name| self.credentials.secret(name).cloned());
        self.tell_credential(alias, secret);
    }
}

/// The selectors of namespaces in a spec, with the place of what each stands in, as a pointer into its JSON.
fn selectors(spec: &Spec) -> impl Iterator<Item = (String, &LabelSelector)> {
    let (listeners, allowed) = match spec {
        Spec::KubernetesGateway(spec) => (&*spec.listeners, Some(&spec.allowed_listeners.namespaces)),
        Spec::ListenerSet(spec) => (&*spec.listeners, None),
        _ => (<&[_]>::default(), None),
    };
    let allowed = allowed.filter(|it| it.from == ListenerNamespacesFrom::Selector);
    let allowed = allowed.map(|it| ("/allowedListeners/namespaces".to_owned(), &it.selector));
    let of_routes = listeners.iter().enumerate().filter_map(|(number, listener)| {
        let namespaces = &listener.allowed_routes.namespaces;
        let place = format!("/listeners/{number}/allowedRoutes/namespaces");
        (namespaces.from == RouteNamespacesFrom::Selector).then_some((place, &namespaces.selector))
    });
    let all = of_routes.chain(allowed);
    all.filter_map(|(place, selector)| Some((place, selector.as_ref()?)))
}

/// The same, to change them.
fn selectors_mut(spec: &mut Spec) -> Vec<&mut Option<LabelSelector>> {
    let (listeners, allowed) = match spec {
        Spec::KubernetesGateway(spec) => (&mut *spec.listeners, Some(&mut spec.allowed_listeners.namespaces)),
        Spec::ListenerSet(spec) => (&mut *spec.listeners, None),
        _ => (<&mut [_]>::default(), None),
    };
    let allowed = allowed.filter(|it| it.from == ListenerNamespacesFrom::Selector);
    let of_routes = listeners.iter_mut().map(|listener| &mut listener.allowed_routes.namespaces);
    let of_routes = of_routes.filter(|it| it.from == RouteNamespacesFrom::Selector);
    let all = of_routes.map(|it| &mut it.selector).chain(allowed.map(|it| &mut it.selector));
    all.filter(|selector| selector.is_some()).collect()
}

/// What every API server labels a namespace with.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

#[cfg(test)]
mod tests;
