//! The objects themselves, before parameters change them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};

use super::parameters::{Fault, Parameters};
use super::{Generated, GeneratedKind, MAX_LABEL, Role, Settings};
use crate::gateway_api::{Gateway, Resources};
use crate::model::WAYPOINT_PORT;
use crate::resource::gateway_api::{AddressKind, Protocol};
use crate::waypoint::GATEWAY_NAME;

/// What differs from Gateway to Gateway.
pub(super) struct Template<'g, 'a> {
    gateway: &'g Gateway<'a>,
    role: Role,
    /// The name of all objects but, maybe, the account.
    name: String,
    account: String,
    /// Whether the user has named the account.
    is_own_account: bool,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    ports: Vec<ServicePort>,
    service_type: &'static str,
    /// A variable that says where the control plane is.
    control: Option<(String, IpAddr)>,
}

/// A port of the Service.
#[derive(Debug, PartialEq, Eq)]
struct ServicePort {
    name: String,
    number: u16,
    protocol: String,
}

impl<'g, 'a> Template<'g, 'a> {
    pub(super) fn new(
        resources: &Resources<'a>,
        gateway: &'g Gateway<'a>,
        role: Role,
    ) -> Result<Self, Fault> {
        let meta = &gateway.object.meta;
        let default = match role {
            Role::Gateway => format!("{}-{}", meta.name, &*gateway.spec.gateway_class_name),
            Role::Waypoint => meta.name.to_string(),
        };
        let named = |annotation: &str| meta.annotations.get(annotation).map(|name| checked(annotation, name));
        let name = named(NAME_OVERRIDE).transpose()?;
        let is_own_account = meta.annotations.contains_key(ACCOUNT_OVERRIDE);
        let account = named(ACCOUNT_OVERRIDE).transpose()?;
        let infrastructure = &gateway.spec.infrastructure;
        // Without any of its own for them, what a Gateway itself is marked with is passed on; Istio's rule.
        let own = |given: &BTreeMap<String, String>, own: &BTreeMap<String, String>| {
            if given.is_empty() { own.clone() } else { given.clone() }
        };
        let mut annotations = own(&infrastructure.annotations, &meta.annotations);
        annotations.retain(|key, _| !NOT_PASSED_ON.contains(&key.as_str()));
        Ok(Self {
            gateway,
            role,
            name: name.unwrap_or_else(|| shortened(&default)),
            account: account.unwrap_or_else(|| shortened(&default)),
            is_own_account,
            labels: own(&infrastructure.labels, &meta.labels),
            annotations,
            ports: ports(resources, gateway, role),
            service_type: service_type(&meta.annotations, role)?,
            control: None,
        })
    }

    /// The same for pods that are told where the control plane is.
    pub(super) fn knowing(self, control: Option<(String, IpAddr)>) -> Self {
        Self { control, ..self }
    }

    /// The object of a kind; `None` if there is to be none.
    pub(super) fn make(
        &self,
        kind: GeneratedKind,
        settings: &Settings,
        parameters: &Parameters,
    ) -> Result<Option<Generated>, Fault> {
        let mut object = match kind {
            GeneratedKind::ServiceAccount => self.account(),
            GeneratedKind::Deployment => self.deployment(settings),
            GeneratedKind::Service => self.service(),
            // What these say by themselves is of no use: they are for those who say more.
            _ if !parameters.has(kind) => return Ok(None),
            GeneratedKind::HorizontalPodAutoscaler => self.autoscaler(),
            GeneratedKind::PodDisruptionBudget => self.budget(),
        };
        parameters.apply(kind, &mut object)?;
        let is_account = kind == GeneratedKind::ServiceAccount;
        Ok(Some(Generated {
            kind,
            namespace: self.gateway.object.meta.namespace.clone(),
            name: if is_account { self.account.clone() } else { self.name.clone() },
            may_be_foreign: is_account && self.is_own_account,
            object,
        }))
    }

    fn account(&self) -> Value {
        self.object(GeneratedKind::ServiceAccount, &self.account, json!({}))
    }

    fn service(&self) -> Value {
        let port = |port: &ServicePort| json!({"name": port.name, "port": port.number, "protocol": "TCP", "appProtocol": port.protocol});
        let mut spec = json!({
            "type": self.service_type,
            "ipFamilyPolicy": "PreferDualStack",
            "selector": self.selector(),
            "ports": self.ports.iter().map(port).collect::<Vec<_>>(),
        });
        let asked = self.gateway.spec.addresses.iter().find_map(|it| match it.kind {
            AddressKind::Ip(ip) => ip,
            _ => None,
        });
        if let Some(ip) = asked.filter(|_| self.service_type == LOAD_BALANCER) {
            spec["loadBalancerIP"] = json!(ip.to_string());
        }
        let mut service = self.object(GeneratedKind::Service, &self.name, json!({"spec": spec}));
        if self.role == Role::Waypoint && !self.annotations.contains_key(DISTRIBUTION) {
            service["metadata"]["annotations"][DISTRIBUTION] = json!("PreferClose");
        }
        service
    }

