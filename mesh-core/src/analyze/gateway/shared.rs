//! Gateways on the same pods that present the same certificate or serve the same host.

use std::collections::HashMap;

use crate::analyze::conflict::{Claim, Conflicts};
use crate::analyze::index::{Index, by_age};
use crate::analyze::workloads::{Labels, selects};
use crate::analyze::{Code, Message};
use crate::resource::networking::GatewaySpec;
use crate::resource::networking::gateway::{Certificates, ServerTls};
use crate::resource::value::{Bind, Host, NamespaceScope, ScopedHost};
use crate::resource::{Object, quote};

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    let mut gateways: Vec<_> = index.gateways().collect();
    by_age(&mut gateways);
    certificates(&gateways, messages);
    hosts(&gateways, messages);
}

/// What is kept for each of the selectors that gateways have. Gateways share pods if the selector of one selects all
/// that the other's does; whether two that say different things meet at a pod is left open.
struct BySelector<'a, T>(Vec<(&'a Labels, T)>);

impl<T> Default for BySelector<'_, T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'a, T: Default> BySelector<'a, T> {
    /// Those that share pods with `selector`.
    fn sharing(&self, selector: &Labels) -> impl Iterator<Item = &T> {
        let shares = move |labels: &Labels| selects(labels, selector) || selects(selector, labels);
        self.0.iter().filter(move |(labels, _)| shares(labels)).map(|(_, kept)| kept)
    }

    /// What is kept for exactly `selector`; none where there are too many.
    fn of(&mut self, selector: &'a Labels) -> Option<&mut T> {
        if !self.0.iter().any(|(labels, _)| *labels == selector) {
            if self.0.len() >= SELECTORS {
                return None;
            }
            self.0.push((selector, T::default()));
        }
        self.0.iter_mut().find(|(labels, _)| *labels == selector).map(|(_, kept)| kept)
    }
}

/// A client that has a connection to one host uses it for others of the same certificate, which another Gateway serves.
fn certificates(gateways: &[(&Object, &GatewaySpec)], messages: &mut Vec<Message>) {
    let hint = "HTTP/2 clients share connections between their hosts and get 404: use one Gateway";
    let mut conflicts = Conflicts::new(Code::GatewayDuplicateCertificate, hint, messages);
    let mut users: HashMap<String, BySelector<'_, Option<Claim<'_>>>> = HashMap::new();
    for (object, gateway) in gateways {
        for (at, server) in gateway.servers.iter().enumerate() {
            for name in server.tls.iter().flat_map(names) {
                let users = users.entry(name.clone()).or_default();
                let claim = Claim { object, field: format!("spec.servers[{at}].tls") };
                let other = users.sharing(&gateway.selector).flatten().find(|other| !other.is_of(object));
                if let Some(other) = other {
                    let reason = |other: &_| format!("{other} has the same certificate, {}", quote(&name));
                    conflicts.tell([&claim, other], reason);
                }
                if let Some(first) = users.of(&gateway.selector) {
                    first.get_or_insert(claim);
                }
            }
        }
    }
}

/// Names of the certificates that a server presents.
fn names(tls: &ServerTls) -> Vec<String> {
    match tls.certificates() {
        Certificates::None => Vec::new(),
        Certificates::Secret(name) => vec![name.to_owned()],
        Certificates::Secrets(names) => names.to_vec(),
        Certificates::Files(certificate, _) => vec![certificate.to_owned()],
        Certificates::FilePairs(pairs) => pairs.iter().map(|pair| pair.server_certificate.clone()).collect(),
    }
}

/// Of a host that two Gateways claim on one port, one gets the requests.
fn hosts(gateways: &[(&Object, &GatewaySpec)], messages: &mut Vec<Message>) {
    let hint = "give them different hosts, or make one Gateway of them";
    let mut conflicts = Conflicts::new(Code::ConflictingGateways, hint, messages);
    let mut listeners: HashMap<(u16, Option<&Bind>), BySelector<'_, Served<'_>>> = HashMap::new();
    for (object, gateway) in gateways {
        for (at, server) in gateway.servers.iter().enumerate() {
            let port = server.port.number;
            let listener = listeners.entry((port, server.bind.as_ref())).or_default();
            let claim = Claim { object, field: format!("spec.servers[{at}].hosts") };
            let other = listener.sharing(&gateway.selector).find_map(|served| {
                server.hosts.iter().find_map(|host| Some((host, served.other(host, object)?)))
            });
            if let Some((host, other)) = other {
                let host = quote(&host.host.to_string());
                let reason = |other: &_| {
                    format!("{other} has port {port} of the same pods, and hosts that meet {host}")
                };
                conflicts.tell([&claim, other], reason);
            }
            if let Some(served) = listener.of(&gateway.selector) {
                server.hosts.iter().for_each(|host| served.insert(host, &claim));
            }
        }
    }
}

/// Which Gateway serves a host of one listener first.
#[derive(Default)]
struct Served<'a> {
    exact: HashMap<Scoped, Claim<'a>>,
    /// By a wildcard that would cover what is served.
    below: HashMap<Scoped, Claim<'a>>,
}

/// A host, and the namespace whose routes may use it; none for all.
type Scoped = (Option<String>, String);

impl<'a> Served<'a> {
    fn insert(&mut self, host: &ScopedHost, claim: &Claim<'a>) {
        let namespace = namespace(host, claim.object);
        self.exact.entry((namespace.clone(), host.host.to_string())).or_insert_with(|| claim.clone());
        for wildcard in wildcards(&host.host) {
            self.below.entry((namespace.clone(), wildcard)).or_insert_with(|| claim.clone());
        }
    }

    /// Another Gateway that serves it, or something that it covers or that covers it.
    fn other(&self, host: &ScopedHost, object: &Object) -> Option<&Claim<'a>> {
        let scope = namespace(host, object);
        let covering = wildcards(&host.host).into_iter().map(|wildcard| (scope.clone(), wildcard));
        let same = (scope.clone(), host.host.to_string());
        let below = self.below.get(&same);
        let mut claims = [same].into_iter().chain(covering).filter_map(|it| self.exact.get(&it)).chain(below);
        claims.find(|claim| !claim.is_of(object))
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

/// Different selectors that are compared with each other; more would cost time that grows with their square.
const SELECTORS: usize = 64;
