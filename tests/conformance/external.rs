//! Authorizers outside of the mesh's own rules, at a gateway: AuthorizationPolicy with the action CUSTOM. The providers are in the
//! MeshConfig that rows share, and their services in the rows.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_tests::authorizer::Authorizer;

use crate::client::{Req, get, grpc, post};
use crate::row::{Case, Row, Want, row, slug};
use crate::stand::HTTP_PORT;

pub(crate) fn rows() -> Vec<Row> {
    vec![by_http(), by_grpc(), unknown(), nobody()]
}

/// What `extensionProviders` of the rows' MeshConfig has.
pub(crate) const PROVIDERS: &str = "extensionProviders: [\
     {name: ext-http, envoyExtAuthzHttp: {service: external-http.conf.svc.cluster.local, port: 80, timeout: 1s, \
     pathPrefix: /check, includeRequestHeadersInCheck: [x-order, x-shown], includeAdditionalHeadersInCheck: {x-mesh: conf}, \
     headersToUpstreamOnAllow: [x-user], headersToDownstreamOnAllow: [x-from], headersToDownstreamOnDeny: [x-why], \
     includeRequestBodyInCheck: {maxRequestBytes: 10}}}, \
     {name: ext-grpc, envoyExtAuthzGrpc: {service: external-grpc.conf.svc.cluster.local, port: 80, timeout: 1s, statusOnError: '503', \
     includeRequestBodyInCheck: {maxRequestBytes: 10, allowPartialMessage: true}}}, \
     {name: ext-open, envoyExtAuthzGrpc: {service: external-grpc.conf.svc.cluster.local, port: 80, timeout: 1s, failOpen: true}}, \
     {name: ext-nobody, envoyExtAuthzHttp: {service: nobody.conf.svc.cluster.local, port: 80}}]";

/// A policy of the gateway for one host, that asks this provider. With its port, or else bytes on other ports would have to be asked
/// about, which nobody can.
fn policy(name: &str, host: &str, provider: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: istio-system}}, \
         spec: {{selector: {{matchLabels: {{istio: ingressgateway}}}}, action: CUSTOM, provider: {{name: {provider}}}, \
         rules: [{{to: [{{operation: {{hosts: [{host}], ports: ['{HTTP_PORT}'], notPaths: [/free]}}}}]}}]}}}}"
    )
}

/// Writes the policy of a row.
fn goes_by(case: &Case, provider: &str) -> Result<()> {
    let name = slug(&case.id);
    let policy = policy(&name, &case.host, provider).replace(HTTP_PORT, &case.stand.http.to_string());
    case.stand.gateway.write(&format!("{name}-policy.yaml"), &policy)
}

