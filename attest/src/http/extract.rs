//! Typed bodies, and the two ways a peer says who it is: a sealed cookie, a signed admin call.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, COOKIE};
use axum::http::request::Parts;
use coffer_manifest::ProjectName;
use coffer_protocol::{Attestation, MAX_ATTESTATION_BYTES, MAX_MESSAGE_BYTES, MessageError, RuntimeDataError};
use coffer_token::admin::{self, AdminKey, Call, CallClaims};
use coffer_token::{Checked, UnixTime};

use super::problem::Problem;
use super::{Holder, Service, blocking};
use crate::clock::unix_now;
use crate::reason::Reason;
use crate::session::find_cookie;
use crate::store::{Admin, Entry, Event, Scope, StoreError, Subject, scope_names};

/// A whole body. Evidence of 40 KiB comes through a line of 16 kbit/s in that time.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a used call id is remembered after the call has expired, in seconds: the clock may be set back a little.
const CALL_GRACE_S: u64 = 3600;

/// A body that knows its own limit and parser.
pub trait Body: Sized + Send + 'static {
    /// Bytes read at most.
    const LIMIT: usize;
    /// Parses the whole body.
    ///
    /// # Errors
    /// The refusal to send.
    fn parse(bytes: &[u8]) -> Result<Self, Problem>;
}

/// No body at all.
pub struct Nothing;

impl Body for Nothing {
    const LIMIT: usize = 0;
    fn parse(_: &[u8]) -> Result<Self, Problem> {
        Ok(Self)
    }
}

impl Body for coffer_protocol::Request {
    const LIMIT: usize = MAX_MESSAGE_BYTES;
    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        Self::parse(bytes).map_err(|e| message_problem(&e))
    }
}

impl Body for Attestation {
    const LIMIT: usize = MAX_ATTESTATION_BYTES;
    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        Self::parse(bytes).map_err(|e| message_problem(&e))
    }
}

fn message_problem(error: &MessageError) -> Problem {
    let reason = match error {
        MessageError::Version { .. } => Reason::ProtocolVersion,
        MessageError::HashAlgorithm => Reason::HashAlgorithm,
        MessageError::Coffer { .. } => Reason::CofferVersion,
        MessageError::RuntimeData(RuntimeDataError::TeePublicKey(_)) => Reason::TeePubkey,
        MessageError::RuntimeData(_) => Reason::RuntimeData,
        _ => Reason::Malformed,
    };
    Problem::refuse(reason, error)
}

/// A parsed body of anybody's.
pub struct Typed<T>(pub T);

impl<T: Body> FromRequest<Arc<Service>> for Typed<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Arc<Service>) -> Result<Self, Problem> {
        let bytes = read(request.into_body(), T::LIMIT).await?;
        T::parse(&bytes).map(Self)
    }
}

/// A parsed body that a registered admin has signed, together with method and path, for this one call.
pub struct Signed<T> {
    /// Who.
    pub admin: Admin,
    /// What.
    pub body: T,
}

impl<T> Signed<T> {
    /// For a call about the whole service: refuses an admin without `scope`, and one of a single project.
    ///
    /// # Errors
    /// 403, told.
    pub fn require(&self, scope: Scope) -> Result<(), Problem> {
        self.require_scope(scope)?;
        let Some(own) = &self.admin.project else { return Ok(()) };
        let why = format!("admin `{}` is of project `{own}`, this call is for the whole service", self.admin.name);
        Err(Problem::tell(Reason::AdminProject, &why))
    }

    /// For a call about one project: refuses an admin without `scope`, and one of another project, whatever is there.
    ///
    /// # Errors
    /// 403, told.
    pub fn require_in(&self, scope: Scope, project: &ProjectName) -> Result<(), Problem> {
        self.require_scope(scope)?;
        if self.sees(project) {
            return Ok(());
        }
        let own = self.admin.project.as_ref().map_or("", ProjectName::as_str);
        let why = format!("admin `{}` is of project `{own}`, this call is for `{project}`", self.admin.name);
        Err(Problem::tell(Reason::AdminProject, &why))
    }

    /// For a call whose answer depends on what the admin [sees](Self::sees): refuses one without `scope` only.
    ///
    /// # Errors
    /// 403, told.
    pub fn require_scope(&self, scope: Scope) -> Result<(), Problem> {
        if self.admin.scopes.contains(&scope) {
            return Ok(());
        }
        let (has, needs) = (scope_names(&self.admin.scopes), scope_names(&[scope]));
        Err(Problem::tell(Reason::AdminScope, &format!("admin `{}` has scopes {has}, this call needs {needs}", self.admin.name)))
    }

    /// Whether a project exists, as far as this admin is told: projects are tenants.
    #[must_use]
    pub fn sees(&self, project: &ProjectName) -> bool {
        self.admin.sees(project)
    }
}

