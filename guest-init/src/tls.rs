//! TLS 1.3 to the key service and to the gate, trusting the CAs the site config has for each and nothing else.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::ring::default_provider;
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use coffer_manifest::{Gate, KeyService};
use coffer_token::lease;

use crate::keys::TlsKey;
use crate::network;

/// How long connecting may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// The site config's trust settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A CA is not base64, or not a certificate.
    #[error("{of}.ca[{index}] is no certificate authority this build can use")]
    Ca {
        /// Whose: `key_service` or `gate`.
        of: &'static str,
        /// Which one, from 0.
        index: usize,
    },
    /// No CA, or more than four.
    #[error("{of}.ca has {got} certificates, expected 1 to 4")]
    Count {
        /// Whose: `key_service` or `gate`.
        of: &'static str,
        /// How many there are.
        got: usize,
    },
    /// `tls_name` is no DNS name.
    #[error("{of}.tls_name `{name}` is no DNS name: {source}")]
    Name {
        /// Whose: `key_service` or `gate`.
        of: &'static str,
        /// The name.
        name: String,
        /// Why.
        source: InvalidDnsNameError,
    },
    /// rustls refuses the configuration.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// Whom to trust, and under which name, whatever the URL says.
pub struct Trust {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// A TLS connection whose every read and write has the same end.
pub type TlsStream = StreamOwned<ClientConnection, Bounded>;

impl Trust {
    /// Takes the site config's CAs and name of the key service.
    ///
    /// The clock it checks certificates with is the system's, which the boot has set to max(RTC, not_before).
    ///
    /// # Errors
    /// See [`TrustError`].
    pub fn new(service: &KeyService) -> Result<Self, TrustError> {
        Self::of("key_service", &service.ca, &service.tls_name)
    }

    /// Takes the site config's CAs and name of the gate, and the key that this boot shows there: a raw public key (RFC 7250), the one
    /// its tokens are bound to.
    ///
    /// # Errors
    /// See [`TrustError`].
    pub fn of_gate(gate: &Gate, key: &TlsKey) -> Result<Self, TrustError> {
        let mut trust = Self::of("gate", &gate.ca, &gate.tls_name)?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.expose_pkcs8()));
        let signing = any_ecdsa_type(&private)?;
        let public = signing.public_key().ok_or(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown))?;
        let certified = CertifiedKey::new(vec![CertificateDer::from(public.to_vec())], signing);
        // Nobody else has a copy yet.
        let config = Arc::make_mut(&mut trust.config);
        config.client_auth_cert_resolver = Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::new(certified)));
        // Where the gate has to prove itself first nothing else is offered: the order is nobody's to choose on the way.
        config.alpn_protocols = vec![if gate.attested { lease::ALPN_ATTESTED } else { lease::ALPN }.to_vec()];
        Ok(trust)
    }

    fn of(of: &'static str, ca: &[String], tls_name: &str) -> Result<Self, TrustError> {
        if !(1..=4).contains(&ca.len()) {
            return Err(TrustError::Count { of, got: ca.len() });
        }
        let mut roots = RootCertStore::empty();
        for (index, ca) in ca.iter().enumerate() {
            let der = BASE64.decode(ca.as_bytes()).map_err(|_| TrustError::Ca { of, index })?;
            roots.add(CertificateDer::from(der)).map_err(|_| TrustError::Ca { of, index })?;
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // No resumption and (rustls' default, stated for the reader) no 0-RTT: each handshake proves the service anew.
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        let name =
            ServerName::try_from(tls_name.to_owned()).map_err(|source| TrustError::Name { of, name: tls_name.to_owned(), source })?;
        Ok(Self { config: Arc::new(config), name })
    }

    /// A connection that nothing has been said over yet.
    ///
    /// # Errors
    /// If rustls refuses the configuration.
    pub fn client(&self) -> Result<ClientConnection, rustls::Error> {
        ClientConnection::new(self.config.clone(), self.name.clone())
    }

    /// Connects to one of `addresses` and shakes hands, all of it and all later traffic before `deadline`.
    ///
    /// # Errors
    /// What the last address said. A refused certificate is an `InvalidData` error that holds a [`rustls::Error`].
    pub fn connect(&self, addresses: &[SocketAddr], deadline: Instant) -> io::Result<TlsStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            let patience = deadline.saturating_duration_since(Instant::now()).min(CONNECT_PATIENCE);
            if patience.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match network::connect(address, patience) {
                Ok(stream) => return self.shake_hands(stream, deadline),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn shake_hands(&self, stream: TcpStream, deadline: Instant) -> io::Result<TlsStream> {
        stream.set_nodelay(true)?;
        let mut tls = StreamOwned::new(self.client().map_err(io::Error::other)?, Bounded { stream, deadline });
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Ok(tls)
    }
}

/// Whether `error` says that the peer is not the key service: trying again would only meet the same peer.
pub fn is_refused_certificate(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented))
}

/// A socket whose reads and writes fail once a deadline has passed, however slowly the other side drips.
pub struct Bounded {
    stream: TcpStream,
    deadline: Instant,
}

impl Bounded {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Bounded {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_manifest::KeyServiceKind;

    fn service(ca: Vec<String>, name: &str) -> KeyService {
        KeyService { kind: KeyServiceKind::Coffer, urls: vec![], tls_name: name.into(), ca }
    }

    #[test]
    fn trust_needs_one_to_four_real_certificates() {
        assert!(matches!(Trust::new(&service(vec![], "a.test")), Err(TrustError::Count { got: 0, .. })));
        assert!(matches!(Trust::new(&service(vec![String::new(); 5], "a.test")), Err(TrustError::Count { got: 5, .. })));
        assert!(matches!(Trust::new(&service(vec!["!".into()], "a.test")), Err(TrustError::Ca { index: 0, .. })));
        assert!(matches!(Trust::new(&service(vec!["AAAA".into()], "a.test")), Err(TrustError::Ca { index: 0, .. })));
    }

    #[test]
    fn a_silent_peer_meets_the_deadline() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let stream = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let mut bounded = Bounded { stream, deadline: Instant::now() + Duration::from_millis(50) };
        assert!(bounded.read(&mut [0; 1]).is_err());
        assert_eq!(bounded.write(&[0]).expect_err("too late").kind(), io::ErrorKind::TimedOut);
    }
}
