//! What is done with a request, apart from faults and balancing.

use anyhow::{Result, ensure};

use crate::client::{Reply, Req, get, post, request};
use crate::row::{Case, Row, Want, ok, row, says};

pub(crate) fn rows() -> Vec<Row> {
    [weights(), rewrites(), redirects(), responses(), headers(), cors(), mirrors(), crate::retries::rows()]
        .into_iter()
        .flatten()
        .collect()
}

fn weights() -> Vec<Row> {
    let two = |a: u32, b: u32| {
        format!(
            "[{{route: [{{destination: {{host: echo, subset: v1}}, weight: {a}}}, {{destination: {{host: echo, subset: v2}}, weight: {b}}}]}}]"
        )
    };
    vec![
        row("action/weights").http(&two(80, 20)).act(async |case| {
            let first = case.share(300, "echo-1").await?;
            ensure!((0.70..0.90).contains(&first), "{first} instead of 0.8");
            Ok(())
        }),
        row("action/weights-of-any-sum").http(&two(1, 3)).act(async |case| {
            let first = case.share(300, "echo-1").await?;
            ensure!((0.15..0.35).contains(&first), "{first} instead of 0.25");
            Ok(())
        }),
        row("action/weight-zero").http(&two(0, 5)).act(async |case| {
            ensure!(case.share(50, "echo-1").await? == 0.0, "somebody got there");
            Ok(())
        }),
        row("action/weight-of-only-one")
            .http("[{route: [{destination: {host: echo, subset: v2}, weight: 0}]}]")
            .ask(get("/"), ok().header("x-pod", "echo-2")),
        row("action/subset")
            .http("[{match: [{uri: {prefix: /1}}], TO(v1)}, {TO(v2)}]")
            .ask(
                get("/1"),
                ok().header("x-pod", "echo-1")
                    .log("upstream_cluster", "outbound|80|v1|echo.conf.svc.cluster.local"),
            )
            .ask(get("/2"), ok().header("x-pod", "echo-2")),
    ]
}

fn rewrites() -> Vec<Row> {
    vec![
        row("action/rewrite-prefix")
            .http("[{match: [{uri: {prefix: /wpcatalog}}], rewrite: {uri: /newcatalog}, ECHO}]")
            .ask(
                get("/wpcatalog/x?q=1"),
                ok().seen("target", "/newcatalog/x?q=1")
                    .seen("h:x-envoy-original-path", "/wpcatalog/x?q=1")
                    .log("path", "/wpcatalog/x?q=1"),
            )
            .ask(get("/wpcatalog"), ok().seen("target", "/newcatalog")),
        row("action/rewrite-prefix-to-root")
            .http("[{match: [{uri: {prefix: /a/}}], rewrite: {uri: /}, ECHO}]")
            .ask(get("/a/b"), ok().seen("target", "/b"))
            .ask(get("/a/"), ok().seen("target", "/")),
        row("action/rewrite-exact")
            .http("[{match: [{uri: {exact: /old}}], rewrite: {uri: /new/place}, ECHO}]")
            .ask(get("/old?x"), ok().seen("target", "/new/place?x")),
        row("action/rewrite-regex")
            .http(r"[{rewrite: {uriRegexRewrite: {match: '/service/([^/]+)(/.*)', rewrite: '\2/instance/\1'}}, ECHO}]")
            .ask(get("/service/foo/v1/api?a=b"), ok().seen("target", "/v1/api/instance/foo?a=b")),
        row("action/rewrite-authority")
            .http("[{rewrite: {authority: inner.example}, ECHO}]")
            // As Envoy's, the log has what was sent on.
            .ask(get("/x"), ok().seen("authority", "inner.example").seen("target", "/x").log("authority", "inner.example"))
            .ask(get("/x").h2(), ok().seen("authority", "inner.example")),
        row("action/no-rewrite")
            .http("[{ECHO}]")
            .ask(get("/a//b?x=%20&y=/../"), ok().seen("target", "/a//b?x=%20&y=/../").seen("authority", "action-no-rewrite.test").not_seen("h:x-envoy-original-path")),
    ]
}

