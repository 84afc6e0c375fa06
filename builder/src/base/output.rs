//! Puts a directory in place in one step: written beside, then renamed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::error::BaseError;

/// Makes `directory` hold exactly `files`. A directory of the same files, or an empty one, is replaced.
///
/// # Errors
/// [`BaseError::OutputTaken`] if it holds anything else, [`BaseError::OutputName`], [`BaseError::File`]. After an error
/// `directory` is as it was.
pub fn replace(directory: &Path, files: &BTreeMap<&'static str, Vec<u8>>) -> Result<(), BaseError> {
    let place = Place::new(directory)?;
    let old = place.existing(files)?;
    let partial = Partial(place.beside("partial"));
    partial.write(files)?;
    if !old {
        return rename(&partial.0, &place.path);
    }
    let aside = Partial(place.beside("old"));
    rename(&place.path, &aside.0)?;
    rename(&partial.0, &place.path).inspect_err(|_| drop(fs::rename(&aside.0, &place.path)))
}

/// A directory that is, or will be, somewhere.
struct Place {
    path: PathBuf,
    parent: PathBuf,
    name: String,
}

impl Place {
    fn new(directory: &Path) -> Result<Self, BaseError> {
        let refuse = || BaseError::OutputName { path: directory.to_owned() };
        let name = directory.file_name().and_then(|n| n.to_str()).ok_or_else(refuse)?.to_owned();
        let parent = match directory.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        fs::create_dir_all(&parent).map_err(|error| BaseError::File { action: "create", path: parent.clone(), error })?;
        Ok(Self { path: parent.join(&name), parent, name })
    }

    fn beside(&self, what: &str) -> PathBuf {
        self.parent.join(format!(".{}.{what}-{}", self.name, std::process::id()))
    }

    /// True if there is a directory that may be replaced.
    fn existing(&self, files: &BTreeMap<&'static str, Vec<u8>>) -> Result<bool, BaseError> {
        let read = |error| BaseError::File { action: "read", path: self.path.clone(), error };
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(read(error)),
        };
        for entry in entries {
            let found = entry.map_err(read)?.file_name().to_string_lossy().into_owned();
            if !files.contains_key(found.as_str()) {
                return Err(BaseError::OutputTaken { path: self.path.clone(), found });
            }
        }
        Ok(true)
    }
}

/// A directory that goes away unless it was renamed.
struct Partial(PathBuf);

impl Partial {
    fn write(&self, files: &BTreeMap<&'static str, Vec<u8>>) -> Result<(), BaseError> {
        fs::create_dir(&self.0).map_err(|error| BaseError::File { action: "create", path: self.0.clone(), error })?;
        for (name, data) in files {
            let path = self.0.join(name);
            let write = || {
                let mut file = File::create_new(&path)?;
                file.write_all(data)?;
                file.sync_all()
            };
            write().map_err(|error| BaseError::File { action: "write", path: path.clone(), error })?;
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), BaseError> {
    fs::rename(from, to).map_err(|error| BaseError::File { action: "create", path: to.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn files(text: &str) -> BTreeMap<&'static str, Vec<u8>> {
        BTreeMap::from([("a", text.into()), ("b", b"2".to_vec())])
    }

    #[test]
    fn a_directory_appears_whole_and_is_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().join("deep/base");
        replace(&base, &files("1")).unwrap();
        assert_eq!(names(&base), ["a", "b"]);
        replace(&base, &files("3")).unwrap();
        assert_eq!(fs::read(base.join("a")).unwrap(), b"3");
        assert_eq!(names(&root.path().join("deep")), ["base"]);
    }

    #[test]
    fn what_is_not_a_base_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().join("base");
        fs::create_dir(&base).unwrap();
        fs::write(base.join("thesis.tex"), "mine").unwrap();
        let error = replace(&base, &files("1")).unwrap_err().to_string();
        assert!(error.contains("holds `thesis.tex`"), "{error}");
        assert_eq!(names(root.path()), ["base"]);
        assert_eq!(names(&base), ["thesis.tex"]);
        assert!(matches!(replace(Path::new("/"), &files("1")), Err(BaseError::OutputName { .. })));
    }
}
