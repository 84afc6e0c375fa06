//! Every bit of a report turned over, one at a time, and signed by the processor: accepted, or refused by exactly the rule that guards
//! that bit. What each bit means is written down here once more, from the table ATTESTATION_REPORT of AMD 56860.

use std::collections::BTreeMap;

use coffer_evidence::{Family, GuestPolicy, KeyDigest, KeyInfo, Report, ReportFields, TcbVersion};
use coffer_verify::{Abi, BitRule, BlockId, Rule, endorse, verify_endorsed};

use crate::scene::{NOW, Scene};

/// A scene that asks for everything that can be asked for, and gets exactly that.
fn tight(family: Family) -> Scene {
    let mut scene = Scene::new(family);
    let fields = &mut scene.fields;
    fields.guest_svn = 0x0F0F_0F0F;
    fields.policy = GuestPolicy(0x3_0137);
    (fields.family_id, fields.image_id) = ([0x5A; 16], [0xA5; 16]);
    (fields.id_key_digest, fields.author_key_digest) = (KeyDigest::new([0x77; 48]), KeyDigest::new([0x78; 48]));
    fields.key_info = KeyInfo(1);
    let fields = scene.fields.clone();
    let floor = scene.family();
    floor.minimum_firmware = Some(fields.current_version);
    (floor.launch_mitigations, floor.current_mitigations) = (fields.launch_mit_vector, fields.current_mit_vector);
    let values = scene.values();
    values.minimum_guest_svn = Some(fields.guest_svn);
    (values.family_id, values.image_id) = (Some(BlockId::new(fields.family_id)), Some(BlockId::new(fields.image_id)));
    (values.id_keys, values.author_keys) = (Some(vec![fields.id_key_digest]), Some(vec![fields.author_key_digest]));
    let as_is = |bit: u64| if bit & 1 == 1 { BitRule::Required } else { BitRule::Forbidden };
    let info = |bit: u32| as_is(fields.platform_info >> bit);
    let rules = &mut values.platform;
    (rules.smt, rules.tsme, rules.ecc, rules.rapl_disabled) = (info(0), info(1), info(2), info(3));
    (rules.ciphertext_hiding, rules.alias_check, rules.iommu_write_safe, rules.tio) = (info(4), info(5), info(6), info(7));
    let rules = &mut values.guest_policy;
    rules.smt = BitRule::Required;
    (rules.single_socket, rules.cxl, rules.aes_256_xts) = (BitRule::Forbidden, BitRule::Forbidden, BitRule::Forbidden);
    (rules.rapl_disabled, rules.ciphertext_hiding, rules.page_swap_disabled) = (BitRule::Forbidden, BitRule::Forbidden, BitRule::Forbidden);
    rules.minimum_abi = Some(Abi { major: 1, minor: 0x37 });
    scene
}

