//! What PID 1 and the workload's init say to each other: lines of text over a Unix socket.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use super::End;

/// The longest line.
const MAX_LINE_BYTES: usize = 1024;

/// A line no version of ours writes, or one that does not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the workload's init said something unexpected")]
pub struct MessageError;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// To the init: pass on the stop signal.
    Stop,
    /// From the init: the workload's program runs.
    Started,
    /// From the init: it does not, because of this.
    Failed(String),
    /// From the init: it has ended.
    Ended(End),
}

impl Message {
    /// The line.
    pub fn to_bytes(&self) -> Vec<u8> {
        let text = match self {
            Self::Stop => "stop".to_owned(),
            Self::Started => "started".to_owned(),
            Self::Failed(text) => {
                let one_line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
                format!("failed {one_line}")
            }
            Self::Ended(End::Exit(code)) => format!("exit {code}"),
            Self::Ended(End::Signal(signal)) => format!("signal {signal}"),
        };
        format!("{text}\n").into_bytes()
    }

    /// Reads a line without its end.
    pub fn parse(line: &[u8]) -> Result<Self, MessageError> {
        let text = str::from_utf8(line).map_err(|_| MessageError)?;
        match text.split_once(' ').unwrap_or((text, "")) {
            ("stop", "") => Ok(Self::Stop),
            ("started", "") => Ok(Self::Started),
            ("failed", cause) => Ok(Self::Failed(cause.to_owned())),
            ("exit", code) => code.parse().map(|code| Self::Ended(End::Exit(code))).map_err(|_| MessageError),
            ("signal", signal) => signal.parse().map(|signal| Self::Ended(End::Signal(signal))).map_err(|_| MessageError),
            _ => Err(MessageError),
        }
    }
}

/// The receiving end: gives whole lines, never waits.
pub struct Inbox {
    socket: UnixStream,
    buffer: Vec<u8>,
    closed: bool,
}

impl Inbox {
    /// Takes a copy of the socket. Makes it, and every copy, non-blocking: only short lines are ever sent over it.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket, buffer: Vec::new(), closed: false })
    }

    /// The next line, if a whole one has come.
    pub fn next(&mut self) -> Result<Option<Message>, MessageError> {
        let mut chunk = [0; 256];
        while !self.closed && self.buffer.len() <= MAX_LINE_BYTES {
            match self.socket.read(&mut chunk) {
                Ok(0) => self.closed = true,
                Ok(length) => self.buffer.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.closed = true,
            }
        }
        match self.buffer.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                Message::parse(&line[..end]).map(Some)
            }
            None if self.buffer.len() > MAX_LINE_BYTES => Err(MessageError),
            None => Ok(None),
        }
    }

    /// Whether the other end is closed and everything it said has been read.
    pub const fn is_closed(&self) -> bool {
        self.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    #[test]
    fn messages_round_trip() {
        for message in [
            Message::Stop,
            Message::Started,
            Message::Failed("cannot run `x`: no such file".into()),
            Message::Ended(End::Exit(255)),
            Message::Ended(End::Signal(9)),
        ] {
            let bytes = message.to_bytes();
            assert_eq!(Message::parse(&bytes[..bytes.len() - 1]), Ok(message));
        }
    }

    #[test]
    fn lines_come_whole_and_in_order() {
        let (mut ours, theirs) = UnixStream::pair().expect("pair");
        let mut inbox = Inbox::new(theirs).expect("inbox");
        assert_eq!(inbox.next(), Ok(None));
        ours.write_all(b"star").expect("write");
        assert_eq!(inbox.next(), Ok(None));
        ours.write_all(b"ted\nexit 3\n").expect("write");
        drop(ours);
        assert_eq!(inbox.next(), Ok(Some(Message::Started)));
        assert_eq!(inbox.next(), Ok(Some(Message::Ended(End::Exit(3)))));
        assert_eq!(inbox.next(), Ok(None));
        assert!(inbox.is_closed());
    }

    proptest! {
        #[test]
        fn parsing_is_total(line: Vec<u8>) {
            let _ = Message::parse(&line);
        }

        #[test]
        fn a_failure_is_one_line(text: String) {
            let bytes = Message::Failed(text).to_bytes();
            prop_assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 1);
            prop_assert!(bytes.len() <= MAX_LINE_BYTES);
        }
    }
}
