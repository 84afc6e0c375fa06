//! The database as requests see it: one lock, one fsync for many, and the records that most requests ask for in memory.

use std::cell::Cell;
use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coffer_evidence::HostData;
use tokio::sync::watch;

use super::flush::{Flusher, Ticket};
use super::spent::SpentChallenges;
use super::{Site, Store, StoreError};
use crate::bounded::Bounded;

/// Weight of the records kept in memory, in launch digests and some: twice this many sites of one base.
const KEPT_RECORDS: usize = 16_384;

/// The open database, shared by all requests.
#[derive(Debug)]
pub struct SharedStore {
    store: Mutex<Store>,
    flusher: Flusher,
    /// Records by HOST_DATA, as the database has them. Filled and emptied under the lock of `store` only, so that a record read
    /// before a change is never put in after it.
    records: Bounded<HostData, Arc<Site>>,
    /// Set by the database itself whenever it writes a row that records are read from, whoever asked for it.
    sites_changed: Arc<AtomicBool>,
    /// The same for withdrawals.
    withdrawals_changed: Arc<AtomicBool>,
    /// The newest withdrawal's number, for those who wait for a newer one.
    newest_withdrawal: watch::Sender<u64>,
    challenges: SpentChallenges,
}

thread_local! {
    /// The newest commit of the request that this thread works for.
    static WRITTEN: Cell<Option<Ticket>> = const { Cell::new(None) };
}

impl SharedStore {
    /// Takes over a store. From here on nothing is durable by itself: [`Self::run`] tells what to wait for, [`Self::durable`]
    /// waits.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn new(store: Store, path: &Path) -> Result<Self, StoreError> {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        // This connection opened it before and keeps it until the end, so it stays the same file. Closing ours takes no lock
        // with it: SQLite's are on the database itself.
        let log = File::open(log).map_err(StoreError::Log)?;
        let flusher = Flusher::start(move || log.sync_data()).map_err(StoreError::Log)?;
        Self::with_flusher(store, flusher)
    }

    /// The same with another way to make things durable.
    pub(super) fn with_flusher(store: Store, flusher: Flusher) -> Result<Self, StoreError> {
        store.db.pragma_update(None, "synchronous", "NORMAL")?;
        let [sites_changed, withdrawals_changed] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let (sites, withdrawals) = (Arc::clone(&sites_changed), Arc::clone(&withdrawals_changed));
        store.db.update_hook(Some(move |_, _: &str, table: &str, _| match table {
            "sites" | "suspensions" => sites.store(true, Ordering::Release),
            "withdrawals" => withdrawals.store(true, Ordering::Release),
            _ => {}
        }));
        let newest_withdrawal = watch::Sender::new(store.newest_withdrawal()?);
        Ok(Self {
            store: Mutex::new(store),
            flusher,
            records: Bounded::new(KEPT_RECORDS),
            sites_changed,
            withdrawals_changed,
            newest_withdrawal,
            challenges: SpentChallenges::default(),
        })
    }

    /// The database, for one short operation.
    pub fn lock(&self) -> Locked<'_> {
        // Each operation is one statement or one transaction: after a panic SQLite has rolled back.
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { seen: store.db.total_changes(), store, shared: self }
    }

    /// The record of a HOST_DATA, revoked or not, as of the last change that was committed. Waits for no writer if it is known.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn site(&self, host_data: &HostData) -> Result<Option<Arc<Site>>, StoreError> {
        if let Some(site) = self.records.get(host_data, |site| weight(site)) {
            return Ok(Some(site));
        }
        let store = self.lock();
        let Some(site) = store.site(host_data)?.map(Arc::new) else { return Ok(None) };
        self.records.insert(*host_data, Arc::clone(&site), weight(&site));
        Ok(Some(site))
    }

    /// The newest withdrawal's number, and each newer one as soon as it is committed.
    pub fn newest_withdrawal(&self) -> watch::Receiver<u64> {
        self.newest_withdrawal.subscribe()
    }

    /// Challenges that have been answered.
    pub const fn challenges(&self) -> &SpentChallenges {
        &self.challenges
    }

    /// Runs a request's work, all of it on this thread, and tells which commit its answer has to wait for, if it made any.
    pub fn run<T>(work: impl FnOnce() -> T) -> (T, Option<Ticket>) {
        WRITTEN.set(None);
        let result = work();
        (result, WRITTEN.take())
    }

    /// Waits until a request's commits are on the disk, together with everybody else's.
    ///
    /// # Errors
    /// [`StoreError::Flush`]: what was waited for may not be told.
    pub async fn durable(&self, ticket: Option<Ticket>) -> Result<(), StoreError> {
        match ticket {
            Some(ticket) => self.flusher.durable(ticket).await,
            None => Ok(()),
        }
    }
}

