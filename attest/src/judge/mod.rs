//! The decision: evidence and a record in, verified claims or one named refusal out; then a token for what was verified.

mod appraise;
mod enrolled;
mod issue;

use std::sync::Arc;

use coffer_kbs_policy::{Decision, EvidenceFacts, Record, Resource, TokenRequest};
use coffer_manifest::{Enrollment, ResourcePath, RootOfTrust, SecretName};
use coffer_protocol::{BoundKeys, Purpose};
use coffer_verify::{Roots, RootsError};

use crate::collateral::Library;
use crate::config::Config;
use crate::live::Live;
use crate::policy::{LoadError, Policies, ProjectPolicy, StockPath};
use crate::reason::{Reason, Values};
use crate::revocation::Revocations;
use crate::store::{PolicyOwner, PolicyVersion, Site, Standing};
use crate::token_keys::KeyRing;
pub use appraise::{Refused, revoked_since, withheld};
pub use issue::{Issued, StatementError};

/// What this service believes, accepts and signs with.
#[derive(Debug)]
pub struct Judge {
    roots: Roots,
    endorsements: appraise::Endorsements,
    library: Library,
    policies: Policies,
    root_of_trust: RootOfTrust,
    keys: Live<KeyRing>,
    revocations: Arc<Live<Revocations>>,
    issuer: String,
    audience: String,
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
    /// A policy does not load.
    #[error(transparent)]
    Policy(#[from] LoadError),
}

impl Judge {
    /// Loads what `init` fixed, what the settings say and the policies in force.
    ///
    /// # Errors
    /// See [`JudgeError`].
    pub fn new(
        root_of_trust: RootOfTrust,
        ark: Option<&[u8]>,
        keys: KeyRing,
        revocations: Arc<Live<Revocations>>,
        policies: Vec<(PolicyOwner, PolicyVersion)>,
        config: &Config,
    ) -> Result<Self, JudgeError> {
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
            endorsements: appraise::Endorsements::new(),
            policies: Policies::load(policies, roots.root_of_trust())?,
            root_of_trust,
            keys: Live::new(keys),
            revocations,
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            library: Library::open(Vec::new(), roots.clone(), None),
            roots,
        })
    }

    /// `iss` of every token and statement.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// `aud` of every job token.
    #[must_use]
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// What `init` fixed.
    #[must_use]
    pub const fn root_of_trust(&self) -> RootOfTrust {
        self.root_of_trust
    }

    /// The same with the collateral there is, and a way to more if the settings open one.
    #[must_use]
    pub fn with_library(self, library: Library) -> Self {
        Self { library, ..self }
    }

    /// Certificates and revocation lists, in memory.
    #[must_use]
    pub const fn library(&self) -> &Library {
        &self.library
    }

    /// Whom this service believes.
    #[must_use]
    pub const fn roots(&self) -> &Roots {
        &self.roots
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
        Self::may_attest_under(&self.policies.of(&site.record.project), facts, site, &token_request(bound))
    }

    /// The same under a policy that may not be in force.
    ///
    /// # Errors
    /// The policy's refusal.
    pub fn may_attest_under(policy: &ProjectPolicy, facts: &EvidenceFacts, site: &Site, request: &TokenRequest) -> Result<(), Refused> {
        policy.document.stock_reference_values.check(facts).map_err(|not_listed| Refused {
            reason: Reason::StockReferenceValue,
            detail: not_listed.to_string(),
            values: Some(Values::new(&not_listed.expected(), &not_listed.got())),
            authenticated: true,
        })?;
        decided(policy.rego.token(facts, &policy_record(site), request))
    }

    /// Asks the policy whether this verified evidence may have a secret.
    ///
    /// # Errors
    /// The policy's refusal.
    pub fn may_release(&self, facts: &EvidenceFacts, site: &Site, path: &ResourcePath) -> Result<(), Refused> {
        Self::may_release_under(&self.policies.of(&site.record.project), facts, site, path)
    }

    /// The same under a policy that may not be in force.
    ///
    /// # Errors
    /// The policy's refusal.
    pub fn may_release_under(policy: &ProjectPolicy, facts: &EvidenceFacts, site: &Site, path: &ResourcePath) -> Result<(), Refused> {
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
        decided(policy.rego.release(facts, &policy_record(site), &resource))
    }

    /// Asks the policy whether this verified evidence may have a stock resource of its project: the document lists the site for
    /// exactly this path, and the project's rego in the stock form, if there is one, says yes.
    ///
    /// # Errors
    /// The policy's refusal; a path that is not listed at all is one that does not exist.
    pub fn may_have_stock(policy: &ProjectPolicy, facts: &EvidenceFacts, site: &Site, path: &StockPath) -> Result<(), Refused> {
        let record = &site.record;
        let listed = policy.document.stock_resource(path);
        let refuse = |reason, detail| Err(Refused { reason, detail, values: None, authenticated: true });
        let Some(resource) = listed else {
            return refuse(Reason::NoSuchResource, format!("{} lists no stock resource `{path}`", policy.owner));
        };
        if !resource.sites.contains(&record.site) {
            return refuse(Reason::ResourcePath, format!("stock resource `{path}` is not released to site `{}`", record.site));
        }
        let (kind, tag) = path.segments();
        decided(policy.rego.stock(facts, &policy_record(site), [record.project.as_str(), kind, tag]))
    }

    /// The policies in force.
    #[must_use]
    pub const fn policies(&self) -> &Policies {
        &self.policies
    }
}

/// The token that a handshake asks for, as policies see it.
#[must_use]
pub fn token_request(bound: Option<&BoundKeys>) -> TokenRequest {
    TokenRequest {
        kind: if bound.is_some() { "job" } else { "kbs" }.to_owned(),
        bound_key: bound.is_some(),
        purpose: bound.map(|bound| purpose_name(bound.purpose).to_owned()),
    }
}

fn decided(decision: Decision) -> Result<(), Refused> {
    match decision {
        Decision::Release => Ok(()),
        Decision::Refuse(reason) => Err(Refused { reason: Reason::Policy, detail: reason.to_string(), values: None, authenticated: true }),
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
        // An overlap that is over was refused before any policy is asked.
        revoked: matches!(site.stands.standing, Standing::Revoked { .. }),
        suspended: site.stands.suspended.is_some(),
    }
}

const fn role(record: &Enrollment) -> &'static str {
    record.role.name()
}

/// The purpose's name, as in runtime-data and tokens.
const fn purpose_name(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Boot => "boot",
        Purpose::Gpu => "gpu",
        Purpose::Renew => "renew",
    }
}
