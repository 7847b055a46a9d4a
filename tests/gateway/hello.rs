//! First messages of TLS made to hurt: each ends the connection in time and costs nobody else anything; one that is only cut
//! strangely is served.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::pki::{Leaf, Pki};
use crate::process::{Gateway, HTTPS, https, manifest, wait};

const HOST: &str = "a.shop.test";

fn start(pki: &Pki) -> Result<Gateway> {
    let gateway = Gateway::start(&[])?;
    let Leaf { certificate, key } = pki.leaf(HOST);
    gateway.put("a.crt", &certificate)?;
    gateway.put("a.key", &key)?;
    gateway.put("ca.crt", &pki.pem())?;
    let tls = "mode: SIMPLE, serverCertificate: '{dir}/a.crt', privateKey: '{dir}/a.key'";
    gateway.write("gateway.yaml", &manifest(&https("a", HOST, tls)))?;
    wait(Duration::from_secs(5), || TcpStream::connect(gateway.at(HTTPS)).is_ok())?;
    Ok(gateway)
}

/// An extension of a hello.
fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &short(body), body].concat()
}

fn short(body: &[u8]) -> [u8; 2] {
    u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes()
}

/// The extension that asks for these names.
fn names(all: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = all.iter().flat_map(|name| [&[0][..], &short(name), name].concat()).collect();
    extension(0, &[&short(&list)[..], &list].concat())
}

/// A first message with these extensions and those that nobody leaves out.
fn hello(more: &[u8]) -> Vec<u8> {
    let share = [&[0, 36, 0, 29, 0, 32][..], &[9; 32]].concat();
    let usual = [
        extension(10, &[0, 2, 0, 29]),
        extension(13, &[0, 2, 4, 3]),
        extension(43, &[2, 3, 4]),
        extension(51, &share),
    ];
    let extensions = [&usual.concat(), more].concat();
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0], &short(&extensions), &extensions].concat();
    [&[1, 0][..], &short(&body), &body].concat()
}

/// A message in records of at most so many bytes.
fn records(message: &[u8], most: usize) -> Vec<u8> {
    message.chunks(most).flat_map(|piece| [&[0x16, 3, 1][..], &short(piece), piece].concat()).collect()
}

#[test]
fn hellos_made_to_hurt_end_soon_and_cost_nobody_else_anything() -> Result<()> {
    let pki = Pki::new("ours");
    let gateway = start(&pki)?;
    let ours = names(&[HOST.as_bytes()]);
    let whole = records(&hello(&ours), 16_384);
    let rows: [(&str, Vec<u8>); 12] = [
        ("no TLS", b"GET / HTTP/1.1\r\nHost: a.shop.test\r\n\r\n".to_vec()),
        ("no name", records(&hello(&[]), 16_384)),
        ("an empty name", records(&hello(&names(&[b""])), 16_384)),
        ("two names", records(&hello(&names(&[HOST.as_bytes(), b"b.shop.test"])), 16_384)),
        ("two lists of names", records(&hello(&[ours.clone(), ours.clone()].concat()), 16_384)),
        ("a name of 12 kB", records(&hello(&names(&[&[b'a'; 12_000]])), 16_384)),
        ("a name with a zero", records(&hello(&names(&[b"a.shop.test\0.evil.test"])), 16_384)),
        ("a name of nobody", records(&hello(&names(&[b"b.other.test"])), 7)),
        ("a message of 16 MB", [records(&[1, 0xff, 0xff, 0xff], 4), records(&[3; 70_000], 16_384)].concat()),
        ("a record of 65 kB", [&[0x16, 3, 1, 0xff, 0xff][..], &[1; 66_000]].concat()),
        ("empty records", [0x16, 3, 1, 0, 0].repeat(20_000)),
        ("half a hello", whole.get(..whole.len() / 2).unwrap_or_default().to_vec()),
    ];
    for (what, bytes) in &rows {
        let mut tcp = TcpStream::connect(gateway.at(HTTPS))?;
        tcp.set_read_timeout(Some(Duration::from_secs(8)))?;
        let begun = Instant::now();
        // It need not listen to the end.
        let _ = tcp.write_all(bytes);
        let _ = tcp.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let end = tcp.read_to_end(&mut answer);
        let took = begun.elapsed();
        ensure!(took < Duration::from_secs(7), "{what}: {took:?}, {end:?}");
        // An alert and nothing else.
        let is_alert = answer.first().is_none_or(|kind| *kind == 0x15) && answer.len() < 32;
        ensure!(is_alert, "{what} is answered with {answer:02x?}");
    }
    let refused = |reason: &str| {
        gateway.metric(&format!("mesh_gateway_handshakes_refused_total{{reason=\"{reason}\"}}"))
    };
    let all = ["not_tls", "deadline", "server_name", "connection_lost", "protocol"];
    wait(Duration::from_secs(3), || {
        let counts: Vec<_> = all.iter().filter_map(|reason| refused(reason).ok()).collect();
        // The first connection of all was to see whether it listens.
        counts.iter().sum::<u64>() >= u64::try_from(rows.len()).unwrap_or(u64::MAX)
    })
    .with_context(|| gateway.log())?;
    ensure!(refused("server_name")? >= 2, "nobody's name, and no name");
    ensure!(gateway.metric("mesh_panics_total")? == 0, "{}", gateway.log());
    let ca = gateway.file("ca.crt").display().to_string();
    ensure!(gateway.curl(HOST, HTTPS, &["--cacert", &ca])?.status == 404, "others are served");
    Ok(())
}

/// In records of one byte, each in a segment of its own, and with a protocol that is no HTTP.
#[test]
fn a_hello_that_is_only_cut_strangely_is_served() -> Result<()> {
    let pki = Pki::new("ours");
    let gateway = start(&pki)?;
    for protocols in [&[][..], &["acme-tls/1"], &["http/1.1"]] {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pki.pem().as_bytes())?)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions()?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
        let mut session = ClientConnection::new(Arc::new(config), ServerName::try_from(HOST)?)?;
        let mut first = Vec::new();
        session.write_tls(&mut first)?;
        let message = first.get(5..).context("a record")?;
        let mut tcp = TcpStream::connect(gateway.at(HTTPS))?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(Duration::from_secs(8)))?;
        for byte in records(message, 1) {
            tcp.write_all(&[byte])?;
        }
        let mut stream = rustls::Stream::new(&mut session, &mut tcp);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.shop.test\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).with_context(|| format!("{protocols:?}: {}", gateway.log()))?;
        ensure!(answer == *b"HTTP/1.1 404", "{protocols:?}: {}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}
