//! What the process of a Gateway listens to, and the rules there.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::contest::Contest;
use super::refs::{CertificateFault, RouteBackends};
use super::{Gateway, Listener, OwnerKind, Resources, Route, RouteSpec};
use crate::own::Own;
use crate::resource::gateway_api::{self as api, AddressKind, L4Rule, TlsMode};
use crate::resource::networking::gateway::{ServerTls, ServerTlsMode};
use crate::resource::value::{Host, NamespaceScope, Protocol, ScopedHost};
use crate::route::{
    ApiRules, Attached, Backends, Forward, GatewayListener, GatewayServer, HeaderOps, ListenerProtocol,
    ResourceName, RouteTable, Scope, StreamRoute, StreamTable, Weighted,
};

/// What a process listens to because of Gateways.
#[derive(Debug, Default)]
pub struct Served {
    /// One for each port.
    pub listeners: Vec<GatewayListener>,
    /// What there is to say, one line each.
    pub findings: Vec<String>,
}

/// What `own` listens to: it is the process of the Gateway of its name, of the one that its pod is labelled with, and
/// of those of its namespace that ask for the address of its Service. `target_port` knows the port of the pod that a
/// port of its Service leads to.
pub fn serve(resources: &Resources<'_>, own: &Own) -> Served {
    let mut served = Served::default();
    for gateway in resources.gateways().filter(|gateway| is_served_by(gateway, own)) {
        let gateway = AtGateway::new(resources, gateway);
        gateway.serve(own, &mut served);
    }
    served
}

/// The name of the Secret that `own` shows to servers which a BackendTLSPolicy is about; of several Gateways that it is the
/// process of, the first by name that has one says it. A Secret that the Gateway may not use is none that `own` is told of.
pub fn client_certificate(resources: &Resources<'_>, own: &Own) -> Option<String> {
    let mut gateways = resources.gateways().filter(|gateway| is_served_by(gateway, own));
    gateways.find_map(|gateway| {
        let secret = gateway.client_certificate()?;
        let known = resources.credential(gateway.owner(), gateway.name().0, secret);
        Some(known.unwrap_or_else(|_| format!("{} (not permitted)", secret.name)))
    })
}

fn is_served_by(gateway: &Gateway<'_>, own: &Own) -> bool {
    let (namespace, name) = gateway.name();
    if namespace != &*own.namespace {
        return false;
    }
    let service = |address: &api::GatewayAddress| {
        let (first, rest) = address.value.split_once('.').unwrap_or((&address.value, ""));
        let is_here = rest.is_empty() || rest == namespace || rest.starts_with(&format!("{namespace}.svc"));
        address.kind == AddressKind::Hostname && first == &*own.name && is_here
    };
    let mut addresses = gateway.spec.addresses.iter();
    *own.name == *name
        || own.labels.get(GATEWAY_NAME).is_some_and(|label| label == name)
        || addresses.any(service)
}

/// The rules about requests of the routes at a listener, and the hosts that each is for.
type AtListener<'h> = Vec<(ApiRules, &'h [Host])>;

/// A Gateway, and what is attached to it.
struct AtGateway<'r, 'a> {
    resources: &'r Resources<'a>,
    gateway: &'r Gateway<'a>,
    name: Arc<ResourceName>,
    listeners: Vec<Listener<'a>>,
    /// For each listener the routes there, the oldest first, and the hosts.
    attached: Vec<Vec<(&'r Route<'a>, Vec<Host>)>>,
}

