//! Which endpoint a request goes to, how many may, and which are left out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use crate::client::{Reply, Req, get, post};
use crate::row::{Case, Row, ok, row};

pub(crate) fn rows() -> Vec<Row> {
    [simple(), hashes(), pools(), outliers()].into_iter().flatten().collect()
}

fn of(id: &str, app: &str, rule: &str) -> Row {
    let name = crate::row::slug(id);
    row(id).service(app, rule).http(&format!("[{{route: [{{destination: {{host: {name}}}}}]}}]"))
}

fn policy(text: &str) -> String {
    format!("trafficPolicy: {{{text}}}")
}

fn simple() -> Vec<Row> {
    vec![
        of("balance/round-robin", "many", &policy("loadBalancer: {simple: ROUND_ROBIN}")).act(async |case| {
            let pods = case.spread(40, |_| get("/")).await?;
            ensure!(pods.len() == 4 && pods.values().all(|it| *it == 10), "{pods:?}");
            Ok(())
        }),
        of("balance/random", "many", &policy("loadBalancer: {simple: RANDOM}")).act(async |case| {
            let pods = case.spread(200, |_| get("/")).await?;
            ensure!(pods.len() == 4 && pods.values().all(|it| (25..=80).contains(it)), "{pods:?}");
            Ok(())
        }),
        of("balance/least-request", "echo", &policy("loadBalancer: {simple: LEAST_REQUEST}")).act(least_request),
        of("balance/default-is-least-request", "echo", &policy("connectionPool: {tcp: {connectTimeout: 5s}}")).act(least_request),
        row("balance/subset-inherits")
            .service("many", "trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}, subsets: [{name: a, labels: {version: v1}}, {name: b, labels: {version: v2}, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}}]")
            .http("[{match: [{uri: {prefix: /a}}], route: [{destination: {host: balance-subset-inherits, subset: a}}]}, {route: [{destination: {host: balance-subset-inherits, subset: b}}]}]")
            .act(async |case| {
                let pods = case.spread(20, |_| get("/a")).await?;
                ensure!(pods == BTreeMap::from([("many-1".to_owned(), 10), ("many-2".to_owned(), 10)]), "{pods:?}");
                let pods = case.spread(10, |_| get("/b").with("x-user", "one")).await?;
                ensure!(pods.len() == 1, "{pods:?}");
                Ok(())
            }),
    ]
}

