//! How often something may happen: so many at once, so many in the long run.

use std::time::{Duration, Instant};

/// A token bucket. Full at first.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// How long one takes to come back.
    every: Duration,
    /// When it is full again; before or at now: it is full.
    full_at: Instant,
    /// How many there are at most.
    burst: u32,
}

impl Bucket {
    /// `burst` at once, one more after each `every`.
    #[must_use]
    pub const fn new(burst: u32, every: Duration, now: Instant) -> Self {
        Self { every, full_at: now, burst }
    }

    /// Whether all there can be are there.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }

    /// Whether there is one; takes none.
    #[must_use]
    pub fn has_one(&self, now: Instant) -> bool {
        self.full_at.max(now) + self.every <= now + self.every * self.burst
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let there = self.has_one(now);
        if there {
            self.full_at = self.full_at.max(now) + self.every;
        }
        there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_at_a_time() {
        let start = Instant::now();
        let mut bucket = Bucket::new(3, Duration::from_secs(10), start);
        assert!(bucket.is_full(start));
        assert_eq!((0..5).filter(|_| bucket.take(start)).count(), 3);
        assert!(!bucket.is_full(start) && !bucket.has_one(start));
        assert!(!bucket.take(start + Duration::from_secs(9)));
        assert!(bucket.take(start + Duration::from_secs(10)) && !bucket.take(start + Duration::from_secs(10)));
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..5).filter(|_| bucket.take(later)).count(), 3, "never more than a burst");
    }
}
