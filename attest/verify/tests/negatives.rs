//! Evidence that is right but for one thing, made by the simulator: refused by exactly the rule that thing breaks.

use std::sync::LazyLock;

use coffer_evidence::{
    CertEntry, CertKind, ChipId, Cpuid, Family, GuestPolicy, HostData, KeyInfo, LaunchDigest, Report, ReportData, ReportFields,
    SnpEvidence, TcbVersion,
};
use coffer_simulator::{Asp, Guest, Hierarchy, Platform, Vcek, VcekSpec};
use coffer_verify::{ChainFault, Enrolled, Expected, Platforms, Reject, Roots, UnixTime, verify};
use proptest::prelude::*;

const NOW: UnixTime = UnixTime(1_800_000_000);

/// Two processors' hierarchies with the same names: whatever is compared by name alone would mistake one for the other.
static GENOA: LazyLock<Hierarchy> = LazyLock::new(|| Hierarchy::generate(Family::Genoa, NOW).unwrap());
static OTHER_GENOA: LazyLock<Hierarchy> = LazyLock::new(|| Hierarchy::generate(Family::Genoa, NOW).unwrap());
static MILAN: LazyLock<Hierarchy> = LazyLock::new(|| Hierarchy::generate(Family::Milan, NOW).unwrap());
static TURIN: LazyLock<Hierarchy> = LazyLock::new(|| Hierarchy::generate(Family::Turin, NOW).unwrap());

fn hierarchy(family: Family) -> &'static Hierarchy {
    match family {
        Family::Milan => &MILAN,
        Family::Genoa => &GENOA,
        Family::Turin => &TURIN,
    }
}

/// Everything `verify` is given. Good as made; each case spoils one thing.
struct Scene {
    spec: VcekSpec,
    fields: ReportFields,
    /// Changes the evidence once it is signed.
    spoil: Option<fn(&mut SnpEvidence)>,
    issuer: &'static Hierarchy,
    platform: Platform,
    report_data: ReportData,
    enrolled: Option<Enrolled>,
    platforms: Platforms,
    roots: Roots,
    now: UnixTime,
}

impl Scene {
    fn new(family: Family) -> Self {
        let issuer = hierarchy(family);
        let asp = Asp::new(issuer, NOW).unwrap();
        let platform = asp.platform().clone();
        let (host_data, launch_digest) = (HostData::new([0x22; 32]), LaunchDigest::new([0x33; 48]));
        let guest = Guest::launch(launch_digest, host_data, GuestPolicy(0x3_0000)).unwrap();
        let report_data = ReportData::new([0x44; 64]);
        Self {
            spec: VcekSpec::of(&platform, NOW),
            fields: asp.fields(&guest, report_data, 0),
            spoil: None,
            issuer,
            report_data,
            enrolled: Some(Enrolled { host_data, launch_digests: vec![LaunchDigest::new([0x55; 48]), launch_digest] }),
            platforms: Platforms::with_floors([(family, platform.tcb)].into()),
            roots: Roots::simulated(issuer.ark.certificate()).unwrap(),
            platform,
            now: NOW,
        }
    }

    fn evidence(&self) -> SnpEvidence {
        let vcek = Vcek::issue(&self.spec, &self.issuer.ask).unwrap();
        let certificate = |authority: &coffer_simulator::Authority| authority.certificate().to_vec();
        let asp = Asp::from_parts(self.platform.clone(), certificate(&self.issuer.ark), certificate(&self.issuer.ask), vcek);
        let mut evidence = asp.evidence_of(&self.fields).unwrap();
        if let Some(spoil) = self.spoil {
            spoil(&mut evidence);
        }
        evidence
    }

    fn verdict(&self) -> Result<(), Reject> {
        let Self { report_data, platforms, enrolled, roots, now, .. } = self;
        let expected = Expected { report_data: *report_data, platforms, enrolled: enrolled.as_ref() };
        let evidence = self.evidence();
        let verdict = verify(&evidence, &expected, roots, *now).map(drop);
        // The wire makes no difference, in either form.
        for value in [evidence.to_raw_value().unwrap(), evidence.to_stock_value().unwrap()] {
            let received = SnpEvidence::from_value(&value).unwrap();
            let again = verify(&received, &expected, roots, *now).map(drop);
            assert_eq!(code(&again), code(&verdict));
        }
        verdict
    }

