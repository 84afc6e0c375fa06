//! The four documents: golden bytes, and a table of what every reader must refuse.
#![allow(missing_docs)]

use std::collections::BTreeMap;

use coffer_manifest::disk::{DiskFormat, DiskUuid, KeyCheck, RootHash, RootSecret};
use coffer_manifest::{
    Attestation, Base, BaseFile, BaseRoot, Bundle, BundleFile, ChipId, Container, Content, DocumentError, Enrollment, EnrollmentFile,
    FailureAction, Gate, Gpu, GpuMechanism, HostData, Issuer, KeyDigest, KeyService, KeyServiceKind, KitKey, KitRef, LaunchDigest,
    LaunchShape, MAX_DOCUMENT_BYTES, Network, OpenRisks, Role, RootOfTrust, Secrets, Sha256Digest, SiteConfig, TcbVersion, User,
    WorkloadEnd, decode, encode,
};
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

fn site() -> SiteConfig {
    SiteConfig {
        kind: Default::default(),
        root_of_trust: RootOfTrust::AmdSevSnp,
        project: "demo".parse().expect("name"),
        site: "site-1".parse().expect("name"),
        role: Role::Client,
        site_svn: 1,
        not_before: 1_790_000_000,
        disk_format: DiskFormat,
        disk_uuid: DiskUuid::from_random([0x11; 16]),
        root_hash: RootHash::new([0x22; 32]),
        root_blocks: 100_000,
        key_check: KeyCheck::new([0x33; 32]),
        key_service: KeyService {
            kind: KeyServiceKind::Coffer,
            urls: vec!["https://attest.example.org:8999".into()],
            tls_name: "attest.example.org".into(),
            ca: vec!["MAA=".into()],
        },
        kit: Some(KitRef { offset: 430_000_000, size: 4096, digest: Sha256Digest::new([0x44; 32]) }),
        container: Container {
            image: Sha256Digest::new([0x55; 32]),
            command: vec!["flower-supernode".into(), "--insecure=\"no\"".into()],
            env: vec!["PATH=/usr/bin".into(), "GRUSS=Grüße\u{1}".into()],
            workdir: "/app".into(),
            user: User { uid: 1000, gid: 1000, groups: vec![44, 100] },
            stop_signal: 15,
        },
        network: Network {
            allowed_ports: vec![9094],
            allowed_out_ports: vec![443, 9092],
            hosts_entries: BTreeMap::from([
                ("server1".into(), "10.176.200.152".parse().expect("v4")),
                ("server2".into(), "2001:db8::1".parse().expect("v6")),
            ]),
        },
        gate: Some(Gate {
            addresses: vec!["gate.example.org:9443".into()],
            tls_name: "gate.example.org".into(),
            ca: vec!["MAA=".into()],
            workload: WorkloadEnd { name: "superlink.example.org".into(), port: 9092 },
            attested: true,
        }),
        attestation: Attestation {
            token_expiration: 100,
            check_frequency: 120,
            failure_action: FailureAction::StopJob,
            retry_for: 300,
            issuers: vec![Issuer {
                id: "snp_authorizer".into(),
                path: "a.b.C".into(),
                args: BTreeMap::from([("cpu_model".into(), "genoa".into())]),
                token_expiration: 100,
            }],
        },
        gpu: Some(Gpu { mechanism: GpuMechanism::NvidiaCc }),
    }
}

/// Without any optional member.
fn small_site() -> SiteConfig {
    let ark = Sha256Digest::new([0x66; 32]);
    SiteConfig { root_of_trust: RootOfTrust::Simulated(ark), kit: None, gate: None, gpu: None, role: Role::Server, ..site() }
}

fn risks() -> OpenRisks {
    OpenRisks { aml: "unrestricted".into() }
}

fn enrollment() -> EnrollmentFile {
    let bytes = site().to_bytes().expect("encodes");
    EnrollmentFile {
        record: Enrollment {
            kind: Default::default(),
            host_data: SiteConfig::host_data(&bytes),
            project: "demo".parse().expect("name"),
            site: "site-1".parse().expect("name"),
            role: Role::Client,
            site_svn: 1,
            base_svn: 1,
            root_of_trust: RootOfTrust::AmdSevSnp,
            launch_digests: vec![LaunchDigest::new([0x77; 48]), LaunchDigest::new([0x78; 48])],
            token_expiration: 100,
            open_risks: risks(),
            supersedes: Some(HostData::new([0x88; 32])),
            overlap_seconds: None,
            author_key_digest: None,
            minimum_guest_svn: None,
            chip_ids: Vec::new(),
            tcb_floor: None,
        },
        secrets: Secrets { root: RootSecret::new([0x99; 32]), kit: Some(KitKey::new([0xaa; 32])) },
    }
}

