//! A SuperLink, its command line, and a gate in front of it.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use coffer_token::lease::NodeKey;
use data_encoding::BASE64;
use serde_json::Value;
use tempfile::TempDir;

use super::support::{Boot, Gate, Issuer, Settings, eventually, random};

/// The generations: node keys of kits; gRPC with registration, connections in a pyproject.toml; the same in a config.toml; HTTP.
pub const KIT_KEYS: &str = "1.19.0";
pub const PYPROJECT: &str = "1.25.0";
pub const GRPC: &str = "1.29.0";
pub const HTTP: &str = "1.41.0";

/// A Python program starts in seconds; the machine has other things to do.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A program and all that it started, ended with the test.
pub struct Group(Child);

impl Group {
    /// Starts it as the head of a process group.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let out = fs::File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out).process_group(0);
        Self(command.spawn().unwrap())
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.0.id())]).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A SuperLink on loopback: TLS, and no node but those whose keys it knows.
pub struct SuperLink {
    pub version: &'static str,
    bin: PathBuf,
    dir: TempDir,
    port: u16,
    running: Option<Group>,
}

impl SuperLink {
    /// One of this version, which answers.
    pub fn start(version: &'static str) -> Self {
        let (made, root) = (TempDir::new().unwrap(), root());
        let said = Command::new(root.join("tests/flower.sh")).arg(version).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let bin = PathBuf::from(String::from_utf8(said.stdout).unwrap().trim());
        let certs = Command::new(root.join("examples/flower/certs.sh")).arg(made.path()).arg("superlink.test").status().unwrap();
        assert!(certs.success());
        // Kits have their node keys from somewhere; here nobody has one.
        fs::write(made.path().join("node-keys.csv"), format!("{}\n", openssh_key(&made.path().join("kit"))).as_bytes()).unwrap();
        let mut link = Self { version, bin, dir: made, port: three_ports(), running: None };
        link.up();
        link
    }

    /// Starts it, again with the state it had.
    pub fn up(&mut self) {
        let mut command = Command::new(root().join("examples/flower/superlink.sh"));
        command.arg(&self.bin).args([self.version]).arg(self.dir.path()).arg(self.port.to_string());
        self.running = Some(Group::start(&mut command, &self.log_file()));
        let control = self.control();
        eventually("the SuperLink's Control API", PATIENCE, || std::net::TcpStream::connect(&control).ok());
    }

    /// Ends it at once.
    pub fn down(&mut self) {
        self.running = None;
    }

    fn http(&self) -> bool {
        self.version == HTTP
    }

    fn uses_pyproject(&self) -> bool {
        [KIT_KEYS, PYPROJECT].contains(&self.version)
    }

    pub fn fleet(&self) -> String {
        format!("localhost:{}", self.port)
    }

    pub fn control(&self) -> String {
        if self.http() { self.fleet() } else { format!("localhost:{}", self.port + 1) }
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("superlink.log")
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.env("FLWR_TELEMETRY_ENABLED", "0").env("FLWR_DISABLE_UPDATE_CHECK", "1");
        let path = format!("{}:{}", self.bin.display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).stdin(Stdio::null());
        command
    }

    /// A gate in front of it, in the mode that its version needs. `runs` is the section of that name.
    pub fn gate(&self, issuer: &Issuer, runs: &str) -> (Gate, String) {
        self.gate_with(issuer, runs, "")
    }

    /// The same with more in `[flower]`.
    pub fn gate_with(&self, issuer: &Issuer, runs: &str, more: &str) -> (Gate, String) {
        let front = format!("127.0.0.1:{}", three_ports());
        let mode = if self.http() { "terminate" } else { "passthrough" };
        let dir = self.path().display();
        let flower = format!(
            "mode = \"{mode}\"\ncontrol = \"{}\"\ncontrol_listen = \"{front}\"\nflwr = \"{}\"\nca = \"{dir}/ca.crt\"\n\
             certificate = \"{dir}/server.crt\"\nkey = \"{dir}/server.key\"\n{more}",
            self.control(),
            self.bin.join("flwr").display(),
        );
        let edits = vec![("mode = \"passthrough\"\n", flower), ("\n[flower]\n", format!("\n[runs]\n{runs}\n\n[flower]\n"))];
        let settings = Settings { check_frequency: 600, fleet: Some(self.fleet()), edits, ..Settings::default() };
        let gate = Gate::with(issuer, &settings).in_touch(issuer);
        (gate, front)
    }

