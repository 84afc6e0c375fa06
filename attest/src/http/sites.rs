//! `/coffer/v1/sites…`: what registered admins may do. Every call is signed over method, path and body, and counts once.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use coffer_evidence::HostData;
use coffer_manifest::{DocumentError, EnrollmentFile, MAX_DOCUMENT_BYTES, ProjectName, SiteName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::extract::{Body, Nothing, Signed};
use super::problem::Problem;
use super::{Service, blocking};
use crate::clock::unix_now;
use crate::reason::Reason;
use crate::store::{Admin, EnrollError, Entry, Event, Instance, RevokeError, Scope, Site, Subject};

/// Decisions that `site show` gets.
const SHOWN_DECISIONS: u32 = 50;
/// Instances that it gets.
const SHOWN_INSTANCES: u32 = 16;

/// `POST /coffer/v1/sites`.
pub struct EnrollBody {
    file: EnrollmentFile,
    accept_aml_risk: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEnroll<'a> {
    accept_aml_risk: bool,
    #[serde(borrow)]
    enrollment: &'a RawValue,
}

impl Body for EnrollBody {
    const LIMIT: usize = MAX_DOCUMENT_BYTES + 1024;

    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let raw: RawEnroll<'_> = serde_json::from_slice(bytes).map_err(|e| unreadable(&DocumentError::Parse(e)))?;
        let file = EnrollmentFile::from_bytes(raw.enrollment.get().as_bytes()).map_err(|e| unreadable(&e))?;
        Ok(Self { file, accept_aml_risk: raw.accept_aml_risk })
    }
}

/// `POST /coffer/v1/sites/{project}/{site}/revoke`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeBody {
    /// The config that must be the active one; any, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_data: Option<HostData>,
    /// For the audit log.
    pub reason: String,
}

impl Body for RevokeBody {
    const LIMIT: usize = 4096;

    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        serde_json::from_slice(bytes).map_err(|e| malformed(&e))
    }
}

/// What a change did.
#[derive(Debug, Serialize, Deserialize)]
pub struct Changed {
    /// Project.
    pub project: ProjectName,
    /// Site.
    pub site: SiteName,
    /// The config enrolled or revoked.
    pub host_data: HostData,
}

/// A site with everything that is known about it.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// Every config it ever had, newest first.
    configs: Vec<Site>,
    /// Boots that were given job tokens, newest first.
    instances: Vec<Instance>,
    /// Newest first.
    decisions: Vec<Entry>,
}

/// Enrolls a site.
pub async fn enroll(State(service): State<Arc<Service>>, signed: Signed<EnrollBody>) -> Result<(StatusCode, Json<Changed>), Problem> {
    signed.require_in(Scope::Enroll, &signed.body.file.record.project)?;
    let Signed { admin, body } = signed;
    blocking(&service, move |service| {
        let record = &body.file.record;
        let enrolled = service.store().enroll(&body.file, body.accept_aml_risk, &admin.name, unix_now());
        enrolled.map_err(|e| match e {
            EnrollError::Store(e) => Problem::internal(&e),
            e => refuse_change(service, &admin, e.reason(), &e, (&record.project, &record.site, Some(record.host_data))),
        })?;
        let record = body.file.record;
        tracing::info!(by = %admin.name, project = %record.project, site = %record.site, host_data = %record.host_data, "enrolled");
        Ok((StatusCode::CREATED, Json(Changed { project: record.project, site: record.site, host_data: record.host_data })))
    })
    .await
}

/// Lists every record.
pub async fn list(State(service): State<Arc<Service>>, signed: Signed<Nothing>) -> Result<Json<Vec<Site>>, Problem> {
    signed.require_scope(Scope::Read)?;
    blocking(&service, move |service| {
        let mut sites = service.store().sites().map_err(|e| Problem::internal(&e))?;
        sites.retain(|site| signed.sees(&site.record.project));
        Ok(Json(sites))
    })
    .await
}

