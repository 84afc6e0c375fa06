//! Sites behind a gate, booted under emulation: what their workloads see of it, how they lose it, and how they get it back.
//!
//! The workload is `lab-workload`, which tells the test past the gate what it sees in its container.

use std::time::{Duration, Instant};

use system_tests::lab::{Boot, Bundle, Lab, Reports, Running, Service, Site, Upstream, WORKLOAD_SERVER, Workload, eventually, run};

/// The shortest schedule a site can have: tokens of 30 s, renewed after 20.
const CHECK_FREQUENCY_S: u32 = 60;
/// From the start of a VM to its workload's first word; others boot at the same time.
const UP: Duration = Duration::from_secs(120);
/// From the gate's or the service's start to the site's lease, the guest's pauses and the TCG's slowness included.
const LEASED: Duration = Duration::from_secs(40);
/// What issue and design promise: from the admin's word to the last byte.
const CUT: Duration = Duration::from_secs(1);
/// A guest in quarantine asks once a minute.
const BACK: Duration = Duration::from_secs(60 + 30);
/// In and below the container.
const SOCKET: &str = "/run/coffer/attest.sock";

/// A key service, a server for the gate to guard, and ears.
struct World {
    lab: Lab,
    service: Option<Service>,
    upstream: Upstream,
    reports: Reports,
}

/// A site whose workload is up.
struct Up {
    name: &'static str,
    vm: Running,
    workload: Workload,
}

impl World {
    fn new() -> Self {
        let lab = Lab::new();
        lab.use_workload();
        let service = lab.serve();
        let upstream = Upstream::listen();
        lab.use_gate(&upstream.address(), CHECK_FREQUENCY_S);
        Self { lab, service: Some(service), upstream, reports: Reports::listen() }
    }

    fn build(&self, name: &'static str, failure_action: &str) -> Bundle {
        let script = self.reports.script(name, WORKLOAD_SERVER);
        let more = format!("  check_frequency: {CHECK_FREQUENCY_S}\n  failure_action: {failure_action}\n");
        let bundle = self.lab.build(&Site { name, script: &script, more: &more, ..Site::default() });
        self.lab.enroll(&bundle);
        bundle
    }

    fn start(&self, bundle: &Bundle) -> Running {
        self.lab.start(bundle, &[])
    }

    /// Waits for the workload of a VM that was started.
    fn up(&mut self, name: &'static str, vm: Running) -> Up {
        let workload = self.reports.wait(name, UP).unwrap_or_else(|| panic!("no word of {name}'s workload:\n{}", vm.console()));
        Up { name, vm, workload }
    }

    /// Suspends a site; when the admin had done so.
    fn suspend(&self, site: &str) -> Instant {
        run(&mut self.lab.admin(&["site", "suspend", &format!("demo/{site}"), "--reason", "a drill"]));
        Instant::now()
    }

    fn resume(&self, site: &str) {
        run(&mut self.lab.admin(&["site", "resume", &format!("demo/{site}"), "--reason", "the drill is over"]));
    }

    /// How long after `since` the server saw the newest connection of this site end.
    fn cut_after(&self, since: Instant, site: &str) -> Duration {
        let (ended, _) = self.upstream.wait_ended(&hello(site), Duration::from_secs(10));
        ended.saturating_duration_since(since)
    }
}

impl Up {
    /// Connects to the server through the gate, and stays connected.
    fn dial(&mut self, limit: Duration) {
        self.workload.ask_until("dial", "", limit, |answer| answer == "connected");
    }

    /// Asserts that the connection carries bytes both ways, now.
    fn assert_ticking(&mut self) {
        let ticks = |workload: &mut Workload| workload.ask("ticks", "").parse::<u64>().expect("a number");
        let before = ticks(&mut self.workload);
        self.workload.ask_until("ticks", "", Duration::from_secs(5), |now| now.parse::<u64>().is_ok_and(|now| now > before));
    }

    /// Asserts that the port towards the server refuses, at once or as soon as the guest has heard that its lease is over.
    fn assert_no_server(&mut self) {
        self.workload.ask_until("knock", "", Duration::from_secs(5), |answer| answer.starts_with("error: ConnectionRefused"));
    }

