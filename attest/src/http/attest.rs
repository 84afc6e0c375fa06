//! `POST /kbs/v0/attest`: redeems a challenge, judges the evidence, issues a token and opens a session.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, State};
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, SET_COOKIE};
use axum::response::{AppendHeaders, IntoResponse};
use coffer_evidence::{HostData, ReportData, SnpEvidence};
use coffer_kbs_policy::EvidenceFacts;
use coffer_protocol::{Attestation, BoundKeys, Purpose, TokenResponse};
use coffer_token::CofferClaims;
use coffer_verify::Reject;

use super::extract::{Typed, session_cookie};
use super::problem::{Problem, RefusalId};
use super::{Holder, Service, blocking};
use crate::clock::unix_now;
use crate::collateral::Completed;
use crate::failure::chain;
use crate::judge::{Issued, Refused, revoked_since, token_request, withheld};
use crate::reason::{Reason, Values};
use crate::session::{ATTESTED_TTL_S, Attested, Challenged, CookieError, set_cookie};
use crate::store::{Asked, Basis, BoundNode, Entry, Event, RefusedInstance, Seen, Site, StoreError, Subject};

/// Redeems, judges, answers `{"token": …}`.
pub async fn attest(
    State(service): State<Arc<Service>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Typed(attestation): Typed<Attestation>,
) -> Result<impl IntoResponse, Problem> {
    let cookie = session_cookie(&headers).ok_or_else(|| challenge_problem(Reason::NoChallenge, &"no session cookie"))?.to_owned();
    let (token, cookie) = blocking(&service, move |service| decide(service, peer.ip(), &cookie, &attestation)).await?;
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    let session = AppendHeaders(cookie.map(|cookie| (SET_COOKIE, set_cookie(&cookie, ATTESTED_TTL_S))));
    Ok((headers, session, TokenResponse { token }.to_bytes()))
}

/// The token and, where secrets may be fetched with it, the new cookie's value.
fn decide(service: &Service, peer: IpAddr, cookie: &str, attestation: &Attestation) -> Result<(String, Option<String>), Problem> {
    let now = unix_now();
    redeem(service, cookie, attestation)?;
    check_purpose(attestation)?;
    let evidence = SnpEvidence::from_json(attestation.primary_evidence.get().as_bytes()).map_err(|e| {
        let reject = Reject::from(e);
        Problem::refuse(Reason::Rule(reject.rule()), &chain(&reject))
    })?;
    let host_data = evidence.report.fields().host_data;
    check_init_data(attestation, &host_data)?;
    let site = service.store.site(&host_data).map_err(|e| Problem::internal(&e))?;
    let enrolled = site.as_ref().is_some_and(|site| site.stands.counts(now));
    let Completed { evidence, is_new } = service.collateral().complete(evidence, enrolled.then_some(peer)).map_err(Problem::from)?;
    let runtime_data = &attestation.runtime_data;
    let report_data = runtime_data.report_data(&attestation.additional_evidence).map_err(|e| Problem::internal(&e))?;
    let report_data = ReportData::new(*report_data.as_bytes());
    // What another policy could be asked about later.
    let basis = || Basis { asked: Asked::Token(token_request(runtime_data.coffer())), evidence: Some(evidence.clone()) };
    // Taken first: values that change from here on end the session at its next call.
    let values_tag = site.as_ref().map_or_else(String::new, |site| service.judge.policies().of(&site.record.project).values_tag.clone());
    let verified = service
        .judge
        .appraise(&evidence, report_data, site.as_deref(), now)
        .map_err(|refused| record_refusal(service, &refused, &evidence, site.as_deref(), basis(), now))?;
    let Some(site) = site else {
        // `verify` has just compared the report with this very record.
        return Err(Problem::internal(&"evidence verified without an enrollment"));
    };
    if is_new {
        service.collateral().remember(&evidence);
    }
    let facts = EvidenceFacts::of(&verified);
    // Before its project's own rego is asked, which may take a while each time.
    service.take_decision(Holder::Site(host_data))?;
    service
        .judge
        .may_attest(&facts, &site, runtime_data.coffer())
        .map_err(|refused| record_refusal(service, &refused, &evidence, Some(&site), basis(), now))?;
    let id = RefusalId::new();
    let Issued { token, coffer } =
        service.judge.issue(&verified, &site.record, runtime_data, id.as_str(), now).map_err(|e| Problem::internal(&e))?;
    let mut detail = format!("purpose={} family={} chip={} instance={}", coffer.purpose, coffer.family, verified.chip_id, coffer.instance);
    if let Some(node) = &coffer.node_jkt {
        detail.push_str(&format!(" node={node}"));
    }
    let entry = Entry::new(now, Event::Attest, id.as_str(), "ok", detail, subject(host_data, Some(&site))).with_basis(basis());
    let given = Given { id: &id, site: &site, facts: &facts, bound: runtime_data.coffer(), coffer: &coffer, values_tag: &values_tag };
    if !record_token(service, &given, entry, now).map_err(|e| Problem::internal(&e))? {
        // Revoked or suspended while the evidence was being judged.
        let site = service.store().site(&host_data).map_err(|e| Problem::internal(&e))?;
        let since = site.as_ref().and_then(|site| withheld(site, now)).or_else(|| revoked_since(&service.revocations(), &facts));
        return Err(match since {
            Some(refused) => record_refusal(service, &refused, &evidence, site.as_ref(), basis(), now),
            None => Problem::internal(&"an enrollment went away without a revocation or suspension"),
        });
    }
    tracing::info!(%id, project = %site.record.project, site = %site.record.site, %host_data, "attested");
    // A guest that runs has its secrets: what renews opens nothing, whoever gets hold of it.
    if purpose(attestation) == Purpose::Renew {
        return Ok((token, None));
    }
    let session = Attested {
        epoch: service.epoch,
        expires_at: now.saturating_add(ATTESTED_TTL_S),
        tee_pubkey: runtime_data.tee_pubkey().to_jwk(),
        coffer,
        facts,
        values_tag,
        id: id.as_str().to_owned(),
    };
    let cookie = service.cookies.seal(&session).map_err(|e| Problem::internal(&e))?;
    Ok((token, Some(cookie)))
}

