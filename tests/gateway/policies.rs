//! Who may ask a gateway for what.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::http::{Request, Response, fetch};

use crate::process::{Gateway, http, manifest, wait};

const ROUTES: &str = "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: all, namespace: shop }
spec:
  hosts: ['*']
  gateways: [edge]
  http: [{ directResponse: { status: 200, body: { string: here } } }]
";

fn policy(namespace: &str, spec: &str) -> String {
    format!(
        "\n---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: {namespace}}}, \
         spec: {{{spec}}}}}\n"
    )
}

fn ask(gateway: &Gateway, (method, path, headers): (&str, &str, &[(&str, &str)])) -> Result<Response> {
    let mut request = Request::get(path);
    method.clone_into(&mut request.method);
    for (name, value) in headers {
        request.headers.push(*name, *value);
    }
    fetch(gateway.at(8080), &request, Duration::from_secs(5)).context(path.to_owned())
}

/// The rule, for whom it is, and what `GET /a`, `GET /b` and `POST /b` with two addresses in `x-forwarded-for` come to.
const ROWS: &[(&str, &str, [u16; 3])] = &[
    ("istio-system", "SELECT, action: DENY, rules: [{to: [{operation: {paths: [/a]}}]}]", [403, 200, 200]),
    ("istio-system", "SELECT, rules: [{to: [{operation: {paths: [/a]}}]}]", [200, 403, 403]),
    // All of the mesh.
    ("istio-system", "rules: [{to: [{operation: {methods: [POST]}}]}]", [403, 403, 200]),
    (
        "istio-system",
        "TARGET, action: DENY, rules: [{to: [{operation: {methods: [POST]}}]}]",
        [200, 200, 403],
    ),
    // For somebody else.
    ("istio-system", "selector: {matchLabels: {istio: other}}, action: DENY, rules: [{}]", [200, 200, 200]),
    ("shop", "SELECT, action: DENY, rules: [{}]", [200, 200, 200]),
    // Without proxies that are trusted the client is who connects.
    (
        "istio-system",
        "SELECT, action: DENY, rules: [{from: [{source: {remoteIpBlocks: [203.0.113.0/24]}}]}]",
        [200, 200, 200],
    ),
    ("istio-system", "SELECT, rules: [{from: [{source: {remoteIpBlocks: [127.0.0.0/8]}}]}]", [200, 200, 200]),
    ("istio-system", "SELECT, rules: [{from: [{source: {principals: [\"*\"]}}]}]", [403, 403, 403]),
];

#[test]
fn policies_hold_for_the_gateways_that_they_are_for() -> Result<()> {
    let base = manifest(&http(8080)) + ROUTES;
    let gateway = Gateway::start(&[("gateway.yaml", &base)])?;
    let forwarded = [("x-forwarded-for", "198.51.100.1, 203.0.113.7")];
    let requests = [("GET", "/a", &[][..]), ("GET", "/b", &[]), ("POST", "/b", &forwarded)];
    for (namespace, spec, expected) in ROWS {
        let select = "selector: {matchLabels: {istio: ingressgateway}}";
        let target =
            "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: istio-ingressgateway}]";
        let spec = spec.replace("SELECT", select).replace("TARGET", target);
        gateway.write("gateway.yaml", &(base.clone() + &policy(namespace, &spec)))?;
        let mut last = Vec::new();
        let held = wait(Duration::from_secs(3), || {
            last = requests.iter().filter_map(|it| ask(&gateway, *it).ok()).collect();
            last.iter().map(|answer| answer.status).eq(*expected)
        });
        held.with_context(|| format!("{namespace} {spec}: {last:?}\n{}", gateway.log()))?;
        let told =
            last.iter().filter(|answer| answer.status == 403).all(|it| it.text() == "RBAC: access denied");
        ensure!(told, "{last:?}");
    }
    let denied = ["policy=\"istio-system/p\"", "verdict=\"denied\""];
    ensure!(gateway.sum("mesh_policy_verdicts_total", &denied)? > 0, "the metric");
    Ok(())
}

#[test]
fn what_a_policy_allows_is_counted_request_by_request_whichever_thread_decides() -> Result<()> {
    let allow = policy("istio-system", "selector: {matchLabels: {istio: ingressgateway}}, rules: [{}]");
    let config = manifest(&http(8080)) + ROUTES + &allow;
    let gateway = Gateway::start(&[("gateway.yaml", &config)])?;
    let allowed =
        || gateway.sum("mesh_policy_verdicts_total", &["policy=\"istio-system/p\"", "verdict=\"allowed\""]);
    wait(Duration::from_secs(5), || {
        ask(&gateway, ("GET", "/", &[])).is_ok_and(|it| it.status == 200) && allowed().is_ok_and(|it| it > 0)
    })?;
    let before = allowed()?;
    for round in 0..REQUESTS {
        // Each comes on a connection of its own, to whichever thread takes it. A new configuration has new policies.
        ensure!(ask(&gateway, ("GET", "/", &[]))?.status == 200);
        if round == REQUESTS / 2 {
            gateway.write("gateway.yaml", &config.replace("here", "there"))?;
            wait(Duration::from_secs(5), || {
                ask(&gateway, ("GET", "/", &[])).is_ok_and(|it| it.text() == "there")
            })?;
        }
    }
    let counted = allowed()? - before;
    let asked = gateway.sum("istio_requests_total", &["response_code=\"200\""])?;
    ensure!(counted > REQUESTS && counted + before == asked, "{counted} and {before} of {asked}");
    Ok(())
}

const REQUESTS: u64 = 60;
