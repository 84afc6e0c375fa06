//! What an operator types and sees: the guide's commands, exit codes, `status`, `/metrics`, a gate that is attested itself.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coffer_token::lease::{Answer, Hello, NodeKey, Open};
use coffer_token::{Jkt, Version1};
use data_encoding::BASE64;
use system_tests::repo;

use crate::support::{Boot, Gate, Issuer, Service, Settings, Wire, eventually, now, terminate};

fn exit(done: &Output) -> (Option<i32>, String) {
    (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
}

/// Every command of the guide's part on the gate is run, in its order, in one folder.
#[test]
fn every_command_of_the_guide_works_in_its_order() {
    let guide = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let lines: Vec<&str> = guide.split("```bash\n").skip(1).flat_map(|rest| rest.split("```").next().unwrap().lines()).collect();
    assert!(lines.len() >= 6, "{lines:?}");
    let service = Service::start();
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("bin")).unwrap();
    for program in [Path::new(env!("CARGO_BIN_EXE_coffer-gate")), &repo::program("coffer-attest")] {
        symlink(program, dir.path().join("bin").join(program.file_name().unwrap())).unwrap();
    }
    symlink(service.path(), dir.path().join("service")).unwrap();
    let path = format!("{}:{}", dir.path().join("bin").display(), std::env::var("PATH").unwrap());
    let mut serving = None;
    for line in lines {
        let line = line.split("  #").next().unwrap().trim_end().replace("0.0.0.0:9443", "127.0.0.1:0");
        let mut shell = Command::new("sh");
        shell.current_dir(dir.path()).env("PATH", &path).stdin(Stdio::null());
        if let Some(serve) = line.strip_suffix(" &") {
            let mut child = shell.args(["-c", &format!("exec {serve}")]).stdout(Stdio::piped()).spawn().unwrap();
            let mut said = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
            assert!(said.starts_with("listening 127.0.0.1:"), "{line}: {said}");
            serving = Some(child);
        } else {
            let done = shell.args(["-ec", &line]).output().unwrap();
            assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        }
    }
    terminate(serving.expect("the guide serves"));
}

