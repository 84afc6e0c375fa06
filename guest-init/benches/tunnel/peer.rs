//! The other end: without TLS, and as a gate that admits everybody and serves tunnels itself.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use coffer_token::lease::{ALPN, Answer, Hello, Open, from_frame, to_frame};
use data_encoding::BASE64;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring::default_provider;
use rustls::crypto::verify_tls13_signature_with_raw_key;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, ServerConnection, SignatureScheme, StreamOwned};

use crate::{CHUNK, mode};

pub const NAME: &str = "gate.demo.test";

/// A server without TLS.
pub fn plain() -> SocketAddr {
    listen(|socket| drop(serve(socket)))
}

/// A gate, and its authority in the form of a site config.
pub fn tls() -> (SocketAddr, String) {
    let (config, ca) = server();
    let config = Arc::new(config);
    let address = listen(move |socket| {
        let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), socket);
        if admit(&mut tls).is_ok_and(|hello| hello.open == Open::Tunnel) {
            let _ = serve(tls);
        } else {
            // The lease, for as long as the endpoint lives.
            let _ = tls.sock.read(&mut [0]);
        }
    });
    (address, ca)
}

fn listen(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            socket.set_nodelay(true).unwrap();
            let serve = serve.clone();
            std::thread::spawn(move || serve(socket));
        }
    });
    address
}

fn admit(tls: &mut StreamOwned<ServerConnection, TcpStream>) -> io::Result<Hello> {
    let mut header = [0; 4];
    tls.read_exact(&mut header)?;
    let mut body = vec![0; u32::from_be_bytes(header) as usize];
    tls.read_exact(&mut body)?;
    tls.write_all(&to_frame(&Answer::Admitted { lease_seconds: 3600, gate_token: None }).unwrap())?;
    from_frame(&body).map_err(io::Error::other)
}

fn serve(mut stream: impl Read + Write) -> io::Result<()> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let [mode, count @ ..] = head;
    let (mut buffer, mut left) = (vec![0x5a; CHUNK], u64::from_be_bytes(count));
    while left > 0 {
        let part = left.min(CHUNK as u64) as usize;
        left -= match mode {
            mode::SEND => stream.write_all(&buffer[..part]).map(|()| part)?,
            _ => stream.read(&mut buffer[..part])?,
        } as u64;
    }
    if mode == mode::TAKE {
        stream.write_all(b".")?;
    }
    // Echoes; and the other side ends the connection.
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            got => stream.write_all(&buffer[..got])?,
        }
    }
}

fn server() -> (ServerConfig, String) {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![NAME.to_owned()]).unwrap().signed_by(&key, &Issuer::new(params, ca_key)).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(AnyRawKey))
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())))
        .unwrap();
    config.alpn_protocols = vec![ALPN.to_vec()];
    (config, BASE64.encode(ca.der()))
}

/// Asks for a raw public key, as a gate does; whose it is does not matter here.
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
        Err(Error::General("TLS 1.2".to_owned()))
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
