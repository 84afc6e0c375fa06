//! Leases: which sites stand at the gate, until when, and why no longer (DESIGN, Lease).
//!
//! No clock of its own: *now* is an argument, so that an hour is a number in a test. A lease ends `check_frequency` after its newest
//! token was issued; that moment is computed once, when the token is accepted, on the monotonic clock, and no wall clock moves it.

mod memory;
pub mod withdrawn;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coffer_token::lease::NodeKey;
use coffer_token::{Hex, Jkt, Withdrawal};
use tokio::sync::{Notify, broadcast, watch};

use crate::admission::proof::Proof;
use crate::leases::withdrawn::Record;
use crate::reason::Reason;
use crate::service::clock::Now;
use memory::SiteMemory;
pub use memory::{Instances, Past};

/// How many changes a slow reader may be behind. More than all sites of one gate ending at once.
const CHANGES_KEPT: usize = 4096;

/// One boot of a site that stands at the gate. What it says of itself does not change; how long it lasts is in [`Leases`].
pub struct Leased {
    /// Project of the enrollment; the gate's own.
    pub project: String,
    /// Site of the enrollment.
    pub site: String,
    /// SHA-256 of the site config.
    pub host_data: Hex<32>,
    /// The report's REPORT_ID: one per boot.
    pub instance: Hex<32>,
    /// Thumbprint of the boot's TLS key, which every connection of the lease has.
    pub jkt: Jkt,
    /// The workload's node key, where it has shown one. Its thumbprint was compared with the token's.
    pub node: Option<NodeKey>,
    /// When the lease began.
    pub since: Instant,
    end: Arc<watch::Sender<Option<Reason>>>,
}

impl Leased {
    fn new(proof: &Proof, since: Instant) -> Self {
        Self {
            project: proof.project.clone(),
            site: proof.site.clone(),
            host_data: proof.host_data,
            instance: proof.instance,
            jkt: proof.jkt,
            node: proof.node.clone(),
            since,
            end: Arc::new(watch::Sender::new(None)),
        }
    }

    /// The same lease, which now has a node key; its connections end with it.
    fn with_node(&self, node: NodeKey) -> Self {
        Self {
            project: self.project.clone(),
            site: self.site.clone(),
            node: Some(node),
            end: Arc::clone(&self.end),
            host_data: self.host_data,
            instance: self.instance,
            jkt: self.jkt,
            since: self.since,
        }
    }

    /// Waits until the lease is over, and says why. Where it is already, at once.
    pub async fn ended(&self) -> Reason {
        let mut end = self.end.subscribe();
        // The sender is `self`'s own, so that it cannot be gone.
        end.wait_for(Option::is_some).await.ok().and_then(|reason| *reason).unwrap_or(Reason::Internal)
    }

    /// Why it is over, if it is.
    #[must_use]
    pub fn over(&self) -> Option<Reason> {
        *self.end.borrow()
    }
}

impl fmt::Debug for Leased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Leased({}/{}, instance {}, key {})", self.project, self.site, self.instance, self.jkt)
    }
}

/// What happened to a lease.
#[derive(Debug, Clone)]
pub enum Change {
    /// A site was admitted, or has shown its node key since.
    Admitted(Arc<Leased>),
    /// A lease is over.
    Ended {
        /// Which.
        leased: Arc<Leased>,
        /// [`Reason::code`].
        code: &'static str,
    },
}

/// What admitting a proof would do.
#[derive(Debug)]
pub enum Step {
    /// The lease is there and lasts longer.
    Extend,
    /// A lease begins, or gets its node key: [`Leases::install`] it once Flower knows the node.
    Begin(Arc<Leased>),
}

/// A lease as `status` shows it.
#[derive(Debug, Clone)]
pub struct View {
    /// Whose.
    pub leased: Arc<Leased>,
    /// When it ends, unless a newer token comes.
    pub until: Instant,
    /// When its newest token was issued, Unix seconds by the service's clock.
    pub issued_at: u64,
}

struct Entry {
    leased: Arc<Leased>,
    /// Of the newest token.
    proof: Proof,
    until: Instant,
}

#[derive(Default)]
struct Inner {
    /// By site: a gate has one project.
    entries: BTreeMap<String, Entry>,
    memory: BTreeMap<String, SiteMemory>,
    withdrawn: Record,
    /// Sites that the operator keeps out, until so many Unix seconds by the service's clock.
    cuts: BTreeMap<String, u64>,
}

/// Every lease of this gate.
pub struct Leases {
    check_frequency: Duration,
    instances: Instances,
    inner: Mutex<Inner>,
    changes: broadcast::Sender<Change>,
    sooner: Notify,
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Leases({} sites)", self.lock().entries.len())
    }
}

