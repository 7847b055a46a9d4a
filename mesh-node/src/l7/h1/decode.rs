//! Bodies as they arrive.

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;

use super::fields::trailers;
use super::refused::Side;
use super::scan::{self, Bounds};
use super::{Framing, Limits, MAX_FIELDS, Reason, Refused, head_error};

/// Takes a body out of the bytes of a connection, and not a byte more.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    side: Side,
}

/// The next piece of a body.
#[derive(Debug)]
pub enum Piece {
    /// Bytes of it; never none.
    Data(Bytes),
    /// Its end, with its trailers, if there are any. Asked again, the decoder says so again, without them.
    End(Option<HeaderMap>),
    /// Nothing, until more bytes have arrived.
    NeedMore,
}

#[derive(Debug)]
enum State {
    Length(u64),
    Chunked(Chunked),
    Close,
    Done,
}

#[derive(Debug)]
struct Chunked {
    phase: Phase,
    /// Bytes left of the current chunk.
    remaining: u64,
    /// Bytes around the chunks so far, less what small chunks may cost.
    overhead: u64,
    limits: Limits,
}

#[derive(Debug)]
enum Phase {
    Size,
    Data,
    DataEnd,
    Trailers,
}

impl BodyDecoder {
    /// The body of a request, which a client sends.
    pub fn request(framing: Framing, limits: &Limits) -> Self {
        Self { state: State::new(framing, limits), side: Side::Client }
    }

    /// The body of a response, which a server sends.
    pub fn response(framing: Framing, limits: &Limits) -> Self {
        Self { state: State::new(framing, limits), side: Side::Server }
    }

    /// Bytes as they are, after both sides have left HTTP.
    pub const fn raw() -> Self {
        Self { state: State::Close, side: Side::Client }
    }

    /// Takes the next piece out of `buf`. What follows the body stays there.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Piece, Refused> {
        let piece = match &mut self.state {
            State::Done => Ok(Piece::End(None)),
            State::Close if buf.is_empty() => Ok(Piece::NeedMore),
            State::Close => Ok(Piece::Data(buf.split().freeze())),
            State::Length(remaining) => Ok(take(remaining, buf)),
            State::Chunked(chunked) => chunked.decode(buf),
        };
        if matches!(piece, Ok(Piece::End(_))) || matches!(self.state, State::Length(0)) {
            self.state = State::Done;
        }
        piece.map_err(|reason| Refused { side: self.side, reason })
    }

    /// Whether the whole body was taken. True as early as the last byte of a body of known length; of a chunked one,
    /// after [`Piece::End`]. A connection is used again only then: what is left would be the next message.
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// How many bytes are still to come, if that is known.
    pub const fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(remaining) => Some(remaining),
            State::Done => Some(0),
            State::Chunked(_) | State::Close => None,
        }
    }

    /// The connection has ended, and everything that arrived was decoded. Refuses to take that for the end of a body
    /// that ends in another way.
    pub fn end_of_input(&mut self) -> Result<(), Refused> {
        match self.state {
            State::Close | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            State::Length(_) | State::Chunked(_) => {
                Err(Refused { side: self.side, reason: Reason::Truncated })
            }
        }
    }
}

impl State {
    fn new(framing: Framing, limits: &Limits) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Close => Self::Close,
            Framing::Chunked => {
                Self::Chunked(Chunked { phase: Phase::Size, remaining: 0, overhead: 0, limits: *limits })
            }
        }
    }
}

impl Chunked {
    fn decode(&mut self, buf: &mut BytesMut) -> Result<Piece, Reason> {
        loop {
            let progress = match self.phase {
                Phase::Size => self.size(buf)?,
                Phase::Data => {
                    let piece = take(&mut self.remaining, buf);
                    if self.remaining == 0 {
                        self.phase = Phase::DataEnd;
                    }
                    return Ok(piece);
                }
                Phase::DataEnd => self.data_end(buf)?,
                Phase::Trailers => return self.trailers(buf),
            };
            if !progress {
                return Ok(Piece::NeedMore);
            }
        }
    }

    /// Takes the line before a chunk; `false` if it is not complete.
    fn size(&mut self, buf: &mut BytesMut) -> Result<bool, Reason> {
        let window = buf.get(..MAX_CHUNK_LINE_BYTES).unwrap_or(buf);
        let Some(lf) = memchr::memchr(b'\n', window) else {
            return if window.len() < MAX_CHUNK_LINE_BYTES {
                Ok(false)
            } else {
                Err(chunk_line_fault(window))
            };
        };
        let line = window.get(..lf).and_then(|line| line.strip_suffix(b"\r")).ok_or(Reason::LineEnd)?;
        self.remaining = chunk_size(line)?;
        buf.advance(lf + 1);
        self.count(lf + 1)?;
        self.phase = if self.remaining == 0 { Phase::Trailers } else { Phase::Data };
        Ok(true)
    }

