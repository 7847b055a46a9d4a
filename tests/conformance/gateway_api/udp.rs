//! Datagrams.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::net::UdpSocket;

use super::http::FINE;
use super::stage::Case;
use super::tls::{gateway, l4};
use super::{Test, core};

/// Like the suite's own: `udp-route-*.yaml` with listeners of both protocols.
#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn tests() -> Vec<Test> {
    let ports = gateway(
        "{name: u1, port: 9000, protocol: UDP}, {name: u2, port: 9001, protocol: UDP}, {name: t, port: 9000, protocol: TCP}",
    );
    let udp = |name: &str, parents: &str, backends: &str| {
        l4("UDPRoute", name, parents, &format!("rules: [{{backendRefs: [{backends}]}}]"))
    };
    let to = |pod: &str| format!("{{name: {pod}, port: 9000}}");
    let foreign = "{name: w1, namespace: web, port: 9000}";
    let grant = "{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: g, namespace: web}, \
        spec: {from: [{group: gateway.networking.k8s.io, kind: UDPRoute, namespace: infra}], to: [{group: '', kind: Service}]}}";
    vec![
        core("UDPRoute")
            .yaml(&ports)
            .yaml(&udp("r", "{name: gw, sectionName: u1}", &to("v1")))
            .says("UDPRoute infra/r", FINE)
            .says(
                "Gateway infra/gw u1",
                "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs Programmed=True/Programmed attached=1 kinds=UDPRoute",
            )
            .act(async |case| answered(&case, 9000, "v1").await),
        core("UDPRouteParentRefAttachAllListeners")
            .yaml(&ports)
            .yaml(&udp("r", "{name: gw}", &to("v1")))
            .says("UDPRoute infra/r", FINE)
            .says("Gateway infra/gw u1", "attached=1")
            .says("Gateway infra/gw u2", "attached=1")
            .says("Gateway infra/gw t", "attached=0 kinds=TCPRoute")
            .act(async |case| {
                answered(&case, 9000, "v1").await?;
                answered(&case, 9001, "v1").await
            }),
        core("UDPRouteParentRefPortAndSectionName")
            .yaml(&gateway(
                "{name: u1, port: 9000, protocol: UDP}, {name: u2, port: 9001, protocol: UDP}, {name: u3, port: 9002, protocol: UDP}",
            ))
            .yaml(&udp("a", "{name: gw, port: 9000}", &to("v1")))
            .yaml(&udp("b", "{name: gw, sectionName: u2}", &to("v2")))
            .yaml(&udp("c", "{name: gw, sectionName: u3, port: 9002}", &to("v3")))
            .yaml(&udp("d", "{name: gw, sectionName: u3, port: 9001}", &to("v3")))
            .says("UDPRoute infra/d", "Accepted=False/NoMatchingParent")
            .says("Gateway infra/gw u3", "attached=1")
            .act(async |case| {
                answered(&case, 9000, "v1").await?;
                answered(&case, 9001, "v2").await?;
                answered(&case, 9002, "v3").await
            }),
        core("UDPRouteMultipleRoutesAttachment")
            .yaml(&ports)
            .yaml(&udp("a", "{name: gw, sectionName: u1}", &to("v1")))
            .yaml(&udp("b", "{name: gw, sectionName: u1}", &to("v2")))
            .says("UDPRoute infra/a", FINE)
            .says("UDPRoute infra/b", FINE)
            .says("Gateway infra/gw u1", "attached=2")
            .act(async |case| answered(&case, 9000, "v1").await),
        core("UDPRouteNotAllowedByListeners")
            .yaml(&ports)
            .yaml(&udp("r", "{name: gw, sectionName: t}", &to("v1")))
            .says("UDPRoute infra/r", "Accepted=False/NotAllowedByListeners")
            .says("Gateway infra/gw t", "attached=0")
            .act(async |case| unanswered(&case).await),
        core("UDPRouteInvalidBackendRefNonexistent")
            .yaml(&ports)
            .yaml(&udp("r", "{name: gw, sectionName: u1}", &to("gone")))
            .says("UDPRoute infra/r", "Accepted=True/Accepted ResolvedRefs=False/BackendNotFound")
            .act(async |case| unanswered(&case).await),
        core("UDPRouteInvalidCrossNamespaceBackendRef")
            .yaml(&ports)
            .yaml(&udp("r", "{name: gw, sectionName: u1}", foreign))
            .says("UDPRoute infra/r", "Accepted=True/Accepted ResolvedRefs=False/RefNotPermitted")
            .act(async |case| unanswered(&case).await),
        core("UDPRouteReferenceGrant")
            .yaml(&ports)
            .yaml(&udp("r", "{name: gw, sectionName: u1}", foreign))
            .yaml(grant)
            .says("UDPRoute infra/r", FINE)
            .act(async |case| answered(&case, 9000, "w1").await),
        core("UDPRouteWeightedRouting")
            .yaml(&ports)
            .yaml(&udp("r", "{name: gw, sectionName: u1}", "{name: v1, port: 9000, weight: 70}, {name: v2, port: 9000, weight: 30}, {name: v3, port: 9000, weight: 0}"))
            .act(async |case| {
                let mut shares = BTreeMap::<_, u32>::new();
                for _ in 0..300 {
                    *shares.entry(ask(&case, 9000, PATIENCE).await?).or_default() += 1;
                }
                let (one, two) = (shares.get("v1").copied().unwrap_or(0), shares.get("v2").copied().unwrap_or(0));
                ensure!((170..=250).contains(&one) && one + two == 300, "{shares:?}");
                Ok(())
            }),
    ]
}

/// The pod that answers a new client of Gateway `infra/gw`.
async fn ask(case: &Case, port: u16, patience: Duration) -> Result<String> {
    let client = UdpSocket::bind("127.0.0.1:0").await?;
    // Connected, so that nothing is heard but from the listener's address.
    client.connect(case.datagram_address(("infra/gw", port))?).await?;
    client.send(b"who").await?;
    let mut answer = [0; 64];
    let length = tokio::time::timeout(patience, client.recv(&mut answer)).await.context("no answer")??;
    Ok(String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned())
}

async fn answered(case: &Case, port: u16, by: &str) -> Result<()> {
    for _ in 0..5 {
        let who = ask(case, port, PATIENCE).await?;
        ensure!(who == by, "port {port}: {who}, not {by}");
    }
    Ok(())
}

async fn unanswered(case: &Case) -> Result<()> {
    let answer = ask(case, 9000, Duration::from_millis(300)).await;
    ensure!(answer.is_err(), "{answer:?}");
    Ok(())
}

const PATIENCE: Duration = Duration::from_secs(5);