#[test]
fn what_cannot_be_done_is_said_with_its_exit_code() {
    let issuer = Issuer::start();
    let mut gate = Gate::of(&issuer).in_touch(&issuer);
    let settings = gate.path().join("coffer-gate.toml");
    // A gate is never written over, and its keys are its owner's alone.
    let table = gate.path().join("../service.toml");
    let (code, said) = exit(&gate.run(&["init", "--name", "gate.demo.test", "--service", table.to_str().unwrap()]));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.starts_with("coffer-gate: cannot make a gate: ") && said.contains("exists already\ncoffer-gate: hint: "), "{said}");
    for (file, mode) in [("tls/ca.key", 0o600), ("gate.sock", 0o600), ("state.json", 0o600), ("coffer-gate.toml", 0o600), ("", 0o700)] {
        let found = eventually(file, Duration::from_secs(5), || fs::metadata(gate.path().join(file)).ok());
        assert_eq!(found.permissions().mode() & 0o777, mode, "{file}");
    }
    // One gate per folder.
    let (code, said) = exit(&gate.run(&["serve", "--listen", "127.0.0.1:0"]));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("gate.sock"), "{said}");
    assert_eq!(exit(&gate.run(&["cut", "no/site"])).0, Some(3));
    assert_eq!(exit(&gate.run(&["cut", "site-1", "--for", "soon"])).0, Some(2));
    gate.down();
    for command in [&["status"][..], &["cut", "site-1"]] {
        let (code, said) = exit(&gate.run(command));
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains("hint: is it running? coffer-gate serve --dir"), "{said}");
    }
    // Metrics name sites: to nobody outside of the machine.
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, text.replace("[limits]", "[nothing]\n[limits]")).unwrap();
    assert_eq!(exit(&gate.run(&["serve"])).0, Some(1));
    fs::write(&settings, text.replacen("name = ", "metrics = \"0.0.0.0:9100\"\nname = ", 1)).unwrap();
    let (code, said) = exit(&gate.run(&["serve"]));
    assert_eq!(code, Some(1));
    assert!(said.contains("coffer-gate.toml: metrics is `0.0.0.0:9100`, expected a loopback address"), "{said}");
    // A key that others may read is not used.
    fs::write(&settings, text).unwrap();
    fs::set_permissions(gate.path().join("tls/ca.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let (code, said) = exit(&gate.run(&["serve"]));
    assert_eq!(code, Some(1));
    assert!(said.contains("has mode 0644, expected 0600"), "{said}");
    // What is missing, or taken, is named with what to do.
    fs::remove_file(gate.path().join("tls/ca.key")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (taken, dir, nowhere) = (listener.local_addr().unwrap().to_string(), gate.path(), gate.path().join("nowhere"));
    let (dir, nowhere) = (dir.to_str().unwrap(), nowhere.to_str().unwrap());
    for (command, hint) in [
        (&["serve", "--dir", dir][..], "hint: sites pin this authority"),
        (&["serve", "--dir", nowhere], "hint: `coffer-gate init` makes the folder"),
        (&["init", "--dir", nowhere, "--name", "gate.demo.test", "--service", nowhere], "hint: `coffer-attest gate-settings"),
        (&["serve", "--dir", dir, "--listen", &taken], "and --listen name another"),
    ] {
        let (code, said) = exit(&Command::new(env!("CARGO_BIN_EXE_coffer-gate")).args(command).output().unwrap());
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(hint), "{command:?}: {said}");
    }
}

fn metrics(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn status_and_metrics_show_each_site() {
    let issuer = Issuer::start();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let edits = vec![("check_frequency = ", format!("metrics = \"127.0.0.1:{port}\"\ncheck_frequency = "))];
    let gate = Gate::with(&issuer, &Settings { edits, ..Settings::default() }).in_touch(&issuer);
    let boot = Boot::of("site-1");
    let token = issuer.token(&boot);
    let begun = Instant::now();
    let _lease = gate.door.leased(&boot, &token);
    let mut tunnel = gate.door.tunneled(&boot, &token);
    tunnel.echo(&[7; 1000]).unwrap();
    let thief = Boot::of("site-1");
    gate.door.refusal(&thief, &token);
    gate.works(&["cut", "site-2"]);
    gate.door.refusal(&Boot::of("site-2"), &issuer.token(&Boot::of("site-2")));
    let other = Boot::of("site-2");
    assert_eq!(gate.door.refusal(&other, &issuer.token(&other)).0, "cut");

    std::thread::sleep(Duration::from_millis(1100).saturating_sub(begun.elapsed()));
    let status = gate.status();
    let lease = &status["leases"][0];
    let of_age = |seconds: u64| assert!((1..=begun.elapsed().as_secs()).contains(&seconds), "{seconds}");
    of_age(lease["age_seconds"].as_u64().unwrap());
    assert_eq!(lease["cuts"], 0);
    assert_eq!((&lease["site"], &lease["instance"]), (&"site-1".into(), &boot.instance.to_string().into()));
    assert_eq!((&lease["bytes_up"], &lease["bytes_down"], &lease["connections"]), (&1000.into(), &1000.into(), &2.into()));
    assert_eq!((&lease["key"], &lease["last"]), (&boot.key.jkt().to_string().into(), &"admitted".into()));
    assert!(lease["remaining_seconds"].as_u64().unwrap() > 50 && lease["token_age_seconds"].as_u64().unwrap() < 10, "{lease}");
    assert!(status["strangers"]["not_the_key"].as_u64().unwrap() >= 1, "{status}");
    assert_eq!((&status["gone"][0]["site"], &status["gone"][0]["last"]), (&"site-2".into(), &"cut".into()));
    assert_eq!(status["cuts"][0]["site"], "site-2");
    assert_eq!((&status["service"]["reached"], &status["service"]["epoch"]), (&true.into(), &1.into()));
    let text = gate.works(&["status"]);
    for words in ["leased       site-1", "not leased   site-2", "kept out     site-2", "key service  reached", "1000 B up"] {
        assert!(text.contains(words), "{words}: {text}");
    }

    let text = metrics(port);
    assert!(text.starts_with("HTTP/1.1 200 OK") && text.contains("text/plain; version=0.0.4"), "{text}");
    for line in [
        "coffer_gate_leases 1",
        "coffer_gate_service_reached 1",
        "coffer_gate_bytes_up_total{site=\"site-1\"} 1000",
        "coffer_gate_connections{site=\"site-1\"} 2",
        "coffer_gate_cuts_total{site=\"site-1\"} 0",
        "coffer_gate_last_verdict{site=\"site-1\",code=\"admitted\"} 1",
        "coffer_gate_last_verdict{site=\"site-2\",code=\"cut\"} 1",
        "coffer_gate_refused_total{site=\"\",code=\"not_the_key\"} ",
        "coffer_gate_refused_total{site=\"site-2\",code=\"cut\"} ",
    ] {
        assert!(text.contains(&format!("\n{line}")), "{line}: {text}");
    }
    let age = text.lines().find_map(|line| line.strip_prefix("coffer_gate_lease_age_seconds{site=\"site-1\"} ")).unwrap();
    of_age(age.parse().unwrap());
    assert_eq!(text.matches("\ncoffer_gate_last_verdict{").count(), 2, "one of each site: {text}");
    // Every sample has its type, and no name appears twice among them.
    let mut types = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(matches!(kind, "gauge" | "counter") && types.insert(name, kind).is_none(), "{line}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
    }

    // A tunnel is cut: it is counted, the last verdict is the code, and the log says of which boot.
    gate.works(&["cut", "site-1"]);
    tunnel.reset(Duration::from_secs(5));
    let text = eventually("the last word", Duration::from_secs(5), || {
        Some(metrics(port)).filter(|text| text.contains("\ncoffer_gate_last_verdict{site=\"site-1\",code=\"cut\"} 1\n"))
    });
    assert!(text.contains("\ncoffer_gate_cuts_total{site=\"site-1\"} 1\n"), "{text}");
    assert!(!text.contains("coffer_gate_lease_age_seconds{") && !text.contains("code=\"admitted\"}"), "{text}");
    let (key, instance) = (boot.key.jkt().to_string(), boot.instance.to_string());
    gate.logged(&["connection cut", "site-1", &key, &instance, "cut"]);
    gate.logged(&["refused", "site-1", &key, &instance, "what=\"lease\"", "code=\"cut\""]);
    gate.works(&["cut", "site-1", "--lift"]);
    let _lease = gate.door.leased(&boot, &token);
    let status = gate.status();
    let lease = &status["leases"][0];
    assert_eq!((&lease["site"], &lease["cuts"], &lease["last"]), (&"site-1".into(), &1.into(), &"admitted".into()));
    assert!(lease["age_seconds"].as_u64().unwrap() < begun.elapsed().as_secs(), "a lease of its own: {lease}");
}

/// PID 1 of the gate's own VM, as far as the gate asks it.
fn pid1(socket: &Path, answer: Arc<Mutex<(u16, String)>>) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 1024];
            let read = stream.read(&mut head).unwrap_or(0);
            assert!(head[..read].starts_with(b"GET /v1/token HTTP/1.1\r\n"));
            let (status, body) = answer.lock().unwrap().clone();
            let _ = write!(stream, "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        }
    });
}

