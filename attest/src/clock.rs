//! The one place that reads the wall clock, and the text form of times (RFC 3339, in UTC, whole seconds).

use std::time::{SystemTime, UNIX_EPOCH};

/// 9999-12-31T23:59:59Z: no four-digit year is later.
const LAST_SECOND: u64 = 253_402_300_799;

/// Seconds since 1970; a clock before that reads as 0, which makes everything look not yet valid.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// `2026-11-23T02:29:39Z`; past the year 9999, the number.
#[must_use]
pub fn rfc3339(unix: u64) -> String {
    if unix > LAST_SECOND {
        return unix.to_string();
    }
    let (days, second) = (unix / 86_400, unix % 86_400);
    let (year, month, day) = date_of(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Reads RFC 3339 (section 5.6) from 1970 on: `2026-11-23T02:29:39Z`, an offset instead of `Z`, a fraction, which is cut off.
/// A leap second, which Unix time has no number for, is refused.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let offset_at = time.find(['Z', 'z', '+', '-'])?;
    let (time, offset) = time.split_at(offset_at);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let days = days_to(year, month, day)?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let local = i64::try_from(days * 86_400 + hour * 3600 + minute * 60 + second).ok()?;
    u64::try_from(local - offset_seconds(offset)?).ok().filter(|unix| *unix <= LAST_SECOND)
}

/// East of Greenwich is positive.
fn offset_seconds(offset: &str) -> Option<i64> {
    let sign = match offset.chars().next()? {
        'Z' | 'z' => return (offset.len() == 1).then_some(0),
        '+' => 1,
        _ => -1,
    };
    let [hour, minute] = numbers(offset.get(1..)?, ':', [2, 2])?;
    (hour <= 23 && minute <= 59).then(|| sign * i64::try_from(hour * 3600 + minute * 60).unwrap_or(0))
}

/// Decimal numbers of exactly these lengths.
fn numbers<const N: usize>(text: &str, separator: char, lengths: [usize; N]) -> Option<[u64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, length) in numbers.iter_mut().zip(lengths) {
        let part = parts.next().filter(|part| part.len() == length && part.bytes().all(|b| b.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const fn month_days(year: u64, month: u64) -> u64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date.
fn days_to(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 || !(1..=12).contains(&month) || !(1..=month_days(year, month)).contains(&day) {
        return None;
    }
    let years: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let months: u64 = (1..month).map(|month| month_days(year, month)).sum();
    Some(years + months + day - 1)
}

fn date_of(mut days: u64) -> (u64, u64, u64) {
    let mut year = 1970;
    while days >= if is_leap(year) { 366 } else { 365 } {
        days -= if is_leap(year) { 366 } else { 365 };
        year += 1;
    }
    let mut month = 1;
    while days >= month_days(year, month) {
        days -= month_days(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times() {
        for (text, unix) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2026-11-23T02:29:39Z", 1_795_400_979),
            ("9999-12-31T23:59:59Z", LAST_SECOND),
        ] {
            assert_eq!((parse_rfc3339(text), rfc3339(unix).as_str()), (Some(unix), text));
        }
        assert_eq!(parse_rfc3339("2026-11-23t03:29:39.999+01:00"), Some(1_795_400_979));
        assert_eq!(parse_rfc3339("2026-11-22 21:59:39-04:30"), Some(1_795_400_979));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            "2026-11-23",
            "2026-11-23T02:29:39",
            "2026-11-23T02:29Z",
            "2026-11-23T02:29:60Z",
            "2026-11-23T24:00:00Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-11-31T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "2026-11-23T02:29:39.Z",
            "2026-11-23T02:29:39ZZ",
            "2026-11-23T02:29:39+1:00",
            "+026-11-23T02:29:39Z",
            "2026-11-23T02:29:39+24:00",
            "1795400979",
        ] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_time_survives_its_text(unix in 0..=LAST_SECOND) {
            prop_assert_eq!(parse_rfc3339(&rfc3339(unix)), Some(unix));
        }

        #[test]
        fn reading_is_total(text: String, close in "[0-9TtZz:+. -]{0,30}") {
            let _ = parse_rfc3339(&text);
            let _ = parse_rfc3339(&close);
        }
    }
}
