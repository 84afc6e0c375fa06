//! The tree as one pax tar: sorted by path, the same bytes for the same tree. It is what makes the root file system.

use std::collections::HashMap;
use std::io::{self, Write};

use super::blob::Blob;
use super::error::ContainerError;
use super::flatten::copy_file;
use super::layer::RECORD_BYTES;
use super::tree::{Meta, Node, NodeId, Tree};

/// Largest size eleven octal digits can say.
const MAX_OCTAL_SIZE: u64 = 0o777_7777_7777;

/// Writes the tree: the first name of an inode with its data, the others as hard links.
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
        if size > MAX_OCTAL_SIZE {
            pax_record(b"size", size.to_string().as_bytes(), &mut records);
        }
        // Attributes belong to the inode: its first name carries them.
        if self.kind != b'1' {
            for xattr in &self.meta.xattrs {
                pax_record(&[b"SCHILY.xattr.", &xattr.name[..]].concat(), &xattr.value, &mut records);
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
        put(124, format!("{:011o}\0", if size > MAX_OCTAL_SIZE { 0 } else { size }).as_bytes());
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
