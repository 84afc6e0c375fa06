//! Certificates that evidence comes without: imported, fetched from a key server on loopback, remembered. And a key server that
//! misbehaves in every way a test could think of, which no guest ever waits for.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use coffer_evidence::{CertKind, Family, GuestPolicy, ReportData, SnpEvidence, UnixTime};
use coffer_simulator::{ASK_SERIAL, Asp, CrlSpec, Platform, Vcek, VcekSpec};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    BASE, Client, Guest, Handshake, ROOT_SECRET, Reply, Service, TestKds, host_data, now, pem, program, simulator, stderr, table, vcek_path,
};

/// Long enough for a loaded machine, short enough that nobody has waited for a key server.
const AT_ONCE: Duration = Duration::from_secs(3);

const CHAIN: &str = "/vcek/v1/Genoa/cert_chain";
const VLEK_CHAIN: &str = "/vlek/v1/Genoa/cert_chain";
const CRL: &str = "/vcek/v1/Genoa/crl";

/// A processor of its own, with an honest certificate.
fn processor() -> &'static Asp {
    let hierarchy = &simulator(Family::Genoa).hierarchy;
    Box::leak(Box::new(Asp::new(hierarchy, UnixTime(now())).unwrap()))
}

/// An enrolled guest on it.
fn guest_on(service: &Service, asp: &'static Asp, site: &str) -> Guest {
    let guest = Guest::new(asp, BASE, host_data(site));
    service.enroll(service.record(site, guest.host_data()));
    guest
}

/// A handshake with only these certificates beside the report.
fn attest_with(guest: &Guest, client: &Client, kinds: &[CertKind]) -> Handshake {
    guest.attest_as(client, true, |asp, report_data| {
        let mut evidence = asp.evidence(&guest.guest, report_data).unwrap();
        evidence.certificates.retain(|entry| kinds.contains(&entry.kind));
        evidence
    })
}

/// Where a key server has this processor's certificate.
fn path_of(asp: &Asp) -> String {
    let guest = coffer_simulator::Guest::launch(BASE, host_data("nobody"), GuestPolicy(0x3_0000)).unwrap();
    vcek_path("Genoa", &asp.fields(&guest, ReportData::new([0; 64]), 0))
}

/// What AMD's key server would have: these processors' certificates, the family's chains and list.
pub fn honest(processors: &[&Asp]) -> Vec<(String, Vec<u8>)> {
    static ASVK: OnceLock<Vec<u8>> = OnceLock::new();
    let simulator = simulator(Family::Genoa);
    let asvk = ASVK.get_or_init(|| simulator.hierarchy.asvk(UnixTime(now())).unwrap().certificate().to_vec());
    let mut entries: Vec<_> = processors.iter().map(|asp| (path_of(asp), asp.vcek().certificate().to_vec())).collect();
    entries.push((CHAIN.to_owned(), pem(&[simulator.asp.ask(), simulator.asp.ark()])));
    entries.push((VLEK_CHAIN.to_owned(), pem(&[asvk, simulator.asp.ark()])));
    entries.push((CRL.to_owned(), list(1, &[])));
    entries
}

fn list(number: u32, revoked: &[u32]) -> Vec<u8> {
    let at = now() - 1000 + u64::from(number);
    let spec = CrlSpec { revoked: revoked.to_vec(), ..CrlSpec::empty(number, UnixTime(at), UnixTime(at + 90 * 86_400)) };
    simulator(Family::Genoa).hierarchy.ark.revocation_list(&spec).unwrap()
}

/// What `init` writes.
const CLOSED: &str = "enabled = false\nurl = \"https://kdsintf.amd.com\"\nca = \"/etc/ssl/certs/ca-certificates.crt\"";

/// A service with this key server in its settings, and the folder its authority lies in.
fn service_with(kds: &TestKds, enabled: bool) -> (Service, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("kds-ca.pem");
    kds.write_ca(&ca);
    let service = Service::edited(CLOSED, &format!("enabled = {enabled}\nurl = \"{}\"\nca = \"{}\"", kds.url, ca.display()));
    (service, dir)
}

