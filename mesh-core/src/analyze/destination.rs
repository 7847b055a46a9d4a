//! Where `VirtualServices` send traffic: hosts, ports and subsets that exist, and ports that leave no choice.

use super::hosts::{CLUSTER_DOMAIN, Lookup, Service};
use super::index::Index;
use super::{Code, Message};
use crate::resource::networking::{Destination, VirtualServiceSpec};
use crate::resource::value::Host;
use crate::resource::{Object, Spec, quote};

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    for object in index.objects {
        if let Spec::VirtualService(spec) = &object.spec {
            for (path, destination) in destinations(spec) {
                judge(index, object, &path, destination, messages);
            }
        }
    }
}

/// Everything that gets traffic, with its path.
fn destinations(spec: &VirtualServiceSpec) -> Vec<(String, &Destination)> {
    let mut found = Vec::new();
    for (at, rule) in spec.http.iter().enumerate() {
        let rule_path = format!("spec.http[{at}]");
        for (to, route) in rule.route.iter().enumerate() {
            found.push((format!("{rule_path}.route[{to}].destination"), &route.destination));
        }
        found.extend(rule.mirror.iter().map(|mirror| (format!("{rule_path}.mirror"), mirror)));
        for (to, mirror) in rule.mirrors.iter().enumerate() {
            found.push((format!("{rule_path}.mirrors[{to}].destination"), &mirror.destination));
        }
    }
    let tls = spec.tls.iter().map(|rule| &rule.route).enumerate().map(|(at, route)| ("tls", at, route));
    let tcp = spec.tcp.iter().map(|rule| &rule.route).enumerate().map(|(at, route)| ("tcp", at, route));
    for (name, at, routes) in tls.chain(tcp) {
        for (to, route) in routes.iter().enumerate() {
            found.push((format!("spec.{name}[{at}].route[{to}].destination"), &route.destination));
        }
    }
    found
}

fn judge(
    index: &Index<'_>,
    object: &Object,
    path: &str,
    destination: &Destination,
    messages: &mut Vec<Message>,
) {
    let host = &destination.host;
    match index.hosts.resolve(host, &object.meta.namespace) {
        Lookup::Missing => messages.push(missing(index, object, path, host)),
        Lookup::Unknown => messages.extend(subset(index, object, path, destination)),
        Lookup::Found(Service { real_name: Some(real), .. }) => {
            let Some((host, real)) = index.hosts.real(real, &object.meta.namespace) else { return };
            let destination = Destination { host, ..destination.clone() };
            match real {
                Lookup::Missing => messages.push(outside(object, path, &destination.host)),
                Lookup::Unknown => messages.extend(subset(index, object, path, &destination)),
                Lookup::Found(service) => {
                    messages.extend(port(object, path, &destination, service));
                    messages.extend(subset(index, object, path, &destination));
                }
            }
        }
        Lookup::Found(service) => {
            messages.extend(port(object, path, destination, service));
            messages.extend(subset(index, object, path, destination));
        }
    }
}

fn missing(index: &Index<'_>, object: &Object, path: &str, host: &Host) -> Message {
    let reason = format!("there is no service {}", quote(&host.to_string()));
    let message = Message::new(Code::ReferencedResourceNotFound, object, format_args!("{path}.host"), reason);
    message.hint(match index.hosts.elsewhere(host) {
        Some(elsewhere) => format!("write {elsewhere} if that one is meant"),
        None if host.is_short() => {
            format!("a short name is a Service of namespace {}", object.meta.namespace)
        }
        None => "a ServiceEntry makes hosts outside the cluster known".to_owned(),
    })
}

/// An alias of something that is not the mesh's.
fn outside(object: &Object, path: &str, real: &Host) -> Message {
    let real = quote(&real.to_string());
    let reason = format!("is an alias of {real}, which is no service of the mesh: requests get 503");
    let message = Message::new(Code::ReferencedResourceNotFound, object, format_args!("{path}.host"), reason);
    message.hint(format!("a ServiceEntry for {real} makes it known"))
}

fn port(object: &Object, path: &str, destination: &Destination, service: &Service<'_>) -> Option<Message> {
    let host = quote(&destination.host.to_string());
    let ports: Vec<_> = service.ports.iter().take(SHOWN).map(ToString::to_string).collect();
    let ports = ports.join(", ");
    match destination.port {
        None if service.ports.len() > 1 => {
            let code = Code::VirtualServiceDestinationPortSelectorRequired;
            let reason = format!("required, because {host} has more than one: {ports}");
            Some(Message::new(code, object, format_args!("{path}.port"), reason))
        }
        Some(port) if !service.ports.is_empty() && !service.ports.contains(&port.number.get()) => {
            let reason = format!("{host} has no port {}", port.number);
            let field = format_args!("{path}.port.number");
            let message = Message::new(Code::ReferencedResourceNotFound, object, field, reason);
            Some(message.hint(format!("it has {ports}")))
        }
        _ => None,
    }
}

fn subset(index: &Index<'_>, object: &Object, path: &str, destination: &Destination) -> Option<Message> {
    let name = destination.subset.as_str();
    if name.is_empty() || index.has_refused("DestinationRule") {
        return None;
    }
    let host = destination.host.qualified(&object.meta.namespace, CLUSTER_DOMAIN).to_string();
    let wildcards = host.match_indices('.').filter_map(|(dot, _)| host.get(dot..));
    let hosts = [host.clone()].into_iter().chain(wildcards.map(|ending| format!("*{ending}")));
    let mut known = Vec::new();
    for host in hosts {
        for (_, rule) in index.rules_for(&host) {
            known.extend(rule.subsets.iter().map(|subset| subset.name.as_str()));
        }
    }
    if known.contains(&name) {
        return None;
    }
    let reason = format!("no DestinationRule for {} has a subset {}", quote(&host), quote(name));
    let field = format_args!("{path}.subset");
    let message = Message::new(Code::ReferencedResourceNotFound, object, field, reason);
    known.truncate(SHOWN);
    Some(if known.is_empty() { message } else { message.hint(format!("there is {}", known.join(", "))) })
}

/// Names and ports that a message lists.
const SHOWN: usize = 10;
