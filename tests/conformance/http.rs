//! HTTP itself: versions, bodies of any size, trailers, interim answers, gRPC, and what leaves HTTP.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::origin::{pattern, pattern_hash};
use tokio::time::timeout;

use crate::client::{Req, Wire, get, grpc, post, request};
use crate::row::{Case, Row, Want, ok, row};

pub(crate) fn rows() -> Vec<Row> {
    [versions(), bodies(), streaming(), interim(), calls(), tunnels()].into_iter().flatten().collect()
}

fn echo(id: &str) -> Row {
    row(id).http("[{TO(v1)}]")
}

impl Case {
    /// A connection to the plain port.
    pub(crate) async fn wire(&self) -> Result<Wire> {
        Ok(Wire::new(self.stand.connect(self.stand.http, None, false).await?))
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn versions() -> Vec<Row> {
    vec![
        echo("http/1.0").act(async |case| {
            let mut wire = case.wire().await?;
            wire.send(format!("GET / HTTP/1.0\r\nHost: {}\r\n\r\n", case.host)).await?;
            let reply = wire.reply("GET").await?;
            ensure!(
                reply.status == 200
                    && reply.version == "HTTP/1.1"
                    && reply.header("transfer-encoding").is_none(),
                "{reply}"
            );
            ensure!(reply.seen()?.version == "HTTP/1.1" && wire.rest().await?.is_empty(), "{reply}");
            Ok(())
        }),
        echo("http/1.0-keep-alive").act(async |case| {
            let mut wire = case.wire().await?;
            for _ in 0..2 {
                wire.send(format!("GET / HTTP/1.0\r\nHost: {}\r\nConnection: keep-alive\r\n\r\n", case.host))
                    .await?;
                let reply = wire.reply("GET").await?;
                ensure!(
                    reply.status == 200 && reply.header("connection").as_deref() == Some("keep-alive"),
                    "{reply}"
                );
            }
            Ok(())
        }),
        echo("http/1.0-without-host").act(async |case| {
            let mut wire = case.wire().await?;
            wire.send("GET / HTTP/1.0\r\n\r\n").await?;
            ensure!(wire.reply("GET").await?.status == 404, "somebody's rule");
            Ok(())
        }),
        echo("http/1.0-unknown-length").act(async |case| {
            let mut wire = case.wire().await?;
            wire.send(format!("GET / HTTP/1.0\r\nHost: {}\r\nx-do: chunked; size=5000\r\n\r\n", case.host))
                .await?;
            let reply = wire.reply("GET").await?;
            ensure!(
                reply.body == pattern(0, 5_000) && reply.header("transfer-encoding").is_none(),
                "{reply}"
            );
            Ok(())
        }),
        echo("http/1.1-pipelined").act(async |case| {
            let mut wire = case.wire().await?;
            let one = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", case.host);
            wire.send([one("/1"), one("/2"), one("/3")].concat()).await?;
            for path in ["/1", "/2", "/3"] {
                ensure!(wire.reply("GET").await?.seen()?.target == path, "out of order");
            }
            Ok(())
        }),
        echo("http/1.1-close").act(async |case| {
            let mut wire = case.wire().await?;
            wire.send(format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", case.host)).await?;
            let reply = wire.reply("GET").await?;
            ensure!(
                reply.header("connection").as_deref() == Some("close") && wire.rest().await?.is_empty(),
                "{reply}"
            );
            Ok(())
        }),
        echo("http/1.1-byte-by-byte").act(async |case| {
            let mut wire = case.wire().await?;
            for byte in
                format!("POST /slow HTTP/1.1\r\nHost: {}\r\nContent-Length: 4\r\n\r\nbody", case.host).bytes()
            {
                wire.send([byte]).await?;
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
            ensure!(wire.reply("POST").await?.seen()?.body == "body", "another body");
            Ok(())
        }),
        echo("http/2-prior-knowledge")
            .ask(
                get("/x?y").h2(),
                ok().seen("target", "/x?y")
                    .seen("authority", "http-2-prior-knowledge.test")
                    .log("protocol", "HTTP/2"),
            )
            .ask(post("/", "body").h2(), ok().seen("body", "body")),
        echo("http/2-cookies-in-parts").ask(
            get("/").h2().with("cookie", "a=1").with("cookie", "b=2"),
            ok().seen("h:cookie", "a=1; b=2"),
        ),
        row("http/2-to-2")
            .http("[{route: [{destination: {host: grpc}}]}]")
            .ask(get("/a").h2(), ok().seen("version", "HTTP/2").seen("target", "/a"))
            .ask(get("/a"), ok().seen("version", "HTTP/2").seen("authority", "http-2-to-2.test")),
        row("http/undeclared-follows-the-client")
            .http("[{route: [{destination: {host: auto}}]}]")
            .ask(get("/").h2(), ok().seen("version", "HTTP/2"))
            .ask(get("/"), ok().seen("version", "HTTP/1.1")),
        echo("http/methods")
            .ask(request("OPTIONS", "/o"), ok().seen("method", "OPTIONS"))
            .ask(request("PURGE", "/p"), ok().seen("method", "PURGE"))
            .ask(request("DELETE", "/d").h2(), ok().seen("method", "DELETE"))
            .ask(request("PATCH", "/e"), ok().seen("method", "PATCH")),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn bodies() -> Vec<Row> {
    vec![
        echo("http/head")
            .ask(request("HEAD", "/").orders("size=1234"), ok().body("").header("content-length", "1234"))
            .ask(request("HEAD", "/").orders("size=1234").h2(), ok().body("").header("content-length", "1234"))
            .ask(request("HEAD", "/").orders("chunked"), ok().body("")),
        echo("http/no-content")
            .ask(get("/").orders("status=204"), Want::status(204).body("").no_header("content-length"))
            .ask(get("/").orders("status=304; size=7"), Want::status(304).body("")),
        echo("http/body-empty").ask(post("/", "").with("content-length", "0"), ok().seen("length", "0").seen("h:content-length", "0")),
        echo("http/body-large-up").act(async |case| {
            for h2 in [false, true] {
                let request = Req { body: pattern(0, LARGE), h2, ..post("/", "") };
                let seen = case.send(request).await?.seen()?;
                ensure!(seen.hash == pattern_hash(LARGE as u64) && seen.length == LARGE as u64, "{seen:?}");
            }
            Ok(())
        }),
        echo("http/body-large-down").act(async |case| {
            for (h2, how) in [(false, ""), (true, ""), (false, "chunked"), (true, "chunked"), (false, "close")] {
                let request = Req { h2, ..get("/") };
                let reply = case.send(request.orders(&format!("size={LARGE}; {how}"))).await?;
                ensure!(reply.body == pattern(0, LARGE), "{} bytes of another body; h2={h2} {how}", reply.body.len());
            }
            Ok(())
        }),
        echo("http/body-chunked-up").act(async |case| {
            let mut wire = case.wire().await?;
            wire.send(format!("POST / HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;ext=\"x\"\r\n \r\n5\r\nworld\r\n0\r\n\r\n", case.host)).await?;
            let seen = wire.reply("POST").await?.seen()?;
            ensure!(seen.body == "hello world" && seen.header("transfer-encoding").as_deref() == Some("chunked"), "{seen:?}");
            Ok(())
        }),
        echo("http/trailers-up").act(async |case| {
            let mut wire = case.wire().await?;
            wire.send(format!("POST / HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nab\r\n0\r\nx-sum: 7\r\n\r\n", case.host)).await?;
            let seen = wire.reply("POST").await?.seen()?;
            ensure!(seen.trailers == [("x-sum".to_owned(), "7".to_owned())], "{seen:?}");
            Ok(())
        }),
        echo("http/trailers-down").act(async |case| {
            let reply = case.send(get("/").with("te", "trailers").orders("chunked; trailer=x-sum:7")).await?;
            ensure!(reply.trailer("x-sum") == Some("7"), "{reply}");
            let reply = case.send(get("/").h2().with("te", "trailers").orders("chunked; trailer=x-sum:7")).await?;
            ensure!(reply.trailer("x-sum") == Some("7"), "{reply}");
            Ok(())
        }),
        row("http/trailers-through-2").http("[{route: [{destination: {host: grpc}}]}]").act(async |case| {
            let request = Req { trailers: vec![("x-up".to_owned(), "1".to_owned())], ..post("/", "body") };
            let reply = case.send(request.h2().orders("trailer=x-down:2")).await?;
            ensure!(reply.trailer("x-down") == Some("2"), "{reply}");
            ensure!(reply.seen()?.trailers == [("x-up".to_owned(), "1".to_owned())], "{reply}");
            Ok(())
        }),
        echo("http/bytes-in-the-log").ask(
            post("/", "12345").orders("body=123"),
            ok().body("123").log("bytes_received", "5").log("bytes_sent", "3"),
        ),
        echo("http/body-answered-early").act(async |case| {
            let request = Req { body: pattern(0, 100_000), ..post("/", "") };
            let reply = case.send(request.orders("early; status=413; body=no").mark(&case.id)).await?;
            ensure!(reply.status == 413 && reply.text() == "no", "{reply}");
            Ok(())
        }),
    ]
}

fn streaming() -> Vec<Row> {
    vec![
        echo("http/streams-down-as-it-comes").act(async |case| {
            let mut wire = case.wire().await?;
            wire.send(format!("GET / HTTP/1.1\r\nHost: {}\r\nx-do: pause=1500; size=10\r\n\r\n", case.host)).await?;
            let head = timeout(Duration::from_secs(1), wire.head()).await.context("the head waits for the body")??;
            ensure!(head.status == 200 && wire.exactly(10).await? == pattern(0, 10), "{head}");
            Ok(())
        }),
        echo("http/streams-up-as-it-comes").act(async |case| {
            let mut wire = case.wire().await?;
            wire.send(format!("POST / HTTP/1.1\r\nHost: {}\r\nuser-agent: {}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", case.host, case.id)).await?;
            for _ in 0..100 {
                if !case.seen(&case.id).is_empty() {
                    wire.send("1\r\nc\r\n0\r\n\r\n").await?;
                    ensure!(wire.reply("POST").await?.seen()?.body == "abc", "another body");
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            anyhow::bail!("the request waits for its body")
        }),
        echo("http/back-pressure-down").alone().act(async |case| {
            let before = memory(case.stand.gateway.id())?;
            let mut wires = Vec::new();
            for _ in 0..4 {
                let mut wire = case.wire().await?;
                wire.send(format!("GET / HTTP/1.1\r\nHost: {}\r\nx-do: size=50000000\r\n\r\n", case.host)).await?;
                wire.head().await?;
                wires.push(wire);
            }
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            let grown = memory(case.stand.gateway.id())?.saturating_sub(before);
            ensure!(grown < 40_000, "{grown} KiB more for clients that do not read");
            Ok(())
        }),
        echo("http/back-pressure-up").alone().act(async |case| {
            let before = memory(case.stand.gateway.id())?;
            let mut wire = case.wire().await?;
            wire.send(format!("POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: 400000000\r\nx-do: early; delay=3000; body=late\r\n\r\n", case.host)).await?;
            let block = pattern(0, 1 << 20);
            let mut sent = 0_usize;
            while timeout(Duration::from_millis(700), wire.send(&block)).await.is_ok() {
                sent += 1;
                ensure!(sent < 100, "{sent} MiB are taken that nobody reads");
            }
            let grown = memory(case.stand.gateway.id())?.saturating_sub(before);
            ensure!(grown < 40_000, "{grown} KiB more for a server that does not read");
            Ok(())
        }),
    ]
}

fn interim() -> Vec<Row> {
    vec![
        echo("http/100-continue").act(async |case| {
            let mut wire = case.wire().await?;
            wire.send(format!(
                "POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
                case.host
            ))
            .await?;
            ensure!(wire.head().await?.status == 100, "no 100");
            wire.send("body").await?;
            let reply = wire.reply("POST").await?;
            ensure!(
                reply.status == 200 && reply.seen()?.body == "body" && reply.interim.is_empty(),
                "{reply}"
            );
            wire.send(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", case.host)).await?;
            ensure!(wire.reply("GET").await?.status == 200, "the connection is of no more use");
            Ok(())
        }),
        row("http/100-continue-refused").http("[{match: [{uri: {prefix: /a}}], ECHO}]").act(async |case| {
            let mut wire = case.wire().await?;
            wire.send(format!(
                "POST /b HTTP/1.1\r\nHost: {}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
                case.host
            ))
            .await?;
            let head = wire.head().await?;
            ensure!(head.status == 404, "{head}");
            Ok(())
        }),
        echo("http/103-early-hints").act(async |case| {
            let reply = case.send(get("/").orders("interim=103")).await?;
            ensure!(reply.status == 200 && reply.interim == [103], "{:?} {reply}", reply.interim);
            let reply = case.send(get("/").h2().orders("interim=103")).await?;
            ensure!(reply.status == 200, "{reply}");
            Ok(())
        }),
    ]
}

fn calls() -> Vec<Row> {
    let to = |service: &str| format!("[{{route: [{{destination: {{host: {service}}}}}]}}]");
    let failed = |status: &str, flags: &str| {
        Want::status(200)
            .body("")
            .header("grpc-status", status)
            .header("content-type", "application/grpc")
            .flags(flags)
    };
    vec![
        row("http/grpc").http(&to("grpc")).act(async |case| {
            let reply = case.send(grpc("/pkg.S/M").orders("grpc=0; body=reply").mark(&case.id)).await?;
            ensure!(
                reply.status == 200 && reply.trailer("grpc-status") == Some("0") && reply.text() == "reply",
                "{reply}"
            );
            let seen = case.seen(&case.id);
            let first = seen.first().context("nothing came")?;
            ensure!(first.length == 7 && first.header("te").as_deref() == Some("trailers"), "{first:?}");
            let labels = [
                ("request_protocol", "grpc"),
                ("grpc_response_status", "0"),
                ("destination_service_name", "grpc"),
            ];
            ensure!(
                case.stand.gateway.counted("istio_requests_total", &labels, 1.0).await? >= 1.0,
                "not counted"
            );
            Ok(())
        }),
        row("http/grpc-status-of-the-server")
            .http(&to("grpc"))
            .ask(grpc("/s/m").orders("grpc=5"), Want::status(200).header("grpc-status", "5").flags("-")),
        row("http/grpc-status-in-trailers").http(&to("grpc")).act(async |case| {
            let reply = case.send(grpc("/s/m").orders("grpc=13; body=half; trailer=grpc-message:no")).await?;
            ensure!(
                reply.trailer("grpc-status") == Some("13") && reply.trailer("grpc-message") == Some("no"),
                "{reply}"
            );
            Ok(())
        }),
        row("http/grpc-no-route")
            .http("[{match: [{uri: {prefix: /known}}], route: [{destination: {host: grpc}}]}]")
            .ask(grpc("/s/m"), failed("12", "NR")),
        row("http/grpc-no-endpoint").http(&to("ghost")).ask(grpc("/s/m"), failed("14", "UH")),
        row("http/grpc-timeout")
            .http("[{timeout: 0.2s, route: [{destination: {host: grpc}}]}]")
            .ask(grpc("/s/m").orders("delay=2000"), failed("14", "UT")),
        row("http/grpc-over-http1-clients").http(&to("grpc")).ask(
            post("/s/m", "x").with("content-type", "application/grpc").orders("grpc=3"),
            Want::status(200).header("grpc-status", "3"),
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn tunnels() -> Vec<Row> {
    let websocket = |case: &Case| {
        format!(
            "GET /chat HTTP/1.1\r\nHost: {}\r\nuser-agent: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            case.host, case.id
        )
    };
    vec![
        echo("http/websocket").act(async move |case| {
            let mut wire = case.wire().await?;
            wire.send(websocket(&case)).await?;
            let head = wire.head().await?;
            ensure!(head.status == 101 && head.header("upgrade").as_deref() == Some("websocket"), "{head}");
            ensure!(
                head.header("sec-websocket-accept").as_deref() == Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
                "{head}"
            );
            for text in ["hello", "again"] {
                wire.send(frame(text)).await?;
                let answer = wire.exactly(2 + text.len()).await?;
                ensure!(answer.get(2..) == Some(text.as_bytes()), "{answer:?}");
            }
            wire.finish().await?;
            ensure!(wire.rest().await?.is_empty(), "something more");
            let line = case.stand.log(&case.id).await?;
            ensure!(line["response_code"] == 101 && line["response_flags"] == "-", "{line}");
            Ok(())
        }),
        echo("http/websocket-refused").act(async move |case| {
            let mut wire = case.wire().await?;
            wire.send(websocket(&case).replace("\r\n\r\n", "\r\nx-do: status=403\r\n\r\n")).await?;
            let reply = wire.reply("GET").await?;
            ensure!(reply.status == 403, "{reply}");
            Ok(())
        }),
        echo("http/upgrade-other").act(async |case| {
            let mut wire = case.wire().await?;
            wire.send(format!(
                "GET / HTTP/1.1\r\nHost: {}\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n",
                case.host
            ))
            .await?;
            ensure!(wire.head().await?.status == 101, "no 101");
            wire.send("ping").await?;
            ensure!(wire.exactly(4).await? == b"ping", "another answer");
            Ok(())
        }),
        echo("http/upgrade-to-h2c-is-ignored").ask(
            get("/")
                .with("connection", "upgrade, http2-settings")
                .with("upgrade", "h2c")
                .with("http2-settings", "AAMAAABkAAQAAP__"),
            ok().seen("version", "HTTP/1.1").not_seen("h:upgrade").not_seen("h:http2-settings"),
        ),
        echo("http/upgrade-to-h2c-leaves-nothing")
            // Not named as one of the connection's, in other letters, and with a second protocol beside it.
            .ask(
                get("/")
                    .with("connection", "upgrade")
                    .with("upgrade", "h2c")
                    .with("http2-settings", "AAMAAABkAAQAAP__"),
                ok().seen("version", "HTTP/1.1")
                    .not_seen("h:upgrade")
                    .not_seen("h:http2-settings")
                    .not_seen("h:connection"),
            )
            .ask(get("/").with("connection", "Upgrade").with("upgrade", "H2C"), ok().not_seen("h:upgrade"))
            .ask(get("/").with("http2-settings", "AAMAAABkAAQAAP__"), ok().not_seen("h:http2-settings"))
            .ask(get("/").h2().with("http2-settings", "AAMAAABkAAQAAP__"), ok().not_seen("h:http2-settings"))
            .act(async |case| {
                // What follows is the next request, and no HTTP/2.
                let mut wire = case.wire().await?;
                let ask = format!(
                    "GET /1 HTTP/1.1\r\nHost: {0}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                     HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\nGET /2 HTTP/1.1\r\nHost: {0}\r\n\r\n",
                    case.host
                );
                wire.send(ask).await?;
                for target in ["/1", "/2"] {
                    let reply = wire.reply("GET").await?;
                    ensure!(reply.status == 200 && reply.seen()?.target == target, "{reply}");
                    ensure!(
                        reply.header("upgrade").is_none() && reply.header("connection").is_none(),
                        "{reply}"
                    );
                }
                Ok(())
            }),
        row("http/upgrade-without-a-rule").http("[{match: [{uri: {prefix: /a}}], ECHO}]").act(
            async move |case| {
                let mut wire = case.wire().await?;
                wire.send(websocket(&case)).await?;
                ensure!(wire.reply("GET").await?.status == 404, "somebody's rule");
                Ok(())
            },
        ),
        echo("http/connect").act(async |case| {
            let mut wire = case.wire().await?;
            wire.send(format!("CONNECT {0}:80 HTTP/1.1\r\nHost: {0}:80\r\n\r\n", case.host)).await?;
            let head = wire.head().await?;
            ensure!(head.status == 200, "{head}");
            wire.send("ping").await?;
            ensure!(wire.exactly(4).await? == b"ping", "another answer");
            Ok(())
        }),
        echo("http/connect-refused").act(async |case| {
            let mut wire = case.wire().await?;
            wire.send(format!(
                "CONNECT {0}:80 HTTP/1.1\r\nHost: {0}:80\r\nx-do: status=403; body=no\r\n\r\n",
                case.host
            ))
            .await?;
            let reply = wire.reply("CONNECT").await?;
            ensure!(reply.status == 403 && reply.text() == "no", "{reply}");
            Ok(())
        }),
        echo("http/websocket-over-2").act(extended_connect),
    ]
}

/// RFC 8441: what is an upgrade in HTTP/1.1 is an extended CONNECT here.
async fn extended_connect(case: Case) -> Result<()> {
    let io = case.stand.connect(case.stand.http, None, true).await?;
    let (mut sender, connection) = h2::client::handshake(io).await?;
    let exchange = async {
        while !sender.is_extended_connect_protocol_enabled() {
            sender = sender.clone().ready().await?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut request = ::http::Request::builder()
            .method("CONNECT")
            .uri(format!("http://{}/chat", case.host))
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())?;
        request.extensions_mut().insert(h2::ext::Protocol::from("websocket"));
        let (response, mut stream) = sender.send_request(request, false)?;
        let mut response = response.await?;
        ensure!(response.status() == 200, "{response:?}");
        stream.send_data(frame("hello").into(), false)?;
        let data = response.body_mut().data().await.context("no frame")??;
        ensure!(data.get(2..) == Some(b"hello"), "{data:?}");
        Ok(())
    };
    tokio::select! {
        result = timeout(Duration::from_secs(5), exchange) => result.context("no answer")?,
        ended = connection => anyhow::bail!("the connection ended: {ended:?}"),
    }
}

/// A masked frame of text.
fn frame(text: &str) -> Vec<u8> {
    let mask = [1, 2, 3, 4_u8];
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap_or(0)];
    frame.extend(mask);
    frame.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Resident memory of a process in KiB.
pub(crate) fn memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// Bytes of a body that no buffer on the way holds.
const LARGE: usize = 16 << 20;
