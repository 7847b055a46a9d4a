//! What people see on the pages.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::http::{self, Request};
use serde_json::Value;

use crate::stand::{ELSEWHERE, PATIENCE, Stand};

/// A script that finds the label of an edge whose figures are those of requests, and gives `what` of it.
fn label(from: &str, to: &str, what: &str) -> String {
    format!(
        "const label = document.querySelector('g.label[data-from=\"default/{from}\"][data-to=\"default/{to}\"]'); \
         return label && {what}"
    )
}

/// The milliseconds of the second line of a label, `0 % err · 12 ms`.
fn latency(text: &str) -> Option<f64> {
    let (share, time) = text.split_once(" err · ")?;
    share.strip_suffix(" %")?;
    let (figure, unit) = time.split_once(' ')?;
    let factor = match unit {
        "ms" => 1.0,
        "s" => 1_000.0,
        _ => return None,
    };
    Some(figure.parse::<f64>().ok()? * factor)
}

pub fn graph(stand: &Stand) -> Result<()> {
    let browser = &stand.browser;
    stand.open("#/graph")?;
    for (from, to) in [
        ("sleep", "productpage"),
        ("productpage", "reviews"),
        ("productpage", "details"),
        ("reviews", "ratings"),
    ] {
        let what = format!("requests from {from} to {to}");
        let rate = "parseFloat(label.querySelector('.first').textContent)";
        let of_requests = "/^[0-9.]+\\/s$/.test(label.querySelector('.first').textContent)";
        let seen = browser.until(&what, PATIENCE, &label(from, to, &format!("{of_requests} && {rate}")))?;
        ensure!(seen.as_f64().is_some_and(|rate| rate > 0.2), "{what}: {seen} a second");
        let figures = browser.script(&label(from, to, "label.querySelector('.second').textContent"))?;
        let figures = figures.as_str().unwrap_or_default().to_owned();
        ensure!(latency(&figures).is_some_and(|ms| ms > 0.0), "{what} show no latency: {figures:?}");
        let lock = browser.script(&label(from, to, "label.querySelector('.lock.closed') !== null"))?;
        ensure!(lock == true, "{what} have no lock");
    }
    let spaces =
        browser.script("return [...document.querySelectorAll('.lane text')].map((it) => it.textContent)")?;
    ensure!(spaces.as_array().is_some_and(|it| it.contains(&"default".into())), "namespaces: {spaces}");
    stand.picture("graph")
}

pub fn as_table(stand: &Stand) -> Result<()> {
    stand.open("#/graph")?;
    let button = "[...document.querySelectorAll('.tabs button')].find((it) => it.textContent === 'Table')";
    stand.browser.script(&format!("{button}.click()"))?;
    let row = "const row = [...document.querySelectorAll('tbody tr')].find((it) => \
               it.innerText.includes('productpage') && it.innerText.includes('reviews')); \
               return row && row.innerText.includes('/s') && row.innerText";
    let row = stand.browser.until("a row", PATIENCE, row)?;
    ensure!(row.as_str().is_some_and(|row| row.contains("HTTP") && row.contains("mTLS")), "{row}");
    stand.picture("graph-table")?;
    stand.browser.script(
        "[...document.querySelectorAll('.tabs button')].find((it) => it.textContent === 'Graph').click()",
    )?;
    Ok(())
}

