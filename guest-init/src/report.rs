//! Where attestation reports come from. PID 1 is the only maker of reports, and only over REPORT_DATA it computed itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use coffer_evidence::{CertTableError, HostData, SnpEvidence, parse_cert_table};
use coffer_sys::sev::SevGuest;

/// configfs-tsm's folder for SNP and other reports (Linux `Documentation/ABI/testing/configfs-tsm`).
const TSM: &str = "/sys/kernel/config/tsm/report";
/// The provider behind [`TSM`] on an SNP guest.
const TSM_PROVIDER: &str = "sev_guest";
/// The longest `outblob` or `auxblob` read, in bytes; the kernel's own limit is 32 KiB.
const MAX_BLOB_BYTES: u64 = 64 * 1024;

/// Something that makes attestation reports. It moves to the thread that renews.
pub trait ReportSource: Send {
    /// Makes a VMPL 0 report over `report_data`, with whatever certificates the host handed over.
    ///
    /// # Errors
    /// See [`ReportError`].
    fn report(&mut self, report_data: &[u8; 64]) -> Result<Evidence, ReportError>;
}

/// A report and certificates. Nothing in it has been verified: that is the service's job.
pub struct Evidence(SnpEvidence);

impl Evidence {
    /// Takes the raw report and the GHCB certificate table, and checks that the report answers `report_data`.
    ///
    /// # Errors
    /// [`ReportError::Report`], [`ReportError::Certificates`], [`ReportError::OtherReportData`].
    pub fn parse(report: &[u8], certificates: &[u8], report_data: &[u8; 64]) -> Result<Self, ReportError> {
        let report = coffer_evidence::Report::parse(report).map_err(ReportError::Report)?;
        if report.fields().report_data.as_bytes() != report_data {
            return Err(ReportError::OtherReportData);
        }
        let certificates = parse_cert_table(certificates).map_err(ReportError::Certificates)?;
        Ok(Self(SnpEvidence { report, certificates }))
    }

    /// HOST_DATA this guest was launched with.
    #[must_use]
    pub fn host_data(&self) -> HostData {
        self.0.report.fields().host_data
    }

    /// What goes to the key service.
    #[must_use]
    pub const fn as_snp(&self) -> &SnpEvidence {
        &self.0
    }
}

/// No report, or not one that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Neither configfs-tsm nor `/dev/sev-guest` is there, or the simulator's port is not.
    #[error(
        "this machine has no source of attestation reports\nhint: the host must launch an SEV-SNP guest (or, for a simulated site, attach the simulator)"
    )]
    NoSource,
    /// A file of the source does not read or write.
    #[error("report source {}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// configfs-tsm belongs to another technology.
    #[error("report source is `{got}`, expected `{TSM_PROVIDER}`")]
    Provider {
        /// What `provider` says, shortened to 40 characters.
        got: String,
    },
    /// The source refused.
    #[error("report source refused with status {status}")]
    Refused {
        /// Its status.
        status: u32,
    },
    /// A length in an answer is out of bounds.
    #[error("report source states {what} of {got} bytes, at most {max} are read")]
    Length {
        /// Which part.
        what: &'static str,
        /// Bytes stated.
        got: u64,
        /// Bytes read at most.
        max: u64,
    },
    /// The report does not parse.
    #[error(transparent)]
    Report(coffer_evidence::ReportError),
    /// The certificate table does not parse.
    #[error(transparent)]
    Certificates(CertTableError),
    /// The report is over other data than was asked for.
    #[error("report source answered with a report over other data")]
    OtherReportData,
}

