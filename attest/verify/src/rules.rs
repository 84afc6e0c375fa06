//! The rules about a report, one function each, in the order [`crate::verify`] calls them.

use coffer_evidence::{Family, Report, TcbVersion, VekExtensions};
use ring::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};

use crate::chain::Vcek;
use crate::expected::Expected;
use crate::reject::{Reject, TcbKind};

/// SIGNATURE_ALGO of ECDSA P-384 with SHA-384 (AMD 56860, table "Encodings for the Signature Algorithm").
const ECDSA_P384_SHA384: u32 = 1;

pub(crate) fn report_version(report: &Report, expected: &Expected<'_>) -> Result<(), Reject> {
    let (got, allowed) = (report.fields().version, &expected.platforms.versions);
    if allowed.contains(&got) { Ok(()) } else { Err(Reject::ReportVersion { got, allowed: allowed.clone() }) }
}

/// The VCEK was derived for REPORTED_TCB, on the chip that made the report.
pub(crate) fn certificate_is_for_this_chip(report: &Report, vcek: &Vcek, family: Family) -> Result<VekExtensions, Reject> {
    let extensions = VekExtensions::of(&vcek.certificate).map_err(|source| Reject::Certificate { which: "VCEK", source })?;
    let fields = report.fields();
    if extensions.tcb != fields.reported_tcb {
        return Err(Reject::CertificateTcb { certificate: extensions.tcb, report: fields.reported_tcb });
    }
    // Turin names a chip by 8 bytes, and its reports fill the other 56 with zeros.
    let (used, rest) = fields.chip_id.as_bytes().split_at(family.hwid_len());
    let same = extensions.hwid.as_ref().is_some_and(|hwid| hwid.as_bytes() == used) && rest.iter().all(|byte| *byte == 0);
    if same { Ok(extensions) } else { Err(Reject::ChipId { certificate: extensions.hwid, report: Box::new(fields.chip_id) }) }
}

/// ECDSA P-384 with SHA-384 over bytes 0x000–0x29F.
pub(crate) fn signature(report: &Report, vcek: &Vcek) -> Result<(), Reject> {
    let fields = report.fields();
    if fields.signature_algo != ECDSA_P384_SHA384 {
        return Err(Reject::SignatureAlgorithm { got: fields.signature_algo });
    }
    let (Some(r), Some(s)) = (big_endian(&fields.signature_r), big_endian(&fields.signature_s)) else {
        return Err(Reject::Signature);
    };
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &vcek.point[..])
        .verify(report.signed_bytes(), &[r, s].concat())
        .map_err(|_| Reject::Signature)
}

/// A report's 72-byte little-endian integer as the 48 bytes of P-384; none if it does not fit.
fn big_endian(little: &[u8; 72]) -> Option<[u8; 48]> {
    let (low, high) = little.split_first_chunk::<48>()?;
    let mut bytes = *low;
    bytes.reverse();
    high.iter().all(|byte| *byte == 0).then_some(bytes)
}

pub(crate) fn report_data(report: &Report, expected: &Expected<'_>) -> Result<(), Reject> {
    let (got, expected) = (report.fields().report_data, expected.report_data);
    if got == expected { Ok(()) } else { Err(Reject::ReportData { got: Box::new(got), expected: Box::new(expected) }) }
}

pub(crate) fn vmpl(report: &Report) -> Result<(), Reject> {
    match report.fields().vmpl {
        0 => Ok(()),
        got => Err(Reject::Vmpl { got }),
    }
}

pub(crate) fn guest_policy(report: &Report) -> Result<(), Reject> {
    let got = report.fields().policy;
    if got.debug_allowed() {
        return Err(Reject::DebugPolicy { got });
    }
    if got.migration_allowed() {
        return Err(Reject::MigrationPolicy { got });
    }
    Ok(())
}

/// All four TCBs are at least the family's floor. Committed and current differ on genuine hosts, so none stands for the others.
pub(crate) fn tcb_floor(report: &Report, family: Family, expected: &Expected<'_>) -> Result<(), Reject> {
    let floor = expected.platforms.floors.get(&family).ok_or(Reject::NoTcbFloor { family })?;
    let fields = report.fields();
    let tcbs = [
        (TcbKind::Reported, fields.reported_tcb),
        (TcbKind::Committed, fields.committed_tcb),
        (TcbKind::Current, fields.current_tcb),
        (TcbKind::Launch, fields.launch_tcb),
    ];
    let low = |(_, got): &(TcbKind, TcbVersion)| !got.is_at_least(floor);
    match tcbs.into_iter().find(low) {
        None => Ok(()),
        Some((which, got)) => Err(Reject::TcbFloor { which, got, floor: *floor }),
    }
}

/// Root, CPUID and certificate name one family, and it is allowed. Version 2 reports name no CPUID.
pub(crate) fn family(report: &Report, anchor: Family, vcek: &VekExtensions, expected: &Expected<'_>) -> Result<(), Reject> {
    let cpuid = report.fields().cpuid;
    let agrees = cpuid.is_none_or(|cpuid| Family::of_cpuid(cpuid) == Some(anchor)) && Family::of_product(&vcek.product) == Some(anchor);
    if !agrees {
        return Err(Reject::FamilyMismatch { anchor, cpuid, product: vcek.product.clone() });
    }
    let allowed = &expected.platforms.families;
    if allowed.contains(&anchor) { Ok(()) } else { Err(Reject::Family { got: anchor, allowed: allowed.clone() }) }
}

/// The site config is enrolled, and for what was launched.
pub(crate) fn enrollment(report: &Report, expected: &Expected<'_>) -> Result<(), Reject> {
    let fields = report.fields();
    let enrolled = match expected.enrolled {
        Some(enrolled) if enrolled.host_data == fields.host_data => enrolled,
        other => return Err(Reject::HostData { got: fields.host_data, enrolled: other.map(|record| record.host_data) }),
    };
    if enrolled.launch_digests.contains(&fields.measurement) {
        Ok(())
    } else {
        Err(Reject::LaunchDigest { got: fields.measurement, allowed: enrolled.launch_digests.clone() })
    }
}
