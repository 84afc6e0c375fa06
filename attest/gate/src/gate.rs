//! What every connection of a gate shares.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::admission::Admission;
use crate::config::Config;
use crate::guests::attested::Attested;
use crate::guests::source::Waiting;
use crate::service::Feed;
use crate::state::State;

/// A running gate.
pub struct Gate {
    /// Settings.
    pub config: Config,
    /// Who is let in.
    pub admission: Admission,
    /// The key service.
    pub feed: Arc<Feed>,
    /// What survives a restart.
    pub state: Arc<State>,
    /// TLS towards guests.
    pub acceptor: TlsAcceptor,
    /// The gate's own token, where it runs in a confidential VM.
    pub attested: Option<Arc<Attested>>,
    /// Open connections.
    pub slots: Arc<Semaphore>,
    /// Those that have not shown a good token yet.
    pub waiting: Waiting,
    /// When it started.
    pub since: std::time::Instant,
}

impl Gate {
    /// After how long without a byte a tunnel is closed.
    #[must_use]
    pub const fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.config.limits.idle_timeout)
    }
}
