//! Step 8: requests go where rules say. Step 9: faults on purpose, and a circuit breaker.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::console::count;
use super::curl::Fetched;
use super::page::PAGE;
use super::tour::{Tour, time};
use crate::bed::PodHandle;

/// A canary, then a version for one user.
pub(super) fn versions(tour: &mut Tour) -> Result<()> {
    tour.console.say(
        "So far connections were bytes. Where a VirtualService or DestinationRule is about a service, the client's \
         node tells requests apart and decides for each: these are Istio's own samples, and its own metrics.",
    );
    let sleep = tour.pod("default/sleep")?;
    tour.apply("networking/destination-rule-all.yaml")?;
    canary(tour, &sleep)?;
    tour.console.space();
    one_user(tour, &sleep)
}

/// Ninety of a hundred, by the count of the node.
fn canary(tour: &mut Tour, sleep: &PodHandle) -> Result<()> {
    let written = tour.apply("networking/virtual-service-reviews-90-10.yaml")?;
    let to = [("source_workload", "sleep"), ("destination_service_name", "reviews")];
    // A node counts requests once it tells them apart.
    let before = requests(tour, &to)?;
    let mut first = Fetched::default();
    while requests(tour, &to)? == before && written.elapsed() < PATIENCE {
        first = tour.curl(sleep, &[REVIEWS])?;
    }
    let took = written.elapsed();
    let seen = format!("{}; {} after the file was written", first.outcome(), time(took));
    tour.check_effect("requests to `reviews` are told apart", took, first.good(), &seen)?;

    let url = format!("{REVIEWS}?request=[1-{CANARY}]");
    tour.show_command("default/sleep", &format!("curl -s '{url}'"));
    let metrics = "istio_requests_total{source_workload=\"sleep\",destination_workload=\"reviews-v…\"}";
    let of = |version| [to[0], ("destination_workload", version), ("response_code", "200")];
    let counted = |tour: &Tour| -> Result<Vec<u64>> {
        VERSIONS.iter().map(|version| requests(tour, &of(version))).collect()
    };
    let before = counted(tour)?;
    tour.curl_within(sleep, "30", &[&url])?;
    let after = counted(tour)?;
    let seen: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    let share = |count: u64| format!("{}.{} %", count * 100 / CANARY, count * 1000 / CANARY % 10);
    let rows = VERSIONS.iter().zip(&seen);
    let rows: Vec<Vec<String>> =
        rows.map(|(version, count)| vec![(*version).to_owned(), count.to_string(), share(*count)]).collect();
    tour.console.table(&["DESTINATION_WORKLOAD", "REQUESTS", "SHARE"], &rows);
    tour.console.quote(&format!("from {metrics} of the nodes"));
    // Five standard deviations either way.
    let holds = matches!(seen.as_slice(), [v1, v2, 0] if v1 + v2 == CANARY && (50..=150).contains(v2));
    let seen = seen.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    tour.check(&format!("about {} of {CANARY} for v2, the others for v1", CANARY / 10), holds, &seen)
}

fn one_user(tour: &mut Tour, sleep: &PodHandle) -> Result<()> {
    tour.console.say("And v2 for the user `jason` alone:");
    let written = tour.apply("networking/virtual-service-reviews-test-v2.yaml")?;
    let from_v2 = |answer: &Fetched| answer.body.contains("\"podname\":\"reviews-v2-");
    let fetched = tour.until(sleep, &["-H", "end-user: jason", REVIEWS], from_v2)?;
    let took = written.elapsed();
    let seen = format!("{}; {} after the file was written", fetched.outcome(), time(took));
    tour.check_effect("requests with `end-user: jason` go to v2", took, from_v2(&fetched), &seen)?;
    for (user, stars) in [("jason", "black"), ("mary", "none")] {
        let page = tour.until(
            sleep,
            &["-b", &session(user), PAGE],
            match stars {
                "black" => |page: &Fetched| page.stars() == "black",
                _ => |page: &Fetched| page.good() && page.stars() == "none",
            },
        )?;
        tour.show_command("default/sleep", &format!("curl -b session={user} {PAGE}"));
        let seen = format!("{}, stars: {}, {}", page.outcome(), page.stars(), page.reviewer_pod());
        tour.check(
            &format!("logged in as {user}: the page, with stars: {stars}"),
            page.stars() == stars,
            &seen,
        )?;
    }
    Ok(())
}

