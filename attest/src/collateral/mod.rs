//! Certificates and revocation lists that evidence comes without: kept, completed from memory, fetched behind the scenes.
//!
//! A request looks at memory only. What it lacks is refused at once; if the operator has opened the way to a key server, a fetch is
//! queued within [`queue`]'s bounds and done by the one thread that runs [`Library::work`]. Nothing gets in that `coffer-verify` has
//! not led to the service's own root, and nothing a host brings before its report's signature has held.

pub mod bundle;
pub mod kds;
pub mod key;
mod piece;
mod queue;
mod shelf;
mod status;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use coffer_evidence::{CertKind, Certificate, Family, SigningKey, SnpEvidence, UnixTime, VekExtensions, VekKind};
use coffer_verify::{Collateral, Roots};

use crate::clock::{rfc3339, unix_now};
use crate::kek::random;
use crate::source::network;
use crate::store::{CollateralKind, CollateralRow, StoreError};
use kds::{Answer, Kds};
use key::{ChipTcb, Request};
use piece::{Bench, Piece, What};
use queue::{Asker, Next, Outcome, Queue, Wish};
pub use shelf::Source;
use shelf::{Kept, Put, Shelf, label};
pub use status::Status;

/// Certificates of accepted hosts that wait to be written down; more than that come again with the next boot.
const MAX_FRESH: usize = 256;
/// Successful fetches kept for `status`.
const MAX_FETCHED: usize = 64;
/// How often the thread looks whether a list is due.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How often a list is asked for again; AMD's are valid for months, and what they revoke should be known the day after.
const LIST_EVERY_S: u64 = 24 * 3600;
/// The same while there is none, or it nears its end.
const LIST_WANTED_EVERY_S: u64 = 3600;
/// How often at most a chain is fetched because a certificate needs it.
const CHAIN_EVERY: Duration = Duration::from_secs(600);
/// The least time before nextUpdate from which on a list nears its end; else an eighth of its life.
const LIST_LEAD_S: u64 = 2 * 24 * 3600;
/// Seconds between two looks at an answer of *try again*, at most: what `Retry-After` says.
const MAX_RETRY_AFTER_S: u64 = 300;

/// The store's side: rows to put, keys to drop, in one transaction.
pub trait Keep {
    /// Writes them down.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn keep(&self, put: &[CollateralRow], drop: &[(CollateralKind, Family, String)]) -> Result<(), StoreError>;
}

/// All collateral of a service.
#[derive(Debug)]
pub struct Library {
    roots: Roots,
    shelf: RwLock<Shelf>,
    desk: Mutex<Desk>,
    bell: Condvar,
    kds: Option<Kds>,
}

/// What the thread works at.
#[derive(Debug)]
struct Desk {
    queue: Queue,
    fresh: Vec<Vec<u8>>,
    fetched: VecDeque<(String, Instant)>,
    /// When a family's list was last asked for, Unix seconds.
    asked: BTreeMap<Family, u64>,
    /// When a family's chain was last fetched for a certificate that needed it.
    chains: BTreeMap<Family, Instant>,
    /// Spreads the daily looks of many services.
    jitter: u8,
}

/// Evidence with everything that is known beside it.
#[derive(Debug)]
pub struct Completed {
    /// The same report; certificates from memory in the place of the host's, where there are any.
    pub evidence: SnpEvidence,
    /// Whether its endorsement key's certificate came from the host and is not known yet: [`Library::remember`] it once the evidence
    /// is accepted.
    pub is_new: bool,
}

/// Nobody has the certificate of the key that made a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no certificate is known of {what}: {why}")]
pub struct Missing {
    /// Of which chip at which TCB, or what is wrong with that question.
    pub what: String,
    /// What is done about it.
    pub why: String,
    /// Seconds after which asking again is worth while; none if nothing is on its way.
    pub retry_after_s: Option<u64>,
}

/// What became of one imported piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is stored.
    New(String),
    /// It was there, or a better one.
    Known(String),
    /// It is not collateral of this service.
    Refused(String),
}

