//! Which hosts there are: Services and `ServiceEntries` by every name that rules can use.

use std::collections::{BTreeSet, HashMap, HashSet};

use k8s_openapi::api::core::v1 as kube;

use super::workloads::Labels;
use crate::model::{MAX_ALIASES, real_name};
use crate::resource::networking::ServiceEntrySpec;
use crate::resource::value::{ExportTo, Host};
use crate::resource::{Object, Parsed, Rejected, Spec};

/// A service that rules can name.
#[derive(Debug)]
pub(super) struct Service<'a> {
    pub(super) object: &'a Object,
    /// Ports for TCP, ascending.
    pub(super) ports: Vec<u16>,
    /// Which workloads it is made of, if labels say so.
    pub(super) selector: Option<&'a Labels>,
    /// The name that it is an alias of, if it is one: then its ports say nothing.
    pub(super) real_name: Option<&'a str>,
    visible: Visibility<'a>,
}

/// Which namespaces see an object.
#[derive(Debug)]
enum Visibility<'a> {
    All,
    In(Vec<&'a str>),
}

/// All services by host.
#[derive(Debug, Default)]
pub(super) struct Hosts<'a> {
    by_name: HashMap<String, Vec<Service<'a>>>,
    /// By what follows the star.
    by_suffix: HashMap<String, Vec<Service<'a>>>,
    /// Lengths of those, which spares looking for others.
    suffix_lengths: BTreeSet<usize>,
    /// Everything that a wildcard could end with to cover a known host.
    endings: HashSet<String>,
    /// Namespaces of Services by name, for hints.
    namespaces: HashMap<&'a str, Vec<&'a str>>,
    /// One Service of each namespace.
    first_of: HashMap<&'a str, &'a Object>,
    /// Services that are there but were refused: nothing is known of them but the name.
    refused: HashSet<String>,
    /// A `ServiceEntry` was refused, so any host may be one of its.
    refused_entry: bool,
}

/// What is known of a host.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lookup<'h, 'a> {
    /// It is this service.
    Found(&'h Service<'a>),
    /// There may be one, of which nothing else is known.
    Unknown,
    /// There is none that the namespace sees.
    Missing,
}

impl<'a> Hosts<'a> {
    pub(super) fn of(parsed: &'a Parsed) -> Self {
        let mut hosts = Self::default();
        for object in &parsed.objects {
            match &object.spec {
                Spec::Service(service) => hosts.insert_service(object, service),
                Spec::ServiceEntry(entry) => {
                    for host in &entry.hosts {
                        hosts.insert(host, entry_service(object, entry));
                    }
                }
                _ => {}
            }
        }
        for key in parsed.rejected.iter().filter_map(|Rejected { key, .. }| key.as_ref()) {
            match key.kind {
                "Service" => _ = hosts.refused.insert(cluster_host(&key.name, &key.namespace)),
                "ServiceEntry" => hosts.refused_entry = true,
                _ => {}
            }
        }
        hosts
    }

    fn insert_service(&mut self, object: &'a Object, service: &'a kube::Service) {
        let (name, namespace) = (&*object.meta.name, &*object.meta.namespace);
        let spec = service.spec.as_ref();
        let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let is_tcp = |port: &&kube::ServicePort| port.protocol.as_deref().is_none_or(|it| it == "TCP");
        let mut ports: Vec<u16> =
            ports.iter().filter(is_tcp).filter_map(|port| u16::try_from(port.port).ok()).collect();
        ports.sort_unstable();
        let exported = object.meta.annotations.get(EXPORT_TO).map(String::as_str);
        let known = Service {
            object,
            ports,
            selector: spec.and_then(|spec| spec.selector.as_ref()).filter(|selector| !selector.is_empty()),
            real_name: real_name(service),
            visible: exported.map_or(Visibility::All, |text| annotated(text, namespace)),
        };
        self.namespaces.entry(name).or_default().push(namespace);
        self.first_of.entry(namespace).or_insert(object);
        self.insert(&Host::Name(cluster_host(name, namespace).into()), known);
    }

    fn insert(&mut self, host: &Host, service: Service<'a>) {
        match host {
            Host::Name(name) => {
                let labels = name.match_indices('.').filter_map(|(dot, _)| name.get(dot..));
                self.endings.extend(labels.map(str::to_owned));
                self.by_name.entry(name.to_string()).or_default().push(service);
            }
            Host::Suffix(suffix) => {
                self.suffix_lengths.insert(suffix.len());
                let labels = suffix.match_indices('.').filter_map(|(dot, _)| suffix.get(dot..));
                self.endings.extend(labels.map(str::to_owned));
                self.by_suffix.entry(suffix.to_string()).or_default().push(service);
            }
            Host::Address(address) => self.by_name.entry(address.to_string()).or_default().push(service),
            Host::Any => {}
        }
    }

    /// The service that `host` means in a rule of `namespace`.
    pub(super) fn resolve(&self, host: &Host, namespace: &str) -> Lookup<'_, 'a> {
        let text = |host: &Host| match host {
            Host::Any => String::new(),
            Host::Suffix(suffix) => suffix.to_string(),
            other => other.to_string(),
        };
        let qualified = text(&host.qualified(namespace, CLUSTER_DOMAIN));
        let names = [qualified.as_str(), &text(host)];
        let exact = names.iter().filter_map(|name| match host {
            Host::Any | Host::Suffix(_) => self.by_suffix.get(*name),
            _ => self.by_name.get(*name),
        });
        let covering = self.suffixes_of(&qualified).filter_map(|suffix| self.by_suffix.get(suffix));
        let mut services = exact.chain(covering).flatten();
        match services.find(|service| service.is_visible_in(namespace)) {
            Some(service) => Lookup::Found(service),
            None if self.refused.contains(&qualified) => Lookup::Unknown,
            None if self.refused_entry && !qualified.ends_with(CLUSTER_SUFFIX) => Lookup::Unknown,
            None => Lookup::Missing,
        }
    }

