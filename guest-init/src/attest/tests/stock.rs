//! `key_service.kind: trustee`: what PID 1 says to a stock key service, held against what a stock client was captured saying to
//! one, and what it makes of that service's captured answers. No stock service runs here.

use std::fs;

use serde_json::{Map, Value};

use super::*;

/// One captured request and its answer.
struct Exchange {
    method: String,
    path: String,
    headers: Map<String, Value>,
    body: String,
    status: u16,
    answer: String,
}

fn capture(name: &str) -> Option<Vec<Exchange>> {
    let path = system_tests::vectors::path(&format!("kbs/{name}.jsonl"))?;
    let read = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("an exchange");
        let text = |pointer: &str| line.pointer(pointer).and_then(Value::as_str).expect(pointer).to_owned();
        Exchange {
            method: text("/request/method"),
            path: text("/request/path"),
            headers: line["request"]["headers"].as_object().expect("headers").clone(),
            body: text("/request/body"),
            status: line["response"]["status"].as_u64().and_then(|status| status.try_into().ok()).expect("a status"),
            answer: text("/response/body"),
        }
    };
    Some(fs::read_to_string(path).expect("readable").lines().map(read).collect())
}

/// A request as PID 1 sent it.
struct Sent {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Sent {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(sent, _)| sent == name).map(|(_, value)| value.as_str())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// A stock service: cookie as stock services set it, no content type on refusals, answers by `answer`.
fn stock_service(authority: &Authority, mut answer: impl FnMut(&Sent) -> Answer + Send + 'static) -> (String, Arc<Mutex<Vec<Sent>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (config, log) = (authority.server.clone(), seen.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).expect("a connection"), stream);
            while let Some(sent) = read_sent(&mut tls) {
                let (status, body) = answer(&sent);
                let cookie = "set-cookie: kbs-session-id=3ef283ae4e2944ca98fb4ace27c086fb; Expires=Sun, 22 Nov 2099 21:45:00 GMT\r\n";
                let cookie = if sent.method == "POST" && status == 200 { cookie } else { "" };
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{cookie}\r\n", body.len());
                log.lock().expect("whole").push(sent);
                if tls.write_all(&[head.as_bytes(), &body].concat()).is_err() {
                    break;
                }
            }
        }
    });
    (url, seen)
}

fn read_sent(stream: &mut impl Read) -> Option<Sent> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text");
    let mut lines = head.lines();
    let mut first = lines.next().expect("a request line").split(' ');
    let (method, path) = (first.next().expect("a method").to_owned(), first.next().expect("a path").to_owned());
    let headers: Vec<_> =
        lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, n)| n.parse().expect("a number"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Sent { method, path, headers, body })
}

/// The captured answers; the token with today's times, for PID 1 sets its clock by it, and the secret sealed to PID 1's own key.
fn captured_answers(capture: &[Exchange]) -> impl FnMut(&Sent) -> Answer + Send + use<> {
    let of = |path: &str| capture.iter().find(|e| e.path == path && e.status == 200).expect(path).answer.clone().into_bytes();
    let (auth, attested) = (of("/kbs/v0/auth"), of("/kbs/v0/attest"));
    let mut client = None;
    move |sent| match sent.path.as_str() {
        "/kbs/v0/auth" => (200, auth.clone()),
        "/kbs/v0/attest" => {
            client = Some(Attestation::parse(&sent.body).expect("parses").runtime_data.tee_pubkey().clone());
            (200, with_todays_times(&attested))
        }
        _ => {
            let random = SealRandom { ephemeral: [1; 66], content_key: [2; 32], iv: [3; 12] };
            (200, seal(&SECRET, client.as_ref().expect("attested"), &random).expect("seals").to_bytes())
        }
    }
}

fn with_todays_times(answer: &[u8]) -> Vec<u8> {
    let mut answer: Value = serde_json::from_slice(answer).expect("JSON");
    let token = answer["token"].as_str().expect("text").to_owned();
    let [header, payload, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
    let mut claims: Value = serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).expect("base64url")).expect("JSON");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    (claims["iat"], claims["exp"]) = (now.into(), (now + 300).into());
    let payload = BASE64URL_NOPAD.encode(claims.to_string().as_bytes());
    answer["token"] = format!("{header}.{payload}.{signature}").into();
    answer.to_string().into_bytes()
}

