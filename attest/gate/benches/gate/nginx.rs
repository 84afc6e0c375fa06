//! The named peer: nginx's TLS stream proxy on both ends, client certificates, TLS 1.3.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P384_SHA384};
use tempfile::TempDir;

use crate::cpu;

/// Both ends, each one process with one worker per core.
pub struct Nginx {
    children: [Child; 2],
    /// Where the plain end listens.
    pub address: SocketAddr,
    _dir: TempDir,
}

impl Nginx {
    /// `None` where nginx is not unpacked.
    pub fn start(origin: SocketAddr) -> Option<Self> {
        let unpacked = system_tests::repo::root().join("cache/tools/nginx");
        let (program, module) = (unpacked.join("usr/sbin/nginx"), unpacked.join("usr/lib/nginx/modules/ngx_stream_module.so"));
        if !program.is_file() || !module.is_file() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
        let (plain, tls) = (free(), free());
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (ca, near, far) = (path("ca.pem"), (path("near.pem"), path("near.key")), (path("far.pem"), path("far.key")));
        let near = format!(
            "listen {plain}; proxy_pass {tls}; proxy_ssl on; proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse off;\n\
             proxy_ssl_certificate {}; proxy_ssl_certificate_key {};\n\
             proxy_ssl_trusted_certificate {ca}; proxy_ssl_verify on; proxy_ssl_name far.test; proxy_ssl_server_name on;",
            near.0, near.1
        );
        let far = format!(
            "listen {tls} ssl; proxy_pass {origin}; ssl_protocols TLSv1.3; ssl_session_tickets off; ssl_session_cache off;\n\
             ssl_certificate {}; ssl_certificate_key {}; ssl_client_certificate {ca}; ssl_verify_client on;",
            far.0, far.1
        );
        let run = |name: &str, server: &str| {
            let config = dir.path().join(name);
            let text = format!(
                "load_module {};\ndaemon off; worker_processes auto; pid {}; error_log {} error;\nevents {{ worker_connections 4096; }}\n\
                 stream {{\n tcp_nodelay on;\n server {{\n{server}\n }}\n}}\n",
                module.display(),
                path(&format!("{name}.pid")),
                path(&format!("{name}.log"))
            );
            fs::write(&config, text).unwrap();
            Command::new(&program).arg("-c").arg(&config).arg("-p").arg(dir.path()).arg("-e").arg("stderr").spawn().unwrap()
        };
        let children = [run("far.conf", &far), run("near.conf", &near)];
        for address in [tls, plain] {
            let begun = Instant::now();
            while TcpStream::connect(address).is_err() {
                assert!(begun.elapsed() < Duration::from_secs(10), "nginx does not listen on {address}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Some(Self { children, address: plain, _dir: dir })
    }
}

impl Nginx {
    /// Masters and workers of both ends.
    pub fn processes(&self) -> Vec<u32> {
        self.children.iter().flat_map(|child| cpu::family(child.id())).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        for child in &mut self.children {
            // SIGTERM: the master ends its workers.
            let _ = Command::new("kill").arg(child.id().to_string()).status();
            let _ = child.wait();
        }
    }
}

/// An authority and one P-384 certificate for each end, as guests and gates have such keys.
fn certificates(dir: &Path) {
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "bench authority");
    let authority_key = key();
    fs::write(dir.join("ca.pem"), params.self_signed(&authority_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, authority_key);
    for name in ["near", "far"] {
        let key = key();
        let leaf = CertificateParams::new(vec![format!("{name}.test")]).unwrap().signed_by(&key, &issuer).unwrap();
        fs::write(dir.join(format!("{name}.pem")), leaf.pem()).unwrap();
        fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
