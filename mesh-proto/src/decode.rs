//! Messages → records, with limits.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ipnet::IpNet;
use mesh_core::cluster::{BackendTls, BackendTrust, TrafficDistribution};
use mesh_core::id::{SpiffeId, TrustDomain};
use mesh_core::model::{
    Config, Credential, CredentialName, Entry, Exported, Families, LocalPod, Membership, MeshSettings,
    Record, Service, ServiceKey, ServicePort, StaticEndpoint, TrustBundle, Waypoint, Workload, WorkloadType,
};
use mesh_core::policy::PolicyName;
use mesh_core::resource::mesh_config::MeshText;
use mesh_core::resource::{Material, Secret, SecretKind};
use prost::Message;

use crate::names::{REFUSED, ResourceType, SERVICE_DETAILS, WORKLOAD_DETAILS};
use crate::{discovery, mesh, policy, security, workload};

/// A resource as it arrived.
#[derive(Debug)]
pub struct Named {
    /// Its name.
    pub name: Arc<str>,
    /// Its version.
    pub version: Arc<str>,
    /// What it says, or why that cannot be used.
    pub record: Result<Record, Invalid>,
}

/// Why a message is none of the model's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl Invalid {
    pub(crate) fn new(field: &'static str, reason: impl Into<String>) -> Self {
        Self { field, reason: reason.into() }
    }
}

/// Decodes resources. Texts that come again and again (namespaces, nodes, services) are kept once.
#[derive(Debug, Default)]
pub struct Decoder {
    texts: HashSet<Arc<str>>,
    services: HashMap<Box<str>, Arc<ServiceKey>>,
    policies: HashMap<Box<str>, Arc<PolicyName>>,
    /// By trust domain, namespace and account.
    identities: HashMap<[Arc<str>; 3], SpiffeId>,
    /// The node whose pods [`LocalPod`]s are about.
    node: Arc<str>,
}

impl Decoder {
    /// A decoder for what `node` is told.
    pub fn new(node: &str) -> Self {
        Self { node: node.into(), ..Self::default() }
    }

    /// Decodes an encoded [`discovery::Resource`] of this type. Fails as a whole only if not even its name can be
    /// read.
    pub fn resource(&mut self, kind: ResourceType, bytes: Bytes) -> Result<Named, Invalid> {
        if bytes.len() > MAX_RESOURCE {
            return Err(Invalid::new(
                "resource",
                format!("has {} bytes, the limit is {MAX_RESOURCE}", bytes.len()),
            ));
        }
        let resource = discovery::Resource::decode(bytes)
            .map_err(|error| Invalid::new("resource", format!("cannot be decoded: {error}")))?;
        let record = match resource.resource {
            Some(any) => self.payload(kind, &any.value),
            None => Err(Invalid::new("resource", "is missing")),
        };
        let record = record.and_then(|record| {
            let name = crate::names::name(&record.key());
            if *name == *resource.name {
                Ok(record)
            } else {
                Err(Invalid::new("name", format!("is not {name}")))
            }
        });
        Ok(Named { name: resource.name.into(), version: resource.version.into(), record })
    }

