//! Listeners that others than the owner of a Gateway add to it.

use anyhow::ensure;

use super::http::{FINE, by, route_at};
use super::tls::inside;
use super::{Test, core, extended};
use crate::client::get;
use crate::row::Want;

/// A Gateway `infra/gw` with one listener of its own, for `own.example`, that takes sets as `allowed` says.
fn gateway(allowed: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: gw, namespace: infra}}, \
         spec: {{gatewayClassName: istio, {allowed} listeners: [{{name: own, port: 80, protocol: HTTP, hostname: own.example, \
         allowedRoutes: {{namespaces: {{from: All}}}}}}]}}}}"
    )
}

fn from(namespaces: &str) -> String {
    gateway(&format!("allowedListeners: {{namespaces: {{from: {namespaces}}}}},"))
}

/// A ListenerSet of `infra/gw`.
fn set(namespace: &str, name: &str, listeners: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: ListenerSet, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{parentRef: {{name: gw, namespace: infra}}, listeners: [{listeners}]}}}}"
    )
}

/// A listener of port 80.
fn listener(name: &str, more: &str) -> String {
    format!("{{name: {name}, port: 80, protocol: HTTP, {more}}}")
}

fn at_set(name: &str) -> String {
    format!("{{kind: ListenerSet, name: {name}}}")
}

const TO_V1: &str = "rules: [{backendRefs: [{name: v1, port: 8080}]}]";
const TO_V2: &str = "rules: [{backendRefs: [{name: v2, port: 8080}]}]";
const TO_W1: &str = "rules: [{backendRefs: [{name: w1, port: 8080}]}]";
const TAKEN: &str = "Accepted=True/Accepted Programmed=True/Programmed";
const NOT_TAKEN: &str = "Accepted=False/NotAllowed Programmed=False/NotAllowed";
const SERVED: &str = "Accepted=True/Accepted Conflicted=False/NoConflicts Programmed=True/Programmed";

pub(super) fn tests() -> Vec<Test> {
    [namespaces(), routes(), conflicts()].into_iter().flatten().collect()
}

/// Who may add listeners.
fn namespaces() -> Vec<Test> {
    let of = |namespace: &str, host: &str| {
        let listener = listener("set", &format!("hostname: {host}"));
        let route = if namespace == "web" { TO_W1 } else { TO_V1 };
        [set(namespace, "set", &listener), route_at("r", namespace, &at_set("set"), route)].join("\n---\n")
    };
    let test = |name: &'static str, gateway: &str, infra: bool, web: bool| {
        let said = |is_in: bool| if is_in { TAKEN } else { NOT_TAKEN };
        let want = |is_in: bool, pod: &str| if is_in { by(pod) } else { Want::status(404) };
        extended(name)
            .yaml(gateway)
            .yaml(&of("infra", "infra.example"))
            .yaml(&of("web", "web.example"))
            .says("ListenerSet infra/set", said(infra))
            .says("ListenerSet web/set", said(web))
            // Routes of sets are none of its own listeners'.
            .says("Gateway infra/gw own", "attached=0")
            .act(async move |case| {
                let gateway = case.read("Gateway", "infra/gw");
                let sets = gateway.map(|it| it["status"]["attachedListenerSets"].clone());
                let wanted = u32::from(infra) + u32::from(web);
                ensure!(sets == Some(wanted.into()), "{sets:?} sets, not {wanted}");
                Ok(())
            })
            .ask(get("/").to("infra.example"), want(infra, "v1"))
            .ask(get("/").to("web.example"), want(web, "w1"))
    };
    vec![
        test("ListenerSetDefaultNotAllowed", &gateway(""), false, false),
        test("ListenerSetAllowedNamespaceNone", &from("None"), false, false),
        test("ListenerSetAllowedNamespaceSame", &from("Same"), true, false),
        test(
            "ListenerSetAllowedNamespaceSelector",
            &from("Selector, selector: {matchLabels: {kind: web}}"),
            false,
            true,
        ),
    ]
}

