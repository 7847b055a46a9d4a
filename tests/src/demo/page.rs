//! Step 3: the page works. Step 4: whose identities spoke for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::access::{Access, short};
use super::console::count;
use super::curl::Fetched;
use super::tour::Tour;
use crate::http::{self, Request};

/// Requests the page until every version of the reviews was seen.
pub(super) fn works(tour: &mut Tour) -> Result<()> {
    tour.console.say(
        "`productpage` asks `details` and `reviews`; `reviews` v2 and v3 ask `ratings` for the stars. The pods know \
         nothing of the mesh and speak plain HTTP.",
    );
    let sleep = tour.pod("default/sleep")?;
    tour.show_command("default/sleep", &format!("curl -s {PAGE}"));
    let mut versions: BTreeMap<String, (String, usize)> = BTreeMap::new();
    let mut last = Fetched::default();
    let start = Instant::now();
    let mut requests = 0;
    while versions.len() < 3 && requests < MOST_REQUESTS {
        last = tour.curl(&sleep, &[PAGE])?;
        requests += 1;
        if !last.good() || last.reviewer_pod().is_empty() {
            break;
        }
        let version = last.reviewer_pod().split('-').nth(1).unwrap_or("?").to_owned();
        versions.entry(version).or_insert_with(|| (last.stars().to_owned(), 0)).1 += 1;
    }
    let each = start.elapsed() / requests.max(1);
    let holds = last.good() && last.title() == TITLE && stars(&versions) == ["none", "black", "red"];
    let seen = format!(
        "{}, title {:?}; {requests} requests, {} ms each",
        last.outcome(),
        last.title(),
        each.as_millis()
    );
    let rows = versions.into_iter().map(|(version, (stars, times))| vec![version, stars, times.to_string()]);
    let rows: Vec<Vec<String>> = rows.collect();
    tour.console.table(&["REVIEWS", "STARS", "TIMES"], &rows);
    tour.check(&format!("the page {TITLE:?} with the stars of all three versions of reviews"), holds, &seen)?;
    tour.console.space();
    from_the_machine(tour)
}

fn stars(versions: &BTreeMap<String, (String, usize)>) -> Vec<&str> {
    versions.values().map(|(stars, _)| stars.as_str()).collect()
}

fn from_the_machine(tour: &mut Tour) -> Result<()> {
    let addr = tour.open_page()?;
    tour.page = Some(addr);
    tour.console.command(&[&format!("curl -s http://{addr}/productpage")]);
    let fetched = forwarded(addr);
    let holds = fetched.good() && fetched.title() == TITLE;
    let seen = format!("{}, title {:?}", fetched.outcome(), fetched.title());
    tour.check("the same page on the machine's own loopback interface", holds, &seen)
}

/// Requests the page as a browser on the machine would.
pub(super) fn forwarded(addr: SocketAddr) -> Fetched {
    match http::fetch(addr, &Request::get("/productpage"), Duration::from_secs(3)) {
        Ok(response) => {
            Fetched { status: Some(response.status), body: response.text(), complaint: String::new() }
        }
        Err(error) => Fetched { complaint: error.to_string(), ..Fetched::default() },
    }
}

/// Requests the page a few times and reads in the access logs who has proven what to whom.
pub(super) fn identities(tour: &mut Tour) -> Result<()> {
    tour.console.say(
        "Each node logs every connection it carries. The server's node writes the identity that the client has \
         proven: by certificate in TLS from another node, by the kernel on the same one.",
    );
    tour.show_command("default/sleep", &format!("curl -s {PAGE}"));
    let log = tour.bed.status().nodes.first().and_then(|node| node.log.clone()).context("no log")?;
    tour.console.command(&[&format!("grep -P '\\taccess\\t' {}", log.display())]);
    let sleep = tour.pod("default/sleep")?;
    let mark = tour.mark()?;
    let (mut requests, mut starred) = (0, 0);
    let mut versions = BTreeSet::new();
    while versions.len() < 3 && requests < MOST_REQUESTS {
        let page = tour.curl(&sleep, &[PAGE])?;
        versions.insert(page.reviewer_pod().to_owned());
        requests += 1;
        starred += usize::from(page.stars() != "none");
    }
    let expected = calls(requests, starred);
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut spoken = Spoken::default();
    while Instant::now() < deadline && !spoken.is(&expected) {
        spoken = Spoken::read(&tour.since(&mark)?);
        std::thread::sleep(Duration::from_millis(50));
    }
    let seen = format!(
        "{}, {} with stars; {}, {} without identity; both ends agree: {}",
        count(requests, "page"),
        starred,
        count(spoken.pairs.values().map(|pair| pair.servers).sum::<usize>(), "connection"),
        spoken.unproven,
        if spoken.complete() { "yes" } else { "no" }
    );
    let holds = spoken.is(&expected);
    let expected = "exactly the calls that make these pages, each logged by both ends with both identities";
    tour.console.table(&["CLIENT", "SERVER", "BY TLS", "BY KERNEL", "SERVER SAW"], &spoken.rows());
    tour.check(expected, holds, &seen)?;
    tour.console.space();
    own_certificates_only(tour)
}

