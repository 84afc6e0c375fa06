//! The server at the end of every way: echoes, sends, takes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

/// How much is handed to the system at once.
pub const CHUNK: usize = 256 * 1024;

/// What a connection is for: its first byte. Sending and taking have a count of bytes after it, u64 big-endian.
pub mod mode {
    pub const ECHO: u8 = b'E';
    pub const SEND: u8 = b'S';
    pub const TAKE: u8 = b'T';
}

/// Serves until the process ends.
pub fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(move || serve(socket));
        }
    });
    address
}

/// Ends with the connection, however that ends.
fn serve(mut socket: TcpStream) -> Option<()> {
    socket.set_nodelay(true).ok()?;
    let mut head = [0; 9];
    socket.read_exact(&mut head[..1]).ok()?;
    let mut buffer = vec![0x5a; CHUNK];
    if head[0] == mode::ECHO {
        loop {
            let got = socket.read(&mut buffer).ok().filter(|got| *got > 0)?;
            socket.write_all(&buffer[..got]).ok()?;
        }
    }
    socket.read_exact(&mut head[1..]).ok()?;
    let mut left = u64::from_be_bytes(head[1..].try_into().ok()?);
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        left -= if head[0] == mode::SEND {
            socket.write_all(&buffer[..part]).ok()?;
            part as u64
        } else {
            socket.read(&mut buffer[..part]).ok().filter(|got| *got > 0)? as u64
        };
    }
    if head[0] == mode::TAKE {
        socket.write_all(b".").ok()?;
    }
    // The other side ends the connection: whoever does keeps the port for a while.
    while socket.read(&mut buffer).ok()? > 0 {}
    Some(())
}
