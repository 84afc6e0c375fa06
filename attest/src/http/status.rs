//! `GET /coffer/v1/status`: what an operator asks first.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use coffer_token::Hex;
use serde::Serialize;

use super::extract::{Nothing, Signed};
use super::problem::Problem;
use super::{Service, blocking};
use crate::clock::unix_now;
use crate::store::Scope;
use crate::token_keys::KeyStatus;

/// The service at one moment.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Of the program.
    version: &'static str,
    root_of_trust: String,
    issuer: String,
    /// Unix seconds.
    started_at: u64,
    uptime_seconds: u64,
    epoch: u64,
    /// Answers that refused, by code, since the start.
    refusals: BTreeMap<String, u64>,
    audit: AuditStatus,
    /// The newest revocation.
    revocation: u64,
    /// The newest withdrawal.
    withdrawal: u64,
    /// Requests that wait for a newer one.
    waiting: usize,
    /// Sites that are suspended.
    suspended: u64,
    /// Every token key that is still published.
    token_keys: Vec<KeyStatus>,
}

/// The audit log's head.
#[derive(Debug, Serialize)]
struct AuditStatus {
    seq: u64,
    digest: Hex<32>,
}

/// Reads counters and heads; changes nothing.
pub async fn status(State(service): State<Arc<Service>>, signed: Signed<Nothing>) -> Result<Json<Status>, Problem> {
    signed.require(Scope::Read)?;
    blocking(&service, |service| {
        let now = unix_now();
        let (head, withdrawal, suspended) = {
            let store = service.store();
            (store.audit_head(), store.newest_withdrawal(), store.suspended_sites())
        };
        let broken = |e| Problem::internal(&e);
        let ((seq, digest), withdrawal, suspended) = (head.map_err(broken)?, withdrawal.map_err(broken)?, suspended.map_err(broken)?);
        let mut token_keys = service.judge.keys().load().status(now);
        token_keys.retain(|key| key.published_until.is_none_or(|until| until > now));
        Ok(Json(Status {
            version: env!("CARGO_PKG_VERSION"),
            root_of_trust: service.judge.root_of_trust().to_string(),
            issuer: service.judge.issuer().to_owned(),
            started_at: service.started_at,
            uptime_seconds: now.saturating_sub(service.started_at),
            epoch: service.epoch,
            refusals: service.counters.snapshot(),
            audit: AuditStatus { seq, digest: Hex(*digest.as_bytes()) },
            revocation: service.revocations().number(),
            withdrawal,
            waiting: service.waiting.count(),
            suspended,
            token_keys,
        }))
    })
    .await
}
