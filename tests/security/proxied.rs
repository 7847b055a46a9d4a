//! The PROXY protocol at a gateway that is told to expect it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::edge::process::{Gateway, http, manifest, wait};

use crate::stand::{PORT, Stand};

/// Who the client is, is what a header says that fits; one that does not, or none, ends the connection unheard, and costs nobody else
/// anything.
pub(crate) fn headers(stand: &Stand) -> Result<()> {
    let gateway = Gateway::start(&[("mesh.yaml", MESH)])?;
    gateway.write("gateway.yaml", &manifest(&http(PORT)))?;
    gateway.write("routes.yaml", &stand.routes)?;
    let ask = |header: &[u8], path: &str| -> Result<String> {
        let mut tcp = TcpStream::connect(gateway.at(PORT))?;
        tcp.set_read_timeout(Some(Duration::from_secs(10)))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: proxied.test\r\nConnection: close\r\n\r\n");
        tcp.write_all(&[header, request.as_bytes()].concat())?;
        let mut answer = String::new();
        // A reset is an end as well.
        let _ = tcp.read_to_string(&mut answer);
        Ok(answer)
    };
    wait(Duration::from_secs(10), || {
        ask(V1, "/ready").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    })
    .with_context(|| gateway.log())?;
    let v2 = |body: &[u8], length: u16| [&V2[..], &length.to_be_bytes(), body].concat();
    let with_element = [&V4[..], &[4, 0, 2, 9, 9]].concat();
    for (number, (header, client)) in [
        (V1.to_vec(), "203.0.113.7"),
        (v2(&V4, 12), "203.0.113.8"),
        (v2(&with_element, 17), "203.0.113.8"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/proxied-{number}");
        let answer = ask(&header, &path)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{header:?}: {answer:?}");
        let seen = stand.origin.seen(|seen| seen.target == path);
        let told = seen.first().and_then(|seen| seen.header("x-forwarded-for")).unwrap_or_default();
        ensure!(told == client, "{header:?}: the client is {told:?} and not {client}");
    }
    let long = [&with_element[..13], &[0xff, 0xff]].concat();
    for header in [
        Vec::new(),
        b"PROXY TCP4 203.0.113.7 10.0.0.1 1 65536\r\n".to_vec(),
        v2(&V4, 11),
        v2(&[&V4[..], &[4, 0, 3, 9, 9]].concat(), 17),
        v2(&long, 15),
    ] {
        let answer = ask(&header, "/unheard")?;
        ensure!(answer.is_empty(), "{header:?}: {answer:?}");
    }
    let unheard = stand.origin.seen(|seen| seen.target == "/unheard");
    ensure!(unheard.is_empty(), "{unheard:?}");
    let refused = gateway.metric("mesh_gateway_handshakes_refused_total{reason=\"proxy_header\"}")?;
    ensure!(refused >= 5, "{refused} counted");
    Ok(())
}

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 10.0.0.1 12345 80\r\n";
/// The fixed part of version 2, for a stream over IPv4, without its length.
const V2: &[u8; 14] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11";
const V4: [u8; 12] = [203, 0, 113, 8, 10, 0, 0, 1, 0x30, 0x39, 0, 80];
const MESH: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: istio, namespace: istio-system }\ndata:\n  mesh: |\n    \
                    defaultConfig: { gatewayTopology: { proxyProtocol: {} } }\n";
