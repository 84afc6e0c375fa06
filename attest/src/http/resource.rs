//! `GET /kbs/v0/resource/{project}/{site}/{tag}`: releases one secret to the guest whose evidence was accepted.
//!
//! Before attestation every path answers 401, so that stock clients start a handshake and nobody learns what exists; after it
//! 403 or 404, so that they stop.

use std::fmt;
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use coffer_evidence::HostData;
use coffer_kbs_policy::EvidenceFacts;
use coffer_manifest::{ProjectName, ResourcePath};
use coffer_protocol::{ClientKey, ErrorKind, SealRandom, seal};
use coffer_token::CofferClaims;
use coffer_verify::Rule;

use super::extract::{bearer, session_cookie};
use super::problem::{Problem, RefusalId};
use super::{Holder, Service, blocking};
use crate::clock::unix_now;
use crate::judge::{Refused, revoked_since, withheld};
use crate::kek::random;
use crate::policy::StockPath;
use crate::reason::{Reason, Values};
use crate::session::Attested;
use crate::store::{Asked, Basis, Entry, Event, SecretState, Site, StoreError, Subject};

/// Who asks: an attested session, or a stock client's token.
struct Caller {
    coffer: CofferClaims,
    facts: EvidenceFacts,
    /// Under which of the project's reference values it attested.
    values_tag: String,
    host_data: HostData,
    tee_pubkey: ClientKey,
    /// The id under which the attestation is in the audit log.
    id: String,
}

/// What a path names.
enum Wanted {
    /// A secret of an enrollment.
    Secret(ResourcePath),
    /// A resource that a stock tool stored: first segment, and the rest.
    Stock(ProjectName, StockPath),
}

impl Wanted {
    /// A secret's path first: no stock resource's has its form.
    fn parse((project, site, tag): (String, String, String)) -> Option<Self> {
        match format!("{project}/{site}/{tag}").parse() {
            Ok(path) => Some(Self::Secret(path)),
            Err(_) => Some(Self::Stock(project.parse().ok()?, format!("{site}/{tag}").parse().ok()?)),
        }
    }
}

impl Wanted {
    /// Whether this caller may have it.
    fn allowed(&self, service: &Service, caller: &Caller, site: &Site) -> Result<(), Refused> {
        match self {
            Self::Secret(path) => {
                same_site(path, site, caller)?;
                service.judge.may_release(&caller.facts, site, path)
            }
            Self::Stock(project, path) => super::stock::may_have(service, &caller.facts, site, project, path),
        }
    }

    fn open(&self, service: &Service, site: &Site) -> Result<SecretState, StoreError> {
        match self {
            Self::Secret(path) => service.store().secret(path),
            Self::Stock(_, path) => service.store().resource(&site.record.project, path),
        }
    }

    /// What the decision rests on, for a dry run of another policy.
    fn basis(&self, attestation: &str) -> Basis {
        let (path, attestation) = (self.to_string(), attestation.to_owned());
        let asked = match self {
            Self::Secret(_) => Asked::Release { path, attestation },
            Self::Stock(..) => Asked::Stock { path, attestation },
        };
        Basis { asked, evidence: None }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(path) => path.fmt(f),
            Self::Stock(project, path) => write!(f, "{project}/{path}"),
        }
    }
}

