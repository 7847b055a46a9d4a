//! Installations in a cluster.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams,
    PropagationPolicy,
};
use mesh_source::kubernetes::{Client, connect_to};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::objects::{Object, Stage};
use super::{NAMESPACE, rollout};
use crate::note;

/// A cluster, asked as whoever owns the kubeconfig.
pub(crate) struct Cluster {
    client: Client,
    /// Where it is, for people.
    pub(crate) address: String,
}

impl Cluster {
    /// With nothing given, the one that `kubectl` would talk to.
    pub(crate) async fn find(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Self> {
        let (client, address) = connect_to(kubeconfig, context).await?;
        Ok(Self { client, address })
    }

    /// Makes an object, or changes what of it is said; fields that others have written stay theirs.
    pub(crate) async fn apply(&self, object: &Object) -> Result<()> {
        let params = PatchParams::apply(MANAGER).force();
        let applied = self.api(object).patch(&object.name, &params, &Patch::Apply(&object.value)).await;
        applied.map(drop).with_context(|| format!("applying {}", object.title()))
    }

    /// The object as it stands there, if it does.
    pub(crate) async fn get(&self, object: &Object) -> Result<Option<Value>> {
        let found = self.api(object).get_opt(&object.name).await;
        let found = found.with_context(|| format!("looking at {}", object.title()))?;
        found.map(|it| serde_json::to_value(it).map_err(Error::from)).transpose()
    }

    /// Deletes an object and what belongs to it; whether there was one.
    pub(crate) async fn delete(&self, object: &Object) -> Result<bool> {
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        match self.api(object).delete(&object.name, &params).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(Error::from(error).context(format!("deleting {}", object.title()))),
        }
    }

    /// What is labelled as a part of the mesh, but for definitions of kinds, in the order in which it was applied.
    pub(crate) async fn parts(&self) -> Result<Vec<Object>> {
        let mut parts = Vec::new();
        for (api_version, kind, is_namespaced) in KINDS {
            let model = Object::of(api_version, kind, if is_namespaced { NAMESPACE } else { "" }, "");
            let params = ListParams::default().labels("app.kubernetes.io/part-of=mesh");
            let list = match self.api(&model).list(&params).await {
                Err(kube::Error::Api(status)) if status.code == 404 => continue,
                list => list.with_context(|| format!("listing {}", model.plural()))?,
            };
            for found in list {
                let name = found.metadata.name.clone().unwrap_or_default();
                let value = serde_json::to_value(found)?;
                parts.push(Object { name, value, ..model.clone() });
            }
        }
        parts.sort_by_key(Object::stage);
        Ok(parts)
    }

