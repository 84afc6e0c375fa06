//! One file for each command.

pub mod cut;
pub mod init;
pub mod serve;
pub mod status;

use std::path::Path;

use crate::failure::{Exit, Failure, OrFail};
use crate::layout::Layout;
use crate::operator::{Request, Response, ask};

/// Asks the gate that runs on a folder.
fn asked(dir: &Path, request: &Request) -> Result<Response, Failure> {
    let socket = Layout::new(dir).socket();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().or_fail("cannot start")?;
    let answered = runtime.block_on(ask(&socket, request));
    let response = answered
        .or_fail(&format!("no gate answers at {}", socket.display()))
        .map_err(|failure| failure.exit(Exit::Unreachable).hint(format!("is it running? coffer-gate serve --dir {}", dir.display())))?;
    match response {
        Response::Refused { detail } => Err(Failure::new(format!("the gate refuses: {detail}")).exit(Exit::Refused)),
        response => Ok(response),
    }
}

fn unexpected() -> Failure {
    Failure::new("the gate answers something else than it was asked").exit(Exit::Unreachable).hint("is it of the same version?")
}
