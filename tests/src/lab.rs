//! A federation on one machine: a simulator, a key service, sites built for them, and their VMs under emulation.
//!
//! Everything goes through the built programs and through `launch_vm.sh`, as an admin and a site would; attacks change what
//! lies in a bundle, or stand in for a program that an untrusted host runs.

mod archive;
mod boot;
mod flower;
mod gate;
mod upstream;
mod workload;

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::repo;
pub use archive::{SECRET_MARK, blob, busybox_image};
pub use boot::{Boot, Running};
pub use flower::{Flower, Process};
pub use gate::{WORKLOAD_SERVER, eventually};
pub use upstream::{Seen, Upstream};
pub use workload::{Reports, Workload};

/// How long a service may take to listen.
const SERVICE_START: Duration = Duration::from_secs(20);

/// A simulator, a key service's folder and the sites built for them, removed when dropped.
pub struct Lab {
    dir: TempDir,
    port: u16,
    gate_port: u16,
}

/// What a test wants to be different in a site.
pub struct Site<'a> {
    /// Site name.
    pub name: &'a str,
    /// What it is in its federation.
    pub role: &'a str,
    /// What runs: the argument of `sh -c`.
    pub script: &'a str,
    /// Seconds for which the guest tries to reach its service.
    pub retry_for: u32,
    /// Whether it has a kit, with one file that holds [`SECRET_MARK`].
    pub kit: bool,
    /// More lines of the `cc_*.yml`.
    pub more: &'a str,
}

impl Default for Site<'_> {
    fn default() -> Self {
        Self { name: "site-1", role: "client", script: "echo hello from $(id -u)", retry_for: 60, kit: true, more: "" }
    }
}

/// A built bundle and its enrollment file.
pub struct Bundle {
    /// `cvm_<id>/`.
    pub dir: PathBuf,
    /// `enroll/<site>.json`.
    pub enrollment: PathBuf,
    /// `<site>.tgz`.
    pub tgz: PathBuf,
}

/// A running `coffer-attest` or `coffer-gate`, stopped when dropped.
pub struct Service {
    child: Child,
    /// Its output.
    pub log: PathBuf,
}

impl Lab {
    /// Makes a simulator's keys and a service that trusts them. Nothing runs yet.
    ///
    /// # Panics
    /// If a program fails.
    #[must_use]
    pub fn new() -> Self {
        let [port, gate_port] = free_ports();
        let lab = Self { dir: TempDir::with_prefix("coffer-lab-").expect("a temporary folder"), port, gate_port };
        run(Command::new(repo::program("coffer-simulator")).arg("init").arg(lab.path("simulator")));
        lab.init_service("service");
        lab.write_project("service/tls/ca.pem");
        fs::write(lab.path("image.tar"), busybox_image()).expect("the image is written");
        fs::create_dir(lab.path("kit")).expect("a folder");
        fs::write(lab.path("kit/node.key"), format!("{SECRET_MARK}\n")).expect("a file");
        lab
    }

    /// A path in the lab.
    #[must_use]
    pub fn path(&self, rel: &str) -> PathBuf {
        self.dir.path().join(rel)
    }

