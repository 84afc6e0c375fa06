//! The guest's endpoint as PID 1 runs it, in this process, and the real gate.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
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

/// The way from the port on loopback, where a workload finds its server, to that server.
pub struct Endpoint {
    /// The port.
    pub address: SocketAddr,
    _gate: Gate,
    _issuer: Issuer,
}

impl Endpoint {
    pub fn start(origin: SocketAddr) -> Self {
        let issuer = Issuer::start();
        // Measured are connections that are up, not how many a site may open per second.
        let edits = vec![("new_connections_per_second_per_site = 10", "new_connections_per_second_per_site = 100000".to_owned())];
        let settings = Settings { check_frequency: 600, fleet: Some(origin.to_string()), edits, ..Settings::default() };
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
        Self { address, _gate: gate, _issuer: issuer }
    }
}