/// Releases a secret as a JWE to the key of the handshake.
pub async fn resource(
    State(service): State<Arc<Service>>,
    path: Result<Path<(String, String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let cookie = session_cookie(&headers).map(str::to_owned);
    let token = bearer(&headers).map(str::to_owned);
    // What is no path is refused after attestation, like any other that does not exist.
    let path = path.ok().and_then(|Path(segments)| Wanted::parse(segments));
    let jwe = blocking(&service, move |service| {
        let now = unix_now();
        let caller = identify(service, cookie.as_deref(), token.as_deref(), now)?;
        service.take_decision(Holder::Site(caller.host_data))?;
        release(service, &caller, path, now)
    })
    .await?;
    Ok(([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], jwe))
}

/// An attested cookie first, else a bearer token, as stock services do.
fn identify(service: &Service, cookie: Option<&str>, token: Option<&str>, now: u64) -> Result<Caller, Problem> {
    let session = cookie.map(|cookie| service.cookies.open::<Attested>(cookie, service.epoch, now));
    match (session, token) {
        (Some(Ok(session)), _) => caller(session.coffer, (session.facts, session.values_tag), &session.tee_pubkey, session.id),
        (_, Some(token)) => {
            let refuse = |why: &dyn std::fmt::Display| Problem::refuse(Reason::Token, why);
            let checked = service.judge.check_bearer(token, now).map_err(|e| refuse(&e))?;
            let claims = checked.claims();
            let tee_pubkey = claims.tee_pubkey().ok_or_else(|| refuse(&"token has no tee-pubkey"))?;
            let facts = service.store().facts(claims.token_id()).map_err(|e| Problem::internal(&e))?;
            let facts = facts.ok_or_else(|| refuse(&"nothing is known of this token's attestation"))?;
            caller(claims.coffer().clone(), facts, tee_pubkey, claims.token_id().to_owned())
        }
        (Some(Err(error)), None) => Err(not_attested(&error)),
        (None, None) => Err(not_attested(&"neither session cookie nor token")),
    }
}

fn caller(
    coffer: CofferClaims,
    (facts, values_tag): (EvidenceFacts, String),
    tee_pubkey: &serde_json::Value,
    id: String,
) -> Result<Caller, Problem> {
    let tee_pubkey = ClientKey::from_jwk(tee_pubkey).map_err(|e| Problem::internal(&e))?;
    Ok(Caller { host_data: HostData::new(coffer.host_data.0), coffer, facts, values_tag, tee_pubkey, id })
}

fn not_attested(why: &dyn std::fmt::Display) -> Problem {
    Problem::refuse(Reason::NotAttested, why)
}

fn release(service: &Service, caller: &Caller, path: Option<Wanted>, now: u64) -> Result<Vec<u8>, Problem> {
    let site = service.store.site(&caller.host_data).map_err(|e| Problem::internal(&e))?;
    let refuse = |refused: Refused| deny(service, caller, site.as_deref(), &refused, None, now);
    let site = current(site.as_deref(), caller, now).map_err(refuse)?;
    if let Some(since) = revoked_since(&service.revocations(), &caller.facts) {
        return Err(refuse(since));
    }
    if service.judge.policies().of(&site.record.project).values_tag != caller.values_tag {
        return Err(Problem::refuse(Reason::ValuesChanged, &"the project's reference values changed since the attestation"));
    }
    let path = path.ok_or_else(|| refuse(missing("asked for something that is no resource path".to_owned())))?;
    let basis = path.basis(&caller.id);
    let refuse = |refused: Refused| deny(service, caller, Some(site), &refused, Some(&basis), now);
    path.allowed(service, caller, site).map_err(refuse)?;
    let secret = path.open(service, site).map_err(|e| Problem::internal(&e))?;
    let SecretState::Present(secret) = secret else { return Err(refuse(absent(service, caller, &path, now)?)) };
    let jwe = seal(&secret, &caller.tee_pubkey, &seal_random()?).map_err(|e| Problem::refuse(Reason::Jwe, &e))?;
    // Recorded first: what cannot be recorded is not released, and what was revoked meanwhile neither.
    let detail = format!("released {path} after attestation {}", caller.id);
    let entry = Entry::new(now, Event::Release, &caller.id, "ok", detail, subject(caller, Some(site))).with_basis(basis.clone());
    if !service.store().record_while_active(&caller.host_data, &caller.facts, entry).map_err(|e| Problem::internal(&e))? {
        return Err(refuse(absent(service, caller, &path, now)?));
    }
    tracing::info!(id = %caller.id, %path, "released");
    Ok(jwe.to_bytes())
}

/// Why a secret that the record should have is not given: a revocation or suspension since the first look, else there is none.
fn absent(service: &Service, caller: &Caller, path: &Wanted, now: u64) -> Result<Refused, Problem> {
    let site = service.store().site(&caller.host_data).map_err(|e| Problem::internal(&e))?;
    let since = site.as_ref().and_then(|site| withheld(site, now)).or_else(|| revoked_since(&service.revocations(), &caller.facts));
    Ok(since.unwrap_or_else(|| missing(format!("site has no secret `{path}`"))))
}

fn missing(detail: String) -> Refused {
    Refused { reason: Reason::NoSuchResource, detail, values: None, authenticated: true }
}

/// The record as it stands now: a revocation or suspension since the attestation counts.
fn current<'a>(site: Option<&'a Site>, caller: &Caller, now: u64) -> Result<&'a Site, Refused> {
    let refuse = |reason, detail, values| Err(Refused { reason, detail, values, authenticated: true });
    let Some(site) = site else { return refuse(Reason::Rule(Rule::HostData), format!("{} is not enrolled", caller.host_data), None) };
    if let Some(refused) = withheld(site, now) {
        return Err(refused);
    }
    if !site.record.launch_digests.iter().any(|d| *d.as_bytes() == caller.coffer.launch_digest.0) {
        let allowed: Vec<_> = site.record.launch_digests.iter().map(ToString::to_string).collect();
        let values = Values::new(&allowed.join(", "), &caller.coffer.launch_digest);
        let detail = format!("{} is not enrolled for this site config", caller.coffer.launch_digest);
        return refuse(Reason::Rule(Rule::LaunchDigest), detail, Some(values));
    }
    Ok(site)
}

