//! The decision: evidence and a record in, verified claims or one named refusal out; then a token for what was verified.

use coffer_evidence::SnpEvidence;
use coffer_kbs_policy::{Decision, EvidenceFacts, Policy, PolicyError, Record, Resource, TokenRequest};
use coffer_manifest::{Enrollment, ResourcePath, RootOfTrust, SecretName};
use coffer_protocol::{BoundKeys, P384Key, Purpose, ReceivedRuntimeData};
use coffer_token::{
    Checked, Claims as TokenClaims, CofferClaims, Expectation, GpuVerdict, Hex, Jkt, Jwks, SignError, Signer, Subject, Typ, UnixTime,
    Usage, Version1,
};
use coffer_verify::{Claims, Enrolled, Expected, Platforms, Reject, Roots, RootsError, Verified, verify};

use crate::config::Config;
use crate::failure::chain;
use crate::store::{Site, Standing};

/// What this service believes, accepts and signs with.
#[derive(Debug)]
pub struct Judge {
    roots: Roots,
    platforms: Platforms,
    root_of_trust: RootOfTrust,
    signer: Signer,
    jwks: Jwks,
    issuer: String,
    audience: String,
    policy: Policy,
}

/// The roots of this build are not those the database was made for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JudgeError {
    /// The root certificate.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// A simulated service without its ARK, or one with another.
    #[error("the stored root certificate is of `{got}`, the service was made for `{expected}`")]
    OtherRoot {
        /// What the stored certificate makes.
        got: String,
        /// What `init` fixed.
        expected: RootOfTrust,
    },
    /// The built-in policies do not load.
    #[error("policy: {0}")]
    Policy(#[from] PolicyError),
}

/// Evidence was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Reason code, for the peer.
    pub code: &'static str,
    /// The rule and both values, for the audit log.
    pub detail: String,
    /// Whether the report's signature had held.
    pub authenticated: bool,
}

/// A token and what it says about the guest.
#[derive(Debug)]
pub struct Issued {
    /// The JWT.
    pub token: String,
    /// Its member `coffer`.
    pub coffer: CofferClaims,
}

impl Judge {
    /// Loads what `init` fixed and what the settings say.
    ///
    /// # Errors
    /// See [`JudgeError`].
    pub fn new(root_of_trust: RootOfTrust, ark: Option<&[u8]>, signer: Signer, config: &Config) -> Result<Self, JudgeError> {
        let roots = match (root_of_trust, ark) {
            (RootOfTrust::Simulated(_), Some(ark)) => Roots::simulated(ark)?,
            (RootOfTrust::AmdSevSnp, None) => Roots::amd()?,
            (expected, _) => return Err(JudgeError::OtherRoot { got: "nothing that fits".to_owned(), expected }),
        };
        let got = roots.root_of_trust().to_string();
        if got != root_of_trust.to_string() {
            return Err(JudgeError::OtherRoot { got, expected: root_of_trust });
        }
        Ok(Self {
            platforms: Platforms { families: config.families.clone(), ..Platforms::with_floors(config.floors.clone()) },
            root_of_trust,
            jwks: signer.jwks(),
            signer,
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            policy: Policy::builtin(&roots.root_of_trust())?,
            roots,
        })
    }

    /// The public key set.
    #[must_use]
    pub const fn jwks(&self) -> &Jwks {
        &self.jwks
    }

