//! Which workloads there are or will be, found by their labels.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};

use crate::model::Wish;
use crate::resource::{Meta, Object, Parsed, Spec};

/// Labels of a workload, or those that a selector asks for.
pub(super) type Labels = BTreeMap<String, String>;

/// Something that a selector can select: a pod, what a controller makes pods of, or a machine outside the cluster.
#[derive(Debug)]
pub(super) struct Workload<'a> {
    pub(super) namespace: &'a str,
    pub(super) labels: Cow<'a, Labels>,
    /// Whether its traffic is or will be captured; taken for granted where nothing is known of its namespace.
    pub(super) in_mesh: bool,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Workloads<'a> {
    all: Vec<Workload<'a>>,
    /// Positions in `all`, by the hash of a namespace (none: every namespace) and of a label (none: any labels).
    positions: HashMap<u64, Vec<usize>>,
    /// Namespaces with a workload in the mesh.
    in_mesh: HashSet<&'a str>,
    /// Whether any is made for a Gateway of Kubernetes.
    has_gateways: bool,
}

impl<'a> Workloads<'a> {
    /// `namespaces` are the labels of those that are known.
    pub(super) fn of(parsed: &'a Parsed, namespaces: &HashMap<&str, &Labels>, root: &str) -> Self {
        let in_mesh = |meta: &Meta, pod: &PodSpec| {
            let wish = Wish::of(meta, pod);
            let labels = namespaces.get(&*meta.namespace).copied();
            wish != Wish::Never && (labels.is_none() || wish.is_enrolled(&meta.namespace, labels, root))
        };
        let objects = parsed.objects.iter().filter_map(|object| workload(object, in_mesh));
        let templates = parsed.templates.iter().map(|template| {
            let meta = meta(&template.namespace, template.labels.clone(), BTreeMap::new());
            let in_mesh = in_mesh(&meta, &PodSpec::default());
            Workload { namespace: &template.namespace, labels: Cow::Borrowed(&template.labels), in_mesh }
        });
        let all: Vec<_> = objects.chain(templates).collect();
        let mut positions: HashMap<u64, Vec<usize>> = HashMap::new();
        for (position, workload) in all.iter().enumerate() {
            for namespace in [None, Some(workload.namespace)] {
                let labels = workload.labels.iter().map(Some);
                for label in labels.chain([None]) {
                    positions.entry(hash(namespace, label)).or_default().push(position);
                }
            }
        }
        let in_mesh = all.iter().filter(|workload| workload.in_mesh).map(|it| it.namespace).collect();
        let has_gateways = all.iter().any(Workload::is_gateway);
        Self { all, positions, in_mesh, has_gateways }
    }

    /// Those that have all labels of `selector`, in `namespace` or everywhere; an empty selector selects all.
    pub(super) fn select<'s>(
        &'s self,
        namespace: Option<&'s str>,
        selector: &'s Labels,
    ) -> impl Iterator<Item = &'s Workload<'a>> {
        let candidates = |label| self.positions.get(&hash(namespace, label)).map_or(&[][..], Vec::as_slice);
        let rarest = selector.iter().map(|label| candidates(Some(label))).min_by_key(|it| it.len());
        let rarest = rarest.unwrap_or_else(|| candidates(None));
        // Hashes may collide, so everything is compared.
        rarest.iter().filter_map(|position| self.all.get(*position)).filter(move |workload| {
            namespace.is_none_or(|namespace| workload.namespace == namespace)
                && selects(selector, &workload.labels)
        })
    }

    /// Whether any of `namespace` is in the mesh.
    pub(super) fn any_in_mesh(&self, namespace: &str) -> bool {
        self.in_mesh.contains(namespace)
    }

    /// Whether there are any that are made for a Gateway of Kubernetes.
    pub(super) fn has_gateways(&self) -> bool {
        self.has_gateways
    }

    /// Whether there are any in `namespace`, or at all.
    pub(super) fn any(&self, namespace: Option<&str>) -> bool {
        self.positions.contains_key(&hash(namespace, None))
    }
}

impl Workload<'_> {
    /// Whether it is made for a Gateway of Kubernetes.
    pub(super) fn is_gateway(&self) -> bool {
        self.labels.contains_key(GATEWAY_NAME)
    }
}

/// Whether all labels that `selector` asks for are among `labels`.
pub(super) fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// As selectors are shown: `app=reviews,version=v1`.
pub(super) fn show(selector: &Labels) -> String {
    let labels: Vec<_> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.join(",")
}

fn workload(object: &Object, in_mesh: impl Fn(&Meta, &PodSpec) -> bool) -> Option<Workload<'_>> {
    let namespace = &*object.meta.namespace;
    match &object.spec {
        Spec::Pod(pod) => {
            let in_mesh = pod.spec.as_ref().is_none_or(|spec| in_mesh(&object.meta, spec));
            Some(Workload { namespace, labels: Cow::Borrowed(&object.meta.labels), in_mesh })
        }
        Spec::Deployment(deployment) => {
            let template = &deployment.spec.template;
            let labels = template_labels(template)?;
            let annotations = template.metadata.as_ref().and_then(|metadata| metadata.annotations.clone());
            let meta = meta(&object.meta.namespace, labels.clone(), annotations.unwrap_or_default());
            let in_mesh = template.spec.as_ref().is_none_or(|spec| in_mesh(&meta, spec));
            Some(Workload { namespace, labels: Cow::Borrowed(labels), in_mesh })
        }
        Spec::WorkloadEntry(entry) => {
            let mut labels = object.meta.labels.clone();
            labels.extend(entry.labels.clone());
            Some(Workload { namespace, labels: Cow::Owned(labels), in_mesh: true })
        }
        Spec::WorkloadGroup(group) => {
            let mut labels = group.metadata.labels.clone();
            labels.extend(group.template.labels.clone());
            Some(Workload { namespace, labels: Cow::Owned(labels), in_mesh: true })
        }
        _ => None,
    }
}

/// The labels of the pods that come of a template.
pub(super) fn template_labels(template: &PodTemplateSpec) -> Option<&Labels> {
    template.metadata.as_ref()?.labels.as_ref()
}

/// Metadata of a pod that is yet to be.
fn meta(namespace: &Arc<str>, labels: Labels, annotations: BTreeMap<String, String>) -> Meta {
    Meta {
        kind: "Pod",
        namespace: Arc::clone(namespace),
        name: Arc::from(""),
        labels,
        annotations,
        uid: None,
        creation_timestamp: None,
        generation: None,
    }
}

fn hash(namespace: Option<&str>, label: Option<(&String, &String)>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (namespace, label).hash(&mut hasher);
    hasher.finish()
}

/// Names the Gateway that a pod is made for.
pub(super) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
