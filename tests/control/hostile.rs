//! Clients that mean harm: each is refused within limits, and the others are served meanwhile.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_proto::discovery::{DeltaDiscoveryRequest, Node};
use mesh_proto::names::ResourceType;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::caller::{self, Wish, certify, dial, join, plain, tls};
use crate::discovery::{app, over, service};
use crate::plane::{PLAIN, Plane, TLS, until};
use crate::subscriber::{Subscriber, named, request};

/// Where those come from who mean no harm.
const HONEST: Ipv4Addr = Ipv4Addr::new(127, 50, 0, 1);

fn start() -> Result<Plane> {
    over(&[("a.yaml", app("a", "n1", "10.1.0.1", 80)), ("b.yaml", app("b", "n2", "10.2.0.2", 80))])
}

/// Others get what they came for, and soon.
async fn serves(plane: &Plane) -> Result<()> {
    let begun = Instant::now();
    let mut subscriber = Subscriber::open(plain(plane, HONEST).await?, Some("n1")).await?;
    subscriber.ask(&ResourceType::ALL).await?;
    subscriber.hear(&service("b")).await?;
    let took = begun.elapsed();
    ensure!(took < Duration::from_secs(1), "an honest client had to wait for {took:?}");
    Ok(())
}

/// Nothing has broken: the process is the same, and no task of it has panicked.
fn is_whole(plane: &Plane) -> Result<()> {
    ensure!(plane.metric("mesh_panics_total")? == 0, "a task has panicked:\n{}", plane.log());
    Ok(())
}

/// Whether the other end has closed the connection.
async fn closed(stream: &mut TcpStream, patience: Duration) -> bool {
    let mut buffer = [0; 4096];
    let gone = async { while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {} };
    timeout(patience, gone).await.is_ok()
}

