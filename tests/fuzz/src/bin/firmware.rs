//! Firmware files given to `coffer base build`: the footer table and SEV metadata at their end.
//!
//! Input: the end of the file; the target fills it up to whole pages.
#![no_main]

use coffer_fuzz::{plant, vectors};
use coffer_measure::{CPU_MODELS, Firmware, HashTable, PAGE_BYTES, SectionKind, Shape, Vmm, measure};
use libfuzzer_sys::fuzz_target;

const OVMF: [&str; 2] = ["measure/sev-snp-measure/ovmf_AmdSev_suffix.bin", "measure/sev-snp-measure/ovmf_OvmfX64_suffix.bin"];
/// Guest pages that are hashed one by one; larger layouts would test SHA-384.
const MAX_SECTION_BYTES: u64 = 64 * PAGE_BYTES as u64;

fuzz_target!(init: plant([footer()].into_iter().chain(vectors(&OVMF))), |bytes: &[u8]| {
    assert!(bytes.len().is_multiple_of(PAGE_BYTES) || Firmware::parse(bytes).is_err(), "whole pages only");
    let mut image = vec![0; bytes.len().next_multiple_of(PAGE_BYTES) - bytes.len()];
    image.extend(bytes);
    let Ok(firmware) = Firmware::parse(&image) else { return };
    let covered: u64 = firmware.sections().iter().map(|section| u64::from(section.size)).sum();
    assert!(covered <= Firmware::MAX_SECTION_BYTES, "bounded");
    for section in firmware.sections() {
        assert!((section.gpa as usize).is_multiple_of(PAGE_BYTES) && (section.size as usize).is_multiple_of(PAGE_BYTES));
    }
    let parts =
        Firmware::from_parts(firmware.image_digest(), firmware.sections().to_vec(), firmware.hash_table_area(), firmware.reset_eip());
    assert_eq!(parts, firmware);
    if covered > MAX_SECTION_BYTES {
        return;
    }
    let table = HashTable::new([1; 32], [2; 32], "console=ttyS0");
    for vmm in [Vmm::Qemu, Vmm::Ec2, Vmm::Gce] {
        let shape = Shape { vmm, vcpus: 2, cpu: CPU_MODELS[0], guest_features: 1 };
        let bare = measure(&firmware, None, &shape).expect("a launch without a kernel has a digest");
        let more = measure(&firmware, None, &Shape { vcpus: 3, ..shape }).expect("so has a larger one");
        assert_ne!(bare, more, "every vCPU counts");
        let booted = measure(&firmware, Some(&table), &shape);
        let has_place = firmware.sections().iter().any(|section| section.kind == SectionKind::KernelHashes);
        assert!(booted.is_err() || (has_place && booted != Ok(bare)), "a kernel is measured");
    }
});

/// A page whose end is a footer table: hash table, reset block, metadata with five sections.
fn footer() -> Vec<u8> {
    const GUIDS: [(u128, &[u32]); 3] = [
        (0x7255371f_3a3b_4b04_927b_1da6efa8d454, &[0x80_FC00, 0x400]), // SEV hash table: address, size
        (0x00f771de_1a7e_4fcb_890e_68c77e2fb44e, &[0x80_B004]),        // SEV-ES reset block
        (0xdc886566_984a_4798_a75e_5585a7bf67cc, &[0x200]),            // SEV metadata: offset from the end of the file
    ];
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    // UEFI writes the first three groups of a GUID little-endian.
    let guid = |guid: u128| {
        let mut bytes = guid.to_be_bytes();
        bytes[..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        bytes
    };
    let entry = |data: &[u8], name: u128| [data, &((data.len() + 18) as u16).to_le_bytes(), &guid(name)].concat();
    let entries: Vec<u8> = GUIDS.iter().flat_map(|(name, data)| entry(&words(data), *name)).collect();
    let table = entry(&entries, 0x96b582de_1fb2_45f7_baea_a366c55a082d);
    let sections = [(0x80_0000, 1), (0x80_D000, 2), (0x80_E000, 3), (0x81_0000, 4), (0x80_F000, 0x10)];
    let mut metadata = [b"ASEV".to_vec(), words(&[16 + 12 * 5, 1, 5])].concat();
    metadata.extend(sections.iter().flat_map(|(gpa, kind)| words(&[*gpa, 4096, *kind])));
    let mut page = vec![0; 0x200];
    page[..metadata.len()].copy_from_slice(&metadata);
    let end = page.len() - 32;
    page[end - table.len()..end].copy_from_slice(&table);
    page
}
