//! A value that every request reads and that a change replaces as a whole.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// The newest version of a `T`. Readers keep the version they took; the lock is held for one reference count.
pub struct Live<T>(RwLock<Arc<T>>);

impl<T> Live<T> {
    /// Starts with a value.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    /// The newest version.
    #[must_use]
    pub fn load(&self) -> Arc<T> {
        // Whoever panicked while holding the lock had not yet replaced the one pointer in it, or just had.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces it for everybody who looks from now on.
    pub fn replace(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

impl<T: fmt::Debug> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_keep_what_they_took() {
        let live = Live::new(1);
        let before = live.load();
        live.replace(2);
        assert_eq!((*before, *live.load()), (1, 2));
    }
}
