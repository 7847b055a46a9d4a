//! Times of requests and connections as text: RFC 3339, UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::report::Rfc3339;
use crate::report::text::padded;

/// Writes times, and remembers the second it wrote last: of many requests in one second only the first pays for
/// calendar arithmetic.
#[derive(Debug)]
pub(in crate::report) struct Clock {
    second: u64,
    /// `2026-11-21T09:00:00.` of that second.
    text: String,
}

impl Default for Clock {
    fn default() -> Self {
        Self { second: u64::MAX, text: String::new() }
    }
}

impl Clock {
    /// Appends a time with milliseconds; anything before 1970 as 1970.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, time: SystemTime) {
        let millis = self.write_second(out, time).subsec_millis();
        padded(out, millis.into(), 3);
        out.push(b'Z');
    }

    /// The same with microseconds.
    pub(in crate::report) fn write_micros(&mut self, out: &mut Vec<u8>, time: SystemTime) {
        let micros = self.write_second(out, time).subsec_micros();
        padded(out, micros.into(), 6);
        out.push(b'Z');
    }

    /// All but the part of a second; says how long it is since 1970.
    fn write_second(&mut self, out: &mut Vec<u8>, time: SystemTime) -> Duration {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != since.as_secs() {
            self.second = since.as_secs();
            self.text = Rfc3339(time).to_string();
            self.text.truncate(self.text.find('.').map_or(self.text.len(), |dot| dot + 1));
        }
        out.extend_from_slice(self.text.as_bytes());
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_whatever_came_before() {
        let mut clock = Clock::default();
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (7, "1970-01-01T00:00:00.007Z"),
            (1_795_251_600_123, "2026-11-21T09:00:00.123Z"),
            (1_795_251_600_045, "2026-11-21T09:00:00.045Z"),
            (1_795_251_601_999, "2026-11-21T09:00:01.999Z"),
            (1_795_251_600_000, "2026-11-21T09:00:00.000Z"),
        ] {
            let mut out = Vec::new();
            clock.write(&mut out, UNIX_EPOCH + Duration::from_millis(millis));
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
        let mut out = Vec::new();
        clock.write_micros(&mut out, UNIX_EPOCH + Duration::from_micros(1_795_251_600_000_042));
        assert_eq!(out, b"2026-11-21T09:00:00.000042Z");
        out.clear();
        clock.write(&mut out, UNIX_EPOCH - Duration::from_secs(5));
        assert_eq!(out, b"1970-01-01T00:00:00.000Z");
    }
}
