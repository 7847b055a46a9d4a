//! The steps of a request, decided with what nodes decide with.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use http::{HeaderMap, Method};
use mesh_core::cluster::{self, ClusterPolicy, Destination};
use mesh_core::http::path::{EscapedSlashes, normalize};
use mesh_core::model::{
    CompileOptions, Endpoint, Service, Snapshot, Target, WaypointName, Workload, compile,
};
use mesh_core::policy::{Connection, Decision, Host, Question, Request, Seen};
use mesh_core::resource::{Object, SourceFile, Spec, parse};
use mesh_core::route::{Action, Client, ClusterRef, Owners, Picked, RequestView, Route, RouteTable};
use serde::Serialize;
use serde_json::json;

use super::Url;
use crate::cmd::authz::normalization;
use crate::table::one_line;

/// What is asked.
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    pub(super) url: &'a Url,
    pub(super) headers: &'a HeaderMap,
    /// `NAMESPACE/POD`.
    pub(super) from: &'a str,
}

/// What would become of it.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    steps: Vec<Step>,
    carried: bool,
}

/// One thing that is decided.
#[derive(Debug, Serialize)]
struct Step {
    /// What is decided: client, service, waypoint, rule, destination, endpoint.
    what: &'static str,
    /// What comes of it.
    outcome: String,
}

impl Answer {
    /// Whether somebody would get the request.
    pub(super) fn is_carried(&self) -> bool {
        self.carried
    }

    /// A line for each step; what belongs to the one before is indented.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        for Step { what, outcome } in &self.steps {
            let indent = if *what == "endpoint" { "   " } else { "" };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{indent}{what:<12} {}", one_line(outcome));
        }
        out
    }

    fn step(&mut self, what: &'static str, outcome: impl Into<String>) {
        self.steps.push(Step { what, outcome: outcome.into() });
    }
}

/// Follows it as far as it gets.
///
/// # Errors
/// If nothing can be said: the client is not there, the path is none.
pub(super) fn follow(objects: &[Object], root_namespace: &str, asked: &Asked<'_>) -> Result<Answer> {
    let (namespace, name) = asked.from.split_once('/').context("name the pod as NAMESPACE/NAME")?;
    let mut objects = objects.to_vec();
    objects.extend(pods_to_be(&objects));
    let options = CompileOptions { root_namespace: root_namespace.to_owned(), ..CompileOptions::default() };
    let snapshot = compile(&objects, &options).snapshot;
    let here = || snapshot.workloads().filter(|it| *it.namespace == *namespace);
    let named = here().find(|it| *it.name == *name);
    let client = named.or_else(|| here().find(|it| *it.workload_name == *name));
    let client = client.with_context(|| format!("there is no pod or Deployment {}", asked.from))?;
    let path = normalize(&asked.url.path, normalization(&snapshot), EscapedSlashes::Keep);
    let path = path.map_err(|wrong| anyhow!("the path {wrong}: such a request is refused with 400"))?;
    let mut answer = Answer { steps: Vec::new(), carried: false };
    Trace { snapshot: &snapshot, client, asked, path: &path }.run(&mut answer);
    Ok(answer)
}

/// A pod for each Deployment of which none runs: files say what will run.
fn pods_to_be(objects: &[Object]) -> Vec<Object> {
    let runs = |namespace: &str, labels: &BTreeMap<String, String>| {
        objects.iter().any(|object| {
            matches!(object.spec, Spec::Pod(_))
                && *object.meta.namespace == *namespace
                && labels.iter().all(|(key, value)| object.meta.labels.get(key) == Some(value))
        })
    };
    let deployments = objects.iter().filter_map(|object| match &object.spec {
        Spec::Deployment(deployment) => Some((&object.meta, &deployment.spec.template)),
        _ => None,
    });
    let deployments = deployments.filter(|(meta, template)| {
        let labels = template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
        labels.is_some_and(|labels| !runs(&meta.namespace, labels))
    });
    let pods = (1_u32..).zip(deployments).map(|(number, (meta, template))| {
        let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        let account = template.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": meta.name, "namespace": meta.namespace, "labels": labels},
            "spec": {"serviceAccountName": account, "containers": [{"name": "any", "image": "any"}]},
            "status": {
                "podIP": Ipv4Addr::from(FIRST_TO_BE + number).to_string(),
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        parse(&SourceFile { name: "pods of Deployments", text: &pod.to_string() }).objects
    });
    pods.flatten().collect()
}

struct Trace<'a> {
    snapshot: &'a Snapshot,
    client: &'a Arc<Workload>,
    asked: &'a Asked<'a>,
    /// In its normal form.
    path: &'a str,
}