/// A delay that shows a bug of Bookinfo, an abort, and what is too much for a service.
pub(super) fn faults(tour: &mut Tour) -> Result<()> {
    tour.console
        .say("Faults are put where they hurt nobody else: ratings are seven seconds late, for `jason`.");
    let sleep = tour.pod("default/sleep")?;
    delay(tour, &sleep)?;
    tour.console.space();
    abort(tour, &sleep)?;
    tour.console.space();
    breaker(tour, &sleep)?;
    tour.console.space();
    clean(tour, &sleep)
}

fn delay(tour: &mut Tour, sleep: &PodHandle) -> Result<()> {
    tour.apply("networking/virtual-service-ratings-test-delay.yaml")?;
    // A second is not enough for the request, and enough for the rule.
    tour.until(sleep, &["-H", "end-user: jason", RATINGS], Fetched::refused)?;
    let flag = [("destination_service_name", "ratings"), ("response_flags", "DI")];
    let before = requests(tour, &flag)?;
    let mut pages = Vec::new();
    for user in ["jason", "mary"] {
        tour.show_command("default/sleep", &format!("curl -b session={user} {PAGE}"));
        let asked = Instant::now();
        let page = tour.curl_within(sleep, "10", &["-b", &session(user), PAGE])?;
        pages.push((page, asked.elapsed()));
    }
    let [(jason, slow), (mary, fast)] = pages.try_into().ok().context("two pages")?;
    let sorry = "Error fetching product reviews!";
    let missing =
        jason.good() && jason.body.contains(sorry) && *SLOW_PAGE.start() < slow && slow < *SLOW_PAGE.end();
    let seen = format!(
        "{}, {:?}, {}",
        jason.outcome(),
        if jason.body.contains(sorry) { sorry } else { "" },
        time(slow)
    );
    tour.check(
        "jason's page gives up on reviews after two times three seconds: a wrong timeout comes to light",
        missing,
        &seen,
    )?;
    let seen = format!("{}, {}", mary.outcome(), time(fast));
    let holds = mary.good() && !mary.body.contains(sorry) && fast < Duration::from_secs(1);
    tour.check("mary's page is as fast as ever", holds, &seen)?;
    // They are counted when they are over, after the page has gone.
    let deadline = Instant::now() + 2 * PATIENCE;
    let mut late = 0;
    while late < 2 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
        late = requests(tour, &flag)? - before;
    }
    let seen = format!("{} with response_flags=\"DI\"", count(late, "request"));
    tour.check("the nodes have counted the delay of both tries", late >= 2, &seen)
}

fn abort(tour: &mut Tour, sleep: &PodHandle) -> Result<()> {
    tour.console.say("Now they fail at once:");
    let written = tour.apply("networking/virtual-service-ratings-test-abort.yaml")?;
    let failed = |answer: &Fetched| answer.status == Some(500);
    // The rule before this one would hold a request for seven seconds.
    let fetched = tour.until(sleep, &["--max-time", "0.2", "-H", "end-user: jason", RATINGS], failed)?;
    let took = written.elapsed();
    let seen =
        format!("{}, {:?}; {} after the file was written", fetched.outcome(), fetched.body, time(took));
    let holds = failed(&fetched) && fetched.body == "fault filter abort";
    tour.check_effect("requests of jason for ratings are answered with 500", took, holds, &seen)?;
    for (user, stars) in [("jason", "unavailable"), ("mary", "none")] {
        let page = tour.until(
            sleep,
            &["-b", &session(user), PAGE],
            match stars {
                "none" => |page: &Fetched| page.good() && page.stars() == "none",
                _ => |page: &Fetched| page.stars() == "unavailable",
            },
        )?;
        let seen = format!("{}, stars: {}, {}", page.outcome(), page.stars(), page.reviewer_pod());
        let holds = page.stars() == stars && !page.reviewer_pod().is_empty();
        tour.check(&format!("{user}'s page has its reviews, and stars: {stars}"), holds, &seen)?;
    }
    Ok(())
}

