//! Network namespaces. [`Netns::run`] is the only way in, and it comes back out of it whatever happens inside: no
//! early return and no panic can leave us there.
//!
//! It switches the calling thread rather than starting one that ends inside: four system calls where a thread
//! costs thirty. Other threads stay where they are; whoever starts a thread does that outside.

use crate::spec::{Code, Coded, Error, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sched::CloneFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// An open network namespace, and the way back to our own.
#[derive(Debug)]
pub struct Netns {
    file: File,
    own: File,
}

impl Netns {
    /// Opens the namespace at `path`, the value of `CNI_NETNS`. Whether it is one shows when it is entered.
    ///
    /// # Errors
    /// Code 4 when there is nothing to open.
    pub fn open(path: &Path) -> Result<Self> {
        let doing = format!("failed to open netns {:?}", path.display());
        // O_NONBLOCK, or a FIFO would hold us until somebody writes to it.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = file.coded(Code::BAD_ENVIRONMENT, format!("CNI_NETNS: {doing}"))?;
        Ok(Self { file, own: open_own().io("open the plugin's own network namespace")? })
    }

    /// The number by which the kernel knows our own namespace, the one that we come back to.
    ///
    /// # Errors
    /// What fstat(2) says.
    pub fn own_inode(&self) -> io::Result<u64> {
        Ok(self.own.metadata()?.ino())
    }

    /// Runs `work` inside.
    ///
    /// # Errors
    /// Code 4 when this is a file, a folder, a FIFO or another kind of namespace; code 5 when it can't be entered; else what `work` says.
    pub fn run<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        enter(&self.file).map_err(|errno| match errno {
            Errno::EINVAL => Error::new(Code::BAD_ENVIRONMENT, "CNI_NETNS is not a network namespace")
                .details("want something like /run/netns/NAME or /proc/PID/ns/net"),
            _ => Error::new(Code::IO, "enter the container's network namespace")
                .details(format!("{errno}; the plugin needs CAP_SYS_ADMIN; run it as root")),
        })?;
        let result = catch_unwind(AssertUnwindSafe(work));
        if let Err(errno) = enter(&self.own) {
            // Every further step, the undo too, would hit the container instead of the host.
            crate::log!("can't return to the plugin's own network namespace: {errno}");
            std::process::abort();
        }
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

#[allow(clippy::disallowed_methods, reason = "the one door into a namespace")]
fn enter(netns: &File) -> nix::Result<()> {
    nix::sched::setns(netns, CloneFlags::CLONE_NEWNET)
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

const OWN: &str = "/proc/thread-self/ns/net";

/// Whether `path` is the calling thread's own network namespace; a path that can't be looked at is not.
#[must_use]
pub fn is_own(path: &Path) -> bool {
    let id = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    match (id(path), id(Path::new(OWN))) {
        (Ok(one), Ok(own)) => one == own,
        _ => false,
    }
}

/// Opens the calling thread's own network namespace, to look from it.
///
/// # Errors
/// What open(2) says.
pub fn open_own() -> io::Result<File> {
    File::open(OWN)
}
