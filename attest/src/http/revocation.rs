//! `/coffer/v1/revocations…`: the numbered list, for admins in full, and signed for everybody who has to know.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use coffer_token::{Revocation, RevocationKind, RevocationList, StatementKind};
use serde::{Deserialize, Serialize};

use super::extract::{After, Body, Nothing, Signed};
use super::problem::Problem;
use super::{Service, blocking};
use crate::clock::unix_now;
use crate::reason::Reason;
use crate::store::{Admin, Entry, Event, RevocationError, Scope, Subject};

/// How long a gate may go without asking again, in seconds.
const LIST_MAX_AGE_S: u64 = 10;

/// `POST /coffer/v1/revocations`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeValueBody {
    /// `image`, `chip` or `key`; sites and admins have their own routes.
    pub kind: RevocationKind,
    /// Which one.
    pub value: String,
    /// For the list and the audit log.
    pub reason: String,
}

impl Body for RevokeValueBody {
    const LIMIT: usize = 4096;

    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        serde_json::from_slice(bytes).map_err(|e| Problem::tell(Reason::Malformed, &e))
    }
}

/// A revocation was made.
#[derive(Debug, Serialize, Deserialize)]
pub struct Numbered {
    /// Its number.
    pub number: u64,
    /// Of what.
    pub kind: RevocationKind,
    /// Which one.
    pub value: String,
}

/// The list as an admin sees it.
#[derive(Debug, Serialize)]
pub struct Listed {
    /// The newest number there is.
    number: u64,
    /// In full; of other projects nothing.
    entries: Vec<Revocation>,
}

/// A signed list in full.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exported {
    /// Compact JWS.
    pub list: String,
}

/// Revokes an image, a chip, an author key or an ID key for every project.
pub async fn revoke(State(service): State<Arc<Service>>, signed: Signed<RevokeValueBody>) -> Result<(StatusCode, Json<Numbered>), Problem> {
    signed.require(Scope::Revoke)?;
    let Signed { admin, body } = signed;
    if !matches!(body.kind, RevocationKind::Image | RevocationKind::Chip | RevocationKind::Key) {
        let why = format!("a {} is revoked by its own route", body.kind);
        return Err(Problem::tell(Reason::RevocationValue, &why));
    }
    blocking(&service, move |service| {
        let done = service.store().revoke_value(body.kind, &body.value, &body.reason, &admin.name, unix_now());
        let number = done.map_err(|e| refuse(service, &admin, &e))?;
        tracing::info!(by = %admin.name, number, kind = %body.kind, value = %body.value, "revoked");
        Ok((StatusCode::CREATED, Json(Numbered { number, kind: body.kind, value: body.value })))
    })
    .await
}

/// Lists what comes after a number, one stretch of it, with names, reasons and who did it.
pub async fn list(State(service): State<Arc<Service>>, after: After, signed: Signed<Nothing>) -> Result<Json<Listed>, Problem> {
    signed.require_scope(Scope::Read)?;
    let RevocationList { number, mut entries, .. } = service.revocations().list(service.judge.issuer(), after.0, true, unix_now());
    entries.retain(|entry| concerns(&signed.admin, entry));
    Ok(Json(Listed { number, entries }))
}

/// The same, signed: what a restored service imports.
pub async fn export(State(service): State<Arc<Service>>, after: After, signed: Signed<Nothing>) -> Result<Json<Exported>, Problem> {
    signed.require(Scope::Read)?;
    blocking(&service, move |service| Ok(Json(Exported { list: sign(service, after.0, true)? }))).await
}

/// What anybody may know, signed: numbers, kinds, values and times after `?after=N`, as a compact JWS.
pub async fn public(State(service): State<Arc<Service>>, after: After) -> Result<impl IntoResponse, Problem> {
    let list = blocking(&service, move |service| sign(service, after.0, false)).await?;
    Ok(([(CONTENT_TYPE, "application/jose".to_owned()), (CACHE_CONTROL, format!("max-age={LIST_MAX_AGE_S}"))], list))
}

fn sign(service: &Service, after: u64, in_full: bool) -> Result<String, Problem> {
    let now = unix_now();
    let list = service.revocations().list(service.judge.issuer(), after, in_full, now);
    service.judge.sign_statement(StatementKind::Revocations, &list, now).map_err(|e| Problem::internal(&e))
}

/// Chips, images and keys concern everybody; a site and an admin their own project; token keys the whole service.
fn concerns(admin: &Admin, entry: &Revocation) -> bool {
    let Some(own) = &admin.project else { return true };
    match entry.kind {
        RevocationKind::Image | RevocationKind::Chip | RevocationKind::Key => true,
        RevocationKind::Site => {
            entry.name.as_deref().and_then(|name| name.split_once('/')).is_some_and(|(project, _)| project == own.as_str())
        }
        RevocationKind::Admin | RevocationKind::TokenKey => false,
    }
}

/// Recorded like any authenticated refusal.
pub fn refuse(service: &Service, admin: &Admin, error: &RevocationError) -> Problem {
    let reason = match error {
        RevocationError::Store(e) => return Problem::internal(e),
        RevocationError::Already { .. } => Reason::AlreadyRevoked,
        RevocationError::Value { .. } | RevocationError::Zeros { .. } | RevocationError::Reason { .. } | RevocationError::OurWords => {
            Reason::RevocationValue
        }
    };
    refuse_recorded(service, admin, reason, error)
}

/// A change an admin may ask for and does not get.
pub fn refuse_recorded(service: &Service, admin: &Admin, reason: Reason, why: &dyn std::fmt::Display) -> Problem {
    let subject = Subject { project: admin.project.clone(), ..Subject::default() };
    let entry = Entry::new(unix_now(), Event::Refuse, &admin.name, reason.code(), why.to_string(), subject);
    match service.store().record(entry) {
        Ok(()) => Problem::tell(reason, why),
        Err(error) => Problem::internal(&error),
    }
}
