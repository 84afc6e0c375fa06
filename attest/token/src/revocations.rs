//! The numbered list of revocations, as a service signs it and as gates and guests read it.
//!
//! Payload of a statement of kind [`StatementKind::Revocations`](crate::StatementKind::Revocations). Numbers run 1, 2, 3, …
//! without gaps and nothing is ever taken back, so that a reader who holds 1 to n asks for what comes after n, and a list whose
//! newest number is lower than one seen before is an old one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::claims::Version1;

/// The most entries one list carries. With everything there is to say of each, this stays under
/// [`MAX_STATEMENT_BYTES`](crate::MAX_STATEMENT_BYTES).
pub const MAX_REVOCATIONS_PER_LIST: usize = 1000;

/// What a revocation is of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RevocationKind {
    /// A site config: HOST_DATA, 64 hexadecimal digits.
    Site,
    /// What was launched: launch digest, 96 hexadecimal digits.
    Image,
    /// A processor: CHIP_ID, 128 hexadecimal digits.
    Chip,
    /// An author key or ID key: SHA-384 digest of the public key, 96 hexadecimal digits.
    Key,
    /// An admin's key: its RFC 7638 thumbprint.
    Admin,
    /// A token key of the service that leaked: its `kid`.
    TokenKey,
}

impl RevocationKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [Self::Site, Self::Image, Self::Chip, Self::Key, Self::Admin, Self::TokenKey];

    /// Its name, as in the list.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Image => "image",
            Self::Chip => "chip",
            Self::Key => "key",
            Self::Admin => "admin",
            Self::TokenKey => "token-key",
        }
    }

    /// Whether `value` has the form that values of this kind have.
    #[must_use]
    pub fn fits(self, value: &str) -> bool {
        let hex = |digits| value.len() == digits && value.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match self {
            Self::Site => hex(64),
            Self::Image | Self::Key => hex(96),
            Self::Chip => hex(128),
            Self::Admin | Self::TokenKey => value.parse::<crate::Jkt>().is_ok(),
        }
    }
}

