//! The lease: got with the newest token, kept by showing each newer one, over as soon as the gate says so, falls silent or is gone.
//!
//! One connection carries it. While it stands and the gate's last answer has not run out, the port takes connections; otherwise it does
//! not. So a gate that is restarted, unreachable, slow or hostile costs the workload its connections for as long, and nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use coffer_token::lease::{Answer, Open, Renewal, to_frame};
use rustix::event::{PollFd, PollFlags};
use rustix::rand::{GetRandomFlags, getrandom};

use super::contact::{Contact, NotAdmitted, Refusal};
use super::door::{Door, Term};
use super::event::{Event, wait};
use super::session::{Patience, Session, SessionError};
use crate::console;
use crate::standing::{Lease, Standing, Token};

/// How long the gate may take for an answer; on a new connection for connecting and shaking hands too.
const ANSWER_PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
/// Pauses between attempts double from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// A lease that lasted so long was one; after a shorter one the next pause is longer, so that who is leased and cut in turns does not
/// keep gate and console busy.
const STEADY: Duration = Duration::from_secs(10);
/// What a gate's `retry_after_seconds` is taken for, whatever it says.
const SHORTEST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// The gate's reasons (`attest/README.md`) after which the service has to speak: a newer token may be all it takes, or the service has
/// taken this one back, and says why when it is asked for the next. All others are the gate's own, and no token changes them.
const ASK_THE_SERVICE: &[&str] = &["token_key", "token_expired", "token_old", "lease_over", "withdrawn"];

/// Keeps the site leased.
pub struct Client {
    contact: Arc<Contact>,
    door: Arc<Door>,
    /// Raised at every change of the standing.
    changed: Arc<Event>,
    /// What the console has last, so that an outage is one line and not one an attempt.
    said: String,
}

/// Why there is no lease, or no longer.
struct Ended {
    cause: NotAdmitted,
    /// For how long there was one.
    leased: Option<Duration>,
    /// The token that was shown last.
    shown: Option<Arc<Token>>,
}

impl Client {
    /// A client that has not begun.
    pub fn new(contact: Arc<Contact>, door: Arc<Door>, changed: Arc<Event>) -> Self {
        Self { contact, door, changed, said: String::new() }
    }

    /// Gets a lease, keeps it, gets the next, for ever.
    pub fn run(mut self) -> ! {
        let mut pause = FIRST_PAUSE;
        loop {
            self.await_token();
            let ended = self.hold();
            self.door.close();
            if ended.leased.is_some_and(|leased| leased >= STEADY) {
                pause = FIRST_PAUSE;
            }
            let next = match &ended.cause {
                NotAdmitted::Refused(refusal) => {
                    longer(Duration::from_secs(refusal.retry_after_seconds).clamp(SHORTEST_RETRY, LONGEST_RETRY))
                }
                _ => shorter(pause),
            };
            pause = (pause * 2).min(LAST_PAUSE);
            self.report(&ended, next);
            self.rest(next, ended.shown);
        }
    }

    /// Waits until there is a token to show.
    fn await_token(&self) {
        while self.standing().now().token.is_none() {
            self.await_change(None);
        }
    }

    /// One lease, from the first connection to its end.
    fn hold(&mut self) -> Ended {
        let mut cause = NotAdmitted::Unreached(SessionError::NoAddress);
        let addresses = match self.contact.addresses() {
            Ok(addresses) => addresses,
            Err(error) => return Ended { cause: error.into(), leased: None, shown: None },
        };
        for address in addresses {
            let patience = Patience { deadline: Instant::now() + ANSWER_PATIENCE, cut: None };
            match self.contact.open(address, Open::Lease, patience) {
                Ok((session, token, lease)) => {
                    let (mut shown, since) = (token, Instant::now());
                    let cause = match self.keep(session, address, &mut shown, lease) {
                        Ok(never) => match never {},
                        Err(cause) => cause,
                    };
                    return Ended { cause, leased: Some(since.elapsed()), shown: Some(shown) };
                }
                // The next address may be another gate's, or another way to this one; an answer is an answer.
                Err(NotAdmitted::Unreached(error)) => cause = error.into(),
                Err(other) => return Ended { cause: other, leased: None, shown: self.standing().now().token },
            }
        }
        Ended { cause, leased: None, shown: None }
    }

