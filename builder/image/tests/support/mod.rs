//! Makes container archives, honest and hostile, byte by byte.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::Write;
use std::path::{Path, PathBuf};

use coffer_image::container::{Container, ContainerError};
use coffer_manifest::Sha256Digest;
use tempfile::TempDir;

/// A tar being put together: ustar headers, everything in them under the test's control.
#[derive(Default, Clone)]
pub struct Tar(pub Vec<u8>);

/// One header, with ordinary values where a test does not care.
#[derive(Clone)]
pub struct Header {
    pub kind: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: u64,
    pub link: Vec<u8>,
    pub device: (u32, u32),
    pub magic: [u8; 8],
}

impl Header {
    pub fn new(kind: u8) -> Self {
        let mode = if kind == b'5' { 0o755 } else { 0o644 };
        Self { kind, mode, uid: 0, gid: 0, mtime: 1_700_000_000, link: Vec::new(), device: (0, 0), magic: *b"ustar\x0000" }
    }
}

impl Tar {
    pub fn entry(mut self, path: &str, header: Header, data: &[u8]) -> Self {
        self.append(path.as_bytes(), &header, data);
        self
    }

    pub fn append(&mut self, path: &[u8], header: &Header, data: &[u8]) {
        let mut bytes = [0; 512];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &path[..path.len().min(100)]);
        put(100, format!("{:07o}\0{:07o}\0{:07o}\0", header.mode, header.uid, header.gid).as_bytes());
        put(124, format!("{:011o}\0{:011o}\0        ", data.len(), header.mtime).as_bytes());
        put(156, &[header.kind]);
        put(157, &header.link[..header.link.len().min(100)]);
        put(257, &header.magic);
        put(329, format!("{:07o}\0{:07o}\0", header.device.0, header.device.1).as_bytes());
        self.seal(&mut bytes);
        self.0.extend_from_slice(&bytes);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn seal(&self, bytes: &mut [u8; 512]) {
        let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }

    pub fn file(self, path: &str, data: &[u8]) -> Self {
        self.entry(path, Header::new(b'0'), data)
    }

    pub fn dir(self, path: &str) -> Self {
        self.entry(path, Header::new(b'5'), b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, Header { link: target.into(), ..Header::new(b'2') }, b"")
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, Header { link: target.into(), ..Header::new(b'1') }, b"")
    }

    /// A pax header for the entry that follows.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.entry("pax", Header::new(b'x'), &body)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest..).find(|length| *length == rest + length.to_string().len()).expect("there is one");
    [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}

/// How an archive is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// skopeo and old `docker save`: `<hex>.json`, `<hex>.tar`.
    Flat,
    /// Old `docker save`: `<id>/layer.tar`, equal layers as symbolic links.
    Folders,
    /// New `docker save`: an OCI layout with a `manifest.json`.
    Blobs,
}

/// An image to be saved.
pub struct Image {
    pub layers: Vec<Vec<u8>>,
    pub run: String,
    pub layout: Layout,
    pub gzip_layers: bool,
    pub gzip_outer: bool,
}

impl Image {
    pub fn new(layers: impl IntoIterator<Item = Tar>) -> Self {
        let layers = layers.into_iter().map(Tar::end).collect();
        Self { layers, run: "{}".to_owned(), layout: Layout::Flat, gzip_layers: false, gzip_outer: false }
    }

    pub fn raw_layers(layers: Vec<Vec<u8>>) -> Self {
        Self { layers, ..Self::new([]) }
    }

    pub fn config(&self) -> String {
        let diff_ids: Vec<String> = self.layers.iter().map(|layer| format!("\"sha256:{}\"", Sha256Digest::of(layer))).collect();
        format!(
            r#"{{"os":"linux","architecture":"amd64","config":{},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            self.run,
            diff_ids.join(",")
        )
    }

    /// The members of the archive, in order.
    pub fn members(&self) -> Vec<(String, Vec<u8>)> {
        let config = self.config().into_bytes();
        let mut members = Vec::new();
        let mut names = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let stored = if self.gzip_layers { gzip(layer) } else { layer.clone() };
            let name = match self.layout {
                Layout::Flat => format!("{}.tar", Sha256Digest::of(layer)),
                Layout::Folders => format!("{}/layer.tar", Sha256Digest::of(&[index as u8])),
                Layout::Blobs => format!("blobs/sha256/{}", Sha256Digest::of(&stored)),
            };
            if !names.contains(&name) {
                members.push((name.clone(), stored));
            }
            names.push(name);
        }
        let digest = Sha256Digest::of(&config);
        let config_name = match self.layout {
            Layout::Flat | Layout::Folders => format!("{digest}.json"),
            Layout::Blobs => format!("blobs/sha256/{digest}"),
        };
        let layers: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        let manifest = format!(r#"[{{"Config":"{config_name}","RepoTags":["t:1"],"Layers":[{}]}}]"#, layers.join(","));
        members.push((config_name, config));
        members.push(("manifest.json".to_owned(), manifest.into_bytes()));
        members
    }

    pub fn save(&self) -> Saved {
        Saved::of(self.members(), self.gzip_outer)
    }

    pub fn open(&self) -> Result<Container, ContainerError> {
        self.save().open()
    }
}

/// An archive on disk.
pub struct Saved {
    pub directory: TempDir,
    pub archive: PathBuf,
}

impl Saved {
    pub fn of(members: Vec<(String, Vec<u8>)>, gzip_outer: bool) -> Self {
        let tar = members.iter().fold(Tar::default(), |tar, (name, data)| tar.file(name, data)).end();
        Self::bytes(&if gzip_outer { gzip(&tar) } else { tar })
    }

    pub fn bytes(archive: &[u8]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("image.tar");
        std::fs::write(&path, archive).expect("writes the archive");
        Self { archive: path, directory }
    }

    pub fn open(&self) -> Result<Container, ContainerError> {
        Container::open(&self.archive, self.directory.path())
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("writes to memory");
    encoder.finish().expect("writes to memory")
}

/// The flattened tree as lines: what an independent tar reader sees in [`Container::write_tar`].
pub fn listing(container: &Container) -> Vec<String> {
    let mut bytes = Vec::new();
    container.write_tar(&mut bytes).expect("writes to memory");
    let mut archive = tar::Archive::new(bytes.as_slice());
    let entries = archive.entries().expect("a tar");
    entries
        .map(|entry| {
            let mut entry = entry.expect("an entry");
            let mut data = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut data).expect("reads");
            let header = entry.header();
            let mut line = format!(
                "{} {:o} {}:{} {}",
                header.entry_type().as_byte() as char,
                header.mode().expect("mode"),
                header.uid().expect("uid"),
                header.gid().expect("gid"),
                String::from_utf8_lossy(&entry.path_bytes()),
            );
            if let Some(link) = entry.link_name_bytes() {
                line += &format!(" -> {}", String::from_utf8_lossy(&link));
            }
            if !data.is_empty() {
                line += &format!(" = {}", String::from_utf8_lossy(&data));
            }
            line
        })
        .collect()
}

/// Names of all files and directories below a directory.
pub fn left_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("reads the directory");
    let mut names: Vec<String> = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
