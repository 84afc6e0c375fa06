//! Evidence as JSON: the form of stock Confidential Containers attesters, and our own that loses nothing.

use core::fmt;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chain::{CertEntry, CertKind, MAX_ENTRIES, MAX_ENTRY_LEN};
use crate::family::Cpuid;
use crate::report::{FirmwareVersion, GuestPolicy, KeyInfo, Report, ReportError, ReportFields};
use crate::tcb::{TcbLayout, TcbVersion};
use crate::{ChipId, HostData, KeyDigest, LaunchDigest, ReportData, ReportId};

/// A report and the certificates that came with it. Nothing in it has been verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnpEvidence {
    /// The report.
    pub report: Report,
    /// What the host handed over with it; may be empty, may be lies.
    pub certificates: Vec<CertEntry>,
}

/// JSON that is no SNP evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// Not JSON, or not of either shape.
    #[error("SNP evidence is malformed")]
    Json(#[source] serde_json::Error),
    /// Both `attestation_report` and `attestation_report_raw`, or neither.
    #[error("SNP evidence needs exactly one of `attestation_report` and `attestation_report_raw`")]
    Shape,
    /// `attestation_report_raw` is not standard base64.
    #[error("`attestation_report_raw` is not standard base64")]
    Base64,
    /// The report itself.
    #[error("SNP evidence holds no report this build reads")]
    Report(#[from] ReportError),
    /// The JSON says something the 1184 bytes have no place for, so it cannot be what was signed.
    #[error("`{field}` has a value that a version {version} report of this family has no place for")]
    NoPlace {
        /// The JSON member.
        field: &'static str,
        /// The report's version.
        version: u32,
    },
    /// More certificates than [`MAX_ENTRIES`], or one longer than [`MAX_ENTRY_LEN`].
    #[error("`cert_chain` has {entries} entries, the longest of {longest} bytes; at most {MAX_ENTRIES} of {MAX_ENTRY_LEN} are read")]
    TooLarge {
        /// How many certificates there are.
        entries: usize,
        /// Length of the longest in bytes.
        longest: usize,
    },
}

impl SnpEvidence {
    /// Reads either form from a KBS `primary_evidence`.
    ///
    /// The stock form does not carry reserved bytes: they are rebuilt as zeros, so a report that had others there will
    /// fail its signature. Members this build does not know are passed over, since stock attesters differ in them and
    /// only what fits into the signed bytes counts.
    ///
    /// # Errors
    /// See [`EvidenceError`].
    pub fn from_value(value: &Value) -> Result<Self, EvidenceError> {
        Self::decide(Raw::deserialize(value).map_err(EvidenceError::Json)?)
    }

    /// Reads either form from JSON text; see [`Self::from_value`].
    ///
    /// # Errors
    /// See [`EvidenceError`].
    pub fn from_json(text: &[u8]) -> Result<Self, EvidenceError> {
        Self::decide(serde_json::from_slice(text).map_err(EvidenceError::Json)?)
    }

    /// The stock form. Loses the report's reserved bytes; [`Self::to_raw_value`] does not.
    ///
    /// # Errors
    /// [`EvidenceError::Json`] if the evidence does not fit into JSON, which does not happen.
    pub fn to_stock_value(&self) -> Result<Value, EvidenceError> {
        let report = Some(WireReport::from(self.report.fields()));
        self.to_value(Raw { attestation_report: report, attestation_report_raw: None, cert_chain: None }, WireBytes::Numbers)
    }

    /// Our own form, `{"attestation_report_raw": "<base64 of 1184 bytes>", "cert_chain": …}`, certificates in base64 too: less than
    /// half as long as numbers, and read in a tenth of the time.
    ///
    /// # Errors
    /// [`EvidenceError::Json`] if the evidence does not fit into JSON, which does not happen.
    pub fn to_raw_value(&self) -> Result<Value, EvidenceError> {
        let report = Some(data_encoding::BASE64.encode(self.report.as_bytes()));
        self.to_value(Raw { attestation_report: None, attestation_report_raw: report, cert_chain: None }, WireBytes::Base64)
    }

    fn to_value(&self, mut raw: Raw, bytes: fn(Vec<u8>) -> WireBytes) -> Result<Value, EvidenceError> {
        let certificates = self.certificates.iter().map(|entry| WireCertificate::new(entry, bytes)).collect::<Vec<_>>();
        raw.cert_chain = (!certificates.is_empty()).then_some(certificates);
        serde_json::to_value(raw).map_err(EvidenceError::Json)
    }

    fn decide(raw: Raw) -> Result<Self, EvidenceError> {
        let report = match (raw.attestation_report, raw.attestation_report_raw) {
            (Some(fields), None) => fields.rebuild()?,
            (None, Some(text)) => {
                let bytes = data_encoding::BASE64.decode(text.as_bytes()).map_err(|_| EvidenceError::Base64)?;
                Report::parse(&bytes)?
            }
            (Some(_), Some(_)) | (None, None) => return Err(EvidenceError::Shape),
        };
        let chain = raw.cert_chain.unwrap_or_default();
        let longest = chain.iter().map(|cert| cert.data.bytes().len()).max().unwrap_or(0);
        if chain.len() > MAX_ENTRIES || longest > MAX_ENTRY_LEN {
            return Err(EvidenceError::TooLarge { entries: chain.len(), longest });
        }
        let certificates = chain.into_iter().map(WireCertificate::decide).collect::<Result<_, _>>()?;
        Ok(Self { report, certificates })
    }
}

#[derive(Serialize, Deserialize)]
struct Raw {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attestation_report: Option<WireReport>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attestation_report_raw: Option<String>,
    #[serde(default)]
    cert_chain: Option<Vec<WireCertificate>>,
}

/// A byte string of fixed length as an array of numbers; another length is an error.
#[derive(Clone, Copy)]
struct Numbers<const N: usize>([u8; N]);

impl<const N: usize> Serialize for Numbers<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.0)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Numbers<N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Bytes<const N: usize>;

        impl<'de, const N: usize> Visitor<'de> for Bytes<N> {
            type Value = Numbers<N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an array of {N} numbers from 0 to 255")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut bytes = [0; N];
                for (i, byte) in bytes.iter_mut().enumerate() {
                    *byte = seq.next_element()?.ok_or_else(|| de::Error::invalid_length(i, &self))?;
                }
                match seq.next_element::<de::IgnoredAny>()? {
                    None => Ok(Numbers(bytes)),
                    Some(_) => Err(de::Error::invalid_length(N + 1, &self)),
                }
            }
        }

        d.deserialize_seq(Bytes)
    }
}

