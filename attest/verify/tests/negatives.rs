//! Evidence that is right but for one thing, made by the simulator: refused by exactly the rule that thing breaks.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use coffer_evidence::{
    CertKind, ChipId, Cpuid, Family, FirmwareVersion, GuestPolicy, HostData, KeyDigest, KeyInfo, LaunchDigest, Report, ReportData,
    ReportId, SnpEvidence, TcbVersion, VekKind,
};
use coffer_simulator::ASK_SERIAL;
use coffer_verify::{
    Abi, BitRule, BlockId, CrlRule, Outcome, Roots, Rule, UnixTime, certificates_digest, endorse, verify, verify_endorsed,
};
use proptest::prelude::*;

use crate::scene::{CSP, NOW, OTHER_GENOA, Scene, entry, flip, rule};

/// Spoils a scene.
pub type Spoil = fn(&mut Scene);

const KEY: KeyDigest = KeyDigest::new([0x77; 48]);
const OTHER_KEY: KeyDigest = KeyDigest::new([0x78; 48]);

/// (rule, what is wrong). Each spoils an honest Genoa scene. Rules in the order they are checked.
const CASES: &[(Rule, &str, Spoil)] = &[
    (Rule::ReportVersion, "version 2, off by default", |s| {
        s.fields.version = 2;
        s.fields.cpuid = None;
    }),
    (Rule::ReportVersion, "version 5 where only 3 is taken", |s| {
        s.fields.version = 5;
        s.values().report_versions = vec![3];
    }),
    (Rule::SigningKey, "report says VLEK, off by default", |s| s.fields.key_info = KeyInfo(1 << 2)),
    (Rule::SigningKey, "report says it is not signed", |s| s.fields.key_info = KeyInfo(7 << 2)),
    (Rule::SigningKey, "report names a reserved key", |s| s.fields.key_info = KeyInfo(3 << 2)),
    (Rule::SigningKey, "a VCEK where only VLEKs are taken", |s| {
        s.values().signing_keys = vec![VekKind::Vlek];
        s.values().csp_ids = vec![CSP.into()];
    }),
    (Rule::VekCount, "no certificates", |s| s.spoil = Some(|e| e.certificates.clear())),
    (Rule::VekCount, "no VCEK", |s| s.spoil = Some(|e| e.certificates.retain(|c| c.kind != CertKind::Vcek))),
    (Rule::VekCount, "two VCEKs", |s| {
        s.spoil = Some(|e| {
            let twin = e.certificates[0].clone();
            e.certificates.push(twin);
        });
    }),
    (Rule::VekCount, "two VLEKs and no VCEK", |s| {
        s.spoil = Some(|e| {
            entry(e, CertKind::Vcek).kind = CertKind::Vlek;
            let twin = e.certificates[0].clone();
            e.certificates.push(twin);
        });
    }),
    (Rule::Certificate, "empty VCEK", |s| s.spoil = Some(|e| entry(e, CertKind::Vcek).data.clear())),
    (Rule::Certificate, "truncated VCEK", |s| {
        s.spoil = Some(|e| {
            entry(e, CertKind::Vcek).data.pop();
        });
    }),
    (Rule::Certificate, "a byte after the VCEK", |s| s.spoil = Some(|e| entry(e, CertKind::Vcek).data.push(0))),
    (Rule::Certificate, "VCEK is no DER", |s| s.spoil = Some(|e| entry(e, CertKind::Vcek).data = vec![0xFF; 1300])),
    (Rule::Certificate, "VCEK is broken PEM", |s| {
        s.spoil = Some(|e| entry(e, CertKind::Vcek).data = b"-----BEGIN CERTIFICATE-----\nAA".to_vec());
    }),
    (Rule::Certificate, "intermediate is no DER", |s| s.spoil = Some(|e| entry(e, CertKind::Ask).data = vec![0x30; 900])),
    (Rule::Certificate, "key on another curve", |s| {
        // The last byte of secp384r1's identifier: 1.3.132.0.34 becomes 1.3.132.0.35, P-521.
        s.spoil = Some(|e| replace(&mut entry(e, CertKind::Vcek).data, &[0x2B, 0x81, 4, 0, 0x22], &[0x2B, 0x81, 4, 0, 0x23]));
    }),
    (Rule::Certificate, "more extensions than any certificate has", |s| s.spec.extra = extensions(64)),
    (Rule::Certificate, "as many extensions as fit", |s| s.spec.extra = extensions(6000)),
    (Rule::Certificate, "certificate without its TCB", |s| {
        // AMD's arc 1.3.6.1.4.1.3704.1.3.8 (microcode) becomes .3.18, which nobody asks for.
        s.spoil = Some(|e| replace(&mut entry(e, CertKind::Vcek).data, &[0x9C, 0x78, 1, 3, 8], &[0x9C, 0x78, 1, 3, 18]));
    }),
    // What may be wrong with the chain itself is in chains.rs; one of each suffices here.
    (Rule::Chain, "no intermediate", |s| s.spoil = Some(|e| e.certificates.retain(|c| c.kind != CertKind::Ask))),
    (Rule::Chain, "simulated evidence at a production service", |s| s.roots = Roots::amd().unwrap()),
    (Rule::CertificateKind, "report signed by a VCEK, certificate of a VLEK by the same intermediate's root", |s| {
        let vlek = Scene::vlek();
        s.spec = vlek.spec;
        s.intermediate = vlek.intermediate;
        s.spoil = Some(|e| {
            let mut bytes = *e.report.as_bytes();
            bytes[0x48] = 0;
            e.report = Report::parse(&bytes).unwrap();
        });
    }),
    (Rule::CertificateKind, "report says VLEK, certificate of a VCEK", |s| {
        s.fields.key_info = KeyInfo(1 << 2);
        s.fields.chip_id = ChipId::new([0; 64]);
        s.values().signing_keys.push(VekKind::Vlek);
        s.values().csp_ids = vec![CSP.into()];
    }),
    (Rule::CertificateDates, "VCEK not valid yet", |s| s.spec.not_before = UnixTime(NOW.0 + 1)),
    (Rule::CertificateDates, "VCEK expired", |s| s.spec.not_after = UnixTime(NOW.0 - 1)),
    (Rule::CertificateDates, "intermediate expired", |s| {
        s.now = UnixTime(NOW.0 + 26 * 365 * 86_400);
        s.spec.not_after = s.now;
    }),
    (Rule::CertificateDates, "intermediate not valid yet", |s| {
        s.now = UnixTime(NOW.0 - 2 * 86_400);
        s.spec.not_before = s.now;
    }),
    (Rule::Crl, "no list where one is required", |s| s.values().crl = CrlRule::Required),
    (Rule::Crl, "the next list is overdue where a current one is required", |s| {
        s.values().crl = CrlRule::Required;
        s.add_crl(NOW.0 - 86_401, vec![]);
    }),
    (Rule::Crl, "a list of the future where a current one is required", |s| {
        s.values().crl = CrlRule::Required;
        s.add_crl(NOW.0 + 1, vec![]);
    }),
    (Rule::CertificateRevoked, "the intermediate is revoked", |s| s.add_crl(NOW.0, vec![ASK_SERIAL])),
    (Rule::CertificateRevoked, "the intermediate is revoked by an old list", |s| s.add_crl(1, vec![7, ASK_SERIAL])),
    (Rule::CertificateRevoked, "the intermediate is revoked, and a current list is required", |s| {
        s.values().crl = CrlRule::Required;
        s.add_crl(NOW.0, vec![ASK_SERIAL]);
    }),
    (Rule::CertificateTcb, "certificate for an older bootloader", |s| s.spec.tcb.bootloader -= 1),
    (Rule::CertificateTcb, "certificate for a newer tee", |s| s.spec.tcb.tee += 1),
    (Rule::CertificateTcb, "certificate for an older snp", |s| s.spec.tcb.snp -= 1),
    (Rule::CertificateTcb, "certificate for newer microcode", |s| s.spec.tcb.microcode += 1),
    (Rule::CertificateTcb, "certificate with an fmc a Genoa has not", |s| s.spec.tcb.fmc = Some(0)),
    (Rule::CertificateTcb, "report claims a newer snp than its key", |s| s.fields.reported_tcb.snp += 1),
    (Rule::CertificateTcb, "report says Turin, so its TCB reads differently", |s| {
        s.fields.cpuid = Some(Cpuid { family: 0x1A, model: 2, stepping: 1 });
    }),
    (Rule::ChipId, "certificate of another chip", |s| s.spec.hwid[63] ^= 1),
    (Rule::ChipId, "certificate names no chip", |s| s.spec.hwid.clear()),
    (Rule::ChipId, "certificate names no chip, and the report hides it", |s| {
        s.spec.hwid.clear();
        s.fields.chip_id = ChipId::new([0; 64]);
        s.values().masked_chip = true;
    }),
    (Rule::ChipId, "certificate names 8 bytes of a chip", |s| s.spec.hwid.truncate(8)),
    (Rule::ChipId, "report of another chip", |s| {
        let mut chip = *s.fields.chip_id.as_bytes();
        chip[0] ^= 1;
        s.fields.chip_id = ChipId::new(chip);
    }),
    (Rule::SignatureAlgorithm, "no signature algorithm", |s| s.fields.signature_algo = 0),
    (Rule::SignatureAlgorithm, "unknown signature algorithm", |s| s.fields.signature_algo = 2),
    (Rule::SignatureRange, "r longer than P-384", |s| s.spoil = Some(|e| flip(e, 0x2A0 + 48))),
    (Rule::SignatureRange, "s longer than P-384", |s| s.spoil = Some(|e| flip(e, 0x2E8 + 71))),
    (Rule::SignatureRange, "r and s zero", |s| s.spoil = Some(|e| set_signature(e, &[0; 48], &[0; 48]))),
    (Rule::SignatureRange, "s zero", |s| s.spoil = Some(|e| set_signature(e, &[1; 48], &[0; 48]))),
    (Rule::SignatureRange, "r is the order", |s| s.spoil = Some(|e| set_signature(e, &order(0), &[1; 48]))),
    (Rule::SignatureRange, "s is above the order", |s| s.spoil = Some(|e| set_signature(e, &[1; 48], &order(1)))),
    (Rule::Signature, "r and s one below the order", |s| s.spoil = Some(|e| set_signature(e, &order(-1), &order(-1)))),
    (Rule::Signature, "measurement changed after signing", |s| s.spoil = Some(|e| flip(e, 0x90))),
    (Rule::Signature, "report data changed after signing", |s| s.spoil = Some(|e| flip(e, 0x50))),
    (Rule::Signature, "reserved byte changed after signing", |s| s.spoil = Some(|e| flip(e, 0x29F))),
    (Rule::Signature, "r changed", |s| s.spoil = Some(|e| flip(e, 0x2A0))),
    (Rule::Signature, "s changed", |s| s.spoil = Some(|e| flip(e, 0x2E8))),
    (Rule::Signature, "r and s exchanged", |s| {
        s.spoil = Some(|e| {
            let (r, s) = (e.report.fields().signature_r, e.report.fields().signature_s);
            let half = |value: &[u8; 72]| core::array::from_fn(|i| value[i]);
            set_signature(e, &half(&s), &half(&r));
        });
    }),
    (Rule::ReportData, "another challenge", |s| s.report_data = ReportData::new([0x45; 64])),
    (Rule::ReportData, "last byte of the report data", |s| {
        let mut bytes = [0x44; 64];
        bytes[63] = 0;
        s.fields.report_data = ReportData::new(bytes);
    }),
    (Rule::ReservedBytes, "between KEY_INFO and REPORT_DATA", |s| s.bytes = Some(|b| b[0x4C] = 1)),
    (Rule::ReservedBytes, "after CPUID", |s| s.bytes = Some(|b| b[0x18B] = 1)),
    (Rule::ReservedBytes, "before CHIP_ID", |s| s.bytes = Some(|b| b[0x19F] = 0x80)),
    (Rule::ReservedBytes, "in REPORTED_TCB", |s| s.bytes = Some(|b| b[0x182] = 1)),
    (Rule::ReservedBytes, "in CURRENT_TCB", |s| s.bytes = Some(|b| b[0x3D] = 1)),
    (Rule::ReservedBytes, "after the current version", |s| s.bytes = Some(|b| b[0x1EB] = 1)),
    (Rule::ReservedBytes, "after the committed version", |s| s.bytes = Some(|b| b[0x1EF] = 1)),
    (Rule::ReservedBytes, "mitigations in a version 3 report", |s| s.bytes = Some(|b| b[0x1F8] = 1)),
    (Rule::ReservedBytes, "last signed byte", |s| s.bytes = Some(|b| b[0x29F] = 1)),
    (Rule::ReservedBytes, "after the signature", |s| s.spoil = Some(|e| flip(e, 0x330))),
    (Rule::ReservedBytes, "last byte", |s| s.spoil = Some(|e| flip(e, Report::LEN - 1))),
    (Rule::ReservedBytes, "in KEY_INFO", |s| s.fields.key_info = KeyInfo(1 << 5)),
    (Rule::ReservedBytes, "last bit of KEY_INFO", |s| s.fields.key_info = KeyInfo(1 << 31)),
    (Rule::Vmpl, "VMPL 1", |s| s.fields.vmpl = 1),
    (Rule::Vmpl, "VMPL 3", |s| s.fields.vmpl = 3),
    (Rule::Vmpl, "VMPL the host makes up", |s| s.fields.vmpl = u32::MAX),
    (Rule::DebugPolicy, "debugging allowed", |s| s.fields.policy = GuestPolicy(0xB_0000)),
    (Rule::MigrationPolicy, "migration allowed", |s| s.fields.policy = GuestPolicy(0x7_0000)),
    (Rule::DebugPolicy, "both allowed", |s| s.fields.policy = GuestPolicy(u64::MAX)),
    (Rule::PolicyReserved, "bit 17 clear", |s| s.fields.policy = GuestPolicy(0x1_0000)),
    (Rule::PolicyReserved, "bit 26 set", |s| s.fields.policy = GuestPolicy(0x3_0000 | 1 << 26)),
    (Rule::PolicyReserved, "bit 63 set", |s| s.fields.policy = GuestPolicy(0x3_0000 | 1 << 63)),
    (Rule::GuestPolicy, "CXL allowed, forbidden by default", |s| s.fields.policy = GuestPolicy(0x3_0000 | 1 << 21)),
    (Rule::GuestPolicy, "SMT forbidden by the project", |s| s.values().guest_policy.smt = BitRule::Forbidden),
    (Rule::GuestPolicy, "one socket required", |s| s.values().guest_policy.single_socket = BitRule::Required),
    (Rule::GuestPolicy, "AES-256-XTS required", |s| s.values().guest_policy.aes_256_xts = BitRule::Required),
    (Rule::GuestPolicy, "RAPL must be off", |s| s.values().guest_policy.rapl_disabled = BitRule::Required),
    (Rule::GuestPolicy, "ciphertext must be hidden", |s| s.values().guest_policy.ciphertext_hiding = BitRule::Required),
    (Rule::GuestPolicy, "page swap must be off", |s| s.values().guest_policy.page_swap_disabled = BitRule::Required),
    (Rule::GuestPolicy, "page swap may not be off", |s| {
        s.fields.policy = GuestPolicy(0x3_0000 | 1 << 25);
        s.values().guest_policy.page_swap_disabled = BitRule::Forbidden;
    }),
    (Rule::GuestPolicyAbi, "minor too low", |s| {
        s.fields.policy = GuestPolicy(0x3_0136);
        s.values().guest_policy.minimum_abi = Some(Abi { major: 1, minor: 0x37 });
    }),
    (Rule::GuestPolicyAbi, "major too low", |s| {
        s.fields.policy = GuestPolicy(0x3_00FF);
        s.values().guest_policy.minimum_abi = Some(Abi { major: 1, minor: 0 });
    }),
    (Rule::TcbFloorMissing, "nobody set a policy", |s| s.values = None),
    (Rule::FamilyMismatch, "CPUID of a Milan", |s| s.fields.cpuid = Some(Cpuid { family: 0x19, model: 1, stepping: 1 })),
    (Rule::FamilyMismatch, "CPUID of no family we know", |s| s.fields.cpuid = Some(Cpuid { family: 0x19, model: 0x50, stepping: 0 })),
    (Rule::FamilyMismatch, "no CPUID in a version 3 report", |s| s.fields.cpuid = None),
    (Rule::FamilyMismatch, "certificate of a Milan", |s| s.spec.product = "Milan-B0".into()),
    (Rule::FamilyMismatch, "certificate of no family we know", |s| s.spec.product = "Genoa2".into()),
    (Rule::Family, "family not taken", |s| {
        let genoa = s.values().families.genoa.take().unwrap();
        s.values().families.turin = Some(genoa);
    }),
    (Rule::Family, "no family taken", |s| s.values().families.genoa = None),
    (Rule::CertificateCurrentTcb, "key newer than what runs", |s| s.fields.current_tcb.microcode -= 1),
    (Rule::CertificateCurrentTcb, "newer in one component, older in another", |s| {
        s.fields.current_tcb.microcode = u8::MAX;
        s.fields.current_tcb.snp -= 1;
    }),
    (Rule::TcbOrder, "reported above committed", |s| s.fields.committed_tcb.bootloader -= 1),
    (Rule::TcbOrder, "committed above current", |s| s.fields.committed_tcb.microcode += 1),
    (Rule::TcbFloor, "launch TCB below", |s| s.fields.launch_tcb.snp -= 1),
    (Rule::TcbFloor, "reported TCB below, as its certificate says", |s| {
        s.fields.reported_tcb.snp -= 1;
        s.spec.tcb.snp -= 1;
    }),
    (Rule::TcbFloor, "committed TCB below, current not", |s| {
        s.family().tcb_floor.microcode += 1;
        s.fields.current_tcb.microcode += 1;
        s.fields.launch_tcb.microcode += 1;
    }),
    (Rule::TcbFloor, "all at once below the floor", |s| s.family().tcb_floor.tee += 1),
    (Rule::TcbFloor, "floor with an fmc", |s| s.family().tcb_floor.fmc = Some(0)),
    (Rule::MinimumFirmware, "current too old", |s| {
        s.family().minimum_firmware = Some(FirmwareVersion { major: 1, minor: 55, build: 41 });
    }),
    (Rule::MinimumFirmware, "only the committed one too old", |s| {
        s.family().minimum_firmware = Some(s.fields.committed_version);
        s.fields.committed_version.build -= 1;
    }),
    (Rule::MinimumFirmware, "only the current one too old, by its minor", |s| {
        s.family().minimum_firmware = Some(s.fields.current_version);
        s.fields.current_version = FirmwareVersion { minor: s.fields.current_version.minor - 1, build: 255, ..s.fields.current_version };
    }),
    (Rule::Mitigations, "a report without mitigations", |s| s.family().current_mitigations = Some(1)),
    (Rule::Mitigations, "a report without mitigations, none of the bits asked for", |s| s.family().launch_mitigations = Some(0)),
    (Rule::Mitigations, "one missing at launch", |s| {
        mitigated(s, 0b0111, 0b1111);
        s.family().launch_mitigations = Some(0b1001);
    }),
    (Rule::Mitigations, "one missing now", |s| {
        mitigated(s, 0b1111, 0b0111);
        s.family().current_mitigations = Some(0b1001);
    }),
    (Rule::PlatformInfo, "no alias check, required by default", |s| s.fields.platform_info = 0x5),
    (Rule::PlatformInfo, "SMT on", |s| s.values().platform.smt = BitRule::Forbidden),
    (Rule::PlatformInfo, "TSME off", |s| s.values().platform.tsme = BitRule::Required),
    (Rule::PlatformInfo, "ECC off", |s| {
        s.fields.platform_info = 0x21;
        s.values().platform.ecc = BitRule::Required;
    }),
    (Rule::PlatformInfo, "RAPL on", |s| s.values().platform.rapl_disabled = BitRule::Required),
    (Rule::PlatformInfo, "ciphertext not hidden", |s| s.values().platform.ciphertext_hiding = BitRule::Required),
    (Rule::PlatformInfo, "IOMMU not write safe", |s| s.values().platform.iommu_write_safe = BitRule::Required),
    (Rule::PlatformInfo, "trusted I/O on", |s| {
        s.fields.platform_info |= 0x80;
        s.values().platform.tio = BitRule::Forbidden;
    }),
    (Rule::MaskedChip, "CHIP_ID zero", |s| s.fields.chip_id = ChipId::new([0; 64])),
    (Rule::MaskedChip, "MASK_CHIP_KEY", |s| s.fields.key_info = KeyInfo(2)),
    (Rule::ChipAllowed, "not on the project's list", |s| s.values().chips.allow = Some(vec![ChipId::new([1; 64])])),
    (Rule::ChipDenied, "on the project's deny-list", |s| s.values().chips.deny = vec![ChipId::new([1; 64]), s.fields.chip_id]),
    (Rule::ChipDenied, "on the deny-list, and hidden in the report", |s| {
        s.values().masked_chip = true;
        s.values().chips.deny = vec![s.fields.chip_id];
        s.fields.chip_id = ChipId::new([0; 64]);
    }),
    (Rule::ChipDenied, "both allowed and denied", |s| {
        s.values().chips.allow = Some(vec![s.fields.chip_id]);
        s.values().chips.deny = vec![s.fields.chip_id];
    }),
    (Rule::ChipRevoked, "revoked service-wide", |s| {
        s.revoked.chips.insert(s.fields.chip_id);
    }),
    (Rule::ChipRevoked, "revoked, allowed by the project, hidden in the report", |s| {
        s.values().masked_chip = true;
        s.values().chips.allow = Some(vec![s.fields.chip_id]);
        s.revoked.chips.insert(s.fields.chip_id);
        s.fields.chip_id = ChipId::new([0; 64]);
    }),
    (Rule::FamilyId, "another FAMILY_ID", |s| {
        s.fields.family_id = [1; 16];
        s.values().family_id = Some(BlockId::new([2; 16]));
    }),
    (Rule::FamilyId, "no ID block", |s| s.values().family_id = Some(BlockId::new([2; 16]))),
    (Rule::ImageId, "another IMAGE_ID", |s| {
        s.fields.image_id = [1; 16];
        s.values().image_id = Some(BlockId::new([2; 16]));
    }),
    (Rule::GuestSvn, "GUEST_SVN below the project's minimum", |s| {
        s.fields.guest_svn = 6;
        s.values().minimum_guest_svn = Some(7);
    }),
    (Rule::IdKey, "no ID block", |s| s.values().id_keys = Some(vec![KEY])),
    (Rule::IdKey, "another ID key", |s| {
        s.fields.id_key_digest = OTHER_KEY;
        s.values().id_keys = Some(vec![KEY]);
    }),
    (Rule::IdKey, "no ID block, and a list that names no key", |s| s.values().id_keys = Some(vec![KeyDigest::new([0; 48])])),
    (Rule::AuthorKey, "no author key", |s| s.values().author_keys = Some(vec![KEY])),
    (Rule::AuthorKey, "another author key", |s| {
        (s.fields.author_key_digest, s.fields.key_info) = (OTHER_KEY, KeyInfo(1));
        s.values().author_keys = Some(vec![KEY]);
    }),
    (Rule::AuthorKey, "the right digest, but AUTHOR_KEY_EN clear", |s| {
        s.fields.author_key_digest = KEY;
        s.values().author_keys = Some(vec![KEY]);
    }),
    (Rule::KeyRevoked, "ID key revoked", |s| {
        s.fields.id_key_digest = KEY;
        s.revoked.keys.insert(KEY);
    }),
    (Rule::KeyRevoked, "author key revoked, though the project lists it", |s| {
        (s.fields.author_key_digest, s.fields.key_info) = (KEY, KeyInfo(1));
        s.values().author_keys = Some(vec![KEY]);
        s.revoked.keys.insert(KEY);
    }),
    (Rule::KeyRevoked, "revoked author key that the report says to ignore", |s| {
        s.fields.author_key_digest = KEY;
        s.revoked.keys.insert(KEY);
    }),
    (Rule::ReportId, "REPORT_ID zero", |s| s.fields.report_id = ReportId::new([0; 32])),
    (Rule::ReportId, "REPORT_ID all ones", |s| s.fields.report_id = ReportId::new([0xFF; 32])),
    (Rule::MigrationAgent, "a migration agent", |s| s.fields.report_id_ma = ReportId::new([9; 32])),
    (Rule::MigrationAgent, "REPORT_ID_MA zero", |s| s.fields.report_id_ma = ReportId::new([0; 32])),
    (Rule::HostData, "never enrolled, or revoked", |s| s.enrolled = None),
    (Rule::HostData, "another site's record", |s| s.enrolled().host_data = HostData::new([0x23; 32])),
    (Rule::HostData, "another HOST_DATA in the report", |s| s.fields.host_data = HostData::new([0; 32])),
    (Rule::LaunchDigest, "something else was launched", |s| s.fields.measurement = LaunchDigest::new([0x34; 48])),
    (Rule::LaunchDigest, "enrolled for no base", |s| s.enrolled().launch_digests.clear()),
    (Rule::LaunchDigestRevoked, "enrolled, and the base revoked", |s| {
        s.revoked.launch_digests.insert(s.fields.measurement);
    }),
    (Rule::EnrolledChip, "enrolled for another chip", |s| s.enrolled().chip_ids = Some(vec![ChipId::new([1; 64])])),
    (Rule::EnrolledChip, "enrolled for no chip", |s| s.enrolled().chip_ids = Some(vec![])),
    (Rule::EnrolledTcbFloor, "enrolled for newer microcode than the project asks for", |s| {
        s.enrolled().tcb_floor = Some(TcbVersion { microcode: s.platform.tcb.microcode + 1, ..s.platform.tcb });
    }),
    (Rule::EnrolledTcbFloor, "enrolled for a Turin's floor", |s| {
        s.enrolled().tcb_floor = Some(TcbVersion { fmc: Some(0), ..s.platform.tcb });
    }),
    (Rule::EnrolledGuestSvn, "GUEST_SVN below the enrollment's, at the project's", |s| {
        s.fields.guest_svn = 7;
        s.values().minimum_guest_svn = Some(7);
        s.enrolled().minimum_guest_svn = Some(8);
    }),
    (Rule::EnrolledIdKey, "no ID block", |s| s.enrolled().id_key_digest = Some(KEY)),
    (Rule::EnrolledIdKey, "another ID key", |s| {
        s.fields.id_key_digest = OTHER_KEY;
        s.enrolled().id_key_digest = Some(KEY);
    }),
    (Rule::EnrolledAuthorKey, "no author key", |s| s.enrolled().author_key_digest = Some(KEY)),
    (Rule::EnrolledAuthorKey, "another author key, though the project lists it", |s| {
        (s.fields.author_key_digest, s.fields.key_info) = (OTHER_KEY, KeyInfo(1));
        s.values().author_keys = Some(vec![KEY, OTHER_KEY]);
        s.enrolled().author_key_digest = Some(KEY);
    }),
    (Rule::EnrolledAuthorKey, "the right digest, but AUTHOR_KEY_EN clear", |s| {
        s.fields.author_key_digest = KEY;
        s.enrolled().author_key_digest = Some(KEY);
    }),
    (Rule::EnrolledAuthorKey, "enrolled for the digest that means no key", |s| {
        s.fields.key_info = KeyInfo(1);
        s.enrolled().author_key_digest = Some(KeyDigest::new([0; 48]));
    }),
];

