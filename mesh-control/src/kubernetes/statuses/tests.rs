use std::sync::Mutex;

use mesh_core::resource::{Origin, ServedKind, from_json};
use serde_json::json;

use super::*;

/// What was said last of each object, and how often anything was said.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<(BTreeMap<ObjectKey, Status>, usize)>>);

impl Sink for Said {
    fn set(&self, key: ObjectKey, status: Status) {
        let mut said = self.0.lock().unwrap();
        said.0.insert(key, status);
        said.1 += 1;
    }

    fn forget(&self, key: &ObjectKey) {
        self.0.lock().unwrap().0.remove(key);
    }
}

impl Said {
    fn condition(&self, name: &str) -> Option<Condition> {
        self.0.lock().unwrap().0.get(&key(name)).map(|status| status.conditions[0].clone())
    }

    fn of(&self, kind: &'static str, name: &str) -> Option<Status> {
        self.0.lock().unwrap().0.get(&ObjectKey { kind, ..key(name) }).cloned()
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: "AuthorizationPolicy", namespace: "a".into(), name: name.into() }
}

fn policy(name: &str, generation: i64) -> Change {
    let kind = ServedKind::all().find(|kind| kind.key() == "AuthorizationPolicy").unwrap();
    let text = json!({
        "metadata": {"name": name, "namespace": "a", "uid": "u", "generation": generation}, "spec": {"rules": [{}]},
    });
    let received = from_json(kind, &text.to_string(), &Origin::in_cluster(&key(name)));
    Change::Apply(Arc::new(received.object.unwrap()))
}

/// An object as a cluster shows it.
fn shown(kind: &str, value: &serde_json::Value) -> Change {
    let kind = ServedKind::all().find(|known| known.key() == kind).unwrap();
    let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default().into();
    let key = ObjectKey { kind: kind.key(), namespace: text("namespace"), name: text("name") };
    let received = from_json(kind, &value.to_string(), &Origin::in_cluster(&key));
    Change::Apply(Arc::new(received.object.unwrap_or_else(|| panic!("{:?}", received.findings))))
}

fn service(name: &str, labels: &serde_json::Value, status: &serde_json::Value) -> Change {
    let metadata = json!({"name": name, "namespace": "a", "uid": "u", "labels": labels});
    shown("Service", &json!({"metadata": metadata, "spec": {"ports": [{"port": 80}]}, "status": status}))
}

fn entry(name: &str, addresses: &serde_json::Value) -> Change {
    let spec = json!({
        "hosts": [format!("{name}.example")], "resolution": "DNS", "ports": [{"name": "tcp", "number": 1}],
    });
    let metadata = json!({"name": name, "namespace": "a"});
    shown("ServiceEntry", &json!({"metadata": metadata, "spec": spec, "status": {"addresses": addresses}}))
}

fn finding(name: &str, level: Level) -> Finding {
    Finding {
        origin: Origin::in_cluster(&key(name)),
        level,
        field: "spec.rules[0]".into(),
        reason: "it is odd".into(),
        hint: Some("make it even".into()),
    }
}

fn reports() -> (Reports, Said, watch::Receiver<Namespaces>) {
    let (said, (namespaces, known)) = (Said::default(), watch::channel(Namespaces::default()));
    (Reports::new(said.clone(), namespaces, "istio-system", Arc::default()), said, known)
}

#[test]
fn a_policy_is_accepted_with_remarks_or_not_at_all() {
    let (mut reports, said, _) = reports();
    reports.saw(&[policy("good", 3), policy("odd", 4)]);
    reports.compiled(&mut [finding("odd", Level::Warning), finding("other", Level::Error)].iter());
    let good = said.condition("good").unwrap();
    assert_eq!((&*good.sort, &*good.status, &*good.reason), ("ZtunnelAccepted", "True", "Accepted"));
    assert_eq!(good.observed_generation, Some(3));
    let odd = said.condition("odd").unwrap();
    assert_eq!((&*odd.status, &*odd.reason), ("True", "UnsupportedValue"));
    assert_eq!(odd.message, "spec.rules[0]: it is odd (make it even)");
    assert_eq!(said.condition("other"), None);
    // Mended from somewhere else, without a new version of it.
    reports.compiled(&mut std::iter::empty());
    assert_eq!(said.condition("odd").unwrap().reason, "Accepted");
    let before = said.count();
    reports.compiled(&mut std::iter::empty());
    assert_eq!(said.count(), before, "what has not changed costs nothing");
}

