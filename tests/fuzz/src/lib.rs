//! What the fuzz targets share: seeds, files in memory, tar headers with right checksums.
//!
//! A target is a program in `src/bin`: the seeds it starts from, one parser, and what must hold of everything that parser
//! accepts. Parsers that lie in a program instead of a library (PID 1's, the service's, the builder's) are compiled in by
//! `#[path]`: a program's interface does not grow for the sake of its tests.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::{env, process};

use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::Value;

/// Size of a tar header and the unit of a tar, in bytes.
const RECORD_BYTES: usize = 512;

/// Writes seeds into `$COFFER_FUZZ_SEEDS`. libFuzzer reads that folder after a target's `init`, so a target brings its own.
/// Without that variable (a reproducer is run) it does nothing.
///
/// # Panics
/// If a seed cannot be written.
pub fn plant<Seed: AsRef<[u8]>>(seeds: impl IntoIterator<Item = Seed>) {
    let Some(folder) = env::var_os("COFFER_FUZZ_SEEDS").map(PathBuf::from) else { return };
    for (number, seed) in seeds.into_iter().enumerate() {
        fs::write(folder.join(format!("{number:03}")), seed).expect("a seed can be written");
    }
}

/// These files of the test vectors, by their paths in `$COFFER_VECTORS`; none if that is not set.
///
/// # Panics
/// If there are vectors, but not these.
#[must_use]
pub fn vectors(paths: &[&str]) -> Vec<Vec<u8>> {
    let Some(folder) = env::var_os("COFFER_VECTORS").map(PathBuf::from) else { return Vec::new() };
    paths.iter().map(|path| fs::read(folder.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))).collect()
}

/// Every request and answer body of these captured flows (JSON lines of `{request, response}`).
///
/// # Panics
/// As [`vectors`], and if a file is not of that form.
#[must_use]
pub fn captured_bodies(paths: &[&str]) -> Vec<Vec<u8>> {
    let files = vectors(paths);
    let exchanges = files.iter().flat_map(|file| file.split(|byte| *byte == b'\n')).filter(|line| !line.is_empty());
    let values = exchanges.map(|line| serde_json::from_slice::<Value>(line).expect("a captured exchange"));
    let bodies = values.flat_map(|value| ["/request/body", "/response/body"].map(|at| value.pointer(at).cloned()));
    let text = bodies.filter_map(|body| body?.as_str().map(|text| text.as_bytes().to_vec()));
    text.filter(|body| !body.is_empty()).collect()
}

/// These files of this repository.
///
/// # Panics
/// If one cannot be read.
#[must_use]
pub fn repository(paths: &[&str]) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    paths.iter().map(|path| fs::read(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))).collect()
}

/// A file of these bytes that is in no folder: no disk, nothing to clean up.
///
/// # Panics
/// If the kernel gives none.
#[must_use]
pub fn memory_file(bytes: &[u8]) -> File {
    let mut file = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a file in memory"));
    file.write_all(bytes).expect("memory");
    file
}

/// Where a [`memory_file`] can be opened, as long as it is open here.
#[must_use]
pub fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", process::id(), file.as_raw_fd()))
}

/// A folder for unnamed files, in memory if there is one.
#[must_use]
pub fn scratch() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { env::temp_dir() }
}

/// Makes the checksum of every header in a tar right, as far as its headers lead. Without this hardly any mutated tar would
/// get past its first header.
pub fn repair_checksums(tar: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = tar.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<RECORD_BYTES>()) {
        if *header == [0; RECORD_BYTES] {
            return;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = header[124..136].iter().take_while(|byte| (b'0'..=b'7').contains(byte));
        let size = digits.fold(0_usize, |size, digit| size * 8 + usize::from(digit - b'0'));
        let has_data = matches!(header[156], 0 | b'0' | b'7' | b'L' | b'K' | b'x' | b'g' | b'S');
        at += RECORD_BYTES + if has_data { size.next_multiple_of(RECORD_BYTES) } else { 0 };
    }
}

/// A tar entry of this type with these extra header fields, its data padded, its checksum not yet right.
///
/// # Panics
/// If a field does not fit.
#[must_use]
pub fn raw_entry(kind: u8, name: &str, gnu: bool, fields: &[(usize, &str)], data: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 512];
    let size = format!("{:011o}", data.len());
    let magic = if gnu { "ustar  " } else { "ustar\x0000" };
    let common =
        [(0, name), (100, "0000644"), (108, "0000000"), (116, "0000000"), (124, size.as_str()), (136, "00000000000"), (257, magic)];
    for (at, text) in common.iter().chain(fields) {
        header[*at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    header[156] = kind;
    let mut padded = data.to_vec();
    padded.resize(data.len().next_multiple_of(512), 0);
    [header, padded].concat()
}

/// A docker-archive whose one layer is these bytes, its digest right.
///
/// # Panics
/// Never: it is made in memory.
#[must_use]
pub fn archive_of(layer: &[u8]) -> Vec<u8> {
    let digest = coffer_manifest::Sha256Digest::of(layer);
    let config = format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}}}}"#);
    let manifest = br#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["l.tar"]}]"#;
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in [("c.json", config.as_bytes()), ("manifest.json", manifest), ("l.tar", layer)] {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, content).expect("an entry in memory");
    }
    archive.into_inner().expect("an archive in memory")
}
