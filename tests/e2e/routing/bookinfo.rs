//! The tutorials' Bookinfo: versions, users, shares, faults and mirrors.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle};
use mesh_tests::scenario::{logged, start};

use super::{Answer, apply, ask, ask_once, bookinfo, is_share, sample, until, versions};
use crate::scrape::{Scrape, counted};

/// What is done on the bed, from `sleep`.
type Step = fn(&Bed, &PodHandle) -> Result<()>;

/// The tutorials in the order in which they are read, on one bed.
#[test]
fn the_tutorials_work_as_they_say() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(bookinfo()?))?;
    let sleep = bed.pod("default/sleep")?;
    let steps: [(&str, Step); 9] = [
        ("everything to v1", all_to_v1),
        ("jason sees v2", jason_sees_v2),
        ("halves", halves),
        ("the canary", canary),
        ("a change under load", change_under_load),
        ("the mirror", mirror),
        ("a fault for one caller", fault_by_source),
        ("the abort", abort),
        ("the delay", delay),
    ];
    for (name, step) in steps {
        step(&bed, &sleep).with_context(|| name.to_owned())?;
    }
    Ok(())
}

fn all_to_v1(bed: &Bed, sleep: &PodHandle) -> Result<()> {
    // Without a rule nothing is looked into, and connections are spread over all versions.
    ensure!(ask_once(sleep, &[REVIEWS])?.status == 200);
    let before = Scrape::of(&bed.node("node-1")?)?.count(REQUESTS, &[]);
    ensure!(before == 0, "{before} requests were told apart without a rule that needs it");

    apply(bed, "bookinfo/networking/destination-rule-all.yaml")?;
    apply(bed, "bookinfo/networking/virtual-service-all-v1.yaml")?;
    for client in ["default/sleep", "default/sleep-2"] {
        let client = bed.pod(client)?;
        routed(bed, &client)?;
        let seen = ask(&client, &[&many(100)])?;
        ensure!(versions(&seen)?.keys().eq([&"1"]), "{:?}", versions(&seen));
    }
    let labels = [
        ("reporter", "source"),
        ("source_workload", "sleep"),
        ("source_workload_namespace", "default"),
        ("source_principal", "spiffe://cluster.local/ns/default/sa/sleep"),
        ("source_app", "sleep"),
        ("destination_workload", "reviews-v1"),
        ("destination_principal", "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"),
        ("destination_app", "reviews"),
        ("destination_version", "v1"),
        ("destination_service", "reviews.default.svc.cluster.local"),
        ("destination_service_name", "reviews"),
        ("destination_service_namespace", "default"),
        ("request_protocol", "http"),
        ("response_code", "200"),
        ("response_flags", "-"),
        ("connection_security_policy", "mutual_tls"),
    ];
    counted(&bed.node("node-1")?, REQUESTS, &labels, |count| count >= 100)?;
    let elsewhere = Scrape::of(&bed.node("node-2")?)?.count(REQUESTS, &[("source_workload", "sleep")]);
    ensure!(
        elsewhere == 0,
        "requests are counted where they are sent, not also where they arrive: {elsewhere}"
    );
    let page = page(&bed.pod("default/productpage")?, "mary")?;
    ensure!(!page.body.contains("class=\"stars"), "v1 has no stars: {}", page.body);
    Ok(())
}

fn jason_sees_v2(bed: &Bed, sleep: &PodHandle) -> Result<()> {
    apply(bed, "bookinfo/networking/virtual-service-reviews-test-v2.yaml")?;
    until(bed, sleep, &[REVIEWS, "-H", "end-user: jason"], |answer| answer.version() == "2")?;
    let jason = ask(sleep, &[&many(50), "-H", "end-user: jason"])?;
    ensure!(versions(&jason)?.keys().eq([&"2"]), "{:?}", versions(&jason));
    for other in ["end-user: mary", "end-user: Jason", "end-user: jason2", "x-user: jason"] {
        let other = ask(sleep, &[&many(20), "-H", other])?;
        ensure!(versions(&other)?.keys().eq([&"1"]), "{:?}", versions(&other));
    }
    // The page hands the user on.
    let productpage = bed.pod("default/productpage")?;
    until(bed, &productpage, &[PAGE, "-b", "session=jason"], |page| page.body.contains("stars black"))?;
    ensure!(!page(&productpage, "mary")?.body.contains("class=\"stars"));
    Ok(())
}

