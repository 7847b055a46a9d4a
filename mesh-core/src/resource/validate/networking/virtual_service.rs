//! VirtualService.

use std::collections::{BTreeSet, HashSet};

use super::super::super::networking::virtual_service::{HttpRoute, VirtualServiceSpec};
use super::super::super::tree::{Path, quote};
use super::super::super::value::{GatewayName, HeaderKey, Host, StringMatch};
use super::{Meta, Report, export_to};

mod action;
mod l4;
mod matches;
mod traffic;
mod unreachable;

pub(in crate::resource::validate) fn virtual_service(
    spec: &VirtualServiceSpec,
    meta: &Meta,
    report: &mut Report<'_>,
) {
    let root = Path::Root("spec");
    if spec.is_delegate() {
        let parts = [
            ("gateways", spec.gateways.is_empty()),
            ("tls", spec.tls.is_empty()),
            ("tcp", spec.tcp.is_empty()),
        ];
        for (name, _) in parts.into_iter().filter(|(_, is_empty)| !is_empty) {
            let hint = "add spec.hosts, or remove it if another VirtualService delegates to this one";
            report.error_with(root.key(name), "is not for a VirtualService without hosts", hint);
        }
    }
    gateways(root.key("gateways"), &spec.gateways, report);
    hosts(spec, report);
    if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
        report.error(root, "one of http, tls and tcp is required");
    }
    let whole = Whole::of(spec);
    let http = root.key("http");
    for (index, route) in spec.http.iter().enumerate() {
        http_route(http.at(index), route, &whole, report);
    }
    let tls = root.key("tls");
    for (index, route) in spec.tls.iter().enumerate() {
        l4::tls_route(tls.at(index), route, &whole, report);
    }
    let tcp = root.key("tcp");
    for (index, route) in spec.tcp.iter().enumerate() {
        l4::tcp_route(tcp.at(index), route, report);
    }
    export_to(&spec.export_to, meta, report);
    never_used(spec, report);
}

/// Rules that earlier rules leave nothing to.
pub(in crate::resource::validate) fn never_used(spec: &VirtualServiceSpec, report: &mut Report<'_>) {
    let root = Path::Root("spec");
    unreachable::http(root.key("http"), &spec.http, report);
    unreachable::tls(root.key("tls"), &spec.tls, report);
    unreachable::tcp(root.key("tcp"), &spec.tcp, report);
}

/// What rules need to know of the VirtualService they are in, found once for all of them.
struct Whole<'s> {
    is_for_mesh: bool,
    is_delegate: bool,
    any: bool,
    names: HashSet<&'s str>,
    /// What follows the star of its wildcards.
    suffixes: HashSet<&'s str>,
    /// Their lengths, which spares looking for others.
    lengths: BTreeSet<usize>,
}

impl<'s> Whole<'s> {
    fn of(spec: &'s VirtualServiceSpec) -> Self {
        let mut whole = Self {
            is_for_mesh: spec.applies_to_mesh(),
            is_delegate: spec.is_delegate(),
            any: spec.hosts.contains(&Host::Any),
            names: HashSet::new(),
            suffixes: HashSet::new(),
            lengths: BTreeSet::new(),
        };
        for host in &spec.hosts {
            match host {
                Host::Name(name) => _ = whole.names.insert(name),
                Host::Suffix(suffix) => {
                    whole.suffixes.insert(suffix);
                    whole.lengths.insert(suffix.len());
                }
                Host::Any | Host::Address(_) => {}
            }
        }
        whole
    }

    /// Whether one of the hosts covers `host`.
    fn covers(&self, host: &Host) -> bool {
        let (text, same) = match host {
            Host::Name(name) => (&**name, self.names.contains(&**name)),
            Host::Suffix(suffix) => (&**suffix, self.suffixes.contains(&**suffix)),
            Host::Any | Host::Address(_) => return self.any,
        };
        let ends = |length: &usize| {
            let end = text
                .len()
                .checked_sub(*length)
                .filter(|start| *start > 0)
                .and_then(|start| text.get(start..));
            end.is_some_and(|end| self.suffixes.contains(end))
        };
        self.any || same || self.lengths.iter().any(ends)
    }
}

