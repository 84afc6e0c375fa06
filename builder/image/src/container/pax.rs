//! pax extended headers: `LENGTH KEY=VALUE\n` records.
//!
//! Source: POSIX.1-2017, pax, "pax Extended Header"; `SCHILY.xattr.` is star's and Docker's; `GNU.sparse.` is GNU tar's.

use super::layer::TarError;

const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// What an extended header says about the next entry. Keys that do not matter here are skipped.
#[derive(Default, Debug)]
pub struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    /// Whole seconds, rounded down.
    pub mtime: Option<i64>,
    /// Name and value, as in the header; the last of two equal names counts.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: SparseRecords,
}

/// GNU tar's three ways to store a sparse file in pax headers.
#[derive(Default, Debug)]
pub struct SparseRecords {
    /// `GNU.sparse.major`: 1 means that the map precedes the data.
    pub major: Option<u64>,
    /// `GNU.sparse.name`: the real path, in 0.1 and 1.0.
    pub name: Option<Vec<u8>>,
    /// `GNU.sparse.size` (0.0, 0.1) or `GNU.sparse.realsize` (1.0).
    pub real_size: Option<u64>,
    /// Offset and length pairs of 0.0 and 0.1, flat.
    pub map: Vec<u64>,
}

impl Records {
    /// Reads the body of an extended header that begins at `offset` of its tar.
    pub fn parse(body: &[u8], offset: u64) -> Result<Self, TarError> {
        let mut records = Self::default();
        for_each_record(body, offset, |key, value| records.take(key, value, offset))?;
        Ok(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8], offset: u64) -> Result<(), TarError> {
        let bad = |key: &'static str| TarError::PaxValue { key, offset };
        let number = |key| decimal(value).ok_or_else(|| bad(key));
        match key {
            // POSIX: an empty value takes back what an earlier header said.
            b"path" => self.path = (!value.is_empty()).then(|| value.to_vec()),
            b"linkpath" => self.link = (!value.is_empty()).then(|| value.to_vec()),
            b"size" => self.size = Some(number("size")?),
            b"uid" => self.uid = Some(number("uid")?),
            b"gid" => self.gid = Some(number("gid")?),
            b"mtime" => self.mtime = Some(seconds(value).ok_or_else(|| bad("mtime"))?),
            b"GNU.sparse.major" => self.sparse.major = Some(number("GNU.sparse.major")?),
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.real_size = Some(number("GNU.sparse.size")?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.map.push(number("GNU.sparse.offset")?),
            b"GNU.sparse.map" => {
                for part in value.split(|byte| *byte == b',') {
                    self.sparse.map.push(decimal(part).ok_or_else(|| bad("GNU.sparse.map"))?);
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    self.xattrs.retain(|(earlier, _)| earlier != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// Checks a global header: it may carry comments, nothing that changes an entry.
///
/// Docker ignores global headers; obeying one would make another tree of the same bytes.
pub fn check_global(body: &[u8], offset: u64) -> Result<(), TarError> {
    for_each_record(body, offset, |key, _| match key {
        b"path" | b"linkpath" | b"size" | b"uid" | b"gid" => Err(TarError::PaxGlobal { offset }),
        key if key.starts_with(XATTR_PREFIX) || key.starts_with(b"GNU.sparse.") => Err(TarError::PaxGlobal { offset }),
        _ => Ok(()),
    })
}

fn for_each_record(mut body: &[u8], offset: u64, mut take: impl FnMut(&[u8], &[u8]) -> Result<(), TarError>) -> Result<(), TarError> {
    let malformed = TarError::PaxRecord { offset };
    while !body.is_empty() {
        let parts = || {
            let space = body.iter().take(20).position(|byte| *byte == b' ')?;
            let length = usize::try_from(decimal(&body[..space])?).ok()?;
            let record = body.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            Some((&record[..equals], &record[equals + 1..], length))
        };
        let Some((key, value, length)) = parts() else { return Err(malformed) };
        take(key, value)?;
        body = &body[length..];
    }
    Ok(())
}

/// Digits only, no sign.
pub fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

/// `-12.5`, `12`, `12.`: whole seconds, rounded down.
fn seconds(text: &[u8]) -> Option<i64> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let dot = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let fraction = text.get(dot + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let whole = i64::try_from(decimal(&text[..dot])?).ok()?;
    let up = i64::from(fraction.iter().any(|digit| *digit != b'0'));
    if negative { whole.checked_neg()?.checked_sub(up) } else { Some(whole) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_records_with_any_bytes_in_values() {
        let body = b"20 path=caf\xc3\xa9/new\nx\n33 SCHILY.xattr.security.x=\x00\n=\xff\x01\n13 mtime=1.5\n16 comment=skip\n";
        let records = Records::parse(body, 0).expect("four records");
        assert_eq!(records.path.as_deref(), Some(&b"caf\xc3\xa9/new\nx"[..]));
        assert_eq!(records.xattrs, [(b"security.x".to_vec(), b"\x00\n=\xff\x01".to_vec())]);
        assert_eq!(records.mtime, Some(1));
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [&b"6 a=\n"[..], b"x path=a\n", b"99 path=a\n", b"9 path=ab", b"8 pathab\n", b"0 \n", b"1 ", b"10 size=-1\n"] {
            assert!(Records::parse(bad, 0).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_round_down() {
        for (text, value) in [("0", Some(0)), ("7.999", Some(7)), ("-7.5", Some(-8)), ("-7.0", Some(-7)), ("x", None), ("1.x", None)] {
            assert_eq!(seconds(text.as_bytes()), value, "{text}");
        }
    }

    #[test]
    fn a_global_header_may_only_comment() {
        assert!(check_global(b"13 comment=x\n", 0).is_ok());
        assert!(matches!(check_global(b"8 uid=1\n", 0), Err(TarError::PaxGlobal { .. })));
    }
}
