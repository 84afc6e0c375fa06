//! From the report's version to its challenge: everything before a refusal may be held against a guest.

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use coffer_evidence::{ChipId, Report, VekKind};

use super::{Finding, Scene, listed};
use crate::reference::CrlRule;

/// SIGNATURE_ALGO of ECDSA P-384 with SHA-384 (AMD 56860, table "Encodings for the Signature Algorithm").
const ECDSA_P384_SHA384: u32 = 1;

/// The order of P-384's group, big-endian (SEC 2, section 2.5.1).
const P384_ORDER: [u8; 48] = [
    0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
    0xFF, 0xFF, 0xC7, 0x63, 0x4D, 0x81, 0xF4, 0x37, 0x2D, 0xDF, 0x58, 0x1A, 0x0D, 0xB2, 0x48, 0xB0, 0xA7, 0x7A, 0xEC, 0xEC, 0x19, 0x6A,
    0xCC, 0xC5, 0x29, 0x73,
];

/// Whether a report (its bytes 0x000–0x29F) was signed by this key (an uncompressed point): the one expensive step of an appraisal,
/// kept in one place so that its implementation can be chosen by measurement: `aws-lc-rs` takes 172 µs, graviola 0.4 271, ring 510 and
/// `p384` 519 on one x86-64 core. `signature` is R and S, 48 bytes each, big-endian.
fn ecdsa_p384_sha384(point: &[u8; 97], message: &[u8], signature: &[u8; 96]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(message, signature).is_ok()
}

pub(super) fn report_version(scene: &Scene<'_>) -> Finding {
    let (got, allowed) = (scene.fields().version, &scene.values().report_versions);
    scene.judge(allowed.contains(&got), || format!("one of {allowed:?}"), || got.to_string())
}

pub(super) fn signing_key(scene: &Scene<'_>) -> Finding {
    let (got, allowed) = (scene.fields().key_info.signing_key(), &scene.values().signing_keys);
    scene.judge(allowed.iter().any(|kind| kind.signing_key() == got), || listed(allowed), || got.to_string())
}

pub(super) fn certificate_kind(scene: &Scene<'_>) -> Finding {
    let Some(endorsement) = scene.endorsement else { return Finding::NotReached };
    let (got, named) = (endorsement.kind(), scene.fields().key_info.signing_key());
    scene.judge(got.signing_key() == named, || format!("{named}, as the report names"), || got.to_string())
}

pub(super) fn certificate_dates(scene: &Scene<'_>) -> Finding {
    let Some(endorsement) = scene.endorsement else { return Finding::NotReached };
    let now = scene.now;
    match endorsement.validity().iter().find(|(_, first, last)| now < *first || now > *last) {
        Some((subject, first, last)) => {
            Finding::Fail { expected: format!("valid at {now}"), got: format!("of {subject}, valid from {first} to {last}") }
        }
        None => {
            scene.pass(|| listed(endorsement.validity().iter().map(|(subject, first, last)| format!("{subject} from {first} to {last}"))))
        }
    }
}

pub(super) fn crl(scene: &Scene<'_>) -> Finding {
    let Some(endorsement) = scene.endorsement else { return Finding::NotReached };
    let required = scene.values().crl == CrlRule::Required;
    let expected = || format!("there and current at {}", scene.now);
    let Some(list) = scene.expected.collateral.newest(endorsement.family()) else {
        let absent = || "absent".to_owned();
        return if required { scene.judge(false, expected, absent) } else { Finding::NotAsked };
    };
    let (from, until) = (list.crl().this_update(), list.crl().next_update());
    let current = from <= scene.now && until.is_some_and(|until| scene.now <= until);
    let got = || {
        let until = until.map_or_else(|| "with no next one due".into(), |until| format!("next due at {until}"));
        format!("of {from}, {until}")
    };
    scene.judge(current || !required, expected, got)
}

/// The list's word on the intermediate. It has none on the endorsement key: see [`crate::VerifiedCrl`].
pub(super) fn certificate_revoked(scene: &Scene<'_>) -> Finding {
    let Some(endorsement) = scene.endorsement else { return Finding::NotReached };
    if scene.expected.collateral.newest(endorsement.family()).is_none() {
        return Finding::NotAsked;
    }
    let serial = endorsement.intermediate();
    let revoked = scene.expected.collateral.revokes(endorsement.family(), serial);
    scene.judge(
        !revoked,
        || "one that is not revoked".into(),
        || if revoked { format!("{serial}, which is revoked") } else { serial.to_string() },
    )
}

