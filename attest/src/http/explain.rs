//! `GET /coffer/v1/refusals/{id}`: what was behind a code and an id, for admins.
//!
//! What a guest or an admin was refused is in the audit log. What anybody can have sent is in memory, as long as there is room, and is
//! marked so. An admin of one project sees that project's only.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use coffer_evidence::HostData;
use coffer_manifest::{ProjectName, SiteName};
use coffer_verify::Rule;
use serde::Serialize;

use super::extract::{Nothing, Signed};
use super::problem::Problem;
use super::unrecorded::Unrecorded;
use super::{Service, blocking};
use crate::reason::{Reason, Sender};
use crate::store::{Admin, Entry, Event, Scope};

/// Entries shown under one id: an attestation and the secrets it fetched.
const SHOWN_ENTRIES: u32 = 50;
/// Ids are 16 hexadecimal digits.
const ID_CHARS: usize = 16;

/// Of what is not in the audit log.
const NOT_AUTHENTICATED: &str = "not authenticated: anybody can have sent this; not in the audit log";
/// Of what an admin was told at once and nothing changed by.
const TOLD: &str = "an admin's call, answered in full at once; not in the audit log";
/// Of a refusal that is.
const RECORDED: &str = "authenticated and in the audit log";

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Something was refused.
    Refused,
    /// A token was issued.
    Accepted,
}

/// Everything that is known under an id.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// The id a peer was given; of an accepted attestation also the `jti` of its token.
    id: String,
    outcome: Outcome,
    /// Reason code; `ok` where evidence was accepted.
    code: String,
    /// What the rule asks, or what the peer did.
    meaning: &'static str,
    /// Unix seconds.
    at: u64,
    /// Whether a signature vouches for who sent it.
    authenticated: bool,
    /// How far it can be believed.
    note: &'static str,
    /// What happened, in one line.
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    got: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<ProjectName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<SiteName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_data: Option<HostData>,
    /// Address of the peer, where nothing better is known of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<IpAddr>,
    /// Who can do what.
    remedy: &'static str,
    /// Commands for it, without `--dir` or `--url`.
    commands: Vec<String>,
    /// Rules that the evidence had passed, or that nobody asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    passed: Vec<Rule>,
    /// The audit log's entries under this id, oldest first.
    entries: Vec<Entry>,
}

/// Explains one id.
pub async fn explain(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    signed: Signed<Nothing>,
) -> Result<Json<Explanation>, Problem> {
    // Whose entry it is decides, once it is found.
    signed.require_scope(Scope::Read)?;
    blocking(&service, move |service| {
        let unknown = || Problem::tell(Reason::NoSuchRefusal, &unknown(&id));
        if id.len() != ID_CHARS || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(unknown());
        }
        let entries = service.store().entries_under(&id, SHOWN_ENTRIES).map_err(|e| Problem::internal(&e))?;
        let found = if entries.is_empty() {
            // A stranger's refusal is no project's.
            service.refusals.find(&id).filter(|_| signed.admin.project.is_none()).map(Explanation::of_unrecorded)
        } else {
            let seen = entries.into_iter().filter(|entry| may_see(&signed.admin, entry.project.as_ref())).collect();
            Explanation::of_entries(&id, seen)
        };
        found.map(Json).ok_or_else(unknown)
    })
    .await
}

fn unknown(id: &str) -> String {
    let shown: String = id.chars().take(2 * ID_CHARS).flat_map(char::escape_default).collect();
    format!(
        "nothing is known under id `{shown}`: another service's, mistyped (it has {ID_CHARS} hexadecimal digits), another project's, or a \
         refusal of somebody unknown, which is forgotten at a restart and when newer ones of the same address need its place"
    )
}

/// Whether an entry is an admin's to see: what is no project's is the service's.
fn may_see(admin: &Admin, project: Option<&ProjectName>) -> bool {
    project.map_or(admin.project.is_none(), |project| admin.sees(project))
}

impl Explanation {
    /// Of the audit log's entries under one id, the oldest of which says what it is about; none if there are none.
    fn of_entries(id: &str, entries: Vec<Entry>) -> Option<Self> {
        let entry = entries.first()?.clone();
        let reason = Reason::of_code(&entry.code);
        let passed = match (entry.event, reason) {
            (Event::Attest, _) => Rule::ALL.to_vec(),
            (_, Some(Reason::Rule(broken))) => Rule::ALL.iter().copied().take_while(|rule| *rule != broken).collect(),
            _ => Vec::new(),
        };
        let accepted = match entry.event {
            Event::Attest => "the evidence is genuine and within the enrollment's and the project's values",
            _ => "the call was made, and recorded under this id",
        };
        let mut explanation = Self {
            id: id.to_owned(),
            outcome: if entry.event == Event::Refuse { Outcome::Refused } else { Outcome::Accepted },
            meaning: reason.map_or(accepted, Reason::meaning),
            remedy: reason.map_or("nothing to do: the token's `jti` is this id", Reason::remedy),
            code: entry.code,
            at: entry.at,
            authenticated: true,
            note: RECORDED,
            detail: entry.detail,
            expected: entry.expected,
            got: entry.got,
            project: entry.project,
            site: entry.site,
            host_data: entry.host_data,
            source: None,
            commands: Vec::new(),
            passed,
            entries,
        };
        explanation.commands = reason.map_or_else(Vec::new, |reason| explanation.commands_for(reason));
        Some(explanation)
    }

    fn of_unrecorded(refusal: Unrecorded) -> Self {
        let Unrecorded { told, at, source } = refusal;
        let admin = told.reason.sender() == Sender::Admin;
        let (expected, got) = told.values.map(|values| (values.expected, values.got)).unzip();
        let mut explanation = Self {
            id: told.id.as_str().to_owned(),
            outcome: Outcome::Refused,
            code: told.reason.code().to_owned(),
            meaning: told.reason.meaning(),
            at,
            authenticated: admin,
            note: if admin { TOLD } else { NOT_AUTHENTICATED },
            detail: told.detail,
            expected,
            got,
            project: None,
            site: None,
            host_data: None,
            source: Some(source),
            remedy: told.reason.remedy(),
            commands: Vec::new(),
            passed: Vec::new(),
            entries: Vec::new(),
        };
        explanation.commands = explanation.commands_for(told.reason);
        explanation
    }

    /// The reason's commands, with what is known of this case in them.
    fn commands_for(&self, reason: Reason) -> Vec<String> {
        let project = self.project.as_ref().map_or("PROJECT", ProjectName::as_str);
        let site = self.site.as_ref().map_or("SITE", SiteName::as_str);
        reason.commands().iter().map(|command| command.replace("PROJECT", project).replace("SITE", site)).collect()
    }
}