/// Which routes they are for.
#[expect(clippy::too_many_lines, reason = "a table")]
fn routes() -> Vec<Test> {
    let allowed = |namespaces: &str| {
        format!("hostname: set.example, allowedRoutes: {{namespaces: {{from: {namespaces}}}}}")
    };
    let from_web =
        |name: &str| route_at(name, "web", "{kind: ListenerSet, name: set, namespace: infra}", TO_W1);
    let here = |name: &str, listener: &str| {
        route_at(name, "infra", &format!("{{kind: ListenerSet, name: set, sectionName: {listener}}}"), TO_V1)
    };
    let all = "{name: same, port: 80, protocol: HTTP, hostname: same.example}, \
        {name: all, port: 80, protocol: HTTP, hostname: all.example, allowedRoutes: {namespaces: {from: All}}}, \
        {name: selector, port: 80, protocol: HTTP, hostname: selector.example, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {kind: web}}}}}";
    let kinds = "{name: tls, port: 443, protocol: TLS, hostname: a.example, tls: {mode: Passthrough}, allowedRoutes: {kinds: [{kind: TLSRoute}]}}, \
        {name: bad, port: 443, protocol: TLS, hostname: b.example, tls: {mode: Passthrough}, allowedRoutes: {kinds: [{kind: HTTPRoute}]}}";
    let secret = "{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: g, namespace: web}, \
        spec: {from: [{group: gateway.networking.k8s.io, kind: KIND, namespace: infra}], to: [{group: '', kind: Secret}]}}";
    let https = "{name: https, port: 443, protocol: HTTPS, hostname: set.example, tls: {certificateRefs: [{name: cert, namespace: web}]}}";
    vec![
        extended("ListenerSetHTTPRouting")
            .yaml(&from("All"))
            .yaml(&set(
                "infra",
                "set",
                &[listener("one", "hostname: one.example"), listener("two", "hostname: two.example")]
                    .join(", "),
            ))
            .yaml(&set("infra", "other", "{name: far, port: 8080, protocol: HTTP}"))
            .yaml(&route_at("own", "infra", "{name: gw}", TO_V1))
            .yaml(&route_at("both", "infra", &at_set("set"), TO_V2))
            .yaml(&route_at(
                "far",
                "infra",
                &at_set("other"),
                "rules: [{backendRefs: [{name: v3, port: 8080}]}]",
            ))
            .says("ListenerSet infra/set", TAKEN)
            .says("ListenerSet infra/set one", "attached=1")
            .says("ListenerSet infra/other far", "attached=1 kinds=HTTPRoute,GRPCRoute")
            .says("Gateway infra/gw own", "attached=1")
            .ask(get("/").to("own.example"), by("v1"))
            .ask(get("/").to("one.example"), by("v2"))
            .ask(get("/").to("two.example"), by("v2"))
            .ask(get("/").to("three.example"), Want::status(404))
            .ask_at("infra/gw", 8080, get("/").to("any.example"), by("v3")),
        extended("ListenerSetAllowedRoutesNamespaces")
            .yaml(&from("Same"))
            .yaml(&set("infra", "set", all))
            .yaml(&from_web("r"))
            .says("HTTPRoute web/r", FINE)
            .says("ListenerSet infra/set same", "attached=0")
            .says("ListenerSet infra/set all", "attached=1")
            .says("ListenerSet infra/set selector", "attached=1")
            .ask(get("/").to("all.example"), by("w1"))
            .ask(get("/").to("selector.example"), by("w1"))
            .ask(get("/").to("same.example"), Want::status(404)),
        extended("ListenerSetAllowedRoutesSupportedKinds")
            .yaml(&from("Same"))
            .yaml(&set("infra", "set", kinds))
            .says(
                "ListenerSet infra/set tls",
                "kinds=TLSRoute ResolvedRefs=True/ResolvedRefs Accepted=True/Accepted",
            )
            .says("ListenerSet infra/set bad", "kinds= ResolvedRefs=False/InvalidRouteKinds"),
        extended("ListenerSetDualParentRefIndependence")
            .yaml(&from("Same"))
            .yaml(&set("infra", "set", &listener("set", &allowed("Same"))))
            .yaml(&route_at(
                "r",
                "web",
                "{name: gw, namespace: infra}, {kind: ListenerSet, name: set, namespace: infra}",
                TO_W1,
            ))
            .says("HTTPRoute web/r#0", FINE)
            .says("HTTPRoute web/r#1", "Accepted=False/NotAllowedByListeners")
            .ask(get("/").to("own.example"), by("w1"))
            .ask(get("/").to("set.example"), Want::status(404)),
        extended("ListenerSetGatewayParentSectionNameNotFound")
            .yaml(&from("Same"))
            .yaml(&set("infra", "set", &listener("only-of-set", "hostname: set.example")))
            .yaml(&route_at("r", "infra", "{name: gw, sectionName: only-of-set}", TO_V1))
            .yaml(&here("s", "own"))
            .says("HTTPRoute infra/r", "Accepted=False/NoMatchingParent")
            .says("HTTPRoute infra/s", "Accepted=False/NoMatchingParent")
            .says("ListenerSet infra/set only-of-set", "attached=0")
            .ask(get("/").to("set.example"), Want::status(404)),
        extended("ListenerSetRouteStatusScopedToParentRef")
            .yaml(&from("Same"))
            .yaml(&set("infra", "set", &listener("set", "hostname: set.example")))
            .yaml(&here("r", "set"))
            .says("HTTPRoute infra/r", FINE)
            .act(async |case| {
                let route = case.read("HTTPRoute", "infra/r").unwrap_or_default();
                let parents = route["status"]["parents"].as_array().cloned().unwrap_or_default();
                let [only] = &*parents else { anyhow::bail!("{parents:?}") };
                ensure!(
                    only["parentRef"]["kind"] == "ListenerSet" && only["parentRef"]["sectionName"] == "set",
                    "{only}"
                );
                Ok(())
            })
            .ask(get("/").to("set.example"), by("v1")),
        extended("ListenerSetReferenceGrant")
            .yaml(&from("Same"))
            .yaml("SECRET(web cert set.example)")
            .yaml(&set("infra", "set", https))
            .yaml(&here("r", "https"))
            // What a Gateway is permitted a ListenerSet is not.
            .yaml(&secret.replace("KIND", "Gateway"))
            .says(
                "ListenerSet infra/set https",
                "ResolvedRefs=False/RefNotPermitted Programmed=False/Invalid",
            )
            .act({
                let grant = secret.replace("KIND", "ListenerSet");
                async move |case| {
                    case.rewrite(&grant)?;
                    case.must_say(
                        "ListenerSet infra/set https",
                        "ResolvedRefs=True/ResolvedRefs Programmed=True/Programmed",
                    )
                    .await?;
                    case.until(
                        ("infra/gw", 443),
                        inside("set.example", get("/").to("set.example")),
                        &by("v1"),
                    )
                    .await
                }
            }),
    ]
}

