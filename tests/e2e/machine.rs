//! Machines in the mesh: processes of a machine as a workload, in the machine's own network namespace.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    bed::{Bed, NodeHandle, PodHandle, Process},
    http::{Request, fetch},
    scenario::{Dialled, at, dial, eventually, manifests, start},
};

use crate::forge::{Ca, Client, End, Then, connect, leaf};

mod systemd;

/// The third node of a bed as a machine: without pods, with a node of the mesh for some of its own processes.
struct Machine<'b> {
    bed: &'b Bed,
    node: NodeHandle<'b>,
    agent: Process,
}

const STRICT: &str = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, \
                      metadata: {name: default, namespace: istio-system}, spec: {mtls: {mode: STRICT}}}\n---\n";

/// A bed whose third node is free for a machine, which may be reached as a service at 10.200.0.9:80.
fn bed() -> Result<Bed> {
    let service = "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: vm, namespace: mesh}, \
                   spec: {hosts: [vm.mesh.example], addresses: [10.200.0.9], location: MESH_INTERNAL, \
                   resolution: STATIC, workloadSelector: {labels: {app: vm}}, \
                   ports: [{number: 80, name: tcp, protocol: TCP, targetPort: 7000}]}}\n---\n";
    let account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: vm, namespace: mesh}}\n---\n";
    let builder = Bed::builder().nodes(3).control_arg("--machine-grace").control_arg("2s");
    let bed = start(builder.manifests(manifests() + service + account))?;
    let node = bed.node("node-3")?;
    node.kill9()?;
    let pins = bed.layout().pins.display().to_string();
    let removed = node.exec(&["mesh-node", "cleanup", "--node", "node-3", "--pin-root", &pins])?;
    ensure!(removed.status.success(), "{removed:?}");
    Ok(bed)
}

fn allow(pod: &str, account: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {pod}, namespace: mesh}}, \
         spec: {{selector: {{matchLabels: {{app: {pod}}}}}, \
         rules: [{{from: [{{source: {{principals: [cluster.local/ns/mesh/sa/{account}]}}}}]}}]}}}}\n---\n"
    )
}

impl<'b> Machine<'b> {
    /// Starts its node with `options`, and a token of `identity` in the namespace `mesh`.
    fn start(bed: &'b Bed, identity: &str, options: &[&str]) -> Result<Self> {
        let token = join_token(bed, identity)?;
        let machine = Self::begin(bed, &token, options)?;
        machine.ready()?;
        Ok(machine)
    }

    /// The same with a token of the caller's, without waiting.
    fn begin(bed: &'b Bed, token: &str, options: &[&str]) -> Result<Self> {
        Self::begin_by(bed, &[], token, options)
    }

    /// The same by way of another program.
    fn begin_by(bed: &'b Bed, by: &[&str], token: &str, options: &[&str]) -> Result<Self> {
        let node = bed.node("node-3")?;
        let own = bed.layout().state.join("vm");
        fs::create_dir_all(&own)?;
        // The group is there before anything runs in it, as a slice is.
        fs::create_dir_all(node.cgroup().join("unit"))?;
        fs::write(own.join("token"), token)?;
        let text = |path: PathBuf| path.display().to_string();
        let control = format!("https://{}:15012", bed.node("node-1")?.ips()[0]);
        let (roots, unit) = (state(bed).join("ca/root-cert.pem"), node.cgroup().join("unit"));
        let arguments = [
            ("--node", "vm".to_owned()),
            ("--control", control),
            ("--control-ca", text(roots)),
            ("--token", text(own.join("token"))),
            ("--state", text(own.clone())),
            ("--svid-cache", text(bed.layout().memory().join("vm"))),
            ("--pin-root", text(bed.layout().pins.clone())),
            ("--enrol-cgroup", text(unit)),
        ];
        let arguments: Vec<_> =
            arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
        let mut words = [by, &["mesh-node", "node", "--host"]].concat();
        words.extend(arguments.iter().map(String::as_str));
        words.extend(options);
        let agent = node.spawn(&words)?;
        Ok(Self { bed, node, agent })
    }