fn trustee(authority: &Authority, url: &str) -> SiteConfig {
    let mut site = site(authority, &[url], 60);
    site.key_service.kind = KeyServiceKind::Trustee;
    site
}

/// Members and types, without values; arrays by their first element.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), shape(value))).collect::<Map<_, _>>().into(),
        Value::Array(items) => items.first().map(shape).into_iter().collect(),
        Value::Null => Value::Null,
        Value::Bool(_) => "bool".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "text".into(),
    }
}

#[test]
fn a_stock_service_hears_what_a_stock_client_says() {
    let Some(capture) = capture("real-kbs-ec256") else { return };
    let authority = authority();
    let (url, seen) = stock_service(&authority, captured_answers(&capture));
    let mut site = trustee(&authority, &url);
    site.kit = Some(coffer_manifest::KitRef { offset: 0, size: 1, digest: coffer_manifest::Sha256Digest::of(b"") });
    let secrets = run(&site).expect("released");
    assert_eq!(secrets.root.expose(), &SECRET);

    let seen = seen.lock().expect("whole");
    let [auth, attest, root, kit] = &seen[..] else { panic!("{} requests", seen.len()) };
    let theirs = |path: &str| capture.iter().find(|e| e.path == path).expect(path);
    for (ours, theirs) in [(auth, theirs("/kbs/v0/auth")), (attest, theirs("/kbs/v0/attest")), (root, &capture[3]), (kit, &capture[3])] {
        assert_eq!(ours.method, theirs.method, "{}", ours.path);
        for name in ["content-type", "cookie", "host", "user-agent", "accept", "content-length", "authorization"] {
            // A stock jar sends no cookie before it has one, nor do we; of the rest both send the same kinds.
            assert_eq!(ours.header(name).is_some(), theirs.headers.contains_key(name), "{}: {name}", ours.path);
        }
        assert!(ours.header("content-type").is_none_or(|value| theirs.headers["content-type"] == value));
        assert!(ours.header("cookie").is_none_or(|value| theirs.headers["cookie"] == value), "{:?}", ours.header("cookie"));
    }
    a_request(auth, theirs("/kbs/v0/auth"));
    an_attestation(attest, theirs("/kbs/v0/attest"));
    for asked in [root, kit] {
        let segments: Vec<_> = asked.path.strip_prefix("/kbs/v0/resource/").expect("a resource").split('/').collect();
        let clean = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        assert!(segments.iter().all(|s| s.starts_with(clean) && s.chars().all(|c| clean(c) || c == '.')), "{segments:?}");
        assert_eq!(segments.len(), capture[3].path.strip_prefix("/kbs/v0/resource/").expect("a resource").split('/').count());
    }
}

fn a_request(ours: &Sent, theirs: &Exchange) {
    let (ours, mut theirs): (Value, Value) = (ours.json(), serde_json::from_str(&theirs.body).expect("JSON"));
    assert_eq!(shape(&ours), shape(&theirs));
    assert_eq!(ours["version"], theirs["version"]);
    let offered = theirs["extra-params"]["supported-hash-algorithms"].take();
    assert!(offered.as_array().expect("a list").contains(&ours["extra-params"]["supported-hash-algorithms"][0]));
    assert_eq!(ours["tee"], "snp");
}

fn an_attestation(ours: &Sent, theirs: &Exchange) {
    let (mut ours, mut theirs): (Value, Value) = (ours.json(), serde_json::from_str(&theirs.body).expect("JSON"));
    let (nonce, captured) = (ours["runtime-data"]["nonce"].clone(), theirs["runtime-data"]["nonce"].clone());
    assert_eq!(nonce, captured, "the nonce goes back as it came");
    let evidence = ours["tee-evidence"]["primary_evidence"].take();
    theirs["tee-evidence"]["primary_evidence"].take();
    assert_eq!(shape(&ours), shape(&theirs), "nothing but the evidence differs, and no member `coffer`");
    assert_eq!(ours["tee-evidence"]["additional_evidence"], theirs["tee-evidence"]["additional_evidence"]);
    let (ours, theirs) = (&ours["runtime-data"]["tee-pubkey"], &theirs["runtime-data"]["tee-pubkey"]);
    assert!(["kty", "crv", "alg"].iter().all(|member| ours[member] == theirs[member]), "{ours}");
    snp_evidence(&evidence);
}