    fn entry(evidence: &mut SnpEvidence, kind: CertKind) -> &mut CertEntry {
        evidence.certificates.iter_mut().find(|entry| entry.kind == kind).unwrap()
    }
}

fn code(verdict: &Result<(), Reject>) -> &'static str {
    verdict.as_ref().map_or_else(Reject::code, |()| "accepted")
}

/// Spoils a Genoa scene.
type Spoil = fn(&mut Scene);

/// (rule, what is wrong). Rules in the order they are checked.
const CASES: &[(&str, &str, Spoil)] = &[
    ("report_version", "version 2, off by default", |s| {
        s.fields.version = 2;
        s.fields.cpuid = None;
    }),
    ("report_version", "version 5 where only 3 is taken", |s| {
        s.fields.version = 5;
        s.platforms.versions = vec![3];
    }),
    ("vlek", "report says VLEK", |s| s.fields.key_info = KeyInfo(1 << 2)),
    ("signing_key", "report says it is not signed", |s| s.fields.key_info = KeyInfo(7 << 2)),
    ("signing_key", "report names a reserved key", |s| s.fields.key_info = KeyInfo(3 << 2)),
    ("vcek_count", "no certificates", |s| s.spoil = Some(|e| e.certificates.clear())),
    ("vcek_count", "no VCEK", |s| s.spoil = Some(|e| e.certificates.retain(|c| c.kind != CertKind::Vcek))),
    ("vcek_count", "two VCEKs", |s| {
        s.spoil = Some(|e| {
            let twin = e.certificates[0].clone();
            e.certificates.push(twin);
        });
    }),
    ("vlek", "a VLEK beside the report instead", |s| s.spoil = Some(|e| Scene::entry(e, CertKind::Vcek).kind = CertKind::Vlek)),
    ("vlek", "a VLEK called VCEK", |s| s.spec.common_name = "SEV-VLEK".into()),
    ("certificate", "empty VCEK", |s| s.spoil = Some(|e| Scene::entry(e, CertKind::Vcek).data.clear())),
    ("certificate", "truncated VCEK", |s| {
        s.spoil = Some(|e| {
            Scene::entry(e, CertKind::Vcek).data.pop();
        });
    }),
    ("certificate", "a byte after the VCEK", |s| s.spoil = Some(|e| Scene::entry(e, CertKind::Vcek).data.push(0))),
    ("certificate", "VCEK is no DER", |s| s.spoil = Some(|e| Scene::entry(e, CertKind::Vcek).data = vec![0xFF; 1300])),
    ("certificate", "VCEK is broken PEM", |s| {
        s.spoil = Some(|e| Scene::entry(e, CertKind::Vcek).data = b"-----BEGIN CERTIFICATE-----\nAA".to_vec());
    }),
    ("certificate_dates", "VCEK not valid yet", |s| s.spec.not_before = UnixTime(NOW.0 + 1)),
    ("certificate_dates", "VCEK expired", |s| s.spec.not_after = UnixTime(NOW.0 - 1)),
    ("certificate_dates", "intermediate expired", |s| {
        s.now = UnixTime(NOW.0 + 26 * 365 * 86_400);
        s.spec.not_after = s.now;
    }),
    ("certificate_dates", "intermediate not valid yet", |s| {
        s.now = UnixTime(NOW.0 - 2 * 86_400);
        s.spec.not_before = s.now;
    }),
    ("certificate_tcb", "certificate for an older bootloader", |s| s.spec.tcb.bootloader -= 1),
    ("certificate_tcb", "certificate for a newer tee", |s| s.spec.tcb.tee += 1),
    ("certificate_tcb", "certificate for an older snp", |s| s.spec.tcb.snp -= 1),
    ("certificate_tcb", "certificate for newer microcode", |s| s.spec.tcb.microcode += 1),
    ("certificate_tcb", "certificate with an fmc a Genoa has not", |s| s.spec.tcb.fmc = Some(0)),
    ("certificate_tcb", "report claims a newer snp than its key", |s| s.fields.reported_tcb.snp += 1),
    ("certificate_tcb", "report says Turin, so its TCB reads differently", |s| {
        s.fields.cpuid = Some(Cpuid { family: 0x1A, model: 2, stepping: 1 });
    }),
    ("chip_id", "certificate of another chip", |s| s.spec.hwid[63] ^= 1),
    ("chip_id", "certificate names no chip", |s| s.spec.hwid.clear()),
    ("chip_id", "certificate names 8 bytes of a chip", |s| s.spec.hwid.truncate(8)),
    ("chip_id", "report of another chip", |s| {
        let mut chip = *s.fields.chip_id.as_bytes();
        chip[0] ^= 1;
        s.fields.chip_id = ChipId::new(chip);
    }),
    ("chip_id", "chip id masked", |s| s.fields.chip_id = ChipId::new([0; 64])),
    ("signature_algorithm", "no signature algorithm", |s| s.fields.signature_algo = 0),
    ("signature_algorithm", "unknown signature algorithm", |s| s.fields.signature_algo = 2),
    ("signature", "measurement changed after signing", |s| s.spoil = Some(|e| flip(e, 0x90))),
    ("signature", "report data changed after signing", |s| s.spoil = Some(|e| flip(e, 0x50))),
    ("signature", "r changed", |s| s.spoil = Some(|e| flip(e, 0x2A0))),
    ("signature", "s changed", |s| s.spoil = Some(|e| flip(e, 0x2E8))),
    ("signature", "r longer than P-384", |s| s.spoil = Some(|e| flip(e, 0x2A0 + 48))),
    ("signature", "s longer than P-384", |s| s.spoil = Some(|e| flip(e, 0x2E8 + 71))),
    ("signature", "r and s zero", |s| {
        s.spoil = Some(|e| {
            let mut bytes = *e.report.as_bytes();
            bytes[0x2A0..0x330].fill(0);
            e.report = Report::parse(&bytes).unwrap();
        });
    }),
    ("report_data", "another challenge", |s| s.report_data = ReportData::new([0x45; 64])),
    ("report_data", "last byte of the report data", |s| {
        let mut bytes = [0x44; 64];
        bytes[63] = 0;
        s.fields.report_data = ReportData::new(bytes);
    }),
    ("vmpl", "VMPL 1", |s| s.fields.vmpl = 1),
    ("vmpl", "VMPL 3", |s| s.fields.vmpl = 3),
    ("vmpl", "VMPL the host makes up", |s| s.fields.vmpl = u32::MAX),
    ("debug_policy", "debugging allowed", |s| s.fields.policy = GuestPolicy(0xB_0000)),
    ("migration_policy", "migration allowed", |s| s.fields.policy = GuestPolicy(0x7_0000)),
    ("debug_policy", "both allowed", |s| s.fields.policy = GuestPolicy(u64::MAX)),
    ("tcb_floor_missing", "no floor for the family", |s| s.platforms.floors.clear()),
    ("tcb_floor", "current TCB below", |s| s.fields.current_tcb.microcode -= 1),
    ("tcb_floor", "committed TCB below", |s| s.fields.committed_tcb.bootloader -= 1),
    ("tcb_floor", "launch TCB below", |s| s.fields.launch_tcb.snp -= 1),
    ("tcb_floor", "reported TCB below, as its certificate says", |s| {
        s.fields.reported_tcb.snp -= 1;
        s.spec.tcb.snp -= 1;
    }),
    ("tcb_floor", "newer in one component, older in another", |s| {
        s.fields.current_tcb.microcode = u8::MAX;
        s.fields.current_tcb.snp -= 1;
    }),
    ("tcb_floor", "floor with an fmc", |s| {
        let floor = TcbVersion { fmc: Some(0), ..s.platform.tcb };
        s.platforms.floors = [(Family::Genoa, floor)].into();
    }),
    ("family_mismatch", "CPUID of a Milan", |s| s.fields.cpuid = Some(Cpuid { family: 0x19, model: 1, stepping: 1 })),
    ("family_mismatch", "CPUID of no family we know", |s| s.fields.cpuid = Some(Cpuid { family: 0x19, model: 0x50, stepping: 0 })),
    ("family_mismatch", "no CPUID in a version 3 report", |s| s.fields.cpuid = None),
    ("family_mismatch", "certificate of a Milan", |s| s.spec.product = "Milan-B0".into()),
    ("family_mismatch", "certificate of no family we know", |s| s.spec.product = "Genoa2".into()),
    ("family", "family switched off", |s| s.platforms.families = vec![Family::Turin]),
    ("host_data", "never enrolled, or revoked", |s| s.enrolled = None),
    ("host_data", "another site's record", |s| {
        if let Some(enrolled) = &mut s.enrolled {
            enrolled.host_data = HostData::new([0x23; 32]);
        }
    }),
    ("host_data", "another HOST_DATA in the report", |s| s.fields.host_data = HostData::new([0; 32])),
    ("launch_digest", "something else was launched", |s| s.fields.measurement = LaunchDigest::new([0x34; 48])),
    ("launch_digest", "enrolled for no base", |s| {
        if let Some(enrolled) = &mut s.enrolled {
            enrolled.launch_digests.clear();
        }
    }),
];

