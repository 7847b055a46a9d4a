//! Peers that mean harm: what reaches a pod's ports from anybody is refused within a deadline, counted, logged with
//! the peer, and hinders nobody else.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    bed::{Bed, Inbound, NodeHandle, PodHandle},
    scenario::{Dialled, at, dial, eventually, manifests, start},
};

use crate::{
    forge::{Ca, Client, Credential, End, Seen, Then, connect, leaf, raw},
    scrape::{Scrape, counted},
};

/// An identity that policy lets in.
const CLIENT: &str = "spiffe://cluster.local/ns/mesh/sa/client";

fn tunnel_of(pod: &PodHandle) -> SocketAddr {
    SocketAddr::new(pod.ip(), 15008)
}

/// The bed, and a certificate that its mesh accepts.
fn bed(inbound: Inbound) -> Result<(Bed, Credential)> {
    let bed = start(Bed::builder().nodes(2).inbound(inbound).manifests(manifests()))?;
    let good = Ca::stolen(&bed)?.issue(&leaf(&[CLIENT])?)?;
    Ok((bed, good))
}

/// One kind of harm: what is done, and what is made of it.
struct Case<'a> {
    name: &'static str,
    /// Word of the log.
    reason: &'static str,
    /// Metric and its label `reason`.
    counted: &'static str,
    /// For an end by deadline, otherwise at once.
    patient: bool,
    act: Box<dyn FnOnce() -> Result<Seen> + 'a>,
}

/// Does it, and checks that it is refused in time, counted once under its own reason and no other, and logged with the
/// peer's address.
fn is_refused(node: &NodeHandle<'_>, bed: &Bed, case: Case<'_>) -> Result<()> {
    let Case { name, reason, counted, patient, act } = case;
    let mut expected = Scrape::of(node)?.refused();
    let seen = act().with_context(|| name.to_owned())?;
    ensure!(matches!(seen.end, End::Refused(_) | End::Status(400)), "{name}: {seen:?}");
    let deadline = if patient { Duration::from_millis(6500) } else { Duration::from_secs(2) };
    ensure!(seen.took < deadline, "{name} took {:?}: {seen:?}", seen.took);
    ensure!(!patient || seen.took > Duration::from_secs(4), "{name} should get its 5 s: {seen:?}");

    let counter = expected.get_mut(counted).with_context(|| format!("{name}: no counter {counted}"))?;
    *counter += 1;
    let mut now = expected.clone();
    let said = bed.wait("the counter", Duration::from_secs(3), |_| {
        now = Scrape::of(node).map(|scrape| scrape.refused()).unwrap_or_default();
        now == expected
    });
    said.with_context(|| format!("{name} ({seen:?}) should count as {counted} alone: {now:#?}"))?;
    let peer = seen.from.to_string();
    let told = bed.wait("the log line", Duration::from_secs(3), |_| {
        let log = node.log().unwrap_or_default();
        log.lines().any(|line| line.contains(&peer) && line.contains(reason))
    });
    told.with_context(|| {
        format!("{name}: no line with {peer} and {reason} in\n{}", node.log().unwrap_or_default())
    })
}

/// Somebody with a good certificate is served, and so is a pod of the mesh.
fn the_good_get_through(bed: &Bed, good: &Credential, to: &PodHandle) -> Result<()> {
    let stranger = bed.pod("outside/stranger")?;
    let request = Then::Request(connect(&at(to))?);
    let seen = Client::good(good).attempt(&stranger, tunnel_of(to), request)?;
    ensure!(matches!(seen.end, End::Status(200)), "a good client: {seen:?}");
    let seen = dial(&bed.pod("mesh/client")?, &[&at(to)])?;
    ensure!(seen.served(), "a pod of the mesh: {seen:?}");
    Ok(())
}

fn no_handshake(stranger: &PodHandle, to: SocketAddr) -> Vec<Case<'_>> {
    // A record that announces 512 bytes of ClientHello and holds 4.
    let half = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc";
    let garbage = [0xff; 300];
    let kinds: [(_, &[u8], _, _); 4] = [
        ("silence", b"", "tls_handshake_timeout", true),
        ("half a ClientHello", half, "tls_handshake_timeout", true),
        ("garbage", &garbage, "not_tls", false),
        ("plain HTTP", b"GET / HTTP/1.1\r\nHost: far\r\n\r\n", "not_tls", false),
    ];
    let case = |(name, bytes, reason, patient): (&'static str, &[u8], &'static str, bool)| {
        let bytes = bytes.to_vec();
        let counted = if patient { handshakes("deadline") } else { handshakes("tls") };
        let act = Box::new(move || raw(stranger, to, &bytes, Duration::from_secs(8)));
        Case { name, reason, counted, patient, act }
    };
    kinds.into_iter().map(case).collect()
}

