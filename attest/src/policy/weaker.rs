//! What a change makes weaker: one line each, printed to whoever makes it and written into the audit log.

use std::fmt::Display;

use coffer_evidence::{Family, TcbVersion};
use coffer_verify::{BitRule, CrlRule, FamilyValues, MILAN_RISK, ReferenceValues};

use super::document::{PolicyDocument, StockResource};

/// Compares a document with the one it replaces. Empty where nothing gets weaker.
///
/// A rego text that changes is always named: what it allows now, only a dry run can tell.
#[must_use]
pub fn weakenings(old: &PolicyDocument, new: &PolicyDocument) -> Vec<String> {
    // By name, so that a new member does not compile until somebody has said below what makes it weaker.
    let PolicyDocument { kind: _, reference_values, stock_reference_values: _, stock_resources: _, rego: _ } = new;
    let ReferenceValues {
        report_versions: _,
        families: _,
        signing_keys: _,
        csp_ids: _,
        masked_chip: _,
        platform: _,
        guest_policy: _,
        family_id: _,
        image_id: _,
        minimum_guest_svn: _,
        id_keys: _,
        author_keys: _,
        chips: _,
        crl: _,
    } = reference_values;
    let mut lines = Vec::new();
    families(&old.reference_values, &new.reference_values, &mut lines);
    signers(&old.reference_values, &new.reference_values, &mut lines);
    bits(&old.reference_values, &new.reference_values, &mut lines);
    id_block(&old.reference_values, &new.reference_values, &mut lines);
    chips(&old.reference_values, &new.reference_values, &mut lines);
    exact(old, new, &mut lines);
    resources(old, new, &mut lines);
    rego(old, new, &mut lines);
    lines
}

fn families(old: &ReferenceValues, new: &ReferenceValues, lines: &mut Vec<String>) {
    for (family, values) in new.families.taken() {
        match old.families.of(family) {
            None if family == Family::Milan => {
                lines.push(format!("milan is taken now: {MILAN_RISK} extracts its VCEK seed, so its reports may come from anywhere"));
            }
            None => lines.push(format!("{family} is taken now")),
            Some(before) => family_values(family, before, values, lines),
        }
    }
    for version in new.report_versions.iter().filter(|version| !old.report_versions.contains(version)) {
        let more = if *version == 2 { ": it names no CPUID, so its family rests on the certificate alone" } else { "" };
        lines.push(format!("report version {version} is taken now{more}"));
    }
}

fn family_values(family: Family, old: &FamilyValues, new: &FamilyValues, lines: &mut Vec<String>) {
    // By name, as above. `risk_accepted` is said where Milan is taken.
    let FamilyValues { tcb_floor: _, minimum_firmware: _, launch_mitigations: _, current_mitigations: _, risk_accepted: _ } = new;
    for (name, before, after) in components(old.tcb_floor, new.tcb_floor) {
        if after < before {
            lines.push(format!("{family}: floor of {name} falls from {before} to {after}"));
        }
    }
    let firmware = |values: &FamilyValues| values.minimum_firmware.map(|v| (v.major, v.minor, v.build));
    if firmware(new) < firmware(old) {
        lines.push(format!("{family}: minimum_firmware falls from {} to {}", shown(firmware(old)), shown(firmware(new))));
    }
    for (name, before, after) in [
        ("launch_mitigations", old.launch_mitigations, new.launch_mitigations),
        ("current_mitigations", old.current_mitigations, new.current_mitigations),
    ] {
        let (before, after) = (before.unwrap_or(0), after.unwrap_or(0));
        if before & !after != 0 {
            lines.push(format!("{family}: {name} no longer asks for bits {:#x}", before & !after));
        }
    }
}

