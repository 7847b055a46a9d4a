//! TLS that the owners of Services ask of Gateways.

use super::http::{FINE, GATEWAY, by, route, route_at};
use super::tls::{inside, l4};
use super::{Test, core, extended};
use crate::client::{get, grpc};
use crate::row::Want;

/// The authority of the pods, another one, and Service `tls` with pod `v1` behind it, which speaks TLS as `abc.example.com`
/// and nothing else.
const BASE: &str = "
{apiVersion: v1, kind: ConfigMap, metadata: {name: ca, namespace: infra}, data: OUR-CA}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: other-ca, namespace: infra}, data: OTHER-CA}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: malformed, namespace: infra}, data: {ca.crt: \"no certificate\"}}
---
{apiVersion: v1, kind: Service, metadata: {name: tls, namespace: infra}, spec: {selector: {app: v1}, ports: [
 {name: btls, port: 443, targetPort: TLS-PORT}, {name: again, port: 444, targetPort: TLS-PORT}, {name: grpc, port: 445, targetPort: TLS-PORT}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: other, namespace: infra}, spec: {selector: {app: v2}, ports: [{name: btls, port: 443, targetPort: TLS-PORT}]}}";

/// A policy for these, each a Service with a port or without.
fn policy(name: &str, targets: &[&str], validation: &str) -> String {
    let targets = targets.iter().map(|target| {
        let (service, port) = target.split_once(':').unwrap_or((target, ""));
        let port = if port.is_empty() { String::new() } else { format!(", sectionName: {port}") };
        format!("{{group: '', kind: Service, name: {service}{port}}}")
    });
    let targets = targets.collect::<Vec<_>>().join(", ");
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {{name: {name}, namespace: infra}}, \
         spec: {{targetRefs: [{targets}], validation: {{{validation}}}}}}}"
    )
}

fn trusting(map: &str, host: &str) -> String {
    format!("caCertificateRefs: [{{group: '', kind: ConfigMap, name: {map}}}], hostname: {host}")
}

fn to(service: &str, port: u16) -> String {
    format!("backendRefs: [{{name: {service}, port: {port}}}]")
}

/// Paths `/1` and so on lead to these.
fn paths(backends: &[(&str, u16)]) -> String {
    let rule = |(number, (service, port)): (usize, &(&str, u16))| {
        format!("{{matches: [{{path: {{value: /{}}}}}], {}}}", number + 1, to(service, *port))
    };
    let rules: Vec<_> = backends.iter().enumerate().map(rule).collect();
    route("r", &format!("rules: [{}]", rules.join(", ")))
}

/// Service `mutual` with pod `v1` behind it, which wants to see a certificate of our authority, and such a certificate.
const MUTUAL: &str = "
{apiVersion: v1, kind: Service, metadata: {name: mutual, namespace: infra}, spec: {selector: {app: v1}, ports: [{name: btls, port: 443, targetPort: MUTUAL-PORT}]}}
---
SECRET(infra client gw.example)";

/// A Gateway that shows a Secret to servers, or nothing.
fn shows(name: &str, secret: &str) -> String {
    let tls = match secret {
        "" => String::new(),
        secret => format!("tls: {{backend: {{clientCertificateRef: {{name: {secret}}}}}}},"),
    };
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: {name}, namespace: infra}}, \
         spec: {{gatewayClassName: istio, {tls} listeners: [{{name: http, port: 80, protocol: HTTP}}]}}}}"
    )
}

const HOST: &str = "abc.example.com";