    fn get(&mut self, target: &str) -> String {
        self.workload.ask("http", &format!("{SOCKET} GET {target}"))
    }

    fn stop(self) -> Boot {
        self.vm.power_down();
        self.vm.wait()
    }
}

fn hello(site: &str) -> String {
    format!("hello {site}\n")
}

/// The last value of `name=` in a line of PID 1 that has `mark`.
fn console_line(console: &str, mark: &str) -> Option<String> {
    console.lines().rfind(|line| line.contains("coffer-init: ") && line.contains(mark)).map(str::to_owned)
}

#[test]
fn a_suspended_site_is_cut_at_once_and_comes_back_while_the_others_go_on() {
    let mut world = World::new();
    let actions = [("site-1", "stop_job"), ("site-2", "shutdown"), ("site-3", "none")];
    let bundles = actions.map(|(name, action)| (name, world.build(name, action)));
    let started = bundles.map(|(name, bundle)| (name, world.start(&bundle)));
    let [mut one, mut two, mut three] = started.map(|(name, vm)| world.up(name, vm));

    without_a_gate(&mut one);
    let gate = world.lab.serve_gate();
    for site in [&mut one, &mut two, &mut three] {
        site.dial(LEASED);
        site.assert_ticking();
    }
    assert!(one.vm.console().contains("coffer-init: lease until="), "{}", one.vm.console());
    let _gate = a_gate_that_restarts(&mut world, gate, &mut one);
    two.dial(LEASED);
    three.dial(LEASED);
    a_service_that_is_away(&mut world, &mut one);

    // One bad site: it is cut, and nobody else.
    let said = world.suspend("site-1");
    let took = world.cut_after(said, "site-1");
    eprintln!("from the suspension's answer to the server's last byte: {took:?}");
    assert!(took <= CUT, "cut only after {took:?}");
    two.assert_ticking();
    three.assert_ticking();
    assert!(one.workload.ended_within(Duration::from_secs(20)), "the workload still runs:\n{}", one.vm.console());
    for mark in ["refused code=site_suspended id=", "workload stopped by=refusal", "quarantine next=60"] {
        one.vm.wait_for(mark);
    }

    // `none` reports only: the workload stays, without a server.
    let said = world.suspend("site-3");
    assert!(world.cut_after(said, "site-3") <= CUT);
    three.workload.event("lost ConnectionReset", Duration::from_secs(10));
    three.assert_no_server();
    three.vm.wait_for("refused code=site_suspended id=");
    let answer = three.get("/v1/token");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    two.assert_ticking();

    // `shutdown` ends it.
    let said = world.suspend("site-2");
    assert!(world.cut_after(said, "site-2") <= CUT);
    let boot = two.vm.wait();
    assert!(boot.said_by_guest("refused code=site_suspended id=") && boot.said_by_guest("power-off"), "{boot:#?}");
    assert_eq!(boot.code, Some(6), "{boot:#?}");

    world.resume("site-1");
    world.resume("site-3");
    one.workload = world.reports.wait("site-1", BACK).unwrap_or_else(|| panic!("not back:\n{}", one.vm.console()));
    one.vm.wait_for("workload started again");
    one.dial(LEASED);
    one.assert_ticking();
    three.dial(BACK);
    three.assert_ticking();
    for site in [one, three] {
        let name = site.name;
        let boot = site.stop();
        assert!(boot.said_by_guest("power-off") && !boot.said_by_guest("failed "), "{name}: {boot:#?}");
    }
}

