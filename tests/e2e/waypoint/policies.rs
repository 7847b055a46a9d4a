//! Policies at a waypoint, and behind it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle};
use mesh_tests::jwt::{Issuer, from_now};
use mesh_tests::scenario::{self, Dialled, dial, eventually, pod};
use serde_json::json;

use super::{URL, Way, bind, counted, waits, with_waypoint};
use crate::routing::{Answer, ask_once};

fn policy(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: shop}}, \
         spec: {{{spec}}}}}\n---\n"
    )
}

fn from(namespace: &str, account: &str) -> String {
    format!("rules: [{{from: [{{source: {{principals: [cluster.local/ns/{namespace}/sa/{account}]}}}}]}}]")
}

fn answers(bed: &Bed, client: &PodHandle, status: u16) -> Result<Answer> {
    waits(bed, client, &[URL], |answer| answer.status == status)
        .with_context(|| format!("{} is to get {status}", client.name()))
}

fn targets_are_enforced(way: Way) -> Result<()> {
    let bed = with_waypoint(way)?;
    let (client, other) = (bed.pod("mesh/client")?, bed.pod("mesh/other")?);
    bind(&bed)?;
    bed.wait("a request at the waypoint", Duration::from_secs(10), |bed| {
        answers(bed, &client, 200).is_ok()
            && counted(bed, "istio_requests_total", &[]).is_ok_and(|count| count > 0)
    })?;
    let gateway = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: way}]";
    let to_service = "targetRefs: [{kind: Service, name: web}]";
    bed.apply(&policy("only", &format!("{to_service}, {}", from("mesh", "client"))))?;
    let denied = answers(&bed, &other, 403)?;
    ensure!(denied.body == "RBAC: access denied", "{denied:?}");
    answers(&bed, &client, 200)?;
    bed.apply(&policy("stop", &format!("{gateway}, action: DENY, {}", from("mesh", "client"))))?;
    answers(&bed, &client, 403)?;
    bed.delete("AuthorizationPolicy", "shop", "stop")?;
    bed.delete("AuthorizationPolicy", "shop", "only")?;
    answers(&bed, &client, 200)?;
    answers(&bed, &other, 200)?;
    Ok(())
}

#[test]
fn policies_with_targets_are_enforced_at_the_waypoint() -> Result<()> {
    targets_are_enforced(Way::Wire)
}

#[test]
fn policies_with_targets_are_enforced_at_the_waypoint_embedded() -> Result<()> {
    targets_are_enforced(Way::Embedded)
}

/// A policy of the workload sees the waypoint, and keeps everybody else away.
#[test]
fn a_workload_may_let_in_its_waypoint_alone() -> Result<()> {
    let bed = with_waypoint(Way::Wire)?;
    let client = bed.pod("mesh/client")?;
    let pod = format!("http://{}:8080/headers", bed.pod("shop/web-v1")?.ip());
    waits(&bed, &client, &[&pod], |answer| answer.status == 200)?;
    bed.apply(&policy("only", &format!("selector: {{matchLabels: {{app: web}}}}, {}", from("shop", "way"))))?;
    waits(&bed, &client, &[&pod], |answer| answer.status == 0).context("past the waypoint")?;
    bind(&bed)?;
    answers(&bed, &client, 200)?;
    bed.apply(&policy(
        "only",
        &format!("selector: {{matchLabels: {{app: web}}}}, {}", from("mesh", "client")),
    ))?;
    answers(&bed, &client, 503).context("the workload sees no client, but the waypoint")?;
    Ok(())
}

