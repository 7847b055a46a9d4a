//! Generated policies and connections: the engine and the reference evaluator never disagree.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::select;

use super::objects;
use super::reference::Reference;
use crate::id::{SpiffeId, TrustDomain};
use crate::model::{CompileOptions, compile};
use crate::policy::Connection;
use crate::resource::security::{
    Action, AuthorizationPolicySpec, Condition, From as FromEntry, MutualTls, MutualTlsMode, Operation,
    PeerAuthenticationSpec, PolicyTargetReference, Rule, Source, To, WorkloadSelector,
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
    let requests = (list(0.03, &["*"]), list(0.03, &["*"]), list(0.03, BLOCKS), list(0.03, BLOCKS));
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
    let requests = (list(0.05, &["/x"]), list(0.05, &["GET"]), list(0.05, &["h"]));
    (list(0.6, PORTS), list(0.3, PORTS), requests)
        .prop_map(|(ports, not_ports, (paths, not_methods, hosts))| Operation {
            hosts,
            ports,
            not_ports,
            not_methods,
            paths,
            ..Operation::default()
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
        of("request.headers[x]", TEXTS),
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
            let spec = AuthorizationPolicySpec { selector, target_refs, rules, action, ..Default::default() };
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

fn options() -> CompileOptions {
    CompileOptions { trust_domain: TrustDomain::parse("td.one").unwrap(), ..CompileOptions::default() }
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
        policies in policies(), connections in prop::collection::vec(connection(), 24),
    ) {
        let objects = with_pods(&policies);
        let snapshot = compile(&objects, &options()).snapshot;
        for (peer, source_ip, destination) in &connections {
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
            let answer = snapshot.policies().authorize(workload, &connection);
            let noted = answer.as_ref().map(|permit| permit.dry_run_denied().is_some()).map_err(|denied| &denied.by);
            let outcome = reference.decide(&connection);
            prop_assert!(outcome.agrees(noted), "{:?} but {:?} for {:?}", answer, outcome, connection);
            // What is said ahead is what is said then.
            let Some(peer) = peer else { continue };
            let standing = snapshot.policies().standing(workload, (peer, *source_ip), destination.ip());
            if let Some(standing) = standing {
                prop_assert_eq!(standing.allows(destination.port()), answer.is_ok(), "{:?}", connection);
                prop_assert!(!matches!(noted, Ok(true)), "nobody would be told: {:?}", connection);
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
    for _ in 0..1000 {
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
