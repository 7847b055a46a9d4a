//! Tokens of requests at a gateway: RequestAuthentication, and routes by claims.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_tests::jwt::{Issuer, from_now};
use serde_json::{Value, json};

use crate::client::{Req, get, grpc};
use crate::row::{Case, Row, Want, ok, row, slug};

pub(crate) fn rows() -> Vec<Row> {
    vec![good(), refused(), several(), routes(), fetched(), down(), changes()]
}

/// Whose tokens rows have.
fn issuer() -> &'static Issuer {
    static ISSUER: OnceLock<Issuer> = OnceLock::new();
    ISSUER.get_or_init(|| Issuer::new().expect("a key"))
}

/// A token of [`issuer`] with these claims, that ends in an hour.
fn token(more: &Value) -> String {
    let mut claims = json!({"iss": "conf", "sub": "ann", "exp": from_now(3600)});
    if let (Some(claims), Some(more)) = (claims.as_object_mut(), more.as_object()) {
        claims.extend(more.clone());
    }
    issuer().token(&claims).expect("a token")
}

/// A RequestAuthentication of the gateway. Its tokens are in a header that only the requests of the row have.
fn rules(id: &str, rules: &[Value]) -> String {
    let name = slug(id);
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": {"name": name, "namespace": "istio-system"},
        "spec": {"selector": {"matchLabels": {"istio": "ingressgateway"}}, "jwtRules": rules},
    })
    .to_string()
}

fn header(id: &str) -> String {
    format!("x-token-{}", slug(id))
}

/// A rule for tokens in the header of the row, with what else it says.
fn rule(id: &str, more: &Value) -> Value {
    let mut rule = json!({"issuer": "conf", "jwks": issuer().jwks(), "fromHeaders": [{"name": header(id), "prefix": "T "}]});
    if let (Some(rule), Some(more)) = (rule.as_object_mut(), more.as_object()) {
        rule.extend(more.clone());
    }
    rule
}

fn with(id: &str, token: &str) -> Req {
    get("/").with(&header(id), &format!("T {token}"))
}

fn good() -> Row {
    let id = "tokens/good";
    let outputs = json!({
        "outputPayloadToHeader": "x-tokens-good-payload", "fromParams": ["tokens-good"],
        "outputClaimToHeaders": [{"header": "x-tokens-good-sub", "claim": "sub"}, {"header": "x-tokens-good-deep", "claim": "deep.n"}],
    });
    let own = token(&json!({"deep": {"n": 7}}));
    let payload = own.split('.').nth(1).unwrap_or_default().to_owned();
    let seen = || {
        let seen = ok().seen("h:x-tokens-good-sub", "ann").seen("h:x-tokens-good-deep", "7");
        seen.seen("h:x-tokens-good-payload", &payload).not_seen("h:x-token-tokens-good")
    };
    row(id)
        .http("[{ECHO}]")
        .config(&rules(id, &[rule(id, &outputs)]))
        .ask(with(id, &own), seen())
        .ask(with(id, &own).with("x-tokens-good-sub", "root").h2(), seen())
        .ask(get(&format!("/p?a=b&tokens-good={own}&c=d")), seen().seen("target", "/p?a=b&c=d"))
        // Without a token it is nobody's, whatever it says itself.
        .ask(
            get("/p?x").with("x-tokens-good-sub", "root").with("x-tokens-good-payload", "e30"),
            ok().not_seen("h:x-tokens-good-sub").not_seen("h:x-tokens-good-payload").seen("target", "/p?x"),
        )
        .ask(get("/").with("x_tokens_good_sub", "root"), Want::status(400).unseen())
}

fn refused() -> Row {
    let id = "tokens/refused";
    let own = |more: Value| token(&more);
    let other = Issuer::new().expect("a key");
    let forged = other.token(&json!({"iss": "conf", "sub": "ann"})).expect("a token");
    let no = |text: &str| {
        let details = format!("jwt_authn_access_denied{{{}}}", text.replace(' ', "_"));
        Want::status(401).body(text).log("response_code_details", &details).flags("-").unseen().header(
            "www-authenticate",
            "Bearer realm=\"http://tokens-refused.test/\", error=\"invalid_token\"",
        )
    };
    let audience = "Audiences in Jwt are not allowed";
    let plain = own(json!({"aud": "me"}));
    let unsigned = format!(
        "eyJhbGciOiJub25lIn0{}",
        plain.get(plain.find('.').unwrap_or_default()..).unwrap_or_default()
    );
    row(id)
        .http("[{ECHO}]")
        .config(&rules(id, &[rule(id, &json!({"audiences": ["me"], "forwardOriginalToken": true}))]))
        .ask(
            with(id, &own(json!({"aud": ["you", "me"]}))),
            ok().seen(&format!("h:{}", header(id)), &format!("T {}", own(json!({"aud": ["you", "me"]})))),
        )
        .ask(
            with(id, "x"),
            no("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"),
        )
        .ask(with(id, &own(json!({"aud": "me", "exp": from_now(-90)}))), no("Jwt is expired"))
        .ask(with(id, &own(json!({"aud": "me", "exp": from_now(-30)}))), ok())
        .ask(with(id, &own(json!({"aud": "me", "nbf": from_now(90)}))), no("Jwt not yet valid"))
        .ask(with(id, &own(json!({"aud": "me", "iss": "other"}))), no("Jwt issuer is not configured"))
        .ask(
            with(id, &own(json!({"aud": "you"}))),
            Want::status(403).body(audience).no_header("www-authenticate").unseen(),
        )
        .ask(with(id, &unsigned), no("Jwt header [alg] is not supported"))
        .ask(with(id, &forged), Want::status(403).unseen())
        .act(async |case| {
            let forged = Issuer::new()?.token(&json!({"iss": "conf", "sub": "ann", "aud": "me"}))?;
            let before = case.stand.gateway.counted("mesh_tokens_refused_total", &[], 1.0).await?;
            let reply = case.send(with(&case.id, &forged)).await?;
            ensure!(reply.status == 401 && reply.text() == "Jwt verification fails", "{reply}");
            ensure!(
                case.stand.gateway.counted("mesh_tokens_refused_total", &[], before + 1.0).await? > before
            );
            let reply = case
                .send(grpc("/pkg.Service/Method").with(&header(&case.id), &format!("T {forged}")))
                .await?;
            ensure!(reply.status == 200 && reply.header("grpc-status").as_deref() == Some("16"), "{reply}");
            Ok(())
        })
}

