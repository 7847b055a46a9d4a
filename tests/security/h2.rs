//! HTTP/2 frame by frame, with header blocks of our own making.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::stand::{Stand, Wire};

/// A connection to the gateway, its beginning behind it.
pub(crate) struct Raw(Wire);

/// A frame that has come.
struct Came {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Raw {
    /// A client of prior knowledge.
    pub(crate) fn client(stand: &Stand) -> Result<Self> {
        let mut wire = stand.wire()?;
        wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        wire.send(&frame(SETTINGS, 0, 0, &[]))?;
        Ok(Self(wire))
    }

    pub(crate) fn send(&mut self, frames: &[Vec<u8>]) -> Result<()> {
        self.0.send(&frames.concat())
    }

    /// The status of a stream's answer; `None` if the stream was reset or the connection ended instead.
    pub(crate) fn status(&mut self, stream: u32) -> Result<Option<u16>> {
        while let Some(came) = self.next()? {
            match came.kind {
                HEADERS if came.stream == stream => return Ok(Some(status(&came)?)),
                RST_STREAM if came.stream == stream => return Ok(None),
                GOAWAY => return Ok(None),
                SETTINGS if came.flags & ACK == 0 => self.send(&[frame(SETTINGS, ACK, 0, &[])])?,
                _ => {}
            }
        }
        Ok(None)
    }

    fn next(&mut self) -> Result<Option<Came>> {
        let mut head = [0; 9];
        if !self.fill(&mut head)? {
            return Ok(None);
        }
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c]))?];
        let whole = self.fill(&mut payload)?;
        Ok(whole.then_some(Came { kind, flags, stream: u32::from_be_bytes(stream), payload }))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<bool> {
        match self.0.0.read_exact(bytes) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("nothing comes, and it does not end")
            }
            Err(_) => Ok(false),
        }
    }
}

/// The status that a header block of the gateway begins with, as its library writes it.
fn status(came: &Came) -> Result<u16> {
    Ok(match came.payload.as_slice() {
        [0x88, ..] => 200,
        [0x89, ..] => 204,
        [0x8a, ..] => 206,
        [0x8b, ..] => 304,
        [0x8c, ..] => 400,
        [0x8d, ..] => 404,
        [0x8e, ..] => 500,
        // `:status` with a value of its own: an error of some kind, and none that this file needs to tell apart.
        [0x08 | 0x48, ..] => 599,
        block => bail!("no status begins with {block:02x?}"),
    })
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// HEADERS with these fields, whatever they are; `flags` beside `END_HEADERS`.
pub(crate) fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(0, name, value)).collect();
    frame(HEADERS, END_HEADERS | flags, stream, &block)
}

/// DATA that ends its stream.
pub(crate) fn data(stream: u32, body: &[u8]) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, body)
}

/// A field with a literal name, 0x40 to have it indexed, 0 to have it not.
fn literal(kind: u8, name: &str, value: &str) -> Vec<u8> {
    [&[kind][..], &string(name), &string(value)].concat()
}

/// A string of HPACK, not compressed.
fn string(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(length) = u8::try_from(text.len()).ok().filter(|length| *length < 127) {
        bytes.push(length);
    } else {
        bytes.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            bytes.push(u8::try_from(rest % 128).unwrap_or(0) | 128);
            rest /= 128;
        }
        bytes.push(u8::try_from(rest).unwrap_or(0));
    }
    bytes.extend(text.bytes());
    bytes
}

/// A request whose block names one long field again and again: a byte on the wire, 4 kB in memory.
pub(crate) fn hpack_bomb(stand: &Stand) -> Result<()> {
    bomb(stand, "x-bomb", 4_000, "hpack")
}

/// The same with crumbs of a cookie, which are joined.
pub(crate) fn cookie_bomb(stand: &Stand) -> Result<()> {
    bomb(stand, "cookie", 8_000, "cookie")
}

/// In HPACK, a field by its place in the tables.
const INDEXED: u8 = 0x80;
/// The newest entry of the dynamic table, behind the 61 of the static one.
const NEWEST: u8 = 0x3e;

fn bomb(stand: &Stand, name: &str, times: usize, host: &str) -> Result<()> {
    let host = format!("{host}.bomb.test");
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", &*host)];
    let mut block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(0, name, value)).collect();
    block.extend(literal(0x40, name, &"a".repeat(3_900)));
    block.extend(vec![INDEXED | NEWEST; times]);
    let before = stand.memory()?;
    for _ in 0..10 {
        let mut raw = Raw::client(stand)?;
        raw.send(&[frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)])?;
        let status = raw.status(1)?;
        ensure!(status.is_none_or(|status| status >= 400), "it passes: {status:?}");
    }
    let seen = stand.seen(&host);
    ensure!(seen.is_empty(), "the origin has seen it");
    // Ten times 16 or 32 MB if it were kept; others are served meanwhile.
    let grown = stand.memory()?.saturating_sub(before);
    ensure!(grown < 12 << 20, "{grown} bytes more");
    Ok(())
}

/// Connections that ask, reset what they have asked for, and go without a word.
pub(crate) fn churn(stand: &Stand) -> Result<()> {
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "churn.test")];
    let round = || -> Result<()> {
        for _ in 0..100 {
            let mut raw = Raw::client(stand)?;
            let frames = (0..10).flat_map(|number| {
                let stream = 2 * number + 1;
                [headers(stream, END_STREAM, &fields), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())]
            });
            // It may have had enough before the last.
            let _ = raw.send(&frames.chain([frame(GOAWAY, 0, 0, &[0; 8])]).collect::<Vec<_>>());
            raw.0.finish();
            raw.0.rest()?;
        }
        Ok(())
    };
    // What is made once and kept (threads, pools, buffers) is there after the first rounds.
    round()?;
    round()?;
    let before = stand.memory()?;
    for _ in 0..5 {
        round()?;
    }
    let grown = stand.memory()?.saturating_sub(before);
    ensure!(grown < 8 << 20, "{grown} bytes more after 500 connections");
    Ok(())
}

/// Half a preface, and then nothing. How long it stays is returned.
pub(crate) fn half_a_preface(stand: &Stand) -> Result<Duration> {
    let mut wire = stand.wire()?;
    wire.0.set_read_timeout(Some(Duration::from_secs(45)))?;
    wire.0.write_all(b"PRI * HTTP/2.0\r\n").context("the gateway")?;
    let begun = Instant::now();
    wire.rest()?;
    Ok(begun.elapsed())
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
