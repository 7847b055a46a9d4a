//! Istio's Gateways against the pods and Services behind them, and against each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::index::{Index, by_age};
use super::workloads::{Labels, selects, show};
use super::{Code, Message};
use crate::resource::networking::GatewaySpec;
use crate::resource::networking::gateway::{Certificates, ServerTls};
use crate::resource::value::{Bind, Host, NamespaceScope, ScopedHost};
use crate::resource::{Object, quote};

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    let mut ports = HashMap::new();
    for (object, gateway) in index.gateways() {
        let selector = show(&gateway.selector);
        let ports = ports.entry(selector).or_insert_with(|| Behind::of(index, &gateway.selector));
        behind(index, object, gateway, ports, messages);
    }
    let mut gateways: Vec<_> = index.gateways().collect();
    by_age(&mut gateways);
    same_certificate(&gateways, messages);
    same_host(&gateways, messages);
}

/// What a Gateway's selector selects.
enum Behind {
    Nothing,
    /// Pods that no Service selects, or that are not among the objects.
    Pods,
    /// Pods, and the ports of the Services that select them.
    Services(BTreeSet<u16>),
}

impl Behind {
    fn of(index: &Index<'_>, selector: &Labels) -> Self {
        let mut ports = BTreeSet::new();
        let (mut has_pods, mut has_services) = (false, false);
        for workload in index.workloads.select(None, selector) {
            has_pods = true;
            for service in index.backing.services(workload.namespace, &workload.labels) {
                has_services = true;
                let tcp =
                    service.ports.iter().filter(|port| port.protocol.as_deref().is_none_or(|it| it == "TCP"));
                ports.extend(tcp.filter_map(|port| u16::try_from(port.port).ok()));
            }
        }
        if has_services {
            return Self::Services(ports);
        }
        let is_installed = INSTALLED.iter().any(|labels| {
            let labels: Labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
            selects(selector, &labels)
        });
        if has_pods || is_installed { Self::Pods } else { Self::Nothing }
    }
}

fn behind(
    index: &Index<'_>,
    object: &Object,
    gateway: &GatewaySpec,
    behind: &Behind,
    messages: &mut Vec<Message>,
) {
    let selector = quote(&show(&gateway.selector));
    match behind {
        Behind::Pods => {}
        Behind::Nothing if gateway.selector.is_empty() || index.has_unknown_workloads() => {}
        Behind::Nothing => {
            let reason = format!("no workload has the labels {selector}");
            messages.push(Message::new(Code::ReferencedResourceNotFound, object, "spec.selector", reason));
        }
        Behind::Services(ports) => {
            for (at, server) in gateway.servers.iter().enumerate() {
                let number = server.port.number;
                if number > 0 && !ports.contains(&number) {
                    let code = Code::GatewayPortNotDefinedOnService;
                    let reason = format!("no Service of the pods {selector} has port {number}");
                    let field = format_args!("spec.servers[{at}].port.number");
                    let message = Message::new(code, object, field, reason);
                    messages.push(
                        message.hint("add it to the Service, or clients only get to the pods themselves"),
                    );
                }
            }
        }
    }
}

/// A browser that has a connection to one host uses it for others of the same certificate, which another Gateway serves.
fn same_certificate(gateways: &[(&Object, &GatewaySpec)], messages: &mut Vec<Message>) {
    let mut first: HashMap<String, Vec<(&Labels, &Object)>> = HashMap::new();
    for (object, gateway) in gateways {
        let mut is_told = false;
        for (at, server) in gateway.servers.iter().enumerate() {
            for certificate in server.tls.iter().flat_map(certificates) {
                let users = first.entry(certificate.clone()).or_default();
                let shares = |labels: &Labels| {
                    selects(labels, &gateway.selector) || selects(&gateway.selector, labels)
                };
                let other = users.iter().find(|(labels, user)| shares(labels) && user.key() != object.key());
                if let Some((_, other)) = other.filter(|_| !is_told) {
                    is_told = true;
                    let reason = format!("{} has the same certificate, {}", other.key(), quote(&certificate));
                    let field = format_args!("spec.servers[{at}].tls");
                    let message = Message::new(Code::GatewayDuplicateCertificate, object, field, reason);
                    messages.push(message.hint(
                        "HTTP/2 clients share connections between their hosts and get 404: use one Gateway",
                    ));
                }
                let is_known = users
                    .iter()
                    .any(|(labels, user)| **labels == gateway.selector || user.key() == object.key());
                if !is_known && users.len() < SELECTORS {
                    users.push((&gateway.selector, object));
                }
            }
        }
    }
}

