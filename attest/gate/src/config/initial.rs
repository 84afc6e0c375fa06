//! The settings that `init` writes: what it was told, the defaults spelled out, and what the operator may want to know beside them.

use std::net::SocketAddr;
use std::path::Path;

use super::{Config, ConfigError, Limits, SCHEMA, Service};

/// What `init` was told.
#[derive(Debug)]
pub struct Initial<'a> {
    /// See [`Config::name`].
    pub name: &'a str,
    /// See [`Config::listen`].
    pub listen: SocketAddr,
    /// See [`Config::check_frequency`], in seconds.
    pub check_frequency: u64,
    /// The SuperLink's Fleet API.
    pub fleet: &'a str,
    /// The key service; its `ca` as the file will name it.
    pub service: &'a Service,
}

impl Initial<'_> {
    /// The file `init` writes.
    #[must_use]
    pub fn text(&self) -> String {
        let service = self.service;
        let urls: Vec<String> = service.urls.iter().map(|url| quoted(url.as_str())).collect();
        let limits = Limits::default();
        format!(
            "# Settings of coffer-gate. Root of trust: {root}. Paths are relative to this folder.\n\
             schema = {SCHEMA}\n\
             # In the certificate that guests see: project.yml, gate.tls_name.\n\
             name = {name}\n\
             listen = {listen}\n\
             # Prometheus text, for a collector on this machine: metrics = \"127.0.0.1:9100\"\n\
             # Seconds after its newest token was issued that a lease ends.\n\
             check_frequency = {check_frequency}\n\
             \n\
             # What `coffer-attest gate-settings` printed.\n\
             [service]\n\
             urls = [{urls}]\n\
             tls_name = {tls_name}\n\
             ca = {ca}\n\
             issuer = {issuer}\n\
             audience = {audience}\n\
             root_of_trust = {root_of_trust}\n\
             project = {project}\n\
             \n\
             [limits]\n\
             connections = {connections}\n\
             unauthenticated = {unauthenticated}\n\
             unauthenticated_per_source = {unauthenticated_per_source}\n\
             connections_per_site = {connections_per_site}\n\
             new_connections_per_second_per_site = {new_connections}\n\
             instances_per_hour = {instances}\n\
             idle_timeout = {idle_timeout}\n\
             \n\
             # Bytes are carried and no more: with ca and control the gate also registers attested node keys with the\n\
             # SuperLink and holds runs to [runs]; see the operator's guide.\n\
             [flower]\n\
             mode = \"passthrough\"\n\
             fleet = {fleet}\n",
            root = service.root_of_trust,
            name = quoted(self.name),
            listen = quoted(&self.listen.to_string()),
            check_frequency = self.check_frequency,
            urls = urls.join(", "),
            tls_name = quoted(&service.tls_name),
            ca = quoted(&service.ca.display().to_string()),
            issuer = quoted(&service.issuer),
            audience = quoted(&service.audience),
            root_of_trust = quoted(&service.root_of_trust),
            project = quoted(&service.project),
            connections = limits.connections,
            unauthenticated = limits.unauthenticated,
            unauthenticated_per_source = limits.unauthenticated_per_source,
            connections_per_site = limits.connections_per_site,
            new_connections = limits.new_connections_per_second_per_site,
            instances = limits.instances_per_hour,
            idle_timeout = limits.idle_timeout,
            fleet = quoted(self.fleet),
        )
    }

    /// Whether what would be written could be read.
    ///
    /// # Errors
    /// See [`ConfigError`]; the file is called `path`.
    pub fn check(&self, path: &str) -> Result<(), ConfigError> {
        Config::parse(path, &self.text(), Path::new("")).map(drop)
    }
}

/// A basic string (TOML 1.0, section String), whatever is in it.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => quoted.push_str(&format!("\\u{:04X}", control as u32)),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_written_is_quoted() {
        for text in ["plain", "a\"b", "back\\slash", "line\nfeed", "\u{7f}", "é"] {
            let table: toml::Table = toml::from_str(&format!("a = {}", quoted(text))).expect(text);
            assert_eq!(table["a"].as_str(), Some(text));
        }
    }
}