fn several() -> Row {
    let id = "tokens/several-rules";
    let second = json!({"issuer": "second", "fromHeaders": [{"name": "x-second-tokens"}]});
    row(id)
        .http("[{ECHO}]")
        .config(&rules(id, &[rule(id, &json!({})), rule(id, &second)]))
        .ask(with(id, &token(&json!({}))), ok())
        .ask(get("/").with("x-second-tokens", &token(&json!({"iss": "second"}))), ok())
        .ask(with(id, &token(&json!({"iss": "second"}))), Want::status(401).unseen())
        // A good token beside a bad one does not make up for it.
        .ask(with(id, &token(&json!({}))).with("x-second-tokens", "bad"), Want::status(401).unseen())
}

fn routes() -> Row {
    let id = "tokens/routes";
    let by = |name: &str, value: &str, word: &str| {
        format!(
            "{{match: [{{headers: {{'@request.auth.claims.{name}': {{exact: {value}}}}}}}], SAY({word})}}"
        )
    };
    let (staff, deep) = (by("groups", "staff", "staff"), by("deep.er", "yes", "deep"));
    row(id)
        .http(&format!("[{staff}, {deep}, {{SAY(anybody)}}]"))
        .config(&rules(id, &[rule(id, &json!({}))]))
        .ask(with(id, &token(&json!({"groups": ["guests", "staff"]}))), crate::row::says("staff"))
        .ask(with(id, &token(&json!({"groups": ["guests"]}))), crate::row::says("anybody"))
        .ask(with(id, &token(&json!({"deep": {"er": "yes"}}))), crate::row::says("deep"))
        .ask(get("/").with("@request.auth.claims.groups", "staff"), Want::status(400))
        .ask(get("/"), crate::row::says("anybody"))
}

/// The Service of the row whose keys are there.
fn keys(case: &Case, port: u16) -> String {
    let name = slug(&case.id);
    let rule = json!({"issuer": "conf", "jwksUri": format!("http://{name}-keys.conf.svc.cluster.local/keys"), "fromHeaders": [{"name": header(&case.id), "prefix": "T "}]});
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}-keys, namespace: conf}}, spec: {{ports: [{{name: http, port: 80}}]}}}}\n---\n\
         {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}-keys, namespace: conf, labels: {{kubernetes.io/service-name: {name}-keys}}}}, \
         addressType: IPv4, endpoints: [{{addresses: [127.0.0.1]}}], ports: [{{name: http, port: {port}}}]}}\n---\n{}",
        rules(&case.id, &[rule])
    )
}

async fn soon(case: &Case, token: &str, status: u16) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    while case.send(with(&case.id, token)).await?.status != status {
        ensure!(Instant::now() < until, "never {status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn fetched() -> Row {
    row("tokens/keys-of-a-service").http("[{ECHO}]").act(async |case| {
        let server = issuer().serve()?;
        case.stand.gateway.write("tokens-fetched-keys.yaml", &keys(&case, server.address().port()))?;
        soon(&case, "x", 401).await?;
        soon(&case, &token(&json!({})), 200).await?;
        let other = Issuer::new()?.token(&json!({"iss": "conf"}))?;
        ensure!(case.send(with(&case.id, &other)).await?.text() == "Jwt verification fails");
        ensure!(server.asked() == 1, "asked {} times", server.asked());
        Ok(())
    })
}

fn down() -> Row {
    row("tokens/keys-down").http("[{ECHO}]").act(async |case| {
        let server = issuer().serve()?;
        server.set_down(true);
        case.stand.gateway.write("tokens-down-keys.yaml", &keys(&case, server.address().port()))?;
        soon(&case, "x", 401).await?;
        let reply = case.send(with(&case.id, &token(&json!({})))).await?;
        ensure!(reply.status == 401 && reply.text() == "Jwks remote fetch is failed", "{reply}");
        ensure!(case.send(get("/")).await?.status == 200, "without a token it is nobody's");
        server.set_down(false);
        soon(&case, &token(&json!({})), 200).await
    })
}

fn changes() -> Row {
    row("tokens/changes").http("[{ECHO}]").act(async |case| {
        let write = |rule: Value| {
            let text = rules(&case.id, &[rule]);
            case.stand.gateway.write("tokens-changes-rules.yaml", &text)
        };
        let own = token(&json!({}));
        write(rule(&case.id, &json!({})))?;
        soon(&case, "x", 401).await?;
        ensure!(case.send(with(&case.id, &own)).await?.status == 200);
        // Other keys: what was accepted before is not any more.
        write(rule(&case.id, &json!({"jwks": Issuer::new()?.jwks()})))?;
        let begun = Instant::now();
        soon(&case, &own, 401).await?;
        ensure!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        std::fs::remove_file(case.stand.gateway.config.join("tokens-changes-rules.yaml"))?;
        soon(&case, &own, 200).await
    })
}
