//! A project's reference values: what evidence must be, apart from what an enrollment says. JSON, strict, closed by default.

use std::collections::BTreeMap;

use coffer_evidence::{ChipId, Family, FirmwareVersion, KeyDigest, Report, TcbVersion, VekKind};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

coffer_evidence::hex_bytes! {
    /// FAMILY_ID or IMAGE_ID of an ID block: 16 bytes, chosen by its author.
    BlockId, 16
}

/// What must be in `risk_accepted` for Milan to be taken: the paper that extracts its VCEK seed, so that a report signed by a Milan
/// VCEK may come from anywhere.
pub const MILAN_RISK: &str = "arXiv 2605.12990";

/// A project's reference values. JSON with these member names; every member but `families` may be left out, and none be `null`.
///
/// Deserialising checks it, see [`ReferenceError`]. Built by hand, it is checked by [`Self::check`]; verification stays closed even
/// where that was forgotten.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct ReferenceValues {
    /// Report versions taken. Default `[3, 5]`: version 2 names no CPUID, so its family would rest on the certificate alone, and its
    /// firmware is older than every mitigation that PLATFORM_INFO speaks of.
    #[serde(default = "default_versions")]
    pub report_versions: Vec<u32>,
    /// Processor families taken, each with its own values. A family without an entry is refused.
    pub families: Families,
    /// Kinds of keys that may sign. Default `["vcek"]`: a `vlek` proves a cloud provider's fleet and hides the chip, so no list of
    /// chips reaches it.
    #[serde(default = "default_signing_keys")]
    pub signing_keys: Vec<VekKind>,
    /// Cloud providers whose VLEK is taken, as the certificate writes them (`CN=cc-us-east-2.amazonaws.com`). Needed with `vlek`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub csp_ids: Vec<String>,
    /// Whether MASK_CHIP_KEY may be set, and CHIP_ID be zero under a VCEK. Default no: the certificate still names the chip, but a
    /// host that hides it has something to hide.
    #[serde(default)]
    pub masked_chip: bool,
    /// Bits of PLATFORM_INFO.
    #[serde(default)]
    pub platform: PlatformRules,
    /// Bits of the guest policy. Debugging and migration are always forbidden.
    #[serde(default)]
    pub guest_policy: PolicyRules,
    /// FAMILY_ID that the ID block must have.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub family_id: Option<BlockId>,
    /// IMAGE_ID that the ID block must have.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub image_id: Option<BlockId>,
    /// Lowest GUEST_SVN of the ID block. This, `family_id` and `image_id` are the word of whoever signed the block, which is the host
    /// itself unless `id_keys`, `author_keys` or the enrollment name a key.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub minimum_guest_svn: Option<u32>,
    /// SHA-384 of the ID keys that may sign ID blocks. Left out, none is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub id_keys: Option<Vec<KeyDigest>>,
    /// SHA-384 of the author keys that may sign ID keys. Left out, none is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub author_keys: Option<Vec<KeyDigest>>,
    /// Lists of chips.
    #[serde(default)]
    pub chips: ChipLists,
    /// What a revocation list must be.
    #[serde(default)]
    pub crl: CrlRule,
}

/// The families a project takes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Families {
    /// EPYC 7003. Needs `risk_accepted`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub milan: Option<FamilyValues>,
    /// EPYC 9004 and 8004.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub genoa: Option<FamilyValues>,
    /// EPYC 9005.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub turin: Option<FamilyValues>,
}

impl Families {
    /// The values of a family, if it is taken.
    #[must_use]
    pub const fn of(&self, family: Family) -> Option<&FamilyValues> {
        match family {
            Family::Milan => self.milan.as_ref(),
            Family::Genoa => self.genoa.as_ref(),
            Family::Turin => self.turin.as_ref(),
        }
    }

    /// The place of a family's values.
    pub const fn of_mut(&mut self, family: Family) -> &mut Option<FamilyValues> {
        match family {
            Family::Milan => &mut self.milan,
            Family::Genoa => &mut self.genoa,
            Family::Turin => &mut self.turin,
        }
    }

    /// Those that are taken, oldest first.
    pub fn taken(&self) -> impl Iterator<Item = (Family, &FamilyValues)> {
        Family::ALL.into_iter().filter_map(|family| self.of(family).map(|values| (family, values)))
    }
}

