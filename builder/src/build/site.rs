//! The site config of a plan: what the image says, overridden by what the plan says.

use std::collections::BTreeMap;

use coffer_image::root::BuiltRoot;
use coffer_manifest::disk::{DiskFormat, DiskUuid, RootSecret};
use coffer_manifest::{Container, MAX_DOCUMENT_BYTES, SiteConfig};

use super::BuildError;
use super::root::Image;
use crate::plan::{Plan, Project};

/// What Docker gives a container whose image sets no PATH.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The final argv, environment, user, directory and stop signal.
///
/// # Errors
/// [`BuildError::NoCommand`] if neither the plan nor the image names a program.
pub fn container(plan: &Plan, image: &Image) -> Result<Container, BuildError> {
    let config = image.config();
    let own = || config.entrypoint.iter().chain(&config.cmd).cloned().collect::<Vec<_>>();
    let command = plan.command.clone().unwrap_or_else(own);
    if command.first().is_none_or(String::is_empty) {
        return Err(BuildError::NoCommand { archive: plan.archive.clone() });
    }
    Ok(Container {
        image: config.digest,
        command,
        env: merge_env(&config.env, &plan.env),
        workdir: config.workdir.clone(),
        user: image.user.clone(),
        stop_signal: config.stop_signal,
    })
}

/// The image's variables in their order, overridden in place, then the plan's own, sorted. PATH is never missing.
fn merge_env(image: &[String], plan: &BTreeMap<String, String>) -> Vec<String> {
    let name_of = |line: &str| line.split_once('=').map_or(line, |(name, _)| name).to_owned();
    let mut left = plan.clone();
    let mut env: Vec<String> = Vec::new();
    for line in image {
        let name = name_of(line);
        env.push(match left.remove(&name) {
            Some(value) => format!("{name}={value}"),
            None => line.clone(),
        });
    }
    env.extend(left.into_iter().map(|(name, value)| format!("{name}={value}")));
    if !env.iter().any(|line| line.starts_with("PATH=")) {
        env.insert(0, DEFAULT_PATH.to_owned());
    }
    env
}

/// The whole site config.
pub fn config(
    plan: &Plan,
    project: &Project,
    container: Container,
    disk: &BuiltRoot,
    (site_svn, not_before): (u32, u64),
    (secret, uuid): (&RootSecret, &DiskUuid),
) -> SiteConfig {
    SiteConfig {
        kind: Default::default(),
        root_of_trust: project.root_of_trust,
        project: project.name.clone(),
        site: plan.site.clone(),
        role: plan.role,
        site_svn,
        not_before,
        disk_format: DiskFormat,
        disk_uuid: *uuid,
        root_hash: disk.root_hash,
        root_blocks: disk.root_blocks,
        key_check: secret.key_check(uuid),
        key_service: project.key_service.clone(),
        kit: disk.kit,
        container,
        network: plan.network.clone(),
        gate: plan.gate.clone(),
        attestation: plan.attestation.clone(),
        gpu: plan.gpu,
    }
}

/// The canonical bytes, if the guest would read that many.
///
/// # Errors
/// [`BuildError::SiteTooLong`], [`BuildError::Document`].
pub fn bytes(config: &SiteConfig) -> Result<Vec<u8>, BuildError> {
    let bytes = config.to_bytes().map_err(BuildError::Document)?;
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(BuildError::SiteTooLong { got: bytes.len(), most: MAX_DOCUMENT_BYTES });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_is_overridden_in_place() {
        let image = ["A=1".to_owned(), "PATH=/bin".to_owned(), "B=2".to_owned()];
        let plan = BTreeMap::from([("C".to_owned(), "3".to_owned()), ("A".to_owned(), "x=y".to_owned())]);
        assert_eq!(merge_env(&image, &plan), ["A=x=y", "PATH=/bin", "B=2", "C=3"]);
    }

    #[test]
    fn path_is_never_missing() {
        assert_eq!(merge_env(&[], &BTreeMap::new()), [DEFAULT_PATH]);
    }
}
