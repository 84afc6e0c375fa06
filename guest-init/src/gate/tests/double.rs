//! A gate, an authority and a guest, for tests.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use coffer_manifest::SiteConfig;
use coffer_token::lease::{ALPN, ALPN_ATTESTED, Answer, Greeting, Hello, Open, Renewal, from_frame, to_frame};
use coffer_token::{Jkt, Version1};
use data_encoding::BASE64;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P384_SHA384};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring::default_provider;
use rustls::crypto::verify_tls13_signature_with_raw_key;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, ServerConnection, SignatureScheme, StreamOwned};

use crate::keys::BootKeys;
use crate::standing::{Lease, Standing, Token};

pub const NAME: &str = "gate.demo.test";
/// How often the double looks whether it has to do something else.
const TICK: Duration = Duration::from_millis(10);

/// A certificate authority and a server of its making.
pub struct Authority {
    pub ca: String,
    pub server: ServerConfig,
    /// Thumbprint of the server's key.
    pub key: Jkt,
}

pub fn authority(name: &str) -> Authority {
    let ca_key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![]).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).expect("a CA");
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");
    let leaf = CertificateParams::new(vec![name.into()]).expect("parameters").signed_by(&key, &issuer).expect("a certificate");
    let thumbprint = Jkt::of_ec_point("P-384", key.public_key_raw()).expect("a point");
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_client_cert_verifier(Arc::new(AnyRawKey))
        .with_single_cert(vec![CertificateDer::from(leaf.der().to_vec())], private)
        .expect("a server");
    server.alpn_protocols = vec![ALPN.to_vec(), ALPN_ATTESTED.to_vec()];
    Authority { ca: BASE64.encode(ca.der()), server, key: thumbprint }
}

/// Asks for a raw public key and takes any, as a gate does before it reads the token.
#[derive(Debug)]
struct AnyRawKey;

impl ClientCertVerifier for AnyRawKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(&self, _: &CertificateDer<'_>, _: &[CertificateDer<'_>], _: UnixTime) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, signed, &default_provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP384_SHA384]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// What a tunnel does with the workload's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    /// Sends them back; ends when they end.
    Echo,
    /// Says `bye` and ends its half at once; counts what still comes.
    EndsFirst,
    /// Closes the socket at the first byte, without a word.
    Truncates,
}

pub type Stream = StreamOwned<ServerConnection, TcpStream>;
type Answering = Box<dyn FnMut(Open, &str) -> Answer + Send>;

/// What the double has seen and is to do.
pub struct Gate {
    pub address: SocketAddr,
    pub hellos: Mutex<Vec<Hello>>,
    pub renewals: Mutex<Vec<String>>,
    pub peer: Mutex<Option<Vec<u8>>>,
    pub service: Mutex<Service>,
    /// What guests that wait for a greeting get.
    pub greeting: Mutex<Vec<u8>>,
    /// Bytes that have come from guests, of whatever kind.
    pub heard: AtomicUsize,
    /// Bytes that tunnels have got from workloads.
    pub got: AtomicUsize,
    /// Tunnels that ended otherwise than by `close_notify`.
    pub aborted: AtomicUsize,
    answering: Mutex<Answering>,
    last_word: Mutex<Option<Answer>>,
    /// Raised: every connection is closed with RST, and none is taken.
    down: AtomicBool,
    /// Counts cuts: connections of an earlier count close.
    cuts: AtomicUsize,
}

pub fn admitted(lease_seconds: u64) -> Answer {
    Answer::Admitted { lease_seconds, gate_token: None }
}

pub fn refused(code: &str, retry_after_seconds: u64) -> Answer {
    Answer::Refused { code: code.into(), detail: "for a test".into(), id: "g-1".into(), retry_after_seconds }
}

