//! `coffer build` as a user runs it: what it writes, what it refuses, what it leaves behind when it is stopped.
#![allow(missing_docs)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use coffer_manifest::{Bundle, EnrollmentFile, SiteConfig, decode, open_kit};
use support::{Image, KIT_SECRET, PROJECT, Project, SITE, archive, files_below, text};

const FILES: [&str; 12] = [
    "OVMF.amdsev.fd",
    "README.txt",
    "applog.qcow2",
    "base.json",
    "crypt_root.qcow2",
    "initrd.img",
    "launch_vm.sh",
    "manifest.json",
    "site.json",
    "user_config.qcow2",
    "user_data.qcow2",
    "vmlinuz",
];

fn with_everything(project: &Project) {
    let more = "\
cc_gpu_mechanism: nvidia_cc
user_config:
  nvflare: conf
kit:
  /opt/kit: kit
container:
  command: [/bin/app, --override]
  env:
    MODE: plan
    EXTRA: 'a b'
hosts_entries:
  server1: 10.176.200.152
allowed_ports: [9094]
allowed_out_ports: [443, 9092]
cc_issuers:
  - id: snp_authorizer
    path: a.b.SNPAuthorizer
    token_expiration: 100
cc_attestation:
  check_frequency: 120
  failure_action: shutdown
  retry_for: 20
";
    project.write("cc_site-1.yml", &format!("{SITE}{more}"));
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).expect("directory").map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("metadata").permissions().mode() & 0o7777
}

fn site(bundle: &Path) -> SiteConfig {
    SiteConfig::from_bytes(&fs::read(bundle.join("site.json")).expect("site.json")).expect("decodes")
}

fn enrollment(project: &Project, site: &str) -> EnrollmentFile {
    let bytes = fs::read(project.path(&format!("out/enroll/{site}.json"))).expect("enrollment");
    EnrollmentFile::from_bytes(&bytes).expect("decodes")
}

#[test]
fn writes_the_tree_and_says_what_to_type_next() {
    let project = Project::new();
    with_everything(&project);
    let output = project.run(&["build", "--base", "base", "-o", "out", "cc_site-1.yml"]);
    let (result, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}");
    let bundle = project.bundle("site-1");
    let name = bundle.file_name().expect("name").to_string_lossy().into_owned();
    assert_eq!(result, format!("out/site-1/{name}\nout/site-1/site-1.tgz\nout/enroll/site-1.json\n"));
    assert!(said.contains("coffer-attest site enroll out/enroll/site-1.json --dir "), "{said}");
    assert!(said.contains(&format!("out/site-1/{name}/launch_vm.sh --check")), "{said}");
    for carried in ["allowed_ports", "allowed_out_ports", "cc_issuers", "cc_attestation", "cc_gpu_mechanism"] {
        assert!(said.contains(&format!("not enforced yet: {carried}")), "{carried}: {said}");
    }
    assert_eq!(names(&project.path("out")), ["enroll", "site-1"]);
    assert_eq!(names(&bundle), FILES);
    let host_data = SiteConfig::host_data(&fs::read(bundle.join("site.json")).expect("site.json")).to_string();
    assert_eq!(name, format!("cvm_{}", &host_data[..12]));
    assert_eq!(mode(&project.path("out/enroll/site-1.json")), 0o600);
    assert_eq!(mode(&project.path("out/enroll")), 0o700);
    assert_eq!(mode(&bundle.join("launch_vm.sh")), 0o755);
    assert_eq!(mode(&bundle.join("crypt_root.qcow2")), 0o644);
}

