//! An independent verifier, the crate `sev`, agrees about chains and signatures: on real evidence, and on what the simulator makes.
//!
//! Where the two differ, and why:
//!
//! | what | `sev` | here |
//! |---|---|---|
//! | dates, revocation, names, key sizes, who may sign what | not looked at | rules `certificate_dates`, `crl`, `certificate_revoked`, `chain` |
//! | which chip, TCB, kind of key a certificate is for | not looked at | rules `chip_id`, `certificate_tcb`, `certificate_kind` |
//! | reserved bytes inside the signed part | lost before the signature is checked, which then fails | signature holds, rule `reserved_bytes` |
//! | anything after the signature | not looked at | rule `reserved_bytes` |
//! | version 4, and every version above 5 | read as the nearest known | rule `report_version` |

use coffer_evidence::{CertKind, Family, Report, SnpEvidence};
use coffer_verify::{Outcome, Rule};
use sev::certs::snp::{Chain, Verifiable};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;

use crate::scene::{ASVK, OTHER_GENOA, Scene, flip};
use crate::vectors;

/// Whether `sev` believes the report, given the chain's certificates as DER.
fn sev_believes(report: &Report, ark: &[u8], intermediate: &[u8], vek: &[u8]) -> bool {
    let Ok(chain) = Chain::from_der(ark, intermediate, vek) else { return false };
    AttestationReport::from_bytes(report.as_bytes()).is_ok_and(|report| (&chain, &report).verify().is_ok())
}

fn sev_believes_evidence(evidence: &SnpEvidence) -> bool {
    let of = |kinds: &[CertKind]| &evidence.certificates.iter().find(|entry| kinds.contains(&entry.kind)).unwrap().data;
    let (ark, ask) = (of(&[CertKind::Ark]), of(&[CertKind::Ask]));
    sev_believes(&evidence.report, ark, ask, of(&[CertKind::Vcek, CertKind::Vlek]))
}

/// What this verifier says about chain and signature alone.
fn we_believe(scene: &Scene, evidence: &SnpEvidence) -> bool {
    let appraisal = scene.appraisal(evidence);
    let holds = |rule: Rule| matches!(appraisal.checks[rule as usize].outcome, Outcome::Pass { .. });
    [Rule::Certificate, Rule::Chain, Rule::SignatureRange, Rule::Signature].into_iter().all(holds)
}

#[test]
fn both_believe_real_evidence() {
    for (case, evidence) in vectors::cases() {
        let name = case["name"].as_str().unwrap();
        let vek = coffer_evidence::Certificate::from_der_or_pem(&evidence.certificates[0].data).unwrap();
        let product = case["product"].as_str().unwrap().to_lowercase();
        let roots = |file: &str| std::fs::read(format!("{}/roots/{file}-{product}.der", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let intermediate = roots(if case["vek_type"] == "VLEK" { "asvk" } else { "ask" });
        assert!(sev_believes(&evidence.report, &roots("ark"), &intermediate, vek.as_der()), "{name}");
        let endorsement = coffer_verify::endorse(&evidence, &coffer_verify::Roots::amd().unwrap()).unwrap();
        assert_eq!(endorsement.family().to_string(), product);
        // A changed report: neither does.
        for at in [0x50, 0x90, 0x1A0, 0x29F] {
            let mut changed = evidence.clone();
            flip(&mut changed, at);
            let believes = sev_believes(&changed.report, &roots("ark"), &intermediate, vek.as_der());
            assert!(!believes, "{name} at {at:#x}");
            let verdict = vectors::appraise(&changed, &vectors::everything(), vectors::SUMMER_2025);
            assert!(verdict.is_err(), "{name} at {at:#x}");
        }
    }
}

#[test]
fn their_built_in_roots_are_ours() {
    use sev::certs::snp::builtin::{genoa, milan, turin};
    let theirs = [
        ("ark-milan", milan::ark()),
        ("ask-milan", milan::ask()),
        ("ark-genoa", genoa::ark()),
        ("ask-genoa", genoa::ask()),
        ("ark-turin", turin::ark()),
        ("ask-turin", turin::ask()),
    ];
    for (name, certificate) in theirs {
        let ours = std::fs::read(format!("{}/roots/{name}.der", env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert_eq!(certificate.unwrap().to_der().unwrap(), ours, "{name}");
    }
}

#[test]
fn both_say_the_same_of_simulated_evidence() {
    let scenes = Family::ALL.map(Scene::new).into_iter().chain([Scene::vlek()]);
    for scene in scenes {
        let good = scene.evidence();
        assert!(sev_believes_evidence(&good) && we_believe(&scene, &good), "{}", scene.hierarchy.family);
        // Fields that a report's meaning rests on, and both numbers of the signature.
        for at in [0x004, 0x008, 0x030, 0x038, 0x050, 0x090, 0x0C0, 0x0E0, 0x140, 0x180, 0x1A0, 0x1E0, 0x1F0, 0x2A0, 0x2CF, 0x2E8, 0x317] {
            let mut changed = good.clone();
            flip(&mut changed, at);
            assert_eq!((sev_believes_evidence(&changed), we_believe(&scene, &changed)), (false, false), "{at:#x}");
        }
        // Every link of the chain, by somebody else.
        for (nth, other) in
            [(1, OTHER_GENOA.ask.certificate()), (1, ASVK.certificate()), (0, scene.evidence().certificates[0].data.as_slice())]
        {
            let mut changed = good.clone();
            if changed.certificates[nth].data == other {
                continue;
            }
            changed.certificates[nth].data = other.to_vec();
            assert_eq!((sev_believes_evidence(&changed), we_believe(&scene, &changed)), (false, false), "{nth}");
        }
    }
}

/// The rows of the table above that can be shown.
#[test]
fn where_the_two_differ_by_design() {
    let mut late = Scene::new(Family::Genoa);
    late.spec.not_after = coffer_verify::UnixTime(crate::scene::NOW.0 - 1);
    let mut other_chip = Scene::new(Family::Genoa);
    other_chip.spec.hwid[0] ^= 1;
    let mut stranger = Scene::new(Family::Genoa);
    stranger.spec.organisation = "Coffer".into();
    for (scene, rule) in [(late, Rule::CertificateDates), (other_chip, Rule::ChipId), (stranger, Rule::Chain)] {
        let evidence = scene.evidence();
        assert!(sev_believes_evidence(&evidence), "{rule}");
        assert_eq!(scene.verdict_on(&evidence).unwrap_err().rule(), rule);
    }
    let reserved = Scene { bytes: Some(|bytes| bytes[0x29F] = 1), ..Scene::new(Family::Genoa) };
    let evidence = reserved.evidence();
    assert!(!sev_believes_evidence(&evidence) && we_believe(&reserved, &evidence));
    let trailing = Scene { spoil: Some(|evidence| flip(evidence, 0x400)), ..Scene::new(Family::Genoa) };
    let evidence = trailing.evidence();
    assert!(sev_believes_evidence(&evidence));
    assert_eq!(trailing.verdict_on(&evidence).unwrap_err().rule(), Rule::ReservedBytes);
}
