//! Services of access logs hear of what the kernel carries.

use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use mesh_tests::bed::{Bed, Inbound};
use mesh_tests::collector::Logged;
use mesh_tests::http::{Request, fetch};
use mesh_tests::scenario::{Dialled, at, dial};

use super::{bed, taken};

const LOGS: &str = "
{apiVersion: v1, kind: Service, metadata: {name: logs, namespace: outside}, spec: {selector: {app: collector},
  ports: [{name: grpc, port: 4317}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: collector, namespace: outside, labels: {app: collector}}, spec: {nodeName: node-2,
  terminationGracePeriodSeconds: 0, containers: [{name: c, image: none,
  command: [testbed, tool, collector, '0.0.0.0:9411', '0.0.0.0:4317'], readinessProbe: {tcpSocket: {port: 9411}}}]}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    extensionProviders:
    - {name: tcp, envoyTcpAls: {service: logs.outside.svc.cluster.local, port: 4317}}
    - {name: otel, envoyOtelAls: {service: logs.outside.svc.cluster.local, port: 4317, logFormat: {text: '%DOWNSTREAM_REMOTE_ADDRESS% %BYTES_SENT%'}}}
---
{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {name: near, namespace: mesh},
  spec: {selector: {matchLabels: {app: near}}, accessLogging: [{providers: [{name: tcp}], filter: {expression: connection.mtls}}]}}
---
{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {name: client, namespace: mesh},
  spec: {selector: {matchLabels: {app: client}}, accessLogging: [{providers: [{name: otel}]}]}}
";

fn heard(bed: &Bed) -> Result<Vec<Logged>> {
    let at = (bed.pod("outside/collector")?.ip(), 9411).into();
    let ask = || fetch(at, &Request::get("/logged"), Duration::from_secs(5));
    Ok(serde_json::from_slice(&bed.node("node-1")?.run_in_netns(ask)??.body)?)
}

/// Both ends tell, each whom its own Telemetry names, once for each flow: one that lasts as well as one that is over at once.
#[test]
fn services_of_access_logs_are_told_of_express_flows() -> Result<()> {
    let (bed, client, near) = bed(Inbound::SkLookup)?;
    bed.apply(LOGS)?;
    bed.wait_ready(Duration::from_secs(30), |_| ())?;
    let mut told = (Vec::new(), Vec::new());
    bed.wait("both ends to tell", Duration::from_secs(30), |bed| {
        let before = taken(bed).unwrap_or_default();
        let said = dial(&client, &[&at(&near)]).ok().filter(Dialled::served);
        let Some(own) = said.and_then(|it| it.sockname) else { return false };
        let is_express = taken(bed).is_ok_and(|now| now == before + 1);
        thread::sleep(Duration::from_millis(2_500));
        let all = heard(bed).unwrap_or_default();
        let of = |is: &dyn Fn(&Logged) -> bool| all.iter().filter(|it| is(it)).cloned().collect::<Vec<_>>();
        let by_server = of(&|it| it.says.get("client") == Some(&own));
        told = (by_server, of(&|it| it.body.starts_with(&format!("{own} "))));
        is_express && !told.0.is_empty() && !told.1.is_empty()
    })?;
    let ([server], [sender]) = (&*told.0, &*told.1) else { bail!("one entry of each: {told:#?}") };
    ensure!(server.by == "tcp" && server.says["cluster"] == "inbound|7000||", "{server:#?}");
    ensure!(server.says["peer"].ends_with("/ns/mesh/sa/client"), "{server:#?}");
    ensure!(server.node.starts_with(&format!("sidecar~{}~near.mesh", near.ip())), "{server:#?}");
    ensure!(sender.by == "otlp" && sender.node.contains("~client.mesh"), "{sender:#?}");
    let sent = sender.body.split(' ').nth(1).unwrap_or_default();
    ensure!(server.says["sent"] == sent && sent != "0", "{server:#?} {sender:#?}");
    let by_server = || Ok::<_, anyhow::Error>(heard(&bed)?.iter().filter(|it| it.by == "tcp").count());
    let before = by_server()?;
    let mut held = client.spawn(&["netprobe", "hold", &at(&near)])?;
    ensure!(held.line(Duration::from_secs(5))? == "holding 1", "{}", held.errors());
    thread::sleep(Duration::from_millis(2_500));
    ensure!(by_server()? == before, "told before it has ended");
    drop(held);
    bed.wait("one that has lasted", Duration::from_secs(5), |_| by_server().is_ok_and(|it| it > before))?;
    thread::sleep(Duration::from_millis(2_500));
    ensure!(by_server()? == before + 1, "told once");
    Ok(())
}
