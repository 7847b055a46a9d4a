//! Times in formats of the user's own: those of `strftime`, in UTC, with Envoy's `%f` for parts of a second.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::report::time::civil;

/// A time as `format` has it; anything before 1970 as 1970. What is no conversion stays as it is written.
pub(super) fn formatted(format: &str, time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let moment = Moment::of(since.as_secs(), since.subsec_nanos());
    let mut out = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let digits = after.chars().next().and_then(|c| c.to_digit(10)).filter(|it| (1..=9).contains(it));
        let after = if digits.is_some() { after.get(1..).unwrap_or_default() } else { after };
        let Some(conversion) = after.chars().next() else {
            out.push('%');
            return out;
        };
        moment.write(&mut out, conversion, digits);
        rest = after.get(conversion.len_utf8()..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

struct Moment {
    seconds: u64,
    nanos: u32,
    days: u64,
    year: u64,
    month: u64,
    day: u64,
}

impl Moment {
    fn of(seconds: u64, nanos: u32) -> Self {
        let days = seconds / 86_400;
        let (year, month, day) = civil(days);
        Self { seconds, nanos, days, year, month, day }
    }

    fn write(&self, out: &mut String, conversion: char, digits: Option<u32>) {
        let Self { seconds, nanos, days, year, month, day } = *self;
        let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
        let name = |names: &[&'static str], at: u64| {
            usize::try_from(at).ok().and_then(|at| names.get(at)).copied().unwrap_or_default()
        };
        let (month_name, day_name) = (name(&MONTHS, month - 1), name(&DAYS, (days + 4) % 7));
        let short = |name: &'static str| name.get(..3).unwrap_or(name);
        let written = match conversion {
            'Y' => write!(out, "{year:04}"),
            'y' => write!(out, "{:02}", year % 100),
            'm' => write!(out, "{month:02}"),
            'd' => write!(out, "{day:02}"),
            'e' => write!(out, "{day:2}"),
            'H' => write!(out, "{hour:02}"),
            'I' => write!(out, "{:02}", (hour + 11) % 12 + 1),
            'p' => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }),
            'M' => write!(out, "{minute:02}"),
            'S' => write!(out, "{second:02}"),
            's' => write!(out, "{seconds}"),
            'f' => {
                let all = format!("{nanos:09}");
                let count = digits.and_then(|it| usize::try_from(it).ok()).unwrap_or(all.len());
                write!(out, "{}", all.get(..count).unwrap_or(&all))
            }
            'F' => write!(out, "{year:04}-{month:02}-{day:02}"),
            'T' => write!(out, "{hour:02}:{minute:02}:{second:02}"),
            'D' => write!(out, "{month:02}/{day:02}/{:02}", year % 100),
            'b' | 'h' => write!(out, "{}", short(month_name)),
            'B' => write!(out, "{month_name}"),
            'a' => write!(out, "{}", short(day_name)),
            'A' => write!(out, "{day_name}"),
            'z' => write!(out, "+0000"),
            'Z' => write!(out, "UTC"),
            '%' => write!(out, "%"),
            other => write!(out, "%{other}"),
        };
        written.expect("a String takes all");
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// 1970-01-01 was a Thursday.
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_as_strftime_has_them() {
        let time = UNIX_EPOCH + Duration::from_millis(1_795_251_600_123);
        for (format, expected) in [
            ("%Y/%m/%dT%H:%M:%S%z %s", "2026/11/21T09:00:00+0000 1795251600"),
            ("%F %T.%3f %6f %f", "2026-11-21 09:00:00.123 123000 123000000"),
            ("%a %A %b %B %e %y %D %I%p %Z", "Sat Saturday Nov November 21 26 11/21/26 09AM UTC"),
            ("100%% %q ü%", "100% %q ü%"),
            ("", ""),
        ] {
            assert_eq!(formatted(format, time), expected, "{format}");
        }
        assert_eq!(formatted("%I%p %e", UNIX_EPOCH), "12AM  1");
    }
}