#[derive(Serialize, Deserialize)]
struct WireSignature {
    r: Numbers<72>,
    s: Numbers<72>,
}

/// `attestation_report` as the Rust crate `sev` 6 serialises it, member for member in its order.
#[derive(Serialize, Deserialize)]
struct WireReport {
    version: u32,
    guest_svn: u32,
    policy: u64,
    family_id: Numbers<16>,
    image_id: Numbers<16>,
    vmpl: u32,
    sig_algo: u32,
    current_tcb: WireTcb,
    plat_info: u64,
    key_info: u32,
    report_data: Numbers<64>,
    measurement: Numbers<48>,
    host_data: Numbers<32>,
    id_key_digest: Numbers<48>,
    author_key_digest: Numbers<48>,
    report_id: Numbers<32>,
    report_id_ma: Numbers<32>,
    reported_tcb: WireTcb,
    #[serde(default)]
    cpuid_fam_id: Option<u8>,
    #[serde(default)]
    cpuid_mod_id: Option<u8>,
    #[serde(default)]
    cpuid_step: Option<u8>,
    chip_id: Numbers<64>,
    committed_tcb: WireTcb,
    current: FirmwareVersion,
    committed: FirmwareVersion,
    launch_tcb: WireTcb,
    #[serde(default)]
    launch_mit_vector: Option<u64>,
    #[serde(default)]
    current_mit_vector: Option<u64>,
    signature: WireSignature,
}

/// [`TcbVersion`], tolerant of members of later attesters.
#[derive(Serialize, Deserialize)]
struct WireTcb {
    #[serde(default)]
    fmc: Option<u8>,
    bootloader: u8,
    tee: u8,
    snp: u8,
    microcode: u8,
}

impl From<&TcbVersion> for WireTcb {
    fn from(tcb: &TcbVersion) -> Self {
        let TcbVersion { fmc, bootloader, tee, snp, microcode } = *tcb;
        Self { fmc, bootloader, tee, snp, microcode }
    }
}

