use super::*;
use crate::bed::manifests::Key;
use crate::bed::services::{ServiceAddresses, view};

fn facts() -> Facts {
    let manifest = json!({"metadata": {"namespace": "shop", "name": "web-1", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}],
            "readinessProbe": {"httpGet": {"port": 80}}}]}});
    Facts {
        key: Key::new("shop", "web-1"),
        manifest: serde_json::from_value(manifest).unwrap(),
        uid: "some-uid".to_owned(),
        node: "node-1".to_owned(),
        ips: addr::pod(1, 2).both().to_vec(),
        host_ip: "192.168.77.1".parse().unwrap(),
        netns: "/n".into(),
        cgroup: "/c".into(),
        files: "/f".into(),
        logs: "/l".into(),
    }
}

fn health(ready: bool) -> Health {
    Health { phase: "Running", ready, message: None, containers: Vec::new() }
}

#[test]
fn pods_look_as_a_cluster_shows_them() {
    let (facts, health) = (facts(), health(true));
    let pod = pod(&PodView { facts: &facts, health: &health, created: now(), terminating: None });
    assert_eq!((&pod["kind"], &pod["apiVersion"]), (&json!("Pod"), &json!("v1")));
    assert_eq!(pod["spec"]["nodeName"], "node-1");
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    assert_eq!(pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"], 80);
    assert_eq!(pod["status"]["podIPs"], json!([{"ip": "10.244.1.2"}, {"ip": "fd00:244:1::2"}]));
    assert_eq!(pod["status"]["conditions"][3], json!({"type": "Ready", "status": "True"}));
    assert_eq!(pod["metadata"]["uid"], "some-uid");
    let created = pod["metadata"]["creationTimestamp"].as_str().unwrap();
    assert!(created.ends_with('Z') && created.len() == 20, "{created}");
}

#[test]
fn a_terminating_pod_is_not_ready() {
    let (facts, health) = (facts(), health(true));
    let pod = pod(&PodView { facts: &facts, health: &health, created: now(), terminating: Some(now()) });
    assert_eq!(pod["status"]["conditions"][3]["status"], "False");
    assert!(pod["metadata"]["deletionTimestamp"].is_string());
}

#[test]
fn everything_published_is_valid_for_a_node() {
    let (facts, health) = (facts(), health(true));
    let mut objects = Objects::default();
    let service =
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    objects.services.insert(Key::new("shop", "web"), serde_json::from_value(service).unwrap());
    let mut addresses = ServiceAddresses::default();
    addresses.update(&objects.services);
    let services = view(&objects, &addresses, &[]);
    let nodes = [NodeNet { name: "node-1".into(), number: 1, netns: "x".into(), address: addr::node(1) }];
    let pods = [PodView { facts: &facts, health: &health, created: now(), terminating: None }];
    let files = render(&Input::default(), &objects, &nodes, &pods, &services);
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert!(
        names.contains(&"bed.Pod.shop.web-1.yaml") && names.contains(&"bed.Namespace..shop.yaml"),
        "{names:?}"
    );
    assert_eq!(names.iter().filter(|n| n.starts_with("bed.EndpointSlice.shop.web-")).count(), 1);
    for (name, text) in &files {
        let parsed = mesh_core::resource::parse(&mesh_core::resource::SourceFile { name, text });
        assert_eq!((parsed.objects.len(), parsed.findings), (1, vec![]), "{text}");
    }
}

#[test]
fn files_are_replaced_whole_and_removed() {
    let base = std::env::temp_dir().join(format!("bed-publisher-{}", std::process::id()));
    let mut publisher = Publisher::new(base.join("objects"), base.join("work")).unwrap();
    let files = |names: &[&str]| names.iter().map(|n| ((*n).to_owned(), format!("# {n}"))).collect();
    publisher.publish(files(&["a", "b"])).unwrap();
    publisher.publish(files(&["b", "c"])).unwrap();
    let mut left: Vec<_> = fs::read_dir(base.join("objects"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["b", "c"]);
    assert_eq!(fs::read_dir(base.join("work")).unwrap().count(), 0);
    fs::remove_dir_all(base).unwrap();
}
