//! A site that asks for an attested gate, and gates that have stolen their way to a certificate: booted under emulation.
//!
//! What a gate shows is a job token and a certificate over the node key that the token names. Here both come from inside other
//! confidential VMs of the same project, handed out by their own workloads: everything holds but the role, or everything.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::spawn;
use std::time::Duration;

use system_tests::lab::{Lab, Reports, Running, Site, Upstream, WORKLOAD_SERVER, Workload, eventually};

/// Tokens of 300 s: those handed out hold to the test's end.
const CHECK_FREQUENCY_S: u32 = 600;
/// From the start of a VM to its workload's first word; others boot at the same time.
const UP: Duration = Duration::from_secs(120);
/// A guest that a gate was not good enough for waits longer and longer, up to half a minute.
const AGAIN: Duration = Duration::from_secs(90);

#[test]
fn a_clients_token_does_not_pass_for_the_aggregators() {
    let lab = Lab::new();
    lab.use_workload();
    let _service = lab.serve();
    let upstream = Upstream::listen();
    let mut reports = Reports::listen();
    lab.use_gate(&upstream.address(), CHECK_FREQUENCY_S);
    let impostor = start(&lab, &reports, "site-1", "client");
    let aggregator = start(&lab, &reports, "aggregator", "superlink");
    lab.require_an_attested_gate();
    let mut asking = start(&lab, &reports, "site-2", "client");

    let mut thief = up(&mut reports, "site-1", &impostor);
    let shown = Pid1::listen(&lab.path("pid1.sock"));
    steal(&mut thief, &lab, &shown);
    attest_the_gate(&lab);
    let gate = lab.serve_gate();
    let mut site = up(&mut reports, "site-2", &asking);

    asking.wait_for("no lease cause=\"the gate's token: token is for role `client`, expected `superlink`\"");
    let knock = site.ask("knock", "");
    assert!(knock.starts_with("error: ConnectionRefused"), "{knock}");
    assert!(upstream.seen("hello site-2\n").is_empty(), "bytes went through a gate that proved nothing");
    drop(gate);

    // The same gate with what the aggregator's own VM has: it is admitted.
    let mut keeper = up(&mut reports, "aggregator", &aggregator);
    steal(&mut keeper, &lab, &shown);
    let _gate = lab.serve_gate();
    site.ask_until("dial", "", AGAIN, |answer| answer == "connected");
    eventually("bytes arrive", Duration::from_secs(10), || (!upstream.seen("hello site-2\n").is_empty()).then_some(()));
}

fn start(lab: &Lab, reports: &Reports, name: &str, role: &str) -> Running {
    let script = reports.script(name, WORKLOAD_SERVER);
    let more = format!("  check_frequency: {CHECK_FREQUENCY_S}\n");
    let bundle = lab.build(&Site { name, role, script: &script, kit: false, more: &more, ..Site::default() });
    lab.enroll(&bundle);
    lab.start(&bundle, &["--timeout".as_ref(), "400".as_ref()])
}

fn up(reports: &mut Reports, name: &str, vm: &Running) -> Workload {
    reports.wait(name, UP).unwrap_or_else(|| panic!("no word of {name}'s workload:\n{}", vm.console()))
}

/// Takes token and node key out of a VM whose workload hands them over.
fn steal(workload: &mut Workload, lab: &Lab, shown: &Pid1) {
    let token = workload.ask("http", "/run/coffer/attest.sock GET /v1/token");
    assert!(token.starts_with("HTTP/1.1 200 ") && token.contains("\"token\""), "{token}");
    shown.answer_with(token);
    let key = workload.ask("read", "/run/coffer/node_key");
    let begin = key.find("-----BEGIN").unwrap_or_else(|| panic!("no key: {key}"));
    let path = lab.path("gate/node_key");
    fs::write(&path, format!("{}\n", key[begin..].trim_end())).expect("the key is written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode is set");
}

/// Makes the gate one that believes to be in a confidential VM.
fn attest_the_gate(lab: &Lab) {
    let path = lab.path("gate/coffer-gate.toml");
    let settings = fs::read_to_string(&path).expect("the gate's settings");
    let attested = format!("\n[attested]\nsocket = \"{}\"\nnode_key = \"node_key\"\n", lab.path("pid1.sock").display());
    fs::write(&path, settings + &attested).expect("the gate's settings are written");
}

/// Stands in for the PID 1 of the gate's VM.
struct Pid1(Arc<Mutex<String>>);

impl Pid1 {
    fn listen(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).expect("a socket");
        let answer = Arc::new(Mutex::new(String::new()));
        let said = Arc::clone(&answer);
        spawn(move || {
            for mut stream in listener.incoming().flatten() {
                // A request of any kind gets the one answer there is.
                let _ = stream.read(&mut [0; 4096]);
                let text = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let _ = stream.write_all(text.as_bytes());
            }
        });
        Self(answer)
    }

    fn answer_with(&self, answer: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }
}