impl From<&WireTcb> for TcbVersion {
    fn from(tcb: &WireTcb) -> Self {
        let WireTcb { fmc, bootloader, tee, snp, microcode } = *tcb;
        Self { fmc, bootloader, tee, snp, microcode }
    }
}

impl From<&ReportFields> for WireReport {
    fn from(f: &ReportFields) -> Self {
        Self {
            version: f.version,
            guest_svn: f.guest_svn,
            policy: f.policy.0,
            family_id: Numbers(f.family_id),
            image_id: Numbers(f.image_id),
            vmpl: f.vmpl,
            sig_algo: f.signature_algo,
            current_tcb: (&f.current_tcb).into(),
            plat_info: f.platform_info,
            key_info: f.key_info.0,
            report_data: Numbers(*f.report_data.as_bytes()),
            measurement: Numbers(*f.measurement.as_bytes()),
            host_data: Numbers(*f.host_data.as_bytes()),
            id_key_digest: Numbers(*f.id_key_digest.as_bytes()),
            author_key_digest: Numbers(*f.author_key_digest.as_bytes()),
            report_id: Numbers(*f.report_id.as_bytes()),
            report_id_ma: Numbers(*f.report_id_ma.as_bytes()),
            reported_tcb: (&f.reported_tcb).into(),
            cpuid_fam_id: f.cpuid.map(|cpuid| cpuid.family),
            cpuid_mod_id: f.cpuid.map(|cpuid| cpuid.model),
            cpuid_step: f.cpuid.map(|cpuid| cpuid.stepping),
            chip_id: Numbers(*f.chip_id.as_bytes()),
            committed_tcb: (&f.committed_tcb).into(),
            current: f.current_version,
            committed: f.committed_version,
            launch_tcb: (&f.launch_tcb).into(),
            launch_mit_vector: f.launch_mit_vector,
            current_mit_vector: f.current_mit_vector,
            signature: WireSignature { r: Numbers(f.signature_r), s: Numbers(f.signature_s) },
        }
    }
}

impl WireReport {
    /// The 1184 bytes this JSON was made from, reserved ones zero.
    fn rebuild(self) -> Result<Report, EvidenceError> {
        let version = self.version;
        if !Report::VERSIONS.contains(&version) {
            return Err(ReportError::Version { got: version }.into());
        }
        let refuse = |field| Err(EvidenceError::NoPlace { field, version });
        let cpuid = match (self.cpuid_fam_id, self.cpuid_mod_id, self.cpuid_step) {
            (None, None, None) => None,
            (family, model, stepping) if version >= 3 => {
                Some(Cpuid { family: family.unwrap_or(0), model: model.unwrap_or(0), stepping: stepping.unwrap_or(0) })
            }
            _ => return refuse("cpuid_fam_id"),
        };
        if version < 5 && (self.launch_mit_vector.is_some() || self.current_mit_vector.is_some()) {
            return refuse("launch_mit_vector");
        }
        let fields = self.fields(cpuid);
        let tcbs = [fields.current_tcb, fields.reported_tcb, fields.committed_tcb, fields.launch_tcb];
        if fields.tcb_layout() == TcbLayout::Legacy && tcbs.iter().any(|tcb| tcb.fmc.is_some()) {
            return refuse("fmc");
        }
        Ok(Report::parse(&fields.encode())?)
    }

    fn fields(&self, cpuid: Option<Cpuid>) -> ReportFields {
        ReportFields {
            version: self.version,
            guest_svn: self.guest_svn,
            policy: GuestPolicy(self.policy),
            family_id: self.family_id.0,
            image_id: self.image_id.0,
            vmpl: self.vmpl,
            signature_algo: self.sig_algo,
            current_tcb: (&self.current_tcb).into(),
            platform_info: self.plat_info,
            key_info: KeyInfo(self.key_info),
            report_data: ReportData::new(self.report_data.0),
            measurement: LaunchDigest::new(self.measurement.0),
            host_data: HostData::new(self.host_data.0),
            id_key_digest: KeyDigest::new(self.id_key_digest.0),
            author_key_digest: KeyDigest::new(self.author_key_digest.0),
            report_id: ReportId::new(self.report_id.0),
            report_id_ma: ReportId::new(self.report_id_ma.0),
            reported_tcb: (&self.reported_tcb).into(),
            cpuid,
            chip_id: ChipId::new(self.chip_id.0),
            committed_tcb: (&self.committed_tcb).into(),
            current_version: self.current,
            committed_version: self.committed,
            launch_tcb: (&self.launch_tcb).into(),
            launch_mit_vector: self.launch_mit_vector,
            current_mit_vector: self.current_mit_vector,
            signature_r: self.signature.r.0,
            signature_s: self.signature.s.0,
        }
    }
}

