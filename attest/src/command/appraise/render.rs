//! An appraisal as text and as JSON. Both say what was asked, what was not, and end with the verdict and the rule's name.

use coffer_evidence::ReportFields;
use coffer_verify::{Appraisal, Check, Outcome, Reject, Rule};
use serde::Serialize;
use serde_json::{Value, json};

use super::input::{Form, Given};
use crate::clock::rfc3339;

/// `type` of the JSON form.
const DOCUMENT_TYPE: &str = "coffer/appraisal/v1";
/// Rules that together say: AMD's hardware made this report, and it was not changed.
const GENUINE: [Rule; 11] = [
    Rule::VekCount,
    Rule::Certificate,
    Rule::Chain,
    Rule::CertificateKind,
    Rule::CertificateDates,
    Rule::CertificateRevoked,
    Rule::CertificateTcb,
    Rule::ChipId,
    Rule::SignatureAlgorithm,
    Rule::SignatureRange,
    Rule::Signature,
];

/// What was appraised, with what.
#[derive(Debug, Clone)]
pub struct Source {
    /// The evidence's path.
    pub file: String,
    /// Unix seconds at which dates are looked at.
    pub at: u64,
    /// Whose root.
    pub root_of_trust: String,
    /// The policy's path.
    pub policy: Option<String>,
    /// The policy asks more than reference values can say: rego, exact lists.
    pub left_out: bool,
}

/// Every check, and what follows.
#[derive(Debug)]
pub struct Verdict {
    source: Source,
    form: Option<Form>,
    certificates: Option<usize>,
    report: Option<Facts>,
    checks: Vec<Check>,
}

/// What an auditor wants to see of a report, whatever the verdict.
#[derive(Debug, Clone, Serialize)]
struct Facts {
    version: u32,
    launch_digest: String,
    host_data: String,
    report_data: String,
    chip_id: String,
    reported_tcb: String,
}

impl Verdict {
    /// Of evidence that was read.
    #[must_use]
    pub fn new(source: Source, given: &Given, checks: Vec<Check>) -> Self {
        Self {
            source,
            form: Some(given.form),
            certificates: Some(given.evidence.certificates.len()),
            report: Some(Facts::of(given.evidence.report.fields())),
            checks,
        }
    }

    /// Of evidence that is refused for what cannot be read.
    #[must_use]
    pub fn unreadable(source: Source, reject: &Reject) -> Self {
        Self { source, form: None, certificates: None, report: None, checks: Appraisal::unreadable(reject).checks }
    }

    /// The rule that decides against the evidence; none if it is accepted.
    #[must_use]
    pub fn broken(&self) -> Option<Rule> {
        self.first_broken().map(|check| check.rule)
    }

    /// The rule that decides; a check that was not reached has not passed.
    fn first_broken(&self) -> Option<&Check> {
        let fails = |check: &&Check| matches!(check.outcome, Outcome::Fail { .. });
        let hangs = |check: &&Check| matches!(check.outcome, Outcome::NotReached);
        self.checks.iter().find(fails).or_else(|| self.checks.iter().find(hangs))
    }

    /// Whether this root's hardware made the report and nobody changed it since.
    fn is_genuine(&self) -> bool {
        let holds = |outcome: &Outcome| matches!(outcome, Outcome::Pass { .. } | Outcome::NotAsked);
        self.checks.iter().filter(|check| GENUINE.contains(&check.rule)).all(|check| holds(&check.outcome))
    }

    fn is_unasked(&self, rule: Rule) -> bool {
        self.checks.iter().any(|check| check.rule == rule && check.outcome == Outcome::NotAsked)
    }

