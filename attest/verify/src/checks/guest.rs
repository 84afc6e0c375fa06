//! What a genuine report says about the guest: its policy, its ID block, its life.

use coffer_evidence::{KeyDigest, ReportId};

use super::{Finding, Scene, listed};

/// Bits 63–26 of a guest policy: reserved, must be zero (AMD 56860 revision 1.58, table "Guest Policy Structure").
const POLICY_ZERO: u64 = !0 << 26;

/// Bit 17: reserved, must be one.
const POLICY_ONE: u64 = 1 << 17;

/// Bytes no field has, and bits 31–5 of KEY_INFO. PLATFORM_INFO is not among them: firmware sets bits of it that are newer than any
/// list (the Turin of 2026 sets bit 6), and they tell of the platform, not of the report's form.
pub(super) fn reserved_bytes(scene: &Scene<'_>) -> Finding {
    let (byte, bits) = (scene.report.nonzero_reserved(), scene.fields().key_info.reserved());
    let got = || match byte {
        Some(at) => format!("not zero at offset {at:#x}"),
        None if bits != 0 => format!("not zero in KEY_INFO {:#x}", scene.fields().key_info.0),
        None => "zero".into(),
    };
    scene.judge(byte.is_none() && bits == 0, || "zero".into(), got)
}

pub(super) fn vmpl(scene: &Scene<'_>) -> Finding {
    let got = scene.fields().vmpl;
    scene.judge(got == 0, || "0".into(), || got.to_string())
}

pub(super) fn debug_policy(scene: &Scene<'_>) -> Finding {
    let got = scene.fields().policy;
    scene.judge(!got.debug_allowed(), || "one that forbids debugging".into(), || got.to_string())
}

pub(super) fn migration_policy(scene: &Scene<'_>) -> Finding {
    let got = scene.fields().policy;
    scene.judge(!got.migration_allowed(), || "one that forbids migration".into(), || got.to_string())
}

pub(super) fn policy_reserved(scene: &Scene<'_>) -> Finding {
    let got = scene.fields().policy;
    let holds = got.0 & POLICY_ZERO == 0 && got.0 & POLICY_ONE != 0;
    scene.judge(holds, || "one with bit 17 set and bits 63 to 26 clear".into(), || got.to_string())
}

pub(super) fn guest_policy(scene: &Scene<'_>) -> Finding {
    let got = scene.fields().policy;
    let bad = scene.values().guest_policy.bits().into_iter().find(|(_, bit, rule)| !rule.allows(got.0 >> bit & 1 == 1));
    scene.judge(bad.is_none(), || bad.map_or_else(String::new, wanted), || got.to_string())
}

/// `one with bit 20 (single_socket) set`.
pub(super) fn wanted((name, bit, rule): (&str, u32, crate::BitRule)) -> String {
    format!("one with bit {bit} ({name}) {}", if rule.allows(true) { "set" } else { "clear" })
}

pub(super) fn guest_policy_abi(scene: &Scene<'_>) -> Finding {
    let Some(minimum) = scene.values().guest_policy.minimum_abi else { return Finding::NotAsked };
    let (major, minor) = scene.fields().policy.abi();
    let holds = (major, minor) >= (minimum.major, minimum.minor);
    scene.judge(holds, || format!("at least {}.{}", minimum.major, minimum.minor), || format!("{major}.{minor}"))
}

pub(super) fn family_id(scene: &Scene<'_>) -> Finding {
    block_id(scene, scene.values().family_id, &scene.fields().family_id)
}

pub(super) fn image_id(scene: &Scene<'_>) -> Finding {
    block_id(scene, scene.values().image_id, &scene.fields().image_id)
}

fn block_id(scene: &Scene<'_>, wanted: Option<crate::BlockId>, got: &[u8; 16]) -> Finding {
    let Some(wanted) = wanted else { return Finding::NotAsked };
    let got = crate::BlockId::new(*got);
    scene.judge(got == wanted, || wanted.to_string(), || got.to_string())
}

pub(super) fn guest_svn(scene: &Scene<'_>) -> Finding {
    minimum_svn(scene, scene.values().minimum_guest_svn)
}

pub(super) fn minimum_svn(scene: &Scene<'_>, minimum: Option<u32>) -> Finding {
    let Some(minimum) = minimum else { return Finding::NotAsked };
    let got = scene.fields().guest_svn;
    scene.judge(got >= minimum, || format!("at least {minimum}"), || got.to_string())
}

pub(super) fn id_key(scene: &Scene<'_>) -> Finding {
    let Some(allowed) = &scene.values().id_keys else { return Finding::NotAsked };
    one_of(scene, scene.id_key(), allowed)
}

pub(super) fn author_key(scene: &Scene<'_>) -> Finding {
    let Some(allowed) = &scene.values().author_keys else { return Finding::NotAsked };
    one_of(scene, scene.author_key(), allowed)
}

/// The key is there and among these.
pub(super) fn one_of(scene: &Scene<'_>, got: Option<&KeyDigest>, allowed: &[KeyDigest]) -> Finding {
    let holds = got.is_some_and(|got| allowed.contains(got));
    scene.judge(holds, || format!("one of {}", listed(allowed)), || shown(got))
}

fn shown(key: Option<&KeyDigest>) -> String {
    key.map_or_else(|| "none".into(), ToString::to_string)
}

impl<'a> Scene<'a> {
    /// The key that signed the ID block. Without an ID block the digest is zero, which is no key's.
    pub(super) fn id_key(&self) -> Option<&'a KeyDigest> {
        Some(&self.fields().id_key_digest).filter(|digest| digest.as_bytes() != &[0; KeyDigest::LEN])
    }

    /// The key that signed the ID key. The digest means something only where KEY_INFO has AUTHOR_KEY_EN.
    pub(super) fn author_key(&self) -> Option<&'a KeyDigest> {
        let fields = self.fields();
        Some(&fields.author_key_digest).filter(|digest| fields.key_info.author_key_enabled() && digest.as_bytes() != &[0; KeyDigest::LEN])
    }
}

/// A revoked author key does not count even where nothing asks for one.
pub(super) fn key_revoked(scene: &Scene<'_>) -> Finding {
    let revoked = &scene.expected.revoked.keys;
    if revoked.is_empty() {
        return Finding::NotAsked;
    }
    // The raw digest too: a revoked key is refused whether or not the report says that it means something.
    let fields = scene.fields();
    let bad = [&fields.id_key_digest, &fields.author_key_digest].into_iter().find(|digest| revoked.contains(*digest));
    scene.judge(
        bad.is_none(),
        || "one that is not revoked".into(),
        || match bad {
            Some(digest) => format!("{digest}, which is revoked"),
            None => format!("{} and {}", shown(scene.id_key()), shown(scene.author_key())),
        },
    )
}

pub(super) fn report_id(scene: &Scene<'_>) -> Finding {
    let got = scene.fields().report_id;
    let holds = ![[0; ReportId::LEN], [0xFF; ReportId::LEN]].contains(got.as_bytes());
    scene.judge(holds, || "neither all zeros nor all ones".into(), || got.to_string())
}

pub(super) fn migration_agent(scene: &Scene<'_>) -> Finding {
    let got = scene.fields().report_id_ma;
    scene.judge(got.as_bytes() == &[0xFF; ReportId::LEN], || "all ones".into(), || got.to_string())
}
