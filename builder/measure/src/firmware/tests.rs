use proptest::prelude::*;

use super::*;
use crate::{HashTable, Shape, Vmm, measure};

/// Builds an image whose last page holds `sections` and a footer with `entries` besides the metadata entry.
fn image(pages: usize, sections: &[(u32, u32, u32)], entries: &[(Guid, Vec<u8>)]) -> Vec<u8> {
    let mut metadata = b"ASEV".to_vec();
    for word in [(METADATA_HEADER_BYTES + SECTION_BYTES * sections.len()) as u32, 1, sections.len() as u32] {
        metadata.extend(word.to_le_bytes());
    }
    metadata.extend(sections.iter().flat_map(|s| [s.0, s.1, s.2]).flat_map(u32::to_le_bytes));
    let metadata_at = 0x800_u32;
    let mut table = Vec::new();
    for (guid, data) in entries.iter().cloned().chain([(METADATA, metadata_at.to_le_bytes().to_vec())]) {
        table.extend(&data);
        table.extend(((data.len() + ENTRY_HEADER_BYTES) as u16).to_le_bytes());
        table.extend(guid.0);
    }
    table.extend(((table.len() + ENTRY_HEADER_BYTES) as u16).to_le_bytes());
    table.extend(FOOTER.0);
    let mut image = vec![0x5a; pages * PAGE_BYTES];
    let end = image.len();
    image[end - metadata_at as usize..][..metadata.len()].copy_from_slice(&metadata);
    image[end - AFTER_TABLE_BYTES - table.len()..end - AFTER_TABLE_BYTES].copy_from_slice(&table);
    image
}

fn usual_entries() -> Vec<(Guid, Vec<u8>)> {
    vec![(RESET_BLOCK, 0x80b004_u32.to_le_bytes().to_vec()), (HASH_TABLE, [0x810c00_u32, 0x400].map(u32::to_le_bytes).concat())]
}

fn usual_sections() -> Vec<(u32, u32, u32)> {
    vec![(0x80_0000, 0x9000, 1), (0x80_d000, 0x1000, 2), (0x80_e000, 0x1000, 3), (0x81_0000, 0x1000, 0x10)]
}

#[test]
fn reads_what_the_footer_says() {
    let firmware = Firmware::parse(&image(2, &usual_sections(), &usual_entries())).unwrap();
    assert_eq!(firmware.reset_eip(), 0x80b004);
    assert_eq!(firmware.hash_table_area(), Some(HashTableArea { gpa: 0x810c00, size: 0x400 }));
    assert_eq!(firmware.sections().len(), 4);
    assert_eq!(firmware.sections()[3], Section { gpa: 0x81_0000, size: 0x1000, kind: SectionKind::KernelHashes });
}

#[test]
fn every_measured_thing_changes_the_digest() {
    let shape = Shape { vmm: Vmm::Qemu, vcpus: 2, cpu: "EPYC-v4".parse().unwrap(), guest_features: 1 };
    let good = image(2, &usual_sections(), &usual_entries());
    let table = |line| HashTable::new([1; 32], [2; 32], line);
    let digest = |image: &[u8], line, shape| measure(&Firmware::parse(image).unwrap(), Some(&table(line)), &shape).unwrap();
    let first = digest(&good, "a", shape);
    let mut other = good.clone();
    other[0] ^= 1;
    let changed = [
        digest(&other, "a", shape),
        digest(&good, "b", shape),
        digest(&good, "a", Shape { vcpus: 3, ..shape }),
        digest(&good, "a", Shape { cpu: "EPYC-Milan".parse().unwrap(), ..shape }),
        digest(&good, "a", Shape { guest_features: 0x21, ..shape }),
        digest(&good, "a", Shape { vmm: Vmm::Ec2, ..shape }),
        digest(&good, "a", Shape { vmm: Vmm::Gce, ..shape }),
        digest(&image(2, &usual_sections()[1..], &usual_entries()), "a", shape),
    ];
    assert!(changed.iter().all(|d| *d != first));
    assert_eq!(digest(&good, "a", shape), first);
}