impl<'r, 'a> AtGateway<'r, 'a> {
    fn new(resources: &'r Resources<'a>, gateway: &'r Gateway<'a>) -> Self {
        let meta = &gateway.object.meta;
        let name = ResourceName { namespace: Arc::clone(&meta.namespace), name: Arc::clone(&meta.name) };
        let listeners = resources.listeners(gateway);
        let mut attached: Vec<Vec<(&Route<'_>, Vec<Host>)>> = listeners.iter().map(|_| Vec::new()).collect();
        let mut contest = Contest::default();
        for route in resources.routes() {
            let own = |parent: &&api::ParentRef| {
                resources.gateway_of(route, parent).is_some_and(|it| it.name() == gateway.name())
            };
            let parents = route.parents().iter().filter(own);
            let at = parents.filter_map(|it| {
                contest.settle(route, gateway.name(), resources.attach(route, it, &listeners)).ok()
            });
            for at in at.flatten() {
                let Some(routes) = attached.get_mut(at.listener) else { continue };
                match routes.last_mut().filter(|(last, _)| std::ptr::eq(*last, route)) {
                    Some((_, hosts)) => hosts.extend(at.hosts),
                    None => routes.push((route, at.hosts)),
                }
            }
        }
        Self { resources, gateway, name: Arc::new(name), listeners, attached }
    }

    fn serve(&self, own: &Own, served: &mut Served) {
        let mut by_port: BTreeMap<(u16, bool), Vec<usize>> = BTreeMap::new();
        for (number, listener) in self.listeners.iter().enumerate() {
            if let Some(fault) = listener.fault {
                served.findings.push(format!("{} is left out: {fault:?}", self.named(listener)));
                continue;
            }
            let is_udp = listener.spec.protocol == api::Protocol::Udp;
            by_port.entry((listener.spec.port.get(), is_udp)).or_default().push(number);
        }
        let rules: Vec<AtListener<'_>> = (0..self.listeners.len()).map(|at| self.rules(at)).collect();
        for ((port, is_udp), numbers) in by_port {
            let target = if is_udp { own.udp_target_port(port) } else { own.target_port(port) };
            let same = |it: &GatewayListener| it.port == target && it.protocol.is_udp() == is_udp;
            if served.listeners.iter().any(same) {
                served.findings.push(format!("Gateway {}: port {target} is served already", self.name));
                continue;
            }
            served.listeners.extend(self.port(target, &numbers, (&rules, &mut served.findings)));
        }
    }

    /// One port and all its listeners.
    fn port(
        &self,
        target: u16,
        numbers: &[usize],
        (rules, findings): (&[AtListener<'_>], &mut Vec<String>),
    ) -> Option<GatewayListener> {
        let all = || numbers.iter().filter_map(|at| Some((*at, self.listeners.get(*at)?)));
        let scope = |at: usize, listener: &Listener<'_>| Scope {
            host: listener.host(),
            routes: rules
                .get(at)
                .into_iter()
                .flatten()
                .map(|(rules, hosts)| Attached { hosts: hosts.to_vec(), rules })
                .collect(),
        };
        let (_, first) = all().next()?;
        let (mut servers, mut table) = (Vec::new(), RouteTable::default());
        let protocol = match first.spec.protocol {
            api::Protocol::Http => {
                let scopes: Vec<_> = all().map(|(at, listener)| scope(at, listener)).collect();
                table = RouteTable::for_scopes(&scopes, &[]);
                servers.extend(all().map(|(_, listener)| self.server(listener, None)));
                ListenerProtocol::Http
            }
            api::Protocol::Https | api::Protocol::Tls => {
                let hosts: Vec<(usize, Host)> = all()
                    .filter(|(_, it)| it.spec.protocol == api::Protocol::Https)
                    .map(|(at, it)| (at, it.host()))
                    .collect();
                for (at, listener) in all() {
                    let Some(tls) = self.tls(listener, findings) else { continue };
                    let mut server = self.server(listener, Some(tls));
                    if listener.spec.protocol == api::Protocol::Https {
                        let elsewhere: Vec<&Host> =
                            hosts.iter().filter(|(other, _)| *other != at).map(|(_, host)| host).collect();
                        server.table = Some(RouteTable::for_scopes(&[scope(at, listener)], &elsewhere));
                    } else {
                        server.streams = Some(self.streams(at));
                    }
                    servers.push(server);
                }
                ListenerProtocol::Tls
            }
            _ => {
                let (at, listener) = all().next()?;
                let mut server = self.server(listener, None);
                server.streams = Some(self.streams(at));
                servers.push(server);
                if first.spec.protocol == api::Protocol::Udp {
                    ListenerProtocol::Udp
                } else {
                    ListenerProtocol::Tcp
                }
            }
        };
        (!servers.is_empty()).then(|| GatewayListener::of_servers(target, protocol, servers, table))
    }

    fn server(&self, listener: &Listener<'_>, tls: Option<ServerTls>) -> GatewayServer {
        GatewayServer {
            gateway: Arc::clone(&self.name),
            name: unique_name(listener),
            port: listener.spec.port.get(),
            port_name: unique_name(listener),
            protocol: match listener.spec.protocol {
                api::Protocol::Http => Protocol::Http,
                api::Protocol::Https => Protocol::Https,
                api::Protocol::Tls => Protocol::Tls,
                api::Protocol::Udp => Protocol::Udp,
                _ => Protocol::Tcp,
            },
            hosts: vec![ScopedHost { namespace: NamespaceScope::All, host: listener.host() }],
            tls,
            https_redirect: false,
            table: None,
            streams: None,
        }
    }

    /// How a listener does TLS; `None` if it has no certificate that it may use.
    fn tls(&self, listener: &Listener<'_>, findings: &mut Vec<String>) -> Option<ServerTls> {
        let spec = listener.spec.tls.as_ref()?;
        if spec.mode == TlsMode::Passthrough {
            return Some(ServerTls { mode: ServerTlsMode::Passthrough, ..ServerTls::default() });
        }
        let mut names = Vec::new();
        for secret in &spec.certificate_refs {
            match self.resources.credential(listener.owner, self.gateway.name().0, secret) {
                Ok(name) => names.push(name),
                Err(fault) => {
                    let why = match fault {
                        CertificateFault::InvalidCertificateRef => "is no Secret",
                        CertificateFault::RefNotPermitted => "is of a namespace that has not permitted it",
                    };
                    findings.push(format!("{}: certificate {} {why}", self.named(listener), secret.name));
                }
            }
        }
        if names.is_empty() {
            return None;
        }
        let tls = ServerTls { mode: ServerTlsMode::Simple, credential_names: names, ..ServerTls::default() };
        self.with_clients(listener, tls, findings)
    }

    /// What clients have to show besides; `None` if that cannot be checked.
    fn with_clients(
        &self,
        listener: &Listener<'_>,
        tls: ServerTls,
        findings: &mut Vec<String>,
    ) -> Option<ServerTls> {
        let of = || self.named(listener);
        let wanted = listener.spec.tls.as_ref().and_then(|tls| tls.options.get(MODE_OPTION));
        let asks = match wanted.map(String::as_str) {
            None | Some("SIMPLE") => None,
            Some("MUTUAL") => Some(ServerTls { mode: ServerTlsMode::Mutual, ..tls.clone() }),
            Some(other) => {
                findings.push(format!("{}: {MODE_OPTION}: {other} is not supported, it is not served", of()));
                return None;
            }
        };
        let is_https = listener.spec.protocol == api::Protocol::Https;
        let authorities =
            self.resources.authorities(self.gateway.name(), self.gateway.spec, listener.spec.port);
        match authorities.filter(|_| is_https) {
            None => Some(asks.unwrap_or(tls)),
            Some(Err((fault, name))) => {
                findings.push(format!("{}: clients cannot be checked, {name}: {fault:?}", of()));
                None
            }
            Some(Ok(clients)) => {
                let optional = clients.is_optional;
                let mode = if optional { ServerTlsMode::OptionalMutual } else { ServerTlsMode::Mutual };
                let insecure_skip_verify = optional.then_some(true);
                Some(ServerTls { mode, ca_cert_credential_name: clients.name, insecure_skip_verify, ..tls })
            }
        }
    }

    /// What findings call a listener.
    fn named(&self, listener: &Listener<'_>) -> String {
        format!("Gateway {}: listener {}", self.name, unique_name(listener))
    }

    /// The rules about requests of the routes at a listener.
    fn rules(&self, at: usize) -> AtListener<'_> {
        let routes = self.attached.get(at).into_iter().flatten();
        let compiled = routes.filter_map(|(route, hosts)| {
            let place = (route.name(), route.object.meta.creation_timestamp);
            let backends = self.backends(route);
            let rules = match route.spec {
                RouteSpec::Http(spec) => ApiRules::of_http(place, spec, &backends),
                RouteSpec::Grpc(spec) => ApiRules::of_grpc(place, spec, &backends),
                RouteSpec::Tls(_) | RouteSpec::Tcp(_) | RouteSpec::Udp(_) => return None,
            };
            Some((rules, hosts.as_slice()))
        });
        compiled.collect()
    }

    /// The rules about connections of the routes at a listener: those by name first, the oldest of equals.
    fn streams(&self, at: usize) -> StreamTable {
        let (mut named, mut others) = (Vec::new(), Vec::new());
        for (route, hosts) in self.attached.get(at).into_iter().flatten() {
            let backends = self.backends(route);
            match route.spec {
                RouteSpec::Tls(spec) => {
                    let Some(to) = stream(route, spec.rules.first(), &backends) else { continue };
                    named.extend(hosts.iter().map(|host| (host.clone(), Arc::clone(&to))));
                }
                RouteSpec::Tcp(spec) => others.extend(stream(route, spec.rules.first(), &backends)),
                RouteSpec::Udp(spec) => others.extend(stream(route, spec.rules.first(), &backends)),
                RouteSpec::Http(_) | RouteSpec::Grpc(_) => {}
            }
        }
        StreamTable::of_routes(named, others)
    }

    fn backends<'s>(&'s self, route: &'s Route<'a>) -> RouteBackends<'s> {
        RouteBackends { grants: &self.resources.grants, kind: route.kind(), namespace: route.namespace() }
    }
}

