//! `coffer-simulator`: a software AMD secure processor, for machines without SEV-SNP. It protects nothing.
//!
//! Exit codes: 0 done, 1 failed (one line on stderr says why), 2 wrong usage.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use coffer_evidence::{Family, GuestPolicy, HostData, UnixTime};
use coffer_measure::{CpuModel, IdAuth, IdBlock};
use coffer_simulator::{IdPair, Launch, LaunchFiles, ark_digest, init, load, serve};

/// A software AMD secure processor, for machines without SEV-SNP. It protects nothing.
#[derive(Parser)]
#[command(name = "coffer-simulator", version, after_help = EXAMPLE)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = "Example:\n  coffer-simulator init sim/\n  coffer-attest init --dir svc/ --root-of-trust simulated:sim/ark.pem --tls-name attest.demo.test";

#[derive(Subcommand)]
enum Command {
    /// Make a processor: keys, certificates, a chip id. Prints its root of trust
    Init {
        /// Folder to make
        dir: PathBuf,
        /// Processor family: milan, genoa or turin
        #[arg(long, default_value = "genoa")]
        product: Family,
    },
    /// Launch one guest: measure its files, write its SEV hash table, answer its requests for reports
    Run(Box<Run>),
}

#[derive(clap::Args)]
struct Run {
    /// Folder made by `init`
    #[arg(long)]
    state: PathBuf,
    /// Folder for hashes.bin, loader and asp.sock
    #[arg(long)]
    run_dir: PathBuf,
    /// Firmware QEMU gets
    #[arg(long)]
    ovmf: PathBuf,
    /// Kernel QEMU gets
    #[arg(long)]
    kernel: PathBuf,
    /// Initrd QEMU gets
    #[arg(long)]
    initrd: PathBuf,
    /// Kernel command line QEMU gets
    #[arg(long)]
    append: String,
    /// Number of vCPUs
    #[arg(long)]
    vcpus: u32,
    /// CPU model an SNP host would start the guest with
    #[arg(long, default_value = "EPYC-v4")]
    cpu_model: CpuModel,
    /// SEV_FEATURES of the guest
    #[arg(long, default_value = "0x1", value_parser = number)]
    guest_features: u64,
    /// HOST_DATA, 64 hexadecimal digits
    #[arg(long)]
    host_data: HostData,
    /// Guest policy
    #[arg(long, default_value = "0x30000", value_parser = number)]
    policy: u64,
    /// ID block, 96 bytes: the launch fails unless it measures to this
    #[arg(long, value_name = "FILE", requires = "id_auth")]
    id_block: Option<PathBuf>,
    /// ID authentication information, 4096 bytes: who signed the ID block
    #[arg(long, value_name = "FILE", requires = "id_block")]
    id_auth: Option<PathBuf>,
    /// Check the author key of the ID authentication information and report it
    #[arg(long, requires = "id_block")]
    author_key_enabled: bool,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Init { dir, product } => make(&dir, product),
        Command::Run(run) => launch(&run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coffer-simulator: {}", format!("{error:#}").replace("\nhint: ", "\ncoffer-simulator: hint: "));
            ExitCode::FAILURE
        }
    }
}

fn make(dir: &Path, family: Family) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let asp = init(dir, family, UnixTime(now.as_secs())).context("cannot make a simulator")?;
    eprintln!("coffer-simulator: {family} processor in {}; nothing it vouches for is protected", dir.display());
    println!("simulated:{}", ark_digest(asp.ark()));
    Ok(())
}

/// Measures, writes the hash table, says `ready`, and serves until QEMU goes away.
fn launch(run: &Run) -> Result<()> {
    let asp = load(&run.state).context("cannot load the simulator")?;
    let files = LaunchFiles {
        ovmf: run.ovmf.clone(),
        kernel: run.kernel.clone(),
        initrd: run.initrd.clone(),
        append: run.append.clone(),
        vcpus: run.vcpus,
        cpu: run.cpu_model,
        guest_features: run.guest_features,
    };
    let launch = Launch::measure(&files).context("cannot launch")?;
    let pair = id_pair(run)?;
    let guest = launch.start(run.host_data, GuestPolicy(run.policy), pair.as_ref()).context("cannot launch")?;
    launch.write_hash_table(&run.run_dir).context("cannot launch")?;
    let socket = run.run_dir.join("asp.sock");
    let listener = listen(&socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    eprintln!("coffer-simulator: launch digest {}", launch.launch_digest);
    println!("ready");
    io::stdout().flush().context("cannot say `ready`")?;
    let (mut stream, _) = listener.accept().context("cannot accept QEMU's connection")?;
    let served = serve(&asp, &guest, &mut stream);
    // Whether or not it can be removed, the guest's connection is what counts.
    let _ = fs::remove_file(&socket);
    let answered = served.context("connection to QEMU failed")?;
    eprintln!("coffer-simulator: {answered} requests answered");
    Ok(())
}

/// The two files, if they are given.
fn id_pair(run: &Run) -> Result<Option<IdPair>> {
    let (Some(block), Some(auth)) = (&run.id_block, &run.id_auth) else { return Ok(None) };
    // One byte more than there may be: a longer file is seen to be longer, and a device without an end is not read to it.
    let read = |path: &Path, most: usize| -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = fs::File::open(path).and_then(|file| file.take(most as u64 + 1).read_to_end(&mut bytes));
        file.with_context(|| format!("cannot read {}", path.display()))?;
        Ok(bytes)
    };
    let (block, auth) = (read(block, IdBlock::LEN)?, read(auth, IdAuth::LEN)?);
    Ok(Some(IdPair { block, auth, author_key_enabled: run.author_key_enabled }))
}

/// Binds the socket, taking the place of one an earlier run left behind; never of another kind of file.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    if socket.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket()) {
        fs::remove_file(socket)?;
    }
    UnixListener::bind(socket)
}

/// A number, decimal or `0x` hexadecimal.
fn number(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
}
