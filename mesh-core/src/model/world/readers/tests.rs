use super::*;
use crate::model::{Asker, AskerProof, CompileOptions};
use crate::resource::{ObjectKey, SourceFile, parse};

const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: gw, namespace: anywhere }
spec:
  selector: { istio: ingressgateway }
  servers:
  - { port: { number: 443, name: https, protocol: HTTPS }, hosts: ['*'], tls: { mode: SIMPLE, credentialName: shop } }
---
apiVersion: v1
kind: Secret
metadata: { name: shop, namespace: edge }
stringData: { cert: a, key: very-secret }
";

fn pod(name: &str, account: &str, labels: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, namespace: edge, uid: uid-{name}, labels: {{ {labels} }} }}\n\
         spec: {{ serviceAccountName: {account}, containers: [{{ name: c, image: i }}] }}\n"
    )
}

fn world() -> World {
    World::new(CompileOptions { credentials: CredentialScope::Everybody, ..CompileOptions::default() })
}

fn apply(world: &mut World, yaml: &str) {
    let parsed = parse(&SourceFile { name: "t.yaml", text: yaml });
    assert!(parsed.rejected.is_empty(), "{:?}", parsed.findings);
    parsed.objects.iter().for_each(|object| world.upsert(object));
    world.commit();
}

/// Who is to have `edge/NAME` of those in the world, by pod.
fn readers(world: &World, name: &str) -> String {
    let key = CredentialName { namespace: "edge".into(), name: name.into() };
    match world.told.get(&RecordKey::Credential(Arc::new(key))) {
        Some(Record::Credential(it)) => {
            it.readers.iter().map(|reader| reader.name.to_string()).collect::<Vec<_>>().join(" ")
        }
        _ => "not told".to_owned(),
    }
}

#[test]
fn those_whom_a_gateway_selects_have_what_it_names() {
    let (ours, other) = (pod("in", "in", "istio: ingressgateway"), pod("app", "in", "app: shop"));
    let mut world = world();
    apply(&mut world, &[GATEWAY, &ours, &other].concat());
    assert_eq!(readers(&world, "shop"), "in");
    // Labels come and go, and so do pods.
    apply(&mut world, &pod("app", "in", "istio: ingressgateway"));
    assert_eq!(readers(&world, "shop"), "app in");
    apply(&mut world, &pod("app", "in", "app: shop"));
    assert_eq!(readers(&world, "shop"), "in");
    world.remove(&ObjectKey { kind: "Pod", namespace: "edge".into(), name: "in".into() });
    world.commit();
    assert_eq!(readers(&world, "shop"), "");
    // The Gateway itself may come to mean others, or everybody, which is nobody.
    apply(&mut world, &GATEWAY.replace("istio: ingressgateway", "app: shop"));
    assert_eq!(readers(&world, "shop"), "app");
    apply(&mut world, &GATEWAY.replace("{ istio: ingressgateway }", "{}"));
    assert_eq!(readers(&world, "shop"), "");
    let machine = "
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: { name: vm, namespace: edge, labels: { istio: ingressgateway } }
spec: { address: 10.1.1.1, serviceAccount: in }
---
";
    apply(&mut world, &[machine, GATEWAY].concat());
    assert_eq!(readers(&world, "shop"), "vm");
}

#[test]
fn a_gateway_of_the_gateway_api_is_its_own_pods() {
    let gateway = |more: &str| {
        format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: gw, namespace: edge }}
spec:
  gatewayClassName: istio
  {more}
  listeners: [{{ name: https, port: 443, protocol: HTTPS, tls: {{ certificateRefs: [{{ name: shop }}] }} }}]
