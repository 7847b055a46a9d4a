//! The mesh that rows about routes of Services are for: two nodes with their proxies, a service in two versions on one,
//! and clients of its own and of another namespace on the other.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::bed::Bed;
use mesh_tests::grpc::Ended;
use mesh_tests::scenario::start;
use serde_json::Value;

use super::sealed::{NAME, NAMES};
use crate::client::{Reply, Req};
use crate::tls::Authority;

/// A mesh that runs.
pub(crate) struct Mesh {
    bed: Bed,
    /// Of the pods, where they speak TLS.
    pub(super) authority: Authority,
    #[expect(dead_code, reason = "held for its Drop, which removes the files")]
    files: tempfile::TempDir,
}

impl Mesh {
    /// Makes one, and waits until all of its pods are in it.
    pub(super) fn start() -> Result<Self> {
        let (authority, files) = (Authority::new()?, tempfile::tempdir()?);
        let pair = authority.issue(NAMES)?;
        let (certificate, key) = (files.path().join("certificate.pem"), files.path().join("key.pem"));
        fs::write(&certificate, pair.certificate)?;
        fs::write(&key, pair.key)?;
        let sealed = format!(
            "\"8443\", --certificate, {}, --key, {}, --name, {NAME}",
            certificate.display(),
            key.display()
        );
        let mut documents = vec![base()];
        for version in ["v1", "v2"] {
            documents.push(format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: echo-{version}, namespace: gc, labels: {{app: echo, version: {version}}}}}, \
                 spec: {{nodeName: node-2, containers: [\
                 {{name: http, image: mesh/netprobe, command: [netprobe, origin, --port, \"8080\", --tls-port, {sealed}], ports: [{{containerPort: 8080}}], \
                 readinessProbe: {{httpGet: {{path: /, port: 8080}}}}}}, \
                 {{name: grpc, image: mesh/netprobe, command: [netprobe, who, --port, \"7070\"], ports: [{{containerPort: 7070}}], \
                 readinessProbe: {{tcpSocket: {{port: 7070}}}}}}]}}}}"
            ));
        }
        for namespace in ["gc", "consumer"] {
            documents.push(format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: client, namespace: {namespace}}}, \
                 spec: {{nodeName: node-1, containers: [{{name: client, image: mesh/curl, command: [sleep, infinity]}}]}}}}"
            ));
        }
        let bed = start(Bed::builder().nodes(2).manifests(documents.join("\n---\n")))?;
        Ok(Self { bed, authority, files })
    }

    /// Adds objects, or replaces them.
    pub(super) fn apply(&self, documents: &[Value]) -> Result<()> {
        let text: Vec<_> = documents.iter().map(Value::to_string).collect();
        Ok(self.bed.apply(&text.join("\n---\n"))?)
    }

    /// Removes them.
    pub(super) fn remove(&self, documents: &[Value]) -> Result<()> {
        documents.iter().try_for_each(|document| {
            let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            Ok(self.bed.delete(text("/kind"), text("/metadata/namespace"), text("/metadata/name"))?)
        })
    }

    /// Sends a request to a service, `HOST` or `HOST:PORT`, from the client pod of a namespace.
    pub(super) fn send(&self, from: &str, to: &str, request: &Req) -> Result<Reply> {
        let client = self.bed.pod(&format!("{from}/client"))?;
        let url = format!("http://{to}{}", request.path);
        let seconds = PATIENCE.as_secs().to_string();
        let mut words =
            vec!["curl", "-si", "--path-as-is", "--max-time", &seconds, "-X", &request.method, &url];
        let mut headers: Vec<_> =
            request.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        headers.extend(request.host.as_ref().map(|host| format!("host: {host}")));
        headers.iter().for_each(|header| words.extend(["-H", header]));
        let output = client.exec(&words)?;
        ensure!(output.status.success(), "curl {url}: {}", output.status);
        parse(&output.stdout).with_context(|| format!("the answer to {url}"))
    }

    /// Calls a service of gRPC from the client pod of a namespace.
    pub(super) fn call(&self, from: &str, to: &str, words: &[&str]) -> Result<Vec<Ended>> {
        let client = self.bed.pod(&format!("{from}/client"))?;
        let output = client.exec(&[&["netprobe", "call", &format!("http://{to}")], words].concat())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "calls of {to}: {said}");
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// Namespaces and Services: `echo` for both versions, `echo-v1` and `echo-v2` for one each.
pub(super) fn base() -> String {
    let namespace = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{istio.io/dataplane-mode: ambient}}}}}}"
        )
    };
    let service = |name: &str, selector: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: gc}}, spec: {{selector: {{{selector}}}, \
             ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: http-alt, port: 8080, targetPort: 8080}}, \
             {{name: grpc, port: 7070, targetPort: 7070}}, {{name: tcp, port: 9000, targetPort: 8080}}, \
             {{name: http-sealed, port: 8443, targetPort: 8443}}]}}}}"
        )
    };
    let all = [
        namespace("gc"),
        namespace("consumer"),
        service("echo", "app: echo"),
        service("echo-v1", "app: echo, version: v1"),
        service("echo-v2", "app: echo, version: v2"),
    ];
    all.join("\n---\n")
}

/// What `curl -i` prints.
fn parse(output: &[u8]) -> Result<Reply> {
    let end = output.windows(4).position(|it| it == b"\r\n\r\n").context("no end of the head")?;
    let (head, body) = output.split_at(end);
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let version = first.next().unwrap_or_default().to_owned();
    let status = first.next().unwrap_or_default().parse().context("the status")?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers = lines.filter_map(header).collect();
    Ok(Reply {
        version,
        status,
        headers,
        body: body.get(4..).unwrap_or_default().to_vec(),
        ..Reply::default()
    })
}

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);
