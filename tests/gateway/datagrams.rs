//! Datagrams at a gateway: dig and dnsmasq, and clients that nobody would like to have.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{Gateway, own_address, wait};

/// A pod of a Service that listens at a port of UDP.
struct Backend<'a> {
    service: &'a str,
    pod: &'a str,
    at: SocketAddr,
}

impl Backend<'_> {
    fn yaml(&self) -> String {
        let Self { service, pod, at } = self;
        let (ip, port) = (at.ip(), at.port());
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {pod}, namespace: shop, labels: {{app: {service}}}}}, \
             spec: {{containers: [{{name: c, image: i}}]}}, status: {{podIP: {ip}, podIPs: [{{ip: {ip}}}], phase: Running}}}}\n\
             ---\n{{apiVersion: v1, kind: Service, metadata: {{name: {service}, namespace: shop}}, \
             spec: {{selector: {{app: {service}}}, ports: [{{name: udp, port: 53, targetPort: {port}, protocol: UDP}}, \
             {{name: tcp, port: 53, targetPort: {port}}}]}}}}\n"
        )
    }
}

/// The gateway under test, with listeners of both protocols on port 5300 that lead to `service`.
fn edge(service: &str) -> String {
    let route = |kind: &str| {
        format!(
            "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: r, namespace: istio-system}}, \
             spec: {{parentRefs: [{{name: istio-ingressgateway}}], rules: [{{backendRefs: [{{name: {service}, namespace: shop, port: 53}}]}}]}}}}\n"
        )
    };
    let from =
        |kind: &str| format!("{{group: gateway.networking.k8s.io, kind: {kind}, namespace: istio-system}}");
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: istio-ingressgateway, namespace: istio-system}}, \
         spec: {{gatewayClassName: istio, listeners: [{{name: udp, port: 5300, protocol: UDP}}, {{name: tcp, port: 5300, protocol: TCP}}]}}}}\n\
         {}{}---\n{{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {{name: g, namespace: shop}}, \
         spec: {{from: [{}, {}], to: [{{group: '', kind: Service}}]}}}}\n",
        route("UDPRoute"),
        route("TCPRoute"),
        from("UDPRoute"),
        from("TCPRoute"),
    )
}

/// A server that sends back what it gets, after its name.
struct Echo {
    at: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(name: &'static str, ip: Ipv4Addr, port: u16) -> Result<Self> {
        let socket = UdpSocket::bind((ip, port))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let (at, stop) = (socket.local_addr()?, Arc::<AtomicBool>::default());
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let payload = buffer.get(..length).unwrap_or_default();
                // With its name the longest would be too long.
                let answer =
                    if length > 1000 { payload.to_vec() } else { [name.as_bytes(), payload].concat() };
                let _ = socket.send_to(&answer, from);
            }
        });
        Ok(Self { at, stop, thread: Some(thread) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Dnsmasq(Child);

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn client(gateway: &Gateway) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.connect(gateway.at(5300))?;
    Ok(socket)
}

fn ask(client: &UdpSocket, payload: &[u8]) -> io::Result<Vec<u8>> {
    client.send(payload)?;
    let mut answer = vec![0; 1 << 16];
    let length = client.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

#[test]
fn dig_asks_dnsmasq_by_both_protocols_on_one_port() -> Result<()> {
    let (ip, port) = (own_address(), 5353);
    let options = [
        "--no-daemon".to_owned(),
        "--conf-file=/dev/null".to_owned(),
        "--no-resolv".to_owned(),
        "--no-hosts".to_owned(),
        "--bind-interfaces".to_owned(),
        format!("--port={port}"),
        format!("--listen-address={ip}"),
        "--address=/web.example/192.0.2.7".to_owned(),
    ];
    let server = Command::new("dnsmasq").args(options).stdin(Stdio::null()).stderr(Stdio::null()).spawn();
    let _server = Dnsmasq(server.context("dnsmasq")?);
    let backend = Backend { service: "dns", pod: "dns-0", at: (ip, port).into() };
    let gateway = Gateway::start(&[("all.yaml", &(edge("dns") + &backend.yaml()))])?;
    let dig = |more: &[&str]| -> Result<String> {
        let at = gateway.at(5300);
        let mut command = Command::new("dig");
        command.args([
            &format!("@{}", at.ip()),
            "-p",
            "5300",
            "+short",
            "+time=2",
            "+tries=3",
            "web.example",
        ]);
        let output = command.args(more).output().context("dig")?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    wait(Duration::from_secs(10), || dig(&[]).is_ok_and(|answer| answer == "192.0.2.7"))
        .with_context(|| format!("{:?}\n{}", dig(&[]), gateway.log()))?;
    ensure!(dig(&["+tcp"])? == "192.0.2.7", "by TCP");
    let listeners = gateway.dump()?["listeners"].to_string();
    ensure!(listeners.contains("\"UDP\"") && listeners.contains("\"TCP\""), "{listeners}");
    Ok(())
}

#[test]
fn datagrams_of_any_length_go_through_and_come_back_from_where_they_were_sent() -> Result<()> {
    let echo = Echo::start("a ", own_address(), 0)?;
    let backend = Backend { service: "echo", pod: "a", at: echo.at };
    let gateway = Gateway::start(&[("all.yaml", &(edge("echo") + &backend.yaml()))])?;
    let client = client(&gateway)?;
    for length in [0, 1, 500, 1_500, 65_507] {
        let payload = vec![b'x'; length];
        let answer = ask(&client, &payload).with_context(|| format!("{length}: {}", gateway.log()))?;
        ensure!(answer.ends_with(&payload) && answer.len() <= length + 2, "{length}: {}", answer.len());
    }
    Ok(())
}

#[test]
fn an_endpoint_where_nobody_listens_ends_the_session_and_another_is_picked() -> Result<()> {
    let one = Echo::start("a ", own_address(), 0)?;
    let two = Echo::start("b ", own_address(), one.at.port())?;
    let pods = [("a", one.at), ("b", two.at)].map(|(pod, at)| Backend { service: "echo", pod, at }.yaml());
    // The second pod is of the same Service.
    let [first, second] = &pods;
    let second = second.split("---\n").find(|document| document.contains("kind: Pod")).context("a pod")?;
    let gateway = Gateway::start(&[("all.yaml", &[&edge("echo"), first, "---\n", second].concat())])?;
    let client = client(&gateway)?;
    let first = ask(&client, b"?").with_context(|| gateway.log())?;
    for _ in 0..20 {
        ensure!(ask(&client, b"?")? == first, "a session stays where it is");
    }
    let (gone, other) = if first == b"a ?" { (one, "b ?") } else { (two, "a ?") };
    drop(gone);
    client.set_read_timeout(Some(Duration::from_millis(300)))?;
    // One is lost to learn that nobody is there; the next one goes elsewhere.
    let mut answers: Vec<_> = (0..3).filter_map(|_| ask(&client, b"?").ok()).collect();
    answers.dedup();
    ensure!(answers == [other.as_bytes().to_vec()], "{answers:?}\n{}", gateway.log());
    // Everybody else goes there as well, for a while.
    for _ in 0..10 {
        ensure!(ask(&self::client(&gateway)?, b"?")? == other.as_bytes());
    }
    Ok(())
}

#[test]
fn a_flood_of_clients_costs_so_much_and_no_more() -> Result<()> {
    let echo = Echo::start("a ", own_address(), 0)?;
    let backend = Backend { service: "echo", pod: "a", at: echo.at };
    let gateway = Gateway::start(&[("all.yaml", &(edge("echo") + &backend.yaml()))])?;
    let good = client(&gateway)?;
    for _ in 0..2 {
        ask(&good, b"good").with_context(|| gateway.log())?;
    }
    let mut sources = BTreeSet::new();
    for source in 1..=6_u8 {
        for _ in 0..1_500_u32 {
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 9, 9, source), 0))?;
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            socket.connect(gateway.at(5300))?;
            // Who waits for the answer knows that there is a session; one that is lost is made up for by the others.
            let _ = ask(&socket, b"flood");
            sources.insert(socket.local_addr()?);
        }
    }
    let shed = || gateway.metric("mesh_connections_shed_total{reason=\"session\"}");
    wait(Duration::from_secs(20), || shed().is_ok_and(|count| count > 0))
        .with_context(|| format!("{} senders", sources.len()))?;
    let descriptors = fs::read_dir(format!("/proc/{}/fd", gateway.pid()))?.count();
    ensure!((4_000..8_192 + 200).contains(&descriptors), "{descriptors} descriptors");
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid()))?;
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kilobytes: u64 = memory.trim().trim_end_matches(" kB").parse()?;
    ensure!(kilobytes < 200_000, "{kilobytes} kB");
    ensure!(ask(&good, b"still")? == b"a still", "who was there before and goes on is served");
    Ok(())
}

