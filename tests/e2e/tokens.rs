//! Tokens that pods are shown: asked for by the node of the server, whoever shows them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle};
use mesh_tests::jwt::{Issuer, from_now};
use mesh_tests::scenario::{logged, pod, service, start};
use serde_json::json;

use crate::routing::{Answer, ask_once, until};
use crate::scrape::counted;

/// `mesh/client` and the servers `mesh/near` on node-1 and `mesh/far` on node-2, which speak HTTP at port 8080 behind services
/// that do not say so, and `outside/stranger`.
fn bed() -> Result<Bed> {
    let mut all = String::from(
        "{apiVersion: v1, kind: Namespace, metadata: {name: mesh, labels: {istio.io/dataplane-mode: ambient}}}\n---\n\
         {apiVersion: v1, kind: Namespace, metadata: {name: outside}}\n---\n",
    );
    all += &pod("mesh", "client", "node-1", &["sleep", "infinity"]);
    all += &pod("outside", "stranger", "node-1", &["sleep", "infinity"]);
    for (name, node) in [("near", "node-1"), ("far", "node-2")] {
        all += &pod("mesh", name, node, &["httpbin"]);
        let to = service("mesh", name, &format!("app: {name}"));
        all += &to.replace("name: tcp, ", "").replace("7000", "8080");
    }
    let bed = start(Bed::builder().nodes(2).manifests(all))?;
    let client = bed.pod("mesh/client")?;
    for server in ["near", "far"] {
        until(&bed, &client, &[&format!("http://{server}.mesh/get")], |answer| answer.status == 200)?;
    }
    Ok(bed)
}

fn authentication(issuer: &Issuer) -> String {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": {"name": "tokens", "namespace": "mesh"},
        "spec": {"jwtRules": [{
            "issuer": "e2e", "jwks": issuer.jwks(), "outputClaimToHeaders": [{"header": "x-who", "claim": "sub"}],
        }]},
    })
    .to_string()
}

fn asks(bed: &Bed, from: &PodHandle, url: &str, words: &[&str], status: u16) -> Result<Answer> {
    until(bed, from, &[&[url], words].concat(), |it| it.status == status)
        .with_context(|| format!("{url} {words:?} is to get {status}"))
}

/// On the client's node and on another one, by service and by address, from the mesh and from outside.
#[test]
fn a_pod_is_shown_good_tokens_or_none_whoever_asks() -> Result<()> {
    let bed = bed()?;
    let issuer = Issuer::new()?;
    bed.apply(&authentication(&issuer))?;
    let token = issuer.token(&json!({"iss": "e2e", "sub": "ann", "exp": from_now(600)}))?;
    let forged = Issuer::new()?.token(&json!({"iss": "e2e", "sub": "ann", "exp": from_now(600)}))?;
    let bearer = |token: &str| format!("authorization: Bearer {token}");
    let (good, bad) = (bearer(&token), bearer(&forged));
    let (near, far) = (bed.pod("mesh/near")?, bed.pod("mesh/far")?);
    let addresses = [format!("http://{}:8080", near.ip()), format!("http://{}:8080", far.ip())];
    let names = ["http://near.mesh".to_owned(), "http://far.mesh".to_owned()];
    let of_mesh: Vec<_> = names.iter().chain(&addresses).collect();
    for (from, urls) in [("mesh/client", of_mesh), ("outside/stranger", addresses.iter().collect())] {
        let client = bed.pod(from)?;
        for url in urls {
            let url = format!("{url}/headers");
            let answer = asks(&bed, &client, &url, &["-H", &bad], 401)?;
            ensure!(answer.body == "Jwt verification fails", "{from} {url}: {answer:?}");
            let answer = asks(&bed, &client, &url, &["-H", &good, "-H", "x-who: root"], 200)?;
            let body = answer.body.to_ascii_lowercase();
            ensure!(body.contains("ann") && !body.contains("root"), "{from} {url}: {answer:?}");
            ensure!(!body.contains("bearer"), "{from} {url}: the token goes no further: {answer:?}");
            let answer = asks(&bed, &client, &url, &["-H", "x-who: root"], 200)?;
            ensure!(!answer.body.contains("root"), "{from} {url}: nobody said so: {answer:?}");
        }
    }
    logged(&bed, "node-2", &["jwt_authn_access_denied{Jwt_verification_fails}", "401"])?;
    counted(&bed.node("node-2")?, "mesh_tokens_refused_total", &[], |count| count > 0)?;
    Ok(())
}