/// Chains that lead nowhere, each with its fault.
const CHAINS: &[(ChainFault, &str, Spoil)] = &[
    (ChainFault::NoIssuer, "no intermediate", |s| s.spoil = Some(|e| e.certificates.retain(|c| c.kind != CertKind::Ask))),
    (ChainFault::NoIssuer, "intermediate of another family", |s| {
        s.spoil = Some(|e| Scene::entry(e, CertKind::Ask).data = MILAN.ask.certificate().to_vec());
    }),
    (ChainFault::UnknownRoot, "simulated evidence at a production service", |s| s.roots = Roots::amd().unwrap()),
    (ChainFault::NoIssuer, "simulated evidence at a production service, its intermediate left out", |s| {
        s.roots = Roots::amd().unwrap();
        s.spoil = Some(|e| e.certificates.truncate(1));
    }),
    (ChainFault::Signature, "another simulator's root", |s| {
        s.roots = Roots::simulated(OTHER_GENOA.ark.certificate()).unwrap();
    }),
    (ChainFault::Signature, "another simulator's intermediate", |s| {
        s.spoil = Some(|e| Scene::entry(e, CertKind::Ask).data = OTHER_GENOA.ask.certificate().to_vec());
    }),
    (ChainFault::Signature, "another simulator's processor", |s| s.issuer = &OTHER_GENOA),
    (ChainFault::UnknownRoot, "root of another family", |s| s.roots = Roots::simulated(MILAN.ark.certificate()).unwrap()),
    (ChainFault::CommonName, "VCEK of another name", |s| s.spec.common_name = "SEV-VCEK2".into()),
    (ChainFault::CommonName, "intermediate in the place of the VCEK", |s| {
        s.spoil = Some(|e| Scene::entry(e, CertKind::Vcek).data = GENOA.ask.certificate().to_vec());
    }),
    (ChainFault::CommonName, "VCEK signed by the root, the root in the place of the intermediate", |s| {
        s.spoil = Some(|e| {
            let spec = VcekSpec::of(&Platform::random(Family::Genoa).unwrap(), NOW);
            Scene::entry(e, CertKind::Vcek).data = Vcek::issue(&spec, &GENOA.ark).unwrap().certificate().to_vec();
            Scene::entry(e, CertKind::Ask).data = GENOA.ark.certificate().to_vec();
        });
    }),
    (ChainFault::NotCa, "intermediate that is no authority", |s| {
        s.spoil = Some(|e| {
            let mut spec = VcekSpec::of(&Platform::random(Family::Genoa).unwrap(), NOW);
            spec.common_name = "SEV-Genoa".into();
            Scene::entry(e, CertKind::Ask).data = Vcek::issue(&spec, &GENOA.ark).unwrap().certificate().to_vec();
        });
    }),
];

