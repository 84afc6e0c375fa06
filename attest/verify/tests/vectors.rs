//! Evidence of real hardware: accepted, or refused for exactly one reason, at pinned clocks.

use std::collections::BTreeMap;
use std::fs;

use coffer_evidence::{CertEntry, CertKind, Certificate, Family, Report, SnpEvidence, TcbVersion, VekExtensions, VekKind};
use coffer_verify::{
    BitRule, Claims, Collateral, Enrolled, Expected, FamilyValues, MILAN_RISK, ReferenceValues, Reject, Revoked, Roots, Rule, UnixTime,
    Verified, appraise as appraise_all, verify,
};
use serde_json::Value;
use system_tests::vectors;

use crate::scene::GENOA;

/// 2026-07-01: every VCEK of the vectors is valid then.
pub const SUMMER_2026: UnixTime = UnixTime(1_782_864_000);

/// 2025-06-01: the VLEK of the vectors is valid then.
pub const SUMMER_2025: UnixTime = UnixTime(1_748_736_000);

/// Who the VLEK of the vectors was made for.
const AWS: &str = "CN=cc-us-east-2.amazonaws.com";

/// Takes every version, family and key this build knows, with a floor that everything meets.
pub fn everything() -> ReferenceValues {
    let mut values = ReferenceValues::closed();
    for family in Family::ALL {
        let fmc = (family == Family::Turin).then_some(0);
        let mut of_family = FamilyValues::with_floor(TcbVersion { fmc, ..TcbVersion::default() });
        of_family.risk_accepted = (family == Family::Milan).then(|| MILAN_RISK.to_owned());
        *values.families.of_mut(family) = Some(of_family);
    }
    values.report_versions = Report::VERSIONS.to_vec();
    values.signing_keys = vec![VekKind::Vcek, VekKind::Vlek];
    values.csp_ids = vec![AWS.to_owned()];
    // The firmware that makes version 2 reports checks no aliases, or does not say so.
    values.platform.alias_check = BitRule::Any;
    values.check().unwrap();
    values
}

/// Expects exactly what the report says, so that only its authenticity and the platform rules decide.
pub fn appraise(evidence: &SnpEvidence, values: &ReferenceValues, now: UnixTime) -> Result<Verified<Claims>, Reject> {
    let fields = evidence.report.fields();
    let enrolled = Enrolled::new(fields.host_data, vec![fields.measurement]);
    let expected = expecting(fields.report_data, values, &enrolled);
    let roots = Roots::amd().unwrap();
    let verdict = verify(evidence, &expected, &roots, now);
    assert_eq!(appraise_all(evidence, &expected, &roots, now).rejection(), verdict.clone().err());
    verdict
}

fn expecting<'a>(report_data: coffer_evidence::ReportData, values: &'a ReferenceValues, enrolled: &'a Enrolled) -> Expected<'a> {
    static NOTHING: (Revoked, Collateral) = (
        Revoked {
            chips: std::collections::BTreeSet::new(),
            launch_digests: std::collections::BTreeSet::new(),
            keys: std::collections::BTreeSet::new(),
        },
        Collateral::new(),
    );
    Expected { report_data, reference_values: Some(values), enrolled: Some(enrolled), revoked: &NOTHING.0, collateral: &NOTHING.1 }
}

fn code(result: Result<Verified<Claims>, Reject>) -> &'static str {
    result.map_or_else(|reject| reject.code(), |_| "accepted")
}

fn read(rel: &str) -> Option<Vec<u8>> {
    vectors::path(&format!("snp/{rel}")).map(|path| fs::read(path).unwrap())
}

