//! Revocation lists: which are believed, which of two counts, and what they cannot say.

use coffer_evidence::{Crl, Family};
use coffer_simulator::{ASK_SERIAL, ASVK_SERIAL, AuthoritySpec, CrlSpec};
use coffer_verify::{Added, ChainFault, Collateral, CrlError, Roots, Rule, UnixTime, VerifiedCrl};
use proptest::prelude::*;

use crate::scene::{GENOA, MILAN, NOW, OTHER_GENOA, Scene, TURIN, rule};

fn spec(number: u32, day: u64, revoked: Vec<u32>) -> CrlSpec {
    let at = UnixTime(NOW.0 + day * 86_400);
    CrlSpec { revoked, ..CrlSpec::empty(number, at, UnixTime(at.0 + 86_400)) }
}

fn genoa() -> Roots {
    Roots::simulated(GENOA.ark.certificate()).unwrap()
}

fn list(number: u32, day: u64, revoked: Vec<u32>) -> VerifiedCrl {
    genoa().check_crl(&GENOA.ark.revocation_list(&spec(number, day, revoked)).unwrap()).unwrap()
}

#[test]
fn a_list_says_what_its_root_signed() {
    let der = GENOA.ark.revocation_list(&spec(3, 0, vec![0, 7, ASK_SERIAL])).unwrap();
    let verified = genoa().check_crl(&der).unwrap();
    let crl = verified.crl();
    assert_eq!((verified.family(), crl.this_update(), crl.next_update()), (Family::Genoa, NOW, Some(UnixTime(NOW.0 + 86_400))));
    assert_eq!(crl.revoked().iter().map(ToString::to_string).collect::<Vec<_>>(), ["0", "07", "020002"]);
    assert_eq!(crl.number().unwrap().to_string(), "03");
    let pem = format!("-----BEGIN X509 CRL-----\n{}\n-----END X509 CRL-----\n", data_encoding::BASE64.encode(&der));
    assert_eq!(genoa().check_crl(pem.as_bytes()).unwrap(), verified);
    // Without a next update, and with nothing revoked.
    let bare = CrlSpec { next_update: None, ..spec(1, 0, vec![]) };
    let bare = genoa().check_crl(&GENOA.ark.revocation_list(&bare).unwrap()).unwrap();
    assert_eq!((bare.crl().next_update(), bare.crl().revoked().len()), (None, 0));
}

#[test]
fn a_list_that_the_root_did_not_sign_or_nobody_understands_is_refused() {
    let good = GENOA.ark.revocation_list(&spec(1, 0, vec![7])).unwrap();
    let fault = |der: &[u8]| match genoa().check_crl(der) {
        Err(CrlError::Fault { fault }) => fault,
        other => panic!("{other:?}"),
    };
    // Another root of the same name.
    assert_eq!(fault(&OTHER_GENOA.ark.revocation_list(&spec(1, 0, vec![7])).unwrap()), ChainFault::Signature);
    // A list of a part only must not be taken for the whole.
    assert_eq!(
        fault(&GENOA.ark.revocation_list(&CrlSpec { partial: true, ..spec(1, 0, vec![7]) }).unwrap()),
        ChainFault::CriticalExtension
    );
    let mut weaker = good.clone();
    crate::negatives::replace(&mut weaker, &[0xA2, 3, 2, 1, 48], &[0xA2, 3, 2, 1, 32]);
    assert_eq!(fault(&weaker), ChainFault::Algorithm);
    // An issuer that is no root: an intermediate may not speak for its root, whatever it signs.
    for stranger in [&GENOA.ask, &MILAN.ark, &TURIN.ark] {
        let refused = genoa().check_crl(&stranger.revocation_list(&spec(1, 0, vec![7])).unwrap());
        assert!(matches!(refused, Err(CrlError::Issuer { .. })), "{refused:?}");
    }
    assert!(matches!(Roots::amd().unwrap().check_crl(&good), Err(CrlError::Issuer { .. })));
    for bytes in [&b""[..], b"crl", &good[..good.len() - 1], &[&good[..], &[0]].concat(), GENOA.ark.certificate()] {
        assert!(matches!(genoa().check_crl(bytes), Err(CrlError::Malformed(_))));
    }
}