    fn autoscaler(&self) -> Value {
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": self.name});
        let spec = json!({"scaleTargetRef": target, "maxReplicas": 1});
        self.object(GeneratedKind::HorizontalPodAutoscaler, &self.name, json!({"spec": spec}))
    }

    fn budget(&self) -> Value {
        let spec = json!({"selector": {"matchLabels": self.selector()}});
        self.object(GeneratedKind::PodDisruptionBudget, &self.name, json!({"spec": spec}))
    }

    fn deployment(&self, settings: &Settings) -> Value {
        let metadata = json!({"labels": self.pod_labels(), "annotations": self.pod_annotations()});
        let spec = json!({
            "selector": {"matchLabels": self.selector()},
            "template": {"metadata": metadata, "spec": self.pod(settings)},
        });
        self.object(GeneratedKind::Deployment, &self.name, json!({"spec": spec}))
    }

    fn pod(&self, settings: &Settings) -> Value {
        let mut security = json!({
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        });
        if self.role == Role::Gateway {
            // Ports below 1024 are anybody's then, in this pod, and take no privilege.
            security["sysctls"] = json!([{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]);
        }
        let apart = json!({
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": self.selector()},
        });
        let token = json!({"path": TOKEN.1, "audience": "istio-ca", "expirationSeconds": 43_200});
        json!({
            "serviceAccountName": self.account,
            // It asks the API server for nothing.
            "automountServiceAccountToken": false,
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "topologySpreadConstraints": [apart],
            // Connections may go on for 25 s.
            "terminationGracePeriodSeconds": 30,
            "securityContext": security,
            "containers": [self.container(settings)],
            "volumes": [
                {"name": "root-cert", "configMap": {"name": "istio-ca-root-cert"}},
                {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
                // In memory: certificates and keys never touch a disk.
                {"name": "run", "emptyDir": {"medium": "Memory"}},
                {"name": "state", "emptyDir": {}},
            ],
        })
    }

    fn container(&self, settings: &Settings) -> Value {
        let probe = |each: Value| {
            let mut probe =
                json!({"httpGet": {"path": "/healthz/ready", "port": READY}, "timeoutSeconds": 1});
            for (key, value) in each.as_object().into_iter().flatten() {
                probe[key] = value.clone();
            }
            probe
        };
        let mut container = json!({
            // Istio's name, so that patches for its container are for this one.
            "name": "istio-proxy",
            "image": settings.image,
            // The image has the other programs of the mesh as well.
            "command": ["mesh-node"],
            "args": self.arguments(settings),
            "ports": [
                {"name": "metrics", "containerPort": METRICS, "protocol": "TCP"},
                {"name": "status-port", "containerPort": READY, "protocol": "TCP"},
            ],
            "startupProbe": probe(json!({"failureThreshold": 30, "initialDelaySeconds": 1, "periodSeconds": 1})),
            "readinessProbe": probe(json!({"failureThreshold": 4, "periodSeconds": 15})),
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
            "securityContext": {
                "privileged": false, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": "root-cert", "mountPath": ROOTS.0, "readOnly": true},
                {"name": "token", "mountPath": TOKEN.0, "readOnly": true},
                {"name": "run", "mountPath": "/run/mesh"},
                {"name": "state", "mountPath": STATE},
            ],
        });
        if let Some((name, address)) = &self.control {
            container["env"] = json!([{"name": name, "value": address.to_string()}]);
        }
        container
    }

    fn arguments(&self, settings: &Settings) -> Vec<String> {
        let (namespace, name) = self.gateway.name();
        vec![
            self.role.name().to_owned(),
            format!("--name={namespace}/{name}"),
            format!("--service-account={}", self.account),
            format!("--label={GATEWAY_NAME}={name}"),
            format!("--control={}", settings.control),
            format!("--control-ca={}/{}", ROOTS.0, ROOTS.1),
            format!("--token={}/{}", TOKEN.0, TOKEN.1),
            format!("--state={STATE}"),
            format!("--trust-domain={}", settings.trust_domain),
        ]
    }

    fn pod_labels(&self) -> BTreeMap<String, String> {
        let first = [
            ("sidecar.istio.io/inject", "false"),
            // It speaks to the mesh as itself, and is reached by those outside of it.
            ("istio.io/dataplane-mode", "none"),
            ("service.istio.io/canonical-name", &*self.name),
            ("service.istio.io/canonical-revision", "latest"),
        ];
        let mut labels: BTreeMap<_, _> = first.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        labels.extend(self.object_labels());
        labels
    }

    fn pod_annotations(&self) -> BTreeMap<String, String> {
        let mut annotations = self.annotations.clone();
        let metrics = METRICS.to_string();
        let told = [("path", "/stats/prometheus"), ("port", metrics.as_str()), ("scrape", "true")];
        annotations.extend(told.map(|(key, value)| (format!("prometheus.io/{key}"), value.to_owned())));
        annotations
    }

    fn object_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        let own = [
            (GATEWAY_NAME, self.gateway.name().1),
            (CLASS_NAME, &*self.gateway.spec.gateway_class_name),
            (MANAGED, self.role.managed_by()),
        ];
        labels.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
        labels
    }

    fn selector(&self) -> Value {
        json!({GATEWAY_NAME: self.gateway.name().1})
    }

    /// `rest`, with what stands around it.
    fn object(&self, kind: GeneratedKind, name: &str, rest: Value) -> Value {
        let meta = &self.gateway.object.meta;
        let owner = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "name": &*meta.name, "uid": meta.uid.as_deref().unwrap_or_default(),
        });
        let mut object = rest;
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(kind.name());
        object["metadata"] = json!({
            "name": name, "namespace": &*meta.namespace, "labels": self.object_labels(),
            "annotations": self.annotations, "ownerReferences": [owner],
        });
        object
    }
}

