//! Runs: whether one may start, which are going on, and what happens to them when a required site is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use coffer_token::{Jkt, Version1};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::command::{CommandError, Flwr};
use super::config::{OnLoss, Require, Runs as Settings};
use super::rule::{Shortfall, holds};
use crate::layout::{LayoutError, read_private, replace};
use crate::leases::{Change, Leases};

/// A site that held no lease for so long is none of "all" any more.
const FORGOTTEN: Duration = Duration::from_secs(30 * 24 * 3600);

/// How far behind what is written of when a site held its lease may be.
const SEEN_EVERY: Duration = Duration::from_secs(3600);

/// How long sites have to come back to a gate that was restarted while a run goes on.
const GRACE: Duration = Duration::from_secs(120);

/// How often the rule is looked at without being told to, and a `flwr stop` that failed tried again.
const PAUSE: Duration = Duration::from_secs(5);

/// More runs than this at a time make the gate ask which have ended.
const TRACKED: usize = 64;

/// So many runs that a list has not are asked for one by one, each in a second or two; the others are taken to go on until the next time.
const ASKED: usize = 8;

/// The state file does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunsError {
    /// It cannot be read or written.
    #[error(transparent)]
    File(#[from] LayoutError),
    /// It is not of this version's shape.
    #[error("{path}: {source}; hint: without it, runs that are going on are not looked after")]
    Parse {
        /// The file.
        path: String,
        /// Where and what.
        source: serde_json::Error,
    },
}

/// Every run that was started through the Control front, and every site that was here.
#[derive(Debug)]
pub struct Runs {
    settings: Settings,
    leases: Arc<Leases>,
    flwr: Arc<Flwr>,
    file: PathBuf,
    known: Mutex<Known>,
    paused: AtomicBool,
    started: Notify,
}

#[derive(Debug, Default)]
struct Known {
    runs: BTreeSet<u64>,
    /// Of these, those whose sites were gone when they started: it was asked for before, and takes as long as somebody likes.
    late: BTreeSet<u64>,
    sites: BTreeMap<String, Site>,
}

#[derive(Debug)]
struct Site {
    /// When it last held a lease, within [`SEEN_EVERY`], in Unix seconds of this machine's clock.
    seen: u64,
    /// Since when it holds no lease, by which code, and with which key. `None`: it has one, or has had none since the gate started.
    ended: Option<(Instant, &'static str, Jkt)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    v: Version1,
    runs: BTreeSet<u64>,
    sites: BTreeMap<String, u64>,
}

impl Known {
    /// A site holds a lease now; whether that is to be written.
    fn here(&mut self, site: &str, now: u64) -> bool {
        let site = self.sites.entry(site.to_owned()).or_insert(Site { seen: 0, ended: None });
        let news = now.abs_diff(site.seen) >= SEEN_EVERY.as_secs();
        if news {
            site.seen = now;
        }
        site.ended = None;
        news
    }

    /// Its lease is over: until now it was here.
    fn ended(&mut self, site: &str, how: (Instant, &'static str, Jkt), now: u64) {
        if let Some(site) = self.sites.get_mut(site) {
            *site = Site { seen: now, ended: Some(how) };
        }
    }

    /// These sites hold leases now, and whoever held none for long is none of "all" any more; whether that is to be written.
    fn refresh<'a>(&mut self, leased: impl IntoIterator<Item = &'a str>, now: u64) -> bool {
        let mut news = false;
        for site in leased {
            news |= self.here(site, now);
        }
        let before = self.sites.len();
        self.sites.retain(|_, site| now.saturating_sub(site.seen) < FORGOTTEN.as_secs());
        news || self.sites.len() < before
    }
}

/// Where the watch stands.
struct Watch {
    /// Until when a rule that never held since the start is waited for.
    grace: Option<Instant>,
    /// Whether the rule was broken when last looked at.
    broken: bool,
    /// Runs that were dealt with in this breach.
    handled: BTreeSet<u64>,
}

impl Runs {
    /// Reads what earlier processes knew.
    ///
    /// # Errors
    /// See [`RunsError`].
    pub fn open(settings: Settings, leases: Arc<Leases>, flwr: Arc<Flwr>, folder: &Path) -> Result<Arc<Self>, RunsError> {
        let file = folder.join("runs.json");
        let mut known = Known::default();
        if file.exists() {
            let bytes = read_private(&file)?;
            let read: File =
                serde_json::from_slice(&bytes).map_err(|source| RunsError::Parse { path: file.display().to_string(), source })?;
            known.runs = read.runs;
            known.sites = read.sites.into_iter().map(|(site, seen)| (site, Site { seen, ended: None })).collect();
        }
        let (paused, started) = (AtomicBool::new(false), Notify::new());
        Ok(Arc::new(Self { settings, leases, flwr, file, known: Mutex::new(known), paused, started }))
    }

