//! The guest's endpoint as PID 1 runs it, in a process of its own, and the real gate.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coffer_init::gate;
use coffer_init::keys::BootKeys;
use coffer_init::standing::{Standing, Token};
use coffer_manifest::{Gate as SiteGate, SiteConfig, WorkloadEnd};
use coffer_token::Jkt;
use coffer_token::lease::NodeKey;
use data_encoding::BASE64;
use system_tests::repo;

use crate::support::{Boot, Gate, Issuer, Settings};

/// What this program is called with to be the endpoint.
pub const ARGUMENT: &str = "--endpoint";

/// The way from the port on loopback, where a workload finds its server, to that server.
pub struct Endpoint {
    /// The port.
    pub address: SocketAddr,
    /// The endpoint and the gate.
    pub processes: Vec<u32>,
    child: Child,
}

impl Endpoint {
    /// Starts this program once more, as the endpoint.
    pub fn start(origin: SocketAddr) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(ARGUMENT).arg(origin.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (address, gate) = line.trim().split_once(' ').expect("the endpoint starts");
        Self { address: address.parse().unwrap(), processes: vec![child.id(), gate.parse().unwrap()], child }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Its standard input ends, and with it what it waits for.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Is the endpoint, beside a gate of its own, until its standard input ends.
pub fn run(origin: &str) {
    let issuer = Issuer::start();
    // Measured are connections that are up, not how many a site may open per second.
    let edits = vec![("new_connections_per_second_per_site = 10", "new_connections_per_second_per_site = 100000".to_owned())];
    let settings = Settings { check_frequency: 600, fleet: Some(origin.to_owned()), edits, ..Settings::default() };
    let gate = Gate::with(&issuer, &settings);
    let keys = BootKeys::generate().unwrap();
    let jkt = Jkt::of_ec_point("P-384", &keys.tls.public().to_sec1()).unwrap();
    let node = NodeKey::from_sec1(&keys.node.public().to_sec1()).unwrap();
    let boot = Boot { node: Some(node), ..Boot::of("site-1") };
    let text = issuer.token_with(&boot, |subject| {
        subject.confirmation = Some(jkt);
        subject.lifetime_seconds = 600;
    });
    let token = Token { text, issued_at: issuer.now(), expires_at: issuer.now() + 600 };
    let golden = fs::read(repo::root().join("builder/manifest/tests/golden/site.json")).unwrap();
    let mut site = SiteConfig::from_bytes(golden.trim_ascii_end()).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    site.gate = Some(SiteGate {
        addresses: vec![gate.door.address.clone()],
        tls_name: gate.door.tls_name.clone(),
        ca: vec![BASE64.encode(&gate.door.ca)],
        workload: WorkloadEnd { name: "superlink.demo.test".to_owned(), port },
        attested: false,
    });
    let standing: Arc<Standing> = Standing::new(token, true);
    gate::start(&site, &keys, &standing).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let begun = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "no lease: {:?}, the gate's log:\n{}", standing.now().lease, gate.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("{address} {}", gate.pid());
    let _ = std::io::stdin().read(&mut [0]);
}
