//! This process's memory holds keys: nobody else is to read it.

use std::io;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Turns off core dumps, and debuggers and `/proc/<pid>/mem` for other processes of the same user.
///
/// Says nothing about swap, nor about root.
///
/// # Errors
/// If the operating system refuses.
pub fn keep_private() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_leaves_no_core() {
        keep_private().unwrap();
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