/// With every optional member.
fn full_enrollment() -> EnrollmentFile {
    let file = enrollment();
    let record = Enrollment {
        overlap_seconds: Some(604_800),
        author_key_digest: Some(KeyDigest::new([0xbb; 48])),
        minimum_guest_svn: Some(3),
        chip_ids: vec![ChipId::new([0xcc; 64])],
        tcb_floor: Some(TcbVersion { fmc: Some(1), bootloader: 3, tee: 2, snp: 5, microcode: 97 }),
        ..file.record
    };
    EnrollmentFile { record, secrets: file.secrets }
}

fn base() -> Base {
    let file = |byte, size| BaseFile { size, sha256: Sha256Digest::new([byte; 32]) };
    Base {
        kind: Default::default(),
        base_svn: 1,
        root: BaseRoot::AmdSevSnp,
        files: BTreeMap::from([
            ("OVMF.amdsev.fd".into(), file(1, 4_194_304)),
            ("vmlinuz".into(), file(2, 9_000_000)),
            ("initrd.img".into(), file(3, 12_000_000)),
        ]),
        cmdline: "console=ttyS0 quiet loglevel=1 panic=-1 oops=panic".into(),
        kernel_release: "6.12.48+deb13-cloud-amd64".into(),
        modules: vec!["virtio_blk".into(), "dm-mod".into()],
        init: Sha256Digest::new([4; 32]),
        vmm: "qemu".into(),
        launch_digests: vec![LaunchShape {
            cpu_model: "EPYC-v4".into(),
            vcpus: 1,
            guest_features: 1,
            digest: LaunchDigest::new([0x77; 48]),
        }],
        open_risks: risks(),
    }
}

fn bundle() -> Bundle {
    let fixed = |size| Content::Fixed { size, sha256: Sha256Digest::new([5; 32]) };
    let mutable = Content::Mutable { format: "qcow2".into(), virtual_size: 1 << 30 };
    Bundle {
        kind: Default::default(),
        project: "demo".parse().expect("name"),
        site: "site-1".parse().expect("name"),
        host_data: HostData::new([6; 32]),
        files: vec![
            BundleFile { path: "applog.qcow2".into(), content: mutable },
            BundleFile { path: "crypt_root.qcow2".into(), content: fixed(430_000_000) },
        ],
    }
}

/// Compares with `tests/golden/<name>`; `BLESS=1` writes it.
fn golden(name: &str, bytes: &[u8]) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, bytes).expect("writes");
    }
    let expected = std::fs::read(&path).expect("golden file");
    assert_eq!(
        String::from_utf8_lossy(bytes),
        String::from_utf8_lossy(&expected),
        "a format changed: that is a new version of it, not a new golden file"
    );
}

#[test]
fn golden_documents() {
    golden("site.json", &site().to_bytes().expect("encodes"));
    golden("site-small.json", &small_site().to_bytes().expect("encodes"));
    golden("enrollment.json", &enrollment().to_bytes().expect("encodes"));
    golden("enrollment-full.json", &full_enrollment().to_bytes().expect("encodes"));
    golden("base.json", &encode(&base()).expect("encodes"));
    golden("manifest.json", &encode(&bundle()).expect("encodes"));
}

#[test]
fn documents_come_back() {
    for config in [site(), small_site()] {
        assert_eq!(SiteConfig::from_bytes(&config.to_bytes().expect("encodes")).expect("decodes"), config);
    }
    assert_eq!(decode::<Base>(&encode(&base()).expect("encodes")).expect("decodes"), base());
    assert_eq!(decode::<Bundle>(&encode(&bundle()).expect("encodes")).expect("decodes"), bundle());
    let full = EnrollmentFile::from_bytes(&full_enrollment().to_bytes().expect("encodes")).expect("decodes");
    assert_eq!(full.record, full_enrollment().record);
    let file = EnrollmentFile::from_bytes(&enrollment().to_bytes().expect("encodes")).expect("decodes");
    assert_eq!(file.record, enrollment().record);
    assert_eq!(file.secrets.root.expose(), &[0x99; 32]);
    assert_eq!(file.secrets.kit.expect("kit").expose(), &[0xaa; 32]);
}

