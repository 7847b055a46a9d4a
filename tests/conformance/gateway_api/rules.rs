//! What rules do to requests and answers.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::ensure;

use super::core;
use super::http::{FINE, GATEWAY, by, route};
use super::{Test, extended};
use crate::client::{get, request};
use crate::row::Want;

const V1: &str = "backendRefs: [{name: v1, port: 8080}]";

pub(super) fn tests() -> Vec<Test> {
    [headers(), redirects(), rewrites(), mirrors(), cors(), limits()].into_iter().flatten().collect()
}

/// A rule for a path with one filter, and a backend unless the filter ends it.
fn rule(path: &str, kind: &str, field: &str, text: &str) -> String {
    let backend = if kind == "RequestRedirect" { "" } else { ", backendRefs: [{name: v1, port: 8080}]" };
    format!(
        "{{matches: [{{path: {{value: {path}}}}}], filters: [{{type: {kind}, {field}: {{{text}}}}}]{backend}}}"
    )
}

fn redirect(path: &str, text: &str) -> String {
    rule(path, "RequestRedirect", "requestRedirect", text)
}

fn moved(status: u16, location: &str) -> Want {
    Want::status(status).header("location", location)
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn headers() -> Vec<Test> {
    let request = |path: &str, text: &str| rule(path, "RequestHeaderModifier", "requestHeaderModifier", text);
    let response =
        |path: &str, text: &str| rule(path, "ResponseHeaderModifier", "responseHeaderModifier", text);
    let rules = [
        request("/set", "set: [{name: X-Header-Set, value: set-overwrites-values}]"),
        request("/add", "add: [{name: X-Header-Add, value: add-appends-values}]"),
        request("/remove", "remove: [X-Header-Remove]"),
        request(
            "/multiple",
            "set: [{name: X-Header-Set-1, value: header-set-1}, {name: X-Header-Set-2, value: header-set-2}], \
            add: [{name: X-Header-Add-1, value: header-add-1}, {name: X-Header-Add-2, value: header-add-2}], remove: [X-Header-Remove-1, X-Header-Remove-2]",
        ),
        request("/case", "set: [{name: X-Header-SET, value: header-set}], remove: [x-header-REMOVE]"),
        request("/percent", "set: [{name: X-Header-Set, value: '%REQ(x)% literally'}]"),
    ];
    let answers = [
        response("/set", "set: [{name: X-Header-Set, value: set-overwrites-values}]"),
        response("/add", "add: [{name: X-Header-Add, value: add-appends-values}]"),
        response("/remove", "remove: [X-Header-Remove]"),
    ];
    vec![
        core("HTTPRouteRequestHeaderModifier")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!("rules: [{}]", rules.join(", "))))
            .ask(
                get("/set").with("some-other-header", "val"),
                by("v1").seen("h:x-header-set", "set-overwrites-values").seen("h:some-other-header", "val"),
            )
            .ask(
                get("/set").with("x-header-set", "some-other-value"),
                by("v1").seen("h:x-header-set", "set-overwrites-values"),
            )
            .ask(get("/add"), by("v1").seen("h:x-header-add", "add-appends-values"))
            .ask(
                get("/add").with("x-header-add", "some-other-value"),
                by("v1").seen("h:x-header-add", "some-other-value,add-appends-values"),
            )
            .ask(get("/remove").with("x-header-remove", "val"), by("v1").not_seen("h:x-header-remove"))
            .ask(
                get("/multiple")
                    .with("x-header-set-2", "set-val-2")
                    .with("x-header-add-2", "add-val-2")
                    .with("x-header-remove-2", "remove-val-2"),
                by("v1")
                    .seen("h:x-header-set-1", "header-set-1")
                    .seen("h:x-header-set-2", "header-set-2")
                    .seen("h:x-header-add-1", "header-add-1")
                    .seen("h:x-header-add-2", "add-val-2,header-add-2")
                    .not_seen("h:x-header-remove-2"),
            )
            .ask(
                get("/case").with("x-header-set", "x").with("X-Header-Remove", "y"),
                by("v1").seen("h:x-header-set", "header-set").not_seen("h:x-header-remove"),
            )
            .ask(get("/percent"), by("v1").seen("h:x-header-set", "%REQ(x)% literally")),
        extended("HTTPRouteResponseHeaderModifier")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!("rules: [{}]", answers.join(", "))))
            .ask(
                get("/set").orders("header=x-header-set:some-other-value"),
                by("v1").header("x-header-set", "set-overwrites-values"),
            )
            .ask(get("/set"), by("v1").header("x-header-set", "set-overwrites-values"))
            .ask(
                get("/add").orders("header=x-header-add:some-other-value"),
                by("v1").header("x-header-add", "some-other-value,add-appends-values"),
            )
            .ask(get("/remove").orders("header=x-header-remove:val"), by("v1").no_header("x-header-remove")),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn redirects() -> Vec<Test> {
    let statuses = |name: &'static str, status: u16| {
        let rules = [
            redirect("/scheme", &format!("scheme: https, statusCode: {status}")),
            redirect("/host", &format!("hostname: example.org, statusCode: {status}")),
        ];
        extended(name)
            .yaml(GATEWAY)
            .yaml(&route("r", &format!("rules: [{}]", rules.join(", "))))
            .ask(get("/scheme").to("example.org"), moved(status, "https://example.org/scheme"))
            .ask(request("POST", "/host"), moved(status, "http://example.org/host"))
    };
    let paths = [
        redirect(
            "/original-prefix",
            "path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix}",
        ),
        redirect("/full", "path: {type: ReplaceFullPath, replaceFullPath: /full-path-replacement}"),
        redirect(
            "/path-and-host",
            "hostname: example.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix}",
        ),
        redirect(
            "/path-and-status",
            "statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix}",
        ),
        redirect("/top", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}"),
    ];
    let both = "
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: gw, namespace: infra},
 spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}, {name: odd, port: 8080, protocol: HTTP},
   {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}]}}
