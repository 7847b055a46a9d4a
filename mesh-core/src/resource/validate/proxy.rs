//! What proxies are set to, and the certificates that they show.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::mesh_config::ProxyConfig;
use super::super::secret::{Secret, SecretKind};
use super::super::tree::Problem;
use super::super::{Level, ProxyConfigSpec};
use super::security::selector;
use super::{Report, child};

pub(super) fn proxy_config(spec: &ProxyConfigSpec, report: &mut Report<'_>) {
    if let Some(selector) = &spec.selector {
        self::selector(selector, report);
    }
    let reason = "ProxyConfig is about a proxy per pod, of which there are none: this document has no effect";
    report.warning("", reason);
    let field = "spec.environmentVariables";
    for (name, value) in &spec.environment_variables {
        if name.is_empty() {
            report.error(child(field, name), "a variable must have a name");
        }
        if value.chars().count() > 2048 {
            report.error(child(field, name), "has more than 2048 characters");
        }
    }
}

/// The annotation by which a pod has its own settings. It cannot cost the pod: what is wrong in it does not count.
pub(super) fn annotation(metadata: &ObjectMeta, report: &mut Report<'_>) {
    let Some(text) =
        metadata.annotations.as_ref().and_then(|annotations| annotations.get(ProxyConfig::ANNOTATION))
    else {
        return;
    };
    let (_, problems) = ProxyConfig::read_annotation(text);
    for problem in problems {
        let level = problem.level.min(Level::Warning);
        report.push(problem.field.clone(), |field| Problem { level, field, ..problem });
    }
}

pub(super) fn secret(secret: &Secret, report: &mut Report<'_>) {
    if secret.kind != SecretKind::Tls && secret.is_empty() {
        let reason = "Secret holds no certificate: it is not used by the mesh";
        report.push("", |field| Problem { level: Level::Info, ..Problem::error(field, reason) });
    }
    match (&secret.certificate, &secret.key) {
        (Some(_), None) => report.warning("data", "has a certificate without its key"),
        (None, Some(_)) => report.warning("data", "has a key without its certificate"),
        _ => {}
    }
}
