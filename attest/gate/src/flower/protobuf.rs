//! As much of Protocol Buffers and gRPC as it takes to read the run id in an answer to StartRun.

/// Bytes of a gRPC message's prefix: compressed or not, length as u32, big-endian (gRPC over HTTP/2, Length-Prefixed-Message).
const GRPC_PREFIX_BYTES: usize = 5;

/// `StartRunResponse.run_id`, uint64, in every version from 1.19 to 1.41. Absent where no run was made.
const RUN_ID: u64 = 1;

/// An answer is no `StartRunResponse` that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

/// The run id in a `StartRunResponse`. Total: any bytes give an id, none, or an error. Unknown fields are passed over, the last of
/// several ids counts, as in every reader of Protocol Buffers.
///
/// # Errors
/// [`Unreadable`].
pub fn run_id(mut message: &[u8]) -> Result<Option<u64>, Unreadable> {
    let mut found = None;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let (field, wire_type) = (tag >> 3, tag & 7);
        match wire_type {
            0 => {
                let value = varint(&mut message)?;
                if field == RUN_ID && value != 0 {
                    found = Some(value);
                }
            }
            1 => skip(&mut message, 8)?,
            2 => {
                let length = varint(&mut message)?;
                skip(&mut message, length)?;
            }
            5 => skip(&mut message, 4)?,
            _ => return Err(Unreadable),
        }
    }
    Ok(found)
}

/// The same in the body of a gRPC answer: one message, not compressed.
///
/// # Errors
/// [`Unreadable`].
pub fn run_id_of_grpc(body: &[u8]) -> Result<Option<u64>, Unreadable> {
    let (prefix, message) = body.split_at_checked(GRPC_PREFIX_BYTES).ok_or(Unreadable)?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 || usize::try_from(length) != Ok(message.len()) {
        return Err(Unreadable);
    }
    run_id(message)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Unreadable> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(Unreadable)?;
        *bytes = rest;
        let part = u64::from(byte & 0x7F);
        if shift == 63 && part > 1 {
            return Err(Unreadable);
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Unreadable)
}

fn skip(bytes: &mut &[u8], count: u64) -> Result<(), Unreadable> {
    let count = usize::try_from(count).map_err(|_| Unreadable)?;
    *bytes = bytes.get(count..).ok_or(Unreadable)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(mut value: u64) -> Vec<u8> {
        let mut bytes = vec![];
        loop {
            let low = (value & 0x7F) as u8;
            value >>= 7;
            if value == 0 {
                bytes.push(low);
                return bytes;
            }
            bytes.push(low | 0x80);
        }
    }

    #[test]
    fn answers_of_flower_are_read() {
        // `StartRunResponse(run_id=300, note="hi", series_id=5)`, as Flower 1.41 encodes it.
        let message = [0x08, 0xac, 0x02, 0x12, 0x02, b'h', b'i', 0x18, 0x05];
        assert_eq!(run_id(&message), Ok(Some(300)));
        assert_eq!(run_id(b""), Ok(None));
        let body = [&[0, 0, 0, 0, 9], message.as_slice()].concat();
        assert_eq!(run_id_of_grpc(&body), Ok(Some(300)));
        assert_eq!(run_id(&[&[8], encoded(u64::MAX).as_slice()].concat()), Ok(Some(u64::MAX)));
    }

    #[test]
    fn what_is_none_is_refused() {
        for bad in
            [[0x08].as_slice(), &[0x08, 0x80], &[0x12, 0x05, 1], &[0x0b], &[0x09, 1], &[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2]]
        {
            assert_eq!(run_id(bad), Err(Unreadable), "{bad:?}");
        }
        for bad in [[].as_slice(), &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 1], &[0, 0, 0, 0, 0, 8]] {
            assert_eq!(run_id_of_grpc(bad), Err(Unreadable), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn reading_is_total(bytes: Vec<u8>) {
            let _ = run_id(&bytes);
            let _ = run_id_of_grpc(&bytes);
        }

        #[test]
        fn every_id_is_found_among_other_fields(id in 1_u64.., note in "[a-z]{0,200}", other: u64) {
            let note_field = [&[0x12], encoded(note.len() as u64).as_slice(), note.as_bytes()].concat();
            let message = [note_field, vec![0x18], encoded(other), vec![0x08], encoded(id)].concat();
            prop_assert_eq!(run_id(&message), Ok(Some(id)));
        }
    }
}
