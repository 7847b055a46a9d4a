//! The shortcut: packets of express flows that last go straight from one pod's interface into the other's.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, Inbound, Network, PodHandle};
use mesh_tests::numbered::Seen;
use mesh_tests::scenario::{at, at6, logged, manifests, start};

use super::deny;

struct Stage {
    bed: Bed,
    client: PodHandle,
    near: PodHandle,
}

impl Stage {
    fn new(network: Network) -> Result<Self> {
        let builder = Bed::builder().nodes(2).network(network).inbound(Inbound::SkLookup);
        let bed = start(builder.manifests(manifests()))?;
        let (client, near) = (bed.pod("mesh/client")?, bed.pod("mesh/near")?);
        let stage = Self { bed, client, near };
        stage.wait("the shortcut of both pods", |stage| Ok(stage.attached()? == 2))?;
        Ok(stage)
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        Ok(self.bed.wait(what, Duration::from_secs(8), |_| is_so(self).unwrap_or(false))?)
    }

    /// Pods whose flows take it, as the admin port says.
    fn attached(&self) -> Result<usize> {
        let dump = self.bed.node("node-1")?.admin("/config_dump")?;
        Ok(dump.matches("\"shortcut\": \"attached\"").count())
    }

    /// Packets that the node has forwarded between pods.
    fn forwarded(&self) -> Result<u64> {
        let words = ["sh", "-c", "cat /proc/net/snmp /proc/net/snmp6"];
        let text = String::from_utf8_lossy(&self.bed.node("node-1")?.exec(&words)?.stdout).into_owned();
        let mut ip = text.lines().filter(|line| line.starts_with("Ip: ")).map(|line| line.split(' '));
        let (names, values) = (ip.next().context("no names")?, ip.next().context("no values")?);
        let v4 = names.zip(values).find(|(name, _)| *name == "ForwDatagrams").map(|(_, value)| value);
        let v6 = text.lines().find_map(|line| line.strip_prefix("Ip6OutForwDatagrams")).map(str::trim);
        Ok(v4.context("no IPv4")?.parse::<u64>()? + v6.context("no IPv6")?.parse::<u64>()?)
    }

    /// A stream of numbers there and back, so many blocks a second, with something else in its midst.
    fn stream(&self, to: &str, seconds: u32, amid: impl FnOnce() -> Result<()>) -> Result<Seen> {
        let seconds = seconds.to_string();
        let words = ["netprobe", "numbered", to, "--blocks", "200", "--seconds", &seconds];
        let flow = self.client.spawn(&words)?;
        std::thread::sleep(Duration::from_millis(800));
        amid()?;
        let (status, lines) = flow.wait(Duration::from_secs(30))?;
        let text = lines.join("\n");
        ensure!(status.success(), "{text}");
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// Puts another's classifiers to the host's end of every pod, or takes them off; waits until the node has seen it.
    fn obstruct(&self, verb: &str) -> Result<()> {
        let script = format!(
            "set -e; ends=$(ip -o link show type veth | cut -d' ' -f2 | cut -d@ -f1); test \"$ends\"; \
             for end in $ends; do tc qdisc {verb} dev $end clsact; done"
        );
        let output = self.bed.node("node-1")?.exec(&["sh", "-c", &script])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

fn whole(seen: &Seen) -> Result<()> {
    ensure!(seen.error.is_none() && seen.sent == seen.back && seen.sent > 0, "{seen:?}");
    Ok(())
}

fn it_is_taken(network: Network) -> Result<()> {
    let stage = Stage::new(network)?;
    for to in [at(&stage.near), at6(&stage.near)] {
        let before = stage.forwarded()?;
        let seen = stage.stream(&to, 2, || Ok(()))?;
        whole(&seen)?;
        // There and back, 64 KiB at most in a packet: what the host sees of it is its beginning.
        let (least, forwarded) = (seen.sent * 2 / (64 << 10), stage.forwarded()? - before);
        ensure!(least > 200 && forwarded < least / 4, "{to}: {forwarded} forwarded, {seen:?}");
    }
    Ok(())
}

#[test]
fn lasting_flows_pass_the_host_by() -> Result<()> {
    it_is_taken(Network::Routed)
}

#[test]
fn the_same_between_pods_of_a_bridge() -> Result<()> {
    it_is_taken(Network::Bridged)
}

/// Connection tracking has lost sight of the flow; where rules drop what it takes for invalid, nothing may be dropped.
#[test]
fn a_flow_outlives_its_shortcut() -> Result<()> {
    let stage = Stage::new(Network::Routed)?;
    let node = stage.bed.node("node-1")?;
    for tool in ["iptables", "ip6tables"] {
        let rule = format!("{tool} -I FORWARD -m conntrack --ctstate INVALID -j DROP");
        ensure!(node.exec(&["sh", "-c", &rule])?.status.success(), "{rule}");
    }
    for (to, moment) in [(at(&stage.near), 800), (at6(&stage.near), 800), (at(&stage.near), 0)] {
        let before = stage.forwarded()?;
        let seen = stage.stream(&to, 4, || {
            // At once, or after the node has told connection tracking.
            std::thread::sleep(Duration::from_millis(moment));
            stage.obstruct("add")
        })?;
        whole(&seen)?;
        ensure!(seen.longest_gap_ms < 1_500, "{to}: {seen:?}");
        ensure!(stage.forwarded()? - before > 50, "it has not lost the shortcut");
        stage.obstruct("del")?;
        stage.wait("the shortcut again", |stage| Ok(stage.attached()? == 2))?;
    }
    Ok(())
}

#[test]
fn programs_of_others_are_not_passed_by() -> Result<()> {
    let stage = Stage::new(Network::Routed)?;
    stage.obstruct("add")?;
    stage.wait("no shortcut", |stage| Ok(stage.attached()? == 0))?;
    logged(&stage.bed, "node-1", &["keep the long way", "clsact"])?;
    let before = stage.forwarded()?;
    let seen = stage.stream(&at(&stage.near), 1, || Ok(()))?;
    whole(&seen)?;
    ensure!(stage.forwarded()? - before >= seen.sent * 2 / (64 << 10), "it passes others by");
    Ok(())
}

#[test]
fn a_change_of_policy_cuts_flows_on_the_shortcut() -> Result<()> {
    let stage = Stage::new(Network::Routed)?;
    let begun = Instant::now();
    let seen = stage.stream(&at(&stage.near), 8, || stage.bed.apply(&deny(7000)).map_err(Into::into))?;
    ensure!(
        seen.error.is_some() && begun.elapsed() < Duration::from_secs(5),
        "{seen:?} {:?}",
        begun.elapsed()
    );
    Ok(())
}

/// What carries a flow is in the kernel.
#[test]
fn a_dead_node_disturbs_no_express_flow() -> Result<()> {
    let stage = Stage::new(Network::Routed)?;
    let seen = stage.stream(&at(&stage.near), 3, || {
        stage.bed.node("node-1")?.kill9()?;
        // New ones are decided by the last verdicts.
        let seen = stage.stream(&at(&stage.near), 1, || Ok(()))?;
        whole(&seen)?;
        Ok(stage.bed.node("node-1")?.start()?)
    })?;
    whole(&seen)?;
    ensure!(seen.longest_gap_ms < 500, "{seen:?}");
    Ok(())
}
