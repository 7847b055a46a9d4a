//! Nodes under somebody else's control plane, which speaks Istio's protocol and knows nothing of ours.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::Bed;
use mesh_tests::scenario::{Dialled, at, captured, dial, eventually, manifests};

/// A `mesh-node` that looks for its control plane at another port, and shows another token there.
fn elsewhere(directory: &Path) -> Result<PathBuf> {
    let token = directory.join("token");
    fs::write(&token, TOKEN)?;
    let program = Path::new(env!("CARGO_BIN_EXE_testbed")).with_file_name("mesh-node");
    let script = format!(
        "#!/bin/bash\nargs=()\nwhile [ $# -gt 0 ]; do\n  case \"$1\" in\n    \
         --control) args+=(--control \"${{2%:*}}:{PORT}\"); shift 2 ;;\n    \
         --token) args+=(--token {}); shift 2 ;;\n    \
         *) args+=(\"$1\"); shift ;;\n  esac\ndone\nexec {} \"${{args[@]}}\"\n",
        token.display(),
        program.display()
    );
    let path = directory.join("mesh-node");
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

const TOKEN: &str = "of-ztunnel";
const PORT: u16 = 15112;

const STRICT: &str = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, \
     metadata: {name: default, namespace: mesh}, spec: {mtls: {mode: STRICT}}}";
const DENY: &str = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: stop, namespace: mesh}, \
     spec: {selector: {matchLabels: {app: far}}, action: DENY, \
     rules: [{from: [{source: {principals: [cluster.local/ns/mesh/sa/client]}}]}]}}";

/// Everything of layer 4: capture, identities, services, policies and their changes; after a restart as well.
#[test]
fn nodes_follow_a_control_plane_that_speaks_istios_types_alone() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let program = elsewhere(directory.path())?;
    let bed = Bed::builder().nodes(2).mesh_node(&program).manifests(manifests()).begin()?;
    bed.wait("node-1", Duration::from_secs(10), |bed| bed.node("node-1").is_ok())?;
    let node = bed.node("node-1")?;
    let host = node.ips().into_iter().find(std::net::IpAddr::is_ipv4).context("an address of node-1")?;
    let state = bed.layout().state.join("mesh");
    let listen = format!("{host}:{PORT}");
    let state = state.to_str().context("a path in UTF-8")?;
    let mut istiod =
        node.spawn(&["testbed", "tool", "istiod", &listen, "--state", state, "--token", TOKEN])?;
    let line = istiod.line(Duration::from_secs(10))?;
    ensure!(line.starts_with("LISTENING"), "{line}: {}", istiod.errors());
    bed.wait_ready(Duration::from_secs(30), |_| {})?;
    captured(&bed, Duration::from_secs(20))?;

    let (client, near, far) = (bed.pod("mesh/client")?, bed.pod("mesh/near")?, bed.pod("mesh/far")?);
    let stranger = bed.pod("outside/stranger")?;
    let status = bed.status();
    let service = status.services.iter().find(|it| it.name == "far").and_then(|it| it.ips.first());
    let service = SocketAddr::new(*service.context("an address of the service far")?, 80);
    for (from, to) in
        [(&client, service.to_string()), (&client, at(&near)), (&near, at(&far)), (&stranger, at(&far))]
    {
        let seen = dial(from, &[&to])?;
        ensure!(seen.served(), "{} to {to}: {seen:?}", from.name());
    }
    // In plain text it does not leave the pod's node; the stranger's does.
    let log = bed.node("node-2")?.log()?;
    let identities = ["spiffe://cluster.local/ns/mesh/sa/client", "spiffe://cluster.local/ns/mesh/sa/far"];
    let line = log.lines().find(|line| identities.iter().all(|id| line.contains(id)));
    ensure!(line.is_some(), "no connection with both identities in the log of node-2:\n{log}");

    bed.apply(STRICT)?;
    eventually(&bed, &stranger, &at(&far), Dialled::refused)?;
    ensure!(dial(&client, &[&at(&far)])?.served());
    bed.apply(DENY)?;
    eventually(&bed, &client, &at(&far), Dialled::refused)?;
    ensure!(dial(&near, &[&at(&far)])?.served());

    // What it told is in force again before anybody is asked.
    drop(istiod);
    let node = bed.node("node-2")?;
    node.restart()?;
    node.wait_ready(Duration::from_secs(20))?;
    eventually(&bed, &near, &at(&far), Dialled::served)?;
    ensure!(dial(&client, &[&at(&far)])?.refused() && dial(&stranger, &[&at(&far)])?.refused());
    Ok(())
}
