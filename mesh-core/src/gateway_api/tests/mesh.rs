//! Clients in the mesh.

use std::collections::BTreeMap;

use super::objects;
use crate::model::{CompileOptions, Mirror, Snapshot, World};
use crate::resource::ObjectKey;
use crate::route::tests::{Request, outcome};
use crate::route::{Client, RouteTable, StreamTable, StreamView, Virtuals};

/// A control plane and a node.
struct Mesh {
    world: World,
    mirror: Mirror,
    snapshot: Snapshot,
}

impl Mesh {
    fn new(yaml: &str) -> Self {
        let world = World::new(CompileOptions::default());
        let mut mesh = Self { world, mirror: Mirror::new(""), snapshot: Snapshot::default() };
        mesh.apply(yaml);
        mesh
    }

    fn apply(&mut self, yaml: &str) {
        objects(yaml).iter().for_each(|object| self.world.upsert(object));
        self.settle();
    }

    fn remove(&mut self, kind: &'static str, namespace: &str, name: &str) {
        self.world.remove(&ObjectKey { kind, namespace: namespace.into(), name: name.into() });
        self.settle();
    }

    fn settle(&mut self) {
        for (key, record) in self.world.commit() {
            match record {
                Some(record) => self.mirror.apply(record),
                None => self.mirror.remove(&key),
            }
        }
        self.snapshot = self.mirror.snapshot();
    }

    /// What becomes of a request from a namespace to a port of Service `echo` of `mesh`.
    fn ask(&self, namespace: &str, port: u16, path: &str) -> String {
        ask(self.snapshot.virtuals(), namespace, port, path)
    }
}

fn ask(virtuals: &Virtuals, namespace: &str, port: u16, path: &str) -> String {
    let labels = BTreeMap::new();
    let about = virtuals.about("echo.mesh.svc.cluster.local");
    let table = RouteTable::for_service(&about, Client { namespace, labels: &labels }, port);
    let request = Request::parse(&format!("GET http://whatever{path}"));
    outcome(table.as_ref(), &request).replace(".mesh", "")
}

fn route(place: &str, parent: &str, name: &str) -> String {
    format!(
        "
    http {place}
      parentRefs: [{{group: '', kind: Service, {parent}}}]
      hostnames: [is.ignored]
      rules: [{{name: {name}, matches: [{{path: {{value: /x}}}}], backendRefs: [{{name: {name}, port: 80}}]}}]
"
    )
}

#[test]
fn routes_of_a_service_are_for_everybody_and_of_others_for_their_own() {
    let own = route("mesh/producer", "name: echo", "v1");
    let consumer = route("client/consumer", "name: echo, namespace: mesh", "v2");
    let mesh = Mesh::new(&format!("{own}{consumer}"));
    assert_eq!(mesh.ask("anybody", 80, "/x"), "v1: v1:80");
    assert_eq!(mesh.ask("mesh", 80, "/x/y"), "v1: v1:80");
    assert_eq!(mesh.ask("client", 80, "/x"), "v2: v2.client:80");
    assert_eq!(mesh.ask("anybody", 80, "/xy"), "404");
}

#[test]
fn a_parent_may_be_one_port_of_a_service() {
    let ports =
        [route("mesh/a", "name: echo, port: 80", "v1"), route("mesh/b", "name: echo, port: 8080", "v2")];
    let mesh = Mesh::new(&ports.concat());
    assert_eq!(mesh.ask("any", 80, "/x"), "v1: v1:80");
    assert_eq!(mesh.ask("any", 8080, "/x"), "v2: v2:80");
    assert_eq!(mesh.ask("any", 9090, "/x"), "no table");
}

#[test]
fn routes_come_before_virtual_services_and_leave_them_as_they_were() {
    let mesh = Mesh::new(&route("mesh/a", "name: echo", "v1"));
    let services = crate::route::tests::virtual_services(
        "
        vs mesh/echo
        hosts: [echo]
        http: [{name: vs, directResponse: {status: 200}}]
        ",
    );
    let mut virtuals = Virtuals::clone(mesh.snapshot.virtuals());
    virtuals.update(services.into_iter().map(|it| (it.key(), Some(it))));
    assert_eq!(ask(&virtuals, "any", 80, "/x"), "v1: v1:80");
    let key = ObjectKey { kind: "HTTPRoute", namespace: "mesh".into(), name: "a".into() };
    virtuals.set_route(&key.into(), None);
    assert_eq!(ask(&virtuals, "any", 80, "/x"), "vs: 200 ");
}

