//! A double of the service, with a key of its own: it signs whatever a test wants signed, when the test wants, by any clock.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use coffer_token::{
    Claims, CofferClaims, GpuVerdict, Hex, Jwks, MAX_WITHDRAWALS_PER_LIST, Signer, StatementKind, Subject, Typ, UnixTime, Version1,
    Withdrawal, WithdrawalList, Withdrawn,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::boot::Boot;
use super::{now, random};

pub const TLS_NAME: &str = "attest.demo.test";
pub const ISSUER: &str = "https://attest.demo.test";
/// The root of trust in every token, unless a test says otherwise.
pub const ROOT: &str = "amd-sev-snp";

/// What the service signs with, and what it has taken back.
struct State {
    signer: Signer,
    /// The key set it serves, where that is not the signer's own.
    jwks: Option<Jwks>,
    epoch: u64,
    entries: Vec<Withdrawal>,
    /// Whether connections are hung up on.
    down: bool,
    /// Whether no request is held open.
    full: bool,
    /// Whether a request that is held open is never answered.
    mute: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Seconds by which its clock is ahead of the machine's.
    ahead: AtomicI64,
    /// How many lists it has given out.
    lists: AtomicU64,
    tls: Arc<ServerConfig>,
}

/// The running double.
pub struct Issuer {
    shared: Arc<Shared>,
    pub port: u16,
    /// PEM.
    pub ca: String,
}

