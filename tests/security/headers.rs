//! What a stranger says about itself in headers that others rely on.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::edge::pki::{Leaf, Pki};
use mesh_tests::edge::process::{Gateway, HTTPS, http, https, manifest, wait};
use mesh_tests::http::{Request, fetch};
use mesh_tests::origin::Seen;

use crate::stand::{HOST, PORT, Stand};
use crate::tls;

/// Headers that only proxies may write, one by one.
pub(crate) fn spoofed(stand: &Stand) -> Result<()> {
    for (number, name) in RESERVED.iter().enumerate() {
        for name in [(*name).to_owned(), name.to_ascii_uppercase()] {
            let mut wire = stand.wire()?;
            let bytes = format!(
                "GET /a HTTP/1.1\r\nHost: spoof-{number}.test\r\n{name}: spoofed\r\n{name}: spoofed\r\n\r\n"
            );
            wire.send(bytes.as_bytes())?;
            let seen = wire.reply()?.seen().with_context(|| name.clone())?;
            let says = seen.headers.iter().any(|(_, value)| value.contains("spoofed"));
            ensure!(!says, "{name} gets through: {:?}", seen.headers);
        }
    }
    // What is appended to stays, and we are the last in it.
    let mut wire = stand.wire()?;
    wire.send(b"GET /a HTTP/1.1\r\nHost: spoof.test\r\nX-Forwarded-For: 10.9.9.9\r\nX-Forwarded-For: 10.8.8.8\r\n\r\n")?;
    let seen = wire.reply()?.seen()?;
    let list = seen.header("x-forwarded-for").unwrap_or_default();
    ensure!(list == "10.9.9.9,10.8.8.8,127.0.0.1", "{list}");
    Ok(())
}

/// `X-Forwarded-Client-Cert` under each rule, from a client with a certificate and from one without.
pub(crate) fn certificates(stand: &Stand) -> Result<()> {
    let pki = Pki::new("clients");
    let gateway = Gateway::start(&[])?;
    let Leaf { certificate, key } = pki.leaf(HOST);
    for (name, text) in [("a.crt", &certificate), ("a.key", &key), ("ca.crt", &pki.pem())] {
        gateway.put(name, text)?;
    }
    let tls = "mode: MUTUAL, serverCertificate: '{dir}/a.crt', privateKey: '{dir}/a.key', caCertificates: '{dir}/ca.crt'";
    gateway.write("gateway.yaml", &manifest(&[http(PORT), https("mutual", HOST, tls)].concat()))?;
    gateway.write("routes.yaml", &stand.routes)?;
    let client = tls::with_leaf(&pki, &pki.leaf("client.test"))?;
    for (rule, proven, unproven) in RULES {
        gateway.write("mesh.yaml", &mesh(rule))?;
        let ask = |number: usize, with: bool| -> Result<String> {
            // Each ask has a path of its own, by which it is found again.
            let path = format!("/{rule}-{with}-{number}");
            if with {
                let mut session = tls::session(client.clone(), gateway.at(HTTPS))?;
                tls::send(
                    &mut session,
                    &format!("HEAD {path} HTTP/1.1\r\nHost: {HOST}\r\n{SPOOFED}\r\n\r\n"),
                )?;
            } else {
                let mut request = Request::get(&path);
                request.headers.push("host", HOST);
                request.headers.push("x-forwarded-client-cert", "By=spiffe://spoofed");
                fetch(gateway.at(PORT), &request, Duration::from_secs(5))?;
            }
            let seen: Vec<Seen> = stand.origin.seen(|seen| seen.target == path);
            let seen = seen.first().with_context(|| format!("{path} has not come"))?;
            Ok(shape(&seen.header("x-forwarded-client-cert").unwrap_or_default()))
        };
        for (with, expected) in [(true, proven), (false, unproven)] {
            let (mut number, mut last) = (0, String::new());
            let holds = wait(Duration::from_secs(10), || {
                number += 1;
                last = ask(number, with).unwrap_or_else(|error| format!("{error:#}"));
                last == *expected
            });
            holds.with_context(|| {
                format!("{rule}, with a certificate: {with}: {last:?} and not {expected:?}")
            })?;
        }
    }
    Ok(())
}

/// What was sent by the client, and what is the gateway's own.
fn shape(value: &str) -> String {
    let own = |element: &&str| element.starts_with("Hash=") && element.contains("DNS=client.test");
    let elements: Vec<&str> = value.split(",By=").collect();
    match elements.as_slice() {
        [""] => "nothing".to_owned(),
        [one] if own(one) => "own".to_owned(),
        ["By=spiffe://spoofed"] => "theirs".to_owned(),
        [both] if both.starts_with("By=spiffe://spoofed,Hash=") && both.contains("DNS=client.test") => {
            "both".to_owned()
        }
        _ => value.to_owned(),
    }
}

fn mesh(rule: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: istio, namespace: istio-system }}\ndata:\n  mesh: |\n    \
         defaultConfig: {{ gatewayTopology: {{ forwardClientCertDetails: {rule} }} }}\n"
    )
}

/// A rule, what comes of it with a certificate, and without one.
const RULES: &[(&str, &str, &str)] = &[
    ("APPEND_FORWARD", "both", "nothing"),
    ("FORWARD_ONLY", "theirs", "nothing"),
    ("ALWAYS_FORWARD_ONLY", "theirs", "theirs"),
    ("SANITIZE", "nothing", "nothing"),
    ("SANITIZE_SET", "own", "nothing"),
];
const SPOOFED: &str = "X-Forwarded-Client-Cert: By=spiffe://spoofed";
const RESERVED: &[&str] = &[
    "x-envoy-attempt-count",
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-external-address",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-internal",
    "x-envoy-ip-tags",
    "x-envoy-is-timeout-retry",
    "x-envoy-max-retries",
    "x-envoy-original-dst-host",
    "x-envoy-original-path",
    "x-envoy-peer-metadata",
    "x-envoy-peer-metadata-id",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-ms",
    "x-forwarded-client-cert",
    "x-forwarded-proto",
    "keep-alive",
    "proxy-connection",
    "http2-settings",
    "upgrade",
    "te",
];