/// The sample attester of the capture has other evidence; an authentic stock attester's SNP evidence is among the vectors.
fn snp_evidence(ours: &Value) {
    let Some(path) = system_tests::vectors::path("snp/trustee/e2e-evidence.json") else { return };
    let theirs: Value = serde_json::from_slice(&fs::read(path).expect("readable")).expect("JSON");
    let members = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<std::collections::BTreeSet<_>>();
    assert_eq!(members(ours), members(&theirs));
    let (ours, theirs) = (&ours["attestation_report"], &theirs["attestation_report"]);
    // Newer attesters write these two; the service takes both forms.
    let newer = ["launch_mit_vector".to_owned(), "current_mit_vector".to_owned()];
    let (mut own, captured) = (members(ours), members(theirs));
    own.retain(|member| captured.contains(member) || !newer.contains(member));
    assert_eq!(own, captured);
    for member in captured {
        let (ours, theirs) = (shape(&ours[&member]), shape(&theirs[&member]));
        let nullable = ["cpuid_fam_id", "cpuid_mod_id", "cpuid_step", "current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"];
        assert!(ours == theirs || nullable.contains(&member.as_str()), "{member}: {ours} and {theirs}");
    }
}

/// A stock policy that denies answers 401, in prose, to the resource; PID 1 does not start over nine times, and says what it was told.
#[test]
fn a_stock_services_no_is_final_and_shown_in_its_words() {
    let (Some(flow), Some(denied)) = (capture("real-kbs-ec256"), capture("deny-401")) else { return };
    let refusal = denied.iter().rfind(|e| e.method == "GET").map(|e| (e.status, e.answer.clone().into_bytes())).expect("has one");
    let authority = authority();
    let mut say = captured_answers(&flow);
    let (url, seen) = stock_service(&authority, move |sent| if sent.method == "GET" { refusal.clone() } else { say(sent) });
    let text = failure(&trustee(&authority, &url));
    assert!(text.contains("401") && text.contains("Access denied by policy"), "{text}");
    assert_eq!(seen.lock().expect("whole").len(), 3, "auth, attest, one resource");
}

/// A stock service confirms no bound keys. A site whose key service is one does without; a Coffer site refuses it.
#[test]
fn a_coffer_site_does_not_take_a_stock_service() {
    let Some(flow) = capture("real-kbs-ec256") else { return };
    let authority = authority();
    let (url, seen) = stock_service(&authority, captured_answers(&flow));
    let text = failure(&site(&authority, &[&url], 60));
    assert!(text.contains("does not confirm bound keys"), "{text}");
    assert_eq!(seen.lock().expect("whole").len(), 1);
}

/// A renewal with a stock service is one more stock handshake: no purpose, no bound keys, no resource.
#[test]
fn a_stock_service_renews() {
    let Some(flow) = capture("real-kbs-ec256") else { return };
    let authority = authority();
    let (url, seen) = stock_service(&authority, captured_answers(&flow));
    let mut attester = attester(&trustee(&authority, &url)).expect("an attester");
    attester.boot(&mut PowerButton::open()).expect("boots");
    let before = seen.lock().expect("whole").len();
    let token = attester.renew().expect("renewed");
    assert_eq!(token.expires_at - token.issued_at, 300);
    let seen = seen.lock().expect("whole");
    let paths: Vec<_> = seen[before..].iter().map(|sent| sent.path.as_str()).collect();
    assert_eq!(paths, ["/kbs/v0/auth", "/kbs/v0/attest"]);
    an_attestation(&seen[before + 1], flow.iter().find(|e| e.path == "/kbs/v0/attest").expect("captured"));
}
