//! The flattened file system: an index of names, owners and places, never of contents.

use std::collections::{BTreeMap, VecDeque};

use super::error::{ContainerError, PathProblem};
use super::layer::Piece;

/// Longest path, target or directory depth: Linux' PATH_MAX without its NUL.
pub const MAX_PATH_BYTES: usize = 4095;
/// Longest file name on Linux (NAME_MAX) and in squashfs.
pub const MAX_NAME_BYTES: usize = 255;
/// Symbolic links followed in one path, as Linux does.
const MAX_SYMLINKS: usize = 40;
/// Deepest directory: twice as deep as paths of one-letter names can say without symbolic links.
const MAX_DEPTH: usize = MAX_PATH_BYTES;

/// What lies at a path of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link that leads nowhere.
    DanglingSymlink,
    /// A device, or a named pipe.
    Special,
}

impl EntryKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::File => "file",
            Self::DanglingSymlink => "dangling symbolic link",
            Self::Special => "device or named pipe",
        }
    }
}

/// What to add where an image has nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExtraKind {
    /// A directory.
    Directory,
    /// An empty file.
    File,
}

/// A path that must exist in the root file system: a directory or an empty file for the guest to mount over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExtraPath {
    /// Absolute path.
    pub path: String,
    /// What it must be.
    pub kind: ExtraKind,
    /// Permission bits if it has to be made; it belongs to root.
    pub mode: u16,
}

/// Index of an inode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(u32);

/// The root directory.
pub const ROOT: NodeId = NodeId(0);

/// Owner, permissions, time, attributes.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Unix seconds, as far as squashfs can hold them.
    pub mtime: u32,
    /// Sorted by name.
    pub xattrs: Box<[Xattr]>,
}

/// An extended attribute.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Xattr {
    pub name: Box<[u8]>,
    pub value: Box<[u8]>,
}

/// Where a file's bytes are.
#[derive(Clone, Debug)]
pub struct Place {
    /// Index of the layer.
    pub layer: usize,
    /// First stored byte, in the layer.
    pub data: u64,
    /// Size of the file in bytes.
    pub size: u64,
    /// What is stored, if not all of it.
    pub sparse: Option<Box<[Piece]>>,
}

/// What an inode is.
#[derive(Clone, Debug)]
pub enum Node {
    Directory(BTreeMap<Box<[u8]>, NodeId>),
    File(Place),
    /// An empty file that no layer has.
    Empty,
    Symlink(Box<[u8]>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// All inodes, reachable or not; names hold indices.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<(Node, Meta)>,
}

impl Tree {
    pub fn new() -> Self {
        Self { nodes: vec![(Node::Directory(BTreeMap::new()), made_by_us(0o755))] }
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize].0
    }

    pub fn meta(&self, id: NodeId) -> &Meta {
        &self.nodes[id.0 as usize].1
    }

    pub fn set_meta(&mut self, id: NodeId, meta: Meta) {
        self.nodes[id.0 as usize].1 = meta;
    }

    pub fn kind(&self, id: NodeId) -> EntryKind {
        match self.node(id) {
            Node::Directory(_) => EntryKind::Directory,
            Node::File(_) | Node::Empty => EntryKind::File,
            Node::Symlink(_) => EntryKind::DanglingSymlink,
            Node::CharDevice(..) | Node::BlockDevice(..) | Node::Fifo => EntryKind::Special,
        }
    }

