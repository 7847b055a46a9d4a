//! What bounds a connection and a request, one row for each limit of `docs/limits.md` that no other row is about.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::net::{TcpSocket, TcpStream};

use crate::client::{Wire, get};
use crate::frames::{
    END_STREAM, ENHANCE_YOUR_CALM, Frame, INITIAL_WINDOW, MAX_STREAMS, RST_STREAM, Raw, SETTINGS,
};
use crate::row::{Case, Row, Want, row, slug, virtual_service};
use crate::stand::{Gateway, free_ports};

pub(crate) fn rows() -> Vec<Row> {
    [heads(), each(), open()].into_iter().flatten().collect()
}

/// So many fields, with values of this length.
fn fields(count: u32, length: usize) -> String {
    let fields: Vec<_> = (0..count).map(|number| format!("x-{number}: {}\r\n", "a".repeat(length))).collect();
    fields.concat()
}

/// A head that is too large is refused, and nothing of it reaches an origin.
#[expect(clippy::too_many_lines, reason = "a table")]
fn heads() -> Vec<Row> {
    let refused = |id: &str, status: u16, head: fn() -> String| {
        row(id).http("[{ECHO}]").act(async move |case| {
            let counted = [("reason", "request")];
            let before = case.stand.gateway.metric("mesh_invalid_requests_total", &counted).await?;
            let mut wire = case.wire().await?;
            wire.send(head().replace('@', &case.host)).await?;
            let reply = wire.reply("GET").await?;
            ensure!(reply.status == status, "{reply}");
            ensure!(wire.rest().await.unwrap_or_default().is_empty(), "the connection goes on");
            let least = before + 1.0;
            let after = case.stand.gateway.counted("mesh_invalid_requests_total", &counted, least).await?;
            ensure!(after >= least, "not counted: {before}, then {after}");
            let seen = case.stand.origin.seen(|seen| seen.authority == case.host);
            ensure!(seen.is_empty(), "{seen:?}");
            Ok(())
        })
    };
    vec![
        refused("limits/request-line", 414, || {
            format!("GET /{} HTTP/1.1\r\nHost: @\r\n\r\n", "a".repeat(8 * 1024))
        }),
        refused("limits/head-bytes", 431, || {
            let fields = fields(16, 4_000);
            format!("GET / HTTP/1.1\r\nHost: @\r\n{fields}\r\n")
        }),
        refused("limits/head-fields", 431, || {
            let fields = fields(100, 1);
            format!("GET / HTTP/1.1\r\nHost: @\r\n{fields}\r\n")
        }),
        row("limits/head-just-fits").http("[{ECHO}]").act(async |case| {
            let fields = fields(98, 500);
            let mut wire = case.wire().await?;
            let path = "a".repeat(8 * 1024 - 20);
            wire.send(format!("GET /{path} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", case.host)).await?;
            let reply = wire.reply("GET").await?;
            ensure!(reply.status == 200, "{reply}");
            Ok(())
        }),
        row("limits/head-bytes-in-2").http("[{ECHO}]").ask(
            (0..16).fold(get("/").h2(), |it, number| it.with(&format!("x-{number}"), &"a".repeat(4_000))),
            Want::status(431).unseen(),
        ),
        row("limits/trailers").http("[{ECHO}]").act(async |case| {
            let fields = fields(33, 1);
            let mut wire = case.wire().await?;
            wire.send(format!(
                "POST / HTTP/1.1\r\nHost: {}\r\nuser-agent: {}\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n{fields}\r\n",
                case.host, case.id
            ))
            .await?;
            let answer = String::from_utf8_lossy(&wire.rest().await.unwrap_or_default()).into_owned();
            ensure!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
            ensure!(case.seen(&case.id).iter().all(|seen| !seen.complete), "the origin takes it for whole");
            Ok(())
        }),
        row("limits/interim-answers").http("[{ECHO}]").act(async |case| {
            let hints = "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n".repeat(40);
            let answer = format!("{hints}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            let reply = case.send(crate::hostile::answered(&answer)).await?;
            ensure!(reply.status == 200 && reply.text() == "ok", "{reply}");
            ensure!(reply.interim == [103; 16], "{} interim answers", reply.interim.len());
            Ok(())
        }),
        row("limits/announced-in-2").http("[{ECHO}]").act(async |case| {
            let mut raw = Raw::client(case.stand.http).await?;
            let said = raw.until(|frame| frame.kind == SETTINGS && frame.flags == 0).await?;
            let said = [MAX_STREAMS, INITIAL_WINDOW, MAX_HEADER_LIST].map(|name| value(&said, name));
            ensure!(said == [Some(100), Some(256 << 10), Some(60 << 10)], "{said:?}");
            Ok(())
        }),
    ]
}

/// `eachConnection` of a RateLimit.
#[expect(clippy::too_many_lines, reason = "a table")]
fn each() -> Vec<Row> {
    vec![
        row("limits/requests-of-a-connection").act(async |case| {
            let own = Own::start(case, "eachConnection: {maxRequests: 2}").await?;
            let mut wire = own.wire().await?;
            let reply = own.asked(&mut wire).await?;
            ensure!(reply.header("connection").is_none(), "{reply}");
            let reply = own.asked(&mut wire).await?;
            ensure!(reply.header("connection").as_deref() == Some("close"), "{reply}");
            ensure!(wire.rest().await?.is_empty(), "more than was asked for");
            // Others begin anew.
            let reply = own.asked(&mut own.wire().await?).await?;
            ensure!(reply.header("connection").is_none(), "{reply}");
            Ok(())
        }),
        row("limits/requests-of-a-connection-in-2").act(async |case| {
            let own = Own::start(case, "eachConnection: {maxRequests: 2, maxConcurrentStreams: 10}").await?;
            let mut raw = Raw::client(own.port).await?;
            own.case.asked(&mut raw, 1).await?;
            raw.send(&[own.case.request(3, END_STREAM)]).await?;
            // The last one is answered, and the client told to go.
            let (mut answered, mut told) = (false, false);
            while !(answered && told) {
                let frame = raw.until(|it| it.goaway_code().is_some() || it.stream == 3).await?;
                told |= frame.goaway_code() == Some(0);
                answered |= frame.stream == 3 && frame.flags & END_STREAM != 0;
            }
            // Who goes on without an end is sent away.
            let more: Vec<Frame> =
                (2..30).map(|number| own.case.request(2 * number + 1, END_STREAM)).collect();
            for frame in more {
                if raw.send(std::slice::from_ref(&frame)).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let left = raw.until(|frame| frame.goaway_code().is_some_and(|code| code != 0)).await?;
            ensure!(left.goaway_code() == Some(ENHANCE_YOUR_CALM), "{left:?}");
            let came = own.case.seen(&own.case.id).len();
            ensure!((2..=12).contains(&came), "{came} requests where 2 and 10 on their way are allowed");
            raw.ends().await
        }),
        row("limits/life-of-a-connection").alone().act(async |case| {
            let own = Own::start(case, "eachConnection: {maxDuration: 1500ms}").await?;
            let begun = Instant::now();
            let (mut wire, mut raw) = (own.wire().await?, Raw::client(own.port).await?);
            own.asked(&mut wire).await?;
            own.case.asked(&mut raw, 1).await?;
            ensure!(wire.rest().await?.is_empty() && begun.elapsed() > Duration::from_millis(1_400));
            let told = raw.until(|frame| frame.goaway_code().is_some()).await?;
            ensure!(told.goaway_code() == Some(0), "{told:?}");
            ensure!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
            Ok(())
        }),
        row("limits/idle-connection").alone().act(async |case| {
            let own = Own::start(case, "eachConnection: {idleTimeout: 2s}").await?;
            let (mut wire, mut raw) = (own.wire().await?, Raw::client(own.port).await?);
            // Requests keep it.
            for number in 0..3 {
                own.asked(&mut wire).await?;
                own.case.asked(&mut raw, 2 * number + 1).await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let begun = Instant::now();
            ensure!(wire.rest().await?.is_empty() && begun.elapsed() < Duration::from_secs(8));
            let told = raw.until(|frame| frame.goaway_code().is_some()).await?;
            ensure!(told.goaway_code() == Some(0), "{told:?}");
            Ok(())
        }),
        row("limits/streams-of-a-connection").act(async |case| {
            let own = Own::start(case, "eachConnection: {maxConcurrentStreams: 3}").await?;
            let mut raw = Raw::client(own.port).await?;
            let said = raw.until(|frame| frame.kind == SETTINGS && frame.flags == 0).await?;
            ensure!(value(&said, MAX_STREAMS) == Some(3), "{said:?}");
            let ask = |number: u32| own.case.ordered(2 * number + 1, "delay=700");
            raw.send(&(0..5).map(ask).collect::<Vec<_>>()).await?;
            for _ in 0..2 {
                let refused = raw.until(|frame| frame.kind == RST_STREAM).await?;
                ensure!(refused.payload == REFUSED_STREAM.to_be_bytes(), "{refused:?}");
            }
            ensure!(own.case.seen(&own.case.id).len() <= 3, "more than 3 at a time");
            Ok(())
        }),
    ]
}

/// `openConnections` of a RateLimit.
fn open() -> Vec<Row> {
    vec![row("limits/open-connections").act(async |case| {
        let limit = |all: u32| format!("openConnections: [{{max: {all}}}, {{by: [address], max: 2}}]");
        let own = Own::start(case, &limit(3)).await?;
        let mut first = own.wire_from(2).await?;
        let mut second = own.wire_from(2).await?;
        own.asked(&mut first).await?;
        own.asked(&mut second).await?;
        ensure!(own.is_shed(2).await?, "a third of one address");
        let mut third = own.wire_from(3).await?;
        own.asked(&mut third).await?;
        ensure!(own.is_shed(4).await?, "a fourth of all");
        let shed = own.gateway.counted("mesh_connections_shed_total", &[("reason", "open")], 2.0).await?;
        ensure!((shed - 2.0).abs() < 0.5, "{shed}");
        // Those that are open stay, and one that ends makes room for one.
        own.asked(&mut first).await?;
        drop(first);
        own.comes_in(2).await?;
        // What is open is counted on when the limit changes.
        own.gateway.write("limit.yaml", &own.limit(&limit(2)))?;
        let until = Instant::now() + Duration::from_secs(5);
        while !own.is_shed(5).await? {
            ensure!(Instant::now() < until, "two are open, and a third comes in");
        }
        own.asked(&mut second).await?;
        own.asked(&mut third).await?;
        drop((second, third));
        own.comes_in(5).await
    })]
}

/// A gateway of a row's own, with this limit.
struct Own {
    gateway: Gateway,
    case: Case,
    port: u16,
}

impl Own {
    async fn start(case: Case, limit: &str) -> Result<Self> {
        let ports = free_ports::<4>()?;
        let rules = virtual_service(&slug(&case.id), &case.host, "[{route: [{destination: {host: echo}}]}]");
        let limit = format!(
            "{{apiVersion: policy.mesh.internal/v1alpha1, kind: RateLimit, metadata: {{name: l, namespace: istio-system}}, \
             spec: {{selector: {{matchLabels: {{istio: ingressgateway}}}}, {limit}}}}}"
        );
        let files = [("base.yaml", case.stand.shared(ports)), ("own.yaml", rules), ("limit.yaml", limit)];
        let files = files.map(|(name, text)| (name.to_owned(), text));
        let gateway = Gateway::start(&files, &["--threads", "2"]).await?;
        Ok(Self { gateway, case, port: ports[0] })
    }

    fn limit(&self, limit: &str) -> String {
        let text = std::fs::read_to_string(self.gateway.config.join("limit.yaml")).unwrap_or_default();
        let (head, _) = text.split_once("openConnections").unwrap_or_default();
        format!("{head}{limit}}}}}")
    }

    async fn wire(&self) -> Result<Wire> {
        self.wire_from(1).await
    }

    /// A connection from 127.0.0.`last`.
    async fn wire_from(&self, last: u8) -> Result<Wire> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into())?;
        let tcp: TcpStream = socket.connect((Ipv4Addr::LOCALHOST, self.port).into()).await?;
        tcp.set_nodelay(true)?;
        Ok(Wire::new(Box::new(tcp)))
    }

    /// A request that is answered.
    async fn asked(&self, wire: &mut Wire) -> Result<crate::client::Reply> {
        wire.send(format!(
            "GET / HTTP/1.1\r\nHost: {}\r\nuser-agent: {}\r\n\r\n",
            self.case.host, self.case.id
        ))
        .await?;
        let reply = wire.reply("GET").await?;
        ensure!(reply.status == 200, "{reply}");
        Ok(reply)
    }

    /// Whether a connection from there is closed without an answer.
    async fn is_shed(&self, last: u8) -> Result<bool> {
        let mut wire = self.wire_from(last).await?;
        // It may be gone before anything is sent.
        let _ = wire
            .send(format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.case.host))
            .await;
        Ok(wire.rest().await.unwrap_or_default().is_empty())
    }

    /// A connection from there is served, as soon as the one before it is known to have ended.
    async fn comes_in(&self, last: u8) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(5);
        while self.is_shed(last).await? {
            ensure!(Instant::now() < until, "there is room, and 127.0.0.{last} does not come in");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// A value that SETTINGS have.
fn value(settings: &Frame, name: u16) -> Option<u32> {
    let mut all = settings.payload.chunks_exact(6);
    let found = all.find(|it| it.starts_with(&name.to_be_bytes()))?;
    found.get(2..).and_then(|value| value.try_into().ok()).map(u32::from_be_bytes)
}

/// `SETTINGS_MAX_HEADER_LIST_SIZE`.
const MAX_HEADER_LIST: u16 = 6;
const REFUSED_STREAM: u32 = 7;
