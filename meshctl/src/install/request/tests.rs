use std::collections::BTreeSet;

use super::*;

fn plan(sets: &[&str]) -> Result<Plan> {
    let sets = sets.iter().map(|it| (*it).to_owned()).collect();
    Request { files: Vec::new(), sets }.plan()
}

fn titles(plan: &Plan) -> BTreeSet<String> {
    let objects = plan.objects.iter().filter(|it| it.kind != "CustomResourceDefinition");
    objects.map(Object::title).collect()
}

fn find<'p>(plan: &'p Plan, title: &str) -> &'p Value {
    &plan.objects.iter().find(|it| it.title() == title).unwrap_or_else(|| panic!("no {title}")).value
}

#[test]
fn profiles_are_what_they_say() {
    let of = |profile: &str| titles(&plan(&[&format!("profile={profile}")]).unwrap());
    let has = |titles: &BTreeSet<String>, title: &str| titles.contains(title);
    for (profile, control, node, ingress, egress) in [
        ("default", true, true, true, false),
        ("demo", true, true, true, true),
        ("minimal", true, true, false, false),
        ("ambient", true, true, false, false),
        ("empty", false, false, false, false),
    ] {
        let titles = of(profile);
        assert!(has(&titles, "Namespace istio-system"));
        assert_eq!(has(&titles, "Deployment istio-system/mesh-control"), control, "{profile}");
        assert_eq!(has(&titles, "ConfigMap istio-system/istio"), control, "{profile}");
        assert_eq!(has(&titles, "DaemonSet istio-system/mesh-node"), node, "{profile}");
        assert_eq!(has(&titles, "Service istio-system/istio-ingressgateway"), ingress, "{profile}");
        assert_eq!(has(&titles, "Service istio-system/istio-egressgateway"), egress, "{profile}");
    }
    let mesh: Value = {
        let plan = plan(&["profile=demo"]).unwrap();
        let text = find(&plan, "ConfigMap istio-system/istio")["data"]["mesh"].as_str().unwrap().to_owned();
        serde_yaml_ng::from_str(&text).unwrap()
    };
    assert_eq!(
        mesh,
        json!({"accessLogFile": "/dev/stdout", "defaultConfig": {"tracing": {"sampling": 100}}})
    );
}

#[test]
fn who_needs_what_comes_after_it() {
    let plan = plan(&["profile=demo"]).unwrap();
    let place = |title: &str| plan.objects.iter().position(|it| it.title() == title).expect("it is there");
    let order = [
        "Namespace istio-system",
        "ServiceAccount istio-system/mesh-control",
        "ClusterRole mesh-control",
        "Deployment istio-system/mesh-control",
        "DaemonSet istio-system/mesh-node",
        "Deployment istio-system/istio-ingressgateway",
        "ValidatingWebhookConfiguration mesh-validator",
    ];
    assert!(order.map(place).is_sorted());
    // Uninstalling finds them by it.
    let unlabelled: Vec<_> = plan
        .objects
        .iter()
        .filter(|it| it.kind != "CustomResourceDefinition")
        .filter(|it| it.value["metadata"]["labels"]["app.kubernetes.io/part-of"] != "mesh")
        .map(Object::title)
        .collect();
    assert_eq!(unlabelled, Vec::<String>::new());
}