/// Runs a `collateral` command.
fn collateral(service: &Service, args: &[&str]) -> Output {
    let dir = service.path();
    program(&[&["collateral"], args, &["--dir", dir.to_str().unwrap()]].concat())
}

fn status(service: &Service) -> Value {
    let shown = collateral(service, &["status", "--json"]);
    assert!(shown.status.success(), "{}", stderr(&shown));
    serde_json::from_slice(&shown.stdout).unwrap()
}

/// How many VCEKs the service has.
fn vceks(service: &Service) -> u64 {
    status(service)["families"].as_array().unwrap().iter().map(|family| family["vceks"].as_u64().unwrap()).sum()
}

/// Looks until it is so.
#[track_caller]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(40), "not within 40 s: {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

/// Exit code, and what became of each piece.
fn import(service: &Service, paths: &[&Path]) -> (Option<i32>, Vec<Value>) {
    let paths: Vec<&str> = paths.iter().map(|path| path.to_str().unwrap()).collect();
    let done = collateral(service, &[&["import", "--json"], &paths[..]].concat());
    let answer: Value = serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(&done)));
    (done.status.code(), answer["pieces"].as_array().unwrap().clone())
}

fn count(pieces: &[Value], outcome: &str) -> usize {
    pieces.iter().filter(|piece| piece["outcome"] == outcome).count()
}

/// The documented mode: no way out, everything by import. The key server that stands by hears nothing.
#[test]
fn an_air_gapped_service_judges_bare_reports_after_an_import_and_connects_to_nobody() {
    let kds = TestKds::start(table(honest(&[])));
    let (mut service, dir) = service_with(&kds, false);
    let asp = processor();
    let guest = guest_on(&service, asp, "site-1");
    let client = service.client();
    attest_with(&guest, &client, &[]).answer.expect_refusal(403, "collateral_missing");
    assert!(service.log().contains("[kds] is not enabled"), "{}", service.log());
    // No signature had held: it is held against no site.
    assert_eq!(service.last_decision("demo/site-1")["event"], "enroll");
    let fetch = collateral(&service, &["fetch", "--family", "genoa"]);
    assert_eq!(fetch.status.code(), Some(3));
    assert!(stderr(&fetch).contains("key_server_off"), "{}", stderr(&fetch));

    let vcek = write(dir.path(), "vcek.der", asp.vcek().certificate());
    let chain = write(dir.path(), "chain.pem", &pem(&[asp.ask(), asp.ark()]));
    let crl = write(dir.path(), "crl.der", &list(1, &[]));
    let (code, pieces) = import(&service, &[&vcek, &chain, &crl]);
    assert_eq!((code, count(&pieces, "new"), count(&pieces, "known")), (Some(0), 3, 1), "{pieces:?}");
    let (code, pieces) = import(&service, &[&vcek, &chain, &crl]);
    assert_eq!((code, count(&pieces, "known")), (Some(0), 4), "{pieces:?}");

    // Our guest's form with any part of the chain, and the stock one with none.
    for kinds in [&[][..], &[CertKind::Vcek], &[CertKind::Vcek, CertKind::Ask]] {
        let accepted = attest_with(&guest, &client, kinds);
        accepted.token();
        assert_eq!(accepted.open(&client.get(&guest.resource("site-1", ""), Some(accepted.session()))), ROOT_SECRET);
    }
    let stock = guest.attest_as(&client, false, |asp, report_data| SnpEvidence {
        certificates: vec![],
        ..asp.evidence(&guest.guest, report_data).unwrap()
    });
    stock.token();
    service.stop();
    service.start();
    attest_with(&guest, &service.client(), &[]).token();
    assert_eq!(kds.asked(), Vec::<String>::new());
}

