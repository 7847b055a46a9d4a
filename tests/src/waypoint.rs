//! A waypoint on a bed: `mesh-node waypoint` in a pod of its own, as clusters run it.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::bed::Bed;

/// How it comes to know the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It reads what the nodes read, and shares their certificate authority.
    Directory,
    /// The control plane tells it.
    Control,
}

/// The pod `NAMESPACE/NAME-pod` of the waypoint `NAMESPACE/NAME` on `node`, and its service account.
pub fn pod(bed: &Bed, source: Source, (namespace, name): (&str, &str), node: &str) -> Result<String> {
    let (layout, host) = (bed.layout(), bed.node("node-1")?);
    let (mesh, own) = (layout.state.join("mesh"), layout.state.join(format!("{namespace}.{name}")));
    fs::create_dir_all(&own)?;
    let text = |path: &Path| path.display().to_string();
    let mut command = vec!["mesh-node".to_owned(), "waypoint".to_owned()];
    let mut option = |name: &str, value: String| command.extend([name.to_owned(), value]);
    option("--name", format!("{namespace}/{name}"));
    match source {
        Source::Directory => {
            option("--config", text(&layout.objects()));
            option("--state", text(&mesh));
        }
        Source::Control => {
            let identity = format!("spiffe://cluster.local/ns/{namespace}/sa/{name}");
            let words = ["mesh-control", "join", "create", "--identity", &identity, "--state", &text(&mesh)];
            let made = host.exec(&words)?;
            ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            fs::write(own.join("token"), &made.stdout)?;
            option("--control", format!("https://{}:15012", host.ips()[0]));
            option("--control-ca", text(&mesh.join("ca/root-cert.pem")));
            option("--token", text(&own.join("token")));
            option("--state", text(&own));
            option("--svid-cache", text(&layout.memory().join(format!("{namespace}.{name}"))));
        }
    }
    Ok(format!(
        "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}, namespace: {namespace}}}}}\n---\n\
         {{apiVersion: v1, kind: Pod, metadata: {{name: {name}-pod, namespace: {namespace}, \
         labels: {{gateway.networking.k8s.io/gateway-name: {name}}}}}, \
         spec: {{serviceAccountName: {name}, nodeName: {node}, containers: [{{name: waypoint, image: mesh, \
         command: {command:?}, \
         readinessProbe: {{httpGet: {{path: /healthz/ready, port: 15021}}, periodSeconds: 1}}}}]}}}}\n---\n"
    ))
}

/// The Gateway that it is, with these labels. Services of all namespaces may be bound to it.
pub fn gateway((namespace, name): (&str, &str), labels: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, \
         metadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}, \
         spec: {{gatewayClassName: istio-waypoint, \
         listeners: [{{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {{namespaces: {{from: All}}}}}}]}}}}\n---\n"
    )
}
