//! Changes one by one come to the same as everything at once, and cost no more than what they touch.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;

use crate::model::{CompileOptions, Mirror, Record, RecordKey, World, compile};
use crate::resource::{Object, ObjectKey, SourceFile, parse};

/// The variants of a small cluster's objects: later ones of a name replace earlier ones.
const VARIANTS: &[&str] = &[
    "{kind: Namespace, metadata: {name: app, labels: {istio.io/dataplane-mode: ambient}}}",
    "{kind: Namespace, metadata: {name: app}}",
    "{kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}, spec: {podCIDR: 10.0.0.0/24}}",
    "{kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: z2}}, spec: {podCIDRs: [10.0.1.0/24]}}",
    "{kind: Pod, metadata: {name: a, namespace: app, labels: {app: web}}, spec: {nodeName: n1, containers: [{name: c, image: i, ports: [{name: web, containerPort: 8080}]}]}, status: {podIP: 10.0.0.1}}",
    "{kind: Pod, metadata: {name: a, namespace: app, labels: {app: db}}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {podIP: 10.0.0.2}}",
    "{kind: Pod, metadata: {name: a, namespace: app, deletionTimestamp: '2024-01-01T00:00:00Z', labels: {app: web}}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {podIP: 10.0.0.1}}",
    "{kind: Pod, metadata: {name: b, namespace: app, labels: {app: web}}, spec: {nodeName: n2, containers: [{name: c, image: i, ports: [{name: web, containerPort: 9090}]}]}, status: {podIP: 10.0.0.1, conditions: [{type: Ready, status: 'False'}]}}",
    "{kind: Pod, metadata: {name: b, namespace: app, labels: {app: web}}, spec: {nodeName: n1, hostNetwork: true, containers: [{name: c, image: i}]}, status: {podIP: 10.0.0.3}}",
    "{kind: Pod, metadata: {name: b, namespace: app}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {phase: Succeeded, podIP: 10.0.0.3}}",
    "{kind: Service, metadata: {name: s, namespace: app}, spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: web}]}}",
    "{kind: Service, metadata: {name: s, namespace: app}, spec: {clusterIP: 10.96.0.1, publishNotReadyAddresses: true, selector: {app: db}, ports: [{name: x, port: 80}, {name: y, port: 81}]}}",
    "{kind: Service, metadata: {name: s, namespace: app}, spec: {type: ExternalName, externalName: example.com}}",
    "{kind: Service, metadata: {name: t, namespace: app, creationTimestamp: '2020-01-01T00:00:00Z'}, spec: {clusterIP: 10.96.0.1, ipFamilies: [IPv4], ports: [{name: x, port: 80}]}}",
    "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s-1, namespace: app, labels: {kubernetes.io/service-name: s}}, addressType: IPv4, ports: [{port: 7070}], endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.9.9.9]}]}",
    "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s-1, namespace: app, labels: {kubernetes.io/service-name: s}}, addressType: IPv4, ports: [{name: x, port: 7070}], endpoints: [{addresses: [10.0.0.3], targetRef: {kind: Pod, name: b}}, {addresses: [10.0.0.2], conditions: {ready: false}}]}",
    "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s-1, namespace: app, labels: {kubernetes.io/service-name: t}}, addressType: IPv4, ports: [{name: x, port: 7070}], endpoints: [{addresses: [10.0.0.1], conditions: {terminating: true}}, {addresses: [10.0.0.2]}]}",
    "{kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: 'trustDomain: td.one'}}",
    "{kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: 'trustDomainAliases: [td.old]'}}",
    "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: istio-system}, spec: {mtls: {mode: STRICT}}}",
    "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: ns, namespace: app}, spec: {mtls: {mode: PERMISSIVE}}}",
    "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: ns, namespace: app}, spec: {selector: {matchLabels: {app: web}}, portLevelMtls: {8080: {mode: PERMISSIVE}}}}",
    "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: app}, spec: {selector: {matchLabels: {app: web}}, rules: [{from: [{source: {principals: [cluster.local/ns/x/sa/y]}}]}]}}",
    "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: app}, spec: {selector: {matchLabels: {app: web}}, action: AUDIT, rules: [{}]}}",
    "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: app}, spec: {action: DENY, rules: [{to: [{operation: {ports: ['80']}}]}]}}",
    "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: r, namespace: istio-system}, spec: {selector: {matchLabels: {app: web}}, action: DENY, rules: [{}]}}",
    "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: one, namespace: app}, spec: {hosts: [db.example, s.app.svc.cluster.local], addresses: [10.96.0.1, 192.0.2.1], resolution: STATIC, ports: [{name: http, number: 80, protocol: HTTP, targetPort: 8080}], endpoints: [{address: 10.0.0.9, ports: {http: 81}, locality: r/z}, {address: 10.0.0.1}]}}",
    "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: one, namespace: app, creationTimestamp: '2020-01-01T00:00:00Z'}, spec: {hosts: [db.example], location: MESH_INTERNAL, resolution: STATIC, ports: [{name: http, number: 80, protocol: HTTP}], workloadSelector: {labels: {app: web}}}}",
    "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: two, namespace: app, creationTimestamp: '2021-01-01T00:00:00Z'}, spec: {hosts: [db.example, '*.example'], addresses: [192.0.2.1], resolution: STATIC, ports: [{name: http, number: 80, protocol: HTTP}], workloadSelector: {labels: {app: db}}}}",
    "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: two, namespace: app}, spec: {hosts: [web.example], resolution: DNS, exportTo: ['.'], ports: [{name: tls, number: 443, protocol: TLS}]}}",
    "{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: vm, namespace: app, labels: {app: web}}, spec: {address: 10.7.0.1, ports: {http: 8888}, weight: 3, serviceAccount: vm}}",
    "{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: vm, namespace: app}, spec: {address: vm.example, labels: {app: db}}}",
    "{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: vm, namespace: app, labels: {app: web, networking.istio.io/tunnel: http}}, spec: {address: 10.7.0.1, serviceAccount: vm}}",
];

