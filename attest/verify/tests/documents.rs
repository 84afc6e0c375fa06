//! Reference values as JSON: what is read, what is refused and by which words, and that nothing is lost.

use coffer_evidence::{ChipId, Family, FirmwareVersion, KeyDigest, TcbVersion, VekKind};
use coffer_verify::{Abi, BitRule, BlockId, CrlRule, FamilyValues, MILAN_RISK, ReferenceError, ReferenceValues};
use serde_json::{Value, json};

fn floor() -> Value {
    json!({"bootloader": 1, "tee": 2, "snp": 3, "microcode": 4})
}

fn turin() -> Value {
    json!({"fmc": 1, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 4})
}

fn read(value: &Value) -> Result<ReferenceValues, String> {
    serde_json::from_str(&value.to_string()).map_err(|error| error.to_string())
}

#[test]
fn a_floor_is_all_that_must_be_said_and_the_rest_is_closed() {
    let values = read(&json!({"families": {"genoa": {"tcb_floor": floor()}}})).unwrap();
    let expected =
        ReferenceValues::with_floors(&[(Family::Genoa, TcbVersion { fmc: None, bootloader: 1, tee: 2, snp: 3, microcode: 4 })].into());
    assert_eq!(values, expected);
    assert_eq!(values.report_versions, [3, 5]);
    assert_eq!((values.signing_keys.as_slice(), values.masked_chip, values.crl), (&[VekKind::Vcek][..], false, CrlRule::IfPresent));
    assert_eq!(values.platform.alias_check, BitRule::Required);
    assert_eq!(values.guest_policy.cxl, BitRule::Forbidden);
    assert!(values.families.milan.is_none() && values.families.turin.is_none());
    assert_eq!(read(&json!({"families": {}})).unwrap(), ReferenceValues::closed());
}

#[test]
fn everything_that_can_be_said_is_kept() {
    let chip = "ab".repeat(64);
    let key = "cd".repeat(48);
    let document = json!({
        "report_versions": [2, 3, 5],
        "families": {
            "milan": {"tcb_floor": floor(), "risk_accepted": MILAN_RISK},
            "genoa": {"tcb_floor": floor(), "minimum_firmware": {"major": 1, "minor": 55, "build": 40}},
            "turin": {"tcb_floor": turin(), "launch_mitigations": 1, "current_mitigations": 63},
        },
        "signing_keys": ["vcek", "vlek"],
        "csp_ids": ["CN=cc-us-east-2.amazonaws.com"],
        "masked_chip": true,
        "platform": {"smt": "forbidden", "tsme": "required", "ecc": "required", "rapl_disabled": "any", "ciphertext_hiding": "any",
                     "alias_check": "any", "iommu_write_safe": "any", "tio": "forbidden"},
        "guest_policy": {"smt": "forbidden", "single_socket": "required", "cxl": "any", "aes_256_xts": "required", "rapl_disabled": "any",
                         "ciphertext_hiding": "required", "page_swap_disabled": "required", "minimum_abi": {"major": 1, "minor": 55}},
        "family_id": "01".repeat(16),
        "image_id": "02".repeat(16),
        "minimum_guest_svn": 3,
        "id_keys": [key],
        "author_keys": [key],
        "chips": {"allow": [chip], "deny": [chip]},
        "crl": "required",
    });
    let values = read(&document).unwrap();
    assert_eq!(serde_json::to_value(&values).unwrap(), document);
    assert_eq!(values.families.genoa.unwrap().minimum_firmware, Some(FirmwareVersion { major: 1, minor: 55, build: 40 }));
    assert_eq!(values.guest_policy.minimum_abi, Some(Abi { major: 1, minor: 55 }));
    assert_eq!(values.image_id, Some(BlockId::new([2; 16])));
    assert_eq!(values.author_keys, Some(vec![KeyDigest::new([0xCD; 48])]));
    assert_eq!(values.chips.deny, [ChipId::new([0xAB; 64])]);
    // The shortest form loses nothing either.
    let short = read(&json!({"families": {}})).unwrap();
    assert_eq!(read(&serde_json::to_value(&short).unwrap()).unwrap(), short);
}