#[test]
fn the_site_config_says_what_was_asked() {
    let project = Project::new();
    with_everything(&project);
    let config = site(&project.build());
    assert_eq!(config.container.command, ["/bin/app", "--override"]);
    assert_eq!(config.container.env, ["PATH=/bin:/usr/bin", "MODE=plan", "EXTRA=a b"]);
    assert_eq!(config.container.workdir, "/srv");
    assert_eq!(config.container.stop_signal, 2);
    assert_eq!((config.container.user.uid, config.container.user.gid), (1000, 1001));
    assert_eq!(config.container.user.groups, [44]);
    assert_eq!(config.network.allowed_ports, [9094]);
    assert_eq!(config.network.hosts_entries["server1"].to_string(), "10.176.200.152");
    assert_eq!((config.attestation.token_expiration, config.attestation.check_frequency), (100, 120));
    assert_eq!(config.attestation.retry_for, 20);
    assert_eq!(config.not_before, 1_790_000_000);
    assert_eq!(config.key_service.urls, ["https://10.0.2.2:8999"]);
    assert!(config.gpu.is_some());
    let record = enrollment(&project, "site-1").record;
    assert_eq!((record.project.as_str(), record.site.as_str(), record.base_svn), ("demo", "site-1", 3));
    assert_eq!(record.launch_digests.len(), 3);
    assert_eq!(record.open_risks.aml, "unrestricted");
    assert_eq!(record.supersedes, None);
}

#[test]
fn the_image_decides_where_the_plan_is_silent() {
    let project = Project::new();
    let config = site(&project.build());
    assert_eq!(config.container.command, ["/bin/app", "--serve"]);
    assert_eq!(config.container.env, ["PATH=/bin:/usr/bin", "MODE=image"]);
    assert_eq!(config.kit, None);
    assert!(enrollment(&project, "site-1").secrets.kit.is_none());
}

#[test]
fn an_image_without_a_command_needs_one() {
    let project = Project::new();
    let image = Image { config: serde_json::json!({}), files: Vec::new() };
    fs::write(project.path("app.tar"), archive(&image)).expect("archive");
    let output = project.run(&["build", "--base", "base", "-o", "out", "cc_site-1.yml"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr).lines().filter(|line| line.starts_with("coffer: ") && !line.contains("not enforced")).collect::<Vec<_>>(),
        [
            "coffer: the image in app.tar has neither entrypoint nor command",
            "coffer: hint: add `container: {command: [program, argument]}`"
        ]
    );
    assert!(!project.path("out").exists());
}

#[test]
fn the_enrolled_secrets_open_what_was_built() {
    let project = Project::new();
    with_everything(&project);
    let bundle = project.build();
    let (config, file) = (site(&bundle), enrollment(&project, "site-1"));
    assert_eq!(file.record.host_data, SiteConfig::host_data(&fs::read(bundle.join("site.json")).expect("site.json")));
    assert!(file.secrets.root.opens(&config.disk_uuid, &config.key_check));
    let kit = config.kit.expect("kit");
    let raw = project.path("root.raw");
    let convert = Command::new("qemu-img").args(["convert", "-O", "raw"]).arg(bundle.join("crypt_root.qcow2")).arg(&raw).status();
    assert!(convert.expect("qemu-img").success());
    let disk = fs::read(&raw).expect("raw disk");
    assert_eq!(disk.len() as u64, 1 << 30);
    let start = usize::try_from(kit.offset).expect("offset");
    let sealed = &disk[start..start + usize::try_from(kit.size).expect("size")];
    let key = file.secrets.kit.expect("kit key");
    let tar = open_kit(&key, &config.disk_uuid, &kit.digest, sealed).expect("opens");
    let mut found = Vec::new();
    for entry in tar::Archive::new(tar.as_slice()).entries().expect("tar") {
        let entry = entry.expect("entry");
        let header = entry.header();
        let path = entry.path().expect("path").display().to_string();
        found.push((path, header.mode().expect("mode"), header.uid().expect("uid"), header.gid().expect("gid")));
    }
    let own = |path: &str, mode| (path.to_owned(), mode, 1000, 1001);
    assert_eq!(
        found,
        [own("opt/kit/", 0o700), own("opt/kit/certs/", 0o700), own("opt/kit/certs/ca.crt", 0o600), own("opt/kit/client.key", 0o600)]
    );
}