fn object(index: usize) -> Object {
    let text = VARIANTS[index].replacen('{', "{apiVersion: v1, ", 1);
    let text = if VARIANTS[index].contains("apiVersion") { VARIANTS[index].to_owned() } else { text };
    // Each object in a file of its own, so that findings have one order whatever came first.
    let parsed = parse(&SourceFile { name: &format!("{index:02}.yaml"), text: &text });
    let mut objects = parsed.objects;
    assert_eq!(objects.len(), 1, "{:?}\n{text}", parsed.findings);
    objects.remove(0)
}

#[derive(Debug, Clone)]
enum Step {
    Put(usize),
    Delete(usize),
    Commit,
}

fn step() -> impl Strategy<Value = Step> {
    let index = 0..VARIANTS.len();
    prop_oneof![5 => index.clone().prop_map(Step::Put), 2 => index.prop_map(Step::Delete), 2 => Just(Step::Commit)]
}

fn tell(mirror: &mut Mirror, news: Vec<(RecordKey, Option<Record>)>) {
    for (key, record) in news {
        match record {
            Some(record) => mirror.apply(record),
            None => mirror.remove(&key),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn changes_one_by_one_come_to_the_same(
        steps in prop::collection::vec(step(), 0..60), node in select(&["", "n1", "n2"][..]),
    ) {
        let objects: Vec<Object> = (0..VARIANTS.len()).map(object).collect();
        let options = CompileOptions { node: node.to_owned(), ..CompileOptions::default() };
        let mut world = World::new(options.clone());
        let mut mirror = Mirror::new(node);
        let mut there: BTreeMap<ObjectKey, Object> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(index) => {
                    world.upsert(&objects[index]);
                    there.insert(objects[index].key(), objects[index].clone());
                }
                Step::Delete(index) => {
                    world.remove(&objects[index].key());
                    there.remove(&objects[index].key());
                }
                Step::Commit => {
                    tell(&mut mirror, world.commit());
                    // A snapshot in between must leave nothing behind.
                    let _ = mirror.snapshot();
                }
            }
        }
        tell(&mut mirror, world.commit());
        let whole: Vec<Object> = there.into_values().collect();
        let at_once = compile(&whole, &options);
        prop_assert_eq!(
            serde_json::to_string_pretty(&mirror.snapshot()).unwrap(),
            serde_json::to_string_pretty(&at_once.snapshot).unwrap()
        );
        prop_assert_eq!(world.findings(), at_once.findings);
        prop_assert!(world.commit().is_empty(), "nothing changed since");
    }
}

