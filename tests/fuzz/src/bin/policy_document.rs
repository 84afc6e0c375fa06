//! Policy documents, and bodies of stock admin tools.
#![no_main]

use coffer_fuzz::plant;
use data_encoding::{BASE64, BASE64URL_NOPAD};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

use crate::document::{DOCUMENT_TYPE, MAX_DOCUMENT_BYTES, PolicyDocument};
use crate::stock_body::{StockRego, StockValues, attestation_policy, reference_values, resource_policy};

#[path = "../../../../attest/src/policy/document.rs"]
#[allow(dead_code)]
mod document;
#[path = "../../../../attest/src/policy/stock_body.rs"]
#[allow(dead_code)]
mod stock_body;
#[path = "../../../../attest/src/policy/weaker.rs"]
#[allow(dead_code)]
mod weaker;

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    if let Ok(document) = PolicyDocument::parse(bytes) {
        assert!(bytes.len() <= MAX_DOCUMENT_BYTES);
        let stored = document.to_bytes().expect("a document can be stored");
        let again = PolicyDocument::parse(&stored).expect("what is stored is read back");
        assert_eq!(again, document);
        assert_eq!(weaker::weakenings(&document, &again), Vec::<String>::new(), "nothing is weaker than itself");
        for resource in &document.stock_resources {
            let full = format!("demo/{}", resource.path);
            assert!(full.parse::<coffer_manifest::ResourcePath>().is_err(), "{full} is an enrollment's");
            assert_eq!(document.stock_resource(&resource.path), Some(resource), "a path is listed once");
        }
    }
    if let Ok(StockRego::Token(_)) = resource_policy(bytes) {
        panic!("a resource policy narrows no token");
    }
    if let Ok(StockRego::Release(_) | StockRego::Stock(_)) = attestation_policy(bytes) {
        panic!("an attestation policy narrows no release");
    }
    if let Ok(StockValues::Lists(lists)) = reference_values(bytes) {
        assert!(!lists.is_empty() && lists.lists().values().all(|list| !list.is_empty()));
    }
});

fn made() -> Vec<Vec<u8>> {
    let floor = json!({ "bootloader": 10, "tee": 0, "snp": 23, "microcode": 84 });
    let release = "package coffer.release\ndefault allow := false\nallow if input.evidence.family == \"genoa\"\n";
    let document = json!({
        "type": DOCUMENT_TYPE,
        "reference_values": {
            "families": { "genoa": { "tcb_floor": floor, "minimum_firmware": { "major": 1, "minor": 55, "build": 40 } } },
            "signing_keys": ["vcek", "vlek"], "csp_ids": ["CN=cc-us-east-2.amazonaws.com"],
            "chips": { "deny": ["ab".repeat(64)] }, "crl": "required",
        },
        "stock_reference_values": { "snp_bootloader": [10, 11], "snp_smt_enabled": [true] },
        "stock_resources": [{ "path": "disk/key1", "sites": ["site-1"], "writable": true }],
        "rego": { "release": release, "fixtures": [{ "question": "release", "input": {}, "allow": false }] },
    });
    let message = |value: &serde_json::Value| {
        json!({ "version": "0.1.0", "type": "sample", "payload": BASE64.encode(value.to_string().as_bytes()) }).to_string()
    };
    let rego = |text: &str| json!({ "type": "rego", "policy_id": "default_cpu", "policy": BASE64URL_NOPAD.encode(text.as_bytes()) }).to_string();
    [
        document.to_string(),
        message(&json!({ DOCUMENT_TYPE: document })),
        message(&json!({ "snp_bootloader": [10], "snp_smt_allowed": true })),
        rego(release),
        rego("package coffer.token\ndefault allow := false\n"),
        rego("package policy\ndefault allow = false\nplugin = data.plugin\nallow if plugin == \"resource\"\n"),
    ]
    .map(String::into_bytes)
    .to_vec()
}
