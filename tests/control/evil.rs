//! Configuration that means harm, or is merely wrong: it costs whoever wrote it, and nobody else.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_proto::names::ResourceType;

use crate::discovery::{app, over, port, service};
use crate::plane::Plane;
use crate::subscriber::Subscriber;

/// A policy of a namespace of its own.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: evil}}, spec: {spec}}}\n"
    )
}

/// A route with a condition on the path.
fn route(regex: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: x, namespace: evil}}, \
         spec: {{hosts: [x], http: [{{match: [{{uri: {{regex: \"{regex}\"}}}}], \
         route: [{{destination: {{host: x}}}}]}}]}}}}\n"
    )
}

fn rules(count: usize) -> String {
    let rules = (0..count).map(|n| {
        format!("{{from: [{{source: {{ipBlocks: [\"10.{}.{}.0/24\"]}}}}]}}", n / 256 % 256, n % 256)
    });
    policy("rules", &format!("{{rules: [{}]}}", rules.collect::<Vec<_>>().join(", ")))
}

fn bomb() -> String {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let last = level - 1;
        let _ = writeln!(text, "a{level}: &a{level} [{}]", vec![format!("*a{last}"); 10].join(", "));
    }
    text + "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bomb, namespace: evil}\n"
}

fn bad_documents(count: usize) -> String {
    (0..count).map(|n| policy(&format!("bad-{n}"), "{rules: 7}") + "---\n").collect()
}

/// How long the next change of somebody else takes to arrive.
async fn next(plane: &Plane, subscriber: &mut Subscriber, number: u16) -> Result<Duration> {
    let begun = Instant::now();
    plane.write("good.yaml", &app("good", "n1", "10.1.0.1", number))?;
    while port(subscriber, "good")? != u32::from(number) {
        subscriber.hear_within(&service("good"), Duration::from_secs(10)).await?;
    }
    Ok(begun.elapsed())
}

/// `text` is written, and what others write is told within a second, at once and afterwards.
async fn harmless(text: &str) -> Result<Plane> {
    let plane = over(&[("good.yaml", app("good", "n1", "10.1.0.1", 80))])?;
    let mut subscriber = Subscriber::plain(&plane, "n1").await?;
    subscriber.ask(&ResourceType::ALL).await?;
    subscriber.hear(&service("good")).await?;
    subscriber.told().await?;
    plane.write("evil.yaml", text)?;
    let meanwhile = next(&plane, &mut subscriber, 1000).await?;
    let limit = Duration::from_secs(1);
    ensure!(meanwhile < limit * 5, "while it is read: {meanwhile:?}");
    subscriber.told().await?;
    for number in 1001..1004 {
        let took = next(&plane, &mut subscriber, number).await?;
        ensure!(
            took < limit,
            "a change of somebody else took {took:?}, the one at that moment {meanwhile:?}"
        );
    }
    ensure!(plane.metric("mesh_panics_total")? == 0, "a task has panicked");
    let (_, most) = plane.memory()?;
    ensure!(most < 500 << 20, "{} MB of memory", most >> 20);
    Ok(plane)
}

/// What there is to say about the file.
fn findings(plane: &Plane) -> Result<Vec<String>> {
    let all: Vec<String> = serde_json::from_str(&plane.get("/debug/findings")?)?;
    Ok(all.into_iter().filter(|one| one.contains("evil.yaml")).collect())
}

#[tokio::test]
async fn regular_expressions_without_measure() -> Result<()> {
    let plane = harmless(&route("((((a{1000}){1000}){1000}){1000})")).await?;
    let said = findings(&plane)?;
    ensure!(!said.is_empty(), "it says that this cannot be");
    harmless(&route(&"(a|b)*c?".repeat(100_000))).await?;
    Ok(())
}

#[tokio::test]
async fn rules_without_end() -> Result<()> {
    harmless(&rules(100_000)).await?;
    Ok(())
}

#[tokio::test]
async fn depth_without_bottom() -> Result<()> {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let plane = harmless(&policy("deep", &deep)).await?;
    findings(&plane)?.first().context("it says that this is too deep")?;
    let plane = harmless(&bomb()).await?;
    findings(&plane)?.first().context("it says that this is too much")?;
    Ok(())
}

#[tokio::test]
async fn words_of_a_megabyte() -> Result<()> {
    let long = "x".repeat(1 << 20);
    let everywhere = [
        policy(&long, "{}"),
        policy("label", &format!("{{selector: {{matchLabels: {{app: {long}}}}}}}")),
        policy("source", &format!("{{rules: [{{from: [{{source: {{principals: [{long}]}}}}]}}]}}")),
        app(&long, "n1", "10.1.0.9", 80),
        app("evil", &long, "10.1.0.8", 80),
        app("evil2", "n1", &long, 80),
    ];
    let plane = harmless(&everywhere.join("---\n")).await?;
    let said = findings(&plane)?;
    ensure!(!said.is_empty(), "nothing was said");
    let longest = said.iter().map(String::len).max().unwrap_or_default();
    ensure!(longest < 10_000, "a finding of {longest} bytes");
    Ok(())
}

#[tokio::test]
async fn ten_thousand_bad_documents() -> Result<()> {
    let plane = harmless(&bad_documents(10_000)).await?;
    let said = findings(&plane)?.len();
    ensure!(said >= 1, "nothing was said");
    Ok(())
}
