//! The test bed itself: what suites and demonstrations take for granted. Needs root, like everything on a bed.
#![expect(clippy::unwrap_used, reason = "a test ends where its first assumption fails; so do its helpers")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mesh_tests::bed::{Bed, Layout, Network, Result, Target};
use mesh_tests::http::{self, Request};
use mesh_tests::tool::ClientReport;

/// Two echo servers on different nodes behind a dual-stack service, a client on each node.
const MANIFESTS: &str = "
{apiVersion: v1, kind: Service, metadata: {name: echo}, spec: {ipFamilyPolicy: PreferDualStack,
  selector: {app: echo}, ports: [{name: tcp, port: 80, targetPort: tcp}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: members}, spec: {clusterIP: None, selector: {app: echo}, ports: [{port: 7000}]}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: echo}, spec: {replicas: 2, selector: {matchLabels: {app: echo}},
  template: {metadata: {labels: {app: echo}}, spec: {containers: [{name: c, image: none,
    command: [testbed, tool, server, '[::]:7000', --mode, peer], ports: [{name: tcp, containerPort: 7000}],
    readinessProbe: {tcpSocket: {port: tcp}}}]}}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: one, labels: {app: client}}, spec: {nodeName: node-1, terminationGracePeriodSeconds: 0,
  containers: [{name: c, image: none, command: [sleep, infinity]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: two, namespace: other}, spec: {nodeSelector: {kubernetes.io/hostname: node-2},
  terminationGracePeriodSeconds: 0, containers: [{name: c, image: none, command: [sleep, infinity]}]}}
";

fn bed(network: Network) -> Result<Bed> {
    Bed::builder().nodes(2).network(network).without_mesh().manifests(MANIFESTS).start()
}

/// What a client in a pod of the bed sees at an address.
fn call(bed: &Bed, pod: &str, addr: &str) -> ClientReport {
    let output =
        bed.pod(pod).unwrap().exec(&["testbed", "tool", "client", addr, "--timeout", "3000"]).unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Nothing at all is left of a bed.
fn assert_gone(layout: &Layout) {
    let namespaces = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let prefix = format!("mesh-{}-", layout.name);
    let left: Vec<_> = namespaces.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)).collect();
    assert!(left.is_empty(), "{left:?}");
    for path in [&layout.state, &layout.cgroup, &layout.pins] {
        assert!(!path.exists(), "{}", path.display());
    }
}

fn everything_reaches_everything(network: Network) {
    let bed = bed(network).unwrap();
    let status = bed.status();
    let servers: Vec<_> = status.pods.iter().filter(|p| p.name.starts_with("echo-")).collect();
    assert_eq!(servers.iter().map(|p| p.node.as_str()).collect::<std::collections::BTreeSet<_>>().len(), 2);
    let vips = &status.services.iter().find(|s| s.name == "echo").unwrap().ips;
    for client in ["default/one", "other/two"] {
        for server in &servers {
            for ip in &server.ips {
                let own =
                    status.pod(client).unwrap().ips.iter().find(|own| own.is_ipv6() == ip.is_ipv6()).unwrap();
                let addr = std::net::SocketAddr::new(*ip, 7000).to_string();
                let report = call(&bed, client, &addr);
                let seen: std::net::SocketAddr = report.text.split(' ').next().unwrap_or("").parse().unwrap();
                assert_eq!(seen.ip().to_canonical(), *own, "{client} to {addr}: {report:?}");
            }
        }
        for vip in vips {
            let mut backends = std::collections::BTreeSet::new();
            for _ in 0..30 {
                let report = call(&bed, client, &std::net::SocketAddr::new(*vip, 80).to_string());
                backends.extend(report.text.split_whitespace().nth(1).map(str::to_owned));
            }
            assert_eq!(backends.len(), 2, "{client} to {vip}");
        }
    }
    // A pod that is itself the backend.
    let own = servers[0].full_name();
    for vip in vips {
        for _ in 0..10 {
            assert_eq!(call(&bed, &own, &std::net::SocketAddr::new(*vip, 80).to_string()).end, "eof");
        }
    }
    // The node itself, as a kubelet.
    let node = bed.node("node-1").unwrap();
    for ip in servers.iter().flat_map(|p| &p.ips).chain(vips) {
        let port = if vips.contains(ip) { 80 } else { 7000 };
        let addr = std::net::SocketAddr::new(*ip, port).to_string();
        let output = node.exec(&["testbed", "tool", "client", &addr]).unwrap();
        assert!(output.status.success(), "{addr}: {}", String::from_utf8_lossy(&output.stdout));
    }
    // A port of a service that nobody has is refused, not lost.
    assert_eq!(call(&bed, "default/one", &std::net::SocketAddr::new(vips[0], 81).to_string()).end, "refused");
    let layout = bed.layout().clone();
    drop(bed);
    assert_gone(&layout);
}

#[test]
fn routed_pods_reach_everything() {
    everything_reaches_everything(Network::Routed);
}

#[test]
fn bridged_pods_reach_everything() {
    everything_reaches_everything(Network::Bridged);
}

#[test]
fn names_are_those_of_the_namespace() {
    let bed = bed(Network::Routed).unwrap();
    let resolves = |pod: &str, name: &str| {
        let output = bed.pod(pod).unwrap().exec(&["getent", "ahosts", name]).unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for name in ["echo", "echo.default", "echo.default.svc", "echo.default.svc.cluster.local"] {
        assert!(resolves("default/one", name).is_some_and(|ips| ips.contains("10.96.")), "{name}");
    }
    assert!(resolves("other/two", "echo").is_none());
    assert!(resolves("other/two", "echo.default").is_some());
    let members = resolves("default/one", "members").unwrap();
    assert!(members.contains("10.244.1.") && members.contains("10.244.2."), "{members}");
    let output = bed.pod("default/one").unwrap().exec(&["hostname"]).unwrap();
    assert_eq!(output.stdout, b"one\n");
    let group = bed.pod("default/one").unwrap().exec(&["cat", "/proc/self/cgroup"]).unwrap();
    let group = String::from_utf8_lossy(&group.stdout).into_owned();
    let expected = format!(
        "/mesh-{}/node-1/kubepods/besteffort/pod{}/",
        bed.name(),
        bed.status().pod("default/one").unwrap().uid
    );
    assert!(group.contains(&expected), "{group}");
}

#[test]
fn the_bed_follows_its_manifests() {
    let bed = bed(Network::Routed).unwrap();
    let objects = bed.layout().objects();
    let started = Instant::now();
    bed.apply("{apiVersion: v1, kind: Pod, metadata: {name: one, labels: {app: client, istio.io/dataplane-mode: none}}, spec: {nodeName: node-1, terminationGracePeriodSeconds: 0, containers: [{name: c, image: none, command: [sleep, infinity]}]}}").unwrap();
    let published = fs::read_to_string(objects.join("bed.Pod.default.one.yaml")).unwrap();
    assert!(published.contains("istio.io/dataplane-mode: none"), "{published}");
    assert!(started.elapsed() < Duration::from_secs(1));
    let uid = bed.status().pod("default/one").unwrap().uid.clone();
    assert!(published.contains(&uid), "labels change in place");

    bed.apply("{apiVersion: v1, kind: Pod, metadata: {name: three}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: none, command: [sleep, infinity]}]}}").unwrap();
    bed.wait("the new pod", Duration::from_secs(5), |bed| {
        bed.pod("default/three").is_ok_and(|p| p.status().ready)
    })
    .unwrap();
    let hosts = bed.pod("default/three").unwrap().exec(&["cat", "/etc/hosts"]).unwrap();
    assert!(String::from_utf8_lossy(&hosts.stdout).contains("echo.default.svc.cluster.local"));
    let (netns, cgroup) = {
        let pod = bed.pod("default/three").unwrap();
        (pod.netns_path().to_owned(), pod.cgroup().to_owned())
    };
    bed.delete("Pod", "default", "three").unwrap();
    bed.wait("its end", Duration::from_secs(5), |bed| bed.status().pod("default/three").is_err()).unwrap();
    assert!(!netns.exists() && !cgroup.exists());
    assert!(!objects.join("bed.Pod.default.three.yaml").exists());

    bed.write_file("broken.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [}\n")
        .unwrap();
    assert!(objects.join("broken.yaml").exists(), "nodes have to report it");
    assert!(
        bed.status().problems.iter().any(|p| p.starts_with("broken.yaml:1 ")),
        "{:?}",
        bed.status().problems
    );

    bed.delete("Deployment", "default", "echo").unwrap();
    bed.wait("the end of the replicas", Duration::from_secs(5), |bed| {
        !bed.status().pods.iter().any(|p| p.name.starts_with("echo"))
    })
    .unwrap();
    let vip = bed.status().service_ip("default/echo").unwrap();
    assert_eq!(call(&bed, "default/one", &format!("{vip}:80")).end, "refused");
}

#[test]
fn a_new_template_replaces_the_old_one_without_a_gap() {
    let bed = bed(Network::Routed).unwrap();
    let vip = bed.status().service_ip("default/echo").unwrap();
    let text = MANIFESTS
        .split("---")
        .nth(2)
        .unwrap()
        .replace("labels: {app: echo}}, spec", "labels: {app: echo, version: v2}}, spec");
    bed.apply(&text).unwrap();
    let replaced = |bed: &Bed| {
        let all: Vec<_> = bed.status().pods.into_iter().filter(|p| p.name.starts_with("echo-")).collect();
        let yaml = |p: &mesh_tests::bed::PodStatus| {
            fs::read_to_string(bed.layout().objects().join(format!("bed.Pod.default.{}.yaml", p.name)))
                .unwrap_or_default()
        };
        all.len() == 2 && all.iter().all(|p| p.ready && yaml(p).contains("version: v2"))
    };
    while !replaced(&bed) {
        let report = call(&bed, "default/one", &format!("{vip}:80"));
        assert!(report.connected, "{report:?}");
    }
}

#[test]
fn containers_are_restarted_and_probed() {
    let manifests = "
{apiVersion: v1, kind: Pod, metadata: {name: crash}, spec: {containers: [{name: c, image: none, command: [sh, -c, 'echo boom; exit 3']}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: job}, spec: {restartPolicy: Never, containers: [{name: c, image: none, command: [sh, -c, 'echo $(A)'], env: [{name: A, value: done}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: live}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: none, command: [sleep, infinity],
  livenessProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 1}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: image}, spec: {containers: [{name: c, image: nginx}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: nowhere}, spec: {nodeName: node-9, containers: [{name: c, image: none, command: [sleep, infinity]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: first}, spec: {terminationGracePeriodSeconds: 0, initContainers: [{name: i, image: none, command: [sh, -c, 'echo initialised']}],
  containers: [{name: c, image: none, command: [sleep, infinity]}]}}
";
    let bed = Bed::builder().without_mesh().manifests(manifests).begin().unwrap();
    let pod = |name: &str| bed.status().pod(&format!("default/{name}")).ok().cloned();
    bed.wait("all of it", Duration::from_secs(15), |_| {
        pod("crash").is_some_and(|p| p.restarts >= 2)
            && pod("job").is_some_and(|p| p.phase == "Succeeded")
            && pod("live").is_some_and(|p| p.restarts >= 1)
            && pod("first").is_some_and(|p| p.ready)
    })
    .unwrap();
    assert!(pod("crash").unwrap().message.unwrap().contains("exit status: 3"));
    assert!(bed.pod("default/job").unwrap().log().contains("done"));
    assert!(pod("image").unwrap().message.unwrap().contains("no `command`"), "{:?}", pod("image"));
    assert!(pod("nowhere").unwrap().message.unwrap().contains("no node node-9"), "{:?}", pod("nowhere"));
    let error = bed.wait_ready(Duration::ZERO, |_| ()).unwrap_err().to_string();
    assert!(error.contains("default/crash") && error.contains(".log"), "{error}");
}

#[test]
fn captures_see_the_wire_and_not_the_loopback() {
    let bed = bed(Network::Routed).unwrap();
    let near =
        bed.status().pods.iter().find(|p| p.name.starts_with("echo-") && p.node == "node-1").unwrap().ips[0];
    let far =
        bed.status().pods.iter().find(|p| p.name.starts_with("echo-") && p.node == "node-2").unwrap().ips[0];
    let (wire, pod, node) =
        (bed.capture("wire").unwrap(), bed.capture("default/one").unwrap(), bed.capture("node-1").unwrap());
    let send = |ip: &str, marker: &str| {
        bed.pod("default/one")
            .unwrap()
            .exec(&["testbed", "tool", "client", ip, "--send", marker, "--half-close"])
            .unwrap()
    };
    send(&format!("{far}:7000"), "marker-far");
    send(&format!("{near}:7000"), "marker-near");
    send("127.0.0.1:1", "marker-self");
    for (capture, far, near) in [(wire, true, false), (pod, true, true), (node, true, true)] {
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!((capture.contains(b"marker-far"), capture.contains(b"marker-near")), (far, near));
        assert!(!capture.contains(b"marker-self") && !capture.overflowed());
        assert!(!capture.stop().is_empty());
    }
}

#[test]
fn forwards_lead_into_the_bed() {
    let manifests = "
{apiVersion: v1, kind: Service, metadata: {name: ratings}, spec: {selector: {app: ratings}, ports: [{port: 9080}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: ratings, labels: {app: ratings}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: none,
  command: [bookinfo, ratings], readinessProbe: {httpGet: {path: /health, port: 9080}}}]}}
";
    let bed = Bed::builder().without_mesh().manifests(manifests).start().unwrap();
    for target in
        [Target::Service("default/ratings".into(), 9080), Target::Pod("default/ratings".into(), 9080)]
    {
        let addr = bed.forward(&target).unwrap();
        let response = http::fetch(addr, &Request::get("/ratings/0"), Duration::from_secs(3)).unwrap();
        assert_eq!((response.status, response.text().contains("Reviewer1")), (200, true), "{target:?}");
    }
}

#[test]
fn beds_do_not_see_each_other() {
    let (a, b) = (bed(Network::Routed).unwrap(), bed(Network::Bridged).unwrap());
    let ip = a.pod("default/one").unwrap().ip();
    assert_eq!(a.status().pods.len(), b.status().pods.len());
    let mut server =
        a.pod("default/one").unwrap().spawn(&["testbed", "tool", "server", "0.0.0.0:9999"]).unwrap();
    server.line(Duration::from_secs(5)).unwrap();
    assert!(call(&a, "other/two", &format!("{ip}:9999")).connected);
    assert!(!call(&b, "other/two", &format!("{ip}:9999")).connected);
    let layout = a.layout().clone();
    drop(a);
    assert_gone(&layout);
    assert!(
        call(&b, "default/one", &format!("{}:80", b.status().service_ip("default/echo").unwrap())).connected
    );
}

#[test]
fn a_killed_owner_leaves_nothing() {
    let directory = std::env::temp_dir().join(format!("bed-owner-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("all.yaml"), MANIFESTS).unwrap();
    let name = mesh_tests::bed::BedName::random().unwrap();
    let testbed = Path::new(env!("CARGO_BIN_EXE_testbed"));
    let up = || {
        let mut command = Command::new(testbed);
        command.args(["up", "--nodes", "2", "--no-mesh", "--name", name.as_str()]).arg(&directory);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).output().unwrap()
    };
    let layout = Layout::new(name.clone()).unwrap();
    for _ in 0..2 {
        let output = up();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let again = up();
        assert!(String::from_utf8_lossy(&again.stderr).contains("is up already"), "{again:?}");
        let owner = fs::read_to_string(layout.state.join("owner")).unwrap();
        let pid = owner.split(' ').next().unwrap();
        assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
        let deadline = Instant::now() + Duration::from_secs(10);
        while layout.state.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_gone(&layout);
    }
    fs::remove_dir_all(directory).unwrap();
}

/// Stands in for `mesh-node`: ready on 15021, some page on 15000, and a note of how it was called.
const STAND_IN: &str = "#!/bin/sh
echo called with: $@
bookinfo productpage --port 15020 &
exec testbed internal ready
";

#[test]
fn nodes_are_killed_and_restarted_at_will() {
    let directory = std::env::temp_dir().join(format!("bed-agent-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let program = directory.join("mesh-node");
    let tools = Path::new(env!("CARGO_BIN_EXE_testbed")).parent().unwrap();
    fs::write(
        &program,
        STAND_IN
            .replace("bookinfo", &tools.join("bookinfo").display().to_string())
            .replace("testbed", &tools.join("testbed").display().to_string()),
    )
    .unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let bed = Bed::builder().nodes(2).mesh_node(&program).manifests(MANIFESTS).start().unwrap();
    let node = bed.node("node-1").unwrap();
    assert!(node.log().unwrap().contains("node --node node-1 --cgroup "), "{:?}", node.log());
    assert!(node.metrics().unwrap().contains("bookinfo_pages_total"));
    let first = node.pid().unwrap().unwrap();
    let group = fs::read_to_string(format!("/proc/{first}/cgroup")).unwrap();
    assert!(group.contains(&format!("/mesh-{}/node-1/agent", bed.name())), "{group}");
    node.kill9().unwrap();
    assert_eq!(node.pid().unwrap(), None);
    bed.wait("the news", Duration::from_secs(3), |bed| !bed.status().ready).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(node.pid().unwrap(), None, "a killed node stays dead until told");
    node.restart().unwrap();
    let second = node.pid().unwrap().unwrap();
    assert_ne!(first, second);
    // Dying by itself is another matter.
    assert!(Command::new("kill").args(["-9", &second.to_string()]).status().unwrap().success());
    bed.wait("its return", Duration::from_secs(5), |_| {
        node.pid().is_ok_and(|pid| pid.is_some_and(|pid| pid != second))
    })
    .unwrap();
    node.wait_ready(Duration::from_secs(5)).unwrap();
    fs::remove_dir_all(directory).unwrap();
}
