//! Who is who: certificates that come and go while traffic flows, the CA on disk, tunnels that belong to one identity.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    bed::{Bed, Builder, PodHandle, Process},
    scenario::{Dialled, at, dial, eventually, logged, manifests, pod, start},
};

use crate::forge::{self, Ca, Client, End, Then, leaf};

const MARKER: &str = "rotation-marker-8143";

/// Tunnels that end at this pod.
fn tunnels(pod: &PodHandle) -> Result<BTreeSet<String>> {
    let mut peers = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let output = pod.exec(&["cat", table])?;
        for line in String::from_utf8_lossy(&output.stdout).lines().skip(1) {
            let mut words = line.split_whitespace().skip(1);
            let (local, remote, state) = (words.next(), words.next(), words.next());
            // Port 15008, ESTABLISHED.
            if local.is_some_and(|at| at.ends_with(":3AA0")) && state == Some("01") {
                peers.extend(remote.map(str::to_owned));
            }
        }
    }
    Ok(peers)
}

/// The serial number that the node's dump has for an identity.
fn dumped_serial(bed: &Bed, node: &str, account: &str) -> Result<String> {
    let dump: serde_json::Value = serde_json::from_str(&bed.node(node)?.admin("/config_dump")?)?;
    let id = format!("spiffe://cluster.local/ns/mesh/sa/{account}");
    let all = dump["certificates"].as_array().context("certificates")?;
    let one = all.iter().find(|one| one["identity"] == id).with_context(|| format!("no {id} in {all:?}"))?;
    Ok(one["certChain"][0]["serialNumber"].as_str().context("a serial number")?.to_owned())
}

/// Connects until told to stop; how often it worked, and how it failed.
fn traffic(from: &PodHandle, to: &str, until: Instant) -> (usize, Vec<String>) {
    let (mut served, mut failures) = (0, Vec::new());
    while Instant::now() < until {
        match dial(from, &[to, "--marker", MARKER, "--bytes", "1000"]) {
            Ok(seen) if seen.served() && seen.received == 1000 + MARKER.len() => served += 1,
            other => failures.push(format!("{other:?}")),
        }
    }
    (served, failures)
}

/// Certificates of 6 s under steady traffic: no connection fails, what is established stays, the serial number on the
/// wire changes again and again, old tunnels go away, and nothing is ever sent in the clear.
#[test]
fn certificates_rotate_under_traffic() -> Result<()> {
    let bed =
        start(Bed::builder().nodes(2).mesh_arg("--svid-lifetime").mesh_arg("6s").manifests(manifests()))?;
    let (client, near, far) = (bed.pod("mesh/client")?, bed.pod("mesh/near")?, bed.pod("mesh/far")?);
    let (stranger, to, tunnel) = (bed.pod("outside/stranger")?, at(&far), SocketAddr::new(far.ip(), 15008));
    let spy = Client::good(&Ca::stolen(&bed)?.issue(&leaf(&["spiffe://cluster.local/ns/mesh/sa/spy"])?)?);
    let wire = bed.capture("wire")?;
    let mut held = client.spawn(&["netprobe", "hold", &to])?;
    ensure!(held.line(Duration::from_secs(5))? == "holding 1", "{}", held.errors());

    let until = Instant::now() + Duration::from_secs(15);
    let (mut serials, mut in_dump, mut most) = (BTreeSet::new(), BTreeSet::new(), 0);
    let runs = thread::scope(|scope| -> Result<_> {
        let runs = [&client, &near].map(|from| scope.spawn(|| traffic(from, &to, until)));
        while Instant::now() < until {
            let (serial, end) = spy.serial(&stranger, tunnel)?;
            ensure!(end > SystemTime::now(), "the certificate {serial} on the wire has expired");
            serials.insert(serial);
            in_dump.insert(dumped_serial(&bed, "node-2", "far")?);
            most = most.max(tunnels(&far)?.len());
            thread::sleep(Duration::from_millis(200));
        }
        Ok(runs.map(|run| run.join().expect("traffic does not panic")))
    })?;
    for (served, failures) in runs {
        ensure!(failures.is_empty(), "{} of {served} failed: {:#?}", failures.len(), failures.first());
        ensure!(served > 20, "only {served} connections in 15 s");
    }
    ensure!(serials.len() >= 4, "one certificate each 3 s: {serials:?}");
    ensure!(!serials.is_disjoint(&in_dump), "the dump shows other certificates: {serials:?} {in_dump:?}");
    // Two clients with one tunnel for each of two threads, the same once more while one replaces the other, one for
    // the connection that is held, one for the spy.
    ensure!(most <= 10, "{most} tunnels at once: the old ones stay");
    let still = held.line(Duration::from_millis(1));
    ensure!(still.is_err(), "the established connection was cut: {still:?}");
    held.kill();
    bed.wait("the end of tunnels whose certificates have ended", Duration::from_secs(10), |_| {
        tunnels(&far).is_ok_and(|left| left.is_empty())
    })?;
    ensure!(dial(&client, &[&to])?.served(), "and a new tunnel is made for whoever comes");
    ensure!(!wire.overflowed() && !wire.is_empty(), "the capture has not seen everything");
    let seen = wire.find(MARKER.as_bytes());
    ensure!(seen.is_none(), "plaintext on the wire: {seen:?}\n{}", bed.node("node-1")?.log()?);
    Ok(())
}