fn halves(bed: &Bed, sleep: &PodHandle) -> Result<()> {
    apply(bed, "bookinfo/networking/virtual-service-reviews-50-v3.yaml")?;
    until(bed, sleep, &[REVIEWS], |answer| answer.version() == "3")?;
    split(sleep, [("1", 50.0), ("3", 50.0)])
}

fn canary(bed: &Bed, sleep: &PodHandle) -> Result<()> {
    apply(bed, "bookinfo/networking/virtual-service-reviews-90-10.yaml")?;
    until(bed, sleep, &[REVIEWS], |answer| answer.version() == "2")?;
    split(sleep, [("1", 90.0), ("2", 10.0)])
}

fn split(sleep: &PodHandle, shares: [(&str, f64); 2]) -> Result<()> {
    let answers = ask(sleep, &[&many(400)])?;
    let seen = versions(&answers)?;
    let fits =
        |(version, percent): &(&str, f64)| is_share(seen.get(version).copied().unwrap_or(0), 400, *percent);
    ensure!(seen.len() == 2 && shares.iter().all(fits), "{shares:?}: {seen:?}");
    Ok(())
}

/// Requests go on over one connection while the rule changes: within a second they go elsewhere, and none fails.
fn change_under_load(bed: &Bed, sleep: &PodHandle) -> Result<()> {
    apply(bed, "bookinfo/networking/virtual-service-all-v1.yaml")?;
    routed(bed, sleep)?;
    let url = many(100_000);
    let words = ["curl", "-sN", "-w", "\n#%{http_code}\n", &url];
    let mut load = sleep.spawn(&words)?;
    let second = Duration::from_secs(1);
    for _ in 0..100 {
        load.line(second)?;
    }
    let changed = Instant::now();
    let change = std::thread::scope(|scope| -> Result<(Duration, usize)> {
        let applied = scope.spawn(|| apply(bed, "bookinfo/networking/virtual-service-reviews-v3.yaml"));
        let (mut last_old, mut new) = (Duration::ZERO, 0);
        while new < 500 {
            let line = load.line(second)?;
            match line.strip_prefix('#') {
                Some(status) => ensure!(status == "200", "a request failed: {status}"),
                None if line.contains("reviews-v3-") => new += 1,
                None => {
                    ensure!(new == 0, "the old version again: {line}");
                    last_old = changed.elapsed();
                }
            }
            ensure!(changed.elapsed() < 5 * second, "the change does not take effect");
        }
        applied.join().map_err(|_| anyhow::anyhow!("applying panicked"))??;
        Ok((last_old, new))
    });
    let (took, _) = change?;
    ensure!(took < second, "it took {took:?}");
    Ok(())
}

/// v2 asks for ratings and v1 does not: what ratings are asked for, v2 has had a copy of.
fn mirror(bed: &Bed, sleep: &PodHandle) -> Result<()> {
    let copies = |bed: &Bed| -> Result<i64> {
        let labels = [
            ("source_workload", "reviews-v2"),
            ("destination_workload", "ratings-v1"),
            ("response_code", "200"),
        ];
        let nodes =
            ["node-1", "node-2"].map(|node| Ok(Scrape::of(&bed.node(node)?)?.count(REQUESTS, &labels)));
        nodes.into_iter().sum()
    };
    apply(bed, "bookinfo/networking/virtual-service-reviews-mirror-v2.yaml")?;
    until(bed, sleep, &[REVIEWS], |answer| answer.version() == "1")?;
    bed.wait("the last copies of before", Duration::from_secs(2), |bed| copies(bed).is_ok_and(|n| n > 0))?;
    std::thread::sleep(Duration::from_millis(100));
    let before = copies(bed)?;
    let answers = ask(sleep, &[&many(100)])?;
    ensure!(versions(&answers)?.keys().eq([&"1"]), "answers are those of v1: {:?}", versions(&answers));
    let mut seen = 0;
    let all = bed.wait("a copy of each request", Duration::from_secs(3), |bed| {
        seen = copies(bed).unwrap_or(0) - before;
        seen >= 100
    });
    all.with_context(|| format!("{seen} copies"))?;
    ensure!(seen == 100, "{seen} copies of 100 requests");
    Ok(())
}