    /// Waits until what of a stage runs pods is ready. A line tells of every step.
    pub(crate) async fn wait(&self, stage: Stage, objects: &[Object], patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        let runs =
            |it: &&Object| it.stage() == stage && ["Deployment", "DaemonSet"].contains(&it.kind.as_str());
        for object in objects.iter().filter(runs) {
            let mut told = String::new();
            loop {
                let found = self.get(object).await?.with_context(|| format!("{} is gone", object.title()))?;
                let progress = rollout::progress(&found);
                if progress.is_done {
                    break;
                }
                if progress.text != told {
                    note(&format!("waiting for {}: {}", object.title(), progress.text));
                    told.clone_from(&progress.text);
                }
                if Instant::now() >= end {
                    bail!(
                        "{} is not ready in time: {told} (`kubectl -n {NAMESPACE} describe {} {}` tells more; what is \
                         installed stays, and the same command goes on with it)",
                        object.title(),
                        object.kind.to_lowercase(),
                        object.name
                    );
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Waits until the pods of a daemon set have ended well once on every node; else how many have not.
    pub(crate) async fn wait_for_ends(
        &self,
        set: &Object,
        patience: Duration,
    ) -> Result<Result<u64, String>> {
        let end = Instant::now() + patience;
        let pods = Object::of("v1", "Pod", NAMESPACE, "");
        let params = ListParams::default().labels(&format!("app={}", set.name));
        loop {
            let wanted = self.get(set).await?.and_then(|it| rollout::wanted(&it));
            let list = self.api(&pods).list(&params).await.context("listing pods")?;
            let pods = list.into_iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
            let ended = pods.iter().filter(|pod| rollout::has_ended(pod)).count();
            let ended = u64::try_from(ended).unwrap_or(u64::MAX);
            if wanted.is_some_and(|wanted| ended >= wanted) {
                return Ok(Ok(ended));
            }
            if Instant::now() >= end {
                let wanted = wanted.map_or_else(|| "an unknown number of".to_owned(), |it| it.to_string());
                return Ok(Err(format!("{ended} of {wanted} nodes")));
            }
            sleep(POLL).await;
        }
    }

    /// Waits until there is no pod any more that is labelled as `set`'s; whether it came to that.
    pub(crate) async fn wait_for_nobody(&self, set: &Object, patience: Duration) -> Result<bool> {
        let end = Instant::now() + patience;
        let pods = Object::of("v1", "Pod", NAMESPACE, "");
        let params = ListParams::default().labels(&format!("app={}", set.name));
        loop {
            if self.api(&pods).list_metadata(&params).await.context("listing pods")?.items.is_empty() {
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            sleep(POLL).await;
        }
    }

    /// Takes from all pods what the control plane has written on them; how many had it. Nobody else would, once it is gone.
    pub(crate) async fn unmark(&self) -> Result<usize> {
        let all: Api<Pod> = Api::all(self.client.clone());
        let list = all.list_metadata(&ListParams::default()).await.context("listing pods")?;
        let is_marked = |it: &ObjectMeta| it.annotations.as_ref().is_some_and(|it| it.contains_key(MARK));
        let marked: Vec<_> = list.items.into_iter().map(|it| it.metadata).filter(is_marked).collect();
        let patch = Patch::Merge(json!({"metadata": {"annotations": {MARK: null}}}));
        for pod in &marked {
            let (namespace, name) = (pod.namespace.as_deref().unwrap_or_default(), pod.name.as_deref());
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
            match pods.patch(name.unwrap_or_default(), &PatchParams::default(), &patch).await {
                Ok(_) => {}
                // One that has gone meanwhile has no mark any more.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(Error::from(error).context("taking an annotation from a pod")),
            }
        }
        Ok(marked.len())
    }

    fn api(&self, object: &Object) -> Api<DynamicObject> {
        let version = object.api_version.rsplit('/').next().unwrap_or_default();
        let resource = ApiResource {
            group: object.group().to_owned(),
            version: version.to_owned(),
            api_version: object.api_version.clone(),
            kind: object.kind.clone(),
            plural: object.plural(),
        };
        if object.namespace.is_empty() {
            return Api::all_with(self.client.clone(), &resource);
        }
        Api::namespaced_with(self.client.clone(), &object.namespace, &resource)
    }
}

/// Whether this program has made an object, and Helm has not.
pub(crate) fn is_ours(object: &Object) -> bool {
    let managers = object.value["metadata"]["managedFields"].as_array();
    managers.into_iter().flatten().any(|it| it["manager"] == MANAGER)
}

/// The release of Helm that an object belongs to.
pub(crate) fn release(object: &Object) -> Option<&str> {
    object.value["metadata"]["annotations"]["meta.helm.sh/release-name"].as_str()
}

/// The daemon set that takes everything of the mesh out of the nodes' kernels: as the node agent's, with another command.
pub(crate) fn cleanup(agent: &Object) -> Object {
    let mut spec = agent.value["spec"].clone();
    let labels = json!({"app": CLEANUP, "app.kubernetes.io/part-of": "mesh"});
    spec["selector"] = json!({"matchLabels": {"app": CLEANUP}});
    spec["template"]["metadata"] = json!({"labels": labels});
    // Nothing is to wait for: the certificate of a control plane and its token.
    let is_needed = |name: &Value| name != "root-cert" && name != "token";
    if let Some(volumes) = spec.pointer_mut("/template/spec/volumes").and_then(Value::as_array_mut) {
        volumes.retain(|it| is_needed(&it["name"]));
    }
    if let Some(container) = spec.pointer_mut("/template/spec/containers/0") {
        if let Some(mounts) = container["volumeMounts"].as_array_mut() {
            mounts.retain(|it| is_needed(&it["name"]));
        }
        // Without the plugin's places no pod could start on the node any more.
        let places = container["args"].as_array().into_iter().flatten().filter(|it| {
            it.as_str()
                .is_some_and(|it| it.starts_with("--cni-conf-dir=") || it.starts_with("--cni-bin-dir="))
        });
        let args: Vec<_> =
            [json!("cleanup"), json!("--node=$(NODE_NAME)")].into_iter().chain(places.cloned()).collect();
        container["args"] = Value::Array(args);
        if let Some(fields) = container.as_object_mut() {
            fields.retain(|key, _| {
                !["ports", "readinessProbe", "livenessProbe", "startupProbe"].contains(&key.as_str())
            });
        }
    }
    let mut object = Object::of(&agent.api_version, &agent.kind, &agent.namespace, CLEANUP);
    object.value["metadata"]["labels"] = labels;
    object.value["spec"] = spec;
    object
}

/// Kinds that an installation has objects of, in the order of a stage.
const KINDS: [(&str, &str, bool); 13] = [
    ("v1", "ServiceAccount", true),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", false),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", false),
    ("rbac.authorization.k8s.io/v1", "Role", true),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", true),
    ("v1", "ConfigMap", true),
    ("v1", "Service", true),
    ("apps/v1", "Deployment", true),
    ("apps/v1", "DaemonSet", true),
    ("policy/v1", "PodDisruptionBudget", true),
    ("autoscaling/v2", "HorizontalPodAutoscaler", true),
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", false),
    // The control plane's own making.
    ("gateway.networking.k8s.io/v1", "GatewayClass", false),
];
/// As whom fields are owned.
const MANAGER: &str = "meshctl";
const CLEANUP: &str = "mesh-node-cleanup";
/// What says that a pod is captured.
const MARK: &str = "ambient.istio.io/redirection";
const POLL: Duration = Duration::from_millis(500);
