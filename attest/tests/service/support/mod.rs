//! A running service, an HTTP client that pins it, a guest that attests to it.

mod guest;
mod http;
mod kds;
mod raw;
#[path = "../../../protocol/tests/support/stock.rs"]
pub mod stock;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use coffer_evidence::{Family, HostData, LaunchDigest, UnixTime};
use coffer_manifest::disk::RootSecret;
use coffer_manifest::{Enrollment, EnrollmentFile, KitKey, OpenRisks, Role, RootOfTrust, Secrets, Sha256Digest};
use coffer_simulator::{Asp, Hierarchy};
use serde_json::{Value, json};
use tempfile::TempDir;

pub use guest::{Guest, Handshake, random};
pub use http::{Answer, Client};
pub use kds::{Reply, TestKds, pem, table, vcek_path};
pub use raw::{Raw, connect_from};

pub const TLS_NAME: &str = "attest.demo.test";
pub const BASE: LaunchDigest = LaunchDigest::new([0xB0; 48]);
/// S and the kit's key, as no other bytes look.
pub const ROOT_SECRET: [u8; 32] = *b"S-of-the-root-S-of-the-root-S-of";
pub const KIT_KEY: [u8; 32] = *b"key-of-the-kit-key-of-the-kit-ke";

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// One simulator for the whole run: making RSA keys takes seconds.
pub struct Simulator {
    pub hierarchy: Hierarchy,
    pub asp: Asp,
}

pub fn simulator(family: Family) -> &'static Simulator {
    static GENOA: OnceLock<Simulator> = OnceLock::new();
    static MILAN: OnceLock<Simulator> = OnceLock::new();
    let cell = match family {
        Family::Genoa => &GENOA,
        Family::Milan => &MILAN,
        Family::Turin => panic!("no test asks for a Turin root"),
    };
    cell.get_or_init(|| {
        let hierarchy = Hierarchy::generate(family, UnixTime(now())).unwrap();
        let asp = Asp::new(&hierarchy, UnixTime(now())).unwrap();
        Simulator { hierarchy, asp }
    })
}

/// A service folder and, most of the time, the process that serves it.
pub struct Service {
    dir: TempDir,
    child: Option<Child>,
    pub url: String,
    pub root_of_trust: RootOfTrust,
}

impl Service {
    /// A service that believes the Genoa simulator.
    pub fn simulated() -> Self {
        Self::believing(Family::Genoa)
    }

    /// A service that believes the simulator of this family.
    pub fn believing(family: Family) -> Self {
        Self::believing_ark(simulator(family).asp.ark())
    }

    /// A service that believes this simulator, by the DER of its root.
    pub fn believing_ark(ark: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ark_path = dir.path().join("ark.der");
        fs::write(&ark_path, ark).unwrap();
        let root = format!("simulated:{}", ark_path.display());
        Self::make(dir, &root, RootOfTrust::Simulated(Sha256Digest::of(ark)))
    }