impl<T: Body> FromRequest<Arc<Service>> for Signed<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, service: &Arc<Service>) -> Result<Self, Problem> {
        let (head, body) = request.into_parts();
        let token =
            bearer(&head.headers).ok_or_else(|| admin_problem(Reason::AdminAuthMissing, &"no `Authorization: Bearer` header"))?.to_owned();
        let path = head.uri.path_and_query().map_or_else(|| head.uri.path().to_owned(), ToString::to_string);
        let call = format!("{} {path}", head.method);
        let signed = match blocking(service, move |service| {
            let call = Call { audience: &service.tls_name, method: head.method.as_str(), path: &path, body: &[] };
            signed_head(service, &token, &call)
        })
        .await
        {
            Ok(signed) => signed,
            Err(problem) => return Err(refuse_after(body, problem).await),
        };
        // Megabytes are read of those only who can sign.
        let bytes = read(body, T::LIMIT).await?;
        blocking(service, move |service| {
            let admin = authenticate(service, &signed, &call, &bytes)?;
            Ok(Self { admin, body: T::parse(&bytes)? })
        })
        .await
    }
}

/// What a registered key has signed, and whose key that is; the body is not there yet.
struct SignedHead {
    kid: String,
    checked: Checked<CallClaims>,
}

fn signed_head(service: &Service, token: &str, call: &Call<'_>) -> Result<SignedHead, Problem> {
    let kid = admin::named_key(token).map_err(|e| admin_problem(Reason::AdminAuth, &e))?.to_string();
    let Some(known) = service.store().admin(&kid).map_err(|e| Problem::internal(&e))? else {
        return Err(admin_problem(Reason::AdminAuth, &format!("no admin has key {kid}")));
    };
    let key = AdminKey::from_pem(&known.public).map_err(|e| Problem::internal(&e))?;
    let checked = admin::check_head(token, &key, call, UnixTime(unix_now())).map_err(|e| admin_problem(Reason::AdminAuth, &e))?;
    Ok(SignedHead { kid, checked })
}

fn authenticate(service: &Service, signed: &SignedHead, call: &str, body: &[u8]) -> Result<Admin, Problem> {
    let broken = |e: StoreError| Problem::internal(&e);
    let claims = signed.checked.claims();
    claims.check_body(body).map_err(|e| admin_problem(Reason::AdminAuth, &e))?;
    // As they stand now: a body may take its time.
    let Some(known) = service.store().admin(&signed.kid).map_err(broken)? else {
        return Err(admin_problem(Reason::AdminAuth, &format!("no admin has key {}", signed.kid)));
    };
    let forget_at = claims.expires_at().0.saturating_add(CALL_GRACE_S);
    let fresh = service.store().spend("admin-call", claims.call_id().as_bytes(), forget_at).map_err(broken)?;
    if !fresh {
        return Err(admin_problem(Reason::AdminReplay, &format!("call {} was made before", claims.call_id())));
    }
    match known.revoked_at {
        None => Ok(known),
        Some(at) => Err(refuse_revoked(service, &known, at, call)),
    }
}

/// The signature holds, so this goes into the audit log: somebody has the key of a revoked admin.
pub(super) fn refuse_revoked(service: &Service, admin: &Admin, at: u64, call: &str) -> Problem {
    // Somebody who has the key and goes on would fill the log for good.
    if let Err(too_often) = admin.kid.parse().map_err(|e| Problem::internal(&e)).and_then(|kid| service.take_decision(Holder::Revoked(kid)))
    {
        return too_often;
    }
    let why = format!("admin `{}` was revoked at {at}; the call was {call}", admin.name);
    let subject = Subject { project: admin.project.clone(), ..Subject::default() };
    let entry = Entry::new(unix_now(), Event::Refuse, &admin.name, Reason::AdminRevoked.code(), why.clone(), subject);
    match service.store().record(entry) {
        Ok(()) => Problem::tell(Reason::AdminRevoked, &why),
        Err(error) => Problem::internal(&error),
    }
}

fn admin_problem(reason: Reason, why: &dyn std::fmt::Display) -> Problem {
    Problem::refuse(reason, why)
}

/// What is read and thrown away of a body whose sender is refused, in bytes.
const SPILLED_BYTES: usize = 64 * 1024;

/// A refusal that does not depend on the body. A short body is taken in first: a client that is still sending when the connection
/// closes may never see the answer.
pub(super) async fn refuse_after(body: axum::body::Body, problem: Problem) -> Problem {
    // Whatever becomes of it, the answer is the refusal.
    let _ = read(body, SPILLED_BYTES).await;
    problem
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// A longer one, a slower one, one that breaks off.
pub(super) async fn read(body: axum::body::Body, limit: usize) -> Result<Bytes, Problem> {
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(e)) => Err(Problem::refuse(Reason::BodyTooLarge, &format!("body is longer than {limit} bytes, or broke off: {e}"))),
        Err(_) => Err(Problem::refuse_quietly(Reason::Slow, &format!("body not there within {} s", BODY_TIMEOUT.as_secs()))),
    }
}

/// The one query there is: `?after=N`, where a reader of a numbered list stands; 0 without it.
#[derive(Debug, Clone, Copy)]
pub struct After(pub u64);

impl<S: Sync> FromRequestParts<S> for After {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let refuse = || Problem::refuse(Reason::Malformed, &format!("query is `{query}`, expected `after=` and a number"));
        match query.strip_prefix("after=") {
            None if query.is_empty() => Ok(Self(0)),
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().map(Self).map_err(|_| refuse()),
            _ => Err(refuse()),
        }
    }
}

/// The text after `Authorization: Bearer`.
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ").map(str::trim)
}

/// The value of our session cookie.
#[must_use]
pub fn session_cookie(headers: &HeaderMap) -> Option<&str> {
    headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).find_map(find_cookie)
}