/// The same where the kernel sees to it: service, commands and guest in a network of their own that has a loopback and nothing else.
#[test]
fn in_a_network_without_a_way_out_everything_works_after_an_import() {
    let Ok(mut holder) = Command::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up && echo up && read _"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
    else {
        return eprintln!("skipped: no `unshare` here");
    };
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line != "up\n" {
        holder.wait().unwrap();
        return eprintln!("skipped: this user may not make a network namespace");
    }
    let network = fs::File::open(format!("/proc/{}/ns/net", holder.id())).unwrap();
    // A thread has a network of its own, and gives it to the processes it starts.
    let inside = thread::spawn(move || {
        rustix::thread::move_into_link_name_space(network.as_fd(), Some(rustix::thread::LinkNameSpaceType::Network)).unwrap();
        let links = Command::new("ip").args(["-o", "link"]).output().unwrap();
        assert_eq!(String::from_utf8(links.stdout).unwrap().lines().count(), 1, "loopback only");
        let service = Service::simulated();
        let dir = tempfile::tempdir().unwrap();
        let asp = processor();
        let guest = guest_on(&service, asp, "site-1");
        let client = service.client();
        attest_with(&guest, &client, &[]).answer.expect_refusal(403, "collateral_missing");
        let chain = write(dir.path(), "chain.pem", &pem(&[asp.vcek().certificate(), asp.ask()]));
        let crl = write(dir.path(), "crl.der", &list(1, &[]));
        assert_eq!(import(&service, &[&chain, &crl]).0, Some(0));
        let accepted = attest_with(&guest, &client, &[]);
        assert_eq!(accepted.open(&client.get(&guest.resource("site-1", ""), Some(accepted.session()))), ROOT_SECRET);
    });
    let inside = inside.join();
    drop(holder.stdin.take());
    holder.wait().unwrap();
    inside.unwrap();
}

#[test]
fn many_guests_of_one_chip_cause_one_fetch_and_none_of_them_waits() {
    let asp = processor();
    let answers = table(honest(&[asp]));
    let kds = TestKds::start(move |path| match answers(path) {
        Reply::Ok(body) => Reply::Slow(Duration::from_secs(2), body),
        other => other,
    });
    let (mut service, _dir) = service_with(&kds, true);
    let guest = guest_on(&service, asp, "site-1");
    thread::scope(|scope| {
        let attempts: Vec<_> = (0..12)
            .map(|_| {
                let (service, guest) = (&service, &guest);
                scope.spawn(move || {
                    let client = service.client();
                    let begun = Instant::now();
                    (attest_with(guest, &client, &[]).answer, begun.elapsed())
                })
            })
            .collect();
        for attempt in attempts {
            let (answer, took) = attempt.join().unwrap();
            answer.expect_refusal(503, "collateral_pending");
            assert!(took < AT_ONCE, "{took:?}");
            let wait: u64 = answer.retry_after.as_deref().unwrap().parse().unwrap();
            assert!((1..=300).contains(&wait), "{wait}");
        }
    });
    let client = service.client();
    eventually("the certificate is fetched", || attest_with(&guest, &client, &[]).answer.status == 200);
    assert_eq!((kds.count(&path_of(asp)), kds.count(CHAIN)), (1, 1), "{:?}", kds.asked());
    // Without being told, the service asks for the family's list as well, once.
    eventually("the list is fetched", || status(&service)["families"][0]["crl"]["source"] == "key server");

    // The store is the cache: after a restart, with the key server ill, nothing is missing.
    service.stop();
    kds.answer(|_| Reply::Status(500, None));
    service.start();
    attest_with(&guest, &service.client(), &[]).token();
    thread::sleep(Duration::from_millis(500));
    assert_eq!((kds.count(&path_of(asp)), kds.count(CHAIN), kds.count(CRL)), (1, 1, 1), "{:?}", kds.asked());
}

