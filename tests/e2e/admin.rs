//! What people and tools see of a node: state, metrics, log; and who does not get to see it.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    bed::{Bed, NodeHandle, PodHandle},
    http::{self, Headers, Request, Response},
    scenario::{Dialled, at, dial, eventually, manifests, service, start},
};

use crate::{
    express::disabled,
    forge::{self, raw},
    scrape::Scrape,
};

fn two_nodes() -> Result<Bed> {
    start(Bed::builder().nodes(2).manifests(manifests()))
}

/// Sends a request to the admin port as a process of the node.
fn ask(node: &NodeHandle<'_>, method: &str, target: &str, headers: &[(&str, &str)]) -> Result<Response> {
    let mut request = Request { method: method.to_owned(), ..Request::get(target) };
    request.headers = Headers::default();
    for (name, value) in headers {
        request.headers.push(*name, *value);
    }
    let asked = || http::fetch(([127, 0, 0, 1], 15000).into(), &request, Duration::from_secs(5));
    node.run_in_netns(asked)?.with_context(|| format!("{method} {target}"))
}

/// Whether anything answers an HTTP request at this address, from the network of this pod.
fn answers(pod: &PodHandle, to: SocketAddr, path: &str) -> Result<bool> {
    let asked = || http::fetch(to, &Request::get(path), Duration::from_secs(2));
    Ok(pod.run_in_netns(asked)?.is_ok())
}

#[test]
fn the_admin_port_is_for_the_node_alone() -> Result<()> {
    let bed = two_nodes()?;
    let (node, other) = (bed.node("node-1")?, bed.node("node-2")?);
    let (stranger, client) = (bed.pod("outside/stranger")?, bed.pod("mesh/client")?);
    for ip in node.ips() {
        for port in [15000, 15020, 15021] {
            let to = SocketAddr::new(ip, port);
            let path = if port == 15021 { "/healthz/ready" } else { "/metrics" };
            let public = port != 15000;
            ensure!(answers(&stranger, to, path)? == public, "{to} from a pod of the node");
            let asked = || http::fetch(to, &Request::get(path), Duration::from_secs(2));
            ensure!(other.run_in_netns(asked)?.is_ok() == public, "{to} from another node");
            ensure!(node.run_in_netns(asked)?.is_ok() == public, "{to} from the node itself");
            let seen =
                dial(&client, &[&to.to_string(), "--say", "GET / HTTP/1.0\r\n\r", "--timeout", "2000"])?;
            ensure!(seen.refused() != public, "{to} from a pod of the mesh: {seen:?}");
        }
    }
    for gateway in ["169.254.1.1:15000", "127.0.0.1:15000"] {
        ensure!(!answers(&stranger, gateway.parse()?, "/")?, "{gateway} from a pod");
    }
    Ok(())
}

#[test]
fn no_web_page_gets_at_the_admin_port() -> Result<()> {
    let bed = two_nodes()?;
    let node = bed.node("node-1")?;
    for host in
        ["evil.example", "evil.example:15000", "192.168.77.1:15000", "localhost.evil.example:15000", ""]
    {
        for path in ["/", "/config_dump", "/logging"] {
            let reply = ask(&node, "GET", path, &[("Host", host)])?;
            ensure!(reply.status == 403, "{path} as {host:?}: {} {}", reply.status, reply.text());
            ensure!(
                !reply.text().contains("mesh/client"),
                "{path} as {host:?} tells something: {}",
                reply.text()
            );
        }
    }
    let refused = Scrape::of(&node)?.count("mesh_admin_refused_total", &[("reason", "host")]);
    ensure!(refused == 15, "15 requests with a foreign host, {refused} counted");
    for headers in [
        [("Host", "localhost:15000"), ("Origin", "http://evil.example")],
        [("Host", "localhost:15000"), ("Sec-Fetch-Site", "cross-site")],
    ] {
        let reply = ask(&node, "POST", "/logging?level=trace", &headers)?;
        ensure!(reply.status == 403, "a change by a page, {headers:?}: {}", reply.status);
    }
    let reply = ask(&node, "GET", "/logging?level=trace", &[("Host", "localhost")])?;
    ensure!(reply.status == 405, "a change by GET, which an image tag can make: {}", reply.status);
    let levels = ask(&node, "GET", "/logging", &[("Host", "localhost")])?.text();
    ensure!(levels.starts_with("level=info\n"), "something has changed the levels: {levels}");
    Ok(())
}