/// What one family's platforms must be at least.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FamilyValues {
    /// The oldest TCB: every component of the reported, committed, current and launch TCB must be at least this. `fmc` is Turin's.
    pub tcb_floor: TcbVersion,
    /// The oldest SNP firmware, current and committed. Default none: the floor's `snp` component already says it coarsely.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "strict_firmware")]
    pub minimum_firmware: Option<FirmwareVersion>,
    /// Bits that LAUNCH_MIT_VECTOR must have. A report before version 5 has none of them.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub launch_mitigations: Option<u64>,
    /// Bits that CURRENT_MIT_VECTOR must have. A report before version 5 has none of them.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub current_mitigations: Option<u64>,
    /// [`MILAN_RISK`], for Milan only: whoever takes this family has read why not to.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub risk_accepted: Option<String>,
}

impl FamilyValues {
    /// This floor and nothing else asked for. Not enough for Milan, see [`MILAN_RISK`].
    #[must_use]
    pub const fn with_floor(tcb_floor: TcbVersion) -> Self {
        Self { tcb_floor, minimum_firmware: None, launch_mitigations: None, current_mitigations: None, risk_accepted: None }
    }
}

/// A [`FirmwareVersion`] and nothing else: the type itself passes over what it does not know, as evidence needs.
fn strict_firmware<'de, D: Deserializer<'de>>(d: D) -> Result<Option<FirmwareVersion>, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Firmware {
        major: u8,
        minor: u8,
        build: u8,
    }
    let Firmware { major, minor, build } = Firmware::deserialize(d)?;
    Ok(Some(FirmwareVersion { major, minor, build }))
}

/// A value. `null` is refused: who writes a member means something by it, and an emptied variable must not lift a requirement.
fn not_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<T>, D::Error> {
    T::deserialize(d).map(Some)
}

/// What a bit must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BitRule {
    /// Either.
    #[default]
    Any,
    /// One.
    Required,
    /// Zero.
    Forbidden,
}

impl BitRule {
    /// Whether this bit is as wanted.
    #[must_use]
    pub const fn allows(self, bit: bool) -> bool {
        match self {
            Self::Any => true,
            Self::Required => bit,
            Self::Forbidden => !bit,
        }
    }
}

/// What PLATFORM_INFO must say (AMD 56860, table PLATFORM_INFO). Where a default is `any`, the bit tells of a setting that costs
/// performance or that the hardware may lack, and SNP's promises hold either way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlatformRules {
    /// Bit 0: SMT is on. Default `any`: every host seen has it on; side channels between siblings are then the guest's concern.
    pub smt: BitRule,
    /// Bit 1: transparent memory encryption. Default `any`: it protects what is not a guest's.
    pub tsme: BitRule,
    /// Bit 2: ECC memory. Default `any`: it makes flipped bits rarer and is no boundary.
    pub ecc: BitRule,
    /// Bit 3: power measurement is off. Default `any`: no host seen turns it off.
    pub rapl_disabled: BitRule,
    /// Bit 4: ciphertext is hidden from the host. Default `any`: only Turin can.
    pub ciphertext_hiding: BitRule,
    /// Bit 5: the firmware has looked for aliased memory since the last reset. Default `required`: without it a memory module that
    /// lies about its size lets the host write to guests (CVE-2024-21944, AMD-SB-3015). Every host seen that makes version 3 or 5
    /// reports has it; version 2 reports never do.
    pub alias_check: BitRule,
    /// Bit 6: writes through the IOMMU are safe (AMD 56860 from revision 1.58). Default `any`.
    pub iommu_write_safe: BitRule,
    /// Bit 7: trusted I/O is on (AMD 56860 from revision 1.58). Default `any`: no device of a guest is trusted here.
    pub tio: BitRule,
}

impl Default for PlatformRules {
    fn default() -> Self {
        let any = BitRule::Any;
        Self {
            smt: any,
            tsme: any,
            ecc: any,
            rapl_disabled: any,
            ciphertext_hiding: any,
            alias_check: BitRule::Required,
            iommu_write_safe: any,
            tio: any,
        }
    }
}