/// A token, before it is handed out.
struct Given<'a> {
    id: &'a RefusalId,
    site: &'a Site,
    facts: &'a EvidenceFacts,
    /// The keys of the boot; none from a stock client.
    bound: Option<&'a BoundKeys>,
    coffer: &'a CofferClaims,
    values_tag: &'a str,
}

/// Writes down that a token is given, and what will be asked of its holder later; `false` where the site's record no longer counts.
fn record_token(service: &Service, given: &Given<'_>, entry: Entry, now: u64) -> Result<bool, StoreError> {
    let Given { id, site, facts, bound, coffer, values_tag } = *given;
    let (host_data, project, name) = (&site.record.host_data, &site.record.project, &site.record.site);
    let node = bound_node(bound, coffer)?;
    service.store().together(|store| {
        let recorded = store.record_while_active(host_data, facts, entry)?;
        match bound {
            _ if !recorded => {}
            Some(_) => store.saw(&Seen { project, site: name, facts, node: node.as_ref(), at: now })?,
            // A stock client may come back with its token instead of its cookie; the token has no room for the facts.
            None => store.put_facts(id.as_str(), facts, values_tag, now.saturating_add(u64::from(site.record.token_expiration)))?,
        }
        Ok(recorded)
    })
}

/// Spends the challenge before anything is verified: one nonce, one attempt.
fn redeem(service: &Service, cookie: &str, attestation: &Attestation) -> Result<(), Problem> {
    let now = service.uptime_s();
    let challenge: Challenged = service.cookies.open(cookie, service.epoch, now).map_err(|e| {
        let reason = match e {
            CookieError::Unreadable => Reason::ChallengeUnreadable,
            CookieError::Epoch { .. } => Reason::ChallengeEpoch,
            CookieError::Expired { .. } => Reason::ChallengeExpired,
        };
        challenge_problem(reason, &e)
    })?;
    if !service.store.challenges().spend(&challenge.nonce, challenge.expires_at, now) {
        return Err(challenge_problem(Reason::ChallengeSpent, &format!("nonce {} was redeemed before", challenge.nonce)));
    }
    let got = attestation.runtime_data.nonce();
    if *got != challenge.nonce {
        return Err(challenge_problem(
            Reason::NonceMismatch,
            &format!("runtime-data has nonce {got}, the challenge is {}", challenge.nonce),
        )
        .with_values(Some(Values::new(&challenge.nonce, &got))));
    }
    match (challenge.coffer, attestation.runtime_data.coffer().is_some()) {
        (true, false) => Err(challenge_problem(Reason::BoundKeysMissing, &"client asked for bound keys and brings none")),
        (false, true) => Err(challenge_problem(Reason::BoundKeysUnasked, &"client brings bound keys and did not ask for them")),
        _ => Ok(()),
    }
}

