//! What an unauthenticated peer can use up.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use crate::support::{Raw, Service, TLS_NAME, connect_from};

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

fn address(service: &Service) -> &str {
    service.url.strip_prefix("https://").unwrap()
}

fn connect(service: &Service, config: &Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
    let socket = TcpStream::connect(address(service)).unwrap();
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

/// Whatever is wrong with a request, the answer is one that a KBS client can read: also where the service never saw a request.
#[test]
fn every_refusal_is_in_the_form_that_clients_read() {
    let service = Service::simulated();
    let lines = |n: usize| (0..n).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n{more}\r\n");
    let long_body = format!("POST /kbs/v0/auth HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n{}", " ".repeat(9000));
    let chunks = "POST /kbs/v0/auth HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZ\r\n".to_owned();
    for (bytes, status, code) in [
        ("GARBAGE\r\n\r\n".to_owned(), 400, "malformed_http"),
        ("\u{16}\u{3}\u{1}\u{2}\r\n\r\n".to_owned(), 400, "malformed_http"),
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), 400, "malformed_http"),
        (get("/healthz", "no colon here\r\n"), 400, "malformed_http"),
        (get("/healthz", "x: \u{1}\r\n"), 400, "malformed_http"),
        (get("/kbs/v0/auth", "content-length: x\r\n"), 400, "malformed_http"),
        (get("/kbs/v0/auth", "content-length: 1\r\ncontent-length: 2\r\n"), 400, "malformed_http"),
        (get("/heal thz", ""), 400, "malformed_http"),
        (get("/healthz", &lines(65)), 431, "head_too_large"),
        (get("/healthz", &format!("x: {}\r\n", "y".repeat(40_000))), 431, "head_too_large"),
        (get(&format!("/{}", "a".repeat(3000)), ""), 414, "uri_too_long"),
        (get(&format!("/healthz?{}", "a".repeat(3000)), ""), 414, "uri_too_long"),
        (get("/", ""), 404, "no_such_path"),
        (get("/kbs/v0/resource/a/b", ""), 404, "no_such_path"),
        (get("/kbs/v0/resource/a/b/c/d", ""), 404, "no_such_path"),
        (get("*", ""), 404, "no_such_path"),
        (get("http://elsewhere/x", ""), 404, "no_such_path"),
        (get("/kbs/v0/attest", ""), 405, "no_such_method"),
        ("CONNECT elsewhere:443 HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), 404, "no_such_path"),
        ("BREW /healthz HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), 405, "no_such_method"),
        (long_body, 413, "body_too_large"),
        (chunks, 413, "body_too_large"),
        (get("/kbs/v0/resource/a/b/c", ""), 401, "not_attested"),
    ] {
        let mut raw = Raw::connect(&service);
        raw.write(bytes.as_bytes());
        let shown = &bytes[..bytes.len().min(60)];
        let answer = raw.read().unwrap_or_else(|| panic!("no answer to {}", shown.escape_debug()));
        assert_eq!(answer.status, status, "{}", shown.escape_debug());
        answer.expect_refusal(status, code);
    }
    // In the middle of a connection too, after an answer of the service's own.
    let mut raw = Raw::connect(&service);
    assert_eq!(raw.call("GET", "/healthz", None, &[]).unwrap().status, 200);
    raw.write(b"nonsense\r\n\r\n");
    raw.read().unwrap().expect_refusal(400, "malformed_http");
    assert!(raw.read().is_none(), "the connection ends with it");
    let mut raw = Raw::connect(&service);
    raw.write(format!("{}nonsense\r\n\r\n", get("/healthz", "")).as_bytes());
    assert_eq!(raw.read().unwrap().status, 200);
    raw.read().unwrap().expect_refusal(400, "malformed_http");
}

/// Heads and bodies that trickle in hold a connection for seconds, not for ever, and their senders are told.
#[test]
fn a_slow_head_and_a_slow_body_are_given_up_and_told() {
    let service = Service::simulated();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut raw = Raw::connect(&service);
            raw.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ");
            let begun = Instant::now();
            raw.read().expect("told").expect_refusal(408, "slow");
            assert!((10..25).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        });
        scope.spawn(|| {
            let mut raw = Raw::connect(&service);
            raw.write(b"POST /kbs/v0/auth HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{");
            let begun = Instant::now();
            raw.read().expect("told").expect_refusal(408, "slow");
            assert!((15..29).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        });
        scope.spawn(|| {
            // Idle between two requests: closed without a word, for there was no request to refuse.
            let mut raw = Raw::connect(&service);
            assert_eq!(raw.call("GET", "/healthz", None, &[]).unwrap().status, 200);
            let begun = Instant::now();
            assert!(raw.read().is_none());
            assert!((10..25).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        });
    });
}

/// Of random requests, whole and broken, every answer but 200 has the one form.
#[test]
fn random_requests_get_a_result_or_a_refusal_that_clients_read() {
    let service =
        Service::edited("second_per_source = 50\nburst_per_source = 500", "second_per_source = 100000\nburst_per_source = 100000");
    let method = prop_oneof!["GET|POST|PUT|DELETE|OPTIONS|PATCH|TRACE", "[!-~]{1,8}"];
    let path = prop_oneof![
        "/kbs/v0/(auth|attest|resource-policy|attestation-policy|reference-value)",
        "/kbs/v0/resource(/[a-z%0-9.]{0,6}){0,5}",
        "/coffer/v1/[a-z]{0,9}(/[a-z0-9%]{0,6}){0,3}",
        "/(healthz|.well-known/jwks.json|metrics)?",
        "[ -~]{0,40}",
    ];
    let header = prop_oneof![
        "cookie: (kbs-session-id=)?[a-zA-Z0-9_=-]{0,60}",
        "authorization: (Bearer )?[a-zA-Z0-9._-]{0,60}",
        "content-type: [a-z/]{0,20}",
        "(expect: 100-continue|connection: (close|upgrade)|upgrade: h2c|te: x)",
        "[ -~]{0,40}",
    ];
    let body = prop_oneof![
        Just(Vec::new()),
        any::<Vec<u8>>(),
        r#"\{("version":"0.4.0",)?("tee":"snp",)?"extra-params":""\}"#.prop_map(String::into_bytes)
    ];
    let cases = (method, path, proptest::collection::vec(header, 0..5), body, any::<bool>());
    let mut runner = TestRunner::new(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() });
    runner
        .run(&cases, |(method, path, headers, body, honest)| {
            let length = if honest { body.len() } else { body.len() / 2 };
            let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
            let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length}\r\n\r\n");
            let mut raw = Raw::connect(&service);
            raw.write(&[head.as_bytes(), &body].concat());
            if let Some(answer) = raw.read()
                && answer.status != 200
            {
                let (status, kind, code) = answer.refusal();
                prop_assert!((400..=503).contains(&status) && !kind.is_empty() && !code.is_empty());
                prop_assert!(status != 500, "{} {}", method, path);
            }
            Ok(())
        })
        .unwrap();
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

#[test]
fn a_source_that_takes_every_connection_leaves_some_to_others() {
    let service = Service::edited("connections = 1024", "connections = 8");
    // Open and silent: each would be kept for ten seconds.
    let greedy: Vec<_> = (0..40).map(|_| connect_from("127.0.0.9", address(&service)).unwrap()).collect();
    let socket = connect_from("127.0.0.10", address(&service)).unwrap();
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
