//! Which policies there are, and which of them are for which workload.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::report::Topic;
use super::selector::{SelectorIndex, selects};
use super::{Name, Report, World};
use crate::model::{Config, Record, RecordKey};
use crate::policy::compile::{
    Inherited, TrustDomains, authorization, has_targets, labels, mutual_tls, name_of,
};
use crate::policy::{Policy, PolicyName, Scope, mutual_tls_key};
use crate::resource::security::{MutualTlsMode, PeerAuthenticationSpec};
use crate::resource::{Object, Spec};

/// All policy resources.
#[derive(Debug, Default)]
pub(super) struct Policies {
    authorization: HashMap<Name, Arc<Object>>,
    /// Those that take part in decisions and have a selector; the root namespace's under [`EVERYWHERE`].
    authorization_selectors: SelectorIndex<Arc<PolicyName>>,
    peers: HashMap<Name, Arc<Object>>,
    /// Without a selector, by namespace, the oldest first; the mesh's under [`EVERYWHERE`].
    peers_by_namespace: HashMap<Arc<str>, BTreeSet<Aged>>,
    peer_selectors: SelectorIndex<Aged>,
    /// Keys of what those of a namespace come to; absent if they refuse nothing.
    mutual_tls: HashMap<Name, Arc<PolicyName>>,
}

/// Age decides between policies of one scope: the oldest is in force.
type Aged = (Option<i64>, Name);

impl World {
    pub(super) fn put_authorization(&mut self, name: &Name, object: Object) {
        self.drop_authorization(name);
        let mut object = object;
        // Waypoints and gateways compile it themselves.
        let travels = matches!(&object.spec, Spec::AuthorizationPolicy(spec) if has_targets(spec));
        let config = if travels { Config::of(&object) } else { None };
        self.emit(
            RecordKey::Config(Arc::new(object.key())),
            config.map(|config| Record::Config(Arc::new(config))),
        );
        object.spec_json = None;
        let object = Arc::new(object);
        self.policies.authorization.insert(name.clone(), Arc::clone(&object));
        self.compile_authorization(&object);
    }

    pub(super) fn drop_authorization(&mut self, name: &Name) {
        let Some(old) = self.policies.authorization.remove(name) else { return };
        self.unlist_authorization(&old);
        self.emit(RecordKey::Policy(name_of(&old)), None);
        self.emit(RecordKey::Config(Arc::new(old.key())), None);
    }

    /// Compiles all of them again, because what they are compiled with has changed.
    pub(super) fn recompile_authorization(&mut self) {
        let all: Vec<_> = self.policies.authorization.values().cloned().collect();
        all.iter().for_each(|object| self.compile_authorization(object));
    }

    fn compile_authorization(&mut self, object: &Arc<Object>) {
        let Spec::AuthorizationPolicy(spec) = &object.spec else { return };
        self.unlist_authorization(object);
        let mut report = Report::default();
        let trust_domains = TrustDomains { own: &self.mesh.trust_domain, aliases: &self.mesh.aliases };
        let policy = authorization(object, spec, (&self.options.root_namespace, trust_domains), &mut report);
        self.findings.set(&object.key(), Topic::Itself, report);
        let listed = policy.as_ref().filter(|policy| policy.scope == Scope::Listed).map(Policy::key);
        if let (Some(key), Some(selector)) = (listed, labels(spec.selector.as_ref())) {
            let namespace = self.scope_of(&object.meta.namespace);
            let selector = Arc::new(selector.clone());
            self.mark_selected(&namespace, &selector);
            self.policies.authorization_selectors.insert(&namespace, selector, key);
        }
        let record = policy.map(|policy| Record::Policy(Arc::new(policy)));
        self.emit(RecordKey::Policy(name_of(object)), record);
    }

    fn unlist_authorization(&mut self, object: &Object) {
        let Spec::AuthorizationPolicy(spec) = &object.spec else { return };
        let Some(selector) = labels(spec.selector.as_ref()) else { return };
        let namespace = self.scope_of(&object.meta.namespace);
        self.policies.authorization_selectors.remove(&namespace, selector, &name_of(object));
        self.mark_selected(&namespace, selector);
    }

