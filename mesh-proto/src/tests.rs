//! There and back again.

use std::sync::Arc;

use mesh_core::model::Mirror;
use mesh_core::model::{CompileOptions, Credential, CredentialName, Record, RecordKey, World, compile};
use mesh_core::policy::{
    Clause, Effect, Group, Matcher, PathMatch, Policy, PolicyName, Rule, Scope, StringMatch,
};
use mesh_core::resource::{Material, Secret, SourceFile, parse};
use proptest::prelude::*;

use crate::decode::Decoder;
use crate::names::{self, ResourceType};
use crate::{encode, policy, security};

const YAML: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: app, labels: {istio.io/dataplane-mode: ambient}}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1, topology.kubernetes.io/region: r1}}, spec: {podCIDRs: [10.0.0.0/24, 'fd00::/64']}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a-0, namespace: app, uid: u-1, labels: {app: web, version: v2, service.istio.io/canonical-name: shop}, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: a, uid: x, controller: true}]},
 spec: {nodeName: n1, serviceAccountName: web, containers: [{name: c, image: i, ports: [{name: web, containerPort: 8080}], readinessProbe: {tcpSocket: {port: web}}}]}, status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: app, annotations: {ambient.istio.io/bypass-inbound-capture: 'true', ambient.istio.io/dns-capture: 'false'}}, spec: {nodeName: n1, hostNetwork: true, containers: [{name: c, image: i}]}, status: {podIP: 192.168.0.1, conditions: [{type: Ready, status: 'False'}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: app, labels: {istio.io/use-waypoint: way, istio.io/ingress-use-waypoint: 'true', istio.io/use-waypoint-canary: other}, annotations: {istio.io/use-waypoint-canary-weight: '7'}}, spec: {clusterIP: 10.96.0.1, sessionAffinity: ClientIP, internalTrafficPolicy: Local, selector: {app: web}, ports: [{name: http, port: 80, targetPort: web, appProtocol: http}, {name: raw, port: 81}, {name: quic, port: 80, targetPort: 8443, protocol: UDP, appProtocol: h3}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: ext, namespace: app, labels: {istio.io/use-waypoint: gone}}, spec: {clusterIP: None, publishNotReadyAddresses: true, ipFamilies: [IPv4], ports: [{name: a, port: 80}, {name: b, port: 80, protocol: UDP}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: zonal, namespace: app}, spec: {clusterIP: 10.96.0.7, trafficDistribution: PreferClose, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: nodal, namespace: app, annotations: {networking.istio.io/traffic-distribution: PreferSameNode}}, spec: {clusterIP: 10.96.0.8, publishNotReadyAddresses: true, ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: ext-1, namespace: app, labels: {kubernetes.io/service-name: ext}}, addressType: IPv4, ports: [{name: a, port: 7070}, {name: b, port: 7171, protocol: UDP}], endpoints: [{addresses: [172.16.0.1], conditions: {ready: false}}]}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: '{trustDomain: td.one, trustDomainAliases: [td.old], accessLogFile: /dev/stdout}'}}
---
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: istio-system}, spec: {mtls: {mode: STRICT}}}
---
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: web, namespace: app}, spec: {selector: {matchLabels: {app: web}}, portLevelMtls: {8080: {mode: PERMISSIVE}}}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: allow, namespace: app}, spec: {selector: {matchLabels: {app: web}}, rules: [
  {to: [{operation: {paths: [/x]}}]},
  {from: [{source: {principals: ['td.one/ns/a/sa/x', 'td.one/ns/b/*'], notNamespaces: [c]}}, {source: {ipBlocks: [10.0.0.0/8], serviceAccounts: [a/x]}}], to: [{operation: {ports: ['80']}}], when: [{key: source.ip, notValues: [10.9.9.9]}, {key: destination.ip, values: ['fd00::/8']}]}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: deny, namespace: app, annotations: {istio.io/dry-run: 'true'}}, spec: {action: DENY, rules: [{from: [{source: {trustDomains: [foreign]}}]}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: web, namespace: app, creationTimestamp: '2025-01-01T00:00:00Z'}, spec: {hosts: [web], http: [{match: [{uri: {prefix: /a}}], route: [{destination: {host: web, subset: v2}}], timeout: 1.5s}]}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: web, namespace: app}, spec: {host: web, subsets: [{name: v2, labels: {version: v2}}]}}