#[test]
fn sessions_are_counted_and_end_when_they_are_idle_or_their_rule_is_gone() -> Result<()> {
    let echo = Echo::start("a ", own_address(), 0)?;
    let backend = Backend { service: "echo", pod: "a", at: echo.at };
    let all = edge("echo") + &backend.yaml();
    let limit = "---\n{apiVersion: policy.mesh.internal/v1alpha1, kind: RateLimit, metadata: {name: l, namespace: istio-system}, \
        spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: istio-ingressgateway}], eachConnection: {idleTimeout: 1s}}}\n";
    let gateway = Gateway::start(&[("all.yaml", &all), ("limit.yaml", limit)])?;
    let client = client(&gateway)?;
    ask(&client, b"12345").with_context(|| gateway.log())?;
    let of = |name: &str| {
        let labels = [
            "request_protocol=\"udp\"",
            "destination_service=\"echo.shop.svc.cluster.local\"",
            "response_flags=\"-\"",
        ];
        gateway.sum(name, &labels)
    };
    ensure!(of("istio_tcp_connections_opened_total")? == 1);
    wait(Duration::from_secs(5), || of("istio_tcp_connections_closed_total").is_ok_and(|count| count == 1))
        .context("idle for a second")?;
    ensure!((of("istio_tcp_received_bytes_total")?, of("istio_tcp_sent_bytes_total")?) == (5, 7));
    // Without a rule for them, datagrams go nowhere, and sessions neither.
    gateway.write("limit.yaml", "")?;
    ask(&client, b"again")?;
    gateway.write("all.yaml", &all.replace("{name: udp, port: 5300, protocol: UDP}", "{name: udp, port: 5300, protocol: UDP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {a: b}}}}}"))?;
    client.set_read_timeout(Some(Duration::from_millis(200)))?;
    wait(Duration::from_secs(5), || ask(&client, b"gone").is_err())?;
    // And without a listener there is nobody at the port.
    gateway.write("all.yaml", &all.replace("{name: udp, port: 5300, protocol: UDP}, ", ""))?;
    wait(Duration::from_secs(5), || {
        ask(&client, b"gone").is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    })?;
    // Back again at once.
    gateway.write("all.yaml", &all)?;
    wait(Duration::from_secs(5), || ask(&client, b"back").is_ok())
}