/// HOST_DATA is part of the contract between builder, guest and service: this value must never change for these bytes.
#[test]
fn golden_host_data() {
    let bytes = site().to_bytes().expect("encodes");
    golden("site.host_data", SiteConfig::host_data(&bytes).to_string().as_bytes());
}

/// Every value of format 1's key schedule, from HKDF-SHA-512; `tests/golden/keys.txt` was also made with Python's hmac.
#[test]
fn golden_keys() {
    let (secret, uuid) = (RootSecret::new([0x99; 32]), DiskUuid::from_random([0x11; 16]));
    let volume = data_encoding::HEXLOWER.encode(secret.volume_key(&uuid).expose());
    golden("keys.txt", format!("uuid {uuid}\nvk {volume}\nkey_check {}\n", secret.key_check(&uuid)).as_bytes());
    assert!(secret.opens(&uuid, &secret.key_check(&uuid)));
    assert!(!secret.opens(&DiskUuid::from_random([0x12; 16]), &secret.key_check(&uuid)));
    assert!(!RootSecret::new([0x98; 32]).opens(&uuid, &secret.key_check(&uuid)));
}

/// (what, from, to): replaces the first occurrence in the golden site.json; every result must be refused.
const REFUSED: &[(&str, &str, &str)] = &[
    ("unknown member", "{\"attestation\"", "{\"alpha\":1,\"attestation\""),
    ("unknown nested member", "{\"check_frequency\"", "{\"cheat\":1,\"check_frequency\""),
    ("repeated member", "\"project\":\"demo\"", "\"project\":\"demo\",\"project\":\"demo\""),
    ("repeated nested member", "\"uid\":1000", "\"uid\":1000,\"uid\":1000"),
    ("missing member", "\"project\":\"demo\",", ""),
    ("other type", "coffer/site/v1", "coffer/base/v1"),
    ("later version", "coffer/site/v1", "coffer/site/v2"),
    ("later disk format", "\"disk_format\":1", "\"disk_format\":2"),
    ("space", "{\"attestation\"", "{ \"attestation\""),
    ("order", "\"offset\":430000000,\"size\":4096", "\"size\":4096,\"offset\":430000000"),
    ("escaped slash", "coffer/site/v1", "coffer\\/site/v1"),
    ("escaped letter", "\"demo\"", "\"dem\\u006f\""),
    ("upper-case escape", "\\u0001", "\\U0001"),
    ("raw control character", "\\u0001", "\u{1}"),
    ("exponent", "\"site_svn\":1", "\"site_svn\":1e0"),
    ("fraction", "\"site_svn\":1", "\"site_svn\":1.0"),
    ("leading zero", "\"site_svn\":1", "\"site_svn\":01"),
    ("negative", "\"site_svn\":1", "\"site_svn\":-1"),
    ("too large", "\"site_svn\":1", "\"site_svn\":4294967296"),
    ("number as text", "\"site_svn\":1", "\"site_svn\":\"1\""),
    ("null for an optional member", "\"gpu\":{\"mechanism\":\"nvidia_cc\"}", "\"gpu\":null"),
    ("upper-case digest", "2222222222222222", "AAAAAAAAAAAAAAAA"),
    ("short digest", "2222222222222222", "222222222222222"),
    ("upper-case UUID", "11111111-1111-4111-9111-111111111111", "AAAAAAAA-1111-4111-9111-111111111111"),
    ("UUID without dashes", "11111111-1111-4111-9111-111111111111", "11111111111141119111111111111111"),
    ("project's alphabet", "\"demo\"", "\"Demo\""),
    ("site as a path", "\"site-1\"", "\"../x\""),
    ("unknown role", "\"client\"", "\"admin\""),
    ("unknown root of trust", "\"amd-sev-snp\"", "\"intel-tdx\""),
    ("root of trust without digest", "\"amd-sev-snp\"", "\"simulated:\""),
    ("port", "[9094]", "[65536]"),
    ("address", "10.176.200.152", "10.176.200"),
    ("address in another form", "2001:db8::1", "2001:db8:0::1"),
    ("trailing comma", "[9094]", "[9094,]"),
];

