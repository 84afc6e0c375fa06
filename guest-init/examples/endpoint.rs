//! The guest's end of the way to a gate, outside of a guest: for benchmarks of a real gate, and for looking at one.
//!
//! `endpoint SITE.JSON TOKEN` makes a boot's keys, prints their public halves as one line of JSON (`tls` is the thumbprint that a token
//! has as `cnf.jkt`, `node_jkt` the one it has by that name, `node` the key itself) and waits for the file TOKEN, a job token for them. From then on 127.0.0.1 has
//! `gate.workload.port`. A newer TOKEN is a renewal; without the file the service has refused. Each change of the lease is a line.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use coffer_init::gate;
use coffer_init::keys::BootKeys;
use coffer_init::standing::{Lease, Standing, Token};
use coffer_manifest::SiteConfig;
use coffer_token::lease::NodeKey;
use coffer_token::{Claims, Jkt};
use data_encoding::BASE64URL_NOPAD;

/// How often the file is looked at.
const PERIOD: Duration = Duration::from_millis(20);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let (Some(site), Some(path), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        eprintln!("endpoint: usage: endpoint SITE.JSON TOKEN");
        std::process::exit(2);
    };
    let site = SiteConfig::from_bytes(&fs::read(site)?)?;
    let keys = BootKeys::generate()?;
    let node = NodeKey::from_sec1(&keys.node.public().to_sec1())?;
    let tls = Jkt::of_ec_point("P-384", &keys.tls.public().to_sec1()).ok_or("no point")?;
    println!(r#"{{"tls":"{tls}","node_jkt":"{}","node":{}}}"#, node.thumbprint()?, serde_json::to_string(&node)?);

    let path = Path::new(&path);
    let first = loop {
        if let Some(token) = read(path) {
            break token;
        }
        thread::sleep(PERIOD);
    };
    let standing = Standing::new(first, site.gate.is_some());
    gate::start(&site, &keys, &standing)?;
    let mut last = None;
    loop {
        let now = standing.now();
        match (read(path), &now.token) {
            (None, Some(_)) if !path.exists() => standing.refused("no_token_file", "-"),
            (Some(token), shown) if shown.as_ref().is_none_or(|shown| shown.text != token.text) => standing.renewed(token),
            _ => {}
        }
        let lease = match &now.lease {
            Lease::Until(until) => format!("leased for {} s", until.saturating_duration_since(Instant::now()).as_secs()),
            other => format!("{other:?}"),
        };
        let kind = std::mem::discriminant(&now.lease);
        if last.replace(kind) != Some(kind) {
            println!("{lease}");
        }
        thread::sleep(PERIOD);
    }
}

/// The token in the file; none while it is not there or not whole.
fn read(path: &Path) -> Option<Token> {
    let text = fs::read_to_string(path).ok()?.trim().to_owned();
    let payload = BASE64URL_NOPAD.decode(text.split('.').nth(1)?.as_bytes()).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    let (issued_at, expires_at) = (claims.issued_at().0, claims.expires_at().0);
    Some(Token { text, issued_at, expires_at })
}
