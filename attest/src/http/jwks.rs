//! `GET /.well-known/jwks.json`: the public keys that tokens are checked with at this moment.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;

use super::Service;
use super::problem::Problem;
use crate::clock::unix_now;
use crate::token_keys::JWKS_MAX_AGE_S;

/// The key set.
pub async fn jwks(State(service): State<Arc<Service>>) -> Result<impl IntoResponse, Problem> {
    let keys = service.judge.keys().load().jwks(unix_now()).ok_or_else(|| Problem::internal(&"every token key leaked"))?;
    let bytes = keys.to_bytes().map_err(|e| Problem::internal(&e))?;
    let headers = [(CONTENT_TYPE, "application/jwk-set+json".to_owned()), (CACHE_CONTROL, format!("max-age={JWKS_MAX_AGE_S}"))];
    Ok((headers, bytes))
}
