//! From a token and the key of a connection to a lease, or to a refusal with its reason.

pub mod proof;
pub mod sites;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use coffer_token::lease::NodeKey;
use coffer_token::{Expectation, Jkt, Reject, Usage, check, header_kid};

use crate::admission::proof::Proof;
use crate::admission::sites::{Site, Sites};
use crate::config;
use crate::flower::{Flower, NodeRefusal};
use crate::leases::{Leased, Leases, Step};
use crate::random;
use crate::rate::Bucket;
use crate::reason::Reason;
use crate::service::clock::{Clock, Now};
use crate::service::keys::Keys;

/// The one role that a gate admits: sites that train.
const ROLE: &str = "client";
/// How long a token with an unknown key waits for a look at the service's newest keys.
const REFETCH_PATIENCE: Duration = Duration::from_secs(2);
/// As much of an error as is said and logged.
const DETAIL_CHARACTERS: usize = 500;

/// A connection is admitted.
#[derive(Debug)]
pub struct Admitted {
    /// The lease it belongs to.
    pub leased: Arc<Leased>,
    /// Whose bounds it has.
    pub site: Arc<Site>,
    /// What was proved, of which a renewal keeps the most.
    pub proof: Proof,
    /// For how long from now the lease lasts.
    pub lasts: Duration,
}

/// A connection is refused.
#[derive(Debug)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// One line for people at the other end.
    pub detail: String,
    /// What the log has it under.
    pub id: String,
    /// Whether the token held: it is a site that is refused, and not anybody.
    pub of_site: bool,
}

impl Refusal {
    /// With the reason's own words.
    #[must_use]
    pub fn of(reason: Reason) -> Self {
        Self::with(reason, reason.meaning())
    }

    /// With an error's words, which may repeat what a stranger has sent: one line, and not a long one.
    #[must_use]
    pub fn with(reason: Reason, detail: impl ToString) -> Self {
        let shown = |character: char| if character.is_control() { ' ' } else { character };
        let detail = detail.to_string().chars().take(DETAIL_CHARACTERS).map(shown).collect();
        Self { reason, detail, id: random::id(), of_site: false }
    }
}

/// What admits.
pub struct Admission {
    /// Whose tokens.
    pub service: config::Service,
    /// Checked with these.
    pub keys: Arc<Keys>,
    /// At this time.
    pub clock: Arc<Clock>,
    /// What there is already.
    pub leases: Arc<Leases>,
    /// Within these bounds.
    pub sites: Arc<Sites>,
    /// Who has to know a node key first.
    pub flower: Arc<Flower>,
    /// How many lines of refused strangers the log takes.
    pub lines: Mutex<Bucket>,
}

/// So many refusals of strangers are logged at once, then ten a second: disks fill up.
pub fn lines_of_strangers(now: Instant) -> Mutex<Bucket> {
    Mutex::new(Bucket::new(1000, Duration::from_millis(100), now))
}

/// What a guest has shown on a connection.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// Its newest token.
    pub token: &'a str,
    /// Its node key.
    pub node: Option<&'a NodeKey>,
    /// The connection's own key.
    pub jkt: Jkt,
    /// What was shown on the same connection before, which a renewal has to keep to.
    pub before: Option<&'a Proof>,
    /// For the log: `lease`, `tunnel` or `renewal`.
    pub what: &'static str,
}

impl Admission {
    /// Admits, and says so in the log, or not, and says why.
    ///
    /// # Errors
    /// The refusal to send.
    pub async fn admit(&self, shown: Shown<'_>) -> Result<Admitted, Refusal> {
        let proof = match self.prove(shown).await {
            Ok(proof) => proof,
            Err(refusal) => {
                self.refuse_stranger(&refusal, shown.jkt, shown.what);
                return Err(refusal);
            }
        };
        let site = self.sites.of(&proof.site);
        let now = self.clock.now();
        let lease = self.lease(&site, &proof, shown.before).await;
        site.told(lease.as_ref().err().map(|refusal| refusal.reason), now.at);
        let Proof { jkt, instance, token_id, .. } = &proof;
        let (name, what) = (&site.name, shown.what);
        match lease {
            Ok((leased, lasts)) => {
                let lease_seconds = lasts.as_secs();
                tracing::info!(site = %name, key = %jkt, %instance, token = %token_id, what, lease_seconds, "admitted");
                self.say_if_too_short(&proof, what);
                Ok(Admitted { leased, site, proof, lasts })
            }
            Err(refusal) => {
                if site.may_log(now.at) {
                    let Refusal { reason, detail, id, .. } = &refusal;
                    tracing::warn!(site = %name, key = %jkt, %instance, token = %token_id, what, code = reason.code(), %id, detail, "refused");
                }
                Err(Refusal { of_site: true, ..refusal })
            }
        }
    }

    /// A site renews at two thirds of its token's life: a lease shorter than that life may end between two good tokens.
    fn say_if_too_short(&self, proof: &Proof, what: &str) {
        let (token_expiration, check_frequency) = (proof.lifetime, self.leases.check_frequency().as_secs());
        if what == "lease" && token_expiration >= check_frequency {
            let hint = "raise check_frequency in coffer-gate.toml above the sites' token_expiration";
            tracing::warn!(site = %proof.site, token_expiration, check_frequency, hint, "leases end before tokens do");
        }
    }

