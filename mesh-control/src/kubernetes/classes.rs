//! The classes of Gateways that the mesh takes care of: the leader makes those that are missing, so that they can be seen and
//! have parameters. What users have made of one stays.

use std::time::Duration;

use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use mesh_core::gateway_api::{CLASS, CONTROLLER, REMOTE_CLASS, REMOTE_CONTROLLER};
use mesh_core::waypoint::{WAYPOINT_CLASS, WAYPOINT_CONTROLLER};
use mesh_source::kubernetes::Client;
use mesh_source::kubernetes::leader::Leadership;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{CallError, MANAGER, call};

/// Makes classes while this process leads.
pub(super) struct Classes {
    api: Api<DynamicObject>,
    leadership: Leadership,
    complaint: Option<String>,
}

impl Classes {
    pub(super) fn new(client: Client, leadership: Leadership) -> Self {
        Self { api: Api::all_with(client, &resource()), leadership, complaint: None }
    }

    /// Makes them until the election has ended.
    pub(super) async fn run(mut self) {
        while self.leadership.wait_until(true).await {
            while self.leadership.is_leading() {
                let outcome = self.round().await.map_err(|error| error.to_string()).err();
                if let Some(error) = outcome.as_ref().filter(|_| outcome != self.complaint) {
                    tracing::warn!(error, "A class of Gateways cannot be made.");
                }
                self.complaint = outcome;
                let mut leadership = self.leadership.clone();
                // The Gateway API may be installed at any time.
                let _ = timeout(LOOK, leadership.wait_until(false)).await;
            }
        }
    }

    async fn round(&self) -> Result<(), CallError> {
        for (name, controller, description) in OURS {
            if call(self.api.get_metadata_opt(name)).await?.is_some() {
                continue;
            }
            match call(self.api.create(&PostParams::default(), &class(name, controller, description))).await {
                Ok(_) => tracing::info!(class = name, "Made a class of Gateways."),
                // A cluster without the Gateway API has no classes, and somebody else may be faster.
                Err(error) if matches!(error.code(), Some(404 | 409)) => {}
                Err(error) => return Err(error),
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }
}

fn class(name: &str, controller: &str, description: &str) -> DynamicObject {
    let mut class = DynamicObject::new(name, &resource());
    class.metadata.labels = Some(
        [("app.kubernetes.io/part-of", "mesh"), ("app.kubernetes.io/managed-by", MANAGER)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    );
    class.data = json!({"spec": {"controllerName": controller, "description": description}});
    class
}

fn resource() -> ApiResource {
    ApiResource {
        group: "gateway.networking.k8s.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "gateway.networking.k8s.io/v1".to_owned(),
        kind: "GatewayClass".to_owned(),
        plural: "gatewayclasses".to_owned(),
    }
}

/// Name, controller and description of each: Istio's names, so that Gateways written for it are served.
const OURS: [(&str, &str, &str); 3] = [
    (CLASS, CONTROLLER, "Gateways at the edge of the mesh."),
    (WAYPOINT_CLASS, WAYPOINT_CONTROLLER, "Waypoints, for rules about requests to services of the mesh."),
    (
        REMOTE_CLASS,
        REMOTE_CONTROLLER,
        "Gateways that run somewhere else: nothing is deployed or configured for them.",
    ),
];
/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);
/// Between two classes.
const PAUSE: Duration = Duration::from_millis(20);
