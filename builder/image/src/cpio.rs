//! Writes the archive format the kernel unpacks its initial root from: "newc" cpio.
//!
//! Source: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`. Every header field is eight upper-case
//! hexadecimal digits; header plus name, and data, are each padded to four bytes.
//!
//! Nothing of the building machine gets in: owner is root, time is zero, inode numbers count from 1 in archive order.

use std::io::{self, Write};

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// A cpio archive being written. Members appear in the order of the calls; parents go first.
#[derive(Debug)]
pub struct CpioWriter<W> {
    out: W,
    members: u32,
    written: u64,
}

/// A member that cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CpioError {
    /// The name is empty, absolute, or holds a NUL.
    #[error("`{name}` cannot be the name of a cpio member")]
    Name {
        /// The name given.
        name: String,
    },
    /// More than a 32-bit field can say.
    #[error("cpio member `{name}` is {got} bytes long, at most {} fit", u32::MAX)]
    Size {
        /// The member.
        name: String,
        /// Its size in bytes.
        got: usize,
    },
    /// Writing failed.
    #[error("cannot write cpio archive: {0}")]
    Write(#[from] io::Error),
}

/// What a header says besides the name.
struct Header {
    mode: u32,
    links: u32,
    size: u32,
    device: (u32, u32),
}

impl<W: Write> CpioWriter<W> {
    /// An empty archive on `out`.
    pub fn new(out: W) -> Self {
        Self { out, members: 0, written: 0 }
    }

    /// Adds a directory with these permission bits.
    ///
    /// # Errors
    /// See [`CpioError`].
    pub fn directory(&mut self, name: &str, permissions: u32) -> Result<(), CpioError> {
        self.member(name, &Header { mode: DIRECTORY | permissions, links: 2, size: 0, device: (0, 0) }, &[])
    }

    /// Adds a regular file with these permission bits.
    ///
    /// # Errors
    /// See [`CpioError`].
    pub fn file(&mut self, name: &str, permissions: u32, data: &[u8]) -> Result<(), CpioError> {
        let size = u32::try_from(data.len()).map_err(|_| CpioError::Size { name: name.to_owned(), got: data.len() })?;
        self.member(name, &Header { mode: REGULAR | permissions, links: 1, size, device: (0, 0) }, data)
    }

    /// Adds a character device node.
    ///
    /// # Errors
    /// See [`CpioError`].
    pub fn character_device(&mut self, name: &str, permissions: u32, major: u32, minor: u32) -> Result<(), CpioError> {
        let header = Header { mode: CHARACTER_DEVICE | permissions, links: 1, size: 0, device: (major, minor) };
        self.member(name, &header, &[])
    }

    /// Ends the archive, padded to the traditional 512 bytes.
    ///
    /// # Errors
    /// [`CpioError::Write`].
    pub fn finish(mut self) -> Result<W, CpioError> {
        self.entry(TRAILER, 0, &Header { mode: 0, links: 1, size: 0, device: (0, 0) }, &[])?;
        self.pad(512)?;
        Ok(self.out)
    }

    fn member(&mut self, name: &str, header: &Header, data: &[u8]) -> Result<(), CpioError> {
        if name.is_empty() || name.starts_with('/') || name.contains('\0') || name == TRAILER {
            return Err(CpioError::Name { name: name.to_owned() });
        }
        self.members += 1;
        self.entry(name, self.members, header, data)
    }

    fn entry(&mut self, name: &str, inode: u32, header: &Header, data: &[u8]) -> Result<(), CpioError> {
        let name_size = u32::try_from(name.len() + 1).map_err(|_| CpioError::Name { name: name.to_owned() })?;
        let (uid, gid, mtime, archive_device, checksum) = (0, 0, 0, (0, 0), 0);
        let fields = [
            inode,
            header.mode,
            uid,
            gid,
            header.links,
            mtime,
            header.size,
            archive_device.0,
            archive_device.1,
            header.device.0,
            header.device.1,
            name_size,
            checksum,
        ];
        self.put(MAGIC.as_bytes())?;
        for field in fields {
            self.put(format!("{field:08X}").as_bytes())?;
        }
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad(4)?;
        self.put(data)?;
        self.pad(4)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), CpioError> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, to: u64) -> Result<(), CpioError> {
        let missing = self.written.next_multiple_of(to) - self.written;
        self.put(&[0; 512][..missing as usize])
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    fn archive() -> Vec<u8> {
        let mut cpio = CpioWriter::new(Vec::new());
        cpio.directory("dev", 0o755).unwrap();
        cpio.character_device("dev/console", 0o600, 5, 1).unwrap();
        cpio.file("init", 0o755, b"hello").unwrap();
        cpio.finish().unwrap()
    }

    #[test]
    fn first_header_is_as_documented() {
        let expected = "070701\
            00000001000041ED00000000000000000000000200000000000000000000000000000000000000000000000000000004\
            00000000dev\0";
        assert_eq!(&archive()[..expected.len()], expected.as_bytes());
        assert_eq!(archive().len() % 512, 0);
    }

    #[test]
    fn cpio_lists_the_same_members() {
        let mut child = match Command::new("cpio").args(["-tv", "--quiet", "-n"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(error) => return println!("skipped: no cpio here: {error}; hint: apt install cpio"),
        };
        child.stdin.take().unwrap().write_all(&archive()).unwrap();
        let listed = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let lines: Vec<Vec<&str>> = listed.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 3, "{listed}");
        assert_eq!((lines[0][0], lines[0][2], lines[0][8]), ("drwxr-xr-x", "0", "dev"), "{listed}");
        assert!(lines[1][0].starts_with("crw-------") && listed.contains("5,   1"), "{listed}");
        assert_eq!((lines[2][0], lines[2][4], lines[2][8]), ("-rwxr-xr-x", "5", "init"), "{listed}");
    }

    #[test]
    fn names_that_would_escape_or_end_the_archive_are_refused() {
        for name in ["", "/init", "a\0b", "TRAILER!!!"] {
            assert!(matches!(CpioWriter::new(Vec::new()).file(name, 0o644, b""), Err(CpioError::Name { .. })), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn members_are_aligned_and_deterministic(name in "[a-z]{1,40}", data: Vec<u8>) {
            let write = || {
                let mut cpio = CpioWriter::new(Vec::new());
                cpio.file(&name, 0o644, &data).unwrap();
                cpio.finish().unwrap()
            };
            let bytes = write();
            let start = (110 + name.len() + 1).next_multiple_of(4);
            prop_assert_eq!(&bytes[start..start + data.len()], &data[..]);
            prop_assert_eq!(&bytes[(start + data.len()).next_multiple_of(4)..][..6], b"070701");
            prop_assert_eq!(bytes, write());
        }
    }
}
