//! One connection to the gate: TLS with this boot's key, then frames; every wait has an end, whatever the gate does.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use coffer_token::Jkt;
use coffer_token::lease::{ALPN, ALPN_ATTESTED, Answer, FRAME_HEADER_BYTES, FrameError, Greeting, frame_length, from_frame};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_nodelay, socket_error};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use rustls::ClientConnection;
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;

use super::event::{Event, wait};
use crate::tls::Trust;

/// A gate's host that is gone is noticed within 30 seconds, and whoever translates addresses on the way remembers the connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
/// How often [`Session::arrived`] reads at most: what is no answer (tickets, updates of keys) may come as fast as it is read.
const READS_PER_TURN: usize = 16;

/// The gate was not reached, or does not speak as one.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The connection failed, or took too long.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer speaks TLS, but not our protocol.
    #[error("the peer does not speak `{}`", String::from_utf8_lossy(ALPN))]
    Protocol,
    /// What came is no message of a gate.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A name without an address.
    #[error("gate.addresses lead to no address")]
    NoAddress,
    /// Connected, and then nothing, or too little.
    #[error("the gate does not answer")]
    Silent,
    /// The gate closed the connection.
    #[error("the gate closed the connection")]
    Closed,
}

/// How long to wait, and what ends the wait before.
#[derive(Clone, Copy)]
pub struct Patience<'a> {
    /// Then it is over.
    pub deadline: Instant,
    /// Whoever waits gives up once it is raised.
    pub cut: Option<&'a Event>,
}

