//! The gateways of the samples, in a pod as clusters run them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use mesh_tests::bed::{Bed, PodHandle};
use mesh_tests::scenario::start;

use super::{apply, ask, ask_once, bookinfo, is_share, sample, until};
use crate::scrape::counted;

#[test]
fn the_way_in_from_outside() -> Result<()> {
    let outside = sample("bookinfo/outside.yaml")?;
    let bed = start(Bed::builder().nodes(2).manifests([bookinfo()?, outside].join("---\n")))?;
    for file in
        ["helloworld/helloworld.yaml", "book-gateway/book.yaml", "bookinfo/networking/bookinfo-gateway.yaml"]
    {
        apply(&bed, file)?;
    }
    bed.apply(&gateway_pod(&bed, ("istio-ingressgateway", "ingressgateway"))?)?;
    bed.wait_ready(Duration::from_secs(20), |_| ())?;
    let client = bed.pod("outside/client")?;
    let host = bed.status().service_ip("istio-system/istio-ingressgateway")?.to_string();
    bookinfo_page(&bed, &client, &host).context("Bookinfo")?;
    hello(&bed, &client, &host).context("helloworld")?;
    book(&bed, &client, &host).context("book-gateway")
}

/// A pod with the labels of Istio's gateway, and its Service. It follows the nodes' control plane, with an identity of
/// its own.
pub(crate) fn gateway_pod(bed: &Bed, (name, label): (&str, &str)) -> Result<String> {
    let labels = format!("{{app: {name}, istio: {label}}}");
    gateway_process(bed, ("istio-system", name), (&labels, &format!("{{istio: {label}}}")))
}

/// A pod for a gateway, with these labels, and its Service, which selects it by some of them.
pub(super) fn gateway_process(
    bed: &Bed,
    (namespace, name): (&str, &str),
    (labels, selector): (&str, &str),
) -> Result<String> {
    let (layout, host) = (bed.layout(), bed.node("node-1")?);
    let (mesh, own) = (layout.state.join("mesh"), layout.state.join(name));
    let [mesh, token, state] = [mesh, own.join("token"), own.clone()].map(|path| path.display().to_string());
    let identity = format!("spiffe://cluster.local/ns/{namespace}/sa/{name}");
    let made = host.exec(&["mesh-control", "join", "create", "--identity", &identity, "--state", &mesh])?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::create_dir_all(&own)?;
    fs::write(&token, &made.stdout)?;
    let command = [
        "mesh-node",
        "gateway",
        "--name",
        &format!("{namespace}/{name}"),
        "--control",
        &format!("https://{}:15012", host.ips()[0]),
        "--control-ca",
        &format!("{mesh}/ca/root-cert.pem"),
        "--token",
        &token,
        "--state",
        &state,
        "--svid-cache",
        &layout.memory().join(name).display().to_string(),
    ];
    Ok(format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: istio-system}}}}\n---\n\
         {{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {namespace}, labels: {labels}}}, \
         spec: {{selector: {selector}, ports: [{{name: http2, port: 80, targetPort: 8080}}, \
         {{name: https, port: 443, targetPort: 8443}}]}}}}\n---\n\
         {{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}, namespace: {namespace}}}}}\n---\n\
         {{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}, labels: {labels}}}, \
         spec: {{serviceAccountName: {name}, nodeName: node-1, containers: [{{name: gateway, image: mesh, \
         command: {command:?}, \
         readinessProbe: {{httpGet: {{path: /healthz/ready, port: 15021}}, periodSeconds: 1}}}}]}}}}",
    ))
}

fn bookinfo_page(bed: &Bed, client: &PodHandle, host: &str) -> Result<()> {
    let page = format!("http://{host}/productpage");
    for name in ["bookinfo.example", "any.thing:8080"] {
        let named = format!("Host: {name}");
        let page = until(bed, client, &[&page, "-H", &named], |answer| answer.status == 200)?;
        ensure!(page.body.contains("<title>Simple Bookstore App</title>"), "{page:?}");
    }
    for (path, status) in
        [("/", 404), ("/productpagex", 404), ("/static/style.css", 200), ("/api/v1/products", 200)]
    {
        let answer = ask_once(client, &[&format!("http://{host}{path}")])?;
        ensure!(answer.status == status, "{path}: {answer:?}");
    }
    // The gateway is who it says it is: the page's node has seen its identity.
    let node = bed.pod("default/productpage")?.status().node.clone();
    let labels = [
        ("reporter", "destination"),
        ("destination_workload", "productpage-v1"),
        ("source_principal", "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway"),
        ("connection_security_policy", "mutual_tls"),
    ];
    counted(&bed.node(&node)?, "istio_tcp_connections_opened_total", &labels, |seen| seen > 0)?;
    Ok(())
}