impl PlatformRules {
    /// (member, bit number, rule), from bit 0.
    #[must_use]
    pub const fn bits(&self) -> [(&'static str, u32, BitRule); 8] {
        [
            ("smt", 0, self.smt),
            ("tsme", 1, self.tsme),
            ("ecc", 2, self.ecc),
            ("rapl_disabled", 3, self.rapl_disabled),
            ("ciphertext_hiding", 4, self.ciphertext_hiding),
            ("alias_check", 5, self.alias_check),
            ("iommu_write_safe", 6, self.iommu_write_safe),
            ("tio", 7, self.tio),
        ]
    }
}

/// What the guest policy must say (AMD 56860, table "Guest Policy Structure"). The policy was fixed at launch and firmware keeps it:
/// a guest whose policy forbids something does not start on a platform that does it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyRules {
    /// Bit 16: SMT may be on. Default `any`.
    pub smt: BitRule,
    /// Bit 20: one socket only. Default `any`.
    pub single_socket: BitRule,
    /// Bit 21: CXL devices and memory may be there. Default `forbidden`: such memory lies outside the package, and no host seen
    /// allows it.
    pub cxl: BitRule,
    /// Bit 22: memory encryption must be AES-256-XTS. Default `any`: Milan and Genoa do not have it.
    pub aes_256_xts: BitRule,
    /// Bit 23: power measurement must be off. Default `any`.
    pub rapl_disabled: BitRule,
    /// Bit 24: ciphertext must be hidden. Default `any`: only Turin can.
    pub ciphertext_hiding: BitRule,
    /// Bit 25: the host may not swap or move the guest's pages. Default `any`: firmware before 1.58 does not know it.
    pub page_swap_disabled: BitRule,
    /// Lowest firmware ABI the policy must ask for. Default none: the TCB floor says more.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub minimum_abi: Option<Abi>,
}

impl Default for PolicyRules {
    fn default() -> Self {
        let any = BitRule::Any;
        Self {
            smt: any,
            single_socket: any,
            cxl: BitRule::Forbidden,
            aes_256_xts: any,
            rapl_disabled: any,
            ciphertext_hiding: any,
            page_swap_disabled: any,
            minimum_abi: None,
        }
    }
}

impl PolicyRules {
    /// (member, bit number, rule), from bit 16.
    #[must_use]
    pub const fn bits(&self) -> [(&'static str, u32, BitRule); 7] {
        [
            ("smt", 16, self.smt),
            ("single_socket", 20, self.single_socket),
            ("cxl", 21, self.cxl),
            ("aes_256_xts", 22, self.aes_256_xts),
            ("rapl_disabled", 23, self.rapl_disabled),
            ("ciphertext_hiding", 24, self.ciphertext_hiding),
            ("page_swap_disabled", 25, self.page_swap_disabled),
        ]
    }
}

/// A version of the firmware ABI.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abi {
    /// Major.
    pub major: u8,
    /// Minor.
    pub minor: u8,
}

/// Chips a project takes and refuses, by CHIP_ID: 128 hexadecimal digits, Turin's 8 bytes first and zeros after.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChipLists {
    /// Only these. Left out, every chip that is not denied.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub allow: Option<Vec<ChipId>>,
    /// Never these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<ChipId>,
}

/// Whether a revocation list must be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CrlRule {
    /// One that is there counts, even past its `nextUpdate`; none is no reason to refuse. So collateral never fails at night.
    #[default]
    IfPresent,
    /// One must be there, and now must lie between its `thisUpdate` and `nextUpdate`.
    Required,
}

