//! Step 12: a node's mesh-node dies.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::console::count;
use super::curl::Fetched;
use super::kernel::Pins;
use super::tour::{Tour, all_ips, marker, time};
use super::wire::Wire;
use crate::bed::{Capture, PodHandle};

/// Kills it, shows that its pods are silent rather than in the clear, and starts it again.
pub(super) fn crash(tour: &mut Tour) -> Result<()> {
    tour.console.say(
        "What captures a pod's connections is in the kernel and stays there when mesh-node is gone. Then nothing \
         takes the connections, which is safe: the alternative would be plaintext.",
    );
    let sleep = tour.pod("default/sleep")?;
    let victim = sleep.status().node.clone();
    let links = Pins::of(&tour.bed, &victim)?.links()?.count();
    let pid = tour.bed.node(&victim)?.pid()?.context("mesh-node does not run")?;
    tour.console.command(&[&format!("kill -9 {pid}   # mesh-node of {victim}")]);
    tour.bed.node(&victim)?.kill9()?;
    let left = Pins::of(&tour.bed, &victim)?.links()?.count();
    let gone = tour.bed.node(&victim)?.pid()?.is_none();
    let seen = format!(
        "process {}; {} before, {left} now",
        if gone { "gone" } else { "there" },
        count(links, "hook")
    );
    tour.check("the process is gone and its hooks are not", gone && left == links, &seen)?;
    outgoing(tour, &sleep)?;
    incoming(tour, &sleep)?;
    tour.console.space();
    comes_back(tour, &sleep, &victim)
}

/// Recordings of the wire and of the pod's own interface, made while a request was attempted.
struct Attempt {
    fetched: Fetched,
    marker: String,
    wire: Wire,
    own: Wire,
}

impl Attempt {
    fn make(tour: &Tour, from: &PodHandle, at: &PodHandle, ip: std::net::IpAddr) -> Result<Self> {
        let marker = marker()?;
        let (wire, own) = (tour.bed.capture("wire")?, at.capture()?);
        let url = format!("http://{ip}:9080/reviews/{marker}");
        let fetched = tour.curl_within(from, "1", &["-H", &format!("x-secret: {marker}"), &url])?;
        let taken = |recording: Capture| Wire::new(recording.stop());
        Ok(Self { fetched, marker, wire: taken(wire), own: taken(own) })
    }

    fn readable(&self) -> usize {
        self.wire.showing(&self.marker) + self.own.showing(&self.marker)
    }
}

fn outgoing(tour: &mut Tour, sleep: &PodHandle) -> Result<()> {
    let server = tour.elsewhere("default/reviews", sleep)?;
    let ip = server.ip();
    tour.show_command(
        "default/sleep",
        &format!("curl -H 'x-secret: NUMBER' http://{ip}:9080/reviews/NUMBER"),
    );
    let attempt = Attempt::make(tour, sleep, sleep, ip)?;
    let readable = attempt.readable();
    let left = attempt.own.without_tunnels().sent_from(sleep.ip());
    let seen = format!(
        "{}; {} that opens or carries something left the pod; packets that show the number: {readable}",
        attempt.fetched.outcome(),
        count(left, "TCP packet"),
    );
    let holds = attempt.fetched.refused() && left == 0 && readable == 0;
    tour.check("`sleep` reaches nobody, and nothing leaves it", holds, &seen)
}

/// Somebody from outside the mesh, whom a PERMISSIVE pod admits as long as someone is there to decide.
fn incoming(tour: &mut Tour, sleep: &PodHandle) -> Result<()> {
    let client = tour.pod("outside/client")?;
    let pods = tour.pods("default/reviews");
    let target = pods.iter().find(|pod| pod.node == sleep.status().node);
    let target = tour.pod(&target.context("no pod of reviews on that node")?.full_name())?;
    let ip = target.ip();
    tour.show_command("outside/client", &format!("curl --max-time 1 http://{ip}:9080/reviews/0"));
    let attempt = Attempt::make(tour, &client, &target, ip)?;
    let readable = attempt.readable();
    // The node's own readiness probe may be under way as well.
    let own = attempt.own.among(&all_ips([client.status(), target.status()]));
    let seen = format!(
        "{}; {} arrived, {} came back, {} of data in them; packets that show the number: {readable}",
        attempt.fetched.outcome(),
        count(own.packets_from(client.ip()), "packet"),
        own.packets_from(ip),
        count(own.tls().bytes, "byte"),
    );
    let holds = attempt.fetched.refused() && readable == 0 && own.tls().bytes == 0;
    tour.check("nobody reaches its pods: not even in the clear, as in step 7", holds, &seen)
}

fn comes_back(tour: &mut Tour, sleep: &PodHandle, victim: &str) -> Result<()> {
    tour.console.say(&format!("mesh-node of {victim} is started again:"));
    let started = Instant::now();
    tour.bed.node(victim)?.start()?;
    let mut ready = None;
    let (fetched, served) = loop {
        let fetched = tour.curl_within(sleep, "1", &[super::page::PAGE])?;
        if ready.is_none() && tour.bed.node(victim)?.wait_ready(Duration::ZERO).is_ok() {
            ready = Some(started.elapsed());
        }
        if fetched.good() || started.elapsed() > PATIENCE {
            break (fetched, started.elapsed());
        }
    };
    // The page may be there before anybody has asked whether the node is ready.
    let ready = ready.unwrap_or(served);
    let seen =
        format!("{}; node ready {} after its start, page {}", fetched.outcome(), time(ready), time(served));
    let after = served.saturating_sub(ready);
    tour.check_effect("after the node's return the page works again", after, fetched.good(), &seen)?;
    tour.bed.node(victim)?.wait_ready(PATIENCE)?;
    let restarts: u32 = tour.pods("default/").iter().map(|pod| pod.restarts).sum();
    tour.check("no pod was restarted for it", restarts == 0, &count(restarts, "restart"))
}

/// How long a node may take to come back.
const PATIENCE: Duration = Duration::from_secs(10);
