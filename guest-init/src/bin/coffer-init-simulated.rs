//! Static PID 1 of a *simulated* confidential VM: its evidence comes from `coffer-simulator`, over a virtio-serial port.
//!
//! A separate binary, so that the production one holds no code that could take a report from the host. It refuses a
//! production site config as the production one refuses a simulated one.
#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use coffer_init::report::{Evidence, ReportError, ReportSource};
use coffer_init::{Platform, pid1};

/// A software AMD secure processor.
struct Simulator;

impl Platform for Simulator {
    const NAME: &'static str = "simulated:<sha256 of the ARK>";

    fn accepts(root_of_trust: &str) -> bool {
        root_of_trust.starts_with("simulated:")
    }

    fn report_source() -> Result<Box<dyn ReportSource>, ReportError> {
        // The port's name reaches the guest in a control message some time after its driver starts.
        for _ in 0..50 {
            if let Some(device) = port_device(Path::new("/sys/class/virtio-ports")) {
                let file = OpenOptions::new().read(true).write(true).open(&device).map_err(|source| ReportError::io(&device, source))?;
                return Ok(Box::new(Port { file, device }));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(ReportError::NoSource)
    }
}

fn main() {
    pid1::<Simulator>()
}

/// The virtio-serial port's name.
const PORT_NAME: &str = "org.coffer.asp";
/// u32 length, then AMD's MSG_REPORT_REQ (AMD 56860, table MSG_REPORT_REQ): 64 bytes REPORT_DATA, u32 VMPL, u32 KEY_SEL,
/// 24 reserved. All integers little-endian.
const REQUEST_BYTES: usize = 96;
/// The longest certificate table read: three certificates are under 6 KiB.
const MAX_TABLE_BYTES: u32 = 64 * 1024;

/// The device of the port with our name; port numbers depend on what else a host attaches.
fn port_device(ports: &Path) -> Option<PathBuf> {
    fs::read_dir(ports).ok()?.flatten().find_map(|port| {
        let name = fs::read_to_string(port.path().join("name")).ok()?;
        (name.trim() == PORT_NAME).then(|| Path::new("/dev").join(port.file_name()))
    })
}

struct Port {
    file: File,
    device: PathBuf,
}

impl ReportSource for Port {
    fn report(&mut self, report_data: &[u8; 64]) -> Result<Evidence, ReportError> {
        let at_port = |source| ReportError::io(&self.device, source);
        (&self.file).write_all(&request(report_data)).map_err(at_port)?;
        read_reply(&mut &self.file, report_data).map_err(|error| match error {
            ReplyError::Io(source) => at_port(source),
            ReplyError::Report(error) => error,
        })
    }
}

fn request(report_data: &[u8; 64]) -> Vec<u8> {
    let mut message = Vec::with_capacity(4 + REQUEST_BYTES);
    message.extend_from_slice(&(REQUEST_BYTES as u32).to_le_bytes());
    message.extend_from_slice(report_data);
    message.resize(4 + REQUEST_BYTES, 0); // VMPL 0, KEY_SEL 0, reserved
    message
}

enum ReplyError {
    Io(std::io::Error),
    Report(ReportError),
}

impl From<std::io::Error> for ReplyError {
    fn from(source: std::io::Error) -> Self {
        Self::Io(source)
    }
}

impl From<ReportError> for ReplyError {
    fn from(error: ReportError) -> Self {
        Self::Report(error)
    }
}

/// u32 status, u32 report length, report, u32 certificate table length, table; integers little-endian.
fn read_reply(port: &mut impl Read, report_data: &[u8; 64]) -> Result<Evidence, ReplyError> {
    let status = read_u32(port)?;
    if status != 0 {
        return Err(ReportError::Refused { status }.into());
    }
    let report = read_block(port, "a report", coffer_evidence::Report::LEN as u32)?;
    let table = read_block(port, "a certificate table", MAX_TABLE_BYTES)?;
    Ok(Evidence::parse(&report, &table, report_data)?)
}

fn read_u32(port: &mut impl Read) -> std::io::Result<u32> {
    let mut bytes = [0; 4];
    port.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn read_block(port: &mut impl Read, what: &'static str, max: u32) -> Result<Vec<u8>, ReplyError> {
    let got = read_u32(port)?;
    if got > max {
        return Err(ReportError::Length { what, got: got.into(), max: max.into() }.into());
    }
    let mut block = vec![0; got as usize];
    port.read_exact(&mut block)?;
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reply(status: u32, report: &[u8], table: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| (bytes.len() as u32).to_le_bytes();
        [&status.to_le_bytes()[..], &length(report), report, &length(table), table].concat()
    }

    fn report(report_data: &[u8; 64]) -> Vec<u8> {
        let mut report = vec![0; 1184];
        report[0] = 3;
        report[0x50..0x90].copy_from_slice(report_data);
        report
    }

    #[test]
    fn a_request_has_the_length_of_amds_message() {
        let message = request(&[9; 64]);
        assert_eq!(message.len(), 100);
        assert_eq!(message[..4], 96u32.to_le_bytes());
        assert_eq!(message[4..68], [9; 64]);
        assert_eq!(message[68..], [0; 32]);
    }

    #[test]
    fn replies_are_read_to_the_byte() {
        let data = [1; 64];
        let bytes = reply(0, &report(&data), &[]);
        assert!(read_reply(&mut bytes.as_slice(), &data).is_ok());
        assert!(matches!(read_reply(&mut bytes.as_slice(), &[2; 64]), Err(ReplyError::Report(ReportError::OtherReportData))));
        let refused = reply(7, &[], &[]);
        assert!(matches!(read_reply(&mut refused.as_slice(), &data), Err(ReplyError::Report(ReportError::Refused { status: 7 }))));
        let endless = reply(0, &vec![0; 1185], &[]);
        assert!(matches!(read_reply(&mut endless.as_slice(), &data), Err(ReplyError::Report(ReportError::Length { got: 1185, .. }))));
    }

    #[test]
    fn the_port_is_found_by_name() {
        let dir = tempfile::tempdir().expect("tempdir");
        for (port, name) in [("vport0p1", "com.redhat.spice.0\n"), ("vport0p2", "org.coffer.asp\n")] {
            fs::create_dir(dir.path().join(port)).expect("mkdir");
            fs::write(dir.path().join(port).join("name"), name).expect("write");
        }
        assert_eq!(port_device(dir.path()), Some(PathBuf::from("/dev/vport0p2")));
        assert_eq!(port_device(Path::new("/nonexistent")), None);
    }

    #[test]
    fn only_simulated_sites_are_accepted() {
        assert!(Simulator::accepts("simulated:00"));
        assert!(!Simulator::accepts("amd-sev-snp"));
    }

    proptest! {
        #[test]
        fn reply_parsing_is_total(bytes: Vec<u8>) {
            let _ = read_reply(&mut bytes.as_slice(), &[0; 64]);
        }
    }
}
