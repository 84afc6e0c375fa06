//! `openapi.json` against the running service: every documented answer is given, and has the documented shape.
//!
//! That the document and the router have the same routes is a unit test of `src/http/openapi.rs`.

mod schema;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;

use coffer_manifest::MAX_DOCUMENT_BYTES;
use coffer_protocol::{Challenge, MAX_ATTESTATION_BYTES, MAX_MESSAGE_BYTES, Request};
use coffer_token::UnixTime;
use coffer_token::admin::{AdminSigner, Call};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value, json};

use crate::support::{Answer, Client, Guest, Service, TLS_NAME, host_data, now};
use schema::Document;

const RESOURCE: &str = "/kbs/v0/resource/{project}/{site}/{tag}";
const SITE: &str = "/coffer/v1/sites/{project}/{site}";
const DEFAULT_POLICY: &str = "/coffer/v1/policy";
const PROJECT_POLICY: &str = "/coffer/v1/projects/{project}/policy";

/// The service, the document, and what of it was seen.
struct Walk<'a> {
    service: &'a Service,
    client: Client,
    document: Document,
    ada: AdminSigner,
    seen: RefCell<BTreeSet<String>>,
    calls: RefCell<u64>,
}

impl<'a> Walk<'a> {
    fn new(service: &'a Service) -> Self {
        let client = service.client();
        let document = Document::new(client.get("/coffer/v1/openapi.json", None).json());
        let ada = AdminSigner::from_pem(&fs::read_to_string(service.path().join("admin.key")).unwrap()).unwrap();
        Self { service, client, document, ada, seen: RefCell::default(), calls: RefCell::default() }
    }

    /// Sends to `path`, an instance of `template`; compares with the document; notes what was seen.
    #[track_caller]
    fn send(&self, (method, template): (&str, &str), path: &str, headers: &[(&str, &str)], body: &[u8], status: u16) -> Answer {
        let answer = self.client.send(&method.to_uppercase(), path, headers, body).unwrap();
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, status, "{method} {path}: {text}");
        self.document.check_answer(method, template, status, &answer.content_type, &answer.body);
        if status < 300 {
            self.document.check_request(method, template, body);
        }
        self.seen.borrow_mut().insert(format!("{method} {template} {status}"));
        answer
    }

    /// A signed call.
    #[track_caller]
    fn signed(&self, who: &AdminSigner, at: (&str, &str), path: &str, body: &Value, status: u16) -> Answer {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let call = Call { audience: TLS_NAME, method: &at.0.to_uppercase(), path, body: &body };
        *self.calls.borrow_mut() += 1;
        let id = format!("openapi-{}", self.calls.borrow());
        let token = who.sign(&call, &id, UnixTime(now()), 60).unwrap();
        self.send(at, path, &[("authorization", &format!("Bearer {token}"))], &body, status)
    }

    /// A signed call of the admin who may do everything.
    #[track_caller]
    fn admin(&self, at: (&str, &str), path: &str, body: &Value, status: u16) -> Answer {
        self.signed(&self.ada, at, path, body, status)
    }

    /// A call by bearer token.
    #[track_caller]
    fn bearer(&self, token: &str, at: (&str, &str), path: &str, body: &[u8], status: u16) -> Answer {
        self.send(at, path, &[("authorization", &format!("Bearer {token}"))], body, status)
    }
}

#[test]
fn every_documented_answer_is_given_and_has_its_shape() {
    let service = Service::simulated();
    let walk = Walk::new(&service);
    open(&walk);
    strangers(&walk);
    let genuine = sites(&walk);
    guests(&walk, &genuine);
    explanations(&walk, &genuine);
    for (base, path) in [(DEFAULT_POLICY, DEFAULT_POLICY), (PROJECT_POLICY, "/coffer/v1/projects/demo/policy")] {
        policies(&walk, base, path);
    }
    stock(&walk);
    malformed(&walk);
    strangers_with_a_key(&walk);
    lists(&walk);
    keys(&walk);
    collateral(&walk);
    admins(&walk);
    let mut expected = walk.document.documented();
    // Another service's, see the test below.
    assert!(expected.remove("post /coffer/v1/collateral/fetch 202"));
    let seen = walk.seen.borrow();
    let never: Vec<_> = expected.difference(&seen).collect();
    assert!(never.is_empty(), "documented and never seen: {never:?}");
}

