//! Extended attestation reports from `/dev/sev-guest`.
//!
//! Source: `include/uapi/linux/sev-guest.h` of Linux 6.12; AMD 56860, MSG_REPORT_RSP; AMD 56421 (GHCB), extended request.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;

use crate::{ioctl, iowr};

/// `struct snp_report_req` ‖ u64 certs_address ‖ u32 certs_len ‖ padding.
#[repr(C)]
struct ExtendedRequest {
    report_data: [u8; 64],
    vmpl: u32,
    reserved: [u8; 28],
    certs_address: u64,
    certs_len: u32,
    padding: u32,
}

/// `struct snp_guest_request_ioctl`.
#[repr(C)]
struct GuestRequest {
    msg_version: u8,
    padding: [u8; 7],
    req_data: u64,
    resp_data: u64,
    exitinfo2: u64,
}

/// Room for the host's certificate table: SEV_FW_BLOB_MAX_SIZE, the most the kernel passes on.
const CERTS_BYTES: usize = 0x4000;
/// `struct snp_report_resp`.
const RESPONSE_BYTES: usize = 4000;
/// Where the report starts in the response: u32 status, u32 size, 24 reserved bytes.
const REPORT_AT: usize = 32;
const GET_EXT_REPORT: u8 = 2;

/// An open `/dev/sev-guest`.
pub struct SevGuest(File);

impl SevGuest {
    /// Opens the device.
    ///
    /// # Errors
    /// What open(2) says; `ENOENT` on a machine without SEV-SNP.
    pub fn open() -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).open("/dev/sev-guest").map(Self)
    }

    /// Asks the AMD secure processor for a VMPL 0 report over `report_data`; returns the report and the host's GHCB
    /// certificate table (all zero if the host has none).
    ///
    /// # Errors
    /// What the ioctl says, or `InvalidData` if firmware reports a status or a size outside the response.
    pub fn extended_report(&self, report_data: &[u8; 64]) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let mut certs = vec![0u8; CERTS_BYTES];
        let mut response = vec![0u8; RESPONSE_BYTES];
        let mut request = ExtendedRequest {
            report_data: *report_data,
            vmpl: 0,
            reserved: [0; 28],
            certs_address: certs.as_mut_ptr() as u64,
            certs_len: CERTS_BYTES as u32,
            padding: 0,
        };
        let mut call = GuestRequest {
            msg_version: 1,
            padding: [0; 7],
            req_data: (&raw mut request) as u64,
            resp_data: response.as_mut_ptr() as u64,
            exitinfo2: 0,
        };
        let number = iowr(b'S', GET_EXT_REPORT, size_of::<GuestRequest>());
        // SAFETY: `call` points to a request and a response buffer of the documented sizes and to `certs_len` writable bytes;
        // all of them live until the call returns.
        unsafe { ioctl(self.0.as_fd(), number, (&raw mut call).cast()) }
            .map_err(|error| io::Error::new(error.kind(), format!("{error} (exitinfo2 {:#x})", call.exitinfo2)))?;
        parse_response(&response).map(|report| (report, certs))
    }
}

fn parse_response(response: &[u8]) -> io::Result<Vec<u8>> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let word = |at: usize| response.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    match (word(0), word(4)) {
        (Some(0), Some(size)) => response
            .get(REPORT_AT..)
            .and_then(|rest| rest.get(..size as usize))
            .map(<[u8]>::to_vec)
            .ok_or_else(|| invalid(format!("firmware states a report of {size} bytes"))),
        (Some(status), _) => Err(invalid(format!("firmware refused the report with status {status:#x}"))),
        (None, _) => Err(invalid("response is too short".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_the_kernels() {
        assert_eq!(size_of::<ExtendedRequest>(), 112);
        assert_eq!(size_of::<GuestRequest>(), 32);
        assert_eq!(iowr(b'S', GET_EXT_REPORT, 32), 0xc020_5302);
    }

    #[test]
    fn responses_are_bounded() {
        let mut response = vec![0u8; RESPONSE_BYTES];
        response[4..8].copy_from_slice(&1184u32.to_le_bytes());
        assert_eq!(parse_response(&response).expect("fits").len(), 1184);
        response[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(parse_response(&response).is_err());
        response[..4].copy_from_slice(&0x16u32.to_le_bytes());
        assert!(parse_response(&response).is_err());
        assert!(parse_response(&[]).is_err());
    }
}
