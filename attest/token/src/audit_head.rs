//! The head of a service's audit log: what somebody who keeps it elsewhere can later hold against the log.

use serde::{Deserialize, Serialize};

use crate::claims::{Hex, Version1};

/// Payload of a statement of kind [`StatementKind::AuditHead`](crate::StatementKind::AuditHead).
///
/// Every entry of the log names the digest of the one before it, so that this one digest stands for all entries up to `seq`: a log
/// that lacks it was cut off, edited or restored from an older copy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditHead {
    /// Always 1.
    pub v: Version1,
    /// The service: the issuer of its tokens.
    pub iss: String,
    /// When it was signed, Unix seconds.
    pub at: u64,
    /// The newest entry's position; 0 where there is none.
    pub seq: u64,
    /// SHA-256 of the newest entry; zeros where there is none.
    pub digest: Hex<32>,
}
