//! Every check with its verdict, for those who want to see them all.

use coffer_evidence::{SnpEvidence, UnixTime};
use serde::Serialize;

use crate::chain::endorse;
use crate::checks::{Finding, Scene};
use crate::claims::{Claims, Verified};
use crate::expected::Expected;
use crate::reject::Reject;
use crate::roots::Roots;
use crate::rule::Rule;

/// What became of one check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Outcome {
    /// It holds.
    Pass {
        /// What the evidence has.
        got: String,
    },
    /// It does not hold.
    Fail {
        /// What the rule wants.
        expected: String,
        /// What the evidence has.
        got: String,
    },
    /// It needs what an earlier check did not give.
    NotReached,
    /// Neither reference values nor enrollment nor revocations ask for it.
    NotAsked,
}

/// One check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Check {
    /// Which.
    pub rule: Rule,
    /// Its verdict.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The whole appraisal of one piece of evidence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Appraisal {
    /// Every rule once, in the order of [`Rule::ALL`].
    pub checks: Vec<Check>,
    /// What is known, if every check that was asked for holds.
    pub claims: Option<Verified<Claims>>,
}

impl Appraisal {
    /// The first check that does not hold: what [`crate::verify`] would have answered.
    #[must_use]
    pub fn rejection(&self) -> Option<Reject> {
        self.checks.iter().find_map(|check| match &check.outcome {
            Outcome::Fail { expected, got } => Some(Reject::new(check.rule, expected.clone(), got.clone())),
            Outcome::Pass { .. } | Outcome::NotReached | Outcome::NotAsked => None,
        })
    }

    /// The appraisal of bytes that are no evidence at all.
    #[must_use]
    pub fn unreadable(reject: &Reject) -> Self {
        let outcome = |rule: Rule| match rule {
            rule if rule == reject.rule() => Outcome::Fail { expected: reject.expected().to_owned(), got: reject.got().to_owned() },
            _ => Outcome::NotReached,
        };
        Self { checks: Rule::ALL.iter().map(|rule| Check { rule: *rule, outcome: outcome(*rule) }).collect(), claims: None }
    }
}

/// Makes every check that can be made, in order, and does not stop at the first that fails. [`crate::verify`] refuses exactly where
/// [`Appraisal::rejection`] has something to say, and for that reason.
#[must_use]
pub fn appraise(evidence: &SnpEvidence, expected: &Expected<'_>, roots: &Roots, now: UnixTime) -> Appraisal {
    let endorsement = endorse(evidence, roots);
    let (held, broken) = match &endorsement {
        Ok(endorsement) => (Some(endorsement), None),
        Err(reject) => (None, Some(reject)),
    };
    let scene = Scene { report: &evidence.report, endorsement: held, expected, now, tells: true };
    let outcome = |rule: Rule| match rule {
        Rule::Evidence => Outcome::Pass { got: "readable".into() },
        Rule::VekCount | Rule::Certificate | Rule::Chain => match broken {
            Some(reject) if reject.rule() == rule => Outcome::Fail { expected: reject.expected().to_owned(), got: reject.got().to_owned() },
            // The rest of a chain that broke before, or of one that was not looked at any further.
            Some(reject) if reject.rule() < rule => Outcome::NotReached,
            Some(_) | None => Outcome::Pass { got: endorsed(rule, held, evidence) },
        },
        rule => match scene.check(rule) {
            Finding::Pass(got) => Outcome::Pass { got },
            Finding::Fail { expected, got } => Outcome::Fail { expected, got },
            Finding::NotAsked => Outcome::NotAsked,
            Finding::NotReached => Outcome::NotReached,
        },
    };
    let checks: Vec<_> = Rule::ALL.iter().map(|rule| Check { rule: *rule, outcome: outcome(*rule) }).collect();
    let holds = checks.iter().all(|check| matches!(check.outcome, Outcome::Pass { .. } | Outcome::NotAsked));
    let claims = held.filter(|_| holds).map(|endorsement| Verified::new(Claims::of(&evidence.report, endorsement)));
    Appraisal { checks, claims }
}

/// What a rule of the chain saw.
fn endorsed(rule: Rule, endorsement: Option<&crate::Endorsement>, evidence: &SnpEvidence) -> String {
    match (rule, endorsement) {
        (Rule::VekCount, _) => "1".into(),
        (Rule::Chain, Some(endorsement)) => {
            let [vek, intermediate, root] = endorsement.validity();
            format!("{} <- {} <- {}, {}", vek.0, intermediate.0, root.0, endorsement.root_of_trust())
        }
        _ => format!("{} beside the report", evidence.certificates.len()),
    }
}