/// An entry of `cert_chain`.
#[derive(Serialize, Deserialize)]
struct WireCertificate {
    cert_type: WireKind,
    data: WireBytes,
}

/// Bytes of any length: an array of numbers in the stock form, standard base64 in ours. Either is read in both.
enum WireBytes {
    Numbers(Vec<u8>),
    Base64(Vec<u8>),
}

impl WireBytes {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Numbers(bytes) | Self::Base64(bytes) => bytes,
        }
    }
}

impl Serialize for WireBytes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Numbers(bytes) => s.collect_seq(bytes),
            Self::Base64(bytes) => s.serialize_str(&data_encoding::BASE64.encode(bytes)),
        }
    }
}

impl<'de> Deserialize<'de> for WireBytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = WireBytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of numbers from 0 to 255, or standard base64")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<WireBytes, A::Error> {
                // JSON does not say how many: AMD's certificates have some 1,300 to 1,700 bytes.
                let mut bytes = Vec::with_capacity(2048);
                while let Some(byte) = seq.next_element()? {
                    bytes.push(byte);
                }
                Ok(WireBytes::Numbers(bytes))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<WireBytes, E> {
                let bytes = data_encoding::BASE64.decode(text.as_bytes()).map_err(|_| E::invalid_value(de::Unexpected::Str("…"), &self))?;
                Ok(WireBytes::Base64(bytes))
            }
        }

        d.deserialize_any(Either)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum WireKind {
    Vcek,
    Vlek,
    Ask,
    Ark,
    Crl,
    #[serde(rename = "Empty")]
    Empty,
    Other(String),
}

impl WireCertificate {
    fn new(entry: &CertEntry, bytes: fn(Vec<u8>) -> WireBytes) -> Self {
        let cert_type = match entry.kind {
            CertKind::Vcek => WireKind::Vcek,
            CertKind::Vlek => WireKind::Vlek,
            CertKind::Ask => WireKind::Ask,
            CertKind::Ark => WireKind::Ark,
            CertKind::Crl => WireKind::Crl,
            CertKind::Empty => WireKind::Empty,
            CertKind::Other(guid) => WireKind::Other(guid.to_string()),
        };
        Self { cert_type, data: bytes(entry.data.clone()) }
    }

