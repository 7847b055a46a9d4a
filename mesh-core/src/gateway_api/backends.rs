//! `BackendTLSPolicies`: which of them decides about a port of a Service, and whom it has trusted.

use std::sync::Arc;

use super::place;
use crate::cluster::{BackendTls, BackendTrust};
use crate::resource::gateway_api::{BackendTlsPolicySpec, CaSource, LocalPolicyTarget, SubjectAltName};
use crate::resource::{Object, ObjectKey};

/// A BackendTLSPolicy.
#[derive(Debug, Clone, Copy)]
pub struct BackendPolicy<'a> {
    /// What stands around its spec.
    pub object: &'a Object,
    /// What it says.
    pub spec: &'a BackendTlsPolicySpec,
}

/// Why an authority that a policy names cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaFault {
    /// It is neither a ConfigMap nor a Secret.
    InvalidKind,
    /// It is not there, or has no authority.
    InvalidCaCertificateRef,
}

/// The policy that decides about the port `port` of Service `service`, among those of its namespace: one that names the port
/// comes before those that do not, then the oldest, then the first by name.
pub fn deciding<'a>(
    policies: impl IntoIterator<Item = BackendPolicy<'a>>,
    service: &str,
    port: Option<&str>,
) -> Option<BackendPolicy<'a>> {
    let named = |target: &LocalPolicyTarget| target.is_service() && *target.name == *service;
    let section = |policy: &BackendPolicy<'a>| {
        let fitting = policy.spec.target_refs.iter().filter(|target| named(target));
        let sections = fitting.map(|target| target.section_name.as_deref());
        sections.filter(|section| section.is_none() || *section == port).max()
    };
    let fitting = policies.into_iter().filter_map(|policy| Some((section(&policy)?, policy)));
    let first = fitting.min_by_key(|(section, policy)| (section.is_none(), place(policy.object)));
    first.map(|(_, policy)| policy)
}

impl<'a> BackendPolicy<'a> {
    /// The Services that it is for, each with the port that it names.
    pub fn targets(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> + use<'a> {
        let targets = self.spec.target_refs.iter().filter(|target| target.is_service());
        targets.map(|target| (&*target.name, target.section_name.as_deref()))
    }

    /// The objects that hold the authorities, or why one that is named cannot.
    pub fn authorities(&self) -> impl Iterator<Item = (&'a str, Result<ObjectKey, CaFault>)> + use<'a> {
        let refs = match &self.spec.validation.ca {
            CaSource::Refs(refs) => &**refs,
            CaSource::System | CaSource::Named(_) => &[],
        };
        let namespace = Arc::clone(&self.object.meta.namespace);
        refs.iter().map(move |it| {
            let kind = ["ConfigMap", "Secret"].into_iter().find(|kind| *it.kind == **kind);
            let kind = kind.filter(|_| it.group.is_empty()).ok_or(CaFault::InvalidKind);
            let key = kind.map(|kind| ObjectKey {
                kind,
                namespace: Arc::clone(&namespace),
                name: Arc::from(&*it.name),
            });
            (&*it.name, key)
        })
    }

    /// What it asks of clients; `read` knows what authorities an object has, as PEM. One that is not there is left out: with
    /// none left, nobody is trusted.
    pub(crate) fn tls(&self, read: impl Fn(&ObjectKey) -> Option<Vec<u8>>) -> BackendTls {
        let validation = &self.spec.validation;
        let trust = match &validation.ca {
            CaSource::System => BackendTrust::System,
            CaSource::Named(_) => BackendTrust::Nobody,
            CaSource::Refs(_) => {
                let all = self.authorities().filter_map(|(_, key)| read(&key.ok()?));
                let all: Vec<_> = all.filter_map(|text| String::from_utf8(text).ok()).collect();
                if all.is_empty() {
                    BackendTrust::Nobody
                } else {
                    BackendTrust::Authorities(all.join("\n").into())
                }
            }
        };
        let name = |name: &SubjectAltName| match name {
            SubjectAltName::Hostname(host) => Arc::from(&**host),
            SubjectAltName::Uri(uri) => Arc::clone(uri),
        };
        let subject_alt_names = validation.subject_alt_names.iter().map(name).collect();
        BackendTls { hostname: Arc::from(&*validation.hostname), subject_alt_names, trust }
    }
}
