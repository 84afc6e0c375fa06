//! What a firmware file says about itself in its footer: where QEMU puts things, and what gets measured.
//!
//! Source: edk2 `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm` (footer table) and
//! `OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm`; QEMU `hw/i386/pc_sysfw_ovmf.c`. The table ends 32 bytes before the
//! end of the file and is read backwards: entries {data, u16 length, GUID}, the last of which is the footer itself.

use coffer_evidence::LaunchDigest;

use crate::PAGE_BYTES;
use crate::digest::Chain;

/// A firmware image's measured contents and its SEV-SNP metadata.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Firmware {
    image_digest: LaunchDigest,
    sections: Vec<Section>,
    hash_table: Option<HashTableArea>,
    reset_eip: u32,
}

/// A range of guest memory that the VMM has to hand to the AMD secure processor before launch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section {
    /// Guest physical address.
    pub gpa: u32,
    /// Bytes, a multiple of the page size.
    pub size: u32,
    /// What goes there.
    pub kind: SectionKind,
}

/// What a [`Section`] holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SectionKind {
    /// Type 1: zeroed memory that the firmware's first phase uses.
    SecMem,
    /// Type 2: the secrets page.
    Secrets,
    /// Type 3: the CPUID page.
    Cpuid,
    /// Type 4: the SVSM calling area, zeroed.
    SvsmCaa,
    /// Type 0x10: the page with the hash table, or zeros where there is no kernel.
    KernelHashes,
}

/// Where the firmware looks for the SEV hash table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashTableArea {
    /// Guest physical address.
    pub gpa: u32,
    /// Bytes reserved there.
    pub size: u32,
}

/// Why bytes are not a firmware image that can be launched under SEV-SNP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FirmwareError {
    /// Empty, not whole pages, or more than fits below 4 GiB.
    #[error("firmware is {got} bytes long, which is not a whole number of {PAGE_BYTES}-byte pages between 4 KiB and 64 MiB")]
    Size {
        /// Bytes given.
        got: usize,
    },
    /// No footer table: not an OVMF build, or its end is missing.
    #[error("firmware does not end in an OVMF footer table")]
    NoFooter,
    /// The footer table is malformed.
    #[error("firmware's footer table is malformed {at} bytes before its end: {why}")]
    Footer {
        /// Distance from the end of the table in bytes.
        at: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// The table lacks an entry that SEV-SNP needs.
    #[error("firmware's footer table has no {what} entry: it was not built for SEV-SNP")]
    Missing {
        /// Which entry.
        what: &'static str,
    },
    /// The SEV metadata is malformed.
    #[error("firmware's SEV metadata is malformed: {why}")]
    Metadata {
        /// What is wrong.
        why: &'static str,
    },
    /// A section kind this build does not know.
    #[error("firmware's SEV metadata names section type {got}, this build reads 1 to 4 and 16")]
    SectionKind {
        /// The type given.
        got: u32,
    },
}

impl Firmware {
    /// The largest image accepted, in bytes; OVMF builds are 2 to 16 MiB.
    pub const MAX_BYTES: usize = 64 << 20;
    /// The most memory all sections may cover together, in bytes; OVMF's cover less than 1 MiB.
    pub const MAX_SECTION_BYTES: u64 = 64 << 20;

    /// Reads the footer of an image and measures it.
    ///
    /// # Errors
    /// See [`FirmwareError`]. Total: any bytes give an image or an error.
    pub fn parse(image: &[u8]) -> Result<Self, FirmwareError> {
        if image.is_empty() || !image.len().is_multiple_of(PAGE_BYTES) || image.len() > Self::MAX_BYTES {
            return Err(FirmwareError::Size { got: image.len() });
        }
        let footer = Footer::parse(image)?;
        let reset = footer.reset_block.and_then(|d| u32_at(d, 0)).ok_or(FirmwareError::Missing { what: "SEV-ES reset block" })?;
        let metadata = footer.metadata.and_then(|d| u32_at(d, 0)).ok_or(FirmwareError::Missing { what: "SEV metadata" })?;
        let hash_table = footer.hash_table.and_then(|d| Some(HashTableArea { gpa: u32_at(d, 0)?, size: u32_at(d, 4)? }));
        let sections = parse_metadata(image, metadata)?;
        let mut chain = Chain::new();
        // The image ends at 4 GiB.
        chain.normal((1 << 32) - image.len() as u64, image);
        Ok(Self { image_digest: chain.0, sections, hash_table: hash_table.filter(|area| area.gpa != 0), reset_eip: reset })
    }

