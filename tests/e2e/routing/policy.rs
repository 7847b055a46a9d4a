//! Policy is asked for requests as it is for connections: at the destination, of the client's own identity.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle, Process};
use mesh_tests::scenario::{logged, start};

use super::{apply, ask, ask_once, bookinfo, statuses, until};

const DENY: &str = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, \
     metadata: {name: reviews-not-for-sleep, namespace: default}, spec: {selector: {matchLabels: {app: reviews}}, \
     action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/sleep]}}]}]}}";

/// `sleep` is on one node and `sleep-2` on the other, so whatever the version is, it is near one and far from the other.
#[test]
fn who_may_not_connect_gets_no_answer_to_requests_either() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(bookinfo()?))?;
    apply(&bed, "bookinfo/networking/destination-rule-all.yaml")?;
    apply(&bed, "bookinfo/networking/virtual-service-all-v1.yaml")?;
    let sleepers = [bed.pod("default/sleep")?, bed.pod("default/sleep-2")?];
    let productpage = bed.pod("default/productpage")?;
    for client in sleepers.iter().chain([&productpage]) {
        let v1 = |answers: Vec<super::Answer>| answers.iter().all(|answer| answer.version() == "1");
        bed.wait("the rule", Duration::from_secs(5), |_| ask(client, &[MANY]).is_ok_and(v1))?;
    }
    a_later_policy_cuts(&bed, &sleepers).context("a policy that comes later")?;

    let page = ask(&productpage, &[MANY])?;
    ensure!(statuses(&page).keys().eq([&200]), "other identities go on: {:?}", statuses(&page));
    for client in &sleepers {
        let answers = ask(client, &[MANY])?;
        ensure!(statuses(&answers).keys().eq([&503]), "{}: {:?}", client.name(), statuses(&answers));
        let answer = ask_once(client, &[ONE])?;
        ensure!(answer.body.starts_with("upstream connect error"), "{answer:?}");
        // A refusal is final: asking again would only ask for the same.
        let log = bed.node(&client.status().node)?.log()?;
        ensure!(!log.contains("503 UF,URX"), "{}: a refusal was taken for a failure", client.name());
    }
    let reviews = bed.pod("default/reviews-v1")?.status().node.clone();
    logged(&bed, &reviews, &["AuthorizationPolicy default/reviews-not-for-sleep"])?;

    bed.delete("AuthorizationPolicy", "default", "reviews-not-for-sleep")?;
    for client in &sleepers {
        until(&bed, client, &[ONE], |answer| answer.status == 200)?;
    }
    Ok(())
}

/// Requests go on over connections that are kept when the policy comes: within a second no more is answered.
fn a_later_policy_cuts(bed: &Bed, clients: &[PodHandle; 2]) -> Result<()> {
    let mut loads = Vec::new();
    for client in clients {
        let mut load = client.spawn(&["curl", "-sN", "-w", "\n#%{http_code}\n", ENDLESS])?;
        for _ in 0..50 {
            let status = status(&mut load)?;
            ensure!(status == "200", "{}: {status}", client.name());
        }
        loads.push(load);
    }
    let changed = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let watched: Vec<_> =
            loads.iter_mut().map(|load| scope.spawn(move || last_good(load, changed))).collect();
        bed.apply(DENY)?;
        for (watched, client) in watched.into_iter().zip(clients) {
            let took = watched.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
            ensure!(took < Duration::from_secs(1), "{}: it took {took:?}", client.name());
        }
        Ok(())
    })
}

/// When the last good answer came, once there have been many others.
fn last_good(load: &mut Process, since: Instant) -> Result<Duration> {
    let (mut good, mut refused) = (Duration::ZERO, 0);
    while refused < 10 {
        match status(load)?.as_str() {
            "200" => {
                ensure!(refused == 0, "an answer after {refused} refusals");
                good = since.elapsed();
            }
            "503" => refused += 1,
            other => anyhow::bail!("status {other}"),
        }
        ensure!(since.elapsed() < Duration::from_secs(5), "still answered");
    }
    Ok(good)
}

/// The next status that `curl` prints; bodies are skipped.
fn status(load: &mut Process) -> Result<String> {
    loop {
        if let Some(status) = load.line(Duration::from_secs(3))?.strip_prefix('#') {
            return Ok(status.to_owned());
        }
    }
}

const ONE: &str = "http://reviews:9080/reviews/0";
const MANY: &str = "http://reviews:9080/reviews/[1-20]";
const ENDLESS: &str = "http://reviews:9080/reviews/[1-1000000]";
