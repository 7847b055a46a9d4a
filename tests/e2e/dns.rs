//! Names: what pods ask for is answered by the mesh or by the resolver that they asked, and they cannot tell which.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::ask::Asked;
use mesh_tests::bed::{Bed, PodHandle, Process};
use mesh_tests::scenario::{captured, logged, manifests, pod, start};

use crate::scrape::Scrape;

mod alias;
mod dynamic;
mod hostile;
mod link;

/// Where the resolv.conf of the bed's pods leads: nobody is there.
const CLUSTER_DNS: &str = "10.96.0.10";

/// A headless service with two pods of a `StatefulSet`, and entries for what is outside.
fn names() -> String {
    let member = |index: u8, node: &str| {
        let name = format!("db-{index}");
        let pod = pod("mesh", &name, node, &["netprobe", "serve", "--port", "7000"]);
        let owner =
            "ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: db, uid: x, controller: true}]";
        pod.replace(&format!("labels: {{app: {name}"), &format!("{owner}, labels: {{app: db"))
    };
    let service = "{apiVersion: v1, kind: Service, metadata: {name: db, namespace: mesh}, \
                   spec: {clusterIP: None, selector: {app: db}, ports: [{name: tcp, port: 7000}]}}\n---\n";
    [manifests(), member(0, "node-1"), member(1, "node-2"), service.to_owned()].concat()
}

fn entry(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}, namespace: mesh}}, \
         spec: {{{spec}, ports: [{{name: tcp, number: 80, protocol: TCP, targetPort: 7100}}]}}}}\n---\n"
    )
}

/// The resolver outside of the mesh, at both addresses of node-2.
struct Outside {
    _process: Process,
    _files: tempfile::TempDir,
    v4: String,
    v6: String,
}

fn outside(bed: &Bed) -> Result<Outside> {
    let node = bed.node("node-2")?;
    let [v4, v6] = node.ips().map(|ip: IpAddr| ip.to_string());
    let (process, files) =
        serve_names(&[&v4, &v6], &format!("{v4} far.out.test\n"), |words| node.spawn(words))?;
    let (mut last, mut answered) = (String::new(), false);
    for _ in 0..50 {
        let asked =
            node.exec(&["dig", &format!("@{v4}"), "+tries=1", "+time=1", "+short", "www.out.test"])?;
        last = String::from_utf8_lossy(&asked.stdout).into_owned();
        answered = last.contains("203.0.113.7");
        if answered {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure!(answered, "the resolver outside does not answer: {last}");
    Ok(Outside { _process: process, _files: files, v4, v6 })
}

/// A server of names that knows none but those it is told by further words.
pub(crate) const DNSMASQ: [&str; 7] = [
    "dnsmasq",
    "--keep-in-foreground",
    "--no-resolv",
    "--no-hosts",
    "--bind-interfaces",
    "--user=root",
    "--pid-file=",
];

/// A server of names that is authoritative for `test`.
fn serve_names(
    listen: &[&str],
    more: &str,
    spawn: impl Fn(&[&str]) -> mesh_tests::bed::Result<Process>,
) -> Result<(Process, tempfile::TempDir)> {
    let files = tempfile::tempdir()?;
    let hosts = files.path().join("hosts");
    let many = (1..=60).map(|n| format!("198.51.100.{n} big.out.test")).collect::<Vec<_>>().join("\n");
    fs::write(&hosts, format!("203.0.113.7 www.out.test\n2001:db8::7 www.out.test\n{many}\n{more}"))?;
    let listen: Vec<String> = listen.iter().map(|ip| format!("--listen-address={ip}")).collect();
    let hosts = format!("--addn-hosts={}", hosts.display());
    let names =
        ["--local=/test/", "--cname=alias.out.test,www.out.test", "--txt-record=www.out.test,hello", &hosts];
    let listen = listen.iter().map(String::as_str);
    let words: Vec<&str> = DNSMASQ.into_iter().chain(names).chain(listen).collect();
    Ok((spawn(&words)?, files))
}

/// What `dig` has printed.
#[derive(Debug)]
struct Dug(String);

fn dig(pod: &PodHandle, words: &[&str]) -> Result<Dug> {
    let output = pod.exec(&[&["dig", "+tries=1", "+time=6"], words].concat())?;
    Ok(Dug(String::from_utf8_lossy(&output.stdout).into_owned()))
}

impl Dug {
    fn status(&self) -> &str {
        let rest = self.0.split_once("status: ").map_or("", |(_, rest)| rest);
        rest.split(',').next().unwrap_or_default()
    }

    /// The data of the answer's records.
    fn answers(&self) -> Vec<&str> {
        let section = self.0.split_once("ANSWER SECTION:\n").map_or("", |(_, rest)| rest);
        section
            .lines()
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_whitespace().last())
            .collect()
    }

    /// Whom it believes to have asked.
    fn server(&self) -> &str {
        let rest = self.0.split_once(";; SERVER: ").map_or("", |(_, rest)| rest);
        rest.split('(').next().unwrap_or_default()
    }
}

fn ask(pod: &PodHandle, words: &[&str]) -> Result<Asked> {
    let output = pod.exec(&[&["netprobe", "ask"], words].concat())?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).with_context(|| format!("netprobe printed {text:?}"))
}

