//! The base made from the pinned inputs is the committed one, digest by digest; and damaged copies of them are refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use system_tests::repo;
use tempfile::TempDir;

/// A static program of one empty segment: the smallest PID 1 that `coffer base build` takes, the same on every machine.
fn smallest_init(dir: &Path) -> PathBuf {
    let mut elf = vec![0; 64 + 56];
    for (at, bytes) in [(0, &b"\x7fELF\x02\x01"[..]), (18, &[62]), (32, &[64]), (54, &[56]), (56, &[1]), (64, &[1])] {
        elf[at..at + bytes.len()].copy_from_slice(bytes);
    }
    let path = dir.join("init");
    fs::write(&path, elf).expect("a file");
    path
}

/// `coffer base build` of a production base with the smallest PID 1.
fn build(dir: &TempDir, args: &[&str]) -> Output {
    let mut build = Command::new(repo::program("coffer"));
    build.args(["base", "build", "--init"]).arg(smallest_init(dir.path())).args(args);
    build.arg("--cache").arg(repo::root().join("cache/base")).output().expect("coffer starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// True, loudly, where the mirror no longer has what base.lock pins: then there is nothing to compare.
fn mirror_moved_on(output: &Output) -> bool {
    let moved = stderr(output).contains(", which base.lock pins; it has ");
    if moved {
        println!("skipped: THE GOLDEN LAUNCH DIGESTS ARE NOT CHECKED: {}", stderr(output));
    }
    moved
}

#[test]
fn the_pinned_inputs_make_the_golden_base() {
    let dir = TempDir::with_prefix("coffer-pinned-").expect("a temporary folder");
    let out = dir.path().join("base");
    let built = build(&dir, &["-o", out.to_str().expect("a UTF-8 path")]);
    if mirror_moved_on(&built) {
        return;
    }
    assert!(built.status.success(), "{}", stderr(&built));
    repo::assert_golden("base.json", &fs::read_to_string(out.join("base.json")).expect("base.json"));
    let golden = repo::root().join("tests/golden/base.json");
    let verified = build(&dir, &["--offline", "--verify", golden.to_str().expect("a UTF-8 path")]);
    assert!(verified.status.success() && stderr(&verified).contains("identical to "), "{}", stderr(&verified));
}

#[test]
fn damaged_inputs_are_refused_and_leave_nothing() {
    let dir = TempDir::with_prefix("coffer-pinned-").expect("a temporary folder");
    let path = |name: &str| dir.path().join(name).to_str().expect("a UTF-8 path").to_owned();
    let good = build(&dir, &["--unlocked", "-o", &path("good")]);
    assert!(good.status.success(), "{}", stderr(&good));
    let firmware = fs::read(path("good/OVMF.amdsev.fd")).expect("the firmware");
    let seabios = vec![0; 256 << 10];
    let middle_gone = [&firmware[..0x100000], &firmware[0x200000..]].concat();
    for (what, bytes) in [
        ("its first half", &firmware[..firmware.len() / 2]),
        ("its last 4 KiB", &firmware[firmware.len() - 4096..]),
        ("its middle gone", &middle_gone),
        ("a page too long", &[&firmware[..], &[0; 4096]].concat()),
        ("a BIOS", &seabios),
    ] {
        fs::write(path("other.fd"), bytes).expect("a file");
        let refused = build(&dir, &["--unlocked", "--offline", "--ovmf", &path("other.fd"), "-o", &path("bad")]);
        let text = stderr(&refused);
        assert_eq!(refused.status.code(), Some(2), "{what}: {text}");
        assert!(
            text.starts_with("coffer: firmware ") && text.contains("other.fd is ") && text.contains("hint: the firmware is the whole"),
            "{text}"
        );
        let left: Vec<_> = fs::read_dir(dir.path()).expect("the folder").map(|e| e.expect("an entry").file_name()).collect();
        assert!(left.iter().all(|name| ["good", "init", "other.fd"].iter().any(|known| name == known)), "{what} left {left:?}");
    }
}
