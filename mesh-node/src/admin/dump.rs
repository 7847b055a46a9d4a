//! `/config_dump`: everything the node decides with, in the shape that `istioctl ztunnel-config` and Kiali read, with
//! fields of our own beside. Private keys never come near it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mesh_core::model::{Config, Service, Snapshot, WaypointName, Workload};
use serde_json::{Map, Value, json};

use super::{Admin, policies, view};
use crate::report::{ConnView, Direction, Rfc3339};

/// The whole dump.
pub(super) fn dump(admin: &Admin) -> Value {
    let snapshot = admin.state.snapshot();
    let policies = serde_json::to_value(snapshot.policies()).unwrap_or_default();
    let checked = admin.reporter.checked_endpoints();
    let unhealthy: BTreeSet<_> =
        checked.iter().filter(|it| it.is_unhealthy()).map(|it| it.endpoint.ip()).collect();
    let mut dump = json!({
        "config": admin.state.config(),
        "version": { "version": admin.reporter.version(), "node": admin.state.node() },
        "loaded": snapshot.is_loaded(),
        "findings": admin.state.findings(),
        "trustDomain": snapshot.trust_domain().to_string(),
        "workloads": snapshot.workloads().map(|one| workload(&snapshot, one, &unhealthy)).collect::<Vec<_>>(),
        "services": snapshot.services().map(|one| service(one)).collect::<Vec<_>>(),
        "policies": policies::for_tools(&policies),
        "policySet": policies,
        "configs": snapshot.configs().map(|one| config(one)).collect::<Vec<_>>(),
        "certificates": admin.state.certificates().iter().map(certificate).collect::<Vec<_>>(),
        "workloadState": pods(admin),
        "healthChecks": checked,
    });
    if let (Some(listeners), Some(fields)) = (admin.state.listeners(), dump.as_object_mut()) {
        fields.insert("listeners".to_owned(), listeners);
    }
    dump
}

/// A resource of traffic management, as it was written and checked.
fn config(config: &Config) -> Value {
    let key = config.key();
    let spec: Value = serde_json::from_str(config.text()).unwrap_or_default();
    json!({ "kind": key.kind, "namespace": &*key.namespace, "name": &*key.name, "spec": spec })
}

/// One that is not ready is not well, nor is one with an address at which a health check fails, for whomever it fails.
fn workload(snapshot: &Snapshot, workload: &Workload, unhealthy: &BTreeSet<IpAddr>) -> Value {
    let is_well = workload.ready && !workload.ips.iter().any(|ip| unhealthy.contains(ip));
    let services =
        workload.services.iter().map(|one| format!("{}/{}", one.service.namespace, one.service.name()));
    json!({
        "uid": workload.uid.as_ref(),
        "workloadIps": ips(&workload.ips),
        "protocol": if workload.accepts_tunnel() { "HBONE" } else { "TCP" },
        "name": workload.name.as_ref(),
        "namespace": workload.namespace.as_ref(),
        "serviceAccount": workload.service_account.as_ref(),
        "trustDomain": snapshot.trust_domain().to_string(),
        "identity": workload.identity.uri(),
        "workloadName": workload.workload_name.as_ref(),
        "workloadType": workload.workload_type,
        "canonicalName": workload.canonical_name.as_ref(),
        "canonicalRevision": workload.canonical_revision.as_ref(),
        "app": workload.app.as_ref(),
        "version": workload.version.as_ref(),
        "clusterId": workload.cluster.as_ref(),
        "locality": locality(workload),
        "node": workload.node.as_deref().unwrap_or_default(),
        "status": if is_well { "Healthy" } else { "Unhealthy" },
        "capacity": 1,
        "enrolled": workload.enrolled,
        "hostNetwork": workload.host_network,
        "probePorts": workload.probe_ports,
        "waypoint": workload.waypoint.as_ref().map(|it| WaypointName(&it.service).to_string()),
        "services": services.collect::<Vec<_>>(),
    })
}

fn locality(workload: &Workload) -> Value {
    let parts = [("region", &workload.region), ("zone", &workload.zone)];
    let known = parts.into_iter().filter(|(_, value)| !value.is_empty());
    Value::Object(known.map(|(key, value)| (key.to_owned(), Value::from(value.as_ref()))).collect())
}

fn service(service: &Service) -> Value {
    let ports: Map<_, _> =
        service.ports.iter().map(|port| (port.number.to_string(), target(port).into())).collect();
    json!({
        "name": service.name.as_ref(),
        "namespace": service.namespace.as_ref(),
        "hostname": service.hostname.as_ref(),
        // Peers prefix the address with a network's name; this mesh has one network and the name is empty.
        "vips": service.vips.iter().map(|ip| format!("/{ip}")).collect::<Vec<_>>(),
        "ports": ports,
        "portNames": service.ports.iter().map(|port| port.name.as_deref()).collect::<Vec<_>>(),
        "endpoints": endpoints(service),
        "internalTrafficPolicy": if service.local_only { "Local" } else { "Cluster" },
        "sessionAffinitySeconds": service.session_affinity.map(|lasting| lasting.as_secs()),
        "headless": service.headless,
        "publishNotReadyAddresses": service.publish_not_ready,
        "waypoint": service.waypoint.as_ref().map(|it| WaypointName(&it.service).to_string()),
    })
}

