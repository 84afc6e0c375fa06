//! Runs the SuperLink's own `flwr`, the interface that every version of Flower keeps stable.
//!
//! Never a shell; a bounded time and a bounded output; a home of its own, so that no file of the operator's decides where it connects.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::sync::Semaphore;

use super::config::Flower;
use super::version::{Family, Version, VersionError};
use crate::config::quoted;

/// A Python start on a busy machine takes seconds; one that takes longer than this hangs.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Of what it prints; a list of thousands of runs fits.
const OUTPUT_BYTES: u64 = 4 << 20;

/// So many of the newest runs are listed where Flower lists twenty by itself. Some 700 bytes each, so that they fit.
const LISTED: &str = "1000";

/// Each takes a core for a second or two.
const AT_A_TIME: usize = 2;

/// The name of the SuperLink connection, or federation, in the files that the gate writes for `flwr`.
const CONNECTION: &str = "superlink";

/// `flwr` did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// It cannot be started.
    #[error("cannot run {program}: {source}; hint: `flwr` in [flower] is the command line of the SuperLink's Flower")]
    Start {
        /// The program.
        program: String,
        /// The cause.
        source: io::Error,
    },
    /// It did not end.
    #[error("`{command}` did not end within {} s", TIMEOUT.as_secs())]
    Timeout {
        /// What was run.
        command: String,
    },
    /// Its files cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// The SuperLink does not answer.
    #[error("`{command}` does not reach the SuperLink: {said}")]
    Unreachable {
        /// What was run.
        command: String,
        /// What it said, one line.
        said: String,
    },
    /// The SuperLink knows the key, or did.
    #[error("`{command}`: the SuperLink knows this key already, or did until it was unregistered")]
    KeyInUse {
        /// What was run.
        command: String,
    },
    /// The SuperLink does not know the node or run.
    #[error("`{command}`: the SuperLink does not know it: {said}")]
    Unknown {
        /// What was run.
        command: String,
        /// What it said, one line.
        said: String,
    },
    /// The run has ended.
    #[error("`{command}`: the run has ended")]
    Ended {
        /// What was run.
        command: String,
    },
    /// Anything else.
    #[error("`{command}` failed: {said}")]
    Failed {
        /// What was run.
        command: String,
        /// What it said, one line.
        said: String,
    },
    /// What is configured as `flwr` is none, or none for this gate.
    #[error(transparent)]
    Version(#[from] VersionError),
}

/// `flwr`, for one SuperLink.
#[derive(Debug)]
pub struct Flwr {
    program: PathBuf,
    home: PathBuf,
    family: Family,
    turns: Semaphore,
}

impl Flwr {
    /// A program that does what this shell script says, in the place of `flwr`.
    #[cfg(test)]
    pub fn of_script(dir: &Path, script: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let program = dir.join("flwr");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
        Self { program, home: dir.to_owned(), family: Family::Grpc, turns: Semaphore::new(1) }
    }

