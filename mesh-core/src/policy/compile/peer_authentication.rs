//! PeerAuthentication: mesh < namespace < workload < port, the oldest of each level wins.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::rule::MutualTls;
use super::{EVERYWHERE, PolicyInput, PolicyName, labels, name_of};
use crate::model::{Report, SelectorIndex, Workload};
use crate::resource::security::{MutualTlsMode, PeerAuthenticationSpec};
use crate::resource::{Object, Spec};

/// All `PeerAuthentications` that count.
pub(super) struct Modes<'a> {
    /// Oldest first; everything else refers to them by index.
    policies: Vec<(&'a PeerAuthenticationSpec, Arc<PolicyName>)>,
    /// Without a selector: the oldest of each namespace; [`EVERYWHERE`] for the mesh.
    by_namespace: HashMap<&'a str, usize>,
    by_selector: SelectorIndex<'a>,
}

/// The policies that apply to a workload, as indices: the mesh's, the namespace's and its own.
pub(super) type Levels = [Option<usize>; 3];

impl<'a> Modes<'a> {
    pub(super) fn compile(input: &PolicyInput<'a>, report: &mut Report) -> Self {
        let mut sorted: Vec<_> = input
            .objects
            .iter()
            .filter_map(|object| match &object.spec {
                Spec::PeerAuthentication(spec) => Some((*object, spec)),
                _ => None,
            })
            .collect();
        sorted.sort_by_key(|(object, _)| {
            (object.meta.creation_timestamp, &object.meta.namespace, &object.meta.name)
        });
        let mut modes = Self {
            policies: Vec::new(),
            by_namespace: HashMap::new(),
            by_selector: SelectorIndex::default(),
        };
        for (index, (object, spec)) in sorted.into_iter().enumerate() {
            modes.policies.push((spec, name_of(object)));
            warn_about_modes(object, spec, report);
            let is_root = *object.meta.namespace == *input.root_namespace;
            match labels(spec.selector.as_ref()) {
                Some(_) if is_root => {
                    let reason = "a PeerAuthentication with a selector has no effect in the root namespace";
                    report.warning(object, "spec.selector", reason);
                }
                Some(labels) => modes.by_selector.insert(&object.meta.namespace, labels, index),
                None => {
                    let namespace = if is_root { EVERYWHERE } else { &object.meta.namespace };
                    let oldest = *modes.by_namespace.entry(namespace).or_insert(index);
                    modes.warn_if_younger(object, oldest, index, report);
                }
            }
        }
        modes
    }

    pub(super) fn applying_to(&self, workload: &Workload) -> Levels {
        let own = self.by_selector.matching(&workload.namespace, &workload.labels);
        [
            self.by_namespace.get(EVERYWHERE).copied(),
            self.by_namespace.get(&*workload.namespace).copied(),
            own.first().copied(),
        ]
    }

    /// What the levels come to: the narrowest that says anything decides.
    pub(super) fn resolve(&self, levels: Levels) -> MutualTls {
        let policies = levels.iter().flatten().filter_map(|index| self.policies.get(*index));
        let strict = policies.fold(None, |inherited, (spec, name)| {
            apply(spec.mtls.unwrap_or_default().mode, name).unwrap_or(inherited)
        });
        let own = levels[2].and_then(|index| self.policies.get(index));
        let ports = own.into_iter().flat_map(|(spec, name)| {
            let port_modes = spec.port_level_mtls.iter();
            port_modes.filter_map(|(port, mtls)| Some((*port, apply(mtls.mode, name)?)))
        });
        MutualTls { ports: ports.collect(), strict }
    }

    fn warn_if_younger(&self, object: &Object, oldest: usize, index: usize, report: &mut Report) {
        if let Some((_, winner)) = self.policies.get(oldest).filter(|_| oldest != index) {
            let reason =
                format!("has no effect: PeerAuthentication {winner} has the same scope and is older");
            report.warning(object, "spec", reason);
        }
    }
}

/// `None` to inherit, else by whose word plaintext is refused, if it is.
#[expect(clippy::option_option, reason = "inherit, permissive and strict are three outcomes")]
fn apply(mode: MutualTlsMode, name: &Arc<PolicyName>) -> Option<Option<Arc<PolicyName>>> {
    match mode {
        MutualTlsMode::Unset => None,
        MutualTlsMode::Permissive | MutualTlsMode::Disable => Some(None),
        MutualTlsMode::Strict => Some(Some(Arc::clone(name))),
    }
}

fn warn_about_modes(object: &Object, spec: &PeerAuthenticationSpec, report: &mut Report) {
    let whole = spec.mtls.map(|mtls| ("spec.mtls.mode".to_owned(), mtls.mode));
    let ports = spec.port_level_mtls.iter();
    let ports = ports.map(|(port, mtls)| (format!("spec.portLevelMtls[{port}].mode"), mtls.mode));
    for (field, _) in whole.into_iter().chain(ports).filter(|(_, mode)| *mode == MutualTlsMode::Disable) {
        let reason = "DISABLE is treated as PERMISSIVE: peers of the mesh always use mTLS";
        report.warning(object, field, reason);
    }
}
