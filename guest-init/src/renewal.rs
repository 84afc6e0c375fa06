//! Keeping the token fresh: a thread that owns the source of reports and shakes hands again when ⅔ of the token's life are over, at
//! once when the gate has refused, and after growing pauses while nobody answers. It never stops the workload itself: what a refusal
//! means is the supervisor's to decide (`quarantine.rs`).

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::attest::{Attester, NotRenewed, jittered};
use crate::console;
use crate::standing::{Standing, State, Token};

/// How long a token is relied on at most, and how often it is renewed at most, whatever is written in it.
const LONGEST_LIFE: Duration = Duration::from_secs(3600);
const SHORTEST_PERIOD: Duration = Duration::from_secs(1);
/// Pauses double from the first to the last while nobody answers. At the last, five hundred guests are some twenty rounds a second to
/// a service that comes back.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// How soon after an attempt another may follow because somebody asks. It doubles, up to the last, for who asks again and again: each
/// renewal costs the service a verification and an entry in its log.
const FIRST_ASKED_GAP: Duration = Duration::from_secs(5);
const LAST_ASKED_GAP: Duration = Duration::from_secs(60);
/// Who has not asked for so long begins anew.
const ASKED_MEMORY: Duration = Duration::from_secs(180);
/// How often a guest that was refused asks whether it still is.
pub const REFUSED_PERIOD: Duration = Duration::from_secs(60);

/// Starts the thread.
///
/// # Errors
/// If there can be none.
pub fn start(attester: Attester, standing: Arc<Standing>, first: &Token) -> io::Result<()> {
    let schedule = Schedule::new(Instant::now(), life(first));
    thread::Builder::new().name("renewal".into()).spawn(move || keep(attester, &standing, schedule)).map(drop)
}

fn keep(mut attester: Attester, standing: &Standing, mut schedule: Schedule) -> ! {
    let mut said = None;
    loop {
        await_turn(standing, &mut schedule);
        let outcome = attester.renew();
        let next = schedule.attempted(Instant::now(), &outcome, jittered);
        said = report(standing, outcome, next, said);
    }
}

/// Until it is time, or somebody's asking makes it so.
fn await_turn(standing: &Standing, schedule: &mut Schedule) {
    let mut state = standing.now();
    loop {
        let now = Instant::now();
        let due = schedule.due(state.asked, now);
        if now >= due {
            return;
        }
        state = standing.wait(state.serial, due - now);
    }
}

/// Tells everybody. `said` is the cause that was printed last while nobody answers: an outage is one line, not one a round.
fn report(standing: &Standing, outcome: Result<Token, NotRenewed>, next: Duration, said: Option<String>) -> Option<String> {
    match outcome {
        Ok(token) => {
            let line = format!("renewed token_exp={}", token.expires_at);
            // A log that is full of these has no room for what matters.
            if said.is_some() || !matches!(standing.now(), State { token: Some(_), .. }) {
                console::repeated(&line);
            } else {
                console::passing(&line);
            }
            standing.renewed(token);
            None
        }
        Err(NotRenewed::Refused { code, id }) => {
            console::line(&format!("refused code={code} id={id}"));
            standing.refused(&code, &id);
            None
        }
        Err(NotRenewed::Unreached { url, why }) => {
            if said.as_ref() != Some(&why) {
                console::repeated(&format!("waiting stage=renew url={url} cause=\"{why}\" next={:.1}", next.as_secs_f32()));
            }
            standing.unreached(&why);
            Some(why)
        }
    }
}

/// How long a token lives by its own times: the service's clock against itself, whatever this guest's clock says.
fn life(token: &Token) -> Duration {
    Duration::from_secs(token.expires_at.saturating_sub(token.issued_at)).min(LONGEST_LIFE)
}

/// When to renew next. Pure: the monotonic clock is an argument.
#[derive(Debug)]
struct Schedule {
    /// When the time has come by itself.
    due: Instant,
    attempted: Instant,
    refused: bool,
    pause: Duration,
    asked_gap: Duration,
    /// When somebody's asking was last the reason for an attempt.
    asked: Option<Instant>,
}

impl Schedule {
    fn new(now: Instant, life: Duration) -> Self {
        Self {
            due: now + period(life, jittered),
            attempted: now,
            refused: false,
            pause: FIRST_PAUSE,
            asked_gap: FIRST_ASKED_GAP,
            asked: None,
        }
    }

    /// When to try next, given whether somebody asks for it.
    fn due(&mut self, asked: bool, now: Instant) -> Instant {
        // Who was refused is refused for a reason that the gate knows no better.
        if !asked || self.refused {
            return self.due;
        }
        if self.asked.is_some_and(|asked| now.saturating_duration_since(asked) > ASKED_MEMORY) {
            self.asked_gap = FIRST_ASKED_GAP;
        }
        let due = (self.attempted + self.asked_gap).min(self.due);
        if now >= due && due < self.due {
            self.asked = Some(now);
            self.asked_gap = (self.asked_gap * 2).min(LAST_ASKED_GAP);
        }
        due
    }

    /// Notes how an attempt ended; how long until the next.
    fn attempted(&mut self, now: Instant, outcome: &Result<Token, NotRenewed>, jittered: impl Fn(Duration) -> Duration) -> Duration {
        let next = match outcome {
            Ok(token) => {
                self.pause = FIRST_PAUSE;
                self.refused = false;
                period(life(token), jittered)
            }
            Err(NotRenewed::Refused { .. }) => {
                self.pause = FIRST_PAUSE;
                self.refused = true;
                REFUSED_PERIOD
            }
            // In quarantine the minute stays a minute: the project's decision is what is waited for.
            Err(NotRenewed::Unreached { .. }) if self.refused => REFUSED_PERIOD,
            Err(NotRenewed::Unreached { .. }) => {
                let pause = jittered(self.pause);
                self.pause = (self.pause * 2).min(LAST_PAUSE);
                pause
            }
        };
        self.attempted = now;
        self.due = now + next;
        next
    }
}

/// ⅔ of a token's life; up to a tenth less, so that sites that started together do not stay together.
fn period(life: Duration, jittered: impl Fn(Duration) -> Duration) -> Duration {
    let whole = life * 2 / 3;
    (whole * 4 / 5 + jittered(whole / 5)).max(SHORTEST_PERIOD)
}

#[cfg(test)]
mod tests;
