//! Which kinds are watched, and which of their objects.

use mesh_core::resource::ServedKind;

/// A kind that is watched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watched {
    pub(super) kind: ServedKind,
    /// What the API server should leave out; empty for nothing.
    pub(super) fields: &'static str,
    /// Whether only metadata is watched, and the rest is read of those objects that somebody wants.
    pub(super) on_demand: bool,
}

/// The kinds that a [`super::Kubernetes`] watches: what a cluster must allow it to `list` and `watch`, and to `get` if
/// `on_demand`.
pub fn watched_kinds() -> impl Iterator<Item = (ServedKind, bool)> {
    watched().map(|watched| (watched.kind, watched.on_demand))
}

pub(super) fn watched() -> impl Iterator<Item = Watched> {
    ServedKind::all().filter(|kind| !PASSED_OVER.contains(&kind.key())).map(|kind| {
        let (fields, on_demand) = match kind.key() {
            // What has ended has no address any more.
            "Pod" => ("status.phase!=Succeeded,status.phase!=Failed", false),
            "ConfigMap" => ("", true),
            // The control plane must not hold every password of its cluster. A field selector on the type would not be
            // enough: credentials that Istio takes are of two types, one of which everything else is of, too. These two
            // are never ours, and there are many of them.
            "Secret" => ("type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token", true),
            _ => ("", false),
        };
        Watched { kind, fields, on_demand }
    })
}

/// What is listed where nothing is watched: also Deployments, of which a cluster can be asked what they promise; and
/// nothing of which the content is on demand.
pub(super) fn listed() -> impl Iterator<Item = Watched> {
    let deployments = ServedKind::all().filter(|kind| kind.key() == "Deployment");
    let deployments = deployments.map(|kind| Watched { kind, fields: "", on_demand: false });
    watched().filter(|watched| !watched.on_demand).chain(deployments)
}

/// Kinds that only mean something in a directory: a cluster has made Pods of its Deployments, and names the service
/// account in each.
const PASSED_OVER: [&str; 2] = ["Deployment", "ServiceAccount"];

#[cfg(test)]
mod tests;
