//! `GET /coffer/v1/withdrawals`: what gates must end, signed, for everybody. A gate keeps one such request open: it is answered when
//! there is something new.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::response::IntoResponse;
use coffer_token::StatementKind;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::problem::Problem;
use super::rate::{Held, SourceShare};
use super::{Service, blocking, guard};
use crate::clock::unix_now;
use crate::reason::Reason;

/// The longest wait, in seconds: the answer comes before the request's own time is up.
pub const MAX_WAIT_S: u64 = 25;
/// Requests that wait at most: each holds a connection.
pub const MOST_WAITING: usize = 256;
/// Of one source.
const MOST_WAITING_OF_SOURCE: u32 = 16;

/// `?after=N`, or `?after=N&wait=S`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    after: u64,
    wait: Duration,
}

impl Asked {
    fn parse(query: &str) -> Option<Self> {
        let number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u64>().ok())?;
        if query.is_empty() {
            return Some(Self { after: 0, wait: Duration::ZERO });
        }
        let (after, wait) = match query.strip_prefix("after=")?.split_once("&wait=") {
            Some((after, wait)) => (number(after)?, number(wait).filter(|wait| *wait <= MAX_WAIT_S)?),
            None => (number(query.strip_prefix("after=")?)?, 0),
        };
        Some(Self { after, wait: Duration::from_secs(wait) })
    }
}

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let refuse = || format!("query is `{query}`, expected `after=` and a number, then `&wait=` and 0 to {MAX_WAIT_S} seconds");
        Self::parse(query).ok_or_else(|| Problem::refuse(Reason::Malformed, &refuse()))
    }
}

/// Who waits for news, so that nobody fills the house; and the word that ends all waiting.
#[derive(Debug)]
pub struct Waiting {
    places: Semaphore,
    share: Arc<SourceShare>,
    stopping: watch::Sender<bool>,
}

/// A place to wait in.
struct Place<'a> {
    _place: SemaphorePermit<'a>,
    _held: Held,
}

impl Waiting {
    /// Nobody waits.
    pub fn new() -> Self {
        Self { places: Semaphore::new(MOST_WAITING), share: SourceShare::new(MOST_WAITING_OF_SOURCE), stopping: watch::Sender::new(false) }
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        MOST_WAITING - self.places.available_permits()
    }

    /// Ends all waiting, now and from now on.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// A place, if there is one; whoever gets none is answered at once.
    fn place(&self, source: IpAddr) -> Option<Place<'_>> {
        Some(Place { _held: self.share.take(source)?, _place: self.places.try_acquire().ok()? })
    }

    /// Waits until the newest number is another one than `after`, at most so long, and only where there is a place to wait in. A
    /// number beyond the newest is of another epoch: its reader has to hear so.
    async fn until_news(&self, mut newest: watch::Receiver<u64>, Asked { after, wait }: Asked, source: IpAddr) {
        if wait.is_zero() || *newest.borrow_and_update() != after {
            return;
        }
        let Some(_place) = self.place(source) else { return };
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            _ = newest.wait_for(|newest| *newest != after) => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl Service {
    /// Answers everybody who waits; called when the service stops.
    pub fn end_waiting(&self) {
        self.waiting.stop();
    }
}

/// What comes after a number, as a compact JWS signed at the time of the answer.
pub async fn withdrawals(State(service): State<Arc<Service>>, asked: Asked) -> Result<impl IntoResponse, Problem> {
    // Without a turn of the queue: whoever waits works on nothing.
    service.waiting.until_news(service.store.newest_withdrawal(), asked, guard::source()).await;
    let list = blocking(&service, move |service| {
        let now = unix_now();
        let list = service.store().withdrawals(service.judge.issuer(), service.epoch, asked.after, now);
        let list = list.map_err(|e| Problem::internal(&e))?;
        service.judge.sign_statement(StatementKind::Withdrawals, &list, now).map_err(|e| Problem::internal(&e))
    });
    Ok(([(CONTENT_TYPE, "application/jose"), (CACHE_CONTROL, "no-store")], list.await?))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Far less than anybody waits for nothing.
    const PATIENCE: Duration = Duration::from_secs(20);
    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn asked(after: u64, wait: u64) -> Asked {
        Asked { after, wait: Duration::from_secs(wait) }
    }

    #[test]
    fn a_query_has_one_form() {
        assert_eq!(Asked::parse(""), Some(asked(0, 0)));
        assert_eq!(Asked::parse("after=7"), Some(asked(7, 0)));
        assert_eq!(Asked::parse("after=7&wait=25"), Some(asked(7, 25)));
        for bad in
            ["after=", "after=7&wait=26", "after=7&wait=", "wait=5", "after=-1", "after=7&wait=1&wait=1", "wait=1&after=7", "after=+1"]
        {
            assert_eq!(Asked::parse(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_news_by_the_stop_or_by_the_clock() {
        let (waiting, newest) = (Arc::new(Waiting::new()), watch::Sender::new(5));
        let begun = Instant::now();
        waiting.until_news(newest.subscribe(), asked(4, 25), SOURCE).await;
        waiting.until_news(newest.subscribe(), asked(6, 25), SOURCE).await;
        waiting.until_news(newest.subscribe(), asked(5, 0), SOURCE).await;
        assert!(begun.elapsed() < PATIENCE, "there is something to say already");
        let short = Duration::from_millis(50);
        waiting.until_news(newest.subscribe(), Asked { after: 5, wait: short }, SOURCE).await;
        assert!(begun.elapsed() >= short);

        let wait = |after| {
            let (waiting, newest) = (Arc::clone(&waiting), newest.subscribe());
            tokio::spawn(async move { waiting.until_news(newest, asked(after, 25), SOURCE).await })
        };
        let woken = wait(5);
        tokio::task::yield_now().await;
        assert_eq!(waiting.count(), 1);
        newest.send_replace(6);
        woken.await.expect("woken");
        let stopped = wait(6);
        tokio::task::yield_now().await;
        waiting.stop();
        stopped.await.expect("stopped");
        wait(6).await.expect("nobody waits any more");
        assert_eq!(waiting.count(), 0);
        assert!(begun.elapsed() < PATIENCE);
    }

    #[tokio::test]
    async fn a_source_that_fills_its_places_is_answered_at_once_and_another_still_waits() {
        let (waiting, newest) = (Arc::new(Waiting::new()), watch::Sender::new(0));
        let wait = |source: IpAddr| {
            let (waiting, newest) = (Arc::clone(&waiting), newest.subscribe());
            tokio::spawn(async move { waiting.until_news(newest, asked(0, 25), source).await })
        };
        let all: Vec<_> = (0..MOST_WAITING_OF_SOURCE).map(|_| wait(SOURCE)).collect();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let begun = Instant::now();
        wait(SOURCE).await.expect("answered");
        assert!(begun.elapsed() < PATIENCE);
        let others: Vec<_> = (0..MOST_WAITING).map(|n| wait(IpAddr::from([10, 0, (n / 16) as u8, (n % 16) as u8]))).collect();
        // The runtime runs some sixty tasks at a time.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(waiting.count(), MOST_WAITING, "no more than there are places");
        assert!(all.iter().all(|waits| !waits.is_finished()), "nobody loses a place to another");
        assert_eq!(others.iter().filter(|waits| waits.is_finished()).count(), MOST_WAITING_OF_SOURCE as usize);
    }
}
