//! One place that talks: stdout carries results, stderr carries everything else.

use std::fmt::Display;
use std::io::{self, Write};

/// Where text goes. A closed pipe is not an error of ours: whoever closed it has read enough.
#[derive(Clone, Copy, Debug)]
pub struct Ui {
    quiet: bool,
}

impl Ui {
    /// With `quiet`, only results and errors are printed.
    pub const fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    /// A line of the result.
    pub fn result(self, line: impl Display) {
        drop(writeln!(io::stdout().lock(), "{line}"));
    }

    /// Result bytes as they are.
    pub fn raw(self, bytes: &[u8]) {
        let mut out = io::stdout().lock();
        drop(out.write_all(bytes).and_then(|()| out.flush()));
    }

    /// Progress, for a person.
    pub fn say(self, line: impl Display) {
        if !self.quiet {
            drop(writeln!(io::stderr().lock(), "{line}"));
        }
    }

    /// Something the reader must know although nothing failed. Not silenced by `quiet`.
    pub fn warn(self, line: impl Display) {
        drop(writeln!(io::stderr().lock(), "coffer: {line}"));
    }
}