/// The same for a Genoa whose VLEK is allowed.
const VLEK_CASES: &[(Rule, &str, Spoil)] = &[
    (Rule::SigningKey, "VLEKs off", |s| {
        s.values().signing_keys = vec![VekKind::Vcek];
    }),
    (Rule::CertificateKind, "report says VCEK, certificate of a VLEK", |s| {
        s.values().signing_keys.push(VekKind::Vcek);
        s.fields.key_info = KeyInfo(0);
    }),
    (Rule::Chain, "VLEK signed by the intermediate for VCEKs", |s| s.intermediate = &s.hierarchy.ask),
    (Rule::Chain, "VLEK called VCEK", |s| s.spec.common_name = "SEV-VCEK".into()),
    (Rule::CertificateDates, "expired after its year", |s| s.now = UnixTime(NOW.0 + 366 * 86_400)),
    (Rule::CertificateRevoked, "the intermediate for VLEKs is revoked", |s| s.add_crl(NOW.0, vec![coffer_simulator::ASVK_SERIAL])),
    (Rule::CertificateTcb, "certificate for an older snp", |s| s.spec.tcb.snp -= 1),
    (Rule::ChipId, "a chip in the report", |s| s.fields.chip_id = ChipId::new([1; 64])),
    (Rule::ChipId, "a chip in the certificate", |s| s.spec.hwid = vec![1; 64]),
    (Rule::MaskedChip, "MASK_CHIP_KEY", |s| s.fields.key_info = KeyInfo(1 << 2 | 2)),
    (Rule::CspId, "another provider", |s| s.spec.csp_id = Some("CN=cc-test-2.example".into())),
    (Rule::CspId, "a provider whose name begins alike", |s| s.spec.csp_id = Some(format!("{CSP}.evil"))),
    (Rule::CspId, "no provider", |s| s.spec.csp_id = None),
    (Rule::CspId, "no provider allowed", |s| s.values().csp_ids.clear()),
    (Rule::ChipAllowed, "a list of chips, and none to be seen", |s| s.values().chips.allow = Some(vec![s.platform.chip_id])),
    (Rule::ChipAllowed, "a list with the zero chip", |s| s.values().chips.allow = Some(vec![ChipId::new([0; 64])])),
    (Rule::EnrolledChip, "enrolled for its chip, which is not to be seen", |s| s.enrolled().chip_ids = Some(vec![s.platform.chip_id])),
    (Rule::FamilyMismatch, "VLEK of a Milan", |s| s.spec.product = "Milan".into()),
    (Rule::Vmpl, "VMPL 1", |s| s.fields.vmpl = 1),
    (Rule::TcbFloor, "below the floor", |s| s.family().tcb_floor.tee += 1),
];

