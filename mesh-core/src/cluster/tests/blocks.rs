//! What the single blocks come to.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::balance::locality::{LocalityPolicy, Pattern, Place};
use crate::balance::{Algorithm, Cookie, HashPolicy, HashSource, HashTable, Settings, Warmup};

const HOST: &str = "reviews.book.svc.cluster.local";

/// The policy of a rule with this `trafficPolicy`.
fn of(text: &str) -> ClusterPolicy {
    policy(&rules(&rule("book", "a", &format!("host: reviews\ntrafficPolicy: {text}"))), "book", HOST, None)
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

#[test]
fn pools_have_istios_defaults() {
    let pool = policy(&Rules::default(), "book", HOST, None).pool;
    assert_eq!(
        pool.limits,
        Limits { connections: u32::MAX, pending: u32::MAX, requests: u32::MAX, retries: u32::MAX }
    );
    assert_eq!((pool.connect_timeout, pool.idle_timeout), (seconds(10), Some(seconds(3600))));
    assert_eq!((pool.keepalive, pool.max_connection_duration), (None, None));
    let http = pool.http;
    assert_eq!((http.idle_timeout, http.max_concurrent_streams), (Some(seconds(3600)), 2_147_483_647));
    assert_eq!(
        (http.max_requests_per_connection, http.upstream, http.keepalive),
        (None, Upstream::Declared, None)
    );
}

#[test]
fn pools_take_what_is_written() {
    let pool = of("{connectionPool: {
      tcp: {maxConnections: 1, connectTimeout: 30ms, tcpKeepalive: {time: 7200s, interval: 75s, probes: 3},
        maxConnectionDuration: 1h, idleTimeout: 5s},
      http: {http1MaxPendingRequests: 2, http2MaxRequests: 3, maxRequestsPerConnection: 4, maxRetries: 5,
        idleTimeout: 6s, maxConcurrentStreams: 7, http2KeepAlive: {interval: 8s, timeout: 9s}}}}")
    .pool;
    assert_eq!(pool.limits, Limits { connections: 1, pending: 2, requests: 3, retries: 5 });
    let keepalive =
        TcpKeepalive { probes: NonZeroU32::new(3), time: Some(seconds(7200)), interval: Some(seconds(75)) };
    assert_eq!((pool.connect_timeout, pool.keepalive), (Duration::from_millis(30), Some(keepalive)));
    assert_eq!((pool.max_connection_duration, pool.idle_timeout), (Some(seconds(3600)), Some(seconds(5))));
    assert_eq!((pool.http.idle_timeout, pool.http.max_concurrent_streams), (Some(seconds(6)), 7));
    assert_eq!(pool.http.max_requests_per_connection, NonZeroU32::new(4));
    assert_eq!(pool.http.keepalive, Some(Http2KeepAlive { interval: seconds(8), timeout: seconds(9) }));
}

#[test]
fn zero_is_unset_and_idle_timeouts_are_inherited() {
    let cases = [
        ("{tcp: {idleTimeout: 0s}}", None, None),
        ("{tcp: {idleTimeout: 0s}, http: {idleTimeout: 2s}}", None, Some(seconds(2))),
        ("{tcp: {idleTimeout: 3s}}", Some(seconds(3)), Some(seconds(3))),
        ("{http: {idleTimeout: 2s}}", Some(seconds(3600)), Some(seconds(2))),
    ];
    for (text, tcp, http) in cases {
        let pool = of(&format!("{{connectionPool: {text}}}")).pool;
        assert_eq!((pool.idle_timeout, pool.http.idle_timeout), (tcp, http), "{text}");
    }
    let pool = of("{connectionPool: {tcp: {maxConnections: 0}, http: {maxRetries: 0}}}").pool;
    assert_eq!(pool.limits, Limits::default());
}

