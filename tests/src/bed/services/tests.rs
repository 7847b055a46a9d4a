use super::*;

fn objects(service: Value) -> (Objects, Key) {
    let key = Key::new("default", "web");
    let mut objects = Objects::default();
    objects.services.insert(key.clone(), serde_json::from_value(service).unwrap());
    (objects, key)
}

fn pod(name: &str, port: u16) -> (Key, Pod) {
    let pod = json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]}
    });
    (Key::new("default", name), serde_json::from_value(pod).unwrap())
}

fn candidate<'a>((key, manifest): &'a (Key, Pod), ips: &'a [IpAddr], ready: bool) -> Candidate<'a> {
    Candidate { key, manifest, ips, node: "node-1", uid: "u", ready, terminating: false }
}

fn views(objects: &Objects, pods: &[Candidate<'_>]) -> ServiceView {
    let mut addresses = ServiceAddresses::default();
    addresses.update(&objects.services);
    view(objects, &addresses, pods).remove(0)
}

#[test]
fn one_slice_for_each_family() {
    let (objects, _) =
        objects(json!({"spec": {"selector": {"app": "web"}, "ipFamilyPolicy": "PreferDualStack",
        "ports": [{"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http"}]}}));
    let (a, b) = (pod("a", 8080), pod("b", 8080));
    let (ips_a, ips_b) = (addr::pod(1, 2).both(), addr::pod(1, 3).both());
    let view = views(&objects, &[candidate(&a, &ips_a, true), candidate(&b, &ips_b, false)]);
    assert_eq!(view.slices.len(), 2);
    assert_eq!(view.slices[1]["addressType"], "IPv6");
    assert_eq!(view.slices[1]["endpoints"][0]["addresses"][0], "fd00:244:1::2");
    assert_eq!(
        view.slices[0]["ports"][0],
        json!({"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "http"})
    );
    assert_eq!(view.slices[0]["endpoints"][1]["conditions"]["ready"], false);
    let backends: Vec<String> = view.ports[0].backends.iter().map(|b| b.addr.to_string()).collect();
    assert_eq!(backends, ["10.244.1.2:8080", "[fd00:244:1::2]:8080"], "only the ready one");
    assert_eq!(view.vips.len(), 2);
    let spec = view.manifest.spec.unwrap();
    assert_eq!(spec.cluster_ips.unwrap(), view.vips.iter().map(IpAddr::to_string).collect::<Vec<_>>());
}

#[test]
fn named_ports_that_differ_make_slices_that_differ() {
    let (objects, _) =
        objects(json!({"spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}}));
    let (a, b) = (pod("a", 8080), pod("b", 9090));
    let ips = [IpAddr::from([10, 244, 1, 2])];
    let view = views(&objects, &[candidate(&a, &ips, true), candidate(&b, &ips, true)]);
    let ports: Vec<&Value> = view.slices.iter().map(|s| &s["ports"][0]["port"]).collect();
    assert_eq!(ports, [8080, 9090]);
    assert_ne!(view.slices[0]["metadata"]["name"], view.slices[1]["metadata"]["name"]);
    assert_eq!(view.vips.len(), 1, "IPv4 alone unless asked for");
}

#[test]
fn headless_services_have_members_and_no_address() {
    let (objects, _) =
        objects(json!({"spec": {"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 80}]}}));
    let a = pod("a", 80);
    let ips = addr::pod(1, 2).both();
    let view = views(&objects, &[candidate(&a, &ips, true)]);
    assert_eq!((view.vips.len(), view.members), (0, vec![(ips[0], "a".to_owned())]));
    assert_eq!(view.manifest.spec.unwrap().cluster_ip.as_deref(), Some("None"));
}

#[test]
fn explicit_addresses_win_and_others_stay() {
    let service =
        |ip: Option<&str>| serde_json::from_value::<Service>(json!({"spec": {"clusterIP": ip}})).unwrap();
    let mut services = BTreeMap::from([(Key::new("a", "auto"), service(None))]);
    let mut addresses = ServiceAddresses::default();
    addresses.update(&services);
    let auto = addresses.0[&Key::new("a", "auto")].clone();
    services.insert(Key::new("a", "fixed"), service(Some("10.96.0.10")));
    services.insert(Key::new("a", "another"), service(None));
    addresses.update(&services);
    assert_eq!(addresses.0[&Key::new("a", "auto")], auto);
    assert_eq!(addresses.0[&Key::new("a", "fixed")], [IpAddr::from([10, 96, 0, 10])]);
    assert_ne!(addresses.0[&Key::new("a", "another")], auto);
}

#[test]
fn slices_that_the_user_wrote_serve_services_without_selector() {
    let (mut objects, key) = objects(json!({"spec": {"ports": [{"name": "db", "port": 5432}]}}));
    let slice = json!({"metadata": {"name": "x", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "ports": [{"name": "db", "port": 15432}], "endpoints": [{"addresses": ["10.1.1.1"]}, {"addresses": ["10.1.1.2"], "conditions": {"ready": false}}]});
    objects.slices.insert(Key::new(&key.namespace, "x"), serde_json::from_value(slice).unwrap());
    let view = views(&objects, &[]);
    assert_eq!(view.ports[0].backends, [Backend { addr: "10.1.1.1:15432".parse().unwrap(), node: None }]);
    assert!(view.slices.is_empty());
}
