//! Which kinds there are, what the mesh does with each, and in which versions it is served.

use super::strict::did_you_mean;
use super::tree::quote;

/// What [`kinds!`] says of a kind.
struct Row {
    /// As `kind:` spells it. Not unique: Istio and Kubernetes both have a Gateway.
    name: &'static str,
    /// As object keys spell it: the name of the variant, which is unique.
    key: &'static str,
    /// Empty for Kubernetes' core group.
    group: &'static str,
    /// Served versions, the one to recommend first.
    versions: &'static [&'static str],
    scope: Scope,
    naming: Naming,
    schema: Schema,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Cluster,
    Namespaced,
}

/// What `metadata.name` must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// A DNS label: no dots, at most 63 characters.
    Label,
    /// A DNS subdomain.
    Subdomain,
}

/// What null means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Schema {
    /// A type of Kubernetes' own API: null is absent.
    Native,
    /// A custom resource: null is not a value.
    Custom,
}

/// Declares [`Kind`], one row per kind: variant, `kind:`, group, served versions, scope, naming, schema.
macro_rules! kinds {
    ($($kind:ident: $name:literal, $group:expr, $versions:expr, $scope:ident, $naming:ident, $schema:ident;)*) => {
        /// A kind that the mesh uses.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Kind {
            $($kind),*
        }

        impl Kind {
            pub(super) const ALL: &[Self] = &[$(Self::$kind),*];

            fn row(self) -> &'static Row {
                match self {
                    $(Self::$kind => &Row {
                        name: $name,
                        key: stringify!($kind),
                        group: $group,
                        versions: $versions,
                        scope: Scope::$scope,
                        naming: Naming::$naming,
                        schema: Schema::$schema,
                    }),*
                }
            }
        }
    };
}

kinds! {
    Namespace: "Namespace", CORE, &["v1"], Cluster, Label, Native;
    Node: "Node", CORE, &["v1"], Cluster, Subdomain, Native;
    Pod: "Pod", CORE, &["v1"], Namespaced, Subdomain, Native;
    Service: "Service", CORE, &["v1"], Namespaced, Label, Native;
    ServiceAccount: "ServiceAccount", CORE, &["v1"], Namespaced, Subdomain, Native;
    ConfigMap: "ConfigMap", CORE, &["v1"], Namespaced, Subdomain, Native;
    Secret: "Secret", CORE, &["v1"], Namespaced, Subdomain, Native;
    EndpointSlice: "EndpointSlice", "discovery.k8s.io", &["v1"], Namespaced, Subdomain, Native;
    Deployment: "Deployment", "apps", &["v1"], Namespaced, Subdomain, Native;
    Gateway: "Gateway", NETWORKING, ALL_THREE, Namespaced, Label, Custom;
    VirtualService: "VirtualService", NETWORKING, ALL_THREE, Namespaced, Subdomain, Custom;
    DestinationRule: "DestinationRule", NETWORKING, ALL_THREE, Namespaced, Subdomain, Custom;
    ServiceEntry: "ServiceEntry", NETWORKING, ALL_THREE, Namespaced, Subdomain, Custom;
    WorkloadEntry: "WorkloadEntry", NETWORKING, ALL_THREE, Namespaced, Subdomain, Custom;
    WorkloadGroup: "WorkloadGroup", NETWORKING, ALL_THREE, Namespaced, Subdomain, Custom;
    Sidecar: "Sidecar", NETWORKING, ALL_THREE, Namespaced, Subdomain, Custom;
    ProxyConfig: "ProxyConfig", NETWORKING, &["v1beta1"], Namespaced, Subdomain, Custom;
    PeerAuthentication: "PeerAuthentication", SECURITY, &["v1", "v1beta1"], Namespaced, Subdomain, Custom;
    AuthorizationPolicy: "AuthorizationPolicy", SECURITY, &["v1", "v1beta1"], Namespaced, Subdomain, Custom;
    RequestAuthentication: "RequestAuthentication", SECURITY, &["v1", "v1beta1"], Namespaced, Subdomain, Custom;
    Telemetry: "Telemetry", TELEMETRY, &["v1", "v1alpha1"], Namespaced, Subdomain, Custom;
    GatewayClass: "GatewayClass", GATEWAY_API, &["v1", "v1beta1"], Cluster, Subdomain, Custom;
    KubernetesGateway: "Gateway", GATEWAY_API, &["v1", "v1beta1"], Namespaced, Subdomain, Custom;
    ListenerSet: "ListenerSet", GATEWAY_API, &["v1"], Namespaced, Subdomain, Custom;
    HTTPRoute: "HTTPRoute", GATEWAY_API, &["v1", "v1beta1"], Namespaced, Subdomain, Custom;
    GRPCRoute: "GRPCRoute", GATEWAY_API, &["v1"], Namespaced, Subdomain, Custom;
    TLSRoute: "TLSRoute", GATEWAY_API, &["v1", "v1alpha3", "v1alpha2"], Namespaced, Subdomain, Custom;
    TCPRoute: "TCPRoute", GATEWAY_API, &["v1", "v1alpha2"], Namespaced, Subdomain, Custom;
    UDPRoute: "UDPRoute", GATEWAY_API, &["v1", "v1alpha2"], Namespaced, Subdomain, Custom;
    ReferenceGrant: "ReferenceGrant", GATEWAY_API, &["v1", "v1beta1"], Namespaced, Subdomain, Custom;
    BackendTLSPolicy: "BackendTLSPolicy", GATEWAY_API, &["v1", "v1alpha3"], Namespaced, Subdomain, Custom;
    RateLimit: "RateLimit", OWN, &["v1alpha1"], Namespaced, Subdomain, Custom;
    HealthCheck: "HealthCheck", OWN, &["v1alpha1"], Namespaced, Subdomain, Custom;
}

