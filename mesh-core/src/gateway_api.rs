//! The Gateway API: which routes are attached to which listeners, what gateways serve because of it, and what users are
//! told of it in statuses.
//!
//! [`Resources`] is a view of everything that has a say. It is made anew for each decision; deciding costs what there is
//! of the Gateway API. Invariant: nothing is served that a status says is refused, because both come from here.

use std::collections::BTreeMap;
use std::sync::Arc;

pub use self::attach::{Attachment, Rejected};
pub use self::backends::{BackendPolicy, CaFault, deciding};
pub use self::deploy::{Generated, GeneratedKind, ParametersFault, Plan, Role, Settings};
pub use self::facts::Facts;
pub(crate) use self::facts::authorities_in;
pub use self::grants::{Grants, Referred};
pub use self::listeners::{Listener, ListenerFault, Owner, OwnerKind};
pub use self::mesh::mesh_route;
pub use self::policies::{Ancestor, AncestorStatus};
pub use self::refs::{AuthorityFault, BackendFault, CertificateFault, RouteBackends};
pub use self::serve::{Served, client_certificate, serve};
pub use self::status::{Condition, GatewayStatus, ListenerSetStatus, ListenerStatus, ParentStatus, Report};
use crate::resource::gateway_api::{
    Backend, GatewayClassSpec, GatewaySpec, GrpcRouteSpec, Hostname, HttpRouteSpec, ListenerSetSpec,
    ParentRef, SecretRef, TcpRouteSpec, TlsRouteSpec, UdpRouteSpec,
};
use crate::resource::{Object, Spec};
use crate::route::ResourceName;

mod attach;
mod backends;
mod contest;
mod deploy;
mod facts;
mod grants;
mod listeners;
mod mesh;
mod policies;
mod programmed;
mod refs;
mod serve;
mod sets;
mod status;

/// All resources of the Gateway API, and those that they refer to, as far as they are known.
#[derive(Debug, Default)]
pub struct Resources<'a> {
    classes: BTreeMap<&'a str, &'a GatewayClassSpec>,
    gateways: BTreeMap<Name<'a>, Gateway<'a>>,
    sets: BTreeMap<Name<'a>, ListenerSet<'a>>,
    /// The oldest first, then by name, then by kind.
    routes: Vec<Route<'a>>,
    /// The oldest first, then by name.
    policies: Vec<BackendPolicy<'a>>,
    grants: Grants<'a>,
    /// Labels.
    namespaces: BTreeMap<&'a str, &'a BTreeMap<String, String>>,
}

/// Namespace and name.
pub type Name<'a> = (&'a str, &'a str);

/// A Gateway.
#[derive(Debug, Clone, Copy)]
pub struct Gateway<'a> {
    /// What stands around its spec.
    pub object: &'a Object,
    /// What it says.
    pub spec: &'a GatewaySpec,
}

/// A ListenerSet.
#[derive(Debug, Clone, Copy)]
pub struct ListenerSet<'a> {
    /// What stands around its spec.
    pub object: &'a Object,
    /// What it says.
    pub spec: &'a ListenerSetSpec,
}

/// A route of any kind.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// What stands around its spec.
    pub object: &'a Object,
    /// What it says.
    pub spec: RouteSpec<'a>,
}

