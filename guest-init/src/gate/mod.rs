//! The guest's end of the way to the gate (DESIGN, Lease): a port on loopback for the workload, a connection that keeps the lease, and
//! a tunnel for each connection of the workload, over TLS with this boot's attested key.
//!
//! Threads that end with PID 1, and that nothing of PID 1 waits for: one keeps the lease, one takes connections, one tells the first of
//! changes, and one carries each tunnel.

mod aggregator;
mod contact;
mod door;
mod event;
mod lease;
mod port;
mod session;
mod tunnel;

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use coffer_manifest::SiteConfig;
use coffer_token::lease::{NodeKey, NodeKeyError, Open};
use rustix::process::geteuid;

use self::aggregator::Aggregator;
use self::contact::{Contact, host_and_port};
use self::door::{Door, Term};
use self::event::Event;
use self::lease::Client;
use self::port::Port;
use self::session::Patience;
use crate::keys::BootKeys;
use crate::standing::Standing;
use crate::tls::{Trust, TrustError};

/// How long a tunnel may take to be admitted, from connecting on.
const TUNNEL_PATIENCE: Duration = Duration::from_secs(10);
/// Owner of the port, a user id that no workload has; see [`Port::reserve`]. Of the range that systemd and others leave to nobody.
const PORT_OWNER: u32 = 0xffff_fff0;

/// The way to the gate cannot be set up: a boot that ends before the workload starts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// The site config's gate cannot be trusted or found.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// An address is not `host:port`.
    #[error("gate.addresses has `{address}`, which is not host:port")]
    Address {
        /// The address.
        address: String,
    },
    /// No address at all.
    #[error("gate.addresses is empty")]
    NoAddress,
    /// The node key is none.
    #[error(transparent)]
    Node(#[from] NodeKeyError),
    /// Somebody has the port, or it cannot be bound.
    #[error("cannot reserve 127.0.0.1:{port} for the workload: {source}")]
    Port {
        /// gate.workload.port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// The kernel gives no thread or no descriptor.
    #[error("cannot start the gate's threads: {0}")]
    Thread(#[from] io::Error),
}

/// Reserves the workload's port and starts what keeps the lease and carries the workload's connections; does nothing where the site has
/// no gate. To be called before the workload starts, and by a thread that has not unshared its pid namespace (the kernel lets such a one
/// start no threads).
///
/// # Errors
/// See [`GateError`]. That the gate is not there, or says no, is none: see [`Standing`].
pub fn start(site: &SiteConfig, keys: &BootKeys, standing: &Arc<Standing>) -> Result<(), GateError> {
    let Some(gate) = site.gate.clone() else { return Ok(()) };
    if let Some(address) = gate.addresses.iter().find(|address| host_and_port(address).is_none()) {
        return Err(GateError::Address { address: address.clone() });
    }
    if gate.addresses.is_empty() {
        return Err(GateError::NoAddress);
    }
    let trust = Trust::of_gate(&gate, &keys.tls)?;
    let node = NodeKey::from_sec1(&keys.node.public().to_sec1())?;
    let number = gate.workload.port;
    let port = Port::reserve(number, owner(site)).map_err(|source| GateError::Port { port: number, source })?;
    let site = Arc::new(site.clone());
    let aggregator = gate.attested.then(|| Aggregator::new(site.clone())).transpose()?;
    let contact = Arc::new(Contact { site, gate, trust, node, aggregator, standing: standing.clone() });
    let (door, changed) = (Door::new(port), Arc::new(Event::new()?));

    let (client, watched) = (Client::new(contact.clone(), door.clone(), changed.clone()), standing.clone());
    spawn("gate-lease", move || client.run())?;
    spawn("gate-standing", move || watch(&watched, &changed))?;
    spawn("gate-port", move || door.serve(move |workload, term| tunnel(&contact, workload, term)))
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), GateError> {
    thread::Builder::new().name(name.to_owned()).spawn(body)?;
    Ok(())
}

/// Raises `changed` at every change of the standing.
fn watch(standing: &Standing, changed: &Event) -> ! {
    let mut serial = 0;
    loop {
        let now = standing.wait(serial, Duration::from_secs(3600)).serial;
        if now != serial {
            serial = now;
            changed.raise();
        }
    }
}

/// One connection of the workload, from its acceptance to its end.
fn tunnel(contact: &Contact, workload: TcpStream, term: &Term) {
    let patience = Patience { deadline: Instant::now() + TUNNEL_PATIENCE, cut: Some(&term.over) };
    match contact.open(term.gate, Open::Tunnel, patience) {
        Ok((session, _, _)) => tunnel::carry(workload, session, term),
        // Why is the lease's to say: where there is none any more, it will.
        Err(_) => drop(workload),
    }
}

/// A user id that neither the workload nor, outside of a confidential VM, somebody without the right to choose has.
fn owner(site: &SiteConfig) -> u32 {
    match site.container.user.uid {
        _ if !geteuid().is_root() => geteuid().as_raw(),
        PORT_OWNER => PORT_OWNER - 1,
        _ => PORT_OWNER,
    }
}

#[cfg(test)]
mod tests;
