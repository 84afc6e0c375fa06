//! What is measured of one way to the server, and how.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::cpu;
use crate::origin::{CHUNK, mode};

/// A way to the server, by where it begins.
pub struct Way {
    pub name: &'static str,
    pub address: SocketAddr,
    /// Who carries the bytes.
    processes: Vec<u32>,
    results: Results,
}

/// One list per question, one entry per round.
#[derive(Default)]
struct Results {
    down: Vec<f64>,
    up: Vec<f64>,
    both: Vec<f64>,
    cpu: Vec<f64>,
    echoes: Vec<Duration>,
    connects: Vec<Duration>,
}

/// What came of a way.
pub struct Summary {
    /// One connection, server to client; bytes per second.
    pub down: f64,
    /// One connection, client to server; bytes per second.
    pub up: f64,
    /// Four connections, two each way; bytes per second.
    pub both: f64,
    /// What a GiB of it all costs, in seconds of CPU time, at both ends together. A busy machine does not blur it.
    pub cpu: f64,
    /// 512 bytes there and back: median and 99th percentile.
    pub echo: (Duration, Duration),
    /// A new connection until its first byte is back: the same.
    pub connect: (Duration, Duration),
}

impl Way {
    pub fn new(name: &'static str, address: SocketAddr, processes: Vec<u32>) -> Self {
        Self { name, address, processes, results: Results::default() }
    }

    /// Once everything. Rounds of the ways take turns, so that whatever else the machine does meets all of them.
    pub fn round(&mut self, bytes: u64, echoes: usize, connects: usize) {
        let cpu = self.cpu_seconds();
        self.results.down.push(rate(bytes, || transfer(self.address, mode::SEND, bytes)));
        self.results.up.push(rate(bytes, || transfer(self.address, mode::TAKE, bytes)));
        let (part, address) = (bytes / 2, self.address);
        self.results.both.push(rate(4 * part, || {
            std::thread::scope(|scope| {
                for n in 0..4 {
                    scope.spawn(move || transfer(address, if n % 2 == 0 { mode::SEND } else { mode::TAKE }, part));
                }
            });
        }));
        self.results.cpu.push((self.cpu_seconds() - cpu) / (4 * bytes) as f64 * f64::from(1 << 30));
        self.results.echoes.extend(echo(self.address, echoes));
        self.results.connects.extend((0..connects).map(|_| {
            let begun = Instant::now();
            let mut socket = open(self.address, mode::ECHO);
            socket.write_all(&[1]).unwrap();
            socket.read_exact(&mut [0]).unwrap();
            begun.elapsed()
        }));
    }

    fn cpu_seconds(&self) -> f64 {
        self.processes.iter().map(|pid| cpu::seconds(*pid)).sum()
    }

    pub fn summary(&mut self) -> Summary {
        let median = |rates: &mut Vec<f64>| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        };
        let two = |times: &mut Vec<Duration>| {
            times.sort_unstable();
            (times[times.len() / 2], times[times.len() * 99 / 100])
        };
        let results = &mut self.results;
        Summary {
            down: median(&mut results.down),
            up: median(&mut results.up),
            both: median(&mut results.both),
            cpu: median(&mut results.cpu),
            echo: two(&mut results.echoes),
            connect: two(&mut results.connects),
        }
    }
}

fn rate(bytes: u64, work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    bytes as f64 / begun.elapsed().as_secs_f64()
}

/// A connection of this mode. Its first byte opens the way to its end, where opening takes its time.
fn open(address: SocketAddr, mode: u8) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.write_all(&[mode]).unwrap();
    socket
}

fn transfer(address: SocketAddr, mode: u8, bytes: u64) {
    let mut socket = open(address, mode);
    socket.write_all(&bytes.to_be_bytes()).unwrap();
    let (mut buffer, mut left) = (vec![0xa5; CHUNK], bytes);
    while left > 0 {
        let part = usize::try_from(left).unwrap().min(CHUNK);
        left -= if mode == mode::SEND {
            let got = socket.read(&mut buffer[..part]).unwrap();
            assert!(got > 0, "the way ends {left} bytes early");
            got as u64
        } else {
            socket.write_all(&buffer[..part]).unwrap();
            part as u64
        };
    }
    if mode == mode::TAKE {
        socket.read_exact(&mut [0]).unwrap();
    }
}

fn echo(address: SocketAddr, count: usize) -> Vec<Duration> {
    let mut socket = open(address, mode::ECHO);
    let mut once = || {
        let begun = Instant::now();
        socket.write_all(&[7; 512]).unwrap();
        socket.read_exact(&mut [0; 512]).unwrap();
        begun.elapsed()
    };
    for _ in 0..200 {
        once();
    }
    (0..count).map(|_| once()).collect()
}