---
SECRET(infra cert example.org)";
    vec![
        core("HTTPRouteRedirectHostAndStatus")
            .yaml(GATEWAY)
            .yaml(&route(
                "r",
                &format!(
                    "rules: [{}, {}]",
                    redirect("/hostname", "hostname: example.org"),
                    redirect("/both", "hostname: example.org, statusCode: 301")
                ),
            ))
            .ask(get("/hostname"), moved(302, "http://example.org/hostname"))
            .ask(get("/both"), moved(301, "http://example.org/both")),
        statuses("HTTPRoute303Redirect", 303),
        statuses("HTTPRoute307Redirect", 307),
        statuses("HTTPRoute308Redirect", 308),
        extended("HTTPRouteRedirectPath")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!("rules: [{}]", paths.join(", "))))
            .ask(
                get("/original-prefix/lemon").to("a.test"),
                moved(302, "http://a.test/replacement-prefix/lemon"),
            )
            .ask(get("/full/path/original").to("a.test"), moved(302, "http://a.test/full-path-replacement"))
            .ask(get("/path-and-host/lemon"), moved(302, "http://example.org/replacement-prefix/lemon"))
            .ask(
                get("/path-and-status/lemon").to("a.test"),
                moved(301, "http://a.test/replacement-prefix/lemon"),
            )
            .ask(get("/top/x?a=b").to("a.test"), moved(302, "http://a.test/x?a=b")),
        extended("HTTPRouteRedirectPort")
            .yaml(GATEWAY)
            .yaml(&route(
                "r",
                &format!(
                    "rules: [{}, {}, {}]",
                    redirect("/port", "port: 8083"),
                    redirect("/host", "port: 8083, hostname: example.org"),
                    redirect("/all", "port: 8083, hostname: example.org, statusCode: 301")
                ),
            ))
            .ask(get("/port").to("a.test"), moved(302, "http://a.test:8083/port"))
            .ask(get("/host"), moved(302, "http://example.org:8083/host"))
            .ask(get("/all"), moved(301, "http://example.org:8083/all")),
        extended("HTTPRouteRedirectScheme")
            .yaml(GATEWAY)
            .yaml(&route(
                "r",
                &format!(
                    "rules: [{}, {}, {}]",
                    redirect("/scheme", "scheme: https"),
                    redirect("/host", "scheme: https, hostname: example.org"),
                    redirect("/all", "scheme: https, hostname: example.org, statusCode: 301")
                ),
            ))
            .ask(get("/scheme").to("a.test"), moved(302, "https://a.test/scheme"))
            .ask(get("/host"), moved(302, "https://example.org/host"))
            .ask(get("/all"), moved(301, "https://example.org/all")),
        extended("HTTPRouteRedirectPortAndScheme")
            .yaml(both)
            .yaml(&route(
                "r",
                &format!(
                    "rules: [{}, {}, {}, {}, {}]",
                    redirect("/nil", "hostname: example.org"),
                    redirect("/https", "hostname: example.org, scheme: https"),
                    redirect("/80", "hostname: example.org, port: 80"),
                    redirect("/443-https", "hostname: example.org, scheme: https, port: 443"),
                    redirect("/8443-https", "hostname: example.org, scheme: https, port: 8443"),
                ),
            ))
            .ask(get("/nil"), moved(302, "http://example.org/nil"))
            .ask(get("/https"), moved(302, "https://example.org/https"))
            .ask(get("/80"), moved(302, "http://example.org/80"))
            .ask(get("/443-https"), moved(302, "https://example.org/443-https"))
            .ask(get("/8443-https"), moved(302, "https://example.org:8443/8443-https"))
            .ask_at("infra/gw", 8080, get("/nil"), moved(302, "http://example.org:8080/nil"))
            .ask_at("infra/gw", 8080, get("/https"), moved(302, "https://example.org/https"))
            .ask_at("infra/gw", 8080, get("/80"), moved(302, "http://example.org/80"))
            .ask_at(
                "infra/gw",
                443,
                super::tls::inside("example.org", get("/nil").to("example.org")),
                moved(302, "https://example.org/nil"),
            )
            .ask_at(
                "infra/gw",
                443,
                super::tls::inside("example.org", get("/80").to("example.org")),
                moved(302, "https://example.org:80/80"),
            ),
    ]
}

