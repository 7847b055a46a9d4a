//! What runs Gateways: made, changed, put right, and left alone where it is another's. On the suite's own server, where a
//! test can be the user, the kubelet and the cloud.

use std::path::Path;
use std::time::Duration;

use clap::Parser as _;
use k8s_openapi::api::apps::v1::Deployment;
use mesh_ca::authorize::Rules;
use mesh_node::admin::Ports;
use mesh_node::config::{Command, GatewayOptions, Role};
use mesh_tests::apiserver::{ApiServer, Fault, Refusal, Resource};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::api::Cluster;
use crate::control::{Control, until};

/// A cluster with the Gateway API, and a namespace in it.
async fn installed() -> Cluster {
    let cluster = Cluster::own_mesh().await;
    let server = ours(&cluster);
    server.define(Resource::custom("gateway.networking.k8s.io", &["v1"], "Gateway", "gateways"));
    server.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
    cluster
}

fn ours(cluster: &Cluster) -> &ApiServer {
    cluster.ours.as_ref().expect("the suite's own")
}

fn gateway(name: &str, class: &str, more: &Value) -> Value {
    let listener = match class {
        "istio-waypoint" => json!({"name": "mesh", "port": 15008, "protocol": "HBONE"}),
        _ => json!({"name": "http", "port": 80, "protocol": "HTTP"}),
    };
    let mut spec = json!({"gatewayClassName": class, "listeners": [listener]});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
    })
}

fn read(server: &ApiServer, kind: &str, name: &str) -> Option<Value> {
    server.read(kind, "shop", name)
}

async fn soon(server: &ApiServer, kind: &str, name: &str) -> Value {
    until(&format!("{kind} {name}"), || read(server, kind, name).is_some()).await;
    read(server, kind, name).expect("it is there")
}

/// `STATUS/REASON` of a condition of a Gateway.
fn condition(server: &ApiServer, gateway: &str, sort: &str) -> (String, String) {
    let object = read(server, "Gateway", gateway).expect("the Gateway");
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|it| it["type"] == sort).cloned().unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (format!("{}/{}", text("status"), text("reason")), text("message"))
}

async fn says(server: &ApiServer, gateway: &str, sort: &str, wanted: &str) -> String {
    until(&format!("{sort}={wanted} of {gateway}"), || condition(server, gateway, sort).0 == wanted).await;
    condition(server, gateway, sort).1
}

