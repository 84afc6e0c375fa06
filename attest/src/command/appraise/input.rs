//! What an auditor may hand over as evidence, told apart by its bytes.
//!
//! A raw report, its hexadecimal or base64 text, KBS wire JSON in either form, or the whole captured body of a
//! `POST /kbs/v0/attest`, whose runtime-data then says what REPORT_DATA must be. Every reader is total.

use coffer_evidence::{CertEntry, CertKind, Certificate, EvidenceError, Report, ReportData, SnpEvidence, VekKind, pem_certificates};
use coffer_protocol::{Attestation, JsonError, MessageError};
use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};

/// Evidence as given.
#[derive(Debug)]
pub struct Given {
    /// The report, and what certificates came with it.
    pub evidence: SnpEvidence,
    /// What it was given as.
    pub form: Form,
    /// What a captured body's runtime-data demands of REPORT_DATA.
    pub report_data: Option<ReportData>,
}

/// The form of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// 1184 bytes.
    Report,
    /// Their hexadecimal text.
    ReportHex,
    /// Their base64 text.
    ReportBase64,
    /// KBS wire JSON.
    WireJson,
    /// A captured body with runtime-data.
    AttestBody,
}

impl Form {
    /// In words.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Report => "raw report",
            Self::ReportHex => "report in hexadecimal",
            Self::ReportBase64 => "report in base64",
            Self::WireJson => "KBS wire JSON",
            Self::AttestBody => "captured body of POST /kbs/v0/attest",
        }
    }
}

