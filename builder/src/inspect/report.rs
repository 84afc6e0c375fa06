//! What `coffer inspect` prints, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use coffer_manifest::{Base, BaseFile, Bundle, Container, Gate, HostData, KeyServiceKind, LaunchShape, Role, SiteConfig};
use coffer_manifest::{FailureAction, ProjectName, RootOfTrust, Sha256Digest, SiteName};
use serde::Serialize;

use super::id_blocks::IdBlocks;
use crate::plan::not_enforced;

/// The JSON form; the text form shows the same.
#[derive(Serialize)]
pub struct Report<'a> {
    project: &'a ProjectName,
    site: &'a SiteName,
    role: Role,
    site_svn: u32,
    host_data: HostData,
    root_of_trust: RootOfTrust,
    container: &'a Container,
    kit_bytes: Option<u64>,
    allowed_ports: &'a [u16],
    allowed_out_ports: &'a [u16],
    hosts_entries: &'a BTreeMap<String, IpAddr>,
    key_service: Service<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gate: Option<Behind<'a>>,
    token_expiration: u32,
    check_frequency: u32,
    failure_action: FailureAction,
    base: Measured<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id_blocks: Option<&'a IdBlocks>,
    not_enforced: Vec<String>,
    problems: &'a [String],
}

#[derive(Serialize)]
struct Service<'a> {
    kind: KeyServiceKind,
    urls: &'a [String],
    tls_name: &'a str,
    /// SHA-256 of each CA certificate's DER bytes.
    ca_sha256: Vec<Sha256Digest>,
}

/// The gate it is behind.
#[derive(Serialize)]
struct Behind<'a> {
    addresses: &'a [String],
    tls_name: &'a str,
    /// SHA-256 of each CA certificate's DER bytes.
    ca_sha256: Vec<Sha256Digest>,
    /// Where the workload finds it.
    workload: String,
    attested: bool,
}

impl<'a> Behind<'a> {
    fn new(gate: &'a Gate) -> Self {
        Self {
            addresses: &gate.addresses,
            tls_name: &gate.tls_name,
            ca_sha256: digests(&gate.ca),
            workload: format!("{}:{}", gate.workload.name, gate.workload.port),
            attested: gate.attested,
        }
    }
}

#[derive(Serialize)]
struct Measured<'a> {
    base_svn: u32,
    kernel_release: &'a str,
    cmdline: &'a str,
    files: &'a BTreeMap<String, BaseFile>,
    launch_digests: &'a [LaunchShape],
    aml: &'a str,
}

impl<'a> Report<'a> {
    /// Gathers what the three documents say, and the ID blocks if there are any.
    pub fn new(manifest: &Bundle, site: &'a SiteConfig, base: &'a Base, id_blocks: Option<&'a IdBlocks>, problems: &'a [String]) -> Self {
        Self {
            project: &site.project,
            site: &site.site,
            role: site.role,
            site_svn: site.site_svn,
            host_data: manifest.host_data,
            root_of_trust: site.root_of_trust,
            container: &site.container,
            kit_bytes: site.kit.map(|kit| kit.size),
            allowed_ports: &site.network.allowed_ports,
            allowed_out_ports: &site.network.allowed_out_ports,
            hosts_entries: &site.network.hosts_entries,
            key_service: Service {
                kind: site.key_service.kind,
                urls: &site.key_service.urls,
                tls_name: &site.key_service.tls_name,
                ca_sha256: digests(&site.key_service.ca),
            },
            gate: site.gate.as_ref().map(Behind::new),
            token_expiration: site.attestation.token_expiration,
            check_frequency: site.attestation.check_frequency,
            failure_action: site.attestation.failure_action,
            base: Measured {
                base_svn: base.base_svn,
                kernel_release: &base.kernel_release,
                cmdline: &base.cmdline,
                files: &base.files,
                launch_digests: &base.launch_digests,
                aml: &base.open_risks.aml,
            },
            id_blocks,
            not_enforced: not_enforced(&site.network, &site.attestation, site.gate.is_some(), site.gpu.is_some()),
            problems,
        }
    }

    /// Indented JSON.
    ///
    /// # Errors
    /// None in practice: all keys are text.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// Lines of `name  value`. Text that came with the bundle is quoted where it could hold anything.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "{name:<17}{value}");
        };
        line("site", format!("{}/{} ({})", self.project, self.site, word(&self.role)));
        line("host data", self.host_data.to_string());
        line("root of trust", self.root_of_trust.to_string());
        line("image", format!("sha256:{}", self.container.image));
        line("command", quoted(&self.container.command));
        line("environment", quoted(&self.container.env));
        line("user", format!("{}:{} {:?}", self.container.user.uid, self.container.user.gid, self.container.user.groups));
        line("directory", quoted(std::slice::from_ref(&self.container.workdir)));
        line("kit", self.kit_bytes.map_or("none".to_owned(), |bytes| format!("{bytes} bytes, sealed")));
        line("ports in", numbers(self.allowed_ports));
        line("ports out", numbers(self.allowed_out_ports));
        for (name, address) in self.hosts_entries {
            line("host", format!("{} {address}", name.escape_debug()));
        }
        line("key service", format!("{} {}", word(&self.key_service.kind), quoted(self.key_service.urls)));
        line("  as", quoted(&[self.key_service.tls_name.to_owned()]));
        for ca in &self.key_service.ca_sha256 {
            line("  ca", format!("sha256:{ca}"));
        }
        if let Some(gate) = &self.gate {
            line("gate", quoted(gate.addresses) + if gate.attested { ", itself attested" } else { "" });
            line("  as", quoted(&[gate.tls_name.to_owned()]));
            for ca in &gate.ca_sha256 {
                line("  ca", format!("sha256:{ca}"));
            }
            line("  workload finds", format!("{:?}", gate.workload));
        }
        line("token", format!("lives {} s, check frequency {} s", self.token_expiration, self.check_frequency));
        line("when refused", word(&self.failure_action));
        line("base", format!("svn {}, Linux {}", self.base.base_svn, self.base.kernel_release.escape_debug()));
        line("  command line", self.base.cmdline.escape_debug().to_string());
        for (name, file) in self.base.files {
            line(&format!("  {}", name.escape_debug()), format!("sha256:{}", file.sha256));
        }
        for shape in self.base.launch_digests {
            line("launch digest", format!("{} × {} {}", shape.cpu_model.escape_debug(), shape.vcpus, shape.digest));
        }
        for (name, value) in self.id_blocks.iter().flat_map(|blocks| blocks.lines()) {
            line(name, value);
        }
        line("not closed", format!("aml {}", self.base.aml.escape_debug()));
        for text in &self.not_enforced {
            line("not enforced yet", text.clone());
        }
        let whole = if self.problems.is_empty() { "all as manifest.json says" } else { "NOT as manifest.json says" };
        line("files", whole.to_owned());
        for problem in self.problems {
            line("  problem", problem.clone());
        }
        out
    }
}

/// Of each certificate's DER bytes.
fn digests(ca: &[String]) -> Vec<Sha256Digest> {
    ca.iter().map(|text| Sha256Digest::of(&data_encoding::BASE64.decode(text.as_bytes()).unwrap_or_default())).collect()
}

/// The word serde writes for a variant without fields.
fn word(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default().trim_matches('"').to_owned()
}

fn quoted(words: &[String]) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" ")
}

fn numbers(ports: &[u16]) -> String {
    if ports.is_empty() { "none".to_owned() } else { ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" ") }
}
