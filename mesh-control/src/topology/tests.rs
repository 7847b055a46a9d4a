use std::collections::BTreeMap;

use mesh_core::model::{CompileOptions, World};
use mesh_core::resource::{SourceFile, parse};
use mesh_core::topology::{Level, PolicyId, PolicyKind};
use mesh_proto::topology::{PolicyVerdicts, TopologyEdge, Workload, policy_verdicts};

use super::*;
use crate::peer::Security;

fn hub() -> Arc<Hub> {
    let pod = |name: &str, node: &str, ip: &str, labels: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop, labels: {{app: {name}{labels}}}}}, \
             spec: {{nodeName: {node}, serviceAccountName: {name}, containers: [{{name: c, image: i}}]}}, \
             status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}]}}}}\n---\n"
        )
    };
    let text = [
        "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}}\n---\n",
        "{apiVersion: v1, kind: Service, metadata: {name: till, namespace: shop}, spec: {clusterIP: 10.9.0.1, \
         selector: {app: till}, ports: [{port: 80}]}}\n---\n",
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: guard, namespace: shop}, spec: \
         {selector: {matchLabels: {app: till}}, action: DENY, rules: [{}]}}\n---\n",
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: other, namespace: bank}, spec: {}}\n---\n",
        "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: strict, namespace: shop}, spec: \
         {mtls: {mode: STRICT}}}\n---\n",
        &pod("page", "n1", "10.1.0.1", ""),
        &pod("till", "n2", "10.1.0.2", ""),
        &pod("edge", "n3", "10.1.0.3", ""),
    ]
    .concat();
    let parsed = parse(&SourceFile { name: "test.yaml", text: &text });
    assert!(
        parsed.findings.iter().all(|it| it.level < mesh_core::resource::Level::Error),
        "{:?}",
        parsed.findings
    );
    let mut world = World::new(CompileOptions::default());
    parsed.objects.iter().for_each(|object| world.upsert(object));
    let hub = Arc::new(Hub::default());
    hub.publish(world.commit());
    hub
}

fn topology(hub: Arc<Hub>) -> Topology {
    let rules = Rules::new(mesh_core::id::TrustDomain::default(), "istio-system");
    let authenticator = Arc::new(Authenticator::new(None, None));
    Topology::new(Arc::default(), hub, authenticator, Arc::new(rules), None)
}

fn named(name: &str) -> Workload {
    Workload { namespace: "shop".to_owned(), name: name.to_owned() }
}

/// From the page to the till, as the client's node tells it.
fn edge() -> TopologyEdge {
    TopologyEdge {
        source: Some(named("page")),
        destination: Some(named("till")),
        service_namespace: "shop".to_owned(),
        service_host: "till.shop.svc.cluster.local".to_owned(),
        requests: 20,
        latency: vec![0, 20],
        ..TopologyEdge::default()
    }
}

fn believed(own: &Own, edge: TopologyEdge) -> bool {
    let topology = topology(hub());
    let report = TopologyReport { edges: vec![edge], ..TopologyReport::default() };
    topology.take_counts(own, report, 1_000) == 0
}

fn node(name: &str) -> Own {
    Own::Node(name.into())
}

fn gateway(name: &str, account: &str) -> Own {
    Own::Gateway { namespace: "shop".into(), name: name.into(), account: Some(account.into()) }
}

#[test]
fn a_node_is_believed_about_its_own_pods_only() {
    assert!(believed(&node("n1"), edge()));
    assert!(!believed(&node("n2"), edge()), "the client is not there");
    assert!(!believed(&node("n3"), edge()));
    let server = |own: &Own| {
        let mut edge = edge();
        edge.set_side(mesh_proto::topology::topology_edge::Side::Destination);
        believed(own, edge)
    };
    assert!(server(&node("n2")) && !server(&node("n1")));
    assert!(!believed(&node("n1"), TopologyEdge { source: Some(named("ghost")), ..edge() }));
    let waypoint = |own: &Own| {
        let mut edge = edge();
        edge.set_side(mesh_proto::topology::topology_edge::Side::Waypoint);
        believed(own, edge)
    };
    assert!(!waypoint(&node("n1")) && !waypoint(&gateway("edge", "edge")), "nothing is bound to it");
}

#[test]
fn a_gateway_is_believed_about_its_own_pods_only() {
    let from_edge = || TopologyEdge { source: Some(named("edge")), ..edge() };
    assert!(believed(&gateway("edge", "edge"), from_edge()));
    assert!(!believed(&gateway("edge", "edge"), edge()));
    assert!(!believed(&gateway("edge", "other"), from_edge()));
}