/// A pod of a Gateway, as a kubelet shows it once it is ready.
fn pod(gateway: &str) -> Value {
    let labels = json!({"gateway.networking.k8s.io/gateway-name": gateway});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("{gateway}-1"), "namespace": "shop", "labels": labels},
        "spec": {"nodeName": "n1", "containers": [{"name": "istio-proxy", "image": "i"}]},
        "status": {"phase": "Running", "podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}], "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// Requests that would write something of these kinds.
fn writes(requests: &[String]) -> Vec<&String> {
    let kinds =
        ["deployments", "services", "serviceaccounts", "horizontalpodautoscalers", "poddisruptionbudgets"];
    let is_one = |request: &&String| {
        let mut words = request.split(' ');
        let (verb, kind) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        ["create", "patch", "update", "delete"].contains(&verb) && kinds.contains(&kind)
    };
    requests.iter().filter(is_one).collect()
}

/// The command line of a generated Deployment, read by the program itself.
fn options(deployment: &Value) -> (Role, Deployment) {
    let deployment: Deployment = serde_json::from_value(deployment.clone()).expect("a Deployment");
    let template = deployment.spec.template.spec.clone().expect("a pod");
    let args = template.containers[0].args.clone().expect("arguments");
    let command = Command::try_parse_from(["mesh-node".to_owned()].into_iter().chain(args));
    (command.expect("a command line that mesh-node takes").role, deployment)
}

fn check_pod(options: &GatewayOptions, deployment: &Deployment) {
    let pod = deployment.spec.template.spec.clone().expect("a pod");
    let container = &pod.containers[0];
    let mounts = container.volume_mounts.clone().expect("mounts");
    let volume = |path: &Path| {
        let mount = mounts.iter().find(|it| path.starts_with(&it.mount_path)).expect("a mount");
        pod.volumes.iter().flatten().find(|it| it.name == mount.name).expect("a volume").clone()
    };
    let roots = volume(options.control_ca.as_deref().expect("roots"));
    assert_eq!(roots.config_map.map(|it| it.name).as_deref(), Some("istio-ca-root-cert"));
    let token = options.token.clone().expect("a token");
    let sources = volume(&token).projected.and_then(|it| it.sources).expect("sources");
    let projected = sources[0].service_account_token.clone().expect("a token");
    assert_eq!(token.file_name().and_then(|it| it.to_str()), Some(&*projected.path));
    let rules = Rules::new(options.trust_domain.clone(), "istio-system");
    assert_eq!(Some(&rules.audiences[0]), projected.audience.as_ref());
    for place in [options.state.clone().expect("a place"), "/run/mesh/shop.gw".into()] {
        assert!(volume(&place).empty_dir.is_some(), "{}", place.display());
    }
    assert_eq!(options.service_account.as_deref(), pod.service_account_name.as_deref());
    let url: http::Uri = options.control.as_deref().expect("a URL").parse().expect("a URL");
    assert_eq!((url.host(), url.port_u16()), (Some("mesh-control.istio-system.svc"), Some(15012)));
    let Ports { metrics, ready, .. } = Ports::default();
    let ports: Vec<_> = container.ports.iter().flatten().map(|it| it.container_port).collect();
    assert_eq!(ports, [i32::from(metrics), i32::from(ready)]);
    assert_eq!((options.metrics_port, options.ready_port), (metrics, ready));
    let grace = pod.termination_grace_period_seconds.and_then(|it| u64::try_from(it).ok()).expect("seconds");
    assert!(Duration::from_secs(grace) > options.drain);
}

#[tokio::test]
async fn a_gateway_is_deployed_and_says_when_it_is_reached() {
    let cluster = installed().await;
    let server = ours(&cluster);
    server.put(&gateway("gw", "istio", &json!({"infrastructure": {"labels": {"key1": "value1"}}})));
    let _control = Control::ready(&cluster).await;
    let deployment = soon(server, "Deployment", "gw-istio").await;
    let service = soon(server, "Service", "gw-istio").await;
    let account = soon(server, "ServiceAccount", "gw-istio").await;
    let uid = read(server, "Gateway", "gw").expect("the Gateway")["metadata"]["uid"].clone();
    let owner =
        json!([{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": "gw", "uid": uid}]);
    for object in [&deployment, &service, &account] {
        assert_eq!(object["metadata"]["ownerReferences"], owner);
        assert_eq!(object["metadata"]["labels"]["key1"], "value1");
    }
    let (Role::Gateway(options), deployment) = options(&deployment) else { panic!("the role of a gateway") };
    assert_eq!(options.name.to_string(), "shop/gw");
    check_pod(&options, &deployment);
    // Neither address nor pod, then both; and it is taken back.
    says(server, "gw", "Programmed", "False/AddressNotAssigned").await;
    let mut placed = service;
    placed["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}});
    server.put(&placed);
    says(server, "gw", "Programmed", "False/Pending").await;
    server.put(&pod("gw"));
    says(server, "gw", "Programmed", "True/Programmed").await;
    let status = read(server, "Gateway", "gw").expect("the Gateway")["status"].clone();
    assert_eq!(status["addresses"], json!([{"type": "IPAddress", "value": "192.0.2.7"}]));
    server.remove("Pod", "shop", "gw-1");
    says(server, "gw", "Programmed", "False/Pending").await;
}

#[tokio::test]
async fn a_waypoint_is_deployed_and_says_when_it_is_reached() {
    let cluster = installed().await;
    let server = ours(&cluster);
    server.put(&gateway("way", "istio-waypoint", &json!({})));
    let _control = Control::ready(&cluster).await;
    let service = soon(server, "Service", "way").await;
    let ports: Vec<_> =
        service["spec"]["ports"].as_array().expect("ports").iter().map(|it| it["port"].clone()).collect();
    assert_eq!((ports, &service["spec"]["type"]), (vec![json!(15021), json!(15008)], &json!("ClusterIP")));
    let (Role::Waypoint(options), _) = options(&soon(server, "Deployment", "way").await) else {
        panic!("a waypoint")
    };
    assert_eq!(options.name.to_string(), "shop/way");
    says(server, "way", "Programmed", "False/Pending").await;
    server.put(&pod("way"));
    says(server, "way", "Programmed", "True/Programmed").await;
    says(server, "way", "Accepted", "True/Accepted").await;
    let status = read(server, "Gateway", "way").expect("the Gateway")["status"].clone();
    assert_eq!(status["addresses"][0]["value"], "way.shop.svc.cluster.local");
}

#[tokio::test]
async fn what_runs_a_gateway_follows_it_and_is_put_right() {
    let cluster = installed().await;
    let server = ours(&cluster);
    server.put(&gateway("gw", "istio", &json!({})));
    let _control = Control::ready(&cluster).await;
    soon(server, "Service", "gw-istio").await;
    let listeners = json!([{"name": "web", "port": 8080, "protocol": "HTTP"}]);
    server.put(&gateway("gw", "istio", &json!({"listeners": listeners})));
    let ports = || {
        let service = read(server, "Service", "gw-istio").unwrap_or_default();
        let all = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|it| it["port"].as_u64()).collect::<Vec<_>>()
    };
    until("the new port", || ports() == [15021, 8080]).await;
    // Removed and changed by hand.
    for kind in ["Deployment", "ServiceAccount", "Service"] {
        let before = soon(server, kind, "gw-istio").await["metadata"]["uid"].clone();
        server.remove(kind, "shop", "gw-istio");
        let is_new = || read(server, kind, "gw-istio").is_some_and(|it| it["metadata"]["uid"] != before);
        until(&format!("another {kind}"), is_new).await;
    }
    let image = || {
        read(server, "Deployment", "gw-istio").unwrap_or_default()["spec"]["template"]["spec"]["containers"]
            [0]["image"]
            .clone()
    };
    let ours = image();
    let path = "/apis/apps/v1/namespaces/shop/deployments/gw-istio";
    let patch =
        json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "theirs"}]);
    cluster.patch(path, "json-patch+json", &patch).await.expect(200);
    until("its image", || image() == ours).await;
    // What others say besides is theirs.
    cluster.patch(path, "merge-patch+json", &json!({"spec": {"replicas": 3}})).await.expect(200);
    sleep(Duration::from_secs(2)).await;
    server.requests();
    sleep(Duration::from_secs(3)).await;
    let requests = server.requests();
    assert!(writes(&requests).is_empty(), "what is right is not written: {requests:?}");
    assert_eq!(read(server, "Deployment", "gw-istio").expect("it is there")["spec"]["replicas"], 3);
    // Its user deploys it from now on.
    server.put(&gateway(
        "gw",
        "istio",
        &json!({"addresses": [{"type": "Hostname", "value": "mine.shop.svc.cluster.local"}]}),
    ));
    for kind in ["Deployment", "Service", "ServiceAccount"] {
        until(&format!("the end of the {kind}"), || read(server, kind, "gw-istio").is_none()).await;
    }
}

#[tokio::test]
async fn parameters_change_what_runs_a_gateway_and_bad_ones_change_nothing() {
    let cluster = installed().await;
    let server = ours(&cluster);
    let map = |data: &Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "options", "namespace": "shop"}, "data": data});
    let budget = "spec: {minAvailable: 1}";
    server.put(&map(&json!({"deployment": "spec: {replicas: 2}", "podDisruptionBudget": budget})));
    let reference = json!({"parametersRef": {"group": "", "kind": "ConfigMap", "name": "options"}});
    server.put(&gateway("gw", "istio", &json!({"infrastructure": reference})));
    let _control = Control::ready(&cluster).await;
    assert_eq!(soon(server, "Deployment", "gw-istio").await["spec"]["replicas"], 2);
    assert_eq!(soon(server, "PodDisruptionBudget", "gw-istio").await["spec"]["minAvailable"], 1);
    let before = server.list("Deployment");
    server.put(&map(&json!({"deployment": "spec: {replicas: many}"})));
    let why = says(server, "gw", "Accepted", "False/InvalidParameters").await;
    assert!(why.starts_with("ConfigMap shop/options: deployment: invalid type: string \"many\""), "{why}");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(server.list("Deployment"), before);
    assert!(read(server, "PodDisruptionBudget", "gw-istio").is_some());
    // What is asked for no more goes.
    server.put(&map(&json!({"deployment": "spec: {replicas: 4}"})));
    says(server, "gw", "Accepted", "True/Accepted").await;
    let replicas = || read(server, "Deployment", "gw-istio").unwrap_or_default()["spec"]["replicas"] == 4;
    until("more pods", replicas).await;
    until("the end of the budget", || read(server, "PodDisruptionBudget", "gw-istio").is_none()).await;
}

