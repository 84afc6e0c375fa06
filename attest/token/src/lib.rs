//! Attestation results (EAR in a JWT, signed with ES256) and signed admin calls (JWT, ES384): claims, signing, checking.
//!
//! Source: DESIGN, Tokens; draft-ietf-rats-ear; RFC 7519, RFC 7638, RFC 8725. Pure: no clock, no network, no random source;
//! *now*, keys and random values are arguments. The header is compared, never obeyed: algorithm and type are the caller's, and
//! the key is one of the caller's, found by `kid`.
#![forbid(unsafe_code)]

pub mod admin;
mod audit_head;
pub mod bearer;
mod check;
mod claims;
mod compact;
mod key;
pub mod lease;
mod revocations;
mod statement;
mod withdrawals;

pub use audit_head::AuditHead;
pub use check::{AGGREGATOR_ROLE, Checked, Expectation, MAX_SKEW_SECONDS, MAX_TOKEN_BYTES, Reject, Usage, check, header_kid};
pub use claims::{Claims, CofferClaims, FormError, GpuVerdict, Hex, MAX_LIFETIME_SECONDS, Subject, Typ, Version1};
pub use key::{Jkt, JktError, Jwks, KeyError, SignError, Signer};
pub use revocations::{MAX_REVOCATIONS_PER_LIST, Revocation, RevocationKind, RevocationKindError, RevocationList, RevocationListError};
pub use statement::{MAX_STATEMENT_BYTES, StatementError, StatementKind};
pub use withdrawals::{MAX_WITHDRAWALS_PER_LIST, WITHDRAWALS_KEPT_SECONDS, Withdrawal, WithdrawalList, WithdrawalListError, Withdrawn};

/// Seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct UnixTime(pub u64);
