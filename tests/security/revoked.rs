//! Certificates of clients that are revoked while their connections are open, at each kind of listener that asks for one.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::edge::pki;
use mesh_tests::edge::process::{Gateway, HTTPS, https, manifest, wait};
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber};

use crate::stand::Stand;
use crate::tls;

/// At a listener for clients of somebody else's authority, and at one for peers of the mesh.
pub(crate) fn ends_what_is_open(stand: &Stand) -> Result<()> {
    tls::revoked_client(stand)?;
    peer_of_the_mesh()
}

/// A peer with a stolen authority's certificate, at a listener with `ISTIO_MUTUAL`: what it has open ends within a second of the
/// list, and others notice nothing.
fn peer_of_the_mesh() -> Result<()> {
    let gateway =
        Gateway::certified(&[("gateway.yaml", &manifest(&https("mesh", "*", "mode: ISTIO_MUTUAL")))])?;
    let authority = gateway.state().join("ca");
    wait(PATIENCE, || authority.join("ca-key.pem").exists()).context("the authority")?;
    let read = |name: &str| fs::read_to_string(authority.join(name)).with_context(|| name.to_owned());
    let issuer = Issuer::from_ca_cert_pem(&read("ca-cert.pem")?, KeyPair::from_pem(&read("ca-key.pem")?)?)?;
    let place = tempfile::tempdir()?;
    let (mut bad, mut good) = (None, None);
    wait(PATIENCE, || {
        bad = Peer::open(&gateway, place.path(), &issuer, 7).ok();
        bad.is_some()
    })
    .with_context(|| gateway.log())?;
    wait(PATIENCE, || {
        good = Peer::open(&gateway, place.path(), &issuer, 8).ok();
        good.is_some()
    })?;
    let (mut bad, mut good) = (bad.context("a peer")?, good.context("another")?);
    let fresh = authority.join("fresh");
    fs::write(&fresh, pki::revoked(&issuer, &[&[7; 4]]))?;
    fs::rename(fresh, authority.join("ca-crl.pem"))?;
    let begun = Instant::now();
    wait(PATIENCE, || bad.has_ended()).with_context(|| format!("it stays open:\n{}", gateway.log()))?;
    let took = begun.elapsed();
    ensure!(took < SOON, "open for {took:?} after the revocation");
    ensure!(!good.has_ended(), "a connection of somebody else has ended");
    ensure!(Peer::open(&gateway, place.path(), &issuer, 7).is_err(), "who is revoked gets in");
    Peer::open(&gateway, place.path(), &issuer, 8).context("somebody else")?;
    Ok(())
}

/// A connection that was answered, and stays open.
struct Peer(Child);

impl Peer {
    /// One with a certificate of this serial number.
    fn open(gateway: &Gateway, place: &Path, issuer: &Issuer<'_, KeyPair>, serial: u8) -> Result<Self> {
        let mut params = CertificateParams::default();
        let name = Ia5String::try_from(format!("spiffe://cluster.local/ns/shop/sa/peer-{serial}"))?;
        params.subject_alt_names = vec![SanType::URI(name)];
        params.serial_number = Some(SerialNumber::from_slice(&[serial; 4]));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let (certificate, secret) =
            (place.join(format!("{serial}.crt")), place.join(format!("{serial}.key")));
        fs::write(&certificate, params.signed_by(&key, issuer)?.pem())?;
        fs::write(&secret, key.serialize_pem())?;
        let mut command = Command::new("openssl");
        command.args([
            "s_client",
            "-quiet",
            "-connect",
            &gateway.at(HTTPS).to_string(),
            "-servername",
            "a.test",
        ]);
        command.arg("-cert").arg(certificate).arg("-key").arg(secret);
        let output = place.join(format!("{serial}.out"));
        command.stdin(Stdio::piped()).stdout(fs::File::create(&output)?).stderr(Stdio::null());
        let mut peer = Self(command.spawn().context("openssl")?);
        let input = peer.0.stdin.as_mut().context("its input")?;
        input.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")?;
        let answered = || fs::read_to_string(&output).is_ok_and(|text| text.starts_with("HTTP/1.1 404"));
        wait(Duration::from_secs(1), answered).context("there is no answer")?;
        Ok(peer)
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

const PATIENCE: Duration = Duration::from_secs(10);
/// A second, and what a busy machine adds.
const SOON: Duration = Duration::from_millis(1500);