/// Everything that the node shows of itself.
fn everything(node: &NodeHandle<'_>) -> Result<String> {
    let mut all = node.log()? + &node.metrics()?;
    for path in ["/", "/state.json", "/config_dump", "/connections", "/logging"] {
        all += &node.admin(path)?;
    }
    all += &ask(node, "GET", "/", &[("Accept", "text/html")])?.text();
    Ok(all)
}

/// What a person looks for first: what is in the kernel, how full it is, who has certificates; and the process can be asked to
/// go.
#[test]
fn the_admin_port_shows_the_kernel_and_certificates_and_ends_the_process() -> Result<()> {
    let bed = two_nodes()?;
    let (client, far) = (bed.pod("mesh/client")?, bed.pod("mesh/far")?);
    ensure!(dial(&client, &[&at(&far)])?.served(), "the mesh works");
    let node = bed.node("node-1")?;
    let json = |path| -> Result<serde_json::Value> {
        let reply = ask(&node, "GET", path, &[("Host", "localhost"), ("Accept", "application/json")])?;
        ensure!(reply.status == 200, "{path}: {} {}", reply.status, reply.text());
        Ok(serde_json::from_str(&reply.text())?)
    };
    let kernel = json("/ebpf")?;
    let named = |list: &str, name: &str| {
        kernel[list].as_array().and_then(|all| all.iter().find(|it| it["name"] == name)).cloned()
    };
    let program = named("programs", "mesh_connect4").with_context(|| format!("no program in {kernel}"))?;
    ensure!(program["id"].as_u64().is_some_and(|id| id > 0), "{program}");
    let pods = named("maps", "PODS").with_context(|| format!("no map in {kernel}"))?;
    ensure!(pods["entries"] == 2 && pods["maxEntries"].as_u64() > Some(2), "client and near: {pods}");
    let captured = kernel["counters"].as_array().into_iter().flatten().find(|it| it["event"] == "captured");
    ensure!(captured.is_some_and(|it| it["count"].as_u64() > Some(0)), "{kernel}");
    ensure!(kernel["problems"].is_null(), "{kernel}");
    ensure!(node.admin("/ebpf")?.contains("PODS"), "as text");
    let certs = json("/certs")?.to_string();
    ensure!(
        certs.contains("spiffe://cluster.local/ns/mesh/sa/client") && !certs.contains("PRIVATE"),
        "{certs}"
    );

    let mut wish = Request::get("/debug/pprof/profile?seconds=1");
    wish.headers.push("Host", "localhost");
    // Names are looked up in a program that was not built for speed.
    let profile =
        node.run_in_netns(|| http::fetch(([127, 0, 0, 1], 15000).into(), &wish, Duration::from_secs(60)))??;
    ensure!(profile.status == 200 && profile.body.starts_with(&[0x1f, 0x8b]), "{}", profile.text());

    let gone = ask(&node, "POST", "/quitquitquit", &[("Host", "localhost")])?;
    ensure!(gone.status == 200, "{}", gone.text());
    bed.wait("the end of the process", Duration::from_secs(20), |_| {
        ask(&node, "GET", "/", &[("Host", "localhost")]).is_err()
    })?;
    Ok(())
}

