//! Servers of HTTP/2 that say goodbye, take no requests, or talk too much.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use crate::client::{get, post};
use crate::frames::{
    ACK, END_STREAM, Frame, HEADERS, MAX_STREAMS, PING, RST_STREAM, Raw, SETTINGS, answer, frame, goaway,
    listener, setting,
};
use crate::row::{Case, Row, row, slug};

pub(crate) fn rows() -> Vec<Row> {
    [goodbyes(), rooms(), noise()].into_iter().flatten().collect()
}

/// How a server treats its connections; the number counts them from 1.
type Script = fn(Raw, usize) -> std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Serves a port; how many connections there were is counted.
fn serve(listener: TcpListener, settings: Frame, script: Script) -> Result<Arc<AtomicUsize>> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let count = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&count);
    tokio::task::spawn_local(async move {
        let mut all = JoinSet::new();
        while let Ok((tcp, _)) = listener.accept().await {
            let number = counted.fetch_add(1, Ordering::Relaxed) + 1;
            let settings = settings.clone();
            all.spawn(async move {
                let raw = Raw::server(tcp, settings).await?;
                script(raw, number).await
            });
        }
    });
    Ok(count)
}

/// A row with a server of its own.
fn with_server<F: Future<Output = Result<()>> + 'static>(
    id: &str,
    (retries, rule): (&str, &str),
    (settings, script): (Frame, Script),
    act: impl FnOnce(Case, Arc<AtomicUsize>) -> F + 'static,
) -> Row {
    let listener = listener();
    let route = format!("[{{{retries}route: [{{destination: {{host: {}}}}}]}}]", slug(id));
    row(id).on_server(&listener, rule, "http2").http(&route).act(async move |case| {
        let count = serve(listener, settings, script)?;
        act(case, count).await
    })
}

fn plain() -> Frame {
    frame(SETTINGS, 0, 0, &[])
}

/// The next request, whole.
async fn asked(raw: &mut Raw) -> Result<u32> {
    let head = raw.until(|it| it.kind == HEADERS).await?;
    if head.flags & END_STREAM == 0 {
        raw.until(|it| it.stream == head.stream && it.flags & END_STREAM != 0).await?;
    }
    Ok(head.stream)
}

/// Answers all requests.
async fn answers(mut raw: Raw) -> Result<()> {
    loop {
        let stream = asked(&mut raw).await?;
        raw.send(&[answer(stream, END_STREAM)]).await?;
    }
}

const NEVER: &str = "retries: {attempts: 0}, ";
const QUICK: &str = "connectionPool: {tcp: {connectTimeout: 0.5s}}";

