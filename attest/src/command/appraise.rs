//! `coffer-attest appraise EVIDENCE`: every check of evidence from a file, without network, service or database.
//!
//! Exit codes: 0 accepted, 1 refused, 2 unusable input. Closed by default: without `--policy` nothing is accepted, for nobody said how
//! old firmware may be; what the signatures say is shown all the same. What nobody gave an expected value for is `not asked`.

mod input;
mod render;

use std::path::Path;

use coffer_evidence::{EvidenceError, ReportData};
use coffer_verify::{
    Appraisal, Check, Collateral, Enrolled, Expected, Outcome, ReferenceValues, Reject, Revoked, Roots, Rule, UnixTime, appraise,
};

use crate::cli::Appraise;
use crate::clock::{parse_rfc3339, unix_now};
use crate::failure::{Exit, Failure, OrFail, chain};
use crate::layout::read_small;
use input::{Given, InputError};
use render::{Source, Verdict};

/// `type` of a project's policy document.
const POLICY_TYPE: &str = "coffer/project-policy/v1";

/// Reads the files, appraises, prints.
///
/// # Errors
/// Evidence that is refused, with its rule's name; [`Exit::Unusable`] where an input cannot be used.
pub fn run(args: &Appraise) -> Result<(), Failure> {
    let verdict = judge(args).map_err(|failure| failure.exit(Exit::Unusable))?;
    if args.json {
        println!("{}", verdict.to_json());
    } else {
        print!("{}", verdict.to_text());
    }
    match verdict.broken() {
        None => Ok(()),
        Some(rule) => Err(Failure::new(format!("{}: refused: {rule}", args.evidence.display())).exit(Exit::Failed)),
    }
}

fn judge(args: &Appraise) -> Result<Verdict, Failure> {
    let at = at(args)?;
    let roots = match &args.ark {
        Some(path) => Roots::simulated(&read(path, "root certificate")?).or_fail(&format!("cannot use {}", path.display()))?,
        None => Roots::amd().or_fail("cannot use the built-in roots")?,
    };
    let reference_values = args.policy.as_deref().map(reference_values).transpose()?;
    let mut collateral = Collateral::new();
    for path in &args.crl {
        let crl = roots.check_crl(&read(path, "revocation list")?).or_fail(&format!("cannot use {}", path.display()))?;
        collateral.add(crl);
    }
    let source = Source {
        file: args.evidence.display().to_string(),
        at,
        root_of_trust: roots.root_of_trust().to_string(),
        policy: args.policy.as_ref().map(|path| path.display().to_string()),
        left_out: reference_values.as_ref().is_some_and(|(_, left_out)| *left_out),
    };
    let reference_values = reference_values.map(|(values, _)| values);
    let given = match Given::read(&read(&args.evidence, "evidence")?) {
        Ok(given) => given,
        Err(InputError::Evidence(error)) => return unreadable(source, error),
        Err(error) => return Err(Failure::new(format!("cannot use {}: {error}", args.evidence.display()))),
    };
    let given = with_certificates(given, args)?;
    let questions = Questions::of(args, &given);
    let revoked = Revoked::default();
    let expected = Expected {
        report_data: questions.report_data.unwrap_or(given.evidence.report.fields().report_data),
        reference_values: reference_values.as_ref(),
        enrolled: Some(&questions.enrolled),
        revoked: &revoked,
        collateral: &collateral,
    };
    let appraisal = appraise(&given.evidence, &expected, &roots, UnixTime(at));
    Ok(Verdict::new(source, &given, questions.leave_out(appraisal)))
}

/// A report of a version that this build does not read is evidence, and is refused by name, as the service does; the rest is no evidence.
fn unreadable(source: Source, error: EvidenceError) -> Result<Verdict, Failure> {
    let text = format!("cannot use {}: {}", source.file, chain(&error));
    let reject = Reject::from(error);
    if reject.rule() == Rule::ReportVersion { Ok(Verdict::unreadable(source, &reject)) } else { Err(Failure::new(text)) }
}

/// What the auditor asks. Where nothing is asked, the evidence's own value stands in, and its check is then left out.
struct Questions {
    report_data: Option<ReportData>,
    enrolled: Enrolled,
    unasked: Vec<Rule>,
}

impl Questions {
    fn of(args: &Appraise, given: &Given) -> Self {
        let fields = given.evidence.report.fields();
        let report_data = args.report_data.or(given.report_data);
        let host_data = args.host_data.unwrap_or(fields.host_data);
        let launch_digests = if args.launch_digest.is_empty() { vec![fields.measurement] } else { args.launch_digest.clone() };
        let unasked = [
            (Rule::ReportData, report_data.is_none()),
            (Rule::HostData, args.host_data.is_none()),
            (Rule::LaunchDigest, args.launch_digest.is_empty()),
        ];
        let unasked = unasked.into_iter().filter(|(_, unasked)| *unasked).map(|(rule, _)| rule).collect();
        Self { report_data, enrolled: Enrolled::new(host_data, launch_digests), unasked }
    }

    fn leave_out(&self, mut appraisal: Appraisal) -> Vec<Check> {
        for check in appraisal.checks.iter_mut().filter(|check| self.unasked.contains(&check.rule)) {
            check.outcome = Outcome::NotAsked;
        }
        appraisal.checks
    }
}

fn at(args: &Appraise) -> Result<u64, Failure> {
    let Some(text) = &args.at else { return Ok(unix_now()) };
    let refuse = || Failure::new(format!("--at `{text}` is no RFC 3339 time")).hint("such as 2026-11-23T02:29:39Z");
    parse_rfc3339(text).ok_or_else(refuse)
}

fn with_certificates(mut given: Given, args: &Appraise) -> Result<Given, Failure> {
    if let Some(path) = &args.vek {
        given.use_certificates(&read(path, "certificate")?).or_fail(&format!("cannot use {}", path.display()))?;
    }
    Ok(given)
}

/// Reference values of a project policy document, or bare; and whether the document has more, which only a service asks: rego, and
/// exact lists for stock clients.
fn reference_values(path: &Path) -> Result<(ReferenceValues, bool), Failure> {
    let doing = format!("cannot use the policy {}", path.display());
    let bytes = read(path, "policy")?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).or_fail(&doing)?;
    let Some(kind) = value.get("type") else {
        return Ok((serde_json::from_slice(&bytes).or_fail(&doing)?, false));
    };
    if kind != POLICY_TYPE {
        return Err(Failure::new(format!("{doing}: its type is {kind}, this build reads `{POLICY_TYPE}`")));
    }
    let asks_more = |member: &str| value.get(member).and_then(serde_json::Value::as_object).is_some_and(|object| !object.is_empty());
    let left_out = asks_more("rego") || asks_more("stock_reference_values");
    Ok((serde_json::from_value(value["reference_values"].clone()).or_fail(&doing)?, left_out))
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>, Failure> {
    Ok(read_small(path).or_fail(&format!("cannot read the {what}"))?.to_vec())
}
