//! What stock admin tools (`kbs-client`) call, with a short bearer token: resources of a project, its rego, its reference values.
//!
//! Each ends in the same document and the same checks as `policy set`: these routes narrow or replace what a project's policy
//! says, never what an enrollment is. What has no meaning here is refused by name, with what to send instead.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Path, RawPathParams, Request, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use coffer_kbs_policy::{EvidenceFacts, ExactName};
use coffer_manifest::ProjectName;
use coffer_token::UnixTime;
use coffer_token::bearer::{self as token, BearerClaims, BearerScope, MAX_BEARER_SECONDS};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use super::extract::{self, Body, Signed};
use super::policy::{Change, put, refuse as refuse_policy};
use super::problem::{Problem, RefusalId};
use super::{Service, blocking};
use crate::clock::unix_now;
use crate::judge::{Judge, Refused};
use crate::policy::stock_body::{StockBodyError, StockRego, StockValues, attestation_policy, reference_values, resource_policy, short};
use crate::policy::{ChangeError, DOCUMENT_TYPE, MAX_DOCUMENT_BYTES, PolicyDocument, StockPath};
use crate::reason::Reason;
use crate::store::{Admin, Entry, Event, PolicyOwner, Scope, Site, Subject};

/// The longest resource. A stock client reads no longer one comfortably: it comes as one JSON text.
const MAX_RESOURCE_BYTES: usize = 1 << 20;
/// The longest body of a policy or a reference value: a document in base64, twice.
const MAX_STOCK_BODY_BYTES: usize = 2 * MAX_DOCUMENT_BYTES;

/// Every route of stock admin tools but those of a resource, and the one that gives out their tokens.
pub fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/kbs/v0/resource-policy", get(resource_policies).post(set_resource_policy))
        .route("/kbs/v0/attestation-policy", post(set_attestation_policy))
        .route("/kbs/v0/reference-value", post(set_reference_values))
        .route("/kbs/v0/reference-value/{*name}", get(reference_value))
        .route("/coffer/v1/projects/{project}/bearer", post(issue))
}

/// `POST /coffer/v1/projects/{project}/bearer`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BearerBody {
    /// What it may be used for.
    pub scopes: Vec<BearerScope>,
    /// How long it lives, in seconds.
    pub ttl_seconds: u64,
}

impl Body for BearerBody {
    const LIMIT: usize = 1024;

    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let mut body: Self = serde_json::from_slice(bytes).map_err(|e| Problem::tell(Reason::Malformed, &e))?;
        body.scopes.sort_unstable();
        body.scopes.dedup();
        if body.scopes.is_empty() || !(1..=MAX_BEARER_SECONDS).contains(&body.ttl_seconds) {
            let why =
                format!("a bearer token has at least one scope and lives 1 to {MAX_BEARER_SECONDS} seconds, got {}", body.ttl_seconds);
            return Err(Problem::tell(Reason::Malformed, &why));
        }
        Ok(body)
    }
}

/// A token as it is given out.
#[derive(Debug, Serialize)]
pub struct Issued {
    token: String,
    id: String,
    expires_at: u64,
}

async fn issue(
    State(service): State<Arc<Service>>,
    Path(project): Path<String>,
    signed: Signed<BearerBody>,
) -> Result<(StatusCode, Json<Issued>), Problem> {
    let project: ProjectName = project.parse().map_err(|e| Problem::tell(Reason::Malformed, &e))?;
    signed.require_in(Scope::Policy, &project)?;
    let Signed { admin, body } = signed;
    blocking(&service, move |service| {
        let (now, id) = (unix_now(), RefusalId::new());
        let issuer = service.judge.issuer();
        let claims = BearerClaims {
            v: coffer_token::Version1,
            iss: issuer.to_owned(),
            aud: issuer.to_owned(),
            jti: id.as_str().to_owned(),
            iat: now,
            exp: now.saturating_add(body.ttl_seconds),
            project: project.to_string(),
            scopes: body.scopes,
            admin: admin.kid.parse().map_err(|e| Problem::internal(&e))?,
        };
        let keys = service.judge.keys().load();
        let signer = keys.signer(now).ok_or_else(|| Problem::internal(&"no token key signs"))?;
        let token = signer.sign_bearer(&claims).map_err(|e| Problem::internal(&e))?;
        let names: Vec<_> = claims.scopes.iter().map(|scope| scope.name()).collect();
        let detail = format!("bearer token for {}, until {}, asked for by `{}`", names.join(","), claims.exp, admin.name);
        let subject = Subject { project: Some(project), ..Subject::default() };
        // Under the token's own id, so that its uses lead back here.
        let entry = Entry::new(now, Event::IssueBearer, id.as_str(), "ok", detail, subject);
        service.store().record(entry).map_err(|e| Problem::internal(&e))?;
        Ok((StatusCode::CREATED, Json(Issued { token, id: id.as_str().to_owned(), expires_at: claims.exp })))
    })
    .await
}

