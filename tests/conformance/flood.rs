//! Clients of HTTP/2 that send more than requests: each is told to be calm, or to go, within limits.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frame, HEADERS, INITIAL_WINDOW,
    PING, PRIORITY, RST_STREAM, Raw, SETTINGS, USER_AGENT, WINDOW_UPDATE, frame, request, setting, soon,
};
use crate::http::memory;
use crate::row::{Case, Row, row};

pub(crate) fn rows() -> Vec<Row> {
    [floods(), streams(), windows()].into_iter().flatten().collect()
}

/// Frames that carry nothing: some are fine, thousands are not.
fn floods() -> Vec<Row> {
    let flood = |name: &str, frame: fn() -> Frame| {
        row(&format!("http/2-flood-{name}")).http("[{ECHO}]").act(async move |case| {
            let mut raw = Raw::client(case.stand.http).await?;
            case.asked(&mut raw, 1).await?;
            raw.send(&vec![frame(); 500]).await?;
            case.asked(&mut raw, 3).await.context("500 are too many")?;
            let sent = sent_away(&mut raw, &frame().bytes(), 4_000).await?;
            ensure!(sent >= 400, "sent away after {} frames", sent + 500);
            Ok(())
        })
    };
    vec![
        flood("ping", || frame(PING, 0, 0, &[7; 8])),
        flood("ping-answers", || frame(PING, ACK, 0, &[7; 8])),
        flood("settings", || frame(SETTINGS, 0, 0, &[])),
        flood("settings-of-windows", || setting(INITIAL_WINDOW, 65_535)),
        flood("priority", || frame(PRIORITY, 0, 5, &[0, 0, 0, 0, 16])),
        flood("window", || frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        flood("window-of-a-stream-that-is-gone", || frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
        flood("resets-of-a-stream-that-is-gone", || frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
        flood("unknown", || frame(0xbe, 0, 0, &[])),
        row("http/2-flood-is-not-in-requests").http("[{ECHO}]").act(async |case| {
            // Ten for each request: ten times as many as anybody may send at once.
            let mut raw = Raw::client(case.stand.http).await?;
            raw.send(&[frame(WINDOW_UPDATE, 0, 0, &0x4000_0000_u32.to_be_bytes())]).await?;
            for number in 0..500 {
                raw.send(&vec![frame(PING, 0, 0, &[7; 8]); 20]).await?;
                case.asked(&mut raw, 2 * number + 1).await.with_context(|| format!("after {number}"))?;
            }
            Ok(())
        }),
        row("http/2-flood-empty-data").http("[{ECHO}]").act(async |case| {
            let mut raw = Raw::client(case.stand.http).await?;
            raw.send(&[request(1, &case.host, &[], END_HEADERS)]).await?;
            sent_away(&mut raw, &frame(DATA, 0, 1, &[]).bytes(), 300).await?;
            Ok(())
        }),
        row("http/2-flood-continuation").http("[{ECHO}]").act(async |case| {
            let mut raw = Raw::client(case.stand.http).await?;
            raw.send(&[request(1, &case.host, &[], 0)]).await?;
            sent_away(&mut raw, &frame(CONTINUATION, 0, 1, &[]).bytes(), 300).await?;
            Ok(())
        }),
        row("http/2-flood-headers-without-end").http("[{ECHO}]").act(async |case| {
            let mut raw = Raw::client(case.stand.http).await?;
            raw.send(&[request(1, &case.host, &[], 0)]).await?;
            // A header of 15 kB in each, which names itself by an index that grows no table.
            let field = [&[0x0f, 43, 0x7f, 0x99, 0x74][..], &[b'a'; 15_000]].concat();
            let sent = sent_away(&mut raw, &frame(CONTINUATION, 0, 1, &field).bytes(), 100).await?;
            ensure!(sent <= 100, "{sent} frames of 15 kB were taken");
            Ok(())
        }),
    ]
}

/// Requests that cost more to serve than to make.
#[expect(clippy::too_many_lines, reason = "a table")]
fn streams() -> Vec<Row> {
    vec![
        row("http/2-rapid-reset").http("[{ECHO}]").act(async |case| {
            let mut raw = Raw::client(case.stand.http).await?;
            let pair = |number: u32| {
                let ask = case.request(2 * number + 1, END_STREAM);
                [ask, frame(RST_STREAM, 0, 2 * number + 1, &[0, 0, 0, 8])]
            };
            let all: Vec<Frame> = (0..2_000).flat_map(pair).collect();
            // It may end before all is sent.
            let _ = raw.send(&all).await;
            let (frames, ended) = raw.gathered(Duration::from_secs(2)).await;
            let code = frames.iter().find_map(Frame::goaway_code);
            ensure!(code == Some(ENHANCE_YOUR_CALM) && ended, "{code:?}, ended: {ended}");
            let came = case.seen(&case.id).len();
            ensure!(came < 300, "{came} of them came to the origin");
            Ok(())
        }),
        row("http/2-rapid-reset-one-by-one").http("[{ECHO}]").act(async |case| {
            // Each is on its way before it is taken back, so that nothing in the stack sees more than one.
            let mut raw = Raw::client(case.stand.http).await?;
            for number in 0..400 {
                let stream = 2 * number + 1;
                if raw.send(&[case.ordered(stream, "delay=3000")]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
                if raw.send(&[frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])]).await.is_err() {
                    break;
                }
            }
            let (frames, ended) = raw.gathered(Duration::from_secs(2)).await;
            let code = frames.iter().find_map(Frame::goaway_code);
            ensure!(code == Some(ENHANCE_YOUR_CALM) && ended, "{code:?}, ended: {ended}");
            Ok(())
        }),
        row("http/2-made-you-reset").http("[{ECHO}]").act(async |case| {
            // The server is made to reset the streams itself (CVE-2025-8671): DATA after their end.
            let mut raw = Raw::client(case.stand.http).await?;
            let three = |number: u32| {
                let stream = 2 * number + 1;
                [case.request(stream, END_STREAM), frame(DATA, 0, stream, b"late")]
            };
            let all: Vec<Frame> = (0..4_000).flat_map(three).collect();
            let _ = raw.send(&all).await;
            let (frames, ended) = raw.gathered(Duration::from_secs(2)).await;
            let code = frames.iter().find_map(Frame::goaway_code);
            // PROTOCOL_ERROR: the stack does not let it come to many.
            ensure!(code == Some(1) && ended, "{code:?}, ended: {ended}");
            let came = case.seen(&case.id).len();
            ensure!(came < 1_100, "{came} of them came to the origin");
            Ok(())
        }),
        row("http/2-made-you-reset-by-windows").http("[{ECHO}]").act(async |case| {
            let mut raw = Raw::client(case.stand.http).await?;
            let three = |number: u32| {
                let stream = 2 * number + 1;
                let much = frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
                [case.request(stream, END_STREAM), much]
            };
            let all: Vec<Frame> = (0..4_000).flat_map(three).collect();
            let _ = raw.send(&all).await;
            let (frames, ended) = raw.gathered(Duration::from_secs(2)).await;
            let code = frames.iter().find_map(Frame::goaway_code);
            ensure!(code == Some(ENHANCE_YOUR_CALM) && ended, "{code:?}, ended: {ended}");
            Ok(())
        }),
        row("http/2-more-streams-than-allowed").http("[{ECHO}]").act(async |case| {
            let mut raw = Raw::client(case.stand.http).await?;
            let all: Vec<Frame> = (0..4_000).map(|number| case.request(2 * number + 1, END_STREAM)).collect();
            let _ = raw.send(&all).await;
            let (frames, ended) = raw.gathered(Duration::from_secs(2)).await;
            let code = frames.iter().find_map(Frame::goaway_code);
            ensure!(code == Some(ENHANCE_YOUR_CALM) && ended, "{code:?}, ended: {ended}");
            let came = case.seen(&case.id).len();
            ensure!(came <= 200, "{came} at a time, where 100 are allowed");
            Ok(())
        }),
    ]
}

fn windows() -> Vec<Row> {
    let ends = |name: &str, code: u32, last: Frame| {
        row(&format!("http/2-window-{name}")).http("[{ECHO}]").act(async move |case| {
            let mut raw = Raw::client(case.stand.http).await?;
            case.asked(&mut raw, 1).await?;
            raw.send(std::slice::from_ref(&last)).await?;
            let goaway = raw.until(|frame| frame.goaway_code().is_some()).await?;
            ensure!(goaway.goaway_code() == Some(code), "{goaway:?}");
            raw.ends().await
        })
    };
    vec![
        ends("overflow", 3, frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())),
        ends("of-nothing", 1, frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ends("initial-overflow", 1, setting(INITIAL_WINDOW, 0x8000_0000)),
        row("http/2-window-never-opens").http("[{ECHO}]").alone().act(async |case| {
            let before = memory(case.stand.gateway.id())?;
            let mut clients = Vec::new();
            for _ in 0..2 {
                let mut raw = Raw::client(case.stand.http).await?;
                raw.send(&[setting(INITIAL_WINDOW, 0)]).await?;
                let ask = |number: u32| case.ordered(2 * number + 1, "size=2000000");
                raw.send(&(0..20).map(ask).collect::<Vec<_>>()).await?;
                clients.push(raw);
            }
            soon("40 requests do not come", || case.seen(&case.id).len() >= 40).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let grown = memory(case.stand.gateway.id())?.saturating_sub(before);
            // 40 streams hold a buffer each, of at most 256 kB; the answers have 80 MB.
            ensure!(grown < 30_000, "{grown} KiB more for 40 answers that nobody takes");
            Ok(())
        }),
    ]
}

/// Sends the same bytes until the gateway has had enough: at most so often. How often it was.
async fn sent_away(raw: &mut Raw, bytes: &[u8], most: usize) -> Result<usize> {
    let mut sent = 0;
    let mut all = Vec::new();
    let mut over = false;
    while sent < most && !over {
        let batch = 50.min(most - sent);
        if raw.bytes(&bytes.repeat(batch)).await.is_err() {
            break;
        }
        sent += batch;
        let (frames, ended) = raw.gathered(Duration::from_millis(5)).await;
        over = ended || frames.iter().any(|it| it.goaway_code().is_some());
        all.extend(frames);
    }
    all.extend(raw.gathered(Duration::from_millis(300)).await.0);
    let code = all.iter().find_map(Frame::goaway_code);
    ensure!(code == Some(ENHANCE_YOUR_CALM), "after {sent} frames: {code:?}");
    raw.ends().await?;
    Ok(sent)
}

impl Case {
    /// A request with the row's mark.
    pub(crate) fn request(&self, stream: u32, flags: u8) -> Frame {
        request(stream, &self.host, &[(USER_AGENT, &self.id)], END_HEADERS | flags)
    }

    /// A request that the origin answers as it is told.
    pub(crate) fn ordered(&self, stream: u32, orders: &str) -> Frame {
        let mut request = self.request(stream, END_STREAM);
        request.payload.extend([0x10, 4]);
        request.payload.extend(b"x-do");
        request.payload.push(u8::try_from(orders.len()).unwrap_or(0));
        request.payload.extend(orders.bytes());
        request
    }

    /// A request that is answered.
    pub(crate) async fn asked(&self, raw: &mut Raw, stream: u32) -> Result<()> {
        raw.send(&[self.request(stream, END_STREAM)]).await?;
        let answer = raw.until(|frame| frame.kind == HEADERS && frame.stream == stream).await?;
        ensure!(answer.payload.first() == Some(&0x88), "no 200: {answer:?}");
        raw.until(|frame| frame.stream == stream && frame.flags & END_STREAM != 0).await?;
        Ok(())
    }
}