pub fn connections(stand: &Stand) -> Result<()> {
    let expected = [
        ("mesh/client", "mesh/near", "mutualTls"),
        ("mesh/client", "mesh/far", "mutualTls"),
        ("outside/stranger", "mesh/near", "plain"),
    ];
    let mut seen = Value::Null;
    for (from, to, secured) in expected {
        let deadline = Instant::now() + PATIENCE;
        loop {
            seen = stand.api("graph?level=workload&namespace=mesh")?.1;
            let edges = seen["edges"].as_array().context("no edges")?;
            let edge = edges.iter().find(|edge| edge["from"] == from && edge["to"] == to);
            let is_busy = |edge: &&Value| edge["connectionsPerSecond"].as_f64() > Some(0.2);
            if let Some(edge) = edge.filter(is_busy) {
                ensure!(edge["secured"] == secured, "{edge}");
                break;
            }
            ensure!(Instant::now() < deadline, "no edge from {from} to {to}: {seen}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    ensure!(!seen.to_string().contains("default/"), "another namespace is told of: {seen}");
    stand.open("#/graph")?;
    let open = "return document.querySelector('g.label[data-from=\"outside/stranger\"] .lock.open') !== null";
    stand.browser.until("an open lock", PATIENCE, open)?;
    stand.picture("graph-connections")
}

pub fn chosen(stand: &Stand) -> Result<()> {
    let browser = &stand.browser;
    stand.open("#/graph")?;
    browser.until(
        "reviews",
        PATIENCE,
        "return document.querySelector('[data-node=\"default/reviews\"]') !== null",
    )?;
    browser.click("[data-node='default/reviews'] .body")?;
    let panel = browser.until("a panel", PATIENCE, "return document.querySelector('.panel')?.innerText")?;
    let panel = panel.as_str().unwrap_or_default();
    ensure!(
        ["reviews-v1", "reviews-v2", "reviews-v3", "ratings"].iter().all(|it| panel.contains(it)),
        "{panel}"
    );
    stand.picture("graph-chosen")?;
    browser.click(".panel .close")?;
    let gone = browser.script("return document.querySelector('.panel') === null")?;
    ensure!(gone == true, "the panel stays");
    // Workloads in place of applications.
    browser.script(
        "[...document.querySelectorAll('.tabs button')].find((it) => it.textContent === 'Workloads').click()",
    )?;
    let three = "return document.querySelectorAll('[data-node^=\"default/reviews-v\"]').length === 3";
    browser.until("three versions", PATIENCE, three)?;
    stand.picture("graph-workloads")?;
    browser.script("[...document.querySelectorAll('.tabs button')].find((it) => it.textContent === 'Applications').click()")?;
    Ok(())
}

pub fn click_through(stand: &Stand) -> Result<()> {
    let browser = &stand.browser;
    stand.open("#/graph")?;
    for (page, title, sign) in [
        ("workloads", "Workloads", "productpage-v1"),
        ("services", "Services", "ratings"),
        ("policies", "Policies", "VirtualService"),
        ("problems", "Problems", ""),
        ("nodes", "Nodes", "node-2"),
        ("graph", "Traffic", ""),
    ] {
        browser.click(&format!("nav a[href='#/{page}']"))?;
        let shown = format!(
            "return document.querySelector('h1')?.textContent === '{title}' \
             && document.querySelector('main').innerText.includes('{sign}')"
        );
        browser.until(&format!("the page {page}"), PATIENCE, &shown)?;
        let current = browser.script("return document.querySelector('nav [aria-current]')?.textContent")?;
        ensure!(
            current.as_str().is_some_and(|it| it.to_lowercase() == page),
            "{page} is not marked: {current}"
        );
        stand.picture(&format!("page-{page}"))?;
    }
    browser.click("nav a[href='#/nodes']")?;
    let synced = "const rows = [...document.querySelectorAll('tbody tr')].map((it) => it.innerText); \
                  return rows.length >= 2 && rows.every((it) => it.includes('in step') && it.includes('captured'))";
    browser.until("two nodes in step", PATIENCE, synced)?;
    browser.click("nav a[href='#/services']")?;
    browser.until(
        "services",
        PATIENCE,
        "return document.querySelector('tbody a[href=\"#/services/default/reviews\"]') !== null",
    )?;
    browser.click("tbody a[href='#/services/default/reviews']")?;
    browser.until("a service", PATIENCE, "return document.querySelector('h1')?.textContent === 'reviews' && document.querySelector('.chart canvas') !== null")?;
    stand.picture("service")?;
    stand.open("#/policies/VirtualService/default/reviews")?;
    let hosts = browser.script("return document.querySelector('.facts').innerText")?;
    ensure!(hosts.as_str().is_some_and(|it| it.contains("reviews") && it.contains("1 route")), "{hosts}");
    stand.picture("policy")
}

pub fn workload(stand: &Stand) -> Result<()> {
    stand.open("#/workloads/default/productpage-v1")?;
    let charts = "return document.querySelectorAll('.chart canvas').length >= 5";
    stand.browser.until("charts", PATIENCE, charts)?;
    // What is drawn has the colour that its legend shows.
    stand.browser.until("figures over time", PATIENCE, &is_drawn("requests"))?;
    let text = stand.browser.script("return document.querySelector('main').innerText")?;
    let text = text.as_str().unwrap_or_default();
    for word in
        ["spiffe://cluster.local/ns/default/sa/bookinfo-productpage", "default/sleep", "details-v1", "p99"]
    {
        ensure!(text.contains(word), "the page does not say {word}:\n{text}");
    }
    stand.picture("workload")?;
    let (status, detail) = stand.api("workloads/default/productpage-v1")?;
    ensure!(status == 200 && detail["pods"] == 1 && detail["enrolled"] == 1, "{detail}");
    let points = detail["series"]["inbound"].as_array().context("no series")?;
    let busy = points.iter().filter(|point| point["requestsPerSecond"].as_f64() > Some(0.2));
    ensure!(busy.count() >= 1, "{points:?}");
    Ok(())
}

pub fn fault(stand: &Stand) -> Result<()> {
    let fault = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: ratings}, spec: {hosts: \
                 [ratings], http: [{fault: {abort: {percentage: {value: 100}, httpStatus: 500}}, route: [{destination: \
                 {host: ratings}}]}]}}";
    stand.bed.apply(fault)?;
    stand.open("#/graph")?;
    let wrong = label(
        "reviews",
        "ratings",
        "label.classList.contains('bad') && parseFloat(label.querySelector('.second').textContent)",
    );
    let share = stand.browser.until("errors on the edge", PATIENCE, &wrong)?;
    ensure!(share.as_f64().is_some_and(|share| share >= 5.0), "{share} % errors");
    let fine = stand.browser.script(&label("productpage", "details", "label.classList.contains('good')"))?;
    ensure!(fine == true, "another edge has errors as well");
    stand.picture("graph-fault")
}

/// A script that says whether the first chart has pixels of the colour that the line of this name has in its legend.
pub fn is_drawn(line: &str) -> String {
    format!(
        "const chart = document.querySelector('.chart'), canvas = chart?.querySelector('canvas'); \
         const line = chart && [...chart.querySelectorAll('.legend li')].find((it) => it.textContent.startsWith('{line}')); \
         if (!canvas || !line) return false; \
         const wanted = getComputedStyle(line.querySelector('.mark')).color.match(/[0-9]+/g).map(Number); \
         const {{ data }} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height); \
         let found = 0; \
         for (let at = 0; at < data.length; at += 4) \
           found += data[at + 3] > 200 && wanted.every((channel, of) => Math.abs(data[at + of] - channel) < 12); \
         return found > 20"
    )
}

pub fn delay(stand: &Stand) -> Result<()> {
    let delay = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: details}, spec: {hosts: \
                 [details], http: [{fault: {delay: {percentage: {value: 100}, fixedDelay: 0.7s}}, route: [{destination: \
                 {host: details}}]}]}}";
    stand.bed.apply(delay)?;
    stand.open("#/graph")?;
    let text = label("productpage", "details", "label.querySelector('.second').textContent");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = stand.browser.script(&text)?;
        let shown = latency(seen.as_str().unwrap_or_default());
        // 700 ms are in the bucket from 500 to 1,000.
        if shown.is_some_and(|ms| (500.0..=1_000.0).contains(&ms)) {
            break;
        }
        ensure!(Instant::now() < deadline, "the label says {seen}");
        std::thread::sleep(Duration::from_millis(200));
    }
    stand.picture("graph-delay")?;
    stand.bed.delete("VirtualService", "default", "details")?;
    Ok(())
}

