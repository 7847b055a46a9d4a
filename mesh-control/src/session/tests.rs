//! Subscribers that are new, slow, late, or ask for little.

use bytes::Bytes;
use mesh_core::model::{
    Asker, AskerProof, Credential, CredentialName, LocalPod, MeshSettings, Reader, RecordKey, Service,
};
use mesh_core::resource::{Material, Secret};
use mesh_proto::discovery::Status;

use super::*;

fn service(name: &str, port: u16) -> Record {
    Record::Service(Arc::new(Service {
        namespace: "ns".into(),
        name: name.into(),
        hostname: format!("{name}.ns").into(),
        vips: vec![format!("10.0.0.{}", name.len()).parse().unwrap()],
        ports: vec![mesh_core::model::ServicePort {
            number: port,
            name: None,
            app_protocol: None,
            tls: None,
            endpoints: Vec::new(),
        }],
        udp_ports: Vec::new(),
        session_affinity: None,
        local_only: false,
        traffic_distribution: None,
        headless: false,
        publish_not_ready: false,
        families: mesh_core::model::Families::Any,
        entry: None,
        exported: mesh_core::model::Exported::Everywhere,
        waypoint: None,
    }))
}

fn pod(uid: &str, node: &str) -> Record {
    Record::LocalPod(Arc::new(LocalPod {
        uid: uid.into(),
        node: node.into(),
        pod_uid: None,
        labels: Arc::default(),
        probe_ports: Vec::new(),
        enrolled: true,
        inbound_bypass: false,
        dns_bypass: false,
    }))
}

fn put(shelf: &mut Shelf, records: Vec<Record>) {
    shelf.apply(records.into_iter().map(|record| (record.key(), Some(record))).collect());
}

fn drop_service(shelf: &mut Shelf, name: &str) {
    let RecordKey::Service(key) = service(name, 1).key() else { unreachable!() };
    shelf.apply(vec![(RecordKey::Service(key), None)]);
}

fn ask(kind: ResourceType) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: kind.url().to_owned(), ..DeltaDiscoveryRequest::default() }
}

fn named(kind: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..ask(kind)
    }
}

fn answer(response: &DeltaDiscoveryResponse, error: Option<&str>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        error_detail: error.map(|text| Status { code: 3, message: text.to_owned() }),
        ..DeltaDiscoveryRequest::default()
    }
}

fn told(response: &DeltaDiscoveryResponse) -> Vec<String> {
    let name = |bytes: &Bytes| {
        let resource: mesh_proto::discovery::Resource = prost::Message::decode(bytes.clone()).unwrap();
        format!("+{}", resource.name)
    };
    let removed = response.removed_resources.iter().map(|name| format!("-{name}"));
    response.resources.iter().map(name).chain(removed).collect()
}

/// Everything that is to be told now, answered at once.
fn all(session: &mut Session, shelf: &Shelf) -> Vec<String> {
    let mut names = Vec::new();
    while let Some(response) = session.next(shelf).unwrap() {
        names.extend(told(&response));
        session.request(answer(&response, None), shelf).unwrap();
    }
    names
}

fn versions(shelf: &Shelf) -> HashMap<String, String> {
    let store = shelf.store(ResourceType::Address);
    store.iter().map(|entry| (entry.name.to_string(), entry.version.to_string())).collect()
}

#[test]
fn a_new_subscriber_is_told_everything_and_then_what_changes() {
    let mut shelf = Shelf::default();
    put(&mut shelf, vec![service("a", 1), service("b", 1)]);
    let mut session = Session::new(View::default());
    assert_eq!(session.next(&shelf), Ok(None), "nothing was asked for");
    session.request(ask(ResourceType::Address), &shelf).unwrap();
    assert_eq!(all(&mut session, &shelf), ["+ns/a.ns", "+ns/b.ns"]);
    put(&mut shelf, vec![service("b", 2)]);
    drop_service(&mut shelf, "a");
    assert_eq!(all(&mut session, &shelf), ["+ns/b.ns", "-ns/a.ns"]);
    assert_eq!(all(&mut session, &shelf), Vec::<String>::new());
}

