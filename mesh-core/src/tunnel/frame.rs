//! Frames: a head of 8 bytes and a payload that fits one TLS record together with it.
//!
//! ```text
//! 0      1       2              4                      8
//! | kind | flags | length (u16) | stream (u32)         | payload …
//! ```
//!
//! Numbers are big-endian. A peer that sends anything else than what is listed here breaks the protocol, and loses the tunnel.

/// Bytes of a head.
pub const HEAD: usize = 8;
/// Bytes of a payload: head and payload fill one TLS record.
pub const MAX_PAYLOAD: usize = (16 << 10) - HEAD;

/// The number of a stream, given by the client, each larger than the last. 0 is the tunnel itself.
pub type StreamId = u32;

/// What one frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The client wants a connection; the payload is an [`super::open::Open`].
    Open(StreamId, &'a [u8]),
    /// It is there.
    Accept(StreamId),
    /// It is not, and the stream is over.
    Refuse(StreamId, Refusal),
    /// Bytes of the connection, never none unless they are its last; `fin`: nothing follows.
    Data {
        /// Whose.
        stream: StreamId,
        /// As much as fits.
        bytes: &'a [u8],
        /// Whether this ends the direction.
        fin: bool,
    },
    /// So many bytes more may be sent.
    Credit(StreamId, u32),
    /// The connection broke, both ways.
    Reset(StreamId),
    /// Whether the other end is there; answered with the same eight bytes.
    Ping([u8; 8]),
    /// It is.
    Pong([u8; 8]),
    /// Streams above this one are not taken any more; the others go on until they end.
    Leave(StreamId),
}

/// Why a connection was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody looked at it: the tunnel is full, or about to end. Another tunnel may do.
    NotTaken,
    /// The status that an HBONE peer would answer: 400 to 599.
    Status(u16),
}

/// Why bytes are no frame of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// See [`MAX_PAYLOAD`].
    #[error("a frame of {0} bytes, longer than any may be")]
    Length(usize),
    /// No such kind.
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    /// Flags that the kind does not have.
    #[error("a frame of kind {kind} with the flags {flags:#04x}")]
    Flags {
        /// The kind.
        kind: u8,
        /// All of them.
        flags: u8,
    },
    /// About the tunnel where it must be about a stream, or the other way round.
    #[error("a frame of kind {0} about the wrong thing")]
    Stream(u8),
    /// A payload that the kind does not have.
    #[error("a frame of kind {kind} with a payload of {length} bytes that it cannot have")]
    Payload {
        /// The kind.
        kind: u8,
        /// Bytes.
        length: usize,
    },
}

/// Takes the first frame off `bytes`: it and its whole length; nothing if it is not complete yet.
///
/// # Errors
///
/// If what is there cannot become a frame, however it goes on.
pub fn first(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
    let [kind, flags, l0, l1, s0, s1, s2, s3] = *head;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    if length > MAX_PAYLOAD {
        return Err(FrameError::Length(length));
    }
    if flags & !flags_of(kind)? != 0 {
        return Err(FrameError::Flags { kind, flags });
    }
    let Some(payload) = rest.get(..length) else { return Ok(None) };
    let stream = u32::from_be_bytes([s0, s1, s2, s3]);
    let frame = parse(kind, flags, stream, payload)?;
    Ok(Some((frame, HEAD + length)))
}

fn flags_of(kind: u8) -> Result<u8, FrameError> {
    match kind {
        DATA => Ok(FIN),
        OPEN..=LEAVE => Ok(0),
        _ => Err(FrameError::Kind(kind)),
    }
}

