//! HTTP/1 that could be read in two ways, byte by byte: it is refused, and nothing of it reaches an origin.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::client::{Req, get, post};
use crate::row::{Case, Row, Want, row};

pub(crate) fn rows() -> Vec<Row> {
    let refused = REFUSED.iter().map(|(name, status, bytes)| refusal(name, *status, bytes));
    let read = READ.iter().map(|(name, bytes, target)| reading(name, bytes, target));
    refused.chain(read).chain(rest()).chain(circles()).collect()
}

/// A row whose bytes are answered with this status, after which the connection ends. `@` stands for the row's host.
fn refusal(name: &str, status: u16, bytes: &'static str) -> Row {
    row(&format!("http/raw-{name}")).http("[{ECHO}]").act(async move |case| {
        let mut wire = case.wire().await?;
        wire.send(bytes.replace('@', &case.host)).await?;
        let reply = wire.reply("GET").await?;
        ensure!(reply.status == status, "{} instead of {status}: {reply}", reply.status);
        ensure!(wire.rest().await?.is_empty(), "more than one answer");
        nothing_came(&case)
    })
}

/// A row whose bytes are a request, and what the origin has to see of it.
fn reading(name: &str, bytes: &'static str, target: &'static str) -> Row {
    row(&format!("http/raw-{name}")).http("[{ECHO}]").act(async move |case| {
        let mut wire = case.wire().await?;
        wire.send(bytes.replace('@', &case.host)).await?;
        let reply = wire.reply("GET").await?;
        let seen = reply.seen()?;
        ensure!(reply.status == 200 && seen.target == target, "{seen:?}");
        let odd =
            seen.raw.bytes().any(|byte| !(byte == b'\r' || byte == b'\n' || (b' '..=b'~').contains(&byte)));
        ensure!(!odd && seen.raw.matches("\r\n").count() == seen.raw.matches('\n').count(), "{:?}", seen.raw);
        Ok(())
    })
}

