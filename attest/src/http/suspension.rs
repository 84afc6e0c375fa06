//! `POST /coffer/v1/sites/{project}/{site}/suspend|resume`: a site is shut out for a while, and let in again.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use coffer_manifest::{ProjectName, SiteName};
use serde::Serialize;

use super::admins::ReasonBody;
use super::extract::Signed;
use super::problem::Problem;
use super::sites::{refuse_change, site_name};
use super::{Service, blocking};
use crate::clock::unix_now;
use crate::reason::Reason;
use crate::store::{Change, Scope, SuspendError};

/// How the site stands now.
#[derive(Debug, Serialize)]
pub struct Changed {
    project: ProjectName,
    site: SiteName,
    suspended: bool,
}

/// Suspends every config of a site, those enrolled meanwhile included.
pub async fn suspend(
    State(service): State<Arc<Service>>,
    Path(name): Path<(String, String)>,
    signed: Signed<ReasonBody>,
) -> Result<Json<Changed>, Problem> {
    change(service, name, signed, true).await
}

/// Resumes it.
pub async fn resume(
    State(service): State<Arc<Service>>,
    Path(name): Path<(String, String)>,
    signed: Signed<ReasonBody>,
) -> Result<Json<Changed>, Problem> {
    change(service, name, signed, false).await
}

async fn change(
    service: Arc<Service>,
    name: (String, String),
    signed: Signed<ReasonBody>,
    suspended: bool,
) -> Result<Json<Changed>, Problem> {
    signed.require_scope(Scope::Revoke)?;
    let (project, site) = site_name(name)?;
    let Signed { admin, body } = signed;
    blocking(&service, move |service| {
        let change = Change { by: &admin.name, reason: &body.reason, now: unix_now() };
        // Another tenant's site is answered as one that was never enrolled.
        let done = match (admin.sees(&project), suspended) {
            (false, _) => Err(SuspendError::NotActive { project: project.clone(), site: site.clone() }),
            (true, true) => service.store().suspend(&project, &site, change),
            (true, false) => service.store().resume(&project, &site, change),
        };
        done.map_err(|e| {
            let reason = match &e {
                SuspendError::Store(e) => return Problem::internal(e),
                SuspendError::Reason(e) => return Problem::tell(Reason::RevocationValue, e),
                SuspendError::NotActive { .. } => Reason::NotActive,
                SuspendError::Already { .. } => Reason::AlreadySuspended,
                SuspendError::NotSuspended { .. } => Reason::NotSuspended,
            };
            refuse_change(service, &admin, reason, &e, (&project, &site, None))
        })?;
        tracing::info!(by = %admin.name, %project, %site, "{}", if suspended { "suspended" } else { "resumed" });
        Ok(Json(Changed { project, site, suspended }))
    })
    .await
}
