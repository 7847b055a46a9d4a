//! Deployments behind several Services that disagree about a port.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::backing::Backed;
use super::index::Index;
use super::workloads::template_labels;
use super::{Code, Message};
use crate::resource::{Object, Spec, quote};

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    for object in index.objects {
        let Spec::Deployment(deployment) = &object.spec else { continue };
        let Some(labels) = template_labels(&deployment.spec.template) else { continue };
        let services: Vec<_> = index.backing.services(&object.meta.namespace, labels).collect();
        if index.workloads.any_in_mesh(&object.meta.namespace) {
            transports(object, &services, messages);
            targets(object, &services, messages);
        }
    }
}

/// One number with two transport protocols.
fn transports(object: &Object, services: &[Backed<'_>], messages: &mut Vec<Message>) {
    let mut ports: BTreeMap<i32, BTreeMap<&str, &str>> = BTreeMap::new();
    for service in services {
        for port in service.ports {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            ports.entry(port.port).or_default().entry(protocol).or_insert(&service.object.meta.name);
        }
    }
    for (port, protocols) in ports.into_iter().filter(|(_, protocols)| protocols.len() > 1) {
        let uses: Vec<_> = protocols.iter().map(|(protocol, name)| format!("{protocol} by {name}")).collect();
        let reason = format!("its Services use port {port} for different protocols: {}", uses.join(", "));
        let code = Code::DeploymentAssociatedToMultipleServices;
        messages.push(Message::new(code, object, "metadata.name", reason));
    }
}

/// One port of the pods behind several ports of different Services.
fn targets(object: &Object, services: &[Backed<'_>], messages: &mut Vec<Message>) {
    let mut targets: BTreeMap<String, BTreeMap<i32, &str>> = BTreeMap::new();
    for service in services {
        for port in service.ports {
            let target = match &port.target_port {
                None => port.port.to_string(),
                Some(IntOrString::Int(number)) => number.to_string(),
                Some(IntOrString::String(name)) => name.clone(),
            };
            targets.entry(target).or_default().entry(port.port).or_insert(&service.object.meta.name);
        }
    }
    for (target, ports) in targets.into_iter().filter(|(_, ports)| ports.len() > 1) {
        let uses: Vec<_> = ports.iter().map(|(port, name)| format!("{port} of {name}")).collect();
        let reason = format!("its port {} is reached by several: {}", quote(&target), uses.join(", "));
        let message = Message::new(Code::DeploymentConflictingPorts, object, "metadata.name", reason);
        messages.push(message.hint("give it one port in all Services"));
    }
}