    /// From an image digest computed earlier and what its footer said.
    #[must_use]
    pub fn from_parts(image_digest: LaunchDigest, sections: Vec<Section>, hash_table: Option<HashTableArea>, reset_eip: u32) -> Self {
        Self { image_digest, sections, hash_table, reset_eip }
    }

    /// The launch digest after the image's own pages.
    #[must_use]
    pub fn image_digest(&self) -> LaunchDigest {
        self.image_digest
    }

    /// The metadata sections, in file order, which is the order of measurement.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Where the hash table goes; `None` if this firmware boots without one.
    #[must_use]
    pub fn hash_table_area(&self) -> Option<HashTableArea> {
        self.hash_table
    }

    /// Where application processors start.
    #[must_use]
    pub fn reset_eip(&self) -> u32 {
        self.reset_eip
    }
}

impl SectionKind {
    /// The kind with this number in the metadata.
    ///
    /// # Errors
    /// [`FirmwareError::SectionKind`] for a number with no known meaning.
    pub fn from_number(number: u32) -> Result<Self, FirmwareError> {
        match number {
            1 => Ok(Self::SecMem),
            2 => Ok(Self::Secrets),
            3 => Ok(Self::Cpuid),
            4 => Ok(Self::SvsmCaa),
            0x10 => Ok(Self::KernelHashes),
            got => Err(FirmwareError::SectionKind { got }),
        }
    }
}

/// A GUID in the mixed-endian form of UEFI tables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Guid(pub(crate) [u8; 16]);

impl Guid {
    /// Reads `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`; for constants, so a typing error fails the compilation.
    pub(crate) const fn parse(text: &str) -> Self {
        /// Which text digit pair each byte comes from: the first three groups are little-endian.
        const ORDER: [usize; 16] = [6, 4, 2, 0, 11, 9, 16, 14, 19, 21, 24, 26, 28, 30, 32, 34];
        let text = text.as_bytes();
        let mut bytes = [0; 16];
        let mut i = 0;
        while i < 16 {
            bytes[i] = digit(text[ORDER[i]]) << 4 | digit(text[ORDER[i] + 1]);
            i += 1;
        }
        Self(bytes)
    }
}

const fn digit(c: u8) -> u8 {
    match c {
        b'0'..=b'9' => c - b'0',
        b'a'..=b'f' => c - b'a' + 10,
        _ => panic!("a GUID constant has a character that is not a lower-case hexadecimal digit"),
    }
}

const FOOTER: Guid = Guid::parse("96b582de-1fb2-45f7-baea-a366c55a082d");
const HASH_TABLE: Guid = Guid::parse("7255371f-3a3b-4b04-927b-1da6efa8d454");
const RESET_BLOCK: Guid = Guid::parse("00f771de-1a7e-4fcb-890e-68c77e2fb44e");
const METADATA: Guid = Guid::parse("dc886566-984a-4798-a75e-5585a7bf67cc");

/// u16 length and GUID at the end of each footer entry.
const ENTRY_HEADER_BYTES: usize = 2 + 16;
/// What follows the table: the reset vector code.
const AFTER_TABLE_BYTES: usize = 32;
/// "ASEV", length, version, number of sections.
const METADATA_HEADER_BYTES: usize = 16;
const SECTION_BYTES: usize = 12;

/// The data of the entries this crate reads.
#[derive(Default)]
struct Footer<'a> {
    hash_table: Option<&'a [u8]>,
    reset_block: Option<&'a [u8]>,
    metadata: Option<&'a [u8]>,
}

