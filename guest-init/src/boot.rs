//! The boot, one line per promise, and what happens when a promise is not kept: one line and power-off, never a shell.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::panic;
use std::sync::Arc;

use rustix::system::{RebootCommand, reboot};

use crate::attest::Attester;
use crate::button::PowerButton;
use crate::console::{self, Stage};
use crate::keys::BootKeys;
use crate::report::{ReportError, ReportSource};
use crate::standing::Standing;
use crate::workload::Outcome;
use crate::{agent, config, early, gate, network, renewal, root, unlock, workload};

/// Where this PID 1's evidence comes from. Two binaries, two platforms; neither holds the other's code.
pub trait Platform {
    /// Its name, for the error that refuses a site of the other.
    const NAME: &'static str;

    /// Whether a site config with this `root_of_trust` may run on it.
    fn accepts(root_of_trust: &str) -> bool;

    /// Opens the source of reports.
    ///
    /// # Errors
    /// See [`ReportError`].
    fn report_source() -> Result<Box<dyn ReportSource>, ReportError>;
}

/// Why the guest powers off before the workload runs, or without one that may. Its text is the `failed` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    stage: Stage,
    cause: Cause,
    id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Cause {
    /// A reason code of the service.
    Code(String),
    /// Our own words.
    Text(String),
}

impl Failure {
    /// A failure in our own words.
    pub(crate) fn new(stage: Stage, cause: &dyn fmt::Display) -> Self {
        Self { stage, cause: Cause::Text(cause.to_string()), id: None }
    }

    /// An authenticated refusal of the service: its reason code, and the id its log has.
    pub(crate) fn refused(stage: Stage, code: &str, id: &str) -> Self {
        Self { stage, cause: Cause::Code(code.to_owned()), id: Some(id.to_owned()) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed stage={} cause=", self.stage)?;
        match &self.cause {
            Cause::Code(code) => f.write_str(code)?,
            Cause::Text(text) => write!(f, "\"{}\"", text.replace('"', "'"))?,
        }
        write!(f, " id={}", self.id.as_deref().unwrap_or("-"))
    }
}

/// Turns a module's error into the failure of its stage.
trait At<T> {
    fn at(self, stage: Stage) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> At<T> for Result<T, E> {
    fn at(self, stage: Stage) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(stage, &error))
    }
}

/// Runs as PID 1 of the guest, or, started by it, as one of the workload's two helpers. Exits with 2 anywhere else.
pub fn pid1<P: Platform>() -> ! {
    let role = std::env::args_os().next().unwrap_or_default();
    match role.as_bytes() {
        workload::INIT_ROLE => workload::run_init(),
        workload::EXEC_ROLE => workload::run_exec(),
        _ if std::process::id() != 1 => {
            eprintln!("coffer-init: runs only as process 1 of a confidential VM, where it ends by cutting the power");
            eprintln!("coffer-init: hint: `coffer base build --init` puts it into an initrd, launch_vm.sh boots that");
            std::process::exit(2)
        }
        _ => {}
    }
    power_off_on_panic();
    if let Err(failure) = boot::<P>() {
        console::failed(&failure);
    }
    power_off()
}

/// Boots the guest: each line is one promise the next line relies on.
fn boot<P: Platform>() -> Result<(), Failure> {
    early::mount_pseudo_filesystems().at(Stage::Config)?;
    early::load_modules().at(Stage::Config)?;
    early::harden().at(Stage::Config)?;
    let mut button = PowerButton::open();
    let mut reports = P::report_source().at(Stage::Config)?;
    let (site, host_data) = config::read::<P>(reports.as_mut()).at(Stage::Config)?;
    console::finished(Stage::Config);

    let mut network = network::up().at(Stage::Network)?;
    console::finished(Stage::Network);

    let keys = BootKeys::generate().at(Stage::Attest)?;
    let site = Arc::new(site);
    let mut attester = Attester::new(site.clone(), host_data, reports, keys.bound(&site))?;
    let (secrets, token) = attester.boot(&mut button)?;
    let standing = Standing::new(token.clone(), site.gate.is_some());
    console::finished(Stage::Attest);

    let (volume, kit_key) = unlock::open(&site, secrets).at(Stage::Unlock)?;
    console::finished(Stage::Unlock);

    let root = root::assemble(&site, &volume, kit_key, network.resolvers(), &keys.node).at(Stage::Root)?;
    agent::start(&root.tree, &site.container.user, &standing).at(Stage::Root)?;
    console::finished(Stage::Root);

    gate::start(&site, &keys, &standing).at(Stage::Workload)?;
    renewal::start(attester, standing.clone(), &token).at(Stage::Workload)?;
    match workload::supervise(&site, root, &mut network, button, standing).at(Stage::Workload)? {
        Outcome::Ended(end) => console::line(&format!("workload {end}")),
        Outcome::Refused { code, id } => return Err(Failure::refused(Stage::Workload, &code, &id)),
    }
    Ok(())
}

fn power_off_on_panic() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("panic");
        console::failed(&Failure::new(console::current(), &format!("internal error: {text}{place}")));
        power_off()
    }));
}

/// Writes what is still to be written and cuts the power.
fn power_off() -> ! {
    console::last("power-off");
    console::close_log();
    root::release_applog();
    rustix::fs::sync();
    loop {
        // Fails only without CAP_SYS_BOOT, which PID 1 has; then there is nothing left but to stay and do nothing.
        let _ = reboot(RebootCommand::PowerOff);
        std::thread::sleep(std::time::Duration::from_secs(60));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failed_line_has_one_form() {
        let own = Failure::new(Stage::Config, &"site.json says \"x\"");
        assert_eq!(own.to_string(), "failed stage=config cause=\"site.json says 'x'\" id=-");
        let refused = Failure::refused(Stage::Attest, "launch_digest", "r-7");
        assert_eq!(refused.to_string(), "failed stage=attest cause=launch_digest id=r-7");
    }
}
