//! The program as `launch_vm.sh --simulate` uses it, up to a verdict over the evidence it gives.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use coffer_evidence::{Family, HostData, LaunchDigest, Report, ReportData, SnpEvidence, parse_cert_table, pem_certificates};
use coffer_simulator::{StateError, ark_digest, load};
use coffer_verify::{Collateral, Enrolled, Expected, ReferenceValues, Revoked, Roots, UnixTime, verify};
use system_tests::vectors;
use tempfile::TempDir;

const HOST_DATA: &str = "ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01";

fn simulator() -> Command {
    Command::new(env!("CARGO_BIN_EXE_coffer-simulator"))
}

fn init(dir: &Path, product: &str) -> Output {
    simulator().arg("init").arg(dir).args(["--product", product]).output().unwrap()
}

fn now() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs())
}

/// The help texts are part of the interface. `BLESS=1` writes them.
#[test]
fn help_is_golden() {
    let mut all = String::new();
    for words in [&["--help"][..], &["init", "--help"], &["run", "--help"]] {
        let output = simulator().args(words).output().unwrap();
        all.push_str(&format!("$ coffer-simulator {}\n{}\n", words.join(" "), String::from_utf8(output.stdout).unwrap()));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help.txt");
    if std::env::var_os("BLESS").is_some_and(|v| v == "1") {
        fs::write(&path, &all).unwrap();
    }
    assert_eq!(all, fs::read_to_string(&path).unwrap_or_default(), "run BLESS=1 cargo test and review the diff");
}

#[test]
fn init_makes_a_processor_once() {
    let temp = TempDir::new().unwrap();
    let dir = temp.path().join("sim");
    let done = init(&dir, "turin");
    assert!(done.status.success(), "{done:?}");
    let pem = fs::read(dir.join("ark.pem")).unwrap();
    let ark = pem_certificates(&pem).unwrap().remove(0);
    assert_eq!(String::from_utf8(done.stdout).unwrap(), format!("simulated:{}\n", ark_digest(&ark)));
    assert_eq!(Roots::simulated(&pem).unwrap().root_of_trust().to_string(), format!("simulated:{}", ark_digest(&ark)));

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&dir.join("vcek.key"))), (0o700, 0o600));
    let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["ark.pem", "ask.pem", "crl.der", "state.json", "vcek.key", "vcek.pem"]);
    let crl = Roots::simulated(&pem).unwrap().check_crl(&fs::read(dir.join("crl.der")).unwrap()).unwrap();
    assert_eq!((crl.family(), crl.crl().revoked().len()), (Family::Turin, 0));
    assert!(crl.crl().this_update() <= now() && crl.crl().next_update() > Some(UnixTime(now().0 + 20 * 365 * 86_400)));

    let asp = load(&dir).unwrap();
    assert_eq!(asp.platform().family, Family::Turin);
    assert_eq!(asp.ark(), ark);
    // AMD's serial number, behind two sequences and the version: 0.
    assert_eq!(asp.vcek().certificate()[13..16], [2, 1, 0]);

    let again = init(&dir, "genoa");
    assert_eq!(again.status.code(), Some(1));
    let text = String::from_utf8(again.stderr).unwrap();
    assert!(text.starts_with("coffer-simulator: ") && text.contains("exists already\ncoffer-simulator: hint: "), "{text}");
    assert_eq!(load(&dir).unwrap().ark(), ark);
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1, "nothing is left beside it");
    assert_eq!(init(&temp.path().join("x"), "rome").status.code(), Some(2));
}

