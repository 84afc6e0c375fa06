//! The real `coffer-attest`, and sites that prove themselves to it on a simulated processor.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use coffer_evidence::{Family, GuestPolicy, HostData, LaunchDigest, ReportData, ReportFields, UnixTime};
use coffer_manifest::disk::RootSecret;
use coffer_manifest::{Enrollment, EnrollmentFile, KitKey, OpenRisks, Role, RootOfTrust, Secrets, Sha256Digest};
use coffer_protocol::{BoundKeys, Challenge, KeySet, P384Key, Purpose, Request, RuntimeData, TeeKey, TokenResponse, attestation_body};
use coffer_simulator::{Asp, Hierarchy};
use coffer_token::Hex;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use system_tests::repo;
use tempfile::TempDir;

use super::boot::{Boot, BootKey};
use super::issuer::TLS_NAME;
use super::{now, random, terminate};

/// The one base that sites are enrolled with.
pub const BASE: LaunchDigest = LaunchDigest::new([0xB0; 48]);

/// One processor for the whole run: making RSA keys takes a second or two.
pub fn processor() -> &'static Asp {
    static ASP: OnceLock<Asp> = OnceLock::new();
    ASP.get_or_init(|| {
        let hierarchy = Hierarchy::generate(Family::Genoa, UnixTime(now())).unwrap();
        Asp::new(&hierarchy, UnixTime(now())).unwrap()
    })
}

/// A service's folder and, most of the time, the process that serves it.
pub struct Service {
    dir: TempDir,
    child: Option<Child>,
    /// `127.0.0.1:port`, the same after a restart.
    pub address: String,
    root_of_trust: RootOfTrust,
    /// Seconds by which its clock is ahead.
    ahead: Option<i64>,
}

/// A boot together with the guest that the processor signs for.
#[derive(Clone)]
pub struct Guest {
    pub boot: Boot,
    guest: coffer_simulator::Guest,
}

/// The service's answer to evidence: a token, or the status and reason code of a refusal.
pub type Attested = Result<String, (u16, String)>;

impl Service {
    /// One that believes the simulator.
    pub fn start() -> Self {
        Self::ahead(None)
    }

    /// The same with its clock so many seconds ahead.
    pub fn ahead(ahead: Option<i64>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ark = processor().ark();
        let ark_path = dir.path().join("ark.der");
        fs::write(&ark_path, ark).unwrap();
        let root = format!("simulated:{}", ark_path.display());
        let mut service = Self {
            dir,
            child: None,
            address: "127.0.0.1:0".to_owned(),
            root_of_trust: RootOfTrust::Simulated(Sha256Digest::of(ark)),
            ahead,
        };
        service.works(&["init", "--root-of-trust", &root, "--tls-name", TLS_NAME, "--admin", "ada"]);
        service.edit("burst_per_source = 500", "burst_per_source = 100000");
        service.up();
        service
    }

