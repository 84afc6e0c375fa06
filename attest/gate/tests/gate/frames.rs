//! Bytes that are no protocol, words that never end, connections that are never used.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use coffer_token::Version1;
use coffer_token::lease::{Answer, Hello, MAX_FRAME_BYTES, Open, to_frame};

use crate::support::{Boot, BootKey, Gate, Issuer, Wire, connect_from, random, refusal};

/// A site that must not notice what others do.
struct Calm {
    boot: Boot,
    tunnel: Wire,
}

impl Calm {
    fn come(gate: &Gate, issuer: &Issuer) -> Self {
        let boot = Boot::of("calm");
        let mut tunnel = gate.door.tunneled(&boot, &issuer.token(&boot));
        // Back from the server: its connection is counted by now.
        assert_eq!(tunnel.echo(b"here").unwrap(), b"here");
        Self { boot, tunnel }
    }

    #[track_caller]
    fn is_calm(&mut self, gate: &Gate, issuer: &Issuer) {
        assert_eq!(self.tunnel.echo(b"as ever").unwrap(), b"as ever");
        gate.door.tunneled(&self.boot, &issuer.token(&self.boot));
    }
}

#[test]
fn junk_instead_of_a_frame_is_refused_or_hung_up_on() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let mut calm = Calm::come(&gate, &issuer);
    let before = gate.upstream.connections();
    let key = BootKey::generate();
    let hello = Hello { v: Version1, open: Open::Tunnel, token: "a.b.c".into(), node: None };
    let good = to_frame(&hello).unwrap();
    let frame = |body: &[u8]| [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat();
    for (what, bytes) in [
        ("an empty frame", frame(b"")),
        ("no JSON", frame(b"hello")),
        ("JSON of another shape", frame(b"[1,2]")),
        ("deep JSON", frame("[".repeat(MAX_FRAME_BYTES).as_bytes())),
        ("another version", frame(br#"{"v":2,"open":"tunnel","token":"a.b.c"}"#)),
        ("another kind", frame(br#"{"v":1,"open":"door","token":"a.b.c"}"#)),
        ("one more member", frame(br#"{"v":1,"open":"tunnel","token":"a.b.c","admin":true}"#)),
        ("a member twice", frame(br#"{"v":1,"open":"tunnel","token":"a.b.c","token":"d.e.f"}"#)),
        ("an answer", frame(br#"{"answer":"admitted","lease_seconds":9999}"#)),
        ("no UTF-8", frame(&[0xff; 100])),
        ("a frame too long", (u32::try_from(MAX_FRAME_BYTES).unwrap() + 1).to_be_bytes().to_vec()),
        ("the longest frame", u32::MAX.to_be_bytes().to_vec()),
        ("HTTP", b"GET / HTTP/1.1\r\nhost: gate\r\n\r\n".to_vec()),
        ("random bytes", random::<4096>().to_vec()),
    ] {
        let mut wire = gate.door.open(&key).unwrap();
        // The gate may hang up while it still comes.
        let _ = wire.write(&bytes);
        match wire.answer() {
            Ok(answer) => assert_eq!(refusal(&answer).0, "malformed", "{what}"),
            Err(error) => assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{what}: {error}"),
        }
    }
    // Half a frame, then nothing more.
    for cut in [1, 3, 4, 5, good.len() - 1] {
        let mut wire = gate.door.open(&key).unwrap();
        wire.write(&good[..cut]).unwrap();
        drop(wire);
    }
    assert_eq!(gate.upstream.connections(), before, "nothing was opened for any of it");
    calm.is_calm(&gate, &issuer);
}

/// What comes in plain text or in another TLS ends without a word, and long after nobody's patience.
#[test]
fn what_is_no_tls_is_hung_up_on() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let mut calm = Calm::come(&gate, &issuer);
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &random::<64>(), &[0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc], b"\0\0\0\x04{}{}"] {
        let mut socket = TcpStream::connect(&gate.door.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        match socket.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{bytes:?}"),
        }
        assert!(answer.len() < 100, "an alert at most: {answer:?}");
    }
    calm.is_calm(&gate, &issuer);
}

/// A handshake or a first word that trickles in is given up after a time, however diligently it trickles.
#[test]
fn slow_lorises_lose_their_place_and_nobody_else_does() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let mut calm = Calm::come(&gate, &issuer);
    let key = BootKey::generate();
    let hello = to_frame(&Hello { v: Version1, open: Open::Tunnel, token: "x".repeat(8000), node: None }).unwrap();
    let mut handshakes: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(&gate.door.address).unwrap()).collect();
    let mut words: Vec<Wire> = (0..20).map(|_| gate.door.open(&key).unwrap()).collect();
    let begun = Instant::now();
    let mut sent = 0;
    while !(handshakes.is_empty() && words.is_empty()) {
        assert!(
            begun.elapsed() < Duration::from_secs(40),
            "{} handshakes and {} words are still waited for",
            handshakes.len(),
            words.len()
        );
        handshakes.retain_mut(|socket| socket.write_all(&[if sent == 0 { 0x16 } else { 3 }]).is_ok());
        words.retain_mut(|wire| wire.write(&hello[sent..=sent]).is_ok());
        sent += 1;
        calm.is_calm(&gate, &issuer);
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// Connections that say nothing use up what there is for their own source, and those of many sources together still not what there is
/// for sites.
#[test]
fn a_crowd_that_says_nothing_leaves_room_for_sites() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let mut calm = Calm::come(&gate, &issuer);
    let crowd: Vec<TcpStream> = (0..600).filter_map(|_| connect_from("127.0.0.2", &gate.door.address).ok()).collect();
    assert!(crowd.len() > 250, "{}", crowd.len());
    for _ in 0..4 {
        let begun = Instant::now();
        calm.is_calm(&gate, &issuer);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// A tunnel whose guest does not read holds a bounded part of what the SuperLink sends, and no other tunnel back.
#[test]
fn a_guest_that_does_not_read_holds_up_itself_only() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let mut calm = Calm::come(&gate, &issuer);
    let boot = Boot::of("site-1");
    let mut tunnel = gate.door.tunneled(&boot, &issuer.token(&boot));
    tunnel.0.sock.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let (mut taken, chunk) = (0usize, vec![7; 64 * 1024]);
    while taken < 256 << 20 && tunnel.0.conn.wants_write() || tunnel.write(&chunk).is_ok() {
        taken += chunk.len();
        assert!(taken < 256 << 20, "{taken} bytes were taken with nobody reading what comes back");
    }
    for _ in 0..5 {
        calm.is_calm(&gate, &issuer);
    }
    // What its service takes back is cut all the same.
    issuer.withdraw("site_suspended", coffer_token::Withdrawn::Site { host_data: boot.host_data });
    gate.logged(&["site_suspended", "site-1"]);
    let raw = &mut tunnel.0.sock;
    raw.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let begun = Instant::now();
    let mut buffer = vec![0; 1 << 20];
    let end = loop {
        match raw.read(&mut buffer) {
            Ok(0) => panic!("closed in good order"),
            Ok(_) => assert!(begun.elapsed() < Duration::from_secs(5), "goes on and on"),
            Err(error) => break error.kind(),
        }
    };
    assert_eq!(end, ErrorKind::ConnectionReset);
}

/// Bytes that come with the first word belong to the workload, and none is lost when the workload says that it has no more.
#[test]
fn no_byte_is_lost_around_the_first_and_the_last_word() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let boot = Boot::of("site-1");
    let hello = Hello { v: Version1, open: Open::Tunnel, token: issuer.token(&boot), node: None };
    let mut wire = gate.door.open(&boot.key).unwrap();
    let early: Vec<u8> = (0..=255).cycle().take(3000).collect();
    wire.write(&[to_frame(&hello).unwrap(), early.clone()].concat()).unwrap();
    assert!(matches!(wire.answer().unwrap(), Answer::Admitted { .. }));
    let mut back = vec![0; early.len()];
    wire.0.read_exact(&mut back).unwrap();
    assert!(back == early);
    // Half-closed: what is still on its way back arrives.
    let late: Vec<u8> = (0..=255).rev().cycle().take(100_000).collect();
    wire.write(&late).unwrap();
    wire.0.conn.send_close_notify();
    wire.0.flush().unwrap();
    let mut back = Vec::new();
    wire.0.read_to_end(&mut back).unwrap();
    assert!(back == late, "{} of {} bytes", back.len(), late.len());
}