#[tokio::test]
async fn what_another_has_made_is_left_to_him() {
    let cluster = installed().await;
    let server = ours(&cluster);
    let theirs = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "gw-istio", "namespace": "shop", "labels": {"app": "theirs"}},
        "spec": {"selector": {"matchLabels": {"app": "theirs"}}, "template": {"metadata": {"labels": {"app": "theirs"}}}},
    });
    server.put(&theirs);
    let before = read(server, "Deployment", "gw-istio");
    server.put(&gateway("gw", "istio", &json!({})));
    let _control = Control::ready(&cluster).await;
    let why = says(server, "gw", "Programmed", "False/NoResources").await;
    assert!(
        why.starts_with("Deployment shop/gw-istio is there already and was not made for this Gateway"),
        "{why}"
    );
    let events = || server.list("Event");
    until("an event", || !events().is_empty()).await;
    assert_eq!(events()[0]["involvedObject"]["name"], "gw");
    assert_eq!(
        (&events()[0]["reason"], &events()[0]["type"]),
        (&json!("DeploymentFailed"), &json!("Warning"))
    );
    sleep(Duration::from_secs(6)).await;
    assert_eq!(events().len(), 1, "once is enough");
    assert_eq!(read(server, "Deployment", "gw-istio"), before);
    assert!(read(server, "Service", "gw-istio").is_none(), "all or nothing");
    // Once it has gone there is room.
    server.remove("Deployment", "shop", "gw-istio");
    soon(server, "Service", "gw-istio").await;
    says(server, "gw", "Programmed", "False/AddressNotAssigned").await;
}