/// The reports of expected.json with their certificate.
pub fn cases() -> Vec<(Value, SnpEvidence)> {
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

/// (vector, with everything allowed, with VCEKs only, with the defaults and floors of zero). The VLEK's clock is 2025's.
const VERDICTS: [(&str, &str, &str, &str); 8] = [
    ("milan-v2-go-sev-guest", "debug_policy", "debug_policy", "report_version"),
    ("milan-v2-virtee", "accepted", "accepted", "report_version"),
    ("milan-v2-trustee", "accepted", "accepted", "report_version"),
    ("milan-v2-automata", "accepted", "accepted", "report_version"),
    ("milan-v3-dstack", "accepted", "accepted", "family"),
    ("milan-v3-vlek-aws-vmpl1-trustee", "vmpl", "signing_key", "signing_key"),
    ("genoa-v3-trustee-e2e", "accepted", "accepted", "accepted"),
    ("turin-v5-openanolis", "accepted", "accepted", "accepted"),
];

/// The defaults of everything, floors of zero for the families that need no more.
fn defaults() -> ReferenceValues {
    let floor = TcbVersion::default();
    let floors = [(Family::Genoa, floor), (Family::Turin, TcbVersion { fmc: Some(0), ..floor })];
    ReferenceValues::with_floors(&floors.into())
}

#[test]
fn reports_are_accepted_or_refused_for_the_stated_reason() {
    let vceks = ReferenceValues { signing_keys: vec![VekKind::Vcek], csp_ids: vec![], ..everything() };
    let cases = cases();
    assert!(cases.is_empty() || cases.len() == VERDICTS.len());
    for (case, evidence) in cases {
        let name = case["name"].as_str().unwrap();
        let now = if name.contains("vlek") { SUMMER_2025 } else { SUMMER_2026 };
        let (_, all, only_vceks, by_default) = VERDICTS.into_iter().find(|(vector, ..)| *vector == name).unwrap();
        for (values, verdict) in [(everything(), all), (vceks.clone(), only_vceks), (defaults(), by_default)] {
            let result = appraise(&evidence, &values, now);
            if let Ok(claims) = &result {
                assert_eq!(claims.family.amd_name(), case["product"].as_str().unwrap());
                assert_eq!(claims.root_of_trust.to_string(), "amd-sev-snp");
                assert_eq!(claims.chip_id.to_string(), case["chip_id"].as_str().unwrap());
            }
            assert_eq!(code(result), verdict, "{name}");
            // The same through the lossless wire form, and through the stock one.
            for value in [evidence.to_raw_value().unwrap(), evidence.to_stock_value().unwrap()] {
                let parsed = SnpEvidence::from_value(&value).unwrap();
                assert_eq!(parsed, evidence, "{name}");
                assert_eq!(code(appraise(&parsed, &values, now)), verdict, "{name}");
            }
        }
    }
}

/// The expected answers of the vectors, one by one, are what single rules say.
#[test]
fn every_stated_check_is_what_its_rule_says() {
    for (case, evidence) in cases() {
        let fields = evidence.report.fields();
        let enrolled = Enrolled::new(fields.host_data, vec![fields.measurement]);
        let values = everything();
        let expected = expecting(fields.report_data, &values, &enrolled);
        let appraisal = appraise_all(&evidence, &expected, &Roots::amd().unwrap(), SUMMER_2025);
        let holds = |rule: Rule| matches!(appraisal.checks[rule as usize].outcome, coffer_verify::Outcome::Pass { .. });
        let (name, states) = (&case["name"], &case["expect"]);
        assert_eq!(holds(Rule::Signature), states["signature"], "{name}");
        assert_eq!(holds(Rule::CertificateTcb), states["tcb_match"], "{name}");
        assert!(holds(Rule::ChipId) && holds(Rule::Chain) && holds(Rule::CertificateKind), "{name}");
        assert_eq!(holds(Rule::CertificateCurrentTcb), states["reported_le_current"], "{name}");
        // Committed and current differ on genuine hosts; in this order they are on all.
        assert!(holds(Rule::TcbOrder) && holds(Rule::ReservedBytes) && holds(Rule::MigrationAgent) && holds(Rule::ReportId), "{name}");
        assert!(holds(Rule::PolicyReserved) && holds(Rule::GuestPolicy) && holds(Rule::MaskedChip), "{name}");
        assert_eq!(holds(Rule::DebugPolicy), !case["debug"].as_bool().unwrap(), "{name}");
        assert_eq!(holds(Rule::Vmpl), case["vmpl"] == 0, "{name}");
        // Every host that makes version 3 or 5 reports has looked for aliases: why the default requires it.
        assert_eq!(fields.platform_info >> 5 & 1 == 1, fields.version >= 3, "{name}");
    }
}

#[test]
fn a_vlek_is_taken_within_its_year_for_its_provider_and_never_below_vmpl_0() {
    let Some(evidence) = case("milan-v3-vlek-aws-vmpl1-trustee") else { return };
    let at = |values: &ReferenceValues, now| code(appraise(&evidence, values, now));
    // Expired on 2025-12-10: today it is refused for that, before its VMPL is looked at.
    assert_eq!(at(&everything(), SUMMER_2026), "certificate_dates");
    assert_eq!(at(&everything(), UnixTime(1_765_404_862)), "certificate_dates");
    assert_eq!(at(&everything(), UnixTime(1_733_868_860)), "certificate_dates");
    assert_eq!(at(&everything(), SUMMER_2025), "vmpl");
    // All that is wrong with it in 2025 is its VMPL.
    let fields = evidence.report.fields();
    let (values, enrolled) = (everything(), Enrolled::new(fields.host_data, vec![fields.measurement]));
    let appraisal = appraise_all(&evidence, &expecting(fields.report_data, &values, &enrolled), &Roots::amd().unwrap(), SUMMER_2025);
    let failed: Vec<_> =
        appraisal.checks.iter().filter(|c| matches!(c.outcome, coffer_verify::Outcome::Fail { .. })).map(|c| c.rule).collect();
    assert_eq!(failed, [Rule::Vmpl]);
    // Another provider's, and a list of chips, which a VLEK hides.
    let providers = ReferenceValues { csp_ids: vec!["CN=cc-us-east-1.amazonaws.com".into()], ..everything() };
    let of = |values: &ReferenceValues| {
        let appraisal = appraise_all(&evidence, &expecting(fields.report_data, values, &enrolled), &Roots::amd().unwrap(), SUMMER_2025);
        appraisal
            .checks
            .into_iter()
            .filter(|c| matches!(c.outcome, coffer_verify::Outcome::Fail { .. }))
            .map(|c| c.rule)
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&providers), [Rule::Vmpl, Rule::CspId]);
    let mut chips = everything();
    chips.chips.allow = Some(vec![fields.chip_id]);
    assert_eq!(of(&chips), [Rule::Vmpl, Rule::ChipAllowed]);
}

