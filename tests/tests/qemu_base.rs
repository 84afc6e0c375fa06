//! The real `OVMF.amdsev.fd` boots what its hash table names, and nothing else.
//!
//! Under emulation there is no SEV: this shows the firmware's own check, on a base built by `coffer base build`. A refusal is a
//! silent halt, so each one stands between two boots that work, and is waited for twice as long as those took.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use coffer_manifest::Base;
use coffer_measure::{Firmware, HashTable};
use sha2::{Digest, Sha256};
use system_tests::lab::run;
use system_tests::repo;
use tempfile::TempDir;

const GREETING: &str = "hello from pid 1";
/// Prints, then ends: `panic=-1` and QEMU's `-no-reboot` make that the end of the VM.
const HELLO: &str = "fn main() { println!(\"hello from pid {}\", std::process::id()); }";
/// The longest boot waited for; 4 s on an idle machine.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// A base whose PID 1 says hello.
struct HelloBase {
    dir: TempDir,
    document: Base,
}

impl HelloBase {
    fn build() -> Self {
        let dir = TempDir::with_prefix("coffer-hello-").expect("a temporary folder");
        let source = dir.path().join("hello.rs");
        fs::write(&source, HELLO).expect("the source is written");
        let init = dir.path().join("init");
        run(Command::new("rustc").args(["-C", "target-feature=+crt-static", "-o"]).arg(&init).arg(&source));
        let base = dir.path().join("base");
        let mut build = Command::new(repo::program("coffer"));
        build.args(["base", "build", "--simulated", "--unlocked", "--init"]).arg(init).arg("-o").arg(&base);
        run(build.arg("--cache").arg(repo::root().join("cache/base")));
        let document = coffer_manifest::decode(&fs::read(base.join("base.json")).expect("base.json")).expect("base.json reads");
        Self { dir, document }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("base").join(name)
    }

    /// The table QEMU would write for this kernel, initrd and command line under `kernel-hashes=on`.
    fn table(&self, initrd: &Path, cmdline: &str) -> HashTable {
        let digest = |path: &Path| Sha256::digest(fs::read(path).expect("a file of the base")).into();
        HashTable::new(digest(&self.file("vmlinuz")), digest(initrd), cmdline)
    }

    /// Boots with `initrd` and `cmdline` under `table`; the console, and how long it took until the VM ended or was ended.
    fn boot(&self, initrd: &Path, cmdline: &str, table: Option<&HashTable>, limit: Duration) -> (String, Duration) {
        let began = Instant::now();
        let console = self.dir.path().join("console");
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024", "-no-reboot", "-nodefaults"]);
        qemu.args(["-display", "none", "-net", "none", "-append", cmdline]).arg("-serial").arg(format!("file:{}", console.display()));
        qemu.arg("-bios").arg(self.file("OVMF.amdsev.fd")).arg("-kernel").arg(self.file("vmlinuz")).arg("-initrd").arg(initrd);
        if let Some(table) = table {
            let firmware = Firmware::parse(&fs::read(self.file("OVMF.amdsev.fd")).expect("the firmware")).expect("a firmware");
            let area = firmware.hash_table_area().expect("a place for the table");
            let hashes = self.dir.path().join("hashes.bin");
            fs::write(&hashes, table.to_bytes()).expect("the table is written");
            qemu.arg("-device").arg(format!("loader,file={},addr={:#x},force-raw=on", hashes.display(), area.gpa));
        }
        let mut child = qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("QEMU starts");
        let ended = loop {
            if let Some(status) = child.try_wait().expect("QEMU's state") {
                break Some(status);
            }
            if began.elapsed() > limit {
                break None;
            }
            sleep(Duration::from_millis(50));
        };
        match ended {
            Some(status) => {
                let mut said = String::new();
                child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
                assert!(status.success(), "QEMU: {status}\n{said}");
            }
            None => {
                child.kill().expect("QEMU is ended");
                child.wait().expect("QEMU is gone");
            }
        }
        (String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned(), began.elapsed())
    }

    /// The boot that must work: everything as built.
    fn assert_boots(&self) -> Duration {
        let (initrd, cmdline) = (self.file("initrd.img"), &self.document.cmdline);
        let (console, took) = self.boot(&initrd, cmdline, Some(&self.table(&initrd, cmdline)), BOOT_LIMIT);
        assert!(console.contains(GREETING), "no greeting after {took:?}:\n{console}");
        took
    }
}

#[test]
fn qemu_the_firmware_boots_only_what_its_table_names() {
    let base = HelloBase::build();
    let (initrd, cmdline) = (base.file("initrd.img"), base.document.cmdline.clone());
    let took = base.assert_boots();
    let limit = (took * 2).max(Duration::from_secs(10));

    let one_word_more = format!("{cmdline} quiet");
    let longer_initrd = base.dir.path().join("longer.img");
    // Zeros after the archive: the kernel would ignore them.
    fs::write(&longer_initrd, [fs::read(&initrd).expect("the initrd"), vec![0; 4]].concat()).expect("a file");
    let right = base.table(&initrd, &cmdline);
    let refused: [(&str, &Path, &str, Option<&HashTable>); 3] = [
        ("another command line", &initrd, &one_word_more, Some(&right)),
        ("another initrd", &longer_initrd, &cmdline, Some(&right)),
        ("no table", &initrd, &cmdline, None),
    ];
    for (what, initrd, cmdline, table) in refused {
        let (console, waited) = base.boot(initrd, cmdline, table, limit);
        assert!(!console.contains(GREETING) && !console.contains("Linux"), "{what} booted after {waited:?}:\n{console}");
    }
    // The same changes under tables that name them boot: it was the table that stopped them.
    for (initrd, cmdline) in [(&initrd, &one_word_more), (&longer_initrd, &cmdline)] {
        let (console, took) = base.boot(initrd, cmdline, Some(&base.table(initrd, cmdline)), BOOT_LIMIT);
        assert!(console.contains(GREETING), "no greeting after {took:?}:\n{console}");
    }
    base.assert_boots();
}
