//! The command line. Its help is a golden file: `tests/golden/help.txt`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::failure::Failure;
use crate::ui::Ui;
use crate::{author_key, base, build, inspect, logs};

/// Builds confidential-VM bundles from containers.
///
/// A base is firmware, kernel and initrd, built once. A bundle is a base, a site's container on an encrypted
/// disk, and the script that starts it. The enrollment file next to it holds the keys and goes to the key
/// service.
#[derive(Parser)]
#[command(name = "coffer", version, verbatim_doc_comment, after_help = AFTER_HELP)]
pub struct Cli {
    /// Print only results and errors
    #[arg(short, long, global = true)]
    quiet: bool,

    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done · 1 reading, building or writing failed · 2 an input is wrong · 129, 130, 143 ended by a signal,
nothing left behind. Results go to stdout, everything else to stderr.

Example:
  coffer base build -o base/
  coffer build --base base/ -o out/ cc_site-1.yml
  coffer inspect out/site-1/site-1.tgz";

#[derive(Subcommand)]
enum Command {
    /// Build, measure and pin bases
    #[command(subcommand)]
    Base(base::BaseCommand),

    /// Make and show the key that signs a project's ID blocks
    #[command(subcommand)]
    AuthorKey(author_key::AuthorKeyCommand),

    /// Build a bundle and an enrollment for each site
    Build(BuildArgs),

    /// Say what a bundle would run, and whether its files are whole
    Inspect {
        /// A bundle's directory `cvm_<id>`, or `<site>.tgz`
        bundle: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },

    /// Print the console and the workload's log of a stopped bundle
    Logs {
        /// A bundle's directory `cvm_<id>`
        bundle: PathBuf,
        /// Where `launch_vm.sh --run-dir` put boot.log, if not `run` in the bundle
        #[arg(long, value_name = "DIR")]
        run_dir: Option<PathBuf>,
        /// Print only what the workload wrote
        #[arg(long, conflicts_with = "run_dir")]
        workload: bool,
    },
}

/// `coffer build`.
#[derive(Args)]
#[command(after_help = BUILD_HELP)]
pub struct BuildArgs {
    /// A base that `coffer base build` made
    #[arg(long, value_name = "DIR")]
    pub base: PathBuf,
    /// Where `<site>/` and `enroll/<site>.json` go
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
    /// Project and key service; default: project.yml beside the first site's file
    #[arg(long, value_name = "FILE")]
    pub project: Option<PathBuf>,
    /// What the new configs replace and revoke: the old enrollment file, the directory with those of all sites, or one
    /// HOST_DATA
    #[arg(long, value_name = "FILE|DIR|HEX")]
    pub supersedes: Option<build::Supersedes>,
    /// Let the old configs boot and renew for N days more, counted from the enrollment of the new ones
    #[arg(long, value_name = "N", requires = "supersedes", value_parser = clap::value_parser!(u32).range(1..=30))]
    pub overlap_days: Option<u32>,
    /// One file per site, `cc_<site>.yml`
    #[arg(required = true, value_name = "cc_SITE.yml")]
    pub sites: Vec<PathBuf>,
}

const BUILD_HELP: &str = "\
Writes OUT/<site>/cvm_<id>/, OUT/<site>/<site>.tgz and, with mode 0600, OUT/enroll/<site>.json, which holds the keys:
give the .tgz to the site, enroll the .json, keep it as a backup, never send it along. All sites are written or none.

Example: coffer build --base base/ -o out/ cc_site-1.yml cc_site-2.yml
Replace: coffer build --base base-2/ -o out-2/ --supersedes out/enroll --overlap-days 7 cc_site-1.yml cc_site-2.yml";

impl Cli {
    /// Does what the command line asks.
    ///
    /// # Errors
    /// What `main` prints.
    pub fn run(self) -> Result<(), Failure> {
        let ui = Ui::new(self.quiet);
        match self.command {
            Command::Base(command) => Ok(base::run(ui, command)?),
            Command::AuthorKey(command) => Ok(author_key::run(ui, command)?),
            Command::Build(args) => Ok(build::run(ui, &args)?),
            Command::Inspect { bundle, json } => Ok(inspect::run(ui, &bundle, json)?),
            Command::Logs { bundle, workload: true, .. } => Ok(logs::workload(ui, &bundle)?),
            Command::Logs { bundle, run_dir, .. } => Ok(logs::run(ui, &bundle, run_dir.as_deref())?),
        }
    }
}
