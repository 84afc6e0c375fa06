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
//!
//! # What a verifier of SNP evidence is expected to check, and which rule does
//!
//! | check | rule |
//! |---|---|
//! | report length, version | `evidence`, `report_version` |
//! | reserved bytes; guest policy bits that must be one or zero | `reserved_bytes`, `policy_reserved` |
//! | signature algorithm 1; R and S in range; ECDSA P-384 with SHA-384 | `signature_algorithm`, `signature_range`, `signature` |
//! | ARK pinned in the binary, per product; its self-signature | [`Roots::amd`], checked when loaded |
//! | ARK → ASK or ASVK → VEK by RSA-PSS-SHA384; names, place, key type and size, signature algorithm of each | `vek_count`, `certificate`, `chain` |
//! | certificate dates, by a clock that is an argument | `certificate_dates` |
//! | CRL of ASK and ASVK | `crl`, `certificate_revoked`, [`Roots::check_crl`] |
//! | VLEK by the ASVK, cloud provider | `signing_key`, `chain`, `csp_id` |
//! | KEY_INFO.SIGNING_KEY against the certificate's kind | `certificate_kind` |
//! | product extension, CPUID and anchoring ARK name one family | `family_mismatch`, `family` |
//! | HWID equals CHIP_ID, 8 bytes of it on Turin; zero under a VLEK | `chip_id` |
//! | MASK_CHIP_KEY, masked CHIP_ID | `masked_chip` |
//! | REPORTED_TCB equals the certificate's, FMC included; Turin's TCB layout | `certificate_tcb` |
//! | certificate TCB ≤ CURRENT_TCB; reported ≤ committed ≤ current | `certificate_current_tcb`, `tcb_order` |
//! | minimum of reported, committed, current and launch TCB | `tcb_floor_missing`, `tcb_floor`, `enrolled_tcb_floor` |
//! | minimum firmware and its ABI | `minimum_firmware`, `guest_policy_abi` |
//! | launch and current mitigation vector | `mitigations` |
//! | debugging, migration; SMT, single socket and the later bits | `debug_policy`, `migration_policy`, `guest_policy` |
//! | PLATFORM_INFO: SMT, TSME, ECC, RAPL, ciphertext hiding, alias check, and later bits | `platform_info` |
//! | VMPL | `vmpl` |
//! | MEASUREMENT | `launch_digest`, `launch_digest_revoked` |
//! | REPORT_DATA | `report_data` |
//! | HOST_DATA | `host_data` |
//! | FAMILY_ID, IMAGE_ID, GUEST_SVN | `family_id`, `image_id`, `guest_svn`, `enrolled_guest_svn` |
//! | ID key and author key digest, AUTHOR_KEY_EN | `id_key`, `author_key`, `enrolled_id_key`, `enrolled_author_key`, `key_revoked` |
//! | REPORT_ID, REPORT_ID_MA | `report_id`, `migration_agent` |
//! | lists of chips | `chip_allowed`, `chip_denied`, `chip_revoked`, `enrolled_chip` |
//! | store and cache of certificates | the caller's, by [`certificates_digest`] and [`endorse_certificates`] |
//! | a nonce is used once | the caller's, before it calls [`verify`] |
//!
//! Firmware verifies the signatures of ID block and ID key at launch (AMD 56860, SNP_LAUNCH_FINISH); a report names the keys, and so
//! the rules compare digests.
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