/// What is wrong, the image, the error's text.
#[test]
fn malformed_images_are_refused_by_name() {
    let good = image(2, &usual_sections(), &usual_entries());
    let mut wrong_version = good.clone();
    let at = good.len() - 0x800;
    wrong_version[at + 8] = 2;
    let mut wrong_signature = good.clone();
    wrong_signature[at] = b'B';
    let mut too_many = good.clone();
    too_many[at + 12] = 200;
    let mut short_footer = good.clone();
    let footer_length = good.len() - AFTER_TABLE_BYTES - ENTRY_HEADER_BYTES;
    short_footer[footer_length..footer_length + 2].copy_from_slice(&3_u16.to_le_bytes());
    let mut long_footer = image(1, &usual_sections(), &usual_entries());
    let footer_length = long_footer.len() - AFTER_TABLE_BYTES - ENTRY_HEADER_BYTES;
    long_footer[footer_length..footer_length + 2].copy_from_slice(&u16::MAX.to_le_bytes());
    let twice = [usual_entries(), usual_entries()].concat();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", vec![], "0 bytes long"),
        ("part of a page", good[1..].to_vec(), "8191 bytes long"),
        ("the end is missing", good[..PAGE_BYTES].to_vec(), "OVMF footer table"),
        ("zeros", vec![0; PAGE_BYTES], "OVMF footer table"),
        ("no reset block", image(1, &usual_sections(), &usual_entries()[1..]), "no SEV-ES reset block entry"),
        ("a repeated entry", image(1, &usual_sections(), &twice), "an entry is repeated"),
        ("a short footer", short_footer, "shorter than its header"),
        ("a long footer", long_footer, "begins before the file"),
        ("metadata version", wrong_version, "version is not 1"),
        ("metadata signature", wrong_signature, "signature is not ASEV"),
        ("metadata count", too_many, "more sections than it holds"),
        ("an unknown section", image(1, &[(0, 0x1000, 9)], &usual_entries()), "section type 9"),
        ("an unaligned section", image(1, &[(0, 0x1001, 1)], &usual_entries()), "not page-aligned"),
        ("a huge section", image(1, &[(0, 0xffff_f000, 1)], &usual_entries()), "more than 64 MiB"),
    ];
    for (what, image, text) in cases {
        let error = Firmware::parse(&image).expect_err(what).to_string();
        assert!(error.contains(text), "{what}: {error}");
    }
}

#[test]
fn a_kernel_needs_its_place() {
    let shape = Shape { vmm: Vmm::Qemu, vcpus: 1, cpu: "EPYC-v4".parse().unwrap(), guest_features: 1 };
    let table = HashTable::new([1; 32], [2; 32], "");
    let of = |sections: &[(u32, u32, u32)], entries: &[(Guid, Vec<u8>)]| {
        measure(&Firmware::parse(&image(1, sections, entries)).unwrap(), Some(&table), &shape).map_err(|e| e.to_string())
    };
    assert!(of(&usual_sections(), &usual_entries()).is_ok());
    assert!(of(&usual_sections()[..3], &usual_entries()).unwrap_err().contains("no SNP_KERNEL_HASHES section"));
    assert!(of(&usual_sections(), &usual_entries()[..1]).unwrap_err().contains("no SEV hash table entry"));
    assert!(of(&[(0x81_0000, 0x2000, 0x10)], &usual_entries()).unwrap_err().contains("8192 bytes long"));
    let edge = vec![usual_entries().remove(0), (HASH_TABLE, [0x810ff0_u32, 0x10].map(u32::to_le_bytes).concat())];
    assert!(of(&usual_sections(), &edge).unwrap_err().contains("offset 0xff0"));
}

proptest! {
    #[test]
    fn parse_never_panics(bytes: Vec<u8>) {
        let _ = Firmware::parse(&bytes);
    }

    /// Whole pages that end in a real footer GUID, so that the fuzzed part is behind it.
    #[test]
    fn parse_never_panics_behind_the_footer_guid(tail in prop::collection::vec(any::<u8>(), 0..600), length: u16) {
        let mut image = vec![0; PAGE_BYTES];
        let end = image.len() - AFTER_TABLE_BYTES - 16;
        image[end..end + 16].copy_from_slice(&FOOTER.0);
        image[end - 2..end].copy_from_slice(&length.to_le_bytes());
        image[end - 2 - tail.len()..end - 2].copy_from_slice(&tail);
        let _ = Firmware::parse(&image);
    }

    /// One changed byte anywhere in the tables gives an image or an error, and measuring it ends.
    #[test]
    fn measure_never_panics(at in 0..PAGE_BYTES, value: u8) {
        let mut image = image(1, &usual_sections(), &usual_entries());
        image[at] = value;
        if let Ok(firmware) = Firmware::parse(&image) {
            let shape = Shape { vmm: Vmm::Qemu, vcpus: 2, cpu: "EPYC-v4".parse().unwrap(), guest_features: 1 };
            let _ = measure(&firmware, Some(&HashTable::new([0; 32], [0; 32], "")), &shape);
        }
    }
}