#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn tests() -> Vec<Test> {
    let fine = || trusting("ca", HOST);
    let names = |names: &str| format!("{}, subjectAltNames: [{names}]", fine());
    let opened = "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: gw, namespace: infra}, spec: {gatewayClassName: istio, \
        listeners: [{name: t, port: 443, protocol: TLS, hostname: outer.example, tls: {mode: Terminate, certificateRefs: [{name: cert}]}}]}}";
    let invalid = |name: &'static str, reference: &str, reason: &'static str| {
        let bad = format!("caCertificateRefs: [{reference}], hostname: {HOST}");
        extended(name)
            .yaml(GATEWAY)
            .yaml(BASE)
            .yaml(&policy("bad", &["tls"], &bad))
            .yaml(&policy("good", &["other"], &fine()))
            .yaml(&paths(&[("tls", 443), ("other", 443)]))
            .says("BackendTLSPolicy infra/bad", reason)
            .says("BackendTLSPolicy infra/good", FINE)
            .ask(get("/1"), Want::status(503))
            .ask(get("/2"), by("v2"))
    };
    vec![
        extended("BackendTLSPolicy")
            .yaml(GATEWAY)
            .yaml(BASE)
            .yaml(&policy("right", &["tls:btls"], &fine()))
            .yaml(&policy("name", &["tls:again"], &trusting("ca", "wrong.example.com")))
            .yaml(&policy("ca", &["other"], &trusting("other-ca", HOST)))
            .yaml(&paths(&[("tls", 443), ("tls", 444), ("other", 443), ("v1", 8080)]))
            .says("HTTPRoute infra/r", FINE)
            .says("BackendTLSPolicy infra/right", FINE)
            .ask(get("/1"), by("v1"))
            // Nobody there has such a certificate, or it is of an authority that is not trusted.
            .ask(get("/2"), Want::status(503))
            .ask(get("/3"), Want::status(503))
            .ask(get("/4"), by("v1"))
            .act(async |case| {
                let policy = case.read("BackendTLSPolicy", "infra/right").unwrap_or_default();
                let ancestors = policy["status"]["ancestors"].as_array().cloned().unwrap_or_default();
                let [only] = &*ancestors else { anyhow::bail!("{ancestors:?}") };
                let reference = &only["ancestorRef"];
                anyhow::ensure!(reference["kind"] == "Gateway" && reference["name"] == "gw", "{only}");
                anyhow::ensure!(only["controllerName"] == "istio.io/gateway-controller", "{only}");
                Ok(())
            }),
        extended("BackendTLSPolicyConflictResolution")
            .yaml(GATEWAY)
            .yaml(BASE)
            .yaml(&policy("a-first", &["tls"], &fine()))
            .yaml(&policy("b-late", &["tls"], &trusting("ca", "wrong.example.com")))
            // A port comes before all of a Service, and is none of its rivals.
            .yaml(&policy("c-port", &["tls:again"], &trusting("ca", "wrong.example.com")))
            .yaml(&policy("d-port", &["tls:again"], &fine()))
            .yaml(&paths(&[("tls", 443), ("tls", 444)]))
            .says("BackendTLSPolicy infra/a-first", FINE)
            .says("BackendTLSPolicy infra/b-late", "Accepted=False/Conflicted")
            .says("BackendTLSPolicy infra/c-port", FINE)
            .says("BackendTLSPolicy infra/d-port", "Accepted=False/Conflicted")
            .ask(get("/1"), by("v1"))
            .ask(get("/2"), Want::status(503)),
        invalid(
            "BackendTLSPolicyInvalidCACertificateRef",
            "{group: '', kind: ConfigMap, name: nonexistent}",
            "Accepted=False/NoValidCACertificate ResolvedRefs=False/InvalidCACertificateRef",
        ),
        invalid(
            "BackendTLSPolicyInvalidKind",
            "{group: '', kind: Service, name: tls}",
            "Accepted=False/NoValidCACertificate ResolvedRefs=False/InvalidKind",
        ),
        invalid(
            "Bad input: a BackendTLSPolicy whose ConfigMap has no certificate",
            "{group: '', kind: ConfigMap, name: malformed}",
            "Accepted=False/NoValidCACertificate ResolvedRefs=False/InvalidCACertificateRef",
        ),
        extended("BackendTLSPolicyObservedGenerationBump")
            .yaml(GATEWAY)
            .yaml(BASE)
            .yaml(&policy("p", &["tls"], &trusting("ca", "wrong.example.com")))
            .yaml(&paths(&[("tls", 443)]))
            .says("BackendTLSPolicy infra/p", FINE)
            .ask(get("/1"), Want::status(503))
            .act(async |case| {
                case.rewrite(&policy("p", &["tls"], &trusting("ca", HOST)))?;
                case.must_say("BackendTLSPolicy infra/p", FINE).await?;
                case.until(("infra/gw", 80), get("/1"), &by("v1")).await
            }),
        extended("BackendTLSPolicySANValidation")
            .yaml(GATEWAY)
            .yaml(BASE)
            .yaml(&policy("some", &["tls:btls"], &names("{type: Hostname, hostname: other.example.com}, {type: URI, uri: 'spiffe://example.com/pod'}")))
            .yaml(&policy("none", &["tls:again"], &names("{type: Hostname, hostname: other.example.com}, {type: URI, uri: 'spiffe://example.com/other'}")))
            .yaml(&policy("host", &["other"], &names("{type: Hostname, hostname: second.example.com}")))
            .yaml(&paths(&[("tls", 443), ("tls", 444), ("other", 443)]))
            .says("BackendTLSPolicy infra/some", FINE)
            .ask(get("/1"), by("v1"))
            .ask(get("/2"), Want::status(503))
            .ask(get("/3"), by("v2")),
        extended("BackendTLSPolicyGRPCRoute")
            .yaml(GATEWAY)
            .yaml(BASE)
            .yaml(&policy("p", &["tls:grpc"], &fine()))
            .yaml(&l4("GRPCRoute", "g", "{name: gw}", &format!("rules: [{{{}}}]", to("tls", 445))))
            .says("BackendTLSPolicy infra/p", FINE)
            .ask(grpc("/user.User/Login"), by("v1").seen("version", "HTTP/2")),
        extended("BackendTLSPolicyTLSRouteTerminate")
            .yaml(opened)
            .yaml(BASE)
            .yaml("SECRET(infra cert outer.example)")
            .yaml(&policy("p", &["tls"], &fine()))
            .yaml(&l4("TLSRoute", "t", "{name: gw}", &format!("hostnames: [outer.example], rules: [{{{}}}]", to("tls", 443))))
            .says("BackendTLSPolicy infra/p", FINE)
            .ask_at("infra/gw", 443, inside("outer.example", get("/").to("whatever")), by("v1").seen("authority", "whatever")),
        extended("GatewayTLSBackendClientCertificate")
            .yaml(&shows("gw", "client"))
            .yaml(&shows("bare", ""))
            .yaml(BASE)
            .yaml(MUTUAL)
            .yaml(&policy("p", &["mutual", "tls"], &fine()))
            .yaml(&route_at("r", "infra", "{name: gw}, {name: bare}", &format!(
                "rules: [{{matches: [{{path: {{value: /mutual}}}}], {}}}, {{{}}}]", to("mutual", 443), to("tls", 443)
            )))
            .says("Gateway infra/gw", "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs Programmed=True/Programmed")
            .says("BackendTLSPolicy infra/p", FINE)
            .ask(get("/mutual"), by("v1"))
            .ask(get("/open"), by("v1"))
            .ask_at("infra/bare", 80, get("/mutual"), Want::status(503))
            .ask_at("infra/bare", 80, get("/open"), by("v1")),
        extended("GatewayInvalidTLSBackendConfiguration")
            .yaml(&shows("gone", "nonexistent"))
            .yaml(&shows("far", "far, namespace: web"))
            .yaml(&shows("map", "ca, kind: ConfigMap"))
            .yaml(BASE)
            .yaml(MUTUAL)
            .yaml("SECRET(web far gw.example)")
            .yaml(&policy("p", &["mutual"], &fine()))
            .yaml(&route_at("r", "infra", "{name: gone}, {name: far}, {name: map}", &format!(
                "rules: [{{matches: [{{path: {{value: /mutual}}}}], {}}}, {{backendRefs: [{{name: v1, port: 8080}}]}}]", to("mutual", 443)
            )))
            .says("Gateway infra/gone", "ResolvedRefs=False/InvalidClientCertificateRef")
            .says("Gateway infra/far", "ResolvedRefs=False/RefNotPermitted")
            .says("Gateway infra/map", "ResolvedRefs=False/InvalidClientCertificateRef")
            .ask_at("infra/gone", 80, get("/mutual"), Want::status(503))
            .ask_at("infra/gone", 80, get("/"), by("v1"))
            .ask_at("infra/far", 80, get("/mutual"), Want::status(503))
            .ask_at("infra/far", 80, get("/"), by("v1")),
        core("Bad input: a BackendTLSPolicy of a Service that is not there")
            .yaml(GATEWAY)
            .yaml(BASE)
            .yaml(&policy("lost", &["nowhere", "tls:no-such-port"], &fine()))
            .yaml(&policy("p", &["tls"], &fine()))
            .yaml(&paths(&[("tls", 443)]))
            .says("BackendTLSPolicy infra/lost", "Accepted=False/TargetNotFound")
            .says("BackendTLSPolicy infra/p", FINE)
            .ask(get("/1"), by("v1")),
    ]
}