/// Who calls with a bearer token, for which project.
pub(super) struct Bearer {
    admin: Admin,
    project: ProjectName,
    scopes: Vec<BearerScope>,
    /// Its id, for the audit log.
    id: String,
}

impl Bearer {
    /// Who did it, as the audit log names them.
    fn name(&self) -> String {
        format!("{} (bearer {})", self.admin.name, self.id)
    }

    fn owner(&self) -> PolicyOwner {
        PolicyOwner::Project(self.project.clone())
    }

    fn require(&self, service: &Service, scope: BearerScope) -> Result<(), Problem> {
        if self.scopes.contains(&scope) {
            return Ok(());
        }
        let has: Vec<_> = self.scopes.iter().map(|scope| scope.name()).collect();
        let why = format!("bearer token has scopes {}, this call needs {}", has.join(","), scope.name());
        Err(self.refuse(service, Reason::BearerScope, &why))
    }

    /// The token holds, so its refusal goes into the audit log.
    fn refuse(&self, service: &Service, reason: Reason, why: &dyn std::fmt::Display) -> Problem {
        let subject = Subject { project: Some(self.project.clone()), ..Subject::default() };
        let entry = Entry::new(unix_now(), Event::Refuse, &self.name(), reason.code(), why.to_string(), subject);
        match service.store().record(entry) {
            Ok(()) => Problem::tell(reason, why),
            Err(error) => Problem::internal(&error),
        }
    }
}

/// A body that came with a bearer token that holds; kept of no other.
pub(super) struct ByBearer {
    caller: Bearer,
    /// Parsed later: what is wrong with it is told to whom the token belongs.
    body: Zeroizing<Vec<u8>>,
}

impl FromRequest<Arc<Service>> for ByBearer {
    type Rejection = Problem;

    async fn from_request(request: Request, service: &Arc<Service>) -> Result<Self, Problem> {
        let (head, body) = request.into_parts();
        let text = extract::bearer(&head.headers)
            .ok_or_else(|| Problem::refuse(Reason::AdminAuthMissing, &"no `Authorization: Bearer` header"))?
            .to_owned();
        let call = format!("{} {}", head.method, head.uri.path());
        let limit = if head.uri.path().starts_with("/kbs/v0/resource/") { MAX_RESOURCE_BYTES } else { MAX_STOCK_BODY_BYTES };
        match blocking(service, move |service| authenticate(service, &text, &call)).await {
            Ok(caller) => Ok(Self { caller, body: Zeroizing::new(extract::read(body, limit).await?.to_vec()) }),
            Err(problem) => Err(extract::refuse_after(body, problem).await),
        }
    }
}

fn authenticate(service: &Service, text: &str, call: &str) -> Result<Bearer, Problem> {
    let refuse = |why: &dyn std::fmt::Display| Problem::refuse(Reason::AdminAuth, why);
    let now = unix_now();
    let keys = service.judge.keys().load().jwks(now).ok_or_else(|| Problem::internal(&"no token key is published"))?;
    let checked = token::check(text, &keys, service.judge.issuer(), UnixTime(now)).map_err(|e| refuse(&e))?;
    let claims = checked.claims();
    let admin = service.store().admin(&claims.admin.to_string()).map_err(|e| Problem::internal(&e))?;
    let admin = admin.ok_or_else(|| refuse(&format!("no admin has key {}", claims.admin)))?;
    if let Some(at) = admin.revoked_at {
        return Err(extract::refuse_revoked(service, &admin, at, &call.chars().take(300).collect::<String>()));
    }
    let project: ProjectName = claims.project.parse().map_err(|e| refuse(&e))?;
    // An admin's scopes and project never change; asked again all the same, for the token is older than this call.
    if !admin.scopes.contains(&Scope::Policy) || !admin.sees(&project) {
        return Err(refuse(&format!("admin `{}` may not change the policy of `{project}`", admin.name)));
    }
    Ok(Bearer { admin, project, scopes: claims.scopes.clone(), id: claims.jti.clone() })
}

/// The three segments of a resource's path, whatever they are.
pub(super) struct Segments([String; 3]);