    /// Decodes the message of a resource of this type.
    pub fn payload(&mut self, kind: ResourceType, bytes: &[u8]) -> Result<Record, Invalid> {
        self.forget();
        match kind {
            ResourceType::Address => match message::<workload::Address>(bytes)?.r#type {
                Some(workload::address::Type::Workload(one)) => self.workload(one),
                Some(workload::address::Type::Service(one)) => {
                    Ok(Record::Service(Arc::new(self.service(&one)?)))
                }
                None => Err(Invalid::new("type", "is neither workload nor service")),
            },
            ResourceType::Authorization => {
                let policy = policy::decode(&message::<security::Authorization>(bytes)?)?;
                Ok(Record::Policy(Arc::new(policy)))
            }
            ResourceType::Credential => Ok(Record::Credential(Arc::new(credential(message(bytes)?)?))),
            ResourceType::Config => Ok(Record::Config(Arc::new(config(&message(bytes)?)?))),
            ResourceType::LocalPod => Ok(Record::LocalPod(Arc::new(self.local_pod(message(bytes)?)?))),
            ResourceType::Trust => {
                let mesh::TrustBundle { roots, crls } = message(bytes)?;
                Ok(Record::Trust(Arc::new(TrustBundle { roots: roots.into(), crls: crls.into() })))
            }
            ResourceType::Mesh => Ok(Record::Mesh(Arc::new(settings(&message(bytes)?)?))),
        }
    }

    /// A mesh that changes for ever must not fill the memory with what it once said.
    fn forget(&mut self) {
        if self.texts.len() > MAX_KEPT {
            self.texts.clear();
        }
        if self.services.len() > MAX_KEPT {
            self.services.clear();
        }
        if self.policies.len() > MAX_KEPT {
            self.policies.clear();
        }
        if self.identities.len() > MAX_KEPT {
            self.identities.clear();
        }
    }

    fn workload(&mut self, from: workload::Workload) -> Result<Record, Invalid> {
        if from.uid.is_empty() || from.uid.len() > MAX_TEXT {
            return Err(Invalid::new("uid", "is empty or too long"));
        }
        let ips = from.addresses.iter().map(|bytes| ip(bytes)).collect::<Result<Vec<_>, _>>()?;
        let details = extension::<mesh::WorkloadDetails>(&from.extensions, WORKLOAD_DETAILS)?;
        let services = self.memberships(&from.services, &details.udp_services)?;
        let ready = from.status() == workload::WorkloadStatus::Healthy;
        let node = Some(&*from.node).filter(|node| !node.is_empty()).map(|node| self.text(node));
        if from.uid.split('/').nth(1) == Some(STATIC) {
            let [ip] = *ips.as_slice() else { return Err(Invalid::new("addresses", "are not exactly one")) };
            let namespace = self.text(&from.namespace);
            let uid = from.uid.into();
            let endpoint = StaticEndpoint { uid, namespace, ip, node, services, ready };
            return Ok(Record::StaticEndpoint(Arc::new(endpoint)));
        }
        let policies = self.policies(&from.authorization_policies)?;
        let namespace = self.text(&from.namespace);
        let service_account = self.text(or(&from.service_account, "default"));
        let identity =
            self.identity(or(&from.trust_domain, "cluster.local"), &namespace, &service_account)?;
        let canonical_name = self.text(&from.canonical_name);
        let canonical_revision = self.text(&from.canonical_revision);
        let locality = from.locality.clone().unwrap_or_default();
        let waypoint = self.waypoint(from.waypoint.as_ref(), details.waypoint)?;
        Ok(Record::Workload(Arc::new(Workload {
            pod_uid: None,
            name: from.name.as_str().into(),
            namespace,
            node,
            ips,
            hostname: Some(&*from.hostname).filter(|name| !name.is_empty()).map(Arc::from),
            weight: details.weight,
            identity,
            enrolled: from.tunnel_protocol() == workload::TunnelProtocol::Hbone,
            labels: details.labels.into_iter().collect(),
            workload_name: self.text(&from.workload_name),
            workload_type: workload_type(from.workload_type(), &details.workload_type),
            app: self.text(or(&details.app, &from.canonical_name)),
            version: self.text(or(&details.version, &from.canonical_revision)),
            canonical_name,
            canonical_revision,
            service_account,
            cluster: self.text(or(&from.cluster_id, "Kubernetes")),
            region: self.text(&locality.region),
            zone: self.text(&locality.zone),
            probe_ports: Vec::new(),
            host_network: from.network_mode() == workload::NetworkMode::HostNetwork,
            services,
            policies,
            ready,
            inbound_bypass: false,
            dns_bypass: false,
            waypoint,
            uid: from.uid.into(),
        })))
    }

    fn service(&mut self, from: &workload::Service) -> Result<Service, Invalid> {
        use workload::load_balancing::{HealthPolicy, Mode, Scope};
        if from.namespace.is_empty() || from.hostname.is_empty() || from.hostname.len() > MAX_TEXT {
            return Err(Invalid::new("hostname", "namespace or host name is empty or too long"));
        }
        let details = extension::<mesh::ServiceDetails>(&from.extensions, SERVICE_DETAILS)?;
        let vips = from.addresses.iter().map(|one| ip(&one.address)).collect::<Result<Vec<_>, _>>()?;
        let balancing = from.load_balancing.clone().unwrap_or_default();
        let prefers_node = balancing.routing_preference().any(|scope| scope == Scope::Node);
        let named = |text: &str| Some(text).filter(|text| !text.is_empty()).map(Arc::from);
        let port = |(index, port): (usize, &workload::Port)| {
            let detail = details.ports.get(index).cloned().unwrap_or_default();
            Ok(ServicePort {
                number: number(port.service_port)?,
                name: named(&detail.name),
                app_protocol: named(&detail.app_protocol),
                tls: detail.tls.as_ref().map(|tls| Arc::new(backend_tls(tls))),
                endpoints: Vec::new(),
            })
        };
        let udp_port = |port: &mesh::UdpPort| {
            Ok(ServicePort {
                number: number(port.number)?,
                name: named(&port.name),
                app_protocol: named(&port.app_protocol),
                tls: None,
                endpoints: Vec::new(),
            })
        };
        Ok(Service {
            udp_ports: details.udp_ports.iter().map(udp_port).collect::<Result<_, Invalid>>()?,
            namespace: self.text(&from.namespace),
            name: from.name.as_str().into(),
            hostname: from.hostname.as_str().into(),
            ports: from.ports.iter().enumerate().map(port).collect::<Result<_, Invalid>>()?,
            session_affinity: Some(details.session_affinity_seconds)
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs),
            local_only: balancing.mode() == Mode::Strict && prefers_node,
            traffic_distribution: match balancing.mode() {
                Mode::Failover if prefers_node => Some(TrafficDistribution::PreferSameNode),
                Mode::Failover => Some(TrafficDistribution::PreferSameZone),
                Mode::Strict | Mode::Passthrough | Mode::UnspecifiedMode => None,
            },
            headless: details.headless,
            publish_not_ready: balancing.health_policy() == HealthPolicy::AllowAll,
            families: match from.ip_families() {
                workload::IpFamilies::Ipv4Only => Families::V4,
                workload::IpFamilies::Ipv6Only => Families::V6,
                workload::IpFamilies::Automatic | workload::IpFamilies::Dual => Families::Any,
            },
            vips,
            exported: match details.audience {
                None => Exported::Everywhere,
                Some(to) => Exported::To(to.namespaces.iter().map(|name| self.text(name)).collect()),
            },
            entry: details.entry.map(|entry| entry_of(entry).map(Arc::new)).transpose()?,
            waypoint: self.waypoint(from.waypoint.as_ref(), details.waypoint)?,
        })
    }

    fn local_pod(&mut self, from: mesh::LocalPod) -> Result<LocalPod, Invalid> {
        let port = |port: &u32| number(*port);
        Ok(LocalPod {
            uid: from.uid.as_str().into(),
            node: Arc::clone(&self.node),
            pod_uid: Some(&*from.pod_uid).filter(|uid| !uid.is_empty()).map(Arc::from),
            labels: Arc::new(from.labels.into_iter().collect()),
            probe_ports: from.probe_ports.iter().map(port).collect::<Result<_, _>>()?,
            enrolled: from.enrolled,
            inbound_bypass: from.inbound_bypass,
            dns_bypass: from.dns_bypass,
        })
    }

    fn memberships(
        &mut self,
        from: &HashMap<String, workload::PortList>,
        udp: &[mesh::UdpService],
    ) -> Result<Vec<Membership>, Invalid> {
        let mut memberships = Vec::with_capacity(from.len());
        for (name, list) in from {
            let service = self.service_key(name)?;
            let pair = |port: &workload::Port| Ok((number(port.service_port)?, number(port.target_port)?));
            let mut ports = list.ports.iter().map(pair).collect::<Result<Vec<_>, Invalid>>()?;
            ports.sort_unstable();
            memberships.push(Membership { service, ports: ports.into(), udp_ports: Box::default() });
        }
        for one in udp {
            let service = self.service_key(&one.service)?;
            let pair = |port: &mesh::UdpTarget| Ok((number(port.service_port)?, number(port.target_port)?));
            let mut ports = one.ports.iter().map(pair).collect::<Result<Vec<_>, Invalid>>()?;
            ports.sort_unstable();
            let known = memberships.iter_mut().find(|it| it.service == service);
            let known = known.ok_or(Invalid::new("udp_services", "a service is none of its services"))?;
            known.udp_ports = ports.into();
        }
        memberships.sort();
        Ok(memberships)
    }

    /// What connections go through. An address is known by itself until it is looked up.
    fn waypoint(
        &mut self,
        at: Option<&workload::GatewayAddress>,
        details: Option<mesh::Waypoint>,
    ) -> Result<Option<Arc<Waypoint>>, Invalid> {
        use workload::gateway_address::Destination;
        let Some(at) = at else { return Ok(None) };
        let details = details.unwrap_or_default();
        let name = match &at.destination {
            Some(Destination::Hostname(name)) if !name.namespace.is_empty() && !name.hostname.is_empty() => {
                let hostname = name.hostname.strip_prefix(REFUSED).unwrap_or(&name.hostname);
                format!("{}/{hostname}", name.namespace)
            }
            Some(Destination::Address(address)) => format!("/{}", ip(&address.address)?),
            _ => return Err(Invalid::new("waypoint", "is nowhere")),
        };
        let canary = Some(&details.canary).filter(|canary| !canary.is_empty());
        let canary = canary.map(|canary| self.service_key(canary)).transpose()?;
        let percent = u8::try_from(details.canary_percent).ok().filter(|percent| *percent <= 100);
        let percent = percent.ok_or(Invalid::new("waypoint", "the canary's share is more than 100"))?;
        Ok(Some(Arc::new(Waypoint {
            service: self.service_key(&name)?,
            refused: Some(details.refused).filter(|why| !why.is_empty()).map(Arc::from),
            canary: canary.map(|canary| (canary, percent)),
            ingress: details.ingress,
        })))
    }

    fn service_key(&mut self, name: &str) -> Result<Arc<ServiceKey>, Invalid> {
        if let Some(known) = self.services.get(name) {
            return Ok(Arc::clone(known));
        }
        let Some((namespace, hostname)) = name.split_once('/').filter(|_| name.len() <= MAX_TEXT) else {
            return Err(Invalid::new("services", "a name is not namespace/hostname"));
        };
        let key = Arc::new(ServiceKey { namespace: self.text(namespace), hostname: hostname.into() });
        self.services.insert(name.into(), Arc::clone(&key));
        Ok(key)
    }

    fn policies(&mut self, names: &[String]) -> Result<Vec<Arc<PolicyName>>, Invalid> {
        let mut policies = names.iter().map(|name| self.policy(name)).collect::<Result<Vec<_>, _>>()?;
        policies.sort();
        Ok(policies)
    }

    fn policy(&mut self, name: &str) -> Result<Arc<PolicyName>, Invalid> {
        if let Some(known) = self.policies.get(name) {
            return Ok(Arc::clone(known));
        }
        let Some((namespace, rest)) = name.split_once('/').filter(|_| name.len() <= MAX_TEXT) else {
            return Err(Invalid::new("authorization_policies", "a name is not namespace/name"));
        };
        let policy = Arc::new(PolicyName { namespace: self.text(namespace), name: rest.into() });
        self.policies.insert(name.into(), Arc::clone(&policy));
        Ok(policy)
    }

    fn identity(
        &mut self,
        trust_domain: &str,
        namespace: &Arc<str>,
        account: &Arc<str>,
    ) -> Result<SpiffeId, Invalid> {
        let key = [self.text(trust_domain), Arc::clone(namespace), Arc::clone(account)];
        if let Some(known) = self.identities.get(&key) {
            return Ok(known.clone());
        }
        let identity = TrustDomain::parse(trust_domain)
            .and_then(|domain| SpiffeId::new(&domain, namespace, account))
            .map_err(|error| Invalid::new("service_account", format!("the identity {error}")))?;
        self.identities.insert(key, identity.clone());
        Ok(identity)
    }

    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&text));
        text
    }
}

