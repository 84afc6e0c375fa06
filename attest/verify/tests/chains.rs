//! Chains that lead nowhere, each refused with its fault.

use coffer_evidence::{CertKind, Family, SnpEvidence};
use coffer_simulator::{Authority, AuthoritySpec, Platform, Vcek, VcekSpec};
use coffer_verify::{ChainFault, Roots, RootsError, Rule, UnixTime};

use crate::negatives::{Spoil, replace};
use crate::scene::{ASVK, GENOA, MILAN, NOW, OTHER_GENOA, Scene, entry};

/// (fault, what is wrong). Each spoils an honest Genoa scene.
const CHAINS: &[(ChainFault, &str, Spoil)] = &[
    (ChainFault::NoIssuer, "no intermediate", |s| s.spoil = Some(|e| e.certificates.retain(|c| c.kind != CertKind::Ask))),
    (ChainFault::NoIssuer, "intermediate of another family", |s| {
        s.spoil = Some(|e| entry(e, CertKind::Ask).data = MILAN.ask.certificate().to_vec());
    }),
    (ChainFault::NoIssuer, "intermediate for VLEKs", |s| {
        s.spoil = Some(|e| entry(e, CertKind::Ask).data = ASVK.certificate().to_vec());
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
        s.spoil = Some(|e| entry(e, CertKind::Ask).data = OTHER_GENOA.ask.certificate().to_vec());
    }),
    (ChainFault::Signature, "another simulator's processor", |s| s.intermediate = &OTHER_GENOA.ask),
    (ChainFault::UnknownRoot, "root of another family", |s| s.roots = Roots::simulated(MILAN.ark.certificate()).unwrap()),
    (ChainFault::CommonName, "VCEK of another name", |s| s.spec.common_name = "SEV-VCEK2".into()),
    (ChainFault::CommonName, "intermediate in the place of the VCEK", |s| {
        s.spoil = Some(|e| entry(e, CertKind::Vcek).data = GENOA.ask.certificate().to_vec());
    }),
    (ChainFault::CommonName, "VCEK signed by the intermediate for VLEKs", |s| s.intermediate = &ASVK),
    (ChainFault::CommonName, "VCEK signed by the root, the root in the place of the intermediate", |s| {
        s.spoil = Some(|e| {
            entry(e, CertKind::Vcek).data = vcek_by(&GENOA.ark);
            entry(e, CertKind::Ask).data = GENOA.ark.certificate().to_vec();
        });
    }),
    (ChainFault::CommonName, "intermediate of another family's name by this family's root", |s| {
        s.spoil = Some(|e| reissue(e, |spec| spec.common_name = "SEV-Milan".into()));
    }),
    (ChainFault::Organisation, "VCEK of another organisation", |s| s.spec.organisation = "Coffer".into()),
    (ChainFault::Organisation, "VCEK of an organisation that begins alike", |s| s.spec.organisation = "Coffer simulator 2".into()),
    (ChainFault::NotCa, "intermediate that may not sign certificates", |s| {
        s.spoil = Some(|e| {
            let spec = AuthoritySpec { signs_certificates: false, ..AuthoritySpec::named("SEV-Genoa", 9, NOW) };
            entry(e, CertKind::Ask).data = GENOA.ark.certify(&GENOA.ask, &spec).unwrap().certificate().to_vec();
        });
    }),
    (ChainFault::KeyType, "VCEK with an RSA key", |s| {
        s.spoil = Some(|e| {
            let spec = AuthoritySpec::named("SEV-VCEK", 0, NOW);
            entry(e, CertKind::Vcek).data = GENOA.ask.certify(&ASVK, &spec).unwrap().certificate().to_vec();
        });
    }),
    (ChainFault::KeyType, "intermediate with an RSA key of 2048 bits", |s| {
        s.spoil = Some(|e| {
            let small = GENOA.ark.certify_new(&AuthoritySpec::named("SEV-Genoa", 9, NOW), 2048).unwrap();
            entry(e, CertKind::Vcek).data = vcek_by(&small);
            entry(e, CertKind::Ask).data = small.certificate().to_vec();
        });
    }),
    (ChainFault::NotCa, "VCEK signed by another VCEK", |s| {
        s.spoil = Some(|e| {
            let mut spec = VcekSpec::of(&Platform::random(Family::Genoa).unwrap(), NOW);
            spec.common_name = "SEV-Genoa".into();
            entry(e, CertKind::Ask).data = Vcek::issue(&spec, &GENOA.ark).unwrap().certificate().to_vec();
        });
    }),
    (ChainFault::Algorithm, "salt of 32 bytes", |s| {
        s.spoil = Some(|e| replace(&mut entry(e, CertKind::Vcek).data, &[0xA2, 3, 2, 1, 48], &[0xA2, 3, 2, 1, 32]));
    }),
    (ChainFault::Algorithm, "SHA-256", |s| {
        s.spoil = Some(|e| {
            replace(&mut entry(e, CertKind::Vcek).data, &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2], &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1]);
        });
    }),
    (ChainFault::Algorithm, "PKCS #1 version 1.5 with SHA-384", |s| {
        s.spoil = Some(|e| {
            // id-RSASSA-PSS (1.2.840.113549.1.1.10) becomes sha384WithRSAEncryption (…12).
            replace(
                &mut entry(e, CertKind::Vcek).data,
                &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 10],
                &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 12],
            );
        });
    }),
    (ChainFault::CriticalExtension, "a critical extension nobody knows", |s| s.spec.extra = vec![(vec![0x2A, 3, 4], true, vec![5, 0])]),
];

