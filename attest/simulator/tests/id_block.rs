//! ID blocks: what firmware refuses a launch for, and what the reports of an accepted one say.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use coffer_evidence::{GuestPolicy, KeyDigest, LaunchDigest, Report, ReportFields};
use coffer_measure::{IdAuth, IdBlock, IdPrivateKey};
use system_tests::vectors;
use tempfile::TempDir;

const POLICY: GuestPolicy = GuestPolicy(0x30000);

fn key(byte: u8) -> IdPrivateKey {
    IdPrivateKey::from_scalar(&[byte; 48]).unwrap()
}

/// A processor, and a folder for its runs; `None` without vectors.
struct Machine {
    dir: TempDir,
    launch_digest: LaunchDigest,
}

impl Machine {
    fn new() -> Option<Self> {
        vectors::path("measure/derived/kernel.bin")?;
        let dir = TempDir::new().unwrap();
        let init = Command::new(env!("CARGO_BIN_EXE_coffer-simulator")).arg("init").arg(dir.path().join("sim")).output().unwrap();
        assert!(init.status.success(), "{init:?}");
        fs::create_dir(dir.path().join("run")).unwrap();
        let mut machine = Self { dir, launch_digest: LaunchDigest::new([0; 48]) };
        machine.launch_digest = machine.reports(&[]).measurement;
        Some(machine)
    }

