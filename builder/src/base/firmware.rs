//! Whether a file is a firmware image a base can use: whole, and built for SEV-SNP with measured kernel hashes.

use coffer_measure::{Firmware, HashTable, SectionKind};

use super::deb;
use super::error::BaseError;

/// Where Debian's package has it.
const PATH_IN_PACKAGE: &str = "usr/share/ovmf/OVMF.amdsev.fd";

/// A firmware volume's length and signature. Source: UEFI PI 1.8, volume 3, EFI_FIRMWARE_VOLUME_HEADER.
const FV_LENGTH: std::ops::Range<usize> = 0x20..0x28;
const FV_SIGNATURE: std::ops::Range<usize> = 0x28..0x2c;

/// The image out of a Debian package.
///
/// # Errors
/// [`BaseError::Deb`], or [`BaseError::NoFirmware`] if it is another package.
pub fn from_deb(name: &str, package: &[u8]) -> Result<Vec<u8>, BaseError> {
    let files = deb::files(package, |path| path == PATH_IN_PACKAGE).map_err(|error| BaseError::Deb { name: name.to_owned(), error })?;
    let file = files.into_iter().next().ok_or_else(|| BaseError::NoFirmware { name: name.to_owned(), path: PATH_IN_PACKAGE })?;
    Ok(file.data)
}

/// Reads a firmware image and requires everything a base needs of it.
///
/// # Errors
/// [`BaseError::FirmwareCut`] if its volumes do not add up to the file, [`BaseError::Firmware`] if its footer is not one
/// of SEV-SNP, [`BaseError::FirmwareHashes`] if it would boot a kernel it has not checked.
pub fn check(name: &str, image: &[u8]) -> Result<Firmware, BaseError> {
    let volumes = volume_bytes(image);
    if volumes != image.len() {
        return Err(BaseError::FirmwareCut { name: name.to_owned(), volumes, got: image.len() });
    }
    let firmware = Firmware::parse(image).map_err(|error| BaseError::Firmware { name: name.to_owned(), error })?;
    let room = firmware.hash_table_area().is_some_and(|area| area.size as usize >= HashTable::LEN);
    if !room || !firmware.sections().iter().any(|s| s.kind == SectionKind::KernelHashes) {
        return Err(BaseError::FirmwareHashes { name: name.to_owned() });
    }
    Ok(firmware)
}

/// How far the firmware volumes reach that follow each other from the start: all of a whole image.
fn volume_bytes(image: &[u8]) -> usize {
    let mut at = 0;
    while let Some(length) = volume_length(&image[at..]) {
        at += length;
    }
    at
}

/// The length of the volume that starts here, if it is whole.
fn volume_length(bytes: &[u8]) -> Option<usize> {
    let length = u64::from_le_bytes(bytes.get(FV_LENGTH)?.try_into().ok()?);
    let length = usize::try_from(length).ok()?;
    (bytes.get(FV_SIGNATURE)? == b"_FVH" && length >= FV_SIGNATURE.end && length <= bytes.len()).then_some(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn volume(length: usize) -> Vec<u8> {
        let mut volume = vec![0; length];
        volume[FV_LENGTH].copy_from_slice(&(length as u64).to_le_bytes());
        volume[FV_SIGNATURE].copy_from_slice(b"_FVH");
        volume
    }

    #[test]
    fn cut_and_foreign_files_are_refused_by_name() {
        let whole = [volume(0x2000), volume(0x3000)].concat();
        let error = |image: &[u8]| check("x.fd", image).unwrap_err().to_string();
        assert!(error(&whole).contains("x.fd") && error(&whole).contains("OVMF footer table"), "{}", error(&whole));
        assert!(error(&whole[..0x4000]).contains("volumes of 8192 bytes"), "{}", error(&whole[..0x4000]));
        assert!(error(&whole[0x1000..]).contains("volumes of 0 bytes"));
        assert!(error(b"").contains("0 bytes long"));
    }

    proptest! {
        #[test]
        fn never_panics(mut image in prop::collection::vec(any::<u8>(), 0..256), length: u64) {
            if image.len() >= FV_SIGNATURE.end {
                image[FV_LENGTH].copy_from_slice(&length.to_le_bytes());
                image[FV_SIGNATURE].copy_from_slice(b"_FVH");
            }
            let _ = check("x.fd", &image);
        }
    }
}
