//! A small container image: a static busybox, a user, and a file large enough to be read in many blocks.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

/// Stands in the kit's file: it must be found nowhere in the clear.
pub const SECRET_MARK: &str = "kit-secret-7c1d9f0e52b84a36";

/// Bytes of `/data/blob`.
const BLOB_BYTES: usize = 4 << 20;
/// Debian's busybox-static.
const BUSYBOX: &str = "/bin/busybox";
const APPLETS: &[&str] = &["sh", "cat", "echo", "id", "sleep", "ls", "dd", "sha256sum", "mkdir", "touch", "env", "ps", "mount", "kill"];

/// `/data/blob`: bytes that do not compress, the same each time.
#[must_use]
pub fn blob() -> Vec<u8> {
    (0..BLOB_BYTES as u64 / 32).flat_map(|i| Sha256::digest(i.to_le_bytes())).collect()
}

/// A `docker save` archive of the image.
///
/// # Panics
/// If busybox-static is not installed.
#[must_use]
pub fn busybox_image() -> Vec<u8> {
    busybox_image_with(&[])
}

/// The same with more programs: path and bytes.
///
/// # Panics
/// If busybox-static is not installed.
#[must_use]
pub fn busybox_image_with(programs: &[(String, Vec<u8>)]) -> Vec<u8> {
    let busybox = fs::read(BUSYBOX).unwrap_or_else(|e| panic!("{BUSYBOX}: {e}; hint: tests/setup.sh --tests"));
    let mut layer = tar::Builder::new(Vec::new());
    for dir in ["bin", "data", "etc", "tmp", "proc", "sys", "dev"] {
        add(&mut layer, &format!("{dir}/"), tar::EntryType::Directory, 0o755, b"");
    }
    let mut home = header(tar::EntryType::Directory, 0o755, 0);
    home.set_uid(1234);
    layer.append_data(&mut home, "home/", &b""[..]).expect("an entry in memory");
    add(&mut layer, "bin/busybox", tar::EntryType::Regular, 0o755, &busybox);
    for applet in APPLETS {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("a link");
    }
    let parents: BTreeSet<&Path> = programs.iter().flat_map(|(path, _)| Path::new(path).ancestors().skip(1)).collect();
    for dir in parents.into_iter().filter(|dir| !dir.as_os_str().is_empty() && *dir != Path::new("bin")) {
        add(&mut layer, &format!("{}/", dir.display()), tar::EntryType::Directory, 0o755, b"");
    }
    for (path, bytes) in programs {
        add(&mut layer, path, tar::EntryType::Regular, 0o755, bytes);
    }
    add(&mut layer, "etc/passwd", tar::EntryType::Regular, 0o644, b"root:x:0:0::/:/bin/sh\nworker:x:1234:1234::/home:/bin/sh\n");
    add(&mut layer, "etc/group", tar::EntryType::Regular, 0o644, b"root:x:0:\nworker:x:1234:\nextra:x:4321:worker\n");
    add(&mut layer, "data/blob", tar::EntryType::Regular, 0o644, &blob());
    let layer = layer.into_inner().expect("a layer in memory");
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"User":"worker","WorkingDir":"/home","Cmd":["id"],"Env":["PATH=/bin"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
        hex(&layer)
    );
    let name = format!("{}.json", hex(config.as_bytes()));
    let manifest = format!(r#"[{{"Config":"{name}","RepoTags":["lab:1"],"Layers":["layer.tar"]}}]"#);
    let mut image = tar::Builder::new(Vec::new());
    add(&mut image, &name, tar::EntryType::Regular, 0o644, config.as_bytes());
    add(&mut image, "layer.tar", tar::EntryType::Regular, 0o644, &layer);
    add(&mut image, "manifest.json", tar::EntryType::Regular, 0o644, manifest.as_bytes());
    image.into_inner().expect("an archive in memory")
}

fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, mode: u32, bytes: &[u8]) {
    let mut header = header(kind, mode, bytes.len() as u64);
    tar.append_data(&mut header, path, bytes).expect("an entry in memory");
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}