impl Trace<'_> {
    fn run(&self, answer: &mut Answer) {
        let Workload { namespace, name, node, identity, enrolled, .. } = &**self.client;
        let place = node.as_deref().unwrap_or("no node yet");
        if *enrolled {
            answer.step("client", format!("{namespace}/{name} on {place}, as {identity}"));
        } else {
            answer.step(
                "client",
                format!(
                    "{namespace}/{name} on {place} is outside of the mesh: no rule is about what it sends"
                ),
            );
        }
        let Some((service, port)) = self.service(answer) else { return };
        if !enrolled {
            return self.destination(answer, &own(&service, port), "all of it");
        }
        let table = self.table(answer, &service, port);
        let Some(table) = table else {
            answer.step("rule", "none: no VirtualService or route of the Gateway API is about it");
            return self.destination(answer, &own(&service, port), "all of it");
        };
        match table.pick(&self.view(port)) {
            Picked::Route(route, matched) => {
                answer.step("rule", rule(route, &matched.name));
                self.act(answer, route, "");
            }
            Picked::NoRoute => answer.step("rule", "none of those about it matches: 404"),
            Picked::NoHost | Picked::ToHttps | Picked::Misdirected => {
                answer.step("rule", "none for this host");
                self.destination(answer, &own(&service, port), "all of it");
            }
        }
    }

    /// The service that it is for, and the service's port.
    fn service(&self, answer: &mut Answer) -> Option<(Arc<Service>, u16)> {
        let Url { host, port, .. } = self.asked.url;
        let found = match host.parse::<IpAddr>() {
            Ok(ip) => match self.snapshot.resolve_for(&self.client.namespace, SocketAddr::new(ip, *port)) {
                Target::Service { service, .. } => Some(service),
                _ => None,
            },
            Err(_) => self.names(host).find_map(|name| {
                self.snapshot.service_by_host(&name.into(), &self.client.namespace).map(Arc::clone)
            }),
        };
        let Some(service) = found else {
            answer.step(
                "service",
                format!(
                    "none: {host} is the name or address of no service that {} sees; \
                         it leaves the mesh as outboundTrafficPolicy lets it",
                    self.client.namespace
                ),
            );
            return None;
        };
        let Service { namespace, name, hostname, .. } = &*service;
        if service.ports.iter().any(|it| it.number == *port) {
            answer.step("service", format!("{namespace}/{name} ({hostname}), port {port}"));
            return Some((Arc::clone(&service), *port));
        }
        let ports: Vec<_> = service.ports.iter().map(|it| it.number.to_string()).collect();
        answer.step("service", format!("{namespace}/{name} has no port {port}; it has {}", ports.join(", ")));
        None
    }

    /// The names that a resolver would try.
    fn names<'n>(&'n self, host: &'n str) -> impl Iterator<Item = String> + 'n {
        let domain = self.snapshot.rules().defaults().cluster_domain.clone();
        let namespace = &self.client.namespace;
        let searched =
            [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_string(), String::new()];
        searched.into_iter().map(move |search| {
            if search.is_empty() { host.trim_end_matches('.').to_owned() } else { format!("{host}.{search}") }
        })
    }

    /// The rules about it, where they are in force.
    fn table(&self, answer: &mut Answer, service: &Service, port: u16) -> Option<RouteTable> {
        let client = Client { namespace: &self.client.namespace, labels: &self.client.labels };
        let about = self.snapshot.virtuals().about(&service.hostname);
        let Some(waypoint) = &service.waypoint else { return RouteTable::for_service(&about, client, port) };
        let name = WaypointName(&waypoint.service).to_string();
        answer.step(
            "waypoint",
            match &waypoint.refused {
                Some(why) => format!("{name}, which cannot be used: {why}. Nothing gets through"),
                None => format!("{name} decides what follows"),
            },
        );
        let owners = Owners { service: &service.namespace, waypoint: &waypoint.service.namespace };
        RouteTable::for_waypoint(&about, client, port, owners)
    }

    fn view(&self, port: u16) -> RequestView<'_> {
        RequestView {
            method: self.asked.method,
            scheme: "http",
            authority: &self.asked.url.authority,
            path: self.path,
            query: self.asked.url.query.as_deref(),
            headers: self.asked.headers,
            port,
            claims: None,
        }
    }

    fn act(&self, answer: &mut Answer, route: &Route, share: &str) {
        match &route.action {
            Action::Forward(forward) => {
                let all: u64 = forward.destinations().iter().map(|it| u64::from(it.weight)).sum();
                for weighted in forward.destinations() {
                    let percent = u64::from(weighted.weight) * 100 / all.max(1);
                    let own = if forward.destinations().len() == 1 {
                        String::new()
                    } else {
                        format!("{percent} %")
                    };
                    let share = [share, &own]
                        .into_iter()
                        .filter(|it| !it.is_empty())
                        .collect::<Vec<_>>()
                        .join(" of ");
                    self.destination(
                        answer,
                        &weighted.to,
                        if share.is_empty() { "all of it" } else { &share },
                    );
                }
            }
            Action::Redirect(_) => answer.step("destination", "none: the client is sent elsewhere"),
            Action::Respond(response) => {
                answer.step("destination", format!("none: it is answered with {}", response.status));
            }
            Action::Split(split) => {
                for branch in split.branches() {
                    self.act(answer, branch, "a share");
                }
            }
        }
    }

    fn destination(&self, answer: &mut Answer, to: &ClusterRef, share: &str) {
        let service = self.snapshot.service_by_host(&to.host, &self.client.namespace);
        let Some(service) = service else {
            return answer.step("destination", format!("{share}: {} is no service: 503, flag NC", to.host));
        };
        let port = to.port_of(service.ports.iter().map(|it| it.number), self.asked.url.port);
        let client = cluster::Client { namespace: &self.client.namespace, labels: &self.client.labels };
        let destination = Destination::new(&service.namespace, &service.hostname, port);
        let policy =
            match cluster::resolve(self.snapshot.rules(), &client, &destination, to.subset.as_deref()) {
                Ok(policy) => policy,
                Err(unknown) => {
                    let outcome = format!(
                        "{share}: no DestinationRule has a subset {:?} of {}: 503, flag NC",
                        unknown.0, to.host
                    );
                    return answer.step("destination", outcome);
                }
            };
        answer.step("destination", format!("{share}: {}{}", to.host, described(to, &policy, port)));
        let endpoints = service.ports.iter().find(|it| it.number == port).map(|it| &it.endpoints);
        let chosen: Vec<&Endpoint> =
            endpoints.into_iter().flat_map(|all| all.iter()).filter(|it| selects(&policy, it)).collect();
        if chosen.is_empty() {
            return answer.step("endpoint", "none that is ready: 503, flag UH");
        }
        for endpoint in chosen.iter().take(MOST) {
            self.endpoint(answer, endpoint);
        }
        if chosen.len() > MOST {
            answer.step("endpoint", format!("and {} more", chosen.len() - MOST));
        }
    }

    /// Where it is, and what policy says there.
    fn endpoint(&self, answer: &mut Answer, endpoint: &Endpoint) {
        let Some(workload) = &endpoint.workload else {
            answer.carried = true;
            return answer.step("endpoint", format!("{}, outside of the mesh", endpoint.addr));
        };
        let Workload { namespace, name, node, .. } = &**workload;
        let place = format!(
            "{namespace}/{name} at {} on {}",
            endpoint.addr,
            node.as_deref().unwrap_or("no node yet")
        );
        let proven = self.client.enrolled && workload.accepts_tunnel();
        let source = self.client.ips.first().copied().unwrap_or(endpoint.addr.ip());
        let connection = Connection {
            peer: proven.then_some(&self.client.identity),
            source_ip: source,
            destination: endpoint.addr,
            encrypted: proven,
        };
        let host = Host::of(&self.asked.url.authority);
        let request = Request {
            method: self.asked.method.as_str(),
            host: Some(&host),
            path: self.path,
            headers: self.asked.headers,
            remote_ip: source,
            server_name: None,
            claims: None,
        };
        let question = Question { connection: &connection, seen: Seen::Request(&request), approved: &[] };
        let (allowed, said) = match self.snapshot.policies().decide(workload, &question) {
            Decision::Allowed(_) => (true, "allowed".to_owned()),
            Decision::Denied(denied) => (false, format!("denied: {denied}")),
            Decision::NeedsRequest => (false, "it depends on more of the request".to_owned()),
            Decision::NeedsExternal(external) => (true, format!("left to provider {}", external.provider)),
        };
        answer.carried |= allowed;
        let how = if proven { "mutual TLS, or within the node" } else { "plain text" };
        answer.step("endpoint", format!("{place}, {how}; {said}"));
    }
}

