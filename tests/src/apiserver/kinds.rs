//! Which resources the server has: a fixed table of Kubernetes' own, and whatever definitions of custom resources are
//! created.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::status::Refusal;

/// A resource: the objects of one kind.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about a kind")]
pub struct Resource {
    /// The API group; empty for the core.
    pub group: String,
    /// Served versions, the preferred one first.
    pub versions: Vec<String>,
    /// As `kind:` spells it.
    pub kind: String,
    /// As paths spell it.
    pub plural: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether `status` is written through a path of its own only.
    pub status: bool,
    /// Whether it is defined by a `CustomResourceDefinition`.
    pub custom: bool,
    /// Whether `metadata.generation` counts the changes of what is not status.
    pub generation: bool,
    /// Whether an update may leave out the version it is based on.
    pub unconditional: bool,
    /// Whether an update may create.
    pub create_on_update: bool,
    /// Fields that can be selected by, besides name and namespace.
    pub fields: Vec<String>,
    /// How lists are merged, where not as a whole.
    pub lists: Lists,
}

/// Lists whose items are merged one by one: the path of the list (names of fields joined by dots), and the fields that
/// tell items apart; none, if the items themselves do.
pub type Lists = BTreeMap<String, Vec<String>>;

/// All resources.
#[derive(Debug, Clone)]
pub(super) struct Registry {
    resources: Vec<Arc<Resource>>,
}

impl Registry {
    pub(super) fn new() -> Self {
        Self { resources: BUILT_IN.iter().map(|row| Arc::new(row.resource())).collect() }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter()
    }

    /// The resource at a path.
    pub(super) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        let has = |resource: &&Arc<Resource>| {
            resource.group == group
                && resource.plural == plural
                && resource.versions.iter().any(|it| it == version)
        };
        self.resources.iter().find(has)
    }

    /// The resource of a kind.
    pub(super) fn of_kind(&self, group: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.resources.iter().find(|resource| resource.group == group && resource.kind == kind)
    }

    /// Adds or replaces a custom resource.
    pub(super) fn define(&mut self, resource: Resource) {
        self.remove(&resource.group, &resource.plural);
        self.resources.push(Arc::new(resource));
    }

    pub(super) fn remove(&mut self, group: &str, plural: &str) {
        self.resources.retain(|it| !(it.group == group && it.plural == plural));
    }
}

impl Resource {
    /// A namespaced custom resource with a status.
    pub fn custom(group: &str, versions: &[&str], kind: &str, plural: &str) -> Self {
        Self {
            group: group.into(),
            versions: versions.iter().copied().map(str::to_owned).collect(),
            kind: kind.into(),
            plural: plural.into(),
            namespaced: true,
            status: true,
            custom: true,
            generation: true,
            unconditional: false,
            create_on_update: false,
            fields: Vec::new(),
            lists: BTreeMap::from([("status.conditions".to_owned(), vec!["type".to_owned()])]),
        }
    }

    /// What a `CustomResourceDefinition` defines.
    pub(super) fn defined_by(definition: &Value) -> Result<Self, Refusal> {
        let text = |pointer: &str| {
            let value = definition.pointer(pointer).and_then(Value::as_str);
            value.ok_or_else(|| Refusal::bad_request(format!("{pointer} must be a string")))
        };
        let listed = definition.pointer("/spec/versions").and_then(Value::as_array);
        let served: Vec<_> =
            listed.into_iter().flatten().filter(|version| version["served"] == Value::Bool(true)).collect();
        let names = served.iter().filter_map(|version| version["name"].as_str()).collect::<Vec<_>>();
        let mut lists = Lists::new();
        for version in &served {
            collect_lists(&version["schema"]["openAPIV3Schema"], "", &mut lists);
        }
        let mut resource = Self::custom(
            text("/spec/group")?,
            &by_priority(names),
            text("/spec/names/kind")?,
            text("/spec/names/plural")?,
        );
        resource.namespaced = text("/spec/scope")? == "Namespaced";
        resource.status = served.iter().any(|version| version.pointer("/subresources/status").is_some());
        resource.lists = lists;
        Ok(resource)
    }

    /// As error messages name it.
    pub fn full_name(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `group/version`, or just the version for the core.
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }
}

/// Kubernetes' order: stable versions first, then beta, then alpha, newest first.
fn by_priority(mut versions: Vec<&str>) -> Vec<&str> {
    let rank = |version: &str| {
        let number = |text: &str| text.parse::<u32>().unwrap_or_default();
        let rest = version.trim_start_matches('v');
        if let Some((major, minor)) = rest.split_once("beta") {
            (1, number(major), number(minor))
        } else if let Some((major, minor)) = rest.split_once("alpha") {
            (0, number(major), number(minor))
        } else {
            (2, number(rest), 0)
        }
    };
    versions.sort_by_key(|version| std::cmp::Reverse(rank(version)));
    versions
}

/// The lists of a schema that are merged item by item.
fn collect_lists(schema: &Value, path: &str, lists: &mut Lists) {
    match schema["x-kubernetes-list-type"].as_str() {
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array();
            let keys = keys.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
            lists.insert(path.to_owned(), keys.collect());
        }
        Some("set") => drop(lists.insert(path.to_owned(), Vec::new())),
        _ => {}
    }
    collect_properties(&schema["items"], path, lists);
    collect_properties(schema, path, lists);
}