/// Only the caller with the labels of the rule is hurt.
fn fault_by_source(bed: &Bed, _: &PodHandle) -> Result<()> {
    apply(bed, "chaos/ratings-abort-for-reviews-v2.yaml")?;
    let victim = bed.pod("default/reviews-v2")?;
    let hurt = until(bed, &victim, &[RATINGS], |answer| answer.status == 400)?;
    ensure!(hurt.body == "fault filter abort", "{hurt:?}");
    for other in ["default/reviews-v1", "default/reviews-v3", "default/sleep"] {
        let answers = ask(&bed.pod(other)?, &["http://ratings:9080/ratings/[1-20]"])?;
        ensure!(answers.iter().all(|answer| answer.status == 200), "{other}: {answers:?}");
    }
    let labels = [("source_workload", "reviews-v2"), ("response_code", "400"), ("response_flags", "FI")];
    counted(&bed.node(&victim.status().node)?, REQUESTS, &labels, |count| count > 0)?;
    Ok(())
}

fn abort(bed: &Bed, sleep: &PodHandle) -> Result<()> {
    apply(bed, "bookinfo/networking/virtual-service-reviews-test-v2.yaml")?;
    apply(bed, "bookinfo/networking/virtual-service-ratings-test-abort.yaml")?;
    let jason = until(bed, sleep, &[RATINGS, "-H", "end-user: jason"], |answer| answer.status == 500)?;
    ensure!(jason.body == "fault filter abort", "{jason:?}");
    ensure!(ask_once(sleep, &[RATINGS])?.status == 200);
    let productpage = bed.pod("default/productpage")?;
    let sorry = "Ratings service is currently unavailable";
    let jason = until(bed, &productpage, &[PAGE, "-b", "session=jason"], |page| page.body.contains(sorry))?;
    ensure!(jason.body.contains("served by: <u>reviews-v2-"), "{}", jason.body);
    ensure!(!page(&productpage, "mary")?.body.contains(sorry));
    Ok(())
}

/// The seven seconds of the sample, and the wrong timeout that they bring to light: the page waits three seconds twice.
fn delay(bed: &Bed, sleep: &PodHandle) -> Result<()> {
    // Less at first, to see when it has reached the nodes.
    let delay = sample("bookinfo/networking/virtual-service-ratings-test-delay.yaml")?;
    bed.apply(&delay.replace("7s", "0.5s"))?;
    let slow = |answer: &Answer| answer.status == 200 && (0.5..2.0).contains(&answer.time);
    until(bed, sleep, &[RATINGS, "-H", "end-user: jason"], slow)?;
    bed.apply(&delay)?;
    let late = |answer: &Answer| answer.time > 2.0;
    let productpage = bed.pod("default/productpage")?;
    std::thread::scope(|scope| -> Result<()> {
        let direct = scope.spawn(|| until(bed, sleep, &[RATINGS, "-H", "end-user: jason"], late));
        let page = until(bed, &productpage, &[PAGE, "-b", "session=jason"], late)?;
        ensure!(page.body.contains("Error fetching product reviews!"), "{}", page.body);
        ensure!((6.0..7.0).contains(&page.time), "two times three seconds: {}", page.time);
        let direct = direct.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
        ensure!(direct.status == 200 && (7.0..8.0).contains(&direct.time), "{direct:?}");
        Ok(())
    })?;
    let mary = page(&productpage, "mary")?;
    ensure!(mary.time < 1.0 && mary.body.contains("served by: <u>reviews-v1-"), "{mary:?}");
    logged(bed, "node-1", &["GET /ratings/0", " 200 DI "])
}

/// Waits until requests of `client` go to v1 only.
fn routed(bed: &Bed, client: &PodHandle) -> Result<()> {
    bed.wait("the rule to hold", Duration::from_secs(5), |_| {
        // Connections are spread, so several are needed to see that none goes elsewhere.
        (0..4).all(|_| ask_once(client, &[REVIEWS]).is_ok_and(|answer| answer.version() == "1"))
            && ask(client, &[&many(20)])
                .is_ok_and(|answers| versions(&answers).is_ok_and(|seen| seen.keys().eq([&"1"])))
    })?;
    Ok(())
}

fn page(productpage: &PodHandle, user: &str) -> Result<Answer> {
    ask_once(productpage, &[PAGE, "-b", &format!("session={user}")])
}

fn many(requests: u32) -> String {
    format!("http://reviews:9080/reviews/[1-{requests}]")
}

const REVIEWS: &str = "http://reviews:9080/reviews/0";
const REQUESTS: &str = "istio_requests_total";
const RATINGS: &str = "http://ratings:9080/ratings/0";
const PAGE: &str = "http://productpage:9080/productpage";