fn handshakes(reason: &str) -> &'static str {
    match reason {
        "deadline" => "mesh_handshakes_refused_total{deadline}",
        "identity" => "mesh_handshakes_refused_total{identity}",
        _ => "mesh_handshakes_refused_total{tls}",
    }
}

/// Certificates that prove nothing, or nothing that counts here.
fn bad_credentials(bed: &Bed) -> Result<Vec<(&'static str, Credential, &'static str, &'static str)>> {
    let (ca, impostor) = (Ca::stolen(bed)?, Ca::impostor(bed)?);
    let good = leaf(&[CLIENT])?;
    let (mut expired, mut early, mut server_only) = (good.clone(), good.clone(), good.clone());
    expired.not_after = (SystemTime::now() - Duration::from_secs(2)).into();
    early.not_before = (SystemTime::now() + Duration::from_secs(600)).into();
    server_only.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let mut authority = good.clone();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let named = |names: &[&str]| ca.issue(&leaf(names)?);
    Ok(vec![
        ("a self-signed certificate", Credential::self_signed(&good)?, "untrusted_chain", "tls"),
        ("another CA's with the right id", impostor.issue(&good)?, "untrusted_chain", "tls"),
        ("an expired one", ca.issue(&expired)?, "certificate_expired", "tls"),
        ("one that is not valid yet", ca.issue(&early)?, "certificate_not_yet_valid", "tls"),
        ("one for servers only", ca.issue(&server_only)?, "wrong_key_usage", "tls"),
        ("a CA's own as a leaf", ca.issue(&authority)?, "invalid_certificate", "tls"),
        ("no URI", named(&[])?, "no_spiffe_id", "identity"),
        (
            "two URIs",
            named(&[CLIENT, "spiffe://cluster.local/ns/mesh/sa/near"])?,
            "several_spiffe_ids",
            "identity",
        ),
        ("one URI twice", named(&[CLIENT, CLIENT])?, "several_spiffe_ids", "identity"),
        (
            "another trust domain",
            named(&["spiffe://example.org/ns/mesh/sa/client"])?,
            "foreign_trust_domain",
            "identity",
        ),
        ("a URL", named(&["https://cluster.local/ns/mesh/sa/client"])?, "malformed_spiffe_id", "identity"),
        (
            "an id with dots",
            named(&["spiffe://cluster.local/ns/../sa/client"])?,
            "malformed_spiffe_id",
            "identity",
        ),
        (
            "an id with more",
            named(&["spiffe://cluster.local/ns/mesh/sa/client/x"])?,
            "malformed_spiffe_id",
            "identity",
        ),
    ])
}

fn bad_handshakes(inbound: Inbound) -> Result<()> {
    let (bed, good) = bed(inbound)?;
    let (stranger, far) = (bed.pod("outside/stranger")?, bed.pod("mesh/far")?);
    let (node, to) = (bed.node("node-2")?, tunnel_of(&far));
    for case in no_handshake(&stranger, to) {
        is_refused(&node, &bed, case)?;
    }
    let listens = |client: Client| -> Box<dyn FnOnce() -> Result<Seen> + '_> {
        let stranger = &stranger;
        Box::new(move || client.attempt(stranger, to, Then::Listen))
    };
    let h2 = || vec![b"h2".to_vec()];
    let own = |alpn: Vec<Vec<u8>>| Client { credential: Some(good.clone()), alpn };
    let clients = [
        ("no certificate", Client { credential: None, alpn: h2() }, "no_client_certificate"),
        ("no ALPN", own(Vec::new()), "no_h2_alpn"),
        ("ALPN http/1.1", own(vec![b"http/1.1".to_vec()]), "no_h2_alpn"),
    ];
    for (name, client, reason) in clients {
        let case = Case { name, reason, counted: handshakes("tls"), patient: false, act: listens(client) };
        is_refused(&node, &bed, case)?;
    }
    for (name, credential, reason, counted) in bad_credentials(&bed)? {
        let act = listens(Client { credential: Some(credential), alpn: h2() });
        is_refused(&node, &bed, Case { name, reason, counted: handshakes(counted), patient: false, act })?;
    }
    the_good_get_through(&bed, &good, &far)
}