fn collect_properties(schema: &Value, path: &str, lists: &mut Lists) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        collect_lists(property, &path, lists);
    }
}

/// A row of the table.
struct Row {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    marks: &'static str,
    version: &'static str,
    fields: &'static [&'static str],
    lists: &'static [(&'static str, &'static [&'static str])],
}

impl Row {
    const fn new(group: &'static str, kind: &'static str, plural: &'static str, marks: &'static str) -> Self {
        Self { group, kind, plural, marks, version: "v1", fields: &[], lists: &[] }
    }

    fn resource(&self) -> Resource {
        let has = |mark: char| self.marks.contains(mark);
        let texts = |texts: &[&str]| texts.iter().copied().map(str::to_owned).collect::<Vec<_>>();
        let lists = COMMON_LISTS.iter().chain(self.lists);
        Resource {
            group: self.group.into(),
            versions: vec![self.version.into()],
            kind: self.kind.into(),
            plural: self.plural.into(),
            namespaced: has('n'),
            status: has('s'),
            custom: false,
            generation: has('g'),
            unconditional: !has('v'),
            create_on_update: has('c'),
            fields: texts(self.fields),
            lists: lists.map(|(path, keys)| ((*path).to_owned(), texts(keys))).collect(),
        }
    }
}

const COMMON_LISTS: &[(&str, &[&str])] =
    &[("metadata.ownerReferences", &["uid"]), ("metadata.finalizers", &[])];

/// The marks: `n` namespaced, `s` a status of its own, `g` generations are counted, `v` an update must name the version
/// it is based on, `c` an update may create.
const BUILT_IN: &[Row] = &[
    Row {
        fields: &["status.phase"],
        lists: &[("status.conditions", &["type"])],
        ..Row::new("", "Namespace", "namespaces", "s")
    },
    Row {
        fields: &["spec.unschedulable"],
        lists: &[("status.conditions", &["type"]), ("status.addresses", &["type"])],
        ..Row::new("", "Node", "nodes", "s")
    },
    Row {
        fields: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "status.phase",
            "status.podIP",
        ],
        lists: &[
            ("spec.containers", &["name"]),
            ("spec.initContainers", &["name"]),
            ("spec.containers.ports", &["containerPort", "protocol"]),
            ("spec.containers.env", &["name"]),
            ("spec.volumes", &["name"]),
            ("status.conditions", &["type"]),
            ("status.podIPs", &["ip"]),
        ],
        ..Row::new("", "Pod", "pods", "nsg")
    },
    Row {
        lists: &[("spec.ports", &["port", "protocol"]), ("status.conditions", &["type"])],
        ..Row::new("", "Service", "services", "ns")
    },
    Row::new("", "ServiceAccount", "serviceaccounts", "n"),
    Row::new("", "ConfigMap", "configmaps", "n"),
    Row { fields: &["type"], ..Row::new("", "Secret", "secrets", "n") },
    Row::new("", "Event", "events", "n"),
    Row::new("discovery.k8s.io", "EndpointSlice", "endpointslices", "n"),
    Row {
        lists: &[
            ("spec.template.spec.containers", &["name"]),
            ("spec.template.spec.containers.ports", &["containerPort", "protocol"]),
            ("spec.template.spec.containers.env", &["name"]),
            ("spec.template.spec.volumes", &["name"]),
            ("status.conditions", &["type"]),
        ],
        ..Row::new("apps", "Deployment", "deployments", "nsg")
    },
    Row {
        lists: &[
            ("spec.template.spec.containers", &["name"]),
            ("spec.template.spec.containers.ports", &["containerPort", "protocol"]),
            ("spec.template.spec.containers.env", &["name"]),
            ("spec.template.spec.containers.volumeMounts", &["mountPath"]),
            ("spec.template.spec.volumes", &["name"]),
            ("status.conditions", &["type"]),
        ],
        ..Row::new("apps", "DaemonSet", "daemonsets", "nsg")
    },
    Row {
        version: "v2",
        ..Row::new("autoscaling", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "ns")
    },
    Row {
        lists: &[("status.conditions", &["type"])],
        ..Row::new("policy", "PodDisruptionBudget", "poddisruptionbudgets", "nsg")
    },
    Row::new("coordination.k8s.io", "Lease", "leases", "nvc"),
    Row {
        lists: &[("webhooks", &["name"])],
        ..Row::new(
            "admissionregistration.k8s.io",
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
            "g",
        )
    },
    Row::new("apiextensions.k8s.io", "CustomResourceDefinition", "customresourcedefinitions", "sgv"),
    Row::new("rbac.authorization.k8s.io", "ClusterRole", "clusterroles", ""),
    Row::new("rbac.authorization.k8s.io", "ClusterRoleBinding", "clusterrolebindings", ""),
    Row::new("rbac.authorization.k8s.io", "Role", "roles", "n"),
    Row::new("rbac.authorization.k8s.io", "RoleBinding", "rolebindings", "n"),
];
