//! The outer archive: which members there are, where the layers' bytes lie, and whether their digests are right.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};

use coffer_manifest::Sha256Digest;
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::SpaceNeed;
use super::blob::{Blob, CHUNK_BYTES, HashWriter, Scratch, Stored, Stream};
use super::config::{ImageConfig, MAX_CONFIG_BYTES};
use super::error::ContainerError;
use super::layer::{TarReader, Type};

const MANIFEST: &str = "manifest.json";
/// Longest `manifest.json` that is read: a list of layers.
const MAX_MANIFEST_BYTES: u64 = 1024 * 1024;
/// Decompressed chunks that may wait for whoever hashes and stores them.
const CHUNKS_WAITING: usize = 4;

/// What an archive is made of, verified.
pub struct ReadArchive {
    pub config: ImageConfig,
    /// Uncompressed layers, lowest first.
    pub layers: Vec<Blob>,
}

/// See [`super::Container::space_needed`].
pub fn space_needed(archive: &Path) -> Result<SpaceNeed, ContainerError> {
    let read = |source| ContainerError::Read { what: "read the container archive", source };
    let mut file = File::open(archive).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    let mut magic = [0; 2];
    let is_gzip = file.read(&mut magic).map_err(read)? == 2 && Compression::of(&magic) == Some(Compression::Gzip);
    let mut packed = vec![];
    let mut plain = 0;
    if is_gzip {
        packed.push(Blob::whole(file, size));
    } else {
        for member in index(&Blob::whole(file, size))?.into_values() {
            let Member::Raw(blob) = member else { continue };
            let mut magic = [0; 2];
            if blob.read_at(&mut magic, 0).is_ok() && Compression::of(&magic) == Some(Compression::Gzip) {
                packed.push(blob);
            } else {
                plain += blob.len();
            }
        }
    }
    let packed_bytes: u64 = packed.iter().map(|blob| blob.len()).sum();
    let unpacked = packed.iter().map(unpacked_bytes).sum::<u64>();
    // zstd at a fast level comes out a little larger than gzip, and takes a third off what nobody packed.
    let image = packed_bytes + packed_bytes / 4 + (plain - plain / 3);
    Ok(SpaceNeed { scratch: unpacked + image, output: image + (64 << 20) })
}

/// How much a gzip member unpacks to, most likely. RFC 1952: its last four bytes are the size modulo 2^32; and nothing worth
/// shipping grows when it is packed.
fn unpacked_bytes(packed: &Blob) -> u64 {
    let mut rest = [0; 4];
    if packed.len() < 18 || packed.read_at(&mut rest, packed.len() - 4).is_err() {
        return packed.len();
    }
    let rest = u64::from(u32::from_le_bytes(rest));
    rest + packed.len().saturating_sub(rest).next_multiple_of(1 << 32)
}

/// Finds config and layers, and checks every digest there is.
pub fn read(archive: &Path, scratch: &Path) -> Result<ReadArchive, ContainerError> {
    let store = Store::open(archive, scratch)?;
    let manifest = store.small(MANIFEST, MAX_MANIFEST_BYTES)?;
    let images: Vec<RawManifest> = serde_json::from_slice(&manifest).map_err(|source| ContainerError::Manifest { source })?;
    let [image] = <[RawManifest; 1]>::try_from(images).map_err(|images| ContainerError::Images { got: images.len() })?;
    let config = ImageConfig::parse(&store.small(&image.config, MAX_CONFIG_BYTES)?)?;
    check_name(&image.config, &[config.digest])?;
    if image.layers.len() != config.diff_ids.len() {
        return Err(ContainerError::LayerCount { manifest: image.layers.len(), config: config.diff_ids.len() });
    }
    let mut layers = Vec::with_capacity(image.layers.len());
    for (layer, (name, (stored, expected))) in
        image.layers.iter().zip(store.layers(&image.layers)?.into_iter().zip(&config.diff_ids)).enumerate()
    {
        check_name(name, &[stored.packed, stored.plain])?;
        if stored.plain != *expected {
            let name = name.clone();
            return Err(ContainerError::DiffId { layer, name, got: stored.plain, expected: *expected });
        }
        layers.push(stored.blob);
    }
    Ok(ReadArchive { config, layers })
}

/// An element of `manifest.json` (Docker image specification v1.2). Other members say nothing that is not in the config.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawManifest {
    config: String,
    layers: Vec<String>,
}

