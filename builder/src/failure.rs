//! What `main` prints when something fails: one line, maybe a hint, and an exit code.

use std::fmt;

/// The exit codes of `coffer`; `--help` documents them. A signal ends it with 128 + signal, see `build::staging`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Reading, building or writing failed.
    Failed = 1,
    /// An input is wrong: command line, `cc_*.yml`, `project.yml`, base, bundle.
    Input = 2,
}

/// One error, as the reader sees it.
#[derive(Debug)]
pub struct Failure {
    text: String,
    hint: Option<String>,
    exit: Exit,
}

/// An error that knows what the reader can do about it.
pub trait Hint: std::error::Error {
    /// One sentence the reader can act on, without the word `hint`.
    fn hint(&self) -> Option<String>;
    /// Which exit code it means.
    fn exit(&self) -> Exit;
}

impl Failure {
    /// A failure from any error: the chain of sources is printed once, joined by `: `.
    pub fn failed(error: &(dyn std::error::Error + 'static)) -> Self {
        Self { text: chain(error), hint: None, exit: Exit::Failed }
    }

    /// The exit code of the process.
    pub const fn code(&self) -> u8 {
        self.exit as u8
    }
}

impl<E: Hint + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { hint: error.hint(), exit: error.exit(), text: chain(&error) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Errors of the crates below bring their hint as a line of their own.
        let own = self.text.lines().filter_map(|line| line.strip_prefix("hint: "));
        let text: Vec<&str> = self.text.lines().filter(|line| !line.starts_with("hint: ")).collect();
        f.write_str(&text.join("\n"))?;
        own.chain(self.hint.as_deref()).try_for_each(|hint| write!(f, "\ncoffer: hint: {hint}"))
    }
}

/// The error and its sources, none of them twice.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = source.source();
    }
    text
}
