//! The export is golden, and its rego answers as a Trustee would be answered.

use std::path::Path;

use coffer_evidence::{Family, HostData, LaunchDigest, SnpEvidence};
use coffer_manifest::{OpenRisks, Role, RootOfTrust};
use regorus::{Engine, Value as Rego};

use super::*;

const SITE_1: HostData = HostData::new([0x11; 32]);
const SITE_2: HostData = HostData::new([0x22; 32]);
const BASE: LaunchDigest = LaunchDigest::new([0xB0; 48]);

fn record(site: &str, host_data: HostData) -> Enrollment {
    Enrollment {
        kind: Default::default(),
        host_data,
        project: project(),
        site: site.parse().unwrap(),
        role: Role::Client,
        site_svn: 1,
        base_svn: 1,
        root_of_trust: RootOfTrust::AmdSevSnp,
        launch_digests: vec![BASE],
        token_expiration: 300,
        open_risks: OpenRisks { aml: "restricted".to_owned() },
        supersedes: None,
        overlap_seconds: None,
        author_key_digest: None,
        minimum_guest_svn: None,
        chip_ids: Vec::new(),
        tcb_floor: None,
    }
}

fn project() -> ProjectName {
    "demo".parse().unwrap()
}

fn document() -> Value {
    json!({
        "type": super::super::document::DOCUMENT_TYPE,
        "reference_values": {
            "families": {
                "genoa": { "tcb_floor": { "bootloader": 10, "tee": 0, "snp": 23, "microcode": 84 }, "minimum_firmware": { "major": 1, "minor": 55, "build": 40 } },
            },
            "guest_policy": { "minimum_abi": { "major": 0, "minor": 31 } },
            "platform": { "tsme": "forbidden" },
            "chips": { "deny": ["aa".repeat(64)] },
        },
        "stock_resources": [{ "path": "disk/key1", "sites": ["site-1"] }],
    })
}

fn exported(document: &Value) -> Vec<ExportFile> {
    let document = PolicyDocument::read(document.to_string().as_bytes()).unwrap();
    export(&project(), 7, &document, &[record("site-1", SITE_1), record("site-2", SITE_2)]).unwrap()
}

fn text<'a>(files: &'a [ExportFile], name: &str) -> &'a str {
    &files.iter().find(|file| file.name == name).unwrap_or_else(|| panic!("{name}")).text
}

/// What `query_reference_value` answers, from the messages as they are sent: null for a name nobody registered.
fn registered(files: &[ExportFile]) -> Value {
    let mut all = serde_json::Map::new();
    for file in files.iter().filter(|file| file.name.starts_with("reference-values/")) {
        let message: Value = serde_json::from_str(&file.text).unwrap();
        assert_eq!((&message["version"], &message["type"]), (&json!("0.1.0"), &json!("sample")));
        let payload = BASE64.decode(message["payload"].as_str().unwrap().as_bytes()).unwrap();
        all.extend(serde_json::from_slice::<serde_json::Map<_, _>>(&payload).unwrap());
    }
    Value::Object(all)
}

fn engine(rego: &str) -> Engine {
    let mut engine = Engine::new();
    engine.add_policy("policy.rego".into(), rego.to_owned()).unwrap();
    engine
}

/// `data.policy.trust_claims` for this input, as the attestation service would ask.
fn trust_claims(files: &[ExportFile], input: &Value) -> Value {
    let mut engine = engine(text(files, "attestation-policy-default_cpu.rego"));
    let values = registered(files);
    let query = move |params: Vec<Rego>| {
        let name = params[0].as_string().unwrap().to_string();
        Ok(Rego::from_json_str(&values.get(&name).unwrap_or(&Value::Null).to_string()).unwrap())
    };
    engine.add_extension("query_reference_value".into(), 1, Box::new(query)).unwrap();
    engine.set_input(Rego::from_json_str(&input.to_string()).unwrap());
    let claims = engine.eval_rule("data.policy.trust_claims".into()).unwrap();
    assert_eq!(engine.eval_rule("data.policy.extensions".into()).unwrap().to_json_str().unwrap().trim(), "[]");
    serde_json::from_str(&claims.to_json_str().unwrap()).unwrap()
}