/// A member's name may say a digest: `<hex>.json`, `<hex>.tar`, `blobs/sha256/<hex>`. Then one of its digests must be that.
fn check_name(name: &str, digests: &[Sha256Digest]) -> Result<(), ContainerError> {
    let file = name.rsplit('/').next().unwrap_or(name);
    let stem = file.split('.').next().unwrap_or(file);
    let stem = stem.strip_prefix("sha256:").unwrap_or(stem);
    match (stem.parse::<Sha256Digest>(), digests) {
        (Ok(expected), [got, ..]) if !digests.contains(&expected) => {
            Err(ContainerError::NameDigest { name: name.to_owned(), got: *got, expected })
        }
        _ => Ok(()),
    }
}

/// A member of the outer archive.
enum Member {
    /// In an uncompressed archive: where it lies.
    Raw(Blob),
    /// From a compressed archive: already unpacked.
    Unpacked(Stored),
    /// A link to another member.
    Link(String),
}

/// The members of an archive by name.
struct Store<'a> {
    members: BTreeMap<String, Member>,
    scratch: &'a Path,
}

impl<'a> Store<'a> {
    fn open(archive: &Path, scratch: &'a Path) -> Result<Self, ContainerError> {
        let read = |source| ContainerError::Read { what: "read the container archive", source };
        let mut file = File::open(archive).map_err(read)?;
        let bytes = file.metadata().map_err(read)?.len();
        let mut magic = Vec::new();
        Read::by_ref(&mut file).take(6).read_to_end(&mut magic).map_err(read)?;
        file.rewind().map_err(read)?;
        let members = match Compression::of(&magic) {
            None => index(&Blob::whole(file, bytes))?,
            Some(Compression::Gzip) => unpack(file, scratch)?,
            Some(other) => return Err(other.refuse("the container archive".to_owned())),
        };
        Ok(Self { members, scratch })
    }

    /// The member a name means, through at most one link (`docker save` links equal layers, skopeo its legacy names).
    fn member(&self, name: &str) -> Result<&Member, ContainerError> {
        let missing = || ContainerError::NoMember { name: name.to_owned() };
        let name = normal(name.as_bytes()).ok_or_else(missing)?;
        match self.members.get(&name).ok_or_else(missing)? {
            Member::Link(target) => match self.members.get(target) {
                Some(Member::Link(_)) | None => Err(missing()),
                Some(member) => Ok(member),
            },
            member => Ok(member),
        }
    }

    /// Contents of a JSON member.
    fn small(&self, name: &str, limit: u64) -> Result<Vec<u8>, ContainerError> {
        let blob = match self.member(name)? {
            Member::Raw(blob) | Member::Unpacked(Stored { blob, .. }) => blob,
            Member::Link(_) => return Err(ContainerError::NoMember { name: name.to_owned() }),
        };
        if blob.len() > limit {
            return Err(ContainerError::MemberSize { name: name.to_owned(), got: blob.len(), limit });
        }
        let mut contents = Vec::new();
        blob.copy_range(0, blob.len(), &mut contents)?;
        Ok(contents)
    }

    /// Layers by name: hashed, and unpacked where they are not yet, several at a time.
    fn layers(&self, names: &[String]) -> Result<Vec<Stored>, ContainerError> {
        let results: Vec<Mutex<Option<Result<Stored, ContainerError>>>> = names.iter().map(|_| Mutex::new(None)).collect();
        let next = AtomicUsize::new(0);
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(names.len());
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while let Some((name, slot)) = {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        names.get(index).zip(results.get(index))
                    } {
                        let stored = self.layer(name);
                        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(stored);
                    }
                });
            }
        });
        let unfinished = || ContainerError::Read { what: "read a layer", source: io::ErrorKind::Interrupted.into() };
        results
            .into_iter()
            .map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(|| Err(unfinished())))
            .collect()
    }

    fn layer(&self, name: &str) -> Result<Stored, ContainerError> {
        match self.member(name)? {
            Member::Unpacked(stored) => Ok(stored.clone()),
            Member::Link(_) => Err(ContainerError::NoMember { name: name.to_owned() }),
            Member::Raw(blob) => {
                let mut magic = vec![0; blob.len().min(6) as usize];
                let what = || format!("layer `{name}`");
                let read = |source| ContainerError::Read { what: "read a layer", source };
                blob.read_at(&mut magic, 0).map_err(read)?;
                match Compression::of(&magic) {
                    Some(Compression::Gzip) => Scratch::new(self.scratch)?.store(blob.cursor(), true, what()),
                    Some(other) => Err(other.refuse(what())),
                    None => {
                        let mut hash = Sha256::new();
                        blob.copy_range(0, blob.len(), &mut HashWriter(&mut hash))?;
                        let plain = Sha256Digest::new(hash.finalize().into());
                        Ok(Stored { blob: blob.clone(), packed: plain, plain })
                    }
                }
            }
        }
    }
}