/// Who comes before whom.
#[expect(clippy::too_many_lines, reason = "a table")]
fn conflicts() -> Vec<Test> {
    vec![
        extended("ListenerSetHostnameConflict")
            .yaml(&from("All"))
            .yaml(&set(
                "infra",
                "a",
                &[listener("taken", "hostname: own.example"), listener("mine", "hostname: a.example")]
                    .join(", "),
            ))
            // Of two sets of one age the name decides.
            .yaml(&set("infra", "b", &listener("first", "hostname: both.example")))
            .yaml(&set("infra", "z", &listener("late", "hostname: both.example")))
            .yaml(&route_at("own", "infra", "{name: gw}", TO_V1))
            .yaml(&route_at("a", "infra", &at_set("a"), TO_V2))
            .yaml(&route_at("b", "infra", &at_set("b"), TO_V1))
            .yaml(&route_at("z", "infra", &at_set("z"), TO_V2))
            .says("Gateway infra/gw own", SERVED)
            .says("ListenerSet infra/a", "Accepted=True/ListenersNotValid Programmed=True/Programmed")
            .says(
                "ListenerSet infra/a taken",
                "Accepted=False/HostnameConflict Conflicted=True/HostnameConflict Programmed=False/Invalid",
            )
            .says("ListenerSet infra/a mine", SERVED)
            .says("ListenerSet infra/b first", SERVED)
            .says(
                "ListenerSet infra/z",
                "Accepted=False/ListenersNotValid Programmed=False/ListenersNotValid",
            )
            .says("ListenerSet infra/z late", "Conflicted=True/HostnameConflict")
            .ask(get("/").to("own.example"), by("v1"))
            .ask(get("/").to("a.example"), by("v2"))
            .ask(get("/").to("both.example"), by("v1")),
        extended("ListenerSetProtocolConflict")
            .yaml(&from("All"))
            .yaml(&set(
                "infra",
                "a",
                "{name: tcp, port: 80, protocol: TCP}, {name: fine, port: 8080, protocol: HTTP}",
            ))
            .yaml(&set("infra", "b", "{name: tls, port: 8080, protocol: TLS, tls: {mode: Passthrough}}"))
            .yaml(&route_at("own", "infra", "{name: gw}", TO_V1))
            .yaml(&route_at("a", "infra", &at_set("a"), TO_V2))
            .says("Gateway infra/gw own", SERVED)
            .says(
                "ListenerSet infra/a tcp",
                "Accepted=False/ProtocolConflict Conflicted=True/ProtocolConflict Programmed=False/Invalid",
            )
            .says("ListenerSet infra/a fine", SERVED)
            .says(
                "ListenerSet infra/b tls",
                "Accepted=False/ProtocolConflict Conflicted=True/ProtocolConflict",
            )
            .ask(get("/").to("own.example"), by("v1"))
            .ask_at("infra/gw", 8080, get("/"), by("v2")),
        core("Bad input: a ListenerSet of nothing, and one of itself, are in nobody's way")
            .yaml(&from("All"))
            .yaml(
                &set("infra", "lost", &listener("l", "hostname: lost.example"))
                    .replace("name: gw,", "name: gone,"),
            )
            .yaml(
                &set("infra", "self", &listener("l", "hostname: self.example"))
                    .replace("parentRef: {name: gw,", "parentRef: {kind: ListenerSet, name: self,"),
            )
            .yaml(&route_at("own", "infra", "{name: gw}", TO_V1))
            .yaml(&route_at(
                "r",
                "infra",
                "{kind: ListenerSet, name: self}, {kind: ListenerSet, name: gone}",
                TO_V1,
            ))
            .says("Gateway infra/gw own", SERVED)
            .ask(get("/").to("own.example"), by("v1"))
            .ask(get("/").to("self.example"), Want::status(404)),
    ]
}