/// What the control plane and its operator agree on.
const TERMS: [&str; 4] = ["--max-svid-lifetime", "6s", "--propagation", "6s"];

/// A step of a change of the root; whether it was time for it.
fn step(bed: &Bed, step: &str) -> Result<bool> {
    let program = std::env::current_exe()?;
    let program = program.ancestors().nth(2).context("a target directory")?.join("mesh-control");
    let mut command = Command::new(&program);
    command.args(["ca", "rotate", step]).args(TERMS).arg("--state").arg(bed.layout().state.join("mesh"));
    let output = command.output().with_context(|| program.display().to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() || said.contains("yet"), "{step}: {said}");
    Ok(output.status.success())
}

/// Begins, and takes each next step as soon as it is let; says how far it has come.
fn change_root(bed: &Bed) -> Result<()> {
    ensure!(step(bed, "begin")?, "a step that is always in time");
    for next in ["switch", "finish"] {
        let end = Instant::now() + Duration::from_secs(40);
        while !step(bed, next)? {
            ensure!(Instant::now() < end, "it is never the time to {next}");
            thread::sleep(Duration::from_millis(500));
        }
    }
    Ok(())
}

/// A credential of a peer, and whether `far` is content with it.
fn content(bed: &Bed, peer: &Client) -> Result<bool> {
    let (stranger, far) = (bed.pod("outside/stranger")?, bed.pod("mesh/far")?);
    let seen = peer.attempt(&stranger, SocketAddr::new(far.ip(), 15008), Then::Listen)?;
    Ok(matches!(seen.end, End::Served(_)))
}