    pub(super) fn put_peer_authentication(&mut self, name: &Name, object: Object) {
        self.drop_peer_authentication(name);
        let Spec::PeerAuthentication(spec) = &object.spec else { return };
        let aged = (object.meta.creation_timestamp, name.clone());
        let is_root = *name.namespace == *self.options.root_namespace;
        match labels(spec.selector.as_ref()) {
            // Has no effect there, which is a finding.
            Some(_) if is_root => {}
            Some(selector) => {
                self.policies.peer_selectors.insert(&name.namespace, Arc::new(selector.clone()), aged);
            }
            None => {
                let namespace = self.scope_of(&name.namespace);
                self.policies.peers_by_namespace.entry(namespace).or_default().insert(aged);
            }
        }
        self.policies.peers.insert(name.clone(), Arc::new(object));
        self.dirty.peers.insert(self.scope_of(&name.namespace));
    }

    pub(super) fn drop_peer_authentication(&mut self, name: &Name) {
        let Some(old) = self.policies.peers.remove(name) else { return };
        let Spec::PeerAuthentication(spec) = &old.spec else { return };
        let aged = (old.meta.creation_timestamp, name.clone());
        if let Some(selector) = labels(spec.selector.as_ref()) {
            self.policies.peer_selectors.remove(&name.namespace, selector, &aged);
        }
        let namespace = self.scope_of(&name.namespace);
        if let Some(scope) = self.policies.peers_by_namespace.get_mut(&namespace) {
            scope.remove(&aged);
            if scope.is_empty() {
                self.policies.peers_by_namespace.remove(&namespace);
            }
        }
        self.policies.mutual_tls.remove(name);
        self.emit(RecordKey::Policy(mutual_tls_key(&name_of(&old))), None);
        self.dirty.peers.insert(namespace);
    }

    /// Works out the `PeerAuthentications` of a scope (or all, for the mesh's) again, and marks whom they concern.
    pub(super) fn recompile_peers(&mut self, scope: &str) {
        let concerned: Vec<_> = self
            .policies
            .peers
            .iter()
            .filter(|(name, _)| scope == EVERYWHERE || *name.namespace == *scope)
            .map(|(name, object)| (name.clone(), Arc::clone(object)))
            .collect();
        for (name, object) in concerned {
            self.compile_peer(&name, &object);
        }
        self.mark_namespace(scope);
    }

    fn compile_peer(&mut self, name: &Name, object: &Object) {
        let Spec::PeerAuthentication(spec) = &object.spec else { return };
        let mut report = Report::default();
        let own = labels(spec.selector.as_ref()).is_some();
        let is_root = *name.namespace == *self.options.root_namespace;
        let policy = if own {
            mutual_tls(object, spec, self.inherited(&name.namespace), &mut report)
        } else {
            // Ports are a workload's business; an unset mode leaves the word to the wider scope.
            let whole = PeerAuthenticationSpec { port_level_mtls: BTreeMap::new(), ..spec.clone() };
            mutual_tls(object, &whole, Inherited::Permissive, &mut report)
        };
        if own && is_root {
            let reason = "a PeerAuthentication with a selector has no effect in the root namespace";
            report.warning(object, "spec.selector", reason);
        } else if let Some(winner) = self.older_in_scope(name, own) {
            let reason =
                format!("has no effect: PeerAuthentication {winner} has the same scope and is older");
            report.warning(object, "spec", reason);
        }
        self.findings.set(&object.key(), Topic::Itself, report);
        let policy = policy.map(Arc::new);
        match &policy {
            Some(policy) => self.policies.mutual_tls.insert(name.clone(), policy.key()),
            None => self.policies.mutual_tls.remove(name),
        };
        self.emit(RecordKey::Policy(mutual_tls_key(&name_of(object))), policy.map(Record::Policy));
    }