/// The ports that clients are served at, each once, after that for probes.
fn ports(resources: &Resources<'_>, gateway: &Gateway<'_>, role: Role) -> Vec<ServicePort> {
    let mut all =
        vec![ServicePort { name: "status-port".to_owned(), number: READY, protocol: "tcp".to_owned() }];
    let mut names = BTreeSet::from(["status-port".to_owned()]);
    let listeners = resources.listeners(gateway);
    let listeners = listeners.iter().filter(|it| match role {
        Role::Gateway => it.fault.is_none(),
        Role::Waypoint => it.spec.protocol == Protocol::Hbone && it.spec.port.get() == WAYPOINT_PORT,
    });
    for listener in listeners {
        let (number, protocol) = (listener.spec.port.get(), listener.spec.protocol.as_str());
        if all.iter().any(|port| port.number == number) {
            continue;
        }
        let protocol = protocol.to_ascii_lowercase();
        // A port's name is a label of at most 63 characters, a listener's is a name of DNS.
        let mut name = shortened(&listener.spec.name.replace('.', "-"));
        if !names.insert(name.clone()) {
            name = format!("{protocol}-{number}");
            names.insert(name.clone());
        }
        all.push(ServicePort { name, number, protocol });
    }
    all
}

fn service_type(annotations: &BTreeMap<String, String>, role: Role) -> Result<&'static str, Fault> {
    let Some(given) = annotations.get(SERVICE_TYPE) else {
        return Ok(if role == Role::Gateway { LOAD_BALANCER } else { "ClusterIP" });
    };
    let types = [LOAD_BALANCER, "NodePort", "ClusterIP"];
    types
        .into_iter()
        .find(|known| known == given)
        .ok_or_else(|| Fault(format!("annotation {SERVICE_TYPE}: {given:?} is none of {}", types.join(", "))))
}

/// The name that an annotation gives to an object.
fn checked(annotation: &str, name: &str) -> Result<String, Fault> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_label = (1..=MAX_LABEL).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    let why = || {
        Fault(format!(
            "annotation {annotation}: {name:?} is no name for an object: at most {MAX_LABEL} of a-z, 0-9 and -"
        ))
    };
    is_label.then(|| name.to_owned()).ok_or_else(why)
}

/// As much of a name as fits, and something that tells it from others that begin alike.
fn shortened(name: &str) -> String {
    if name.len() <= MAX_LABEL {
        return name.to_owned();
    }
    // FNV-1a: the same name comes to the same in every version of the program.
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let kept: String = name.chars().take(MAX_LABEL - 9).collect();
    format!("{}-{hash:08x}", kept.trim_end_matches('-'))
}

const NAME_OVERRIDE: &str = "gateway.istio.io/name-override";
const ACCOUNT_OVERRIDE: &str = "gateway.istio.io/service-account";
const SERVICE_TYPE: &str = "networking.istio.io/service-type";
const DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";
/// Annotations that are about the Gateway itself.
const NOT_PASSED_ON: [&str; 4] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    NAME_OVERRIDE,
    ACCOUNT_OVERRIDE,
    "gateway.istio.io/controller-version",
];
const CLASS_NAME: &str = "gateway.networking.k8s.io/gateway-class-name";
const MANAGED: &str = "gateway.istio.io/managed";
const LOAD_BALANCER: &str = "LoadBalancer";
/// Readiness and metrics, as in Istio.
const READY: u16 = 15021;
const METRICS: u16 = 15020;
/// Nobody's number in particular; Istio's.
const USER: u32 = 1337;
/// Directory and file of the roots of the control plane, and of the token that is shown to it.
const ROOTS: (&str, &str) = ("/var/run/secrets/istio", "root-cert.pem");
const TOKEN: (&str, &str) = ("/var/run/secrets/tokens", "istio-token");
/// What the control plane told last, for a container that starts again.
const STATE: &str = "/var/lib/mesh";
