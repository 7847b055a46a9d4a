//! Frames of HTTP/2 that make work and carry nothing, and requests that are taken back: how many of them a peer may send.
//!
//! An HTTP/2 stack bounds what it keeps. What it only has to look at, and to answer, it takes for as long as it comes:
//! PING, SETTINGS, PRIORITY, `WINDOW_UPDATE`, `RST_STREAM` of streams that are gone, and frames that nobody knows
//! (CVE-2019-9511 to 9518). Honest peers send such frames because of requests and bodies, or now and then.

use std::time::{Duration, Instant};

use super::heads::Heads;

/// The head of a frame (RFC 9113, 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Its type, as a number: peers may send any.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// The stream that it is about; 0 is the connection.
    pub stream: u32,
    /// Bytes that follow.
    pub length: u32,
}

/// Finds the heads of frames in one direction of a connection, however its bytes are cut.
#[derive(Debug)]
pub struct Scanner(Heads<HEAD>);

impl Scanner {
    /// What a client sends: its preface comes first.
    pub const fn of_client() -> Self {
        Self(Heads::after(PREFACE))
    }

    /// What a server sends.
    pub const fn of_server() -> Self {
        Self(Heads::after(0))
    }

    /// Goes through the next bytes; `visit` is called once for each frame whose head ends in them.
    pub fn scan(&mut self, bytes: &[u8], mut visit: impl FnMut(Frame)) {
        self.0.scan(bytes, |head| {
            let frame = Frame::parse(head);
            visit(frame);
            frame.length
        });
    }
}

impl Frame {
    /// DATA.
    pub const DATA: u8 = 0;
    /// HEADERS.
    pub const HEADERS: u8 = 1;
    /// SETTINGS.
    pub const SETTINGS: u8 = 4;
    /// GOAWAY.
    pub const GOAWAY: u8 = 7;

    const fn parse([a, b, c, kind, flags, s0, s1, s2, s3]: [u8; HEAD]) -> Self {
        let length = u32::from_be_bytes([0, a, b, c]);
        Self { kind, flags, stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]), length }
    }

    /// Whether it carries a part of a request or of an answer.
    pub const fn carries(self) -> bool {
        self.kind == Self::HEADERS || (self.kind == Self::DATA && self.length > 0)
    }

    /// Whether it makes work and carries nothing. Empty DATA and CONTINUATION have limits of their own in the stack.
    pub const fn is_idle(self) -> bool {
        !matches!(self.kind, Self::DATA | Self::HEADERS | PUSH_PROMISE | CONTINUATION)
    }
}

/// How many frames that carry nothing one peer of a connection may still send: [`FrameBudget::MOST`] at once,
/// [`FrameBudget::EACH_SECOND`] more each second, and [`FrameBudget::FOR_EACH`] for each frame that carries something,
/// in either direction. The last is Envoy's rule for `WINDOW_UPDATE` (`max_inbound_window_update_frames_per_data_frame_sent`).
#[derive(Debug)]
pub struct FrameBudget {
    left: u32,
    since: Option<Instant>,
}

impl FrameBudget {
    /// Frames at once, and the most that can be saved up.
    pub const MOST: u32 = 1_000;
    /// More each second.
    pub const EACH_SECOND: u32 = 100;
    /// More for each frame that carries something.
    pub const FOR_EACH: u32 = 10;

    /// Of a new connection.
    pub const fn new() -> Self {
        Self { left: Self::MOST, since: None }
    }

    /// A frame that carries something went either way.
    pub fn earn(&mut self) {
        self.left = self.left.saturating_add(Self::FOR_EACH).min(Self::MOST);
    }

    /// A frame that carries nothing has come. Whether that is all right.
    #[must_use]
    pub fn spend(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let more = now.saturating_duration_since(since).as_millis() * u128::from(Self::EACH_SECOND) / 1_000;
        if more > 0 {
            self.left = self.left.saturating_add(u32::try_from(more).unwrap_or(u32::MAX)).min(Self::MOST);
            self.since = Some(now);
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

impl Default for FrameBudget {
    fn default() -> Self {
        Self::new()
    }
}

/// How many requests of a connection are taken back right after they were made (CVE-2023-44487). Such a request costs its
/// client two small frames, and the proxy a route, a connection and a log line. Envoy's rule and figures
/// (`overload.premature_reset_total_stream_count`).
#[derive(Debug, Default)]
pub struct ResetBudget {
    ended: u32,
    early: u32,
}

impl ResetBudget {
    /// Requests, of which half may have been taken back.
    pub const REQUESTS: u32 = 500;
    /// Only those count that were taken back sooner than this, and before their answer.
    pub const EARLY: Duration = Duration::from_secs(1);

    /// A request has ended; `early` if its client took it back. Whether that is all right.
    #[must_use]
    pub fn end(&mut self, early: bool) -> bool {
        self.ended = self.ended.saturating_add(1);
        self.early = self.early.saturating_add(u32::from(early));
        !early || self.early.saturating_mul(2) < self.ended.max(Self::REQUESTS)
    }
}

/// Bytes of the head of a frame.
const HEAD: usize = 9;
/// Bytes of what a client says first.
const PREFACE: usize = 24;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;

#[cfg(test)]
mod tests;
