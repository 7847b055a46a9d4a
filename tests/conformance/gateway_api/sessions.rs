//! Sessions (GEP-1619). The suite has no test of them yet; these are called as its other tests would be.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};

use super::http::{FINE, GATEWAY, route};
use super::{Test, extended};
use crate::client::{Reply, get};

use super::stage::Case;

const TWO: &str = "backendRefs: [{name: v1, port: 8080}, {name: v2, port: 8080}]";

#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn tests() -> Vec<Test> {
    vec![
        extended("HTTPRouteSessionPersistenceCookie")
            .yaml(GATEWAY)
            .yaml(&route(
                "r",
                &format!(
                    "rules: [{{matches: [{{path: {{value: /a}}}}], sessionPersistence: {{cookie: {{name: own, path: /a}}}}, {TWO}}}, {{{TWO}}}]"
                ),
            ))
            .says("HTTPRoute infra/r", FINE)
            .act(async |case| {
                let ask = async |cookie: &str| case.send(("infra/gw", 80), get("/a").with("cookie", cookie)).await;
                let mut sessions = Vec::new();
                let mut pods = BTreeSet::new();
                for _ in 0..40 {
                    let reply = ask("other=1").await?;
                    let cookie = reply.header("set-cookie").context("no cookie")?;
                    let (pair, rest) = cookie.split_once("; ").context("no attributes")?;
                    ensure!(pair.starts_with("own=") && rest == "Path=/a; HttpOnly", "{cookie}");
                    pods.insert(reply.pod());
                    sessions.push((pair.to_owned(), reply.pod()));
                }
                ensure!(pods.len() == 2, "40 sessions at {pods:?}");
                for (pair, pod) in &sessions {
                    let reply = ask(&format!("a=b; {pair}; c=d")).await?;
                    ensure!(reply.pod() == *pod, "{pair} was at {pod}: {reply}");
                    ensure!(reply.header("set-cookie").is_none(), "given again: {reply}");
                }
                // What nobody was given is no session, and does not hurt.
                for odd in ["own=", "own=zzzz", "own=0123456789abcdef", "own=127.0.0.1:80", "own"] {
                    let reply = ask(odd).await?;
                    ensure!(reply.status == 200 && reply.header("set-cookie").is_some(), "{odd}: {reply}");
                }
                let reply = case.send(("infra/gw", 80), get("/b")).await?;
                ensure!(reply.header("set-cookie").is_none(), "another rule's: {reply}");
                Ok(())
            }),
        extended("HTTPRouteSessionPersistenceHeader")
            .yaml(GATEWAY)
            .yaml(&route(
                "r",
                &format!("rules: [{{sessionPersistence: {{type: Header, header: {{name: X-Session}}}}, {TWO}}}]"),
            ))
            .act(async |case| {
                let first = case.send(("infra/gw", 80), get("/")).await?;
                stays(&case, &first).await?;
                // Its pod is gone: the session begins anew at the other, and stays there.
                let only = if first.pod() == "v1" { "v2" } else { "v1" };
                let rest = format!(
                    "rules: [{{sessionPersistence: {{type: Header, header: {{name: X-Session}}}}, backendRefs: [{{name: {only}, port: 8080}}]}}]"
                );
                case.rewrite(&route("r", &rest))?;
                let session = first.header("x-session").context("no session")?;
                case.soon(async || {
                    let reply = case.send(("infra/gw", 80), get("/").with("x-session", &session)).await?;
                    ensure!(reply.pod() == only, "{reply}");
                    stays(&case, &reply).await
                })
                .await
            }),
        extended("HTTPRouteSessionPersistenceAbsoluteTimeout")
            .yaml(GATEWAY)
            .yaml(&route(
                "r",
                &format!(
                    "rules: [{{sessionPersistence: {{absoluteTimeout: 3s, cookie: {{lifetimeType: Permanent}}}}, {TWO}}}]"
                ),
            ))
            .act(async |case| {
                let first = case.send(("infra/gw", 80), get("/")).await?;
                let cookie = first.header("set-cookie").context("no cookie")?;
                ensure!(cookie.starts_with("mesh-session-") && cookie.contains("; Max-Age=3;"), "{cookie}");
                let (pair, _) = cookie.split_once(';').unwrap_or_default();
                let ask = async || case.send(("infra/gw", 80), get("/").with("cookie", pair)).await;
                ensure!(ask().await?.header("set-cookie").is_none(), "over at once");
                tokio::time::sleep(std::time::Duration::from_millis(4_100)).await;
                ensure!(ask().await?.header("set-cookie").is_some(), "it goes on");
                Ok(())
            }),
    ]
}

/// Twenty requests with the session of an answer go where that came from.
async fn stays(case: &Case, first: &Reply) -> Result<()> {
    let session = first.header("x-session").with_context(|| format!("no session: {first}"))?;
    for _ in 0..20 {
        let reply = case.send(("infra/gw", 80), get("/").with("x-session", &session)).await?;
        ensure!(reply.pod() == first.pod(), "{reply}");
        ensure!(reply.header("x-session").is_none(), "given again: {reply}");
    }
    Ok(())
}