    fn ready(&self) -> Result<()> {
        let ready = self.bed.wait("the machine's node", Duration::from_secs(20), |_| {
            let state = self.state();
            self.answers("/healthz/ready") && state.is_ok_and(|state| state == "captured")
        });
        ready.with_context(|| format!("the machine's node: {:?}; {}", self.state(), self.agent.errors()))
    }

    fn answers(&self, path: &str) -> bool {
        let at = SocketAddr::from(([127, 0, 0, 1], 15021));
        let asked = self.node.run_in_netns(|| fetch(at, &Request::get(path), Duration::from_secs(1)));
        asked.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 200))
    }

    /// How far the capture of the machine is.
    fn state(&self) -> Result<String> {
        let dump: serde_json::Value = serde_json::from_str(&self.node.admin("/config_dump")?)?;
        let states = dump["workloadState"].as_object().context("no state")?;
        Ok(states.values().map(|one| one["state"].as_str().unwrap_or("?")).collect())
    }

    /// Dials as a process of a control group of the machine: `unit` is enrolled, `host` is not.
    fn dial(&self, group: &str, to: &str) -> Result<Dialled> {
        let output = self.node.exec_in(group, &["netprobe", "dial", to, "--timeout", "1500"])?;
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).with_context(|| format!("netprobe printed {text:?}"))
    }

    fn eventually(&self, group: &str, to: &str, wanted: fn(&Dialled) -> bool) -> Result<Dialled> {
        let mut last = Dialled::default();
        let reached = self.bed.wait("the wanted outcome of a connection", Duration::from_secs(20), |_| {
            last = self.dial(group, to).unwrap_or_default();
            wanted(&last)
        });
        let log = || format!("{group} of the machine to {to}: {last:?}; {}", self.agent.errors());
        reached.with_context(log)?;
        Ok(last)
    }

    /// Waits for the outcome of connections to the machine's service.
    fn reached(&self, client: &PodHandle, when: &str, wanted: fn(&Dialled) -> bool) -> Result<()> {
        let seen = eventually(self.bed, client, "10.200.0.9:80", wanted);
        seen.with_context(|| format!("{when}: {:?}; {}", self.state(), self.agent.errors()))?;
        Ok(())
    }

    fn ip(&self) -> String {
        self.node.ips()[0].to_string()
    }
}

fn state(bed: &Bed) -> PathBuf {
    bed.layout().state.join("mesh")
}

fn join_token(bed: &Bed, identity: &str) -> Result<String> {
    join_token_for(bed, &format!("mesh/sa/{identity}"), "1h")
}

fn join_token_for(bed: &Bed, identity: &str, lifetime: &str) -> Result<String> {
    let state = state(bed).display().to_string();
    let identity = format!("spiffe://cluster.local/ns/{identity}");
    let words = ["mesh-control", "join", "create", "--uses", "9", "--lifetime", lifetime];
    let words = [&words[..], &["--identity", &identity, "--state", &state]].concat();
    let output = bed.node("node-1")?.exec(&words)?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The WorkloadEntry of the machine, written by hand.
fn entry(bed: &Bed) -> Result<String> {
    let address = bed.node("node-3")?.ips()[0];
    Ok(format!(
        "{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: vm, namespace: mesh, \
         labels: {{app: vm, networking.istio.io/tunnel: http}}}}, \
         spec: {{address: {address}, serviceAccount: vm}}}}\n---\n"
    ))
}

/// A WorkloadGroup whose machines are behind the service.
fn group(probe: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: WorkloadGroup, metadata: {{name: vms, namespace: mesh}}, \
         spec: {{metadata: {{labels: {{app: vm}}}}, template: {{serviceAccount: vm}}{probe}}}}}\n---\n"
    )
}