/// Bytes that are no evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// None of the forms.
    #[error("{bytes} bytes that are neither a report of {expected} bytes, nor its hexadecimal or base64 text, nor a JSON object", expected = Report::LEN)]
    Unknown {
        /// How many.
        bytes: usize,
    },
    /// JSON, or a report, that does not read.
    #[error("{}", crate::failure::chain(.0))]
    Evidence(#[from] EvidenceError),
    /// A captured body that does not read.
    #[error("{}", crate::failure::chain(.0))]
    Body(#[from] MessageError),
    /// A captured body whose runtime-data cannot be hashed.
    #[error("runtime-data: {0}")]
    RuntimeData(#[from] JsonError),
    /// A file of certificates without one.
    #[error("no certificate in it reads: {0}")]
    Certificate(#[from] coffer_evidence::CertificateError),
    /// A file of certificates in which none is a VCEK or VLEK.
    #[error("none of its certificates is a VCEK or a VLEK, the first is of {first}")]
    NoVek {
        /// Subject of the first.
        first: String,
    },
}

impl Given {
    /// Reads evidence of any form.
    ///
    /// # Errors
    /// See [`InputError`].
    pub fn read(bytes: &[u8]) -> Result<Self, InputError> {
        let trimmed = bytes.trim_ascii();
        if trimmed.first() == Some(&b'{') {
            return Self::read_json(trimmed);
        }
        let (report, form) = if bytes.len() == Report::LEN {
            (bytes.to_vec(), Form::Report)
        } else {
            decode_text(trimmed).ok_or(InputError::Unknown { bytes: bytes.len() })?
        };
        let report = Report::parse(&report).map_err(EvidenceError::from)?;
        Ok(Self { evidence: SnpEvidence { report, certificates: Vec::new() }, form, report_data: None })
    }

    fn read_json(text: &[u8]) -> Result<Self, InputError> {
        #[derive(serde::Deserialize)]
        struct Probe {
            #[serde(rename = "tee-evidence")]
            tee_evidence: Option<serde::de::IgnoredAny>,
        }
        let is_body = serde_json::from_slice::<Probe>(text).is_ok_and(|probe| probe.tee_evidence.is_some());
        if !is_body {
            return Ok(Self { evidence: SnpEvidence::from_json(text)?, form: Form::WireJson, report_data: None });
        }
        let body = Attestation::parse(text)?;
        let report_data = body.runtime_data.report_data(&body.additional_evidence)?;
        let evidence = SnpEvidence::from_json(body.primary_evidence.get().as_bytes())?;
        Ok(Self { evidence, form: Form::AttestBody, report_data: Some(report_data) })
    }

    /// Takes certificates from a file (DER, or PEM with one or more) instead of those of the evidence.
    ///
    /// # Errors
    /// See [`InputError`].
    pub fn use_certificates(&mut self, file: &[u8]) -> Result<(), InputError> {
        let certificates = certificates(file)?;
        let mut entries = Vec::new();
        for der in certificates {
            let certificate = Certificate::from_der(&der)?;
            entries.push((kind_of(&certificate), certificate.subject().to_string(), der));
        }
        if !entries.iter().any(|(kind, _, _)| matches!(kind, CertKind::Vcek | CertKind::Vlek)) {
            return Err(InputError::NoVek { first: entries.first().map_or_else(String::new, |(_, subject, _)| subject.clone()) });
        }
        self.evidence.certificates.retain(|entry| !matches!(entry.kind, CertKind::Vcek | CertKind::Vlek));
        self.evidence.certificates.extend(entries.into_iter().map(|(kind, _, data)| CertEntry { kind, data }));
        Ok(())
    }
}

/// DER of every certificate in a file.
fn certificates(file: &[u8]) -> Result<Vec<Vec<u8>>, InputError> {
    if file.trim_ascii_start().starts_with(b"-----BEGIN") { Ok(pem_certificates(file)?) } else { Ok(vec![file.to_vec()]) }
}

/// By its name; what is no endorsement key and no root is taken for an intermediate, and its signature decides.
fn kind_of(certificate: &Certificate) -> CertKind {
    match VekKind::of(certificate) {
        Some(VekKind::Vcek) => CertKind::Vcek,
        Some(VekKind::Vlek) => CertKind::Vlek,
        None if certificate.subject() == certificate.issuer() => CertKind::Ark,
        None => CertKind::Ask,
    }
}

/// A report as text, line breaks and spaces between digits allowed.
fn decode_text(text: &[u8]) -> Option<(Vec<u8>, Form)> {
    // Twice the report and a line break after each byte is more than any tool prints.
    if text.len() > 4 * Report::LEN {
        return None;
    }
    let digits: Vec<u8> = text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    let hex = HEXLOWER_PERMISSIVE.decode(&digits).ok().map(|bytes| (bytes, Form::ReportHex));
    let decoded = hex.or_else(|| BASE64.decode(&digits).ok().map(|bytes| (bytes, Form::ReportBase64)));
    decoded.filter(|(bytes, _)| bytes.len() == Report::LEN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report() -> Vec<u8> {
        let mut bytes = vec![0; Report::LEN];
        bytes[0] = 3;
        bytes[0x188] = 0x19;
        bytes
    }

    #[test]
    fn every_form_gives_the_same_report() {
        let raw = report();
        let expected = Report::parse(&raw).unwrap();
        let evidence = SnpEvidence { report: expected.clone(), certificates: vec![] };
        let hex = data_encoding::HEXUPPER.encode(&raw);
        let lines: String = hex.as_bytes().chunks(32).map(|line| format!("{}\n", String::from_utf8_lossy(line))).collect();
        for (bytes, form) in [
            (raw.clone(), Form::Report),
            (hex.into_bytes(), Form::ReportHex),
            (lines.into_bytes(), Form::ReportHex),
            (format!("{}\n", BASE64.encode(&raw)).into_bytes(), Form::ReportBase64),
            (evidence.to_raw_value().unwrap().to_string().into_bytes(), Form::WireJson),
            (format!(" \n{}", evidence.to_stock_value().unwrap()).into_bytes(), Form::WireJson),
        ] {
            let given = Given::read(&bytes).unwrap();
            assert_eq!((given.evidence.report, given.form), (expected.clone(), form));
        }
    }

    #[test]
    fn what_is_no_evidence_is_named() {
        for bytes in [&b""[..], b"hello", &[0; 1183], &[0; 1185], b"[]", b"00 11"] {
            assert!(matches!(Given::read(bytes), Err(InputError::Unknown { .. })), "{bytes:?}");
        }
        assert!(matches!(Given::read(b"{}"), Err(InputError::Evidence(_))));
        assert!(matches!(Given::read(br#"{"tee-evidence":1}"#), Err(InputError::Body(_))));
        assert!(matches!(Given::read(&[9; Report::LEN]), Err(InputError::Evidence(EvidenceError::Report(_)))));
        let mut given = Given::read(&report()).unwrap();
        assert!(matches!(given.use_certificates(b"no certificate"), Err(InputError::Certificate(_))));
    }

    proptest! {
        #[test]
        fn reading_is_total(bytes: Vec<u8>, json in r#"\{"(tee-evidence|attestation_report|attestation_report_raw)":[ -~]{0,60}\}"#) {
            let _ = Given::read(&bytes);
            let _ = Given::read(json.as_bytes());
            if let Ok(mut given) = Given::read(&report()) {
                let _ = given.use_certificates(&bytes);
            }
        }
    }
}
