//! Which config a new one replaces, and the counter it gets: `--supersedes`, `--overlap-days`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use coffer_manifest::{Enrollment, EnrollmentFile, HostData};
use zeroize::Zeroizing;

use super::BuildError;
use crate::cli::BuildArgs;
use crate::plan::{Plan, Project};

/// Counter of a site's first config, where its file does not say.
const FIRST_SVN: u32 = 1;
const DAY_SECONDS: u32 = 86_400;

/// What `--supersedes` was given.
#[derive(Clone, Debug)]
pub enum Supersedes {
    /// The HOST_DATA itself, where the enrollment file is lost.
    HostData(HostData),
    /// An enrollment file, or a directory with one for each site.
    Path(PathBuf),
}

impl FromStr for Supersedes {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::Path(text.into()), Self::HostData))
    }
}

/// The place of a new config in its site's history.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its counter.
    pub site_svn: u32,
    /// What it replaces.
    pub supersedes: Option<HostData>,
    /// For how long the old one may still be used.
    pub overlap_seconds: Option<u32>,
}

/// A config cannot follow the one it is to replace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuccessorError {
    /// One HOST_DATA for several sites.
    #[error("--supersedes names one config, but {got} sites are given")]
    OneForMany { got: usize },
    /// Not an enrollment file.
    #[error("{} is no enrollment", path.display())]
    NotAnEnrollment { path: PathBuf, source: coffer_manifest::DocumentError },
    /// Of another site.
    #[error("{} is the enrollment of {got}, not of {expected}", path.display())]
    OtherSite { path: PathBuf, got: String, expected: String },
    /// For another kind of machine.
    #[error("{} has root of trust {got}, this build has {expected}: no service has both", path.display())]
    OtherRoot { path: PathBuf, got: String, expected: String },
    /// Not newer.
    #[error("site_svn of {site} is {got}, the config it replaces has {old}")]
    Svn { site: String, got: u32, old: u32 },
    /// Nothing says what the counter was.
    #[error("site_svn of {site} is not given, and a HOST_DATA alone does not say what it must be higher than")]
    SvnUnknown { site: String },
    /// There is no higher one.
    #[error("site_svn of {site} is {old}, the highest there is")]
    SvnSpent { site: String, old: u32 },
}

impl SuccessorError {
    /// What the reader can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::OneForMany { .. } => "give the directory of their enrollment files, or build the site on its own",
            Self::NotAnEnrollment { .. } => "give out/enroll/<site>.json, as `coffer build` wrote it, or the directory it lies in",
            Self::OtherSite { .. } => "a config replaces one of its own site; the file's record says which site it is of",
            Self::OtherRoot { .. } => "a site changes between simulated and real as a new site, at another service",
            Self::Svn { .. } => "raise it, or leave site_svn out: it then is one more than the config it replaces",
            Self::SvnUnknown { .. } => "write a site_svn higher than `coffer-attest site show` says into the site's file",
            Self::SvnSpent { .. } => "give the participant a new site name",
        }
        .to_owned()
    }
}

/// Finds a plan's place.
///
/// # Errors
/// [`BuildError::Successor`], [`BuildError::Read`].
pub fn place(args: &BuildArgs, plan: &Plan, project: &Project, sites: usize) -> Result<Place, BuildError> {
    let overlap_seconds = args.overlap_days.map(|days| days * DAY_SECONDS);
    let site = || plan.site.to_string();
    let (supersedes, site_svn) = match &args.supersedes {
        None => (None, plan.site_svn.unwrap_or(FIRST_SVN)),
        Some(Supersedes::HostData(_)) if sites > 1 => return Err(SuccessorError::OneForMany { got: sites }.into()),
        Some(Supersedes::HostData(old)) => (Some(*old), plan.site_svn.ok_or_else(|| SuccessorError::SvnUnknown { site: site() })?),
        Some(Supersedes::Path(path)) => {
            let old = old_record(path, plan, project)?;
            let next = old.site_svn.checked_add(1).ok_or_else(|| SuccessorError::SvnSpent { site: site(), old: old.site_svn })?;
            let site_svn = plan.site_svn.unwrap_or(next);
            if site_svn < next {
                return Err(SuccessorError::Svn { site: site(), got: site_svn, old: old.site_svn }.into());
            }
            (Some(old.host_data), site_svn)
        }
    };
    Ok(Place { site_svn, supersedes, overlap_seconds })
}

/// The record of an enrollment file of this site; its secrets are wiped again.
fn old_record(path: &Path, plan: &Plan, project: &Project) -> Result<Enrollment, BuildError> {
    let path = if path.is_dir() { path.join(format!("{}.json", plan.site)) } else { path.to_owned() };
    let bytes = std::fs::read(&path).map(Zeroizing::new).map_err(|source| BuildError::Read { path: path.clone(), source })?;
    let read = EnrollmentFile::from_bytes(&bytes);
    let record = read.map_err(|source| SuccessorError::NotAnEnrollment { path: path.clone(), source })?.record;
    if (&record.project, &record.site) != (&project.name, &plan.site) {
        let (got, expected) = (format!("{}/{}", record.project, record.site), format!("{}/{}", project.name, plan.site));
        return Err(SuccessorError::OtherSite { path, got, expected }.into());
    }
    if record.root_of_trust != project.root_of_trust {
        let (got, expected) = (record.root_of_trust.to_string(), project.root_of_trust.to_string());
        return Err(SuccessorError::OtherRoot { path, got, expected }.into());
    }
    Ok(record)
}
