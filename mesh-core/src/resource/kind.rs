//! Which kinds there are, what the mesh does with each, and in which versions it is served.

use super::strict::did_you_mean;
use super::tree::quote;

/// A kind that the mesh uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Namespace,
    Node,
    Pod,
    Service,
    ServiceAccount,
    EndpointSlice,
    Deployment,
    ConfigMap,
    PeerAuthentication,
    AuthorizationPolicy,
}

/// What is to be done with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Class {
    /// Read it.
    Used(Kind),
    /// A user expects an effect that the mesh does not have yet.
    NotEnforced,
    /// Belongs to something else than the mesh.
    NotUsed,
    /// Is in no version that exists: the field to blame, the reason and a hint.
    Wrong { field: &'static str, reason: String, hint: Option<String> },
}

impl Kind {
    /// As `kind:` spells it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::ServiceAccount => "ServiceAccount",
            Self::EndpointSlice => "EndpointSlice",
            Self::Deployment => "Deployment",
            Self::ConfigMap => "ConfigMap",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
        }
    }

    /// Whether its objects live in a namespace.
    pub(super) fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }

    /// Whether its name must be a DNS label (no dots, at most 63 characters) and not just a DNS subdomain.
    pub(super) fn is_named_by_label(self) -> bool {
        matches!(self, Self::Namespace | Self::Service)
    }

    /// Whether it is one of Istio's, whose schemas refuse null where Kubernetes' types take it as absent.
    pub(super) fn is_istio(self) -> bool {
        matches!(self, Self::PeerAuthentication | Self::AuthorizationPolicy)
    }

    fn group(self) -> &'static str {
        match self {
            Self::EndpointSlice => "discovery.k8s.io",
            Self::Deployment => "apps",
            Self::PeerAuthentication | Self::AuthorizationPolicy => "security.istio.io",
            _ => "",
        }
    }

    /// Served versions, the one to recommend first.
    fn versions(self) -> &'static [&'static str] {
        if self.is_istio() { &["v1", "v1beta1"] } else { &["v1"] }
    }

    fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Decides what `api_version` and `kind` ask for.
pub(super) fn classify(api_version: &str, kind: &str) -> Class {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    if let Some(known) = Kind::named(kind) {
        if known.group() == group {
            return if known.versions().contains(&version) {
                Class::Used(known)
            } else {
                wrong_version(known)
            };
        }
        // A Pod of group `apps` is a slip of the pen; a Service of `serving.knative.dev` is another kind.
        if CLOSED.iter().any(|(name, _)| *name == group) {
            return wrong_version(known);
        }
    }
    match CLOSED.iter().find(|(name, _)| *name == group) {
        Some((_, kinds)) if kinds.contains(&kind) => {
            if is_istio_group(group) {
                Class::NotEnforced
            } else {
                Class::NotUsed
            }
        }
        Some((_, kinds)) => unknown_kind(api_version, kind, kinds),
        None if is_istio_group(group) || group == "gateway.networking.k8s.io" => Class::NotEnforced,
        None => Class::NotUsed,
    }
}

/// The kind of the items of a list kind (`PodList`), empty for the universal `List`; `None` if it is no list.
pub(super) fn list_items(kind: &str) -> Option<&str> {
    kind.strip_suffix("List")
}

/// All names that did-you-mean knows.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ALL.into_iter().map(Kind::name)
}

fn is_istio_group(group: &str) -> bool {
    group.ends_with(".istio.io") && group != "install.istio.io"
}

fn wrong_version(kind: Kind) -> Class {
    let (group, separator) = (kind.group(), if kind.group().is_empty() { "" } else { "/" });
    let served: Vec<String> =
        kind.versions().iter().map(|version| format!("{group}{separator}{version}")).collect();
    Class::Wrong {
        field: "apiVersion",
        reason: format!("{} is not served in this version", kind.name()),
        hint: Some(format!("use {}", served.join(" or "))),
    }
}

fn unknown_kind(api_version: &str, kind: &str, kinds: &[&str]) -> Class {
    let reason = format!("there is no kind {} in {}", quote(kind), quote(api_version));
    let hint = did_you_mean(kind, kinds).or_else(|| did_you_mean(kind, &names().collect::<Vec<_>>()));
    Class::Wrong { field: "kind", reason, hint }
}

const ALL: [Kind; 10] = [
    Kind::Namespace,
    Kind::Node,
    Kind::Pod,
    Kind::Service,
    Kind::ServiceAccount,
    Kind::EndpointSlice,
    Kind::Deployment,
    Kind::ConfigMap,
    Kind::PeerAuthentication,
    Kind::AuthorizationPolicy,
];

/// Groups whose kinds are all known, so that any other kind in them is a mistake.
const CLOSED: [(&str, &[&str]); 5] = [
    (
        "",
        &[
            "Binding",
            "ComponentStatus",
            "ConfigMap",
            "Endpoints",
            "Event",
            "LimitRange",
            "Namespace",
            "Node",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "Pod",
            "PodTemplate",
            "ReplicationController",
            "ResourceQuota",
            "Secret",
            "Service",
            "ServiceAccount",
        ],
    ),
    ("apps", &["ControllerRevision", "DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"]),
    ("discovery.k8s.io", &["EndpointSlice"]),
    (
        "networking.istio.io",
        &[
            "DestinationRule",
            "EnvoyFilter",
            "Gateway",
            "ProxyConfig",
            "ServiceEntry",
            "Sidecar",
            "VirtualService",
            "WorkloadEntry",
            "WorkloadGroup",
        ],
    ),
    ("security.istio.io", &["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"]),
];
