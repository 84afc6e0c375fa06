use std::fs;

use super::*;
use crate::flower::config::Mode;

fn service() -> Service {
    Service {
        urls: vec![ServiceUrl::parse("https://attest.demo.test:8999").expect("a URL")],
        tls_name: "attest.demo.test".into(),
        ca: "tls/service-ca.pem".into(),
        issuer: "https://attest.demo.test".into(),
        audience: "coffer".into(),
        root_of_trust: "amd-sev-snp".into(),
        project: "demo".into(),
    }
}

fn text() -> String {
    let listen = "0.0.0.0:9443".parse().expect("an address");
    Initial { name: "gate.demo.test", listen, check_frequency: 120, fleet: "127.0.0.1:9092", service: &service() }.text()
}

fn parse(text: &str) -> Result<Config, String> {
    Config::parse("t", text, Path::new("/gate")).map_err(|error| error.to_string())
}

#[test]
fn what_init_writes_is_read_back() {
    let config = parse(&text()).expect("parses");
    assert_eq!(config.service, Service { ca: "/gate/tls/service-ca.pem".into(), ..service() });
    assert_eq!((config.limits, config.metrics, config.attested), (Limits::default(), None, None));
    assert_eq!(config.check_frequency, Duration::from_secs(120));
}

#[test]
fn every_mistake_is_named_with_file_key_both_values_and_a_hint() {
    for (from, to, says) in [
        ("schema = 1", "schema = 2", "schema 2 is not supported; this build reads 1"),
        ("schema = 1", "schema = 1\nextra = 1", "unknown field `extra`"),
        ("check_frequency = 120", "check_frequency = 3601", "t: check_frequency is `3601`, expected 1 to 3600 seconds\nhint: "),
        ("check_frequency = 120", "check_frequency = 0", "check_frequency is `0`"),
        ("name = ", "metrics = \"0.0.0.0:9100\"\nname = ", "metrics is `0.0.0.0:9100`, expected a loopback address"),
        ("idle_timeout = 300", "idle_timeout = 59", "limits.idle_timeout is `59`, expected at least 60 seconds"),
        ("connections = 8192", "connections = 0", "limits.connections is `0`, expected 1 to 1000000"),
        ("connections = 8192", "connection = 1", "unknown field `connection`"),
        ("\"amd-sev-snp\"", "\"simulated:\"", "service.root_of_trust is `simulated:`, expected `amd-sev-snp` or"),
        ("\"amd-sev-snp\"", "\"any\"", "service.root_of_trust is `any`"),
        ("[\"https://attest.demo.test:8999\"]", "[]", "service.urls is `[]`, expected at least one"),
        ("https://attest.demo.test:8999", "http://attest.demo.test", "is not of the form https://HOST[:PORT]"),
        ("project = \"demo\"", "project = \"\"", "service.project is ``, expected a name"),
        ("[limits]", "[attested]\nsocket = \"a\"\n[limits]", "missing field `node_key`"),
        ("[limits]", "[runs]\nrequire = \"all\"\n[limits]", "[flower] control_listen is missing"),
        ("fleet = ", "flee = ", "unknown field `flee`"),
        ("mode = \"passthrough\"", "mode = \"terminate\"", "[flower] ca is missing"),
        ("[limits]", "[runs]\nrequire = \"some\"\n[limits]", "expected \"all\", \"none\""),
    ] {
        let error = parse(&text().replacen(from, to, 1)).map(|config| config.name).expect_err(to);
        assert!(error.contains(says), "{to}: {error}");
    }
}

#[test]
fn service_urls_have_one_form() {
    for (text, host, port) in [
        ("https://a.test", "a.test", 443),
        ("https://a.test:8999/", "a.test", 8999),
        ("https://127.0.0.1:1", "127.0.0.1", 1),
        ("https://[::1]:8999", "::1", 8999),
        ("https://[::1]", "::1", 443),
    ] {
        let url = ServiceUrl::parse(text).expect(text);
        assert_eq!((url.host.as_str(), url.port), (host, port), "{text}");
    }
    for text in ["", "a.test", "http://a.test", "https://", "https://a.test:0", "https://a.test:70000", "https://a/b", "https://u@a"] {
        assert_eq!(ServiceUrl::parse(text), None, "{text}");
    }
}

/// What the operator's guide and the example have in place of the `[flower]` that `init` writes.
#[test]
fn the_settings_that_guides_show_are_read() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(here.join("../README.md")).expect("the guide");
    let shown = guide.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).find(|block| block.starts_with("[flower]"));
    let example = fs::read_to_string(here.join("../../examples/flower/flower.toml")).expect("the example");
    let text = text();
    let (before, _) = text.split_once("[flower]\n").expect("a section");
    for sections in [shown.expect("the guide shows it"), &example] {
        let config = parse(&format!("{before}{sections}")).expect(sections);
        assert!(config.flower.is_managed() && config.flower.control_listen.is_some(), "{sections}");
        assert_ne!(config.runs, Runs::absent(), "{sections}");
        let terminate = sections.replacen("\"passthrough\"", "\"terminate\"", 1).replacen("\"continue\"", "\"pause\"", 1);
        assert_eq!(parse(&format!("{before}{terminate}")).map(|config| config.flower.mode), Ok(Mode::Terminate), "{terminate}");
    }
}
