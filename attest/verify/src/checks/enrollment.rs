//! What the enrollment of this site config says.

use super::{Finding, Scene, guest, platform};
use crate::expected::Enrolled;

impl<'a> Scene<'a> {
    /// The record, if it is of the report's HOST_DATA.
    fn enrolled(&self) -> Option<&'a Enrolled> {
        self.expected.enrolled.filter(|enrolled| enrolled.host_data == self.fields().host_data)
    }
}

pub(super) fn host_data(scene: &Scene<'_>) -> Finding {
    let got = scene.fields().host_data;
    let expected = || {
        scene.expected.enrolled.map_or_else(|| "one that is enrolled".into(), |other| format!("{}, of the record given", other.host_data))
    };
    scene.judge(scene.enrolled().is_some(), expected, || got.to_string())
}

pub(super) fn launch_digest(scene: &Scene<'_>) -> Finding {
    let Some(enrolled) = scene.enrolled() else { return Finding::NotReached };
    let got = scene.fields().measurement;
    let expected = || match enrolled.launch_digests.as_slice() {
        [one] => one.to_string(),
        many => format!("one of the {} enrolled", many.len()),
    };
    scene.judge(enrolled.launch_digests.contains(&got), expected, || got.to_string())
}

pub(super) fn launch_digest_revoked(scene: &Scene<'_>) -> Finding {
    let revoked = &scene.expected.revoked.launch_digests;
    if revoked.is_empty() {
        return Finding::NotAsked;
    }
    let got = scene.fields().measurement;
    let bad = revoked.contains(&got);
    scene.judge(!bad, || "one that is not revoked".into(), || if bad { format!("{got}, which is revoked") } else { got.to_string() })
}

pub(super) fn chip(scene: &Scene<'_>) -> Finding {
    let Some(enrolled) = scene.enrolled() else { return Finding::NotReached };
    platform::chip_among(scene, enrolled.chip_ids.as_deref())
}

pub(super) fn tcb_floor(scene: &Scene<'_>) -> Finding {
    let Some(enrolled) = scene.enrolled() else { return Finding::NotReached };
    enrolled.tcb_floor.as_ref().map_or(Finding::NotAsked, |floor| scene.at_least(floor))
}

pub(super) fn guest_svn(scene: &Scene<'_>) -> Finding {
    let Some(enrolled) = scene.enrolled() else { return Finding::NotReached };
    guest::minimum_svn(scene, enrolled.minimum_guest_svn)
}

pub(super) fn id_key(scene: &Scene<'_>) -> Finding {
    let Some(enrolled) = scene.enrolled() else { return Finding::NotReached };
    let Some(wanted) = enrolled.id_key_digest else { return Finding::NotAsked };
    guest::one_of(scene, scene.id_key(), &[wanted])
}

pub(super) fn author_key(scene: &Scene<'_>) -> Finding {
    let Some(enrolled) = scene.enrolled() else { return Finding::NotReached };
    let Some(wanted) = enrolled.author_key_digest else { return Finding::NotAsked };
    guest::one_of(scene, scene.author_key(), &[wanted])
}
