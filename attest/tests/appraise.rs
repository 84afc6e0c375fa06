//! `coffer-attest appraise` on genuine evidence, as an auditor runs it: the built program, files, nothing else.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use coffer_evidence::{CertKind, Family, SnpEvidence, UnixTime};
use coffer_simulator::{Asp, Hierarchy};
use serde_json::{Value, json};
use system_tests::vectors;

/// Within the dates of every certificate but the VLEK's.
const AT: &str = "2026-11-23T00:00:00Z";
/// Within the VLEK's.
const VLEK_AT: &str = "2025-01-01T00:00:00Z";

fn run(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer-attest"));
    command.arg("appraise").args(args).current_dir(folder).stdin(Stdio::null());
    command.output().unwrap()
}

/// Exit code and the JSON form, whose verdict must be that of the exit code.
#[track_caller]
fn appraise(folder: &Path, args: &[&str]) -> (Option<i32>, Value) {
    let output = run(folder, &[args, &["--json"]].concat());
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {args:?} {output:?}"));
    let verdict = match output.status.code() {
        Some(0) => ("accepted", Value::Null),
        _ => ("refused", said["rule"].clone()),
    };
    assert_eq!((said["verdict"].as_str().unwrap(), said["rule"].clone()), verdict, "{args:?}");
    (output.status.code(), said)
}

#[track_caller]
fn accepted(folder: &Path, args: &[&str]) -> Value {
    let (code, said) = appraise(folder, args);
    assert_eq!((code, &said["rule"]), (Some(0), &Value::Null), "{args:?} {said}");
    said
}

#[track_caller]
fn refused(folder: &Path, args: &[&str], rule: &str) -> Value {
    let (code, said) = appraise(folder, args);
    assert_eq!((code, said["rule"].as_str()), (Some(1), Some(rule)), "{args:?} {said}");
    // The text ends with the same word.
    let output = run(folder, args);
    let text = String::from_utf8(output.stdout).unwrap();
    let last = text.lines().last().unwrap();
    assert!(last.split_whitespace().any(|word| word == rule) && last.starts_with("verdict: refused: "), "{last}");
    said
}

/// The verdict on one rule.
#[track_caller]
fn check<'a>(said: &'a Value, rule: &str) -> &'a str {
    let checks = said["checks"].as_array().unwrap();
    checks.iter().find(|check| check["rule"] == rule).unwrap()["verdict"].as_str().unwrap()
}

fn floor(fmc: bool) -> Value {
    let mut floor = json!({ "bootloader": 0, "tee": 0, "snp": 0, "microcode": 0 });
    if fmc {
        floor["fmc"] = json!(0);
    }
    floor
}

/// Takes whatever is genuine.
fn permissive() -> Value {
    json!({
        "report_versions": [2, 3, 5],
        "families": {
            "milan": { "tcb_floor": floor(false), "risk_accepted": "arXiv 2605.12990" },
            "genoa": { "tcb_floor": floor(false) },
            "turin": { "tcb_floor": floor(true) },
        },
        "signing_keys": ["vcek", "vlek"],
        "csp_ids": ["CN=cc-us-east-2.amazonaws.com"],
        "platform": { "alias_check": "any" },
    })
}

/// The defaults, with floors of zero for the families that are taken without another word.
fn default_values() -> Value {
    json!({ "families": { "genoa": { "tcb_floor": floor(false) }, "turin": { "tcb_floor": floor(true) } } })
}

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    fn policy(&self, values: &Value) -> String {
        self.put("policy.json", values.to_string())
    }
}

fn snp() -> Option<PathBuf> {
    vectors::path("snp")
}

#[test]
fn every_genuine_report_is_accepted_or_refused_by_its_rule() {
    let Some(snp) = snp() else { return };
    let files = Files::new();
    let policy = files.policy(&permissive());
    let cases: Vec<Value> = serde_json::from_slice(&fs::read(snp.join("expected.json")).unwrap()).unwrap();
    assert_eq!(cases.len(), 8);
    for case in &cases {
        let text = |name: &str| case[name].as_str().unwrap();
        let at = if text("vek_type") == "VLEK" { VLEK_AT } else { AT };
        let own = text("report_data");
        let args = [text("report"), "--vek", text("vek"), "--policy", &policy, "--at", at, "--report-data", own];
        let (_, said) = appraise(&snp, &args);
        let expected = match case {
            case if case["debug"] == true => json!("debug_policy"),
            case if case["vmpl"] != 0 => json!("vmpl"),
            _ => Value::Null,
        };
        assert_eq!(said["rule"], expected, "{}", case["name"]);
        assert_eq!(said["genuine"], true, "{}", case["name"]);
        let report = &said["report"];
        for (ours, theirs) in
            [("launch_digest", "measurement"), ("host_data", "host_data"), ("report_data", "report_data"), ("chip_id", "chip_id")]
        {
            assert_eq!(report[ours], case[theirs], "{} {ours}", case["name"]);
        }
        assert_eq!(report["version"], case["report_version"]);
        // Another challenge than its own.
        let other = "ab".repeat(64);
        let args = [text("report"), "--vek", text("vek"), "--policy", &policy, "--at", at, "--report-data", &other];
        refused(&snp, &args, "report_data");
    }
}

