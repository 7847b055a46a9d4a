//! Which Services a workload stands behind.

use std::collections::HashMap;

use k8s_openapi::api::core::v1 as kube;

use super::workloads::{Labels, selects};
use crate::resource::{Object, Spec};

/// Services with a selector, filed under its first label, so that few are compared.
#[derive(Debug, Default)]
pub(super) struct Backing<'a>(HashMap<Label<'a>, Vec<Backed<'a>>>);

/// Namespace, key and value.
type Label<'a> = (&'a str, &'a str, &'a str);

/// A Service and what it selects.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backed<'a> {
    pub(super) object: &'a Object,
    pub(super) ports: &'a [kube::ServicePort],
    selector: &'a Labels,
}

impl<'a> Backing<'a> {
    pub(super) fn of(objects: &'a [Object]) -> Self {
        let mut backing = Self::default();
        for object in objects {
            let Spec::Service(service) = &object.spec else { continue };
            let Some(spec) = &service.spec else { continue };
            let selector = spec.selector.as_ref();
            if let Some((selector, (key, value))) = selector.and_then(|it| Some((it, it.iter().next()?))) {
                let ports = spec.ports.as_deref().unwrap_or_default();
                let services = backing.0.entry((&object.meta.namespace, key, value)).or_default();
                services.push(Backed { object, ports, selector });
            }
        }
        backing
    }

    /// The Services of `namespace` that select a workload with these labels.
    pub(super) fn services<'s>(
        &'s self,
        namespace: &'s str,
        labels: &'s Labels,
    ) -> impl Iterator<Item = Backed<'a>> + 's {
        let filed = labels.iter().filter_map(move |(key, value)| self.0.get(&(namespace, key, value)));
        filed.flatten().filter(|service| selects(service.selector, labels)).copied()
    }
}
