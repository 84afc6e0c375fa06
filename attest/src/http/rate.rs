//! A bound per source address for everything that happens before a signature holds.
//!
//! A fixed table of token buckets, indexed by a keyed hash of the address (IPv6: its /64), so an attacker can neither grow
//! it nor choose whom to collide with. Two sources in one bucket share a bound; with 4096 buckets that is rare.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::source::network;

const BUCKETS: usize = 4096;

/// The table.
#[derive(Debug)]
pub struct SourceBound {
    buckets: Vec<Mutex<Bucket>>,
    hasher: RandomState,
    per_second: f64,
    burst: f64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl SourceBound {
    /// A table in which every source may send `burst` requests at once and `per_second` in the long run.
    #[must_use]
    pub fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let bucket = Bucket { tokens: f64::from(burst), filled: now };
        Self {
            buckets: (0..BUCKETS).map(|_| Mutex::new(bucket)).collect(),
            hasher: RandomState::new(),
            per_second: f64::from(per_second),
            burst: f64::from(burst),
        }
    }

    /// Takes one request of `source` out of its bucket; false if there is none left.
    #[must_use]
    pub fn allow(&self, source: IpAddr, now: Instant) -> bool {
        let index = (self.hasher.hash_one(network(source)) % BUCKETS as u64) as usize;
        // A poisoned bucket holds two numbers, either of which is a valid state.
        let mut bucket = self.buckets[index].lock().unwrap_or_else(PoisonError::into_inner);
        let grown = now.saturating_duration_since(bucket.filled).as_secs_f64() * self.per_second;
        bucket.tokens = (bucket.tokens + grown).min(self.burst);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

/// How many connections each source holds, so that none can hold all. Knows a source only while it holds one.
#[derive(Debug)]
pub struct SourceShare {
    held: Mutex<HashMap<u64, u32>>,
    most: u32,
}

impl SourceShare {
    /// Lets a source hold `most` connections at a time.
    #[must_use]
    pub fn new(most: u32) -> Arc<Self> {
        Arc::new(Self { held: Mutex::default(), most })
    }

    /// One more connection of `source`, until the answer is dropped; none if it has its share already.
    #[must_use]
    pub fn take(self: &Arc<Self>, source: IpAddr) -> Option<Held> {
        let network = network(source);
        // Poisoned or not, the counts are those of the connections there are.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(network).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Held { share: Arc::clone(self), network })
    }
}

/// A connection that counts.
#[derive(Debug)]
pub struct Held {
    share: Arc<SourceShare>,
    network: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.share.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.network) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                held.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_source_gets_its_burst_then_its_rate_and_does_not_starve_others() {
        let start = Instant::now();
        let bound = SourceBound::new(2, 5, start);
        let noisy: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!((0..20).filter(|_| bound.allow(noisy, start)).count(), 5);
        let quiet = (2..=250).map(|n| IpAddr::from([192, 0, 2, n])).filter(|ip| bound.allow(*ip, start)).count();
        assert!(quiet >= 240, "{quiet} of 249 others were let through");
        assert_eq!((0..20).filter(|_| bound.allow(noisy, start + Duration::from_secs(1))).count(), 2);
    }

    #[test]
    fn a_source_holds_its_share_and_is_forgotten_when_it_leaves() {
        let share = SourceShare::new(2);
        let (one, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "::ffff:192.0.2.2".parse().unwrap());
        let first = share.take(one).unwrap();
        let _second = share.take("::ffff:192.0.2.1".parse().unwrap()).unwrap();
        assert!(share.take(one).is_none());
        let elsewhere = share.take(other).unwrap();
        drop(first);
        let _again = share.take(one).unwrap();
        assert!(share.take(one).is_none());
        drop(elsewhere);
        assert_eq!(share.held.lock().unwrap().len(), 1);
    }

    #[test]
    fn one_ipv6_network_is_one_source() {
        let start = Instant::now();
        let bound = SourceBound::new(1, 3, start);
        let passed = (0..50u16).filter(|n| bound.allow(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, *n]), start)).count();
        assert_eq!(passed, 3);
    }
}
