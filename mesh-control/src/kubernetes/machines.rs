//! `WorkloadEntries` of machines that have registered themselves, written where everybody can see them.
//!
//! Of several replicas the one that a machine is connected to writes, with its own name in Istio's annotation
//! `istio.io/workloadController`, and only who is named there takes one away again. What a replica that is gone for good has
//! left is taken over by those that are there.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use mesh_core::machine::GROUP;
use mesh_core::resource::status::HEALTHY;
use mesh_core::resource::{Object, ObjectKey};
use mesh_source::kubernetes::Client;
use serde_json::{Value, json};

use super::{CallError, MANAGER, call};
use crate::catalog::Catalog;

/// Writes them.
#[derive(Clone)]
pub struct Written {
    client: Client,
    root_namespace: String,
    /// Whose they are: the name of this replica's pod, and something that differs with every start of it.
    controller: String,
}

impl Written {
    /// Writes as `controller`, `POD_RANDOM`.
    pub(super) fn new(client: Client, root_namespace: String, controller: String) -> Self {
        Self { client, root_namespace, controller }
    }

    /// Makes a WorkloadEntry, or changes what of it was made so. Fields that others have written stay theirs.
    ///
    /// # Errors
    /// What the API server says against it, or that it says nothing.
    pub async fn put(&self, key: &ObjectKey, entry: &Value) -> Result<(), String> {
        self.apply(key, entry).await.map_err(|error| error.to_string())
    }

    async fn apply(&self, key: &ObjectKey, entry: &Value) -> Result<(), CallError> {
        let mut entry = entry.clone();
        let status = entry.as_object_mut().and_then(|fields| fields.remove("status"));
        let annotations = &mut entry["metadata"]["annotations"];
        annotations[CONTROLLER] = json!(self.controller);
        annotations[CONNECTED_AT] = json!(Timestamp::now().to_string());
        let entries = self.entries(&key.namespace);
        let params = PatchParams::apply(FIELDS).force();
        let written = call(entries.patch(&key.name, &params, &Patch::Apply(entry))).await?;
        let wanted = status.as_ref().and_then(|status| status["conditions"].get(0));
        let Some(wanted) = wanted else { return Ok(()) };
        let mut conditions: Vec<Value> =
            written.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|it| it["type"] == HEALTHY && it["status"] == wanted["status"]) {
            return Ok(());
        }
        conditions.retain(|it| it["type"] != HEALTHY);
        let mut own = wanted.clone();
        own["lastTransitionTime"] = json!(Timestamp::now().to_string());
        conditions.push(own);
        // On the condition that nobody has written since: the others' conditions are in the list as well.
        let patch = json!({
            "metadata": {"resourceVersion": written.metadata.resource_version},
            "status": {"conditions": conditions},
        });
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        call(entries.patch_status(&key.name, &params, &Patch::Merge(patch))).await.map(drop)
    }

    /// Deletes a WorkloadEntry, unless another replica has it by now.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn remove(&self, key: &ObjectKey) -> Result<(), String> {
        self.delete(key).await.map_err(|error| error.to_string())
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), CallError> {
        let entries = self.entries(&key.namespace);
        let Some(found) = call(entries.get_opt(&key.name)).await? else { return Ok(()) };
        let annotations = found.metadata.annotations.as_ref();
        if annotations.and_then(|all| all.get(CONTROLLER)) != Some(&self.controller) {
            return Ok(());
        }
        let preconditions =
            Preconditions { resource_version: found.metadata.resource_version, uid: found.metadata.uid };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match call(entries.delete(&key.name, &params)).await {
            Err(CallError::Refused { code: 404, .. }) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// `WorkloadEntries` of machines whose replica is not there any more: this one's own predecessor in the same pod, or one whose
    /// pod is gone. Nothing where this replica is in no pod, and so cannot tell.
    pub fn orphans(&self, catalog: &Catalog) -> Vec<Arc<Object>> {
        let entries = catalog.objects(|object| object.meta.kind == "WorkloadEntry");
        entries.into_iter().filter(|object| self.is_orphan(object, catalog)).collect()
    }

    /// Whether it is one of these.
    pub fn is_orphan(&self, object: &Object, catalog: &Catalog) -> bool {
        let annotations = &object.meta.annotations;
        let of = annotations.get(CONTROLLER).filter(|_| annotations.contains_key(GROUP));
        let Some(of) = of.filter(|of| **of != self.controller) else { return false };
        let (own, pod) = (pod_of(&self.controller), pod_of(of));
        // Of a pod that there was no room for it is not known whether it is there.
        let knows = || catalog.is_complete() && self.is_pod(own, catalog);
        pod == own || (knows() && !self.is_pod(pod, catalog))
    }

    /// Whether this replica has written a WorkloadEntry, and nobody else since.
    pub fn is_own(&self, object: &Object) -> bool {
        object.meta.annotations.get(CONTROLLER) == Some(&self.controller)
    }

    fn is_pod(&self, name: &str, catalog: &Catalog) -> bool {
        let (namespace, name) = (self.root_namespace.as_str().into(), name.into());
        catalog.get(&ObjectKey { kind: "Pod", namespace, name }).is_some()
    }

    fn entries(&self, namespace: &str) -> Api<DynamicObject> {
        let resource = ApiResource {
            group: "networking.istio.io".to_owned(),
            version: "v1".to_owned(),
            api_version: "networking.istio.io/v1".to_owned(),
            kind: "WorkloadEntry".to_owned(),
            plural: "workloadentries".to_owned(),
        };
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }
}

impl std::fmt::Debug for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Written").field("controller", &self.controller).finish_non_exhaustive()
    }
}

fn pod_of(controller: &str) -> &str {
    controller.rsplit_once('_').map_or(controller, |(pod, _)| pod)
}

/// Istio's names.
const CONTROLLER: &str = "istio.io/workloadController";
const CONNECTED_AT: &str = "istio.io/connectedAt";
/// As whom the fields of a WorkloadEntry are owned: not as what is written on its status.
const FIELDS: &str = "mesh-control-machines";