#[test]
fn nobody_waits_for_a_key_server_that_hangs() {
    let kds = TestKds::start(|_| Reply::Slow(Duration::from_secs(60), Vec::new()));
    let (mut service, _dir) = service_with(&kds, true);
    let hanging = guest_on(&service, processor(), "site-1");
    let whole = guest_on(&service, processor(), "site-2");
    let client = service.client();
    let begun = Instant::now();
    for _ in 0..5 {
        attest_with(&hanging, &client, &[]).answer.expect_refusal(503, "collateral_pending");
    }
    eventually("the fetch is under way", || kds.asked().len() == 1);
    attest_with(&hanging, &client, &[]).answer.expect_refusal(503, "collateral_pending");
    whole.attest(&client).token();
    assert_eq!(client.get("/healthz", None).status, 200);
    assert!(status(&service)["key_server"]["waiting"].to_string().contains("VCEK of genoa chip"));
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    assert_eq!(kds.asked().len(), 1);
    // Nor does the end of the service.
    service.stop();
}

#[test]
fn a_key_server_that_says_429_or_500_is_asked_a_bounded_number_of_times() {
    // (what it says, seconds watched, requests at most): told two seconds; told nothing, which is five; not well, which is 1, 2, 4 …
    for (reply, seconds, at_most) in [
        (Reply::Status(429, Some("2")), 5, 3),
        (Reply::Status(429, None), 5, 2),
        (Reply::Status(500, None), 5, 4),
        (Reply::Status(302, None), 5, 4),
    ] {
        let said = reply.clone();
        let kds = TestKds::start(move |_| said.clone());
        let (service, _dir) = service_with(&kds, true);
        let guests: Vec<_> = (0..4).map(|n| guest_on(&service, processor(), &format!("site-{n}"))).collect();
        let client = service.client();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(seconds) {
            for guest in &guests {
                attest_with(guest, &client, &[]).answer.expect_refusal(503, "collateral_pending");
            }
            thread::sleep(Duration::from_millis(200));
        }
        let asked = kds.asked().len();
        assert!((1..=at_most).contains(&asked), "asked {asked} times in {seconds} s, at most {at_most}");
        let shown = status(&service);
        assert!(shown["key_server"]["paused_s"].is_u64() && !shown["key_server"]["errors"].as_array().unwrap().is_empty(), "{shown}");
        assert_eq!(shown["key_server"]["waiting"].as_array().unwrap().len(), 4, "nothing is lost: {shown}");
        // It gets well, and so does everybody.
        let asps: Vec<_> = guests.iter().map(|guest| guest.asp()).collect();
        kds.answer(table(honest(&asps)));
        eventually("all are fetched", || guests.iter().all(|guest| attest_with(guest, &client, &[]).answer.status == 200));
    }
}

#[test]
fn nothing_a_bad_key_server_says_is_stored() {
    let kds = TestKds::start(|_| Reply::Status(404, None));
    let (service, dir) = service_with(&kds, true);
    assert_eq!(import(&service, &[&write(dir.path(), "ask.der", simulator(Family::Genoa).asp.ask())]).0, Some(0));
    let other = processor().vcek().certificate().to_vec();
    let good = processor().vcek().certificate().to_vec();
    let replies: [(Reply, &str); 6] = [
        (Reply::Ok(other), "is not what was asked for"),
        (Reply::Ok(b"<html>Service unavailable</html>".to_vec()), "is neither DER nor PEM"),
        (Reply::Ok(good[..900].to_vec()), "is neither a certificate nor a revocation list"),
        (Reply::Ok(Vec::new()), "is neither DER nor PEM"),
        (Reply::Truncated(good), ""),
        (Reply::Huge(64 << 20), ""),
    ];
    let asked_for = |asp: &Asp| {
        let tcb = asp.platform().tcb;
        let tcb = format!("bootloader={},tee={},snp={},microcode={}", tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode);
        let chip = asp.platform().chip_id.to_string();
        collateral(&service, &["fetch", "--family", "genoa", "--chip", &chip, "--tcb", &tcb, "--wait", "1"])
    };
    for (reply, says) in replies {
        let asp = processor();
        kds.answer(move |_| reply.clone());
        let before = kds.asked().len();
        let fetched = asked_for(asp);
        assert_eq!(fetched.status.code(), Some(3), "{}", stderr(&fetched));
        eventually("it was asked", || kds.asked().len() > before);
        eventually("it is said why", || {
            let shown = status(&service);
            let newest = &shown["key_server"]["errors"][0];
            newest["what"].as_str().unwrap().contains(&asp.platform().chip_id.to_string()[..16])
                && newest["why"].as_str().unwrap().contains(says)
        });
        kds.answer(|_| Reply::Status(404, None));
        eventually("it is given up", || status(&service)["key_server"]["waiting"] == serde_json::json!([]));
    }
    assert_eq!(vceks(&service), 0);
    assert!(status(&service)["families"][0]["crl"].is_null());

    // A server of another authority is not even asked.
    let impostor = TestKds::start(table(honest(&[])));
    let ca = dir.path().join("kds-ca.pem");
    let (service, _dir) = {
        let service = Service::edited(CLOSED, &format!("enabled = true\nurl = \"{}\"\nca = \"{}\"", impostor.url, ca.display()));
        (service, &dir)
    };
    let fetched = collateral(&service, &["fetch", "--family", "genoa", "--wait", "1"]);
    assert_eq!(fetched.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&fetched.stdout).contains("certificate"), "{}", String::from_utf8_lossy(&fetched.stdout));
    assert_eq!(impostor.asked(), Vec::<String>::new());
}

