//! ServiceEntries with `resolution: DYNAMIC_DNS`: the node looks up what clients ask for.

use std::path::Path;

use super::*;
use crate::scrape::counted;

const ENTRY: &str = "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: any, namespace: mesh}, \
     spec: {hosts: ['*.out.test'], resolution: DYNAMIC_DNS, location: MESH_EXTERNAL, \
     ports: [{name: http, number: 7100, protocol: HTTP}, {name: tls, number: 7200, protocol: TLS}]}}";

/// What `curl` says of a URL, whose host it believes to be at an address where nobody is.
fn get(client: &PodHandle, scheme: &str, host: &str, port: u16) -> Result<String> {
    let elsewhere = format!("{host}:{port}:203.0.113.99");
    let url = format!("{scheme}://{host}:{port}/headers");
    let words = ["curl", "-sSk", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "8"];
    let output = client.exec(&[&words[..], &["--resolve", &elsewhere, &url]].concat())?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A server of TLS on node-2, with a certificate that nobody knows.
fn serve_tls(bed: &Bed, files: &Path) -> Result<Process> {
    let node = bed.node("node-2")?;
    let (key, certificate) = (files.join("key.pem"), files.join("cert.pem"));
    let (key, certificate) = (key.to_str().context("UTF-8")?, certificate.to_str().context("UTF-8")?);
    let request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"];
    let made = [&request[..], &["-subj", "/CN=far.out.test", "-keyout", key, "-out", certificate]].concat();
    let made = node.exec(&made)?;
    ensure!(made.status.success(), "{made:?}");
    let server = ["openssl", "s_server", "-accept", "7200", "-www", "-cert", certificate, "-key", key];
    Ok(node.spawn(&server)?)
}

#[test]
fn names_are_looked_up_for_whoever_asks_for_them() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let conf = directory.path().join("resolv.conf");
    fs::write(&conf, "")?;
    let path = conf.to_str().context("a path in UTF-8")?;
    let bed = start(Bed::builder().nodes(2).mesh_arg("--resolv-conf").mesh_arg(path).manifests(names()))?;
    let (client, near, node) = (bed.pod("mesh/client")?, bed.pod("mesh/near")?, bed.node("node-2")?);
    let [v4, v6] = node.ips().map(|ip: IpAddr| ip.to_string());
    let vip = bed.status().service_ip("mesh/near")?.to_string();
    let more = format!(
        "{v4} far.out.test\n{v6} six.out.test\n127.0.0.1 loop.out.test\n169.254.169.254 meta.out.test\n\
         {} pod.out.test\n{vip} vip.out.test\n127.0.0.1 both.out.test\n{v4} both.out.test\n",
        near.ip()
    );
    let (_names, _files) = serve_names(&[&v4], &more, |words| node.spawn(words))?;
    fs::write(&conf, format!("nameserver {v4}\n"))?;
    // Whoever is reached by mistake would answer.
    let _servers = [
        node.spawn(&["httpbin", "--port", "7100"])?,
        client.spawn(&["httpbin", "--port", "7100"])?,
        near.spawn(&["httpbin", "--port", "7100"])?,
    ];
    let _tls = serve_tls(&bed, directory.path())?;

    bed.apply(ENTRY)?;
    bed.wait("where the name leads", Duration::from_secs(20), |_| {
        get(&client, "http", "far.out.test", 7100).is_ok_and(|it| it == "200")
    })?;
    counted(&bed.node("node-1")?, "istio_on_demand_dns_total", &[], |count| count > 0)?;
    for host in ["six.out.test", "FAR.out.test", "both.out.test"] {
        let status = get(&client, "http", host, 7100)?;
        ensure!(status == "200", "{host}: {status}");
    }
    for host in ["loop.out.test", "meta.out.test", "pod.out.test", "vip.out.test", "nosuch.out.test"] {
        let status = get(&client, "http", host, 7100)?;
        ensure!(status == "503", "{host}: {status}");
    }
    // By the name that TLS asks for, which stays between the two.
    bed.wait("an answer by TLS", Duration::from_secs(10), |_| {
        get(&client, "https", "far.out.test", 7200).is_ok_and(|it| it == "200")
    })?;
    for host in ["loop.out.test", "pod.out.test", "nosuch.out.test"] {
        let status = get(&client, "https", host, 7200)?;
        ensure!(status == "000", "{host}: {status}");
    }
    // Bytes that ask for no name lead nowhere: nobody says whom they are for.
    let plain = client.exec(&["curl", "-sS", "--max-time", "8", &format!("http://{v4}:7200/")])?;
    ensure!(!plain.status.success(), "{plain:?}");
    Ok(())
}
