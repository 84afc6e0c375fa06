//! SNP evidence as wire JSON, stock and lossless.
#![no_main]

use coffer_evidence::{CertEntry, CertKind, MAX_ENTRIES, MAX_ENTRY_LEN, Report, SnpEvidence};
use coffer_fuzz::{plant, vectors};
use libfuzzer_sys::fuzz_target;

const WIRE: [&str; 5] = [
    "snp/trustee/e2e-evidence.json",
    "snp/wire/genoa-v3-nochain.json",
    "snp/wire/turin-v5-nochain.json",
    "snp/wire/milan-v2-vcek.json",
    "snp/wire/milan-v3-vlek-vmpl1.json",
];

fuzz_target!(init: plant(made().into_iter().chain(vectors(&WIRE))), |bytes: &[u8]| {
    let Ok(evidence) = SnpEvidence::from_json(bytes) else { return };
    assert!(evidence.certificates.len() <= MAX_ENTRIES, "bounded");
    assert!(evidence.certificates.iter().all(|entry| entry.data.len() <= MAX_ENTRY_LEN), "bounded");
    // Members that are passed over may hold text that is none; there is no value of those.
    if let Ok(value) = serde_json::from_slice(bytes) {
        assert_eq!(SnpEvidence::from_value(&value).expect("text and value say the same"), evidence);
    }

    let raw = evidence.to_raw_value().expect("accepted evidence can be written");
    assert_eq!(SnpEvidence::from_value(&raw).expect("what we write, we read"), evidence, "our form is lossless");
    let stock = evidence.to_stock_value().expect("accepted evidence can be written");
    let again = SnpEvidence::from_value(&stock).expect("what stock attesters write, we read");
    assert_eq!((again.report.fields(), &again.certificates), (evidence.report.fields(), &evidence.certificates));
});

/// Both forms of one report of each version.
fn made() -> Vec<Vec<u8>> {
    let evidence = Report::VERSIONS.map(|version| {
        let mut bytes = [0; Report::LEN];
        bytes[..4].copy_from_slice(&version.to_le_bytes());
        let report = Report::parse(&bytes).expect("a known version");
        let other = CertKind::Other("01020304-0506-0708-090a-0b0c0d0e0f10".parse().expect("a GUID"));
        let certificates = [CertKind::Vcek, other].map(|kind| CertEntry { kind, data: vec![1, 2] });
        SnpEvidence { report, certificates: certificates.into() }
    });
    let forms = evidence.iter().flat_map(|evidence| [evidence.to_raw_value(), evidence.to_stock_value()]);
    forms.map(|value| value.expect("fits").to_string().into_bytes()).collect()
}
