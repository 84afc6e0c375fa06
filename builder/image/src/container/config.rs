//! The image config: what an image wants run, and the digests of its layers.
//!
//! Source: OCI image-spec v1.1, config.md; Docker's own form differs only in members that are not read here.

use coffer_manifest::Sha256Digest;
use serde::Deserialize;

use super::error::shown;

/// Longest config that is read. Docker's largest, with a long build history, are tens of kilobytes.
pub const MAX_CONFIG_BYTES: u64 = 8 * 1024 * 1024;
/// SIGTERM on Linux: what an image that names no signal gets.
const SIGTERM: u8 = 15;
/// SIGRTMIN and SIGRTMAX as container engines number them.
const SIGRTMIN: u8 = 34;
const SIGRTMAX: u8 = 64;
/// Signal names by number, from 1 (Linux, x86-64: `bits/signum-generic.h` and `bits/signum-arch.h`).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT", "CHLD",
    "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// What an image says about itself, decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageConfig {
    /// SHA-256 of the config's bytes: the image ID.
    pub digest: Sha256Digest,
    /// Entrypoint, possibly empty.
    pub entrypoint: Vec<String>,
    /// Cmd, possibly empty.
    pub cmd: Vec<String>,
    /// `NAME=value`, in the image's order, no name twice.
    pub env: Vec<String>,
    /// User as the image has it: `""`, `name`, `uid`, either with `:group`; resolve it with `Container::user`.
    pub user: String,
    /// Absolute path; `/` if the image names none.
    pub workdir: String,
    /// Signal number of an orderly stop.
    pub stop_signal: u8,
    /// SHA-256 of each uncompressed layer, lowest first.
    pub diff_ids: Vec<Sha256Digest>,
}

impl ImageConfig {
    /// Reads a config.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let raw: RawImage = serde_json::from_slice(bytes).map_err(|source| ConfigError::Json { source })?;
        if (raw.os.as_str(), raw.architecture.as_str()) != ("linux", "amd64") {
            return Err(ConfigError::Platform { os: raw.os, architecture: raw.architecture });
        }
        if raw.rootfs.kind != "layers" {
            return Err(ConfigError::RootFs { got: raw.rootfs.kind });
        }
        let run = raw.config.unwrap_or_default();
        let image = Self {
            digest: Sha256Digest::of(bytes),
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            env: decide_env(run.env.unwrap_or_default())?,
            user: run.user.unwrap_or_default(),
            workdir: decide_workdir(&run.working_dir.unwrap_or_default())?,
            stop_signal: run.stop_signal.map_or(Ok(SIGTERM), |text| signal_number(&text))?,
            diff_ids: raw.rootfs.diff_ids.iter().map(|text| parse_digest(text)).collect::<Result<_, _>>()?,
        };
        for text in image.entrypoint.iter().chain(&image.cmd).chain(&image.env).chain([&image.user, &image.workdir]) {
            if text.contains('\0') {
                return Err(ConfigError::Nul { got: text.clone() });
            }
        }
        Ok(image)
    }
}

/// An image config is not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not the JSON it should be.
    #[error("image config is not valid: {source}")]
    Json {
        /// Where and why.
        source: serde_json::Error,
    },
    /// Made for another machine.
    #[error(
        "image is for {}/{}, expected linux/amd64\nhint: build or pull it with `--platform linux/amd64`",
        shown(os),
        shown(architecture)
    )]
    Platform {
        /// Operating system of the image.
        os: String,
        /// Processor architecture of the image.
        architecture: String,
    },
    /// Not made of layers.
    #[error("image config has rootfs type `{}`, expected `layers`", shown(got))]
    RootFs {
        /// The type given.
        got: String,
    },
    /// A digest is not `sha256:` and 64 lower-case digits.
    #[error("`{}` is not a digest of the form sha256:<64 lower-case hexadecimal digits>", shown(got))]
    Digest {
        /// The text.
        got: String,
    },
    /// An environment entry has no name.
    #[error("image environment has `{}`, expected NAME=value", shown(got))]
    Env {
        /// The entry.
        got: String,
    },
    /// Unknown stop signal.
    #[error("image names stop signal `{}`, expected a Linux signal name or 1 to 64", shown(got))]
    StopSignal {
        /// The text.
        got: String,
    },
    /// The working directory climbs.
    #[error("image names working directory `{}`, which has a `..` in it", shown(got))]
    WorkDir {
        /// The path.
        got: String,
    },
    /// A NUL where the kernel would cut the text.
    #[error("image config has a NUL character in `{}`", shown(got))]
    Nul {
        /// The text.
        got: String,
    },
}

#[derive(Deserialize)]
struct RawImage {
    os: String,
    architecture: String,
    config: Option<RawRun>,
    rootfs: RawRootFs,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct RawRun {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
}

#[derive(Deserialize)]
struct RawRootFs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Vec<String>,
}

/// Reads `sha256:<64 digits>`.
pub fn parse_digest(text: &str) -> Result<Sha256Digest, ConfigError> {
    text.strip_prefix("sha256:").and_then(|hex| hex.parse().ok()).ok_or_else(|| ConfigError::Digest { got: text.to_owned() })
}