fn rewrites() -> Vec<Test> {
    let rewrite = |path: &str, text: &str| rule(path, "URLRewrite", "urlRewrite", text);
    vec![
        extended("HTTPRouteRewriteHost")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!(
                "hostnames: [rewrite.example], rules: [{}, {{matches: [{{path: {{value: /}}}}], filters: [{{type: URLRewrite, urlRewrite: {{hostname: test.example.org}}}}, \
                 {{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x, value: y}}]}}}}], {V1}}}]",
                rewrite("/one", "hostname: one.example.org")
            )))
            .ask(get("/one").to("rewrite.example"), by("v1").seen("authority", "one.example.org").seen("target", "/one"))
            .ask(get("/two").to("rewrite.example"), by("v1").seen("authority", "test.example.org").seen("h:x", "y")),
        extended("HTTPRouteRewritePath")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!(
                "rules: [{}, {}, {}, {}, {}]",
                rewrite("/prefix/one", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /one}"),
                rewrite("/full/one", "path: {type: ReplaceFullPath, replaceFullPath: /one}"),
                rewrite("/strip-prefix", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}"),
                rewrite("/prefix/rewrite-path-and-modify-headers", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /prefix}"),
                rewrite("/empty", "path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}"),
            )))
            .ask(get("/prefix/one/two"), by("v1").seen("target", "/one/two"))
            .ask(get("/full/one/two"), by("v1").seen("target", "/one"))
            .ask(get("/full/one/two?q=1"), by("v1").seen("target", "/one?q=1"))
            .ask(get("/strip-prefix/three"), by("v1").seen("target", "/three"))
            .ask(get("/strip-prefix"), by("v1").seen("target", "/"))
            .ask(get("/empty/"), by("v1").seen("target", "/"))
            .ask(get("/empty"), by("v1").seen("target", "/"))
            .ask(get("/prefix/rewrite-path-and-modify-headers/one"), by("v1").seen("target", "/prefix/one")),
    ]
}

