//! Pods that come, go and come again.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::stand::{Pod, Stand};

/// A server that takes nothing but the mesh, and whose address everybody knows.
pub(crate) fn server(stand: &Stand) -> Result<String> {
    let pod = stand.pod("mesh", "server")?;
    let (sandbox, ip) = stand.add(&pod)?;
    stand.serve(&sandbox)?;
    stand.publish(&pod, Some(&ip))?;
    // The agent reads files a moment later than they are written.
    let probe = stand.pod("mesh", "probe")?;
    let (probe, _) = stand.add(&probe)?;
    stand.wait("the server to be reached", || stand.dial(&probe, &ip).is_ok_and(|seen| seen.served()))?;
    Ok(ip)
}

/// The API server does not know its address yet, and it has had no process before.
#[test]
fn the_first_connection_of_a_pod_is_captured() -> Result<()> {
    let stand = Stand::start()?;
    let server = server(&stand)?;
    for round in 0..5 {
        let client = stand.pod("mesh", &format!("client-{round}"))?;
        let (sandbox, ip) = stand.add(&client)?;
        let seen = stand.dial(&sandbox, &server)?;
        ensure!(seen.served(), "round {round}: {seen:?}\n{}", stand.log());
        stand.publish(&client, Some(&ip))?;
    }
    let stranger = stand.pod("outside", "stranger")?;
    let (sandbox, _) = stand.add(&stranger)?;
    ensure!(stand.hooks(&stranger) == 0, "a pod that is not enrolled was captured");
    let seen = stand.dial(&sandbox, &server)?;
    ensure!(!seen.served(), "in plaintext: {seen:?}");
    Ok(())
}

#[test]
fn the_result_of_the_chain_is_passed_on() -> Result<()> {
    let stand = Stand::start()?;
    let pod = stand.pod("mesh", "client")?;
    let sandbox = stand.sandbox(&pod)?;
    let mut conf = stand.conf()?;
    let result = json!({"cniVersion": "1.1.0", "interfaces": [], "ips": [], "dns": {}, "vendor.io/kept": {"a": [1, 2.5]}});
    conf["prevResult"] = result.clone();
    ensure!(stand.plugin("ADD", Some(&sandbox), &conf)?.is_err(), "a pod without any address was let start");
    let outside = stand.sandbox(&stand.pod("kube-system", "dns")?)?;
    ensure!(stand.plugin("ADD", Some(&outside), &conf)? == Ok(result), "changed");
    Ok(())
}

/// A sandbox that fails is taken down and made anew, with another id and another namespace, for the same pod.
#[test]
fn a_sandbox_that_ends_is_let_go_and_the_next_is_captured() -> Result<()> {
    let stand = Stand::start()?;
    let server = server(&stand)?;
    let pod = stand.pod("mesh", "client")?;
    for round in 0..3 {
        let (sandbox, _) = stand.add(&pod)?;
        ensure!(stand.hooks(&pod) >= 3, "round {round}: {} hooks", stand.hooks(&pod));
        ensure!(stand.chain("CHECK", &sandbox)?.is_ok(), "round {round}: CHECK");
        let seen = stand.dial(&sandbox, &server)?;
        ensure!(seen.served(), "round {round}: {seen:?}");
        ensure!(stand.chain("DEL", &sandbox)?.is_ok(), "round {round}: DEL");
        stand.wait("no hook of the sandbox", || stand.hooks(&pod) == 0)?;
        ensure!(stand.chain("DEL", &sandbox)?.is_ok(), "round {round}: DEL once more");
    }
    // Without a DEL, as after a crash of the runtime.
    let (first, _) = stand.add(&pod)?;
    let (second, _) = stand.add(&pod)?;
    let seen = stand.dial(&second, &server)?;
    ensure!(seen.served(), "{seen:?}");
    stand.chain("DEL", &first)?.ok().context("DEL of the first")?;
    thread::sleep(Duration::from_millis(500));
    let seen = stand.dial(&second, &server)?;
    ensure!(seen.served(), "after the end of the first: {seen:?}");
    Ok(())
}

