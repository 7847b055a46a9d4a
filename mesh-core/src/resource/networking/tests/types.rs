//! That every field arrives, and means what its documentation says.

use std::time::Duration as Time;

use super::object;
use crate::resource::Spec;
use crate::resource::networking::destination_rule::{Balance, HashAlgorithm, HashKey, TunnelProtocol};
use crate::resource::networking::gateway::{Certificates, TlsVersion};
use crate::resource::networking::service_entry::{Location, Resolution};
use crate::resource::networking::sidecar::{CaptureMode, OutboundTrafficMode};
use crate::resource::networking::virtual_service::{
    AbortError, Body, DerivePort, GrpcStatus, HttpAction, PathRewrite, RedirectScheme, RetryOn, Rewrite,
    UnmatchedPreflights, VirtualServiceSpec,
};
use crate::resource::networking::workload::{Address, ProbeMethod, ReadinessProbe};
use crate::resource::value::{Bind, ExportTo, HeaderName, Host, Percent, Protocol, StringMatch};

fn virtual_service(spec: &str) -> VirtualServiceSpec {
    let Spec::VirtualService(spec) = object("VirtualService", spec).spec else { panic!("kind") };
    *spec
}

#[test]
fn http_matches_arrive() {
    let spec = virtual_service(
        "hosts: [a.b]
gateways: [g]
exportTo: [.]
http:
- name: first
  match:
  - name: m
    uri: {prefix: /a}
    ignoreUriCase: true
    scheme: {exact: https}
    method: {regex: 'GET|HEAD'}
    authority: {exact: a.b}
    headers: {X-Id: {}, x-any: {regex: '*'}, '@request.auth.claims.groups': {exact: admin}}
    withoutHeaders: {x-no: {prefix: a}}
    queryParams: {q: {exact: '1'}, present: {}}
    port: 8080
    gateways: [ns/g]
    sourceLabels: {app: web}
    sourceNamespace: shop
    statPrefix: s
  route:
  - destination: {host: A.B, subset: v1, port: {number: 80}}
    weight: 3
    headers: {response: {set: {x: 'y %PROTOCOL%'}}}
  - {destination: {host: c}, weight: 1}
  timeout: 1.5s
  headers: {request: {set: {Host: h}, add: {a: b}, remove: [c]}}",
    );
    assert!(!spec.applies_to_mesh() && !spec.is_delegate());
    assert_eq!(spec.export_to, [ExportTo::Own]);
    let route = &spec.http[0];
    assert_eq!(route.timeout.map(crate::resource::value::Duration::get), Some(Time::from_millis(1500)));
    let request = &route.matches[0];
    assert!(request.ignore_uri_case && !request.is_empty());
    assert_eq!(request.uri, Some(StringMatch::Prefix("/a".into())));
    assert!(request.method.as_ref().is_some_and(|method| method.matches("HEAD") && !method.matches("GETX")));
    assert_eq!(request.headers.len(), 3);
    assert_eq!(request.headers.values().filter(|it| **it == StringMatch::Present).count(), 2);
    assert_eq!(request.without_headers.len(), 1);
    assert_eq!(request.query_params["present"], StringMatch::Present);
    assert_eq!(request.port.map(crate::resource::value::Port::get), Some(8080));
    assert_eq!(request.gateways[0].resolve("x"), Some(("ns", "g")));
    assert_eq!((request.source_labels["app"].as_str(), request.source_namespace.as_str()), ("web", "shop"));
    assert_eq!((request.name.as_str(), request.stat_prefix.as_str()), ("m", "s"));
    let HttpAction::Route([first, second]) = route.action() else { panic!("action") };
    assert_eq!((first.weight, second.weight), (3, 1));
    assert_eq!(first.destination.host, Host::Name("a.b".into()));
    assert_eq!(first.destination.port.map(|port| port.number.get()), Some(80));
    assert_eq!(first.headers.response.set.values().next().map(|value| value.segments().len()), Some(2));
    assert_eq!(route.headers.request.remove[0].as_str(), "c");
    assert!(route.headers.request.set.keys().all(HeaderName::is_authority));
}

