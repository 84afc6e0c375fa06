//! `/coffer/v1/audit…`: the log line by line, and its head, signed.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use coffer_token::{AuditHead, Hex, StatementKind, Version1};
use serde::Serialize;
use serde_json::value::RawValue;

use super::extract::{After, Nothing, Signed};
use super::problem::Problem;
use super::{Service, blocking};
use crate::clock::unix_now;
use crate::store::Scope;

/// Lines of one answer: some 500 KiB.
const MAX_LINES: u32 = 1000;

/// The newest entry, as a statement and in plain words.
#[derive(Debug, Serialize)]
pub struct Head {
    /// Compact JWS.
    head: String,
    /// Position; 0 where the log is empty.
    seq: u64,
    /// SHA-256 of the entry.
    digest: Hex<32>,
}

/// A stretch of the log.
#[derive(Debug, Serialize)]
pub struct Lines {
    /// `{"digest": …, "entry": …}`: the entry's bytes are those that were digested.
    lines: Vec<Box<RawValue>>,
    /// Whether more follows.
    more: bool,
}

/// Signs the head.
pub async fn head(State(service): State<Arc<Service>>, signed: Signed<Nothing>) -> Result<Json<Head>, Problem> {
    signed.require(Scope::Audit)?;
    blocking(&service, |service| {
        let (head, AuditHead { seq, digest, .. }) = service.signed_audit_head().map_err(|e| Problem::internal(&e))?;
        Ok(Json(Head { head, seq, digest }))
    })
    .await
}

/// Reads a stretch: what comes after a position.
pub async fn export(State(service): State<Arc<Service>>, after: After, signed: Signed<Nothing>) -> Result<Json<Lines>, Problem> {
    signed.require(Scope::Audit)?;
    blocking(&service, move |service| {
        let lines = service.store().audit_lines(after.0, MAX_LINES + 1).map_err(|e| Problem::internal(&e))?;
        let more = lines.len() > MAX_LINES as usize;
        let raw = lines.into_iter().take(MAX_LINES as usize).map(RawValue::from_string).collect::<Result<_, _>>();
        Ok(Json(Lines { lines: raw.map_err(|e| Problem::internal(&e))?, more }))
    })
    .await
}

/// The head was not signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// The database.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The signature.
    #[error(transparent)]
    Sign(#[from] crate::judge::StatementError),
}

impl Service {
    /// The audit log's head as of now, and the statement of it.
    ///
    /// # Errors
    /// See [`HeadError`].
    pub fn signed_audit_head(&self) -> Result<(String, AuditHead), HeadError> {
        let (seq, digest) = self.store().audit_head()?;
        let now = unix_now();
        let head = AuditHead { v: Version1, iss: self.judge.issuer().to_owned(), at: now, seq, digest: Hex(*digest.as_bytes()) };
        Ok((self.judge.sign_statement(StatementKind::AuditHead, &head, now)?, head))
    }
}
