//! What a gate leads to: a server that sends back what it gets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An echoing server on loopback.
pub struct Upstream {
    pub address: String,
    connections: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
}

impl Upstream {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (connections, bytes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, seen) = (Arc::clone(&connections), Arc::clone(&bytes));
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::SeqCst);
                let seen = Arc::clone(&seen);
                let serve = std::thread::Builder::new().stack_size(128 * 1024);
                serve.spawn(move || echo(socket, &seen)).unwrap();
            }
        });
        Self { address, connections, bytes }
    }

    /// How many connections have come, ever.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// How many bytes have come, ever.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }
}

fn echo(mut socket: TcpStream, seen: &AtomicUsize) {
    let _ = socket.set_nodelay(true);
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(got @ 1..) = socket.read(&mut buffer) {
        seen.fetch_add(got, Ordering::SeqCst);
        if socket.write_all(&buffer[..got]).is_err() {
            return;
        }
    }
}
