//! The SNP attestation report: 1184 bytes, kept as they came, and what they say.

use core::fmt;
use core::ops::Range;

use crate::family::{Cpuid, Family};
use crate::tcb::{TcbLayout, TcbVersion};
use crate::{ChipId, HostData, KeyDigest, LaunchDigest, ReportData, ReportId};

/// Byte ranges of an ATTESTATION_REPORT, all integers little-endian.
///
/// Source: AMD 56860, "SEV Secure Nested Paging Firmware ABI Specification", table ATTESTATION_REPORT.
mod offset {
    use super::Range;

    pub const VERSION: usize = 0x000; // u32
    pub const GUEST_SVN: usize = 0x004; // u32, from the ID block
    pub const POLICY: usize = 0x008; // u64, chosen by the host at launch
    pub const FAMILY_ID: Range<usize> = 0x010..0x020; // from the ID block
    pub const IMAGE_ID: Range<usize> = 0x020..0x030; // from the ID block
    pub const VMPL: usize = 0x030; // u32, of the request
    pub const SIGNATURE_ALGO: usize = 0x034; // u32
    pub const CURRENT_TCB: usize = 0x038; // TCB_VERSION
    pub const PLATFORM_INFO: usize = 0x040; // u64
    pub const KEY_INFO: usize = 0x048; // u32
    pub const REPORT_DATA: Range<usize> = 0x050..0x090; // chosen by the guest
    pub const MEASUREMENT: Range<usize> = 0x090..0x0C0; // launch digest
    pub const HOST_DATA: Range<usize> = 0x0C0..0x0E0; // chosen by the host at launch
    pub const ID_KEY_DIGEST: Range<usize> = 0x0E0..0x110;
    pub const AUTHOR_KEY_DIGEST: Range<usize> = 0x110..0x140;
    pub const REPORT_ID: Range<usize> = 0x140..0x160; // random, of this guest's life
    pub const REPORT_ID_MA: Range<usize> = 0x160..0x180;
    pub const REPORTED_TCB: usize = 0x180; // TCB_VERSION the VCEK is derived from
    pub const CPUID_FAM_ID: usize = 0x188; // u8, from version 3
    pub const CPUID_MOD_ID: usize = 0x189; // u8, from version 3
    pub const CPUID_STEP: usize = 0x18A; // u8, from version 3
    pub const CHIP_ID: Range<usize> = 0x1A0..0x1E0;
    pub const COMMITTED_TCB: usize = 0x1E0; // TCB_VERSION
    pub const CURRENT_VERSION: usize = 0x1E8; // build, minor, major, one byte each
    pub const COMMITTED_VERSION: usize = 0x1EC; // build, minor, major, one byte each
    pub const LAUNCH_TCB: usize = 0x1F0; // TCB_VERSION
    pub const LAUNCH_MIT_VECTOR: usize = 0x1F8; // u64, from version 5
    pub const CURRENT_MIT_VECTOR: usize = 0x200; // u64, from version 5
    pub const SIGNED: Range<usize> = 0x000..0x2A0;
    pub const SIGNATURE_R: Range<usize> = 0x2A0..0x2E8; // little-endian, 72 bytes
    pub const SIGNATURE_S: Range<usize> = 0x2E8..0x330; // little-endian, 72 bytes
}

/// The bytes are no report this build reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Another length than [`Report::LEN`].
    #[error("attestation report is {got} bytes long, expected {expected}", expected = Report::LEN)]
    Length {
        /// How many bytes were given.
        got: usize,
    },
    /// A version whose layout this build does not know.
    #[error("attestation report has version {got}, this build reads 2, 3 and 5")]
    Version {
        /// The VERSION field.
        got: u32,
    },
}

/// The guest policy the host launched with (AMD 56860, table "Guest Policy Structure").
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GuestPolicy(pub u64);

impl GuestPolicy {
    /// Bit 16: SMT may be on.
    #[must_use]
    pub const fn smt_allowed(self) -> bool {
        self.0 >> 16 & 1 == 1
    }

    /// Bit 18: a migration agent may take the guest elsewhere.
    #[must_use]
    pub const fn migration_allowed(self) -> bool {
        self.0 >> 18 & 1 == 1
    }

    /// Bit 19: the host may read and write the guest's memory.
    #[must_use]
    pub const fn debug_allowed(self) -> bool {
        self.0 >> 19 & 1 == 1
    }

    /// Bit 20: the guest may run on one socket only.
    #[must_use]
    pub const fn single_socket(self) -> bool {
        self.0 >> 20 & 1 == 1
    }

