//! The key service as the gate hears it: public keys, what was taken back, what time it is.
//!
//! One request for withdrawals is always open (the push), and every few seconds one asks without waiting (the poll), so that neither a
//! silent middlebox nor a lost answer keeps a withdrawal from the gate. While the service is away leases go on to their end, and
//! tokens are checked with the keys there are.

pub mod clock;
mod http;
pub mod keys;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use coffer_token::{Jwks, KeyError, StatementError, StatementKind, WithdrawalList, WithdrawalListError};
use rustls::ClientConfig;
use rustls::pki_types::{InvalidDnsNameError, ServerName};

use crate::config;
use crate::leases::Leases;
use crate::random::jittered;
use crate::service::clock::Clock;
use crate::service::keys::Keys;
use crate::state::State;
use http::{HttpError, Link};

/// How long the service may hold the open request; the most it takes.
const WAIT_SECONDS: u64 = 25;
/// How long any other answer may take.
const PATIENCE: Duration = Duration::from_secs(8);
/// Between two polls.
const POLL_EVERY: Duration = Duration::from_secs(3);
/// Between two looks at the keys: a service publishes one five minutes before it signs with it.
const KEYS_EVERY: Duration = Duration::from_secs(60);
/// The longest pause after failures: what a service that is back has to tell should not wait long.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Between two lists when the service says at once that there is more.
const BETWEEN_LISTS: Duration = Duration::from_millis(20);
/// An answer to the open request that comes so soon was not waited for.
const AT_ONCE: Duration = Duration::from_millis(500);
/// Between two attempts to have a request held open, where the service holds no more.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(1);
/// A service that was heard less than this ago is reached.
const REACHED_WITHIN: Duration = Duration::from_secs(15);
/// A difference of the clocks that is worth a line in the log, in seconds.
const NOTABLE_SECONDS: u64 = 5;

/// The service was not heard.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// It was not reached, or answered otherwise than well.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Its key set.
    #[error("key set: {0}")]
    Keys(#[from] KeyError),
    /// Its list is not signed with its keys.
    #[error("withdrawals: {0}")]
    Statement(#[from] StatementError),
    /// Its list contradicts itself.
    #[error("withdrawals: {0}")]
    List(#[from] WithdrawalListError),
    /// Another service's list.
    #[error("withdrawals are of `{got}`, expected `{expected}`; hint: `issuer` in [service]")]
    Issuer {
        /// Who it says it is.
        got: String,
        /// The configured issuer.
        expected: String,
    },
    /// There are no keys yet to check a list with.
    #[error("no token key is known yet")]
    NoKeys,
}

/// How far the list was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cursor {
    epoch: u64,
    number: u64,
}

impl Cursor {
    /// After this list; and whether there is more to ask for at once.
    fn after(self, list: &WithdrawalList) -> (Self, bool) {
        let (epoch, partial) = (list.epoch, list.is_partial());
        let end = if partial { list.entries.last().map_or(list.after, |last| last.number) } else { list.number };
        if epoch != self.epoch && list.after != 0 {
            // Its numbers mean something else than ours: from the beginning.
            return (Self { epoch, number: 0 }, true);
        }
        let number = match (epoch == self.epoch, list.after <= self.number) {
            (false, _) => end,
            (true, true) => end.max(self.number),
            (true, false) => self.number,
        };
        (Self { epoch, number }, partial)
    }
}

/// What `status` says of the service.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// When it was last heard.
    pub heard: Option<Instant>,
    /// Where.
    pub url: Option<String>,
    /// What the last attempt failed with, if it did.
    pub error: Option<String>,
    /// The epoch of its list.
    pub epoch: u64,
    /// The newest number read of it.
    pub number: u64,
}

impl Health {
    /// Whether it was heard lately.
    #[must_use]
    pub fn reached(&self, now: Instant) -> bool {
        self.heard.is_some_and(|heard| now.saturating_duration_since(heard) < REACHED_WITHIN)
    }
}

/// Whom what is heard concerns.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Token keys.
    pub keys: Arc<Keys>,
    /// What was taken back.
    pub leases: Arc<Leases>,
    /// The time.
    pub clock: Arc<Clock>,
    /// What is kept of it.
    pub state: Arc<State>,
}