#[expect(clippy::too_many_lines, reason = "a table")]
fn goodbyes() -> Vec<Row> {
    vec![
        with_server(
            "upstream/goaway-while-idle",
            (NEVER, QUICK),
            (plain(), |mut raw, _| {
                Box::pin(async move {
                    let stream = asked(&mut raw).await?;
                    raw.send(&[answer(stream, END_STREAM), goaway(stream, 0)]).await?;
                    // It does not hang up: only the frame says that it is over.
                    std::future::pending().await
                })
            }),
            async |case, count| {
                // Nothing of a later request is lost, though there is no other try.
                for number in 1..=5 {
                    let reply = case.send(post("/", "body").mark(&case.id)).await?;
                    ensure!(reply.status == 200, "{number}: {reply}");
                }
                ensure!(count.load(Ordering::Relaxed) == 5, "{count:?} connections");
                case.flags("-").await
            },
        ),
        with_server(
            "upstream/goaway-with-the-request-under-way",
            (NEVER, QUICK),
            (plain(), |mut raw, _| {
                Box::pin(async move {
                    let stream = asked(&mut raw).await?;
                    raw.send(&[goaway(stream, 0)]).await?;
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    raw.send(&[answer(stream, END_STREAM)]).await?;
                    raw.ends().await
                })
            }),
            async |case, _| {
                let reply = case.send(post("/", "body").mark(&case.id)).await?;
                ensure!(reply.status == 200, "{reply}");
                case.flags("-").await
            },
        ),
        with_server(
            "upstream/goaway-leaves-the-request-out",
            ("", QUICK),
            (plain(), |mut raw, number| {
                Box::pin(async move {
                    if number == 1 {
                        asked(&mut raw).await?;
                        raw.send(&[goaway(0, 0)]).await?;
                        return raw.ends().await;
                    }
                    answers(raw).await
                })
            }),
            async |case, count| {
                // The server has not begun with it, so that even a POST is safe to repeat.
                let reply = case.send(post("/", "body").mark(&case.id)).await?;
                ensure!(reply.status == 200, "{reply}");
                ensure!(count.load(Ordering::Relaxed) == 2, "{count:?} connections");
                case.flags("-").await
            },
        ),
        with_server(
            "upstream/goaway-always",
            ("", QUICK),
            (plain(), |mut raw, _| {
                Box::pin(async move {
                    asked(&mut raw).await?;
                    raw.send(&[goaway(0, 0)]).await?;
                    raw.ends().await
                })
            }),
            async |case, count| {
                let reply = case.send(post("/", "body").mark(&case.id)).await?;
                ensure!(reply.status == 503, "{reply}");
                ensure!(count.load(Ordering::Relaxed) == 3, "{count:?} connections");
                case.flags("UR,URX").await
            },
        ),
        with_server(
            "upstream/goaway-and-refused",
            ("", QUICK),
            (plain(), |mut raw, number| {
                Box::pin(async move {
                    if number == 1 {
                        let stream = asked(&mut raw).await?;
                        raw.send(&[goaway(stream, 0), frame(RST_STREAM, 0, stream, &[0, 0, 0, 7])]).await?;
                        return raw.ends().await;
                    }
                    answers(raw).await
                })
            }),
            async |case, count| {
                let reply = case.send(post("/", "body").mark(&case.id)).await?;
                ensure!(reply.status == 200, "{reply}");
                ensure!(count.load(Ordering::Relaxed) == 2, "{count:?} connections");
                case.flags("-").await
            },
        ),
        with_server(
            "upstream/goaway-then-hangs-up",
            ("", QUICK),
            (plain(), |mut raw, _| {
                Box::pin(async move {
                    // It says that it has begun, and never ends: nobody knows what it has done.
                    let stream = asked(&mut raw).await?;
                    raw.send(&[goaway(stream, 0)]).await
                })
            }),
            async |case, count| {
                let reply = case.send(post("/", "body").mark(&case.id)).await?;
                ensure!(reply.status == 503, "{reply}");
                ensure!(count.load(Ordering::Relaxed) == 1, "it was repeated");
                case.flags("UC").await
            },
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn rooms() -> Vec<Row> {
    vec![
        with_server(
            "upstream/no-streams-at-all",
            ("", QUICK),
            (setting(MAX_STREAMS, 0), |mut raw, _| {
                Box::pin(async move {
                    // What was sent before its settings came it refuses, as it must.
                    loop {
                        let head = raw.until(|it| it.kind == HEADERS).await?;
                        raw.send(&[frame(RST_STREAM, 0, head.stream, &[0, 0, 0, 7])]).await?;
                    }
                })
            }),
            async |case, _| {
                let begun = Instant::now();
                let reply = case.send(get("/").mark(&case.id)).await?;
                let took = begun.elapsed();
                ensure!(reply.status == 503 && took < Duration::from_secs(5), "{reply} after {took:?}");
                let flags = case.stand.log(&case.id).await?["response_flags"].clone();
                ensure!(flags == "UF,URX" || flags == "UR,URX", "{flags}");
                Ok(())
            },
        ),
        with_server(
            "upstream/no-streams-later",
            (NEVER, QUICK),
            (plain(), |mut raw, number| {
                Box::pin(async move {
                    if number > 1 {
                        return answers(raw).await;
                    }
                    let stream = asked(&mut raw).await?;
                    raw.send(&[setting(MAX_STREAMS, 0), answer(stream, END_STREAM)]).await?;
                    std::future::pending().await
                })
            }),
            async |case, count| {
                for _ in 0..3 {
                    let reply = case.send(get("/").mark(&case.id)).await?;
                    ensure!(reply.status == 200, "{reply}");
                }
                ensure!(count.load(Ordering::Relaxed) == 2, "{count:?} connections");
                Ok(())
            },
        ),
        with_server(
            "upstream/one-stream-at-a-time",
            (NEVER, QUICK),
            (setting(MAX_STREAMS, 1), |mut raw, _| {
                Box::pin(async move {
                    loop {
                        let stream = asked(&mut raw).await?;
                        tokio::time::sleep(Duration::from_millis(300)).await;
                        let (more, _) = raw.gathered(Duration::from_millis(1)).await;
                        ensure!(more.iter().all(|it| it.kind != HEADERS), "two at a time");
                        raw.send(&[answer(stream, END_STREAM)]).await?;
                    }
                })
            }),
            async |case, count| {
                for _ in 0..2 {
                    let mut all = JoinSet::new();
                    for _ in 0..5 {
                        let case = case.clone();
                        all.spawn_local(async move { case.send(get("/")).await });
                    }
                    while let Some(reply) = all.join_next().await {
                        let reply = reply??;
                        ensure!(reply.status == 200, "{reply}");
                    }
                }
                ensure!(count.load(Ordering::Relaxed) == 5, "{count:?} connections for 5 at a time");
                Ok(())
            },
        ),
    ]
}

fn noise() -> Vec<Row> {
    let noise = |name: &str, script: Script| {
        with_server(&format!("upstream/{name}"), ("", QUICK), (plain(), script), async |case, count| {
            let reply = case.send(post("/", "body").mark(&case.id)).await?;
            ensure!(reply.status == 502, "{reply}");
            ensure!(count.load(Ordering::Relaxed) == 1, "it was repeated");
            case.flags("UPE").await
        })
    };
    vec![
        noise("flood-of-settings", |raw, _| Box::pin(flood(raw, frame(SETTINGS, 0, 0, &[])))),
        noise("flood-of-pings", |raw, _| Box::pin(flood(raw, frame(PING, 0, 0, &[7; 8])))),
        noise("flood-of-unknown-frames", |raw, _| Box::pin(flood(raw, frame(0xbe, 0, 0, &[])))),
        noise("breaks-the-rules", |mut raw, _| {
            Box::pin(async move {
                asked(&mut raw).await?;
                // DATA of a stream that nobody has opened.
                raw.send(&[frame(0, 0, 99, b"x")]).await?;
                raw.ends().await
            })
        }),
        with_server(
            "upstream/http2-keep-alive",
            (NEVER, "connectionPool: {http: {http2KeepAlive: {interval: 0.2s, timeout: 1s}}}"),
            (plain(), |raw, number| Box::pin(falls_silent(raw, number))),
            async |case, count| {
                let reply = case.send(get("/").mark("upstream/http2-keep-alive-1")).await?;
                ensure!(reply.status == 200, "{reply}");
                let begun = Instant::now();
                let reply = case.send(get("/").mark(&case.id)).await?;
                let took = begun.elapsed();
                ensure!(reply.status == 503 && took < Duration::from_secs(6), "{reply} after {took:?}");
                ensure!(count.load(Ordering::Relaxed) <= 2, "{count:?} connections");
                case.flags("UC").await
            },
        ),
    ]
}

/// Answers pings and a request on its first connection, and then nothing any more; on others nothing at all.
async fn falls_silent(mut raw: Raw, number: usize) -> Result<()> {
    let stream = asked(&mut raw).await?;
    if number == 1 {
        for _ in 0..5 {
            let ping = raw.until(|it| it.kind == PING && it.flags & ACK == 0).await?;
            raw.send(&[frame(PING, ACK, 0, &ping.payload)]).await?;
        }
        raw.send(&[answer(stream, END_STREAM)]).await?;
    }
    std::future::pending().await
}

/// Reads a request and answers it with more frames than anybody needs.
async fn flood(mut raw: Raw, frame: Frame) -> Result<()> {
    asked(&mut raw).await?;
    for _ in 0..40 {
        raw.send(&vec![frame.clone(); 100]).await?;
        raw.gathered(Duration::from_millis(2)).await;
    }
    std::future::pending().await
}