/// The token that a gate in a confidential VM shows is its own, for the key of the certificate that this very connection has.
#[test]
fn an_attested_gate_shows_its_token_over_the_key_of_its_certificate() {
    let issuer = Issuer::start();
    let dir = tempfile::tempdir().unwrap();
    let (key, socket) = (dir.path().join("node_key"), dir.path().join("attest.sock"));
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ecdsa", "-b", "384", "-N", "", "-C", "", "-f"]).arg(&key).status().unwrap();
    assert!(made.success());
    let public = fs::read_to_string(key.with_extension("pub")).unwrap();
    let public = BASE64.decode(public.split(' ').nth(1).unwrap().trim().as_bytes()).unwrap();
    let point = &public[public.len() - NodeKey::SEC1_LEN..];
    let node = NodeKey::from_sec1(point).unwrap();
    let gates_own = |node_jkt: Jkt| {
        let own = Boot::of("superlink");
        issuer.token_with(&own, |subject| {
            subject.coffer.role = "superlink".into();
            subject.coffer.node_jkt = Some(node_jkt);
        })
    };
    let body = |token: &str, expires: u64| format!(r#"{{"token":"{token}","issued_at":1,"expires_at":{expires}}}"#);
    let token = gates_own(node.thumbprint().unwrap());
    let answer = Arc::new(Mutex::new((503, "{}".to_owned())));
    pid1(&socket, Arc::clone(&answer));
    let section = format!("[attested]\nsocket = \"{}\"\nnode_key = \"{}\"\n\n[limits]", socket.display(), key.display());
    let gate = Gate::with(&issuer, &Settings { edits: vec![("[limits]", section)], ..Settings::default() });
    let boot = Boot::of("site-1");
    let seen = |(wire, answer): (Wire, Answer)| match answer {
        Answer::Admitted { gate_token, .. } => {
            let certificate = wire.0.conn.peer_certificates().unwrap()[0].to_vec();
            assert!(certificate.windows(point.len()).any(|window| window == point), "the certificate is over another key");
            gate_token
        }
        Answer::Refused { .. } => panic!("{answer:?}"),
    };
    let shown = || {
        // Ten a second are what one site may.
        std::thread::sleep(Duration::from_millis(200));
        seen(gate.door.tunnel(&boot, &issuer.token(&boot)))
    };
    // Who waits for the gate's proof has it before a word was said, and goes on as everybody.
    let greeted = || {
        let (mut wire, greeting) = gate.door.greeted(&boot.key).unwrap();
        wire.send(&Hello { v: Version1, open: Open::Tunnel, token: issuer.token(&boot), node: None }).unwrap();
        let answer = wire.answer().unwrap();
        assert_eq!(seen((wire, answer)), greeting.gate_token);
        greeting.gate_token
    };
    assert_eq!((shown(), greeted()), (None, None), "PID 1 has none");
    assert_eq!(gate.status()["attested"], false);
    // A token over another node key would be refused by every guest: it is not even shown.
    *answer.lock().unwrap() = (200, body(&gates_own(Boot::of("x").key.jkt()), now() + 300));
    gate.logged(&["the token names node key", "hint: [attested] node_key is this boot's"]);
    assert_eq!(shown(), None);
    *answer.lock().unwrap() = (200, body(&token, now() + 9));
    eventually("the gate's own token", Duration::from_secs(8), || shown().map(|got| assert_eq!(got, token)));
    assert_eq!(greeted().as_ref(), Some(&token));
    assert!(!gate.log().contains(&token));
    // PID 1 is gone: the token is shown until it expires and no longer.
    *answer.lock().unwrap() = (503, "{}".to_owned());
    assert_eq!(shown(), Some(token));
    eventually("its end", Duration::from_secs(15), || shown().is_none().then_some(()));
}