/// What this build does not judge is refused, never passed over.
fn check_purpose(attestation: &Attestation) -> Result<(), Problem> {
    let refuse = |reason, why: &str| Err(Problem::refuse(reason, &why));
    if !attestation.additional_evidence.is_empty() {
        return refuse(Reason::AdditionalEvidence, "client sends device evidence, which this build does not judge");
    }
    match purpose(attestation) {
        Purpose::Boot | Purpose::Renew => Ok(()),
        Purpose::Gpu => refuse(Reason::Purpose, "handshake is for a GPU, which this build does not judge"),
    }
}

/// A stock client's init-data says what HOST_DATA is the digest of. It is taken where that is so, and nothing in it is read: what
/// a HOST_DATA may have is for its enrollment to say.
fn check_init_data(attestation: &Attestation, host_data: &HostData) -> Result<(), Problem> {
    match &attestation.init_data {
        Some(init_data) if !init_data.is_bound_by(host_data) => {
            Err(Problem::refuse(Reason::InitData, &format!("client sends init-data of another digest than HOST_DATA {host_data}")))
        }
        _ => Ok(()),
    }
}

/// Stock clients, which name no purpose, attest to fetch secrets.
fn purpose(attestation: &Attestation) -> Purpose {
    attestation.runtime_data.coffer().map_or(Purpose::Boot, |bound| bound.purpose)
}

fn record_refusal(service: &Service, refused: &Refused, evidence: &SnpEvidence, site: Option<&Site>, basis: Basis, now: u64) -> Problem {
    let id = RefusalId::new();
    if !refused.authenticated {
        return Problem::refuse_as(id, refused.reason, &refused.detail).with_values(refused.values.clone());
    }
    let host_data = evidence.report.fields().host_data;
    if let Err(too_often) = service.take_decision(Holder::of_refused(evidence)) {
        return too_often;
    }
    let entry = Entry::new(now, Event::Refuse, id.as_str(), refused.reason.code(), refused.detail.clone(), subject(host_data, site))
        .with_values(refused.values.clone())
        .with_basis(basis);
    // What is refused for its site was withdrawn with the site.
    let of_site = matches!(refused.reason, Reason::Revoked | Reason::SiteSuspended);
    let instance = (!of_site).then(|| RefusedInstance { host_data, instance: evidence.report.fields().report_id });
    match service.store().record_refusal(entry, instance) {
        Ok(()) => Problem::refuse_as(id, refused.reason, &refused.detail).recorded(),
        Err(error) => Problem::internal(&error),
    }
}

/// The node key that evidence bound, as it is shown.
fn bound_node(bound: Option<&BoundKeys>, coffer: &CofferClaims) -> Result<Option<BoundNode>, serde_json::Error> {
    let (Some(key), Some(jkt)) = (bound.and_then(|bound| bound.keys.node.as_ref()), &coffer.node_jkt) else { return Ok(None) };
    Ok(Some(BoundNode { jkt: *jkt, jwk: serde_json::to_string(key)? }))
}

fn subject(host_data: HostData, site: Option<&Site>) -> Subject {
    Subject {
        project: site.map(|site| site.record.project.clone()),
        site: site.map(|site| site.record.site.clone()),
        host_data: Some(host_data),
    }
}

/// 401: a client may start a new handshake at once.
fn challenge_problem(reason: Reason, why: &dyn std::fmt::Display) -> Problem {
    Problem::refuse(reason, why)
}
