//! This boot's standing, in one place: the newest token and verdict (written by renewal), the lease (written by the gate's client).
//! The workload's socket, the tunnel and the supervisor read it; whoever waits for a change is woken.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A job token and what is read in it. The service's word over a pinned connection; the guest does not check its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Compact JWS.
    pub text: String,
    /// `iat`, Unix seconds.
    pub issued_at: u64,
    /// `exp`, Unix seconds.
    pub expires_at: u64,
}

/// What the service said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It gave the newest token.
    Affirmed,
    /// It was not reached, or not well, since; in its own words.
    Unreached(String),
    /// It said no, and nothing else since: its reason code, and the id its log has.
    Refused {
        /// Reason code.
        code: String,
        /// Id in the service's log.
        id: String,
    },
}

/// What the gate said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    /// The site config has no gate.
    NoGate,
    /// Not asked yet, not reached, or over; why, in words.
    None(String),
    /// Until then, unless a newer token is shown.
    Until(Instant),
    /// It said no.
    Refused {
        /// Its reason code.
        code: String,
        /// Id in the gate's log.
        id: String,
    },
}

/// A snapshot.
#[derive(Debug, Clone)]
pub struct State {
    /// The newest token; none before the first, and none after a refusal.
    pub token: Option<Arc<Token>>,
    /// The service's last word.
    pub verdict: Verdict,
    /// The gate's last word.
    pub lease: Lease,
    /// Counts the changes: what [`Standing::wait`] compares.
    pub serial: u64,
    /// Whether somebody has a reason to renew before the time.
    pub asked: bool,
}

/// Shared by the threads of PID 1.
#[derive(Debug)]
pub struct Standing {
    state: Mutex<State>,
    changed: Condvar,
}

impl Standing {
    /// After the first handshake.
    #[must_use]
    pub fn new(token: Token, has_gate: bool) -> Arc<Self> {
        let lease = if has_gate { Lease::None("not asked yet".to_owned()) } else { Lease::NoGate };
        let state = State { token: Some(Arc::new(token)), verdict: Verdict::Affirmed, lease, serial: 1, asked: false };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new() })
    }

    /// As it is now.
    #[must_use]
    pub fn now(&self) -> State {
        self.lock().clone()
    }

    /// A renewal gave a token.
    pub fn renewed(&self, token: Token) {
        self.change(|state| {
            state.token = Some(Arc::new(token));
            state.verdict = Verdict::Affirmed;
            state.asked = false;
        });
    }

    /// A renewal was refused: there is no token any more that anybody should show.
    pub fn refused(&self, code: &str, id: &str) {
        self.change(|state| {
            state.token = None;
            state.verdict = Verdict::Refused { code: code.to_owned(), id: id.to_owned() };
            state.asked = false;
        });
    }

    /// A renewal reached nobody. The token stays as good as it is, and a refusal stays the last word: whoever has not heard it yet does.
    pub fn unreached(&self, why: &str) {
        self.change(|state| {
            if !matches!(state.verdict, Verdict::Refused { .. }) {
                state.verdict = Verdict::Unreached(why.to_owned());
            }
            state.asked = false;
        });
    }

    /// The gate's word.
    pub fn leased(&self, lease: Lease) {
        self.change(|state| state.lease = lease);
    }

    /// Asks for a renewal before its time: the gate has refused, and only the service can say why. How often is renewal's business.
    pub fn ask(&self) {
        self.change(|state| state.asked = true);
    }

    /// Waits until something has changed since `serial`, at most for `patience`; gives what is then.
    #[must_use]
    pub fn wait(&self, serial: u64, patience: Duration) -> State {
        let guard = self.lock();
        let waited = self.changed.wait_timeout_while(guard, patience, |state| state.serial == serial);
        waited.map_or_else(|poisoned| poisoned.into_inner().0.clone(), |(state, _)| state.clone())
    }

    fn change(&self, how: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        how(&mut state);
        state.serial = state.serial.wrapping_add(1);
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(iat: u64) -> Token {
        Token { text: "a.b.c".into(), issued_at: iat, expires_at: iat + 60 }
    }

    #[test]
    fn a_refusal_takes_the_token_and_a_renewal_gives_it_back() {
        let standing = Standing::new(token(1), true);
        assert_eq!(standing.now().lease, Lease::None("not asked yet".into()));
        standing.unreached("no route");
        assert!(standing.now().token.is_some());
        assert_eq!(standing.now().verdict, Verdict::Unreached("no route".into()));
        standing.refused("site_suspended", "r-1");
        assert_eq!(standing.now().token, None);
        let refused = Verdict::Refused { code: "site_suspended".into(), id: "r-1".into() };
        standing.unreached("no route");
        assert_eq!((standing.now().token, standing.now().verdict), (None, refused), "the service has not said otherwise");
        standing.renewed(token(2));
        let now = standing.now();
        assert_eq!(now.token.map(|token| token.issued_at), Some(2));
        assert_eq!(now.verdict, Verdict::Affirmed);
    }

    #[test]
    fn who_waits_is_woken_by_a_change() {
        let standing = Standing::new(token(1), false);
        let serial = standing.now().serial;
        assert_eq!(standing.wait(serial, Duration::from_millis(10)).serial, serial);
        let other = Arc::clone(&standing);
        let waiter = std::thread::spawn(move || other.wait(serial, Duration::from_secs(20)));
        standing.ask();
        assert!(waiter.join().expect("no panic").asked);
    }
}