/// Lists the members of an uncompressed archive. Sparse ones are left out, here and in [`unpack`]: no engine writes them, and
/// the size they claim is not what is there.
fn index(archive: &Blob) -> Result<BTreeMap<String, Member>, ContainerError> {
    let mut members = BTreeMap::new();
    let mut reader = TarReader::new(archive.cursor());
    while let Some(entry) = reader.next().map_err(archive_error)? {
        if entry.sparse.is_some() {
            continue;
        }
        let blob = archive.part(entry.data, entry.size);
        add(&mut members, &entry.path, entry.kind, &entry.link, || Ok(Member::Raw(blob)))?;
    }
    Ok(members)
}

/// Unpacks a gzip archive: every member's plain bytes, one behind the other, into one unnamed file.
fn unpack(archive: File, scratch: &Path) -> Result<BTreeMap<String, Member>, ContainerError> {
    std::thread::scope(|scope| {
        let (send, chunks) = sync_channel(CHUNKS_WAITING);
        scope.spawn(move || {
            let mut gunzip = MultiGzDecoder::new(BufReader::with_capacity(CHUNK_BYTES, archive));
            loop {
                let mut chunk = Vec::with_capacity(CHUNK_BYTES);
                let result = Read::by_ref(&mut gunzip).take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
                let over = !matches!(result, Ok(1..));
                // The receiver hangs up where the archive is refused early.
                if send.send(result.map(|_| chunk)).is_err() || over {
                    break;
                }
            }
        });
        let mut members = BTreeMap::new();
        let mut scratch = Scratch::new(scratch)?;
        let mut reader = TarReader::new(Stream::new(chunks));
        while let Some(entry) = reader.next().map_err(archive_error)? {
            if entry.sparse.is_some() {
                continue;
            }
            let what = String::from_utf8_lossy(&entry.path).into_owned();
            let stream = reader.source();
            let store = || {
                stream.fill().map_err(|source| ContainerError::Read { what: "unpack the container archive", source })?;
                let compression = if entry.size < 6 { None } else { Compression::of(stream.ready()) };
                match compression {
                    Some(Compression::Gzip) => scratch.store(stream.take(entry.size), true, what),
                    None => scratch.store(stream.take(entry.size), false, what),
                    Some(other) => Err(other.refuse(what)),
                }
                .map(Member::Unpacked)
            };
            add(&mut members, &entry.path, entry.kind, &entry.link, store)?;
        }
        Ok(members)
    })
}

/// Adds a file or a link to the list; directories and the rest are nothing an image is made of.
fn add(
    members: &mut BTreeMap<String, Member>,
    path: &[u8],
    kind: Type,
    link: &[u8],
    member: impl FnOnce() -> Result<Member, ContainerError>,
) -> Result<(), ContainerError> {
    let Some(name) = normal(path) else { return Ok(()) };
    let member = match kind {
        Type::File => member()?,
        Type::HardLink => normal(link).map_or_else(member, |target| Ok(Member::Link(target)))?,
        Type::Symlink => {
            // Relative to where the link lies.
            let directory = name.rfind('/').map_or("", |slash| &name[..slash]);
            match normal(&[directory.as_bytes(), b"/", link].concat()) {
                Some(target) => Member::Link(target),
                None => return Ok(()),
            }
        }
        _ => return Ok(()),
    };
    match members.insert(name.clone(), member) {
        None => Ok(()),
        Some(_) => Err(ContainerError::MemberTwice { name }),
    }
}

/// `./a//b/../c` is `a/c`. `None` for what leads out of the archive, is not text, or is empty.
fn normal(path: &[u8]) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in std::str::from_utf8(path).ok()?.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn archive_error(source: super::layer::TarError) -> ContainerError {
    ContainerError::Tar { what: "container archive".to_owned(), source }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Compression {
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Compression {
    /// By magic; a tar begins with a file name, which none of these is.
    fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Self::Bzip2),
            _ => None,
        }
    }

    fn refuse(self, what: String) -> ContainerError {
        let format = match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
        };
        ContainerError::Compression { what, format }
    }
}