#[test]
fn versions_of_http() {
    let upgrading = Defaults { h2_upgrade: true, ..Defaults::default() };
    for (text, usual, mesh_upgrades) in [
        ("{}", Upstream::Declared, Upstream::UpgradeDeclared),
        ("{h2UpgradePolicy: DEFAULT}", Upstream::Declared, Upstream::UpgradeDeclared),
        ("{h2UpgradePolicy: UPGRADE}", Upstream::Upgrade, Upstream::Upgrade),
        ("{h2UpgradePolicy: DO_NOT_UPGRADE}", Upstream::Declared, Upstream::Declared),
        ("{useClientProtocol: true}", Upstream::Client, Upstream::Client),
    ] {
        let rule =
            rule("book", "a", &format!("host: reviews\ntrafficPolicy: {{connectionPool: {{http: {text}}}}}"));
        let mut rules = rules(&rule);
        assert_eq!(policy(&rules, "book", HOST, None).pool.http.upstream, usual, "{text}");
        rules.set_defaults(Arc::new(upgrading.clone()));
        assert_eq!(policy(&rules, "book", HOST, None).pool.http.upstream, mesh_upgrades, "{text}");
    }
}

#[test]
fn keepalive_fills_its_gaps_from_the_mesh() {
    let mesh = TcpKeepalive { probes: NonZeroU32::new(9), time: Some(seconds(1)), interval: None };
    let mut rules = rules(&rule(
        "book",
        "a",
        "host: reviews\ntrafficPolicy: {connectionPool: {tcp: {tcpKeepalive: {time: 2s}}}}",
    ));
    rules.set_defaults(Arc::new(Defaults { tcp_keepalive: Some(mesh), ..Defaults::default() }));
    let own = policy(&rules, "book", HOST, None).pool.keepalive;
    assert_eq!(own, Some(TcpKeepalive { time: Some(seconds(2)), ..mesh }));
    let other = policy(&rules, "book", "ratings.book.svc.cluster.local", None).pool.keepalive;
    assert_eq!(other, Some(mesh));
}

#[test]
fn outlier_detection_has_istios_defaults() {
    let five = NonZeroU32::new(5);
    let policy = of("{outlierDetection: {}}").outlier.unwrap();
    let expected = OutlierPolicy {
        consecutive_5xx: five,
        consecutive_gateway: None,
        split_local_origin: false,
        consecutive_local_origin: five.unwrap(),
        interval: seconds(10),
        base_ejection_time: seconds(30),
        max_ejection_time: seconds(300),
        max_ejection_percent: 10,
        min_health_percent: 0,
        error_codes: Box::default(),
    };
    assert_eq!(policy, expected);
    assert_eq!(of("{tls: {mode: DISABLE}}").outlier, None);
}

#[test]
fn outlier_detection_takes_what_is_written() {
    let policy = of("{outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 2, interval: 1s,
      baseEjectionTime: 10m, maxEjectionPercent: 100, minHealthPercent: 50, splitExternalLocalOriginErrors: true,
      consecutiveLocalOriginFailures: 3, outlierDetectionHttpErrorCodes: [429, 500]}}");
    assert_eq!(policy.balance.min_health_percent, 50);
    let outlier = policy.outlier.unwrap();
    assert_eq!((outlier.consecutive_5xx, outlier.consecutive_gateway), (None, NonZeroU32::new(2)));
    assert_eq!((outlier.interval, outlier.base_ejection_time), (seconds(1), seconds(600)));
    assert_eq!((outlier.max_ejection_time, outlier.max_ejection_percent), (seconds(600), 100));
    assert_eq!((outlier.split_local_origin, outlier.consecutive_local_origin.get()), (true, 3));
    assert_eq!(*outlier.error_codes, [429, 500]);
}

#[test]
fn balancers() {
    let warmup =
        |seconds, minimum, aggression| Warmup { duration: Duration::from_secs(seconds), minimum, aggression };
    let cases = [
        ("{simple: UNSPECIFIED}", Algorithm::LeastRequest, None),
        ("{simple: LEAST_CONN}", Algorithm::LeastRequest, None),
        ("{simple: PASSTHROUGH}", Algorithm::Passthrough, None),
        ("{simple: ROUND_ROBIN, warmupDurationSecs: 5s}", Algorithm::RoundRobin, Some(warmup(5, 0.1, 1.0))),
        (
            "{warmup: {duration: 9s, minimumPercent: 50, aggression: 2}, warmupDurationSecs: 5s}",
            Algorithm::LeastRequest,
            Some(warmup(9, 0.5, 2.0)),
        ),
        ("{simple: RANDOM, warmup: {duration: 9s}}", Algorithm::Random, None),
    ];
    for (text, algorithm, warmup) in cases {
        let expected = Settings { algorithm, warmup, min_health_percent: 0 };
        assert_eq!(of(&format!("{{loadBalancer: {text}}}")).balance, expected, "{text}");
    }
}