#[test]
fn milan_needs_its_risk_accepted_and_version_2_its_own_word() {
    let (Some(v2), Some(v3)) = (case("milan-v2-trustee"), case("milan-v3-dstack")) else { return };
    let mut values = everything();
    values.platform.alias_check = BitRule::Required;
    assert_eq!(code(appraise(&v3, &values, SUMMER_2026)), "accepted");
    assert_eq!(code(appraise(&v2, &values, SUMMER_2026)), "platform_info");
    values.report_versions = vec![3, 5];
    assert_eq!(code(appraise(&v2, &values, SUMMER_2026)), "report_version");
    values.families.milan.as_mut().unwrap().risk_accepted = None;
    let reject = appraise(&v3, &values, SUMMER_2026).unwrap_err();
    assert_eq!(reject.rule(), Rule::Family);
    assert!(reject.expected().contains("arXiv 2605.12990"), "{reject}");
}

#[test]
fn wire_json_is_accepted_or_refused_for_the_stated_reason() {
    let verdicts = [
        ("genoa-v3-vcek", "accepted"),
        ("genoa-v3-nochain", "vek_count"),
        ("milan-v2-vcek", "accepted"),
        ("milan-v2-vcek-debug-policy", "debug_policy"),
        ("milan-v3-vcek", "accepted"),
        ("milan-v3-nochain", "vek_count"),
        ("milan-v3-vlek-vmpl1", "certificate_dates"),
        ("turin-v5-vcek", "accepted"),
        ("turin-v5-nochain", "vek_count"),
    ];
    for (name, verdict) in verdicts {
        let Some(text) = read(&format!("wire/{name}.json")) else { return };
        let evidence = SnpEvidence::from_json(&text).unwrap();
        assert_eq!(code(appraise(&evidence, &everything(), SUMMER_2026)), verdict, "{name}");
        // What we would send is what a stock attester sent, and every byte string in it is an array of numbers.
        let ours = evidence.to_stock_value().unwrap();
        assert_eq!(ours, serde_json::from_slice::<Value>(&text).unwrap(), "{name}");
        let report = ours["attestation_report"].as_object().unwrap();
        let arrays = report.values().filter(|value| value.is_array()).count();
        assert_eq!((arrays, report.values().filter(|value| value.is_string()).count()), (10, 0), "{name}");
    }
    // Where the host has no certificates, the service's own store completes the evidence.
    for family in ["genoa-v3", "milan-v3", "turin-v5"] {
        let of = |form: &str| SnpEvidence::from_json(&read(&format!("wire/{family}-{form}.json")).unwrap()).unwrap();
        let mut evidence = of("nochain");
        evidence.certificates = of("vcek").certificates;
        assert_eq!(code(appraise(&evidence, &everything(), SUMMER_2026)), "accepted", "{family}");
    }
}

