//! One TLS connection from a chosen address, and bytes on it: what no HTTP client would send.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::{Answer, Service, TLS_NAME};

/// A connection.
pub struct Raw(StreamOwned<ClientConnection, TcpStream>);

impl Raw {
    /// From 127.0.0.1.
    pub fn connect(service: &Service) -> Self {
        Self::from(service, "127.0.0.1").unwrap()
    }

    /// From another loopback address.
    ///
    /// # Errors
    /// If the service hangs up.
    pub fn from(service: &Service, source: &str) -> io::Result<Self> {
        let socket = connect_from(source, service.url.strip_prefix("https://").unwrap())?;
        socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(service.path().join("tls/ca.pem")).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connection = ClientConnection::new(Arc::new(config), TLS_NAME.try_into().unwrap()).unwrap();
        Ok(Self(StreamOwned::new(connection, socket)))
    }

    /// Sends bytes. The service may have hung up meanwhile; what it said before counts.
    pub fn write(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).and_then(|()| self.0.flush());
    }

    /// From here on a write that nobody takes fails after this time.
    pub fn give_up_writing_after(&self, time: Duration) {
        self.0.sock.set_write_timeout(Some(time)).unwrap();
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// If nobody takes them.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).and_then(|()| self.0.flush())
    }

    /// The next answer; none if the service hangs up before a whole one.
    pub fn read(&mut self) -> Option<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        if status == 100 {
            return self.read();
        }
        let header = |name: &str| {
            let named = |line: &&str| line.split_once(": ").is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
            head.lines().find(named).map(|line| line.split_once(": ").unwrap().1.to_owned())
        };
        let mut body = vec![0; header("content-length").map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body).ok()?;
        let cookie = header("set-cookie").map(|line| line.split(';').next().unwrap().strip_prefix("kbs-session-id=").unwrap().to_owned());
        let retry_after = header("retry-after");
        Some(Answer { status, content_type: header("content-type").unwrap_or_default(), cookie, retry_after, body })
    }

    /// One request on a connection that is kept.
    pub fn call(&mut self, method: &str, path: &str, cookie: Option<&str>, body: &[u8]) -> Option<Answer> {
        let cookie = cookie.map(|value| format!("cookie: kbs-session-id={value}\r\n")).unwrap_or_default();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {TLS_NAME}\r\n{cookie}content-length: {}\r\n\r\n", body.len());
        self.write(&[head.as_bytes(), body].concat());
        self.read()
    }
}

/// A connection from another loopback address than the usual one.
pub fn connect_from(source: &str, to: &str) -> io::Result<TcpStream> {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());
    let (source, to) = (format!("{source}:0").parse().unwrap(), to.parse().unwrap());
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(source)?;
        socket.connect(to).await
    })?;
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
