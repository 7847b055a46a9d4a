//! Routes whose parents are Services: what becomes of requests of clients in the mesh, through the proxies of their nodes.

use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::{Result, ensure};
use mesh_tests::grpc::{Ended, Seen};

use super::http::{FINE, by};
use super::stage::Case;
use super::{Test, core, extended};
use crate::client::{Req, get};
use crate::row::Want;

pub(super) fn tests() -> Vec<Test> {
    let all = [matching(), shares(), headers(), redirects(), frontends(), grpc()];
    all.into_iter().flatten().map(Test::in_mesh).collect()
}

/// A route `NAMESPACE/mesh` of a Service.
fn route_of(kind: &str, namespace: &str, parent: &str, rules: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: mesh, namespace: {namespace}}}, \
         spec: {{parentRefs: [{{group: '', kind: Service, {parent}}}], rules: [{rules}]}}}}"
    )
}

fn route(rules: &str) -> String {
    route_of("HTTPRoute", "gc", "name: echo, port: 80", rules)
}

const V1: &str = "backendRefs: [{name: echo-v1, port: 80}]";
const V2: &str = "backendRefs: [{name: echo-v2, port: 80}]";
const ROUTE: &str = "HTTPRoute gc/mesh";
const HALF: &str =
    "{backendRefs: [{name: echo-v1, port: 80, weight: 50}, {name: echo-v2, port: 80, weight: 50}]}";

impl Test {
    /// A request of the client in the Service's own namespace to the Service, and what has to come of it.
    fn send(self, request: Req, want: Want) -> Self {
        self.send_from(("gc", "echo.gc"), request, want)
    }

    fn send_from(self, way: (&'static str, &'static str), request: Req, want: Want) -> Self {
        self.act(async move |case| case.in_mesh(way, request, &want).await)
    }
}

/// How many of 200 requests each pod has answered.
async fn shared(case: Rc<Case>, percent: u32) -> Result<()> {
    case.in_mesh(("gc", "echo.gc"), get("/"), &Want::status(200)).await?;
    let mut shares = BTreeMap::<String, u32>::new();
    for _ in 0..200 {
        let reply = case.mesh()?.send("gc", "echo.gc", &get("/"))?;
        ensure!(reply.status == 200, "{reply}");
        *shares.entry(reply.pod()).or_default() += 1;
    }
    let one = shares.get("echo-v1").copied().unwrap_or_default();
    // Five standard deviations either way.
    let range = percent * 2 - 33..=percent * 2 + 33;
    ensure!(range.contains(&one) && shares.len() == 2, "{shares:?}");
    Ok(())
}

fn matching() -> Vec<Test> {
    let rules = format!(
        "{{matches: [{{path: {{value: /}}}}, {{headers: [{{name: version, value: one}}]}}], {V1}}}, \
         {{matches: [{{path: {{value: /v2}}}}, {{headers: [{{name: version, value: two}}]}}], {V2}}}"
    );
    let queries = format!(
        "{{matches: [{{queryParams: [{{name: animal, value: whale}}]}}], {V1}}}, \
         {{matches: [{{queryParams: [{{name: animal, value: dolphin}}]}}], {V2}}}"
    );
    vec![
        core("MeshBasic").send(get("/"), Want::status(200)),
        core("MeshHTTPRouteSimpleSameNamespace")
            .yaml(&route(&format!("{{{V1}}}")))
            .says(ROUTE, FINE)
            .send(get("/"), by("echo-v1")),
        core("MeshHTTPRouteMatching")
            .yaml(&route(&rules))
            .says(ROUTE, FINE)
            .send(get("/v2"), by("echo-v2"))
            .send(get("/"), by("echo-v1"))
            .send(get("/example"), by("echo-v1"))
            .send(get("/").with("version", "one"), by("echo-v1"))
            .send(get("/").with("version", "two"), by("echo-v2"))
            .send(get("/v2/example"), by("echo-v2"))
            // What is like a prefix and is none.
            .send(get("/v2example"), by("echo-v1"))
            .send(get("/foo/v2/example"), by("echo-v1")),
        extended("MeshHTTPRouteQueryParamMatching")
            .yaml(&route(&queries))
            .send(get("/?animal=dolphin"), by("echo-v2"))
            .send(get("/?animal=whale"), by("echo-v1"))
            .send(get("/?animal=whale&color=blue"), by("echo-v1"))
            .send(get("/?animal=whaledolphin"), Want::status(404))
            .send(get("/"), Want::status(404)),
        extended("MeshHTTPRouteNamedRule")
            .yaml(&route(&format!("{{name: named, matches: [{{path: {{value: /named}}}}], {V1}}}, {{matches: [{{path: {{value: /unnamed}}}}], {V2}}}")))
            .says(ROUTE, FINE)
            .send(get("/named"), by("echo-v1"))
            .send(get("/unnamed"), by("echo-v2")),
    ]
}

