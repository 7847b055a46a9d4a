//! What is known of the objects that Gateways and routes refer to, and of those that run Gateways.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Service as KubeService};

use super::{GROUP, Name};
use crate::model::is_ready;
use crate::resource::{Material, Object, ObjectKey, Spec};
use crate::waypoint::GATEWAY_NAME;

/// The little that statuses need of Services, Pods, Secrets, `ConfigMaps` and `ServiceEntries`.
#[derive(Debug, Default)]
pub struct Facts {
    services: BTreeMap<Key, Service>,
    secrets: BTreeMap<Key, Holds>,
    /// Whether they hold authorities, and all that they hold: only those are read that something names.
    config_maps: BTreeMap<Key, (Holds, Data)>,
    /// Hosts of `ServiceEntries`.
    hosts: BTreeMap<Key, Vec<Arc<str>>>,
    /// Pods that are ready, and the Gateway whose each says that it is.
    pods: BTreeMap<Key, Arc<str>>,
    /// How many of them each Gateway has.
    ready: BTreeMap<Key, usize>,
    /// What keeps the objects of a Gateway from being made.
    obstacles: BTreeMap<Key, Arc<str>>,
}

type Data = Arc<BTreeMap<String, String>>;

type Key = (Arc<str>, Arc<str>);

/// What there is in a Secret or ConfigMap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holds {
    /// A certificate with its key.
    certificate: bool,
    /// Authorities.
    authorities: bool,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    /// Of TCP.
    pub(super) ports: Vec<u16>,
    /// Of UDP.
    pub(super) udp_ports: Vec<u16>,
    /// The names of these.
    pub(super) port_names: Vec<Arc<str>>,
    /// Where it is in the cluster.
    pub(super) cluster_ip: Option<IpAddr>,
    /// Addresses of IP, and names, from outside if it has any there.
    pub(super) addresses: Vec<Arc<str>>,
    /// The Gateway whose process it leads to, by label.
    pub(super) gateway: Option<Arc<str>>,
    /// The UID of the Gateway that it was made for.
    pub(super) owner: Option<Arc<str>>,
}

impl Facts {
    /// Takes note of an object, new or changed. Returns whether that may change a status.
    pub fn apply(&mut self, object: &Object) -> bool {
        let key = (Arc::clone(&object.meta.namespace), Arc::clone(&object.meta.name));
        match &object.spec {
            Spec::Service(service) => {
                let service = Service::of(object, service);
                self.services.insert(key, service.clone()) != Some(service)
            }
            Spec::Secret(secret) => {
                let has = |material: &Option<Material>, sort: &str| {
                    material.as_ref().is_some_and(|it| begins_like_pem(it.expose(), sort))
                };
                let certificate = has(&secret.certificate, "CERTIFICATE") && has(&secret.key, "PRIVATE KEY");
                let holds = Holds { certificate, authorities: secret.ca.is_some() };
                self.secrets.insert(key, holds) != Some(holds)
            }
            Spec::ConfigMap(map) => {
                let holds = Holds { certificate: false, authorities: authorities_in(map).is_some() };
                let new = (holds, Arc::new(map.data.clone().unwrap_or_default()));
                self.config_maps.insert(key, new.clone()) != Some(new)
            }
            Spec::Pod(pod) => {
                let is_ready = pod.metadata.deletion_timestamp.is_none() && is_ready(pod);
                let gateway = object.meta.labels.get(GATEWAY_NAME).filter(|_| is_ready);
                self.set_ready(&key, gateway.map(String::as_str))
            }
            Spec::ServiceEntry(entry) => {
                let hosts: Vec<_> = entry.hosts.iter().map(|host| host.to_string().into()).collect();
                self.hosts.insert(key, hosts.clone()) != Some(hosts)
            }
            _ => false,
        }
    }

    /// There is no such object any more. Returns whether that may change a status.
    pub fn remove(&mut self, key: &ObjectKey) -> bool {
        let name = (Arc::clone(&key.namespace), Arc::clone(&key.name));
        match key.kind {
            "Service" => self.services.remove(&name).is_some(),
            "Secret" => self.secrets.remove(&name).is_some(),
            "ConfigMap" => self.config_maps.remove(&name).is_some(),
            "ServiceEntry" => self.hosts.remove(&name).is_some(),
            "Pod" => self.set_ready(&name, None),
            "KubernetesGateway" => self.obstacles.remove(&name).is_some(),
            _ => false,
        }
    }

    /// Takes note of what keeps the objects of a Gateway from being made, or that nothing does. Returns whether that may
    /// change a status.
    pub fn set_obstacle(&mut self, gateway: &ObjectKey, why: Option<&str>) -> bool {
        let name = (Arc::clone(&gateway.namespace), Arc::clone(&gateway.name));
        let why = why.map(Arc::from);
        let differs = self.obstacles.get(&name) != why.as_ref();
        match why {
            Some(why) => drop(self.obstacles.insert(name, why)),
            None => drop(self.obstacles.remove(&name)),
        }
        differs
    }

    /// What keeps the objects of a Gateway from being made.
    pub(super) fn obstacle(&self, gateway: Name<'_>) -> Option<&str> {
        self.obstacles.get(&key(gateway)).map(|why| &**why)
    }

    /// Whether any pod of a Gateway is ready.
    pub(super) fn is_ready(&self, gateway: Name<'_>) -> bool {
        self.ready.contains_key(&key(gateway))
    }

