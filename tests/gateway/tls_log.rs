//! What an access log can say of TLS.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::pki::{Leaf, Pki};
use crate::process::{Gateway, HTTPS, https, manifest, wait};

/// One host whose requests go on, with TLS of the gateway's own, to the other, which answers.
const ROUTES: &str = "
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: b, namespace: shop},
  spec: {hosts: [b.shop.test], gateways: [edge], http: [{directResponse: {status: 200}}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: a, namespace: shop},
  spec: {hosts: [a.shop.test], gateways: [edge], http: [{rewrite: {authority: b.shop.test}, route: [{destination: {host: inner, port: {number: 443}}}]}]}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: inner, namespace: shop},
  spec: {host: inner, trafficPolicy: {tls: {mode: SIMPLE, sni: b.shop.test, insecureSkipVerify: true}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: inner, namespace: shop}, spec: {ports: [{name: http, port: 443}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: inner, namespace: shop, labels: {kubernetes.io/service-name: inner}},
  addressType: IPv4, endpoints: [{addresses: [OWN]}], ports: [{name: http, port: PORT}]}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: \"accessLogFile: /dev/stdout\\naccessLogFormat: 'FORMAT'\"}}
";

const FORMAT: &str = "%REQUESTED_SERVER_NAME%|%DOWNSTREAM_TLS_VERSION%|%DOWNSTREAM_TLS_CIPHER%|%UPSTREAM_TLS_VERSION%|%UPSTREAM_TLS_CIPHER%|\
    %DOWNSTREAM_PEER_SUBJECT%|%DOWNSTREAM_PEER_ISSUER%|%DOWNSTREAM_PEER_SERIAL%|%DOWNSTREAM_PEER_DNS_SAN%|\
    %DOWNSTREAM_PEER_FINGERPRINT_256%|%DOWNSTREAM_PEER_CERT_V_START%|%DOWNSTREAM_PEER_CERT_V_END(%Y)%|\
    %DOWNSTREAM_PEER_URI_SAN%|%DOWNSTREAM_LOCAL_URI_SAN%|%UPSTREAM_LOCAL_URI_SAN%|%DOWNSTREAM_TLS_SESSION_ID%";

#[test]
fn the_log_says_of_tls_what_is_asked_for() -> Result<()> {
    let gateway = Gateway::start(&[])?;
    let pki = Pki::new("ours");
    gateway.put("ca.crt", &pki.pem())?;
    let client = pki.numbered("client.test", &[0xab, 0xcd]);
    for (name, Leaf { certificate, key }) in
        [("a", pki.leaf("a.shop.test")), ("b", pki.leaf("b.shop.test")), ("client", client)]
    {
        gateway.put(&format!("{name}.crt"), &certificate)?;
        gateway.put(&format!("{name}.key"), &key)?;
    }
    let tls = "serverCertificate: '{dir}/NAME.crt', privateKey: '{dir}/NAME.key'";
    let mutual = format!("mode: MUTUAL, caCertificates: '{{dir}}/ca.crt', {}", tls.replace("NAME", "a"));
    let servers = https("a", "a.shop.test", &mutual)
        + &https("b", "b.shop.test", &format!("mode: SIMPLE, {}", tls.replace("NAME", "b")));
    let own = gateway.at(HTTPS);
    let routes = ROUTES.replace("OWN", &own.ip().to_string()).replace("PORT", &own.port().to_string());
    gateway.write("gateway.yaml", &(manifest(&servers) + &routes.replace("FORMAT", FORMAT)))?;
    let file = |name: &str| gateway.file(name).display().to_string();
    let (ca, cert, key) = (file("ca.crt"), file("client.crt"), file("client.key"));
    let ask = |more: &[&str]| {
        let options = [&["--cacert", &*ca, "--cert", &*cert, "--key", &*key], more].concat();
        gateway.curl("a.shop.test", HTTPS, &options)
    };
    wait(Duration::from_secs(5), || ask(&[]).is_ok_and(|it| it.status == 200))
        .with_context(|| gateway.log())?;
    let line = |is: &dyn Fn(&str) -> bool| -> Result<Vec<String>> {
        let find = || gateway.access_log().lines().rfind(|line| is(line)).map(str::to_owned);
        wait(Duration::from_secs(5), || find().is_some()).with_context(|| gateway.access_log())?;
        Ok(find().context("a line")?.split('|').map(str::to_owned).collect())
    };
    let outer = line(&|line| line.starts_with("a.shop.test|TLSv1.3|"))?;
    let ciphers = ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"];
    ensure!(
        ciphers.contains(&&*outer[2]) && outer[3] == "TLSv1.3" && ciphers.contains(&&*outer[4]),
        "{outer:?}"
    );
    let shown = ["CN=rcgen self signed cert", "CN=ours", "abcd", "client.test"];
    ensure!(outer[5..9] == shown && outer[9].len() == 64, "{outer:?}");
    ensure!(outer[10] == "1975-01-01T00:00:00.000Z" && outer[11] == "4096", "{outer:?}");
    // A gateway without an identity of the mesh shows none; and what nobody can tell is named when it starts.
    ensure!(outer[12..] == ["-"; 4], "{outer:?}");
    ensure!(gateway.log().contains("%DOWNSTREAM_TLS_SESSION_ID%"), "{}", gateway.log());
    let inner = line(&|line| line.starts_with("b.shop.test|"))?;
    ensure!(inner[1] == "TLSv1.3" && inner[3..] == ["-"; 13], "{inner:?}");
    ensure!(ask(&["--tls-max", "1.2"])?.status == 200);
    let older = line(&|line| line.starts_with("a.shop.test|TLSv1.2|"))?;
    ensure!(older[2].starts_with("ECDHE-ECDSA-") && older[3] == "TLSv1.3" && older[7] == "abcd", "{older:?}");
    Ok(())
}

#[test]
fn a_handshake_for_a_name_that_nobody_serves_has_a_line_of_its_own() -> Result<()> {
    let gateway = Gateway::start(&[])?;
    let Leaf { certificate, key } = Pki::new("ours").leaf("b.shop.test");
    gateway.put("b.crt", &certificate)?;
    gateway.put("b.key", &key)?;
    let tls = "mode: SIMPLE, serverCertificate: '{dir}/b.crt', privateKey: '{dir}/b.key'";
    let mesh = "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: 'accessLogFile: /dev/stdout'}}";
    let served = manifest(&https("b", "b.shop.test", tls));
    gateway.write("gateway.yaml", &format!("{served}\n---\n{mesh}\n"))?;
    let status = |host| gateway.curl(host, HTTPS, &["--insecure"]).map_or(0, |it| it.status);
    wait(Duration::from_secs(5), || status("b.shop.test") == 404).with_context(|| gateway.log())?;
    ensure!(status("nobody.shop.test") == 0, "nobody serves it");
    let find = || gateway.access_log().lines().rfind(|it| it.contains("nobody")).map(str::to_owned);
    wait(Duration::from_secs(5), || find().is_some()).with_context(|| gateway.access_log())?;
    let line = find().context("a line")?;
    ensure!(line.contains("] \"- - -\" 0 NR filter_chain_not_found - \"nobody serves "), "{line}");
    ensure!(
        line.contains(&format!(" {} ", gateway.at(HTTPS))) && line.ends_with(" nobody.shop.test -"),
        "{line}"
    );
    Ok(())
}
