//! What somebody with a good lease, or somebody who starts runs, tries at the gate's Flower side, seen from doubles of the SuperLink.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coffer_token::Version1;
use coffer_token::lease::{Hello, Open};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use super::lab::{boot_with_node, three_ports};
use super::support::{Gate, Issuer, Settings, Wire, eventually, refusal};
use super::terminate::certs;

/// A gate whose `flwr` is this script, with a Control front at the address. `runs` is the section of that name.
pub fn gate(dir: &Path, issuer: &Issuer, (mode, fleet): (&str, String), script: &str, runs: &str) -> (Gate, String) {
    let flwr = dir.join("flwr");
    fs::write(&flwr, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&flwr, fs::Permissions::from_mode(0o755)).unwrap();
    let (dir, front) = (dir.display(), format!("127.0.0.1:{}", three_ports()));
    let flower = format!(
        "mode = \"{mode}\"\nca = \"{dir}/ca.crt\"\ncertificate = \"{dir}/server.crt\"\nkey = \"{dir}/server.key\"\nflwr = \"{dir}/flwr\"\n\
         control = \"{fleet}\"\ncontrol_listen = \"{front}\"\n"
    );
    let edits = vec![("mode = \"passthrough\"\n", flower), ("\n[flower]\n", format!("\n[runs]\n{runs}\n\n[flower]\n"))];
    (Gate::with(issuer, &Settings { fleet: Some(fleet), edits, ..Settings::default() }).in_touch(issuer), front)
}

/// While the SuperLink takes its time with a site's node key, connections of that site do not fill the house.
#[test]
fn a_site_whose_registration_takes_long_does_not_queue_without_end() {
    let (dir, issuer) = (TempDir::new().unwrap(), Issuer::start());
    certs(dir.path());
    let script = "case $1 in --version) echo 'Flower version: 1.29.0' ;; *) sleep 8; echo '{\"success\": true, \"node-id\": 7}' ;; esac";
    let (gate, _) = gate(dir.path(), &issuer, ("passthrough", "localhost:9".to_owned()), script, "require = \"none\"");
    let boot = boot_with_node("site-1", &dir.path().join("node"));
    let hello = Hello { v: Version1, open: Open::Lease, token: issuer.token(&boot), node: boot.node.clone() };
    let begun = Instant::now();
    let mut wires: Vec<Wire> = (0..40).map(|_| gate.door.open(&boot.key).unwrap()).collect();
    wires.iter_mut().for_each(|wire| wire.send(&hello).unwrap());
    let waits = wires.iter_mut().filter_map(|wire| {
        wire.0.sock.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        wire.answer().map(|answer| assert_eq!(refusal(&answer).0, "site_rate")).err()
    });
    assert_eq!(waits.count(), 16);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

/// Answers the first call with a run's id, a while after it has come to its end.
fn slow_superlink(dir: &Path) -> String {
    let chain = vec![CertificateDer::from_pem_file(dir.join("server.crt")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), socket);
        let mut request = Vec::new();
        while !request.ends_with(b"\x12\x02ab") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        std::thread::sleep(Duration::from_secs(1));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n\x08\xac\x02");
        let _ = stream.flush();
        std::thread::sleep(Duration::from_secs(10));
    });
    address
}

pub const START: &[u8] = b"POST /v1/control/start-run HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n\x12\x02ab";

/// A connection to the Control front.
pub fn client(dir: &Path, front: &str) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.crt")).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots).with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    StreamOwned::new(connection, TcpStream::connect(front).unwrap())
}

/// Whoever starts a run and hangs up before the answer has still started one.
#[test]
fn a_run_whose_client_hangs_up_is_looked_after() {
    let (dir, issuer) = (TempDir::new().unwrap(), Issuer::start());
    certs(dir.path());
    let address = slow_superlink(dir.path());
    let (gate, front) = gate(dir.path(), &issuer, ("terminate", address), "echo 'Flower version: 1.41.0'", "require = \"none\"");
    let mut stream = client(dir.path(), &front);
    stream.write_all(START).unwrap();
    stream.flush().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    drop(stream);
    gate.logged(&["a run is started", "run=300"]);
}