fn flip(evidence: &mut SnpEvidence, at: usize) {
    let mut bytes = *evidence.report.as_bytes();
    bytes[at] ^= 1;
    evidence.report = Report::parse(&bytes).unwrap();
}

#[test]
fn one_wrong_thing_breaks_exactly_its_rule() {
    for (rule, what, spoil) in CASES {
        let mut scene = Scene::new(Family::Genoa);
        spoil(&mut scene);
        let verdict = scene.verdict();
        assert_eq!(code(&verdict), *rule, "{what}: {verdict:?}");
        let Err(reject) = verdict else { panic!("{what} was accepted") };
        // The rule after `report_data`: until that has passed, anybody may be repeating somebody's report.
        let first_authentic = CASES.iter().position(|(rule, ..)| *rule == "vmpl");
        let position = CASES.iter().position(|(other, ..)| other == rule);
        assert_eq!(reject.is_authenticated(), position >= first_authentic, "{what}");
        assert!(!reject.to_string().is_empty());
    }
    assert!(CASES.len() + CHAINS.len() > 70);
}

#[test]
fn chains_that_lead_nowhere_are_refused_with_their_fault() {
    for (fault, what, spoil) in CHAINS {
        let mut scene = Scene::new(Family::Genoa);
        spoil(&mut scene);
        let verdict = scene.verdict();
        assert!(matches!(&verdict, Err(Reject::Chain { fault: got, .. }) if got == fault), "{what}: {verdict:?}");
        assert_eq!(code(&verdict), "chain");
    }
}