/// Which rule guards a bit, knowing what was said before and what is said now. `None`: the report is as good as before.
fn guard(at: usize, bit: u32, before: &ReportFields, now: &ReportFields, family: Family) -> Option<Rule> {
    let lower = |rule: Rule, now: u64, before: u64| (now < before).then_some(rule);
    let floor = |rule: Rule, now: &TcbVersion, before: &TcbVersion| (!now.is_at_least(before)).then_some(rule);
    let turin = family == Family::Turin;
    let in_tcb = |base: usize| if turin { matches!(at - base, 4..7) } else { matches!(at - base, 2..6) };
    match at {
        0x000..0x004 => Some(Rule::ReportVersion),
        0x004..0x008 => lower(Rule::GuestSvn, now.guest_svn.into(), before.guest_svn.into()),
        0x008 | 0x009 => lower(Rule::GuestPolicyAbi, u64::from(now.policy.0 as u16), u64::from(before.policy.0 as u16)),
        0x00A..0x010 => match (at - 8) as u32 * 8 + bit {
            17 | 26.. => Some(Rule::PolicyReserved),
            18 => Some(Rule::MigrationPolicy),
            19 => Some(Rule::DebugPolicy),
            _ => Some(Rule::GuestPolicy),
        },
        0x010..0x020 => Some(Rule::FamilyId),
        0x020..0x030 => Some(Rule::ImageId),
        0x030..0x034 => Some(Rule::Vmpl),
        0x034..0x038 => Some(Rule::SignatureAlgorithm),
        0x038..0x040 if in_tcb(0x038) => Some(Rule::ReservedBytes),
        0x038..0x040 => floor(Rule::CertificateCurrentTcb, &now.current_tcb, &before.current_tcb),
        0x040 => Some(Rule::PlatformInfo),
        0x041..0x048 => None,
        0x048 => Some(match bit {
            0 => Rule::AuthorKey,
            1 => Rule::MaskedChip,
            2..5 => Rule::SigningKey,
            _ => Rule::ReservedBytes,
        }),
        0x049..0x050 | 0x18B..0x1A0 | 0x1EB | 0x1EF | 0x208..0x2A0 => Some(Rule::ReservedBytes),
        0x050..0x090 => Some(Rule::ReportData),
        0x090..0x0C0 => Some(Rule::LaunchDigest),
        0x0C0..0x0E0 => Some(Rule::HostData),
        0x0E0..0x110 => Some(Rule::IdKey),
        0x110..0x140 => Some(Rule::AuthorKey),
        0x140..0x160 => None,
        0x160..0x180 => Some(Rule::MigrationAgent),
        0x180..0x188 if in_tcb(0x180) => Some(Rule::ReservedBytes),
        0x180..0x188 => Some(Rule::CertificateTcb),
        // Another CPUID family than Turin's: the TCB reads differently, and not as the certificate's.
        0x188 if turin => Some(Rule::CertificateTcb),
        0x188 | 0x189 => (now.cpuid.and_then(Family::of_cpuid) != Some(family)).then_some(Rule::FamilyMismatch),
        0x18A => None,
        0x1A0..0x1E0 => Some(Rule::ChipId),
        0x1E0..0x1E8 if in_tcb(0x1E0) => Some(Rule::ReservedBytes),
        // Reported and current are what it was: there is no room on either side.
        0x1E0..0x1E8 => Some(Rule::TcbOrder),
        0x1E8..0x1EB => (now.current_version < before.current_version).then_some(Rule::MinimumFirmware),
        0x1EC..0x1EF => (now.committed_version < before.committed_version).then_some(Rule::MinimumFirmware),
        0x1F0..0x1F8 if in_tcb(0x1F0) => Some(Rule::ReservedBytes),
        0x1F0..0x1F8 => floor(Rule::TcbFloor, &now.launch_tcb, &before.launch_tcb),
        0x1F8..0x208 if before.version < 5 => Some(Rule::ReservedBytes),
        0x1F8..0x200 => lower(Rule::Mitigations, now.launch_mit_vector?, before.launch_mit_vector?),
        0x200..0x208 => lower(Rule::Mitigations, now.current_mit_vector?, before.current_mit_vector?),
        // The signature, which is not signed again.
        0x2A0..0x2D0 | 0x2E8..0x318 => Some(Rule::Signature),
        0x2D0..0x2E8 | 0x318..0x330 => Some(Rule::SignatureRange),
        _ => Some(Rule::ReservedBytes),
    }
}

#[test]
fn every_bit_of_a_report_is_guarded_by_its_rule() {
    let mut tally = BTreeMap::<&str, usize>::new();
    for family in [Family::Genoa, Family::Turin] {
        let scene = tight(family);
        let asp = scene.asp();
        let good = scene.evidence_by(&asp);
        let (expected, endorsement) = (scene.expected(), endorse(&good, &scene.roots).unwrap());
        assert!(verify_endorsed(&good.report, &endorsement, &expected, NOW).is_ok());
        for position in 0..Report::LEN * 8 {
            let (at, bit) = (position / 8, (position % 8) as u32);
            let mut bytes = *good.report.as_bytes();
            bytes[at] ^= 1 << bit;
            if at < 0x2A0 {
                bytes = asp.sign_bytes(bytes).unwrap();
            }
            let Ok(report) = Report::parse(&bytes) else {
                assert!(at < 4, "{at:#x} bit {bit} is the version");
                continue;
            };
            let verdict = verify_endorsed(&report, &endorsement, &expected, NOW).err().map(|reject| reject.rule());
            let expected = guard(at, bit, &scene.fields, report.fields(), family);
            assert_eq!(verdict, expected, "{family} {at:#x} bit {bit}");
            *tally.entry(verdict.map_or("accepted", Rule::code)).or_default() += 1;
        }
    }
    let accepted = tally["accepted"];
    let refused = tally.values().sum::<usize>() - accepted;
    assert!(refused > 17_000 && accepted < 1_000, "{tally:?}");
}
