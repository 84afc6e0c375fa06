//! The workload's standard output and error: into a file of bounded size, never onto the console.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{OFlags, fcntl_setfl, fstatvfs};

/// How much is read at once: a pipe's capacity.
const CHUNK_BYTES: usize = 64 * 1024;
/// How many chunks are read before PID 1 looks at its other duties.
const CHUNKS_PER_TURN: usize = 16;

/// The reading end of the workload's output, and where it goes: one file for all lives of the workload.
pub struct Log {
    source: Option<PipeReader>,
    file: Option<File>,
    /// Bytes that may still be written.
    left: u64,
}

impl Log {
    /// Writes to `file` at most half of its file system; without a file, output is read and dropped.
    #[must_use]
    pub fn new(file: Option<File>) -> Self {
        let left = file.as_ref().and_then(|file| fstatvfs(file).ok()).map_or(0, |fs| fs.f_blocks.saturating_mul(fs.f_frsize) / 2);
        Self { source: None, file, left }
    }

    /// From now on moves what comes from `source`.
    ///
    /// # Errors
    /// What fcntl(2) says.
    pub fn attach(&mut self, source: PipeReader) -> io::Result<()> {
        fcntl_setfl(&source, OFlags::NONBLOCK)?;
        self.source = Some(source);
        Ok(())
    }

    /// What to poll; nothing once every writer is gone.
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        self.source.as_ref().map(AsFd::as_fd)
    }

    /// Moves what is there, without waiting.
    pub fn pump(&mut self) {
        for _ in 0..CHUNKS_PER_TURN {
            if !self.move_chunk() {
                break;
            }
        }
    }

    /// Moves everything that is left in the pipe, once its writers are dead, and syncs the file.
    pub fn drain(&mut self) {
        while self.move_chunk() {}
        self.source = None;
        if let Some(file) = &self.file {
            // A full or failing disk loses its log, nothing else.
            let _ = file.sync_all();
        }
    }

    /// Whether there may be more.
    fn move_chunk(&mut self) -> bool {
        let Some(source) = &mut self.source else { return false };
        let mut chunk = vec![0; CHUNK_BYTES];
        match source.read(&mut chunk) {
            Ok(0) => {
                self.source = None;
                false
            }
            Ok(length) => {
                self.write(&chunk[..length]);
                true
            }
            Err(error) => error.kind() == io::ErrorKind::Interrupted,
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let fits = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.left -= fits as u64;
        let mut written = file.write_all(&bytes[..fits]);
        if written.is_ok() && fits < bytes.len() {
            written = file.write_all(b"\n[coffer-init: the log is full, what follows is lost]\n");
            self.left = 0;
        }
        if written.is_err() || fits < bytes.len() {
            // The disk is full or fails: the workload runs on.
            let _ = file.sync_all();
            self.file = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom};

    fn log() -> (Log, io::PipeWriter, File) {
        let (reader, writer) = io::pipe().expect("pipe");
        let file = tempfile::tempfile().expect("tempfile");
        let mut log = Log::new(Some(file.try_clone().expect("clone")));
        log.attach(reader).expect("attaches");
        (log, writer, file)
    }

    fn content(mut file: File) -> String {
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).expect("seek");
        file.read_to_string(&mut text).expect("read");
        text
    }

    #[test]
    fn output_is_kept_to_the_last_byte() {
        let (mut log, mut writer, file) = log();
        writer.write_all(b"hello ").expect("write");
        log.pump();
        writer.write_all(b"world").expect("write");
        drop(writer);
        log.drain();
        assert!(log.source().is_none());
        assert_eq!(content(file), "hello world");
    }

    #[test]
    fn a_second_life_writes_on() {
        let (mut log, mut writer, file) = log();
        writer.write_all(b"one ").expect("write");
        drop(writer);
        log.drain();
        let (reader, mut writer) = io::pipe().expect("pipe");
        log.attach(reader).expect("attaches");
        writer.write_all(b"two").expect("write");
        drop(writer);
        log.drain();
        assert_eq!(content(file), "one two");
    }

    #[test]
    fn a_full_log_says_so_once_and_never_blocks_the_workload() {
        let (mut log, mut writer, file) = log();
        log.left = 4;
        for _ in 0..100 {
            writer.write_all(&[b'x'; 1024]).expect("the pipe is emptied");
            log.pump();
        }
        let text = content(file);
        assert!(text.starts_with("xxxx\n[coffer-init: the log is full"), "{text}");
        assert_eq!(text.matches("full").count(), 1);
    }
}
