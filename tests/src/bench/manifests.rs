//! The pods of the benches.

use std::path::Path;

use super::stand::{NODES, Port, SERVERS, System};

/// A namespace with a client and the servers of both nodes. `files` is where `nginx.conf` is.
pub(super) fn namespace(system: System, files: &Path) -> String {
    let label = if matches!(system, System::Mesh | System::MeshL7 | System::Waypoint) {
        ", labels: {istio.io/dataplane-mode: ambient}"
    } else {
        ""
    };
    let mut text = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {system}{label}}}}}\n---\n");
    text.push_str(&pod(system, ("client", NODES[0]), &[("main", &words("sleep infinity"))]));
    for (names, node) in [(NEAR, NODES[0]), (FAR, NODES[1])] {
        for name in names {
            let web = nginx(files, &format!("{system}-{name}"));
            let bulk = words(&format!("iperf3 --server --port {}", Port::Bulk.number()));
            // A thousand connections take more descriptors than the usual limit allows.
            let hold = format!("ulimit -n 65536; exec netprobe serve --port {}", Port::Hold.number());
            let hold = ["sh", "-c", &hold].map(str::to_owned);
            text.push_str(&pod(system, (name, node), &[("web", &web), ("bulk", &bulk), ("hold", &hold)]));
        }
    }
    text
}

/// A service in front of the first server of the other node.
pub(super) fn service(system: System) -> String {
    let (name, port) = (FAR[0], Port::Http.number());
    let bound = if system == System::Waypoint { "istio.io/use-waypoint: way" } else { "" };
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {system}, labels: {{{bound}}}}}, \
         spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: {port}}}]}}}}\n---\n"
    )
}

/// The name of that service.
pub(super) fn service_host(system: System) -> String {
    format!("{}.{system}.svc.cluster.local", FAR[0])
}

/// A route to that service, which sets a header in every answer.
pub(super) fn route(system: System, header: &str) -> String {
    let host = service_host(system);
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: far, namespace: {system}}}, \
         spec: {{hosts: [{host}], http: [{{match: [{{uri: {{prefix: /}}}}], route: [{{destination: {{host: {host}}}, \
         headers: {{response: {{set: {{{header}: \"yes\"}}}}}}}}]}}]}}}}\n---\n"
    )
}

/// Many idle pods on the first node, all with the namespace's default service account.
pub(super) fn crowd(system: System, count: usize) -> String {
    format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: {CROWD}, namespace: {system}}}, \
         spec: {{replicas: {count}, selector: {{matchLabels: {{app: {CROWD}}}}}, \
         template: {{metadata: {{labels: {{app: {CROWD}}}}}, spec: {{nodeName: {}, \
         containers: [{{name: main, image: local, command: [sleep, infinity]}}]}}}}}}}}\n---\n",
        NODES[0]
    )
}

/// One worker; the answer is 1,000 bytes; connections are kept as long as the client likes.
pub(super) fn nginx_conf(files: &Path) -> String {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary =
        temporary.map(|kind| format!("  {kind}_temp_path {};\n", files.join(kind).display())).concat();
    format!(
        "user root;\nworker_processes 1;\nerror_log stderr;\nevents {{ worker_connections 8192; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n{temporary}  server {{\n    \
         listen {port} backlog=4096;\n    location = {STATUS} {{ stub_status; }}\n    location / {{ default_type text/plain; return 200 \"{body}\"; }}\n  }}\n}}\n",
        port = Port::Http.number(),
        body = "x".repeat(1000),
    )
}

fn nginx(files: &Path, name: &str) -> Vec<String> {
    let conf = files.join("nginx.conf").display().to_string();
    let global = format!("daemon off; pid {}/{name}.pid;", files.display());
    ["nginx", "-e", "stderr", "-c", &conf, "-g", &global].map(str::to_owned).to_vec()
}

fn words(command: &str) -> Vec<String> {
    command.split(' ').map(str::to_owned).collect()
}

/// A pod with its own service account and without probes: they would be connections among those that count.
fn pod(system: System, (name, node): (&str, &str), containers: &[(&str, &[String])]) -> String {
    let container = |(name, command): &(&str, &[String])| {
        serde_json::json!({"name": name, "image": "local", "command": command}).to_string()
    };
    let containers = containers.iter().map(container).collect::<Vec<_>>().join(", ");
    format!(
        "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}, namespace: {system}}}}}\n---\n\
         {{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {system}, labels: {{app: {name}}}}}, \
         spec: {{serviceAccountName: {name}, nodeName: {node}, terminationGracePeriodSeconds: 1, \
         containers: [{containers}]}}}}\n---\n"
    )
}

/// Where a server says how many requests it has answered.
pub(super) const STATUS: &str = "/status";

/// The servers on the client's node.
pub(super) const NEAR: [&str; SERVERS] = ["near", "near-2", "near-3"];

/// The servers on the other node.
pub(super) const FAR: [&str; SERVERS] = ["far", "far-2", "far-3"];

/// The deployment of idle pods.
pub(super) const CROWD: &str = "crowd";

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::resource::{self, Level, SourceFile};

    #[test]
    fn manifests_are_what_the_mesh_takes() {
        let systems = [System::Direct, System::Mesh];
        let mut text: String = systems.iter().map(|s| namespace(*s, Path::new("/run/x y"))).collect();
        text.push_str(&crowd(System::Mesh, 50));
        text.push_str(&(service(System::MeshL7) + &route(System::MeshL7, "x-routed")));
        let parsed = resource::parse(&SourceFile { name: "bench.yaml", text: &text });
        assert!(parsed.findings.iter().all(|finding| finding.level != Level::Error), "{:?}", parsed.findings);
        assert_eq!(parsed.objects.len(), 2 * (1 + 2 * 7) + 1 + 2);
    }
}
