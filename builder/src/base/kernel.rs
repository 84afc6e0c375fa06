//! What a Debian kernel package holds: the image, its configuration, its modules.

use std::collections::{BTreeMap, BTreeSet};

use super::deb::{self, DebFile};
use super::error::BaseError;

/// A kernel package, read.
pub struct Kernel {
    /// As `uname -r` says, for example `6.12.117+deb13-cloud-amd64`.
    pub release: String,
    /// The bzImage.
    pub vmlinuz: Vec<u8>,
    config: String,
    /// Module files by module name.
    modules: BTreeMap<ModuleName, DebFile>,
    builtin: BTreeSet<ModuleName>,
}

/// A module's name, with `_` for every `-`: the kernel treats the two as one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ModuleName(String);

impl ModuleName {
    /// From a name as people and file names write it.
    pub fn new(name: &str) -> Self {
        Self(name.replace('-', "_"))
    }

    /// With underscores.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// From a path such as `kernel/drivers/md/dm-mod.ko.xz`.
    fn of_file(path: &str) -> Option<Self> {
        let file = path.rsplit('/').next()?;
        let (stem, compression) = file.split_once(".ko")?;
        matches!(compression, "" | ".xz" | ".zst").then(|| Self::new(stem))
    }
}

impl Kernel {
    /// Reads a kernel image package.
    ///
    /// # Errors
    /// [`BaseError::Deb`] if it is no Debian package, [`BaseError::KernelPackage`] if it is not one kernel's.
    pub fn from_deb(name: &str, package: &[u8]) -> Result<Self, BaseError> {
        let refuse = |why| BaseError::KernelPackage { name: name.to_owned(), why };
        let files = deb::files(package, |path| path.starts_with("boot/") || module_path(path).is_some())
            .map_err(|error| BaseError::Deb { name: name.to_owned(), error })?;
        let (mut vmlinuz, mut config) = (BTreeMap::new(), BTreeMap::new());
        let (mut modules, mut builtin) = (BTreeMap::new(), BTreeMap::new());
        for file in files {
            if let Some(release) = file.path.strip_prefix("boot/vmlinuz-") {
                vmlinuz.insert(release.to_owned(), file.data);
            } else if let Some(release) = file.path.strip_prefix("boot/config-") {
                config.insert(release.to_owned(), String::from_utf8_lossy(&file.data).into_owned());
            } else if let Some((release, path)) = module_path(&file.path) {
                if path == "modules.builtin" {
                    let names = String::from_utf8_lossy(&file.data).lines().filter_map(ModuleName::of_file).collect();
                    builtin.insert(release.to_owned(), names);
                } else if let Some(name) = ModuleName::of_file(path) {
                    modules.insert(name, file);
                }
            }
        }
        let (release, vmlinuz) = vmlinuz.pop_first().ok_or(refuse("it has no boot/vmlinuz-*"))?;
        // Linux Documentation/arch/x86/boot.rst: "HdrS" at 0x202 of a bzImage.
        if vmlinuz.get(0x202..0x206) != Some(b"HdrS") {
            return Err(refuse("its vmlinuz is not an x86 bzImage"));
        }
        let config = config.remove(&release).ok_or(refuse("it has no boot/config-* for its vmlinuz"))?;
        let builtin = builtin.remove(&release).ok_or(refuse("it has no modules.builtin for its vmlinuz"))?;
        Ok(Self { release, vmlinuz, config, modules, builtin })
    }

    /// True if the configuration has `CONFIG_<option>` built in or as a module.
    pub fn has_option(&self, option: &str) -> bool {
        let key = format!("CONFIG_{option}=");
        self.config.lines().any(|line| line.strip_prefix(&key).is_some_and(|value| value == "y" || value == "m"))
    }

    /// True if the module is part of the image.
    pub fn is_builtin(&self, name: &ModuleName) -> bool {
        self.builtin.contains(name)
    }

    /// The module's file, decompressed.
    ///
    /// # Errors
    /// [`BaseError::Decompress`].
    pub fn module(&self, name: &ModuleName) -> Option<Result<Vec<u8>, BaseError>> {
        self.modules.get(name).map(|file| deb::decompress(&file.path, &file.data))
    }
}

/// Splits `[usr/]lib/modules/<release>/<path>`.
fn module_path(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix("usr/").unwrap_or(path).strip_prefix("lib/modules/")?.split_once('/')
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A kernel of made-up modules: name and whole file.
    pub fn kernel(modules: &[(&str, Vec<u8>)], builtin: &[&str], config: &str) -> Kernel {
        let file = |name: &str, data: &Vec<u8>| DebFile { path: format!("usr/lib/modules/1/kernel/{name}.ko"), data: data.clone() };
        Kernel {
            release: "1".into(),
            vmlinuz: Vec::new(),
            config: config.into(),
            modules: modules.iter().map(|(name, data)| (ModuleName::new(name), file(name, data))).collect(),
            builtin: builtin.iter().map(|name| ModuleName::new(name)).collect(),
        }
    }

    #[test]
    fn module_names_come_from_file_names() {
        let name = |path: &str| ModuleName::of_file(path).map(|n| n.as_str().to_owned());
        assert_eq!(name("kernel/drivers/md/dm-mod.ko.xz").as_deref(), Some("dm_mod"));
        assert_eq!(name("virtio_net.ko").as_deref(), Some("virtio_net"));
        assert_eq!(name("kernel/x.ko.gz"), None);
        assert_eq!(name("modules.order"), None);
        assert_eq!(module_path("usr/lib/modules/6.12/kernel/a.ko"), Some(("6.12", "kernel/a.ko")));
        assert_eq!(module_path("lib/modules/6.1/modules.builtin"), Some(("6.1", "modules.builtin")));
        assert_eq!(module_path("lib/firmware/x"), None);
    }

    #[test]
    fn options_are_whole_lines() {
        let kernel = kernel(&[], &[], "# CONFIG_SEV_GUEST is not set\nCONFIG_SEV_GUEST_X=y\nCONFIG_A=m\nCONFIG_B=n\n");
        assert!(!kernel.has_option("SEV_GUEST"));
        assert!(kernel.has_option("A") && !kernel.has_option("B"));
    }

    #[test]
    fn other_packages_are_refused() {
        let error = Kernel::from_deb("x.deb", b"!<arch>\n").err().unwrap().to_string();
        assert!(error.contains("x.deb") && error.contains("no data.tar"), "{error}");
    }
}
