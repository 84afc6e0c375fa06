//! What is counted and bounded for each site that ever showed a good token, and for the gate as a whole.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::config::Limits;
use crate::rate::Bucket;
use crate::reason::Reason;

/// So many times what a site may do per second it may do at once.
const BURST_SECONDS: u32 = 5;

/// So many of a site's refusals are logged at once; past that, one every so often, and the rest is counted only.
const LINES_AT_ONCE: u32 = 200;
const LINE_EVERY: Duration = Duration::from_millis(500);

/// So many of a site's connections wait while another of its own is admitted, which may take as long as the SuperLink takes.
const QUEUE: usize = 16;

/// One site. It has a name because a token that held gave it one, so there are no more than were ever enrolled.
#[derive(Debug)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Held while one of its connections is admitted: what two of them do to one lease happens one after the other.
    pub turn: tokio::sync::Mutex<()>,
    /// How many may wait for that: each holds one of the places that everybody has for those nobody knows yet.
    pub queue: Semaphore,
    connections: AtomicU32,
    /// Bytes from the site to the SuperLink.
    pub bytes_up: AtomicU64,
    /// Bytes from the SuperLink to the site.
    pub bytes_down: AtomicU64,
    /// How often its connections were cut.
    pub cuts: AtomicU64,
    /// How often it was admitted or renewed.
    pub admitted: AtomicU64,
    rest: Mutex<Rest>,
}

#[derive(Debug)]
struct Rest {
    bucket: Bucket,
    lines: Bucket,
    refused: BTreeMap<Reason, u64>,
    last: Option<Last>,
}

/// What a site was told last.
#[derive(Debug, Clone, Copy)]
pub struct Last {
    /// `None`: it was admitted.
    pub refused: Option<Reason>,
    /// When.
    pub at: Instant,
}

/// One connection of a site, counted as long as this exists.
#[derive(Debug)]
pub struct Place(Arc<Site>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Site {
    fn new(name: &str, limits: &Limits, now: Instant) -> Self {
        let per_second = limits.new_connections_per_second_per_site;
        let bucket = Bucket::new(per_second.saturating_mul(BURST_SECONDS), Duration::from_secs(1) / per_second, now);
        Self {
            name: name.to_owned(),
            turn: tokio::sync::Mutex::new(()),
            queue: Semaphore::new(QUEUE),
            connections: AtomicU32::new(0),
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            admitted: AtomicU64::new(0),
            rest: Mutex::new(Rest { bucket, lines: Bucket::new(LINES_AT_ONCE, LINE_EVERY, now), refused: BTreeMap::new(), last: None }),
        }
    }

    /// Whether it may show one more token now.
    pub fn may_come(&self, now: Instant) -> bool {
        self.lock().bucket.take(now)
    }

    /// Whether one more of its refusals is to be logged.
    pub fn may_log(&self, now: Instant) -> bool {
        self.lock().lines.take(now)
    }

    /// A place for one more connection, if it has not all of its own yet.
    pub fn place(self: &Arc<Self>, limits: &Limits) -> Option<Place> {
        let place = Place(Arc::clone(self));
        // Counted first, so that two at once do not both get the last one; dropping the place counts back.
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        (before < limits.connections_per_site).then_some(place)
    }

    /// How many connections it has.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// It was told this.
    pub fn told(&self, refused: Option<Reason>, now: Instant) {
        let mut rest = self.lock();
        rest.last = Some(Last { refused, at: now });
        match refused {
            Some(reason) => *rest.refused.entry(reason).or_default() += 1,
            None => drop(self.admitted.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// What it was told last.
    #[must_use]
    pub fn last(&self) -> Option<Last> {
        self.lock().last
    }

    /// Its refusals by reason.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<Reason, u64> {
        self.lock().refused.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every site, and what nobody known is to blame for.
#[derive(Debug)]
pub struct Sites {
    limits: Limits,
    known: Mutex<BTreeMap<String, Arc<Site>>>,
    strangers: Mutex<BTreeMap<Reason, u64>>,
    /// Connections that ended before their first word: no TLS, no key, too slow.
    pub unheard: AtomicU64,
    /// Connections closed at once because there were too many.
    pub turned_away: AtomicU64,
}

impl Sites {
    /// None yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let (unheard, turned_away) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { limits, known: Mutex::default(), strangers: Mutex::default(), unheard, turned_away }
    }

    /// The site of a token that held.
    #[must_use]
    pub fn of(&self, name: &str) -> Arc<Site> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(site) = known.get(name) {
            return Arc::clone(site);
        }
        let site = Arc::new(Site::new(name, &self.limits, Instant::now()));
        known.insert(name.to_owned(), Arc::clone(&site));
        site
    }

    /// All of them, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Site>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Somebody was refused whose token did not hold.
    pub fn refused_stranger(&self, reason: Reason) {
        *self.strangers.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    /// Refusals of tokens that did not hold.
    #[must_use]
    pub fn strangers(&self) -> BTreeMap<Reason, u64> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sites_places_and_turns_are_its_own() {
        let limits = Limits { connections_per_site: 2, new_connections_per_second_per_site: 1, ..Limits::default() };
        let sites = Sites::new(limits);
        let (one, other) = (sites.of("site-1"), sites.of("site-2"));
        let held = (one.place(&limits), one.place(&limits));
        assert!(held.0.is_some() && held.1.is_some() && one.place(&limits).is_none());
        assert!(other.place(&limits).is_some());
        drop(held.0);
        assert!(sites.of("site-1").place(&limits).is_some());
        let now = Instant::now();
        assert_eq!((0..20).filter(|_| one.may_come(now)).count(), 5);
        assert!(other.may_come(now));
    }

    #[test]
    fn what_a_site_is_told_is_counted() {
        let sites = Sites::new(Limits::default());
        let site = sites.of("site-1");
        site.told(None, Instant::now());
        site.told(Some(Reason::Cut), Instant::now());
        site.told(Some(Reason::Cut), Instant::now());
        assert_eq!(site.refused(), BTreeMap::from([(Reason::Cut, 2)]));
        assert_eq!(site.last().and_then(|last| last.refused), Some(Reason::Cut));
        assert_eq!(site.admitted.load(Ordering::Relaxed), 1);
        assert_eq!(sites.all().len(), 1);
    }
}
