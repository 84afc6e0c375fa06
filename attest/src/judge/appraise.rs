//! Evidence against a record: verified claims, or the first rule broken.

use coffer_evidence::{ReportData, SnpEvidence};
use coffer_kbs_policy::EvidenceFacts;
use coffer_token::RevocationKind;
use coffer_verify::{
    CertificatesDigest, Claims, Endorsement, Expected, Reject, Rule, UnixTime, Verified, certificates_digest, endorse, verify,
    verify_endorsed,
};

use super::Judge;
use super::enrolled::enrolled;
use crate::bounded::Bounded;
use crate::clock::rfc3339;
use crate::failure::chain;
use crate::policy::ProjectPolicy;
use crate::reason::{Reason, Values};
use crate::revocation::Revocations;
use crate::store::{Site, Standing, Stands, Suspended};

/// Evidence was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its code is for the peer.
    pub reason: Reason,
    /// What happened, for the audit log.
    pub detail: String,
    /// What the rule wants and what it got.
    pub values: Option<Values>,
    /// Whether the report's signature had held.
    pub authenticated: bool,
}

impl Judge {
    /// Appraises evidence against the record of its HOST_DATA, which the caller looked up.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn appraise(
        &self,
        evidence: &SnpEvidence,
        report_data: ReportData,
        site: Option<&Site>,
        now: u64,
    ) -> Result<Verified<Claims>, Refused> {
        // Without a record there is no project; the default's values are asked before the refusal is `host_data`.
        let policy = site.map_or_else(|| self.policies.default(), |site| self.policies.of(&site.record.project));
        self.appraise_under(&policy, evidence, report_data, site, now).map_err(|refused| match site {
            // Where there is neither a record nor a default policy, it is the record that is missing.
            None if policy.version == 0 && refused.reason == Reason::Rule(Rule::TcbFloorMissing) => {
                let got = evidence.report.fields().host_data;
                let values = Some(Values::new(&"the HOST_DATA of an enrollment", &got));
                Refused { reason: Reason::Rule(Rule::HostData), detail: format!("HOST_DATA {got} is not enrolled"), values, ..refused }
            }
            _ => refused,
        })
    }

    /// The same under a policy that may not be in force.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn appraise_under(
        &self,
        policy: &ProjectPolicy,
        evidence: &SnpEvidence,
        report_data: ReportData,
        site: Option<&Site>,
        now: u64,
    ) -> Result<Verified<Claims>, Refused> {
        let enrolled = site.filter(|site| site.stands.counts(now)).map(|site| enrolled(&site.record));
        let revocations = self.revocations.load();
        let expected = Expected {
            report_data,
            reference_values: policy.reference_values(),
            enrolled: enrolled.as_ref(),
            revoked: revocations.revoked(),
            collateral: &self.library.collateral(),
        };
        self.verify(evidence, &expected, UnixTime(now)).map_err(|reject| refused(&reject, site, now))
    }

    /// [`verify`], with the signatures of a chain checked once per host and not once per handshake. Dates, revocation lists and
    /// everything else about the certificates are looked at each time.
    fn verify(&self, evidence: &SnpEvidence, expected: &Expected<'_>, now: UnixTime) -> Result<Verified<Claims>, Reject> {
        let digest = certificates_digest(evidence);
        if let Some(endorsement) = self.endorsements.get(&digest) {
            return verify_endorsed(&evidence.report, &endorsement, expected, now);
        }
        let Ok(endorsement) = endorse(evidence, &self.roots) else {
            // The first broken rule is the answer, and two of them come before those of the chain.
            return verify(evidence, expected, &self.roots, now);
        };
        let verified = verify_endorsed(&evidence.report, &endorsement, expected, now)?;
        self.endorsements.keep(digest, endorsement);
        Ok(verified)
    }
}

/// How many endorsement keys are remembered at least: one for each host. Twice as many, of some 700 bytes, at most.
const KEPT_ENDORSEMENTS: usize = 8192;

/// Endorsement keys whose chains were checked, of hosts that run an enrolled site: nobody else's certificates get in.
#[derive(Debug)]
pub(super) struct Endorsements(Bounded<CertificatesDigest, Endorsement>);

impl Endorsements {
    pub(super) fn new() -> Self {
        Self(Bounded::new(KEPT_ENDORSEMENTS))
    }

    fn get(&self, digest: &CertificatesDigest) -> Option<Endorsement> {
        self.0.get(digest, |_| 1)
    }

    fn keep(&self, digest: CertificatesDigest, endorsement: Endorsement) {
        self.0.insert(digest, endorsement, 1);
    }
}

/// A revoked or suspended record looks to the verifier like none; the audit log and the peer are told which it was.
fn refused(reject: &Reject, site: Option<&Site>, now: u64) -> Refused {
    if let (Rule::HostData, Some(withheld)) = (reject.rule(), site.and_then(|site| withheld(site, now))) {
        return withheld;
    }
    let values = Values::new(&reject.expected(), &reject.got());
    Refused { reason: Reason::Rule(reject.rule()), detail: chain(reject), values: Some(values), authenticated: reject.is_authenticated() }
}

/// The refusal of a revoked record, or of one whose site is suspended; none if it counts. What is for good is said first.
#[must_use]
pub fn withheld(site: &Site, now: u64) -> Option<Refused> {
    let Stands { standing, suspended } = &site.stands;
    let (reason, detail) = match (standing, suspended) {
        (Standing::Revoked { revoked_at, revoked_by, revoked_why }, _) => {
            (Reason::Revoked, format!("site was revoked at {} by `{revoked_by}`: {revoked_why}", rfc3339(*revoked_at)))
        }
        (Standing::Superseded { overlap_until }, _) if now >= *overlap_until => {
            (Reason::Revoked, format!("site config was superseded, the overlap was over at {}", rfc3339(*overlap_until)))
        }
        (_, Some(Suspended { at, by, reason })) => {
            (Reason::SiteSuspended, format!("site was suspended at {} by `{by}`: {reason}", rfc3339(*at)))
        }
        (Standing::Active | Standing::Superseded { .. }, None) => return None,
    };
    Some(Refused { reason, detail, values: None, authenticated: true })
}

/// The refusal of a guest whose chip, image or key was revoked after it attested; none if all of them stand.
#[must_use]
pub fn revoked_since(revocations: &Revocations, facts: &EvidenceFacts) -> Option<Refused> {
    let found = revocations.of_facts(facts)?;
    let rule = match found.kind {
        RevocationKind::Chip => Rule::ChipRevoked,
        RevocationKind::Image => Rule::LaunchDigestRevoked,
        _ => Rule::KeyRevoked,
    };
    let why = found.reason.as_deref().unwrap_or("no reason given");
    let detail = format!("{} {} was revoked at {}, number {}: {why}", found.kind, found.value, found.at, found.number);
    let values = Values::new(&format!("a {} that stands", found.kind), &found.value);
    Some(Refused { reason: Reason::Rule(rule), detail, values: Some(values), authenticated: true })
}
