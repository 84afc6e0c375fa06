//! SNP attestation reports.
#![no_main]

use coffer_evidence::{Report, SnpEvidence};
use coffer_fuzz::{plant, vectors};
use libfuzzer_sys::fuzz_target;

const REPORTS: [&str; 8] = [
    "snp/go-sev-guest/attestation.bin",
    "snp/virtee-sev/report_milan.derived.bin",
    "snp/trustee/test-report.bin",
    "snp/automata/report.derived.bin",
    "snp/dstack/report.derived.bin",
    "snp/trustee/test-vlek-report.bin",
    "snp/trustee/e2e-report.derived.bin",
    "snp/openanolis/turin-report.bin",
];

fuzz_target!(init: plant(made().into_iter().chain(vectors(&REPORTS))), |bytes: &[u8]| {
    assert!(Report::parse(bytes).is_err() || bytes.len() == Report::LEN, "a report has one length");
    let mut whole = [0; Report::LEN];
    let common = bytes.len().min(Report::LEN);
    whole[..common].copy_from_slice(&bytes[..common]);
    let Ok(report) = Report::parse(&whole) else { return };

    assert_eq!(report.as_bytes(), &whole, "what a signature covers is kept");
    let rebuilt = Report::parse(&report.fields().encode()).expect("what we write, we read");
    assert_eq!(rebuilt.fields(), report.fields(), "fields to bytes loses nothing");
    let lost = whole.iter().zip(rebuilt.as_bytes()).position(|(before, after)| before != after);
    assert_eq!(report.nonzero_reserved(), lost, "what fields do not hold is named");
    let _ = (report.family(), format!("{report:?}"));

    let evidence = SnpEvidence { report, certificates: Vec::new() };
    let raw = SnpEvidence::from_value(&evidence.to_raw_value().expect("fits")).expect("what we write, we read");
    assert_eq!(raw, evidence, "our form is lossless");
    let stock = SnpEvidence::from_value(&evidence.to_stock_value().expect("fits")).expect("what stock attesters write, we read");
    assert_eq!(stock.report, rebuilt, "the stock form loses reserved bytes alone");
});

/// One report of each version.
fn made() -> Vec<Vec<u8>> {
    let made = Report::VERSIONS.map(|version| {
        let mut bytes = vec![0; Report::LEN];
        bytes[..4].copy_from_slice(&version.to_le_bytes());
        bytes[0x188] = 0x1A; // CPUID family of Turin
        bytes
    });
    made.into()
}
