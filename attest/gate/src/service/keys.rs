//! The service's public token keys, as they were last fetched.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use coffer_token::Jwks;
use tokio::sync::{Notify, watch};

/// Between two fetches that a token with an unknown key asks for: anybody can make such tokens.
const BETWEEN_FETCHES: Duration = Duration::from_secs(5);

/// The cached set.
#[derive(Debug)]
pub struct Keys {
    set: RwLock<Option<Arc<Jwks>>>,
    wanted: Notify,
    asked: Mutex<Option<Instant>>,
    /// Counts the fetches that have ended, well or not.
    fetched: watch::Sender<u64>,
}

impl Keys {
    /// None yet, or those of before a restart.
    #[must_use]
    pub fn new(set: Option<Jwks>) -> Self {
        Self { set: RwLock::new(set.map(Arc::new)), wanted: Notify::new(), asked: Mutex::new(None), fetched: watch::Sender::new(0) }
    }

    /// The newest set, if there ever was one.
    #[must_use]
    pub fn load(&self) -> Option<Arc<Jwks>> {
        self.set.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A fetch gave this. Whether it is another set than before.
    pub fn store(&self, set: Jwks) -> bool {
        let mut held = self.set.write().unwrap_or_else(PoisonError::into_inner);
        let changed = held.as_deref() != Some(&set);
        *held = Some(Arc::new(set));
        changed
    }

    /// A fetch has ended.
    pub fn fetch_ended(&self) {
        self.fetched.send_modify(|count| *count += 1);
    }

    /// A token names a key that is not in the set: asks for a fetch and waits for its end, at most for `patience`. At once where the
    /// last such fetch was only just now.
    pub async fn refetch(&self, patience: Duration) {
        if !self.may_ask(Instant::now()) {
            return;
        }
        let mut fetched = self.fetched.subscribe();
        self.wanted.notify_one();
        // Whatever comes of it: the set is looked at again.
        let _ = tokio::time::timeout(patience, fetched.changed()).await;
    }

    /// Asks for a fetch without waiting for it; as often as [`Self::refetch`].
    pub fn want(&self) {
        if self.may_ask(Instant::now()) {
            self.wanted.notify_one();
        }
    }

    /// Waits until somebody wants a fetch.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    fn may_ask(&self, now: Instant) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.is_some_and(|last| now.saturating_duration_since(last) < BETWEEN_FETCHES) {
            return false;
        }
        *asked = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use coffer_token::Signer;

    use super::*;

    #[test]
    fn however_many_unknown_keys_are_shown_one_fetch_is_asked_for_in_a_while() {
        let (keys, start) = (Keys::new(None), Instant::now());
        assert_eq!((0..1000).filter(|_| keys.may_ask(start)).count(), 1);
        assert!(!keys.may_ask(start + BETWEEN_FETCHES - Duration::from_millis(1)));
        assert!(keys.may_ask(start + BETWEEN_FETCHES));
    }

    #[test]
    fn the_newest_set_counts() {
        let set = |byte| Signer::from_bytes(&[byte; 32]).expect("a scalar").jwks();
        let keys = Keys::new(Some(set(1)));
        assert!(!keys.store(set(1)) && keys.store(set(2)));
        assert_eq!(keys.load().as_deref(), Some(&set(2)));
    }
}
