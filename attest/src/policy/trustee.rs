//! `policy export --trustee`: a project's policy in the words of a stock Trustee, and what has none there.
//!
//! Trustee compares by membership in lists, so a minimum becomes the list of everything from it to 255. Its claims name neither the
//! family nor the committed, current and launch TCB; where that makes a difference the export is the stricter, or says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use coffer_kbs_policy::ExactName;
use coffer_manifest::{Enrollment, ProjectName, ResourcePath, SecretName};
use coffer_verify::{BitRule, CrlRule, FamilyValues, ReferenceValues};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value, json};

use super::document::PolicyDocument;

const ATTESTATION_POLICY: &str = include_str!("trustee/default_cpu.rego");
const RESOURCE_POLICY: &str = include_str!("trustee/resource_policy.rego");
const README: &str = include_str!("trustee/README.md");

/// A file of the export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportFile {
    /// Its name below the folder.
    pub name: String,
    /// Its contents.
    pub text: String,
}

/// Why there is nothing to export.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// Everything is refused.
    #[error("the policy of project `{project}` takes no family\nhint: coffer-attest policy set FILE --project {project}")]
    NoFamily {
        /// The project.
        project: ProjectName,
    },
    /// Nobody to bind anything to.
    #[error("project `{project}` has no active site")]
    NoSite {
        /// The project.
        project: ProjectName,
    },
}

/// Writes what a stock Trustee takes, for the active `records` of one project.
///
/// # Errors
/// See [`ExportError`].
pub fn export(
    project: &ProjectName,
    version: u64,
    document: &PolicyDocument,
    records: &[Enrollment],
) -> Result<Vec<ExportFile>, ExportError> {
    if document.reference_values.families.taken().next().is_none() {
        return Err(ExportError::NoFamily { project: project.clone() });
    }
    if records.is_empty() {
        return Err(ExportError::NoSite { project: project.clone() });
    }
    let bindings = bindings(document, project, records);
    let resource_policy = RESOURCE_POLICY.replace("@bindings@", &pretty(&bindings));
    let readme = README
        .replace("@project@", project.as_str())
        .replace("@version@", &version.to_string())
        .replace("@sites@", &records.len().to_string())
        .replace("@lost@", &lost(document));
    let encode = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
    let attestation_body = json!({ "type": "rego", "policy_id": "default_cpu", "policy": encode(ATTESTATION_POLICY) });
    let mut files = vec![
        file("README.md", readme),
        file("attestation-policy-default_cpu.rego", ATTESTATION_POLICY.to_owned()),
        file("attestation-policy.json", attestation_body.to_string()),
        file("resource-policy.json", json!({ "policy": encode(&resource_policy) }).to_string()),
        file("resource-policy.rego", resource_policy),
    ];
    for (name, values) in reference_values(document, records) {
        let payload = BASE64.encode(json!({ name.as_str(): values }).to_string().as_bytes());
        let message = json!({ "version": "0.1.0", "type": "sample", "payload": payload });
        files.push(file(&format!("reference-values/{name}.json"), message.to_string()));
    }
    Ok(files)
}

