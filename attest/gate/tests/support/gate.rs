//! The real `coffer-gate` on loopback.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use tempfile::TempDir;

use super::issuer::{Issuer, ROOT};
use super::service::Service;
use super::upstream::Upstream;
use super::{Door, eventually, terminate};

pub const TLS_NAME: &str = "gate.demo.test";

/// A gate's folder and, most of the time, the process that serves it.
pub struct Gate {
    dir: TempDir,
    child: Option<Child>,
    /// Where guests find it; the same after a restart.
    pub door: Door,
    pub upstream: Upstream,
    /// Seconds by which its clock is ahead.
    ahead: Option<i64>,
}

/// What a test may want otherwise.
pub struct Settings {
    /// Seconds a lease lasts without a newer token.
    pub check_frequency: u64,
    /// The one root of trust it takes.
    pub root_of_trust: String,
    /// Where it leads to, if not to an echoing server of its own.
    pub fleet: Option<String>,
    /// What is replaced in its settings, and by what.
    pub edits: Vec<(&'static str, String)>,
    /// Seconds by which its clock is ahead.
    pub ahead: Option<i64>,
    /// What it is started with, such as `taskset`.
    pub wrapper: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { check_frequency: 60, root_of_trust: ROOT.to_owned(), fleet: None, edits: Vec::new(), ahead: None, wrapper: Vec::new() }
    }
}

impl Gate {
    /// A gate of project `demo` that takes this double's tokens.
    pub fn of(issuer: &Issuer) -> Self {
        Self::with(issuer, &Settings::default())
    }

    /// The same that leads to another server than its own.
    pub fn leading_to(issuer: &Issuer, fleet: &str) -> Self {
        Self::with(issuer, &Settings { fleet: Some(fleet.to_owned()), ..Settings::default() })
    }

    /// The same with other settings.
    pub fn with(issuer: &Issuer, settings: &Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("service-ca.pem");
        fs::write(&ca, &issuer.ca).unwrap();
        let table = issuer.settings(ca.to_str().unwrap(), &settings.root_of_trust);
        Self::make(dir, &table, settings)
    }

    /// A gate of project `demo` that takes the real service's tokens.
    pub fn of_service(service: &Service) -> Self {
        Self::of_service_with(service, &Settings::default())
    }

    /// The same with other settings.
    pub fn of_service_with(service: &Service, settings: &Settings) -> Self {
        Self::make(tempfile::tempdir().unwrap(), &service.works(&["gate-settings", "--project", "demo"]), settings)
    }

    fn make(dir: TempDir, service: &str, settings: &Settings) -> Self {
        let upstream = Upstream::start();
        let (path, table) = (dir.path().join("gate"), dir.path().join("service.toml"));
        fs::write(&table, service).unwrap();
        let frequency = settings.check_frequency.to_string();
        let mut init = Command::new(env!("CARGO_BIN_EXE_coffer-gate"));
        init.args(["init", "--name", TLS_NAME, "--listen", "127.0.0.1:0", "--check-frequency", &frequency]);
        init.args(["--fleet", settings.fleet.as_ref().unwrap_or(&upstream.address)]).arg("--service").arg(&table).arg("--dir").arg(&path);
        let made = init.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let config = path.join("coffer-gate.toml");
        let mut text = fs::read_to_string(&config).unwrap();
        for (from, to) in &settings.edits {
            assert!(text.contains(from), "{text}");
            text = text.replace(from, to);
        }
        fs::write(config, text).unwrap();
        let ca = CertificateDer::from_pem_file(path.join("tls/ca.pem")).unwrap().to_vec();
        let door = Door { address: "127.0.0.1:0".to_owned(), tls_name: TLS_NAME.to_owned(), ca };
        let mut gate = Self { dir, child: None, door, upstream, ahead: settings.ahead };
        gate.up_with(&settings.wrapper);
        gate
    }

    /// Serves, at the address it had before if it had one.
    pub fn up(&mut self) {
        self.up_with(&[]);
    }

    fn up_with(&mut self, wrapper: &[String]) {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let program = PathBuf::from(env!("CARGO_BIN_EXE_coffer-gate"));
        let mut command = match wrapper {
            [] => super::at_another_time(&program, self.ahead),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command.args(["serve", "--listen", &self.door.address, "--dir"]).arg(self.path()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.child = Some(child);
        let address = line.trim().strip_prefix("listening ");
        self.door.address = address.unwrap_or_else(|| panic!("`{line}`, log: {}", self.log())).to_owned();
    }

    /// Stops it.
    pub fn down(&mut self) {
        terminate(self.child.take().unwrap());
    }

    /// SIGKILL: nothing is said to anybody, nothing tidied up.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("gate")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Waits for a line of its log that has all of these words.
    #[track_caller]
    pub fn logged(&self, words: &[&str]) -> String {
        let what = format!("a line with {words:?}");
        let find = || self.log().lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned);
        let begun = std::time::Instant::now();
        loop {
            if let Some(line) = find() {
                return line;
            }
            assert!(begun.elapsed() < Duration::from_secs(5), "{what} is not in the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs a command on its folder.
    pub fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_coffer-gate")).args(args).arg("--dir").arg(self.path()).stdin(Stdio::null()).output().unwrap()
    }

    /// The same, which must succeed; what it prints.
    #[track_caller]
    pub fn works(&self, args: &[&str]) -> String {
        let done = self.run(args);
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    /// `status --json`.
    #[track_caller]
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.works(&["status", "--json"])).unwrap()
    }

    /// Waits until it has heard from its service.
    pub fn in_touch(self, issuer: &Issuer) -> Self {
        eventually("the gate's first look at withdrawals", Duration::from_secs(10), || (issuer.lists() > 0).then_some(()));
        self
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill().and_then(|()| child.wait());
        }
        if std::thread::panicking() {
            eprintln!("the gate's log:\n{}", self.log());
        }
    }
}
