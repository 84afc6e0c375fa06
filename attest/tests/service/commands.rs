//! The commands as an operator types them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use coffer_evidence::Family;
use serde_json::Value;

use crate::support::{Service, TLS_NAME, host_data, program, simulator, stderr};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn init_makes_a_private_folder_once() {
    let service = Service::simulated();
    let path = service.path();
    for (name, expected) in [
        ("", 0o700),
        ("kek.bin", 0o600),
        ("admin.key", 0o600),
        ("coffer-attest.db", 0o600),
        ("coffer-attest.toml", 0o600),
        ("tls", 0o700),
        ("tls/server.key", 0o600),
    ] {
        assert_eq!(mode(&path.join(name)), expected, "{name}");
    }
    let again = program(&["init", "--dir", path.to_str().unwrap(), "--root-of-trust", "amd-sev-snp", "--tls-name", "a.test"]);
    assert_eq!(again.status.code(), Some(1));
    let text = stderr(&again);
    assert!(text.starts_with("coffer-attest: cannot make a service: ") && text.contains("\ncoffer-attest: hint: "), "{text}");
}

#[test]
fn init_fails_whole() {
    let dir = tempfile::tempdir().unwrap();
    let ark = dir.path().join("ask.der");
    fs::write(&ark, simulator(Family::Genoa).asp.ask()).unwrap();
    let wrong_root = format!("simulated:{}", ark.display());
    for (root, name, says) in [
        ("amd", "a.test", "neither `amd-sev-snp` nor"),
        ("simulated:/nonexistent", "a.test", "/nonexistent"),
        (wrong_root.as_str(), "a.test", "as root of trust"),
        ("amd-sev-snp", "not a name", "not a DNS name"),
    ] {
        let target = dir.path().join("service");
        let made = program(&["init", "--dir", target.to_str().unwrap(), "--root-of-trust", root, "--tls-name", name]);
        assert_eq!(made.status.code(), Some(1), "{root} {name}");
        assert!(stderr(&made).contains(says), "{}", stderr(&made));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a failed init left something");
}

#[test]
fn init_says_what_it_made_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("service");
    let made = program(&["init", "--dir", target.to_str().unwrap(), "--root-of-trust", "amd-sev-snp", "--tls-name", "a.test", "--json"]);
    let said: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(said["root_of_trust"], "amd-sev-snp");
    assert!(Path::new(said["admin_key"].as_str().unwrap()).is_file());
    assert!(Path::new(said["tls_ca"].as_str().unwrap()).is_file());
}

