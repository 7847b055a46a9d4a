//! The worst that is accepted: objects as large and as costly as limits and validation let through, from a directory and
//! from an API server. They cost whoever wrote them, and nobody else: a change of somebody else takes as long as before,
//! give or take [`LIMIT`], while they are read and afterwards.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_core::model::{CompileOptions, Mirror, World};
use mesh_core::resource::{Level, Object, SourceFile, parse};
use mesh_proto::names::ResourceType;
use mesh_proto::workload::{Address, address::Type};
use prost::Message as _;
use serde_json::{Value, json};

use crate::api::Cluster;
use crate::control::Control;
use crate::discovery::{app, over, port, service};
use crate::plane::Plane;
use crate::subscriber::Subscriber;

/// What the worst may add to a change of somebody else: half a second, and of programs that are not optimised, which
/// read several times as slowly, two.
const LIMIT: Duration = Duration::from_millis(if cfg!(debug_assertions) { 2_000 } else { 500 });

fn object(kind: &str, group: &str, name: &str, spec: &str) -> String {
    format!(
        "{{\"apiVersion\": \"{group}.istio.io/v1\", \"kind\": \"{kind}\", \
         \"metadata\": {{\"name\": \"{name}\", \"namespace\": \"evil\"}}, \"spec\": {spec}}}\n"
    )
}

/// As many of `item` as an object of just under a megabyte holds.
fn many(item: impl Fn(usize) -> String) -> String {
    up_to(usize::MAX, item)
}

/// [`many`], or `most` if that is less.
fn up_to(most: usize, item: impl Fn(usize) -> String) -> String {
    let (mut all, mut length) = (Vec::new(), 0);
    for number in 0..most {
        let one = item(number);
        length += one.len() + 1;
        if length > 1_000_000 {
            break;
        }
        all.push(one);
    }
    all.join(",")
}

fn routes(name: &str, most: usize, condition: impl Fn(usize) -> String) -> String {
    let route = |number| {
        format!(
            "{{\"match\":[{{\"uri\":{}}}],\"route\":[{{\"destination\":{{\"host\":\"web.good.svc.cluster.local\"}}}}]}}",
            condition(number)
        )
    };
    let spec = format!("{{\"hosts\":[\"web.good.svc.cluster.local\"],\"http\":[{}]}}", up_to(most, route));
    object("VirtualService", "networking", name, &spec)
}