---
{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: edge, namespace: app}, spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: way, namespace: app, labels: {istio.io/waypoint-for: all}}, spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: other, namespace: app}, spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: way-0, namespace: app, labels: {gateway.networking.k8s.io/gateway-name: way}}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {podIP: 10.0.0.7}}
---
{apiVersion: v1, kind: Pod, metadata: {name: bound, namespace: app, labels: {istio.io/use-waypoint: way}}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {podIP: 10.0.0.8}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {name: ca, namespace: app}, spec: {targetRefs: [{group: '', kind: Service, name: web, sectionName: http}],
  validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}], hostname: web.test, subjectAltNames: [{type: URI, uri: 'spiffe://a/b'}, {type: Hostname, hostname: a.test}]}}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {name: system, namespace: app}, spec: {targetRefs: [{group: '', kind: Service, name: web, sectionName: raw}], validation: {wellKnownCACertificates: System, hostname: raw.test}}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {name: nobody, namespace: app}, spec: {targetRefs: [{group: '', kind: Service, name: zonal}], validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: gone}], hostname: zonal.test}}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: ca, namespace: app}, data: {ca.crt: '-----BEGIN CERTIFICATE-----'}}
";

fn records() -> Vec<(RecordKey, Record)> {
    let parsed = parse(&SourceFile { name: "t.yaml", text: YAML });
    let mut world = World::new(CompileOptions::default());
    parsed.objects.iter().for_each(|object| world.upsert(object));
    world.commit().into_iter().filter_map(|(key, record)| Some((key, record?))).collect()
}

fn resource(record: &Record) -> bytes::Bytes {
    let key = record.key();
    encode::resource(&names::name(&key), "7", ResourceType::of(&key), encode::payload(record))
}

#[test]
fn an_alias_is_added_without_decoding() {
    let record = records().remove(0).1;
    let with = encode::with_alias(&resource(&record), "/10.0.0.1");
    let decoded: crate::discovery::Resource = prost::Message::decode(with).unwrap();
    assert_eq!((decoded.aliases, &*decoded.version), (vec!["/10.0.0.1".to_owned()], "7"));
    assert!(decoded.resource.is_some());
}

#[test]
fn names_lead_back_to_keys() {
    let records = records();
    assert!(records.len() > 10);
    for (key, record) in &records {
        assert_eq!(*key, record.key());
        assert_eq!(names::key(ResourceType::of(key), &names::name(key)).as_ref(), Some(key));
        assert_eq!(ResourceType::of_url(ResourceType::of(key).url()), Some(ResourceType::of(key)));
    }
    assert_eq!(names::key(ResourceType::Mesh, "x"), None);
    assert_eq!(names::key(ResourceType::Authorization, "x"), None);
    assert_eq!(names::key(ResourceType::Address, "x"), None);
}

/// The node on the other side of the wire sees the same mesh as one that compiles it itself.
#[test]
fn the_wire_changes_nothing() {
    let mut decoder = Decoder::new("n1");
    let mut mirror = Mirror::new("n1");
    for (key, record) in records() {
        let kind = ResourceType::of(&key);
        let named = decoder.resource(kind, resource(&record)).unwrap();
        assert_eq!((&*named.name, &*named.version), (&*names::name(&key), "7"));
        mirror.apply(named.record.unwrap());
    }
    let parsed = parse(&SourceFile { name: "t.yaml", text: YAML });
    let here =
        compile(&parsed.objects, &CompileOptions { node: "n1".to_owned(), ..CompileOptions::default() });
    let there = mirror.snapshot();
    assert_eq!(there.workloads().collect::<Vec<_>>(), here.snapshot.workloads().collect::<Vec<_>>());
    assert_eq!(there.services().collect::<Vec<_>>(), here.snapshot.services().collect::<Vec<_>>());
    let asked = there.services().flat_map(|service| &service.ports).filter(|port| port.tls.is_some());
    assert_eq!(asked.count(), 3);
    assert_eq!(there.trust_domain(), here.snapshot.trust_domain());
    assert_eq!(there.trust_domain_aliases(), here.snapshot.trust_domain_aliases());
    assert_eq!(there.mesh(), here.snapshot.mesh());
    // A trust domain is said as the beginning of a principal; everything else is the same.
    let rendered = |snapshot: &mesh_core::model::Snapshot| {
        let policies: Vec<Policy> =
            snapshot.policies().policies().into_iter().map(|one| Policy::clone(one)).collect();
        policies.into_iter().filter(|policy| &*policy.name.name != "deny").collect::<Vec<_>>()
    };
    assert_eq!(rendered(&there), rendered(&here.snapshot));
    assert_eq!(there.policies().len(), here.snapshot.policies().len());
}

