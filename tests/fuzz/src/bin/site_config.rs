//! Site configs, as the host hands them to PID 1, and the names in resource paths.
#![no_main]

use coffer_fuzz::{plant, repository};
use coffer_manifest::disk::{DiskUuid, segment_bytes, verity_tree_blocks};
use coffer_manifest::{MAX_DOCUMENT_BYTES, ProjectName, ResourcePath, RootOfTrust, SiteConfig, SiteName};
use libfuzzer_sys::fuzz_target;

const GOLDEN: [&str; 2] = ["builder/manifest/tests/golden/site.json", "builder/manifest/tests/golden/site-small.json"];

fuzz_target!(init: plant(repository(&GOLDEN).into_iter().chain(made())), |bytes: &[u8]| {
    if let Ok(site) = SiteConfig::from_bytes(bytes) {
        assert!(bytes.len() <= MAX_DOCUMENT_BYTES);
        assert_eq!(site.to_bytes().expect("a site config can be written"), bytes, "one site config has one HOST_DATA");
        if let Some(blocks) = site.root_blocks.checked_add(1).filter(|blocks| *blocks < 1 << 40) {
            assert!(segment_bytes(blocks) / 4096 > blocks && verity_tree_blocks(blocks) < blocks);
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(path) = text.parse::<ResourcePath>() {
        assert_eq!(path.to_string(), text, "one resource has one path");
    }
    if let Ok(name) = text.parse::<ProjectName>() {
        assert!(name.as_str() == text && text.parse::<SiteName>().is_ok_and(|site| site.as_str() == text));
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "a name is safe in a path");
    }
    if let Ok(root) = text.parse::<RootOfTrust>() {
        assert_eq!(root.to_string(), text);
    }
    if let Ok(uuid) = text.parse::<DiskUuid>() {
        assert_eq!(uuid.to_string(), text);
    }
});

fn made() -> Vec<Vec<u8>> {
    let hex = "0123456789abcdef".repeat(4);
    let texts = [format!("demo/site-1/{hex}"), format!("demo/site-1/{hex}.kit"), format!("simulated:{hex}"), "amd-sev-snp".into()];
    texts.into_iter().chain(["a-1".into(), "01234567-89ab-4def-8123-456789abcdef".into()]).map(String::into_bytes).collect()
}
