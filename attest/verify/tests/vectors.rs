//! Evidence of real hardware: accepted, or refused for exactly one reason, at pinned clocks.

use std::collections::BTreeMap;
use std::fs;

use coffer_evidence::{CertEntry, CertKind, Certificate, Family, Report, SnpEvidence, TcbVersion, VekExtensions};
use coffer_simulator::Hierarchy;
use coffer_verify::{Claims, Enrolled, Expected, Platforms, Reject, Roots, UnixTime, Verified, verify};
use serde_json::Value;
use system_tests::vectors;

/// 2026-07-01: every VCEK of the vectors is valid then.
const SUMMER_2026: UnixTime = UnixTime(1_782_864_000);

/// 2025-06-01: the VLEK of the vectors is valid then.
const SUMMER_2025: UnixTime = UnixTime(1_748_736_000);

/// Takes every version and family this build knows, with a floor that everything meets.
fn everything() -> Platforms {
    Platforms {
        versions: Report::VERSIONS.to_vec(),
        families: Family::ALL.to_vec(),
        floors: Family::ALL.map(|family| (family, TcbVersion::default())).into(),
    }
}

/// Expects exactly what the report says, so that only its authenticity and the platform rules decide.
fn appraise(evidence: &SnpEvidence, platforms: &Platforms, now: UnixTime) -> Result<Verified<Claims>, Reject> {
    let fields = evidence.report.fields();
    let enrolled = Enrolled { host_data: fields.host_data, launch_digests: vec![fields.measurement] };
    let expected = Expected { report_data: fields.report_data, platforms, enrolled: Some(&enrolled) };
    verify(evidence, &expected, &Roots::amd().unwrap(), now)
}

fn code(result: Result<Verified<Claims>, Reject>) -> &'static str {
    result.map_or_else(|reject| reject.code(), |_| "accepted")
}

fn read(rel: &str) -> Option<Vec<u8>> {
    vectors::path(&format!("snp/{rel}")).map(|path| fs::read(path).unwrap())
}

/// The reports of expected.json with their certificate.
fn cases() -> Vec<(Value, SnpEvidence)> {
    let Some(text) = read("expected.json") else { return vec![] };
    let cases: Vec<Value> = serde_json::from_slice(&text).unwrap();
    let evidence = |case: &Value| {
        let kind = if case["vek_type"] == "VLEK" { CertKind::Vlek } else { CertKind::Vcek };
        let report = Report::parse(&read(case["report"].as_str().unwrap()).unwrap()).unwrap();
        let data = read(case["vek"].as_str().unwrap()).unwrap();
        SnpEvidence { report, certificates: vec![CertEntry { kind, data }] }
    };
    cases.into_iter().map(|case| (case.clone(), evidence(&case))).collect()
}

fn case(name: &str) -> Option<SnpEvidence> {
    cases().into_iter().find(|(case, _)| case["name"] == name).map(|(_, evidence)| evidence)
}

