//! Resolvers at addresses of a link, as routers announce them.

use super::*;

/// The other end of a pod's interface, in its node's network.
fn other_end(bed: &Bed, pod: &PodHandle, node: &str) -> Result<String> {
    let text = |output: std::process::Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let own = text(pod.exec(&["ip", "-o", "link", "show", "eth0"])?);
    let index = own.split_once("@if").and_then(|(_, rest)| rest.split(':').next()).context(own.clone())?;
    let all = text(bed.node(node)?.exec(&["ip", "-o", "link"])?);
    let line = all.lines().find(|line| line.starts_with(&format!("{index}: "))).context(all.clone())?;
    let name = line.split(": ").nth(1).and_then(|name| name.split('@').next());
    Ok(name.context("a name")?.to_owned())
}

/// What the mesh does not know is asked over the pod's own link, by UDP and TCP.
#[test]
fn a_resolver_on_the_pods_link_is_asked() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(names()))?;
    let (client, node) = (bed.pod("mesh/client")?, bed.node("node-1")?);
    let link = other_end(&bed, &client, "node-1")?;
    let added = node.exec(&["ip", "-6", "addr", "add", "fe80::53/64", "dev", &link, "nodad"])?;
    ensure!(added.status.success(), "{added:?}");
    let interface = format!("--interface={link}");
    let names = ["--local=/test/", "--address=/www.out.test/203.0.113.7", &interface];
    let words: Vec<&str> = DNSMASQ.into_iter().chain(names).collect();
    let _names = node.spawn(&words)?;
    let near = bed.status().service_ip("mesh/near")?.to_string();
    for transport in ["+notcp", "+tcp"] {
        let known = |name: &str| dig(&client, &["@fe80::53%eth0", transport, name]);
        let mut last = String::new();
        let answered = bed.wait("an answer of the resolver", Duration::from_secs(10), |_| {
            let dug = known("www.out.test");
            last = format!("{dug:?}");
            dug.is_ok_and(|dug| dug.answers() == ["203.0.113.7"])
        });
        answered.context(last)?;
        let dug = known("near.mesh.svc.cluster.local")?;
        ensure!(dug.answers() == [near.as_str()], "{dug:?}");
        let dug = known("nosuch.out.test")?;
        ensure!(dug.status() == "NXDOMAIN", "{dug:?}");
    }
    Ok(())
}