/// What a workload finds before there is a lease: a name, a port that refuses and that nobody can take, its keys and its token.
fn without_a_gate(site: &mut Up) {
    site.assert_no_server();
    for address in ["127.0.0.1:9092", "0.0.0.0:9092"] {
        let stolen = site.workload.ask("listen", address);
        assert!(stolen.starts_with("error: AddrInUse"), "{stolen}");
    }
    let hosts = site.workload.ask("read", "/etc/hosts");
    assert!(hosts.lines().any(|line| line.split_whitespace().eq(["127.0.0.1", "superlink.demo.test"])), "{hosts}");
    let private = site.workload.ask("read", "/run/coffer/node_key");
    assert!(private.starts_with("mode=400 uid=1234 ") && private.contains("-----BEGIN OPENSSH PRIVATE KEY-----"), "{private}");
    let public = site.workload.ask("read", "/run/coffer/node_key.pub");
    assert!(public.contains("\necdsa-sha2-nistp384 "), "{public}");
    let token = site.get("/v1/token");
    assert!(token.starts_with("HTTP/1.1 200 ") && token.contains("\"token\":\"ey") && token.contains("\"expires_at\":"), "{token}");
    let status = site.get("/v1/status");
    assert!(status.starts_with("HTTP/1.1 200 "), "{status}");
    // It reports on nothing and signs nothing.
    for request in ["GET /v1/report", "POST /v1/token", "GET /v1/evidence"] {
        let answer = site.workload.ask("http", &format!("{SOCKET} {request}"));
        assert!(answer.starts_with("HTTP/1.1 40"), "{request}: {answer}");
    }
}

/// A gate that is killed takes every connection along; the one that comes after it rebuilds the leases from tokens.
fn a_gate_that_restarts(world: &mut World, gate: Service, site: &mut Up) -> Service {
    drop(gate);
    site.workload.event("lost ConnectionReset", Duration::from_secs(10));
    site.assert_no_server();
    let gate = world.lab.serve_gate();
    site.dial(LEASED);
    site.assert_ticking();
    gate
}

/// While the key service is away a renewal fails, and nothing stops; when it is back the guest renews, and the gate hears it again.
fn a_service_that_is_away(world: &mut World, site: &mut Up) {
    let epoch = |world: &World| world.lab.gate_status()["service"]["epoch"].as_u64();
    let before = epoch(world);
    world.service = None;
    site.vm.wait_for("waiting stage=renew ");
    site.assert_ticking();
    let renewed = site.vm.console().matches("coffer-init: renewed token_exp=").count();
    world.service = Some(world.lab.serve());
    eventually("a renewal", LEASED, || (site.vm.console().matches("coffer-init: renewed token_exp=").count() > renewed).then_some(()));
    // What is withdrawn from here on is pushed; until here it would have been polled.
    eventually("the gate's word with the new service", LEASED, || (epoch(world) > before).then_some(()));
    site.assert_ticking();
    assert!(!site.vm.console().contains("coffer-init: refused "), "{}", site.vm.console());
}

#[test]
fn a_clone_takes_its_originals_place_and_another_project_gets_none() {
    let mut world = World::new();
    let _gate = world.lab.serve_gate();
    let bundle = world.build("site-1", "stop_job");
    let stranger = {
        world.lab.name_project("other");
        let stranger = world.build("stranger", "none");
        world.lab.name_project("demo");
        stranger
    };
    let (vm, strange) = (world.start(&bundle), world.start(&stranger));
    let copy = world.lab.clone_bundle(&bundle, "clone");
    let mut original = world.up("site-1", vm);
    original.dial(LEASED);

    let vm = world.start(&copy);
    let mut stranger = world.up("stranger", strange);
    // The clone's workload has its original's name: it is the next one.
    let mut clone = world.up("site-1", vm);
    clone.dial(LEASED);
    original.workload.event("lost ConnectionReset", Duration::from_secs(10));
    original.assert_no_server();
    original.vm.wait_for("replaced");
    clone.assert_ticking();

    // The service has nothing against the original: its workload goes on, and does not flap with the clone's.
    let knock = original.workload.ask("knock", "");
    assert!(knock.starts_with("error: ConnectionRefused"), "{knock}");
    clone.assert_ticking();

    stranger.assert_no_server();
    let why = console_line(&stranger.vm.console(), "no lease cause=");
    assert!(why.as_deref().is_some_and(|line| line.contains(" cause=project ")), "{why:?}\n{}", stranger.vm.console());
    assert_eq!(world.upstream.seen(&hello("stranger")).len(), 0);
    let token = stranger.get("/v1/token");
    assert!(token.starts_with("HTTP/1.1 200 "), "the service has nothing against it: {token}");
}
