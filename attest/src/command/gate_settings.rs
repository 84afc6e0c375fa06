//! `coffer-attest gate-settings`: the `[service]` table of a gate's settings, from what the pinned service says of itself.

use std::fs;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::{Pinned, listening};
use super::say;
use crate::cli::GateSettings;
use crate::failure::{Failure, OrFail};
use crate::layout::Layout;

/// What anybody may know of a service.
#[derive(Deserialize)]
struct Said {
    root_of_trust: String,
    issuer: String,
    audience: String,
}

/// `[service]` of `coffer-gate.toml`.
#[derive(Serialize)]
struct Service {
    urls: [String; 1],
    tls_name: String,
    ca: String,
    issuer: String,
    audience: String,
    root_of_trust: String,
    project: String,
}

/// Asks the service and prints.
///
/// # Errors
/// What the service or this machine says.
pub fn run(args: &GateSettings) -> Result<(), Failure> {
    let (url, tls_name, ca) = match (&args.dir, &args.url, &args.ca) {
        (Some(dir), ..) => {
            let (url, tls_name) = listening(dir)?;
            (url, Some(tls_name), Layout::new(dir).tls_ca())
        }
        (None, Some(url), Some(ca)) => (url.clone(), args.tls_name.clone(), ca.clone()),
        _ => return Err(Failure::new("no service named").hint("give --dir, or --url with --ca")),
    };
    let service = Pinned::new(url.clone(), tls_name, &ca)?;
    let Said { root_of_trust, issuer, audience } = service.get("/healthz")?;
    let ca = fs::canonicalize(&ca).or_fail(&format!("cannot use the CA {}", ca.display()))?;
    let service = Service {
        urls: [url],
        tls_name: service.tls_name().to_owned(),
        ca: ca.into_os_string().into_string().map_err(|_| Failure::new("the CA's path is not UTF-8"))?,
        issuer,
        audience,
        root_of_trust,
        project: args.project.to_string(),
    };
    say(args.json, &json!({ "service": service }), |_| table(&service));
    Ok(())
}

fn table(service: &Service) -> String {
    let Service { urls: [url], tls_name, ca, issuer, audience, root_of_trust, project } = service;
    let members = [
        ("tls_name", tls_name),
        ("ca", ca),
        ("issuer", issuer),
        ("audience", audience),
        ("root_of_trust", root_of_trust),
        ("project", project),
    ];
    let mut text = format!("[service]\nurls = [{}]", quoted(url));
    for (name, value) in members {
        text.push_str(&format!("\n{name} = {}", quoted(value)));
    }
    text
}

/// A basic string (TOML 1.0): the escapes of JSON, and of DEL.
fn quoted(text: &str) -> String {
    json!(text).to_string().replace('\u{7f}', "\\u007F")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_in_a_name_comes_back_from_the_table() {
        let odd = "a\"b\\c\nd\u{7f}é\u{1}";
        let text = |_| odd.to_owned();
        let [tls_name, ca, issuer, audience, root_of_trust, project] = [(); 6].map(text);
        let service = Service { urls: [odd.to_owned()], tls_name, ca, issuer, audience, root_of_trust, project };
        let read: toml::Table = toml::from_str(&table(&service)).unwrap();
        let read = read["service"].as_table().unwrap();
        assert_eq!(read.len(), 7);
        assert_eq!(read["urls"].as_array().unwrap()[0].as_str(), Some(odd));
        assert!(read.iter().filter(|(name, _)| *name != "urls").all(|(_, value)| value.as_str() == Some(odd)), "{read:?}");
    }
}
