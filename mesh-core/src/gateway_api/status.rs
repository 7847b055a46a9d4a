//! What users are told of their Gateways and routes: the conditions and reasons that the API names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::contest::Contest;
use super::mesh::is_service;
use super::programmed::status_of_remote;
use super::refs::CertificateFault;
use super::{
    AncestorStatus, AuthorityFault, BackendFault, Facts, Gateway, Listener, ListenerFault, Name, Owner,
    OwnerKind, Rejected, Resources, Route, RouteBackends, RouteKind, RouteSpec,
};
use crate::resource::ObjectKey;
use crate::resource::gateway_api::{
    self as api, Backend, GrpcFilter, HttpFilter, ParentRef, SecretRef, TlsMode,
};
use crate::resource::value::Port;

/// What is told of everything that is ours.
#[derive(Debug, Default)]
pub struct Report<'a> {
    /// Of Gateways.
    pub gateways: BTreeMap<ObjectKey, GatewayStatus>,
    /// Of ListenerSets.
    pub sets: BTreeMap<ObjectKey, ListenerSetStatus>,
    /// Of `BackendTLSPolicies`, for each that they make a difference to.
    pub policies: BTreeMap<ObjectKey, Vec<AncestorStatus>>,
    /// Of routes, for each of its parents that is ours.
    pub routes: BTreeMap<ObjectKey, Vec<ParentStatus<'a>>>,
}

/// What is told of a Gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayStatus {
    /// Of all of it.
    pub conditions: Vec<Condition>,
    /// Of each listener, in order.
    pub listeners: Vec<ListenerStatus>,
    /// Where it is reached; of IP, or names.
    pub addresses: Vec<Arc<str>>,
    /// How many ListenerSets have added listeners.
    pub sets: usize,
}

/// What is told of a ListenerSet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListenerSetStatus {
    /// Of all of it.
    pub conditions: Vec<Condition>,
    /// Of each listener, in order; none if its Gateway does not take it.
    pub listeners: Vec<ListenerStatus>,
}

/// What is told of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerStatus {
    /// Its name.
    pub name: Arc<str>,
    /// The kinds of routes that may attach.
    pub kinds: Vec<RouteKind>,
    /// How many routes are attached, whether they lead anywhere or not.
    pub attached: usize,
    /// In the order of the API's documentation.
    pub conditions: Vec<Condition>,
}

/// What is told of a route at one of its parents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentStatus<'a> {
    /// As the route names it.
    pub parent: &'a ParentRef,
    /// `Accepted` and `ResolvedRefs`.
    pub conditions: Vec<Condition>,
}

/// A condition, but for its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// For example `Accepted`.
    pub sort: &'static str,
    /// Its status.
    pub holds: bool,
    /// One word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

impl ListenerStatus {
    /// Whether a condition of it holds.
    pub(super) fn holds(&self, sort: &str) -> bool {
        self.conditions.iter().any(|it| it.sort == sort && it.holds)
    }
}

impl Condition {
    pub(super) fn new(
        sort: &'static str,
        holds: bool,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { sort, holds, reason, message: message.into() }
    }
}

