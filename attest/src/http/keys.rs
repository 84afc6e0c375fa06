//! `/coffer/v1/keys…`: the keys that sign tokens. What changes here is in `/.well-known/jwks.json` before it is answered.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use coffer_token::RevocationKind;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::admins::ReasonBody;
use super::extract::{Body, Nothing, Signed};
use super::problem::Problem;
use super::revocation::{Numbered, refuse, refuse_recorded};
use super::{Service, blocking};
use crate::clock::unix_now;
use crate::reason::Reason;
use crate::store::{Admin, KeyError, Scope};
use crate::token_keys::{KeyStatus, MAX_PUBLICATION_S};

/// `POST /coffer/v1/keys/rotate`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateBody {
    /// Seconds from publication to the first signature.
    pub delay_seconds: u64,
}

impl Body for RotateBody {
    const LIMIT: usize = 256;

    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let body: Self = serde_json::from_slice(bytes).map_err(|e| Problem::tell(Reason::Malformed, &e))?;
        if body.delay_seconds <= MAX_PUBLICATION_S {
            return Ok(body);
        }
        let why = format!("delay_seconds is {}, expected at most {MAX_PUBLICATION_S}", body.delay_seconds);
        Err(Problem::tell(Reason::Malformed, &why))
    }
}

/// Every key there ever was.
#[derive(Debug, Serialize)]
pub struct Listed {
    keys: Vec<KeyStatus>,
    /// Public halves of all that did not leak, each a set of its own: for what was signed long ago.
    history: Vec<Box<RawValue>>,
}

/// A key was made.
#[derive(Debug, Serialize)]
pub struct Rotated {
    kid: String,
    signs_from: u64,
}

/// Lists keys, their states and times.
pub async fn list(State(service): State<Arc<Service>>, signed: Signed<Nothing>) -> Result<Json<Listed>, Problem> {
    signed.require(Scope::Keys)?;
    let ring = service.judge.keys().load();
    let as_raw = |jwks: &coffer_token::Jwks| -> Result<Box<RawValue>, Problem> {
        let text = String::from_utf8(jwks.to_bytes().map_err(|e| Problem::internal(&e))?).map_err(|e| Problem::internal(&e))?;
        RawValue::from_string(text).map_err(|e| Problem::internal(&e))
    };
    let history = ring.history().map(as_raw).collect::<Result<_, _>>()?;
    Ok(Json(Listed { keys: ring.status(unix_now()), history }))
}

/// Makes and publishes the next key.
pub async fn rotate(State(service): State<Arc<Service>>, signed: Signed<RotateBody>) -> Result<(StatusCode, Json<Rotated>), Problem> {
    signed.require(Scope::Keys)?;
    let Signed { admin, body } = signed;
    blocking(&service, move |service| {
        let now = unix_now();
        let rotated = service.change_keys(|store| store.rotate_token_key(body.delay_seconds, &admin.name, now));
        let kid = rotated.map_err(|e| refuse_key(service, &admin, &e))?;
        let signs_from = now.saturating_add(body.delay_seconds);
        tracing::info!(by = %admin.name, %kid, signs_from, "token key made");
        Ok((StatusCode::CREATED, Json(Rotated { kid, signs_from })))
    })
    .await
}

/// Ends a leaked key and every token of it.
pub async fn retire(
    State(service): State<Arc<Service>>,
    Path(kid): Path<String>,
    signed: Signed<ReasonBody>,
) -> Result<Json<Numbered>, Problem> {
    signed.require(Scope::Keys)?;
    let Signed { admin, body } = signed;
    blocking(&service, move |service| {
        let retired = service.change_keys(|store| store.retire_token_key(&kid, &body.reason, &admin.name, unix_now()));
        let number = retired.map_err(|e| refuse_key(service, &admin, &e))?;
        tracing::warn!(by = %admin.name, %kid, number, "token key retired: it leaked");
        Ok(Json(Numbered { number, kind: RevocationKind::TokenKey, value: kid }))
    })
    .await
}

fn refuse_key(service: &Service, admin: &Admin, error: &KeyError) -> Problem {
    let reason = match error {
        KeyError::Store(e) => return Problem::internal(e),
        KeyError::NoKey => return Problem::internal(error),
        KeyError::Revocation(e) => return refuse(service, admin, e),
        KeyError::Unknown { .. } => Reason::NoSuchKey,
        KeyError::TooMany { .. } | KeyError::Pending { .. } | KeyError::Retired { .. } => Reason::TokenKeyState,
    };
    refuse_recorded(service, admin, reason, error)
}