/// Whether the first node would send to the machine that has registered, as its dump says; `None` if it knows none.
fn registered(bed: &Bed) -> Option<bool> {
    let dump = bed.node("node-1").ok()?.admin("/config_dump").ok()?;
    let dump: serde_json::Value = serde_json::from_str(&dump).ok()?;
    let name = format!("vms-{}", bed.node("node-3").ok()?.ips()[0]);
    let known = dump["workloads"].as_array()?.iter().find(|workload| workload["name"] == name.as_str())?;
    Some(known["status"] == "Healthy")
}

/// A machine registers with its group, by its token; its WorkloadEntry outlives a control plane, and goes with the machine.
#[test]
fn a_machine_registers_itself_and_goes_when_it_has_gone() -> Result<()> {
    let bed = bed()?;
    bed.apply(&(STRICT.to_owned() + &allow("far", "vm") + &group("")))?;
    let mut machine = Machine::start(&bed, "vm", &["--workload-group", "mesh/vms"])?;
    let _server = machine.node.spawn_in("unit", &["netprobe", "serve", "--port", "7000"])?;
    let client = bed.pod("mesh/client")?;
    machine.reached(&client, "once it has registered", Dialled::served)?;
    machine.eventually("unit", &at(&bed.pod("mesh/far")?), Dialled::served)?;
    ensure!(registered(&bed) == Some(true));

    // Made by the group, it changes with it.
    bed.apply(&group("").replace("app: vm", "app: other"))?;
    machine.reached(&client, "in a group that its service does not select", Dialled::refused)?;
    bed.apply(&group(""))?;
    machine.reached(&client, "in its group again", Dialled::served)?;

    let control = bed.control()?;
    control.kill9()?;
    control.start()?;
    bed.wait("the control plane", Duration::from_secs(20), |_| control.is_ready())?;
    bed.wait("the machine, registered anew", Duration::from_secs(20), |bed| registered(bed) == Some(true))?;
    machine.reached(&client, "after a restart of the control plane", Dialled::served)?;
    std::thread::sleep(Duration::from_secs(4));
    ensure!(registered(&bed) == Some(true), "it is connected, whatever the grace period is");

    machine.agent.kill();
    ensure!(registered(&bed) == Some(true), "it may come back");
    bed.wait("the end of the WorkloadEntry", Duration::from_secs(20), |bed| registered(bed).is_none())?;
    machine.reached(&client, "when it has gone", Dialled::refused)?;
    Ok(())
}

/// A token makes a machine what it stands for and nothing else, and whoever is refused is told why.
#[test]
fn tokens_are_for_one_identity() -> Result<()> {
    let bed = bed()?;
    bed.apply(&(group("") + &entry(&bed)?))?;
    let (by_group, by_entry) = (["--workload-group", "mesh/vms"], ["--workload-entry", "mesh/vm"]);
    for (identity, options, reason) in [
        ("mesh/sa/client", by_group, "may not join the WorkloadGroup mesh/vms"),
        ("outside/sa/vm", by_group, "may not join the WorkloadGroup mesh/vms"),
        ("mesh/sa/vm", ["--workload-group", "mesh/none"], "may not join the WorkloadGroup mesh/none"),
        ("mesh/sa/client", by_entry, "is not the machine of the WorkloadEntry mesh/vm"),
        ("expired", by_group, "the join token has expired"),
        ("unknown", by_group, "the join token is not known"),
        ("hello", by_group, "the token is no join token"),
    ] {
        let token = match identity {
            "expired" => {
                let token = join_token_for(&bed, "mesh/sa/vm", "1s")?;
                std::thread::sleep(Duration::from_millis(1500));
                token
            }
            "unknown" => format!("mesh-join.{}.{}", "0".repeat(16), "0".repeat(64)),
            other if other.contains('/') => join_token_for(&bed, other, "1h")?,
            other => other.to_owned(),
        };
        let machine = Machine::begin(&bed, &token, &options)?;
        let said =
            bed.wait("the reason", Duration::from_secs(15), |_| machine.agent.errors().contains(reason));
        said.with_context(|| format!("{reason}: {}", machine.agent.errors()))?;
        ensure!(
            registered(&bed).is_none() && machine.state().is_ok_and(|state| state.is_empty()),
            "{reason}"
        );
        drop(machine);
        fs::remove_dir_all(bed.layout().memory().join("vm"))?;
    }
    Ok(())
}

