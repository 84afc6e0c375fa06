//! The schedule on a clock of the tests' own.

use proptest::prelude::*;

use super::*;

fn token(life_seconds: u64) -> Token {
    Token { text: "a.b.c".into(), issued_at: 1000, expires_at: 1000 + life_seconds }
}

fn refused() -> Result<Token, NotRenewed> {
    Err(NotRenewed::Refused { code: "revoked".into(), id: "r-1".into() })
}

fn unreached() -> Result<Token, NotRenewed> {
    Err(NotRenewed::Unreached { url: "https://a:1".into(), why: "no route".into() })
}

fn whole(pause: Duration) -> Duration {
    pause
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_token_is_renewed_when_two_thirds_of_its_life_are_over() {
    let periods: Vec<Duration> = (0..100).map(|_| period(seconds(60), jittered)).collect();
    for period in &periods {
        assert!(*period >= seconds(36) && *period <= seconds(40), "{period:?}");
    }
    // Guests that started together do not come together for ever.
    assert!(periods.iter().any(|period| *period != periods[0]), "all of them are {:?}", periods[0]);
    let now = Instant::now();
    let first = || Schedule::new(now, seconds(60)).due(false, now);
    assert!((0..100).any(|_| first() != first()), "all guests come after {:?}", first() - now);
    let mut schedule = Schedule::new(now, seconds(60));
    assert_eq!(schedule.attempted(now, &Ok(token(300)), whole), seconds(200));
    assert_eq!(schedule.due(false, now), now + seconds(200));
}

/// However the host moves the guest's clock: what counts is the difference of two times of the service, and the monotonic clock.
#[test]
fn only_the_tokens_own_times_and_the_monotonic_clock_count() {
    let now = Instant::now();
    let far = |issued_at| Ok(Token { text: String::new(), issued_at, expires_at: issued_at + 90 });
    for issued_at in [0, 1_700_000_000, 1_700_003_600, u64::MAX - 90] {
        let mut schedule = Schedule::new(now, seconds(90));
        assert_eq!(schedule.attempted(now, &far(issued_at), whole), seconds(60), "{issued_at}");
    }
}

#[test]
fn absurd_lives_are_bounded() {
    assert_eq!(life(&Token { text: String::new(), issued_at: 9, expires_at: 5 }), Duration::ZERO);
    assert_eq!(period(Duration::ZERO, whole), SHORTEST_PERIOD);
    assert_eq!(life(&Token { text: String::new(), issued_at: 0, expires_at: u64::MAX }), LONGEST_LIFE);
}

#[test]
fn pauses_grow_while_nobody_answers_and_begin_anew_after_an_answer() {
    let now = Instant::now();
    let mut schedule = Schedule::new(now, seconds(60));
    let pauses: Vec<_> = (0..7).map(|_| schedule.attempted(now, &unreached(), whole).as_secs()).collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    schedule.attempted(now, &Ok(token(60)), whole);
    assert_eq!(schedule.attempted(now, &unreached(), whole), seconds(1));
}

#[test]
fn a_refused_guest_asks_once_a_minute_whoever_answers_and_whoever_asks() {
    let now = Instant::now();
    let mut schedule = Schedule::new(now, seconds(60));
    for outcome in [refused(), unreached(), refused(), unreached(), unreached()] {
        assert_eq!(schedule.attempted(now, &outcome, whole), REFUSED_PERIOD);
        assert_eq!(schedule.due(true, now), now + REFUSED_PERIOD);
    }
    assert_eq!(schedule.attempted(now, &Ok(token(60)), whole), seconds(40));
    assert_eq!(schedule.attempted(now, &unreached(), whole), FIRST_PAUSE);
}

#[test]
fn who_asks_is_heard_at_once_and_less_and_less_often() {
    let start = Instant::now();
    let mut schedule = Schedule::new(start, seconds(600));
    schedule.attempted(start, &Ok(token(600)), whole);
    // A second after an attempt: four more to wait.
    assert_eq!(schedule.due(true, start + seconds(1)), start + seconds(5));
    let mut now = start + seconds(100);
    assert!(schedule.due(true, now) <= now, "at once");
    for gap in [10, 20, 40, 60, 60] {
        schedule.attempted(now, &Ok(token(600)), whole);
        assert_eq!(schedule.due(true, now), now + seconds(gap));
        now += seconds(gap);
        assert!(schedule.due(true, now) <= now);
    }
    schedule.attempted(now, &Ok(token(600)), whole);
    now += ASKED_MEMORY + seconds(1);
    schedule.attempted(now, &Ok(token(600)), whole);
    assert_eq!(schedule.due(true, now), now + FIRST_ASKED_GAP, "long ago is forgotten");
}

#[test]
fn asking_never_makes_it_later() {
    let now = Instant::now();
    let mut schedule = Schedule::new(now, seconds(3));
    schedule.attempted(now, &Ok(token(3)), whole);
    assert_eq!(schedule.due(true, now), now + seconds(2));
}

#[test]
fn an_outcome_is_in_the_standing() {
    use crate::standing::Verdict;
    let standing = Standing::new(token(60), true);
    let said = report(&standing, unreached(), seconds(1), None);
    assert_eq!((said.as_deref(), standing.now().verdict), (Some("no route"), Verdict::Unreached("no route".into())));
    assert!(standing.now().token.is_some(), "the token is as good as it was");
    assert_eq!(report(&standing, refused(), seconds(60), said), None);
    assert_eq!(standing.now().token, None);
    report(&standing, Ok(token(90)), seconds(60), None);
    assert_eq!(standing.now().token.map(|token| token.expires_at), Some(1090));
}

proptest! {
    /// Whatever the service answers and whoever asks: attempts are neither a flood nor ever given up.
    #[test]
    fn attempts_are_never_closer_nor_further_apart_than_their_bounds(rounds in proptest::collection::vec((0u8..3, any::<bool>(), 1u64..4000), 1..60)) {
        let mut now = Instant::now();
        let mut schedule = Schedule::new(now, seconds(60));
        for (outcome, asked, life) in rounds {
            let by_itself = schedule.due;
            let at = schedule.due(asked, now).max(now);
            prop_assert!(schedule.due(asked, at) <= at, "its time has come");
            let gap = at - now;
            prop_assert!(gap >= SHORTEST_PERIOD.min(FIRST_PAUSE / 2) && gap <= LONGEST_LIFE);
            prop_assert!(at == by_itself || (asked && gap >= FIRST_ASKED_GAP && at < by_itself), "{gap:?}");
            now = at;
            let outcome = match outcome {
                0 => Ok(token(life)),
                1 => refused(),
                _ => unreached(),
            };
            schedule.attempted(now, &outcome, jittered);
        }
    }
}