fn nothing_came(case: &Case) -> Result<()> {
    let seen = case
        .stand
        .origin
        .seen(|seen| seen.authority.starts_with(&case.host) || seen.target.contains("smuggled"));
    ensure!(seen.is_empty(), "the origin has seen {seen:?}");
    Ok(())
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn rest() -> Vec<Row> {
    vec![
        row("http/raw-upgrade-early-bytes").http("[{ECHO}]").act(async |case| {
            // What follows an upgrade that is refused is no request, whatever it looks like.
            let mut wire = case.wire().await?;
            wire.send(format!(
                "GET / HTTP/1.1\r\nHost: {0}\r\nx-do: status=403\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\
                 GET /smuggled HTTP/1.1\r\nHost: {0}\r\n\r\n",
                case.host
            ))
            .await?;
            let reply = wire.reply("GET").await?;
            ensure!(reply.status == 403, "{reply}");
            ensure!(wire.rest().await.unwrap_or_default().is_empty(), "more than one answer");
            let smuggled = case.stand.origin.seen(|seen| seen.authority == case.host && seen.target == "/smuggled");
            ensure!(smuggled.is_empty(), "{smuggled:?}");
            Ok(())
        }),
        row("http/raw-connect-early-bytes").http("[{ECHO}]").act(async |case| {
            let mut wire = case.wire().await?;
            wire.send(format!("CONNECT {0}:80 HTTP/1.1\r\nHost: {0}:80\r\nx-do: status=403\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", case.host)).await?;
            let reply = wire.reply("CONNECT").await?;
            ensure!(reply.status == 403, "{reply}");
            close_and_read(&mut wire).await?;
            ensure!(case.stand.origin.seen(|seen| seen.raw.contains(&case.host) && seen.target == "/smuggled").is_empty(), "smuggled");
            Ok(())
        }),
        row("http/raw-unread-body").http("[{match: [{uri: {prefix: /here}}], ECHO}]").act(async |case| {
            // The answer comes before the body is read, and the body looks like a request.
            let inner = format!("GET /here/smuggled HTTP/1.1\r\nHost: {}\r\n\r\n", case.host);
            let mut wire = case.wire().await?;
            wire.send(format!("POST /nowhere HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{inner}", case.host, inner.len())).await?;
            ensure!(wire.reply("POST").await?.status == 404, "somebody's rule");
            close_and_read(&mut wire).await?;
            let seen = case.stand.origin.seen(|seen| seen.authority == case.host);
            ensure!(seen.is_empty(), "{seen:?}");
            Ok(())
        }),
        row("http/raw-short-body").http("[{ECHO}]").act(async |case| {
            let mut wire = case.wire().await?;
            wire.send(format!("POST / HTTP/1.1\r\nHost: {}\r\nuser-agent: {}\r\nContent-Length: 10\r\n\r\nabc", case.host, case.id)).await?;
            wire.finish().await?;
            let rest = String::from_utf8_lossy(&wire.rest().await.unwrap_or_default()).into_owned();
            ensure!(!rest.contains(" 200 "), "{rest}");
            ensure!(case.seen(&case.id).iter().all(|seen| !seen.complete), "the origin takes it for whole");
            Ok(())
        }),
        row("http/raw-escapes-of-nothing")
            .http("[{ECHO}]")
            .ask(get("/a%00b"), Want::status(400).flags("DPE").unseen())
            .ask(get("/a%2"), Want::status(400).flags("DPE").unseen())
            .ask(get("/a%zz").h2(), Want::status(400).flags("DPE").unseen()),
        row("http/raw-underscore").http("[{ECHO}]").ask(get("/").with("x_forwarded_for", "1.2.3.4"), Want::status(400).unseen()),
        row("http/raw-answer-garbage").http("[{ECHO}]").ask(answered("NOT HTTP AT ALL\r\n\r\n"), Want::status(502).flags("UPE")),
        row("http/raw-answer-two-lengths").http("[{ECHO}]").ask(answered("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc"), Want::status(502).flags("UPE")),
        row("http/raw-answer-length-and-chunked").http("[{ECHO}]").ask(answered("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), Want::status(502).flags("UPE")),
        row("http/raw-answer-more-than-asked").http("[{TO(v1)}]").act(async |case| {
            // The second answer belongs to nobody: it must not become that of the next request.
            let twice = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
            for _ in 0..5 {
                ensure!(case.send(answered(twice)).await?.text() == "ok", "another answer");
                let reply = case.send(get("/")).await?;
                ensure!(reply.text() != "poison" && reply.status == 200, "{reply}");
            }
            Ok(())
        }),
        row("http/raw-answer-bad-chunk").http("[{ECHO}]").act(async |case| {
            let bad = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nzz\r\n";
            let sent = case.send(answered(bad).mark(&case.id)).await;
            ensure!(sent.is_err(), "a body that did not end passes for one: {}", sent?);
            case.flags("UPE").await
        }),
        row("http/raw-host-in-2").http("[{ECHO}]").ask(Req { h2: true, ..get("/") }.with("host", "other.example"), Want::status(400).unseen()),
        row("http/raw-length-in-2").http("[{ECHO}]").act(async |case| {
            let sent = case.send(post("/", "abc").h2().with("content-length", "7").mark(&case.id)).await;
            ensure!(sent.is_err() || sent.is_ok_and(|reply| reply.status >= 400), "it passes");
            ensure!(case.seen(&case.id).iter().all(|seen| !seen.complete), "the origin takes it for whole");
            Ok(())
        }),
        row("http/raw-slow-head").http("[{ECHO}]").act(async |case| {
            let mut wire = case.wire().await?;
            wire.send("GET / HTTP/1.1\r\nHost").await?;
            let begun = Instant::now();
            let rest = String::from_utf8_lossy(&wire.rest().await?).into_owned();
            ensure!(rest.starts_with("HTTP/1.1 408 ") && begun.elapsed().as_secs() >= 8, "{rest:?}");
            Ok(())
        }),
    ]
}

/// A request that the origin answers with these bytes, and ends the connection.
pub(crate) fn answered(bytes: &str) -> Req {
    use base64::Engine as _;
    get("/").orders(&format!("raw={}", base64::prelude::BASE64_STANDARD.encode(bytes)))
}

async fn close_and_read(wire: &mut crate::client::Wire) -> Result<Vec<u8>> {
    // A gateway that has had enough has closed it already.
    let _ = wire.finish().await;
    Ok(wire.rest().await.unwrap_or_default())
}

/// Name, status, bytes.
const REFUSED: &[(&str, u16, &str)] = &[
    (
        "length-and-chunked",
        400,
        "POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    ),
    (
        "chunked-and-length",
        400,
        "POST / HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG",
    ),
    (
        "lengths-differ",
        400,
        "POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    ),
    ("lengths-equal", 400, "POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
    ("length-list", 400, "POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 3, 3\r\n\r\nabc"),
    ("length-plus", 400, "POST / HTTP/1.1\r\nHost: @\r\nContent-Length: +3\r\n\r\nabc"),
    ("length-minus", 400, "POST / HTTP/1.1\r\nHost: @\r\nContent-Length: -1\r\n\r\n"),
    ("length-hex", 400, "POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 0x3\r\n\r\nabc"),
    ("length-empty", 400, "POST / HTTP/1.1\r\nHost: @\r\nContent-Length: \r\n\r\n"),
    ("length-overflow", 400, "POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 18446744073709551616\r\n\r\n"),
    ("coding-xchunked", 400, "POST / HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    (
        "coding-gzip-chunked",
        501,
        "POST / HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "coding-chunked-twice",
        400,
        "POST / HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("coding-in-1.0", 400, "POST / HTTP/1.0\r\nHost: @\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("folded", 400, "GET / HTTP/1.1\r\nHost: @\r\nX-A: b\r\n c\r\n\r\n"),
    ("space-before-colon", 400, "GET / HTTP/1.1\r\nHost: @\r\nTransfer-Encoding : chunked\r\n\r\n"),
    ("bare-lf", 400, "GET / HTTP/1.1\nHost: @\n\n"),
    ("bare-lf-field", 400, "GET / HTTP/1.1\r\nHost: @\r\nX-A: b\nX-B: c\r\n\r\n"),
    ("cr-in-value", 400, "GET / HTTP/1.1\r\nHost: @\r\nX-A: b\rc\r\n\r\n"),
    ("nul-in-value", 400, "GET / HTTP/1.1\r\nHost: @\r\nX-A: b\0c\r\n\r\n"),
    ("empty-name", 400, "GET / HTTP/1.1\r\nHost: @\r\n: b\r\n\r\n"),
    ("no-host", 400, "GET / HTTP/1.1\r\nX-A: b\r\n\r\n"),
    ("two-hosts", 400, "GET / HTTP/1.1\r\nHost: @\r\nHost: other.example\r\n\r\n"),
    ("two-equal-hosts", 400, "GET / HTTP/1.1\r\nHost: @\r\nHost: @\r\n\r\n"),
    ("host-userinfo", 400, "GET / HTTP/1.1\r\nHost: user%40@\r\n\r\n"),
    ("host-path", 400, "GET / HTTP/1.1\r\nHost: @/x\r\n\r\n"),
    ("authority-form", 400, "GET @:80 HTTP/1.1\r\nHost: @\r\n\r\n"),
    ("asterisk-get", 400, "GET * HTTP/1.1\r\nHost: @\r\n\r\n"),
    ("tab-in-line", 400, "GET\t/ HTTP/1.1\r\nHost: @\r\n\r\n"),
    ("two-spaces", 400, "GET  / HTTP/1.1\r\nHost: @\r\n\r\n"),
    ("lower-case-method", 400, "get / HTTP/1.1\r\nHost: @\r\n\r\n"),
    ("version-1.2", 505, "GET / HTTP/1.2\r\nHost: @\r\n\r\n"),
    ("version-2.0", 505, "GET / HTTP/2.0\r\nHost: @\r\n\r\n"),
    ("version-0.9", 400, "GET /\r\nHost: @\r\n\r\n"),
    ("fragment", 400, "GET /a#b HTTP/1.1\r\nHost: @\r\n\r\n"),
    ("utf-8-target", 400, "GET /\u{e4} HTTP/1.1\r\nHost: @\r\n\r\n"),
    ("tls-hello", 400, "\u{16}\u{3}\u{1}\u{2}\0\u{1}"),
    ("proxy-header", 400, "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: @\r\n\r\n"),
    (
        "proxy-header-2",
        400,
        "\r\n\r\n\0\r\nQUIT\n\u{21}\u{11}\0\u{c}\u{1}\u{1}\u{1}\u{1}\u{2}\u{2}\u{2}\u{2}\0\u{1}\0\u{2}GET / HTTP/1.1\r\nHost: @\r\n\r\n",
    ),
    ("expectation", 417, "POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 1\r\nExpect: 200-maybe\r\n\r\na"),
    ("connection-nominates-host", 400, "GET / HTTP/1.1\r\nHost: @\r\nConnection: host\r\n\r\n"),
    ("connection-nominates-proxies", 400, "GET / HTTP/1.1\r\nHost: @\r\nConnection: x-forwarded-for\r\n\r\n"),
    ("connect-with-body", 400, "CONNECT @:80 HTTP/1.1\r\nHost: @:80\r\nContent-Length: 3\r\n\r\nabc"),
];

/// Name, bytes, and the target that the origin has to see.
const READ: &[(&str, &str, &str)] = &[
    ("leading-line", "\r\nGET /a HTTP/1.1\r\nHost: @\r\n\r\n", "/a"),
    ("dot-segments", "GET /public/../admin HTTP/1.1\r\nHost: @\r\n\r\n", "/admin"),
    ("dot-escapes", "GET /public/%2e%2E/admin HTTP/1.1\r\nHost: @\r\n\r\n", "/admin"),
    ("backslash", "GET /public\\..\\admin HTTP/1.1\r\nHost: @\r\n\r\n", "/admin"),
    ("slashes-stay", "GET //admin HTTP/1.1\r\nHost: @\r\n\r\n", "//admin"),
    ("above-the-root", "GET /../../etc HTTP/1.1\r\nHost: @\r\n\r\n", "/etc"),
    ("parameters-stay", "GET /a;b=c/d HTTP/1.1\r\nHost: @\r\n\r\n", "/a;b=c/d"),
    ("query-stays", "GET /a?b=/../c&d=%2e%00 HTTP/1.1\r\nHost: @\r\n\r\n", "/a?b=/../c&d=%2e%00"),
    ("get-with-body", "GET /a HTTP/1.1\r\nHost: @\r\nContent-Length: 3\r\n\r\nabc", "/a"),
    ("absolute-form", "GET http://@/a HTTP/1.1\r\nHost: other.example\r\n\r\n", "/a"),
    (
        "chunk-extension",
        "POST /a HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: chunked\r\n\r\n1;a=\"b\"\r\nx\r\n0\r\n\r\n",
        "/a",
    ),
    ("many-spaces-in-value", "GET /a HTTP/1.1\r\nHost:   @  \r\nX-A: \t b \t\r\n\r\n", "/a"),
];

/// Rules that lead back to where they came from.
fn circles() -> Vec<Row> {
    vec![
        // Only one without hosts is delegated to, and that cannot delegate further.
        row("http/circle-of-delegates")
            .http(
                "[{match: [{uri: {prefix: /self}}], delegate: {name: http-circle-of-delegates-0}}, \
                  {match: [{uri: {prefix: /a}}], delegate: {name: http-circle-of-delegates-d}}, {SAY(rest)}]",
            )
            .config(
                "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: NAME-d, namespace: conf}, \
                 spec: {http: [{match: [{uri: {prefix: /a/c}}], SAY(c)}]}}",
            )
            .ask(get("/self"), crate::row::says("rest"))
            .ask(get("/a/b"), crate::row::says("rest"))
            .ask(get("/a/c"), crate::row::says("c")),
        // A gateway that is an endpoint of the service that it sends to.
        row("http/circle-of-a-gateway").act(async |case| {
            let (name, port) = (crate::row::slug(&case.id), case.stand.http);
            let host = format!("{name}.test");
            let entry = format!(
                "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}, namespace: conf}}, \
                 spec: {{hosts: [{name}.loop], resolution: STATIC, ports: [{{name: http, number: 80, protocol: HTTP}}], \
                 endpoints: [{{address: 127.0.0.1, ports: {{http: {port}}}}}]}}}}"
            );
            let rules = format!("[{{route: [{{destination: {{host: {name}.loop}}}}]}}]");
            let rules = crate::row::virtual_service(&name, &host, &rules);
            case.stand.gateway.write(&format!("{name}.yaml"), &format!("{entry}\n---\n{rules}"))?;
            let begun = Instant::now();
            let reply = loop {
                let reply = case.send(get("/").mark(&case.id)).await?;
                // The rule is not there yet.
                if reply.status != 404 || begun.elapsed() > Duration::from_secs(5) {
                    break reply;
                }
            };
            ensure!(reply.status == 508 && reply.text() == "Loop Detected", "{reply}");
            // Lines are written by somebody else, and some come after the answer.
            let asked = Instant::now();
            let rounds = loop {
                let rounds = case.stand.gateway.all_logs(&case.id).len();
                if rounds >= 90 || asked.elapsed() > Duration::from_secs(5) {
                    break rounds;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            ensure!((90..=220).contains(&rounds), "{rounds} lines of the log");
            // Everybody else is served.
            std::fs::remove_file(case.stand.gateway.config.join(format!("{name}.yaml")))?;
            ensure!(case.send(get("/healthy").to("nobody.test")).await?.status == 404);
            Ok(())
        }),
    ]
}
