//! Container archives: the bytes as a whole archive, as an image config, and as a layer whose digest is right.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};

use coffer_image::container::{Container, ImageConfig};
use coffer_manifest::Sha256Digest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = ImageConfig::parse(bytes);
    // One folder a process, in memory: libFuzzer runs each target single-threaded.
    let dir = PathBuf::from(format!("/dev/shm/coffer-fuzz-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a folder");
    open(&dir, bytes);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["/x"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
        Sha256Digest::of(bytes)
    );
    let mut archive = tar::Builder::new(Vec::new());
    let manifest = br#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["l.tar"]}]"#;
    for (name, content) in [("c.json", config.as_bytes()), ("manifest.json", manifest), ("l.tar", bytes)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, content).expect("an entry in memory");
    }
    open(&dir, &archive.into_inner().expect("an archive in memory"));
});

/// An archive that opens can be written out as one tree.
fn open(dir: &Path, bytes: &[u8]) {
    let archive = dir.join("archive.tar");
    fs::write(&archive, bytes).expect("the archive is written");
    if let Ok(container) = Container::open(&archive, dir) {
        let _ = container.user("1:2");
        container.write_tar(std::io::sink()).expect("a verified tree can be written");
    }
}
