use std::collections::BTreeSet;

use super::*;
use crate::testkit::{csr, domain};

/// Which identity runs on which node.
struct Placed(BTreeSet<(&'static str, SpiffeId)>);

impl Placement for Placed {
    fn runs_on(&self, node: &NodeName, id: &SpiffeId) -> bool {
        self.0.iter().any(|(at, what)| *at == node.as_str() && what == id)
    }

    fn is_somebody(&self, id: &SpiffeId) -> bool {
        self.0.iter().any(|(_, what)| what == id)
    }
}

fn spiffe(text: &str) -> SpiffeId {
    let text = if text.contains("://") { text.to_owned() } else { format!("spiffe://cluster.local/{text}") };
    SpiffeId::parse(&text).expect("identity")
}

fn node(name: &str) -> NodeName {
    NodeName::parse(name).expect("a node's name")
}

fn placed() -> Placed {
    let one = [
        ("n1", "ns/shop/sa/cart"),
        ("n1", "ns/shop/sa/web"),
        ("n1", "ns/istio-system/sa/mesh-node"),
        ("n2", "ns/shop/sa/pay"),
        ("n2", "ns/shop/sa/web"),
        ("n2", "ns/shop/sa/waypoint"),
        ("vm-host", "ns/edge/sa/kiosk"),
        ("n2", "ns/istio-ingress/sa/gateway"),
        // Somebody has managed to place what nobody may have.
        ("n1", "ns/nodes.mesh/sa/n2"),
        ("n1", "spiffe://evil.local/ns/shop/sa/cart"),
    ];
    Placed(one.map(|(node, id)| (node, spiffe(id))).into())
}

/// `namespace/account`, then `@node` if the token is bound to one, then `>audience`s.
fn token(text: &str) -> Caller {
    let mut audiences = text.split('>');
    let (account, at) = match audiences.next().expect("an account").split_once('@') {
        Some((account, at)) => (account, Some(node(at))),
        None => (text.split('>').next().expect("an account"), None),
    };
    let (namespace, service_account) = account.split_once('/').expect("namespace/account");
    let pod = at.is_some().then(|| PodRef { name: "pod".into(), uid: "1".into() });
    Caller::ServiceAccountToken {
        namespace: namespace.into(),
        service_account: service_account.into(),
        audiences: audiences.map(str::to_owned).collect(),
        pod,
        node: at,
    }
}

fn svid(text: &str) -> Caller {
    Caller::Svid(spiffe(text))
}

fn join_node(name: &str) -> Caller {
    Caller::JoinToken(Binding::Node(node(name)))
}

fn join_as(id: &str) -> Caller {
    Caller::JoinToken(Binding::Identity(spiffe(id)))
}

/// `ok` and the identity, or the refusal.
fn verdict(caller: &Caller, wanted: Option<&str>) -> String {
    let rules = Rules::new(domain(), "istio-system");
    let request = Request { impersonated: wanted.map(spiffe), csr: csr(), ttl: None };
    match authorize(caller, request, &rules, &placed()) {
        Ok(grant) => grant.id().uri().strip_prefix("spiffe://cluster.local/").expect("ours").to_owned(),
        Err(refusal) => refusal.reason().to_owned(),
    }
}

const CART: Option<&str> = Some("ns/shop/sa/cart");
const WEB: Option<&str> = Some("ns/shop/sa/web");
const PAY: Option<&str> = Some("ns/shop/sa/pay");

/// What is tried, by whom, for which identity, and what comes of it.
type Row<'a> = (&'a str, Caller, Option<&'a str>, &'a str);

fn check(rows: &[Row<'_>]) {
    for (name, caller, wanted, expected) in rows {
        assert_eq!(verdict(caller, *wanted), *expected, "{name}: {caller} wants {wanted:?}");
    }
}

#[test]
fn nodes_have_the_identities_of_their_pods() {
    let mesh_node = || token("istio-system/mesh-node@n1>istio-ca");
    check(&[
        ("a node, a pod of its own", mesh_node(), CART, "ns/shop/sa/cart"),
        ("a node, an account that runs on two nodes", mesh_node(), WEB, "ns/shop/sa/web"),
        ("a node, a pod of another node", mesh_node(), PAY, "not_on_node"),
        ("a node, an account of no pod", mesh_node(), Some("ns/shop/sa/idle"), "not_on_node"),
        ("a node, the same account elsewhere", mesh_node(), Some("ns/other/sa/cart"), "not_on_node"),
        ("a node, itself", mesh_node(), None, "ns/istio-system/sa/mesh-node"),
        (
            "a node, itself by name",
            mesh_node(),
            Some("ns/istio-system/sa/mesh-node"),
            "ns/istio-system/sa/mesh-node",
        ),
        ("a node, the other node account", mesh_node(), Some("ns/istio-system/sa/ztunnel"), "not_on_node"),
        ("a ztunnel, a pod of its own", token("istio-system/ztunnel@n2>istio-ca"), PAY, "ns/shop/sa/pay"),
        ("a ztunnel, a pod of another node", token("istio-system/ztunnel@n2>istio-ca"), CART, "not_on_node"),
        ("a node's token without a node", token("istio-system/mesh-node>istio-ca"), CART, "node_unknown"),
        (
            "the same, for itself",
            token("istio-system/mesh-node>istio-ca"),
            None,
            "ns/istio-system/sa/mesh-node",
        ),
        ("a node nobody knows", token("istio-system/mesh-node@n9>istio-ca"), CART, "not_on_node"),
        (
            "a node, a foreign domain",
            mesh_node(),
            Some("spiffe://evil.local/ns/shop/sa/cart"),
            "foreign_trust_domain",
        ),
        ("a node, a node outside of Kubernetes", mesh_node(), Some("ns/nodes.mesh/sa/n2"), "node_identity"),
        ("a node's account elsewhere", token("shop/mesh-node@n1>istio-ca"), CART, "not_a_node"),
        (
            "another account of the root namespace",
            token("istio-system/istiod@n1>istio-ca"),
            CART,
            "not_a_node",
        ),
    ]);
}

#[test]
fn tokens_must_be_for_us() {
    check(&[
        (
            "a node, for the API server",
            token("istio-system/mesh-node@n1>https://kubernetes"),
            CART,
            "wrong_audience",
        ),
        ("a node, for nobody", token("istio-system/mesh-node@n1"), CART, "wrong_audience"),
        (
            "a node, for us as well",
            token("istio-system/mesh-node@n1>vault>istio-ca"),
            CART,
            "ns/shop/sa/cart",
        ),
        ("almost our audience", token("shop/cart@n1>istio-ca2"), None, "wrong_audience"),
    ]);
}

#[test]
fn workloads_have_their_own() {
    check(&[
        ("a pod, itself", token("shop/cart@n1>istio-ca"), None, "ns/shop/sa/cart"),
        ("a pod, itself by name", token("shop/cart@n1>istio-ca"), CART, "ns/shop/sa/cart"),
        ("a pod, its neighbour", token("shop/cart@n1>istio-ca"), WEB, "not_a_node"),
        ("a pod without a node, itself", token("shop/cart>istio-ca"), None, "ns/shop/sa/cart"),
        ("an account in the nodes' namespace", token("nodes.mesh/n1>istio-ca"), None, "node_identity"),
        ("an account that fits no identity", token("shop/a..b>istio-ca"), None, "bad_account"),
    ]);
}

#[test]
fn certificates_are_renewed_by_themselves() {
    check(&[
        ("a waypoint renews", svid("ns/shop/sa/waypoint"), None, "ns/shop/sa/waypoint"),
        (
            "a waypoint by name",
            svid("ns/shop/sa/waypoint"),
            Some("ns/shop/sa/waypoint"),
            "ns/shop/sa/waypoint",
        ),
        ("a waypoint, its workloads", svid("ns/shop/sa/waypoint"), PAY, "not_a_node"),
        ("a gateway renews", svid("ns/istio-ingress/sa/gateway"), None, "ns/istio-ingress/sa/gateway"),
        ("a machine whose group is gone", svid("ns/edge/sa/gone"), None, "nobody"),
        ("a machine whose group is gone, a pod", svid("ns/edge/sa/gone"), CART, "nobody"),
        ("a machine that joins again", join_as("ns/edge/sa/gone"), None, "ns/edge/sa/gone"),
        ("a gateway, a pod", svid("ns/istio-ingress/sa/gateway"), CART, "not_a_node"),
        (
            "a pod, a node's account",
            svid("ns/shop/sa/cart"),
            Some("ns/istio-system/sa/mesh-node"),
            "not_a_node",
        ),
        ("a pod, a node", svid("ns/shop/sa/cart"), Some("ns/nodes.mesh/sa/vm-host"), "node_identity"),
        ("a node's account by certificate", svid("ns/istio-system/sa/mesh-node"), CART, "node_unknown"),
        ("a foreign certificate", svid("spiffe://evil.local/ns/shop/sa/cart"), None, "foreign_trust_domain"),
        ("a foreign node", svid("spiffe://evil.local/ns/nodes.mesh/sa/n1"), CART, "foreign_trust_domain"),
        (
            "a foreign account of our name",
            svid("spiffe://evil.local/ns/shop/sa/cart"),
            CART,
            "foreign_trust_domain",
        ),
    ]);
}

#[test]
fn machines_outside_of_kubernetes() {
    check(&[
        ("a node joins", join_node("vm-host"), None, "ns/nodes.mesh/sa/vm-host"),
        ("a node joins and asks at once", join_node("vm-host"), Some("ns/edge/sa/kiosk"), "ns/edge/sa/kiosk"),
        ("a node joins, a pod elsewhere", join_node("vm-host"), CART, "not_on_node"),
        ("a node joins as another", join_node("vm-host"), Some("ns/nodes.mesh/sa/n1"), "node_identity"),
        ("a joined node renews", svid("ns/nodes.mesh/sa/vm-host"), None, "ns/nodes.mesh/sa/vm-host"),
        (
            "a joined node, its workload",
            svid("ns/nodes.mesh/sa/vm-host"),
            Some("ns/edge/sa/kiosk"),
            "ns/edge/sa/kiosk",
        ),
        ("a joined node, a pod elsewhere", svid("ns/nodes.mesh/sa/vm-host"), CART, "not_on_node"),
        (
            "a joined node, another node",
            svid("ns/nodes.mesh/sa/vm-host"),
            Some("ns/nodes.mesh/sa/n2"),
            "node_identity",
        ),
        ("no node's name", svid("ns/nodes.mesh/sa/UPPER"), CART, "nobody"),
        ("a machine joins", join_as("ns/edge/sa/kiosk"), None, "ns/edge/sa/kiosk"),
        ("a machine joins, another", join_as("ns/edge/sa/kiosk"), CART, "not_a_node"),
        ("a machine joins as a node", join_as("ns/nodes.mesh/sa/n1"), None, "node_identity"),
        (
            "a machine of a foreign domain",
            join_as("spiffe://evil.local/ns/a/sa/b"),
            None,
            "foreign_trust_domain",
        ),
    ]);
}

#[test]
fn nobody_but_nodes_ever_gets_another_identity() {
    // Every caller with every wish; what is granted beside the caller's own must run on the caller's node.
    let names = ["ns/shop/sa/cart", "ns/shop/sa/pay", "ns/istio-system/sa/mesh-node", "ns/nodes.mesh/sa/n1"];
    let mut callers: Vec<(Caller, Option<&str>)> = Vec::new();
    for name in names {
        callers.push((svid(name), name.strip_prefix("ns/nodes.mesh/sa/")));
        callers.push((join_as(name), None));
    }
    for at in ["n1", "n2", "n3"] {
        callers.push((token(&format!("istio-system/mesh-node@{at}>istio-ca")), Some(at)));
        callers.push((token(&format!("shop/cart@{at}>istio-ca")), None));
        callers.push((join_node(at), Some(at)));
    }
    let (mut granted, placed) = (0, placed());
    for (caller, at) in &callers {
        let own = verdict(caller, None);
        for wanted in names.into_iter().chain(placed.0.iter().map(|(_, id)| id.uri())) {
            let got = verdict(caller, Some(wanted));
            if !got.contains('/') || got == own {
                continue;
            }
            granted += 1;
            assert_eq!(spiffe(&got), spiffe(wanted), "{caller}");
            let at = node(at.unwrap_or_else(|| panic!("{caller} is no node and got {wanted}")));
            assert!(placed.runs_on(&at, &spiffe(wanted)), "{caller} got {wanted}");
        }
    }
    assert!(granted > 5, "{granted}");
}

#[test]
fn lifetimes_are_something() {
    let rules = Rules::new(domain(), "istio-system");
    for (ttl, good) in [(0, false), (999, false), (1000, true), (86_400_000, true)] {
        let ttl = Some(Duration::from_millis(ttl));
        let request = Request { impersonated: None, csr: csr(), ttl };
        let outcome = authorize(&svid("ns/shop/sa/cart"), request, &rules, &placed());
        assert_eq!(outcome.is_ok(), good, "{ttl:?}");
        assert_eq!(outcome.ok().and_then(|grant| grant.ttl()), ttl.filter(|_| good));
    }
}

#[test]
fn nodes_have_names() {
    let long = "a".repeat(254);
    for (name, good) in [
        ("n1", true),
        ("ip-10-0-0-1.eu-west-1.compute.internal", true),
        ("1", true),
        ("", false),
        (".", false),
        ("a..b", false),
        ("-a", false),
        ("a-", false),
        ("a.-b", false),
        ("A", false),
        ("a/b", false),
        ("a b", false),
        ("ä", false),
        (&long, false),
    ] {
        assert_eq!(NodeName::parse(name).is_ok(), good, "{name}");
        if good {
            let id = node_identity(&domain(), &node(name));
            assert_eq!(node_of(&id), Some(node(name)));
        }
    }
    assert_eq!(node_of(&spiffe("ns/shop/sa/cart")), None);
}

#[test]
fn refusals_say_why() {
    let rules = Rules::new(domain(), "istio-system");
    let ask = |caller: &Caller, wanted: &str| {
        let request = Request { impersonated: Some(spiffe(wanted)), csr: csr(), ttl: None };
        authorize(caller, request, &rules, &placed()).expect_err("refused").to_string()
    };
    assert_eq!(
        ask(&token("istio-system/mesh-node@n1>istio-ca"), "ns/shop/sa/pay"),
        "no workload with the identity spiffe://cluster.local/ns/shop/sa/pay runs on node n1"
    );
    assert_eq!(
        ask(&token("shop/cart@n1>a>b"), "ns/shop/sa/pay"),
        "the token is not for this CA: it is for a, b, not for istio-ca"
    );
    assert_eq!(
        ask(&token("shop/cart@n1>istio-ca"), "ns/shop/sa/pay"),
        "service account shop/cart of pod pod on node n1 may have its own certificate only, not the one of \
         spiffe://cluster.local/ns/shop/sa/pay"
    );
}
