//! `meshctl describe`: everything that the control plane knows of a pod or a service, and what is wrong with it.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::emit;
use crate::output::Format;
use crate::reach::ControlPlane;
use crate::table::one_line;

/// Tell what the mesh makes of a pod or of a service: who it is, which rules are about it, what is wrong, what flows.
#[derive(Debug, clap::Args)]
#[command(visible_alias = "desc", after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    of: Of,
}

#[derive(Debug, Subcommand)]
enum Of {
    /// Tell what the mesh makes of a pod.
    #[command(
        visible_alias = "po",
        after_help = "Example: meshctl describe pod default/reviews-v1-5896f547f5-8d7h2"
    )]
    Pod(One),
    /// Tell what the mesh makes of a service.
    #[command(visible_alias = "svc", after_help = "Example: meshctl describe service reviews -n default")]
    Service(One),
}

#[derive(Debug, clap::Args)]
struct One {
    /// Its name: NAME, NAMESPACE/NAME or NAME.NAMESPACE.
    name: Name,
    /// Its namespace, where the name does not say it.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    #[command(flatten)]
    control: ControlPlane,
    /// How it is printed.
    #[arg(short, long, value_name = "FORMAT", default_value = "text", ignore_case = true)]
    output: Format,
}

/// `NAME`, `NAMESPACE/NAME` or `NAME.NAMESPACE`, of letters that need no escaping in a path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    namespace: Option<String>,
    name: String,
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => text.split_once('.').map_or((None, text), |(name, namespace)| (Some(namespace), name)),
        };
        let is_fine = |part: &str| {
            !part.is_empty()
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
        };
        if !is_fine(name) || !namespace.is_none_or(is_fine) {
            return Err("no name: write NAME, NAMESPACE/NAME or NAME.NAMESPACE".to_owned());
        }
        Ok(Self { namespace: namespace.map(str::to_owned), name: name.to_owned() })
    }
}

impl One {
    /// Namespace and name.
    fn place(&self) -> (&str, &str) {
        (self.name.namespace.as_deref().unwrap_or(&self.namespace), &self.name.name)
    }

