//! A project's reference values, as an admin sends them.
#![no_main]

use coffer_fuzz::plant;
use coffer_verify::{MILAN_RISK, ReferenceValues};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    let Ok(values) = serde_json::from_slice::<ReferenceValues>(bytes) else { return };
    assert_eq!(values.check(), Ok(()), "what was read makes sense");
    let milan = values.families.milan.as_ref();
    assert!(milan.is_none_or(|milan| milan.risk_accepted.as_deref() == Some(MILAN_RISK)), "nobody takes Milan unawares");
    let written = serde_json::to_vec(&values).expect("can be written");
    assert_eq!(serde_json::from_slice::<ReferenceValues>(&written).expect("what we write, we read"), values);
});

fn made() -> Vec<Vec<u8>> {
    let floor = json!({"bootloader": 1, "tee": 2, "snp": 3, "microcode": 4});
    let documents = [
        json!({"families": {}}),
        json!({"families": {"genoa": {"tcb_floor": floor}}, "crl": "required", "masked_chip": true}),
        json!({
            "report_versions": [2, 3, 5],
            "families": {
                "milan": {"tcb_floor": floor, "risk_accepted": MILAN_RISK, "minimum_firmware": {"major": 1, "minor": 55, "build": 40}},
                "turin": {"tcb_floor": {"fmc": 1, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 4}, "launch_mitigations": 1, "current_mitigations": 63},
            },
            "signing_keys": ["vcek", "vlek"],
            "csp_ids": ["CN=cc-us-east-2.amazonaws.com"],
            "platform": {"smt": "forbidden", "alias_check": "any"},
            "guest_policy": {"single_socket": "required", "minimum_abi": {"major": 1, "minor": 55}},
            "family_id": "01".repeat(16),
            "image_id": "02".repeat(16),
            "minimum_guest_svn": 3,
            "id_keys": ["ab".repeat(48)],
            "author_keys": ["cd".repeat(48)],
            "chips": {"allow": ["ef".repeat(64)], "deny": ["01".repeat(64)]},
        }),
    ];
    documents.iter().map(|document| document.to_string().into_bytes()).collect()
}