/// Who calls whom in Bookinfo and how often, for some pages of which some have stars. In order.
fn calls(pages: u32, starred: usize) -> [((&'static str, &'static str), usize); 4] {
    let (page, sleep) = ("default/bookinfo-productpage", "default/sleep");
    let (reviews, ratings) = ("default/bookinfo-reviews", "default/bookinfo-ratings");
    let pages = usize::try_from(pages).unwrap_or(usize::MAX);
    [
        ((page, "default/bookinfo-details"), pages),
        ((page, reviews), pages),
        ((reviews, ratings), starred),
        ((sleep, page), pages),
    ]
}

/// The connections in the logs, by the identities of their ends.
#[derive(Default)]
struct Spoken {
    pairs: BTreeMap<(String, String), Pair>,
    /// Connections with an end that has no identity.
    unproven: usize,
}

#[derive(Default)]
struct Pair {
    tunnelled: usize,
    local: usize,
    /// As the servers' nodes have logged it.
    servers: usize,
}

impl Spoken {
    fn read(lines: &[Access]) -> Self {
        let mut spoken = Self::default();
        for access in lines {
            let (from, to) = access.identities();
            if from.is_empty() || to.is_empty() {
                spoken.unproven += 1;
                continue;
            }
            let pair = spoken.pairs.entry((from, to)).or_default();
            match (access.inbound(), access.get("dst.hbone_addr")) {
                (true, _) => pair.servers += 1,
                (false, "") => pair.local += 1,
                (false, _) => pair.tunnelled += 1,
            }
        }
        spoken
    }

    /// Exactly these calls were made, and both ends have told of each.
    fn is(&self, expected: &[((&str, &str), usize)]) -> bool {
        let seen = self.pairs.iter().map(|((from, to), pair)| ((from.as_str(), to.as_str()), pair.servers));
        seen.eq(expected.iter().copied()) && self.complete() && self.unproven == 0
    }

    /// Clients' and servers' nodes have told of the same connections.
    fn complete(&self) -> bool {
        self.pairs.values().all(|pair| pair.tunnelled + pair.local == pair.servers)
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |((from, to), pair): (&(String, String), &Pair)| {
            let numbers = [pair.tunnelled, pair.local, pair.servers].map(|number| number.to_string());
            [from.clone(), to.clone()].into_iter().chain(numbers).collect()
        };
        self.pairs.iter().map(row).collect()
    }
}

/// What a node does not have, nobody can steal from it.
fn own_certificates_only(tour: &mut Tour) -> Result<()> {
    let status = tour.bed.status();
    let admin = status.nodes.first().and_then(|node| node.admin.clone()).context("no admin page")?;
    tour.console.command(&[&format!("curl -s http://{admin}/config_dump | jq '.certificates[].identity'")]);
    let (mut rows, mut foreign) = (Vec::new(), 0);
    for node in &status.nodes {
        let dump = tour.admin(&node.name, "/config_dump")?;
        let held = dump["certificates"].as_array().context("no certificates")?;
        let held: BTreeSet<&str> = held.iter().filter_map(|held| held["identity"].as_str()).collect();
        let workloads = dump["workloads"].as_array().context("no workloads")?;
        let own = workloads.iter().filter(|w| w["node"] == node.name.as_str() && w["enrolled"] == true);
        let own: BTreeSet<&str> = own.filter_map(|w| w["identity"].as_str()).collect();
        foreign += held.difference(&own).count();
        let names: Vec<String> = held.into_iter().map(short).collect();
        rows.push(vec![node.name.clone(), names.join(", ").replace("default/", "")]);
    }
    let seen = format!("{} of pods that run elsewhere", count(foreign, "certificate"));
    tour.console.table(&["NODE", "HOLDS CERTIFICATES OF THE ACCOUNTS"], &rows);
    tour.check("each node holds certificates of its own pods only", foreign == 0, &seen)
}

/// The page inside the bed.
pub(super) const PAGE: &str = "http://productpage:9080/productpage";

/// The page's title.
pub(super) const TITLE: &str = "Simple Bookstore App";

/// Enough for three versions to be seen: that one is not has a probability of less than one in a billion.
const MOST_REQUESTS: u32 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn line(direction: &str, from: &str, to: &str, tunnel: bool) -> Access {
        let hbone = if tunnel { "dst.hbone_addr=10.0.0.1:9080 " } else { "" };
        let id = |name: &str| format!("spiffe://cluster.local/ns/default/sa/{name}");
        let identities = format!("src.identity=\"{}\" {hbone}dst.identity=\"{}\"", id(from), id(to));
        let line = format!("t\tinfo\taccess\tconnection complete\t{identities} direction=\"{direction}\"");
        Access::parse(&line).unwrap()
    }

    #[test]
    fn both_ends_of_each_connection_are_needed() {
        let (page, details) = ("bookinfo-productpage", "bookinfo-details");
        let mut lines = vec![line("outbound", page, details, true), line("outbound", page, details, false)];
        lines.push(line("inbound", page, details, false));
        assert!(!Spoken::read(&lines).complete());
        lines.push(line("inbound", page, details, false));
        let spoken = Spoken::read(&lines);
        let pair = ("default/bookinfo-productpage", "default/bookinfo-details");
        assert!(spoken.complete() && spoken.is(&[(pair, 2)]) && !spoken.is(&[(pair, 1)]) && !spoken.is(&[]));
        assert_eq!(spoken.rows()[0][2..], ["1", "1", "2"]);
        lines.push(Access::parse("t\tinfo\taccess\tconnection complete\tdirection=\"inbound\"").unwrap());
        assert!(!Spoken::read(&lines).is(&[(pair, 2)]), "somebody without identity");
    }
}
