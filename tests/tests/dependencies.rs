//! Who may link whom (DESIGN, Where code lives), and what PID 1 is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use system_tests::repo;

/// The crates of ours each of our packages may name as a normal dependency.
const EDGES: &[(&str, &[&str])] = &[
    ("coffer", &["coffer-manifest", "coffer-measure", "coffer-image"]),
    ("coffer-manifest", &["coffer-evidence"]),
    ("coffer-measure", &["coffer-evidence"]),
    ("coffer-image", &["coffer-manifest"]),
    ("coffer-init", &["coffer-sys", "coffer-manifest", "coffer-protocol", "coffer-evidence", "coffer-token"]),
    ("coffer-sys", &[]),
    ("coffer-attest", &["coffer-verify", "coffer-protocol", "coffer-token", "coffer-kbs-policy", "coffer-manifest", "coffer-evidence"]),
    ("coffer-gate", &["coffer-token"]),
    ("coffer-evidence", &[]),
    ("coffer-protocol", &["coffer-evidence"]),
    ("coffer-token", &[]),
    ("coffer-verify", &["coffer-evidence"]),
    ("coffer-kbs-policy", &["coffer-verify"]),
    ("coffer-simulator", &["coffer-evidence", "coffer-measure"]),
    ("system-tests", &["coffer-evidence", "coffer-manifest", "coffer-measure"]),
];

/// Async runtimes, and what only makes sense with one.
const ASYNC: &[&str] = &["tokio", "async-std", "smol", "async-executor", "mio", "hyper", "axum", "reqwest", "futures-executor"];
/// Crates that open files, sockets or databases for their caller.
const IO: &[&str] = &["ureq", "rusqlite", "socket2", "rustix", "nix", "tempfile", "curl"];
/// What the guest may not carry: the judge, the policy engine, and code too large or too weak for PID 1.
const NOT_IN_GUEST: &[&str] = &[
    "regorus",
    "coffer-verify",
    "coffer-kbs-policy",
    "rsa",
    "zstd",
    "zstd-safe",
    "zstd-sys",
    "openssl",
    "openssl-sys",
    "aws-lc-rs",
    "aws-lc-sys",
    "coffer-simulator",
];
/// Crates that are pure: the same bytes in, the same bytes out.
const PURE: &[&str] = &["coffer-evidence", "coffer-protocol", "coffer-token", "coffer-verify", "coffer-manifest", "coffer-measure"];