/// From one root to the next while pods of both nodes connect to each other all the time, with certificates of 6 s, so
/// that there is a handshake every other second from each: none fails. Then the old root is worth nothing.
#[test]
fn the_root_changes_under_traffic() -> Result<()> {
    let bed = TERMS[..2].iter().fold(Bed::builder().nodes(2), |bed, arg| bed.control_arg(*arg));
    let bed = start(bed.manifests(manifests()))?;
    let (client, near, far) = (bed.pod("mesh/client")?, bed.pod("mesh/near")?, bed.pod("mesh/far")?);
    let spy = leaf(&["spiffe://cluster.local/ns/mesh/sa/spy"])?;
    let of_the_old_root = Client::good(&Ca::stolen(&bed)?.issue(&spy)?);
    ensure!(content(&bed, &of_the_old_root)?, "the first root is not trusted");
    let (old, tunnel) = (forge::file(&bed, "root-cert.pem")?, SocketAddr::new(far.ip(), 15008));
    let stranger = bed.pod("outside/stranger")?;
    let stop = AtomicBool::new(false);
    let (runs, serials) = thread::scope(|scope| -> Result<_> {
        let paths = [(&client, at(&far)), (&near, at(&far)), (&far, at(&near))];
        let stop = &stop;
        let runs = paths.map(|(from, to)| scope.spawn(move || while_not(stop, from, &to)));
        let serials = scope.spawn(|| -> Result<_> {
            let mut serials = BTreeSet::new();
            while !stop.load(Ordering::Relaxed) {
                serials.insert(of_the_old_root.serial(&stranger, tunnel)?.0);
                thread::sleep(Duration::from_millis(200));
            }
            Ok(serials)
        });
        let changed = change_root(&bed);
        // Until everybody has heard of the end, and has had a certificate since.
        thread::sleep(Duration::from_secs(8));
        stop.store(true, Ordering::Relaxed);
        let runs = runs.map(|run| run.join().expect("traffic does not panic"));
        changed?;
        Ok((runs, serials.join().expect("looking does not panic")?))
    })?;
    for (served, failures) in runs {
        ensure!(failures.is_empty(), "{} of {served} failed: {:#?}", failures.len(), failures.first());
        ensure!(served > 50, "only {served} connections");
    }
    ensure!(serials.len() >= 6, "one certificate each 3 s: {serials:?}");
    let new = forge::file(&bed, "root-cert.pem")?;
    ensure!(new != old && new.matches("BEGIN CERTIFICATE").count() == 1, "the new root alone is left: {new}");
    ensure!(!content(&bed, &of_the_old_root)?, "the old root is still trusted");
    ensure!(content(&bed, &Client::good(&Ca::stolen(&bed)?.issue(&spy)?))?, "the new root is not trusted");
    Ok(())
}

/// [`traffic`] until it is told to stop.
fn while_not(stop: &AtomicBool, from: &PodHandle, to: &str) -> (usize, Vec<String>) {
    let (mut served, mut failures) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let (more, failed) = traffic(from, to, Instant::now() + Duration::from_millis(1));
        served += more;
        failures.extend(failed);
    }
    (served, failures)
}

/// Writes the CA's revocation list in one piece, as its operator does.
fn publish_list(bed: &Bed, list: &str) -> Result<()> {
    let directory = bed.layout().state.join("mesh/ca");
    let fresh = directory.join("fresh");
    fs::write(&fresh, list)?;
    fs::rename(fresh, directory.join("ca-crl.pem")).context("the list")
}

/// How often node-1 has heard of another bundle.
fn lists_heard(bed: &Bed) -> Result<usize> {
    let log = bed.node("node-1")?.log()?;
    Ok(log.lines().filter(|line| line.contains("The trust bundle has changed")).count())
}

/// What a list of the CA names is refused by every node as soon as it is told of it, as a client and as a server; others
/// are as before, and what a newer list no longer names is good again.
#[test]
fn what_is_revoked_is_refused_as_soon_as_it_is_told() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let (client, near, to) = (bed.pod("mesh/client")?, bed.pod("mesh/near")?, at(&bed.pod("mesh/far")?));
    let ca = Ca::stolen(&bed)?;
    let peer = |account: &str, serial: &[u8]| -> Result<Client> {
        let mut params = leaf(&[&format!("spiffe://cluster.local/ns/mesh/sa/{account}")])?;
        params.serial_number = Some(rcgen::SerialNumber::from_slice(serial));
        Ok(Client::good(&ca.issue(&params)?))
    };
    let (good, bad) = (peer("good", &[0x11; 8])?, peer("bad", &[0x22; 8])?);
    ensure!(content(&bed, &good)? && content(&bed, &bad)?, "nothing is revoked yet");
    ensure!(dial(&client, &[&to])?.served(), "nothing is revoked yet");

    publish_list(&bed, &ca.revoke(&[&[0x22; 8]], 1)?)?;
    bed.wait("the end of what is revoked", Duration::from_secs(10), |bed| {
        content(bed, &bad).is_ok_and(|content| !content)
    })?;
    ensure!(content(&bed, &good)?, "others are as before");

    // Its own node does not renew it by itself; who has no tunnel to it yet gets none.
    let serial = dumped_serial(&bed, "node-2", "far")?;
    let bytes: Vec<u8> = (0..serial.len() / 2)
        .map(|at| u8::from_str_radix(&serial[2 * at..2 * at + 2], 16))
        .collect::<Result<_, _>>()?;
    let heard = lists_heard(&bed)?;
    publish_list(&bed, &ca.revoke(&[&[0x22; 8], &bytes], 2)?)?;
    bed.wait("the news on node-1", Duration::from_secs(10), |bed| {
        lists_heard(bed).is_ok_and(|now| now > heard)
    })?;
    let seen = dial(&near, &[&to])?;
    ensure!(seen.refused(), "a server that is revoked: {seen:?}");
    logged(&bed, "node-1", &["certificate", "revoked"])?;

    publish_list(&bed, &ca.revoke(&[], 3)?)?;
    bed.wait("the pardon", Duration::from_secs(10), |bed| content(bed, &bad).unwrap_or_default())?;
    eventually(&bed, &near, &to, Dialled::served)?;
    Ok(())
}

