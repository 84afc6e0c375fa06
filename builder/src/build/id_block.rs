//! The ID blocks of a bundle: for each launch digest of its base what the secure processor is to insist on, signed.

use std::path::Path;

use coffer_manifest::{LaunchDigest, ProjectName, Sha256Digest};
use coffer_measure::{GuestPolicy, IdAuth, IdBlock, IdPrivateKey, KeyDigest};

use super::base_dir::BaseDir;
use super::script::POLICY;
use super::{BuildError, write_file};
use crate::plan::Project;

/// Digits of a launch digest in the names of its files. 64 bits tell the few hundred of a base apart, and a name decides nothing:
/// firmware compares the whole digest.
const NAME_DIGITS: usize = 16;
/// What FAMILY_ID is derived from, before the project's name.
const FAMILY_INFO: &str = "coffer/family-id/v1/";

/// The keys that sign a project's ID blocks.
#[derive(Debug)]
pub struct IdSigner {
    author_key: IdPrivateKey,
    id_key: IdPrivateKey,
}

impl IdSigner {
    /// Derives the project's ID key.
    ///
    /// # Errors
    /// As [`IdPrivateKey::id_key_of`].
    pub fn new(author_key: IdPrivateKey, project: &ProjectName) -> Result<Self, coffer_measure::IdKeyError> {
        Ok(Self { id_key: author_key.id_key_of(project.as_str())?, author_key })
    }

    /// What an enrollment names it by.
    pub fn author_key_digest(&self) -> KeyDigest {
        self.author_key.public().digest()
    }
}

/// The names of a launch digest's two files: the ID block, and its authentication.
pub fn names(digest: &LaunchDigest) -> [String; 2] {
    let stem = stem(digest);
    [format!("{stem}.block"), format!("{stem}.auth")]
}

/// What both names begin with.
pub fn stem(digest: &LaunchDigest) -> String {
    format!("id_{}", &digest.to_string()[..NAME_DIGITS])
}

/// The ID block of one launch digest of a base, for a project.
///
/// FAMILY_ID names the project, IMAGE_ID the base (the same for all its launch digests), GUEST_SVN is the base's own counter: what
/// is signed here is what boots, not what a site config says, which has a counter of its own.
pub fn block(digest: &LaunchDigest, project: &ProjectName, base_json: &[u8], base_svn: u32) -> IdBlock {
    let half = |digest: Sha256Digest| core::array::from_fn(|i| digest.as_bytes()[i]);
    IdBlock {
        launch_digest: *digest,
        family_id: half(Sha256Digest::of(format!("{FAMILY_INFO}{project}").as_bytes())),
        image_id: half(Sha256Digest::of(base_json)),
        guest_svn: base_svn,
        policy: GuestPolicy(POLICY),
    }
}

/// Writes the files into a bundle, and gives their names; none without an author key.
///
/// # Errors
/// [`BuildError::Write`].
pub fn write(dir: &Path, project: &Project, base: &BaseDir) -> Result<Vec<String>, BuildError> {
    let Some(signer) = &project.id_signer else { return Ok(Vec::new()) };
    let mut written = Vec::new();
    for digest in base.launch_digests() {
        let block = block(&digest, &project.name, &base.bytes, base.base.base_svn);
        let auth = IdAuth::sign(&block, &signer.id_key, &signer.author_key);
        let [block_name, auth_name] = names(&digest);
        write_file(&dir.join(&block_name), &block.to_bytes(), 0o644)?;
        write_file(&dir.join(&auth_name), auth.as_bytes(), 0o644)?;
        written.extend([block_name, auth_name]);
    }
    Ok(written)
}