/// What a machine says of its own health counts for those who send to it.
#[test]
fn a_machine_that_fails_its_probe_is_not_sent_to() -> Result<()> {
    let bed = bed()?;
    let probe = ", probe: {httpGet: {port: 7070, path: /get}, periodSeconds: 1, failureThreshold: 2}";
    bed.apply(&group(probe))?;
    let machine = Machine::start(&bed, "vm", &["--workload-group", "mesh/vms"])?;
    let _server = machine.node.spawn_in("unit", &["netprobe", "serve", "--port", "7000"])?;
    let client = bed.pod("mesh/client")?;
    bed.wait("the machine, not well", Duration::from_secs(20), |bed| registered(bed) == Some(false))?;
    eventually(&bed, &client, "10.200.0.9:80", Dialled::refused)?;
    let mut well = machine.node.spawn_in("unit", &["httpbin", "--port", "7070"])?;
    bed.wait("the machine, well", Duration::from_secs(20), |bed| registered(bed) == Some(true))?;
    eventually(&bed, &client, "10.200.0.9:80", Dialled::served)?;
    well.kill();
    bed.wait("the machine, not well again", Duration::from_secs(10), |bed| registered(bed) == Some(false))?;
    eventually(&bed, &client, "10.200.0.9:80", Dialled::refused)?;
    Ok(())
}

/// What is enrolled of a machine is in the mesh, by its own identity and in both directions; what is not, is not.
#[test]
fn processes_of_a_machine_are_a_workload() -> Result<()> {
    let bed = bed()?;
    bed.apply(&entry(&bed)?)?;
    let machine = Machine::start(&bed, "vm", &["--workload-entry", "mesh/vm"])?;
    let _server = machine.node.spawn_in("unit", &["netprobe", "serve", "--port", "7000"])?;
    let _other = machine.node.spawn(&["netprobe", "serve", "--port", "7009"])?;
    let (client, stranger) = (bed.pod("mesh/client")?, bed.pod("outside/stranger")?);
    let (near, far) = (at(&bed.pod("mesh/near")?), at(&bed.pod("mesh/far")?));
    let own = format!("{}:7000", machine.ip());

    // Into the machine, by the service; the server sees who it was.
    let seen = eventually(&bed, &client, "10.200.0.9:80", Dialled::served)?;
    ensure!(seen.seen("peer").starts_with(&format!("{}:", client.ip())), "the real client: {seen:?}");
    ensure!(seen.seen("local") == own, "{seen:?}");
    // As long as nobody minds, in plain text as well; and nothing is between processes of the machine.
    eventually(&bed, &stranger, &own, Dialled::served)?;
    ensure!(machine.dial("host", &own)?.served(), "a neighbour on the machine");

    // Out of it, as itself.
    bed.apply(&(STRICT.to_owned() + &allow("far", "vm") + &allow("near", "client")))?;
    let seen = machine.eventually("unit", &far, Dialled::served)?;
    ensure!(seen.peername.as_deref() == Some(&*far), "{seen:?}");
    ensure!(seen.seen("peer").starts_with(&machine.ip()), "{seen:?}");
    machine.eventually("unit", &near, Dialled::refused)?;
    let service = format!("{}:80", bed.status().service_ip("mesh/far")?);
    ensure!(machine.dial("unit", &service)?.served(), "by the service's address");

    // STRICT is for the machine as well: at the port of its service, and at one that nobody has declared.
    let _more = machine.node.spawn_in("unit", &["netprobe", "serve", "--port", "7001"])?;
    eventually(&bed, &stranger, &own, Dialled::refused)?;
    let undeclared = format!("{}:7001", machine.ip());
    eventually(&bed, &stranger, &undeclared, Dialled::refused)?;
    ensure!(eventually(&bed, &client, "10.200.0.9:80", Dialled::served)?.served(), "in the mesh");

    // An address of the machine that the WorkloadEntry does not have leads nobody around the node.
    let add = ["ip", "addr", "add", "192.168.77.203/24", "dev", "eth0"];
    ensure!(machine.node.exec(&add)?.status.success());
    ensure!(dial(&stranger, &["192.168.77.203:7009"])?.served(), "a process that is not enrolled");
    let seen = dial(&stranger, &["192.168.77.203:7000", "--timeout", "1500"])?;
    ensure!(seen.refused(), "by another address: {seen:?}");

    // Whoever is not enrolled is outside, and reached as ever.
    ensure!(machine.dial("host", &far)?.refused(), "a process that is not enrolled got in");
    ensure!(
        dial(&stranger, &[&format!("{}:7009", machine.ip())])?.served(),
        "a process that is not enrolled"
    );
    Ok(())
}

