//! Fetches packages with the distribution's own client, through an apt root of our own.
//!
//! The machine's apt state is neither read nor changed; only its mirror, proxies and archive keys are used.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::BaseError;

/// Where a package comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Suites {
    /// Debian 13 with its security updates: the kernel.
    Trixie,
    /// Unstable, the only suite with `ovmf-amdsev` beside testing: the firmware.
    Sid,
}

/// A package and its version, as apt names them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Package name.
    pub package: String,
    /// Debian version.
    pub version: String,
}

/// An apt root with fresh package lists of some suites.
pub struct Apt {
    root: PathBuf,
    suites: Suites,
}

const KEYRINGS: [&str; 2] = ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

/// Suites whose presence in the machine's sources makes an entry a mirror of Debian's main archive.
const DEBIAN_SUITES: [&str; 8] = ["bookworm", "trixie", "forky", "duke", "sid", "stable", "testing", "unstable"];

impl Apt {
    /// Makes an apt root in the empty directory `root` and fetches its package lists.
    ///
    /// # Errors
    /// [`BaseError::NoKeyring`], [`BaseError::NoMirror`], [`BaseError::Spawn`] where there is no apt, [`BaseError::Apt`]
    /// if no mirror of this machine's has the suites.
    pub fn new(root: PathBuf, suites: Suites) -> Result<Self, BaseError> {
        for directory in ["etc", "state/lists/partial", "cache/archives/partial", "download"] {
            let path = root.join(directory);
            fs::create_dir_all(&path).map_err(|error| BaseError::File { action: "create", path, error })?;
        }
        let apt = Self { root, suites };
        apt.write("state/status", "")?;
        let keyring = KEYRINGS.into_iter().find(|path| Path::new(path).exists());
        let keyring = keyring.ok_or_else(|| BaseError::NoKeyring { paths: KEYRINGS.to_vec() })?;
        let mirrors = apt.mirrors()?;
        let mut result = Err(BaseError::NoMirror);
        for main in &mirrors.main {
            apt.write("etc/sources.list", &sources(suites, keyring, main, mirrors.security.first().map(String::as_str)))?;
            result = apt.run("apt-get", &apt.own_sources(), &["update"]).map(|_| ());
            if result.is_ok() {
                return Ok(apt);
            }
        }
        result.map(|()| apt)
    }

    /// The newest version of the kernel or firmware that the suites have.
    ///
    /// `linux-image-cloud-amd64` is a package without contents; the image it depends on is what is returned for it.
    ///
    /// # Errors
    /// [`BaseError::NoCandidate`], [`BaseError::Apt`].
    pub fn newest(&self) -> Result<Candidate, BaseError> {
        let package = match self.suites {
            Suites::Trixie => "linux-image-cloud-amd64",
            Suites::Sid => "ovmf-amdsev",
        };
        let shown = self.run("apt-cache", &self.own_sources(), &["show", "--no-all-versions", package]);
        let candidate = shown.ok().and_then(|text| match self.suites {
            Suites::Trixie => image_dependency(&text),
            Suites::Sid => field(&text, "Version").map(|v| Candidate { package: package.to_owned(), version: v.to_owned() }),
        });
        candidate.ok_or_else(|| BaseError::NoCandidate { package, suites: format!("{:?}", self.suites).to_lowercase() })
    }

    /// Whether the suites have exactly this version.
    ///
    /// # Errors
    /// [`BaseError::Apt`].
    pub fn has(&self, package: &str, version: &str) -> Result<bool, BaseError> {
        // Prints ` package | version | source` lines, and nothing at all for a package it does not know.
        let text = self.run("apt-cache", &self.own_sources(), &["madison", package])?;
        Ok(text.lines().any(|line| line.split('|').nth(1).is_some_and(|v| v.trim() == version)))
    }

