//! Peers that a waypoint must not help.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::scenario::{pod, service};

use super::{Way, bind, counted, with_waypoint};
use crate::forge::{Ca, Client, End, Then, connect, leaf};

/// Whoever has an identity of the mesh, and one of it has been stolen, comes through to what is bound and to nothing else.
#[test]
fn a_waypoint_leads_to_what_is_bound_to_it_and_nowhere_else() -> Result<()> {
    let bed = with_waypoint(Way::Wire)?;
    bed.apply(&pod("mesh", "near", "node-1", &["netprobe", "serve", "--port", "7000"]))?;
    bed.apply(&service("mesh", "near", "app: near"))?;
    bind(&bed)?;
    bed.wait_ready(Duration::from_secs(20), |_| ())?;
    bed.apply("{apiVersion: v1, kind: Namespace, metadata: {name: outside}}")?;
    bed.apply(&pod("outside", "stranger", "node-1", &["sleep", "infinity"]))?;
    bed.wait_ready(Duration::from_secs(20), |_| ())?;
    let stranger = bed.pod("outside/stranger")?;
    let way = bed.pod("shop/way-pod")?;
    let to = SocketAddr::new(way.ip(), 15008);
    let good = Ca::stolen(&bed)?.issue(&leaf(&["spiffe://cluster.local/ns/mesh/sa/client"])?)?;
    let ask = |authority: &str| -> Result<End> {
        let request = Then::Request(connect(authority)?);
        Ok(Client::good(&good).attempt(&stranger, to, request).with_context(|| authority.to_owned())?.end)
    };
    let web = bed.status().service_ip("shop/web")?;
    bed.wait("what is bound", Duration::from_secs(10), |_| {
        matches!(ask(&format!("{web}:80")), Ok(End::Status(200)))
    })?;
    let near = bed.status().service_ip("mesh/near")?;
    for (what, authority) in [
        ("another service", format!("{near}:80")),
        ("a pod of the bound service", format!("{}:8080", bed.pod("shop/web-v1")?.ip())),
        ("a port that it has not", format!("{web}:81")),
        ("the waypoint itself", format!("{}:15008", way.ip())),
        ("its admin port", "127.0.0.1:15000".to_owned()),
        ("a node", format!("{}:22", bed.node("node-1")?.ips()[0])),
        ("a name", "web.shop:80".to_owned()),
    ] {
        let end = ask(&authority)?;
        ensure!(matches!(end, End::Status(400)), "{what}: {end:?}");
    }
    let refused = counted(&bed, "mesh_invalid_requests_total", &[("reason", "target")])?;
    ensure!(refused >= 6, "{refused} were counted");
    // Without an identity of the mesh there is not even a tunnel.
    let nobody = Client { credential: None, alpn: vec![b"h2".to_vec()] };
    let foreign = Ca::impostor(&bed)?.issue(&leaf(&["spiffe://cluster.local/ns/mesh/sa/client"])?)?;
    for client in [nobody, Client::good(&foreign)] {
        let request = Then::Request(connect(&format!("{web}:80"))?);
        let end = client.attempt(&stranger, to, request)?.end;
        ensure!(matches!(end, End::Refused(_)), "{end:?}");
    }
    Ok(())
}
