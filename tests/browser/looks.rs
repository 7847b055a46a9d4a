//! How the pages look and feel: on a phone, in the dark, without a mouse.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::driver::{ENTER, ESCAPE, TAB};
use crate::stand::{PATIENCE, Stand};

const PAGES: [&str; 10] = [
    "#/graph",
    "#/workloads",
    "#/services",
    "#/policies",
    "#/problems",
    "#/nodes",
    "#/workloads/default/productpage-v1",
    "#/services/default/reviews",
    "#/policies/VirtualService/default/lost",
    "#/policies/AuthorizationPolicy/default/readers",
];

pub fn phone(stand: &Stand) -> Result<()> {
    stand.browser.resize(390, 844, true)?;
    let outcome = PAGES.iter().try_for_each(|page| {
        stand.open(page)?;
        let widths = stand.browser.script("return [document.documentElement.scrollWidth, innerWidth]")?;
        ensure!(widths[0] == 390 && widths[1] == 390, "{page} is wider than the phone: {widths}");
        let small = "return [...document.querySelectorAll('main *')].filter((it) => it.children.length === 0 \
                     && it.textContent.trim() && !it.closest('svg') && !it.closest('.hidden') \
                     && parseFloat(getComputedStyle(it).fontSize) < 11).map((it) => it.textContent)";
        let small = stand.browser.script(small)?;
        ensure!(small.as_array().is_some_and(Vec::is_empty), "{page} has letters too small to read: {small}");
        stand.picture(&format!("phone-{}", page.trim_start_matches("#/").replace('/', "-")))
    });
    stand.browser.resize(1280, 900, false)?;
    outcome
}

/// Measured on every page, light and dark.
pub fn contrast(stand: &Stand) -> Result<()> {
    let browser = &stand.browser;
    let outcome = ["light", "dark"].into_iter().try_for_each(|scheme| {
        browser.prefer(scheme)?;
        PAGES.iter().try_for_each(|page| {
            stand.open(page)?;
            let measured = browser.script(include_str!("contrast.js"))?;
            ensure!(measured["looked"].as_u64() > Some(10), "{page} has no text: {measured}");
            let faint = measured["bad"].as_array().is_none_or(|bad| !bad.is_empty());
            ensure!(!faint, "{page}, {scheme}: {}", measured["bad"]);
            Ok(())
        })
    });
    browser.prefer("light")?;
    outcome
}

/// The colours of the page and of its text.
fn colours(stand: &Stand) -> Result<[Vec<f64>; 2]> {
    let script = "const style = getComputedStyle(document.body); \
                  return [style.backgroundColor, style.color].map((it) => it.match(/[0-9.]+/g).slice(0, 3).map(Number))";
    let seen = stand.browser.script(script)?;
    let channels = |value: &Value| value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    Ok([channels(&seen[0]), channels(&seen[1])])
}

fn is_dark([page, text]: &[Vec<f64>; 2]) -> bool {
    page.iter().sum::<f64>() < text.iter().sum::<f64>()
}

pub fn dark(stand: &Stand) -> Result<()> {
    let browser = &stand.browser;
    browser.prefer("light")?;
    stand.open("#/graph")?;
    ensure!(!is_dark(&colours(stand)?), "dark where the system is light");
    browser.prefer("dark")?;
    ensure!(is_dark(&colours(stand)?), "light where the system is dark");
    browser.until("an edge", PATIENCE, "return document.querySelector('.label') !== null")?;
    stand.picture("dark-graph")?;
    for page in ["#/workloads/default/productpage-v1", "#/problems", "#/nodes"] {
        stand.open(page)?;
        let name = page.trim_start_matches("#/").split('/').next().unwrap_or_default().to_owned();
        stand.picture(&format!("dark-{name}"))?;
    }
    browser.click(".theme")?;
    ensure!(!is_dark(&colours(stand)?), "not light although chosen");
    browser.click(".theme")?;
    ensure!(is_dark(&colours(stand)?), "not dark although chosen");
    browser.prefer("light")?;
    ensure!(is_dark(&colours(stand)?), "what was chosen is forgotten");
    browser.click(".theme")?;
    ensure!(!is_dark(&colours(stand)?), "not as the system has it although chosen");
    Ok(())
}

