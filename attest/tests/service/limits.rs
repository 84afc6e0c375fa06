//! What an unauthenticated peer can use up.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use crate::support::{Service, TLS_NAME};

/// A TLS client that would resume if it were given the means.
fn tls(service: &Service) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(service.path().join("tls/ca.pem")).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(8);
    config.enable_early_data = true;
    Arc::new(config)
}

fn connect(service: &Service, config: &Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
    let socket = TcpStream::connect(service.url.strip_prefix("https://").unwrap()).unwrap();
    let connection = ClientConnection::new(Arc::clone(config), TLS_NAME.try_into().unwrap()).unwrap();
    StreamOwned::new(connection, socket)
}

fn exchange(stream: &mut StreamOwned<ClientConnection, TcpStream>, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    // The end may come without a TLS goodbye; what was read before counts.
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn tls_is_1_3_and_never_resumed() {
    let service = Service::simulated();
    let config = tls(&service);
    for _ in 0..2 {
        let mut stream = connect(&service, &config);
        let answer = exchange(&mut stream, "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(stream.conn.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(stream.conn.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(stream.conn.tls13_tickets_received(), 0);
    }
}

#[test]
fn an_endless_head_is_cut_off() {
    let service = Service::simulated();
    let mut stream = connect(&service, &tls(&service));
    let head = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {}", "a".repeat(1_000_000));
    // The service hangs up in the middle; whether its 431 still arrives is the network's affair.
    let _ = stream.write_all(head.as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(service.client().get("/healthz", None).status, 200);
}

#[test]
fn a_source_that_asks_too_often_is_put_off() {
    let service = Service::edited("second_per_source = 50\nburst_per_source = 500", "second_per_source = 1\nburst_per_source = 5");
    let client = service.client();
    let answers: Vec<_> = (0..30).map(|_| client.get("/kbs/v0/resource/a/b/c", None).refusal()).collect();
    let put_off = answers.iter().filter(|(status, _, code)| (*status, code.as_str()) == (429, "rate_limited")).count();
    assert!((20..=25).contains(&put_off), "{put_off} of 30 were put off");
    assert!(!service.log().contains("rate_limited"), "a flood fills the log");
}

/// Parsers quote what they could not read; a stranger's words must neither look like the service's nor fill its disk.
#[test]
fn a_stranger_writes_no_log_lines_and_no_long_ones() {
    let service = Service::simulated();
    let client = service.client();
    let long = "m".repeat(7000);
    for (body, code) in [
        (r#"{"version":"0.4.0","tee":"x`\n2026-01-01T00:00:00Z  INFO released id=0","extra-params":""}"#.to_owned(), "tee"),
        (r#"{"version":"\u001b[2J\r\nforged","tee":"snp","extra-params":""}"#.to_owned(), "protocol_version"),
        (format!(r#"{{"version":"0.4.0","tee":"snp","extra-params":"","{long}":1}}"#), "malformed"),
    ] {
        client.post("/kbs/v0/auth", None, body.as_bytes()).expect_refusal(400, code);
    }
    let log = service.log();
    assert!(log.contains(r"x`\n2026"), "{log}");
    assert!(!log.lines().any(|line| line.contains("forged") && !line.contains("refused: ")), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("2026-01-01T00:00:00Z") || line.contains('\u{1b}')), "{log}");
    assert!(log.lines().all(|line| line.len() < 1000), "{log}");
}

/// A connection from another loopback address than the usual one.
fn connect_from(source: &str, service: &Service) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
        socket.connect(service.url.strip_prefix("https://").unwrap().parse().unwrap()).await.unwrap()
    });
    let stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream
}

#[test]
fn a_source_that_takes_every_connection_leaves_some_to_others() {
    let service = Service::edited("connections = 1024", "connections = 8");
    // Open and silent: each would be kept for ten seconds.
    let greedy: Vec<_> = (0..40).map(|_| connect_from("127.0.0.9", &service)).collect();
    let socket = connect_from("127.0.0.10", &service);
    socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let connection = ClientConnection::new(tls(&service), TLS_NAME.try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    let answer = exchange(&mut stream, "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(greedy);
}

#[test]
fn a_connection_more_than_allowed_waits_for_another_to_end() {
    let service = Service::edited("connections = 1024", "connections = 1");
    let config = tls(&service);
    let mut first = connect(&service, &config);
    let request = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    first.conn.complete_io(&mut first.sock).unwrap();
    let mut second = connect(&service, &config);
    second.sock.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    assert!(second.conn.complete_io(&mut second.sock).is_err(), "a second connection was served");
    assert!(exchange(&mut first, request).starts_with("HTTP/1.1 200 "));
    drop(first);
    second.sock.set_read_timeout(None).unwrap();
    assert!(exchange(&mut second, request).starts_with("HTTP/1.1 200 "));
}
