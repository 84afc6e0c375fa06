//! Which modules a guest needs, in the order in which PID 1 loads them.

use coffer_manifest::BaseRoot;

use super::elf::{Elf, modinfo};
use super::error::BaseError;
use super::kernel::{Kernel, ModuleName};

/// A module of the initrd.
pub struct Module {
    /// With underscores, as `/proc/modules` says.
    pub name: ModuleName,
    /// The signed file, decompressed.
    pub data: Vec<u8>,
}

/// What the guest's boot uses. Dependencies are added before each; built-in ones are skipped.
const WANTED: [&str; 17] = [
    "virtio_blk",
    "dm_mod",
    "dm_crypt",
    "dm_verity",
    "squashfs",
    "overlay",
    // xts(aes) of dm-crypt and SHA-256 of dm-verity: PID 1 has no modprobe for the kernel to call.
    "xts",
    "aesni_intel",
    "sha256_ssse3",
    "virtio_net",
    "configfs",
    "qemu_fw_cfg",
    // The power button: an orderly stop comes as an ACPI event.
    "button",
    "evdev",
    "virtio_pci",
    "virtio_console",
    "ext4",
];

/// What asks the AMD secure processor for reports. A kernel without them still makes a simulated base.
const WANTED_FOR_REPORTS: [&str; 2] = ["tsm", "sev_guest"];

/// The modules for a base with this root of trust, dependencies first.
///
/// # Errors
/// [`BaseError::NoModule`] if the kernel lacks one, [`BaseError::ModuleFile`] for a file that is no module,
/// [`BaseError::ModuleCycle`] if two need each other.
pub fn load_order(kernel: &Kernel, root: BaseRoot) -> Result<Vec<Module>, BaseError> {
    let mut order = Order { kernel, loaded: Vec::new(), loading: Vec::new() };
    for name in WANTED {
        order.load(&ModuleName::new(name), None)?;
    }
    for name in WANTED_FOR_REPORTS {
        let name = ModuleName::new(name);
        let absent = kernel.module(&name).is_none() && !kernel.is_builtin(&name);
        if !(absent && root == BaseRoot::Simulated) {
            order.load(&name, None)?;
        }
    }
    Ok(order.loaded)
}

struct Order<'a> {
    kernel: &'a Kernel,
    loaded: Vec<Module>,
    loading: Vec<ModuleName>,
}

impl Order<'_> {
    fn load(&mut self, name: &ModuleName, needed_by: Option<&ModuleName>) -> Result<(), BaseError> {
        if self.kernel.is_builtin(name) || self.loaded.iter().any(|m| m.name == *name) {
            return Ok(());
        }
        if self.loading.contains(name) {
            return Err(BaseError::ModuleCycle { module: name.as_str().to_owned() });
        }
        let data = self.kernel.module(name).ok_or_else(|| BaseError::NoModule {
            module: name.as_str().to_owned(),
            needed_by: needed_by.map(|n| n.as_str().to_owned()),
            release: self.kernel.release.clone(),
        })??;
        self.loading.push(name.clone());
        for dependency in dependencies(name, &data, self.kernel)? {
            self.load(&dependency, Some(name))?;
        }
        self.loading.pop();
        self.loaded.push(Module { name: name.clone(), data });
        Ok(())
    }
}

/// What a module says it needs: `depends=a,b`, and those of `softdep=pre: c` that exist.
///
/// Kernel packages carry no `modules.dep`: depmod makes it, where it is installed, from these same texts.
fn dependencies(name: &ModuleName, data: &[u8], kernel: &Kernel) -> Result<Vec<ModuleName>, BaseError> {
    let refuse = || BaseError::ModuleFile { module: name.as_str().to_owned() };
    let info = Elf::parse(data).and_then(|elf| elf.section(".modinfo")).ok_or_else(refuse)?;
    let hard = modinfo(info, "depends").flat_map(|list| list.split(',')).filter(|n| !n.is_empty()).map(ModuleName::new);
    let soft = modinfo(info, "softdep").flat_map(soft_before).filter(|n| kernel.module(n).is_some());
    Ok(hard.chain(soft).collect())
}

