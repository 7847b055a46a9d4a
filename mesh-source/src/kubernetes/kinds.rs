//! Which kinds are watched, and which of their objects.

use mesh_core::resource::ServedKind;

/// A kind that is watched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watched {
    pub(super) kind: ServedKind,
    /// What the API server should leave out; empty for nothing.
    pub(super) fields: &'static str,
    pub(super) content: Content,
}

/// How much of an object is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// All of it.
    Whole,
    /// Metadata; the rest of those objects that somebody wants.
    OnDemand,
    /// Metadata: that it exists is all there is to know.
    Never,
}

/// The kinds that a [`super::Kubernetes`] watches: what a cluster must allow it to `list` and `watch`, and whether to
/// `get`, because content is read on demand.
pub fn watched_kinds() -> impl Iterator<Item = (ServedKind, bool)> {
    watched().map(|watched| (watched.kind, watched.content == Content::OnDemand))
}

pub(super) fn watched() -> impl Iterator<Item = Watched> {
    ServedKind::all().filter(|kind| !PASSED_OVER.contains(&kind.key())).map(|kind| {
        let (fields, content) = match kind.key() {
            // What has ended has no address any more.
            "Pod" => ("status.phase!=Succeeded,status.phase!=Failed", Content::Whole),
            "ConfigMap" => ("", Content::OnDemand),
            // The control plane must not hold every password of its cluster. A field selector on the type would not be
            // enough: credentials that Istio takes are of two types, one of which everything else is of, too. These two
            // are never ours, and there are many of them.
            "Secret" => {
                ("type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token", Content::OnDemand)
            }
            _ if kind.is_supported() => ("", Content::Whole),
            _ => ("", Content::Never),
        };
        Watched { kind, fields, content }
    })
}

/// What is listed where nothing is watched: also Deployments, of which a cluster can be asked what they promise; and
/// nothing of which the content is on demand.
pub(super) fn listed() -> impl Iterator<Item = Watched> {
    let deployments = ServedKind::all().filter(|kind| kind.key() == "Deployment");
    let deployments = deployments.map(|kind| Watched { kind, fields: "", content: Content::Whole });
    watched().filter(|watched| watched.content != Content::OnDemand).chain(deployments)
}

impl Content {
    /// Whether the server is asked for metadata only.
    pub(super) fn is_metadata(self) -> bool {
        self != Self::Whole
    }
}

/// Kinds that only mean something in a directory: a cluster has made Pods of its Deployments, and names the service
/// account in each.
const PASSED_OVER: [&str; 2] = ["Deployment", "ServiceAccount"];

#[cfg(test)]
mod tests;
