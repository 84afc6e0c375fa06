//! Statements: documents a service signs about itself, such as the head of its audit log. They are no tokens and open nothing.
//!
//! Compact JWS (RFC 7515) with the header `{alg: ES256, typ, kid}` and a JSON payload whose shape is the caller's. Each kind has
//! a `typ` of its own (RFC 8725, section 3.11), so that none passes as another, nor as a token.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::compact::{self, Malformed};
use crate::key::{ALG, Jwks, Signer};

/// The longest statement read, in bytes.
pub const MAX_STATEMENT_BYTES: usize = 4 * 1024 * 1024;

/// What a statement is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatementKind {
    /// The newest entry of the audit log.
    AuditHead,
    /// The numbered list of revocations.
    Revocations,
    /// What was taken back lately.
    Withdrawals,
}

impl StatementKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::AuditHead, Self::Revocations, Self::Withdrawals];

    /// The header's `typ`.
    #[must_use]
    pub const fn typ(self) -> &'static str {
        match self {
            Self::AuditHead => "coffer-audit-head+jwt",
            Self::Revocations => "coffer-revocations+jwt",
            Self::Withdrawals => "coffer-withdrawals+jwt",
        }
    }
}

/// A statement is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// Longer than any of ours.
    #[error("statement is {got} bytes long, at most {MAX_STATEMENT_BYTES} are read")]
    TooLong {
        /// Its size in bytes.
        got: usize,
    },
    /// Not three parts of base64url.
    #[error("statement is not a compact JWS: three parts of unpadded base64url")]
    Form,
    /// Another header than ours.
    #[error("statement's header is not {{alg, typ, kid}}: {0}")]
    Header(#[source] serde_json::Error),
    /// Another algorithm.
    #[error("statement is signed with `{got}`, expected `{ALG}`")]
    Algorithm {
        /// The header's `alg`.
        got: String,
    },
    /// Another kind of statement, or a token.
    #[error("statement is of type `{got}`, expected `{expected}`")]
    Kind {
        /// The header's `typ`.
        got: String,
        /// Of the kind that was asked for.
        expected: &'static str,
    },
    /// A key that is not in the set.
    #[error("statement is signed with key `{kid}`, which is not in the key set")]
    UnknownKey {
        /// The header's `kid`.
        kid: String,
    },
    /// Not signed by that key.
    #[error("statement's signature does not hold under key `{kid}`")]
    Signature {
        /// The header's `kid`.
        kid: String,
    },
    /// Signed, and still not of the expected shape.
    #[error("statement's payload does not parse: {0}")]
    Payload(#[source] serde_json::Error),
}

impl Signer {
    /// Signs `payload` as a statement of `kind`.
    ///
    /// # Errors
    /// Those of serializing the payload.
    pub fn sign_statement(&self, kind: StatementKind, payload: &impl Serialize) -> Result<String, serde_json::Error> {
        let payload = serde_json::to_vec(payload)?;
        let input = compact::signing_input(ALG, kind.typ(), self.kid(), &payload);
        let signature = self.sign_bytes(input.as_bytes());
        Ok(compact::finish(input, &signature))
    }
}

impl Jwks {
    /// The payload of a statement of `kind` that a key of this set signed. Whether it is the newest is the caller's question.
    ///
    /// # Errors
    /// See [`StatementError`]. Total: any text gives a payload or an error.
    pub fn check_statement<T: DeserializeOwned>(&self, text: &str, kind: StatementKind) -> Result<T, StatementError> {
        if text.len() > MAX_STATEMENT_BYTES {
            return Err(StatementError::TooLong { got: text.len() });
        }
        let parts = compact::split(text.trim_ascii()).map_err(|malformed| match malformed {
            Malformed::Form => StatementError::Form,
            Malformed::Header(e) => StatementError::Header(e),
        })?;
        let header = parts.header;
        if header.alg != ALG {
            return Err(StatementError::Algorithm { got: shorten(&header.alg) });
        }
        if header.typ != kind.typ() {
            return Err(StatementError::Kind { got: shorten(&header.typ), expected: kind.typ() });
        }
        if !self.has(&header.kid) {
            return Err(StatementError::UnknownKey { kid: shorten(&header.kid) });
        }
        if !self.verifies(&header.kid, parts.signed, &parts.signature) {
            return Err(StatementError::Signature { kid: shorten(&header.kid) });
        }
        serde_json::from_slice(&parts.payload).map_err(StatementError::Payload)
    }
}

/// The header is the peer's: as much of it as an error should repeat.
fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::Typ;

    fn signer(byte: u8) -> Signer {
        Signer::from_bytes(&[byte; 32]).expect("a scalar")
    }

    fn signed() -> String {
        signer(1).sign_statement(StatementKind::AuditHead, &json!({"seq": 7})).expect("serializes")
    }

    fn check(set: &Jwks, text: &str, kind: StatementKind) -> Result<Value, String> {
        set.check_statement(text, kind).map_err(|error| error.to_string())
    }

    #[test]
    fn what_was_signed_comes_back() {
        assert_eq!(check(&signer(1).jwks(), &signed(), StatementKind::AuditHead), Ok(json!({"seq": 7})));
        assert_eq!(check(&signer(1).jwks(), &format!("{}\n", signed()), StatementKind::AuditHead), Ok(json!({"seq": 7})));
    }

    #[test]
    fn every_refusal_has_its_reason() {
        let text = signed();
        let (head, signature) = text.rsplit_once('.').expect("parts");
        let (header, payload) = head.split_once('.').expect("parts");
        let (own, other) = (signer(1).jwks(), signer(2).jwks());
        let with_alg = compact::finish(compact::signing_input("none", "coffer-audit-head+jwt", signer(1).kid(), b"{}"), &[0; 64]);
        for (set, text, kind, says) in [
            (&own, text.clone(), StatementKind::Revocations, "is of type `coffer-audit-head+jwt`, expected `coffer-revocations+jwt`"),
            (&other, text.clone(), StatementKind::AuditHead, "which is not in the key set"),
            (&own, format!("{header}.e30.{signature}"), StatementKind::AuditHead, "signature does not hold"),
            (&own, format!("e30.{payload}.{signature}"), StatementKind::AuditHead, "header is not {alg, typ, kid}"),
            (&own, with_alg, StatementKind::AuditHead, "signed with `none`, expected `ES256`"),
            (&own, "a.b".to_owned(), StatementKind::AuditHead, "not a compact JWS"),
            (&own, "x".repeat(MAX_STATEMENT_BYTES + 1), StatementKind::AuditHead, "at most 4194304 are read"),
        ] {
            let refused = check(set, &text, kind).expect_err(says);
            assert!(refused.contains(says), "{refused}\nexpected: {says}");
        }
        let mistyped = own.check_statement::<Vec<u8>>(&text, StatementKind::AuditHead);
        assert!(matches!(mistyped, Err(StatementError::Payload(_))));
    }

    #[test]
    fn no_kind_is_named_like_another_or_like_a_token() {
        let mut names: Vec<&str> = StatementKind::ALL.into_iter().map(StatementKind::typ).collect();
        names.extend([Typ::Job.name(), Typ::Kbs.name()]);
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    proptest! {
        #[test]
        fn checking_never_panics(text: String) {
            let _ = check(&signer(1).jwks(), &text, StatementKind::Revocations);
        }
    }
}
