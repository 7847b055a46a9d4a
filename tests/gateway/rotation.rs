//! Certificates are replaced while clients come and go, and nobody is turned away.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::pki::{Leaf, Pki};
use crate::process::{Gateway, HTTPS, https, manifest, wait};

const HOST: &str = "a.shop.test";
/// A new certificate is shown within a second, on a machine that has nothing else to do.
const SOON: Duration = Duration::from_secs(3);
const ROTATIONS: usize = 8;

fn config(pki: &Pki) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.pem().as_bytes())?)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    // A session that goes on would show nothing.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Makes a whole handshake and returns the certificate.
fn handshake(address: SocketAddr, config: &Arc<ClientConfig>) -> Result<CertificateDer<'static>> {
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut tls = ClientConnection::new(Arc::clone(config), ServerName::try_from(HOST)?)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp)?;
    }
    tls.send_close_notify();
    tls.complete_io(&mut tcp).ok();
    let leaf = tls.peer_certificates().and_then(<[_]>::first).context("no certificate")?;
    Ok(leaf.clone().into_owned())
}

/// Has clients come all the time while `replace` puts one certificate after the other, each of which has to be shown
/// soon. None of the clients may be turned away.
fn rotate(gateway: &Gateway, pki: &Pki, replace: impl Fn(&Leaf) -> Result<()>) -> Result<()> {
    let (config, address) = (config(pki)?, gateway.at(HTTPS));
    wait(SOON, || handshake(address, &config).is_ok()).context("the first certificate")?;
    let (over, made, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let rotated = thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let outcome = handshake(address, &config);
                    let count = [&failed, &made][usize::from(outcome.is_ok())];
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let rotated = (0..ROTATIONS).try_for_each(|_| {
            let leaf = pki.leaf(HOST);
            replace(&leaf)?;
            let expected = CertificateDer::from_pem_slice(leaf.certificate.as_bytes())?;
            wait(SOON, || handshake(address, &config).is_ok_and(|shown| shown == expected))
        });
        over.store(true, Ordering::Relaxed);
        rotated
    });
    rotated.with_context(|| gateway.log())?;
    ensure!(
        failed.load(Ordering::Relaxed) == 0,
        "{failed:?} of {made:?} handshakes failed:\n{}",
        gateway.log()
    );
    ensure!(made.load(Ordering::Relaxed) > 100, "only {made:?} handshakes");
    Ok(())
}

#[test]
fn files_are_replaced_without_a_failed_handshake() -> Result<()> {
    let tls = "mode: SIMPLE, serverCertificate: '{dir}/a.crt', privateKey: '{dir}/a.key'";
    let gateway = Gateway::start(&[("gateway.yaml", &manifest(&https("a", HOST, tls)))])?;
    let pki = Pki::new("ours");
    assert!(gateway.dump()?["findings"].to_string().contains("no handshake succeeds there"));
    // One after the other, as somebody does who knows nothing of what lies between.
    let replace = |leaf: &Leaf| {
        gateway.put("a.crt", &leaf.certificate)?;
        thread::sleep(Duration::from_millis(100));
        gateway.put("a.key", &leaf.key)
    };
    replace(&pki.leaf(HOST))?;
    rotate(&gateway, &pki, replace)?;
    wait(SOON, || gateway.dump().is_ok_and(|dump| dump["findings"].as_array().is_some_and(Vec::is_empty)))
}

#[test]
fn secrets_are_replaced_without_a_failed_handshake() -> Result<()> {
    let pki = Pki::new("ours");
    let servers = https("a", HOST, "mode: SIMPLE, credentialName: shop");
    let first = pki.leaf(HOST);
    let gateway = Gateway::start(&[
        ("gateway.yaml", &manifest(&servers)),
        ("secret.yaml", &first.secret("shop", None)),
    ])?;
    rotate(&gateway, &pki, |leaf| gateway.write("secret.yaml", &leaf.secret("shop", None)))?;
    let (dump, log) = (gateway.dump()?.to_string(), gateway.log());
    let line = first.key.lines().nth(1).context("a key")?;
    ensure!(
        !dump.contains(line) && !log.contains(line) && !dump.contains("PRIVATE KEY"),
        "the key was shown"
    );
    ensure!(dump.contains("\"sha256\""), "the certificate is known by its hash");
    Ok(())
}

#[test]
fn authorities_of_clients_come_from_secrets_as_well() -> Result<()> {
    let (pki, clients) = (Pki::new("ours"), Pki::new("clients"));
    let servers = https("a", HOST, "mode: MUTUAL, credentialName: shop");
    let secret = pki.leaf(HOST).secret("shop", Some(&clients.pem()));
    let gateway = Gateway::start(&[("gateway.yaml", &manifest(&servers)), ("secret.yaml", &secret)])?;
    gateway.put("ca.crt", &pki.pem())?;
    let good = clients.leaf("client.test");
    gateway.put("client.pem", &[good.certificate, good.key].concat())?;
    let bad = pki.leaf("client.test");
    gateway.put("other.pem", &[bad.certificate, bad.key].concat())?;
    let file = |name: &str| gateway.file(name).display().to_string();
    let ask =
        |client: &str| gateway.curl(HOST, HTTPS, &["--cacert", &file("ca.crt"), "--cert", &file(client)]);
    assert_eq!((ask("client.pem")?.status, ask("other.pem")?.status), (404, 0));
    // The other way round from now on.
    gateway.write("secret.yaml", &pki.leaf(HOST).secret("shop", Some(&pki.pem())))?;
    wait(SOON, || ask("other.pem").is_ok_and(|answer| answer.status == 404))?;
    assert_eq!(ask("client.pem")?.status, 0);
    Ok(())
}
