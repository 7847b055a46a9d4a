//! Installations in a cluster.

use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams,
    PropagationPolicy,
};
use mesh_source::kubernetes::Client;
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
    /// The one that `client` asks, at `address`.
    pub(crate) fn of((client, address): (Client, String)) -> Self {
        Self { client, address }
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
        for kind in KINDS {
            parts.extend(self.parts_of(kind).await?);
        }
        parts.sort_by_key(Object::stage);
        Ok(parts)
    }

    /// The sets of the mesh's pods that run on every node.
    pub(crate) async fn agents(&self) -> Result<Vec<Object>> {
        self.parts_of(("apps/v1", "DaemonSet", true)).await
    }

    /// The ConfigMaps with root certificates that the control plane has written into namespaces, as far as nobody else has
    /// written into them.
    pub(crate) async fn roots(&self) -> Result<Vec<Object>> {
        let model = Object::of("v1", "ConfigMap", "", "");
        let params = ListParams::default().fields(&format!("metadata.name={ROOTS}"));
        let list = self.list(&model, &params).await?;
        Ok(list.into_iter().filter(|it| it.name == ROOTS && is_controls(it)).collect())
    }

    /// The Deployments that the control plane has made for Gateways of users.
    pub(crate) async fn made_for_users(&self) -> Result<Vec<Object>> {
        let model = Object::of("apps/v1", "Deployment", "", "");
        let list = self.list(&model, &ListParams::default().labels(MANAGED)).await?;
        let is_made = |it: &Object| managers(it).any(|manager| manager == CONTROL);
        Ok(list.into_iter().filter(is_made).collect())
    }

    /// What there is of the model's kind, in all namespaces.
    async fn list(&self, model: &Object, params: &ListParams) -> Result<Vec<Object>> {
        let list = self.api(model).list(params).await;
        let list = list.with_context(|| format!("listing {}", model.plural()))?;
        let object = |found: DynamicObject| {
            let name = found.metadata.name.clone().unwrap_or_default();
            let namespace = found.metadata.namespace.clone().unwrap_or_default();
            Ok(Object { name, namespace, value: serde_json::to_value(found)?, ..model.clone() })
        };
        list.into_iter().map(object).collect()
    }

    async fn parts_of(&self, (api_version, kind, is_namespaced): (&str, &str, bool)) -> Result<Vec<Object>> {
        let model = Object::of(api_version, kind, if is_namespaced { NAMESPACE } else { "" }, "");
        let params = ListParams::default().labels("app.kubernetes.io/part-of=mesh");
        let list = match self.api(&model).list(&params).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
            list => list.with_context(|| format!("listing {}", model.plural()))?,
        };
        let part = |found: DynamicObject| {
            let name = found.metadata.name.clone().unwrap_or_default();
            Ok(Object { name, value: serde_json::to_value(found)?, ..model.clone() })
        };
        list.into_iter().map(part).collect()
    }

    /// Waits until what of a stage runs pods is ready, and what asks the control plane knows it. A line tells of every step.
    pub(crate) async fn wait(&self, stage: Stage, objects: &[Object], patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        let takes_time = |it: &&Object| it.stage() == stage && rollout::KINDS.contains(&it.kind.as_str());
        for object in objects.iter().filter(takes_time) {
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
    managers(object).any(|manager| manager == MANAGER)
}

/// Whether the control plane has made an object, and nobody else has written anything of it.
fn is_controls(object: &Object) -> bool {
    managers(object).next().is_some() && managers(object).all(|manager| manager == CONTROL)
}

/// Who has written fields of an object.
fn managers(object: &Object) -> impl Iterator<Item = &str> {
    let entries = object.value["metadata"]["managedFields"].as_array();
    entries.into_iter().flatten().filter_map(|entry| entry["manager"].as_str())
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
        let places = places(container["args"].as_array().map_or(&[], Vec::as_slice));
        let args: Vec<_> =
            [json!("cleanup"), json!("--node=$(NODE_NAME)")].into_iter().chain(places).collect();
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

/// What an agent is told of where its things are, and `cleanup` has to know as well. Without the CNI plugin's places no pod could start
/// on the node any more.
fn places(arguments: &[Value]) -> Vec<Value> {
    let mut places = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let text = argument.as_str().unwrap_or_default();
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        if PLACES.contains(&name) {
            places.push(argument.clone());
            places.extend(value.is_none().then(|| rest.next().cloned()).flatten());
        }
    }
    places
}

const PLACES: [&str; 6] =
    ["--cni-conf-dir", "--cni-bin-dir", "--pin-root", "--cgroup", "--svid-cache", "--state"];

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
/// As whom the control plane owns them.
const CONTROL: &str = "mesh-control";
/// The ConfigMap of root certificates, in every namespace.
const ROOTS: &str = "istio-ca-root-cert";
/// The label of Deployments that are made for Gateways.
const MANAGED: &str = "gateway.istio.io/managed";
const CLEANUP: &str = "mesh-node-cleanup";
/// What says that a pod is captured.
const MARK: &str = "ambient.istio.io/redirection";
const POLL: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cleans_knows_all_places_of_the_agent() {
        let arguments = [
            "node",
            "--node=$(NODE_NAME)",
            "--pin-root=/a",
            "--cgroup",
            "/b",
            "--token=/t",
            "--express-path",
            "disabled",
            "--svid-cache=/c",
            "--state",
            "/d",
            "--cni-conf-dir=/e",
            "--cni-bin-dir=/f",
        ];
        let agent = Object::of("apps/v1", "DaemonSet", NAMESPACE, "mesh-node");
        let container = json!({"name": "mesh-node", "args": arguments, "readinessProbe": {}});
        let value = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
        let cleaner = cleanup(&Object { value, ..agent });
        let container = &cleaner.value["spec"]["template"]["spec"]["containers"][0];
        let wanted = [
            "cleanup",
            "--node=$(NODE_NAME)",
            "--pin-root=/a",
            "--cgroup",
            "/b",
            "--svid-cache=/c",
            "--state",
            "/d",
            "--cni-conf-dir=/e",
            "--cni-bin-dir=/f",
        ];
        assert_eq!((&container["args"], container.get("readinessProbe")), (&json!(wanted), None));
    }
}
