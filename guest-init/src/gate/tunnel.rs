//! One connection of the workload, carried to the gate: bytes one way and the other, opaque, until both sides have ended.
//!
//! An end (FIN) of one side becomes an end for the other, and the other direction goes on; whatever else happens is a reset (RST) for
//! both, so that nobody takes a cut for an end. Within TLS the end is the `close_notify` alert: a gate that closes without it has cut.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use rustix::event::{PollFd, PollFlags};

use super::door::Term;
use super::event::wait;
use super::port::{closes_in_order, reset};
use super::session::Session;

/// Bytes taken from the workload at once: four TLS records.
const UP_BYTES: usize = 64 * 1024;
/// Bytes taken from the gate at once, still encrypted.
const DOWN_BYTES: usize = 128 * 1024;
/// Room for what they decrypt to, and for the records before them that were not whole or not read: at most one of 16 KiB each.
const PLAIN_BYTES: usize = DOWN_BYTES + 2 * 16 * 1024 + 1;

/// Carries until both sides have ended, or one of them failed, or the lease is over.
pub fn carry(workload: TcpStream, session: Session, term: &Term) {
    let mut tunnel = Tunnel::new(workload, session);
    match tunnel.run(term) {
        Ok(()) => closes_in_order(&tunnel.workload),
        // The workload's is reset when it is dropped.
        Err(_) => reset(tunnel.session.stream),
    }
}

struct Tunnel {
    workload: TcpStream,
    session: Session,
    up: Vec<u8>,
    encrypted: Vec<u8>,
    down: Down,
    workload_ended: bool,
    /// The gate's socket has been told that nothing follows.
    gate_told: bool,
    gate_ended: bool,
    /// And so has the workload's.
    workload_told: bool,
}

/// What is decrypted and not yet with the workload: `bytes[sent..filled]`.
struct Down {
    bytes: Vec<u8>,
    sent: usize,
    filled: usize,
}

impl Tunnel {
    fn new(workload: TcpStream, mut session: Session) -> Self {
        // What is queued is bounded by reading nothing more from the workload until it is sent.
        session.tls.set_buffer_limit(None);
        let down = Down { bytes: vec![0; PLAIN_BYTES], sent: 0, filled: 0 };
        let (up, encrypted) = (vec![0; UP_BYTES], vec![0; DOWN_BYTES]);
        Self { workload, session, up, encrypted, down, workload_ended: false, gate_told: false, gate_ended: false, workload_told: false }
    }

    fn run(&mut self, term: &Term) -> io::Result<()> {
        // The gate may have sent its first bytes together with its answer.
        self.decrypt(0)?;
        loop {
            self.send_down()?;
            self.send_up()?;
            if self.workload_ended && self.gate_ended && self.gate_told && self.down.is_empty() {
                return Ok(());
            }
            let (workload, gate) = self.wait(term)?;
            if workload.contains(PollFlags::IN) && !self.workload_ended && !self.session.tls.wants_write() {
                self.take_up()?;
            }
            if gate.contains(PollFlags::IN) && !self.gate_ended && self.down.is_empty() {
                self.take_down()?;
            }
        }
    }

    /// Waits for either side, as far as there is room for what it would say.
    fn wait(&self, term: &Term) -> io::Result<(PollFlags, PollFlags)> {
        let when = |condition: bool, flags: PollFlags| if condition { flags } else { PollFlags::empty() };
        let sending = self.session.tls.wants_write();
        let of_workload = when(!self.workload_ended && !sending, PollFlags::IN) | when(!self.down.is_empty(), PollFlags::OUT);
        let of_gate = when(!self.gate_ended && self.down.is_empty(), PollFlags::IN) | when(sending, PollFlags::OUT);
        // A socket that nothing is asked of is left out: it would report its end again and again.
        let mut fds = Vec::with_capacity(3);
        fds.push(PollFd::new(&term.over, PollFlags::IN));
        let asked = [(&self.workload, of_workload), (&self.session.stream, of_gate)];
        fds.extend(asked.iter().filter(|(_, flags)| !flags.is_empty()).map(|(stream, flags)| PollFd::new(*stream, *flags)));
        wait(&mut fds, None)?;
        let mut ready = fds.iter().map(PollFd::revents);
        if ready.next().is_some_and(|over| !over.is_empty()) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        // An error or a hang-up is found by reading or writing.
        let mut next = |asked: PollFlags| match asked.is_empty() {
            true => PollFlags::empty(),
            false => ready.next().map_or(PollFlags::empty(), |got| if got.is_empty() { got } else { got | asked }),
        };
        Ok((next(of_workload), next(of_gate)))
    }

    fn take_up(&mut self) -> io::Result<()> {
        match fresh(self.workload.read(&mut self.up))? {
            None => Ok(()),
            Some(0) => {
                self.workload_ended = true;
                self.session.tls.send_close_notify();
                Ok(())
            }
            Some(read) => self.session.tls.writer().write_all(&self.up[..read]),
        }
    }

    fn send_up(&mut self) -> io::Result<()> {
        while self.session.tls.wants_write() {
            if fresh(self.session.tls.write_tls(&mut &self.session.stream))?.is_none() {
                return Ok(());
            }
        }
        if self.workload_ended && !self.gate_told {
            self.gate_told = true;
            // A gate that is gone already is found by reading.
            let _ = self.session.stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    fn take_down(&mut self) -> io::Result<()> {
        match fresh((&self.session.stream).read(&mut self.encrypted))? {
            None => Ok(()),
            // Without close_notify: cut.
            Some(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(read) => self.decrypt(read),
        }
    }

    /// Decrypts the first `length` bytes received.
    fn decrypt(&mut self, length: usize) -> io::Result<()> {
        let mut encrypted = &self.encrypted[..length];
        loop {
            self.gate_ended |= self.down.fill(&mut self.session)?;
            // Nothing counts after the end of what the gate says.
            if encrypted.is_empty() || self.gate_ended {
                return Ok(());
            }
            if self.session.tls.read_tls(&mut encrypted)? == 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.session.tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }

    fn send_down(&mut self) -> io::Result<()> {
        while !self.down.is_empty() {
            match fresh(self.workload.write(&self.down.bytes[self.down.sent..self.down.filled]))? {
                None => return Ok(()),
                Some(written) => self.down.sent += written,
            }
        }
        (self.down.sent, self.down.filled) = (0, 0);
        if self.gate_ended && !self.workload_told {
            self.workload_told = true;
            // A workload that is gone already is found by reading.
            let _ = self.workload.shutdown(Shutdown::Write);
        }
        Ok(())
    }
}

impl Down {
    fn is_empty(&self) -> bool {
        self.sent == self.filled
    }

    /// Takes what is decrypted; whether it ends there.
    fn fill(&mut self, session: &mut Session) -> io::Result<bool> {
        loop {
            match session.tls.reader().read(&mut self.bytes[self.filled..]) {
                Ok(0) => return Ok(true),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}

/// What a non-blocking call gave; none where it has to be tried again.
fn fresh<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}
