//! Calls of gRPC.

use anyhow::ensure;

use super::http::{self, FINE, GATEWAY, by};
use super::{Test, core, extended};
use crate::client::{get, grpc};
use crate::row::Want;

/// A GRPCRoute `infra/NAME` of `infra/gw`.
fn route(name: &str, fields: &str) -> String {
    route_at(name, "{name: gw}", fields)
}

fn route_at(name: &str, parents: &str, fields: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {{name: {name}, namespace: infra}}, \
         spec: {{parentRefs: [{parents}], {fields}}}}}"
    )
}

fn to(pod: &str) -> String {
    format!("backendRefs: [{{name: {pod}, port: 8082}}]")
}

const LOGIN: &str = "/user.User/Login";

#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn tests() -> Vec<Test> {
    let modifier = "requestHeaderModifier: {set: [{name: X-Header-Set, value: set-overwrites-values}], add: [{name: X-Header-Add, value: add-appends-values}], remove: [X-Header-Remove]}";
    let hosts = "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: gw, namespace: infra}, spec: {gatewayClassName: istio, listeners: [\
        {name: l1, port: 80, protocol: HTTP, hostname: bar.com}, {name: l2, port: 80, protocol: HTTP, hostname: foo.bar.com}, \
        {name: l3, port: 80, protocol: HTTP, hostname: '*.bar.com'}, {name: l4, port: 80, protocol: HTTP, hostname: '*.foo.com'}]}}";
    vec![
        core("GRPCExactMethodMatching")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!(
                "rules: [{{matches: [{{method: {{service: user.User, method: Login}}}}], {}}}, {{matches: [{{method: {{service: user.User, method: Logout}}}}], {}}}]",
                to("v1"), to("v2")
            )))
            .says("GRPCRoute infra/r", FINE)
            .says("Gateway infra/gw http", "attached=1 kinds=HTTPRoute,GRPCRoute")
            .ask(grpc(LOGIN), by("v1").seen("version", "HTTP/2"))
            .ask(grpc("/user.User/Logout"), by("v2"))
            // UNIMPLEMENTED.
            .ask(grpc("/user.User/Other"), Want::status(200).header("grpc-status", "12")),
        core("GRPCRouteHeaderMatching")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!(
                "rules: [{{matches: [{{headers: [{{name: version, value: one}}]}}], {}}}, {{matches: [{{headers: [{{name: version, value: two}}]}}], {}}}, \
                 {{matches: [{{headers: [{{name: version, value: two}}, {{name: color, value: orange}}]}}], {}}}]",
                to("v1"), to("v2"), to("v3")
            )))
            .ask(grpc(LOGIN).with("version", "one"), by("v1"))
            .ask(grpc(LOGIN).with("version", "two"), by("v2"))
            .ask(grpc(LOGIN).with("version", "two").with("color", "orange"), by("v3"))
            .ask(grpc(LOGIN).with("color", "purple"), Want::status(200).header("grpc-status", "12")),
        core("GRPCRouteListenerHostnameMatching")
            .yaml(hosts)
            .yaml(&route_at("a", "{name: gw, sectionName: l1}", &format!("rules: [{{{}}}]", to("v1"))))
            .yaml(&route_at("b", "{name: gw, sectionName: l2}", &format!("rules: [{{{}}}]", to("v2"))))
            .yaml(&route_at("c", "{name: gw, sectionName: l3}, {name: gw, sectionName: l4}", &format!("rules: [{{{}}}]", to("v3"))))
            .ask(grpc(LOGIN).to("bar.com"), by("v1"))
            .ask(grpc(LOGIN).to("foo.bar.com"), by("v2"))
            .ask(grpc(LOGIN).to("baz.bar.com"), by("v3"))
            .ask(grpc(LOGIN).to("multiple.prefixes.foo.com"), by("v3"))
            .ask(grpc(LOGIN).to("foo.com"), Want::status(200).header("grpc-status", "12"))
            .ask(grpc(LOGIN).to("no.matching.host"), Want::status(200).header("grpc-status", "12")),
        extended("GRPCRouteNamedRule")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!("rules: [{{name: named, matches: [{{method: {{service: user.User}}}}], {}}}]", to("v1"))))
            .says("GRPCRoute infra/r", FINE)
            .ask(grpc(LOGIN), by("v1")),
        extended("GRPCRouteRequestHeaderModifier")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!("rules: [{{filters: [{{type: RequestHeaderModifier, {modifier}}}], {}}}]", to("v1"))))
            .act(async |case| {
                let mark = case.mark();
                let call = grpc(LOGIN).with("x-header-add", "some").with("x-header-remove", "val").mark(&mark);
                let reply = case.send(("infra/gw", 80), call).await?;
                ensure!(reply.pod() == "v1", "{reply}");
                let seen = case.seen(&mark).pop().ok_or_else(|| anyhow::anyhow!("nothing was seen"))?;
                let header = |name: &str| seen.header(name).unwrap_or_default();
                ensure!(header("x-header-set") == "set-overwrites-values", "{seen:?}");
                ensure!(header("x-header-add") == "some,add-appends-values" && header("x-header-remove").is_empty(), "{seen:?}");
                Ok(())
            }),
        // The suite has no test of it; the specification of GRPCRoute asks for it.
        core("GRPCRouteHostnameOfAnHTTPRoute")
            .yaml(GATEWAY)
            .yaml(&http::route("a", "hostnames: [first.test], rules: [{backendRefs: [{name: v1, port: 8080}]}]"))
            .yaml(&route("b", &format!("hostnames: ['*.test'], rules: [{{{}}}]", to("v2"))))
            .yaml(&route("c", &format!("hostnames: [third.test], rules: [{{{}}}]", to("v2"))))
            .says("HTTPRoute infra/a", FINE)
            .says("GRPCRoute infra/b", "Accepted=False/HostnameConflict")
            .says("GRPCRoute infra/c", FINE)
            .says("Gateway infra/gw http", "attached=2")
            .ask(get("/").to("first.test"), by("v1"))
            .ask(grpc(LOGIN).to("second.test"), Want::status(200).header("grpc-status", "12"))
            .ask(grpc(LOGIN).to("third.test"), by("v2")),
        core("GRPCRouteWeight")
            .yaml(GATEWAY)
            .yaml(&route("r", "rules: [{backendRefs: [{name: v1, port: 8082, weight: 70}, {name: v2, port: 8082, weight: 30}, {name: v3, port: 8082, weight: 0}]}]"))
            .act(async |case| {
                let shares = case.shares(("infra/gw", 80), 300, grpc(LOGIN)).await?;
                let (one, two) = (shares.get("v1").copied().unwrap_or(0), shares.get("v2").copied().unwrap_or(0));
                ensure!((170..=250).contains(&one) && one + two == 300, "{shares:?}");
                Ok(())
            }),
    ]
}
