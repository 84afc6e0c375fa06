//! The processor: a platform, its VCEK, and the reports they make.

use coffer_evidence::{
    CertEntry, CertKind, ChipId, GuestPolicy, HostData, KeyDigest, KeyInfo, LaunchDigest, Report, ReportData, ReportFields, ReportId,
    SnpEvidence, UnixTime, VekKind,
};
use ring::rand::{SecureRandom, SystemRandom};

use crate::authority::{Hierarchy, KeyError};
use crate::identity::Identity;
use crate::platform::Platform;
use crate::vcek::{Vcek, VcekSpec};

/// One launched guest, as the processor remembers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guest {
    /// What was measured at launch.
    pub launch_digest: LaunchDigest,
    /// What the host said at launch.
    pub host_data: HostData,
    /// What the host may do with it.
    pub policy: GuestPolicy,
    /// Its REPORT_ID.
    pub report_id: ReportId,
    /// What its ID block said, if there was one.
    pub identity: Identity,
}

impl Guest {
    /// A guest with a REPORT_ID of its own, launched without an ID block.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn launch(launch_digest: LaunchDigest, host_data: HostData, policy: GuestPolicy) -> Result<Self, KeyError> {
        let mut report_id = [0; ReportId::LEN];
        SystemRandom::new().fill(&mut report_id).map_err(|_| KeyError::Random)?;
        Ok(Self { launch_digest, host_data, policy, report_id: ReportId::new(report_id), identity: Identity::default() })
    }
}

/// A software AMD secure processor.
#[derive(Debug)]
pub struct Asp {
    platform: Platform,
    ark: Vec<u8>,
    ask: Vec<u8>,
    vcek: Vcek,
}

impl Asp {
    /// A processor of the hierarchy's family with a chip id of its own, and an honest VCEK.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn new(hierarchy: &Hierarchy, now: UnixTime) -> Result<Self, KeyError> {
        let platform = Platform::random(hierarchy.family)?;
        let vcek = Vcek::issue(&VcekSpec::of(&platform, now), &hierarchy.ask)?;
        Ok(Self::from_parts(platform, hierarchy.ark.certificate().to_vec(), hierarchy.ask.certificate().to_vec(), vcek))
    }

    /// A processor with any platform and certificates (DER), whether or not they fit together.
    #[must_use]
    pub const fn from_parts(platform: Platform, ark: Vec<u8>, ask: Vec<u8>, vcek: Vcek) -> Self {
        Self { platform, ark, ask, vcek }
    }

    /// The machine it is in.
    #[must_use]
    pub const fn platform(&self) -> &Platform {
        &self.platform
    }

    /// DER of the root: what a verifier that is to believe this processor is given.
    #[must_use]
    pub fn ark(&self) -> &[u8] {
        &self.ark
    }

    /// DER of the intermediate.
    #[must_use]
    pub fn ask(&self) -> &[u8] {
        &self.ask
    }

    /// The key that signs.
    #[must_use]
    pub const fn vcek(&self) -> &Vcek {
        &self.vcek
    }

    /// Endorsement key, intermediate, root: what a well-kept host hands its guests.
    #[must_use]
    pub fn certificates(&self) -> Vec<CertEntry> {
        let entry = |kind, data: &[u8]| CertEntry { kind, data: data.to_vec() };
        let kind = match self.vcek.kind() {
            VekKind::Vcek => CertKind::Vcek,
            VekKind::Vlek => CertKind::Vlek,
        };
        vec![entry(kind, self.vcek.certificate()), entry(CertKind::Ask, &self.ask), entry(CertKind::Ark, &self.ark)]
    }

    /// What an honest processor reports of a guest, not signed yet.
    #[must_use]
    pub fn fields(&self, guest: &Guest, report_data: ReportData, vmpl: u32) -> ReportFields {
        let Platform { cpuid, report_version, chip_id, tcb, firmware, platform_info, mitigations, .. } = self.platform;
        let Identity { guest_svn, family_id, image_id, id_key_digest, author_key_digest } = guest.identity;
        let none = KeyDigest::new([0; KeyDigest::LEN]);
        let (has_mitigations, is_vlek) = (report_version >= 5, self.vcek.kind() == VekKind::Vlek);
        ReportFields {
            version: report_version,
            guest_svn,
            policy: guest.policy,
            family_id,
            image_id,
            vmpl,
            signature_algo: 1,
            current_tcb: tcb,
            platform_info,
            key_info: KeyInfo(u32::from(is_vlek) << 2 | u32::from(author_key_digest.is_some())),
            report_data,
            measurement: guest.launch_digest,
            host_data: guest.host_data,
            id_key_digest: id_key_digest.unwrap_or(none),
            author_key_digest: author_key_digest.unwrap_or(none),
            report_id: guest.report_id,
            report_id_ma: ReportId::new([0xFF; ReportId::LEN]),
            reported_tcb: tcb,
            cpuid: (report_version >= 3).then_some(cpuid),
            chip_id: if is_vlek { ChipId::new([0; ChipId::LEN]) } else { chip_id },
            committed_tcb: tcb,
            current_version: firmware,
            committed_version: firmware,
            launch_tcb: tcb,
            launch_mit_vector: has_mitigations.then_some(mitigations),
            current_mit_vector: has_mitigations.then_some(mitigations),
            signature_r: [0; 72],
            signature_s: [0; 72],
        }
    }

    /// Signs whatever the fields say, and gives the 1184 bytes.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn sign(&self, fields: &ReportFields) -> Result<[u8; Report::LEN], KeyError> {
        self.sign_bytes(fields.encode())
    }

    /// Signs a report as it is, reserved bytes and all: sets its R and S.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn sign_bytes(&self, mut report: [u8; Report::LEN]) -> Result<[u8; Report::LEN], KeyError> {
        let (mut r, mut s) = self.vcek.sign(&report[..SIGNED_LEN])?;
        // A report's integers are little-endian, those of ECDSA libraries are not.
        r.reverse();
        s.reverse();
        for (at, value) in [(SIGNED_LEN, r), (SIGNED_LEN + INTEGER_LEN, s)] {
            report[at..at + INTEGER_LEN].fill(0);
            report[at..at + value.len()].copy_from_slice(&value);
        }
        Ok(report)
    }

    /// An honest report about a guest, with its certificates.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn evidence(&self, guest: &Guest, report_data: ReportData) -> Result<SnpEvidence, KeyError> {
        self.evidence_of(&self.fields(guest, report_data, 0))
    }

    /// Evidence that says whatever the fields say, signed, with its certificates.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn evidence_of(&self, fields: &ReportFields) -> Result<SnpEvidence, KeyError> {
        let report = Report::parse(&self.sign(fields)?).map_err(|_| KeyError::Sign)?;
        Ok(SnpEvidence { report, certificates: self.certificates() })
    }
}

/// How many bytes of a report its signature covers (AMD 56860, table ATTESTATION_REPORT).
const SIGNED_LEN: usize = 0x2A0;

/// How many bytes R and S have each.
const INTEGER_LEN: usize = 72;
