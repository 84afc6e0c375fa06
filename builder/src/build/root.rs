//! The disks of a bundle, made by `coffer-image`.

use std::path::Path;

use coffer_image::container::{Container, ContainerError, ExtraKind, ExtraPath, ImageConfig, UserError};
use coffer_image::root::{BuiltRoot, RootError, RootRequest, build_root};
use coffer_image::sidecar::{SidecarError, SidecarRequest, build_sidecar};
use coffer_manifest::disk::{DiskUuid, RootSecret};
use coffer_manifest::{SealedKit, User};
use sha2::{Digest, Sha256};

use super::BuildError;
use crate::failure::Exit;
use crate::plan::Plan;

/// Directories the guest mounts something on, and files it writes, so that they need not be made in the overlay.
const DIRECTORIES: [&str; 9] = ["/proc", "/sys", "/dev", "/run", "/tmp", "/etc", "/applog", "/user_config", "/user_data"];
const FILES: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// The container or a disk is at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The archive.
    #[error("{archive}: {error}")]
    Container { archive: String, error: ContainerError },
    /// The image's user.
    #[error("{archive}: {error}")]
    User { archive: String, error: UserError },
    /// `crypt_root.qcow2`.
    #[error("crypt_root.qcow2: {0}")]
    Root(RootError),
    /// Another disk.
    #[error("{name}.qcow2: {error}")]
    Sidecar { name: &'static str, error: SidecarError },
}

impl ImageError {
    /// Whose fault it is: a wrong archive or a too small disk is an input.
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Container { .. } | Self::User { .. } | Self::Root(RootError::TooSmall { .. }) => Exit::Input,
            _ => Exit::Failed,
        }
    }
}

/// An archive that verified, with what a site config takes from it.
pub struct Image {
    container: Container,
    /// Its user, in numbers.
    pub user: User,
}

impl Image {
    /// Verifies and flattens an archive; decompressed layers go to unnamed files in `scratch`.
    ///
    /// # Errors
    /// [`BuildError::Image`].
    pub fn open(archive: &Path, scratch: &Path) -> Result<Self, BuildError> {
        let name = || archive.display().to_string();
        let fail = |error| ImageError::Container { archive: name(), error };
        let mut container = Container::open(archive, scratch).map_err(fail)?;
        let user = container.user(&container.config().user).map_err(|error| ImageError::User { archive: name(), error })?;
        container.ensure(&extra_paths(container.config())).map_err(fail)?;
        Ok(Self { container, user })
    }

    /// Entrypoint, command, environment, directory, stop signal, digest.
    pub fn config(&self) -> &ImageConfig {
        self.container.config()
    }
}

fn extra_paths(config: &ImageConfig) -> Vec<ExtraPath> {
    let workdir = (config.workdir != "/").then_some(config.workdir.as_str());
    let dirs = DIRECTORIES.into_iter().chain(workdir).map(|path| (path, ExtraKind::Directory, 0o755));
    let files = FILES.into_iter().map(|path| (path, ExtraKind::File, 0o644));
    dirs.chain(files).map(|(path, kind, mode)| ExtraPath { path: path.to_owned(), kind, mode }).collect()
}

/// Writes `crypt_root.qcow2` into `dir`.
///
/// # Errors
/// [`BuildError::Image`].
pub fn write_root(
    image: &Image,
    dir: &Path,
    plan: &Plan,
    secret: &RootSecret,
    uuid: &DiskUuid,
    kit: Option<&SealedKit>,
) -> Result<BuiltRoot, BuildError> {
    let request = RootRequest {
        container: &image.container,
        scratch: dir,
        out: &dir.join("crypt_root.qcow2"),
        virtual_size: plan.drives.root,
        secret,
        uuid,
        kit,
    };
    build_root(request).map_err(|error| ImageError::Root(error).into())
}

/// Writes the three clear disks into `dir`: logs, settings, data.
///
/// # Errors
/// [`BuildError::Image`], [`BuildError::Read`].
pub fn write_side_disks(dir: &Path, plan: &Plan) -> Result<(), BuildError> {
    let settings = dir.join("user_config.d");
    super::make_dir(&settings, 0o755)?;
    for folder in &plan.user_config {
        copy_tree(&folder.dir, &settings.join(&folder.name))?;
    }
    let disks = [
        ("applog", plan.drives.applog, None),
        ("user_config", plan.drives.user_config, Some(settings.as_path())),
        ("user_data", plan.drives.user_data, None),
    ];
    for (label, virtual_size, source) in disks {
        let uuid = side_uuid(plan, label);
        let out = dir.join(format!("{label}.qcow2"));
        let request = SidecarRequest { out: &out, scratch: dir, label, virtual_size, uuid: &uuid, source };
        build_sidecar(request).map_err(|error| ImageError::Sidecar { name: label, error })?;
    }
    std::fs::remove_dir_all(&settings).map_err(|source| BuildError::Write { path: settings, source })
}

/// A file system UUID that depends on the site's and the disk's names alone: the same contents give the same bytes.
fn side_uuid(plan: &Plan, label: &str) -> DiskUuid {
    let digest: [u8; 32] = Sha256::digest(format!("coffer/side-disk/v1 {} {label}", plan.site)).into();
    DiskUuid::from_random(std::array::from_fn(|i| digest[i]))
}

/// Directories and regular files; the plan has refused anything else.
fn copy_tree(from: &Path, to: &Path) -> Result<(), BuildError> {
    let fail = |source| BuildError::Read { path: from.to_owned(), source };
    super::make_dir(to, 0o755)?;
    for path in crate::plan::sorted(from).map_err(fail)? {
        let target = to.join(path.file_name().unwrap_or_default());
        if std::fs::symlink_metadata(&path).map_err(fail)?.is_dir() {
            copy_tree(&path, &target)?;
        } else {
            // Readable by the workload's user, whatever the admin's umask was.
            super::seal::copy(&path, &target)?;
        }
    }
    Ok(())
}
