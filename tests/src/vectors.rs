//! Where the test vectors lie. They are data of many licences and stay outside the repository.

use std::env;
use std::path::{Path, PathBuf};

/// The file or folder `rel` of the test vectors, or `None`, with a printed reason, where there are no vectors.
///
/// The vectors' folder is `$COFFER_VECTORS`, by default `../shared/vectors` beside the repository. A test that gets
/// `None` returns at once: it was skipped, and said so.
///
/// # Panics
/// If there are no vectors and `COFFER_REQUIRE_VECTORS=1`; and, whatever the environment, if there is a vectors
/// folder but `rel` is not in it: then the test names a file that does not exist.
#[must_use]
pub fn path(rel: &str) -> Option<PathBuf> {
    let root = root();
    if root.is_dir() {
        let path = root.join(rel);
        assert!(path.exists(), "test vectors are in {} but {rel} is not among them", root.display());
        return Some(path);
    }
    assert!(
        env::var_os("COFFER_REQUIRE_VECTORS").is_none_or(|v| v != "1"),
        "no test vectors at {} and COFFER_REQUIRE_VECTORS=1; hint: set COFFER_VECTORS to their folder",
        root.display()
    );
    println!("skipped: no test vectors at {}; hint: set COFFER_VECTORS to their folder", root.display());
    None
}

/// The folder of the vectors, whether or not it exists.
fn root() -> PathBuf {
    env::var_os("COFFER_VECTORS").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors"), PathBuf::from)
}
