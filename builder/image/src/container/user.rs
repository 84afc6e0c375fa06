//! From an image's user to numbers, as OCI runtimes resolve it (moby/sys `user.GetExecUser`).

use coffer_manifest::User;

use super::error::shown;
use super::{Container, ContainerError};

/// Longest `/etc/passwd` or `/etc/group` that is read.
const MAX_DATABASE_BYTES: u64 = 4 * 1024 * 1024;
const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// The largest ID; one less than the value that means "no change" to chown(2) and setuid(2).
const MAX_ID: u32 = u32::MAX - 1;

/// A user cannot be resolved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// The name is not in the image.
    #[error("user `{}` is not in the image's {PASSWD}\nhint: use a numeric user ID", shown(name))]
    NoUser {
        /// The name asked for.
        name: String,
    },
    /// The group is not in the image.
    #[error("group `{}` is not in the image's {GROUP}\nhint: use a numeric group ID", shown(name))]
    NoGroup {
        /// The name asked for.
        name: String,
    },
    /// The database cannot be read.
    #[error(transparent)]
    Container(#[from] ContainerError),
}

pub fn resolve(container: &Container, spec: &str) -> Result<User, UserError> {
    let database = |path| -> Result<String, ContainerError> {
        let bytes = container.read_file(path, MAX_DATABASE_BYTES)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    resolve_in(spec, &database(PASSWD)?, &database(GROUP)?)
}

/// The rules: a number is an ID, never a name; the first line that fits wins; an explicit group leaves no others.
fn resolve_in(spec: &str, passwd: &str, group: &str) -> Result<User, UserError> {
    let (user, wanted_group) = spec.split_once(':').map_or((spec, ""), |(user, group)| (user, group));
    let user = if user.is_empty() { "0" } else { user };
    let found = match (parse_id(user), accounts(passwd)) {
        (Some(uid), mut all) => all.find(|account| account.uid == uid),
        (None, mut all) => all.find(|account| account.name == user),
    };
    let (name, uid, gid) = match (&found, parse_id(user)) {
        (Some(account), _) => (Some(account.name), account.uid, account.gid),
        (None, Some(uid)) => (None, uid, 0),
        (None, None) => return Err(UserError::NoUser { name: user.to_owned() }),
    };
    if !wanted_group.is_empty() {
        let by_name = || groups(group).find(|line| line.name == wanted_group).map(|line| line.gid);
        let gid = parse_id(wanted_group).or_else(by_name);
        let gid = gid.ok_or_else(|| UserError::NoGroup { name: wanted_group.to_owned() })?;
        return Ok(User { uid, gid, groups: Vec::new() });
    }
    let member = |line: &GroupLine<'_>| name.is_some_and(|name| line.members.split(',').any(|member| member == name));
    let mut supplementary: Vec<u32> = groups(group).filter(member).map(|line| line.gid).collect();
    supplementary.sort_unstable();
    supplementary.dedup();
    Ok(User { uid, gid, groups: supplementary })
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

struct GroupLine<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// passwd(5): name:password:UID:GID:GECOS:directory:shell. Lines that do not fit are skipped, as libc does.
fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = parse_id(fields.nth(1)?)?;
        let gid = parse_id(fields.next()?)?;
        Some(Account { name, uid, gid })
    })
}

/// group(5): name:password:GID:member,member.
fn groups(group: &str) -> impl Iterator<Item = GroupLine<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = parse_id(fields.nth(1)?)?;
        Some(GroupLine { name, gid, members: fields.next().unwrap_or_default().trim() })
    })
}

fn parse_id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|id| *id <= MAX_ID)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/sh\n# note\nbroken:x:y\nann:x:1000:100::/home/ann:/bin/sh\n42:x:7:7::/:/bin/sh\n";
    const GROUPS: &str = "root:x:0:\nadm:x:4:ann,root\nusers:x:100:\nvideo:x:44:bob,ann\nagain:x:44:ann\n";

    #[test]
    fn resolves_as_runtimes_do() {
        for (spec, uid, gid, groups) in [
            ("", 0, 0, &[4][..]),
            ("ann", 1000, 100, &[4, 44]),
            ("1000", 1000, 100, &[4, 44]),
            ("ann:video", 1000, 44, &[]),
            ("ann:7", 1000, 7, &[]),
            (":100", 0, 100, &[]),
            ("5000", 5000, 0, &[]),
            ("5000:6000", 5000, 6000, &[]),
            ("42", 42, 0, &[]),
        ] {
            let user = resolve_in(spec, USERS, GROUPS).unwrap_or_else(|error| panic!("{spec}: {error}"));
            assert_eq!(user, User { uid, gid, groups: groups.to_vec() }, "{spec}");
        }
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(matches!(resolve_in("bob", USERS, GROUPS), Err(UserError::NoUser { .. })));
        assert!(matches!(resolve_in("broken", USERS, GROUPS), Err(UserError::NoUser { .. })));
        assert!(matches!(resolve_in("4294967295", USERS, GROUPS), Err(UserError::NoUser { .. })));
        assert!(matches!(resolve_in("ann:nobody", USERS, GROUPS), Err(UserError::NoGroup { .. })));
    }

    proptest! {
        #[test]
        fn resolving_is_total(spec in "\\PC{0,20}", passwd in "[a-c0-9:,\n]{0,60}", group in "[a-c0-9:,\n]{0,60}") {
            let _ = resolve_in(&spec, &passwd, &group);
        }
    }
}
