//! Policies in the shape that `istioctl ztunnel-config policy` reads: rules of alternatives of matches, with a field for
//! each attribute. The compiled form stands beside it in the dump, as it is.

use serde_json::{Map, Value, json};

/// Turns the policies of a serialised policy set into that shape. What is not as expected is left out: the compiled
/// form is there as well.
pub(super) fn for_tools(set: &Value) -> Vec<Value> {
    items(&set["policies"]).iter().filter_map(policy).collect()
}

fn policy(policy: &Value) -> Option<Value> {
    let (namespace, name) = policy["name"].as_str()?.split_once('/')?;
    if policy["effect"] == "AUDIT" {
        return None;
    }
    let action = if policy["effect"] == "ALLOW" { "Allow" } else { "Deny" };
    let rules: Vec<_> = items(&policy["rules"]).iter().map(rule).collect();
    Some(json!({
        "name": name,
        "namespace": namespace,
        "scope": scope(&policy["scope"]),
        "action": action,
        "dryRun": policy["dry_run"],
        "rules": rules,
    }))
}

fn scope(scope: &Value) -> &'static str {
    match scope.as_str() {
        Some("mesh") => "Global",
        Some("namespace") => "Namespace",
        _ => "WorkloadSelector",
    }
}

/// One list of alternatives for `from`, one for `to` and one for each condition; all lists must match.
fn rule(rule: &Value) -> Vec<Vec<Value>> {
    let group = |group: &Value| items(group).iter().map(|clauses| entry(items(clauses))).collect();
    items(&rule["groups"]).iter().map(group).collect()
}

/// All attributes that must match at once.
fn entry(clauses: &[Value]) -> Value {
    let fields = clauses.iter().filter_map(|clause| {
        let negated = clause["negated"] == true;
        let (attribute, values) = clause.as_object()?.iter().find(|(key, _)| *key != "negated")?;
        let (name, not_name, convert) = field(attribute)?;
        let values = items(values).iter().map(convert).collect();
        Some((if negated { not_name } else { name }.to_owned(), Value::Array(values)))
    });
    Value::Object(fields.collect::<Map<_, _>>())
}

type Convert = fn(&Value) -> Value;

fn field(attribute: &str) -> Option<(&'static str, &'static str, Convert)> {
    Some(match attribute {
        "principal" => ("principals", "notPrincipals", pattern),
        "namespace" => ("namespaces", "notNamespaces", pattern),
        "trust_domain" => ("trustDomains", "notTrustDomains", pattern),
        "service_account" => ("serviceAccounts", "notServiceAccounts", account),
        "source_ip" => ("sourceIps", "notSourceIps", Value::clone),
        "destination_ip" => ("destinationIps", "notDestinationIps", Value::clone),
        "destination_port" => ("destinationPorts", "notDestinationPorts", Value::clone),
        _ => return None,
    })
}

fn pattern(value: &Value) -> Value {
    let text = value.as_str().unwrap_or_default();
    match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(""), _) => json!({ "Presence": {} }),
        (Some(suffix), _) => json!({ "Suffix": suffix }),
        (None, Some(prefix)) => json!({ "Prefix": prefix }),
        (None, None) => json!({ "Exact": text }),
    }
}

fn account(value: &Value) -> Value {
    let (namespace, name) = value.as_str().and_then(|text| text.split_once('/')).unwrap_or_default();
    json!({ "namespace": namespace, "serviceAccount": name })
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::model::{CompileOptions, compile};
    use mesh_core::resource::{SourceFile, parse};

    const TEXT: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: few, namespace: default }
spec:
  action: DENY
  rules:
  - from:
    - source: { namespaces: ["a*"], notPrincipals: ["*"] }
    - source: { ipBlocks: ["10.0.0.0/8"] }
    to:
    - operation: { ports: ["80"] }
    when:
    - { key: destination.port, notValues: ["81"] }
"#;

    #[test]
    fn a_policy_as_tools_read_it() {
        let parsed = parse(&SourceFile { name: "p.yaml", text: TEXT });
        assert!(parsed.findings.is_empty(), "{:?}", parsed.findings);
        let compiled = compile(&parsed.objects, &CompileOptions::default());
        let shape = for_tools(&serde_json::to_value(compiled.snapshot.policies()).unwrap());
        let expected = json!([{
            "name": "few",
            "namespace": "default",
            "scope": "Namespace",
            "action": "Deny",
            "dryRun": false,
            "rules": [[
                [
                    { "namespaces": [{ "Prefix": "a" }], "notPrincipals": [{ "Presence": {} }] },
                    { "sourceIps": ["10.0.0.0/8"] },
                ],
                [{ "destinationPorts": [80] }],
                [{ "notDestinationPorts": [81] }],
            ]],
        }]);
        assert_eq!(Value::Array(shape), expected);
    }

    #[test]
    fn patterns_and_oddities() {
        assert_eq!(pattern(&json!("*x")), json!({ "Suffix": "x" }));
        assert_eq!(pattern(&json!("x")), json!({ "Exact": "x" }));
        assert_eq!(account(&json!("ns/sa")), json!({ "namespace": "ns", "serviceAccount": "sa" }));
        assert!(for_tools(&json!({ "policies": [{ "name": 5 }, {}] })).is_empty());
        assert!(for_tools(&Value::Null).is_empty());
    }
}