#[test]
fn bad_handshakes_are_refused_by_sk_lookup() -> Result<()> {
    bad_handshakes(Inbound::SkLookup)
}

#[test]
fn bad_handshakes_are_refused_by_tc() -> Result<()> {
    bad_handshakes(Inbound::Tc)
}

/// Requests of a peer with a good certificate that ask for what a tunnel is not for.
#[test]
fn a_tunnel_leads_to_its_own_pod_and_nowhere_else() -> Result<()> {
    let (bed, good) = bed(Inbound::SkLookup)?;
    let (stranger, far, near) = (bed.pod("outside/stranger")?, bed.pod("mesh/far")?, bed.pod("mesh/near")?);
    let (node, to, ip) = (bed.node("node-2")?, tunnel_of(&far), far.ip());
    let client = Client::good(&good);
    let get = http::Request::builder().uri(format!("https://{}/", at(&far))).body(())?;
    let mut requests = vec![("GET", Box::new(get), "not_connect", "method")];
    let node_ip = node.ips()[0];
    for (name, authority, reason, counted) in [
        ("another pod", at(&near), "is not this pod", "target"),
        ("the node", format!("{node_ip}:15020"), "is not this pod", "target"),
        ("loopback", "127.0.0.1:7000".to_owned(), "is not this pod", "target"),
        ("loopback, mapped", "[::ffff:127.0.0.1]:7000".to_owned(), "is not this pod", "target"),
        ("loopback, IPv6", "[::1]:7000".to_owned(), "is not this pod", "target"),
        ("any address", "0.0.0.0:7000".to_owned(), "is not this pod", "target"),
        ("port 15001", format!("{ip}:15001"), "a port of the mesh", "target"),
        ("port 15006", format!("{ip}:15006"), "a port of the mesh", "target"),
        ("port 15008", format!("{ip}:15008"), "a port of the mesh", "target"),
        ("port 15008 of the mapped address", format!("[::ffff:{ip}]:15008"), "a port of the mesh", "target"),
        ("a name", "far.mesh.svc.cluster.local:7000".to_owned(), "bad_authority", "authority"),
        ("port 0", format!("{ip}:0"), "bad_authority", "authority"),
        ("no port", ip.to_string(), "bad_authority", "authority"),
        ("credentials", format!("root@{ip}:7000"), "bad_authority", "authority"),
    ] {
        requests.push((name, connect(&authority).context(authority)?, reason, counted));
    }
    for (name, request, reason, counted) in requests {
        let counted = match counted {
            "method" => "mesh_invalid_requests_total{method}",
            "target" => "mesh_invalid_requests_total{target}",
            _ => "mesh_invalid_requests_total{authority}",
        };
        let act = Box::new(|| client.attempt(&stranger, to, Then::Request(request)));
        is_refused(&node, &bed, Case { name, reason, counted, patient: false, act })?;
    }
    for (name, then, reason, patient) in [
        ("no HTTP/2 preface", Then::Idle, "h2_preface_timeout", true),
        ("HTTP/1 inside TLS", Then::Bytes(b"GET / HTTP/1.1\r\nHost: far\r\n\r\n"), "h2_", false),
        ("frames of nonsense", Then::Bytes(NONSENSE), "h2_protocol_error", false),
    ] {
        let act = Box::new(|| client.attempt(&stranger, to, then));
        is_refused(
            &node,
            &bed,
            Case { name, reason, counted: "mesh_invalid_requests_total{protocol}", patient, act },
        )?;
    }
    the_good_get_through(&bed, &good, &far)
}

/// A good preface, then a frame for stream 0 that no peer may send there.
const NONSENSE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\0\0\0\0\0\0x";