fn parse(kind: u8, flags: u8, stream: StreamId, payload: &[u8]) -> Result<Frame<'_>, FrameError> {
    let about_tunnel = matches!(kind, PING | PONG);
    if kind != LEAVE && about_tunnel != (stream == 0) {
        return Err(FrameError::Stream(kind));
    }
    let wrong = FrameError::Payload { kind, length: payload.len() };
    let number = || payload.try_into().map(u32::from_be_bytes).map_err(|_| wrong);
    let eight = || payload.try_into().map_err(|_| wrong);
    let nothing = || if payload.is_empty() { Ok(()) } else { Err(wrong) };
    Ok(match kind {
        OPEN => Frame::Open(stream, payload),
        ACCEPT => nothing().map(|()| Frame::Accept(stream))?,
        REFUSE => Frame::Refuse(stream, refusal(payload).ok_or(wrong)?),
        DATA if payload.is_empty() && flags & FIN == 0 => return Err(wrong),
        DATA => Frame::Data { stream, bytes: payload, fin: flags & FIN != 0 },
        CREDIT => {
            Frame::Credit(stream, number().and_then(|more| if more == 0 { Err(wrong) } else { Ok(more) })?)
        }
        RESET => nothing().map(|()| Frame::Reset(stream))?,
        PING => Frame::Ping(eight()?),
        PONG => Frame::Pong(eight()?),
        LEAVE => nothing().map(|()| Frame::Leave(stream))?,
        _ => return Err(FrameError::Kind(kind)),
    })
}

impl Refusal {
    const fn code(self) -> u16 {
        match self {
            Self::NotTaken => 0,
            Self::Status(status) => status,
        }
    }
}

fn refusal(payload: &[u8]) -> Option<Refusal> {
    match u16::from_be_bytes(payload.try_into().ok()?) {
        0 => Some(Refusal::NotTaken),
        status @ 400..=599 => Some(Refusal::Status(status)),
        _ => None,
    }
}

impl Frame<'_> {
    /// Appends the frame to `out`. A payload must not be longer than [`MAX_PAYLOAD`].
    pub fn write(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Open(stream, open) => put(out, (OPEN, 0, stream), open),
            Self::Accept(stream) => put(out, (ACCEPT, 0, stream), &[]),
            Self::Refuse(stream, refusal) => put(out, (REFUSE, 0, stream), &refusal.code().to_be_bytes()),
            Self::Data { stream, bytes, fin } => {
                out.extend_from_slice(&data_head(stream, bytes.len(), fin));
                out.extend_from_slice(bytes);
            }
            Self::Credit(stream, more) => put(out, (CREDIT, 0, stream), &more.to_be_bytes()),
            Self::Reset(stream) => put(out, (RESET, 0, stream), &[]),
            Self::Ping(bytes) => put(out, (PING, 0, 0), &bytes),
            Self::Pong(bytes) => put(out, (PONG, 0, 0), &bytes),
            Self::Leave(stream) => put(out, (LEAVE, 0, stream), &[]),
        }
    }

    /// Whether it carries a part of a connection; all others only make work.
    pub const fn carries(&self) -> bool {
        matches!(self, Self::Open(..) | Self::Accept(_) | Self::Data { .. })
    }
}

/// The head of a [`Frame::Data`], for whoever has the bytes elsewhere.
#[must_use]
pub fn data_head(stream: StreamId, length: usize, fin: bool) -> [u8; HEAD] {
    head((DATA, if fin { FIN } else { 0 }, stream), length)
}

fn put(out: &mut Vec<u8>, what: (u8, u8, StreamId), payload: &[u8]) {
    out.extend_from_slice(&head(what, payload.len()));
    out.extend_from_slice(payload);
}

fn head((kind, flags, stream): (u8, u8, StreamId), length: usize) -> [u8; HEAD] {
    debug_assert!(length <= MAX_PAYLOAD, "{length} bytes in one frame");
    let [l0, l1] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    [kind, flags, l0, l1, s0, s1, s2, s3]
}

const OPEN: u8 = 1;
const ACCEPT: u8 = 2;
const REFUSE: u8 = 3;
const DATA: u8 = 4;
const CREDIT: u8 = 5;
const RESET: u8 = 6;
const PING: u8 = 7;
const PONG: u8 = 8;
const LEAVE: u8 = 9;

/// Flag of DATA.
const FIN: u8 = 1;

#[cfg(test)]
mod tests;
