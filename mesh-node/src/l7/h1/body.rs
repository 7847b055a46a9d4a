//! Bodies as they leave.

use bytes::BytesMut;
use http::HeaderMap;

use super::encode::put_fields;
use super::fields::may_trail;

/// Frames a body as its head has said. Made by [`encode_request`](super::encode_request) and
/// [`encode_response`](super::encode_response) with the head, so the two cannot differ.
///
/// After an error the connection must be closed: the receiver waits for bytes that do not exist, or would take body
/// for a head.
#[derive(Debug)]
pub struct BodyEncoder {
    state: State,
}

/// A body that is not what its head has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// More bytes than declared, or bytes where there can be none.
    #[error("the body is longer than its head says")]
    BodyTooLong,
    /// The end, with fewer bytes than declared.
    #[error("the body is shorter than its head says")]
    BodyTooShort,
    /// A request whose body would end with the connection.
    #[error("a request cannot end with its connection")]
    CloseDelimitedRequest,
}

/// What stands around one piece of data.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    prefix: [u8; PREFIX_BYTES],
    start: usize,
    suffix: &'static [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// This many bytes are missing.
    Length(u64),
    Chunked,
    Close,
    Done,
}

impl BodyEncoder {
    /// No body.
    pub(super) const EMPTY: Self = Self { state: State::Length(0) };

    /// A body that ends with the connection.
    pub(super) const CLOSE: Self = Self { state: State::Close };

    /// A body in chunks.
    pub(super) const CHUNKED: Self = Self { state: State::Chunked };

    /// A body of known length.
    pub(super) const fn length(length: u64) -> Self {
        Self { state: State::Length(length) }
    }

    /// Bytes as they are, after both sides have left HTTP.
    pub const fn raw() -> Self {
        Self::CLOSE
    }

    /// Whether the connection has to be closed after this body, to end it.
    pub const fn ends_with_connection(&self) -> bool {
        matches!(self.state, State::Close)
    }

    /// What to write before and after `len` bytes of data, for writers that take several slices at once.
    pub fn frame(&mut self, len: usize) -> Result<Frame, EncodeError> {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        match &mut self.state {
            // A chunk without data would end the body.
            _ if len == 0 => Ok(Frame::NONE),
            State::Length(missing) => {
                *missing = missing.checked_sub(len).ok_or(EncodeError::BodyTooLong)?;
                Ok(Frame::NONE)
            }
            State::Chunked => Ok(Frame::chunk(len)),
            State::Close => Ok(Frame::NONE),
            State::Done => Err(EncodeError::BodyTooLong),
        }
    }

    /// Writes data with what stands around it.
    pub fn data(&mut self, data: &[u8], out: &mut BytesMut) -> Result<(), EncodeError> {
        let frame = self.frame(data.len())?;
        out.reserve(PREFIX_BYTES + data.len() + CRLF.len());
        out.extend_from_slice(frame.prefix());
        out.extend_from_slice(data);
        out.extend_from_slice(frame.suffix());
        Ok(())
    }

    /// Writes the end. Trailers go with chunks only, and without fields that have no place there.
    pub fn finish(&mut self, trailers: Option<&HeaderMap>, out: &mut BytesMut) -> Result<(), EncodeError> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Length(0) | State::Close | State::Done => Ok(()),
            State::Length(_) => Err(EncodeError::BodyTooShort),
            State::Chunked => {
                out.extend_from_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    put_fields(trailers, out, may_trail);
                }
                out.extend_from_slice(CRLF);
                Ok(())
            }
        }
    }
}

impl Frame {
    const NONE: Self = Self { prefix: [0; PREFIX_BYTES], start: PREFIX_BYTES, suffix: b"" };

    /// What to write before the data.
    pub fn prefix(&self) -> &[u8] {
        self.prefix.get(self.start..).unwrap_or_default()
    }

    /// What to write after the data.
    pub const fn suffix(&self) -> &'static [u8] {
        self.suffix
    }

    fn chunk(len: u64) -> Self {
        let mut prefix = [0; PREFIX_BYTES];
        let mut rest = len;
        let mut start = PREFIX_BYTES;
        for (place, byte) in prefix.iter_mut().enumerate().rev() {
            *byte = match place {
                LF_AT => b'\n',
                CR_AT => b'\r',
                _ if rest == 0 => break,
                _ => hex_digit(rest & 0xf),
            };
            if place < CR_AT {
                rest >>= 4;
            }
            start = place;
        }
        Self { prefix, start, suffix: CRLF }
    }
}

fn hex_digit(value: u64) -> u8 {
    let digit = u8::try_from(value).unwrap_or_default();
    if digit < 10 { b'0' + digit } else { b'a' + (digit - 10) }
}

const CRLF: &[u8] = b"\r\n";

/// A 64-bit number in hexadecimal, and a line end.
const PREFIX_BYTES: usize = 16 + 2;
const CR_AT: usize = PREFIX_BYTES - 2;
const LF_AT: usize = PREFIX_BYTES - 1;

#[cfg(test)]
mod tests;