/// The name of a listener: its own, after those of its ListenerSet if it has one.
fn unique_name(listener: &Listener<'_>) -> Arc<str> {
    let (namespace, set) = listener.owner.name;
    match listener.owner.kind {
        OwnerKind::Gateway => Arc::from(&*listener.spec.name),
        OwnerKind::ListenerSet => format!("{namespace}/{set}/{}", listener.spec.name).into(),
    }
}

/// Where connections go. A backend that may not be named takes its share, and its connections end. `None` for a rule that
/// leads nowhere.
pub(super) fn stream(
    route: &Route<'_>,
    rule: Option<&L4Rule>,
    backends: &dyn Backends,
) -> Option<Arc<StreamRoute>> {
    let shares = rule?.backend_refs.iter().filter(|it| it.weight.get() > 0).map(|it| Weighted {
        to: backends.find(&it.backend).unwrap_or_else(crate::route::none_such),
        weight: it.weight.get(),
        headers: HeaderOps::default(),
        host: None,
    });
    let forward = Forward::to(shares.collect())?;
    Some(Arc::new(StreamRoute { virtual_service: route.name(), forward }))
}

/// The option of a listener by which Istio's users ask for certificates of clients, whose authorities are in its Secret.
const MODE_OPTION: &str = "gateway.istio.io/tls-terminate-mode";
/// What the pods of a Gateway have its name in.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