/// And for a Turin, whose TCB has a fifth component and whose chips have short names.
const TURIN_CASES: &[(Rule, &str, Spoil)] = &[
    (Rule::ChipId, "64 bytes in the certificate", |s| s.spec.hwid = s.fields.chip_id.as_bytes().to_vec()),
    (Rule::ChipId, "a ninth byte in the report", |s| {
        let mut chip = *s.fields.chip_id.as_bytes();
        chip[8] = 1;
        s.fields.chip_id = ChipId::new(chip);
    }),
    (Rule::CertificateTcb, "a certificate without fmc", |s| s.spec.tcb.fmc = None),
    (Rule::CertificateTcb, "a certificate for another fmc", |s| s.spec.tcb.fmc = Some(2)),
    (Rule::CertificateCurrentTcb, "an older fmc runs", |s| s.fields.current_tcb.fmc = Some(0)),
    (Rule::TcbOrder, "an older fmc is committed", |s| s.fields.committed_tcb.fmc = Some(0)),
    (Rule::TcbFloor, "a floor without fmc, built by hand", |s| s.family().tcb_floor.fmc = None),
    (Rule::TcbFloor, "an older fmc at launch", |s| s.fields.launch_tcb.fmc = Some(0)),
    (Rule::TcbFloor, "fmc below the floor", |s| s.family().tcb_floor.fmc = Some(2)),
    (Rule::ReservedBytes, "in Turin's TCB", |s| s.bytes = Some(|b| b[0x38 + 4] = 1)),
    (Rule::ReservedBytes, "after the mitigations", |s| s.bytes = Some(|b| b[0x208] = 1)),
    (Rule::Mitigations, "one missing of many", |s| s.family().current_mitigations = Some(127)),
    (Rule::FamilyMismatch, "CPUID of a later family", |s| s.fields.cpuid = Some(Cpuid { family: 0x1A, model: 0x50, stepping: 0 })),
];

