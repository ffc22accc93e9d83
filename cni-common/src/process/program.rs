//! The machine's own programs, which are no plugins: iptables, modprobe, container engines.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a machine keeps its administrator's tools; looked through before `PATH`, which is the caller's.
pub const FOLDERS: [&str; 6] =
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/run/current-system/sw/bin"];

/// The program `name`.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    let folders = FOLDERS.iter().map(|folder| Path::new(folder).to_owned()).chain(path);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A run of `program` that depends on nothing in our environment.
#[must_use]
pub fn alone(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", FOLDERS.join(":"));
    command
}

/// The variables of ours that would make a dynamic linker run other code than what is called.
pub(super) fn linker_variables() -> impl Iterator<Item = OsString> {
    std::env::vars_os().map(|(name, _)| name).filter(|name| name.as_encoded_bytes().starts_with(b"LD_"))
}
