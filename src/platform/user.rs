//! The user a server runs as (`-u`, and `-g` of the proxy).
//!
//! Owns finding and becoming it. The texts are memcached's.

use std::io;
use std::os::unix::fs::lchown;
use std::path::Path;

use nix::unistd::{self, Gid, Uid};

/// A user that was found, and the group to go with it.
#[derive(Clone, Debug)]
pub struct User {
    uid: Uid,
    gid: Gid,
}

/// Why there is no user to become. Displays as memcached's line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserError {
    /// We are root and no `-u` was given: exit status EX_USAGE.
    Root,
    /// Exit status EX_NOUSER.
    NoUser(String),
    /// Exit status EX_NOUSER.
    NoGroup(String),
}

impl std::fmt::Display for UserError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            UserError::Root => write!(f, "can't run as root without the -u switch"),
            UserError::NoUser(name) => write!(f, "can't find the user {name} to switch to"),
            UserError::NoGroup(name) => write!(f, "can't find the group {name} to switch to"),
        }
    }
}

impl std::error::Error for UserError {}

impl UserError {
    /// The status that the program exits with.
    pub fn exit_status(&self) -> i32 {
        match self {
            UserError::Root => super::EX_USAGE,
            UserError::NoUser(_) | UserError::NoGroup(_) => super::EX_NOUSER,
        }
    }
}

/// Is this process root (really or effectively)?
pub fn is_root() -> bool {
    Uid::current().is_root() || Uid::effective().is_root()
}

/// Finds whom to become: nobody (`None`) when this is not root, whatever `-u` says, as memcached
/// does it. A name comes before a number; a number needs no account.
///
/// # Errors
/// [`UserError`].
pub fn find(user: Option<&str>, group: Option<&str>) -> Result<Option<User>, UserError> {
    if !is_root() {
        return Ok(None);
    }
    let user = user.filter(|name| !name.is_empty()).ok_or(UserError::Root)?;
    lookup(user, group).map(Some)
}

fn lookup(user: &str, group: Option<&str>) -> Result<User, UserError> {
    let unknown = || UserError::NoUser(user.to_string());
    let by_name = unistd::User::from_name(user).ok().flatten();
    let account = match by_name {
        Some(account) => Ok(account),
        None => {
            let uid = Uid::from_raw(user.parse().map_err(|_| unknown())?);
            unistd::User::from_uid(uid).ok().flatten().ok_or(uid)
        }
    };
    let mut found = match account {
        Ok(account) => User { uid: account.uid, gid: account.gid },
        Err(uid) => User { uid, gid: Gid::from_raw(uid.as_raw()) },
    };
    if let Some(group) = group {
        found.gid = match unistd::Group::from_name(group).ok().flatten() {
            Some(group) => group.gid,
            None => {
                Gid::from_raw(group.parse().map_err(|_| UserError::NoGroup(group.to_string()))?)
            }
        };
    }
    Ok(found)
}

impl User {
    /// Makes `path` (a unix socket that root has bound) this user's.
    ///
    /// # Errors
    /// Not root, or the path is gone.
    pub fn give(&self, path: &Path) -> io::Result<()> {
        lchown(path, Some(self.uid.as_raw()), Some(self.gid.as_raw()))
    }

    /// Becomes this user for good: supplementary groups (none, as memcached), group, user. Before
    /// threads start. Looking up the groups would load the name services' libraries, half a
    /// megabyte that stays.
    ///
    /// # Errors
    /// The sentence to print before exiting with EX_OSERR.
    pub fn assume(&self) -> Result<(), String> {
        let groups = unistd::setgroups(&[]);
        // A container may be root and yet not be allowed to change groups; being root still works.
        if let (Err(error), false) = (groups, self.uid.is_root()) {
            return Err(format!("failed to drop supplementary groups: {}", error.desc()));
        }
        let failed = |id: u32, error: nix::Error| {
            format!("failed to assume identity of user {id}: {}", error.desc())
        };
        let uid = self.uid.as_raw();
        unistd::setgid(self.gid).map_err(|error| failed(uid, error))?;
        unistd::setuid(self.uid).map_err(|error| failed(uid, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let root = lookup("root", None).unwrap();
        assert_eq!((root.uid.as_raw(), root.gid.as_raw()), (0, 0));
        let by_number = lookup("0", None).unwrap();
        assert_eq!((by_number.uid, by_number.gid), (root.uid, root.gid));
        let bare = lookup("4000123456", Some("4000123457")).unwrap();
        assert_eq!((bare.uid.as_raw(), bare.gid.as_raw()), (4_000_123_456, 4_000_123_457));
    }

    #[test]
    fn unknown_ones_are_named() {
        let error = lookup("no such user", None).unwrap_err();
        assert_eq!(error.to_string(), "can't find the user no such user to switch to");
        assert_eq!(error.exit_status(), 67);
        let error = lookup("root", Some("no such group")).unwrap_err();
        assert_eq!(error.to_string(), "can't find the group no such group to switch to");
    }
}
