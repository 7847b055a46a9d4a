//! Rules that a VirtualService leaves to another: of both what they ask for must hold, and what the delegate's rule does
//! not say is taken from the root's. One level deep.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use rpds::HashTrieMapSync;

use super::virtuals::exported;
use super::{ResourceName, Settings, VirtualService};
use crate::resource::networking::virtual_service::{Delegate, Headers, HttpMatch, HttpRoute};
use crate::resource::value::{GatewayName, StringMatch};

/// All `VirtualServices` that can be delegated to.
pub(super) type Delegates = HashTrieMapSync<ResourceName, Arc<VirtualService>>;

/// Those that `root` delegates to.
pub(super) fn wanted_by(root: &VirtualService) -> impl Iterator<Item = ResourceName> {
    root.spec.http.iter().filter_map(|rule| rule.delegate.as_ref()).map(|it| name_of(it, root))
}

/// The rules of `root`, with those of its delegates in their place, each with the namespace that its short names are of.
/// A delegate that is not there, or not to be seen, has none.
pub(super) fn rules<'r>(
    root: &'r VirtualService,
    delegates: &'r Delegates,
    settings: &Settings,
) -> Vec<(Cow<'r, HttpRoute>, &'r str)> {
    let mut rules = Vec::new();
    for rule in &root.spec.http {
        let Some(delegate) = &rule.delegate else {
            rules.push((Cow::Borrowed(rule), &*root.namespace));
            continue;
        };
        let seen =
            |it: &&Arc<VirtualService>| exported(&it.spec, &it.namespace, settings).is_to(&root.namespace);
        let Some(delegate) = delegates.get(&name_of(delegate, root)).filter(seen) else { continue };
        let root_rule = with_full_names(rule, &root.namespace);
        let theirs = delegate.spec.http.iter().filter(|theirs| theirs.delegate.is_none());
        let theirs = theirs.map(|theirs| with_full_names(theirs, &delegate.namespace));
        let merged = theirs.filter_map(|theirs| merge(&root_rule, theirs));
        rules.extend(merged.map(|rule| (Cow::Owned(rule), &*delegate.namespace)));
    }
    rules
}

fn name_of(delegate: &Delegate, root: &VirtualService) -> ResourceName {
    let own = delegate.namespace.is_empty();
    let namespace = if own { Arc::clone(&root.namespace) } else { delegate.namespace.as_str().into() };
    ResourceName { namespace, name: delegate.name.as_str().into() }
}

/// A rule whose gateways have their namespaces, so that they mean the same among other rules.
fn with_full_names(rule: &HttpRoute, namespace: &str) -> HttpRoute {
    let mut rule = rule.clone();
    for name in rule.matches.iter_mut().flat_map(|it| &mut it.gateways) {
        if let GatewayName::Gateway { namespace: own @ None, .. } = name {
            *own = Some(namespace.into());
        }
    }
    rule
}

/// `None` if what the delegate's rule asks for is not part of what the root's does.
fn merge(root: &HttpRoute, mut rule: HttpRoute) -> Option<HttpRoute> {
    rule.matches = merge_matches(&root.matches, rule.matches)?;
    rule.name = joined(&root.name, &rule.name);
    let acts = !rule.route.is_empty() || rule.redirect.is_some();
    if !acts && rule.direct_response.is_none() {
        rule.direct_response.clone_from(&root.direct_response);
    }
    rule.rewrite = rule.rewrite.or_else(|| root.rewrite.clone());
    rule.timeout = rule.timeout.or(root.timeout);
    rule.retries = rule.retries.or_else(|| root.retries.clone());
    rule.fault = rule.fault.or_else(|| root.fault.clone());
    rule.mirror = rule.mirror.or_else(|| root.mirror.clone());
    rule.mirror_percent = rule.mirror_percent.or(root.mirror_percent);
    rule.mirror_percentage = rule.mirror_percentage.or(root.mirror_percentage);
    if rule.mirrors.is_empty() {
        rule.mirrors.clone_from(&root.mirrors);
    }
    rule.cors_policy = rule.cors_policy.or_else(|| root.cors_policy.clone());
    if rule.headers == Headers::default() {
        rule.headers = root.headers.clone();
    }
    Some(rule)
}