#[test]
fn the_dump_has_everything_but_keys() -> Result<()> {
    let bed = two_nodes()?;
    let (client, far) = (bed.pod("mesh/client")?, bed.pod("mesh/far")?);
    bed.apply(
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: shown, namespace: mesh}, \
         spec: {rules: [{from: [{source: {principals: [cluster.local/ns/mesh/sa/client]}}]}]}}",
    )?;
    let node = bed.node("node-1")?;
    let dump = || -> Result<serde_json::Value> { Ok(serde_json::from_str(&node.admin("/config_dump")?)?) };
    let shown = |dump: &serde_json::Value| dump["policies"].to_string().contains("\"shown\"");
    bed.wait("the policy in the dump", Duration::from_secs(5), |_| dump().is_ok_and(|dump| shown(&dump)))?;
    ensure!(dial(&client, &[&at(&far)])?.served(), "the policy admits the client");

    let dump = dump()?;
    let named = |list: &str, name: &str| {
        let found = dump[list].as_array().and_then(|all| all.iter().find(|one| one["name"] == name));
        found.cloned().with_context(|| format!("no {name} among {list}: {}", dump[list]))
    };
    let workload = named("workloads", "far")?;
    ensure!(workload["workloadIps"][0] == far.ip().to_string(), "{workload}");
    ensure!(workload["identity"] == "spiffe://cluster.local/ns/mesh/sa/far", "{workload}");
    ensure!((&workload["protocol"], &workload["node"]) == (&"HBONE".into(), &"node-2".into()), "{workload}");
    ensure!(named("workloads", "stranger")?["protocol"] == "TCP", "who is outside of the mesh");
    let service = named("services", "far")?;
    ensure!(
        service["hostname"] == "far.mesh.svc.cluster.local" && service["ports"]["80"] == 7000,
        "{service}"
    );
    let policy = named("policies", "shown")?;
    ensure!(policy["namespace"] == "mesh" && policy["action"] == "Allow", "{policy}");

    let certificates = dump["certificates"].as_array().context("certificates")?;
    let ids: Vec<_> = certificates.iter().filter_map(|one| one["identity"].as_str()).collect();
    let expected = ["spiffe://cluster.local/ns/mesh/sa/client", "spiffe://cluster.local/ns/mesh/sa/near"];
    ensure!(ids == expected, "node-1 holds the certificates of its own pods and of no other: {ids:?}");
    for one in certificates {
        let serial = one["certChain"][0]["serialNumber"].as_str().unwrap_or_default();
        ensure!(one["state"] == "Valid" && serial.len() == 32, "{one}");
    }
    let pods = dump["workloadState"].as_object().context("workloadState")?;
    let states: BTreeMap<_, _> = pods
        .values()
        .map(|pod| (pod["info"]["name"].as_str().unwrap_or(""), pod["state"].as_str()))
        .collect();
    ensure!(
        states == BTreeMap::from([("client", Some("captured")), ("near", Some("captured"))]),
        "{states:?}"
    );

    let all = everything(&node)? + &everything(&bed.node("node-2")?)?;
    ensure!(!all.contains("PRIVATE KEY"), "a private key is shown");
    let key = forge::file(&bed, "ca-key.pem")?;
    for line in key.lines().filter(|line| !line.starts_with("--") && line.len() > 20) {
        ensure!(!all.contains(line), "the CA's key is shown");
    }
    Ok(())
}

