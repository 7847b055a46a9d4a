//! Addresses that are nobody's: what clients say there decides where they get to, as at a sidecar.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle};
use mesh_tests::scenario::{Dialled, dial, eventually, manifests, start};

use super::entries::{entry, outside};
use super::{Answer, ask_once, sample, until};
use crate::scrape::{Scrape, counted};

/// An address of nobody, where nothing answers.
const NOWHERE: &str = "192.0.2.77";

const REGISTRY_ONLY: &str = "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, \
     data: {mesh: \"{accessLogFile: /dev/stdout, outboundTrafficPolicy: {mode: REGISTRY_ONLY}}\"}}";

/// Asks for a path of a host that the client believes to be at an address of nobody.
fn at_nowhere<'a>(resolve: &'a str, url: &'a str) -> [&'a str; 5] {
    ["--max-time", "3", "--resolve", resolve, url]
}

fn status(is: u16) -> impl Fn(&Answer) -> bool {
    move |answer| answer.status == is
}

/// An entry that is known by nothing but its host.
fn web(two: &str) -> String {
    entry(
        "web",
        &format!(
            "hosts: [web.test], resolution: STATIC, endpoints: [{{address: {two}}}], \
             ports: [{{name: http, number: 80, protocol: HTTP, targetPort: 7200}}]"
        ),
    )
}

#[test]
fn hosts_without_an_address_are_reached_by_their_names() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let (client, two) = (bed.pod("mesh/client")?, outside(&bed, "node-2")?);
    let servers = bed.node("node-2")?;
    let _plain = servers.spawn(&["httpbin", "--port", "80"])?;
    let _web = servers.spawn(&["httpbin", "--port", "7200"])?;
    let direct = format!("http://{two}/get");
    until(&bed, &client, &[&direct], status(200))?;

    bed.apply(&web(&two))?;
    let web = format!("web.test:80:{NOWHERE}");
    let by_name = at_nowhere(&web, "http://web.test/get");
    let answer = until(&bed, &client, &by_name, status(200))?;
    ensure!(answer.body.contains("web.test"), "{answer:?}");
    // Whoever is somebody else goes where he was going.
    let answer = ask_once(&client, &["-H", "host: else.test", &direct])?;
    ensure!(answer.status == 200 && answer.body.contains("else.test"), "{answer:?}");
    let labels = [("destination_service_name", "PassthroughCluster"), ("response_code", "200")];
    counted(&bed.node("node-1")?, "istio_requests_total", &labels, |count| count > 0)?;

    bed.apply(
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: legacy, namespace: mesh}, \
         spec: {hosts: [legacy.test], http: [{match: [{uri: {prefix: /gone}}], directResponse: {status: 410}}, \
         {rewrite: {authority: web.test}, route: [{destination: {host: web.test}}]}]}}",
    )?;
    let legacy = format!("legacy.test:80:{NOWHERE}");
    until(&bed, &client, &at_nowhere(&legacy, "http://legacy.test/gone"), status(410))?;
    let answer = ask_once(&client, &at_nowhere(&legacy, "http://legacy.test/get"))?;
    ensure!(answer.status == 200 && answer.body.contains("web.test"), "{answer:?}");
    // An answer that a rule gives is no refusal.
    let ruled = [("response_code", "410"), ("source_workload", "client")];
    let node = bed.node("node-1")?;
    counted(&node, "istio_requests_total", &ruled, |count| count > 0)?;
    let refused = [("destination_service_name", "BlackHoleCluster")];
    ensure!(Scrape::of(&node)?.count("istio_requests_total", &refused) == 0, "{ruled:?}");
    // Such rules hold on port 80 alone.
    let other = format!("legacy.test:7200:{two}");
    let answer = ask_once(&client, &at_nowhere(&other, "http://legacy.test:7200/gone"))?;
    ensure!(answer.status == 404, "{answer:?}");
    bed.delete("VirtualService", "mesh", "legacy")?;
    bed.delete("ServiceEntry", "mesh", "web")?;
    until(&bed, &client, &by_name, status(0))?;
    Ok(())
}

/// Requests are told so, connections are cut; what an entry names is reached, by host, server name and port.
#[test]
fn nobody_is_reached_under_registry_only() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let (client, two) = (bed.pod("mesh/client")?, outside(&bed, "node-2")?);
    let servers = bed.node("node-2")?;
    let _web = servers.spawn(&["httpbin", "--port", "7200"])?;
    let _bytes = servers.spawn(&["netprobe", "serve", "--port", "7100"])?;
    let direct = format!("http://{two}:7200/get");
    until(&bed, &client, &[&direct], status(200))?;
    bed.apply(REGISTRY_ONLY)?;
    until(&bed, &client, &[&direct], status(502))?;
    let labels = [("destination_service_name", "BlackHoleCluster"), ("response_code", "502")];
    counted(&bed.node("node-1")?, "istio_requests_total", &labels, |count| count > 0)?;
    let bytes = format!("{two}:7100");
    let seen = dial(&client, &[&bytes])?;
    ensure!(seen.refused(), "{seen:?}");

    bed.apply(&web(&two))?;
    let web = format!("web.test:80:{NOWHERE}");
    until(&bed, &client, &at_nowhere(&web, "http://web.test/get"), status(200))?;
    let answer =
        ask_once(&client, &["-H", "host: else.test", "--max-time", "3", &format!("http://{NOWHERE}/")])?;
    ensure!(answer.status == 502, "{answer:?}");
    by_server_name(&bed, &client, &two)?;
    // All that goes to the port, since nothing else tells.
    bed.apply(&entry(
        "db",
        &format!(
            "hosts: ['*.db.test'], resolution: STATIC, endpoints: [{{address: {two}}}], \
             ports: [{{name: tcp, number: 3306, protocol: TCP, targetPort: 7100}}]"
        ),
    ))?;
    eventually(&bed, &client, &format!("{NOWHERE}:3306"), Dialled::served)
        .with_context(|| bed.node("node-1").and_then(|node| node.log()).unwrap_or_default())?;
    Ok(())
}

