//! `/coffer/v1/admins…`: who may call what. An admin of one project adds, sees and revokes that project's admins only.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use coffer_manifest::ProjectName;
use coffer_token::RevocationKind;
use coffer_token::admin::AdminKey;
use serde::{Deserialize, Serialize};

use super::extract::{Body, Nothing, Signed};
use super::problem::Problem;
use super::revocation::{Numbered, refuse, refuse_recorded};
use super::{Service, blocking};
use crate::clock::unix_now;
use crate::reason::Reason;
use crate::store::{Admin, AdminError, Scope, scope_names};

/// `POST /coffer/v1/admins`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddBody {
    /// For the audit log; given once.
    pub name: String,
    /// P-384 public key, PEM.
    pub public_key: String,
    /// What the key may do.
    pub scopes: Vec<Scope>,
    /// The one project it may do that in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
}

impl Body for AddBody {
    const LIMIT: usize = 4096;

    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        serde_json::from_slice(bytes).map_err(|e| Problem::tell(Reason::Malformed, &e))
    }
}

/// `POST …/revoke` of what needs nothing but a reason.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReasonBody {
    /// For the list and the audit log.
    pub reason: String,
}

impl Body for ReasonBody {
    const LIMIT: usize = 4096;

    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        serde_json::from_slice(bytes).map_err(|e| Problem::tell(Reason::Malformed, &e))
    }
}

/// Registers an admin.
pub async fn add(State(service): State<Arc<Service>>, signed: Signed<AddBody>) -> Result<(StatusCode, Json<Admin>), Problem> {
    signed.require_scope(Scope::Admin)?;
    let Signed { admin: giver, body } = signed;
    let key = AdminKey::from_pem(&body.public_key).map_err(|e| Problem::tell(Reason::Malformed, &format!("public_key: {e}")))?;
    blocking(&service, move |service| {
        let mut scopes = body.scopes;
        scopes.sort_unstable();
        scopes.dedup();
        let admin = Admin {
            kid: key.id().to_string(),
            name: body.name,
            public: key.to_pem().map_err(|e| Problem::internal(&e))?,
            scopes,
            project: body.project,
            added_at: unix_now(),
            added_by: giver.name.clone(),
            revoked_at: None,
        };
        let added = service.store().add_admin(&admin, Some(&giver));
        added.map_err(|e| refuse_admin(service, &giver, &e))?;
        tracing::info!(by = %giver.name, name = %admin.name, kid = %admin.kid, scopes = %scope_names(&admin.scopes), "admin added");
        Ok((StatusCode::CREATED, Json(admin)))
    })
    .await
}

/// Lists every admin there ever was.
pub async fn list(State(service): State<Arc<Service>>, signed: Signed<Nothing>) -> Result<Json<Vec<Admin>>, Problem> {
    signed.require_scope(Scope::Admin)?;
    blocking(&service, move |service| {
        let mut admins = service.store().admins().map_err(|e| Problem::internal(&e))?;
        admins.retain(|admin| signed.admin.project.is_none() || signed.admin.project == admin.project);
        Ok(Json(admins))
    })
    .await
}

/// Revokes an admin: the very next call is refused.
pub async fn revoke(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
    signed: Signed<ReasonBody>,
) -> Result<Json<Numbered>, Problem> {
    signed.require_scope(Scope::Admin)?;
    let Signed { admin: revoker, body } = signed;
    blocking(&service, move |service| {
        let revoked = service.store().revoke_admin(&name, &body.reason, &revoker, unix_now());
        let (number, kid) = revoked.map_err(|e| refuse_admin(service, &revoker, &e))?;
        tracing::info!(by = %revoker.name, %name, number, "admin revoked");
        Ok(Json(Numbered { number, kind: RevocationKind::Admin, value: kid }))
    })
    .await
}

fn refuse_admin(service: &Service, admin: &Admin, error: &AdminError) -> Problem {
    let reason = match error {
        AdminError::Store(e) => return Problem::internal(e),
        AdminError::Revocation(e) => return refuse(service, admin, e),
        AdminError::NameTaken { .. } | AdminError::KeyTaken { .. } => Reason::AdminTaken,
        AdminError::Name { .. } | AdminError::NoScope { .. } => Reason::Malformed,
        AdminError::Grant { .. } => Reason::AdminGrant,
        AdminError::Unknown { .. } => Reason::NoSuchAdmin,
        AdminError::Last { .. } => Reason::LastAdmin,
    };
    refuse_recorded(service, admin, reason, error)
}
