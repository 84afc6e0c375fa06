//! What can be wrong with a container archive.

use std::io;

use coffer_manifest::Sha256Digest;

use super::config::ConfigError;
use super::layer::TarError;

/// The most that is shown of a name or value, in characters.
const MAX_SHOWN_CHARS: usize = 200;

/// A text out of an archive, as errors show it: whoever made the archive must not write lines of ours, or to the terminal.
pub fn shown(text: &str) -> String {
    let more = if text.chars().nth(MAX_SHOWN_CHARS).is_some() { "…" } else { "" };
    let mut shown = String::new();
    for c in text.chars().take(MAX_SHOWN_CHARS) {
        if c.is_control() { shown.extend(c.escape_debug()) } else { shown.push(c) }
    }
    shown + more
}

/// A container archive was refused: one variant per rule.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// The archive or a scratch file cannot be read or written.
    #[error("cannot {what}: {source}")]
    Read {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The flattened tree cannot be written.
    #[error("cannot write the flattened container: {source}")]
    Write {
        /// What the system said.
        source: io::Error,
    },
    /// The archive, or a layer in it, is not a tar this program reads.
    #[error("{}: {source}", shown(what))]
    Tar {
        /// The archive, or which layer.
        what: String,
        /// The rule and the place.
        source: TarError,
    },
    /// The image config is not usable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Not gzip and not tar.
    #[error(
        "{} is compressed with {format}; tar and gzip are read\nhint: decompress it, or save the image again with `docker save`",
        shown(what)
    )]
    Compression {
        /// The archive, or which layer.
        what: String,
        /// The compression found.
        format: &'static str,
    },
    /// The gzip data is damaged or cut off.
    #[error("{} is not intact gzip: {source}", shown(what))]
    Gzip {
        /// The archive, or which member.
        what: String,
        /// What the decompressor said.
        source: io::Error,
    },
    /// A member is named but not there.
    #[error("the container archive has no `{}`\nhint: is it made by `docker save` or `skopeo copy … docker-archive:`?", shown(name))]
    NoMember {
        /// Its name.
        name: String,
    },
    /// A member is there twice.
    #[error("the container archive has `{}` twice", shown(name))]
    MemberTwice {
        /// Its name.
        name: String,
    },
    /// A JSON member is absurdly large.
    #[error("`{}` in the container archive is {got} bytes long, at most {limit} are read", shown(name))]
    MemberSize {
        /// Its name.
        name: String,
        /// Size in bytes.
        got: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// `manifest.json` is not what `docker save` writes.
    #[error("manifest.json of the container archive is not valid: {source}")]
    Manifest {
        /// Where and why.
        source: serde_json::Error,
    },
    /// Zero images, or several to choose from.
    #[error("the container archive holds {got} images, expected 1\nhint: save one image by its tag")]
    Images {
        /// How many there are.
        got: usize,
    },
    /// The manifest and the config disagree.
    #[error("manifest.json lists {manifest} layers, the image config {config}")]
    LayerCount {
        /// Layers in `manifest.json`.
        manifest: usize,
        /// `diff_ids` in the config.
        config: usize,
    },
    /// A member's name says another digest than its bytes have.
    #[error("`{}` in the container archive has digest {got}, its name says {expected}", shown(name))]
    NameDigest {
        /// Name of the member.
        name: String,
        /// Digest of its bytes.
        got: Sha256Digest,
        /// Digest in its name.
        expected: Sha256Digest,
    },
    /// A layer is not the one the image config means.
    #[error("layer {layer} (`{}`) has diff_id {got}, the image config says {expected}", shown(name))]
    DiffId {
        /// Counted from 0, lowest first.
        layer: usize,
        /// Name of the member.
        name: String,
        /// Digest of the uncompressed layer.
        got: Sha256Digest,
        /// Digest in the config.
        expected: Sha256Digest,
    },
    /// A path in a layer is not one inside a root file system.
    #[error("layer {layer}: `{path}` {problem}")]
    Path {
        /// Counted from 0, lowest first.
        layer: usize,
        /// The path as the layer has it.
        path: String,
        /// The rule it breaks.
        problem: PathProblem,
    },
    /// An extended attribute that the root file system cannot hold or must not.
    #[error("layer {layer}: `{path}` has the extended attribute `{name}`, which {problem}")]
    Xattr {
        /// Counted from 0, lowest first.
        layer: usize,
        /// The path as the layer has it.
        path: String,
        /// Name of the attribute.
        name: String,
        /// The rule it breaks.
        problem: XattrProblem,
    },
    /// An extra path cannot be added.
    #[error("`{path}` must be a {wanted} but the image has a {found} there")]
    ExtraPath {
        /// The path.
        path: String,
        /// What was asked for.
        wanted: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A file is larger than asked for.
    #[error("`{path}` in the image is {got} bytes long, at most {limit} are read")]
    TooLarge {
        /// The path.
        path: String,
        /// Size in bytes.
        got: u64,
        /// The limit in bytes.
        limit: u64,
    },
}

/// Which rule for paths a layer breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathProblem {
    /// Begins with `/`.
    #[error("is an absolute path")]
    Absolute,
    /// Has `..` as a component.
    #[error("has `..` in it")]
    Parent,
    /// Names nothing.
    #[error("is an empty path")]
    Empty,
    /// Has a NUL in it.
    #[error("has a NUL in it")]
    Nul,
    /// A component is longer than 255 bytes, or the whole longer than 4095.
    #[error("is {got} bytes long, at most {limit} are possible")]
    TooLong {
        /// Length in bytes.
        got: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Leads through a symbolic link that points out of the tree or at an absolute path.
    #[error("leads through the symbolic link to `{target}`, out of the container's root")]
    SymlinkEscape {
        /// Where the link points.
        target: String,
    },
    /// Leads through too many symbolic links.
    #[error("leads through more than {limit} symbolic links")]
    SymlinkLoop {
        /// The limit.
        limit: usize,
    },
    /// Lies in something that is no directory.
    #[error("lies below `{parent}`, which is not a directory")]
    NotInDirectory {
        /// Name of the thing.
        parent: String,
    },
    /// The root can only be a directory.
    #[error("makes the root something else than a directory")]
    Root,
    /// A hard link to nothing, or to a directory.
    #[error("is a hard link to `{target}`, which is not a file in this image")]
    HardLink {
        /// Where the link points.
        target: String,
    },
    /// A symbolic link to nothing, or to more than a path can say.
    #[error("is a symbolic link with a target of {got} bytes, expected 1 to {limit} without NUL")]
    SymlinkTarget {
        /// Length in bytes.
        got: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A whiteout that names nothing that can be removed.
    #[error("is a whiteout of no name")]
    Whiteout,
    /// Device numbers past Linux's.
    #[error("is a device {major}:{minor}, Linux has at most 4095:1048575")]
    Device {
        /// Major number.
        major: u64,
        /// Minor number.
        minor: u64,
    },
}

/// Which rule for extended attributes a layer breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum XattrProblem {
    /// squashfs stores `user.`, `security.` and `trusted.` only.
    #[error("the root file system cannot hold\nhint: remove it in the image, e.g. `setfacl -b` for an access control list")]
    Namespace,
    /// The guest's overlay would obey it.
    #[error("would steer the overlay in the guest")]
    Overlay,
    /// More, together with the file's others, than the root file system's maker reads.
    #[error("makes {got} bytes of attributes, at most {limit} are possible")]
    TooMany {
        /// Bytes so far.
        got: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Longer than Linux allows.
    #[error("is too long: name {name} bytes of at most 255, value {value} of at most 65535")]
    TooLong {
        /// Length of the name in bytes.
        name: usize,
        /// Length of the value in bytes.
        value: usize,
    },
}