/// Names of the certificates that a server presents.
fn certificates(tls: &ServerTls) -> Vec<String> {
    match tls.certificates() {
        Certificates::None => Vec::new(),
        Certificates::Secret(name) => vec![name.to_owned()],
        Certificates::Secrets(names) => names.to_vec(),
        Certificates::Files(certificate, _) => vec![certificate.to_owned()],
        Certificates::FilePairs(pairs) => pairs.iter().map(|pair| pair.server_certificate.clone()).collect(),
    }
}

/// Gateways that claim a host of the same pods and port.
fn same_host(gateways: &[(&Object, &GatewaySpec)], messages: &mut Vec<Message>) {
    let mut listeners: BTreeMap<(String, u16, Option<&Bind>), Claims<'_>> = BTreeMap::new();
    for (object, gateway) in gateways {
        let selector = show(&gateway.selector);
        for (at, server) in gateway.servers.iter().enumerate() {
            let key = (selector.clone(), server.port.number, server.bind.as_ref());
            let claims = listeners.entry(key).or_default();
            let other = server.hosts.iter().find_map(|host| Some((host, claims.owner(host, object)?)));
            if let Some((host, other)) = other {
                let port = server.port.number;
                let reason = format!(
                    "{} serves {} or a part of it on port {port} of the same pods",
                    other.key(),
                    quote(&host.host.to_string())
                );
                let field = format_args!("spec.servers[{at}].hosts");
                let message = Message::new(Code::ConflictingGateways, object, field, reason);
                messages.push(message.hint("give them different hosts, or make one Gateway of them"));
            }
            for host in &server.hosts {
                claims.insert(host, object);
            }
        }
    }
}

/// Which Gateway has claimed a host of one listener first.
#[derive(Default)]
struct Claims<'a> {
    exact: HashMap<Scoped, &'a Object>,
    /// By a wildcard that would cover what was claimed.
    below: HashMap<Scoped, &'a Object>,
}

/// A host, and the namespace whose routes may use it; none for all.
type Scoped = (Option<String>, String);

impl<'a> Claims<'a> {
    fn insert(&mut self, host: &ScopedHost, object: &'a Object) {
        let namespace = namespace(host, object);
        self.exact.entry((namespace.clone(), host.host.to_string())).or_insert(object);
        for wildcard in wildcards(&host.host) {
            self.below.entry((namespace.clone(), wildcard)).or_insert(object);
        }
    }

    /// Another Gateway that has claimed it, or something that it covers or that covers it.
    fn owner(&self, host: &ScopedHost, object: &Object) -> Option<&'a Object> {
        let scope = namespace(host, object);
        let covering = wildcards(&host.host).into_iter().map(|wildcard| (scope.clone(), wildcard));
        let same = (scope.clone(), host.host.to_string());
        let below = self.below.get(&same);
        let mut owners = [same].into_iter().chain(covering).filter_map(|it| self.exact.get(&it)).chain(below);
        owners.find(|owner| owner.key() != object.key()).copied()
    }
}

fn namespace(host: &ScopedHost, object: &Object) -> Option<String> {
    match &host.namespace {
        NamespaceScope::All => None,
        NamespaceScope::Own => Some(object.meta.namespace.to_string()),
        NamespaceScope::Named(name) => Some(name.to_string()),
    }
}

/// The wildcards that cover a host and are not it.
fn wildcards(host: &Host) -> Vec<String> {
    let text = match host {
        Host::Any => return Vec::new(),
        Host::Suffix(suffix) => suffix.get(1..).unwrap_or_default(),
        Host::Name(name) => name,
        Host::Address(_) => return vec!["*".to_owned()],
    };
    let endings = text.match_indices('.').filter_map(|(dot, _)| text.get(dot..));
    endings.map(|ending| format!("*{ending}")).chain(["*".to_owned()]).collect()
}

/// Labels of the gateways that an installation of Istio brings, which no user's files hold.
const INSTALLED: [&[(&str, &str)]; 2] = [
    &[("app", "istio-ingressgateway"), ("istio", "ingressgateway")],
    &[("app", "istio-egressgateway"), ("istio", "egressgateway")],
];

/// Different selectors that a certificate is looked for under; more would cost time that grows with their square.
const SELECTORS: usize = 64;