#[test]
fn a_chip_the_key_server_does_not_know_is_asked_for_once_but_by_an_admin() {
    let kds = TestKds::start(table(honest(&[])));
    let (service, _dir) = service_with(&kds, true);
    let guest = guest_on(&service, processor(), "site-1");
    let client = service.client();
    attest_with(&guest, &client, &[]).answer.expect_refusal(503, "collateral_pending");
    // From then on a final refusal: nothing is on its way.
    eventually("the answer is known", || attest_with(&guest, &client, &[]).answer.refusal().2 == "collateral_missing");
    for _ in 0..10 {
        attest_with(&guest, &client, &[]).answer.expect_refusal(403, "collateral_missing");
    }
    assert_eq!(kds.count("/vcek/v1/Genoa/"), 1, "{:?}", kds.asked());

    // The certificate appears at AMD; an admin need not wait for a day.
    let asp = guest.asp();
    kds.answer(table(honest(&[asp])));
    let tcb = asp.platform().tcb;
    let tcb = format!("bootloader={},tee={},snp={},microcode={}", tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode);
    let fetched =
        collateral(&service, &["fetch", "--family", "genoa", "--chip", &asp.platform().chip_id.to_string(), "--tcb", &tcb, "--wait", "20"]);
    assert!(fetched.status.success(), "{}{}", String::from_utf8_lossy(&fetched.stdout), stderr(&fetched));
    attest_with(&guest, &client, &[]).token();
    // A whole family's at once.
    let fetched = collateral(&service, &["fetch", "--family", "genoa", "--wait", "20"]);
    assert!(fetched.status.success(), "{}{}", String::from_utf8_lossy(&fetched.stdout), stderr(&fetched));
}

#[test]
fn whoever_is_not_enrolled_makes_the_service_ask_nobody() {
    let kds = TestKds::start(table(honest(&[])));
    let (service, _dir) = service_with(&kds, true);
    let client = service.client();
    for n in 0..20 {
        let stranger = Guest::new(processor(), BASE, host_data(&format!("stranger-{n}")));
        attest_with(&stranger, &client, &[]).answer.expect_refusal(403, "collateral_missing");
    }
    let enrolled = guest_on(&service, processor(), "site-1");
    assert!(service.site(&["revoke", "demo/site-1", "--reason", "gone"]).status.success());
    attest_with(&enrolled, &client, &[]).answer.expect_refusal(403, "collateral_missing");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(kds.asked(), Vec::<String>::new());
}