#[test]
fn wire_evidence_needs_nothing_but_its_chain() {
    let Some(snp) = snp() else { return };
    let files = Files::new();
    let policy = files.policy(&permissive());
    let vcek_of = |name: &str| {
        let whole = fs::read(snp.join(format!("wire/{name}-vcek.json"))).unwrap();
        let evidence = SnpEvidence::from_json(&whole).unwrap();
        let vcek = evidence.certificates.into_iter().find(|entry| entry.kind == CertKind::Vcek).unwrap();
        files.put(&format!("{name}.der"), vcek.data)
    };
    for (file, vek, rule) in [
        ("wire/genoa-v3-vcek.json", "", None),
        ("wire/milan-v2-vcek.json", "", None),
        ("wire/milan-v3-vcek.json", "", None),
        ("wire/turin-v5-vcek.json", "", None),
        ("trustee/e2e-evidence.json", "trustee/e2e-vcek.derived.der", None),
        ("wire/milan-v2-vcek-debug-policy.json", "", Some("debug_policy")),
        ("wire/milan-v3-vlek-vmpl1.json", "", Some("certificate_dates")),
        ("wire/genoa-v3-nochain.json", "", Some("vek_count")),
        ("wire/milan-v3-nochain.json", "", Some("vek_count")),
        ("wire/turin-v5-nochain.json", "", Some("vek_count")),
        ("wire/genoa-v3-nochain.json", &vcek_of("genoa-v3"), None),
        ("wire/milan-v3-nochain.json", &vcek_of("milan-v3"), None),
        ("wire/turin-v5-nochain.json", "openanolis/turin-vcek.der", None),
    ] {
        let mut args = vec![file, "--policy", &policy, "--at", AT];
        if !vek.is_empty() {
            args.extend(["--vek", vek]);
        }
        match rule {
            None => _ = accepted(&snp, &args),
            Some(rule) => _ = refused(&snp, &args, rule),
        }
    }
    refused(&snp, &["wire/milan-v3-vlek-vmpl1.json", "--policy", &policy, "--at", VLEK_AT], "vmpl");
}

#[test]
fn another_chips_or_nobodys_certificate_is_refused() {
    let Some(snp) = snp() else { return };
    let files = Files::new();
    let policy = files.policy(&permissive());
    for (report, vek, rule) in [
        ("trustee/test-report.bin", "trustee/test-vcek-invalid-legacy.der", "chain"),
        ("trustee/test-report.bin", "trustee/test-vcek-invalid-new.der", "chain"),
        ("openanolis/turin-report.bin", "virtee-sev/vcek_turin.der", "certificate_tcb"),
        ("virtee-sev/report_milan.derived.bin", "trustee/test-vcek.der", "chip_id"),
        ("trustee/e2e-report.derived.bin", "trustee/test-vlek.der", "certificate_kind"),
    ] {
        let said = refused(&snp, &[report, "--vek", vek, "--policy", &policy, "--at", "2025-06-01T00:00:00Z"], rule);
        assert_eq!(said["genuine"], false, "{report} {vek}");
    }
    let mut report = fs::read(snp.join("openanolis/turin-report.bin")).unwrap();
    report[0x90] ^= 1;
    let changed = files.put("changed.bin", report);
    refused(&snp, &[&changed, "--vek", "openanolis/turin-vcek.der", "--policy", &policy, "--at", AT], "signature");
}

#[test]
fn every_form_of_a_report_gets_the_same_verdict() {
    let Some(snp) = snp() else { return };
    let files = Files::new();
    let policy = files.policy(&permissive());
    let raw = fs::read(snp.join("virtee-sev/report_milan.derived.bin")).unwrap();
    let base64 = files.put("report.b64", data_encoding::BASE64.encode(&raw));
    for (file, form) in [
        ("virtee-sev/report_milan.derived.bin", "report"),
        ("virtee-sev/report_milan.hex", "report_hex"),
        (base64.as_str(), "report_base64"),
    ] {
        let said = accepted(&snp, &[file, "--vek", "virtee-sev/vcek_milan.der", "--policy", &policy, "--at", AT]);
        assert_eq!(said["evidence"]["form"], form);
    }
}

