//! A real Flower federation in the lab: a SuperLink of one version, the gate in front of it, and its command line.
//!
//! SuperLink, certificates, app and the SuperNode's start are those of `examples/flower`.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::gate::{WORKLOAD_SERVER, eventually};
use super::{Lab, run};
use crate::repo;

/// From the start of `flower-superlink` to its listening: Python, a database to make.
const SUPERLINK_START: Duration = Duration::from_secs(60);

/// One Flower version and where its parts listen.
pub struct Flower {
    /// Such as `1.29.0`.
    pub version: &'static str,
    bin: PathBuf,
    dir: PathBuf,
    fleet: u16,
    front: u16,
}

/// A program of Flower's that runs, with its output in a file; stopped, and its children with it, when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Lab {
    /// Prepares a federation of this version: certificates, node keys, the container archive, the gate's settings. The lab's key
    /// service must be serving; sites built from here on are behind the gate. `runs` is the gate's `[runs]`.
    ///
    /// # Panics
    /// If a program fails.
    #[must_use]
    pub fn use_flower(&self, version: &'static str, check_frequency: u32, runs: &str) -> Flower {
        let bin = run(Command::new(repo::root().join("tests/flower.sh")).args([version, "--archive"]));
        let [fleet, front] = [ports_in_a_row(), ports_in_a_row()];
        let flower = Flower { version, bin: PathBuf::from(bin.trim()), dir: self.path("flower"), fleet, front };
        run(example("certs.sh").arg(&flower.dir).arg("superlink.demo.test"));
        let archive = repo::root().join(format!("cache/flower-{version}.tar"));
        fs::remove_file(self.path("image.tar")).expect("the lab's own image is removed");
        std::os::unix::fs::symlink(&archive, self.path("image.tar")).expect("a link to the archive");
        self.use_gate(&format!("127.0.0.1:{fleet}"), check_frequency);
        flower.set_up_gate(&self.path("gate/coffer-gate.toml"), runs);
        flower.make_kit(&self.path("flower-kit"));
        flower.write_command_line_settings();
        flower
    }

    /// What makes a site a SuperNode of this federation; `before` runs in its shell first.
    #[must_use]
    pub fn supernode(&self, flower: &Flower, partition: u32, before: &str) -> (String, String) {
        let (_, port) = WORKLOAD_SERVER.split_once(':').expect("a name and a port");
        let kit = if flower.is_from(1, 23) { "flower-kit".to_owned() } else { flower.spare_keys(&self.path("flower-kit"), partition) };
        let script = format!("{before}\nexec sh /etc/flower/kit/run_supernode.sh {} {partition} 2 {port}", flower.version);
        (script, format!("kit:\n  /etc/flower/kit: {kit}\n"))
    }
}

impl Flower {
    /// Whether it is this version or a later one.
    #[must_use]
    pub fn is_from(&self, major: u32, minor: u32) -> bool {
        let mut parts = self.version.split('.').map(|part| part.parse::<u32>().expect("a version"));
        let own = (parts.next().expect("major"), parts.next().expect("minor"));
        own >= (major, minor)
    }

