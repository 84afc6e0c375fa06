//! How a command fails: one text, one hint, one exit code, printed once in `main`.

use std::error::Error;
use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

/// Exit codes, as `--help` documents them. Clap itself exits with 2 for a wrong command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Something on this machine: a file, a key, an address.
    Failed = 1,
    /// The gate was reached and refused.
    Refused = 3,
    /// The gate does not run, or does not answer.
    Unreachable = 4,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub struct Failure {
    text: String,
    hint: Option<String>,
    exit: Exit,
}

impl Failure {
    /// A failure of this machine.
    #[must_use]
    pub fn new(text: impl Display) -> Self {
        Self { text: text.to_string(), hint: None, exit: Exit::Failed }
    }

    /// Another exit code.
    #[must_use]
    pub fn exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    /// What the reader can do about it.
    #[must_use]
    pub fn hint(self, hint: impl Display) -> Self {
        Self { hint: Some(hint.to_string()), ..self }
    }

    /// The same, where a file that is needed is not there.
    #[must_use]
    pub fn hint_without(self, file: &Path, hint: impl Display) -> Self {
        if file.exists() { self } else { self.hint(hint) }
    }

    /// Prints it and gives the exit code.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        eprintln!("{}", self.shown());
        ExitCode::from(self.exit as u8)
    }

    fn shown(&self) -> String {
        // Errors of the modules below bring their hint along: as a line of its own, or in one line where the log has them too.
        // TOML's end with an empty line.
        let text = self.text.trim_end().replace("; hint: ", "\nhint: ").replace("\nhint: ", "\ncoffer-gate: hint: ");
        let hint = self.hint.as_ref().map_or_else(String::new, |hint| format!("\ncoffer-gate: hint: {hint}"));
        format!("coffer-gate: {text}{hint}")
    }
}

/// Turns an error into a failure that says what was being done.
pub trait OrFail<T> {
    /// `<doing>: <error>`, the error with what it came from.
    ///
    /// # Errors
    /// The failure.
    fn or_fail(self, doing: &str) -> Result<T, Failure>;
}

impl<T, E: Error> OrFail<T> for Result<T, E> {
    fn or_fail(self, doing: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(format!("{doing}: {}", chain(&error))))
    }
}

/// An error and what it came from, in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_have_a_line_of_their_own_wherever_they_come_from() {
        let expected = "coffer-gate: cannot a: b\ncoffer-gate: hint: c";
        for text in ["cannot a: b\nhint: c", "cannot a: b; hint: c"] {
            assert_eq!(Failure::new(text).shown(), expected);
        }
        assert_eq!(Failure::new("cannot a: b").hint("c").shown(), expected);
        assert_eq!(Failure::new("cannot a: b").hint_without(Path::new("/nowhere"), "c").shown(), expected);
        assert_eq!(Failure::new("cannot a: b\n").hint_without(Path::new("/"), "c").shown(), "coffer-gate: cannot a: b");
        assert_eq!(Failure::new("cannot a: b").shown(), "coffer-gate: cannot a: b");
    }
}