impl Gate {
    /// A gate that answers every token, of hellos and renewals, by `answering`.
    pub fn start(config: &ServerConfig, answering: impl FnMut(Open, &str) -> Answer + Send + 'static) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let gate = Arc::new(Self {
            address: listener.local_addr().expect("an address"),
            hellos: Mutex::default(),
            renewals: Mutex::default(),
            peer: Mutex::default(),
            service: Mutex::new(Service::Echo),
            greeting: Mutex::default(),
            heard: AtomicUsize::new(0),
            got: AtomicUsize::new(0),
            aborted: AtomicUsize::new(0),
            answering: Mutex::new(Box::new(answering)),
            last_word: Mutex::default(),
            down: AtomicBool::new(false),
            cuts: AtomicUsize::new(0),
        });
        let (config, serving) = (Arc::new(config.clone()), gate.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.down.load(Ordering::SeqCst) {
                    super::super::port::reset(stream);
                    continue;
                }
                let tls = StreamOwned::new(ServerConnection::new(config.clone()).expect("a connection"), stream);
                let gate = serving.clone();
                thread::spawn(move || gate.serve(tls));
            }
        });
        gate
    }

    pub fn answers(&self, answering: impl FnMut(Open, &str) -> Answer + Send + 'static) {
        *self.answering.lock().expect("whole") = Box::new(answering);
    }

    /// Shows this as its own token to guests that wait for one.
    pub fn greets(&self, gate_token: Option<String>) {
        *self.greeting.lock().expect("whole") = to_frame(&Greeting { v: Version1, gate_token }).expect("a frame");
    }

    /// Ends the lease with a last word, and every tunnel with RST.
    pub fn cut(&self, last_word: Option<Answer>) {
        *self.last_word.lock().expect("whole") = last_word;
        self.cuts.fetch_add(1, Ordering::SeqCst);
    }

    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
        self.cut(None);
    }

    pub fn hellos(&self, open: Open) -> usize {
        self.hellos.lock().expect("whole").iter().filter(|hello| hello.open == open).count()
    }

    fn serve(&self, mut tls: Stream) {
        let term = self.cuts.load(Ordering::SeqCst);
        tls.sock.set_nodelay(true).expect("nodelay");
        tls.sock.set_read_timeout(Some(TICK)).expect("a timeout");
        let outcome = self.converse(&mut tls, term);
        if outcome.is_err() {
            super::super::port::reset(tls.sock);
        }
    }

    fn converse(&self, tls: &mut Stream, term: usize) -> io::Result<()> {
        let mut body = Vec::new();
        self.greet(tls, term)?;
        self.read_frame(tls, term, &mut body)?;
        let hello: Hello = from_frame(&body).map_err(io::Error::other)?;
        *self.peer.lock().expect("whole") = tls.conn.peer_certificates().map(|keys| keys[0].to_vec());
        self.hellos.lock().expect("whole").push(hello.clone());
        let answer = self.answer(hello.open, &hello.token);
        if (hello.open, *self.service.lock().expect("whole")) == (Open::Tunnel, Service::EndsFirst) {
            // In one record with the answer.
            tls.write_all(&[&to_frame(&answer).expect("a frame")[..], b"bye"].concat())?;
            tls.conn.send_close_notify();
            tls.flush()?;
            return self.carry(tls, term);
        }
        self.say(tls, &answer)?;
        match hello.open {
            Open::Tunnel => self.carry(tls, term),
            Open::Lease => loop {
                match self.read_frame(tls, term, &mut body) {
                    Ok(()) => {}
                    Err(error) => {
                        let last_word = self.last_word.lock().expect("whole").take();
                        return last_word.map_or(Err(error), |word| self.say(tls, &word));
                    }
                }
                let renewal: Renewal = from_frame(&body).map_err(io::Error::other)?;
                self.renewals.lock().expect("whole").push(renewal.token.clone());
                self.say(tls, &self.answer(Open::Lease, &renewal.token))?;
            },
        }
    }

    /// Shakes hands, and speaks first where the guest waits for that.
    fn greet(&self, tls: &mut Stream, term: usize) -> io::Result<()> {
        while tls.conn.is_handshaking() {
            match tls.conn.complete_io(&mut tls.sock) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                done => drop(done?),
            }
            if self.cuts.load(Ordering::SeqCst) != term {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        if tls.conn.alpn_protocol() != Some(ALPN_ATTESTED) {
            return Ok(());
        }
        let greeting = self.greeting.lock().expect("whole").clone();
        tls.write_all(&greeting)
    }

    fn answer(&self, open: Open, token: &str) -> Answer {
        (self.answering.lock().expect("whole"))(open, token)
    }

    fn say(&self, tls: &mut Stream, answer: &Answer) -> io::Result<()> {
        tls.write_all(&to_frame(answer).expect("a frame"))?;
        if matches!(answer, Answer::Refused { .. }) {
            tls.conn.send_close_notify();
            let _ = tls.flush();
            let _ = tls.sock.shutdown(Shutdown::Write);
            while self.read_some(tls, self.cuts.load(Ordering::SeqCst), &mut [0; 256])? != 0 {}
        }
        Ok(())
    }

    fn carry(&self, tls: &mut Stream, term: usize) -> io::Result<()> {
        let service = *self.service.lock().expect("whole");
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let read = self.read_some(tls, term, &mut buffer).inspect_err(|_| {
                self.aborted.fetch_add(1, Ordering::SeqCst);
            })?;
            self.got.fetch_add(read, Ordering::SeqCst);
            match service {
                Service::Truncates => return tls.sock.shutdown(Shutdown::Both),
                Service::Echo if read > 0 => tls.write_all(&buffer[..read])?,
                Service::Echo => tls.conn.send_close_notify(),
                Service::EndsFirst => {}
            }
            if read == 0 {
                tls.flush()?;
                return tls.sock.shutdown(Shutdown::Write);
            }
        }
    }

    fn read_frame(&self, tls: &mut Stream, term: usize, body: &mut Vec<u8>) -> io::Result<()> {
        let mut frame = Vec::new();
        while frame.len() < 4 || frame.len() < 4 + u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize {
            let mut byte = [0];
            if self.read_some(tls, term, &mut byte)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            frame.push(byte[0]);
        }
        *body = frame.split_off(4);
        Ok(())
    }

    /// Reads; an error once this connection is to be cut.
    fn read_some(&self, tls: &mut Stream, term: usize, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.cuts.load(Ordering::SeqCst) != term {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            match tls.read(buffer) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                done => {
                    self.heard.fetch_add(*done.as_ref().unwrap_or(&0), Ordering::SeqCst);
                    return done;
                }
            }
        }
    }
}

