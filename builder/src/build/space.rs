//! Is there room? Asked before anything is written.

use std::fs;
use std::path::{Path, PathBuf};

use coffer_image::container::Container;

use super::BuildError;
use super::base_dir::{self, BaseDir};
use super::root::ImageError;
use crate::plan::{MAX_KIT_BYTES, Plan};

/// Three ext4 file systems, headers and texts of one site, and their copies in the .tgz.
const FIXED_BYTES: u64 = 192 << 20;

/// Compares the free space at the destination with what the sites will need at the least favourable moment.
///
/// # Errors
/// [`BuildError::Space`] with both numbers.
pub fn check(out: &Path, base: &BaseDir, plans: &[Plan]) -> Result<(), BuildError> {
    let dir = existing_ancestor(out);
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| BuildError::Read { path, source }
    };
    let stat = rustix::fs::statvfs(&dir).map_err(std::io::Error::from).map_err(fail(&dir))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let mut of_base = 0;
    for name in base_dir::FILES {
        let path = base.dir.join(name);
        of_base += fs::metadata(&path).map_err(fail(&path))?.len();
    }
    let mut kept = 0;
    let mut temporary = 0;
    for plan in plans {
        let name = || plan.archive.display().to_string();
        let need = Container::space_needed(&plan.archive).map_err(|error| ImageError::Container { archive: name(), error })?;
        let settings = plan.user_config.iter().map(|folder| bytes_below(&folder.dir)).sum::<u64>();
        // Twice: the bundle's directory, and its archive, which does not compress.
        kept += FIXED_BYTES + 2 * (need.output + of_base + settings + if plan.kit.is_some() { MAX_KIT_BYTES } else { 0 });
        temporary = temporary.max(need.scratch);
    }
    let needed = kept + temporary;
    if free < needed { Err(BuildError::Space { dir, free, needed }) } else { Ok(()) }
}

fn existing_ancestor(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|dir| !dir.as_os_str().is_empty() && dir.exists());
    found.unwrap_or(Path::new(".")).to_owned()
}

/// Sizes of the regular files below a directory; what cannot be read counts nothing here and is reported when it is copied.
fn bytes_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => bytes_below(&entry.path()),
            Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |found| found.len()),
            _ => 0,
        })
        .sum()
}