#[test]
fn honest_evidence_of_every_family_is_accepted_where_it_is_allowed() {
    for family in Family::ALL {
        let mut scene = Scene::new(family);
        // Milan is off unless an operator says otherwise.
        assert_eq!(code(&scene.verdict()), if family == Family::Milan { "family" } else { "accepted" });
        scene.platforms.families.push(Family::Milan);
        assert_eq!(code(&scene.verdict()), "accepted", "{family}");
    }
}

#[test]
fn what_hosts_may_do_differently_is_accepted() {
    let variations: &[(&str, Spoil)] = &[
        ("no ARK beside the report", |s| s.spoil = Some(|e| e.certificates.retain(|c| c.kind != CertKind::Ark))),
        ("a lying ARK beside the report", |s| {
            s.spoil = Some(|e| Scene::entry(e, CertKind::Ark).data = OTHER_GENOA.ark.certificate().to_vec());
        }),
        ("PEM in the host's table", |s| {
            s.spoil = Some(|e| {
                let vcek = Scene::entry(e, CertKind::Vcek);
                let base64 = data_encoding::BASE64.encode(&vcek.data);
                vcek.data = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n").into_bytes();
            });
        }),
        ("newer firmware than committed", |s| s.fields.current_tcb.microcode += 1),
        ("SMT off, one socket", |s| s.fields.policy = GuestPolicy(0x12_0000)),
    ];
    for (what, spoil) in variations {
        let mut scene = Scene::new(Family::Genoa);
        spoil(&mut scene);
        let verdict = scene.verdict();
        assert_eq!(code(&verdict), "accepted", "{what}: {verdict:?}");
    }
    assert!(variations.len() * 4 < CASES.len());
}

#[test]
fn turin_names_its_chip_by_eight_bytes() {
    let mut scene = Scene::new(Family::Turin);
    scene.spec.hwid = scene.fields.chip_id.as_bytes().to_vec();
    assert_eq!(code(&scene.verdict()), "chip_id", "64 bytes in the certificate");
    let mut scene = Scene::new(Family::Turin);
    let mut chip = *scene.fields.chip_id.as_bytes();
    chip[8] = 1;
    scene.fields.chip_id = ChipId::new(chip);
    assert_eq!(code(&scene.verdict()), "chip_id", "a ninth byte in the report");
    let mut scene = Scene::new(Family::Turin);
    scene.fields.current_tcb.fmc = Some(0);
    assert_eq!(code(&scene.verdict()), "tcb_floor", "fmc below the floor");
    let mut scene = Scene::new(Family::Turin);
    scene.spec.tcb.fmc = None;
    assert_eq!(code(&scene.verdict()), "certificate_tcb", "a certificate without fmc");
}

/// Turns every byte of every certificate over, one at a time.
#[test]
fn no_certificate_byte_may_change() {
    let scene = Scene::new(Family::Genoa);
    let evidence = scene.evidence();
    let expected = Expected { report_data: scene.report_data, platforms: &scene.platforms, enrolled: scene.enrolled.as_ref() };
    assert!(verify(&evidence, &expected, &scene.roots, NOW).is_ok());
    for (nth, entry) in evidence.certificates.iter().enumerate().filter(|(_, entry)| entry.kind != CertKind::Ark) {
        for at in 0..entry.data.len() {
            let mut changed = evidence.clone();
            changed.certificates[nth].data[at] ^= 1;
            assert!(verify(&changed, &expected, &scene.roots, NOW).is_err(), "{:?} byte {at}", entry.kind);
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
        let expected = Expected { report_data: scene.report_data, platforms: &scene.platforms, enrolled: scene.enrolled.as_ref() };
        let mut spliced = good.certificates[0].data.clone();
        let (from, to) = (at.min(spliced.len()), (at + cut).min(spliced.len()));
        spliced.splice(from..to, data.iter().copied().chain([value]));
        for vcek in [data, spliced] {
            let mut evidence = good.clone();
            let same = vcek == good.certificates[0].data;
            evidence.certificates[0].data = vcek;
            prop_assert_eq!(verify(&evidence, &expected, &scene.roots, NOW).is_ok(), same);
        }
    }
}