#[test]
fn a_hosts_certificates_are_remembered_once_its_guest_was_accepted() {
    let mut service = Service::simulated();
    let asp = processor();
    let guest = guest_on(&service, asp, "site-1");
    let client = service.client();
    // Honest certificates beside a report they did not sign.
    let forged = guest.attest_as(&client, true, |asp, report_data| {
        let mut fields = asp.fields(&guest.guest, report_data, 0);
        let signed = asp.evidence_of(&fields).unwrap();
        (fields.signature_r, fields.signature_s) = (signed.report.fields().signature_r, signed.report.fields().signature_s);
        fields.guest_svn += 1;
        let report = coffer_evidence::Report::parse(&fields.encode()).unwrap();
        SnpEvidence { report, certificates: asp.certificates() }
    });
    forged.answer.expect_refusal(403, "signature");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(vceks(&service), 0);
    attest_with(&guest, &client, &[]).answer.expect_refusal(403, "collateral_missing");

    guest.attest(&client).token();
    eventually("it is remembered", || vceks(&service) == 1);
    assert_eq!(status(&service)["families"][0]["issuers"][0]["source"], "host");
    attest_with(&guest, &client, &[]).token();
    service.stop();
    service.start();
    attest_with(&guest, &service.client(), &[]).token();
}

/// After a firmware update the host still hands out the old certificate.
#[test]
fn a_stale_certificate_beside_a_report_is_replaced_by_the_key_servers() {
    let old = processor();
    let mut platform: Platform = old.platform().clone();
    platform.tcb.microcode += 1;
    let vcek = Vcek::issue(&VcekSpec::of(&platform, UnixTime(now())), &simulator(Family::Genoa).hierarchy.ask).unwrap();
    let updated: &'static Asp = Box::leak(Box::new(Asp::from_parts(platform, old.ark().to_vec(), old.ask().to_vec(), vcek)));
    let kds = TestKds::start(table(honest(&[updated])));
    let (service, _dir) = service_with(&kds, true);
    let guest = guest_on(&service, updated, "site-1");
    let client = service.client();
    let stale = || {
        guest.attest_as(&client, true, |asp, report_data| SnpEvidence {
            certificates: old.certificates(),
            ..asp.evidence(&guest.guest, report_data).unwrap()
        })
    };
    stale().answer.expect_refusal(503, "collateral_pending");
    eventually("the new one is fetched", || stale().answer.status == 200);
    // Where nothing is fetched, the verifier names what is wrong.
    let service = Service::simulated();
    let guest = guest_on(&service, updated, "site-1");
    let closed = guest.attest_as(&service.client(), true, |asp, report_data| SnpEvidence {
        certificates: old.certificates(),
        ..asp.evidence(&guest.guest, report_data).unwrap()
    });
    closed.answer.expect_refusal(403, "certificate_tcb");
}

#[test]
fn a_revoked_intermediate_ends_every_chip_below_it_and_no_older_list_brings_them_back() {
    let mut service = Service::simulated();
    let dir = tempfile::tempdir().unwrap();
    let guest = guest_on(&service, processor(), "site-1");
    guest.attest(&service.client()).token();
    let (code, _) = import(&service, &[&write(dir.path(), "1.crl", &list(1, &[]))]);
    assert_eq!(code, Some(0));
    guest.attest(&service.client()).token();
    let (code, _) = import(&service, &[&write(dir.path(), "2.crl", &list(2, &[ASK_SERIAL]))]);
    assert_eq!(code, Some(0));
    guest.attest(&service.client()).answer.expect_refusal(403, "certificate_revoked");
    let (code, pieces) = import(&service, &[&write(dir.path(), "older.crl", &list(1, &[]))]);
    assert_eq!(code, Some(3));
    assert!(pieces[0]["reason"].as_str().unwrap().contains("is older than"), "{pieces:?}");
    service.stop();
    service.start();
    guest.attest(&service.client()).answer.expect_refusal(403, "certificate_revoked");
}

