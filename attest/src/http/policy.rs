//! `/coffer/v1/projects/{project}/policy…` and `/coffer/v1/policy…`, the service's default: look, change, try, go back.

use std::sync::{Arc, TryLockError};

use axum::Json;
use axum::Router;
use axum::extract::{FromRequestParts, Path, RawPathParams, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::routing::{get, post};
use coffer_manifest::{ProjectName, Sha256Digest};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::extract::{Body, Nothing, Signed};
use super::problem::Problem;
use super::{Service, blocking};
use crate::clock::unix_now;
use crate::policy::{ChangeError, Checked, DocumentError, DryRun, MAX_DOCUMENT_BYTES, ProjectPolicy, dry_run, weakenings};
use crate::reason::Reason;
use crate::store::{Admin, Entry, Event, KEPT_DECISIONS, PolicyChange, PolicyOwner, PolicyVersion, Scope, SetPolicyError, Subject};

/// Room for the members around a document.
const FRAME_BYTES: usize = 4096;
/// The longest reason, in characters.
const MAX_REASON_CHARS: usize = 500;

/// Every route of one owner's policy, under both kinds of owner.
pub fn routes() -> Router<Arc<Service>> {
    ["/coffer/v1/policy", "/coffer/v1/projects/{project}/policy"].into_iter().fold(Router::new(), |router, base| {
        router
            .route(base, get(show).post(set))
            .route(&format!("{base}/history"), get(history))
            .route(&format!("{base}/versions/{{version}}"), get(version))
            .route(&format!("{base}/dry-run"), post(try_out))
            .route(&format!("{base}/rollback"), post(roll_back))
    })
}

/// Whose policy a path is about.
pub struct Owner(PolicyOwner);

impl FromRequestParts<Arc<Service>> for Owner {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, service: &Arc<Service>) -> Result<Self, Problem> {
        let params = RawPathParams::from_request_parts(parts, service).await.map_err(|e| Problem::refuse(Reason::NoSuchPath, &e))?;
        let owner = match params.iter().find(|(name, _)| *name == "project") {
            None => PolicyOwner::Default,
            Some((_, project)) => PolicyOwner::Project(project.parse().map_err(|e| Problem::refuse(Reason::NoSuchPath, &e))?),
        };
        Ok(Self(owner))
    }
}

/// The default policy is the whole service's, a project's is its own admins'.
fn require<T>(signed: &Signed<T>, scope: Scope, owner: &PolicyOwner) -> Result<(), Problem> {
    match owner {
        PolicyOwner::Default => signed.require(scope),
        PolicyOwner::Project(project) => signed.require_in(scope, project),
    }
}

/// `POST …/policy`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetBody {
    /// The version it replaces; 0 where there is none.
    replaces: u64,
    /// For the history and the audit log.
    reason: String,
    /// `coffer/project-policy/v1`.
    document: Box<RawValue>,
}

impl Body for SetBody {
    const LIMIT: usize = MAX_DOCUMENT_BYTES + FRAME_BYTES;

    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let body: Self = serde_json::from_slice(bytes).map_err(|e| malformed(&e))?;
        check_reason(&body.reason)?;
        Ok(body)
    }
}

/// `POST …/policy/rollback`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollBackBody {
    /// The version whose document comes back, as a new version.
    pub to: u64,
    /// The version it replaces.
    pub replaces: u64,
    /// For the history and the audit log.
    pub reason: String,
}

impl Body for RollBackBody {
    const LIMIT: usize = FRAME_BYTES;

    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let body: Self = serde_json::from_slice(bytes).map_err(|e| malformed(&e))?;
        check_reason(&body.reason)?;
        Ok(body)
    }
}

/// `POST …/policy/dry-run`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DryRunBody {
    /// How many of the newest decisions to make again.
    last: u32,
    /// `coffer/project-policy/v1`.
    document: Box<RawValue>,
}

impl Body for DryRunBody {
    const LIMIT: usize = MAX_DOCUMENT_BYTES + FRAME_BYTES;

    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let body: Self = serde_json::from_slice(bytes).map_err(|e| malformed(&e))?;
        if (1..=KEPT_DECISIONS).contains(&body.last) {
            return Ok(body);
        }
        Err(malformed(&format!("`last` is {}, expected 1 to {KEPT_DECISIONS}", body.last)))
    }
}

fn check_reason(reason: &str) -> Result<(), Problem> {
    if (1..=MAX_REASON_CHARS).contains(&reason.chars().count()) && !reason.chars().any(char::is_control) {
        return Ok(());
    }
    Err(malformed(&format!("`reason` is not 1 to {MAX_REASON_CHARS} characters on one line")))
}

fn malformed(why: &dyn std::fmt::Display) -> Problem {
    Problem::tell(Reason::Malformed, why)
}