fn keys(news: &[(RecordKey, Option<Record>)]) -> Vec<String> {
    let kind = |key: &RecordKey| match key {
        RecordKey::Mesh => "mesh".to_owned(),
        RecordKey::Trust => "trust".to_owned(),
        RecordKey::Policy(name) => format!("policy {name}"),
        RecordKey::Config(key) => format!("config {key}"),
        RecordKey::Service(key) => format!("service {key}"),
        RecordKey::LocalPod(uid) => format!("pod {uid}"),
        RecordKey::Workload(uid) => format!("workload {uid}"),
        RecordKey::Credential(name) => format!("credential {name}"),
    };
    news.iter()
        .map(|(key, record)| format!("{}{}", if record.is_some() { "+" } else { "-" }, kind(key)))
        .collect()
}

#[test]
fn what_is_told_is_what_changed_and_in_order() {
    let mut world = World::new(CompileOptions::default());
    for index in [0, 2, 4, 10, 22] {
        world.upsert(&object(index));
    }
    let expected = [
        "+mesh",
        "+policy app/p",
        "+service app/s.app.svc.cluster.local",
        "+pod Kubernetes//Pod/app/a",
        "+workload Kubernetes//Pod/app/a",
    ];
    assert_eq!(keys(&world.commit()), expected);
    world.upsert(&object(4));
    assert!(world.commit().is_empty(), "the same again is no news");
    world.remove(&object(22).key());
    assert_eq!(keys(&world.commit()), ["+workload Kubernetes//Pod/app/a", "-policy app/p"]);
    world.remove(&object(4).key());
    assert_eq!(keys(&world.commit()), ["-workload Kubernetes//Pod/app/a", "-pod Kubernetes//Pod/app/a"]);
}

/// One more pod costs the same in a mesh of 1,000 and of 20,000 pods: what is told is one pod's records.
#[test]
fn a_change_tells_of_nothing_else() {
    for size in [100_usize, 2_000] {
        let mut world = World::new(CompileOptions::default());
        let pod = |index: usize, ready: bool| {
            let text = format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: p{index}, namespace: ns{}, labels: {{app: web}}}}, \
                 spec: {{nodeName: n1, containers: [{{name: c, image: i}}]}}, \
                 status: {{podIP: 10.{}.{}.1, conditions: [{{type: Ready, status: '{}'}}]}}}}",
                index % 10,
                index / 200,
                index % 200,
                if ready { "True" } else { "False" },
            );
            parse(&SourceFile { name: "p.yaml", text: &text }).objects.remove(0)
        };
        (0..size).for_each(|index| world.upsert(&pod(index, true)));
        assert_eq!(world.commit().len(), 2 * size + 1);
        world.upsert(&pod(7, false));
        assert_eq!(keys(&world.commit()), ["+workload Kubernetes//Pod/ns7/p7"]);
    }
}

