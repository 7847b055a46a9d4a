//! Datagrams through a gateway to an enrolled pod, as a control plane tells of it, and policy about them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle};
use mesh_tests::scenario::start;

use super::gateway::gateway_process;

const PODS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: names, labels: {istio.io/dataplane-mode: ambient}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: outside}}
---
{apiVersion: v1, kind: Service, metadata: {name: dns, namespace: names}, spec: {selector: {app: dns},
  ports: [{name: dns, port: 53, targetPort: 5353, protocol: UDP}, {name: dns-tcp, port: 53, targetPort: 5353}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: dns, namespace: names, labels: {app: dns}}, spec: {nodeName: node-2, containers: [{name: d, image: mesh/dns,
  command: [dnsmasq, --no-daemon, --conf-file=/dev/null, --no-resolv, --no-hosts, --user=root, --port=5353, --address=/web.example/192.0.2.7],
  readinessProbe: {tcpSocket: {port: 5353}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: client, namespace: outside}, spec: {nodeName: node-1, containers: [{name: c, image: mesh/curl, command: [sleep, infinity]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: edge, namespace: names},
  spec: {gatewayClassName: istio, listeners: [{name: dns, port: 5300, protocol: UDP}, {name: dns-tcp, port: 5300, protocol: TCP}]}}
---
{apiVersion: gateway.networking.k8s.io/v1alpha2, kind: UDPRoute, metadata: {name: dns, namespace: names},
  spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: dns, port: 53}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1alpha2, kind: TCPRoute, metadata: {name: dns, namespace: names},
  spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: dns, port: 53}]}]}}
";

fn strict(mode: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: strict, namespace: names}}, spec: {{mtls: {{mode: {mode}}}}}}}"
    )
}

#[test]
fn an_enrolled_pod_gets_datagrams_unless_it_wants_proof() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(PODS.to_owned()))?;
    let selector = "gateway.networking.k8s.io/gateway-name: edge";
    let labels = format!("{{{selector}, istio.io/dataplane-mode: none}}");
    bed.apply(&gateway_process(&bed, ("names", "edge"), (&labels, &format!("{{{selector}}}")))?)?;
    bed.wait_ready(Duration::from_secs(30), |_| ())?;
    let client = bed.pod("outside/client")?;
    let gateway = bed.pod("names/edge")?.status().ips[0].to_string();
    let answers = |more: &[&str]| dig(&client, &gateway, more).is_ok_and(|answer| answer == "192.0.2.7");
    bed.wait("an answer by UDP", Duration::from_secs(10), |_| answers(&[]))
        .with_context(|| format!("{:?}", dig(&client, &gateway, &[])))?;
    ensure!(answers(&["+tcp"]), "an answer by TCP");
    // From one port, so that it is the session that was there which ends.
    let same = format!("{}#4000", client.status().ips[0]);
    ensure!(answers(&["-b", &same]), "an answer at port 4000");
    bed.apply(&strict("STRICT"))?;
    bed.wait("silence", Duration::from_secs(10), |_| !answers(&["-b", &same]))?;
    ensure!(!answers(&[]), "a new client");
    ensure!(answers(&["+tcp"]), "by TCP the gateway proves who it is");
    let metrics = client.exec(&["curl", "-s", &format!("http://{gateway}:15020/metrics")])?;
    let metrics = String::from_utf8_lossy(&metrics.stdout).into_owned();
    for reason in ["changed", "mutual_tls"] {
        let name = format!("mesh_connections_denied_total{{reason=\"{reason}\"}} ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&name)).context(name.clone())?;
        ensure!(count != "0", "{name}{count}");
    }
    bed.apply(&strict("PERMISSIVE"))?;
    bed.wait("an answer again", Duration::from_secs(10), |_| answers(&["-b", &same]))?;
    Ok(())
}

fn dig(client: &PodHandle, at: &str, more: &[&str]) -> Result<String> {
    let words = ["dig", &format!("@{at}"), "-p", "5300", "+short", "+time=1", "+tries=1", "web.example"];
    let output = client.exec(&[&words, more].concat())?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
