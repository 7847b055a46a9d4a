//! Subscribers that come back, to this process or to its successor, and those that lag behind.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_proto::names::ResourceType;

use crate::caller;
use crate::discovery::{app, over, policy, port, service, workload};
use crate::plane::Plane;
use crate::subscriber::{Subscriber, named};

/// A new stream of somebody who has what `before` has.
async fn again(plane: &Plane, before: Subscriber) -> Result<Subscriber> {
    let mut subscriber = Subscriber::plain(plane, "n1").await?;
    subscriber.held = before.held;
    subscriber.ask(&ResourceType::ALL).await?;
    Ok(subscriber)
}

fn files() -> Vec<(&'static str, String)> {
    vec![
        ("a.yaml", app("a", "n1", "10.1.0.1", 80)),
        ("b.yaml", app("b", "n2", "10.2.0.2", 80)),
        ("policy.yaml", policy("a", "b")),
    ]
}

#[tokio::test]
async fn whoever_comes_back_is_told_the_difference() -> Result<()> {
    let mut plane = over(&files())?;
    let mut subscriber = Subscriber::plain(&plane, "n1").await?;
    subscriber.ask(&ResourceType::ALL).await?;
    subscriber.told().await?;
    ensure!(subscriber.held.len() == 8, "{:?}", subscriber.held.keys());

    let mut subscriber = again(&plane, subscriber).await?;
    let told = subscriber.told().await?;
    ensure!(told.is_empty() && subscriber.bytes == 0, "nothing has changed: {told:?}");

    // Versions are of the content: another process has the same.
    plane.kill()?;
    plane.revive()?;
    let mut subscriber = again(&plane, subscriber).await?;
    let told = subscriber.told().await?;
    ensure!(told.is_empty(), "another process has nothing new to say: {told:?}");
    ensure!(plane.metric("mesh_control_sent_bytes_total")? == 0, "nor has it sent anything");

    plane.kill()?;
    plane.write("a.yaml", &app("a", "n1", "10.1.0.1", 81))?;
    plane.remove("b.yaml")?;
    plane.write("c.yaml", &app("c", "n2", "10.2.0.3", 80))?;
    plane.revive()?;
    let mut subscriber = again(&plane, subscriber).await?;
    let mut told = subscriber.told().await?;
    told.sort();
    told.dedup();
    let expected = |told: &str| {
        let of = |name: &str| [service(name), workload(name)].iter().any(|name| &told[1..] == name);
        (told.starts_with('+') && (of("a") || of("c"))) || (told.starts_with('-') && of("b"))
    };
    ensure!(
        told.iter().all(|one| expected(one)) && told.len() >= 5,
        "the differences and nothing else: {told:?}"
    );
    ensure!(port(&subscriber, "a")? == 81, "the new port");
    Ok(())
}

/// On demand, what a proxy has is what it wants to hear of: not everything else as well.
#[tokio::test]
async fn on_demand_stays_on_demand_after_a_reconnect() -> Result<()> {
    let mut plane = over(&files())?;
    let kind = ResourceType::Address;
    let mut subscriber = Subscriber::plain(&plane, "n1").await?;
    subscriber.send(named(kind, &["*"], &["*"])).await?;
    subscriber.send(named(kind, &["/10.2.0.2"], &[])).await?;
    subscriber.hear(&workload("b")).await?;
    plane.kill()?;
    plane.revive()?;
    let mut back = Subscriber::plain(&plane, "n1").await?;
    back.held = subscriber.held;
    let mut first = named(kind, &["*"], &["*"]);
    first.initial_resource_versions =
        back.held.iter().map(|((_, name), one)| (name.clone(), one.version.clone())).collect();
    back.send(first).await?;
    let told = back.told().await?;
    ensure!(told.is_empty(), "it has what it wants: {told:?}");
    plane.remove("b.yaml")?;
    let told = back.hear("-").await?;
    ensure!(told == [format!("-{}", workload("b"))], "and hears of its end: {told:?}");
    Ok(())
}

