//! The accept loop. It never waits for a peer: what a connection needs time for happens in a task of its own, within bounds.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use crate::gate::Gate;
use crate::guests::connection::{self, Arrival};

/// After an error of accept(2) itself, such as no free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections for as long as this is polled. One that is over a bound is closed at once.
pub async fn accept(gate: Arc<Gate>, listener: TcpListener) {
    loop {
        let (tcp, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = Arc::clone(&gate.slots).try_acquire_owned().ok().zip(gate.waiting.take(peer.ip(), Instant::now()));
        let Some((slot, held)) = place else {
            gate.admission.sites.turned_away.fetch_add(1, Ordering::Relaxed);
            // There is nothing to say to whom there are too many of, and no FIN that they could wait for.
            let _ = tcp.set_zero_linger();
            continue;
        };
        tokio::spawn(connection::serve(Arc::clone(&gate), Arrival { tcp, peer, slot, held }));
    }
}
