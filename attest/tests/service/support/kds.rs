//! A key server for tests: real TLS on loopback, and whatever answer a test wants.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coffer_evidence::{ReportFields, TcbVersion};
use data_encoding::HEXLOWER;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What the server does with a request.
#[derive(Clone)]
pub enum Reply {
    /// 200 and these bytes.
    Ok(Vec<u8>),
    /// A status, perhaps with `Retry-After`.
    Status(u16, Option<&'static str>),
    /// 200, twice as many bytes announced as sent, then the end.
    Truncated(Vec<u8>),
    /// 200 and this many bytes of a DER that never ends.
    Huge(usize),
    /// 200 after this long.
    Slow(Duration, Vec<u8>),
}

type Answers = Box<dyn Fn(&str) -> Reply + Send>;

/// The server. Ends with the test.
pub struct TestKds {
    pub url: String,
    ca: String,
    asked: Arc<Mutex<Vec<(Instant, String)>>>,
    answers: Arc<Mutex<Answers>>,
    stop: Arc<AtomicBool>,
}

impl TestKds {
    pub fn start(answers: impl Fn(&str) -> Reply + Send + 'static) -> Self {
        let (ca, config) = authority();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answers: Arc<Mutex<Answers>> = Arc::new(Mutex::new(Box::new(answers)));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, say, ending) = (asked.clone(), answers.clone(), stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ending.load(Ordering::SeqCst) {
                    return;
                }
                let (config, seen, say) = (config.clone(), seen.clone(), say.clone());
                std::thread::spawn(move || serve(&config, stream, &seen, &say));
            }
        });
        Self { url, ca, asked, answers, stop }
    }

    /// From now on.
    pub fn answer(&self, answers: impl Fn(&str) -> Reply + Send + 'static) {
        *self.answers.lock().unwrap() = Box::new(answers);
    }

    /// Every path asked for so far, oldest first.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(_, path)| path.clone()).collect()
    }

    /// How often paths that contain this were asked for.
    pub fn count(&self, part: &str) -> usize {
        self.asked().iter().filter(|path| path.contains(part)).count()
    }

    /// The authority that certified this server, as a file for `[kds] ca`.
    pub fn write_ca(&self, path: &Path) {
        std::fs::write(path, &self.ca).unwrap();
    }
}

impl Drop for TestKds {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.url.trim_start_matches("https://"));
    }
}

/// An authority and a server certificate for 127.0.0.1.
fn authority() -> (String, Arc<ServerConfig>) {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(leaf.der().to_vec())],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    (ca.pem(), Arc::new(config))
}

fn serve(config: &Arc<ServerConfig>, stream: TcpStream, seen: &Mutex<Vec<(Instant, String)>>, say: &Mutex<Answers>) {
    let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
    while let Some(path) = read_request(&mut tls) {
        seen.lock().unwrap().push((Instant::now(), path.clone()));
        let reply = say.lock().unwrap()(&path);
        if write_reply(&mut tls, &reply).is_err() || matches!(reply, Reply::Truncated(_)) {
            return;
        }
    }
}

fn write_reply(tls: &mut impl Write, reply: &Reply) -> std::io::Result<()> {
    let head = |length: usize| format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
    match reply {
        Reply::Ok(body) => tls.write_all(&[head(body.len()).as_bytes(), body].concat()),
        Reply::Status(status, retry_after) => {
            let retry_after = retry_after.map(|value| format!("retry-after: {value}\r\n")).unwrap_or_default();
            tls.write_all(format!("HTTP/1.1 {status} X\r\n{retry_after}content-length: 0\r\n\r\n").as_bytes())
        }
        Reply::Truncated(body) => tls.write_all(&[head(body.len() * 2).as_bytes(), body].concat()),
        Reply::Huge(length) => {
            tls.write_all(head(*length).as_bytes())?;
            tls.write_all(&[0x30, 0x84, 0x7F, 0xFF, 0xFF, 0xFF])?;
            let block = [0; 65536];
            (0..length / block.len()).try_for_each(|_| tls.write_all(&block))
        }
        Reply::Slow(wait, body) => {
            std::thread::sleep(*wait);
            tls.write_all(&[head(body.len()).as_bytes(), body].concat())
        }
    }
}

/// Path and query of a GET.
fn read_request(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let line = String::from_utf8(head).ok()?;
    Some(line.strip_prefix("GET ")?.split(' ').next()?.to_owned())
}

/// Serves what is in the table by path, 404 for the rest.
pub fn table(entries: impl IntoIterator<Item = (String, Vec<u8>)>) -> impl Fn(&str) -> Reply + Send {
    let table: BTreeMap<String, Vec<u8>> = entries.into_iter().collect();
    move |path| table.get(path).map_or(Reply::Status(404, None), |body| Reply::Ok(body.clone()))
}

/// Where AMD's key server has the VCEK of the chip that makes such reports, written down apart from the service's own code.
pub fn vcek_path(product: &str, fields: &ReportFields) -> String {
    let TcbVersion { fmc, bootloader, tee, snp, microcode } = fields.reported_tcb;
    let (hwid, fmc) = match fmc {
        Some(fmc) => (&fields.chip_id.as_bytes()[..8], format!("fmcSPL={fmc:02}&")),
        None => (&fields.chip_id.as_bytes()[..], String::new()),
    };
    let hwid = HEXLOWER.encode(hwid);
    format!("/vcek/v1/{product}/{hwid}?{fmc}blSPL={bootloader:02}&teeSPL={tee:02}&snpSPL={snp:02}&ucodeSPL={microcode:02}")
}

/// PEM of certificates, as the key server's chains are.
pub fn pem(ders: &[&[u8]]) -> Vec<u8> {
    let block = |der: &&[u8]| format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", data_encoding::BASE64.encode(der));
    ders.iter().map(block).collect::<String>().into_bytes()
}
