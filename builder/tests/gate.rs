//! `gate:` of project.yml, from the file to the site config, and what the bundle says of it.
#![allow(missing_docs)]

mod support;

use std::fs;

use coffer_manifest::SiteConfig;
use support::{GATE, PROJECT, Project, SITE, text};

fn site(bundle: &std::path::Path) -> SiteConfig {
    SiteConfig::from_bytes(&fs::read(bundle.join("site.json")).expect("site.json")).expect("a site config")
}

fn gated(more: &str) -> Project {
    let project = Project::new();
    project.write("project.yml", &format!("{PROJECT}{GATE}{more}"));
    project
}

#[test]
fn a_client_is_behind_the_projects_gate() {
    let project = gated("  attested: true\n");
    // A port and a name of its own do not meet the gate's; port 9092 elsewhere is another one.
    project.write("cc_site-1.yml", &format!("{SITE}hosts_entries: {{other: 10.0.0.7}}\nallowed_out_ports: [9092]\n"));
    let bundle = project.build();
    let gate = site(&bundle).gate.expect("a gate");
    assert_eq!(gate.addresses, ["gate.example.org:9443", "[fd00::7]:9443"]);
    assert_eq!((gate.tls_name.as_str(), gate.ca.len()), ("gate.demo.test", 1));
    assert_eq!(gate.ca, site(&bundle).key_service.ca);
    assert_eq!((gate.workload.name.as_str(), gate.workload.port, gate.attested), ("superlink.demo.test", 9092, true));
    let readme = fs::read_to_string(bundle.join("README.txt")).expect("README.txt");
    assert!(readme.contains("TCP to the gate: gate.example.org:9443 [fd00::7]:9443\n"), "{readme}");
    let path = bundle.display().to_string();
    let said = text(&project.run(&["inspect", &path]).stdout);
    for line in [
        "gate             \"gate.example.org:9443\" \"[fd00::7]:9443\", itself attested\n",
        "  workload finds \"superlink.demo.test:9092\"\n",
        "token            lives 300 s, check frequency 600 s\n",
        "when refused     stop_job\n",
    ] {
        assert!(said.contains(line), "no `{line}` in\n{said}");
    }
    assert!(!said.contains("cc_attestation"), "what a gate enforces is called unenforced:\n{said}");
    let json: serde_json::Value = serde_json::from_slice(&project.run(&["inspect", "--json", &path]).stdout).expect("JSON");
    assert_eq!((json["gate"]["workload"].as_str(), json["gate"]["attested"].as_bool()), (Some("superlink.demo.test:9092"), Some(true)));
}

#[test]
fn aggregators_are_behind_none() {
    for role in ["server", "superlink"] {
        let project = gated("");
        // What would be in a client's way is its own business.
        let aggregator = SITE.replace("role: client", &format!("role: {role}"));
        project.write("cc_site-1.yml", &format!("{aggregator}hosts_entries: {{superlink.demo.test: 10.0.0.7}}\nallowed_ports: [9092]\n"));
        let bundle = project.build();
        assert_eq!(site(&bundle).gate, None, "{role}");
        let readme = fs::read_to_string(bundle.join("README.txt")).expect("README.txt");
        assert!(!readme.contains("gate"), "{readme}");
    }
}
