//! Same inputs, same bytes: a base, whatever the surroundings; PID 1, whatever the checkout (DESIGN, Formats).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use system_tests::lab::run;
use system_tests::repo;
use tempfile::TempDir;

/// Builds a base with some surroundings changed by a shell line, and digests its files.
fn base_built_where(surroundings: &str) -> BTreeMap<String, String> {
    let dir = TempDir::with_prefix("coffer-base-").expect("a folder");
    let base = dir.path().join("nested/base");
    fs::create_dir(dir.path().join("nested")).expect("a folder");
    let line = format!("{surroundings}; exec \"$@\"");
    let mut build = Command::new("sh");
    build.args(["-c", &line, "sh"]).arg(repo::program("coffer"));
    build.args(["base", "build", "--simulated", "--unlocked", "--init"]).arg(repo::guest_program("coffer-init-simulated"));
    run(build.arg("--cache").arg(repo::root().join("cache/base")).arg("-o").arg(&base));
    let names = ["OVMF.amdsev.fd", "vmlinuz", "initrd.img", "base.json"];
    names.iter().map(|name| ((*name).to_owned(), digest(&base.join(name)))).collect()
}

#[test]
fn a_base_is_the_same_bytes_whatever_the_surroundings() {
    let one = base_built_where("umask 022; export TZ=UTC LC_ALL=C");
    let other = base_built_where("umask 077; cd /var/tmp; export TZ=Pacific/Chatham LC_ALL=C.UTF-8 SOURCE_DATE_EPOCH=1 HOME=/nonexistent");
    assert_eq!(one, other);
}

#[test]
fn long_pid_1_is_the_same_bytes_from_another_checkout() {
    let dir = TempDir::with_prefix("coffer-checkout-").expect("a folder");
    let checkout = dir.path().join("elsewhere/a-longer-path/coffer");
    run(Command::new("git").args(["clone", "--quiet", "--no-hardlinks"]).arg(repo::root()).arg(&checkout));
    let home = dir.path().join("cargo-home"); // empty: it downloads everything again
    let out = dir.path().join("out");
    let built = |root: &Path, out: &Path, home: Option<&Path>, line: &str| {
        let mut build = Command::new("sh");
        build.args(["-c", &format!("{line}; exec guest-init/build.sh \"$1\""), "sh"]).arg(out).current_dir(root);
        build.env("CARGO_TARGET_DIR", out.with_extension("target"));
        if let Some(home) = home {
            build.env("CARGO_HOME", home);
        }
        run(&mut build);
        ["coffer-init", "coffer-init-simulated"].map(|name| digest(&out.join(name)))
    };
    let here = built(&repo::root(), &dir.path().join("here"), None, "umask 022");
    let there = built(&checkout, &out, Some(&home), "umask 077; export TZ=Pacific/Chatham");
    assert_eq!(here, there);
}

fn digest(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    HEXLOWER.encode(&Sha256::digest(bytes))
}