/// A document and how it came to be.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// `project`, `default` or `none`: whose document decides here.
    source: &'static str,
    /// What a change to it has to name in `replaces`: 0 where the project has none of its own.
    version: u64,
    /// Who, when, why.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    change: Option<PolicyChange>,
    /// The document in force.
    document: Box<RawValue>,
}

/// A version without its document.
#[derive(Debug, Serialize)]
pub struct Listed {
    version: u64,
    #[serde(flatten)]
    change: PolicyChange,
    sha256: Sha256Digest,
    bytes: usize,
}

/// What a change did.
#[derive(Debug, Serialize)]
pub struct Set {
    version: u64,
    /// What got weaker: one line each.
    weaker: Vec<String>,
}

/// What a change would do.
#[derive(Debug, Serialize)]
pub struct TriedOut {
    /// What would get weaker.
    weaker: Vec<String>,
    #[serde(flatten)]
    run: DryRun,
}

async fn show(State(service): State<Arc<Service>>, Owner(owner): Owner, signed: Signed<Nothing>) -> Result<Json<Shown>, Problem> {
    match &owner {
        // What holds for projects without a policy is no secret to their admins.
        PolicyOwner::Default => signed.require_scope(Scope::Read)?,
        PolicyOwner::Project(_) => require(&signed, Scope::Read, &owner)?,
    }
    blocking(&service, move |service| {
        let policy = service.judge.policies().in_force(&owner);
        let own = policy.owner == owner && policy.version != 0;
        let stored = if own { service.store().policy(&owner, policy.version).map_err(|e| Problem::internal(&e))? } else { None };
        let source = match (&policy.owner, policy.version) {
            (_, 0) => "none",
            (PolicyOwner::Default, _) => "default",
            (PolicyOwner::Project(_), _) => "project",
        };
        let bytes = policy.document.to_bytes().map_err(|e| Problem::internal(&e))?;
        let version = if own { policy.version } else { 0 };
        Ok(Json(Shown { source, version, change: stored.map(|stored| stored.change), document: raw(bytes)? }))
    })
    .await
}

async fn history(State(service): State<Arc<Service>>, Owner(owner): Owner, signed: Signed<Nothing>) -> Result<Json<Vec<Listed>>, Problem> {
    require(&signed, Scope::Read, &owner)?;
    blocking(&service, move |service| {
        let versions = service.store().policy_history(&owner).map_err(|e| Problem::internal(&e))?;
        Ok(Json(versions.into_iter().map(listed).collect()))
    })
    .await
}

fn listed(version: PolicyVersion) -> Listed {
    let PolicyVersion { version, document, change } = version;
    Listed { version, change, sha256: Sha256Digest::of(&document), bytes: document.len() }
}

#[derive(Deserialize)]
struct VersionPath {
    version: u64,
}

async fn version(
    State(service): State<Arc<Service>>,
    Owner(owner): Owner,
    path: Result<Path<VersionPath>, axum::extract::rejection::PathRejection>,
    signed: Signed<Nothing>,
) -> Result<Json<Shown>, Problem> {
    require(&signed, Scope::Read, &owner)?;
    let Path(VersionPath { version }) = path.map_err(|e| Problem::tell(Reason::NoSuchPolicy, &e))?;
    blocking(&service, move |service| {
        let stored = stored(service, &owner, version)?;
        let source = if owner == PolicyOwner::Default { "default" } else { "project" };
        Ok(Json(Shown { source, version, change: Some(stored.change), document: raw(stored.document)? }))
    })
    .await
}

fn stored(service: &Service, owner: &PolicyOwner, version: u64) -> Result<PolicyVersion, Problem> {
    let stored = service.store().policy(owner, version).map_err(|e| Problem::internal(&e))?;
    stored.ok_or_else(|| Problem::tell(Reason::NoSuchPolicy, &format!("{owner} has no version {version}")))
}

fn raw(bytes: Vec<u8>) -> Result<Box<RawValue>, Problem> {
    let text = String::from_utf8(bytes).map_err(|e| Problem::internal(&e))?;
    RawValue::from_string(text).map_err(|e| Problem::internal(&e))
}

async fn set(
    State(service): State<Arc<Service>>,
    Owner(owner): Owner,
    signed: Signed<SetBody>,
) -> Result<(StatusCode, Json<Set>), Problem> {
    require(&signed, Scope::Policy, &owner)?;
    let Signed { admin, body } = signed;
    blocking(&service, move |service| {
        let change = Change { owner: &owner, by: &admin.name, replaces: Some(body.replaces), reason: body.reason };
        let set = put(service, change, body.document.get().as_bytes()).map_err(|e| refuse(service, &admin, &owner, &e))?;
        Ok((StatusCode::CREATED, Json(set)))
    })
    .await
}

