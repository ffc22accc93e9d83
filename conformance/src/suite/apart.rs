//! Away from the machine: everything happens in namespaces of our own.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

/// The programs that looking at a machine takes.
const TOOLS: [&str; 6] = ["ip", "tc", "bridge", "nft", "nsenter", "ping"];

/// Moves this process, which must not have threads yet, into namespaces of its own: network, mounts and, without root, users.
/// The folders that plugins keep state in by default are empty there.
///
/// # Errors
/// When namespaces can't be had, or a tool is missing.
pub fn enter(plugin_dirs: &[&Path]) -> io::Result<()> {
    let (uid, gid) = (getuid(), getgid());
    let mut flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    if !uid.is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).map_err(|errno| {
        let hint = "run as root, or let users make namespaces (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces)";
        io::Error::other(format!("no namespaces of our own: {errno}; {hint}"))
    })?;
    if !uid.is_root() {
        // user_namespaces(7): without this, gid_map can't be written.
        write("/proc/self/setgroups", "deny")?;
        write("/proc/self/uid_map", &format!("0 {uid} 1"))?;
        write("/proc/self/gid_map", &format!("0 {gid} 1"))?;
    }
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    for folder in ["/run", "/var/lib/cni"] {
        let folder = Path::new(folder);
        let needed = plugin_dirs.iter().any(|dir| dir.starts_with(folder));
        if folder.is_dir() && !needed {
            mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
                .map_err(|errno| io::Error::other(format!("a {} of our own: {errno}", folder.display())))?;
        }
    }
    check_tools()
}

/// `/proc` files take a text in one write, and are there already.
fn write(path: &str, text: &str) -> io::Result<()> {
    use std::io::Write;
    let written =
        fs::File::options().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| io::Error::other(format!("{path}: {error}")))
}

fn check_tools() -> io::Result<()> {
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let missing = |tool: &&str| !path.split(':').any(|dir| Path::new(dir).join(tool).is_file());
    let missing: Vec<&str> = TOOLS.into_iter().filter(missing).collect();
    if !missing.is_empty() {
        let why = format!(
            "missing programs: {} (Debian: iproute2, nftables, util-linux, iputils-ping)",
            missing.join(", ")
        );
        return Err(io::Error::other(why));
    }
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    if up.success() { Ok(()) } else { Err(io::Error::other("ip link set lo up failed in a new namespace")) }
}
