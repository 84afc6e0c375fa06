//! `GET /healthz`: the service runs and its database answers; and what a relying party has to know of it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::problem::Problem;
use super::{Service, blocking};

/// What anybody may know.
#[derive(Debug, Serialize)]
pub struct Health {
    status: &'static str,
    root_of_trust: String,
    /// `iss` of every token.
    issuer: String,
    /// `aud` of job tokens.
    audience: String,
}

/// Touches the database once.
pub async fn health(State(service): State<Arc<Service>>) -> Result<Json<Health>, Problem> {
    blocking(&service, |service| {
        let store = service.store();
        store.ark().map_err(|e| Problem::internal(&e))?;
        let (issuer, audience) = (service.judge.issuer().to_owned(), service.judge.audience().to_owned());
        Ok(Json(Health { status: "ok", root_of_trust: store.root_of_trust().to_string(), issuer, audience }))
    })
    .await
}
