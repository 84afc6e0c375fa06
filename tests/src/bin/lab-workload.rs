//! A workload that does what a test asks for, from within its container: the lab's eyes behind the gate.
//!
//!   usage: lab-workload REPORT_ADDRESS NAME SERVER_ADDRESS
//!
//! It connects to REPORT_ADDRESS, where the test listens, past the gate, and speaks JSON, a line each: first `{"name": …}`, then an
//! `{"id": …, "answer": …}` for each `{"id": …, "do": …, "with": …}`, and `{"event": …}` of its own. SERVER_ADDRESS is the
//! server's as a SuperNode is told it; what is dialed there keeps ticking until it breaks.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{sleep, spawn};
use std::time::Duration;

use serde_json::{Value, json};

/// How often a dialed connection ticks.
const TICK: Duration = Duration::from_millis(20);
/// How long the network may take to be there.
const REPORT_TRIES: u32 = 100;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [report, name, server] = args.as_slice() else {
        eprintln!("usage: lab-workload REPORT_ADDRESS NAME SERVER_ADDRESS");
        std::process::exit(2)
    };
    if let Err(error) = serve(report, name, server) {
        eprintln!("lab-workload: {error}");
        std::process::exit(1)
    }
}

fn serve(report: &str, name: &str, server: &str) -> io::Result<()> {
    let stream = connect(report)?;
    stream.set_nodelay(true)?;
    let talk = Talk(Arc::new(Mutex::new(stream.try_clone()?)));
    talk.say(&json!({ "name": name }))?;
    let ticks = Arc::new(AtomicU64::new(0));
    for line in BufReader::new(stream).lines() {
        let asked: Value = serde_json::from_str(&line?)?;
        let with = asked["with"].as_str().unwrap_or_default();
        let answer = match asked["do"].as_str().unwrap_or_default() {
            "read" => read(with),
            "list" => list(with),
            "http" => http(with),
            "listen" => TcpListener::bind(with).map(|listener| format!("listening on {listener:?}")),
            "dial" => dial(server, name, &talk, &ticks),
            "knock" => TcpStream::connect(if with.is_empty() { server } else { with }).map(|_| "open".to_owned()),
            "ticks" => Ok(ticks.load(Ordering::Relaxed).to_string()),
            "exit" => std::process::exit(with.parse().unwrap_or(0)),
            other => Err(io::Error::other(format!("nobody taught it to `{other}`"))),
        };
        let answer = answer.unwrap_or_else(|error| format!("error: {:?}: {error}", error.kind()));
        talk.say(&json!({ "id": asked["id"], "answer": answer }))?;
    }
    Ok(())
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut tries = 0;
    loop {
        match TcpStream::connect(address) {
            Err(_) if tries < REPORT_TRIES => tries += 1,
            done => return done,
        }
        sleep(Duration::from_millis(100));
    }
}

/// The connection to the test.
#[derive(Clone)]
struct Talk(Arc<Mutex<TcpStream>>);

impl Talk {
    fn say(&self, value: &Value) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(format!("{value}\n").as_bytes())
    }
}

fn read(path: &str) -> io::Result<String> {
    let data = fs::metadata(path)?;
    let text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
    Ok(format!("mode={:o} uid={} gid={}\n{text}", data.mode() & 0o7777, data.uid(), data.gid()))
}

fn list(path: &str) -> io::Result<String> {
    let mut names: Vec<String> =
        fs::read_dir(path)?.map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned())).collect::<io::Result<_>>()?;
    names.sort();
    Ok(names.join(" "))
}

/// `<socket> <method> <target>`: the whole response.
fn http(with: &str) -> io::Result<String> {
    let (socket, request) = with.split_once(' ').unwrap_or((with, ""));
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}

/// Connects to the server and stays, a line each tick, each of which must come back; says how it ended.
fn dial(server: &str, name: &str, talk: &Talk, ticks: &Arc<AtomicU64>) -> io::Result<String> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    // A first echo, so that whoever asked knows that the server is reached and not only a listener on loopback.
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut echo = BufReader::new(stream.try_clone()?);
    exchange(&mut stream, &mut echo, &format!("hello {name}\n"))?;
    let (talk, ticks) = (talk.clone(), Arc::clone(ticks));
    spawn(move || {
        let error = loop {
            match exchange(&mut stream, &mut echo, "tick\n") {
                Ok(()) => ticks.fetch_add(1, Ordering::Relaxed),
                Err(error) => break error,
            };
            sleep(TICK);
        };
        // Nobody listens any more when the test is over.
        let _ = talk.say(&json!({ "event": format!("lost {:?}", error.kind()) }));
    });
    Ok("connected".to_owned())
}

fn exchange(stream: &mut TcpStream, echo: &mut BufReader<TcpStream>, line: &str) -> io::Result<()> {
    stream.write_all(line.as_bytes())?;
    let mut back = String::new();
    match echo.read_line(&mut back)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ if back == line => Ok(()),
        _ => Err(io::Error::other(format!("sent {line:?}, {back:?} came back"))),
    }
}