    /// Counts it. Anybody can be refused, so that not every such line is written: at the bound they are counted only.
    pub fn refuse_stranger(&self, refusal: &Refusal, key: Jkt, what: &str) {
        self.sites.refused_stranger(refusal.reason);
        if self.lines.lock().unwrap_or_else(PoisonError::into_inner).take(self.clock.now().at) {
            let Refusal { reason, detail, id, .. } = refusal;
            tracing::warn!(%key, what, code = reason.code(), %id, detail, "refused");
        }
    }

    /// The token's own checks.
    async fn prove(&self, shown: Shown<'_>) -> Result<Proof, Refusal> {
        let mut checked = self.check(shown);
        if checked.as_ref().is_err_and(|refusal| matches!(refusal.reason, Reason::TokenKey | Reason::NoKeys)) {
            self.keys.refetch(REFETCH_PATIENCE).await;
            checked = self.check(shown);
        }
        let mut proof = checked?;
        if let Some(node) = shown.node {
            // Registered with the SuperLink it would act for the site: it has to be the one the evidence was bound to.
            let named = node.thumbprint().map_err(|error| Refusal::with(Reason::NodeKey, error))?;
            if proof.node_jkt != Some(named) {
                return Err(Refusal::of(Reason::NodeKey));
            }
            proof.node = Some(node.clone());
        }
        Ok(proof)
    }

    fn check(&self, shown: Shown<'_>) -> Result<Proof, Refusal> {
        let Some(keys) = self.keys.load() else { return Err(Refusal::of(Reason::NoKeys)) };
        let service = &self.service;
        let expected = Expectation {
            issuer: &service.issuer,
            audience: &service.audience,
            root_of_trust: &service.root_of_trust,
            usage: Usage::Job { project: &service.project, role: ROLE, peer: shown.jkt },
        };
        let refused = |reject: Reject| Refusal::with(reason_of(&reject), &reject);
        let checked = check(shown.token, &keys, &expected, self.clock.now().unix).map_err(refused)?;
        let kid = header_kid(shown.token).map_err(refused)?;
        Ok(Proof::of(&checked, kid, shown.jkt))
    }

    /// The site's bounds, and its lease.
    async fn lease(&self, site: &Arc<Site>, proof: &Proof, before: Option<&Proof>) -> Result<(Arc<Leased>, Duration), Refusal> {
        if !site.may_come(self.clock.now().at) {
            return Err(Refusal::of(Reason::SiteRate));
        }
        let kept = |before: &Proof| (&before.site, before.host_data, before.instance) == (&proof.site, proof.host_data, proof.instance);
        if before.is_some_and(|before| !kept(before)) {
            return Err(Refusal::of(Reason::RenewalChanged));
        }
        let Ok(_place) = site.queue.try_acquire() else { return Err(Refusal::of(Reason::SiteRate)) };
        let _turn = site.turn.lock().await;
        let step = self.leases.prepare(proof, self.clock.now()).map_err(|reason| self.explained(reason, proof))?;
        let leased = match step {
            Step::Extend => return self.extend(proof, self.clock.now()),
            Step::Begin(leased) => leased,
        };
        if let Err(refusal) = self.flower.admit_node(&leased).await {
            return Err(Refusal::with(reason_of_node(&refusal), refusal));
        }
        let lasts = self.leases.install(&leased, proof, self.clock.now()).map_err(|reason| self.explained(reason, proof))?;
        Ok((leased, lasts))
    }

    fn extend(&self, proof: &Proof, now: Now) -> Result<(Arc<Leased>, Duration), Refusal> {
        self.leases.extend(proof, now).map_err(|reason| self.explained(reason, proof))
    }

    /// A withdrawal has a code of the service's, which says more.
    fn explained(&self, reason: Reason, proof: &Proof) -> Refusal {
        match self.leases.why_withdrawn(proof) {
            Some(code) if reason == Reason::Withdrawn => Refusal::with(reason, format!("the service has taken the token back: {code}")),
            _ => Refusal::of(reason),
        }
    }
}

fn reason_of(reject: &Reject) -> Reason {
    match reject {
        Reject::UnknownKey { .. } => Reason::TokenKey,
        Reject::Signature => Reason::TokenSignature,
        Reject::Issuer { .. } => Reason::TokenIssuer,
        Reject::Audience { .. } => Reason::TokenAudience,
        Reject::Future { .. } => Reason::TokenFuture,
        Reject::Expired { .. } => Reason::TokenExpired,
        Reject::RootOfTrust { .. } => Reason::RootOfTrust,
        Reject::Project { .. } => Reason::Project,
        Reject::Role { .. } => Reason::Role,
        Reject::Confirmation { .. } => Reason::NotTheKey,
        _ => Reason::TokenMalformed,
    }
}

const fn reason_of_node(refusal: &NodeRefusal) -> Reason {
    match refusal {
        NodeRefusal::Missing { .. } => Reason::NodeMissing,
        NodeRefusal::Limit { .. } => Reason::NodeLimit,
        NodeRefusal::Unreachable { .. } => Reason::SuperlinkUnreachable,
        _ => Reason::NodeRefused,
    }
}

#[cfg(test)]
mod tests;