/// Policy by address goes by where the tunnel comes from, not by what its peer says; reports show no more.
#[test]
fn a_forged_address_counts_for_nothing() -> Result<()> {
    let (bed, good) = bed(Inbound::SkLookup)?;
    let (stranger, far) = (bed.pod("outside/stranger")?, bed.pod("mesh/far")?);
    let allow = |ip: IpAddr| {
        bed.apply(&format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: by-address, namespace: mesh}}, \
             spec: {{rules: [{{from: [{{source: {{ipBlocks: [\"{ip}\"]}}}}]}}]}}}}"
        ))
    };
    let status = |forwarded: &str| -> Result<Option<u16>> {
        let mut request = connect(&at(&far))?;
        request.headers_mut().insert("forwarded", forwarded.parse()?);
        request.headers_mut().insert("x-forwarded-for", "10.9.9.9".parse()?);
        let seen = Client::good(&good).attempt(&stranger, tunnel_of(&far), Then::Request(request))?;
        Ok(if let End::Status(status) = seen.end { Some(status) } else { None })
    };
    let own = format!("for=\"{}:4711\"", stranger.ip());
    allow([10, 9, 9, 9].into())?;
    bed.wait("the policy", Duration::from_secs(5), |_| status(&own).ok().flatten() == Some(401))?;
    for forged in ["for=\"10.9.9.9:4711\"", "for=10.9.9.9", "for=\"[::ffff:10.9.9.9]:4711\", for=10.9.9.9"] {
        ensure!(status(forged)? == Some(401), "{forged} changed what policy sees");
    }
    allow(stranger.ip())?;
    bed.wait("the other policy", Duration::from_secs(5), |_| status(&own).ok().flatten() == Some(200))?;
    ensure!(status("for=\"10.9.9.9:4711\"")? == Some(200), "a forged address keeps its owner out");
    let log = bed.node("node-2")?.log()?;
    ensure!(!log.contains("src.addr=10.9.9.9"), "a forged address in the access log:\n{log}");
    Ok(())
}

/// What a process inside an enrolled pod can reach of the mesh by hand: nothing.
#[test]
fn the_ports_of_the_mesh_serve_nobody_by_hand() -> Result<()> {
    let (bed, good) = bed(Inbound::SkLookup)?;
    let (client, far, near) = (bed.pod("mesh/client")?, bed.pod("mesh/far")?, bed.pod("mesh/near")?);
    let (here, there) = (bed.node("node-1")?, bed.node("node-2")?);
    let lost = "mesh_connections_shed_total{destination}";
    for port in ["127.0.0.1:15001", "[::1]:15001"] {
        let before = Scrape::of(&here)?.refused();
        let seen = dial(&client, &[port])?;
        ensure!(seen.refused() && seen.error.is_none(), "{port} from inside: {seen:?}");
        let sockname = seen.sockname.unwrap_or_default();
        let told =
            |log: &str| log.lines().any(|l| l.contains(&sockname) && l.contains("capture knows nothing"));
        bed.wait("a log line", Duration::from_secs(3), |_| here.log().is_ok_and(|log| told(&log)))?;
        let after = Scrape::of(&here)?.refused();
        ensure!(
            after.get(lost) == before.get(lost).map(|n| n + 1).as_ref(),
            "{port} is not counted: {after:?}"
        );
    }
    for (pod, ip) in [("near", near.ip()), ("far", far.ip())] {
        for port in [15001, 15006, 15008] {
            let to = format!("{ip}:{port}");
            let seen = dial(&client, &[&to, "--timeout", "8000"])?;
            ensure!(seen.refused(), "port {port} of {pod} from a pod of the mesh: {seen:?}");
        }
    }
    let stranger = bed.pod("outside/stranger")?;
    for port in [15001, 15006] {
        for node_pod in [&near, &far] {
            let seen = dial(&stranger, &[&format!("{}:{port}", node_pod.ip())])?;
            ensure!(seen.refused(), "port {port} of {} from outside: {seen:?}", node_pod.name());
        }
    }
    // Three requests for ports of the mesh reached the other node.
    counted(&there, "mesh_invalid_requests_total", &[("reason", "target")], |targets| targets == 3)?;
    the_good_get_through(&bed, &good, &far)
}

/// A socket of the pod's network that capture cannot see, because its process is in no cgroup of the pod, does not get
/// past the guard, not even to a tunnel port.
#[test]
fn nothing_leaves_an_enrolled_pod_uncaptured() -> Result<()> {
    let (bed, good) = bed(Inbound::SkLookup)?;
    let (client, far) = (bed.pod("mesh/client")?, bed.pod("mesh/far")?);
    for to in [tunnel_of(&far), SocketAddr::new(far.ip(), 7000)] {
        let attempt = || TcpStream::connect_timeout(&to, Duration::from_millis(1200)).map(drop);
        let result = client.run_in_netns(attempt)?;
        ensure!(result.is_err(), "{to} was reached around the node");
    }
    let attempt =
        Client::good(&good).attempt(&bed.pod("outside/stranger")?, tunnel_of(&far), Then::Listen)?;
    ensure!(matches!(attempt.end, End::Served(_)), "the control experiment: {attempt:?}");
    Ok(())
}

/// A mark that a pod puts on its sockets, be it one that proxies put on their own, gets nothing past the node: who it is is known all
/// the same, and so it is refused. Whoever is nobody would not be.
fn no_mark_helps(inbound: Inbound) -> Result<()> {
    let (bed, _) = bed(inbound)?;
    let (client, far) = (bed.pod("mesh/client")?, bed.pod("mesh/far")?);
    bed.apply(
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: closed, namespace: mesh}, \
         spec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/mesh/sa/client]}}]}]}}",
    )?;
    eventually(&bed, &client, &at(&far), Dialled::refused)?;
    let near = bed.pod("mesh/near")?;
    for mark in ["1", "256", "273", "1337", "1338", "3840", "4294967295"] {
        for to in [at(&far), at(&near)] {
            let seen = dial(&client, &[&to, "--mark", mark, "--timeout", "2000"])?;
            ensure!(seen.refused(), "with mark {mark}: {seen:?}");
        }
        // Nor does it keep anybody from what he may.
        let seen = dial(&near, &[&at(&far), "--mark", mark])?;
        ensure!(seen.served(), "with mark {mark}: {seen:?}");
    }
    Ok(())
}

