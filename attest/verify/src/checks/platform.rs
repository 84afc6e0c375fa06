//! What a genuine report says about the machine: its family, firmware, settings and chip.

use coffer_evidence::{ChipId, Family, VekKind};

use super::key::is_zero;
use super::{Finding, Scene, guest, listed};
use crate::reference::MILAN_RISK;

pub(super) fn tcb_floor_missing(scene: &Scene<'_>) -> Finding {
    let got = scene.expected.reference_values;
    scene.judge(got.is_some(), || "a project policy with a TCB floor".into(), || if got.is_some() { "set" } else { "missing" }.to_owned())
}

/// Root, CPUID and certificate name one family. Version 2 reports name no CPUID.
pub(super) fn family_mismatch(scene: &Scene<'_>) -> Finding {
    let Some(endorsement) = scene.endorsement else { return Finding::NotReached };
    let (anchor, cpuid) = (endorsement.family(), scene.fields().cpuid);
    let product = &endorsement.extensions().product;
    let holds = cpuid.is_none_or(|cpuid| Family::of_cpuid(cpuid) == Some(anchor)) && Family::of_product(product) == Some(anchor);
    scene.judge(
        holds,
        || format!("{anchor} everywhere, as the root says"),
        || {
            let cpuid = cpuid.map_or_else(|| "of no CPUID".into(), |cpuid| cpuid.to_string());
            format!("{cpuid} in the report, `{}` in the certificate", product.escape_debug())
        },
    )
}

pub(super) fn family(scene: &Scene<'_>) -> Finding {
    let Some((family, values)) = scene.family() else { return Finding::NotReached };
    let accepted = |values: &crate::FamilyValues| family != Family::Milan || values.risk_accepted.as_deref() == Some(MILAN_RISK);
    let expected = || match values {
        Some(_) => format!("one whose risk is accepted ({MILAN_RISK})"),
        None => format!("one of [{}]", listed(scene.values().families.taken().map(|(family, _)| family))),
    };
    scene.judge(values.is_some_and(accepted), expected, || family.to_string())
}

/// The key is derived from what firmware reports, which cannot be newer than what runs.
pub(super) fn certificate_current_tcb(scene: &Scene<'_>) -> Finding {
    let Some(endorsement) = scene.endorsement else { return Finding::NotReached };
    let (got, current) = (endorsement.extensions().tcb, scene.fields().current_tcb);
    scene.judge(current.is_at_least(&got), || format!("at most {current} (current)"), || got.to_string())
}

/// REPORTED_TCB ≤ COMMITTED_TCB ≤ CURRENT_TCB, component by component: SNP_CONFIG refuses to report more than is committed, and
/// SNP_COMMIT commits what runs (AMD 56860, commands SNP_CONFIG and SNP_COMMIT). They need not be equal: real hosts report less than
/// they run for months. LAUNCH_TCB stands apart: firmware that was not committed may be rolled back under a running guest.
pub(super) fn tcb_order(scene: &Scene<'_>) -> Finding {
    let [(_, reported), (_, committed), (_, current), _] = scene.tcbs();
    let got = || format!("reported {reported}; committed {committed}; current {current}");
    scene.judge(committed.is_at_least(&reported) && current.is_at_least(&committed), || "reported ≤ committed ≤ current".into(), got)
}

pub(super) fn tcb_floor(scene: &Scene<'_>) -> Finding {
    match scene.family() {
        None | Some((_, None)) => Finding::NotReached,
        // Values that were built by hand and never checked: four numbers are no floor under Turin's five.
        Some((family, Some(values))) if (family == Family::Turin) != values.tcb_floor.fmc.is_some() => {
            let expected = format!("at least {}, which is no TCB of {family}", values.tcb_floor);
            Finding::Fail { expected, got: scene.fields().reported_tcb.to_string() }
        }
        Some((_, Some(values))) => scene.at_least(&values.tcb_floor),
    }
}

pub(super) fn minimum_firmware(scene: &Scene<'_>) -> Finding {
    let Some((_, Some(values))) = scene.family() else { return Finding::NotReached };
    let Some(minimum) = values.minimum_firmware else { return Finding::NotAsked };
    let fields = scene.fields();
    let (current, committed) = (fields.current_version, fields.committed_version);
    let got = || format!("{current} (current), {committed} (committed)");
    scene.judge(current >= minimum && committed >= minimum, || format!("at least {minimum}"), got)
}

