//! Own writer against own reader and against `qemu-img`, and hostile images.

use std::fs;
use std::process::Command;

use proptest::prelude::*;

use super::*;

fn write(writes: &[(u64, Vec<u8>)], virtual_size: u64) -> tempfile::NamedTempFile {
    let out = tempfile::NamedTempFile::new().unwrap();
    let ranges: Vec<_> = writes.iter().map(|(at, data)| *at..*at + data.len() as u64).filter(|range| !range.is_empty()).collect();
    let file = out.reopen().unwrap();
    let writer = Writer::create(&file, virtual_size, &ranges).unwrap();
    for (offset, data) in writes.iter().rev() {
        writer.write_all_at(data, *offset).unwrap();
    }
    writer.finish().unwrap();
    out
}

fn sample() -> (Vec<(u64, Vec<u8>)>, u64) {
    let noise = |len: usize| (0..len).map(|i| (i * 7 + i / 251 + 1) as u8).collect::<Vec<_>>();
    let writes = vec![
        (0, noise(10)),
        (4096, noise(4096)),
        (16 << 20, noise(3 * (CLUSTER as usize) + 5)),
        ((600 << 20) + 512, noise(700)),
        ((5 << 30) - 1, vec![9]),
    ];
    (writes, 5 << 30)
}

fn qemu_img(args: &[&str]) -> String {
    let out = Command::new("qemu-img").args(args).output().expect("qemu-img is installed (package qemu-utils)");
    assert!(out.status.success(), "qemu-img {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn qemu_img_finds_no_fault_and_reads_the_same() {
    let (writes, size) = sample();
    let image = write(&writes, size);
    let path = image.path().to_str().unwrap();
    assert!(qemu_img(&["check", path]).contains("No errors were found on the image."));
    let raw = tempfile::NamedTempFile::new().unwrap();
    Reader::open(image.path()).unwrap().copy_to(&mut raw.reopen().unwrap()).unwrap();
    let compared = qemu_img(&["compare", "-f", "qcow2", "-F", "raw", path, raw.path().to_str().unwrap()]);
    assert!(compared.contains("Images are identical."), "{compared}");
    assert!(fs::metadata(image.path()).unwrap().len() < 2 << 20, "sparse");
}

#[test]
fn reads_what_qemu_img_writes() {
    let raw = tempfile::NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(|i| if i % 9000 < 2000 { [i as u8, (i >> 8) as u8] } else { [0, 0] }).collect();
    let bytes = &bytes[..bytes.len() / 512 * 512];
    fs::write(raw.path(), bytes).unwrap();
    for options in ["compat=v3", "compat=0.10", "cluster_size=512", "cluster_size=2M"] {
        let image = tempfile::NamedTempFile::new().unwrap();
        let (from, to) = (raw.path().to_str().unwrap(), image.path().to_str().unwrap());
        qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "-o", options, from, to]);
        let reader = Reader::open(image.path()).unwrap();
        let mut out = vec![0; bytes.len()];
        reader.read_exact_at(&mut out, 0).unwrap();
        assert!(out == bytes, "{options}");
    }
}

#[test]
fn refuses_what_it_does_not_read() {
    let base = tempfile::NamedTempFile::new().unwrap();
    base.as_file().set_len(1 << 20).unwrap();
    let image = tempfile::NamedTempFile::new().unwrap();
    let to = image.path().to_str().unwrap();
    qemu_img(&["create", "-f", "qcow2", "-b", base.path().to_str().unwrap(), "-F", "raw", to]);
    assert!(matches!(Reader::open(image.path()), Err(Qcow2Error::Format { what: "backing file", .. })));
    fs::write(base.path(), [7].repeat(1 << 20)).unwrap();
    qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", base.path().to_str().unwrap(), to]);
    let mut out = [0; 512];
    let read = Reader::open(image.path()).unwrap().read_exact_at(&mut out, 0);
    assert!(matches!(read, Err(Qcow2Error::Format { what: "L2 entry", .. })), "{read:?}");
    assert!(matches!(Reader::open(base.path()), Err(Qcow2Error::Format { what: "magic", got: 0x0707_0707, .. })));
}

