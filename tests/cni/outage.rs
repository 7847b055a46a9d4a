//! What happens while something is not there: the agent, the word about a pod, our part of the configuration.

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::stand::{Pod, Stand};

#[test]
fn without_the_agent_only_excluded_namespaces_start() -> Result<()> {
    let stand = Stand::start()?;
    let running = stand.pod("mesh", "running")?;
    let (before, _) = stand.add(&running)?;
    stand.kill_agent()?;
    let began = Instant::now();
    let dns = stand.pod("kube-system", "dns")?;
    let (system, _) = stand.add(&dns)?;
    ensure!(began.elapsed() < Duration::from_secs(3), "a pod of kube-system took {:?}", began.elapsed());
    let client = stand.pod("mesh", "client")?;
    let sandbox = stand.sandbox(&client)?;
    let error = stand.chain("ADD", &sandbox)?.err().context("a pod was started without its agent")?;
    ensure!(error["code"] == 11, "{error}");
    let text = error.to_string();
    for part in ["mesh/client", "cni.sock", "mesh-node"] {
        ensure!(text.contains(part), "{part}: {error}");
    }
    // The end of a pod waits for nobody, and hooks stay as long as nobody says otherwise.
    let began = Instant::now();
    ensure!(stand.chain("DEL", &sandbox)?.is_ok() && stand.chain("DEL", &system)?.is_ok());
    ensure!(began.elapsed() < Duration::from_secs(5), "DEL took {:?}", began.elapsed());
    ensure!(stand.hooks(&running) > 0, "capture ended with the agent");
    stand.start_agent()?;
    stand.add(&client)?;
    stand
        .wait("the old sandbox as before", || stand.chain("CHECK", &before).is_ok_and(|said| said.is_ok()))?;
    Ok(())
}

#[test]
fn a_start_outlives_a_restart_of_the_agent() -> Result<()> {
    let stand = Arc::new(Stand::start()?);
    let early = stand.pod("mesh", "early")?;
    // It has neither a process nor an address that the API server knows: only the runtime's word tells of it.
    stand.add(&early)?;
    stand.kill_agent()?;
    let late = stand.pod("mesh", "late")?;
    let adding = {
        let (stand, late) = (stand.clone(), late.clone());
        thread::spawn(move || stand.add(&late).map(drop))
    };
    thread::sleep(Duration::from_millis(700));
    ensure!(!adding.is_finished(), "the start did not wait");
    stand.start_agent()?;
    adding.join().map_err(|_| anyhow::anyhow!("a panic"))??;
    for pod in [&early, &late] {
        ensure!(stand.hooks(pod) >= 3, "{} is not captured", pod.name);
    }
    Ok(())
}

#[test]
fn a_pod_that_nobody_knows_does_not_start() -> Result<()> {
    let stand = Arc::new(Stand::start()?);
    let unknown = Pod { namespace: "mesh", name: "unknown".into(), uid: "0000-11".into() };
    let sandbox = stand.sandbox(&unknown)?;
    let error = stand.chain("ADD", &sandbox)?.err().context("a pod that nobody knows was started")?;
    ensure!(error["code"] == 100 && error.to_string().contains("mesh/unknown"), "{error}");
    // One whose object comes a moment later does.
    let adding = {
        let (stand, sandbox) = (stand.clone(), stand.sandbox(&unknown)?);
        thread::spawn(move || stand.chain("ADD", &sandbox))
    };
    thread::sleep(Duration::from_millis(500));
    stand.publish(&unknown, None)?;
    let said = adding.join().map_err(|_| anyhow::anyhow!("a panic"))??;
    ensure!(said.is_ok(), "{said:?}");
    Ok(())
}

#[test]
fn the_plugin_stays_in_the_configuration_until_it_is_taken_out() -> Result<()> {
    let stand = Stand::start()?;
    for _ in 0..3 {
        stand.write_conflist()?;
        ensure!(!stand.installed(), "the file was not rewritten");
        stand.wait("the plugin back in the configuration", || stand.installed())?;
    }
    // Another configuration comes first by name now.
    let other = stand.path("conf/05-other.conf");
    let single = json!({"cniVersion": "0.3.1", "name": "other", "type": "bridge", "bridge": "cni1"});
    fs::write(&other, single.to_string())?;
    let list = other.with_extension("conflist");
    stand.wait("a chain made of a single plugin", || !other.exists() && list.exists())?;
    let chain: Value = serde_json::from_str(&fs::read_to_string(&list)?)?;
    ensure!(chain["plugins"][0]["bridge"] == "cni1" && chain["plugins"][1]["type"] == "mesh-cni", "{chain}");
    // A restart leaves it, a removal does not.
    stand.kill_agent()?;
    ensure!(stand.installed() && stand.path("bin/mesh-cni").exists());
    stand.cleanup()?;
    ensure!(!stand.installed() && !stand.path("bin/mesh-cni").exists() && !list.exists());
    ensure!(serde_json::from_str::<Value>(&fs::read_to_string(&other)?)? == single);
    let pod = stand.pod("mesh", "client")?;
    stand.add(&pod)?;
    ensure!(stand.hooks(&pod) == 0);
    Ok(())
}
