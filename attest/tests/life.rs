//! The life of a bundle: each row of the table in builder/README.md, its commands run with the built programs.
//!
//! Bundles are built by `coffer`, enrolled by `coffer-attest`; a guest is a simulated processor's, launched with what lies in its
//! bundle, and asks the running service for its key.
#![forbid(unsafe_code)]

#[path = "service/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the service's own tests")]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use coffer_evidence::{Family, LaunchDigest};
use coffer_manifest::{Base, BaseFile, BaseRoot, EnrollmentFile, HostData, LaunchShape, OpenRisks, Sha256Digest, SiteConfig, encode};
use coffer_simulator::{IdPair, Identity};
use serde_json::Value;
use support::{Client, Guest, Service, TLS_NAME, now, simulator, stderr};
use system_tests::{lab, repo};
use tempfile::TempDir;

const SITE: &str = "compute_env: onprem_cvm\ncc_cpu_mechanism: amd_sev_snp\nrole: client\nroot_drive_size: 1\napplog_drive_size: 1\n\
                    user_config_drive_size: 1\nuser_data_drive_size: 1\ndocker_archive: app.tar\n";

/// An admin's directory: project.yml, one site's file, bases, what was built.
struct Admin {
    dir: TempDir,
}

/// A bundle as its site has it, and the record the admin keeps.
struct Built {
    dir: PathBuf,
    file: PathBuf,
    enrollment: EnrollmentFile,
    site: SiteConfig,
}

impl Admin {
    /// A project for a service, with a base whose launch digest is `[1; 48]`.
    fn of(service: &Service) -> Self {
        let admin = Self { dir: tempfile::tempdir().unwrap() };
        let ark = simulator(Family::Genoa).asp.ark();
        let pem = data_encoding::BASE64.encode(ark);
        admin.write("ark.pem", &format!("-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n"));
        fs::copy(service.path().join("tls/ca.pem"), admin.path("ca.pem")).unwrap();
        admin.write_project("");
        admin.write("cc_site-1.yml", SITE);
        fs::write(admin.path("app.tar"), lab::busybox_image()).unwrap();
        admin.make_base("base", 1, 1);
        admin
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn write_project(&self, more: &str) {
        let text = format!(
            "name: demo\nkey_service:\n  kind: coffer\n  urls: [https://127.0.0.1:8999]\n  tls_name: {TLS_NAME}\n  ca: [ca.pem]\n\
             simulator_ark: ark.pem\n{more}"
        );
        self.write("project.yml", &text);
    }

    /// A base that boots nothing: `coffer build` takes its word for what it measures to.
    fn make_base(&self, name: &str, digest: u8, base_svn: u32) {
        let dir = self.path(name);
        fs::create_dir(&dir).unwrap();
        let mut files = BTreeMap::new();
        for file in ["OVMF.amdsev.fd", "vmlinuz", "initrd.img"] {
            let bytes = format!("{file} of {name}");
            fs::write(dir.join(file), &bytes).unwrap();
            files.insert(file.to_owned(), BaseFile { size: bytes.len() as u64, sha256: Sha256Digest::of(bytes.as_bytes()) });
        }
        let base = Base {
            kind: Default::default(),
            base_svn,
            root: BaseRoot::Simulated,
            files,
            cmdline: "quiet".into(),
            kernel_release: "6.12".into(),
            modules: Vec::new(),
            init: Sha256Digest::of(b"init"),
            vmm: "qemu".into(),
            launch_digests: vec![LaunchShape {
                cpu_model: "EPYC-v4".into(),
                vcpus: 1,
                guest_features: 1,
                digest: LaunchDigest::new([digest; 48]),
            }],
            open_risks: OpenRisks { aml: "restricted".into() },
        };
        fs::write(dir.join("base.json"), encode(&base).unwrap()).unwrap();
    }

    fn coffer(&self, args: &[&str]) -> Output {
        Command::new(repo::program("coffer")).args(args).current_dir(self.dir.path()).output().unwrap()
    }

    /// `coffer build` of the one site, with these words more.
    fn build(&self, base: &str, out: &str, more: &[&str]) -> Built {
        let done = self.coffer(&[&["build", "--base", base, "-o", out], more, &["cc_site-1.yml"]].concat());
        assert!(done.status.success(), "{}", stderr(&done));
        let bundles = fs::read_dir(self.path(out).join("site-1")).unwrap().map(|entry| entry.unwrap().path());
        let dir = bundles.filter(|path| path.is_dir()).collect::<Vec<_>>().remove(0);
        let file = self.path(out).join("enroll/site-1.json");
        let enrollment = EnrollmentFile::from_bytes(&fs::read(&file).unwrap()).unwrap();
        let site = SiteConfig::from_bytes(&fs::read(dir.join("site.json")).unwrap()).unwrap();
        Built { dir, file, enrollment, site }
    }
}

impl Built {
    fn host_data(&self) -> HostData {
        self.enrollment.record.host_data
    }

