//! Gates that are none, and gates that are hostile. None of them keeps PID 1 from anything, and none gets a token that should not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use coffer_token::lease::{Answer, MAX_FRAME_BYTES, Open, to_frame};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::ring::default_provider;
use rustls::{ConnectionTrafficSecrets, ServerConfig, ServerConnection, StreamOwned};

use super::double::{Gate, Guest, NAME, Stream, admitted, assert_reset, authority, eventually, refused, site, token};
use crate::standing::Lease;

/// A server that says `words` to whoever has shaken hands and sent something, and then nothing, in pieces of `piece` bytes.
fn talking(config: &ServerConfig, words: Vec<u8>, piece: usize, pause: Duration) -> (SocketAddr, Arc<AtomicUsize>) {
    let (config, visits) = (Arc::new(config.clone()), Arc::new(AtomicUsize::new(0)));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let seen = visits.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut tls: Stream = StreamOwned::new(ServerConnection::new(config.clone()).expect("a connection"), stream);
            let (words, seen) = (words.clone(), seen.clone());
            thread::spawn(move || {
                if tls.read(&mut [0; 8192]).is_ok_and(|read| read > 0) {
                    seen.fetch_add(1, Ordering::SeqCst);
                }
                for piece in words.chunks(piece) {
                    if tls.write_all(piece).and_then(|()| tls.flush()).is_err() {
                        return;
                    }
                    thread::sleep(pause);
                }
                let _ = tls.read(&mut [0; 1]);
            });
        }
    });
    (address, visits)
}

/// What a server may say at any time, and no client here wants to hear: a NewSessionTicket (RFC 8446, section 4.6.1) of one byte.
const TICKET: [u8; 18] = [4, 0, 0, 14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];

/// A gate that leases for so many seconds, and then sends tickets as fast as it can.
fn flooding(config: &ServerConfig, lease_seconds: u64) -> SocketAddr {
    let mut config = config.clone();
    config.enable_secret_extraction = true;
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut tls: Stream = StreamOwned::new(ServerConnection::new(config.clone()).expect("a connection"), stream);
            let _ = tls.read(&mut [0; 8192]).and_then(|_| tls.write_all(&to_frame(&admitted(lease_seconds)).expect("a frame")));
            let (tls, mut stream) = tls.into_parts();
            let (mut sequence, secrets) = tls.dangerous_extract_secrets().expect("extracts").tx;
            let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else { panic!("another cipher suite") };
            let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).expect("a key"));
            loop {
                let mut batch = Vec::new();
                for _ in 0..1000 {
                    let mut nonce = <[u8; 12]>::try_from(iv.as_ref()).expect("12 bytes");
                    nonce[4..].iter_mut().zip(sequence.to_be_bytes()).for_each(|(byte, count)| *byte ^= count);
                    sequence += 1;
                    // RFC 8446, section 5.2: the message, its true type, and room for the tag.
                    let mut body = [&TICKET[..], &[22]].concat();
                    let head = [23, 3, 3, 0, body.len() as u8 + 16];
                    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(head), &mut body).expect("seals");
                    batch.extend([&head[..], &body].concat());
                }
                if stream.write_all(&batch).is_err() {
                    break;
                }
            }
        }
    });
    address
}

/// Else a gate that is none any more, or a guest that was refused, would go on for as long as the gate likes.
#[test]
fn a_flood_of_tickets_neither_prolongs_a_lease_nor_drowns_a_refusal() {
    let authority = authority(NAME);
    let guest = Guest::start(&site(&authority, &[flooding(&authority.server, 1)]));
    guest.await_leased();
    guest.await_lease(|lease| *lease == Lease::None("no newer token was admitted in time".into()));
    guest.standing.refused("site_suspended", "r-1");

    let guest = Guest::start(&site(&authority, &[flooding(&authority.server, 3600)]));
    guest.await_leased();
    thread::sleep(Duration::from_millis(200));
    guest.standing.refused("site_suspended", "r-1");
    guest.await_lease(|lease| *lease == Lease::None("no token".into()));
    guest.assert_refuses();
}

#[test]
fn only_the_authority_and_the_name_of_the_site_config_are_the_gate() {
    let authority_of_the_site = authority(NAME);
    let other_authority = authority(NAME);
    let other_name = authority("superlink.demo.test");
    let by_address = authority("127.0.0.1");
    for (what, ca, impostor) in [
        ("authority", &authority_of_the_site.ca, &other_authority),
        ("name", &other_name.ca, &other_name),
        ("address for a name", &by_address.ca, &by_address),
    ] {
        let gate = Gate::start(&impostor.server, |_, _| admitted(60));
        let mut site = site(impostor, &[gate.address]);
        site.gate.as_mut().expect("a gate").ca = vec![ca.clone()];
        let guest = Guest::start(&site);
        let lease = guest.await_lease(|lease| matches!(lease, Lease::None(why) if why.contains("certificate")));
        assert!(gate.hellos.lock().expect("whole").is_empty(), "{what}: sent a token ({lease:?})");
        guest.assert_refuses();
    }
}

#[test]
fn another_protocol_and_older_tls_are_no_gate() {
    let authority = authority(NAME);
    let mut without = authority.server.clone();
    without.alpn_protocols.clear();
    let mut other = authority.server.clone();
    other.alpn_protocols = vec![b"h2".to_vec()];
    // Its alert says that it is the version that they do not share.
    let mut older = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(authority.server.cert_resolver.clone());
    older.alpn_protocols = authority.server.alpn_protocols.clone();
    for (config, why_not) in [(without, "coffer-gate/1"), (other, "NoApplicationProtocol"), (older, "ProtocolVersion")] {
        let gate = Gate::start(&config, |_, _| admitted(60));
        let guest = Guest::start(&site(&authority, &[gate.address]));
        guest.await_lease(|lease| matches!(lease, Lease::None(why) if why.contains(why_not)));
        assert!(gate.hellos.lock().expect("whole").is_empty());
        guest.assert_refuses();
    }
}