/// The port that most of a service port's endpoints listen on is not a property of the port; the first one's is shown.
fn target(port: &mesh_core::model::ServicePort) -> u16 {
    port.endpoints.first().map_or(port.number, |endpoint| endpoint.addr.port())
}

/// By workload (or address, where there is none), with the service port each target port serves.
fn endpoints(service: &Service) -> Value {
    let mut all: BTreeMap<String, (String, IpAddr, Map<String, Value>)> = BTreeMap::new();
    for port in &service.ports {
        for endpoint in &port.endpoints {
            let ip = endpoint.addr.ip();
            let uid = endpoint.workload.as_ref().map_or(String::new(), |workload| workload.uid.to_string());
            let key = if uid.is_empty() { ip.to_string() } else { uid.clone() };
            let (.., ports) = all.entry(key).or_insert_with(|| (uid, ip, Map::new()));
            ports.insert(port.number.to_string(), endpoint.addr.port().into());
        }
    }
    let hostname = service.hostname.as_ref();
    let entry = |(uid, ip, ports): (String, IpAddr, Map<String, Value>)| json!({ "workloadUid": uid, "service": hostname, "address": ip.to_string(), "port": ports });
    Value::Object(all.into_iter().map(|(key, endpoint)| (key, entry(endpoint))).collect())
}

fn certificate(status: &crate::identity::CertificateStatus) -> Value {
    let view = view::certificate(status);
    let time = |time: Option<std::time::SystemTime>| time.map(|time| Rfc3339(time).to_string());
    let mut chain = Vec::new();
    if let (Some(from), Some(until)) = (time(view.not_before), time(view.not_after)) {
        chain.push(json!({ "serialNumber": view.serial, "validFrom": from, "expirationTime": until }));
    }
    json!({ "identity": view.identity, "state": view.state, "certChain": chain, "lastError": view.last_error })
}

/// Every local pod with its capture state and its live connections.
fn pods(admin: &Admin) -> Value {
    let connections = admin.reporter.connections();
    let pods = admin.state.pods().into_iter().map(|pod| {
        let of = |direction| -> Vec<Value> {
            let ours = connections.iter().filter(|view| belongs(view, direction, &pod.uid));
            ours.map(connection).collect()
        };
        let dump = json!({
            "state": pod.state.name(),
            "reason": pod.state.reason(),
            "shortcut": pod.shortcut.as_ref().map(|it| it.as_ref().map_or_else(String::as_str, |()| "attached")),
            "since": Rfc3339(pod.since).to_string(),
            "info": {
                "name": pod.name.as_ref(),
                "namespace": pod.namespace.as_ref(),
                "trustDomain": pod.identity.trust_domain().to_string(),
                "serviceAccount": pod.identity.service_account(),
                "ips": ips(&pod.ips),
            },
            "connections": { "inbound": of(Direction::Inbound), "outbound": of(Direction::Outbound) },
        });
        (pod.uid.to_string(), dump)
    });
    Value::Object(pods.collect())
}

/// Whether the pod is the local end of the connection.
fn belongs(view: &ConnView, direction: Direction, uid: &str) -> bool {
    let local = match direction {
        Direction::Inbound => &view.info.destination,
        Direction::Outbound => &view.info.source,
        // No pod's.
        Direction::Through => return false,
    };
    view.info.direction == direction && local.workload.as_ref().is_some_and(|workload| &*workload.uid == uid)
}

fn connection(view: &ConnView) -> Value {
    let info = &view.info;
    json!({
        "src": info.source.addr.to_string(),
        "originalDst": info.destination.addr.to_string(),
        "actualDst": info.hbone_addr.unwrap_or(info.destination.addr).to_string(),
        "protocol": if info.encrypted && !view.express { "HBONE" } else { "TCP" },
        "express": view.express,
        "srcIdentity": info.source.identity.as_ref().map(|identity| identity.uri().to_owned()),
        "dstIdentity": info.destination.identity.as_ref().map(|identity| identity.uri().to_owned()),
        "service": info.service.as_ref().map(|service| service.hostname.to_string()),
        "bytesSent": view.sent,
        "bytesReceived": view.received,
        "since": Rfc3339(view.since).to_string(),
    })
}

fn ips(ips: &[IpAddr]) -> Vec<String> {
    ips.iter().map(ToString::to_string).collect()
}