fn mirrors() -> Vec<Test> {
    let mirror = |to: &str, more: &str| {
        format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: {to}, port: 8080}}{more}}}}}")
    };
    let rules = |filters: &str| format!("rules: [{{filters: [{filters}], {V1}}}]");
    vec![
        extended("HTTPRouteRequestMirror")
            .yaml(GATEWAY)
            .yaml(&route("r", &rules(&mirror("v2", ""))))
            .says("HTTPRoute infra/r", FINE)
            .act(async |case| copied(&case, &["v2"]).await),
        extended("HTTPRouteRequestMultipleMirrors")
            .yaml(GATEWAY)
            .yaml(&route("r", &rules(&[mirror("v2", ""), mirror("v3", "")].join(", "))))
            .act(async |case| copied(&case, &["v2", "v3"]).await),
        extended("HTTPRouteRequestPercentageMirror")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!(
                "rules: [{{matches: [{{path: {{value: /percent}}}}], filters: [{}], {V1}}}, {{matches: [{{path: {{value: /fraction}}}}], filters: [{}], {V1}}}, \
                 {{matches: [{{path: {{value: /never}}}}], filters: [{}], {V1}}}]",
                mirror("v2", ", percent: 20"),
                mirror("v2", ", fraction: {numerator: 1, denominator: 2}"),
                mirror("v2", ", percent: 0"),
            )))
            .act(async |case| {
                for (path, range) in [("/percent", 30..=100), ("/fraction", 110..=190), ("/never", 0..=0)] {
                    let mark = case.mark();
                    for _ in 0..300 {
                        let reply = case.send(("infra/gw", 80), get(path).mark(&mark)).await?;
                        ensure!(reply.pod() == "v1", "{reply}");
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                    let copies = case.seen(&mark).iter().filter(|seen| seen.pod == "v2").count();
                    ensure!(range.contains(&copies), "{path}: {copies} of 300");
                }
                Ok(())
            }),
    ]
}

/// The client is answered by `v1`, and each of `pods` gets one copy.
async fn copied(case: &super::stage::Case, pods: &[&str]) -> anyhow::Result<()> {
    let mark = case.mark();
    let reply = case.send(("infra/gw", 80), get("/mirror").mark(&mark)).await?;
    ensure!(reply.pod() == "v1", "{reply}");
    for _ in 0..100 {
        if case.seen(&mark).len() > pods.len() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let seen = case.seen(&mark);
    let who: BTreeSet<_> = seen.iter().map(|seen| seen.pod.as_str()).collect();
    ensure!(seen.len() == pods.len() + 1 && pods.iter().all(|pod| who.contains(pod)), "{who:?}");
    Ok(())
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn cors() -> Vec<Test> {
    let rule = |path: &str, text: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], filters: [{{type: CORS, cors: {{{text}}}}}], {V1}}}"
        )
    };
    let rules = [
        rule(
            "/cors-1",
            "allowOrigins: ['https://www.foo.com', 'https://*.bar.com'], allowMethods: [GET, OPTIONS], allowHeaders: [x-header-1, x-header-2], \
            exposeHeaders: [x-header-3, x-header-4], allowCredentials: true, maxAge: 3600",
        ),
        rule("/cors-2", "allowOrigins: ['https://www.foo.com'], allowMethods: ['*'], allowHeaders: ['*']"),
        rule("/any", "allowOrigins: ['*'], allowMethods: [PUT]"),
        rule("/port", "allowOrigins: ['http://one.test:8080', 'https://two.test:443']"),
    ];
    let ask = |path: &str, origin: &str, method: &str| {
        request("OPTIONS", path).with("origin", origin).with("access-control-request-method", method)
    };
    let refused = || Want::status(200).no_header("access-control-allow-origin").unseen();
    let allowed = |origin: &str| Want::status(200).header("access-control-allow-origin", origin);
    let full = |origin: &str| {
        allowed(origin)
            .header("access-control-allow-methods", "GET,OPTIONS")
            .header("access-control-allow-headers", "x-header-1,x-header-2")
            .header("access-control-expose-headers", "x-header-3,x-header-4")
            .header("access-control-max-age", "3600")
            .header("access-control-allow-credentials", "true")
    };
    vec![
        extended("HTTPRouteCORS")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!("rules: [{}]", rules.join(", "))))
            .ask(
                ask("/cors-1", "https://www.foo.com", "GET")
                    .with("access-control-request-headers", "x-header-1"),
                full("https://www.foo.com"),
            )
            .ask(ask("/cors-1", "https://www.bar.com", "GET"), full("https://www.bar.com"))
            .ask(ask("/cors-1", "https://xpto.www.bar.com", "GET"), full("https://xpto.www.bar.com"))
            .ask(ask("/cors-1", "https://foobar.com", "GET"), refused())
            .ask(ask("/cors-1", "https://bar.com", "GET"), refused())
            .ask(ask("/cors-1", "http://www.foo.com", "GET"), refused())
            .ask(
                get("/cors-1").with("origin", "https://www.foo.com"),
                by("v1")
                    .header("access-control-allow-origin", "https://www.foo.com")
                    .header("access-control-expose-headers", "x-header-3,x-header-4"),
            )
            .ask(
                get("/cors-1").with("origin", "https://foobar.com"),
                by("v1").no_header("access-control-allow-origin"),
            )
            .ask(
                ask("/cors-2", "https://www.foo.com", "POST").with("access-control-request-headers", "x-any"),
                allowed("https://www.foo.com")
                    .header("access-control-allow-methods", "POST")
                    .header("access-control-allow-headers", "x-any")
                    .header("access-control-max-age", "5")
                    .no_header("access-control-allow-credentials"),
            )
            .ask(
                ask("/any", "https://foobar.com:12345", "PUT"),
                allowed("https://foobar.com:12345").header("access-control-allow-methods", "PUT"),
            )
            .ask(
                request("PUT", "/any").with("origin", "https://foobar.com"),
                by("v1").header("access-control-allow-origin", "https://foobar.com"),
            )
            .ask(ask("/port", "http://one.test:8080", "GET"), allowed("http://one.test:8080"))
            .ask(ask("/port", "http://one.test", "GET"), refused())
            .ask(ask("/port", "https://two.test", "GET"), allowed("https://two.test")),
    ]
}