#[test]
fn names_are_those_of_the_model() {
    let topology = topology(hub());
    let strange = TopologyEdge {
        destination: Some(named("<script>")),
        service_host: "evil.example".to_owned(),
        ..edge()
    };
    let report = TopologyReport { edges: vec![edge(), strange], ..TopologyReport::default() };
    assert_eq!(topology.take_counts(&node("n1"), report, 1_000), 0);
    let graph = topology.traffic.store().graph(1_000, 60, Level::App, |_| true);
    let ids: Vec<_> = graph.nodes.iter().map(|node| &*node.id).collect();
    assert_eq!(ids, ["shop/page", "shop/till", "outside:unknown"]);
}

#[test]
fn who_tells_has_to_prove_it() {
    let rules = Rules::new(mesh_core::id::TrustDomain::default(), "istio-system");
    let own = |proven: &Proven, node: &str, gateway: &str| {
        let report = TopologyReport {
            node: node.to_owned(),
            gateway: gateway.to_owned(),
            ..TopologyReport::default()
        };
        who(proven, &report, &rules).ok().map(|(name, _)| name)
    };
    let as_node = |name: &str| {
        let name = mesh_ca::authorize::NodeName::parse(name).unwrap();
        Proven::Caller(Arc::new(Caller::JoinToken(Binding::Node(name))))
    };
    let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/edge").unwrap();
    let workload = Proven::Caller(Arc::new(Caller::Svid(id)));
    assert_eq!(own(&as_node("n1"), "n1", "").as_deref(), Some("n1"));
    assert_eq!(own(&as_node("n1"), "n2", ""), None);
    assert_eq!(own(&as_node("n1"), "", ""), None);
    assert_eq!(own(&as_node("n1"), "", "shop/edge"), None);
    assert_eq!(own(&workload, "", "shop/edge").as_deref(), Some("shop/edge"));
    assert_eq!(own(&workload, "", "bank/edge"), None);
    assert_eq!(own(&workload, "n1", ""), None);
    assert_eq!(own(&Proven::Nobody, "n1", "").as_deref(), Some("n1"), "where nothing is asked for");
}

#[test]
fn one_report_a_second_is_enough() {
    let traffic = Traffic::default();
    let at = |at| Proxy {
        version: "1".into(),
        captured: 0,
        pending: 0,
        connections: 0,
        troubles: Arc::default(),
        is_relayed: false,
        at,
    };
    assert!(traffic.meet("n1", at(5)).is_ok() && traffic.meet("n2", at(5)).is_ok());
    assert!(traffic.meet("n1", at(5)).is_err() && traffic.meet("n1", at(6)).is_ok());
    let known: BTreeMap<_, _> = traffic.proxies();
    assert_eq!(known.len(), 2);
}

#[test]
fn a_node_is_believed_about_what_is_wrong_with_its_own_pods() {
    let topology = topology(hub());
    let told = |name: &str, capture: &str, certificate: &str| {
        let (namespace, name) = ("shop".to_owned(), name.to_owned());
        trouble(&TroubledPod { namespace, name, capture: capture.into(), certificate: certificate.into() })
    };
    let troubles = [told("till", "failed: no room", ""), told("page", "", "the CA says no")].into();
    let proxy = Proxy {
        version: "1".into(),
        captured: 0,
        pending: 1,
        connections: 0,
        troubles,
        is_relayed: false,
        at: now(),
    };
    topology.traffic.meet("n2", proxy).unwrap();
    let page = crate::dashboard::Dashboard {
        hub: Arc::clone(&topology.hub),
        findings: Arc::default(),
        traffic: Arc::clone(&topology.traffic),
        options: crate::config::PageOptions::default(),
        cluster: String::new(),
        root_namespace: String::new(),
        config: None,
    };
    let ask = |path: &str| -> serde_json::Value {
        let request = http::Request::builder().uri(format!("/api/v1/{path}")).header("host", "localhost");
        let request = request.body(()).unwrap().into_parts().0;
        let answer = page.answer(IpAddr::from([127, 0, 0, 1]), &request);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = runtime.block_on(http_body_util::BodyExt::collect(answer.into_body())).unwrap();
        serde_json::from_slice(&body.to_bytes()).unwrap()
    };
    let pod = |name: &str| ask(&format!("workloads/shop/{name}"))["instances"][0].clone();
    assert_eq!(pod("till")["capture"], "failed: no room");
    assert!(pod("till")["certificate"].is_null());
    assert!(pod("page")["certificate"].is_null(), "it runs elsewhere");
    let nodes = ask("nodes");
    let of = |name: &str| nodes["nodes"].as_array().unwrap().iter().find(|it| it["name"] == name).unwrap();
    assert_eq!(of("n2")["troubles"].as_array().unwrap().len(), 1);
    assert_eq!(of("n1")["troubles"].as_array().unwrap().len(), 0);
}

