//! Who may name what is in another namespace.

use std::collections::BTreeMap;

use super::GROUP;
use crate::resource::gateway_api::ReferenceGrantSpec;

/// All `ReferenceGrants`.
#[derive(Debug, Default)]
pub struct Grants<'a> {
    by_namespace: BTreeMap<&'a str, Vec<&'a ReferenceGrantSpec>>,
}

/// What is referred to.
#[derive(Debug, Clone, Copy)]
pub struct Referred<'r> {
    /// Empty for Kubernetes' core group.
    pub group: &'r str,
    /// For example `Service`.
    pub kind: &'r str,
    /// Where it is.
    pub namespace: &'r str,
    /// Its name.
    pub name: &'r str,
}

impl<'a> Grants<'a> {
    /// Adds one of `namespace`.
    pub fn add(&mut self, namespace: &'a str, grant: &'a ReferenceGrantSpec) {
        self.by_namespace.entry(namespace).or_default().push(grant);
    }

    /// Whether objects of the Gateway API of kind `kind` in `namespace` may refer to `to`: nobody needs leave to refer to
    /// what is in its own namespace.
    pub fn permit(&self, kind: &str, namespace: &str, to: Referred<'_>) -> bool {
        if namespace == to.namespace {
            return true;
        }
        let mut grants = self.by_namespace.get(to.namespace).into_iter().flatten();
        grants.any(|grant| {
            let from = grant
                .from
                .iter()
                .any(|it| *it.group == *GROUP && *it.kind == *kind && *it.namespace == *namespace);
            let named = |name: &str| name == to.name;
            from && grant.to.iter().any(|it| {
                *it.group == *to.group && *it.kind == *to.kind && it.name.as_deref().is_none_or(named)
            })
        })
    }
}
