//! A guest's side of a connection to a gate: raw public key, frames, and how the connection ends.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coffer_token::Version1;
use coffer_token::lease::{
    ALPN, ALPN_ATTESTED, Answer, FRAME_HEADER_BYTES, Greeting, Hello, Open, Renewal, frame_length, from_frame, to_frame,
};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::boot::{Boot, BootKey};

/// Longer than any answer takes on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a gate listens and what its certificate must be.
#[derive(Clone)]
pub struct Door {
    pub address: String,
    pub tls_name: String,
    /// DER.
    pub ca: Vec<u8>,
}

/// One TLS connection to a gate.
pub struct Wire(pub StreamOwned<ClientConnection, TcpStream>);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// RST.
    Reset,
    /// TLS says that it is over, or FIN.
    Closed,
}

impl Door {
    /// A handshake with this key.
    ///
    /// # Errors
    /// If there is no connection, or either side ends the handshake.
    pub fn open(&self, key: &BootKey) -> io::Result<Wire> {
        self.open_with(Some(key), &[ALPN], &[&rustls::version::TLS13])
    }

    /// A handshake as a guest makes it that waits for the gate's first word, and that word.
    ///
    /// # Errors
    /// If the gate ends the connection before.
    pub fn greeted(&self, key: &BootKey) -> io::Result<(Wire, Greeting)> {
        let mut wire = self.open_with(Some(key), &[ALPN_ATTESTED], &[&rustls::version::TLS13])?;
        let greeting = wire.receive()?;
        Ok((wire, greeting))
    }

    /// A handshake of any kind.
    ///
    /// # Errors
    /// If there is no connection, or either side ends the handshake.
    pub fn open_with(
        &self,
        key: Option<&BootKey>,
        alpn: &[&[u8]],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> io::Result<Wire> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.ca.clone())).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots);
        let mut config = match key {
            Some(key) => builder.with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::clone(&key.raw)))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.resumption = Resumption::disabled();
        let socket = TcpStream::connect(self.address.to_socket_addrs()?.next().unwrap())?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        let name = self.tls_name.clone().try_into().unwrap();
        let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let mut socket = socket;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(Wire(StreamOwned::new(connection, socket)))
    }

    /// Opens a connection of one kind and says the first word; what the gate says to it.
    ///
    /// # Errors
    /// If the gate ends the connection without an answer.
    pub fn hello(&self, key: &BootKey, hello: &Hello) -> io::Result<(Wire, Answer)> {
        let mut wire = self.open(key)?;
        wire.send(hello)?;
        let answer = wire.answer()?;
        Ok((wire, answer))
    }

    /// A lease connection of a boot.
    pub fn lease(&self, boot: &Boot, token: &str) -> (Wire, Answer) {
        let node = boot.node.clone();
        self.hello(&boot.key, &Hello { v: Version1, open: Open::Lease, token: token.to_owned(), node }).unwrap()
    }

    /// A tunnel of a boot.
    pub fn tunnel(&self, boot: &Boot, token: &str) -> (Wire, Answer) {
        self.hello(&boot.key, &Hello { v: Version1, open: Open::Tunnel, token: token.to_owned(), node: None }).unwrap()
    }

    /// A lease connection that must be admitted.
    #[track_caller]
    pub fn leased(&self, boot: &Boot, token: &str) -> Wire {
        let (wire, answer) = self.lease(boot, token);
        assert!(matches!(answer, Answer::Admitted { .. }), "{answer:?}");
        wire
    }

    /// A tunnel that must be admitted.
    #[track_caller]
    pub fn tunneled(&self, boot: &Boot, token: &str) -> Wire {
        let (wire, answer) = self.tunnel(boot, token);
        assert!(matches!(answer, Answer::Admitted { .. }), "{answer:?}");
        wire
    }

    /// The code and the id with which the gate refuses this boot's token on a connection of either kind.
    #[track_caller]
    pub fn refusal(&self, boot: &Boot, token: &str) -> (String, String) {
        let (_, answer) = self.tunnel(boot, token);
        let first = refusal(&answer);
        let (_, answer) = self.lease(boot, token);
        assert_eq!(refusal(&answer).0, first.0, "the two kinds of connection are refused alike");
        first
    }
}

/// Code and id of a refusal.
#[track_caller]
pub fn refusal(answer: &Answer) -> (String, String) {
    match answer {
        Answer::Refused { code, id, detail, .. } => {
            assert!(!detail.is_empty() && !detail.contains('\n'), "{answer:?}");
            (code.clone(), id.clone())
        }
        Answer::Admitted { .. } => panic!("admitted: {answer:?}"),
    }
}

impl Wire {
    /// Sends one frame.
    ///
    /// # Errors
    /// If the gate does not take it.
    pub fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        self.write(&to_frame(message).unwrap())
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// If the gate does not take them.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.flush()
    }

    /// The next answer.
    ///
    /// # Errors
    /// If the gate ends the connection before a whole one.
    pub fn answer(&mut self) -> io::Result<Answer> {
        self.receive()
    }

    /// The next frame.
    ///
    /// # Errors
    /// If the gate ends the connection before a whole one, or it is another message.
    pub fn receive<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let mut header = [0; FRAME_HEADER_BYTES];
        self.0.read_exact(&mut header)?;
        let mut body = vec![0; frame_length(header).map_err(io::Error::other)?];
        self.0.read_exact(&mut body)?;
        from_frame(&body).map_err(io::Error::other)
    }

    /// Shows a newer token; what the gate says to it.
    pub fn renew(&mut self, token: &str) -> Answer {
        self.send(&Renewal { token: token.to_owned() }).unwrap();
        self.answer().unwrap()
    }

    /// Sends bytes through a tunnel to an echoing server and reads as many back.
    ///
    /// # Errors
    /// If the tunnel is over.
    pub fn echo(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        self.write(bytes)?;
        let mut back = vec![0; bytes.len()];
        self.0.read_exact(&mut back)?;
        Ok(back)
    }

    /// Waits for the end of the connection, whatever comes before it; how it ended and after how long.
    #[track_caller]
    pub fn end(&mut self, within: Duration) -> (End, Duration) {
        let begun = Instant::now();
        let mut buffer = [0; 4096];
        while begun.elapsed() < within {
            let left = within.saturating_sub(begun.elapsed()).max(Duration::from_millis(1));
            self.0.sock.set_read_timeout(Some(left)).unwrap();
            match self.0.read(&mut buffer) {
                Ok(0) => return (End::Closed, begun.elapsed()),
                Ok(_) => {}
                Err(error) => match error.kind() {
                    io::ErrorKind::ConnectionReset => return (End::Reset, begun.elapsed()),
                    io::ErrorKind::UnexpectedEof => return (End::Closed, begun.elapsed()),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                    _ => panic!("{error}"),
                },
            }
        }
        panic!("the connection is still there after {within:?}");
    }

    /// Waits for a RST, and says how long it took.
    #[track_caller]
    pub fn reset(&mut self, within: Duration) -> Duration {
        let (end, after) = self.end(within);
        assert_eq!(end, End::Reset);
        after
    }

    /// Whether nothing has come and nothing has ended for this time.
    pub fn is_quiet_for(&mut self, time: Duration) -> bool {
        self.0.sock.set_read_timeout(Some(time)).unwrap();
        let read = self.0.read(&mut [0; 1]);
        self.0.sock.set_read_timeout(Some(PATIENCE)).unwrap();
        matches!(read, Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    }
}