fn shares() -> Vec<Test> {
    let weights = HALF.replacen("weight: 50", "weight: 70", 1).replacen("weight: 50", "weight: 30", 1);
    vec![
        core("MeshHTTPRouteWeight").yaml(&route(&weights)).says(ROUTE, FINE).act(|case| shared(case, 70)),
        core("MeshTrafficSplit").yaml(&route(HALF)).says(ROUTE, FINE).act(|case| shared(case, 50)).act(
            async |case| {
                case.rewrite(&route(&format!("{{{V2}}}")))?;
                case.in_mesh(("gc", "echo.gc"), get("/"), &by("echo-v2")).await
            },
        ),
    ]
}

const MODIFIER: &str = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set, value: set-overwrites-values}], \
    add: [{name: X-Header-Add, value: add-appends-values}], remove: [X-Header-Remove]}}";

fn headers() -> Vec<Test> {
    let modified = |test: Test| {
        let request = get("/")
            .with("x-header-set", "some-other-value")
            .with("x-header-add", "some-other-value")
            .with("x-header-remove", "val")
            .with("other", "val");
        let want = by("echo-v1")
            .seen("h:x-header-set", "set-overwrites-values")
            .seen("h:x-header-add", "some-other-value,add-appends-values")
            .seen("h:other", "val")
            .not_seen("h:x-header-remove");
        test.says(ROUTE, FINE).send(request, want).send(
            get("/"),
            by("echo-v1")
                .seen("h:x-header-set", "set-overwrites-values")
                .seen("h:x-header-add", "add-appends-values"),
        )
    };
    let of_backend = format!("{{backendRefs: [{{name: echo-v1, port: 80, filters: [{MODIFIER}]}}]}}");
    vec![
        modified(
            core("MeshHTTPRouteRequestHeaderModifier")
                .yaml(&route(&format!("{{filters: [{MODIFIER}], {V1}}}"))),
        ),
        modified(extended("MeshHTTPRouteBackendRequestHeaderModifier").yaml(&route(&of_backend))),
    ]
}

fn redirect(path: &str, text: &str) -> String {
    format!(
        "{{matches: [{{path: {{value: {path}}}}}], filters: [{{type: RequestRedirect, requestRedirect: {{{text}}}}}]}}"
    )
}

