//! Checks of single values.

use std::path::PathBuf;

use serde_saphyr::Spanned;

use crate::fault::{Fault, SpecError};
use crate::spec::Source;

/// Drive sizes are given in these.
pub const GIB: u64 = 1 << 30;

/// A whole number within bounds, both included.
pub fn in_range(
    source: &Source,
    given: &Spanned<u64>,
    field: &str,
    (least, most): (u64, u64),
    unit: &'static str,
) -> Result<u64, SpecError> {
    if (least..=most).contains(&given.value) {
        return Ok(given.value);
    }
    Err(source.refuse(given, field, Fault::OutOfRange { got: given.value, least, most, unit }))
}

/// One of a few words.
pub fn one_of<T: Copy>(
    source: &Source,
    given: &Spanned<String>,
    field: &str,
    known: &[(&str, T)],
    expected: &'static str,
) -> Result<T, SpecError> {
    let found = known.iter().find(|(word, _)| *word == given.value);
    found.map(|(_, value)| *value).ok_or_else(|| source.refuse(given, field, Fault::NotOneOf { got: given.value.clone(), expected }))
}

/// A path that is a regular file, links followed.
pub fn regular_file(source: &Source, given: &Spanned<String>, field: &str) -> Result<PathBuf, SpecError> {
    let path = source.path(given, field)?;
    match std::fs::metadata(&path) {
        Ok(found) if found.is_file() => Ok(path),
        Ok(_) => Err(source.refuse(given, field, Fault::NotAFile { path })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(source.refuse(given, field, Fault::NoFile { path })),
        Err(error) => Err(source.refuse(given, field, Fault::Walk { path, error: error.to_string() })),
    }
}

/// RFC 1123: labels of 1 to 63 letters, digits and `-`, not at an edge; 253 characters at most.
pub fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}