/// As a `StatefulSet` has it: the next of the name is another pod, and the word about the old one says nothing of it.
#[test]
fn a_pod_that_comes_back_under_its_name_waits_for_its_own_word() -> Result<()> {
    let stand = Arc::new(Stand::start()?);
    let first = stand.pod("mesh", "web-0")?;
    let (old, _) = stand.add(&first)?;
    let second = Pod { uid: first.uid.replace("-4000-", "-4001-"), ..first.clone() };
    let adding = {
        let (stand, second) = (stand.clone(), second.clone());
        thread::spawn(move || stand.add(&second).map(drop))
    };
    thread::sleep(Duration::from_millis(700));
    ensure!(!adding.is_finished(), "it was taken for the old one");
    stand.publish(&second, None)?;
    adding.join().map_err(|_| anyhow::anyhow!("a panic"))??;
    ensure!(stand.hooks(&second) >= 3, "not captured");
    stand.chain("DEL", &old)?.ok().context("DEL of the old one")?;
    stand.wait("no hook of the old one", || stand.hooks(&first) == 0)?;
    ensure!(stand.hooks(&second) >= 3, "the end of the old one took the new one's capture");
    Ok(())
}

/// As some plugins add them.
#[test]
fn an_interface_that_comes_later_is_guarded() -> Result<()> {
    let stand = Stand::start()?;
    let pod = stand.pod("mesh", "client")?;
    let (sandbox, _) = stand.add(&pod)?;
    let before = stand.hooks(&pod);
    sandbox.add_interfaces()?;
    stand.wait("guards of both interfaces", || stand.hooks(&pod) == before + 4)?;
    Ok(())
}

#[test]
fn what_a_collection_does_not_name_is_let_go() -> Result<()> {
    let stand = Stand::start()?;
    let (kept, gone) = (stand.pod("mesh", "kept")?, stand.pod("mesh", "gone")?);
    let (valid, _) = stand.add(&kept)?;
    stand.add(&gone)?;
    ensure!(stand.hooks(&kept) > 0 && stand.hooks(&gone) > 0, "not captured");
    let mut conf = stand.conf()?;
    // As libraries of today do, which send what they know by two names.
    for name in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        conf[name] = json!([{"containerID": valid.container, "ifname": "eth0"}]);
    }
    ensure!(stand.plugin("GC", None, &conf)?.is_ok());
    stand.wait("no hook of what is gone", || stand.hooks(&gone) == 0)?;
    ensure!(stand.hooks(&kept) > 0, "what was named is gone as well");
    ensure!(stand.plugin("STATUS", None, &conf)?.is_ok());
    let version = stand.plugin("VERSION", None, &conf)?;
    ensure!(version.is_ok_and(|said| said["supportedVersions"].as_array().is_some_and(|all| all.len() > 2)));
    Ok(())
}

#[test]
fn fifty_pods_start_at_once() -> Result<()> {
    let stand = Arc::new(Stand::start()?);
    let server = server(&stand)?;
    let began = Instant::now();
    let start = |number| {
        let stand = stand.clone();
        thread::spawn(move || {
            let pod = stand.pod("mesh", &format!("crowd-{number}"))?;
            Ok::<_, anyhow::Error>((stand.add(&pod)?.0, pod))
        })
    };
    let threads: Vec<_> = (0..50).map(start).collect();
    let mut all = Vec::new();
    for thread in threads {
        all.push(thread.join().map_err(|_| anyhow::anyhow!("a panic"))??);
    }
    ensure!(began.elapsed() < Duration::from_secs(30), "took {:?}", began.elapsed());
    for (_, pod) in &all {
        ensure!(stand.hooks(pod) >= 3, "{} is not captured", pod.name);
    }
    let (last, _) = all.last().context("fifty")?;
    ensure!(stand.dial(last, &server)?.served());
    Ok(())
}