/// Shows one site.
pub async fn show(
    State(service): State<Arc<Service>>,
    Path(name): Path<(String, String)>,
    signed: Signed<Nothing>,
) -> Result<Json<Shown>, Problem> {
    signed.require_scope(Scope::Read)?;
    let (project, site) = site_name(name)?;
    blocking(&service, move |service| {
        let store = service.store();
        let mut configs = store.history(&project, &site).map_err(|e| Problem::internal(&e))?;
        configs.retain(|site| signed.sees(&site.record.project));
        if configs.is_empty() {
            let why = format!("site `{project}/{site}` was never enrolled");
            return Err(Problem::tell(Reason::NoSuchSite, &why));
        }
        let decisions = store.entries_of(&project, &site, SHOWN_DECISIONS).map_err(|e| Problem::internal(&e))?;
        let instances = store.instances(&project, &site, SHOWN_INSTANCES).map_err(|e| Problem::internal(&e))?;
        Ok(Json(Shown { configs, instances, decisions }))
    })
    .await
}

/// Revokes a site's active config.
pub async fn revoke(
    State(service): State<Arc<Service>>,
    Path(name): Path<(String, String)>,
    signed: Signed<RevokeBody>,
) -> Result<Json<Changed>, Problem> {
    signed.require_scope(Scope::Revoke)?;
    let (project, site) = site_name(name)?;
    let Signed { admin, body } = signed;
    blocking(&service, move |service| {
        // Another tenant's site is answered as one that was never enrolled.
        let revoked = if admin.sees(&project) {
            service.store().revoke(&project, &site, body.host_data, &admin.name, &body.reason, unix_now())
        } else {
            Err(RevokeError::NotActive { project: project.clone(), site: site.clone() })
        };
        let host_data = revoked.map_err(|e| match e {
            RevokeError::Store(e) => Problem::internal(&e),
            RevokeError::Reason(e) => Problem::tell(Reason::RevocationValue, &e),
            e => refuse_change(service, &admin, Reason::NotActive, &e, (&project, &site, body.host_data)),
        })?;
        tracing::info!(by = %admin.name, %project, %site, %host_data, "revoked");
        Ok(Json(Changed { project, site, host_data }))
    })
    .await
}

/// A change that an admin may ask for and does not get, such as a name taken from another: recorded like any authenticated refusal.
pub(super) fn refuse_change(
    service: &Service,
    admin: &Admin,
    reason: Reason,
    why: &dyn std::fmt::Display,
    (project, site, host_data): (&ProjectName, &SiteName, Option<HostData>),
) -> Problem {
    // Into another tenant's records nobody writes: there it is this admin's own project's affair.
    let subject = if admin.sees(project) {
        Subject { project: Some(project.clone()), site: Some(site.clone()), host_data }
    } else {
        Subject { project: admin.project.clone(), ..Subject::default() }
    };
    let entry = Entry::new(unix_now(), Event::Refuse, &admin.name, reason.code(), why.to_string(), subject);
    match service.store().record(entry) {
        Ok(()) => Problem::tell(reason, why),
        Err(error) => Problem::internal(&error),
    }
}

/// The names in a path.
pub(super) fn site_name((project, site): (String, String)) -> Result<(ProjectName, SiteName), Problem> {
    let refuse = |e: coffer_manifest::NameError| Problem::tell(Reason::NoSuchSite, &e);
    Ok((project.parse().map_err(refuse)?, site.parse().map_err(refuse)?))
}

/// A JSON error may quote what it could not read, and this document holds secrets: only the place is told.
fn unreadable(error: &DocumentError) -> Problem {
    match error {
        DocumentError::Parse(e) => malformed(&format!("enrollment does not parse at line {} column {}", e.line(), e.column())),
        other => malformed(other),
    }
}

fn malformed(why: &dyn std::fmt::Display) -> Problem {
    Problem::tell(Reason::Malformed, why)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bodies_never_panic(bytes: Vec<u8>, text in r#"\{"(accept_aml_risk|enrollment|reason|host_data)":[ -~]{0,60}\}"#) {
            for body in [bytes.as_slice(), text.as_bytes()] {
                let _ = EnrollBody::parse(body);
                let _ = RevokeBody::parse(body);
            }
        }
    }
}