/// Roughly how much memory a record takes, in units of an ordinary one.
fn weight(site: &Site) -> usize {
    1 + site.record.launch_digests.len() / 8
}

/// The database in one thread's hands.
#[derive(Debug)]
pub struct Locked<'a> {
    /// `total_changes` when the lock was taken.
    seen: u64,
    store: MutexGuard<'a, Store>,
    shared: &'a SharedStore,
}

impl Deref for Locked<'_> {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Store {
        &mut self.store
    }
}

impl Locked<'_> {
    /// Whoever waits is told of the commit, not of the disk having it: after a crash in between, a lease has ended for nothing.
    fn tell_withdrawals(&self) {
        match self.store.newest_withdrawal() {
            Ok(newest) => _ = self.shared.newest_withdrawal.send_replace(newest),
            // They hear of it when their time is up.
            Err(error) => tracing::error!(%error, "cannot tell gates of a withdrawal"),
        }
    }
}

impl Drop for Locked<'_> {
    /// Still under the lock: commits get their tickets in the order they were made, and no reader finds an old record once the
    /// lock is free.
    fn drop(&mut self) {
        if self.store.db.total_changes() == self.seen {
            return;
        }
        if self.shared.sites_changed.swap(false, Ordering::AcqRel) {
            self.shared.records.clear();
        }
        if self.shared.withdrawals_changed.swap(false, Ordering::AcqRel) {
            self.tell_withdrawals();
        }
        WRITTEN.set(Some(self.shared.flusher.written()));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc;

    use coffer_manifest::Enrollment;
    use tempfile::TempDir;

    use super::*;
    use crate::store::tests::{facts, file, record, store};
    use crate::store::{Entry, Event, Standing, Subject};

    const ONE: HostData = HostData::new([1; 32]);

    /// `demo/site-1` is enrolled; every sync waits for a word.
    fn shared() -> (TempDir, SharedStore, mpsc::Sender<io::Result<()>>) {
        let (dir, mut store) = store();
        store.enroll(&file(record("site-1", 1)), false, "ada", 10).unwrap();
        let (say, said) = mpsc::channel::<io::Result<()>>();
        let flusher = Flusher::start(move || said.recv().unwrap_or(Ok(()))).unwrap();
        (dir, SharedStore::with_flusher(store, flusher).unwrap(), say)
    }

    fn entry(event: Event) -> Entry {
        Entry::new(11, event, "id", "ok", String::new(), Subject::default())
    }

    fn is_durable(shared: &SharedStore, ticket: Option<Ticket>) -> Result<(), StoreError> {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(shared.durable(ticket))
    }

    #[test]
    fn a_revocation_takes_the_record_out_of_memory_whoever_writes_it() {
        let (_dir, shared, _say) = shared();
        assert_eq!(shared.site(&ONE).unwrap().unwrap().stands.standing, Standing::Active);
        assert_eq!(shared.records.len(), 1);
        shared.lock().revoke(&"demo".parse().unwrap(), &"site-1".parse().unwrap(), None, "ada", "stolen", 12).unwrap();
        assert_eq!(shared.records.len(), 0);
        assert!(matches!(shared.site(&ONE).unwrap().unwrap().stands.standing, Standing::Revoked { revoked_at: 12, .. }));

        let two = HostData::new([2; 32]);
        shared.lock().enroll(&file(record("site-2", 2)), false, "ada", 13).unwrap();
        assert_eq!(shared.site(&two).unwrap().unwrap().stands.standing, Standing::Active);
        let by_hand = "UPDATE sites SET revoked_at = 14, revoked_by = 'x', revoked_why = 'x' WHERE site = 'site-2'";
        shared.lock().db.execute(by_hand, []).unwrap();
        assert!(matches!(shared.site(&two).unwrap().unwrap().stands.standing, Standing::Revoked { revoked_at: 14, .. }));
    }

    #[test]
    fn what_is_not_enrolled_takes_no_memory() {
        let (_dir, shared, _say) = shared();
        for n in 2..200 {
            assert!(shared.site(&HostData::new([n; 32])).unwrap().is_none());
        }
        assert_eq!(shared.records.len(), 0);
    }

    #[test]
    fn an_answer_waits_for_its_own_writes_and_a_reader_for_nobodys() {
        let (_dir, shared, say) = shared();
        let (recorded, ticket) = SharedStore::run(|| shared.lock().record_while_active(&ONE, &facts(), entry(Event::Release)));
        assert!(recorded.unwrap());
        let waiting = ticket.expect("an entry is waited for");
        // Nothing is on the disk yet; records, challenges and other reads do not mind.
        let (_, ticket) = SharedStore::run(|| {
            shared.site(&ONE).unwrap();
            shared.lock().check_audit().unwrap();
            assert!(shared.challenges().spend(&coffer_protocol::Nonce::new([1; 32]), 60, 0));
        });
        assert_eq!(ticket, None);
        is_durable(&shared, None).unwrap();
        say.send(Ok(())).unwrap();
        is_durable(&shared, Some(waiting)).unwrap();
    }

    #[test]
    fn a_refused_change_takes_nobody_elses_with_it() {
        let (_dir, shared, say) = shared();
        let (_, kept) = SharedStore::run(|| shared.lock().record(entry(Event::Refuse)).unwrap());
        let (refused, _) = SharedStore::run(|| shared.lock().enroll(&file(record("site-1", 9)), false, "ada", 12));
        assert!(refused.is_err());
        let superseding = Enrollment { supersedes: Some(HostData::new([8; 32])), ..record("site-1", 9) };
        let (refused, _) = SharedStore::run(|| shared.lock().enroll(&file(superseding), false, "ada", 12));
        assert!(refused.is_err());
        let (_, also_kept) = SharedStore::run(|| shared.lock().record(entry(Event::Refuse)).unwrap());
        say.send(Ok(())).unwrap();
        say.send(Ok(())).unwrap();
        is_durable(&shared, kept).unwrap();
        is_durable(&shared, also_kept).unwrap();
        // The enrollment of the beginning and the two refusals: nothing of what was refused.
        assert_eq!(shared.lock().check_audit().unwrap().0, 3);
        assert!(shared.site(&HostData::new([9; 32])).unwrap().is_none());
    }

    #[test]
    fn what_belongs_together_is_recorded_together_or_not_at_all() {
        let (_dir, shared, _say) = shared();
        let failed = shared.lock().together(|store| {
            store.record(entry(Event::Release))?;
            store.put_facts("id", &facts(), "", 100)?;
            Err::<(), _>(StoreError::Flush)
        });
        assert!(matches!(failed, Err(StoreError::Flush)));
        assert_eq!(shared.lock().check_audit().unwrap().0, 1);
        assert!(shared.lock().facts("id").unwrap().is_none());
        let store = shared.lock();
        store.together(|store| store.record(entry(Event::Release)).and_then(|()| store.put_facts("id", &facts(), "", 100))).unwrap();
        assert_eq!(store.check_audit().unwrap().0, 2);
        assert!(store.facts("id").unwrap().is_some());
    }

    #[test]
    fn when_the_disk_fails_everybody_who_waited_is_refused() {
        let (_dir, shared, say) = shared();
        let release = || SharedStore::run(|| shared.lock().record_while_active(&ONE, &facts(), entry(Event::Release)).unwrap()).1;
        let tickets: Vec<_> = (0..5).map(|_| release()).collect();
        say.send(Err(io::Error::other("no space"))).unwrap();
        for ticket in tickets {
            assert!(matches!(is_durable(&shared, ticket), Err(StoreError::Flush)));
        }
        assert!(matches!(is_durable(&shared, release()), Err(StoreError::Flush)));
    }
}
