//! From one root to the next while clients come and go: none of them fails.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_proto::mesh::TrustBundle;
use mesh_proto::names::ResourceType;
use prost::Message as _;

use crate::caller::{Svid, Wish, certify, join, tls_under};
use crate::plane::Plane;
use crate::subscriber::Subscriber;

/// What the control plane and its operator agree on.
const TERMS: [&str; 4] = ["--max-svid-lifetime", "2s", "--propagation", "6s"];

fn rotate(plane: &Plane, step: &str) -> Result<bool> {
    let output = plane.command(&[&["ca", "rotate", step], &TERMS[..]].concat())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let early = !output.status.success() && said.contains("yet");
    ensure!(output.status.success() || early, "{step}: {said}");
    Ok(output.status.success())
}

/// A node: it trusts what discovery tells, and shows the certificate that it was given last.
struct Client {
    stream: Subscriber,
    roots: Vec<u8>,
    svid: Svid,
    handshakes: usize,
}

impl Client {
    async fn join(plane: &Plane, node: &str) -> Result<Self> {
        let svid = join(plane, node).await?;
        let mut stream = Subscriber::plain(plane, node).await?;
        stream.ask(&[ResourceType::Trust]).await?;
        stream.hear("trust").await?;
        Ok(Self { roots: bundle(&stream)?, stream, svid, handshakes: 0 })
    }

    /// A handshake in which both sides prove themselves, and a new certificate by it.
    async fn renew(&mut self, plane: &Plane) -> Result<()> {
        let channel =
            tls_under(plane, &self.roots, Some(&self.svid)).await.context("the server is not trusted")?;
        self.svid = certify(channel, &Wish::default()).await.context("the client is not trusted")?;
        self.handshakes += 1;
        Ok(())
    }

    /// For 250 ms it hears what there is to trust.
    async fn listen(&mut self) -> Result<()> {
        let pause = Duration::from_millis(250);
        // Silence is what there is to hear most of the time.
        if self.stream.hear_within("trust", pause).await.is_ok() {
            self.roots = bundle(&self.stream)?;
        }
        Ok(())
    }
}

fn bundle(stream: &Subscriber) -> Result<Vec<u8>> {
    let bytes = stream.content(ResourceType::Trust, "trust")?;
    Ok(TrustBundle::decode(bytes)?.roots.as_bytes().to_vec())
}

fn count(roots: &[u8]) -> usize {
    String::from_utf8_lossy(roots).matches("BEGIN CERTIFICATE").count()
}

#[tokio::test]
async fn the_root_changes_and_nobody_notices() -> Result<()> {
    let plane = Plane::start(&[], &TERMS[..2])?;
    let mut client = Client::join(&plane, "n1").await?;
    let first = client.roots.clone();
    ensure!(count(&first) == 1, "one root");
    ensure!(rotate(&plane, "begin")?, "a step that is always in time");
    ensure!(!rotate(&plane, "switch")?, "nobody trusts the next root yet");
    let mut left = vec!["switch", "finish"];
    let (mut most, end) = (0, Instant::now() + Duration::from_secs(30));
    while !left.is_empty() {
        ensure!(Instant::now() < end, "still to do: {left:?}");
        client
            .renew(&plane)
            .await
            .with_context(|| format!("after {} handshakes, before {left:?}", client.handshakes))?;
        client.listen().await?;
        most = most.max(count(&client.roots));
        if rotate(&plane, left[0])? {
            left.remove(0);
            ensure!(left.is_empty() || !rotate(&plane, left[0])?, "certificates of the old root are in use");
        }
    }
    let end = Instant::now() + Duration::from_secs(6);
    while count(&client.roots) > 1 && Instant::now() < end {
        client.renew(&plane).await?;
        client.listen().await?;
    }
    client.renew(&plane).await?;
    ensure!(most == 2, "both roots were told: {most}");
    ensure!(count(&client.roots) == 1 && client.roots != first, "the new root alone is left");
    ensure!(client.handshakes > 20, "{} handshakes", client.handshakes);
    let steps = plane.metric("citadel_server_csr_sign_err_count")?;
    ensure!(steps == 0, "{steps} certificates were not signed");
    Ok(())
}