/// The policies that select a WorkloadEntry hold for it.
#[test]
fn policies_that_select_a_machine_hold() -> Result<()> {
    let bed = bed()?;
    bed.apply(&(entry(&bed)? + &allow("vm", "near")))?;
    let machine = Machine::start(&bed, "vm", &["--workload-entry", "mesh/vm"])?;
    let _server = machine.node.spawn_in("unit", &["netprobe", "serve", "--port", "7000"])?;
    let (client, near) = (bed.pod("mesh/client")?, bed.pod("mesh/near")?);
    eventually(&bed, &near, "10.200.0.9:80", Dialled::served)?;
    eventually(&bed, &client, "10.200.0.9:80", Dialled::refused)?;
    bed.apply(&allow("vm", "client"))?;
    eventually(&bed, &client, "10.200.0.9:80", Dialled::served)?;
    eventually(&bed, &near, "10.200.0.9:80", Dialled::refused)?;
    Ok(())
}

/// Names of the mesh are known to enrolled processes, also by way of a resolver on the machine's own loopback.
#[test]
fn a_machine_knows_the_names_of_the_mesh() -> Result<()> {
    let bed = bed()?;
    bed.apply(&entry(&bed)?)?;
    let machine = Machine::start(&bed, "vm", &["--workload-entry", "mesh/vm"])?;
    let address = bed.status().service_ip("mesh/far")?.to_string();
    for (server, way) in
        [("127.0.0.53:53", "connected"), ("127.0.0.53:53", "unconnected"), ("10.1.2.3:53", "connected")]
    {
        let words = ["netprobe", "ask", server, "far.mesh.svc.cluster.local", "--way", way];
        let said = machine.node.exec_in("unit", &words)?;
        let text = String::from_utf8_lossy(&said.stdout);
        ensure!(text.contains(&address), "{server} {way}: {text} {said:?}");
    }
    let words = ["netprobe", "ask", "127.0.0.53:53", "far.mesh.svc.cluster.local", "--way", "connected"];
    let said = machine.node.exec_in("host", &words)?;
    ensure!(!String::from_utf8_lossy(&said.stdout).contains(&address), "not enrolled: {said:?}");
    Ok(())
}