fn hello(bed: &Bed, client: &PodHandle, host: &str) -> Result<()> {
    apply(bed, "helloworld/helloworld-gateway.yaml")?;
    let url = format!("http://{host}/hello");
    until(bed, client, &[&url], |answer| answer.status == 200)?;
    let answers = ask(client, &[&format!("{url}?n=[1-200]")])?;
    let of = |version: &str| answers.iter().filter(|answer| answer.body.contains(version)).count();
    let (one, two) = (of("version: v1"), of("version: v2"));
    ensure!(one + two == 200 && is_share(one, 200, 50.0), "{one} and {two} of {}", answers.len());
    let head = client.exec(&["curl", "-si", &url])?;
    let head = String::from_utf8_lossy(&head.stdout).to_lowercase();
    for line in
        ["server: istio-envoy", "x-envoy-upstream-service-time: ", "content-type: text/html; charset=utf-8"]
    {
        ensure!(head.contains(line), "{line}: {head}");
    }
    // Two Gateways share the port.
    ensure!(ask_once(client, &[&format!("http://{host}/productpage")])?.status == 200);
    Ok(())
}

fn book(bed: &Bed, client: &PodHandle, host: &str) -> Result<()> {
    let made =
        rcgen::generate_simple_self_signed(["bookinfo.com".to_owned()]).context("making a certificate")?;
    let (certificate, key) =
        (bed.layout().state.join("servercert.pem"), bed.layout().state.join("privatekey.pem"));
    fs::write(&certificate, made.cert.pem())?;
    fs::write(&key, made.signing_key.serialize_pem())?;
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let gateway = sample("book-gateway/book-gateway.yaml")?
        .replace("/etc/certs/servercert.pem", &certificate)
        .replace("/etc/certs/privatekey.pem", &key);
    bed.apply(&gateway)?;

    let resolve = [80, 443].map(|port| format!("bookinfo.com:{port}:{host}"));
    let secured = ["--cacert", &certificate, "--resolve", &resolve[0], "--resolve", &resolve[1]];
    until(bed, client, &with(&secured, &["http://bookinfo.com/x?y=z"]), |answer| answer.status == 301)?;
    let moved = client.exec(
        &[
            &["curl", "-sio", "/dev/null", "-w", "%{redirect_url}"],
            with(&secured, &["http://bookinfo.com/x?y=z"]).as_slice(),
        ]
        .concat(),
    )?;
    ensure!(moved.stdout == b"https://bookinfo.com/x?y=z", "{moved:?}");

    until(bed, client, &with(&secured, &["https://bookinfo.com/anything/of/core"]), |answer| {
        answer.body.contains("core-v1")
    })?;
    for path in ["wpcatalog", "consumercatalog"] {
        let answers = ask(client, &with(&secured, &[&format!("https://bookinfo.com/{path}/n?n=[1-100]")]))?;
        let rewritten = |answer: &&super::Answer| answer.body.contains("\"url\":\"/anything/newcatalog/n?n=");
        ensure!(answers.iter().filter(rewritten).count() == 100, "{:?}", answers.first());
        let one = answers.iter().filter(|answer| answer.body.contains("reviews-v1-")).count();
        ensure!(is_share(one, 100, 50.0), "{one} of 100");
    }
    for (words, why) in [
        (
            vec!["https://other.example/", "--connect-to", "other.example:443:bookinfo.com:443", "-k"],
            "another name",
        ),
        (vec!["http://bookinfo.com:443/"], "no TLS where TLS is spoken"),
    ] {
        let answer = ask_once(client, &with(&secured, &words))?;
        ensure!(answer.status == 0, "{why}: {answer:?}");
    }
    secret(bed, client, &gateway, &resolve[1])
}

/// The certificate comes from a Secret instead, as a change while the gateway runs.
fn secret(bed: &Bed, client: &PodHandle, gateway: &str, resolve: &str) -> Result<()> {
    let made =
        rcgen::generate_simple_self_signed(["bookinfo.com".to_owned()]).context("making a certificate")?;
    let roots = bed.layout().state.join("other.pem");
    fs::write(&roots, made.cert.pem())?;
    let data = [made.cert.pem(), made.signing_key.serialize_pem()].map(|pem| BASE64_STANDARD.encode(pem));
    bed.apply(&format!(
        "{{apiVersion: v1, kind: Secret, metadata: {{name: bookinfo, namespace: istio-system}}, \
         type: kubernetes.io/tls, data: {{tls.crt: {}, tls.key: {}}}}}",
        data[0], data[1]
    ))?;
    let lines = gateway.lines().filter(|line| !line.contains("privateKey:"));
    let named = |line: &str| match line.split_once("serverCertificate:") {
        Some((indent, _)) => format!("{indent}credentialName: bookinfo\n"),
        None => format!("{line}\n"),
    };
    bed.apply(&lines.map(named).collect::<String>())?;
    let roots = roots.display().to_string();
    let url = "https://bookinfo.com/anything/of/core";
    until(bed, client, &["--cacert", &roots, "--resolve", resolve, url], |answer| answer.status == 200)?;
    Ok(())
}

fn with<'a>(secured: &[&'a str], words: &[&'a str]) -> Vec<&'a str> {
    [secured, words].concat()
}
