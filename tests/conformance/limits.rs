//! Limits of requests in a time, at a gateway.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use mesh_tests::ratelimit::RateLimiter;

use crate::client::{Reply, Req, Wire, get, grpc, post};
use crate::row::{Case, Row, Want, ok, row};

pub(crate) fn rows() -> Vec<Row> {
    [answers(), keys(), whose(), changes(), global(), bodies()].into_iter().flatten().collect()
}

/// A RateLimit of the row, for the Service of the row.
fn limit(rules: &str) -> String {
    format!(
        "{{apiVersion: policy.mesh.internal/v1alpha1, kind: RateLimit, metadata: {{name: NAME, namespace: conf}}, \
         spec: {{targetRefs: [{{kind: Service, name: NAME}}], rules: [{rules}]}}}}"
    )
}

/// A row with a service of its own, to which all its requests go, and a limit of it.
fn limited(id: &str, rules: &str) -> Row {
    row(id)
        .service("echo", "subsets: [{name: v1, labels: {version: v1}}]")
        .http("[{match: [{uri: {prefix: /named}}], name: named, route: [{destination: {host: NAME.conf.svc.cluster.local}}]}, \
               {route: [{destination: {host: NAME.conf.svc.cluster.local}}]}]")
        .config(&limit(rules))
}

/// How many of so many requests, one right after the other, were let through; none may be anything but that or 429.
async fn passing(case: &Case, count: usize, request: impl Fn() -> Req) -> Result<usize> {
    let mut passed = 0;
    for _ in 0..count {
        let reply = case.send(request()).await?;
        ensure!([200, 429].contains(&reply.status), "{reply}");
        passed += usize::from(reply.status == 200);
    }
    Ok(passed)
}