#[test]
fn nothing_is_accepted_without_a_policy_however_genuine_it_is() {
    let Some(snp) = snp() else { return };
    let genoa = "wire/genoa-v3-vcek.json";
    let said = refused(&snp, &[genoa, "--at", AT], "tcb_floor_missing");
    assert_eq!((&said["genuine"], check(&said, "signature"), check(&said, "tcb_floor")), (&json!(true), "pass", "not_reached"));
    assert!(said["notes"][0].as_str().unwrap().starts_with("no policy was given"), "{said}");
    let text = String::from_utf8(run(&snp, &[genoa, "--at", AT]).stdout).unwrap();
    assert!(text.ends_with("verdict: refused: tcb_floor_missing (genuine, but no policy was given)\n"), "{text}");
    // The defaults of a policy refuse what is too old for them, by name.
    let files = Files::new();
    let policy = files.policy(&default_values());
    accepted(&snp, &[genoa, "--policy", &policy, "--at", AT]);
    refused(&snp, &["wire/milan-v2-vcek.json", "--policy", &policy, "--at", AT], "report_version");
    refused(&snp, &["wire/milan-v3-vcek.json", "--policy", &policy, "--at", AT], "family");
    refused(&snp, &["wire/milan-v3-vlek-vmpl1.json", "--policy", &policy, "--at", VLEK_AT], "signing_key");
    // One more than the report has.
    let mut values = default_values();
    values["families"]["genoa"]["tcb_floor"]["microcode"] = json!(255);
    let said = refused(&snp, &[genoa, "--policy", &files.policy(&values), "--at", AT], "tcb_floor");
    assert_eq!(check(&said, "tcb_floor_missing"), "pass");
}

#[test]
fn what_the_auditor_asks_is_compared_and_what_not_is_said() {
    let Some(snp) = snp() else { return };
    let files = Files::new();
    let document = json!({ "type": "coffer/project-policy/v1", "reference_values": default_values(), "rego": { "token": "package x" } });
    let policy = files.policy(&document);
    let genoa = "wire/genoa-v3-vcek.json";
    let said = accepted(&snp, &[genoa, "--policy", &policy, "--at", AT]);
    assert_eq!(["report_data", "host_data", "launch_digest"].map(|rule| check(&said, rule)), ["not_asked"; 3]);
    let notes = said["notes"].to_string();
    assert!(notes.contains("REPORT_DATA was not compared") && notes.contains("rego"), "{notes}");
    let (digest, host_data) = (said["report"]["launch_digest"].as_str().unwrap(), said["report"]["host_data"].as_str().unwrap());
    let asked = accepted(&snp, &[genoa, "--policy", &policy, "--at", AT, "--launch-digest", digest, "--host-data", host_data]);
    assert_eq!(["host_data", "launch_digest"].map(|rule| check(&asked, rule)), ["pass"; 2]);
    let other = "b0".repeat(48);
    refused(&snp, &[genoa, "--policy", &policy, "--at", AT, "--launch-digest", &other], "launch_digest");
    accepted(&snp, &[genoa, "--policy", &policy, "--at", AT, "--launch-digest", &other, "--launch-digest", digest]);
    refused(&snp, &[genoa, "--policy", &policy, "--at", AT, "--host-data", &"5e".repeat(32)], "host_data");
}

#[test]
fn a_captured_body_says_itself_what_report_data_must_be() {
    let Some(snp) = snp() else { return };
    let files = Files::new();
    let policy = files.policy(&default_values());
    let evidence: Value = serde_json::from_slice(&fs::read(snp.join("wire/genoa-v3-vcek.json")).unwrap()).unwrap();
    let body = json!({
        "init-data": null,
        "runtime-data": {
            "nonce": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "tee-pubkey": {
                "kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW",
                "x": "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY", "y": "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU",
            },
        },
        "tee-evidence": { "primary_evidence": evidence, "additional_evidence": "" },
    });
    let file = files.put("body.json", body.to_string());
    let said = refused(&snp, &[&file, "--policy", &policy, "--at", AT], "report_data");
    assert_eq!(said["evidence"]["form"], "attest_body");
    let own = said["report"]["report_data"].as_str().unwrap();
    accepted(&snp, &[&file, "--policy", &policy, "--at", AT, "--report-data", own]);
}