/// So many extensions that nobody knows, none critical: (OID, critical, value).
fn extensions(count: u16) -> Vec<(Vec<u8>, bool, Vec<u8>)> {
    let extension = |n: u16| {
        let [high, low] = [n >> 7, n & 0x7F].map(|part| u8::try_from(part).unwrap());
        (vec![0x2A, 3, 0xC0 | high, low], false, vec![])
    };
    (0..count).map(extension).collect()
}

fn mitigated(s: &mut Scene, launch: u64, current: u64) {
    s.fields.version = 5;
    (s.fields.launch_mit_vector, s.fields.current_mit_vector) = (Some(launch), Some(current));
}

/// The order of P-384's group plus this, little-endian.
fn order(plus: i16) -> [u8; 48] {
    const LOW: [u8; 24] = [
        0x73, 0x29, 0xC5, 0xCC, 0x6A, 0x19, 0xEC, 0xEC, 0x7A, 0xA7, 0xB0, 0x48, 0xB2, 0x0D, 0x1A, 0x58, 0xDF, 0x2D, 0x37, 0xF4, 0x81, 0x4D,
        0x63, 0xC7,
    ];
    let mut bytes = [0xFF; 48];
    bytes[..24].copy_from_slice(&LOW);
    bytes[0] = bytes[0].checked_add_signed(i8::try_from(plus).unwrap()).unwrap();
    bytes
}