/// Every kind of socket, both families: an answer from the resolver that was asked, as far as the application can see, of
/// the mesh for its own names and of that resolver for others.
#[test]
fn every_socket_hears_from_whom_it_asked() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(names()))?;
    let outside = outside(&bed)?;
    let client = bed.pod("mesh/client")?;
    let service = bed.status().service_ip("mesh/near")?.to_string();
    let (v4, v6) = (format!("{}:53", outside.v4), format!("[{}]:53", outside.v6));
    for (server, extra) in [(&v4, None), (&v4, Some("--mapped")), (&v6, None)] {
        for way in ["connected", "unconnected", "tcp"] {
            let words: Vec<&str> = [server.as_str(), "--way", way].into_iter().chain(extra).collect();
            for (name, expected) in [
                ("near.mesh.svc.cluster.local", &*service),
                ("www.out.test", "203.0.113.7"),
                ("near.mesh.svc.cluster.local.", &*service),
            ] {
                let seen = ask(&client, &[&words[..], &[name]].concat())?;
                let who = format!("{words:?} {name}: {seen:?}");
                ensure!(seen.answers == [expected] && seen.code == "No Error", "{who}");
                ensure!(seen.from == *server, "from: {who}");
                ensure!(seen.peername == if way == "unconnected" { "" } else { server }, "peer name: {who}");
            }
        }
    }
    // What a pod says to others by UDP is nobody's business.
    let other = ask(&client, &[&format!("{}:54", outside.v4), "www.out.test", "--timeout", "300"]);
    ensure!(other.is_err(), "nobody listens there: {other:?}");
    let scrape = Scrape::of(&bed.node("node-1")?)?;
    ensure!(scrape.count("istio_dns_requests_total", &[]) >= 27, "queries are counted");
    ensure!(scrape.count("istio_dns_upstream_requests_total", &[]) >= 9, "and those passed on");
    Ok(())
}

