//! A server behind the gate: it gives back every byte, and remembers when each connection ended, and how.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

/// A connection, as the server sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The first bytes it said.
    pub first: String,
    /// When the newest byte came.
    pub last: Instant,
    /// When it ended, and how: the error's kind, or `None` for an orderly end.
    pub ended: Option<(Instant, Option<ErrorKind>)>,
}

/// An echo server on loopback.
pub struct Upstream {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Upstream {
    /// Listens.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn listen() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&seen);
        spawn(move || {
            for stream in listener.incoming().flatten() {
                let all = Arc::clone(&all);
                spawn(move || echo(stream, &all));
            }
        });
        Self { port, seen }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Every connection whose first bytes were `first`, oldest first.
    #[must_use]
    pub fn seen(&self, first: &str) -> Vec<Seen> {
        lock(&self.seen).iter().filter(|seen| seen.first == first).cloned().collect()
    }

    /// How many connections were ever made.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.seen).len()
    }

    /// Waits until the newest connection of `first` has ended; when, and how.
    ///
    /// # Panics
    /// If it is still there after `limit`, or never was.
    #[must_use]
    pub fn wait_ended(&self, first: &str, limit: Duration) -> (Instant, Option<ErrorKind>) {
        let deadline = Instant::now() + limit;
        loop {
            let newest = self.seen(first).pop().unwrap_or_else(|| panic!("no connection began with {first:?}"));
            if let Some(ended) = newest.ended {
                return ended;
            }
            assert!(Instant::now() < deadline, "the connection of {first:?} is still there after {limit:?}");
            sleep(Duration::from_millis(5));
        }
    }
}

fn echo(mut stream: TcpStream, all: &Mutex<Vec<Seen>>) {
    // Small lines back at once; a failure shows in the times a test measures.
    let _ = stream.set_nodelay(true);
    let at = {
        let mut all = lock(all);
        all.push(Seen { first: String::new(), last: Instant::now(), ended: None });
        all.len() - 1
    };
    let mut buffer = [0; 4096];
    let end = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break None,
            Ok(n) => {
                let mut all = lock(all);
                all[at].last = Instant::now();
                if all[at].first.is_empty() {
                    all[at].first = String::from_utf8_lossy(&buffer[..n]).into_owned();
                }
                drop(all);
                if let Err(error) = stream.write_all(&buffer[..n]) {
                    break Some(error.kind());
                }
            }
            Err(error) => break Some(error.kind()),
        }
    };
    lock(all)[at].ended = Some((Instant::now(), end));
}

fn lock(seen: &Mutex<Vec<Seen>>) -> MutexGuard<'_, Vec<Seen>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