fn moved(status: u16, location: &str) -> Want {
    Want::status(status).header("location", location)
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn redirects() -> Vec<Test> {
    let status = |name: &'static str, status: u16| {
        extended(name)
            .yaml(&route(&redirect("/", &format!("hostname: example.org, statusCode: {status}"))))
            .says(ROUTE, FINE)
            .send(get("/x"), moved(status, "http://example.org/x"))
    };
    let hosts = [
        redirect("/hostname", "hostname: example.org"),
        redirect("/both", "hostname: example.org, statusCode: 301"),
    ];
    let paths = [
        redirect("/original", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement}"),
        redirect("/full", "path: {type: ReplaceFullPath, replaceFullPath: /full-path-replacement}"),
        redirect(
            "/host",
            "hostname: example.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement}",
        ),
        redirect(
            "/status",
            "statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement}",
        ),
    ];
    let ports = [
        redirect("/port", "port: 8083"),
        redirect("/host", "port: 8083, hostname: example.org"),
        redirect("/status", "port: 8083, statusCode: 301"),
    ];
    let schemes = [
        redirect("/scheme", "scheme: https"),
        redirect("/host", "scheme: https, hostname: example.org"),
        redirect("/status", "scheme: https, statusCode: 301"),
    ];
    let rewrite = format!(
        "{{matches: [{{path: {{value: /prefix/one}}}}], filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /one}}}}}}], {V1}}}, \
         {{matches: [{{path: {{value: /full/one}}}}], filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplaceFullPath, replaceFullPath: /one}}}}}}], {V2}}}"
    );
    vec![
        core("MeshHTTPRouteRedirectHostAndStatus")
            .yaml(&route(&hosts.join(", ")))
            .says(ROUTE, FINE)
            .send(get("/hostname"), moved(302, "http://example.org/hostname"))
            .send(get("/both"), moved(301, "http://example.org/both")),
        extended("MeshHTTPRouteRedirectPath")
            .yaml(&route(&paths.join(", ")))
            .send(get("/original/lemon"), moved(302, "http://echo.gc/replacement/lemon"))
            .send(get("/full/path/original"), moved(302, "http://echo.gc/full-path-replacement"))
            .send(get("/host/lemon"), moved(302, "http://example.org/replacement/lemon"))
            .send(get("/status/lemon"), moved(301, "http://echo.gc/replacement/lemon")),
        extended("MeshHTTPRouteRedirectPort")
            .yaml(&route(&ports.join(", ")))
            .send(get("/port"), moved(302, "http://echo.gc:8083/port"))
            .send(get("/host"), moved(302, "http://example.org:8083/host"))
            .send(get("/status"), moved(301, "http://echo.gc:8083/status")),
        extended("MeshHTTPRouteSchemeRedirect")
            .yaml(&route(&schemes.join(", ")))
            .send(get("/scheme"), moved(302, "https://echo.gc/scheme"))
            .send(get("/host"), moved(302, "https://example.org/host"))
            .send(get("/status"), moved(301, "https://echo.gc/status")),
        status("MeshHTTPRoute303Redirect", 303),
        status("MeshHTTPRoute307Redirect", 307),
        status("MeshHTTPRoute308Redirect", 308),
        extended("MeshHTTPRouteRewritePath")
            .yaml(&route(&rewrite))
            .send(get("/prefix/one/two"), by("echo-v1").seen("target", "/one/two"))
            .send(get("/full/one/two?q=1"), by("echo-v2").seen("target", "/one?q=1"))
            // No rule is for it, and what rules are for the Service are all there is.
            .send(get("/"), Want::status(404)),
    ]
}

/// A rule whose answers say which route it was.
fn marked(mark: &str, backends: &str) -> String {
    format!(
        "{{filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: X-Header-Set, value: {mark}}}]}}}}], {backends}}}"
    )
}