/// Listens to the service.
#[derive(Debug)]
pub struct Feed {
    config: config::Service,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    keys: Arc<Keys>,
    leases: Arc<Leases>,
    clock: Arc<Clock>,
    state: Arc<State>,
    cursor: Mutex<Cursor>,
    health: Mutex<Health>,
    lists: AtomicU64,
}

impl Feed {
    /// Has not listened yet.
    ///
    /// # Errors
    /// If the name that its certificate must carry is none.
    pub fn new(config: config::Service, tls: Arc<ClientConfig>, heard: Heard) -> Result<Self, InvalidDnsNameError> {
        let name = ServerName::try_from(config.tls_name.clone())?;
        let Heard { keys, leases, clock, state } = heard;
        let (cursor, health) = (Mutex::default(), Mutex::default());
        Ok(Self { config, name, tls, keys, leases, clock, state, cursor, health, lists: AtomicU64::new(0) })
    }

    /// Fetches keys and everything that was taken back, once, as far as that is to be had within `patience`: nobody is admitted on
    /// what was true before a restart where the truth is at hand.
    pub async fn first_contact(&self, patience: Duration) {
        let contact = async {
            let mut link = self.link();
            self.fetch_keys(&mut link).await?;
            while self.fetch_list(&mut link, None).await? {}
            Ok::<(), FeedError>(())
        };
        match tokio::time::timeout(patience, contact).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.failed(&error),
            Err(_) => tracing::warn!("the key service did not answer within {} s; starting without it", patience.as_secs()),
        }
    }

    /// Keeps one request for withdrawals open, as long as the gate runs.
    pub async fn listen(self: Arc<Self>) {
        let mut link = self.link();
        let mut failures = 0;
        loop {
            let (begun, before) = (Instant::now(), self.cursor());
            match self.fetch_list(&mut link, Some(WAIT_SECONDS)).await {
                Ok(true) => tokio::time::sleep(BETWEEN_LISTS).await,
                Ok(false) => {
                    failures = 0;
                    // No news, and at once: at the service as many wait as may. Until there is a place this is a poll.
                    if self.cursor() == before && begun.elapsed() < AT_ONCE {
                        tokio::time::sleep(jittered(BETWEEN_ATTEMPTS)).await;
                    }
                }
                Err(error) => {
                    failures += 1;
                    self.failed(&error);
                    link.next();
                    tokio::time::sleep(pause(failures)).await;
                }
            }
        }
    }

    /// Asks every few seconds, and for keys every minute or when a token names one that is not known.
    pub async fn poll(self: Arc<Self>) {
        let mut link = self.link();
        let mut keys_at: Option<Instant> = None;
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(jittered(POLL_EVERY)) => false,
                () = self.keys.wanted() => true,
            };
            let due = asked || self.keys.load().is_none() || keys_at.is_none_or(|at| at.elapsed() >= KEYS_EVERY);
            let polled = async {
                if due {
                    keys_at = Some(Instant::now());
                    self.fetch_keys(&mut link).await?;
                }
                while self.fetch_list(&mut link, None).await? {}
                Ok::<(), FeedError>(())
            };
            if let Err(error) = polled.await {
                self.failed(&error);
                link.next();
            }
        }
    }

    /// How the service is reached.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many lists were read.
    #[must_use]
    pub fn lists(&self) -> u64 {
        self.lists.load(Ordering::Relaxed)
    }

    fn cursor(&self) -> Cursor {
        *self.cursor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> Link {
        Link::new(self.config.urls.clone(), self.name.clone(), Arc::clone(&self.tls))
    }

    async fn fetch_keys(&self, link: &mut Link) -> Result<(), FeedError> {
        let fetched = link.get("/.well-known/jwks.json", PATIENCE).await;
        let stored = fetched.map_err(FeedError::from).and_then(|body| Ok(self.keys.store(Jwks::parse(&body)?)));
        self.keys.fetch_ended();
        if stored? {
            tracing::info!("the service's token keys are new");
            self.state.touch();
        }
        Ok(())
    }

    /// Whether there is more to fetch at once.
    async fn fetch_list(&self, link: &mut Link, wait: Option<u64>) -> Result<bool, FeedError> {
        let after = self.cursor().number;
        let (path, patience) = match wait {
            Some(wait) => (format!("/coffer/v1/withdrawals?after={after}&wait={wait}"), PATIENCE + Duration::from_secs(wait)),
            None => (format!("/coffer/v1/withdrawals?after={after}"), PATIENCE),
        };
        let body = link.get(&path, patience).await?;
        let more = self.hear(&String::from_utf8_lossy(&body))?;
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if health.heard.is_none() || health.error.is_some() {
            tracing::info!(url = link.url(), "the key service is reached");
        }
        health.heard = Some(Instant::now());
        health.url = Some(link.url().to_owned());
        health.error = None;
        Ok(more)
    }

    /// Takes in a list; whether more is to be asked for at once.
    fn hear(&self, text: &str) -> Result<bool, FeedError> {
        let keys = self.keys.load().ok_or(FeedError::NoKeys)?;
        let list: WithdrawalList = keys.check_statement(text, StatementKind::Withdrawals)?;
        list.check_form()?;
        if list.iss != self.config.issuer {
            return Err(FeedError::Issuer { got: list.iss, expected: self.config.issuer.clone() });
        }
        self.hear_time(list.iat);
        if self.leases.withdraw(&list.entries, self.clock.now()) {
            self.state.touch();
        }
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, more) = cursor.after(&list);
        if cursor.epoch != next.epoch {
            tracing::info!(epoch = next.epoch, "the service's list of withdrawals begins anew");
        }
        *cursor = next;
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        (health.epoch, health.number) = (next.epoch, next.number);
        self.lists.fetch_add(1, Ordering::Relaxed);
        Ok(more)
    }

    fn hear_time(&self, iat: u64) {
        let before = self.clock.now().unix.0;
        let first = self.clock.ahead_seconds().is_none();
        self.clock.hear(iat, Instant::now());
        if before.abs_diff(iat) >= NOTABLE_SECONDS {
            let what =
                if first { "this machine's clock differs from the service's, which counts" } else { "the service's clock has jumped" };
            tracing::warn!(was = before, service = iat, "{what}");
        }
    }

    fn failed(&self, error: &FeedError) {
        let text = crate::failure::chain(error);
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if health.error.as_deref() != Some(&text) {
            tracing::warn!(error = text, "the key service is not heard; leases go on to their end");
        }
        health.error = Some(text);
        drop(health);
        if matches!(error, FeedError::NoKeys | FeedError::Statement(StatementError::UnknownKey { .. })) {
            self.keys.want();
        }
    }
}

