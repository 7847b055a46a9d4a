//! What pages say of policies and of waypoints.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::pages::is_drawn;
use crate::stand::{PATIENCE, Stand};

/// Requests to ratings are refused, those to reviews allowed by one policy, to details by none of those that apply.
const POLICIES: &str = "\
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: closed}, spec: {selector: {matchLabels: \
{app: ratings}}, action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: readers}, spec: {selector: {matchLabels: \
{app: reviews}}, rules: [{to: [{operation: {methods: [GET]}}]}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: writers}, spec: {selector: {matchLabels: \
{app: details}}, rules: [{to: [{operation: {methods: [POST]}}]}]}}
";

pub fn verdicts(stand: &Stand) -> Result<()> {
    let browser = &stand.browser;
    // Nothing reaches ratings while its requests are aborted on purpose.
    stand.bed.delete("VirtualService", "default", "ratings")?;
    stand.bed.apply(POLICIES)?;
    for (name, legend, figure, other) in [
        ("closed", "denied", "deniedPerSecond", "allowedPerSecond"),
        ("readers", "allowed", "allowedPerSecond", "deniedPerSecond"),
        ("writers", "denied", "deniedPerSecond", "allowedPerSecond"),
    ] {
        let path = format!("policies/AuthorizationPolicy/default/{name}");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, detail) = stand.api(&path)?;
            // It may not have been read yet.
            let points = detail["series"]["verdicts"].as_array().map_or(&[][..], Vec::as_slice);
            let most = |figure: &str| points.iter().filter_map(|it| it[figure].as_f64()).fold(0.0, f64::max);
            ensure!(most(other) == 0.0, "{name}: {other} {detail}");
            if most(figure) > 0.2 {
                break;
            }
            ensure!(Instant::now() < deadline, "{name}: {status} {detail}");
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        stand.open(&format!("#/{path}"))?;
        let shown = format!(
            "const line = [...document.querySelectorAll('.chart .legend li')].find((it) => \
             it.textContent.startsWith('{legend}')); return line && parseFloat(line.querySelector('strong').textContent) > 0"
        );
        browser.until(&format!("what {name} has come to"), PATIENCE, &shown)?;
        browser.until("a chart", PATIENCE, &is_drawn(legend))?;
        let traffic = browser
            .script("return document.querySelector('[aria-label=\"Traffic that it is for\"]').innerText")?;
        ensure!(traffic.as_str().is_some_and(|it| it.contains("Latency")), "{traffic}");
        let allowed = browser
            .script("return document.querySelector('.chart .legend').textContent.includes('allowed')")?;
        ensure!(allowed == (name != "closed"), "{name}: a policy that denies allows nothing");
        stand.picture(&format!("policy-{name}"))?;
    }
    // A resource that neither allows nor denies has the traffic of its hosts.
    let (_, route) = stand.api("policies/VirtualService/default/reviews")?;
    ensure!(route["series"]["verdicts"].is_null(), "{}", route["series"]);
    let traffic = route["series"]["traffic"].as_array().context("no traffic")?;
    ensure!(traffic.iter().any(|it| it["requestsPerSecond"].as_f64() > Some(0.2)), "{traffic:?}");
    for name in ["closed", "writers"] {
        stand.bed.delete("AuthorizationPolicy", "default", name)?;
    }
    Ok(())
}

pub fn waypoint(stand: &Stand) -> Result<()> {
    stand.bed.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: lonely, labels: {istio.io/use-waypoint: nobody}}, spec: \
         {clusterIP: 10.96.77.7, selector: {app: lonely}, ports: [{name: http, port: 80}]}}",
    )?;
    let row = "const row = [...document.querySelectorAll('tbody tr')].find((it) => it.innerText.includes('lonely')); \
               return row && row.innerText.includes('refused')";
    stand.open("#/services")?;
    stand.browser.until("that it is refused", PATIENCE, row)?;
    stand.open("#/services/default/lonely")?;
    let said = stand.browser.script("return document.querySelector('.facts').innerText")?;
    let said = said.as_str().unwrap_or_default();
    ensure!(said.contains("default/nobody") && said.contains("refused"), "{said}");
    let reason = stand.api("services/default/lonely")?.1["waypointRefused"].clone();
    ensure!(reason.as_str().is_some_and(|it| it.len() > 10 && said.contains(it)), "{reason}: {said}");
    stand.picture("waypoint-refused")?;
    stand.bed.delete("Service", "default", "lonely")?;
    Ok(())
}
