//! The certificates that come with a report, and the GHCB table a host hands them over in.

use core::fmt;
use core::str::FromStr;

/// A 16-byte GUID. In a certificate table its bytes are in the order of its text, not mixed-endian.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(pub [u8; 16]);

/// Lower case, `8-4-4-4-12`.
impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            let dash = if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guid({self})")
    }
}

/// The text is not a lower-case GUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{got}` is not a lower-case GUID")]
pub struct NotGuid {
    /// The offending text, shortened to 80 characters.
    pub got: String,
}

impl FromStr for Guid {
    type Err = NotGuid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || NotGuid { got: text.chars().take(80).collect() };
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let guid = Self(crate::parse_hex("GUID", &digits).map_err(|_| refuse())?);
        if guid.to_string() == text { Ok(guid) } else { Err(refuse()) }
    }
}

/// What an entry of a certificate table holds.
///
/// Source: AMD 56421, "SEV-ES Guest-Hypervisor Communication Block Standardization", section "SNP Extended Guest
/// Request", and the wire JSON of stock attesters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CertKind {
    /// Key of this chip at this TCB.
    Vcek,
    /// Key a cloud provider loaded.
    Vlek,
    /// AMD SEV signing key, the intermediate.
    Ask,
    /// AMD root key.
    Ark,
    /// Revocation list.
    Crl,
    /// No certificate: the end of a table.
    Empty,
    /// Something else.
    Other(Guid),
}

impl CertKind {
    const KNOWN: [(Self, [u8; 16]); 6] = [
        (Self::Vcek, 0x63da758d_e664_4564_adc5_f4b93be8accd_u128.to_be_bytes()),
        (Self::Vlek, 0xa8074bc2_a25a_483e_aae6_39c045a0b8a1_u128.to_be_bytes()),
        (Self::Ask, 0x4ab7b379_bbac_4fe4_a02f_05aef327c782_u128.to_be_bytes()),
        (Self::Ark, 0xc0b406a4_a803_4952_9743_3fb6014cd0ae_u128.to_be_bytes()),
        (Self::Crl, 0x92f81bc3_5811_4d3d_97ff_d19f88dc67ea_u128.to_be_bytes()),
        (Self::Empty, [0; 16]),
    ];

    /// The kind a GUID stands for.
    #[must_use]
    pub fn of_guid(guid: Guid) -> Self {
        let known = Self::KNOWN.into_iter().find(|(_, bytes)| *bytes == guid.0);
        known.map_or(Self::Other(guid), |(kind, _)| kind)
    }

    /// The GUID that stands for this kind.
    #[must_use]
    pub fn guid(self) -> Guid {
        let known = Self::KNOWN.into_iter().find(|(kind, _)| *kind == self);
        match (known, self) {
            (Some((_, bytes)), _) => Guid(bytes),
            (None, Self::Other(guid)) => guid,
            (None, _) => Guid([0; 16]),
        }
    }
}

/// One certificate beside a report, unparsed: DER, or PEM where a host's operator filled in a PEM file.
#[derive(Clone, PartialEq, Eq)]
pub struct CertEntry {
    /// What the host says it is.
    pub kind: CertKind,
    /// The bytes as they came.
    pub data: Vec<u8>,
}

impl fmt::Debug for CertEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertEntry({:?}, {} bytes)", self.kind, self.data.len())
    }
}

/// Most entries a table or a wire JSON may have. The standard knows five kinds.
pub const MAX_ENTRIES: usize = 16;

/// Most bytes a certificate or CRL may have. AMD's are about 1.7 kB.
pub const MAX_ENTRY_LEN: usize = 64 * 1024;

/// A host's certificate table is damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertTableError {
    /// The all-zero entry that ends a table is missing, or there are more than [`MAX_ENTRIES`] before it.
    #[error("certificate table of {len} bytes has no end within {max} entries", max = MAX_ENTRIES)]
    Unterminated {
        /// Length of the table in bytes.
        len: usize,
    },
    /// An entry lies outside the table or is longer than [`MAX_ENTRY_LEN`].
    #[error("certificate table entry {guid} has offset {offset} and length {length}, the table has {len} bytes")]
    Range {
        /// Which entry.
        guid: Guid,
        /// Its offset from the start of the table.
        offset: u32,
        /// Its length in bytes.
        length: u32,
        /// Length of the table in bytes.
        len: usize,
    },
}

/// Bytes of an entry: GUID, u32 offset, u32 length, both little-endian.
const ENTRY_LEN: usize = 24;