impl Patience<'_> {
    fn wait(&self, stream: &TcpStream, readiness: PollFlags) -> io::Result<()> {
        loop {
            let mut fds = vec![PollFd::new(stream, readiness)];
            fds.extend(self.cut.map(|cut| PollFd::new(cut, PollFlags::IN)));
            wait(&mut fds, Some(self.deadline))?;
            if fds.get(1).is_some_and(|cut| !cut.revents().is_empty()) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if !fds[0].revents().is_empty() {
                return Ok(());
            }
            if Instant::now() >= self.deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

/// A connection on which the gate has proved its name.
pub struct Session {
    /// TLS.
    pub tls: ClientConnection,
    /// The socket under it, non-blocking.
    pub stream: TcpStream,
    /// The frame that is being received.
    partial: Vec<u8>,
}

impl Session {
    /// Connects to the gate and shakes hands.
    ///
    /// # Errors
    /// See [`SessionError`]. A refused certificate is an `InvalidData` error that holds a [`rustls::Error`].
    pub fn open(trust: &Trust, address: SocketAddr, patience: Patience<'_>) -> Result<Self, SessionError> {
        let stream = dial(address, patience)?;
        let tls = trust.client().map_err(io::Error::other)?;
        let mut session = Self { tls, stream, partial: Vec::new() };
        while session.tls.is_handshaking() {
            session.tls.complete_io(&mut Patient { stream: &session.stream, patience })?;
        }
        // One of them was offered, and rustls takes no other.
        let spoken = session.tls.alpn_protocol().is_some_and(|protocol| protocol == ALPN || protocol == ALPN_ATTESTED);
        if spoken { Ok(session) } else { Err(SessionError::Protocol) }
    }

    /// Thumbprint of the key of the gate's certificate; none if it is no P-384 key.
    pub fn gate_key(&self) -> Option<Jkt> {
        let leaf = self.tls.peer_certificates()?.first()?;
        key_of(leaf)
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub fn send(&mut self, frame: &[u8], patience: Patience<'_>) -> Result<(), SessionError> {
        self.tls.writer().write_all(frame)?;
        while self.tls.wants_write() {
            self.tls.write_tls(&mut Patient { stream: &self.stream, patience })?;
        }
        Ok(())
    }

    /// Waits for the gate's first word, where it speaks first.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub fn greeting(&mut self, patience: Patience<'_>) -> Result<Greeting, SessionError> {
        Ok(from_frame(&self.body(patience)?)?)
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub fn answer(&mut self, patience: Patience<'_>) -> Result<Answer, SessionError> {
        Ok(from_frame(&self.body(patience)?)?)
    }

    /// Waits for a frame; its body.
    fn body(&mut self, patience: Patience<'_>) -> Result<Vec<u8>, SessionError> {
        loop {
            if let Some(body) = self.buffered()? {
                return Ok(body);
            }
            if self.tls.read_tls(&mut Patient { stream: &self.stream, patience })? == 0 {
                return Err(SessionError::Closed);
            }
            self.tls.process_new_packets().map_err(invalid)?;
        }
    }

    /// The next answer if the whole of it is there; never waits.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub fn arrived(&mut self) -> Result<Option<Answer>, SessionError> {
        for _ in 0..READS_PER_TURN {
            if let Some(body) = self.buffered()? {
                return Ok(Some(from_frame(&body)?));
            }
            match self.tls.read_tls(&mut &self.stream) {
                Ok(0) => return Err(SessionError::Closed),
                Ok(_) => {
                    self.tls.process_new_packets().map_err(invalid)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.buffered()?.map(|body| from_frame(&body)).transpose()?)
    }

    /// Whether a part of an answer has arrived, and the rest has not.
    pub fn is_midway(&self) -> bool {
        !self.partial.is_empty()
    }

    /// A frame's body if the whole of it is decrypted; takes no byte beyond it: on a tunnel what follows is the workload's.
    fn buffered(&mut self) -> Result<Option<Vec<u8>>, SessionError> {
        loop {
            let body = self.partial.first_chunk::<FRAME_HEADER_BYTES>().map(|header| frame_length(*header)).transpose()?;
            let whole = FRAME_HEADER_BYTES + body.unwrap_or(0);
            if body.is_some() && self.partial.len() == whole {
                return Ok(Some(std::mem::take(&mut self.partial).split_off(FRAME_HEADER_BYTES)));
            }
            let mut chunk = [0; 1024];
            let missing = (whole - self.partial.len()).min(chunk.len());
            match self.tls.reader().read(&mut chunk[..missing]) {
                // The end of what the gate has to say.
                Ok(0) => return Err(SessionError::Closed),
                Ok(read) => self.partial.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn dial(address: SocketAddr, patience: Patience<'_>) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    set_tcp_nodelay(&socket, true)?;
    set_socket_keepalive(&socket, true)?;
    set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
    set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
    let connected = connect(&socket, &address);
    let stream = TcpStream::from(socket);
    match connected {
        Ok(()) => return Ok(stream),
        Err(Errno::INPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    patience.wait(&stream, PollFlags::OUT)?;
    socket_error(stream.as_fd())??;
    Ok(stream)
}

/// A non-blocking socket that waits, as long as there is patience.
struct Patient<'a> {
    stream: &'a TcpStream,
    patience: Patience<'a>,
}

impl Patient<'_> {
    fn insist<T>(&mut self, readiness: PollFlags, mut attempt: impl FnMut(&TcpStream) -> io::Result<T>) -> io::Result<T> {
        loop {
            match attempt(self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.patience.wait(self.stream, readiness)?,
                // A peer that always has a byte more must not go on for ever either.
                done if Instant::now() < self.patience.deadline => return done,
                _ => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.insist(PollFlags::IN, |mut stream| stream.read(buffer))
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.insist(PollFlags::OUT, |mut stream| stream.write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Thumbprint of a certificate's key, if it is a P-384 key.
fn key_of(leaf: &CertificateDer<'_>) -> Option<Jkt> {
    Jkt::of_p384_spki(&ParsedCertificate::try_from(leaf).ok()?.subject_public_key_info())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;

    #[test]
    fn only_a_p384_key_can_be_a_gates_node_key() {
        for (algorithm, fits) in [(&PKCS_ECDSA_P384_SHA384, true), (&PKCS_ECDSA_P256_SHA256, false), (&PKCS_ED25519, false)] {
            let key = KeyPair::generate_for(algorithm).expect("a key");
            let certificate = CertificateParams::new(vec!["a.test".into()]).expect("parameters").self_signed(&key).expect("a certificate");
            let expected = Jkt::of_ec_point("P-384", key.public_key_raw()).filter(|_| fits);
            assert_eq!(key_of(certificate.der()), expected, "{algorithm:?}");
            assert_eq!(key_of(certificate.der()).is_some(), fits);
        }
        assert_eq!(key_of(&CertificateDer::from(vec![0x30, 0])), None);
    }
}
