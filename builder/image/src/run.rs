//! The one way external programs are run: argv and never a shell, a fixed environment, stderr inside the error.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

/// How much of a program's stdout or stderr is kept: the end of it. Enough for any message, too little to matter.
const KEPT_OUTPUT_BYTES: usize = 64 * 1024;
/// Where programs that only root is expected to run are installed; looked into after `PATH`.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/usr/sbin", "/sbin"];

/// A program this crate needs, and the Debian package that has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tool {
    /// File name, looked up in `PATH`, `/usr/sbin`, `/sbin`.
    pub program: &'static str,
    /// Debian package.
    pub package: &'static str,
}

impl Tool {
    /// Where the program lies.
    ///
    /// # Errors
    /// [`RunError::Missing`], whose text names the package.
    fn locate(self) -> Result<PathBuf, RunError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(SYSTEM_DIRECTORIES.iter().map(PathBuf::from))
            .map(|directory| directory.join(self.program))
            .find(|candidate| candidate.is_file())
            .ok_or(RunError::Missing { program: self.program, package: self.package })
    }
}

/// An external program could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// It is not installed.
    #[error("`{program}` is not installed\nhint: apt-get install {package}")]
    Missing {
        /// File name of the program.
        program: &'static str,
        /// Debian package that has it.
        package: &'static str,
    },
    /// It could not be started, fed or waited for.
    #[error("cannot run `{command}`: {source}")]
    Start {
        /// The command line, for reading only.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// It said no.
    #[error("`{command}` ended with {status}\n{stderr}")]
    Failed {
        /// The command line, for reading only.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        stderr: String,
    },
}

/// One run of a program, being put together.
#[derive(Debug)]
pub struct Invocation {
    tool: Tool,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    accepted: Vec<i32>,
}

impl Invocation {
    /// A run without arguments; exit status 0 is success.
    #[must_use]
    pub fn new(tool: Tool) -> Self {
        Self { tool, args: Vec::new(), env: Vec::new(), accepted: vec![0] }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable in the program's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Takes another exit status for success too.
    #[must_use]
    pub fn accept(mut self, status: i32) -> Self {
        self.accepted.push(status);
        self
    }

    /// Runs the program to its end without input.
    ///
    /// # Errors
    /// See [`RunError`].
    pub fn run(self) -> Result<Finished, RunError> {
        self.start(Stdio::null())?.finish()
    }

    /// Starts the program with a pipe for its input; take it with [`Running::input`].
    ///
    /// # Errors
    /// See [`RunError`].
    pub fn feed(self) -> Result<Running, RunError> {
        self.start(Stdio::piped())
    }

    fn start(self, stdin: Stdio) -> Result<Running, RunError> {
        let command = self.shown();
        let mut child = Command::new(self.tool.locate()?)
            .args(&self.args)
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .envs(self.env)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| RunError::Start { command: command.clone(), source })?;
        let stdout = child.stdout.take().map(keep_end);
        let stderr = child.stderr.take().map(keep_end);
        Ok(Running { command, accepted: self.accepted, child, stdout, stderr, finished: false })
    }

    fn shown(&self) -> String {
        let args = self.args.iter().map(|arg| format!(" {}", Path::new(arg).display()));
        std::iter::once(self.tool.program.to_owned()).chain(args).collect()
    }
}

/// A program at work. Dropped before [`Running::finish`], it is killed.
#[derive(Debug)]
pub struct Running {
    command: String,
    accepted: Vec<i32>,
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    finished: bool,
}

impl Running {
    /// The program's input. Dropping it tells the program that there is no more. `None` the second time.
    pub fn input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Waits for the program to end.
    ///
    /// # Errors
    /// [`RunError::Failed`] for an exit status that was not accepted.
    pub fn finish(mut self) -> Result<Finished, RunError> {
        drop(self.child.stdin.take());
        let command = std::mem::take(&mut self.command);
        let status = match self.child.wait() {
            Ok(status) => status,
            Err(source) => return Err(RunError::Start { command, source }),
        };
        self.finished = true;
        let stdout = joined(self.stdout.take());
        let stderr = joined(self.stderr.take());
        if status.code().is_some_and(|code| self.accepted.contains(&code)) {
            Ok(Finished { stdout, stderr })
        } else {
            // Indented: what a program repeats of a hostile file cannot pass for a line of ours.
            let stderr: Vec<String> = String::from_utf8_lossy(&stderr).trim_end().lines().map(|line| format!("  {line}")).collect();
            Err(RunError::Failed { command, status, stderr: stderr.join("\n") })
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.finished {
            // It may have ended by itself meanwhile; then both calls have nothing to do.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What a program said before it ended well: the last 64 KiB of each.
#[derive(Debug)]
pub struct Finished {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

fn keep_end(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        let mut chunk = [0; 8192];
        while let Ok(n @ 1..) = pipe.read(&mut chunk) {
            kept.extend_from_slice(&chunk[..n]);
            let excess = kept.len().saturating_sub(KEPT_OUTPUT_BYTES);
            kept.drain(..excess);
        }
        kept
    })
}

fn joined(reader: Option<JoinHandle<Vec<u8>>>) -> Vec<u8> {
    reader.and_then(|thread| thread.join().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const SH: Tool = Tool { program: "sh", package: "dash" };

    #[test]
    fn a_missing_tool_names_its_package() {
        let missing = Tool { program: "no-such-program-here", package: "some-package" };
        let error = Invocation::new(missing).run().expect_err("missing").to_string();
        assert!(error.contains("no-such-program-here") && error.contains("apt-get install some-package"), "{error}");
    }

    #[test]
    fn a_failure_carries_status_and_stderr() {
        let error = Invocation::new(SH).args(["-c", "echo why >&2; exit 3"]).run().expect_err("exit 3").to_string();
        assert!(error.contains("exit status: 3") && error.contains("why"), "{error}");
        assert!(Invocation::new(SH).args(["-c", "exit 3"]).accept(3).run().is_ok());
    }

    #[test]
    fn input_goes_in_and_only_the_end_comes_out() {
        let mut running = Invocation::new(SH).args(["-c", "cat"]).feed().expect("starts");
        let mut input = running.input().expect("first time");
        let sent = vec![b'x'; 3 * KEPT_OUTPUT_BYTES];
        input.write_all(&sent).expect("cat reads");
        input.write_all(b"end").expect("cat reads");
        drop(input);
        let out = running.finish().expect("cat ends").stdout;
        assert_eq!((out.len(), out.ends_with(b"xend")), (KEPT_OUTPUT_BYTES, true));
    }

    #[test]
    fn a_dropped_run_is_over() {
        let running = Invocation::new(SH).args(["-c", "sleep 1000"]).feed().expect("starts");
        let pid = running.child.id();
        drop(running);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