    /// Fetches a package and gives the .deb's bytes. apt has checked them against the signed package lists.
    ///
    /// # Errors
    /// [`BaseError::Apt`], [`BaseError::File`].
    pub fn download(&self, package: &str, version: &str) -> Result<Vec<u8>, BaseError> {
        let directory = self.root.join("download").join(package);
        let refuse = |action, error| BaseError::File { action, path: directory.clone(), error };
        fs::create_dir_all(&directory).map_err(|e| refuse("create", e))?;
        let mut command = self.command("apt-get", &self.own_sources(), &["download", &format!("{package}={version}")]);
        output(command.current_dir(&directory))?;
        let mut entries = fs::read_dir(&directory).map_err(|e| refuse("read", e))?;
        let not_there = || io_error("apt-get download left no file");
        let file = entries.next().ok_or_else(not_there).and_then(|entry| entry).map_err(|e| refuse("read", e))?;
        fs::read(file.path()).map_err(|error| BaseError::File { action: "read", path: file.path(), error })
    }

    fn write(&self, name: &str, text: &str) -> Result<(), BaseError> {
        let path = self.root.join(name);
        fs::write(&path, text).map_err(|error| BaseError::File { action: "write", path, error })
    }

    /// The mirrors this machine's own sources name, in their order.
    fn mirrors(&self) -> Result<Mirrors, BaseError> {
        let text = self.run("apt-get", &[], &["update", "--print-uris"])?;
        Ok(Mirrors::from_uris(&text))
    }

    /// Options that replace the machine's sources and preferences by ours.
    fn own_sources(&self) -> Vec<OsString> {
        let set = |key: &str, value: &Path| {
            let mut option = OsString::from(format!("-o{key}="));
            option.push(value);
            option
        };
        vec![
            set("Dir::Etc::SourceList", &self.root.join("etc/sources.list")),
            set("Dir::Etc::SourceParts", Path::new("/dev/null")),
            set("Dir::Etc::Preferences", Path::new("/dev/null")),
            set("Dir::Etc::PreferencesParts", Path::new("/dev/null")),
            "-oAPT::Default-Release=".into(),
            // A list that cannot be fetched is an error, not a warning.
            "-oAPT::Update::Error-Mode=any".into(),
            // Mirrors lag and clocks are wrong. An old list can only name an old package: base.lock decides what is taken, and
            // where it is not asked, both versions are printed.
            "-oAcquire::Check-Valid-Until=false".into(),
            "-oAcquire::Check-Date=false".into(),
        ]
    }

    fn command(&self, program: &str, options: &[OsString], arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").env_remove("APT_CONFIG");
        for (key, name) in
            [("Dir::State", "state"), ("Dir::State::Lists", "state/lists"), ("Dir::State::status", "state/status"), ("Dir::Cache", "cache")]
        {
            let mut option = OsString::from(format!("-o{key}="));
            option.push(self.root.join(name));
            command.arg(option);
        }
        command.args(["-q", "-oAPT::Architecture=amd64", "-oAPT::Architectures=amd64", "-oAPT::Sandbox::User=root"]);
        command.args(["-oAcquire::Languages=none", "-oAcquire::Retries=3"]).args(options).args(arguments);
        command
    }

    fn run(&self, program: &str, options: &[OsString], arguments: &[&str]) -> Result<String, BaseError> {
        output(&mut self.command(program, options, arguments))
    }
}

fn io_error(text: &'static str) -> std::io::Error {
    std::io::Error::other(text)
}

/// Runs a program to its end and gives its stdout.
fn output(command: &mut Command) -> Result<String, BaseError> {
    let shown = || {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|w| w.to_string_lossy()).filter(|w| !w.starts_with("-o")).collect::<Vec<_>>().join(" ")
    };
    let shown = shown();
    let out = command.output().map_err(|error| BaseError::Spawn { command: shown.clone(), error })?;
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        return Err(BaseError::Apt { command: shown, status: out.status, stderr });
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The lines of our own sources.list.
fn sources(suites: Suites, keyring: &str, main: &str, security: Option<&str>) -> String {
    let line = |uri: &str, suite: &str| format!("deb [signed-by={keyring} target=Packages] {uri} {suite} main\n");
    match suites {
        Suites::Trixie => line(main, "trixie") + &security.map(|uri| line(uri, "trixie-security")).unwrap_or_default(),
        Suites::Sid => line(main, "sid"),
    }
}

