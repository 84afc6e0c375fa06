//! A workload at its socket.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use super::*;
use crate::standing::Token;

struct Container {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    standing: Arc<Standing>,
}

fn user() -> User {
    User { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw(), groups: vec![] }
}

fn container() -> Container {
    let dir = tempfile::tempdir().expect("tempdir");
    let tree = Tree::open(&dir.path().to_string_lossy()).expect("opens");
    let token = Token { text: "e30.e30.c2ln".into(), issued_at: 7, expires_at: 67 };
    let standing = Standing::new(token, true);
    start(&tree, &user(), &standing).expect("starts");
    Container { socket: dir.path().join(FOLDER).join(SOCKET), _dir: dir, standing }
}

impl Container {
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        stream
    }

    /// Status and body of what is said to these bytes.
    fn say(&self, bytes: &[u8]) -> (u16, Value) {
        let mut stream = self.connect();
        stream.write_all(bytes).expect("sends");
        read(stream)
    }

    fn get(&self, path: &str) -> (u16, Value) {
        self.say(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
    }
}

fn read(mut stream: UnixStream) -> (u16, Value) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer, then the end");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let length: usize = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length").parse().expect("a number");
    assert_eq!(length, body.len());
    (head[9..12].parse().expect("a status"), serde_json::from_str(body).expect("JSON"))
}

#[test]
fn the_workload_reads_its_token_until_there_is_none() {
    let container = container();
    assert_eq!(container.get("/v1/token"), (200, json!({ "token": "e30.e30.c2ln", "issued_at": 7, "expires_at": 67 })));
    container.standing.unreached("no route");
    assert_eq!(container.get("/v1/token").0, 200, "as good as it was");
    container.standing.refused("site_suspended", "r-1");
    assert_eq!(container.get("/v1/token"), (503, json!({ "code": "site_suspended", "id": "r-1" })));
    container.standing.unreached("no route");
    assert_eq!(container.get("/v1/token").1["code"], "site_suspended", "the last word of the service");
    container.standing.renewed(Token { text: "new".into(), issued_at: 8, expires_at: 68 });
    assert_eq!(container.get("/v1/token").1["token"], "new");
}

#[test]
fn status_says_verdict_lease_and_when_the_token_ends() {
    let container = container();
    let token = json!({ "issued_at": 7, "expires_at": 67 });
    let none = json!({ "state": "none", "why": "not asked yet" });
    assert_eq!(container.get("/v1/status"), (200, json!({ "verdict": { "state": "affirmed" }, "lease": none, "token": token })));
    container.standing.leased(Lease::Until(Instant::now() + Duration::from_secs(90)));
    let lease = container.get("/v1/status").1["lease"].clone();
    assert!(lease["state"] == "leased" && lease["seconds"].as_u64().is_some_and(|s| (80..=90).contains(&s)), "{lease}");
    container.standing.leased(Lease::Until(Instant::now()));
    assert_eq!(container.get("/v1/status").1["lease"]["state"], "none");
    container.standing.leased(Lease::Refused { code: "replaced".into(), id: "g-1".into() });
    container.standing.refused("revoked", "r-2");
    let said = container.get("/v1/status").1;
    assert_eq!(said["lease"], json!({ "state": "refused", "code": "replaced", "id": "g-1" }));
    assert_eq!((&said["verdict"]["code"], &said["token"]), (&json!("revoked"), &Value::Null));
}

/// There is nothing to send bytes to: no path takes any, and whatever is sent comes back nowhere.
#[test]
fn the_workload_gets_no_report_and_no_signature_over_its_bytes() {
    let container = container();
    let chosen = "chosen-by-the-workload";
    for path in ["/v1/report", "/v1/evidence", "/v1/sign", "/v1/quote", "/v1/keys", "/aa/evidence", "/cdh/resource/a/b/c"] {
        for method in ["GET", "POST", "PUT"] {
            let request = format!("{method} {path}?runtime_data={chosen} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{chosen}", chosen.len());
            assert_eq!(container.say(request.as_bytes()), (404, json!({ "code": "no_such_path" })), "{method} {path}");
        }
    }
    for path in ["/v1/token", "/v1/status"] {
        let request = format!("POST {path} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{chosen}", chosen.len());
        assert_eq!(container.say(request.as_bytes()), (405, json!({ "code": "no_such_method" })));
        let request = format!("GET {path} HTTP/1.1\r\nX-Nonce: {chosen}\r\nContent-Length: {}\r\n\r\n{chosen}", chosen.len());
        let (status, body) = container.say(request.as_bytes());
        assert!(status == 200 && !body.to_string().contains(chosen), "{body}");
    }
    assert_eq!(container.say(b"SSH-2.0-OpenSSH\r\n\r\n").0, 400);
    let long = format!("GET /v1/token HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(request::MAX_HEAD_BYTES));
    let mut stream = container.connect();
    // The rest of it may find nobody.
    let _ = stream.write_all(long.as_bytes());
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 431");
}

#[test]
fn slow_clients_lose_their_place() {
    let container = container();
    let began = Instant::now();
    let mut slow: Vec<_> = (0..WORKERS).map(|_| container.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /v1/token HT").expect("sends");
    }
    // All workers are taken; who comes now waits for at most their patience.
    assert_eq!(container.get("/v1/token").0, 200);
    let took = began.elapsed();
    assert!(took >= PATIENCE / 2 && took < PATIENCE * 3, "{took:?}");
    for mut stream in slow {
        assert_eq!(stream.read(&mut [0; 1]).expect("closed"), 0, "not a word");
    }
}

#[test]
fn a_request_may_come_in_pieces_and_a_peer_may_go() {
    let container = container();
    drop(container.connect());
    let mut stream = container.connect();
    for piece in ["GET /v1/tok", "en HTTP/1.1\r", "\n\r", "\n"] {
        stream.write_all(piece.as_bytes()).expect("sends");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(read(stream).0, 200);
}

#[test]
fn the_socket_is_the_workloads_alone() {
    let dir = tempfile::tempdir().expect("tempdir");
    let tree = Tree::open(&dir.path().to_string_lossy()).expect("opens");
    let mut user = user();
    if user.uid == 0 {
        (user.uid, user.gid) = (1234, 5678);
    }
    let _listener = listen(&tree, &user).expect("listens");
    let socket = std::fs::symlink_metadata(dir.path().join(FOLDER).join(SOCKET)).expect("is there");
    assert!(socket.file_type().is_socket());
    assert_eq!((socket.mode() & 0o7777, socket.uid(), socket.gid()), (0o600, user.uid, user.gid));
    let folder = std::fs::metadata(dir.path().join(FOLDER)).expect("is there");
    assert_eq!(folder.mode() & 0o022, 0, "nobody but its owner puts anything in its place");
    assert!(listen(&tree, &user).is_err(), "there is one");
}
