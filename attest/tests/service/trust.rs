//! What the tests of revocations, admins, keys and the audit log share: commands against one service folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use coffer_token::UnixTime;
use coffer_token::admin::{AdminSigner, Call};
use serde_json::Value;

use crate::support::{Answer, Client, Service, TLS_NAME, now, program, random, stderr};

/// Runs a command with `--dir`.
pub fn run(service: &Service, args: &[&str]) -> Output {
    let dir = service.path();
    program(&[args, &["--dir", dir.to_str().unwrap()]].concat())
}

/// The same, which must work; its stdout.
#[track_caller]
pub fn works(service: &Service, args: &[&str]) -> String {
    let done = run(service, args);
    assert!(done.status.success(), "{args:?}: {}", stderr(&done));
    String::from_utf8(done.stdout).unwrap()
}

/// The same with `--json`.
#[track_caller]
pub fn json(service: &Service, args: &[&str]) -> Value {
    serde_json::from_str(&works(service, &[args, &["--json"]].concat())).unwrap()
}

/// Must fail with this exit code and these words.
#[track_caller]
pub fn fails(output: &Output, code: i32, says: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in says {
        assert!(text.contains(word), "{text}\nexpected: {word}");
    }
}

/// A file beside the service folder.
pub fn beside(service: &Service, name: &str) -> PathBuf {
    service.path().with_file_name(name)
}

/// `serve`, which must not start.
pub fn serve(service: &Service, more: &[&str]) -> Output {
    run(service, &[&["serve", "--listen", "127.0.0.1:0"], more].concat())
}

/// The database of a stopped service, copied.
pub fn back_up(service: &Service) -> Vec<u8> {
    fs::read(service.path().join("coffer-attest.db")).unwrap()
}

/// The database of a stopped service, put back.
pub fn restore(service: &Service, bytes: &[u8]) {
    let path = service.path().join("coffer-attest.db");
    for more in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{more}", path.display()));
    }
    fs::write(path, bytes).unwrap();
}

/// A service whose bounds no test reaches.
pub fn unbounded() -> Service {
    let mut service = Service::simulated();
    service.stop();
    let config = service.path().join("coffer-attest.toml");
    let mut text = fs::read_to_string(&config).unwrap();
    for (bound, default) in [("requests_per_second_per_source", 50), ("burst_per_source", 500), ("burst_per_site", 60)] {
        let from = format!("{bound} = {default}\n");
        assert!(text.contains(&from), "{text}");
        text = text.replace(&from, &format!("{bound} = 1000000\n"));
    }
    fs::write(&config, text).unwrap();
    service.start();
    service
}

/// An admin with a key of their own.
pub struct Caller {
    pub signer: AdminSigner,
    pub key: PathBuf,
}

impl Caller {
    /// The first admin.
    pub fn first(service: &Service) -> Self {
        Self::of(service.path().join("admin.key"))
    }

    /// Makes a key and registers it.
    pub fn added(service: &Service, name: &str, scopes: &str, more: &[&str]) -> Self {
        let key = Self::new_key(service, name);
        let public = public_half(&key);
        works(service, &[&["admin", "add", name, "--public-key", public.to_str().unwrap(), "--scopes", scopes], more].concat());
        Self::of(key)
    }

    /// Makes a key only.
    pub fn new_key(service: &Service, name: &str) -> PathBuf {
        let key = beside(service, &format!("{name}.key"));
        let made = program(&["admin", "new-key", key.to_str().unwrap()]);
        assert!(made.status.success(), "{}", stderr(&made));
        key
    }

    fn of(key: PathBuf) -> Self {
        let signer = AdminSigner::from_pem(&fs::read_to_string(&key).unwrap()).unwrap();
        Self { signer, key }
    }

    /// One signed call.
    pub fn call(&self, client: &Client, method: &str, path: &str, body: &str) -> Answer {
        let call = Call { audience: TLS_NAME, method, path, body: body.as_bytes() };
        let id = data_encoding::HEXLOWER.encode(&random::<16>());
        let token = self.signer.sign(&call, &id, UnixTime(now()), 60).unwrap();
        client.send(method, path, &[("authorization", &format!("Bearer {token}"))], body.as_bytes()).unwrap()
    }

    /// A command as this admin.
    pub fn run(&self, service: &Service, args: &[&str]) -> Output {
        let (ca, key) = (service.path().join("tls/ca.pem"), &self.key);
        let reach = ["--url", &service.url, "--tls-name", TLS_NAME, "--ca", ca.to_str().unwrap(), "--admin-key", key.to_str().unwrap()];
        program(&[args, &reach].concat())
    }
}

/// `FILE.pub`.
pub fn public_half(key: &Path) -> PathBuf {
    PathBuf::from(format!("{}.pub", key.display()))
}

/// The code of an admin's refusal: `<code>: <text>`.
pub fn told(answer: &Answer) -> (u16, String) {
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    (answer.status, detail.split(':').next().unwrap().to_owned())
}