fn with(pod: &str, mark: &str) -> Want {
    by(pod).header("x-header-set", mark)
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn frontends() -> Vec<Test> {
    let everywhere = route_of("HTTPRoute", "gc", "name: echo", &marked("v1", V1));
    let alt = route_of("HTTPRoute", "gc", "name: echo, port: 8080", &marked("alt", V2));
    let consumer = route_of(
        "HTTPRoute",
        "consumer",
        "name: echo, namespace: gc",
        &marked("consumer", "backendRefs: [{name: echo-v2, namespace: gc, port: 80}]"),
    );
    let grant = "{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: g, namespace: gc}, \
        spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: consumer}], to: [{group: '', kind: Service}]}}";
    let elsewhere = || Want::status(200).no_header("x-header-set");
    vec![
        extended("MeshFrontend")
            .yaml(&everywhere)
            .send(get("/"), with("echo-v1", "v1"))
            // The Services behind are Services, too, and the route is not for them.
            .send_from(("gc", "echo-v2.gc"), get("/"), elsewhere().header("x-pod", "echo-v2"))
            .send_from(("gc", "echo-v1.gc"), get("/"), elsewhere().header("x-pod", "echo-v1")),
        extended("MeshFrontendHostname")
            .yaml(&everywhere)
            .send(get("/"), with("echo-v1", "v1"))
            // The Service's address counts, not what the request says of its host.
            .send(get("/").to("echo-v2.gc"), with("echo-v1", "v1"))
            .send_from(("gc", "echo-v2.gc"), get("/").to("echo.gc"), elsewhere().header("x-pod", "echo-v2")),
        extended("MeshPorts")
            .yaml(&route(&marked("v1", V1)))
            .yaml(&alt.replace("name: mesh,", "name: alt,"))
            .says(ROUTE, FINE)
            .says("HTTPRoute gc/alt", FINE)
            .send(get("/"), with("echo-v1", "v1"))
            .send_from(("gc", "echo.gc:8080"), get("/"), with("echo-v2", "alt"))
            .send_from(("gc", "echo-v1.gc:8080"), get("/"), elsewhere()),
        extended("MeshConsumerRoute")
            .yaml(&everywhere)
            .yaml(&consumer)
            .yaml(grant)
            .says(ROUTE, FINE)
            .says("HTTPRoute consumer/mesh", FINE)
            .send_from(("consumer", "echo.gc"), get("/"), with("echo-v2", "consumer"))
            .send(get("/"), with("echo-v1", "v1")),
        extended("Mesh: a consumer's route without leave is answered with 500")
            .yaml(&consumer)
            .says("HTTPRoute consumer/mesh", "Accepted=True/Accepted ResolvedRefs=False/RefNotPermitted")
            .send_from(("consumer", "echo.gc"), get("/"), Want::status(500))
            .send(get("/"), elsewhere()),
        extended("Mesh: nodes speak TLS as BackendTLSPolicies ask")
            .yaml("{apiVersion: v1, kind: ConfigMap, metadata: {name: ca, namespace: gc}, data: MESH-CA}")
            .yaml(&policy("right", "echo-v1", "abc.example.com"))
            .yaml(&policy("wrong", "echo-v2", "wrong.example.com"))
            .says("BackendTLSPolicy gc/right", FINE)
            .send_from(("gc", "echo-v1.gc:8443"), get("/"), by("echo-v1"))
            .send_from(("consumer", "echo-v1.gc:8443"), get("/"), by("echo-v1"))
            .send_from(("gc", "echo-v2.gc:8443"), get("/"), Want::status(503)),
        extended("Mesh: connections follow TCPRoutes")
            .yaml(&route_of(
                "TCPRoute",
                "gc",
                "name: echo, port: 9000",
                "{backendRefs: [{name: echo-v2, port: 9000}]}",
            ))
            .yaml(&route_of(
                "TCPRoute",
                "consumer",
                "name: echo, namespace: gc, port: 9000",
                "{backendRefs: [{name: echo-v1, namespace: gc, port: 9000}]}",
            ))
            .yaml(&grant.replace("HTTPRoute", "TCPRoute"))
            .says("TCPRoute gc/mesh", FINE)
            .says("TCPRoute consumer/mesh", FINE)
            .send_from(("gc", "echo.gc:9000"), get("/"), by("echo-v2"))
            .send_from(("consumer", "echo.gc:9000"), get("/"), by("echo-v1")),
        extended("Mesh: a route of what is not there changes nothing for others")
            .yaml(&route_of("HTTPRoute", "gc", "name: gone", &marked("gone", V1)))
            .yaml(&alt.replace("name: mesh,", "name: alt,"))
            .says(ROUTE, "Accepted=False/NoMatchingParent")
            .send_from(("gc", "echo.gc:8080"), get("/"), with("echo-v2", "alt"))
            .send(get("/"), elsewhere()),
    ]
}

/// A policy for the port of a Service at which its pods speak TLS as `abc.example.com`.
fn policy(name: &str, service: &str, host: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {{name: {name}, namespace: gc}}, \
         spec: {{targetRefs: [{{group: '', kind: Service, name: {service}, sectionName: http-sealed}}], \
         validation: {{caCertificateRefs: [{{group: '', kind: ConfigMap, name: ca}}], hostname: {host}}}}}}}"
    )
}