/// Checks the form; of a name that occurs twice the last value stays, in the first one's place.
fn decide_env(entries: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let mut env: Vec<String> = Vec::with_capacity(entries.len());
    for entry in entries {
        let name = match entry.split_once('=') {
            Some((name, _)) if !name.is_empty() => format!("{name}="),
            _ => return Err(ConfigError::Env { got: entry }),
        };
        match env.iter_mut().find(|earlier| earlier.starts_with(&name)) {
            Some(earlier) => *earlier = entry,
            None => env.push(entry),
        }
    }
    Ok(env)
}

/// Makes the path absolute, as engines do, and drops empty and `.` components.
fn decide_workdir(path: &str) -> Result<String, ConfigError> {
    let mut clean = String::new();
    for component in path.split('/').filter(|component| !matches!(*component, "" | ".")) {
        if component == ".." {
            return Err(ConfigError::WorkDir { got: path.to_owned() });
        }
        clean.push('/');
        clean.push_str(component);
    }
    Ok(if clean.is_empty() { "/".to_owned() } else { clean })
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `RTMAX-1`.
fn signal_number(text: &str) -> Result<u8, ConfigError> {
    if text.is_empty() {
        return Ok(SIGTERM);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let listed = || SIGNALS.iter().position(|known| *known == name).and_then(|index| u8::try_from(index + 1).ok());
    let real_time = || match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(SIGRTMIN),
        (_, Some("")) => Some(SIGRTMAX),
        (Some(rest), _) => rest.strip_prefix('+')?.parse::<u8>().ok()?.checked_add(SIGRTMIN),
        (_, Some(rest)) => SIGRTMAX.checked_sub(rest.strip_prefix('-')?.parse().ok()?),
        (None, None) => None,
    };
    name.parse::<u8>()
        .ok()
        .or_else(listed)
        .or_else(|| real_time().filter(|n| *n >= SIGRTMIN))
        .filter(|n| (1..=SIGRTMAX).contains(n))
        .ok_or_else(|| ConfigError::StopSignal { got: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    fn config(run: &str) -> Result<ImageConfig, ConfigError> {
        let text = format!(r#"{{"os":"linux","architecture":"amd64","config":{run},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#);
        ImageConfig::parse(text.as_bytes())
    }

    #[test]
    fn reads_what_is_there_and_defaults_what_is_not() {
        let image = config(
            r#"{"Entrypoint":["bash","run.sh"],"Cmd":null,"Env":["PATH=/bin","A=1","A=2"],"User":"u:g","WorkingDir":"opt//x/.",
                "StopSignal":"SIGRTMIN+3","ExposedPorts":{"9092/tcp":{}},"OnBuild":null}"#,
        )
        .expect("a docker config");
        assert_eq!(image.entrypoint, ["bash", "run.sh"]);
        assert!(image.cmd.is_empty());
        assert_eq!(image.env, ["PATH=/bin", "A=2"]);
        assert_eq!((image.user.as_str(), image.workdir.as_str(), image.stop_signal), ("u:g", "/opt/x", 37));
        for empty in ["null", "{}"] {
            let image = config(empty).expect("an empty config");
            assert_eq!((image.workdir.as_str(), image.stop_signal), ("/", 15));
        }
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [("SIGTERM", 15), ("kill", 9), ("2", 2), ("SIGSYS", 31), ("RTMAX-1", 63), ("SIGRTMIN", 34), ("", 15)] {
            assert_eq!(signal_number(text).ok(), Some(number), "{text}");
        }
        for bad in ["0", "65", "SIGNOTHING", "RTMIN+31", "RTMAX-31", "RTMIN3", "-1"] {
            assert!(matches!(signal_number(bad), Err(ConfigError::StopSignal { .. })), "{bad}");
        }
    }

    #[test]
    fn each_rule_refuses_by_name() {
        assert!(matches!(config(r#"{"Env":["NOVALUE"]}"#), Err(ConfigError::Env { .. })));
        assert!(matches!(config(r#"{"Env":["=x"]}"#), Err(ConfigError::Env { .. })));
        assert!(matches!(config(r#"{"WorkingDir":"/a/../.."}"#), Err(ConfigError::WorkDir { .. })));
        assert!(matches!(config(r#"{"User":"a\u0000b"}"#), Err(ConfigError::Nul { .. })));
        assert!(matches!(config(r#"{"User":"a","User":"b"}"#), Err(ConfigError::Json { .. })));
        assert!(matches!(config(r#"{"Cmd":"sh"}"#), Err(ConfigError::Json { .. })));
        let other = |os, arch, kind, id| {
            let text = format!(r#"{{"os":"{os}","architecture":"{arch}","rootfs":{{"type":"{kind}","diff_ids":["{id}"]}}}}"#);
            ImageConfig::parse(text.as_bytes())
        };
        let id = format!("sha256:{}", "0".repeat(64));
        assert!(other("linux", "amd64", "layers", &*id).is_ok());
        assert!(matches!(other("linux", "arm64", "layers", &*id), Err(ConfigError::Platform { .. })));
        assert!(matches!(other("windows", "amd64", "layers", &*id), Err(ConfigError::Platform { .. })));
        assert!(matches!(other("linux", "amd64", "tarball", &*id), Err(ConfigError::RootFs { .. })));
        assert!(matches!(other("linux", "amd64", "layers", "sha512:00"), Err(ConfigError::Digest { .. })));
    }

    proptest! {
        #[test]
        fn parsing_is_total(bytes in prop::collection::vec(any::<u8>(), 0..512), text in "\\PC{0,40}") {
            let _ = ImageConfig::parse(&bytes);
            let _ = signal_number(&text);
            let _ = config(&text);
        }
    }
}
