//! What survives a restart: the service's public keys, its time, what it took back lately, what the operator
//! cut, which instances there were.
//!
//! One JSON file in the gate's folder, written beside and renamed. Without it a gate that restarts while its service is away would
//! admit nobody, or, worse, somebody who was suspended.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coffer_token::Jwks;
use coffer_token::Version1;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{Mutex, Notify};

use crate::layout::{LayoutError, read_private_up_to, replace};
use crate::leases::{Change, Leases, Past};
use crate::service::clock::Clock;
use crate::service::keys::Keys;

/// Five hundred sites with all the boots that are remembered of each take 9 MB, a hundred thousand withdrawals 30.
const MAX_STATE_BYTES: u64 = 256 << 20;
/// Between two times it is written, however much happens.
const BETWEEN_WRITES: Duration = Duration::from_millis(100);
/// And at the latest, where nothing happens: the service's time goes on.
const AT_LEAST_EVERY: Duration = Duration::from_secs(60);

/// The state does not load or is not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The file.
    #[error(transparent)]
    File(#[from] LayoutError),
    /// Not of this build's shape.
    #[error(
        "{path} does not parse: {source}\nhint: it holds what was cut and taken back lately; move it away, and such sites stay out only \
         once the service is reached"
    )]
    Parse {
        /// The file.
        path: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The key set in it.
    #[error("{path}: {source}")]
    Keys {
        /// The file.
        path: String,
        /// What is wrong.
        source: coffer_token::KeyError,
    },
    /// It cannot be written as JSON.
    #[error("cannot encode the state: {0}")]
    Encode(#[from] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    v: Version1,
    /// The service's authority, PEM: keys fetched under another one are nobody's.
    pinned: String,
    jwks: Option<Box<RawValue>>,
    /// The service's time when this was written, Unix seconds; 0 where it was never heard.
    #[serde(default)]
    service_time: u64,
    past: Past,
}

/// What was kept over a restart.
#[derive(Debug, Default)]
pub struct Kept {
    /// The service's token keys; only those that came under the same authority.
    pub jwks: Option<Jwks>,
    /// The service's time, Unix seconds; 0 where it was never heard.
    pub service_time: u64,
    /// What leases remember.
    pub past: Past,
}

/// Where the state is kept.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    pinned: String,
    writing: Mutex<()>,
    dirty: Notify,
}

impl State {
    /// What was kept, if anything; keys and time only where they came under the same authority.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn open(path: PathBuf, pinned: String) -> Result<(Self, Kept), StateError> {
        let kept = if path.exists() { read(&path, &pinned)? } else { Kept::default() };
        Ok((Self { path, pinned, writing: Mutex::new(()), dirty: Notify::new() }, kept))
    }

    /// Writes it now; on the disk when this returns.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn save(self: &Arc<Self>, leases: &Leases, keys: &Keys, clock: &Clock) -> Result<(), StateError> {
        let _one_at_a_time = self.writing.lock().await;
        let bytes = self.encode(leases.past(), keys, clock.kept())?;
        let this = Arc::clone(self);
        match tokio::task::spawn_blocking(move || replace(&this.path, 0o600, &bytes)).await {
            Ok(written) => Ok(written?),
            // The runtime is ending: whoever changes something then is not answered either.
            Err(_) => Ok(()),
        }
    }

    /// Something has changed that may be written a little later.
    pub fn touch(&self) {
        self.dirty.notify_one();
    }

    /// Writes whatever was touched, and which boots were admitted, as long as the gate runs.
    pub async fn keep(self: Arc<Self>, leases: Arc<Leases>, keys: Arc<Keys>, clock: Arc<Clock>) {
        let mut changes = leases.changes();
        loop {
            tokio::select! {
                () = self.dirty.notified() => {}
                () = tokio::time::sleep(AT_LEAST_EVERY) => {}
                change = changes.recv() => if matches!(change, Ok(Change::Ended { .. })) { continue },
            }
            tokio::time::sleep(BETWEEN_WRITES).await;
            // What they say is written now, also where this lagged behind them.
            changes = changes.resubscribe();
            if let Err(error) = self.save(&leases, &keys, &clock).await {
                tracing::error!(%error, "what must survive a restart is not kept");
            }
        }
    }

    fn encode(&self, past: Past, keys: &Keys, service_time: u64) -> Result<Vec<u8>, StateError> {
        let jwks = match keys.load() {
            Some(set) => {
                let bytes = set.to_bytes().map_err(|source| StateError::Keys { path: self.path.display().to_string(), source })?;
                Some(serde_json::from_slice(&bytes)?)
            }
            None => None,
        };
        Ok(serde_json::to_vec(&Document { v: Version1, pinned: self.pinned.clone(), jwks, service_time, past })?)
    }
}

fn read(path: &std::path::Path, pinned: &str) -> Result<Kept, StateError> {
    let shown = || path.display().to_string();
    let bytes = read_private_up_to(path, MAX_STATE_BYTES)?;
    let document: Document = serde_json::from_slice(&bytes).map_err(|source| StateError::Parse { path: shown(), source })?;
    let same = document.pinned == pinned;
    let jwks = document.jwks.filter(|_| same).map(|raw| Jwks::parse(raw.get().as_bytes())).transpose();
    let jwks = jwks.map_err(|source| StateError::Keys { path: shown(), source })?;
    Ok(Kept { jwks, service_time: if same { document.service_time } else { 0 }, past: document.past })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use coffer_token::{Hex, Signer, UnixTime, Withdrawal, Withdrawn};

    use super::*;
    use crate::leases::Instances;
    use crate::service::clock::Now;

    fn state_text(past: &Past) -> String {
        serde_json::to_string(&Document { v: Version1, pinned: "service A".into(), jwks: None, service_time: 0, past: past.clone() })
            .unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_and_keys_of_another_service_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let (state, kept) = State::open(path.clone(), "service A".into()).unwrap();
        assert_eq!((kept.jwks, kept.service_time, kept.past), (None, 0, Past::default()));
        let leases = Leases::new(Duration::from_secs(60), Instances { burst: 1, every: Duration::from_secs(1) });
        let now = Now { at: Instant::now(), unix: UnixTime(100) };
        let withdrawn = Withdrawn::Site { host_data: Hex([1; 32]) };
        leases.withdraw(&[Withdrawal { number: 3, at: 90, code: "site_revoked".into(), withdrawn }], now);
        leases.cut("site-1", 700);
        let set = Signer::from_bytes(&[1; 32]).unwrap().jwks();
        let keys = Keys::new(Some(set.clone()));
        let clock = Clock::new(0);
        clock.hear(5000, Instant::now());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(Arc::new(state).save(&leases, &keys, &clock)).unwrap();
        let (_, Kept { jwks, service_time, past }) = State::open(path.clone(), "service A".into()).unwrap();
        assert_eq!((jwks, &past), (Some(set), &leases.past()));
        assert!((5000..5060).contains(&service_time), "{service_time}");
        assert_eq!(past.cuts.get("site-1"), Some(&700));
        let (_, of_another) = State::open(path.clone(), "service B".into()).unwrap();
        assert_eq!((of_another.jwks, of_another.service_time), (None, 0));
        let all = |site: u16| (format!("site-{site}"), (0..256).map(|boot| Hex([(boot % 251) as u8; 32])).collect());
        let many = Past { instances: (0..500).map(all).collect(), ..past };
        std::fs::write(&path, state_text(&many)).unwrap();
        assert_eq!(State::open(path.clone(), "service A".into()).unwrap().1.past, many, "a gate with much to remember starts again");
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(State::open(path, "service A".into()), Err(StateError::Parse { .. })));
    }
}