#[test]
fn http_actions_arrive() {
    let spec = virtual_service(
        "hosts: [a.b]
http:
- match: [{uri: {exact: /1}}]
  redirect: {uri: /x, authority: c.d, scheme: https, derivePort: FROM_REQUEST_PORT, redirectCode: 308}
- match: [{uri: {exact: /2}}]
  directResponse: {status: 503, body: {string: no}}
- match: [{uri: {exact: /3}}]
  directResponse: {status: 200, body: {bytes: aGk=}}
- match: [{uri: {exact: /4}}]
  delegate: {name: d, namespace: n}
  directResponse: {status: 404}
- match: [{uri: {exact: /5}}]
  rewrite: {uri: /y, authority: h}
  route: [{destination: {host: a}}]
- match: [{uri: {exact: /6}}]
  rewrite: {uriRegexRewrite: {match: '/(x+)', rewrite: '/\\1\\\\'}}
  route: [{destination: {host: a}}]",
    );
    let actions: Vec<_> = spec.http.iter().map(|route| route.action()).collect();
    let HttpAction::Redirect(redirect) = actions[0] else { panic!("action") };
    assert_eq!(
        (redirect.scheme, redirect.derive_port),
        (Some(RedirectScheme::Https), Some(DerivePort::FromRequestPort))
    );
    assert_eq!((redirect.redirect_code, redirect.authority.as_str()), (Some(308), "c.d"));
    let HttpAction::Respond(response) = actions[1] else { panic!("action") };
    assert_eq!((response.status.get(), &response.body), (503, &Some(Body::Text("no".into()))));
    let HttpAction::Respond(response) = actions[2] else { panic!("action") };
    assert_eq!(response.body.as_ref().map(Body::as_bytes), Some(&b"hi"[..]));
    let HttpAction::Delegate(delegate) = actions[3] else { panic!("action") };
    assert_eq!((delegate.name.as_str(), delegate.namespace.as_str()), ("d", "n"));
    let rewrite = spec.http[4].rewrite.as_ref().expect("given");
    assert_eq!((rewrite.path(), rewrite.authority.as_str()), (Some(PathRewrite::Matched("/y")), "h"));
    let Some(PathRewrite::Regex(regex)) = spec.http[5].rewrite.as_ref().and_then(Rewrite::path) else {
        panic!("path")
    };
    assert!(regex.pattern.matches(b"a/xxb") && regex.pattern.groups() == 1);
}