async fn roll_back(
    State(service): State<Arc<Service>>,
    Owner(owner): Owner,
    signed: Signed<RollBackBody>,
) -> Result<(StatusCode, Json<Set>), Problem> {
    require(&signed, Scope::Policy, &owner)?;
    let Signed { admin, body } = signed;
    blocking(&service, move |service| {
        let old = stored(service, &owner, body.to)?;
        let reason = format!("back to version {}: {}", body.to, body.reason);
        let change = Change { owner: &owner, by: &admin.name, replaces: Some(body.replaces), reason };
        let set = put(service, change, &old.document).map_err(|e| refuse(service, &admin, &owner, &e))?;
        Ok((StatusCode::CREATED, Json(set)))
    })
    .await
}

async fn try_out(State(service): State<Arc<Service>>, Owner(owner): Owner, signed: Signed<DryRunBody>) -> Result<Json<TriedOut>, Problem> {
    require(&signed, Scope::Policy, &owner)?;
    let Signed { admin, body } = signed;
    blocking(&service, move |service| {
        let _one_at_a_time = match service.trying.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(broken)) => broken.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(Problem::tell(Reason::Busy, &"another dry run is under way")),
        };
        let refused = |e: DocumentError| refuse(service, &admin, &owner, &ChangeError::Document(e));
        let document = Checked::read(&owner, body.document.get().as_bytes()).map_err(refused)?.into_document();
        let in_force = service.judge.policies().in_force(&owner);
        let weaker = weakenings(&in_force.document, &document);
        // Version 0 would mean that nobody has decided.
        let candidate: ProjectPolicy = service.judge.policies().compile(&owner, in_force.version + 1, document).map_err(refused)?;
        let run = dry_run(&service.judge, || service.store(), &in_force, &candidate, body.last).map_err(|e| Problem::internal(&e))?;
        Ok(Json(TriedOut { weaker, run }))
    })
    .await
}

/// A change as it is asked for.
pub(super) struct Change<'a> {
    /// Whose policy.
    pub owner: &'a PolicyOwner,
    /// The admin's name.
    pub by: &'a str,
    /// The version it replaces; whatever is in force, for stock tools, which cannot name one.
    pub replaces: Option<u64>,
    /// For the history and the audit log.
    pub reason: String,
}

/// Reads, tries and puts a document into force.
pub(super) fn put(service: &Service, change: Change<'_>, document: &[u8]) -> Result<Set, ChangeError> {
    let Change { owner, by, replaces, reason } = change;
    let policies = service.judge.policies();
    let prepared = policies.prepare(owner, Checked::read(owner, document)?)?;
    let mut store = service.store();
    let replaces = replaces.unwrap_or_else(|| policies.own_version(owner));
    let change = PolicyChange { set_at: unix_now(), set_by: by.to_owned(), reason };
    let changed = policies.change(&mut store, replaces, prepared, change)?;
    drop(store);
    tracing::info!(by, version = changed.version, weaker = changed.weaker.len(), "{owner} changed");
    Ok(Set { version: changed.version, weaker: changed.weaker })
}

/// A change that is not made: told, and recorded like any authenticated refusal.
pub(super) fn refuse(service: &Service, admin: &Admin, owner: &PolicyOwner, error: &ChangeError) -> Problem {
    let reason = match error {
        ChangeError::Document(_) => Reason::PolicyDocument,
        ChangeError::Set(SetPolicyError::Conflict { .. }) => Reason::PolicyConflict,
        ChangeError::Set(SetPolicyError::Store(e)) => return Problem::internal(e),
    };
    let project: Option<ProjectName> = match owner {
        PolicyOwner::Default => None,
        PolicyOwner::Project(project) => Some(project.clone()),
    };
    let subject = Subject { project, ..Subject::default() };
    let detail: String = error.to_string().chars().take(MAX_REASON_CHARS).collect();
    match service.store().record(Entry::new(unix_now(), Event::Refuse, &admin.name, reason.code(), detail, subject)) {
        Ok(()) => Problem::tell(reason, error),
        Err(error) => Problem::internal(&error),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bodies_say_what_is_wrong_with_them() {
        for bad in [
            r#"{"replaces":1,"reason":"","document":{}}"#,
            r#"{"replaces":1,"reason":"a\nb","document":{}}"#,
            r#"{"replaces":-1,"reason":"a","document":{}}"#,
            r#"{"reason":"a","document":{}}"#,
            r#"{"replaces":1,"reason":"a","document":{},"force":true}"#,
        ] {
            assert!(SetBody::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(DryRunBody::parse(br#"{"last":0,"document":{}}"#).is_err());
        assert!(DryRunBody::parse(br#"{"last":10001,"document":{}}"#).is_err());
        assert!(DryRunBody::parse(br#"{"last":10000,"document":{}}"#).is_ok());
    }

    proptest! {
        #[test]
        fn bodies_never_panic(bytes: Vec<u8>, text in r#"\{"(replaces|reason|document|last|to)":[ -~]{0,60}\}"#) {
            for body in [bytes.as_slice(), text.as_bytes()] {
                let _ = SetBody::parse(body);
                let _ = RollBackBody::parse(body);
                let _ = DryRunBody::parse(body);
            }
        }
    }
}
