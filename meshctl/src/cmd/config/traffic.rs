//! What a proxy does with traffic: endpoints, routes and listeners of its dump.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Args, or_none, text};

/// Endpoints of services, by port.
pub(super) fn endpoints(dump: &Value, args: &Args) -> Vec<Vec<String>> {
    let checks = || list(dump, "healthChecks");
    // Of those that are checked, the ones that a check has anything against.
    let failing: BTreeSet<String> = checks()
        .filter(|check| text(check, "standing") == "unhealthy")
        .map(|check| text(check, "endpoint"))
        .collect();
    let unwell: BTreeSet<String> = list(dump, "workloads")
        .filter(|workload| text(workload, "status") == "Unhealthy")
        .map(|workload| text(workload, "uid"))
        .collect();
    let mut rows = Vec::new();
    let wanted = |it: &&Value| args.wants(&text(it, "namespace"), &text(it, "name"));
    for service in list(dump, "services").filter(wanted) {
        let hostname = text(service, "hostname");
        let endpoints = service.get("endpoints").and_then(Value::as_object).into_iter().flatten();
        for (_, endpoint) in endpoints {
            let ports = endpoint.get("port").and_then(Value::as_object).into_iter().flatten();
            for (port, target) in ports {
                let address = text(endpoint, "address");
                let address = if address.contains(':') { format!("[{address}]") } else { address };
                let at = format!("{address}:{target}");
                let fails = failing.contains(&at);
                let is_well = !fails && !unwell.contains(&text(endpoint, "workloadUid"));
                rows.push(vec![
                    at,
                    if is_well { "HEALTHY" } else { "UNHEALTHY" }.to_owned(),
                    if fails { "FAILED" } else { "OK" }.to_owned(),
                    format!("outbound|{port}||{hostname}"),
                ]);
            }
        }
    }
    rows
}

/// How many endpoints of a service are well, of how many that there are.
pub(super) fn counted(
    dump: &Value,
    (namespace, name): (&str, &str),
    endpoints: &BTreeMap<String, Value>,
) -> String {
    let service = format!("{namespace}/{name}");
    let workloads = || list(dump, "workloads");
    let members = workloads().filter(|it| strings(it, "services").contains(&service));
    let members: BTreeSet<String> = members.map(|it| text(it, "uid")).collect();
    let unwell: BTreeSet<String> =
        workloads().filter(|it| text(it, "status") == "Unhealthy").map(|it| text(it, "uid")).collect();
    let others = endpoints.keys().filter(|key| !members.contains(*key)).count();
    let well = endpoints.keys().filter(|key| !unwell.contains(*key)).count();
    format!("{well}/{}", members.len() + others)
}

/// Rules of resources that have any, one row each.
pub(super) fn routes(dump: &Value, args: &Args) -> Vec<Vec<String>> {
    let wanted = |it: &&Value| args.wants(&text(it, "namespace"), &text(it, "name"));
    let of_namespace = |config: &Value| format!("{}.{}", text(config, "name"), text(config, "namespace"));
    let mut rows = Vec::new();
    for config in list(dump, "configs").filter(wanted) {
        let Some(spec) = config.get("spec") else { continue };
        let hosts: Vec<_> = [strings(spec, "hosts"), strings(spec, "hostnames")].concat();
        // VirtualServices have their rules by protocol, routes of the Gateway API have them together.
        for rule in ["http", "tls", "tcp", "rules"].iter().flat_map(|key| list(spec, key)) {
            let matches: Vec<_> = list(rule, "match").chain(list(rule, "matches")).map(matched).collect();
            let matches = if matches.is_empty() { "everything".to_owned() } else { matches.join(" or ") };
            rows.push(vec![
                or_none(&text(rule, "name")),
                or_none(hosts.first().map_or("", String::as_str)),
                or_none(&hosts.join(",")),
                matches,
                of_namespace(config),
                or_none(&destinations(rule)),
                text(config, "kind"),
            ]);
        }
    }
    rows
}

