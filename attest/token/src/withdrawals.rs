//! What a service takes back before it expires: for gates, which end the leases that rest on it.
//!
//! Payload of a statement of kind [`StatementKind::Withdrawals`](crate::StatementKind::Withdrawals). A token lives for ten minutes at
//! most and a lease not much longer, so that only the newest withdrawals matter: a service keeps them for
//! [`WITHDRAWALS_KEPT_SECONDS`], and a gate that asks for what comes after a number it no longer has gets all that are kept.

use serde::{Deserialize, Serialize};

use crate::claims::{Hex, Version1};

/// The most entries one stretch carries.
pub const MAX_WITHDRAWALS_PER_LIST: usize = 1000;

/// For how long a service keeps a withdrawal, in seconds. No gate lets a lease last longer without a newer token.
pub const WITHDRAWALS_KEPT_SECONDS: u64 = 7200;

/// What is taken back. Every token it covers whose `iat` is not after [`Withdrawal::at`] is worth nothing any more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "of", deny_unknown_fields)]
pub enum Withdrawn {
    /// All of a site config: it was suspended, revoked or superseded.
    Site {
        /// SHA-256 of the site config.
        host_data: Hex<32>,
    },
    /// One boot of it: its newest evidence was refused, or what it rests on was revoked.
    Instance {
        /// SHA-256 of the site config.
        host_data: Hex<32>,
        /// The report's REPORT_ID, which no other guest can have.
        instance: Hex<32>,
    },
    /// A base, for every site.
    Image {
        /// Its launch digest.
        launch_digest: Hex<48>,
    },
    /// All that a token key of the service has signed: it leaked.
    TokenKey {
        /// Its `kid`.
        kid: String,
    },
}

/// One withdrawal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Withdrawal {
    /// Counts up within an epoch, with gaps.
    pub number: u64,
    /// Unix seconds, by the service's clock: when it was made, or later where tokens of later may be about. Of a token key it is
    /// [`WITHDRAWALS_KEPT_SECONDS`] ahead: whoever has the key writes what time they like.
    pub at: u64,
    /// The reason code, such as `site_suspended`.
    pub code: String,
    /// Of what.
    pub withdrawn: Withdrawn,
}

/// A stretch of the list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WithdrawalList {
    /// Always 1.
    pub v: Version1,
    /// The service: the issuer of its tokens.
    pub iss: String,
    /// Raised at each start and restore of the service; numbers of two epochs cannot be compared, so a reader begins again at 0.
    pub epoch: u64,
    /// When it was signed, Unix seconds, by the service's clock.
    pub iat: u64,
    /// The newest number there is, in this stretch or beyond it; 0 where there is none.
    pub number: u64,
    /// The number asked for.
    pub after: u64,
    /// In order of their numbers, all greater than [`Self::after`].
    pub entries: Vec<Withdrawal>,
}

/// A list contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WithdrawalListError {
    /// Too many.
    #[error("list has {got} withdrawals, at most {MAX_WITHDRAWALS_PER_LIST} are read")]
    TooMany {
        /// How many.
        got: usize,
    },
    /// Not in order, or beyond the newest number there is.
    #[error("list has withdrawal {got} after {last}, its newest number is {number}")]
    Number {
        /// In the list.
        got: u64,
        /// The one before it.
        last: u64,
        /// What it says of itself.
        number: u64,
    },
}

impl WithdrawalList {
    /// Checks what does not depend on who reads it.
    ///
    /// # Errors
    /// See [`WithdrawalListError`].
    pub fn check_form(&self) -> Result<(), WithdrawalListError> {
        if self.entries.len() > MAX_WITHDRAWALS_PER_LIST {
            return Err(WithdrawalListError::TooMany { got: self.entries.len() });
        }
        let mut last = self.after;
        for entry in &self.entries {
            if entry.number <= last || entry.number > self.number {
                return Err(WithdrawalListError::Number { got: entry.number, last, number: self.number });
            }
            last = entry.number;
        }
        Ok(())
    }

    /// Whether more follows that this stretch does not carry.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.entries.last().is_some_and(|last| last.number < self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(numbers: &[u64]) -> WithdrawalList {
        let entry =
            |number| Withdrawal { number, at: 5, code: "site_suspended".into(), withdrawn: Withdrawn::Site { host_data: Hex([1; 32]) } };
        let entries = numbers.iter().copied().map(entry).collect();
        WithdrawalList { v: Version1, iss: "a".into(), epoch: 1, iat: 9, number: 9, after: 2, entries }
    }

    #[test]
    fn numbers_count_up_to_the_newest() {
        assert_eq!(list(&[3, 5, 9]).check_form(), Ok(()));
        assert!(list(&[3, 5]).is_partial() && !list(&[9]).is_partial() && !list(&[]).is_partial());
        for wrong in [&[2][..], &[3, 3], &[5, 4], &[10]] {
            assert!(matches!(list(wrong).check_form(), Err(WithdrawalListError::Number { .. })), "{wrong:?}");
        }
        let many: Vec<u64> = (3..2000).collect();
        assert!(matches!(list(&many).check_form(), Err(WithdrawalListError::TooMany { .. })));
    }

    #[test]
    fn an_entry_has_one_form() {
        let text = serde_json::to_string(&list(&[3]).entries[0]).expect("json");
        let zeros = "01".repeat(32);
        assert_eq!(text, format!(r#"{{"number":3,"at":5,"code":"site_suspended","withdrawn":{{"of":"site","host_data":"{zeros}"}}}}"#));
        let back: Withdrawal = serde_json::from_str(&text).expect("an entry");
        assert_eq!(back, list(&[3]).entries[0]);
        assert!(serde_json::from_str::<Withdrawal>(&text.replace("\"of\":\"site\"", "\"of\":\"all\"")).is_err());
        assert!(serde_json::from_str::<Withdrawal>(&text.replace("\"at\"", "\"more\":1,\"at\"")).is_err());
    }
}
