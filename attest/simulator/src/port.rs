//! The guest's side of the processor: one request, one answer, over a virtio-serial port.
//!
//! | direction | bytes, integers little-endian |
//! |---|---|
//! | request | u32 length (96), then MSG_REPORT_REQ of AMD 56860: REPORT_DATA 64, VMPL u32, KEY_SEL u32, 24 zeros |
//! | answer | u32 status, u32 length and report, u32 length and GHCB certificate table; lengths are 0 unless the status is 0 |

use std::io::{self, Read, Write};

use coffer_evidence::{ReportData, build_cert_table};

use crate::asp::{Asp, Guest};

/// Bytes of MSG_REPORT_REQ.
pub const REQUEST_LEN: usize = 96;

/// The lowest privilege level there is.
const LAST_VMPL: u32 = 3;

/// The privilege level the whole guest runs at: there is no SVSM.
const GUEST_VMPL: u32 = 0;

/// STATUS of an answer: AMD 56860, table MSG_REPORT_RSP; `InvalidLength` from its table of status codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Status {
    /// A report follows.
    Success = 0x00,
    /// The request has another length than [`REQUEST_LEN`].
    InvalidLength = 0x04,
    /// A reserved field is not zero, or the VMPL is not one this guest may ask for.
    InvalidParameters = 0x16,
    /// KEY_SEL asks for a VLEK, and none is loaded.
    InvalidKeySelection = 0x27,
}

/// A request for a report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// What the report is to contain.
    pub report_data: ReportData,
    /// The privilege level it is to name.
    pub vmpl: u32,
}

impl Request {
    /// Reads a request as firmware would.
    ///
    /// # Errors
    /// The status firmware would answer with.
    pub fn parse(bytes: &[u8]) -> Result<Self, Status> {
        let bytes: &[u8; REQUEST_LEN] = bytes.try_into().map_err(|_| Status::InvalidLength)?;
        let number = |at: usize| u32::from_le_bytes(core::array::from_fn(|i| bytes[at + i]));
        let (vmpl, key_sel) = (number(64), number(68));
        let vmpl_is_ours = (GUEST_VMPL..=LAST_VMPL).contains(&vmpl);
        if !vmpl_is_ours || bytes[72..].iter().any(|byte| *byte != 0) {
            return Err(Status::InvalidParameters);
        }
        // KEY_SEL bits 1–0: 0 VLEK if loaded, else VCEK; 1 VCEK; 2 VLEK; 3 and the other bits reserved.
        match key_sel {
            0 | 1 => {}
            2 => return Err(Status::InvalidKeySelection),
            _ => return Err(Status::InvalidParameters),
        }
        let report_data = ReportData::new(core::array::from_fn(|i| bytes[i]));
        Ok(Self { report_data, vmpl })
    }
}

/// The answer to a request: a report and certificates, or a status and nothing.
///
/// # Errors
/// Only if signing or the certificate table fails, which is the simulator's own fault.
pub fn reply(asp: &Asp, guest: &Guest, request: &[u8]) -> io::Result<Vec<u8>> {
    let (status, report, table) = match Request::parse(request) {
        Err(status) => (status, vec![], vec![]),
        Ok(Request { report_data, vmpl }) => {
            let report = asp.sign(&asp.fields(guest, report_data, vmpl)).map_err(io::Error::other)?;
            let table = build_cert_table(&asp.certificates()).map_err(io::Error::other)?;
            (Status::Success, report.to_vec(), table)
        }
    };
    let mut answer = (status as u32).to_le_bytes().to_vec();
    for part in [report, table] {
        answer.extend_from_slice(&u32::try_from(part.len()).map_err(io::Error::other)?.to_le_bytes());
        answer.extend_from_slice(&part);
    }
    Ok(answer)
}

/// Answers requests until the peer closes, and returns how many there were.
///
/// A request that announces another length than [`REQUEST_LEN`] gets [`Status::InvalidLength`], and nothing after it is read: where
/// the next one would begin is unknown.
///
/// # Errors
/// Reading or writing failed, or the peer closed in the middle of a request.
pub fn serve(asp: &Asp, guest: &Guest, stream: &mut (impl Read + Write)) -> io::Result<usize> {
    let mut answered = 0;
    loop {
        let mut length = [0; 4];
        if stream.read(&mut length[..1])? == 0 {
            return Ok(answered);
        }
        stream.read_exact(&mut length[1..])?;
        if u32::from_le_bytes(length) as usize != REQUEST_LEN {
            stream.write_all(&reply(asp, guest, &[])?)?;
            return Ok(answered);
        }
        let mut request = [0; REQUEST_LEN];
        stream.read_exact(&mut request)?;
        stream.write_all(&reply(asp, guest, &request)?)?;
        stream.flush()?;
        answered += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(vmpl: u32, key_sel: u32) -> Vec<u8> {
        [&[7; 64][..], &vmpl.to_le_bytes(), &key_sel.to_le_bytes(), &[0; 24]].concat()
    }

    #[test]
    fn requests_are_judged_as_firmware_does() {
        for (vmpl, key_sel) in [(0, 0), (0, 1), (3, 0)] {
            let parsed = Request::parse(&request(vmpl, key_sel));
            assert_eq!(parsed, Ok(Request { report_data: ReportData::new([7; 64]), vmpl }));
        }
        for (vmpl, key_sel, status) in [
            (4, 0, Status::InvalidParameters),
            (u32::MAX, 0, Status::InvalidParameters),
            (0, 2, Status::InvalidKeySelection),
            (0, 3, Status::InvalidParameters),
            (0, 4, Status::InvalidParameters),
            (0, u32::MAX, Status::InvalidParameters),
        ] {
            assert_eq!(Request::parse(&request(vmpl, key_sel)), Err(status), "{vmpl} {key_sel}");
        }
        for at in 72..96 {
            let mut bytes = request(0, 0);
            bytes[at] = 1;
            assert_eq!(Request::parse(&bytes), Err(Status::InvalidParameters), "{at}");
        }
        for bytes in [&request(0, 0)[..95], &[request(0, 0), vec![0]].concat(), &[]] {
            assert_eq!(Request::parse(bytes), Err(Status::InvalidLength));
        }
    }

    proptest! {
        #[test]
        fn parsing_is_total(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::parse(&bytes);
        }
    }
}