#[test]
fn what_was_never_valid_is_talked_of_and_forgotten() {
    let (mut reports, said, _) = reports();
    let findings = vec![finding("bad", Level::Error)];
    reports.saw(&[Change::Findings(About::Object(key("bad")), findings.clone())]);
    reports.compiled(&mut findings.iter());
    let bad = said.condition("bad").unwrap();
    assert_eq!((&*bad.status, &*bad.reason, bad.observed_generation), ("False", "Invalid", None));
    reports.saw(&[Change::Delete(key("bad"))]);
    reports.compiled(&mut std::iter::empty());
    assert_eq!(said.condition("bad"), None);
}

#[test]
fn a_policy_with_targets_is_for_waypoints_and_never_claims_to_be_enforced() {
    let (mut reports, said, _) = reports();
    let policy = |kind: &str, spec: serde_json::Value, conditions: serde_json::Value| {
        let metadata = json!({"name": "p", "namespace": "a", "uid": "u", "generation": 5});
        shown(kind, &json!({"metadata": metadata, "spec": spec, "status": {"conditions": conditions}}))
    };
    let targets = json!([{"group": "", "kind": "Service", "name": "web"}]);
    let kinds = ["AuthorizationPolicy", "RequestAuthentication", "Telemetry"];
    for kind in kinds {
        reports.saw(&[policy(kind, json!({"targetRefs": targets}), json!([]))]);
    }
    // The compiler says that nodes pass it over; that is no reason to say that they enforce it.
    let passed_over = finding("p", Level::Warning);
    let mut say = |batch: &[Change]| {
        reports.saw(batch);
        assert_eq!(reports.conclude(), []);
        reports.compiled(&mut [passed_over.clone()].iter());
        kinds.map(|kind| said.of(kind, "p"))
    };
    for status in say(&[]).map(|status| status.expect("something to say")) {
        let [condition] = &status.conditions[..] else { panic!("{status:?}") };
        let Condition { sort, status: holds, reason, message, observed_generation } = condition;
        assert_eq!((&**sort, &**holds, &**reason), ("WaypointAccepted", "False", "TargetNotFound"));
        assert_eq!((&**message, *observed_generation), ("not enforced: there is no Service a/web", Some(5)));
    }
    assert_eq!(said.of(kinds[0], "p").unwrap().absent, ["ZtunnelAccepted"]);
    for status in say(&[service("web", &json!({}), &json!({}))]) {
        assert_eq!(status.unwrap().conditions[0].reason, "AncestorNotBound");
    }
    // Without targets nodes enforce it, and what was said of waypoints is taken back.
    let before = json!([{"type": "WaypointAccepted", "status": "False"}]);
    let batch = kinds.map(|kind| policy(kind, json!({}), before.clone()));
    let [authorization, others @ ..] = say(&batch).map(|status| status.expect("something to take back"));
    assert_eq!(authorization.conditions[0].sort, "ZtunnelAccepted");
    assert_eq!(authorization.absent, ["WaypointAccepted"]);
    for status in others {
        assert_eq!((status.conditions.len(), &*status.absent), (0, &["WaypointAccepted".to_owned()][..]));
    }
    let batch = kinds.map(|kind| policy(kind, json!({}), json!([])));
    let [authorization, others @ ..] = say(&batch);
    assert_eq!((authorization.is_some(), others), (true, [None, None]));
}

#[test]
fn a_service_is_told_of_its_waypoint_until_it_asks_for_none() {
    let (mut reports, said, _) = reports();
    let mut say = |change: Change| {
        reports.saw(&[change]);
        assert_eq!(reports.conclude(), []);
        said.of("Service", "web")
    };
    let (asks, nothing) = (json!({"istio.io/use-waypoint": "way"}), json!({}));
    let told = json!({"conditions": [{"type": "istio.io/WaypointBound", "status": "False"}]});
    assert_eq!(say(service("web", &nothing, &nothing)), None);
    let status = say(service("web", &asks, &nothing)).expect("something to say");
    let [condition] = &status.conditions[..] else { panic!("{status:?}") };
    assert_eq!((&*condition.sort, &*condition.status), ("istio.io/WaypointBound", "False"));
    assert_eq!((&*condition.reason, condition.observed_generation), ("WaypointIsNotReady", None));
    assert_eq!((status.uid.as_deref(), status.absent.len()), (Some("u"), 0));
    // As it shows it now; the label is gone; the condition is gone, too.
    assert_eq!(say(service("web", &asks, &told)), Some(status));
    let status = say(service("web", &nothing, &told)).expect("something to take back");
    assert_eq!((status.conditions.len(), &*status.absent), (0, &["istio.io/WaypointBound".to_owned()][..]));
    assert_eq!(say(service("web", &nothing, &nothing)), None);
    // Of a service that is gone nothing is said.
    assert!(say(service("web", &asks, &nothing)).is_some());
    assert_eq!(say(Change::Delete(ObjectKey { kind: "Service", ..key("web") })), None);
}