/// Reads the table SNP_GET_EXT_REPORT or configfs-tsm's `auxblob` returns. An empty buffer is an empty table.
///
/// # Errors
/// See [`CertTableError`]. The certificates themselves are not looked at.
pub fn parse_cert_table(table: &[u8]) -> Result<Vec<CertEntry>, CertTableError> {
    let mut entries = Vec::new();
    if table.is_empty() {
        return Ok(entries);
    }
    let len = table.len();
    for entry in table.chunks_exact(ENTRY_LEN).take(MAX_ENTRIES + 1) {
        let guid = Guid(core::array::from_fn(|i| entry[i]));
        let offset = u32::from_le_bytes(core::array::from_fn(|i| entry[16 + i]));
        let length = u32::from_le_bytes(core::array::from_fn(|i| entry[20 + i]));
        let kind = CertKind::of_guid(guid);
        if kind == CertKind::Empty {
            return Ok(entries);
        }
        let (start, size) = (offset as usize, length as usize);
        let data = start.checked_add(size).and_then(|end| table.get(start..end));
        match data {
            Some(data) if size <= MAX_ENTRY_LEN => entries.push(CertEntry { kind, data: data.to_vec() }),
            _ => return Err(CertTableError::Range { guid, offset, length, len }),
        }
    }
    Err(CertTableError::Unterminated { len })
}

/// Writes a table: entries, an all-zero entry, then the certificates in the same order.
///
/// # Errors
/// [`CertTableError::Range`] where an entry is longer than [`MAX_ENTRY_LEN`], [`CertTableError::Unterminated`] where
/// there are more than [`MAX_ENTRIES`].
pub fn build_cert_table(entries: &[CertEntry]) -> Result<Vec<u8>, CertTableError> {
    let head = ENTRY_LEN * (entries.len() + 1);
    if entries.len() > MAX_ENTRIES {
        return Err(CertTableError::Unterminated { len: head });
    }
    let (mut table, mut data) = (Vec::with_capacity(head), Vec::new());
    for entry in entries {
        let guid = entry.kind.guid();
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (offset, length) = (number(head + data.len()), number(entry.data.len()));
        if entry.data.len() > MAX_ENTRY_LEN {
            return Err(CertTableError::Range { guid, offset, length, len: head });
        }
        table.extend_from_slice(&guid.0);
        table.extend_from_slice(&offset.to_le_bytes());
        table.extend_from_slice(&length.to_le_bytes());
        data.extend_from_slice(&entry.data);
    }
    table.resize(head, 0);
    table.append(&mut data);
    Ok(table)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn guids_are_in_text_order() {
        let vcek = CertKind::Vcek.guid();
        assert_eq!(vcek.to_string(), "63da758d-e664-4564-adc5-f4b93be8accd");
        assert_eq!(vcek.0[..4], [0x63, 0xda, 0x75, 0x8d]);
        assert_eq!("63da758d-e664-4564-adc5-f4b93be8accd".parse(), Ok(vcek));
        for wrong in ["", "63DA758d-e664-4564-adc5-f4b93be8accd", "63da758de6644564adc5f4b93be8accd", "é"] {
            assert!(wrong.parse::<Guid>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn entries_outside_the_table_are_refused() {
        let good = build_cert_table(&[CertEntry { kind: CertKind::Ask, data: vec![7; 100] }]).unwrap();
        assert_eq!(parse_cert_table(&good).unwrap()[0].data, [7; 100]);
        for (at, value) in [(16, 49_u32), (16, u32::MAX), (20, 101), (20, u32::MAX)] {
            let mut bad = good.clone();
            bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
            assert!(matches!(parse_cert_table(&bad), Err(CertTableError::Range { .. })), "{at} {value}");
        }
        assert_eq!(
            parse_cert_table(&good[..40]),
            Err(CertTableError::Range { guid: CertKind::Ask.guid(), offset: 48, length: 100, len: 40 })
        );
        assert_eq!(parse_cert_table(&[0; 23]), Err(CertTableError::Unterminated { len: 23 }));
        let endless = [&[1_u8; 16][..], &[0; 8]].concat().repeat(MAX_ENTRIES + 1);
        assert_eq!(parse_cert_table(&endless), Err(CertTableError::Unterminated { len: endless.len() }));
    }

    #[test]
    fn absent_certificates_are_no_error() {
        assert_eq!(parse_cert_table(&[]), Ok(vec![]));
        assert_eq!(parse_cert_table(&[0; 4096]), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn parsing_is_total(table in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse_cert_table(&table);
        }

        #[test]
        fn tables_round_trip(entries in proptest::collection::vec((1_u8.., proptest::collection::vec(any::<u8>(), 0..200)), 0..8)) {
            let entries: Vec<CertEntry> = entries
                .into_iter()
                .map(|(id, data)| CertEntry { kind: CertKind::of_guid(Guid([id; 16])), data })
                .collect();
            prop_assert_eq!(parse_cert_table(&build_cert_table(&entries).unwrap()).unwrap(), entries);
        }
    }
}
