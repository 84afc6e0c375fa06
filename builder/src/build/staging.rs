//! Everything is built in one directory beside its destination and moved there at the end; whatever ends a build early,
//! a signal included, that directory goes away with all its contents.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::BuildError;

/// What a signal has to remove: the directories this build made, outermost first, the private one last. Held while results are moved into place, so that a signal sees all of them or none.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// How often a removal is tried again when a child still writes into the directory.
const REMOVAL_TRIES: u32 = 50;

/// A directory that exists only until the build ends.
pub struct Staging {
    dir: PathBuf,
}

impl Staging {
    /// Makes `out` and, in it, a private directory with an unused name. From here on signals clean up.
    ///
    /// # Errors
    /// [`BuildError::Write`].
    pub fn new(out: &Path) -> Result<Self, BuildError> {
        let name = data_encoding::HEXLOWER.encode(&super::random::<8>()?);
        let dir = out.join(format!(".coffer-build-{name}"));
        let mut unfinished = lock();
        let made = make_all(&dir, 0o700, &mut unfinished);
        drop(unfinished);
        let staging = Self { dir };
        made.map_err(|source| BuildError::Write { path: staging.dir.clone(), source })?;
        Ok(staging)
    }

    /// Makes a directory of the destination, unless it is there; it goes away again if the build fails.
    ///
    /// # Errors
    /// [`BuildError::Write`].
    pub fn add_dir(&mut self, dir: &Path, mode: u32) -> Result<(), BuildError> {
        let mut unfinished = lock();
        let at = unfinished.len().saturating_sub(1);
        let mut made = Vec::new();
        let result = make_all(dir, mode, &mut made);
        unfinished.splice(at..at, made);
        result.map_err(|source| BuildError::Write { path: dir.to_owned(), source })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Moves each first path to its second, all or none. No destination may exist.
    ///
    /// # Errors
    /// [`BuildError::Write`] naming the destination; what had been moved is back.
    pub fn publish(self, moves: &[(PathBuf, PathBuf)]) -> Result<(), BuildError> {
        let mut unfinished = lock();
        let mut done: Vec<&(PathBuf, PathBuf)> = Vec::new();
        for step in moves {
            if let Err(source) = move_new(&step.0, &step.1) {
                for (from, to) in done.into_iter().rev() {
                    drop(fs::rename(to, from));
                }
                return Err(BuildError::Write { path: step.1.clone(), source });
            }
            done.push(step);
        }
        unfinished.clear();
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        remove(&self.dir);
        remove_made(&mut lock());
    }
}

/// Removes directories, innermost first. One that something else has been put into stays, which is right.
fn remove_made(made: &mut Vec<PathBuf>) {
    while let Some(dir) = made.pop() {
        drop(fs::remove_dir(dir));
    }
}

/// Ends the process with 128 + signal on SIGINT, SIGTERM and SIGHUP, after removing what was being built.
///
/// # Errors
/// [`BuildError::Signals`] if the handlers cannot be installed.
pub fn clean_up_on_signals() -> Result<(), BuildError> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(BuildError::Signals)?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // Never released: no result may be moved into place any more.
            let mut unfinished = lock();
            if let Some(private) = unfinished.last() {
                remove(private);
            }
            remove_made(&mut unfinished);
            eprintln!("coffer: cancelled by signal {signal}; nothing was left behind");
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

fn lock() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A rename that never replaces anything: the destination is looked for first, and everybody who writes there holds the name.
fn move_new(from: &Path, to: &Path) -> io::Result<()> {
    if fs::symlink_metadata(to).is_ok() {
        return Err(io::Error::from(io::ErrorKind::AlreadyExists));
    }
    fs::rename(from, to)
}

fn remove(dir: &Path) {
    for _ in 0..REMOVAL_TRIES {
        match fs::remove_dir_all(dir) {
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(20)),
        }
    }
}

/// Makes a directory, with `mode`, and its parents; those that did not exist are added to `made`, outermost first.
fn make_all(dir: &Path, mode: u32, made: &mut Vec<PathBuf>) -> io::Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    for missing in missing.into_iter().rev() {
        let mode = if missing == dir { mode } else { 0o755 };
        DirBuilder::new().mode(mode).create(missing)?;
        made.push(missing.to_owned());
    }
    Ok(())
}