#[test]
fn a_damaged_folder_is_refused() {
    let temp = TempDir::new().unwrap();
    let dir = temp.path().join("sim");
    assert!(init(&dir, "milan").status.success());
    let state = fs::read_to_string(dir.join("state.json")).unwrap();
    let with_state = |text: &str| {
        fs::write(dir.join("state.json"), text).unwrap();
        load(&dir)
    };
    assert!(matches!(with_state(&state.replace("\"v\": 1", "\"v\": 2")), Err(StateError::Version { got: 2, .. })));
    assert!(matches!(with_state(&state.replace("\"v\"", "\"w\": 1, \"v\"")), Err(StateError::Json { .. })));
    assert!(matches!(with_state(""), Err(StateError::Json { .. })));
    assert!(with_state(&state).is_ok());
    fs::write(dir.join("vcek.key"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
    assert!(matches!(load(&dir), Err(StateError::Key(_))));
    fs::write(dir.join("vcek.key"), "").unwrap();
    assert!(matches!(load(&dir), Err(StateError::Pem { .. })));
    fs::remove_file(dir.join("vcek.pem")).unwrap();
    assert!(matches!(load(&dir), Err(StateError::File { .. })));
}

/// A `run` that has said `ready`.
struct Running {
    child: Child,
    port: UnixStream,
}

impl Running {
    /// `coffer-simulator run` over the vectors' firmware, kernel and initrd; `None` without vectors.
    fn command(state: &Path, run_dir: &Path) -> Option<Command> {
        let file = |name: &str| vectors::path(&format!("measure/{name}"));
        let mut command = simulator();
        command.arg("run").arg("--state").arg(state).arg("--run-dir").arg(run_dir);
        command.arg("--ovmf").arg(file("sev-snp-measure/ovmf_AmdSev_suffix.bin")?);
        command.arg("--kernel").arg(file("derived/kernel.bin")?).arg("--initrd").arg(file("derived/initrd.bin")?);
        command.args(["--append", "console=ttyS0 root=/dev/vda1 ro systemd.verity=1"]);
        command.args(["--vcpus", "2", "--host-data", HOST_DATA]);
        Some(command)
    }

    fn start(mut command: Command, run_dir: &Path) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let port = UnixStream::connect(run_dir.join("asp.sock")).unwrap();
        Self { child, port }
    }

    /// Sends a request as PID 1 does and reads (status, report, certificate table).
    fn ask(&mut self, request: &[u8]) -> (u32, Vec<u8>, Vec<u8>) {
        self.port.write_all(&u32::try_from(request.len()).unwrap().to_le_bytes()).unwrap();
        self.port.write_all(request).unwrap();
        self.answer()
    }

    fn answer(&mut self) -> (u32, Vec<u8>, Vec<u8>) {
        (self.number(), self.part(), self.part())
    }

    fn number(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.port.read_exact(&mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    fn part(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; self.number() as usize];
        self.port.read_exact(&mut bytes).unwrap();
        bytes
    }
}

fn request(report_data: [u8; 64], vmpl: u32, key_sel: u32) -> Vec<u8> {
    [&report_data[..], &vmpl.to_le_bytes(), &key_sel.to_le_bytes(), &[0; 24]].concat()
}

/// What sev-snp-measure says of these very files.
fn known_answer() -> LaunchDigest {
    let path = vectors::path("measure/launch_digests.json").unwrap();
    let cases: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let case = cases.as_array().unwrap().iter().find(|case| {
        case["initrd"] == "derived/initrd.bin"
            && case["append"].as_str().is_some_and(|append| append.starts_with("console"))
            && case["vcpus"] == 2
            && case["vcpu_type"] == "EPYC-v4"
            && case["guest_features"] == 1
    });
    case.unwrap()["launch_digest"].as_str().unwrap().parse().unwrap()
}

#[test]
fn run_measures_the_files_and_its_evidence_verifies() {
    let temp = TempDir::new().unwrap();
    let (state, run_dir) = (temp.path().join("sim"), temp.path().join("run"));
    fs::create_dir(&run_dir).unwrap();
    assert!(init(&state, "genoa").status.success());
    let Some(command) = Running::command(&state, &run_dir) else { return };
    let mut running = Running::start(command, &run_dir);

    // The hash table, and where the firmware's footer wants it.
    assert_eq!(fs::read(run_dir.join("hashes.bin")).unwrap().len(), 176);
    let loader = fs::read_to_string(run_dir.join("loader")).unwrap();
    assert!(loader.starts_with("addr=0x") && loader.ends_with('\n') && loader.lines().count() == 1, "{loader}");

    let report_data = [0x5A; 64];
    let (status, report, table) = running.ask(&request(report_data, 0, 0));
    assert_eq!(status, 0);
    let evidence = SnpEvidence { report: Report::parse(&report).unwrap(), certificates: parse_cert_table(&table).unwrap() };
    let enrolled = Enrolled::new(HOST_DATA.parse::<HostData>().unwrap(), vec![known_answer()]);
    let platform = load(&state).unwrap().platform().clone();
    let values = ReferenceValues::with_floors(&[(Family::Genoa, platform.tcb)].into());
    let (revoked, collateral) = (Revoked::default(), Collateral::new());
    let expected = Expected {
        report_data: ReportData::new(report_data),
        reference_values: Some(&values),
        enrolled: Some(&enrolled),
        revoked: &revoked,
        collateral: &collateral,
    };
    let roots = Roots::simulated(&fs::read(state.join("ark.pem")).unwrap()).unwrap();
    let claims = verify(&evidence, &expected, &roots, now()).unwrap();
    assert_eq!(claims.chip_id, platform.chip_id);

    // Another report of this guest has the same REPORT_ID. One for a lower privilege level is made, and refused by the verifier.
    let (_, report, _) = running.ask(&request(report_data, 1, 1));
    let low = SnpEvidence { report: Report::parse(&report).unwrap(), ..evidence };
    assert_eq!(low.report.fields().report_id, claims.report_id);
    assert_eq!(verify(&low, &expected, &roots, now()).unwrap_err().code(), "vmpl");

    // What firmware refuses, with its status, and no report.
    for (vmpl, key_sel, status) in [(4, 0, 0x16), (0, 2, 0x27), (0, 3, 0x16)] {
        assert_eq!(running.ask(&request(report_data, vmpl, key_sel)), (status, vec![], vec![]));
    }
    // A length no request has: answered, and the end, since nobody knows where the next one would begin.
    running.port.write_all(&95_u32.to_le_bytes()).unwrap();
    assert_eq!(running.answer(), (0x04, vec![], vec![]));
    assert!(running.child.wait().unwrap().success());
    assert!(!run_dir.join("asp.sock").exists());
}

#[test]
fn each_launch_has_a_report_id_and_ends_with_its_guest() {
    let temp = TempDir::new().unwrap();
    let (state, run_dir) = (temp.path().join("sim"), temp.path().join("run"));
    fs::create_dir(&run_dir).unwrap();
    assert!(init(&state, "turin").status.success());
    let mut ids = Vec::new();
    for _ in 0..2 {
        let Some(mut command) = Running::command(&state, &run_dir) else { return };
        command.args(["--policy", "0xb0000", "--cpu-model", "EPYC-Milan", "--guest-features", "0x21"]);
        let mut running = Running::start(command, &run_dir);
        let (_, report, _) = running.ask(&request([0; 64], 0, 0));
        let fields = Report::parse(&report).unwrap().fields().clone();
        assert_eq!((fields.version, fields.policy.debug_allowed()), (5, true));
        assert_ne!(fields.measurement, known_answer());
        ids.push(fields.report_id);
        drop(running.port);
        assert!(running.child.wait().unwrap().success());
    }
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn a_launch_that_hardware_would_refuse_fails_with_one_line() {
    let temp = TempDir::new().unwrap();
    let (state, run_dir) = (temp.path().join("sim"), temp.path().join("run"));
    fs::create_dir(&run_dir).unwrap();
    assert!(init(&state, "genoa").status.success());
    let cases = [
        ("--policy", "0x10000", 1, "0x10000"),
        ("--policy", "0x8000000000030000", 1, "0x8000000000030000"),
        ("--kernel", "/nowhere/vmlinuz", 1, "/nowhere/vmlinuz"),
        ("--ovmf", "/dev/null", 1, "/dev/null"),
        ("--vcpus", "0", 1, "0 vCPUs"),
        ("--state", "/nowhere", 1, "/nowhere/state.json"),
        ("--host-data", "ab", 2, "--host-data"),
        ("--cpu-model", "EPYC-v99", 2, "--cpu-model"),
    ];
    for (option, value, code, says) in cases {
        let Some(good) = Running::command(&state, &run_dir) else { return };
        // The good command line, with this option's value in the place of its own.
        let mut args: Vec<&OsStr> = good.get_args().collect();
        match args.iter().position(|arg| *arg == option) {
            Some(at) => args[at + 1] = value.as_ref(),
            None => args.extend([OsStr::new(option), value.as_ref()]),
        }
        let output = simulator().args(args).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(says) && output.stdout.is_empty(), "{text}");
        if code == 1 {
            assert!(text.starts_with("coffer-simulator: ") && text.lines().count() == 1, "{text}");
        }
    }
    assert_eq!(fs::read_dir(&run_dir).unwrap().count(), 0, "nothing was written");
}