    /// Appraises evidence against the record of its HOST_DATA, which the caller looked up.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn appraise(
        &self,
        evidence: &SnpEvidence,
        report_data: coffer_evidence::ReportData,
        site: Option<&Site>,
        now: u64,
    ) -> Result<Verified<Claims>, Refused> {
        let enrolled = site
            .filter(|site| site.standing == Standing::Active)
            .map(|site| Enrolled { host_data: site.record.host_data, launch_digests: site.record.launch_digests.clone() });
        let expected = Expected { report_data, platforms: &self.platforms, enrolled: enrolled.as_ref() };
        verify(evidence, &expected, &self.roots, coffer_verify::UnixTime(now)).map_err(|reject| refused(&reject, site))
    }

    /// Asks the policy whether this verified evidence may have a token.
    ///
    /// # Errors
    /// The policy's refusal.
    pub fn may_attest(&self, facts: &EvidenceFacts, site: &Site, bound: Option<&BoundKeys>) -> Result<(), Refused> {
        let request = TokenRequest {
            kind: if bound.is_some() { "job" } else { "kbs" }.to_owned(),
            bound_key: bound.is_some(),
            purpose: bound.map(|bound| purpose_name(bound.purpose).to_owned()),
        };
        decided(self.policy.token(facts, &policy_record(site), &request))
    }

    /// Asks the policy whether this verified evidence may have a secret.
    ///
    /// # Errors
    /// The policy's refusal.
    pub fn may_release(&self, facts: &EvidenceFacts, site: &Site, path: &ResourcePath) -> Result<(), Refused> {
        let resource = Resource {
            project: path.project.to_string(),
            site: path.site.to_string(),
            host_data: path.host_data.to_string(),
            secret: match path.secret {
                SecretName::Root => "root",
                SecretName::Kit => "kit",
            }
            .to_owned(),
        };
        decided(self.policy.release(facts, &policy_record(site), &resource))
    }

    /// Signs a token for verified evidence: a job token where keys are bound, one for stock clients where none are.
    ///
    /// # Errors
    /// [`SignError`] if the claims break a rule of tokens.
    pub fn issue(
        &self,
        verified: &Verified<Claims>,
        record: &Enrollment,
        runtime_data: &ReceivedRuntimeData,
        id: &str,
        now: u64,
    ) -> Result<Issued, SignError> {
        let bound = runtime_data.coffer();
        let typ = if bound.is_some() { Typ::Job } else { Typ::Kbs };
        let coffer = self.claims(verified, record, bound);
        let subject = Subject {
            issuer: self.issuer.clone(),
            audience: if bound.is_some() { self.audience.clone() } else { self.issuer.clone() },
            token_id: id.to_owned(),
            issued_at: UnixTime(now),
            lifetime_seconds: u64::from(record.token_expiration),
            confirmation: bound.map(|bound| thumbprint(&bound.keys.tls)),
            tee_pubkey: bound.is_none().then(|| runtime_data.tee_pubkey().to_jwk()),
            coffer: coffer.clone(),
        };
        Ok(Issued { token: self.signer.sign(typ, &TokenClaims::affirming(subject))?, coffer })
    }

    /// Checks a token that this service gave to a stock client.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check_bearer(&self, token: &str, now: u64) -> Result<Checked<TokenClaims>, coffer_token::Reject> {
        let root_of_trust = self.root_of_trust.to_string();
        let expected =
            Expectation { issuer: &self.issuer, audience: &self.issuer, root_of_trust: &root_of_trust, usage: Usage::KeyService };
        coffer_token::check(token, &self.jwks, &expected, UnixTime(now))
    }

    fn claims(&self, verified: &Verified<Claims>, record: &Enrollment, bound: Option<&BoundKeys>) -> CofferClaims {
        CofferClaims {
            v: Version1,
            project: record.project.to_string(),
            site: record.site.to_string(),
            role: role(record).to_owned(),
            host_data: Hex(*verified.host_data.as_bytes()),
            launch_digest: Hex(*verified.launch_digest.as_bytes()),
            base_svn: record.base_svn,
            root_of_trust: self.root_of_trust.to_string(),
            instance: Hex(*verified.report_id.as_bytes()),
            family: verified.family.to_string(),
            node_jkt: bound.and_then(|bound| bound.keys.node.as_ref()).map(thumbprint),
            gpu: GpuVerdict::None,
            purpose: purpose_name(bound.map_or(Purpose::Boot, |bound| bound.purpose)).to_owned(),
        }
    }
}

fn thumbprint(key: &P384Key) -> Jkt {
    let (x, y) = key.coordinates();
    Jkt::of_ec("P-384", x, y)
}

fn decided(decision: Decision) -> Result<(), Refused> {
    match decision {
        Decision::Release => Ok(()),
        Decision::Refuse(reason) => Err(Refused { code: "policy", detail: reason.to_string(), authenticated: true }),
    }
}

/// The record as policies see it.
fn policy_record(site: &Site) -> Record {
    let record = &site.record;
    Record {
        project: record.project.to_string(),
        site: record.site.to_string(),
        role: role(record).to_owned(),
        host_data: record.host_data.to_string(),
        launch_digests: record.launch_digests.iter().map(ToString::to_string).collect(),
        root_of_trust: record.root_of_trust.to_string(),
        site_svn: record.site_svn,
        base_svn: record.base_svn,
        revoked: site.standing != Standing::Active,
    }
}

/// A revoked record looks to the verifier like none; the audit log and the peer are told which it was.
fn refused(reject: &Reject, site: Option<&Site>) -> Refused {
    if let (Reject::HostData { .. }, Some(revoked)) = (reject, site.and_then(revoked)) {
        return revoked;
    }
    Refused { code: reject.code(), detail: chain(reject), authenticated: reject.is_authenticated() }
}

/// The refusal of a revoked record; none if it still stands.
#[must_use]
pub fn revoked(site: &Site) -> Option<Refused> {
    let Standing::Revoked { revoked_at, revoked_by, revoked_why } = &site.standing else { return None };
    let detail = format!("site was revoked at {revoked_at} by `{revoked_by}`: {revoked_why}");
    Some(Refused { code: "revoked", detail, authenticated: true })
}

const fn role(record: &Enrollment) -> &'static str {
    match record.role {
        coffer_manifest::Role::Client => "client",
        coffer_manifest::Role::Server => "server",
    }
}

/// The purpose's name, as in runtime-data and tokens.
const fn purpose_name(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Boot => "boot",
        Purpose::Gpu => "gpu",
        Purpose::Renew => "renew",
    }
}
