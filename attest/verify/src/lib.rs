//! Appraisal of SNP evidence: is it genuine, and is it what was expected?
//!
//! [`verify`] is pure. Bytes, expected values, roots and the time are its arguments; it opens nothing, asks nobody and reads no clock.
//! It answers with [`Verified`] claims, which nothing else can make, or with the [`Reject`] of the first rule that was broken.
//!
//! What it does **not** establish: that the challenge in REPORT_DATA is fresh (the caller makes it and spends it), that the enrollment
//! was current when the caller looked it up, or that a VCEK has not been revoked (no CRL is consulted).
#![forbid(unsafe_code)]

mod chain;
mod claims;
mod expected;
mod reject;
mod roots;
mod rules;

pub use claims::{Claims, Verified};
pub use expected::{DEFAULT_FAMILIES, DEFAULT_VERSIONS, Enrolled, Expected, Platforms};
pub use reject::{ChainFault, Reject, TcbKind};
pub use roots::{ArkDigest, RootOfTrust, Roots, RootsError};

pub use coffer_evidence::UnixTime;

use coffer_evidence::SnpEvidence;

/// Appraises evidence, rule by rule, in this fixed order. The first broken rule is the answer.
///
/// The signature is checked over the bytes received, or over those rebuilt from stock wire JSON. Before the `signature` rule has
/// passed, nothing in a rejection is authentic, and before `report_data` has, anybody may be repeating it:
/// [`Reject::is_authenticated`] tells which side of both a rejection is on.
///
/// # Errors
/// One [`Reject`] variant per rule, with both values.
pub fn verify(evidence: &SnpEvidence, expected: &Expected<'_>, roots: &Roots, now: UnixTime) -> Result<Verified<Claims>, Reject> {
    let report = &evidence.report;
    rules::report_version(report, expected)?;
    let vcek = chain::vcek(evidence)?;
    let family = chain::anchor(&vcek, evidence, roots, now)?;
    let extensions = rules::certificate_is_for_this_chip(report, &vcek, family)?;
    rules::signature(report, &vcek)?;
    rules::report_data(report, expected)?;
    rules::vmpl(report)?;
    rules::guest_policy(report)?;
    rules::tcb_floor(report, family, expected)?;
    rules::family(report, family, &extensions, expected)?;
    rules::enrollment(report, expected)?;
    Ok(Verified::new(Claims::of(report, family, roots.root_of_trust())))
}