/// Reference values that contradict themselves, refuse everything, or take Milan unawares.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// A version this build does not read.
    #[error("`report_versions` names {got}; this build reads {known:?}", known = Report::VERSIONS)]
    UnknownVersion {
        /// The version.
        got: u32,
    },
    /// A list that would refuse everything.
    #[error("`{member}` is empty, so everything would be refused\nhint: leave it out to take its default")]
    Empty {
        /// The member.
        member: &'static str,
    },
    /// `vlek` without `csp_ids`, or the other way round.
    #[error("`signing_keys` {} `vlek` but `csp_ids` has {csp_ids} entries\nhint: name the cloud providers whose VLEK is taken, or take neither", if *vlek { "has" } else { "lacks" })]
    CspIds {
        /// Whether `signing_keys` has `vlek`.
        vlek: bool,
        /// How many providers are named.
        csp_ids: usize,
    },
    /// Turin has a fifth component, the others do not.
    #[error("`families.{family}.tcb_floor` {}", if matches!(family, Family::Turin) { "needs `fmc`" } else { "has `fmc`, which only Turin has" })]
    Fmc {
        /// The family.
        family: Family,
    },
    /// Milan, without saying that its risk is known.
    #[error(
        "`families.milan` lacks `risk_accepted`: {MILAN_RISK} extracts the VCEK seed of Milan, so its reports may come from anywhere\nhint: leave milan out, or write `\"risk_accepted\": \"{MILAN_RISK}\"`"
    )]
    MilanRisk,
    /// A risk nobody knows of.
    #[error("`families.{family}` has `risk_accepted`, which only milan has")]
    NoRisk {
        /// The family.
        family: Family,
    },
}

fn default_versions() -> Vec<u32> {
    vec![3, 5]
}

fn default_signing_keys() -> Vec<VekKind> {
    vec![VekKind::Vcek]
}

impl ReferenceValues {
    /// These floors, and the default of everything else. Milan among them is still refused: see [`MILAN_RISK`].
    #[must_use]
    pub fn with_floors(floors: &BTreeMap<Family, TcbVersion>) -> Self {
        let mut values = Self::closed();
        for (family, floor) in floors {
            *values.families.of_mut(*family) = Some(FamilyValues::with_floor(*floor));
        }
        values
    }

    /// No family, and the default of everything else: refuses all evidence.
    #[must_use]
    pub fn closed() -> Self {
        Self {
            report_versions: default_versions(),
            families: Families::default(),
            signing_keys: default_signing_keys(),
            csp_ids: Vec::new(),
            masked_chip: false,
            platform: PlatformRules::default(),
            guest_policy: PolicyRules::default(),
            family_id: None,
            image_id: None,
            minimum_guest_svn: None,
            id_keys: None,
            author_keys: None,
            chips: ChipLists::default(),
            crl: CrlRule::default(),
        }
    }

    /// Whether they make sense.
    ///
    /// # Errors
    /// See [`ReferenceError`].
    pub fn check(&self) -> Result<(), ReferenceError> {
        if let Some(got) = self.report_versions.iter().copied().find(|version| !Report::VERSIONS.contains(version)) {
            return Err(ReferenceError::UnknownVersion { got });
        }
        let is_empty = |list: &Option<Vec<KeyDigest>>| list.as_ref().is_some_and(Vec::is_empty);
        let empty = [
            ("report_versions", self.report_versions.is_empty()),
            ("signing_keys", self.signing_keys.is_empty()),
            ("id_keys", is_empty(&self.id_keys)),
            ("author_keys", is_empty(&self.author_keys)),
            ("chips.allow", self.chips.allow.as_ref().is_some_and(Vec::is_empty)),
        ];
        if let Some((member, _)) = empty.into_iter().find(|(_, empty)| *empty) {
            return Err(ReferenceError::Empty { member });
        }
        let vlek = self.signing_keys.contains(&VekKind::Vlek);
        if vlek == self.csp_ids.is_empty() {
            return Err(ReferenceError::CspIds { vlek, csp_ids: self.csp_ids.len() });
        }
        self.families.taken().try_for_each(|(family, values)| check_family(family, values))
    }
}

fn check_family(family: Family, values: &FamilyValues) -> Result<(), ReferenceError> {
    if values.tcb_floor.fmc.is_some() != (family == Family::Turin) {
        return Err(ReferenceError::Fmc { family });
    }
    match (family, values.risk_accepted.as_deref()) {
        (Family::Milan, Some(MILAN_RISK)) | (Family::Genoa | Family::Turin, None) => Ok(()),
        (Family::Milan, _) => Err(ReferenceError::MilanRisk),
        (_, Some(_)) => Err(ReferenceError::NoRisk { family }),
    }
}

impl Serialize for ReferenceValues {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, s)
    }
}

impl<'de> Deserialize<'de> for ReferenceValues {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let values = Self::deserialize(d)?;
        values.check().map_err(serde::de::Error::custom)?;
        Ok(values)
    }
}