    fn command(&self, more: &[&str]) -> Command {
        let file = |name: &str| vectors::path(&format!("measure/{name}")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_coffer-simulator"));
        command.arg("run").arg("--state").arg(self.dir.path().join("sim")).arg("--run-dir").arg(self.dir.path().join("run"));
        command.arg("--ovmf").arg(file("sev-snp-measure/ovmf_AmdSev_suffix.bin"));
        command.arg("--kernel").arg(file("derived/kernel.bin")).arg("--initrd").arg(file("derived/initrd.bin"));
        command.args(["--append", "console=ttyS0", "--vcpus", "1", "--host-data", &"ab".repeat(32)]).args(more);
        command
    }

    /// What the report of a launch says.
    fn reports(&self, more: &[&str]) -> ReportFields {
        let mut child = self.command(more).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let mut port = UnixStream::connect(self.dir.path().join("run/asp.sock")).unwrap();
        port.write_all(&[&96_u32.to_le_bytes()[..], &[7; 64], &[0; 32]].concat()).unwrap();
        let mut number = || {
            let mut bytes = [0; 4];
            port.read_exact(&mut bytes).unwrap();
            u32::from_le_bytes(bytes)
        };
        assert_eq!(number(), 0);
        let mut report = vec![0; number() as usize];
        port.read_exact(&mut report).unwrap();
        let mut length = [0; 4];
        port.read_exact(&mut length).unwrap();
        let mut certificates = vec![0; u32::from_le_bytes(length) as usize];
        port.read_exact(&mut certificates).unwrap();
        drop(port);
        assert!(child.wait().unwrap().success());
        Report::parse(&report).unwrap().fields().clone()
    }

    /// The one line with which a launch is refused.
    fn refuses(&self, more: &[&str]) -> String {
        let output = self.command(more).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        assert!(output.stdout.is_empty() && said.starts_with("coffer-simulator: cannot "), "{said}");
        assert!(!self.dir.path().join("run/asp.sock").exists());
        said
    }

    fn block(&self) -> IdBlock {
        IdBlock { launch_digest: self.launch_digest, family_id: [2; 16], image_id: [3; 16], guest_svn: 4, policy: POLICY }
    }

    fn write(&self, block: &[u8], auth: &[u8]) -> [String; 4] {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        fs::write(path("block"), block).unwrap();
        fs::write(path("auth"), auth).unwrap();
        ["--id-block".into(), path("block"), "--id-auth".into(), path("auth")]
    }

    fn write_signed(&self, block: &IdBlock) -> [String; 4] {
        self.write(&block.to_bytes(), IdAuth::sign(block, &key(5), &key(6)).as_bytes())
    }
}

fn with_author(args: &[String; 4]) -> Vec<&str> {
    args.iter().map(String::as_str).chain(["--author-key-enabled"]).collect()
}

#[test]
fn reports_say_what_the_id_block_says() {
    let Some(machine) = Machine::new() else { return };
    let zero = KeyDigest::new([0; 48]);
    let without = machine.reports(&[]);
    assert_eq!((without.guest_svn, without.family_id, without.image_id), (0, [0; 16], [0; 16]));
    assert_eq!((without.id_key_digest, without.author_key_digest, without.key_info.author_key_enabled()), (zero, zero, false));
    let args = machine.write_signed(&machine.block());
    let with = machine.reports(&with_author(&args));
    assert_eq!((with.guest_svn, with.family_id, with.image_id), (4, [2; 16], [3; 16]));
    assert_eq!((with.id_key_digest, with.author_key_digest), (key(5).public().digest(), key(6).public().digest()));
    assert!(with.key_info.author_key_enabled());
    assert_eq!((with.measurement, with.policy), (machine.launch_digest, POLICY));
    // The host may leave the author key out: then nothing is said of it.
    let unasked = machine.reports(&args.each_ref().map(String::as_str));
    assert_eq!((unasked.id_key_digest, unasked.author_key_digest), (key(5).public().digest(), zero));
    assert!(!unasked.key_info.author_key_enabled());
}

#[test]
fn a_launch_that_is_not_what_the_id_block_says_is_refused() {
    let Some(machine) = Machine::new() else { return };
    let refuses = |block: IdBlock, more: &[&str]| {
        let args = machine.write_signed(&block);
        machine.refuses(&[&with_author(&args), more].concat())
    };
    let other = LaunchDigest::new([9; 48]);
    let said = refuses(IdBlock { launch_digest: other, ..machine.block() }, &[]);
    assert!(said.contains(&format!("the ID block expects launch digest {other}, measured was {}", machine.launch_digest)), "{said}");
    let said = refuses(machine.block(), &["--policy", "0xb0000"]);
    assert!(said.contains("the ID block expects guest policy 0x30000, the launch has 0xb0000"), "{said}");
    let said = refuses(machine.block(), &["--guest-features", "0x5"]);
    assert!(said.contains("the ID block expects launch digest"), "{said}");
}

#[test]
fn an_id_block_that_is_not_signed_as_it_says_is_refused() {
    let Some(machine) = Machine::new() else { return };
    let (block, auth) = (machine.block().to_bytes(), IdAuth::sign(&machine.block(), &key(5), &key(6)));
    let refuses = |block: &[u8], auth: &[u8], says: &str| {
        let said = machine.refuses(&with_author(&machine.write(block, auth)));
        assert!(said.contains(says), "{said}");
    };
    let changed = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        bytes
    };
    refuses(&changed(&block, 0x54), auth.as_bytes(), "the ID key's signature does not hold over this ID block");
    refuses(&block, &changed(auth.as_bytes(), 0x690), "the author key's signature does not hold over the ID key");
    refuses(&changed(&block, 0x50), auth.as_bytes(), "ID block has version 0, expected 1");
    refuses(&block[..95], auth.as_bytes(), "ID block is 95 bytes long, expected 96");
    refuses(&block, &auth.as_bytes()[..100], "is 100 bytes long, expected 4096");
    refuses(&[&block[..], &[0; 9]].concat(), auth.as_bytes(), "ID block is 97 bytes long, expected 96");
    let args = machine.write(&block, auth.as_bytes());
    fs::remove_file(&args[3]).unwrap();
    assert!(machine.refuses(&with_author(&args)).contains("cannot read "));
    let alone = machine.command(&["--id-block", &args[1]]).output().unwrap();
    assert_eq!(alone.status.code(), Some(2));
    assert!(Path::new(&args[1]).exists());
}
