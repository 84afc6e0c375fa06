//! `GET /.well-known/jwks.json`: the public key that tokens are checked with.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::Service;
use super::problem::Problem;

/// The key set.
pub async fn jwks(State(service): State<Arc<Service>>) -> Result<impl IntoResponse, Problem> {
    let bytes = service.judge.jwks().to_bytes().map_err(|e| Problem::internal(&e))?;
    Ok(([(CONTENT_TYPE, "application/jwk-set+json")], bytes))
}
