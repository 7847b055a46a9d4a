//! TLS at a gateway, as clients that mean harm speak it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::edge::pki::{Leaf, Pki};
use mesh_tests::edge::process::{Gateway, HTTPS, https, manifest, wait};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::stand::{HOST, MUTUAL, Stand};

pub(crate) type Session = StreamOwned<ClientConnection, TcpStream>;

/// A client that trusts `pki` and shows these certificates, if any.
fn client(pki: &Pki, shown: Option<(Vec<CertificateDer<'static>>, &str)>) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.pem().as_bytes())?)?;
    // One group of keys, so that a hello is short.
    let groups = vec![aws_lc_rs::kx_group::X25519];
    let provider = CryptoProvider { kx_groups: groups, ..aws_lc_rs::default_provider() };
    let builder =
        ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(roots);
    Ok(Arc::new(match shown {
        Some((chain, key)) => {
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes())?)?
        }
        None => builder.with_no_client_auth(),
    }))
}

pub(crate) fn with_leaf(pki: &Pki, leaf: &Leaf) -> Result<Arc<ClientConfig>> {
    client(pki, Some((vec![CertificateDer::from_pem_slice(leaf.certificate.as_bytes())?], &leaf.key)))
}

fn tcp(at: SocketAddr) -> Result<TcpStream> {
    let tcp = TcpStream::connect(at)?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(tcp)
}

pub(crate) fn session(config: Arc<ClientConfig>, at: SocketAddr) -> Result<Session> {
    Ok(StreamOwned::new(ClientConnection::new(config, ServerName::try_from(HOST)?)?, tcp(at)?))
}

/// The status of an answer to a request over this session, which stays.
fn ask(session: &mut Session) -> Result<String> {
    send(session, &format!("HEAD / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
}

/// The status of an answer that has no body.
pub(crate) fn send(session: &mut Session, request: &str) -> Result<String> {
    session.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        session.read_exact(&mut byte)?;
        answer.extend(byte);
    }
    Ok(String::from_utf8_lossy(&answer).chars().skip(9).take(3).collect())
}

/// A hello in two segments, and in two records, cut at every byte.
pub(crate) fn fragmented_hello(stand: &Stand) -> Result<()> {
    let config = client(&stand.pki, None)?;
    let length = hello(&config)?.1.len();
    ensure!(length > 150, "a hello of {length} bytes");
    for at in 1..length {
        let (mut session, first) = hello(&config)?;
        let (front, back) = first.split_at_checked(at).context("hellos of one length")?;
        let mut tcp = tcp(stand.gateway.at(HTTPS))?;
        tcp.write_all(front)?;
        thread::sleep(Duration::from_millis(1));
        tcp.write_all(back)?;
        served(&mut session, &mut tcp).with_context(|| format!("segments cut at {at}"))?;
    }
    for at in 1..length - HEADER {
        let (mut session, first) = hello(&config)?;
        let message = first.get(HEADER..).context("a record")?;
        let (front, back) = message.split_at_checked(at).context("hellos of one length")?;
        let mut tcp = tcp(stand.gateway.at(HTTPS))?;
        tcp.write_all(&[record(front), record(back)].concat())?;
        served(&mut session, &mut tcp).with_context(|| format!("records cut at {at}"))?;
    }
    Ok(())
}

fn hello(config: &Arc<ClientConfig>) -> Result<(ClientConnection, Vec<u8>)> {
    let mut session = ClientConnection::new(Arc::clone(config), ServerName::try_from(HOST)?)?;
    let mut first = Vec::new();
    session.write_tls(&mut first)?;
    Ok((session, first))
}

fn record(part: &[u8]) -> Vec<u8> {
    [&[0x16, 3, 1][..], &u16::try_from(part.len()).unwrap_or(0).to_be_bytes(), part].concat()
}

fn served(session: &mut ClientConnection, tcp: &mut TcpStream) -> Result<()> {
    let mut stream = rustls::Stream::new(session, tcp);
    stream.write_all(format!("HEAD / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    ensure!(answer == *b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// `openssl s_client` asks for a new handshake within TLS 1.2.
pub(crate) fn renegotiate(stand: &Stand) -> Result<()> {
    let at = stand.gateway.at(HTTPS).to_string();
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &at, "-servername", HOST, "-tls1_2", "-legacy_renegotiation"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("openssl")?;
    let mut input = child.stdin.take().context("its input")?;
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(500));
        // It may have ended after the first.
        let _ = input.write_all(b"R\n");
    }
    thread::sleep(Duration::from_millis(500));
    drop(input);
    let output = child.wait_with_output()?;
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    ensure!(
        said.contains("Protocol  : TLSv1.2") || said.contains("New, TLSv1.2"),
        "no TLS 1.2 at all: {said}"
    );
    ensure!(said.contains("RENEGOTIATING"), "it has not asked: {said}");
    // A second handshake would show the chain again.
    let after = said.split("RENEGOTIATING").skip(1).collect::<String>();
    ensure!(!after.contains("verify return:1") && !after.contains("depth="), "it renegotiates: {said}");
    Ok(())
}

/// Certificates each of which could have issued every other.
pub(crate) fn pathological_chain(stand: &Stand) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "anybody");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let leaf_key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec!["client.test".to_owned()])?;
    let leaf = leaf.signed_by(&leaf_key, &Issuer::from_params(&params, &key))?;
    for count in [3, 30, 100] {
        let mut chain = vec![leaf.der().clone()];
        for _ in 0..count {
            chain.push(params.self_signed(&key)?.der().clone());
        }
        let config = client(&stand.pki, Some((chain, &leaf_key.serialize_pem())))?;
        let begun = Instant::now();
        for _ in 0..10 {
            let seen = session(Arc::clone(&config), stand.gateway.at(MUTUAL))
                .and_then(|mut session| ask(&mut session));
            ensure!(seen.is_err(), "{count} certificates of nobody are enough: {seen:?}");
        }
        let took = begun.elapsed();
        ensure!(took < Duration::from_secs(5), "{count} certificates cost {took:?} in ten handshakes");
    }
    let good = with_leaf(&stand.pki, &stand.pki.leaf("client.test"))?;
    let status = ask(&mut session(good, stand.gateway.at(MUTUAL))?)?;
    ensure!(status == "200", "who has a good one gets {status}");
    Ok(())
}