#[test]
fn names_of_the_mesh_are_answered() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(names()))?;
    let client = bed.pod("mesh/client")?;
    let server = format!("@{CLUSTER_DNS}");
    let status = bed.status();
    let near = status.service_ip("mesh/near")?.to_string();
    let members = [bed.pod("mesh/db-0")?.ip().to_string(), bed.pod("mesh/db-1")?.ip().to_string()];
    let sorted = |dug: &Dug| {
        let mut all: Vec<String> = dug.answers().into_iter().map(str::to_owned).collect();
        all.sort();
        all
    };
    let dug = dig(&client, &[&server, "near.mesh.svc.cluster.local"])?;
    ensure!(dug.answers() == [near.as_str()] && dug.server() == format!("{CLUSTER_DNS}#53"), "{dug:?}");
    let dug = dig(&client, &[&server, "near.mesh.svc.cluster.local", "AAAA"])?;
    ensure!(dug.answers().len() == 1 && dug.answers()[0].contains(':'), "{dug:?}");
    let mut expected = members.to_vec();
    expected.sort();
    for transport in ["+notcp", "+tcp"] {
        let dug = dig(&client, &[&server, transport, "db.mesh.svc.cluster.local"])?;
        ensure!(sorted(&dug) == expected, "{dug:?}");
        let dug = dig(&client, &[&server, transport, "db-1.db.mesh.svc.cluster.local"])?;
        ensure!(dug.answers() == [members[1].as_str()], "{dug:?}");
    }
    // Named ports where their endpoints are, and addresses with their names.
    let service = "{apiVersion: v1, kind: Service, metadata: {name: db, namespace: mesh}, spec: {clusterIP: None, \
                   selector: {app: db}, ports: [{name: sql, port: 80, targetPort: 7000}]}}";
    bed.apply(service)?;
    let name = "_sql._tcp.db.mesh.svc.cluster.local";
    bed.wait("the new name of the port", Duration::from_secs(10), |_| {
        dig(&client, &[&server, name, "SRV"]).is_ok_and(|dug| dug.answers().len() == 2)
    })?;
    let dug = dig(&client, &[&server, "+short", name, "SRV"])?;
    let mut lines: Vec<&str> = dug.0.lines().collect();
    lines.sort_unstable();
    let located = ["0", "1"].map(|n| format!("0 1 7000 db-{n}.db.mesh.svc.cluster.local."));
    ensure!(lines == located, "{dug:?}");
    let dug = dig(&client, &[&server, "-x", &members[1]])?;
    ensure!(dug.answers() == ["db-1.db.mesh.svc.cluster.local."], "{dug:?}");
    let dug = dig(&client, &[&server, "-x", &near])?;
    ensure!(dug.answers() == ["near.mesh.svc.cluster.local."], "{dug:?}");
    // The search list of the pod's own resolv.conf.
    let dug = dig(&client, &["+search", "near"])?;
    ensure!(dug.answers() == [near.as_str()] && dug.server() == format!("{CLUSTER_DNS}#53"), "{dug:?}");
    // Nobody else's: nobody is there who could know.
    let dug = dig(&client, &[&server, "nosuch.mesh.svc.cluster.local"])?;
    ensure!(dug.status() == "SERVFAIL", "{dug:?}");
    // A pod that is not enrolled asks for itself.
    let stranger = bed.pod("outside/stranger")?;
    let dug = dig(&stranger, &[&server, "+time=1", "near.mesh.svc.cluster.local"])?;
    ensure!(dug.answers().is_empty(), "{dug:?}");
    Ok(())
}

#[test]
fn hosts_of_service_entries_are_reached_by_name() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(names()))?;
    reached_by_name(&bed)
}

#[test]
fn hosts_of_service_entries_are_reached_by_name_without_a_control_plane() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).embedded().manifests(names()))?;
    reached_by_name(&bed)
}

fn reached_by_name(bed: &Bed) -> Result<()> {
    let client = bed.pod("mesh/client")?;
    let [two, _] = bed.node("node-2")?.ips();
    let _server = bed.node("node-2")?.spawn(&["httpbin", "--port", "7100"])?;
    let all = [
        entry(
            "given",
            &format!("hosts: [given.example], resolution: STATIC, endpoints: [{{address: {two}}}]"),
        ),
        entry(
            "addressed",
            &format!(
                "hosts: [own.example], addresses: [192.0.2.10], resolution: STATIC, endpoints: [{{address: {two}}}]"
            ),
        ),
        entry(
            "wild",
            &format!(
                "hosts: ['*.wild.example'], addresses: [192.0.2.20], resolution: STATIC, endpoints: [{{address: {two}}}]"
            ),
        ),
    ];
    bed.apply(&all.concat())?;
    let server = format!("@{CLUSTER_DNS}");
    bed.wait("an address for the host", Duration::from_secs(10), |_| {
        dig(&client, &[&server, "given.example"]).is_ok_and(|dug| !dug.answers().is_empty())
    })?;
    for (name, prefix) in
        [("given.example", "240.240."), ("own.example", "192.0.2.10"), ("a.b.wild.example", "192.0.2.20")]
    {
        let dug = dig(&client, &[&server, name])?;
        ensure!(dug.answers().len() == 1 && dug.answers()[0].starts_with(prefix), "{dug:?}");
        // The resolver of the C library, with the search list first.
        let found = client.exec(&["getent", "ahostsv4", name])?;
        let found = String::from_utf8_lossy(&found.stdout).into_owned();
        ensure!(found.starts_with(dug.answers()[0]), "{name}: {found}");
        let url = format!("http://{name}/headers");
        let answer = client.exec(&["curl", "-sS", "--max-time", "10", &url])?;
        let body = String::from_utf8_lossy(&answer.stdout);
        ensure!(body.contains(name), "{url}: {body} {}", String::from_utf8_lossy(&answer.stderr));
        let six = client.exec(&["curl", "-6", "-sS", "--max-time", "10", &url])?;
        if name == "given.example" {
            ensure!(String::from_utf8_lossy(&six.stdout).contains(name), "by IPv6: {six:?}");
        }
    }
    let dug = dig(&client, &[&server, "given.example.mesh.svc.cluster.local"])?;
    ensure!(dug.answers().first() == Some(&"given.example.") && dug.answers().len() == 2, "{dug:?}");
    // Only the pods of its namespace see this one.
    bed.apply(&entry(
        "addressed",
        &format!(
            "hosts: [own.example], addresses: [192.0.2.10], exportTo: [outside], resolution: STATIC, \
             endpoints: [{{address: {two}}}]"
        ),
    ))?;
    bed.wait("the end of what it saw", Duration::from_secs(10), |_| {
        dig(&client, &[&server, "own.example"]).is_ok_and(|dug| dug.status() == "SERVFAIL")
    })?;
    Ok(())
}