#[test]
fn no_mark_of_a_pod_gets_past_the_node_by_sk_lookup() -> Result<()> {
    no_mark_helps(Inbound::SkLookup)
}

#[test]
fn no_mark_of_a_pod_gets_past_the_node_by_tc() -> Result<()> {
    no_mark_helps(Inbound::Tc)
}

/// Thousands of peers that connect and say nothing: the good get through meanwhile, quickly; memory stays bounded; all
/// are gone after the deadline.
#[test]
fn a_flood_of_silent_handshakes_keeps_nobody_out() -> Result<()> {
    let (bed, good) = bed(Inbound::SkLookup)?;
    let (stranger, far) = (bed.pod("outside/stranger")?, bed.pod("mesh/far")?);
    let (node, to) = (bed.node("node-2")?, tunnel_of(&far));
    let before = resident(&node)?;
    let begin = Instant::now();
    let flood =
        || (0..FLOOD).map(|_| TcpStream::connect_timeout(&to, Duration::from_secs(3))).collect::<Vec<_>>();
    let (flood, slowest) = thread::scope(|scope| -> Result<_> {
        let flood = scope.spawn(|| stranger.run_in_netns(flood));
        // The first of the good comes while the flood rises, the others while it stands.
        thread::sleep(Duration::from_millis(100));
        let mut slowest = Duration::ZERO;
        for pod in ["mesh/client", "mesh/near"] {
            let start = Instant::now();
            let seen = dial(&bed.pod(pod)?, &[&at(&far)])?;
            slowest = slowest.max(start.elapsed());
            ensure!(seen.served(), "{pod} during the flood: {seen:?}");
        }
        for number in 0..20 {
            let request = Then::Request(connect(&at(&far))?);
            let seen = Client::good(&good).attempt(&stranger, to, request)?;
            ensure!(
                matches!(seen.end, End::Status(200)),
                "good handshake {number} during the flood: {seen:?}"
            );
            slowest = slowest.max(seen.took);
        }
        Ok((flood.join().expect("the flood does not panic")?, slowest))
    })?;
    let connected: Vec<TcpStream> = flood.into_iter().filter_map(std::io::Result::ok).collect();
    ensure!(connected.len() > FLOOD * 9 / 10, "only {} of the flood connected", connected.len());
    ensure!(slowest < Duration::from_secs(1), "a good client waited {slowest:?}");
    let grown = resident(&node)?.saturating_sub(before);
    ensure!(grown < 64 << 20, "{FLOOD} silent peers cost {} MiB", grown >> 20);
    let risen = begin.elapsed();
    for (number, stream) in connected.iter().enumerate() {
        let left = (risen + Duration::from_millis(6500)).saturating_sub(begin.elapsed());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let end = std::io::Read::read(&mut &*stream, &mut [0; 16]);
        let open = end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        ensure!(!open, "silent peer {number} is still connected after {:?}", begin.elapsed());
    }
    let sent = i64::try_from(connected.len())?;
    let all_counted = || -> Result<()> {
        let scrape = Scrape::of(&node)?;
        let counted = |reason| scrape.count("mesh_handshakes_refused_total", &[("reason", reason)]);
        let all = counted("deadline") + counted("overload");
        ensure!(all >= sent, "{sent} silent peers, {all} counted: {:?}", scrape.refused());
        Ok(())
    };
    // The last one may have been hung up on a moment before it was counted.
    all_counted().or_else(|_| {
        thread::sleep(Duration::from_secs(1));
        all_counted()
    })?;
    the_good_get_through(&bed, &good, &far)
}

