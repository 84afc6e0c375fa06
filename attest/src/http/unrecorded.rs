//! Refusals that the audit log does not have: the newest 4,096, in memory, so that `explain` can tell what a peer was refused for.
//!
//! Nobody can be held to one: anybody can have sent what was refused. No source can push out another's: each has a bound of its
//! own, and where there is room for no more, the source that holds most gives up its oldest.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use super::problem::Told;
use crate::reason::Reason;
use crate::source::network;

/// Kept of all sources together; a few megabytes, for each text is at most 600 characters.
const MOST: usize = 4096;
/// Kept of one source: a site that boots in vain for an hour, with some dozen others behind the same address.
const MOST_PER_SOURCE: usize = 256;

/// One refusal.
#[derive(Debug, Clone)]
pub struct Unrecorded {
    /// What was told and what was not.
    pub told: Told,
    /// Unix seconds.
    pub at: u64,
    /// Where the connection came from.
    pub source: IpAddr,
}

/// Those that are known still.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Ring>);

impl Refusals {
    /// Keeps one.
    pub fn keep(&self, refusal: Unrecorded) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keep(refusal);
    }

    /// The one with this id, if it is known still.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Unrecorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).find(id)
    }
}

/// Who may push out whom. What comes too often is a source apart: it says nothing that the other refusals do not.
type Source = (u64, bool);

#[derive(Debug, Default)]
struct Ring {
    /// Each with its number.
    by_source: HashMap<Source, VecDeque<(u64, Unrecorded)>>,
    /// The last is the one to push out: most held, then oldest.
    by_size: BTreeSet<(usize, Reverse<u64>, Source)>,
    by_id: HashMap<String, Source>,
    next: u64,
}

impl Ring {
    fn keep(&mut self, refusal: Unrecorded) {
        let source = (network(refusal.source), refusal.told.reason == Reason::RateLimited);
        if self.by_source.get(&source).is_some_and(|held| held.len() >= MOST_PER_SOURCE) {
            self.drop_oldest_of(source);
        } else if self.by_id.len() >= MOST
            && let Some((_, _, largest)) = self.by_size.last().copied()
        {
            self.drop_oldest_of(largest);
        }
        self.by_id.insert(refusal.told.id.as_str().to_owned(), source);
        let number = self.next;
        self.next += 1;
        self.change(source, |held| held.push_back((number, refusal)));
    }

    fn find(&self, id: &str) -> Option<Unrecorded> {
        let held = self.by_source.get(self.by_id.get(id)?)?;
        held.iter().map(|(_, refusal)| refusal).find(|refusal| refusal.told.id.as_str() == id).cloned()
    }

    fn drop_oldest_of(&mut self, source: Source) {
        let mut dropped = None;
        self.change(source, |held| dropped = held.pop_front());
        if let Some((_, refusal)) = dropped {
            self.by_id.remove(refusal.told.id.as_str());
        }
    }

    /// Changes what a source holds and keeps its place by size.
    fn change(&mut self, source: Source, change: impl FnOnce(&mut VecDeque<(u64, Unrecorded)>)) {
        let held = self.by_source.entry(source).or_default();
        if let Some(place) = place(held, source) {
            self.by_size.remove(&place);
        }
        change(held);
        match place(held, source) {
            Some(place) => _ = self.by_size.insert(place),
            None => _ = self.by_source.remove(&source),
        }
    }
}

fn place(held: &VecDeque<(u64, Unrecorded)>, source: Source) -> Option<(usize, Reverse<u64>, Source)> {
    held.front().map(|(oldest, _)| (held.len(), Reverse(*oldest), source))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::problem::RefusalId;

    fn refusal(source: [u8; 4], reason: Reason) -> Unrecorded {
        let told = Told { reason, id: RefusalId::new(), detail: String::new(), values: None, recorded: false };
        Unrecorded { told, at: 0, source: IpAddr::from(source) }
    }

    fn keep(ring: &mut Ring, source: [u8; 4], reason: Reason) -> String {
        let kept = refusal(source, reason);
        let id = kept.told.id.as_str().to_owned();
        ring.keep(kept);
        id
    }

    #[test]
    fn a_flood_from_one_source_pushes_out_its_own_only() {
        let mut ring = Ring::default();
        let quiet = keep(&mut ring, [192, 0, 2, 1], Reason::NoChallenge);
        let own = keep(&mut ring, [192, 0, 2, 9], Reason::NoChallenge);
        for _ in 0..5000 {
            keep(&mut ring, [192, 0, 2, 9], Reason::RateLimited);
        }
        assert!(ring.find(&own).is_some(), "what says most was pushed out by what says nothing");
        let flood: Vec<String> = (0..5000).map(|_| keep(&mut ring, [192, 0, 2, 9], Reason::NoChallenge)).collect();
        assert!(ring.find(&quiet).is_some());
        assert!(ring.find(&own).is_none());
        assert_eq!(flood.iter().filter(|id| ring.find(id).is_some()).count(), MOST_PER_SOURCE);
        assert!(ring.find(&flood[4999]).is_some());
    }

    #[test]
    fn a_flood_from_many_sources_pushes_out_those_that_hold_most() {
        let mut ring = Ring::default();
        let quiet: Vec<String> = (0..100).map(|n| keep(&mut ring, [10, 0, 0, n], Reason::NoChallenge)).collect();
        for round in 0..300 {
            for n in 0..100 {
                keep(&mut ring, [10, 1, round as u8 % 2, n], Reason::NoChallenge);
            }
        }
        assert_eq!(ring.by_id.len(), MOST);
        assert!(quiet.iter().all(|id| ring.find(id).is_some()));
    }

    proptest! {
        #[test]
        fn its_indexes_agree_whatever_comes(sources in proptest::collection::vec((0u8..40, any::<bool>()), 0..6000)) {
            let mut ring = Ring::default();
            for (n, limited) in sources {
                keep(&mut ring, [10, 0, 0, n], if limited { Reason::RateLimited } else { Reason::Token });
                prop_assert!(ring.by_id.len() <= MOST);
            }
            let held: usize = ring.by_source.values().map(VecDeque::len).sum();
            prop_assert_eq!(held, ring.by_id.len());
            prop_assert_eq!(ring.by_size.len(), ring.by_source.len());
            prop_assert!(ring.by_source.values().flatten().all(|(_, refusal)| ring.find(refusal.told.id.as_str()).is_some()));
        }
    }
}
