//! TLS that is opened or passed on, and connections of whatever kind.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::http::{FINE, by, route};
use super::stage::Case;
use super::{Test, core, extended};
use crate::client::{Req, Stream, Tls, get, h1};
use crate::row::Want;

/// A request inside of TLS that asks for this name.
pub(super) fn inside(name: &str, request: Req) -> Req {
    Req { tls: Some(Tls { sni: name.to_owned(), client: None }), ..request }
}

pub(super) fn gateway(listeners: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: gw, namespace: infra}}, \
         spec: {{gatewayClassName: istio, listeners: [{listeners}]}}}}"
    )
}

pub(super) fn l4(kind: &str, name: &str, parents: &str, fields: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: infra}}, \
         spec: {{parentRefs: [{parents}], {fields}}}}}"
    )
}

const V1: &str = "rules: [{backendRefs: [{name: v1, port: 8080}]}]";
const RAW_V1: &str = "rules: [{backendRefs: [{name: v1, port: 9000}]}]";

pub(super) fn tests() -> Vec<Test> {
    [https(), tls_routes(), tcp_routes()].into_iter().flatten().collect()
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn https() -> Vec<Test> {
    let two = gateway(
        "{name: a, port: 443, protocol: HTTPS, hostname: example.org, tls: {certificateRefs: [{name: cert}]}}, \
        {name: b, port: 443, protocol: HTTPS, hostname: second-example.org, tls: {certificateRefs: [{name: cert}]}}, \
        {name: c, port: 443, protocol: HTTPS, hostname: '*.wildcard.org', tls: {certificateRefs: [{name: cert}]}}",
    );
    let secret = "SECRET(infra cert example.org second-example.org *.wildcard.org)";
    vec![
        core("HTTPRouteHTTPSListener")
            .yaml(&two)
            .yaml(secret)
            .yaml(&route("r", &format!("hostnames: [example.org], {V1}")))
            .says("HTTPRoute infra/r", FINE)
            .says(
                "Gateway infra/gw a",
                "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs Programmed=True/Programmed attached=1",
            )
            .ask_at("infra/gw", 443, inside("example.org", get("/").to("example.org")), by("v1"))
            .act(async |case| {
                // Another name has no listener.
                let tls = Tls { sni: "unknown.org".to_owned(), client: None };
                ensure!(
                    case.connect(("infra/gw", 443), Some(&tls), false).await.is_err(),
                    "a handshake for nobody"
                );
                Ok(())
            }),
        core("TLS: of several certificates of a listener the one for the name is shown")
            .yaml(&gateway("{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: one}, {name: two}]}}"))
            .yaml("SECRET(infra one one.example)")
            .yaml("SECRET(infra two two.example *.two.example)")
            .yaml(&route("r", V1))
            .says("Gateway infra/gw a", "ResolvedRefs=True/ResolvedRefs Programmed=True/Programmed")
            .ask_at("infra/gw", 443, inside("one.example", get("/").to("one.example")), by("v1"))
            .ask_at("infra/gw", 443, inside("two.example", get("/").to("two.example")), by("v1"))
            .ask_at("infra/gw", 443, inside("a.two.example", get("/").to("a.two.example")), by("v1")),
        core("Bad input: a Secret whose certificate is none")
            .yaml(&gateway("{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: bad}]}}, {name: h, port: 80, protocol: HTTP}"))
            .yaml("{apiVersion: v1, kind: Secret, metadata: {name: bad, namespace: infra}, type: kubernetes.io/tls, data: {tls.crt: SGVsbG8gd29ybGQK, tls.key: SGVsbG8gd29ybGQK}}")
            .yaml(&route("r", V1))
            .says("Gateway infra/gw a", "ResolvedRefs=False/InvalidCertificateRef Programmed=False/Invalid")
            .says("Gateway infra/gw h", "Programmed=True/Programmed")
            .ask(get("/"), by("v1"))
            .act(async |case| {
                let tls = Tls { sni: "example.org".to_owned(), client: None };
                ensure!(case.connect(("infra/gw", 443), Some(&tls), false).await.is_err(), "a handshake with nothing");
                Ok(())
            }),
        extended("HTTPRouteHTTPSListenerDetectMisdirectedRequests")
            .yaml(&two)
            .yaml(secret)
            .yaml(&route("r", &format!("hostnames: [example.org, second-example.org, a.wildcard.org], {V1}")))
            .ask_at("infra/gw", 443, inside("example.org", get("/").to("example.org")), by("v1"))
            .ask_at(
                "infra/gw",
                443,
                inside("example.org", get("/").to("second-example.org")),
                Want::status(421),
            )
            .ask_at("infra/gw", 443, inside("example.org", get("/").to("a.wildcard.org")), Want::status(421))
            .ask_at("infra/gw", 443, inside("a.wildcard.org", get("/").to("example.org")), Want::status(421))
            .ask_at(
                "infra/gw",
                443,
                inside("a.wildcard.org", get("/").to("b.wildcard.org")),
                Want::status(404),
            )
            .ask_at("infra/gw", 443, inside("example.org", get("/").to("unknown.org")), Want::status(404)),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn tls_routes() -> Vec<Test> {
    let pass = |hosts: &[&str]| {
        let all = hosts.iter().enumerate().map(|(number, host)| {
            format!("{{name: l{number}, port: 443, protocol: TLS, hostname: '{host}', tls: {{mode: Passthrough}}}}")
        });
        gateway(&all.collect::<Vec<_>>().join(", "))
    };
    let tls = |name: &str, hosts: &str, rules: &str| {
        l4("TLSRoute", name, "{name: gw}", &format!("hostnames: [{hosts}], {rules}"))
    };
    let opened = gateway(
        "{name: t, port: 443, protocol: TLS, hostname: example.org, tls: {mode: Terminate, certificateRefs: [{name: cert}]}}",
    );
    let mixed = gateway(
        "{name: t, port: 443, protocol: TLS, hostname: open.example.org, tls: {mode: Terminate, certificateRefs: [{name: cert}]}}, \
        {name: p, port: 443, protocol: TLS, hostname: pass.example.org, tls: {mode: Passthrough}}",
    );
    vec![
        core("TLSRouteSimpleSameNamespace")
            .yaml(&pass(&["abc.example.com"]))
            .yaml(&tls("r", "abc.example.com", RAW_V1))
            .says("TLSRoute infra/r", FINE)
            .says("Gateway infra/gw l0", "attached=1 kinds=TLSRoute Programmed=True/Programmed")
            .act(async |case| passed(&case, "abc.example.com", true).await)
            .act(async |case| passed(&case, "other.example.com", false).await),
        core("TLSRouteHostnameIntersection")
            .yaml(&pass(&["abc.example.com", "*.wild.com"]))
            .yaml(&tls("a", "'*.example.com', foo.wild.com, none.org", RAW_V1))
            .yaml(&tls("b", "other.org", RAW_V1))
            .says("TLSRoute infra/a", FINE)
            .says("TLSRoute infra/b", "Accepted=False/NoMatchingListenerHostname")
            .act(async |case| passed(&case, "abc.example.com", true).await)
            .act(async |case| passed(&case, "foo.wild.com", true).await)
            .act(async |case| passed(&case, "xyz.example.com", false).await)
            .act(async |case| passed(&case, "bar.wild.com", false).await)
            .act(async |case| passed(&case, "none.org", false).await),
        core("TLSRouteInvalidBackendRefNonexistent")
            .yaml(&pass(&["abc.example.com"]))
            .yaml(&tls("r", "abc.example.com", "rules: [{backendRefs: [{name: gone, port: 443}]}]"))
            .says("TLSRoute infra/r", "Accepted=True/Accepted ResolvedRefs=False/BackendNotFound")
            .act(async |case| passed(&case, "abc.example.com", false).await),
        core("TLSRouteInvalidBackendRefUnknownKind")
            .yaml(&pass(&["abc.example.com"]))
            .yaml(&tls(
                "r",
                "abc.example.com",
                "rules: [{backendRefs: [{group: unknown.example.com, kind: NonExistent, name: x}]}]",
            ))
            .says("TLSRoute infra/r", "Accepted=True/Accepted ResolvedRefs=False/InvalidKind")
            .act(async |case| passed(&case, "abc.example.com", false).await),
        core("TLSRouteInvalidReferenceGrant")
            .yaml(&pass(&["abc.example.com"]))
            .yaml(&tls(
                "r",
                "abc.example.com",
                "rules: [{backendRefs: [{name: w1, namespace: web, port: 9000}]}]",
            ))
            .says("TLSRoute infra/r", "Accepted=True/Accepted ResolvedRefs=False/RefNotPermitted")
            .act(async |case| passed(&case, "abc.example.com", false).await),
        core("TLSRouteInvalidNoMatchingListener")
            .yaml(super::http::GATEWAY)
            .yaml(&tls("r", "abc.example.com", RAW_V1))
            .says("TLSRoute infra/r", "Accepted=False/NotAllowedByListeners"),
        core("TLSRouteInvalidNoMatchingListenerHostname")
            .yaml(&pass(&["abc.example.com"]))
            .yaml(&tls("r", "abc.example.org", RAW_V1))
            .says("TLSRoute infra/r", "Accepted=False/NoMatchingListenerHostname")
            .act(async |case| passed(&case, "abc.example.org", false).await),
        core("TLSRouteListenerPassthroughSupportedKinds")
            .yaml(&pass(&["abc.example.com"]))
            .says("Gateway infra/gw l0", "kinds=TLSRoute Accepted=True/Accepted"),
        extended("TLSRouteListenerTerminateSupportedKinds")
            .yaml(&opened)
            .yaml("SECRET(infra cert example.org)")
            .says("Gateway infra/gw t", "kinds=TLSRoute,TCPRoute Accepted=True/Accepted"),
        extended("TLSRouteTerminateSimpleSameNamespace")
            .yaml(&opened)
            .yaml("SECRET(infra cert example.org)")
            .yaml(&tls("r", "example.org", RAW_V1))
            .says("TLSRoute infra/r", FINE)
            // What is inside is nobody's business, and goes to the pod as it is.
            .ask_at(
                "infra/gw",
                443,
                inside("example.org", get("/").to("whatever")),
                by("v1").seen("authority", "whatever").not_seen("h:x-forwarded-for"),
            ),
        extended("TLSRouteMixedTerminationSameNamespace")
            .yaml(&mixed)
            .yaml("SECRET(infra cert open.example.org)")
            .yaml(&tls("open", "open.example.org", RAW_V1))
            .yaml(&tls("pass", "pass.example.org", RAW_V1))
            .says("Gateway infra/gw t", "Accepted=True/Accepted Conflicted=False/NoConflicts attached=1")
            .says("Gateway infra/gw p", "Accepted=True/Accepted Conflicted=False/NoConflicts attached=1")
            .ask_at("infra/gw", 443, inside("open.example.org", get("/")), by("v1"))
            .act(async |case| passed(&case, "pass.example.org", true).await),
    ]
}

/// Whether a handshake that asks for `name` reaches the pod as it is. The pod speaks no TLS, and says so in plain HTTP or
/// ends the connection; what counts is whether it has seen anything.
async fn passed(case: &Case, name: &str, reaches: bool) -> Result<()> {
    let answer = match case.connect(("infra/gw", 443), None, false).await {
        Ok(io) => hello(io, name).await?,
        // The reset may come before the connection is told to be there.
        Err(_) => false,
    };
    // A pod that waits for a line of HTTP is silent; a gateway without a route resets at once.
    ensure!(
        answer == reaches,
        "{name}: {}",
        if answer { "the pod was reached" } else { "the pod was not reached" }
    );
    Ok(())
}

/// Sends the beginning of a handshake; `false` if the connection ends at once.
async fn hello(mut io: Box<dyn Stream>, name: &str) -> Result<bool> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let roots = rustls::RootCertStore::empty();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let server = rustls::pki_types::ServerName::try_from(name.to_owned())?;
    let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), server)?;
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes)?;
    io.write_all(&bytes).await?;
    let mut byte = [0];
    match tokio::time::timeout(Duration::from_millis(700), io.read(&mut byte)).await {
        Err(_) => Ok(true),
        Ok(Ok(count)) => Ok(count > 0),
        Ok(Err(_)) => Ok(false),
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn tcp_routes() -> Vec<Test> {
    let ports = gateway(
        "{name: t1, port: 9000, protocol: TCP}, {name: t2, port: 9001, protocol: TCP}, {name: h, port: 80, protocol: HTTP}",
    );
    let tcp = |name: &str, parents: &str, backends: &str| {
        l4("TCPRoute", name, parents, &format!("rules: [{{backendRefs: [{backends}]}}]"))
    };
    let to = |pod: &str| format!("{{name: {pod}, port: 9000}}");
    let grant = "{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: g, namespace: web}, \
        spec: {from: [{group: gateway.networking.k8s.io, kind: TCPRoute, namespace: infra}], to: [{group: '', kind: Service}]}}";
    vec![
        core("TCPRouteParentRefAttachAll")
            .yaml(&ports)
            .yaml(&tcp("r", "{name: gw}", &to("v1")))
            .says("TCPRoute infra/r", FINE)
            .says("Gateway infra/gw t1", "attached=1 kinds=TCPRoute")
            .says("Gateway infra/gw t2", "attached=1")
            .says("Gateway infra/gw h", "attached=0")
            .ask_at("infra/gw", 9000, get("/"), by("v1").not_seen("h:x-forwarded-for"))
            .ask_at("infra/gw", 9001, get("/"), by("v1")),
        core("TCPRouteParentRefPortAndSectionName")
            .yaml(&ports)
            .yaml(&tcp("a", "{name: gw, port: 9000}", &to("v1")))
            .yaml(&tcp("b", "{name: gw, sectionName: t2, port: 9001}", &to("v2")))
            .ask_at("infra/gw", 9000, get("/"), by("v1"))
            .ask_at("infra/gw", 9001, get("/"), by("v2")),
        core("TCPRouteMultipleRoutesAttachment")
            .yaml(&ports)
            .yaml(&tcp("a", "{name: gw, port: 9000}", &to("v1")))
            .yaml(&tcp("b", "{name: gw, port: 9000}", &to("v2")))
            .says("TCPRoute infra/a", FINE)
            .says("TCPRoute infra/b", FINE)
            .says("Gateway infra/gw t1", "attached=2")
            .ask_at("infra/gw", 9000, get("/"), by("v1")),
        core("TCPRouteInvalidNonTCPListener")
            .yaml(&ports)
            .yaml(&tcp("r", "{name: gw, sectionName: h}", &to("v1")))
            .says("TCPRoute infra/r", "Accepted=False/NotAllowedByListeners"),
        core("TCPRouteInvalidBackendRefNonexistent")
            .yaml(&ports)
            .yaml(&tcp("r", "{name: gw, port: 9000}", &to("gone")))
            .says("TCPRoute infra/r", "Accepted=True/Accepted ResolvedRefs=False/BackendNotFound")
            .act(async |case| refused(&case).await),
        core("TCPRouteInvalidCrossNamespaceBackendRef")
            .yaml(&ports)
            .yaml(&tcp("r", "{name: gw, port: 9000}", "{name: w1, namespace: web, port: 9000}"))
            .says("TCPRoute infra/r", "Accepted=True/Accepted ResolvedRefs=False/RefNotPermitted")
            .act(async |case| refused(&case).await),
        core("TCPRouteReferenceGrant")
            .yaml(&ports)
            .yaml(&tcp("r", "{name: gw, port: 9000}", "{name: w1, namespace: web, port: 9000}"))
            .yaml(grant)
            .says("TCPRoute infra/r", FINE)
            .ask_at("infra/gw", 9000, get("/"), by("w1")),
        core("TCPRouteWeightedRouting")
            .yaml(&ports)
            .yaml(&tcp("r", "{name: gw, port: 9000}", "{name: v1, port: 9000, weight: 70}, {name: v2, port: 9000, weight: 30}, {name: v3, port: 9000, weight: 0}"))
            .act(async |case| {
                let shares = case.shares(("infra/gw", 9000), 300, get("/")).await?;
                let (one, two) = (shares.get("v1").copied().unwrap_or(0), shares.get("v2").copied().unwrap_or(0));
                ensure!((170..=250).contains(&one) && one + two == 300, "{shares:?}");
                Ok(())
            }),
    ]
}

async fn refused(case: &Case) -> Result<()> {
    // The reset may come before the connection is told to be there.
    let Ok(io) = case.connect(("infra/gw", 9000), None, false).await else { return Ok(()) };
    ensure!(h1(io, &get("/").to("x")).await.is_err(), "it was answered");
    Ok(())
}