#[test]
fn a_type_of_which_there_is_nothing_is_answered() {
    let shelf = Shelf::default();
    let mut session = Session::new(View::default());
    session.request(ask(ResourceType::Authorization), &shelf).unwrap();
    let response = session.next(&shelf).unwrap().unwrap();
    assert!(response.resources.is_empty() && response.removed_resources.is_empty());
    assert_eq!(session.next(&shelf), Ok(None));
}

#[test]
fn whoever_comes_back_is_told_the_difference() {
    let mut shelf = Shelf::default();
    put(&mut shelf, vec![service("a", 1), service("bb", 1), service("ccc", 1)]);
    let mut has = versions(&shelf);
    put(&mut shelf, vec![service("bb", 2), service("dddd", 1)]);
    drop_service(&mut shelf, "a");
    has.insert("ns/never.was".to_owned(), "1".to_owned());
    let mut session = Session::new(View::default());
    let request = DeltaDiscoveryRequest { initial_resource_versions: has, ..ask(ResourceType::Address) };
    session.request(request, &shelf).unwrap();
    assert_eq!(all(&mut session, &shelf), ["+ns/bb.ns", "+ns/dddd.ns", "-ns/a.ns", "-ns/never.was"]);
    put(&mut shelf, vec![service("ccc", 2)]);
    assert_eq!(all(&mut session, &shelf), ["+ns/ccc.ns"]);
    let mut again = Session::new(View::default());
    let request =
        DeltaDiscoveryRequest { initial_resource_versions: versions(&shelf), ..ask(ResourceType::Address) };
    again.request(request, &shelf).unwrap();
    assert_eq!(all(&mut again, &shelf), Vec::<String>::new(), "nothing differs");
}

/// As `WorkloadEntries` of machines do when a control plane has started: between the request and its answer.
#[test]
fn what_comes_again_before_it_was_taken_back_is_told_and_stays() {
    let mut shelf = Shelf::default();
    put(&mut shelf, vec![service("a", 1), service("bb", 1)]);
    let has = versions(&shelf);
    drop_service(&mut shelf, "a");
    let mut session = Session::new(View::default());
    let request = DeltaDiscoveryRequest { initial_resource_versions: has, ..ask(ResourceType::Address) };
    session.request(request, &shelf).unwrap();
    put(&mut shelf, vec![service("a", 1)]);
    assert_eq!(all(&mut session, &shelf), ["+ns/a.ns"]);
    drop_service(&mut shelf, "a");
    assert_eq!(all(&mut session, &shelf), ["-ns/a.ns"]);
}

#[test]
fn whoever_does_not_answer_is_told_the_newest_later() {
    let mut shelf = Shelf::default();
    let mut session = Session::new(View::default());
    session.request(ask(ResourceType::Address), &shelf).unwrap();
    let mut waiting = Vec::new();
    for port in 1..100 {
        put(&mut shelf, vec![service("a", port)]);
        waiting.extend(session.next(&shelf).unwrap());
    }
    assert_eq!(waiting.len(), MAX_IN_FLIGHT);
    session.request(answer(waiting.last().unwrap(), None), &shelf).unwrap();
    assert_eq!(all(&mut session, &shelf), ["+ns/a.ns"], "once, however often it changed");
}

#[test]
fn what_was_rejected_is_kept_and_not_repeated() {
    let mut shelf = Shelf::default();
    put(&mut shelf, vec![service("a", 1)]);
    let mut session = Session::new(View::default());
    session.request(ask(ResourceType::Address), &shelf).unwrap();
    let response = session.next(&shelf).unwrap().unwrap();
    session.request(answer(&response, Some("no good")), &shelf).unwrap();
    assert_eq!(session.next(&shelf), Ok(None));
    let (_, progress, error) = session.progress().next().unwrap();
    assert_eq!((progress.rejected, progress.accepted, progress.in_flight), (1, 0, 0));
    assert_eq!(error.map(|text| &**text), Some("no good"));
    // Something else that is good is no answer to it; its next good version is.
    let error = |session: &Session| session.progress().next().unwrap().2.cloned();
    put(&mut shelf, vec![service("b", 1)]);
    assert_eq!(all(&mut session, &shelf), ["+ns/b.ns"]);
    assert_eq!(error(&session).as_deref(), Some("no good"));
    put(&mut shelf, vec![service("a", 2)]);
    assert_eq!(all(&mut session, &shelf), ["+ns/a.ns"]);
    assert_eq!(error(&session), None);
    assert_eq!(session.progress().next().unwrap().1.rejected, 1, "it is still counted");
}

