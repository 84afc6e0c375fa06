//! Reports, certificate tables, certificates and wire evidence, as an attester sends them.
#![no_main]

use coffer_evidence::{Certificate, Report, SnpEvidence, build_cert_table, parse_cert_table, pem_certificates};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(report) = Report::parse(bytes) {
        // What was parsed is what was received: nothing is lost that a signature covers.
        assert_eq!(report.as_bytes().as_slice(), bytes);
        let _ = report.family();
    }
    if let Ok(table) = parse_cert_table(bytes) {
        let again = build_cert_table(&table).expect("a parsed table can be written");
        assert_eq!(parse_cert_table(&again), Ok(table));
    }
    if let Ok(certificate) = Certificate::from_der_or_pem(bytes) {
        let _ = (certificate.may_sign_certificates(), certificate.knows_all_critical_extensions());
    }
    let _ = pem_certificates(bytes);
    if let Ok(evidence) = SnpEvidence::from_json(bytes) {
        let raw = evidence.to_raw_value().expect("accepted evidence can be written");
        SnpEvidence::from_value(&raw).expect("what we write, we read");
    }
});