/// Who a token says that it is may do what others may not; a change of keys holds within a second.
#[test]
fn policies_know_whose_token_it_is() -> Result<()> {
    let bed = bed()?;
    let issuer = Issuer::new()?;
    bed.apply(&authentication(&issuer))?;
    bed.apply(
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: ann, namespace: mesh}, \
         spec: {rules: [{from: [{source: {requestPrincipals: [e2e/ann]}}]}, \
         {when: [{key: 'request.auth.claims[groups]', values: [staff]}]}]}}",
    )?;
    let client = bed.pod("mesh/client")?;
    let token = |sub: &str, groups: &[&str]| {
        let claims = json!({"iss": "e2e", "sub": sub, "groups": groups, "exp": from_now(600)});
        Ok::<_, anyhow::Error>(format!("authorization: Bearer {}", issuer.token(&claims)?))
    };
    let (ann, bob, staff) =
        (token("ann", &[])?, token("bob", &["guests"])?, token("bob", &["guests", "staff"])?);
    for server in ["near", "far"] {
        let url = format!("http://{server}.mesh/get");
        asks(&bed, &client, &url, &[], 403)?;
        asks(&bed, &client, &url, &["-H", &ann], 200)?;
        asks(&bed, &client, &url, &["-H", &bob], 403)?;
        asks(&bed, &client, &url, &["-H", &staff], 200)?;
    }
    bed.apply(&authentication(&Issuer::new()?))?;
    let changed = Instant::now();
    asks(&bed, &client, "http://far.mesh/get", &["-H", &ann], 401)?;
    ensure!(changed.elapsed() < Duration::from_secs(3), "{:?}", changed.elapsed());
    Ok(())
}

/// A request under way ends within a second when its token is no longer good; one whose token still is, and one without, go on.
#[test]
fn a_change_of_keys_cuts_requests_under_way() -> Result<()> {
    let bed = bed()?;
    let (issuer, other) = (Issuer::new()?, Issuer::new()?);
    let both = |first: &Issuer| {
        let rule = |name: &str, issuer: &Issuer| json!({"issuer": name, "jwks": issuer.jwks()});
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
            "metadata": {"name": "tokens", "namespace": "mesh"},
            "spec": {"jwtRules": [rule("e2e", first), rule("other", &other)]},
        })
        .to_string()
    };
    bed.apply(&both(&issuer))?;
    let bearer = |issuer: &Issuer, name: &str| {
        let claims = json!({"iss": name, "sub": "ann", "exp": from_now(600)});
        Ok::<_, anyhow::Error>(format!("authorization: Bearer {}", issuer.token(&claims)?))
    };
    let (bad, good) = (bearer(&issuer, "e2e")?, bearer(&other, "other")?);
    let client = bed.pod("mesh/client")?;
    for server in ["near", "far"] {
        let url = format!("http://{server}.mesh/get");
        // Until somebody asks for tokens: before that, connections go past everybody who could.
        asks(&bed, &client, &url, &["-H", "authorization: Bearer nonsense"], 401)?;
        asks(&bed, &client, &url, &["-H", &good], 200)?;
    }
    let waits = |server: &str, words: &[&str]| {
        let url = format!("http://{server}.mesh/delay/4");
        let answer = ask_once(&client, &[&[&*url], words].concat());
        (answer, Instant::now())
    };
    std::thread::scope(|scope| -> Result<()> {
        let lost = ["near", "far"].map(|server| (server, scope.spawn(|| waits(server, &["-H", &bad]))));
        let kept = ["near", "far"]
            .map(|server| (server, scope.spawn(|| (waits(server, &["-H", &good]), waits(server, &[])))));
        std::thread::sleep(Duration::from_secs(1));
        let changed = Instant::now();
        bed.apply(&both(&Issuer::new()?))?;
        for (server, lost) in lost {
            let (answer, ended) = lost.join().expect("it asks");
            let answer = answer?;
            ensure!(answer.status == 401 && answer.body == "Jwt verification fails", "{server}: {answer:?}");
            let took = ended.duration_since(changed);
            ensure!(took < Duration::from_millis(1500), "{server}: cut after {took:?}");
        }
        for (server, kept) in kept {
            let ((good, _), (none, _)) = kept.join().expect("it asks");
            let (good, none) = (good?, none?);
            ensure!(good.status == 200 && none.status == 200, "{server}: {good:?} {none:?}");
        }
        Ok(())
    })
}
