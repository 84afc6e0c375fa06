//! The library without a network: what is believed, what is kept, what a request gets.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, OnceLock};

use coffer_evidence::{CertEntry, GuestPolicy, HostData, LaunchDigest, ReportData, TcbVersion};
use coffer_simulator::{ASK_SERIAL, Asp, CrlSpec, Guest, Hierarchy, Platform, Vcek, VcekSpec};

use super::kds::PUBLIC_URL;
use super::*;

const PEER: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));

fn hierarchy() -> &'static Hierarchy {
    static MADE: OnceLock<Hierarchy> = OnceLock::new();
    MADE.get_or_init(|| Hierarchy::generate(Family::Genoa, UnixTime(unix_now())).unwrap())
}

fn other_hierarchy() -> &'static Hierarchy {
    static MADE: OnceLock<Hierarchy> = OnceLock::new();
    MADE.get_or_init(|| Hierarchy::generate(Family::Genoa, UnixTime(unix_now())).unwrap())
}

fn roots() -> Roots {
    Roots::simulated(hierarchy().ark.certificate()).unwrap()
}

fn processor() -> Asp {
    Asp::new(hierarchy(), UnixTime(unix_now())).unwrap()
}

/// A processor whose certificate says something else.
fn processor_with(change: impl FnOnce(&mut VcekSpec)) -> Asp {
    let platform = Platform::random(Family::Genoa).unwrap();
    let mut spec = VcekSpec::of(&platform, UnixTime(unix_now()));
    change(&mut spec);
    let vcek = Vcek::issue(&spec, &hierarchy().ask).unwrap();
    Asp::from_parts(platform, hierarchy().ark.certificate().to_vec(), hierarchy().ask.certificate().to_vec(), vcek)
}

/// Its report, with only these certificates beside it.
fn evidence(asp: &Asp, kinds: &[CertKind]) -> SnpEvidence {
    let guest = Guest::launch(LaunchDigest::new([1; 48]), HostData::new([2; 32]), GuestPolicy(0x3_0000)).unwrap();
    let mut evidence = asp.evidence(&guest, ReportData::new([3; 64])).unwrap();
    evidence.certificates.retain(|entry| kinds.contains(&entry.kind));
    evidence
}

fn key(asp: &Asp) -> ChipTcb {
    ChipTcb::new(Family::Genoa, asp.platform().hwid(), asp.platform().tcb).unwrap()
}

/// A database that is a list.
#[derive(Default)]
struct Rows(Mutex<Vec<CollateralRow>>);

impl Keep for Rows {
    fn keep(&self, put: &[CollateralRow], drop: &[(CollateralKind, Family, String)]) -> Result<(), StoreError> {
        let mut rows = self.0.lock().unwrap();
        rows.retain(|row| !drop.contains(&(row.kind, row.family, row.key.clone())));
        for new in put {
            rows.retain(|row| (row.kind, row.family, &row.key) != (new.kind, new.family, &new.key));
            rows.push(new.clone());
        }
        Ok(())
    }
}

