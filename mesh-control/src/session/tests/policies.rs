//! Which policies a node is told, and when.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use mesh_core::model::World;
use mesh_core::policy::Scope;
use mesh_core::resource::ObjectKey;
use mesh_proto::discovery::Resource;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn pod(name: &str, namespace: &str, (node, app): (&str, &str)) -> String {
    // Names are one letter each, and so is the end of an address.
    let ip = [name, namespace, app]
        .concat()
        .bytes()
        .fold(0_u8, |sum, letter| sum.wrapping_mul(7).wrapping_add(letter));
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {app}}}}}, \
         spec: {{nodeName: {node}, containers: [{{name: c, image: i}}]}}, status: {{podIP: 10.0.0.{ip}}}}}"
    )
}

fn policy(name: &str, namespace: &str, selector: Option<&str>) -> String {
    let selector =
        selector.map(|app| format!("selector: {{matchLabels: {{app: {app}}}}}, ")).unwrap_or_default();
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{{selector}action: DENY, rules: [{{to: [{{operation: {{ports: ['80']}}}}]}}]}}}}"
    )
}

fn strict(namespace: &str, selector: Option<&str>) -> String {
    let selector =
        selector.map(|app| format!("selector: {{matchLabels: {{app: {app}}}}}, ")).unwrap_or_default();
    format!(
        "{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: tls, namespace: {namespace}}}, \
         spec: {{{selector}mtls: {{mode: STRICT}}}}}}"
    )
}

fn remove(world: &mut World, kind: &'static str, namespace: &str, name: &str) {
    world.remove(&ObjectKey { kind, namespace: namespace.into(), name: name.into() });
}

fn open(node: &str, shelf: &Shelf) -> Session {
    let mut session = Session::new(View::of(Some(node.into())));
    for kind in ResourceType::ALL {
        session.request(ask(kind), shelf).unwrap();
    }
    session
}

fn put_all(world: &mut World, shelf: &mut Shelf, yaml: &[String]) {
    let yaml: Vec<&str> = yaml.iter().map(String::as_str).collect();
    apply(world, &yaml);
    publish(world, shelf);
}

#[test]
fn a_node_is_told_of_the_policies_of_its_pods() {
    let (mut shelf, mut world) = (Shelf::default(), world(&[]));
    let policies = [
        policy("all", "a", None),
        policy("all", "b", None),
        policy("one", "a", Some("x")),
        policy("one", "b", Some("x")),
        policy("two", "a", Some("y")),
        policy("mesh", "istio-system", None),
        policy("mesh-x", "istio-system", Some("x")),
        strict("b", None),
        strict("a", Some("x")),
    ];
    put_all(&mut world, &mut shelf, &policies);
    put_all(&mut world, &mut shelf, &[pod("p", "a", ("n1", "x")), pod("q", "b", ("n2", "x"))]);
    let mut session = open("n1", &shelf);
    let told = all(&mut session, &shelf);
    let expected = [
        "+a/all",
        "+a/one",
        "+istio-system/mesh",
        "+istio-system/mesh-x",
        "+a/converted_peer_authentication_tls",
    ];
    let told: BTreeSet<&str> = told.iter().map(String::as_str).filter(|one| !one.contains("Pod")).collect();
    let expected: BTreeSet<&str> = expected.into_iter().collect();
    assert_eq!(told.iter().filter(|one| **one != "+mesh").copied().collect::<BTreeSet<_>>(), expected);

    // What a new pod needs is there before it is.
    put_all(&mut world, &mut shelf, &[pod("r", "b", ("n1", "y"))]);
    let told = all(&mut session, &shelf);
    let turn = |wanted: &str| {
        told.iter().position(|one| one == wanted).unwrap_or_else(|| panic!("no {wanted}: {told:?}"))
    };
    assert!(turn("+b/all") < turn("+Kubernetes//Pod/b/r"), "{told:?}");
    assert!(turn("+b/converted_peer_authentication_tls") < turn("+Kubernetes//Pod/b/r"), "{told:?}");
    assert!(!told.contains(&"+b/one".to_owned()), "{told:?}");

    // And goes after it.
    remove(&mut world, "Pod", "b", "r");
    publish(&mut world, &mut shelf);
    let told = all(&mut session, &shelf);
    let gone =
        ["-Kubernetes//Pod/b/r", "-Kubernetes//Pod/b/r", "-b/all", "-b/converted_peer_authentication_tls"];
    assert_eq!(told, gone);
}

