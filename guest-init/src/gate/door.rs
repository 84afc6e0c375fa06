//! Who opens and closes the port, and what runs behind it: one tunnel for each connection of the workload, while there is a lease.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::event::{PollFd, PollFlags};

use super::event::{Event, wait};
use super::port::Port;

/// The most connections the workload has at once. A SuperNode has one or two.
pub const MAX_TUNNELS: usize = 64;

/// A tunnel's stack; its buffers are on the heap.
const STACK_BYTES: usize = 256 * 1024;

/// One lease, from the first admission to its end. Tunnels live as long as it does at most.
pub struct Term {
    /// Where the gate is that gave it: of several, only that one knows it.
    pub gate: SocketAddr,
    /// Raised at its end.
    pub over: Event,
}

/// The port, and the lease it is open for.
pub struct Door {
    port: Port,
    term: Mutex<Option<Arc<Term>>>,
    opened: Condvar,
    tunnels: AtomicUsize,
}

impl Door {
    /// A closed door.
    pub fn new(port: Port) -> Arc<Self> {
        Arc::new(Self { port, term: Mutex::new(None), opened: Condvar::new(), tunnels: AtomicUsize::new(0) })
    }

    /// Takes connections while `term` lasts.
    ///
    /// # Errors
    /// If the port does not listen.
    pub fn open(&self, term: Arc<Term>) -> io::Result<()> {
        let mut current = self.lock();
        self.port.listen()?;
        *current = Some(term);
        drop(current);
        self.opened.notify_all();
        Ok(())
    }

    /// Refuses connections, and ends those there are with RST.
    pub fn close(&self) {
        let mut current = self.lock();
        // A listening socket of ours always stops listening; and whoever is accepted without a lease is reset.
        let _ = self.port.refuse();
        if let Some(term) = current.take() {
            term.over.raise();
        }
    }

    /// Takes connections for ever, and gives each to a thread of its own.
    pub fn serve<C>(self: &Arc<Self>, carry: C) -> !
    where
        C: Fn(TcpStream, &Term) + Clone + Send + 'static,
    {
        loop {
            let term = self.await_lease();
            let mut fds = [PollFd::new(&self.port, PollFlags::IN), PollFd::new(&term.over, PollFlags::IN)];
            // Fails only for want of kernel memory; then the next round waits.
            let _ = wait(&mut fds, None);
            while let Some(workload) = self.port.accept() {
                // Of the lease there is now: the one that was polled for may have ended meanwhile.
                let current = self.lock().clone();
                match current {
                    Some(term) => self.start(workload, term, carry.clone()),
                    None => drop(workload),
                }
            }
        }
    }

    fn start<C: Fn(TcpStream, &Term) + Send + 'static>(self: &Arc<Self>, workload: TcpStream, term: Arc<Term>, carry: C) {
        let Some(place) = Place::take(self) else { return };
        let tunnel = move || {
            let _place = place;
            carry(workload, &term);
        };
        // Where no thread starts the connection is reset with what was to carry it; the workload tries again.
        let _ = thread::Builder::new().name("tunnel".to_owned()).stack_size(STACK_BYTES).spawn(tunnel);
    }

    fn await_lease(&self) -> Arc<Term> {
        let mut term = self.lock();
        loop {
            match &*term {
                Some(term) => return term.clone(),
                None => term = self.opened.wait(term).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Term>>> {
        self.term.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the [`MAX_TUNNELS`] places.
struct Place(Arc<Door>);

impl Place {
    fn take(door: &Arc<Door>) -> Option<Self> {
        let free = |count: usize| (count < MAX_TUNNELS).then_some(count + 1);
        door.tunnels.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok()?;
        Some(Self(door.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}
