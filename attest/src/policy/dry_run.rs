//! What would another policy have decided? The newest decisions are made again, each at its own time, under the policy in force and
//! under the candidate; what differs is shown.
//!
//! Evidence is appraised anew, with today's revocations and collateral for both, so that a difference is the policy's alone. The
//! record is as it stood when the decision was made.

use std::fmt::Display;
use std::time::{Duration, Instant};

use coffer_evidence::SnpEvidence;
use coffer_kbs_policy::EvidenceFacts;
use coffer_manifest::{ProjectName, ResourcePath, SiteName};
use serde::Serialize;

use super::{ProjectPolicy, StockPath};
use crate::judge::{Judge, Refused};
use crate::store::{Asked, Decision, Locked, PolicyOwner, Site, Standing, Stands, StoreError};

/// How long one may take: a project's rego may need a second for each of thousands of decisions, and whoever asked waits no longer.
const TIME: Duration = Duration::from_secs(15);

/// The outcome of a dry run.
#[derive(Debug, Default, Serialize)]
pub struct DryRun {
    /// Decisions made again.
    made_again: usize,
    /// Decisions that could not be: what they rested on is no longer kept, another policy decides about them, or the time was up.
    left_out: usize,
    /// Decisions that would come out otherwise, newest first.
    changes: Vec<Change>,
}

/// A decision that would come out otherwise.
#[derive(Debug, Serialize)]
struct Change {
    /// The id the peer was given.
    id: String,
    /// Unix seconds.
    at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<ProjectName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<SiteName>,
    /// `token`, or the path asked for.
    asked: String,
    /// What was decided then, which an older policy may have.
    recorded: String,
    /// Under the policy in force.
    before: Verdict,
    /// Under the candidate.
    after: Verdict,
}

/// How a decision comes out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Verdict {
    /// `ok`, or the reason code.
    code: String,
    /// The rule and both values; empty if nothing is refused.
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
}

impl Verdict {
    fn ok() -> Self {
        Self { code: "ok".to_owned(), detail: String::new() }
    }

    fn refused(refused: &Refused, doing: &dyn Display) -> Self {
        Self { code: refused.reason.code().to_owned(), detail: format!("{doing}{}", refused.detail) }
    }
}

/// Makes the newest `last` decisions again that `candidate` would decide about. `store` locks the database, each time for one look.
///
/// # Errors
/// See [`StoreError`].
pub fn dry_run<'a>(
    judge: &Judge,
    store: impl Fn() -> Locked<'a>,
    in_force: &ProjectPolicy,
    candidate: &ProjectPolicy,
    last: u32,
) -> Result<DryRun, StoreError> {
    let project = match &candidate.owner {
        PolicyOwner::Default => None,
        PolicyOwner::Project(project) => Some(project),
    };
    let decisions = store().decisions(project, last)?;
    let (mut run, until, all) = (DryRun::default(), Instant::now() + TIME, decisions.len());
    for decision in decisions {
        if Instant::now() >= until {
            run.left_out = all - run.made_again;
            break;
        }
        let owner = decision.project.as_ref().map_or(PolicyOwner::Default, |project| judge.policies().of(project).owner.clone());
        // The default decides about projects without a policy of their own only.
        let decides = project.is_some() || owner == PolicyOwner::Default;
        let again = if decides { Again::load(&store, &decision)? } else { None };
        let Some(again) = again else {
            run.left_out += 1;
            continue;
        };
        run.made_again += 1;
        let verdict = |policy| again.verdict(judge, policy, &decision);
        let (before, after) = (verdict(in_force), verdict(candidate));
        if before.code != after.code {
            let Decision { id, at, project, site, code, asked, .. } = decision;
            run.changes.push(Change { id, at, project, site, asked: shown(&asked), recorded: code, before, after });
        }
    }
    Ok(run)
}

fn shown(asked: &Asked) -> String {
    match asked {
        Asked::Token(_) => "token".to_owned(),
        Asked::Release { path, .. } | Asked::Stock { path, .. } => path.clone(),
    }
}

/// What a decision needs to be made again.
struct Again {
    evidence: SnpEvidence,
    /// When the evidence was appraised.
    at: u64,
    site: Option<Site>,
}

impl Again {
    fn load<'a>(store: &impl Fn() -> Locked<'a>, decision: &Decision) -> Result<Option<Self>, StoreError> {
        let store = store();
        let attestation = match &decision.asked {
            Asked::Token(_) => None,
            Asked::Release { attestation, .. } | Asked::Stock { attestation, .. } => {
                let Some(attestation) = store.attestation(attestation)? else { return Ok(None) };
                Some(attestation)
            }
        };
        let at = attestation.as_ref().map_or(decision.at, |attestation| attestation.at);
        let Some(evidence) = attestation.map_or_else(|| decision.evidence.clone(), |attestation| attestation.evidence) else {
            return Ok(None);
        };
        let site = store.site(&decision.host_data)?.map(|site| standing_at(site, decision.at));
        Ok(Some(Self { evidence, at, site }))
    }

    fn verdict(&self, judge: &Judge, policy: &ProjectPolicy, decision: &Decision) -> Verdict {
        let report_data = self.evidence.report.fields().report_data;
        let verified = match judge.appraise_under(policy, &self.evidence, report_data, self.site.as_ref(), self.at) {
            Ok(verified) => verified,
            Err(refused) => return Verdict::refused(&refused, &self.stage(decision)),
        };
        let Some(site) = &self.site else { return Verdict::ok() };
        let facts = EvidenceFacts::of(&verified);
        let decided = match &decision.asked {
            Asked::Token(request) => Judge::may_attest_under(policy, &facts, site, request),
            Asked::Release { path, .. } => match path.parse::<ResourcePath>() {
                Ok(path) => Judge::may_release_under(policy, &facts, site, &path),
                Err(_) => Ok(()),
            },
            Asked::Stock { path, .. } => match path.split_once('/').and_then(|(_, path)| path.parse::<StockPath>().ok()) {
                Some(path) => Judge::may_have_stock(policy, &facts, site, &path),
                None => Ok(()),
            },
        };
        match decided {
            Ok(()) => Verdict::ok(),
            Err(refused) => Verdict::refused(&refused, &""),
        }
    }

    /// A secret that was released is refused earlier where its attestation would be.
    fn stage(&self, decision: &Decision) -> &'static str {
        match decision.asked {
            Asked::Token(_) => "",
            Asked::Release { .. } | Asked::Stock { .. } => "its attestation: ",
        }
    }
}

/// A record that was revoked or suspended later stood then.
fn standing_at(site: Site, at: u64) -> Site {
    let Stands { standing, suspended } = site.stands;
    let standing = match standing {
        Standing::Revoked { revoked_at, .. } if revoked_at > at => Standing::Active,
        standing => standing,
    };
    let suspended = suspended.filter(|suspended| suspended.at <= at);
    Site { stands: Stands { standing, suspended }, ..site }
}
