//! What is to be fetched, in what order, how soon and how often: single flight, bounds, back-off. Pure: the time is an argument.
//!
//! One fetch is under way at a time, so a key server never sees two of ours at once, and two requests for one thing are one entry.
//! What strangers can cause is bounded four times: entries in all, entries and failures per source, fetches per hour.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::key::Request;

/// Entries waiting at most. A site of some hundred hosts that boots at once.
pub const MAX_WAITING: usize = 256;
/// Of which one source (an IPv4 address, an IPv6 /64) may have caused this many: hundreds of hosts may sit behind one address.
const MAX_WAITING_PER_SOURCE: usize = MAX_WAITING / 4;
/// Keys the server does not know that one source may name within [`STRIKE_SPAN`]. An honest host names its own chip.
const MAX_STRIKES: u32 = 8;
const STRIKE_SPAN: Duration = Duration::from_secs(3600);
/// Sources remembered for that.
const MAX_SOURCES: usize = 4096;
/// Fetches that guests may cause at once, and how often one more is allowed: 600 an hour in the long run.
const GUEST_BURST: u32 = 200;
const GUEST_REFILL: Duration = Duration::from_secs(6);
/// How long an answer of *not there* counts. A chip whose TCB was raised today may be known tomorrow.
const ABSENT_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long after the last of its tries a key that always failed is left alone.
const GIVEN_UP_FOR: Duration = Duration::from_secs(600);
/// Keys remembered as absent or given up.
const MAX_ABSENT: usize = 4096;
/// Tries of one key before it is given up.
const MAX_TRIES: u32 = 6;
/// First and longest pause after the server was not well; doubles in between.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(300);
/// First and longest pause after a 429 that names no time, and the bounds on one that does.
const FIRST_THROTTLE: Duration = Duration::from_secs(5);
const LAST_THROTTLE: Duration = Duration::from_secs(3600);
/// Errors kept for `status`.
const MAX_ERRORS: usize = 16;

/// Who wants something fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// An admin, or the service itself: known, and few.
    Service,
    /// A guest whose evidence proves nothing yet, from this network.
    Guest(u64),
}

/// What became of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// It waits, since now or since before. Worth asking again in this time.
    Waits(Duration),
    /// The server said not long ago that there is no such thing, or failed at it too often.
    Absent,
    /// The bound of this source, or of all guests together, is reached. Worth asking again in this time.
    Full(Duration),
}

/// What a fetch came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Fetched, verified, stored.
    Stored,
    /// The server has no such thing.
    Absent,
    /// Too many requests; how long to wait, if it said.
    Throttled(Option<Duration>),
    /// No answer, or an answer of a server that is not well.
    Unwell(String),
    /// An answer that is not what was asked for.
    Garbage(String),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Fetch this, then say [`Queue::done`].
    Fetch(Request),
    /// Nothing for this long, unless something is asked for.
    Wait(Duration),
    /// Nothing until something is asked for.
    Idle,
}

#[derive(Debug)]
struct Entry {
    request: Request,
    asker: Asker,
    tries: u32,
    not_before: Instant,
}

/// A failure, for `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// What was asked for.
    pub what: String,
    /// When.
    pub at: Instant,
    /// What came of it.
    pub why: String,
}

/// Everything that is to be fetched.
#[derive(Debug)]
pub struct Queue {
    waiting: VecDeque<Entry>,
    active: Option<Entry>,
    /// Until when a key is not asked for again.
    absent: HashMap<Request, Instant>,
    strikes: HashMap<u64, (u32, Instant)>,
    /// The server as a whole is left alone until then.
    paused_until: Option<Instant>,
    throttled_in_a_row: u32,
    unwell_in_a_row: u32,
    guest_tokens: u32,
    refilled: Instant,
    errors: VecDeque<Failed>,
}

