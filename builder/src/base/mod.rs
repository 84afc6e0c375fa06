//! `coffer base`: builds the measured, public, reusable part of every site.

mod apt;
mod build;
mod deb;
mod elf;
mod error;
mod firmware;
mod initrd;
mod inputs;
mod kernel;
mod lock;
mod measure;
mod modules;
mod output;
mod shapes;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use coffer_manifest::BaseRoot;

use self::build::Plan;
pub use self::error::BaseError;
use self::inputs::Source;
use self::lock::BaseLock;
use self::shapes::ShapeArgs;
use crate::ui::Ui;

/// What can be done with a base.
#[derive(Subcommand)]
pub enum BaseCommand {
    /// Build a base from Debian's kernel and firmware and a PID 1
    ///
    /// Example: coffer base build -o base/
    Build(BuildArgs),
    /// Compute the launch digests of a base again and hold them against its base.json
    Measure(MeasureArgs),
    /// Show the pinned inputs, or pin what the mirror has now
    Lock(LockArgs),
}

/// Arguments of `coffer base build`.
#[derive(Args)]
pub struct BuildArgs {
    /// Directory to create or replace
    #[arg(short, long, value_name = "DIR", required_unless_present = "verify")]
    out: Option<PathBuf>,
    /// For machines without SEV-SNP: a base whose reports come from the simulator, with a digest of its own
    #[arg(long)]
    simulated: bool,
    /// PID 1 [default: coffer-init or coffer-init-simulated beside this program]
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// Debian kernel package, instead of the mirror's
    #[arg(long, value_name = "FILE")]
    kernel_deb: Option<PathBuf>,
    /// OVMF.amdsev.fd or its Debian package, instead of the mirror's
    #[arg(long, value_name = "FILE")]
    ovmf: Option<PathBuf>,
    /// Use only given files and the cache
    #[arg(long)]
    offline: bool,
    /// Take other versions than the pinned ones, and say so loudly
    #[arg(long)]
    unlocked: bool,
    /// Pinned inputs, instead of the ones compiled in
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// Fail unless the result is exactly what this base.json describes
    #[arg(long, value_name = "BASE.JSON")]
    verify: Option<PathBuf>,
    /// Keeps fetched packages [default: coffer/base in $XDG_CACHE_HOME or ~/.cache]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    shapes: ShapeArgs,
}

/// Arguments of `coffer base measure`.
#[derive(Args)]
pub struct MeasureArgs {
    /// A directory made by `coffer base build`
    directory: PathBuf,
    #[command(flatten)]
    shapes: ShapeArgs,
}

/// Arguments of `coffer base lock`.
#[derive(Args)]
pub struct LockArgs {
    /// Ask the mirror for its newest packages and write a new lock
    #[arg(long)]
    update: bool,
    /// Where `--update` writes it
    #[arg(short, long, value_name = "FILE", default_value = "base.lock", requires = "update")]
    out: PathBuf,
    /// Scratch space for downloads [default: coffer/base in $XDG_CACHE_HOME or ~/.cache]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

/// Runs one of the `coffer base` commands.
///
/// # Errors
/// See [`BaseError`]; each knows its hint and exit code.
pub fn run(ui: Ui, command: BaseCommand) -> Result<(), BaseError> {
    match command {
        BaseCommand::Build(args) => build_base(args, ui),
        BaseCommand::Measure(args) => measure::run(&args.directory, &args.shapes, ui),
        BaseCommand::Lock(args) => show_or_update_lock(&args, ui),
    }
}

fn build_base(args: BuildArgs, ui: Ui) -> Result<(), BaseError> {
    let root = if args.simulated { BaseRoot::Simulated } else { BaseRoot::AmdSevSnp };
    let init = args.init.map_or_else(|| build::installed_init(root), Ok)?;
    let lock = match &args.lock {
        None => BaseLock::compiled_in()?,
        Some(path) => {
            let input = inputs::read(path)?;
            BaseLock::parse(&input.name, &String::from_utf8_lossy(&input.data))?
        }
    };
    let source = Source {
        kernel_deb: args.kernel_deb,
        ovmf: args.ovmf,
        offline: args.offline,
        unlocked: args.unlocked,
        cache: cache(args.cache)?,
        ui,
    };
    let built = build::build(&Plan { root, init, shapes: args.shapes }, &source, &lock)?;
    if let Some(path) = &args.verify {
        build::verify(&built, path)?;
        ui.say(format_args!("identical to {}", path.display()));
    }
    if let Some(directory) = &args.out {
        build::write(&built, directory)?;
        for shape in &built.document.launch_digests {
            ui.result(format_args!("{} {}", shapes::describe(shape), shape.digest));
        }
        ui.say(format_args!("base in {}; next: coffer build --base {} cc_<site>.yml", directory.display(), directory.display()));
    }
    Ok(())
}

fn show_or_update_lock(args: &LockArgs, ui: Ui) -> Result<(), BaseError> {
    if !args.update {
        ui.raw(BaseLock::compiled_in()?.render().as_bytes());
        return Ok(());
    }
    let lock = inputs::newest_lock(&cache(args.cache.clone())?, ui)?;
    let refuse = |error| BaseError::File { action: "write", path: args.out.clone(), error };
    let beside = args.out.with_extension("lock.partial");
    std::fs::write(&beside, lock.render()).map_err(refuse)?;
    std::fs::rename(&beside, &args.out).map_err(refuse)?;
    ui.say(format_args!("wrote {0}; next: coffer base build --lock {0} -o base/", args.out.display()));
    Ok(())
}

/// Where packages are kept between builds. Never below /tmp, where anybody could have made the directory before us: apt's
/// sources for this build lie in it too.
fn cache(given: Option<PathBuf>) -> Result<PathBuf, BaseError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    given
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("coffer/base")))
        .or_else(|| variable("HOME").map(|dir| dir.join(".cache/coffer/base")))
        .ok_or(BaseError::NoCache)
}