    /// Starts the SuperLink.
    ///
    /// # Panics
    /// If it does not listen in time.
    #[must_use]
    pub fn superlink(&self) -> Process {
        let mut start = example("superlink.sh");
        start.arg(&self.bin).arg(self.version).arg(&self.dir).arg(self.fleet.to_string());
        let mut superlink = Process::start(start, self.dir.join("superlink.log"));
        for port in [self.fleet, self.control()] {
            eventually("the SuperLink listens", SUPERLINK_START, || {
                superlink.assert_runs();
                std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop)
            });
        }
        superlink
    }

    /// Starts a SuperNode outside any VM, which calls `server` (`host:port`) with this key.
    #[must_use]
    pub fn outside_node(&self, name: &str, server: &str, key: &Path) -> Process {
        let mut node = self.program("flower-supernode");
        node.arg("--root-certificates").arg(self.dir.join("ca.crt")).args([
            "--superlink",
            server,
            "--node-config",
            "partition-id=9 num-partitions=2",
        ]);
        let api = ports_in_a_row();
        if self.is_from(1, 35) {
            node.args(["--host", "127.0.0.1", "--port", &api.to_string()]);
        } else {
            node.args(["--clientappio-api-address", &format!("127.0.0.1:{api}")]);
        }
        node.arg("--auth-supernode-private-key").arg(key);
        if !self.is_from(1, 23) {
            node.arg("--auth-supernode-public-key").arg(key.with_extension("pub"));
        }
        node.env("FLWR_HOME", self.dir.join(name));
        Process::start(node, self.dir.join(format!("{name}.log")))
    }

    /// A node key that the SuperLink knows.
    ///
    /// # Panics
    /// If it does not take it.
    #[must_use]
    pub fn known_key(&self) -> PathBuf {
        let key = self.dir.join("outside_key");
        if self.is_from(1, 23) {
            new_key(&key);
            run(self.flwr(&["supernode", "register"]).arg(key.with_extension("pub")).arg("direct"));
        }
        key
    }

    /// Starts a run of the example's app through the gate's Control front; its log goes to the process's.
    #[must_use]
    pub fn start_run(&self, name: &str, config: &str) -> Process {
        let mut flwr = self.flwr(&["run"]);
        flwr.arg(self.dir.join("app")).args(["gate", "--stream", "-c", config]);
        Process::start(flwr, self.dir.join(format!("{name}.log")))
    }

    /// The Fleet API itself, which only the gate should reach: `host:port`, as its certificate has it.
    #[must_use]
    pub fn fleet(&self) -> String {
        format!("localhost:{}", self.fleet)
    }

    fn flwr(&self, args: &[&str]) -> Command {
        let mut flwr = self.program("flwr");
        flwr.args(args).env("FLWR_HOME", self.dir.join("cli"));
        flwr
    }

    fn program(&self, name: &str) -> Command {
        let mut program = Command::new(self.bin.join(name));
        let path = std::env::var("PATH").unwrap_or_default();
        program.env("PATH", format!("{}:{path}", self.bin.display()));
        program.env("FLWR_TELEMETRY_ENABLED", "0").env("FLWR_DISABLE_UPDATE_CHECK", "1");
        program
    }

    fn control(&self) -> u16 {
        if self.is_from(1, 40) { self.fleet } else { self.fleet + 1 }
    }

    fn set_up_gate(&self, settings: &Path, runs: &str) {
        let text = fs::read_to_string(settings).expect("the gate's settings");
        let mut kept = String::new();
        let mut within = true;
        for line in text.lines() {
            if line.starts_with('[') {
                within = line != "[flower]" && line != "[runs]";
            }
            if within {
                kept += line;
                kept.push('\n');
            }
        }
        let dir = self.dir.display();
        let mode = if self.is_from(1, 40) { "terminate" } else { "passthrough" };
        kept += &format!(
            "\n[flower]\nmode = \"{mode}\"\nfleet = \"localhost:{}\"\ncontrol = \"localhost:{}\"\ncontrol_listen = \"127.0.0.1:{}\"\n\
             ca = \"{dir}/ca.crt\"\ncertificate = \"{dir}/server.crt\"\nkey = \"{dir}/server.key\"\nflwr = \"{}\"\n\n[runs]\n{runs}\n",
            self.fleet,
            self.control(),
            self.front,
            self.bin.join("flwr").display(),
        );
        fs::write(settings, kept).expect("the gate's settings are written");
    }

    fn make_kit(&self, kit: &Path) {
        fs::create_dir(kit).expect("a folder");
        fs::copy(self.dir.join("ca.crt"), kit.join("ca.crt")).expect("a copy");
        fs::copy(repo::root().join("examples/flower/kit/run_supernode.sh"), kit.join("run_supernode.sh")).expect("a copy");
        if !self.is_from(1, 23) {
            let mut known = Vec::new();
            for name in ["1_1", "1_2", "2_1", "2_2"] {
                let key = self.dir.join(format!("node_key_{name}"));
                new_key(&key);
                known.push(key);
            }
            let outside = self.dir.join("outside_key");
            new_key(&outside);
            known.push(outside);
            let lines = known.iter().map(|key| fs::read_to_string(key.with_extension("pub")).expect("a public key").trim().to_owned());
            fs::write(self.dir.join("node-keys.csv"), lines.collect::<Vec<_>>().join(",")).expect("the list of keys");
        }
    }

    /// A kit of its own for a site that brings its keys; its name beside the other.
    fn spare_keys(&self, kit: &Path, partition: u32) -> String {
        let name = format!("flower-kit-{partition}");
        let own = kit.with_file_name(&name);
        run(Command::new("cp").arg("-r").arg(kit).arg(&own));
        for spare in [1, 2] {
            for suffix in ["", ".pub"] {
                let from = self.dir.join(format!("node_key_{partition}_{spare}{suffix}"));
                fs::copy(from, own.join(format!("node_key_{spare}{suffix}"))).expect("a copy");
            }
        }
        name
    }

    /// `flwr` finds the Control front as `gate`, the SuperLink itself as `direct`.
    fn write_command_line_settings(&self) {
        let app = self.dir.join("app");
        run(Command::new("cp").arg("-r").arg(repo::root().join("examples/flower/app")).arg(&app));
        let home = self.dir.join("cli");
        fs::create_dir(&home).expect("a folder");
        let (table, file) = if self.is_from(1, 26) {
            ("superlink", home.join("config.toml"))
        } else {
            ("tool.flwr.federations", app.join("pyproject.toml"))
        };
        let mut text = fs::read_to_string(&file).unwrap_or_default();
        text += &format!("\n[{table}]\ndefault = \"gate\"\n");
        for (name, port) in [("gate", self.front), ("direct", self.control())] {
            let ca = self.dir.join("ca.crt");
            text += &format!("[{table}.{name}]\naddress = \"localhost:{port}\"\nroot-certificates = \"{}\"\n", ca.display());
        }
        fs::write(file, text).expect("the command line's settings are written");
    }
}

