//! What there is, as `collateral status` shows it.

use std::collections::VecDeque;
use std::time::Instant;

use coffer_evidence::Family;
use serde::Serialize;

use super::piece::What;
use super::queue::Queue;
use super::shelf::{Kept, Shelf};
use crate::clock::rfc3339;

/// Certificates that end within this time are listed.
const EXPIRING_S: u64 = 90 * 24 * 3600;
/// Of which at most this many.
const MAX_EXPIRING: usize = 100;
/// A list that ends within this time is warned of, where nothing fetches the next.
const LIST_ENDING_S: u64 = 7 * 24 * 3600;

/// `GET /coffer/v1/collateral`.
#[derive(Debug, Serialize)]
pub struct Status {
    families: Vec<OfFamily>,
    key_server: Server,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct OfFamily {
    family: Family,
    vceks: usize,
    vleks: usize,
    issuers: Vec<Issuer>,
    crl: Option<List>,
    /// VCEKs and VLEKs that end soon, the soonest first.
    expiring: Vec<Expiring>,
}

#[derive(Debug, Serialize)]
struct Issuer {
    subject: String,
    not_after: String,
    source: String,
}

#[derive(Debug, Serialize)]
struct List {
    this_update: String,
    next_update: Option<String>,
    revoked: usize,
    source: String,
}

#[derive(Debug, Serialize)]
struct Expiring {
    what: String,
    not_after: String,
}

/// The key server and what is asked of it.
#[derive(Debug, Serialize)]
pub struct Server {
    /// None: nothing is fetched.
    url: Option<String>,
    waiting: Vec<String>,
    paused_s: Option<u64>,
    absent: usize,
    errors: Vec<Event>,
    fetched: Vec<Event>,
}

#[derive(Debug, Serialize)]
struct Event {
    what: String,
    seconds_ago: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// The queue's side of it.
pub fn server(url: Option<&str>, queue: &Queue, fetched: &VecDeque<(String, Instant)>, now: Instant) -> Server {
    let ago = |at: Instant| now.saturating_duration_since(at).as_secs();
    Server {
        url: url.map(str::to_owned),
        waiting: queue.waiting().map(ToString::to_string).collect(),
        paused_s: queue.paused(now).map(|pause| pause.as_secs()),
        absent: queue.absent(now),
        errors: queue.errors().map(|e| Event { what: e.what.clone(), seconds_ago: ago(e.at), why: Some(e.why.clone()) }).collect(),
        fetched: fetched.iter().rev().map(|(what, at)| Event { what: what.clone(), seconds_ago: ago(*at), why: None }).collect(),
    }
}

impl Status {
    /// The shelf's side of it, and what an operator should look after.
    #[must_use]
    pub fn of(shelf: &Shelf, key_server: Server, now: u64) -> Self {
        let families: Vec<OfFamily> = shelf.families().into_iter().map(|family| of_family(shelf, family, now)).collect();
        let mut warnings = Vec::new();
        for family in shelf.families() {
            warnings.extend(list_warning(shelf, family, key_server.url.is_some(), now));
        }
        for family in families.iter().filter(|family| !family.expiring.is_empty()) {
            let (count, soonest) = (family.expiring.len(), &family.expiring[0]);
            warnings.push(format!("{count} certificates of {} end within 90 days, the first at {}", family.family, soonest.not_after));
        }
        Self { families, key_server, warnings }
    }
}

fn of_family(shelf: &Shelf, family: Family, now: u64) -> OfFamily {
    let count = |wanted: fn(&What) -> bool| shelf.of_family(family).filter(|kept| wanted(&kept.piece.what)).count();
    let ends = |kept: &Kept| kept.piece.not_after.map_or(u64::MAX, |end| end.0);
    let issuers = shelf.of_family(family).filter(|kept| matches!(kept.piece.what, What::Issuer { .. }));
    let issuer = |kept: &Kept| Issuer { subject: kept.piece.subject.clone(), not_after: rfc3339(ends(kept)), source: kept.source.clone() };
    let mut issuers: Vec<Issuer> = issuers.map(|kept| issuer(kept)).collect();
    issuers.sort_by(|a, b| a.subject.cmp(&b.subject));
    let mut expiring: Vec<_> = shelf.of_family(family).filter(|kept| ends(kept) < now.saturating_add(EXPIRING_S)).collect();
    expiring.sort_by_key(|kept| ends(kept));
    let expiring = expiring.into_iter().take(MAX_EXPIRING);
    OfFamily {
        family,
        vceks: count(|what| matches!(what, What::Vcek(_))),
        vleks: count(|what| matches!(what, What::Vlek { .. })),
        issuers,
        crl: shelf.newest_list(family).and_then(|kept| list(kept)),
        expiring: expiring.map(|kept| Expiring { what: kept.piece.to_string(), not_after: rfc3339(ends(kept)) }).collect(),
    }
}

fn list(kept: &Kept) -> Option<List> {
    let What::Crl(verified) = &kept.piece.what else { return None };
    let crl = verified.crl();
    Some(List {
        this_update: rfc3339(crl.this_update().0),
        next_update: crl.next_update().map(|at| rfc3339(at.0)),
        revoked: crl.revoked().len(),
        source: kept.source.clone(),
    })
}

fn list_warning(shelf: &Shelf, family: Family, fetches: bool, now: u64) -> Option<String> {
    let Some(kept) = shelf.newest_list(family) else {
        return Some(format!("no revocation list of {family}: a revoked intermediate would not be noticed"));
    };
    let end = kept.piece.not_after?.0;
    let shown = rfc3339(end);
    if end < now {
        return Some(format!(
            "the revocation list of {family} was to be replaced by {shown}; projects with `crl: required` refuse its guests"
        ));
    }
    let soon = end < now.saturating_add(LIST_ENDING_S) && !fetches;
    soon.then(|| format!("the revocation list of {family} is to be replaced by {shown}, and nothing fetches the next: import it"))
}
