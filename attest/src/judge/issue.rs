//! Tokens: what is signed for verified evidence, and what of it is taken back from stock clients.

use coffer_manifest::Enrollment;
use coffer_protocol::{BoundKeys, P384Key, Purpose, ReceivedRuntimeData};
use coffer_token::{
    Checked, Claims as TokenClaims, CofferClaims, Expectation, GpuVerdict, Hex, Jkt, SignError, StatementKind, Subject, Typ, UnixTime,
    Usage, Version1,
};
use coffer_verify::{Claims, Verified};
use serde::Serialize;

use super::{Judge, purpose_name, role};

/// A token and what it says about the guest.
#[derive(Debug)]
pub struct Issued {
    /// The JWT.
    pub token: String,
    /// Its member `coffer`.
    pub coffer: CofferClaims,
}

/// There is no token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// Every token key leaked.
    #[error("no token key signs at {now}")]
    NoKey {
        /// Unix seconds.
        now: u64,
    },
    /// The claims break a rule of tokens.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// There is no statement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// Every token key leaked.
    #[error("no token key signs at {now}")]
    NoKey {
        /// Unix seconds.
        now: u64,
    },
    /// The payload does not encode.
    #[error("statement cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
}

impl Judge {
    /// Signs a statement of the service about itself.
    ///
    /// # Errors
    /// See [`StatementError`].
    pub fn sign_statement(&self, kind: StatementKind, payload: &impl Serialize, now: u64) -> Result<String, StatementError> {
        let keys = self.keys.load();
        let signer = keys.signer(now).ok_or(StatementError::NoKey { now })?;
        Ok(signer.sign_statement(kind, payload)?)
    }

    /// Signs a token for verified evidence: a job token where keys are bound, one for stock clients where none are.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn issue(
        &self,
        verified: &Verified<Claims>,
        record: &Enrollment,
        runtime_data: &ReceivedRuntimeData,
        id: &str,
        now: u64,
    ) -> Result<Issued, IssueError> {
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
        let keys = self.keys.load();
        let signer = keys.signer(now).ok_or(IssueError::NoKey { now })?;
        Ok(Issued { token: signer.sign(typ, &TokenClaims::affirming(subject))?, coffer })
    }

    /// Checks a token that this service gave to a stock client.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check_bearer(&self, token: &str, now: u64) -> Result<Checked<TokenClaims>, coffer_token::Reject> {
        let root_of_trust = self.root_of_trust.to_string();
        let expected =
            Expectation { issuer: &self.issuer, audience: &self.issuer, root_of_trust: &root_of_trust, usage: Usage::KeyService };
        self.keys.load().check(token, &expected, now)
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