impl Library {
    /// Takes up what the database holds. Rows that do not read any more (another root, damaged) and expired certificates are passed
    /// over: each use would refuse them.
    #[must_use]
    pub fn open(rows: Vec<CollateralRow>, roots: Roots, kds: Option<Kds>) -> Self {
        let (mut shelf, now) = (Shelf::default(), UnixTime(unix_now()));
        for row in rows {
            match Piece::reread(&row, &roots) {
                Ok(piece) if piece.is_expired(now) => tracing::info!(%piece, "stored certificate has expired"),
                Ok(piece) => shelf.restore(piece, &row.source, row.added_at),
                Err(error) => tracing::error!(kind = row.kind.name(), key = row.key, %error, "stored collateral is passed over"),
            }
        }
        let jitter = random::<1>().map_or(0, |[byte]| byte);
        let queue = Queue::new(Instant::now());
        let desk = Desk { queue, fresh: Vec::new(), fetched: VecDeque::new(), asked: BTreeMap::new(), chains: BTreeMap::new(), jitter };
        Self { roots, shelf: RwLock::new(shelf), desk: Mutex::new(desk), bell: Condvar::new(), kds }
    }

    /// The revocation lists to verify with.
    #[must_use]
    pub fn collateral(&self) -> Arc<Collateral> {
        self.shelf().collateral()
    }

    /// Puts beside a report what it came without. Looks at memory only.
    ///
    /// Where the certificate of this chip at this TCB is known, it takes the place of the host's, which may be older than the last
    /// update of its firmware. `enrolled` is the peer's address if the report's HOST_DATA is enrolled: only then is a fetch queued.
    ///
    /// # Errors
    /// [`Missing`], at once.
    pub fn complete(&self, mut evidence: SnpEvidence, enrolled: Option<IpAddr>) -> Result<Completed, Missing> {
        let shelf = self.shelf();
        let known = shelf.vek(&evidence).filter(|kept| !brings_another_vlek(&evidence, kept)).cloned();
        let is_new = known.is_none();
        let issuer = match known {
            Some(kept) => {
                let kind = signing_label(&evidence);
                if !evidence.certificates.iter().any(|entry| entry.kind == kind && entry.data == kept.piece.der) {
                    evidence.certificates.retain(|entry| !matches!(entry.kind, CertKind::Vcek | CertKind::Vlek));
                    evidence.certificates.insert(0, kept.entry(kind));
                }
                Some(kept.piece.issuer.clone())
            }
            None => match brought(&evidence) {
                Brought::Nothing => {
                    drop(shelf);
                    return Err(self.missing(&evidence, enrolled, "the host sends none either"));
                }
                Brought::Stale(why) if self.kds.is_some() && enrolled.is_some() => {
                    drop(shelf);
                    return Err(self.missing(&evidence, enrolled, &why));
                }
                Brought::Stale(_) | Brought::Unreadable => None,
                Brought::Issued(issuer) => Some(issuer),
            },
        };
        if let Some(kept) = issuer.and_then(|name| shelf.issuer(&name).cloned())
            && !evidence.certificates.iter().any(|entry| entry.kind == CertKind::Ask && entry.data == kept.piece.der)
        {
            evidence.certificates.retain(|entry| entry.kind != CertKind::Ask);
            evidence.certificates.push(kept.entry(CertKind::Ask));
        }
        Ok(Completed { evidence, is_new })
    }

    /// Keeps the certificates of evidence **that was accepted**. They are verified and written down later, by the thread.
    pub fn remember(&self, evidence: &SnpEvidence) {
        let mut desk = self.desk();
        let wanted = |kind| matches!(kind, CertKind::Vcek | CertKind::Vlek | CertKind::Ask);
        for entry in evidence.certificates.iter().filter(|entry| wanted(entry.kind)) {
            let Ok(certificate) = Certificate::from_der_or_pem(&entry.data) else { continue };
            let der = certificate.as_der();
            if desk.fresh.len() < MAX_FRESH && !desk.fresh.iter().any(|waiting| waiting == der) {
                desk.fresh.push(der.to_vec());
            }
        }
        drop(desk);
        self.bell.notify_one();
    }

    /// Verifies pieces (DER) and takes in those that hold; the answers are in the order of the pieces.
    ///
    /// # Errors
    /// See [`StoreError`]: then some may count until the next start only.
    pub fn import(&self, ders: &[Vec<u8>], source: &Source, store: &impl Keep) -> Result<Vec<Taken>, StoreError> {
        let mut taken: Vec<Option<Taken>> = vec![None; ders.len()];
        let (mut put, mut drop) = (Vec::new(), Vec::new());
        // Twice: what needs an intermediate may come before it.
        for last in [false, true] {
            for (der, taken) in ders.iter().zip(&mut taken).filter(|(_, taken)| taken.is_none()) {
                *taken = match self.judge(der) {
                    Ok(piece) => Some(self.put(piece, source, &mut put, &mut drop)),
                    Err(refused) if last => Some(Taken::Refused(refused)),
                    Err(_) => None,
                };
            }
        }
        store.keep(&put, &drop)?;
        Ok(taken.into_iter().flatten().collect())
    }

