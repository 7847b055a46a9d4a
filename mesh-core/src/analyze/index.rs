//! Everything that analyzers look up, found once.

use std::collections::{HashMap, HashSet};

use super::Options;
use super::backing::Backing;
use super::hosts::{CLUSTER_DOMAIN, Hosts};
use super::workloads::{Labels, Workloads};
use crate::resource::networking::{DestinationRuleSpec, GatewaySpec};
use crate::resource::{Object, ObjectKey, Parsed, Secret, Spec};

/// The objects, and ways to find them.
#[derive(Debug)]
pub(super) struct Index<'a> {
    pub(super) objects: &'a [Object],
    pub(super) options: &'a Options,
    pub(super) hosts: Hosts<'a>,
    pub(super) workloads: Workloads<'a>,
    pub(super) backing: Backing<'a>,
    /// Labels of the namespaces that are known.
    pub(super) namespaces: HashMap<&'a str, &'a Labels>,
    by_key: HashMap<ObjectKey, &'a Object>,
    /// Namespaces with a Secret.
    secret_namespaces: HashSet<&'a str>,
    refused: HashSet<&'a ObjectKey>,
    refused_kinds: HashSet<&'static str>,
    /// `DestinationRules` by the host that they are for.
    rules: HashMap<String, Vec<(&'a Object, &'a DestinationRuleSpec)>>,
}

impl<'a> Index<'a> {
    pub(super) fn of(parsed: &'a Parsed, options: &'a Options) -> Self {
        let mut namespaces: HashMap<&str, &Labels> = HashMap::new();
        let (mut by_key, mut secret_namespaces) = (HashMap::new(), HashSet::new());
        let mut rules: HashMap<String, Vec<_>> = HashMap::new();
        for object in &parsed.objects {
            by_key.entry(object.key()).or_insert(object);
            match &object.spec {
                Spec::Namespace(_) => _ = namespaces.insert(&object.meta.name, &object.meta.labels),
                Spec::Secret(_) => _ = secret_namespaces.insert(&*object.meta.namespace),
                Spec::DestinationRule(rule) => {
                    let host = rule.host.qualified(&object.meta.namespace, CLUSTER_DOMAIN).to_string();
                    rules.entry(host).or_default().push((object, &**rule));
                }
                _ => {}
            }
        }
        let refused: HashSet<_> =
            parsed.rejected.iter().filter_map(|rejected| rejected.key.as_ref()).collect();
        Self {
            objects: &parsed.objects,
            options,
            hosts: Hosts::of(parsed),
            workloads: Workloads::of(parsed, &namespaces, &options.root_namespace),
            namespaces,
            by_key,
            secret_namespaces,
            backing: Backing::of(&parsed.objects),
            refused_kinds: refused.iter().map(|key| key.kind).collect(),
            refused,
            rules,
        }
    }

    /// The object of this kind and name.
    pub(super) fn find(&self, kind: &'static str, namespace: &str, name: &str) -> Option<&'a Object> {
        self.by_key.get(&key(kind, namespace, name)).copied()
    }

    /// Whether such an object stands in the files, be it that it was refused.
    pub(super) fn exists(&self, kind: &'static str, namespace: &str, name: &str) -> bool {
        let key = key(kind, namespace, name);
        self.by_key.contains_key(&key) || self.refused.contains(&key)
    }

    /// Whether there is such an object, and nobody knows what it says.
    pub(super) fn is_refused(&self, kind: &'static str, namespace: &str, name: &str) -> bool {
        self.refused.contains(&key(kind, namespace, name))
    }

    pub(super) fn secret(&self, namespace: &str, name: &str) -> Option<&'a Secret> {
        match &self.find("Secret", namespace, name)?.spec {
            Spec::Secret(secret) => Some(secret),
            _ => None,
        }
    }

    /// Whether a Secret that is not among the objects of this namespace does not exist. Files that hold no Secret at all
    /// leave Secrets to somebody else.
    pub(super) fn knows_secrets_of(&self, namespace: &str) -> bool {
        self.options.secrets_are_complete || self.secret_namespaces.contains(namespace)
    }

    /// Whether any object of this kind was refused: then nobody knows what it would have said.
    pub(super) fn has_refused(&self, kind: &str) -> bool {
        self.refused_kinds.contains(kind)
    }

    /// Whether there are workloads that nobody knows the labels of, because what would make them was refused: then that
    /// a selector selects nothing means nothing.
    pub(super) fn has_unknown_workloads(&self) -> bool {
        ["Pod", "Deployment", "WorkloadEntry", "WorkloadGroup"].iter().any(|kind| self.has_refused(kind))
    }

    /// Whether a namespace belongs to the cluster or to the mesh itself, whose objects are not the user's to change.
    pub(super) fn is_system(&self, namespace: &str) -> bool {
        SYSTEM_NAMESPACES.contains(&namespace) || namespace == self.options.root_namespace
    }

    /// The `DestinationRules` for exactly this qualified host.
    pub(super) fn rules_for(&self, host: &str) -> &[(&'a Object, &'a DestinationRuleSpec)] {
        self.rules.get(host).map_or(&[], Vec::as_slice)
    }

    /// Istio's Gateways.
    pub(super) fn gateways(&self) -> impl Iterator<Item = (&'a Object, &'a GatewaySpec)> {
        self.objects.iter().filter_map(|object| match &object.spec {
            Spec::Gateway(gateway) => Some((object, gateway)),
            _ => None,
        })
    }
}

/// Objects in the order in which conflicts are decided: the oldest first, then by name and namespace. Those without
/// a time, which never saw an API server, come last.
pub(super) fn by_age<T>(objects: &mut [(&Object, T)]) {
    objects.sort_by(|(a, _), (b, _)| {
        let age = |object: &Object| object.meta.creation_timestamp.unwrap_or(i64::MAX);
        age(a).cmp(&age(b)).then_with(|| {
            (&a.meta.name, &a.meta.namespace, &a.origin).cmp(&(&b.meta.name, &b.meta.namespace, &b.origin))
        })
    });
}

/// The key of an object of this kind and name.
pub(super) fn key(kind: &'static str, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey { kind, namespace: namespace.into(), name: name.into() }
}

/// Namespaces that every cluster has, and where Istio is installed.
const SYSTEM_NAMESPACES: [&str; 5] =
    ["istio-system", "kube-node-lease", "kube-public", "kube-system", "local-path-storage"];