    /// Bits 15–8 and 7–0: the lowest firmware ABI the guest accepts, (major, minor).
    #[must_use]
    pub const fn abi(self) -> (u8, u8) {
        let bytes = self.0.to_le_bytes();
        (bytes[1], bytes[0])
    }
}

/// Hexadecimal, as QEMU's `policy=` takes it.
impl fmt::Display for GuestPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for GuestPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuestPolicy({self})")
    }
}

/// Which key signed a report: KEY_INFO bits 4–2.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SigningKey {
    /// 0: derived from this chip's fuses.
    Vcek,
    /// 1: loaded by the cloud provider.
    Vlek,
    /// 7: the report is not signed.
    None,
    /// Any other value; reserved.
    Reserved(u8),
}

impl fmt::Display for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vcek => f.write_str("VCEK"),
            Self::Vlek => f.write_str("VLEK"),
            Self::None => f.write_str("none"),
            Self::Reserved(value) => write!(f, "reserved value {value}"),
        }
    }
}

/// KEY_INFO of a report: bit 0 AUTHOR_KEY_EN, bit 1 MASK_CHIP_KEY, bits 4–2 SIGNING_KEY.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeyInfo(pub u32);

impl KeyInfo {
    /// Whether AUTHOR_KEY_DIGEST means anything.
    #[must_use]
    pub const fn author_key_enabled(self) -> bool {
        self.0 & 1 == 1
    }

    /// Whether the platform was told not to sign with the VCEK.
    #[must_use]
    pub const fn chip_key_masked(self) -> bool {
        self.0 >> 1 & 1 == 1
    }

    /// Bits 31–5, which are reserved.
    #[must_use]
    pub const fn reserved(self) -> u32 {
        self.0 >> 5
    }

    /// Which key signed the report.
    #[must_use]
    pub const fn signing_key(self) -> SigningKey {
        match self.0 >> 2 & 7 {
            0 => SigningKey::Vcek,
            1 => SigningKey::Vlek,
            7 => SigningKey::None,
            other => SigningKey::Reserved(other as u8),
        }
    }
}

/// Version of the SNP firmware, `major.minor.build`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct FirmwareVersion {
    /// Major.
    pub major: u8,
    /// Minor.
    pub minor: u8,
    /// Build.
    pub build: u8,
}

impl fmt::Display for FirmwareVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.build)
    }
}

/// Everything a report says, field by field, reserved bytes left out.
///
/// Nothing in here has been verified. To make a report from fields, see [`ReportFields::encode`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReportFields {
    /// VERSION: 2, 3 or 5.
    pub version: u32,
    /// GUEST_SVN of the ID block.
    pub guest_svn: u32,
    /// POLICY the guest was launched with.
    pub policy: GuestPolicy,
    /// FAMILY_ID of the ID block.
    pub family_id: [u8; 16],
    /// IMAGE_ID of the ID block.
    pub image_id: [u8; 16],
    /// Privilege level the report was asked for, 0 is the highest.
    pub vmpl: u32,
    /// SIGNATURE_ALGO: 1 is ECDSA P-384 with SHA-384.
    pub signature_algo: u32,
    /// What runs now.
    pub current_tcb: TcbVersion,
    /// PLATFORM_INFO: SMT, TSME, ECC, RAPL, ciphertext hiding, alias check, from bit 0.
    pub platform_info: u64,
    /// KEY_INFO.
    pub key_info: KeyInfo,
    /// REPORT_DATA, chosen by the guest.
    pub report_data: ReportData,
    /// MEASUREMENT.
    pub measurement: LaunchDigest,
    /// HOST_DATA, chosen by the host at launch.
    pub host_data: HostData,
    /// SHA-384 of the ID key.
    pub id_key_digest: KeyDigest,
    /// SHA-384 of the author key; see [`KeyInfo::author_key_enabled`].
    pub author_key_digest: KeyDigest,
    /// REPORT_ID, random for one guest's life.
    pub report_id: ReportId,
    /// REPORT_ID of the migration agent; all ones without one.
    pub report_id_ma: ReportId,
    /// What the VCEK was derived from.
    pub reported_tcb: TcbVersion,
    /// CPUID of the processor; none before version 3.
    pub cpuid: Option<Cpuid>,
    /// CHIP_ID; zero if masked or signed by a VLEK.
    pub chip_id: ChipId,
    /// What the platform can no longer go below.
    pub committed_tcb: TcbVersion,
    /// SNP firmware that runs now.
    pub current_version: FirmwareVersion,
    /// SNP firmware the platform can no longer go below.
    pub committed_version: FirmwareVersion,
    /// What ran when the guest was launched.
    pub launch_tcb: TcbVersion,
    /// Mitigations at launch; none before version 5.
    pub launch_mit_vector: Option<u64>,
    /// Mitigations now; none before version 5.
    pub current_mit_vector: Option<u64>,
    /// R of the signature, little-endian.
    pub signature_r: [u8; 72],
    /// S of the signature, little-endian.
    pub signature_s: [u8; 72],
}