    /// What a directory has under a name; `None` for anything but a directory.
    pub fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        self.children(directory)?.get(name).copied()
    }

    pub fn children(&self, directory: NodeId) -> Option<&BTreeMap<Box<[u8]>, NodeId>> {
        match self.node(directory) {
            Node::Directory(children) => Some(children),
            _ => None,
        }
    }

    /// Puts a new inode under a name; what was there is gone.
    pub fn put(&mut self, directory: NodeId, name: &[u8], node: Node, meta: Meta) -> NodeId {
        // Four billion entries would need more memory for this vector than any machine that builds images has.
        let id = NodeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push((node, meta));
        self.link(directory, name, id);
        id
    }

    /// Puts an inode under one more name.
    pub fn link(&mut self, directory: NodeId, name: &[u8], id: NodeId) {
        if let Node::Directory(children) = &mut self.nodes[directory.0 as usize].0 {
            children.insert(name.into(), id);
        }
    }

    /// Takes a name away.
    pub fn unlink(&mut self, directory: NodeId, name: &[u8]) {
        if let Node::Directory(children) = &mut self.nodes[directory.0 as usize].0 {
            children.remove(name);
        }
    }

    /// Takes all names of a directory away.
    pub fn empty(&mut self, directory: NodeId) {
        if let Node::Directory(children) = &mut self.nodes[directory.0 as usize].0 {
            children.clear();
        }
    }

    /// Walks to the directory that a layer's entry lies in. With `create`, missing directories are made; without, a missing
    /// one gives `None`.
    ///
    /// Symbolic links on the way are followed, as containerd does, if they are relative and stay below the root: Debian's
    /// `lib -> usr/lib` must work. Anything else could only be meant to surprise.
    pub fn walk(&mut self, components: &[&[u8]], create: bool) -> Result<Option<NodeId>, PathProblem> {
        let mut ahead: VecDeque<Box<[u8]>> = components.iter().map(|name| Box::from(*name)).collect();
        let (mut stack, mut links) = (vec![ROOT], 0);
        while let Some(name) = ahead.pop_front() {
            let here = *stack.last().unwrap_or(&ROOT);
            if *name == *b".." {
                stack.pop();
                if stack.is_empty() {
                    return Err(PathProblem::SymlinkEscape { target: "..".to_owned() });
                }
                continue;
            }
            let next = match self.child(here, &name) {
                Some(next) => next,
                None if create => self.put(here, &name, Node::Directory(BTreeMap::new()), made_by_us(0o755)),
                None => return Ok(None),
            };
            match self.node(next) {
                Node::Directory(_) if stack.len() > MAX_DEPTH => {
                    return Err(PathProblem::TooLong { got: stack.len(), limit: MAX_DEPTH });
                }
                Node::Directory(_) => stack.push(next),
                Node::Symlink(target) => {
                    links += 1;
                    if target.starts_with(b"/") {
                        return Err(PathProblem::SymlinkEscape { target: text(target) });
                    }
                    if links > MAX_SYMLINKS {
                        return Err(PathProblem::SymlinkLoop { limit: MAX_SYMLINKS });
                    }
                    splice(&mut ahead, target);
                }
                _ if create => return Err(PathProblem::NotInDirectory { parent: text(&name) }),
                _ => return Ok(None),
            }
        }
        Ok(stack.last().copied())
    }

    /// What a path leads to inside the container, symbolic links followed as a process in it would. A link that leads nowhere
    /// is itself the answer if it is the last component.
    pub fn find(&self, path: &[u8]) -> Option<NodeId> {
        let mut ahead = VecDeque::new();
        splice(&mut ahead, path);
        let (mut stack, mut links, mut dangling) = (vec![ROOT], 0, None);
        while let Some(name) = ahead.pop_front() {
            if *name == *b".." {
                stack.truncate(stack.len().saturating_sub(1).max(1));
                continue;
            }
            let Some(next) = self.child(*stack.last().unwrap_or(&ROOT), &name) else { return dangling };
            let Node::Symlink(target) = self.node(next) else {
                stack.push(next);
                continue;
            };
            links += 1;
            if dangling.is_none() && ahead.is_empty() {
                dangling = Some(next);
            }
            if links > MAX_SYMLINKS {
                return dangling;
            }
            if target.starts_with(b"/") {
                stack.truncate(1);
            }
            splice(&mut ahead, target);
        }
        stack.last().copied()
    }

    /// See [`super::Container::ensure`].
    pub fn ensure(&mut self, extra: &ExtraPath) -> Result<(), ContainerError> {
        let wanted = match extra.kind {
            ExtraKind::Directory => EntryKind::Directory,
            ExtraKind::File => EntryKind::File,
        };
        let refuse = |found: EntryKind| ContainerError::ExtraPath { path: extra.path.clone(), wanted: wanted.name(), found: found.name() };
        match self.find(extra.path.as_bytes()).map(|id| self.kind(id)) {
            Some(found) if found == wanted => return Ok(()),
            Some(EntryKind::DanglingSymlink) | None => {}
            Some(found) => return Err(refuse(found)),
        }
        let mut directory = ROOT;
        let components: Vec<&[u8]> = components_of(extra.path.as_bytes()).collect();
        let Some((last, parents)) = components.split_last() else { return Ok(()) };
        let mut so_far = Vec::new();
        for name in parents {
            so_far.push(b'/');
            so_far.extend_from_slice(name);
            directory = match self.find(&so_far) {
                Some(id) if self.kind(id) == EntryKind::Directory => id,
                Some(id) => return Err(refuse(self.kind(id))),
                None => self.put(directory, name, Node::Directory(BTreeMap::new()), made_by_us(0o755)),
            };
        }
        let node = match extra.kind {
            ExtraKind::Directory => Node::Directory(BTreeMap::new()),
            ExtraKind::File => Node::Empty,
        };
        self.put(directory, last, node, made_by_us(extra.mode & 0o7777));
        Ok(())
    }

    /// Calls `visit` for every name, in the order of their paths, a directory before what is in it. The root has no name.
    pub fn visit<E>(&self, mut visit: impl FnMut(&[u8], NodeId) -> Result<(), E>) -> Result<(), E> {
        let mut path = Vec::new();
        visit(&path, ROOT)?;
        let mut stack: Vec<_> = self.children(ROOT).map(|children| (0, children.iter())).into_iter().collect();
        while let Some((length, children)) = stack.last_mut() {
            path.truncate(*length);
            let Some((name, id)) = children.next() else {
                stack.pop();
                continue;
            };
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            visit(&path, *id)?;
            if let Some(children) = self.children(*id) {
                stack.push((path.len(), children.iter()));
            }
        }
        Ok(())
    }

    /// How many names each inode has.
    pub fn link_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.nodes.len()];
        let counted: Result<(), std::convert::Infallible> = self.visit(|_, id| {
            counts[id.0 as usize] += 1;
            Ok(())
        });
        counted.unwrap_or_else(|never| match never {});
        counts
    }

    pub fn content_bytes(&self) -> u64 {
        let counts = self.link_counts();
        let files = self.nodes.iter().zip(&counts).filter(|(_, count)| **count > 0);
        files.fold(0, |sum: u64, ((node, _), _)| match node {
            Node::File(place) => sum.saturating_add(place.size),
            _ => sum,
        })
    }
}

impl NodeId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Splits at slashes; empty and `.` components mean nothing.
pub fn components_of(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."))
}

/// For messages.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}

fn splice(ahead: &mut VecDeque<Box<[u8]>>, path: &[u8]) {
    for name in components_of(path).rev() {
        ahead.push_front(name.into());
    }
}

fn made_by_us(mode: u16) -> Meta {
    Meta { mode, ..Meta::default() }
}
