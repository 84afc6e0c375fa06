//! Evidence against a record: verified claims, or the first rule broken.

use coffer_evidence::{ReportData, SnpEvidence};
use coffer_verify::{Claims, Collateral, Enrolled, Expected, Reject, Revoked, Rule, Verified, verify};

use super::Judge;
use crate::failure::chain;
use crate::reason::{Reason, Values};
use crate::store::{Site, Standing};

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
        let enrolled = site
            .filter(|site| site.standing == Standing::Active)
            .map(|site| Enrolled::new(site.record.host_data, site.record.launch_digests.clone()));
        let (revoked, collateral) = (Revoked::default(), Collateral::new());
        let expected = Expected {
            report_data,
            reference_values: Some(&self.reference_values),
            enrolled: enrolled.as_ref(),
            revoked: &revoked,
            collateral: &collateral,
        };
        verify(evidence, &expected, &self.roots, coffer_verify::UnixTime(now)).map_err(|reject| refused(&reject, site))
    }
}

/// A revoked record looks to the verifier like none; the audit log and the peer are told which it was.
fn refused(reject: &Reject, site: Option<&Site>) -> Refused {
    if let (Rule::HostData, Some(revoked)) = (reject.rule(), site.and_then(revoked)) {
        return revoked;
    }
    let values = Values::new(&reject.expected(), &reject.got());
    Refused { reason: Reason::Rule(reject.rule()), detail: chain(reject), values: Some(values), authenticated: reject.is_authenticated() }
}

/// The refusal of a revoked record; none if it still stands.
#[must_use]
pub fn revoked(site: &Site) -> Option<Refused> {
    let Standing::Revoked { revoked_at, revoked_by, revoked_why } = &site.standing else { return None };
    let detail = format!("site was revoked at {revoked_at} by `{revoked_by}`: {revoked_why}");
    Some(Refused { reason: Reason::Revoked, detail, values: None, authenticated: true })
}