#[test]
fn the_front_page_is_for_people() -> Result<()> {
    let bed = two_nodes()?;
    let (client, far, node) = (bed.pod("mesh/client")?, bed.pod("mesh/far")?, bed.node("node-1")?);
    let mut held = client.spawn(&["netprobe", "hold", &at(&far)])?;
    ensure!(held.line(Duration::from_secs(5))? == "holding 1", "{}", held.errors());

    let text = node.admin("/")?;
    for part in
        ["Node node-1", "ready", "mesh/client", "captured", "cluster.local/ns/mesh/sa/far", "outbound"]
    {
        ensure!(text.contains(part), "no {part:?} in\n{text}");
    }
    ensure!(!text.contains('<'), "a terminal gets text:\n{text}");
    let page = ask(&node, "GET", "/", &[("Accept", "text/html,*/*;q=0.8")])?;
    let header = |name| page.headers.first(name).unwrap_or_default().to_owned();
    ensure!(header("content-type").starts_with("text/html"), "{}", header("content-type"));
    ensure!(
        header("content-security-policy").contains("default-src 'none'"),
        "{}",
        header("content-security-policy")
    );
    ensure!(
        page.text().starts_with("<!DOCTYPE html>") && !page.text().contains("http://"),
        "{}",
        page.text()
    );

    let connections: serde_json::Value =
        serde_json::from_str(&ask(&node, "GET", "/connections", &[("Accept", "application/json")])?.text())?;
    let one = &connections[0];
    ensure!(connections.as_array().map(Vec::len) == Some(1), "{connections}");
    ensure!(
        one["encrypted"] == true && one["direction"] == "outbound" && one["established"] == true,
        "{one}"
    );
    held.kill();
    let gone = |bed: &Bed| {
        bed.node("node-1").is_ok_and(|node| node.admin("/").is_ok_and(|text| text.contains(" 0 open")))
    };
    bed.wait("the page without the connection", Duration::from_secs(3), gone)?;
    let lost = ask(&node, "GET", "/nothing", &[])?;
    ensure!(
        lost.status == 404 && lost.text().contains("/config_dump"),
        "a wrong path is shown the way: {}",
        lost.text()
    );
    Ok(())
}

#[test]
fn levels_of_the_log_change_while_it_runs() -> Result<()> {
    let bed = two_nodes()?;
    let (client, stranger, near) =
        (bed.pod("mesh/client")?, bed.pod("outside/stranger")?, bed.pod("mesh/near")?);
    let node = bed.node("node-1")?;
    let change = |what: &str| -> Result<()> {
        let reply = ask(&node, "POST", &format!("/logging?{what}"), &[])?;
        ensure!(reply.status == 200, "{what}: {}", reply.text());
        Ok(())
    };
    let tunnel = SocketAddr::new(near.ip(), 15008);
    let refused = || -> Result<bool> {
        let seen = raw(&stranger, tunnel, b"garbage", Duration::from_secs(2))?;
        std::thread::sleep(Duration::from_millis(200));
        Ok(node.log()?.lines().any(|line| line.contains(&seen.from.to_string())))
    };
    ensure!(refused()?, "at the level info a refusal is logged");
    change("level=error")?;
    ensure!(!refused()?, "at the level error it is not");
    change("level=reset")?;
    ensure!(refused()?, "and is again after the reset");
    let bad = ask(&node, "POST", "/logging?level=loud", &[])?;
    ensure!(bad.status == 400 && bad.text().contains("loud"), "{}", bad.text());

    let captures = || -> Result<usize> { Ok(node.log()?.matches("captured a connect to ").count()) };
    let to = at(&bed.pod("mesh/far")?);
    dial(&client, &[&to])?;
    std::thread::sleep(Duration::from_millis(600));
    ensure!(captures()? == 0, "the kernel programs are silent until asked");
    change("bpf=debug")?;
    dial(&client, &[&to])?;
    bed.wait("a line of the kernel programs", Duration::from_secs(3), |_| captures().is_ok_and(|n| n > 0))?;
    let told = node.log()?.lines().any(|line| line.contains("captured a connect to ") && line.ends_with(&to));
    ensure!(told, "no captured connect to {to} in\n{}", node.log()?);
    change("bpf=off")?;
    std::thread::sleep(Duration::from_millis(600));
    let before = captures()?;
    dial(&client, &[&to])?;
    std::thread::sleep(Duration::from_millis(600));
    ensure!(captures()? == before, "the kernel programs go on talking");
    Ok(())
}

