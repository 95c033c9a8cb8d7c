//! A server's folder, and the user who owns it.

use std::{
    io,
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use nix::unistd::User;

use super::Unavailable;

/// Another user than the one who runs the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    /// `None` for whoever runs the tests; but instead of root one of these users: some servers refuse root.
    pub(super) fn not_root(users: &[&str]) -> Result<Option<Self>, Unavailable> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(None);
        }
        let found = users.iter().find_map(|name| User::from_name(name).ok().flatten());
        let user = found.ok_or_else(|| {
            Unavailable::new(format!("it does not run as root, and there is no user {}", users.join(" or ")))
        })?;
        Ok(Some(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }

    /// Makes the command run as this user.
    pub(super) fn run(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }
}

/// A new folder with a short path, because paths of sockets are limited to about 100 bytes. The supervisor of the
/// server in it removes it.
pub(super) fn create(kind: &str, owner: Option<Owner>) -> io::Result<PathBuf> {
    // The temporary folder of root may be closed to others.
    let base = if owner.is_some() { PathBuf::from("/tmp") } else { std::env::temp_dir() };
    loop {
        let path = base.join(format!("coord-{kind}-{:010x}", fastrand::u64(0..1 << 40)));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {
                give(&path, owner)?;
                return Ok(path);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes a file that only the server reads.
pub(super) fn write(path: &Path, text: &str, owner: Option<Owner>) -> io::Result<()> {
    write_bytes(path, text.as_bytes(), owner)
}

/// The same, of bytes.
pub(super) fn write_bytes(path: &Path, bytes: &[u8], owner: Option<Owner>) -> io::Result<()> {
    std::fs::write(path, bytes)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    give(path, owner)
}

fn give(path: &Path, owner: Option<Owner>) -> io::Result<()> {
    match owner {
        Some(owner) => chown(path, Some(owner.uid), Some(owner.gid)),
        None => Ok(()),
    }
}