    /// Wishes for something as the service's own; false if no key server may be asked.
    pub fn wish(&self, request: &Request) -> bool {
        if self.kds.is_none() {
            return false;
        }
        self.desk().queue.ask(request, Asker::Service, Instant::now());
        self.bell.notify_one();
        true
    }

    /// What there is, what is queued, and what to look after.
    #[must_use]
    pub fn status(&self) -> Status {
        let (url, now) = (self.kds.as_ref().map(Kds::url), Instant::now());
        let server = {
            let desk = self.desk();
            status::server(url, &desk.queue, &desk.fetched, now)
        };
        Status::of(&self.shelf(), server, unix_now())
    }

    /// Fetches, and writes down what hosts brought, until the process ends. One thread runs this.
    pub fn work(&self, store: &impl Keep) {
        loop {
            self.work_once(store);
            let mut desk = self.desk();
            let pause = match (&self.kds, desk.fresh.is_empty()) {
                (_, false) => continue,
                (None, true) => LOOK_EVERY,
                (Some(_), true) => match desk.queue.next(Instant::now()) {
                    Next::Fetch(request) => {
                        drop(desk);
                        self.fetch(&request, store);
                        continue;
                    }
                    Next::Wait(pause) => pause.min(LOOK_EVERY),
                    Next::Idle => LOOK_EVERY,
                },
            };
            // Poisoned or woken for nothing: it only looks again.
            drop(self.bell.wait_timeout(desk, pause));
        }
    }

    /// Everything that is not fetching.
    fn work_once(&self, store: &impl Keep) {
        let fresh = std::mem::take(&mut self.desk().fresh);
        if !fresh.is_empty() {
            match self.import(&fresh, &Source::Host, store) {
                Ok(taken) => taken.iter().for_each(|taken| tracing::debug!(?taken, "certificate from a host")),
                Err(error) => tracing::error!(%error, "cannot keep certificates"),
            }
        }
        if self.kds.is_some() {
            for family in self.lists_due(unix_now()) {
                self.wish(&Request::Crl(family));
            }
        }
    }

    /// Families whose list is to be asked for; they count as asked from now on.
    fn lists_due(&self, now: u64) -> Vec<Family> {
        let shelf = self.shelf();
        let mut desk = self.desk();
        let jitter = desk.jitter;
        let due = |family: &Family| {
            let newest = shelf.newest_list(*family);
            let asked = desk.asked.get(family).copied().or(newest.map(|kept| kept.added_at)).unwrap_or(0);
            let every = newest.map_or(LIST_WANTED_EVERY_S, |kept| list_interval(&kept.piece, now));
            // Up to a quarter early.
            now.saturating_sub(asked) >= every - every / 4 * u64::from(jitter) / 255
        };
        let families: Vec<Family> = shelf.families().into_iter().filter(due).collect();
        for family in &families {
            desk.asked.insert(*family, now);
        }
        families
    }

    fn fetch(&self, request: &Request, store: &impl Keep) {
        let Some(kds) = &self.kds else { return };
        let outcome = match kds.get(request) {
            Answer::Found(bytes) => match (self.take_answer(request, &bytes, store), request) {
                (Outcome::Garbage(_), Request::Vcek(key)) if self.fetch_issuer(kds, key.family(), &bytes, store) => {
                    self.take_answer(request, &bytes, store)
                }
                (outcome, _) => outcome,
            },
            Answer::Absent => Outcome::Absent,
            Answer::Throttled(wait) => Outcome::Throttled(wait),
            Answer::Unwell(why) => Outcome::Unwell(why),
        };
        let now = Instant::now();
        let mut desk = self.desk();
        match &outcome {
            Outcome::Stored => {
                tracing::info!(%request, "fetched");
                if desk.fetched.len() == MAX_FETCHED {
                    desk.fetched.pop_front();
                }
                desk.fetched.push_back((request.to_string(), now));
            }
            other => tracing::warn!(%request, outcome = ?other, "not fetched"),
        }
        desk.queue.done(outcome, now, random::<1>().map_or(0, |[byte]| byte));
    }

