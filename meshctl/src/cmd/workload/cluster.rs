//! What a cluster has for machines: groups, roots, and tokens of service accounts.

use anyhow::{Context as _, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use mesh_source::kubernetes::Client;
use serde_json::Value;

/// A cluster, asked as whoever owns the kubeconfig.
pub(super) struct Cluster {
    client: Client,
}

impl Cluster {
    /// The one that `client` asks.
    pub(super) fn of(client: Client) -> Self {
        Self { client }
    }

    /// A WorkloadGroup, as text.
    pub(super) async fn group(&self, namespace: &str, name: &str) -> Result<String> {
        let resource = ApiResource {
            group: "networking.istio.io".to_owned(),
            version: "v1".to_owned(),
            api_version: "networking.istio.io/v1".to_owned(),
            kind: "WorkloadGroup".to_owned(),
            plural: "workloadgroups".to_owned(),
        };
        let groups: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let group = groups.get(name).await.with_context(|| format!("WorkloadGroup {namespace}/{name}"))?;
        Ok(serde_json::to_string(&group)?)
    }

    /// The control plane's roots, which it writes into every namespace.
    pub(super) async fn roots(&self, namespace: &str) -> Result<String> {
        let map = self.config_map(namespace, "istio-ca-root-cert").await?;
        let roots = map.and_then(|map| map.data?.remove("root-cert.pem"));
        roots.with_context(|| {
            format!(
                "ConfigMap {namespace}/istio-ca-root-cert has no root-cert.pem (does the control plane run?)"
            )
        })
    }

    /// The trust domain of the mesh.
    pub(super) async fn trust_domain(&self, root: &str) -> Result<String> {
        let map = self.config_map(root, "istio").await?;
        let mesh = map.and_then(|map| map.data?.remove("mesh")).unwrap_or_default();
        let mesh: Value =
            serde_yaml_ng::from_str(&mesh).with_context(|| format!("ConfigMap {root}/istio"))?;
        Ok(mesh["trustDomain"].as_str().unwrap_or("cluster.local").to_owned())
    }

    /// A token of a service account, for the control plane alone.
    pub(super) async fn token(&self, namespace: &str, account: &str, seconds: i64) -> Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let spec = TokenRequestSpec {
            audiences: Some(vec![AUDIENCE.to_owned()]),
            expiration_seconds: Some(seconds),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await;
        let answer =
            answer.with_context(|| format!("asking for a token of service account {namespace}/{account}"))?;
        answer.status.and_then(|status| status.token).context("the API server gave no token")
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        maps.get_opt(name).await.with_context(|| format!("ConfigMap {namespace}/{name}"))
    }
}

/// Whom tokens are made for: the control plane's certificate authority, as Istio calls it.
const AUDIENCE: &str = "istio-ca";