/// Sets R and S, little-endian.
fn set_signature(evidence: &mut SnpEvidence, r: &[u8; 48], s: &[u8; 48]) {
    let mut bytes = *evidence.report.as_bytes();
    bytes[0x2A0..0x330].fill(0);
    bytes[0x2A0..0x2D0].copy_from_slice(r);
    bytes[0x2E8..0x318].copy_from_slice(s);
    evidence.report = Report::parse(&bytes).unwrap();
}

/// Replaces these bytes wherever they are; there must be such a place.
pub fn replace(data: &mut [u8], from: &[u8], to: &[u8]) {
    let places: Vec<usize> = data.windows(from.len()).enumerate().filter(|(_, part)| *part == from).map(|(at, _)| at).collect();
    assert!(!places.is_empty() && from.len() == to.len());
    for at in places {
        data[at..at + to.len()].copy_from_slice(to);
    }
}

fn check_all(scene: fn() -> Scene, cases: &[(Rule, &str, Spoil)]) {
    for (expected, what, spoil) in cases {
        let mut scene = scene();
        spoil(&mut scene);
        let verdict = scene.verdict();
        assert_eq!(rule(&verdict), Some(*expected), "{what}: {verdict:?}");
        let Err(reject) = verdict else { panic!("{what} was accepted") };
        assert_ne!(reject.expected(), reject.got(), "{what}: both values are told, and differ");
        assert!(!reject.got().is_empty() && !reject.expected().is_empty() && !reject.to_string().contains('\n'), "{what}");
        assert_eq!(reject.is_authenticated(), expected > &Rule::ReportData, "{what}");
    }
}

