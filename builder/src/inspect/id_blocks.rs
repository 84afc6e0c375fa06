//! The ID blocks of a bundle: whether they are what a build would sign, and who signed them.

use std::collections::BTreeSet;

use coffer_manifest::{Base, LaunchDigest, SiteConfig};
use coffer_measure::{IdAuth, IdBlock, IdKeys, KeyDigest};
use data_encoding::HEXLOWER;
use serde::Serialize;

use super::contents::Contents;
use crate::build::{id_block, id_block_names};

/// What all ID blocks of a bundle say alike.
#[derive(Serialize)]
pub struct IdBlocks {
    author_key_digest: KeyDigest,
    id_key_digest: KeyDigest,
    family_id: String,
    image_id: String,
    guest_svn: u32,
}

impl IdBlocks {
    /// Reads and checks them all; `None` where a bundle has none. What does not fit goes to `problems`, a line each.
    pub fn read(contents: &Contents, site: &SiteConfig, base: &Base, problems: &mut Vec<String>) -> Option<Self> {
        let digests: BTreeSet<LaunchDigest> = base.launch_digests.iter().map(|shape| shape.digest).collect();
        let there = |digest: &&LaunchDigest| id_block_names(digest).iter().any(|name| contents.files.contains_key(name));
        if !digests.iter().any(|digest| there(&digest)) {
            return None;
        }
        let mut found: Option<(IdKeys, IdBlock)> = None;
        for digest in &digests {
            match checked(contents, site, base, digest) {
                Err(line) => problems.push(line),
                Ok((keys, block)) => {
                    let (first, _) = *found.get_or_insert((keys, block));
                    if first != keys {
                        problems.push(format!("the ID block of launch digest {digest} is signed by other keys than the first"));
                    }
                }
            }
        }
        let (keys, block) = found?;
        Some(Self {
            author_key_digest: keys.author_key_digest?,
            id_key_digest: keys.id_key_digest,
            family_id: HEXLOWER.encode(&block.family_id),
            image_id: HEXLOWER.encode(&block.image_id),
            guest_svn: block.guest_svn,
        })
    }

    /// Lines of the text form: name, value.
    pub fn lines(&self) -> [(&'static str, String); 3] {
        [
            ("author key", self.author_key_digest.to_string()),
            ("  id key", self.id_key_digest.to_string()),
            ("  id blocks", format!("guest svn {}, family {}, image {}", self.guest_svn, self.family_id, self.image_id)),
        ]
    }
}

/// The pair of one launch digest, as firmware would check it, and as a build would make it.
fn checked(contents: &Contents, site: &SiteConfig, base: &Base, digest: &LaunchDigest) -> Result<(IdKeys, IdBlock), String> {
    let [block_name, auth_name] = id_block_names(digest);
    let bytes = |name: &str| contents.files.get(name).map(|found| found.head.as_slice()).ok_or_else(|| format!("{name:?} is missing"));
    let (block_bytes, auth_bytes) = (bytes(&block_name)?, bytes(&auth_name)?);
    let block = IdBlock::parse(block_bytes).map_err(|error| format!("{block_name:?}: {error}"))?;
    let expected = id_block(digest, &site.project, bytes("base.json")?, base.base_svn);
    if block != expected {
        return Err(format!("{block_name:?} is not the ID block of this base and project"));
    }
    let auth = IdAuth::from_bytes(auth_bytes).map_err(|error| format!("{auth_name:?}: {error}"))?;
    let keys = auth.check(&block.to_bytes(), true).map_err(|error| format!("{auth_name:?}: {error}"))?;
    Ok((keys, block))
}