    /// Returns whether a Gateway has its first pod by it, or has lost its last.
    fn set_ready(&mut self, pod: &Key, gateway: Option<&str>) -> bool {
        let of = |gateway: &str| (Arc::clone(&pod.0), Arc::from(gateway));
        let before = match gateway {
            Some(gateway) => self.pods.insert(pod.clone(), gateway.into()),
            None => self.pods.remove(pod),
        };
        if before.as_deref() == gateway {
            return false;
        }
        let mut differs = false;
        if let Some(gateway) = gateway {
            let pods = self.ready.entry(of(gateway)).or_default();
            *pods += 1;
            differs = *pods == 1;
        }
        let left = before.map(|before| of(&before));
        if let Some(pods) = left.as_ref().and_then(|left| self.ready.get_mut(left)) {
            *pods -= 1;
            if *pods == 0 {
                differs = true;
                self.ready.retain(|_, pods| *pods > 0);
            }
        }
        differs
    }

    /// The Service of this name.
    pub(super) fn service(&self, name: Name<'_>) -> Option<&Service> {
        self.services.get(&key(name))
    }

    /// The Service that leads to the process of a Gateway: one that is labelled so, else of its name, alone or with that
    /// of the class.
    pub(super) fn service_of(&self, gateway: Name<'_>) -> Option<(&str, &Service)> {
        let (namespace, name) = gateway;
        let labelled = || {
            let from = (Arc::from(namespace), Arc::from(""));
            let mut own = self.services.range(from..).take_while(|((of, _), _)| **of == *namespace);
            own.find(|(_, it)| it.gateway.as_deref() == Some(name)).map(|((_, name), it)| (&**name, it))
        };
        let named = |name: &str| {
            let (key, service) = self.services.get_key_value(&key((namespace, name)))?;
            Some((&*key.1, service))
        };
        labelled().or_else(|| named(name)).or_else(|| named(&format!("{name}-istio")))
    }

    /// Whether there is such a Secret, and it has a certificate with a key.
    pub(super) fn has_certificate(&self, name: Name<'_>) -> bool {
        self.secrets.get(&key(name)).is_some_and(|it| it.certificate)
    }

    /// The Service that was made for a Gateway.
    pub(super) fn service_made_for(&self, namespace: &str, uid: Option<&str>) -> Option<(&str, &Service)> {
        let uid = uid?;
        let from = (Arc::from(namespace), Arc::from(""));
        let mut own = self.services.range(from..).take_while(|((of, _), _)| **of == *namespace);
        own.find(|(_, it)| it.owner.as_deref() == Some(uid)).map(|((_, name), it)| (&**name, it))
    }

    /// What a ConfigMap holds.
    pub(super) fn config_map(&self, name: Name<'_>) -> Option<&BTreeMap<String, String>> {
        self.config_maps.get(&key(name)).map(|(_, data)| &**data)
    }

    /// Whether a ConfigMap or Secret is there and has authorities.
    pub(super) fn has_authorities(&self, object: &ObjectKey) -> bool {
        let name = (Arc::clone(&object.namespace), Arc::clone(&object.name));
        let holds = match object.kind {
            "Secret" => self.secrets.get(&name),
            _ => self.config_maps.get(&name).map(|(holds, _)| holds),
        };
        holds.is_some_and(|it| it.authorities)
    }

    /// Whether a ServiceEntry has this host.
    pub(super) fn has_host(&self, host: &str) -> bool {
        self.hosts.values().flatten().any(|it| **it == *host)
    }
}

impl Service {
    fn of(object: &Object, service: &KubeService) -> Self {
        let spec = service.spec.clone().unwrap_or_default();
        let of = |protocol: &'static str| {
            let all = spec.ports.iter().flatten();
            all.filter(move |port| port.protocol.as_deref().unwrap_or("TCP") == protocol)
        };
        let tcp = || of("TCP");
        let ports = tcp().filter_map(|port| u16::try_from(port.port).ok()).collect();
        let udp_ports = of("UDP").filter_map(|port| u16::try_from(port.port).ok()).collect();
        let port_names = tcp().filter_map(|port| port.name.as_deref().map(Arc::from)).collect();
        let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress = status.and_then(|it| it.ingress.as_deref()).unwrap_or_default().iter();
        let balancers = ingress.filter_map(|it| it.ip.clone().or_else(|| it.hostname.clone()));
        let mut addresses: Vec<Arc<str>> =
            balancers.chain(spec.external_ips.unwrap_or_default()).map(Arc::from).collect();
        let is_balanced = spec.type_.as_deref() == Some("LoadBalancer");
        if addresses.is_empty() && !is_balanced {
            let (name, namespace) = (&object.meta.name, &object.meta.namespace);
            addresses.push(format!("{name}.{namespace}.svc.cluster.local").into());
        }
        let gateway = object.meta.labels.get(GATEWAY_NAME).map(|name| Arc::from(name.as_str()));
        let mut owners = service.metadata.owner_references.iter().flatten();
        let owner = owners.find(|owner| owner.kind == "Gateway" && owner.api_version.starts_with(GROUP));
        let owner = owner.map(|owner| Arc::from(owner.uid.as_str()));
        let cluster_ip = spec.cluster_ip.and_then(|ip| ip.parse().ok());
        Self { ports, udp_ports, port_names, cluster_ip, addresses, gateway, owner }
    }
}

/// Whether there is something of this sort in what should be PEM. Whoever serves with it reads it in earnest.
fn begins_like_pem(bytes: &[u8], sort: &str) -> bool {
    let text = String::from_utf8_lossy(bytes);
    text.lines()
        .any(|line| line.trim_end().ends_with(&format!("{sort}-----")) && line.starts_with("-----BEGIN "))
}

/// The authorities that a ConfigMap holds, PEM.
pub(crate) fn authorities_in(map: &ConfigMap) -> Option<&str> {
    let text = map.data.as_ref()?.get("ca.crt")?;
    text.contains("-----BEGIN CERTIFICATE-----").then_some(text)
}

fn key((namespace, name): Name<'_>) -> Key {
    (namespace.into(), name.into())
}