fn redirects() -> Vec<Row> {
    let to = |status: u16, location: &str| {
        Want::status(status)
            .header("location", location)
            .body("")
            .unseen()
            .log("response_code_details", "direct_response")
    };
    let rule = |redirect: &str| format!("[{{match: [{{uri: {{prefix: /a}}}}], redirect: {{{redirect}}}}}]");
    vec![
        row("action/redirect-uri").http(&rule("uri: /b")).ask(get("/a/x?q=1"), to(301, "http://action-redirect-uri.test/b?q=1")),
        row("action/redirect-uri-with-query").http(&rule("uri: '/b?z=2'")).ask(get("/a?q=1"), to(301, "http://action-redirect-uri-with-query.test/b?z=2")),
        row("action/redirect-prefix").http(&rule("prefixRewrite: /b")).ask(get("/a/x?q=1"), to(301, "http://action-redirect-prefix.test/b/x?q=1")),
        row("action/redirect-authority").http(&rule("authority: other.example")).ask(get("/a?q"), to(301, "http://other.example/a?q")),
        row("action/redirect-scheme").http(&rule("scheme: https")).ask(get("/a"), to(301, "https://action-redirect-scheme.test/a")),
        row("action/redirect-port")
            .http(&rule("port: 8443, scheme: https"))
            .ask(get("/a"), to(301, "https://action-redirect-port.test:8443/a"))
            .ask(get("/a").to("action-redirect-port.test:81"), to(301, "https://action-redirect-port.test:8443/a")),
        row("action/redirect-port-default")
            .http(&rule("port: 443, scheme: https"))
            .ask(get("/a"), to(301, "https://action-redirect-port-default.test/a")),
        row("action/redirect-derive-port")
            .http(&rule("authority: other.example, derivePort: FROM_REQUEST_PORT"))
            .ask(get("/a"), to(301, "http://other.example/a")),
        row("action/redirect-codes")
            .http("[{match: [{uri: {exact: /302}}], redirect: {uri: /x, redirectCode: 302}}, {match: [{uri: {exact: /303}}], redirect: {uri: /x, redirectCode: 303}}, \
                   {match: [{uri: {exact: /307}}], redirect: {uri: /x, redirectCode: 307}}, {match: [{uri: {exact: /308}}], redirect: {uri: /x, redirectCode: 308}}]")
            .ask(get("/302"), to(302, "http://action-redirect-codes.test/x"))
            .ask(get("/303"), to(303, "http://action-redirect-codes.test/x"))
            .ask(post("/307", "body"), to(307, "http://action-redirect-codes.test/x"))
            .ask(get("/308").h2(), to(308, "http://action-redirect-codes.test/x")),
    ]
}

