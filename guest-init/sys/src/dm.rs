//! Device mapper through `/dev/mapper/control`.
//!
//! Source: `include/uapi/linux/dm-ioctl.h` of Linux 6.12 (interface 4.x), `struct dm_ioctl` and `struct dm_target_spec`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;

use zeroize::Zeroizing;

use crate::{ioctl, iowr};

const DM_IOCTL: u8 = 0xfd;
const DEV_CREATE: u8 = 3;
const DEV_REMOVE: u8 = 4;
const DEV_SUSPEND: u8 = 6; // without DM_SUSPEND_FLAG it resumes: the loaded table becomes live
const TABLE_LOAD: u8 = 9;

const READONLY_FLAG: u32 = 1 << 0;
/// The kernel wipes its copy of the buffer before freeing it.
const SECURE_DATA_FLAG: u32 = 1 << 15;

/// Byte layout of `struct dm_ioctl`, 312 bytes, native byte order.
mod offset {
    pub const VERSION: usize = 0; // 3 × u32: major, minor, patch
    pub const DATA_SIZE: usize = 12; // u32, whole buffer
    pub const DATA_START: usize = 16; // u32, where the targets begin
    pub const TARGET_COUNT: usize = 20; // u32
    pub const FLAGS: usize = 28; // u32
    pub const DEV: usize = 40; // u64, kernel's huge_encode_dev
    pub const NAME: usize = 48; // 128 bytes, NUL-terminated
    pub const UUID: usize = 176; // 129 bytes
}
const HEADER_BYTES: usize = 312;
/// `struct dm_target_spec`: u64 start, u64 length (both 512-byte sectors), i32 status, u32 next, 16 bytes type.
const SPEC_BYTES: usize = 40;

/// One target that covers a whole mapped device.
pub struct Target<'a> {
    /// `crypt` or `verity`.
    pub kind: &'a str,
    /// Length of the device in 512-byte sectors.
    pub sectors: u64,
    /// The target's table line after its type. Wiped by its owner; every copy made here is wiped too.
    pub params: &'a str,
}

/// An open `/dev/mapper/control`.
pub struct Control(File);

impl Control {
    /// Opens the control node.
    ///
    /// # Errors
    /// Whatever open(2) says; `ENOENT` when the module dm-mod is not loaded.
    pub fn open() -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).open("/dev/mapper/control").map(Self)
    }

    /// Creates a read-only device `name` with one target and makes it live; returns its minor number (`/dev/dm-N`).
    ///
    /// # Errors
    /// The error of the first failing ioctl; a device that was created but got no table is removed again.
    pub fn create_read_only(&self, name: &str, target: &Target<'_>) -> io::Result<u32> {
        let created = self.call(DEV_CREATE, encode(name, 0, None)?)?;
        let minor = minor(&created);
        let live = encode(name, READONLY_FLAG | SECURE_DATA_FLAG, Some(target))
            .and_then(|buffer| self.call(TABLE_LOAD, buffer))
            .and_then(|_| self.call(DEV_SUSPEND, encode(name, 0, None)?));
        match live {
            Ok(_) => Ok(minor),
            Err(error) => {
                // The first error is the one worth reporting; a device without a table harms nobody.
                let _ = self.call(DEV_REMOVE, encode(name, 0, None)?);
                Err(error)
            }
        }
    }

    fn call(&self, command: u8, mut buffer: Zeroizing<Vec<u64>>) -> io::Result<Zeroizing<Vec<u64>>> {
        let request = iowr(DM_IOCTL, command, HEADER_BYTES);
        // SAFETY: `encode` made a buffer of exactly the `data_size` bytes its header states, with an 8-byte alignment; the
        // kernel reads and writes within `data_size`.
        unsafe { ioctl(self.0.as_fd(), request, buffer.as_mut_ptr().cast())? };
        Ok(buffer)
    }
}

/// The minor number in a `dm_ioctl` the kernel filled in: bits 0–7 and 20–31 of `dev` (new_encode_dev).
fn minor(buffer: &[u64]) -> u32 {
    let dev = buffer[offset::DEV / 8] as u32;
    (dev & 0xff) | ((dev >> 12) & 0xfff00)
}