#[test]
fn a_bad_resource_is_refused_with_its_field() {
    let mut decoder = Decoder::new("n1");
    let workload = crate::workload::Workload {
        uid: "c//Pod/ns/a".to_owned(),
        namespace: "ns".to_owned(),
        ..crate::workload::Workload::default()
    };
    let port = crate::workload::Port { service_port: 80, target_port: 70_000 };
    let ports = crate::workload::PortList { ports: vec![port] };
    let cases: &[(crate::workload::Workload, &str)] = &[
        (crate::workload::Workload { uid: String::new(), ..workload.clone() }, "uid"),
        (
            crate::workload::Workload { addresses: vec![b"abc".as_slice().into()], ..workload.clone() },
            "addresses",
        ),
        (crate::workload::Workload { namespace: "a/b".to_owned(), ..workload.clone() }, "service_account"),
        (crate::workload::Workload { trust_domain: "A".to_owned(), ..workload.clone() }, "service_account"),
        (
            crate::workload::Workload {
                services: [("nonsense".to_owned(), crate::workload::PortList::default())].into(),
                ..workload.clone()
            },
            "services",
        ),
        (
            crate::workload::Workload { services: [("a/b".to_owned(), ports)].into(), ..workload.clone() },
            "ports",
        ),
        (
            crate::workload::Workload { authorization_policies: vec!["x".to_owned()], ..workload.clone() },
            "authorization_policies",
        ),
    ];
    for (message, field) in cases {
        let address = crate::workload::Address {
            r#type: Some(crate::workload::address::Type::Workload(message.clone())),
        };
        let bytes = prost::Message::encode_to_vec(&address);
        assert_eq!(decoder.payload(ResourceType::Address, &bytes).unwrap_err().field, *field, "{message:?}");
    }
    assert_eq!(decoder.payload(ResourceType::Address, &[]).unwrap_err().field, "type");
    assert_eq!(decoder.payload(ResourceType::Mesh, &[0xff]).unwrap_err().field, "resource");
    let misnamed = resource(&records().remove(0).1);
    assert!(decoder.resource(ResourceType::Authorization, misnamed).unwrap().record.is_err());
}

#[test]
fn credentials_travel_whole_and_only_so_large() {
    let secret = |certificate: usize| Secret {
        certificate: Some(Material::new(&vec![b'c'; certificate])),
        key: Some(Material::new(b"key")),
        crl: Some(Material::new(b"")),
        ..Secret::default()
    };
    let name = Arc::new(CredentialName { namespace: "edge".into(), name: "shop".into() });
    let record = |secret: Secret| {
        let (name, secret) = (Arc::clone(&name), Arc::new(secret));
        Record::Credential(Arc::new(Credential { name, secret, readers: Arc::default() }))
    };
    let mut decoder = Decoder::new("");
    let sent = record(secret(3000));
    let there = decoder.payload(ResourceType::Credential, &encode::payload(&sent)).unwrap();
    assert_eq!(there, sent);
    assert_eq!(names::key(ResourceType::Credential, "edge/shop"), Some(sent.key()));
    assert!(!format!("{there:?}").contains("107, 101, 121"), "{there:?}");
    let large = decoder.payload(ResourceType::Credential, &encode::payload(&record(secret(2 << 20))));
    assert_eq!(large.unwrap_err().field, "credential");
    for of_others in ["web/shop", "clients/edge/443"] {
        let name = Arc::new(CredentialName { namespace: "edge".into(), name: of_others.into() });
        let secret = Arc::new(secret(1));
        let sent = Record::Credential(Arc::new(Credential { name, secret, readers: Arc::default() }));
        let there = decoder.payload(ResourceType::Credential, &encode::payload(&sent)).unwrap();
        assert_eq!(there, sent);
        assert_eq!(names::key(ResourceType::Credential, &names::name(&sent.key())), Some(sent.key()));
    }
    let wrong =
        [("", "a"), ("a", ""), ("a/b", "c"), ("a", "b//c"), ("a", "b/c/d/e"), ("a", &*"x".repeat(300))];
    for (namespace, name) in wrong {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let bytes = prost::Message::encode_to_vec(&crate::mesh::Credential {
            namespace,
            name,
            ..crate::mesh::Credential::default()
        });
        assert!(decoder.payload(ResourceType::Credential, &bytes).is_err());
    }
}