#[test]
fn http_traffic_arrives() {
    let spec = virtual_service(
        "hosts: [a.b]
http:
- match: [{uri: {exact: /1}}]
  retries:
    attempts: 3
    perTryTimeout: 2s
    retryOn: 'gateway-error, connect-failure,503'
    backoff: 50ms
    retryRemoteLocalities: true
    retryIgnorePreviousHosts: false
  fault:
    delay: {fixedDelay: 7s, percentage: {value: 0.1}}
    abort: {grpcStatus: UNAVAILABLE, percentage: {value: 50}}
  mirror: {host: copy}
  mirrorPercentage: {value: 12.5}
  corsPolicy:
    allowOrigins: [{exact: 'https://a.b'}, {regex: 'https://.*'}]
    allowMethods: [GET, '*']
    allowHeaders: [X-A, '*']
    exposeHeaders: [x-b]
    maxAge: 24h
    allowCredentials: false
    unmatchedPreflights: IGNORE
  route: [{destination: {host: a}}]
- mirrors: [{destination: {host: c}}, {destination: {host: d}, percentage: {value: 1}}]
  route: [{destination: {host: a}}]",
    );
    let route = &spec.http[0];
    let retries = route.retries.as_ref().expect("given");
    assert_eq!(retries.attempts, 3);
    assert_eq!(retries.retry_on, [RetryOn::GatewayError, RetryOn::ConnectFailure, RetryOn::Status(503)]);
    assert_eq!(
        (retries.retry_remote_localities, retries.retry_ignore_previous_hosts),
        (Some(true), Some(false))
    );
    assert_eq!(retries.backoff.map(crate::resource::value::Duration::get), Some(Time::from_millis(50)));
    let fault = route.fault.as_ref().expect("given");
    let (delay, abort) = (fault.delay.as_ref().expect("given"), fault.abort.as_ref().expect("given"));
    assert_eq!(delay.share().parts_per_million(), 1_000);
    assert_eq!(abort.error(), Some(AbortError::Grpc(GrpcStatus::Unavailable)));
    assert_eq!((GrpcStatus::Unavailable.code(), GrpcStatus::Unauthenticated.code()), (14, 16));
    let copies: Vec<_> =
        route.copies().map(|(to, share)| (to.host.to_string(), share.parts_per_million())).collect();
    assert_eq!(copies, [("copy".into(), 125_000)]);
    let copies: Vec<_> = spec.http[1].copies().map(|(to, share)| (to.host.to_string(), share)).collect();
    assert_eq!(copies[0], ("c".into(), Percent::ALL));
    assert_eq!(copies[1].1.parts_per_million(), 10_000);
    let cors = route.cors_policy.as_ref().expect("given");
    assert_eq!(cors.unmatched_preflights, UnmatchedPreflights::Ignore);
    assert_eq!((cors.allow_origins.len(), cors.allow_credentials), (2, Some(false)));
    assert_eq!(cors.max_age.map(|age| age.get().as_secs()), Some(86_400));
}

#[test]
fn destination_rules_arrive() {
    let text = "host: a
exportTo: [.]
workloadSelector: {matchLabels: {app: web}}
trafficPolicy:
  connectionPool:
    tcp: {maxConnections: 100, connectTimeout: 30ms, idleTimeout: 0s, maxConnectionDuration: 1h, tcpKeepalive: {time: 7200s, interval: 75s, probes: 3}}
    http: {http1MaxPendingRequests: 1, http2MaxRequests: 0, maxRequestsPerConnection: 10, maxRetries: 2, idleTimeout: 5m, h2UpgradePolicy: UPGRADE, useClientProtocol: false, maxConcurrentStreams: 50, http2KeepAlive: {interval: 1s, timeout: 2s}}
  outlierDetection: {consecutive5xxErrors: 7, consecutiveGatewayErrors: 0, interval: 5m, baseEjectionTime: 15m, maxEjectionPercent: 100, minHealthPercent: 50, splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, outlierDetectionHttpErrorCodes: [429]}
  tls: {mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /ca, sni: s, subjectAltNames: [x], insecureSkipVerify: false, caCrl: /r}
  tunnel: {protocol: POST, targetHost: p.q, targetPort: 3128}
  retryBudget: {percent: 25.5, minRetryConcurrency: 10, budgetInterval: 0ms}
  portLevelSettings:
  - {port: {number: 80}, loadBalancer: {simple: PASSTHROUGH}}
subsets:
- name: v1
  labels: {version: v1}
  trafficPolicy:
    loadBalancer:
      consistentHash: {httpCookie: {name: c, path: /p, ttl: 0s, attributes: [{name: SameSite, value: Lax}]}, maglev: {tableSize: 65537}}
- name: v2
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 30s, minimumPercent: 20, aggression: 1.5}}
    proxyProtocol: {version: V2}
