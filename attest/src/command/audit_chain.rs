//! The audit log outside the database: lines `{"digest": …, "entry": …}`, checked one after the other.

use coffer_manifest::Sha256Digest;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The longest line read, in bytes: an entry is far below 16 KiB.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// The log is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// Not a line of an exported log.
    #[error("line {line} is no entry of an audit log: {problem}")]
    Line {
        /// Its position in the file, from 1.
        line: u64,
        /// What is wrong.
        problem: String,
    },
    /// The bytes are not those of the digest.
    #[error("entry {seq} was edited: its digest is {got}, it was written with {expected}")]
    Edited {
        /// Its position in the log.
        seq: u64,
        /// Of the bytes.
        got: Sha256Digest,
        /// In the line.
        expected: Sha256Digest,
    },
    /// Entries are missing, doubled or swapped.
    #[error("entry {got} comes where {expected} should be")]
    Gap {
        /// In the line.
        got: u64,
        /// What comes next.
        expected: u64,
    },
    /// The entry follows from another one.
    #[error("entry {seq} does not follow from the one before it")]
    Broken {
        /// Its position in the log.
        seq: u64,
    },
    /// The newest entries are missing.
    #[error("log ends at entry {end}, the head that was kept is of entry {head}: the end was cut off, or this is an older copy")]
    Truncated {
        /// The last entry.
        end: u64,
        /// The kept head's.
        head: u64,
    },
    /// Another history.
    #[error("entry {seq} is {got}, the head that was kept says {expected}: the log was written anew")]
    Forked {
        /// The kept head's position.
        seq: u64,
        /// In the log.
        got: Sha256Digest,
        /// In the kept head.
        expected: Sha256Digest,
    },
    /// The file starts after what the head is about.
    #[error("log starts at entry {first}, the head that was kept is of entry {head}")]
    Before {
        /// The first entry.
        first: u64,
        /// The kept head's.
        head: u64,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    digest: Sha256Digest,
    #[serde(borrow)]
    entry: &'a RawValue,
}

/// The members that make the chain. Others are the digest's affair.
#[derive(Deserialize)]
struct Link {
    seq: u64,
    prev: Sha256Digest,
}

/// What a log must contain: position and digest.
pub type Kept = (u64, Sha256Digest);

/// The stretch of a log that was read so far.
#[derive(Debug, Default)]
pub struct Chain {
    lines: u64,
    first: u64,
    last: Option<Kept>,
    kept: Option<Kept>,
    met: Option<Sha256Digest>,
}

impl Chain {
    /// A log that must contain a kept head.
    #[must_use]
    pub fn expecting(kept: Option<Kept>) -> Self {
        Self { kept, ..Self::default() }
    }

    /// Reads the next line.
    ///
    /// # Errors
    /// See [`ChainError`]. Total: any text gives a longer stretch or an error.
    pub fn push(&mut self, text: &str) -> Result<(), ChainError> {
        self.lines += 1;
        let unreadable = |e: serde_json::Error| ChainError::Line { line: self.lines, problem: e.to_string() };
        let line: Line<'_> = serde_json::from_str(text).map_err(unreadable)?;
        let link: Link = serde_json::from_str(line.entry.get()).map_err(unreadable)?;
        let own = Sha256Digest::of(line.entry.get().as_bytes());
        match self.last {
            None => {
                self.first = link.seq;
                if link.seq == 0 || (link.seq == 1 && link.prev != Sha256Digest::new([0; 32])) {
                    return Err(ChainError::Broken { seq: link.seq });
                }
            }
            Some((last, _)) if link.seq.checked_sub(1) != Some(last) => {
                return Err(ChainError::Gap { got: link.seq, expected: last.saturating_add(1) });
            }
            Some((_, digest)) if link.prev != digest => return Err(ChainError::Broken { seq: link.seq }),
            Some(_) => {}
        }
        if own != line.digest {
            return Err(ChainError::Edited { seq: link.seq, got: own, expected: line.digest });
        }
        self.last = Some((link.seq, own));
        if self.kept.is_some_and(|(seq, _)| seq == link.seq) {
            self.met = Some(own);
        }
        Ok(())
    }