fn file(name: &str, text: String) -> ExportFile {
    ExportFile { name: name.to_owned(), text: if text.ends_with('\n') { text } else { format!("{text}\n") } }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Every list, by its name at Trustee.
#[must_use]
pub fn reference_values(document: &PolicyDocument, records: &[Enrollment]) -> BTreeMap<String, Vec<Value>> {
    let values = &document.reference_values;
    let digests: BTreeSet<String> = records.iter().flat_map(|record| &record.launch_digests).map(ToString::to_string).collect();
    let host_data: BTreeSet<String> = records.iter().map(|record| record.host_data.to_string()).collect();
    let floor = |component: fn(&coffer_evidence::TcbVersion) -> u8| {
        let lowest = values.families.taken().map(|(_, family)| component(&family.tcb_floor)).max().unwrap_or(u8::MAX);
        from(lowest)
    };
    let (major, minor) = values.guest_policy.minimum_abi.map_or((0, 0), |abi| (abi.major, abi.minor));
    let lists = [
        (ExactName::SnpLaunchMeasurement, digests.into_iter().map(Value::from).collect()),
        (ExactName::SnpBootloader, floor(|tcb| tcb.bootloader)),
        (ExactName::SnpTeeSvn, floor(|tcb| tcb.tee)),
        (ExactName::SnpSnpSvn, floor(|tcb| tcb.snp)),
        (ExactName::SnpMicrocode, floor(|tcb| tcb.microcode)),
        (ExactName::SnpGuestAbiMajor, from(major)),
        (ExactName::SnpGuestAbiMinor, from(minor)),
        (ExactName::SnpSingleSocket, bit(values.guest_policy.single_socket)),
        (ExactName::SnpSmtAllowed, bit(values.guest_policy.smt)),
        (ExactName::SnpSmtEnabled, bit(values.platform.smt)),
        (ExactName::SnpTsmeEnabled, bit(values.platform.tsme)),
    ];
    let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (name, mut list) in lists {
        if let Some(exact) = document.stock_reference_values.lists().get(&name) {
            list.retain(|value| exact.contains(value));
        }
        all.insert(name.to_string(), list);
    }
    all.insert("coffer_host_data".to_owned(), host_data.into_iter().map(Value::from).collect());
    all
}

/// A minimum as a list: everything from it to the largest.
fn from(lowest: u8) -> Vec<Value> {
    (lowest..=u8::MAX).map(Value::from).collect()
}

fn bit(rule: BitRule) -> Vec<Value> {
    [false, true].into_iter().filter(|bit| rule.allows(*bit)).map(Value::from).collect()
}

/// Path → site configs that get it, each with its bases.
fn bindings(document: &PolicyDocument, project: &ProjectName, records: &[Enrollment]) -> Value {
    let mut paths: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let binding = |record: &Enrollment| json!({ "host_data": record.host_data, "launch_digests": record.launch_digests });
    for record in records {
        for secret in [SecretName::Root, SecretName::Kit] {
            let path = ResourcePath { project: record.project.clone(), site: record.site.clone(), host_data: record.host_data, secret };
            paths.entry(path.to_string()).or_default().push(binding(record));
        }
    }
    for resource in &document.stock_resources {
        let sites = records.iter().filter(|record| resource.sites.contains(&record.site));
        paths.entry(format!("{project}/{}", resource.path)).or_default().extend(sites.map(binding));
    }
    json!(paths)
}

/// What the document asks for, or this service always does, that has no word at Trustee: one line each.
fn lost(document: &PolicyDocument) -> String {
    let values = &document.reference_values;
    let mut lines = vec![
        "- committed, current and launch TCB: only the reported TCB is a claim".to_owned(),
        "- that the certificate is this chip's: the hardware id is compared with the literal name `VCEK`, which no certificate has"
            .to_owned(),
        "- `report_versions`, `signing_keys`, `masked_chip`: not looked at; a VLEK passes".to_owned(),
        "- dates of certificates: an expired VLEK passes; revocation lists of AMD are not looked at".to_owned(),
        "- that KEY_INFO names the key that signed, that CPUID, certificate and root name one family".to_owned(),
        "- reserved bits of the report and of the guest policy".to_owned(),
        "- a challenge that counts once: its nonce survives a failed attempt".to_owned(),
        "- who may write a path, and that a revoked site stays revoked: export again after each enrollment and revocation".to_owned(),
        "- records per site: roles, `supersedes` and its overlap, author key, chips and TCB floor of one enrollment".to_owned(),
    ];
    let families: Vec<_> = values.families.taken().map(|(family, _)| family.to_string()).collect();
    if families.len() > 1 {
        let names = families.join(", ");
        lines.push(format!(
            "- floors per family: the claims do not name the family, so every platform needs the highest of {names} in each component; \
             a Trustee for each family has the floors as they are"
        ));
    } else if let Some(family) = families.first() {
        lines.push(format!("- that only {family} is taken: every family at or above these numbers passes"));
    }
    let guest_asks =
        values.guest_policy.bits().into_iter().filter(|(name, _, rule)| !matches!(*name, "smt" | "single_socket") && *rule != BitRule::Any);
    let platform_asks =
        values.platform.bits().into_iter().filter(|(name, _, rule)| !matches!(*name, "smt" | "tsme") && *rule != BitRule::Any);
    lines.extend(guest_asks.map(|(name, ..)| format!("- `guest_policy.{name}`")));
    lines.extend(platform_asks.map(|(name, ..)| format!("- `platform.{name}`")));
    if values.guest_policy.minimum_abi.is_some() {
        lines.push("- `guest_policy.minimum_abi` as one number: a higher major version still needs the minor one".to_owned());
    }
    lines.extend(asked(values).into_iter().map(|member| format!("- `{member}`")));
    if !document.rego.is_empty() {
        lines.push("- the project's own rego: it is asked with inputs that Trustee does not have".to_owned());
    }
    let mut text = String::new();
    for line in lines {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{line}");
    }
    text.trim_end().to_owned()
}

/// Members that ask for something Trustee has no claim of.
fn asked(values: &ReferenceValues) -> Vec<&'static str> {
    // By name, so that a new member does not compile until somebody has said whether Trustee has a claim of it. The first five are
    // exported as far as there is a claim, and `lost` says the rest.
    let ReferenceValues {
        report_versions: _,
        signing_keys: _,
        masked_chip: _,
        platform: _,
        guest_policy: _,
        families,
        csp_ids,
        family_id,
        image_id,
        minimum_guest_svn,
        id_keys,
        author_keys,
        chips,
        crl,
    } = values;
    let any = |asks: fn(&FamilyValues) -> bool| families.taken().any(|(_, values)| asks(values));
    [
        ("families.*.minimum_firmware", any(|family| family.minimum_firmware.is_some())),
        ("families.*.launch_mitigations", any(|family| family.launch_mitigations.is_some())),
        ("families.*.current_mitigations", any(|family| family.current_mitigations.is_some())),
        ("families.turin.tcb_floor.fmc", any(|family| family.tcb_floor.fmc.is_some())),
        ("family_id", family_id.is_some()),
        ("image_id", image_id.is_some()),
        ("minimum_guest_svn", minimum_guest_svn.is_some()),
        ("id_keys", id_keys.is_some()),
        ("author_keys", author_keys.is_some()),
        ("chips.allow", chips.allow.is_some()),
        ("chips.deny", !chips.deny.is_empty()),
        ("crl: required", *crl == CrlRule::Required),
        ("csp_ids", !csp_ids.is_empty()),
    ]
    .into_iter()
    .filter_map(|(member, asks)| asks.then_some(member))
    .collect()
}

#[cfg(test)]
mod tests;