#[test]
fn names_and_addresses_on_demand() {
    let mut shelf = Shelf::default();
    put(&mut shelf, vec![service("a", 1), service("bb", 1)]);
    let mut session = Session::new(View::default());
    let nothing = DeltaDiscoveryRequest {
        resource_names_unsubscribe: vec!["*".to_owned()],
        ..named(ResourceType::Address, &["*"])
    };
    session.request(nothing, &shelf).unwrap();
    assert_eq!(all(&mut session, &shelf), Vec::<String>::new());
    session.request(named(ResourceType::Address, &["/10.0.0.2", "/10.9.9.9", "ns/none"]), &shelf).unwrap();
    assert_eq!(all(&mut session, &shelf), ["+ns/bb.ns", "-/10.9.9.9", "-ns/none"]);
    put(&mut shelf, vec![service("a", 2), service("bb", 2)]);
    assert_eq!(all(&mut session, &shelf), ["+ns/bb.ns"], "it is followed from now on, and the other is not");
}

fn credential(namespace: &str, key: &str, readers: &[&str]) -> Record {
    let secret = Secret { key: Some(Material::new(key.as_bytes())), ..Secret::default() };
    let name = CredentialName { namespace: namespace.into(), name: "shop".into() };
    let reader = |name: &&str| Reader {
        name: (*name).into(),
        uid: Some(format!("uid-{name}").into()),
        service_account: "default".into(),
        workload: (*name).into(),
        gateway: None,
    };
    let readers = readers.iter().map(reader).collect();
    Record::Credential(Arc::new(Credential { name: Arc::new(name), secret: Arc::new(secret), readers }))
}

fn asker(namespace: &str, pod: &str) -> Asker {
    let proof = AskerProof::Pod { name: pod.into(), uid: format!("uid-{pod}").into() };
    Asker { namespace: namespace.into(), proof }
}

#[test]
fn keys_are_told_to_the_gateways_that_are_to_have_them_and_to_nobody_else() {
    for (view, expected) in [
        (View::default(), &[][..]),
        (View::of(Some("n1".into())), &[]),
        (View::of_gateway(asker("shop", "gw")), &[]),
        (View::of_gateway(asker("edge", "app")), &[]),
        (View::of_gateway(asker("edge", "gw")), &["+edge/shop"]),
    ] {
        let mut shelf = Shelf::default();
        put(&mut shelf, vec![credential("edge", "one", &["gw"]), credential("other", "two", &["gw"])]);
        let mut session = Session::new(view.clone());
        session.request(ask(ResourceType::Credential), &shelf).unwrap();
        assert_eq!(all(&mut session, &shelf), expected, "{view:?}");
        // By name as well, where what must not be known looks like what is not there.
        let mut session = Session::new(view.clone());
        let names = ["edge/shop", "other/shop", "none/shop"];
        session.request(named(ResourceType::Credential, &names), &shelf).unwrap();
        let (told, refused): (Vec<_>, Vec<_>) =
            all(&mut session, &shelf).into_iter().partition(|name| name.starts_with('+'));
        assert_eq!(
            (told, refused.len()),
            (expected.iter().map(ToString::to_string).collect(), 3 - expected.len())
        );
        put(&mut shelf, vec![credential("edge", "three", &["gw"]), credential("other", "four", &["gw"])]);
        assert_eq!(all(&mut session, &shelf), expected, "{view:?}");
        // And who says that it has one hears nothing of whether that is the newest.
        let mut session = Session::new(view.clone());
        let has = names.map(|name| (name.to_owned(), "0".to_owned())).into();
        let request =
            DeltaDiscoveryRequest { initial_resource_versions: has, ..ask(ResourceType::Credential) };
        session.request(request, &shelf).unwrap();
        let told = all(&mut session, &shelf);
        assert_eq!(told.iter().filter(|name| name.starts_with('+')).count(), expected.len(), "{view:?}");
    }
}