fn entry_of(from: mesh::ServiceEntry) -> Result<Entry, Invalid> {
    Ok(Entry {
        name: from.name.into(),
        external: from.external,
        passthrough: from.passthrough,
        dynamic: from.dynamic,
        first_address_only: from.first_address_only,
        networks: from.networks.iter().map(network).collect::<Result<_, _>>()?,
        subject_alt_names: from.subject_alt_names.into_iter().map(Arc::from).collect(),
    })
}

fn credential(from: mesh::Credential) -> Result<Credential, Invalid> {
    let mesh::Credential { namespace, name, certificate, key, ca, crl, ocsp_staple } = from;
    // What belongs to others, or is put together, has a name of several parts.
    let parts =
        [("namespace", &*namespace)].into_iter().chain(name.splitn(3, '/').map(|part| ("name", part)));
    for (field, text) in parts {
        if text.is_empty() || text.len() > MAX_NAME || text.contains('/') {
            return Err(Invalid::new(field, "is not a name"));
        }
    }
    let all = [&certificate, &key, &ca, &crl, &ocsp_staple];
    if all.into_iter().flatten().map(Bytes::len).sum::<usize>() > MAX_CREDENTIAL {
        return Err(Invalid::new("credential", format!("has more than {MAX_CREDENTIAL} bytes")));
    }
    let material = |bytes: Option<Bytes>| bytes.map(|bytes| Material::new(&bytes));
    let secret = Secret {
        kind: SecretKind::Opaque,
        certificate: material(certificate),
        key: material(key),
        ca: material(ca),
        crl: material(crl),
        ocsp_staple: material(ocsp_staple),
    };
    let name = CredentialName { namespace: namespace.into(), name: name.into() };
    Ok(Credential { name: Arc::new(name), secret: Arc::new(secret), readers: Arc::default() })
}

