//! The operator's guide, `README.md`: every command in it is run, in order, in one folder, with the built program.
//!
//! What a laboratory has to change is in [`Lab::here`], and nothing else is: another root of trust, addresses, the values that the guide
//! leaves to its reader.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use coffer_evidence::{Family, ReportData};
use coffer_manifest::Enrollment;
use tempfile::TempDir;

use crate::collateral::honest;
use crate::support::{BASE, Client, Guest, ROOT_SECRET, Service, TestKds, host_data, simulator, stderr, table};

const TLS_NAME: &str = "attest.example.org";

/// The fenced blocks of one language.
fn blocks(guide: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    guide.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// A line without the comment at its end.
fn command(line: &str) -> &str {
    if line.starts_with('#') { line } else { line.split("  #").next().unwrap().trim_end() }
}

struct Lab {
    dir: TempDir,
    /// Makes records and files for this root of trust; nobody talks to it.
    donor: Service,
    kds: TestKds,
    serving: Option<Child>,
    url: String,
    /// What the guide's `$AT` is now.
    at: String,
    /// The id of a refusal, once there is one.
    id: String,
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(mut child) = self.serving.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let asp = &simulator(Family::Genoa).asp;
        let lab = Self {
            dir,
            donor: Service::simulated(),
            kds: TestKds::start(table(honest(&[asp]))),
            serving: None,
            url: String::new(),
            at: String::new(),
            id: String::new(),
        };
        fs::create_dir_all(lab.path("bin")).unwrap();
        symlink(env!("CARGO_BIN_EXE_coffer-attest"), lab.path("bin/coffer-attest")).unwrap();
        fs::create_dir_all(lab.path("out/enroll")).unwrap();
        fs::write(lab.path("ark.der"), asp.ark()).unwrap();
        lab.kds.write_ca(&lab.path("kds-ca.pem"));
        let first = lab.donor.record("site-1", host_data("site-1"));
        let mut second = lab.donor.record("site-1", host_data("site-1, second config"));
        second.supersedes = Some(first.host_data);
        lab.enrollment("site-1", first);
        lab.enrollment("site-1-v2", second);
        lab.enrollment("site-2", lab.donor.record("site-2", host_data("site-2")));
        let evidence = asp.evidence(&lab.guest("site-1, second config").guest, ReportData::new([3; 64])).unwrap();
        fs::write(lab.path("evidence.json"), evidence.to_raw_value().unwrap().to_string()).unwrap();
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn enrollment(&self, name: &str, record: Enrollment) {
        let to = self.path(&format!("out/enroll/{name}.json"));
        fs::copy(self.donor.enrollment_file(record), &to).unwrap();
        fs::set_permissions(to, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn guest(&self, config: &str) -> Guest {
        Guest::new(&simulator(Family::Genoa).asp, BASE, host_data(config))
    }

    fn client(&self, folder: &str) -> Client {
        Client::new(&self.url, &self.path(folder).join("tls/ca.pem"), TLS_NAME)
    }

    /// A command of the guide as it has to be here.
    fn here(&self, command: &str) -> String {
        let asp = &simulator(Family::Genoa).asp;
        let chip = asp.fields(&self.guest("nobody").guest, ReportData::new([0; 64]), 0).chip_id.to_string();
        let mut here = command.replace("$AT", &self.at);
        for (theirs, ours) in [
            ("--root-of-trust amd-sev-snp", "--root-of-trust simulated:ark.der"),
            ("0.0.0.0:8999", "127.0.0.1:0"),
            ("--url https://attest.example.org:8999", &format!("--url {} --tls-name {TLS_NAME}", self.url)),
            // A simulated service starts with a policy, version 1.
            ("--default --replaces 0", "--default --replaces 1"),
            ("explain ID", &format!("explain {}", self.id)),
            ("--report-data HEX", &format!("--report-data {} --ark ark.der", "03".repeat(64))),
            ("--chip CHIP", &format!("--chip {chip}")),
            ("collateral download", &format!("collateral download --url {} --ca kds-ca.pem", self.kds.url)),
        ] {
            here = here.replace(theirs, ours);
        }
        here
    }

    /// What the guide's reader has or does between two commands.
    fn meanwhile(&mut self, command: &str) {
        if command.contains("revoke site demo/site-2") {
            self.shell("coffer-attest site enroll out/enroll/site-2.json --dir service");
        } else if command.contains("explain ID") {
            let refused = self.guest("site-1, second config").attest_with(&self.client("service"), |f| f.vmpl = 1);
            self.id = refused.answer.refusal_id();
        }
    }

    fn run(&mut self, command: &str) {
        self.meanwhile(command);
        if command.starts_with("# stop the service") {
            self.stop();
        } else if let Some(at) = command.strip_prefix("AT=") {
            self.at = at.trim_matches('"').to_owned();
        } else if let Some(serve) = command.strip_suffix(" &") {
            self.serve(&self.here(serve));
        } else {
            self.shell(&self.here(command));
        }
    }

    #[track_caller]
    fn shell(&self, line: &str) {
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        let done =
            Command::new("sh").args(["-ec", line]).current_dir(self.dir.path()).env("PATH", path).stdin(Stdio::null()).output().unwrap();
        assert!(done.status.success(), "`{line}` exits with {:?}: {}", done.status.code(), stderr(&done));
    }

    fn serve(&mut self, line: &str) {
        assert!(self.serving.is_none(), "two services at a time: {line}");
        let mut words = line.split_whitespace();
        assert_eq!(words.next(), Some("coffer-attest"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_coffer-attest"));
        command.args(words).current_dir(self.dir.path()).stdout(Stdio::piped());
        command.stderr(fs::File::options().create(true).append(true).open(self.path("log")).unwrap());
        let mut child = command.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        self.serving = Some(child);
        let log = || fs::read_to_string(self.path("log")).unwrap();
        self.url = said.trim().strip_prefix("listening ").unwrap_or_else(|| panic!("`{line}`: {said}{}", log())).to_owned();
    }

    fn stop(&mut self) {
        let mut child = self.serving.take().unwrap();
        assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn every_command_of_the_guide_works_in_its_order() {
    let guide = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let mut lab = Lab::new();
    let [policy] = &blocks(&guide, "json")[..] else { panic!("the guide has one document, the first policy") };
    fs::write(lab.path("policy.json"), policy).unwrap();
    let lines: Vec<String> = blocks(&guide, "sh").iter().flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let ours = lines.iter().filter(|line| line.starts_with("coffer-attest ")).count();
    assert!(ours >= 35, "only {ours} commands found");
    for line in &lines {
        lab.run(command(line));
    }
    // What was restored serves who is enrolled and nobody who was revoked.
    let client = lab.client("restored");
    let guest = lab.guest("site-1, second config");
    let accepted = guest.attest(&client);
    assert_eq!(accepted.open(&client.get(&guest.resource("site-1", ""), Some(accepted.session()))), ROOT_SECRET);
    lab.guest("site-1").attest(&client).answer.expect_refusal(403, "revoked");
    lab.guest("site-2").attest(&client).answer.expect_refusal(403, "revoked");
}

/// A guide that names what is not there would be worse than none.
#[test]
fn every_command_the_guide_names_in_its_text_exists() {
    let guide = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let help = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help.txt")).unwrap();
    let mut seen = 0;
    for span in guide.split('`').skip(1).step_by(2).filter(|span| span.starts_with("coffer-attest ")) {
        let plain = |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !word.starts_with('-');
        let words: Vec<&str> = span.split_whitespace().skip(1).take_while(plain).collect();
        if !words.is_empty() {
            let usage = format!("$ coffer-attest {} --help", words.join(" "));
            assert!(help.contains(&usage) || help.contains(&format!("$ coffer-attest {} --help", words[0])), "`{span}`");
            seen += 1;
        }
    }
    assert!(seen > 3, "{seen} commands in the text");
}