    /// Asks it for its version.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn version(program: &Path, home: &Path) -> Result<Version, CommandError> {
        let said = run(program, home, &[OsStr::new("--version")]).await?;
        Ok(Version::of_output(&said.text)?)
    }

    /// Writes the files that lead it to the SuperLink.
    ///
    /// # Errors
    /// [`CommandError::Write`].
    pub fn new(flower: &Flower, family: Family) -> Result<Self, CommandError> {
        let home = home(&flower.folder);
        let ca = flower.ca.as_deref().unwrap_or(Path::new("")).display().to_string();
        let (address, ca) = (quoted(flower.control_address()), quoted(&ca));
        if family.uses_pyproject() {
            // An app it never runs: the section with the address is all that is meant, the rest is what makes the file valid.
            let app = "[project]\nname = \"gate\"\nversion = \"1.0.0\"\n\n[tool.flwr.app]\npublisher = \"gate\"\n\n\
                       [tool.flwr.app.components]\nserverapp = \"nothing:server\"\nclientapp = \"nothing:client\"\n";
            let section = format!("\n[tool.flwr.federations]\ndefault = \"{CONNECTION}\"\n\n[tool.flwr.federations.{CONNECTION}]\n");
            write(&home.join("pyproject.toml"), &format!("{app}{section}address = {address}\nroot-certificates = {ca}\n"))?;
            write(&home.join("nothing.py"), "server = None\nclient = None\n")?;
        } else {
            let text = format!("[superlink]\ndefault = \"{CONNECTION}\"\n\n[superlink.{CONNECTION}]\n");
            write(&home.join("config.toml"), &format!("{text}address = {address}\nroot-certificates = {ca}\n"))?;
        }
        Ok(Self { program: flower.flwr.clone(), home, family, turns: Semaphore::new(AT_A_TIME) })
    }

    /// `flwr supernode register`: the node's id. `key` is a file in the form of OpenSSH.
    ///
    /// # Errors
    /// [`CommandError::KeyInUse`] where the SuperLink knows the key, or did.
    pub async fn register(&self, key: &Path) -> Result<u64, CommandError> {
        let said = self.ask(&["supernode", "register"], Some(key.as_os_str())).await?;
        number(said.json.get("node-id")).ok_or_else(|| said.failed())
    }

    /// `flwr supernode unregister`: for ever, the SuperLink takes the key never again.
    ///
    /// # Errors
    /// [`CommandError::Unknown`] where there is no such node any more.
    pub async fn unregister(&self, node: u64) -> Result<(), CommandError> {
        self.ask(&["supernode", "unregister"], Some(OsStr::new(&node.to_string()))).await.map(|_| ())
    }

    /// `flwr list`: runs the SuperLink knows, and whether each has ended. All of them, or from Flower 1.40 the newest thousand.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn runs(&self) -> Result<BTreeMap<u64, bool>, CommandError> {
        let limited = ["ls", "--limit", LISTED];
        self.list(if self.family.lists_the_newest() { &limited } else { &limited[..1] }).await
    }

    /// `flwr list --run-id`: whether a run has ended.
    ///
    /// # Errors
    /// [`CommandError::Unknown`] where the SuperLink does not know it.
    pub async fn has_ended(&self, run: u64) -> Result<bool, CommandError> {
        let id = run.to_string();
        Ok(self.list(&["ls", "--run-id", &id]).await?.get(&run) == Some(&true))
    }

    async fn list(&self, words: &[&str]) -> Result<BTreeMap<u64, bool>, CommandError> {
        let said = self.ask(words, None).await?;
        let runs = said.json.get("runs").and_then(Value::as_array).ok_or_else(|| said.failed())?;
        let ended = |run: &Value| run.get("status").and_then(Value::as_str).is_some_and(|status| status.starts_with("finished"));
        Ok(runs.iter().filter_map(|run| Some((number(run.get("run-id"))?, ended(run)))).collect())
    }

    /// `flwr stop`.
    ///
    /// # Errors
    /// [`CommandError::Ended`] and [`CommandError::Unknown`] where there is nothing to stop.
    pub async fn stop(&self, run: u64) -> Result<(), CommandError> {
        self.ask(&["stop"], Some(OsStr::new(&run.to_string()))).await.map(|_| ())
    }

    /// Runs `words [argument] CONNECTION --format json` and reads the JSON that it prints.
    async fn ask(&self, words: &[&str], argument: Option<&OsStr>) -> Result<Said, CommandError> {
        let mut arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
        arguments.extend(argument.map(OsStr::to_owned));
        if self.family.uses_pyproject() {
            arguments.push(self.home.clone().into_os_string());
        }
        arguments.extend([CONNECTION, "--format", "json"].map(OsString::from));
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await;
        let said = run(&self.program, &self.home, &arguments).await?;
        if said.json.get("success").and_then(Value::as_bool) == Some(true) { Ok(said) } else { Err(said.failed()) }
    }
}

/// What it printed.
struct Said {
    command: String,
    text: String,
    json: Value,
}

impl Said {
    /// Flower's command line has no codes, so its own words, the same in 1.19 to 1.41, tell the kinds apart.
    fn failed(&self) -> CommandError {
        let message = self.json.get("error-message").and_then(Value::as_str).unwrap_or(&self.text);
        let words: Vec<&str> = message.split_whitespace().collect();
        let said: String = words.join(" ").chars().take(400).collect();
        let command = self.command.clone();
        let lower = said.to_lowercase();
        let has = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
        if has(&["already in use"]) {
            CommandError::KeyInUse { command }
        } else if has(&["unavailable", "failed to connect", "connection refused", "deadline exceeded"]) {
            CommandError::Unreachable { command, said }
        } else if has(&["not found"]) {
            CommandError::Unknown { command, said }
        } else if has(&["already finished"]) {
            CommandError::Ended { command }
        } else {
            CommandError::Failed { command, said }
        }
    }
}

async fn run<S: AsRef<OsStr>>(program: &Path, home: &Path, arguments: &[S]) -> Result<Said, CommandError> {
    let words: Vec<String> = arguments.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect();
    let command = format!("flwr {}", words.join(" "));
    let start = |source| CommandError::Start { program: program.display().to_string(), source };
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", home)
        .env("FLWR_HOME", home)
        .env("LANG", "C.UTF-8")
        .env("FLWR_TELEMETRY_ENABLED", "0")
        .env("FLWR_DISABLE_UPDATE_CHECK", "1")
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(start)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let both = async { tokio::join!(bounded(out), bounded(err), child.wait()) };
    let Ok((out, err, _)) = tokio::time::timeout(TIMEOUT, both).await else {
        return Err(CommandError::Timeout { command });
    };
    let json = out.find('{').and_then(|at| serde_json::Deserializer::from_str(&out[at..]).into_iter().next()?.ok());
    Ok(Said { command, json: json.unwrap_or(Value::Null), text: if out.trim().is_empty() { err } else { out } })
}