fn merge_matches(root: &[HttpMatch], delegate: Vec<HttpMatch>) -> Option<Vec<HttpMatch>> {
    if root.is_empty() {
        return Some(delegate);
    }
    if delegate.is_empty() {
        return Some(root.to_vec());
    }
    let mut merged = Vec::new();
    for leaf in &delegate {
        let before = merged.len();
        let fitting = root.iter().filter(|root| !conflicts(root, leaf));
        merged.extend(fitting.map(|root| merge_match(root, leaf)));
        if merged.len() == before {
            return None;
        }
    }
    Some(merged)
}

fn merge_match(root: &HttpMatch, leaf: &HttpMatch) -> HttpMatch {
    let either =
        |leaf: &Option<StringMatch>, root: &Option<StringMatch>| leaf.clone().or_else(|| root.clone());
    let or = |leaf: &str, root: &str| if leaf.is_empty() { root.to_owned() } else { leaf.to_owned() };
    HttpMatch {
        name: joined(&root.name, &leaf.name),
        uri: either(&leaf.uri, &root.uri),
        scheme: either(&leaf.scheme, &root.scheme),
        method: either(&leaf.method, &root.method),
        authority: either(&leaf.authority, &root.authority),
        headers: both(&root.headers, &leaf.headers),
        without_headers: both(&root.without_headers, &leaf.without_headers),
        query_params: both(&root.query_params, &leaf.query_params),
        // Where they differ, they conflict.
        ignore_uri_case: leaf.ignore_uri_case,
        port: leaf.port.or(root.port),
        source_labels: both(&root.source_labels, &leaf.source_labels),
        source_namespace: or(&leaf.source_namespace, &root.source_namespace),
        gateways: if leaf.gateways.is_empty() { root.gateways.clone() } else { leaf.gateways.clone() },
        stat_prefix: or(&leaf.stat_prefix, &root.stat_prefix),
    }
}

/// Whether `leaf` may ask for something that `root` does not allow. Expressions are never compared: one next to anything
/// else is a conflict.
fn conflicts(root: &HttpMatch, leaf: &HttpMatch) -> bool {
    let line = [
        (&root.uri, &leaf.uri),
        (&root.scheme, &leaf.scheme),
        (&root.method, &leaf.method),
        (&root.authority, &leaf.authority),
    ];
    let mut line = line.into_iter().filter_map(|(root, leaf)| Some((root.as_ref()?, leaf.as_ref()?)));
    let ports = root.port.zip(leaf.port).is_some_and(|(root, leaf)| root != leaf);
    let namespaces = !root.source_namespace.is_empty() && root.source_namespace != leaf.source_namespace;
    let labels = leaf.source_labels.iter();
    let mut labels = labels.filter_map(|(key, leaf)| Some((root.source_labels.get(key)?, leaf)));
    let mut gateways = leaf.gateways.iter().filter(|_| !root.gateways.is_empty());
    line.any(|(root, leaf)| !includes(root, leaf))
        || disagree(&root.headers, &leaf.headers)
        || disagree(&root.without_headers, &leaf.without_headers)
        || disagree(&root.query_params, &leaf.query_params)
        || root.ignore_uri_case != leaf.ignore_uri_case
        || ports
        || namespaces
        || labels.any(|(root, leaf)| root != leaf)
        || gateways.any(|name| !root.gateways.contains(name))
}

fn disagree<K: Ord>(root: &BTreeMap<K, StringMatch>, leaf: &BTreeMap<K, StringMatch>) -> bool {
    leaf.iter()
        .filter_map(|(key, leaf)| Some((root.get(key)?, leaf)))
        .any(|(root, leaf)| !includes(root, leaf))
}

/// Whether all that matches `leaf` matches `root`, as far as Istio can tell.
fn includes(root: &StringMatch, leaf: &StringMatch) -> bool {
    match (root, leaf) {
        (StringMatch::Exact(root), StringMatch::Exact(leaf)) => root == leaf,
        (StringMatch::Prefix(root), StringMatch::Exact(leaf) | StringMatch::Prefix(leaf)) => {
            leaf.starts_with(root.as_str())
        }
        _ => false,
    }
}

fn both<K: Ord + Clone, V: Clone>(root: &BTreeMap<K, V>, leaf: &BTreeMap<K, V>) -> BTreeMap<K, V> {
    root.iter().chain(leaf).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn joined(root: &str, leaf: &str) -> String {
    let parts = [root, leaf].into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-")
}