    /// Changes its settings; counts from the next start.
    pub fn edit(&self, from: &str, to: &str) {
        let path = self.path().join("coffer-attest.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Serves, at the address it had before if it had one.
    pub fn up(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = super::at_another_time(&repo::program("coffer-attest"), self.ahead);
        command.args(["serve", "--listen", &self.address, "--dir"]).arg(self.path()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.child = Some(child);
        let url = line.trim().strip_prefix("listening https://");
        self.address = url.unwrap_or_else(|| panic!("`{line}`, log: {}", self.log())).to_owned();
    }

    /// Stops it.
    pub fn down(&mut self) {
        terminate(self.child.take().unwrap());
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("service")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Runs a command on its folder.
    pub fn run(&self, args: &[&str]) -> Output {
        let mut command = super::at_another_time(&repo::program("coffer-attest"), self.ahead);
        command.args(args).arg("--dir").arg(self.path()).stdin(Stdio::null()).output().unwrap()
    }

    /// The same, which must succeed; what it prints.
    #[track_caller]
    pub fn works(&self, args: &[&str]) -> String {
        let done = self.run(args);
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    /// Enrolls `demo/<site>` and boots it.
    pub fn enrolled(&self, site: &str) -> Guest {
        self.enrolled_as("demo", site, Role::Client)
    }

    /// Enrolls a site of any project and role and boots it.
    pub fn enrolled_as(&self, project: &str, site: &str, role: Role) -> Guest {
        let host_data = HostData::new(*Sha256Digest::of(format!("{project}/{site}").as_bytes()).as_bytes());
        self.enroll(self.record(project, site, role, host_data));
        Guest::boot(site, host_data)
    }

    /// An enrollment's record.
    pub fn record(&self, project: &str, site: &str, role: Role, host_data: HostData) -> Enrollment {
        Enrollment {
            kind: Default::default(),
            host_data,
            project: project.parse().unwrap(),
            site: site.parse().unwrap(),
            role,
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

    /// Hands in a record, as the project's admin.
    pub fn enroll(&self, record: Enrollment) {
        let path = self.dir.path().join(format!("{}-{}.json", record.site, &record.host_data.to_string()[..12]));
        let secrets = Secrets { root: RootSecret::new([1; 32]), kit: Some(KitKey::new([2; 32])) };
        fs::write(&path, EnrollmentFile { record, secrets }.to_bytes().unwrap()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        self.works(&["site", "enroll", path.to_str().unwrap()]);
    }

    /// A token of the newest evidence of a guest.
    #[track_caller]
    pub fn token(&self, guest: &Guest) -> String {
        self.attest(guest, |_| ()).unwrap_or_else(|refused| panic!("{refused:?}, log: {}", self.log()))
    }

    /// A renewal with other words in the report, properly signed.
    pub fn attest(&self, guest: &Guest, change: impl FnOnce(&mut ReportFields)) -> Attested {
        self.attest_as(guest, &guest.boot.key, change)
    }

    /// The genuine evidence of a guest, over its own keys, handed in by somebody who wants a token for another key.
    pub fn attest_relayed(&self, guest: &Guest, key: &BootKey) -> Attested {
        self.attest_as(guest, key, |_| ())
    }

    fn attest_as(&self, guest: &Guest, named: &BootKey, change: impl FnOnce(&mut ReportFields)) -> Attested {
        let mut http = self.connect();
        let (_, cookie, challenge) = http.post("/kbs/v0/auth", None, &Request::body(true));
        let challenge = Challenge::parse(&challenge).unwrap();
        let tee_key = TeeKey::from_random(&random()).unwrap();
        let node = guest.boot.node.as_ref().map(|node| P384Key::from_sec1(&node.to_sec1().unwrap()).unwrap());
        let runtime_data = |key: &BootKey| {
            let keys = KeySet { tls: P384Key::from_sec1(&key.sec1).unwrap(), node: node.clone(), wg: None };
            let bound = BoundKeys { purpose: Purpose::Renew, keys };
            RuntimeData { nonce: challenge.nonce, tee_pubkey: tee_key.public(), coffer: Some(bound) }
        };
        let report_data = ReportData::new(*runtime_data(&guest.boot.key).report_data("").unwrap().as_bytes());
        let mut fields = processor().fields(&guest.guest, report_data, 0);
        change(&mut fields);
        let wire = processor().evidence_of(&fields).unwrap().to_raw_value().unwrap();
        let body = attestation_body(&runtime_data(named), &wire, "").unwrap();
        let (status, _, answer) = http.post("/kbs/v0/attest", cookie.as_deref(), &body);
        if status == 200 {
            return Ok(TokenResponse::parse(&answer).unwrap().token);
        }
        let problem: Value = serde_json::from_slice(&answer).unwrap();
        let detail = problem["detail"].as_str().unwrap();
        Err((status, detail.split(':').next().unwrap().to_owned()))
    }

    fn connect(&self) -> Http {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path().join("tls/ca.pem")).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let config = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots).with_no_client_auth();
        let connection = ClientConnection::new(Arc::new(config), TLS_NAME.try_into().unwrap()).unwrap();
        let socket = TcpStream::connect(&self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Http(BufReader::new(StreamOwned::new(connection, socket)))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill().and_then(|()| child.wait());
        }
    }
}

impl Guest {
    /// A launch with this HOST_DATA.
    pub fn boot(site: &str, host_data: HostData) -> Self {
        let guest = coffer_simulator::Guest::launch(BASE, host_data, GuestPolicy(0x3_0000)).unwrap();
        let instance = Hex(*guest.report_id.as_bytes());
        let boot = Boot { site: site.to_owned(), host_data: Hex(*host_data.as_bytes()), instance, key: BootKey::generate(), node: None };
        Self { boot, guest }
    }

    /// The same site config booted once more, on the same processor.
    pub fn again(&self) -> Self {
        Self::boot(&self.boot.site, self.guest.host_data)
    }
}

/// One connection of HTTP/1.1 over TLS.
struct Http(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Http {
    /// Status, session cookie, body.
    fn post(&mut self, path: &str, cookie: Option<&str>, body: &[u8]) -> (u16, Option<String>, Vec<u8>) {
        let cookie = cookie.map(|value| format!("cookie: kbs-session-id={value}\r\n")).unwrap_or_default();
        let head = format!("POST {path} HTTP/1.1\r\nhost: {TLS_NAME}\r\n{cookie}content-length: {}\r\n\r\n", body.len());
        self.0.get_mut().write_all(&[head.as_bytes(), body].concat()).unwrap();
        self.read().unwrap()
    }

    fn read(&mut self) -> io::Result<(u16, Option<String>, Vec<u8>)> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let header = |name: &str| {
            let named = |line: &(&str, &str)| line.0.eq_ignore_ascii_case(name);
            head.lines().filter_map(|line| line.split_once(": ")).find(named).map(|(_, value)| value.to_owned())
        };
        let cookie = header("set-cookie").map(|line| line["kbs-session-id=".len()..].split(';').next().unwrap().to_owned());
        let mut body = vec![0; header("content-length").map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body)?;
        Ok((head.split(' ').nth(1).unwrap().parse().unwrap(), cookie, body))
    }
}