impl Queue {
    /// An empty one.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            waiting: VecDeque::new(),
            active: None,
            absent: HashMap::new(),
            strikes: HashMap::new(),
            paused_until: None,
            throttled_in_a_row: 0,
            unwell_in_a_row: 0,
            guest_tokens: GUEST_BURST,
            refilled: now,
            errors: VecDeque::new(),
        }
    }

    /// Puts a wish in line, once. An admin's counts for a key that was absent too, and comes before the guests'.
    pub fn ask(&mut self, request: &Request, asker: Asker, now: Instant) -> Wish {
        if self.active.as_ref().is_some_and(|entry| entry.request == *request) {
            return Wish::Waits(self.patience(0, now));
        }
        if let Some(position) = self.waiting.iter().position(|entry| entry.request == *request) {
            return Wish::Waits(self.patience(position, now));
        }
        let guest = match asker {
            Asker::Service => None,
            Asker::Guest(source) => Some(source),
        };
        if let Some(source) = guest {
            if self.absent.get(request).is_some_and(|until| *until > now) {
                return Wish::Absent;
            }
            if let Some(wait) = self.guest_bound(source, now) {
                return Wish::Full(wait);
            }
            self.guest_tokens -= 1;
        } else {
            self.absent.remove(request);
        }
        let entry = Entry { request: request.clone(), asker, tries: 0, not_before: now };
        match asker {
            Asker::Guest(_) => self.waiting.push_back(entry),
            Asker::Service => {
                let behind = self.waiting.iter().take_while(|entry| entry.asker == Asker::Service).count();
                self.waiting.insert(behind, entry);
            }
        }
        Wish::Waits(self.patience(self.waiting.len(), now))
    }

    /// How long a guest has to wait for room, if there is none.
    fn guest_bound(&mut self, source: u64, now: Instant) -> Option<Duration> {
        let refills = now.saturating_duration_since(self.refilled).as_secs() / GUEST_REFILL.as_secs();
        let refills = u32::try_from(refills).unwrap_or(u32::MAX);
        self.refilled += GUEST_REFILL.saturating_mul(refills);
        self.guest_tokens = self.guest_tokens.saturating_add(refills).min(GUEST_BURST);
        if let Some((count, since)) = self.strikes.get(&source)
            && *count >= MAX_STRIKES
            && now < *since + STRIKE_SPAN
        {
            return Some(*since + STRIKE_SPAN - now);
        }
        let of_source = self.waiting.iter().filter(|entry| entry.asker == Asker::Guest(source)).count();
        let full = self.waiting.len() >= MAX_WAITING || of_source >= MAX_WAITING_PER_SOURCE || self.guest_tokens == 0;
        full.then_some(GUEST_REFILL)
    }

    /// When asking again is worth while for who stands `position` places behind.
    fn patience(&self, position: usize, now: Instant) -> Duration {
        let paused = self.paused_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        paused + Duration::from_secs(2 + position as u64 / 2)
    }

    /// What to fetch now, or how long there is nothing to do.
    pub fn next(&mut self, now: Instant) -> Next {
        if self.active.is_some() {
            return Next::Idle;
        }
        if let Some(until) = self.paused_until {
            if now < until {
                return Next::Wait(until - now);
            }
            self.paused_until = None;
        }
        if let Some(position) = self.waiting.iter().position(|entry| entry.not_before <= now)
            && let Some(entry) = self.waiting.remove(position)
        {
            let request = entry.request.clone();
            self.active = Some(entry);
            return Next::Fetch(request);
        }
        match self.waiting.iter().map(|entry| entry.not_before).min() {
            Some(soonest) => Next::Wait(soonest.saturating_duration_since(now)),
            None => Next::Idle,
        }
    }

    /// Takes what came of the fetch that [`Self::next`] named. `jitter` (any number) spreads those who failed together.
    pub fn done(&mut self, outcome: Outcome, now: Instant, jitter: u8) {
        let Some(mut entry) = self.active.take() else { return };
        let what = entry.request.to_string();
        match outcome {
            Outcome::Stored => self.well(),
            Outcome::Absent => {
                self.well();
                self.note(what, now, "the server has no such thing".to_owned());
                self.leave_alone(entry.request, now + ABSENT_FOR, now);
                if let Asker::Guest(source) = entry.asker {
                    self.strike(source, now);
                }
            }
            Outcome::Throttled(wait) => {
                let doubled = FIRST_THROTTLE.saturating_mul(1 << self.throttled_in_a_row.min(16));
                let wait = wait.unwrap_or_else(|| jittered(doubled.min(LAST_THROTTLE), jitter)).clamp(FIRST_PAUSE, LAST_THROTTLE);
                self.throttled_in_a_row += 1;
                self.paused_until = Some(now + wait);
                self.note(what, now, format!("throttled: 429, nothing is asked for {} s", wait.as_secs()));
                self.waiting.push_front(entry);
            }
            Outcome::Unwell(why) => {
                let pause = jittered(FIRST_PAUSE.saturating_mul(1 << self.unwell_in_a_row.min(16)).min(LAST_PAUSE), jitter);
                self.unwell_in_a_row += 1;
                self.paused_until = Some(now + pause);
                entry.not_before = now + pause;
                self.note(what, now, why);
                self.again(entry, now);
            }
            Outcome::Garbage(why) => {
                self.well();
                entry.not_before = now + jittered(FIRST_PAUSE.saturating_mul(4 << entry.tries.min(16)).min(LAST_PAUSE), jitter);
                self.note(what, now, why);
                self.again(entry, now);
            }
        }
    }

    fn well(&mut self) {
        (self.throttled_in_a_row, self.unwell_in_a_row) = (0, 0);
    }

    /// Back in line, or given up.
    fn again(&mut self, mut entry: Entry, now: Instant) {
        entry.tries += 1;
        if entry.tries < MAX_TRIES {
            self.waiting.push_back(entry);
        } else {
            self.note(entry.request.to_string(), now, format!("given up after {MAX_TRIES} tries"));
            self.leave_alone(entry.request, now + GIVEN_UP_FOR, now);
        }
    }

    fn leave_alone(&mut self, request: Request, until: Instant, now: Instant) {
        if self.absent.len() >= MAX_ABSENT {
            self.absent.retain(|_, until| *until > now);
        }
        if self.absent.len() >= MAX_ABSENT {
            // Full of strangers' inventions: the strikes of their sources hold them off; forget the one that ends first.
            let soonest = self.absent.iter().min_by_key(|(_, until)| **until).map(|(request, _)| request.clone());
            soonest.map(|request| self.absent.remove(&request));
        }
        self.absent.insert(request, until);
    }

    fn strike(&mut self, source: u64, now: Instant) {
        if self.strikes.len() >= MAX_SOURCES {
            self.strikes.retain(|_, (_, since)| now < *since + STRIKE_SPAN);
        }
        if self.strikes.len() >= MAX_SOURCES && !self.strikes.contains_key(&source) {
            return;
        }
        let (count, since) = self.strikes.entry(source).or_insert((0, now));
        if now >= *since + STRIKE_SPAN {
            (*count, *since) = (0, now);
        }
        *count += 1;
    }

    fn note(&mut self, what: String, at: Instant, why: String) {
        if self.errors.len() == MAX_ERRORS {
            self.errors.pop_front();
        }
        self.errors.push_back(Failed { what, at, why });
    }

    /// What waits, first the one under way.
    pub fn waiting(&self) -> impl Iterator<Item = &Request> {
        self.active.iter().chain(&self.waiting).map(|entry| &entry.request)
    }

    /// Keys that are not asked for again for the time being.
    #[must_use]
    pub fn absent(&self, now: Instant) -> usize {
        self.absent.values().filter(|until| **until > now).count()
    }

    /// How long the server is left alone.
    #[must_use]
    pub fn paused(&self, now: Instant) -> Option<Duration> {
        self.paused_until.filter(|until| *until > now).map(|until| until - now)
    }

    /// The newest failures, newest first.
    pub fn errors(&self) -> impl Iterator<Item = &Failed> {
        self.errors.iter().rev()
    }
}