fn tcb(value: &Value) -> TcbVersion {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn reports_say_what_the_independent_reading_says() {
    for (case, evidence) in cases() {
        let (name, fields) = (&case["name"], evidence.report.fields());
        assert_eq!(u64::from(fields.version), case["report_version"].as_u64().unwrap(), "{name}");
        assert_eq!(u64::from(fields.guest_svn), case["guest_svn"].as_u64().unwrap(), "{name}");
        assert_eq!(u64::from(fields.vmpl), case["vmpl"].as_u64().unwrap(), "{name}");
        assert_eq!(fields.policy.to_string(), case["policy"].as_str().unwrap(), "{name}");
        assert_eq!(fields.policy.debug_allowed(), case["debug"], "{name}");
        assert_eq!(fields.policy.migration_allowed(), case["migrate_ma"], "{name}");
        assert_eq!(fields.policy.smt_allowed(), case["smt_allowed"], "{name}");
        assert_eq!(format!("{:#x}", fields.platform_info), case["platform_info"].as_str().unwrap(), "{name}");
        assert_eq!(format!("{:#x}", fields.key_info.0), case["key_info"].as_str().unwrap(), "{name}");
        assert_eq!(fields.key_info.signing_key().to_string(), case["signing_key"].as_str().unwrap(), "{name}");
        let cpuid = fields.cpuid.map(|c| format!("{:02x}{:02x}{:02x}", c.family, c.model, c.stepping));
        assert_eq!(cpuid.as_deref(), case["cpuid_fms"].as_str(), "{name}");
        assert_eq!(fields.current_tcb, tcb(&case["current_tcb"]), "{name}");
        assert_eq!(fields.reported_tcb, tcb(&case["reported_tcb"]), "{name}");
        assert_eq!(fields.committed_tcb, tcb(&case["committed_tcb"]), "{name}");
        assert_eq!(fields.launch_tcb, tcb(&case["launch_tcb"]), "{name}");
        assert_eq!(fields.current_version.to_string(), case["current_version"].as_str().unwrap(), "{name}");
        assert_eq!(fields.committed_version.to_string(), case["committed_version"].as_str().unwrap(), "{name}");
        let mitigations = fields.launch_mit_vector.map(|launch| serde_json::json!([launch, fields.current_mit_vector]));
        assert_eq!(mitigations.unwrap_or_default(), case["mit_vectors"], "{name}");
        assert_eq!(fields.measurement.to_string(), case["measurement"].as_str().unwrap(), "{name}");
        assert_eq!(fields.report_data.to_string(), case["report_data"].as_str().unwrap(), "{name}");
        assert_eq!(fields.host_data.to_string(), case["host_data"].as_str().unwrap(), "{name}");
        assert_eq!(fields.chip_id.to_string(), case["chip_id"].as_str().unwrap(), "{name}");
        let certificate = Certificate::from_der_or_pem(&evidence.certificates[0].data).unwrap();
        let extensions = VekExtensions::of(&certificate).unwrap();
        assert_eq!(extensions.tcb, tcb(&case["cert_tcb"]), "{name}");
        assert_eq!(extensions.product, case["cert_product"].as_str().unwrap(), "{name}");
        assert_eq!(extensions.hwid.map(|hwid| hwid.to_string()).as_deref(), case["cert_hwid"].as_str(), "{name}");
    }
}

#[test]
fn reports_are_accepted_or_refused_for_the_stated_reason() {
    let verdicts: BTreeMap<&str, &str> = [
        ("milan-v2-go-sev-guest", "debug_policy"),
        ("milan-v2-virtee", "accepted"),
        ("milan-v2-trustee", "accepted"),
        ("milan-v2-automata", "accepted"),
        ("milan-v3-dstack", "accepted"),
        ("milan-v3-vlek-aws-vmpl1-trustee", "vlek"),
        ("genoa-v3-trustee-e2e", "accepted"),
        ("turin-v5-openanolis", "accepted"),
    ]
    .into();
    let cases = cases();
    assert!(cases.is_empty() || cases.len() == verdicts.len());
    for (case, evidence) in cases {
        let name = case["name"].as_str().unwrap();
        let now = if name.contains("vlek") { SUMMER_2025 } else { SUMMER_2026 };
        let result = appraise(&evidence, &everything(), now);
        if let Ok(claims) = &result {
            assert_eq!(claims.family.amd_name(), case["product"].as_str().unwrap());
            assert_eq!(claims.root_of_trust.to_string(), "amd-sev-snp");
        }
        assert_eq!(code(result), verdicts[name], "{name}");
        // The same through the lossless wire form, and through the stock one.
        for value in [evidence.to_raw_value().unwrap(), evidence.to_stock_value().unwrap()] {
            let parsed = SnpEvidence::from_value(&value).unwrap();
            assert_eq!(parsed, evidence, "{name}");
            assert_eq!(code(appraise(&parsed, &everything(), now)), verdicts[name], "{name}");
        }
    }
}

#[test]
fn the_defaults_refuse_version_2_and_milan() {
    let floors = everything().floors;
    for (case, evidence) in cases() {
        let name = case["name"].as_str().unwrap();
        let verdict = match name {
            _ if name.starts_with("milan-v2") => "report_version",
            "milan-v3-dstack" => "family",
            "milan-v3-vlek-aws-vmpl1-trustee" => "vlek",
            _ => "accepted",
        };
        assert_eq!(code(appraise(&evidence, &Platforms::with_floors(floors.clone()), SUMMER_2026)), verdict, "{name}");
    }
}

#[test]
fn wire_json_is_accepted_or_refused_for_the_stated_reason() {
    let verdicts = [
        ("genoa-v3-vcek", "accepted"),
        ("genoa-v3-nochain", "vcek_count"),
        ("milan-v2-vcek", "accepted"),
        ("milan-v2-vcek-debug-policy", "debug_policy"),
        ("milan-v3-vcek", "accepted"),
        ("milan-v3-nochain", "vcek_count"),
        ("milan-v3-vlek-vmpl1", "vlek"),
        ("turin-v5-vcek", "accepted"),
        ("turin-v5-nochain", "vcek_count"),
    ];
    for (name, verdict) in verdicts {
        let Some(text) = read(&format!("wire/{name}.json")) else { return };
        let evidence = SnpEvidence::from_json(&text).unwrap();
        assert_eq!(code(appraise(&evidence, &everything(), SUMMER_2026)), verdict, "{name}");
        // What we would send is what a stock attester sent.
        let ours = evidence.to_stock_value().unwrap();
        assert_eq!(ours, serde_json::from_slice::<Value>(&text).unwrap(), "{name}");
    }
    // Where the host has no certificates, the service's own store completes the evidence.
    for family in ["genoa-v3", "milan-v3", "turin-v5"] {
        let of = |form: &str| SnpEvidence::from_json(&read(&format!("wire/{family}-{form}.json")).unwrap()).unwrap();
        let mut evidence = of("nochain");
        evidence.certificates = of("vcek").certificates;
        assert_eq!(code(appraise(&evidence, &everything(), SUMMER_2026)), "accepted", "{family}");
    }
}

#[test]
fn stock_evidence_of_a_real_attester_is_read() {
    let Some(text) = read("trustee/e2e-evidence.json") else { return };
    let mut evidence = SnpEvidence::from_json(&text).unwrap();
    assert_eq!(evidence.report.as_bytes()[..], read("trustee/e2e-report.derived.bin").unwrap());
    if evidence.certificates.iter().all(|entry| entry.kind != CertKind::Vcek) {
        let data = read("trustee/e2e-vcek.derived.der").unwrap();
        evidence.certificates.push(CertEntry { kind: CertKind::Vcek, data });
    }
    assert_eq!(code(appraise(&evidence, &everything(), SUMMER_2026)), "accepted");
}

#[test]
fn certificates_count_only_within_their_dates() {
    for name in ["genoa-v3-trustee-e2e", "turin-v5-openanolis"] {
        let Some(evidence) = case(name) else { return };
        let vcek = Certificate::from_der_or_pem(&evidence.certificates[0].data).unwrap();
        let (first, last) = (vcek.not_before().0, vcek.not_after().0);
        let at = |now| code(appraise(&evidence, &everything(), UnixTime(now)));
        assert_eq!([at(first - 1), at(first), at(last), at(last + 1)], ["certificate_dates", "accepted", "accepted", "certificate_dates"]);
        assert_eq!([at(0), at(u64::MAX)], ["certificate_dates", "certificate_dates"]);
    }
}

#[test]
fn a_certificate_that_amd_did_not_sign_is_refused() {
    let Some(mut evidence) = case("milan-v2-trustee") else { return };
    for forged in ["trustee/test-vcek-invalid-legacy.der", "trustee/test-vcek-invalid-new.der"] {
        evidence.certificates[0].data = read(forged).unwrap();
        assert_eq!(code(appraise(&evidence, &everything(), SUMMER_2026)), "chain", "{forged}");
        // They parse: hardware ids both raw and wrapped in an OCTET STRING.
        let extensions = VekExtensions::of(&Certificate::from_der(&evidence.certificates[0].data).unwrap()).unwrap();
        assert_eq!(extensions.hwid.unwrap().as_bytes().len(), 64, "{forged}");
    }
}

#[test]
fn real_evidence_is_refused_where_a_simulator_is_believed() {
    let hierarchy = Hierarchy::generate(Family::Genoa, SUMMER_2026).unwrap();
    let roots = Roots::simulated(hierarchy.ark.certificate()).unwrap();
    for (case, evidence) in cases() {
        let fields = evidence.report.fields();
        let enrolled = Enrolled { host_data: fields.host_data, launch_digests: vec![fields.measurement] };
        let expected = Expected { report_data: fields.report_data, platforms: &everything(), enrolled: Some(&enrolled) };
        let verdict = code(verify(&evidence, &expected, &roots, SUMMER_2026));
        assert_eq!(verdict, if case["vek_type"] == "VLEK" { "vlek" } else { "chain" }, "{}", case["name"]);
    }
}

#[test]
fn another_chips_or_another_tcbs_certificate_is_refused() {
    let (Some(virtee), Some(automata), Some(turin)) = (case("milan-v2-virtee"), case("milan-v2-automata"), case("turin-v5-openanolis"))
    else {
        return;
    };
    let with = |report: &SnpEvidence, certificate: &SnpEvidence| {
        let evidence = SnpEvidence { report: report.report.clone(), certificates: certificate.certificates.clone() };
        code(appraise(&evidence, &everything(), SUMMER_2026))
    };
    assert_eq!(with(&virtee, &automata), "certificate_tcb");
    assert_eq!(with(&virtee, &turin), "certificate_tcb");
    // Same TCB, another chip: the two Milan v2 reports at snp 8, microcode 115.
    let Some(trustee) = case("milan-v2-trustee") else { return };
    assert_eq!(with(&virtee, &trustee), "chip_id");
}

/// Turns every byte of a real report over, one at a time: no signed byte may be wrong.
#[test]
fn no_signed_byte_may_change() {
    let Some(evidence) = case("genoa-v3-trustee-e2e") else { return };
    let mut tally = BTreeMap::<&str, usize>::new();
    for at in 0..Report::LEN {
        let mut bytes = *evidence.report.as_bytes();
        bytes[at] ^= 0x10;
        let verdict = match Report::parse(&bytes) {
            Err(_) => "report_version",
            Ok(report) => code(appraise(&SnpEvidence { report, ..evidence.clone() }, &everything(), SUMMER_2026)),
        };
        assert_eq!(verdict == "accepted", at >= 0x330, "offset {at:#x}: {verdict}");
        *tally.entry(verdict).or_default() += 1;
    }
    // Version 4 bytes, SIGNATURE_ALGO 4, KEY_INFO 1, REPORTED_TCB and CPUID family where the certificate disagrees, CHIP_ID 64.
    assert_eq!((tally["report_version"], tally["signature_algorithm"], tally["chip_id"]), (4, 4, 64), "{tally:?}");
    assert_eq!(tally["accepted"], Report::LEN - 0x330, "{tally:?}");
}

#[test]
fn expectations_are_compared_exactly() {
    let Some(evidence) = case("turin-v5-openanolis") else { return };
    let fields = evidence.report.fields();
    let (roots, platforms) = (Roots::amd().unwrap(), everything());
    let enrolled = Enrolled { host_data: fields.host_data, launch_digests: vec![fields.measurement] };
    let good = Expected { report_data: fields.report_data, platforms: &platforms, enrolled: Some(&enrolled) };
    let check = |expected: &Expected<'_>| code(verify(&evidence, expected, &roots, SUMMER_2026));
    assert_eq!(check(&good), "accepted");

    let other = "00".repeat(64).parse().unwrap();
    assert_eq!(check(&Expected { report_data: other, ..good }), "report_data");
    assert_eq!(check(&Expected { enrolled: None, ..good }), "host_data");
    let wrong = Enrolled { host_data: "11".repeat(32).parse().unwrap(), ..enrolled.clone() };
    assert_eq!(check(&Expected { enrolled: Some(&wrong), ..good }), "host_data");
    for launch_digests in [vec![], vec!["22".repeat(48).parse().unwrap()]] {
        let wrong = Enrolled { launch_digests, ..enrolled.clone() };
        assert_eq!(check(&Expected { enrolled: Some(&wrong), ..good }), "launch_digest");
    }
    // fmc 1, bootloader 3, tee 2, snp 5, microcode 97: one more than that anywhere is too much.
    let floor = fields.reported_tcb;
    let with_floor = |floor: Option<TcbVersion>| {
        let floors = floor.map(|floor| (Family::Turin, floor)).into_iter().collect();
        check(&Expected { platforms: &Platforms { floors, ..everything() }, ..good })
    };
    assert_eq!(with_floor(Some(floor)), "accepted");
    assert_eq!(with_floor(None), "tcb_floor_missing");
    for higher in [
        TcbVersion { fmc: Some(2), ..floor },
        TcbVersion { bootloader: 4, ..floor },
        TcbVersion { tee: 3, ..floor },
        TcbVersion { snp: 6, ..floor },
        TcbVersion { microcode: 98, ..floor },
    ] {
        assert_eq!(with_floor(Some(higher)), "tcb_floor", "{higher}");
    }
    for (families, verdict) in [(vec![Family::Genoa], "family"), (vec![], "family"), (vec![Family::Turin], "accepted")] {
        assert_eq!(check(&Expected { platforms: &Platforms { families, ..everything() }, ..good }), verdict);
    }
}