#[test]
fn one_wrong_thing_breaks_exactly_its_rule() {
    check_all(|| Scene::new(Family::Genoa), CASES);
}

#[test]
fn one_wrong_thing_under_a_vlek_breaks_exactly_its_rule() {
    check_all(Scene::vlek, VLEK_CASES);
}

#[test]
fn one_wrong_thing_of_a_turin_breaks_exactly_its_rule() {
    check_all(|| Scene::new(Family::Turin), TURIN_CASES);
}

/// [`Rule::Evidence`] is about bytes that are no evidence: `unreadable_evidence_is_refused_by_name` has those.
#[test]
fn every_rule_has_a_case_that_breaks_it() {
    let all = CASES.iter().chain(VLEK_CASES).chain(TURIN_CASES);
    let broken: BTreeSet<Rule> = all.map(|(rule, ..)| *rule).chain([Rule::Evidence]).collect();
    let untested: Vec<_> = Rule::ALL.iter().filter(|rule| !broken.contains(rule)).collect();
    assert!(untested.is_empty(), "no case breaks {untested:?}");
}

#[test]
fn unreadable_evidence_is_refused_by_name() {
    for text in ["", "{}", "{\"attestation_report_raw\":\"AAAA\"}", "{\"attestation_report_raw\":\"?\"}", "[]"] {
        let reject = coffer_verify::Reject::from(SnpEvidence::from_json(text.as_bytes()).unwrap_err());
        assert_eq!((reject.rule(), reject.is_authenticated()), (Rule::Evidence, false), "{text}");
        let appraisal = coffer_verify::Appraisal::unreadable(&reject);
        assert_eq!(appraisal.rejection().as_ref(), Some(&reject));
        assert_eq!(appraisal.checks.iter().filter(|check| check.outcome == Outcome::NotReached).count(), Rule::ALL.len() - 1);
    }
    let mut unknown = Scene::new(Family::Genoa).evidence().to_stock_value().unwrap();
    unknown["attestation_report"]["version"] = 4.into();
    let reject = coffer_verify::Reject::from(SnpEvidence::from_value(&unknown).unwrap_err());
    assert_eq!((reject.rule(), reject.got()), (Rule::ReportVersion, "4"));
}

#[test]
fn honest_evidence_of_every_family_is_accepted_where_it_is_allowed() {
    for family in Family::ALL {
        let mut scene = Scene::new(family);
        assert_eq!(scene.verdict(), Ok(()), "{family}");
        // Milan only for those who have read why not.
        scene.family().risk_accepted = Some("yes".into());
        assert_eq!(rule(&scene.verdict()), (family == Family::Milan).then_some(Rule::Family), "{family}");
    }
    assert_eq!(Scene::vlek().verdict(), Ok(()));
}

