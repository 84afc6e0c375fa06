//! Group commit: many transactions, one fsync.
//!
//! Each operation is a SQLite transaction of its own, so one that fails takes nobody else's with it. With `synchronous =
//! NORMAL` a commit appends to the write-ahead log and does not wait for the disk; here one thread does that for everybody who
//! committed meanwhile. The log is written front to back, so an fsync that covers a commit covers all before it: whatever an
//! answer rests on is on the disk before the peer hears of it, exactly as with `FULL`.
//!
//! SQLite itself still syncs around each checkpoint, which is what keeps the file from being torn; see
//! <https://www.sqlite.org/pragma.html#pragma_synchronous>.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::watch;

use super::StoreError;

/// The place of a commit in the order of commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ticket(u64);

/// The thread that syncs.
#[derive(Debug)]
pub struct Flusher {
    asked: Arc<Asked>,
    progress: watch::Receiver<Progress>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Asked {
    newest: Mutex<Newest>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Newest {
    ticket: Ticket,
    stop: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// Everything up to here is on the disk.
    flushed: Ticket,
    /// An fsync failed. Linux may have dropped the pages it could not write and report the next fsync as good, so none is
    /// believed any more until the service has been started again and has read back what is there.
    failed: bool,
}

impl Asked {
    fn newest(&self) -> MutexGuard<'_, Newest> {
        // Two plain values: a panic cannot leave them half changed.
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flusher {
    /// Starts the thread. `sync` makes durable whatever was written before it was called.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(sync: impl FnMut() -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let asked = Arc::new(Asked::default());
        let (sender, progress) = watch::channel(Progress::default());
        let shared = Arc::clone(&asked);
        let thread = std::thread::Builder::new().name("flush".to_owned()).spawn(move || run(&shared, &sender, sync))?;
        Ok(Self { asked, progress, thread: Some(thread) })
    }

    /// A commit was made; call it in the order of commits. Gives what to wait for.
    pub fn written(&self) -> Ticket {
        let mut newest = self.asked.newest();
        newest.ticket.0 += 1;
        self.asked.changed.notify_one();
        newest.ticket
    }

    /// Waits until everything up to `ticket` is on the disk.
    ///
    /// # Errors
    /// [`StoreError::Flush`] if it may not be: nothing that was waited for may be told to anybody.
    pub async fn durable(&self, ticket: Ticket) -> Result<(), StoreError> {
        let mut progress = self.progress.clone();
        let reached = progress.wait_for(|progress| progress.failed || progress.flushed >= ticket).await;
        match reached {
            Ok(progress) if progress.flushed >= ticket => Ok(()),
            // A thread that is gone syncs nothing.
            _ => Err(StoreError::Flush),
        }
    }
}

fn run(asked: &Asked, progress: &watch::Sender<Progress>, mut sync: impl FnMut() -> io::Result<()>) {
    let mut flushed = Ticket::default();
    loop {
        let target = {
            let mut newest = asked.newest();
            while newest.ticket == flushed && !newest.stop {
                newest = asked.changed.wait(newest).unwrap_or_else(PoisonError::into_inner);
            }
            newest.ticket
        };
        if target == flushed {
            return;
        }
        // Commits that come from here on wait for the next round.
        match sync() {
            Ok(()) => flushed = target,
            Err(error) => {
                tracing::error!(%error, "cannot write the database to the disk: nothing is released any more; restart the service");
                progress.send_modify(|progress| progress.failed = true);
                return;
            }
        }
        progress.send_modify(|progress| progress.flushed = flushed);
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.asked.newest().stop = true;
        self.asked.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say: a failed sync was logged and told to everybody who waited.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    }

    #[test]
    fn many_commits_share_one_fsync_and_none_is_told_before_its_own() {
        let syncs = Arc::new(AtomicUsize::new(0));
        let (begin, held) = mpsc::channel::<()>();
        let counted = Arc::clone(&syncs);
        let flusher = Flusher::start(move || {
            held.recv().unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .unwrap();
        let first = flusher.written();
        // The thread has taken the first alone, or will take all: either way two rounds are enough for a thousand.
        std::thread::sleep(Duration::from_millis(50));
        let others: Vec<_> = (0..1000).map(|_| flusher.written()).collect();
        runtime().block_on(async {
            let early = tokio::time::timeout(Duration::from_millis(50), flusher.durable(first)).await;
            assert!(early.is_err(), "told before the disk had it");
            begin.send(()).unwrap();
            flusher.durable(first).await.unwrap();
            let early = tokio::time::timeout(Duration::from_millis(50), flusher.durable(others[999])).await;
            assert!(early.is_err(), "told before the disk had it");
            begin.send(()).unwrap();
            for ticket in others {
                flusher.durable(ticket).await.unwrap();
            }
        });
        assert_eq!(syncs.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_failed_fsync_refuses_everybody_who_waited_and_everybody_after() {
        let (begin, held) = mpsc::channel::<io::Result<()>>();
        let flusher = Flusher::start(move || held.recv().unwrap()).unwrap();
        let kept = flusher.written();
        runtime().block_on(async {
            begin.send(Ok(())).unwrap();
            flusher.durable(kept).await.unwrap();
            let lost: Vec<_> = (0..10).map(|_| flusher.written()).collect();
            begin.send(Err(io::Error::other("the disk is gone"))).unwrap();
            // A disk that says it is well again is not believed.
            let _ = begin.send(Ok(()));
            for ticket in lost {
                assert!(matches!(flusher.durable(ticket).await, Err(StoreError::Flush)), "{ticket:?}");
            }
            assert!(matches!(flusher.durable(flusher.written()).await, Err(StoreError::Flush)));
            flusher.durable(kept).await.unwrap();
        });
    }

    #[test]
    fn what_was_written_is_synced_before_the_end() {
        let syncs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&syncs);
        let flusher = Flusher::start(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .unwrap();
        flusher.written();
        drop(flusher);
        assert_eq!(syncs.load(Ordering::SeqCst), 1);
    }
}