    /// First and last position, and the last digest; `(0, 0, zeros)` of an empty log.
    ///
    /// # Errors
    /// [`ChainError::Truncated`], [`ChainError::Forked`], [`ChainError::Before`]: the kept head is not in the log.
    pub fn finish(self) -> Result<(u64, u64, Sha256Digest), ChainError> {
        let (end, digest) = self.last.unwrap_or((0, Sha256Digest::new([0; 32])));
        match (self.kept, self.met) {
            (None | Some((0, _)), _) => {}
            (Some((head, _)), None) if head > end => return Err(ChainError::Truncated { end, head }),
            (Some((head, _)), None) => return Err(ChainError::Before { first: self.first, head }),
            (Some((seq, expected)), Some(got)) if got != expected => return Err(ChainError::Forked { seq, got, expected }),
            (Some(_), Some(_)) => {}
        }
        Ok((self.first, end, digest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log(entries: u64) -> Vec<(String, Kept)> {
        let mut prev = Sha256Digest::new([0; 32]);
        (1..=entries)
            .map(|seq| {
                let entry = format!(r#"{{"at":{seq},"prev":"{prev}","seq":{seq}}}"#);
                prev = Sha256Digest::of(entry.as_bytes());
                (format!(r#"{{"digest":"{prev}","entry":{entry}}}"#), (seq, prev))
            })
            .collect()
    }

    fn check<'a>(lines: impl IntoIterator<Item = &'a str>, kept: Option<Kept>) -> Result<(u64, u64, Sha256Digest), ChainError> {
        let mut chain = Chain::expecting(kept);
        for line in lines {
            chain.push(line)?;
        }
        chain.finish()
    }

    #[test]
    fn a_whole_log_passes_from_any_start_and_with_any_of_its_heads() {
        let log = log(5);
        for from in 0..5 {
            let stretch = || log[from..].iter().map(|(line, _)| line.as_str());
            assert_eq!(check(stretch(), None), Ok((from as u64 + 1, 5, log[4].1.1)));
            for (_, kept) in &log[from..] {
                assert!(check(stretch(), Some(*kept)).is_ok());
            }
        }
        assert_eq!(check([], None), Ok((0, 0, Sha256Digest::new([0; 32]))));
        assert!(check([], Some((0, Sha256Digest::new([0; 32])))).is_ok());
    }

    #[test]
    fn what_is_edited_missing_or_swapped_is_named() {
        let log = log(5);
        let lines: Vec<&str> = log.iter().map(|(line, _)| line.as_str()).collect();
        let edited = lines[2].replace(r#""at":3"#, r#""at":9"#);
        let resealed = {
            let entry = edited.split_once(r#""entry":"#).unwrap().1.strip_suffix('}').unwrap();
            format!(r#"{{"digest":"{}","entry":{entry}}}"#, Sha256Digest::of(entry.as_bytes()))
        };
        assert!(matches!(check([lines[0], lines[1], &edited], None), Err(ChainError::Edited { seq: 3, .. })));
        assert_eq!(check([lines[0], lines[1], &resealed, lines[3]], None), Err(ChainError::Broken { seq: 4 }));
        assert_eq!(check([lines[0], lines[2]], None), Err(ChainError::Gap { got: 3, expected: 2 }));
        assert_eq!(check([lines[0], lines[0]], None), Err(ChainError::Gap { got: 1, expected: 2 }));
        assert_eq!(check([lines[1], lines[0]], None), Err(ChainError::Gap { got: 1, expected: 3 }));
        for bad in ["", "{}", "null", r#"{"digest":"00","entry":{}}"#, &lines[0][..30], &format!("{} ", lines[0].replace(":1", ":-1"))] {
            assert!(matches!(check([bad], None), Err(ChainError::Line { line: 1, .. })), "{bad}");
        }
    }

    #[test]
    fn a_log_without_its_end_contradicts_the_kept_head() {
        let log = log(5);
        let lines = |to: usize| log[..to].iter().map(|(line, _)| line.as_str());
        let head = log[4].1;
        assert_eq!(check(lines(3), Some(head)), Err(ChainError::Truncated { end: 3, head: 5 }));
        assert_eq!(check([], Some(head)), Err(ChainError::Truncated { end: 0, head: 5 }));
        let forged = (5, Sha256Digest::new([7; 32]));
        assert!(matches!(check(lines(5), Some(forged)), Err(ChainError::Forked { seq: 5, .. })));
        let late = log[3..].iter().map(|(line, _)| line.as_str());
        assert_eq!(check(late, Some(log[1].1)), Err(ChainError::Before { first: 4, head: 2 }));
    }

    proptest! {
        #[test]
        fn never_panics(text: String, seq: u64, kept: u64) {
            let zeros = Sha256Digest::new([0; 32]);
            let entry = format!(r#"{{"prev":"{zeros}","seq":{seq}}}"#);
            let line = format!(r#"{{"digest":"{}","entry":{entry}}}"#, Sha256Digest::of(entry.as_bytes()));
            let _ = check([text.as_str()], Some((kept, zeros)));
            let _ = check([line.as_str(), line.as_str()], Some((kept, zeros)));
            let _ = check([line.as_str()], Some((kept, zeros)));
        }
    }
}
