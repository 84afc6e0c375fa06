//! Who works next: a bounded number of requests at a time, and of those that wait, one source after the other.
//!
//! Verifying evidence, sealing a secret and checking an admin's signature each cost about a millisecond of a core, and anybody may
//! ask for it. A source with hundreds of requests waiting gets one turn in each round, as does a source with one; where there is
//! room for no more, the source with most waiting loses its newest. So what a request waits for is bounded by how many sources
//! there are, not by how much one of them asks.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::source::network;

/// The queue.
#[derive(Debug)]
pub struct FairQueue {
    state: Mutex<State>,
    most_waiting: usize,
}

#[derive(Debug)]
struct State {
    /// Turns nobody has.
    free: usize,
    waiting: usize,
    /// Those that wait, by source; none is empty.
    lanes: HashMap<u64, VecDeque<oneshot::Sender<Turn>>>,
    /// The sources with a lane, the next one first.
    round: VecDeque<u64>,
}

/// There is no room to wait in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no turn: {waiting} requests wait already")]
pub struct Full {
    /// How many wait.
    pub waiting: usize,
}

/// The right to work, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    queue: Option<Arc<FairQueue>>,
}

impl FairQueue {
    /// Lets `at_once` requests work and `most_waiting` wait.
    #[must_use]
    pub fn new(at_once: usize, most_waiting: usize) -> Arc<Self> {
        let state = State { free: at_once, waiting: 0, lanes: HashMap::new(), round: VecDeque::new() };
        Arc::new(Self { state: Mutex::new(state), most_waiting })
    }

    /// Waits for a turn. Dropping the future gives up the place.
    ///
    /// # Errors
    /// [`Full`], at once or once a source with fewer waiting takes the place.
    pub async fn enter(self: &Arc<Self>, source: IpAddr) -> Result<Turn, Full> {
        let place = {
            let mut state = self.lock();
            if state.free > 0 {
                state.free -= 1;
                return Ok(Turn { queue: Some(Arc::clone(self)) });
            }
            state.wait(network(source), self.most_waiting)?
        };
        place.await.map_err(|_| Full { waiting: self.most_waiting })
    }

    /// Hands a turn that was given back to the next in the round who is still there.
    fn pass_on(self: Arc<Self>) {
        let mut turn = Turn { queue: Some(Arc::clone(&self)) };
        loop {
            let next = {
                let mut state = self.lock();
                match state.next() {
                    Some(next) => next,
                    None => {
                        state.free += 1;
                        // This turn is the one that has just been counted.
                        turn.queue = None;
                        return;
                    }
                }
            };
            // Not under the lock: a receiver that goes away drops the turn in it, which passes it on again.
            match next.send(turn) {
                Ok(()) => return,
                Err(unwanted) => turn = unwanted,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&mut self, source: u64, most_waiting: usize) -> Result<oneshot::Receiver<Turn>, Full> {
        if self.waiting >= most_waiting {
            self.forget_the_gone();
        }
        if self.waiting >= most_waiting {
            self.make_room_for(source)?;
        }
        let (sender, receiver) = oneshot::channel();
        let lane = self.lanes.entry(source).or_default();
        if lane.is_empty() {
            self.round.push_back(source);
        }
        lane.push_back(sender);
        self.waiting += 1;
        Ok(receiver)
    }

    /// Takes the next in the round out of its lane.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let source = self.round.pop_front()?;
        let lane = self.lanes.get_mut(&source)?;
        let next = lane.pop_front();
        if lane.is_empty() {
            self.lanes.remove(&source);
        } else {
            self.round.push_back(source);
        }
        self.waiting -= usize::from(next.is_some());
        next
    }

    /// Those whose connection ended or whose time was up still have a place; they are looked for only where it matters.
    fn forget_the_gone(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.retain(|waiting| !waiting.is_closed());
        }
        self.lanes.retain(|_, lane| !lane.is_empty());
        self.round.retain(|source| self.lanes.contains_key(source));
        self.waiting = self.lanes.values().map(VecDeque::len).sum();
    }

