//! Layers into one tree, and the tree into one tar.
//!
//! Sources: OCI image-spec v1.1, layer.md (whiteouts apply to lower layers only, whatever their order in the tar); Docker's
//! `.wh.` and `.wh..wh.` names. Nothing is ever extracted: paths are names in memory.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use super::archive::Blob;
use super::error::{ContainerError, PathProblem, XattrProblem};
use super::layer::{Entry, Piece, RECORD_BYTES, TarReader, Type};
use super::tree::{MAX_NAME_BYTES, MAX_PATH_BYTES, Meta, Node, NodeId, Place, ROOT, Tree, components_of, text};

const WHITEOUT: &[u8] = b".wh.";
/// Names of the union file system itself; one of them is a whiteout of all that is below.
const WHITEOUT_META: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
/// Attribute namespaces squashfs can store.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"security.", b"trusted."];
/// Attributes overlayfs obeys.
const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
/// XATTR_NAME_MAX; and one byte less than XATTR_SIZE_MAX, which is the most squashfs' 16-bit size can say.
const MAX_XATTR_NAME: usize = 255;
const MAX_XATTR_VALUE: usize = 65535;
/// Largest device numbers of Linux' 12- and 20-bit fields.
const MAX_DEVICE: (u64, u64) = (4095, 1_048_575);

/// Merges layers, lowest first.
pub fn flatten(layers: &[Blob]) -> Result<Tree, ContainerError> {
    let mut tree = Tree::new();
    for (layer, blob) in layers.iter().enumerate() {
        let what = || format!("layer {layer}");
        let entries = |tree: &mut Tree, apply: fn(&mut Tree, usize, Entry) -> Result<(), ContainerError>| {
            let mut reader = TarReader::new(blob.cursor());
            while let Some(entry) = reader.next().map_err(|source| ContainerError::Tar { what: what(), source })? {
                apply(tree, layer, entry)?;
            }
            Ok::<(), ContainerError>(())
        };
        entries(&mut tree, apply_whiteout)?;
        entries(&mut tree, apply_entry)?;
    }
    check_depth(&tree)?;
    Ok(tree)
}

fn apply_whiteout(tree: &mut Tree, layer: usize, entry: Entry) -> Result<(), ContainerError> {
    let refuse = |problem| ContainerError::Path { layer, path: text(&entry.path), problem };
    let components = checked_components(&entry.path).map_err(refuse)?;
    let Some((name, parents)) = components.split_last() else { return Ok(()) };
    let Some(hidden) = name.strip_prefix(WHITEOUT) else { return Ok(()) };
    if name.starts_with(WHITEOUT_META) && *name != WHITEOUT_OPAQUE {
        return Ok(());
    }
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(refuse(PathProblem::Whiteout));
    }
    if let Some(directory) = tree.walk(parents, false).map_err(refuse)? {
        if *name == WHITEOUT_OPAQUE { tree.empty(directory) } else { tree.unlink(directory, hidden) }
    }
    Ok(())
}

fn apply_entry(tree: &mut Tree, layer: usize, entry: Entry) -> Result<(), ContainerError> {
    let refuse = |problem| ContainerError::Path { layer, path: text(&entry.path), problem };
    let components = checked_components(&entry.path).map_err(refuse)?;
    let meta = decide_meta(layer, &entry)?;
    let Some((name, parents)) = components.split_last() else {
        if entry.kind != Type::Directory {
            return Err(refuse(PathProblem::Root));
        }
        tree.set_meta(ROOT, meta);
        return Ok(());
    };
    if name.starts_with(WHITEOUT) {
        return Ok(());
    }
    let parent = tree.walk(parents, true).map_err(refuse)?.unwrap_or(ROOT);
    let there = tree.child(parent, name);
    match entry.kind {
        Type::Directory => match there.filter(|id| tree.children(*id).is_some()) {
            Some(directory) => tree.set_meta(directory, meta),
            None => drop(tree.put(parent, name, Node::Directory(BTreeMap::new()), meta)),
        },
        Type::HardLink => {
            let target = hard_link_target(tree, &entry.link).map_err(refuse)?;
            tree.link(parent, name, target);
        }
        _ => drop(tree.put(parent, name, decide_node(layer, &entry).map_err(refuse)?, meta)),
    }
    Ok(())
}

