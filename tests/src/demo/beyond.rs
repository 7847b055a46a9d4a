//! Step 10: what is outside of the mesh has a name, rules and a border. Step 11: a waypoint enforces rules in place of the
//! clients' nodes.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::curl::Fetched;
use super::tour::{Tour, time};
use crate::bed::PodHandle;
use crate::waypoint::{self, Source};

/// A host that only the mesh's DNS knows, a rule about it, and nothing else any more.
pub(super) fn outside(tour: &mut Tour) -> Result<()> {
    tour.console.say(
        "`external.test` is a server outside of the mesh. No DNS knows it: a ServiceEntry gives it a name, the mesh gives \
         it an address, and the node answers for both when a pod asks.",
    );
    let sleep = tour.pod("default/sleep")?;
    let written = tour.apply(EXTERNAL)?;
    tour.show_command("default/sleep", &format!("curl {OUTSIDE}/get"));
    let fetched = tour.until_within(&sleep, PATIENCE, &[&format!("{OUTSIDE}/get")], Fetched::good)?;
    let seen = format!("{}; {} after the file was written", fetched.outcome(), time(written.elapsed()));
    tour.check("the name leads to the server outside", fetched.good(), &seen)?;
    tour.console.space();
    ruled(tour, &sleep)?;
    tour.console.space();
    bordered(tour, &sleep)?;
    for (kind, namespace, name) in OUTSIDE_OBJECTS {
        tour.bed.delete(kind, namespace, name)?;
    }
    Ok(())
}

fn ruled(tour: &mut Tour, sleep: &PodHandle) -> Result<()> {
    tour.console.say("Rules hold for it as for any service, on the client's node:");
    let written = tour.apply("../egress/rules/timeout.yaml")?;
    let denied = |answer: &Fetched| answer.status == Some(403);
    let fetched = tour.until(sleep, &[&format!("{OUTSIDE}/denied")], denied)?;
    let took = written.elapsed();
    let seen = format!("{}; {} after the file was written", fetched.outcome(), time(took));
    tour.check_effect("/denied is answered with 403, and never leaves", took, denied(&fetched), &seen)?;
    let slow = tour.curl_within(sleep, "5", &[&format!("{OUTSIDE}/delay/1.5")])?;
    let late = slow.status == Some(504);
    tour.check("what takes longer than a second is answered with 504", late, &slow.outcome())
}

fn bordered(tour: &mut Tour, sleep: &PodHandle) -> Result<()> {
    tour.console.say("REGISTRY_ONLY: what no ServiceEntry names is not reached.");
    let written = tour.apply("../egress/rules/registry-only.yaml")?;
    let url = format!("http://{NOWHERE}/");
    tour.show_command("default/sleep", &format!("curl {url}"));
    let refused = |answer: &Fetched| answer.status == Some(502);
    // One that is let out on its way to nobody would wait for an answer.
    let fetched = tour.until(sleep, &["--max-time", "0.3", &url], refused)?;
    let took = written.elapsed();
    let seen = format!("{}; {} after the file was written", fetched.outcome(), time(took));
    tour.check_effect("an address of nobody is answered with 502", took, refused(&fetched), &seen)?;
    let fetched = tour.curl(sleep, &[&format!("{OUTSIDE}/get")])?;
    tour.check("`external.test` is still reached", fetched.good(), &fetched.outcome())
}

/// The rules of one namespace, in a process of its own.
pub(super) fn waypoint(tour: &mut Tour) -> Result<()> {
    tour.console.say(
        "Rules may be enforced away from the nodes: a waypoint is `mesh-node` once more, as a pod. The namespace `shop` \
         names one, so its services are reached through it or not at all.",
    );
    tour.apply("../waypoint/waypoint.yaml")?;
    tour.bed.wait_ready(STARTING, |_| ())?;
    let [caller, stranger] = [tour.pod("clients/caller")?, tour.pod("clients/stranger")?];
    let closed = tour.until_within(&caller, PATIENCE, &["--max-time", "2", HELLO], Fetched::refused)?;
    tour.check("there is no waypoint yet: nothing is reached", closed.refused(), &closed.outcome())?;

    let node = tour.bed.status().nodes.last().map(|node| node.name.clone()).unwrap_or_default();
    let source = if tour.embedded { Source::Directory } else { Source::Control };
    let pod = waypoint::pod(&tour.bed, source, ("shop", "waypoint"), &node)?;
    tour.console.quote("the pod `shop/waypoint-pod` runs `mesh-node waypoint --name shop/waypoint`");
    let written = Instant::now();
    tour.bed.apply(&pod)?;
    let served = |answer: &Fetched| answer.good() && answer.body.contains("\"x-served-by\":\"waypoint\"");
    tour.show_command("clients/caller", &format!("curl {HELLO}"));
    let fetched = tour.until_within(&caller, STARTING, &[HELLO], served)?;
    let seen = format!("{}; {} after its pod was written", fetched.outcome(), time(written.elapsed()));
    tour.check("with it the service answers, and says who served it", served(&fetched), &seen)?;
    let denied = |answer: &Fetched| answer.status == Some(403);
    let fetched = tour.until(&stranger, &[HELLO], denied)?;
    let expected = "`stranger` is not in the service's policy: 403";
    tour.check(expected, denied(&fetched), &fetched.outcome())
}

const EXTERNAL: &str = "../egress/external.yaml";

const OUTSIDE: &str = "http://external.test";

const HELLO: &str = "http://hello.shop/headers";

/// An address for documentation (RFC 5737): it is nobody's.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

/// What would be in the way of later steps.
const OUTSIDE_OBJECTS: [(&str, &str, &str); 4] = [
    ("ConfigMap", "istio-system", "istio"),
    ("VirtualService", "default", "external"),
    ("ServiceEntry", "external", "external"),
    ("Deployment", "external", "external"),
];

/// Pods that start, on a machine that is busy.
const STARTING: Duration = Duration::from_secs(60);

/// Until what a pod that has just started serves is known everywhere.
const PATIENCE: Duration = Duration::from_secs(20);