";
    let Spec::DestinationRule(rule) = object("DestinationRule", text).spec else { panic!("kind") };
    let policy = rule.traffic_policy.as_ref().expect("given");
    let pool = policy.connection_pool.as_ref().expect("given");
    let (tcp, http) = (pool.tcp.as_ref().expect("given"), pool.http.as_ref().expect("given"));
    assert_eq!(tcp.max_connections.map(std::num::NonZeroU32::get), Some(100));
    assert_eq!(tcp.idle_timeout.and_then(crate::resource::value::DurationOrZero::get), None);
    assert_eq!(http.http2_max_requests, None);
    let outliers = policy.outlier_detection.as_ref().expect("given");
    assert_eq!((outliers.consecutive_5xx_errors, outliers.consecutive_gateway_errors), (Some(7), Some(0)));
    assert_eq!(outliers.outlier_detection_http_error_codes, [429]);
    assert_eq!(policy.tunnel.as_ref().map(|tunnel| tunnel.protocol), Some(TunnelProtocol::Post));
    assert_eq!(policy.retry_budget.as_ref().and_then(|budget| budget.percent), Some(25.5));
    let balancer = policy.port_level_settings[0].load_balancer.as_ref().expect("given");
    assert_eq!(balancer.balance(), Balance::Passthrough);
    let subset = |index: usize| rule.subsets[index].traffic_policy.as_ref().expect("given");
    let Some(Balance::Hash(hash)) = subset(0).load_balancer.as_ref().map(|it| it.balance()) else {
        panic!("hash")
    };
    assert_eq!(hash.algorithm(), HashAlgorithm::Maglev(65_537));
    let Some(HashKey::Cookie(cookie)) = hash.key() else { panic!("cookie") };
    assert_eq!((cookie.name.as_str(), cookie.attributes[0].value.as_str()), ("c", "Lax"));
    assert_eq!(cookie.ttl.map(crate::resource::value::DurationOrZero::get), Some(None));
    assert_eq!(subset(1).load_balancer.as_ref().map(|it| it.balance()), Some(Balance::RoundRobin));
}

