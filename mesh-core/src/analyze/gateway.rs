//! Istio's Gateways: the pods and Services behind them, and what several have in common.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::index::Index;
use super::workloads::{Labels, selects, show};
use super::{Code, Message};
use crate::resource::networking::GatewaySpec;
use crate::resource::{Object, quote};

mod shared;

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    let mut ports = HashMap::new();
    for (object, gateway) in index.gateways() {
        let selector = show(&gateway.selector);
        let ports = ports.entry(selector).or_insert_with(|| Behind::of(index, &gateway.selector));
        behind(index, object, gateway, ports, messages);
    }
    shared::analyze(index, messages);
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
                for port in
                    service.ports.iter().filter(|port| port.protocol.as_deref().is_none_or(|it| it == "TCP"))
                {
                    // A server may also be for the port of the pods that the Service's port leads to.
                    let target = match &port.target_port {
                        Some(IntOrString::Int(number)) => Some(*number),
                        _ => None,
                    };
                    let numbers = [Some(port.port), target].into_iter().flatten();
                    ports.extend(numbers.filter_map(|number| u16::try_from(number).ok()));
                }
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

/// Labels of the gateways that an installation of Istio brings, which no user's files hold.
const INSTALLED: [&[(&str, &str)]; 2] = [
    &[("app", "istio-ingressgateway"), ("istio", "ingressgateway")],
    &[("app", "istio-egressgateway"), ("istio", "egressgateway")],
];
