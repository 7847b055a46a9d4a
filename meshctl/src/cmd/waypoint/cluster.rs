//! Waypoints in a cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, anyhow};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use mesh_source::kubernetes::Client;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::gateway::{Found, Wish};

/// A cluster, asked as whoever owns the kubeconfig.
pub(super) struct Cluster {
    client: Client,
}

impl Cluster {
    /// The one that `client` asks.
    pub(super) fn of(client: Client) -> Self {
        Self { client }
    }

    /// The namespace of the kubeconfig's context.
    pub(super) fn namespace(&self) -> &str {
        self.client.default_namespace()
    }

    /// Waypoints of a namespace, or of all, in order.
    pub(super) async fn waypoints(&self, namespace: Option<&str>) -> Result<Vec<Found>> {
        let gateways = match namespace {
            Some(namespace) => self.gateways(namespace),
            None => Api::all_with(self.client.clone(), &gateways()),
        };
        let list =
            gateways.list(&ListParams::default()).await.map_err(explain).context("listing Gateways")?;
        let mut found = Vec::new();
        for gateway in list {
            found.extend(Found::read(&serde_json::to_value(gateway)?));
        }
        found.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(found)
    }

    /// Makes a waypoint, or changes what of it was made so.
    pub(super) async fn apply(&self, namespace: &str, wish: &Wish) -> Result<()> {
        let gateway = wish.gateway(Some(namespace));
        let params = PatchParams::apply(MANAGER);
        let applied = self.gateways(namespace).patch(&wish.name, &params, &Patch::Apply(gateway)).await;
        applied
            .map(drop)
            .map_err(explain)
            .with_context(|| format!("applying waypoint {namespace}/{}", wish.name))
    }

    /// Deletes a Gateway.
    pub(super) async fn delete(&self, namespace: &str, name: &str) -> Result<()> {
        let deleted = self.gateways(namespace).delete(name, &DeleteParams::default()).await;
        deleted.map(drop).map_err(explain).with_context(|| format!("deleting waypoint {namespace}/{name}"))
    }

    /// Waits until all waypoints of a namespace that are meant are programmed; `None` if that takes too long.
    pub(super) async fn wait(
        &self,
        namespace: &str,
        patience: Duration,
        is_meant: impl Fn(&Found) -> bool,
    ) -> Result<Option<()>> {
        let end = Instant::now() + patience;
        loop {
            let found = self.waypoints(Some(namespace)).await?;
            if found.iter().filter(|it| is_meant(it)).all(Found::is_programmed) {
                return Ok(Some(()));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            sleep(POLL).await;
        }
    }

    /// The labels of a namespace.
    pub(super) async fn labels_of(&self, namespace: &str) -> Result<BTreeMap<String, String>> {
        let found = self.namespaces().get(namespace).await;
        let found =
            found.map_err(Error::from).with_context(|| format!("looking at namespace {namespace}"))?;
        Ok(found.metadata.labels.unwrap_or_default())
    }

    /// Labels a namespace.
    pub(super) async fn label(&self, namespace: &str, key: &str, value: &str) -> Result<()> {
        let patch = json!({"metadata": {"labels": {key: value}}});
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let labelled = self.namespaces().patch(namespace, &params, &Patch::Merge(patch)).await;
        labelled.map(drop).map_err(Error::from).with_context(|| format!("labelling namespace {namespace}"))
    }

    fn gateways(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &gateways())
    }

    fn namespaces(&self) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &resource("", "Namespace", "namespaces"))
    }
}

/// A cluster without the kind says of it what it says of an object that is not there, or of a namespace.
fn explain(error: kube::Error) -> Error {
    match error {
        kube::Error::Api(status) if status.code == 404 && !status.message.contains("namespaces") => {
            anyhow!("there is no such object, or the Gateway API is not installed: {}", status.message)
        }
        error => error.into(),
    }
}

fn gateways() -> ApiResource {
    resource("gateway.networking.k8s.io", "Gateway", "gateways")
}

fn resource(group: &str, kind: &str, plural: &str) -> ApiResource {
    let api_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    ApiResource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        api_version,
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// As whom fields are owned.
const MANAGER: &str = "meshctl";
const POLL: Duration = Duration::from_secs(1);
