//! The test's end of `lab-workload`: what a container says of itself from inside a VM, past the gate.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::spawn;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long a workload may take to answer: it has a share of an emulated CPU.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Where workloads report.
pub struct Reports {
    port: u16,
    arrived: Receiver<(String, Workload)>,
    waiting: VecDeque<(String, Workload)>,
}

/// A workload that has come up. Each start of a container is another one.
pub struct Workload {
    stream: TcpStream,
    said: Receiver<Value>,
    events: VecDeque<String>,
    asked: u64,
    gone: bool,
}

impl Reports {
    /// Listens on loopback.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn listen() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (sender, arrived) = channel();
        spawn(move || {
            for stream in listener.incoming().flatten() {
                let sender = sender.clone();
                spawn(move || greet(stream, &sender));
            }
        });
        Self { port, arrived, waiting: VecDeque::new() }
    }

    /// The `sh` line that makes a site's workload report here, its server being at `server` (name and port).
    #[must_use]
    pub fn script(&self, name: &str, server: &str) -> String {
        format!("exec lab-workload 10.0.2.2:{} {name} {server}", self.port)
    }

    /// Waits for the next start of a workload of this name; `None` if there is none in time.
    #[must_use]
    pub fn wait(&mut self, name: &str, limit: Duration) -> Option<Workload> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(at) = self.waiting.iter().position(|(who, _)| who == name) {
                return self.waiting.remove(at).map(|(_, workload)| workload);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.waiting.push_back(self.arrived.recv_timeout(left).ok()?);
        }
    }
}

/// Reads a workload's first line, then hands it over and keeps reading.
fn greet(stream: TcpStream, sender: &Sender<(String, Workload)>) {
    let Ok(reading) = stream.try_clone() else { return };
    let mut lines = BufReader::new(reading).lines().map_while(Result::ok);
    let Some(first) = lines.next().and_then(|line| serde_json::from_str::<Value>(&line).ok()) else { return };
    let (saying, said) = channel();
    let name = first["name"].as_str().unwrap_or_default().to_owned();
    if sender.send((name, Workload { stream, said, events: VecDeque::new(), asked: 0, gone: false })).is_err() {
        return;
    }
    for line in lines {
        let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
        if saying.send(value).is_err() {
            return;
        }
    }
}

impl Workload {
    /// Lets the workload do something; its answer, which begins with `error: ` if it could not.
    ///
    /// # Panics
    /// If it does not answer in time, or is gone.
    pub fn ask(&mut self, what: &str, with: &str) -> String {
        self.asked += 1;
        let line = json!({ "id": self.asked, "do": what, "with": with });
        self.stream.write_all(format!("{line}\n").as_bytes()).expect("the workload is there");
        let deadline = Instant::now() + ANSWER_LIMIT;
        loop {
            let value = self.receive(deadline).unwrap_or_else(|| panic!("no answer to `{what} {with}`, gone: {}", self.gone));
            if value["id"] == self.asked {
                return value["answer"].as_str().unwrap_or_default().to_owned();
            }
            self.note(&value);
        }
    }

    /// Asks again and again until the answer is right.
    ///
    /// # Panics
    /// If it is not in time; says the last answer.
    pub fn ask_until(&mut self, what: &str, with: &str, limit: Duration, right: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + limit;
        loop {
            let answer = self.ask(what, with);
            if right(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "`{what} {with}` still gives `{answer}` after {limit:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for an event that begins so.
    ///
    /// # Panics
    /// If none comes in time.
    pub fn event(&mut self, begins: &str, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(at) = self.events.iter().position(|event| event.starts_with(begins)) {
                return self.events.remove(at).unwrap_or_default();
            }
            let value = self.receive(deadline).unwrap_or_else(|| panic!("no event `{begins}`, gone: {}", self.gone));
            self.note(&value);
        }
    }

    /// Waits until it has ended, or its VM has; false if it is still there.
    pub fn ended_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while let Some(value) = self.receive(deadline) {
            self.note(&value);
        }
        self.gone
    }

    fn note(&mut self, value: &Value) {
        if let Some(event) = value["event"].as_str() {
            self.events.push_back(event.to_owned());
        }
    }

    fn receive(&mut self, deadline: Instant) -> Option<Value> {
        match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(value) => Some(value),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                self.gone = true;
                None
            }
        }
    }
}
