//! Who is who: certificates that come and go while traffic flows, the CA on disk, tunnels that belong to one identity.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    bed::{Bed, PodHandle},
    scenario::{Dialled, at, dial, eventually, manifests, pod, start},
};

use crate::forge::{self, Ca, Client, leaf};

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
    held.iter_mut().for_each(mesh_tests::bed::Process::kill);
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
