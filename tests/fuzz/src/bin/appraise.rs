//! What an auditor hands to `coffer-attest appraise`: evidence of any form, told apart by its bytes, and certificates beside it.
//!
//! An input is evidence and certificates, with a line `--` of its own between them where there are any.
#![no_main]

use coffer_evidence::{CertKind, Report, SnpEvidence};
use coffer_fuzz::{plant, vectors};
use libfuzzer_sys::fuzz_target;

use crate::input::{Form, Given};

#[path = "../../../../attest/src/failure.rs"]
#[allow(dead_code)]
mod failure;
#[path = "../../../../attest/src/command/appraise/input.rs"]
mod input;

const SEPARATOR: &[u8] = b"\n--\n";
const EVIDENCE: [&str; 4] =
    ["snp/wire/genoa-v3-vcek.json", "snp/wire/turin-v5-nochain.json", "snp/virtee-sev/report_milan.hex", "snp/openanolis/turin-report.bin"];
const CERTIFICATES: [&str; 4] =
    ["snp/openanolis/turin-vcek.der", "snp/dstack/sev_snp_vcek.pem", "snp/virtee-sev/cert_chain_milan", "snp/trustee/test-vlek.der"];

fuzz_target!(init: plant(seeds()), |bytes: &[u8]| {
    let at = bytes.windows(SEPARATOR.len()).position(|window| window == SEPARATOR);
    let (evidence, certificates) = at.map_or((bytes, None), |at| (&bytes[..at], Some(&bytes[at + SEPARATOR.len()..])));
    let Ok(mut given) = Given::read(evidence) else { return };
    let report = given.evidence.report.clone();
    assert_eq!(given.report_data.is_some(), given.form == Form::AttestBody, "only a body says what REPORT_DATA must be");
    match given.form {
        Form::Report => assert_eq!(report.as_bytes().as_slice(), evidence),
        Form::ReportHex | Form::ReportBase64 => assert!(evidence.len() > Report::LEN && given.evidence.certificates.is_empty()),
        Form::WireJson => assert_eq!(SnpEvidence::from_json(evidence.trim_ascii()).expect("as the service reads it"), given.evidence),
        Form::AttestBody => assert!(SnpEvidence::from_json(evidence.trim_ascii()).is_err(), "a body is no evidence"),
    }
    let own = given.evidence.certificates.clone();
    let Some(certificates) = certificates else { return };
    let is_vek = |kind: &CertKind| matches!(kind, CertKind::Vcek | CertKind::Vlek);
    match given.use_certificates(certificates) {
        Ok(()) => {
            assert!(given.evidence.certificates.iter().any(|entry| is_vek(&entry.kind)), "there is one to use");
            let kept = own.iter().filter(|entry| !is_vek(&entry.kind)).count();
            assert!(given.evidence.certificates[..kept].iter().all(|entry| own.contains(entry)), "what stays, stays as it was");
        }
        Err(_) => assert_eq!(given.evidence.certificates, own, "nothing is taken of a file that cannot be used"),
    }
    assert_eq!(given.evidence.report, report);
});

/// Each evidence alone, and with each file of certificates.
fn seeds() -> Vec<Vec<u8>> {
    let mut report = vec![0; Report::LEN];
    report[0] = 3;
    let text = data_encoding::BASE64.encode(&report).into_bytes();
    let body = br#"{"init-data":null,"runtime-data":{},"tee-evidence":{"primary_evidence":{},"additional_evidence":""}}"#.to_vec();
    let alone: Vec<Vec<u8>> = [report, text, body].into_iter().chain(vectors(&EVIDENCE)).collect();
    let with = vectors(&CERTIFICATES).into_iter().enumerate().map(|(n, file)| [&alone[n], SEPARATOR, &file].concat()).collect::<Vec<_>>();
    [alone, with].concat()
}