/// A kind of which a cluster may have objects, and on which the mesh does not act and will not.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unsupported {
    /// As `kind:` and object keys spell it.
    pub(super) name: &'static str,
    /// Its API group.
    pub(super) group: &'static str,
    /// The versions in which it exists.
    pub(super) versions: &'static [&'static str],
    /// What to use instead.
    pub(super) instead: &'static str,
}

/// What is to be done with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Class {
    /// Read it.
    Used(Kind),
    /// A user expects an effect that the mesh does not have yet.
    NotEnforced,
    /// A user expects an effect that the mesh will not have.
    Unsupported(&'static Unsupported),
    /// Belongs to something else than the mesh.
    NotUsed,
    /// Is in no version that exists: the field to blame, the reason and a hint.
    Wrong { field: &'static str, reason: String, hint: Option<String> },
}

impl Unsupported {
    /// What is said of an object: the reason, beside which [`Unsupported::instead`] is the hint.
    pub(super) fn reason(&self) -> String {
        format!("{} is not supported: this document has no effect", self.name)
    }
}

impl Kind {
    /// As `kind:` spells it.
    pub(super) fn name(self) -> &'static str {
        self.row().name
    }

    /// As object keys spell it: unique, so Kubernetes' Gateway is `KubernetesGateway` beside Istio's `Gateway`.
    pub(super) fn key(self) -> &'static str {
        self.row().key
    }

    /// Every kind, in the order of the table.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied()
    }

    /// Its API group; empty for Kubernetes' core.
    pub(super) fn group(self) -> &'static str {
        self.row().group
    }

    /// The versions that are read, the one to prefer first.
    pub(super) fn versions(self) -> &'static [&'static str] {
        self.row().versions
    }

    /// Whether its objects live in a namespace.
    pub(super) fn is_namespaced(self) -> bool {
        self.row().scope == Scope::Namespaced
    }

    /// Whether its name must be a DNS label (no dots, at most 63 characters) and not just a DNS subdomain.
    pub(super) fn is_named_by_label(self) -> bool {
        self.row().naming == Naming::Label
    }

    /// Whether it is a custom resource, whose schemas refuse null where Kubernetes' types take it as absent.
    pub(super) fn is_custom(self) -> bool {
        self.row().schema == Schema::Custom
    }

    /// Whether it is one of Istio's.
    pub(super) fn is_istio(self) -> bool {
        is_istio_group(self.group())
    }

    /// Whether it is one of our own.
    #[cfg(all(test, feature = "schema"))]
    pub(super) fn is_own(self) -> bool {
        self.group() == OWN
    }

    /// Whether the mesh acts on it; if not, users are told.
    pub(super) fn is_enforced(self) -> bool {
        !NOT_ENFORCED.contains(&self)
    }

    /// Whether the data plane compiles it itself, for the pods that it serves.
    pub(super) fn travels(self) -> bool {
        matches!(
            self,
            Self::VirtualService
                | Self::DestinationRule
                | Self::Gateway
                | Self::AuthorizationPolicy
                | Self::RequestAuthentication
                | Self::GatewayClass
                | Self::KubernetesGateway
                | Self::ListenerSet
                | Self::HTTPRoute
                | Self::GRPCRoute
                | Self::TLSRoute
                | Self::TCPRoute
                | Self::UDPRoute
                | Self::ReferenceGrant
                | Self::RateLimit
                | Self::HealthCheck
                | Self::WorkloadGroup
                | Self::Telemetry
        )
    }

    /// `group/version` of every served version, the one to recommend first.
    fn api_versions(self) -> impl Iterator<Item = String> {
        let Row { group, versions, .. } = self.row();
        let separator = if group.is_empty() { "" } else { "/" };
        versions.iter().map(move |version| format!("{group}{separator}{version}"))
    }

    /// The kinds of this name, one per group.
    fn named(name: &str) -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(move |kind| kind.name() == name)
    }
}

