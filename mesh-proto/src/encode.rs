//! Records → messages.

use std::net::IpAddr;

use bytes::Bytes;
use mesh_core::cluster::{BackendTls, BackendTrust, TrafficDistribution};
use mesh_core::model::{
    Config, Credential, Entry, Exported, Families, LocalPod, Membership, MeshSettings, Record, Service,
    StaticEndpoint, WAYPOINT_PORT, Waypoint, Workload, WorkloadType,
};
use mesh_core::resource::{Material, Secret};
use prost::Message;
use prost_types::Any;

use crate::names::{REFUSED, ResourceType, SERVICE_DETAILS, WORKLOAD_DETAILS};
use crate::{discovery, mesh, policy, workload};

/// Encodes a [`discovery::Resource`] around a [`payload`].
pub fn resource(name: &str, version: &str, kind: ResourceType, payload: Bytes) -> Bytes {
    let any = Any { type_url: kind.url().to_owned(), value: payload.into() };
    let resource = discovery::Resource {
        version: version.to_owned(),
        resource: Some(any),
        name: name.to_owned(),
        aliases: Vec::new(),
    };
    resource.encode_to_vec().into()
}

/// Adds another name to an encoded resource. Fields may come in any order, so nothing is decoded for it.
pub fn with_alias(resource: &Bytes, alias: &str) -> Bytes {
    let alias = discovery::Resource { aliases: vec![alias.to_owned()], ..discovery::Resource::default() };
    [resource.as_ref(), &alias.encode_to_vec()].concat().into()
}

/// Encodes a record as the message of its [`ResourceType`].
pub fn payload(record: &Record) -> Bytes {
    let bytes = match record {
        Record::Workload(one) => address(workload::address::Type::Workload(workload(one))),
        Record::StaticEndpoint(one) => address(workload::address::Type::Workload(static_endpoint(one))),
        Record::Service(one) => address(workload::address::Type::Service(service(one))),
        Record::Policy(one) => policy::encode(one).encode_to_vec(),
        Record::Credential(one) => credential(one).encode_to_vec(),
        Record::Config(one) => config(one).encode_to_vec(),
        Record::LocalPod(one) => local_pod(one).encode_to_vec(),
        Record::Mesh(one) => settings(one).encode_to_vec(),
        Record::Trust(one) => {
            mesh::TrustBundle { roots: one.roots.to_string(), crls: one.crls.to_string() }.encode_to_vec()
        }
    };
    bytes.into()
}