/// What a vector of trust claims comes to (draft-ietf-rats-ar4si): the worst tier of all that say anything.
fn status(claims: &Value) -> &'static str {
    let worst = claims.as_object().unwrap().values().map(|claim| claim.as_i64().unwrap()).max().unwrap();
    match worst {
        2..32 => "affirming",
        32..96 => "warning",
        96.. => "contraindicated",
        _ => "none",
    }
}

/// `data.policy.allow` for token claims and a path, as the key service would ask.
fn allows(files: &[ExportFile], input: &Value, path: &[&str]) -> bool {
    let mut engine = engine(text(files, "resource-policy.rego"));
    let data = json!({ "plugin": "resource", "resource-path": path, "query": {} });
    engine.add_data(Rego::from_json_str(&data.to_string()).unwrap()).unwrap();
    engine.set_input(Rego::from_json_str(&input.to_string()).unwrap());
    engine.eval_rule("data.policy.allow".into()).unwrap() == Rego::from(true)
}

/// Claims of a report in the form the captured release uses.
fn flat() -> Value {
    json!({
        "measurement": BASE, "init_data": SITE_1, "report_data": "", "chip_id": "c1",
        "reported_tcb_bootloader": 10, "reported_tcb_tee": 0, "reported_tcb_snp": 23, "reported_tcb_microcode": 84,
        "policy_abi_major": 0, "policy_abi_minor": 31, "policy_smt_allowed": true, "policy_migrate_ma": false,
        "policy_debug_allowed": false, "policy_single_socket": false, "platform_smt_enabled": true, "platform_tsme_enabled": false,
    })
}

/// The same in the form of later releases.
fn nested() -> Value {
    json!({ "evidence": {
        "measurement": BASE, "host_data": SITE_1, "reported_tcb": { "bootloader": 10, "tee": 0, "snp": 23, "microcode": 84 },
        "policy": { "abi_major": 0, "abi_minor": 31, "smt_allowed": true, "migrate_ma_allowed": false, "debug_allowed": false, "single_socket_required": false },
        "plat_info": { "smt_enabled": true, "tsme_enabled": false },
    } })
}

fn token(snp: &Value, status: &str) -> Value {
    json!({ "submods": { "cpu0": { "ear.status": status, "ear.veraison.annotated-evidence": { "snp": snp } } } })
}

#[test]
fn the_export_is_the_golden_folder() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/trustee");
    let files = exported(&document());
    // The bodies are encodings of files that are there; of the lists, one says it all.
    let shown = ["README.md", "attestation-policy-default_cpu.rego", "resource-policy.rego", "reference-values/snp_microcode.json"];
    for name in shown {
        let path = golden.join(name.replace('/', "-"));
        if std::env::var_os("BLESS").is_some_and(|v| v == "1") {
            std::fs::write(&path, text(&files, name)).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(text(&files, name), expected, "run BLESS=1 cargo test and review the diff");
    }
    let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names.len(), 5 + ExactName::ALL.len() + 1, "{names:?}");
    let decoded = |name: &str| {
        let body: Value = serde_json::from_str(text(&files, name)).unwrap();
        String::from_utf8(BASE64URL_NOPAD.decode(body["policy"].as_str().unwrap().as_bytes()).unwrap()).unwrap()
    };
    assert_eq!(decoded("resource-policy.json"), text(&files, "resource-policy.rego"));
    assert_eq!(decoded("attestation-policy.json"), text(&files, "attestation-policy-default_cpu.rego"));
}

#[test]
fn what_our_policy_takes_is_affirming_in_both_forms() {
    let files = exported(&document());
    for snp in [flat(), nested()] {
        let claims = trust_claims(&files, &json!({ "snp": snp }));
        assert_eq!(status(&claims), "affirming", "{claims}");
        assert_eq!((&claims["hardware"], &claims["executables"], &claims["instance-identity"]), (&json!(2), &json!(3), &json!(2)));
    }
}

