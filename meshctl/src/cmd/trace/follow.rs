//! The steps of a request, decided with what nodes decide with.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use http::{HeaderMap, Method};
use mesh_core::cluster::{self, Destination};
use mesh_core::http::path::{EscapedSlashes, normalize};
use mesh_core::id::SpiffeId;
use mesh_core::model::{
    CompileOptions, Endpoint, Service, Snapshot, Target, Waypoint, WaypointName, Workload, compile,
};
use mesh_core::policy::{Connection, Decision, Gate, Host, Question, Request, Seen, Targeted};
use mesh_core::resource::Object;
use mesh_core::route::{
    Action, Client, ClusterRef, Forward, Owners, Picked, RequestView, Route, RouteTable, StreamRoute,
    StreamTable, StreamView,
};
use serde::Serialize;

use self::edge::Edge;
use self::words::{described, fault, own, rule, selects};
use super::{From, Url};
use crate::cmd::authz::normalization;
use crate::table::one_line;

mod edge;
mod stand_in;
mod words;

/// What is asked.
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    pub(super) url: &'a Url,
    pub(super) headers: &'a HeaderMap,
    pub(super) from: &'a From,
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
    /// What is decided: client, listener, service, waypoint, policy, rule, fault, destination, endpoint.
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
    let mut objects = objects.to_vec();
    objects.extend(stand_in::pods(&objects));
    let options = CompileOptions { root_namespace: root_namespace.to_owned(), ..CompileOptions::default() };
    let snapshot = compile(&objects, &options).snapshot;
    let path = normalize(&asked.url.path, normalization(&snapshot), EscapedSlashes::Keep);
    let path = path.map_err(|wrong| anyhow!("the path {wrong}: such a request is refused with 400"))?;
    let trace = Trace { snapshot: &snapshot, asked, path: &path };
    let mut answer = Answer { steps: Vec::new(), carried: false };
    match asked.from {
        From::Gateway(namespace, name) => {
            Edge::find(&objects, &snapshot, (namespace, name))?.run(&trace, &mut answer);
        }
        From::Pod(namespace, name) => {
            let here = || snapshot.workloads().filter(|it| *it.namespace == **namespace);
            let named = here().find(|it| *it.name == **name);
            let client = named.or_else(|| here().find(|it| *it.workload_name == **name));
            let client =
                client.with_context(|| format!("there is no pod or Deployment {namespace}/{name}"))?;
            trace.run(client, &mut answer);
        }
    }
    Ok(answer)
}

struct Trace<'a> {
    snapshot: &'a Snapshot,
    asked: &'a Asked<'a>,
    /// In its normal form.
    path: &'a str,
}

/// Who sends, from one proxy to the next.
#[derive(Clone)]
struct Party<'a> {
    role: Role,
    namespace: &'a str,
    labels: &'a BTreeMap<String, String>,
    /// If it can prove one.
    identity: Option<SpiffeId>,
    ip: Option<IpAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// A pod in the mesh, by its node.
    Pod,
    /// A pod outside of the mesh.
    Stranger,
    Gateway,
    Waypoint,
}

/// A part of the way.
struct Leg<'a> {
    from: Party<'a>,
    /// Whether requests are read there, rather than bytes passed on.
    reads: bool,
}

impl<'a> Party<'a> {
    fn of(workload: &'a Workload, role: Role) -> Self {
        let Workload { namespace, labels, .. } = workload;
        let identity = workload.enrolled.then(|| workload.identity.clone());
        Self { role, namespace, labels, identity, ip: workload.ips.first().copied() }
    }

    /// The one that it sends this service's through, if any.
    fn way<'s>(&self, service: &'s Service) -> Option<&'s Waypoint> {
        let waypoint = service.waypoint.as_deref()?;
        match self.role {
            Role::Pod => Some(waypoint),
            Role::Gateway => Some(waypoint).filter(|it| it.ingress),
            Role::Stranger | Role::Waypoint => None,
        }
    }
}

