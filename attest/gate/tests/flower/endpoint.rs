//! The guest's end of tunnels: a loopback port whose connections come out at the gate.

use std::sync::Arc;

use coffer_token::lease::{ALPN, Answer, FRAME_HEADER_BYTES, Hello, Open, frame_length, from_frame, to_frame};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::support::{Boot, Door};

/// Carries connections as this boot, with this token; `localhost:port`. For as long as the test's process lives.
pub fn listen(door: &Door, boot: &Boot, token: String) -> String {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(door.ca.clone())).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap().with_root_certificates(roots);
    let mut config = builder.with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::clone(&boot.key.raw))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    let (tls, door) = (TlsConnector::from(Arc::new(config)), door.clone());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (local, _) = listener.accept().await.unwrap();
                let (tls, door, token) = (tls.clone(), door.clone(), token.clone());
                tokio::spawn(async move { carry(local, &tls, &door, token).await });
            }
        });
    });
    format!("localhost:{port}")
}

/// One connection. Whatever ends it ends both sides.
async fn carry(mut local: TcpStream, tls: &TlsConnector, door: &Door, token: String) -> std::io::Result<()> {
    let socket = TcpStream::connect(&door.address).await?;
    let mut gate = tls.connect(door.tls_name.clone().try_into().unwrap(), socket).await?;
    let hello = Hello { v: coffer_token::Version1, open: Open::Tunnel, token, node: None };
    gate.write_all(&to_frame(&hello).unwrap()).await?;
    let mut header = [0; FRAME_HEADER_BYTES];
    gate.read_exact(&mut header).await?;
    let mut body = vec![0; frame_length(header).unwrap()];
    gate.read_exact(&mut body).await?;
    match from_frame::<Answer>(&body).unwrap() {
        Answer::Admitted { .. } => tokio::io::copy_bidirectional(&mut local, &mut gate).await.map(|_| ()),
        Answer::Refused { code, .. } => Err(std::io::Error::other(code)),
    }
}