impl Leases {
    /// None yet. `check_frequency` is how long after its newest token was issued a lease ends.
    #[must_use]
    pub fn new(check_frequency: Duration, instances: Instances) -> Self {
        let changes = broadcast::Sender::new(CHANGES_KEPT);
        Self { check_frequency, instances, inner: Mutex::default(), changes, sooner: Notify::new() }
    }

    /// How long after its newest token was issued a lease ends.
    #[must_use]
    pub const fn check_frequency(&self) -> Duration {
        self.check_frequency
    }

    /// The leases that are current.
    #[must_use]
    pub fn current(&self) -> Vec<Arc<Leased>> {
        let now = Instant::now();
        self.lock().entries.values().filter(|entry| entry.until > now).map(|entry| Arc::clone(&entry.leased)).collect()
    }

    /// What happens from now on. A reader that is told it lagged asks [`Self::current`] again.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// The leases that are current, with their times.
    #[must_use]
    pub fn views(&self) -> Vec<View> {
        let view = |entry: &Entry| View { leased: Arc::clone(&entry.leased), until: entry.until, issued_at: entry.proof.issued_at };
        self.lock().entries.values().map(view).collect()
    }

    /// Whether a proof may stand, and what that would do. Nothing changes.
    ///
    /// Whoever calls this and [`Self::install`] does so for one connection of a site at a time.
    ///
    /// # Errors
    /// The reason to refuse it.
    pub fn prepare(&self, proof: &Proof, now: Now) -> Result<Step, Reason> {
        let mut inner = self.lock();
        self.judge(&inner, proof, now)?;
        if let Some(entry) = inner.entries.get(&proof.site)
            && entry.proof.instance == proof.instance
        {
            if entry.proof.jkt != proof.jkt || entry.proof.host_data != proof.host_data {
                return Err(Reason::RenewalChanged);
            }
            return Ok(match (&entry.leased.node, &proof.node) {
                (None, Some(node)) => Step::Begin(Arc::new(entry.leased.with_node(node.clone()))),
                _ => Step::Extend,
            });
        }
        let memory = inner.memory.entry(proof.site.clone()).or_insert_with(|| SiteMemory::new(self.instances, now.at));
        if memory.is_another(proof.instance) && !memory.could_change(now.at) {
            return Err(Reason::InstanceRate);
        }
        Ok(Step::Begin(Arc::new(Leased::new(proof, now.at))))
    }

    /// Makes the lease last as long as its newest token lets it. The lease, and for how long from now.
    ///
    /// # Errors
    /// If it is over since [`Self::prepare`], or must not be any more.
    pub fn extend(&self, proof: &Proof, now: Now) -> Result<(Arc<Leased>, Duration), Reason> {
        let mut inner = self.lock();
        self.judge(&inner, proof, now)?;
        let until = self.until(proof, now);
        let entry = inner.entries.get_mut(&proof.site).filter(|entry| entry.proof.instance == proof.instance && entry.until > now.at);
        let entry = entry.ok_or(Reason::LeaseOver)?;
        // Not by `iat`: after the service's clock was put back, a newer token has a smaller one.
        if until > entry.until {
            entry.until = until;
            entry.proof = Proof { node: None, ..proof.clone() };
        }
        Ok((Arc::clone(&entry.leased), entry.until - now.at))
    }

    /// Begins the lease that [`Self::prepare`] gave; another instance's ends.
    ///
    /// # Errors
    /// If the proof has become worthless since.
    pub fn install(&self, leased: &Arc<Leased>, proof: &Proof, now: Now) -> Result<Duration, Reason> {
        let mut inner = self.lock();
        self.judge(&inner, proof, now)?;
        let until = self.until(proof, now);
        let memory = inner.memory.entry(proof.site.clone()).or_insert_with(|| SiteMemory::new(self.instances, now.at));
        // Counted here: attempts that the SuperLink keeps from becoming a lease use nothing up.
        if memory.is_another(proof.instance) && !memory.may_change(now.at) {
            return Err(Reason::InstanceRate);
        }
        memory.is_now(proof.instance);
        let entry = Entry { leased: Arc::clone(leased), proof: proof.clone(), until };
        match inner.entries.insert(proof.site.clone(), entry) {
            Some(old) if old.leased.instance == leased.instance => {
                // Only with a node key, and never for less time than before.
                if let Some(entry) = inner.entries.get_mut(&proof.site) {
                    entry.until = entry.until.max(old.until);
                }
            }
            Some(old) => self.end(&old.leased, Reason::Replaced),
            None => {}
        }
        if leased.over().is_some() {
            // It ended while Flower was asked.
            inner.entries.remove(&proof.site);
            return Err(Reason::LeaseOver);
        }
        let _ = self.changes.send(Change::Admitted(Arc::clone(leased)));
        self.sooner.notify_one();
        Ok(until - now.at)
    }

