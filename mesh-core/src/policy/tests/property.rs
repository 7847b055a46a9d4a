//! Generated policies and connections: the engine and the reference evaluator never disagree.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};

use http::HeaderMap;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::objects;
use super::reference::{Carried, Plain, Reference};
use crate::authn::Claims;
use crate::id::{SpiffeId, TrustDomain};
use crate::model::{CompileOptions, Snapshot, compile};
use crate::policy::{Connection, Decision, DeniedBy, Host, Permit, Question, Request, Seen};
use crate::resource::security::{
    Action, AuthorizationPolicySpec, Condition, ExtensionProvider, From as FromEntry, MutualTls,
    MutualTlsMode, Operation, PeerAuthenticationSpec, PolicyTargetReference, Rule, Source, To,
    WorkloadSelector,
};
use crate::resource::{Meta, Object, ObjectStatus, Origin, Spec};

/// Mostly short lists of a few values, so that matches are as likely as misses; `chance` is that of any value.
fn list(chance: f64, values: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    let values = prop::collection::vec(select(values).prop_map(str::to_owned), 1..3);
    prop::option::weighted(chance, values).prop_map(Option::unwrap_or_default)
}

fn source() -> impl Strategy<Value = Source> {
    let identity = (list(0.3, PRINCIPALS), list(0.2, PRINCIPALS), list(0.2, TEXTS), list(0.2, TEXTS));
    let accounts = (list(0.1, ACCOUNTS), list(0.1, ACCOUNTS), list(0.1, DOMAINS), list(0.1, DOMAINS));
    let blocks = (list(0.2, BLOCKS), list(0.2, BLOCKS));
    let requests = (list(0.1, SUBJECTS), list(0.05, SUBJECTS), list(0.05, BLOCKS), list(0.05, BLOCKS));
    (identity, accounts, blocks, requests)
        .prop_map(|(identity, accounts, blocks, requests)| Source {
            principals: identity.0,
            not_principals: identity.1,
            namespaces: identity.2,
            not_namespaces: identity.3,
            service_accounts: accounts.0,
            not_service_accounts: accounts.1,
            trust_domains: accounts.2,
            not_trust_domains: accounts.3,
            ip_blocks: blocks.0,
            not_ip_blocks: blocks.1,
            request_principals: requests.0,
            not_request_principals: requests.1,
            remote_ip_blocks: requests.2,
            not_remote_ip_blocks: requests.3,
        })
        .prop_filter("parsing refuses empty sources", |source| *source != Source::default())
}

fn operation() -> impl Strategy<Value = Operation> {
    let paths = (list(0.4, PATHS), list(0.1, PATHS));
    let methods = (list(0.2, METHODS), list(0.1, METHODS));
    let hosts = (list(0.2, HOSTS), list(0.1, HOSTS));
    (list(0.3, PORTS), list(0.1, PORTS), paths, methods, hosts)
        .prop_map(|(ports, not_ports, paths, methods, hosts)| Operation {
            hosts: hosts.0,
            not_hosts: hosts.1,
            ports,
            not_ports,
            methods: methods.0,
            not_methods: methods.1,
            paths: paths.0,
            not_paths: paths.1,
        })
        .prop_filter("parsing refuses empty operations", |operation| *operation != Operation::default())
}