fn address(one: workload::address::Type) -> Vec<u8> {
    workload::Address { r#type: Some(one) }.encode_to_vec()
}

/// Encodes a workload; what is Istio's default is left out.
pub fn workload(from: &Workload) -> workload::Workload {
    let unless = |text: &str, default: &str| if text == default { String::new() } else { text.to_owned() };
    let tunnel =
        if from.accepts_tunnel() { workload::TunnelProtocol::Hbone } else { workload::TunnelProtocol::None };
    let mode =
        if from.host_network { workload::NetworkMode::HostNetwork } else { workload::NetworkMode::Standard };
    let kind = match from.workload_type {
        WorkloadType::Deployment => workload::WorkloadType::Deployment,
        WorkloadType::Job => workload::WorkloadType::Job,
        WorkloadType::StatefulSet | WorkloadType::DaemonSet | WorkloadType::Pod => {
            workload::WorkloadType::Pod
        }
    };
    let placed = !(from.region.is_empty() && from.zone.is_empty());
    let locality = placed.then(|| workload::Locality {
        region: from.region.to_string(),
        zone: from.zone.to_string(),
        subzone: String::new(),
    });
    workload::Workload {
        name: from.name.to_string(),
        namespace: from.namespace.to_string(),
        addresses: from.ips.iter().copied().map(octets).collect(),
        hostname: from.hostname.as_deref().unwrap_or_default().to_owned(),
        network: String::new(),
        tunnel_protocol: tunnel.into(),
        trust_domain: unless(from.identity.trust_domain().as_str(), "cluster.local"),
        service_account: unless(&from.service_account, "default"),
        waypoint: from.waypoint.as_deref().map(waypoint),
        node: from.node.as_deref().unwrap_or_default().to_owned(),
        canonical_name: from.canonical_name.to_string(),
        canonical_revision: from.canonical_revision.to_string(),
        workload_type: kind.into(),
        workload_name: from.workload_name.to_string(),
        authorization_policies: from.policies.iter().map(ToString::to_string).collect(),
        status: status(from.ready).into(),
        cluster_id: unless(&from.cluster, "Kubernetes"),
        uid: from.uid.to_string(),
        services: memberships(&from.services),
        locality,
        network_mode: mode.into(),
        extensions: details(from).map(|details| extension(WORKLOAD_DETAILS, &details)).into_iter().collect(),
    }
}

/// What the standard fields do not say, if there is anything.
fn details(from: &Workload) -> Option<mesh::WorkloadDetails> {
    let differing = |text: &str, other: &str| if text == other { String::new() } else { text.to_owned() };
    let details = mesh::WorkloadDetails {
        app: differing(&from.app, &from.canonical_name),
        version: differing(&from.version, &from.canonical_revision),
        workload_type: match from.workload_type {
            WorkloadType::StatefulSet => "StatefulSet".to_owned(),
            WorkloadType::DaemonSet => "DaemonSet".to_owned(),
            _ => String::new(),
        },
        labels: from.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        weight: from.weight,
        waypoint: from.waypoint.as_deref().and_then(waypoint_details),
        udp_services: udp_services(&from.services),
    };
    (details != mesh::WorkloadDetails::default()).then_some(details)
}

fn static_endpoint(from: &StaticEndpoint) -> workload::Workload {
    let udp_services = udp_services(&from.services);
    let details = mesh::WorkloadDetails { udp_services, ..mesh::WorkloadDetails::default() };
    let details = (details != mesh::WorkloadDetails::default()).then_some(details);
    workload::Workload {
        uid: from.uid.to_string(),
        namespace: from.namespace.to_string(),
        addresses: vec![octets(from.ip)],
        node: from.node.as_deref().unwrap_or_default().to_owned(),
        services: memberships(&from.services),
        status: status(from.ready).into(),
        extensions: details.map(|details| extension(WORKLOAD_DETAILS, &details)).into_iter().collect(),
        ..workload::Workload::default()
    }
}

/// Encodes a service; its endpoints are not part of it.
pub fn service(from: &Service) -> workload::Service {
    let address = |ip: &IpAddr| workload::NetworkAddress { network: String::new(), address: octets(*ip) };
    let port = |number: u16| workload::Port { service_port: number.into(), target_port: 0 };
    let detail = |port: &mesh_core::model::ServicePort| mesh::ServicePort {
        name: port.name.as_deref().unwrap_or_default().to_owned(),
        app_protocol: port.app_protocol.as_deref().unwrap_or_default().to_owned(),
        tls: port.tls.as_deref().map(backend_tls),
    };
    let udp_port = |port: &mesh_core::model::ServicePort| mesh::UdpPort {
        number: port.number.into(),
        name: port.name.as_deref().unwrap_or_default().to_owned(),
        app_protocol: port.app_protocol.as_deref().unwrap_or_default().to_owned(),
    };
    let details = mesh::ServiceDetails {
        udp_ports: from.udp_ports.iter().map(udp_port).collect(),
        ports: from.ports.iter().map(detail).collect(),
        session_affinity_seconds: from.session_affinity.map_or(0, |lasts| lasts.as_secs().max(1)),
        headless: from.headless,
        entry: from.entry.as_deref().map(entry),
        waypoint: from.waypoint.as_deref().and_then(waypoint_details),
        audience: match &from.exported {
            Exported::Everywhere => None,
            Exported::To(all) => {
                Some(mesh::Audience { namespaces: all.iter().map(ToString::to_string).collect() })
            }
        },
    };
    let families = match from.families {
        Families::Any => workload::IpFamilies::Automatic,
        Families::V4 => workload::IpFamilies::Ipv4Only,
        Families::V6 => workload::IpFamilies::Ipv6Only,
    };
    workload::Service {
        name: from.name.to_string(),
        namespace: from.namespace.to_string(),
        hostname: from.hostname.to_string(),
        addresses: from.vips.iter().map(address).collect(),
        ports: from.ports.iter().map(|one| port(one.number)).collect(),
        subject_alt_names: Vec::new(),
        waypoint: from.waypoint.as_deref().map(waypoint),
        load_balancing: balancing(from),
        ip_families: families.into(),
        extensions: vec![extension(SERVICE_DETAILS, &details)],
    }
}

/// Where it is, for any proxy that knows Istio's types; one that nothing may be sent to is nowhere.
fn waypoint(from: &Waypoint) -> workload::GatewayAddress {
    let (namespace, hostname) = (from.service.namespace.to_string(), &from.service.hostname);
    let hostname = if from.refused.is_some() { format!("{REFUSED}{hostname}") } else { hostname.to_string() };
    let at = workload::gateway_address::Destination::Hostname(workload::NamespacedHostname {
        namespace,
        hostname,
    });
    workload::GatewayAddress { destination: Some(at), hbone_mtls_port: WAYPOINT_PORT.into() }
}

fn waypoint_details(from: &Waypoint) -> Option<mesh::Waypoint> {
    let details = mesh::Waypoint {
        refused: from.refused.as_deref().unwrap_or_default().to_owned(),
        ingress: from.ingress,
        canary: from.canary.as_ref().map(|(canary, _)| canary.to_string()).unwrap_or_default(),
        canary_percent: from.canary.as_ref().map_or(0, |(_, percent)| u32::from(*percent)),
    };
    (details != mesh::Waypoint::default()).then_some(details)
}

fn entry(from: &Entry) -> mesh::ServiceEntry {
    mesh::ServiceEntry {
        name: from.name.to_string(),
        external: from.external,
        passthrough: from.passthrough,
        dynamic: from.dynamic,
        first_address_only: from.first_address_only,
        subject_alt_names: from.subject_alt_names.iter().map(ToString::to_string).collect(),
        networks: from.networks.iter().map(network).collect(),
    }
}

fn network(from: &ipnet::IpNet) -> mesh::Network {
    mesh::Network { address: octets(from.addr()), length: from.prefix_len().into() }
}

fn balancing(from: &Service) -> Option<workload::LoadBalancing> {
    use workload::load_balancing::{HealthPolicy, Mode, Scope};
    let (routing_preference, mode) = match from.traffic_distribution {
        _ if from.local_only => (&[Scope::Node][..], Mode::Strict),
        Some(TrafficDistribution::PreferSameZone) => {
            (&[Scope::Network, Scope::Region, Scope::Zone][..], Mode::Failover)
        }
        Some(TrafficDistribution::PreferSameNode) => {
            let scopes = &[Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node];
            (&scopes[..], Mode::Failover)
        }
        None if from.publish_not_ready => (&[][..], Mode::UnspecifiedMode),
        None => return None,
    };
    let routing_preference = routing_preference.iter().map(|scope| (*scope).into()).collect();
    let health = if from.publish_not_ready { HealthPolicy::AllowAll } else { HealthPolicy::OnlyHealthy };
    Some(workload::LoadBalancing { routing_preference, mode: mode.into(), health_policy: health.into() })
}

fn config(from: &Config) -> mesh::Config {
    let key = from.key();
    mesh::Config {
        kind: key.kind.to_owned(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        created: from.object().meta.creation_timestamp,
        spec: from.text().to_string(),
        annotations: from.annotations().map(|(key, value)| (key.clone(), value.clone())).collect(),
    }
}

fn credential(from: &Credential) -> mesh::Credential {
    let Secret { kind: _, certificate, key, ca, crl, ocsp_staple } = &*from.secret;
    let bytes = |material: &Option<Material>| material.as_ref().map(|it| Bytes::copy_from_slice(it.expose()));
    mesh::Credential {
        namespace: from.name.namespace.to_string(),
        name: from.name.name.to_string(),
        certificate: bytes(certificate),
        key: bytes(key),
        ca: bytes(ca),
        crl: bytes(crl),
        ocsp_staple: bytes(ocsp_staple),
    }
}

fn local_pod(from: &LocalPod) -> mesh::LocalPod {
    mesh::LocalPod {
        uid: from.uid.to_string(),
        pod_uid: from.pod_uid.as_deref().unwrap_or_default().to_owned(),
        labels: from.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        probe_ports: from.probe_ports.iter().copied().map(u32::from).collect(),
        enrolled: from.enrolled,
        inbound_bypass: from.inbound_bypass,
        dns_bypass: from.dns_bypass,
    }
}

fn settings(from: &MeshSettings) -> mesh::Mesh {
    mesh::Mesh {
        trust_domain: from.trust_domain.to_string(),
        trust_domain_aliases: from.trust_domain_aliases.iter().map(ToString::to_string).collect(),
        access_log_file: from.config.config().access_log_file.as_deref().unwrap_or_default().to_owned(),
        config: from.config.text().to_owned(),
        pod_networks: from.pod_networks.iter().map(network).collect(),
    }
}

fn memberships(from: &[Membership]) -> std::collections::HashMap<String, workload::PortList> {
    let port = |(service, target): &(u16, u16)| workload::Port {
        service_port: u32::from(*service),
        target_port: u32::from(*target),
    };
    let ports = |one: &Membership| workload::PortList { ports: one.ports.iter().map(port).collect() };
    from.iter().map(|one| (one.service.to_string(), ports(one))).collect()
}

fn udp_services(from: &[Membership]) -> Vec<mesh::UdpService> {
    let port = |(service, target): &(u16, u16)| mesh::UdpTarget {
        service_port: u32::from(*service),
        target_port: u32::from(*target),
    };
    let serving = from.iter().filter(|one| !one.udp_ports.is_empty());
    serving
        .map(|one| mesh::UdpService {
            service: one.service.to_string(),
            ports: one.udp_ports.iter().map(port).collect(),
        })
        .collect()
}

fn status(ready: bool) -> workload::WorkloadStatus {
    if ready { workload::WorkloadStatus::Healthy } else { workload::WorkloadStatus::Unhealthy }
}

fn extension(name: &str, message: &impl Message) -> workload::Extension {
    // The name says what it is; a URL would cost every workload as many bytes again.
    let config = Any { type_url: String::new(), value: message.encode_to_vec() };
    workload::Extension { name: name.to_owned(), config: Some(config) }
}

/// 4 or 16 bytes.
pub(crate) fn octets(ip: IpAddr) -> Bytes {
    match ip {
        IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
    }
}

fn backend_tls(from: &BackendTls) -> mesh::BackendTls {
    mesh::BackendTls {
        hostname: from.hostname.to_string(),
        subject_alt_names: from.subject_alt_names.iter().map(ToString::to_string).collect(),
        trust: match &from.trust {
            BackendTrust::System => Some(mesh::backend_tls::Trust::System(true)),
            BackendTrust::Authorities(text) => Some(mesh::backend_tls::Trust::Authorities(text.to_string())),
            BackendTrust::Nobody => None,
        },
    }
}
