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

/// What a signal has to remove. Held while results are moved into place, so that a signal sees all of them or none.
static UNFINISHED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// How often a removal is tried again when a child still writes into the directory.
const REMOVAL_TRIES: u32 = 50;

/// A directory that exists only until the build ends.
pub struct Staging {
    dir: PathBuf,
    /// The destination's directories that this build made, outermost first.
    made: Vec<PathBuf>,
}

impl Staging {
    /// Makes `out` and, in it, a private directory with an unused name. From here on signals clean up.
    ///
    /// # Errors
    /// [`BuildError::Write`].
    pub fn new(out: &Path) -> Result<Self, BuildError> {
        let made = make_all(out).map_err(|source| BuildError::Write { path: out.to_owned(), source })?;
        let name = data_encoding::HEXLOWER.encode(&super::random::<8>()?);
        let staging = Self { dir: out.join(format!(".coffer-build-{name}")), made };
        let mut unfinished = lock();
        DirBuilder::new().mode(0o700).create(&staging.dir).map_err(|source| BuildError::Write { path: staging.dir.clone(), source })?;
        *unfinished = Some(staging.dir.clone());
        drop(unfinished);
        Ok(staging)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Moves each first path to its second, all or none. No destination may exist.
    ///
    /// # Errors
    /// [`BuildError::Write`] naming the destination; what had been moved is back.
    pub fn publish(mut self, moves: &[(PathBuf, PathBuf)]) -> Result<(), BuildError> {
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
        self.made.clear();
        drop(fs::remove_dir_all(&self.dir));
        *unfinished = None;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        remove(&self.dir);
        for dir in self.made.iter().rev() {
            // Fails where something else has been put there since, which is right.
            drop(fs::remove_dir(dir));
        }
        *lock() = None;
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
            let unfinished = lock();
            if let Some(dir) = unfinished.as_ref() {
                remove(dir);
                if let Some(out) = dir.parent() {
                    drop(fs::remove_dir(out));
                }
            }
            eprintln!("coffer: cancelled by signal {signal}; nothing was left behind");
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

fn lock() -> MutexGuard<'static, Option<PathBuf>> {
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

/// Makes a directory and its parents; the ones that did not exist, outermost first.
fn make_all(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    for dir in missing.into_iter().rev() {
        fs::create_dir(dir)?;
        made.push(dir.to_owned());
    }
    Ok(made)
}
