//! The process that becomes the workload: gives up every right the workload does not get, then executes its program.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;

use coffer_manifest::{Container, SiteConfig, User};
use coffer_sys::process::unblock_signals;
use rustix::fs::{Gid, Mode, Uid, fchown};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit, setsid, umask};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::{WorkloadError, doing, receive_site};

/// What a workload that runs as root may do in its container: own and change its files, become another user, use low ports.
/// Nothing that reaches the kernel, the devices, the network's configuration or another process's memory.
const ROOT_CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::NET_BIND_SERVICE);
/// Capabilities the kernel may know; the highest today is 40.
const CAPABILITY_NUMBERS: u32 = 64;
/// Open files: enough for a federation's server, and what `fs.nr_open` allows.
const OPEN_FILES: Rlimit = Rlimit { current: Some(65_536), maximum: Some(1 << 20) };
/// What a process without a PATH of its own searches.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Becomes the workload, or says why not and ends.
pub fn run_exec() -> ! {
    if let Ok((mut control, site)) = receive_site("/dev/null") {
        let error = become_workload(&site);
        // If even the init is gone, there is nobody to tell.
        let _ = control.write_all(error.to_string().as_bytes());
    }
    std::process::exit(127)
}

/// Returns only with an error.
fn become_workload(site: &SiteConfig) -> WorkloadError {
    let container = &site.container;
    if let Err(error) = drop_rights(&container.user) {
        return doing("give up rights")(error);
    }
    if let Err(error) = std::env::set_current_dir(&container.workdir) {
        return WorkloadError::NotStarted(format!("cannot enter workdir {}: {error}", container.workdir));
    }
    let Some((program, arguments)) = container.command.split_first() else {
        return WorkloadError::NotStarted("container.command is empty".to_owned());
    };
    let error = Command::new(program).args(arguments).env_clear().envs(environment(container)).exec();
    WorkloadError::NotStarted(format!("cannot run {program}: {error}"))
}

fn environment(container: &Container) -> impl Iterator<Item = (&str, &str)> {
    let has_path = container.env.iter().any(|variable| variable.starts_with("PATH="));
    let default = (!has_path).then_some(DEFAULT_PATH);
    default.into_iter().chain(container.env.iter().map(String::as_str)).filter_map(|variable| variable.split_once('='))
}

/// In the one order that works: what needs rights first, the rights themselves last.
fn drop_rights(user: &User) -> io::Result<()> {
    setsid()?;
    umask(Mode::from_raw_mode(0o022));
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    setrlimit(Resource::Nofile, OPEN_FILES)?;
    unblock_signals()?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    // Programs open /dev/stdout and /dev/stderr by name: the pipe must be theirs.
    fchown(io::stdout(), Some(uid), Some(gid))?;
    fchown(io::stderr(), Some(uid), Some(gid))?;

    let keep = if user.uid == 0 { ROOT_CAPABILITIES } else { CapabilitySet::empty() };
    clear_ambient_capability_set()?;
    for number in 0..CAPABILITY_NUMBERS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if !keep.contains(capability) {
            match remove_capability_from_bounding_set(capability) {
                // The kernel knows no capability of this number.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    set_capabilities(None, CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() })?;
    Ok(set_no_new_privs(true)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_the_site_configs() {
        let mut container = crate::workload::tests::site("amd-sev-snp").container;
        container.env = vec!["A=1".into(), "B=x=y".into()];
        let variables: Vec<_> = environment(&container).collect();
        assert_eq!(variables[1..], [("A", "1"), ("B", "x=y")]);
        assert_eq!(variables[0].0, "PATH");
        container.env.push("PATH=/opt".into());
        assert_eq!(environment(&container).filter(|(name, _)| *name == "PATH").collect::<Vec<_>>(), [("PATH", "/opt")]);
    }

    #[test]
    fn no_workload_gets_a_capability_over_the_machine() {
        let dangerous = [
            CapabilitySet::SYS_ADMIN,
            CapabilitySet::SYS_MODULE,
            CapabilitySet::SYS_RAWIO,
            CapabilitySet::SYS_PTRACE,
            CapabilitySet::SYS_CHROOT,
            CapabilitySet::SYS_BOOT,
            CapabilitySet::MKNOD,
            CapabilitySet::NET_ADMIN,
            CapabilitySet::NET_RAW,
            CapabilitySet::SETPCAP,
            CapabilitySet::SETFCAP,
            CapabilitySet::DAC_READ_SEARCH,
        ];
        for capability in dangerous {
            assert!(!ROOT_CAPABILITIES.intersects(capability), "{capability:?}");
        }
    }
}