#[test]
fn keys_come_and_go_with_who_is_to_have_them() {
    let mut shelf = Shelf::default();
    put(&mut shelf, vec![credential("edge", "one", &["gw"]), credential("other", "one", &[])]);
    let mut session = Session::new(View::of_gateway(asker("edge", "new")));
    session.request(ask(ResourceType::Credential), &shelf).unwrap();
    assert_eq!(all(&mut session, &shelf), Vec::<String>::new());
    assert_eq!(
        (session.take_withheld(), session.take_withheld()),
        (1, 0),
        "other namespaces' are not counted"
    );
    put(&mut shelf, vec![credential("edge", "one", &["gw", "new"])]);
    assert_eq!(all(&mut session, &shelf), ["+edge/shop"]);
    assert_eq!(session.take_withheld(), 0);
    put(&mut shelf, vec![credential("edge", "one", &["gw"])]);
    assert_eq!(all(&mut session, &shelf), ["-edge/shop"]);
    assert_eq!(session.take_withheld(), 1);
    // One that comes back has to give up what it is not to have any more.
    let mut session = Session::new(View::of_gateway(asker("edge", "new")));
    let has = [("edge/shop".to_owned(), "0".to_owned())].into();
    let request = DeltaDiscoveryRequest { initial_resource_versions: has, ..ask(ResourceType::Credential) };
    session.request(request, &shelf).unwrap();
    assert_eq!(all(&mut session, &shelf), ["-edge/shop"]);
    assert_eq!(session.take_withheld(), 1);
}

#[test]
fn a_node_is_told_of_its_own_pods() {
    let mut shelf = Shelf::default();
    put(&mut shelf, vec![pod("a", "n1"), pod("b", "n2")]);
    let mut session = Session::new(View::of(Some("n1".into())));
    session.request(ask(ResourceType::LocalPod), &shelf).unwrap();
    assert_eq!(all(&mut session, &shelf), ["+a"]);
    put(&mut shelf, vec![pod("a", "n2"), pod("b", "n1"), pod("c", "n2")]);
    assert_eq!(all(&mut session, &shelf), ["+b", "-a"]);
    let mut nobody = Session::new(View::default());
    nobody.request(ask(ResourceType::LocalPod), &shelf).unwrap();
    assert_eq!(all(&mut nobody, &shelf), Vec::<String>::new());
}

#[test]
fn what_others_refer_to_comes_first_and_goes_last() {
    let mut shelf = Shelf::default();
    put(&mut shelf, vec![service("a", 1), pod("p", "n1"), Record::Mesh(Arc::new(MeshSettings::default()))]);
    let mut session = Session::new(View::of(Some("n1".into())));
    for kind in ResourceType::ALL.into_iter().rev() {
        session.request(ask(kind), &shelf).unwrap();
    }
    assert_eq!(all(&mut session, &shelf), ["+mesh", "+p", "+ns/a.ns"]);
    let RecordKey::LocalPod(uid) = pod("p", "n1").key() else { unreachable!() };
    shelf.apply(vec![(RecordKey::LocalPod(uid), None)]);
    drop_service(&mut shelf, "a");
    assert_eq!(all(&mut session, &shelf), ["-ns/a.ns", "-p"]);
}

#[test]
fn demands_have_limits() {
    let shelf = Shelf::default();
    let mut session = Session::new(View::default());
    let many: Vec<String> = (0..=MAX_NAMES).map(|index| format!("ns/{index}")).collect();
    let request = DeltaDiscoveryRequest { resource_names_subscribe: many, ..ask(ResourceType::Address) };
    assert_eq!(session.request(request, &shelf), Err(Refusal::TooManyNames));
    let long = "x".repeat(MAX_NAME + 1);
    assert_eq!(session.request(named(ResourceType::Address, &[&long]), &shelf), Err(Refusal::NameTooLong));
    let unknown = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/x".to_owned(),
        ..named(ResourceType::Mesh, &["x"])
    };
    assert_eq!(session.request(unknown, &shelf), Ok(()));
}

