//! Sparse qcow2 images, written in one pass, and read without trusting them.
//!
//! Source: QEMU's docs/interop/qcow2.rst, version 3. All integers are big-endian. Clusters are 64 KiB; the writer lays out
//! header · L1 table · data clusters in disk order · L2 tables · refcount blocks · refcount table, and sets no feature bits.

mod reader;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

pub use reader::Reader;

/// `QFI\xfb`.
const MAGIC: u32 = 0x5146_49fb;
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of 8 bytes in a cluster: L2 entries, refcount table entries.
const ENTRIES: u64 = CLUSTER / 8;
/// 16-bit refcounts in a cluster.
const REFCOUNTS: u64 = CLUSTER / 2;
/// Bit 63 of L1 and L2 entries: the cluster is referred to exactly once.
const COPIED: u64 = 1 << 63;
/// Header of version 3 without optional fields, in bytes.
const HEADER_BYTES: u32 = 104;
/// The L1 table follows the header's cluster.
const FIRST_TABLE: u64 = 1;
/// The largest disk, in bytes: 8 TiB keeps the L1 table at 16384 entries, within QEMU's 32 MiB.
pub const MAX_VIRTUAL_BYTES: u64 = 8 << 40;

/// A qcow2 image could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Qcow2Error {
    /// Reading or writing failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A disk of this size cannot be written or read.
    #[error("a qcow2 disk of {got} bytes is not possible, sizes are multiples of 512 from 512 to {MAX_VIRTUAL_BYTES}")]
    Size {
        /// The size asked for or found, in bytes.
        got: u64,
    },
    /// Data does not belong there: outside the disk, out of order or not announced.
    #[error("{len} bytes at {offset} lie outside the ranges of the qcow2 disk")]
    Range {
        /// Where the data was to go, in bytes.
        offset: u64,
        /// How much.
        len: u64,
    },
    /// The file is not a qcow2 image this build reads.
    #[error("not a readable qcow2 image: {what} is {got}, expected {expected}")]
    Format {
        /// Which field.
        what: &'static str,
        /// What it holds.
        got: u64,
        /// What it may hold.
        expected: &'static str,
    },
}

impl Qcow2Error {
    fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// Writes a disk of which it is known beforehand where data will lie; the rest reads as zeros and takes no space.
///
/// Each range's clusters lie together in the file, so that writers on all cores need no lock and no table.
#[derive(Debug)]
pub struct Writer<'a> {
    file: &'a File,
    extents: Vec<Extent>,
}

/// Neighbouring clusters of the disk that are neighbours in the file too.
#[derive(Debug)]
struct Extent {
    /// Clusters of the disk.
    clusters: Range<u64>,
    /// First cluster of the file.
    place: u64,
}

impl<'a> Writer<'a> {
    /// Starts an image in an empty file: writes every table. `ranges` are bytes of the disk, in order and without overlap.
    ///
    /// # Errors
    /// [`Qcow2Error::Size`], [`Qcow2Error::Range`], [`Qcow2Error::Io`].
    pub fn create(file: &'a File, virtual_size: u64, ranges: &[Range<u64>]) -> Result<Self, Qcow2Error> {
        if virtual_size == 0 || !virtual_size.is_multiple_of(512) || virtual_size > MAX_VIRTUAL_BYTES {
            return Err(Qcow2Error::Size { got: virtual_size });
        }
        let mut extents: Vec<Extent> = Vec::with_capacity(ranges.len());
        let (mut place, mut end) = (FIRST_TABLE + l1_entries(virtual_size).div_ceil(ENTRIES), 0);
        for range in ranges {
            if range.start < end || range.is_empty() || range.end > virtual_size {
                return Err(Qcow2Error::Range { offset: range.start, len: range.end.saturating_sub(range.start) });
            }
            end = range.end;
            // Two ranges may share a cluster; it belongs to the first.
            let taken = extents.last().map_or(0, |extent| extent.clusters.end);
            let clusters = (range.start / CLUSTER).max(taken)..range.end.div_ceil(CLUSTER);
            let count = clusters.end - clusters.start;
            extents.push(Extent { clusters, place });
            place += count;
        }
        let writer = Self { file, extents };
        writer.write_tables(virtual_size, place)?;
        Ok(writer)
    }

