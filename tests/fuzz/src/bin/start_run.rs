//! Answers of a SuperLink to StartRun, as the gate's Control front reads them.
#![no_main]

use coffer_fuzz::plant;
use libfuzzer_sys::fuzz_target;

use crate::protobuf::{run_id, run_id_of_grpc};

#[path = "../../../../attest/gate/src/flower/protobuf.rs"]
mod protobuf;

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    let read = run_id(bytes);
    assert_ne!(read, Ok(Some(0)), "0 is no run");
    // A gRPC answer is the same message behind five bytes, and nothing else is one.
    let length = u32::try_from(bytes.len()).expect("libFuzzer's inputs are short").to_be_bytes();
    assert_eq!(run_id_of_grpc(&[&[0], length.as_slice(), bytes].concat()), read);
    assert!(run_id_of_grpc(&[&[1], length.as_slice(), bytes].concat()).is_err(), "compressed");
    let _ = run_id_of_grpc(bytes);
    // A later id counts, whatever was before it.
    if read.is_ok() {
        assert_eq!(run_id(&[bytes, &[0x08, 0x2A]].concat()), Ok(Some(42)));
    }
});

/// Answers of Flower 1.19, 1.29 and 1.41.
fn made() -> Vec<Vec<u8>> {
    vec![
        vec![],
        vec![0x08, 0xac, 0x02],
        vec![0x08, 0xac, 0x02, 0x12, 0x02, b'h', b'i', 0x18, 0x05, 0x22, 0x01, b'f'],
        vec![0, 0, 0, 0, 3, 0x08, 0xac, 0x02],
    ]
}