fn components(old: TcbVersion, new: TcbVersion) -> [(&'static str, u8, u8); 5] {
    [
        ("fmc", old.fmc.unwrap_or(0), new.fmc.unwrap_or(0)),
        ("bootloader", old.bootloader, new.bootloader),
        ("tee", old.tee, new.tee),
        ("snp", old.snp, new.snp),
        ("microcode", old.microcode, new.microcode),
    ]
}

fn shown(version: Option<(u8, u8, u8)>) -> String {
    version.map_or_else(|| "none".to_owned(), |(major, minor, build)| format!("{major}.{minor}.{build}"))
}

fn signers(old: &ReferenceValues, new: &ReferenceValues, lines: &mut Vec<String>) {
    for kind in new.signing_keys.iter().filter(|kind| !old.signing_keys.contains(kind)) {
        let name = serde_json::to_string(kind).unwrap_or_default();
        lines.push(format!("keys of kind {name} may sign now: a VLEK proves a provider's fleet, and hides the chip from every list"));
    }
    for csp in new.csp_ids.iter().filter(|csp| !old.csp_ids.contains(csp)) {
        lines.push(format!("the VLEK of `{csp}` is taken now"));
    }
    if new.masked_chip && !old.masked_chip {
        lines.push("masked chip ids are taken now: the report no longer names the chip".to_owned());
    }
    if (old.crl, new.crl) == (CrlRule::Required, CrlRule::IfPresent) {
        lines.push("a current revocation list is no longer required".to_owned());
    }
}

fn bits(old: &ReferenceValues, new: &ReferenceValues, lines: &mut Vec<String>) {
    let platform = old.platform.bits().into_iter().zip(new.platform.bits()).map(|pair| ("platform", pair));
    let policy = old.guest_policy.bits().into_iter().zip(new.guest_policy.bits()).map(|pair| ("guest_policy", pair));
    for (of, ((name, _, before), (_, _, after))) in platform.chain(policy) {
        if before != BitRule::Any && after != before {
            lines.push(format!("{of}.{name} is {} now, was {}", word(after), word(before)));
        }
    }
    let abi = |values: &ReferenceValues| values.guest_policy.minimum_abi.map(|abi| (abi.major, abi.minor));
    if abi(new) < abi(old) {
        lines.push("guest_policy.minimum_abi falls".to_owned());
    }
}

const fn word(rule: BitRule) -> &'static str {
    match rule {
        BitRule::Any => "any",
        BitRule::Required => "required",
        BitRule::Forbidden => "forbidden",
    }
}

fn id_block(old: &ReferenceValues, new: &ReferenceValues, lines: &mut Vec<String>) {
    if old.family_id.is_some() && old.family_id != new.family_id {
        lines.push("another family_id is taken now, or any".to_owned());
    }
    if old.image_id.is_some() && old.image_id != new.image_id {
        lines.push("another image_id is taken now, or any".to_owned());
    }
    if new.minimum_guest_svn < old.minimum_guest_svn {
        lines.push("minimum_guest_svn falls".to_owned());
    }
    widened("id_keys", old.id_keys.as_deref(), new.id_keys.as_deref(), lines);
    widened("author_keys", old.author_keys.as_deref(), new.author_keys.as_deref(), lines);
}

/// A list of what is allowed gets weaker by being left out or by an entry.
fn widened<T: PartialEq + Display>(name: &str, old: Option<&[T]>, new: Option<&[T]>, lines: &mut Vec<String>) {
    match (old, new) {
        (Some(_), None) => lines.push(format!("{name} is no longer asked for")),
        (Some(old), Some(new)) => {
            lines.extend(new.iter().filter(|entry| !old.contains(entry)).map(|entry| format!("{name} takes {entry} now")));
        }
        (None, _) => {}
    }
}

fn chips(old: &ReferenceValues, new: &ReferenceValues, lines: &mut Vec<String>) {
    widened("chips.allow", old.chips.allow.as_deref(), new.chips.allow.as_deref(), lines);
    let freed = old.chips.deny.iter().filter(|chip| !new.chips.deny.contains(chip));
    lines.extend(freed.map(|chip| format!("chip {chip} is no longer denied")));
}