    /// Whether the sites that a run needs hold a lease.
    ///
    /// # Errors
    /// What is missing.
    pub fn may_start(&self) -> Result<(), Shortfall> {
        let leased = self.leases.current().iter().map(|leased| leased.site.clone()).collect();
        let now = Instant::now();
        let known = self.known();
        let since = |site: &Site| site.ended.map(|(at, code, _)| (now.saturating_duration_since(at), code));
        let sites = known.sites.iter().map(|(name, site)| (name.clone(), since(site))).collect();
        holds(&self.settings.require, &leased, &sites)
    }

    /// Whether runs need any site at all.
    pub fn need_sites(&self) -> bool {
        self.settings.require != Require::None
    }

    /// Whether nodes get no work.
    pub fn are_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// The SuperLink has started this run.
    pub fn started(&self, run: u64) {
        tracing::info!(run, "a run is started");
        let late = self.may_start().is_err();
        let mut known = self.known();
        known.runs.insert(run);
        known.late.extend(late.then_some(run));
        drop(known);
        self.save_or_warn();
        self.started.notify_one();
    }

    /// Follows the leases, for as long as the process lives.
    pub async fn watch(self: Arc<Self>, mut changes: Receiver<Change>) {
        self.refresh(unix_seconds());
        let mut watch = Watch { grace: Some(Instant::now() + GRACE), broken: false, handled: BTreeSet::new() };
        loop {
            tokio::select! {
                change = changes.recv() => match change {
                    Ok(change) => self.note(&change),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                () = self.started.notified() => {}
                () = tokio::time::sleep(PAUSE) => {}
            }
            while let Ok(change) = changes.try_recv() {
                self.note(&change);
            }
            self.refresh(unix_seconds());
            self.settle(&mut watch).await;
        }
    }

    fn note(&self, change: &Change) {
        match change {
            Change::Admitted(leased) => {
                if self.known().here(&leased.site, unix_seconds()) {
                    self.save_or_warn();
                }
            }
            Change::Ended { leased, code } => self.known().ended(&leased.site, (Instant::now(), code, leased.jkt), unix_seconds()),
        }
    }

    /// Keeps whoever holds a lease now, however long it has, also over a restart.
    fn refresh(&self, now: u64) {
        let leased = self.leases.current();
        if self.known().refresh(leased.iter().map(|leased| leased.site.as_str()), now) {
            self.save_or_warn();
        }
    }

    async fn settle(&self, watch: &mut Watch) {
        match self.may_start() {
            Ok(()) => {
                if watch.broken {
                    tracing::info!(resumed = self.are_paused(), "the sites that runs need hold their leases again");
                }
                self.paused.store(false, Ordering::Release);
                *watch = Watch { grace: None, broken: false, handled: BTreeSet::new() };
                if self.known().runs.len() > TRACKED {
                    self.forget_ended().await;
                }
            }
            Err(_) if watch.grace.is_some_and(|until| Instant::now() < until) => {}
            Err(shortfall) => self.breach(watch, &shortfall).await,
        }
    }

    /// A required site is lost: deals with every run that is going on, once.
    async fn breach(&self, watch: &mut Watch, shortfall: &Shortfall) {
        watch.broken = true;
        let mut due: BTreeSet<u64> = self.known().runs.difference(&watch.handled).copied().collect();
        if due.is_empty() {
            return;
        }
        // First of all: no work in the seconds that it takes to ask which runs have ended.
        self.paused.store(self.settings.on_loss == OnLoss::Pause, Ordering::Release);
        if self.forget_ended().await {
            due.retain(|run| self.known().runs.contains(run));
        }
        let (site, key) = self.last_lost(shortfall);
        for run in due {
            let late = self.known().late.contains(&run);
            match if late { OnLoss::Stop } else { self.settings.on_loss } {
                OnLoss::Continue => tracing::warn!(run, site, key, why = %shortfall, "a run goes on without a site it needs"),
                OnLoss::Pause => tracing::warn!(run, site, key, why = %shortfall, "a run is paused"),
                OnLoss::Stop => match self.flwr.stop(run).await {
                    Ok(()) | Err(CommandError::Unknown { .. }) => {
                        tracing::warn!(run, site, key, why = %shortfall, "a run is stopped");
                        self.forget(&BTreeSet::from([run]));
                    }
                    Err(CommandError::Ended { .. }) => self.forget(&BTreeSet::from([run])),
                    Err(error) => {
                        tracing::warn!(run, site, key, %error, "a run is to be stopped and goes on; trying again");
                        continue;
                    }
                },
            }
            watch.handled.insert(run);
        }
        if self.known().runs.is_empty() {
            self.paused.store(false, Ordering::Release);
        }
    }

    /// Asks the SuperLink which runs have ended, and forgets these; whether it answered. A run that its list has not may go on behind newer
    /// ones, or was started since.
    async fn forget_ended(&self) -> bool {
        let listed = match self.flwr.runs().await {
            Ok(runs) => runs,
            Err(error) => {
                tracing::warn!(%error, "cannot ask which runs have ended");
                return false;
            }
        };
        let absent: Vec<u64> = self.known().runs.iter().copied().filter(|run| !listed.contains_key(run)).take(ASKED).collect();
        let mut ended: BTreeSet<u64> = listed.into_iter().filter_map(|(run, ended)| ended.then_some(run)).collect();
        for run in absent {
            match self.flwr.has_ended(run).await {
                Ok(has_ended) => ended.extend(has_ended.then_some(run)),
                Err(CommandError::Unknown { .. }) => ended.extend([run]),
                Err(error) => {
                    tracing::warn!(run, %error, "cannot ask whether a run has ended");
                    break;
                }
            }
        }
        self.forget(&ended);
        true
    }

    fn forget(&self, runs: &BTreeSet<u64>) {
        let mut known = self.known();
        known.runs.retain(|run| !runs.contains(run));
        known.late.retain(|run| !runs.contains(run));
        drop(known);
        self.save_or_warn();
    }

    /// The missing site that was lost last, and its key.
    fn last_lost(&self, shortfall: &Shortfall) -> (Option<String>, Option<String>) {
        let known = self.known();
        let lost = shortfall.lacking.iter().filter_map(|lacking| {
            let (at, _, jkt) = known.sites.get(&lacking.site)?.ended?;
            Some((at, lacking.site.clone(), jkt.to_string()))
        });
        lost.max_by_key(|(at, ..)| *at).map_or((None, None), |(_, site, key)| (Some(site), Some(key)))
    }

    fn save_or_warn(&self) {
        let known = self.known();
        let sites = known.sites.iter().map(|(name, site)| (name.clone(), site.seen)).collect();
        let text = serde_json::to_vec_pretty(&File { v: Version1, runs: known.runs.clone(), sites });
        // Under the lock, so that an older state never replaces a newer one.
        let saved =
            text.map_err(|error| error.to_string()).and_then(|text| replace(&self.file, 0o600, &text).map_err(|error| error.to_string()));
        if let Err(error) = saved {
            tracing::warn!(error, "what runs are going on is known to this process only");
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use coffer_token::UnixTime;

    use super::*;
    use crate::admission::proof::tests::proof;
    use crate::leases::{Instances, Step};
    use crate::service::clock::Now;

    const NOW: u64 = 1_795_400_000;
    const DAY: u64 = 24 * 3600;

    /// Sites and before how many days they were seen.
    fn known(sites: &[(&str, u64)]) -> Known {
        let site = |&(name, days): &(&str, u64)| (name.to_owned(), Site { seen: NOW - days * DAY, ended: None });
        Known { sites: sites.iter().map(site).collect(), ..Known::default() }
    }

    fn names(known: &Known) -> Vec<&str> {
        known.sites.keys().map(String::as_str).collect()
    }

    #[test]
    fn a_site_with_a_lease_of_31_days_is_one_of_all_and_one_without_is_not() {
        let mut all = known(&[("gone", 31), ("late", 29), ("here", 31)]);
        assert!(all.refresh(["here"], NOW));
        assert_eq!(names(&all), ["here", "late"]);
        assert!(!all.refresh(["here"], NOW + 60), "the disk is not written to all the time");
        assert!(all.refresh(["here"], NOW + 3600));
        assert_eq!(all.sites["here"].seen, NOW + 3600);
    }

    #[test]
    fn a_site_is_one_of_all_for_30_days_from_the_end_of_its_lease() {
        let mut all = known(&[("site-1", 31)]);
        all.ended("site-1", (Instant::now(), "lease_over", proof("site-1", 1, NOW).jkt), NOW);
        all.refresh([], NOW + 30 * DAY - 1);
        assert_eq!(names(&all), ["site-1"]);
        all.refresh([], NOW + 30 * DAY);
        assert_eq!(names(&all), [""; 0]);
    }

    #[test]
    fn a_gate_that_is_restarted_after_31_days_of_one_lease_knows_its_site() {
        let dir = tempfile::tempdir().expect("a folder");
        let leases = Arc::new(Leases::new(Duration::from_secs(120), Instances { burst: 9, every: Duration::from_secs(1) }));
        let open = |leases: &Arc<Leases>| {
            let settings = Settings { require: Require::All, on_loss: OnLoss::Continue };
            let flwr = Arc::new(Flwr::of_script(dir.path(), "exit 1"));
            Runs::open(settings, Arc::clone(leases), flwr, dir.path()).expect("runs")
        };
        let (proof, at) = (proof("site-1", 1, NOW), Now { at: Instant::now(), unix: UnixTime(NOW) });
        let Step::Begin(leased) = leases.prepare(&proof, at).expect("a lease") else { panic!("the first lease") };
        leases.install(&leased, &proof, at).expect("a lease");
        let runs = open(&leases);
        runs.refresh(NOW);
        runs.refresh(NOW + 31 * DAY);
        let runs = open(&Arc::new(Leases::new(Duration::from_secs(120), Instances { burst: 9, every: Duration::from_secs(1) })));
        runs.refresh(NOW + 31 * DAY);
        assert_eq!(names(&runs.known()), ["site-1"]);
    }
}