    /// Fetches a family's chain if this certificate names an issuer that is not kept, as after a change of AMD's intermediates or
    /// under a simulator's root; true if it was fetched. At most once in a while, whatever certificates name.
    fn fetch_issuer(&self, kds: &Kds, family: Family, der: &[u8], store: &impl Keep) -> bool {
        let Ok(certificate) = Certificate::from_der(der) else { return false };
        let now = Instant::now();
        let lately = |at: &Instant| now.saturating_duration_since(*at) < CHAIN_EVERY;
        if self.shelf().issuer(certificate.issuer().as_der()).is_some() || self.desk().chains.get(&family).is_some_and(lately) {
            return false;
        }
        self.desk().chains.insert(family, now);
        let request = Request::Chain(family, VekKind::Vcek);
        let Answer::Found(bytes) = kds.get(&request) else { return false };
        self.take_answer(&request, &bytes, store) == Outcome::Stored
    }

    /// Believes an answer only if it is what was asked for, and all of it verifies.
    fn take_answer(&self, request: &Request, bytes: &[u8], store: &impl Keep) -> Outcome {
        let garbage = |why: &dyn std::fmt::Display| Outcome::Garbage(format!("the answer {why}"));
        let ders = match bundle::split(bytes) {
            Ok(ders) => ders,
            Err(error) => return garbage(&error),
        };
        let mut pieces = Vec::new();
        for der in &ders {
            match self.judge(der) {
                Ok(piece) => pieces.push(piece),
                Err(refused) => return garbage(&refused),
            }
        }
        if !pieces.iter().any(|piece| answers(request, &piece.what)) {
            let got: Vec<_> = pieces.iter().map(ToString::to_string).collect();
            return garbage(&format_args!("is not what was asked for, but {}", got.join(" and ")));
        }
        let (mut put, mut drop) = (Vec::new(), Vec::new());
        for piece in pieces {
            if let Taken::Refused(why) = self.put(piece, &Source::KeyServer, &mut put, &mut drop) {
                return garbage(&why);
            }
        }
        match store.keep(&put, &drop) {
            Ok(()) => Outcome::Stored,
            Err(error) => Outcome::Unwell(format!("cannot be stored: {error}")),
        }
    }

    fn judge(&self, der: &[u8]) -> Result<Piece, String> {
        let shelf = self.shelf();
        let collateral = shelf.collateral();
        let bench = Bench { roots: &self.roots, collateral: &collateral, now: UnixTime(unix_now()) };
        let issuer = |name: &[u8]| shelf.issuer(name).map(|kept| kept.piece.der.clone());
        Piece::judge(der, &bench, issuer).map_err(|refused| crate::failure::chain(&refused))
    }

    fn put(&self, piece: Piece, source: &Source, put: &mut Vec<CollateralRow>, drop: &mut Vec<(CollateralKind, Family, String)>) -> Taken {
        let what = piece.to_string();
        match self.shelf_mut().put(piece, &source.text(), unix_now()) {
            Put::New { row, drop: mut gone } => {
                put.push(row);
                drop.append(&mut gone);
                Taken::New(what)
            }
            Put::Known => Taken::Known(what),
            Put::Older { newest } => Taken::Refused(format!("{what} is older than the one of {} that is stored", rfc3339(newest.0))),
            Put::Full => Taken::Refused(format!("{what}: no more room for what hosts bring; import it")),
        }
    }

    /// Refuses, and queues a fetch where that is allowed and makes sense.
    fn missing(&self, evidence: &SnpEvidence, enrolled: Option<IpAddr>, brought: &str) -> Missing {
        let fields = evidence.report.fields();
        let keys = ChipTcb::of_report(fields);
        let of = |what: String, why: &str| Missing { what, why: format!("{brought}; {why}"), retry_after_s: None };
        if fields.key_info.signing_key() == SigningKey::Vlek {
            return of("the VLEK that signed".to_owned(), "a key server has none: its cloud provider hands them to hosts");
        }
        let [key] = keys.as_slice() else {
            return of(
                format!("chip {} at {}", fields.chip_id, fields.reported_tcb),
                "the report does not name one chip of a known family",
            );
        };
        let Some(peer) = enrolled else {
            return of(key.arguments(), "its HOST_DATA is not enrolled, so none is fetched");
        };
        if self.kds.is_none() {
            return of(key.arguments(), "none is fetched, because [kds] is not enabled");
        }
        let wish = self.desk().queue.ask(&Request::Vcek(key.clone()), Asker::Guest(network(peer)), Instant::now());
        self.bell.notify_one();
        let (why, wait) = match wish {
            Wish::Waits(wait) => ("it is being fetched", Some(wait)),
            Wish::Full(wait) => ("too much is being fetched already", Some(wait)),
            Wish::Absent => ("the key server does not have it either", None),
        };
        let retry_after_s = wait.map(|wait| wait.as_secs().clamp(1, MAX_RETRY_AFTER_S));
        Missing { retry_after_s, ..of(key.arguments(), why) }
    }

