//! `GET /healthz`: the service runs and its database answers.

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
}

/// Touches the database once.
pub async fn health(State(service): State<Arc<Service>>) -> Result<Json<Health>, Problem> {
    blocking(&service, |service| {
        let store = service.store();
        store.ark().map_err(|e| Problem::internal(&e))?;
        Ok(Json(Health { status: "ok", root_of_trust: store.root_of_trust().to_string() }))
    })
    .await
}
