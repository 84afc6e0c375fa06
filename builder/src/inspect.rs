//! `coffer inspect`: what a bundle would run, and whether its files are the ones that were built.

mod contents;
mod id_blocks;
mod report;

use std::path::{Path, PathBuf};

use coffer_manifest::{Base, BaseRoot, Bundle, BundleFile, Content, DocumentError, RootOfTrust, SiteConfig, decode};

use crate::failure::{Exit, Failure, Hint};
use crate::ui::Ui;
use contents::{Contents, Found};
use id_blocks::IdBlocks;
use report::Report;

/// A bundle cannot be inspected, or is not whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// Neither a directory nor an archive that can be read.
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// An archive that no builder wrote.
    #[error("{} is not a bundle: it holds `{entry}`", path.display())]
    Entry { path: PathBuf, entry: String },
    /// A document every bundle has is missing.
    #[error("{} is not a bundle: it has no {name}", path.display())]
    Missing { path: PathBuf, name: &'static str },
    /// A document does not parse.
    #[error("{}: {name}", path.display())]
    Document { path: PathBuf, name: &'static str, source: DocumentError },
    /// Files differ from what the manifest says.
    #[error("{} is not as it was built: {}", path.display(), problems.join("; "))]
    Changed { path: PathBuf, problems: Vec<String> },
}

impl Hint for InspectError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Missing { .. } | Self::Entry { .. } => {
                "give the directory `cvm_<id>` or the `<site>.tgz` that `coffer build` wrote".to_owned()
            }
            Self::Changed { .. } => "unpack the .tgz again; if it comes from there, ask for it again".to_owned(),
            _ => return None,
        })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Read { .. } => Exit::Failed,
            _ => Exit::Input,
        }
    }
}

/// Prints the report, then fails if anything was wrong.
///
/// # Errors
/// See [`InspectError`].
pub fn run(ui: Ui, path: &Path, json: bool) -> Result<(), Failure> {
    let contents = Contents::read(path)?;
    let manifest: Bundle = document(path, &contents, "manifest.json")?;
    let site: SiteConfig = document(path, &contents, "site.json")?;
    let base: Base = document(path, &contents, "base.json")?;
    let mut problems = problems(&contents, &manifest, &site, &base);
    let id_blocks = IdBlocks::read(&contents, &site, &base, &mut problems);
    let report = Report::new(&manifest, &site, &base, id_blocks.as_ref(), &problems);
    if json {
        ui.result(report.json().map_err(|error| Failure::failed(&error))?);
    } else {
        ui.raw(report.text().as_bytes());
    }
    if problems.is_empty() { Ok(()) } else { Err(InspectError::Changed { path: path.to_owned(), problems }.into()) }
}

fn document<T: serde::Serialize + serde::de::DeserializeOwned>(
    path: &Path,
    contents: &Contents,
    name: &'static str,
) -> Result<T, InspectError> {
    let found = contents.files.get(name).ok_or_else(|| InspectError::Missing { path: path.to_owned(), name })?;
    decode(&found.head).map_err(|source| InspectError::Document { path: path.to_owned(), name, source })
}

/// Everything that does not fit together, a line each.
fn problems(contents: &Contents, manifest: &Bundle, site: &SiteConfig, base: &Base) -> Vec<String> {
    let mut lines = Vec::new();
    let mut expect = |ok: bool, line: String| {
        if !ok {
            lines.push(line);
        }
    };
    let host_data = contents.files.get("site.json").map(|found| SiteConfig::host_data(&found.head));
    let host_data = host_data.unwrap_or(manifest.host_data);
    expect(manifest.host_data == host_data, format!("site.json has SHA-256 {host_data}, manifest.json says {}", manifest.host_data));
    let name = format!("cvm_{}", &host_data.to_string()[..12]);
    expect(contents.name == name, format!("the directory is named {:?}, its HOST_DATA says {name}: rename it", contents.name));
    expect(
        (&manifest.project, &manifest.site) == (&site.project, &site.site),
        format!("manifest.json is of {}/{}, site.json of {}/{}", manifest.project, manifest.site, site.project, site.site),
    );
    let simulated = matches!(site.root_of_trust, RootOfTrust::Simulated(_));
    expect(
        simulated == (base.root == BaseRoot::Simulated),
        format!("site.json has root of trust {}, the base is made for {:?}", site.root_of_trust, base.root),
    );
    for file in &manifest.files {
        match contents.files.get(&file.path) {
            None => expect(false, format!("{:?} is missing", file.path)),
            Some(found) => {
                if let Err(line) = holds(file, found) {
                    expect(false, line);
                }
            }
        }
    }
    for (name, measured) in &base.files {
        let is = contents.files.get(name).map(|found| found.sha256);
        expect(is == Some(measured.sha256), format!("{name:?} is not the file base.json measured"));
    }
    for name in contents.files.keys().filter(|name| *name != "manifest.json") {
        expect(manifest.files.iter().any(|file| file.path == *name), format!("{name:?} is not in manifest.json"));
    }
    lines
}

fn holds(file: &BundleFile, found: &Found) -> Result<(), String> {
    let name = &file.path;
    match &file.content {
        Content::Fixed { size, .. } if *size != found.size => {
            Err(format!("{name:?} is {} bytes long, manifest.json says {size}", found.size))
        }
        Content::Fixed { sha256, .. } if *sha256 != found.sha256 => {
            Err(format!("{name:?} has SHA-256 {}, manifest.json says {sha256}", found.sha256))
        }
        Content::Fixed { .. } => Ok(()),
        Content::Mutable { virtual_size, .. } => match qcow2_size(&found.head) {
            Some(size) if size == *virtual_size => Ok(()),
            Some(size) => Err(format!("{name:?} holds a disk of {size} bytes, manifest.json says {virtual_size}")),
            None => Err(format!("{name:?} is not a qcow2 disk")),
        },
    }
}

/// Virtual size in a qcow2 header: magic `QFI\xfb` at 0, size big-endian at 24 (QEMU docs/interop/qcow2.rst).
fn qcow2_size(head: &[u8]) -> Option<u64> {
    let size = head.get(24..32)?.try_into().ok()?;
    head.starts_with(b"QFI\xfb").then(|| u64::from_be_bytes(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qcow2_headers() {
        let mut head = b"QFI\xfb".to_vec();
        head.resize(24, 0);
        assert_eq!(qcow2_size(&head), None);
        head.extend(5_u64.to_be_bytes());
        assert_eq!(qcow2_size(&head), Some(5));
        head[0] = b'q';
        assert_eq!(qcow2_size(&head), None);
    }
}