#[test]
fn large_meshes_come_in_parts() {
    let mut shelf = Shelf::default();
    put(
        &mut shelf,
        (0..20_000).map(|index| pod(&format!("pod-{index:05}{}", "x".repeat(100)), "n1")).collect(),
    );
    let mut session = Session::new(View::of(Some("n1".into())));
    session.request(ask(ResourceType::LocalPod), &shelf).unwrap();
    let mut parts = 0;
    let mut total = 0;
    while let Some(response) = session.next(&shelf).unwrap() {
        let bytes: usize = response.resources.iter().map(Bytes::len).sum();
        assert!(bytes <= batch::MAX_BATCH + 1024, "{bytes}");
        (parts, total) = (parts + 1, total + response.resources.len());
        session.request(answer(&response, None), &shelf).unwrap();
    }
    assert_eq!(total, 20_000);
    assert!(parts > 3, "{parts}");
}

fn world(yaml: &[&str]) -> mesh_core::model::World {
    let mut world = mesh_core::model::World::new(mesh_core::model::CompileOptions::default());
    apply(&mut world, yaml);
    world
}

fn apply(world: &mut mesh_core::model::World, yaml: &[&str]) {
    let text = yaml.join("\n---\n");
    let parsed = mesh_core::resource::parse(&mesh_core::resource::SourceFile { name: "t.yaml", text: &text });
    assert!(parsed.rejected.is_empty(), "{:?}", parsed.findings);
    parsed.objects.iter().for_each(|object| world.upsert(object));
}

fn publish(world: &mut mesh_core::model::World, shelf: &mut Shelf) {
    let news = world.commit();
    world.take_reaches().into_iter().for_each(|(node, reach)| shelf.set_reach(node, reach));
    shelf.apply(news);
}

const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: a, labels: {app: p}}, \
    spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {podIP: 10.0.0.1}}";
const FAR: &str = "{apiVersion: v1, kind: Pod, metadata: {name: far, namespace: b, labels: {app: far}}, \
    spec: {nodeName: n2, containers: [{name: c, image: i}]}, status: {podIP: 10.0.0.2}}";
const SERVICES: &[&str] = &[
    "{apiVersion: v1, kind: Service, metadata: {name: one, namespace: a}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}",
    "{apiVersion: v1, kind: Service, metadata: {name: two, namespace: b}, spec: {clusterIP: 10.96.0.2, selector: {app: far}, ports: [{port: 80}]}}",
    "{apiVersion: v1, kind: Service, metadata: {name: three, namespace: b, annotations: {networking.istio.io/exportTo: '.'}}, spec: {clusterIP: 10.96.0.3, ports: [{port: 80}]}}",
];
const SIDECAR: &str = "{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: default, namespace: a}, \
    spec: {egress: [{hosts: ['./*']}]}}";

#[test]
fn a_node_is_told_of_what_its_pods_can_see() {
    let mut shelf = Shelf::default();
    let mut world = world(SERVICES);
    apply(&mut world, &[POD, FAR]);
    publish(&mut world, &mut shelf);
    let mut session = Session::new(View::of(Some("n1".into())));
    session.request(ask(ResourceType::Address), &shelf).unwrap();
    // The third is not exported to namespace a.
    assert_eq!(
        all(&mut session, &shelf),
        [
            "+a/one.a.svc.cluster.local",
            "+b/two.b.svc.cluster.local",
            "+Kubernetes//Pod/a/p",
            "+Kubernetes//Pod/b/far"
        ]
    );
    // A Sidecar narrows the view: what has gone out of it is taken back.
    apply(&mut world, &[SIDECAR]);
    publish(&mut world, &mut shelf);
    assert_eq!(all(&mut session, &shelf), ["-Kubernetes//Pod/b/far", "-b/two.b.svc.cluster.local"]);
    // By address it is told all the same, and followed.
    session.request(named(ResourceType::Address, &["/10.0.0.2"]), &shelf).unwrap();
    assert_eq!(all(&mut session, &shelf), ["+Kubernetes//Pod/b/far"]);
    // Without the Sidecar everything comes back.
    let sidecar =
        mesh_core::resource::ObjectKey { kind: "Sidecar", namespace: "a".into(), name: "default".into() };
    world.remove(&sidecar);
    publish(&mut world, &mut shelf);
    assert_eq!(all(&mut session, &shelf), ["+Kubernetes//Pod/b/far", "+b/two.b.svc.cluster.local"]);
}

mod policies;

mod configs;