#[test]
fn the_archive_unpacks_to_the_bundle() {
    let project = Project::new();
    let bundle = project.build();
    let there = project.path("there");
    fs::create_dir(&there).expect("mkdir");
    let tar = Command::new("tar").arg("-zxvf").arg(project.path("out/site-1/site-1.tgz")).current_dir(&there).output().expect("tar");
    assert!(tar.status.success() && tar.stderr.is_empty(), "{}", text(&tar.stderr));
    let name = bundle.file_name().expect("name");
    assert_eq!(names(&there), [name.to_string_lossy()]);
    for file in FILES {
        let (built, unpacked) = (bundle.join(file), there.join(name).join(file));
        assert!(fs::read(&built).expect("built") == fs::read(&unpacked).expect("unpacked"), "{file}");
        assert_eq!(mode(&built), mode(&unpacked), "{file}");
    }
    let manifest: Bundle = decode(&fs::read(bundle.join("manifest.json")).expect("manifest")).expect("decodes");
    let listed: Vec<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(listed, FILES.into_iter().filter(|file| *file != "manifest.json").collect::<Vec<_>>());
}

/// Everything but what hangs on the random keys is the same in a second build, at another place and with another umask.
#[test]
fn what_is_not_ciphertext_is_reproducible() {
    let bundles = ["0022", "0077"].map(|umask| {
        let project = Project::new();
        with_everything(&project);
        let coffer = env!("CARGO_BIN_EXE_coffer");
        let build = format!("umask {umask}; exec {coffer} build --base base -o out cc_site-1.yml");
        let mut command = Command::new("sh");
        command.args(["-c", &build]).current_dir(project.path("")).env("SOURCE_DATE_EPOCH", "1790000000");
        assert!(command.output().expect("runs").status.success());
        let bundle = project.bundle("site-1");
        (project, bundle)
    });
    for file in FILES {
        let [one, two] = bundles.each_ref().map(|(_, bundle)| fs::read(bundle.join(file)).expect("reads"));
        let random = ["crypt_root.qcow2", "site.json", "manifest.json", "launch_vm.sh", "README.txt"].contains(&file);
        assert_eq!(one == two, !random, "{file}");
        let [one, two] = bundles.each_ref().map(|(_, bundle)| mode(&bundle.join(file)));
        assert_eq!(one, two, "{file}");
    }
}

#[test]
fn no_secret_leaves_the_enrollment() {
    let project = Project::new();
    with_everything(&project);
    let output = project.run(&["build", "--base", "base", "-o", "out", "cc_site-1.yml"]);
    assert!(output.status.success());
    let file = enrollment(&project, "site-1");
    let bundle = project.bundle("site-1");
    let volume = file.secrets.root.volume_key(&site(&bundle).disk_uuid);
    let kit = file.secrets.kit.expect("kit");
    let forms = |bytes: &[u8]| {
        let hex = data_encoding::HEXLOWER.encode(bytes);
        let base64 = data_encoding::BASE64.encode(bytes);
        // The last characters of base64 depend on what follows; the first ones do not.
        vec![bytes.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes(), base64.as_bytes()[..40].to_vec()]
    };
    let mut needles: Vec<Vec<u8>> =
        [&file.secrets.root.expose()[..], kit.expose(), volume.expose(), &volume.expose()[32..]].into_iter().flat_map(forms).collect();
    needles.push(KIT_SECRET.lines().nth(1).expect("body").as_bytes().to_vec());
    let mut haystacks: Vec<(String, Vec<u8>)> = files_below(&project.path("out/site-1"))
        .into_iter()
        .map(|path| (path.display().to_string(), fs::read(&path).expect("reads")))
        .collect();
    assert_eq!(haystacks.len(), FILES.len() + 1);
    haystacks.push(("stdout".into(), output.stdout));
    haystacks.push(("stderr".into(), output.stderr));
    for (name, bytes) in &haystacks {
        for needle in &needles {
            assert!(!contains(bytes, needle), "{name} holds a secret");
        }
    }
    // The search itself finds what is there.
    let enrolled = fs::read(project.path("out/enroll/site-1.json")).expect("enrollment");
    assert!(contains(&enrolled, &needles[2]));
}

