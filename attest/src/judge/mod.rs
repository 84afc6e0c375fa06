//! The decision: evidence and a record in, verified claims or one named refusal out; then a token for what was verified.

mod appraise;
mod issue;

use coffer_kbs_policy::{Decision, EvidenceFacts, Policy, PolicyError, Record, Resource, TokenRequest};
use coffer_manifest::{Enrollment, ResourcePath, RootOfTrust, SecretName};
use coffer_protocol::{BoundKeys, Purpose};
use coffer_verify::{MILAN_RISK, ReferenceValues, Roots, RootsError};

use crate::config::Config;
use crate::live::Live;
use crate::store::{Site, Standing};
use crate::token_keys::KeyRing;
pub use appraise::{Refused, revoked};
pub use issue::{Issued, StatementError};

/// What this service believes, accepts and signs with.
#[derive(Debug)]
pub struct Judge {
    roots: Roots,
    reference_values: ReferenceValues,
    root_of_trust: RootOfTrust,
    keys: Live<KeyRing>,
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

/// What the settings say. An operator who lists Milan there has read its risk beside the list.
fn reference_values(config: &Config) -> ReferenceValues {
    let floors = config.floors.iter().filter(|(family, _)| config.families.contains(family));
    let mut values = ReferenceValues::with_floors(&floors.map(|(family, floor)| (*family, *floor)).collect());
    if let Some(milan) = &mut values.families.milan {
        milan.risk_accepted = Some(MILAN_RISK.to_owned());
    }
    values
}

impl Judge {
    /// Loads what `init` fixed and what the settings say.
    ///
    /// # Errors
    /// See [`JudgeError`].
    pub fn new(root_of_trust: RootOfTrust, ark: Option<&[u8]>, keys: KeyRing, config: &Config) -> Result<Self, JudgeError> {
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
            reference_values: reference_values(config),
            root_of_trust,
            keys: Live::new(keys),
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            policy: Policy::builtin(&roots.root_of_trust())?,
            roots,
        })
    }

    /// `iss` of every token and statement.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// What `init` fixed.
    #[must_use]
    pub const fn root_of_trust(&self) -> RootOfTrust {
        self.root_of_trust
    }

    /// The token keys as they are now; replaced at a rotation.
    #[must_use]
    pub const fn keys(&self) -> &Live<KeyRing> {
        &self.keys
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
}

fn decided(decision: Decision) -> Result<(), Refused> {
    match decision {
        Decision::Release => Ok(()),
        Decision::Refuse(reason) => Err(Refused { reason: crate::reason::Reason::Policy, detail: reason.to_string(), values: None, authenticated: true }),
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
