//! Reading an image that a host or a guest may have written: every offset is checked, nothing is trusted.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{MAGIC, MAX_VIRTUAL_BYTES, Qcow2Error};

/// Bytes of the header that are read: all of version 2, and the feature bits of version 3.
const HEADER_BYTES: usize = 104;
/// The longest L1 table that is read, in entries: QEMU's own limit, 32 MiB.
const MAX_L1_ENTRIES: u64 = 4 << 20;
/// Incompatible feature bit 0: refcounts may be stale, data is not.
const DIRTY: u64 = 1;
/// Bits 9–55 of L1 and L2 entries: an offset in the file.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bit 62 of an L2 entry.
const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of an L2 entry in version 3: reads as zeros whatever the offset says.
const ZERO: u64 = 1;

/// A qcow2 image (version 2 or 3, no backing file, no encryption, no compression), opened for reading.
#[derive(Debug)]
pub struct Reader {
    file: File,
    file_size: u64,
    virtual_size: u64,
    cluster_bits: u32,
    version: u32,
    l1: Vec<u64>,
}

impl Reader {
    /// Opens an image.
    ///
    /// # Errors
    /// [`Qcow2Error::Format`] names the field that is out of order, [`Qcow2Error::Size`], [`Qcow2Error::Io`].
    pub fn open(path: &Path) -> Result<Self, Qcow2Error> {
        Self::new(File::open(path).map_err(Qcow2Error::io("open qcow2 image"))?)
    }

