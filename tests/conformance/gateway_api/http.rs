//! What requests are for, and which listeners let routes in.

use super::{Test, core, extended};
use crate::client::{get, request};
use crate::row::Want;

/// A Gateway `infra/gw` with one listener for everything.
pub(super) const GATEWAY: &str = "
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: gw, namespace: infra},
 spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]}}";

/// An HTTPRoute `infra/NAME` with these fields beside its parent, which is `infra/gw`.
pub(super) fn route(name: &str, fields: &str) -> String {
    route_at(name, "infra", "{name: gw, namespace: infra}", fields)
}

/// An HTTPRoute.
pub(super) fn route_at(name: &str, namespace: &str, parents: &str, fields: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{parentRefs: [{parents}], {fields}}}}}"
    )
}

/// The pod has answered.
pub(super) fn by(pod: &str) -> Want {
    Want::status(200).header("x-pod", pod)
}

/// What a route says that is attached and has all it refers to.
pub(super) const FINE: &str = "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs";

const V1: &str = "backendRefs: [{name: v1, port: 8080}]";
const V2: &str = "backendRefs: [{name: v2, port: 8080}]";
const V3: &str = "backendRefs: [{name: v3, port: 8080}]";

pub(super) fn tests() -> Vec<Test> {
    [matching(), hosts(), parents(), refused()].into_iter().flatten().collect()
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn matching() -> Vec<Test> {
    vec![
        core("HTTPRouteSimpleSameNamespace")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!("rules: [{{{V1}}}]")))
            .says("HTTPRoute infra/r", FINE)
            .says("Gateway infra/gw", "Accepted=True/Accepted Programmed=True/Programmed")
            .says("Gateway infra/gw http", "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs Programmed=True/Programmed attached=1")
            .ask(get("/"), by("v1")),
        core("HTTPRouteExactPathMatching")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!("rules: [{{matches: [{{path: {{type: Exact, value: /one}}}}], {V1}}}, {{matches: [{{path: {{type: Exact, value: /two}}}}], {V2}}}]")))
            .ask(get("/one"), by("v1"))
            .ask(get("/two"), by("v2"))
            .ask(get("/"), Want::status(404))
            .ask(get("/one/example"), Want::status(404))
            .ask(get("/two/"), Want::status(404))
            .ask(get("/Two"), Want::status(404)),
        core("HTTPRouteMatching")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!(
                "rules: [{{matches: [{{path: {{type: PathPrefix, value: /}}}}, {{headers: [{{name: version, value: one}}]}}], {V1}}}, \
                 {{matches: [{{path: {{type: PathPrefix, value: /v2}}}}, {{headers: [{{name: Version, value: two}}]}}], {V2}}}]"
            )))
            .ask(get("/"), by("v1"))
            .ask(get("/example"), by("v1"))
            .ask(get("/").with("version", "one"), by("v1"))
            .ask(get("/v2"), by("v2"))
            .ask(get("/v2/"), by("v2"))
            .ask(get("/v2/example"), by("v2"))
            .ask(get("/v2example"), by("v1"))
            .ask(get("/foo/v2/example"), by("v1"))
            .ask(get("/").with("version", "two"), by("v2")),
        core("HTTPRouteMatchingAcrossRoutes")
            .yaml(GATEWAY)
            .yaml(&route("a", &format!("hostnames: [example.com, example.net], rules: [{{matches: [{{path: {{value: /}}}}, {{headers: [{{name: version, value: one}}]}}], {V1}}}]")))
            .yaml(&route("b", &format!("hostnames: [example.com], rules: [{{matches: [{{path: {{value: /v2}}}}, {{headers: [{{name: version, value: two}}]}}], {V2}}}]")))
            .ask(get("/").to("example.com"), by("v1"))
            .ask(get("/").to("example.net"), by("v1"))
            .ask(get("/example").to("example.com"), by("v1"))
            .ask(get("/v2").to("example.com"), by("v2"))
            .ask(get("/v2").to("example.net"), by("v1"))
            .ask(get("/v2example").to("example.com"), by("v1"))
            .ask(get("/").to("example.com").with("version", "two"), by("v2"))
            .ask(get("/").to("example.net").with("version", "two"), by("v1"))
            .ask(get("/").to("example.org"), Want::status(404)),
        core("HTTPRouteHeaderMatching")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!(
                "rules: [{{matches: [{{headers: [{{name: version, value: one}}]}}], {V1}}}, {{matches: [{{headers: [{{name: version, value: two}}]}}], {V2}}}, \
                 {{matches: [{{headers: [{{name: version, value: two}}, {{name: color, value: orange}}]}}, {{headers: [{{name: color, value: yellow}}]}}], {V1}}}, \
                 {{matches: [{{headers: [{{name: color, value: blue}}]}}, {{headers: [{{name: color, value: green}}]}}], {V2}}}]"
            )))
            .ask(get("/").with("version", "one"), by("v1"))
            .ask(get("/").with("version", "two"), by("v2"))
            .ask(get("/").with("version", "two").with("color", "orange"), by("v1"))
            .ask(get("/").with("color", "blue"), by("v2"))
            .ask(get("/").with("color", "yellow"), by("v1"))
            .ask(get("/").with("color", "green"), by("v2"))
            .ask(get("/").with("color", "purple"), Want::status(404))
            .ask(get("/").with("version", "three"), Want::status(404))
            .ask(get("/"), Want::status(404)),
        core("HTTPRoutePathMatchOrder")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!(
                "rules: [{{matches: [{{path: {{type: PathPrefix, value: /match}}}}], {V1}}}, {{matches: [{{path: {{type: PathPrefix, value: /match/prefix}}}}], {V2}}}, \
                 {{matches: [{{path: {{type: Exact, value: /match/exact}}}}], {V3}}}, {{matches: [{{path: {{type: Exact, value: /match}}}}], {V3}}}, \
                 {{matches: [{{path: {{type: PathPrefix, value: /match/prefix/one}}}}], {V1}}}]"
            )))
            .ask(get("/match"), by("v3"))
            .ask(get("/match/exact"), by("v3"))
            .ask(get("/match/any"), by("v1"))
            .ask(get("/match/prefix"), by("v2"))
            .ask(get("/match/prefix/any"), by("v2"))
            .ask(get("/match/prefix/one/any"), by("v1"))
            .ask(get("/match/prefix/oneone"), by("v2")),
        extended("HTTPRouteMethodMatching")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!(
                "rules: [{{matches: [{{method: POST}}], {V1}}}, {{matches: [{{method: GET}}], {V2}}}, \
                 {{matches: [{{method: PUT, path: {{value: /path1}}}}], {V3}}}, {{matches: [{{method: PUT, headers: [{{name: version, value: one}}]}}], {V1}}}]"
            )))
            .ask(request("POST", "/"), by("v1"))
            .ask(get("/"), by("v2"))
            .ask(request("PUT", "/path1"), by("v3"))
            .ask(request("PUT", "/").with("version", "one"), by("v1"))
            .ask(request("PATCH", "/"), Want::status(404)),
        extended("HTTPRouteQueryParamMatching")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!(
                "rules: [{{matches: [{{queryParams: [{{name: animal, value: whale}}]}}], {V1}}}, {{matches: [{{queryParams: [{{name: animal, value: dolphin}}]}}], {V2}}}, \
                 {{matches: [{{queryParams: [{{name: animal, value: dolphin}}, {{name: color, value: blue}}]}}], {V3}}}, \
                 {{matches: [{{path: {{value: /path}}, queryParams: [{{name: animal, value: whale}}]}}], {V3}}}]"
            )))
            .ask(get("/?animal=whale"), by("v1"))
            .ask(get("/?animal=dolphin"), by("v2"))
            .ask(get("/?animal=dolphin&color=blue"), by("v3"))
            .ask(get("/?color=blue&animal=dolphin"), by("v3"))
            .ask(get("/path?animal=whale"), by("v3"))
            .ask(get("/?animal=dog"), Want::status(404))
            .ask(get("/?animal=whaledolphin"), Want::status(404))
            .ask(get("/"), Want::status(404)),
        extended("HTTPRouteNamedRule")
            .yaml(GATEWAY)
            .yaml(&route("r", &format!("rules: [{{name: named, matches: [{{path: {{value: /named}}}}], {V1}}}, {{matches: [{{path: {{value: /unnamed}}}}], {V2}}}]")))
            .says("HTTPRoute infra/r", FINE)
            .ask(get("/named"), by("v1"))
            .ask(get("/unnamed"), by("v2")),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn hosts() -> Vec<Test> {
    let listeners = |list: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: gw, namespace: infra}}, \
             spec: {{gatewayClassName: istio, listeners: [{list}]}}}}"
        )
    };
    vec![
        core("HTTPRouteListenerHostnameMatching")
            .yaml(&listeners("{name: l1, port: 80, protocol: HTTP, hostname: bar.com}, {name: l2, port: 80, protocol: HTTP, hostname: foo.bar.com}, \
                 {name: l3, port: 80, protocol: HTTP, hostname: '*.bar.com'}, {name: l4, port: 80, protocol: HTTP, hostname: '*.foo.com'}"))
            .yaml(&route_at("a", "infra", "{name: gw, sectionName: l1}", &format!("rules: [{{{V1}}}]")))
            .yaml(&route_at("b", "infra", "{name: gw, sectionName: l2}", &format!("rules: [{{{V2}}}]")))
            .yaml(&route_at("c", "infra", "{name: gw, sectionName: l3}, {name: gw, sectionName: l4}", &format!("rules: [{{{V3}}}]")))
            .says("HTTPRoute infra/c", FINE)
            .ask(get("/").to("bar.com"), by("v1"))
            .ask(get("/").to("foo.bar.com"), by("v2"))
            .ask(get("/").to("baz.bar.com"), by("v3"))
            .ask(get("/").to("boo.bar.com"), by("v3"))
            .ask(get("/").to("multiple.prefixes.bar.com"), by("v3"))
            .ask(get("/").to("multiple.prefixes.foo.com"), by("v3"))
            .ask(get("/").to("foo.com"), Want::status(404))
            .ask(get("/").to("no.matching.host"), Want::status(404)),
        core("HTTPRouteHostnameIntersection")
            .yaml(&listeners("{name: l1, port: 80, protocol: HTTP, hostname: very.specific.com}, {name: l2, port: 80, protocol: HTTP, hostname: '*.wildcard.io'}, \
                 {name: l3, port: 80, protocol: HTTP, hostname: '*.anotherwildcard.io'}"))
            .yaml(&route("a", &format!("hostnames: [non.matching.com, '*.nonmatchingwildcard.io', very.specific.com], rules: [{{matches: [{{path: {{value: /s1}}}}], {V1}}}]")))
            .yaml(&route("b", &format!("hostnames: [non.matching.com, wildcard.io, foo.wildcard.io, bar.wildcard.io], rules: [{{matches: [{{path: {{value: /s2}}}}], {V2}}}]")))
            .yaml(&route("c", &format!("hostnames: ['*.specific.com'], rules: [{{matches: [{{path: {{value: /s3}}}}], {V3}}}]")))
            .yaml(&route("d", &format!("hostnames: ['*.anotherwildcard.io'], rules: [{{matches: [{{path: {{value: /s4}}}}], {V1}}}]")))
            .yaml(&route("e", &format!("hostnames: [specific.but.wrong.com, wildcard.io], rules: [{{matches: [{{path: {{value: /s5}}}}], {V1}}}]")))
            .says("HTTPRoute infra/a", FINE)
            .says("HTTPRoute infra/e", "Accepted=False/NoMatchingListenerHostname ResolvedRefs=True/ResolvedRefs")
            .ask(get("/s1").to("very.specific.com"), by("v1"))
            .ask(get("/s3").to("very.specific.com:1234"), by("v3"))
            .ask(get("/s1").to("non.matching.com"), Want::status(404))
            .ask(get("/s1").to("foo.nonmatchingwildcard.io"), Want::status(404))
            .ask(get("/s2").to("foo.wildcard.io"), by("v2"))
            .ask(get("/s2").to("bar.wildcard.io"), by("v2"))
            .ask(get("/s2").to("wildcard.io"), Want::status(404))
            .ask(get("/s2").to("baz.wildcard.io"), Want::status(404))
            .ask(get("/s3").to("foo.specific.com"), Want::status(404))
            .ask(get("/s4").to("one.anotherwildcard.io"), by("v1"))
            .ask(get("/s4").to("one.two.three.anotherwildcard.io"), by("v1"))
            .ask(get("/s4").to("anotherwildcard.io"), Want::status(404))
            .ask(get("/s5").to("specific.but.wrong.com"), Want::status(404)),
        extended("GatewayHTTPListenerIsolation")
            .yaml(&listeners("{name: empty, port: 80, protocol: HTTP}, {name: wild, port: 80, protocol: HTTP, hostname: '*.example.com'}, \
                 {name: foo, port: 80, protocol: HTTP, hostname: '*.foo.example.com'}, {name: abc, port: 80, protocol: HTTP, hostname: abc.foo.example.com}"))
            .yaml(&route_at("a", "infra", "{name: gw, sectionName: empty}", &format!("rules: [{{matches: [{{path: {{value: /empty}}}}], {V1}}}]")))
            .yaml(&route_at("b", "infra", "{name: gw, sectionName: wild}", &format!("rules: [{{matches: [{{path: {{value: /wild}}}}], {V1}}}]")))
            .yaml(&route_at("c", "infra", "{name: gw, sectionName: foo}", &format!("rules: [{{matches: [{{path: {{value: /foo}}}}], {V1}}}]")))
            .yaml(&route_at("d", "infra", "{name: gw, sectionName: abc}", &format!("rules: [{{matches: [{{path: {{value: /abc}}}}], {V1}}}]")))
            .ask(get("/empty").to("bar.com"), by("v1"))
            .ask(get("/wild").to("bar.com"), Want::status(404))
            .ask(get("/empty").to("bar.example.com"), Want::status(404))
            .ask(get("/wild").to("bar.example.com"), by("v1"))
            .ask(get("/foo").to("bar.example.com"), Want::status(404))
            .ask(get("/wild").to("bar.foo.example.com"), Want::status(404))
            .ask(get("/foo").to("bar.foo.example.com"), by("v1"))
            .ask(get("/abc").to("abc.foo.example.com"), by("v1"))
            .ask(get("/foo").to("abc.foo.example.com"), Want::status(404))
            .ask(get("/empty").to("abc.foo.example.com"), Want::status(404)),
        extended("HTTPRouteListenerPortMatching")
            .yaml(&listeners("{name: l1, port: 80, protocol: HTTP, hostname: foo.com}, {name: l2, port: 8080, protocol: HTTP, hostname: foo.com}, {name: l3, port: 8090, protocol: HTTP}, {name: l4, port: 81, protocol: HTTP}"))
            .yaml(&route_at("a", "infra", "{name: gw, port: 80}", &format!("rules: [{{{V1}}}]")))
            .yaml(&route_at("b", "infra", "{name: gw, port: 8080, sectionName: l2}", &format!("rules: [{{{V2}}}]")))
            .yaml(&route_at("c", "infra", "{name: gw, port: 8090}", &format!("rules: [{{{V3}}}]")))
            .says("HTTPRoute infra/b", FINE)
            .ask(get("/").to("foo.com"), by("v1"))
            .ask_at("infra/gw", 8080, get("/").to("foo.com"), by("v2"))
            .ask_at("infra/gw", 8080, get("/").to("bar.com"), Want::status(404))
            .ask_at("infra/gw", 8090, get("/").to("bar.com"), by("v3"))
            .ask_at("infra/gw", 81, get("/").to("foo.com"), Want::status(404)),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn parents() -> Vec<Test> {
    let second = GATEWAY.replace("name: gw,", "name: second,");
    let open = GATEWAY.replace("protocol: HTTP}", "protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {kind: web}}}}}");
    vec![
        core("HTTPRouteCrossNamespace")
            .yaml(&open)
            .yaml(&route_at(
                "r",
                "web",
                "{name: gw, namespace: infra}",
                "rules: [{backendRefs: [{name: w1, port: 8080}]}]",
            ))
            .yaml(&route_at(
                "s",
                "app",
                "{name: gw, namespace: infra}",
                "hostnames: [app.test], rules: [{backendRefs: [{name: a1, port: 8080}]}]",
            ))
            .says("HTTPRoute web/r", FINE)
            .says("HTTPRoute app/s", "Accepted=False/NotAllowedByListeners")
            .says("Gateway infra/gw http", "attached=1")
            .ask(get("/"), by("w1"))
            .ask(get("/").to("app.test"), by("w1")),
        core("HTTPRouteMultipleGateways")
            .yaml(GATEWAY)
            .yaml(&second)
            .yaml(&route_at(
                "shared",
                "infra",
                "{name: gw}, {name: second}",
                &format!("hostnames: [shared.test], rules: [{{{V1}}}]"),
            ))
            .yaml(&route_at(
                "one",
                "infra",
                "{name: gw}",
                &format!("hostnames: [one.test], rules: [{{{V2}}}]"),
            ))
            .yaml(&route_at(
                "two",
                "infra",
                "{name: second}",
                &format!("hostnames: [two.test], rules: [{{{V3}}}]"),
            ))
            .says("HTTPRoute infra/shared#0", FINE)
            .says("HTTPRoute infra/shared#1", FINE)
            .ask(get("/").to("shared.test"), by("v1"))
            .ask_at("infra/second", 80, get("/").to("shared.test"), by("v1"))
            .ask(get("/").to("one.test"), by("v2"))
            .ask(get("/").to("two.test"), Want::status(404))
            .ask_at("infra/second", 80, get("/").to("two.test"), by("v3"))
            .ask_at("infra/second", 80, get("/").to("one.test"), Want::status(404)),
        core("HTTPRouteInvalidCrossNamespaceParentRef")
            .yaml(GATEWAY)
            .yaml(&route_at(
                "r",
                "web",
                "{name: gw, namespace: infra}",
                "rules: [{backendRefs: [{name: w1, port: 8080}]}]",
            ))
            .says("HTTPRoute web/r", "Accepted=False/NotAllowedByListeners")
            .says("Gateway infra/gw http", "attached=0")
            .ask(get("/"), Want::status(404)),
    ]
}

fn refused() -> Vec<Test> {
    let at = |name: &'static str, parents: &str, extended: bool| {
        let test = if extended { super::extended(name) } else { core(name) };
        test.yaml(GATEWAY)
            .yaml(&route_at("r", "infra", parents, &format!("rules: [{{{V1}}}]")))
            .says("HTTPRoute infra/r", "Accepted=False/NoMatchingParent")
            .says("Gateway infra/gw http", "attached=0")
            .ask(get("/"), Want::status(404))
    };
    vec![
        at("HTTPRouteInvalidParentRefNotMatchingListenerPort", "{name: gw, port: 81}", true),
        at("HTTPRouteInvalidParentRefNotMatchingSectionName", "{name: gw, sectionName: listener-that-does-not-exist}", false),
        at("HTTPRouteInvalidParentRefSectionNameNotMatchingPort", "{name: gw, sectionName: http, port: 8080}", true),
        core("HTTPRouteDisallowedKind")
            .yaml("{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: gw, namespace: infra}, spec: {gatewayClassName: istio, \
                 listeners: [{name: tls, port: 443, protocol: TLS, hostname: tls.example, tls: {mode: Passthrough}, allowedRoutes: {kinds: [{kind: TLSRoute}]}}]}}")
            .yaml(&route("r", &format!("rules: [{{{V1}}}]")))
            .says("HTTPRoute infra/r", "Accepted=False/NotAllowedByListeners")
            .says("Gateway infra/gw tls", "attached=0 kinds=TLSRoute"),
    ]
}