#[test]
fn what_hosts_may_do_differently_is_accepted() {
    let variations: &[(&str, Spoil)] = &[
        ("no ARK beside the report", |s| s.spoil = Some(|e| e.certificates.retain(|c| c.kind != CertKind::Ark))),
        ("a lying ARK beside the report", |s| {
            s.spoil = Some(|e| entry(e, CertKind::Ark).data = OTHER_GENOA.ark.certificate().to_vec());
        }),
        ("PEM in the host's table", |s| {
            s.spoil = Some(|e| {
                let vcek = entry(e, CertKind::Vcek);
                let base64 = data_encoding::BASE64.encode(&vcek.data);
                vcek.data = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n").into_bytes();
            });
        }),
        ("a VCEK labelled as a VLEK", |s| s.spoil = Some(|e| entry(e, CertKind::Vcek).kind = CertKind::Vlek)),
        ("a VLEK beside the VCEK", |s| {
            s.spoil = Some(|e| {
                let data = Scene::vlek().asp().vcek().certificate().to_vec();
                e.certificates.push(coffer_evidence::CertEntry { kind: CertKind::Vlek, data });
            });
        }),
        ("firmware newer than committed, committed newer than reported", |s| {
            s.fields.committed_tcb.microcode += 1;
            s.fields.current_tcb.microcode += 2;
        }),
        ("firmware that was rolled back since the launch", |s| s.fields.launch_tcb.microcode += 5),
        ("SMT off, one socket", |s| s.fields.policy = GuestPolicy(0x12_0000)),
        ("a version 5 report", |s| mitigated(s, 63, 63)),
        ("a version 2 report, where the project takes them", |s| {
            (s.fields.version, s.fields.cpuid) = (2, None);
            s.values().report_versions = vec![2, 3];
        }),
        ("bits of PLATFORM_INFO nobody knows", |s| s.fields.platform_info |= 0xFFFF_FF00),
        ("a hidden chip, where the project takes them", |s| {
            s.fields.chip_id = ChipId::new([0; 64]);
            s.fields.key_info = KeyInfo(2);
            s.values().masked_chip = true;
            s.values().chips.allow = Some(vec![s.platform.chip_id]);
        }),
        ("CXL, where the project takes it", |s| {
            s.fields.policy = GuestPolicy(0x3_0000 | 1 << 21);
            s.values().guest_policy.cxl = BitRule::Any;
        }),
        ("a list past its next update", |s| s.add_crl(NOW.0 - 90 * 86_400, vec![7])),
        ("a list that revokes serial number zero, which is the VCEK's but not of the root", |s| s.add_crl(NOW.0, vec![0])),
        ("a current list, where one is required", |s| {
            s.values().crl = CrlRule::Required;
            s.add_crl(NOW.0 - 10, vec![7]);
        }),
        ("everything about the ID block as the project and the enrollment want it", |s| {
            (s.fields.id_key_digest, s.fields.author_key_digest, s.fields.key_info) = (KEY, OTHER_KEY, KeyInfo(1));
            (s.fields.family_id, s.fields.image_id, s.fields.guest_svn) = ([1; 16], [2; 16], 9);
            let values = s.values();
            (values.id_keys, values.author_keys) = (Some(vec![KEY]), Some(vec![OTHER_KEY]));
            (values.family_id, values.image_id) = (Some(BlockId::new([1; 16])), Some(BlockId::new([2; 16])));
            values.minimum_guest_svn = Some(8);
            let chip = s.fields.chip_id;
            let floor = s.platform.tcb;
            let enrolled = s.enrolled();
            (enrolled.id_key_digest, enrolled.author_key_digest) = (Some(KEY), Some(OTHER_KEY));
            (enrolled.minimum_guest_svn, enrolled.chip_ids, enrolled.tcb_floor) = (Some(9), Some(vec![chip]), Some(floor));
        }),
        ("firmware and mitigations exactly as required", |s| {
            mitigated(s, 0b101, 0b111);
            s.family().minimum_firmware = Some(s.fields.current_version);
            (s.family().launch_mitigations, s.family().current_mitigations) = (Some(0b101), Some(0b110));
        }),
        ("a policy that asks for more than it must", |s| {
            s.fields.policy = GuestPolicy(0x3DA_0137);
            let rules = &mut s.values().guest_policy;
            (rules.smt, rules.single_socket) = (BitRule::Any, BitRule::Required);
            (rules.aes_256_xts, rules.rapl_disabled) = (BitRule::Required, BitRule::Required);
            (rules.ciphertext_hiding, rules.page_swap_disabled) = (BitRule::Required, BitRule::Required);
            rules.minimum_abi = Some(Abi { major: 1, minor: 0x37 });
            s.fields.policy.0 &= !(1 << 19);
            s.fields.policy.0 |= 1 << 20;
        }),
    ];
    for (what, spoil) in variations {
        let mut scene = Scene::new(Family::Genoa);
        spoil(&mut scene);
        assert_eq!(scene.verdict(), Ok(()), "{what}");
    }
    assert!(variations.len() * 5 < CASES.len() + VLEK_CASES.len() + TURIN_CASES.len(), "more is refused than accepted");
}

#[test]
fn reserved_bytes_are_lost_in_the_stock_form_and_named_in_ours() {
    let scene = Scene { bytes: Some(|bytes| bytes[0x4C] = 9), ..Scene::new(Family::Genoa) };
    let evidence = scene.evidence();
    let raw = SnpEvidence::from_value(&evidence.to_raw_value().unwrap()).unwrap();
    let stock = SnpEvidence::from_value(&evidence.to_stock_value().unwrap()).unwrap();
    assert_eq!(rule(&scene.verdict_on(&raw)), Some(Rule::ReservedBytes));
    // The byte was signed, and the stock form rebuilds it as zero: what is verified is not what was signed.
    assert_eq!(rule(&scene.verdict_on(&stock)), Some(Rule::Signature));
    // After the signature nothing is signed: there the stock form loses what nobody vouched for.
    let scene = Scene { spoil: Some(|e| flip(e, 0x400)), ..Scene::new(Family::Genoa) };
    let evidence = scene.evidence();
    let stock = SnpEvidence::from_value(&evidence.to_stock_value().unwrap()).unwrap();
    assert_eq!((rule(&scene.verdict_on(&evidence)), scene.verdict_on(&stock)), (Some(Rule::ReservedBytes), Ok(())));
}