#[tokio::test]
async fn garbage_ends_its_own_connection() -> Result<()> {
    let plane = start()?;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
    let noise: Vec<u8> = (0..60_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let parts: [&[&[u8]]; 7] = [
        &[b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"],
        &[&noise],
        &[&[0; 10_000]],
        // Frames: no settings, far too long, of no stream, and noise after a good beginning.
        &[preface, b"\x00\x00\x00\x00\x00\x00\x00\x00\x00"],
        &[preface, b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"],
        &[preface, b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", b"\x00\x00\x04\x00\x00\x00\x00\x00\x00abcd"],
        &[preface, b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", &noise],
    ];
    for port in [PLAIN, TLS] {
        for part in parts {
            let mut stream = dial(Ipv4Addr::LOCALHOST, plane.at(port)).await?;
            // It may be closed before it has been said.
            let _ = stream.write_all(&part.concat()).await;
            ensure!(
                closed(&mut stream, Duration::from_secs(7)).await,
                "port {port} listens on to {:?}",
                part.first()
            );
        }
    }
    // Messages that are none, on a call as it should be.
    let channel = plain(&plane, Ipv4Addr::LOCALHOST).await?;
    let mut subscriber = Subscriber::open(channel, Some("n1")).await?;
    subscriber
        .send(DeltaDiscoveryRequest { type_url: "\u{0}".repeat(5000), ..DeltaDiscoveryRequest::default() })
        .await?;
    subscriber.ask(&[ResourceType::Address]).await?;
    subscriber.hear(&service("a")).await.context("a type that nobody knows is passed over")?;
    serves(&plane).await?;
    is_whole(&plane)
}

#[tokio::test]
async fn nobody_is_a_node_that_it_is_not() -> Result<()> {
    let plane = start()?;
    let node = join(&plane, "n1").await?;
    let kinds = [ResourceType::LocalPod, ResourceType::Address];
    let mut own = Subscriber::open(tls(&plane, Some(&node)).await?, Some("n1")).await?;
    own.ask(&kinds).await?;
    own.hear(&service("a")).await?;
    let local =
        |one: &Subscriber| one.held.keys().filter(|(kind, _)| *kind == ResourceType::LocalPod).count();
    ensure!(local(&own) == 1, "it is told of its own pod");

    let mut other = Subscriber::open(tls(&plane, Some(&node)).await?, Some("n2")).await?;
    other.ask(&kinds).await?;
    let status = other.end().await?;
    ensure!(status.code() == Code::PermissionDenied, "{status:?}");
    ensure!(plane.metric("mesh_control_streams_refused_total")? == 1, "counted");

    let wish = Wish { impersonated: Some("spiffe://cluster.local/ns/a/sa/a"), ..Wish::default() };
    let pod = certify(tls(&plane, Some(&node)).await?, &wish).await?;
    let mut workload = Subscriber::open(tls(&plane, Some(&pod)).await?, Some("n1")).await?;
    workload.ask(&kinds).await?;
    workload.hear(&service("a")).await?;
    ensure!(local(&workload) == 0, "a pod is no node: {:?}", workload.held.keys());

    let outcome = Subscriber::open(tls(&plane, None).await?, Some("n1")).await;
    ensure!(outcome.is_err(), "over TLS nobody subscribes without a credential");
    is_whole(&plane)
}

#[tokio::test]
async fn demands_have_limits() -> Result<()> {
    let plane = start()?;
    let (before, _) = plane.memory()?;
    let ask = |request: DeltaDiscoveryRequest| async {
        let mut subscriber = Subscriber::open(plain(&plane, Ipv4Addr::LOCALHOST).await?, Some("n1")).await?;
        subscriber.send(request).await?;
        anyhow::Ok(subscriber)
    };
    let names = |count: u32| -> Vec<String> { (0..count).map(|n| format!("x/{n}")).collect() };
    let many = DeltaDiscoveryRequest {
        resource_names_subscribe: names(1_000_000),
        ..request(ResourceType::Address)
    };
    let status = ask(many).await?.end().await?;
    ensure!(status.code() == Code::ResourceExhausted, "a million names: {status:?}");
    serves(&plane).await?;

    let large = DeltaDiscoveryRequest {
        resource_names_subscribe: vec!["x".repeat(100 << 20)],
        ..request(ResourceType::Address)
    };
    let status = ask(large).await?.end().await?;
    ensure!(status.code() == Code::OutOfRange, "100 MB: {status:?}");
    let long = ask(named(ResourceType::Address, &[&"x".repeat(2000)], &[])).await?.end().await?;
    ensure!(long.code() == Code::ResourceExhausted, "a name of 2,000 bytes: {long:?}");

    // The same names over and over, of somebody who does not read what is said to them.
    let mut nagging = ask(named(ResourceType::Address, &["x/y"], &[])).await?;
    let names = names(5_000);
    let again: Vec<&str> = names.iter().map(String::as_str).collect();
    for _ in 0..200 {
        nagging.send(named(ResourceType::Address, &again, &[])).await?;
        nagging.send(named(ResourceType::Address, &[], &again)).await?;
    }
    serves(&plane).await?;
    let (_, most) = plane.memory()?;
    let grown = most.saturating_sub(before) >> 20;
    ensure!(grown < 300, "{grown} MB for demands that are refused");
    is_whole(&plane)
}

/// Those who fail at the door are worth some lines a second, however many they are.
#[tokio::test]
async fn the_turned_away_do_not_fill_the_log() -> Result<()> {
    let plane = start()?;
    let begun = Instant::now();
    for _ in 0..400 {
        let mut stream = dial(Ipv4Addr::LOCALHOST, plane.at(TLS)).await?;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
        closed(&mut stream, Duration::from_secs(1)).await;
    }
    let seconds = usize::try_from(begun.elapsed().as_secs())? + 1;
    sleep(Duration::from_millis(1100)).await;
    let mut last = dial(Ipv4Addr::LOCALHOST, plane.at(TLS)).await?;
    last.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
    closed(&mut last, Duration::from_secs(1)).await;
    let lines = || -> Vec<String> {
        let log = plane.log();
        log.lines().filter(|line| line.contains("A client was turned away.")).map(str::to_owned).collect()
    };
    let muted = |line: &String| line.split("muted=").nth(1)?.parse::<usize>().ok();
    let counted = || lines().iter().filter_map(muted).map(|muted| muted + 1).sum::<usize>();
    until(Duration::from_secs(5), || counted() == 401).await.with_context(|| format!("{}", counted()))?;
    ensure!(lines().len() <= 20 * (seconds + 1), "{} lines in {seconds} s", lines().len());
    Ok(())
}

/// Lists of millions of nothings are a few MB on the wire and hundreds in memory; none of them gets there.
#[tokio::test]
async fn what_is_small_on_the_wire_is_small_in_memory() -> Result<()> {
    let plane = start()?;
    let empty = || DeltaDiscoveryRequest { ..request(ResourceType::Address) };
    let nothings =
        |count| Value { kind: Some(Kind::ListValue(ListValue { values: vec![Value::default(); count] })) };
    let tree = Struct { fields: [("x".to_owned(), nothings(4_000_000))].into() };
    let demands = [
        (
            "names",
            DeltaDiscoveryRequest { resource_names_subscribe: vec![String::new(); 4_000_000], ..empty() },
        ),
        (
            "names",
            DeltaDiscoveryRequest { resource_names_unsubscribe: vec![String::new(); 4_000_000], ..empty() },
        ),
        ("versions", DeltaDiscoveryRequest { initial_resource_versions: versions(600_000), ..empty() }),
        (
            "description",
            DeltaDiscoveryRequest { node: Some(Node { metadata: Some(tree), ..Node::default() }), ..empty() },
        ),
    ];
    let (before, _) = plane.memory()?;
    for (what, demand) in demands {
        let mut subscriber = Subscriber::open(plain(&plane, Ipv4Addr::LOCALHOST).await?, None).await?;
        subscriber.send(demand).await?;
        let status = subscriber.end().await?;
        ensure!(
            status.code() == Code::ResourceExhausted && status.message().contains(what),
            "{what}: {status:?}"
        );
    }
    let (_, most) = plane.memory()?;
    let grown = most.saturating_sub(before) >> 20;
    ensure!(grown < 60, "{grown} MB for requests of 20 MB at most");
    serves(&plane).await?;
    is_whole(&plane)
}

/// Whoever has greeted with little and sends much later has its turn for it, as with a greeting.
#[tokio::test]
async fn large_requests_are_read_in_turn() -> Result<()> {
    let plane = start()?;
    let mut crowd = Vec::new();
    for _ in 0..12 {
        let mut one = Subscriber::open(plain(&plane, HONEST).await?, Some("n1")).await?;
        one.ask(&[ResourceType::Mesh]).await?;
        one.hear("mesh").await?;
        crowd.push(one);
    }
    let (before, _) = plane.memory()?;
    let name = "x".repeat(10 << 20);
    for one in &mut crowd {
        one.send(named(ResourceType::Address, &[&name], &[])).await?;
    }
    for one in &mut crowd {
        let status = one.end().await?;
        ensure!(status.code() == Code::ResourceExhausted, "a name of 10 MB: {status:?}");
    }
    let (_, most) = plane.memory()?;
    let grown = most.saturating_sub(before) >> 20;
    ensure!(grown < 80, "{grown} MB for 12 requests of 10 MB, of which two are read at a time");
    // What is large and right is heard as well.
    let mut late = Subscriber::open(plain(&plane, HONEST).await?, Some("n1")).await?;
    late.ask(&[ResourceType::Mesh]).await?;
    late.hear("mesh").await?;
    let first = DeltaDiscoveryRequest {
        initial_resource_versions: versions(100_000),
        ..request(ResourceType::Address)
    };
    late.send(first).await?;
    late.hear(&service("a")).await?;
    is_whole(&plane)
}

/// A node of a large mesh that comes back says how much it has, and is heard.
#[tokio::test]
async fn whoever_has_100_000_resources_may_say_so() -> Result<()> {
    let plane = start()?;
    let mut subscriber = Subscriber::open(plain(&plane, HONEST).await?, Some("n1")).await?;
    let has = versions(100_000);
    let first = DeltaDiscoveryRequest { initial_resource_versions: has, ..request(ResourceType::Address) };
    subscriber.send(first).await?;
    let response = subscriber.next().await?;
    ensure!(response.resources.len() == 4, "what it does not have: {}", response.resources.len());
    ensure!(response.removed_resources.len() == 100_000, "what is not there any more");
    is_whole(&plane)
}

/// What a node says of resources that there are not, with names as pods have them.
fn versions(count: u32) -> HashMap<String, String> {
    (0..count).map(|n| (format!("Kubernetes//Pod/ns/p-{n}"), n.to_string())).collect()
}

/// Connections that say nothing, on both ports, from few machines: each machine has its share, nobody stays without
/// saying anything, and others find room.
#[tokio::test]
async fn silence_takes_no_room() -> Result<()> {
    let plane = start()?;
    let (before, _) = plane.memory()?;
    let mut held = Vec::new();
    for n in 0..2_000_u16 {
        let from = Ipv4Addr::new(127, 60, 0, if n < 1_200 { 1 } else { 2 });
        held.push(dial(from, plane.at(if n % 2 == 0 { PLAIN } else { TLS })).await?);
    }
    serves(&plane).await?;
    join(&plane, "n1").await.context("and joins")?;
    // Half of a handshake, and the preface of HTTP/2 letter by letter.
    let mut half = dial(Ipv4Addr::LOCALHOST, plane.at(TLS)).await?;
    half.write_all(&[22, 3, 1, 2, 0, 1, 0, 1]).await?;
    let (slow, begun) = (dial(Ipv4Addr::LOCALHOST, plane.at(PLAIN)).await?, Instant::now());
    let (mut slow_reads, mut slow_writes) = slow.into_split();
    let drip = async {
        for letter in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
            if slow_writes.write_all(&[*letter]).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(700)).await;
        }
    };
    let mut buffer = [0; 64];
    let ended = async { while slow_reads.read(&mut buffer).await.is_ok_and(|read| read > 0) {} };
    let (ended, ()) = tokio::join!(timeout(Duration::from_secs(9), ended), async {
        let _ = timeout(Duration::from_secs(7), drip).await;
    });
    ensure!(ended.is_ok(), "letter by letter for {:?}", begun.elapsed());
    ensure!(closed(&mut half, Duration::from_secs(1)).await, "half of a handshake");
    for (number, stream) in held.iter_mut().enumerate() {
        ensure!(
            closed(stream, Duration::from_secs(1)).await,
            "the silent connection {number} is still there"
        );
    }
    serves(&plane).await?;
    let (_, most) = plane.memory()?;
    let grown = most.saturating_sub(before) >> 20;
    ensure!(grown < 100, "{grown} MB for connections that say nothing");
    is_whole(&plane)
}

/// TLS handshakes are done and nothing more: such connections go as well.
#[tokio::test]
async fn a_handshake_is_no_reason_to_stay() -> Result<()> {
    let plane = start()?;
    let config = caller::client(&plane.roots()?, None)?;
    let to: SocketAddr = plane.at(TLS);
    let mut stream = caller::handshake(to, config).await?;
    let mut buffer = [0; 1024];
    let gone = async { while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {} };
    ensure!(timeout(Duration::from_secs(7), gone).await.is_ok(), "it stays");
    is_whole(&plane)
}

/// Streams that are opened and then say nothing wait for each other, not others for them.
#[tokio::test]
async fn silent_streams_take_their_own_turns() -> Result<()> {
    let plane = start()?;
    let channel = plain(&plane, Ipv4Addr::new(127, 60, 0, 3)).await?;
    let mut silent = Vec::new();
    for _ in 0..60 {
        silent.push(Subscriber::open(channel.clone(), Some("n9")).await?);
    }
    sleep(Duration::from_millis(200)).await;
    for _ in 0..5 {
        serves(&plane).await?;
    }
    is_whole(&plane)
}