/// Equality of every segment with the verified report's HOST_DATA and its record; never a prefix.
fn same_site(path: &ResourcePath, site: &Site, caller: &Caller) -> Result<(), Refused> {
    let record = &site.record;
    if (&path.project, &path.site, path.host_data) == (&record.project, &record.site, caller.host_data) {
        return Ok(());
    }
    let detail = format!("asked for {path}, attested as {}/{}/{}", record.project, record.site, caller.host_data);
    let own = format!("a secret of {}/{}/{}", record.project, record.site, caller.host_data);
    Err(Refused { reason: Reason::ResourcePath, detail, values: Some(Values::new(&own, path)), authenticated: true })
}

fn deny(service: &Service, caller: &Caller, site: Option<&Site>, refused: &Refused, basis: Option<&Basis>, now: u64) -> Problem {
    let id = RefusalId::new();
    let kind = if refused.reason == Reason::NoSuchResource { ErrorKind::PluginNotFound } else { ErrorKind::PolicyDeny };
    let detail = format!("{} (attestation {})", refused.detail, caller.id);
    let entry = Entry::new(now, Event::Refuse, id.as_str(), refused.reason.code(), detail, subject(caller, site))
        .with_values(refused.values.clone());
    // Another policy would decide otherwise only where a policy has decided.
    let by_policy = |basis: &&Basis| refused.reason == Reason::Policy || matches!(basis.asked, Asked::Stock { .. });
    let entry = match basis.filter(by_policy) {
        Some(basis) => entry.with_basis(basis.clone()),
        None => entry,
    };
    match service.store().record(entry) {
        Ok(()) => Problem::refuse_as(id, refused.reason, &refused.detail).of_kind(kind).recorded(),
        Err(error) => Problem::internal(&error),
    }
}

fn subject(caller: &Caller, site: Option<&Site>) -> Subject {
    Subject {
        project: site.map(|site| site.record.project.clone()),
        site: site.map(|site| site.record.site.clone()),
        host_data: Some(caller.host_data),
    }
}

fn seal_random() -> Result<SealRandom, Problem> {
    let broken = |e| Problem::internal(&e);
    Ok(SealRandom { ephemeral: random().map_err(broken)?, content_key: random().map_err(broken)?, iv: random().map_err(broken)? })
}