/// An endpoint, running.
pub struct Guest {
    pub standing: Arc<Standing>,
    pub keys: BootKeys,
    /// The workload's port.
    pub port: SocketAddr,
}

pub fn site(authority: &Authority, addresses: &[SocketAddr]) -> SiteConfig {
    let mut site = crate::workload::tests::site("amd-sev-snp");
    let mut gate = crate::workload::tests::gate();
    gate.ca = vec![authority.ca.clone()];
    gate.addresses = addresses.iter().map(ToString::to_string).collect();
    gate.workload.port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    site.gate = Some(gate);
    site
}

pub fn token(text: &str) -> Token {
    Token { text: text.into(), issued_at: 1, expires_at: 2 }
}

impl Guest {
    pub fn start(site: &SiteConfig) -> Self {
        Self::start_with(site, BootKeys::generate().expect("keys"), token("t-1"))
    }

    pub fn start_with(site: &SiteConfig, keys: BootKeys, token: Token) -> Self {
        let standing = Standing::new(token, true);
        super::super::start(site, &keys, &standing).expect("starts");
        let port = site.gate.as_ref().expect("a gate").workload.port;
        Self { standing, keys, port: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    /// Waits until the lease is as `wanted` says.
    pub fn await_lease(&self, wanted: impl Fn(&Lease) -> bool) -> Lease {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let state = self.standing.now();
            if wanted(&state.lease) {
                return state.lease;
            }
            assert!(Instant::now() < deadline, "still {:?}", state.lease);
            let _ = self.standing.wait(state.serial, Duration::from_millis(100));
        }
    }

    pub fn await_leased(&self) {
        self.await_lease(|lease| matches!(lease, Lease::Until(_)));
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.port).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream
    }

    /// A connection over which a byte has come back.
    pub fn connect_through(&self) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(b"x").expect("writes");
        stream.read_exact(&mut [0; 1]).expect("comes back");
        stream
    }

    pub fn assert_refuses(&self) {
        assert_eq!(TcpStream::connect(self.port).expect_err("nobody listens").kind(), io::ErrorKind::ConnectionRefused);
    }
}

pub fn assert_reset(mut stream: &TcpStream) {
    let error = stream.read(&mut [0; 1]).expect_err("a reset, no end");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        thread::sleep(Duration::from_millis(5));
    }
}
