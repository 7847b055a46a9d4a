//! Thousands of requests for certificates at once: most are not even looked at, and the nodes that renew meanwhile do not
//! notice.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Code;
use tonic::transport::Channel;

use crate::caller::{Svid, Wish, certificate_request, certify, join, tls_from};
use crate::discovery::{app, over};
use crate::plane::Plane;

/// What became of the requests of a flood.
#[derive(Default)]
struct Tally {
    end: AtomicBool,
    granted: AtomicU64,
    limited: AtomicU64,
    refused: AtomicU64,
}

const WEB: &str = "spiffe://cluster.local/ns/a/sa/a";
const HONEST: Ipv4Addr = Ipv4Addr::new(127, 50, 0, 2);

/// Asks as fast as it can, on as many streams as a connection allows.
fn flood(channels: Vec<Channel>, token: Option<&'static str>, tally: &Arc<Tally>) -> JoinSet<()> {
    let csr: Arc<str> = certificate_request().into();
    let mut streams = JoinSet::new();
    for channel in channels {
        for _ in 0..100 {
            let (channel, tally, csr) = (channel.clone(), Arc::clone(tally), Arc::clone(&csr));
            streams.spawn(async move {
                while !tally.end.load(Ordering::Relaxed) {
                    let wish = Wish { token, ..Wish::default() };
                    let answer = crate::caller::ask(channel.clone(), csr.to_string(), &wish).await;
                    let count = match answer.map_err(|status| status.code()) {
                        Ok(_) => &tally.granted,
                        Err(Code::ResourceExhausted) => &tally.limited,
                        Err(_) => &tally.refused,
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }
    streams
}

async fn channels(plane: &Plane, from: Ipv4Addr, svid: Option<&Svid>) -> Result<Vec<Channel>> {
    let mut channels = Vec::new();
    for _ in 0..3 {
        channels.push(tls_from(from, plane, svid).await?);
    }
    Ok(channels)
}

/// A node renews for ten seconds, and a machine joins each second: how long the slowest of each had to wait.
async fn meanwhile(plane: &Plane, node: &Svid) -> Result<(Duration, Duration)> {
    let (mut renewed, mut joined) = (Duration::ZERO, Duration::ZERO);
    for round in 0..10 {
        for _ in 0..5 {
            let begun = Instant::now();
            let wish = Wish { impersonated: Some(WEB), ..Wish::default() };
            certify(tls_from(HONEST, plane, Some(node)).await?, &wish).await?;
            renewed = renewed.max(begun.elapsed());
            sleep(Duration::from_millis(150)).await;
        }
        let token = plane.token("n2", &[])?;
        let begun = Instant::now();
        let wish = Wish { token: Some(&token), ..Wish::default() };
        let from = Ipv4Addr::new(127, 51, 0, round + 1);
        certify(tls_from(from, plane, None).await?, &wish).await?;
        joined = joined.max(begun.elapsed());
    }
    Ok((renewed, joined))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_requests_is_turned_away_and_nodes_that_renew_do_not_wait() -> Result<()> {
    let plane =
        over(&[("a.yaml", app("a", "n1", "10.1.0.1", 80)), ("b.yaml", app("b", "n2", "10.2.0.2", 80))])?;
    let (good, bad) = (join(&plane, "n1").await?, join(&plane, "n2").await?);
    let (before, _) = plane.memory()?;
    let (strangers, thief) = (Arc::new(Tally::default()), Arc::new(Tally::default()));
    // One machine with tokens that it makes up, and one that has got hold of a node's certificate.
    let from = Ipv4Addr::new(127, 60, 0, 1);
    let mut floods = flood(channels(&plane, from, None).await?, Some("made-up"), &strangers);
    let from = Ipv4Addr::new(127, 60, 0, 2);
    let mut more = flood(channels(&plane, from, Some(&bad)).await?, None, &thief);
    let begun = Instant::now();
    let served = meanwhile(&plane, &good).await;
    let seconds = begun.elapsed().as_secs();
    for (tally, flood) in [(&strangers, &mut floods), (&thief, &mut more)] {
        tally.end.store(true, Ordering::Relaxed);
        flood.shutdown().await;
    }
    let (renewed, joined) = served?;
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    for (who, tally) in [("strangers", &strangers), ("a thief", &thief)] {
        let (granted, limited, refused) = (read(&tally.granted), read(&tally.limited), read(&tally.refused));
        ensure!(limited > 1_000, "{who}: only {limited} were not looked at");
        // What is left after a rest, and what comes back meanwhile.
        let most = 1_000 + 50 * (seconds + 2);
        ensure!(granted + refused <= most, "{who}: {} were looked at", granted + refused);
    }
    let limit = Duration::from_secs(1);
    ensure!(renewed < limit, "a node that renewed waited for {renewed:?}");
    ensure!(joined < limit, "a node that joined waited for {joined:?}");
    let counted = plane.metric("mesh_control_certificates_limited_total")?;
    ensure!(counted >= read(&strangers.limited) + read(&thief.limited), "{counted} are counted");
    let (now, _) = plane.memory()?;
    ensure!(now < before + (100 << 20), "{} MB more memory", (now - before) >> 20);
    // Nor does the log tell of each.
    let lines = plane.log().lines().filter(|line| line.contains("was not looked at")).count();
    let most = usize::try_from(20 * (seconds + 3))?;
    ensure!((1..=most).contains(&lines), "{lines} lines about what was not looked at");
    ensure!(plane.metric("mesh_panics_total")? == 0, "a task has panicked");
    Ok(())
}
