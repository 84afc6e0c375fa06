//! How much one source may hold before anybody knows who it is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// An IPv4 address, an IPv6 /64: what one customer of a network gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Source(IpAddr);

impl Source {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Self(std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
            }
            v4 => Self(v4),
        }
    }
}

/// Connections that have not shown a good token yet: so many in all, so many of one source.
#[derive(Debug, Clone)]
pub struct Waiting {
    all: u32,
    each: u32,
    held: Arc<Mutex<(u32, HashMap<Source, u32>)>>,
}

/// One such connection, as long as this exists.
#[derive(Debug)]
pub struct Held {
    source: Source,
    held: Arc<Mutex<(u32, HashMap<Source, u32>)>>,
}

impl Waiting {
    /// Nobody yet.
    #[must_use]
    pub fn new(all: u32, each: u32) -> Self {
        Self { all, each, held: Arc::default() }
    }

    /// Takes a place; `None` where all are taken, or all that this source may have.
    #[must_use]
    pub fn take(&self, address: IpAddr) -> Option<Held> {
        let source = Source::of(address);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, by_source) = &mut *held;
        let of_source = by_source.get(&source).copied().unwrap_or(0);
        if *all >= self.all || of_source >= self.each {
            return None;
        }
        *all += 1;
        by_source.insert(source, of_source + 1);
        Some(Held { source, held: Arc::clone(&self.held) })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, by_source) = &mut *held;
        *all -= 1;
        match by_source.get_mut(&self.source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(by_source.remove(&self.source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_takes_its_share_and_leaves_the_rest() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let waiting = Waiting::new(5, 3);
        let taken: Vec<_> = (0..10).filter_map(|_| waiting.take(address("192.0.2.1"))).collect();
        assert_eq!(taken.len(), 3);
        assert!(waiting.take(address("::ffff:192.0.2.1")).is_none(), "the same in another form");
        let others: Vec<_> = (0..10).filter_map(|n| waiting.take(address(&format!("2001:db8::{n}")))).collect();
        assert_eq!(others.len(), 2, "all in all five");
        drop(taken);
        let neighbours: Vec<_> = (0..10).filter_map(|n| waiting.take(address(&format!("2001:db8:0:0:{n}::1")))).collect();
        assert_eq!(neighbours.len(), 1, "a /64 is one source");
        drop((others, neighbours));
        assert_eq!(waiting.held.lock().expect("whole").1.len(), 0, "nothing is kept of who is gone");
    }
}
