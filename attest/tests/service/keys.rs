//! Token keys: published before they sign, in force until their tokens have expired, out at once when they leak.

use std::fs;

use coffer_token::Jwks;
use data_encoding::BASE64URL_NOPAD;
use rusqlite::Connection;
use serde_json::Value;

use crate::support::{ROOT_SECRET, Service, now};
use crate::trust::{beside, fails, json, run, works};

fn published(service: &Service) -> Vec<String> {
    let set = service.client().get("/.well-known/jwks.json", None);
    Jwks::parse(&set.body).unwrap();
    set.json()["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

fn kid(token: &str) -> String {
    let header = BASE64URL_NOPAD.decode(token.split('.').next().unwrap().as_bytes()).unwrap();
    serde_json::from_slice::<Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
}

fn states(service: &Service) -> Vec<String> {
    json(service, &["keys", "list"]).as_array().unwrap().iter().map(|key| key["state"].as_str().unwrap().to_owned()).collect()
}

/// Moves every time of a stopped service's keys back.
fn age(service: &Service, seconds: u64) {
    let db = Connection::open(service.path().join("coffer-attest.db")).unwrap();
    let guard: String =
        db.query_row("SELECT sql FROM sqlite_master WHERE name = 'token_keys_do_not_change'", [], |row| row.get(0)).unwrap();
    db.execute_batch("DROP TRIGGER token_keys_do_not_change").unwrap();
    db.execute("UPDATE token_keys SET made_at = made_at - ?1, signs_from = signs_from - ?1", [i64::try_from(seconds).unwrap()]).unwrap();
    db.execute_batch(&guard).unwrap();
}

#[test]
fn a_rotation_passes_through_its_states_and_survives_a_restart_in_each() {
    let mut service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let old = published(&service);
    assert_eq!((old.len(), states(&service)), (1, vec!["signing".to_owned()]));
    let stock = guest.attest_as_stock(&service.client());
    let path = guest.resource("site-1", "");
    let bearer = format!("Bearer {}", stock.token());
    let fetch = |service: &Service| service.client().send("GET", &path, &[("authorization", &bearer)], &[]).unwrap();

    let made = json(&service, &["keys", "rotate"]);
    let new = made["kid"].as_str().unwrap().to_owned();
    assert!((now() + 295..=now() + 300).contains(&made["signs_from"].as_u64().unwrap()), "{made}");
    fails(&run(&service, &["keys", "rotate"]), 3, &["token_key_state", "does not sign before"]);
    fails(&run(&service, &["keys", "rotate", "--delay", "99999999"]), 2, &["--delay"]);
    for restarted in [false, true] {
        if restarted {
            service.stop();
            service.start();
        }
        // Published, and not yet signing: gates learn it first.
        assert_eq!(published(&service), [old[0].clone(), new.clone()]);
        assert_eq!(states(&service), ["signing", "next"]);
        assert_eq!(kid(&guest.attest(&service.client()).token()), old[0]);
    }
    let before = fetch(&service);
    assert_eq!(stock.open(&before), ROOT_SECRET);
    service.stop();
    age(&service, 301);
    service.start();
    for restarted in [false, true] {
        if restarted {
            service.stop();
            service.start();
        }
        // It signs; the old one's tokens still count.
        assert_eq!(states(&service), ["retiring", "signing"]);
        assert_eq!(published(&service).len(), 2);
        assert_eq!(kid(&guest.attest(&service.client()).token()), new);
        assert_eq!(stock.open(&fetch(&service)), ROOT_SECRET);
    }
    service.stop();
    age(&service, 630);
    service.start();
    for restarted in [false, true] {
        if restarted {
            service.stop();
            service.start();
        }
        // Its last token has expired: it is out, and a token that claims otherwise is nobody's.
        assert_eq!(states(&service), ["retired", "signing"]);
        assert_eq!(published(&service), std::slice::from_ref(&new));
        fetch(&service).expect_refusal(401, "token");
        assert_eq!(kid(&guest.attest(&service.client()).token()), new);
    }
    // Its public half stays, for what it signed long ago.
    let file = beside(&service, "keys.json");
    works(&service, &["keys", "export", "--to", file.to_str().unwrap()]);
    let exported: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(exported["keys"].as_array().unwrap().len(), 2);
}

#[test]
fn a_leaked_key_and_its_tokens_die_at_once() {
    let mut service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    let stock = guest.attest_as_stock(&client);
    let path = guest.resource("site-1", "");
    let bearer = format!("Bearer {}", stock.token());
    let leaked = published(&service)[0].clone();
    fails(&run(&service, &["keys", "retire", &leaked, "--reason", "x"]), 2, &["--now"]);
    fails(&run(&service, &["keys", "retire", "no-such-key", "--now", "--reason", "x"]), 1, &["not a key thumbprint"]);
    let nobodys = "6_Wj_nmVPFYtU8uKQPXN66l7Gk9DxRK8aI5GObxJPz0";
    fails(&run(&service, &["keys", "retire", nobodys, "--now", "--reason", "x"]), 3, &["no_such_key"]);
    let done = json(&service, &["keys", "retire", &leaked, "--now", "--reason", "found on a forum"]);
    assert_eq!((done["kind"].as_str(), done["number"].as_u64()), (Some("token-key"), Some(1)));
    for restarted in [false, true] {
        if restarted {
            service.stop();
            service.start();
        }
        let client = service.client();
        assert!(!published(&service).contains(&leaked));
        client.send("GET", &path, &[("authorization", &bearer)], &[]).unwrap().expect_refusal(401, "token");
        // Guests attest again, and what they get is good.
        let again = guest.attest_as_stock(&client);
        assert_ne!(kid(&again.token()), leaked);
        let bearer = format!("Bearer {}", again.token());
        assert_eq!(again.open(&client.send("GET", &path, &[("authorization", &bearer)], &[]).unwrap()), ROOT_SECRET);
    }
    fails(&run(&service, &["keys", "retire", &leaked, "--now", "--reason", "x"]), 3, &["token_key_state", "was retired at"]);
    let file = beside(&service, "keys.json");
    works(&service, &["keys", "export", "--to", file.to_str().unwrap()]);
    assert!(!fs::read_to_string(file).unwrap().contains(&leaked), "a leaked key vouches for nothing");
}

#[test]
fn a_new_key_file_takes_the_place_of_the_old_one() {
    let mut service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let kids = published(&service);
    let kek = service.path().join("kek.bin");
    let old = fs::read(&kek).unwrap();
    fails(&run(&service, &["keys", "rewrap"]), 1, &["in use by another process"]);
    service.stop();
    let own = beside(&service, "own.kek");
    crate::support::write_private(&own, &[0x5c; 31]);
    fails(&run(&service, &["keys", "rewrap", "--new-kek", own.to_str().unwrap()]), 1, &["holds 31 bytes, expected 32"]);
    assert_eq!(fs::read(&kek).unwrap(), old, "a failure changes nothing");
    works(&service, &["keys", "rewrap"]);
    let new = fs::read(&kek).unwrap();
    assert!(new != old && !service.path().join("kek.bin.next").exists());
    service.start();
    assert_eq!(published(&service), kids);
    let session = guest.attest(&service.client());
    assert_eq!(session.open(&service.client().get(&guest.resource("site-1", ""), Some(session.session()))), ROOT_SECRET);
    service.stop();

    // The old file opens nothing, and an interrupted change says what to do.
    fs::write(&kek, &old).unwrap();
    fails(&crate::trust::serve(&service, &[]), 1, &["does not open under this key file", "hint: is kek.bin the key file"]);
    crate::support::write_private(&service.path().join("kek.bin.next"), &new);
    fails(&crate::trust::serve(&service, &[]), 1, &["hint: a `keys rewrap` was cut short: mv "]);
    fs::rename(service.path().join("kek.bin.next"), &kek).unwrap();
    service.start();
    guest.attest(&service.client()).token();
}