---
apiVersion: v1
kind: Secret
metadata: {{ name: shop, namespace: edge }}
stringData: {{ cert: a, key: very-secret }}
"
        )
    };
    let mut world = world();
    let pods = [
        pod("gw-istio-1", "gw-istio", "'gateway.networking.k8s.io/gateway-name': gw"),
        pod("other-1", "gw-istio", "'gateway.networking.k8s.io/gateway-name': other"),
        pod("own", "own", "app: own"),
    ];
    apply(&mut world, &[&*gateway(""), &pods.concat()].concat());
    assert_eq!(readers(&world, "shop"), "gw-istio-1");
    // One that its user deploys is behind the Service that it names.
    apply(&mut world, &gateway("addresses: [{ type: Hostname, value: own.edge.svc.cluster.local }]"));
    assert_eq!(readers(&world, "shop"), "gw-istio-1");
    let service = "
apiVersion: v1
kind: Service
metadata: { name: own, namespace: edge }
spec: { selector: { app: own }, ports: [{ port: 443 }] }
";
    apply(&mut world, service);
    assert_eq!(readers(&world, "shop"), "gw-istio-1 own");
    apply(&mut world, &gateway("addresses: [{ type: Hostname, value: own.other.svc.cluster.local }]"));
    assert_eq!(readers(&world, "shop"), "gw-istio-1");
}

#[test]
fn what_a_rule_names_is_for_gateways_or_for_those_whom_it_selects() {
    let rule = |selector: &str| {
        format!(
            "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: out, namespace: edge }}
spec:
  host: db.example
  {selector}
  trafficPolicy: {{ tls: {{ mode: MUTUAL, credentialName: db }} }}
---
apiVersion: v1
kind: Secret
metadata: {{ name: db, namespace: edge }}
stringData: {{ cert: a, key: very-secret }}
"
        )
    };
    let mut world = world();
    let pods = [pod("in", "in", "istio: ingressgateway"), pod("app", "in", "app: shop")].concat();
    apply(&mut world, &[&*pods, &rule("")].concat());
    assert_eq!(readers(&world, "db"), "", "there is no gateway");
    apply(&mut world, GATEWAY);
    assert_eq!(readers(&world, "db"), "in");
    apply(&mut world, &rule("workloadSelector: { matchLabels: { app: shop } }"));
    assert_eq!(readers(&world, "db"), "app");
}

#[test]
fn who_asks_has_to_be_who_reads() {
    let mut world = world();
    apply(&mut world, &[GATEWAY, &pod("in", "account", "istio: ingressgateway")].concat());
    let key = CredentialName { namespace: "edge".into(), name: "shop".into() };
    let Some(Record::Credential(told)) = world.told.get(&RecordKey::Credential(Arc::new(key))) else {
        panic!("not told")
    };
    let is_told =
        |namespace: &str, proof: AskerProof| told.is_for(&Asker { namespace: namespace.into(), proof });
    let pod = |name: &str, uid: &str| AskerProof::Pod { name: name.into(), uid: uid.into() };
    let account = |account: &str, called: &str| AskerProof::Account {
        service_account: account.into(),
        called: called.into(),
    };
    assert!(is_told("edge", pod("in", "uid-in")));
    assert!(is_told("edge", account("account", "in")));
    for (namespace, proof) in [
        ("other", pod("in", "uid-in")),
        ("edge", pod("in", "uid-of-an-older-one")),
        ("edge", pod("app", "uid-in")),
        ("edge", account("other", "in")),
        ("edge", account("account", "app")),
        ("edge", account("account", "")),
        ("other", account("account", "in")),
    ] {
        assert!(!is_told(namespace, proof.clone()), "{namespace} {proof:?}");
    }
}

#[test]
fn one_that_reads_everything_himself_needs_no_list() {
    let scope = CredentialScope::Namespace("edge".to_owned());
    let mut world = World::new(CompileOptions { credentials: scope, ..CompileOptions::default() });
    apply(&mut world, &[GATEWAY, &pod("in", "in", "istio: ingressgateway")].concat());
    assert_eq!(readers(&world, "shop"), "");
}