/// Decides what `api_version` and `kind` ask for.
pub(super) fn classify(api_version: &str, kind: &str) -> Class {
    let (group, version) = api_version.rsplit_once('/').unwrap_or((CORE, api_version));
    if let Some(known) = UNSUPPORTED.iter().find(|known| known.group == group && known.name == kind) {
        return Class::Unsupported(known);
    }
    if let Some(known) = Kind::named(kind).find(|known| known.group() == group) {
        return if known.versions().contains(&version) {
            Class::Used(known)
        } else {
            wrong_version(kind, known.api_versions())
        };
    }
    let Some((_, kinds)) = CLOSED.iter().find(|(name, _)| *name == group) else {
        let expected = is_istio_group(group) || group == "gateway.networking.x-k8s.io";
        return if expected { Class::NotEnforced } else { Class::NotUsed };
    };
    if kinds.contains(&kind) {
        return if is_istio_group(group) { Class::NotEnforced } else { Class::NotUsed };
    }
    // A Pod of group `apps` is a slip of the pen; a Service of `serving.knative.dev` is another kind.
    let mut served = Kind::named(kind).flat_map(Kind::api_versions).peekable();
    if served.peek().is_some() { wrong_version(kind, served) } else { unknown_kind(api_version, kind, kinds) }
}

/// The kind of the items of a list kind (`PodList`), empty for the universal `List`; `None` if it is no list.
pub(super) fn list_items(kind: &str) -> Option<&str> {
    kind.strip_suffix("List")
}

/// All names that did-you-mean knows.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    Kind::ALL.iter().copied().map(Kind::name)
}

fn is_istio_group(group: &str) -> bool {
    group.ends_with(".istio.io") && group != "install.istio.io"
}

fn wrong_version(kind: &str, served: impl Iterator<Item = String>) -> Class {
    Class::Wrong {
        field: "apiVersion",
        reason: format!("{kind} is not served in this version"),
        hint: Some(format!("use {}", served.collect::<Vec<_>>().join(" or "))),
    }
}

fn unknown_kind(api_version: &str, kind: &str, kinds: &[&str]) -> Class {
    let reason = format!("there is no kind {} in {}", quote(kind), quote(api_version));
    let hint = did_you_mean(kind, kinds).or_else(|| did_you_mean(kind, &names().collect::<Vec<_>>()));
    Class::Wrong { field: "kind", reason, hint }
}

/// Kinds that are read and checked while nothing acts on them yet.
const NOT_ENFORCED: &[Kind] = &[];

/// Kinds that make sense for Envoy only, or for traffic that the mesh does not carry.
pub(super) const UNSUPPORTED: &[Unsupported] = &[
    Unsupported {
        name: "EnvoyFilter",
        group: NETWORKING,
        versions: &["v1alpha3"],
        instead: "there is no Envoy to patch: use VirtualService, DestinationRule or Telemetry for what it does",
    },
    Unsupported { name: "WasmPlugin", group: EXTENSIONS, versions: &["v1alpha1"], instead: NO_EXTENSIONS },
    Unsupported {
        name: "TrafficExtension",
        group: EXTENSIONS,
        versions: &["v1alpha1"],
        instead: NO_EXTENSIONS,
    },
];

const NO_EXTENSIONS: &str = "there is no Envoy to load it: use AuthorizationPolicy with action CUSTOM for decisions, \
     VirtualService for headers";
/// Istio's ways to load code into Envoy.
const EXTENSIONS: &str = "extensions.istio.io";
/// Kubernetes' core group, which `apiVersion: v1` leaves out.
const CORE: &str = "";
/// The Gateway API.
const GATEWAY_API: &str = "gateway.networking.k8s.io";
/// What neither Kubernetes nor Istio has a resource for.
const OWN: &str = "policy.mesh.internal";
/// Istio's metrics, logs and traces.
const TELEMETRY: &str = "telemetry.istio.io";
/// Istio's traffic.
const NETWORKING: &str = "networking.istio.io";
/// Versions of Istio's traffic, whose schemas are the same.
const ALL_THREE: &[&str] = &["v1", "v1beta1", "v1alpha3"];
/// Istio's identities and policies.
const SECURITY: &str = "security.istio.io";

/// Groups whose kinds are all known, so that any other kind in them is a mistake.
const CLOSED: [(&str, &[&str]); 7] = [
    (OWN, &["HealthCheck", "RateLimit"]),
    (
        CORE,
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
        NETWORKING,
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
    (SECURITY, &["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"]),
    (
        GATEWAY_API,
        &[
            "BackendTLSPolicy",
            "Gateway",
            "GatewayClass",
            "GRPCRoute",
            "HTTPRoute",
            "ListenerSet",
            "ReferenceGrant",
            "TCPRoute",
            "TLSRoute",
            "UDPRoute",
        ],
    ),
];