/// What a node applies grows and never falls back, over edits and restarts.
#[tokio::test]
async fn nothing_older_follows_something_newer() -> Result<()> {
    let mut plane = over(&files())?;
    let mut subscriber = Subscriber::plain(&plane, "n1").await?;
    subscriber.ask(&ResourceType::ALL).await?;
    subscriber.told().await?;
    let mut last = port(&subscriber, "a")?;
    let mut sequence = 0;
    for round in 0..3_u16 {
        for step in 0..5_u16 {
            let next = 1000 + round * 100 + step;
            plane.write("a.yaml", &app("a", "n1", "10.1.0.1", next))?;
            subscriber.hear(&service("a")).await?;
            let now = port(&subscriber, "a")?;
            ensure!(now >= last, "{last} and then {now}");
            last = now;
            let shown = plane.subscribers()?["sequence"].as_u64().context("a sequence")?;
            ensure!(shown >= sequence, "sequence {sequence} and then {shown}");
            sequence = shown;
        }
        plane.kill()?;
        plane.write("a.yaml", &app("a", "n1", "10.1.0.1", 1000 + round * 100 + 50))?;
        plane.revive()?;
        // The process counts anew; what it says is not older.
        sequence = 0;
        subscriber = again(&plane, subscriber).await?;
        subscriber.hear(&service("a")).await?;
        let now = port(&subscriber, "a")?;
        ensure!(now == u32::from(1000 + round * 100 + 50), "{last} and then {now}");
        last = now;
    }
    Ok(())
}

/// 20 subscribers that do not read, and 20 that do not answer, cost a bounded amount of memory, and others hear of a
/// change as soon as ever.
#[tokio::test]
async fn the_slow_delay_nobody() -> Result<()> {
    let many: Vec<_> = (0..2_000)
        .map(|n| app(&format!("n{n}"), "n2", &format!("10.{}.{}.9", 10 + n / 200, n % 200), 80))
        .collect();
    let plane = over(&[("many.yaml", many.join("\n---\n")), ("a.yaml", app("a", "n1", "10.1.0.1", 80))])?;
    let mut quick = Subscriber::plain(&plane, "n1").await?;
    quick.ask(&ResourceType::ALL).await?;
    quick.hear(&service("n1999")).await?;
    quick.told().await?;
    let size = quick.bytes;
    let (before, _) = plane.memory()?;

    let (mut deaf, mut mute) = (Vec::new(), Vec::new());
    for n in 0..20 {
        let from = Ipv4Addr::new(127, 9, 0, n + 1);
        let mut one = Subscriber::open(caller::plain(&plane, from).await?, Some("n2")).await?;
        one.ask(&ResourceType::ALL).await?;
        deaf.push(one);
        let mut one = Subscriber::open(caller::plain(&plane, from).await?, Some("n2")).await?;
        one.ask(&ResourceType::ALL).await?;
        one.next().await?;
        mute.push(one);
    }
    let mut slowest = Duration::ZERO;
    for n in 0..30_u16 {
        let changed = Instant::now();
        plane.write("a.yaml", &app("a", "n1", "10.1.0.1", 2000 + n))?;
        quick.hear(&service("a")).await?;
        slowest = slowest.max(changed.elapsed());
    }
    ensure!(slowest < Duration::from_secs(1), "a change took {slowest:?}");
    let (_, most) = plane.memory()?;
    let each = most.saturating_sub(before) / 40;
    // A few responses of a megabyte, and what HTTP/2 holds of them.
    ensure!(
        each < 5 << 20,
        "{} KB for each that is slow, of {} KB that there are to tell",
        each >> 10,
        size >> 10
    );
    let syncz = plane.subscribers()?;
    let behind = syncz["subscribers"].as_array().context("subscribers")?.iter().filter(|one| {
        one["types"].as_array().is_some_and(|types| types.iter().any(|one| one["status"] == "STALE"))
    });
    ensure!(behind.count() >= 20, "who is behind is shown as behind");

    // Once they listen, they are told the newest state and not all that was in between.
    let mut one = mute.pop().context("one")?;
    one.told().await?;
    ensure!(port(&one, "a")? == 2029, "the newest");
    Ok(())
}
