//! The initial root: PID 1, its modules in load order, and mount points. No per-site data, nothing of this machine.

use coffer_image::cpio::CpioWriter;

use super::elf::Elf;
use super::error::BaseError;
use super::modules::Module;

/// zstd's level: 19 costs two seconds and needs an 8 MiB window, far below the kernel's limit of 128 MiB.
const ZSTD_LEVEL: i32 = 19;

/// Builds `initrd.img`: newc cpio, zstd.
///
/// # Errors
/// [`BaseError::Init`] if `init` cannot be a PID 1, [`BaseError::Initrd`] if the archive cannot be written.
pub fn build(init_name: &str, init: &[u8], modules: &[Module]) -> Result<Vec<u8>, BaseError> {
    let refuse = |why| BaseError::Init { name: init_name.to_owned(), why };
    let elf = Elf::parse(init).ok_or(refuse("it is not an x86-64 program"))?;
    if !elf.is_static() {
        return Err(refuse("it is not statically linked, and an initrd has no libraries"));
    }
    let mut cpio = CpioWriter::new(Vec::new());
    for directory in ["dev", "modules", "proc", "run", "sys"] {
        cpio.directory(directory, 0o755)?;
    }
    cpio.character_device("dev/console", 0o600, 5, 1)?;
    cpio.file("init", 0o755, init)?;
    for (path, module) in module_paths(modules).zip(modules) {
        cpio.file(&path, 0o644, &module.data)?;
    }
    let archive = cpio.finish()?;
    zstd::bulk::compress(&archive, ZSTD_LEVEL).map_err(BaseError::Compress)
}

/// `modules/NN-name.ko`: PID 1 loads them in name order, and says which one failed.
fn module_paths(modules: &[Module]) -> impl Iterator<Item = String> {
    modules.iter().enumerate().map(|(i, module)| format!("modules/{i:02}-{}.ko", module.name.as_str()))
}