/// Who was shown to whom at both ends of the waypoint, in a format that asks for it; afterwards the format is the usual one again.
fn identities_are_in_the_log(bed: &Bed, client: &PodHandle, to: &str) -> Result<()> {
    let settings = |more: &str| {
        format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: istio, namespace: istio-system}}, \
             data: {{mesh: \"accessLogFile: /dev/stdout\\n{more}\"}}}}"
        )
    };
    let format = "WAY %DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_LOCAL_URI_SAN% %UPSTREAM_LOCAL_URI_SAN% %UPSTREAM_PEER_URI_SAN% \
                  %DOWNSTREAM_TLS_VERSION% %UPSTREAM_TLS_VERSION% %UPSTREAM_CLUSTER%";
    bed.apply(&settings(&format!("accessLogFormat: '{format}'")))?;
    let id = |name: &str| format!("spiffe://cluster.local/ns/{name}");
    let (own, peer) = (id("shop/sa/way"), id("mesh/sa/client"));
    let mut last = String::new();
    let said = bed.wait("a line of the waypoint's", Duration::from_secs(10), |bed| {
        let _ = dial(client, &[to]);
        last = bed.pod("shop/way-pod").map(|pod| pod.log()).unwrap_or_default();
        let begins = format!("WAY {peer} {own} {own} spiffe://cluster.local/ns/");
        last.lines().any(|line| line.starts_with(&begins) && line.contains(" TLSv1.3 TLSv1.3 outbound|"))
    });
    said.with_context(|| last.clone())?;
    bed.apply(&settings(""))?;
    bed.wait("the usual format", Duration::from_secs(10), |bed| {
        let _ = dial(client, &[to]);
        let log = bed.pod("shop/way-pod").map(|pod| pod.log()).unwrap_or_default();
        log.lines()
            .rfind(|line| line.starts_with("WAY ") || line.starts_with("[20"))
            .is_some_and(|it| it.starts_with('['))
    })?;
    Ok(())
}

/// What is not HTTP goes through as well, to a server that speaks first, and policies decide about it.
#[test]
fn bytes_are_carried_and_decided_about() -> Result<()> {
    let bed = with_waypoint(Way::Wire)?;
    let client = bed.pod("mesh/client")?;
    bed.apply(&pod("shop", "far", "node-1", &["netprobe", "serve", "--port", "7000"]))?;
    let far = scenario::service("shop", "far", "app: far");
    let far = far.replace("namespace: shop}", "namespace: shop, labels: {istio.io/use-waypoint: way}}");
    bed.apply(&far)?;
    bed.wait_ready(Duration::from_secs(20), |_| ())?;
    let to = format!("{}:80", bed.status().service_ip("shop/far")?);
    let labels =
        [("reporter", "waypoint"), ("destination_service_name", "far"), ("source_workload", "client")];
    let carried = || counted(&bed, "istio_tcp_connections_opened_total", &labels);
    bed.wait("a connection through the waypoint", Duration::from_secs(10), |_| {
        dial(&client, &[&to]).is_ok_and(|seen| seen.served()) && carried().is_ok_and(|count| count > 0)
    })?;
    // The server sees the waypoint, from whose address it was called.
    let (seen, way) = (dial(&client, &[&to])?, bed.pod("shop/way-pod")?);
    let peer: SocketAddr = seen.seen("peer").parse()?;
    ensure!([Some(way.ip()), way.ip6()].contains(&Some(peer.ip())), "{seen:?}");
    identities_are_in_the_log(&bed, &client, &to)?;
    let far = "targetRefs: [{kind: Service, name: far}]";
    bed.apply(&policy("stop", &format!("{far}, action: DENY, {}", from("mesh", "client"))))?;
    eventually(&bed, &client, &to, Dialled::refused)?;
    // That one may have been cut by the change; this one is refused.
    ensure!(dial(&client, &[&to])?.refused(), "the policy holds");
    let denied = counted(&bed, "mesh_connections_denied_total", &[("reason", "policy")])?;
    ensure!(denied > 0, "the waypoint counts what it denies");
    let log = bed.pod("shop/way-pod")?.log();
    ensure!(log.contains("rbac_access_denied_matched_policy[ns[shop]-policy[stop]-rule[0]]"), "{log}");
    Ok(())
}