#[test]
fn a_silent_gate_blocks_nobody() {
    // Its kernel accepts, nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let authority = authority(NAME);
    let since = Instant::now();
    let guest = Guest::start(&site(&authority, &[silent.local_addr().expect("an address")]));
    guest.assert_refuses();
    guest.standing.renewed(token("t-2"));
    assert!(since.elapsed() < Duration::from_secs(2));
    guest.await_lease(|lease| matches!(lease, Lease::None(why) if why.contains("timed out")));
    guest.assert_refuses();

    // Nor does one that falls silent after the handshake; the next address is tried.
    let (mute, visits) = talking(&authority.server, vec![], 1, Duration::ZERO);
    let spare = Gate::start(&authority.server, |_, _| admitted(60));
    let guest = Guest::start(&site(&authority, &[mute, spare.address]));
    guest.await_leased();
    assert_eq!(visits.load(Ordering::SeqCst), 1);
}

#[test]
fn a_gate_that_drips_has_as_long_as_a_silent_one() {
    let authority = authority(NAME);
    let frame = to_frame(&refused(&"x".repeat(4000), 60)).expect("a frame");
    let (slow, visits) = talking(&authority.server, frame, 1, Duration::from_millis(20));
    let spare = Gate::start(&authority.server, |_, _| admitted(60));
    let guest = Guest::start(&site(&authority, &[slow, spare.address]));
    guest.await_leased();
    assert_eq!(visits.load(Ordering::SeqCst), 1);
}

#[test]
fn what_is_no_answer_is_no_lease() {
    let authority = authority(NAME);
    let long = [&(MAX_FRAME_BYTES as u32 + 1).to_be_bytes()[..], &[b' '; 100]].concat();
    let body = br#"{"answer":"admitted","lease_seconds":60,"more":1}"#;
    let unknown = [&(body.len() as u32).to_be_bytes()[..], body].concat();
    for words in [long, unknown, b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![0; 4]] {
        let (address, visits) = talking(&authority.server, words, 4096, Duration::ZERO);
        let guest = Guest::start(&site(&authority, &[address]));
        eventually("it is asked again", || visits.load(Ordering::SeqCst) > 1);
        assert!(matches!(guest.standing.now().lease, Lease::None(why) if why.contains("frame")));
        guest.assert_refuses();
    }
}

#[test]
fn an_answer_that_nobody_asked_for_prolongs_nothing() {
    let authority = authority(NAME);
    let frame = to_frame(&admitted(60)).expect("a frame");
    let (address, visits) = talking(&authority.server, [frame.clone(), frame].concat(), 4096, Duration::ZERO);
    let guest = Guest::start(&site(&authority, &[address]));
    eventually("it is asked again", || visits.load(Ordering::SeqCst) > 1);
    guest.await_lease(|lease| matches!(lease, Lease::None(why) if why.contains("does not speak")));
}

#[test]
fn a_gate_that_falls_silent_under_a_lease_loses_it() {
    let authority = authority(NAME);
    // Admits once, and never answers the renewal; or sends the first half of its last word.
    let first = to_frame(&admitted(60)).expect("a frame");
    let half = to_frame(&refused("cut", 1)).expect("a frame")[..20].to_vec();
    for (words, renews) in [(first.clone(), true), ([first, half].concat(), false)] {
        let (address, visits) = talking(&authority.server, words, 4096, Duration::ZERO);
        let guest = Guest::start(&site(&authority, &[address]));
        guest.await_leased();
        if renews {
            guest.standing.renewed(token("t-2"));
        }
        eventually("it is asked again", || visits.load(Ordering::SeqCst) > 1);
    }
}

/// A gate that leases and cuts in turns is asked less and less often.
#[test]
fn a_gate_that_flaps_is_left_alone() {
    let authority = authority(NAME);
    let gate = Gate::start(&authority.server, |_, _| admitted(0));
    let _guest = Guest::start(&site(&authority, &[gate.address]));
    thread::sleep(Duration::from_secs(4));
    let asked = gate.hellos(Open::Lease);
    assert!((2..=7).contains(&asked), "asked {asked} times in 4 s");
}

#[test]
fn a_tunnel_under_way_ends_with_the_lease() {
    let authority = authority(NAME);
    let gate = Gate::start(&authority.server, |open, _| match open {
        Open::Lease => admitted(60),
        Open::Tunnel => {
            thread::sleep(Duration::from_secs(3));
            admitted(60)
        }
    });
    let guest = Guest::start(&site(&authority, &[gate.address]));
    guest.await_leased();
    let stream = guest.connect();
    thread::sleep(Duration::from_millis(100));
    let since = Instant::now();
    guest.standing.refused("site_suspended", "r-1");
    assert_reset(&stream);
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

#[test]
fn a_gates_words_about_time_are_kept_within_bounds() {
    let authority = authority(NAME);
    let gate = Gate::start(&authority.server, |_, _| refused("cut", 0));
    let guest = Guest::start(&site(&authority, &[gate.address]));
    thread::sleep(Duration::from_millis(2500));
    let asked = gate.hellos(Open::Lease);
    assert!((1..=3).contains(&asked), "asked {asked} times in 2.5 s");
    gate.answers(|_, _| Answer::Admitted { lease_seconds: u64::MAX, gate_token: None });
    let lease = guest.await_lease(|lease| matches!(lease, Lease::Until(_)));
    assert!(matches!(lease, Lease::Until(until) if until < Instant::now() + Duration::from_secs(3601)));
}