#[test]
fn hashes() {
    let cookie = Cookie {
        name: "user".into(),
        path: "/p".into(),
        ttl: Some(Duration::ZERO),
        attributes: [("SameSite".into(), "Strict".into())].into(),
    };
    let ring = HashTable::Ring(1024);
    let cases = [
        ("{httpHeaderName: X-User}", HashSource::Header("x-user".into()), ring),
        ("{useSourceIp: true}", HashSource::SourceIp, ring),
        (
            "{httpQueryParameterName: q, ringHash: {minimumRingSize: 9}}",
            HashSource::QueryParameter("q".into()),
            HashTable::Ring(9),
        ),
        ("{useSourceIp: true, minimumRingSize: 7}", HashSource::SourceIp, HashTable::Ring(7)),
        ("{useSourceIp: true, maglev: {tableSize: 251}}", HashSource::SourceIp, HashTable::Maglev(251)),
        (
            "{useSourceIp: true, ringHash: {minimumRingSize: 99999999999}}",
            HashSource::SourceIp,
            HashTable::Ring(8_388_608),
        ),
        (
            "{httpCookie: {name: user, path: /p, ttl: 0s, attributes: [{name: SameSite, value: Strict}]}}",
            HashSource::Cookie(cookie),
            ring,
        ),
    ];
    for (text, source, table) in cases {
        let balance = of(&format!("{{loadBalancer: {{consistentHash: {text}}}}}")).balance;
        assert_eq!(balance.hash_source(), Some(&source), "{text}");
        assert_eq!(balance.algorithm, Algorithm::Hash(HashPolicy { source: Some(source), table }), "{text}");
    }
    let never = of("{loadBalancer: {consistentHash: {httpCookie: {name: user}}}}").balance;
    assert!(matches!(never.hash_source(), Some(HashSource::Cookie(Cookie { ttl: None, .. }))));
}