impl Trace<'_> {
    /// Follows what a pod sends.
    fn run(&self, client: &Workload, answer: &mut Answer) {
        let Workload { namespace, name, node, identity, enrolled, .. } = client;
        let place = node.as_deref().unwrap_or("no node yet");
        let role = if *enrolled { Role::Pod } else { Role::Stranger };
        let leg = Leg { from: Party::of(client, role), reads: !self.asked.url.is_https() };
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
        let Some((service, port)) = self.service(answer, client) else { return };
        if !enrolled {
            return self.destination(answer, &own(&service, port), "all of it", &leg);
        }
        if leg.from.way(&service).is_some() {
            answer.step("listener", format!("{CAPTURED}; its bytes go through the service's waypoint"));
            return self.destination(answer, &own(&service, port), "all of it", &leg);
        }
        let about = self.snapshot.virtuals().about(&service.hostname);
        let asker = Client { namespace: leg.from.namespace, labels: leg.from.labels };
        if leg.reads {
            let table = RouteTable::for_service(&about, asker, port);
            answer.step("listener", captured(table.is_some(), "requests"));
            self.requests(answer, table.as_ref(), (&service, port), &leg);
        } else {
            let table = StreamTable::for_service(&about, asker, port);
            answer.step("listener", captured(table.is_some(), "the server name of its TLS"));
            self.streams(answer, table.as_ref(), (&service, port), &leg);
        }
    }

    /// What rules about requests to a service say.
    fn requests(
        &self,
        answer: &mut Answer,
        table: Option<&RouteTable>,
        (service, port): (&Service, u16),
        leg: &Leg<'_>,
    ) {
        let Some(table) = table else {
            answer.step("rule", "none: no VirtualService or route of the Gateway API is about it");
            return self.destination(answer, &own(service, port), "all of it", leg);
        };
        match table.pick(&self.view(port)) {
            Picked::Route(route, matched) => {
                answer.step("rule", rule(route, &matched.name));
                self.act(answer, route, "", leg);
            }
            Picked::NoRoute => answer.step("rule", "none of those about it matches: 404"),
            Picked::NoHost | Picked::ToHttps | Picked::Misdirected => {
                answer.step("rule", "none for this host");
                self.destination(answer, &own(service, port), "all of it", leg);
            }
        }
    }

    /// What rules about connections to a service say.
    fn streams(
        &self,
        answer: &mut Answer,
        table: Option<&StreamTable>,
        (service, port): (&Service, u16),
        leg: &Leg<'_>,
    ) {
        let destination = service.vips.first().copied().unwrap_or(NOWHERE);
        let view = StreamView { server_name: Some(&self.asked.url.host), destination };
        match table.and_then(|table| table.pick(&view)) {
            None => {
                answer.step("rule", "none: no rule about TLS or TCP is about it");
                self.destination(answer, &own(service, port), "all of it", leg);
            }
            route => self.stream(answer, route.map(|route| &**route), leg),
        }
    }

    /// What a rule about connections says.
    fn stream(&self, answer: &mut Answer, route: Option<&StreamRoute>, leg: &Leg<'_>) {
        let Some(StreamRoute { virtual_service, forward }) = route else {
            return answer.step("rule", "none is about it: the connection is ended");
        };
        answer.step("rule", format!("{virtual_service}, about TLS or TCP"));
        self.forward(answer, forward, "", leg);
    }

    /// The service that it is for, and the service's port.
    fn service(&self, answer: &mut Answer, client: &Workload) -> Option<(Arc<Service>, u16)> {
        let Url { host, port, .. } = self.asked.url;
        let namespace = &client.namespace;
        let found = match host.parse::<IpAddr>() {
            Ok(ip) => match self.snapshot.resolve_for(namespace, SocketAddr::new(ip, *port)) {
                Target::Service { service, .. } => Some(service),
                _ => None,
            },
            Err(_) => self
                .names(host, namespace)
                .find_map(|name| self.snapshot.service_by_host(&name.into(), namespace).map(Arc::clone)),
        };
        let Some(service) = found else {
            answer.step(
                "service",
                format!(
                    "none: {host} is the name or address of no service that {namespace} sees; \
                         it leaves the mesh as outboundTrafficPolicy lets it"
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
    fn names<'n>(&'n self, host: &'n str, namespace: &str) -> impl Iterator<Item = String> + 'n {
        let domain = self.snapshot.rules().defaults().cluster_domain.clone();
        let searched =
            [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_string(), String::new()];
        searched.into_iter().map(move |search| {
            if search.is_empty() { host.trim_end_matches('.').to_owned() } else { format!("{host}.{search}") }
        })
    }

    /// Follows it through the waypoint of the service.
    fn through(
        &self,
        answer: &mut Answer,
        waypoint: &Waypoint,
        (service, port): (&Service, u16),
        leg: &Leg<'_>,
    ) {
        let name = WaypointName(&waypoint.service).to_string();
        let pods = match self.snapshot.way_through(waypoint, true, 0) {
            Ok(pods) => pods,
            Err(why) => {
                let outcome = format!("{name}, which cannot be used: {why}. Nothing gets through");
                return answer.step("waypoint", outcome);
            }
        };
        let first = pods.first().and_then(|pod| pod.workload.as_deref());
        let at = pods.first().map(|pod| format!(" at {}", pod.addr)).unwrap_or_default();
        answer.step("waypoint", format!("{name}{at} decides what follows"));
        let (namespace, short) = name.split_once('/').unwrap_or(("", &name));
        let gate = Targeted::of(self.snapshot, (namespace, short)).gate(Some(service));
        let asked = service.vips.first().map(|vip| SocketAddr::new(*vip, port));
        if !self.passes_to(answer, &gate, leg, (&format!("waypoint {name}"), asked)) {
            return;
        }
        let nobody = BTreeMap::new();
        let unknown = Party { role: Role::Waypoint, namespace, labels: &nobody, identity: None, ip: None };
        let from = first.map_or(unknown, Party::of_waypoint);
        let about = self.snapshot.virtuals().about(&service.hostname);
        let asker = Client { namespace: leg.from.namespace, labels: leg.from.labels };
        let owners = Owners { service: &service.namespace, waypoint: &waypoint.service.namespace };
        let next = Leg { from, reads: leg.reads };
        if leg.reads {
            let table = RouteTable::for_waypoint(&about, asker, port, owners);
            self.requests(answer, table.as_ref(), (service, port), &next);
        } else {
            let table = StreamTable::for_waypoint(&about, asker, port, owners);
            self.streams(answer, table.as_ref(), (service, port), &next);
        }
    }

    /// Whether the policies of a gateway let it through.
    fn passes(&self, answer: &mut Answer, gate: &Gate, leg: &Leg<'_>, whose: &str) -> bool {
        // Nobody outside has an identity of the mesh, or an address that is known.
        let outside = Leg { from: Party { identity: None, ip: None, ..leg.from.clone() }, reads: leg.reads };
        self.passes_to(answer, gate, &outside, (whose, None))
    }

    /// Whether the policies of a gateway or of a waypoint, which is asked for an address, let it through.
    fn passes_to(
        &self,
        answer: &mut Answer,
        gate: &Gate,
        leg: &Leg<'_>,
        (whose, asked): (&str, Option<SocketAddr>),
    ) -> bool {
        if gate.is_empty() {
            answer.step("policy", format!("none at {whose}"));
            return true;
        }
        let asked = asked.unwrap_or(SocketAddr::new(NOWHERE, self.asked.url.port));
        let (allowed, said) = said(&self.ask(leg, asked, leg.from.identity.as_ref(), |it| gate.decide(it)));
        answer.step("policy", format!("{whose}: {said}"));
        allowed
    }

    /// Asks policies about it, at whoever is asked for `destination`.
    fn ask<T>(
        &self,
        leg: &Leg<'_>,
        destination: SocketAddr,
        peer: Option<&SpiffeId>,
        decide: impl FnOnce(&Question<'_>) -> Decision<T>,
    ) -> Decision<T> {
        let source_ip = leg.from.ip.unwrap_or(NOWHERE);
        let connection = Connection { peer, source_ip, destination, encrypted: peer.is_some() };
        let host = Host::of(&self.asked.url.authority);
        let request = Request {
            method: self.asked.method.as_str(),
            host: Some(&host),
            path: self.path,
            headers: self.asked.headers,
            remote_ip: source_ip,
            server_name: None,
            claims: None,
        };
        let bytes = Seen::Bytes { server_name: Some(&self.asked.url.host) };
        let seen = if leg.reads { Seen::Request(&request) } else { bytes };
        decide(&Question { connection: &connection, seen, approved: &[] })
    }

    fn view(&self, port: u16) -> RequestView<'_> {
        RequestView {
            method: self.asked.method,
            scheme: self.asked.url.scheme,
            authority: &self.asked.url.authority,
            path: self.path,
            query: self.asked.url.query.as_deref(),
            headers: self.asked.headers,
            port,
            claims: None,
        }
    }

    fn act(&self, answer: &mut Answer, route: &Route, share: &str, leg: &Leg<'_>) {
        if let Some(injected) = &route.fault {
            let (outcome, lets_some) = fault(injected);
            answer.step("fault", outcome);
            if !lets_some {
                return;
            }
        }
        match &route.action {
            Action::Forward(forward) => self.forward(answer, forward, share, leg),
            Action::Redirect(_) => answer.step("destination", "none: the client is sent elsewhere"),
            Action::Respond(response) => {
                answer.step("destination", format!("none: it is answered with {}", response.status));
            }
            Action::Split(split) => {
                for branch in split.branches() {
                    self.act(answer, branch, "a share", leg);
                }
            }
        }
    }

    fn forward(&self, answer: &mut Answer, forward: &Forward, share: &str, leg: &Leg<'_>) {
        let all: u64 = forward.destinations().iter().map(|it| u64::from(it.weight)).sum();
        for weighted in forward.destinations() {
            let percent = u64::from(weighted.weight) * 100 / all.max(1);
            let own = if forward.destinations().len() == 1 { String::new() } else { format!("{percent} %") };
            let share =
                [share, &own].into_iter().filter(|it| !it.is_empty()).collect::<Vec<_>>().join(" of ");
            let share = if share.is_empty() { "all of it" } else { &share };
            self.destination(answer, &weighted.to, share, leg);
        }
    }

    fn destination(&self, answer: &mut Answer, to: &ClusterRef, share: &str, leg: &Leg<'_>) {
        let namespace = leg.from.namespace;
        let service = self.snapshot.service_by_host(&to.host, namespace);
        let Some(service) = service else {
            return answer.step("destination", format!("{share}: {} is no service: 503, flag NC", to.host));
        };
        let port = to.port_of(service.ports.iter().map(|it| it.number), self.asked.url.port);
        if let Some(waypoint) = leg.from.way(service) {
            return self.through(answer, waypoint, (service, port), leg);
        }
        let client = cluster::Client { namespace, labels: leg.from.labels };
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
            self.endpoint(answer, endpoint, leg);
        }
        if chosen.len() > MOST {
            answer.step("endpoint", format!("and {} more", chosen.len() - MOST));
        }
    }

    /// Where it is, and what policy says there.
    fn endpoint(&self, answer: &mut Answer, endpoint: &Endpoint, leg: &Leg<'_>) {
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
        let peer = leg.from.identity.as_ref().filter(|_| workload.accepts_tunnel());
        let decided = self.ask(leg, endpoint.addr, peer, |it| self.snapshot.policies().decide(workload, it));
        let (allowed, said) = said(&decided);
        answer.carried |= allowed;
        let how = if peer.is_some() { "mutual TLS, or within the node" } else { "plain text" };
        answer.step("endpoint", format!("{place}, {how}; {said}"));
    }
}

impl<'a> Party<'a> {
    /// A waypoint by one of its pods, which has an identity whether it is enrolled or not.
    fn of_waypoint(pod: &'a Workload) -> Self {
        Self { identity: Some(pod.identity.clone()), ..Self::of(pod, Role::Waypoint) }
    }
}

/// Whether a decision lets it through, and in words.
fn said<T>(decision: &Decision<T>) -> (bool, String) {
    match decision {
        Decision::Allowed(_) => (true, "allowed".to_owned()),
        Decision::Denied(denied) => (false, format!("denied: {denied}")),
        Decision::NeedsRequest => (false, "it depends on more of the request".to_owned()),
        Decision::NeedsExternal(external) => (true, format!("left to provider {}", external.provider)),
    }
}

fn captured(has_rules: bool, what: &str) -> String {
    if has_rules {
        format!("{CAPTURED}; its node reads {what}, because rules are about it")
    } else {
        format!("{CAPTURED}, or none on the express path within the node; nobody's rules are about it")
    }
}

/// Where a node takes what its pods send.
const CAPTURED: &str = "127.0.0.1:15001 in the pod's network";
/// An address that is not known; nobody's (RFC 5737).
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 201));
/// Endpoints of a destination that are told one by one.
const MOST: usize = 10;

#[cfg(test)]
mod tests;