#[tokio::test]
async fn what_the_server_refuses_is_told() {
    let cluster = installed().await;
    let server = ours(&cluster);
    server.fail(Fault {
        matching: "patch services shop/gw-istio".to_owned(),
        times: usize::MAX,
        delay: Duration::ZERO,
        refusal: Some(Refusal::new(403, "Forbidden", "exceeded quota: services")),
    });
    server.put(&gateway("gw", "istio", &json!({})));
    let _control = Control::ready(&cluster).await;
    let why = says(server, "gw", "Programmed", "False/NoResources").await;
    assert!(why.contains("exceeded quota: services"), "{why}");
    server.heal();
    soon(server, "Service", "gw-istio").await;
    says(server, "gw", "Programmed", "False/AddressNotAssigned").await;
}

#[tokio::test]
async fn of_two_replicas_one_deploys_and_is_followed() {
    let cluster = installed().await;
    let server = ours(&cluster);
    let mut first = Control::ready(&cluster).await;
    let _second = Control::ready(&cluster).await;
    server.requests();
    server.put(&gateway("gw", "istio", &json!({})));
    soon(server, "Service", "gw-istio").await;
    sleep(Duration::from_secs(3)).await;
    let requests = server.requests();
    let writes = writes(&requests);
    assert_eq!(writes.len(), 3, "one of each: {writes:?}");
    first.terminate().await;
    server.put(&gateway("late", "istio", &json!({})));
    soon(server, "Service", "late-istio").await;
    let requests = server.requests();
    let again = self::writes(&requests).into_iter().filter(|it| it.contains("/gw-istio")).count();
    assert!(again <= 3, "{requests:?}");
}
