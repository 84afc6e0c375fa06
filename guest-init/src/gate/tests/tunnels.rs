//! The workload's bytes, and how a connection ends.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use coffer_token::lease::Open;

use super::super::door::MAX_TUNNELS;
use super::super::port::reset;
use super::double::{Gate, Guest, NAME, Service, admitted, assert_reset, authority, eventually, refused, site};
use crate::standing::Lease;

fn leased(service: Service) -> (std::sync::Arc<Gate>, Guest) {
    let authority = authority(NAME);
    let gate = Gate::start(&authority.server, |_, _| admitted(60));
    *gate.service.lock().expect("whole") = service;
    let guest = Guest::start(&site(&authority, &[gate.address]));
    guest.await_leased();
    (gate, guest)
}

/// Bytes that no two places share.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}

#[test]
fn a_big_transfer_comes_back_whole() {
    let (gate, guest) = leased(Service::Echo);
    let sent = pattern(24 * 1024 * 1024 + 17);
    let mut stream = guest.connect();
    let mut writing = stream.try_clone().expect("clones");
    let copy = sent.clone();
    let writer = thread::spawn(move || {
        writing.write_all(&copy).expect("writes");
        writing.shutdown(Shutdown::Write).expect("ends");
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).expect("reads to the end");
    writer.join().expect("wrote");
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    assert_eq!(gate.got.load(Ordering::SeqCst), sent.len());
    eventually("no abort", || gate.aborted.load(Ordering::SeqCst) == 0);
}

#[test]
fn a_workload_that_reads_slowly_gets_everything() {
    let (_gate, guest) = leased(Service::Echo);
    let sent = pattern(3 * 1024 * 1024);
    let mut stream = guest.connect();
    let mut writing = stream.try_clone().expect("clones");
    let copy = sent.clone();
    let writer = thread::spawn(move || writing.write_all(&copy).and_then(|()| writing.shutdown(Shutdown::Write)).expect("writes"));
    thread::sleep(Duration::from_millis(300));
    let mut got = Vec::new();
    let mut chunk = vec![0; 300_000];
    loop {
        let read = stream.read(&mut chunk).expect("reads");
        if read == 0 {
            break;
        }
        got.extend_from_slice(&chunk[..read]);
        thread::sleep(Duration::from_millis(5));
    }
    writer.join().expect("wrote");
    assert!(got == sent);
}

#[test]
fn either_side_may_end_first() {
    let (_gate, guest) = leased(Service::Echo);
    let mut stream = guest.connect();
    stream.write_all(b"hello").expect("writes");
    stream.shutdown(Shutdown::Write).expect("ends");
    let mut got = String::new();
    stream.read_to_string(&mut got).expect("an end, no reset");
    assert_eq!(got, "hello");

    let (gate, guest) = leased(Service::EndsFirst);
    let mut stream = guest.connect();
    let mut got = String::new();
    stream.read_to_string(&mut got).expect("an end, no reset");
    assert_eq!(got, "bye");
    // The other half goes on.
    thread::sleep(Duration::from_millis(50));
    stream.write_all(b"still here").expect("writes");
    stream.shutdown(Shutdown::Write).expect("ends");
    eventually("all of it arrives", || gate.got.load(Ordering::SeqCst) == 10);
    assert_eq!(gate.aborted.load(Ordering::SeqCst), 0);
}

#[test]
fn an_end_without_close_notify_is_a_cut() {
    let (_gate, guest) = leased(Service::Truncates);
    let mut stream = guest.connect();
    stream.write_all(b"x").expect("writes");
    assert_reset(&stream);
    guest.await_leased();
}

#[test]
fn a_workload_that_resets_is_not_an_end_for_the_gate() {
    let (gate, guest) = leased(Service::Echo);
    reset(guest.connect_through());
    eventually("the tunnel is aborted", || gate.aborted.load(Ordering::SeqCst) == 1);
}

#[test]
fn a_refused_tunnel_is_a_reset_and_the_lease_stays() {
    let authority = authority(NAME);
    let gate = Gate::start(&authority.server, |open, _| if open == Open::Lease { admitted(60) } else { refused("site_connections", 5) });
    let guest = Guest::start(&site(&authority, &[gate.address]));
    guest.await_leased();
    assert_reset(&guest.connect());
    assert!(matches!(guest.standing.now().lease, Lease::Until(_)));
    gate.answers(|_, _| admitted(60));
    drop(guest.connect_through());
}

#[test]
fn there_are_so_many_tunnels_and_one_more_is_reset() {
    let (gate, guest) = leased(Service::Echo);
    let mut streams: Vec<_> = (0..MAX_TUNNELS).map(|_| guest.connect_through()).collect();
    assert_reset(&guest.connect());
    // A place that is free again is given again.
    drop(streams.pop());
    eventually("a place", || {
        let mut stream = guest.connect();
        let through = stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0; 1]).is_ok();
        through.then(|| std::mem::forget(stream)).is_some()
    });
    let since = Instant::now();
    gate.cut(Some(refused("cut", 60)));
    streams.iter().for_each(assert_reset);
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

/// An idle endpoint costs nothing: no thread of it runs in a circle, leased or not, with a tunnel or without.
#[test]
fn nothing_runs_in_a_circle() {
    let (gate, guest) = leased(Service::EndsFirst);
    let mut half_open = guest.connect();
    half_open.read_to_end(&mut Vec::new()).expect("an end");
    gate.answers(|_, _| refused("cut", 60));
    let spent = || {
        let mut ticks = 0;
        for task in std::fs::read_dir("/proc/self/task").expect("tasks").flatten() {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            let Some((name, fields)) = stat.rsplit_once(") ") else { continue };
            if name.contains("(gate-") || name.contains("(tunnel") {
                ticks += fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
            }
        }
        ticks
    };
    let _ = &gate;
    let mut least = u64::MAX;
    // Other tests' endpoints run in this process too: one quiet second will do.
    for _ in 0..20 {
        let before = spent();
        thread::sleep(Duration::from_secs(1));
        least = least.min(spent().saturating_sub(before));
        if least < 20 {
            return;
        }
    }
    panic!("{least} ticks of 10 ms in the quietest second");
}