#[test]
fn each_claim_wrong_or_missing_in_turn_is_not_affirming() {
    let files = exported(&document());
    let judge = |snp: &Value| status(&trust_claims(&files, &json!({ "snp": snp })));
    for input in [json!({}), json!({ "snp": {} }), json!({ "snp": null }), json!({ "sample": { "svn": "1" } }), json!({ "tdx": {} })] {
        assert_eq!(status(&trust_claims(&files, &input)), "contraindicated", "{input}");
    }
    for (name, wrong) in [
        ("measurement", json!(LaunchDigest::new([0xB1; 48]))),
        ("init_data", json!(HostData::new([0x33; 32]))),
        ("reported_tcb_bootloader", json!(9)),
        ("reported_tcb_snp", json!(22)),
        ("reported_tcb_microcode", json!(83)),
        ("policy_abi_minor", json!(30)),
        ("policy_debug_allowed", json!(true)),
        ("policy_migrate_ma", json!(true)),
        ("platform_tsme_enabled", json!(true)),
    ] {
        let mut changed = flat();
        changed[name] = wrong;
        assert_ne!(judge(&changed), "affirming", "{name}");
    }
    // `report_data` and `chip_id` are not ours to compare.
    for (name, _) in flat().as_object().unwrap().iter().filter(|(name, _)| !matches!(name.as_str(), "report_data" | "chip_id")) {
        let mut missing = flat();
        missing.as_object_mut().unwrap().remove(name);
        assert_ne!(judge(&missing), "affirming", "without {name}");
        missing[name] = Value::Null;
        assert_ne!(judge(&missing), "affirming", "{name} is null");
    }
    // Newer is as good: a floor is the list of everything above it.
    let mut newer = flat();
    newer["reported_tcb_microcode"] = json!(255);
    assert_eq!(judge(&newer), "affirming");
    // Two forms that contradict one another are none.
    let mut both = flat();
    both["evidence"] = nested()["evidence"].clone();
    both["evidence"]["measurement"] = json!(LaunchDigest::new([0xB1; 48]));
    assert_ne!(judge(&both), "affirming");
}

#[test]
fn a_resource_goes_to_the_site_config_it_is_bound_to() {
    let files = exported(&document());
    let own = SITE_1.to_string();
    for snp in [flat(), nested()] {
        let input = token(&snp, "affirming");
        for path in [["demo", "site-1", own.as_str()], ["demo", "disk", "key1"]] {
            assert!(allows(&files, &input, &path), "{path:?}");
        }
        assert!(allows(&files, &input, &["demo", "site-1", &format!("{own}.kit")]));
        let other = SITE_2.to_string();
        for path in [
            vec!["demo", "site-2", other.as_str()],
            vec!["demo", "site-1", other.as_str()],
            vec!["other", "site-1", own.as_str()],
            vec!["demo", "site-1", &own[..63]],
            vec!["demo", "disk", "key"],
            vec!["demo", "disk"],
            vec![],
        ] {
            assert!(!allows(&files, &input, &path), "{path:?}");
        }
        for status in ["warning", "contraindicated", "none"] {
            assert!(!allows(&files, &token(&snp, status), &["demo", "disk", "key1"]), "{status}");
        }
    }
    let other_base = {
        let mut snp = flat();
        snp["measurement"] = json!(LaunchDigest::new([0xB1; 48]));
        snp
    };
    assert!(!allows(&files, &token(&other_base, "affirming"), &["demo", "disk", "key1"]));
    let mut second = token(&flat(), "affirming");
    second["submods"]["gpu0"] = json!({ "ear.status": "contraindicated" });
    assert!(!allows(&files, &second, &["demo", "disk", "key1"]), "every submodule must be affirming");
}

#[test]
fn the_empty_input_and_a_captured_token_of_the_sample_attester_get_nothing() {
    let files = exported(&document());
    for input in [json!({}), json!({ "submods": {} }), json!({ "submods": { "cpu0": {} } }), json!({ "submods": null })] {
        assert!(!allows(&files, &input, &["demo", "disk", "key1"]), "{input}");
    }
    let Some(path) = system_tests::vectors::path("kbs/real-ear-token-sample.json") else { return };
    let captured: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut claims = captured["claims"].clone();
    assert!(!allows(&files, &claims, &["demo", "disk", "key1"]));
    // Even if it were affirming, it is no SNP.
    claims["submods"]["cpu0"]["ear.status"] = json!("affirming");
    assert!(!allows(&files, &claims, &["demo", "disk", "key1"]));
}