fn config(from: &mesh::Config) -> Result<Config, Invalid> {
    let name = (&*from.namespace, &*from.name);
    let read = Config::read(&from.kind, name, from.created, &from.spec);
    let annotations = from.annotations.iter().map(|(key, value)| (key.clone(), value.clone()));
    read.map(|config| config.annotated(annotations)).map_err(|reason| Invalid::new("spec", reason))
}

fn settings(from: &mesh::Mesh) -> Result<MeshSettings, Invalid> {
    let domain = |text: &str| {
        TrustDomain::parse(text).map_err(|error| Invalid::new("trust_domain", error.to_string()))
    };
    Ok(MeshSettings {
        trust_domain: domain(&from.trust_domain)?,
        trust_domain_aliases: from
            .trust_domain_aliases
            .iter()
            .map(|text| domain(text))
            .collect::<Result<_, _>>()?,
        config: MeshText::read(&from.config),
        pod_networks: from.pod_networks.iter().map(network).collect::<Result<_, _>>()?,
    })
}

fn network(one: &mesh::Network) -> Result<IpNet, Invalid> {
    let length = u8::try_from(one.length).ok();
    let network = length.and_then(|length| IpNet::new(ip(&one.address).ok()?, length).ok());
    network.ok_or(Invalid::new("networks", "a network is none"))
}