/// Everything that is tried, by name; each of several objects if several are worse than one.
fn worst() -> Vec<(&'static str, Vec<String>)> {
    let policies = |index: usize| {
        let rule = |n| {
            format!(
                "{{\"from\":[{{\"source\":{{\"ipBlocks\":[\"10.{}.{}.{}/32\"]}}}}]}}",
                index,
                n / 256,
                n % 256
            )
        };
        let rules = (0..512).map(rule).collect::<Vec<_>>().join(",");
        object(
            "AuthorizationPolicy",
            "security",
            &format!("rules-{index}"),
            &format!("{{\"rules\":[{rules}]}}"),
        )
    };
    let principals = many(|n| format!("\"cluster.local/ns/n{n}/sa/*\""));
    let labels = many(|n| format!("\"l{n}\":\"v\""));
    let hosts = many(|n| format!("\"./h{n}.evil.svc.cluster.local\""));
    let server = |n: usize| {
        format!(
            "{{\"port\":{{\"number\":{},\"name\":\"http-{n}\",\"protocol\":\"HTTP\"}},\"hosts\":[\"h{n}.example.com\"]}}",
            80 + n % 60_000
        )
    };
    let entry_hosts = up_to(256, |n| format!("\"h{n}.example.com\""));
    vec![
        ("routes", vec![routes("routes", usize::MAX, |n| format!("{{\"prefix\":\"/p{n}\"}}"))]),
        ("regexes", vec![routes("regexes", 999, |n| format!("{{\"regex\":\"/p{n}/(a|b)*c[0-9]+.*\"}}"))]),
        ("costly regexes", vec![routes("costly", 500, |n| format!("{{\"regex\":\"/{n}[a-z]{{1,800}}x\"}}"))]),
        ("unicode regexes", vec![routes("unicode", 40, |n| format!("{{\"regex\":\"/{n}\\\\pL{{1,5}}\"}}"))]),
        ("100,000 rules", (0..200).map(policies).collect()),
        (
            "principals",
            vec![object(
                "AuthorizationPolicy",
                "security",
                "principals",
                &format!("{{\"rules\":[{{\"from\":[{{\"source\":{{\"principals\":[{principals}]}}}}]}}]}}"),
            )],
        ),
        (
            "labels",
            vec![object(
                "AuthorizationPolicy",
                "security",
                "labels",
                &format!("{{\"selector\":{{\"matchLabels\":{{{labels}}}}}}}"),
            )],
        ),
        (
            "sidecar",
            vec![object(
                "Sidecar",
                "networking",
                "sidecar",
                &format!("{{\"egress\":[{{\"hosts\":[{hosts}]}}]}}"),
            )],
        ),
        (
            "servers",
            vec![object(
                "Gateway",
                "networking",
                "servers",
                &format!("{{\"selector\":{{\"istio\":\"evil\"}},\"servers\":[{}]}}", many(server)),
            )],
        ),
        (
            "entries",
            vec![object(
                "ServiceEntry",
                "networking",
                "entries",
                &format!(
                    "{{\"hosts\":[{entry_hosts}],\"ports\":[{{\"number\":80,\"name\":\"http\",\"protocol\":\"HTTP\"}}],\"resolution\":\"DNS\"}}"
                ),
            )],
        ),
    ]
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// How long the next change of somebody else takes to arrive.
async fn next(plane: &Plane, subscriber: &mut Subscriber, number: u16) -> Result<Duration> {
    let begun = Instant::now();
    plane.write("good.yaml", &app("good", "n1", "10.1.0.1", number))?;
    while port(subscriber, "good")? != u32::from(number) {
        subscriber.hear_within(&service("good"), Duration::from_secs(60)).await?;
    }
    Ok(begun.elapsed())
}

/// What a user is told of the first that is wrong; none, if all is accepted.
fn wrong(objects: &[String]) -> Option<String> {
    let findings = objects.iter().flat_map(|text| parse(&SourceFile { name: "x", text }).findings);
    let mut errors = findings.filter(|finding| finding.level == Level::Error);
    errors.next().map(|finding| finding.to_string().chars().take(300).collect())
}

/// Changes of somebody else before, while and after `put` puts something else there: the median of several each.
async fn measure(
    mut put: impl AsyncFnMut(usize) -> Result<()>,
    mut change: impl AsyncFnMut(u16) -> Result<Duration>,
) -> Result<[Duration; 3]> {
    let [mut before, mut meanwhile, mut after] = [const { Vec::new() }; 3];
    let mut numbers = 1000..;
    let mut next = || numbers.next().context("numbers are many");
    for _ in 0..3 {
        before.push(change(next()?).await?);
    }
    for turn in 0..3 {
        put(turn).await?;
        meanwhile.push(change(next()?).await?);
        after.push(change(next()?).await?);
    }
    Ok([before, meanwhile, after].map(median))
}

/// Files of a directory take effect together, so a change waits until all that has changed at that moment is read: as
/// long as this program takes to read it, built as it is, and no longer. After that it takes what it always did.
#[tokio::test]
async fn a_directory_waits_for_no_more_than_its_reading() -> Result<()> {
    for (name, objects) in worst() {
        let begun = Instant::now();
        ensure!(wrong(&objects).is_none(), "{name} is not accepted: {:?}", wrong(&objects));
        let reading = begun.elapsed();
        let plane = over(&[("good.yaml", app("good", "n1", "10.1.0.1", 80))])?;
        let mut subscriber = Subscriber::plain(&plane, "n1").await?;
        subscriber.ask(&ResourceType::ALL).await?;
        subscriber.hear(&service("good")).await?;
        subscriber.told().await?;
        let put = async |turn: usize| {
            // Each time it is another, or nothing would have to be done.
            objects.iter().enumerate().try_for_each(|(index, text)| {
                plane.write(&format!("evil-{index}.yaml"), &(text.clone() + &"\n".repeat(turn + 1)))
            })
        };
        let times = measure(put, async |number| {
            let took = next(&plane, &mut subscriber, number).await?;
            subscriber.told().await?;
            Ok(took)
        });
        let [before, meanwhile, after] = times.await?;
        ensure!(after < before + LIMIT, "{name}: {before:?} before, {after:?} after");
        // This program has read it once, in the same build, on the same machine; others may want a processor by now.
        let most = before + 3 * reading + LIMIT;
        ensure!(meanwhile < most, "{name}: {before:?} before, {meanwhile:?} while it is read ({reading:?})");
        ensure!(plane.metric("mesh_panics_total")? == 0, "{name}: a task has panicked");
    }
    Ok(())
}

/// Of a cluster every kind is read for itself: nobody waits for somebody else's objects. On the suite's own server
/// only, which takes them as fast as they can be written.
#[tokio::test]
async fn in_a_cluster_nobody_waits() -> Result<()> {
    let mut late = Vec::new();
    for (name, objects) in worst() {
        let cluster = Cluster::own_mesh().await;
        let server = cluster.ours.as_ref().context("our own")?;
        let good = |port: u16| {
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "good"},
                "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{"port": port}]},
            })
        };
        server.put(&good(80));
        let control = Control::ready(&cluster).await;
        let mut subscriber = control.subscribe().await;
        subscriber.until("the service", |it| it.knows(&service("good"))).await;
        let values: Vec<Value> =
            objects.iter().map(|text| serde_json::from_str(text)).collect::<Result<_, _>>()?;
        let put = async |turn: usize| {
            for value in &values {
                let mut value = value.clone();
                value["metadata"]["labels"] = json!({"turn": turn.to_string()});
                // Who the webhook asks is another's test.
                server.put(&value);
            }
            Ok(())
        };
        let times = measure(put, async |number| {
            let begun = Instant::now();
            server.put(&good(number));
            subscriber.until("the change", |it| has_port(it, number)).await;
            Ok(begun.elapsed())
        });
        let [before, meanwhile, after] = times.await?;
        if meanwhile.max(after) > before + LIMIT {
            late.push(format!("{name}: before {before:?}, meanwhile {meanwhile:?}, after {after:?}"));
        }
    }
    ensure!(late.is_empty(), "{late:#?}");
    Ok(())
}

