//! How much one source may hold before anybody knows who it is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::rate::Bucket;

/// An IPv4 address, an IPv6 /64 or /48, and which of the two: what one customer of a network gets at least and at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Source(IpAddr, u8);

impl Source {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Self(std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into(), 64)
            }
            v4 => Self(v4, 32),
        }
    }

    /// The /48 around a /64, which may be one customer's and has sixty-five thousand of them.
    fn around(self) -> Option<Self> {
        let IpAddr::V6(v6) = self.0 else { return None };
        let [a, b, c, ..] = v6.segments();
        Some(Self(std::net::Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).into(), 48))
    }
}

/// Failures that a source is forgiven at once: a site whose clock or token is wrong tries a few times a minute.
const FAILURES_AT_ONCE: u32 = 500;
/// One more after each.
const FAILURE_EVERY: Duration = Duration::from_millis(20);
/// So many sources with failures are remembered; past that those who have been good again are forgotten first.
const SOURCES: usize = 16 * 1024;

#[derive(Debug, Default)]
struct Books {
    /// Places taken, in all.
    all: u32,
    /// Places taken, by source.
    held: HashMap<Source, u32>,
    /// Failures, by source.
    failures: HashMap<Source, Bucket>,
}

/// Connections that have not shown a good token yet: so many in all, so many of one source, and none of a source that failed too
/// often, for a handshake in vain costs as much as a good one.
#[derive(Debug, Clone)]
pub struct Waiting {
    all: u32,
    each: u32,
    books: Arc<Mutex<Books>>,
}

/// One such connection, as long as this exists.
#[derive(Debug)]
pub struct Held {
    source: Source,
    books: Arc<Mutex<Books>>,
}

impl Waiting {
    /// Nobody yet.
    #[must_use]
    pub fn new(all: u32, each: u32) -> Self {
        Self { all, each, books: Arc::default() }
    }

    /// Takes a place; `None` where all are taken, or all that this source may have, or where it failed too often.
    #[must_use]
    pub fn take(&self, address: IpAddr, now: Instant) -> Option<Held> {
        let source = Source::of(address);
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = books.held.get(&source).copied().unwrap_or(0);
        let failed = books.failures.get(&source).is_some_and(|failures| !failures.has_one(now));
        // Half of all places, or there would be none for anybody else.
        let around = source.around();
        let of_around = around.and_then(|around| books.held.get(&around).copied()).unwrap_or(0);
        let crowded = of_source >= self.each || of_around >= self.each.max(self.all / 2);
        if books.all >= self.all || crowded || failed {
            return None;
        }
        books.all += 1;
        if let Some(around) = around {
            books.held.insert(around, of_around + 1);
        }
        books.held.insert(source, of_source + 1);
        Some(Held { source, books: Arc::clone(&self.books) })
    }
}

impl Held {
    /// It came to nothing.
    pub fn failed(self, now: Instant) {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        if books.failures.len() >= SOURCES {
            books.failures.retain(|_, failures| !failures.is_full(now));
        }
        if books.failures.len() < SOURCES {
            let fresh = || Bucket::new(FAILURES_AT_ONCE, FAILURE_EVERY, now);
            books.failures.entry(self.source).or_insert_with(fresh).take(now);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.all -= 1;
        for source in [Some(self.source), self.source.around()].into_iter().flatten() {
            match books.held.get_mut(&source) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(books.held.remove(&source)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_takes_its_share_and_leaves_the_rest() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let (waiting, now) = (Waiting::new(5, 3), Instant::now());
        let taken: Vec<_> = (0..10).filter_map(|_| waiting.take(address("192.0.2.1"), now)).collect();
        assert_eq!(taken.len(), 3);
        assert!(waiting.take(address("::ffff:192.0.2.1"), now).is_none(), "the same in another form");
        let others: Vec<_> = (0..10).filter_map(|n| waiting.take(address(&format!("2001:db8::{n}")), now)).collect();
        assert_eq!(others.len(), 2, "all in all five");
        drop(taken);
        let neighbours: Vec<_> = (0..10).filter_map(|n| waiting.take(address(&format!("2001:db8:0:0:{n}::1")), now)).collect();
        assert_eq!(neighbours.len(), 1, "a /64 is one source");
        drop((others, neighbours));
        assert_eq!(waiting.books.lock().expect("whole").held.len(), 0, "nothing is kept of who is gone");
    }

    #[test]
    fn a_customer_with_many_networks_leaves_half() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let (waiting, now) = (Waiting::new(8, 2), Instant::now());
        let own = |n: u16| waiting.take(address(&format!("2001:db8:0:{n:x}::1")), now);
        let taken: Vec<_> = (0..100).filter_map(own).collect();
        assert_eq!(taken.len(), 4, "half of eight");
        assert!(waiting.take(address("2001:db8:1::1"), now).is_some() && waiting.take(address("192.0.2.1"), now).is_some());
        drop(taken);
        assert!(own(0).is_some());
        assert_eq!(waiting.books.lock().expect("whole").held.len(), 0, "nothing is kept of who is gone");
    }

    #[test]
    fn a_source_that_fails_without_end_waits_and_others_do_not() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let (waiting, now) = (Waiting::new(10, 10), Instant::now());
        let bad = address("192.0.2.1");
        let mut failed = 0;
        while let Some(held) = waiting.take(bad, now) {
            held.failed(now);
            failed += 1;
        }
        assert_eq!(failed, FAILURES_AT_ONCE);
        assert!(waiting.take(address("192.0.2.2"), now).is_some());
        assert!(waiting.take(bad, now + FAILURE_EVERY).is_some(), "after a while");
        // Who comes well is charged nothing, however often.
        for _ in 0..2 * FAILURES_AT_ONCE {
            drop(waiting.take(address("192.0.2.3"), now).expect("a place"));
        }
    }
}