#[test]
fn a_fetch_is_put_in_line_where_a_key_server_is_allowed() {
    // A port that nobody listens on: what is in line is tried in vain, and nobody waits for it.
    let service = Service::edited("enabled = false\nurl = \"https://kdsintf.amd.com\"", "enabled = true\nurl = \"https://127.0.0.1:9\"");
    let walk = Walk::new(&service);
    let fetch = ("post", "/coffer/v1/collateral/fetch");
    walk.admin(fetch, fetch.1, &json!({ "families": ["genoa"] }), 202);
}

/// What anybody may ask.
fn open(walk: &Walk<'_>) {
    for path in ["/healthz", "/.well-known/jwks.json", "/coffer/v1/openapi.json", "/coffer/v1/revocation-list", "/coffer/v1/withdrawals"] {
        walk.send(("get", path), path, &[], &[], 200);
    }
    for path in ["/coffer/v1/revocation-list", "/coffer/v1/withdrawals"] {
        walk.send(("get", path), &format!("{path}?after=x"), &[], &[], 400);
    }
    let auth = ("post", "/kbs/v0/auth");
    walk.send(auth, auth.1, &[], b"x", 400);
    walk.send(auth, auth.1, &[], &vec![b' '; MAX_MESSAGE_BYTES + 1], 413);
    let attest = ("post", "/kbs/v0/attest");
    walk.send(attest, attest.1, &[], b"x", 400);
    walk.send(attest, attest.1, &[], &vec![b' '; MAX_ATTESTATION_BYTES + 1], 413);
}

/// A path with every parameter filled in.
fn filled(template: &str) -> String {
    let value = |name: &str| match name {
        "project" => "demo",
        "site" => "site-1",
        "version" => "1",
        "id" => "0123456789abcdef",
        _ => "x",
    };
    let fill = |part: &str| {
        part.strip_prefix('{').and_then(|part| part.strip_suffix('}')).map_or_else(|| part.to_owned(), |n| value(n).to_owned())
    };
    template.split('/').map(fill).collect::<Vec<_>>().join("/")
}

/// Nobody calls an admin's or a tool's route without a signature or a token.
fn strangers(walk: &Walk<'_>) {
    for (method, template, security) in walk.document.operations() {
        if matches!(security.as_deref(), Some("adminCall" | "stockBearer")) {
            walk.send((&method, &template), &filled(&template), &[], &[], 401);
        }
    }
}

/// A signature that holds, of an admin who may not.
fn strangers_with_a_key(walk: &Walk<'_>) {
    let one = |name: &str, scope: &str, random: u8| {
        let signer = AdminSigner::from_random(&[random; 48]).unwrap();
        let body = json!({ "name": name, "public_key": signer.public().to_pem().unwrap(), "scopes": [scope] });
        walk.admin(("post", "/coffer/v1/admins"), "/coffer/v1/admins", &body, 201);
        signer
    };
    let (keeper, clerk) = (one("kim", "keys", 7), one("cleo", "collateral", 8));
    for (method, template, security) in walk.document.operations() {
        if security.as_deref() != Some("adminCall") {
            continue;
        }
        let who = if template.starts_with("/coffer/v1/keys") { &clerk } else { &keeper };
        walk.signed(who, (&method, &template), &filled(&template), &sample(walk, &method, &template), 403);
    }
    let bearer = |scope: &str| {
        let at = ("post", "/coffer/v1/projects/{project}/bearer");
        let body = json!({ "scopes": [scope], "ttl_seconds": 60 });
        walk.admin(at, "/coffer/v1/projects/demo/bearer", &body, 201).json()["token"].as_str().unwrap().to_owned()
    };
    let (setter, policer) = (bearer("set-resource"), bearer("policy"));
    for (method, template, security) in walk.document.operations() {
        if security.as_deref() == Some("stockBearer") {
            let token = if template == RESOURCE { &policer } else { &setter };
            walk.bearer(token, (&method, &template), &filled(&template), b"{}", 403);
        }
    }
}

/// A body that parses.
fn sample(walk: &Walk<'_>, method: &str, template: &str) -> Value {
    let document = policy_document();
    match template.rsplit('/').next().unwrap() {
        _ if method == "get" => Value::Null,
        "sites" => enrollment(walk, "site-1"),
        "collateral" => json!({ "pieces": [] }),
        "fetch" => json!({ "families": ["genoa"] }),
        "revocations" => json!({ "kind": "image", "value": "ab".repeat(48), "reason": "test" }),
        "admins" => json!({ "name": "x", "public_key": "", "scopes": ["read"] }),
        "rotate" => json!({ "delay_seconds": 300 }),
        "revoke" | "suspend" | "resume" | "retire" => json!({ "reason": "test" }),
        "bearer" => json!({ "scopes": ["policy"], "ttl_seconds": 60 }),
        "policy" => json!({ "replaces": 0, "reason": "test", "document": document }),
        "dry-run" => json!({ "last": 10, "document": document }),
        "rollback" => json!({ "to": 1, "replaces": 1, "reason": "test" }),
        other => panic!("no sample body for {other}"),
    }
}

