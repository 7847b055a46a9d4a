use super::*;

fn selector(json: &str) -> Result<LabelSelector, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

#[test]
fn all_of_it_must_hold() {
    let labels: BTreeMap<String, String> =
        [("app", "web"), ("tier", "")].map(|(k, v)| (k.into(), v.into())).into();
    let cases = [
        ("{}", true),
        (r#"{"matchLabels": {"app": "web"}}"#, true),
        (r#"{"matchLabels": {"app": "db"}}"#, false),
        (r#"{"matchLabels": {"tier": "", "x": ""}}"#, false),
        (r#"{"matchExpressions": [{"key": "app", "operator": "In", "values": ["db", "web"]}]}"#, true),
        (r#"{"matchExpressions": [{"key": "x", "operator": "In", "values": ["web"]}]}"#, false),
        (r#"{"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}"#, false),
        (r#"{"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["web"]}]}"#, true),
        (r#"{"matchExpressions": [{"key": "tier", "operator": "Exists"}]}"#, true),
        (r#"{"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}"#, false),
        (r#"{"matchExpressions": [{"key": "x", "operator": "DoesNotExist", "values": []}]}"#, true),
        (
            r#"{"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "x", "operator": "Exists"}]}"#,
            false,
        ),
    ];
    for (json, expected) in cases {
        let selector = selector(json).expect(json);
        assert_eq!(selector.selects(&labels), expected, "{json}");
        assert_eq!(selector.is_empty(), json == "{}", "{json}");
    }
}

#[test]
fn operators_and_values_must_fit() {
    let cases = [
        (r#"{"key": "a", "operator": "In"}"#, "values must not be empty for operator In"),
        (r#"{"key": "a", "operator": "NotIn", "values": []}"#, "values must not be empty for operator NotIn"),
        (r#"{"key": "a", "operator": "Exists", "values": ["b"]}"#, "must not be given for operator Exists"),
        (r#"{"key": "a", "operator": "exists"}"#, "unknown operator \"exists\""),
        (r#"{"key": "", "operator": "Exists"}"#, "must not be empty"),
    ];
    for (json, reason) in cases {
        let error = serde_json::from_str::<Requirement>(json).expect_err(json).to_string();
        assert!(error.contains(reason), "{json}: {error}");
    }
}