/// Three quarters of a pause to the whole of it.
fn jittered(pause: Duration, jitter: u8) -> Duration {
    pause * 3 / 4 + pause * u32::from(jitter) / 1020
}

#[cfg(test)]
mod tests {
    use coffer_evidence::{Family, TcbVersion};

    use super::super::key::ChipTcb;
    use super::*;

    const SOURCE: Asker = Asker::Guest(1);

    fn vcek(n: u32) -> Request {
        let tcb = TcbVersion { fmc: None, bootloader: 1, tee: 0, snp: 8, microcode: 1 };
        let mut hwid = [1; 64];
        hwid[..4].copy_from_slice(&n.to_be_bytes());
        Request::Vcek(ChipTcb::new(Family::Genoa, &hwid, tcb).unwrap())
    }

    /// Plays the server for `span`: how often it is asked if it always says `outcome`.
    fn asked(queue: &mut Queue, start: Instant, span: Duration, outcome: &Outcome) -> usize {
        let (mut now, mut asked) = (start, 0);
        while now < start + span {
            match queue.next(now) {
                Next::Fetch(_) => {
                    asked += 1;
                    queue.done(outcome.clone(), now, 0);
                }
                Next::Wait(wait) => now += wait,
                Next::Idle => break,
            }
        }
        asked
    }