fn exact(old: &PolicyDocument, new: &PolicyDocument, lines: &mut Vec<String>) {
    let after = new.stock_reference_values.lists();
    for (name, before) in old.stock_reference_values.lists() {
        widened(&format!("stock_reference_values.{name}"), Some(before.as_slice()), after.get(name).map(Vec::as_slice), lines);
    }
}

fn resources(old: &PolicyDocument, new: &PolicyDocument, lines: &mut Vec<String>) {
    for resource in &new.stock_resources {
        let StockResource { path, sites, writable } = resource;
        let before = old.stock_resource(path);
        let added = sites.iter().filter(|site| before.is_none_or(|before| !before.sites.contains(site)));
        lines.extend(added.map(|site| format!("stock resource {path} is released to {site} now")));
        if *writable && !before.is_some_and(|before| before.writable) {
            lines.push(format!("stock resource {path} may be written by a bearer token now"));
        }
    }
}

fn rego(old: &PolicyDocument, new: &PolicyDocument, lines: &mut Vec<String>) {
    for (name, before, after) in [
        ("release", &old.rego.release, &new.rego.release),
        ("token", &old.rego.token, &new.rego.token),
        ("stock", &old.rego.stock, &new.rego.stock),
    ] {
        match (before, after) {
            (Some(_), None) => lines.push(format!("rego.{name} is gone")),
            (Some(before), Some(after)) if before != after => {
                lines.push(format!("rego.{name} is another: what it allows, `policy dry-run` tells"));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn full() -> Value {
        let chip = "aa".repeat(64);
        let key = "bb".repeat(48);
        let digest = "cc".repeat(48);
        json!({
            "type": super::super::document::DOCUMENT_TYPE,
            "reference_values": {
                "report_versions": [5],
                "families": {
                    "turin": {
                        "tcb_floor": { "fmc": 1, "bootloader": 3, "tee": 2, "snp": 5, "microcode": 97 },
                        "minimum_firmware": { "major": 1, "minor": 58, "build": 3 },
                        "launch_mitigations": 63, "current_mitigations": 63,
                    },
                },
                "platform": { "alias_check": "required", "smt": "forbidden" },
                "guest_policy": { "single_socket": "required", "minimum_abi": { "major": 1, "minor": 55 } },
                "family_id": "01".repeat(16), "image_id": "02".repeat(16), "minimum_guest_svn": 3,
                "id_keys": [key], "author_keys": [key],
                "chips": { "allow": [chip], "deny": ["dd".repeat(64)] },
                "crl": "required",
            },
            "stock_reference_values": { "snp_launch_measurement": [digest] },
            "stock_resources": [{ "path": "disk/key1", "sites": ["site-1"] }],
            "rego": { "release": "package coffer.release\ndefault allow := false\nallow if input.evidence.family == \"turin\"\n" },
        })
    }

    fn changed(pointer: &str, value: Option<Value>) -> Vec<String> {
        let parse = |value: &Value| PolicyDocument::read(value.to_string().as_bytes()).unwrap();
        let old = full();
        let mut new = full();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let place = new.pointer_mut(parent).unwrap();
        match (value, place) {
            (Some(value), Value::Array(items)) => items.push(value),
            (Some(value), place) => place[name] = value,
            (None, Value::Array(items)) => {
                let _ = items.pop();
            }
            (None, place) => {
                let _ = place.as_object_mut().unwrap().remove(name).unwrap();
            }
        }
        weakenings(&parse(&old), &parse(&new))
    }

    /// Each weakening, made alone, gives exactly one line.
    #[test]
    fn each_weakening_is_one_line() {
        let milan = json!({ "tcb_floor": { "bootloader": 4, "tee": 0, "snp": 24, "microcode": 219 }, "risk_accepted": MILAN_RISK });
        let genoa = json!({ "tcb_floor": { "bootloader": 10, "tee": 0, "snp": 23, "microcode": 84 } });
        let turin = "/reference_values/families/turin";
        let at = |rest: &str| format!("/reference_values/{rest}");
        for (pointer, value, says) in [
            (at("families/milan"), Some(milan), MILAN_RISK),
            (at("families/genoa"), Some(genoa), "genoa is taken now"),
            (format!("{turin}/tcb_floor/microcode"), Some(json!(96)), "floor of microcode falls from 97 to 96"),
            (format!("{turin}/tcb_floor/fmc"), Some(json!(0)), "floor of fmc falls from 1 to 0"),
            (format!("{turin}/minimum_firmware"), None, "minimum_firmware falls from 1.58.3 to none"),
            (format!("{turin}/minimum_firmware/build"), Some(json!(2)), "minimum_firmware falls from 1.58.3 to 1.58.2"),
            (format!("{turin}/launch_mitigations"), Some(json!(62)), "launch_mitigations no longer asks for bits 0x1"),
            (format!("{turin}/current_mitigations"), None, "current_mitigations no longer asks for bits 0x3f"),
            (at("report_versions/-"), Some(json!(2)), "names no CPUID"),
            (at("masked_chip"), Some(json!(true)), "masked chip ids"),
            (at("crl"), None, "revocation list is no longer required"),
            (at("platform/alias_check"), Some(json!("any")), "platform.alias_check is any now, was required"),
            (at("platform/smt"), Some(json!("required")), "platform.smt is required now, was forbidden"),
            (at("guest_policy/single_socket"), None, "guest_policy.single_socket is any now, was required"),
            (at("guest_policy/minimum_abi/minor"), Some(json!(54)), "minimum_abi falls"),
            (at("family_id"), None, "another family_id"),
            (at("image_id"), Some(json!("03".repeat(16))), "another image_id"),
            (at("minimum_guest_svn"), Some(json!(2)), "minimum_guest_svn falls"),
            (at("id_keys"), None, "id_keys is no longer asked for"),
            (at("author_keys/-"), Some(json!("ee".repeat(48))), "author_keys takes eeee"),
            (at("chips/allow/-"), Some(json!("ee".repeat(64))), "chips.allow takes eeee"),
            (at("chips/deny/-"), None, "is no longer denied"),
            ("/stock_reference_values/snp_launch_measurement".into(), None, "snp_launch_measurement is no longer asked for"),
            ("/stock_resources/0/sites/-".into(), Some(json!("site-2")), "disk/key1 is released to site-2 now"),
            ("/stock_resources/0/writable".into(), Some(json!(true)), "may be written by a bearer token now"),
            ("/rego/release".into(), None, "rego.release is gone"),
            ("/rego/release".into(), Some(json!("package coffer.release\ndefault allow := false\n")), "rego.release is another"),
        ] {
            let lines = changed(&pointer, value);
            assert_eq!(lines.len(), 1, "{pointer}: {lines:?}");
            assert!(lines[0].contains(says), "{pointer}: {lines:?}");
        }
    }

    #[test]
    fn a_vlek_is_named_with_its_provider() {
        let parse = |value: &Value| PolicyDocument::read(value.to_string().as_bytes()).unwrap();
        let mut new = full();
        new["reference_values"]["signing_keys"] = json!(["vcek", "vlek"]);
        new["reference_values"]["csp_ids"] = json!(["CN=cc-us-east-2.amazonaws.com"]);
        let lines = weakenings(&parse(&full()), &parse(&new));
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("vlek") && lines[1].contains("cc-us-east-2"), "{lines:?}");
    }

    #[test]
    fn what_gets_stricter_or_stays_is_not_named() {
        for (pointer, value) in [
            ("/reference_values/families/turin/tcb_floor/microcode", json!(98)),
            ("/reference_values/minimum_guest_svn", json!(4)),
            ("/reference_values/chips/deny/-", json!("ef".repeat(64))),
            ("/reference_values/platform/tsme", json!("required")),
            ("/stock_reference_values/snp_bootloader", json!([3])),
            ("/rego/token", json!("package coffer.token\ndefault allow := false\n")),
        ] {
            assert_eq!(changed(pointer, Some(value)), Vec::<String>::new(), "{pointer}");
        }
    }
}