#[test]
fn a_small_file_does_not_become_a_large_disk() {
    let image = write(&[(0, vec![7; CLUSTER as usize])], 64 << 20);
    let mut bytes = fs::read(image.path()).unwrap();
    // The one L2 table is the third cluster behind header and L1 table; all its entries now name the one data cluster.
    let table = 3 * CLUSTER as usize;
    let entry: [u8; 8] = bytes[table..table + 8].try_into().unwrap();
    assert_eq!(u64::from_be_bytes(entry), (2 * CLUSTER) | COPIED);
    bytes[table..table + CLUSTER as usize].copy_from_slice(&entry.repeat(ENTRIES as usize));
    fs::write(image.path(), &bytes).unwrap();
    let raw = tempfile::NamedTempFile::new().unwrap();
    let copied = Reader::open(image.path()).unwrap().copy_to(&mut raw.reopen().unwrap());
    assert!(matches!(copied, Err(Qcow2Error::Format { what: "data", .. })), "{copied:?}");
    let written = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(raw.path()).unwrap()) * 512;
    assert!(written <= bytes.len() as u64 + 2 * CLUSTER, "{written} bytes from a file of {}", bytes.len());

    // 2^28 L1 entries: 8 TiB in clusters of 512 bytes.
    bytes[20..24].copy_from_slice(&9_u32.to_be_bytes());
    bytes[24..32].copy_from_slice(&MAX_VIRTUAL_BYTES.to_be_bytes());
    bytes[36..40].copy_from_slice(&u32::MAX.to_be_bytes());
    fs::write(image.path(), &bytes).unwrap();
    assert!(matches!(Reader::open(image.path()), Err(Qcow2Error::Format { what: "L1 entries needed", .. })));
}

#[test]
#[expect(clippy::single_range_in_vec_init, reason = "lists of ranges, some of one")]
fn what_was_not_announced_is_refused() {
    let file = tempfile::tempfile().unwrap();
    let writer = Writer::create(&file, 1 << 20, &[0..10, 200_000..300_000]).unwrap();
    assert!(matches!(writer.write_all_at(&[1], 70_000), Err(Qcow2Error::Range { offset: 70_000, len: 1 })));
    assert!(matches!(writer.write_all_at(&[1; 200_000], 200_000), Err(Qcow2Error::Range { .. })));
    for size in [0, 513, MAX_VIRTUAL_BYTES + 512] {
        assert!(matches!(Writer::create(&file, size, &[]), Err(Qcow2Error::Size { .. })));
    }
    for ranges in [&[0..(1 << 20) + 1][..], &[200_000..200_001, 0..10], &[5..5]] {
        assert!(matches!(Writer::create(&file, 1 << 20, ranges), Err(Qcow2Error::Range { .. })), "{ranges:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hostile_bytes_never_panic(patches in proptest::collection::vec((0_usize..200_000, any::<u8>()), 1..40), cut in 0_usize..400_000) {
        let image = write(&[(0, vec![1; 1000]), (200_000, vec![2; 1000])], 1 << 20);
        let mut bytes = fs::read(image.path()).unwrap();
        for (at, byte) in patches {
            if let Some(slot) = bytes.get_mut(at) {
                *slot = byte;
            }
        }
        bytes.truncate(cut.max(1));
        fs::write(image.path(), bytes).unwrap();
        if let Ok(reader) = Reader::open(image.path()) {
            let mut out = [0; 4096];
            for offset in [0, 65_536, 200_704, reader.virtual_size().saturating_sub(4096)] {
                let _ = reader.read_exact_at(&mut out, offset);
            }
        }
    }

    #[test]
    fn round_trip(cuts in proptest::collection::vec((0_u64..300_000, 0_usize..100_000), 1..8)) {
        let mut at = 0;
        let mut writes = Vec::new();
        for (gap, len) in cuts {
            writes.push((at + gap, vec![(len % 255) as u8 + 1; len]));
            at += gap + len as u64;
        }
        let size = (at + 1).next_multiple_of(512);
        let image = write(&writes, size);
        let reader = Reader::open(image.path()).unwrap();
        let mut expected = vec![0; size as usize];
        for (offset, data) in &writes {
            expected[*offset as usize..][..data.len()].copy_from_slice(data);
        }
        let mut got = vec![1; size as usize];
        reader.read_exact_at(&mut got, 0).unwrap();
        prop_assert!(got == expected);
    }
}