fn clause(negated: bool, matcher: Matcher) -> Clause {
    Clause { negated, matcher }
}

fn one(effect: Effect, groups: Vec<Group>) -> Policy {
    let name = Arc::new(PolicyName { namespace: "ns".into(), name: "p".into() });
    let rules = vec![Rule { index: 1, groups }];
    Policy { name, effect, dry_run: false, scope: Scope::Namespace, selector: None, provider: None, rules }
}

#[test]
fn what_the_wire_cannot_say_makes_the_outcome_stricter() {
    let domain = || clause(false, Matcher::TrustDomain(vec![StringMatch::Suffix("x".into())]));
    let port = || clause(false, Matcher::DestinationPort(vec![80]));
    let there_and_back = |policy: &Policy| policy::decode(&policy::encode(policy)).unwrap();
    // An alternative that cannot be said allows nobody.
    let allow = one(Effect::Allow, vec![Group(vec![vec![domain()], vec![port()]])]);
    assert_eq!(there_and_back(&allow).rules, one(Effect::Allow, vec![Group(vec![vec![port()]])]).rules);
    let allow = one(Effect::Allow, vec![Group(vec![vec![domain()]])]);
    assert_eq!(there_and_back(&allow).rules, []);
    // And denies without what cannot be said, up to everybody.
    let deny = one(Effect::Deny, vec![Group(vec![vec![domain(), port()]])]);
    assert_eq!(there_and_back(&deny).rules, one(Effect::Deny, vec![Group(vec![vec![port()]])]).rules);
    let deny = one(Effect::Deny, vec![Group(vec![vec![domain()], vec![port()]])]);
    assert_eq!(there_and_back(&deny).rules, one(Effect::Deny, vec![]).rules);
    // For others than our own nodes, CUSTOM is the DENY that it comes to, and AUDIT a DENY that matches nothing.
    let of_others = |policy: &Policy| {
        let wire = security::Authorization { mesh_details: "".into(), ..policy::encode(policy) };
        policy::decode(&wire).unwrap()
    };
    let custom = of_others(&one(Effect::Custom, vec![]));
    assert_eq!((custom.effect, custom.rules.len()), (Effect::Deny, 2 - 1));
    let audit = of_others(&one(Effect::Audit, vec![]));
    assert_eq!((audit.effect, audit.rules.len()), (Effect::Deny, 0));
    // So is what is about requests: it allows nobody, and denies with what is left of it.
    let path = || clause(false, Matcher::Path(vec![PathMatch::parse("/a").unwrap()]));
    assert_eq!(of_others(&one(Effect::Allow, vec![Group(vec![vec![path(), port()]])])).rules, []);
    let deny = of_others(&one(Effect::Deny, vec![Group(vec![vec![path(), port()]])]));
    assert_eq!(deny.rules, one(Effect::Deny, vec![Group(vec![vec![port()]])]).rules);
    // What another control plane left empty: ALLOW never matches, DENY always does.
    let empty = |action: security::Action| security::Authorization {
        name: "p".to_owned(),
        namespace: "ns".to_owned(),
        action: action.into(),
        rules: vec![security::Rule {
            clauses: vec![security::Clause { matches: vec![security::Match::default()] }],
        }],
        ..security::Authorization::default()
    };
    assert_eq!(policy::decode(&empty(security::Action::Allow)).unwrap().rules, []);
    assert_eq!(
        policy::decode(&empty(security::Action::Deny)).unwrap().rules,
        [Rule { index: 0, groups: vec![] }]
    );
}