/// The modules between `pre:` and the next keyword (modprobe.d(5)).
fn soft_before(text: &str) -> impl Iterator<Item = ModuleName> {
    let words = text.split_whitespace().skip_while(|word| *word != "pre:").skip(1);
    words.take_while(|word| !word.ends_with(':')).map(ModuleName::new)
}

#[cfg(test)]
mod tests {
    use super::super::kernel::tests::kernel;
    use super::*;

    /// A smallest ELF file: header, `.modinfo`, section names, three section headers.
    fn module(info: &str) -> Vec<u8> {
        let names = b"\0.modinfo\0";
        let (info_at, names_at) = (64, 64 + info.len());
        let table = names_at + names.len();
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 62;
        elf[40..48].copy_from_slice(&(table as u64).to_le_bytes());
        elf[58..64].copy_from_slice(&[64, 0, 2, 0, 1, 0]);
        elf.extend(info.bytes().chain(*names));
        for (name, at, size) in [(1_u32, info_at, info.len()), (0, names_at, names.len())] {
            let mut header = vec![0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            elf.extend(header);
        }
        elf
    }

    /// Modules with nothing to depend on, except as `special` says.
    fn with(special: &[(&str, &str)], builtin: &[&str]) -> Kernel {
        let plain = WANTED.iter().chain(&WANTED_FOR_REPORTS).filter(|n| special.iter().all(|s| s.0 != **n));
        let plain = plain.map(|name| (*name, module("depends=\0")));
        let modules: Vec<_> = plain.chain(special.iter().map(|(name, info)| (*name, module(info)))).collect();
        kernel(&modules, builtin, "")
    }

    fn names(kernel: &Kernel) -> Vec<String> {
        let order = load_order(kernel, BaseRoot::AmdSevSnp).unwrap();
        order.into_iter().map(|m| m.name.as_str().to_owned()).collect()
    }

    #[test]
    fn dependencies_go_first_and_once() {
        let kernel = with(
            &[
                ("dm_verity", "depends=dm-mod,dm-bufio\0"),
                ("dm_bufio", "depends=dm-mod\0"),
                ("xts", "name=xts\0depends=\0softdep=pre: gf128mul ecb post: x\0"),
                ("gf128mul", ""),
            ],
            &["ext4", "ecb"],
        );
        let names = names(&kernel);
        let at = |name: &str| names.iter().position(|n| n == name).unwrap();
        assert!(at("dm_mod") < at("dm_bufio") && at("dm_bufio") < at("dm_verity"));
        assert!(at("gf128mul") < at("xts"));
        assert_eq!(names.iter().filter(|n| *n == "dm_mod").count(), 1);
        assert!(!names.contains(&"ext4".to_owned()) && !names.contains(&"ecb".to_owned()));
    }

    #[test]
    fn what_is_missing_is_named_with_who_needs_it() {
        let error = |special| load_order(&with(special, &[]), BaseRoot::AmdSevSnp).err().unwrap().to_string();
        assert!(error(&[("dm_crypt", "depends=nosuch\0")]).contains("`nosuch`, which `dm_crypt` needs"));
        assert!(error(&[("dm_crypt", "depends=dm_verity\0"), ("dm_verity", "depends=dm_crypt\0")]).contains("needs itself"));
        let mut broken = with(&[], &[]);
        broken = kernel(&[("virtio_blk", b"not ELF".to_vec())], &[], &broken.release);
        assert!(load_order(&broken, BaseRoot::AmdSevSnp).err().unwrap().to_string().contains("`virtio_blk` is not"));
    }

    #[test]
    fn only_a_simulated_base_does_without_reports() {
        let modules: Vec<_> = WANTED.iter().map(|name| (*name, module("depends=\0"))).collect();
        let kernel = kernel(&modules, &[], "");
        assert!(load_order(&kernel, BaseRoot::Simulated).is_ok());
        assert!(load_order(&kernel, BaseRoot::AmdSevSnp).err().unwrap().to_string().contains("`tsm`"));
    }
}