/// The buffer of one call, as 64-bit words so that it is aligned.
fn encode(name: &str, flags: u32, target: Option<&Target<'_>>) -> io::Result<Zeroizing<Vec<u64>>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("device mapper {what}"));
    if name.is_empty() || name.len() >= offset::UUID - offset::NAME || name.contains(['/', '\0']) {
        return Err(invalid("name must have 1 to 127 bytes without slash or NUL"));
    }
    let tail = match target {
        None => 0,
        Some(target) if target.kind.len() < 16 && !target.params.contains('\0') => {
            (SPEC_BYTES + target.params.len() + 1).next_multiple_of(8)
        }
        Some(_) => return Err(invalid("target type must be shorter than 16 bytes and its line free of NUL")),
    };
    let size = HEADER_BYTES + tail;
    let mut bytes = Zeroizing::new(vec![0u8; size]);
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(offset::VERSION, &4u32.to_ne_bytes());
    let data_size = u32::try_from(size).map_err(|_| invalid("table is larger than 4 GiB"))?;
    put(offset::DATA_SIZE, &data_size.to_ne_bytes());
    put(offset::DATA_START, &(HEADER_BYTES as u32).to_ne_bytes());
    put(offset::TARGET_COUNT, &u32::from(target.is_some()).to_ne_bytes());
    put(offset::FLAGS, &flags.to_ne_bytes());
    put(offset::NAME, name.as_bytes());
    if let Some(target) = target {
        put(HEADER_BYTES + 8, &target.sectors.to_ne_bytes());
        put(HEADER_BYTES + 20, &(tail as u32).to_ne_bytes());
        put(HEADER_BYTES + 24, target.kind.as_bytes());
        put(HEADER_BYTES + SPEC_BYTES, target.params.as_bytes());
    }
    let mut words = Zeroizing::new(Vec::with_capacity(size / 8));
    words.extend(bytes.chunks_exact(8).map(|chunk| u64::from_ne_bytes(chunk.try_into().unwrap_or_default())));
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn request_numbers_are_the_headers() {
        // Values of DM_DEV_CREATE, DM_DEV_SUSPEND and DM_TABLE_LOAD as `strace -X raw dmsetup` shows them.
        assert_eq!(iowr(DM_IOCTL, DEV_CREATE, HEADER_BYTES), 0xc138_fd03);
        assert_eq!(iowr(DM_IOCTL, DEV_SUSPEND, HEADER_BYTES), 0xc138_fd06);
        assert_eq!(iowr(DM_IOCTL, TABLE_LOAD, HEADER_BYTES), 0xc138_fd09);
    }

    #[test]
    fn a_table_is_laid_out_as_the_header_says() {
        let target = Target { kind: "verity", sectors: 2048, params: "1 a b" };
        let buffer = bytes(&encode("root", READONLY_FLAG, Some(&target)).expect("valid"));
        assert_eq!(buffer.len() % 8, 0);
        assert_eq!(buffer[12..16], (buffer.len() as u32).to_ne_bytes());
        assert_eq!(&buffer[48..53], b"root\0");
        assert_eq!(buffer[312..320], 0u64.to_ne_bytes());
        assert_eq!(buffer[320..328], 2048u64.to_ne_bytes());
        assert_eq!(&buffer[336..343], b"verity\0");
        assert_eq!(&buffer[352..358], b"1 a b\0");
    }

    #[test]
    fn bad_names_and_lines_are_refused() {
        let long = "n".repeat(128);
        for name in ["", "a/b", "a\0", long.as_str()] {
            assert!(encode(name, 0, None).is_err(), "{name}");
        }
        let target = Target { kind: "crypt", sectors: 8, params: "a\0b" };
        assert!(encode("x", 0, Some(&target)).is_err());
    }

    #[test]
    fn minor_numbers_decode() {
        let mut buffer = vec![0u64; HEADER_BYTES / 8];
        buffer[5] = 0x0000_fd01;
        assert_eq!(minor(&buffer), 1);
        buffer[5] = 0x0010_fd02;
        assert_eq!(minor(&buffer), 0x102);
    }
}