fn condition() -> impl Strategy<Value = Condition> {
    let of = |key: &'static str, values: &'static [&'static str]| {
        (list(0.8, values), list(0.4, values))
            .prop_map(move |(values, not_values)| Condition { key: key.to_owned(), values, not_values })
            .prop_filter("parsing refuses it", |c| !c.values.is_empty() || !c.not_values.is_empty())
    };
    prop_oneof![
        of("source.ip", BLOCKS),
        of("destination.ip", BLOCKS),
        of("source.namespace", TEXTS),
        of("source.principal", PRINCIPALS),
        of("source.serviceAccount", ACCOUNTS),
        of("source.trustDomain", DOMAINS),
        of("destination.port", PORTS),
        of("request.headers[x-a]", TEXTS),
        of("request.headers[x-b]", TEXTS),
        of("remote.ip", BLOCKS),
        of("request.auth.principal", SUBJECTS),
        of("request.auth.audiences", TEXTS),
        of("request.auth.presenter", TEXTS),
        of("request.auth.claims[scope]", TEXTS),
        of("request.auth.claims[deep][roles]", TEXTS),
        of("connection.sni", HOSTS),
        of("experimental.envoy.filters.x", TEXTS),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let from = prop::collection::vec(source().prop_map(|source| FromEntry { source }), 0..3);
    let to = prop::collection::vec(operation().prop_map(|operation| To { operation }), 0..2);
    let when = prop::collection::vec(condition(), 0..2);
    (from, to, when).prop_map(|(from, to, when)| Rule { from, to, when })
}

fn selector() -> impl Strategy<Value = Option<WorkloadSelector>> {
    let labels = select(vec![
        vec![],
        vec![("app", "web")],
        vec![("app", "db")],
        vec![("app", "web"), ("version", "v1")],
    ]);
    let owned =
        |labels: Vec<(&str, &str)>| labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    prop::option::of(labels.prop_map(move |labels| WorkloadSelector { match_labels: owned(labels) }))
}

fn authorization() -> impl Strategy<Value = (Spec, bool)> {
    let actions = [Action::Allow, Action::Allow, Action::Deny, Action::Deny, Action::Audit, Action::Custom];
    let rules = prop::collection::vec(rule(), 0..3);
    let attached = prop::bool::weighted(0.05);
    (select(actions.to_vec()), rules, selector(), attached, prop::bool::weighted(0.2)).prop_map(
        |(action, rules, selector, attached, dry_run)| {
            let target_refs = if attached { vec![PolicyTargetReference::default()] } else { Vec::new() };
            let provider = (action == Action::Custom)
                .then(|| ExtensionProvider { name: if rules.len() > 1 { "one" } else { "two" }.to_owned() });
            let spec = AuthorizationPolicySpec {
                selector,
                target_refs,
                rules,
                action,
                provider,
                ..Default::default()
            };
            (Spec::AuthorizationPolicy(spec), dry_run && matches!(action, Action::Allow | Action::Deny))
        },
    )
}

fn peer_authentication() -> impl Strategy<Value = (Spec, bool)> {
    use MutualTlsMode::{Disable, Permissive, Strict, Unset};
    let mtls = select(&[Unset, Disable, Permissive, Strict][..]).prop_map(|mode| MutualTls { mode });
    let ports = prop::collection::btree_map(select(&[80_u16, 8080][..]), mtls.clone(), 0..2);
    (selector(), prop::option::of(mtls), ports).prop_map(|(selector, mtls, port_level_mtls)| {
        let spec = PeerAuthenticationSpec { selector, mtls, port_level_mtls };
        (Spec::PeerAuthentication(spec), false)
    })
}

/// Policies of a few namespaces and ages; their names are their positions, padded.
fn policies() -> impl Strategy<Value = Vec<Object>> {
    let spec = prop_oneof![2 => authorization(), 1 => peer_authentication()];
    let namespace = select(&["app", "app", "other", "istio-system"][..]);
    let age = prop::option::of(0_i64..3);
    prop::collection::vec((namespace, age, spec), 0..8).prop_map(|policies| {
        let object =
            |(index, (namespace, creation_timestamp, (spec, dry_run))): (usize, (&str, _, (Spec, bool)))| {
                let kind = if matches!(spec, Spec::PeerAuthentication(_)) {
                    "PeerAuthentication"
                } else {
                    "AuthorizationPolicy"
                };
                let dry_run = dry_run.then(|| ("istio.io/dry-run".to_owned(), "true".to_owned()));
                let meta = Meta {
                    kind,
                    namespace: namespace.into(),
                    name: format!("p{index:02}").into(),
                    labels: BTreeMap::new(),
                    annotations: dry_run.into_iter().collect(),
                    uid: None,
                    creation_timestamp,
                    generation: None,
                };
                let origin = Origin { file: "generated".into(), document: index + 1 };
                Object { origin, meta, spec, digest: 0, spec_json: None, status: ObjectStatus::default() }
            };
        policies.into_iter().enumerate().map(object).collect()
    })
}

/// Peer, source and destination.
fn connection() -> impl Strategy<Value = (Option<SpiffeId>, IpAddr, SocketAddr)> {
    let peer = (
        select(DOMAIN_NAMES),
        select(&["a", "app", "b", "ba", "ab"][..]),
        select(&["x", "y", "xy", "yx"][..]),
    );
    let peer = peer.prop_map(|(domain, namespace, account)| {
        SpiffeId::new(&TrustDomain::parse(domain).unwrap(), namespace, account).unwrap()
    });
    let source = select(&["10.0.0.9", "::ffff:10.0.0.9", "10.1.2.3", "192.168.1.1", "fd00::9", "::1"][..]);
    let destination =
        select(&["10.0.0.1", "::ffff:10.0.0.1", "fd00::1", "10.0.0.2", "10.0.0.3", "10.0.0.4"][..]);
    let port = select(&[80_u16, 8080, 9090][..]);
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    (prop::option::weighted(0.7, peer), source, destination, port)
        .prop_map(move |(peer, from, to, port)| (peer, ip(from), SocketAddr::new(ip(to), port)))
}

fn request() -> impl Strategy<Value = Plain> {
    let line = (
        select(&["GET", "POST", "PUT"][..]),
        prop::option::weighted(0.9, select(AUTHORITIES)),
        select(REQUESTED),
    );
    let header = || prop::collection::vec(select(&["a", "b", "app", "a, b", "", "b,app", "x"][..]), 0..3);
    let token = prop::option::of(select(vec![
        json!({"iss": "i", "sub": "ann", "aud": ["a", "b"], "azp": "app", "scope": "a app", "deep": {"roles": ["a", 3]}}),
        json!({"iss": "i", "sub": "bob", "aud": "app", "deep": {"roles": "b"}}),
        json!({"sub": "ann"}),
    ]));
    let remote = select(&["10.0.0.9", "::ffff:10.1.2.3", "192.168.1.1", "fd00::9"][..]);
    let name = prop::option::of(select(&["a.com", "b.com"][..]));
    (line, header(), header(), token, remote, name).prop_map(
        |((method, authority, path), a, b, token, ip, name)| {
            let mut headers = HeaderMap::new();
            a.iter().for_each(|value| _ = headers.append("x-a", value.parse().unwrap()));
            b.iter().for_each(|value| _ = headers.append("x-b", value.parse().unwrap()));
            Plain {
                method: method.to_owned(),
                authority: authority.map(str::to_owned),
                path: path.to_owned(),
                headers,
                remote_ip: ip.parse::<IpAddr>().unwrap().to_canonical(),
                server_name: name.map(str::to_owned),
                token,
            }
        },
    )
}

/// Asks the engine what `carried` comes to. The answer about a connection of which nothing is known must never be another than
/// that about whatever it turns out to carry.
fn ask(
    snapshot: &Snapshot,
    connection: &Connection<'_>,
    carried: Carried<'_>,
    approved: &[Arc<str>],
) -> Result<(bool, bool), DeniedBy> {
    let workload = snapshot.workload_by_ip(connection.destination.ip()).unwrap();
    let decide =
        |seen: Seen<'_>| snapshot.policies().decide(workload, &Question { connection, seen, approved });
    let ahead = decide(Seen::Nothing);
    let answer = match carried {
        Carried::Unread => decide(Seen::Unread),
        Carried::Bytes(server_name) => decide(Seen::Bytes { server_name }),
        Carried::Request(plain) => {
            let claims =
                plain.token.as_ref().map(|token| Claims::verified(token.as_object().unwrap().clone(), &[]));
            let host = plain.authority.as_deref().map(Host::of);
            decide(Seen::Request(&Request {
                method: &plain.method,
                host: host.as_ref(),
                path: &plain.path,
                headers: &plain.headers,
                remote_ip: plain.remote_ip,
                server_name: plain.server_name.as_deref(),
                claims: claims.as_ref(),
            }))
        }
    };
    match (&ahead, &answer) {
        // Of several policies that allow it another one may be the first to match a request.
        (Decision::Allowed(a), Decision::Allowed(b)) => {
            let noted = |it: &Permit| (it.notes().would_be_denied.clone(), it.notes().audited.clone());
            assert_eq!((a.destination(), noted(a)), (b.destination(), noted(b)));
        }
        (Decision::Denied(_), Decision::Allowed(_)) | (Decision::Allowed(_), _) => {
            panic!("{ahead:?} but {answer:?}")
        }
        (Decision::NeedsExternal(_), _) | (_, Decision::NeedsRequest) => panic!("{ahead:?} {answer:?}"),
        _ => {}
    }
    let noted = |permit: Permit| (permit.dry_run_denied().is_some(), permit.notes().audited.is_some());
    answer.strict().map(noted).map_err(|denied| denied.by)
}

fn options() -> CompileOptions {
    CompileOptions { trust_domain: TrustDomain::parse("td.one").ok(), ..CompileOptions::default() }
}

fn with_pods(policies: &[Object]) -> Vec<Object> {
    static PODS: LazyLock<Vec<Object>> =
        LazyLock::new(|| objects(&super::mesh_config("trustDomainAliases: [td.old]")));
    PODS.iter().chain(policies).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_agrees_with_the_reference(
        policies in policies(), connections in prop::collection::vec((connection(), request()), 24),
        approves in any::<bool>(),
    ) {
        let objects = with_pods(&policies);
        let snapshot = compile(&objects, &options()).snapshot;
        let (approved, asked): (Vec<Arc<str>>, Vec<&str>) =
            if approves { (vec!["one".into()], vec!["one"]) } else { Default::default() };
        for ((peer, source_ip, destination), request) in &connections {
            let connection = Connection {
                peer: peer.as_ref(), source_ip: *source_ip, destination: *destination, encrypted: peer.is_some(),
            };
            let workload = snapshot.workload_by_ip(destination.ip()).unwrap();
            let reference = Reference {
                objects: &objects,
                root: "istio-system",
                domains: &["td.one", "td.old"],
                namespace: &workload.namespace,
                labels: &workload.labels,
            };
            let name = request.server_name.as_deref();
            for carried in [Carried::Unread, Carried::Bytes(name), Carried::Request(request)] {
                let answer = ask(&snapshot, &connection, carried, &approved);
                let outcome = reference.decide(&connection, carried, &asked);
                prop_assert!(
                    outcome.agrees(answer.as_ref().map(|noted| *noted)),
                    "{:?} but {:?} for {:?} {:?}", answer, outcome, connection, carried
                );
            }
            let answer = snapshot.policies().authorize(workload, &connection);
            let noted = answer.as_ref().map(|permit| permit.dry_run_denied().is_some());
            // What is said ahead is what is said then.
            let Some(peer) = peer else { continue };
            let standing = snapshot.policies().standing(workload, (peer, *source_ip), destination.ip());
            if let Some(standing) = standing {
                prop_assert_eq!(standing.allows(destination.port()), answer.is_ok(), "{:?}", connection);
                prop_assert!(!matches!(noted, Ok(true)), "nobody would be told: {:?}", connection);
                let named = ask(&snapshot, &connection, Carried::Request(request), &[]);
                prop_assert_eq!(named.is_ok(), answer.is_ok(), "requests are another matter: {:?}", connection);
            }
        }
    }

    #[test]
    fn the_order_of_the_resources_does_not_matter(policies in policies().prop_shuffle(), turn in 0_usize..20) {
        let objects = with_pods(&policies);
        let mut turned = objects.clone();
        turned.rotate_left(turn % objects.len());
        turned.reverse();
        let dump = |objects: &[Object]| serde_json::to_string(&compile(objects, &options()).snapshot).unwrap();
        prop_assert_eq!(dump(&objects), dump(&turned));
    }
}

/// A generator that only ever produced one outcome would prove nothing.
#[test]
fn generated_cases_reach_every_outcome() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..2000 {
        let policies = policies().new_tree(&mut runner).unwrap().current();
        let snapshot = compile(&with_pods(&policies), &options()).snapshot;
        let (peer, source_ip, destination) = connection().new_tree(&mut runner).unwrap().current();
        let connection = Connection { peer: peer.as_ref(), source_ip, destination, encrypted: false };
        let workload = snapshot.workload_by_ip(destination.ip()).unwrap();
        let outcome = match snapshot.policies().authorize(workload, &connection) {
            Ok(permit) if permit.dry_run_denied().is_some() => "noted".to_owned(),
            Ok(_) => "ok".to_owned(),
            Err(denied) => denied.to_string().split(' ').next().unwrap_or_default().to_owned(),
        };
        *seen.entry(outcome).or_default() += 1;
    }
    assert_eq!(seen.len(), 5, "{seen:?}");
    assert!(seen.values().all(|count| *count > 20), "{seen:?}");
}