#[test]
fn mistakes_are_named() {
    let with = |member: &str, value: Value| {
        let mut document = json!({"families": {"genoa": {"tcb_floor": floor()}}});
        document[member] = value;
        document
    };
    let family = |name: &str, values: Value| json!({"families": {name: values}});
    let cases = [
        (json!({}), "missing field `families`"),
        (with("familes", json!({})), "unknown field `familes`"),
        (with("report_versions", json!([])), "`report_versions` is empty, so everything would be refused"),
        (with("report_versions", json!([3, 4])), "`report_versions` names 4; this build reads [2, 3, 5]"),
        (with("signing_keys", json!([])), "`signing_keys` is empty"),
        (with("signing_keys", json!(["VCEK"])), "unknown variant `VCEK`"),
        (with("signing_keys", json!(["vcek", "vlek"])), "`signing_keys` has `vlek` but `csp_ids` has 0 entries"),
        (with("csp_ids", json!(["CN=x"])), "`signing_keys` lacks `vlek` but `csp_ids` has 1 entries"),
        (with("platform", json!({"smt": "yes"})), "unknown variant `yes`, expected one of `any`, `required`, `forbidden`"),
        (with("platform", json!({"SMT": "any"})), "unknown field `SMT`"),
        (with("guest_policy", json!({"debug": "any"})), "unknown field `debug`"),
        (with("guest_policy", json!({"minimum_abi": {"major": 1}})), "missing field `minor`"),
        (with("id_keys", json!([])), "`id_keys` is empty"),
        (with("author_keys", json!([])), "`author_keys` is empty"),
        (with("author_keys", json!(["ab"])), "KeyDigest is 1 bytes long, expected 48"),
        (with("chips", json!({"allow": []})), "`chips.allow` is empty"),
        (with("chips", json!({"deny": ["AB"]})), "ChipId is not lower-case hexadecimal"),
        (with("crl", json!("always")), "unknown variant `always`"),
        (with("family_id", json!("00")), "BlockId is 1 bytes long, expected 16"),
        (family("rome", json!({"tcb_floor": floor()})), "unknown field `rome`"),
        (family("genoa", json!({})), "missing field `tcb_floor`"),
        (family("genoa", json!({"tcb_floor": {"bootloader": 1, "tee": 2, "snp": 3}})), "missing field `microcode`"),
        (family("genoa", json!({"tcb_floor": turin()})), "`families.genoa.tcb_floor` has `fmc`, which only Turin has"),
        (family("turin", json!({"tcb_floor": floor()})), "`families.turin.tcb_floor` needs `fmc`"),
        (family("turin", json!({"tcb_floor": turin(), "risk_accepted": MILAN_RISK})), "`families.turin` has `risk_accepted`"),
        (family("milan", json!({"tcb_floor": floor()})), "arXiv 2605.12990 extracts the VCEK seed of Milan"),
        (family("milan", json!({"tcb_floor": floor(), "risk_accepted": "yes"})), "`families.milan` lacks `risk_accepted`"),
        (
            family("genoa", json!({"tcb_floor": floor(), "minimum_firmware": {"major": 1, "minor": 2, "build": 3, "patch": 4}})),
            "unknown field `patch`",
        ),
        (family("genoa", json!({"tcb_floor": floor(), "launch_mitigations": -1})), "invalid value"),
    ];
    for (document, says) in cases {
        let error = read(&document).unwrap_err();
        assert!(error.contains(says), "{document}: {error}");
    }
    let twice = r#"{"families": {"genoa": {"tcb_floor": {"bootloader":9,"tee":9,"snp":9,"microcode":9}}, "genoa": {"tcb_floor": {"bootloader":0,"tee":0,"snp":0,"microcode":0}}}}"#;
    assert!(serde_json::from_str::<ReferenceValues>(twice).unwrap_err().to_string().contains("duplicate field `genoa`"));
}

/// An emptied template variable must not lift a requirement.
#[test]
fn null_is_no_value() {
    let good = json!({
        "report_versions": [3, 5], "signing_keys": ["vcek"], "csp_ids": [], "masked_chip": false, "crl": "required",
        "families": {
            "milan": {"tcb_floor": floor(), "risk_accepted": MILAN_RISK},
            "genoa": {"tcb_floor": floor(), "minimum_firmware": {"major": 1, "minor": 55, "build": 40}},
            "turin": {"tcb_floor": turin(), "launch_mitigations": 1, "current_mitigations": 63},
        },
        "platform": {"smt": "forbidden"},
        "guest_policy": {"cxl": "any", "minimum_abi": {"major": 1, "minor": 55}},
        "family_id": "01".repeat(16), "image_id": "02".repeat(16), "minimum_guest_svn": 3,
        "id_keys": ["cd".repeat(48)], "author_keys": ["cd".repeat(48)],
        "chips": {"allow": ["ab".repeat(64)], "deny": ["ab".repeat(64)]},
    });
    read(&good).unwrap();
    let mut places = Vec::new();
    members(&good, "", &mut places);
    assert!(["/chips/allow", "/guest_policy/minimum_abi", "/families/genoa"].iter().all(|place| places.iter().any(|p| p == place)));
    for place in places {
        let mut document = good.clone();
        *document.pointer_mut(&place).unwrap() = Value::Null;
        assert!(read(&document).is_err(), "{place}");
    }
}

/// JSON pointers of all members and items.
fn members(value: &Value, at: &str, found: &mut Vec<String>) {
    let parts: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(nth, value)| (nth.to_string(), value)).collect(),
        _ => return,
    };
    for (name, value) in parts {
        let place = format!("{at}/{name}");
        members(value, &place, found);
        found.push(place);
    }
}

#[test]
fn values_built_by_hand_are_checked_the_same() {
    let floor = TcbVersion::default();
    let mut values = ReferenceValues::with_floors(&[(Family::Milan, floor)].into());
    assert_eq!(values.check(), Err(ReferenceError::MilanRisk));
    values.families.milan = Some(FamilyValues { risk_accepted: Some(MILAN_RISK.into()), ..FamilyValues::with_floor(floor) });
    assert_eq!(values.check(), Ok(()));
    assert_eq!(values.families.taken().map(|(family, _)| family).collect::<Vec<_>>(), [Family::Milan]);
}