/// What does not parse is refused as such, admins and tools are told.
fn malformed(walk: &Walk<'_>) {
    let token = all_scopes(walk);
    for (method, template, security) in walk.document.operations() {
        if !walk.document.documents(&method, &template, 400) {
            continue;
        }
        let path = filled(&template);
        match (security.as_deref(), method.as_str()) {
            (Some("adminCall"), "get") => _ = walk.admin((&method, &template), &format!("{path}?after=x"), &Value::Null, 400),
            (Some("adminCall"), _) => _ = walk.admin((&method, &template), &path, &json!({ "no": 1 }), 400),
            (Some("stockBearer"), _) => _ = walk.bearer(&token, (&method, &template), &path, b"x", 400),
            _ => {}
        }
    }
}

fn enrollment(walk: &Walk<'_>, site: &str) -> Value {
    let file = walk.service.enrollment_file(walk.service.record(site, host_data(site)));
    let enrollment: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    json!({ "accept_aml_risk": false, "enrollment": enrollment })
}

fn policy_document() -> Value {
    json!({
        "type": "coffer/project-policy/v1",
        "reference_values": {
            "families": { "genoa": { "tcb_floor": { "bootloader": 10, "tee": 0, "snp": 23, "microcode": 84 } } },
        },
        "stock_resources": [{ "path": "disk/key1", "sites": ["site-1"], "writable": true }],
    })
}

/// A site that lives, and one that is revoked.
fn sites(walk: &Walk<'_>) -> Guest {
    let enroll = ("post", "/coffer/v1/sites");
    walk.admin(enroll, enroll.1, &enrollment(walk, "site-1"), 201);
    walk.admin(enroll, enroll.1, &enrollment(walk, "site-1"), 409);
    walk.admin(enroll, enroll.1, &json!(" ".repeat(MAX_DOCUMENT_BYTES + 1024)), 413);
    walk.admin(enroll, enroll.1, &enrollment(walk, "site-2"), 201);
    let reason = json!({ "reason": "test" });
    for verb in ["suspend", "resume"] {
        let (at, path) = (format!("/coffer/v1/sites/{{project}}/{{site}}/{verb}"), format!("/coffer/v1/sites/demo/site-2/{verb}"));
        walk.admin(("post", &at), &path, &reason, 200);
        walk.admin(("post", &at), &path, &reason, 409);
        walk.admin(("post", &at), &path.replace("site-2", "No%20Site"), &reason, 404);
        if verb == "suspend" {
            walk.admin(("get", SITE), "/coffer/v1/sites/demo/site-2", &Value::Null, 200);
        }
    }
    let revoke = ("post", "/coffer/v1/sites/{project}/{site}/revoke");
    walk.admin(revoke, "/coffer/v1/sites/demo/site-2/revoke", &reason, 200);
    walk.admin(revoke, "/coffer/v1/sites/demo/site-2/revoke", &reason, 409);
    walk.admin(revoke, "/coffer/v1/sites/demo/No%20Site/revoke", &reason, 404);
    walk.admin(("get", "/coffer/v1/sites"), "/coffer/v1/sites", &Value::Null, 200);
    walk.admin(("get", SITE), "/coffer/v1/sites/demo/site-2", &Value::Null, 200);
    walk.admin(("get", SITE), "/coffer/v1/sites/demo/site-9", &Value::Null, 404);
    Guest::new(&crate::support::simulator(coffer_evidence::Family::Genoa).asp, crate::support::BASE, host_data("site-1"))
}

