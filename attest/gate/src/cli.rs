//! The command line. Its help is a golden file: `tests/golden/help.txt`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

const EXAMPLE: &str = "\
Example, beside a SuperLink whose Fleet API listens on 127.0.0.1:9092:
  coffer-attest gate-settings --project demo --dir service > service.toml
  coffer-gate init --dir gate --name gate.demo.test --service service.toml --fleet 127.0.0.1:9092
  coffer-gate serve --dir gate &
  coffer-gate status --dir gate
  coffer-gate cut site-1 --dir gate --for 10m

Exit codes:
  0  done
  1  something on this machine: a file, a key, an address
  2  wrong command line
  3  the gate refused
  4  the gate does not run, or does not answer";

/// Relying party in front of a Flower SuperLink: admits a site's connection while its lease is current
#[derive(Debug, Parser)]
#[command(name = "coffer-gate", version, after_help = EXAMPLE, max_term_width = 100)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new gate folder: settings, and the authority that guests pin
    Init(Init),
    /// Run the gate
    Serve(Serve),
    /// Leases, connections, refusals, and how the key service is reached
    Status(Status),
    /// End a site's lease and connections at once, and keep it out for a while
    Cut(Cut),
    /// Print every code a guest can be told, its meaning and its remedy
    #[command(hide = true)]
    Reasons,
}

/// `init`
#[derive(Debug, Args)]
pub struct Init {
    /// Folder to make; must not exist
    #[arg(long)]
    pub dir: PathBuf,
    /// DNS name in the gate's certificate, which project.yml has as `gate.tls_name`
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// What `coffer-attest gate-settings` printed; `-` reads it from stdin
    #[arg(long, value_name = "FILE")]
    pub service: PathBuf,
    /// Address guests connect to
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:9443")]
    pub listen: SocketAddr,
    /// The SuperLink's Fleet API
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    pub fleet: String,
    /// Seconds after its newest token was issued that a lease ends; the sites' `check_frequency`, 600 if they have none
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub check_frequency: u64,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `serve`
#[derive(Debug, Args)]
pub struct Serve {
    /// Folder that `init` made
    #[arg(long)]
    pub dir: PathBuf,
    /// Address to listen on instead of the settings'; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Print what is listened on as JSON
    #[arg(long)]
    pub json: bool,
}

/// `status`
#[derive(Debug, Args)]
pub struct Status {
    /// Folder of a running gate
    #[arg(long)]
    pub dir: PathBuf,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// `cut`
#[derive(Debug, Args)]
pub struct Cut {
    /// Name of the site
    pub site: String,
    /// Folder of a running gate
    #[arg(long)]
    pub dir: PathBuf,
    /// How long to keep it out: a number and `s`, `m`, `h` or `d`
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = duration, conflicts_with = "lift")]
    pub time: Duration,
    /// Let it in again
    #[arg(long)]
    pub lift: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `90s`, `10m`, `2h`, `7d`: more than nothing, at most 366 days.
fn duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("`{text}` is not a time such as 90s, 10m, 2h or 7d, at most 366d");
    let unit = text.chars().last().ok_or_else(expected)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(expected()),
    };
    let digits = &text[..text.len() - 1];
    let number: u64 = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten().ok_or_else(expected)?;
    number.checked_mul(seconds).filter(|total| (1..=366 * 86_400).contains(total)).map(Duration::from_secs).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_whole_help_is_the_golden_file() {
        let mut text = String::new();
        let mut command = Cli::command();
        command.build();
        let mut stack = vec![command];
        while let Some(mut command) = stack.pop() {
            let help = command.render_long_help();
            text.push_str(&format!("$ {} --help\n{help}\n", command.get_bin_name().unwrap_or("coffer-gate")));
            let mut subcommands: Vec<_> = command.get_subcommands().filter(|c| c.get_name() != "help").cloned().collect();
            subcommands.reverse();
            stack.extend(subcommands);
        }
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help.txt");
        if std::env::var_os("BLESS").is_some_and(|v| v == "1") {
            std::fs::write(&path, &text).expect("written");
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(text, golden, "run BLESS=1 cargo test and review the diff");
    }

    #[test]
    fn times_have_a_unit_and_an_end() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7200), ("366d", 366 * 86_400)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "m", "10", "0s", "-1m", "+1m", "1.5h", "367d", "99999999999999999999d", "10é", "1w"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