const TO_GRPC: &str = "backendRefs: [{name: echo-v1, port: 7070, weight: WEIGHT1}, {name: echo-v2, port: 7070, weight: WEIGHT2}]";

fn to_grpc(one: u32, two: u32) -> String {
    TO_GRPC.replace("WEIGHT1", &one.to_string()).replace("WEIGHT2", &two.to_string())
}

/// Calls the Service until all calls are answered as they should be.
async fn calls(case: &Case, words: &[&str], wanted: impl Fn(&[Seen]) -> bool) -> Result<()> {
    let answered = |ended: Vec<Ended>| -> Vec<Seen> {
        let seen = ended.into_iter().filter_map(|it| match it {
            Ended::Answered(seen) => Some(seen),
            Ended::Failed(_) => None,
        });
        seen.collect()
    };
    case.soon(async || {
        let ended = case.mesh()?.call("gc", "echo.gc:7070", words)?;
        let shown = format!("{ended:?}").chars().take(600).collect::<String>();
        let count = ended.len();
        let seen = answered(ended);
        ensure!(seen.len() == count && wanted(&seen), "{shown}");
        Ok(())
    })
    .await
}

fn grpc() -> Vec<Test> {
    let route = |rules: &str| route_of("GRPCRoute", "gc", "name: echo, port: 7070", rules);
    let (to_one, shared) = (to_grpc(1, 0), to_grpc(70, 30));
    let fine = "GRPCRoute gc/mesh";
    vec![
        core("MeshGRPCRouteRequestHeaderModifier")
            .yaml(&route(&format!(
                "{{matches: [{{method: {{service: mesh.test.Who}}}}], filters: [{MODIFIER}], {to_one}}}"
            )))
            .says(fine, FINE)
            .act(async |case| {
                let words = [
                    "--metadata",
                    "x-header-set=old",
                    "--metadata",
                    "x-header-add=some",
                    "--metadata",
                    "x-header-remove=val",
                    "--count",
                    "3",
                ];
                calls(&case, &words, |seen| {
                    seen.iter().all(|it| {
                        let has = |key: &str, value: &str| it.metadata.get(key).is_some_and(|it| it == value);
                        it.pod == "echo-v1"
                            && has("x-header-set", "set-overwrites-values")
                            && has("x-header-add", "some,add-appends-values")
                            && !it.metadata.contains_key("x-header-remove")
                    })
                })
                .await
            })
            .act(async |case| {
                // UNIMPLEMENTED: no rule is for another service.
                let ended = case.mesh()?.call("gc", "echo.gc:7070", &["--method", "/mesh.test.Other/Ask"])?;
                ensure!(ended == [Ended::Failed(12)], "{ended:?}");
                Ok(())
            }),
        core("MeshGRPCRouteWeight").yaml(&route(&format!("{{{shared}}}"))).says(fine, FINE).act(
            async |case| {
                // Over one connection: each call is balanced by itself.
                calls(&case, &["--count", "300"], |seen| {
                    let one = seen.iter().filter(|it| it.pod == "echo-v1").count();
                    (170..=250).contains(&one) && seen.iter().any(|it| it.pod == "echo-v2")
                })
                .await
            },
        ),
    ]
}