impl ReportError {
    /// An I/O error with the file it happened at.
    #[must_use]
    pub fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// The AMD secure processor: configfs-tsm where the kernel has it, else `/dev/sev-guest`.
///
/// # Errors
/// [`ReportError::NoSource`] on a machine with neither, [`ReportError::Provider`] on another kind of confidential VM.
pub fn hardware() -> Result<Box<dyn ReportSource>, ReportError> {
    if Path::new(TSM).is_dir() {
        match Tsm::open(Path::new(TSM)) {
            Ok(tsm) => return Ok(Box::new(tsm)),
            // tsm is loaded, but no technology registered itself: mkdir says ENXIO. The device may still be there.
            Err(ReportError::Io { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    match SevGuest::open() {
        Ok(device) => Ok(Box::new(Device(device))),
        Err(_) => Err(ReportError::NoSource),
    }
}

/// One entry of configfs-tsm.
struct Tsm(PathBuf);

impl Tsm {
    fn open(folder: &Path) -> Result<Self, ReportError> {
        let entry = folder.join("coffer");
        match fs::create_dir(&entry) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => return Err(ReportError::io(&entry, source)),
            _ => {}
        }
        let tsm = Self(entry);
        let provider = String::from_utf8_lossy(&tsm.read("provider")?).trim().chars().take(40).collect::<String>();
        if provider == TSM_PROVIDER { Ok(tsm) } else { Err(ReportError::Provider { got: provider }) }
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, ReportError> {
        let path = self.0.join(name);
        let mut bytes = Vec::new();
        let file = fs::File::open(&path).map_err(|source| ReportError::io(&path, source))?;
        io::Read::read_to_end(&mut io::Read::take(file, MAX_BLOB_BYTES), &mut bytes).map_err(|source| ReportError::io(&path, source))?;
        Ok(bytes)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), ReportError> {
        let path = self.0.join(name);
        // One write(2) of the whole value, which is what configfs takes.
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| io::Write::write_all(&mut file, bytes))
            .map_err(|source| ReportError::io(&path, source))
    }
}

impl ReportSource for Tsm {
    fn report(&mut self, report_data: &[u8; 64]) -> Result<Evidence, ReportError> {
        self.write("privlevel", b"0")?;
        self.write("inblob", report_data)?;
        let report = self.read("outblob")?;
        // A host that hands over no certificates leaves this one empty; some kernels say ENOENT then.
        let certificates = self.read("auxblob").unwrap_or_default();
        Evidence::parse(&report, &certificates, report_data)
    }
}

/// `/dev/sev-guest`.
struct Device(SevGuest);

impl ReportSource for Device {
    fn report(&mut self, report_data: &[u8; 64]) -> Result<Evidence, ReportError> {
        let (report, certificates) =
            self.0.extended_report(report_data).map_err(|source| ReportError::io(Path::new("/dev/sev-guest"), source))?;
        Evidence::parse(&report, &certificates, report_data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A report of version 3 over `report_data` that says nothing else.
    fn bare_report(report_data: &[u8; 64]) -> Vec<u8> {
        let mut report = vec![0; 1184];
        report[0] = 3;
        report[0x50..0x90].copy_from_slice(report_data);
        report[0xC0..0xE0].fill(7);
        report
    }

    fn tsm_folder(provider: &str, outblob: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("tempdir");
        let entry = dir.path().join("coffer");
        fs::create_dir(&entry).expect("mkdir");
        for (name, content) in
            [("provider", provider.as_bytes()), ("privlevel", b""), ("inblob", b""), ("outblob", outblob), ("auxblob", b"")]
        {
            fs::write(entry.join(name), content).expect("write");
        }
        dir
    }

    #[test]
    fn configfs_tsm_is_asked_at_vmpl_0_over_our_data() {
        let data = [5; 64];
        let dir = tsm_folder("sev_guest\n", &bare_report(&data));
        let evidence = Tsm::open(dir.path()).expect("opens").report(&data).expect("reports");
        assert_eq!(evidence.host_data(), HostData::new([7; 32]));
        assert_eq!(fs::read(dir.path().join("coffer/inblob")).expect("read"), data);
        assert_eq!(fs::read(dir.path().join("coffer/privlevel")).expect("read"), b"0");
    }

    #[test]
    fn another_technology_or_other_data_is_refused() {
        let dir = tsm_folder("tdx_guest\n", b"");
        assert!(matches!(Tsm::open(dir.path()), Err(ReportError::Provider { .. })));
        let dir = tsm_folder("sev_guest\n", &bare_report(&[6; 64]));
        assert!(matches!(Tsm::open(dir.path()).expect("opens").report(&[5; 64]), Err(ReportError::OtherReportData)));
    }

    proptest! {
        #[test]
        fn evidence_is_total(report: Vec<u8>, certificates: Vec<u8>) {
            let _ = Evidence::parse(&report, &certificates, &[0; 64]);
        }

        #[test]
        fn certificate_tables_are_total(certificates: Vec<u8>) {
            let _ = Evidence::parse(&bare_report(&[1; 64]), &certificates, &[1; 64]);
        }
    }
}
