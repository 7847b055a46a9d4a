//! The TCP ports that the kubelet probes.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Sorted, each once. Init containers count if they go on running (`restartPolicy: Always`).
pub(super) fn ports(spec: &PodSpec) -> Vec<u16> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports: BTreeSet<u16> = spec.containers.iter().chain(sidecars).flat_map(of_container).collect();
    ports.into_iter().collect()
}

/// The number of a port that is written as a number or as the name of a container port.
pub(in crate::model::world) fn number(port: &IntOrString, container: &Container) -> Option<u16> {
    match port {
        IntOrString::Int(number) => valid(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.and_then(|port| valid(port.container_port)).or_else(|| name.parse().ok().and_then(valid))
        }
    }
}

/// A port number that is one.
pub(in crate::model::world) fn valid(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

fn of_container(container: &Container) -> impl Iterator<Item = u16> {
    let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
    probes.into_iter().flatten().flat_map(move |probe| of_probe(probe, container))
}

fn of_probe(probe: &Probe, container: &Container) -> impl Iterator<Item = u16> {
    // A probe with a host goes there, not to the pod.
    let here = |host: &Option<String>| host.as_deref().is_none_or(str::is_empty);
    let http =
        probe.http_get.as_ref().filter(|get| here(&get.host)).and_then(|get| number(&get.port, container));
    let tcp =
        probe.tcp_socket.as_ref().filter(|tcp| here(&tcp.host)).and_then(|tcp| number(&tcp.port, container));
    let grpc = probe.grpc.as_ref().and_then(|grpc| valid(grpc.port));
    [http, tcp, grpc].into_iter().flatten()
}
