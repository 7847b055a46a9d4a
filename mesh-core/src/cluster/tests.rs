//! Rules as users write them, and what clients get of them.

use super::*;
use crate::resource::{SourceFile, Spec, parse};

mod blocks;
mod inherit;
mod select;

/// All rules of `text`, the `n`-th created at second `n` unless they say otherwise.
fn rules(text: &str) -> Rules {
    let mut rules = Rules::default();
    parsed(text).into_iter().for_each(|rule| rules.insert(rule));
    rules
}

fn parsed(text: &str) -> Vec<Arc<DestinationRule>> {
    let parsed = parse(&SourceFile { name: "rules.yaml", text });
    let errors: Vec<_> =
        parsed.findings.iter().filter(|it| it.level == crate::resource::Level::Error).collect();
    assert!(errors.is_empty(), "{errors:?}");
    let rules = (0..).zip(parsed.objects).map(|(at, object)| {
        let Spec::DestinationRule(spec) = object.spec else { panic!("only rules are meant") };
        let (namespace, name) = (object.meta.namespace, object.meta.name);
        let created = object.meta.creation_timestamp.or(Some(at));
        Arc::new(DestinationRule { namespace, name, created, spec: *spec })
    });
    rules.collect()
}

/// A rule with one line for each part of the spec.
fn rule(namespace: &str, name: &str, spec: &str) -> String {
    let spec = spec.replace('\n', "\n  ");
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  {spec}\n"
    )
}

fn labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// What a client without labels in `namespace` gets for port 80.
fn policy(rules: &Rules, namespace: &str, host: &str, subset: Option<&str>) -> ClusterPolicy {
    policy_for_port(rules, (namespace, host, 80), subset)
}

fn policy_for_port(rules: &Rules, target: (&str, &str, u16), subset: Option<&str>) -> ClusterPolicy {
    let (namespace, host, port) = target;
    let client = Client { namespace, labels: &BTreeMap::new() };
    let owner = host.split('.').nth(1).unwrap_or_default();
    resolve(rules, &client, &Destination::new(owner, host, port), subset).unwrap()
}

fn names(policy: &ClusterPolicy) -> String {
    let names: Vec<_> = policy.rules.iter().map(|rule| format!("{}/{}", rule.namespace, rule.name)).collect();
    names.join(" ")
}