    /// Where `service`, seen from `namespace`, leads in the end: the name, and what has it. `None` if it leads in a circle.
    pub(super) fn real<'n>(&self, real: &'n str, namespace: &str) -> Option<(Host, Lookup<'_, 'a>)>
    where
        'a: 'n,
    {
        let mut name = real;
        for _ in 0..MAX_ALIASES {
            let host = Host::Name(name.into());
            match self.resolve(&host, namespace) {
                Lookup::Found(Service { real_name: Some(real), .. }) => name = real,
                other => return Some((host, other)),
            }
        }
        None
    }

    /// The Service of Kubernetes that a qualified host is, or one that it covers, whoever sees it.
    pub(super) fn owner(&self, host: &Host) -> Option<&'a Object> {
        let service = |known: &Vec<Service<'a>>| {
            let mut objects = known.iter().map(|service| service.object);
            objects.find(|object| matches!(object.spec, Spec::Service(_)))
        };
        match host {
            Host::Name(name) => self.by_name.get(&**name).and_then(service),
            // All of a namespace; nobody needs to write another.
            Host::Suffix(suffix) => {
                let namespace = suffix.strip_suffix(CLUSTER_SUFFIX)?.strip_prefix('.')?;
                self.first_of.get(namespace).copied()
            }
            Host::Any | Host::Address(_) => None,
        }
    }

    /// Whether a wildcard stands for any known host.
    pub(super) fn covers_any(&self, host: &Host) -> bool {
        match host {
            Host::Any => !self.by_name.is_empty() || !self.by_suffix.is_empty(),
            Host::Suffix(suffix) if suffix.starts_with('.') => self.endings.contains(&**suffix),
            // A star for a part of a label: rare enough to compare with all.
            Host::Suffix(suffix) => self.by_name.keys().any(|name| name.ends_with(&**suffix)),
            Host::Name(_) | Host::Address(_) => false,
        }
    }

    /// Another namespace that has a Service of this name, as rules would have to write it.
    pub(super) fn elsewhere(&self, host: &Host) -> Option<String> {
        let Host::Name(text) = host else { return None };
        let mut parts = text.split('.');
        let name = parts.next()?;
        let wanted = parts.next();
        let namespaces = self.namespaces.get(name)?;
        let namespace = namespaces.iter().find(|namespace| Some(**namespace) == wanted);
        namespace.or(namespaces.first()).map(|namespace| cluster_host(name, namespace))
    }

    fn suffixes_of<'t>(&'t self, text: &'t str) -> impl Iterator<Item = &'t str> {
        // The longest first, which is the one that wins.
        self.suffix_lengths.iter().rev().filter_map(|length| {
            let start = text.len().checked_sub(*length).filter(|start| *start > 0)?;
            text.get(start..)
        })
    }
}

impl Service<'_> {
    fn is_visible_in(&self, namespace: &str) -> bool {
        match &self.visible {
            Visibility::All => true,
            Visibility::In(namespaces) => namespaces.contains(&namespace),
        }
    }
}

/// The namespaces that `exportTo` means, for an object of namespace `own`; `None` for all.
pub(super) fn exported<'a>(entries: &'a [ExportTo], own: &'a str) -> Option<Vec<&'a str>> {
    let namespace = |entry: &'a ExportTo| match entry {
        ExportTo::All => None,
        ExportTo::Own => Some(own),
        // No namespace has an empty name.
        ExportTo::Nobody => Some(""),
        ExportTo::Namespace(name) => Some(&**name),
    };
    if entries.is_empty() { None } else { entries.iter().map(namespace).collect() }
}

/// `name.namespace.svc.cluster.local`.
pub(super) fn cluster_host(name: &str, namespace: &str) -> String {
    format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}")
}

fn entry_service<'a>(object: &'a Object, entry: &'a ServiceEntrySpec) -> Service<'a> {
    let mut ports: Vec<u16> = entry.ports.iter().map(|port| port.number.get()).collect();
    ports.sort_unstable();
    Service {
        object,
        ports,
        selector: entry.workload_selector.as_ref().map(|selector| &selector.labels),
        real_name: None,
        visible: exported(&entry.export_to, &object.meta.namespace).map_or(Visibility::All, Visibility::In),
    }
}

/// As [`exported`], of the annotation that Services have instead of the field.
fn annotated<'a>(text: &'a str, own: &'a str) -> Visibility<'a> {
    let entries: Vec<_> = text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
    if entries.is_empty() || entries.contains(&"*") {
        return Visibility::All;
    }
    Visibility::In(entries.into_iter().map(|entry| if entry == "." { own } else { entry }).collect())
}

/// Where Services have their names.
pub(super) const CLUSTER_DOMAIN: &str = "cluster.local";
/// What the names of Services end with.
const CLUSTER_SUFFIX: &str = ".svc.cluster.local";
/// Who sees a Service.
const EXPORT_TO: &str = "networking.istio.io/exportTo";
