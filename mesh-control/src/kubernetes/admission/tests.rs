use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn ask(operation: &str, object: &Value) -> Value {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "42", "operation": operation, "namespace": "shop", "name": "v", "subResource": "",
            "kind": {"group": "networking.istio.io", "version": "v1", "kind": "VirtualService"},
            "object": object,
        },
    });
    serde_json::to_value(review_of(&review).expect("an answer")).expect("JSON")["response"].clone()
}

fn review_of(value: &Value) -> Result<Answer, Malformed> {
    review(value.to_string().as_bytes())
}

fn service(http: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "v", "namespace": "shop"}, "spec": {"hosts": ["reviews"], "http": http},
    })
}

fn good() -> Value {
    service(&json!([{"route": [{"destination": {"host": "reviews"}}]}]))
}

fn bad() -> Value {
    service(&json!([{"rout": [{"destination": {"host": "reviews"}}]}]))
}

#[test]
fn what_is_good_passes() {
    let answer = ask("CREATE", &good());
    assert_eq!((&answer["uid"], &answer["allowed"]), (&json!("42"), &json!(true)));
    assert_eq!(answer["status"], Value::Null);
}

#[test]
fn what_is_not_supported_passes_with_a_warning() {
    let filter = json!({
        "apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
        "metadata": {"name": "f", "namespace": "shop"}, "spec": {"configPatches": [{"what": "ever"}]},
    });
    let request = json!({
        "uid": "7", "operation": "CREATE", "namespace": "shop", "object": filter,
        "kind": {"group": "networking.istio.io", "version": "v1alpha3", "kind": "EnvoyFilter"},
    });
    let answer = review_of(&json!({"apiVersion": "admission.k8s.io/v1", "request": request}));
    let response = answer.expect("an answer").response;
    let [warning] = &response.warnings[..] else { panic!("{response:?}") };
    assert!(response.allowed && warning.contains("EnvoyFilter is not supported"), "{response:?}");
}

#[test]
fn what_is_odd_passes_with_a_warning() {
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "shop"}, "spec": {"hostnamez": ["h".repeat(400)]},
    });
    let request = json!({
        "uid": "7", "operation": "CREATE", "namespace": "shop", "object": route,
        "kind": {"group": "gateway.networking.k8s.io", "version": "v1", "kind": "HTTPRoute"},
    });
    let answer = review_of(&json!({"apiVersion": "admission.k8s.io/v1", "request": request}));
    let response = answer.expect("an answer").response;
    assert!(response.allowed && !response.warnings.is_empty(), "{response:?}");
    assert!(response.warnings.iter().any(|text| text.contains("spec.hostnamez")), "{response:?}");
    assert!(response.warnings.iter().all(|text| text.chars().count() <= MAX_WARNING), "{response:?}");
}

#[test]
fn what_is_bad_is_refused_with_path_and_hint() {
    let answer = ask("UPDATE", &bad());
    assert_eq!((&answer["uid"], &answer["allowed"]), (&json!("42"), &json!(false)));
    assert_eq!(answer["status"]["code"], 400);
    let message = answer["status"]["message"].as_str().expect("a message");
    assert!(message.contains("VirtualService shop/v Error spec.http[0].rout"), "{message}");
    assert!(message.contains("route"), "no hint: {message}");
}

#[test]
fn what_is_bad_can_be_deleted() {
    assert_eq!(ask("DELETE", &Value::Null)["allowed"], true);
    let mut object = bad();
    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(ask("UPDATE", &object)["allowed"], true);
}

#[test]
fn other_kinds_and_subresources_are_none_of_our_business() {
    for (field, value) in [
        ("kind", json!({"group": "example.com", "version": "v1", "kind": "VirtualService"})),
        ("subResource", json!("status")),
    ] {
        let mut request = json!({
            "uid": "1", "operation": "CREATE", "namespace": "shop", "object": bad(),
            "kind": {"group": "networking.istio.io", "version": "v1", "kind": "VirtualService"},
        });
        request[field] = value;
        let answer = review_of(&json!({"apiVersion": "admission.k8s.io/v1", "request": request}));
        assert!(answer.expect("an answer").response.allowed, "{field}");
    }
}

#[test]
fn what_is_no_review_has_no_answer() {
    let request =
        json!({"uid": "1", "operation": "CREATE", "kind": {"group": "", "kind": "Pod"}, "object": null});
    for value in [
        json!({}),
        json!([]),
        json!({"apiVersion": "admission.k8s.io/v1beta1", "request": request}),
        json!({"apiVersion": "admission.k8s.io/v1"}),
        json!({"apiVersion": "admission.k8s.io/v1", "request": {"uid": 1}}),
        json!({"apiVersion": "admission.k8s.io/v1", "request": request}),
    ] {
        assert!(review_of(&value).is_err(), "{value}");
    }
    assert!(review(b"\xff").is_err());
}

#[test]
fn long_lists_of_errors_are_cut() {
    let routes: Vec<_> = (0..100).map(|_| json!({"rout": []})).collect();
    let answer = ask("CREATE", &service(&json!(routes)));
    let message = answer["status"]["message"].as_str().expect("a message");
    assert!(message.contains("more"), "{message}");
    assert!(message.matches("Error").count() <= MAX_ERRORS);
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(object in "\\PC{0,200}", operation in "CREATE|UPDATE|DELETE|.{0,5}") {
        let text = format!(
            r#"{{"apiVersion":"admission.k8s.io/v1","request":{{"uid":"u","operation":{},"namespace":"n",
            "kind":{{"group":"networking.istio.io","kind":"VirtualService"}},"object":{object}}}}}"#,
            json!(operation),
        );
        let _ = review(text.as_bytes());
        let quoted = text.replace(&format!(":{object}}}"), &format!(":{}}}", json!(object)));
        let _ = review(quoted.as_bytes());
    }
}