/// The captured flows were made with a sample attester: their evidence is no SNP evidence, and says so.
#[test]
fn sample_evidence_of_the_captured_flows_is_refused_by_name() {
    for file in [
        "attest-initdata",
        "attest-with-sample-device",
        "get-resource-ec256",
        "get-resource-ec521",
        "get-resource-rsa",
        "deny-401",
        "real-kbs-ec256",
        "real-kbs-ec521",
        "real-kbs-rsa",
        "real-kbs-admin-and-get",
    ] {
        let Some(path) = vectors::path(&format!("kbs/{file}.jsonl")) else { return };
        let lines = fs::read_to_string(path).unwrap();
        let flows = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let bodies = flows.filter_map(|flow| serde_json::from_str::<Value>(flow["request"]["body"].as_str()?).ok());
        let evidence: Vec<_> = bodies.filter_map(|body| body.pointer("/tee-evidence/primary_evidence").cloned()).collect();
        assert!(!evidence.is_empty(), "{file}");
        for sample in evidence {
            let reject = Reject::from(SnpEvidence::from_value(&sample).unwrap_err());
            assert_eq!((reject.rule(), reject.is_authenticated()), (Rule::Evidence, false), "{file}");
        }
    }
}

/// The Turin VCEK that came without a report: its chain holds.
#[test]
fn a_certificate_without_a_report_has_its_chain_checked() {
    let Some(data) = read("virtee-sev/vcek_turin.der") else { return };
    let entries = [CertEntry { kind: CertKind::Vcek, data }];
    let endorsement = coffer_verify::endorse_certificates(VekKind::Vcek.signing_key(), &entries, &Roots::amd().unwrap()).unwrap();
    assert_eq!((endorsement.family(), endorsement.kind()), (Family::Turin, VekKind::Vcek));
    assert_eq!(endorsement.chip().unwrap().as_bytes()[8..], [0; 56]);
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
    let roots = Roots::simulated(GENOA.ark.certificate()).unwrap();
    for (case, evidence) in cases() {
        let fields = evidence.report.fields();
        let (values, enrolled) = (everything(), Enrolled::new(fields.host_data, vec![fields.measurement]));
        let verdict = code(verify(&evidence, &expecting(fields.report_data, &values, &enrolled), &roots, SUMMER_2026));
        assert_eq!(verdict, "chain", "{}", case["name"]);
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

/// Turns every byte of a real report over, one at a time: no signed byte may be wrong, and no other either.
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
        assert_ne!(verdict, "accepted", "offset {at:#x}");
        *tally.entry(verdict).or_default() += 1;
    }
    // Version and SIGNATURE_ALGO 4 bytes, CHIP_ID 64, what R and S have beyond P-384 and what nobody signs.
    assert_eq!((tally["report_version"], tally["signature_algorithm"], tally["chip_id"]), (4, 4, 64), "{tally:?}");
    assert_eq!((tally["signature_range"], tally["reserved_bytes"]), (48, Report::LEN - 0x330), "{tally:?}");
}

