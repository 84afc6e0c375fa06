//! Container layers: tars of any dialect, merged into one tree.
#![no_main]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, PathBuf};

use coffer_fuzz::{archive_of, memory_file, path_of, plant, raw_entry as raw, repair_checksums, scratch};
use coffer_image::container::Container;
use libfuzzer_sys::fuzz_target;

/// Sparse files may be of any size; writing out larger trees would test the memory, not the parser.
const MAX_CONTENT_BYTES: u64 = 256 * 1024;

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    let mut layer = bytes.to_vec();
    repair_checksums(&mut layer);
    let Some(container) = open(&layer) else { return };
    let users = ["", "0:0", "app", "app:app", "7"].map(|spec| container.user(spec).is_ok());
    assert!(users[0] && users[1], "root is always there");
    if container.content_bytes() > MAX_CONTENT_BYTES {
        return;
    }
    let tree = written(&container);
    check_tree(&tree);
    // A flattened image is an image of one layer, and flattening it changes nothing.
    let again = open(&tree).expect("what we write, we read");
    assert!(written(&again) == tree, "flattening is idempotent");
});

fn open(layer: &[u8]) -> Option<Container> {
    let archive = memory_file(&archive_of(layer));
    Container::open(&path_of(&archive), &scratch()).ok()
}

fn written(container: &Container) -> Vec<u8> {
    let mut out = Vec::new();
    container.write_tar(&mut out).expect("a verified tree can be written");
    out
}

/// Read by another implementation: plain relative names, none twice, each in a directory that came before it. That one splits
/// pax records at line feeds, which a name may hold, so its raw entries are taken.
fn check_tree(tree: &[u8]) {
    let mut seen: BTreeMap<PathBuf, bool> = BTreeMap::new();
    let mut long_name = None;
    for entry in tar::Archive::new(tree).entries().expect("a tar").raw(true) {
        let mut entry = entry.expect("a readable entry");
        if entry.header().entry_type().is_pax_local_extensions() {
            let mut records = Vec::new();
            entry.read_to_end(&mut records).expect("memory");
            long_name = pax_path(&records);
            continue;
        }
        let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
        let path = PathBuf::from(OsString::from_vec(name));
        let path: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
        assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{path:?} leads out");
        if let Some(parent) = path.parent() {
            assert_eq!(seen.get(parent), Some(&true), "{path:?} lies in no directory");
        }
        assert_eq!(seen.insert(path.clone(), entry.header().entry_type().is_dir()), None, "{path:?} is there twice");
    }
}

/// The record `path` of an extended header: `LENGTH KEY=VALUE` and a line feed, LENGTH counting all of it.
fn pax_path(mut records: &[u8]) -> Option<Vec<u8>> {
    loop {
        let space = records.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
        if let Some(path) = records[space + 1..length - 1].strip_prefix(b"path=") {
            return Some(path.to_vec());
        }
        records = &records[length..];
    }
}

fn made() -> Vec<Vec<u8>> {
    vec![plain(), pax(), gnu_sparse(), pax_sparse()]
}

/// One entry of each kind, whiteouts among them.
fn plain() -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    let mut add = |kind, name: &str, link: &str, data: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o4755);
        header.set_uid(1000);
        header.set_gid(100);
        header.set_mtime(1_700_000_000);
        if matches!(kind, tar::EntryType::Char | tar::EntryType::Block) {
            header.set_device_major(1).and_then(|()| header.set_device_minor(3)).expect("small");
        }
        if link.is_empty() {
            layer.append_data(&mut header, name, data).expect("an entry in memory");
        } else {
            layer.append_link(&mut header, name, link).expect("an entry in memory");
        }
    };
    add(tar::EntryType::Directory, "etc/", "", b"");
    add(tar::EntryType::Regular, "etc/passwd", "", b"root:x:0:0::/root:/bin/sh\napp:x:7:8::/:/bin/sh\n");
    add(tar::EntryType::Regular, "etc/group", "", b"app:x:8:app\nmore:x:9:app,root\n");
    add(tar::EntryType::Directory, "usr/lib/", "", b"");
    add(tar::EntryType::Symlink, "lib", "usr/lib", b"");
    add(tar::EntryType::Regular, "lib/a.so", "", b"x");
    add(tar::EntryType::Link, "usr/lib/b.so", "lib/a.so", b"");
    add(tar::EntryType::Char, "dev/null", "", b"");
    add(tar::EntryType::Block, "dev/loop", "", b"");
    add(tar::EntryType::Fifo, "run/pipe", "", b"");
    add(tar::EntryType::Regular, "etc/.wh.gone", "", b"");
    add(tar::EntryType::Regular, "opt/.wh..wh..opq", "", b"");
    add(tar::EntryType::Regular, &format!("{}/long", "d".repeat(120)), "", b"y");
    layer.into_inner().expect("a layer in memory")
}

/// A file with extended header records.
fn pax() -> Vec<u8> {
    let record = |key: &str, value: &str| {
        let rest = key.len() + value.len() + 3;
        let length = (rest + 1..).find(|length| rest + length.to_string().len() == *length).expect("there is one");
        format!("{length} {key}={value}\n")
    };
    let body =
        [("path", "some/where"), ("mtime", "-1.5"), ("uid", "70000"), ("SCHILY.xattr.security.capability", "\u{1}\0"), ("size", "3")];
    let body: String = body.iter().map(|(key, value)| record(key, value)).collect();
    [
        raw(b'g', "g", false, &[], record("comment", "x").as_bytes()),
        raw(b'x', "x", false, &[], body.as_bytes()),
        raw(b'0', "f", false, &[], b"abc"),
        end(),
    ]
    .concat()
}

/// GNU's old sparse format: type S, the map in the header.
fn gnu_sparse() -> Vec<u8> {
    let map = [(386, "00000001000"), (398, "00000000003"), (483, "00000002000")];
    [raw(b'S', "sparse", true, &map, b"abc"), raw(b'L', "././@LongLink", true, &[], b"long/name\0"), raw(b'0', "n", true, &[], b""), end()]
        .concat()
}

/// pax sparse format 1.0: the map before the data.
fn pax_sparse() -> Vec<u8> {
    let body = "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n25 GNU.sparse.name=holes\n28 GNU.sparse.realsize=2000\n";
    let mut data = b"1\n512\n3\n".to_vec();
    data.resize(512, 0);
    data.extend(b"abc");
    [raw(b'x', "x", false, &[], body.as_bytes()), raw(b'0', "GNUSparseFile.0/holes", false, &[], &data), end()].concat()
}

fn end() -> Vec<u8> {
    vec![0; 1024]
}