#[test]
fn a_simulators_evidence_counts_under_its_root_only_and_says_so() {
    let files = Files::new();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let hierarchy = Hierarchy::generate(Family::Genoa, UnixTime(now)).unwrap();
    let asp = Asp::new(&hierarchy, UnixTime(now)).unwrap();
    let guest = coffer_simulator::Guest::launch(
        coffer_evidence::LaunchDigest::new([1; 48]),
        coffer_evidence::HostData::new([2; 32]),
        coffer_evidence::GuestPolicy(0x3_0000),
    );
    let evidence = asp.evidence(&guest.unwrap(), coffer_evidence::ReportData::new([3; 64])).unwrap();
    let file = files.put("evidence.json", evidence.to_raw_value().unwrap().to_string());
    let ark = files.put("ark.der", asp.ark());
    let policy = files.policy(&default_values());
    let folder = files.dir.path();
    let said = accepted(folder, &[&file, "--ark", &ark, "--policy", &policy, "--report-data", &"03".repeat(64)]);
    assert!(said["notes"].to_string().contains("a simulator's"), "{said}");
    refused(folder, &[&file, "--policy", &policy], "chain");
}

#[test]
fn what_cannot_be_used_is_said_and_exits_with_2() {
    let files = Files::new();
    let folder = files.dir.path();
    let junk = files.put("junk", "hello");
    let mut report = vec![0; 1184];
    report[0] = 3;
    report[0x188] = 0x19;
    let bare = files.put("report.bin", &report);
    let wrong_values = files.put("wrong.json", r#"{"families":{"milan":{"tcb_floor":{"bootloader":0,"tee":0,"snp":0,"microcode":0}}}}"#);
    let in_document = files.put(
        "document.json",
        r#"{"type":"coffer/project-policy/v1","reference_values":{"families":{"milan":{"tcb_floor":{"bootloader":0,"tee":0,"snp":0,"microcode":0}}}}}"#,
    );
    let other_type = files.put("other.json", r#"{"type":"coffer/site/v1","reference_values":{"families":{}}}"#);
    for (args, says) in [
        (vec!["missing.json"], "missing.json"),
        (vec![junk.as_str()], "neither a report of 1184 bytes"),
        (vec![bare.as_str(), "--vek", junk.as_str()], "certificate"),
        (vec![bare.as_str(), "--at", "yesterday"], "RFC 3339"),
        (vec![bare.as_str(), "--policy", junk.as_str()], "policy"),
        (vec![bare.as_str(), "--policy", wrong_values.as_str()], "arXiv 2605.12990"),
        (vec![bare.as_str(), "--policy", in_document.as_str()], "arXiv 2605.12990"),
        (vec![bare.as_str(), "--policy", other_type.as_str()], "coffer/site/v1"),
        (vec![bare.as_str(), "--crl", junk.as_str()], "junk"),
        (vec![bare.as_str(), "--ark", junk.as_str()], "junk"),
        (vec![bare.as_str(), "--report-data", "ab"], "--report-data"),
        (vec![], "EVIDENCE"),
    ] {
        let output = run(folder, &args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{args:?} {text}");
        assert!(text.contains(says), "{args:?}: {text}");
    }
    // A report of a version from the future is evidence, and refused.
    report[0] = 9;
    let future = files.put("future.bin", &report);
    refused(folder, &[&future], "report_version");
}

/// The shape that programs and people read.
#[test]
fn text_and_json_are_the_golden_files() {
    let Some(snp) = snp() else { return };
    let files = Files::new();
    fs::write(files.dir.path().join("policy.json"), default_values().to_string()).unwrap();
    fs::copy(snp.join("wire/genoa-v3-vcek.json"), files.dir.path().join("evidence.json")).unwrap();
    for (name, args) in [
        ("appraise-accepted.txt", vec!["--policy", "policy.json"]),
        ("appraise-accepted.json", vec!["--policy", "policy.json", "--json"]),
        ("appraise-no-policy.txt", vec![]),
    ] {
        let output = run(files.dir.path(), &[&["evidence.json", "--at", AT], args.as_slice()].concat());
        let got = String::from_utf8(output.stdout).unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        if std::env::var_os("BLESS").is_some_and(|v| v == "1") {
            fs::write(&path, &got).unwrap();
        }
        assert_eq!(got, fs::read_to_string(&path).unwrap_or_default(), "{name}: run BLESS=1 cargo test and review the diff");
    }
}