async fn least_request(case: Case) -> Result<()> {
    let slow = case.start(get("/").orders("delay=1500").mark(&case.id));
    let busy = loop {
        if let Some(seen) = case.seen(&case.id).pop() {
            break seen.pod;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let pods = case.spread(40, |_| get("/")).await?;
    drop(slow);
    let there = pods.get(&busy).copied().unwrap_or_default();
    ensure!(there <= 16, "{there} of 40 to the busy one: {pods:?}");
    Ok(())
}

fn hashes() -> Vec<Row> {
    let hash = |text: &str| policy(&format!("loadBalancer: {{consistentHash: {{{text}}}}}"));
    vec![
        of("balance/hash-header", "many", &hash("httpHeaderName: x-user"))
            .act(async |case| sticky(&case, |user| get("/").with("x-user", &format!("user-{user}"))).await),
        of("balance/hash-query", "many", &hash("httpQueryParameterName: user"))
            .act(async |case| sticky(&case, |user| get(&format!("/?a=b&user=u{user}"))).await),
        of("balance/hash-maglev", "many", &hash("httpHeaderName: x-user, maglev: {tableSize: 1009}"))
            .act(async |case| sticky(&case, |user| get("/").with("x-user", &format!("user-{user}"))).await),
        of("balance/hash-cookie-given", "many", &hash("httpCookie: {name: who, ttl: 0s}")).act(
            async |case| sticky(&case, |user| get("/").with("cookie", &format!("x=1; who=user{user}"))).await,
        ),
        of("balance/hash-cookie-issued", "many", &hash("httpCookie: {name: who, path: /, ttl: 60s}")).act(
            async |case| {
                let first = case.send(get("/")).await?;
                let issued = first.header("set-cookie").unwrap_or_default();
                ensure!(
                    issued.starts_with("who=\"")
                        && issued.contains("Max-Age=60")
                        && issued.contains("Path=/")
                        && issued.contains("HttpOnly"),
                    "{issued}"
                );
                let cookie = issued.split(';').next().unwrap_or_default().to_owned();
                for _ in 0..10 {
                    let again = case.send(get("/").with("cookie", &cookie)).await?;
                    ensure!(again.pod() == first.pod() && again.header("set-cookie").is_none(), "{again}");
                }
                Ok(())
            },
        ),
        of("balance/hash-source-ip", "many", &hash("useSourceIp: true")).act(async |case| {
            let pods = case.spread(12, |_| get("/")).await?;
            ensure!(pods.len() == 1, "{pods:?}");
            Ok(())
        }),
        row("balance/hash-survives-a-retry")
            .service("many", &hash("httpHeaderName: x-user"))
            .http("[{retries: {attempts: 2, retryOn: 5xx, backoff: 1ms}, route: [{destination: {host: balance-hash-survives-a-retry}}]}]")
            .act(async |case| {
                let request = get("/").with("x-user", "a").orders("status=503; fail=2").mark(&case.id);
                ensure!(case.send(request).await?.status == 200, "it is not tried again");
                let mut pods: Vec<_> = case.seen(&case.id).into_iter().map(|seen| seen.pod).collect();
                ensure!(pods.len() == 3, "{pods:?}");
                pods.dedup();
                ensure!(pods.len() == 1, "a try went where the user does not belong: {pods:?}");
                Ok(())
            }),
    ]
}

/// One user always comes to the same pod, and not all users to one.
async fn sticky(case: &Case, request: impl Fn(usize) -> Req) -> Result<()> {
    let mut all = BTreeMap::new();
    for user in 0..40 {
        let pods = case.spread(3, |_| request(user)).await?;
        ensure!(pods.len() == 1, "user {user} comes to {pods:?}");
        pods.into_keys().for_each(|pod| *all.entry(pod).or_insert(0) += 1);
    }
    ensure!(all.len() == 4, "40 users come to {all:?}");
    Ok(())
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn pools() -> Vec<Row> {
    let pool = |text: &str| policy(&format!("connectionPool: {{{text}}}"));
    vec![
        of(
            "balance/pool-pending-overflow",
            "single",
            &pool("tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}"),
        )
        .act(async |case| {
            let replies = case.at_once(5, "delay=500").await?;
            let good = replies.iter().filter(|it| it.status == 200).count();
            ensure!(good == 2, "{good} instead of 2 of 5");
            overflow(&case, &replies).await
        }),
        of("balance/pool-requests-overflow", "echo", &pool("http: {http2MaxRequests: 2}")).act(
            async |case| {
                let replies = case.at_once(5, "delay=500").await?;
                let good = replies.iter().filter(|it| it.status == 200).count();
                ensure!(good == 2, "{good} instead of 2 of 5");
                overflow(&case, &replies).await?;
                ensure!(case.send(get("/")).await?.status == 200, "the breaker stays open");
                Ok(())
            },
        ),
        of("balance/pool-waits-for-its-turn", "echo", &pool("tcp: {maxConnections: 1}")).act(async |case| {
            let replies = case.at_once(4, "delay=100").await?;
            ensure!(replies.iter().all(|it| it.status == 200), "{replies:?}");
            Ok(())
        }),
        of("balance/pool-reuses-connections", "single", "subsets: []").act(async |case| {
            let replies = case.many(5, &get("/")).await?;
            let mut connections = Vec::new();
            for reply in replies {
                connections.push(reply.seen()?.connection);
            }
            connections.dedup();
            ensure!(connections.len() == 1, "{connections:?}");
            Ok(())
        }),
        of("balance/pool-requests-per-connection", "echo", &pool("http: {maxRequestsPerConnection: 1}")).act(
            async |case| {
                let mut connections = Vec::new();
                for reply in case.many(5, &get("/")).await? {
                    connections.push(reply.seen()?.connection);
                }
                connections.sort_unstable();
                connections.dedup();
                ensure!(connections.len() == 5, "{connections:?}");
                Ok(())
            },
        ),
        of("balance/pool-upgrade-to-h2", "echo", &pool("http: {h2UpgradePolicy: UPGRADE}"))
            .ask(get("/"), ok().seen("version", "HTTP/2"))
            .ask(post("/", "body"), ok().seen("version", "HTTP/2").seen("body", "body")),
        of("balance/pool-client-protocol", "echo", &pool("http: {useClientProtocol: true}"))
            .ask(get("/"), ok().seen("version", "HTTP/1.1"))
            .ask(get("/").h2(), ok().seen("version", "HTTP/2")),
        of("balance/pool-idle-timeout", "echo", &pool("http: {idleTimeout: 0.3s}")).act(async |case| {
            let first = case.send(get("/")).await?.seen()?.connection;
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            for reply in case.many(4, &get("/")).await? {
                ensure!(reply.seen()?.connection != first, "it was kept for too long");
            }
            Ok(())
        }),
    ]
}

async fn overflow(case: &Case, replies: &[Reply]) -> Result<()> {
    for reply in replies.iter().filter(|it| it.status != 200) {
        ensure!(
            reply.status == 503 && reply.header("x-envoy-overloaded").as_deref() == Some("true"),
            "{reply}"
        );
        let text = "upstream connect error or disconnect/reset before headers. reset reason: overflow";
        ensure!(reply.text() == text, "{reply}");
    }
    let lines = case.stand.gateway.all_logs(&case.id);
    let flagged = lines.iter().filter(|line| line["response_flags"] == "UO").count();
    ensure!(flagged == replies.iter().filter(|it| it.status != 200).count(), "{flagged} lines with UO");
    let name = crate::row::slug(&case.id);
    let labels =
        [("destination_service_name", name.as_str()), ("response_flags", "UO"), ("response_code", "503")];
    let counted = case.stand.gateway.counted("istio_requests_total", &labels, 1.0).await?;
    ensure!(counted >= 1.0, "the metric says {counted}");
    Ok(())
}

fn outliers() -> Vec<Row> {
    let outlier = |text: &str| {
        policy(&format!(
            "loadBalancer: {{simple: ROUND_ROBIN}}, outlierDetection: {{{text}, maxEjectionPercent: 100}}"
        ))
    };
    vec![
        of("balance/outlier-5xx", "echo", &outlier("consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 2s")).act(async |case| {
            ejected(&case, "only=echo-1; status=500").await?;
            let begun = Instant::now();
            loop {
                if case.spread(4, |_| get("/")).await?.contains_key("echo-1") {
                    break;
                }
                ensure!(begun.elapsed() < Duration::from_secs(8), "it never comes back");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            ensure!(begun.elapsed() > Duration::from_secs(1), "it came back after {:?}", begun.elapsed());
            Ok(())
        }),
        of("balance/outlier-gateway-errors", "echo", &outlier("consecutiveGatewayErrors: 3, consecutive5xxErrors: 0, interval: 1s, baseEjectionTime: 30s")).act(async |case| {
            for _ in 0..10 {
                case.send(get("/").orders("only=echo-1; status=500")).await?;
            }
            ensure!(case.spread(10, |_| get("/")).await?.len() == 2, "a 500 is no gateway error");
            ejected(&case, "only=echo-1; status=503").await
        }),
        of("balance/outlier-resets-count", "echo", &outlier("consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 30s")).act(async |case| {
            ejected(&case, "only=echo-1; reset").await
        }),
        of("balance/outlier-success-starts-anew", "echo", &outlier("consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 30s")).act(async |case| {
            for _ in 0..6 {
                case.many(4, &get("/").orders("only=echo-1; status=500")).await?;
                case.many(2, &get("/")).await?;
            }
            ensure!(case.spread(10, |_| get("/")).await?.len() == 2, "it was ejected");
            Ok(())
        }),
        of("balance/outlier-all", "echo", &outlier("consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 30s")).act(async |case| {
            case.many(4, &get("/").orders("status=503")).await?;
            let reply = case.send(get("/").mark(&case.id)).await?;
            ensure!(reply.status == 503 && reply.text() == "no healthy upstream", "{reply}");
            case.flags("UH").await
        }),
        of("balance/outlier-share", "many", &policy("loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 30s, maxEjectionPercent: 50}")).act(async |case| {
            case.many(12, &get("/").orders("status=503")).await?;
            let pods = case.spread(20, |_| get("/")).await?;
            ensure!(pods.len() == 2, "{pods:?}");
            Ok(())
        }),
        of("balance/outlier-dead", "half", &outlier("consecutive5xxErrors: 2, interval: 1s, baseEjectionTime: 30s")).ask(get("/"), ok()).act(async |case| {
            case.many(8, &get("/")).await?;
            let lines: Vec<_> = case.spread(10, |_| get("/")).await?.into_keys().collect();
            ensure!(lines == ["half-1"], "{lines:?}");
            Ok(())
        }),
    ]
}

async fn ejected(case: &Case, orders: &str) -> Result<()> {
    case.many(12, &get("/").orders(orders)).await?;
    let pods = case.spread(10, |_| get("/")).await?;
    ensure!(pods.keys().collect::<Vec<_>>() == ["echo-2"], "{pods:?}");
    Ok(())
}

impl Case {
    /// Sends so many requests one after the other, and counts the pods that answer.
    pub(crate) async fn spread(
        &self,
        count: usize,
        request: impl Fn(usize) -> Req,
    ) -> Result<BTreeMap<String, usize>> {
        let mut pods = BTreeMap::new();
        for number in 0..count {
            let reply = self.send(request(number)).await?;
            ensure!(reply.status == 200, "{reply}");
            *pods.entry(reply.pod()).or_insert(0) += 1;
        }
        Ok(pods)
    }

    /// Begins a request; it is given up when what comes back is dropped.
    pub(crate) fn start(&self, request: Req) -> JoinSet<Result<Reply>> {
        let (case, mut begun) = (self.clone(), JoinSet::new());
        begun.spawn_local(async move { case.send(request).await });
        begun
    }

    /// Sends so many requests at the same time.
    async fn at_once(&self, count: usize, orders: &str) -> Result<Vec<Reply>> {
        let mut begun = JoinSet::new();
        for _ in 0..count {
            let (case, request) = (self.clone(), get("/").orders(orders).mark(&self.id));
            begun.spawn_local(async move { case.send(request).await });
        }
        let mut replies = Vec::new();
        while let Some(reply) = begun.join_next().await {
            replies.push(reply??);
        }
        // The last lines of the log are on their way.
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(replies)
    }
}