/// Reads up to [`OUTPUT_BYTES`], and throws the rest away so that the program can end.
async fn bounded(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = vec![];
    if let Some(mut stream) = stream {
        let kept = (&mut stream).take(OUTPUT_BYTES).read_to_end(&mut bytes).await;
        if kept.is_ok() {
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An id, which some versions print as a number and some as text.
fn number(value: Option<&Value>) -> Option<u64> {
    match value? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// Where `flwr` has its files, in the gate's folder for Flower.
pub fn home(folder: &Path) -> PathBuf {
    folder.join("home")
}

fn write(path: &Path, text: &str) -> Result<(), CommandError> {
    fs::write(path, text).map_err(|source| CommandError::Write { path: path.display().to_string(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flwr(dir: &Path, script: &str) -> Flwr {
        Flwr::of_script(dir, script)
    }

    #[tokio::test]
    async fn arguments_go_to_no_shell_and_the_environment_is_the_gates_own() {
        let dir = tempfile::tempdir().expect("a folder");
        let said = "echo '{\"success\": true, \"node-id\": \"'$#'\"}'; echo \"$@|$FLWR_HOME|$SECRET\" >seen";
        let node = flwr(dir.path(), said).register(Path::new("/a b;touch /x")).await.expect("an id");
        assert_eq!(node, 6);
        let seen = fs::read_to_string(dir.path().join("seen")).expect("what it saw");
        assert_eq!(seen, format!("supernode register /a b;touch /x superlink --format json|{}|\n", dir.path().display()));
    }

    /// 1.19 to 1.25 find the SuperLink in a pyproject.toml, whose folder is named; from 1.40 a list has the newest twenty runs only.
    #[tokio::test]
    async fn each_family_is_asked_in_its_own_way() {
        let dir = tempfile::tempdir().expect("a folder");
        let home = dir.path().display().to_string();
        let script = "echo \"$@\" >>seen; echo '{\"success\": true, \"node-id\": 1, \"runs\": [{\"run-id\": \"5\", \"status\": \"finished:stopped\"}]}'";
        for (family, at, limit) in [
            (Family::Pyproject, format!("{home} superlink"), ""),
            (Family::Grpc, "superlink".to_owned(), ""),
            (Family::Http, "superlink".to_owned(), " --limit 1000"),
        ] {
            let flwr = Flwr { family, ..flwr(dir.path(), script) };
            flwr.register(Path::new("key")).await.expect("an id");
            flwr.unregister(7).await.expect("done");
            flwr.runs().await.expect("runs");
            assert!(flwr.has_ended(5).await.expect("a run") && !flwr.has_ended(6).await.expect("another"));
            flwr.stop(5).await.expect("done");
            let seen = fs::read_to_string(dir.path().join("seen")).expect("what it saw");
            let expected =
                ["supernode register key", "supernode unregister 7", &format!("ls{limit}"), "ls --run-id 5", "ls --run-id 6", "stop 5"];
            assert_eq!(seen.lines().collect::<Vec<_>>(), expected.map(|words| format!("{words} {at} --format json")), "{family:?}");
            fs::remove_file(dir.path().join("seen")).expect("removed");
        }
    }

    #[tokio::test]
    async fn what_it_says_is_told_apart() {
        let dir = tempfile::tempdir().expect("a folder");
        let fails = |message: &str| format!("echo '{{\"success\": false, \"error-message\": \"{message}\"}}'; exit 1");
        let error =
            flwr(dir.path(), &fails("The provided public key is already in use by another SuperNode.")).register(Path::new("k")).await;
        assert!(matches!(error, Err(CommandError::KeyInUse { .. })), "{error:?}");
        let error = flwr(dir.path(), &fails("Connection to the SuperLink is unavailable. Please check")).unregister(7).await;
        assert!(matches!(error, Err(CommandError::Unreachable { .. })), "{error:?}");
        let error = flwr(dir.path(), &fails("Node ID not found for this account.")).unregister(7).await;
        assert!(matches!(error, Err(CommandError::Unknown { .. })), "{error:?}");
        let error = flwr(dir.path(), "echo broken >&2; exit 3").stop(7).await.expect_err("no JSON").to_string();
        assert_eq!(error, "`flwr stop 7 superlink --format json` failed: broken");
        let error = flwr(dir.path(), &fails("Run is already finished.")).stop(7).await;
        assert!(matches!(error, Err(CommandError::Ended { .. })), "{error:?}");
        let runs = "echo '{\"success\": true, \"runs\": [{\"run-id\": \"5\", \"status\": \"running\"}, {\"run-id\": 6, \"status\": \"finished:stopped\"}]}'";
        assert_eq!(flwr(dir.path(), runs).runs().await.expect("runs"), BTreeMap::from([(5, false), (6, true)]));
    }

    #[tokio::test]
    async fn output_is_bounded_and_a_missing_program_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let endless = flwr(dir.path(), "head -c 20000000 /dev/zero; exit 1").stop(7).await.expect_err("noise");
        assert!(endless.to_string().len() < 2000, "{endless}");
        let error = Flwr::version(Path::new("/nowhere/flwr"), dir.path()).await.expect_err("no program").to_string();
        assert!(error.starts_with("cannot run /nowhere/flwr: "), "{error}");
        let error =
            Flwr::version(&flwr(dir.path(), "echo 'Flower version: 1.2.3'").program, dir.path()).await.expect_err("old").to_string();
        assert!(error.starts_with("Flower 1.2.3 is not supported"), "{error}");
    }
}