fn http_route(path: Path<'_>, route: &HttpRoute, whole: &Whole<'_>, report: &mut Report<'_>) {
    action::exclusive(path, route, whole.is_delegate, report);
    let list = path.key("match");
    for (index, request) in route.matches.iter().enumerate() {
        matches::http(list.at(index), request, report);
        if whole.is_for_mesh {
            claims(list.at(index).key("headers"), request.headers.keys(), report);
            claims(list.at(index).key("withoutHeaders"), request.without_headers.keys(), report);
        }
    }
    action::route(path, route, report);
    traffic::headers(path.key("headers"), &route.headers, report);
    traffic::mirrors(path, route, report);
    if let Some(policy) = &route.cors_policy {
        traffic::cors(path.key("corsPolicy"), policy, report);
    }
    if let Some(fault) = &route.fault {
        traffic::fault(path.key("fault"), fault, report);
    }
    if let Some(retries) = &route.retries {
        traffic::retries(path.key("retries"), retries, report);
    }
}

/// Claims are only known where a gateway has verified a token.
fn claims<'k>(path: Path<'_>, keys: impl Iterator<Item = &'k HeaderKey>, report: &mut Report<'_>) {
    if keys.into_iter().any(|key| matches!(key, HeaderKey::Claim(_))) {
        let reason = "claims of a token are only matched at gateways";
        report.error_with(path, reason, "name the gateways under spec.gateways, without mesh");
    }
}

fn gateways(path: Path<'_>, names: &[GatewayName], report: &mut Report<'_>) {
    for (index, name) in names.iter().enumerate() {
        if let GatewayName::Gateway { namespace: Some(namespace), name, legacy: true } = name {
            let reason = "is an old way to name a gateway";
            report.warning_with(
                path.at(index),
                reason,
                format!("write {}", quote(&format!("{namespace}/{name}"))),
            );
        }
    }
}

fn hosts(spec: &VirtualServiceSpec, report: &mut Report<'_>) {
    let root = Path::Root("spec.hosts");
    let is_for_mesh = spec.applies_to_mesh();
    let by_sni = spec.tls.iter().any(|route| route.matches.iter().any(|it| !it.sni_hosts.is_empty()));
    for (index, host) in spec.hosts.iter().enumerate() {
        if *host == Host::Any && is_for_mesh {
            let hint = "name the hosts, or a gateway under spec.gateways";
            report.error_with(root.at(index), "* is only for gateways, and this is for the mesh", hint);
        }
        if host.is_sni_name() && (is_for_mesh || !by_sni) {
            report.error(root.at(index), "is a name for traffic between gateways only");
        }
    }
    overlaps(&spec.hosts, root, report);
}

/// Finds hosts of which one covers the other. Reversed and sorted, all that a wildcard covers stand behind it, so each
/// host is only looked at once.
fn overlaps(hosts: &[Host], root: Path<'_>, report: &mut Report<'_>) {
    let mut sorted: Vec<(String, bool, usize)> = hosts
        .iter()
        .enumerate()
        .map(|(index, host)| {
            let text = host.to_string();
            let text = text.strip_prefix('*').unwrap_or(&text);
            (text.chars().rev().collect(), !host.is_wildcard(), index)
        })
        .collect();
    sorted.sort_unstable();
    let mut wildcard: Option<&(String, bool, usize)> = None;
    let mut previous: Option<&(String, bool, usize)> = None;
    for entry in &sorted {
        let same = previous.filter(|other| (&other.0, other.1) == (&entry.0, entry.1));
        let covers = wildcard.filter(|it| entry.0.len() > it.0.len() && entry.0.starts_with(it.0.as_str()));
        if let Some((_, _, other)) = same.or(covers) {
            let (first, second) = ((*other).min(entry.2), (*other).max(entry.2));
            if let (Some(one), Some(two)) = (hosts.get(first), hosts.get(second)) {
                let reason = format!("{two} overlaps with {one} of this VirtualService");
                report.error(root.at(second), reason);
            }
        }
        if covers.is_none() && !entry.1 {
            wildcard = Some(entry);
        }
        previous = Some(entry);
    }
}

/// An expression that must compile; or any other match, which is fine.
fn expression(path: Path<'_>, text: &StringMatch, report: &mut Report<'_>) {
    if let StringMatch::Regex(regex) = text {
        report.regex(path.key("regex"), regex);
    }
}