/// The service itself.
fn own(service: &Service, port: u16) -> ClusterRef {
    ClusterRef { host: Arc::clone(&service.hostname), subset: None, port: Some(port) }
}

fn rule(route: &Route, matched: &str) -> String {
    let of = route
        .virtual_service
        .as_ref()
        .map_or_else(|| "a route".to_owned(), |it| format!("VirtualService {it}"));
    let mut told = if matched.is_empty() { of } else { format!("{of}, {matched:?}") };
    let mut add = |text: String| told.extend(["; ", &text]);
    if route.fault.is_some() {
        add("with faults".to_owned());
    }
    if let Some(timeout) = route.timeout {
        add(format!("at most {timeout:?}"));
    }
    if route.retries.is_some() {
        add("tried again".to_owned());
    }
    if route.rewrite.is_some() {
        add("with another path".to_owned());
    }
    for mirror in &route.mirrors {
        add(format!("copies to {}", mirror.to.host));
    }
    told
}

fn described(to: &ClusterRef, policy: &ClusterPolicy, port: u16) -> String {
    let subset = to.subset.as_ref().map(|subset| format!(", subset {subset}")).unwrap_or_default();
    let rules: Vec<_> = policy.rules.iter().map(|it| format!("{}/{}", it.namespace, it.name)).collect();
    let rules =
        if rules.is_empty() { String::new() } else { format!(", DestinationRule {}", rules.join(", ")) };
    format!(" port {port}{subset}{rules}")
}

fn selects(policy: &ClusterPolicy, endpoint: &Endpoint) -> bool {
    endpoint.workload.as_ref().is_none_or(|it| policy.selects(&it.labels))
}

/// Before the addresses of pods that do not run yet; nobody's (RFC 2544).
const FIRST_TO_BE: u32 = u32::from_be_bytes([198, 18, 0, 0]);
/// Endpoints of a destination that are told one by one.
const MOST: usize = 10;

#[cfg(test)]
mod tests;
