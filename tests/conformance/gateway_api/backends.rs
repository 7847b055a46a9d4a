//! Where requests go: references, leave to refer, shares, kinds of Services.

use anyhow::ensure;

use super::http::{FINE, GATEWAY, by, route};
use super::{Test, core, extended};
use crate::client::get;
use crate::row::Want;

fn grant(name: &str, kind: &str, from: &str, to: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {{name: {name}, namespace: web}}, \
         spec: {{from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: {from}}}], to: [{to}]}}}}"
    )
}

const TO_SERVICES: &str = "{group: '', kind: Service}";
const OF_WEB: &str = "rules: [{backendRefs: [{name: w1, namespace: web, port: 8080}]}]";
const NOT_PERMITTED: &str = "Accepted=True/Accepted ResolvedRefs=False/RefNotPermitted";

/// A rule, and one with this expression for the path.
fn partly(expression: &str) -> String {
    format!(
        "rules: [{{backendRefs: [{{name: v1, port: 8080}}]}}, \
         {{matches: [{{path: {{type: RegularExpression, value: {expression}}}}}], backendRefs: [{{name: v2, port: 8080}}]}}]"
    )
}

pub(super) fn tests() -> Vec<Test> {
    [references(), shares(), services()].into_iter().flatten().collect()
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn references() -> Vec<Test> {
    vec![
        core("HTTPRouteReferenceGrant")
            .yaml(GATEWAY)
            .yaml(&route("r", OF_WEB))
            .yaml(&grant("g", "HTTPRoute", "infra", "{group: '', kind: Service, name: w1}"))
            .says("HTTPRoute infra/r", FINE)
            .ask(get("/"), by("w1")),
        core("HTTPRouteInvalidCrossNamespaceBackendRef")
            .yaml(GATEWAY)
            .yaml(&route("r", OF_WEB))
            .says("HTTPRoute infra/r", NOT_PERMITTED)
            .says("Gateway infra/gw http", "attached=1")
            .ask(get("/"), Want::status(500)),
        core("HTTPRouteInvalidReferenceGrant")
            .yaml(GATEWAY)
            .yaml(&route("r", OF_WEB))
            .yaml(&grant("g1", "TCPRoute", "infra", TO_SERVICES))
            .yaml(&grant("g2", "HTTPRoute", "app", TO_SERVICES))
            .yaml(&grant("g3", "HTTPRoute", "infra", "{group: '', kind: Secret}"))
            .yaml(&grant("g4", "HTTPRoute", "infra", "{group: '', kind: Service, name: other}"))
            .yaml(&grant("g5", "HTTPRoute", "infra", TO_SERVICES).replace("namespace: web", "namespace: app"))
            .says("HTTPRoute infra/r", NOT_PERMITTED)
            .ask(get("/"), Want::status(500)),
        core("HTTPRoutePartiallyInvalidViaInvalidReferenceGrant")
            .yaml(GATEWAY)
            .yaml(&route("r", "rules: [{matches: [{path: {value: /v2}}], backendRefs: [{name: w1, namespace: web, port: 8080}]}, {backendRefs: [{name: v1, port: 8080}]}]"))
            .yaml(&grant("g", "HTTPRoute", "infra", "{group: '', kind: Service, name: w2}"))
            .says("HTTPRoute infra/r", NOT_PERMITTED)
            .ask(get("/v2"), Want::status(500))
            .ask(get("/"), by("v1")),
        // The suite has no test of it; the specification says what PartiallyInvalid has to look like.
        core("HTTPRoutePartiallyInvalidViaInvalidExpression")
            .yaml(GATEWAY)
            .yaml(&route("r", &partly("'('")))
            .yaml(&route("all", &format!("hostnames: [all.test], {}", partly("'('").replace("{backendRefs: [{name: v1, port: 8080}]}, ", ""))))
            .says("HTTPRoute infra/r", FINE)
            .says("HTTPRoute infra/r", "PartiallyInvalid=True/UnsupportedValue")
            .says("HTTPRoute infra/all", "Accepted=False/UnsupportedValue")
            .says("Gateway infra/gw http", "attached=1")
            .ask(get("/v2"), by("v1"))
            .ask(get("/").to("all.test"), by("v1"))
            .act(async |case| {
                let route_said = case.read("HTTPRoute", "infra/r").map(|it| it.to_string()).unwrap_or_default();
                ensure!(route_said.contains("Dropped Rule rules[1]: "), "{route_said}");
                case.rewrite(&route("r", &partly("'/v.'")))?;
                case.until(("infra/gw", 80), get("/v2"), &by("v2")).await?;
                case.soon(async || {
                    let said = case.read("HTTPRoute", "infra/r").map(|it| it["status"].to_string());
                    ensure!(said.as_ref().is_some_and(|it| !it.contains("PartiallyInvalid")), "{said:?}");
                    Ok(())
                })
                .await
            }),
        core("HTTPRouteInvalidNonExistentBackendRef")
            .yaml(GATEWAY)
            .yaml(&route("r", "rules: [{backendRefs: [{name: nonexistent, port: 8080}]}]"))
            .says("HTTPRoute infra/r", "Accepted=True/Accepted ResolvedRefs=False/BackendNotFound")
            .ask(get("/"), Want::status(500)),
        core("HTTPRouteInvalidBackendRefUnknownKind")
            .yaml(GATEWAY)
            .yaml(&route("r", "rules: [{backendRefs: [{group: unknownkind.example.com, kind: NonExistent, name: x}]}]"))
            .says("HTTPRoute infra/r", "Accepted=True/Accepted ResolvedRefs=False/InvalidKind")
            .ask(get("/"), Want::status(500)),
        core("HTTPRouteNoBackendRefs")
            .yaml(GATEWAY)
            .yaml(&route("r", "rules: [{matches: [{path: {value: /empty}}], backendRefs: []}, {matches: [{path: {value: /omitted}}]}]"))
            .says("HTTPRoute infra/r", FINE)
            .ask(get("/empty"), Want::status(500))
            .ask(get("/omitted"), Want::status(500))
            .ask(get("/other"), Want::status(404)),
    ]
}

fn shares() -> Vec<Test> {
    vec![
        core("HTTPRouteWeight")
            .yaml(GATEWAY)
            .yaml(&route("r", "rules: [{backendRefs: [{name: v1, port: 8080, weight: 70}, {name: v2, port: 8080, weight: 30}, {name: v3, port: 8080, weight: 0}]}]"))
            .act(async |case| {
                let shares = case.shares(("infra/gw", 80), 500, get("/")).await?;
                let (one, two) = (shares.get("v1").copied().unwrap_or(0), shares.get("v2").copied().unwrap_or(0));
                ensure!((300..=400).contains(&one) && one + two == 500, "{shares:?}");
                Ok(())
            }),
        extended("HTTPRouteRequestHeaderModifierBackendWeights")
            .yaml(GATEWAY)
            .yaml(&route("r", "rules: [{backendRefs: [\
                {name: v1, port: 8080, weight: 100, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: backend, value: one}]}}]}, \
                {name: v2, port: 8080, weight: 100, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: backend, value: two}]}}]}]}]"))
            .act(async |case| {
                let mut pods = std::collections::BTreeSet::new();
                for _ in 0..60 {
                    let reply = case.send(("infra/gw", 80), get("/")).await?;
                    let want = if reply.pod() == "v1" { "one" } else { "two" };
                    ensure!(reply.seen()?.header("backend").as_deref() == Some(want), "{reply}");
                    pods.insert(reply.pod());
                }
                ensure!(pods.len() == 2, "{pods:?}");
                Ok(())
            }),
        extended("HTTPRouteBackendRequestHeaderModifier")
            .yaml(GATEWAY)
            .yaml(&route("r", "rules: [{matches: [{path: {value: /set}}], backendRefs: [{name: v1, port: 8080, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set, value: set-overwrites-values}]}}]}]}, \
                {matches: [{path: {value: /add}}], backendRefs: [{name: v1, port: 8080, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: X-Header-Add, value: add-appends-values}]}}]}]}, \
                {matches: [{path: {value: /remove}}], backendRefs: [{name: v1, port: 8080, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [X-Header-Remove]}}]}]}]"))
            .ask(get("/set").with("x-header-set", "some-other-value"), by("v1").seen("h:x-header-set", "set-overwrites-values"))
            .ask(get("/add").with("x-header-add", "some-other-value"), by("v1").seen("h:x-header-add", "some-other-value,add-appends-values"))
            .ask(get("/remove").with("x-header-remove", "val"), by("v1").not_seen("h:x-header-remove")),
        extended("HTTPRouteBackendRequestRedirect")
            .yaml(GATEWAY)
            .yaml(&route("r", "rules: [{matches: [{path: {value: /hostname}}], backendRefs: [{name: v1, port: 8080, filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, statusCode: 301}}]}]}, \
                {matches: [{path: {value: /half}}], backendRefs: [{name: v1, port: 8080}, {name: v2, port: 8080, filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org}}]}]}]"))
            .ask(get("/hostname"), Want::status(301).header("location", "http://example.org/hostname"))
            .act(async |case| {
                let shares = case.shares(("infra/gw", 80), 60, get("/half")).await?;
                ensure!(shares.len() == 2 && shares.contains_key("v1") && shares.contains_key("302"), "{shares:?}");
                Ok(())
            }),
        extended("HTTPRouteBackendURLRewrite")
            .yaml(GATEWAY)
            .yaml(&route("r", "rules: [{matches: [{path: {value: /prefix}}], backendRefs: [{name: v1, port: 8080, filters: [{type: URLRewrite, urlRewrite: {hostname: one.example.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]}]}, \
                {matches: [{path: {value: /full}}], backendRefs: [{name: v2, port: 8080, filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /one}}}]}]}]"))
            .ask(get("/prefix/two"), by("v1").seen("target", "/new/two").seen("authority", "one.example.org"))
            .ask(get("/full/two"), by("v2").seen("target", "/one")),
    ]
}

fn services() -> Vec<Test> {
    vec![
        core("HTTPRouteServiceTypes")
            .yaml(GATEWAY)
            .yaml("{apiVersion: v1, kind: Service, metadata: {name: headless, namespace: infra}, spec: {clusterIP: None, selector: {app: v1}, ports: [{name: http, port: 8080, targetPort: TARGET}]}}")
            .yaml(&route("r", "rules: [{matches: [{path: {value: /cluster-ip}}], backendRefs: [{name: v1, port: 8080}]}, \
                {matches: [{path: {value: /manual}}], backendRefs: [{name: manual, port: 8080}]}, {matches: [{path: {value: /headless}}], backendRefs: [{name: headless, port: 8080}]}, \
                {matches: [{path: {value: /nobody}}], backendRefs: [{name: nobody, port: 8080}]}]"))
            .yaml("{apiVersion: v1, kind: Service, metadata: {name: nobody, namespace: infra}, spec: {selector: {app: nobody}, ports: [{name: http, port: 8080}]}}")
            .yaml("{apiVersion: v1, kind: Service, metadata: {name: manual, namespace: infra}, spec: {ports: [{name: http, port: 8080}]}}")
            .yaml("MANUAL")
            .ask(get("/cluster-ip"), by("v1"))
            .ask(get("/manual"), by("v2"))
            .ask(get("/headless"), by("v1"))
            .ask(get("/nobody"), Want::status(503)),
        extended("HTTPRouteBackendProtocolH2C")
            .yaml(GATEWAY)
            .yaml(&route("r", "rules: [{matches: [{path: {value: /h2c}}], backendRefs: [{name: v1, port: 8082}]}, {backendRefs: [{name: v1, port: 8080}]}]"))
            .says("HTTPRoute infra/r", FINE)
            .ask(get("/h2c"), by("v1").seen("version", "HTTP/2"))
            .ask(get("/"), by("v1").seen("version", "HTTP/1.1")),
        extended("HTTPRouteBackendProtocolWebSocket")
            .yaml(GATEWAY)
            .yaml(&route("r", "rules: [{backendRefs: [{name: v1, port: 8083}]}]"))
            .ask(
                get("/").with("upgrade", "websocket").with("connection", "upgrade").with("sec-websocket-version", "13")
                    .with("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                Want::status(101).header("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ),
    ]
}
