//! What ties `VirtualServices` to others: gateways, delegates, and rules that only clients in the mesh see.

use std::collections::HashMap;

use super::hosts::CLUSTER_DOMAIN;
use super::index::Index;
use super::{Code, Message};
use crate::resource::networking::{GatewaySpec, VirtualServiceSpec};
use crate::resource::value::{GatewayName, Host};
use crate::resource::{Object, Spec, quote};

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    let splits = splits_in_mesh(index);
    for object in index.objects {
        if let Spec::VirtualService(spec) = &object.spec {
            for (at, name) in spec.gateways.iter().enumerate() {
                messages.extend(gateway(index, object, spec, (at, name)));
            }
            delegates(index, object, spec, messages);
            unsplit(object, spec, &splits, messages);
        }
    }
}

fn gateway(
    index: &Index<'_>,
    object: &Object,
    spec: &VirtualServiceSpec,
    (at, reference): (usize, &GatewayName),
) -> Option<Message> {
    let (namespace, name) = reference.resolve(&object.meta.namespace)?;
    let field = format!("spec.gateways[{at}]");
    let shown = format!("{namespace}/{name}");
    if name.ends_with(INTERNAL) {
        let reason = format!("{} is what Istio makes of a Gateway of Kubernetes for itself", quote(&shown));
        let message = Message::new(Code::ReferencedInternalGateway, object, field, reason);
        return Some(message.hint("attach an HTTPRoute to the Gateway instead"));
    }
    let Some(gateway) = index.find("Gateway", namespace, name) else {
        if index.exists("Gateway", namespace, name) || index.exists("KubernetesGateway", namespace, name) {
            return None;
        }
        let reason = format!("there is no Gateway {}", quote(&shown));
        let message = Message::new(Code::ReferencedResourceNotFound, object, field, reason);
        return Some(message.hint("write mesh, NAME of this namespace, or NAMESPACE/NAME"));
    };
    let Spec::Gateway(servers) = &gateway.spec else { return None };
    if spec.hosts.is_empty() || serves_any(servers, &gateway.meta.namespace, &spec.hosts, object) {
        return None;
    }
    let hosts: Vec<_> = spec.hosts.iter().take(3).map(ToString::to_string).collect();
    let reason = format!("Gateway {} serves none of the hosts: {}", quote(&shown), hosts.join(", "));
    let message = Message::new(Code::VirtualServiceHostNotFoundInGateway, object, field, reason);
    Some(message.hint("add them to spec.servers[].hosts there"))
}

/// Whether a host of the Gateway, for routes of the `VirtualService`'s namespace, is one of `hosts`.
fn serves_any(gateway: &GatewaySpec, namespace: &str, hosts: &[Host], object: &Object) -> bool {
    let served = gateway.servers.iter().flat_map(|server| &server.hosts);
    let mut served = served.filter(|host| host.namespace.contains(&object.meta.namespace, namespace));
    served.any(|served| {
        hosts.iter().any(|host| served.host.overlaps(&host.qualified(&object.meta.namespace, CLUSTER_DOMAIN)))
    })
}

fn delegates(index: &Index<'_>, object: &Object, spec: &VirtualServiceSpec, messages: &mut Vec<Message>) {
    for (at, rule) in spec.http.iter().enumerate() {
        let Some(delegate) = &rule.delegate else { continue };
        let own = &*object.meta.namespace;
        let namespace = if delegate.namespace.is_empty() { own } else { &delegate.namespace };
        if !index.exists("VirtualService", namespace, &delegate.name) {
            let shown = quote(&format!("{namespace}/{}", delegate.name));
            let reason = format!("there is no VirtualService {shown}");
            let field = format_args!("spec.http[{at}].delegate.name");
            messages.push(Message::new(Code::ReferencedResourceNotFound, object, field, reason));
        }
    }
}

/// `VirtualServices` that send clients in the mesh to subsets, by the host that these ask for.
fn splits_in_mesh<'a>(index: &Index<'a>) -> HashMap<String, &'a Object> {
    let mut splits = HashMap::new();
    for object in index.objects {
        let Spec::VirtualService(spec) = &object.spec else { continue };
        if !spec.applies_to_mesh() {
            continue;
        }
        let qualified = |host: &Host| host.qualified(&object.meta.namespace, CLUSTER_DOMAIN);
        let hosts: Vec<_> = spec.hosts.iter().map(qualified).collect();
        let routes = spec.http.iter().flat_map(|rule| &rule.route).map(|route| &route.destination);
        for destination in routes.filter(|destination| !destination.subset.is_empty()) {
            let host = qualified(&destination.host);
            if hosts.contains(&host) {
                splits.entry(host.to_string()).or_insert(object);
            }
        }
    }
    splits
}

/// Routes behind gateways to a service that is split for clients in the mesh only.
fn unsplit(
    object: &Object,
    spec: &VirtualServiceSpec,
    splits: &HashMap<String, &Object>,
    messages: &mut Vec<Message>,
) {
    if !spec.gateways.iter().any(|gateway| *gateway != GatewayName::Mesh) {
        return;
    }
    for (at, rule) in spec.http.iter().enumerate() {
        for (to, route) in rule.route.iter().enumerate() {
            let destination = &route.destination;
            let host = destination.host.qualified(&object.meta.namespace, CLUSTER_DOMAIN).to_string();
            let split = splits.get(&host).filter(|split| split.key() != object.key());
            if let Some(split) = split.filter(|_| destination.subset.is_empty()) {
                let reason = format!("goes to all of {}, although {} splits it", quote(&host), split.key());
                let field = format_args!("spec.http[{at}].route[{to}].destination");
                let message = Message::new(Code::IngressRouteRulesNotAffected, object, field, reason);
                messages
                    .push(message.hint("that one is for clients in the mesh: name the subset here as well"));
            }
        }
    }
}

/// What the names of Gateways end with that Istio makes of those of Kubernetes.
const INTERNAL: &str = "-istio-autogenerated-k8s-gateway";