impl Issuer {
    pub fn start() -> Self {
        let (tls, ca) = certificate();
        let (signer, entries) = (Signer::from_bytes(&random()).unwrap(), Vec::new());
        let state = State { signer, jwks: None, epoch: 1, entries, down: false, full: false, mute: false };
        let (ahead, lists) = (AtomicI64::new(0), AtomicU64::new(0));
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), ahead, lists, tls: Arc::new(tls) });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                std::thread::spawn(move || serve(&shared, socket));
            }
        });
        Self { shared, port, ca }
    }

    /// The `[service]` table of a gate of project `demo`.
    pub fn settings(&self, ca: &str, root_of_trust: &str) -> String {
        format!(
            "[service]\nurls = [\"https://127.0.0.1:{}\"]\ntls_name = \"{TLS_NAME}\"\nca = \"{ca}\"\nissuer = \"{ISSUER}\"\n\
             audience = \"coffer\"\nroot_of_trust = \"{root_of_trust}\"\nproject = \"demo\"\n",
            self.port
        )
    }

    /// Unix seconds by its clock.
    pub fn now(&self) -> u64 {
        self.shared.now()
    }

    /// Sets its clock so many seconds ahead of the machine's.
    pub fn set_ahead(&self, seconds: i64) {
        self.shared.ahead.store(seconds, Ordering::SeqCst);
    }

    /// A job token of a boot, as the service would give it.
    pub fn token(&self, boot: &Boot) -> String {
        self.token_with(boot, |_| ())
    }

    /// The same with other words in it, properly signed.
    pub fn token_with(&self, boot: &Boot, change: impl FnOnce(&mut Subject)) -> String {
        self.signed(Typ::Job, boot, change)
    }

    /// A token of either kind.
    pub fn signed(&self, typ: Typ, boot: &Boot, change: impl FnOnce(&mut Subject)) -> String {
        let mut subject = self.subject(boot);
        change(&mut subject);
        self.shared.state.lock().unwrap().signer.sign(typ, &Claims::affirming(subject)).unwrap()
    }

    /// What this service would say of a boot.
    pub fn subject(&self, boot: &Boot) -> Subject {
        let node_jkt = boot.node.as_ref().map(|key| key.thumbprint().unwrap());
        let coffer = CofferClaims {
            v: Version1,
            project: "demo".into(),
            site: boot.site.clone(),
            role: "client".into(),
            host_data: boot.host_data,
            launch_digest: Hex([0xB0; 48]),
            base_svn: 1,
            root_of_trust: ROOT.into(),
            instance: boot.instance,
            family: "genoa".into(),
            node_jkt,
            gpu: GpuVerdict::None,
            purpose: "renew".into(),
        };
        Subject {
            issuer: ISSUER.into(),
            audience: "coffer".into(),
            token_id: Hex(random::<16>()).to_string(),
            issued_at: UnixTime(self.now()),
            lifetime_seconds: 300,
            confirmation: Some(boot.key.jkt()),
            tee_pubkey: None,
            coffer,
        }
    }

    /// Takes something back, now.
    pub fn withdraw(&self, code: &str, withdrawn: Withdrawn) {
        self.withdraw_at(self.now(), code, withdrawn);
    }

    /// Takes back what was issued until then.
    pub fn withdraw_at(&self, at: u64, code: &str, withdrawn: Withdrawn) {
        let mut state = self.shared.state.lock().unwrap();
        let number = state.entries.last().map_or(1, |last| last.number + 2);
        state.entries.push(Withdrawal { number, at, code: code.into(), withdrawn });
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Another start of it: the epoch goes up, what was taken back stays and is numbered anew from 1.
    pub fn restart(&self) {
        let mut state = self.shared.state.lock().unwrap();
        state.epoch += 1;
        for (number, entry) in (1..).zip(&mut state.entries) {
            entry.number = number;
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Hangs up on everybody from now on, or no longer.
    pub fn set_down(&self, down: bool) {
        self.shared.state.lock().unwrap().down = down;
        self.shared.changed.notify_all();
    }

    /// Holds no request open any more: as many wait as may.
    pub fn answer_at_once(&self) {
        self.shared.state.lock().unwrap().full = true;
        self.shared.changed.notify_all();
    }

    /// Answers no request any more that asks to be held open, as behind a middlebox that forgets silent connections.
    pub fn push_nothing(&self) {
        self.shared.state.lock().unwrap().mute = true;
    }

    /// Signs with a new key from now on; serves the key set that has both, as services do while they change keys.
    pub fn change_key(&self) {
        let mut state = self.shared.state.lock().unwrap();
        let (old, new) = (state.signer.jwks(), Signer::from_bytes(&random()).unwrap());
        state.jwks = Some(Jwks::union([&old, &new.jwks()]).unwrap());
        state.signer = new;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// The id of the key that signs.
    pub fn kid(&self) -> String {
        self.shared.state.lock().unwrap().signer.kid().to_owned()
    }

    /// How many lists of withdrawals it has given out.
    pub fn lists(&self) -> u64 {
        self.shared.lists.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn now(&self) -> u64 {
        now().saturating_add_signed(self.ahead.load(Ordering::SeqCst))
    }

    fn jwks(&self) -> Option<Vec<u8>> {
        let state = self.state.lock().unwrap();
        (!state.down).then(|| state.jwks.clone().unwrap_or_else(|| state.signer.jwks()).to_bytes().unwrap())
    }

    /// The signed list of what comes after `after`; waits for it at most so long. None while it is down.
    fn withdrawals(&self, after: u64, wait: Duration) -> Option<Vec<u8>> {
        let begun = Instant::now();
        let mut state = self.state.lock().unwrap();
        let epoch = state.epoch;
        let newest = |state: &State| state.entries.last().map_or(0, |last| last.number);
        let news = |state: &State| newest(state) > after || state.full || state.epoch != epoch;
        while !state.down && !wait.is_zero() && (state.mute || begun.elapsed() < wait && !news(&state)) {
            state = self.changed.wait_timeout(state, Duration::from_millis(200)).unwrap().0;
        }
        let entries = state.entries.iter().filter(|entry| entry.number > after).take(MAX_WITHDRAWALS_PER_LIST).cloned().collect();
        let (iss, epoch, iat, number) = (ISSUER.to_owned(), state.epoch, self.now(), newest(&state));
        let list = WithdrawalList { v: Version1, iss, epoch, iat, number, after, entries };
        self.lists.fetch_add(1, Ordering::SeqCst);
        (!state.down).then(|| state.signer.sign_statement(StatementKind::Withdrawals, &list).unwrap().into_bytes())
    }
}

/// One connection, kept as long as the peer keeps it and the service is up.
fn serve(shared: &Shared, socket: TcpStream) {
    let Ok(connection) = ServerConnection::new(Arc::clone(&shared.tls)) else { return };
    let mut reader = BufReader::new(StreamOwned::new(connection, socket));
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let length = head.lines().filter_map(|line| line.split_once(": ")).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let mut body = vec![0; length.map_or(0, |(_, length)| length.trim().parse().unwrap())];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let target = head.split(' ').nth(1).unwrap_or_default();
        let (status, content_type, body) = match target.split_once('?').unwrap_or((target, "")) {
            ("/.well-known/jwks.json", _) => match shared.jwks() {
                Some(body) => ("200 OK", "application/json", body),
                None => return,
            },
            ("/coffer/v1/withdrawals", query) => {
                let number = |name: &str| query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
                let number = |name| number(name).map_or(0, |(_, value)| value.parse::<u64>().unwrap());
                match shared.withdrawals(number("after"), Duration::from_secs(number("wait"))) {
                    Some(body) => ("200 OK", "application/jose", body),
                    None => return,
                }
            }
            _ => ("404 Not Found", "text/plain", Vec::new()),
        };
        let head = format!("HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n", body.len());
        let stream = reader.get_mut();
        if stream.write_all(&[head.as_bytes(), &body].concat()).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}

/// A server's settings under an authority of its own, and that authority, PEM.
fn certificate() -> (ServerConfig, String) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(params, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec![TLS_NAME.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let chain = vec![CertificateDer::from(leaf.der().to_vec())];
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth().with_single_cert(chain, private).unwrap();
    (config, authority.pem())
}