fn by_server_name(bed: &Bed, client: &PodHandle, two: &str) -> Result<()> {
    bed.apply(&entry(
        "tls",
        &format!(
            "hosts: ['*.tls.test'], resolution: STATIC, endpoints: [{{address: {two}}}], \
             ports: [{{name: tls, number: 443, protocol: TLS, targetPort: 7100}}]"
        ),
    ))?;
    let line = ["dst.service=\"*.tls.test\"", &format!("dst.addr={two}:7100"), "direction=\"outbound\""];
    // What answers is no TLS; where the connection went is what counts.
    let known = format!("a.tls.test:443:{NOWHERE}");
    let arrived = bed.wait("a connection by its server name", Duration::from_secs(5), |bed| {
        let _ = ask_once(client, &at_nowhere(&known, "https://a.tls.test/"));
        let log = bed.node("node-1").and_then(|node| node.log()).unwrap_or_default();
        log.lines().any(|said| line.iter().all(|word| said.contains(word)))
    });
    arrived.with_context(|| bed.node("node-1").and_then(|node| node.log()).unwrap_or_default())?;
    let other = format!("else.example:443:{NOWHERE}");
    let answer = ask_once(client, &at_nowhere(&other, "https://else.example/"))?;
    ensure!(answer.status == 0, "{answer:?}");
    let log = bed.node("node-1")?.log()?;
    ensure!(!log.contains("else.example"), "a name that nobody has leads nowhere: {log}");
    Ok(())
}

/// Says something as soon as somebody has connected.
const FIRST: &str = "
import socket, sys
with socket.create_server(('', int(sys.argv[1]))) as server:
    while True:
        connection, _ = server.accept()
        connection.sendall(b'hello')
        connection.close()
";

/// Seconds until a client that says nothing hears something.
const SILENT: &str = "
import socket, sys, time
begun = time.monotonic()
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as connection:
    assert connection.recv(5) == b'hello'
print(time.monotonic() - begun)
";

/// Where requests and server names both lead out, one look decides about both.
#[test]
fn a_client_that_says_nothing_is_waited_for_once() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let (client, two) = (bed.pod("mesh/client")?, outside(&bed, "node-2")?);
    let _server = bed.node("node-2")?.spawn(&["/usr/bin/python3", "-c", FIRST, "7300"])?;
    // The best of some: the machine may be busy.
    let waits = || -> Result<f64> {
        let mut best = f64::MAX;
        for _ in 0..6 {
            let output = client.exec(&["/usr/bin/python3", "-c", SILENT, &two, "7300"])?;
            let text = String::from_utf8_lossy(&output.stdout);
            best = best.min(text.trim_end().parse().unwrap_or(f64::MAX));
        }
        Ok(best)
    };
    bed.wait("the server", Duration::from_secs(10), |_| waits().is_ok_and(|took| took < 5.0))?;
    let nothing = waits()?;
    ensure!(nothing < 0.1, "nothing makes a difference, and {nothing} s are waited");
    for (name, protocol) in [("web", "HTTP"), ("tls", "TLS")] {
        let port = format!("ports: [{{name: {name}, number: 7300, protocol: {protocol}, targetPort: 7200}}]");
        let host =
            format!("hosts: ['*.{name}.test'], resolution: STATIC, endpoints: [{{address: {two}}}], {port}");
        bed.apply(&entry(name, &host))?;
        bed.wait("a look at what clients say", Duration::from_secs(10), |_| {
            waits().is_ok_and(|took| took > 0.19)
        })?;
    }
    // The second entry is known a moment later than the first.
    std::thread::sleep(Duration::from_secs(1));
    let took = waits()?;
    ensure!((0.19..0.37).contains(&took), "{took} s");
    Ok(())
}

/// The sample, as its reader tries it.
#[test]
fn the_sample_does_what_it_says() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(sample("egress/external.yaml")?))?;
    let client = bed.pod("default/client")?;
    let asked = until(&bed, &client, &["http://external.test/get"], status(200))?;
    ensure!(asked.body.contains("external.test"), "{asked:?}");
    ensure!(ask_once(&client, &["http://external.test/status/503"])?.status == 503);
    // Until the rules come, and after.
    ensure!(ask_once(&client, &["http://external.test/delay/1.5"])?.status == 200);
    bed.apply(&sample("egress/rules/timeout.yaml")?)?;
    until(&bed, &client, &["http://external.test/denied"], status(403))?;
    ensure!(ask_once(&client, &["http://external.test/delay/1.5"])?.status == 504);
    let other = format!("http://{}:8080/get", bed.pod("external/external")?.ip());
    ensure!(ask_once(&client, &[&other])?.status == 200);
    let nowhere = format!("http://{NOWHERE}/get");
    bed.apply(&sample("egress/rules/registry-only.yaml")?)?;
    until(&bed, &client, &["--max-time", "3", &nowhere], status(502))?;
    until(&bed, &client, &["http://external.test/get"], status(200))?;
    Ok(())
}