    /// The rule of Go's net/http: sixteen bytes and twice the data are free, which one byte at a time stays below.
    fn count(&mut self, line: usize) -> Result<(), Reason> {
        let line = u64::try_from(line).unwrap_or(u64::MAX).saturating_add(2);
        let free = self.remaining.saturating_mul(2).saturating_add(FREE_OVERHEAD_BYTES);
        self.overhead = self.overhead.saturating_add(line).saturating_sub(free);
        if self.overhead > MAX_OVERHEAD_BYTES { Err(Reason::ChunkOverhead) } else { Ok(()) }
    }

    fn data_end(&mut self, buf: &mut BytesMut) -> Result<bool, Reason> {
        match &**buf {
            [] | [b'\r'] => Ok(false),
            [b'\r', b'\n', ..] => {
                buf.advance(2);
                self.phase = Phase::Size;
                Ok(true)
            }
            _ => Err(Reason::ChunkEnd),
        }
    }

    fn trailers(&self, buf: &mut BytesMut) -> Result<Piece, Reason> {
        let Some(end) = scan::section_end(buf, &Bounds::trailers(&self.limits))? else {
            return Ok(Piece::NeedMore);
        };
        let section = buf.split_to(end).freeze();
        if section.len() == 2 {
            return Ok(Piece::End(None));
        }
        let mut slots = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let slots = slots.get_mut(..self.limits.trailers.min(MAX_FIELDS)).unwrap_or_default();
        match httparse::parse_headers(&section, slots) {
            Ok(httparse::Status::Complete((_, parsed))) => Ok(Piece::End(Some(trailers(&section, parsed)?))),
            Ok(httparse::Status::Partial) => Err(Reason::LineEnd),
            Err(httparse::Error::TooManyHeaders) => Err(Reason::TrailersTooLarge),
            Err(error) => Err(head_error(error, Reason::FieldName, b"")),
        }
    }
}

/// Takes what is there of the `remaining` bytes.
fn take(remaining: &mut u64, buf: &mut BytesMut) -> Piece {
    if buf.is_empty() {
        return Piece::NeedMore;
    }
    let len = usize::try_from(*remaining).map_or(buf.len(), |remaining| remaining.min(buf.len()));
    let data = buf.split_to(len).freeze();
    *remaining = remaining.saturating_sub(u64::try_from(len).unwrap_or(u64::MAX));
    Piece::Data(data)
}

/// The size before a chunk: one to sixteen hexadecimal digits, and an extension, which is looked at and dropped.
fn chunk_size(line: &[u8]) -> Result<u64, Reason> {
    let digits = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
    if digits == 0 || digits > MAX_SIZE_DIGITS {
        return Err(Reason::ChunkSize);
    }
    match line.get(digits..) {
        None | Some([]) => {}
        Some([b';', extension @ ..]) if extension.iter().all(|b| *b == b'\t' || !b.is_ascii_control()) => {}
        Some([b';', ..]) => return Err(Reason::ChunkExtension),
        Some(_) => return Err(Reason::ChunkSize),
    }
    let value = |digit: u8| char::from(digit).to_digit(16).map(u64::from);
    let size = line.iter().take(digits).try_fold(0_u64, |size, &digit| Some(size << 4 | value(digit)?));
    size.ok_or(Reason::ChunkSize)
}

/// What is wrong with a line that is too long to end.
fn chunk_line_fault(window: &[u8]) -> Reason {
    match chunk_size(window) {
        Err(reason) => reason,
        Ok(_) => Reason::ChunkExtension,
    }
}

/// Longest line before a chunk: its size, an extension that somebody may have a use for, and the line end.
const MAX_CHUNK_LINE_BYTES: usize = MAX_SIZE_DIGITS + 256 + 2;

/// Digits of a 64-bit number in hexadecimal.
const MAX_SIZE_DIGITS: usize = 16;

/// Bytes around one chunk that are not counted.
const FREE_OVERHEAD_BYTES: u64 = 16;

/// Bytes around the chunks of one body, above those that are free.
const MAX_OVERHEAD_BYTES: u64 = 16 * 1024;

#[cfg(test)]
mod tests;