/// What runs under a certificate that is revoked ends within a second, whichever end of the tunnel has shown it, and is refused when
/// it comes again; what others have open goes on.
fn revocation_ends_what_is_open(bed: Builder) -> Result<()> {
    let bed = start(bed.nodes(2).manifests(manifests()))?;
    let ca = Ca::stolen(&bed)?;
    let hold = |from: &str, to: &str| -> Result<Process> {
        let mut held = bed.pod(from)?.spawn(&["netprobe", "hold", &at(&bed.pod(to)?)])?;
        ensure!(held.line(Duration::from_secs(5))? == "holding 1", "{from}: {}", held.errors());
        Ok(held)
    };
    let (mut client, mut server) = (hold("mesh/client", "mesh/far")?, hold("mesh/far", "mesh/near")?);
    let mut other = hold("mesh/near", "mesh/far")?;
    let bytes = |serial: &str| -> Result<Vec<u8>> {
        let byte = |at: usize| Ok(u8::from_str_radix(&serial[2 * at..2 * at + 2], 16)?);
        (0..serial.len() / 2).map(byte).collect()
    };
    let serial = bytes(&dumped_serial(&bed, "node-1", "client")?)?;
    publish_list(&bed, &ca.revoke(&[&serial], 1)?)?;
    let begun = Instant::now();
    client.line(Duration::from_secs(10)).context("what the client has open")?;
    let took = begun.elapsed();
    ensure!(took < Duration::from_millis(1500), "open for {took:?} after the revocation");
    for held in [&mut server, &mut other] {
        ensure!(held.line(Duration::from_millis(200)).is_err(), "what others have open has ended");
    }
    let far = bytes(&dumped_serial(&bed, "node-2", "far")?)?;
    publish_list(&bed, &ca.revoke(&[&serial, &far], 2)?)?;
    let begun = Instant::now();
    for (held, what) in [(&mut other, "to"), (&mut server, "from")] {
        held.line(Duration::from_secs(10)).with_context(|| format!("what is open {what} the server"))?;
        let took = begun.elapsed();
        ensure!(
            took < Duration::from_millis(1500),
            "open {what} the server for {took:?} after the revocation"
        );
    }
    for node in ["node-1", "node-2"] {
        logged(&bed, node, &["no longer accepted", "revoked"])?;
    }
    Ok(())
}

#[test]
fn what_is_open_ends_when_its_certificate_is_revoked() -> Result<()> {
    revocation_ends_what_is_open(Bed::builder())
}

#[test]
fn what_is_open_ends_when_its_certificate_is_revoked_embedded() -> Result<()> {
    revocation_ends_what_is_open(Bed::builder().embedded())
}

/// All files below a directory, with their modes.
fn files(directory: &Path, prefix: &str, all: &mut BTreeSet<(String, u32)>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            files(&entry.path(), &format!("{name}/"), all)?;
        } else {
            all.insert((name, entry.metadata()?.permissions().mode() & 0o777));
        }
    }
    Ok(())
}