/// What a route says.
#[derive(Debug, Clone, Copy)]
pub enum RouteSpec<'a> {
    /// About requests.
    Http(&'a HttpRouteSpec),
    /// About calls of gRPC.
    Grpc(&'a GrpcRouteSpec),
    /// About connections by the name that their TLS asks for.
    Tls(&'a TlsRouteSpec),
    /// About all connections of a port.
    Tcp(&'a TcpRouteSpec),
    /// About all datagrams of a port.
    Udp(&'a UdpRouteSpec),
}

/// The kinds of routes. Ordered as statuses list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// HTTPRoute.
    Http,
    /// GRPCRoute.
    Grpc,
    /// TLSRoute.
    Tls,
    /// TCPRoute.
    Tcp,
    /// UDPRoute.
    Udp,
}

impl<'a> Resources<'a> {
    /// Those among `objects`, which may be in any order and of any kind.
    pub fn of(objects: impl IntoIterator<Item = &'a Object>) -> Self {
        let mut resources = Self::default();
        for object in objects {
            let name = (&*object.meta.namespace, &*object.meta.name);
            match &object.spec {
                Spec::GatewayClass(spec) => _ = resources.classes.insert(name.1, spec),
                Spec::KubernetesGateway(spec) => {
                    resources.gateways.insert(name, Gateway { object, spec });
                }
                Spec::ListenerSet(spec) => {
                    resources.sets.insert(name, ListenerSet { object, spec });
                }
                Spec::BackendTlsPolicy(spec) => resources.policies.push(BackendPolicy { object, spec }),
                Spec::ReferenceGrant(spec) => resources.grants.add(name.0, spec),
                Spec::Namespace(_) => _ = resources.namespaces.insert(name.1, &object.meta.labels),
                _ => resources.routes.extend(Route::of(object)),
            }
        }
        resources.routes.sort_by_cached_key(|it| (place(it.object), it.kind()));
        resources.policies.sort_by_cached_key(|it| place(it.object));
        resources
    }

    /// With the labels of namespaces from elsewhere.
    pub(crate) fn with_namespaces(
        mut self,
        labels: impl IntoIterator<Item = (&'a str, &'a BTreeMap<String, String>)>,
    ) -> Self {
        self.namespaces.extend(labels);
        self
    }

    /// The Gateways that are ours, by namespace and name: those of our classes, but for those of waypoints.
    pub fn gateways(&self) -> impl Iterator<Item = &Gateway<'a>> {
        self.gateways.values().filter(|it| self.is_ours(&it.spec.gateway_class_name))
    }

    /// A Gateway, if it is ours.
    pub fn gateway(&self, name: Name<'_>) -> Option<Gateway<'a>> {
        self.gateways.get(&name).filter(|it| self.is_ours(&it.spec.gateway_class_name)).copied()
    }

    /// The ListenerSets whose Gateway is ours, whether it takes them or not; by namespace and name.
    pub fn listener_sets(&self) -> impl Iterator<Item = (&ListenerSet<'a>, Gateway<'a>)> {
        self.sets.values().filter_map(|set| Some((set, self.gateway(set.gateway()?)?)))
    }

    /// All routes, the oldest first.
    pub fn routes(&self) -> &[Route<'a>] {
        &self.routes
    }

    /// Who may refer to what in another namespace.
    pub fn grants(&self) -> &Grants<'a> {
        &self.grants
    }

    /// Whether Gateways of a class are served by us, at the edge.
    fn is_ours(&self, class: &str) -> bool {
        self.role(class) == Some(Role::Gateway)
    }

    /// The labels of a namespace, with the one that every API server gives it.
    fn labels(&self, namespace: &str) -> BTreeMap<String, String> {
        let mut labels = self.namespaces.get(namespace).map(|labels| (*labels).clone()).unwrap_or_default();
        labels.insert(NAME_LABEL.to_owned(), namespace.to_owned());
        labels
    }
}

impl<'a> Gateway<'a> {
    /// Its namespace and name.
    pub fn name(&self) -> Name<'a> {
        (&self.object.meta.namespace, &self.object.meta.name)
    }

    /// Itself, as one that has listeners.
    pub fn owner(&self) -> Owner<'a> {
        Owner { kind: OwnerKind::Gateway, name: self.name() }
    }

    /// What it shows to servers.
    pub(crate) fn client_certificate(&self) -> Option<&'a SecretRef> {
        self.spec.tls.backend.as_ref()?.client_certificate_ref.as_ref()
    }
}

impl<'a> ListenerSet<'a> {
    /// Its namespace and name.
    pub fn name(&self) -> Name<'a> {
        (&self.object.meta.namespace, &self.object.meta.name)
    }

    /// The Gateway that it names; `None` if it names something else.
    fn gateway(&self) -> Option<Name<'a>> {
        let parent = &self.spec.parent_ref;
        let is_gateway = *parent.group == *GROUP && *parent.kind == *"Gateway";
        is_gateway.then(|| (parent.namespace.as_deref().unwrap_or(self.name().0), &*parent.name))
    }
}

impl<'a> Route<'a> {
    /// What `object` is, if it is a route.
    pub fn of(object: &'a Object) -> Option<Self> {
        let spec = match &object.spec {
            Spec::HttpRoute(spec) => RouteSpec::Http(spec),
            Spec::GrpcRoute(spec) => RouteSpec::Grpc(spec),
            Spec::TlsRoute(spec) => RouteSpec::Tls(spec),
            Spec::TcpRoute(spec) => RouteSpec::Tcp(spec),
            Spec::UdpRoute(spec) => RouteSpec::Udp(spec),
            _ => return None,
        };
        Some(Self { object, spec })
    }

