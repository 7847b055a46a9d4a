//! Step 5: what the wire between the nodes shows.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::console::count;
use super::curl::Fetched;
use super::tour::{Tour, all_ips, marker};
use super::wire::Wire;
use crate::bed::PodHandle;

/// Sends a marker across, once through the mesh and once beside it.
pub(super) fn encrypted(tour: &mut Tour) -> Result<()> {
    tour.console.say(
        "Every packet between the nodes is recorded while a request with a secret number in its path and in a header \
         goes from a pod to one on another node. The server repeats the number, so it is in the answer too.",
    );
    inside(tour)?;
    tour.console.space();
    page(tour)?;
    tour.console.space();
    outside(tour)
}

/// What one request has left on the wire.
struct Crossing {
    fetched: Fetched,
    marker: String,
    wire: Wire,
}

impl Crossing {
    /// How many packets show the marker, and how many show HTTP.
    fn readable(&self) -> (usize, usize) {
        (self.wire.showing(&self.marker), self.wire.showing("HTTP/1.1"))
    }

    fn told(&self) -> String {
        let tls = self.wire.tls();
        let (marked, http) = self.readable();
        let ports: Vec<String> = self.wire.ports().iter().map(u16::to_string).collect();
        format!(
            "{}; {} between pods, port {}; {} of payload: {} TLS records of data, {} of handshakes, {} that are not \
             TLS; packets that show the number: {marked}, that show \"HTTP/1.1\": {http}",
            self.fetched.outcome(),
            count(self.wire.packets(), "TCP packet"),
            if ports.is_empty() { "-".to_owned() } else { ports.join(", ") },
            count(tls.bytes, "byte"),
            tls.data,
            tls.handshake,
            count(tls.foreign, "byte"),
        )
    }

    /// The request worked, something crossed, and all of it was TLS on the tunnel's port.
    fn secret(&self) -> bool {
        let tls = self.wire.tls();
        let only_tunnels = self.wire.ports() == BTreeSet::from([mesh_common::TUNNEL_PORT]);
        self.fetched.good() && only_tunnels && tls.data > 0 && tls.foreign == 0 && self.readable() == (0, 0)
    }
}

/// Makes a request with a marker in it while the wire is recorded.
fn cross(tour: &Tour, from: &PodHandle, url: &dyn Fn(&str) -> String, header: &str) -> Result<Crossing> {
    let marker = marker()?;
    let recording = tour.bed.capture("wire")?;
    let fetched = tour.curl(from, &["-H", &format!("{header}: {marker}"), &url(&marker)])?;
    ensure!(!recording.overflowed(), "the recording has lost packets");
    let pods = tour.bed.status().pods;
    let wire = Wire::new(recording.stop()).among(&all_ips(&pods));
    Ok(Crossing { fetched, marker, wire })
}

fn show_recording(tour: &mut Tour, from: &str, request: &str) {
    let wire = tour.bed.status().wire;
    let name = wire.file_name().unwrap_or_default().display().to_string();
    tour.console.command(&[&format!("ip netns exec {name} tcpdump -ni any -A tcp")]);
    tour.show_command(from, request);
}

fn inside(tour: &mut Tour) -> Result<()> {
    let sleep = tour.pod("default/sleep")?;
    let reviews = tour.elsewhere("default/reviews", &sleep)?;
    let ip = reviews.ip();
    show_recording(
        tour,
        "default/sleep",
        &format!("curl -H 'x-secret: NUMBER' http://{ip}:9080/reviews/NUMBER"),
    );
    let crossing = cross(tour, &sleep, &|marker| format!("http://{ip}:9080/reviews/{marker}"), "x-secret")?;
    let arrived = crossing.fetched.body.contains(&crossing.marker);
    let expected =
        "an answer that repeats the number; on the wire only port 15008, only TLS, the number nowhere";
    tour.check(expected, arrived && crossing.secret(), &crossing.told())
}

/// The services hand `x-request-id` on to each other, so it crosses with every call that the page makes.
fn page(tour: &mut Tour) -> Result<()> {
    let sleep = tour.pod("default/sleep")?;
    show_recording(tour, "default/sleep", &format!("curl -H 'x-request-id: NUMBER' {}", super::page::PAGE));
    let crossing = cross(tour, &sleep, &|_| super::page::PAGE.to_owned(), "x-request-id")?;
    let title = crossing.wire.showing(super::page::TITLE);
    let seen = format!("{}; that show the page's title: {title}", crossing.told());
    tour.check("the page, and nothing but TLS on the wire", title == 0 && crossing.secret(), &seen)
}

/// The control experiment: the same recorder does see what is not encrypted.
fn outside(tour: &mut Tour) -> Result<()> {
    tour.console.say("For comparison the same between two pods outside the mesh:");
    tour.show_apply("plain/reviews.yaml");
    tour.bed.apply(&tour.sample("plain/reviews.yaml")?)?;
    let client = tour.pod("outside/client")?;
    tour.wait_for("`plain-reviews` to be ready", |status| {
        let mut plain = status.pods.iter().filter(|pod| pod.name.starts_with("plain-reviews"));
        plain.clone().count() > 0 && plain.all(|pod| pod.ready)
    })?;
    let server = tour.elsewhere("outside/plain-reviews", &client)?;
    let ip = server.ip();
    tour.show_command(
        "outside/client",
        &format!("curl -H 'x-secret: NUMBER' http://{ip}:9080/reviews/NUMBER"),
    );
    let crossing = cross(tour, &client, &|marker| format!("http://{ip}:9080/reviews/{marker}"), "x-secret")?;
    let (marked, http) = crossing.readable();
    let holds = crossing.fetched.good() && marked > 0 && http > 0 && crossing.wire.tls().data == 0;
    tour.check("the recorder shows the number and the text around it, and no TLS", holds, &crossing.told())?;
    tour.bed.delete("Deployment", "outside", "plain-reviews")?;
    Ok(())
}