#[test]
fn a_host_without_addresses_is_reached_at_those_it_was_given() {
    let entry = |spec: &str| {
        let text = format!(
            "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: e, namespace: app}}, spec: {{{spec}}}}}"
        );
        parse(&SourceFile { name: "e.yaml", text: &text }).objects.remove(0)
    };
    let mut world = World::new(CompileOptions::default());
    let mut mirror = Mirror::new("");
    let port = "resolution: DNS, ports: [{name: http, number: 80, protocol: HTTP}]";
    world.upsert(&entry(&format!("hosts: [a.example, b.example], {port}")));
    tell(&mut mirror, world.commit());
    let vips = |mirror: &mut Mirror| {
        let snapshot = mirror.snapshot();
        let services =
            snapshot.services().map(|service| (service.hostname.to_string(), service.vips.clone()));
        services.collect::<BTreeMap<_, _>>()
    };
    let given = vips(&mut mirror);
    for host in ["a.example", "b.example"] {
        let [v4, v6] = given[host][..] else { panic!("{given:?}") };
        assert!(v4.to_string().starts_with("240.240.") && v6.to_string().starts_with("2001:2:"), "{given:?}");
        let snapshot = mirror.snapshot();
        let target = snapshot.resolve(std::net::SocketAddr::new(v4, 80));
        assert!(
            matches!(target, crate::model::Target::Service { service, .. } if *service.hostname == *host)
        );
    }
    assert_ne!(given["a.example"], given["b.example"]);
    world.upsert(&entry(&format!("hosts: [a.example], addresses: [192.0.2.1], {port}")));
    tell(&mut mirror, world.commit());
    assert_eq!(vips(&mut mirror)["a.example"], ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn of_several_entries_with_a_host_each_client_has_the_nearest_that_it_sees() {
    let entry = |namespace: &str, more: &str| {
        let text = format!(
            "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: e, namespace: {namespace}}}, \
             spec: {{hosts: [db.example], addresses: [192.0.2.1], resolution: STATIC, \
             ports: [{{name: tcp, number: 80, protocol: TCP}}]{more}}}}}"
        );
        parse(&SourceFile { name: &format!("{namespace}.yaml"), text: &text }).objects.remove(0)
    };
    let mut world = World::new(CompileOptions::default());
    let mut mirror = Mirror::new("");
    let host = std::sync::Arc::from("db.example");
    let mut of = |objects: &[Object], namespace: &str| {
        objects.iter().for_each(|object| world.upsert(object));
        tell(&mut mirror, world.commit());
        let snapshot = mirror.snapshot();
        snapshot.service_by_host(&host, namespace).map(|service| service.namespace.to_string())
    };
    assert_eq!(of(&[entry("b", ", exportTo: ['.']"), entry("c", "")], "b").as_deref(), Some("b"));
    assert_eq!(of(&[], "a").as_deref(), Some("c"), "what is not exported is not there");
    assert_eq!(of(&[entry("b", "")], "a").as_deref(), Some("b"), "the first by namespace");
    assert_eq!(of(&[], "c").as_deref(), Some("c"));
    // An address of an entry that a client does not see leads where it leads without.
    of(&[entry("b", ", exportTo: ['.']"), entry("c", ", exportTo: ['.']")], "a");
    let snapshot = mirror.snapshot();
    let at = "192.0.2.1:80".parse().unwrap();
    let seen =
        |namespace| matches!(snapshot.resolve_for(namespace, at), crate::model::Target::Service { .. });
    assert_eq!((seen("a"), snapshot.resolve_for("a", at)), (false, crate::model::Target::External));
}

/// Of networks the smallest counts, of what they contain only what is nobody else's.
#[test]
fn networks_lead_to_service_entries() {
    let entry = |name: &str, host: &str, more: &str| {
        let text = format!(
            "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}, namespace: app}}, \
             spec: {{hosts: [{host}], ports: [{{name: tcp, number: 80, protocol: TCP}}], {more}}}}}"
        );
        parse(&SourceFile { name: "test.yaml", text: &text }).objects.remove(0)
    };
    let mut world = World::new(CompileOptions::default());
    let mut mirror = Mirror::new("");
    world.upsert(&entry("wide", "wide.example", "addresses: [203.0.0.0/8, 'fd77::/32']"));
    world.upsert(&entry("narrow", "narrow.example", "addresses: [203.0.113.9/24, 203.0.113.7]"));
    world.upsert(&entry("own", "own.example", "addresses: [203.5.0.0/16], exportTo: ['.']"));
    let mut host = |world: &mut World, namespace: &str, at: &str| {
        tell(&mut mirror, world.commit());
        match mirror.snapshot().resolve_for(namespace, at.parse().unwrap()) {
            crate::model::Target::Service { service, .. } => service.hostname.to_string(),
            crate::model::Target::External => "-".to_owned(),
            other => format!("{other:?}"),
        }
    };
    for (at, expected) in [
        ("203.0.113.1:80", "narrow.example"),
        ("203.0.113.7:80", "narrow.example"),
        ("[::ffff:203.0.113.1]:80", "narrow.example"),
        ("203.0.114.1:80", "wide.example"),
        ("203.5.1.1:80", "own.example"),
        ("[fd77::1]:80", "wide.example"),
        ("[fd78::1]:80", "-"),
        ("203.0.113.1:81", "-"),
        ("204.0.0.1:80", "-"),
    ] {
        assert_eq!(host(&mut world, "app", at), expected, "{at}");
    }
    assert_eq!(host(&mut world, "other", "203.5.1.1:80"), "wide.example", "who does not see the smaller one");
    world.upsert(&entry("narrow", "narrow.example", "addresses: [203.0.113.0/25]"));
    assert_eq!(host(&mut world, "app", "203.0.113.200:80"), "wide.example", "it has become smaller");
    world.remove(&entry("narrow", "narrow.example", "").key());
    assert_eq!(host(&mut world, "app", "203.0.113.1:80"), "wide.example");
    world.remove(&entry("wide", "wide.example", "").key());
    assert_eq!(host(&mut world, "app", "203.0.113.1:80"), "-");
}

fn machine(health: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: vm, namespace: app, \
         labels: {{app: vm, networking.istio.io/tunnel: http}}, annotations: {{proxy.istio.io/health-checks-enabled: \"{health}\"}}}}, \
         spec: {{address: 10.7.0.1, serviceAccount: vm}}}}"
    )
}

#[test]
fn a_workload_entry_that_ends_tunnels_is_local_to_a_node_of_its_own() {
    let policy = |name: &str, app: &str| {
        format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: app}}, \
             spec: {{selector: {{matchLabels: {{app: {app}}}}}, rules: [{{}}]}}}}"
        )
    };
    let read = |text: &str| parse(&SourceFile { name: "a.yaml", text }).objects.remove(0);
    let mut world = World::new(CompileOptions::default());
    let mut mirror = Mirror::new("app/vm");
    world.upsert(&read(&machine("false")));
    tell(&mut mirror, world.commit());
    let local = |mirror: &mut Mirror| mirror.snapshot().local_pods().next().cloned();
    let workload = local(&mut mirror).unwrap();
    assert!(workload.enrolled && workload.ready && workload.policies.is_empty());
    assert!(workload.labels.contains_key("app"), "its own node knows all of its labels");
    // A policy comes after it, which selects it, and one that does not.
    world.upsert(&read(&policy("mine", "vm")));
    world.upsert(&read(&policy("other", "web")));
    tell(&mut mirror, world.commit());
    let listed = |workload: &crate::model::Workload| {
        workload.policies.iter().map(|it| it.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(listed(&local(&mut mirror).unwrap()), ["mine"]);
    // Its node is told what its namespace sees, and the policy that it lists.
    let reaches = world.take_reaches();
    let (_, reach) = reaches.iter().find(|(node, _)| **node == *"app/vm").unwrap();
    let is_mine = |record: &Record| matches!(record, Record::Policy(policy) if *policy.key().name == *"mine");
    assert!(world.records().any(|record| is_mine(record) && reach.includes(record)));
    world.remove(&read(&policy("mine", "vm")).key());
    // What is to be looked at before anybody may send there.
    world.upsert(&read(&machine("true")));
    tell(&mut mirror, world.commit());
    let workload = local(&mut mirror).unwrap();
    assert!(!workload.ready && listed(&workload).is_empty());
    let mut other = Mirror::new("app");
    world.records().cloned().for_each(|record| other.apply(record));
    assert!(other.snapshot().local_pods().next().is_none(), "to no other node");
}