    /// Reads an image's header and L1 table.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn new(file: File) -> Result<Self, Qcow2Error> {
        let file_size = file.metadata().map_err(Qcow2Error::io("read qcow2 image"))?.len();
        let mut head = [0; HEADER_BYTES];
        let got = read_some_at(&file, &mut head, 0)?;
        expect("size of the file", got as u64, got >= 72, "at least 72 bytes")?;
        let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
        expect("magic", word(0).into(), word(0) == MAGIC, "0x514649fb")?;
        let version = word(4);
        expect("version", version.into(), matches!(version, 2 | 3), "2 or 3")?;
        expect("backing file", long(8), long(8) == 0, "none")?;
        let cluster_bits = word(20);
        expect("cluster bits", cluster_bits.into(), (9..=21).contains(&cluster_bits), "9 to 21")?;
        let virtual_size = long(24);
        if virtual_size == 0 || virtual_size > MAX_VIRTUAL_BYTES {
            return Err(Qcow2Error::Size { got: virtual_size });
        }
        expect("encryption", word(32).into(), word(32) == 0, "none")?;
        if version == 3 {
            let features = long(72);
            expect("incompatible features", features, features & !DIRTY == 0, "none but dirty")?;
        }
        let needed = virtual_size.div_ceil(1 << cluster_bits).div_ceil(1 << (cluster_bits - 3));
        expect("L1 entries needed", needed, needed <= MAX_L1_ENTRIES, "at most 4194304")?;
        let entries = u64::from(word(36));
        expect("L1 entries", entries, entries >= needed, "enough for the disk")?;
        let l1 = read_words(&file, file_size, long(40), needed, "L1 table")?;
        Ok(Self { file, file_size, virtual_size, cluster_bits, version, l1 })
    }

    /// Size of the disk in bytes.
    #[must_use]
    pub fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// Reads exactly `out.len()` bytes of the disk at `offset`.
    ///
    /// # Errors
    /// See [`Qcow2Error`]; reading past the end is an error.
    pub fn read_exact_at(&self, out: &mut [u8], offset: u64) -> Result<(), Qcow2Error> {
        let end = offset.checked_add(out.len() as u64);
        expect("end of the read", end.unwrap_or(u64::MAX), end.is_some_and(|end| end <= self.virtual_size), "within the disk")?;
        let mut at = offset;
        let mut out = out;
        while !out.is_empty() {
            let within = at % self.cluster();
            let len = (self.cluster() - within).min(out.len() as u64) as usize;
            let (now, later) = out.split_at_mut(len);
            match self.place(&self.table(at)?, at)? {
                Some(place) => self.fill(now, place + within)?,
                None => now.fill(0),
            }
            at += len as u64;
            out = later;
        }
        Ok(())
    }

    /// Writes the disk as a raw, sparse file of its size, and no more data than the image's file has: one in which a cluster
    /// stands for many could fill its reader's disk.
    ///
    /// # Errors
    /// See [`Qcow2Error`].
    pub fn copy_to(&self, raw: &mut File) -> Result<(), Qcow2Error> {
        let io = Qcow2Error::io;
        raw.set_len(self.virtual_size).map_err(io("write raw disk"))?;
        let mut buffer = vec![0; self.cluster() as usize];
        let per_table = self.cluster() << (self.cluster_bits - 3);
        let most = self.file_size.saturating_add(self.cluster());
        let mut copied = 0;
        for start in (0..self.virtual_size).step_by(per_table as usize) {
            let table = self.table(start)?;
            if table.is_empty() {
                continue;
            }
            for at in (start..(start + per_table).min(self.virtual_size)).step_by(buffer.len()) {
                let Some(place) = self.place(&table, at)? else { continue };
                let len = buffer.len().min((self.virtual_size - at) as usize);
                copied += len as u64;
                expect("data", copied, copied <= most, "no more than the file holds")?;
                self.fill(&mut buffer[..len], place)?;
                raw.seek(SeekFrom::Start(at)).map_err(io("write raw disk"))?;
                raw.write_all(&buffer[..len]).map_err(io("write raw disk"))?;
            }
        }
        Ok(())
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The L2 table that covers `at`; empty if there is none.
    fn table(&self, at: u64) -> Result<Vec<u64>, Qcow2Error> {
        let index = at >> (2 * self.cluster_bits - 3);
        match self.l1.get(index as usize).map_or(0, |entry| entry & OFFSET_MASK) {
            0 => Ok(Vec::new()),
            offset => read_words(&self.file, self.file_size, offset, self.cluster() / 8, "L2 table"),
        }
    }

    /// Where the cluster of `at` lies in the file; `None` reads as zeros.
    fn place(&self, table: &[u64], at: u64) -> Result<Option<u64>, Qcow2Error> {
        let slot = (at >> self.cluster_bits) & ((1 << (self.cluster_bits - 3)) - 1);
        let entry = table.get(slot as usize).copied().unwrap_or(0);
        expect("L2 entry", entry, entry & COMPRESSED == 0, "not compressed")?;
        if entry & OFFSET_MASK == 0 || (self.version == 3 && entry & ZERO != 0) {
            return Ok(None);
        }
        let place = entry & OFFSET_MASK;
        expect("data cluster", place, place < self.file_size, "within the file")?;
        Ok(Some(place))
    }

    /// Reads from the file; a last cluster that was cut short reads as zeros, as in QEMU.
    fn fill(&self, out: &mut [u8], place: u64) -> Result<(), Qcow2Error> {
        let got = read_some_at(&self.file, out, place)?;
        out[got..].fill(0);
        Ok(())
    }
}

fn expect(what: &'static str, got: u64, holds: bool, expected: &'static str) -> Result<(), Qcow2Error> {
    if holds { Ok(()) } else { Err(Qcow2Error::Format { what, got, expected }) }
}

/// Reads until `out` is full or the file ends.
fn read_some_at(file: &File, out: &mut [u8], offset: u64) -> Result<usize, Qcow2Error> {
    let mut done = 0;
    while done < out.len() {
        match file.read_at(&mut out[done..], offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Qcow2Error::Io { what: "read qcow2 image", source }),
        }
    }
    Ok(done)
}

/// A table of `count` big-endian words that must lie within the file.
fn read_words(file: &File, size: u64, offset: u64, count: u64, what: &'static str) -> Result<Vec<u64>, Qcow2Error> {
    let end = count.checked_mul(8).and_then(|bytes| bytes.checked_add(offset));
    expect(what, offset, end.is_some_and(|end| end <= size), "within the file")?;
    let mut bytes = vec![0; count as usize * 8];
    let got = read_some_at(file, &mut bytes, offset)?;
    expect(what, offset, got == bytes.len(), "within the file")?;
    Ok(bytes.chunks_exact(8).map(|w| w.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))).collect())
}