impl fmt::Display for RevocationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Text names no kind of revocation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{got}` is no kind of revocation")]
pub struct RevocationKindError {
    got: String,
}

impl FromStr for RevocationKind {
    type Err = RevocationKindError;

    fn from_str(text: &str) -> Result<Self, RevocationKindError> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| RevocationKindError { got: text.chars().take(40).collect() })
    }
}

/// One revocation. What strangers need not know is left out of the public list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// Position, from 1.
    pub number: u64,
    /// Of what.
    pub kind: RevocationKind,
    /// Which one; see [`RevocationKind`] for its form.
    pub value: String,
    /// Unix seconds.
    pub at: u64,
    /// `<project>/<site>`, or the admin's name: never given again. For admins only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The admin who did it. For admins only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why. For admins only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Revocation {
    /// What anybody may know of it.
    #[must_use]
    pub fn public(&self) -> Self {
        Self { name: None, by: None, reason: None, ..self.clone() }
    }
}

/// A stretch of the list: what comes after [`Self::after`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevocationList {
    /// Always 1.
    pub v: Version1,
    /// The service: the issuer of its tokens.
    pub iss: String,
    /// When it was signed, Unix seconds.
    pub iat: u64,
    /// The newest number there is, in this stretch or beyond it; 0 where nothing was ever revoked.
    pub number: u64,
    /// The number before the first entry.
    pub after: u64,
    /// Numbered `after + 1`, `after + 2`, ….
    pub entries: Vec<Revocation>,
}

/// A list contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationListError {
    /// Too many.
    #[error("list has {got} entries, at most {MAX_REVOCATIONS_PER_LIST} are read")]
    TooMany {
        /// How many.
        got: usize,
    },
    /// Numbers with a gap, a repetition or another start.
    #[error("list has number {got} where {expected} should be")]
    Number {
        /// In the list.
        got: u64,
        /// What comes next.
        expected: u64,
    },
    /// Entries after the newest number there is.
    #[error("list goes up to {last}, its newest number is {number}")]
    Newest {
        /// The last entry.
        last: u64,
        /// What it says of itself.
        number: u64,
    },
    /// A value of another form.
    #[error("revocation {number}: `{value}` is no {kind}")]
    Value {
        /// Of the entry.
        number: u64,
        /// Its kind.
        kind: RevocationKind,
        /// Its value, shortened to 140 characters.
        value: String,
    },
}

impl RevocationList {
    /// Checks what does not depend on who reads it.
    ///
    /// # Errors
    /// See [`RevocationListError`].
    pub fn check_form(&self) -> Result<(), RevocationListError> {
        if self.entries.len() > MAX_REVOCATIONS_PER_LIST {
            return Err(RevocationListError::TooMany { got: self.entries.len() });
        }
        let mut last = self.after;
        for entry in &self.entries {
            let expected = last.saturating_add(1);
            if entry.number != expected || last == u64::MAX {
                return Err(RevocationListError::Number { got: entry.number, expected });
            }
            if !entry.kind.fits(&entry.value) {
                let value = entry.value.chars().take(140).collect();
                return Err(RevocationListError::Value { number: entry.number, kind: entry.kind, value });
            }
            last = entry.number;
        }
        if last > self.number && !self.entries.is_empty() {
            return Err(RevocationListError::Newest { last, number: self.number });
        }
        Ok(())
    }

    /// Whether more follows that this stretch does not carry.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.after.saturating_add(self.entries.len() as u64) < self.number
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn entry(number: u64) -> Revocation {
        let value = format!("{number:0>128x}");
        Revocation { number, kind: RevocationKind::Chip, value, at: 7, name: None, by: Some("ada".into()), reason: Some("lost".into()) }
    }

    fn list(number: u64, after: u64, entries: Vec<Revocation>) -> RevocationList {
        RevocationList { v: Version1, iss: "https://a.test".into(), iat: 9, number, after, entries }
    }

    #[test]
    fn a_list_has_no_gap_and_no_end_beyond_its_own() {
        assert_eq!(list(0, 0, vec![]).check_form(), Ok(()));
        assert_eq!(list(3, 5, vec![]).check_form(), Ok(()), "a reader may know more than a restored service");
        assert_eq!(list(5, 2, vec![entry(3), entry(4)]).check_form(), Ok(()));
        assert!(list(5, 2, vec![entry(3), entry(4)]).has_more() && !list(4, 2, vec![entry(3), entry(4)]).has_more());
        for (broken, says) in [
            (list(5, 2, vec![entry(4)]), "has number 4 where 3 should be"),
            (list(5, 2, vec![entry(3), entry(3)]), "has number 3 where 4 should be"),
            (list(5, 2, vec![entry(3), entry(5)]), "has number 5 where 4 should be"),
            (list(3, 2, vec![entry(3), entry(4)]), "goes up to 4, its newest number is 3"),
            (list(u64::MAX, u64::MAX, vec![entry(u64::MAX)]), "should be"),
            (list(3, 2, vec![Revocation { value: "AB".into(), ..entry(3) }]), "revocation 3: `AB` is no chip"),
            (list(9999, 0, (1..=1001).map(entry).collect()), "has 1001 entries"),
        ] {
            let refused = broken.check_form().expect_err(says).to_string();
            assert!(refused.contains(says), "{refused}\nexpected: {says}");
        }
    }

    #[test]
    fn strangers_see_what_and_when_and_not_who_or_why() {
        let text = serde_json::to_value(entry(3).public()).expect("encodes");
        assert_eq!(text, json!({ "number": 3, "kind": "chip", "value": format!("{:0>128x}", 3), "at": 7 }));
    }

    #[test]
    fn each_kind_has_its_own_form_of_value() {
        let kid = "6_Wj_nmVPFYtU8uKQPXN66l7Gk9DxRK8aI5GObxJPz0";
        for (kind, good) in [
            (RevocationKind::Site, "0".repeat(64)),
            (RevocationKind::Image, "a".repeat(96)),
            (RevocationKind::Key, "f".repeat(96)),
            (RevocationKind::Chip, "9".repeat(128)),
            (RevocationKind::Admin, kid.to_owned()),
            (RevocationKind::TokenKey, kid.to_owned()),
        ] {
            assert!(kind.fits(&good) && kind.name().parse() == Ok(kind), "{kind}");
            let longer = format!("{good}0");
            for bad in ["", &good[1..], &longer, &good.replace(|c: char| c.is_ascii_lowercase(), "G").replace(['0', '9'], "G")] {
                assert!(!kind.fits(bad), "{kind} {bad}");
            }
        }
        assert!("Site".parse::<RevocationKind>().is_err());
    }

    /// The longest list the service makes still fits a statement.
    #[test]
    fn a_full_list_fits_a_statement() {
        let long =
            |number| Revocation { name: Some("n".repeat(127)), by: Some("b".repeat(64)), reason: Some("\"".repeat(1000)), ..entry(number) };
        let full = list(1000, 0, (1..=1000).map(long).collect());
        let bytes = serde_json::to_vec(&full).expect("encodes").len();
        assert!(bytes * 4 / 3 + 1000 < crate::MAX_STATEMENT_BYTES, "{bytes}");
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, number: u64, after: u64, got: u64) {
            if let Ok(list) = serde_json::from_slice::<RevocationList>(&bytes) {
                let _ = (list.check_form(), list.has_more());
            }
            let one = list(number, after, vec![Revocation { number: got, ..entry(1) }]);
            let _ = (one.check_form(), one.has_more());
        }
    }
}