/// The key was derived for REPORTED_TCB; on Turin its FMC too.
pub(super) fn certificate_tcb(scene: &Scene<'_>) -> Finding {
    let Some(endorsement) = scene.endorsement else { return Finding::NotReached };
    let (got, reported) = (endorsement.extensions().tcb, scene.fields().reported_tcb);
    scene.judge(got == reported, || format!("{reported}, as the report says"), || got.to_string())
}

/// A VCEK names the chip of the report. Where the report hides it, only the certificate tells: [`crate::Rule::MaskedChip`] decides.
/// A VLEK names no chip, and the report it signs has CHIP_ID zero (AMD 56860, table ATTESTATION_REPORT).
pub(super) fn chip_id(scene: &Scene<'_>) -> Finding {
    let Some(endorsement) = scene.endorsement else { return Finding::NotReached };
    let chip = scene.fields().chip_id;
    let hidden = is_zero(&chip);
    let hwid = endorsement.extensions().hwid.as_ref();
    let holds = match (endorsement.kind(), endorsement.chip()) {
        (VekKind::Vlek, _) => hidden && hwid.is_none(),
        (VekKind::Vcek, Some(certified)) => hidden || *certified == chip,
        (VekKind::Vcek, None) => false,
    };
    let expected = || match endorsement.kind() {
        VekKind::Vlek => "none, and CHIP_ID zero, under a VLEK".to_owned(),
        VekKind::Vcek if hidden => "one, where CHIP_ID is zero".to_owned(),
        VekKind::Vcek => format!("{chip}, as the report says"),
    };
    let got = || match hwid {
        Some(hwid) => hwid.to_string(),
        None if hidden => "none".into(),
        None => format!("none, and CHIP_ID {chip}"),
    };
    scene.judge(holds, expected, got)
}

pub(super) fn is_zero(chip: &ChipId) -> bool {
    chip.as_bytes().iter().all(|byte| *byte == 0)
}

pub(super) fn signature_algorithm(scene: &Scene<'_>) -> Finding {
    let got = scene.fields().signature_algo;
    scene.judge(got == ECDSA_P384_SHA384, || "1 (ECDSA P-384 with SHA-384)".into(), || got.to_string())
}

/// R and S, each from 1 to the group order minus 1.
pub(super) fn signature_range(scene: &Scene<'_>) -> Finding {
    let fields = scene.fields();
    let bad = [("R", &fields.signature_r), ("S", &fields.signature_s)].into_iter().find(|(_, value)| {
        let fits = big_endian(value).is_some_and(|value| value != [0; 48] && value < P384_ORDER);
        !fits
    });
    scene.judge(
        bad.is_none(),
        || "R and S between 1 and the order of P-384".into(),
        || bad.map_or_else(|| "in range".into(), |(name, _)| format!("out of range in {name}")),
    )
}

/// ECDSA P-384 with SHA-384 over bytes 0x000–0x29F.
pub(super) fn signature(scene: &Scene<'_>) -> Finding {
    let Some(endorsement) = scene.endorsement else { return Finding::NotReached };
    let holds = signature_bytes(scene.report)
        .is_some_and(|signature| ecdsa_p384_sha384(endorsement.point(), scene.report.signed_bytes(), &signature));
    scene.judge(
        holds,
        || format!("one by the {} of the certificate", endorsement.kind()),
        || if holds { "valid" } else { "not valid" }.to_owned(),
    )
}

/// R and S as 96 big-endian bytes; none where one does not fit.
fn signature_bytes(report: &Report) -> Option<[u8; 96]> {
    let mut bytes = [0; 96];
    bytes[..48].copy_from_slice(&big_endian(&report.fields().signature_r)?);
    bytes[48..].copy_from_slice(&big_endian(&report.fields().signature_s)?);
    Some(bytes)
}

/// A report's 72-byte little-endian integer as the 48 bytes of P-384; none if it does not fit.
fn big_endian(little: &[u8; 72]) -> Option<[u8; 48]> {
    let (low, high) = little.split_first_chunk::<48>()?;
    let mut bytes = *low;
    bytes.reverse();
    high.iter().all(|byte| *byte == 0).then_some(bytes)
}

pub(super) fn report_data(scene: &Scene<'_>) -> Finding {
    let (got, expected) = (scene.fields().report_data, scene.expected.report_data);
    scene.judge(got == expected, || expected.to_string(), || got.to_string())
}
