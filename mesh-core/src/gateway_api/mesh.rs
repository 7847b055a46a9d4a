//! Routes for clients in the mesh: those whose parents are Services.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::listeners::host;
use super::refs::{RouteBackends, service_host};
use super::serve::stream;
use super::{Grants, Route, RouteSpec};
use crate::resource::Object;
use crate::resource::gateway_api::{Backend, ParentRef};
use crate::resource::value::{Host, Port};
use crate::route::{ApiRules, Backends, ClusterRef, MeshRoute, MeshRules, MeshStreams, Parent};

/// What a route says about Services; `None` if nothing.
pub fn mesh_route(object: &Object, grants: &Grants<'_>) -> Option<MeshRoute> {
    let route = Route::of(object)?;
    let parents: Vec<Parent> = route.parents().iter().filter_map(|it| parent(&route, it)).collect();
    if parents.is_empty() || route.is_all_faulty() {
        return None;
    }
    let backends = RouteBackends { grants, kind: route.kind(), namespace: route.namespace() };
    let backends = Noting { backends, refers_to: std::cell::RefCell::default() };
    let place = (route.name(), object.meta.creation_timestamp);
    let streams = |names, rule| {
        let route = stream(&route, rule, &backends);
        MeshRules::Connections(MeshStreams { created: object.meta.creation_timestamp, names, route })
    };
    let rules = match route.spec {
        RouteSpec::Http(spec) => MeshRules::Requests(ApiRules::of_http(place, spec, &backends)),
        RouteSpec::Grpc(spec) => MeshRules::Requests(ApiRules::of_grpc(place, spec, &backends)),
        RouteSpec::Tls(spec) => {
            let names = if spec.hostnames.is_empty() {
                vec![Host::Any]
            } else {
                spec.hostnames.iter().map(host).collect()
            };
            streams(names, spec.rules.first())
        }
        RouteSpec::Tcp(spec) => streams(Vec::new(), spec.rules.first()),
        // Datagrams of pods pass the mesh.
        RouteSpec::Udp(_) => return None,
    };
    let namespace = Arc::clone(&object.meta.namespace);
    Some(MeshRoute { namespace, parents, rules, refers_to: backends.refers_to.into_inner() })
}

/// Whether a parent is a Service.
pub(super) fn is_service(parent: &ParentRef) -> bool {
    parent.group.is_empty() && *parent.kind == *"Service"
}

fn parent(route: &Route<'_>, parent: &ParentRef) -> Option<Parent> {
    let namespace = parent.namespace.as_deref().unwrap_or(route.namespace());
    let port = parent.port.map(Port::get);
    let host = service_host(&parent.name, namespace);
    is_service(parent).then(|| Parent { namespace: namespace.into(), host, port })
}

/// Takes note of the namespaces that are referred to.
struct Noting<'a> {
    backends: RouteBackends<'a>,
    refers_to: std::cell::RefCell<BTreeSet<Arc<str>>>,
}

impl Backends for Noting<'_> {
    fn find(&self, backend: &Backend) -> Option<ClusterRef> {
        let other = backend.namespace.as_deref().filter(|it| *it != self.backends.namespace);
        self.refers_to.borrow_mut().extend(other.map(Arc::from));
        self.backends.find(backend)
    }
}
