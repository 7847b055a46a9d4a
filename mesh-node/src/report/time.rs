//! Points in time as people and log collectors read them: RFC 3339, UTC, microseconds.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Displays a time as `2026-02-03T04:05:06.000007Z`; anything before 1970 as 1970.
#[derive(Clone, Copy, Debug)]
pub struct Rfc3339(pub SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        let micros = since.subsec_micros();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

/// Year, month and day of the Gregorian calendar for a count of days since 1970-01-01.
///
/// Counts in years that begin on 1 March, so that the leap day is the last of its year.
pub(super) fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + DAYS_FROM_YEAR_0_TO_1970;
    let (era, day_of_era) = (shifted / DAYS_IN_400_YEARS, shifted % DAYS_IN_400_YEARS);
    let leap_days = day_of_era / 1_460 + day_of_era / 146_096 - day_of_era / 36_524;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// From 0000-03-01 to 1970-01-01.
const DAYS_FROM_YEAR_0_TO_1970: u64 = 719_468;
/// The period of the Gregorian calendar.
const DAYS_IN_400_YEARS: u64 = 146_097;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn known_points_in_time() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(Rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)).to_string(), text);
        }
        let micros = UNIX_EPOCH + Duration::from_micros(7);
        assert_eq!(Rfc3339(micros).to_string(), "1970-01-01T00:00:00.000007Z");
    }

    #[test]
    fn each_day_follows_the_one_before_it() {
        let mut last = (1970, 1, 1);
        for day in 1..200_000 {
            let next = civil(day);
            assert!(next > last, "{next:?} after {last:?}");
            assert!(next.2 == last.2 + 1 || next.2 == 1);
            last = next;
        }
    }
}