#[test]
fn refusals() {
    let good = String::from_utf8(site().to_bytes().expect("encodes")).expect("text");
    assert!(SiteConfig::from_bytes(good.as_bytes()).is_ok());
    for (what, from, to) in REFUSED {
        assert!(good.contains(from), "{what}: `{from}` is not in the golden document");
        let bad = good.replacen(from, to, 1);
        assert!(SiteConfig::from_bytes(bad.as_bytes()).is_err(), "{what} was accepted");
    }
    for (what, bad) in [("byte order mark", format!("\u{feff}{good}")), ("newline", format!("{good}\n")), ("two", good.repeat(2))] {
        assert!(SiteConfig::from_bytes(bad.as_bytes()).is_err(), "{what} was accepted");
    }
    for cut in 0..good.len() {
        assert!(SiteConfig::from_bytes(&good.as_bytes()[..cut]).is_err(), "cut at {cut} was accepted");
    }
}

#[test]
fn what_an_enrollment_asks_for_is_asked_in_one_way() {
    let good = String::from_utf8(full_enrollment().to_bytes().expect("encodes").to_vec()).expect("text");
    let bad = [
        ("no chips", format!("[\"{}\"]", "cc".repeat(64)), "[]".to_owned()),
        ("short chip", "cc".repeat(64), "cc".repeat(8)),
        ("upper-case chip", "cc".repeat(64), "CC".repeat(64)),
        ("no floor", "{\"bootloader\":3,\"fmc\":1,\"microcode\":97,\"snp\":5,\"tee\":2}".to_owned(), "null".to_owned()),
        ("no fmc", "\"fmc\":1".to_owned(), "\"fmc\":null".to_owned()),
        ("large floor", "\"microcode\":97".to_owned(), "\"microcode\":256".to_owned()),
        ("half a floor", ",\"tee\":2".to_owned(), String::new()),
        ("short digest", "bb".repeat(48), "bb".repeat(32)),
        ("large svn", "\"minimum_guest_svn\":3".to_owned(), "\"minimum_guest_svn\":4294967296".to_owned()),
        ("negative overlap", "604800".to_owned(), "-1".to_owned()),
    ];
    for (what, from, to) in bad {
        assert!(good.contains(&from), "{what}: `{from}` is not in the document");
        assert!(EnrollmentFile::from_bytes(good.replacen(&from, &to, 1).as_bytes()).is_err(), "{what} was accepted");
    }
}

#[test]
fn too_long_is_refused_before_parsing() {
    let bytes = vec![b'['; MAX_DOCUMENT_BYTES + 1];
    assert!(matches!(SiteConfig::from_bytes(&bytes), Err(DocumentError::TooLong { got }) if got == MAX_DOCUMENT_BYTES + 1));
    let bytes = vec![b'['; MAX_DOCUMENT_BYTES];
    assert!(matches!(SiteConfig::from_bytes(&bytes), Err(DocumentError::Parse(_))));
}

#[test]
fn not_canonical_names_the_byte() {
    let good = String::from_utf8(site().to_bytes().expect("encodes")).expect("text");
    let bad = good.replacen("\"demo\"", "\"dem\\u006f\"", 1);
    let at = good.find("demo").expect("there") + 3;
    assert!(matches!(SiteConfig::from_bytes(bad.as_bytes()), Err(DocumentError::NotCanonical { at: got }) if got == at));
}

#[test]
fn wrong_documents_do_not_stand_in_for_each_other() {
    for (i, (name, bytes, _)) in documents().iter().enumerate() {
        for (j, (reader, _, reads)) in documents().iter().enumerate() {
            assert_eq!(reads(bytes), i == j, "{name} read as {reader}");
        }
    }
}