#[test]
fn our_crates_depend_on_each_other_only_as_designed() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> = EDGES.iter().map(|(from, to)| (*from, to.iter().copied().collect())).collect();
    let mut wrong = Vec::new();
    for package in packages() {
        let name = text(&package, "name");
        let Some(may) = allowed.get(name.as_str()) else {
            wrong.push(format!("{name} is in no row of this table"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let is_normal = dependency["kind"].is_null();
            let to = text(dependency, "name");
            if is_normal && dependency["path"].is_string() && !may.contains(to.as_str()) {
                wrong.push(format!("{name} -> {to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "edges DESIGN does not have: {wrong:?}");
}

#[test]
fn the_guest_carries_no_async_runtime_and_no_judge() {
    refuse("coffer-init", &[ASYNC, NOT_IN_GUEST].concat());
}

#[test]
fn the_builder_carries_no_simulator() {
    refuse("coffer", &["coffer-simulator"]);
}

#[test]
fn the_service_carries_no_builder_and_no_simulator() {
    refuse("coffer-attest", &["coffer", "coffer-image", "coffer-simulator", "coffer-init"]);
}

#[test]
fn the_gate_judges_nothing() {
    refuse("coffer-gate", &["coffer-verify", "coffer-kbs-policy", "regorus", "aws-lc-rs", "coffer-simulator", "coffer-attest", "rusqlite"]);
}

#[test]
fn pure_crates_carry_no_async_and_no_io_crate() {
    for package in PURE {
        refuse(package, &[ASYNC, IO].concat());
    }
}

#[test]
fn pure_crates_name_no_file_socket_process_or_clock() {
    const MARKS: &[&str] =
        &["std::fs", "std::net::Tcp", "std::net::Udp", "std::process", "std::env", "std::os", "SystemTime::now", "Instant::now", "File::"];
    let mut found = Vec::new();
    for package in packages().iter().filter(|package| PURE.contains(&text(package, "name").as_str())) {
        for file in sources(package) {
            for (number, line) in production_lines(&file) {
                if MARKS.iter().any(|mark| line.contains(mark)) {
                    found.push(format!("{}:{number}: {line}", file.display()));
                }
            }
        }
    }
    assert!(found.is_empty(), "a pure crate reaches outside:\n{}", found.join("\n"));
}

#[test]
fn only_sys_contains_unsafe() {
    let mut found = Vec::new();
    for package in packages() {
        if text(&package, "name") == "coffer-sys" {
            continue;
        }
        for target in package["targets"].as_array().into_iter().flatten() {
            let is_crate_of_ours = target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k == "lib" || k == "bin"));
            let root = PathBuf::from(text(target, "src_path"));
            if is_crate_of_ours && !read(&root).contains("#![forbid(unsafe_code)]") {
                found.push(format!("{}: no #![forbid(unsafe_code)]", root.display()));
            }
        }
        for file in sources(&package) {
            found.extend(
                read(&file)
                    .lines()
                    .filter(|line| line.trim_start().starts_with("unsafe ") || line.contains("= unsafe {"))
                    .map(|line| format!("{}: {line}", file.display())),
            );
        }
    }
    assert!(found.is_empty(), "unsafe outside guest-init/sys:\n{}", found.join("\n"));
}

#[test]
fn the_guest_is_made_of_the_crates_we_reviewed() {
    let list: String = reached("coffer-init").into_iter().map(|line| line + "\n").collect();
    repo::assert_golden("coffer-init.deps", &list);
}

fn refuse(package: &str, forbidden: &[&str]) {
    let reached: BTreeSet<String> = reached(package).iter().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect();
    assert!(reached.len() > 1, "cargo tree said nothing about {package}");
    let found: Vec<_> = forbidden.iter().filter(|name| **name != package && reached.contains(**name)).collect();
    assert!(found.is_empty(), "{package} reaches {found:?}");
}

/// `name version` of every crate `package` is linked from, itself included, without paths.
fn reached(package: &str) -> BTreeSet<String> {
    let args =
        ["tree", "--locked", "-p", package, "-e", "normal", "--target", "x86_64-unknown-linux-gnu", "--prefix", "none", "--format", "{p}"];
    cargo(&args).lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

fn packages() -> Vec<Value> {
    let json = cargo(&["metadata", "--locked", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&json).expect("cargo metadata writes JSON");
    metadata["packages"].as_array().expect("cargo metadata lists packages").clone()
}

fn cargo(args: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(args).current_dir(repo::root()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

/// The `.rs` files below `src/` of a package.
fn sources(package: &Value) -> Vec<PathBuf> {
    let manifest = PathBuf::from(text(package, "manifest_path"));
    let mut folders = vec![manifest.with_file_name("src")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("a directory entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

/// Numbered lines of a source file that are neither comments nor in its test module, which comes last (house style).
fn production_lines(file: &Path) -> Vec<(usize, String)> {
    if file.file_name().is_some_and(|name| name == "tests.rs") {
        return Vec::new();
    }
    let numbered = read(file).lines().map(str::to_owned).enumerate().collect::<Vec<_>>();
    let code = numbered.into_iter().take_while(|(_, line)| !line.starts_with("#[cfg(test)]"));
    code.filter(|(_, line)| !line.trim_start().starts_with("//")).map(|(i, line)| (i + 1, line)).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(value: &Value, member: &str) -> String {
    value[member].as_str().unwrap_or_else(|| panic!("no text `{member}` in {value}")).to_owned()
}
