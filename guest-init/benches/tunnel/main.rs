//! What the endpoint costs a connection: PID 1's threads as they run in a guest, against a gate that only decrypts, on loopback.
//!
//!     cargo bench -p coffer-init --bench tunnel -- [--mebibytes N] [--rounds N]
//!
//! It prints figures and never fails on time. The whole way, with the real gate and against nginx, is the gate's benchmark.
#![forbid(unsafe_code)]

mod peer;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use coffer_init::gate;
use coffer_init::keys::BootKeys;
use coffer_init::standing::{Standing, Token};
use coffer_manifest::{Gate, SiteConfig, WorkloadEnd};
use system_tests::repo;

/// Bytes handed to the system at once.
const CHUNK: usize = 256 * 1024;
const ECHOES: usize = 4000;

/// A connection's first byte: what it is for.
mod mode {
    pub const ECHO: u8 = b'E';
    pub const SEND: u8 = b'S';
    pub const TAKE: u8 = b'T';
}

fn main() {
    let (mebibytes, rounds) = asked();
    let bytes = mebibytes << 20;
    let straight = peer::plain();
    let endpoint = endpoint();
    println!("one connection, {rounds} rounds of {mebibytes} MiB: median rates, and 512 B there and back");
    println!("  {:<12}{:>12}{:>12}{:>18}", "", "down MiB/s", "up MiB/s", "p50/p99 us");
    let mut results = [("straight", straight), ("endpoint", endpoint)].map(|(name, address)| (name, address, vec![], vec![], vec![]));
    // In turns, so that whatever else the machine does meets both.
    for _ in 0..rounds {
        for (_, address, down, up, echoes) in &mut results {
            down.push(rate(bytes, || receive(*address, bytes)));
            up.push(rate(bytes, || send(*address, bytes)));
            echoes.extend(echo(*address));
        }
    }
    for (name, _, down, up, echoes) in &mut results {
        down.sort_by(f64::total_cmp);
        up.sort_by(f64::total_cmp);
        echoes.sort_unstable();
        let micros = |part: usize| echoes[echoes.len() * part / 100].as_micros();
        let times = format!("{} / {}", micros(50), micros(99));
        println!("  {name:<12}{:>12.0}{:>12.0}{times:>18}", down[rounds / 2], up[rounds / 2]);
    }
}

fn asked() -> (u64, usize) {
    let (mut mebibytes, mut rounds) = (256, 5);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse::<u32>().ok()).filter(|number| *number > 0);
        match (argument.as_str(), &mut number) {
            ("--mebibytes", number) => mebibytes = number().unwrap_or_else(|| usage()).into(),
            ("--rounds", number) => rounds = number().unwrap_or_else(|| usage()) as usize,
            // What `cargo bench` says to every benchmark.
            ("--bench", _) => {}
            _ => usage(),
        }
    }
    (mebibytes, rounds)
}

fn usage() -> ! {
    eprintln!("tunnel: usage: tunnel [--mebibytes N] [--rounds N]");
    std::process::exit(2)
}

/// The port of an endpoint that is leased.
fn endpoint() -> SocketAddr {
    let (gate, ca) = peer::tls();
    let golden = std::fs::read(repo::root().join("builder/manifest/tests/golden/site.json")).unwrap();
    let mut site = SiteConfig::from_bytes(golden.trim_ascii_end()).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    site.gate = Some(Gate {
        addresses: vec![gate.to_string()],
        tls_name: peer::NAME.to_owned(),
        ca: vec![ca],
        workload: WorkloadEnd { name: "superlink.demo.test".to_owned(), port },
        attested: false,
    });
    let standing = Standing::new(Token { text: "a.b.c".to_owned(), issued_at: 0, expires_at: 1 }, true);
    gate::start(&site, &BootKeys::generate().unwrap(), &standing).unwrap();
    let (address, begun) = (SocketAddr::from(([127, 0, 0, 1], port)), Instant::now());
    while TcpStream::connect(address).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "no lease: {:?}", standing.now().lease);
        std::thread::sleep(Duration::from_millis(20));
    }
    address
}

/// MiB per second.
fn rate(bytes: u64, work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    bytes as f64 / f64::from(1 << 20) / begun.elapsed().as_secs_f64()
}

/// A connection of this mode, up to its end: one byte has come back.
fn open(address: SocketAddr, mode: u8, bytes: u64) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.write_all(&[&[mode][..], &bytes.to_be_bytes()].concat()).unwrap();
    socket
}

fn receive(address: SocketAddr, bytes: u64) {
    let (mut socket, mut buffer, mut left) = (open(address, mode::SEND, bytes), vec![0; CHUNK], bytes);
    while left > 0 {
        let got = socket.read(&mut buffer).unwrap();
        assert!(got > 0, "ends {left} bytes early");
        left -= got as u64;
    }
}

fn send(address: SocketAddr, bytes: u64) {
    let (mut socket, buffer, mut left) = (open(address, mode::TAKE, bytes), vec![0xa5; CHUNK], bytes);
    while left > 0 {
        let part = left.min(CHUNK as u64) as usize;
        socket.write_all(&buffer[..part]).unwrap();
        left -= part as u64;
    }
    socket.read_exact(&mut [0]).unwrap();
}

fn echo(address: SocketAddr) -> Vec<Duration> {
    let mut socket = open(address, mode::ECHO, 0);
    let mut once = || {
        let begun = Instant::now();
        socket.write_all(&[7; 512]).unwrap();
        socket.read_exact(&mut [0; 512]).unwrap();
        begun.elapsed()
    };
    for _ in 0..200 {
        once();
    }
    (0..ECHOES).map(|_| once()).collect()
}
