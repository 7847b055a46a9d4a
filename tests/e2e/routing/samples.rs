//! Samples of what is no HTTP, and of the way out, as their readers try them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle};
use mesh_tests::scenario::start;

use super::gateway::gateway_pod;
use super::{Answer, apply, ask_once, is_share, sample, until};
use crate::scrape::counted;

/// How many of so many connections, one after the other, were answered with each of these words; all must be.
fn greeted(client: &PodHandle, count: usize, words: [&str; 2]) -> Result<[usize; 2]> {
    let one = "echo world | curl -s --max-time 5 telnet://tcp-echo:9000";
    let script = format!("for i in $(seq {count}); do {one}; done");
    let output = client.exec(&["sh", "-c", &script])?;
    let said = String::from_utf8_lossy(&output.stdout);
    let of = |word: &str| said.lines().filter(|line| *line == format!("{word} world")).count();
    let counts = words.map(of);
    ensure!(counts.iter().sum::<usize>() == count, "{counts:?} of {count}: {said}");
    Ok(counts)
}

#[test]
fn shares_of_connections() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(sample("tcp-echo/tcp-echo.yaml")?))?;
    let client = bed.pod("default/client")?;
    let words = ["one", "two"];
    bed.wait("both versions", Duration::from_secs(10), |_| {
        greeted(&client, 20, words).is_ok_and(|counts| !counts.contains(&0))
    })?;
    apply(&bed, "tcp-echo/rules/all-v1.yaml")?;
    bed.wait("the first version alone", Duration::from_secs(10), |_| {
        greeted(&client, 20, words).is_ok_and(|counts| counts == [20, 0])
    })?;
    apply(&bed, "tcp-echo/rules/20-v2.yaml")?;
    bed.wait("the second version again", Duration::from_secs(10), |_| {
        greeted(&client, 20, words).is_ok_and(|counts| counts[1] > 0)
    })?;
    let [one, two] = greeted(&client, 200, words)?;
    ensure!(is_share(two, 200, 20.0), "{one} and {two}");
    Ok(())
}

#[test]
fn a_gateway_passes_tls_on_by_its_server_name() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(sample("sni-passthrough/server.yaml")?))?;
    bed.apply(&gateway_pod(&bed, ("istio-ingressgateway", "ingressgateway"))?)?;
    bed.wait_ready(Duration::from_secs(20), |_| ())?;
    apply(&bed, "sni-passthrough/rules/gateway.yaml")?;
    let client = bed.pod("outside/client")?;
    let address = bed.status().service_ip("istio-system/istio-ingressgateway")?;
    let at = |host: &str| (format!("{host}:443:{address}"), format!("https://{host}/"));
    let (known, url) = at("secure.example");
    let answer = until(&bed, &client, &["-k", "--resolve", &known, &url], |answer| answer.status == 200);
    answer.with_context(|| {
        bed.pod("istio-system/istio-ingressgateway").map(|it| it.log()).unwrap_or_default()
    })?;
    let seen = client.exec(&["curl", "-skv", "--resolve", &known, &url])?;
    let seen = String::from_utf8_lossy(&seen.stderr).into_owned();
    ensure!(seen.contains("CN=secure.example"), "the server's own certificate: {seen}");
    let (other, url) = at("other.example");
    let answer = ask_once(&client, &["-k", "--max-time", "3", "--resolve", &other, &url])?;
    ensure!(answer.status == 0, "{answer:?}");
    Ok(())
}

#[test]
fn an_egress_gateway_makes_the_tls() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(sample("egress-gateway/external.yaml")?))?;
    bed.apply(&gateway_pod(&bed, ("istio-egressgateway", "egressgateway"))?)?;
    bed.wait_ready(Duration::from_secs(20), |_| ())?;
    let (client, server) = (bed.pod("default/client")?, bed.pod("external/external")?);
    let url = ["http://external.test/"];
    let good = |answer: &Answer| answer.status == 200;
    let shown = "openssl s_client -connect 127.0.0.1:8443 </dev/null 2>/dev/null | openssl x509";
    let mut certificate = String::new();
    bed.wait("the server's certificate", Duration::from_secs(10), |_| {
        let output = server.exec(&["sh", "-c", shown]);
        certificate = output.map(|it| String::from_utf8_lossy(&it.stdout).into_owned()).unwrap_or_default();
        certificate.contains("END CERTIFICATE")
    })?;
    ensure!(!good(&ask_once(&client, &url)?), "the server speaks nothing but TLS");
    apply(&bed, "egress-gateway/rules/gateway.yaml")?;
    let log = || bed.pod("istio-system/istio-egressgateway").map(|it| it.log()).unwrap_or_default();
    // Nobody is believed without the authority.
    until(&bed, &client, &url, |answer| answer.status == 503).with_context(log)?;
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "external-ca", "namespace": "istio-system"},
        "stringData": {"ca.crt": certificate},
    });
    bed.apply(&secret.to_string())?;
    let answer = until(&bed, &client, &url, good).with_context(log)?;
    ensure!(answer.body.contains("TLS"), "the server tells of the handshake: {answer:?}");
    let labels = [
        ("reporter", "source"),
        ("source_workload", "client"),
        ("destination_service_name", "istio-egressgateway"),
        ("response_code", "200"),
    ];
    counted(&bed.node(&client.status().node.clone())?, "istio_requests_total", &labels, |sent| sent > 0)?;
    Ok(())
}