/// A host that others have in DNS as well: the pod is given an address of the mesh's, the node finds out where it leads.
#[test]
fn hosts_that_are_followed_in_dns_are_reached_by_name() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let conf = directory.path().join("resolv.conf");
    fs::write(&conf, "")?;
    let path = conf.to_str().context("a path in UTF-8")?;
    let bed = start(Bed::builder().nodes(2).mesh_arg("--resolv-conf").mesh_arg(path).manifests(names()))?;
    let outside = outside(&bed)?;
    fs::write(&conf, format!("nameserver {}\n", outside.v4))?;
    let (client, server) = (bed.pod("mesh/client")?, format!("@{}", outside.v4));
    let _server = bed.node("node-2")?.spawn(&["httpbin", "--port", "7100"])?;
    let dug = dig(&client, &[&server, "far.out.test"])?;
    ensure!(dug.answers() == [outside.v4.as_str()], "before there is an entry: {dug:?}");
    bed.apply(&entry("followed", "hosts: [far.out.test], resolution: DNS"))?;
    bed.wait("an address for the host", Duration::from_secs(10), |_| {
        let dug = dig(&client, &[&server, "far.out.test"]);
        dug.is_ok_and(|dug| dug.answers().first().is_some_and(|ip| ip.starts_with("240.240.")))
    })?;
    bed.wait("an answer at the address", Duration::from_secs(10), |_| {
        let answer = client.exec(&["curl", "-sS", "--max-time", "5", "http://far.out.test/headers"]);
        answer.is_ok_and(|answer| String::from_utf8_lossy(&answer.stdout).contains("far.out.test"))
    })?;
    Ok(())
}

/// A resolver that is a pod of the mesh under STRICT: by TCP it is reached through a tunnel, as any other pod.
#[test]
fn a_resolver_of_the_mesh_is_asked_through_a_tunnel() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(names()))?;
    bed.apply(
        "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, \
         metadata: {name: default, namespace: mesh}, spec: {mtls: {mode: STRICT}}}",
    )?;
    let (client, far) = (bed.pod("mesh/client")?, bed.pod("mesh/far")?);
    let ip = far.ip().to_string();
    let _names = serve_names(&[&ip], "", |words| far.spawn(words))?;
    let server = format!("@{ip}");
    for transport in ["+tcp", "+notcp"] {
        bed.wait("an answer of the resolver", Duration::from_secs(10), |_| {
            dig(&client, &[&server, transport, "www.out.test"])
                .is_ok_and(|dug| dug.answers() == ["203.0.113.7"])
        })?;
    }
    let stranger = bed.pod("outside/stranger")?;
    let dug = dig(&stranger, &[&server, "+tcp", "+time=2", "www.out.test"])?;
    ensure!(dug.answers().is_empty(), "in plaintext under STRICT: {dug:?}");
    let own = client.ip();
    let (from, to) = (format!("src.addr={own}:"), format!("dst.hbone_addr={ip}:53"));
    logged(&bed, "node-1", &["direction=\"outbound\"", &from, &to])
}