#[test]
fn changes_reach_what_they_are_about() {
    let mut mesh = Mesh::new(
        "
    http mesh/a
      parentRefs: [{group: '', kind: Service, name: echo}]
      rules: [{name: far, backendRefs: [{name: v1, namespace: web, port: 80}]}]
",
    );
    let other = |mesh: &Mesh| mesh.snapshot.virtuals().about("other.mesh.svc.cluster.local");
    let before = (mesh.snapshot.virtuals().about("echo.mesh.svc.cluster.local"), other(&mesh));
    assert_eq!(mesh.ask("any", 80, "/"), "far: no backend");
    mesh.apply(
        "
    grant web/g
      from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: mesh}]
      to: [{group: '', kind: Service}]
",
    );
    assert_eq!(mesh.ask("any", 80, "/"), "far: v1.web:80");
    assert!(!mesh.snapshot.virtuals().about("echo.mesh.svc.cluster.local").is_same(&before.0));
    assert!(other(&mesh).is_same(&before.1));
    mesh.remove("ReferenceGrant", "web", "g");
    assert_eq!(mesh.ask("any", 80, "/"), "far: no backend");
    mesh.apply(&route("mesh/a", "name: another", "v1"));
    assert_eq!(mesh.ask("any", 80, "/"), "no table");
    mesh.apply(&route("mesh/a", "name: echo", "v1"));
    assert_eq!(mesh.ask("any", 80, "/x"), "v1: v1:80");
    mesh.remove("HTTPRoute", "mesh", "a");
    assert_eq!(mesh.ask("any", 80, "/x"), "no table");
}

#[test]
fn connections_follow_routes_of_their_service() {
    let mut mesh = Mesh::new(
        "
        tcp mesh/b @2
          parentRefs: [{group: '', kind: Service, name: echo, port: 9000}]
          rules: [{backendRefs: [{name: late, port: 1}]}]
        tcp mesh/a @1
          parentRefs: [{group: '', kind: Service, name: echo, port: 9000}]
          rules: [{backendRefs: [{name: v1, port: 1, weight: 3}, {name: v2, port: 1}]}]
        tls mesh/names
          parentRefs: [{group: '', kind: Service, name: echo, port: 443}]
          hostnames: ['*.a.test']
          rules: [{backendRefs: [{name: v2, port: 1}]}]
        tcp mesh/lost
          parentRefs: [{group: '', kind: Service, name: echo, port: 9001}]
          rules: [{backendRefs: [{name: x, namespace: elsewhere, port: 1}]}]
        ",
    );
    let to = |mesh: &Mesh, namespace: &str, port: u16, name: Option<&str>| {
        let labels = BTreeMap::new();
        let about = mesh.snapshot.virtuals().about("echo.mesh.svc.cluster.local");
        let Some(table) = StreamTable::for_service(&about, Client { namespace, labels: &labels }, port)
        else {
            return "no rules".to_owned();
        };
        let view = StreamView { server_name: name, destination: [10, 0, 0, 1].into() };
        let Some(route) = table.pick(&view) else { return "no route".to_owned() };
        let all = route.forward.destinations().iter().map(|it| format!("{}*{}", it.to.host, it.weight));
        all.collect::<Vec<_>>().join(" ").replace(".mesh.svc.cluster.local", "")
    };
    assert_eq!(to(&mesh, "mesh", 9000, None), "v1*3 v2*1");
    assert_eq!(to(&mesh, "other", 9000, None), "v1*3 v2*1");
    assert_eq!(to(&mesh, "mesh", 443, Some("x.a.test")), "v2*1");
    assert_eq!(to(&mesh, "mesh", 443, Some("b.test")), "no route");
    assert_eq!(to(&mesh, "mesh", 80, None), "no rules");
    // Nothing is sent where nobody has permitted it.
    assert_eq!(to(&mesh, "mesh", 9001, None), "no backend*1");
    // And there are no rules about requests because of them.
    assert_eq!(mesh.ask("mesh", 9000, "/"), mesh.ask("mesh", 80, "/"));
    mesh.apply(
        "
        tcp other/own
          parentRefs: [{group: '', kind: Service, name: echo, namespace: mesh, port: 9000}]
          rules: [{backendRefs: [{name: own, port: 1}]}]
        ",
    );
    assert_eq!(to(&mesh, "other", 9000, None), "own.other.svc.cluster.local*1");
    assert_eq!(to(&mesh, "mesh", 9000, None), "v1*3 v2*1");
    mesh.remove("TCPRoute", "mesh", "a");
    assert_eq!(to(&mesh, "mesh", 9000, None), "late*1");
}