/// A client that is revoked: it gets in no more, and what it has open ends; others notice nothing.
pub(crate) fn revoked_client(_: &Stand) -> Result<()> {
    let pki = Pki::new("clients");
    let gateway = Gateway::start(&[])?;
    let server = pki.leaf(HOST);
    let secret = |crl: &str| {
        let indented = format!("    {}\n", crl.lines().collect::<Vec<_>>().join("\n    "));
        server.secret("edge", Some(&pki.pem())) + "  ca.crl: |\n" + &indented
    };
    gateway.write("secret.yaml", &secret(&pki.crl(&[&[9, 9]])))?;
    gateway.write("gateway.yaml", &manifest(&https("mutual", HOST, "mode: MUTUAL, credentialName: edge")))?;
    let [bad, good] = [[7, 7], [8, 8]].map(|serial| with_leaf(&pki, &pki.numbered("client.test", &serial)));
    let (bad, good) = (bad?, good?);
    let at = gateway.at(HTTPS);
    let open = |config: &Arc<ClientConfig>| -> Result<Session> {
        let mut session = session(Arc::clone(config), at)?;
        let status = ask(&mut session)?;
        ensure!(status == "404", "{status}");
        Ok(session)
    };
    wait(Duration::from_secs(5), || open(&good).is_ok()).with_context(|| gateway.log())?;
    let (mut kept, mut lost) = (open(&good)?, open(&bad).context("nothing is revoked yet")?);
    gateway.write("secret.yaml", &secret(&pki.crl(&[&[9, 9], &[7, 7]])))?;
    let begun = Instant::now();
    wait(Duration::from_secs(3), || open(&bad).is_err()).context("who is revoked gets in")?;
    let took = begun.elapsed();
    ensure!(took < Duration::from_millis(1500), "let in for {took:?} after the revocation");
    lost.sock.set_read_timeout(Some(Duration::from_secs(1)))?;
    let end = lost.read(&mut [0]);
    let is_open =
        end.as_ref().is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
    ensure!(!is_open, "what is open stays so");
    ensure!(ask(&mut kept)? == "404", "a connection of somebody else");
    open(&good).context("somebody else")?;
    // A list that is none, and one that somebody else has signed in the name of the authority, change nothing.
    for list in [
        "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n".to_owned(),
        Pki::new("clients").crl(&[&[8, 8]]),
    ] {
        gateway.write("secret.yaml", &secret(&list))?;
        thread::sleep(Duration::from_secs(1));
        ensure!(open(&bad).is_err(), "a bad list lets in who is revoked: {list}");
    }
    Ok(())
}

/// Bytes of a record before its content.
const HEADER: usize = 5;
