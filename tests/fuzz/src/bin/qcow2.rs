//! qcow2 images that a host or a guest may have written.
#![no_main]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use coffer_fuzz::{memory_file, plant};
use coffer_image::qcow2::{MAX_VIRTUAL_BYTES, Reader, Writer};
use libfuzzer_sys::fuzz_target;

/// The largest disk that is read whole.
const MAX_READ_BYTES: u64 = 256 * 1024;

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    let Ok(image) = Reader::new(memory_file(bytes)) else { return };
    let size = image.virtual_size();
    assert!((1..=MAX_VIRTUAL_BYTES).contains(&size));
    assert!(image.read_exact_at(&mut [0; 2], size - 1).is_err(), "past the end");
    assert!(image.read_exact_at(&mut [0; 2], u64::MAX).is_err(), "far past the end");
    for at in [0, size / 3, size - 1] {
        let mut block = vec![0; 4096.min((size - at) as usize)];
        let _ = image.read_exact_at(&mut block, at);
    }
    if size > MAX_READ_BYTES {
        return;
    }
    let mut whole = vec![0; size as usize];
    let read = image.read_exact_at(&mut whole, 0);
    let mut raw = memory_file(&[]);
    let copied = image.copy_to(&mut raw);
    // A copy is also refused where the disk would have more data than the file.
    assert!(read.is_ok() || copied.is_err(), "{read:?} but {copied:?}");
    if copied.is_ok() {
        assert!(contents(&mut raw) == whole, "two ways to read, one disk");
        let mut middle = vec![0; whole.len() / 2];
        image.read_exact_at(&mut middle, size / 4).expect("within what was read");
        assert!(middle == whole[whole.len() / 4..][..middle.len()], "read in pieces");
    }
});

fn contents(file: &mut File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).expect("memory");
    bytes
}

fn made() -> Vec<Vec<u8>> {
    // Ours has clusters of 64 KiB; small ones are quicker to mutate.
    let mut ours = memory_file(&[]);
    let writer = Writer::create(&ours, 256 * 1024, &[0..4096, 128 * 1024..132 * 1024]).expect("fits");
    writer.write_all_at(&[7; 4096], 0).expect("in the range");
    writer.finish().expect("finishes");
    vec![contents(&mut ours), small(3), small(2)]
}

/// Clusters of 512 bytes: header, L1 table, L2 table, one cluster of data; the disk's second cluster has none.
fn small(version: u32) -> Vec<u8> {
    let mut image = vec![0; 4 * 512];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &version.to_be_bytes());
    put(20, &9_u32.to_be_bytes());
    put(24, &1300_u64.to_be_bytes());
    put(36, &1_u32.to_be_bytes());
    put(40, &512_u64.to_be_bytes());
    put(512, &(1024_u64 | 1 << 63).to_be_bytes());
    put(1024, &(1536_u64 | 1 << 63).to_be_bytes());
    put(1536, &[9; 512]);
    image
}
