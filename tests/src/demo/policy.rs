//! Step 6: policies decide who may call whom. Step 7: plaintext is admitted, or is not.

use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::curl::Fetched;
use super::page::{PAGE, forwarded};
use super::tour::{Tour, ended, time};
use crate::bed::PodHandle;
use crate::tool::ClientReport;

/// Two policies come and go: one that names who may, one that names who may not.
pub(super) fn authorization(tour: &mut Tour) -> Result<()> {
    tour.console.say(
        "A policy is a file of Kubernetes YAML; the nodes follow the directory of manifests. The caller is who its \
         certificate says, whatever address or header it sends.",
    );
    let sleep = tour.pod("default/sleep")?;
    let before = tour.curl(&sleep, &[RATINGS])?;
    tour.show_command("default/sleep", &format!("curl {RATINGS}"));
    tour.check("without policies `sleep` may call `ratings`", before.good(), &before.outcome())?;
    let open = open_connection(tour, &sleep)?;
    tour.console.space();
    allow(tour, &sleep, open)?;
    tour.console.space();
    deny(tour, &sleep)?;
    tour.console.space();
    let removed = Instant::now();
    tour.bed.delete("AuthorizationPolicy", "default", "ratings-from-reviews")?;
    tour.bed.delete("AuthorizationPolicy", "default", "details-not-for-sleep")?;
    let fetched = tour.until(&sleep, &[RATINGS], Fetched::good)?;
    let took = removed.elapsed();
    let seen = format!("{}; {} after the files were removed", fetched.outcome(), time(took));
    tour.check_effect("without the policies `sleep` is admitted again", took, fetched.good(), &seen)
}

/// A connection that has had one answer and stays open; what its client printed at its end, and when that was.
type Open = JoinHandle<Result<(Vec<String>, Instant)>>;

fn open_connection(tour: &mut Tour, from: &PodHandle) -> Result<Open> {
    let to: SocketAddr = (tour.bed.status().service_ip("default/ratings")?, 9080).into();
    let request = "GET /ratings/0 HTTP/1.1\r\nHost: ratings\r\n\r\n";
    let address = to.to_string();
    let process =
        from.spawn(&["testbed", "tool", "client", &address, "--send", request, "--timeout", "30000"])?;
    let node = from.status().node.clone();
    let admin = tour.bed.status().node(&node)?.admin.clone().context("no admin page")?;
    tour.console.command(&[&format!("curl -s http://{admin}/connections")]);
    let answered = |tour: &Tour| -> Result<Option<u64>> {
        let dump = tour.admin(&node, "/config_dump")?;
        let pods = dump["workloadState"].as_object().context("no pods")?;
        let live = pods.values().filter_map(|pod| pod["connections"]["outbound"].as_array()).flatten();
        let ours = live.filter(|c| c["srcIdentity"].as_str().is_some_and(|id| id.ends_with("/sa/sleep")));
        Ok(ours.filter_map(|c| c["bytesReceived"].as_u64()).find(|bytes| *bytes > 0))
    };
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut bytes = None;
    while bytes.is_none() && Instant::now() < deadline {
        bytes = answered(tour)?;
    }
    let seen = bytes
        .map_or_else(|| "no such connection".to_owned(), |bytes| format!("{bytes} bytes received so far"));
    tour.check(
        "one connection from `sleep` to `ratings` stays open, its request answered",
        bytes.is_some(),
        &seen,
    )?;
    // The end is waited for from now on, so that it is noted when it comes.
    Ok(thread::spawn(move || ended(process)))
}

fn allow(tour: &mut Tour, sleep: &PodHandle, open: Open) -> Result<()> {
    tour.console.say("`ratings` for `reviews` only:");
    let mark = tour.mark()?;
    tour.show_apply("policies/ratings-from-reviews.yaml");
    let policy = tour.sample("policies/ratings-from-reviews.yaml")?;
    let written = Instant::now();
    tour.bed.apply(&policy)?;
    let fetched = tour.until(sleep, &[RATINGS], Fetched::refused)?;
    let took = written.elapsed();
    let seen = format!("{}; {} after the file was written", fetched.outcome(), time(took));
    tour.check_effect("`sleep` is refused", took, fetched.refused(), &seen)?;
    tour.curl(sleep, &[RATINGS])?;
    let line =
        tour.logged(&mark, |access| access.inbound() && access.get("error").starts_with("no ALLOW policy"))?;
    tour.check_log("the node of `ratings` says so in its access log", line.as_ref())?;
    cut(tour, open, written)?;
    let line = tour.logged(&mark, |access| access.get("error").starts_with("cut after a "))?;
    tour.check_log("and that is in the access log, too", line.as_ref())?;
    for version in ["v2", "v3"] {
        let name = format!("default/reviews-{version}");
        let caller = tour.pod(&name)?;
        tour.show_command(&name, &format!("curl {RATINGS}"));
        let fetched = tour.curl(&caller, &[RATINGS])?;
        tour.check(&format!("`reviews` {version} is admitted"), fetched.good(), &fetched.outcome())?;
    }
    let page = tour.until(sleep, &[PAGE], |page| page.stars() != "none")?;
    let seen = format!("{}, {} stars", page.outcome(), page.stars());
    tour.check("the page still has its stars", ["black", "red"].contains(&page.stars()), &seen)
}