impl Rows {
    fn reopened(&self) -> Library {
        Library::open(self.0.lock().unwrap().clone(), roots(), None)
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

fn closed() -> Library {
    Library::open(Vec::new(), roots(), None)
}

/// A library that may fetch, from a server that nobody asks in these tests: no thread works.
fn open_to_kds() -> Library {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let certificate = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap();
    std::fs::write(&ca, certificate.cert.pem()).unwrap();
    Library::open(Vec::new(), roots(), Some(Kds::new(PUBLIC_URL, &ca).unwrap()))
}

fn admin() -> Source {
    Source::Import("ada".to_owned())
}

fn import(library: &Library, rows: &Rows, der: &[u8]) -> Taken {
    library.import(&[der.to_vec()], &admin(), rows).unwrap().remove(0)
}

fn refusal(taken: &Taken) -> &str {
    match taken {
        Taken::Refused(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_report_alone_is_completed_from_what_was_imported_and_verifies() {
    let (library, rows, asp) = (closed(), Rows::default(), processor());
    let bare = || evidence(&asp, &[]);
    let missing = library.complete(bare(), PEER).unwrap_err();
    assert_eq!(missing.retry_after_s, None);
    assert!(missing.to_string().contains("[kds] is not enabled"), "{missing}");

    // In an order in which the VCEK's issuer is not known yet; PEM or DER is the bundle's matter.
    let ders = vec![asp.vcek().certificate().to_vec(), asp.ask().to_vec(), asp.ark().to_vec()];
    let taken = library.import(&ders, &admin(), &rows).unwrap();
    assert!(matches!(&taken[..], [Taken::New(_), Taken::New(_), Taken::Known(_)]), "{taken:?}");
    assert_eq!(library.import(&ders, &admin(), &rows).unwrap().iter().filter(|t| matches!(t, Taken::Known(_))).count(), 3);
    for library in [&library, &rows.reopened()] {
        for kinds in [&[][..], &[CertKind::Vcek], &[CertKind::Ask], &[CertKind::Vcek, CertKind::Ask, CertKind::Ark]] {
            let Completed { evidence, is_new } = library.complete(evidence(&asp, kinds), None).unwrap();
            assert!(!is_new);
            coffer_verify::endorse(&evidence, &roots()).unwrap();
        }
    }
    // Exact: neither another chip nor another TCB.
    let other = processor();
    assert!(library.complete(evidence(&other, &[]), PEER).is_err());
    let mut platform = asp.platform().clone();
    platform.tcb = TcbVersion { microcode: platform.tcb.microcode - 1, ..platform.tcb };
    let vcek = Vcek::issue(&VcekSpec::of(&platform, UnixTime(unix_now())), &hierarchy().ask).unwrap();
    let older = Asp::from_parts(platform, asp.ark().to_vec(), asp.ask().to_vec(), vcek);
    assert!(library.complete(evidence(&older, &[]), PEER).is_err());
}

#[test]
fn garbage_is_refused_by_name_and_never_stored() {
    let (library, rows) = (closed(), Rows::default());
    let now = unix_now();
    assert!(matches!(import(&library, &rows, hierarchy().ask.certificate()), Taken::New(_)));
    let foreign = Asp::new(other_hierarchy(), UnixTime(now)).unwrap();
    let whole = processor();
    let mut flipped = processor().vcek().certificate().to_vec();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    let expired = processor_with(|spec| (spec.not_before, spec.not_after) = (UnixTime(now - 99), UnixTime(now - 9)));
    let nameless = processor_with(|spec| spec.hwid = Vec::new());
    let zero = processor_with(|spec| spec.hwid = vec![0; 64]);
    let product = processor_with(|spec| spec.product = "Turin".into());
    let short = processor_with(|spec| spec.hwid = vec![1; 8]);
    let foreign_list = other_hierarchy().ark.revocation_list(&CrlSpec::empty(9, UnixTime(now), UnixTime(now + 9))).unwrap();
    let mut list = hierarchy().ark.revocation_list(&CrlSpec::empty(9, UnixTime(now), UnixTime(now + 9))).unwrap();
    let last = list.len() - 1;
    list[last] ^= 1;
    let partial = CrlSpec { partial: true, ..CrlSpec::empty(9, UnixTime(now), UnixTime(now + 9)) };
    let partial = hierarchy().ark.revocation_list(&partial).unwrap();
    let cases: [(&[u8], &str); 15] = [
        (b"", "neither a certificate nor a revocation list"),
        (b"\x30\x03\x02\x01\x01", "neither a certificate nor a revocation list"),
        (&whole.vcek().certificate()[..700], "neither a certificate nor a revocation list"),
        (foreign.vcek().certificate(), "chain"),
        (foreign.ask(), "chain"),
        (foreign.ark(), "is a root, and not the one"),
        (&flipped, "chain"),
        (expired.vcek().certificate(), "expired at"),
        (nameless.vcek().certificate(), "does not say which chip"),
        (zero.vcek().certificate(), "all zeros"),
        (short.vcek().certificate(), "128 hexadecimal digits"),
        (product.vcek().certificate(), "product `Turin`"),
        (&list, "revocation list"),
        (&foreign_list, "revocation list"),
        (&partial, "revocation list"),
    ];
    for (der, says) in cases {
        let taken = import(&library, &rows, der);
        assert!(refusal(&taken).contains(says), "{says}: {taken:?}");
    }
    assert_eq!(rows.count(), 1, "the one good intermediate");
}

#[test]
fn an_answer_that_is_not_what_was_asked_for_is_garbage() {
    let (library, rows, asp, other) = (closed(), Rows::default(), processor(), processor());
    import(&library, &rows, asp.ask());
    let wanted = Request::Vcek(key(&asp));
    let list = |number| hierarchy().ark.revocation_list(&CrlSpec::empty(number, UnixTime(unix_now()), UnixTime(unix_now() + 99))).unwrap();
    let big = vec![0x30; bundle::MAX_FILE_BYTES + 1];
    for (request, answer) in [
        (&wanted, other.vcek().certificate()),
        (&wanted, asp.ask()),
        (&wanted, &asp.vcek().certificate()[..900]),
        (&wanted, b"<html>please wait</html>"),
        (&wanted, b""),
        (&wanted, &big),
        (&wanted, &list(1)),
        (&Request::Crl(Family::Genoa), asp.vcek().certificate()),
        (&Request::Crl(Family::Turin), &list(1)),
        (&Request::Chain(Family::Turin, VekKind::Vcek), asp.ask()),
        (&Request::Chain(Family::Genoa, VekKind::Vcek), asp.ark()),
    ] {
        let outcome = library.take_answer(request, answer, &rows);
        assert!(matches!(&outcome, Outcome::Garbage(why) if why.starts_with("the answer")), "{request}: {outcome:?}");
    }
    assert_eq!(rows.count(), 1, "nothing was stored");
    assert_eq!(library.take_answer(&wanted, asp.vcek().certificate(), &rows), Outcome::Stored);
    // A list that goes back in time is an attack, or a stale mirror.
    assert_eq!(library.take_answer(&Request::Crl(Family::Genoa), &list(5), &rows), Outcome::Stored);
    let older = library.take_answer(&Request::Crl(Family::Genoa), &list(4), &rows);
    assert!(matches!(&older, Outcome::Garbage(why) if why.contains("is older than")), "{older:?}");
    assert_eq!(rows.count(), 3);
}

#[test]
fn nobody_takes_a_revocation_back_not_even_by_a_restart() {
    let (library, rows, asp) = (closed(), Rows::default(), processor());
    let now = unix_now();
    let list = |number, at, revoked: &[u32]| {
        let spec = CrlSpec { revoked: revoked.to_vec(), ..CrlSpec::empty(number, UnixTime(at), UnixTime(now + 999)) };
        hierarchy().ark.revocation_list(&spec).unwrap()
    };
    import(&library, &rows, asp.ask());
    let revokes = |library: &Library| {
        let Completed { evidence, .. } = library.complete(evidence(&asp, &[CertKind::Vcek]), None).unwrap();
        let endorsement = coffer_verify::endorse(&evidence, &roots()).unwrap();
        library.collateral().revokes(Family::Genoa, endorsement.intermediate())
    };
    assert!(matches!(import(&library, &rows, &list(1, now - 50, &[])), Taken::New(_)));
    assert!(!revokes(&library));
    assert!(matches!(import(&library, &rows, &list(2, now - 40, &[ASK_SERIAL])), Taken::New(_)));
    assert!(revokes(&library) && revokes(&rows.reopened()));
    assert_eq!(rows.count(), 2, "the first list said nothing that the second does not say");
    assert!(refusal(&import(&library, &rows, &list(1, now - 60, &[]))).contains("is older than"));
    // An older one that revokes something else counts beside the newest, also after a restart, and does not take its place.
    assert!(matches!(import(&library, &rows, &list(1, now - 60, &[7])), Taken::New(_)));
    let reopened = rows.reopened();
    for library in [&library, &reopened] {
        let newest = library.collateral().newest(Family::Genoa).unwrap().crl().this_update();
        assert!(revokes(library) && newest == UnixTime(now - 40), "{newest:?}");
    }
    // A newer list that no longer names it does not un-revoke it.
    assert!(matches!(import(&library, &rows, &list(3, now - 30, &[])), Taken::New(_)));
    assert!(revokes(&library) && revokes(&rows.reopened()));
    // Nor does anything new get in under the revoked intermediate.
    assert!(refusal(&import(&library, &rows, asp.vcek().certificate())).contains("revoked"));
    assert!(refusal(&import(&library, &rows, asp.ask())).contains("revoked"));
}

#[test]
fn hosts_certificates_are_kept_only_once_their_report_was_accepted() {
    let (library, rows, asp) = (closed(), Rows::default(), processor());
    let all = [CertKind::Vcek, CertKind::Ask, CertKind::Ark];
    let Completed { evidence: whole, is_new } = library.complete(evidence(&asp, &all), PEER).unwrap();
    assert!(is_new);
    library.work_once(&rows);
    assert!(library.complete(evidence(&asp, &[]), PEER).is_err(), "completing keeps nothing");
    assert_eq!(rows.count(), 0);
    library.remember(&whole);
    library.remember(&whole);
    library.work_once(&rows);
    assert_eq!(rows.count(), 2);
    assert!(!library.complete(evidence(&asp, &[]), PEER).unwrap().is_new);
    assert!(!rows.reopened().complete(evidence(&asp, &all), PEER).unwrap().is_new);
    // What does not verify is not kept, whoever says it was accepted.
    let foreign = Asp::new(other_hierarchy(), UnixTime(unix_now())).unwrap();
    library.remember(&evidence(&foreign, &all));
    library.work_once(&rows);
    assert_eq!(rows.count(), 2);
}

#[test]
fn what_hosts_bring_is_bounded_per_chip_and_in_the_queue() {
    let (library, rows) = (closed(), Rows::default());
    let asp_certificate = processor().vcek().certificate().to_vec();
    import(&library, &rows, hierarchy().ask.certificate());
    let platform = Platform::random(Family::Genoa).unwrap();
    for microcode in 0..40 {
        let mut spec = VcekSpec::of(&platform, UnixTime(unix_now()));
        spec.tcb.microcode = microcode;
        let vcek = Vcek::issue(&spec, &hierarchy().ask).unwrap();
        let entry = CertEntry { kind: CertKind::Vcek, data: vcek.certificate().to_vec() };
        library.remember(&SnpEvidence { certificates: vec![entry], ..evidence(&processor(), &[]) });
    }
    library.work_once(&rows);
    assert_eq!(rows.count(), 1 + 16);
    let vcek = Vcek::issue(
        &VcekSpec { tcb: TcbVersion { microcode: 99, ..platform.tcb }, ..VcekSpec::of(&platform, UnixTime(unix_now())) },
        &hierarchy().ask,
    );
    assert!(matches!(import(&library, &rows, vcek.unwrap().certificate()), Taken::New(_)), "an admin is not held to the hosts' share");
    let crowd: Vec<_> = (0..2 * MAX_FRESH).map(|n| foreign_copy(&asp_certificate, n)).collect();
    for entry in crowd {
        library.remember(&SnpEvidence { certificates: vec![entry], ..evidence(&processor(), &[]) });
    }
    assert_eq!(library.desk().fresh.len(), MAX_FRESH);
}

/// The same certificate with another signature: readable, and of nobody.
fn foreign_copy(der: &[u8], n: usize) -> CertEntry {
    let mut data = der.to_vec();
    let end = data.len() - 8;
    data[end..].copy_from_slice(&n.to_be_bytes());
    CertEntry { kind: CertKind::Vcek, data }
}

#[test]
fn only_enrolled_guests_of_one_known_chip_cause_a_fetch() {
    let library = open_to_kds();
    let asp = processor();
    let waiting = |library: &Library| library.desk().queue.waiting().cloned().collect::<Vec<_>>();
    let stranger = library.complete(evidence(&asp, &[]), None).unwrap_err();
    assert_eq!(stranger.retry_after_s, None);
    assert!(stranger.to_string().contains("not enrolled"), "{stranger}");
    // A masked chip id, or a CPU of no family, names nothing to fetch.
    let changed = |change: fn(&mut coffer_evidence::ReportFields)| {
        let guest = Guest::launch(LaunchDigest::new([1; 48]), HostData::new([2; 32]), GuestPolicy(0x3_0000)).unwrap();
        let mut fields = asp.fields(&guest, ReportData::new([3; 64]), 0);
        change(&mut fields);
        SnpEvidence { certificates: vec![], ..asp.evidence_of(&fields).unwrap() }
    };
    for odd in [
        changed(|fields| fields.chip_id = coffer_evidence::ChipId::new([0; 64])),
        changed(|fields| fields.cpuid = Some(coffer_evidence::Cpuid { family: 0x19, model: 0x50, stepping: 0 })),
        changed(|fields| fields.key_info = coffer_evidence::KeyInfo(1 << 2)),
    ] {
        assert_eq!(library.complete(odd, PEER).unwrap_err().retry_after_s, None);
    }
    assert_eq!(waiting(&library), []);

    for _ in 0..100 {
        let pending = library.complete(evidence(&asp, &[]), PEER).unwrap_err();
        assert!(pending.retry_after_s.is_some_and(|wait| (1..=MAX_RETRY_AFTER_S).contains(&wait)), "{pending:?}");
    }
    assert_eq!(waiting(&library), [Request::Vcek(key(&asp))]);
}

/// After a firmware update a host may go on handing out the certificate of before: what fits the report is fetched instead.
#[test]
fn a_stale_certificate_of_the_host_is_replaced_or_left_to_the_verifier() {
    let asp = processor();
    let mut platform = asp.platform().clone();
    platform.tcb = TcbVersion { microcode: platform.tcb.microcode + 1, ..platform.tcb };
    let vcek = Vcek::issue(&VcekSpec::of(&platform, UnixTime(unix_now())), &hierarchy().ask).unwrap();
    let updated = Asp::from_parts(platform, asp.ark().to_vec(), asp.ask().to_vec(), vcek);
    let stale = || SnpEvidence { certificates: asp.certificates(), ..evidence(&updated, &[]) };

    let open = open_to_kds();
    let pending = open.complete(stale(), PEER).unwrap_err();
    assert!(pending.retry_after_s.is_some() && pending.to_string().contains("the host sends one for TCB"), "{pending}");
    assert_eq!(open.desk().queue.waiting().cloned().collect::<Vec<_>>(), [Request::Vcek(key(&updated))]);

    let (library, rows) = (closed(), Rows::default());
    let Completed { evidence: left, .. } = library.complete(stale(), PEER).unwrap();
    assert_eq!(left.certificates, asp.certificates(), "the verifier says which TCB the certificate is for");
    library.import(&[updated.ask().to_vec(), updated.vcek().certificate().to_vec()], &admin(), &rows).unwrap();
    let Completed { evidence: replaced, .. } = library.complete(stale(), PEER).unwrap();
    let tcb = coffer_verify::endorse(&replaced, &roots()).unwrap().extensions().tcb;
    assert_eq!(tcb, updated.platform().tcb);
}

#[test]
fn a_vlek_is_taken_only_if_it_is_the_one_that_fits() {
    let (library, rows) = (closed(), Rows::default());
    let now = UnixTime(unix_now());
    let asvk = hierarchy().asvk(now).unwrap();
    let platform = Platform::random(Family::Genoa).unwrap();
    let vlek = |csp: &str| Vcek::issue(&VcekSpec::vlek_of(&platform, csp, now), &asvk).unwrap();
    let (one, two) = (vlek("csp-one"), vlek("csp-two"));
    let taken = library.import(&[one.certificate().to_vec(), asvk.certificate().to_vec()], &admin(), &rows).unwrap();
    assert!(taken.iter().all(|taken| matches!(taken, Taken::New(_))), "{taken:?}");
    let asp = Asp::from_parts(platform.clone(), hierarchy().ark.certificate().to_vec(), asvk.certificate().to_vec(), one);
    let bare = || evidence(&asp, &[]);
    for library in [&library, &rows.reopened()] {
        let Completed { evidence, .. } = library.complete(bare(), None).unwrap();
        assert_eq!(coffer_verify::endorse(&evidence, &roots()).unwrap().kind(), VekKind::Vlek);
    }
    // Another provider's guests, whose key is not known yet, are not given the first one's in place of theirs.
    let elsewhere =
        Asp::from_parts(platform.clone(), hierarchy().ark.certificate().to_vec(), asvk.certificate().to_vec(), vlek("csp-three"));
    let Completed { evidence: theirs, is_new } = library.complete(evidence(&elsewhere, &[CertKind::Vlek, CertKind::Ask]), None).unwrap();
    assert_eq!(theirs.certificates.iter().find(|entry| entry.kind == CertKind::Vlek).unwrap().data, elsewhere.vcek().certificate());
    assert!(is_new);
    import(&library, &rows, two.certificate());
    assert!(library.complete(bare(), PEER).unwrap_err().to_string().contains("VLEK"), "two providers' keys fit");
}

#[test]
fn lists_are_asked_for_before_they_end_and_not_all_the_time() {
    let (library, rows, asp) = (open_to_kds(), Rows::default(), processor());
    let now = unix_now();
    assert_eq!(library.lists_due(now), [], "no family is in use");
    import(&library, &rows, asp.ask());
    assert_eq!(library.lists_due(now), [Family::Genoa], "there is none");
    assert_eq!(library.lists_due(now + 60), []);
    assert_eq!(library.lists_due(now + LIST_WANTED_EVERY_S), [Family::Genoa]);

    let list = hierarchy().ark.revocation_list(&CrlSpec::empty(1, UnixTime(now), UnixTime(now + 80 * 86_400))).unwrap();
    import(&library, &rows, &list);
    let library = Library::open(rows.0.lock().unwrap().clone(), roots(), None);
    assert_eq!(library.lists_due(now + LIST_EVERY_S / 2), []);
    assert_eq!(library.lists_due(now + LIST_EVERY_S), [Family::Genoa]);
    // Ten days before its end: every hour.
    let late = now + 71 * 86_400;
    assert_eq!(library.lists_due(late), [Family::Genoa]);
    assert_eq!(library.lists_due(late + LIST_WANTED_EVERY_S), [Family::Genoa]);
}

#[test]
fn the_status_says_what_to_look_after() {
    let (library, rows) = (closed(), Rows::default());
    let now = unix_now();
    let asp = processor_with(|spec| spec.not_after = UnixTime(now + 30 * 86_400));
    library.import(&[asp.ask().to_vec(), asp.vcek().certificate().to_vec()], &admin(), &rows).unwrap();
    let status = || serde_json::to_value(library.status()).unwrap();
    let before = status();
    assert_eq!(before["families"][0]["vceks"], 1);
    assert_eq!(before["families"][0]["issuers"][0]["source"], "import by ada");
    assert!(before["key_server"]["url"].is_null());
    let warned = before["warnings"].to_string();
    assert!(warned.contains("no revocation list of genoa") && warned.contains("1 certificates of genoa end within 90 days"), "{warned}");
    for (number, next, says) in [(1, now + 86_400, "nothing fetches the next"), (2, now - 1, "was to be replaced by")] {
        let list = hierarchy().ark.revocation_list(&CrlSpec::empty(number, UnixTime(now - 9 + u64::from(number)), UnixTime(next))).unwrap();
        assert!(matches!(import(&library, &rows, &list), Taken::New(_)));
        assert!(status()["warnings"].to_string().contains(says), "{}", status());
    }
    assert_eq!(status()["families"][0]["crl"]["revoked"], 0);
}