/// Ports, and what is served there.
pub(super) fn listeners(dump: &Value) -> Result<Vec<Vec<String>>> {
    let listeners = dump.get("listeners").and_then(Value::as_array);
    let listeners = listeners.context("a node has no listeners but those inside of its pods")?;
    let mut rows = Vec::new();
    for listener in listeners {
        let error = text(listener, "error");
        let why = if error.is_empty() { String::new() } else { format!(": {error}") };
        let address = text(listener, "address");
        let (host, port) = address.rsplit_once(':').unwrap_or((&address, ""));
        let (protocol, state) = (text(listener, "protocol"), format!("{}{why}", text(listener, "state")));
        let row = |matched: String, leads: String, tls: String| {
            let place = [host.to_owned(), port.to_owned(), matched, leads];
            [place, [protocol.clone(), state.clone(), tls, String::new()]].concat()
        };
        let servers: Vec<_> = list(listener, "servers").collect();
        if servers.is_empty() {
            rows.push(row("ALL".to_owned(), "None".to_owned(), "None".to_owned()));
        }
        for server in servers {
            let hosts = strings(server, "hosts").join(",");
            let matched = match (&*protocol, &*hosts) {
                (_, "" | "*") => "ALL".to_owned(),
                ("TLS", hosts) => format!("SNI: {hosts}"),
                (_, hosts) => format!("Host: {hosts}"),
            };
            let leads = format!("Gateway: {}", text(server, "gateway"));
            rows.push(row(matched, leads, or_none(&text(server, "tls"))));
        }
    }
    Ok(rows)
}

/// What a rule asks for: the path first, and how many other conditions there are by name.
fn matched(condition: &Value) -> String {
    let Some(fields) = condition.as_object() else { return String::new() };
    let one = |(name, value): (&String, &Value)| match value {
        Value::Object(parts) if matches!(name.as_str(), "uri" | "path") => {
            let said = |key| parts.get(key).and_then(Value::as_str);
            let kind = said("type").unwrap_or("PathPrefix");
            let known = parts.iter().find(|(key, _)| matches!(key.as_str(), "prefix" | "exact" | "regex"));
            match (known, said("value")) {
                (Some((kind, value)), _) => format!("{kind} {}", value.as_str().unwrap_or_default()),
                (None, Some(value)) => format!("{kind} {value}"),
                (None, None) => name.clone(),
            }
        }
        Value::String(value) => format!("{name} {value}"),
        Value::Number(value) => format!("{name} {value}"),
        Value::Object(parts) => {
            format!("{name} {}", parts.keys().cloned().collect::<Vec<_>>().join(","))
        }
        _ => name.clone(),
    };
    let all: Vec<_> = fields.iter().map(one).collect();
    if all.is_empty() { "everything".to_owned() } else { all.join(" and ") }
}

/// Where a rule leads to, with the share of each where there are several.
fn destinations(rule: &Value) -> String {
    let routes: Vec<_> = list(rule, "route").chain(list(rule, "backendRefs")).collect();
    let one = |route: &&Value| {
        let to = route.get("destination").unwrap_or(route);
        let host = [text(to, "host"), text(to, "name")].concat();
        let subset = text(to, "subset");
        let subset = if subset.is_empty() { subset } else { format!("/{subset}") };
        let weight = route.get("weight").and_then(Value::as_u64).filter(|_| routes.len() > 1);
        let weight = weight.map(|weight| format!(" ({weight})")).unwrap_or_default();
        format!("{host}{subset}{weight}")
    };
    let mut all: Vec<_> = routes.iter().map(one).collect();
    let other = ["redirect", "directResponse", "delegate"];
    all.extend(other.iter().filter(|key| rule.get(**key).is_some()).map(|key| (*key).to_owned()));
    all.join(", ")
}

fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn strings(value: &Value, key: &str) -> Vec<String> {
    list(value, key).filter_map(Value::as_str).map(str::to_owned).collect()
}
