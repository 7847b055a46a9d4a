use super::*;

fn translated(spec: &str) -> Translated {
    translate(&serde_yaml_ng::from_str(spec).unwrap())
}

/// As a tutorial has it: the gateway that everybody knows is off, and another one has fixed ports of nodes.
#[test]
fn a_tutorials_file_is_understood() {
    let Translated { values, warnings } = translated(
        "
profile: default
addonComponents: {grafana: {enabled: true}, kiali: {enabled: true}, prometheus: {enabled: false}}
components:
  ingressGateways:
  - {enabled: false, name: istio-ingressgateway}
  - enabled: true
    name: ingressgateway
    k8s:
      service:
        type: NodePort
        ports:
        - {name: http2, nodePort: 32502, port: 80, targetPort: 8080}
values: {kiali: {dashboard: {auth: {strategy: anonymous}}}}
",
    );
    let wanted = json!({
        "profile": "default",
        "gateways": {
            "istio-ingressgateway": {"enabled": false},
            "ingressgateway": {
                "enabled": true,
                "labels": {"app": "ingressgateway", "istio": "ingressgateway"},
                "service": {
                    "type": "NodePort",
                    "ports": [{"name": "http2", "nodePort": 32502, "port": 80, "targetPort": 8080}],
                },
            },
        },
    });
    assert_eq!(values, wanted);
    let fields: Vec<_> = warnings.iter().map(|it| it.split(": ").next().unwrap()).collect();
    assert_eq!(fields, ["addonComponents.grafana", "addonComponents.kiali", "values.kiali.dashboard"]);
    assert!(
        warnings[1].ends_with("from its own manifests or those of Istio's samples/addons)"),
        "{}",
        warnings[1]
    );
}

#[test]
fn what_kubernetes_is_to_do_is_honoured() {
    let Translated { values, warnings } = translated(
        "
hub: registry.example.com/team
tag: 0.2.0
components:
  pilot:
    k8s: {replicaCount: 1, resources: {requests: {cpu: 50m}}, env: [{name: A, value: b}]}
  egressGateways:
  - name: istio-egressgateway
    enabled: true
    k8s: {hpaSpec: {minReplicas: 2, maxReplicas: 3}, overlays: []}
  cni: {enabled: true}
meshConfig: {accessLogFile: /dev/stdout}
",
    );
    let wanted = json!({
        "image": {"repository": "registry.example.com/team/mesh", "tag": "0.2.0"},
        "control": {
            "replicas": 1, "autoscale": {"enabled": false}, "budget": false,
            "resources": {"requests": {"cpu": "50m"}}, "env": [{"name": "A", "value": "b"}],
        },
        "gateways": {"istio-egressgateway": {
            "enabled": true, "autoscale": {"enabled": true, "min": 2, "max": 3},
        }},
        "node": {"cni": {"enabled": true}},
        "meshConfig": {"accessLogFile": "/dev/stdout"},
    });
    assert_eq!(values, wanted);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("components.egressGateways[0].k8s.overlays: "), "{warnings:?}");
}

#[test]
fn components_that_are_one_here_do_not_overrule_each_other() {
    let spec = "components: {cni: {enabled: false}, ztunnel: {enabled: true, k8s: {resources: {requests: {cpu: 50m}}}}}";
    let wanted = json!({"node": {
        "enabled": true, "cni": {"enabled": false}, "resources": {"requests": {"cpu": "50m"}},
    }});
    assert_eq!(translated(spec).values, wanted);
}

#[test]
fn images_of_istio_are_not_taken_for_ours() {
    let Translated { values, warnings } = translated("{hub: docker.io/istio, tag: 1.27.1, revision: canary}");
    assert_eq!(values, json!({}));
    assert_eq!(warnings.len(), 3, "{warnings:?}");
}