impl ReportFields {
    /// The layout of this report's TCB versions.
    ///
    /// From version 3 the CPUID says it. A version 2 report is Turin's if only the first 8 bytes of CHIP_ID are used,
    /// which is how stock attesters tell it.
    #[must_use]
    pub fn tcb_layout(&self) -> TcbLayout {
        tcb_layout(self.version, self.cpuid.map_or(0, |cpuid| cpuid.family), &self.chip_id)
    }

    /// The 1184 bytes, reserved ones zero.
    #[must_use]
    pub fn encode(&self) -> [u8; Report::LEN] {
        let layout = self.tcb_layout();
        let mut out = [0; Report::LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(offset::VERSION, &self.version.to_le_bytes());
        put(offset::GUEST_SVN, &self.guest_svn.to_le_bytes());
        put(offset::POLICY, &self.policy.0.to_le_bytes());
        put(offset::FAMILY_ID.start, &self.family_id);
        put(offset::IMAGE_ID.start, &self.image_id);
        put(offset::VMPL, &self.vmpl.to_le_bytes());
        put(offset::SIGNATURE_ALGO, &self.signature_algo.to_le_bytes());
        put(offset::CURRENT_TCB, &self.current_tcb.to_bytes(layout));
        put(offset::PLATFORM_INFO, &self.platform_info.to_le_bytes());
        put(offset::KEY_INFO, &self.key_info.0.to_le_bytes());
        put(offset::REPORT_DATA.start, self.report_data.as_bytes());
        put(offset::MEASUREMENT.start, self.measurement.as_bytes());
        put(offset::HOST_DATA.start, self.host_data.as_bytes());
        put(offset::ID_KEY_DIGEST.start, self.id_key_digest.as_bytes());
        put(offset::AUTHOR_KEY_DIGEST.start, self.author_key_digest.as_bytes());
        put(offset::REPORT_ID.start, self.report_id.as_bytes());
        put(offset::REPORT_ID_MA.start, self.report_id_ma.as_bytes());
        put(offset::REPORTED_TCB, &self.reported_tcb.to_bytes(layout));
        if let Some(cpuid) = self.cpuid {
            put(offset::CPUID_FAM_ID, &[cpuid.family, cpuid.model, cpuid.stepping]);
        }
        put(offset::CHIP_ID.start, self.chip_id.as_bytes());
        put(offset::COMMITTED_TCB, &self.committed_tcb.to_bytes(layout));
        put(offset::CURRENT_VERSION, &version_bytes(self.current_version));
        put(offset::COMMITTED_VERSION, &version_bytes(self.committed_version));
        put(offset::LAUNCH_TCB, &self.launch_tcb.to_bytes(layout));
        put(offset::LAUNCH_MIT_VECTOR, &self.launch_mit_vector.unwrap_or(0).to_le_bytes());
        put(offset::CURRENT_MIT_VECTOR, &self.current_mit_vector.unwrap_or(0).to_le_bytes());
        put(offset::SIGNATURE_R.start, &self.signature_r);
        put(offset::SIGNATURE_S.start, &self.signature_s);
        out
    }

    /// Reads the fields of a report whose version is known.
    fn decode(bytes: &[u8; Report::LEN]) -> Self {
        let version = u32_at(bytes, offset::VERSION);
        let chip_id = ChipId::new(array_at(bytes, offset::CHIP_ID.start));
        let layout = tcb_layout(version, bytes[offset::CPUID_FAM_ID], &chip_id);
        let tcb = |at| TcbVersion::from_bytes(layout, array_at(bytes, at));
        Self {
            version,
            guest_svn: u32_at(bytes, offset::GUEST_SVN),
            policy: GuestPolicy(u64_at(bytes, offset::POLICY)),
            family_id: array_at(bytes, offset::FAMILY_ID.start),
            image_id: array_at(bytes, offset::IMAGE_ID.start),
            vmpl: u32_at(bytes, offset::VMPL),
            signature_algo: u32_at(bytes, offset::SIGNATURE_ALGO),
            current_tcb: tcb(offset::CURRENT_TCB),
            platform_info: u64_at(bytes, offset::PLATFORM_INFO),
            key_info: KeyInfo(u32_at(bytes, offset::KEY_INFO)),
            report_data: ReportData::new(array_at(bytes, offset::REPORT_DATA.start)),
            measurement: LaunchDigest::new(array_at(bytes, offset::MEASUREMENT.start)),
            host_data: HostData::new(array_at(bytes, offset::HOST_DATA.start)),
            id_key_digest: KeyDigest::new(array_at(bytes, offset::ID_KEY_DIGEST.start)),
            author_key_digest: KeyDigest::new(array_at(bytes, offset::AUTHOR_KEY_DIGEST.start)),
            report_id: ReportId::new(array_at(bytes, offset::REPORT_ID.start)),
            report_id_ma: ReportId::new(array_at(bytes, offset::REPORT_ID_MA.start)),
            reported_tcb: tcb(offset::REPORTED_TCB),
            cpuid: (version >= 3).then(|| Cpuid {
                family: bytes[offset::CPUID_FAM_ID],
                model: bytes[offset::CPUID_MOD_ID],
                stepping: bytes[offset::CPUID_STEP],
            }),
            chip_id,
            committed_tcb: tcb(offset::COMMITTED_TCB),
            current_version: version_at(bytes, offset::CURRENT_VERSION),
            committed_version: version_at(bytes, offset::COMMITTED_VERSION),
            launch_tcb: tcb(offset::LAUNCH_TCB),
            launch_mit_vector: (version >= 5).then(|| u64_at(bytes, offset::LAUNCH_MIT_VECTOR)),
            current_mit_vector: (version >= 5).then(|| u64_at(bytes, offset::CURRENT_MIT_VECTOR)),
            signature_r: array_at(bytes, offset::SIGNATURE_R.start),
            signature_s: array_at(bytes, offset::SIGNATURE_S.start),
        }
    }
}

/// An attestation report as it was received: the bytes, and what they say. Nothing in it has been verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Report {
    bytes: Box<[u8; Self::LEN]>,
    fields: Box<ReportFields>,
}