/// Has the provider asked about the requests of the row.
async fn asks(case: &Case, service: &str, authorizer: &Authorizer, provider: &str) -> Result<()> {
    let (name, port) = (slug(&case.id), authorizer.address().port());
    let protocol = service.trim_start_matches("external-");
    case.stand.gateway.write(
        &format!("{name}-authz.yaml"),
        &format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {service}, namespace: conf}}, spec: {{ports: [{{name: {protocol}, port: 80}}]}}}}\n---\n\
             {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {service}, namespace: conf, labels: {{kubernetes.io/service-name: {service}}}}}, \
             addressType: IPv4, endpoints: [{{addresses: [127.0.0.1]}}], ports: [{{name: {protocol}, port: {port}}}]}}\n",
        ),
    )?;
    goes_by(case, provider)?;
    let until = Instant::now() + Duration::from_secs(5);
    while authorizer.asked().is_empty() {
        let _ = case.send(get("/")).await?;
        ensure!(Instant::now() < until, "never asked");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn order(order: &str) -> Req {
    get("/a?b=c").with("x-order", order).with("x-secret", "s").with("x-user", "root").with("x-hidden", "h")
}

fn by_http() -> Row {
    row("external/http").http("[{ECHO}]").act(async |case| {
        let authorizer = Authorizer::http()?;
        asks(&case, "external-http", &authorizer, "ext-http").await?;
        let reply = case.send(order("allow").with("x-shown", "1")).await?;
        ensure!(reply.status == 200 && reply.header("x-from").as_deref() == Some("authorizer"), "{reply}");
        let seen = reply.seen()?;
        ensure!(
            seen.header("x-user").as_deref() == Some("ann") && seen.header("x-secret").is_none(),
            "{seen:?}"
        );
        let asked = authorizer.asked().last().cloned().unwrap_or_default();
        let host = &case.host;
        ensure!(asked.starts_with(&format!("GET {host} /check/a?b=c  ")), "{asked}");
        ensure!(asked.contains("x-shown=1") && asked.contains("x-mesh=conf"), "{asked}");
        ensure!(!asked.contains("x-hidden") && !asked.contains("x-secret"), "{asked}");
        let reply = case.send(order("deny").mark("external/http#deny")).await?;
        ensure!(reply.status == 418 && reply.text() == "not you", "{reply}");
        ensure!(
            reply.header("x-why").as_deref() == Some("because") && reply.header("x-from").is_none(),
            "{reply}"
        );
        ensure!(case.seen("external/http#deny").is_empty(), "the origin has seen it");
        let line = case.stand.log("external/http#deny").await?;
        ensure!(
            line["response_flags"] == "UAEX" && line["response_code_details"] == "ext_authz_denied",
            "{line}"
        );
        for what in ["broken", "slow"] {
            let mark = format!("external/http#{what}");
            let begun = Instant::now();
            let reply = case.send(order(what).mark(&mark)).await?;
            ensure!(reply.status == 403 && reply.body.is_empty(), "{what}: {reply}");
            ensure!(begun.elapsed() < Duration::from_millis(1_900), "{what}: it was waited for");
            ensure!(case.seen(&mark).is_empty(), "{what}: the origin has seen it");
            let line = case.stand.log(&mark).await?;
            ensure!(
                line["response_flags"] == "UAEX" && line["response_code_details"] == "ext_authz_error",
                "{line}"
            );
        }
        let before = authorizer.asked().len();
        ensure!(
            case.send(get("/free").with("x-order", "deny")).await?.status == 200,
            "nobody is asked about it"
        );
        ensure!(authorizer.asked().len() == before);
        let reply = case.send(post("/", "0123456789")).await?;
        ensure!(reply.status == 200 && reply.seen()?.body == "0123456789", "{reply}");
        let asked = authorizer.asked().last().cloned().unwrap_or_default();
        ensure!(asked.starts_with(&format!("POST {host} /check/ 0123456789 ")), "{asked}");
        ensure!(case.send(post("/", "0123456789+")).await?.status == 413);
        Ok(())
    })
}

fn by_grpc() -> Row {
    row("external/grpc").http("[{ECHO}]").act(async |case| {
        let authorizer = Authorizer::grpc()?;
        asks(&case, "external-grpc", &authorizer, "ext-grpc").await?;
        let reply = case.send(order("allow").with("x-shown", "1").h2()).await?;
        ensure!(reply.status == 200 && reply.header("x-from").as_deref() == Some("authorizer"), "{reply}");
        let seen = reply.seen()?;
        ensure!(
            seen.header("x-user").as_deref() == Some("ann") && seen.header("x-secret").is_none(),
            "{seen:?}"
        );
        let asked = authorizer.asked().last().cloned().unwrap_or_default();
        let host = &case.host;
        ensure!(asked.starts_with(&format!("GET {host} /a?b=c  :authority={host} :method=GET ")), "{asked}");
        ensure!(asked.contains("x-hidden=h"), "{asked}");
        let reply = case.send(order("deny").mark("external/grpc#deny")).await?;
        ensure!(reply.status == 418 && reply.text() == "not you", "{reply}");
        ensure!(reply.header("x-why").as_deref() == Some("because"), "{reply}");
        ensure!(case.seen("external/grpc#deny").is_empty(), "the origin has seen it");
        let reply = case.send(grpc("/pkg.Service/Method").with("x-order", "deny")).await?;
        ensure!(reply.status == 200 && reply.header("grpc-status").is_some(), "{reply}");
        for what in ["broken", "slow"] {
            ensure!(case.send(order(what)).await?.status == 503, "{what}");
        }
        let reply = case.send(post("/", "0123456789+")).await?;
        ensure!(reply.status == 200 && reply.seen()?.body == "0123456789+", "{reply}");
        let asked = authorizer.asked().last().cloned().unwrap_or_default();
        ensure!(asked.starts_with(&format!("POST {host} / 0123456789 ")), "{asked}");
        ensure!(asked.contains("x-envoy-auth-partial-body=true"), "{asked}");
        // The same service, of a provider whose failures pass.
        goes_by(&case, "ext-open")?;
        let until = Instant::now() + Duration::from_secs(5);
        while case.send(order("broken")).await?.status != 200 {
            ensure!(Instant::now() < until, "never passes");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let labels = [("reason", "passed")];
        ensure!(case.stand.gateway.counted("mesh_authorizer_failures_total", &labels, 1.0).await? >= 1.0);
        Ok(())
    })
}

/// No such provider is anybody who has said yes.
fn unknown() -> Row {
    row("external/unknown-provider")
        .http("[{ECHO}]")
        .config(&policy("NAME", "HOST", "no-such-provider"))
        .ask(get("/"), Want::status(403).unseen())
        .ask(get("/free"), crate::row::ok())
}

fn nobody() -> Row {
    row("external/nobody-there").http("[{ECHO}]").config(&policy("NAME", "HOST", "ext-nobody")).ask(
        get("/"),
        Want::status(403).flags("UAEX").log("response_code_details", "ext_authz_error").unseen(),
    )
}