/// Names as Istio's `cacerts` has them, the key for root alone, no key of a pod anywhere; and a node that starts again
/// is of the same mesh as before.
#[test]
fn the_ca_is_made_once_and_kept() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).embedded().manifests(manifests()))?;
    let (client, to) = (bed.pod("mesh/client")?, at(&bed.pod("mesh/far")?));
    ensure!(dial(&client, &[&to])?.served(), "two nodes share the CA of their state directory");
    let mut all = BTreeSet::new();
    files(&bed.layout().state.join("mesh"), "", &mut all)?;
    let names = ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"];
    let expected =
        names.iter().map(|name| (format!("ca/{name}"), 0o600)).chain([("ca.lock".to_owned(), 0o600)]);
    ensure!(all == expected.collect(), "files of the state directory: {all:?}");

    let content = || names.map(|name| forge::file(&bed, name).unwrap_or_default());
    let (before, serial) = (content(), dumped_serial(&bed, "node-2", "far")?);
    ensure!(before.iter().all(|text| text.starts_with("-----BEGIN ")), "PEM: {before:?}");
    bed.node("node-2")?.restart()?;
    eventually(&bed, &client, &to, Dialled::served).context("old and new certificates are of one mesh")?;
    bed.node("node-1")?.restart()?;
    eventually(&bed, &client, &to, Dialled::served)?;
    ensure!(content() == before, "the restart has made another CA");
    ensure!(dumped_serial(&bed, "node-2", "far")? != serial, "the keys of pods do not survive a restart");
    Ok(())
}

/// Two pods of one node never share a tunnel, whoever they are, and the far side knows each by its own name; the many
/// connections of one pod do share.
#[test]
fn tunnels_belong_to_one_pod_and_identity() -> Result<()> {
    let twin = pod("mesh", "twin", "node-1", &["sleep", "infinity"])
        .replace("serviceAccountName: twin", "serviceAccountName: client");
    let bed = start(Bed::builder().nodes(2).manifests(manifests() + &twin))?;
    let far = bed.pod("mesh/far")?;
    let to = at(&far);
    let mut held = Vec::new();
    for (number, name) in ["mesh/client", "mesh/near", "mesh/twin"].into_iter().enumerate() {
        let mut process = bed.pod(name)?.spawn(&["netprobe", "hold", &to])?;
        ensure!(process.line(Duration::from_secs(5))? == "holding 1", "{name}: {}", process.errors());
        held.push(process);
        let open = tunnels(&far)?;
        ensure!(open.len() == number + 1, "{} pods, tunnels: {open:?}", number + 1);
    }
    let mut crowd = bed.pod("mesh/client")?.spawn(&["netprobe", "hold", &to, "--count", "60"])?;
    ensure!(crowd.line(Duration::from_secs(10))? == "holding 60", "{}", crowd.errors());
    let open = tunnels(&far)?;
    // One for each data thread: with two cores one of them may be new.
    let threads = thread::available_parallelism()?.get();
    ensure!(open.len() < 3 + threads, "61 connections of one pod and two of others, tunnels: {open:?}");

    held.push(crowd);
    held.iter_mut().for_each(Process::kill);
    let node = bed.node("node-2")?;
    for (name, account) in [("client", "client"), ("near", "near"), ("twin", "client")] {
        let address = format!("src.addr={}:", bed.pod(&format!("mesh/{name}"))?.ip());
        let told = bed.wait("the far side's log", Duration::from_secs(5), |_| {
            let log = node.log().unwrap_or_default();
            let own: Vec<_> = log.lines().filter(|line| line.contains(&address)).collect();
            let id = format!("src.identity=\"spiffe://cluster.local/ns/mesh/sa/{account}\"");
            !own.is_empty() && own.iter().all(|line| line.contains(&id))
        });
        told.with_context(|| {
            format!("{name} should appear as {account} alone:\n{}", node.log().unwrap_or_default())
        })?;
    }
    Ok(())
}
