//! `coffer logs`: the console and the workload's log of a stopped bundle, without root.

use std::path::{Path, PathBuf};

use crate::failure::{Exit, Failure, Hint};
use crate::ui::Ui;

#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct LogsError {
    x: PathBuf,
}
impl Hint for LogsError {
    fn hint(&self) -> Option<String> {
        None
    }
    fn exit(&self) -> Exit {
        Exit::Failed
    }
}
pub fn run(_ui: Ui, _bundle: &Path, _run_dir: Option<&Path>) -> Result<(), Failure> {
    Ok(())
}