pub fn links(stand: &Stand) -> Result<()> {
    stand.open("#/graph")?;
    let all = "return [...document.querySelectorAll('#foot .links a')].map((it) => [it.textContent.toLowerCase(), \
               it.getAttribute('href'), it.rel])";
    let seen = stand.browser.script(all)?;
    let seen = seen.as_array().context("no links")?;
    let is_there =
        |(name, url): &(&str, String)| seen.contains(&serde_json::json!([name, url, "noreferrer"]));
    ensure!(stand.links.iter().all(is_there), "{seen:?}");
    let [.., (_, jaeger)] = &stand.links;
    stand.browser.click(&format!("#foot .links a[href='{jaeger}']"))?;
    let there = format!("return document.title === '{ELSEWHERE}'");
    stand.browser.until("what was linked to", PATIENCE, &there).map(drop)
}

pub fn problem(stand: &Stand) -> Result<()> {
    let (_, before) = stand.api("problems")?;
    ensure!(!before.to_string().contains("nowhere"), "{before}");
    stand.bed.apply(
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: lost}, spec: {hosts: [lost.example], \
         http: [{route: [{destination: {host: nowhere}}]}]}}",
    )?;
    stand.bed.write_file(
        "broken.yaml",
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: broken}, spec: {action: PERHAPS}}",
    )?;
    stand.open("#/problems")?;
    let seen = "const text = document.querySelector('.problems')?.innerText ?? ''; \
                return text.includes('nowhere') && text.includes('VirtualService default/lost') && text.includes('PERHAPS')";
    stand.browser.until("two problems", PATIENCE, seen)?;
    stand.picture("problems")?;
    let (_, policies) = stand.api("policies?namespace=default")?;
    let lost = policies.as_array().and_then(|all| all.iter().find(|it| it["name"] == "lost"));
    ensure!(lost.is_some_and(|it| it["problems"][0]["code"] == "IST0101"), "{lost:?}");
    Ok(())
}