fn responses() -> Vec<Row> {
    vec![
        row("action/direct-response")
            .http("[{directResponse: {status: 503, body: {string: 'under repair'}}}]")
            .ask(get("/"), Want::status(503).body("under repair").header("content-type", "text/plain").header("server", "istio-envoy").log("response_code_details", "direct_response").flags("-"))
            .ask(request("HEAD", "/"), Want::status(503).body("").header("content-length", "12"))
            .ask(get("/").h2(), Want::status(503).body("under repair")),
        row("action/direct-response-empty")
            .http("[{directResponse: {status: 204}}]")
            .ask(get("/"), Want::status(204).body("").no_header("content-length")),
        row("action/direct-response-headers")
            .http("[{headers: {response: {set: {content-type: application/json, x-a: b}}}, directResponse: {status: 200, body: {string: '{}'}}}]")
            .ask(get("/"), Want::status(200).body("{}").header("content-type", "application/json").header("x-a", "b")),
        row("action/direct-response-takes-the-body")
            .http("[{directResponse: {status: 200, body: {string: done}}}]")
            .ask(post("/", &"x".repeat(10_000)), says("done")),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn headers() -> Vec<Row> {
    let destination = |headers: &str| format!("route: [{{destination: {{host: echo}}, headers: {headers}}}]");
    vec![
        row("action/headers-request")
            .http("[{headers: {request: {set: {x-set: new}, add: {x-add: more}, remove: [x-gone]}}, ECHO}]")
            .ask(
                get("/").with("x-set", "old").with("x-add", "some").with("x-gone", "1"),
                ok().seen("h:x-set", "new").seen("h:x-add", "some,more").not_seen("h:x-gone"),
            )
            .ask(get("/").h2(), ok().seen("h:x-set", "new").seen("h:x-add", "more")),
        row("action/headers-response")
            .http("[{headers: {response: {set: {x-set: new}, add: {x-add: more}, remove: [x-gone]}}, ECHO}]")
            .ask(
                get("/").orders("header=x-set:old; header=x-add:some; header=x-gone:1"),
                ok().header("x-set", "new").header("x-add", "some,more").no_header("x-gone"),
            ),
        row("action/headers-of-destination")
            .http(&format!("[{{{}}}]", destination("{request: {set: {x-a: d}, add: {x-b: d}, remove: [x-c]}, response: {set: {x-r: d}}}")))
            .ask(get("/").with("x-c", "1"), ok().seen("h:x-a", "d").seen("h:x-b", "d").not_seen("h:x-c").header("x-r", "d")),
        row("action/headers-at-both-levels")
            .http(&format!("[{{headers: {{request: {{set: {{x-a: rule}}, add: {{x-b: rule}}}}, response: {{add: {{x-r: rule}}}}}}, {}}}]", destination("{request: {set: {x-a: destination}, add: {x-b: destination}}, response: {add: {x-r: destination}}}")))
            .ask(get("/"), ok().seen("h:x-a", "destination").seen("h:x-b", "rule,destination").header("x-r", "rule,destination")),
        row("action/headers-removed-before-set")
            .http("[{headers: {request: {set: {x-a: new}, remove: [x-a]}}, ECHO}]")
            .ask(get("/").with("x-a", "old"), ok().seen("h:x-a", "new")),
        row("action/headers-host")
            .http("[{headers: {request: {set: {Host: inner.example}}}, ECHO}]")
            .ask(get("/"), ok().seen("authority", "inner.example").not_seen("h:host")),
        row("action/headers-variables")
            .http("[{headers: {request: {set: {x-proto: '%PROTOCOL%', x-peer: '%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%', x-percent: '100%%', x-agent: '%REQ(x-none?x-own)% at %REQ(:authority)%'}}, response: {set: {x-code: '%RESPONSE_CODE%', x-back: '%RESP(x-seen)%'}}}, ECHO}]")
            .ask(get("/").with("x-own", "me"), ok().seen("h:x-agent", "me at action-headers-variables.test").seen("h:x-proto", "HTTP/1.1").seen("h:x-peer", "127.0.0.1").seen("h:x-percent", "100%")),
        row("action/headers-of-the-proxy")
            .http("[{ECHO}]")
            .ask(
                get("/").with("x-envoy-decorator-operation", "spoofed").with("x-envoy-attempt-count", "9").with("x-envoy-upstream-rq-timeout-ms", "1"),
                ok().seen("h:x-forwarded-proto", "http")
                    .seen("h:x-forwarded-for", "127.0.0.1")
                    .seen("h:x-envoy-attempt-count", "1")
                    .not_seen("h:x-envoy-decorator-operation")
                    .not_seen("h:x-envoy-upstream-rq-timeout-ms")
                    .header("server", "istio-envoy"),
            )
            .ask(get("/").with("x-forwarded-proto", "https").with("x-forwarded-client-cert", "By=spiffe://a"), ok().seen("h:x-forwarded-proto", "http").not_seen("h:x-forwarded-client-cert")),
        row("action/headers-request-id").http("[{ECHO}]").act(async |case| {
            let given = case.send(get("/").with("x-request-id", "mine")).await?.seen()?;
            ensure!(given.header("x-request-id").as_deref() == Some("mine"), "{given:?}");
            let made = case.send(get("/")).await?.seen()?.header("x-request-id").unwrap_or_default();
            let other = case.send(get("/")).await?.seen()?.header("x-request-id").unwrap_or_default();
            ensure!(made.len() == 36 && made != other, "{made} {other}");
            Ok(())
        }),
        row("action/headers-service-time").http("[{ECHO}]").act(async |case| {
            let reply = case.send(get("/").orders("delay=120")).await?;
            let time: u64 = reply.header("x-envoy-upstream-service-time").unwrap_or_default().parse()?;
            ensure!((110..5_000).contains(&time), "{time}");
            Ok(())
        }),
        row("action/headers-of-one-connection")
            .http("[{ECHO}]")
            .ask(
                get("/").with("connection", "x-private, keep-alive").with("x-private", "1").with("keep-alive", "5").with("te", "trailers").with("proxy-connection", "x"),
                ok().not_seen("h:x-private").not_seen("h:keep-alive").not_seen("h:proxy-connection"),
            )
            .ask(get("/").orders("header=Connection:x-own; header=x-own:1; header=Proxy-Authenticate:x"), ok().no_header("x-own")),
    ]
}

fn cors() -> Vec<Row> {
    let policy = "corsPolicy: {allowOrigins: [{exact: 'https://a.example'}, {prefix: 'https://b.'}], allowMethods: [GET, POST], \
                  allowHeaders: [x-one, x-two], exposeHeaders: [x-out], maxAge: 24h, allowCredentials: true}";
    let preflight = |origin: &str| {
        request("OPTIONS", "/").with("origin", origin).with("access-control-request-method", "POST")
    };
    vec![
        row("action/cors-preflight").http(&format!("[{{{policy}, ECHO}}]")).ask(
            preflight("https://a.example"),
            Want::status(200)
                .body("")
                .header("access-control-allow-origin", "https://a.example")
                .header("access-control-allow-methods", "GET,POST")
                .header("access-control-allow-headers", "x-one,x-two")
                .header("access-control-max-age", "86400")
                .header("access-control-allow-credentials", "true")
                .unseen(),
        ),
        row("action/cors-preflight-of-strangers").http(&format!("[{{{policy}, ECHO}}]")).ask(
            preflight("https://evil.example"),
            ok().seen("method", "OPTIONS").no_header("access-control-allow-origin"),
        ),
        row("action/cors-preflight-ignored")
            .http(&format!("[{{{}, ECHO}}]", policy.replace("maxAge", "unmatchedPreflights: IGNORE, maxAge")))
            .ask(
                preflight("https://evil.example"),
                Want::status(200).body("").no_header("access-control-allow-origin").unseen(),
            ),
        row("action/cors-actual")
            .http(&format!("[{{{policy}, ECHO}}]"))
            .ask(
                get("/").with("origin", "https://b.example").orders("header=access-control-allow-origin:*"),
                ok().header("access-control-allow-origin", "https://b.example")
                    .header("access-control-expose-headers", "x-out")
                    .header("access-control-allow-credentials", "true")
                    .no_header("access-control-allow-methods"),
            )
            .ask(
                get("/").with("origin", "https://evil.example"),
                ok().no_header("access-control-allow-origin"),
            )
            .ask(get("/"), ok().no_header("access-control-allow-origin")),
        row("action/cors-of-own-answers").http(&format!("[{{{policy}, SAY(hello)}}]")).ask(
            get("/").with("origin", "https://a.example"),
            says("hello").header("access-control-allow-origin", "https://a.example"),
        ),
    ]
}

fn mirrors() -> Vec<Row> {
    vec![
        row("action/mirror")
            .http("[{TO(v1), mirror: {host: echo, subset: v2}}]")
            .ask(get("/a?b"), ok().header("x-pod", "echo-1"))
            .act(async |case| {
                let copies = case.copies("action/mirror#0", 1).await?;
                let copy = copies.first().expect("there is one");
                ensure!(copy.target == "/a?b" && copy.authority == "action-mirror.test", "{copy:?}");
                Ok(())
            }),
        row("action/mirror-with-body")
            .http("[{TO(v1), mirror: {host: echo, subset: v2}}]")
            .ask(post("/", &"body".repeat(5_000)), ok().seen("length", "20000"))
            .act(async |case| {
                let copies = case.copies("action/mirror-with-body#0", 1).await?;
                ensure!(copies.iter().all(|it| it.method == "POST"), "{copies:?}");
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                let copies = case.copies("action/mirror-with-body#0", 1).await?;
                ensure!(copies.iter().all(|it| it.length == 20_000 && it.complete), "{copies:?}");
                Ok(())
            }),
        row("action/mirrors-several")
            .http("[{TO(v1), mirrors: [{destination: {host: echo, subset: v2}}, {destination: {host: many}}, {destination: {host: many}, percentage: {value: 0}}]}]")
            .ask(get("/"), ok())
            .act(async |case| case.copies("action/mirrors-several#0", 2).await.map(drop)),
        row("action/mirror-percentage")
            .http("[{TO(v1), mirror: {host: echo, subset: v2}, mirrorPercentage: {value: 40}}]")
            .act(async |case| {
                case.many(200, &get("/").mark("action/mirror-percentage")).await?;
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                let copies = case.seen("action/mirror-percentage").iter().filter(|it| it.pod == "echo-2").count();
                ensure!((50..110).contains(&copies), "{copies} of 200 instead of 80");
                Ok(())
            }),
        row("action/mirror-never")
            .http("[{TO(v1), mirror: {host: echo, subset: v2}, mirrorPercentage: {value: 0}}]")
            .act(async |case| {
                case.many(30, &get("/").mark("action/mirror-never")).await?;
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                ensure!(case.seen("action/mirror-never").len() == 30, "there are copies");
                Ok(())
            }),
        row("action/mirror-to-nobody")
            .http("[{TO(v1), mirror: {host: dead}}]")
            .ask(get("/"), ok().flags("-"))
            .ask(post("/", "x"), ok()),
        row("action/mirror-is-slow")
            .http("[{TO(v1), mirror: {host: echo, subset: v2}}]")
            .act(async |case| {
                let begun = std::time::Instant::now();
                let reply = case.send(get("/").orders("only=echo-2; delay=1500")).await?;
                ensure!(reply.status == 200 && begun.elapsed().as_millis() < 1_000, "{reply}");
                Ok(())
            }),
    ]
}

impl Case {
    /// Sends a request so many times, one after the other.
    pub(crate) async fn many(&self, count: usize, request: &Req) -> Result<Vec<Reply>> {
        let mut replies = Vec::new();
        for _ in 0..count {
            replies.push(self.send(request.clone()).await?);
        }
        Ok(replies)
    }

    /// The share of some requests that a pod answers.
    pub(crate) async fn share(&self, count: u32, pod: &str) -> Result<f64> {
        let mut got = 0;
        for _ in 0..count {
            let reply = self.send(get("/")).await?;
            ensure!(reply.status == 200, "{reply}");
            got += u32::from(reply.pod() == pod);
        }
        Ok(f64::from(got) / f64::from(count))
    }

    /// The copies of a request whose original went to `echo-1`, once there are so many.
    async fn copies(&self, token: &str, count: usize) -> Result<Vec<mesh_tests::origin::Seen>> {
        for _ in 0..50 {
            let mut seen = self.seen(token);
            seen.retain(|it| it.pod != "echo-1");
            if seen.len() >= count {
                ensure!(seen.len() == count, "{} copies instead of {count}", seen.len());
                return Ok(seen);
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        anyhow::bail!("not {count} copies; seen: {:?}", self.seen(token))
    }
}