#[test]
fn what_is_said_is_in_the_objects() {
    let plan = plan(&[
        "image.repository=registry.example.com/mesh",
        "tag=0.9.0",
        "control.replicas=3",
        "node.cni.enabled=true",
        "gateways.istio-ingressgateway.service.type=NodePort",
        "gateways.edge.service.type=ClusterIP",
        "components.pilot.k8s.env[0].name=A",
        "components.pilot.k8s.env[0].value=x: {y",
    ])
    .unwrap();
    let image = "registry.example.com/mesh:0.9.0";
    let control = find(&plan, "Deployment istio-system/mesh-control");
    let container = &control["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&control["spec"]["replicas"], &container["image"]), (&json!(3), &json!(image)));
    assert_eq!(container["env"][1], json!({"name": "A", "value": "x: {y"}));
    let args = container["args"].as_array().unwrap();
    assert!(args.contains(&json!(format!("--gateway-image={image}"))), "{args:?}");
    let node = &find(&plan, "DaemonSet istio-system/mesh-node")["spec"]["template"]["spec"];
    assert!(
        node["containers"][0]["args"].as_array().unwrap().contains(&json!("--cni-bin-dir=/host/opt/cni/bin"))
    );
    let of = |name: &str| find(&plan, &format!("Service istio-system/{name}"))["spec"].clone();
    assert_eq!(of("istio-ingressgateway")["type"], "NodePort");
    assert_eq!(
        (&of("edge")["type"], &of("edge")["selector"]["istio"]),
        (&json!("ClusterIP"), &json!("edge"))
    );
}

#[test]
fn the_configurations_trust_domain_is_that_of_certificates() {
    let good = plan(&["meshConfig.trustDomain=td.one"]).expect("good");
    assert_eq!(good.values["trustDomain"], "td.one");
    for name in ["mesh-control", "mesh-node", "gateways"] {
        let text = &good.texts.iter().find(|(it, _)| it.starts_with(name)).expect("a template").1;
        assert!(
            text.contains("--trust-domain=td.one") && !text.contains("--trust-domain=cluster.local"),
            "{name}"
        );
    }
    let two = ["meshConfig.trustDomain=td.one", "trustDomain=td.two"];
    let error = plan(&two).map(drop).expect_err("two").to_string();
    assert_eq!(
        error,
        "trustDomain: is td.two, and meshConfig.trustDomain is \"td.one\": leave one of them out"
    );
}

#[test]
fn what_cannot_be_is_refused_with_its_field() {
    for (set, field) in [
        ("profile=none", "profile"),
        ("contol.replicas=1", "contol"),
        ("node.capabilities=x", "node.capabilities"),
        ("control.replicas=many", "control"),
        ("control.replicas=1", "control.budget"),
        ("control.env[0].nme=x", "control"),
        ("image.pullPolicy=Sometimes", "image"),
        ("image.tag=a b", "image.tag"),
        ("trustDomain=Not/Good", "trustDomain"),
        ("gateways.Bad.enabled=true", "gateways.Bad"),
        ("gateways.istio-ingressgateway.service.type=Any", "gateways.istio-ingressgateway"),
        (
            "gateways.istio-ingressgateway.service.extra.type=x",
            "gateways.istio-ingressgateway.service.extra.type",
        ),
        ("gateways.istio-ingressgateway.autoscale.min=9", "gateways.istio-ingressgateway.autoscale"),
        ("node.cni.confDir=etc", "node.cni.confDir"),
    ] {
        let error = plan(&[set]).map(drop).expect_err(set).to_string();
        assert!(
            error.starts_with(&format!("{field}:")) || error.starts_with(&format!("{field}.")),
            "{set}: {error}"
        );
    }
}

#[test]
fn files_are_operators_or_values() {
    let request =
        |text: &str| Request { files: vec![("f.yaml".to_owned(), text.to_owned())], sets: Vec::new() };
    let operator = "{apiVersion: install.istio.io/v1alpha1, kind: IstioOperator, spec: {profile: minimal, hub: gcr.io/istio-release}}";
    let plan = request(operator).plan().unwrap();
    assert_eq!(plan.values["profile"], "minimal");
    assert!(plan.warnings[0].starts_with("f.yaml: spec.hub: "), "{:?}", plan.warnings);
    assert_eq!(request("{node: {enabled: false}}").plan().unwrap().values["node"]["enabled"], false);
    assert!(request("{kind: Deployment}").plan().is_err());
}

#[test]
fn the_page_links_to_what_is_said() {
    let arguments = |sets: &[&str]| -> Vec<String> {
        let plan = plan(sets).unwrap();
        let control = find(&plan, "Deployment istio-system/mesh-control");
        let arguments = control.pointer("/spec/template/spec/containers/0/args").unwrap();
        let arguments = arguments.as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned());
        arguments
            .filter(|it| ["--kiali", "--grafana", "--jaeger"].iter().any(|flag| it.starts_with(flag)))
            .collect()
    };
    assert_eq!(arguments(&[]), [""; 0]);
    let said = arguments(&[
        "control.links.kiali=http://localhost:20001/kiali",
        "control.links.jaeger=https://traces.example",
    ]);
    assert_eq!(said, ["--kiali=http://localhost:20001/kiali", "--jaeger=https://traces.example"]);
    let error = plan(&["control.links.grafana=javascript:alert(1)"]).map(drop).unwrap_err();
    assert!(error.to_string().contains("control.links.grafana"), "{error}");
}