    fn older_in_scope(&self, name: &Name, own: bool) -> Option<&Name> {
        let (_, winner) = self.policies.peers_by_namespace.get(&self.scope_of(&name.namespace))?.first()?;
        Some(winner).filter(|winner| !own && *winner != name)
    }

    /// Keys of the policies that select a workload, sorted.
    pub(super) fn policies_of(
        &self,
        name: &Name,
        workload: &BTreeMap<String, String>,
    ) -> Vec<Arc<PolicyName>> {
        let selectors = &self.policies.authorization_selectors;
        let mut keys = selectors.matching(EVERYWHERE, workload);
        keys.extend(selectors.matching(&name.namespace, workload));
        keys.extend(self.mutual_tls_of(name, workload).cloned());
        keys.sort();
        keys.shrink_to_fit();
        keys
    }

    /// What refuses plaintext to a workload: the narrowest `PeerAuthentication` that says anything decides.
    fn mutual_tls_of(&self, name: &Name, workload: &BTreeMap<String, String>) -> Option<&Arc<PolicyName>> {
        let own = self.policies.peer_selectors.matching(&name.namespace, workload);
        let own = own.first().map(|(_, name)| name).filter(|name| self.says_anything(name));
        let policy = own.or_else(|| self.in_force(&name.namespace))?;
        self.policies.mutual_tls.get(policy)
    }

    /// The `PeerAuthentication` that decides for workloads without one of their own.
    fn in_force(&self, namespace: &str) -> Option<&Name> {
        [namespace, EVERYWHERE].into_iter().find_map(|scope| {
            let (_, oldest) = self.policies.peers_by_namespace.get(scope)?.first()?;
            Some(oldest).filter(|name| self.says_anything(name))
        })
    }

    fn inherited(&self, namespace: &str) -> Inherited {
        let policy = self.in_force(namespace).and_then(|name| self.policies.peers.get(name));
        match policy.map(|object| &object.spec) {
            Some(Spec::PeerAuthentication(spec))
                if spec.mtls.unwrap_or_default().mode == MutualTlsMode::Strict =>
            {
                Inherited::Strict
            }
            _ => Inherited::Permissive,
        }
    }

    fn says_anything(&self, name: &Name) -> bool {
        let Some(Spec::PeerAuthentication(spec)) = self.policies.peers.get(name).map(|object| &object.spec)
        else {
            return false;
        };
        let ports = labels(spec.selector.as_ref()).is_some()
            && spec.port_level_mtls.values().any(|mtls| mtls.mode != MutualTlsMode::Unset);
        ports || spec.mtls.unwrap_or_default().mode != MutualTlsMode::Unset
    }

    /// Policies of the root namespace are the mesh's.
    fn scope_of(&self, namespace: &Arc<str>) -> Arc<str> {
        if **namespace == *self.options.root_namespace { EVERYWHERE.into() } else { Arc::clone(namespace) }
    }

    fn mark_selected(&mut self, scope: &str, selector: &BTreeMap<String, String>) {
        let namespace = Some(scope).filter(|scope| *scope != EVERYWHERE);
        let candidates = self.pods_by_label.candidates(namespace, selector);
        let selected =
            candidates.filter(|name| self.pods.get(name).is_some_and(|pod| selects(selector, &pod.labels)));
        self.dirty.pods.extend(selected.cloned());
        self.mark_machines(namespace, selector);
    }

    pub(super) fn mark_namespace(&mut self, scope: &str) {
        let all: Vec<_> = self.pods_in(scope).cloned().collect();
        self.dirty.pods.extend(all);
        self.mark_workload_entries_of(Some(scope).filter(|scope| *scope != EVERYWHERE));
    }

    fn pods_in(&self, scope: &str) -> Box<dyn Iterator<Item = &Name> + '_> {
        if scope == EVERYWHERE {
            Box::new(self.pods.keys())
        } else {
            Box::new(self.pods_by_namespace.get(scope).into_iter().flatten())
        }
    }
}

/// No namespace has an empty name.
pub(super) const EVERYWHERE: &str = "";
