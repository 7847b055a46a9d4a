//! Timeouts and retries: what is tried again, and what never is.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_tests::origin::pattern_hash;

use crate::client::{Reply, Req, get, grpc, post, request};
use crate::row::{Case, Row, Want, ok, row};

pub(crate) fn rows() -> Vec<Row> {
    [timeouts(), defaults(), conditions(), safety()].into_iter().flatten().collect()
}

fn timeouts() -> Vec<Row> {
    vec![
        row("action/timeout")
            .http("[{timeout: 0.3s, ECHO}]")
            .ask(
                get("/").orders("delay=2000"),
                Want::status(504)
                    .body("upstream request timeout")
                    .flags("UT")
                    .log("response_code_details", "response_timeout"),
            )
            .ask(get("/").orders("delay=50"), ok().seen("h:x-envoy-expected-rq-timeout-ms", "300")),
        row("action/timeout-off")
            .http("[{ECHO}]")
            .ask(get("/").orders("delay=1200"), ok().not_seen("h:x-envoy-expected-rq-timeout-ms").flags("-")),
        row("action/timeout-with-retries")
            .http("[{timeout: 0.5s, retries: {attempts: 5, retryOn: 5xx, backoff: 1ms}, ECHO}]")
            .act(async |case| {
                let begun = Instant::now();
                let (reply, seen) = case.tried(get("/").orders("delay=2000")).await?;
                let took = begun.elapsed();
                ensure!(reply.status == 504 && seen == 1, "{seen} tries: {reply}");
                ensure!((450..1_500).contains(&took.as_millis()), "after {took:?}");
                Ok(())
            }),
        row("action/timeout-per-try")
            .http("[{retries: {attempts: 2, perTryTimeout: 0.2s, retryOn: 'gateway-error'}, ECHO}]")
            .act(async |case| {
                let (reply, seen) = case.tried(get("/").orders("delay=1500; fail=1")).await?;
                ensure!(reply.status == 200 && seen == 2, "{seen} tries: {reply}");
                Ok(())
            }),
        row("action/timeout-per-try-always")
            .http("[{retries: {attempts: 1, perTryTimeout: 0.2s, retryOn: '5xx'}, ECHO}]")
            .act(async |case| {
                let (reply, seen) = case.tried(get("/").orders("delay=1500")).await?;
                ensure!(reply.status == 504 && seen == 2, "{seen} tries: {reply}");
                case.flags("UT,URX").await
            }),
    ]
}