/// One request is served, one waits, and whoever comes on top is told at once.
fn breaker(tour: &mut Tour, sleep: &PodHandle) -> Result<()> {
    tour.console.say("`httpbin` comes up, with room for one connection and one request that waits:");
    tour.apply("../httpbin/httpbin.yaml")?;
    let up = tour.until(sleep, &["http://httpbin:8000/get"], Fetched::good)?;
    tour.check("`httpbin` answers", up.good(), &up.outcome())?;
    tour.apply("../httpbin/circuit-breaker.yaml")?;
    let url = format!("http://httpbin:8000/delay/0.5?request=[1-{CROWD}]");
    let words = ["-Z", "--parallel-immediate", "-o", "/dev/null", &url];
    tour.show_command("default/sleep", &format!("curl {} '{url}'", words[..4].join(" ")));
    let labels = |code, flags| {
        let to = ("destination_service_name", "httpbin");
        [("source_workload", "sleep"), to, ("response_code", code), ("response_flags", flags)]
    };
    let (mut good, mut refused, written) = (0, 0, Instant::now());
    while refused == 0 && written.elapsed() < PATIENCE {
        let before = (requests(tour, &labels("200", "-"))?, requests(tour, &labels("503", "UO"))?);
        tour.curl_within(sleep, "10", &words)?;
        good = requests(tour, &labels("200", "-"))? - before.0;
        refused = requests(tour, &labels("503", "UO"))? - before.1;
    }
    let rows = [("200", "-", good), ("503", "UO", refused)];
    let rows = rows.map(|(code, flags, count)| vec![code.to_owned(), flags.to_owned(), count.to_string()]);
    tour.console.table(&["RESPONSE_CODE", "RESPONSE_FLAGS", "REQUESTS"], &rows);
    let seen = format!("{good} answered, {refused} refused");
    let holds = good >= 2 && refused >= 1 && good + refused == CROWD;
    tour.check(
        &format!("of {CROWD} requests at once two are answered, the others refused at once"),
        holds,
        &seen,
    )
}

/// Everything is as it was before.
fn clean(tour: &mut Tour, sleep: &PodHandle) -> Result<()> {
    let removed = Instant::now();
    for (kind, name) in ADDED {
        tour.bed.delete(kind, "default", name)?;
    }
    let fetched = tour.until(sleep, &["-H", "end-user: jason", RATINGS], Fetched::good)?;
    let took = removed.elapsed();
    let seen = format!("{}; {} after the files were removed", fetched.outcome(), time(took));
    tour.check_effect("without the rules nothing fails", took, fetched.good(), &seen)
}

/// Requests that the nodes have counted with these labels.
fn requests(tour: &Tour, labels: &[(&str, &str)]) -> Result<u64> {
    tour.interrupted.check()?;
    let mut sum = 0;
    for node in tour.bed.status().nodes {
        sum += sum_of(&tour.bed.node(&node.name)?.metrics()?, labels);
    }
    Ok(sum)
}

fn sum_of(metrics: &str, labels: &[(&str, &str)]) -> u64 {
    let lines =
        metrics.lines().filter_map(|line| line.strip_prefix("istio_requests_total{")?.rsplit_once("} "));
    let has = |all: &str, (name, value): &(&str, &str)| {
        all.split("\",").any(|label| label.trim_end_matches('"') == format!("{name}=\"{value}"))
    };
    let wanted = lines.filter(|(all, _)| labels.iter().all(|label| has(all, label)));
    wanted.filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
}

fn session(user: &str) -> String {
    format!("session={user}")
}

/// What the two steps have added to the bed.
const ADDED: [(&str, &str); 10] = [
    ("VirtualService", "reviews"),
    ("VirtualService", "ratings"),
    ("DestinationRule", "productpage"),
    ("DestinationRule", "reviews"),
    ("DestinationRule", "ratings"),
    ("DestinationRule", "details"),
    ("DestinationRule", "httpbin"),
    ("Deployment", "httpbin"),
    ("Service", "httpbin"),
    ("ServiceAccount", "httpbin"),
];

const VERSIONS: [&str; 3] = ["reviews-v1", "reviews-v2", "reviews-v3"];

/// Enough requests for a share of a tenth to be told from one of a twentieth.
const CANARY: u64 = 1000;

/// Requests at once.
const CROWD: u64 = 6;

/// Two times three seconds, and a bit.
const SLOW_PAGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(6)..=Duration::from_secs(7);

/// How long to wait for what should happen at once before calling it failed.
const PATIENCE: Duration = Duration::from_secs(5);

const REVIEWS: &str = "http://reviews:9080/reviews/0";
const RATINGS: &str = "http://ratings:9080/ratings/0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_summed_by_their_labels() {
        let metrics = "# TYPE istio_requests_total counter\n\
            istio_requests_total{source_workload=\"sleep\",response_code=\"200\",response_flags=\"-\"} 7\n\
            istio_requests_total{source_workload=\"sleep\",response_code=\"503\",response_flags=\"UO\"} 2\n\
            istio_requests_total{source_workload=\"sleep-2\",response_code=\"200\",response_flags=\"-\"} 40\n\
            other_total{source_workload=\"sleep\"} 100\n";
        for (labels, sum) in [
            (&[][..], 49),
            (&[("source_workload", "sleep")], 9),
            (&[("source_workload", "sleep"), ("response_flags", "UO")], 2),
            (&[("workload", "sleep")], 0),
        ] {
            assert_eq!(sum_of(metrics, labels), sum, "{labels:?}");
        }
    }
}
