//! `manifest.json`: what lies in a bundle.

use serde::{Deserialize, Serialize};

use coffer_evidence::HostData;

use crate::canonical::document_type;
use crate::names::{ProjectName, Sha256Digest, SiteName};

document_type!(BundleType, "coffer/bundle/v1");

/// The list of a bundle's files. Its own name is not in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Always `coffer/bundle/v1`.
    #[serde(rename = "type")]
    pub kind: BundleType,
    /// Project.
    pub project: ProjectName,
    /// Site.
    pub site: SiteName,
    /// SHA-256 of `site.json`; its first 12 digits name the directory.
    pub host_data: HostData,
    /// Sorted by path.
    pub files: Vec<BundleFile>,
}

/// One file of a bundle.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleFile {
    /// Relative to the bundle's directory.
    pub path: String,
    /// What must hold of it.
    pub content: Content,
}

/// What must hold of a file of a bundle.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Content {
    /// Never changes.
    Fixed {
        /// Bytes.
        size: u64,
        /// SHA-256 of the file.
        sha256: Sha256Digest,
    },
    /// The site or the workload writes it: only its format and its size as a disk are checked.
    Mutable {
        /// `qcow2`.
        format: String,
        /// Size of the disk it holds, in bytes.
        virtual_size: u64,
    },
}