/// Labels of the two ends as every Istio dashboard knows them.
fn ends(reporter: &str, source: &str, destination: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("reporter".to_owned(), reporter.to_owned()),
        ("request_protocol".to_owned(), "tcp".to_owned()),
        ("response_flags".to_owned(), "-".to_owned()),
        ("connection_security_policy".to_owned(), "mutual_tls".to_owned()),
    ]);
    // The bed labels its nodes as a cloud does: one region, a zone for each node.
    let zone = |name: &str| if name == "far" { "zone-2" } else { "zone-1" };
    for (end, name) in [("source", source), ("destination", destination)] {
        for (label, value) in [
            ("workload", name),
            ("canonical_service", name),
            ("canonical_revision", "latest"),
            ("workload_namespace", "mesh"),
            ("principal", &format!("spiffe://cluster.local/ns/mesh/sa/{name}")),
            ("app", name),
            ("version", "latest"),
            ("cluster", "Kubernetes"),
            ("region", "testbed"),
            ("zone", zone(name)),
        ] {
            labels.insert(format!("{end}_{label}"), value.to_owned());
        }
    }
    labels
}

/// The value of a metric whose labels are exactly these. Of the service, only the client's side is certain.
fn exactly(scrape: &Scrape, name: &str, expected: &BTreeMap<String, String>) -> Result<i64> {
    let reporter = expected.get("reporter").map_or("", String::as_str);
    let by_reporter = [("reporter", reporter)];
    let all: Vec<_> = scrape.select(name, &by_reporter).collect();
    ensure!(all.len() == 1, "{name} of reporter {reporter}: {all:?}");
    let mut labels = all.first().context("one")?.labels.clone();
    ensure!(labels.len() == 27, "{} labels: {labels:?}", labels.len());
    if reporter == "destination" {
        labels.retain(|label, _| !label.starts_with("destination_service"));
    }
    ensure!(labels == *expected, "{name} of reporter {reporter}:\n{labels:#?}\nexpected\n{expected:#?}");
    Ok(scrape.count(name, &by_reporter))
}

/// One connection of known size, and what both nodes count of it.
fn is_counted(bed: &Bed, server: &str, nodes: [&str; 2]) -> Result<()> {
    let client = bed.pod("mesh/client")?;
    let to = format!("{}:80", bed.status().service_ip(&format!("mesh/{server}"))?);
    let seen = dial(&client, &[&to, "--bytes", "70000"])?;
    ensure!(seen.served() && seen.received == 70_000, "{seen:?}");
    let (request, response) = sizes(&seen);
    let mut at_source = ends("source", "client", server);
    at_source.insert("destination_service".to_owned(), format!("{server}.mesh.svc.cluster.local"));
    at_source.insert("destination_service_namespace".to_owned(), "mesh".to_owned());
    at_source.insert("destination_service_name".to_owned(), server.to_owned());
    let at_destination = ends("destination", "client", server);
    for (node, labels) in nodes.into_iter().zip([at_source, at_destination]) {
        let node = bed.node(node)?;
        let reporter = labels.get("reporter").cloned().unwrap_or_default();
        bed.wait("the connection's end", Duration::from_secs(3), |_| {
            let closed = [("reporter", reporter.as_str())];
            Scrape::of(&node).is_ok_and(|s| s.count("istio_tcp_connections_closed_total", &closed) == 1)
        })?;
        let scrape = Scrape::of(&node)?;
        for (metric, value) in [
            ("istio_tcp_connections_opened_total", 1),
            ("istio_tcp_connections_closed_total", 1),
            ("istio_tcp_received_bytes_total", request),
            ("istio_tcp_sent_bytes_total", response),
        ] {
            let found = exactly(&scrape, metric, &labels)?;
            ensure!(found == value, "{metric} of reporter {reporter} is {found}, not {value}");
        }
        let failed = scrape.count("istio_tcp_connections_failed_total", &[]);
        ensure!(failed == 0, "{failed} failed connections are counted");
    }
    Ok(())
}

/// Bytes that the server received, and those it sent: a line each, and the echo.
fn sizes(seen: &Dialled) -> (i64, i64) {
    let size = |n: usize| i64::try_from(n).unwrap_or(-1);
    (size("ECHO\n".len() + seen.received), size(seen.greeting.len() + 1 + seen.received))
}