    fn svn(&self) -> u32 {
        assert_eq!(self.enrollment.record.site_svn, self.site.site_svn);
        self.site.site_svn
    }

    fn enroll(&self, service: &Service) -> Output {
        service.site(&["enroll", self.file.to_str().unwrap()])
    }

    #[track_caller]
    fn enrolled(self, service: &Service) -> Self {
        let done = self.enroll(service);
        assert!(done.status.success(), "{}", stderr(&done));
        self
    }

    /// A VM of this bundle, started with what the bundle has: on a base that measures to `[digest; 48]`.
    fn guest_on(&self, digest: u8) -> Guest {
        let launch_digest = LaunchDigest::new([digest; 48]);
        let mut guest = Guest::new(&simulator(Family::Genoa).asp, launch_digest, self.host_data());
        if let Some(pair) = self.id_pair(digest) {
            guest.guest.identity = Identity::check(&pair, launch_digest, guest.guest.policy).unwrap();
        }
        guest
    }

    fn id_pair(&self, digest: u8) -> Option<IdPair> {
        let stem = self.dir.join(format!("id_{}", data_encoding::HEXLOWER.encode(&[digest; 8])));
        let block = fs::read(stem.with_extension("block")).ok()?;
        Some(IdPair { block, auth: fs::read(stem.with_extension("auth")).unwrap(), author_key_enabled: true })
    }

    /// The VM attests and is given the key that opens this bundle's disk.
    #[track_caller]
    fn runs_on(&self, digest: u8, client: &Client) {
        let guest = self.guest_on(digest);
        let handshake = guest.attest(client);
        let key = handshake.open(&client.get(&guest.resource("site-1", ""), Some(handshake.session())));
        let secret = coffer_manifest::disk::RootSecret::new(key.try_into().unwrap());
        assert!(secret.opens(&self.site.disk_uuid, &self.site.key_check), "another disk's key");
    }