    fn ask(&self, path: &str) -> Result<Value> {
        let answer = self.control.get(path).context("asking the control plane")?;
        serde_json::from_str(&answer).context("the control plane's answer is not JSON")
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let text = match &args.of {
        Of::Pod(one) => {
            let (namespace, name) = one.place();
            let found = find_workload(one, namespace, name)?;
            let problems = own_problems(one, "Pod", (namespace, name))?;
            printed(one, &found, |workload: &Workload| pod_text(workload, namespace, name) + &problems)?
        }
        Of::Service(one) => {
            let (namespace, name) = one.place();
            let found = one
                .ask(&format!("/api/v1/services/{namespace}/{name}"))
                .with_context(|| format!("service {namespace}/{name}"))?;
            let problems = own_problems(one, "Service", (namespace, name))?;
            printed(one, &found, |service: &Service| service_text(service) + &problems)?
        }
    };
    emit(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn printed<T: DeserializeOwned>(one: &One, found: &Value, text: impl Fn(&T) -> String) -> Result<String> {
    match one.output {
        Format::Json => Ok(serde_json::to_string_pretty(found)? + "\n"),
        Format::Text => {
            let typed = serde_json::from_value(found.clone()).context("the control plane's answer")?;
            Ok(text(&typed))
        }
    }
}

/// The workload of a pod, with whose name the pod's begins.
fn find_workload(one: &One, namespace: &str, pod: &str) -> Result<Value> {
    let all = one.ask(&format!("/api/v1/workloads?namespace={namespace}"))?;
    let names = all.get("workloads").unwrap_or(&all).as_array().into_iter().flatten();
    let names = names.filter_map(|row| row.get("name").and_then(Value::as_str));
    let mut longer = Vec::new();
    for name in names.filter(|name| pod.starts_with(name) || name.starts_with(pod)) {
        let workload = one.ask(&format!("/api/v1/workloads/{namespace}/{name}"))?;
        let instances = workload.get("instances").and_then(Value::as_array).into_iter().flatten();
        let instances: Vec<&str> =
            instances.filter_map(|it| it.get("name").and_then(Value::as_str)).collect();
        if instances.contains(&pod) {
            return Ok(workload);
        }
        longer.extend(instances.into_iter().filter(|name| name.starts_with(pod)).map(str::to_owned));
    }
    bail!("the control plane knows no pod {pod:?} in namespace {namespace:?}: {}", meant(longer))
}

/// What whoever asked for a pod that is not known may have meant, by the names that are longer.
fn meant(mut longer: Vec<String>) -> String {
    if longer.is_empty() {
        return "is it running, and does it have an address?".to_owned();
    }
    longer.sort();
    let more = longer.len().saturating_sub(SHOWN);
    longer.truncate(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("write all of its name; there are {}{more}", longer.join(", "))
}

/// Pods that are named to whoever has asked for one that is not known.
const SHOWN: usize = 5;

/// `/api/v1/workloads/NAMESPACE/NAME`, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Workload {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    app: String,
    version: String,
    identities: Vec<String>,
    services: Vec<String>,
    waypoint: Option<String>,
    #[serde(default, rename = "waypointRefused")]
    waypoint_refused: Option<String>,
    instances: Vec<Instance>,
    policies: Vec<Policy>,
    inbound: Rates,
    outbound: Rates,
}

#[derive(Debug, Deserialize)]
struct Instance {
    name: String,
    node: Option<String>,
    addresses: Vec<String>,
    ready: bool,
    enrolled: bool,
    #[serde(default)]
    capture: Option<String>,
    #[serde(default)]
    certificate: Option<String>,
}

/// `/api/v1/services/NAMESPACE/NAME`, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Service {
    namespace: String,
    name: String,
    hostname: String,
    addresses: Vec<String>,
    ports: Vec<Port>,
    endpoints: Endpoints,
    external: bool,
    headless: bool,
    waypoint: Option<String>,
    #[serde(default, rename = "waypointRefused")]
    waypoint_refused: Option<String>,
    workloads: Vec<String>,
    policies: Vec<Policy>,
    #[serde(flatten)]
    rates: Rates,
}

#[derive(Debug, Deserialize)]
struct Port {
    number: u16,
    name: Option<String>,
    protocol: String,
}

#[derive(Debug, Deserialize)]
struct Endpoints {
    ready: usize,
    total: usize,
}

#[derive(Debug, Deserialize)]
struct Policy {
    kind: String,
    namespace: String,
    name: String,
    summary: String,
    problems: Vec<Problem>,
}

#[derive(Debug, Deserialize)]
struct Problem {
    level: String,
    code: String,
    field: String,
    reason: String,
    hint: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rates {
    requests_per_second: f64,
    connections_per_second: f64,
    error_share: Option<f64>,
    p95_ms: Option<f64>,
}

fn pod_text(workload: &Workload, namespace: &str, pod: &str) -> String {
    let mut out = format!("Pod: {}/{}\n", one_line(namespace), one_line(pod));
    if let Some(instance) = workload.instances.iter().find(|it| it.name == pod) {
        line(&mut out, "Addresses", &list(&instance.addresses));
        line(&mut out, "Node", instance.node.as_deref().unwrap_or("unknown"));
        line(&mut out, "Ready", if instance.ready { "yes" } else { "no: services do not lead to it" });
        let captured = match &instance.capture {
            _ if !instance.enrolled => NOT_ENROLLED.to_owned(),
            Some(why) => format!("not yet, its capture is {why}"),
            None => "yes".to_owned(),
        };
        line(&mut out, "In the mesh", &captured);
        if let Some(why) = &instance.certificate {
            line(&mut out, "Certificate", &format!("none that is new: {why}"));
        }
    }
    let kind =
        format!("{} ({}), app {}, version {}", workload.name, workload.kind, workload.app, workload.version);
    line(&mut out, "Workload", &kind);
    line(&mut out, "Identity", &list(&workload.identities));
    line(&mut out, "Services", &list(&workload.services));
    line(&mut out, "Waypoint", &waypoint(workload.waypoint.as_deref(), workload.waypoint_refused.as_deref()));
    line(&mut out, "Is asked", &workload.inbound.text());
    line(&mut out, "Asks", &workload.outbound.text());
    rules(&mut out, &workload.policies);
    out
}

fn service_text(service: &Service) -> String {
    let mut out = format!("Service: {}/{}\n", one_line(&service.namespace), one_line(&service.name));
    line(&mut out, "Host", &service.hostname);
    let none = if service.headless { "none: it is headless" } else { "none" };
    let addresses = if service.addresses.is_empty() { none.to_owned() } else { list(&service.addresses) };
    line(&mut out, "Addresses", &addresses);
    for port in &service.ports {
        // A port without a name is looked at, as far as rules need it.
        let name = port.name.as_deref().unwrap_or("without a name: its protocol is told by the first bytes");
        line(&mut out, "Port", &format!("{}/{} {name}", port.number, port.protocol));
    }
    let Endpoints { ready, total } = service.endpoints;
    let nobody = if ready == 0 { ": nobody answers" } else { "" };
    line(&mut out, "Endpoints", &format!("{ready} of {total} ready{nobody}"));
    line(&mut out, "Workloads", &list(&service.workloads));
    if service.external {
        line(&mut out, "Servers", "outside of the mesh");
    }
    line(&mut out, "Waypoint", &waypoint(service.waypoint.as_deref(), service.waypoint_refused.as_deref()));
    line(&mut out, "Is asked", &service.rates.text());
    rules(&mut out, &service.policies);
    out
}

impl Rates {
    fn text(&self) -> String {
        let errors =
            self.error_share.map(|share| format!(", {:.1} % errors", share * 100.0)).unwrap_or_default();
        let p95 = self.p95_ms.map(|ms| format!(", 95 % within {ms:.1} ms")).unwrap_or_default();
        let (requests, connections) = (self.requests_per_second, self.connections_per_second);
        if requests > 0.0 {
            format!("{requests:.2} requests/s{errors}{p95} in the last minute")
        } else if connections > 0.0 {
            format!("{connections:.2} connections/s{errors} in the last minute")
        } else {
            "nothing in the last minute".to_owned()
        }
    }
}

/// What analysis has found wrong with the object itself, as lines; empty if nothing.
fn own_problems(one: &One, kind: &str, (namespace, name): (&str, &str)) -> Result<String> {
    let all = one.ask(&format!("/api/v1/problems?namespace={namespace}"))?;
    own_problems_text(&all, kind, (namespace, name))
}

fn own_problems_text(all: &Value, kind: &str, (namespace, name): (&str, &str)) -> Result<String> {
    let is = |problem: &&Value, field: &str, wanted: &str| {
        problem.get(field).and_then(Value::as_str) == Some(wanted)
    };
    let problems = all.get("problems").and_then(Value::as_array).into_iter().flatten();
    let own = problems
        .filter(|it| is(it, "kind", kind) && is(it, "namespace", namespace) && is(it, "name", name))
        .map(|it| serde_json::from_value(it.clone()));
    let own: Vec<Problem> = own.collect::<Result<_, _>>().context("the control plane's answer")?;
    let mut out = String::new();
    if !own.is_empty() {
        out.push_str("What is wrong with it:\n");
        own.iter().for_each(|problem| problem_line(&mut out, "   ", problem));
    }
    Ok(out)
}

/// Rules, and below each what is wrong with it.
fn rules(out: &mut String, policies: &[Policy]) {
    if policies.is_empty() {
        out.push_str("No rules are about it.\n");
        return;
    }
    out.push_str("Rules about it:\n");
    for policy in policies {
        let Policy { kind, namespace, name, summary, problems } = policy;
        let _ = writeln!(out, "   {}", one_line(&format!("{kind} {namespace}/{name}: {summary}")));
        problems.iter().for_each(|problem| problem_line(out, "      ", problem));
    }
}

fn problem_line(out: &mut String, indent: &str, problem: &Problem) {
    let Problem { level, code, field, reason, hint } = problem;
    let field = if field.is_empty() { String::new() } else { format!("{field}: ") };
    let hint = hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
    let _ = writeln!(out, "{indent}{}", one_line(&format!("{level} [{code}] {field}{reason}{hint}")));
}

/// A waypoint, and whether anything gets through it.
fn waypoint(name: Option<&str>, refused: Option<&str>) -> String {
    let name = name.unwrap_or("none");
    match refused {
        Some(why) => format!("{name}, which cannot be used: {why}. Nothing gets through"),
        None => name.to_owned(),
    }
}

fn line(out: &mut String, title: &str, value: &str) {
    let _ = writeln!(out, "   {title:<12} {}", one_line(value));
}

fn list(all: &[String]) -> String {
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

const NOT_ENROLLED: &str = "no: neither it nor its namespace has the label istio.io/dataplane-mode=ambient (or istio-injection=enabled)";

const EXAMPLES: &str = "\
Example: meshctl describe pod default/productpage-v1-6f9c4d8b7-x2x9v
Example: meshctl describe service reviews.default -o json";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rates() -> Value {
        json!({"requestsPerSecond": 2.0, "connectionsPerSecond": 0.0, "errorShare": 0.25, "p95Ms": 8.0})
    }

    fn policy() -> Value {
        json!({"kind": "AuthorizationPolicy", "namespace": "default", "name": "closed", "summary": "DENY, 1 rule\u{7}",
            "problems": [{"level": "warning", "code": "IST0106", "field": "spec.rules[0]", "reason": "is empty",
                "hint": "write what it is about"}]})
    }

    #[test]
    fn names_are_written_in_three_ways_and_need_no_escaping() {
        let name = |text: &str| text.parse::<Name>().map(|it| (it.namespace, it.name));
        let of = |namespace: Option<&str>, name: &str| Ok((namespace.map(str::to_owned), name.to_owned()));
        assert_eq!(name("reviews"), of(None, "reviews"));
        assert_eq!(name("shop/reviews-v1.x"), of(Some("shop"), "reviews-v1.x"));
        assert_eq!(name("reviews.shop"), of(Some("shop"), "reviews"));
        for bad in ["", "a/", "/b", "a/b?c", "a b", "a\r\nb", "a/b/c"] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_beginning_of_a_name_leads_to_those_that_are_longer() {
        let names = |count: usize| (0..count).rev().map(|it| format!("a-{it}")).collect();
        assert_eq!(meant(names(0)), "is it running, and does it have an address?");
        assert_eq!(meant(names(2)), "write all of its name; there are a-0, a-1");
        assert_eq!(meant(names(7)), "write all of its name; there are a-0, a-1, a-2, a-3, a-4 and 2 more");
    }

    #[test]
    fn a_pod_is_told_with_its_rules_and_what_is_wrong_with_them() {
        let workload = json!({
            "name": "reviews-v1", "type": "deployment", "app": "reviews", "version": "v1",
            "identities": ["spiffe://cluster.local/ns/default/sa/reviews"], "services": ["default/reviews"],
            "waypoint": null, "policies": [policy()], "inbound": rates(),
            "outbound": {"requestsPerSecond": 0.0, "connectionsPerSecond": 0.0, "errorShare": null, "p95Ms": null},
            "instances": [{"name": "reviews-v1-a", "node": "node-1", "addresses": ["10.0.0.5"], "ready": true,
                "enrolled": false}],
        });
        let text = pod_text(&serde_json::from_value(workload).unwrap(), "default", "reviews-v1-a");
        for wanted in [
            "Pod: default/reviews-v1-a\n",
            "   In the mesh  no: neither it nor its namespace",
            "   Is asked     2.00 requests/s, 25.0 % errors, 95 % within 8.0 ms in the last minute\n",
            "   Asks         nothing in the last minute\n",
            "   AuthorizationPolicy default/closed: DENY, 1 rule \n",
            "      warning [IST0106] spec.rules[0]: is empty (write what it is about)\n",
        ] {
            assert!(text.contains(wanted), "{wanted:?} in\n{text}");
        }
        assert!(!text.contains('\u{7}'), "names ring no bell");
    }

    #[test]
    fn why_a_pod_is_not_captured_and_not_certified_is_said() {
        let mut workload = json!({
            "name": "w", "type": "pod", "app": "w", "version": "v1", "identities": [], "services": [],
            "waypoint": null, "policies": [], "inbound": rates(), "outbound": rates(),
            "instances": [{"name": "w", "node": "n", "addresses": [], "ready": true, "enrolled": true,
                "capture": "failed: no room in a map", "certificate": "the CA says \u{1b}no"}],
        });
        let text = |workload: &Value| pod_text(&serde_json::from_value(workload.clone()).unwrap(), "a", "w");
        let told = text(&workload);
        assert!(
            told.contains("   In the mesh  not yet, its capture is failed: no room in a map\n"),
            "{told}"
        );
        assert!(told.contains("   Certificate  none that is new: the CA says  no\n"), "{told}");
        workload["instances"][0]["capture"] = Value::Null;
        assert!(text(&workload).contains("   In the mesh  yes\n"));
    }

    #[test]
    fn what_is_wrong_with_the_object_itself_is_said() {
        let problem = |kind: &str, name: &str| {
            json!({"level": "error", "code": "IST0101", "kind": kind, "namespace": "a", "name": name,
                "field": "metadata.labels", "reason": "asks for nobody", "hint": null})
        };
        let all =
            json!({"problems": [problem("Service", "w"), problem("Service", "x"), problem("Pod", "w")]});
        let text = own_problems_text(&all, "Service", ("a", "w")).unwrap();
        assert_eq!(text, "What is wrong with it:\n   error [IST0101] metadata.labels: asks for nobody\n");
        assert_eq!(own_problems_text(&all, "Service", ("b", "w")).unwrap(), "");
    }

    #[test]
    fn a_service_without_endpoints_says_that_nobody_answers() {
        let service = json!({
            "namespace": "default", "name": "reviews", "hostname": "reviews.default.svc.cluster.local",
            "addresses": ["10.96.0.4"], "ports": [{"number": 9080, "name": null, "protocol": "TCP"}],
            "endpoints": {"ready": 0, "total": 2}, "external": false, "headless": false, "waypoint": "default/shop",
            "workloads": ["default/reviews-v1"], "policies": [], "requestsPerSecond": 0.0,
            "connectionsPerSecond": 0.5, "errorShare": 1.0, "p95Ms": null,
        });
        let mut refused = service.clone();
        refused["waypointRefused"] = json!("Gateway default/shop is not there");
        let refused = service_text(&serde_json::from_value(refused).unwrap());
        let why =
            "default/shop, which cannot be used: Gateway default/shop is not there. Nothing gets through\n";
        assert!(refused.contains(&format!("   Waypoint     {why}")), "{refused}");
        let text = service_text(&serde_json::from_value(service).unwrap());
        for wanted in [
            "   Endpoints    0 of 2 ready: nobody answers\n",
            "   Port         9080/TCP without a name: its protocol is told by the first bytes\n",
            "   Waypoint     default/shop\n",
            "   Is asked     0.50 connections/s, 100.0 % errors in the last minute\n",
            "No rules are about it.\n",
        ] {
            assert!(text.contains(wanted), "{wanted:?} in\n{text}");
        }
    }
}
