//! Where bytes lie: ranges of open files, the unnamed file things are unpacked into, and a stream that another thread unpacks.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use coffer_manifest::Sha256Digest;
use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::error::ContainerError;
use super::layer::Source;

/// Unit of reading, hashing and copying.
pub const CHUNK_BYTES: usize = 1024 * 1024;

/// A range of an open file.
#[derive(Clone, Debug)]
pub struct Blob {
    file: Arc<File>,
    offset: u64,
    bytes: u64,
}

impl Blob {
    /// A whole file of `bytes` bytes.
    pub fn whole(file: File, bytes: u64) -> Self {
        Self { file: Arc::new(file), offset: 0, bytes }
    }

    /// A part of this blob; reading past the end of the blob's file fails.
    pub fn part(&self, offset: u64, bytes: u64) -> Self {
        Self { file: Arc::clone(&self.file), offset: self.offset + offset, bytes }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// Reads from the start on.
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor { blob: self, position: 0 }
    }

    /// Copies a range of the blob.
    pub fn copy_range(&self, from: u64, bytes: u64, out: &mut impl Write) -> Result<(), ContainerError> {
        let mut chunk = vec![0; CHUNK_BYTES.min(usize::try_from(bytes).unwrap_or(CHUNK_BYTES))];
        let mut done = 0;
        while done < bytes {
            let step = chunk.len().min(usize::try_from(bytes - done).unwrap_or(CHUNK_BYTES));
            self.read_at(&mut chunk[..step], from + done).map_err(|source| ContainerError::Read { what: "read a layer", source })?;
            out.write_all(&chunk[..step]).map_err(|source| ContainerError::Write { source })?;
            done += step as u64;
        }
        Ok(())
    }

    /// Fills `out` from a place in the blob.
    pub fn read_at(&self, out: &mut [u8], from: u64) -> io::Result<()> {
        let end = from.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(out, self.offset + from)
    }
}

/// A position in a [`Blob`].
pub struct Cursor<'a> {
    blob: &'a Blob,
    position: u64,
}

impl Source for Cursor<'_> {
    fn read_exact(&mut self, out: &mut [u8]) -> io::Result<()> {
        self.blob.read_at(out, self.position)?;
        self.position += out.len() as u64;
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let end = self.position.checked_add(bytes).filter(|end| *end <= self.blob.bytes);
        self.position = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(())
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn at_end(&mut self) -> io::Result<bool> {
        Ok(self.position == self.blob.bytes)
    }
}

impl Read for Cursor<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let step = out.len().min(usize::try_from(self.blob.bytes - self.position).unwrap_or(usize::MAX));
        self.blob.read_at(&mut out[..step], self.position)?;
        self.position += step as u64;
        Ok(step)
    }
}

/// A member with its digests.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Uncompressed.
    pub blob: Blob,
    /// SHA-256 of the member as it is.
    pub packed: Sha256Digest,
    /// SHA-256 of it uncompressed.
    pub plain: Sha256Digest,
}

/// An unnamed file that members are unpacked into.
pub struct Scratch {
    file: Arc<File>,
    end: u64,
}

impl Scratch {
    pub fn new(directory: &Path) -> Result<Self, ContainerError> {
        let file = tempfile::tempfile_in(directory).map_err(|source| ContainerError::Read { what: "create a scratch file", source })?;
        Ok(Self { file: Arc::new(file), end: 0 })
    }

    /// Appends a member, decompressed if `gzip`.
    pub fn store(&mut self, mut member: impl Read, gzip: bool, what: String) -> Result<Stored, ContainerError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
                ContainerError::Gzip { what: what.clone(), source }
            }
            _ => ContainerError::Read { what: "unpack the container archive", source },
        };
        let start = self.end;
        let mut plain = Sha256::new();
        let packed = if gzip {
            let mut packed = Sha256::new();
            let mut member = HashReader { inner: member, hash: &mut packed };
            let mut unpacked = MultiGzDecoder::new(BufReader::with_capacity(CHUNK_BYTES, &mut member));
            self.append(&mut unpacked, &mut plain).map_err(failed)?;
            // Bytes behind the compressed data count for the member's own digest.
            io::copy(&mut member, &mut io::sink()).map_err(failed)?;
            Some(Sha256Digest::new(packed.finalize().into()))
        } else {
            self.append(&mut member, &mut plain).map_err(failed)?;
            None
        };
        let plain = Sha256Digest::new(plain.finalize().into());
        let packed = packed.unwrap_or(plain);
        let blob = Blob { file: Arc::clone(&self.file), offset: start, bytes: self.end - start };
        Ok(Stored { blob, packed, plain })
    }

    fn append(&mut self, from: &mut impl Read, hash: &mut Sha256) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let mut filled = 0;
            while filled < chunk.len() {
                match from.read(&mut chunk[filled..])? {
                    0 => break,
                    n => filled += n,
                }
            }
            if filled == 0 {
                return Ok(());
            }
            hash.update(&chunk[..filled]);
            self.file.write_all_at(&chunk[..filled], self.end)?;
            self.end += filled as u64;
        }
    }
}

struct HashReader<'a, R> {
    inner: R,
    hash: &'a mut Sha256,
}

impl<R: Read> Read for HashReader<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(out)?;
        self.hash.update(&out[..n]);
        Ok(n)
    }
}

/// Hashes what is written.
pub struct HashWriter<'a>(pub &'a mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Chunks that another thread decompresses.
pub struct Stream {
    chunks: Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    used: usize,
    position: u64,
    over: bool,
}

impl Stream {
    pub fn new(chunks: Receiver<io::Result<Vec<u8>>>) -> Self {
        Self { chunks, chunk: Vec::new(), used: 0, position: 0, over: false }
    }

    /// Makes sure that something is ready, unless all has been read.
    pub fn fill(&mut self) -> io::Result<()> {
        while self.used == self.chunk.len() && !self.over {
            match self.chunks.recv() {
                Ok(chunk) => {
                    self.chunk = chunk?;
                    self.used = 0;
                    self.over = self.chunk.is_empty();
                }
                Err(_) => self.over = true,
            }
        }
        Ok(())
    }

    /// What can be read without waiting.
    pub fn ready(&self) -> &[u8] {
        &self.chunk[self.used..]
    }
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.fill()?;
        let n = out.len().min(self.ready().len());
        out[..n].copy_from_slice(&self.ready()[..n]);
        self.used += n;
        self.position += n as u64;
        Ok(n)
    }
}

impl Source for Stream {
    fn read_exact(&mut self, out: &mut [u8]) -> io::Result<()> {
        Read::read_exact(self, out)
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut Read::take(&mut *self, bytes), &mut io::sink())?;
        if skipped == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn at_end(&mut self) -> io::Result<bool> {
        self.fill()?;
        Ok(self.ready().is_empty())
    }
}