#[test]
fn metrics_across_nodes_are_exact() -> Result<()> {
    is_counted(&two_nodes()?, "far", ["node-1", "node-2"])
}

#[test]
fn metrics_on_one_node_are_exact() -> Result<()> {
    is_counted(&two_nodes()?, "near", ["node-1", "node-1"])
}

#[test]
fn scrapes_keep_to_the_format_and_have_what_dashboards_ask() -> Result<()> {
    let bed = two_nodes()?;
    let node = bed.node("node-1")?;
    dial(&bed.pod("mesh/client")?, &[&at(&bed.pod("mesh/far")?)])?;
    dial(&bed.pod("outside/stranger")?, &[&at(&bed.pod("mesh/near")?)])?;
    let scrape = Scrape::of(&node)?;
    for name in [
        "istio_tcp_connections_opened_total",
        "istio_tcp_sent_bytes_total",
        "istio_tcp_received_bytes_total",
        "process_cpu_seconds_total",
        "process_start_time_seconds",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
    ] {
        ensure!(scrape.names().contains(name), "no {name} in {:?}", scrape.names());
    }
    let build = scrape.select("istio_build", &[("component", "node")]).next().context("istio_build")?;
    ensure!(build.value == "1" && build.labels.get("tag").is_some_and(|tag| !tag.is_empty()), "{build:?}");
    ensure!(scrape.count("workload_manager_active_proxy_count", &[]) == 2, "two pods are captured");
    ensure!(scrape.count("workload_manager_proxies_started_total", &[]) == 2, "both have begun to be");
    ensure!(scrape.count("workload_manager_proxies_stopped_total", &[]) == 0, "and neither has ended");
    let told =
        scrape.count("istio_xds_message_total", &[("url", "type.googleapis.com/istio.workload.Address")]);
    ensure!(told > 0, "somebody has told of workloads");
    ensure!(scrape.count("mesh_panics_total", &[]) == 0, "a task has panicked");
    let plain = [
        ("reporter", "destination"),
        ("connection_security_policy", "none"),
        ("source_principal", "unknown"),
    ];
    let plain = scrape.count("istio_tcp_connections_opened_total", &plain);
    ensure!(plain == 1, "one plaintext connection from outside, {plain} counted");

    let fetch = |path: &str, accept: &str| -> Result<Response> {
        let mut request = Request::get(path);
        request.headers.push("Accept", accept);
        let asked = || http::fetch(([127, 0, 0, 1], 15020).into(), &request, Duration::from_secs(5));
        Ok(node.run_in_netns(asked)??)
    };
    let same = Scrape::parse(&fetch("/stats/prometheus", "*/*")?.text())?;
    ensure!(same.names() == scrape.names(), "/stats/prometheus differs");
    let modern = fetch("/metrics", "application/openmetrics-text;version=1.0.0")?;
    let kind = modern.headers.first("content-type").unwrap_or_default().to_owned();
    ensure!(kind.starts_with("application/openmetrics-text"), "{kind}");
    ensure!(modern.text().ends_with("# EOF\n"), "OpenMetrics has an end mark");
    Ok(())
}