    /// Keeps the lease until it ends.
    fn keep(
        &mut self,
        mut session: Session,
        gate: std::net::SocketAddr,
        shown: &mut Arc<Token>,
        lease: Duration,
    ) -> Result<std::convert::Infallible, NotAdmitted> {
        self.door.open(Arc::new(Term { gate, over: Event::new()? }))?;
        let mut until = Instant::now() + lease;
        self.standing().leased(Lease::Until(until));
        self.said.clear();
        console::repeated(&format!("lease until={}", unix_now() + lease.as_secs()));
        // When the answer to a renewal, or the rest of an answer, has to be there.
        let mut due: Option<Instant> = None;
        let mut renewing = false;
        loop {
            while let Some(answer) = session.arrived()? {
                if !renewing && matches!(answer, Answer::Admitted { .. }) {
                    return Err(SessionError::Protocol.into());
                }
                (renewing, due) = (false, None);
                until = Instant::now() + self.contact.admission(&session, answer, shown)?;
                self.standing().leased(Lease::Until(until));
            }
            let now = Instant::now();
            if due.is_some_and(|due| now >= due) {
                return Err(SessionError::Silent.into());
            }
            if now >= until {
                return Err(NotAdmitted::Over);
            }
            if session.is_midway() && due.is_none() {
                due = Some(now + ANSWER_PATIENCE);
            }
            let newest = self.standing().now().token.ok_or(NotAdmitted::NoToken)?;
            if newest != *shown && !renewing {
                let patience = Patience { deadline: until.min(now + ANSWER_PATIENCE), cut: None };
                let renewal = to_frame(&Renewal { token: newest.text.clone() }).map_err(SessionError::from)?;
                session.send(&renewal, patience)?;
                (renewing, due) = (true, Some(now + ANSWER_PATIENCE));
                *shown = newest;
            }
            self.await_gate(&session, due.map_or(until, |due| due.min(until)))?;
        }
    }

    /// Waits for the gate, for a change of the standing, or for the deadline.
    fn await_gate(&self, session: &Session, deadline: Instant) -> std::io::Result<()> {
        let mut fds = [PollFd::new(&session.stream, PollFlags::IN), PollFd::new(&self.changed, PollFlags::IN)];
        wait(&mut fds, Some(deadline))?;
        self.changed.clear();
        Ok(())
    }

    fn await_change(&self, deadline: Option<Instant>) {
        // Fails only for want of kernel memory; then the wait is a short one.
        let _ = wait(&mut [PollFd::new(&self.changed, PollFlags::IN)], deadline);
        self.changed.clear();
    }

    /// Tells everybody.
    fn report(&mut self, ended: &Ended, next: Duration) {
        let (lease, line) = match &ended.cause {
            NotAdmitted::Refused(Refusal { code, detail, id, .. }) => {
                let lease = Lease::Refused { code: code.clone(), id: id.clone() };
                (lease, format!("cause={code} id={id} detail=\"{}\"", detail.replace('"', "'")))
            }
            other => (Lease::None(other.to_string()), format!("cause=\"{}\"", other.to_string().replace('"', "'"))),
        };
        if self.standing().now().lease != lease {
            self.standing().leased(lease);
        }
        if ended.leased.is_some() {
            console::repeated(&format!("lease lost {line}"));
        } else if self.said != line {
            console::repeated(&format!("no lease {line} next={:.1}", next.as_secs_f32()));
        }
        self.said = line;
        if matches!(&ended.cause, NotAdmitted::Refused(refusal) if ASK_THE_SERVICE.contains(&refusal.code.as_str())) {
            self.standing().ask();
        }
    }

    /// Waits before the next attempt; a token that the gate has not seen ends the wait, but not at once.
    fn rest(&self, next: Duration, shown: Option<Arc<Token>>) {
        let now = Instant::now();
        let (earliest, mut until) = (now + next.min(SHORTEST_RETRY), now + next);
        while Instant::now() < until {
            self.await_change(Some(until));
            let newest = self.standing().now().token;
            if shown.is_some() && newest.is_some() && newest != shown {
                until = until.min(earliest);
            }
        }
    }

    fn standing(&self) -> &Standing {
        &self.contact.standing
    }
}

/// Half to the whole of `pause`, so that the guests of a gate that was restarted do not come back together.
fn shorter(pause: Duration) -> Duration {
    pause / 2 + pause * u32::from(random_byte()) / 510
}

/// `pause` and up to a quarter more.
fn longer(pause: Duration) -> Duration {
    pause + pause * u32::from(random_byte()) / 1020
}

/// Without random numbers the pauses are merely the same for all.
fn random_byte() -> u8 {
    let mut byte = [0];
    let _ = getrandom(&mut byte, GetRandomFlags::empty());
    byte[0]
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