/// Whoever begins to ask for a run while its sites are there, and ends when they are gone, gets none that goes on.
#[test]
fn a_run_that_is_asked_for_slowly_does_not_outlive_its_sites() {
    let (dir, issuer) = (TempDir::new().unwrap(), Issuer::start());
    certs(dir.path());
    let address = slow_superlink(dir.path());
    let script = "case $1 in --version) echo 'Flower version: 1.41.0' ;; \
                  ls) echo '{\"success\": true, \"runs\": [{\"run-id\": \"300\", \"status\": \"running\"}]}' ;; \
                  *) echo '{\"success\": true, \"node-id\": 7}' ;; esac";
    let (gate, front) = gate(dir.path(), &issuer, ("terminate", address), script, "require = [\"site-1\"]");
    let boot = boot_with_node("site-1", &dir.path().join("node"));
    let _lease = gate.door.leased(&boot, &issuer.token(&boot));
    let mut stream = client(dir.path(), &front);
    stream.write_all(&START[..START.len() - 1]).unwrap();
    stream.flush().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    gate.works(&["cut", "site-1"]);
    stream.write_all(&START[START.len() - 1..]).unwrap();
    stream.flush().unwrap();
    gate.logged(&["a run is started", "run=300"]);
    gate.logged(&["a run is stopped", "run=300", "site-1"]);
}

/// A run of the gate's goes on behind more newer ones than the SuperLink lists by itself, or than it was asked for. It is stopped with its
/// site all the same; one that has ended is not.
#[test]
fn a_run_that_is_not_in_the_superlinks_list_goes_on_until_the_superlink_says_that_it_has_ended() {
    const NEWER: &str = "{\\\"run-id\\\": \\\"1\\\", \\\"status\\\": \\\"running\\\"}";
    let own = |status: &str| NEWER.replacen('1', "300", 1).replacen("running", status, 1);
    let listed = format!("{NEWER}, {}", own("running"));
    for (limited, asked, stops) in
        [(listed.as_str(), own("finished:completed"), true), (NEWER, own("running"), true), (NEWER, own("finished:completed"), false)]
    {
        let (dir, issuer) = (TempDir::new().unwrap(), Issuer::start());
        certs(dir.path());
        let script = format!(
            "echo \"$@\" >>{}/calls\ncase \"$*\" in --version) echo 'Flower version: 1.41.0'; exit ;;\n\
             'ls --limit '*) runs=\"{limited}\" ;; 'ls --run-id 300 '*) runs=\"{asked}\" ;; ls*) runs=\"{NEWER}\" ;; esac\n\
             echo \"{{\\\"success\\\": true, \\\"node-id\\\": 7, \\\"runs\\\": [$runs]}}\"",
            dir.path().display()
        );
        let address = slow_superlink(dir.path());
        let (gate, front) = gate(dir.path(), &issuer, ("terminate", address), &script, "require = [\"site-1\"]\non_loss = \"stop\"");
        let boot = boot_with_node("site-1", &dir.path().join("node"));
        let _lease = gate.door.leased(&boot, &issuer.token(&boot));
        let mut stream = client(dir.path(), &front);
        stream.write_all(START).unwrap();
        stream.flush().unwrap();
        gate.logged(&["a run is started", "run=300"]);
        gate.works(&["cut", "site-1"]);
        let calls = || fs::read_to_string(dir.path().join("calls")).unwrap();
        if stops {
            gate.logged(&["a run is stopped", "run=300", "site-1"]);
            assert!(calls().contains("stop 300 "), "{}", calls());
        } else {
            let state = gate.path().join("flower/runs.json");
            eventually("the run is forgotten", Duration::from_secs(10), || {
                (!fs::read_to_string(&state).unwrap().contains("300")).then_some(())
            });
            assert!(!calls().contains("stop 300 "), "{}", calls());
        }
    }
}