pub fn keyboard(stand: &Stand) -> Result<()> {
    let browser = &stand.browser;
    stand.open("#/graph")?;
    browser.until("an edge", PATIENCE, "return document.querySelector('.label') !== null")?;
    browser.press(&[TAB])?;
    let active = "return document.activeElement.textContent";
    ensure!(browser.script(active)? == "Skip to content", "the first stop is {}", browser.script(active)?);
    let mut stops = Vec::new();
    for _ in 0..60 {
        browser.press(&[TAB])?;
        let stop = browser.script(
            "const it = document.activeElement; const style = getComputedStyle(it.matches('.node') ? \
             it.querySelector('.body') : it.matches('.label') ? it.querySelector('rect') : it); \
             return [it.getAttribute('data-node') ?? it.getAttribute('aria-label') ?? it.textContent.trim(), \
             style.outlineStyle !== 'none' || parseFloat(style.strokeWidth) > 2]",
        )?;
        ensure!(stop[1] == true, "where the focus is cannot be seen: {}", stop[0]);
        let name = stop[0].as_str().unwrap_or_default().to_owned();
        let is_there = name == "default/reviews";
        stops.push(name);
        if is_there {
            break;
        }
    }
    for expected in ["Workloads", "Problems", "Namespace", "Table", "default/reviews"] {
        ensure!(stops.iter().any(|it| it == expected), "{expected} is no stop among {stops:?}");
    }
    browser.press(&[ENTER])?;
    browser.until(
        "a panel",
        PATIENCE,
        "return document.querySelector('.panel h2')?.textContent === 'reviews'",
    )?;
    let focus = browser.script("return document.activeElement.getAttribute('data-node')")?;
    ensure!(focus == "default/reviews", "the focus has gone to {focus}");
    stand.picture("keyboard")?;
    browser.press(&[ESCAPE])?;
    browser.until("no panel", PATIENCE, "return document.querySelector('.panel') === null")?;
    // A page is reached, and its content follows.
    browser.script("document.querySelector('nav a[href=\"#/nodes\"]').focus()")?;
    browser.press(&[ENTER])?;
    browser.until("nodes", PATIENCE, "return document.querySelector('h1')?.textContent === 'Nodes'")?;
    let focus = browser.script("return document.activeElement.id")?;
    ensure!(focus == "main", "the focus is at {focus} after a page was chosen");
    Ok(())
}

pub fn steady(stand: &Stand) -> Result<()> {
    let browser = &stand.browser;
    stand.open("#/graph")?;
    browser.until("an edge", PATIENCE, "return document.querySelector('.label') !== null")?;
    browser.script("document.querySelector('[data-node=\"default/reviews\"]').focus()")?;
    let places = "return [...document.querySelectorAll('.node, h1, .tabs')].map((it) => { const box = \
                  it.getBoundingClientRect(); return [Math.round(box.x), Math.round(box.y)].join() }).join(' ')";
    let before = browser.script(places)?;
    // Two refreshes, of which each asks for the graph once.
    let asked =
        "return performance.getEntriesByType('resource').filter((it) => it.name.includes('/graph?')).length";
    let first = browser.script(asked)?.as_u64().unwrap_or_default();
    browser.until(
        "two refreshes",
        PATIENCE,
        &asked.replace("length", &format!("length >= {}", first + 2)),
    )?;
    ensure!(browser.script(places)? == before, "it has moved");
    let focus = browser.script("return document.activeElement.getAttribute('data-node')")?;
    ensure!(focus == "default/reviews", "the focus is lost: {focus}");
    Ok(())
}
