//! The checkout under test and the programs built from it.

use std::env;
use std::path::{Path, PathBuf};

/// The repository's top folder.
#[must_use]
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().map_or_else(|| tests.join(".."), Path::to_path_buf)
}

/// Where cargo puts what it builds.
#[must_use]
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The host program `name` of the release profile.
///
/// # Panics
/// If it is not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    built(target().join("release").join(name))
}

/// The PID 1 binary `name`.
///
/// # Panics
/// If it is not built.
#[must_use]
pub fn guest_program(name: &str) -> PathBuf {
    built(root().join("target/guest-bin").join(name))
}

fn built(path: PathBuf) -> PathBuf {
    assert!(path.is_file(), "{} is not built; hint: ./tests/run.sh builds what its tests need", path.display());
    path
}

/// Compares `got` with the golden file `tests/golden/<name>`, or writes it where `BLESS=1`.
///
/// # Panics
/// If they differ, with both texts' differing lines.
pub fn assert_golden(name: &str, got: &str) {
    let path = root().join("tests/golden").join(name);
    if env::var_os("BLESS").is_some_and(|v| v == "1") {
        std::fs::write(&path, got).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    if got == golden {
        return;
    }
    let only = |a: &str, b: &str, sign: char| {
        let known: Vec<&str> = b.lines().collect();
        a.lines().filter(|line| !known.contains(line)).map(|line| format!("{sign}{line}\n")).collect::<String>()
    };
    panic!(
        "{} is not what this build gives; hint: review, then run the test with BLESS=1\n{}{}",
        path.display(),
        only(&golden, got, '-'),
        only(got, &golden, '+')
    );
}
