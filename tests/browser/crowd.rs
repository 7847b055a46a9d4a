//! A mesh of many services.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::stand::{PATIENCE, Stand};

/// The page is answered with 200 services in ten namespaces, of which with every answer another carries nothing.
const CROWD: &str = include_str!("crowd.js");

pub fn drawn(stand: &Stand) -> Result<()> {
    let browser = &stand.browser;
    stand.open("#/nodes")?;
    browser.script(CROWD)?;
    browser.script("location.hash = '#/graph'")?;
    browser.until("200 services", PATIENCE, "return document.querySelectorAll('.node').length >= 199")?;
    let places = "return Object.fromEntries([...document.querySelectorAll('.node')].map((it) => [it.dataset.node, it.getAttribute('transform')]))";
    let before = browser.script(places)?;
    browser.script("performance.clearMeasures('draw')")?;
    browser.until("refreshes", PATIENCE, "return performance.getEntriesByName('draw').length >= 3")?;
    let after = browser.script(places)?;
    let moved = |(name, place): (&String, &Value)| after.get(name).is_some_and(|it| it != place);
    let moved: Vec<_> = before.as_object().into_iter().flatten().filter(|it| moved(*it)).collect();
    ensure!(moved.is_empty() && before != after, "{} services have moved", moved.len());
    stand.picture("graph-crowd")?;
    // What working it out takes, and what the browser needs to lay it out from nothing.
    let took = browser.script(
        "const graph = document.querySelector('.graph'); graph.style.display = 'none'; graph.parentNode.offsetHeight; \
         const begun = performance.now(); graph.style.display = ''; graph.getBoundingClientRect(); \
         document.querySelector('.label').getBBox(); const layout = performance.now() - begun; \
         const draws = performance.getEntriesByName('draw').map((it) => it.duration).sort((a, b) => a - b); \
         return [draws[Math.floor(draws.length / 2)], layout]",
    )?;
    for part in took.as_array().into_iter().flatten() {
        ensure!(part.as_f64().is_some_and(|ms| ms < LONGEST_MS), "a refresh takes {took} ms");
    }
    // Its text is as large as anywhere.
    let small = browser.script(
        "const text = document.querySelector('.node .name'); return text.getBoundingClientRect().height >= 11",
    )?;
    ensure!(small == true, "names are too small to read");
    let hint = browser.script("return document.querySelector('main > .notice')?.innerText ?? ''")?;
    ensure!(hint.as_str().is_some_and(|it| it.contains("choose a namespace")), "{hint}");
    Ok(())
}

/// Half of the refreshes are faster; what is longer is felt as a halt.
const LONGEST_MS: f64 = 200.0;