#[test]
fn expectations_are_compared_exactly() {
    let Some(evidence) = case("turin-v5-openanolis") else { return };
    let fields = evidence.report.fields();
    let (roots, values) = (Roots::amd().unwrap(), everything());
    let enrolled = Enrolled::new(fields.host_data, vec![fields.measurement]);
    let good = expecting(fields.report_data, &values, &enrolled);
    let check = |expected: &Expected<'_>| code(verify(&evidence, expected, &roots, SUMMER_2026));
    assert_eq!(check(&good), "accepted");

    let other = "00".repeat(64).parse().unwrap();
    assert_eq!(check(&Expected { report_data: other, ..good }), "report_data");
    assert_eq!(check(&Expected { enrolled: None, ..good }), "host_data");
    assert_eq!(check(&Expected { reference_values: None, ..good }), "tcb_floor_missing");
    let wrong = Enrolled { host_data: "11".repeat(32).parse().unwrap(), ..enrolled.clone() };
    assert_eq!(check(&Expected { enrolled: Some(&wrong), ..good }), "host_data");
    for launch_digests in [vec![], vec!["22".repeat(48).parse().unwrap()]] {
        let wrong = Enrolled { launch_digests, ..enrolled.clone() };
        assert_eq!(check(&Expected { enrolled: Some(&wrong), ..good }), "launch_digest");
    }
    // fmc 1, bootloader 3, tee 2, snp 5, microcode 97: one more than that anywhere is too much, for project and enrollment alike.
    let floor = fields.reported_tcb;
    let with_floor = |floor: TcbVersion| {
        let mut values = everything();
        values.families.turin.as_mut().unwrap().tcb_floor = floor;
        check(&Expected { reference_values: Some(&values), ..good })
    };
    let enrolled_with = |floor: TcbVersion| {
        let enrolled = Enrolled { tcb_floor: Some(floor), ..enrolled.clone() };
        check(&Expected { enrolled: Some(&enrolled), ..good })
    };
    assert_eq!((with_floor(floor), enrolled_with(floor)), ("accepted", "accepted"));
    for higher in [
        TcbVersion { fmc: Some(2), ..floor },
        TcbVersion { bootloader: 4, ..floor },
        TcbVersion { tee: 3, ..floor },
        TcbVersion { snp: 6, ..floor },
        TcbVersion { microcode: 98, ..floor },
    ] {
        assert_eq!((with_floor(higher), enrolled_with(higher)), ("tcb_floor", "enrolled_tcb_floor"), "{higher}");
    }
    // Both mitigation vectors are 63, the firmware is 1.58.3.
    for (change, verdict) in
        [((63, 63, 3), "accepted"), ((64, 63, 3), "mitigations"), ((63, 127, 3), "mitigations"), ((1, 32, 4), "minimum_firmware")]
    {
        let mut values = everything();
        let turin = values.families.turin.as_mut().unwrap();
        (turin.launch_mitigations, turin.current_mitigations) = (Some(change.0), Some(change.1));
        turin.minimum_firmware = Some(coffer_evidence::FirmwareVersion { major: 1, minor: 58, build: change.2 });
        assert_eq!(check(&Expected { reference_values: Some(&values), ..good }), verdict);
    }
    let mut no_turin = everything();
    no_turin.families.turin = None;
    assert_eq!(check(&Expected { reference_values: Some(&no_turin), ..good }), "family");
}