impl Process {
    fn start(mut command: Command, log: PathBuf) -> Self {
        let output = fs::File::create(&log).expect("a log file");
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("a handle")).stderr(output);
        Self { child: command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")), log }
    }

    /// What it has said.
    #[must_use]
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Asserts that it has not ended.
    ///
    /// # Panics
    /// If it has, with what it said.
    pub fn assert_runs(&mut self) {
        let ended = self.child.try_wait().expect("its state");
        assert!(ended.is_none(), "{ended:?}: {}", self.said());
    }

    /// Waits until it has said this, after the first `from` bytes.
    ///
    /// # Panics
    /// If it ends or does not in time.
    #[track_caller]
    pub fn wait_for(&mut self, mark: &str, from: usize, limit: Duration) {
        eventually(mark, limit, || {
            let found = self.said().get(from..).is_some_and(|said| said.contains(mark));
            if !found {
                self.assert_runs();
                sleep(Duration::from_millis(80));
            }
            found.then_some(())
        });
    }

    /// Waits for its end; its exit code and what it said.
    ///
    /// # Panics
    /// If it does not end in time.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> (Option<i32>, String) {
        let status = eventually("the end of a program", limit, || self.child.try_wait().expect("its state"));
        (status.code(), self.said())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // In order: a SuperLink and a SuperNode end what they started.
        if matches!(self.child.try_wait(), Ok(None)) {
            let pid = self.child.id().to_string();
            let _ = Command::new("kill").args(["-TERM", &pid]).status();
            for _ in 0..150 {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                sleep(Duration::from_millis(100));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn example(script: &str) -> Command {
    Command::new(repo::root().join("examples/flower").join(script))
}

fn new_key(path: &Path) {
    run(Command::new("ssh-keygen").args(["-q", "-t", "ecdsa", "-b", "384", "-N", "", "-C", "", "-f"]).arg(path));
}

/// The middle one of three ports in a row that nobody listens on now.
fn ports_in_a_row() -> u16 {
    loop {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let free = |port: Option<u16>| port.is_some_and(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
        if free(port.checked_add(1)) && free(port.checked_sub(1)) {
            return port;
        }
    }
}