#[test]
fn an_endorsement_serves_every_report_of_its_key_and_no_other() {
    let mut scene = Scene::new(Family::Genoa);
    let asp = scene.asp();
    let evidence = scene.evidence_by(&asp);
    let endorsement = endorse(&evidence, &scene.roots).unwrap();
    assert_eq!(endorsement.chip(), Some(&scene.fields.chip_id));
    assert!(verify_endorsed(&evidence.report, &endorsement, &scene.expected(), NOW).is_ok());
    // What changes with time and policy is looked at on each use.
    let late = verify_endorsed(&evidence.report, &endorsement, &scene.expected(), UnixTime(NOW.0 + 8 * 365 * 86_400));
    assert_eq!(late.unwrap_err().rule(), Rule::CertificateDates);
    scene.add_crl(NOW.0, vec![ASK_SERIAL]);
    let revoked = verify_endorsed(&evidence.report, &endorsement, &scene.expected(), NOW);
    assert_eq!(revoked.unwrap_err().rule(), Rule::CertificateRevoked);
    scene.collateral = coffer_verify::Collateral::new();
    // Another key of the same chip and TCB: only the signature tells.
    let other = scene.evidence();
    assert_eq!(verify_endorsed(&other.report, &endorsement, &scene.expected(), NOW).unwrap_err().rule(), Rule::Signature);
    assert_ne!(certificates_digest(&other), certificates_digest(&evidence));
    // The digest is over what the endorsement depends on, and nothing else.
    let mut same = evidence.clone();
    same.certificates.retain(|entry| entry.kind != CertKind::Ark);
    assert_eq!(certificates_digest(&same), certificates_digest(&evidence));
    same.certificates.retain(|entry| entry.kind != CertKind::Ask);
    assert_ne!(certificates_digest(&same), certificates_digest(&evidence));
}

#[test]
fn an_appraisal_shows_every_check_and_what_was_not_reached() {
    let mut scene = Scene::new(Family::Turin);
    scene.fields.vmpl = 2;
    scene.fields.policy = GuestPolicy(0xB_0000);
    let evidence = scene.evidence();
    let appraisal = scene.appraisal(&evidence);
    assert_eq!(appraisal.checks.iter().map(|check| check.rule).collect::<Vec<_>>(), Rule::ALL);
    let failed: Vec<_> = appraisal.checks.iter().filter(|c| matches!(c.outcome, Outcome::Fail { .. })).map(|c| c.rule).collect();
    assert_eq!(failed, [Rule::Vmpl, Rule::DebugPolicy]);
    assert!(appraisal.claims.is_none());
    let tells = |rule: Rule, text: &str| {
        let check = &appraisal.checks[rule as usize];
        assert!(matches!(&check.outcome, Outcome::Pass { got } if got.contains(text)), "{check:?}");
    };
    tells(Rule::Chain, "SEV-VCEK <- SEV-Turin <- ARK-Turin");
    tells(Rule::TcbFloor, "microcode 97 (launch)");
    tells(Rule::CertificateTcb, "fmc 1");
    let json = serde_json::to_value(&appraisal.checks[Rule::Vmpl as usize]).unwrap();
    assert_eq!(json, serde_json::json!({"rule": "vmpl", "verdict": "fail", "expected": "0", "got": "2"}));

    // Without a chain: what the report says alone is still judged, the rest is not reached.
    scene.roots = Roots::simulated(OTHER_GENOA.ark.certificate()).unwrap();
    let appraisal = scene.appraisal(&evidence);
    let outcome = |rule: Rule| &appraisal.checks[rule as usize].outcome;
    assert!(matches!(outcome(Rule::Chain), Outcome::Fail { .. }) && matches!(outcome(Rule::Vmpl), Outcome::Fail { .. }));
    assert!(matches!(outcome(Rule::HostData), Outcome::Pass { .. }));
    for rule in [Rule::Signature, Rule::CertificateDates, Rule::TcbFloor, Rule::Family, Rule::ChipDenied] {
        assert_eq!(outcome(rule), &Outcome::NotReached, "{rule}");
    }
}

/// Turns every byte of every certificate over, one at a time.
#[test]
fn no_certificate_byte_may_change() {
    for scene in [Scene::new(Family::Genoa), Scene::vlek()] {
        let evidence = scene.evidence();
        assert_eq!(scene.verdict_on(&evidence), Ok(()));
        for (nth, entry) in evidence.certificates.iter().enumerate().filter(|(_, entry)| entry.kind != CertKind::Ark) {
            for at in 0..entry.data.len() {
                let mut changed = evidence.clone();
                changed.certificates[nth].data[at] ^= 1;
                assert!(scene.verdict_on(&changed).is_err(), "{:?} byte {at}", entry.kind);
            }
        }
    }
}

proptest! {
    /// Whatever lies beside a report, the answer is a rejection and not a panic.
    #[test]
    fn garbage_is_refused(data in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..2000, at in 0_usize..1300, value: u8) {
        static GOOD: LazyLock<(Scene, SnpEvidence)> = LazyLock::new(|| {
            let scene = Scene::new(Family::Genoa);
            let evidence = scene.evidence();
            (scene, evidence)
        });
        let (scene, good) = &*GOOD;
        let mut spliced = good.certificates[0].data.clone();
        let (from, to) = (at.min(spliced.len()), (at + cut).min(spliced.len()));
        spliced.splice(from..to, data.iter().copied().chain([value]));
        for vcek in [data, spliced] {
            let mut evidence = good.clone();
            let same = vcek == good.certificates[0].data;
            evidence.certificates[0].data = vcek;
            prop_assert_eq!(verify(&evidence, &scene.expected(), &scene.roots, NOW).is_ok(), same);
        }
    }

    /// Whatever a report's bytes are, verify and appraise agree, and nothing that was not signed is accepted.
    #[test]
    fn whatever_a_report_says_verify_and_appraise_agree(
        edits in proptest::collection::vec((0_usize..Report::LEN, any::<u8>()), 1..6),
        signed: bool,
    ) {
        static GOOD: LazyLock<(Scene, coffer_simulator::Asp)> = LazyLock::new(|| {
            let scene = Scene::new(Family::Genoa);
            let asp = scene.asp();
            (scene, asp)
        });
        let (scene, asp) = &*GOOD;
        let mut bytes = *scene.evidence_by(asp).report.as_bytes();
        for (at, value) in edits {
            bytes[at] = value;
        }
        if signed {
            bytes = asp.sign_bytes(bytes).unwrap();
        }
        let Ok(report) = Report::parse(&bytes) else { return Ok(()) };
        let evidence = SnpEvidence { report, certificates: asp.certificates() };
        let verdict = scene.verdict_on(&evidence);
        prop_assert_eq!(scene.appraisal(&evidence).rejection(), verdict.err());
    }
}