    /// What the verdict does not say, one line each.
    fn notes(&self) -> Vec<&'static str> {
        let mut notes = Vec::new();
        if self.source.policy.is_none() {
            notes.push("no policy was given, so nobody said how old firmware may be and nothing is accepted: --policy FILE");
        }
        if self.source.left_out {
            notes.push("the policy's rego and exact lists were not asked: only a service evaluates them");
        }
        if self.is_unasked(Rule::ReportData) {
            notes.push("REPORT_DATA was not compared: nothing here says for whom or when the report was made: --report-data HEX");
        }
        if self.is_unasked(Rule::LaunchDigest) && self.is_unasked(Rule::HostData) {
            notes.push("what was launched was not compared with anything: --launch-digest HEX, --host-data HEX");
        }
        if self.source.root_of_trust != "amd-sev-snp" {
            notes.push("the root of trust is a simulator's: this proves nothing about hardware");
        }
        notes
    }

    /// The text for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut head = |name: &str, value: &str| text.push_str(&format!("{name:<14}{value}\n"));
        head("evidence", &format!("{}{}", self.source.file, self.form.map_or_else(String::new, |form| format!(" ({})", form.describe()))));
        head("at", &rfc3339(self.source.at));
        head("root of trust", &self.source.root_of_trust);
        head("policy", self.source.policy.as_deref().unwrap_or("none: the defaults, under which no family is accepted"));
        if let Some(facts) = &self.report {
            head("launch digest", &facts.launch_digest);
            head("HOST_DATA", &facts.host_data);
            head("REPORT_DATA", &facts.report_data);
            head("chip", &facts.chip_id);
        }
        text.push('\n');
        text.push_str(&self.table());
        text.push('\n');
        for note in self.notes() {
            text.push_str(&format!("note: {note}\n"));
        }
        text.push_str(&format!("genuine: {}\n", if self.is_genuine() { "yes" } else { "no" }));
        text.push_str(&match self.first_broken() {
            None => "verdict: accepted\n".to_owned(),
            Some(check) if self.source.policy.is_none() && self.is_genuine() => {
                format!("verdict: refused: {} (genuine, but no policy was given)\n", check.rule)
            }
            Some(check) => format!("verdict: refused: {}\n", check.rule),
        });
        text
    }

    fn table(&self) -> String {
        let width = Rule::ALL.iter().map(|rule| rule.code().len()).max().unwrap_or_default();
        let mut table = String::new();
        for Check { rule, outcome } in &self.checks {
            let line = match outcome {
                Outcome::Pass { got } => format!("{:<width$}  pass         {got}", rule.code()),
                Outcome::Fail { got, .. } => format!("{:<width$}  FAIL         got       {got}", rule.code()),
                Outcome::NotReached => format!("{:<width$}  not reached", rule.code()),
                Outcome::NotAsked => format!("{:<width$}  not asked", rule.code()),
            };
            table.push_str(line.trim_end());
            table.push('\n');
            if let Outcome::Fail { expected, .. } = outcome {
                table.push_str(&format!("{:<width$}               expected  {expected}\n", ""));
                table.push_str(&format!("{:<width$}               remedy    {}\n", "", rule.remedy()));
            }
        }
        table
    }

    /// The form for programs; its shape is stable within its `type`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let broken = self.first_broken();
        json!({
            "type": DOCUMENT_TYPE,
            "verdict": if broken.is_none() { "accepted" } else { "refused" },
            "rule": broken.map(|check| check.rule),
            "genuine": self.is_genuine(),
            "evidence": { "file": self.source.file, "form": self.form, "certificates": self.certificates },
            "at": rfc3339(self.source.at),
            "root_of_trust": self.source.root_of_trust,
            "policy": self.source.policy,
            "report": self.report,
            "checks": self.checks,
            "notes": self.notes(),
        })
    }
}

impl Facts {
    fn of(fields: &ReportFields) -> Self {
        Self {
            version: fields.version,
            launch_digest: fields.measurement.to_string(),
            host_data: fields.host_data.to_string(),
            report_data: fields.report_data.to_string(),
            chip_id: fields.chip_id.to_string(),
            reported_tcb: fields.reported_tcb.to_string(),
        }
    }
}