fn decide_node(layer: usize, entry: &Entry) -> Result<Node, PathProblem> {
    let device = || {
        let (major, minor) = entry.device;
        let fits = major <= MAX_DEVICE.0 && minor <= MAX_DEVICE.1;
        if fits { Ok((major as u32, minor as u32)) } else { Err(PathProblem::Device { major, minor }) }
    };
    Ok(match entry.kind {
        Type::Symlink => {
            let got = entry.link.len();
            if got == 0 || got > MAX_PATH_BYTES || entry.link.contains(&0) {
                return Err(PathProblem::SymlinkTarget { got, limit: MAX_PATH_BYTES });
            }
            Node::Symlink(entry.link.as_slice().into())
        }
        Type::CharDevice => device().map(|(major, minor)| Node::CharDevice(major, minor))?,
        Type::BlockDevice => device().map(|(major, minor)| Node::BlockDevice(major, minor))?,
        Type::Fifo => Node::Fifo,
        Type::File | Type::Directory | Type::HardLink => {
            Node::File(Place { layer, data: entry.data, size: entry.size, sparse: entry.sparse.clone() })
        }
    })
}

fn hard_link_target(tree: &mut Tree, link: &[u8]) -> Result<NodeId, PathProblem> {
    let missing = || PathProblem::HardLink { target: text(link) };
    let components = checked_components(link)?;
    let (name, parents) = components.split_last().ok_or_else(missing)?;
    let parent = tree.walk(parents, false)?.ok_or_else(missing)?;
    let target = tree.child(parent, name).ok_or_else(missing)?;
    if tree.children(target).is_some() { Err(missing()) } else { Ok(target) }
}

/// A relative path without `..`, split; empty for the root itself.
fn checked_components(path: &[u8]) -> Result<Vec<&[u8]>, PathProblem> {
    if path.is_empty() {
        return Err(PathProblem::Empty);
    }
    if path.starts_with(b"/") {
        return Err(PathProblem::Absolute);
    }
    if path.contains(&0) {
        return Err(PathProblem::Nul);
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(PathProblem::TooLong { got: path.len(), limit: MAX_PATH_BYTES });
    }
    let components: Vec<&[u8]> = components_of(path).collect();
    for name in &components {
        if *name == b".." {
            return Err(PathProblem::Parent);
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(PathProblem::TooLong { got: name.len(), limit: MAX_NAME_BYTES });
        }
    }
    Ok(components)
}

fn decide_meta(layer: usize, entry: &Entry) -> Result<Meta, ContainerError> {
    let mut xattrs = Vec::with_capacity(entry.xattrs.len());
    for (name, value) in &entry.xattrs {
        let refuse =
            |problem| ContainerError::Xattr { layer, path: text(&entry.path), name: text(name), problem };
        if name.len() > MAX_XATTR_NAME || value.len() > MAX_XATTR_VALUE {
            return Err(refuse(XattrProblem::TooLong { name: name.len(), value: value.len() }));
        }
        if OVERLAY.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(refuse(XattrProblem::Overlay));
        }
        if !NAMESPACES.iter().any(|prefix| name.starts_with(prefix) && name.len() > prefix.len()) || name.contains(&0) {
            return Err(refuse(XattrProblem::Namespace));
        }
        xattrs.push((name.as_slice().into(), value.as_slice().into()));
    }
    xattrs.sort();
    Ok(Meta {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime.clamp(0, i64::from(u32::MAX)) as u32,
        xattrs: xattrs.into(),
    })
}

/// Symbolic links can make a path longer than what was written; Linux could not open it.
fn check_depth(tree: &Tree) -> Result<(), ContainerError> {
    tree.visit(|path, _| {
        if path.len() <= MAX_PATH_BYTES {
            return Ok(());
        }
        let problem = PathProblem::TooLong { got: path.len(), limit: MAX_PATH_BYTES };
        Err(ContainerError::Path { layer: 0, path: text(path), problem })
    })
}

/// Contents of a regular file, if there is one.
pub fn read_file(tree: &Tree, layers: &[Blob], path: &str, limit: u64) -> Result<Option<Vec<u8>>, ContainerError> {
    let Some(id) = tree.find(path.as_bytes()) else { return Ok(None) };
    let place = match tree.node(id) {
        Node::File(place) => place,
        Node::Empty => return Ok(Some(Vec::new())),
        _ => return Ok(None),
    };
    if place.size > limit {
        return Err(ContainerError::TooLarge { path: path.to_owned(), got: place.size, limit });
    }
    let mut contents = Vec::new();
    copy_file(place, layers, &mut contents)?;
    Ok(Some(contents))
}

/// Writes the tree as pax tar: sorted, the first name of an inode with its data, the others as hard links.
pub fn write_tar(tree: &Tree, layers: &[Blob], mut out: impl Write) -> Result<(), ContainerError> {
    let write = |source| ContainerError::Write { source };
    let counts = tree.link_counts();
    let mut first_names: HashMap<NodeId, Box<[u8]>> = HashMap::new();
    tree.visit(|path, id| {
        if counts[id.index()] > 1 {
            if let Some(first) = first_names.get(&id) {
                let member = Member { kind: b'1', link: first, ..Member::of(tree, id) };
                return member.write(path, &mut out).map_err(write);
            }
            first_names.insert(id, path.into());
        }
        Member::of(tree, id).write(path, &mut out).map_err(write)?;
        if let Node::File(place) = tree.node(id) {
            copy_file(place, layers, &mut out)?;
            let padding = place.size.next_multiple_of(RECORD_BYTES) - place.size;
            out.write_all(&[0; RECORD_BYTES as usize][..padding as usize]).map_err(write)?;
        }
        Ok(())
    })?;
    out.write_all(&[0; 2 * RECORD_BYTES as usize]).and_then(|()| out.flush()).map_err(write)
}

