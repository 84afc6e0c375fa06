//! What a policy in the stock service's form sees: token claims as `input`, the request as `data`.
//!
//! The shape is that of Trustee's KBS (its resource policy is asked `data.policy.allow`): an EAR token whose one submodule is `cpu0`.
//! It is made here of verified facts, never of a token somebody presents, so it says the same by cookie and by bearer token.

use serde_json::{Value, json};

use crate::input::{EvidenceFacts, Record};

/// The two documents of one question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StockInput {
    /// `input`: claims of a token.
    pub input: Value,
    /// `data`: `{"plugin": "resource", "resource-path": [repository, type, tag], "query": {}}`.
    pub data: Value,
}

/// Bits of PLATFORM_INFO (AMD 56860, table "PLATFORM_INFO Field"): SMT is on, TSME is on.
const SMT: u64 = 1;
const TSME: u64 = 1 << 1;

/// What the stock service would ask its resource policy about this evidence, record and path.
#[must_use]
pub fn stock_input(evidence: &EvidenceFacts, record: &Record, path: [&str; 3]) -> StockInput {
    let tcb = evidence.reported_tcb;
    let hardware = if evidence.root_of_trust == "amd-sev-snp" { 2 } else { 0 };
    let snp = json!({
        "measurement": evidence.launch_digest,
        "init_data": evidence.host_data,
        "chip_id": evidence.chip_id,
        "reported_tcb_bootloader": tcb.bootloader,
        "reported_tcb_tee": tcb.tee,
        "reported_tcb_snp": tcb.snp,
        "reported_tcb_microcode": tcb.microcode,
        "policy_abi_major": evidence.abi_major,
        "policy_abi_minor": evidence.abi_minor,
        "policy_smt_allowed": evidence.smt_allowed,
        "policy_migrate_ma": evidence.migration_allowed,
        "policy_debug_allowed": evidence.debug_allowed,
        "policy_single_socket": evidence.single_socket,
        "platform_smt_enabled": evidence.platform_info & SMT != 0,
        "platform_tsme_enabled": evidence.platform_info & TSME != 0,
    });
    let input = json!({
        "submods": { "cpu0": {
            "ear.status": "affirming",
            "ear.trustworthiness-vector": {
                "instance-identity": 2, "configuration": 2, "executables": 3, "file-system": 0,
                "hardware": hardware, "runtime-opaque": 0, "storage-opaque": 0, "sourced-data": 0,
            },
            "ear.veraison.annotated-evidence": { "snp": snp, "init_data": evidence.host_data },
        } },
        "coffer": { "project": record.project, "site": record.site, "role": record.role, "host_data": record.host_data },
    });
    StockInput { input, data: json!({ "plugin": "resource", "resource-path": path, "query": {} }) }
}