    /// The same with other settings.
    pub fn edited(from: &str, to: &str) -> Self {
        let mut service = Self::simulated();
        service.stop();
        let config = service.path().join("coffer-attest.toml");
        let text = fs::read_to_string(&config).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&config, text.replace(from, to)).unwrap();
        service.start();
        service
    }

    /// A service that believes AMD and takes any TCB.
    pub fn production() -> Self {
        let service = Self::make(tempfile::tempdir().unwrap(), "amd-sev-snp", RootOfTrust::AmdSevSnp);
        let zero = json!({ "bootloader": 0, "tee": 0, "snp": 0, "microcode": 0 });
        let mut turin = zero.clone();
        turin["fmc"] = json!(0);
        let families = json!({ "genoa": { "tcb_floor": zero }, "turin": { "tcb_floor": turin } });
        let document = json!({ "type": "coffer/project-policy/v1", "reference_values": { "families": families } });
        service.set_policy(&["--default"], 0, &document);
        service
    }

    /// Writes a file beside the service's folder.
    pub fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    /// Runs a `policy` command.
    pub fn policy(&self, args: &[&str]) -> Output {
        let dir = self.path();
        program(&[&["policy"], args, &["--dir", dir.to_str().unwrap()]].concat())
    }

    /// `policy set`, which must succeed; what it says.
    pub fn set_policy(&self, owner: &[&str], replaces: u64, document: &Value) -> Value {
        let file = self.file("policy.json", document.to_string().as_bytes());
        let replaces = replaces.to_string();
        let set = self.policy(&[&["set", &file, "--replaces", &replaces, "--reason", "test", "--json"], owner].concat());
        assert!(set.status.success(), "{}", stderr(&set));
        serde_json::from_slice(&set.stdout).unwrap()
    }

    fn make(dir: TempDir, root: &str, root_of_trust: RootOfTrust) -> Self {
        let path = dir.path().join("service");
        let made = program(&["init", "--dir", path.to_str().unwrap(), "--root-of-trust", root, "--tls-name", TLS_NAME, "--admin", "ada"]);
        assert!(made.status.success(), "{}", stderr(&made));
        let mut service = Self { dir, child: None, url: String::new(), root_of_trust };
        service.start();
        service
    }

    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// With more arguments to `serve`.
    pub fn start_with(&mut self, more: &[&str]) {
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_coffer-attest"))
            .args(["serve", "--listen", "127.0.0.1:0", "--dir"])
            .arg(self.path())
            .args(more)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.child = Some(child);
        let url = line.trim().strip_prefix("listening ");
        self.url = url.unwrap_or_else(|| panic!("`{line}`, log: {}", self.log())).to_owned();
    }

    /// SIGTERM, then waits for a clean end.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let sent = Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(sent.success());
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{status}, log: {}", self.log());
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("did not stop within 10 s of SIGTERM");
    }

    /// SIGKILL: nothing is finished, nothing is tidied up.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("service")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn client(&self) -> Client {
        Client::new(&self.url, &self.path().join("tls/ca.pem"), TLS_NAME)
    }

    /// Runs a `site` command.
    pub fn site(&self, args: &[&str]) -> Output {
        let dir = self.path();
        program(&[&["site"], args, &["--dir", dir.to_str().unwrap()]].concat())
    }

    /// `site show --json`.
    pub fn show(&self, site: &str) -> Value {
        let shown = self.site(&["show", site, "--json"]);
        assert!(shown.status.success(), "{}", stderr(&shown));
        serde_json::from_slice(&shown.stdout).unwrap()
    }

    /// The newest decision about a site.
    pub fn last_decision(&self, site: &str) -> Value {
        self.show(site)["decisions"][0].clone()
    }

    /// A record of project `demo`.
    pub fn record(&self, site: &str, host_data: HostData) -> Enrollment {
        Enrollment {
            kind: Default::default(),
            host_data,
            project: "demo".parse().unwrap(),
            site: site.parse().unwrap(),
            role: Role::Client,
            site_svn: 1,
            base_svn: 1,
            root_of_trust: self.root_of_trust,
            launch_digests: vec![BASE],
            token_expiration: 300,
            open_risks: OpenRisks { aml: "restricted".to_owned() },
            supersedes: None,
            overlap_seconds: None,
            author_key_digest: None,
            minimum_guest_svn: None,
            chip_ids: Vec::new(),
            tcb_floor: None,
        }
    }

    /// Writes the enrollment file of a record, as `coffer build` does.
    pub fn enrollment_file(&self, record: Enrollment) -> PathBuf {
        let path = self.dir.path().join(format!("{}-{}.json", record.site, &record.host_data.to_string()[..12]));
        let secrets = Secrets { root: RootSecret::new(ROOT_SECRET), kit: Some(KitKey::new(KIT_KEY)) };
        let bytes = EnrollmentFile { record, secrets }.to_bytes().unwrap();
        fs::write(&path, &bytes).unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    pub fn enroll(&self, record: Enrollment) {
        let file = self.enrollment_file(record);
        let done = self.site(&["enroll", file.to_str().unwrap()]);
        assert!(done.status.success(), "{}", stderr(&done));
    }

    /// Enrolls `demo/<site>` and gives the guest that belongs to it.
    pub fn enrolled_guest(&self, site: &str) -> Guest {
        let guest = Guest::new(&simulator(Family::Genoa).asp, BASE, host_data(site));
        self.enroll(self.record(site, guest.host_data()));
        guest
    }
}

/// A file of mode 0600.
pub fn write_private(path: &std::path::Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// HOST_DATA of a site config that nobody needs to see.
pub fn host_data(site: &str) -> HostData {
    HostData::new(*Sha256Digest::of(site.as_bytes()).as_bytes())
}

pub fn program(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coffer-attest")).args(args).stdin(Stdio::null()).output().unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