    /// Ends what is over at `now`; when the next one is.
    pub fn expire(&self, now: Instant) -> Option<Instant> {
        self.end_where(|entry| (entry.until <= now).then_some(Reason::LeaseOver));
        self.lock().entries.values().map(|entry| entry.until).min()
    }

    /// Waits until a lease has begun, which may end before all others.
    pub async fn sooner(&self) {
        self.sooner.notified().await;
    }

    /// The service has taken these back: leases that rest on any are over. Whether any was new.
    pub fn withdraw(&self, entries: &[Withdrawal], now: Now) -> bool {
        let mut inner = self.lock();
        let mut news = false;
        for entry in entries {
            if inner.withdrawn.add(entry) {
                tracing::info!(code = entry.code, at = entry.at, withdrawn = ?entry.withdrawn, "the service has taken back");
                news = true;
            }
        }
        inner.withdrawn.forget(now.unix.0);
        if news {
            let Inner { entries, withdrawn, .. } = &mut *inner;
            self.drain(entries, |entry| {
                let code = withdrawn.covers(&entry.proof)?;
                let Leased { site, jkt, .. } = &*entry.leased;
                tracing::info!(%site, key = %jkt, code, "the service takes a token back");
                Some(Reason::Withdrawn)
            });
        }
        news
    }

    /// Keeps a site out until so many Unix seconds by the service's clock. Whether it had a lease.
    pub fn cut(&self, site: &str, until: u64) -> bool {
        self.lock().cuts.insert(site.to_owned(), until);
        self.end_where(|entry| (entry.leased.site == site).then_some(Reason::Cut))
    }

    /// Lets a site in again. Whether it was kept out.
    pub fn lift(&self, site: &str) -> bool {
        self.lock().cuts.remove(site).is_some()
    }

    /// Sites that are kept out, and until when.
    #[must_use]
    pub fn cuts(&self, now: Now) -> Vec<(String, u64)> {
        let mut inner = self.lock();
        inner.cuts.retain(|_, until| *until > now.unix.0);
        inner.cuts.iter().map(|(site, until)| (site.clone(), *until)).collect()
    }

    /// The service's code for why a proof is worth nothing any more, to tell whom it concerns.
    #[must_use]
    pub fn why_withdrawn(&self, proof: &Proof) -> Option<String> {
        self.lock().withdrawn.covers(proof).map(str::to_owned)
    }

    /// What must survive a restart of the gate.
    #[must_use]
    pub fn past(&self) -> Past {
        let inner = self.lock();
        let instances = inner.memory.iter().map(|(site, memory)| (site.clone(), memory.instances())).collect();
        Past { withdrawals: inner.withdrawn.entries(), cuts: inner.cuts.clone(), instances }
    }

    /// Takes over what was before a restart.
    pub fn restore(&self, past: Past, now: Now) {
        let mut inner = self.lock();
        for entry in &past.withdrawals {
            inner.withdrawn.add(entry);
        }
        inner.cuts.extend(past.cuts);
        for (site, instances) in past.instances {
            inner.memory.insert(site, SiteMemory::restored(self.instances, instances, now.at));
        }
    }

    /// What does not depend on the lease that is there.
    fn judge(&self, inner: &Inner, proof: &Proof, now: Now) -> Result<(), Reason> {
        if inner.withdrawn.covers(proof).is_some() {
            return Err(Reason::Withdrawn);
        }
        if inner.cuts.get(&proof.site).is_some_and(|until| *until > now.unix.0) {
            return Err(Reason::Cut);
        }
        if self.until(proof, now) <= now.at {
            return Err(Reason::TokenOld);
        }
        match inner.memory.get(&proof.site) {
            Some(memory) if memory.was_replaced(proof.instance) => Err(Reason::Replaced),
            _ => Ok(()),
        }
    }

    /// A token from a service whose clock is a little ahead counts from now.
    fn until(&self, proof: &Proof, now: Now) -> Instant {
        let age = Duration::from_secs(now.unix.0.saturating_sub(proof.issued_at));
        now.at + self.check_frequency.saturating_sub(age)
    }

    fn end_where(&self, why: impl Fn(&Entry) -> Option<Reason>) -> bool {
        self.drain(&mut self.lock().entries, why)
    }

    fn drain(&self, entries: &mut BTreeMap<String, Entry>, why: impl Fn(&Entry) -> Option<Reason>) -> bool {
        let before = entries.len();
        entries.retain(|_, entry| match why(entry) {
            Some(reason) => {
                self.end(&entry.leased, reason);
                false
            }
            None => true,
        });
        entries.len() < before
    }

    fn end(&self, leased: &Arc<Leased>, reason: Reason) {
        leased.end.send_replace(Some(reason));
        let Leased { site, jkt, instance, .. } = &**leased;
        tracing::info!(%site, key = %jkt, %instance, code = reason.code(), "ended");
        let _ = self.changes.send(Change::Ended { leased: Arc::clone(leased), code: reason.code() });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