#[test]
fn a_root_that_may_not_sign_lists_has_none() {
    let spec_without = AuthoritySpec { signs_crls: false, ..AuthoritySpec::named("ARK-Genoa", 1, NOW) };
    // The same key, certified by itself once more without the right.
    let ark = GENOA.ark.certify(&GENOA.ark, &spec_without).unwrap();
    let roots = Roots::simulated(ark.certificate()).unwrap();
    let refused = roots.check_crl(&ark.revocation_list(&spec(1, 0, vec![])).unwrap());
    assert!(matches!(refused, Err(CrlError::Fault { fault: ChainFault::NotCa })), "{refused:?}");
}

#[test]
fn no_byte_of_a_list_may_change() {
    let good = GENOA.ark.revocation_list(&spec(1, 0, vec![7, ASK_SERIAL])).unwrap();
    let roots = genoa();
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        assert!(roots.check_crl(&changed).is_err(), "byte {at}");
    }
}

#[test]
fn an_older_list_never_replaces_a_newer_one_and_takes_no_revocation_back() {
    let serial = |list: &VerifiedCrl| list.crl().revoked()[0].clone();
    let (old, new) = (list(4, 1, vec![4]), list(5, 2, vec![5]));
    for order in [[&old, &new], [&new, &old]] {
        let mut collateral = Collateral::new();
        let added: Vec<_> = order.into_iter().map(|list| collateral.add(list.clone())).collect();
        assert_eq!(added[0], Added::Newest);
        assert_eq!(added[1], if order[0] == &old { Added::Newest } else { Added::Older });
        assert_eq!(collateral.newest(Family::Genoa), Some(&new));
        assert!(collateral.revokes(Family::Genoa, &serial(&old)) && collateral.revokes(Family::Genoa, &serial(&new)));
        assert!(!collateral.revokes(Family::Milan, &serial(&new)));
        assert_eq!(collateral.add(new.clone()), Added::Same);
    }
    // The number decides before the date: a clock may have been wrong.
    let mut collateral = Collateral::new();
    collateral.add(list(300, 1, vec![]));
    assert_eq!(collateral.add(list(5, 9, vec![])), Added::Older);
}

#[test]
fn an_old_list_handed_in_last_does_not_unrevoke() {
    let mut scene = Scene::new(Family::Genoa);
    scene.collateral.add(list(2, 0, vec![ASK_SERIAL]));
    assert_eq!(scene.collateral.add(list(1, 0, vec![])), Added::Older);
    assert_eq!(rule(&scene.verdict()), Some(Rule::CertificateRevoked));
    // Nor does a newer one that has forgotten it.
    assert_eq!(scene.collateral.add(list(3, 0, vec![])), Added::Newest);
    assert_eq!(rule(&scene.verdict()), Some(Rule::CertificateRevoked));
}

#[test]
fn a_list_for_vleks_and_one_for_vceks_do_not_shadow_each_other() {
    let (mut vcek, mut vlek) = (Scene::new(Family::Genoa), Scene::vlek());
    for collateral in [&mut vcek.collateral, &mut vlek.collateral] {
        collateral.add(list(1, 0, vec![ASVK_SERIAL]));
        collateral.add(list(2, 0, vec![7]));
    }
    assert_eq!(vcek.verdict(), Ok(()));
    assert_eq!(rule(&vlek.verdict()), Some(Rule::CertificateRevoked));
}

#[test]
fn another_familys_list_is_nothing_to_this_one() {
    let mut scene = Scene::new(Family::Genoa);
    let turin = Roots::simulated(TURIN.ark.certificate()).unwrap();
    let all = CrlSpec { revoked: vec![ASK_SERIAL], ..spec(1, 0, vec![]) };
    scene.collateral.add(turin.check_crl(&TURIN.ark.revocation_list(&all).unwrap()).unwrap());
    assert_eq!(scene.verdict(), Ok(()));
    scene.values().crl = coffer_verify::CrlRule::Required;
    assert_eq!(rule(&scene.verdict()), Some(Rule::Crl));
}

proptest! {
    #[test]
    fn damaged_lists_are_refused_or_unverified(cut in 0_usize..700, data in proptest::collection::vec(any::<u8>(), 0..40)) {
        let good = GENOA.ark.revocation_list(&spec(1, 0, vec![7])).unwrap();
        let mut damaged = good.clone();
        let (from, to) = (cut.min(damaged.len()), (cut + data.len()).min(damaged.len()));
        damaged.splice(from..to, data);
        if let Ok(crl) = Crl::from_der(&damaged) {
            prop_assert_eq!(crl.as_der(), &damaged[..]);
        }
        prop_assert_eq!(genoa().check_crl(&damaged).is_ok(), damaged == good);
    }
}
