//! What the Fleet front sends on, seen from a double of the SuperLink that keeps every byte.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use super::fleet::{Inner, header_of, inner};
use super::front::{START, client, gate};
use super::lab::boot_with_node;
use super::support::{Boot, Gate, Issuer, Settings, eventually};

/// Answers `ok` to everything, and run 300 to whoever starts one.
struct Double {
    dir: TempDir,
    port: u16,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    body_bytes: AtomicUsize,
    heads: Mutex<Vec<String>>,
}

impl Double {
    fn start() -> Self {
        let dir = TempDir::new().unwrap();
        certs(dir.path());
        let chain = vec![CertificateDer::from_pem_file(dir.path().join("server.crt")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(dir.path().join("server.key")).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let config = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let (config, seen) = (Arc::new(config), Arc::new(Seen::default()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                let (stream, seen) = (StreamOwned::new(connection, socket.unwrap()), Arc::clone(&shared));
                std::thread::spawn(move || serve(stream, &seen));
            }
        });
        Self { dir, port, seen }
    }

    /// A gate in front of it, which trusts `ca`.
    fn gate(&self, issuer: &Issuer, ca: &Path) -> Gate {
        let flwr = self.dir.path().join("flwr");
        let script =
            "#!/bin/sh\ncase $1 in --version) echo 'Flower version: 1.41.0' ;; *) echo '{\"success\": true, \"node-id\": 7}' ;; esac\n";
        fs::write(&flwr, script).unwrap();
        fs::set_permissions(&flwr, fs::Permissions::from_mode(0o755)).unwrap();
        let (dir, ca) = (self.dir.path().display(), ca.display());
        let flower = format!(
            "mode = \"terminate\"\nca = \"{ca}\"\ncertificate = \"{dir}/server.crt\"\nkey = \"{dir}/server.key\"\nflwr = \"{dir}/flwr\"\n"
        );
        let edits = vec![("mode = \"passthrough\"\n", flower)];
        let fleet = Some(format!("localhost:{}", self.port));
        Gate::with(issuer, &Settings { fleet, edits, ..Settings::default() }).in_touch(issuer)
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    fn heads(&self) -> Vec<String> {
        self.seen.heads.lock().unwrap().clone()
    }
}

pub fn certs(dir: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/flower/certs.sh");
    assert!(Command::new(script).arg(dir).arg("superlink.test").status().unwrap().success());
}

fn serve(stream: StreamOwned<ServerConnection, std::net::TcpStream>, seen: &Seen) {
    let mut reader = BufReader::new(stream);
    let mut first = true;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        seen.connections.fetch_add(usize::from(std::mem::take(&mut first)), Ordering::SeqCst);
        let answer: &[u8] = if head.starts_with("POST /v1/control/start-run ") { b"\x08\xac\x02" } else { b"ok" };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        seen.heads.lock().unwrap().push(head);
        // Where a body comes in chunks here, it is empty: its one chunk is the last.
        let mut last = String::new();
        while chunked && last != "0\r\n\r\n" {
            assert!(reader.read_line(&mut last).unwrap() > 0 && last.len() <= 5, "{last:?}");
        }
        let mut left: usize = length.unwrap_or(0);
        let mut buffer = vec![0; 64 * 1024];
        while left > 0 {
            let room = left.min(buffer.len());
            let read = reader.read(&mut buffer[..room]).unwrap_or(0);
            if read == 0 {
                return;
            }
            seen.body_bytes.fetch_add(read, Ordering::SeqCst);
            left -= read;
        }
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nkeep-alive: timeout=5\r\n\r\n", answer.len());
        if reader.get_mut().write_all(&[head.as_bytes(), answer].concat()).is_err() {
            return;
        }
    }
}

/// A leased site and one tunnel of it, Flower's TLS begun.
fn tunnel(link: &Double, gate: &Gate, issuer: &Issuer) -> (Boot, Inner, String) {
    let key = link.dir.path().join(format!("node-{}", gate.pid()));
    let boot = boot_with_node("site-1", &key);
    let token = issuer.token(&boot);
    drop(gate.door.leased(&boot, &token));
    let stream = inner(&link.ca(), gate.door.tunneled(&boot, &token));
    (boot, stream, header_of(&key))
}

/// The next answer's head and its body of known length.
fn answer(stream: &mut Inner) -> String {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return String::from_utf8(head).unwrap();
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

fn call(path: &str, key: &str, rest: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: evil.test\r\nflwr-public-key: {key}\r\n{rest}\r\n")
}

const PULL: &str = "/v1/fleet/pull-messages";

#[test]
fn calls_go_on_over_one_connection_under_the_superlinks_own_name() {
    let (link, issuer) = (Double::start(), Issuer::start());
    let gate = link.gate(&issuer, &link.ca());
    let (_, mut stream, key) = tunnel(&link, &gate, &issuer);
    let rest =
        "content-length: 0\r\nconnection: keep-alive, x-hop, flwr-public-key\r\nx-hop: 1\r\nupgrade: h2c\r\nx-forwarded-for: 1.2.3.4\r\n";
    for _ in 0..3 {
        stream.write_all(call(PULL, &key, rest).as_bytes()).unwrap();
        let answer = answer(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
        assert!(!answer.contains("timeout=5"), "{answer}");
    }
    assert_eq!(link.seen.connections.load(Ordering::SeqCst), 1);
    for head in link.heads() {
        let lower = head.to_lowercase();
        assert!(lower.starts_with("post /v1/fleet/pull-messages http/1.1\r\n"), "{head}");
        assert!(lower.contains(&format!("host: localhost:{}\r\n", link.port)), "{head}");
        assert!(head.contains(&format!("flwr-public-key: {key}\r\n")), "an attested key is not to be taken away: {head}");
        assert!(["evil.test", "x-hop", "upgrade", "forwarded"].iter().all(|word| !lower.contains(word)), "{head}");
    }
}

#[test]
fn a_body_goes_on_before_it_has_ended() {
    const HALF: usize = 4 << 20;
    let (link, issuer) = (Double::start(), Issuer::start());
    let gate = link.gate(&issuer, &link.ca());
    let (_, mut stream, key) = tunnel(&link, &gate, &issuer);
    stream.write_all(call("/v1/fleet/push-object", &key, &format!("content-length: {}\r\n", 2 * HALF)).as_bytes()).unwrap();
    stream.write_all(&vec![7; HALF]).unwrap();
    stream.flush().unwrap();
    let bytes = || link.seen.body_bytes.load(Ordering::SeqCst);
    eventually("the first half arrives", Duration::from_secs(20), || (bytes() == HALF).then_some(()));
    stream.write_all(&vec![7; HALF]).unwrap();
    assert!(answer(&mut stream).starts_with("HTTP/1.1 200"));
    assert_eq!(bytes(), 2 * HALF);
}

#[test]
fn what_is_no_fleet_call_of_the_attested_node_never_arrives() {
    let (link, issuer) = (Double::start(), Issuer::start());
    let gate = link.gate(&issuer, &link.ca());
    let (boot, _, key) = tunnel(&link, &gate, &issuer);
    let (own, other) = (key.as_str(), "QU5PVEhFUg==");
    let token = issuer.token(&boot);
    let hidden = format!(
        "content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{}",
        call("/v1/control/stop-run", own, "content-length: 0\r\n")
    );
    for (request, status) in [
        (call("/v1/control/list-runs", own, "content-length: 0\r\n"), "404"),
        (call("/v1/fleet/../control/list-runs", own, "content-length: 0\r\n"), "404"),
        (call("/v1/fleet/%2e%2e/control/list-runs", own, "content-length: 0\r\n"), "404"),
        (call("https://localhost/v1/runtime/get-nodes", own, "content-length: 0\r\n"), "404"),
        (call(PULL, other, "content-length: 0\r\n"), "401"),
        (call(PULL, own, &format!("flwr-public-key: {other}\r\ncontent-length: 0\r\n")), "401"),
        (call(PULL, own, "content-length: 1\r\ncontent-length: 2\r\n"), "400"),
        (call(PULL, own, &hidden), "200"),
    ] {
        let mut stream = inner(&link.ca(), gate.door.tunneled(&boot, &token));
        stream.write_all(request.as_bytes()).unwrap();
        let answer = answer(&mut stream);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) || (status == "200" && answer.starts_with("HTTP/1.1 400")),
            "{request}{answer}"
        );
        if status == "401" {
            assert!(answer.ends_with(r#"{"detail":"Invalid SuperNode authentication"}"#), "{answer}");
        }
    }
    gate.logged(&["refused a call that is none of Fleet's", "site-1", "/v1/runtime/get-nodes"]);
    gate.logged(&["refused a call of another node key than the attested one", "site-1"]);
    for head in link.heads() {
        assert!(head.to_lowercase().starts_with("post /v1/fleet/pull-messages "), "{head}");
        assert!(
            !head.to_lowercase().contains("content-length") || !head.to_lowercase().contains("transfer-encoding"),
            "one length: {head}"
        );
    }
}

#[test]
fn a_superlink_under_another_authority_gets_no_call() {
    let (link, issuer, elsewhere) = (Double::start(), Issuer::start(), TempDir::new().unwrap());
    certs(elsewhere.path());
    let gate = link.gate(&issuer, &elsewhere.path().join("ca.crt"));
    let (_, mut stream, key) = tunnel(&link, &gate, &issuer);
    stream.write_all(call(PULL, &key, "content-length: 0\r\n").as_bytes()).unwrap();
    let answer = answer(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(link.heads().is_empty());
    gate.logged(&["a Fleet call is not answered", "cannot connect to the SuperLink", "site-1"]);
}

#[test]
fn no_node_gets_work_while_a_run_is_paused_and_every_node_stays_online() {
    let (link, issuer) = (Double::start(), Issuer::start());
    let script = "case $1 in --version) echo 'Flower version: 1.41.0' ;; \
                  ls) echo '{\"success\": true, \"runs\": [{\"run-id\": \"300\", \"status\": \"running\"}]}' ;; \
                  *) echo '{\"success\": true, \"node-id\": 7}' ;; esac";
    let fleet = format!("localhost:{}", link.port);
    let (gate, front) = gate(link.dir.path(), &issuer, ("terminate", fleet), script, "require = [\"site-2\"]\non_loss = \"pause\"");
    let (_, mut stream, key) = tunnel(&link, &gate, &issuer);
    let mut asked = |path: &str| {
        stream.write_all(call(path, &key, "content-length: 0\r\n").as_bytes()).unwrap();
        answer(&mut stream)
    };
    let required = boot_with_node("site-2", &link.dir.path().join("required"));
    let lease = gate.door.leased(&required, &issuer.token(&required));
    let mut starter = client(link.dir.path(), &front);
    starter.write_all(START).unwrap();
    starter.flush().unwrap();
    gate.logged(&["a run is started", "run=300"]);
    assert!(asked(PULL).starts_with("HTTP/1.1 200"));

    gate.works(&["cut", "site-2"]);
    gate.logged(&["a run is paused", "run=300", "site-2"]);
    let before = link.heads().len();
    for _ in 0..2 {
        let paused = asked(PULL);
        assert!(paused.starts_with("HTTP/1.1 503") && paused.to_lowercase().contains("content-type: application/json\r\n"), "{paused}");
        assert!(paused.ends_with("\r\n\r\n{\"detail\":\"runs are paused until the required sites hold a lease\"}"), "{paused}");
    }
    assert_eq!(link.heads().len(), before);
    let online = asked("/v1/fleet/send-node-heartbeat");
    assert!(online.starts_with("HTTP/1.1 200") && online.ends_with("ok"), "{online}");

    drop(lease);
    gate.works(&["cut", "site-2", "--lift"]);
    let _lease = gate.door.leased(&required, &issuer.token(&required));
    gate.logged(&["hold their leases again", "resumed=true"]);
    assert!(asked(PULL).starts_with("HTTP/1.1 200"));
}