    /// The longest lane loses its newest, unless `source` would then have the longest itself.
    fn make_room_for(&mut self, source: u64) -> Result<(), Full> {
        let own = self.lanes.get(&source).map_or(0, VecDeque::len);
        let longest = self.lanes.values_mut().max_by_key(|lane| lane.len()).filter(|lane| lane.len() > own + 1);
        match longest.and_then(VecDeque::pop_back) {
            Some(newest) => {
                self.waiting -= 1;
                drop(newest);
                Ok(())
            }
            None => Err(Full { waiting: self.waiting }),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(queue) = mem::take(&mut self.queue) {
            queue.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::*;

    fn source(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    type Waiting = Pin<Box<dyn Future<Output = Result<Turn, Full>>>>;

    fn enter(queue: &Arc<FairQueue>, n: u8) -> Waiting {
        let queue = Arc::clone(queue);
        Box::pin(async move { queue.enter(source(n)).await })
    }

    fn poll(waiting: &mut Waiting) -> Poll<Result<Turn, Full>> {
        waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    fn turn(waiting: &mut Waiting) -> Option<Turn> {
        match poll(waiting) {
            Poll::Ready(turn) => Some(turn.expect("a turn")),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_source_with_one_waits_for_one_round_behind_a_source_with_many() {
        let queue = FairQueue::new(1, 100);
        let held = turn(&mut enter(&queue, 1)).expect("free");
        let mut many: Vec<Waiting> = (0..50).map(|_| enter(&queue, 1)).collect();
        assert!(many.iter_mut().all(|waiting| turn(waiting).is_none()));
        let mut one = enter(&queue, 2);
        assert!(turn(&mut one).is_none());
        drop(held);
        let first = turn(&mut many[0]).expect("was there first");
        assert!(turn(&mut one).is_none());
        drop(first);
        let second = turn(&mut one).expect("its source is next");
        assert!(many[1..].iter_mut().all(|waiting| turn(waiting).is_none()));
        drop(second);
        assert!(turn(&mut many[1]).is_some());
    }

    #[test]
    fn a_full_queue_takes_from_the_longest_lane_and_refuses_its_owner() {
        let queue = FairQueue::new(1, 4);
        let _held = turn(&mut enter(&queue, 1)).expect("free");
        let mut greedy: Vec<Waiting> = (0..4).map(|_| enter(&queue, 1)).collect();
        assert!(greedy.iter_mut().all(|waiting| turn(waiting).is_none()));
        assert!(matches!(poll(&mut enter(&queue, 1)), Poll::Ready(Err(Full { waiting: 4 }))));
        let mut modest = enter(&queue, 2);
        assert!(turn(&mut modest).is_none(), "it waits");
        assert!(matches!(poll(&mut greedy[3]), Poll::Ready(Err(Full { .. }))), "the newest of the longest lane made room");
        assert!(greedy[..3].iter_mut().all(|waiting| turn(waiting).is_none()));
        let mut second = enter(&queue, 2);
        assert!(turn(&mut second).is_none() && matches!(poll(&mut greedy[2]), Poll::Ready(Err(_))));
        assert!(matches!(poll(&mut enter(&queue, 2)), Poll::Ready(Err(_))), "two and two: nobody has more than it would have");
    }

    #[test]
    fn who_went_away_has_no_place_and_no_turn() {
        let queue = FairQueue::new(1, 2);
        let held = turn(&mut enter(&queue, 1)).expect("free");
        let mut gone: Vec<Waiting> = (0..2).map(|_| enter(&queue, 1)).collect();
        assert!(gone.iter_mut().all(|waiting| turn(waiting).is_none()));
        drop(gone);
        let mut other = enter(&queue, 1);
        assert!(turn(&mut other).is_none(), "there is room again");
        drop(held);
        // Given, and not taken: the turn goes on to whoever comes.
        drop(other);
        assert!(turn(&mut enter(&queue, 3)).is_some());
        let state = queue.lock();
        assert_eq!((state.free, state.waiting), (1, 0));
    }

    proptest! {
        /// Whatever comes, waits, goes and works: no turn is lost, none is made, nobody waits while one is free.
        #[test]
        fn turns_are_neither_lost_nor_made(events in proptest::collection::vec((0u8..4, 1u8..6, 0usize..8), 0..400)) {
            let queue = FairQueue::new(3, 6);
            let (mut waiting, mut working) = (Vec::<Waiting>::new(), Vec::<Turn>::new());
            for (what, from, which) in events {
                match what {
                    0 | 1 => waiting.push(enter(&queue, from)),
                    2 if !waiting.is_empty() => drop(waiting.remove(which % waiting.len())),
                    3 if !working.is_empty() => drop(working.remove(which % working.len())),
                    _ => {}
                }
                // Twice: who comes may take the place of one that was looked at before.
                for _ in 0..2 {
                    waiting.retain_mut(|place| match poll(place) {
                        Poll::Pending => true,
                        Poll::Ready(Ok(turn)) => { working.push(turn); false }
                        Poll::Ready(Err(_)) => false,
                    });
                }
                let state = queue.lock();
                prop_assert_eq!(state.free + working.len(), 3);
                prop_assert!(state.free == 0 || waiting.is_empty());
                prop_assert!(waiting.len() <= state.waiting && state.waiting <= 6);
                prop_assert_eq!(state.round.len(), state.lanes.len());
                prop_assert_eq!(state.lanes.values().map(VecDeque::len).sum::<usize>(), state.waiting);
            }
            drop(waiting);
            drop(working);
            prop_assert_eq!(queue.lock().free, 3);
        }
    }
}