#[test]
fn a_proxy_is_believed_about_policies_of_its_own_only() {
    let topology = topology(hub());
    let tell = |own: &Own, namespace: &str, name: &str, kind: policy_verdicts::Kind| {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let told =
            PolicyVerdicts { kind: kind.into(), namespace, name, denied: 7, ..PolicyVerdicts::default() };
        let report = TopologyReport { policies: vec![told], ..TopologyReport::default() };
        topology.take_counts(own, report, 1_000) == 0
    };
    let (authorization, peer) =
        (policy_verdicts::Kind::AuthorizationPolicy, policy_verdicts::Kind::PeerAuthentication);
    assert!(tell(&node("n2"), "shop", "guard", authorization));
    assert!(tell(&node("n1"), "shop", "strict", peer), "it is for all of the namespace");
    assert!(!tell(&node("n1"), "shop", "strict", authorization), "there is none of that kind");
    assert!(!tell(&node("n1"), "shop", "ghost", authorization), "there is none of that name");
    assert!(!tell(&node("n1"), "bank", "other", authorization), "nothing of that namespace runs there");
    assert!(!tell(&node("n4"), "shop", "guard", authorization), "nothing at all runs there");
    assert!(tell(&gateway("edge", "edge"), "shop", "guard", authorization));
    assert!(!tell(&gateway("edge", "edge"), "bank", "other", authorization));
    let series = |kind, name: &str| {
        let id = PolicyId { kind, namespace: "shop".into(), name: name.into() };
        topology.traffic.store().verdict_series(1_010, &id)
    };
    let denied: f64 =
        series(PolicyKind::AuthorizationPolicy, "guard").iter().map(|it| it.denied_per_second).sum();
    assert!((denied - 1.4).abs() < 1e-9, "7 of the node and 7 of the gateway in 10 seconds: {denied}");
    let ghost = series(PolicyKind::AuthorizationPolicy, "ghost");
    assert!(ghost.iter().all(|it| it.denied_per_second == 0.0), "{ghost:?}");
}

/// What one replica was told, another shows, and it goes no further; nobody else may speak for a proxy.
#[tokio::test]
async fn replicas_tell_each_other() {
    let own = SpiffeId::parse("spiffe://cluster.local/ns/istio-system/sa/mesh-control").unwrap();
    let (sender, mut passed_on) = mpsc::channel(4);
    let with_relay =
        |reports| Topology { relay: Some(Relay { own: own.clone(), reports }), ..topology(hub()) };
    let told = TopologyReport { node: "n1".to_owned(), edges: vec![edge()], ..TopologyReport::default() };
    let as_who = |report: TopologyReport, id: Option<&SpiffeId>| {
        let mut request = Request::new(report);
        let security = id.map_or(Security::Plain, |id| Security::Mutual(id.clone()));
        request.extensions_mut().insert(Connection { address: ([10, 0, 0, 9], 1).into(), security });
        request
    };
    let first = with_relay(sender);
    first.take(as_who(told, None)).await.unwrap();
    let relayed = passed_on.try_recv().unwrap();
    assert_eq!((relayed.relayed_name.as_str(), relayed.edges.len()), ("n1", 1));

    let (sender, mut passed_on) = mpsc::channel(4);
    let second = with_relay(sender);
    let stranger = SpiffeId::parse("spiffe://cluster.local/ns/istio-system/sa/mesh-node").unwrap();
    for id in [None, Some(&stranger)] {
        let refused = second.take(as_who(relayed.clone(), id)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    }
    second.take(as_who(relayed, Some(&own))).await.unwrap();
    assert!(second.traffic.proxies()["n1"].is_relayed);
    assert_eq!(second.traffic.counters.disbelieved.load(Ordering::Relaxed), 0);
    assert!(passed_on.try_recv().is_err(), "it goes no further");
}