/// A VCEK certificate by this authority.
fn vcek_by(authority: &Authority) -> Vec<u8> {
    let spec = VcekSpec::of(&Platform::random(Family::Genoa).unwrap(), NOW);
    Vcek::issue(&spec, authority).unwrap().certificate().to_vec()
}

/// A new intermediate by the same root, and a VCEK by it.
fn reissue(evidence: &mut SnpEvidence, change: fn(&mut AuthoritySpec)) {
    let mut spec = AuthoritySpec::named("SEV-Genoa", 9, NOW);
    change(&mut spec);
    let intermediate = GENOA.ark.certify(&GENOA.ask, &spec).unwrap();
    entry(evidence, CertKind::Vcek).data = vcek_by(&intermediate);
    entry(evidence, CertKind::Ask).data = intermediate.certificate().to_vec();
}

#[test]
fn chains_that_lead_nowhere_are_refused_with_their_fault() {
    for (fault, what, spoil) in CHAINS {
        let mut scene = Scene::new(Family::Genoa);
        spoil(&mut scene);
        let reject = scene.verdict().unwrap_err();
        assert_eq!(reject.rule(), Rule::Chain, "{what}: {reject}");
        assert!(reject.got().ends_with(&fault.to_string()), "{what}: {reject}");
        assert!(!reject.is_authenticated());
    }
}

/// What is logged of a stranger's certificate is bounded, whatever it is called.
#[test]
fn a_long_name_makes_no_long_message() {
    let mut scene = Scene::new(Family::Genoa);
    scene.spec.common_name = "SEV-VCEK\u{1}".repeat(5000);
    let reject = scene.verdict().unwrap_err();
    assert_eq!(reject.rule(), Rule::Chain);
    assert!(reject.to_string().len() < 1000 && reject.to_string().contains("SEV-VCEK\\u{1}SEV-VCEK"), "{reject}");
}

#[test]
fn an_extension_that_is_not_critical_is_passed_over() {
    let mut scene = Scene::new(Family::Genoa);
    scene.spec.extra = vec![(vec![0x2A, 3, 4], false, vec![5, 0])];
    assert_eq!(scene.verdict(), Ok(()));
}

#[test]
fn an_intermediate_of_another_organisation_is_refused() {
    let mut scene = Scene::new(Family::Genoa);
    // A name of which only the organisation differs: the VCEK names its issuer as the simulator always does, so nothing leads there.
    scene.spoil = Some(|e| reissue(e, |spec| spec.organisation = "Coffer".into()));
    let reject = scene.verdict().unwrap_err();
    assert!(reject.got().ends_with(&ChainFault::NoIssuer.to_string()), "{reject}");
    let spec = AuthoritySpec { organisation: "Coffer".into(), ..AuthoritySpec::named("SEV-Genoa", 9, NOW) };
    let intermediate = GENOA.ark.certify(&GENOA.ask, &spec).unwrap();
    let certificate = coffer_evidence::Certificate::from_der(intermediate.certificate()).unwrap();
    let reject = scene.roots.check_intermediate(&certificate).unwrap_err();
    assert!(reject.got().ends_with(&ChainFault::Organisation.to_string()), "{reject}");
}

#[test]
fn intermediates_and_roots_are_told_apart() {
    let roots = Roots::simulated(GENOA.ark.certificate()).unwrap();
    let certificate = |authority: &Authority| coffer_evidence::Certificate::from_der(authority.certificate()).unwrap();
    assert_eq!(roots.check_intermediate(&certificate(&GENOA.ask)).unwrap(), (Family::Genoa, coffer_evidence::VekKind::Vcek));
    assert_eq!(roots.check_intermediate(&certificate(&ASVK)).unwrap(), (Family::Genoa, coffer_evidence::VekKind::Vlek));
    for stranger in [&OTHER_GENOA.ask, &MILAN.ask, &GENOA.ark] {
        assert_eq!(roots.check_intermediate(&certificate(stranger)).unwrap_err().rule(), Rule::Chain);
    }
    assert_eq!(roots.family_of_root(&certificate(&GENOA.ark)), Some(Family::Genoa));
    for stranger in [&OTHER_GENOA.ark, &GENOA.ask] {
        assert_eq!(roots.family_of_root(&certificate(stranger)), None);
    }
    // A root with a short key is none.
    let small = GENOA.ark.certify_new(&AuthoritySpec::named("ARK-Genoa", 1, UnixTime(NOW.0)), 2048).unwrap();
    assert!(matches!(Roots::simulated(small.certificate()), Err(RootsError::Fault { fault: ChainFault::KeyType })));
}
