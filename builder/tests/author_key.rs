//! A project with an author key: the key itself, the ID blocks of its bundles, the enrollments that ask for them.
#![allow(missing_docs)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use coffer_manifest::{Bundle, ChipId, Enrollment, EnrollmentFile, LaunchDigest, TcbVersion, decode};
use coffer_measure::{GuestPolicy, IdAuth, IdBlock, IdPrivateKey, KeyDigest};
use data_encoding::{BASE64, HEXLOWER};
use support::{PROJECT, Project, SITE, files_below, text};

/// A project whose `project.yml` names a key that `coffer` made.
fn with_author_key() -> Project {
    let project = Project::new();
    make_key(&project, "author.pem");
    project.write("project.yml", &format!("{PROJECT}author_key: author.pem\n"));
    project
}

fn make_key(project: &Project, name: &str) -> String {
    let made = project.run(&["author-key", "new", "--out", name]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    text(&made.stdout)
}

fn key(project: &Project) -> IdPrivateKey {
    IdPrivateKey::from_pem(&fs::read_to_string(project.path("author.pem")).expect("the key")).expect("a key")
}

fn record(project: &Project, enroll: &str) -> Enrollment {
    EnrollmentFile::from_bytes(&fs::read(project.path(enroll)).expect("enrollment")).expect("decodes").record
}

fn pair(bundle: &Path, vcpus: u8) -> [PathBuf; 2] {
    ["block", "auth"].map(|kind| bundle.join(format!("id_{}.{kind}", HEXLOWER.encode(&[vcpus; 8]))))
}

#[test]
fn a_key_is_made_once_and_only_its_owner_may_read_it() {
    let project = Project::new();
    let digest = make_key(&project, "author.pem");
    let path = project.path("author.pem");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o600);
    assert_eq!(digest, format!("author_key_digest {}\n", key(&project).public().digest()));
    let before = fs::read(&path).expect("reads");
    let again = project.run(&["author-key", "new", "--out", "author.pem"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again.stderr).starts_with("coffer: author.pem exists already\ncoffer: hint: "), "{}", text(&again.stderr));
    assert_eq!(fs::read(&path).expect("reads"), before);
    assert_ne!(make_key(&project, "other.pem"), digest);

    let shown = project.run(&["author-key", "show", "author.pem", "--project", "demo"]);
    let id_key = key(&project).id_key_of("demo").expect("a key").public().digest();
    assert_eq!(text(&shown.stdout), format!("{digest}id_key_digest     {id_key}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
    let open = project.run(&["author-key", "show", "author.pem"]);
    assert_eq!(open.status.code(), Some(2));
    assert!(text(&open.stderr).starts_with("coffer: author.pem has mode 0640, a private key file must have 0600\n"), "{open:?}");
    for bytes in [&b""[..], b"\xff\xfe", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        fs::write(&path, bytes).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        let bad = project.run(&["author-key", "show", "author.pem"]);
        assert_eq!(bad.status.code(), Some(2));
        assert!(text(&bad.stderr).contains("author.pem: not a PKCS #8 PEM file with a P-384 private key"), "{}", text(&bad.stderr));
    }
}

#[test]
fn each_launch_digest_has_a_signed_id_block() {
    let project = with_author_key();
    let bundle = project.build();
    let base_json = fs::read(project.path("base/base.json")).expect("base.json");
    let half = |digest: &str| HEXLOWER.decode(&digest.as_bytes()[..32]).expect("hex");
    for vcpus in [1, 2, 4] {
        let [block_bytes, auth_bytes] = pair(&bundle, vcpus).map(|path| fs::read(path).expect("a file"));
        let block = IdBlock::parse(&block_bytes).expect("a block");
        assert_eq!(block.launch_digest, LaunchDigest::new([vcpus; 48]));
        assert_eq!((block.guest_svn, block.policy), (3, GuestPolicy(0x30000)), "the base's counter, launch_vm.sh's policy");
        assert_eq!(block.image_id[..], half(&coffer_manifest::Sha256Digest::of(&base_json).to_string()));
        assert_eq!(block.family_id[..], half(&coffer_manifest::Sha256Digest::of(b"coffer/family-id/v1/demo").to_string()));
        let keys = IdAuth::from_bytes(&auth_bytes).expect("4096 bytes").check(&block.to_bytes(), true).expect("it holds");
        assert_eq!(keys.author_key_digest, Some(key(&project).public().digest()));
        assert_eq!(keys.id_key_digest, key(&project).id_key_of("demo").expect("a key").public().digest());
    }
    let manifest: Bundle = decode(&fs::read(bundle.join("manifest.json")).expect("manifest")).expect("decodes");
    assert_eq!(manifest.files.iter().filter(|file| file.path.starts_with("id_")).count(), 6);
    let readme = fs::read_to_string(bundle.join("README.txt")).expect("README");
    assert!(readme.contains("id_*.block id_*.auth"), "{readme}");
    let base: Vec<_> = files_below(&project.path("base")).iter().map(|path| path.file_name().expect("name").to_owned()).collect();
    assert_eq!(base, ["OVMF.amdsev.fd", "base.json", "initrd.img", "vmlinuz"], "a base stays free of keys");
}

#[test]
fn enrollments_ask_for_the_key_and_what_the_site_says() {
    let project = with_author_key();
    let chip = "ab".repeat(64);
    let more = format!("chip_ids: ['{chip}']\ntcb_floor: {{fmc: 1, bootloader: 9, tee: 0, snp: 21, microcode: 72}}\n");
    project.write("cc_site-1.yml", &format!("{SITE}{more}"));
    project.build();
    let asked = record(&project, "out/enroll/site-1.json");
    assert_eq!(asked.author_key_digest, Some(key(&project).public().digest()));
    assert_eq!(asked.minimum_guest_svn, Some(3));
    assert_eq!(asked.chip_ids, [chip.parse::<ChipId>().expect("a chip")]);
    assert_eq!(asked.tcb_floor, Some(TcbVersion { fmc: Some(1), bootloader: 9, tee: 0, snp: 21, microcode: 72 }));
    let without = Project::new();
    let bundle = without.build();
    let asked = record(&without, "out/enroll/site-1.json");
    assert_eq!((asked.author_key_digest, asked.minimum_guest_svn, asked.chip_ids, asked.tcb_floor), (None, None, Vec::new(), None));
    assert!(!pair(&bundle, 1)[0].exists());
}

/// Signatures are deterministic: what is signed can be built again and compared.
#[test]
fn id_blocks_are_the_same_in_every_build() {
    let project = with_author_key();
    let one = project.build();
    let output = project.run(&["build", "--base", "base", "-o", "again", "cc_site-1.yml"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let found = files_below(&project.path("again/site-1"))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "block" || extension == "auth"));
    let found: Vec<_> = found.collect();
    assert_eq!(found.len(), 6);
    for path in found {
        let name = path.file_name().expect("name");
        assert_eq!(fs::read(&path).expect("reads"), fs::read(one.join(name)).expect("reads"), "{name:?}");
    }
}

#[test]
fn the_private_keys_stay_where_they_are() {
    let project = with_author_key();
    let output = project.run(&["build", "--base", "base", "-o", "out", "cc_site-1.yml"]);
    assert!(output.status.success());
    let pem = fs::read_to_string(project.path("author.pem")).expect("the key");
    let der = |pem: &str| BASE64.decode(pem.lines().filter(|line| !line.starts_with('-')).collect::<String>().as_bytes()).expect("base64");
    let id_pem = key(&project).id_key_of("demo").expect("a key").expose_pem().expect("encodes");
    let mut needles = vec![pem.lines().nth(1).expect("body").as_bytes().to_vec()];
    for der in [der(&pem), der(&id_pem)] {
        // The scalar is the OCTET STRING of 48 bytes in SEC 1's ECPrivateKey (RFC 5915).
        let at = der.windows(2).position(|window| window == [0x04, 0x30]).expect("a scalar") + 2;
        let scalar = der[at..at + 48].to_vec();
        let mut reversed = scalar.clone();
        reversed.reverse();
        let hex = HEXLOWER.encode(&scalar).into_bytes();
        needles.extend([scalar, reversed, hex]);
    }
    let mut haystacks: Vec<Vec<u8>> = files_below(&project.path("out")).iter().map(|path| fs::read(path).expect("reads")).collect();
    haystacks.extend([output.stdout, output.stderr]);
    let holds = |bytes: &[u8], needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    for bytes in haystacks.iter().filter(|bytes| bytes.len() < 1 << 20) {
        assert!(!needles.iter().any(|needle| holds(bytes, needle)), "a private key left its file");
    }
    assert!(holds(pem.as_bytes(), &needles[0]));
}

#[test]
fn launch_vm_picks_the_pair_for_its_vcpus() {
    let project = with_author_key();
    let bundle = project.build();
    for vcpus in [1_u8, 2, 4] {
        let args = ["--dry-run", "--cbitpos", "51", "--cpus", &vcpus.to_string()];
        let output = Command::new(bundle.join("launch_vm.sh")).args(args).output().expect("runs");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let argv = text(&output.stdout);
        let snp = argv.lines().find(|line| line.starts_with("sev-snp-guest,")).expect("the SNP object");
        let [block, auth] = pair(&bundle, vcpus).map(|path| BASE64.encode(&fs::read(path).expect("a file")));
        assert!(snp.ends_with(&format!(",id-block={block},id-auth={auth},author-key-enabled=on")), "{snp}");
    }
    fs::remove_file(&pair(&bundle, 2)[1]).expect("removes");
    let launch =
        |cpus| Command::new(bundle.join("launch_vm.sh")).args(["--dry-run", "--cbitpos", "51", "--cpus", cpus]).output().expect("runs");
    assert!(launch("1").status.success());
    let output = launch("2");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("is missing\nlaunch_vm.sh: hint: unpack the .tgz again"), "{}", text(&output.stderr));
    let shellcheck = Command::new("shellcheck").arg(bundle.join("launch_vm.sh")).output().expect("shellcheck");
    assert!(shellcheck.status.success(), "{}", text(&shellcheck.stdout));
}

#[test]
fn a_simulator_gets_the_pair_too() {
    let project = Project::new();
    make_key(&project, "author.pem");
    project.write("project.yml", &format!("{PROJECT}simulator_ark: ark.pem\nauthor_key: author.pem\n"));
    let done = project.run(&["build", "--base", "sim", "-o", "out", "cc_site-1.yml"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let bundle = project.bundle("site-1");
    fs::create_dir(project.path("state")).expect("mkdir");
    fs::copy(project.path("ark.pem"), project.path("state/ark.pem")).expect("ark");
    support::executable(&project.path("simulator"), "#!/bin/bash\nprintf '%s\\n' \"$@\" >simulator-argv\nexit 1\n");
    support::executable(&project.path("qemu"), "#!/bin/bash\necho 'QEMU emulator version 10.0.2'\n");
    let mut launch = Command::new(bundle.join("launch_vm.sh"));
    launch.args(["--simulate", "--cpus", "4", "--simulator-state"]).arg(project.path("state"));
    launch.arg("--simulator").arg(project.path("simulator")).arg("--qemu").arg(project.path("qemu"));
    assert_eq!(launch.output().expect("runs").status.code(), Some(1), "this simulator gives up");
    let argv = fs::read_to_string(bundle.join("run/simulator-argv")).expect("argv");
    let [block, auth] = pair(&bundle.canonicalize().expect("there"), 4).map(|path| path.display().to_string());
    assert!(argv.ends_with(&format!("--id-block\n{block}\n--id-auth\n{auth}\n--author-key-enabled\n")), "{argv}");
}

#[test]
fn inspect_says_who_signed_and_what_does_not_fit() {
    let project = with_author_key();
    let bundle = project.build();
    let path = bundle.display().to_string();
    let inspect = |args: &[&str]| project.run(&[&["inspect", &path], args].concat());
    let whole = inspect(&[]);
    assert!(whole.status.success(), "{}", text(&whole.stderr));
    let author = key(&project).public().digest();
    let id_key = key(&project).id_key_of("demo").expect("a key").public().digest();
    for line in
        [format!("author key       {author}\n"), format!("  id key         {id_key}\n"), "  id blocks      guest svn 3, family ".to_owned()]
    {
        assert!(text(&whole.stdout).contains(&line), "{line}: {}", text(&whole.stdout));
    }
    let json: serde_json::Value = serde_json::from_slice(&inspect(&["--json"]).stdout).expect("JSON");
    assert_eq!(json["id_blocks"]["author_key_digest"].as_str().map(str::parse::<KeyDigest>), Some(Ok(author)));
    assert_eq!(json["id_blocks"]["guest_svn"], 3);

    let [block_path, auth_path] = pair(&bundle, 2);
    let (block, auth) = (fs::read(&block_path).expect("reads"), fs::read(&auth_path).expect("reads"));
    let refused = |expected: &str| {
        let output = inspect(&[]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(expected), "{expected}: {}", text(&output.stderr));
    };
    let mut other = block.clone();
    other[0x54] ^= 1;
    fs::write(&block_path, &other).expect("writes");
    refused("is not the ID block of this base and project");
    fs::write(&block_path, &block).expect("writes");
    let mut other = auth.clone();
    other[0x040] ^= 1;
    fs::write(&auth_path, &other).expect("writes");
    refused("the ID key's signature does not hold over this ID block");
    // Another author's, whole in itself.
    let stranger = IdPrivateKey::from_scalar(&[9; 48]).expect("a key");
    let foreign = IdAuth::sign(&IdBlock::parse(&block).expect("a block"), &stranger.id_key_of("demo").expect("a key"), &stranger);
    fs::write(&auth_path, foreign.as_bytes()).expect("writes");
    refused("is signed by other keys than the first");
    fs::write(&auth_path, &auth).expect("writes");
    assert!(inspect(&[]).status.success());
    fs::remove_file(&auth_path).expect("removes");
    refused("is missing");
}