/// A folder as Trustee's offline store has it, with mistakes in it, and files of all kinds.
#[test]
fn files_of_every_kind_are_imported_and_each_mistake_is_named() {
    let service = Service::simulated();
    let dir = tempfile::tempdir().unwrap();
    let (one, two, three) = (processor(), processor(), processor());
    let chip = |asp: &Asp| asp.platform().chip_id.to_string();
    let name = |asp: &Asp| {
        let tcb = asp.platform().tcb;
        format!("bl{:02}_tee{:02}_snp{:02}_ucode{:02}_vcek.der", tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode)
    };
    let store = dir.path().join("store");
    write(&store, &format!("vcek/{}/{}", chip(one), name(one)), one.vcek().certificate());
    write(&store, &format!("vcek/{}/vcek.der", chip(two)), two.vcek().certificate());
    write(&store, &format!("vcek/{}/vcek.der", chip(three)), one.vcek().certificate());
    write(&store, &format!("vcek/{}/bl01_tee00_snp01_ucode01_vcek.der", chip(three)), three.vcek().certificate());
    let chain = write(dir.path(), "ask.pem", &pem(&[one.ask()]));
    let (code, pieces) = import(&service, &[&store, &chain]);
    assert_eq!((code, count(&pieces, "new"), count(&pieces, "refused")), (Some(3), 3, 2), "{pieces:?}");
    let reasons = pieces.iter().filter_map(|piece| piece["reason"].as_str()).collect::<Vec<_>>().join("\n");
    assert!(reasons.contains("its path says") && reasons.contains("its name says"), "{reasons}");
    assert_eq!(vceks(&service), 2);

    let key = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", "MAo=");
    let foreign = &simulator(Family::Milan).asp;
    let bad = [
        ("key.pem", key.into_bytes(), "is a `PRIVATE KEY`"),
        ("readme.txt", b"certificates of the lab".to_vec(), "is neither DER nor PEM"),
        ("cut.der", one.vcek().certificate()[..500].to_vec(), "neither a certificate nor a revocation list"),
        ("foreign.der", foreign.vcek().certificate().to_vec(), "is refused: chain"),
        ("foreign-ark.pem", pem(&[foreign.ark()]), "is a root, and not the one"),
        ("huge.der", vec![0x30; (1 << 20) + 1], "expected at most"),
    ];
    for (name, bytes, says) in bad {
        let (code, pieces) = import(&service, &[&write(dir.path(), name, &bytes)]);
        assert_eq!((code, pieces.len()), (Some(3), 1), "{name}");
        let reason = pieces[0]["reason"].as_str().unwrap();
        assert!(reason.contains(says), "{name}: {reason}");
    }
    let shown = collateral(&service, &["status"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(
        text.contains("genoa: 2 VCEKs, 0 VLEKs") && text.contains("key server: off") && text.contains("warning: no revocation list"),
        "{text}"
    );
}

/// What one machine downloads another imports, however far apart they are.
#[test]
fn a_download_is_a_folder_that_a_closed_service_imports() {
    let asp = processor();
    let kds = TestKds::start(table(honest(&[asp])));
    let (service, dir) = service_with(&kds, false);
    let (to, ca) = (dir.path().join("collateral"), dir.path().join("kds-ca.pem"));
    let tcb = asp.platform().tcb;
    let tcb = format!("bootloader={},tee={},snp={},microcode={}", tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode);
    let chip = asp.platform().chip_id.to_string();
    let download = |args: &[&str]| {
        let fixed =
            ["collateral", "download", "--to", to.to_str().unwrap(), "--url", &kds.url, "--ca", ca.to_str().unwrap(), "--family", "genoa"];
        program(&[&fixed[..], args].concat())
    };
    let family = download(&[]);
    assert!(family.status.success(), "{}", stderr(&family));
    let one = download(&["--chip", &chip, "--tcb", &tcb]);
    assert!(one.status.success(), "{}", stderr(&one));
    let unknown = download(&["--chip", &"ab".repeat(64), "--tcb", &tcb]);
    assert_eq!(unknown.status.code(), Some(4), "{}", stderr(&unknown));
    let (code, pieces) = import(&service, &[&to]);
    assert_eq!((code, count(&pieces, "new")), (Some(0), 4), "{pieces:?}");
    let guest = guest_on(&service, asp, "site-1");
    attest_with(&guest, &service.client(), &[]).token();
}

/// `coffer-simulator init` leaves certificates of the same kinds.
#[test]
fn a_simulators_folder_is_imported_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let sim = dir.path().join("sim");
    let asp: &'static Asp = Box::leak(Box::new(coffer_simulator::init(&sim, Family::Genoa, UnixTime(now())).unwrap()));
    let service = Service::believing_ark(asp.ark());
    let (code, pieces) = import(&service, &[&sim.join("ark.pem"), &sim.join("ask.pem"), &sim.join("vcek.pem")]);
    assert_eq!((code, count(&pieces, "new"), count(&pieces, "known")), (Some(0), 2, 1), "{pieces:?}");
    let guest = guest_on(&service, asp, "site-1");
    attest_with(&guest, &service.client(), &[]).token();
}

/// AMD's own certificates: a production service completes genuine evidence from its store, up to the challenge nobody can answer.
#[test]
fn genuine_certificates_complete_genuine_evidence() {
    let wire = |name: &str| system_tests::vectors::path(name).map(|path| fs::read(path).unwrap());
    let (Some(with), Some(text)) = (wire("snp/wire/genoa-v3-vcek.json"), wire("snp/wire/genoa-v3-nochain.json")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let vcek = write(dir.path(), "vcek.der", &SnpEvidence::from_json(&with).unwrap().certificates[0].data);
    let service = Service::production();
    let genuine = || SnpEvidence::from_json(&text).unwrap();
    assert!(genuine().certificates.is_empty());
    let fields = genuine().report.fields().clone();
    let mut record = service.record("site-1", fields.host_data);
    record.launch_digests = vec![fields.measurement];
    service.enroll(record);
    let guest = Guest::new(&simulator(Family::Genoa).asp, BASE, host_data("site-1"));
    let attest = || guest.attest_as(&service.client(), false, |_, _| genuine()).answer;
    attest().expect_refusal(403, "collateral_missing");
    let (code, pieces) = import(&service, &[&vcek]);
    assert_eq!((code, count(&pieces, "new")), (Some(0), 1), "{pieces:?}");
    attest().expect_refusal(403, "report_data");
    // Every root and intermediate AMD publishes, and every genuine VCEK, is told for what it is.
    for (file, what) in [
        ("snp/openanolis/turin-vcek.der", "VCEK of turin chip"),
        ("snp/virtee-sev/vcek_milan.der", "VCEK of milan chip"),
        ("snp/virtee-sev/vcek_turin.der", "VCEK of turin chip"),
        ("snp/dstack/sev_snp_vcek.pem", "VCEK of milan chip"),
    ] {
        let Some(path) = system_tests::vectors::path(file) else { return };
        let (_, pieces) = import(&service, &[&path]);
        assert!(pieces[0]["what"].as_str().unwrap_or_default().contains(what), "{file}: {pieces:?}");
    }
    for (file, says) in [
        ("snp/trustee/test-vlek.der", "expired"),
        ("snp/trustee/test-vcek-invalid-legacy.der", "refused"),
        ("snp/trustee/test-vcek-invalid-new.der", "refused"),
    ] {
        let Some(path) = system_tests::vectors::path(file) else { return };
        let (code, pieces) = import(&service, &[&path]);
        assert_eq!(code, Some(3), "{file}: {pieces:?}");
        assert!(pieces[0].to_string().contains(says), "{file}: {pieces:?}");
    }
}

#[test]
fn a_config_in_its_overlap_has_its_certificate_fetched_too() {
    let asp = processor();
    let kds = TestKds::start(table(honest(&[asp])));
    let (service, _dir) = service_with(&kds, true);
    let old = guest_on(&service, asp, "site-1");
    let mut successor = service.record("site-1", host_data("site-1, second config"));
    successor.supersedes = Some(old.host_data());
    successor.overlap_seconds = Some(3600);
    service.enroll(successor);
    let client = service.client();
    eventually("the certificate is fetched", || attest_with(&old, &client, &[]).answer.status == 200);
    assert_eq!(kds.count(&path_of(asp)), 1, "{:?}", kds.asked());
}