#[test]
fn a_name_is_enrolled_once_and_revoked_for_good() {
    let service = Service::simulated();
    let file = service.enrollment_file(service.record("site-1", host_data("site-1")));
    let enroll = |file: &Path, more: &[&str]| service.site(&[&["enroll", file.to_str().unwrap()], more].concat());
    let first = enroll(&file, &["--json"]);
    let said: Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!(said["host_data"], host_data("site-1").to_string());
    let refused = |output: std::process::Output, says: &str| {
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    };
    refused(enroll(&file, &[]), "host_data_taken");
    let other = service.enrollment_file(service.record("site-1", host_data("another config")));
    refused(enroll(&other, &[]), "name_taken");
    let entry = service.last_decision("demo/site-1");
    assert_eq!((entry["event"].as_str(), entry["code"].as_str(), entry["id"].as_str()), (Some("refuse"), Some("name_taken"), Some("ada")));

    let listed = service.site(&["list"]);
    let text = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(text, format!("demo/site-1  active  {}\n", host_data("site-1")));
    // By HOST_DATA this time.
    let revoked = service.site(&["revoke", &host_data("site-1").to_string(), "--reason", "lost"]);
    assert!(revoked.status.success(), "{}", stderr(&revoked));
    refused(enroll(&other, &[]), "revoked");
    refused(service.site(&["revoke", "demo/site-1", "--reason", "again"]), "not_active");
    let shown = service.site(&["show", "demo/site-1"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("revoked at=") && text.contains("by=ada: lost"), "{text}");
    refused(service.site(&["show", "demo/site-9"]), "no_such_site");
}

#[test]
fn an_open_aml_risk_needs_the_operators_word() {
    let service = Service::simulated();
    let mut record = service.record("site-1", host_data("site-1"));
    record.open_risks.aml = "unrestricted".to_owned();
    let file = service.enrollment_file(record);
    let without = service.site(&["enroll", file.to_str().unwrap()]);
    assert_eq!(without.status.code(), Some(3));
    assert!(stderr(&without).contains("hint: ") && stderr(&without).contains("--accept-aml-risk"), "{}", stderr(&without));
    let with = service.site(&["enroll", file.to_str().unwrap(), "--accept-aml-risk"]);
    assert!(with.status.success(), "{}", stderr(&with));
    assert!(service.last_decision("demo/site-1")["detail"].as_str().unwrap().contains("accept_aml_risk=true"));
}

#[test]
fn a_superseded_config_stops_and_its_successor_works() {
    let service = Service::simulated();
    let old = service.enrolled_guest("site-1");
    let asp = &simulator(Family::Genoa).asp;
    let new = crate::support::Guest::new(asp, crate::support::BASE, host_data("site-1, second config"));
    let mut record = service.record("site-1", new.host_data());
    record.supersedes = Some(old.host_data());
    service.enroll(record);
    let client = service.client();
    old.attest(&client).answer.expect_refusal(403, "revoked");
    let accepted = new.attest(&client);
    let root = client.get(&new.resource("site-1", ""), Some(accepted.session()));
    assert_eq!(accepted.open(&root), crate::support::ROOT_SECRET);
}

#[test]
fn exit_codes_tell_mistakes_apart() {
    let mut service = Service::simulated();
    let dir = service.path();
    let dir = dir.to_str().unwrap();
    let ca = service.path().join("tls/ca.pem");
    let key = service.path().join("admin.key");
    let list = |url: &str, ca: &Path, key: &Path| {
        program(&[
            "site",
            "list",
            "--url",
            url,
            "--ca",
            ca.to_str().unwrap(),
            "--admin-key",
            key.to_str().unwrap(),
            "--tls-name",
            "attest.demo.test",
        ])
    };
    let works = list(&service.url, &ca, &key);
    assert_eq!(works.status.code(), Some(0), "{}", stderr(&works));
    assert_eq!(program(&["site", "list"]).status.code(), Some(2));
    assert_eq!(program(&["serve"]).status.code(), Some(2));
    // Another service's CA: not the one that is pinned.
    let other = Service::simulated();
    let impostor = list(&service.url, &other.path().join("tls/ca.pem"), &key);
    assert_eq!(impostor.status.code(), Some(4), "{}", stderr(&impostor));
    // Another service's admin.
    let stranger = list(&service.url, &ca, &other.path().join("admin.key"));
    assert_eq!(stranger.status.code(), Some(3), "{}", stderr(&stranger));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = list(&service.url, &ca, &key);
    assert_eq!(exposed.status.code(), Some(1));
    assert!(stderr(&exposed).contains("mode 0644"), "{}", stderr(&exposed));
    // One process per folder.
    let second = program(&["serve", "--dir", dir, "--listen", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("in use by another process"), "{}", stderr(&second));
    let url = service.url.clone();
    service.stop();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(list(&url, &ca, &key).status.code(), Some(4));
    assert_eq!(program(&["site", "list", "--dir", dir]).status.code(), Some(4));
}

#[test]
fn a_gate_is_told_what_it_has_to_know_of_the_service() {
    let service = Service::simulated();
    let (dir, ca) = (service.path(), service.path().join("tls/ca.pem"));
    let of_folder = program(&["gate-settings", "--project", "demo", "--dir", dir.to_str().unwrap()]);
    let by_url = ["--url", &service.url, "--tls-name", TLS_NAME, "--ca", ca.to_str().unwrap()];
    let of_url = program(&[&["gate-settings", "--project", "demo"], &by_url[..]].concat());
    assert!(of_folder.status.success() && of_url.status.success(), "{}{}", stderr(&of_folder), stderr(&of_url));
    let text = String::from_utf8(of_folder.stdout).unwrap();
    assert_eq!(text, String::from_utf8(of_url.stdout).unwrap());
    let read: toml::Table = toml::from_str(&text).unwrap();
    let said = read["service"].as_table().unwrap();
    let member = |name: &str| said[name].as_str().unwrap().to_owned();
    assert_eq!(said["urls"].as_array().unwrap(), &[toml::Value::String(service.url.clone())]);
    assert_eq!((member("tls_name"), member("issuer")), (TLS_NAME.to_owned(), format!("https://{TLS_NAME}")));
    assert_eq!((member("audience"), member("project")), ("coffer".to_owned(), "demo".to_owned()));
    assert_eq!(member("root_of_trust"), service.root_of_trust.to_string());
    assert_eq!(fs::read(member("ca")).unwrap(), fs::read(&ca).unwrap());
    let refused =
        |args: &[&str], code: i32| assert_eq!(program(&[&["gate-settings"], args].concat()).status.code(), Some(code), "{args:?}");
    refused(&["--project", "No Name", "--dir", dir.to_str().unwrap()], 2);
    refused(&["--project", "demo", "--url", &service.url], 2);
    refused(&["--project", "demo"], 2);
    // Another name than the certificate's is not the service.
    refused(&["--project", "demo", "--url", &service.url, "--tls-name", "other.demo.test", "--ca", ca.to_str().unwrap()], 4);
}
