//! Container archives as a whole: what `docker save` writes, plain or gzip, and what it would not.
#![no_main]

use std::io::Write;

use coffer_fuzz::{archive_of, memory_file, path_of, plant, raw_entry, repair_checksums, scratch};
use coffer_image::container::Container;
use flate2::Compression;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;

/// As in `layer`.
const MAX_CONTENT_BYTES: u64 = 256 * 1024;

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    open(bytes);
    if !bytes.starts_with(&[0x1F, 0x8B]) {
        let mut repaired = bytes.to_vec();
        repair_checksums(&mut repaired);
        // Packed it is the same image; only a damaged member that no image names is refused then, since all are unpacked.
        if let Some(packed) = open(&gzip(&repaired)) {
            assert!(open(&repaired) == Some(packed), "gzip changes the image");
        }
    }
});

/// The image's digest and tree, where an archive opens.
fn open(bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    let archive = memory_file(bytes);
    let space = Container::space_needed(&path_of(&archive));
    let container = Container::open(&path_of(&archive), &scratch()).ok()?;
    space.expect("what opens can be estimated");
    let mut tree = Vec::new();
    if container.content_bytes() <= MAX_CONTENT_BYTES {
        container.write_tar(&mut tree).expect("a verified tree can be written");
    }
    Some((container.config().digest.to_string(), tree))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).expect("memory");
    packed.finish().expect("memory")
}

fn made() -> Vec<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    header.set_mode(0o644);
    layer.append_data(&mut header, "a", &b"abc"[..]).expect("an entry in memory");
    let layer = layer.into_inner().expect("a layer in memory");
    let plain = archive_of(&layer);
    vec![gzip(&plain), sparse(&plain), plain, linked(&layer)]
}

/// An image with a sparse member beside what it is made of.
fn sparse(plain: &[u8]) -> Vec<u8> {
    let map = [(386, "00000001000"), (398, "00000000003"), (483, "00000002000")];
    [&raw_entry(b'S', "sparse", true, &map, b"abc"), plain].concat()
}

/// The new layout: a packed layer and the config under `blobs/sha256`, found through links and by digest.
fn linked(layer: &[u8]) -> Vec<u8> {
    let packed = gzip(layer);
    let digest = |bytes: &[u8]| coffer_manifest::Sha256Digest::of(bytes).to_string();
    let diff_id = digest(layer);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["sha256:{diff_id}","sha256:{diff_id}"]}}}}"#
    );
    let (image, blob) = (format!("blobs/sha256/{}", digest(config.as_bytes())), format!("blobs/sha256/{}", digest(&packed)));
    let manifest = format!(r#"[{{"Config":"{image}","RepoTags":null,"Layers":["{blob}","old/layer.tar"]}}]"#);
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in [(image.as_str(), config.as_bytes()), (blob.as_str(), packed.as_slice()), ("manifest.json", manifest.as_bytes())]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, content).expect("an entry in memory");
    }
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    archive.append_link(&mut link, "old/layer.tar", format!("../{blob}")).expect("an entry in memory");
    archive.into_inner().expect("an archive in memory")
}