#[derive(PartialEq, Eq, Debug, Default)]
struct Mirrors {
    main: Vec<String>,
    security: Vec<String>,
}

impl Mirrors {
    /// From `apt-get update --print-uris`: lines `'<repository>/dists/<suite>/InRelease' …`.
    fn from_uris(text: &str) -> Self {
        let mut mirrors = Self::default();
        for line in text.lines() {
            let uri = line.split('\'').nth(1).and_then(|uri| uri.strip_suffix("/InRelease"));
            let Some((repository, suite)) = uri.and_then(|uri| uri.rsplit_once("/dists/")) else { continue };
            let main = DEBIAN_SUITES.contains(&suite);
            let security = suite.strip_suffix("-security").is_some_and(|s| DEBIAN_SUITES.contains(&s));
            let list = match (main, security) {
                (true, _) => &mut mirrors.main,
                (_, true) => &mut mirrors.security,
                _ => continue,
            };
            if !list.iter().any(|known| known == repository) {
                list.push(repository.to_owned());
            }
        }
        // Third parties use the same suite names. Debian's path is `debian`; a wrong guess fails at the signature.
        mirrors.main.sort_by_key(|uri| !uri.ends_with("/debian"));
        mirrors
    }
}

/// The value of a field in the first stanza.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines().take_while(|line| !line.is_empty());
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// The image in `Depends: linux-image-6.12.…-cloud-amd64 (= 6.12.…-1), …`.
fn image_dependency(text: &str) -> Option<Candidate> {
    field(text, "Depends")?.split(',').find_map(|dependency| {
        let (package, version) = dependency.trim().split_once(" (= ")?;
        package
            .starts_with("linux-image-")
            .then(|| Candidate { package: package.to_owned(), version: version.trim_end_matches(')').to_owned() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_read_from_the_machines_sources() {
        let text = "'https://third.example/linux/dists/trixie/InRelease' third 0 \n\
            'http://mirror.example/debian/dists/trixie/InRelease' mirror_x 0 \n\
            'http://mirror.example/debian/dists/trixie-updates/InRelease' mirror_y 0 \n\
            'http://mirror.example/debian/dists/trixie/main/binary-amd64/Packages.xz' z 0 \n\
            'mirror+file:/etc/apt/mirrors/security.list/dists/trixie-security/InRelease' s 0 \n\
            'https://other.example/repo/dists/nodistro/InRelease' o 0 \n";
        let expected = Mirrors {
            main: vec!["http://mirror.example/debian".into(), "https://third.example/linux".into()],
            security: vec!["mirror+file:/etc/apt/mirrors/security.list".into()],
        };
        assert_eq!(Mirrors::from_uris(text), expected);
        assert_eq!(Mirrors::from_uris(""), Mirrors::default());
    }

    #[test]
    fn sources_take_security_where_there_is_one() {
        let text = sources(Suites::Trixie, "/k.gpg", "http://m/debian", Some("http://m/security"));
        assert_eq!(
            text,
            "deb [signed-by=/k.gpg target=Packages] http://m/debian trixie main\n\
             deb [signed-by=/k.gpg target=Packages] http://m/security trixie-security main\n"
        );
        assert_eq!(sources(Suites::Trixie, "/k.gpg", "http://m/debian", None).lines().count(), 1);
        assert!(sources(Suites::Sid, "/k.gpg", "http://m/debian", Some("x")).ends_with(" http://m/debian sid main\n"));
    }

    #[test]
    fn the_image_behind_the_meta_package_is_found() {
        let text = "Package: linux-image-cloud-amd64\nVersion: 6.12.117-1\n\
            Depends: linux-base (= 1), linux-image-6.12.117+deb13-cloud-amd64 (= 6.12.117-1)\n\nPackage: x\nVersion: 9\n";
        let image = image_dependency(text).unwrap();
        assert_eq!((image.package.as_str(), image.version.as_str()), ("linux-image-6.12.117+deb13-cloud-amd64", "6.12.117-1"));
        assert_eq!(field(text, "Version"), Some("6.12.117-1"));
        assert_eq!(field(text, "Missing"), None);
        assert!(image_dependency("Depends: linux-base (= 1)\n").is_none());
    }
}