fn defaults() -> Vec<Row> {
    vec![
        row("action/retry-default-connect-failure")
            .service("half", "trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}")
            .http("[{route: [{destination: {host: action-retry-default-connect-failure}}]}]")
            .act(async |case| {
                for reply in case.many(10, &get("/")).await? {
                    ensure!(reply.status == 200, "{reply}");
                }
                for reply in case.many(4, &post("/", "body")).await? {
                    ensure!(reply.status == 200 && reply.seen()?.length == 4, "{reply}");
                }
                Ok(())
            }),
        tries("action/retry-default-not-503", "[{ECHO}]", get("/").orders("status=503"), (503, 1)),
        tries("action/retry-default-not-reset", "[{ECHO}]", post("/", "x").orders("reset"), (503, 1)),
        tries("action/retry-default-unavailable", GRPC, grpc("/s/m").orders("grpc=14; fail=2"), (200, 3)),
        tries("action/retry-default-cancelled", GRPC, grpc("/s/m").orders("grpc=1; fail=1"), (200, 2)),
        tries("action/retry-default-not-internal", GRPC, grpc("/s/m").orders("grpc=13; fail=1"), (200, 1)),
        tries("action/retry-default-refused-stream", GRPC, grpc("/s/m").orders("reset=refused; fail=2"), (200, 3)),
        tries("action/retry-off", "[{retries: {attempts: 0}, ECHO}]", get("/").orders("status=503"), (503, 1)),
        row("action/retry-attempt-count").http("[{retries: {attempts: 3, retryOn: 5xx, backoff: 1ms}, ECHO}]").act(async |case| {
            case.tried(get("/").orders("status=503; fail=2")).await?;
            let counts: Vec<_> = case.seen(&case.id).iter().filter_map(|it| it.header("x-envoy-attempt-count")).collect();
            ensure!(counts == ["1", "2", "3"], "{counts:?}");
            Ok(())
        }),
        row("action/retry-elsewhere")
            .service("many", "trafficPolicy: {loadBalancer: {simple: RANDOM}}")
            .http("[{retries: {attempts: 3, retryOn: 5xx, backoff: 1ms}, route: [{destination: {host: action-retry-elsewhere}}]}]")
            .act(async |case| {
                for number in 0..10 {
                    let token = format!("{}-{number}", case.id);
                    case.send(get("/").orders("status=503; fail=3").mark(&token)).await?;
                    let mut pods: Vec<_> = case.seen(&token).into_iter().map(|it| it.pod).collect();
                    pods.sort();
                    ensure!(pods == ["many-1", "many-2", "many-3", "many-4"], "{pods:?}");
                }
                Ok(())
            }),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn conditions() -> Vec<Row> {
    let rule = |on: &str| format!("[{{retries: {{attempts: 3, retryOn: '{on}', backoff: 1ms}}, ECHO}}]");
    let grpc_rule = |on: &str| {
        format!(
            "[{{retries: {{attempts: 3, retryOn: '{on}', backoff: 1ms}}, route: [{{destination: {{host: grpc}}}}]}}]"
        )
    };
    vec![
        tries("action/retry-on-5xx", &rule("5xx"), get("/").orders("status=500; fail=2"), (200, 3)),
        tries("action/retry-on-5xx-reset", &rule("5xx"), get("/").orders("reset; fail=2"), (200, 3)),
        tries("action/retry-on-5xx-not-4xx", &rule("5xx"), get("/").orders("status=404"), (404, 1)),
        tries(
            "action/retry-on-gateway-error",
            &rule("gateway-error"),
            get("/").orders("status=502; fail=1"),
            (200, 2),
        ),
        tries(
            "action/retry-on-gateway-error-not-500",
            &rule("gateway-error"),
            get("/").orders("status=500"),
            (500, 1),
        ),
        tries("action/retry-on-reset", &rule("reset"), get("/").orders("reset; fail=2"), (200, 3)),
        tries("action/retry-on-code", &rule("503"), get("/").orders("status=503; fail=1"), (200, 2)),
        tries("action/retry-on-code-not-another", &rule("503"), get("/").orders("status=502"), (502, 1)),
        tries("action/retry-on-code-not-reset", &rule("503"), post("/", "x").orders("reset"), (503, 1)),
        tries(
            "action/retry-on-several",
            &rule("connect-failure,429,503"),
            get("/").orders("status=429; fail=1"),
            (200, 2),
        ),
        tries(
            "action/retry-on-retriable-4xx",
            &rule("retriable-4xx"),
            get("/").orders("status=409; fail=1"),
            (200, 2),
        ),
        tries(
            "action/retry-on-retriable-headers",
            &format!(
                "[{{{NAMED}, retries: {{attempts: 3, retryOn: retriable-headers, backoff: 1ms}}, ECHO}}]"
            ),
            get("/").orders("header=x-again:1; fail=1"),
            (200, 2),
        ),
        tries(
            "action/retry-on-retriable-headers-not-asked",
            &format!("[{{{NAMED}, retries: {{attempts: 3, retryOn: 5xx, backoff: 1ms}}, ECHO}}]"),
            get("/").orders("header=x-again:1; fail=1"),
            (200, 1),
        ),
        tries(
            "action/retry-on-deadline-exceeded",
            &grpc_rule("deadline-exceeded"),
            grpc("/s/m").orders("grpc=4; fail=1"),
            (200, 2),
        ),
        tries(
            "action/retry-on-resource-exhausted",
            &grpc_rule("resource-exhausted"),
            grpc("/s/m").orders("grpc=8; fail=1"),
            (200, 2),
        ),
        tries(
            "action/retry-on-internal",
            &grpc_rule("internal"),
            grpc("/s/m").orders("grpc=13; fail=1"),
            (200, 2),
        ),
        budget("action/retry-budget-of-now", "", |fine| (1..=5).contains(&fine)),
        budget("action/retry-budget-of-an-interval", ", budgetInterval: 30s", |fine| fine == 8),
        row("action/retry-exhausted")
            .http("[{retries: {attempts: 2, retryOn: 5xx, backoff: 1ms}, ECHO}]")
            .act(async |case| {
                let (reply, seen) = case.tried(get("/").orders("status=503; body=broken")).await?;
                ensure!(
                    (reply.status, seen, reply.text().as_str()) == (503, 3, "broken"),
                    "{seen} tries: {reply}"
                );
                case.flags("URX").await
            }),
    ]
}

/// The header of a request that names headers of answers.
const NAMED: &str = "headers: {request: {set: {x-envoy-retriable-header-names: 'x-other, X-Again'}}}";

/// A row in which eight requests want another try at the same time, after fifty that are over. A fifth of what the budget
/// looks at is fine, but one always.
fn budget(id: &str, more: &str, fine: fn(usize) -> bool) -> Row {
    let policy = format!("trafficPolicy: {{retryBudget: {{percent: 20, minRetryConcurrency: 1{more}}}}}");
    let slug = crate::row::slug(id);
    row(id)
        .service("single", &policy)
        .http(&format!(
            "[{{retries: {{attempts: 1, retryOn: 5xx, backoff: 2s}}, route: [{{destination: {{host: {slug}}}}}]}}]"
        ))
        .act(async move |case| {
            for reply in case.many(50, &get("/")).await? {
                ensure!(reply.status == 200, "{reply}");
            }
            let mut all = tokio::task::JoinSet::new();
            for number in 0..8 {
                let (case, token) = (case.clone(), format!("{}-{number}", case.id));
                let request = get("/").orders("status=503; delay=200; fail=1").mark(&token);
                all.spawn_local(async move { case.send(request).await });
            }
            let mut good = 0;
            while let Some(reply) = all.join_next().await {
                good += usize::from(reply??.status == 200);
            }
            ensure!(fine(good), "{good} of 8 were tried again");
            Ok(())
        })
}

fn safety() -> Vec<Row> {
    let rule = "[{retries: {attempts: 3, retryOn: '5xx,reset', backoff: 1ms}, ECHO}]";
    vec![
        row("action/retry-replays-small-bodies").http(rule).act(async |case| {
            let mut request = post("/", "");
            request.body = mesh_tests::origin::pattern(0, 300_000);
            let (reply, seen) = case.tried(request.orders("status=503; fail=2")).await?;
            ensure!(reply.status == 200 && seen == 3, "{seen} tries: {reply}");
            let hash = pattern_hash(300_000);
            ensure!(
                case.seen(&case.id).iter().all(|it| it.hash == hash && it.length == 300_000),
                "another body"
            );
            Ok(())
        }),
        row("action/retry-not-with-a-large-body").http(rule).act(async |case| {
            let mut request = post("/", "");
            request.body = mesh_tests::origin::pattern(0, 3 << 20);
            let (reply, seen) = case.tried(request.orders("status=503; fail=1")).await?;
            ensure!(reply.status == 503 && seen == 1, "{seen} tries: {reply}");
            Ok(())
        }),
        row("action/retry-not-once-answered").http(rule).act(async |case| {
            let sent = case.send(get("/").orders("partial; size=100000; fail=1").mark(&case.id)).await;
            ensure!(sent.is_err(), "half an answer passes for a whole one: {}", sent?);
            ensure!(case.seen(&case.id).len() == 1, "it was tried again");
            Ok(())
        }),
        row("action/retry-stale-connection").http("[{TO(v1)}]").act(async |case| {
            // The origin ends the connection after an answer that does not say so, as servers do that have waited.
            for number in 0..5 {
                case.send(get("/").orders("raw=SFRUUC8xLjEgMjAwIE9LDQpDb250ZW50LUxlbmd0aDogMg0KDQpvaw=="))
                    .await?;
                let reply = case.send(get("/")).await?;
                ensure!(reply.status == 200, "{number}: {reply}");
            }
            Ok(())
        }),
        tries(
            "action/retry-post-that-was-refused",
            GRPC,
            request("POST", "/").h2().orders("reset=refused; fail=1"),
            (200, 2),
        ),
    ]
}

/// A row whose one request is tried so often.
fn tries(id: &str, rules: &str, request: Req, (status, count): (u16, usize)) -> Row {
    row(id).http(rules).act(async move |case| {
        let (reply, seen) = case.tried(request).await?;
        ensure!((reply.status, seen) == (status, count), "{seen} tries instead of {count}: {reply}");
        Ok(())
    })
}

impl Case {
    /// Sends a request, and counts how often it came to an origin.
    async fn tried(&self, request: Req) -> Result<(Reply, usize)> {
        let reply = self.send(request.mark(&self.id)).await?;
        // A try too many would come within this time.
        tokio::time::sleep(Duration::from_millis(120)).await;
        Ok((reply, self.seen(&self.id).len()))
    }

    /// What the access log says of the request.
    pub(crate) async fn flags(&self, flags: &str) -> Result<()> {
        let line = self.stand.log(&self.id).await?;
        ensure!(
            line["response_flags"] == flags,
            "flags {} instead of {flags}: {line}",
            line["response_flags"]
        );
        Ok(())
    }
}

const GRPC: &str = "[{route: [{destination: {host: grpc}}]}]";