/// A machine whose node is gone is closed, as far as it is enrolled, and open again when the node is back.
#[test]
fn a_machine_without_its_node_is_closed() -> Result<()> {
    let bed = bed()?;
    bed.apply(&entry(&bed)?)?;
    let options = ["--workload-entry", "mesh/vm"];
    let mut machine = Machine::start(&bed, "vm", &options)?;
    let outside = format!("{}:7009", bed.node("node-1")?.ips()[0]);
    let _far = bed.node("node-1")?.spawn(&["netprobe", "serve", "--port", "7009"])?;
    machine.eventually("unit", &outside, Dialled::served)?;
    let _server = machine.node.spawn_in("unit", &["netprobe", "serve", "--port", "7000"])?;
    let stranger = bed.pod("outside/stranger")?;
    let own = format!("{}:7000", machine.ip());
    eventually(&bed, &stranger, &own, Dialled::served)?;

    machine.agent.kill();
    machine.eventually("unit", &outside, Dialled::refused)?;
    ensure!(dial(&stranger, &[&own, "--timeout", "1500"])?.refused(), "into an enrolled process");
    ensure!(machine.dial("host", &outside)?.served(), "others of the machine");
    // Whoever takes the node's place is given nothing.
    let thief = machine.node.spawn(&["netprobe", "serve", "--port", "15001"])?;
    machine.eventually("host", "127.0.0.1:15001", Dialled::served)?;
    ensure!(machine.dial("unit", &outside)?.refused(), "a process in place of the node was told something");
    drop(thief);
    drop(machine);

    // The token may be long over: its certificate is still there.
    let machine = Machine::begin(&bed, "mesh-join.0.0", &options)?;
    machine.ready()?;
    machine.eventually("unit", &outside, Dialled::served)?;
    eventually(&bed, &stranger, &own, Dialled::served)?;
    Ok(())
}

/// A unit that starts anew has another control group: it is captured as the one before, also while the WorkloadEntry is wrong.
#[test]
fn a_unit_that_starts_anew_is_captured_whatever_its_entry_says() -> Result<()> {
    let bed = bed()?;
    bed.apply(&(STRICT.to_owned() + &entry(&bed)?))?;
    let machine = Machine::start(&bed, "vm", &["--workload-entry", "mesh/vm"])?;
    let far = at(&bed.pod("mesh/far")?);
    machine.eventually("unit", &far, Dialled::served)?;
    bed.apply(&entry(&bed)?.replace(&machine.ip(), "192.168.77.250"))?;
    bed.wait("word of the foreign address", Duration::from_secs(10), |_| {
        machine.state().is_ok_and(|state| state == "failed")
    })?;
    let unit = machine.node.cgroup().join("unit");
    fs::remove_dir(&unit)?;
    fs::create_dir(&unit)?;
    // In plain text nobody gets in there.
    machine.eventually("unit", &far, Dialled::served)?;
    let said = machine.agent.errors().matches("Enrolled processes cannot be served").count();
    ensure!(said == 1, "it was said {said} times");
    Ok(())
}

/// What is started after `mesh-node enrolled` is captured from its first byte.
#[test]
fn a_service_waits_for_its_capture() -> Result<()> {
    let bed = bed()?;
    bed.apply(&entry(&bed)?)?;
    let node = bed.node("node-3")?;
    let pins = bed.layout().pins.display().to_string();
    let gate = |group: &str, patience: &str| -> Result<std::process::Output> {
        let words = ["mesh-node", "enrolled", "--node", "vm", "--pin-root", &pins, "--patience", patience];
        Ok(node.exec_in(group, &words)?)
    };
    let output = gate("unit", "1s")?;
    ensure!(!output.status.success(), "nothing is captured yet: {output:?}");
    let machine = Machine::begin(&bed, &join_token(&bed, "vm")?, &["--workload-entry", "mesh/vm"])?;
    let output = gate("unit", "20s")?;
    ensure!(output.status.success(), "{output:?}; {}", machine.agent.errors());
    let output = gate("unit/inside", "1ms")?;
    ensure!(output.status.success(), "a group inside of it: {output:?}");
    let output = gate("host", "1s")?;
    ensure!(!output.status.success(), "what is not enrolled is never captured: {output:?}");
    Ok(())
}