    /// Its namespace.
    pub fn namespace(&self) -> &'a str {
        &self.object.meta.namespace
    }

    /// Its namespace and name.
    pub fn name(&self) -> Arc<ResourceName> {
        let meta = &self.object.meta;
        Arc::new(ResourceName { namespace: Arc::clone(&meta.namespace), name: Arc::clone(&meta.name) })
    }

    /// What it is attached to, or wants to be.
    pub fn parents(&self) -> &'a [ParentRef] {
        match self.spec {
            RouteSpec::Http(spec) => &spec.parent_refs,
            RouteSpec::Grpc(spec) => &spec.parent_refs,
            RouteSpec::Tls(spec) => &spec.parent_refs,
            RouteSpec::Tcp(spec) => &spec.parent_refs,
            RouteSpec::Udp(spec) => &spec.parent_refs,
        }
    }

    /// The hosts that it is for; none means all of its parents.
    pub fn hostnames(&self) -> &'a [Hostname] {
        match self.spec {
            RouteSpec::Http(spec) => &spec.hostnames,
            RouteSpec::Grpc(spec) => &spec.hostnames,
            RouteSpec::Tls(spec) => &spec.hostnames,
            RouteSpec::Tcp(_) | RouteSpec::Udp(_) => &[],
        }
    }

    /// What its requests are sent to, copies of them among these.
    pub fn backends(&self) -> impl Iterator<Item = &'a Backend> {
        status::references(self).into_iter().filter_map(|it| match it {
            status::Reference::Backend(backend) => Some(backend),
            status::Reference::Filter(_) => None,
        })
    }

    /// The rules that are left out, by number, and why each is; and how many rules there are.
    pub fn faults(&self) -> (Vec<(usize, &'a str)>, usize) {
        fn of<'r>(rules: impl ExactSizeIterator<Item = Option<&'r str>>) -> (Vec<(usize, &'r str)>, usize) {
            let all = rules.len();
            (rules.enumerate().filter_map(|(number, fault)| Some((number, fault?))).collect(), all)
        }
        match self.spec {
            RouteSpec::Http(spec) => of(spec.rules.iter().map(|rule| rule.fault())),
            RouteSpec::Grpc(spec) => of(spec.rules.iter().map(|rule| rule.fault())),
            RouteSpec::Tls(spec) => (Vec::new(), spec.rules.len()),
            RouteSpec::Tcp(spec) => (Vec::new(), spec.rules.len()),
            RouteSpec::Udp(spec) => (Vec::new(), spec.rules.len()),
        }
    }

    /// Whether none of its rules can be used.
    pub fn is_all_faulty(&self) -> bool {
        let (faults, all) = self.faults();
        !faults.is_empty() && faults.len() == all
    }

    /// Of which kind it is.
    pub fn kind(&self) -> RouteKind {
        match self.spec {
            RouteSpec::Http(_) => RouteKind::Http,
            RouteSpec::Grpc(_) => RouteKind::Grpc,
            RouteSpec::Tls(_) => RouteKind::Tls,
            RouteSpec::Tcp(_) => RouteKind::Tcp,
            RouteSpec::Udp(_) => RouteKind::Udp,
        }
    }
}

impl RouteKind {
    /// As `kind:` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
            Self::Udp => "UDPRoute",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Http, Self::Grpc, Self::Tls, Self::Tcp, Self::Udp].into_iter().find(|kind| kind.name() == name)
    }
}

/// What comes before others: the oldest, then by namespace and name.
fn place(object: &Object) -> (i64, Arc<str>, Arc<str>) {
    let meta = &object.meta;
    (meta.creation_timestamp.unwrap_or(i64::MAX), Arc::clone(&meta.namespace), Arc::clone(&meta.name))
}

/// The API group.
pub const GROUP: &str = "gateway.networking.k8s.io";
/// Who takes care of Gateways of our classes; the name is Istio's.
pub const CONTROLLER: &str = "istio.io/gateway-controller";
/// The class that is ours whether there is such a GatewayClass or not.
pub const CLASS: &str = "istio";
/// Who takes care of Gateways that run somewhere else; the name is Istio's.
pub const REMOTE_CONTROLLER: &str = "istio.io/unmanaged-gateway";
/// The class of such Gateways, whether there is such a GatewayClass or not.
pub const REMOTE_CLASS: &str = "istio-remote";
/// What every API server labels a namespace with.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

#[cfg(test)]
mod tests;