/// Our own nodes are told all there is in a policy.
#[test]
fn requests_travel_whole() {
    let rule = "{from: [{source: {requestPrincipals: [i/*], notRemoteIpBlocks: [10.0.0.0/8], serviceAccounts: [x]}}],
        to: [{operation: {hosts: [A.com], methods: [GET], paths: ['/a/{*}', /b*], ports: ['80']}}],
        when: [{key: 'request.headers[X-A]', values: ['*']}, {key: 'request.auth.claims[a][b]', notValues: [c]},
        {key: request.auth.audiences, values: [a]}, {key: request.auth.presenter, values: [p]},
        {key: connection.sni, values: ['*.com']}, {key: source.trustDomain, values: ['*x']},
        {key: destination.ip, values: [10.0.0.1]}, {key: source.namespace, values: [n]}]}";
    let spec = |head: &str| {
        format!(
            "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p{}, namespace: a}}, \
                 spec: {{{head}rules: [{rule}]}}}}\n",
            head.len()
        )
    };
    let heads = [
        "",
        "action: DENY, ",
        "action: CUSTOM, provider: {name: opa}, ",
        "action: AUDIT, selector: {matchLabels: {a: b}}, ",
    ];
    let text: String = heads.iter().map(|head| spec(head)).collect();
    let parsed = parse(&SourceFile { name: "t.yaml", text: &text });
    let snapshot = compile(&parsed.objects, &CompileOptions::default()).snapshot;
    let policies = snapshot.policies().policies();
    assert_eq!(policies.len(), heads.len(), "{:?}", parsed.findings);
    for policy in policies {
        assert_eq!(policy.rules[0].groups.len(), 10);
        let mut wire = policy::encode(policy);
        assert_eq!(policy::decode(&wire).unwrap(), **policy);
        // What a newer control plane says is not guessed at.
        wire.mesh_details = [&wire.mesh_details[..], &[0x08, 0x63]].concat().into();
        assert_eq!(policy::decode(&wire).unwrap_err().field, "mesh_details");
    }
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..ResourceType::ALL.len()) {
        let mut decoder = Decoder::new("n");
        let _ = decoder.payload(ResourceType::ALL[kind], &bytes);
        let _ = decoder.resource(ResourceType::ALL[kind], bytes.into());
    }
}

/// Where a waypoint is, is said in Istio's own words, so that other proxies go there as well, or nowhere.
#[test]
fn waypoints_are_told_as_istio_tells_them() {
    use crate::workload::{GatewayAddress, NamespacedHostname, gateway_address::Destination};
    let at = |hostname: &str| {
        let name = NamespacedHostname { namespace: "app".to_owned(), hostname: hostname.to_owned() };
        Some(GatewayAddress { destination: Some(Destination::Hostname(name)), hbone_mtls_port: 15008 })
    };
    let records = records();
    let mut services = records.iter().filter_map(|(_, record)| match record {
        Record::Service(one) => Some(encode::service(one)),
        _ => None,
    });
    let named = |name: &str| services.clone().find(|one| one.name == name).expect("a service");
    assert_eq!(named("web").waypoint, at("way.app._waypoint"));
    assert_eq!(named("ext").waypoint, at("refused.gone.app._waypoint"));
    assert!(services.any(|one| one.hostname == "way.app._waypoint" && one.ports[0].service_port == 15008));
    let bound = records.iter().find_map(|(_, record)| match record {
        Record::Workload(one) if *one.name == *"bound" => Some(encode::workload(one)),
        _ => None,
    });
    assert_eq!(bound.expect("a workload").waypoint, at("way.app._waypoint"));
    // From a control plane of Istio, which may name an address; nowhere is no place.
    let mut decoder = Decoder::new("n1");
    let mut decode = |waypoint: Option<GatewayAddress>| {
        let service = crate::workload::Service { waypoint, ..encode::service(&istios()) };
        let address =
            crate::workload::Address { r#type: Some(crate::workload::address::Type::Service(service)) };
        decoder.payload(ResourceType::Address, &prost::Message::encode_to_vec(&address))
    };
    let address =
        crate::workload::NetworkAddress { network: String::new(), address: vec![10, 96, 0, 9].into() };
    let by_address =
        GatewayAddress { destination: Some(Destination::Address(address)), hbone_mtls_port: 15008 };
    let Ok(Record::Service(service)) = decode(Some(by_address)) else { panic!("a service") };
    assert_eq!(&*service.waypoint.as_ref().expect("bound").service.hostname, "10.96.0.9");
    let nowhere = GatewayAddress { destination: None, hbone_mtls_port: 15008 };
    assert_eq!(decode(Some(nowhere)).expect_err("nowhere").field, "waypoint");
}

/// A service that nothing is said of.
fn istios() -> mesh_core::model::Service {
    let service = records().into_iter().find_map(|(_, record)| match record {
        Record::Service(one) if *one.name == *"web" => Some(one),
        _ => None,
    });
    mesh_core::model::Service { waypoint: None, ..(*service.expect("a service")).clone() }
}