    /// The VM attests and is refused under this code.
    #[track_caller]
    fn is_refused_on(&self, digest: u8, client: &Client, code: &str) {
        self.guest_on(digest).attest(client).answer.expect_refusal(403, code);
    }
}

/// How `site show` has each config of the site, newest first: `active`, `superseded` or `revoked`.
fn standings(service: &Service) -> Vec<String> {
    let shown = service.show("demo/site-1");
    let configs: Vec<Value> = shown["configs"].as_array().unwrap().clone();
    configs.iter().map(|config| config["standing"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_new_base_comes_with_an_overlap_and_the_old_one_comes_back() {
    let service = Service::simulated();
    let (admin, client) = (Admin::of(&service), service.client());
    let first = admin.build("base", "out", &[]).enrolled(&service);
    first.runs_on(1, &client);

    admin.make_base("base-2", 2, 2);
    let more = ["--supersedes", "out/enroll", "--overlap-days", "7"];
    let second = admin.build("base-2", "out-2", &more).enrolled(&service);
    assert_eq!((first.svn(), second.svn()), (1, 2));
    assert_eq!(standings(&service), ["active", "superseded"]);
    let until = service.show("demo/site-1")["configs"][1]["overlap_until"].as_u64().unwrap();
    assert!((now() + 7 * 86_400 - 60..=now() + 7 * 86_400).contains(&until), "{until}");
    let text = String::from_utf8(service.site(&["show", "demo/site-1"]).stdout).unwrap();
    let until = text.lines().find_map(|line| line.strip_prefix("  may run beside its successor until=")).unwrap();
    assert!(until.starts_with("20") && until.ends_with('Z'), "{until}");
    // Both run meanwhile, each on its own base only.
    first.runs_on(1, &client);
    second.runs_on(2, &client);
    first.is_refused_on(2, &client, "launch_digest");
    second.is_refused_on(1, &client, "launch_digest");

    let third = admin.build("base", "out-3", &["--supersedes", "out-2/enroll"]).enrolled(&service);
    assert_eq!((third.svn(), standings(&service)), (3, vec!["active".to_owned(), "revoked".into(), "superseded".into()]));
    third.runs_on(1, &client);
    second.is_refused_on(2, &client, "revoked");
    first.runs_on(1, &client);

    // The site has changed over: nobody has to wait for the seventh day.
    let done = service.site(&["revoke", &first.host_data().to_string(), "--reason", "done"]);
    assert!(done.status.success(), "{}", stderr(&done));
    first.is_refused_on(1, &client, "revoked");
    third.runs_on(1, &client);
    // Nothing is enrolled twice: not the first, not the second.
    for old in [&first, &second] {
        assert!(!old.enroll(&service).status.success());
    }
}

#[test]
fn an_overlap_ends_at_its_second_and_for_good() {
    let service = Service::simulated();
    let (admin, client) = (Admin::of(&service), service.client());
    let first = admin.build("base", "out", &[]).enrolled(&service);
    let second = admin.build("base", "out-2", &["--supersedes", "out/enroll", "--overlap-days", "1"]);
    // A day is the least `coffer build` gives; the test has two seconds.
    let text = fs::read_to_string(&second.file).unwrap();
    assert!(text.contains("\"overlap_seconds\":86400"), "{}", second.enrollment.record.site);
    fs::write(&second.file, text.replace("\"overlap_seconds\":86400", "\"overlap_seconds\":2")).unwrap();
    let second = second.enrolled(&service);
    first.runs_on(1, &client);
    let guest = first.guest_on(1);
    let open = guest.attest(&client);
    std::thread::sleep(Duration::from_millis(2100));
    client.get(&guest.resource("site-1", ""), Some(open.session())).expect_refusal(403, "revoked");
    first.is_refused_on(1, &client, "revoked");
    second.runs_on(1, &client);
}

#[test]
fn a_new_container_or_setting_replaces_at_once_and_goes_back() {
    let service = Service::simulated();
    let (admin, client) = (Admin::of(&service), service.client());
    let first = admin.build("base", "out", &[]).enrolled(&service);
    let guest = first.guest_on(1);
    let open = guest.attest(&client);
    admin.write("cc_site-1.yml", &format!("{SITE}container:\n  env: {{MODE: eval}}\n"));
    let second = admin.build("base", "out-2", &["--supersedes", "out/enroll"]).enrolled(&service);
    assert!(second.site.container.env.contains(&"MODE=eval".to_owned()));
    second.runs_on(1, &client);
    first.is_refused_on(1, &client, "revoked");
    // What runs keeps what it holds, and gets nothing more.
    client.get(&guest.resource("site-1", ""), Some(open.session())).expect_refusal(403, "revoked");
    admin.write("cc_site-1.yml", SITE);
    let third = admin.build("base", "out-3", &["--supersedes", "out-2/enroll"]).enrolled(&service);
    assert_eq!(third.site.container, first.site.container);
    third.runs_on(1, &client);
    // Built from the wrong predecessor: refused by the service, with nothing changed.
    let stale = admin.build("base", "out-4", &["--supersedes", "out/enroll"]);
    assert!(stderr(&stale.enroll(&service)).contains("is not the active config"));
    third.runs_on(1, &client);
}

#[test]
fn keys_come_back_on_a_new_service_that_has_the_old_ones_certificate() {
    let mut lost = Service::simulated();
    let admin = Admin::of(&lost);
    admin.build("base", "out", &[]).enrolled(&lost);
    let newest = admin.build("base", "out-2", &["--supersedes", "out/enroll"]).enrolled(&lost);
    newest.runs_on(1, &lost.client());
    // Kept: enroll/, tls/, the list of what was revoked, and the keys that it is signed with. Everything else burns.
    copy_dir(&lost.path().join("tls"), &admin.path("kept-tls"));
    let kept = |name: &str| admin.path(name).display().to_string();
    let run = |service: &Service, args: &[&str]| {
        let dir = service.path();
        let done = support::program(&[args, &["--dir", dir.to_str().unwrap()]].concat());
        assert!(done.status.success(), "{args:?}: {}", stderr(&done));
    };
    run(&lost, &["revocations", "export", "--to", &kept("revocations.jwt")]);
    run(&lost, &["keys", "export", "--to", &kept("jwks.json")]);
    lost.stop();
    fs::remove_dir_all(lost.path()).unwrap();

    let mut service = Service::simulated();
    service.stop();
    fs::remove_dir_all(service.path().join("tls")).unwrap();
    copy_dir(&admin.path("kept-tls"), &service.path().join("tls"));
    run(&service, &["revocations", "import", &kept("revocations.jwt"), "--jwks", &kept("jwks.json")]);
    service.start();
    // The guest pins what its site config says, which was written for the lost service.
    let pinned = data_encoding::BASE64.decode(newest.site.key_service.ca[0].as_bytes()).unwrap();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", data_encoding::BASE64.encode(&pinned));
    admin.write("pinned.pem", &pem);
    let client = Client::new(&service.url, &admin.path("pinned.pem"), &newest.site.key_service.tls_name);
    newest.is_refused_on(1, &client, "host_data");
    // The newest file alone will do, though it names one that this service never had.
    let newest = newest.enrolled(&service);
    newest.runs_on(1, &client);
    let old = EnrollmentFile::from_bytes(&fs::read(admin.path("out/enroll/site-1.json")).unwrap()).unwrap();
    assert_eq!(newest.enrollment.record.supersedes, Some(old.record.host_data));
    let older = service.site(&["enroll", admin.path("out/enroll/site-1.json").to_str().unwrap()]);
    assert!(stderr(&older).contains("is enrolled already"), "{}", stderr(&older));
    assert!(!older.status.success(), "the list knows that it was revoked");
    // Life goes on from there.
    let next = admin.build("base", "out-3", &["--supersedes", "out-2/enroll"]).enrolled(&service);
    next.runs_on(1, &client);
    newest.is_refused_on(1, &client, "revoked");
}

#[test]
fn without_its_old_certificate_a_new_service_is_a_stranger_to_old_bundles() {
    let lost = Service::simulated();
    let admin = Admin::of(&lost);
    let first = admin.build("base", "out", &[]).enrolled(&lost);
    drop(lost);
    let service = Service::simulated();
    let client = Client::new(&service.url, &admin.path("ca.pem"), TLS_NAME);
    assert!(client.send("GET", "/healthz", &[], &[]).is_err(), "the old pin opened a new service");
    // Then every site is built again, for the new CA.
    fs::copy(service.path().join("tls/ca.pem"), admin.path("ca.pem")).unwrap();
    let second = admin.build("base", "out-2", &["--supersedes", "out/enroll"]).enrolled(&service);
    second.runs_on(1, &service.client());
    assert_ne!(first.site.key_service.ca, second.site.key_service.ca);
}

#[test]
fn a_lost_enrollment_file_is_superseded_by_its_host_data() {
    let service = Service::simulated();
    let (admin, client) = (Admin::of(&service), service.client());
    let first = admin.build("base", "out", &[]).enrolled(&service);
    fs::remove_dir_all(admin.path("out/enroll")).unwrap();
    let shown = service.show("demo/site-1")["configs"][0]["record"].clone();
    let (old, svn) = (shown["host_data"].as_str().unwrap(), shown["site_svn"].as_u64().unwrap());
    admin.write("cc_site-1.yml", &format!("{SITE}site_svn: {}\n", svn + 1));
    let second = admin.build("base", "out-2", &["--supersedes", old]).enrolled(&service);
    second.runs_on(1, &client);
    first.is_refused_on(1, &client, "revoked");
}

#[test]
fn a_site_that_leaves_gets_nothing_and_its_name_is_spent() {
    let service = Service::simulated();
    let (admin, client) = (Admin::of(&service), service.client());
    let first = admin.build("base", "out", &[]).enrolled(&service);
    let second = admin.build("base", "out-2", &["--supersedes", "out/enroll", "--overlap-days", "30"]).enrolled(&service);
    let done = service.site(&["revoke", "demo/site-1", "--reason", "left"]);
    assert!(done.status.success(), "{}", stderr(&done));
    assert_eq!(standings(&service), ["revoked", "revoked"]);
    for gone in [&first, &second] {
        gone.is_refused_on(1, &client, "revoked");
        assert!(!gone.enroll(&service).status.success());
    }
    for more in [&[][..], &["--supersedes", "out-2/enroll"]] {
        let out = format!("again-{}", more.len());
        let again = admin.build("base", &out, more).enroll(&service);
        assert!(!again.status.success(), "{}", stderr(&again));
    }
}

/// ID blocks: an enrollment that asks for the author key takes no report without it.
#[test]
fn a_project_with_an_author_key_takes_no_launch_without_its_id_block() {
    let service = Service::simulated();
    let (admin, client) = (Admin::of(&service), service.client());
    let digest = new_author_key(&admin, "author.pem");
    let first = admin.build("base", "out", &[]).enrolled(&service);
    first.runs_on(1, &client);
    let launched = |change: &dyn Fn(&mut Identity)| {
        let mut guest = first.guest_on(1);
        change(&mut guest.guest.identity);
        guest.attest(&client).answer
    };
    let text = String::from_utf8(service.site(&["show", "demo/site-1"]).stdout).unwrap();
    assert!(text.contains(&format!("\n  asks author_key_digest={digest} minimum_guest_svn=1\n")), "{text}");
    launched(&|identity| *identity = Identity::default()).expect_refusal(403, "enrolled_author_key");
    launched(&|identity| identity.author_key_digest = None).expect_refusal(403, "enrolled_author_key");
    launched(&|identity| identity.guest_svn = 0).expect_refusal(403, "enrolled_guest_svn");
    let decision = service.last_decision("demo/site-1");
    assert_eq!((decision["code"].as_str(), decision["event"].as_str()), (Some("enrolled_guest_svn"), Some("refuse")));

    // Somebody else's key, in every other way the same.
    new_author_key(&admin, "stranger.pem");
    let stranger = admin.build("base", "stranger", &[]);
    let foreign = Identity::check(&stranger.id_pair(1).unwrap(), LaunchDigest::new([1; 48]), first.guest_on(1).guest.policy).unwrap();
    launched(&|identity| *identity = foreign.clone()).expect_refusal(403, "enrolled_author_key");

    // A new key of our own, and the old one revoked for every site.
    let second = admin.build("base", "out-2", &["--supersedes", "out/enroll", "--overlap-days", "1"]).enrolled(&service);
    second.runs_on(1, &client);
    first.runs_on(1, &client);
    let dir = service.path();
    let revoked = support::program(&["revoke", "key", &digest, "--reason", "seen elsewhere", "--dir", dir.to_str().unwrap()]);
    assert!(revoked.status.success(), "{}", stderr(&revoked));
    first.is_refused_on(1, &client, "key_revoked");
    second.runs_on(1, &client);
}

/// Makes a key, names it in project.yml, and gives its digest.
fn new_author_key(admin: &Admin, name: &str) -> String {
    let made = admin.coffer(&["author-key", "new", "--out", name]);
    assert!(made.status.success(), "{}", stderr(&made));
    admin.write_project(&format!("author_key: {name}\n"));
    String::from_utf8(made.stdout).unwrap().trim().strip_prefix("author_key_digest ").unwrap().to_owned()
}

/// What the site's file says about machines is the enrollment's to ask.
#[test]
fn a_site_bound_to_chips_or_a_tcb_runs_nowhere_else() {
    let service = Service::simulated();
    let (admin, client) = (Admin::of(&service), service.client());
    let platform = simulator(Family::Genoa).asp.platform();
    let (chip, tcb) = (platform.chip_id, platform.tcb);
    let floor = |microcode: u8| {
        format!("tcb_floor: {{bootloader: {}, tee: {}, snp: {}, microcode: {microcode}}}\n", tcb.bootloader, tcb.tee, tcb.snp)
    };
    admin.write("cc_site-1.yml", &format!("{SITE}chip_ids: ['{chip}']\n{}", floor(tcb.microcode)));
    let own = admin.build("base", "out", &[]).enrolled(&service);
    own.runs_on(1, &client);
    admin.write("cc_site-1.yml", &format!("{SITE}chip_ids: ['{}']\n", "ab".repeat(64)));
    let elsewhere = admin.build("base", "out-2", &["--supersedes", "out/enroll"]).enrolled(&service);
    elsewhere.is_refused_on(1, &client, "enrolled_chip");
    admin.write("cc_site-1.yml", &format!("{SITE}{}", floor(tcb.microcode + 1)));
    let newer = admin.build("base", "out-3", &["--supersedes", "out-2/enroll"]).enrolled(&service);
    newer.is_refused_on(1, &client, "enrolled_tcb_floor");
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