    /// The URL the lab's sites find their service at.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://10.0.2.2:{}", self.port)
    }

    /// Makes the folder of another key service, with keys and a CA of its own.
    ///
    /// # Panics
    /// If `coffer-attest init` fails.
    pub fn init_service(&self, name: &str) {
        let root = format!("simulated:{}", self.path("simulator/ark.pem").display());
        let mut init = Command::new(repo::program("coffer-attest"));
        run(init.arg("init").arg("--dir").arg(self.path(name)).args(["--root-of-trust", &root, "--tls-name", "attest.demo.test"]));
    }

    /// Gives the project an author key of this name: sites built from here on have ID blocks.
    ///
    /// # Panics
    /// If `coffer author-key new` fails.
    pub fn use_author_key(&self, name: &str) {
        run(Command::new(repo::program("coffer")).args(["author-key", "new", "--out"]).arg(self.path(name)));
        self.write_project("service/tls/ca.pem");
        self.add_to_project(&format!("author_key: {name}\n"));
    }

    /// Gives the project another name: sites built from here on are of another federation.
    ///
    /// # Panics
    /// If project.yml cannot be changed.
    pub fn name_project(&self, name: &str) {
        let project = fs::read_to_string(self.path("project.yml")).expect("project.yml");
        let (_, rest) = project.split_once('\n').expect("the name is the first line");
        fs::write(self.path("project.yml"), format!("name: {name}\n{rest}")).expect("project.yml is written");
    }

    fn add_to_project(&self, lines: &str) {
        let project = fs::read_to_string(self.path("project.yml")).expect("project.yml");
        fs::write(self.path("project.yml"), project + lines).expect("project.yml is written");
    }

    fn write_project(&self, ca: &str) {
        let project = format!(
            "name: demo\nkey_service:\n  kind: coffer\n  urls: [{}]\n  tls_name: attest.demo.test\n  ca: [{ca}]\nsimulator_ark: simulator/ark.pem\n",
            self.url()
        );
        fs::write(self.path("project.yml"), project).expect("project.yml is written");
    }

    /// Builds a site on the shared simulated base.
    ///
    /// # Panics
    /// If `coffer build` fails.
    #[must_use]
    pub fn build(&self, site: &Site<'_>) -> Bundle {
        let spec = self.path(&format!("cc_{}.yml", site.name));
        let script = serde_json::to_string(site.script).expect("a string is JSON, and JSON is YAML");
        let kit = if site.kit { "kit:\n  /etc/kit: kit\n" } else { "" };
        let yaml = format!(
            "compute_env: onprem_cvm\ncc_cpu_mechanism: amd_sev_snp\nrole: {}\nroot_drive_size: 1\napplog_drive_size: 1\n\
             user_config_drive_size: 1\nuser_data_drive_size: 1\ndocker_archive: image.tar\n{kit}\
             container:\n  command: [sh, -c, {script}]\ncc_attestation:\n  retry_for: {}\n{}",
            site.role, site.retry_for, site.more
        );
        fs::write(&spec, yaml).expect("the site's file is written");
        let out = self.path(&format!("out-{}", site.name));
        run(Command::new(repo::program("coffer")).args(["build", "--base"]).arg(base()).arg("-o").arg(&out).arg(&spec));
        let dir = only_entry(&out.join(site.name), "cvm_");
        let file = |rel: String| out.join(rel);
        Bundle { dir, enrollment: file(format!("enroll/{}.json", site.name)), tgz: file(format!("{0}/{0}.tgz", site.name)) }
    }

    /// Starts the lab's key service.
    #[must_use]
    pub fn serve(&self) -> Service {
        self.serve_as("service")
    }

    /// Starts the key service of another folder at the lab's address.
    ///
    /// # Panics
    /// If it does not listen in time.
    #[must_use]
    pub fn serve_as(&self, name: &str) -> Service {
        let mut serve = Command::new(repo::program("coffer-attest"));
        serve.arg("serve").arg("--dir").arg(self.path(name)).args(["--listen", &format!("127.0.0.1:{}", self.port)]);
        Service::start(serve, self.path(&format!("{name}.log")), self.port)
    }

    /// Enrolls a bundle at the running service.
    ///
    /// # Panics
    /// If it is refused.
    pub fn enroll(&self, bundle: &Bundle) {
        run(self.admin(&["site", "enroll"]).arg(&bundle.enrollment).arg("--accept-aml-risk"));
    }

    /// An admin's call to the running service.
    #[must_use]
    pub fn admin(&self, args: &[&str]) -> Command {
        let mut command = Command::new(repo::program("coffer-attest"));
        command.args(args).arg("--dir").arg(self.path("service"));
        command
    }

    /// Boots a bundle with its own `launch_vm.sh --simulate` and waits for its end.
    #[must_use]
    pub fn boot(&self, bundle: &Bundle) -> Boot {
        self.start(bundle, &[]).wait()
    }

    /// Starts a bundle, `args` being more options of `launch_vm.sh`.
    #[must_use]
    pub fn start(&self, bundle: &Bundle, args: &[&OsStr]) -> Running {
        Running::start(bundle, &self.path("simulator"), args)
    }

    /// Writes an executable script, for standing in for a program of the host.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("the script is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the script is executable");
        path
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Service {
    /// Starts a program that is to listen on this port of loopback; its output goes to `log`, after what is there.
    fn start(mut serve: Command, log: PathBuf, port: u16) -> Self {
        let output = fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log file");
        serve.stdin(Stdio::null()).stdout(output.try_clone().expect("a handle")).stderr(output);
        let mut service = Self { child: serve.spawn().expect("the program starts"), log };
        let deadline = Instant::now() + SERVICE_START;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = service.child.try_wait().expect("its state");
            assert!(ended.is_none() && Instant::now() < deadline, "{serve:?} does not listen: {ended:?}\n{}", service.log_text());
            sleep(Duration::from_millis(50));
        }
        service
    }

    /// What it has said.
    #[must_use]
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing more to do then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Bundle {
    /// What `coffer logs` says of it.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn logs(&self) -> String {
        run(Command::new(repo::program("coffer")).arg("logs").arg(&self.dir))
    }

    /// A file of the bundle.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// The simulated base all labs share, built once for each build of the programs.
///
/// # Panics
/// If it cannot be built.
#[must_use]
pub fn base() -> PathBuf {
    let init = repo::guest_program("coffer-init-simulated");
    let tool = repo::program("coffer");
    let stamp = |path: &Path| {
        let data = fs::metadata(path).expect("a built program");
        let time = data.modified().expect("a time").duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        format!("{:x}-{:x}", data.len(), time.as_nanos())
    };
    let tier = repo::target().join("qemu-tier");
    let name = format!("base-{}-{}", stamp(&init), stamp(&tool));
    let dir = tier.join(&name);
    if !dir.is_dir() {
        fs::create_dir_all(&tier).expect("a folder");
        // Bases of earlier builds: each holds a kernel and a firmware.
        for entry in fs::read_dir(&tier).expect("a folder").flatten() {
            if !entry.file_name().to_string_lossy().starts_with(&name) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        // Tests are processes of their own: each that finds none builds one beside, and the first to be ready puts it there.
        let own = tier.join(format!("{name}.{}", std::process::id()));
        let mut build = Command::new(tool);
        build.args(["base", "build", "--simulated", "--unlocked", "--init"]).arg(init).arg("-o").arg(&own);
        run(build.arg("--cache").arg(repo::root().join("cache/base")));
        if fs::rename(&own, &dir).is_err() {
            assert!(dir.is_dir(), "{} is not put in its place", own.display());
            let _ = fs::remove_dir_all(&own);
        }
    }
    dir
}

/// Runs a program to its end and returns its standard output.
///
/// # Panics
/// If it fails, with its output.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Ports nobody listens on now.
fn free_ports<const N: usize>() -> [u16; N] {
    // All at once, so that none is given twice.
    let listeners = [(); N].map(|()| TcpListener::bind(("127.0.0.1", 0)).expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("its address").port())
}

fn only_entry(dir: &Path, prefix: &str) -> PathBuf {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut found = entries.map(|entry| entry.expect("an entry").path());
    found.find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix))).expect("one entry")
}
