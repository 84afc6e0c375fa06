//! GHCB certificate tables, as a host hands them to PID 1.
#![no_main]

use coffer_evidence::{CertEntry, CertKind, MAX_ENTRIES, MAX_ENTRY_LEN, build_cert_table, parse_cert_table};
use coffer_fuzz::plant;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    let Ok(entries) = parse_cert_table(bytes) else { return };
    assert!(entries.len() <= MAX_ENTRIES && entries.iter().all(|entry| entry.data.len() <= MAX_ENTRY_LEN), "bounded");
    for entry in &entries {
        assert_eq!(CertKind::of_guid(entry.kind.guid()), entry.kind, "one kind, one GUID");
        assert_eq!(entry.kind.guid().to_string().parse(), Ok(entry.kind.guid()));
        // Entries may overlap, but what they hold lies in the table.
        assert!(bytes.len() >= entry.data.len());
    }
    let again = build_cert_table(&entries).expect("a table that was read can be written");
    assert_eq!(parse_cert_table(&again), Ok(entries), "what we write, we read");
});

fn made() -> Vec<Vec<u8>> {
    let entry = |kind, length| CertEntry { kind, data: vec![0x30; length] };
    let tables =
        [vec![], vec![entry(CertKind::Vcek, 40)], vec![entry(CertKind::Vlek, 0), entry(CertKind::Ask, 7), entry(CertKind::Ark, 9)]];
    tables.iter().map(|entries| build_cert_table(entries).expect("small")).collect()
}