/// Copies a file, holes as zeros.
fn copy_file(place: &Place, layers: &[Blob], out: &mut impl Write) -> Result<(), ContainerError> {
    let whole = [Piece { offset: 0, bytes: place.size }];
    let pieces = place.sparse.as_deref().unwrap_or(&whole);
    let (mut written, mut stored) = (0, place.data);
    for piece in pieces {
        write_zeros(piece.offset - written, out)?;
        layers[place.layer].copy_range(stored, piece.bytes, out)?;
        stored += piece.bytes;
        written = piece.offset + piece.bytes;
    }
    write_zeros(place.size - written, out)
}

fn write_zeros(bytes: u64, out: &mut impl Write) -> Result<(), ContainerError> {
    io::copy(&mut io::Read::take(io::repeat(0), bytes), out).map(drop).map_err(|source| ContainerError::Write { source })
}

/// The header of one member of the tar that is written.
struct Member<'a> {
    kind: u8,
    meta: &'a Meta,
    link: &'a [u8],
    size: u64,
    device: (u32, u32),
}

impl<'a> Member<'a> {
    fn of(tree: &'a Tree, id: NodeId) -> Self {
        let plain = Self { kind: b'0', meta: tree.meta(id), link: &[], size: 0, device: (0, 0) };
        match tree.node(id) {
            Node::Directory(_) => Self { kind: b'5', ..plain },
            Node::File(place) => Self { size: place.size, ..plain },
            Node::Empty => plain,
            Node::Symlink(target) => Self { kind: b'2', link: target, ..plain },
            Node::CharDevice(major, minor) => Self { kind: b'3', device: (*major, *minor), ..plain },
            Node::BlockDevice(major, minor) => Self { kind: b'4', device: (*major, *minor), ..plain },
            Node::Fifo => Self { kind: b'6', ..plain },
        }
    }

    fn write(&self, path: &[u8], out: &mut impl Write) -> io::Result<()> {
        let (name, link) = ([b"./", path].concat(), self.link);
        let mut records = Vec::new();
        if name.len() > 100 {
            pax_record(b"path", &name, &mut records);
        }
        if link.len() > 100 {
            pax_record(b"linkpath", link, &mut records);
        }
        let size = if self.kind == b'0' { self.size } else { 0 };
        if size > 0o777_7777_7777 {
            pax_record(b"size", size.to_string().as_bytes(), &mut records);
        }
        // Attributes belong to the inode: its first name carries them.
        if self.kind != b'1' {
            for (key, value) in &self.meta.xattrs {
                pax_record(&[b"SCHILY.xattr.", &key[..]].concat(), value, &mut records);
            }
        }
        if !records.is_empty() {
            let size = records.len() as u64;
            out.write_all(&self.header(b'x', b"pax", &[], size))?;
            records.resize(records.len().next_multiple_of(RECORD_BYTES as usize), 0);
            out.write_all(&records)?;
        }
        out.write_all(&self.header(self.kind, &name, link, size))
    }

    /// A ustar header; what does not fit is in the pax header before it, so it may be cut here.
    fn header(&self, kind: u8, name: &[u8], link: &[u8], size: u64) -> [u8; RECORD_BYTES as usize] {
        let mut bytes = [0; RECORD_BYTES as usize];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &name[..name.len().min(100)]);
        put(100, format!("{:07o}\0", self.meta.mode).as_bytes());
        put(108, &id_field(self.meta.uid));
        put(116, &id_field(self.meta.gid));
        put(124, format!("{:011o}\0", if size > 0o777_7777_7777 { 0 } else { size }).as_bytes());
        put(136, format!("{:011o}\0", self.meta.mtime).as_bytes());
        put(148, b"        ");
        put(156, &[kind]);
        put(157, &link[..link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}\0", self.device.0).as_bytes());
        put(337, format!("{:07o}\0", self.device.1).as_bytes());
        let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes
    }
}

/// Octal up to seven digits, base-256 beyond.
fn id_field(id: u32) -> [u8; 8] {
    let mut field = [0; 8];
    if id <= 0o777_7777 {
        field.copy_from_slice(format!("{id:07o}\0").as_bytes());
    } else {
        field[0] = 0x80;
        field[4..].copy_from_slice(&id.to_be_bytes());
    }
    field
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
fn pax_record(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}