#[test]
fn a_policy_that_is_for_others_now_is_taken_back() {
    let (mut shelf, mut world) = (Shelf::default(), world(&[]));
    put_all(&mut world, &mut shelf, &[pod("p", "a", ("n1", "x")), policy("one", "a", Some("x"))]);
    let mut session = open("n1", &shelf);
    all(&mut session, &shelf);
    let mut becomes = |yaml: String| {
        put_all(&mut world, &mut shelf, &[yaml]);
        let mut told = all(&mut session, &shelf);
        told.retain(|one| !one.contains("Pod"));
        told
    };
    assert_eq!(becomes(policy("one", "a", Some("y"))), ["-a/one"], "another selector");
    assert_eq!(becomes(policy("one", "a", None)), ["+a/one"], "everybody of the namespace");
    assert_eq!(becomes(policy("one", "a", Some("y"))), ["-a/one"], "and not any more");
    assert_eq!(becomes(policy("one", "a", Some("x"))), ["+a/one"]);
    remove(&mut world, "AuthorizationPolicy", "a", "one");
    publish(&mut world, &mut shelf);
    assert_eq!(all(&mut session, &shelf), ["+Kubernetes//Pod/a/p", "-a/one"], "nor is there one");
}

/// It comes back with a pod that a policy decides about. The policy has changed, so that it is to be told, and goes
/// before it was: the pod must hear that it is without it first.
#[test]
fn a_policy_that_goes_while_it_is_to_be_told_goes_last() {
    let (mut shelf, mut world, mut node) = (Shelf::default(), world(&[]), Node::default());
    put_all(&mut world, &mut shelf, &[pod("p", "a", ("n1", "x")), policy("one", "a", Some("x"))]);
    let mut session = open("n1", &shelf);
    while let Some(response) = session.next(&shelf).unwrap() {
        node.take(&response, &shelf);
        session.request(answer(&response, None), &shelf).unwrap();
    }
    put_all(&mut world, &mut shelf, &[policy("one", "a", None)]);
    let mut session = resume(&node, &shelf);
    remove(&mut world, "AuthorizationPolicy", "a", "one");
    publish(&mut world, &mut shelf);
    let mut told = all(&mut session, &shelf);
    told.dedup();
    assert_eq!(told, ["+Kubernetes//Pod/a/p", "-a/one"]);
}

/// 100 namespaces with 20 policies each, on a node of their own: a node is told a hundredth.
#[test]
fn a_node_is_not_told_the_policies_of_the_mesh() {
    let (mut shelf, mut world) = (Shelf::default(), world(&[]));
    let mut yaml = String::new();
    for namespace in 0..100 {
        let (namespace, node) = (format!("ns{namespace}"), format!("n{namespace}"));
        let _ = writeln!(yaml, "{}\n---", pod("p", &namespace, (&node, "x")));
        for number in 0..20 {
            let selector = (number % 2 == 0).then_some("x");
            let _ = writeln!(yaml, "{}\n---", policy(&format!("p{number}"), &namespace, selector));
        }
    }
    put_all(&mut world, &mut shelf, &[yaml.trim_end().trim_end_matches("---").to_owned()]);
    let mut session = Session::new(View::of(Some("n7".into())));
    session.request(ask(ResourceType::Authorization), &shelf).unwrap();
    let told = all(&mut session, &shelf);
    assert_eq!(told.len(), 20, "{told:?}");
    assert!(told.iter().all(|one| one.starts_with("+ns7/")), "{told:?}");
    assert_eq!(shelf.store(ResourceType::Authorization).len(), 2_000);
    let mut stranger = Session::new(View::default());
    stranger.request(ask(ResourceType::Authorization), &shelf).unwrap();
    assert_eq!(all(&mut stranger, &shelf).len(), 2_000, "who is no node is told everything");
    // Nor does it hear of their changes.
    put_all(&mut world, &mut shelf, &[policy("p1", "ns8", Some("y")), policy("p0", "ns9", None)]);
    assert_eq!(all(&mut session, &shelf), Vec::<String>::new());
}

/// What a node has been told, applied as it came.
#[derive(Default)]
struct Node {
    held: BTreeMap<(ResourceType, String), (String, Option<Record>)>,
}

impl Node {
    fn take(&mut self, response: &DeltaDiscoveryResponse, shelf: &Shelf) {
        let kind = ResourceType::of_url(&response.type_url).unwrap();
        for bytes in &response.resources {
            let resource: Resource = prost::Message::decode(bytes.clone()).unwrap();
            let record = shelf.store(kind).get(&resource.name).map(|entry| entry.record.clone());
            self.held.insert((kind, resource.name), (resource.version, record));
        }
        for name in &response.removed_resources {
            self.held.remove(&(kind, name.clone()));
        }
    }

    fn policies(&self) -> impl Iterator<Item = &str> {
        let own = self.held.keys().filter(|(kind, _)| *kind == ResourceType::Authorization);
        own.map(|(_, name)| name.as_str())
    }

