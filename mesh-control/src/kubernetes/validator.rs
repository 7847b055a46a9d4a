//! How the API server comes to trust the admission webhook: the leader puts the roots of the moment into the
//! configuration that names it. If there is no such configuration, nobody wants the webhook.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::{Api, Patch, PatchParams};
use mesh_ca::Ca;
use mesh_source::kubernetes::Client;
use mesh_source::kubernetes::leader::Leadership;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{CallError, MANAGER, call};

/// Keeps the configuration's `caBundle` true while this process leads.
pub(super) struct Validator {
    configurations: Api<ValidatingWebhookConfiguration>,
    ca: Arc<Ca>,
    leadership: Leadership,
    complaint: Option<String>,
}

impl Validator {
    /// Has the API server trust what `ca` signs.
    pub(super) fn new(client: Client, ca: Arc<Ca>, leadership: Leadership) -> Self {
        Self { configurations: Api::all(client), ca, leadership, complaint: None }
    }

    /// Writes until the election has ended.
    pub(super) async fn run(mut self) {
        while self.leadership.wait_until(true).await {
            while self.leadership.is_leading() {
                let error = self.round().await.err().map(|error| error.to_string());
                if let Some(error) = error.as_ref().filter(|error| self.complaint.as_ref() != Some(error)) {
                    tracing::warn!(error, name = NAME, "The webhook's configuration cannot be looked after.");
                }
                self.complaint = error;
                let _ = timeout(ROUND, self.leadership.wait_until(false)).await;
            }
        }
    }

    async fn round(&self) -> Result<(), CallError> {
        let Some(configuration) = call(self.configurations.get_opt(NAME)).await? else { return Ok(()) };
        let roots = self.ca.authority().bundle().roots_pem();
        let Some(patch) = patch(&configuration, roots.as_bytes()) else { return Ok(()) };
        if !self.leadership.is_leading() {
            return Ok(());
        }
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        match call(self.configurations.patch(NAME, &params, &Patch::Strategic(patch))).await {
            // Somebody changes it right now; the next round looks again.
            Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
            outcome => outcome.map(drop),
        }
    }
}

/// What has to change for every webhook to be trusted under `roots`; `None` if nothing. Webhooks are merged by name, so
/// nothing else of them is touched.
fn patch(configuration: &ValidatingWebhookConfiguration, roots: &[u8]) -> Option<Value> {
    let roots = ByteString(roots.to_vec());
    let webhooks = configuration.webhooks.iter().flatten();
    let wrong = webhooks.filter(|webhook| webhook.client_config.ca_bundle.as_ref() != Some(&roots));
    let wrong: Vec<Value> =
        wrong.map(|webhook| json!({ "name": webhook.name, "clientConfig": { "caBundle": roots } })).collect();
    let version = &configuration.metadata.resource_version;
    (!wrong.is_empty()).then(|| json!({ "metadata": { "resourceVersion": version }, "webhooks": wrong }))
}

/// The configuration that names our webhook.
const NAME: &str = "mesh-validator";
/// A configuration that is new, or was written anew without a `caBundle`, works after so long.
const ROUND: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use k8s_openapi::api::admissionregistration::v1::{ValidatingWebhook, WebhookClientConfig};

    use super::*;

    #[test]
    fn only_what_is_wrong_is_patched() {
        let webhook = |name: &str, roots: Option<&str>| ValidatingWebhook {
            name: name.to_owned(),
            client_config: WebhookClientConfig {
                ca_bundle: roots.map(|roots| ByteString(roots.as_bytes().to_vec())),
                ..WebhookClientConfig::default()
            },
            ..ValidatingWebhook::default()
        };
        let webhooks = vec![webhook("a", Some("new")), webhook("b", Some("old")), webhook("c", None)];
        let mut configuration =
            ValidatingWebhookConfiguration { webhooks: Some(webhooks), ..Default::default() };
        configuration.metadata.resource_version = Some("7".to_owned());
        let found = patch(&configuration, b"new").expect("a patch");
        assert_eq!(found["metadata"], json!({ "resourceVersion": "7" }));
        let names: Vec<_> =
            found["webhooks"].as_array().expect("a list").iter().map(|it| &it["name"]).collect();
        assert_eq!(names, ["b", "c"]);
        assert_eq!(found["webhooks"][0]["clientConfig"], json!({ "caBundle": "bmV3" }));
        configuration.webhooks.as_mut().expect("webhooks").truncate(1);
        assert_eq!(patch(&configuration, b"new"), None);
    }
}
