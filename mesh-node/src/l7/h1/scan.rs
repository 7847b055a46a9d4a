//! Where a head ends.
//!
//! The scan runs before the head is tokenised, for three reasons: a head that arrives byte by byte costs a search and
//! not a parse each time; what is found does not depend on how the bytes were split; and a bare LF, which tokenisers
//! take for a line end and other proxies do not, is seen in the same pass.

use super::{Limits, MAX_FIELDS, Reason};

/// What a section may have before it is refused.
///
/// The lines are counted here and not left to the tokeniser: a head that arrives byte by byte is searched as often,
/// and thousands of short lines would make that dear.
pub(super) struct Bounds {
    bytes: usize,
    too_large: Reason,
    lines: usize,
    too_many: Reason,
}

impl Bounds {
    /// Those of a head.
    pub(super) fn head(limits: &Limits) -> Self {
        Self {
            bytes: limits.head_bytes,
            too_large: Reason::HeadTooLarge,
            lines: 1 + limits.fields.min(MAX_FIELDS),
            too_many: Reason::TooManyFields,
        }
    }

    /// Those of a trailer section.
    pub(super) fn trailers(limits: &Limits) -> Self {
        Self {
            bytes: limits.trailer_bytes,
            too_large: Reason::TrailersTooLarge,
            lines: limits.trailers.min(MAX_FIELDS),
            too_many: Reason::TrailersTooLarge,
        }
    }
}

/// Finds the end of the section that starts with `bytes` and ends with an empty line; the position is the one after
/// it. `None` asks for more bytes. An empty section is an empty line.
pub(super) fn section_end(bytes: &[u8], bounds: &Bounds) -> Result<Option<usize>, Reason> {
    let window = bytes.get(..bounds.bytes).unwrap_or(bytes);
    let mut line_start = 0;
    for (line, lf) in memchr::memchr_iter(b'\n', window).enumerate() {
        let Some(cr) = lf.checked_sub(1).filter(|&cr| window.get(cr) == Some(&b'\r')) else {
            return Err(Reason::LineEnd);
        };
        if cr == line_start {
            return Ok(Some(lf + 1));
        }
        if line == bounds.lines {
            return Err(bounds.too_many);
        }
        line_start = lf + 1;
    }
    if bytes.len() >= bounds.bytes { Err(bounds.too_large) } else { Ok(None) }
}

/// Refuses a first line of more than `limit` bytes, as soon as that many are there.
pub(super) fn first_line(bytes: &[u8], limit: usize) -> Result<(), Reason> {
    match bytes.get(..limit + CRLF) {
        Some(window) if memchr::memchr(b'\n', window).is_none() => Err(Reason::LineTooLong),
        _ => Ok(()),
    }
}

const CRLF: usize = 2;