impl Report {
    /// Length in bytes, of every version.
    pub const LEN: usize = 1184;

    /// The versions this build reads.
    pub const VERSIONS: [u32; 3] = [2, 3, 5];

    /// Takes exactly 1184 bytes of a known version.
    ///
    /// # Errors
    /// See [`ReportError`]. Every other field may hold anything: judging is the verifier's.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReportError> {
        let bytes: Box<[u8; Self::LEN]> = Box::new(bytes.try_into().map_err(|_| ReportError::Length { got: bytes.len() })?);
        let version = u32_at(&bytes, offset::VERSION);
        if !Self::VERSIONS.contains(&version) {
            return Err(ReportError::Version { got: version });
        }
        let fields = Box::new(ReportFields::decode(&bytes));
        Ok(Self { bytes, fields })
    }

    /// The bytes as they came.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.bytes
    }

    /// The bytes the signature covers, 0x000–0x29F.
    #[must_use]
    pub fn signed_bytes(&self) -> &[u8] {
        &self.bytes[offset::SIGNED]
    }

    /// What the bytes say.
    #[must_use]
    pub fn fields(&self) -> &ReportFields {
        &self.fields
    }

    /// Offset of the first reserved byte that is not zero, inside or after the signed part: what the stock wire JSON cannot carry.
    ///
    /// Reserved bits of a field are not looked at; the field keeps them.
    #[must_use]
    pub fn nonzero_reserved(&self) -> Option<usize> {
        // What fields do not hold, encoding them leaves zero.
        self.fields.encode().iter().zip(self.bytes.iter()).position(|(encoded, received)| encoded != received)
    }

    /// The family its CPUID names: none before version 3, and none for a CPUID this build does not know.
    #[must_use]
    pub fn family(&self) -> Option<Family> {
        self.fields.cpuid.and_then(Family::of_cpuid)
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Report").field(&self.fields).finish()
    }
}

fn tcb_layout(version: u32, cpuid_family: u8, chip_id: &ChipId) -> TcbLayout {
    let (used, rest) = chip_id.as_bytes().split_at(Family::Turin.hwid_len());
    let short_chip_id = rest.iter().all(|b| *b == 0) && used.iter().any(|b| *b != 0);
    if (version >= 3 && cpuid_family == 0x1A) || (version < 3 && short_chip_id) { TcbLayout::Turin } else { TcbLayout::Legacy }
}