    #[test]
    fn one_thing_is_fetched_once_however_many_ask() {
        let now = Instant::now();
        let mut queue = Queue::new(now);
        for n in 0..100 {
            assert!(matches!(queue.ask(&vcek(1), Asker::Guest(n), now), Wish::Waits(_)));
        }
        assert_eq!(queue.next(now), Next::Fetch(vcek(1)));
        assert!(matches!(queue.ask(&vcek(1), SOURCE, now), Wish::Waits(_)));
        assert_eq!(queue.next(now), Next::Idle, "one at a time");
        queue.done(Outcome::Stored, now, 0);
        assert_eq!(queue.next(now), Next::Idle);
    }

    #[test]
    fn a_server_that_says_429_is_left_alone_for_as_long_as_it_says() {
        let now = Instant::now();
        let mut queue = Queue::new(now);
        for n in 0..50 {
            queue.ask(&vcek(n), SOURCE, now);
        }
        let told = Outcome::Throttled(Some(Duration::from_secs(120)));
        assert_eq!(asked(&mut queue, now, Duration::from_secs(3600), &told), 30);
        // Nothing was lost on the way.
        assert_eq!(queue.waiting().count(), 50);
        // A time of no sense is bounded on both sides.
        for (says, hour) in [(Duration::ZERO, 3600), (Duration::from_secs(1 << 40), 1)] {
            let mut queue = Queue::new(now);
            queue.ask(&vcek(1), SOURCE, now);
            assert_eq!(asked(&mut queue, now, Duration::from_secs(3600), &Outcome::Throttled(Some(says))), hour);
        }
    }

    #[test]
    fn pauses_grow_where_the_server_says_nothing() {
        let now = Instant::now();
        let mut queue = Queue::new(now);
        for n in 0..50 {
            queue.ask(&vcek(n), SOURCE, now);
        }
        let day = Duration::from_secs(24 * 3600);
        let silent = asked(&mut queue, now, day, &Outcome::Throttled(None));
        assert!((25..50).contains(&silent), "{silent} requests in a day of 429");

        let mut queue = Queue::new(now);
        for n in 0..50 {
            queue.ask(&vcek(n), SOURCE, now);
        }
        let hour = asked(&mut queue, now, Duration::from_secs(3600), &Outcome::Unwell("500".into()));
        assert!((10..30).contains(&hour), "{hour} requests in an hour of 500");
    }

    #[test]
    fn garbage_is_given_up_and_then_left_alone_for_a_while() {
        let now = Instant::now();
        let mut queue = Queue::new(now);
        queue.ask(&vcek(1), SOURCE, now);
        let tries = asked(&mut queue, now, Duration::from_secs(3600), &Outcome::Garbage("no certificate".into()));
        assert_eq!(tries, MAX_TRIES as usize);
        assert_eq!(queue.waiting().count(), 0);
        let later = now + Duration::from_secs(3600);
        assert!(matches!(queue.ask(&vcek(1), SOURCE, later), Wish::Waits(_)));
        assert!(queue.errors().next().unwrap().why.contains("given up"));
    }