/// The listener that enrolled processes are led to is of no use to others, whatever address they come from.
#[test]
fn nobody_rides_on_what_an_enrolled_process_has_opened() -> Result<()> {
    let bed = bed()?;
    bed.apply(&(STRICT.to_owned() + &entry(&bed)?))?;
    let machine = Machine::start(&bed, "vm", &["--workload-entry", "mesh/vm"])?;
    let far = at(&bed.pod("mesh/far")?);
    // Otherwise nobody could have the same port for a minute.
    let no_wait = ["sh", "-c", "echo 0 > /proc/sys/net/ipv4/tcp_max_tw_buckets"];
    ensure!(machine.node.exec(&no_wait)?.status.success());
    let seen = machine.eventually("unit", &far, Dialled::served)?;
    let used: SocketAddr = seen.sockname.as_deref().context("no name")?.parse()?;
    let seen = machine.dial("host", "127.0.0.1:15001")?;
    ensure!(seen.refused(), "the node's listener: {seen:?}");
    // The same address and port, moments later.
    let deadline = Instant::now() + Duration::from_secs(5);
    let heard = machine.node.run_in_netns(|| -> Result<Vec<u8>> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        while let Err(error) = socket.bind(&used.into()) {
            ensure!(Instant::now() < deadline, "{used}: {error}");
        }
        let to: SocketAddr = "127.0.0.1:15001".parse()?;
        socket.connect(&to.into())?;
        let mut stream = std::net::TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut heard = Vec::new();
        // Whoever is behind it would answer. It is reset, or just ends.
        let _ = std::io::Write::write_all(&mut stream, b"ECHO\n");
        let _ = std::io::Read::read_to_end(&mut stream, &mut heard);
        Ok(heard)
    })??;
    ensure!(heard.is_empty(), "{}", String::from_utf8_lossy(&heard));
    Ok(())
}

/// A tunnel to a machine leads to its enrolled processes, and not to whoever else listens there.
#[test]
fn a_tunnel_leads_to_enrolled_processes_alone() -> Result<()> {
    let bed = bed()?;
    bed.apply(&entry(&bed)?)?;
    let machine = Machine::start(&bed, "vm", &["--workload-entry", "mesh/vm"])?;
    let _server = machine.node.spawn_in("unit", &["netprobe", "serve", "--port", "7000"])?;
    let _other = machine.node.spawn(&["netprobe", "serve", "--port", "7009"])?;
    let (client, stranger) = (bed.pod("mesh/client")?, bed.pod("outside/stranger")?);
    eventually(&bed, &client, "10.200.0.9:80", Dialled::served)?;
    let good = Ca::stolen(&bed)?.issue(&leaf(&["spiffe://cluster.local/ns/mesh/sa/client"])?)?;
    let ip = machine.node.ips()[0];
    let through = |to: String| -> Result<End> {
        let request = Then::Request(connect(&to)?);
        Ok(Client::good(&good).attempt(&stranger, SocketAddr::new(ip, 15008), request)?.end)
    };
    let seen = through(format!("{ip}:7000"))?;
    ensure!(matches!(seen, End::Status(200)), "an enrolled process: {seen:?}");
    for port in [7009, 15000, 15020] {
        let seen = through(format!("{ip}:{port}"))?;
        ensure!(!matches!(seen, End::Status(200)), "port {port}: {seen:?}");
    }
    Ok(())
}

/// The rights that the unit of systemd gives are enough.
#[test]
fn a_machine_needs_no_more_rights_than_its_unit_has() -> Result<()> {
    let bed = bed()?;
    bed.apply(&entry(&bed)?)?;
    let unit = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/vm/mesh-node.service"))?;
    let rights = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=CAP_"));
    let rights = rights.context("no rights")?.to_lowercase().replace(" cap_", ",+");
    let bounds = format!("--bounding-set=-all,+{rights}");
    let by = ["setpriv", "--no-new-privs", "--inh-caps=-all", &bounds];
    let token = join_token(&bed, "vm")?;
    let machine = Machine::begin_by(&bed, &by, &token, &["--workload-entry", "mesh/vm"])?;
    machine.ready()?;
    let _server = machine.node.spawn_in("unit", &["netprobe", "serve", "--port", "7000"])?;
    eventually(&bed, &bed.pod("mesh/client")?, "10.200.0.9:80", Dialled::served)?;
    machine.eventually("unit", &at(&bed.pod("mesh/far")?), Dialled::served)?;
    Ok(())
}
