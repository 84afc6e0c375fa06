//! The Fleet front: what comes out of a leased site's tunnel is a Fleet call of its attested node, or goes nowhere.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coffer_token::Withdrawn;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::lab::{GRPC, Group, HTTP, PATIENCE, SuperLink, boot_with_node, three_ports};
use super::support::{Boot, Gate, Issuer, Wire, eventually};

/// Flower's TLS inside a tunnel.
pub type Inner = StreamOwned<ClientConnection, StreamOwned<ClientConnection, std::net::TcpStream>>;

pub fn inner(ca: &Path, wire: Wire) -> Inner {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots).with_no_client_auth();
    StreamOwned::new(ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap(), wire.0)
}

/// Sends a request as it stands; the answer's status line and everything after it.
fn asked(link: &SuperLink, gate: &Gate, boot: &Boot, token: &str, request: &str) -> String {
    let mut stream = inner(&link.path().join("ca.crt"), gate.door.tunneled(boot, token));
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = vec![];
    // The gate ends the connection after a refusal; what was read until then is the answer.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// What `flwr-public-key` is for a key in OpenSSH's form, by another implementation than the gate's.
pub fn header_of(key: &Path) -> String {
    let pem = Command::new("ssh-keygen").args(["-e", "-m", "PKCS8", "-f"]).arg(key).output().unwrap().stdout;
    data_encoding::BASE64.encode(&pem)
}

#[test]
fn long_only_fleet_calls_of_the_attested_node_reach_flower_1_41() {
    let (link, issuer) = (SuperLink::start(HTTP), Issuer::start());
    let (gate, _) = link.gate(&issuer, "require = \"none\"");
    let (key, other) = (link.path().join("node"), link.path().join("other"));
    let boot = boot_with_node("site-1", &key);
    let _second = boot_with_node("site-2", &other);
    let token = issuer.token(&boot);
    let _lease = gate.door.leased(&boot, &token);
    let request = |path: &str, key: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nflwr-public-key: {key}\r\nflwr-timestamp: 2026-01-01T00:00:00+00:00\r\n\
             flwr-signature: AAAA\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        )
    };
    let (own, foreign) = (header_of(&key), header_of(&other));
    // The Control API, which has no other lock than this one, however the path is written.
    for path in [
        "/v1/control/list-runs",
        "/v1/control/stop-run",
        "/v1/runtime/get-nodes",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
    ] {
        let answer = asked(&link, &gate, &boot, &token, &request(path, &own));
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
        assert!(answer.ends_with(r#"{"detail":"Not Found"}"#), "{path}: {answer}");
    }
    gate.logged(&["refused a call that is none of Fleet's", "site-1", "/v1/control/stop-run"]);
    // Another site's node key through this site's good lease, and none, and two.
    let pull = "/v1/fleet/pull-messages";
    let twice = request(pull, &own).replacen("\r\n", &format!("\r\nflwr-public-key: {foreign}\r\n"), 1);
    for call in [request(pull, &foreign), request(pull, ""), twice] {
        let answer = asked(&link, &gate, &boot, &token, &call);
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        assert!(answer.ends_with(r#"{"detail":"Invalid SuperNode authentication"}"#), "{answer}");
    }
    gate.logged(&["refused a call of another node key than the attested one", "site-1"]);
    // A second request hidden behind the first is a request of its own, or none at all.
    let hidden = format!(
        "POST {pull} HTTP/1.1\r\nhost: localhost\r\nflwr-public-key: {own}\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{}",
        request("/v1/control/list-runs", &own)
    );
    let answer = asked(&link, &gate, &boot, &token, &hidden);
    assert!(!answer.contains("HTTP/1.1 200"), "{answer}");
    // The right key without its signature is Flower's own to refuse.
    let answer = asked(&link, &gate, &boot, &token, &request(pull, &own));
    assert!(answer.starts_with("HTTP/1.1 4") && !answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(answer.to_lowercase().contains("server: uvicorn"), "the SuperLink answers: {answer}");
}

#[test]
fn long_flower_1_41_does_its_rounds_through_the_gate_and_pauses_without_a_required_site() {
    let (link, issuer) = (SuperLink::start(HTTP), Issuer::start());
    let (gate, front) = link.gate(&issuer, "require = [\"site-1\", \"site-2\"]\non_loss = \"pause\"");
    let boots = ["site-1", "site-2"].map(|site| boot_with_node(site, &link.path().join(site)));
    let mut leases = boots.each_ref().map(|boot| Some(gate.door.leased(boot, &issuer.token(boot))));
    let cli = link.cli(&front);
    let run = cli.starts();
    let endpoint = super::endpoint::listen(&gate.door, &boots[0], issuer.token(&boots[0]));
    let node = |number: usize, address: &str| {
        let mut command = link.program("flower-supernode");
        let home = link.path().join(format!("node-{number}"));
        std::fs::create_dir(&home).unwrap();
        command.env("FLWR_HOME", &home).args(["--root-certificates"]).arg(link.path().join("ca.crt"));
        command.args(["--superlink", address, "--port", &three_ports().to_string(), "--node-config", "partition-id=0 num-partitions=2"]);
        command.arg("--auth-supernode-private-key").arg(link.path().join(format!("site-{number}")));
        Group::start(&mut command, &link.path().join(format!("supernode-{number}.log")))
    };
    let _first = node(1, &endpoint);
    let online = || cli.nodes().iter().filter(|node| node.1 == "online").count();
    eventually("the first node is online", PATIENCE, || (online() == 1).then_some(()));

    // The second site is suspended: no work for the first, which stays online.
    issuer.withdraw("site_suspended", Withdrawn::Site { host_data: boots[1].host_data });
    leases[1] = None;
    let logged = |words: &[&str]| gate.log().lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(());
    eventually("the pause", PATIENCE, || logged(&["a run is paused", "site-2", &run.to_string()]));
    let paused = Instant::now();
    while paused.elapsed() < Duration::from_secs(75) {
        std::thread::sleep(Duration::from_secs(5));
    }
    assert_eq!(online(), 1, "a paused node stays online");
    assert_eq!(cli.status(run), "running");

    // It is back: both do the rounds, and the run finishes.
    leases[1] = Some(gate.door.leased(&boots[1], &issuer.token(&boots[1])));
    let endpoint = super::endpoint::listen(&gate.door, &boots[1], issuer.token(&boots[1]));
    let _second = node(2, &endpoint);
    eventually("the resumption", PATIENCE, || logged(&["hold their leases again", "resumed=true"]));
    eventually("the run finishes", Duration::from_secs(240), || (cli.status(run) == "finished:completed").then_some(()));
}

#[test]
fn a_gate_in_the_wrong_mode_for_its_flower_does_not_start() {
    let link = SuperLink::start(GRPC);
    let issuer = Issuer::start();
    let (mut gate, _) = link.gate(&issuer, "require = \"none\"");
    gate.down();
    let config = gate.path().join("coffer-gate.toml");
    let text = std::fs::read_to_string(&config).unwrap().replace("mode = \"passthrough\"", "mode = \"terminate\"");
    std::fs::write(&config, text).unwrap();
    let done = gate.run(&["serve", "--listen", "127.0.0.1:0"]);
    assert!(!done.status.success());
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("[flower] mode is \"terminate\" and `flwr` is 1.29.0"), "{said}");
}
