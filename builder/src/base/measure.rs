//! `coffer base measure`: the launch digests of a base directory, computed again from its files.

use std::path::Path;

use coffer_manifest::{Base, BaseFile, LaunchShape, Sha256Digest};
use coffer_measure::HashTable;

use super::build::name;
use super::error::BaseError;
use super::shapes::{self, ShapeArgs, describe};
use super::{firmware, inputs};
use crate::ui::Ui;

/// Measures the shapes asked for, or all of base.json, prints them, and says whether base.json agrees.
///
/// # Errors
/// [`BaseError::Changed`] if a file is not what base.json says, [`BaseError::WrongDigest`] if a digest is not.
pub fn run(directory: &Path, asked: &ShapeArgs, ui: Ui) -> Result<(), BaseError> {
    let base = read(directory)?;
    let firmware_image = checked_file(directory, &base, name::FIRMWARE)?;
    let kernel = checked_file(directory, &base, name::KERNEL)?;
    let initrd = checked_file(directory, &base, name::INITRD)?;
    let firmware = firmware::check(name::FIRMWARE, &firmware_image.0)?;
    let table = HashTable::new(*kernel.1.as_bytes(), *initrd.1.as_bytes(), &base.cmdline);
    let wanted = if asked.is_empty() {
        base.launch_digests.iter().map(shapes::of_document).collect::<Result<Vec<_>, _>>()?
    } else {
        asked.requested()?
    };
    let mut unlisted = 0;
    for measured in shapes::measure_all(&firmware, &table, &wanted)? {
        let shape = describe(&measured);
        ui.result(format_args!("{shape} {}", measured.digest));
        match base.launch_digests.iter().find(|said| same_shape(said, &measured)) {
            Some(said) if said.digest != measured.digest => {
                let (said, measured) = (said.digest.to_string(), measured.digest.to_string());
                return Err(BaseError::WrongDigest { shape, said, measured });
            }
            Some(_) => {}
            None => unlisted += 1,
        }
    }
    match (unlisted, wanted.len() - unlisted) {
        (0, _) => ui.say("base.json agrees"),
        (_, 0) => ui.say("base.json lists none of these shapes: enroll them only after a build that does"),
        (_, listed) => ui.say(format_args!("base.json lists {listed} of these {} shapes, and agrees on them", wanted.len())),
    }
    Ok(())
}

fn same_shape(a: &LaunchShape, b: &LaunchShape) -> bool {
    (a.cpu_model.as_str(), a.vcpus, a.guest_features) == (b.cpu_model.as_str(), b.vcpus, b.guest_features)
}

fn read(directory: &Path) -> Result<Base, BaseError> {
    let path = directory.join(name::DOCUMENT);
    let base: Base = coffer_manifest::decode(&inputs::read(&path)?.data).map_err(|error| BaseError::Document { path, error })?;
    if base.vmm == "qemu" { Ok(base) } else { Err(BaseError::Vmm { got: base.vmm }) }
}

/// A file of the base with its digest, which is what base.json says.
fn checked_file(directory: &Path, base: &Base, name: &str) -> Result<(Vec<u8>, Sha256Digest), BaseError> {
    let path = directory.join(name);
    let data = inputs::read(&path)?.data;
    let found = BaseFile { size: data.len() as u64, sha256: Sha256Digest::of(&data) };
    match base.files.get(name) {
        Some(said) if *said == found => Ok((data, found.sha256)),
        Some(said) => Err(BaseError::Changed { path, got: found.sha256, got_size: found.size, expected: said.sha256, size: said.size }),
        None => Err(BaseError::Unlisted { path: directory.join(super::build::name::DOCUMENT), name: name.to_owned() }),
    }
}
