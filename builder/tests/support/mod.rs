//! A made-up project in a temporary directory: base, archive, certificates, settings, kit; and the built `coffer`.
#![allow(dead_code, missing_docs, reason = "each test uses its own part")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use coffer_manifest::{Base, BaseFile, BaseRoot, LaunchDigest, LaunchShape, OpenRisks, Sha256Digest, encode};
use sha2::{Digest, Sha256};

/// What tests write into key files, to look for it where it must not be.
pub const KIT_SECRET: &str =
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIExample0Secret0Of0The0Kit0Not0Elsewhere\n-----END PRIVATE KEY-----\n";

/// The good spec every test starts from.
pub const SITE: &str = "\
compute_env: onprem_cvm
cc_cpu_mechanism: amd_sev_snp
role: client
root_drive_size: 1
applog_drive_size: 1
user_config_drive_size: 1
user_data_drive_size: 1
docker_archive: app.tar
";

pub const PROJECT: &str = "\
name: demo
key_service:
  kind: coffer
  urls: [https://10.0.2.2:8999]
  tls_name: attest.demo.test
  ca: [ca.pem]
";

/// More lines of `project.yml`.
pub const GATE: &str = "\
gate:
  addresses: [gate.example.org:9443, \"[fd00::7]:9443\"]
  tls_name: gate.demo.test
  ca: [ca.pem]
  workload: {name: superlink.demo.test, port: 9092}
";

/// A directory with everything a spec may name.
pub struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    /// A production base, `cc_site-1.yml` and `project.yml`, all good.
    pub fn new() -> Self {
        let project = Self { dir: tempfile::tempdir().expect("temporary directory") };
        project.write("cc_site-1.yml", SITE);
        project.write("project.yml", PROJECT);
        project.write("ca.pem", &certificate(b"ca"));
        project.write("ark.pem", &certificate(b"ark"));
        project.write("key.pem", KIT_SECRET);
        project.write("conf/settings.json", "{}\n");
        project.write("conf/deep/er.txt", "deeper\n");
        project.write("kit/client.key", KIT_SECRET);
        project.write("kit/certs/ca.crt", "a certificate\n");
        project.write("startup_kits/startup/client.pem", KIT_SECRET);
        project.write("ssh/mine", "-----BEGIN OPENSSH PRIVATE KEY-----\n");
        project.write("tls/server.key", "binary\n");
        fs::create_dir(project.path("links")).expect("mkdir");
        std::os::unix::fs::symlink("/etc/hostname", project.path("links/hostname")).expect("link");
        fs::write(project.path("app.tar"), archive(&Image::default())).expect("archive");
        base(&project.path("base"), BaseRoot::AmdSevSnp);
        base(&project.path("sim"), BaseRoot::Simulated);
        project
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file and its parents.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        fs::write(path, text).expect("write");
    }

    /// `coffer` with the project as its working directory and a clock that stands still.
    pub fn coffer(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
        command.args(args).current_dir(self.dir.path()).env("SOURCE_DATE_EPOCH", "1790000000");
        command
    }

    /// Runs it.
    pub fn run(&self, args: &[&str]) -> Output {
        self.coffer(args).output().expect("coffer runs")
    }

    /// Builds `cc_site-1.yml` into `out/` and gives the bundle's directory.
    pub fn build(&self) -> PathBuf {
        let done = self.run(&["build", "--base", "base", "-o", "out", "cc_site-1.yml"]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        self.bundle("site-1")
    }

    /// The same on the simulated base.
    pub fn build_simulated(&self) -> PathBuf {
        self.write("project.yml", &format!("{PROJECT}simulator_ark: ark.pem\n"));
        let done = self.run(&["build", "--base", "sim", "-o", "out", "cc_site-1.yml"]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        self.bundle("site-1")
    }

    /// The one `cvm_…` of a site in `out/`.
    pub fn bundle(&self, site: &str) -> PathBuf {
        let entries = fs::read_dir(self.path("out").join(site)).expect("site").map(|entry| entry.expect("entry").path());
        let bundles: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
        assert_eq!(bundles.len(), 1, "{bundles:?}");
        bundles.into_iter().next().expect("one")
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Compares with `tests/golden/<name>`; `BLESS=1` writes it.
pub fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, text).expect("writes");
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(text, expected, "{name}: run BLESS=1 cargo test and review the diff");
}

/// Every regular file below a directory.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("directory") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A PEM block around bytes that have the shape of a certificate and its length.
fn certificate(seed: &[u8]) -> String {
    let body: Vec<u8> = seed.iter().copied().cycle().take(300).collect();
    let der = [&[0x30, 0x82, 0x01, 0x2c][..], &body].concat();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", data_encoding::BASE64.encode(&der))
}

/// A base whose files are what its base.json says, and nothing that boots.
fn base(dir: &Path, root: BaseRoot) {
    fs::create_dir(dir).expect("mkdir");
    let mut files = BTreeMap::new();
    for name in ["OVMF.amdsev.fd", "vmlinuz", "initrd.img"] {
        let bytes = format!("{name} of {root:?}\n").repeat(1000);
        fs::write(dir.join(name), &bytes).expect("write");
        files.insert(name.to_owned(), BaseFile { size: bytes.len() as u64, sha256: Sha256Digest::of(bytes.as_bytes()) });
    }
    let shape = |vcpus: u32| LaunchShape {
        cpu_model: "EPYC-v4".into(),
        vcpus,
        guest_features: 1,
        digest: LaunchDigest::new([u8::try_from(vcpus).expect("small"); 48]),
    };
    let base = Base {
        kind: Default::default(),
        base_svn: 3,
        root,
        files,
        cmdline: "console=ttyS0 quiet loglevel=1 panic=-1 oops=panic".into(),
        kernel_release: "6.12.0-test".into(),
        modules: vec!["virtio_blk".into()],
        init: Sha256Digest::of(b"init"),
        vmm: "qemu".into(),
        launch_digests: [1, 2, 4].map(shape).to_vec(),
        open_risks: OpenRisks { aml: "unrestricted".into() },
    };
    fs::write(dir.join("base.json"), encode(&base).expect("encodes")).expect("write");
}

/// What an archive's image config says.
pub struct Image {
    pub config: serde_json::Value,
    /// Extra regular files of the layer.
    pub files: Vec<(String, Vec<u8>)>,
}

impl Default for Image {
    fn default() -> Self {
        let config = serde_json::json!({
            "Entrypoint": ["/bin/app"],
            "Cmd": ["--serve"],
            "Env": ["PATH=/bin:/usr/bin", "MODE=image"],
            "User": "app",
            "WorkingDir": "/srv",
            "StopSignal": "SIGINT",
        });
        Self { config, files: Vec::new() }
    }
}

/// A docker-archive of one layer, as `docker save` writes it.
pub fn archive(image: &Image) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    add(&mut layer, "etc/passwd", b"root:x:0:0::/:/bin/sh\napp:x:1000:1001::/srv:/bin/sh\n", 0o644);
    add(&mut layer, "etc/group", b"root:x:0:\napp:x:1001:\nvideo:x:44:app\n", 0o644);
    add(&mut layer, "bin/app", b"#!/bin/sh\necho hello\n", 0o755);
    for (name, bytes) in &image.files {
        add(&mut layer, name, bytes, 0o644);
    }
    let layer = layer.into_inner().expect("tar");
    let diff_id = hex(&layer);
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": image.config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
        "history": [],
    });
    let config = serde_json::to_vec(&config).expect("json");
    let config_name = format!("{}.json", hex(&config));
    let layer_name = format!("{diff_id}/layer.tar");
    let manifest = serde_json::json!([{"Config": config_name, "RepoTags": ["app:latest"], "Layers": [layer_name]}]);
    let mut archive = tar::Builder::new(Vec::new());
    add(&mut archive, &config_name, &config, 0o644);
    add(&mut archive, &layer_name, &layer, 0o644);
    add(&mut archive, "manifest.json", &serde_json::to_vec(&manifest).expect("json"), 0o644);
    archive.into_inner().expect("tar")
}

fn add(tar: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, name, bytes).expect("tar");
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

/// An executable file.
pub fn executable(path: &Path, text: &str) {
    let mut file = fs::File::create(path).expect("create");
    file.write_all(text.as_bytes()).expect("write");
    file.set_permissions(fs::Permissions::from_mode(0o755)).expect("chmod");
}