    /// The command line of somebody who runs apps, led to `address`.
    pub fn cli(&self, address: &str) -> Cli<'_> {
        let home = TempDir::new().unwrap();
        let address = address.replace("127.0.0.1", "localhost");
        let ca = self.path().join("ca.crt").display().to_string();
        let app = home.path().join("app");
        let copied = Command::new("cp").args(["-r"]).arg(root().join("examples/flower/app")).arg(&app).status().unwrap();
        assert!(copied.success());
        let old = self.uses_pyproject();
        let section = if old { "tool.flwr.federations.there" } else { "superlink.there" };
        let text = format!("\n[{section}]\naddress = \"{address}\"\nroot-certificates = \"{ca}\"\n");
        let file = if old { app.join("pyproject.toml") } else { home.path().join("config.toml") };
        fs::File::options().create(true).append(true).open(file).unwrap().write_all(text.as_bytes()).unwrap();
        Cli { link: self, home, app }
    }
}

/// Somebody's `flwr`.
pub struct Cli<'a> {
    link: &'a SuperLink,
    home: TempDir,
    app: PathBuf,
}

impl Cli<'_> {
    fn flwr(&self, words: &[&str], tail: &[&str]) -> Output {
        let mut command = self.link.program("flwr");
        command
            .env("FLWR_HOME", self.home.path())
            .env("HOME", self.home.path())
            .env("COLUMNS", "500")
            .current_dir(self.home.path())
            .args(words);
        if self.link.uses_pyproject() && words[0] != "run" {
            command.arg(&self.app);
        }
        command.arg("there").args(tail).output().unwrap()
    }

    /// `flwr run`, everything that it prints.
    pub fn run(&self) -> String {
        let done = self.flwr(&["run", self.app.to_str().unwrap()], &[]);
        both(&done)
    }

    /// `flwr run`, which must be admitted: the run's id.
    #[track_caller]
    pub fn starts(&self) -> u64 {
        let said = self.run();
        let after = said.split("uccessfully started run").nth(1).unwrap_or_else(|| panic!("{said}"));
        after.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap()
    }

    /// `flwr list`: the status of a run.
    pub fn status(&self, run: u64) -> String {
        let done = self.flwr(&["ls"], &["--format", "json"]);
        let json = json(&done);
        let runs = json["runs"].as_array().cloned().unwrap_or_default();
        let of_run = runs.iter().find(|entry| entry["run-id"].to_string().trim_matches('"') == run.to_string());
        of_run.and_then(|entry| entry["status"].as_str()).unwrap_or_else(|| panic!("{}", both(&done))).to_owned()
    }

    /// `flwr supernode register` of a new key of that name, everything that it prints.
    pub fn registers(&self, key: &Path) -> String {
        openssh_key(key);
        both(&self.flwr(&["supernode", "register", key.with_extension("pub").to_str().unwrap()], &[]))
    }

    /// `flwr supernode list`: ids and what the SuperLink says of each.
    pub fn nodes(&self) -> Vec<(String, String)> {
        let done = self.flwr(&["supernode", "list"], &["--verbose", "--format", "json"]);
        let json = json(&done);
        let nodes = json["nodes"].as_array().unwrap_or_else(|| panic!("{}", both(&done)));
        let text = |value: &Value| value.to_string().trim_matches('"').to_owned();
        nodes.iter().map(|node| (text(&node["node-id"]), text(&node["status"]))).collect()
    }
}

fn both(done: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

#[track_caller]
fn json(done: &Output) -> Value {
    let text = String::from_utf8_lossy(&done.stdout);
    let at = text.find('{').unwrap_or_else(|| panic!("{}", both(done)));
    serde_json::Deserializer::from_str(&text[at..]).into_iter().next().unwrap().unwrap()
}

/// A boot of a site with a node key whose private half is in a file of OpenSSH's form.
pub fn boot_with_node(site: &str, key: &Path) -> Boot {
    let line = openssh_key(key);
    let blob = BASE64.decode(line.split(' ').nth(1).unwrap().as_bytes()).unwrap();
    Boot { node: Some(NodeKey::from_sec1(&blob[39..]).unwrap()), ..Boot::of(site) }
}

/// Makes a key; its public line.
fn openssh_key(path: &Path) -> String {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ecdsa", "-b", "384", "-N", "", "-C", "", "-f"]).arg(path).status().unwrap();
    assert!(made.success());
    fs::read_to_string(path.with_extension("pub")).unwrap().trim().to_owned()
}

/// The first of three ports in a row that nobody listens at.
pub fn three_ports() -> u16 {
    loop {
        let first = 20_001 + u16::from_be_bytes(random::<2>()) % 9_000;
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if [first - 1, first, first + 1].into_iter().all(free) {
            return first;
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}
