//! A `coffer-gate` in front of a server, and the project's clients behind it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Lab, Service, archive, run};
use crate::repo;

/// How workloads call their server: what `lab-workload` is told to dial.
pub const WORKLOAD_SERVER: &str = "superlink.demo.test:9092";

impl Lab {
    /// Makes a gate in front of the server at `fleet` (`host:port`) and puts it into project.yml: sites built from here on are behind
    /// it. The lab's key service must be serving. `check_frequency` is in seconds.
    ///
    /// # Panics
    /// If a program fails.
    pub fn use_gate(&self, fleet: &str, check_frequency: u32) {
        let settings = run(&mut self.admin(&["gate-settings", "--project", "demo"]));
        fs::write(self.path("service.toml"), settings).expect("the gate's settings are written");
        let mut init = Command::new(repo::program("coffer-gate"));
        init.args(["init", "--name", "gate.demo.test", "--fleet", fleet, "--check-frequency", &check_frequency.to_string()]);
        init.args(["--listen", &format!("127.0.0.1:{}", self.gate_port)]);
        run(init.arg("--service").arg(self.path("service.toml")).arg("--dir").arg(self.path("gate")));
        let (name, port) = WORKLOAD_SERVER.split_once(':').expect("a name and a port");
        self.add_to_project(&format!(
            "gate:\n  addresses: [\"10.0.2.2:{}\"]\n  tls_name: gate.demo.test\n  ca: [gate/tls/ca.pem]\n  workload: {{name: {name}, port: {port}}}\n",
            self.gate_port
        ));
    }

    /// Makes sites built from here on ask for a gate that is itself attested.
    ///
    /// # Panics
    /// If the project has no gate, or cannot be changed.
    pub fn require_an_attested_gate(&self) {
        let project = fs::read_to_string(self.path("project.yml")).expect("project.yml");
        let (before, after) = project.split_once("gate:\n").expect("the project has a gate");
        fs::write(self.path("project.yml"), format!("{before}gate:\n  attested: true\n{after}")).expect("project.yml is written");
    }

    /// Starts the gate that [`Lab::use_gate`] made.
    ///
    /// # Panics
    /// If it does not listen in time.
    #[must_use]
    pub fn serve_gate(&self) -> Service {
        let mut serve = Command::new(repo::program("coffer-gate"));
        serve.arg("serve").arg("--dir").arg(self.path("gate"));
        let said = |log: &str| log.matches(" listening ").count();
        let before = said(&fs::read_to_string(self.path("gate.log")).unwrap_or_default());
        let gate = Service::start(serve, self.path("gate.log"), self.gate_port);
        // Its port is bound before it has looked at its Flower.
        eventually("the gate serves", Duration::from_secs(30), || (said(&gate.log_text()) > before).then_some(()));
        gate
    }

    /// The port of loopback that the lab's gate listens on.
    #[must_use]
    pub fn gate_port(&self) -> u16 {
        self.gate_port
    }

    /// A command on the gate's folder.
    ///
    /// # Panics
    /// If it fails.
    pub fn gate(&self, args: &[&str]) -> String {
        run(Command::new(repo::program("coffer-gate")).args(args).arg("--dir").arg(self.path("gate")))
    }

    /// What the running gate says of itself.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn gate_status(&self) -> Value {
        serde_json::from_str(&self.gate(&["status", "--json"])).expect("JSON")
    }

    /// Puts `lab-workload`, and the libraries it needs of this machine, into the image of sites built from here on.
    ///
    /// # Panics
    /// If it is not built, or its libraries are not where Debian has them.
    pub fn use_workload(&self) {
        let program = fs::read(repo::program("lab-workload")).expect("the built program");
        let libraries = ["lib64/ld-linux-x86-64.so.2", "lib/x86_64-linux-gnu/libc.so.6", "lib/x86_64-linux-gnu/libgcc_s.so.1"];
        let mut files = vec![("bin/lab-workload".to_owned(), program)];
        for library in libraries {
            let path = PathBuf::from("/").join(library);
            files.push((library.to_owned(), fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))));
        }
        fs::write(self.path("image.tar"), archive::busybox_image_with(&files)).expect("the image is written");
    }

    /// A copy of a bundle's directory: what a host that wants to run a site twice makes.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn clone_bundle(&self, bundle: &super::Bundle, name: &str) -> super::Bundle {
        let dir = self.path(name);
        run(Command::new("cp").arg("-r").arg(&bundle.dir).arg(&dir));
        let _ = fs::remove_dir_all(dir.join("run"));
        super::Bundle { dir, enrollment: bundle.enrollment.clone(), tgz: bundle.tgz.clone() }
    }
}

/// Waits until something is there.
///
/// # Panics
/// If it is not in time.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