/// A real report, with the claims a Trustee makes of it: judged by its own numbers.
#[test]
fn a_real_genoa_report_is_affirming_where_it_is_enrolled() {
    let Some(path) = system_tests::vectors::path("snp/wire/genoa-v3-vcek.json") else { return };
    let evidence = SnpEvidence::from_json(&std::fs::read(path).unwrap()).unwrap();
    let fields = evidence.report.fields();
    assert_eq!(evidence.report.family(), Some(Family::Genoa));
    let (major, minor) = fields.policy.abi();
    let tcb = fields.reported_tcb;
    let snp = json!({
        "measurement": fields.measurement, "init_data": fields.host_data,
        "reported_tcb_bootloader": tcb.bootloader, "reported_tcb_tee": tcb.tee, "reported_tcb_snp": tcb.snp, "reported_tcb_microcode": tcb.microcode,
        "policy_abi_major": major, "policy_abi_minor": minor, "policy_smt_allowed": fields.policy.smt_allowed(),
        "policy_migrate_ma": fields.policy.migration_allowed(), "policy_debug_allowed": fields.policy.debug_allowed(),
        "policy_single_socket": fields.policy.single_socket(),
        "platform_smt_enabled": fields.platform_info & 1 == 1, "platform_tsme_enabled": fields.platform_info & 2 == 2,
    });
    let floor = json!({ "bootloader": tcb.bootloader, "tee": tcb.tee, "snp": tcb.snp, "microcode": tcb.microcode });
    let document =
        json!({ "type": super::super::document::DOCUMENT_TYPE, "reference_values": { "families": { "genoa": { "tcb_floor": floor } } } });
    let document = PolicyDocument::read(document.to_string().as_bytes()).unwrap();
    let enrolled = Enrollment { launch_digests: vec![fields.measurement], ..record("site-1", fields.host_data) };
    let files = export(&project(), 1, &document, &[enrolled]).unwrap();
    assert_eq!(status(&trust_claims(&files, &json!({ "snp": snp }))), "affirming");
    assert!(allows(&files, &token(&snp, "affirming"), &["demo", "site-1", &fields.host_data.to_string()]));
    let elsewhere = exported(&super::tests::document());
    assert_ne!(status(&trust_claims(&elsewhere, &json!({ "snp": snp }))), "affirming");
}

#[test]
fn several_families_need_the_highest_of_their_floors_and_exact_lists_narrow() {
    let mut both = document();
    both["reference_values"]["families"]["turin"] =
        json!({ "tcb_floor": { "fmc": 1, "bootloader": 3, "tee": 2, "snp": 5, "microcode": 97 } });
    both["stock_reference_values"] = json!({ "snp_microcode": [84, 97, 98] });
    let document = PolicyDocument::read(both.to_string().as_bytes()).unwrap();
    let values = reference_values(&document, &[record("site-1", SITE_1)]);
    assert_eq!(values["snp_microcode"], [json!(97), json!(98)]);
    assert_eq!((values["snp_bootloader"][0].clone(), values["snp_tee_svn"][0].clone()), (json!(10), json!(2)));
    let readme = text(&exported(&both), "README.md").to_owned();
    for lost in ["highest of genoa, turin", "families.turin.tcb_floor.fmc", "families.*.minimum_firmware", "chips.deny", "alias_check"] {
        assert!(readme.contains(lost), "{lost}\n{readme}");
    }
    assert!(readme.contains("Not run live against a Trustee"), "{readme}");
}

#[test]
fn nothing_is_exported_where_there_is_nothing_to_say() {
    let closed = PolicyDocument::closed();
    let records = [record("site-1", SITE_1)];
    assert!(matches!(export(&project(), 0, &closed, &records), Err(ExportError::NoFamily { .. })));
    let open = PolicyDocument::read(document().to_string().as_bytes()).unwrap();
    assert!(matches!(export(&project(), 1, &open, &[]), Err(ExportError::NoSite { .. })));
}