fn answers() -> Vec<Row> {
    vec![
        limited("limits/answer", "{name: all, requests: 2, per: 1h}").act(async |case| {
            let reply = case.send(get("/")).await?;
            ensure!(reply.status == 200 && reply.header("retry-after").is_none(), "{reply}");
            let said = |name: &str| reply.header(name).unwrap_or_default();
            ensure!(said("x-ratelimit-limit") == "2" && said("x-ratelimit-remaining") == "1", "{reply}");
            ensure!(case.send(get("/")).await?.header("x-ratelimit-remaining").as_deref() == Some("0"));
            let reply = case.send(get("/").mark(&case.id)).await?;
            ensure!(reply.status == 429 && reply.text() == "local_rate_limited", "{reply}");
            let said = |name: &str| reply.header(name).unwrap_or_default();
            ensure!(said("x-ratelimit-limit") == "2" && said("x-ratelimit-remaining") == "0", "{reply}");
            // One of two an hour comes back in half an hour.
            for name in ["retry-after", "x-ratelimit-reset"] {
                let seconds: u64 = said(name).parse()?;
                ensure!((1_780..=1_800).contains(&seconds), "{name}: {seconds}");
            }
            ensure!(case.seen(&case.id).is_empty(), "the origin has seen it");
            let line = case.stand.log(&case.id).await?;
            ensure!(line["response_flags"] == "RL" && line["response_code"] == 429, "{line}");
            ensure!(line["response_code_details"] == "local_rate_limited", "{line}");
            let labels = [("response_flags", "RL"), ("response_code", "429")];
            ensure!(case.stand.gateway.counted("istio_requests_total", &labels, 1.0).await? >= 1.0);
            Ok(())
        }),
        limited("limits/grpc", "{requests: 1, per: 1h}").act(async |case| {
            let call = || grpc("/pkg.Service/Method").orders("grpc=0; body=reply");
            let _ = case.send(call()).await?;
            let reply = case.send(call()).await?;
            ensure!(reply.status == 200, "gRPC has its own way to say it: {reply}");
            let status = reply.header("grpc-status").or(reply.trailer("grpc-status").map(str::to_owned));
            ensure!(status.as_deref() == Some("14"), "{reply}");
            Ok(())
        }),
        limited("limits/time-brings-more", "{requests: 10, per: 1s, burst: 2}").act(async |case| {
            let begun = Instant::now();
            let mut passed = 0;
            while begun.elapsed() < Duration::from_millis(1_500) {
                passed += passing(&case, 1, || get("/")).await?;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // Two at once and ten a second, of the seconds it took: a machine that is busy takes longer, and asks less often.
            let most = 2 + usize::try_from(begun.elapsed().as_millis().div_ceil(100))?;
            ensure!((3..=most).contains(&passed), "{passed} of {most}");
            Ok(())
        }),
        row("limits/without").http("[{ECHO}]").act(async |case| {
            let reply = case.send(get("/")).await?;
            ensure!(reply.header("x-ratelimit-limit").is_none(), "{reply}");
            Ok(())
        }),
    ]
}

fn keys() -> Vec<Row> {
    vec![
        limited("limits/by-header", "{requests: 2, per: 1h, by: ['header:x-user']}").act(async |case| {
            for user in ["ann", "bob"] {
                let passed = passing(&case, 4, || get("/").with("x-user", user)).await?;
                ensure!(passed == 2, "{user}: {passed}");
            }
            // Whoever leaves it away gains nothing by that.
            ensure!(passing(&case, 4, || get("/")).await? == 2);
            Ok(())
        }),
        limited(
            "limits/by-header-with-little-room",
            "{requests: 2, per: 1h, by: ['header:x-user'], maxKeys: 4}",
        )
        .act(async |case| {
            ensure!(passing(&case, 1, || get("/").with("x-user", "hot")).await? == 1);
            let mut strangers = 0;
            for number in 0..60 {
                strangers += passing(&case, 1, || get("/").with("x-user", &format!("u{number}"))).await?;
            }
            // Those who found no room have had what one has, and nobody was forgotten for them.
            ensure!(strangers <= 3 + 2, "{strangers}");
            ensure!(passing(&case, 5, || get("/").with("x-user", "hot")).await? == 1);
            Ok(())
        }),
        limited("limits/by-address", "{requests: 2, per: 1h, by: [address]}").act(async |case| {
            // What a stranger says of its address is not believed.
            let forged = |number: usize| get("/").with("x-forwarded-for", &format!("9.9.9.{number}"));
            let mut passed = 0;
            for number in 0..6 {
                passed += passing(&case, 1, || forged(number)).await?;
            }
            ensure!(passed == 2, "{passed}");
            Ok(())
        }),
        limited("limits/by-path-and-method", "{requests: 1, per: 1h, by: [path, method]}").act(
            async |case| {
                ensure!(passing(&case, 3, || get("/a")).await? == 1);
                ensure!(passing(&case, 3, || get("/a?b")).await? == 0);
                ensure!(passing(&case, 3, || get("/b")).await? == 1);
                ensure!(passing(&case, 3, || Req { method: "POST".into(), ..get("/a") }).await? == 1);
                Ok(())
            },
        ),
        limited(
            "limits/of-what-matches",
            "{name: api, requests: 1, per: 1h, match: [{uri: {prefix: /api}}]}, \
             {name: named, requests: 2, per: 1h, match: [{route: named}]}",
        )
        .act(async |case| {
            ensure!(passing(&case, 3, || get("/other")).await? == 3);
            ensure!(passing(&case, 3, || get("/api/x")).await? == 1);
            ensure!(passing(&case, 4, || get("/named")).await? == 2);
            Ok(())
        }),
    ]
}

fn whose() -> Vec<Row> {
    vec![
        // Of the gateway, for one host of all.
        row("limits/of-the-gateway")
            .http("[{SAY(here)}]")
            .config(
                "{apiVersion: policy.mesh.internal/v1alpha1, kind: RateLimit, metadata: {name: NAME, namespace: istio-system}, \
                 spec: {selector: {matchLabels: {istio: ingressgateway}}, \
                 rules: [{requests: 3, per: 1h, match: [{authority: {exact: HOST}}]}]}}",
            )
            .act(async |case| {
                ensure!(passing(&case, 6, || get("/")).await? == 3, "answers of the gateway's own count, too");
                ensure!(case.send(get("/").to("any.row.test")).await?.status != 429);
                Ok(())
            }),
        row("limits/of-another-gateway")
            .http("[{SAY(here)}]")
            .config(
                "{apiVersion: policy.mesh.internal/v1alpha1, kind: RateLimit, metadata: {name: NAME, namespace: istio-system}, \
                 spec: {selector: {matchLabels: {istio: another}}, rules: [{requests: 1, per: 1h}]}}",
            )
            .config(
                "{apiVersion: policy.mesh.internal/v1alpha1, kind: RateLimit, metadata: {name: NAME-b, namespace: conf}, \
                 spec: {selector: {matchLabels: {istio: ingressgateway}}, rules: [{requests: 1, per: 1h}]}}",
            )
            .ask(get("/"), ok())
            .ask(get("/"), ok())
            .ask(get("/"), ok()),
    ]
}

fn changes() -> Vec<Row> {
    vec![
        row("limits/changes")
            .service("echo", "subsets: [{name: v1, labels: {version: v1}}]")
            .http("[{route: [{destination: {host: NAME.conf.svc.cluster.local}}]}]")
            .act(async |case| {
                let write = |rules: &str| {
                    let text = limit(rules).replace("NAME", "limits-changes");
                    case.stand.gateway.write("limits-changes-limit.yaml", &text)
                };
                write("{name: all, requests: 1, per: 1h}")?;
                soon(&case, || get("/"), 429).await?;
                // What has been counted stays counted when something else changes; a new limit begins anew.
                let other = "[{directResponse: {status: 201}}]";
                let other = crate::row::virtual_service("limits-new", "limits-new.test", other);
                case.stand.gateway.write("limits-changes-other.yaml", &other)?;
                soon(&case, || get("/").to("limits-new.test"), 201).await?;
                ensure!(passing(&case, 3, || get("/")).await? == 0);
                write("{name: all, requests: 4, per: 1h}")?;
                soon(&case, || get("/"), 200).await?;
                ensure!(passing(&case, 6, || get("/")).await? == 3);
                std::fs::remove_file(case.stand.gateway.config.join("limits-changes-limit.yaml"))?;
                soon(&case, || get("/"), 200).await?;
                let reply = case.send(get("/")).await?;
                ensure!(reply.status == 200 && reply.header("x-ratelimit-limit").is_none(), "{reply}");
                Ok(())
            }),
    ]
}

fn global() -> Vec<Row> {
    [asked(), failures()].into_iter().flatten().collect()
}

/// A row whose requests a rate limit service is asked about, with a limit of the gateway's own as well.
fn asking(id: &str) -> Row {
    limited(id, "{name: own, requests: 6, per: 1h, match: [{uri: {prefix: /few}}]}")
}

fn asked() -> Vec<Row> {
    vec![
        asking("limits/global").act(async |case| {
            let rls = RateLimiter::start(2)?;
            let descriptors = "{entries: [{key: plan, value: gold}, {key: user, from: 'header:x-user'}]}, \
                 {match: [{uri: {prefix: /p}}], entries: [{key: path, from: path}, {key: address, from: address}]}";
            let first = asks(&case, &rls, &format!("onFailure: DENY, timeout: 5s, descriptors: [{descriptors}]")).await?;
            ensure!(first.header("x-limit-domain").as_deref() == Some("conf"), "{first}");
            ensure!(first.header("x-ratelimit-limit").as_deref() == Some("2"), "{first}");
            ensure!(first.header("content-length").as_deref() != Some("1"), "{first}");
            let asked = rls.asked();
            ensure!(asked.last().map(String::as_str) == Some("conf plan=gold,user=first"), "{asked:?}");
            let request = || get("/p").with("x-user", "ann");
            let reply = case.send(request().mark("limits/global#seen")).await?;
            ensure!(reply.status == 200 && reply.seen()?.header("x-asked").as_deref() == Some("yes"), "{reply}");
            ensure!(rls.asked().last().map(String::as_str) == Some("conf plan=gold,user=ann path=/p,address=127.0.0.1"), "{:?}", rls.asked());
            ensure!(case.send(request()).await?.status == 200);
            let reply = case.send(request().mark(&case.id)).await?;
            ensure!(reply.status == 429 && reply.body.is_empty(), "{reply}");
            let said = |name: &str| reply.header(name).unwrap_or_default();
            ensure!(said("x-envoy-ratelimited") == "true" && said("retry-after") == "1234", "{reply}");
            ensure!(said("x-ratelimit-remaining") == "0" && said("x-limit-domain") == "conf", "{reply}");
            ensure!(case.seen(&case.id).is_empty(), "the origin has seen it");
            let line = case.stand.log(&case.id).await?;
            ensure!(line["response_flags"] == "RL" && line["response_code_details"] == "request_rate_limited", "{line}");
            // Of a request without what a descriptor is made of nothing is asked.
            let before = rls.asked().len();
            ensure!(passing(&case, 3, || get("/")).await? == 3 && rls.asked().len() == before);
            // Nor of one that a limit of the gateway's own refuses.
            let few = || get("/few").with("x-user", "few");
            ensure!(passing(&case, 9, few).await? == 2, "two, then the service, then the gateway itself");
            ensure!(rls.asked().len() == before + 6, "{:?}", rls.asked());
            Ok(())
        })
    ]
}

fn failures() -> Vec<Row> {
    vec![
        asking("limits/global-failure-passes").act(async |case| {
            let rls = RateLimiter::start(0)?;
            let descriptors = "{match: [{uri: {prefix: /slow}}], entries: [{key: slow, value: x}]}, \
                 {match: [{uri: {prefix: /broken}}], entries: [{key: broken, value: x}]}, \
                 {match: [{uri: {prefix: /fine}}], entries: [{key: fine, value: x}]}";
            apply(&case, &rls, &format!("timeout: 300ms, descriptors: [{descriptors}]"))?;
            soon(&case, || get("/fine"), 429).await?;
            let passed = async |least: f64| {
                let labels = [("reason", "passed")];
                case.stand.gateway.counted("mesh_rate_limit_service_failures_total", &labels, least).await
            };
            let before = passed(0.0).await?;
            let begun = Instant::now();
            ensure!(case.send(get("/slow")).await?.status == 200);
            ensure!(begun.elapsed() < Duration::from_secs(2), "it has waited for the answer");
            ensure!(case.send(get("/broken")).await?.status == 200);
            ensure!(passed(before + 2.0).await? >= before + 2.0);
            Ok(())
        }),
        asking("limits/global-failure-denies").act(async |case| {
            let rls = RateLimiter::start(0)?;
            let descriptors = "{match: [{uri: {prefix: /slow}}], entries: [{key: slow, value: x}]}, \
                 {match: [{uri: {prefix: /broken}}], entries: [{key: broken, value: x}]}, \
                 {match: [{uri: {prefix: /fine}}], entries: [{key: fine, value: x}]}";
            apply(&case, &rls, &format!("onFailure: DENY, timeout: 300ms, descriptors: [{descriptors}]"))?;
            soon(&case, || get("/fine"), 429).await?;
            for path in ["/slow", "/broken"] {
                let mark = format!("limits/denies{path}");
                ensure!(case.send(get(path).mark(&mark)).await?.status == 500, "{path}");
                let line = case.stand.log(&mark).await?;
                ensure!(line["response_flags"] == "RLSE", "{line}");
                ensure!(line["response_code_details"] == "rate_limiter_error", "{line}");
            }
            ensure!(case.send(get("/")).await?.status == 200, "what is not asked about");
            Ok(())
        }),
        asking("limits/global-nobody")
            .config(
                "{apiVersion: policy.mesh.internal/v1alpha1, kind: RateLimit, metadata: {name: NAME-nobody, namespace: conf}, \
                 spec: {targetRefs: [{kind: Service, name: NAME}], global: {service: nobody, port: 80, domain: d, onFailure: DENY, \
                 descriptors: [{entries: [{key: a, value: b}]}]}}}",
            )
            .ask(get("/"), Want::status(500).flags("RLSE").unseen()),
    ]
}

fn bodies() -> Vec<Row> {
    let row = |id: &str, limit: &str| {
        row(id)
            .service("echo", "subsets: [{name: v1, labels: {version: v1}}]")
            .http("[{route: [{destination: {host: NAME.conf.svc.cluster.local}}]}]")
            .config(&format!(
                "{{apiVersion: policy.mesh.internal/v1alpha1, kind: RateLimit, metadata: {{name: NAME, namespace: conf}}, \
                 spec: {{targetRefs: [{{kind: Service, name: NAME}}], requestBody: {{{limit}}}}}}}"
            ))
    };
    let long = "x".repeat(1_001);
    let too_long = || Want::status(413).log("response_code_details", "request_payload_too_large");
    vec![
        row("limits/body", "maxBytes: 1000")
            .ask(post("/", &long[1..]), ok())
            .ask(post("/", &long), too_long().unseen())
            .ask(post("/", &long).h2(), too_long()),
        // What says nothing of its length is counted as it comes.
        row("limits/body-in-chunks", "maxBytes: 1000").act(async |case| {
            for (count, status) in [(3, 200), (5, 413)] {
                let mut wire = Wire::new(case.stand.connect(case.stand.http, None, false).await?);
                wire.send(format!(
                    "POST / HTTP/1.1\r\nhost: {}\r\ntransfer-encoding: chunked\r\n\r\n",
                    case.host
                ))
                .await?;
                for _ in 0..count {
                    wire.send(format!("fa\r\n{}\r\n", "x".repeat(250))).await?;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                wire.send("0\r\n\r\n".to_owned()).await?;
                let reply = wire.reply("POST").await?;
                ensure!(reply.status == status, "{count}: {reply}");
            }
            Ok(())
        }),
        row("limits/body-buffered", "maxBytes: 2000000, buffer: true").act(async |case| {
            // Longer than what is kept for a retry.
            let body = "y".repeat(1_500_000);
            let mut wire = Wire::new(case.stand.connect(case.stand.http, None, false).await?);
            let head = format!(
                "POST / HTTP/1.1\r\nhost: {}\r\nuser-agent: {}\r\ncontent-length: {}\r\n\r\n",
                case.host,
                case.id,
                body.len()
            );
            wire.send(head + &body[..body.len() - 1]).await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
            ensure!(case.seen(&case.id).is_empty(), "sent on before all of it was there");
            wire.send("y".to_owned()).await?;
            let reply = wire.reply("POST").await?;
            ensure!(reply.status == 200, "{reply}");
            let seen = case.seen(&case.id);
            ensure!(
                seen.first().is_some_and(|seen| usize::try_from(seen.length) == Ok(body.len())),
                "{seen:?}"
            );
            Ok(())
        }),
    ]
}

/// Has the Service of the row asked about at `rls`.
fn apply(case: &Case, rls: &RateLimiter, rest: &str) -> Result<()> {
    let (name, port) = (crate::row::slug(&case.id), rls.address().port());
    case.stand.gateway.write(
        &format!("{name}-service.yaml"),
        &format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}-rls, namespace: conf}}, spec: {{ports: [{{name: grpc, port: 8081}}]}}}}\n---\n\
             {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}-rls, namespace: conf, labels: {{kubernetes.io/service-name: {name}-rls}}}}, \
             addressType: IPv4, endpoints: [{{addresses: [127.0.0.1]}}], ports: [{{name: grpc, port: {port}}}]}}\n---\n\
             {{apiVersion: policy.mesh.internal/v1alpha1, kind: RateLimit, metadata: {{name: {name}-rls, namespace: conf}}, \
             spec: {{targetRefs: [{{kind: Service, name: {name}}}], global: {{service: {name}-rls, port: 8081, domain: conf, {rest}}}}}}}"
        ),
    )
}

/// As [`apply`]; the first answer of which the service has said something.
async fn asks(case: &Case, rls: &RateLimiter, rest: &str) -> Result<Reply> {
    apply(case, rls, rest)?;
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let reply = case.send(get("/").with("x-user", "first")).await?;
        if reply.status == 200 && reply.header("x-limit-domain").is_some() {
            return Ok(reply);
        }
        ensure!(Instant::now() < until, "never asked: {reply}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn soon(case: &Case, request: impl Fn() -> Req, status: u16) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(5);
    while case.send(request()).await?.status != status {
        ensure!(Instant::now() < until, "never {status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