/// Whether `needle` occurs, found by its first byte.
fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == needle[0]) {
        rest = &rest[at..];
        if rest.starts_with(needle) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

#[test]
fn nothing_is_ever_replaced() {
    let project = Project::new();
    project.build();
    let before = fs::read(project.path("out/enroll/site-1.json")).expect("enrollment");
    let output = project.run(&["build", "--base", "base", "-o", "out", "cc_site-1.yml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("coffer: out/site-1 exists already\ncoffer: hint: "), "{}", text(&output.stderr));
    fs::remove_dir_all(project.path("out/site-1")).expect("removes");
    let output = project.run(&["build", "--base", "base", "-o", "out", "cc_site-1.yml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("coffer: out/enroll/site-1.json exists already"), "{}", text(&output.stderr));
    assert_eq!(fs::read(project.path("out/enroll/site-1.json")).expect("enrollment"), before);
    assert_eq!(names(&project.path("out")), ["enroll"]);
}

#[test]
fn all_sites_or_none() {
    let project = Project::new();
    project.write("cc_site-2.yml", SITE);
    project.write("cc_site-3.yml", &SITE.replace("app.tar", "broken.tar"));
    project.write("broken.tar", "not a tar");
    let output = project.run(&["build", "--base", "base", "-o", "out", "cc_site-1.yml", "cc_site-2.yml", "cc_site-3.yml"]);
    assert!(!output.status.success());
    assert!(!project.path("out").exists(), "{:?}", files_below(&project.path("out")));
    let output = project.run(&["build", "--base", "base", "-o", "out", "cc_site-1.yml", "cc_site-2.yml"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(names(&project.path("out")), ["enroll", "site-1", "site-2"]);
    let (one, two) = (enrollment(&project, "site-1"), enrollment(&project, "site-2"));
    assert_ne!(one.secrets.root.expose(), two.secrets.root.expose());
    let twice = project.run(&["build", "--base", "base", "-o", "other", "cc_site-1.yml", "./cc_site-1.yml"]);
    assert_eq!(twice.status.code(), Some(2));
    assert!(text(&twice.stderr).contains("site `site-1` is also described by cc_site-1.yml"), "{}", text(&twice.stderr));
}

/// Builds into `out`, or gives the exit code and what was said.
fn build_into(project: &Project, out: &str, args: &[&str]) -> Result<(), (Option<i32>, String)> {
    let output = project.run(&[&["build", "--base", "base", "-o", out], args].concat());
    if output.status.success() { Ok(()) } else { Err((output.status.code(), text(&output.stderr))) }
}

fn record_in(project: &Project, out: &str, site: &str) -> coffer_manifest::Enrollment {
    let bytes = fs::read(project.path(&format!("{out}/enroll/{site}.json"))).expect("enrollment");
    EnrollmentFile::from_bytes(&bytes).expect("decodes").record
}

#[test]
fn a_new_config_names_the_old_one_and_counts_up() {
    let project = Project::new();
    project.write("cc_site-2.yml", &format!("{SITE}site_svn: 7\n"));
    build_into(&project, "out", &["cc_site-1.yml", "cc_site-2.yml"]).expect("builds");
    // A file, then the directory of them; the second keeps both configs alive for a while.
    build_into(&project, "out-2", &["--supersedes", "out/enroll/site-1.json", "cc_site-1.yml"]).expect("builds");
    let (old, new) = (record_in(&project, "out", "site-1"), record_in(&project, "out-2", "site-1"));
    assert_eq!((old.site_svn, old.supersedes, old.overlap_seconds), (1, None, None));
    assert_eq!((new.site_svn, new.supersedes, new.overlap_seconds), (2, Some(old.host_data), None));
    project.write("cc_site-2.yml", SITE);
    build_into(&project, "out-3", &["cc_site-2.yml", "cc_site-1.yml", "--supersedes", "out/enroll", "--overlap-days", "7"])
        .expect("builds");
    for (site, svn) in [("site-1", 2), ("site-2", 8)] {
        let new = record_in(&project, "out-3", site);
        assert_eq!((new.site_svn, new.supersedes), (svn, Some(record_in(&project, "out", site).host_data)), "{site}");
        assert_eq!(new.overlap_seconds, Some(7 * 86_400));
    }
    // The counter is the site config's too: HOST_DATA binds it.
    let mut bundles = fs::read_dir(project.path("out-3/site-2")).expect("site").map(|entry| entry.expect("entry").path());
    let bundle = bundles.find(|path| path.is_dir()).expect("a bundle");
    assert_eq!(site(&bundle).site_svn, 8);
    // The file is lost: HOST_DATA and a counter of one's own.
    project.write("cc_site-2.yml", &format!("{SITE}site_svn: 9\n"));
    build_into(&project, "out-4", &["--supersedes", &old.host_data.to_string(), "cc_site-2.yml"]).expect("builds");
    assert_eq!(record_in(&project, "out-4", "site-2").supersedes, Some(old.host_data));
}

#[test]
fn what_cannot_be_replaced_is_refused_before_anything_is_built() {
    let project = Project::new();
    project.write("cc_site-2.yml", &format!("{SITE}site_svn: 7\n"));
    build_into(&project, "out", &["cc_site-1.yml", "cc_site-2.yml"]).expect("builds");
    build_into(&project, "spent", &["cc_site-1.yml"]).expect("builds");
    let path = project.path("spent/enroll/site-1.json");
    let last = fs::read_to_string(&path).expect("reads").replace("\"site_svn\":1", &format!("\"site_svn\":{}", u32::MAX));
    fs::write(&path, last).expect("writes");
    project.write("simulated.yml", &format!("{PROJECT}simulator_ark: ark.pem\n"));
    let hex = "ab".repeat(32);
    let cases: [(&[&str], &str); 10] = [
        (&["--supersedes", &hex, "cc_site-1.yml", "cc_site-2.yml"], "--supersedes names one config, but 2 sites are given"),
        (&["--supersedes", &hex, "cc_site-1.yml"], "site_svn of site-1 is not given"),
        (&["--supersedes", "out/enroll/site-2.json", "cc_site-1.yml"], "is the enrollment of demo/site-2, not of demo/site-1"),
        (&["--supersedes", "out/enroll/site-2.json", "cc_site-2.yml"], "site_svn of site-2 is 7, the config it replaces has 7"),
        (&["--supersedes", "spent/enroll", "cc_site-1.yml"], "site_svn of site-1 is 4294967295, the highest there is"),
        (&["--supersedes", "spent/enroll", "cc_site-1.yml", "cc_site-2.yml"], "is 4294967295, the highest there is"),
        (&["--supersedes", "project.yml", "cc_site-1.yml"], "project.yml is no enrollment: document does not parse"),
        (&["--supersedes", "conf", "cc_site-1.yml"], "cannot read conf/site-1.json"),
        (&["--supersedes", "out/enroll", "--overlap-days", "31", "cc_site-1.yml"], "31 is not in 1..=30"),
        (&["--overlap-days", "1", "cc_site-1.yml"], "--supersedes"),
    ];
    for (args, expected) in cases {
        let (code, said) = build_into(&project, "new", args).expect_err(expected);
        assert!(said.contains(expected), "{args:?}: {said}");
        assert_eq!(code, Some(if expected.starts_with("cannot read") { 1 } else { 2 }), "{said}");
        assert!(said.starts_with("error: ") || said.contains("\ncoffer: hint: ") || code == Some(1), "{said}");
        assert!(!project.path("new").exists(), "{args:?}");
    }
    let args = ["build", "--base", "sim", "--project", "simulated.yml", "-o", "new", "--supersedes", "out/enroll", "cc_site-1.yml"];
    let output = project.run(&args);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("has root of trust amd-sev-snp, this build has simulated:"), "{}", text(&output.stderr));
}

#[test]
fn a_cancelled_build_leaves_nothing() {
    let project = Project::new();
    // Large and incompressible enough that the build is still busy when it is stopped.
    let mut noise = vec![0_u8; 192 << 20];
    let mut state = 1_u64;
    for chunk in noise.chunks_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chunk.copy_from_slice(&(state ^ (state >> 29)).to_le_bytes()[..chunk.len()]);
    }
    let image = Image { files: vec![("data".into(), noise)], ..Image::default() };
    fs::write(project.path("app.tar"), archive(&image)).expect("archive");
    let before = files_below(&project.path(""));
    for (signal, code) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        let mut child =
            project.coffer(&["build", "--base", "base", "-o", "deep/out", "cc_site-1.yml"]).stderr(Stdio::piped()).spawn().expect("starts");
        while !project.path("deep/out").exists() {
            assert!(child.try_wait().expect("waits").is_none(), "ended before it wrote anything");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(300));
        // Nor would a crash: its keys are in memory by now.
        let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).expect("its limits");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
        assert_eq!(core.split_whitespace().skip(4).collect::<Vec<_>>(), ["0", "0", "bytes"]);
        let killed = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().expect("kill");
        assert!(killed.success());
        let output = child.wait_with_output().expect("waits");
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert!(text(&output.stderr).ends_with("nothing was left behind\n"), "{}", text(&output.stderr));
        assert_eq!(files_below(&project.path("")), before, "{signal}");
        assert!(!project.path("deep").exists(), "{signal}");
    }
}

#[test]
fn a_failed_build_removes_only_what_it_made() {
    let project = Project::new();
    fs::write(project.path("app.tar"), "not a tar").expect("writes");
    fs::create_dir(project.path("out")).expect("mkdir");
    let output = project.run(&["build", "--base", "base", "-o", "out", "cc_site-1.yml"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(names(&project.path("out")).is_empty());
}

#[test]
fn space_is_checked_before_anything_is_written() {
    let project = Project::new();
    fs::write(project.path("app.tar"), [0x1f, 0x8b]).expect("gzip's magic");
    let sparse = fs::OpenOptions::new().write(true).open(project.path("app.tar")).expect("opens");
    sparse.set_len(4 << 40).expect("four sparse tebibytes");
    let output = project.run(&["build", "--base", "base", "-o", "out", "cc_site-1.yml"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(" bytes free, this build needs about "), "{said}");
    assert!(said.contains("\ncoffer: hint: free some space there"), "{said}");
    assert!(!project.path("out").exists());
}

#[test]
fn a_changed_base_is_refused() {
    let project = Project::new();
    fs::write(project.path("base/vmlinuz"), "another kernel").expect("writes");
    let output = project.run(&["build", "--base", "base", "-o", "out", "cc_site-1.yml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("coffer: base base: vmlinuz has SHA-256 "), "{}", text(&output.stderr));
    let output = project.run(&["build", "--base", "nowhere", "-o", "out", "cc_site-1.yml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!project.path("out").exists());
}

#[test]
fn the_root_of_trust_follows_the_base() {
    let project = Project::new();
    let output = project.run(&["build", "--base", "sim", "-o", "out", "cc_site-1.yml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("the base is simulated, but no `simulator_ark` is given"), "{}", text(&output.stderr));
    let bundle = project.build_simulated();
    assert!(site(&bundle).root_of_trust.to_string().starts_with("simulated:"));
    assert_eq!(enrollment(&project, "site-1").record.root_of_trust, site(&bundle).root_of_trust);
    project.write("project.yml", PROJECT);
    fs::remove_dir_all(project.path("out")).expect("removes");
    assert_eq!(site(&project.build()).root_of_trust.to_string(), "amd-sev-snp");
}