#[test]
fn other_names_are_asked_of_the_pods_resolver() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(names()))?;
    let outside = outside(&bed)?;
    let client = bed.pod("mesh/client")?;
    for server in [format!("@{}", outside.v4), format!("@{}", outside.v6)] {
        for transport in ["+notcp", "+tcp"] {
            let dug = dig(&client, &[&server, transport, "www.out.test", "AAAA"])?;
            ensure!(dug.answers() == ["2001:db8::7"], "{dug:?}");
            let dug = dig(&client, &[&server, transport, "alias.out.test"])?;
            ensure!(dug.answers() == ["www.out.test.", "203.0.113.7"], "{dug:?}");
            let dug = dig(&client, &[&server, transport, "www.out.test", "TXT"])?;
            ensure!(dug.answers() == ["\"hello\""], "{dug:?}");
            let dug = dig(&client, &[&server, transport, "nosuch.out.test"])?;
            ensure!(dug.status() == "NXDOMAIN", "{dug:?}");
            // More than a packet holds without EDNS: `dig` asks again by TCP by itself.
            let dug = dig(&client, &[&server, transport, "+noedns", "big.out.test"])?;
            ensure!(dug.answers().len() == 60, "{dug:?}");
        }
        let dug = dig(&client, &[&server, "+noedns", "+ignore", "big.out.test"])?;
        ensure!(dug.0.contains("flags: qr") && dug.0.contains(" tc "), "{dug:?}");
    }
    Ok(())
}

/// The annotation says no, at runtime and back.
#[test]
fn a_pod_may_ask_for_itself() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(names() + &alone_manifest("false")))?;
    let outside = outside(&bed)?;
    let alone = bed.pod("mesh/alone")?;
    let server = format!("@{}", outside.v4);
    let dug = dig(&alone, &[&server, "www.out.test"])?;
    ensure!(dug.answers() == ["203.0.113.7"], "{dug:?}");
    for transport in ["+notcp", "+tcp"] {
        let dug = dig(&alone, &[&server, transport, "near.mesh.svc.cluster.local"])?;
        ensure!(dug.status() == "REFUSED", "the resolver outside should be asked: {dug:?}");
    }
    let dug = dig(&bed.pod("mesh/client")?, &[&server, "near.mesh.svc.cluster.local"])?;
    ensure!(dug.answers().len() == 1, "{dug:?}");
    // A change of mind takes effect without a restart.
    bed.apply(&alone_manifest("true"))?;
    bed.wait("the mesh's answer", Duration::from_secs(10), |_| {
        dig(&alone, &[&server, "near.mesh.svc.cluster.local"]).is_ok_and(|dug| dug.answers().len() == 1)
    })?;
    Ok(())
}

/// A pod with the annotation.
fn alone_manifest(capture: &str) -> String {
    let annotation =
        format!("annotations: {{ambient.istio.io/dns-capture: '{capture}'}}, labels: {{app: alone}}");
    pod("mesh", "alone", "node-1", &["sleep", "infinity"]).replace("labels: {app: alone}", &annotation)
}

/// Without a control plane, and over a restart of the node as well.
#[test]
fn names_hold_while_the_control_plane_is_away() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(names()))?;
    let client = bed.pod("mesh/client")?;
    let server = format!("@{CLUSTER_DNS}");
    let known = |when: &str| -> Result<()> {
        let dug = dig(&client, &[&server, "near.mesh.svc.cluster.local"])?;
        ensure!(dug.answers().len() == 1, "{when}: {dug:?}");
        Ok(())
    };
    known("at first")?;
    bed.control()?.kill9()?;
    known("without a control plane")?;
    bed.node("node-1")?.kill9()?;
    let dug = dig(&client, &[&server, "+time=2", "near.mesh.svc.cluster.local"])?;
    ensure!(dug.answers().is_empty(), "without the node names lead nowhere: {dug:?}");
    bed.node("node-1")?.start()?;
    captured_alone(&bed)?;
    known("after a restart of the node")
}

fn captured_alone(bed: &Bed) -> Result<()> {
    bed.node("node-1")?.wait_ready(Duration::from_secs(10))?;
    captured(bed, Duration::from_secs(10))
}
