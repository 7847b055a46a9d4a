//! PeerAuthentication → a [`Policy`] that refuses plaintext, so that one engine (and any proxy that knows policies
//! only) decides. Which one is in force for a workload is decided where workloads are: mesh < namespace < workload.

use super::super::matcher::StringMatch;
use super::super::rule::{Clause, Effect, Group, Matcher, Policy, Rule, Scope};
use super::name_of;
use crate::model::Report;
use crate::resource::Object;
use crate::resource::security::{MutualTlsMode, PeerAuthenticationSpec};

/// What a workload's namespace and mesh say about plaintext, for modes that are unset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inherited {
    Strict,
    Permissive,
}

/// Compiles what `spec` comes to; `None` if it refuses nothing.
pub(crate) fn mutual_tls(
    object: &Object,
    spec: &PeerAuthenticationSpec,
    inherited: Inherited,
    report: &mut Report,
) -> Option<Policy> {
    warn_about_modes(object, spec, report);
    let strict = is_strict(spec.mtls.unwrap_or_default().mode, inherited);
    let outer = if strict { Inherited::Strict } else { Inherited::Permissive };
    let differing = spec.port_level_mtls.iter().filter(|(_, mtls)| is_strict(mtls.mode, outer) != strict);
    let ports: Vec<u16> = differing.map(|(port, _)| *port).collect();
    let is_port = Clause { negated: strict, matcher: Matcher::DestinationPort(ports.clone()) };
    let groups = match (strict, ports.is_empty()) {
        (false, true) => return None,
        (true, true) => vec![without_identity()],
        (_, false) => vec![without_identity(), Group(vec![vec![is_port]])],
    };
    let rules = vec![Rule { index: 0, groups }];
    Some(Policy {
        name: name_of(object),
        effect: Effect::MutualTls,
        dry_run: false,
        scope: Scope::Listed,
        selector: None,
        provider: None,
        rules,
    })
}

fn without_identity() -> Group {
    let matcher = Matcher::Principal(vec![StringMatch::Present]);
    Group(vec![vec![Clause { negated: true, matcher }]])
}

fn is_strict(mode: MutualTlsMode, inherited: Inherited) -> bool {
    match mode {
        MutualTlsMode::Unset => inherited == Inherited::Strict,
        MutualTlsMode::Permissive | MutualTlsMode::Disable => false,
        MutualTlsMode::Strict => true,
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