#[test]
fn localities_arrive() {
    let text = "host: a
trafficPolicy:
  outlierDetection: {}
  loadBalancer:
    consistentHash: {httpQueryParameterName: q, ringHash: {minimumRingSize: 2048}}
    localityLbSetting:
      enabled: true
      distribute:
      - {from: us-west/zone1/*, to: {us-west/zone1/*: 80, us-west/zone2/*: 20}}
      - {from: us-west/zone2/*, to: {'*': 100}}
      failoverPriority: [topology.istio.io/network, 'app=v1']
";
    let Spec::DestinationRule(rule) = object("DestinationRule", text).spec else { panic!("kind") };
    let balancer = rule.traffic_policy.as_ref().and_then(|it| it.load_balancer.as_ref()).expect("given");
    let Balance::Hash(hash) = balancer.balance() else { panic!("hash") };
    assert_eq!(
        (hash.key(), hash.algorithm()),
        (Some(HashKey::QueryParameter("q")), HashAlgorithm::Ring(2048))
    );
    let setting = balancer.locality_lb_setting.as_ref().expect("given");
    assert_eq!(setting.distribute[0].to["us-west/zone2/*"], 20);
    assert_eq!(setting.failover_priority.len(), 2);
}

#[test]
fn gateways_arrive() {
    let text = "selector: {istio: ingress}
servers:
- name: s
  port: {number: 443, name: https, protocol: https}
  bind: 127.0.0.1
  hosts: [a.b]
  tls: {mode: MUTUAL, credentialName: c, caCertCredentialName: d, minProtocolVersion: TLSV1_2, maxProtocolVersion: TLSV1_3, cipherSuites: [ECDHE-RSA-AES256-GCM-SHA384], subjectAltNames: [x], verifyCertificateSpki: [y], verifyCertificateHash: [z], insecureSkipVerify: false}
- port: {number: 8443, name: files, protocol: HTTPS}
  hosts: [a.b]
  tls: {mode: SIMPLE, tlsCertificates: [{serverCertificate: /a, privateKey: /b}, {serverCertificate: /c, privateKey: /d}]}
- port: {name: socket, protocol: HTTP}
  bind: unix:///run/x.sock
  hosts: ['*']
- port: {number: 8444, name: mesh, protocol: TLS}
  hosts: [a.b]
  tls: {mode: ISTIO_MUTUAL}
";
    let Spec::Gateway(gateway) = object("Gateway", text).spec else { panic!("kind") };
    let tls = |index: usize| gateway.servers[index].tls.as_ref().expect("given");
    assert_eq!(gateway.servers[0].port.protocol, Protocol::Https);
    assert_eq!(gateway.servers[0].bind, Some(Bind::Address([127, 0, 0, 1].into())));
    assert_eq!(tls(0).certificates(), Certificates::Secret("c"));
    assert_eq!(
        (tls(0).min_protocol_version, tls(0).max_protocol_version),
        (TlsVersion::V1_2, TlsVersion::V1_3)
    );
    assert!(matches!(tls(1).certificates(), Certificates::FilePairs([_, _])));
    assert_eq!(gateway.servers[2].bind, Some(Bind::Unix("/run/x.sock".into())));
    assert!(tls(3).is_terminating() && tls(3).certificates() == Certificates::None);
}

#[test]
fn services_and_workloads_arrive() {
    let text = "hosts: [a.b]
addresses: [192.0.2.0/24, 192.0.2.1]
ports: [{number: 443, name: https, protocol: TLS, targetPort: 8443}, {number: 5000, name: any}]
location: MESH_INTERNAL
resolution: STATIC
endpoints:
- {address: 10.0.0.1, ports: {https: 9443}, labels: {a: b}, network: n, locality: r/z/s, weight: 5, serviceAccount: sa}
exportTo: ['~']
subjectAltNames: [spiffe://x]
";
    let Spec::ServiceEntry(entry) = object("ServiceEntry", text).spec else { panic!("kind") };
    assert_eq!((entry.location, entry.resolution), (Location::MeshInternal, Resolution::Static));
    assert_eq!(
        (entry.ports[0].target_port.map(crate::resource::value::Port::get), entry.ports[1].protocol),
        (Some(8443), None)
    );
    let endpoint = &entry.endpoints[0];
    assert_eq!(endpoint.address, Some(Address::Ip([10, 0, 0, 1].into())));
    assert_eq!((endpoint.ports["https"].get(), endpoint.weight), (9443, 5));
    let Spec::WorkloadEntry(entry) = object("WorkloadEntry", "address: 'unix://@x'").spec else {
        panic!("kind")
    };
    assert_eq!(entry.address, Some(Address::Unix("@x".into())));
    let text = "template: {labels: {app: vm}}\nprobe: {grpc: {port: 1, service: s}, failureThreshold: 3}";
    let Spec::WorkloadGroup(group) = object("WorkloadGroup", text).spec else { panic!("kind") };
    let Some(ProbeMethod::Grpc(grpc)) = group.probe.as_ref().and_then(ReadinessProbe::method) else {
        panic!("probe")
    };
    assert_eq!((grpc.port.get(), grpc.service.as_str()), (1, "s"));
}

#[test]
fn sidecars_arrive() {
    let text = "workloadSelector: {labels: {app: web}}
inboundConnectionPool: {tcp: {maxConnections: 5}}
outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: egress.x.svc.cluster.local, port: {number: 80}}}
egress:
- {port: {number: 9080, protocol: HTTP, name: egresshttp}, bind: 127.0.0.1, captureMode: NONE, hosts: ['prod-us1/*']}
- hosts: [~/*]
";
    let Spec::Sidecar(sidecar) = object("Sidecar", text).spec else { panic!("kind") };
    assert_eq!(sidecar.egress[0].capture_mode, CaptureMode::None);
    let policy = sidecar.outbound_traffic_policy.as_ref().expect("given");
    assert_eq!(policy.mode, OutboundTrafficMode::AllowAny);
    let Spec::Sidecar(sidecar) = object("Sidecar", "outboundTrafficPolicy: {}").spec else { panic!("kind") };
    let policy = sidecar.outbound_traffic_policy.as_ref().expect("given");
    assert_eq!(policy.mode, OutboundTrafficMode::RegistryOnly);
}