    fn decide(self) -> Result<CertEntry, EvidenceError> {
        let kind = match self.cert_type {
            WireKind::Vcek => CertKind::Vcek,
            WireKind::Vlek => CertKind::Vlek,
            WireKind::Ask => CertKind::Ask,
            WireKind::Ark => CertKind::Ark,
            WireKind::Crl => CertKind::Crl,
            WireKind::Empty => CertKind::Empty,
            WireKind::Other(guid) => CertKind::Other(guid.parse().map_err(|e| EvidenceError::Json(de::Error::custom(e)))?),
        };
        let (WireBytes::Numbers(data) | WireBytes::Base64(data)) = self.data;
        Ok(CertEntry { kind, data })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn evidence(version: u32, family: u8, fill: u8) -> SnpEvidence {
        let mut bytes = [fill; Report::LEN];
        bytes[..4].copy_from_slice(&version.to_le_bytes());
        bytes[0x188] = family;
        // What the stock form can carry: through the fields and back, reserved bytes become zero.
        let report = Report::parse(&Report::parse(&bytes).unwrap().fields().encode()).unwrap();
        let other = CertKind::Other("01020304-0506-0708-090a-0b0c0d0e0f10".parse().unwrap());
        let certificates = [CertKind::Vcek, CertKind::Ask, other].map(|kind| CertEntry { kind, data: vec![fill; 3] });
        SnpEvidence { report, certificates: certificates.to_vec() }
    }

    #[test]
    fn both_forms_round_trip() {
        for (version, family) in [(2, 0), (3, 0x19), (5, 0x1A), (5, 0x19)] {
            let before = evidence(version, family, 0xA5);
            for value in [before.to_stock_value().unwrap(), before.to_raw_value().unwrap()] {
                assert_eq!(SnpEvidence::from_value(&value).unwrap(), before);
                assert_eq!(SnpEvidence::from_json(value.to_string().as_bytes()).unwrap(), before);
            }
        }
    }

    #[test]
    fn the_raw_form_keeps_reserved_bytes_and_the_stock_form_does_not() {
        let mut bytes = *evidence(3, 0x19, 1).report.as_bytes();
        bytes[0x4C] = 9;
        let before = SnpEvidence { report: Report::parse(&bytes).unwrap(), certificates: vec![] };
        assert_eq!(SnpEvidence::from_value(&before.to_raw_value().unwrap()).unwrap(), before);
        let lossy = SnpEvidence::from_value(&before.to_stock_value().unwrap()).unwrap();
        assert_eq!(lossy.report.as_bytes()[0x4C], 0);
    }

    #[test]
    fn what_the_bytes_have_no_place_for_is_refused() {
        let stock = evidence(3, 0x19, 1).to_stock_value().unwrap();
        let with = |pointer: &str, value: Value| {
            let mut changed = stock.clone();
            *changed.pointer_mut(pointer).unwrap() = value;
            SnpEvidence::from_value(&changed)
        };
        let no_place = |result| matches!(result, Err(EvidenceError::NoPlace { .. }));
        assert!(no_place(with("/attestation_report/reported_tcb/fmc", json!(0))));
        assert!(no_place(with("/attestation_report/launch_mit_vector", json!(0))));
        assert!(no_place(with("/attestation_report/version", json!(2))));
        for version in [0, 4, 6] {
            let result = with("/attestation_report/version", json!(version));
            assert!(matches!(result, Err(EvidenceError::Report(ReportError::Version { got })) if got == version));
        }
    }

    #[test]
    fn malformed_evidence_is_refused() {
        let stock = evidence(3, 0x19, 1).to_stock_value().unwrap();
        let wrong = [
            ("/attestation_report/report_data", json!([1, 2, 3])),
            ("/attestation_report/report_data", json!(vec![0; 65])),
            ("/attestation_report/measurement/0", json!(256)),
            ("/attestation_report/vmpl", json!(-1)),
            ("/attestation_report/policy", json!(1.5)),
            ("/attestation_report/signature", json!({"r": [], "s": []})),
            ("/cert_chain/0/cert_type", json!("vcek")),
            ("/cert_chain/2/cert_type", json!({"OTHER": "not a guid"})),
        ];
        for (pointer, value) in wrong {
            let mut changed = stock.clone();
            *changed.pointer_mut(pointer).unwrap() = value;
            let result = SnpEvidence::from_value(&changed);
            assert!(matches!(result, Err(EvidenceError::Json(_))), "{pointer} {result:?}");
        }
        let mut both = evidence(3, 0x19, 1).to_raw_value().unwrap();
        both["attestation_report"] = stock["attestation_report"].clone();
        assert!(matches!(SnpEvidence::from_value(&both), Err(EvidenceError::Shape)));
        assert!(matches!(SnpEvidence::from_value(&json!({})), Err(EvidenceError::Shape)));
        let raw = json!({"attestation_report_raw": "AAA"});
        assert!(matches!(SnpEvidence::from_value(&raw), Err(EvidenceError::Base64)));
        let raw = json!({"attestation_report_raw": "AAAA"});
        assert!(matches!(SnpEvidence::from_value(&raw), Err(EvidenceError::Report(_))));
        let mut many = stock;
        many["cert_chain"] = json!(vec![json!({"cert_type": "CRL", "data": []}); MAX_ENTRIES + 1]);
        assert!(matches!(SnpEvidence::from_value(&many), Err(EvidenceError::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn parsing_is_total(text in proptest::collection::vec(any::<u8>(), 0..200), number: u64) {
            let _ = SnpEvidence::from_json(&text);
            let mut stock = evidence(5, 0x1A, 1).to_stock_value().unwrap();
            let fields = stock["attestation_report"].as_object().unwrap().len();
            let report = stock["attestation_report"].as_object_mut().unwrap();
            let nth = report.values_mut().nth(usize::try_from(number % fields as u64).unwrap()).unwrap();
            *nth = json!(number);
            let _ = SnpEvidence::from_value(&stock);
        }
    }
}