fn limits() -> Vec<Test> {
    let rule = |path: &str, text: &str| format!("{{matches: [{{path: {{value: {path}}}}}], {text}, {V1}}}");
    vec![
        extended("HTTPRouteTimeoutRequest")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!("rules: [{}, {}]", rule("/limit", "timeouts: {request: 500ms}"), rule("/none", "timeouts: {request: 0s}"))))
            .ask(get("/limit"), by("v1"))
            .ask(get("/limit").orders("delay=1500"), Want::status(504))
            .ask(get("/none").orders("delay=1500"), by("v1")),
        extended("HTTPRouteTimeoutBackendRequest")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!("rules: [{}, {}]", rule("/limit", "timeouts: {backendRequest: 500ms}"), rule("/none", "timeouts: {backendRequest: 0s}"))))
            .ask(get("/limit"), by("v1"))
            .ask(get("/limit").orders("delay=1500"), Want::status(504))
            .ask(get("/none").orders("delay=1500"), by("v1")),
        extended("HTTPRouteRetry")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!("rules: [{}, {}]", rule("/500", "retry: {codes: [500], attempts: 3, backoff: 10ms}"), rule("/all", "retry: {codes: [500, 502, 503, 504], attempts: 2, backoff: 10ms}"))))
            .ask(get("/500").orders("status=500; fail=2"), by("v1"))
            .ask(get("/500").orders("status=500; fail=4"), Want::status(500))
            .ask(get("/500").orders("status=503; fail=1"), Want::status(503))
            .ask(get("/all").orders("status=502; fail=1"), by("v1"))
            .ask(get("/all").orders("status=503; fail=2"), by("v1"))
            .ask(get("/all").orders("status=504; fail=3"), Want::status(504)),
        extended("HTTPRouteRetryConnectionError")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!("rules: [{}]", rule("/", "retry: {attempts: 2, backoff: 10ms}"))))
            .ask(get("/").orders("reset; fail=1"), by("v1"))
            .ask(get("/").orders("reset; fail=2"), by("v1"))
            .ask(get("/").orders("reset; fail=4"), Want::status(503)),
        extended("HTTPRouteRetryWithTimeouts")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!(
                "rules: [{}, {}]",
                rule("/backend", "retry: {codes: [500], attempts: 2, backoff: 10ms}, timeouts: {backendRequest: 500ms}"),
                rule("/request", "retry: {codes: [500], attempts: 10, backoff: 100ms}, timeouts: {request: 900ms, backendRequest: 400ms}")
            )))
            .ask(get("/backend").orders("delay=1500; fail=1"), by("v1"))
            .ask(get("/backend").orders("delay=1500; fail=4"), Want::status(504))
            .act(async |case| {
                let begun = Instant::now();
                let reply = case.send(("infra/gw", 80), get("/request").mark(&case.mark()).orders("delay=1500; fail=20")).await?;
                ensure!(reply.status == 504 && begun.elapsed().as_millis() < 1450, "{reply} after {:?}", begun.elapsed());
                Ok(())
            }),
    ]
}
