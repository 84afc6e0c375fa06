//! What somebody whom nobody knows can make a gate write, hold and forget.

use std::net::TcpStream;
use std::time::Duration;

use coffer_token::lease::{Answer, Hello, MAX_FRAME_BYTES, Open};
use coffer_token::{Version1, Withdrawn};
use data_encoding::BASE64URL_NOPAD;

use crate::support::{Boot, BootKey, Gate, Issuer, Settings, connect_from, eventually, refusal};

/// A parser's error repeats what it does not know; what a stranger chose is neither a line of its own nor a long one.
#[test]
fn a_stranger_writes_no_line_into_the_log_and_none_that_is_long() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let key = BootKey::generate();
    let forged = "2026-11-23T00:00:00.000000Z  INFO admitted site=\"forged\"";
    let long = "x".repeat(MAX_FRAME_BYTES - 400);
    for name in [format!("a\\n{forged}"), long] {
        let body = format!(r#"{{"v":1,"open":"lease","token":"a.b.c","{name}":1}}"#);
        let mut wire = gate.door.open(&key).unwrap();
        wire.write(&[&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body.as_bytes()].concat()).unwrap();
        assert_eq!(refusal(&wire.answer().unwrap()).0, "malformed");
    }
    let header = format!(r#"{{"alg":"ES256","typ":"JWT","{}":"\n{forged}"}}"#, "y".repeat(4000));
    let token = format!("{}.e30.AAAA", BASE64URL_NOPAD.encode(header.as_bytes()));
    let (_, answer) = gate.door.hello(&key, &Hello { v: Version1, open: Open::Lease, token, node: None }).unwrap();
    refusal(&answer);
    let Answer::Refused { detail, .. } = answer else { panic!("admitted") };
    assert!(detail.len() < 1000, "{} bytes of detail", detail.len());
    gate.logged(&["refused", "lease"]);
    for line in gate.log().lines() {
        assert!(!line.starts_with("2026-11-23T00:00:00.000000Z") && line.len() < 1500, "{} bytes: {line}", line.len());
    }
}

/// A service manager gives a program 1024 file descriptors unless it asks for more: strangers must not take the last one from sites,
/// from the key service and from the disk.
#[test]
fn strangers_take_no_file_descriptor_that_the_gate_needs() {
    let issuer = Issuer::start();
    let wrapper = ["prlimit", "--nofile=160:8192"].map(str::to_owned).to_vec();
    let gate = Gate::with(&issuer, &Settings { wrapper, ..Settings::default() }).in_touch(&issuer);
    let boot = Boot::of("site-1");
    let mut tunnel = gate.door.tunneled(&boot, &issuer.token(&boot));
    assert_eq!(tunnel.echo(b"here").unwrap(), b"here");
    let crowd: Vec<TcpStream> = (0..250).filter_map(|_| connect_from("127.0.0.2", &gate.door.address).ok()).collect();
    assert_eq!(crowd.len(), 250);
    let mut more = gate.door.tunneled(&boot, &issuer.token(&boot));
    assert_eq!(more.echo(b"more").unwrap(), b"more");
    gate.works(&["cut", "site-2"]);
    issuer.withdraw("site_suspended", Withdrawn::Site { host_data: boot.host_data });
    assert!(tunnel.reset(Duration::from_secs(5)) < Duration::from_secs(5));
    assert!(!gate.log().contains("cannot accept"), "{}", gate.log());
    drop(crowd);
}

/// Whose place a newer boot took stays out, also where the gate had no time to say good-bye.
#[test]
fn an_older_boot_does_not_come_back_after_the_gate_was_killed() {
    let issuer = Issuer::start();
    let mut gate = Gate::of(&issuer).in_touch(&issuer);
    let older = Boot::of("site-1");
    let newer = older.again();
    let _older = gate.door.leased(&older, &issuer.token(&older));
    let _newer = gate.door.leased(&newer, &issuer.token(&newer));
    let kept = || std::fs::read_to_string(gate.path().join("state.json")).is_ok_and(|state| state.contains(&newer.instance.to_string()));
    eventually("the newer boot is on the disk", Duration::from_secs(5), || kept().then_some(()));
    gate.kill();
    gate.up();
    assert_eq!(gate.door.refusal(&older, &issuer.token(&older)).0, "replaced");
    gate.door.leased(&newer, &issuer.token(&newer));
}
