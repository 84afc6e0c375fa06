//! Layers into one tree.
//!
//! Sources: OCI image-spec v1.1, layer.md (whiteouts apply to lower layers only, whatever their order in the tar); Docker's
//! `.wh.` and `.wh..wh.` names. Nothing is ever extracted: paths are names in memory.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::blob::Blob;
use super::error::{ContainerError, PathProblem, XattrProblem};
use super::layer::{Entry, Piece, TarReader, Type};
use super::tree::{MAX_NAME_BYTES, MAX_PATH_BYTES, Meta, Node, NodeId, Place, ROOT, Tree, Xattr, components_of, text};

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
/// All attributes of a file together: tar2sqfs reads extended headers of 64 KiB, of which path and target may take 8.
const MAX_XATTRS_BYTES: usize = 56 * 1024;
/// What a record of an extended header has besides name and value, at most.
const XATTR_OVERHEAD: usize = 32;
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
    let (mut xattrs, mut total) = (Vec::with_capacity(entry.xattrs.len()), 0);
    for (name, value) in &entry.xattrs {
        let refuse = |problem| ContainerError::Xattr { layer, path: text(&entry.path), name: text(name), problem };
        if name.len() > MAX_XATTR_NAME || value.len() > MAX_XATTR_VALUE {
            return Err(refuse(XattrProblem::TooLong { name: name.len(), value: value.len() }));
        }
        if OVERLAY.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(refuse(XattrProblem::Overlay));
        }
        if !NAMESPACES.iter().any(|prefix| name.starts_with(prefix) && name.len() > prefix.len()) || name.contains(&0) {
            return Err(refuse(XattrProblem::Namespace));
        }
        total += name.len() + value.len() + XATTR_OVERHEAD;
        if total > MAX_XATTRS_BYTES {
            return Err(refuse(XattrProblem::TooMany { got: total, limit: MAX_XATTRS_BYTES }));
        }
        xattrs.push(Xattr { name: name.as_slice().into(), value: value.as_slice().into() });
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

/// Copies a file, holes as zeros.
pub fn copy_file(place: &Place, layers: &[Blob], out: &mut impl Write) -> Result<(), ContainerError> {
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
