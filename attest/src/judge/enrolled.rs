//! What a record asks of evidence, in the verifier's words.

use coffer_manifest::Enrollment;
use coffer_verify::Enrolled;

/// Every member of the record that evidence is compared with.
pub fn enrolled(record: &Enrollment) -> Enrolled {
    Enrolled {
        author_key_digest: record.author_key_digest,
        minimum_guest_svn: record.minimum_guest_svn,
        chip_ids: (!record.chip_ids.is_empty()).then(|| record.chip_ids.clone()),
        tcb_floor: record.tcb_floor,
        ..Enrolled::new(record.host_data, record.launch_digests.clone())
    }
}
