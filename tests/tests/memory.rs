//! `coffer build` streams: what it and its children keep in memory does not grow with the container.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Cursor, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use sha2::{Digest, Sha256};
use system_tests::lab::{Lab, Site};
use system_tests::{lab, repo};

/// What a build may keep: coffer and its children together.
const LIMIT_KIB: u64 = 300 * 1024;
const GIB: u64 = 1 << 30;

#[test]
fn one_gib_is_built_in_300_mib() {
    assert_built_within_limit(GIB);
}

#[test]
fn long_four_gib_are_built_in_300_mib() {
    assert_built_within_limit(4 * GIB);
}

fn assert_built_within_limit(bytes: u64) {
    let lab = Lab::new();
    // A first build makes the shared base and the site's file; then the image is replaced by a large one.
    let _ = lab.build(&Site { more: &format!("# {bytes} bytes\n"), ..Site::default() });
    large_image(&lab.path("image.tar"), bytes);
    let spec = lab.path("cc_site-1.yml");
    let yaml = fs::read_to_string(&spec).expect("the site's file").replace("root_drive_size: 1\n", "root_drive_size: 8\n");
    fs::write(&spec, yaml).expect("the site's file");
    let mut build = Command::new(repo::program("coffer"));
    build.args(["build", "--base"]).arg(lab::base()).arg("-o").arg(lab.path("large")).arg(&spec);
    let mut child = build.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("coffer starts");
    let (mut most, mut when) = (0, BTreeMap::new());
    let status = loop {
        let now = peaks(child.id());
        let sum = now.values().sum();
        if sum > most {
            (most, when) = (sum, now);
        }
        if let Some(status) = child.try_wait().expect("its state") {
            break status;
        }
        sleep(Duration::from_millis(20));
    };
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    assert!(status.success(), "{said}");
    println!("{bytes} bytes of container: {most} KiB in {when:?}");
    assert!(most > 1024, "nothing was measured");
    assert!(most <= LIMIT_KIB, "{most} KiB, allowed {LIMIT_KIB}: {when:?}");
}

/// VmHWM, in KiB, of a process and of its living descendants, by name and id.
fn peaks(root: u32) -> BTreeMap<String, u64> {
    let mut parents = BTreeMap::new();
    let mut peaks = BTreeMap::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let number = |name: &str| field(name).and_then(|text| text.split(' ').next()).and_then(|n| n.parse::<u64>().ok());
        let (Some(pid), Some(parent)) = (number("Pid:"), number("PPid:")) else { continue };
        parents.insert(pid, parent);
        peaks.insert(pid, (format!("{} {pid}", field("Name:").unwrap_or("?")), number("VmHWM:").unwrap_or(0)));
    }
    let root = u64::from(root);
    let descends = |mut pid: u64| {
        while pid != root {
            match parents.get(&pid) {
                Some(parent) if *parent != 0 => pid = *parent,
                _ => return false,
            }
        }
        true
    };
    peaks.into_iter().filter(|(pid, _)| descends(*pid)).map(|(_, named)| named).collect()
}

/// An image of one layer with files of 64 MiB, half of whose bytes compress. Streamed: the test is not to need what it measures.
fn large_image(path: &Path, bytes: u64) {
    const FILE: u64 = 64 << 20;
    let block: Vec<u8> = (0..1u64 << 14).flat_map(|i| Sha256::digest(i.to_le_bytes())).chain([0x20; 1 << 19]).collect();
    let layer = path.with_extension("layer");
    let mut tar = tar::Builder::new(BufWriter::new(File::create(&layer).expect("a layer")));
    for file in 0..bytes / FILE {
        let blocks = FILE / block.len() as u64;
        let numbered = (0..blocks).flat_map(|i| [(file * blocks + i).to_le_bytes().to_vec(), block[8..].to_vec()]);
        let mut content = Chunks { chunks: numbered, rest: Cursor::default() };
        tar.append_data(&mut header(FILE), format!("data/{file}"), &mut content).expect("an entry");
    }
    tar.into_inner().expect("a layer").flush().expect("a layer");
    let (diff_id, size) = digest(&layer);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["/data/0"],"Env":["PATH=/bin"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{diff_id}"]}}}}"#
    );
    let manifest = r#"[{"Config":"config.json","RepoTags":["large:1"],"Layers":["layer.tar"]}]"#;
    let mut image = tar::Builder::new(BufWriter::new(File::create(path).expect("an image")));
    for (name, text) in [("config.json", config.as_str()), ("manifest.json", manifest)] {
        image.append_data(&mut header(text.len() as u64), name, text.as_bytes()).expect("an entry");
    }
    image.append_data(&mut header(size), "layer.tar", File::open(&layer).expect("the layer")).expect("an entry");
    image.into_inner().expect("an image").flush().expect("an image");
    fs::remove_file(layer).expect("the layer is removed");
}

/// Byte chunks, read one after the other.
struct Chunks<I> {
    chunks: I,
    rest: Cursor<Vec<u8>>,
}

impl<I: Iterator<Item = Vec<u8>>> Read for Chunks<I> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let n = self.rest.read(into)?;
        if n > 0 {
            return Ok(n);
        }
        match self.chunks.next() {
            Some(chunk) => {
                self.rest = Cursor::new(chunk);
                self.rest.read(into)
            }
            None => Ok(0),
        }
    }
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(size);
    header
}

fn digest(path: &Path) -> (String, u64) {
    let mut file = File::open(path).expect("the layer");
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut buffer).expect("bytes");
        if n == 0 {
            return (data_encoding::HEXLOWER.encode(&hash.finalize()), size);
        }
        hash.update(&buffer[..n]);
        size += n as u64;
    }
}
