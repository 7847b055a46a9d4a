//! `meshctl` from outside of a cluster: it finds what it asks by itself, and asks through the API server.

use anyhow::{Result, ensure};
use mesh_tests::apiserver::ApiServer;
use serde_json::{Value, json};

use crate::api::Cluster;
use crate::discovery::{app, over};
use crate::meshctl::Meshctl;
use crate::plane::Plane;
use crate::subscriber::Subscriber;
use mesh_proto::names::ResourceType;

/// A cluster whose control plane is a process of this machine, at an address of its own.
struct Outside {
    cluster: Cluster,
    meshctl: Meshctl,
}

impl Outside {
    fn new() -> Self {
        let cluster = Cluster::own();
        let meshctl = Meshctl::of(&cluster, None);
        Self { cluster, meshctl }
    }

    fn server(&self) -> &ApiServer {
        self.cluster.ours.as_ref().expect("the suite's own")
    }

    /// A pod of the control plane, which is where the plane is.
    fn replica(&self, name: &str, plane: &Plane, is_ready: bool) {
        let ready = if is_ready { "True" } else { "False" };
        self.server().put(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "istio-system", "labels": {"app": "istiod"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "discovery", "image": "mesh"}]},
            "status": {
                "phase": "Running", "podIP": plane.at(0).ip().to_string(),
                "conditions": [{"type": "Ready", "status": ready}],
            },
        }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_is_found_and_asked_through_the_api_server() -> Result<()> {
    let plane = over(&[("a.yaml", app("a", "n1", "10.1.0.1", 80))])?;
    let mut subscriber = Subscriber::plain(&plane, "n1").await?;
    subscriber.ask(&ResourceType::ALL).await?;
    subscriber.told().await?;
    let outside = Outside::new();
    let said = String::from_utf8(outside.meshctl.run(&["proxy-status"]).stderr)?;
    ensure!(said.contains("no pod of the control plane is ready in namespace \"istio-system\""), "{said}");

    outside.replica("mesh-control-0", &plane, true);
    let said: Value = serde_json::from_str(&outside.meshctl.prints(&["proxy-status", "-o", "json"]))?;
    ensure!(said.to_string().contains("\"n1\""), "{said}");
    let said = outside.meshctl.prints(&["version"]);
    ensure!(said.contains(env!("CARGO_PKG_VERSION")), "{said}");
    // Once for finding it, and once for asking it, at the least.
    let asked = outside.server().requests();
    ensure!(asked.iter().any(|it| it == "get pods/portforward istio-system/mesh-control-0"), "{asked:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_nobody_listens_to_is_told_with_its_pod() -> Result<()> {
    let plane = over(&[("a.yaml", app("a", "n1", "10.1.0.1", 80))])?;
    let outside = Outside::new();
    outside.replica("mesh-control-0", &plane, true);
    drop(plane);
    let output = outside.meshctl.run(&["proxy-status"]);
    let said = String::from_utf8(output.stderr)?;
    ensure!(
        !output.status.success() && said.contains("pod istio-system/mesh-control-0 port 15014"),
        "{said}"
    );
    ensure!(said.contains("error forwarding port 15014 to pod"), "{said}");
    Ok(())
}