    /// Writes `data` at `offset` of the disk. Any order, any thread.
    ///
    /// # Errors
    /// [`Qcow2Error::Range`] if a byte lies outside the clusters of the ranges given to [`Self::create`], [`Qcow2Error::Io`].
    pub fn write_all_at(&self, mut data: &[u8], mut offset: u64) -> Result<(), Qcow2Error> {
        while !data.is_empty() {
            let cluster = offset / CLUSTER;
            let outside = Qcow2Error::Range { offset, len: data.len() as u64 };
            let extent = self.extents.iter().find(|extent| extent.clusters.contains(&cluster)).ok_or(outside)?;
            let room = extent.clusters.end * CLUSTER - offset;
            let (now, later) = data.split_at(usize::try_from(room).unwrap_or(usize::MAX).min(data.len()));
            let at = (extent.place + cluster - extent.clusters.start) * CLUSTER + offset % CLUSTER;
            self.file.write_all_at(now, at).map_err(Qcow2Error::io("write qcow2 image"))?;
            offset += now.len() as u64;
            data = later;
        }
        Ok(())
    }

    /// Makes the image durable.
    ///
    /// # Errors
    /// [`Qcow2Error::Io`].
    pub fn finish(self) -> Result<(), Qcow2Error> {
        self.file.sync_data().map_err(Qcow2Error::io("sync qcow2 image"))
    }

    /// L2 tables, refcounts, L1 table and header; `free` is the first cluster of the file behind all data.
    fn write_tables(&self, virtual_size: u64, free: u64) -> Result<(), Qcow2Error> {
        let mut l2: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for extent in &self.extents {
            for (cluster, place) in extent.clusters.clone().zip(extent.place..) {
                let table = l2.entry(cluster / ENTRIES).or_insert_with(|| vec![0; ENTRIES as usize]);
                table[(cluster % ENTRIES) as usize] = (place * CLUSTER) | COPIED;
            }
        }
        let mut l1 = vec![0_u64; l1_entries(virtual_size) as usize];
        let mut tail = Vec::new();
        for ((index, entries), place) in l2.into_iter().zip(free..) {
            l1[index as usize] = (place * CLUSTER) | COPIED;
            tail.extend(big_endian(&entries));
        }
        let (table, table_clusters) = append_refcounts(&mut tail, free);
        let mut head = header(virtual_size, l1.len() as u32, table, table_clusters);
        head.resize((FIRST_TABLE * CLUSTER) as usize, 0);
        head.extend(big_endian(&l1));
        let io = Qcow2Error::io;
        self.file.write_all_at(&head, 0).map_err(io("write qcow2 image"))?;
        self.file.write_all_at(&tail, free * CLUSTER).map_err(io("write qcow2 image"))
    }
}

/// Appends refcount blocks, all ones, and their table to what lies in the file from cluster `free` on. They cover
/// every cluster of the file, themselves included. Returns the table's offset in bytes and its clusters.
fn append_refcounts(tail: &mut Vec<u8>, free: u64) -> (u64, u32) {
    let used = free + tail.len() as u64 / CLUSTER;
    let (mut blocks, mut table) = (0, 0);
    let total = loop {
        let total = used + blocks + table;
        let needed = total.div_ceil(REFCOUNTS);
        if (needed, needed.div_ceil(ENTRIES)) == (blocks, table) {
            break total;
        }
        (blocks, table) = (needed, needed.div_ceil(ENTRIES));
    };
    for block in 0..blocks {
        tail.extend([0, 1].repeat((total - block * REFCOUNTS).min(REFCOUNTS) as usize));
        tail.resize(tail.len().next_multiple_of(CLUSTER as usize), 0);
    }
    let place = (used + blocks) * CLUSTER;
    tail.extend(big_endian(&(used..used + blocks).map(|cluster| cluster * CLUSTER).collect::<Vec<_>>()));
    tail.resize(tail.len().next_multiple_of(CLUSTER as usize), 0);
    (place, table as u32)
}

/// One L1 entry for each L2 table's worth of disk.
fn l1_entries(virtual_size: u64) -> u64 {
    virtual_size.div_ceil(CLUSTER).div_ceil(ENTRIES)
}

fn big_endian(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// The version 3 header.
fn header(virtual_size: u64, l1_entries: u32, refcount_table: u64, refcount_clusters: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(CLUSTER as usize);
    let u32s = |out: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|value| out.extend(value.to_be_bytes()));
    u32s(&mut out, &[MAGIC, 3, 0, 0, 0, CLUSTER_BITS]); // no backing file
    out.extend(virtual_size.to_be_bytes());
    u32s(&mut out, &[0, l1_entries]); // no encryption
    out.extend((FIRST_TABLE * CLUSTER).to_be_bytes());
    out.extend(refcount_table.to_be_bytes());
    u32s(&mut out, &[refcount_clusters, 0]); // no snapshots
    out.extend([0; 32]); // snapshot table; incompatible, compatible, autoclear features
    u32s(&mut out, &[4, HEADER_BYTES]); // refcounts of 2^4 bits
    out
}

#[cfg(test)]
mod tests;