impl FromRequestParts<Arc<Service>> for Segments {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, service: &Arc<Service>) -> Result<Self, Problem> {
        let params = RawPathParams::from_request_parts(parts, service).await.map_err(|e| Problem::refuse(Reason::NoSuchPath, &e))?;
        let segment = |name: &str| params.iter().find(|(found, _)| *found == name).map_or_else(String::new, |(_, value)| value.to_owned());
        Ok(Self([segment("project"), segment("site"), segment("tag")]))
    }
}

/// `POST /kbs/v0/resource/{project}/{type}/{tag}`: raw bytes.
pub async fn set_resource(State(service): State<Arc<Service>>, path: Segments, call: ByBearer) -> Result<StatusCode, Problem> {
    blocking(&service, move |service| {
        let ByBearer { caller, body } = call;
        let path = writable(service, &caller, &path)?;
        let version = service.store().set_resource(&caller.project, &path, &body, &caller.name(), unix_now());
        let version = version.map_err(|e| Problem::internal(&e))?;
        tracing::info!(by = %caller.name(), project = %caller.project, %path, version, "stock resource set");
        Ok(StatusCode::OK)
    })
    .await
}

/// `DELETE /kbs/v0/resource/{project}/{type}/{tag}`.
pub async fn delete_resource(State(service): State<Arc<Service>>, path: Segments, call: ByBearer) -> Result<StatusCode, Problem> {
    blocking(&service, move |service| {
        let caller = call.caller;
        let path = writable(service, &caller, &path)?;
        let deleted =
            service.store().delete_resource(&caller.project, &path, &caller.name(), unix_now()).map_err(|e| Problem::internal(&e))?;
        if deleted {
            tracing::info!(by = %caller.name(), project = %caller.project, %path, "stock resource destroyed");
            return Ok(StatusCode::OK);
        }
        let why = format!("stock resource `{}/{path}` was never set, or is destroyed", caller.project);
        Err(caller.refuse(service, Reason::NoSuchResource, &why))
    })
    .await
}

/// The path, if the token is for its project and the project's document lists it as writable. Equality, never a prefix.
fn writable(service: &Service, caller: &Bearer, Segments([project, kind, tag]): &Segments) -> Result<StockPath, Problem> {
    caller.require(service, BearerScope::SetResource)?;
    if project != caller.project.as_str() {
        let asked: String = project.chars().take(80).collect();
        let why = format!("bearer token is for project `{}`, the path is of `{asked}`", caller.project);
        return Err(caller.refuse(service, Reason::BearerScope, &why));
    }
    let path: StockPath = format!("{kind}/{tag}").parse().map_err(|e| caller.refuse(service, Reason::NotWritable, &e))?;
    let policy = service.judge.policies().of(&caller.project);
    if policy.document.stock_resource(&path).is_some_and(|resource| resource.writable) {
        return Ok(path);
    }
    let why = format!("{} does not list stock resource `{path}` as writable", policy.owner);
    Err(caller.refuse(service, Reason::NotWritable, &why))
}

/// `GET /kbs/v0/resource-policy`: the ids of what there is, as the stock service lists them.
async fn resource_policies(State(service): State<Arc<Service>>, call: ByBearer) -> Result<Json<Vec<&'static str>>, Problem> {
    blocking(&service, move |service| {
        call.caller.require(service, BearerScope::Policy)?;
        let rego = service.judge.policies().of(&call.caller.project);
        let there = rego.document.rego.stock.is_some() || rego.document.rego.release.is_some();
        Ok(Json(if there { vec!["resource-policy"] } else { Vec::new() }))
    })
    .await
}

async fn set_resource_policy(State(service): State<Arc<Service>>, call: ByBearer) -> Result<StatusCode, Problem> {
    set_rego(&service, call, resource_policy).await
}

async fn set_attestation_policy(State(service): State<Arc<Service>>, call: ByBearer) -> Result<StatusCode, Problem> {
    set_rego(&service, call, attestation_policy).await
}

async fn set_rego(
    service: &Arc<Service>,
    ByBearer { caller, body }: ByBearer,
    read: fn(&[u8]) -> Result<StockRego, StockBodyError>,
) -> Result<StatusCode, Problem> {
    blocking(service, move |service| {
        caller.require(service, BearerScope::Policy)?;
        let text = read(&body).map_err(|e| caller.refuse(service, Reason::StockForm, &e))?;
        change(service, &caller, |document| match text {
            StockRego::Release(text) => document.rego.release = Some(text),
            StockRego::Token(text) => document.rego.token = Some(text),
            StockRego::Stock(text) => document.rego.stock = Some(text),
        })
    })
    .await
}