    // A panic under one of these locks leaves whole values behind: each change is one insertion.

    fn shelf(&self) -> RwLockReadGuard<'_, Shelf> {
        self.shelf.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn shelf_mut(&self) -> RwLockWriteGuard<'_, Shelf> {
        self.shelf.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the certificate of the key that signed is labelled.
fn signing_label(evidence: &SnpEvidence) -> CertKind {
    match evidence.report.fields().key_info.signing_key() {
        SigningKey::Vlek => label(VekKind::Vlek),
        _ => label(VekKind::Vcek),
    }
}

/// What a host sends of the key that signed.
enum Brought {
    Nothing,
    /// Something for the verifier to refuse by name.
    Unreadable,
    /// A VCEK of another chip or TCB than the report's, with both.
    Stale(String),
    /// One that fits, by this issuer (DER of its name).
    Issued(Vec<u8>),
}

fn brought(evidence: &SnpEvidence) -> Brought {
    let mut entries = evidence.certificates.iter().filter(|entry| matches!(entry.kind, CertKind::Vcek | CertKind::Vlek));
    let entry = match (entries.next(), entries.next()) {
        (None, _) => return Brought::Nothing,
        (Some(_), Some(_)) => return Brought::Unreadable,
        (Some(entry), None) => entry,
    };
    let Ok(certificate) = Certificate::from_der_or_pem(&entry.data) else { return Brought::Unreadable };
    let keys = ChipTcb::of_report(evidence.report.fields());
    if let (Some(VekKind::Vcek), Ok(extensions), false) = (VekKind::of(&certificate), VekExtensions::of(&certificate), keys.is_empty()) {
        let hwid = extensions.hwid.as_ref().map(coffer_evidence::Hwid::as_bytes).unwrap_or_default();
        if !keys.iter().any(|key| key.hwid() == hwid && key.tcb() == extensions.tcb) {
            return Brought::Stale(format!("the host sends one for TCB {}", extensions.tcb));
        }
    }
    Brought::Issued(certificate.issuer().as_der().to_vec())
}

/// Whether a host sends a VLEK of the report's TCB that is not the known one: another cloud provider's, as far as anybody knows. A
/// report of a VLEK names neither key nor provider, so then the host's has the word.
fn brings_another_vlek(evidence: &SnpEvidence, known: &Kept) -> bool {
    let fields = evidence.report.fields();
    fields.key_info.signing_key() == SigningKey::Vlek
        && evidence.certificates.iter().filter(|entry| entry.kind == CertKind::Vlek).any(|entry| {
            let Ok(certificate) = Certificate::from_der_or_pem(&entry.data) else { return false };
            let fits = VekExtensions::of(&certificate).is_ok_and(|extensions| extensions.tcb == fields.reported_tcb);
            fits && certificate.as_der() != known.piece.der
        })
}

/// Whether a piece is what was asked for.
fn answers(request: &Request, what: &What) -> bool {
    match (request, what) {
        (Request::Vcek(key), What::Vcek(got)) => key == got,
        (Request::Chain(family, _), What::Issuer { family: got, .. }) => family == got,
        (Request::Crl(family), What::Crl(list)) => list.family() == *family,
        _ => false,
    }
}

/// How often a list like this is asked for again.
fn list_interval(list: &Piece, now: u64) -> u64 {
    let What::Crl(verified) = &list.what else { return LIST_WANTED_EVERY_S };
    let Some(next_update) = verified.crl().next_update() else { return LIST_EVERY_S };
    let life = next_update.0.saturating_sub(verified.crl().this_update().0);
    let lead = LIST_LEAD_S.max(life / 8);
    if now.saturating_add(lead) >= next_update.0 { LIST_WANTED_EVERY_S } else { LIST_EVERY_S }
}

#[cfg(test)]
mod tests;