/// What is left out stands for its default.
fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

fn workload_type(kind: workload::WorkloadType, detail: &str) -> WorkloadType {
    match (kind, detail) {
        (_, "StatefulSet") => WorkloadType::StatefulSet,
        (_, "DaemonSet") => WorkloadType::DaemonSet,
        (workload::WorkloadType::Deployment, _) => WorkloadType::Deployment,
        (workload::WorkloadType::Job | workload::WorkloadType::Cronjob, _) => WorkloadType::Job,
        (workload::WorkloadType::Pod, _) => WorkloadType::Pod,
    }
}

fn message<M: Message + Default>(bytes: &[u8]) -> Result<M, Invalid> {
    M::decode(bytes).map_err(|error| Invalid::new("resource", format!("cannot be decoded: {error}")))
}

fn extension<M: Message + Default>(from: &[workload::Extension], name: &str) -> Result<M, Invalid> {
    let Some(one) = from.iter().find(|one| one.name == name) else { return Ok(M::default()) };
    one.config.as_ref().map_or_else(|| Ok(M::default()), |any| message(&any.value))
}

/// 4 or 16 bytes, brought into canonical form.
pub(crate) fn ip(bytes: &[u8]) -> Result<IpAddr, Invalid> {
    let ip = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).map(IpAddr::from),
    };
    ip.map(mesh_core::net::canonical_ip).map_err(|_| Invalid::new("addresses", "one has not 4 or 16 bytes"))
}

fn backend_tls(from: &mesh::BackendTls) -> BackendTls {
    use mesh::backend_tls::Trust;
    BackendTls {
        hostname: from.hostname.as_str().into(),
        subject_alt_names: from.subject_alt_names.iter().map(|name| name.as_str().into()).collect(),
        trust: match &from.trust {
            Some(Trust::System(true)) => BackendTrust::System,
            Some(Trust::Authorities(text)) => BackendTrust::Authorities(text.as_str().into()),
            Some(Trust::System(false)) | None => BackendTrust::Nobody,
        },
    }
}

fn number(port: u32) -> Result<u16, Invalid> {
    u16::try_from(port).map_err(|_| Invalid::new("ports", "a port is out of range"))
}

/// The second part of the uid of an address that no workload owns.
const STATIC: &str = "discovery.k8s.io";
/// Bytes of one resource: as much as etcd holds for one object, and a policy is hardly larger than what it came from.
const MAX_RESOURCE: usize = 4 << 20;
/// Bytes of a credential: what a Secret may have.
const MAX_CREDENTIAL: usize = 1 << 20;
/// Bytes of a namespace, or of the name of a Secret.
const MAX_NAME: usize = 253;
/// Bytes of a name.
const MAX_TEXT: usize = 2048;
/// Texts kept, of each kind.
const MAX_KEPT: usize = 1 << 20;