/// Requests are asked for tokens and decided about one by one at the waypoint: what it answers, what the log says of it and the
/// client does not hear, and a request under way whose token is no longer good.
#[test]
fn requests_and_tokens_are_decided_about_at_the_waypoint() -> Result<()> {
    let bed = with_waypoint(Way::Wire)?;
    let client = bed.pod("mesh/client")?;
    bind(&bed)?;
    let issuer = Issuer::new()?;
    let authentication = |issuer: &Issuer| {
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
            "metadata": {"name": "tokens", "namespace": "shop"},
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
                "jwtRules": [{"issuer": "e2e", "jwks": issuer.jwks()}],
            },
        })
        .to_string()
    };
    bed.apply(&authentication(&issuer))?;
    bed.apply(&policy(
        "reads",
        "targetRefs: [{kind: Service, name: web}], rules: [\
         {to: [{operation: {methods: [GET], paths: [/get, '/status/{*}']}}]}, \
         {from: [{source: {requestPrincipals: [e2e/ann]}}]}]",
    ))?;
    let token = |issuer: &Issuer, sub: &str| {
        let claims = json!({"iss": "e2e", "sub": sub, "exp": from_now(600)});
        Ok::<_, anyhow::Error>(format!("authorization: Bearer {}", issuer.token(&claims)?))
    };
    let (ann, bob, forged) = (token(&issuer, "ann")?, token(&issuer, "bob")?, token(&Issuer::new()?, "ann")?);
    let rows: &[(&str, &[&str], u16)] = &[
        ("/headers", &["-H", &forged], 401),
        ("/headers", &[], 403),
        ("/headers", &["-H", &bob], 403),
        ("/headers", &["-H", &ann], 200),
        ("/get", &[], 200),
        ("/get", &["-H", &forged], 401),
        ("/get", &["-X", "POST"], 403),
        ("/x/../headers", &["--path-as-is"], 403),
        ("/status/201", &[], 201),
        ("/status/201/x", &[], 403),
    ];
    for (path, words, status) in rows {
        let url = format!("http://web.shop{path}");
        let answer = waits(&bed, &client, &[&[&*url], *words].concat(), |it| it.status == *status);
        let answer = answer.with_context(|| format!("{path} {words:?} is to get {status}"))?;
        let said = [(401, "Jwt verification fails"), (403, "RBAC: access denied")];
        let said = said.iter().find(|(of, _)| of == status).map(|(_, said)| *said);
        ensure!(said.is_none_or(|said| answer.body == said), "{path} {words:?}: {answer:?}");
    }
    let logs = |told: &str| {
        let waited = bed.wait("the log", Duration::from_secs(5), |bed| {
            bed.pod("shop/way-pod").is_ok_and(|pod| pod.log().contains(told))
        });
        waited.with_context(|| told.to_owned())
    };
    logs("rbac_access_denied_matched_policy[none]")?;
    logs("jwt_authn_access_denied{Jwt_verification_fails}")?;
    bed.apply(&policy(
        "stop",
        "targetRefs: [{kind: Service, name: web}], action: DENY, rules: [{to: [{operation: {paths: [/status/*]}}]}]",
    ))?;
    waits(&bed, &client, &["http://web.shop/status/201"], |it| it.status == 403)?;
    logs("rbac_access_denied_matched_policy[ns[shop]-policy[stop]-rule[0]]")?;

    let (answer, took) = std::thread::scope(|scope| -> Result<_> {
        let asked = scope.spawn(|| {
            let answer = ask_once(&client, &["http://web.shop/delay/4", "-H", &ann]);
            (answer, Instant::now())
        });
        std::thread::sleep(Duration::from_millis(700));
        let changed = Instant::now();
        bed.apply(&authentication(&Issuer::new()?))?;
        let (answer, ended) = asked.join().expect("it asks");
        Ok((answer?, ended.duration_since(changed)))
    })?;
    ensure!(answer.status == 401 && took < Duration::from_millis(1500), "{answer:?} after {took:?}");
    Ok(())
}
