//! Where a head ends.
//!
//! The scan runs before the head is tokenised, for three reasons: a head that arrives byte by byte costs a search and
//! not a parse each time; what is found does not depend on how the bytes were split; and a bare LF, which tokenisers
//! take for a line end and other proxies do not, is seen in the same pass.

use super::Reason;

/// Finds the end of the section that starts with `bytes` and ends with an empty line; the position is the one after
/// it. `None` asks for more bytes. An empty section is an empty line.
///
/// At most `limit` bytes belong to it; `too_large` is what it means when there are more.
pub(super) fn section_end(bytes: &[u8], limit: usize, too_large: Reason) -> Result<Option<usize>, Reason> {
    let window = bytes.get(..limit).unwrap_or(bytes);
    let mut line_start = 0;
    for lf in memchr::memchr_iter(b'\n', window) {
        let Some(cr) = lf.checked_sub(1).filter(|&cr| window.get(cr) == Some(&b'\r')) else {
            return Err(Reason::LineEnd);
        };
        if cr == line_start {
            return Ok(Some(lf + 1));
        }
        line_start = lf + 1;
    }
    if bytes.len() >= limit { Err(too_large) } else { Ok(None) }
}

/// Refuses a first line of more than `limit` bytes, as soon as that many are there.
pub(super) fn first_line(bytes: &[u8], limit: usize) -> Result<(), Reason> {
    match bytes.get(..limit + CRLF) {
        Some(window) if memchr::memchr(b'\n', window).is_none() => Err(Reason::LineTooLong),
        _ => Ok(()),
    }
}

const CRLF: usize = 2;