/// Name, canonical bytes, and whether its own reader takes some bytes.
type Document = (&'static str, Vec<u8>, fn(&[u8]) -> bool);

/// Documents and their readers, for the rules that hold for all of them.
fn documents() -> [Document; 4] {
    [
        ("site", site().to_bytes().expect("encodes"), |bytes| SiteConfig::from_bytes(bytes).is_ok()),
        ("enrollment", enrollment().to_bytes().expect("encodes").to_vec(), |bytes| EnrollmentFile::from_bytes(bytes).is_ok()),
        ("base", encode(&base()).expect("encodes"), |bytes| decode::<Base>(bytes).is_ok()),
        ("manifest", encode(&bundle()).expect("encodes"), |bytes| decode::<Bundle>(bytes).is_ok()),
    ]
}

#[test]
fn every_reader_is_strict() {
    for (name, bytes, reads) in documents() {
        let good = String::from_utf8(bytes).expect("text");
        assert!(reads(good.as_bytes()), "{name}");
        let last = good.rfind('}').expect("object");
        let bad = [
            ("unknown member", format!("{},\"zz\":1}}", &good[..last])),
            ("repeated member", good.replacen("\"type\":", "\"type\":\"coffer/x/v1\",\"type\":", 1)),
            ("version", good.replacen("/v1\"", "/v2\"", 1)),
            ("version 1.0", good.replacen("/v1\"", "/v1.0\"", 1)),
            ("space", good.replacen(',', ", ", 1)),
            ("newline", format!("{good}\n")),
            ("array", format!("[{good}]")),
            ("no type", good.replacen("\"type\"", "\"kind\"", 1)),
            ("padding", format!("{good}{}", " ".repeat(MAX_DOCUMENT_BYTES))),
        ];
        for (what, bad) in bad {
            assert_ne!(bad, good, "{name}: {what} changes nothing");
            assert!(!reads(bad.as_bytes()), "{name}: {what} was accepted");
        }
    }
}

#[test]
fn enrollment_errors_do_not_repeat_secrets() {
    let good = String::from_utf8(enrollment().to_bytes().expect("encodes").to_vec()).expect("text");
    let secret = "99".repeat(32);
    for bad in [good.replace(&secret, &format!("{secret}77")), good.replace(&secret, &"9z".repeat(32))] {
        let error = EnrollmentFile::from_bytes(bad.as_bytes()).expect_err("refused");
        let text = format!("{error} {error:?}");
        assert!(!text.contains("9999") && !text.contains("9z9z"), "{text}");
    }
    assert!(!format!("{:?}", enrollment()).contains("9999"));
}

proptest! {
    #[test]
    fn readers_are_total(bytes: Vec<u8>) {
        drop(SiteConfig::from_bytes(&bytes));
        drop(EnrollmentFile::from_bytes(&bytes));
        drop(decode::<Base>(&bytes));
        drop(decode::<Bundle>(&bytes));
    }

    /// Any one byte changed: refused, or a different document that encodes to exactly those bytes.
    #[test]
    fn no_second_encoding(at in any::<proptest::sample::Index>(), byte: u8) {
        let good = site().to_bytes().expect("encodes");
        let mut bad = good.clone();
        let at = at.index(bad.len());
        bad[at] = byte;
        if let Ok(read) = SiteConfig::from_bytes(&bad) {
            prop_assert_eq!(read.to_bytes().expect("encodes"), bad.clone());
            prop_assert!(bad == good || read != site());
        }
    }

    #[test]
    fn text_survives(command: Vec<String>, env: Vec<String>, workdir: String, svn: u32, blocks in 0..(1_u64 << 53)) {
        let mut config = site();
        config.container = Container { command, env, workdir, ..config.container };
        config.site_svn = svn;
        config.root_blocks = blocks;
        let bytes = config.to_bytes().expect("encodes");
        if bytes.len() <= MAX_DOCUMENT_BYTES {
            prop_assert_eq!(SiteConfig::from_bytes(&bytes).expect("decodes"), config);
        }
    }

    #[test]
    fn enrollments_come_back(
        overlap: Option<u32>,
        author: Option<[u8; 32]>,
        svn: Option<u32>,
        chips in proptest::collection::vec(any::<[u8; 32]>(), 0..4),
        floor: Option<(Option<u8>, u8, u8, u8, u8)>,
    ) {
        let twice = |bytes: [u8; 32]| [bytes, bytes].concat();
        let record = Enrollment {
            overlap_seconds: overlap,
            author_key_digest: author.map(|bytes| KeyDigest::try_from(&twice(bytes)[..48]).expect("48 bytes")),
            minimum_guest_svn: svn,
            chip_ids: chips.into_iter().map(|bytes| ChipId::try_from(twice(bytes).as_slice()).expect("64 bytes")).collect(),
            tcb_floor: floor.map(|(fmc, bootloader, tee, snp, microcode)| TcbVersion { fmc, bootloader, tee, snp, microcode }),
            ..enrollment().record
        };
        let bytes = encode(&record).expect("encodes");
        prop_assert_eq!(decode::<Enrollment>(&bytes).expect("decodes"), record);
    }

    #[test]
    fn names_are_total(text: String) {
        drop(text.parse::<coffer_manifest::ResourcePath>());
        drop(text.parse::<RootOfTrust>());
        if let Ok(name) = text.parse::<coffer_manifest::SiteName>() {
            prop_assert_eq!(name.to_string(), text);
        }
    }
}