const DOMAIN_NAMES: &[&str] = &["td.one", "td.old", "foreign", "cluster.local"];
const DOMAINS: &[&str] = &["td.one", "td.old", "td.*", "*.old", "foreign", "*"];
const TEXTS: &[&str] = &["a", "app", "a*", "*p", "b", "*"];
const ACCOUNTS: &[&str] = &["a/x", "app/y", "x", "y"];
const PORTS: &[&str] = &["80", "8080"];
const BLOCKS: &[&str] = &[
    "10.0.0.0/8",
    "10.0.0.9",
    "10.0.0.1",
    "10.0.0.1/31",
    "::ffff:10.0.0.0/120",
    "::ffff:10.1.2.3",
    "fd00::/8",
    "::/0",
    "::/95",
    "0.0.0.0/0",
    "::ffff:0:0/96",
    "192.168.1.77/24",
];
const PRINCIPALS: &[&str] = &[
    "*",
    "td.one/ns/a/sa/x",
    "td.old/ns/a/*",
    "td.old/ns/app/sa/y",
    "cluster.local/ns/a/sa/x",
    "*/sa/x",
    "*/ns/b/sa/y",
    "*.old/ns/a/sa/x",
    "*.none/ns/a/sa/x",
    "td.*",
    "td.one*",
    "foreign/ns/a/sa/x",
    "*y",
];
const SUBJECTS: &[&str] = &["i/ann", "i/*", "*/bob", "*", "j/ann"];
const METHODS: &[&str] = &["GET", "POST", "P*", "*", "get"];
const HOSTS: &[&str] = &["a.com", "A.com", "*.com", "a.com:80", "a.com:*", "b*", "*", "*:80"];
const AUTHORITIES: &[&str] = &["a.com", "A.COM.", "a.com:80", "b.com:8080", "b.com.:80", "x.org"];
const PATHS: &[&str] =
    &["/a", "/a/*", "*/b", "*", "/a/{*}", "/{*}/b", "/a/{**}", "/{**}/b", "/a/{*}/c/{**}", "/b"];
const REQUESTED: &[&str] =
    &["/", "/a", "/a/", "/a/b", "/a/b/c", "/a/b/c/d", "/b", "/x/b", "*", "//b", "/a//b"];