fn guests(walk: &Walk<'_>, guest: &Guest) {
    let (auth, attest, resource) = (("post", "/kbs/v0/auth"), ("post", "/kbs/v0/attest"), ("get", RESOURCE));
    let challenged = || {
        let answer = walk.send(auth, auth.1, &[], &Request::body(true), 200);
        (format!("kbs-session-id={}", answer.cookie.clone().unwrap()), Challenge::parse(&answer.body).unwrap())
    };
    let (cookie, challenge) = challenged();
    let (_, body) = guest.answer(&challenge, |asp, data| {
        let mut fields = asp.fields(&guest.guest, data, 0);
        fields.vmpl = 1;
        asp.evidence_of(&fields).unwrap()
    });
    walk.send(attest, attest.1, &[("cookie", &cookie)], &body, 403);
    walk.send(attest, attest.1, &[("cookie", &cookie)], &body, 401);
    let (cookie, challenge) = challenged();
    let (_, body) = guest.answer(&challenge, |asp, data| asp.evidence(&guest.guest, data).unwrap());
    let session = walk.send(attest, attest.1, &[("cookie", &cookie)], &body, 200).cookie.unwrap();
    let session = format!("kbs-session-id={session}");
    let own = guest.resource("site-1", "");
    walk.send(resource, &own, &[], &[], 401);
    walk.send(resource, &own, &[("cookie", &session)], &[], 200);
    walk.send(resource, &guest.resource("site-2", ""), &[("cookie", &session)], &[], 403);
    walk.send(resource, &guest.resource("site-1", ".other"), &[("cookie", &session)], &[], 404);
}

