//! Reads Debian packages: an `ar` archive of three members, the last a compressed tar (deb(5)).

use std::io::{self, Read};

use super::error::BaseError;

const AR_MAGIC: &[u8] = b"!<arch>\n";
const AR_HEADER_BYTES: usize = 60;
/// Offsets in an `ar` header (ar(5)): name 0..16, size 48..58 in decimal, end marker 58..60.
const AR_SIZE: std::ops::Range<usize> = 48..58;
/// The most a package may unpack to, in bytes. Debian's kernels unpack to some 100 MB with modules compressed.
const MAX_UNPACKED_BYTES: u64 = 1 << 30;

/// Why bytes are not a Debian package this build reads.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DebError {
    /// Does not start like an `ar` archive.
    #[error("it is not a Debian package: no `!<arch>` at its start")]
    Magic,
    /// A member's header is malformed or its data is cut off.
    #[error("it is damaged or cut off at byte {at}")]
    Member {
        /// Offset of the header.
        at: usize,
    },
    /// No `data.tar.xz`, `data.tar.zst` or `data.tar`.
    #[error("it has no data.tar, data.tar.xz or data.tar.zst")]
    NoData,
    /// The tar inside does not unpack.
    #[error("its contents do not unpack: {0}")]
    Unpack(#[from] io::Error),
}

/// One regular file of a package.
pub struct DebFile {
    /// Path without a leading `./` or `/`.
    pub path: String,
    /// Contents.
    pub data: Vec<u8>,
}

/// The regular files of a package for which `wanted` says yes, in archive order.
///
/// # Errors
/// See [`DebError`]. Total: any bytes give files or an error.
pub fn files(package: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Vec<DebFile>, DebError> {
    let data = data_tar(package)?.take(MAX_UNPACKED_BYTES);
    let mut files = Vec::new();
    for entry in tar::Archive::new(data).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().trim_start_matches("./").trim_start_matches('/').to_owned();
        if entry.header().entry_type().is_file() && wanted(&path) {
            let mut data = Vec::new();
            entry.read_to_end(&mut data)?;
            files.push(DebFile { path, data });
        }
    }
    Ok(files)
}

fn data_tar(package: &[u8]) -> Result<Box<dyn Read + '_>, DebError> {
    for member in members(package)? {
        return Ok(match member.name {
            "data.tar" => Box::new(member.data),
            "data.tar.xz" => Box::new(lzma_rust2::XzReader::new(member.data, true)),
            "data.tar.zst" => Box::new(zstd::stream::read::Decoder::with_buffer(member.data)?),
            _ => continue,
        });
    }
    Err(DebError::NoData)
}

struct Member<'a> {
    name: &'a str,
    data: &'a [u8],
}

fn members(package: &[u8]) -> Result<Vec<Member<'_>>, DebError> {
    let mut rest = package.strip_prefix(AR_MAGIC).ok_or(DebError::Magic)?;
    let mut members = Vec::new();
    while !rest.is_empty() {
        let damaged = DebError::Member { at: package.len() - rest.len() };
        let Some((member, after)) = split_member(rest) else { return Err(damaged) };
        members.push(member);
        rest = after;
    }
    Ok(members)
}

fn split_member(bytes: &[u8]) -> Option<(Member<'_>, &[u8])> {
    let (header, rest) = bytes.split_at_checked(AR_HEADER_BYTES)?;
    if !header.ends_with(b"`\n") {
        return None;
    }
    let field = |range| std::str::from_utf8(header.get::<std::ops::Range<usize>>(range)?).ok();
    let name = field(0..16)?.trim_end().trim_end_matches('/');
    let size: usize = field(AR_SIZE)?.trim_end().parse().ok()?;
    let (data, rest) = rest.split_at_checked(size)?;
    // Members start at even offsets; the last one's padding may be missing.
    let padding = usize::from(size % 2 == 1 && !rest.is_empty());
    Some((Member { name, data }, &rest[padding..]))
}

/// Decompresses a file by the ending of its name: `.xz`, `.zst`, or none.
///
/// # Errors
/// [`BaseError::Decompress`].
pub fn decompress(name: &str, data: &[u8]) -> Result<Vec<u8>, BaseError> {
    let refuse = |error: io::Error| BaseError::Decompress { name: name.to_owned(), error };
    let mut out = Vec::new();
    let read = if name.ends_with(".xz") {
        lzma_rust2::XzReader::new(data, true).take(MAX_UNPACKED_BYTES).read_to_end(&mut out)
    } else if name.ends_with(".zst") {
        zstd::stream::read::Decoder::with_buffer(data).and_then(|d| d.take(MAX_UNPACKED_BYTES).read_to_end(&mut out))
    } else {
        return Ok(data.to_vec());
    };
    read.map_err(refuse)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = AR_MAGIC.to_vec();
        for (name, data) in members {
            out.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 644, data.len()).bytes());
            out.extend(*data);
            out.resize(out.len().next_multiple_of(2), b'\n');
        }
        out
    }

    fn tar_of(path: &str, data: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_data(&mut header, path, data).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn finds_a_file_in_each_compression() {
        let tar = tar_of("./boot/config-1", b"CONFIG_X=y\n");
        let zst = zstd::bulk::compress(&tar, 1).unwrap();
        for (name, data) in [("data.tar", &tar), ("data.tar.zst", &zst)] {
            let package = ar(&[("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (name, data)]);
            let files = files(&package, |path| path.starts_with("boot/")).unwrap();
            assert_eq!((files.len(), files[0].path.as_str(), &files[0].data[..]), (1, "boot/config-1", &b"CONFIG_X=y\n"[..]));
            assert!(super::files(&package, |_| false).unwrap().is_empty());
        }
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let whole = ar(&[("debian-binary", b"2.0\n"), ("data.tar", &tar_of("a", b"b"))]);
        let error = |bytes: &[u8]| files(bytes, |_| true).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error(b"PK\x03\x04").contains("not a Debian package"));
        assert!(error(&whole[..100]).contains("cut off at byte 72"));
        assert!(error(&ar(&[("debian-binary", b"2.0\n")])).contains("no data.tar"));
        assert!(error(&ar(&[("data.tar.xz", b"not xz at all")])).contains("do not unpack"));
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, cut in 0..200_usize) {
            let _ = files(&bytes, |_| true);
            let mut package = AR_MAGIC.to_vec();
            package.extend(&bytes);
            let _ = files(&package, |_| true);
            let whole = ar(&[("data.tar", &tar_of("a", &bytes))]);
            let _ = files(&whole[..whole.len().saturating_sub(cut)], |_| true);
        }
    }
}