#[test]
fn hosts_are_given_addresses_and_what_they_have_is_not_written_again() {
    let (mut reports, said, _) = reports();
    reports.allocator = Allocator::new(Ranges { v4: "10.0.0.0/30".parse().unwrap(), ..Ranges::default() });
    let wanted = |name: &str| said.of("ServiceEntry", name).and_then(|status| status.addresses);
    let list = |addresses: &Addresses| -> serde_json::Value {
        let entry =
            |it: &mesh_core::resource::HostAddress| json!({"host": it.host.to_string(), "value": it.value});
        addresses.wanted.iter().map(entry).collect()
    };
    reports.saw(&[entry("one", &json!([])), entry("two", &json!([]))]);
    assert_eq!(reports.conclude(), []);
    let (one, two) = (wanted("one").expect("addresses"), wanted("two").expect("addresses"));
    assert_eq!((one.seen.len(), one.wanted.len(), two.wanted.len()), (0, 2, 2));
    reports.saw(&[entry("one", &list(&one))]);
    assert_eq!(reports.conclude(), []);
    assert_eq!((wanted("one"), wanted("two")), (None, Some(two)), "what is written is not written again");
    // There are two addresses of IPv4, and three hosts.
    reports.saw(&[entry("late", &json!([]))]);
    let [finding] = &reports.conclude()[..] else { panic!("one is missing") };
    assert!(finding.to_string().contains("1 of its hosts lack an address: all of 10.0.0.0/30"), "{finding}");
    assert_eq!(wanted("late").expect("IPv6").wanted.len(), 1);
    reports.saw(&[Change::Delete(ObjectKey { kind: "ServiceEntry", ..key("two") })]);
    assert_eq!(reports.conclude(), []);
    assert_eq!((wanted("late").expect("both").wanted.len(), wanted("two")), (2, None));
}

#[test]
fn namespaces_are_known() {
    let (mut reports, _, known) = reports();
    let kind = ServedKind::all().find(|kind| kind.key() == "Namespace").unwrap();
    let key = ObjectKey { kind: "Namespace", namespace: "".into(), name: "n".into() };
    let text = json!({"metadata": {"name": "n"}}).to_string();
    let object = from_json(kind, &text, &Origin::in_cluster(&key)).object.unwrap();
    reports.saw(&[Change::Apply(Arc::new(object))]);
    assert!(known.borrow().contains("n"));
    reports.saw(&[Change::Delete(key)]);
    assert!(known.borrow().is_empty());
}

#[test]
fn classes_that_name_us_are_accepted() {
    let (mut reports, said, _) = reports();
    let kind = ServedKind::all().find(|kind| kind.key() == "GatewayClass").unwrap();
    let key = |name: &str| ObjectKey { kind: "GatewayClass", namespace: "".into(), name: name.into() };
    for (name, controller) in [
        ("istio", "istio.io/gateway-controller"),
        ("istio-waypoint", "istio.io/mesh-controller"),
        ("istio-remote", "istio.io/unmanaged-gateway"),
        ("nginx", "example.com/gateway-controller"),
    ] {
        let text = json!({
            "metadata": {"name": name, "uid": "u", "generation": 2}, "spec": {"controllerName": controller},
        });
        let received = from_json(kind, &text.to_string(), &Origin::in_cluster(&key(name)));
        reports.saw(&[Change::Apply(Arc::new(received.object.unwrap()))]);
    }
    let names = || said.0.lock().unwrap().0.keys().map(|key| key.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(), ["istio", "istio-remote", "istio-waypoint"]);
    let status = said.0.lock().unwrap().0[&key("istio")].clone();
    let [condition] = &status.conditions[..] else { panic!("{status:?}") };
    assert_eq!(
        (&*condition.sort, &*condition.status, condition.observed_generation),
        ("Accepted", "True", Some(2))
    );
    assert_eq!(status.uid.as_deref(), Some("u"));
    reports.saw(&[Change::Delete(key("istio"))]);
    assert_eq!(names(), ["istio-remote", "istio-waypoint"]);
}

#[test]
fn messages_are_cut_between_characters() {
    let message = cut("ü".repeat(MAX_MESSAGE));
    assert!(message.len() <= MAX_MESSAGE + '…'.len_utf8() && message.ends_with("ü…"));
}