/// Of every kind: a refusal in the log, one in memory, an attestation.
fn explanations(walk: &Walk<'_>, guest: &Guest) {
    let at = ("get", "/coffer/v1/refusals/{id}");
    let refused = guest.attest_with(&walk.client, |f| f.vmpl = 1).answer.refusal_id();
    let stranger = walk.client.get("/kbs/v0/resource/a/b/c", None).refusal_id();
    let token = guest.attest(&walk.client).token();
    let claims = BASE64URL_NOPAD.decode(token.split('.').nth(1).unwrap().as_bytes()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    for id in [refused.as_str(), &stranger, claims["jti"].as_str().unwrap()] {
        walk.admin(at, &format!("/coffer/v1/refusals/{id}"), &Value::Null, 200);
    }
    walk.admin(at, "/coffer/v1/refusals/0000000000000000", &Value::Null, 404);
}

fn policies(walk: &Walk<'_>, template: &str, path: &str) {
    let shown = walk.admin(("get", template), path, &Value::Null, 200).json();
    let first = shown["version"].as_u64().unwrap();
    let set = |replaces: u64, status: u16| {
        let mut body = json!({ "replaces": replaces, "reason": "test", "document": policy_document() });
        // A stock resource belongs to a project; the default has none.
        if template == DEFAULT_POLICY {
            body["document"]["stock_resources"] = json!([]);
        }
        walk.admin(("post", template), path, &body, status);
    };
    set(first, 201);
    set(first + 7, 409);
    walk.admin(("get", &format!("{template}/history")), &format!("{path}/history"), &Value::Null, 200);
    let version = format!("{template}/versions/{{version}}");
    walk.admin(("get", &version), &format!("{path}/versions/1"), &Value::Null, 200);
    walk.admin(("get", &version), &format!("{path}/versions/99"), &Value::Null, 404);
    let mut stricter = policy_document();
    stricter["stock_resources"] = json!([]);
    stricter["reference_values"]["families"]["genoa"]["tcb_floor"]["microcode"] = json!(200);
    let dry_run = format!("{template}/dry-run");
    walk.admin(("post", &dry_run), &format!("{path}/dry-run"), &json!({ "last": 100, "document": stricter }), 200);
    let back = format!("{template}/rollback");
    for (to, replaces, status) in [(first + 1, first + 1, 201), (99, first + 2, 404), (1, first + 77, 409)] {
        let body = json!({ "to": to, "replaces": replaces, "reason": "test" });
        walk.admin(("post", &back), &format!("{path}/rollback"), &body, status);
    }
}

fn all_scopes(walk: &Walk<'_>) -> String {
    let at = ("post", "/coffer/v1/projects/{project}/bearer");
    let body = json!({ "scopes": ["set-resource", "policy", "reference-value"], "ttl_seconds": 300 });
    walk.admin(at, "/coffer/v1/projects/demo/bearer", &body, 201).json()["token"].as_str().unwrap().to_owned()
}

/// Stock admin tools.
fn stock(walk: &Walk<'_>) {
    let token = all_scopes(walk);
    let path = "/kbs/v0/resource/demo/disk/key1";
    walk.bearer(&token, ("post", RESOURCE), path, b"secret", 200);
    walk.bearer(&token, ("post", RESOURCE), path, &vec![0; (1 << 20) + 1], 413);
    walk.bearer(&token, ("delete", RESOURCE), path, &[], 200);
    walk.bearer(&token, ("delete", RESOURCE), path, &[], 404);
    let rego = "package policy\n\ndefault allow := false\n\nallow if input.submods.cpu0[\"ear.status\"] == \"affirming\"\n";
    let body = json!({ "policy": BASE64URL_NOPAD.encode(rego.as_bytes()) }).to_string();
    let at = "/kbs/v0/resource-policy";
    walk.bearer(&token, ("post", at), at, body.as_bytes(), 200);
    walk.bearer(&token, ("get", at), at, &[], 200);
    let rego = "package coffer.token\n\ndefault allow := false\n\nallow if input.request.kind == \"job\"\n";
    let body = json!({ "type": "rego", "policy_id": "default_cpu", "policy": BASE64URL_NOPAD.encode(rego.as_bytes()) }).to_string();
    let at = "/kbs/v0/attestation-policy";
    walk.bearer(&token, ("post", at), at, body.as_bytes(), 200);
    let lists = json!({ "snp_launch_measurement": [crate::support::BASE.to_string()] }).to_string();
    let body = json!({ "version": "0.1.0", "type": "sample", "payload": BASE64.encode(lists.as_bytes()) }).to_string();
    let at = "/kbs/v0/reference-value";
    walk.bearer(&token, ("post", at), at, body.as_bytes(), 200);
    let at = "/kbs/v0/reference-value/{name}";
    walk.bearer(&token, ("get", at), "/kbs/v0/reference-value/snp_launch_measurement", &[], 200);
    walk.bearer(&token, ("get", at), "/kbs/v0/reference-value/nothing", &[], 404);
}

/// Revocations, the audit log, the status.
fn lists(walk: &Walk<'_>) {
    let at = ("post", "/coffer/v1/revocations");
    let image = json!({ "kind": "image", "value": "ab".repeat(48), "reason": "test" });
    walk.admin(at, at.1, &image, 201);
    walk.admin(at, at.1, &image, 409);
    for path in ["/coffer/v1/revocations", "/coffer/v1/revocations/export", "/coffer/v1/audit"] {
        walk.admin(("get", path), &format!("{path}?after=1"), &Value::Null, 200);
        walk.admin(("get", path), path, &Value::Null, 200);
    }
    for path in ["/coffer/v1/audit/head", "/coffer/v1/status"] {
        walk.admin(("get", path), path, &Value::Null, 200);
    }
}

fn keys(walk: &Walk<'_>) {
    let rotate = ("post", "/coffer/v1/keys/rotate");
    let made = walk.admin(rotate, rotate.1, &json!({ "delay_seconds": 300 }), 201).json();
    walk.admin(rotate, rotate.1, &json!({ "delay_seconds": 300 }), 409);
    let retire = ("post", "/coffer/v1/keys/{kid}/retire");
    let path = format!("/coffer/v1/keys/{}/retire", made["kid"].as_str().unwrap());
    walk.admin(retire, &path, &json!({ "reason": "test" }), 200);
    walk.admin(retire, &path, &json!({ "reason": "test" }), 409);
    walk.admin(retire, "/coffer/v1/keys/nobody/retire", &json!({ "reason": "test" }), 404);
    walk.admin(("get", "/coffer/v1/keys"), "/coffer/v1/keys", &Value::Null, 200);
}

fn collateral(walk: &Walk<'_>) {
    let at = "/coffer/v1/collateral";
    walk.admin(("get", at), at, &Value::Null, 200);
    walk.admin(("post", at), at, &json!({ "pieces": [{ "name": "x", "der": "MAA=" }] }), 200);
    let fetch = ("post", "/coffer/v1/collateral/fetch");
    walk.admin(fetch, fetch.1, &json!({ "families": ["genoa"] }), 409);
}

fn admins(walk: &Walk<'_>) {
    let at = "/coffer/v1/admins";
    let public = AdminSigner::from_random(&[9; 48]).unwrap().public().to_pem().unwrap();
    let body = json!({ "name": "tess", "public_key": public, "scopes": ["read"], "project": "demo" });
    walk.admin(("post", at), at, &body, 201);
    walk.admin(("post", at), at, &body, 409);
    let revoke = ("post", "/coffer/v1/admins/{name}/revoke");
    let reason = json!({ "reason": "test" });
    walk.admin(revoke, "/coffer/v1/admins/tess/revoke", &reason, 200);
    walk.admin(revoke, "/coffer/v1/admins/tess/revoke", &reason, 409);
    walk.admin(revoke, "/coffer/v1/admins/nobody/revoke", &reason, 404);
    walk.admin(("get", at), at, &Value::Null, 200);
}