/// Doubles from a quarter of a second.
fn pause(failures: u32) -> Duration {
    let doubled = Duration::from_millis(250).saturating_mul(1 << failures.min(10));
    jittered(doubled.min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use coffer_token::{Hex, Version1, Withdrawal, Withdrawn};

    use super::*;

    fn list(epoch: u64, after: u64, numbers: &[u64], number: u64) -> WithdrawalList {
        let entry =
            |number| Withdrawal { number, at: 5, code: "site_suspended".into(), withdrawn: Withdrawn::Site { host_data: Hex([1; 32]) } };
        let entries = numbers.iter().copied().map(entry).collect();
        WithdrawalList { v: Version1, iss: "a".into(), epoch, iat: 9, number, after, entries }
    }

    #[test]
    fn the_list_is_read_to_its_end_and_anew_in_another_epoch() {
        let at = |epoch, number| Cursor { epoch, number };
        for (cursor, list, expected, what) in [
            (at(0, 0), list(4, 0, &[], 0), (at(4, 0), false), "an empty list"),
            (at(0, 0), list(4, 0, &[2, 3], 3), (at(4, 3), false), "all there is"),
            (at(4, 3), list(4, 3, &[5], 9), (at(4, 5), true), "a stretch"),
            (at(4, 5), list(4, 3, &[4], 4), (at(4, 5), false), "an answer that came late"),
            (at(4, 5), list(4, 7, &[8], 8), (at(4, 5), false), "one that leaves a gap"),
            (at(4, 5), list(5, 5, &[], 2), (at(5, 0), true), "another epoch"),
            (at(4, 5), list(5, 0, &[1, 2], 2), (at(5, 2), false), "another epoch, from its beginning"),
        ] {
            assert_eq!(cursor.after(&list), expected, "{what}");
        }
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        assert!(pause(1) < Duration::from_secs(1));
        assert!(pause(1000) <= LONGEST_PAUSE.mul_f64(1.5) && pause(1000) >= LONGEST_PAUSE / 2);
    }
}