const FLOOD: usize = 5000;

/// Resident memory of a node's process, bytes.
fn resident(node: &NodeHandle<'_>) -> Result<u64> {
    let pid = node.pid()?.context("mesh-node does not run")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// CPU time of a node's process so far.
fn cpu(node: &NodeHandle<'_>) -> Result<Duration> {
    let pid = node.pid()?.context("mesh-node does not run")?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("stat")?;
    let ticks = |n: usize| fields.split_whitespace().nth(n).and_then(|word| word.parse::<u64>().ok());
    // utime and stime, fields 14 and 15, in hundredths of a second.
    Ok(Duration::from_millis(10 * (ticks(11).context("utime")? + ticks(12).context("stime")?)))
}

/// Out of file descriptors, a node neither spins nor goes blind: people can look at it, probes pass, and all is well
/// again as soon as descriptors are free.
#[test]
fn a_node_out_of_file_descriptors_stays_calm() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).mesh_arg("--open-files").mesh_arg("400").manifests(manifests()))?;
    let (stranger, near, node) = (bed.pod("outside/stranger")?, bed.pod("mesh/near")?, bed.node("node-1")?);
    let limit = Scrape::of(&node)?.count("process_max_fds", &[]);
    ensure!(limit == 400, "--open-files 400 gives a limit of {limit}");
    // Half of them say nothing to the tunnel, the others are idle on connections through the node.
    let idle = || {
        let port = |n| if n < 500 { 15008 } else { 7000 };
        let connect = |n| TcpStream::connect_timeout(&(near.ip(), port(n)).into(), Duration::from_secs(1));
        (0..1000).map(connect).collect::<Vec<_>>()
    };
    let crowd: Vec<_> = stranger.run_in_netns(idle)?.into_iter().flatten().collect();

    let (start, before) = (Instant::now(), cpu(&node)?);
    let lines = node.log()?.lines().count();
    let mut answers = 0;
    while start.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        let ready = node.run_in_netns(|| {
            let request = mesh_tests::http::Request::get("/healthz/ready");
            mesh_tests::http::fetch(([127, 0, 0, 1], 15021).into(), &request, Duration::from_secs(1))
        })?;
        ensure!(ready.as_ref().is_ok_and(|answer| answer.status == 200), "readiness: {ready:?}");
        ensure!(node.admin("/config_dump")?.contains("workloads"), "the admin port");
        ensure!(asked.elapsed() < Duration::from_secs(1), "the node answered after {:?}", asked.elapsed());
        answers += 1;
        thread::sleep(Duration::from_millis(100));
    }
    ensure!(answers > 5, "only {answers} rounds of questions in 3 s");
    let used = cpu(&node)?.saturating_sub(before);
    ensure!(used < start.elapsed() / 5, "{used:?} of CPU time in {:?} without work", start.elapsed());
    let scrape = Scrape::of(&node)?;
    let errors =
        scrape.count("mesh_accept_errors_total", &[]) + scrape.count("mesh_connections_shed_total", &[]);
    ensure!(errors > 0, "nothing tells that descriptors ran out: {:?}", scrape.refused());
    let said = node.log()?.lines().skip(lines).filter(|line| !line.contains("\taccess\t")).count();
    ensure!(said < 20, "{said} lines in 3 s:\n{}", node.log()?);

    drop(crowd);
    let released = Instant::now();
    eventually(&bed, &bed.pod("mesh/client")?, &at(&near), Dialled::served)?;
    eventually(&bed, &stranger, &at(&near), Dialled::served)?;
    ensure!(released.elapsed() < Duration::from_secs(1), "service came back after {:?}", released.elapsed());
    Ok(())
}
