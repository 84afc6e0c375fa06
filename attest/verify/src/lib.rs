//! Appraisal of SNP evidence: is it genuine, and is it what was expected?
//!
//! [`verify`] is pure. Bytes, expected values, roots and the time are its arguments; it opens nothing, asks nobody and reads no clock.
//! It answers with [`Verified`] claims, which nothing else can make, or with the [`Reject`] of the first rule that was broken.
//! [`Rule::ALL`] is the list of rules and their order. Nothing before the rule `report_data` is authenticated: until the signature has
//! held and the challenge was answered, anybody may be repeating anybody's report.
//!
//! [`verify`] is [`endorse`] and then [`verify_endorsed`]. The first checks the certificates, whose result a caller may keep by
//! [`certificates_digest`]; the second makes one P-384 verification and nothing else that costs.
//!
//! What it does **not** establish: that the challenge in REPORT_DATA is fresh (the caller makes it and spends it), that the enrollment
//! and the revocations were current when the caller looked them up, or that one VCEK has not been revoked (no list of AMD's can say
//! that, see [`VerifiedCrl`]).
#![forbid(unsafe_code)]

mod appraisal;
mod chain;
mod checks;
mod claims;
mod collateral;
mod expected;
mod reference;
mod reject;
mod roots;
mod rule;

pub use appraisal::{Appraisal, Check, Outcome, appraise};
pub use chain::{CertificatesDigest, Endorsement, certificates_digest, endorse, endorse_certificates};
pub use claims::{Claims, Verified};
pub use collateral::{Added, Collateral, CrlError, VerifiedCrl};
pub use expected::{Enrolled, Expected, Revoked};
pub use reference::{
    Abi, BitRule, BlockId, ChipLists, CrlRule, Families, FamilyValues, MILAN_RISK, PlatformRules, PolicyRules, ReferenceError,
    ReferenceValues,
};
pub use reject::{ChainFault, Reject, TcbKind};
pub use roots::{ArkDigest, RootOfTrust, Roots, RootsError};
pub use rule::Rule;

pub use coffer_evidence::UnixTime;

use checks::{Finding, Scene};
use coffer_evidence::{Report, SnpEvidence};

/// Appraises evidence, rule by rule, in the order of [`Rule::ALL`]. The first broken rule is the answer.
///
/// The signature is checked over the bytes received, or over those rebuilt from stock wire JSON.
///
/// # Errors
/// The [`Reject`] of the first broken rule, with both values.
pub fn verify(evidence: &SnpEvidence, expected: &Expected<'_>, roots: &Roots, now: UnixTime) -> Result<Verified<Claims>, Reject> {
    // What the report alone shows comes before the cost of its chain.
    let scene = Scene { report: &evidence.report, endorsement: None, expected, now, tells: false };
    for rule in [Rule::ReportVersion, Rule::SigningKey] {
        refuse(rule, scene.check(rule))?;
    }
    verify_endorsed(&evidence.report, &endorse(evidence, roots)?, expected, now)
}

/// Appraises a report under an endorsement key whose chain was checked before: every rule of [`verify`] but those of [`endorse`].
///
/// One P-384 verification. Dates and revocation lists are looked at for `now`.
///
/// # Errors
/// The [`Reject`] of the first broken rule, with both values.
pub fn verify_endorsed(
    report: &Report,
    endorsement: &Endorsement,
    expected: &Expected<'_>,
    now: UnixTime,
) -> Result<Verified<Claims>, Reject> {
    let scene = Scene { report, endorsement: Some(endorsement), expected, now, tells: false };
    for rule in Rule::ALL.iter().copied().filter(|rule| !is_of_endorsement(*rule)) {
        refuse(rule, scene.check(rule))?;
    }
    Ok(Verified::new(Claims::of(report, endorsement)))
}

/// The rules that [`endorse`] and the parser before it have answered.
const fn is_of_endorsement(rule: Rule) -> bool {
    matches!(rule, Rule::Evidence | Rule::VekCount | Rule::Certificate | Rule::Chain)
}

/// A check that was not reached has not passed.
fn refuse(rule: Rule, finding: Finding) -> Result<(), Reject> {
    match finding {
        Finding::Pass(_) | Finding::NotAsked => Ok(()),
        Finding::Fail { expected, got } => Err(Reject::new(rule, expected, got)),
        Finding::NotReached => Err(Reject::new(rule, "an earlier check to hold".into(), "not reached".into())),
    }
}