impl<'a> Footer<'a> {
    fn parse(image: &'a [u8]) -> Result<Self, FirmwareError> {
        let table_end = image.len().checked_sub(AFTER_TABLE_BYTES).ok_or(FirmwareError::NoFooter)?;
        let (rest, length, guid) = split_header(&image[..table_end]).ok_or(FirmwareError::NoFooter)?;
        if guid != FOOTER {
            return Err(FirmwareError::NoFooter);
        }
        let malformed = |at, why| FirmwareError::Footer { at, why };
        let table_bytes = length.checked_sub(ENTRY_HEADER_BYTES).ok_or(malformed(0, "its length is shorter than its header"))?;
        let start = rest.len().checked_sub(table_bytes).ok_or(malformed(0, "it begins before the file"))?;
        let mut table = &rest[start..];
        let whole = table.len();
        let mut footer = Self::default();
        while let Some((before, length, guid)) = split_header(table) {
            let at = whole - table.len();
            let data = length.checked_sub(ENTRY_HEADER_BYTES).ok_or(malformed(at, "an entry is shorter than its header"))?;
            let start = before.len().checked_sub(data).ok_or(malformed(at, "an entry begins before the table"))?;
            let slot = match guid {
                HASH_TABLE => Some(&mut footer.hash_table),
                RESET_BLOCK => Some(&mut footer.reset_block),
                METADATA => Some(&mut footer.metadata),
                _ => None,
            };
            if let Some(slot) = slot
                && slot.replace(&before[start..]).is_some()
            {
                return Err(malformed(at, "an entry is repeated"));
            }
            table = &before[..start];
        }
        Ok(footer)
    }
}

/// Splits the trailing {u16 length, GUID} off `table`.
fn split_header(table: &[u8]) -> Option<(&[u8], usize, Guid)> {
    let (rest, guid) = table.split_last_chunk::<16>()?;
    let (before, length) = rest.split_last_chunk::<2>()?;
    Some((before, u16::from_le_bytes(*length).into(), Guid(*guid)))
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?.first_chunk::<4>().map(|b| u32::from_le_bytes(*b))
}

fn parse_metadata(image: &[u8], offset_from_end: u32) -> Result<Vec<Section>, FirmwareError> {
    let malformed = |why| FirmwareError::Metadata { why };
    let start = image.len().checked_sub(offset_from_end as usize).ok_or(malformed("it begins before the file"))?;
    let metadata = &image[start..];
    let word = |at| u32_at(metadata, at).ok_or(malformed("it is cut off"));
    if !metadata.starts_with(b"ASEV") {
        return Err(malformed("its signature is not ASEV"));
    }
    let (length, version, count) = (word(4)? as usize, word(8)?, word(12)? as usize);
    if version != 1 {
        return Err(malformed("its version is not 1"));
    }
    let items = metadata.get(METADATA_HEADER_BYTES..length).ok_or(malformed("its length is wrong"))?;
    let mut items = items.chunks_exact(SECTION_BYTES);
    if items.len() < count {
        return Err(malformed("it names more sections than it holds"));
    }
    let mut sections = Vec::with_capacity(count);
    let mut covered = 0;
    for item in items.by_ref().take(count) {
        let field = |at| u32_at(item, at).ok_or(malformed("a section is cut off"));
        let section = Section { gpa: field(0)?, size: field(4)?, kind: SectionKind::from_number(field(8)?)? };
        if !(section.gpa as usize).is_multiple_of(PAGE_BYTES) || !(section.size as usize).is_multiple_of(PAGE_BYTES) {
            return Err(malformed("a section is not page-aligned"));
        }
        covered += u64::from(section.size);
        sections.push(section);
    }
    if covered > Firmware::MAX_SECTION_BYTES {
        return Err(malformed("its sections cover more than 64 MiB"));
    }
    Ok(sections)
}

#[cfg(test)]
mod tests;
