//! `chip_ids:` and `tcb_floor:`: which machines a site may run on.

use coffer_manifest::{ChipId, TcbVersion};
use serde_saphyr::Spanned;

use super::values::in_range;
use crate::fault::{Fault, SpecError};
use crate::spec::{Source, TcbSpec};

/// Machines of one site: keeps the enrollment far below its 64 KiB.
const MAX_CHIPS: usize = 64;

/// CHIP_IDs of reports, each once.
pub fn chip_ids(source: &Source, given: Option<&Spanned<Vec<Spanned<String>>>>) -> Result<Vec<ChipId>, SpecError> {
    let Some(given) = given else { return Ok(Vec::new()) };
    if given.value.is_empty() {
        return Err(source.refuse(given, "chip_ids", Fault::Empty));
    }
    if let Some(extra) = given.value.get(MAX_CHIPS) {
        return Err(source.refuse(extra, "chip_ids", Fault::TooMany { got: given.value.len(), most: MAX_CHIPS }));
    }
    let mut chips = Vec::new();
    for (i, text) in given.value.iter().enumerate() {
        let field = format!("chip_ids[{i}]");
        let Ok(chip) = text.value.parse::<ChipId>() else {
            return Err(source.refuse(text, field, Fault::ChipId { got: text.value.chars().take(140).collect() }));
        };
        if chip.as_bytes().iter().all(|byte| *byte == 0) {
            return Err(source.refuse(text, field, Fault::ChipHidden));
        }
        if chips.contains(&chip) {
            return Err(source.refuse(text, field, Fault::ChipTwice));
        }
        chips.push(chip);
    }
    chips.sort_unstable();
    Ok(chips)
}

/// One byte each.
pub fn tcb_floor(source: &Source, given: Option<&TcbSpec>) -> Result<Option<TcbVersion>, SpecError> {
    let Some(given) = given else { return Ok(None) };
    let level = |value: &Spanned<u64>, name: &str| {
        let level = in_range(source, value, &format!("tcb_floor.{name}"), (0, u64::from(u8::MAX)), "")?;
        Ok(u8::try_from(level).unwrap_or(u8::MAX))
    };
    Ok(Some(TcbVersion {
        fmc: given.fmc.as_ref().map(|value| level(value, "fmc")).transpose()?,
        bootloader: level(&given.bootloader, "bootloader")?,
        tee: level(&given.tee, "tee")?,
        snp: level(&given.snp, "snp")?,
        microcode: level(&given.microcode, "microcode")?,
    }))
}
