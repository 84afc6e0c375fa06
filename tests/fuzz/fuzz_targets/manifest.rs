//! Site configs, enrollments, bases, bundles, resource paths and sealed kits.
#![no_main]

use coffer_manifest::disk::DiskUuid;
use coffer_manifest::{Base, Bundle, EnrollmentFile, KitKey, ResourcePath, Sha256Digest, SiteConfig, decode, encode, open_kit};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(site) = SiteConfig::from_bytes(bytes) {
        // Canonical: one site config has one HOST_DATA.
        assert_eq!(site.to_bytes().expect("a site config can be written"), bytes);
    }
    let _ = EnrollmentFile::from_bytes(bytes);
    if let Ok(base) = decode::<Base>(bytes) {
        assert_eq!(encode(&base).expect("a base can be written"), bytes);
    }
    let _ = decode::<Bundle>(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(path) = text.parse::<ResourcePath>() {
            assert_eq!(path.to_string(), text);
        }
    }
    let opened = open_kit(&KitKey::new([7; 32]), &DiskUuid::from_random([7; 16]), &Sha256Digest::of(bytes), bytes);
    assert!(opened.is_err(), "a kit sealed by nobody opened");
});
