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
    (Reports::new(said.clone(), namespaces), said, known)
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
    assert_eq!(names(), ["istio", "istio-waypoint"]);
    let status = said.0.lock().unwrap().0[&key("istio")].clone();
    let [condition] = &status.conditions[..] else { panic!("{status:?}") };
    assert_eq!(
        (&*condition.sort, &*condition.status, condition.observed_generation),
        ("Accepted", "True", Some(2))
    );
    assert_eq!(status.uid.as_deref(), Some("u"));
    reports.saw(&[Change::Delete(key("istio"))]);
    assert_eq!(names(), ["istio-waypoint"]);
}

#[test]
fn messages_are_cut_between_characters() {
    let message = cut("ü".repeat(MAX_MESSAGE));
    assert!(message.len() <= MAX_MESSAGE + '…'.len_utf8() && message.ends_with("ü…"));
}