/// What was permitted once is not permitted for ever.
fn cut(tour: &mut Tour, open: Open, written: Instant) -> Result<()> {
    let ended = open.join().map_err(|_| anyhow!("the waiting thread has panicked"))?;
    let (lines, at) = ended.context("the open connection was not cut")?;
    let report: ClientReport = serde_json::from_str(&lines.concat())?;
    let took = at.saturating_duration_since(written);
    let answered = report.text.starts_with("HTTP/1.1 200");
    let seen = format!("1 request answered, then {} {} after the file was written", report.end, time(took));
    let holds = answered && report.end == "reset";
    tour.check_effect("the connection that was open is cut as well,", took, holds, &seen)
}

fn deny(tour: &mut Tour, sleep: &PodHandle) -> Result<()> {
    tour.console.say("`details` for all but `sleep`:");
    let mark = tour.mark()?;
    tour.show_apply("policies/details-not-for-sleep.yaml");
    let policy = tour.sample("policies/details-not-for-sleep.yaml")?;
    let written = Instant::now();
    tour.bed.apply(&policy)?;
    let fetched = tour.until(sleep, &[DETAILS], Fetched::refused)?;
    let took = written.elapsed();
    let seen = format!("{}; {} after the file was written", fetched.outcome(), time(took));
    tour.check_effect("`sleep` is refused", took, fetched.refused(), &seen)?;
    tour.curl(sleep, &[DETAILS])?;
    let named = "AuthorizationPolicy default/details-not-for-sleep";
    let line = tour.logged(&mark, |access| access.inbound() && access.get("error").starts_with(named))?;
    tour.check_log("the access log names the policy", line.as_ref())?;
    let productpage = tour.pod("default/productpage")?;
    tour.show_command("default/productpage", &format!("curl {DETAILS}"));
    let fetched = tour.curl(&productpage, &[DETAILS])?;
    tour.check("`productpage` is admitted", fetched.good(), &fetched.outcome())
}

/// The client outside is admitted, then not, then again.
pub(super) fn strict(tour: &mut Tour) -> Result<()> {
    tour.console.say(
        "Without a PeerAuthentication the mesh is PERMISSIVE: pods take plaintext from outside, so that services can \
         move into the mesh one by one. STRICT ends that.",
    );
    let client = tour.pod("outside/client")?;
    let service = tour.bed.status().service_ip("default/productpage")?;
    let (url, health) =
        (format!("http://{service}:9080/productpage"), format!("http://{service}:9080/health"));
    tour.show_command("outside/client", &format!("curl {url}"));
    let mark = tour.mark()?;
    let fetched = tour.curl(&client, &[&url])?;
    tour.check("PERMISSIVE: the client outside the mesh gets the page", fetched.good(), &fetched.outcome())?;
    let line = tour.logged(&mark, |access| access.inbound() && access.get("src.workload") == "client")?;
    let nameless = line.as_ref().filter(|line| line.get("src.identity").is_empty());
    tour.check_log("the access log has no identity for it", nameless)?;
    tour.console.space();
    refuse(tour, &client, &health)?;
    tour.console.space();
    let removed = Instant::now();
    tour.bed.delete("PeerAuthentication", "default", "default")?;
    let fetched = tour.until(&client, &[&health], Fetched::good)?;
    let took = removed.elapsed();
    let seen = format!("{}; {} after the file was removed", fetched.outcome(), time(took));
    tour.check_effect("without the policy it is admitted again", took, fetched.good(), &seen)
}

fn refuse(tour: &mut Tour, client: &PodHandle, health: &str) -> Result<()> {
    let mark = tour.mark()?;
    tour.show_apply("policies/strict.yaml");
    tour.show_command("outside/client", &format!("curl {health}"));
    let policy = tour.sample("policies/strict.yaml")?;
    let written = Instant::now();
    tour.bed.apply(&policy)?;
    let fetched = tour.until(client, &[health], Fetched::refused)?;
    let took = written.elapsed();
    let seen = format!("{}; {} after the file was written", fetched.outcome(), time(took));
    tour.check_effect("STRICT: the client outside the mesh is refused", took, fetched.refused(), &seen)?;
    tour.curl(client, &[health])?;
    let named = "PeerAuthentication default/default is STRICT";
    let line = tour.logged(&mark, |access| access.inbound() && access.get("error").starts_with(named))?;
    tour.check_log("the access log names the policy", line.as_ref())?;
    let page = tour.page.context("the page has no address on the machine")?;
    let from_machine = forwarded(page);
    tour.console.command(&[&format!("curl http://{page}/productpage")]);
    let seen = from_machine.outcome();
    tour.check("so is the machine itself, which is no part of the mesh", from_machine.refused(), &seen)?;
    let sleep = tour.pod("default/sleep")?;
    tour.show_command("default/sleep", &format!("curl {PAGE}"));
    let inside = tour.curl(&sleep, &[PAGE])?;
    let whole = inside.good() && inside.stars() != "unavailable" && !inside.reviewer_pod().is_empty();
    tour.check("inside the mesh the page works", whole, &inside.outcome())?;
    ensure!(tour.pods("default/").iter().all(|pod| pod.ready), "a pod has lost its readiness under STRICT");
    Ok(())
}

const RATINGS: &str = "http://ratings:9080/ratings/0";
const DETAILS: &str = "http://details:9080/details/0";