pub(super) fn mitigations(scene: &Scene<'_>) -> Finding {
    let Some((_, Some(values))) = scene.family() else { return Finding::NotReached };
    let fields = scene.fields();
    let asked = [
        ("launch", values.launch_mitigations, fields.launch_mit_vector),
        ("current", values.current_mitigations, fields.current_mit_vector),
    ];
    if asked.iter().all(|(_, bits, _)| bits.is_none()) {
        return Finding::NotAsked;
    }
    let lacks = |(_, bits, got): &(&str, Option<u64>, Option<u64>)| bits.is_some_and(|bits| got.is_none_or(|got| got & bits != bits));
    let got = |got: Option<u64>| got.map_or_else(|| "none".to_owned(), |got| format!("{got:#x}"));
    match asked.into_iter().find(lacks) {
        Some((which, bits, vector)) => {
            Finding::Fail { expected: format!("with all of {:#x} ({which})", bits.unwrap_or(0)), got: format!("{} ({which})", got(vector)) }
        }
        None => scene.pass(|| listed(asked.map(|(which, _, vector)| format!("{} ({which})", got(vector))))),
    }
}

pub(super) fn platform_info(scene: &Scene<'_>) -> Finding {
    let got = scene.fields().platform_info;
    let bad = scene.values().platform.bits().into_iter().find(|(_, bit, rule)| !rule.allows(got >> bit & 1 == 1));
    scene.judge(bad.is_none(), || bad.map_or_else(String::new, guest::wanted), || format!("{got:#x}"))
}

/// MASK_CHIP_KEY, or CHIP_ID zero under a VCEK.
pub(super) fn masked_chip(scene: &Scene<'_>) -> Finding {
    let Some(endorsement) = scene.endorsement else { return Finding::NotReached };
    let (key, id) = (scene.fields().key_info.chip_key_masked(), endorsement.kind() == VekKind::Vcek && is_zero(&scene.fields().chip_id));
    let got = || match (key, id) {
        (true, true) => "hidden: MASK_CHIP_KEY set, CHIP_ID zero",
        (true, false) => "hidden: MASK_CHIP_KEY set",
        (false, true) => "hidden: CHIP_ID zero",
        (false, false) => "told",
    };
    scene.judge(!(key || id) || scene.values().masked_chip, || "told".into(), || got().to_owned())
}

pub(super) fn csp_id(scene: &Scene<'_>) -> Finding {
    let Some(endorsement) = scene.endorsement else { return Finding::NotReached };
    if endorsement.kind() == VekKind::Vcek {
        return Finding::NotAsked;
    }
    let (got, allowed) = (endorsement.extensions().csp_id.as_deref(), &scene.values().csp_ids);
    let holds = got.is_some_and(|got| allowed.iter().any(|csp| csp == got));
    let shown = || got.map_or_else(|| "none".into(), |got| got.escape_debug().to_string());
    scene.judge(holds, || format!("one of [{}]", listed(allowed)), shown)
}

pub(super) fn chip_allowed(scene: &Scene<'_>) -> Finding {
    chip_among(scene, scene.values().chips.allow.as_deref())
}

/// The chip is known, and one of these if there is a list.
pub(super) fn chip_among(scene: &Scene<'_>, allowed: Option<&[ChipId]>) -> Finding {
    let Some(endorsement) = scene.endorsement else { return Finding::NotReached };
    let Some(allowed) = allowed else { return Finding::NotAsked };
    let got = endorsement.chip();
    let holds = got.is_some_and(|got| allowed.contains(got));
    scene.judge(holds, || format!("one of the {} listed", allowed.len()), || shown(got))
}

pub(super) fn chip_denied(scene: &Scene<'_>) -> Finding {
    let denied = &scene.values().chips.deny;
    chip_absent(scene, denied.is_empty(), |chip| denied.contains(chip))
}

pub(super) fn chip_revoked(scene: &Scene<'_>) -> Finding {
    let revoked = &scene.expected.revoked.chips;
    chip_absent(scene, revoked.is_empty(), |chip| revoked.contains(chip))
}

/// The chip, where it is known, is not one of these. A VLEK hides it: no list of chips reaches there.
fn chip_absent(scene: &Scene<'_>, none: bool, bad: impl FnOnce(&ChipId) -> bool) -> Finding {
    let Some(endorsement) = scene.endorsement else { return Finding::NotReached };
    let (false, Some(chip)) = (none, endorsement.chip()) else { return Finding::NotAsked };
    scene.judge(!bad(chip), || "any other".into(), || chip.to_string())
}

fn shown(chip: Option<&ChipId>) -> String {
    chip.map_or_else(|| "unknown: a VLEK hides it".into(), ToString::to_string)
}
