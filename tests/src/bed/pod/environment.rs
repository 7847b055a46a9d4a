//! A container's command line and environment, as Kubernetes puts them together.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource};

use super::Facts;

/// Program and arguments; `None` if the container leaves them to its image.
pub(super) fn command(container: &Container, facts: &Facts) -> Option<(String, Vec<String>)> {
    let variables = variables(container, facts);
    let mut words = container.command.iter().flatten().chain(container.args.iter().flatten());
    container.command.as_ref()?.first()?;
    let program = expand(words.next()?, &variables);
    Some((program, words.map(|word| expand(word, &variables)).collect()))
}

/// The environment beyond the basics, later entries seeing earlier ones.
pub(super) fn variables(container: &Container, facts: &Facts) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::from([("HOSTNAME".to_owned(), facts.key.name.clone())]);
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => expand(value, &variables),
            (None, Some(source)) => from_source(source, facts),
            (None, None) => String::new(),
        };
        variables.insert(variable.name.clone(), value);
    }
    variables
}

/// The downward API; other sources need objects that the bed does not keep, and give nothing.
fn from_source(source: &EnvVarSource, facts: &Facts) -> String {
    let Some(field) = &source.field_ref else { return String::new() };
    let ips: Vec<String> = facts.ips.iter().map(ToString::to_string).collect();
    let metadata = &facts.manifest.metadata;
    match field.field_path.as_str() {
        "metadata.name" => facts.key.name.clone(),
        "metadata.namespace" => facts.key.namespace.clone(),
        "metadata.uid" => facts.uid.clone(),
        "spec.nodeName" => facts.node.clone(),
        "spec.serviceAccountName" => {
            let account = facts.manifest.spec.as_ref().and_then(|s| s.service_account_name.clone());
            account.unwrap_or_else(|| "default".to_owned())
        }
        "status.hostIP" => facts.host_ip.to_string(),
        "status.podIP" => ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => ips.join(","),
        path => {
            let (map, rest) = match path.strip_prefix("metadata.labels['") {
                Some(rest) => (&metadata.labels, rest),
                None => (&metadata.annotations, path.strip_prefix("metadata.annotations['").unwrap_or("")),
            };
            let key = rest.strip_suffix("']").unwrap_or("");
            map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default()
        }
    }
}

/// Replaces `$(NAME)` of known variables; `$$` stands for `$`.
fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let reference = after.strip_prefix('(').and_then(|a| a.split_once(')'));
        let known = reference.and_then(|(name, tail)| variables.get(name).map(|value| (value, tail)));
        match (known, after.strip_prefix('$')) {
            (Some((value, tail)), _) => {
                out.push_str(value);
                rest = tail;
            }
            (None, Some(tail)) => {
                out.push('$');
                rest = tail;
            }
            (None, None) => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bed::manifests::Key;

    fn facts() -> Facts {
        let manifest =
            serde_json::json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}});
        Facts {
            key: Key::new("shop", "web-1"),
            manifest: serde_json::from_value(manifest).unwrap(),
            uid: "u".to_owned(),
            node: "node-1".to_owned(),
            ips: vec!["10.244.1.2".parse().unwrap(), "fd00:244:1::2".parse().unwrap()],
            host_ip: "192.168.77.1".parse().unwrap(),
            netns: "/n".into(),
            cgroup: "/c".into(),
            files: "/f".into(),
            logs: "/l".into(),
        }
    }

    fn container(json: serde_json::Value) -> Container {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn expands_what_is_known() {
        let container = container(
            serde_json::json!({"name": "c", "command": ["run"], "args": ["$(A)-$(B)", "$(NO)", "$$(A)", "5$"],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2"}]}),
        );
        let (program, args) = command(&container, &facts()).unwrap();
        assert_eq!(
            (program.as_str(), args),
            ("run", vec!["1-12".into(), "$(NO)".into(), "$(A)".into(), "5$".into()])
        );
    }

    #[test]
    fn knows_the_downward_api() {
        let from =
            |path: &str| serde_json::json!({"name": path, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let paths =
            ["status.podIPs", "metadata.labels['app']", "spec.serviceAccountName", "metadata.labels['x']"];
        let container = container(serde_json::json!({"name": "c", "env": paths.map(from)}));
        let variables = variables(&container, &facts());
        assert_eq!(paths.map(|p| variables[p].as_str()), ["10.244.1.2,fd00:244:1::2", "web", "default", ""]);
        assert_eq!(variables["HOSTNAME"], "web-1");
    }

    #[test]
    fn a_command_of_the_image_is_none() {
        assert!(command(&container(serde_json::json!({"name": "c", "args": ["x"]})), &facts()).is_none());
    }
}