fn has_port(subscriber: &crate::control::Subscriber, port: u16) -> bool {
    let found = subscriber.has.iter().find(|(name, _)| name.ends_with(&service("good")));
    let service = found.and_then(|(_, bytes)| match Address::decode(bytes.as_slice()).ok()?.r#type? {
        Type::Service(service) => service.ports.first().map(|it| it.service_port),
        Type::Workload(_) => None,
    });
    service == Some(u32::from(port))
}

/// What a node does with it, from the record to the next snapshot: no more than [`LIMIT`], of which the best of three
/// counts; and the next change of somebody else is not dearer for it.
#[test]
fn a_node_takes_it_in_a_moment() -> Result<()> {
    for (name, objects) in worst() {
        let evil: Vec<_> =
            objects.iter().flat_map(|text| parse(&SourceFile { name: "x", text }).objects).collect();
        let good =
            |number| parse(&SourceFile { name: "y", text: &app("good", "n1", "10.1.0.1", number) }).objects;
        let (mut at_once, mut later) = (Duration::MAX, Duration::MAX);
        for _ in 0..3 {
            let (mut world, mut mirror) = (World::new(CompileOptions::default()), Mirror::new("n1"));
            take(&mut world, &mut mirror, &good(80));
            at_once = at_once.min(take(&mut world, &mut mirror, &evil));
            later = later.min(take(&mut world, &mut mirror, &good(81)));
        }
        ensure!(at_once < LIMIT && later < LIMIT, "{name}: {at_once:?}, the next change {later:?}");
    }
    Ok(())
}

/// How long a node takes with what becomes of `objects`.
fn take(world: &mut World, mirror: &mut Mirror, objects: &[Object]) -> Duration {
    objects.iter().for_each(|object| world.upsert(object));
    let news = world.commit();
    let begun = Instant::now();
    for (key, record) in news {
        match record {
            Some(record) => mirror.apply(record),
            None => mirror.remove(&key),
        }
    }
    drop(mirror.snapshot());
    begun.elapsed()
}