/// The `N` bytes from `at`. Only called with ranges of [`offset`], all inside a report.
fn array_at<const N: usize>(bytes: &[u8; Report::LEN], at: usize) -> [u8; N] {
    core::array::from_fn(|i| bytes[at + i])
}

fn u32_at(bytes: &[u8; Report::LEN], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8; Report::LEN], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn version_at(bytes: &[u8; Report::LEN], at: usize) -> FirmwareVersion {
    let [build, minor, major] = array_at(bytes, at);
    FirmwareVersion { major, minor, build }
}

fn version_bytes(version: FirmwareVersion) -> [u8; 3] {
    [version.build, version.minor, version.major]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Offsets that no field of this version reads: what the wire JSON loses.
    fn reserved(version: u32, at: usize) -> bool {
        let mut holes = vec![0x4C..0x50, 0x18B..0x1A0, 0x1EB..0x1EC, 0x1EF..0x1F0, 0x208..0x2A0, 0x330..0x4A0];
        if version < 3 {
            holes.push(0x188..0x18B);
        }
        if version < 5 {
            holes.push(0x1F8..0x208);
        }
        holes.iter().any(|hole| hole.contains(&at))
    }

    #[test]
    fn only_known_versions_and_the_one_length() {
        for version in [0, 1, 4, 6, 0x0200_0000, u32::MAX] {
            let mut bytes = vec![0; Report::LEN];
            bytes[..4].copy_from_slice(&version.to_le_bytes());
            assert_eq!(Report::parse(&bytes), Err(ReportError::Version { got: version }));
        }
        for got in [0, 4, Report::LEN - 1, Report::LEN + 1] {
            assert_eq!(Report::parse(&vec![2; got]), Err(ReportError::Length { got }));
        }
    }

    #[test]
    fn policy_and_key_info_bits() {
        assert!(GuestPolicy(0xB_0000).debug_allowed());
        assert!(!GuestPolicy(0x3_0000).debug_allowed());
        assert!(GuestPolicy(0x7_0000).migration_allowed());
        assert!(GuestPolicy(0x3_0000).smt_allowed() && !GuestPolicy(0x2_0000).smt_allowed());
        assert!(GuestPolicy(0x10_0000).single_socket());
        assert_eq!(GuestPolicy(0x3_0137).abi(), (1, 0x37));
        assert_eq!(KeyInfo(0).signing_key(), SigningKey::Vcek);
        assert_eq!(KeyInfo(4).signing_key(), SigningKey::Vlek);
        assert_eq!(KeyInfo(0x1C).signing_key(), SigningKey::None);
        assert_eq!(KeyInfo(0x0B).signing_key(), SigningKey::Reserved(2));
        assert!(KeyInfo(3).author_key_enabled() && KeyInfo(3).chip_key_masked());
    }

    proptest! {
        #[test]
        fn parsing_is_total(bytes in proptest::collection::vec(any::<u8>(), 0..1300)) {
            let _ = Report::parse(&bytes);
        }

        /// Fields → bytes → fields loses nothing, and bytes → fields → bytes loses reserved bytes alone.
        #[test]
        fn fields_round_trip(
            mut bytes in proptest::collection::vec(any::<u8>(), Report::LEN),
            version in prop::sample::select(Report::VERSIONS.to_vec()),
            turin: bool,
        ) {
            bytes[..4].copy_from_slice(&version.to_le_bytes());
            bytes[0x188] = if turin { 0x1A } else { 0x19 };
            let report = Report::parse(&bytes).unwrap();
            let rebuilt = Report::parse(&report.fields().encode()).unwrap();
            prop_assert_eq!(report.fields(), rebuilt.fields());
            let tcbs = [0x38, 0x180, 0x1E0, 0x1F0];
            let holes = match report.fields().tcb_layout() { TcbLayout::Legacy => 2..6, TcbLayout::Turin => 4..7 };
            for (at, (before, after)) in bytes.iter().zip(rebuilt.as_bytes()).enumerate() {
                let hole = reserved(version, at) || tcbs.iter().any(|tcb| holes.contains(&at.wrapping_sub(*tcb)));
                prop_assert_eq!(*after, if hole { 0 } else { *before }, "offset {:#x}", at);
            }
            prop_assert_eq!(rebuilt.nonzero_reserved(), None);
            let first = bytes.iter().zip(rebuilt.as_bytes()).position(|(before, after)| before != after);
            prop_assert_eq!(report.nonzero_reserved(), first);
        }
    }
}
