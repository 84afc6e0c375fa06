//! Writing the little DER that certificates need.

use coffer_evidence::UnixTime;

/// One element.
pub(crate) fn element(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match value.len() {
        // Truncation cannot happen: each arm's range fits.
        len @ 0..=0x7F => out.push(len as u8),
        len @ 0x80..=0xFF => out.extend([0x81, len as u8]),
        len => {
            let bytes = len.to_be_bytes();
            let digits = bytes.iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<_>>();
            out.push(0x80 | digits.len() as u8);
            out.extend(digits);
        }
    }
    out.extend_from_slice(value);
    out
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(0x30, &parts.concat())
}

pub(crate) fn set(parts: &[&[u8]]) -> Vec<u8> {
    element(0x31, &parts.concat())
}

/// `[n]`, constructed.
pub(crate) fn context(n: u8, inside: &[u8]) -> Vec<u8> {
    element(0xA0 | n, inside)
}

pub(crate) fn oid(content: &[u8]) -> Vec<u8> {
    element(0x06, content)
}

/// An INTEGER from 0 to 2^32 - 1.
pub(crate) fn integer(value: u32) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let mut digits: Vec<u8> = bytes.iter().skip_while(|byte| **byte == 0).copied().collect();
    if digits.first().is_none_or(|first| *first >= 0x80) {
        digits.insert(0, 0);
    }
    element(0x02, &digits)
}

/// A BIT STRING of whole bytes.
pub(crate) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    element(0x03, &[&[0], bytes].concat())
}

pub(crate) fn octet_string(bytes: &[u8]) -> Vec<u8> {
    element(0x04, bytes)
}

pub(crate) fn utf8_string(text: &str) -> Vec<u8> {
    element(0x0C, text.as_bytes())
}

pub(crate) fn ia5_string(text: &str) -> Vec<u8> {
    element(0x16, text.as_bytes())
}

pub(crate) fn null() -> Vec<u8> {
    element(0x05, &[])
}

/// UTCTime until 2049, GeneralizedTime from 2050 (RFC 5280 4.1.2.5).
pub(crate) fn time(at: UnixTime) -> Vec<u8> {
    let (days, seconds) = (at.0 / 86_400, at.0 % 86_400);
    let (year, month, day) = civil(days);
    let rest = format!("{month:02}{day:02}{:02}{:02}{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if year < 2050 {
        element(0x17, format!("{:02}{rest}", year % 100).as_bytes())
    } else {
        element(0x18, format!("{year:04}{rest}").as_bytes())
    }
}

/// (year, month, day) of a day counted from 1970-01-01, Gregorian.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years begin on 1 March, so that the leap day is the last: 146 097 days in 400 such years.
    let day_of_era_base = days + 719_468;
    let (era, day_of_era) = (day_of_era_base / 146_097, day_of_era_base % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_integers_are_minimal() {
        assert_eq!(element(4, &[9; 3]), [4, 3, 9, 9, 9]);
        assert_eq!(element(4, &[0; 0x80])[..3], [4, 0x81, 0x80]);
        assert_eq!(element(4, &[0; 0x1234])[..4], [4, 0x82, 0x12, 0x34]);
        assert_eq!(integer(0), [2, 1, 0]);
        assert_eq!(integer(0x7F), [2, 1, 0x7F]);
        assert_eq!(integer(0x80), [2, 2, 0, 0x80]);
        assert_eq!(integer(0x03_0001), [2, 3, 3, 0, 1]);
    }

    #[test]
    fn times_change_form_in_2050() {
        assert_eq!(time(UnixTime(0)), b"\x17\x0d700101000000Z");
        assert_eq!(time(UnixTime(951_868_799)), b"\x17\x0d000229235959Z");
        assert_eq!(time(UnixTime(2_524_607_999)), b"\x17\x0d491231235959Z");
        assert_eq!(time(UnixTime(2_524_608_000)), b"\x18\x0f20500101000000Z");
    }
}