    /// A pod is not there without what decides about it.
    fn is_guarded(&self, node: &str) -> Result<(), String> {
        let has = |name: &str| self.held.contains_key(&(ResourceType::Authorization, name.to_owned()));
        for (_, record) in self.held.values() {
            if let Some(Record::Workload(workload)) = record
                && workload.node.as_deref() == Some(node)
                && let Some(missing) = workload.policies.iter().find(|name| !has(&name.to_string()))
            {
                return Err(format!("{} without {missing}", workload.uid));
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Step {
    Pod(&'static str, &'static str, &'static str, &'static str),
    NoPod(&'static str, &'static str),
    Policy(&'static str, &'static str, Option<&'static str>),
    NoPolicy(&'static str, &'static str),
    Strict(&'static str, Option<&'static str>),
    NoStrict(&'static str),
    Publish,
    /// So many responses, of which every other one is answered later.
    Hear(usize),
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let name = || select(&["p", "q", "r"][..]);
    let namespace = || select(&["a", "b", "istio-system"][..]);
    let app = || select(&["x", "y"][..]);
    let selector = || prop::option::of(app());
    prop_oneof![
        4 => (name(), namespace(), select(&["n1", "n2"][..]), app()).prop_map(|(a, b, c, d)| Step::Pod(a, b, c, d)),
        2 => (name(), namespace()).prop_map(|(a, b)| Step::NoPod(a, b)),
        4 => (name(), namespace(), selector()).prop_map(|(a, b, c)| Step::Policy(a, b, c)),
        2 => (name(), namespace()).prop_map(|(a, b)| Step::NoPolicy(a, b)),
        2 => (namespace(), selector()).prop_map(|(a, b)| Step::Strict(a, b)),
        1 => namespace().prop_map(Step::NoStrict),
        5 => Just(Step::Publish),
        5 => (1..8_usize).prop_map(Step::Hear),
        3 => Just(Step::Reconnect),
    ]
}

fn resume(node: &Node, shelf: &Shelf) -> Session {
    let mut session = Session::new(View::of(Some("n1".into())));
    for kind in ResourceType::ALL {
        let held = node.held.iter().filter(|((of, _), _)| *of == kind);
        let has = held.map(|((_, name), (version, _))| (name.clone(), version.clone())).collect();
        let request = DeltaDiscoveryRequest { initial_resource_versions: has, ..ask(kind) };
        session.request(request, shelf).unwrap();
    }
    session
}

fn act(world: &mut World, step: &Step) {
    match *step {
        Step::Pod(name, namespace, node, app) => apply(world, &[&pod(name, namespace, (node, app))]),
        Step::NoPod(name, namespace) => remove(world, "Pod", namespace, name),
        Step::Policy(name, namespace, selector) => apply(world, &[&policy(name, namespace, selector)]),
        Step::NoPolicy(name, namespace) => remove(world, "AuthorizationPolicy", namespace, name),
        Step::Strict(namespace, selector) => apply(world, &[&strict(namespace, selector)]),
        Step::NoStrict(namespace) => remove(world, "PeerAuthentication", namespace, "tls"),
        Step::Publish | Step::Hear(_) | Step::Reconnect => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens, and however slowly it is told: in the end a node has the policies that its pods need and no
    /// other.
    #[test]
    fn a_node_has_what_its_pods_need(steps in prop::collection::vec(step(), 0..80)) {
        let (mut shelf, mut world, mut node) = (Shelf::default(), world(&[]), Node::default());
        // It is known from the beginning.
        put_all(&mut world, &mut shelf, &[pod("z", "z", ("n1", "z"))]);
        let mut session = open("n1", &shelf);
        for step in &steps {
            act(&mut world, step);
            match step {
                Step::Publish => publish(&mut world, &mut shelf),
                Step::Hear(count) => {
                    for _ in 0..*count {
                        let Some(response) = session.next(&shelf).unwrap() else { break };
                        node.take(&response, &shelf);
                        prop_assert_eq!(node.is_guarded("n1"), Ok(()));
                        session.request(answer(&response, None), &shelf).unwrap();
                    }
                }
                Step::Reconnect => session = resume(&node, &shelf),
                _ => {}
            }
        }
        publish(&mut world, &mut shelf);
        while let Some(response) = session.next(&shelf).unwrap() {
            node.take(&response, &shelf);
            prop_assert_eq!(node.is_guarded("n1"), Ok(()));
            session.request(answer(&response, None), &shelf).unwrap();
        }
        let reach = shelf.reach("n1").cloned();
        let view = View { reach, ..View::of(Some("n1".into())) };
        let wanted: BTreeSet<_> = shelf
            .store(ResourceType::Authorization)
            .iter()
            .filter(|entry| view.includes(&entry.record))
            .map(|entry| entry.name.to_string())
            .collect();
        let held: BTreeSet<_> = node.policies().map(str::to_owned).collect();
        prop_assert_eq!(held, wanted);
        // And those are the ones that decide about its pods.
        for entry in shelf.store(ResourceType::Authorization).iter() {
            let Record::Policy(policy) = &entry.record else { continue };
            let workloads = shelf.store(ResourceType::Address).iter().filter_map(|entry| match &entry.record {
                Record::Workload(one) if one.node.as_deref() == Some("n1") => Some(one),
                _ => None,
            });
            let needed = match policy.scope {
                Scope::Mesh => true,
                Scope::Namespace => workloads.map(|one| &one.namespace).any(|one| *one == policy.name.namespace),
                Scope::Listed => workloads.flat_map(|one| &one.policies).any(|one| *one == policy.key()),
            };
            prop_assert_eq!(needed, view.includes(&entry.record), "{}", entry.name);
        }
    }
}