impl<'a> Resources<'a> {
    /// What there is to tell of all Gateways and routes that are ours.
    pub fn report(&self, facts: &Facts) -> Report<'a> {
        let mut report = Report::default();
        let listeners: BTreeMap<Name<'_>, Vec<Listener<'a>>> =
            self.gateways().map(|it| (it.name(), self.listeners(it))).collect();
        let mut attached: BTreeMap<Name<'_>, Vec<usize>> =
            listeners.iter().map(|(name, all)| (*name, vec![0; all.len()])).collect();
        let (mut senders, mut contest) = (BTreeMap::new(), Contest::default());
        for route in self.routes() {
            let mut statuses = Vec::new();
            let mut counted = BTreeSet::new();
            for parent in route.parents() {
                let at = self.at_parent((route, parent), (&listeners, facts), &mut contest);
                let Some((accepted, at)) = at else { continue };
                counted.extend(at);
                let partial = if accepted.holds { partially_invalid(route) } else { None };
                let conditions = [accepted, self.resolved(route, facts)].into_iter().chain(partial).collect();
                statuses.push(ParentStatus { parent, conditions });
            }
            for gateway in counted.iter().map(|(gateway, _)| *gateway).collect::<BTreeSet<_>>() {
                self.note_senders(route, gateway, &mut senders);
            }
            for (gateway, at) in counted {
                if let Some(count) = attached.get_mut(&gateway).and_then(|all| all.get_mut(at)) {
                    *count += 1;
                }
            }
            report.routes.insert(route.object.key(), statuses);
        }
        for gateway in self.gateways() {
            let name = gateway.name();
            let (Some(own), Some(counts)) = (listeners.get(&name), attached.get(&name)) else { continue };
            report.gateways.insert(gateway.object.key(), self.status_of(gateway, (own, counts), facts));
        }
        for waypoint in self.waypoints() {
            report.gateways.insert(waypoint.object.key(), self.status_of_waypoint(waypoint, facts));
        }
        for remote in self.remotes() {
            report.gateways.insert(remote.object.key(), status_of_remote(remote));
        }
        self.report_sets((&listeners, &attached), facts, &mut report);
        self.report_policies(&senders, facts, &mut report);
        report
    }

    /// Whether a route is attached to a parent, and the listeners there; `None` if it is none of ours.
    fn at_parent<'s>(
        &'s self,
        (route, parent): (&Route<'a>, &ParentRef),
        (listeners, facts): (&BTreeMap<Name<'s>, Vec<Listener<'a>>>, &Facts),
        contest: &mut Contest<'a>,
    ) -> Option<(Condition, Vec<(Name<'a>, usize)>)> {
        if is_service(parent) {
            return Some((at_service(route, parent, facts), Vec::new()));
        }
        let gateway = self.gateway_of(route, parent)?;
        let own = listeners.get(&gateway.name()).map(Vec::as_slice).unwrap_or_default();
        let outcome = contest.settle(route, gateway.name(), self.attach(route, parent, own));
        let at = outcome.iter().flatten().map(|it| (gateway.name(), it.listener)).collect();
        Some((accepted(outcome.err()), at))
    }

    fn status_of(
        &self,
        gateway: &Gateway<'a>,
        (own, counts): (&[Listener<'a>], &[usize]),
        facts: &Facts,
    ) -> GatewayStatus {
        let all = own.iter().zip(counts).filter(|(it, _)| it.owner.kind == OwnerKind::Gateway);
        let listeners: Vec<_> =
            all.map(|(it, attached)| self.listener_status(gateway, (it, *attached), facts)).collect();
        let (conditions, addresses) = self.taken_and_reached(gateway, &listeners, facts);
        let mut conditions = Vec::from(conditions);
        conditions.extend(self.shows(gateway, facts));
        conditions.extend(lets_in_anybody(gateway.spec));
        let sets =
            self.listener_sets().filter(|(set, of)| of.name() == gateway.name() && self.takes(of, set));
        GatewayStatus { conditions, listeners, addresses, sets: sets.count() }
    }

    pub(super) fn listener_status(
        &self,
        gateway: &Gateway<'a>,
        (listener, attached): (&Listener<'a>, usize),
        facts: &Facts,
    ) -> ListenerStatus {
        let (accepted, conflicted) = match listener.fault {
            None => (
                Condition::new(ACCEPTED, true, "Accepted", "the listener is served"),
                Condition::new("Conflicted", false, "NoConflicts", "no other listener is in its way"),
            ),
            Some(ListenerFault::UnsupportedProtocol) => (
                Condition::new(
                    ACCEPTED,
                    false,
                    "UnsupportedProtocol",
                    format!("protocol {} is not served here", listener.spec.protocol.as_str()),
                ),
                Condition::new("Conflicted", false, "NoConflicts", "no other listener is in its way"),
            ),
            Some(ListenerFault::ProtocolConflict) => {
                both("ProtocolConflict", "an earlier listener has the port and speaks something else there")
            }
            Some(ListenerFault::HostnameConflict) => {
                both("HostnameConflict", "an earlier listener has the port and the host")
            }
        };
        let clients = self.clients(gateway, listener, facts);
        let accepted = match &clients {
            Err(condition) if accepted.holds => {
                Condition::new(ACCEPTED, false, "NoValidCACertificate", condition.message.clone())
            }
            _ => accepted,
        };
        let certificates = self.certificates(gateway, listener, facts).and(clients);
        let resolved = match &certificates {
            Err(condition) => condition.clone(),
            Ok(()) if listener.has_invalid_kinds => Condition::new(
                RESOLVED,
                false,
                "InvalidRouteKinds",
                "allowedRoutes names kinds that are none, or do not fit the protocol",
            ),
            Ok(()) => Condition::new(RESOLVED, true, "ResolvedRefs", "all that it refers to is there"),
        };
        let programmed = if accepted.holds && certificates.is_ok() {
            Condition::new(PROGRAMMED, true, "Programmed", "gateways are told of it")
        } else {
            Condition::new(PROGRAMMED, false, "Invalid", "it serves nothing, see the other conditions")
        };
        ListenerStatus {
            name: Arc::from(&*listener.spec.name),
            kinds: listener.kinds.clone(),
            attached,
            conditions: vec![accepted, conflicted, resolved, programmed],
        }
    }

    /// Whether a listener has the certificates that it needs.
    fn certificates(
        &self,
        gateway: &Gateway<'a>,
        listener: &Listener<'a>,
        facts: &Facts,
    ) -> Result<(), Condition> {
        let Some(tls) = listener.spec.tls.as_ref().filter(|tls| tls.mode == TlsMode::Terminate) else {
            return Ok(());
        };
        let mut secrets = tls.certificate_refs.iter();
        secrets.try_for_each(|secret| {
            let checked = self.certificate((listener.owner, gateway.name().0), secret, facts);
            checked.map_err(|(fault, message)| {
                let reason = match fault {
                    CertificateFault::InvalidCertificateRef => "InvalidCertificateRef",
                    CertificateFault::RefNotPermitted => NOT_PERMITTED,
                };
                Condition::new(RESOLVED, false, reason, message)
            })
        })
    }

    /// Whether a certificate is there that `owner` names for a Gateway in `namespace`, and may be used.
    fn certificate(
        &self,
        (owner, namespace): (Owner<'_>, &str),
        secret: &SecretRef,
        facts: &Facts,
    ) -> Result<(), (CertificateFault, String)> {
        let of = secret.namespace.as_deref().unwrap_or(owner.name.0);
        let message = match self.credential(owner, namespace, secret) {
            Err(fault @ CertificateFault::RefNotPermitted) => {
                return Err((fault, format!("no ReferenceGrant in {of} permits Secret {}", secret.name)));
            }
            Err(CertificateFault::InvalidCertificateRef) => {
                format!("{} {} is no Secret", secret.kind, secret.name)
            }
            Ok(_) if !facts.has_certificate((of, &secret.name)) => {
                format!("Secret {of}/{} is not there or has no certificate with a key", secret.name)
            }
            Ok(_) => return Ok(()),
        };
        Err((CertificateFault::InvalidCertificateRef, message))
    }

    /// Whether a Gateway can show to servers what it is to show; nothing is said of one that shows nothing.
    fn shows(&self, gateway: &Gateway<'a>, facts: &Facts) -> Option<Condition> {
        let secret = gateway.client_certificate()?;
        let checked = self.certificate((gateway.owner(), gateway.name().0), secret, facts);
        Some(match checked {
            Ok(()) => Condition::new(RESOLVED, true, "ResolvedRefs", "all that it refers to is there"),
            Err((CertificateFault::RefNotPermitted, message)) => {
                Condition::new(RESOLVED, false, NOT_PERMITTED, message)
            }
            Err((CertificateFault::InvalidCertificateRef, message)) => {
                Condition::new(RESOLVED, false, "InvalidClientCertificateRef", message)
            }
        })
    }

    /// Whether the clients of a listener can be checked as its Gateway wants.
    fn clients(
        &self,
        gateway: &Gateway<'a>,
        listener: &Listener<'a>,
        facts: &Facts,
    ) -> Result<(), Condition> {
        let is_https = listener.spec.protocol == api::Protocol::Https;
        let wanted = self.authorities(gateway.name(), gateway.spec, listener.spec.port).filter(|_| is_https);
        let (reason, name) = match wanted {
            None => return Ok(()),
            Some(Err((AuthorityFault::InvalidKind, name))) => ("InvalidCACertificateKind", name.to_owned()),
            Some(Err((AuthorityFault::RefNotPermitted, name))) => (NOT_PERMITTED, name.to_owned()),
            Some(Ok(clients)) => match clients.objects.iter().find(|it| !facts.has_authorities(it)) {
                None => return Ok(()),
                Some(missing) => ("InvalidCACertificateRef", missing.to_string()),
            },
        };
        let message = format!(
            "clients cannot be checked: {name} is no ConfigMap or Secret with ca.crt that may be used"
        );
        Err(Condition::new(RESOLVED, false, reason, message))
    }

    /// Whether everything is there that a route refers to, and may be named.
    pub(super) fn resolved(&self, route: &Route<'a>, facts: &Facts) -> Condition {
        let backends =
            RouteBackends { grants: &self.grants, kind: route.kind(), namespace: route.namespace() };
        let fault = references(route).into_iter().find_map(|reference| match reference {
            Reference::Filter(kind) => {
                Some(("InvalidKind", format!("the mesh has no filter of kind {kind}")))
            }
            Reference::Backend(backend) => fault(backend, &backends, facts),
        });
        match fault {
            Some((reason, message)) => Condition::new(RESOLVED, false, reason, message),
            None => Condition::new(RESOLVED, true, "ResolvedRefs", "all that it refers to is there"),
        }
    }
}

/// Said where clients are let in that prove nothing.
fn lets_in_anybody(spec: &api::GatewaySpec) -> Option<Condition> {
    let frontend = spec.tls.frontend.as_ref()?;
    let all = frontend.per_port.iter().map(|it| &it.tls).chain([&frontend.default]);
    let mut modes = all.filter_map(|it| it.validation.as_ref()).map(|it| it.mode);
    let message = "clients are let in without a valid certificate: whoever is behind has to look";
    let is_insecure = modes.any(|mode| mode == api::CertificateMode::AllowInsecureFallback);
    is_insecure
        .then(|| Condition::new("InsecureFrontendValidationMode", true, "ConfigurationChanged", message))
}

/// Something that a route refers to.
pub(super) enum Reference<'a> {
    Backend(&'a Backend),
    Filter(&'a str),
}

pub(super) fn references<'a>(route: &Route<'a>) -> Vec<Reference<'a>> {
    let mut all = Vec::new();
    match route.spec {
        RouteSpec::Http(spec) => {
            for rule in &spec.rules {
                all.extend(rule.filters.iter().filter_map(of_http));
                for it in &rule.backend_refs {
                    all.push(Reference::Backend(&it.backend));
                    all.extend(it.filters.iter().filter_map(of_http));
                }
            }
        }
        RouteSpec::Grpc(spec) => {
            for rule in &spec.rules {
                all.extend(rule.filters.iter().filter_map(of_grpc));
                for it in &rule.backend_refs {
                    all.push(Reference::Backend(&it.backend));
                    all.extend(it.filters.iter().filter_map(of_grpc));
                }
            }
        }
        RouteSpec::Tls(api::TlsRouteSpec { rules, .. })
        | RouteSpec::Tcp(api::TcpRouteSpec { rules, .. })
        | RouteSpec::Udp(api::UdpRouteSpec { rules, .. }) => {
            all.extend(
                rules.iter().flat_map(|rule| &rule.backend_refs).map(|it| Reference::Backend(&it.backend)),
            );
        }
    }
    all
}

fn of_http(filter: &HttpFilter) -> Option<Reference<'_>> {
    match filter {
        HttpFilter::RequestMirror(mirror) => Some(Reference::Backend(&mirror.backend)),
        HttpFilter::ExtensionRef(it) => Some(Reference::Filter(&it.kind)),
        HttpFilter::ExternalAuth(_) => Some(Reference::Filter("ExternalAuth")),
        _ => None,
    }
}

fn of_grpc(filter: &GrpcFilter) -> Option<Reference<'_>> {
    match filter {
        GrpcFilter::RequestMirror(mirror) => Some(Reference::Backend(&mirror.backend)),
        GrpcFilter::ExtensionRef(it) => Some(Reference::Filter(&it.kind)),
        _ => None,
    }
}

fn fault(backend: &Backend, backends: &RouteBackends<'_>, facts: &Facts) -> Option<(&'static str, String)> {
    let namespace = backend.namespace.as_deref().unwrap_or(backends.namespace);
    let shown = format!("{} {namespace}/{}", backend.kind, backend.name);
    match backends.resolve(backend) {
        Err(BackendFault::InvalidKind) => {
            Some(("InvalidKind", format!("{shown} is nothing that can be sent to")))
        }
        Err(BackendFault::RefNotPermitted) => {
            Some((NOT_PERMITTED, format!("no ReferenceGrant in {namespace} permits {shown}")))
        }
        Ok(_) if !backend.is_service() => {
            let is_known = facts.has_host(&backend.name);
            (!is_known).then(|| ("BackendNotFound", format!("no ServiceEntry has the host {}", backend.name)))
        }
        Ok(_) => {
            let Some(service) = facts.service((namespace, &backend.name)) else {
                return Some(("BackendNotFound", format!("{shown} is not there")));
            };
            let (ports, protocol) = match backends.kind {
                RouteKind::Udp => (&service.udp_ports, "UDP "),
                _ => (&service.ports, ""),
            };
            let port = backend.port.map(Port::get).filter(|port| !ports.contains(port))?;
            Some(("BackendNotFound", format!("{shown} has no {protocol}port {port}")))
        }
    }
}

fn accepted(rejected: Option<Rejected>) -> Condition {
    let (reason, message) = match rejected {
        None => return Condition::new(ACCEPTED, true, "Accepted", "the route is attached"),
        Some(Rejected::NoMatchingParent) => {
            ("NoMatchingParent", "the parent has no listener of this name and port")
        }
        Some(Rejected::NotAllowedByListeners) => {
            ("NotAllowedByListeners", "no listener lets in routes of this kind and namespace")
        }
        Some(Rejected::NoMatchingListenerHostname) => {
            ("NoMatchingListenerHostname", "no listener is for any of its hosts")
        }
        Some(Rejected::HostnameConflict) => (
            "HostnameConflict",
            "an HTTPRoute and a GRPCRoute for the same host cannot both be served on a listener: the other is older",
        ),
        Some(Rejected::UnsupportedValue) => (UNSUPPORTED_VALUE, ALL_FAULTY),
    };
    Condition::new(ACCEPTED, false, reason, message)
}

/// Said of a route of which some rules are left out and others are not.
fn partially_invalid(route: &Route<'_>) -> Option<Condition> {
    let (faults, all) = route.faults();
    if faults.is_empty() || faults.len() == all {
        return None;
    }
    let rules: Vec<_> = faults.iter().map(|(number, why)| format!("rules[{number}]: {why}")).collect();
    let message = format!("Dropped Rule {}", rules.join("; "));
    Some(Condition::new("PartiallyInvalid", true, UNSUPPORTED_VALUE, message))
}

/// Whether clients in the mesh follow a route.
fn at_service(route: &Route<'_>, parent: &ParentRef, facts: &Facts) -> Condition {
    let namespace = parent.namespace.as_deref().unwrap_or(route.namespace());
    let refuse = |message: String| Condition::new(ACCEPTED, false, "NoMatchingParent", message);
    if route.kind() == RouteKind::Udp {
        return refuse("clients in the mesh do not follow UDPRoutes: name a Gateway".to_owned());
    }
    let Some(service) = facts.service((namespace, &parent.name)) else {
        return refuse(format!("there is no Service {namespace}/{}", parent.name));
    };
    match parent.port.map(Port::get).filter(|port| !service.ports.contains(port)) {
        None if route.is_all_faulty() => Condition::new(ACCEPTED, false, UNSUPPORTED_VALUE, ALL_FAULTY),
        Some(port) => refuse(format!("Service {namespace}/{} has no port {port}", parent.name)),
        None => Condition::new(ACCEPTED, true, "Accepted", "clients in the mesh follow the route"),
    }
}

fn both(reason: &'static str, message: &str) -> (Condition, Condition) {
    (Condition::new(ACCEPTED, false, reason, message), Condition::new("Conflicted", true, reason, message))
}

pub(super) const ACCEPTED: &str = "Accepted";
pub(super) const PROGRAMMED: &str = "Programmed";
pub(super) const RESOLVED: &str = "ResolvedRefs";
const UNSUPPORTED_VALUE: &str = "UnsupportedValue";
const ALL_FAULTY: &str = "none of its rules can be used: see the warnings about its expressions";
const NOT_PERMITTED: &str = "RefNotPermitted";
pub(super) const LISTENERS_INVALID: &str = "ListenersNotValid";