/// As simple clients do it: everything is said, and the answer awaited.
#[test]
fn a_client_that_ends_its_side_early_is_answered() -> Result<()> {
    let bed = two_nodes()?;
    let ask = |to: SocketAddr| -> std::io::Result<String> {
        let mut tcp = TcpStream::connect(to)?;
        tcp.write_all(b"GET /healthz/ready HTTP/1.0\r\n\r\n")?;
        tcp.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        tcp.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let node = bed.node("node-1")?;
    for number in 0..500 {
        let answer = node.run_in_netns(|| ask(([127, 0, 0, 1], 15021).into()))??;
        ensure!(answer.starts_with("HTTP/1.0 200"), "request {number}: {answer:?}");
    }
    Ok(())
}

/// The access-log lines that have all these parts.
fn lines(node: &NodeHandle<'_>, parts: &[&str]) -> Vec<String> {
    let log = node.log().unwrap_or_default();
    let all = log
        .lines()
        .filter(|line| line.contains("\taccess\t") && parts.iter().all(|part| line.contains(part)));
    all.map(str::to_owned).collect()
}

/// Waits for a line with these parts and makes sure that there is no other.
fn one_line(bed: &Bed, node: &str, parts: &[&str]) -> Result<()> {
    let node = bed.node(node)?;
    let seen = bed.wait("an access-log line", Duration::from_secs(3), |_| !lines(&node, parts).is_empty());
    seen.with_context(|| format!("none with {parts:#?} in\n{}", lines(&node, &[]).join("\n")))?;
    let all = lines(&node, parts);
    ensure!(all.len() == 1, "several lines of one connection:\n{}", all.join("\n"));
    Ok(())
}

#[test]
fn every_connection_has_one_line_at_either_end() -> Result<()> {
    let bed = two_nodes()?;
    let (client, far) = (bed.pod("mesh/client")?, bed.pod("mesh/far")?);
    for (server, nodes) in [("far", ["node-1", "node-2"]), ("near", ["node-1", "node-1"])] {
        let to = format!("{}:80", bed.status().service_ip(&format!("mesh/{server}"))?);
        let seen = dial(&client, &[&to, "--bytes", "12345"])?;
        ensure!(seen.served(), "{seen:?}");
        let (request, response) = sizes(&seen);
        let from = format!("src.addr={} ", seen.sockname.as_deref().unwrap_or_default());
        let source = "src.workload=\"client\" src.namespace=\"mesh\" src.identity=\"spiffe://cluster.local/ns/mesh/sa/client\"";
        let destination = format!(
            "dst.workload=\"{server}\" dst.namespace=\"mesh\" dst.identity=\"spiffe://cluster.local/ns/mesh/sa/{server}\""
        );
        let outbound =
            format!("direction=\"outbound\" bytes_sent={request} bytes_recv={response} duration=\"");
        let inbound = format!("direction=\"inbound\" bytes_sent={response} bytes_recv={request} duration=\"");
        let name = format!("dst.service=\"{server}.mesh.svc.cluster.local\"");
        one_line(&bed, nodes[0], &[&from, source, &name, &destination, &outbound])?;
        one_line(&bed, nodes[1], &[&from, source, &destination, &inbound])?;
    }
    let tunnel = format!("dst.addr={}:15008 dst.hbone_addr={}:7000", far.ip(), far.ip());
    one_line(&bed, "node-1", &[&tunnel])?;
    let errors = lines(&bed.node("node-1")?, &["error="]);
    ensure!(errors.is_empty(), "errors where all went well:\n{}", errors.join("\n"));
    Ok(())
}

#[test]
fn lines_of_failed_connections_say_where_and_why() -> Result<()> {
    let nobody = service("mesh", "nobody", "app: nobody");
    let bed = start(disabled(Bed::builder().nodes(2).manifests(manifests() + &nobody)))?;
    let (client, far, near) = (bed.pod("mesh/client")?, bed.pod("mesh/far")?, bed.pod("mesh/near")?);
    let fails = |to: &str| -> Result<String> {
        let seen = dial(&client, &[to])?;
        ensure!(seen.refused(), "{to}: {seen:?}");
        Ok(format!("src.addr={} ", seen.sockname.unwrap_or_default()))
    };
    let from = fails(&format!("{}:7001", near.ip()))?;
    one_line(&bed, "node-1", &[&from, "outbound", "stage=\"dial\" response_flags=\"CONNECT\"", "refused"])?;
    one_line(&bed, "node-1", &[&from, "inbound", "stage=\"dial\" response_flags=\"CONNECT\"", "refused"])?;
    let from = fails(&format!("{}:7001", far.ip()))?;
    one_line(&bed, "node-1", &[&from, "outbound", "stage=\"connect\" response_flags=\"CONNECT\"", "503"])?;
    one_line(&bed, "node-2", &[&from, "inbound", "stage=\"dial\" response_flags=\"CONNECT\"", "refused"])?;
    let from = fails(&format!("{}:80", bed.status().service_ip("mesh/nobody")?))?;
    one_line(
        &bed,
        "node-1",
        &[&from, "stage=\"resolve\" response_flags=\"UH\"", "no ready endpoint", "nobody.mesh.svc"],
    )?;
    let from = fails("10.244.2.250:7000")?;
    one_line(&bed, "node-1", &[&from, "stage=\"resolve\" response_flags=\"UH\"", "no known pod has"])?;

    bed.apply(
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: closed, namespace: mesh}, \
         spec: {action: DENY, rules: [{to: [{operation: {ports: [\"7000\"]}}]}]}}",
    )?;
    for (pod, nodes) in [(&far, ["node-1", "node-2"]), (&near, ["node-1", "node-1"])] {
        // The first that fails may have been let in and cut by the change.
        eventually(&bed, &client, &at(pod), Dialled::refused)?;
        let from = fails(&at(pod))?;
        let denied = ["inbound", "stage=\"policy\" response_flags=\"DENY\"", "mesh/closed"];
        one_line(&bed, nodes[1], &[&[from.as_str()], &denied[..]].concat())?;
        one_line(&bed, nodes[0], &[&from, "outbound", "response_flags=\"DENY\""])?;
    }
    let scrape = Scrape::of(&bed.node("node-2")?)?;
    let denied = scrape.count("mesh_connections_denied_total", &[("reason", "policy")]);
    ensure!(denied >= 1, "the denial is not counted");
    let failed = scrape.count("istio_tcp_connections_failed_total", &[("response_flags", "DENY")]);
    ensure!(failed == denied, "{denied} denials, {failed} failed connections");
    Ok(())
}

/// Until the configuration is there a node says that it is not ready, and why; a directory that is still empty is no
/// configuration.
#[test]
fn a_node_is_not_ready_before_its_configuration() -> Result<()> {
    let bed = Bed::builder().nodes(1).without_mesh().start()?;
    let (node, layout) = (bed.node("node-1")?, bed.layout());
    let config = layout.state.join("unfilled");
    std::fs::create_dir_all(&config)?;
    let path = |path: &Path| path.display().to_string();
    let (directory, state, pins) = (path(&config), path(&layout.state.join("mesh")), path(&layout.pins));
    let cgroup = path(node.cgroup());
    let mut words = vec!["mesh-node", "node", "--node", "node-1", "--config", &directory, "--state", &state];
    words.extend(["--cgroup", &cgroup, "--pin-root", &pins]);
    let process = node.spawn(&words)?;

    let readiness = || -> Option<(u16, String)> {
        let url = Request::get("/healthz/ready");
        let asked = || http::fetch(([127, 0, 0, 1], 15021).into(), &url, Duration::from_secs(5));
        node.run_in_netns(asked).ok()?.ok().map(|answer| (answer.status, answer.text()))
    };
    let mut last = None;
    bed.wait("an answer", Duration::from_secs(20), |_| {
        last = readiness();
        last.is_some()
    })
    .with_context(|| process.errors())?;
    std::thread::sleep(Duration::from_millis(300));
    for seen in [last, readiness()] {
        let (status, why) = seen.context("an answer")?;
        ensure!(status == 503 && why.starts_with("not ready: no configuration"), "unfilled: {status} {why}");
    }
    std::fs::write(config.join("services.yaml"), service("mesh", "far", "app: far"))?;
    let mut last = None;
    bed.wait("readiness", Duration::from_secs(10), |_| {
        last = readiness();
        last == Some((200, "ready\n".to_owned()))
    })
    .with_context(|| format!("{last:?}"))?;
    Ok(())
}
