//! A running gate, what it takes tokens from, what it leads to, and guests that come to it.

mod boot;
mod gate;
mod issuer;
mod service;
mod upstream;
mod wire;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use boot::{Boot, BootKey};
pub use gate::{Gate, Settings};
pub use issuer::{ISSUER, Issuer, ROOT};
pub use service::{BASE, Guest, Service, processor};
pub use system_tests::lab::eventually;
pub use upstream::Upstream;
pub use wire::{Door, End, Wire, refusal};

/// Unix seconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Random bytes.
pub fn random<const N: usize>() -> [u8; N] {
    use std::io::Read;
    let mut bytes = [0; N];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    bytes
}

/// SIGTERM, then waits for a clean end.
pub fn terminate(mut child: Child) {
    let sent = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(sent.success());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill().and_then(|()| child.wait());
    panic!("did not stop within 10 s of SIGTERM");
}

/// A connection from another loopback address than the usual one.
///
/// # Errors
/// If there is none.
pub fn connect_from(source: &str, to: &str) -> std::io::Result<std::net::TcpStream> {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());
    let (source, to) = (format!("{source}:0").parse().unwrap(), to.parse().unwrap());
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(source)?;
        socket.connect(to).await
    })?;
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// A program whose clock of the day (not the monotonic one) is so many seconds ahead. `None`: the machine's own.
pub fn at_another_time(program: &Path, ahead: Option<i64>) -> Command {
    let mut command = Command::new(program);
    if let Some(ahead) = ahead {
        let library = PathBuf::from("/usr/lib").join(format!("{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH));
        assert!(library.is_file(), "{} is missing; hint: tests/setup.sh --tests installs it", library.display());
        command.env("LD_PRELOAD", library).env("FAKETIME", format!("{ahead:+}s")).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
    command
}