    #[test]
    fn what_the_server_does_not_have_is_not_asked_for_again_but_by_an_admin() {
        let now = Instant::now();
        let mut queue = Queue::new(now);
        queue.ask(&vcek(1), SOURCE, now);
        assert_eq!(queue.next(now), Next::Fetch(vcek(1)));
        queue.done(Outcome::Absent, now, 0);
        assert_eq!(queue.ask(&vcek(1), Asker::Guest(2), now + Duration::from_secs(3600)), Wish::Absent);
        assert_eq!(queue.absent(now), 1);
        assert!(matches!(queue.ask(&vcek(1), Asker::Service, now), Wish::Waits(_)));
        assert_eq!(queue.next(now), Next::Fetch(vcek(1)));
        queue.done(Outcome::Absent, now, 0);
        assert!(matches!(queue.ask(&vcek(1), SOURCE, now + ABSENT_FOR), Wish::Waits(_)));
    }

    #[test]
    fn a_source_that_invents_chips_is_held_off_and_others_are_not() {
        let now = Instant::now();
        let mut queue = Queue::new(now);
        let mut caused = 0;
        for n in 0..1000 {
            if matches!(queue.ask(&vcek(n), SOURCE, now), Wish::Waits(_)) {
                caused += asked(&mut queue, now, Duration::from_secs(1), &Outcome::Absent);
            }
        }
        assert_eq!(caused, MAX_STRIKES as usize);
        assert!(matches!(queue.ask(&vcek(5000), Asker::Guest(2), now), Wish::Waits(_)));
        assert!(matches!(queue.ask(&vcek(5001), SOURCE, now + STRIKE_SPAN), Wish::Waits(_)));
    }

    #[test]
    fn neither_a_source_nor_all_together_fill_more_than_their_share() {
        let now = Instant::now();
        let mut queue = Queue::new(now);
        let mine = (0..1000).filter(|n| matches!(queue.ask(&vcek(*n), SOURCE, now), Wish::Waits(_))).count();
        assert_eq!(mine, MAX_WAITING_PER_SOURCE);
        for source in 2..100 {
            for n in 0..10 {
                queue.ask(&vcek(source * 1000 + n), Asker::Guest(source.into()), now);
            }
        }
        assert_eq!(queue.waiting().count(), GUEST_BURST as usize);
        // The service's own come first, and find room.
        assert!(matches!(queue.ask(&Request::Crl(Family::Genoa), Asker::Service, now), Wish::Waits(_)));
        assert_eq!(queue.next(now), Next::Fetch(Request::Crl(Family::Genoa)));
    }

    #[test]
    fn guests_cause_a_bounded_number_of_fetches_per_hour() {
        let start = Instant::now();
        let mut queue = Queue::new(start);
        let mut fetched = 0;
        for second in 0..3600_u32 {
            let now = start + Duration::from_secs(second.into());
            for n in 0..3 {
                let n = second * 3 + n;
                queue.ask(&vcek(n), Asker::Guest(n.into()), now);
            }
            while let Next::Fetch(_) = queue.next(now) {
                fetched += 1;
                queue.done(Outcome::Absent, now, 0);
            }
        }
        assert!(fetched <= GUEST_BURST as usize + 600, "{fetched}");
        assert!(queue.absent.len() <= MAX_ABSENT && queue.strikes.len() <= MAX_SOURCES);
    }

    #[test]
    fn memory_is_bounded_whatever_is_invented() {
        let now = Instant::now();
        let mut queue = Queue::new(now);
        for n in 0..10_000 {
            queue.leave_alone(vcek(n), now + ABSENT_FOR, now);
            queue.strike(n.into(), now);
            queue.note(String::new(), now, String::new());
        }
        assert_eq!((queue.absent.len(), queue.strikes.len(), queue.errors.len()), (MAX_ABSENT, MAX_SOURCES, MAX_ERRORS));
    }

    #[test]
    fn pauses_are_between_three_quarters_and_whole() {
        for jitter in 0..=255 {
            let pause = jittered(LAST_PAUSE, jitter);
            assert!(pause >= LAST_PAUSE * 3 / 4 && pause <= LAST_PAUSE, "{pause:?}");
        }
    }
}