#[test]
fn tls() {
    let text = |text: &str| Some(Arc::<str>::from(text));
    let plain = TlsOrigination {
        certificate: None,
        trust: Trust::System,
        crl: None,
        sni: None,
        subject_alt_names: Arc::default(),
    };
    let files = ClientCertificate::Files { certificate: "/c".into(), key: "/k".into() };
    let secret = || Credential::Secret("s".into());
    let map = Credential::ConfigMap { namespace: "book".into(), name: "m".into() };
    let cases = [
        ("{mode: SIMPLE}", plain.clone()),
        (
            "{mode: SIMPLE, caCertificates: /ca, sni: x.com, subjectAltNames: [y.com], caCrl: /crl}",
            TlsOrigination {
                trust: Trust::File("/ca".into()),
                crl: text("/crl"),
                sni: text("x.com"),
                subject_alt_names: ["y.com".into()].into(),
                ..plain.clone()
            },
        ),
        ("{mode: SIMPLE, caCertificates: system}", plain.clone()),
        (
            "{mode: SIMPLE, insecureSkipVerify: true}",
            TlsOrigination { trust: Trust::Anybody, ..plain.clone() },
        ),
        (
            "{mode: SIMPLE, credentialName: s}",
            TlsOrigination { trust: Trust::Credential(secret()), ..plain.clone() },
        ),
        (
            "{mode: SIMPLE, credentialName: \"configmap://m\"}",
            TlsOrigination { trust: Trust::Credential(map.clone()), ..plain.clone() },
        ),
        (
            "{mode: SIMPLE, credentialName: \"configmap://book/m\"}",
            TlsOrigination { trust: Trust::Credential(map), ..plain.clone() },
        ),
        (
            "{mode: MUTUAL, clientCertificate: /c, privateKey: /k}",
            TlsOrigination { certificate: Some(files), ..plain.clone() },
        ),
        (
            "{mode: MUTUAL, credentialName: s}",
            TlsOrigination {
                certificate: Some(ClientCertificate::Credential(secret())),
                trust: Trust::Credential(secret()),
                ..plain
            },
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(of(&format!("{{tls: {text}}}")).tls, TlsPolicy::Originate(Box::new(expected)), "{text}");
    }
}

#[test]
fn tls_that_is_not_made_here() {
    assert_eq!(of("{tls: {}}").tls, TlsPolicy::Disable);
    let sni = Some("x.com".into());
    let mutual = TlsPolicy::IstioMutual { sni, subject_alt_names: ["spiffe://a".into()].into() };
    assert_eq!(of("{tls: {mode: ISTIO_MUTUAL, sni: x.com, subjectAltNames: [\"spiffe://a\"]}}").tls, mutual);
    assert_eq!(of("{loadBalancer: {simple: RANDOM}}").tls, TlsPolicy::Mesh);
}

#[test]
fn tunnels_proxy_protocol_and_budgets() {
    let tunnel = of("{tunnel: {protocol: POST, targetHost: x.com, targetPort: 443}}").tunnel.unwrap();
    assert_eq!(
        (tunnel.protocol, tunnel.host.to_string(), tunnel.port),
        (TunnelProtocol::Post, "x.com".into(), 443)
    );
    assert_eq!(of("{proxyProtocol: {}}").proxy_protocol, Some(ProxyProtocolVersion::V1));
    assert_eq!(of("{proxyProtocol: {version: V2}}").proxy_protocol, Some(ProxyProtocolVersion::V2));
    let usual = of("{retryBudget: {}}").retry_budget.unwrap();
    assert_eq!(usual, RetryBudget { parts_per_million: 200_000, min_concurrency: 3, interval: None });
    let own = of("{retryBudget: {percent: 12.5, minRetryConcurrency: 1, budgetInterval: 10s}}")
        .retry_budget
        .unwrap();
    let expected =
        RetryBudget { parts_per_million: 125_000, min_concurrency: 1, interval: Some(seconds(10)) };
    assert_eq!(own, expected);
    let limits: Vec<_> =
        [0, 7, 8, 16, 800, u32::MAX].into_iter().map(|requests| own.limit(requests)).collect();
    assert_eq!(limits, [1, 1, 1, 2, 100, 536_870_911]);
}

#[test]
fn locality_needs_outlier_detection_unless_it_distributes() {
    let failover = |policy: &LocalityPolicy| match policy {
        LocalityPolicy::Anywhere => "anywhere".to_owned(),
        LocalityPolicy::Distribute(shares) => format!("distribute {}", shares.len()),
        LocalityPolicy::Failover { regions, labels } => {
            format!("failover {} {}", regions.len(), labels.len())
        }
    };
    let setting = |setting: &str| format!("loadBalancer: {{localityLbSetting: {setting}}}");
    let cases = [
        ("{loadBalancer: {simple: RANDOM}}".to_owned(), "anywhere"),
        ("{outlierDetection: {}}".to_owned(), "failover 0 0"),
        (format!("{{outlierDetection: {{}}, {}}}", setting("{enabled: false}")), "anywhere"),
        (format!("{{{}}}", setting("{failover: [{from: a, to: b}]}")), "anywhere"),
        (
            format!("{{outlierDetection: {{}}, {}}}", setting("{failover: [{from: a, to: b}]}")),
            "failover 1 0",
        ),
        (format!("{{outlierDetection: {{}}, {}}}", setting("{failoverPriority: [x, y]}")), "failover 0 2"),
        (format!("{{{}}}", setting("{distribute: [{from: a, to: {b: 100}}]}")), "distribute 1"),
        ("{loadBalancer: {zoneAwareLbSetting: {enabled: true}}}".to_owned(), "failover 0 0"),
        ("{loadBalancer: {zoneAwareLbSetting: {enabled: false}}}".to_owned(), "anywhere"),
    ];
    for (text, expected) in cases {
        assert_eq!(failover(&of(&text).locality), expected, "{text}");
    }
}

#[test]
fn the_rule_says_more_than_the_service_and_that_more_than_the_mesh() {
    let client = Client { namespace: "book", labels: &BTreeMap::new() };
    let locality = |rules: &Rules, traffic_distribution| {
        let service = Destination { traffic_distribution, ..Destination::new("book", HOST, 80) };
        resolve(rules, &client, &service, None).unwrap().locality
    };
    let labels = |policy: LocalityPolicy| match policy {
        LocalityPolicy::Failover { labels, .. } => labels.len(),
        LocalityPolicy::Anywhere | LocalityPolicy::Distribute(_) => 0,
    };
    let mut none = Rules::default();
    assert_eq!(labels(locality(&none, Some(TrafficDistribution::PreferSameZone))), 3);
    assert_eq!(labels(locality(&none, Some(TrafficDistribution::PreferSameNode))), 5);
    let off = crate::resource::networking::destination_rule::LocalityLbSetting {
        enabled: Some(false),
        ..Default::default()
    };
    none.set_defaults(Arc::new(Defaults { locality: Some(off), ..Defaults::default() }));
    assert_eq!(labels(locality(&none, Some(TrafficDistribution::PreferSameZone))), 3);
    assert_eq!(locality(&none, None), LocalityPolicy::Anywhere);
    let own = rules(&rule(
        "book",
        "a",
        "host: reviews\ntrafficPolicy: {loadBalancer: {localityLbSetting: {enabled: false}}}",
    ));
    assert_eq!(locality(&own, Some(TrafficDistribution::PreferSameZone)), LocalityPolicy::Anywhere);
}

#[test]
fn the_mesh_can_switch_locality_off() {
    let text = "host: reviews\ntrafficPolicy: {outlierDetection: {}}";
    let mut rules = rules(&rule("book", "a", text));
    let off = crate::resource::networking::destination_rule::LocalityLbSetting {
        enabled: Some(false),
        ..Default::default()
    };
    rules.set_defaults(Arc::new(Defaults { locality: Some(off), ..Defaults::default() }));
    assert_eq!(policy(&rules, "book", HOST, None).locality, LocalityPolicy::Anywhere);
}

#[test]
fn localities_match_by_part() {
    let place = Place { region: "r", zone: "z", subzone: "s", ..Place::default() };
    for (pattern, matches) in [
        ("*", true),
        ("r", true),
        ("r/*", true),
        ("r/z", true),
        ("r/z/*", true),
        ("r/z/s", true),
        ("q", false),
        ("r/y", false),
        ("r/z/t", false),
    ] {
        assert_eq!(Pattern::new(pattern).matches(&place), matches, "{pattern}");
    }
}

/// What a ServiceEntry asks for holds where the rule asks for nothing.
#[test]
fn names_of_a_service_entry_are_asked_for_where_the_rule_has_none() {
    let entrys: Vec<Arc<str>> = vec!["spiffe://cluster.local/ns/a/sa/b".into(), "c.example".into()];
    let names = |text: &str| match of(text).tls.or_names(&entrys) {
        TlsPolicy::Originate(rule) => rule.subject_alt_names.to_vec(),
        TlsPolicy::IstioMutual { subject_alt_names, .. } => subject_alt_names.to_vec(),
        TlsPolicy::Mesh | TlsPolicy::Disable => Vec::new(),
    };
    assert_eq!(names("{tls: {mode: SIMPLE}}"), entrys);
    assert_eq!(names("{tls: {mode: ISTIO_MUTUAL}}"), entrys);
    assert_eq!(names("{tls: {mode: SIMPLE, subjectAltNames: [own.example]}}"), ["own.example".into()]);
    assert_eq!(names("{tls: {mode: DISABLE}}"), [] as [Arc<str>; 0]);
    let policy = of("{tls: {mode: ISTIO_MUTUAL}}").tls;
    let id = |name| crate::id::SpiffeId::new(&crate::id::TrustDomain::default(), "a", name).unwrap();
    assert!(policy.admits(&id("other")), "without names anybody of the mesh");
    let policy = policy.or_names(&entrys);
    assert!(policy.admits(&id("b")) && !policy.admits(&id("other")));
}