pub fn away(stand: &Stand) -> Result<()> {
    let browser = &stand.browser;
    stand.open("#/graph")?;
    browser.until("an edge", PATIENCE, "return document.querySelector('.label') !== null")?;
    let control = stand.bed.control()?;
    control.kill9()?;
    let said = "return document.querySelector('#notice')?.innerText.includes('cannot be reached')";
    browser.until("what has failed", PATIENCE, said)?;
    let stays = browser.script("return document.querySelector('.label') !== null")?;
    ensure!(stays == true, "what was known before is gone");
    stand.picture("away")?;
    control.start()?;
    browser.until("it is back", PATIENCE, "return document.querySelector('#notice').innerText === ''")?;
    let again =
        "return [...document.querySelectorAll('.label .first')].some((it) => parseFloat(it.textContent) > 0)";
    browser.until("traffic again", PATIENCE, again).map(drop)
}

pub fn quiet(stand: &Stand) -> Result<()> {
    let base = stand.base();
    let mut asked = 0;
    for entry in stand.browser.log("performance")? {
        let message: Value = serde_json::from_str(entry["message"].as_str().unwrap_or_default())?;
        let Some(url) = message["message"]["params"]["request"]["url"].as_str() else { continue };
        // What `links` has clicked.
        let is_own = ["about:", "data:", "chrome:", stand.links[2].1.trim_end_matches("search")]
            .iter()
            .any(|scheme| url.starts_with(scheme));
        let is_ours = url.starts_with(&base) || is_own;
        ensure!(is_ours, "the page asks {url}");
        asked += usize::from(url.starts_with(&base));
    }
    ensure!(asked > 50, "only {asked} requests were seen: the log is not what it was");
    for entry in stand.browser.log("browser")? {
        let text = entry["message"].as_str().unwrap_or_default();
        // What cannot be loaded while the control plane is away is logged by the browser itself.
        let is_ours = text.contains("net::ERR_") || text.contains("Failed to load resource");
        ensure!(entry["level"] != "SEVERE" || is_ours, "{text}");
        ensure!(!text.contains("Content Security Policy"), "{text}");
    }
    Ok(())
}

pub fn guarded(stand: &Stand) -> Result<()> {
    for path in ["/", "/main.js", "/api/v1/graph"] {
        ensure!(stand.get(path, "evil.example")?.0 == 403, "{path} for another name");
        ensure!(stand.get(path, "localhost:15014")?.0 == 200, "{path} for this machine");
    }
    // From a pod, and from another node: nobody listens there, since the port is on loopback.
    let first = stand.bed.node("node-1")?;
    let [address, _] = first.ips();
    let asked = || http::fetch((address, 15014).into(), &Request::get("/"), Duration::from_secs(2));
    ensure!(stand.bed.pod("default/sleep")?.run_in_netns(asked)?.is_err(), "a pod gets the page");
    ensure!(stand.bed.node("node-2")?.run_in_netns(asked)?.is_err(), "another node gets the page");
    Ok(())
}