async fn set_reference_values(State(service): State<Arc<Service>>, ByBearer { caller, body }: ByBearer) -> Result<StatusCode, Problem> {
    blocking(&service, move |service| {
        caller.require(service, BearerScope::ReferenceValue)?;
        match reference_values(&body).map_err(|e| caller.refuse(service, Reason::StockForm, &e))? {
            StockValues::Document(document) => {
                only_values(service, &caller, &document)?;
                replace(service, &caller, document.to_string().as_bytes())
            }
            StockValues::Lists(lists) => change(service, &caller, |document| {
                document.stock_reference_values = document.stock_reference_values.replaced_by(&lists);
            }),
        }
    })
    .await
}

/// `GET /kbs/v0/reference-value/{name}`.
async fn reference_value(State(service): State<Arc<Service>>, Path(name): Path<String>, call: ByBearer) -> Result<Json<Value>, Problem> {
    blocking(&service, move |service| {
        let caller = call.caller;
        caller.require(service, BearerScope::ReferenceValue)?;
        let document = &service.judge.policies().of(&caller.project).document;
        if name == DOCUMENT_TYPE {
            return serde_json::to_value(document).map(Json).map_err(|e| Problem::internal(&e));
        }
        let list = ExactName::ALL
            .into_iter()
            .find(|known| known.name() == name)
            .and_then(|known| document.stock_reference_values.lists().get(&known));
        match list {
            Some(list) => Ok(Json(Value::Array(list.clone()))),
            None => Err(Problem::tell(Reason::NoSuchPolicy, &format!("the policy has no reference value `{}`", short(&name)))),
        }
    })
    .await
}

/// Changes the project's own document, or makes its first out of what decides for it now.
fn change(service: &Service, caller: &Bearer, edit: impl FnOnce(&mut PolicyDocument)) -> Result<StatusCode, Problem> {
    let owner = caller.owner();
    let policies = service.judge.policies();
    let in_force = policies.of(&caller.project);
    let replaces = if in_force.owner == owner { in_force.version } else { 0 };
    let mut document = in_force.document.clone();
    edit(&mut document);
    let bytes = document.to_bytes().map_err(|e| refuse_policy(service, &caller.admin, &owner, &ChangeError::Document(e)))?;
    finish(service, caller, Some(replaces), &bytes)
}

/// A whole document comes by the way of reference values. What else is in it, its rego and who gets which resource, needs the scope
/// for that.
fn only_values(service: &Service, caller: &Bearer, document: &Value) -> Result<(), Problem> {
    if caller.scopes.contains(&BearerScope::Policy) {
        return Ok(());
    }
    // What does not parse is refused where it is read.
    let Ok(document) = PolicyDocument::parse(document.to_string().as_bytes()) else { return Ok(()) };
    let in_force = &service.judge.policies().of(&caller.project).document;
    if (&document.rego, &document.stock_resources) == (&in_force.rego, &in_force.stock_resources) {
        return Ok(());
    }
    caller.require(service, BearerScope::Policy)
}

/// Replaces the project's own document, whatever it is now: stock tools cannot say which version they looked at.
fn replace(service: &Service, caller: &Bearer, document: &[u8]) -> Result<StatusCode, Problem> {
    finish(service, caller, None, document)
}

fn finish(service: &Service, caller: &Bearer, replaces: Option<u64>, document: &[u8]) -> Result<StatusCode, Problem> {
    let owner = caller.owner();
    let change = Change { owner: &owner, by: &caller.name(), replaces, reason: "by a stock admin tool".to_owned() };
    put(service, change, document).map_err(|e| refuse_policy(service, &caller.admin, &owner, &e))?;
    Ok(StatusCode::OK)
}

/// Whether a guest may have a stock resource: its own project's, listed for its site, allowed by the project's rego.
///
/// # Errors
/// What its own project does not list does not exist; another project's is another's.
pub(super) fn may_have(
    service: &Service,
    facts: &EvidenceFacts,
    site: &Site,
    project: &ProjectName,
    path: &StockPath,
) -> Result<(), Refused> {
    let own = &site.record.project;
    if project != own {
        let detail = format!("asked for stock resource `{project}/{path}`, attested as {own}/{}", site.record.site);
        return Err(Refused { reason: Reason::ResourcePath, detail, values: None, authenticated: true });
    }
    Judge::may_have_stock(&service.judge.policies().of(own), facts, site, path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bodies_never_panic(bytes: Vec<u8>, text in r#"\{"(scopes|ttl_seconds)":[ -~]{0,60}\}"#) {
            let _ = BearerBody::parse(&bytes);
            let _ = BearerBody::parse(text.as_bytes());
        }
    }
}
